/* Units on GPUs: of each device tensors side by side in a few large buffers, experts in slots, a layer's slices of one
 * kind in one buffer, or those of several layers in lent memory. They are read part by part into a little memory of the
 * host, and passed on from there. */
#include "store/store_private.h"

#include "store/device_private.h"
#include "store/in_place.h"

#include <stdlib.h>
#include <string.h>

/* Tensors share buffers of this size; a larger tensor has one of its own. */
#define BUFFER_BYTES ((uint64_t)1 << 30)

/* How many parts of slices are read at once, each into a staging buffer; and their size. */
#define STAGINGS 4u
#define STAGING_BYTES ((uint64_t)8 << 20)

struct device_slice {
    const struct unit_slice *slice;
    struct gpu_range to;
};

struct device_layer {
    uint32_t count;
    bool lent; /* its slots are in device->lent */
    struct gpu_range slices[UNIT_MAX_SLICES];
    uint64_t strides[UNIT_MAX_SLICES];
};

struct device {
    struct gpu *gpu;
    uint32_t number; /* in store->devices */
    struct gpu_buffer **buffers;
    uint32_t buffer_count;
    struct device_slice *slices; /* by stored_unit.device_item; sorted by place in the files while loading */
    uint32_t slice_count;
    struct device_layer *layers; /* [store->layers] */
    uint32_t experts;
    uint32_t *slots; /* [layers][experts], as in the table */
    struct gpu_buffer *table;
    struct gpu_buffer *lent; /* NULL: none */
    uint64_t taken;          /* bytes of it that experts do not have */
    uint64_t bytes;
    bool loaded;
};

/* ---- placement --------------------------------------------------------------------------------------------------- */

static bool is_there(const struct store *store, const struct device *device, unit_number unit)
{
    return store->units[unit].place == PLACE_GPU && store->units[unit].device == device->number;
}

/* Gives every tensor on the device a buffer and a place in it; returns the number of buffers. sizes: of the buffers, or
 * NULL; buffers: once they exist. */
static uint32_t place_tensors(struct store *store, struct device *device, uint64_t *sizes,
                              struct gpu_buffer *const *buffers)
{
    uint32_t count = 0;
    uint64_t used = 0;
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        if (!is_there(store, device, i) || unit->kind == UNIT_EXPERT)
            continue;
        uint64_t bytes = align_up(unit->bytes, GPU_ALIGNMENT);
        if (count == 0 || used + bytes > BUFFER_BYTES) {
            count++;
            used = 0;
        }
        if (sizes)
            sizes[count - 1] = used + bytes;
        if (buffers)
            device->slices[store->units[i].device_item] =
                (struct device_slice){.slice = &unit->slices[0], .to = {.buffer = buffers[count - 1], .offset = used}};
        used += bytes;
    }
    return count;
}

static hypura_status make_tensors(struct store *store, struct device *device, hypura_error *error)
{
    uint64_t *sizes;
    uint32_t count = place_tensors(store, device, NULL, NULL);
    hypura_status status = ALLOCATE(&sizes, count, "table of device memory", error);
    if (!status)
        status = ALLOCATE(&device->buffers, count, "table of device memory", error);
    if (!status) {
        place_tensors(store, device, sizes, NULL);
        for (; !status && device->buffer_count < count; device->buffer_count += !status)
            status = gpu_buffer_create(device->gpu, &device->buffers[device->buffer_count], sizes[device->buffer_count],
                                       GPU_DEVICE, error);
    }
    if (!status)
        place_tensors(store, device, NULL, device->buffers);
    memory_free(sizes);
    return status;
}

