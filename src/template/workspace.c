/* Limits of a rendering: memory and steps; and the exit after an error. */
#include "template/template_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MAX_STEPS ((uint64_t)20 * 1000 * 1000)
#define MAX_DEPTH 700
#define WATCHED_STEPS ((uint64_t)4096) /* steps between two calls of watch; a power of two */
#define BLOCK_BYTES ((size_t)16 << 10)

struct jinja_block {
    struct jinja_block *next;
    size_t size, used;
    _Alignas(max_align_t) char bytes[];
};

_Noreturn void jinja_fail(struct workspace *w, const char *format, ...)
{
    char message[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    w->status = error_set(w->error, HYPURA_ERROR_FORMAT, "chat template, line %d: %s", w->line, message);
    longjmp(w->escape, 1);
}

_Noreturn void jinja_fail_memory(struct workspace *w)
{
    w->status = error_set(w->error, HYPURA_ERROR_MEMORY,
                          "chat template, line %d: needs more than the %zu MiB of memory that a template may use",
                          w->line, w->limit >> 20);
    longjmp(w->escape, 1);
}

void *jinja_allocate(struct workspace *w, size_t size)
{
    size_t rounded;
    if (!size_add(&rounded, size, sizeof(max_align_t) - 1))
        jinja_fail_memory(w);
    rounded -= rounded % sizeof(max_align_t);
    struct jinja_block *block = w->blocks;
    if (!block || block->size - block->used < rounded) {
        size_t room = MAX(rounded, BLOCK_BYTES);
        if (rounded > w->limit || room > w->limit - w->used)
            jinja_fail_memory(w);
        void *memory;
        if (!work_may_take(w->watch, room)) {
            w->status = error_set(w->error, HYPURA_ERROR_MEMORY,
                                  "chat template, line %d: needs more memory than is available to it", w->line);
            longjmp(w->escape, 1);
        }
        if (memory_allocate(&memory, 1, sizeof *block + room, "chat template", NULL) != HYPURA_OK)
            jinja_fail_memory(w);
        block = memory;
        block->size = room;
        block->next = w->blocks;
        w->blocks = block;
        w->used += room;
    }
    void *result = block->bytes + block->used;
    block->used += rounded;
    return result;
}

void *jinja_grow(struct workspace *w, void *items, size_t count, size_t *capacity, size_t least, size_t item_size)
{
    size_t more, bytes;
    if (count < *capacity)
        return items;
    if (!size_multiply(&more, *capacity, 2) || !size_multiply(&bytes, MAX(more, least), item_size))
        jinja_fail_memory(w);
    void *grown = jinja_allocate(w, bytes);
    if (count)
        memcpy(grown, items, count * item_size);
    *capacity = MAX(more, least);
    return grown;
}

void workspace_free(struct workspace *w)
{
    while (w->blocks) {
        struct jinja_block *next = w->blocks->next;
        memory_free(w->blocks);
        w->blocks = next;
    }
}

void workspace_step(struct workspace *w, size_t cost)
{
    uint64_t before = w->steps;
    w->steps += cost;
    if (before / WATCHED_STEPS != w->steps / WATCHED_STEPS && !work_goes_on(w->watch)) {
        w->status = error_set(w->error, HYPURA_ERROR_CANCELLED, "chat template, line %d: stopped", w->line);
        longjmp(w->escape, 1);
    }
    if (w->steps > MAX_STEPS)
        jinja_fail(w, "takes more than %llu steps", (unsigned long long)MAX_STEPS);
}

void jinja_step(struct jinja *j, size_t cost)
{
    workspace_step(&j->w, cost);
}

void jinja_step_characters(struct jinja *j, const struct string *text)
{
    if (!text->ascii)
        jinja_step(j, text->size / 16);
}

void jinja_enter(struct jinja *j)
{
    if (++j->depth > MAX_DEPTH)
        jinja_fail(&j->w, "calls or nests more than %d levels deep", MAX_DEPTH);
}
