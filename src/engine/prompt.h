/* prompt: a chat, or plain text, as the tokens that the model is given. Special tokens are made from what the template
 * writes, never from what a user wrote. */
#ifndef HYPURA_PROMPT_H
#define HYPURA_PROMPT_H

#include "format/format.h"
#include "template/template.h"
#include "tokenizer/vocabulary.h"

/* The model's own chat template (a variant by name, such as "tool_use", when it has that one), or ChatML when it has
 * none. */
hypura_status prompt_open_template(struct chat_template **out, const struct gguf *file, const char *variant,
                                   hypura_error *error);

/* What chat_input.now wants: seconds of the local wall clock. */
int64_t prompt_now(void);

/* Renders a chat as the tokenizer is to get it: without the BOS and EOS that it adds itself. bos_text and eos_text of
 * the input are filled in here. */
hypura_status prompt_render_chat(const struct chat_template *template, const struct vocabulary *vocabulary,
                                 const struct chat_input *input, struct rendered_text *out, hypura_error *error);

/* Renders and tokenizes a chat, under the input's watch; bos_text and eos_text of the input are filled in here. The
 * rendered text goes to *text when that is not NULL (free it with rendered_text_free). */
hypura_status prompt_from_chat(const struct chat_template *template, const struct vocabulary *vocabulary,
                               const struct chat_input *input, struct token_array *tokens, struct rendered_text *text,
                               hypura_error *error);

/* A query and a text that may answer it, as a re-ranker is given them: in the file's template for that
 * (tokenizer.chat_template.rerank: {query} and {document} stand for them), or one behind the other, with the BOS, EOS and
 * separator that the model asks for: BOS query EOS separator text EOS. */
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
