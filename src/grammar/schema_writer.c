/* The writer that all schema code shares: memory and work limits, refusals, and rules. */
#include "grammar/schema_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAX_TEXT ((size_t)1 << 20)
#define MAX_MEMORY ((size_t)128 << 20)
#define MAX_WORK 40000000
#define BLOCK_SIZE ((size_t)64 << 10)

bool schema_refuse(struct schema_writer *w, const char *format, ...)
{
    char message[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    error_set(w->error, HYPURA_ERROR_UNSUPPORTED, "%s", message);
    return false;
}

bool schema_no_memory(struct schema_writer *w)
{
    error_set(w->error, HYPURA_ERROR_MEMORY, "no memory for the JSON schema");
    return false;
}

/* Refuses the schema as a whole: no part of it is to blame. */
static bool refuse_all(struct schema_writer *w)
{
    w->at = (struct origin){0};
    return schema_refuse(w, "the JSON schema is %s", "too large, or combines too much");
}

bool schema_work(struct schema_writer *w, uint64_t steps)
{
    w->steps += steps;
    return w->steps <= MAX_WORK || refuse_all(w);
}

struct memory_block {
    struct memory_block *next;
    max_align_t bytes[];
};

void *schema_memory(struct schema_writer *w, size_t count, size_t size)
{
    size_t bytes, room;
    if (!size_multiply(&bytes, MAX(count, 1u), size) || bytes > MAX_MEMORY || w->memory > MAX_MEMORY - bytes) {
        refuse_all(w);
        return NULL;
    }
    bytes = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    if (bytes > w->memory_left) {
        struct memory_block *block;
        room = MAX(bytes, BLOCK_SIZE);
        if (memory_allocate((void **)&block, 1, sizeof *block + room, "JSON schema", w->error) != HYPURA_OK)
            return NULL;
        block->next = w->blocks;
        w->blocks = block;
        w->memory_left = room;
        w->memory += room;
    }
    w->memory_left -= bytes;
    return (char *)w->blocks->bytes + w->memory_left;
}

char *schema_copy_text(struct schema_writer *w, const char *text, size_t size)
{
    char *copy = schema_memory(w, size + 1, 1);
    if (copy)
        memcpy(copy, text, size);
    return copy;
}

const json_t *schema_own(struct schema_writer *w, json_t *value)
{
    if (!value || json_array_append_new(w->owned, value) != 0) {
        schema_no_memory(w);
        return NULL;
    }
    return value;
}

unsigned schema_new_rule(struct schema_writer *w)
{
    return w->rules++;
}

bool schema_end_rule(struct schema_writer *w, unsigned rule, struct buffer *text)
{
    bool failed = text->failed;
    buffer_append_format(w->out, "r%u ::= ", rule);
    buffer_append(w->out, text->data ? text->data : "", text->size);
    buffer_append_string(w->out, "\n");
    buffer_free(text);
    if (failed || w->out->failed)
        return schema_no_memory(w);
    return w->out->size <= MAX_TEXT || refuse_all(w);
}

bool schema_text_rule(struct schema_writer *w, struct buffer *text, unsigned *rule)
{
    if (text->failed) {
        buffer_free(text);
        return schema_no_memory(w);
    }
    const char *own = text->data ? text->data : "";
    struct text_rule **slot = &w->texts[fnv1a(FNV1A_START, own, text->size) % TEXT_RULE_SLOTS];
    for (struct text_rule *known = *slot; known; known = known->next)
        if (strcmp(known->text, own) == 0) {
            *rule = known->rule;
            buffer_free(text);
            return true;
        }
    struct text_rule *fresh = schema_memory(w, 1, sizeof *fresh);
    *rule = schema_new_rule(w);
    if (!fresh || !(fresh->text = schema_copy_text(w, own, text->size))) {
        buffer_free(text);
        return false;
    }
    fresh->rule = *rule;
    fresh->next = *slot;
    *slot = fresh;
    return schema_end_rule(w, *rule, text);
}

struct limits *schema_new_limit(struct schema_writer *w, struct limit limit, struct limits *next)
{
    struct limit *own = schema_memory(w, 1, sizeof *own);
    struct limits *link = schema_memory(w, 1, sizeof *link);
    if (!own || !link)
        return NULL;
    *own = limit;
    link->limit = own;
    link->next = next;
    return link;
}

void schema_free_memory(struct schema_writer *w)
{
    while (w->blocks) {
        struct memory_block *next = w->blocks->next;
        memory_free(w->blocks);
        w->blocks = next;
    }
}

void schema_write_repeat(struct buffer *e, json_int_t low, json_int_t high)
{
    if (high < 0)
        buffer_append_format(e, "{%lld,}", (long long)low);
    else
        buffer_append_format(e, "{%lld,%lld}", (long long)low, (long long)high);
}
