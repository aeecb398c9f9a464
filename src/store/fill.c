/* Filling: between passes, from the load on, free slots of the expert cache get missing experts, beginning with the
 * layer that comes next. Nothing is evicted for it, and an expert whose reading is not done gives its slot to a demand
 * or a prefetch: in the short breaks between passes it would be done only after many tokens. Once the cache was full,
 * filling ends: slots that become free later belonged to prefetches that were too late, and the next prefetches need
 * them. So if there is some time between opening a model and the first prompt, or between two prompts, no expert that
 * has room is waited for. Nothing is filled while a pass runs in this store or another one of the process (peers.c);
 * filling the drive's gaps then gained nothing. After a failed read, filling stops until another read succeeds; after
 * MOST_FAILURES it stops for good. */
#include "store/store_private.h"

/* Experts in flight at once; small ones need several to keep the drive busy. */
#define UNDER_WAY 8u

/* Reads that fail together count once. A drive with rare faults is still used, a broken one is not. */
#define MOST_FAILURES 8u

void fill_prepare(struct store *store, bool wanted)
{
    struct fill *fill = &store->fill;
    fill->wanted = wanted;
    fill->first = NO_UNIT;
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        const struct slot_class *slot_class = &store->cache.classes[i];
        for (uint32_t j = 0; j < slot_class->size->unit_count; j++) {
            fill->first = MIN(fill->first, slot_class->units[j]);
            fill->end = MAX(fill->end, slot_class->units[j] + 1);
        }
    }
    fill->next = fill->first;
    pthread_mutex_lock(store->mutex); /* the I/O thread runs already */
    io_fill(store->io, true);
    pthread_mutex_unlock(store->mutex);
    fill_again(store);
}

void fill_again(struct store *store)
{
    struct fill *fill = &store->fill;
    fill->left = fill->wanted && fill->first != NO_UNIT ? fill->end - fill->first : 0;
}

void fill_failed(struct store *store, enum priority priority)
{
    struct fill *fill = &store->fill;
    if (priority == PRIORITY_FILL)
        fill_again(store); /* a unit that did not arrive gets another turn */
    fill->failures += !fill->paused;
    fill->paused = true;
}

void fill_succeeded(struct store *store, enum priority priority)
{
    if (priority != PRIORITY_FILL && store->fill.failures < MOST_FAILURES)
        store->fill.paused = false;
}

/* The first expert of this layer or of a later one; experts are numbered layer by layer. */
static unit_number first_of(const struct store *store, int32_t layer)
{
    unit_number from = store->fill.first, end = store->fill.end;
    while (from < end) {
        unit_number middle = from + (end - from) / 2;
        if (store_unit(store, middle)->layer < layer)
            from = middle + 1;
        else
            end = middle;
    }
    return from;
}

static bool can_bring(const struct store *store, unit_number number)
{
    const struct stored_unit *unit = &store->units[number];
    return unit->place == PLACE_CACHE && unit->stage == STAGE_ABSENT &&
           store->cache.classes[unit->slot_class].free != NO_SLOT;
}

static unit_number next_unit(struct store *store)
{
    struct fill *fill = &store->fill;
    if (fill->left > 0 && fill->tick != store->tick) {
        /* The next layer has changed. */
        fill->next = first_of(store, store->tick ? (int32_t)(store->tick % store->layers) + 1 : 0);
        fill->left = fill->end - fill->first;
        fill->tick = store->tick;
    }
    while (fill->left > 0) {
        if (fill->next >= fill->end)
            fill->next = fill->first;
        fill->left--;
        unit_number unit = fill->next++;
        if (can_bring(store, unit))
            return unit;
    }
    return NO_UNIT;
}

void fill_pump(struct store *store)
{
    bool room = false;
    if (store->fill.paused)
        return;
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        if (store->cache.classes[i].waiting.first != NO_UNIT)
            return;
        room |= store->cache.classes[i].free != NO_SLOT;
    }
    if (!room)
        store->fill.left = 0;
    while (room && io_unfinished(store->io, PRIORITY_FILL) < UNDER_WAY) {
        unit_number unit = next_unit(store);
        if (unit == NO_UNIT)
            return;
        cache_bring(store, unit, PRIORITY_FILL);
    }
}