/* lent_bytes: of the slots in lent memory so far. Its buffer does not exist yet. */
static hypura_status make_layer(struct device *device, struct device_layer *layer, const struct unit *unit,
                                uint64_t *lent_bytes, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (uint32_t s = 0; !status && s < unit->slice_count; s++) {
        layer->strides[s] = align_up(unit->slices[s].bytes, GPU_ALIGNMENT);
        const uint64_t bytes = layer->count * layer->strides[s];
        if (layer->lent) {
            layer->slices[s].offset = *lent_bytes;
            *lent_bytes += bytes;
        } else {
            status = gpu_buffer_create(device->gpu, &layer->slices[s].buffer, bytes, GPU_DEVICE, error);
        }
    }
    return status;
}

static hypura_status make_layers(struct store *store, struct device *device, hypura_error *error)
{
    uint64_t lent_bytes = 0;
    hypura_status status = HYPURA_OK;
    for (unit_number i = 0; !status && i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        if (!is_there(store, device, i) || unit->kind != UNIT_EXPERT)
            continue;
        struct device_layer *layer = &device->layers[unit->layer];
        if (layer->strides[0] == 0)
            status = make_layer(device, layer, unit, &lent_bytes, error);
    }
    const enum gpu_memory memory = gpu_get_info(device->gpu)->visible ? GPU_VISIBLE : GPU_DEVICE;
    if (!status && lent_bytes)
        status = gpu_buffer_create(device->gpu, &device->lent, lent_bytes, memory, error);
    for (uint32_t l = 0; !status && l < store->layers; l++)
        for (uint32_t s = 0; device->layers[l].lent && s < UNIT_MAX_SLICES; s++)
            device->layers[l].slices[s].buffer = device->layers[l].strides[s] ? device->lent : NULL;
    return status;
}

static struct gpu_range range_of_slot(const struct device *device, uint32_t layer, uint32_t slot, uint32_t slice)
{
    const struct device_layer *from = &device->layers[layer];
    const struct gpu_range first = from->slices[slice];
    return (struct gpu_range){first.buffer, first.offset + slot * from->strides[slice]};
}

static hypura_status make_experts(struct store *store, struct device *device, hypura_error *error)
{
    size_t entries = (size_t)store->layers * device->experts;
    hypura_status status = ALLOCATE(&device->slots, entries, "table of experts", error);
    for (size_t i = 0; !status && i < entries; i++)
        device->slots[i] = GPU_NO_SLOT;
    for (unit_number i = 0; !status && i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        if (!is_there(store, device, i) || unit->kind != UNIT_EXPERT)
            continue;
        struct device_layer *layer = &device->layers[unit->layer];
        store->units[i].device_slot = layer->count;
        device->slots[(size_t)unit->layer * device->experts + (size_t)unit->expert] = layer->count++;
    }
    if (!status)
        status = make_layers(store, device, error);
    for (unit_number i = 0; !status && i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        const struct stored_unit *stored = &store->units[i];
        if (!is_there(store, device, i) || unit->kind != UNIT_EXPERT)
            continue;
        for (uint32_t s = 0; s < unit->slice_count; s++)
            device->slices[stored->device_item + s] = (struct device_slice){
                .slice = &unit->slices[s], .to = range_of_slot(device, (uint32_t)unit->layer, stored->device_slot, s)};
    }
    if (!status && entries)
        status = gpu_buffer_create(device->gpu, &device->table, entries * sizeof *device->slots, GPU_DEVICE, error);
    return status;
}

static hypura_status prepare(struct store *store, struct device *device, const uint32_t *lent, hypura_error *error)
{
    for (unit_number i = 0; i < store->unit_count; i++) {
        if (!is_there(store, device, i))
            continue;
        const struct unit *unit = store_unit(store, i);
        store->units[i].device_item = device->slice_count;
        device->slice_count += unit->slice_count;
        device->bytes += unit->bytes;
    }
    hypura_status status = ALLOCATE(&device->slices, device->slice_count, "table of device memory", error);
    if (!status)
        status = ALLOCATE(&device->layers, store->layers, "table of device memory", error);
    for (uint32_t l = 0; !status && lent && l < store->layers; l++)
        device->layers[l].lent = lent[l] > 0;
    if (!status)
        status = make_tensors(store, device, error);
    if (!status)
        status = make_experts(store, device, error);
    return status;
}

