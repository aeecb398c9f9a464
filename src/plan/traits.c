/* How the planner treats a unit, by what steps do with it; and the size of a unit in memory. */
#include "plan/plan_private.h"

/* Smaller units are always kept in memory: a read of this size takes as long as one of 64 KiB. */
#define TINY_BYTES ((uint64_t)16 << 10)

/* The priority of a product's matrix, by the part of the model that it belongs to. */
static enum plan_priority priority_of(enum step_part part)
{
    switch (part) {
    case PART_FEED_FORWARD:
        return PRIORITY_FEED_FORWARD;
    case PART_SHARED:
        return PRIORITY_SHARED;
    case PART_OUTPUT:
        return PRIORITY_OUTPUT;
    case PART_INPUT:
    case PART_ATTENTION:
    case PART_EXPERTS:
        break;
    }
    return PRIORITY_ATTENTION;
}

struct plan_traits plan_traits_of(enum unit_use use, enum step_part part, uint64_t bytes)
{
    static const struct plan_traits by_use[] = {
        [USE_TABLE] = {PRIORITY_TABLE, 0, false},
        [USE_ROWS] = {PRIORITY_OUTPUT, 0, false}, /* becomes PRIORITY_ROWS unless it is also the output matrix */
        [USE_VECTOR] = {PRIORITY_ALWAYS, 0, false},
        [USE_MATRIX] = {PRIORITY_ATTENTION, 0, true},
        [USE_WHOLE] = {PRIORITY_ATTENTION, 0, false},
        [USE_ROUTER] = {PRIORITY_ROUTER, 0, false},
        [USE_HEADS] = {PRIORITY_ATTENTION, 1, false},
        [USE_BIASES] = {PRIORITY_ROUTER, 2, false},
        [USE_TRIPLE] = {PRIORITY_SHARED, 2, false},
        [USE_SEQUENCE] = {PRIORITY_ROUTER, 0, false},
    };
    struct plan_traits traits = by_use[use];
    if (use == USE_MATRIX)
        traits.priority = priority_of(part);
    if (bytes < TINY_BYTES && use != USE_TABLE)
        traits.priority = PRIORITY_ALWAYS;
    return traits;
}

unit_number plan_first_expert(const struct steps *steps, uint32_t layer)
{
    const struct step *experts = steps_find(steps_of_layer(steps, layer), STEP_EXPERTS);
    return experts ? experts->experts.first : NO_UNIT;
}

uint64_t plan_unit_footprint(const struct unit *unit)
{
    uint64_t footprint = 0, before = 0; /* the end of the previous slice's pages */
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct unit_slice *slice = &unit->slices[i];
        uint64_t start = align_down(slice->offset, STORAGE_ALIGNMENT);
        uint64_t end = align_up(slice->offset + slice->bytes, STORAGE_ALIGNMENT);
        bool shared = i > 0 && slice->file == slice[-1].file && slice[-1].offset < slice->offset && before > start;
        footprint += end - (shared ? MIN(before, end) : start);
        before = end;
    }
    return footprint;
}
