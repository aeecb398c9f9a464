/* Tensors in pieces: units that the store adds to the model's own, in the order of their rows. */
#include "store/store_private.h"

/* If some tensors stream, the others are cut too, so that their pieces can be released. */
static bool is_cut(const struct store_source *source, unit_number unit)
{
    if (!source->cuts || source->ring_bytes == 0 || source->cuts[unit].count == 1)
        return false;
    return source->tiers[unit] == TIER_RAM || (source->tiers[unit] == TIER_STORAGE && source->in_ring[unit]);
}

static hypura_status check_cut(const struct unit *unit, const struct plan_cut *cut, unit_number number,
                               hypura_error *error)
{
    if (unit->slice_count == 1 && cut->bytes > 0 && unit->slices[0].bytes > (cut->count - 1) * cut->bytes &&
        unit->slices[0].bytes - (cut->count - 1) * cut->bytes <= cut->bytes)
        return HYPURA_OK;
    return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u of %llu bytes cannot be %u pieces of %llu", number,
                     (unsigned long long)unit->bytes, cut->count, (unsigned long long)cut->bytes);
}

hypura_status pieces_prepare(struct store *store, const struct store_source *source, hypura_error *error)
{
    uint64_t count = 0;
    for (unit_number i = 0; i < source->unit_count; i++)
        count += is_cut(source, i) ? source->cuts[i].count : 0;
    if (count >= NO_UNIT - source->unit_count)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "the tensors have too many pieces (%llu)",
                         (unsigned long long)count);
    store->model_units = source->unit_count;
    store->unit_count = source->unit_count + (uint32_t)count;
    hypura_status status = ALLOCATE(&store->units, store->unit_count, "table of units", error);
    if (!status)
        status = ALLOCATE(&store->pieces, count, "table of pieces", error);
    unit_number next = source->unit_count;
    for (unit_number i = 0; i < source->unit_count && !status; i++) {
        if (!is_cut(source, i))
            continue;
        const struct plan_cut *cut = &source->cuts[i];
        const struct unit *whole = store_unit(store, i);
        status = check_cut(whole, cut, i, error);
        store->units[i].place = PLACE_PIECES;
        store->units[i].pieces = (struct store_pieces){next, cut->count, cut->bytes};
        for (uint32_t piece = 0; piece < cut->count && !status; piece++, next++) {
            struct unit *unit = &store->pieces[next - store->model_units];
            uint64_t start = piece * cut->bytes;
            *unit = *whole;
            unit->slices[0].offset += start;
            unit->bytes = unit->slices[0].bytes = MIN(cut->bytes, whole->slices[0].bytes - start);
            store->units[next].place =
                source->in_ring[i] && source->streams[cut->first + piece] ? PLACE_RING : PLACE_PINNED;
        }
    }
    return status;
}

struct store_pieces store_pieces(const struct store *store, unit_number unit)
{
    if (unit < store->model_units && store->units[unit].place == PLACE_PIECES)
        return store->units[unit].pieces;
    return (struct store_pieces){unit, 1, unit < store->unit_count ? store_unit(store, unit)->bytes : 0};
}
