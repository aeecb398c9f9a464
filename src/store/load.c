/* Loading: units on GPUs, pinned units, and the initial content of the cache. */
#include "store/store_private.h"

#include "store/device_private.h"

/* Locked. Loads experts that would be pinned if they did not move. */
static hypura_status load_cache(struct store *store, store_progress progress, void *context, uint64_t done,
                                uint64_t total, hypura_error *error)
{
    bool more, stopped = false;
    cache_fill(store);
    for (;;) {
        uint64_t filled = cache_filled(store, &more);
        if (!more || stopped)
            break;
        if (!cache_populate(store))
            store_wait_locked(store);
        if (progress) {
            pthread_mutex_unlock(store->mutex);
            stopped = !progress(context, MIN(done + filled, total), total);
            pthread_mutex_lock(store->mutex);
        }
        stopped |= atomic_load(&store->cancelled);
    }
    if (stopped)
        return error_set(error, HYPURA_ERROR_CANCELLED, "loading the weights was cancelled");
    return store_check_files(store, error);
}

hypura_status store_load(struct store *store, store_progress progress, void *context, hypura_error *error)
{
    uint64_t there = devices_bytes(store) + store->pinned.bytes, total = there + cache_load_bytes(store);
    hypura_status status = devices_load(store, total, progress, context, error);
    if (status)
        return status;
    pthread_mutex_lock(store->mutex);
    bool pinned = !store->loaded;
    const bool behind = pinned && store->load_behind && cache_load_bytes(store) == 0;
    if (behind)
        pinned_start(store, devices_bytes(store), total, progress, context);
    else if (pinned)
        status = pinned_load(store, devices_bytes(store), total, progress, context, error);
    if (!status) {
        store->loaded = true;
        status = load_cache(store, progress, context, there, total, error);
        io_counters(store->io, &store->loaded_counters);
        for (uint32_t i = 0; i < io_spread(store->io)->count; i++)
            store->loaded_of[i] = io_spread(store->io)->drives[i].bytes;
        usage_warm(store);
        prefetch_pump(store);
    }
    pthread_mutex_unlock(store->mutex);
    if (!status && pinned && !behind && progress)
        progress(context, total, total);
    return status;
}
