#include "store/store_private.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#define DEFAULT_BLOCK_BYTES ((uint32_t)1 << 20)
#define DEFAULT_DEPTH 8u
#define MAX_BLOCK_BYTES ((uint32_t)64 << 20)
#define MAX_DEPTH 1024u

/* ---- shared by the other files ----------------------------------------------------------------------------------- */

uint64_t unit_footprint(const struct store *store, unit_number unit)
{
    struct unit_layout layout;
    unit_layout_make(&layout, store_unit(store, unit));
    return layout.footprint;
}

/* In a layout. */
static uint32_t segment_of(const struct unit_layout *layout, uint32_t slice)
{
    uint64_t end = 0;
    uint32_t segment = 0;
    while ((end += layout->segments[segment].bytes) <= layout->slice_position[slice])
        segment++;
    return segment;
}

/* Segments come in the order of the slices, wherever these lie in the file: what is computed first arrives first. */
void transfer_for_unit(struct store *store, struct transfer *transfer, unit_number unit, uint8_t *memory,
                       enum priority priority)
{
    struct unit_layout layout;
    unit_layout_make(&layout, store_unit(store, unit));
    transfer->unit = unit;
    transfer->priority = priority;
    transfer->segment_count = 0;
    for (uint32_t i = 0; i < layout.segment_count; i++) {
        layout.segments[i].memory = memory;
        memory += layout.segments[i].bytes;
    }
    bool taken[UNIT_MAX_SLICES] = {false};
    for (uint32_t i = 0; i < store_unit(store, unit)->slice_count; i++) {
        uint32_t segment = segment_of(&layout, i);
        if (!taken[segment])
            transfer->segments[transfer->segment_count++] = layout.segments[segment];
        taken[segment] = true;
    }
}

/* Whether the first so many slices of an expert that is wanted and on its way are there. */
static bool has_arrived(const struct store *store, unit_number number, uint32_t slices)
{
    const struct stored_unit *unit = &store->units[number];
    if (slices == 0 || unit->place != PLACE_CACHE || unit->stage != STAGE_READING || unit->wants == 0)
        return false;
    struct unit_layout layout;
    unit_layout_make(&layout, store_unit(store, number));
    uint32_t segments = 0;
    bool counted[UNIT_MAX_SLICES] = {false};
    for (uint32_t i = 0; i < slices; i++) {
        uint32_t segment = segment_of(&layout, i);
        segments += !counted[segment];
        counted[segment] = true;
    }
    return io_has_arrived(&store->classes[unit->slot_class].slots[unit->slot].transfer, segments);
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

void store_wait_locked(struct store *store)
{
    struct timespec until;
#ifdef __APPLE__
    clock_gettime(CLOCK_REALTIME, &until);
#else
    clock_gettime(CLOCK_MONOTONIC, &until);
#endif
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    store->waiters++;
    pthread_cond_timedwait(&store->changed, store->mutex, &until);
    store->waiters--;
}

/* On the I/O thread. */
static void transfer_finished(void *context, struct transfer *transfer)
{
    struct store *store = context;
    if (transfer->failure.kind != FAILURE_NONE)
        fill_failed(store, transfer->priority);
    else if (!transfer->abandoned)
        fill_succeeded(store, transfer->priority);
    if (transfer->unit == DEVICE_UNIT)
        device_finished(store, transfer);
    else if (transfer->unit == NO_UNIT)
        pinned_finished(store, transfer);
    else if (store->units[transfer->unit].place == PLACE_RING)
        ring_finished(store, transfer->unit);
    else
        cache_finished(store, transfer->unit);
    guess_pump(store);
    if (store->waiters > 0)
        pthread_cond_broadcast(&store->changed);
}

/* On the I/O thread. */
static void segment_arrived(void *context)
{
    struct store *store = context;
    if (store->parts_will_do)
        pthread_cond_broadcast(&store->changed);
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static hypura_status open_files(struct store *store, const struct store_source *source, bool allow_buffered,
                                hypura_error *error)
{
    hypura_status status = ALLOCATE(&store->files, source->file_count, "files", error);
    if (status)
        return status;
    for (; store->file_count < source->file_count; store->file_count++) {
        status =
            store_file_open(&store->files[store->file_count], source->paths[store->file_count], allow_buffered, error);
        if (status)
            return status;
    }
    return HYPURA_OK;
}

static hypura_status check_units(const struct store *store, hypura_error *error)
{
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        if (unit->slice_count == 0 || unit->slice_count > UNIT_MAX_SLICES)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u has %u slices: expected 1 to %d", i,
                             unit->slice_count, UNIT_MAX_SLICES);
        if (unit->kind == UNIT_EXPERT && unit->layer < 0)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u is an expert of no layer", i);
        for (uint32_t j = 0; j < unit->slice_count; j++) {
            const struct unit_slice *slice = &unit->slices[j];
            if (slice->file >= store->file_count || slice->bytes == 0)
                return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u: slice %u names file %u of %u, %llu bytes", i,
                                 j, slice->file, store->file_count, (unsigned long long)slice->bytes);
            uint64_t bytes = store->files[slice->file].bytes;
            if (slice->offset > bytes || slice->bytes > bytes - slice->offset)
                return error_set(error, HYPURA_ERROR_FORMAT,
                                 "%s has %llu bytes: a tensor's %llu bytes at offset %llu do not lie in it",
                                 store->files[slice->file].path, (unsigned long long)bytes,
                                 (unsigned long long)slice->bytes, (unsigned long long)slice->offset);
        }
    }
    return HYPURA_OK;
}

