/* What other threads query and change while the forward pass runs: cancelling, statistics, the size of the pool. */
#include "store/store_private.h"

#include <stdio.h>

void store_cancel(struct store *store, bool cancel)
{
    atomic_store(&store->cancelled, cancel);
    io_hold(store->io, cancel);
    if (cancel)
        return;
    pthread_mutex_lock(store->mutex);
    io_wake(store->io);
    prefetch_pump(store);
    pthread_mutex_unlock(store->mutex);
}

static void tell_drives(const struct store *store, struct store_statistics *out)
{
    const struct spread *spread = io_spread(store->io);
    out->drive_count = spread->count;
    for (uint32_t i = 0; i < spread->count; i++) {
        struct store_drive *drive = &out->drives[i];
        snprintf(drive->name, sizeof drive->name, "%s", store->drive_names[i]);
        drive->bytes_read = spread->drives[i].bytes - (store->loaded ? store->loaded_of[i] : 0);
        drive->bytes_per_second = spread_speed(&spread->drives[i]);
        drive->copies_left = 0;
    }
    for (uint32_t i = 0; i < store->file_count * store->copy_count; i++)
        if (store->files[i].path && store->files[i].left)
            out->drives[store->files[i].drive].copies_left++;
}

void store_statistics(struct store *store, struct store_statistics *out)
{
    struct io_counters counters;
    pthread_mutex_lock(store->mutex);
    struct store_statistics result = store->counts;
    io_counters(store->io, &counters);
    const struct io_counters *loaded = store->loaded ? &store->loaded_counters : &counters;
    result.bytes_loaded = loaded->bytes[PRIORITY_DEMAND] + loaded->bytes[PRIORITY_AHEAD];
    result.bytes_demanded = counters.bytes[PRIORITY_DEMAND] - loaded->bytes[PRIORITY_DEMAND] +
                            counters.bytes[PRIORITY_AHEAD] - loaded->bytes[PRIORITY_AHEAD] + store->rows_read;
    result.bytes_prefetched = counters.bytes[PRIORITY_PREFETCH] - loaded->bytes[PRIORITY_PREFETCH];
    result.bytes_filled = counters.bytes[PRIORITY_FILL] - loaded->bytes[PRIORITY_FILL];
    result.bytes_read = result.bytes_demanded + result.bytes_prefetched + result.bytes_filled;
    result.read_nanoseconds = counters.busy_nanoseconds - loaded->busy_nanoseconds;
    result.pool_bytes = store->pool_bytes - store->ring.lent;
    result.pool_bytes_used = store->ring.used + store->cache.used;
    result.pool_least_bytes = store->ring.least + cache_least(store);
    result.resident_bytes = store->pinned.bytes - (store->ring.given - store->ring.to_give);
    result.prefetching = store->prefetch.on;
    result.reader = io_reader_name(store->io);
    result.direct = true;
    for (uint32_t i = 0; i < store->file_count; i++)
        result.direct &= store->files[i].direct;
    tell_drives(store, &result);
    pthread_mutex_unlock(store->mutex);
    *out = result;
}

uint64_t store_bytes_used(struct store *store)
{
    struct io_counters counters;
    pthread_mutex_lock(store->mutex);
    io_counters(store->io, &counters);
    uint64_t bytes = store->rows_read - store->counts.bytes_wasted - store->cache.unused - store->pinned.came;
    for (int priority = 0; priority < PRIORITY_FILL; priority++)
        bytes += counters.bytes[priority];
    pthread_mutex_unlock(store->mutex);
    return bytes;
}

static enum unit_state state_of(const struct store *store, unit_number number)
{
    const struct stored_unit *unit = &store->units[number];
    return unit->place == PLACE_GPU ? (store->loaded ? UNIT_ON_GPU : UNIT_ON_STORAGE)
           : unit->place == PLACE_PINNED
               ? (store->loaded && pinned_is_there(store, number) ? UNIT_PINNED : UNIT_ON_STORAGE)
           : unit->stage == STAGE_READY   ? UNIT_CACHED
           : unit->stage == STAGE_READING ? UNIT_IN_FLIGHT
                                          : UNIT_ON_STORAGE;
}

enum unit_state store_unit_state(struct store *store, unit_number number)
{
    if (number >= store->unit_count)
        return UNIT_ON_STORAGE;
    pthread_mutex_lock(store->mutex);
    enum unit_state state = state_of(store, number);
    pthread_mutex_unlock(store->mutex);
    return state;
}

