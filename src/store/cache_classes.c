/* The slots of the expert cache: their sizes, their numbers, and the units that may be in them. */
#include "store/store_private.h"

/* ---- classes ----------------------------------------------------------------------------------------------------- */

bool cache_share_out(const struct store *store, uint64_t bytes, uint32_t targets[MAX_CLASSES])
{
    return classes_share_out(targets, store->cache.sizes, store->cache.class_count, bytes);
}

static void find_classes(struct store *store, struct sized_unit *units, uint32_t count, uint64_t bytes)
{
    struct cache *cache = &store->cache;
    cache->class_count = classes_find(cache->sizes, units, count, cache->alignment, store->moves.limit, bytes);
    for (uint32_t i = 0; i < cache->class_count; i++)
        cache->classes[i] = (struct slot_class){.size = &cache->sizes[i]};
}

/* The policy sees only the layers with experts of this class, numbered from 0 in the order of a pass. */
static hypura_status make_policy(struct store *store, struct slot_class *slot_class, const char *name,
                                 hypura_error *error)
{
    uint32_t *group_of = NULL, *group_of_layer = NULL;
    uint32_t layers = 0, groups = 0;
    for (uint32_t i = 0; i < slot_class->size->unit_count; i++)
        layers = MAX(layers, (uint32_t)store_unit(store, slot_class->units[i])->layer + 1);
    hypura_status status = ALLOCATE(&group_of, slot_class->size->unit_count, "cache policy", error);
    if (!status)
        status = ALLOCATE(&group_of_layer, layers, "cache policy", error);
    if (!status) {
        for (uint32_t i = 0; i < slot_class->size->unit_count; i++)
            group_of_layer[store_unit(store, slot_class->units[i])->layer] = 1;
        for (uint32_t layer = 0; layer < layers; layer++) {
            uint32_t there = group_of_layer[layer];
            group_of_layer[layer] = groups;
            groups += there;
        }
        for (uint32_t i = 0; i < slot_class->size->unit_count; i++)
            group_of[i] = group_of_layer[store_unit(store, slot_class->units[i])->layer];
        struct policy_shape shape = {slot_class->size->unit_count, groups, group_of};
        status = policy_create(&slot_class->policy, name, &shape, error);
    }
    memory_free(group_of);
    memory_free(group_of_layer);
    return status;
}

static hypura_status prepare_class(struct store *store, struct slot_class *slot_class, const struct sized_unit *units,
                                   const char *policy, hypura_error *error)
{
    uint32_t count = slot_class->size->unit_count;
    size_t reserved;
    slot_class->waiting = (struct waiting_list){NO_UNIT, NO_UNIT};
    slot_class->free = slot_class->offline = NO_SLOT;
    if (!size_multiply(&reserved, slot_class->size->stride, count))
        return error_set(error, HYPURA_ERROR_MEMORY, "no address space for %u experts", count);
    hypura_status status = ALLOCATE(&slot_class->slots, count, "slots of the expert cache", error);
    if (!status)
        status = ALLOCATE(&slot_class->units, count, "slots of the expert cache", error);
    if (!status)
        status = memory_map((void **)&slot_class->memory, reserved, false, "expert cache", error);
    if (status)
        return status;
    places_slots(&store->places, slot_class->memory, slot_class->size->stride, count);
    for (uint32_t i = 0; i < count; i++) {
        struct stored_unit *unit = &store->units[units[i].unit];
        unit->slot_class = (uint8_t)(slot_class - store->cache.classes);
        unit->item = i;
        slot_class->units[i] = units[i].unit;
    }
    status = make_policy(store, slot_class, policy, error);
    if (status)
        return status;
    for (uint32_t i = count; i-- > 0;) {
        slot_class->slots[i].unit = NO_UNIT;
        slot_class->slots[i].next = slot_class->offline;
        slot_class->offline = i;
    }
    return HYPURA_OK;
}

hypura_status cache_classes_prepare(struct store *store, uint64_t bytes, const char *policy, hypura_error *error)
{
    uint32_t count = 0;
    struct sized_unit *units;
    hypura_status status = ALLOCATE(&units, store->unit_count, "table of experts", error);
    if (status)
        return status;
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        if (store->units[i].place != PLACE_CACHE && !store->units[i].moves)
            continue;
        struct unit_layout layout;
        unit_layout_make(&layout, unit);
        units[count++] = (struct sized_unit){layout.footprint, i, store->units[i].place != PLACE_GPU};
    }
    if (count > 0) {
        find_classes(store, units, count, bytes);
        uint32_t first = 0;
        for (uint32_t i = 0; i < store->cache.class_count && !status; i++) {
            status = prepare_class(store, &store->cache.classes[i], units + first, policy, error);
            first += store->cache.sizes[i].unit_count;
        }
        if (!status && bytes < cache_least(store))
            status = error_set(error, HYPURA_ERROR_MEMORY,
                               "an expert cache of %llu bytes holds no expert: the smallest that works has %llu",
                               (unsigned long long)bytes, (unsigned long long)cache_least(store));
    }
    memory_free(units);
    return status;
}

void cache_free(struct store *store)
{
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        struct slot_class *slot_class = &store->cache.classes[i];
        memory_unmap(slot_class->memory, slot_class->size->stride * slot_class->size->unit_count);
        memory_free(slot_class->slots);
        memory_free(slot_class->units);
        if (slot_class->policy)
            slot_class->policy->operations->destroy(slot_class->policy);
    }
}

uint64_t cache_total(const struct store *store)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        bytes += store->cache.sizes[i].stride * store->cache.sizes[i].most;
    return bytes;
}

static bool holds_all(const struct store *store)
{
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        if (store->cache.classes[i].target < store->cache.sizes[i].here)
            return false;
    return store->cache.class_count > 0;
}

uint64_t cache_load_bytes(const struct store *store)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; store->cache.unpinned && holds_all(store) && i < store->cache.class_count; i++)
        bytes += store->cache.sizes[i].unit_bytes;
    return bytes;
}

uint64_t cache_least(const struct store *store)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        bytes += store->cache.sizes[i].stride;
    return bytes;
}
