#include "engine/prompt.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

hypura_status prompt_open_template(struct chat_template **out, const struct gguf *file, const char *variant,
                                   hypura_error *error)
{
    struct gguf_string source = {chat_template_default, strlen(chat_template_default)};
    char key[128];
    bool found = false;
    if (variant) {
        snprintf(key, sizeof key, "tokenizer.chat_template.%s", variant);
        found = gguf_get_string(file, key, &source);
    }
    if (!found)
        gguf_get_string(file, "tokenizer.chat_template", &source);
    hypura_status status = chat_template_parse(out, source.data, source.size, error);
    return status ? error_prefix(error, "the model's chat template") : HYPURA_OK;
}

int64_t prompt_now(void)
{
    time_t now = time(NULL);
    struct tm local;
    return (int64_t)now + (localtime_r(&now, &local) ? local.tm_gmtoff : 0);
}

/* NULL for a token that the model does not have. */
static const char *special_text(const struct vocabulary *vocabulary, enum special_token which)
{
    int32_t id = vocabulary_special(vocabulary, which);
    return id == NO_TOKEN ? NULL : vocabulary_text(vocabulary, id).data;
}

hypura_status prompt_render_chat(const struct chat_template *template, const struct vocabulary *vocabulary,
                                 const struct chat_input *input, struct rendered_text *out, hypura_error *error)
{
    struct chat_input complete = *input;
    complete.bos_text = special_text(vocabulary, SPECIAL_BOS);
    complete.eos_text = special_text(vocabulary, SPECIAL_EOS);
    hypura_status status = chat_render(template, &complete, out, error);
    /* The tokenizer adds these itself; a template that writes them too would double them. */
    if (!status)
        chat_strip_bos(out, vocabulary_adds_bos(vocabulary) ? complete.bos_text : NULL,
                       vocabulary_adds_eos(vocabulary) ? complete.eos_text : NULL);
    return status;
}

hypura_status prompt_from_chat(const struct chat_template *template, const struct vocabulary *vocabulary,
                               const struct chat_input *input, struct token_array *tokens, struct rendered_text *text,
                               hypura_error *error)
{
    struct rendered_text rendered = {0};
    hypura_status status = prompt_render_chat(template, vocabulary, input, &rendered, error);
    if (status)
        return status;
    status = vocabulary_tokenize_ranges(vocabulary, rendered.text, rendered.size,
                                        TOKENIZE_ADD_SPECIAL | TOKENIZE_PARSE_SPECIAL, rendered.user,
                                        rendered.user_count, input->watch, tokens, error);
    if (text && !status)
        *text = rendered;
    else
        rendered_text_free(&rendered);
    return status;
}