static hypura_status start_io(struct store *store, const struct store_options *options, const struct io_fault *fault,
                              hypura_error *error)
{
    const struct storage *storage = options->hardware ? &options->hardware->storage : NULL;
    uint32_t block = options->block_bytes ? options->block_bytes : storage ? storage->block_bytes : 0;
    uint32_t depth = options->depth ? options->depth : storage ? storage->depth : 0;
    block = MIN(block ? block : DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES);
    struct io_options io_options = {.reader = options->reader,
                                    .block_bytes = MAX((uint32_t)align_down(block, IO_ALIGNMENT), IO_ALIGNMENT),
                                    .depth = MIN(depth ? depth : DEFAULT_DEPTH, MAX_DEPTH),
                                    .files = store->files,
                                    .file_count = store->file_count,
                                    .fault = fault,
                                    .finished = transfer_finished,
                                    .arrived = segment_arrived,
                                    .context = store};
    hypura_status status = io_create(&store->io, &io_options, error);
    if (!status)
        store->mutex = io_mutex(store->io);
    return status;
}

void make_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#ifndef __APPLE__
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

hypura_status store_open_source(struct store **out, const struct store_source *source,
                                const struct store_options *options, const struct io_fault *fault, hypura_error *error)
{
    struct store *store;
    hypura_status status = ALLOCATE(&store, 1, "weight store", error);
    if (status)
        return status;
    make_condition(&store->changed);
    store->model = source->model;
    store->unit = source->unit;
    store->ring_share = source->ring_bytes;
    store->unpinned = source->moves || source->in_place;
    store->slot_alignment = memory_page_size();
    if (source->in_place && options->gpu)
        store->slot_alignment = MAX(store->slot_alignment, device_import_alignment(options->gpu));
    store->guesses.mode = options->guessing;
    store->guesses.on = options->guessing != STORE_GUESSING_OFF;
    store->pass = FIRST_PASS;
    store->bounce = aligned_alloc(IO_ALIGNMENT, BOUNCE_BYTES);
    if (!store->bounce)
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for small reads");
    if (!status)
        status = pieces_prepare(store, source, error);
    if (!status)
        status = open_files(store, source, options->allow_buffered, error);
    if (!status)
        status = check_units(store, error);
    if (!status) {
        store->layers = 1;
        for (unit_number i = 0; i < store->unit_count; i++)
            store->layers = (uint32_t)MAX((int64_t)store->layers, (int64_t)store_unit(store, i)->layer + 1);
        for (unit_number i = 0; i < store->model_units; i++) {
            if (store->units[i].place != PLACE_PIECES)
                store->units[i].place = source->tiers[i] == TIER_GPU                ? PLACE_GPU
                                        : source->tiers[i] == TIER_RAM              ? PLACE_PINNED
                                        : store_unit(store, i)->kind == UNIT_EXPERT ? PLACE_CACHE
                                        : source->in_ring[i]                        ? PLACE_RING
                                                                                    : PLACE_STORAGE;
        }
        status = pinned_prepare(store, error);
    }
    if (!status && options->gpu)
        status = device_prepare(store, options->gpu, source->experts, error);
    if (!status && options->gpu && source->moves)
        status = moves_prepare(store, source->experts, error);
    if (!status)
        status = start_io(store, options, fault, error);
    if (!status)
        status = ring_prepare(store, source->ring_bytes, error);
    if (!status)
        status = cache_prepare(store, source->expert_cache_bytes, options->cache_policy, error);
    if (!status && options->gpu && source->in_place)
        status = in_place_prepare(store, options->gpu, error);
    if (!status)
        fill_prepare(store, options->fill);
    if (!status)
        status = guess_prepare(store, error);
    if (!status && options->usage_path)
        status = usage_prepare(store, options->usage_path, error);
    if (status) {
        store_close(store);
        return status;
    }
    store->pool_bytes = source->ring_bytes + source->expert_cache_bytes;
    peers_join(store);
    *out = store;
    return HYPURA_OK;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    moves_stop(store);
    peers_leave(store);
    io_destroy(store->io);
    usage_save(store);
    usage_free(store);
    guess_free(store);
    for (unit_number i = 0; store->units && i < store->unit_count; i++)
        free(store->units[i].failure);
    in_place_free(store);
    cache_free(store);
    ring_free(store);
    moves_free(store);
    device_free(store);
    memory_unmap(store->arena, store->arena_bytes);
    memory_free(store->pinned_slices);
    memory_free(store->load);
    for (uint32_t i = 0; i < store->file_count; i++)
        store_file_close(&store->files[i]);
    memory_free(store->files);
    memory_free(store->units);
    memory_free(store->pieces);
    free(store->bounce);
    pthread_cond_destroy(&store->changed);
    memory_free(store);
}

