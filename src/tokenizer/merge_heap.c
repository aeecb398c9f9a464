#include "tokenizer/tokenizer_private.h"

hypura_status merge_heap_push(struct tokenizer *t, struct heap_entry entry)
{
    struct merge_heap *heap = &t->heap;
    if (heap->count == heap->capacity) {
        size_t capacity = heap->capacity ? heap->capacity * 2 : 64;
        hypura_status status =
            tokenizer_borrow(t->watch, (capacity - heap->capacity) * sizeof *heap->entries, t->error);
        if (status == HYPURA_OK)
            status = memory_resize((void **)&heap->entries, heap->capacity, capacity, sizeof *heap->entries,
                                   "possible merges", t->error);
        if (status != HYPURA_OK)
            return status;
        heap->capacity = capacity;
    }
    size_t at = heap->count++;
    while (at > 0) {
        size_t parent = (at - 1) / 2;
        if (heap->entries[parent].key <= entry.key)
            break;
        heap->entries[at] = heap->entries[parent];
        at = parent;
    }
    heap->entries[at] = entry;
    return HYPURA_OK;
}

struct heap_entry merge_heap_pop(struct merge_heap *heap)
{
    struct heap_entry first = heap->entries[0];
    struct heap_entry last = heap->entries[--heap->count];
    size_t at = 0;
    for (size_t child = 1; child < heap->count; child = 2 * at + 1) {
        if (child + 1 < heap->count && heap->entries[child + 1].key < heap->entries[child].key)
            child++;
        if (last.key <= heap->entries[child].key)
            break;
        heap->entries[at] = heap->entries[child];
        at = child;
    }
    heap->entries[at] = last;
    return first;
}
