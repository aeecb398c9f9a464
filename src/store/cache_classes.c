/* The slots of the expert cache: their sizes, their numbers, and the units that may be in them. */
#include "store/store_private.h"

#include <stdlib.h>

/* Units share slots if the smaller one wastes at most this part of a slot. Slices with another offset in a page take
 * one more page, which does not matter; the two kinds of layers of a Q4_K_M file differ by a tenth or more. */
#define CLASS_TOLERANCE 32u

/* A class needs at least this many slots to work; with fewer, all units share slots of the largest size. */
#define CLASS_LEAST_SLOTS 16u

/* ---- classes ----------------------------------------------------------------------------------------------------- */

struct sized {
    uint64_t footprint;
    unit_number unit;
};

static int by_size_then_number(const void *left, const void *right)
{
    const struct sized *a = left, *b = right;
    if (a->footprint != b->footprint)
        return a->footprint > b->footprint ? -1 : 1;
    return a->unit < b->unit ? -1 : a->unit > b->unit;
}

/* Divides bytes into slots of each class: one each, then in proportion to the classes' units, then the rest to classes
 * that can still use it. false: too few for one slot each. */
bool cache_share_out(const struct store *store, uint64_t bytes, uint32_t targets[MAX_CLASSES])
{
    uint64_t all = 0, left = bytes;
    if (bytes < cache_least(store))
        return false;
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        all += store->cache.classes[i].unit_bytes;
        left -= store->cache.classes[i].stride;
    }
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        const struct slot_class *slot_class = &store->cache.classes[i];
        double part = (double)bytes * ((double)slot_class->unit_bytes / (double)MAX(all, (uint64_t)1));
        uint64_t slots = MIN((uint64_t)(part / (double)slot_class->stride), (uint64_t)slot_class->most);
        uint64_t more = MIN(slots > 0 ? slots - 1 : 0, left / slot_class->stride);
        targets[i] = (uint32_t)more + 1;
        left -= more * slot_class->stride;
    }
    for (;;) {
        uint32_t poorest = MAX_CLASSES;
        for (uint32_t i = 0; i < store->cache.class_count; i++) {
            const struct slot_class *slot_class = &store->cache.classes[i];
            if (targets[i] < slot_class->most && slot_class->stride <= left &&
                (poorest == MAX_CLASSES || (uint64_t)targets[i] * store->cache.classes[poorest].most <
                                               (uint64_t)targets[poorest] * slot_class->most))
                poorest = i;
        }
        if (poorest == MAX_CLASSES)
            return true;
        targets[poorest]++;
        left -= store->cache.classes[poorest].stride;
    }
}

/* Cuts the units, sorted by size, where the size drops; into at most MAX_CLASSES, each with enough slots. */
static void find_classes(struct store *store, const struct sized *units, uint32_t count, uint64_t bytes)
{
    store->cache.class_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct slot_class *last = store->cache.class_count ? &store->cache.classes[store->cache.class_count - 1] : NULL;
        if (!last || (store->cache.class_count < MAX_CLASSES &&
                      units[i].footprint < last->stride - last->stride / CLASS_TOLERANCE)) {
            last = &store->cache.classes[store->cache.class_count++];
            *last = (struct slot_class){.stride = align_up(units[i].footprint, store->cache.alignment)};
        }
        last->unit_count++;
        if (store->units[units[i].unit].place == PLACE_GPU)
            continue;
        last->here++;
        last->unit_bytes += units[i].footprint;
    }
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        store->cache.classes[i].most =
            MIN(store->cache.classes[i].here + MAX(store->moves.limit, 1u), store->cache.classes[i].unit_count);
    uint32_t targets[MAX_CLASSES];
    bool enough = cache_share_out(store, bytes, targets);
    for (uint32_t i = 0; enough && i < store->cache.class_count; i++)
        enough = targets[i] >= MIN(CLASS_LEAST_SLOTS, store->cache.classes[i].most);
    if (!enough) {
        for (uint32_t i = 1; i < store->cache.class_count; i++) {
            store->cache.classes[0].unit_count += store->cache.classes[i].unit_count;
            store->cache.classes[0].here += store->cache.classes[i].here;
            store->cache.classes[0].most += store->cache.classes[i].most;
            store->cache.classes[0].unit_bytes += store->cache.classes[i].unit_bytes;
        }
        store->cache.class_count = 1;
    }
}