void store_leave(struct store *store)
{
    pthread_mutex_lock(store->mutex);
    usage_save(store);
    pthread_mutex_unlock(store->mutex);
}

/* ---- what the forward pass calls --------------------------------------------------------------------------------- */

hypura_status store_cancelled_error(hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
}

hypura_status store_check_unit(const struct store *store, unit_number unit, hypura_error *error)
{
    if (unit >= store->unit_count)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u: there are %u", unit, store->unit_count);
    if (!store->loaded)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u asked for before the weights were loaded", unit);
    return HYPURA_OK;
}

/* A unit that is asked for whole. */
static hypura_status check_whole_unit(const struct store *store, unit_number unit, hypura_error *error)
{
    hypura_status status = store_check_unit(store, unit, error);
    if (!status && store->units[unit].place >= PLACE_PIECES)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u is %s: the plan holds no room for it", unit,
                         store->units[unit].place == PLACE_PIECES ? "got in pieces" : "read in parts only");
    return status;
}

static void want_locked(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    if (unit->place == PLACE_RING) {
        ring_want(store, number);
    } else {
        guess_wanted(store, number);
        cache_want(store, number);
    }
    unit->wants++;
}

static void pump(struct store *store)
{
    ring_pump(store);
    for (uint32_t i = 0; i < store->class_count; i++)
        cache_pump(store, &store->classes[i]);
}

hypura_status store_want(struct store *store, const unit_number *units, size_t count, hypura_error *error)
{
    for (size_t i = 0; i < count; i++) {
        hypura_status status = check_whole_unit(store, units[i], error);
        if (status)
            return status;
    }
    if (atomic_load(&store->cancelled))
        return store_cancelled_error(error);
    /* All are protected before the first takes room, so that no miss puts out a hit of the same batch. */
    pthread_mutex_lock(store->mutex);
    for (size_t i = 0; i < count; i++) {
        if (!is_fixed(&store->units[units[i]]))
            want_locked(store, units[i]);
    }
    guess_expire(store);
    pump(store);
    pthread_mutex_unlock(store->mutex);
    return HYPURA_OK;
}

