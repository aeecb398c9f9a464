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

/* NULL if the model has no such token. */
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
    /* The tokenizer adds BOS and EOS, which the template may also have written: remove the duplicates. */
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

/* ---- two texts ------------------------------------------------------------------------------------------------------
 */

#define PAIR_PARTS 64

/* Fills the two texts into the template, and notes where they are. */
static hypura_status fill_in(struct buffer *out, struct text_range *plain, size_t *count, const char *template,
                             const struct prompt_pair *pair, hypura_error *error)
{
    static const char *const names[] = {"{query}", "{document}"};
    const char *const texts[] = {pair->query, pair->text};
    const size_t sizes[] = {pair->query_size, pair->text_size};
    *count = 0;
    while (*template) {
        size_t which = 0;
        while (which < COUNT_OF(names) && strncmp(template, names[which], strlen(names[which])) != 0)
            which++;
        if (which == COUNT_OF(names)) {
            buffer_append_char(out, *template ++);
            continue;
        }
        if (*count == PAIR_PARTS)
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "the model's template for re-ranking has more than %d placeholders", PAIR_PARTS);
        plain[(*count)++] = (struct text_range){out->size, out->size + sizes[which]};
        buffer_append(out, texts[which], sizes[which]);
        template += strlen(names[which]);
    }
    return out->failed ? error_set(error, HYPURA_ERROR_MEMORY, "no memory for a query and a text") : HYPURA_OK;
}

static hypura_status append_special(struct token_array *tokens, bool wanted, int32_t id, hypura_error *error)
{
    return wanted && id != NO_TOKEN ? token_array_append(tokens, id, error) : HYPURA_OK;
}

/* Tokenizes the two texts one after the other. */
static hypura_status append_pair(const struct vocabulary *v, const struct prompt_pair *pair,
                                 const struct work_watch *watch, struct token_array *tokens, hypura_error *error)
{
    const int32_t separator = vocabulary_special(v, SPECIAL_SEPARATOR), own = vocabulary_special(v, SPECIAL_EOS);
    const int32_t end = own == NO_TOKEN ? separator : own;
    hypura_status status = append_special(tokens, vocabulary_adds_bos(v), vocabulary_special(v, SPECIAL_BOS), error);
    if (!status)
        status = vocabulary_tokenize_watched(v, pair->query, pair->query_size, 0, watch, tokens, error);
    if (!status)
        status = append_special(tokens, vocabulary_adds_eos(v), end, error);
    if (!status)
        status = append_special(tokens, vocabulary_adds_separator(v), separator, error);
    if (!status)
        status = vocabulary_tokenize_watched(v, pair->text, pair->text_size, 0, watch, tokens, error);
    return status ? status : append_special(tokens, vocabulary_adds_eos(v), end, error);
}

hypura_status prompt_tokenize_pair(const struct vocabulary *vocabulary, const struct gguf *file,
                                   const struct prompt_pair *pair, const struct work_watch *watch,
                                   struct token_array *tokens, hypura_error *error)
{
    struct gguf_string template;
    struct text_range plain[PAIR_PARTS];
    struct buffer text = {0};
    size_t count;
    if (!gguf_get_string(file, "tokenizer.chat_template.rerank", &template))
        return append_pair(vocabulary, pair, watch, tokens, error);
    hypura_status status = fill_in(&text, plain, &count, template.data, pair, error);
    if (!status)
        status = vocabulary_tokenize_ranges(vocabulary, text.data ? text.data : "", text.size, 0, plain, count, watch,
                                            tokens, error);
    buffer_free(&text);
    return status;
}