hypura_status devices_prepare(struct store *store, struct gpu *const *gpus, uint32_t count,
                              const struct store_source *source, hypura_error *error)
{
    hypura_status status = ALLOCATE(&store->devices, count, "table of device memory", error);
    for (uint32_t d = 0; !status && d < count; d++) {
        struct device *device = &store->devices[store->device_count++];
        device->gpu = gpus[d];
        device->number = d;
        device->experts = source->experts;
        status = prepare(store, device, source->lent, error);
    }
    return status;
}

static void free_device(const struct store *store, struct device *device)
{
    for (uint32_t i = 0; i < device->buffer_count; i++)
        gpu_buffer_destroy(device->gpu, device->buffers[i]);
    for (uint32_t i = 0; device->layers && i < store->layers; i++)
        for (uint32_t s = 0; s < UNIT_MAX_SLICES && !device->layers[i].lent; s++)
            if (device->layers[i].slices[s].buffer)
                gpu_buffer_destroy(device->gpu, device->layers[i].slices[s].buffer);
    if (device->lent)
        gpu_buffer_destroy(device->gpu, device->lent);
    if (device->table)
        gpu_buffer_destroy(device->gpu, device->table);
    memory_free(device->buffers);
    memory_free(device->slices);
    memory_free(device->layers);
    memory_free(device->slots);
}