static bool is_settled(const struct stored_unit *unit)
{
    return is_fixed(unit) || unit->stage == STAGE_READY || unit->stage == STAGE_FAILED;
}

static bool is_there(const struct store *store, unit_number number, uint32_t slices)
{
    return is_settled(&store->units[number]) || has_arrived(store, number, slices);
}

bool store_ready(struct store *store, unit_number unit)
{
    if (unit >= store->unit_count || !store->loaded)
        return false;
    if (is_fixed(&store->units[unit]))
        return true;
    pthread_mutex_lock(store->mutex);
    bool ready = is_settled(&store->units[unit]);
    pthread_mutex_unlock(store->mutex);
    return ready;
}

static bool force(struct store *store, unit_number unit)
{
    return store->units[unit].place == PLACE_RING ? ring_force(store, unit) : cache_force(store, unit);
}

static hypura_status no_room(const struct store *store, unit_number unit, hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_MEMORY,
                     "no room in the pool of %llu bytes for a unit of %llu: everything in it is in use",
                     (unsigned long long)store->pool_bytes, (unsigned long long)unit_footprint(store, unit));
}

hypura_status store_wait_any(struct store *store, const unit_number *units, size_t count, uint32_t slices,
                             size_t *index, hypura_error *error)
{
    if (count == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "no units to wait for");
    for (size_t i = 0; i < count; i++) {
        hypura_status status = check_whole_unit(store, units[i], error);
        if (status)
            return status;
    }
    hypura_status status = HYPURA_OK;
    uint64_t start = 0;
    pthread_mutex_lock(store->mutex);
    store->parts_will_do = slices > 0;
    for (;;) {
        size_t found = 0, coming = 0;
        while (found < count && !is_there(store, units[found], slices)) {
            const struct stored_unit *unit = &store->units[units[found]];
            coming += unit->stage == STAGE_READING;
            if (unit->wants == 0)
                break;
            found++;
        }
        if (atomic_load(&store->cancelled)) {
            status = store_cancelled_error(error);
        } else if (found < count && !is_there(store, units[found], slices)) {
            status = error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u is waited for and was not wanted", units[found]);
        } else if (found < count) {
            *index = found;
        } else if (coming > 0 || force(store, units[0])) {
            if (start == 0)
                start = clock_nanoseconds();
            if (!cache_populate(store))
                store_wait_locked(store);
            continue;
        } else {
            status = no_room(store, units[0], error);
        }
        break;
    }
    store->parts_will_do = false;
    if (start)
        store->counts.stall_nanoseconds += clock_nanoseconds() - start;
    pthread_mutex_unlock(store->mutex);
    return status;
}

void store_show(const struct store *store, unit_number number, struct store_view *view)
{
    const struct stored_unit *stored = &store->units[number];
    const struct unit *unit = store_unit(store, number);
    *view = (struct store_view){0};
    if (stored->place == PLACE_GPU)
        return;
    if (stored->place == PLACE_PINNED) {
        for (uint32_t i = 0; i < unit->slice_count; i++)
            view->slices[i] = store->pinned_slices[stored->item + i];
        return;
    }
    struct unit_layout layout;
    unit_layout_make(&layout, unit);
    for (uint32_t i = 0; i < unit->slice_count; i++)
        view->slices[i] = stored->memory + layout.slice_position[i];
}

/* Says what went wrong with a read; the want is used up, so that the next one reads again. */
static hypura_status take_failure(struct store *store, struct stored_unit *unit, hypura_error *error)
{
    static const struct failure unknown = {.kind = FAILURE_SYSTEM, .number = EIO};
    hypura_status status = failure_error(unit->failure ? unit->failure : &unknown, store->files, error);
    if (--unit->wants == 0) {
        unit->stage = STAGE_ABSENT;
        free(unit->failure);
        unit->failure = NULL;
    }
    return status;
}

