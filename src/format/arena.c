#include "format/format_private.h"

#include <stdalign.h>
#include <stddef.h>

#define FIRST_CHUNK ((size_t)4 << 10)
#define LARGEST_CHUNK ((size_t)1 << 20)

struct arena_chunk {
    struct arena_chunk *next;
    size_t used;
    size_t capacity;
    alignas(max_align_t) unsigned char bytes[];
};

hypura_status arena_take(struct arena *arena, void **out, size_t bytes, const char *what, hypura_error *error)
{
    struct arena_chunk *chunk = arena->chunks;
    size_t start = chunk ? (size_t)align_up(chunk->used, 8) : 0;
    if (!chunk || start > chunk->capacity || bytes > chunk->capacity - start) {
        if (arena->next_chunk == 0)
            arena->next_chunk = FIRST_CHUNK;
        size_t capacity = MAX(bytes, arena->next_chunk);
        size_t whole;
        if (!size_add(&whole, capacity, sizeof *chunk))
            return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the %s (%zu bytes)", what, bytes);
        /* memory_allocate clears the memory; for a large piece this is a fresh mapping and costs nothing. */
        void *memory;
        hypura_status status = memory_allocate(&memory, whole, 1, what, error);
        if (status)
            return status;
        chunk = memory;
        chunk->capacity = capacity;
        start = 0;
        /* A piece with its own chunk goes behind the current chunk, which may still have room. */
        if (arena->chunks && bytes >= arena->next_chunk) {
            chunk->next = arena->chunks->next;
            arena->chunks->next = chunk;
        } else {
            chunk->next = arena->chunks;
            arena->chunks = chunk;
        }
        arena->next_chunk = MIN(arena->next_chunk * 2, LARGEST_CHUNK);
    }
    chunk->used = start + bytes;
    *out = chunk->bytes + start;
    return HYPURA_OK;
}

void arena_free(struct arena *arena)
{
    struct arena_chunk *chunk = arena->chunks;
    while (chunk) {
        struct arena_chunk *next = chunk->next;
        memory_free(chunk);
        chunk = next;
    }
    *arena = (struct arena){0};
}
