#include "store/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BOUNCE_BYTES ((size_t)256 << 10)
#define DEFAULT_BLOCK_BYTES ((uint32_t)1 << 20)
#define DEFAULT_DEPTH 8u
#define MAX_BLOCK_BYTES ((uint32_t)64 << 20)
#define MAX_DEPTH 1024u

/* ---- shared by the other files ----------------------------------------------------------------------------------- */

uint64_t unit_footprint(const struct store *store, unit_number unit)
{
    struct unit_layout layout;
    unit_layout_make(&layout, store->unit(store->model, unit));
    return layout.footprint;
}

void transfer_for_unit(struct store *store, struct transfer *transfer, unit_number unit, uint8_t *memory,
                       enum priority priority)
{
    struct unit_layout layout;
    unit_layout_make(&layout, store->unit(store->model, unit));
    transfer->unit = unit;
    transfer->priority = priority;
    transfer->segment_count = layout.segment_count;
    for (uint32_t i = 0; i < layout.segment_count; i++) {
        transfer->segments[i] = layout.segments[i];
        transfer->segments[i].memory = memory;
        memory += layout.segments[i].bytes;
    }
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
        const struct unit *unit = store->unit(store->model, i);
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
                                    .context = store};
    hypura_status status = io_create(&store->io, &io_options, error);
    if (!status)
        store->mutex = io_mutex(store->io);
    return status;
}

static void make_condition(pthread_cond_t *condition)
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
    store->unit_count = source->unit_count;
    store->ring_share = source->ring_bytes;
    store->guesses.mode = options->guessing;
    store->guesses.on = options->guessing != STORE_GUESSING_OFF;
    store->pass = FIRST_PASS;
    store->bounce = aligned_alloc(IO_ALIGNMENT, BOUNCE_BYTES);
    if (!store->bounce)
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for small reads");
    if (!status)
        status = ALLOCATE(&store->units, store->unit_count, "table of units", error);
    if (!status)
        status = open_files(store, source, options->allow_buffered, error);
    if (!status)
        status = check_units(store, error);
    if (!status) {
        store->layers = 1;
        for (unit_number i = 0; i < store->unit_count; i++)
            store->layers = (uint32_t)MAX((int64_t)store->layers, (int64_t)store->unit(store->model, i)->layer + 1);
        for (unit_number i = 0; i < store->unit_count; i++)
            store->units[i].place = source->tiers[i] == TIER_GPU                        ? PLACE_GPU
                                    : source->tiers[i] == TIER_RAM                      ? PLACE_PINNED
                                    : store->unit(store->model, i)->kind == UNIT_EXPERT ? PLACE_CACHE
                                    : source->in_ring[i]                                ? PLACE_RING
                                                                                        : PLACE_STORAGE;
        status = pinned_prepare(store, error);
    }
    if (!status && options->gpu)
        status = device_prepare(store, options->gpu, source->experts, error);
    if (!status)
        status = start_io(store, options, fault, error);
    if (!status)
        status = ring_prepare(store, source->ring_bytes, error);
    if (!status)
        status = cache_prepare(store, source->expert_cache_bytes, options->cache_policy, error);
    if (!status)
        status = guess_prepare(store, error);
    if (!status && options->usage_path)
        status = usage_prepare(store, options->usage_path, error);
    if (status) {
        store_close(store);
        return status;
    }
    store->pool_bytes = source->ring_bytes + source->expert_cache_bytes;
    *out = store;
    return HYPURA_OK;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    io_destroy(store->io);
    usage_save(store);
    usage_free(store);
    guess_free(store);
    for (unit_number i = 0; store->units && i < store->unit_count; i++)
        free(store->units[i].failure);
    cache_free(store);
    ring_free(store);
    device_free(store);
    memory_unmap(store->arena, store->arena_bytes);
    memory_free(store->pinned_slices);
    memory_free(store->load);
    for (uint32_t i = 0; i < store->file_count; i++)
        store_file_close(&store->files[i]);
    memory_free(store->files);
    memory_free(store->units);
    free(store->bounce);
    pthread_cond_destroy(&store->changed);
    memory_free(store);
}

/* ---- what the forward pass calls --------------------------------------------------------------------------------- */

static hypura_status cancelled_error(hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
}

static hypura_status check_unit(const struct store *store, unit_number unit, hypura_error *error)
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
    hypura_status status = check_unit(store, unit, error);
    if (!status && store->units[unit].place == PLACE_STORAGE)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u is read in parts only: the plan holds no room for it",
                         unit);
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
        return cancelled_error(error);
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

