/* store/places: on which node of memory (socket) weights lie. Owner: places.c.
 *
 * Of tensors each node has a part of the rows, as large as its part of the cores; experts lie whole on one node: those
 * that stay by their number in the layer, those in the cache by their slot. The ring lies on all in turn. Where there
 * is one node, or somebody else said where memory is to be, nothing is placed.
 */
#ifndef HYPURA_STORE_PLACES_H
#define HYPURA_STORE_PLACES_H

#include "core/core.h"
#include "hw/hw.h"

/* Neighbouring slots share a node, since each change of it is a map of its own to the system. */
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

/* A tensor's memory, each node's part of it. */
void places_split(const struct places *places, void *memory, uint64_t bytes);

/* An expert of so many; places_settle then puts them where they belong, neighbours at once. room: for all of them. */
hypura_status places_reserve(struct places *places, size_t room, hypura_error *error);
void places_add(struct places *places, uint8_t *memory, uint64_t bytes, uint32_t expert, uint32_t experts);
void places_settle(struct places *places);

uint32_t places_node_of_slot(const struct places *places, uint32_t slot);
void places_slots(const struct places *places, uint8_t *memory, uint64_t stride, uint32_t slots);

/* The node of a pinned expert's weights; -1: not of one. */
int places_find(const struct places *places, const uint8_t *memory);
void places_free(struct places *places);

#endif
