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
    CALL_GEMMA,    /* call:NAME{key:value} */
    CALL_FUNCTION, /* NAME>{...} */
};

/* Reads all calls of a text. False, with nothing added, when the text is not of that style. */
bool chat_read_calls(struct chat_calls *calls, enum call_style style, const char *text, size_t size,
                     const json_t *tools);

/* One call from its name and the text of its arguments. */
bool chat_add_call(struct chat_calls *calls, const char *name, size_t name_size, const char *arguments, size_t size);

#endif
