/* Filling: between passes, from the load on, free slots of the expert cache get experts that are not there, from the
 * layer on that comes next. Nothing is put out for it, and when the cache was full once it is over: slots that come
 * free later are those of prefetches that came too late, and the next ones want them. So who opens a model before he
 * asks it something, or looks at an answer before he asks again, waits for no expert that has room. While a pass runs,
 * of this store or of another in the process (peers.c), the drive has better to do: filling in its gaps as well brought
 * nothing. When a read fails it stops until another has shown that the drive works, a number of times. */
#include "store/store_private.h"

/* Experts on their way at once: small ones need several to keep the drive busy. */
#define UNDER_WAY 8u

/* What fails at once is one failure. A drive that has a fault now and then is asked on, a broken one is not. */
#define MOST_FAILURES 8u

void fill_prepare(struct store *store, bool wanted)
{
    struct fill *fill = &store->fill;
    fill->wanted = wanted;
    fill->first = NO_UNIT;
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        const struct slot_class *slot_class = &store->cache.classes[i];
        for (uint32_t j = 0; j < slot_class->unit_count; j++) {
            fill->first = MIN(fill->first, slot_class->units[j]);
            fill->end = MAX(fill->end, slot_class->units[j] + 1);
        }
    }
    fill->next = fill->first;
    pthread_mutex_lock(store->mutex); /* the reading thread runs already */
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
        fill_again(store); /* what did not come has its turn once more */
    fill->failures += !fill->paused;
    fill->paused = true;
}

void fill_succeeded(struct store *store, enum priority priority)
{
    if (priority != PRIORITY_FILL && store->fill.failures < MOST_FAILURES)
        store->fill.paused = false;
}

/* Experts are numbered layer by layer: the first of this layer or a later one. */
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
        /* What comes next is another layer now. */
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
