/* Slots of the expert cache that a GPU reads in place: host and device share the memory, and a slot is a range of an
 * imported buffer. Only slots in use are imported, because an import pins memory. The cache grows and releases imports
 * only between passes, while the GPU is idle. */
#include "store/store_private.h"

#include "store/in_place.h"

#include <stdlib.h>

/* Bytes per import. */
#define IMPORT_BYTES ((uint64_t)1 << 30)

/* Drivers allow about this many imports; with more, the CPU computes. */
#define MOST_IMPORTS 1024u

struct import {
    struct gpu_buffer *buffer;
    uint8_t *memory;
    uint64_t bytes;
};

struct in_place {
    struct gpu *gpu;
    struct import imports[MOST_IMPORTS];
    uint32_t count;
    bool reads; /* all slots in use can be read in place */
};

static hypura_status import_run(struct in_place *in_place, uint8_t *memory, uint64_t bytes, hypura_error *error)
{
    if (in_place->count == MOST_IMPORTS)
        return error_set(error, HYPURA_ERROR_MEMORY, "the expert cache consists of more than %u ranges", MOST_IMPORTS);
    struct import *import = &in_place->imports[in_place->count];
    *import = (struct import){.memory = memory, .bytes = bytes};
    hypura_status status = gpu_buffer_import(in_place->gpu, &import->buffer, memory, bytes, error);
    in_place->count += !status;
    return status;
}

/* Imports adjacent slots that are online, with as few imports as possible. Classes are in the order of their memory. */
static hypura_status import_class(struct in_place *in_place, const struct slot_class *slot_class, hypura_error *error)
{
    uint64_t most = MIN(IMPORT_BYTES, gpu_get_info(in_place->gpu)->max_allocation) / slot_class->size->stride;
    hypura_status status = HYPURA_OK;
    for (uint32_t first = 0, next; first < slot_class->size->unit_count && !status; first = next) {
        next = first + 1;
        if (!slot_class->slots[first].online)
            continue;
        while (next < slot_class->size->unit_count && next - first < most && slot_class->slots[next].online)
            next++;
        status = import_run(in_place, slot_class->memory + first * slot_class->size->stride,
                            (next - first) * slot_class->size->stride, error);
    }
    return status;
}

static void give_back(struct in_place *in_place)
{
    for (uint32_t i = 0; i < in_place->count; i++)
        gpu_buffer_destroy(in_place->gpu, in_place->imports[i].buffer);
    in_place->count = 0;
}

static void import_all(struct store *store)
{
    hypura_error error;
    hypura_status status = HYPURA_OK;
    for (uint32_t i = 0; i < store->cache.class_count && !status; i++)
        status = import_class(store->in_place, &store->cache.classes[i], &error);
    store->in_place->reads = !status;
    store->cache.slots_changed = false;
    if (!status)
        return;
    give_back(store->in_place);
    log_write(LOG_WARNING, "experts outside of the GPU's own memory are computed on the CPU: %s", error.message);
}

hypura_status in_place_prepare(struct store *store, struct gpu *gpu, hypura_error *error)
{
    uint64_t alignment = gpu_get_info(gpu)->import_alignment;
    if (!gpu_get_info(gpu)->host_import || store->cache.class_count == 0)
        return HYPURA_OK;
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        if (store->cache.sizes[i].stride % alignment || (uintptr_t)store->cache.classes[i].memory % alignment)
            return HYPURA_OK;
    hypura_status status = ALLOCATE(&store->in_place, 1, "table of imported memory", error);
    if (status)
        return status;
    store->in_place->gpu = gpu;
    store->cache.grows_at_rest = true;
    import_all(store);
    return HYPURA_OK;
}

void in_place_free(struct store *store)
{
    if (store->in_place)
        give_back(store->in_place);
    memory_free(store->in_place);
    store->in_place = NULL;
}

bool in_place_settle(struct store *store)
{
    if (!store->in_place || !store->cache.slots_changed)
        return false;
    give_back(store->in_place);
    cache_grow(store);
    import_all(store);
    return true;
}

struct gpu_range in_place_range(const struct store *store, const uint8_t *memory)
{
    for (uint32_t i = 0; i < store->in_place->count; i++) {
        const struct import *import = &store->in_place->imports[i];
        if (memory >= import->memory && memory < import->memory + import->bytes)
            return (struct gpu_range){import->buffer, (uint64_t)(memory - import->memory)};
    }
    return (struct gpu_range){0};
}

bool store_reads_in_place(const struct store *store)
{
    return store->in_place && store->in_place->reads;
}
