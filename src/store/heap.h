/* store/heap: items ordered by a key that changes, smallest first. Allocated for all items at once. Owner: heap.c. */
#ifndef HYPURA_STORE_HEAP_H
#define HYPURA_STORE_HEAP_H

#include "store/policy.h"

struct heap {
    uint32_t size;
    uint32_t *items;  /* the heap */
    uint32_t *places; /* [count], an item's index in the heap; NO_ITEM: it is not in the heap */
    double *keys;     /* [count], of all items, in the heap or not */
};

hypura_status heap_create(struct heap *heap, uint32_t count, hypura_error *error);
void heap_destroy(struct heap *heap);
void heap_insert(struct heap *heap, uint32_t item);
void heap_remove(struct heap *heap, uint32_t item);
void heap_set(struct heap *heap, uint32_t item, double key); /* the item may be in the heap or not */

/* The item with the smallest key among those that may be evicted, or NO_ITEM. */
uint32_t heap_first(struct heap *heap, policy_may_go may_go, void *context);

#endif