/* The policy sees only the layers with experts of this class, numbered from 0 in the order of a pass. */
static hypura_status make_policy(struct store *store, struct slot_class *slot_class, const char *name,
                                 hypura_error *error)
{
    uint32_t *group_of = NULL, *group_of_layer = NULL;
    uint32_t layers = 0, groups = 0;
    for (uint32_t i = 0; i < slot_class->unit_count; i++)
        layers = MAX(layers, (uint32_t)store_unit(store, slot_class->units[i])->layer + 1);
    hypura_status status = ALLOCATE(&group_of, slot_class->unit_count, "cache policy", error);
    if (!status)
        status = ALLOCATE(&group_of_layer, layers, "cache policy", error);
    if (!status) {
        for (uint32_t i = 0; i < slot_class->unit_count; i++)
            group_of_layer[store_unit(store, slot_class->units[i])->layer] = 1;
        for (uint32_t layer = 0; layer < layers; layer++) {
            uint32_t there = group_of_layer[layer];
            group_of_layer[layer] = groups;
            groups += there;
        }
        for (uint32_t i = 0; i < slot_class->unit_count; i++)
            group_of[i] = group_of_layer[store_unit(store, slot_class->units[i])->layer];
        struct policy_shape shape = {slot_class->unit_count, groups, group_of};
        status = policy_create(&slot_class->policy, name, &shape, error);
    }
    memory_free(group_of);
    memory_free(group_of_layer);
    return status;
}

static hypura_status prepare_class(struct store *store, struct slot_class *slot_class, const struct sized *units,
                                   const char *policy, hypura_error *error)
{
    uint32_t count = slot_class->unit_count;
    size_t reserved;
    slot_class->waiting = (struct waiting_list){NO_UNIT, NO_UNIT};
    slot_class->free = slot_class->offline = NO_SLOT;
    if (!size_multiply(&reserved, slot_class->stride, count))
        return error_set(error, HYPURA_ERROR_MEMORY, "no address space for %u experts", count);
    hypura_status status = ALLOCATE(&slot_class->slots, count, "slots of the expert cache", error);
    if (!status)
        status = ALLOCATE(&slot_class->units, count, "slots of the expert cache", error);
    if (!status)
        status = memory_map((void **)&slot_class->memory, reserved, false, "expert cache", error);
    if (status)
        return status;
    places_slots(&store->places, slot_class->memory, slot_class->stride, count);
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
    struct sized *units;
    hypura_status status = ALLOCATE(&units, store->unit_count, "table of experts", error);
    if (status)
        return status;
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        if (store->units[i].place != PLACE_CACHE && !store->units[i].moves)
            continue;
        struct unit_layout layout;
        unit_layout_make(&layout, unit);
        units[count++] = (struct sized){layout.footprint, i};
    }
    if (count > 0) {
        qsort(units, count, sizeof *units, by_size_then_number);
        find_classes(store, units, count, bytes);
        uint32_t first = 0;
        for (uint32_t i = 0; i < store->cache.class_count && !status; i++) {
            status = prepare_class(store, &store->cache.classes[i], units + first, policy, error);
            first += store->cache.classes[i].unit_count;
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
        memory_unmap(slot_class->memory, slot_class->stride * slot_class->unit_count);
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
        bytes += store->cache.classes[i].stride * store->cache.classes[i].most;
    return bytes;
}

static bool holds_all(const struct store *store)
{
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        if (store->cache.classes[i].target < store->cache.classes[i].here)
            return false;
    return store->cache.class_count > 0;
}

uint64_t cache_load_bytes(const struct store *store)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; store->cache.unpinned && holds_all(store) && i < store->cache.class_count; i++)
        bytes += store->cache.classes[i].unit_bytes;
    return bytes;
}

uint64_t cache_least(const struct store *store)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        bytes += store->cache.classes[i].stride;
    return bytes;
}
