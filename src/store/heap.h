/* store/heap: items ordered by a key that changes, smallest first. Allocated for all items at once. Owner: heap.c. */
#ifndef HYPURA_STORE_HEAP_H
#define HYPURA_STORE_HEAP_H

#include "store/policy.h"

struct heap {
    uint32_t size;
    uint32_t *items;  /* the heap */
    uint32_t *places; /* of an item in it; NO_ITEM: not in */
    double *keys;     /* of all items, in or not */
};

hypura_status heap_create(struct heap *heap, uint32_t count, hypura_error *error);
void heap_destroy(struct heap *heap);
void heap_insert(struct heap *heap, uint32_t item);
void heap_remove(struct heap *heap, uint32_t item);
void heap_set(struct heap *heap, uint32_t item, double key); /* in or not */

/* The item of the smallest key among those that may go. */
uint32_t heap_first(struct heap *heap, policy_may_go may_go, void *context);

#endif
