/* store/places: the memory node (socket) of weights. Owner: places.c.
 *
 * Of a tensor, each node has a part of the rows, in proportion to its cores. An expert is on one node: a pinned one by
 * its number in the layer, one in the cache by its slot. The ring is interleaved over all nodes. With one node, or if
 * the process was started with a memory policy, nothing is placed. */
#ifndef HYPURA_STORE_PLACES_H
#define HYPURA_STORE_PLACES_H

#include "core/core.h"
#include "hw/hw.h"

/* This many adjacent slots share a node, because each change of node costs the system a separate mapping. */
#define PLACES_SLOTS 16u

struct placed_range {
    const uint8_t *start, *end;
    uint32_t node;
};

struct places {
    struct hardware_nodes nodes; /* count 0 or 1: nothing is placed */
    struct placed_range *ranges; /* by address: pinned experts */
    size_t count;
};

static inline bool places_any(const struct places *places)
{
    return places->nodes.count > 1 && places->nodes.place;
}

/* Places each node's part of a tensor's memory. */
void places_split(const struct places *places, void *memory, uint64_t bytes);

/* places_add notes the memory of a slice of an expert, which has this number of "experts" in its layer. places_settle
 * then places all of them, adjacent ones together. room: the number of slices. */
hypura_status places_reserve(struct places *places, size_t room, hypura_error *error);
void places_add(struct places *places, uint8_t *memory, uint64_t bytes, uint32_t expert, uint32_t experts);
void places_settle(struct places *places);

uint32_t places_node_of_slot(const struct places *places, uint32_t slot);
void places_slots(const struct places *places, uint8_t *memory, uint64_t stride, uint32_t slots);

/* The node of a pinned expert's weights. -1: the address is not in a pinned expert. */
int places_find(const struct places *places, const uint8_t *memory);
void places_free(struct places *places);

#endif
