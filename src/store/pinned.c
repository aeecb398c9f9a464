/* Pinned units: the ranges of the files that hold them, sorted and joined, side by side in one arena. */
#include "store/store_private.h"

#include <stdlib.h>

#define POPULATE_BYTES ((uint64_t)32 << 20)

struct pinned_slice {
    const struct unit_slice *slice;
    uint32_t place; /* in store->pinned_slices */
};

static int by_file_and_offset(const void *left, const void *right)
{
    const struct unit_slice *a = ((const struct pinned_slice *)left)->slice;
    const struct unit_slice *b = ((const struct pinned_slice *)right)->slice;
    if (a->file != b->file)
        return a->file < b->file ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Joins sorted slices into ranges; counts only while load is NULL. Positions go into slice_positions, counted from the
 * arena's start. */
static uint32_t join(const struct pinned_slice *slices, uint32_t count, struct transfer *load,
                     uint64_t *slice_positions, uint64_t *arena_bytes)
{
    uint32_t ranges = 0;
    uint64_t position = 0; /* of the range */
    struct segment range = {0};
    for (uint32_t i = 0; i < count; i++) {
        const struct unit_slice *slice = slices[i].slice;
        uint64_t start = align_down(slice->offset, IO_ALIGNMENT);
        uint64_t end = align_up(slice->offset + slice->bytes, IO_ALIGNMENT);
        if (ranges == 0 || range.file != slice->file || range.offset + range.bytes < start) {
            position += range.bytes;
            range = (struct segment){.file = slice->file, .offset = start};
            ranges++;
        }
        range.bytes = MAX(range.bytes, end - range.offset);
        range.needed = MAX(range.needed, slice->offset + slice->bytes - range.offset);
        if (load) {
            load[ranges - 1].segments[0] = range;
            slice_positions[slices[i].place] = position + (slice->offset - range.offset);
        }
    }
    *arena_bytes = position + range.bytes;
    return ranges;
}

static hypura_status place_slices(struct store *store, struct pinned_slice *slices, uint32_t count, hypura_error *error)
{
    uint64_t *positions = NULL;
    qsort(slices, count, sizeof *slices, by_file_and_offset);
    store->load_count = join(slices, count, NULL, NULL, &store->arena_bytes);
    hypura_status status = ALLOCATE(&positions, count, "table of weights", error);
    if (!status)
        status = ALLOCATE(&store->load, store->load_count, "table of weights", error);
    if (!status)
        status = memory_map((void **)&store->arena, store->arena_bytes, true, "pinned weights", error);
    if (!status) {
        join(slices, count, store->load, positions, &store->arena_bytes);
        uint8_t *memory = store->arena;
        for (uint32_t i = 0; i < store->load_count; i++) {
            store->load[i].segments[0].memory = memory;
            store->load[i].segment_count = 1;
            store->load[i].unit = NO_UNIT;
            memory += store->load[i].segments[0].bytes;
        }
        for (uint32_t i = 0; i < count; i++)
            store->pinned_slices[i] = store->arena + positions[i];
    }
    memory_free(positions);
    return status;
}

hypura_status pinned_prepare(struct store *store, hypura_error *error)
{
    uint32_t count = 0;
    for (unit_number i = 0; i < store->unit_count; i++) {
        if (store->units[i].place != PLACE_PINNED)
            continue;
        store->units[i].item = count;
        count += store_unit(store, i)->slice_count;
    }
    if (count == 0) {
        store->loaded = true;
        return HYPURA_OK;
    }
    struct pinned_slice *slices;
    hypura_status status = ALLOCATE(&slices, count, "table of weights", error);
    if (status)
        return status;
    status = ALLOCATE(&store->pinned_slices, count, "table of weights", error);
    if (!status) {
        uint32_t place = 0;
        for (unit_number i = 0; i < store->unit_count; i++) {
            const struct unit *unit = store_unit(store, i);
            for (uint32_t j = 0; store->units[i].place == PLACE_PINNED && j < unit->slice_count; j++, place++)
                slices[place] = (struct pinned_slice){&unit->slices[j], place};
        }
        status = place_slices(store, slices, count, error);
    }
    memory_free(slices);
    return status;
}

void pinned_finished(struct store *store, struct transfer *transfer)
{
    if (transfer->failure.kind != FAILURE_NONE && store->load_failure.kind == FAILURE_NONE)
        store->load_failure = transfer->failure;
    store->load_left--;
    pthread_cond_broadcast(&store->changed);
}

static uint64_t bytes_done(const struct store *store)
{
    uint64_t done = 0;
    for (uint32_t i = 0; i < store->load_count; i++)
        done += MIN(store->load[i].bytes_read, store->load[i].segments[0].bytes);
    return done;
}

static void abandon_load(struct store *store)
{
    for (uint32_t i = 0; i < store->load_count; i++) {
        if (store->load[i].state != TRANSFER_IDLE && !store->load[i].abandoned &&
            io_abandon(store->io, &store->load[i]))
            store->load_left--;
    }
}

/* Locked. Experts that would be pinned if they did not move. */
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
    uint64_t total = store->arena_bytes + device_bytes(store) + cache_load_bytes(store);
    hypura_status loaded = device_load(store, progress, context, error);
    if (loaded)
        return loaded;
    pthread_mutex_lock(store->mutex);
    if (store->loaded) {
        hypura_status status = load_cache(store, progress, context, device_bytes(store), total, error);
        io_counters(store->io, &store->loaded_counters);
        usage_warm(store);
        guess_pump(store);
        pthread_mutex_unlock(store->mutex);
        return status;
    }
    bool stopped = false;
    store->load_failure.kind = FAILURE_NONE;
    store->load_left = store->load_count;
    for (uint32_t i = 0; i < store->load_count; i++)
        io_start(store->io, &store->load[i]);
    uint64_t populated = 0;
    while (store->load_left > 0) {
        if (populated < store->arena_bytes && !stopped) {
            /* This thread has nothing to do, and clearing fresh pages would keep the I/O thread from the drive. */
            uint64_t bytes = MIN(POPULATE_BYTES, store->arena_bytes - populated);
            pthread_mutex_unlock(store->mutex);
            memory_populate(store->arena + populated, bytes);
            pthread_mutex_lock(store->mutex);
            populated += bytes;
        } else if (stopped || !cache_populate(store)) {
            store_wait_locked(store);
        }
        uint64_t done = device_bytes(store) + bytes_done(store);
        if (progress && !stopped) {
            pthread_mutex_unlock(store->mutex);
            stopped = !progress(context, done, total);
            pthread_mutex_lock(store->mutex);
        }
        stopped |= atomic_load(&store->cancelled);
        if (stopped || store->load_failure.kind != FAILURE_NONE)
            abandon_load(store);
    }
    hypura_status status = HYPURA_OK;
    if (store->load_failure.kind != FAILURE_NONE) {
        status = failure_error(&store->load_failure, store->files, error);
    } else if (stopped) {
        status = error_set(error, HYPURA_ERROR_CANCELLED, "loading the weights was cancelled");
    } else {
        store->loaded = true;
        memory_free(store->load);
        store->load = NULL;
        status = load_cache(store, progress, context, store->arena_bytes + device_bytes(store), total, error);
        io_counters(store->io, &store->loaded_counters);
        usage_warm(store);
        guess_pump(store);
    }
    pthread_mutex_unlock(store->mutex);
    if (!status && progress)
        progress(context, total, total);
    return status;
}