void devices_free(struct store *store)
{
    for (uint32_t d = 0; d < store->device_count; d++)
        free_device(store, &store->devices[d]);
    memory_free(store->devices);
    store->devices = NULL;
    store->device_count = 0;
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

static int by_place(const void *left, const void *right)
{
    const struct unit_slice *a = ((const struct device_slice *)left)->slice;
    const struct unit_slice *b = ((const struct device_slice *)right)->slice;
    if (a->file != b->file)
        return a->file < b->file ? -1 : 1;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

struct staging {
    struct transfer transfer;
    const struct device_slice *slice;
    uint64_t from, bytes; /* of the slice */
    bool busy;            /* guarded by the store's mutex */
};

struct loading {
    struct store *store;
    struct device *device;
    struct device_slice *sorted;
    uint32_t next; /* the next slice, and how much of it was requested */
    uint64_t position;
    uint8_t *memory;
    struct staging stagings[STAGINGS];
    uint64_t done;
    gpu_ticket last;
};

#define STAGING_ROOM (STAGING_BYTES + 2 * IO_ALIGNMENT)

/* Locked. Starts to read the next part of a slice; false: all were requested. */
static bool start_reading(struct loading *loading, struct staging *staging)
{
    const struct device *device = loading->device;
    if (loading->next == device->slice_count)
        return false;
    const struct device_slice *slice = &loading->sorted[loading->next];
    staging->slice = slice;
    staging->from = loading->position;
    staging->bytes = MIN(slice->slice->bytes - loading->position, STAGING_BYTES);
    uint64_t start = align_down(slice->slice->offset + staging->from, IO_ALIGNMENT);
    uint64_t end = slice->slice->offset + staging->from + staging->bytes;
    staging->transfer = (struct transfer){.unit = DEVICE_UNIT, .segment_count = 1};
    staging->transfer.segments[0] =
        (struct segment){.file = slice->slice->file,
                         .offset = start,
                         .bytes = align_up(end, IO_ALIGNMENT) - start,
                         .needed = end - start,
                         .memory = loading->memory + (size_t)(staging - loading->stagings) * STAGING_ROOM};
    loading->position += staging->bytes;
    if (loading->position == slice->slice->bytes) {
        loading->next++;
        loading->position = 0;
    }
    staging->busy = true;
    io_start(loading->store->io, &staging->transfer);
    return true;
}

void device_finished(struct store *store, struct transfer *transfer)
{
    struct staging *staging = (struct staging *)(void *)transfer; /* its first member */
    staging->busy = false;
    pthread_cond_broadcast(&store->changed);
}

static hypura_status pass_on(struct loading *loading, struct staging *staging, hypura_error *error)
{
    const struct segment *segment = &staging->transfer.segments[0];
    struct gpu_range to = staging->slice->to;
    to.offset += staging->from;
    const uint8_t *from = segment->memory + (staging->slice->slice->offset + staging->from - segment->offset);
    loading->done += staging->bytes;
    return gpu_upload(loading->device->gpu, to, from, staging->bytes, &loading->last, error);
}

/* Parts are requested in order, so that the file is read in order however they arrive. */
static hypura_status load_through(struct loading *loading, uint64_t total, store_progress progress, void *context,
                                  hypura_error *error)
{
    struct store *store = loading->store;
    hypura_status status = HYPURA_OK;
    uint32_t turn = 0, running = 0;
    pthread_mutex_lock(store->mutex);
    for (; running < STAGINGS && start_reading(loading, &loading->stagings[running]); running++)
        ;
    for (; running > 0 && !status; turn = (turn + 1) % STAGINGS) {
        struct staging *staging = &loading->stagings[turn];
        while (staging->busy)
            store_wait_locked(store);
        running--;
        if (staging->transfer.failure.kind != FAILURE_NONE) {
            status = failure_error(&staging->transfer.failure, store->files, error);
            break;
        }
        pthread_mutex_unlock(store->mutex);
        status = pass_on(loading, staging, error);
        bool stop = progress && !status && !progress(context, loading->done, total);
        pthread_mutex_lock(store->mutex);
        if (!status && (stop || atomic_load(&store->cancelled)))
            status = error_set(error, HYPURA_ERROR_CANCELLED, "loading the weights was cancelled");
        if (!status)
            running += start_reading(loading, staging);
    }
    for (uint32_t i = 0; i < STAGINGS; i++) {
        struct staging *staging = &loading->stagings[i];
        if (staging->busy && io_abandon(store->io, &staging->transfer))
            staging->busy = false;
        while (staging->busy)
            store_wait_locked(store);
    }
    pthread_mutex_unlock(store->mutex);
    return status;
}

static hypura_status send_table(const struct store *store, const struct device *device, hypura_error *error)
{
    uint64_t bytes = (uint64_t)store->layers * device->experts * sizeof *device->slots;
    gpu_ticket ticket = 0;
    hypura_error why;
    if (!device->table)
        return HYPURA_OK;
    hypura_status status =
        gpu_upload(device->gpu, (struct gpu_range){device->table, 0}, device->slots, bytes, &ticket, &why);
    if (!status)
        status = gpu_upload_wait(device->gpu, ticket, &why);
    return status ? error_set(error, HYPURA_ERROR_DEVICE, "telling the GPU which experts it has: %s", why.message)
                  : HYPURA_OK;
}

/* done: of the total, before this device. */
static hypura_status load(struct store *store, struct device *device, uint64_t done, uint64_t total,
                          store_progress progress, void *context, hypura_error *error)
{
    struct loading loading = {.store = store, .device = device, .done = done};
    void *memory = NULL;
    hypura_status status = ALLOCATE(&loading.sorted, device->slice_count, "table of device memory", error);
    if (!status)
        status = memory_map(&memory, STAGINGS * STAGING_ROOM, false, "memory to load the GPU through", error);
    if (!status) {
        loading.memory = memory;
        memcpy(loading.sorted, device->slices, device->slice_count * sizeof *loading.sorted);
        qsort(loading.sorted, device->slice_count, sizeof *loading.sorted, by_place);
        status = load_through(&loading, total, progress, context, error);
    }
    if (!status)
        status = send_table(store, device, error);
    /* Even after an error, because no upload may be in flight to buffers that are about to be destroyed. */
    hypura_status arrived = gpu_upload_wait(device->gpu, loading.last, status ? NULL : error);
    if (!status)
        status = arrived;
    if (memory)
        memory_unmap(memory, STAGINGS * STAGING_ROOM);
    memory_free(loading.sorted);
    return status;
}

hypura_status devices_load(struct store *store, uint64_t total, store_progress progress, void *context,
                           hypura_error *error)
{
    uint64_t done = 0;
    bool any = false;
    for (uint32_t d = 0; d < store->device_count; d++) {
        struct device *device = &store->devices[d];
        if (device->loaded)
            continue;
        hypura_status status = load(store, device, done, total, progress, context, error);
        if (status)
            return status;
        done += device->bytes;
        device->loaded = any = true;
    }
    if (any) {
        pthread_mutex_lock(store->mutex);
        io_counters(store->io, &store->loaded_counters);
        pthread_mutex_unlock(store->mutex);
    }
    return HYPURA_OK;
}

/* ---- experts that change sides ----------------------------------------------------------------------------------- */

/* Bytes per upload, so that other uploads get their turn. */
#define BRING_BYTES ((uint64_t)8 << 20)

static uint32_t *table_entry(const struct store *store, unit_number unit)
{
    const struct unit *what = store_unit(store, unit);
    const struct device *device = &store->devices[store->units[unit].device];
    return &device->slots[(size_t)what->layer * device->experts + (size_t)what->expert];
}

uint32_t device_slots(const struct store *store, uint32_t layer)
{
    uint32_t slots = 0;
    for (uint32_t d = 0; d < store->device_count; d++)
        slots += store->devices[d].table ? store->devices[d].layers[layer].count : 0;
    return slots;
}

bool device_lends(const struct store *store, uint32_t layer)
{
    bool lends = false;
    for (uint32_t d = 0; d < store->device_count; d++)
        lends |= store->devices[d].layers[layer].lent && store->devices[d].layers[layer].count;
    return lends;
}

uint64_t device_take(struct store *store, uint32_t device, uint64_t bytes)
{
    const uint64_t before = store->devices[device].taken;
    store->devices[device].taken = bytes;
    return before;
}

struct device_slot device_slot_of(const struct store *store, unit_number unit)
{
    return (struct device_slot){store->units[unit].device, store->units[unit].device_slot};
}

static bool is_empty(const struct device *device, uint32_t layer, uint32_t slot)
{
    const uint32_t *slots = &device->slots[(size_t)layer * device->experts];
    for (uint32_t e = 0; e < device->experts; e++)
        if (slots[e] == slot)
            return false;
    return true;
}

bool device_find_empty(const struct store *store, uint32_t layer, uint32_t from, struct device_slot *out)
{
    for (uint32_t d = 0; d < store->device_count; d++)
        for (uint32_t slot = from; slot < store->devices[d].layers[layer].count; slot++)
            if (is_empty(&store->devices[d], layer, slot)) {
                *out = (struct device_slot){d, slot};
                return true;
            }
    return false;
}

void device_leave(struct store *store, unit_number out)
{
    *table_entry(store, out) = GPU_NO_SLOT;
}

void device_come(struct store *store, unit_number in, struct device_slot slot)
{
    store->units[in].device = (uint8_t)slot.device;
    store->units[in].device_slot = slot.number;
    *table_entry(store, in) = slot.number;
}

hypura_status devices_send_tables(struct store *store, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (uint32_t d = 0; d < store->device_count && !status; d++)
        status = send_table(store, &store->devices[d], error);
    return status;
}

hypura_status device_bring(struct store *store, unit_number in, struct device_slot slot, const struct store_view *view,
                           hypura_error *error)
{
    const struct device *device = &store->devices[slot.device];
    const struct unit *unit = store_unit(store, in);
    hypura_status status = HYPURA_OK;
    gpu_ticket ticket = 0;
    for (uint32_t s = 0; s < unit->slice_count && !status; s++) {
        const struct gpu_range to = range_of_slot(device, (uint32_t)unit->layer, slot.number, s);
        for (uint64_t done = 0; done < unit->slices[s].bytes && !status; done += BRING_BYTES)
            status = gpu_upload(device->gpu, (struct gpu_range){to.buffer, to.offset + done}, view->slices[s] + done,
                                MIN(unit->slices[s].bytes - done, BRING_BYTES), &ticket, error);
    }
    /* Even after an error, because the memory that the upload reads is about to be released. */
    hypura_status arrived = gpu_upload_wait(device->gpu, ticket, status ? NULL : error);
    return status ? status : arrived;
}

hypura_status device_fetch(struct store *store, unit_number out, uint8_t *memory, hypura_error *error)
{
    const struct device *device = &store->devices[store->units[out].device];
    const struct unit *unit = store_unit(store, out);
    struct unit_layout layout;
    hypura_status status = HYPURA_OK;
    unit_layout_make(&layout, unit);
    for (uint32_t s = 0; s < unit->slice_count && !status; s++)
        status = gpu_download(device->gpu, memory + layout.slice_position[s],
                              range_of_slot(device, (uint32_t)unit->layer, store->units[out].device_slot, s),
                              unit->slices[s].bytes, error);
    return status;
}

/* ---- queries ----------------------------------------------------------------------------------------------------- */

uint64_t device_import_alignment(const struct gpu *gpu)
{
    return gpu_get_info(gpu)->import_alignment;
}

uint64_t devices_bytes(const struct store *store)
{
    uint64_t bytes = 0;
    for (uint32_t d = 0; d < store->device_count; d++)
        bytes += store->devices[d].bytes;
    return bytes;
}

void store_on_device(const struct store *store, unit_number first, uint32_t count, bool *there)
{
    for (uint32_t i = 0; i < count; i++)
        there[i] = first + i < store->unit_count && store->units[first + i].place == PLACE_GPU;
}

static struct gpu_range range_of(const struct store *store, unit_number number, uint32_t slice)
{
    const struct stored_unit *unit = &store->units[number];
    const struct device *device = &store->devices[unit->device];
    if (store_unit(store, number)->kind != UNIT_EXPERT)
        return device->slices[unit->device_item + slice].to;
    return range_of_slot(device, (uint32_t)store_unit(store, number)->layer, unit->device_slot, slice);
}

void store_ranges(const struct store *store, unit_number number, struct gpu_range ranges[UNIT_MAX_SLICES])
{
    const struct stored_unit *unit = &store->units[number];
    struct store_view view;
    memset(ranges, 0, UNIT_MAX_SLICES * sizeof *ranges);
    bool in_place = unit->place == PLACE_CACHE && store_reads_in_place(store);
    if (in_place)
        unit_show(store, number, &view);
    for (uint32_t i = 0; i < store_unit(store, number)->slice_count; i++) {
        if (unit->place == PLACE_GPU)
            ranges[i] = range_of(store, number, i);
        else if (in_place)
            ranges[i] = in_place_range(store, view.slices[i]);
    }
}

void store_slots(const struct store *store, uint32_t number, uint32_t layer, struct store_slots *out)
{
    *out = (struct store_slots){0};
    if (number >= store->device_count || !store->devices[number].table || layer >= store->layers)
        return;
    const struct device *device = &store->devices[number];
    const struct device_layer *from = &device->layers[layer];
    out->count = from->count;
    for (uint32_t s = 0; s < UNIT_MAX_SLICES; s++) {
        out->slices[s] = from->slices[s];
        out->strides[s] = from->strides[s];
    }
    out->table = (struct gpu_range){device->table, (uint64_t)layer * device->experts * sizeof *device->slots};
}

bool store_is_taken(const struct store *store, uint32_t number)
{
    bool taken = false;
    for (uint32_t d = 0; d < store->device_count; d++) {
        const struct device_layer *layer = &store->devices[d].layers[number];
        taken |= layer->lent && layer->count && layer->slices[0].offset < store->devices[d].taken;
    }
    return taken;
}

struct gpu_buffer *store_lent(const struct store *store, uint32_t device)
{
    return device < store->device_count ? store->devices[device].lent : NULL;
}
