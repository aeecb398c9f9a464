/* Opening and closing the store, and passing completed reads to its parts. */
#include "store/store_private.h"

#include "store/device_private.h"
#include "store/in_place.h"

#include <stdio.h>
#include <stdlib.h>

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
    else if (transfer->unit == ROWS_UNIT)
        tables_finished(store, transfer);
    else if (transfer->unit == NO_UNIT)
        pinned_finished(store, transfer);
    else if (store->units[transfer->unit].place == PLACE_RING)
        ring_finished(store, transfer->unit);
    else
        cache_finished(store, transfer->unit);
    prefetch_pump(store);
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

static hypura_status open_files(struct store *store, const struct store_source *source,
                                const struct store_options *options, hypura_error *error)
{
    const struct drives *drives = options->drives;
    if (drives && drives->file_count != source->file_count)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "drives of %u files for a model of %u", drives->file_count,
                         source->file_count);
    uint32_t copies = drives ? drives->copy_count : 1;
    hypura_status status = ALLOCATE(&store->files, (size_t)copies * source->file_count, "files", error);
    if (status)
        return status;
    store->file_count = source->file_count;
    store->copy_count = copies;
    for (uint32_t i = 0; i < copies * source->file_count; i++) {
        const struct drive_copy *copy = drives ? &drives->copies[i] : NULL;
        struct store_file *file = &store->files[i];
        if (i < source->file_count) {
            TRY(store_file_open(file, source->paths[i], options->allow_buffered, error));
        } else if (!copy->path) {
            file->left = true;
            continue;
        } else {
            hypura_error problem;
            status = store_file_open(file, copy->path, options->allow_buffered, &problem);
            file->left = status || file->bytes != store->files[i % source->file_count].bytes;
            if (file->left)
                log_write(LOG_WARNING, "a mirror is not used: %s", status ? problem.message : "its size has changed");
        }
        file->drive = copy ? (uint8_t)copy->drive : 0;
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
            return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u is an expert without a layer", i);
        for (uint32_t j = 0; j < unit->slice_count; j++) {
            const struct unit_slice *slice = &unit->slices[j];
            if (slice->file >= store->file_count || slice->bytes == 0)
                return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u: slice %u names file %u of %u, %llu bytes", i,
                                 j, slice->file, store->file_count, (unsigned long long)slice->bytes);
            uint64_t bytes = store->files[slice->file].bytes;
            if (slice->offset > bytes || slice->bytes > bytes - slice->offset)
                return error_set(error, HYPURA_ERROR_FORMAT,
                                 "%s has only %llu bytes: a tensor has %llu bytes at offset %llu",
                                 store->files[slice->file].path, (unsigned long long)bytes,
                                 (unsigned long long)slice->bytes, (unsigned long long)slice->offset);
        }
    }
    return HYPURA_OK;
}

static hypura_status start_io(struct store *store, const struct store_options *options, const struct io_fault *fault,
                              hypura_error *error)
{
    const struct drives *drives = options->drives;
    const struct storage *storages = drives ? drives->storages : options->hardware ? &options->hardware->storage : NULL;
    struct spread spread;
    uint32_t count = drives ? drives->count : 1;
    spread_prepare(&spread, storages, count, options->block_bytes, options->depth);
    TRY(ALLOCATE(&store->drive_names, count, "drives", error));
    for (uint32_t i = 0; storages && i < count; i++)
        snprintf(store->drive_names[i], sizeof store->drive_names[i], "%s",
                 storages[i].device[0] ? storages[i].device : storages[i].file_system);
    struct io_options io_options = {.reader = options->reader,
                                    .spread = &spread,
                                    .files = store->files,
                                    .file_count = store->file_count,
                                    .copy_count = store->copy_count,
                                    .fault = fault,
                                    .finished = transfer_finished,
                                    .arrived = segment_arrived,
                                    .context = store};
    hypura_status status = io_create(&store->io, &io_options, error);
    if (!status)
        store->mutex = io_mutex(store->io);
    return status;
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
    store->ring.share = source->ring_bytes;
    if (options->nodes)
        store->places.nodes = *options->nodes;
    store->cache.unpinned = source->moves || source->in_place;
    store->cache.alignment = memory_page_size();
    if (source->in_place && options->gpu_count)
        store->cache.alignment = MAX(store->cache.alignment, device_import_alignment(options->gpus[0]));
    store->prefetch.mode = options->prefetching;
    store->prefetch.on = options->prefetching != STORE_PREFETCH_OFF;
    store->pass = FIRST_PASS;
    store->load_behind = options->load_behind;
    store->bounce = aligned_alloc(IO_ALIGNMENT, BOUNCE_BYTES);
    if (!store->bounce)
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for small reads");
    if (!status)
        status = pieces_prepare(store, source, error);
    if (!status)
        status = open_files(store, source, options, error);
    if (!status)
        status = check_units(store, error);
    if (!status) {
        store->layers = 1;
        for (unit_number i = 0; i < store->unit_count; i++)
            store->layers = (uint32_t)MAX((int64_t)store->layers, (int64_t)store_unit(store, i)->layer + 1);
        store->layers = source->layers ? MIN(store->layers, source->layers) : store->layers;
        for (unit_number i = 0; i < store->model_units; i++) {
            if (store->units[i].place != PLACE_PIECES)
                store->units[i].place = source->tiers[i] == TIER_GPU                ? PLACE_GPU
                                        : source->tiers[i] == TIER_RAM              ? PLACE_PINNED
                                        : source->elsewhere && source->elsewhere[i] ? PLACE_STORAGE
                                        : store_unit(store, i)->kind == UNIT_EXPERT ? PLACE_CACHE
                                        : source->in_ring[i]                        ? PLACE_RING
                                                                                    : PLACE_STORAGE;
            if (source->tiers[i] == TIER_GPU && source->devices)
                store->units[i].device = (uint8_t)(source->devices[i] - 1);
        }
        status = pinned_prepare(store, error);
    }
    if (!status)
        status = tables_prepare(store, source->tables, source->table_count, error);
    if (!status && options->gpu_count)
        status = devices_prepare(store, options->gpus, options->gpu_count, source, error);
    if (!status && options->gpu_count && source->moves)
        status = moves_prepare(store, source, error);
    if (!status)
        status = start_io(store, options, fault, error);
    if (!status)
        status = ring_prepare(store, source, error);
    if (!status)
        status = cache_prepare(store, source->expert_cache_bytes, options->cache_policy, error);
    if (!status && options->gpu_count && source->in_place)
        status = in_place_prepare(store, options->gpus[0], error);
    if (!status)
        fill_prepare(store, options->fill);
    if (!status)
        status = prefetch_prepare(store, error);
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
    prefetch_free(store);
    for (unit_number i = 0; store->units && i < store->unit_count; i++)
        free(store->units[i].failure);
    in_place_free(store);
    cache_free(store);
    ring_free(store);
    moves_free(store);
    devices_free(store);
    pinned_free(store);
    tables_free(store);
    places_free(&store->places);
    for (uint32_t i = 0; i < store->file_count * store->copy_count; i++)
        store_file_close(&store->files[i]);
    memory_free(store->files);
    memory_free(store->drive_names);
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
