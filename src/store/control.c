/* What other threads ask and change while the forward pass runs: cancelling, statistics, the size of the pool. */
#include "store/internal.h"

void store_cancel(struct store *store, bool cancel)
{
    atomic_store(&store->cancelled, cancel);
    io_hold(store->io, cancel);
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
    result.bytes_guessed = counters.bytes[PRIORITY_GUESS] - loaded->bytes[PRIORITY_GUESS];
    result.bytes_read = result.bytes_demanded + result.bytes_guessed;
    result.read_nanoseconds = counters.busy_nanoseconds - loaded->busy_nanoseconds;
    result.pool_bytes = store->pool_bytes;
    result.pool_bytes_used = store->ring.used + store->cache_used;
    result.pool_least_bytes = store->ring.largest + cache_least(store);
    result.resident_bytes = store->arena_bytes;
    result.guessing = store->guesses.on;
    result.reader = io_reader_name(store->io);
    result.direct = true;
    for (uint32_t i = 0; i < store->file_count; i++)
        result.direct &= store->files[i].direct;
    pthread_mutex_unlock(store->mutex);
    *out = result;
}

uint64_t store_bytes_used(struct store *store)
{
    struct io_counters counters;
    pthread_mutex_lock(store->mutex);
    io_counters(store->io, &counters);
    uint64_t bytes = store->rows_read - store->counts.bytes_wasted - store->unused;
    for (int priority = 0; priority < PRIORITY_COUNT; priority++)
        bytes += counters.bytes[priority];
    pthread_mutex_unlock(store->mutex);
    return bytes;
}

static enum unit_state state_of(const struct store *store, unit_number number)
{
    const struct stored_unit *unit = &store->units[number];
    return unit->place == PLACE_GPU       ? (store->loaded ? UNIT_ON_GPU : UNIT_ON_STORAGE)
           : unit->place == PLACE_PINNED  ? (store->loaded ? UNIT_PINNED : UNIT_ON_STORAGE)
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

void store_count_bytes(struct store *store, unit_number number, uint64_t bytes[UNIT_STATES])
{
    if (number >= store->unit_count)
        return;
    struct store_pieces pieces = store_pieces(store, number);
    pthread_mutex_lock(store->mutex);
    for (uint32_t i = 0; i < pieces.count; i++)
        bytes[state_of(store, pieces.first + i)] += store_unit(store, pieces.first + i)->bytes;
    pthread_mutex_unlock(store->mutex);
}

/* The ring keeps what the plan gave it, as long as experts can use the rest. */
static void divide_pool(const struct store *store, uint64_t bytes, uint64_t *ring, uint64_t *cache)
{
    if (store->ring.count == 0 || store->class_count == 0) {
        *ring = store->ring.count ? bytes : 0;
        *cache = store->class_count ? bytes : 0;
        return;
    }
    uint64_t least = cache_least(store), total = cache_total(store);
    *ring = MIN(MAX(store->ring_share, store->ring.largest), bytes - least);
    if (bytes - *ring > total)
        *ring = bytes - total;
    *cache = bytes - *ring;
}

hypura_status store_resize(struct store *store, uint64_t pool_bytes, hypura_error *error)
{
    pthread_mutex_lock(store->mutex);
    uint64_t least = store->ring.largest + cache_least(store);
    hypura_status status = HYPURA_OK;
    if (pool_bytes < least) {
        status = error_set(error, HYPURA_ERROR_MEMORY, "a pool of %llu bytes is too small: the smallest has %llu",
                           (unsigned long long)pool_bytes, (unsigned long long)least);
    } else {
        uint64_t ring, cache;
        divide_pool(store, pool_bytes, &ring, &cache);
        store->pool_bytes = pool_bytes;
        if (store->ring.count)
            ring_set_capacity(store, ring);
        if (store->class_count)
            cache_set_capacity(store, cache);
        ring_pump(store);
        pthread_cond_broadcast(&store->changed);
    }
    pthread_mutex_unlock(store->mutex);
    return status;
}
