#include "store/store_private.h"

#include <stdlib.h>

hypura_status store_cancelled_error(hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
}

hypura_status store_check_unit(const struct store *store, unit_number unit, hypura_error *error)
{
    if (unit >= store->unit_count)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u: there are %u", unit, store->unit_count);
    if (!store->loaded)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u was requested before the weights were loaded", unit);
    return HYPURA_OK;
}

uint64_t unit_footprint(const struct store *store, unit_number unit)
{
    struct unit_layout layout;
    unit_layout_make(&layout, store_unit(store, unit));
    return layout.footprint;
}

void unit_show(const struct store *store, unit_number number, struct store_view *view)
{
    const struct stored_unit *stored = &store->units[number];
    const struct unit *unit = store_unit(store, number);
    *view = (struct store_view){0};
    if (stored->place == PLACE_GPU)
        return;
    if (stored->place == PLACE_PINNED) {
        for (uint32_t i = 0; i < unit->slice_count; i++)
            view->slices[i] = store->pinned.slices[stored->item + i];
        return;
    }
    struct unit_layout layout;
    unit_layout_make(&layout, unit);
    for (uint32_t i = 0; i < unit->slice_count; i++)
        view->slices[i] = stored->memory + layout.slice_position[i];
}

bool unit_not_brought(struct store *store, unit_number number, struct transfer *transfer)
{
    struct stored_unit *unit = &store->units[number];
    if (unit->wants == 0)
        return false;
    if (transfer->failure.kind == FAILURE_NONE) {
        unit->stage = STAGE_WAITING;
        return true;
    }
    unit->stage = STAGE_FAILED;
    unit->failure = malloc(sizeof *unit->failure);
    if (unit->failure)
        *unit->failure = transfer->failure;
    return false;
}
