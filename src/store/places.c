#include "store/places.h"

#include <stdlib.h>

/* Shares are counted in this many parts of a tensor, which is at least as fine as its rows. */
#define WHOLE ((size_t)1 << 20)

/* The gaps between experts of one tensor are smaller. */
#define JOINED_BYTES ((ptrdiff_t)64 << 10)

void places_split(const struct places *places, void *memory, uint64_t bytes)
{
    for (uint32_t node = 0; places_any(places) && node < places->nodes.count; node++) {
        uint64_t first = bytes / WHOLE * hardware_first_thread(&places->nodes, node, WHOLE) +
                         bytes % WHOLE * hardware_first_thread(&places->nodes, node, WHOLE) / WHOLE;
        uint64_t end = bytes / WHOLE * hardware_first_thread(&places->nodes, node + 1, WHOLE) +
                       bytes % WHOLE * hardware_first_thread(&places->nodes, node + 1, WHOLE) / WHOLE;
        hardware_place(&places->nodes, node, (uint8_t *)memory + first, (size_t)(end - first));
    }
}

hypura_status places_reserve(struct places *places, size_t room, hypura_error *error)
{
    return places_any(places) ? ALLOCATE(&places->ranges, room, "places of experts", error) : HYPURA_OK;
}

void places_add(struct places *places, uint8_t *memory, uint64_t bytes, uint32_t expert, uint32_t experts)
{
    if (places->ranges)
        places->ranges[places->count++] = (struct placed_range){
            memory, memory + bytes, (uint32_t)((uint64_t)expert * places->nodes.count / MAX(experts, 1u))};
}

static int by_address(const void *a, const void *b)
{
    const struct placed_range *left = a, *right = b;
    return (left->start > right->start) - (left->start < right->start);
}

void places_settle(struct places *places)
{
    size_t kept = 0;
    if (places->count)
        qsort(places->ranges, places->count, sizeof *places->ranges, by_address);
    for (size_t i = 0; i < places->count; i++) {
        struct placed_range *last = kept ? &places->ranges[kept - 1] : NULL;
        const struct placed_range *next = &places->ranges[i];
        if (last && last->node == next->node && next->start - last->end < JOINED_BYTES)
            last->end = next->end;
        else
            places->ranges[kept++] = *next;
    }
    places->count = kept;
    for (size_t i = 0; i < kept; i++)
        hardware_place(&places->nodes, places->ranges[i].node, (void *)(uintptr_t)places->ranges[i].start,
                       (size_t)(places->ranges[i].end - places->ranges[i].start));
}

uint32_t places_node_of_slot(const struct places *places, uint32_t slot)
{
    return slot / PLACES_SLOTS % places->nodes.count;
}

void places_slots(const struct places *places, uint8_t *memory, uint64_t stride, uint32_t slots)
{
    for (uint32_t first = 0; places_any(places) && first < slots; first += PLACES_SLOTS)
        hardware_place(&places->nodes, places_node_of_slot(places, first), memory + first * stride,
                       (size_t)(MIN(PLACES_SLOTS, slots - first) * stride));
}

int places_find(const struct places *places, const uint8_t *memory)
{
    size_t low = 0, high = places->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (places->ranges[middle].end <= memory)
            low = middle + 1;
        else
            high = middle;
    }
    return low < places->count && places->ranges[low].start <= memory ? (int)places->ranges[low].node : -1;
}

void places_free(struct places *places)
{
    memory_free(places->ranges);
    places->ranges = NULL;
    places->count = 0;
}
