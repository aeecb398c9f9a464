/* Just enough JSON for these examples: a growing text, and quoted strings. A real program would use a library. */
#ifndef EXAMPLES_JSON_H
#define EXAMPLES_JSON_H

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct text {
    char *data; /* NULL: empty */
    size_t size, room;
};

static inline void append(struct text *text, const char *bytes, size_t size)
{
    if (text->size + size + 1 > text->room) {
        text->room = 2 * (text->size + size + 1);
        text->data = realloc(text->data, text->room);
        if (!text->data) {
            perror("examples");
            exit(1);
        }
    }
    memcpy(text->data + text->size, bytes, size);
    text->size += size;
    text->data[text->size] = 0;
}

static inline void append_text(struct text *text, const char *more)
{
    append(text, more, strlen(more));
}

static inline void append_quoted(struct text *text, const char *bytes, size_t size)
{
    char escape[8];
    append(text, "\"", 1);
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c == '"' || c == '\\' || c < ' ') {
            snprintf(escape, sizeof escape, "\\u%04x", c);
            append_text(text, escape);
        } else {
            append(text, bytes + i, 1);
        }
    }
    append(text, "\"", 1);
}

/* Appends a message to a JSON array. */
static inline void add_message(struct text *messages, const char *role, const char *content, size_t size)
{
    messages->size--; /* drop the closing bracket */
    append_text(messages, messages->size > 1 ? ", {\"role\": " : "{\"role\": ");
    append_quoted(messages, role, strlen(role));
    append_text(messages, ", \"content\": ");
    append_quoted(messages, content, size);
    append_text(messages, "}]");
}

#endif
