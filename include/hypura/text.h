/* Text into tokens and back, and chats into prompts. Works from any thread, and with options.text_only too. */
#ifndef HYPURA_API_TEXT_H
#define HYPURA_API_TEXT_H

#include <hypura/model.h>

HYPURA_BEGIN

#define HYPURA_NO_TOKEN (-1)

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

enum hypura_tokenize_flag {
    HYPURA_ADD_SPECIAL = 1,  /* begin and end the text with the tokens that the model asks for */
    HYPURA_PARSE_SPECIAL = 2 /* the text of a control token, such as <|im_end|>, becomes that token */
};

/* *tokens is the caller's (hypura_free), [*count]. text: size bytes, at most 256 MiB; it need not be UTF-8. flags: of
 * hypura_tokenize_flag. */
HYPURA_API hypura_status hypura_tokenize(const hypura_model *model, const char *text, size_t size, uint32_t flags,
                                         int32_t **tokens, size_t *count, hypura_error *error);

/* How many tokens that would be. */
HYPURA_API hypura_status hypura_count_tokens(const hypura_model *model, const char *text, size_t size, uint32_t flags,
                                             size_t *count, hypura_error *error);

/* *text is the caller's (hypura_free): *size bytes and a NUL. The bytes of a few tokens need not be whole
 * characters. show_special: include the text of control tokens. HYPURA_ERROR_ARGUMENT for a token out of range. */
HYPURA_API hypura_status hypura_detokenize(const hypura_model *model, const int32_t *tokens, size_t count,
                                           bool show_special, char **text, size_t *size, hypura_error *error);

/* Whether an answer ends with this token. */
HYPURA_API bool hypura_is_end(const hypura_model *model, int32_t token);

/* The token that begins a text, if the model asks for one; otherwise HYPURA_NO_TOKEN. */
HYPURA_API int32_t hypura_begin_token(const hypura_model *model);

/* ---- chats ------------------------------------------------------------------------------------------------------- */

/* A conversation, for the model's template. */
typedef struct hypura_chat {
    size_t struct_size;
    const char *messages;  /* a JSON array: [{"role": "user", "content": "Hello"}, ...] */
    const char *tools;     /* a JSON array of function descriptions as in OpenAI's API; NULL: none */
    const char *variables; /* a JSON object for the template, such as {"enable_thinking": false}; NULL: none */
    bool exact;            /* give messages to the template as they are. By default they may come as any client sends
                            * them (parts, null contents, arguments as text) and are brought into the form that the
                            * template takes */
    bool whole;            /* end with the last message; by default with what starts an answer. When the last message is
                            * the assistant's, the model goes on with it */
} hypura_chat;

/* The prompt as text, without the tokens that the tokenizer adds. *text is the caller's (hypura_free): *size bytes and
 * a NUL. HYPURA_ERROR_ARGUMENT for JSON that is not well formed or a chat that the template refuses. */
HYPURA_API hypura_status hypura_render_chat(const hypura_model *model, const hypura_chat *chat, char **text,
                                            size_t *size, hypura_error *error);

/* The prompt as tokens. Control tokens come from the template only, never from what a message says. *tokens is the
 * caller's (hypura_free), [*count]. */
HYPURA_API hypura_status hypura_tokenize_chat(const hypura_model *model, const hypura_chat *chat, int32_t **tokens,
                                              size_t *count, hypura_error *error);

/* The template itself, a Jinja program: the model's own, or ChatML. Belongs to the model. */
HYPURA_API const char *hypura_template_source(const hypura_model *model);

HYPURA_END
#endif
