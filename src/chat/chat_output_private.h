/* Private to chat_output*.c. */
#ifndef HYPURA_CHAT_OUTPUT_PRIVATE_H
#define HYPURA_CHAT_OUTPUT_PRIVATE_H

#include "chat/chat_output.h"

/* A call as it was read; arguments is an object or, when a model wrote something else, any value. */
struct chat_call {
    char *name;
    char *arguments; /* JSON text */
};

struct chat_calls {
    struct chat_call *items;
    size_t count, capacity;
};

void chat_calls_free(struct chat_calls *calls);

/* How the calls between two marks are written. */
enum call_style {
    CALL_TAGGED,   /* <tool_call>: JSON, <function=...> or <arg_key>, whichever it begins with */
    CALL_JSON,     /* objects or lists of them */
    CALL_MISTRAL,  /* a list of JSON objects, or NAME[ARGS]{...} */
    CALL_DEEPSEEK, /* type and name and JSON between marks */
    CALL_KIMI,     /* functions.NAME:0 and JSON between marks */
    CALL_PYTHON,   /* JSON, name.call(key="value"), or a programme */
    CALL_MINIMAX,  /* <invoke name="..."> */
    CALL_DSML,     /* the same in DeepSeek's marks */
    CALL_XTML,     /* Kimi K3: <|open|>call tool="..."<|sep|> */
    CALL_SPACED,   /* MiniMax M3: tags named as parameters, each behind a token */
    CALL_HUNYUAN,  /* JSON, or <tool_call>NAME<tool_sep> */
    CALL_GEMMA,    /* call:NAME{key:value} */
    CALL_FUNCTION, /* NAME>{...} */
};

/* Reads all calls of a text. False, with nothing added, when the text is not of that style. */
bool chat_read_calls(struct chat_calls *calls, enum call_style style, const char *text, size_t size,
                     const json_t *tools);

/* One call from its name and the text of its arguments. */
bool chat_add_call(struct chat_calls *calls, const char *name, size_t name_size, const char *arguments, size_t size);

/* ---- chat_output_parts.c ----- */

struct view {
    const char *text;
    size_t size;
};

struct view view_trim(struct view v);
bool view_begins(struct view v, const char *text);

/* Splits at the first mark: what is before goes to *head, what is after stays in *rest. */
bool view_split(struct view *rest, const char *mark, struct view *head);

/* The same at the end of a value, which may contain the mark too: the first that "next" or the end of the text follows,
 * white space aside. */
bool view_split_value(struct view *rest, const char *mark, const char *next, struct view *head);

json_t *view_json(struct view v); /* NULL when it is none */

/* arguments NULL: none. */
bool chat_add_arguments(struct chat_calls *calls, const char *name, size_t name_size, const json_t *arguments);

/* Sets arguments[key] to what the text of a parameter means: a string when the tool wants one, otherwise the JSON that
 * it is, or a string when it is none. */
bool chat_set_parameter(json_t *arguments, const json_t *tools, struct view tool, struct view key, struct view text);

/* ---- chat_output_tags.c: each false when the text is not of that form ---- */

bool chat_read_function_tags(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_key_tags(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_invocations(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_dsml(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_xtml(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_spaced(struct chat_calls *calls, struct view v, const json_t *tools);
bool chat_read_hunyuan_tags(struct chat_calls *calls, struct view v, const json_t *tools);

#endif