int store_node_of(const struct store *store, const void *weights)
{
    const uint8_t *memory = weights;
    for (uint32_t i = 0; places_any(&store->places) && i < store->cache.class_count; i++) {
        const struct slot_class *slot_class = &store->cache.classes[i];
        if (memory >= slot_class->memory &&
            memory < slot_class->memory + slot_class->size->stride * slot_class->size->unit_count)
            return (int)places_node_of_slot(
                &store->places, (uint32_t)((uint64_t)(memory - slot_class->memory) / slot_class->size->stride));
    }
    return places_find(&store->places, memory);
}

void store_count_bytes(struct store *store, unit_number number, uint64_t bytes[UNIT_STATES])
{
    if (number >= store->unit_count)
        return;
    pthread_mutex_lock(store->mutex);
    struct store_pieces pieces = store_pieces(store, number);
    for (uint32_t i = 0; i < pieces.count; i++)
        bytes[state_of(store, pieces.first + i)] += store_unit(store, pieces.first + i)->bytes;
    pthread_mutex_unlock(store->mutex);
}

/* The ring keeps its planned size as long as experts can use the rest. */
static void divide_pool(const struct store *store, uint64_t bytes, uint64_t *ring, uint64_t *cache)
{
    if (store->ring.count == 0 || store->cache.class_count == 0) {
        *ring = store->ring.count ? bytes : 0;
        *cache = store->cache.class_count ? bytes : 0;
        return;
    }
    uint64_t least = cache_least(store), total = cache_total(store);
    *ring = MIN(MAX(store->ring.share, store->ring.least), bytes - least);
    if (bytes - *ring > total)
        *ring = bytes - total;
    *cache = bytes - *ring;
}

/* Releases as many bytes of resident pieces as the pool lacks to its usual size, if there are that many. If experts
 * share the pool, they are released first. */
static void ask_of_pieces(struct store *store, int64_t room, uint64_t least)
{
    struct ring *ring = &store->ring;
    int64_t wanted = (int64_t)(store->cache.class_count ? least : MAX(least, ring->window));
    if (room >= wanted)
        return;
    ring->to_give = MIN((uint64_t)(wanted - room), ring->kept);
    ring->given += ring->to_give;
}

hypura_status store_resize(struct store *store, int64_t pool_bytes, hypura_error *error)
{
    pthread_mutex_lock(store->mutex);
    uint64_t least = store->ring.least + cache_least(store);
    hypura_status status = HYPURA_OK;
    /* Pieces that were promised but not yet released may stay. */
    uint64_t given = store->ring.given, to_give = store->ring.to_give;
    store->ring.given -= to_give;
    store->ring.to_give = 0;
    ask_of_pieces(store, pool_bytes + (int64_t)store->ring.given, least);
    int64_t room = pool_bytes + (int64_t)store->ring.given;
    if (room < (int64_t)least) {
        store->ring.given = given;
        store->ring.to_give = to_give;
        status = error_set(error, HYPURA_ERROR_MEMORY, "%lld bytes are missing for the smallest pool that works",
                           (long long)((int64_t)least - room));
    } else {
        uint64_t ring, cache;
        divide_pool(store, (uint64_t)room, &ring, &cache);
        store->pool_bytes = (uint64_t)room;
        /* Until promised pieces are released, the ring is smaller by as much as it can be. */
        store->ring.lent = MIN(align_up(store->ring.to_give, memory_page_size()), ring - MIN(ring, store->ring.least));
        if (store->ring.count)
            ring_set_capacity(store, ring - store->ring.lent);
        if (store->cache.class_count)
            cache_set_capacity(store, cache + store->lent);
        if (!store->cache.grows_at_rest)
            fill_again(store);
        if (store->loaded && !store->passing)
            ring_give_back(store);
        ring_pump(store);
        prefetch_pump(store);
        pthread_cond_broadcast(&store->changed);
    }
    pthread_mutex_unlock(store->mutex);
    return status;
}

void store_lend(struct store *store, uint64_t bytes)
{
    pthread_mutex_lock(store->mutex);
    if (store->cache.class_count && bytes != store->lent) {
        uint64_t ring, cache;
        divide_pool(store, store->pool_bytes, &ring, &cache);
        store->lent = bytes;
        cache_set_capacity(store, cache + bytes);
        fill_again(store);
        prefetch_pump(store);
        pthread_cond_broadcast(&store->changed);
    }
    pthread_mutex_unlock(store->mutex);
}