hypura_status store_wait_any(struct store *store, const unit_number *units, size_t count, size_t *index,
                             hypura_error *error)
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
    for (;;) {
        size_t found = 0, coming = 0;
        while (found < count && !is_settled(&store->units[units[found]])) {
            const struct stored_unit *unit = &store->units[units[found]];
            coming += unit->stage == STAGE_READING;
            if (unit->wants == 0)
                break;
            found++;
        }
        if (atomic_load(&store->cancelled)) {
            status = cancelled_error(error);
        } else if (found < count && !is_settled(&store->units[units[found]])) {
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
    if (start)
        store->counts.stall_nanoseconds += clock_nanoseconds() - start;
    pthread_mutex_unlock(store->mutex);
    return status;
}

static void show(const struct store *store, unit_number number, struct store_view *view)
{
    const struct stored_unit *stored = &store->units[number];
    const struct unit *unit = store->unit(store->model, number);
    *view = (struct store_view){0};
    if (stored->place == PLACE_GPU) {
        device_show(store, number, view);
        return;
    }
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

hypura_status store_get(struct store *store, unit_number number, struct store_view *view, hypura_error *error)
{
    hypura_status status = check_whole_unit(store, number, error);
    if (status)
        return status;
    if (atomic_load_explicit(&store->cancelled, memory_order_relaxed))
        return cancelled_error(error);
    struct stored_unit *unit = &store->units[number];
    if (is_fixed(unit)) {
        show(store, number, view);
        return HYPURA_OK;
    }
    uint64_t start = 0;
    pthread_mutex_lock(store->mutex);
    if (unit->place == PLACE_RING)
        ring_ask(store, number);
    if (unit->wants == 0) {
        want_locked(store, number);
        guess_expire(store);
    }
    pump(store);
    while (!is_settled(unit)) {
        if (atomic_load(&store->cancelled)) {
            status = cancelled_error(error);
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
    if (!status && unit->stage == STAGE_FAILED) {
        status = take_failure(store, unit, error);
    } else if (!status) {
        unit->wants--;
        unit->holds++;
        if (unit->place == PLACE_CACHE)
            cache_taken(store, number);
        show(store, number, view);
    }
    pthread_mutex_unlock(store->mutex);
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
    for (size_t i = 0; i < count; i++) {
        struct stored_unit *unit = &store->units[units[i]];
        if (is_fixed(unit) || unit->wants == 0 || --unit->wants > 0)
            continue;
        if (unit->stage == STAGE_WAITING) {
            waiting_remove(store,
                           unit->place == PLACE_RING ? &store->ring.waiting : &store->classes[unit->slot_class].waiting,
                           units[i]);
            unit->stage = STAGE_ABSENT;
        } else if (unit->stage == STAGE_FAILED) {
            free(unit->failure);
            unit->failure = NULL;
            unit->stage = STAGE_ABSENT;
        } else if (unit->stage == STAGE_READING) {
            if (unit->place == PLACE_RING)
                ring_unwanted(store, units[i]);
            else
                cache_unwanted(store, units[i]);
        }
        if (unit->place == PLACE_CACHE)
            cache_taken(store, units[i]);
        released(store, units[i]);
    }
    pthread_mutex_unlock(store->mutex);
}

/* ---- small reads ------------------------------------------------------------------------------------------------- */

/* One aligned range through the bounce buffer. */
static hypura_status read_piece(struct store *store, uint32_t file, uint64_t offset, size_t bytes, uint8_t *out,
                                hypura_error *error)
{
    const struct store_file *opened = &store->files[file];
    uint64_t start = align_down(offset, IO_ALIGNMENT);
    size_t wanted = (size_t)(offset - start) + bytes, whole = (size_t)align_up(wanted, IO_ALIGNMENT), have = 0;
    for (unsigned attempts = 0; have < wanted;) {
        ssize_t got = pread(opened->descriptor, store->bounce + have, whole - have, (off_t)(start + have));
        if (got < 0 && errno != EINTR && (errno != EAGAIN || ++attempts > 1000))
            return error_set_errno(error, errno, "cannot read %zu bytes at offset %llu of %s", bytes,
                                   (unsigned long long)offset, opened->path);
        if (got < 0)
            continue;
        if ((size_t)got + have >= wanted) {
            have += (size_t)got;
            break;
        }
        size_t progress = (size_t)align_down((uint64_t)got, IO_ALIGNMENT);
        if (progress == 0)
            return failure_error(&(struct failure){.kind = FAILURE_TRUNCATED,
                                                   .file = file,
                                                   .offset = offset,
                                                   .expected = bytes,
                                                   .found = start + have + (size_t)got > offset
                                                                ? start + have + (size_t)got - offset
                                                                : 0},
                                 store->files, error);
        have += progress;
    }
    memcpy(out, store->bounce + (offset - start), bytes);
#ifdef POSIX_FADV_DONTNEED
    if (!opened->direct)
        posix_fadvise(opened->descriptor, (off_t)start, (off_t)whole, POSIX_FADV_DONTNEED);
#endif
    pthread_mutex_lock(store->mutex);
    store->rows_read += have;
    pthread_mutex_unlock(store->mutex);
    return HYPURA_OK;
}

hypura_status store_read(struct store *store, unit_number number, uint64_t offset, uint64_t bytes, void *out,
                         hypura_error *error)
{
    hypura_status status = check_unit(store, number, error);
    if (status)
        return status;
    const struct unit *unit = store->unit(store->model, number);
    const struct unit_slice *slice = &unit->slices[0];
    if (unit->slice_count != 1 || offset > slice->bytes || bytes > slice->bytes - offset)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%llu bytes at %llu of unit %u, which has %llu bytes in %u slices: expected a part of one",
                         (unsigned long long)bytes, (unsigned long long)offset, number,
                         (unsigned long long)slice->bytes, unit->slice_count);
    if (store->units[number].place == PLACE_PINNED) {
        memcpy(out, store->pinned_slices[store->units[number].item] + offset, bytes);
        return HYPURA_OK;
    }
    uint8_t *to = out;
    while (bytes > 0) {
        if (atomic_load(&store->cancelled))
            return cancelled_error(error);
        size_t part = (size_t)MIN(bytes, (uint64_t)(BOUNCE_BYTES - IO_ALIGNMENT));
        status = read_piece(store, slice->file, slice->offset + offset, part, to, error);
        if (status)
            return status;
        to += part;
        offset += part;
        bytes -= part;
    }
    return HYPURA_OK;
}

void store_advance(struct store *store)
{
    pthread_mutex_lock(store->mutex);
    guess_pass_done(store);
    cache_advance(store);
    pthread_mutex_unlock(store->mutex);
}

/* ---- from any thread --------------------------------------------------------------------------------------------- */

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
    result.bytes_loaded = loaded->bytes[PRIORITY_DEMAND];
    result.bytes_demanded = counters.bytes[PRIORITY_DEMAND] - loaded->bytes[PRIORITY_DEMAND] +
                            counters.bytes[PRIORITY_AHEAD] - loaded->bytes[PRIORITY_AHEAD] + store->rows_read;
    result.bytes_guessed = counters.bytes[PRIORITY_GUESS] - loaded->bytes[PRIORITY_GUESS];
    result.bytes_read = result.bytes_demanded + result.bytes_guessed;
    result.read_nanoseconds = counters.busy_nanoseconds - loaded->busy_nanoseconds;
    result.pool_bytes = store->pool_bytes;
    result.pool_bytes_used = store->ring.used + store->cache_used;
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
    uint64_t bytes = store->rows_read - store->counts.bytes_wasted;
    for (int priority = 0; priority < PRIORITY_COUNT; priority++)
        bytes += counters.bytes[priority];
    pthread_mutex_unlock(store->mutex);
    return bytes;
}

enum unit_state store_unit_state(struct store *store, unit_number number)
{
    if (number >= store->unit_count)
        return UNIT_ON_STORAGE;
    const struct stored_unit *unit = &store->units[number];
    pthread_mutex_lock(store->mutex);
    enum unit_state state = unit->place == PLACE_GPU       ? (store->loaded ? UNIT_ON_GPU : UNIT_ON_STORAGE)
                            : unit->place == PLACE_PINNED  ? (store->loaded ? UNIT_PINNED : UNIT_ON_STORAGE)
                            : unit->stage == STAGE_READY   ? UNIT_CACHED
                            : unit->stage == STAGE_READING ? UNIT_IN_FLIGHT
                                                           : UNIT_ON_STORAGE;
    pthread_mutex_unlock(store->mutex);
    return state;
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
