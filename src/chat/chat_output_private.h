/* Private to chat_output*.c. */
#ifndef HYPURA_CHAT_OUTPUT_PRIVATE_H
#define HYPURA_CHAT_OUTPUT_PRIVATE_H

#include "chat/chat_output.h"

/* A parsed call. Its arguments are an object, or any other value if the model wrote one. */
struct chat_call {
    char *name;
    char *arguments; /* JSON text */
};

struct chat_calls {
    struct chat_call *items;
    size_t count, capacity;
};

void chat_calls_free(struct chat_calls *calls);

/* The notation of the calls between two marks. */
enum call_style {
    CALL_TAGGED,   /* <tool_call>: JSON, <function=...> or <arg_key>, depending on its beginning */
    CALL_JSON,     /* JSON objects or lists of them */
    CALL_MISTRAL,  /* a list of JSON objects, or NAME[ARGS]{...} */
    CALL_DEEPSEEK, /* type, name and JSON between marks */
    CALL_KIMI,     /* functions.NAME:0 and JSON between marks */
    CALL_PYTHON,   /* JSON, name.call(key="value"), or a program */
    CALL_MINIMAX,  /* <invoke name="..."> */
    CALL_DSML,     /* the same with DeepSeek's marks */
    CALL_XTML,     /* Kimi K3: <|open|>call tool="..."<|sep|> */
    CALL_SPACED,   /* MiniMax M3: tags named after the parameters, each preceded by a token */
    CALL_HUNYUAN,  /* JSON, or <tool_call>NAME<tool_sep> */
    CALL_GEMMA,    /* call:NAME{key:value} */
    CALL_FUNCTION, /* NAME>{...} */
};

/* Reads all calls of a text. If the text is not of that style, returns false and adds nothing. */
bool chat_read_calls(struct chat_calls *calls, enum call_style style, const char *text, size_t size,
                     const json_t *tools);

/* Adds a call with the given name and text of arguments. */
bool chat_add_call(struct chat_calls *calls, const char *name, size_t name_size, const char *arguments, size_t size);

/* ---- chat_output_parts.c ----- */

struct view {
    const char *text;
    size_t size;
};

struct view view_trim(struct view v);
bool view_begins(struct view v, const char *text);

/* Splits at the first mark: *head becomes the text before it, *rest the text after it. Returns false without a mark. */
bool view_split(struct view *rest, const char *mark, struct view *head);

/* Splits at the end of a value, which may itself contain the mark: at the first mark that is followed, white space
 * aside, by "next" or by the end of the text. */
bool view_split_value(struct view *rest, const char *mark, const char *next, struct view *head);

json_t *view_json(struct view v); /* NULL: it is not JSON */

/* Adds a call. arguments NULL: none. */
bool chat_add_arguments(struct chat_calls *calls, const char *name, size_t name_size, const json_t *arguments);

/* Sets arguments[key] to the value of a parameter's text: a string if the tool expects one, or else the text parsed as
 * JSON, or a string if it is not JSON. */
bool chat_set_parameter(json_t *arguments, const json_t *tools, struct view tool, struct view key, struct view text);

/* ---- chat_output_tags.c: each returns false if the text does not have that form ---- */

bool chat_read_function_tags(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_key_tags(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_invocations(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_dsml(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_xtml(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_spaced(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_hunyuan_tags(struct chat_calls *calls, struct view v, const json_t *tools);

#endif
