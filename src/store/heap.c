#include "store/heap.h"

hypura_status heap_create(struct heap *heap, uint32_t count, hypura_error *error)
{
    heap->size = 0;
    hypura_status status = ALLOCATE(&heap->items, count, "cache policy", error);
    if (!status)
        status = ALLOCATE(&heap->places, count, "cache policy", error);
    if (!status)
        status = ALLOCATE(&heap->keys, count, "cache policy", error);
    for (uint32_t i = 0; !status && i < count; i++)
        heap->places[i] = NO_ITEM;
    return status;
}

void heap_destroy(struct heap *heap)
{
    memory_free(heap->items);
    memory_free(heap->places);
    memory_free(heap->keys);
}

static bool has(const struct heap *heap, uint32_t item)
{
    return heap->places[item] != NO_ITEM;
}

static void put(struct heap *heap, uint32_t place, uint32_t item)
{
    heap->items[place] = item;
    heap->places[item] = place;
}

static void sift(struct heap *heap, uint32_t place)
{
    uint32_t item = heap->items[place];
    double key = heap->keys[item];
    while (place > 0 && heap->keys[heap->items[(place - 1) / 2]] > key) {
        put(heap, place, heap->items[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * place + 1;
        if (child >= heap->size)
            break;
        if (child + 1 < heap->size && heap->keys[heap->items[child + 1]] < heap->keys[heap->items[child]])
            child++;
        if (heap->keys[heap->items[child]] >= key)
            break;
        put(heap, place, heap->items[child]);
        place = child;
    }
    put(heap, place, item);
}

void heap_insert(struct heap *heap, uint32_t item)
{
    put(heap, heap->size++, item);
    sift(heap, heap->size - 1);
}

void heap_remove(struct heap *heap, uint32_t item)
{
    uint32_t place = heap->places[item];
    heap->places[item] = NO_ITEM;
    heap->size--;
    if (place < heap->size) {
        put(heap, place, heap->items[heap->size]);
        sift(heap, place);
    }
}

void heap_set(struct heap *heap, uint32_t item, double key)
{
    heap->keys[item] = key;
    if (has(heap, item))
        sift(heap, heap->places[item]);
}

/* Children are larger than their parent, so the search goes below an item only if it may not be evicted, which is true
 * for the few in use. */
static void search(const struct heap *heap, uint32_t place, policy_may_go may_go, void *context, uint32_t *best)
{
    if (place >= heap->size)
        return;
    uint32_t item = heap->items[place];
    if (*best != NO_ITEM && heap->keys[item] >= heap->keys[*best])
        return;
    if (may_go(context, item)) {
        *best = item;
        return;
    }
    search(heap, 2 * place + 1, may_go, context, best);
    search(heap, 2 * place + 2, may_go, context, best);
}

uint32_t heap_first(struct heap *heap, policy_may_go may_go, void *context)
{
    uint32_t best = NO_ITEM;
    search(heap, 0, may_go, context, &best);
    return best;
}
