/* store/classes: which sizes of slots an expert cache has, and how many slots of each. Owner: classes.c.
 *
 * Experts of nearly the same size share slots of the size of the largest of them. A cache with few slots has only one
 * size, because a class with a handful of slots would evict what the next token uses. Plain numbers: the cache makes
 * its slots from them, and a replay its counters.
 */
#ifndef HYPURA_STORE_CLASSES_H
#define HYPURA_STORE_CLASSES_H

#include "model/model.h"

#define MAX_CLASSES 4u

/* An expert, and whether it is in the cache's care now; one that is on a GPU may move here later. */
struct sized_unit {
    uint64_t footprint;
    unit_number unit;
    bool here;
};

struct size_class {
    uint64_t stride;     /* bytes of a slot */
    uint32_t unit_count; /* experts that can use its slots, whether here or on a GPU */
    uint32_t here;       /* how many are not on a GPU */
    uint32_t most;       /* slots that can be used: one for each of them, and one for a move */
    uint64_t unit_bytes; /* of the experts that are here */
};

/* Sorts the experts by falling size and cuts them into classes; returns how many. The first unit_count experts belong
 * to the first class, and so on. Slots take multiples of alignment; moves is how many experts may come from a GPU at
 * once. */
uint32_t classes_find(struct size_class classes[MAX_CLASSES], struct sized_unit *units, uint32_t count,
                      uint64_t alignment, uint32_t moves, uint64_t cache_bytes);

/* Divides bytes into slots of each class. false: too few for one slot each; then targets are not set. */
bool classes_share_out(uint32_t targets[MAX_CLASSES], const struct size_class *classes, uint32_t count, uint64_t bytes);

#endif
