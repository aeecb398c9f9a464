/* prompt: turns a chat, or a query and a text, into tokens for the model. Only what the template writes can become
 * special tokens; what a user writes never does. */
#ifndef HYPURA_PROMPT_H
#define HYPURA_PROMPT_H

#include "format/format.h"
#include "template/template.h"
#include "tokenizer/vocabulary.h"

/* Opens the model's chat template, or ChatML if it has none. variant: a template's name, such as "tool_use", preferred
 * if the model has it; NULL: none. Free *out with chat_template_free. */
hypura_status prompt_open_template(struct chat_template **out, const struct gguf *file, const char *variant,
                                   hypura_error *error);

/* The value for chat_input.now: seconds of the local wall clock. */
int64_t prompt_now(void);

/* Renders a chat for the tokenizer: without the BOS and EOS that the tokenizer adds. Sets the input's bos_text and
 * eos_text itself. Free *out with rendered_text_free. */
hypura_status prompt_render_chat(const struct chat_template *template, const struct vocabulary *vocabulary,
                                 const struct chat_input *input, struct rendered_text *out, hypura_error *error);

/* Renders and tokenizes a chat, under input->watch. Sets the input's bos_text and eos_text itself. If text is not NULL,
 * the rendered text goes there; free it with rendered_text_free. */
hypura_status prompt_from_chat(const struct chat_template *template, const struct vocabulary *vocabulary,
                               const struct chat_input *input, struct token_array *tokens, struct rendered_text *text,
                               hypura_error *error);

/* A query and a text that may answer it, for a re-ranker. If the file has a template for them
 * (tokenizer.chat_template.rerank), they replace its {query} and {document}. Otherwise one follows the other, with the
 * BOS, EOS and separator that the model uses: BOS query EOS separator text EOS. */
struct prompt_pair {
    const char *query;
    size_t query_size;
    const char *text;
    size_t text_size;
};
hypura_status prompt_tokenize_pair(const struct vocabulary *vocabulary, const struct gguf *file,
                                   const struct prompt_pair *pair, const struct work_watch *watch,
                                   struct token_array *tokens, hypura_error *error);

#endif