static void released(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    if (unit->wants > 0 || unit->holds > 0)
        return;
    if (unit->place == PLACE_RING)
        ring_released(store, number);
    else
        cache_released(store, number);
}

/* One want less. */
static void forget(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    if (is_fixed(unit) || unit->wants == 0 || --unit->wants > 0)
        return;
    if (unit->stage == STAGE_WAITING) {
        waiting_remove(store,
                       unit->place == PLACE_RING ? &store->ring.waiting : &store->classes[unit->slot_class].waiting,
                       number);
        unit->stage = STAGE_ABSENT;
    } else if (unit->stage == STAGE_FAILED) {
        free(unit->failure);
        unit->failure = NULL;
        unit->stage = STAGE_ABSENT;
    } else if (unit->stage == STAGE_READING) {
        if (unit->place == PLACE_RING)
            ring_unwanted(store, number);
        else
            cache_unwanted(store, number);
    }
    if (unit->place == PLACE_CACHE)
        cache_taken(store, number);
    released(store, number);
}

hypura_status store_get(struct store *store, unit_number number, struct store_view *view, hypura_error *error)
{
    hypura_status status = check_whole_unit(store, number, error);
    if (status)
        return status;
    if (atomic_load_explicit(&store->cancelled, memory_order_relaxed))
        return store_cancelled_error(error);
    struct stored_unit *unit = &store->units[number];
    if (is_fixed(unit)) {
        store_show(store, number, view);
        return HYPURA_OK;
    }
    uint64_t start = 0;
    pthread_mutex_lock(store->mutex);
    if (unit->place == PLACE_RING)
        ring_ask(store, number);
    bool wanted = unit->wants > 0;
    if (!wanted) {
        want_locked(store, number);
        guess_expire(store);
    }
    pump(store);
    while (!is_settled(unit)) {
        if (atomic_load(&store->cancelled)) {
            status = store_cancelled_error(error);
            break;
        }
        if (unit->stage == STAGE_WAITING && !force(store, number)) {
            status = no_room(store, number, error);
            break;
        }
        if (is_settled(unit))
            break;
        if (start == 0)
            start = clock_nanoseconds();
        if (!cache_populate(store))
            store_wait_locked(store);
    }
    if (start)
        store->counts.stall_nanoseconds += clock_nanoseconds() - start;
    if (status && !wanted) {
        forget(store, number);
    } else if (!status && unit->stage == STAGE_FAILED) {
        status = take_failure(store, unit, error);
    } else if (!status) {
        unit->wants--;
        unit->holds++;
        if (unit->place == PLACE_CACHE)
            cache_taken(store, number);
        store_show(store, number, view);
    }
    pthread_mutex_unlock(store->mutex);
    return status;
}

bool store_peek(struct store *store, unit_number number, uint32_t slices, struct store_view *view)
{
    pthread_mutex_lock(store->mutex);
    bool there = has_arrived(store, number, slices);
    if (there)
        store_show(store, number, view);
    pthread_mutex_unlock(store->mutex);
    return there;
}

bool store_get_ready(struct store *store, unit_number number, struct store_view *view)
{
    if (check_whole_unit(store, number, NULL) || atomic_load_explicit(&store->cancelled, memory_order_relaxed))
        return false;
    struct stored_unit *unit = &store->units[number];
    if (is_fixed(unit)) {
        store_show(store, number, view);
        return true;
    }
    if (unit->place != PLACE_RING)
        return false;
    pthread_mutex_lock(store->mutex);
    bool ready = unit->stage == STAGE_READY;
    if (ready) {
        ring_ask(store, number);
        unit->holds++;
        store_show(store, number, view);
        ring_pump(store);
    }
    pthread_mutex_unlock(store->mutex);
    return ready;
}

void store_put(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    if (is_fixed(unit))
        return;
    pthread_mutex_lock(store->mutex);
    unit->holds--;
    released(store, number);
    pthread_mutex_unlock(store->mutex);
}

void store_forget(struct store *store, const unit_number *units, size_t count)
{
    pthread_mutex_lock(store->mutex);
    for (size_t i = 0; i < count; i++)
        forget(store, units[i]);
    pthread_mutex_unlock(store->mutex);
}
