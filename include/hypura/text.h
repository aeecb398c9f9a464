/* Converts text to tokens and back, and chats to prompts. Any thread may call these functions. They also work with
 * options.text_only. */
#ifndef HYPURA_API_TEXT_H
#define HYPURA_API_TEXT_H

#include <hypura/model.h>

HYPURA_BEGIN

#define HYPURA_NO_TOKEN (-1)

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

enum hypura_tokenize_flag {
    HYPURA_ADD_SPECIAL = 1,  /* add the tokens that the model expects at the beginning and end of a text */
    HYPURA_PARSE_SPECIAL = 2 /* convert the text of a control token, such as <|im_end|>, to that token */
};

/* Converts text to tokens[*count]. text: size bytes, at most 256 MiB, which need not be valid UTF-8. flags: a
 * combination of hypura_tokenize_flag. The caller frees *tokens with hypura_free. */
HYPURA_API hypura_status hypura_tokenize(const hypura_model *model, const char *text, size_t size, uint32_t flags,
                                         int32_t **tokens, size_t *count, hypura_error *error);

/* How many tokens hypura_tokenize would return. */
HYPURA_API hypura_status hypura_count_tokens(const hypura_model *model, const char *text, size_t size, uint32_t flags,
                                             size_t *count, hypura_error *error);

/* Converts tokens to text: *size bytes, which may begin or end within a UTF-8 character, and a NUL. show_special:
 * include the text of control tokens. A token out of range is HYPURA_ERROR_ARGUMENT. The caller frees *text with
 * hypura_free. */
HYPURA_API hypura_status hypura_detokenize(const hypura_model *model, const int32_t *tokens, size_t count,
                                           bool show_special, char **text, size_t *size, hypura_error *error);

/* Whether this token ends an answer. */
HYPURA_API bool hypura_is_end(const hypura_model *model, int32_t token);

/* The token with which the model expects texts to begin; HYPURA_NO_TOKEN: none. */
HYPURA_API int32_t hypura_begin_token(const hypura_model *model);

/* ---- chats ------------------------------------------------------------------------------------------------------- */

/* A conversation, as input for the model's template. */
typedef struct hypura_chat {
    size_t struct_size;
    const char *messages;  /* a JSON array: [{"role": "user", "content": "Hello"}, ...] */
    const char *tools;     /* a JSON array of function descriptions as in OpenAI's API; NULL: none */
    const char *variables; /* a JSON object of template variables, such as {"enable_thinking": false}; NULL: none */
    bool exact;            /* pass messages to the template unchanged. By default, the forms that clients send (content
                            * parts, null contents, arguments as text) are converted to those that the template takes */
    bool whole;            /* end the prompt with the last message. By default it ends with the start of an answer; if
                            * the last message is the assistant's, the model continues that */
} hypura_chat;

/* Renders the prompt as text, without the tokens that the tokenizer adds: *size bytes and a NUL. The caller frees *text
 * with hypura_free. HYPURA_ERROR_ARGUMENT: the JSON is invalid, or the template rejects the chat. */
HYPURA_API hypura_status hypura_render_chat(const hypura_model *model, const hypura_chat *chat, char **text,
                                            size_t *size, hypura_error *error);

/* Renders the prompt as tokens[*count]. Control tokens come only from the template, never from the text of a message.
 * The caller frees *tokens with hypura_free. */
HYPURA_API hypura_status hypura_tokenize_chat(const hypura_model *model, const hypura_chat *chat, int32_t **tokens,
                                              size_t *count, hypura_error *error);

/* The source of the Jinja template: the model's, or ChatML. Belongs to the model. */
HYPURA_API const char *hypura_template_source(const hypura_model *model);

HYPURA_END
#endif
