/* The ranges of the files that hold pinned units are sorted and joined. */
#include "store/store_private.h"

#include <stdlib.h>

#define POPULATE_BYTES ((uint64_t)32 << 20)

struct pinned_slice {
    const struct unit_slice *slice;
    uint32_t place; /* in store->pinned.slices */
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
    store->pinned.load_count = join(slices, count, NULL, NULL, &store->pinned.bytes);
    hypura_status status = ALLOCATE(&positions, count, "table of weights", error);
    if (!status)
        status = ALLOCATE(&store->pinned.load, store->pinned.load_count, "table of weights", error);
    if (!status)
        status = memory_map((void **)&store->pinned.memory, store->pinned.bytes, true, "pinned weights", error);
    if (!status) {
        join(slices, count, store->pinned.load, positions, &store->pinned.bytes);
        uint8_t *memory = store->pinned.memory;
        for (uint32_t i = 0; i < store->pinned.load_count; i++) {
            store->pinned.load[i].segments[0].memory = memory;
            store->pinned.load[i].segment_count = 1;
            store->pinned.load[i].unit = NO_UNIT;
            memory += store->pinned.load[i].segments[0].bytes;
        }
        for (uint32_t i = 0; i < count; i++)
            store->pinned.slices[i] = store->pinned.memory + positions[i];
    }
    memory_free(positions);
    return status;
}

static hypura_status place_on_nodes(struct store *store, uint32_t count, hypura_error *error)
{
    struct places *places = &store->places;
    uint32_t experts = 0;
    hypura_status status = places_reserve(places, count, error);
    if (status || !places_any(places))
        return status;
    for (unit_number i = 0; i < store->unit_count; i++)
        experts = (uint32_t)MAX((int64_t)experts, (int64_t)store_unit(store, i)->expert + 1);
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        for (uint32_t j = 0; store->units[i].place == PLACE_PINNED && j < unit->slice_count; j++) {
            uint8_t *memory = store->pinned.slices[store->units[i].item + j];
            if (unit->kind == UNIT_EXPERT)
                places_add(places, memory, unit->slices[j].bytes, (uint32_t)unit->expert, experts);
            else
                places_split(places, memory, unit->slices[j].bytes);
        }
    }
    places_settle(places);
    return HYPURA_OK;
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
    status = ALLOCATE(&store->pinned.slices, count, "table of weights", error);
    if (!status) {
        uint32_t place = 0;
        for (unit_number i = 0; i < store->unit_count; i++) {
            const struct unit *unit = store_unit(store, i);
            for (uint32_t j = 0; store->units[i].place == PLACE_PINNED && j < unit->slice_count; j++, place++)
                slices[place] = (struct pinned_slice){&unit->slices[j], place};
        }
        status = place_slices(store, slices, count, error);
    }
    if (!status)
        status = place_on_nodes(store, count, error);
    memory_free(slices);
    return status;
}

void pinned_finished(struct store *store, struct transfer *transfer)
{
    if (transfer->failure.kind != FAILURE_NONE && store->pinned.failure.kind == FAILURE_NONE)
        store->pinned.failure = transfer->failure;
    store->pinned.load_left--;
    pthread_cond_broadcast(&store->changed);
}

static uint64_t bytes_done(const struct store *store)
{
    uint64_t done = 0;
    for (uint32_t i = 0; i < store->pinned.load_count; i++)
        done += MIN(store->pinned.load[i].bytes_read, store->pinned.load[i].segments[0].bytes);
    return done;
}

static void abandon_load(struct store *store)
{
    for (uint32_t i = 0; i < store->pinned.load_count; i++) {
        if (store->pinned.load[i].state != TRANSFER_IDLE && !store->pinned.load[i].abandoned &&
            io_abandon(store->io, &store->pinned.load[i]))
            store->pinned.load_left--;
    }
}

/* Locked. */
static void load_ranges(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context,
                        bool *stopped)
{
    uint64_t populated = 0;
    while (store->pinned.load_left > 0) {
        if (populated < store->pinned.bytes && !*stopped) {
            /* This thread has nothing to do, and clearing fresh pages would keep the I/O thread from the drive. */
            uint64_t bytes = MIN(POPULATE_BYTES, store->pinned.bytes - populated);
            pthread_mutex_unlock(store->mutex);
            memory_populate(store->pinned.memory + populated, bytes);
            pthread_mutex_lock(store->mutex);
            populated += bytes;
        } else if (*stopped || !cache_populate(store)) {
            store_wait_locked(store);
        }
        uint64_t done = before + bytes_done(store);
        if (progress && !*stopped) {
            pthread_mutex_unlock(store->mutex);
            *stopped = !progress(context, done, total);
            pthread_mutex_lock(store->mutex);
        }
        *stopped |= atomic_load(&store->cancelled);
        if (*stopped || store->pinned.failure.kind != FAILURE_NONE)
            abandon_load(store);
    }
}

hypura_status pinned_load(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context,
                          hypura_error *error)
{
    struct pinned *pinned = &store->pinned;
    bool stopped = false;
    pinned->failure.kind = FAILURE_NONE;
    pinned->load_left = pinned->load_count;
    for (uint32_t i = 0; i < pinned->load_count; i++)
        io_start(store->io, &pinned->load[i]);
    load_ranges(store, before, total, progress, context, &stopped);
    if (pinned->failure.kind != FAILURE_NONE)
        return failure_error(&pinned->failure, store->files, error);
    if (stopped)
        return error_set(error, HYPURA_ERROR_CANCELLED, "loading the weights was cancelled");
    memory_free(pinned->load);
    pinned->load = NULL;
    return HYPURA_OK;
}

void pinned_free(struct store *store)
{
    memory_unmap(store->pinned.memory, store->pinned.bytes);
    memory_free(store->pinned.slices);
    memory_free(store->pinned.load);
}
