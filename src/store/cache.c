/* The expert cache: slots of a few sizes, filled on demand and by guesses, emptied as the policy says. */
#include "store/internal.h"

#include <stdlib.h>

#define NO_SLOT UINT32_MAX

/* At once, while others wait: a huge page. */
#define POPULATE_BYTES ((uint64_t)2 << 20)

/* Units share slots when the smaller wastes no more than this part of one. Slices that start at another place in a page
 * take a page more, which is nothing; the two kinds of layers of a Q4_K_M file differ by a tenth or more. */
#define CLASS_TOLERANCE 32u

/* A class of its own needs room to work with; with less, all units share slots of the largest size. */
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

/* Slots of each class for so many bytes: one each, then shares in proportion to what the classes hold, then what is
 * left to whoever can still use it. False when there is not enough for one each. */
static bool share_out(const struct store *store, uint64_t bytes, uint32_t targets[MAX_CLASSES])
{
    uint64_t all = 0, left = bytes;
    if (bytes < cache_least(store))
        return false;
    for (uint32_t i = 0; i < store->class_count; i++) {
        all += store->classes[i].unit_bytes;
        left -= store->classes[i].stride;
    }
    for (uint32_t i = 0; i < store->class_count; i++) {
        const struct slot_class *slot_class = &store->classes[i];
        double part = (double)bytes * ((double)slot_class->unit_bytes / (double)all);
        uint64_t slots = MIN((uint64_t)(part / (double)slot_class->stride), (uint64_t)slot_class->unit_count);
        uint64_t more = MIN(slots > 0 ? slots - 1 : 0, left / slot_class->stride);
        targets[i] = (uint32_t)more + 1;
        left -= more * slot_class->stride;
    }
    for (;;) {
        uint32_t poorest = MAX_CLASSES;
        for (uint32_t i = 0; i < store->class_count; i++) {
            const struct slot_class *slot_class = &store->classes[i];
            if (targets[i] < slot_class->unit_count && slot_class->stride <= left &&
                (poorest == MAX_CLASSES || (uint64_t)targets[i] * store->classes[poorest].unit_count <
                                               (uint64_t)targets[poorest] * slot_class->unit_count))
                poorest = i;
        }
        if (poorest == MAX_CLASSES)
            return true;
        targets[poorest]++;
        left -= store->classes[poorest].stride;
    }
}

/* Cuts the units, sorted by size, where the size falls off; at most MAX_CLASSES, each with enough slots. */
static void find_classes(struct store *store, const struct sized *units, uint32_t count, uint64_t bytes)
{
    store->class_count = 0;
    for (uint32_t i = 0; i < count; i++) {
        struct slot_class *last = store->class_count ? &store->classes[store->class_count - 1] : NULL;
        if (!last ||
            (store->class_count < MAX_CLASSES && units[i].footprint < last->stride - last->stride / CLASS_TOLERANCE)) {
            last = &store->classes[store->class_count++];
            *last = (struct slot_class){.stride = align_up(units[i].footprint, memory_page_size())};
        }
        last->unit_count++;
        last->unit_bytes += units[i].footprint;
    }
    uint32_t targets[MAX_CLASSES];
    bool enough = share_out(store, bytes, targets);
    for (uint32_t i = 0; enough && i < store->class_count; i++)
        enough = targets[i] >= MIN(CLASS_LEAST_SLOTS, store->classes[i].unit_count);
    if (!enough) {
        for (uint32_t i = 1; i < store->class_count; i++) {
            store->classes[0].unit_count += store->classes[i].unit_count;
            store->classes[0].unit_bytes += store->classes[i].unit_bytes;
        }
        store->class_count = 1;
    }
}

/* The policy sees the layers that have experts of this class, numbered from 0 in the order of a pass. */
static hypura_status make_policy(struct store *store, struct slot_class *slot_class, const char *name,
                                 hypura_error *error)
{
    uint32_t *group_of = NULL, *group_of_layer = NULL;
    uint32_t layers = 0, groups = 0;
    for (uint32_t i = 0; i < slot_class->unit_count; i++)
        layers = MAX(layers, (uint32_t)store->unit(store->model, slot_class->units[i])->layer + 1);
    hypura_status status = ALLOCATE(&group_of, slot_class->unit_count, "cache policy", error);
    if (!status)
        status = ALLOCATE(&group_of_layer, layers, "cache policy", error);
    if (!status) {
        for (uint32_t i = 0; i < slot_class->unit_count; i++)
            group_of_layer[store->unit(store->model, slot_class->units[i])->layer] = 1;
        for (uint32_t layer = 0; layer < layers; layer++) {
            uint32_t there = group_of_layer[layer];
            group_of_layer[layer] = groups;
            groups += there;
        }
        for (uint32_t i = 0; i < slot_class->unit_count; i++)
            group_of[i] = group_of_layer[store->unit(store->model, slot_class->units[i])->layer];
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
    for (uint32_t i = 0; i < count; i++) {
        struct stored_unit *unit = &store->units[units[i].unit];
        unit->place = PLACE_CACHE;
        unit->slot_class = (uint8_t)(slot_class - store->classes);
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

hypura_status cache_prepare(struct store *store, uint64_t bytes, const char *policy, hypura_error *error)
{
    uint32_t count = 0;
    struct sized *units;
    hypura_status status = ALLOCATE(&units, store->unit_count, "table of experts", error);
    if (status)
        return status;
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct unit *unit = store->unit(store->model, i);
        if (store->units[i].place != PLACE_CACHE)
            continue;
        struct unit_layout layout;
        unit_layout_make(&layout, unit);
        units[count++] = (struct sized){layout.footprint, i};
    }
    if (count > 0) {
        qsort(units, count, sizeof *units, by_size_then_number);
        find_classes(store, units, count, bytes);
        uint32_t first = 0;
        for (uint32_t i = 0; i < store->class_count && !status; i++) {
            status = prepare_class(store, &store->classes[i], units + first, policy, error);
            first += store->classes[i].unit_count;
        }
        if (!status && bytes < cache_least(store))
            status = error_set(error, HYPURA_ERROR_MEMORY,
                               "an expert cache of %llu bytes holds no expert: the smallest that works has %llu",
                               (unsigned long long)bytes, (unsigned long long)cache_least(store));
        if (!status)
            cache_set_capacity(store, bytes);
    }
    memory_free(units);
    return status;
}

void cache_free(struct store *store)
{
    for (uint32_t i = 0; i < store->class_count; i++) {
        struct slot_class *slot_class = &store->classes[i];
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
    for (uint32_t i = 0; i < store->class_count; i++)
        bytes += store->classes[i].stride * store->classes[i].unit_count;
    return bytes;
}

uint64_t cache_least(const struct store *store)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < store->class_count; i++)
        bytes += store->classes[i].stride;
    return bytes;
}

/* ---- slots ------------------------------------------------------------------------------------------------------- */

static uint8_t *slot_memory(const struct slot_class *slot_class, uint32_t slot)
{
    return slot_class->memory + slot * slot_class->stride;
}

static void slot_online(struct slot_class *slot_class)
{
    uint32_t number = slot_class->offline;
    struct slot *slot = &slot_class->slots[number];
    slot_class->offline = slot->next;
    slot->online = true;
    slot->next = slot_class->free;
    slot_class->free = number;
    slot_class->online++;
    memory_set_huge(slot_memory(slot_class, number), slot_class->stride, true);
}

/* Gives the memory of an empty slot, which is in no list, back to the system. */
static void slot_offline(struct slot_class *slot_class, uint32_t number)
{
    struct slot *slot = &slot_class->slots[number];
    memory_set_huge(slot_memory(slot_class, number), slot_class->stride, false);
    memory_decommit(slot_memory(slot_class, number), slot_class->stride);
    slot->online = false;
    slot->populated = 0;
    slot->next = slot_class->offline;
    slot_class->offline = number;
    slot_class->online--;
}

static void slot_free(struct slot_class *slot_class, uint32_t number)
{
    slot_class->slots[number].unit = NO_UNIT;
    if (slot_class->online > slot_class->target) {
        slot_offline(slot_class, number);
    } else {
        slot_class->slots[number].next = slot_class->free;
        slot_class->free = number;
    }
}

void cache_taken(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    store->classes[unit->slot_class].granted -= unit->granted;
    unit->granted = false;
}

/* Takes a unit out of its slot, which is then free. */
static void evict(struct store *store, struct slot_class *slot_class, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    uint64_t bytes = unit_footprint(store, number);
    if (unit->stage == STAGE_READY)
        slot_class->policy->operations->remove(slot_class->policy, unit->item);
    if (unit->guessed)
        store->counts.bytes_wasted += slot_class->slots[unit->slot].transfer.bytes_read;
    cache_taken(store, number);
    unit->guessed = false;
    unit->stage = STAGE_ABSENT;
    unit->memory = NULL;
    store->cache_used -= bytes;
    slot_free(slot_class, unit->slot);
}

struct candidate_context {
    const struct store *store;
    const struct slot_class *slot_class;
    bool even_expected; /* also what a guess expects to be needed soon */
};

static bool may_go(void *context, uint32_t item)
{
    const struct candidate_context *candidate = context;
    const struct store *store = candidate->store;
    const struct stored_unit *unit = &store->units[candidate->slot_class->units[item]];
    return unit->wants == 0 && unit->holds == 0 && (candidate->even_expected || unit->due <= store->step);
}

static unit_number ask_policy(struct slot_class *slot_class, struct candidate_context context)
{
    uint32_t item = slot_class->policy->operations->victim(slot_class->policy, may_go, &context);
    return item == NO_ITEM ? NO_UNIT : slot_class->units[item];
}

static unit_number find_victim(struct store *store, struct slot_class *slot_class)
{
    unit_number victim = ask_policy(slot_class, (struct candidate_context){.store = store, .slot_class = slot_class});
    if (victim == NO_UNIT)
        victim = ask_policy(
            slot_class, (struct candidate_context){.store = store, .slot_class = slot_class, .even_expected = true});
    return victim;
}

static bool have_free_slot(struct store *store, struct slot_class *slot_class)
{
    if (slot_class->free == NO_SLOT) {
        unit_number victim = find_victim(store, slot_class);
        if (victim != NO_UNIT)
            evict(store, slot_class, victim);
    }
    return slot_class->free != NO_SLOT;
}

static void start(struct store *store, struct slot_class *slot_class, unit_number number, enum priority priority)
{
    struct stored_unit *unit = &store->units[number];
    uint32_t slot = slot_class->free;
    slot_class->free = slot_class->slots[slot].next;
    slot_class->slots[slot].unit = number;
    slot_class->slots[slot].populated = slot_class->stride;
    unit->slot = slot;
    unit->stage = STAGE_READING;
    unit->memory = slot_memory(slot_class, slot);
    store->cache_used += unit_footprint(store, number);
    transfer_for_unit(store, &slot_class->slots[slot].transfer, number, unit->memory, priority);
    io_start(store->io, &slot_class->slots[slot].transfer);
}

/* A read that nobody wants any more, if there is one: no more of it is sent, and its slot comes free, perhaps later. */
static void abandon_unwanted(struct store *store, struct slot_class *slot_class)
{
    /* What is read to warm the cache up lies in falling order of worth. */
    for (uint32_t i = slot_class->unit_count; i-- > 0;) {
        struct slot *slot = &slot_class->slots[i];
        if (slot->unit == NO_UNIT || store->units[slot->unit].stage != STAGE_READING ||
            store->units[slot->unit].wants > 0 || slot->transfer.abandoned)
            continue;
        if (io_abandon(store->io, &slot->transfer))
            evict(store, slot_class, slot->unit);
        return;
    }
}

/* A long prompt wants more of a layer than need be there at once. What was used of it already is the best victim for
 * the rest, so the rest waits: this much on its way, or not taken yet, keeps drive and cores busy, and no more than a
 * part of the slots. */
#define WINDOW_BYTES ((uint64_t)64 << 20)
#define WINDOW_PART 4u
#define WINDOW_LEAST 4u

static bool enough_under_way(const struct slot_class *slot_class)
{
    uint64_t window = MIN(WINDOW_BYTES / slot_class->stride, (uint64_t)slot_class->target / WINDOW_PART);
    return slot_class->granted >= MAX(window, (uint64_t)WINDOW_LEAST);
}

void cache_pump(struct store *store, struct slot_class *slot_class)
{
    while (slot_class->waiting.first != NO_UNIT) {
        if (slot_class->free == NO_SLOT && enough_under_way(slot_class))
            return;
        if (!have_free_slot(store, slot_class)) {
            abandon_unwanted(store, slot_class);
            if (slot_class->free == NO_SLOT)
                return;
        }
        unit_number unit = slot_class->waiting.first;
        waiting_remove(store, &slot_class->waiting, unit);
        start(store, slot_class, unit, PRIORITY_DEMAND);
        store->units[unit].granted = true;
        slot_class->granted++;
    }
}

void cache_want(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->classes[unit->slot_class];
    slot_class->policy->operations->access(slot_class->policy, unit->item);
    if (unit->stage == STAGE_READY)
        store->counts.expert_hits++;
    else
        store->counts.expert_misses++;
    if (unit->guessed) {
        store->counts.guesses_used++;
        unit->guessed = false;
    }
    if (unit->stage == STAGE_READING && !slot_class->slots[unit->slot].transfer.abandoned) {
        io_promote(store->io, &slot_class->slots[unit->slot].transfer, PRIORITY_DEMAND);
    } else if (unit->stage == STAGE_ABSENT) {
        unit->stage = STAGE_WAITING;
        waiting_append(store, &slot_class->waiting, number);
    }
}

/* The policy's own victim makes room for a guess: a right guess puts out what its demand would have put out anyway, and
 * saves the part of a read for which it is early, about a third; a wrong one costs a read when what it put out is
 * needed. Other victims, such as what was not used for longest, are what the next layers use. */
static bool is_worth(float probability, float victim_rate)
{
    return probability > 3 * (1 - probability) * victim_rate;
}

bool cache_guess(struct store *store, unit_number number, float probability)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->classes[unit->slot_class];
    if (unit->stage != STAGE_ABSENT || slot_class->waiting.first != NO_UNIT)
        return false;
    if (slot_class->free == NO_SLOT) {
        unit_number victim =
            ask_policy(slot_class, (struct candidate_context){.store = store, .slot_class = slot_class});
        if (victim == NO_UNIT || (probability < CERTAIN && !is_worth(probability, cache_rate(store, victim))))
            return false;
        evict(store, slot_class, victim);
        if (slot_class->free == NO_SLOT)
            return false;
    }
    store->counts.guesses++;
    unit->guessed = true;
    start(store, slot_class, number, PRIORITY_GUESS);
    return true;
}

float cache_rate(const struct store *store, unit_number number)
{
    const struct stored_unit *unit = &store->units[number];
    const struct cache_policy *policy = store->classes[unit->slot_class].policy;
    return policy->operations->rate ? policy->operations->rate(policy, unit->item) : 0;
}

void cache_set_rate(struct store *store, unit_number number, float uses_a_pass)
{
    const struct stored_unit *unit = &store->units[number];
    struct cache_policy *policy = store->classes[unit->slot_class].policy;
    if (policy->operations->set_rate)
        policy->operations->set_rate(policy, unit->item, uses_a_pass);
}

void cache_released(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->classes[unit->slot_class];
    if (slot_class->online > slot_class->target && unit->stage == STAGE_READY)
        evict(store, slot_class, number);
    cache_pump(store, slot_class);
}

void cache_unwanted(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->classes[unit->slot_class];
    if (io_abandon(store->io, &slot_class->slots[unit->slot].transfer))
        evict(store, slot_class, number);
}

void cache_finished(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->classes[unit->slot_class];
    struct transfer *transfer = &slot_class->slots[unit->slot].transfer;
    if (transfer->abandoned || transfer->failure.kind != FAILURE_NONE) {
        evict(store, slot_class, number);
        if (unit_not_brought(store, number, transfer))
            waiting_append(store, &slot_class->waiting, number);
    } else {
        unit->stage = STAGE_READY;
        slot_class->policy->operations->insert(slot_class->policy, unit->item);
        if (unit->wants == 0 && slot_class->online > slot_class->target)
            evict(store, slot_class, number);
    }
    cache_pump(store, slot_class);
}

bool cache_force(struct store *store, unit_number number)
{
    struct slot_class *slot_class = &store->classes[store->units[number].slot_class];
    waiting_remove(store, &slot_class->waiting, number);
    waiting_prepend(store, &slot_class->waiting, number);
    cache_pump(store, slot_class);
    if (store->units[number].stage != STAGE_WAITING)
        return true;
    unit_number other = NO_UNIT;
    for (uint32_t i = 0; i < slot_class->unit_count; i++) {
        unit_number there = slot_class->slots[i].unit;
        if (there == NO_UNIT)
            continue;
        if (store->units[there].stage == STAGE_READING)
            return true; /* something will change */
        if (store->units[there].holds == 0)
            other = there;
    }
    if (other == NO_UNIT)
        return false;
    /* What was wanted, and is there, but is not asked for first, is read again later. */
    evict(store, slot_class, other);
    store->units[other].stage = STAGE_WAITING;
    waiting_append(store, &slot_class->waiting, other);
    cache_pump(store, slot_class);
    return true;
}

void cache_advance(struct store *store)
{
    for (uint32_t i = 0; i < store->class_count; i++) {
        struct cache_policy *policy = store->classes[i].policy;
        if (policy->operations->pass)
            policy->operations->pass(policy);
    }
}

bool cache_populate(struct store *store)
{
    for (uint32_t i = 0; i < store->class_count; i++) {
        struct slot_class *slot_class = &store->classes[i];
        uint32_t number = slot_class->free;
        while (number != NO_SLOT && slot_class->slots[number].populated == slot_class->stride)
            number = slot_class->slots[number].next;
        if (number == NO_SLOT)
            continue;
        struct slot *slot = &slot_class->slots[number];
        uint8_t *start = slot_memory(slot_class, number) + slot->populated;
        uint64_t bytes = MIN(POPULATE_BYTES, slot_class->stride - slot->populated);
        slot->populated += bytes;
        pthread_mutex_unlock(store->mutex);
        memory_populate(start, bytes);
        pthread_mutex_lock(store->mutex);
        if (!slot->online)
            memory_decommit(start, bytes); /* the pool shrank meanwhile */
        return true;
    }
    return false;
}

void cache_set_capacity(struct store *store, uint64_t bytes)
{
    uint32_t targets[MAX_CLASSES];
    if (!share_out(store, bytes, targets))
        return; /* the caller has checked cache_least */
    for (uint32_t i = 0; i < store->class_count; i++) {
        struct slot_class *slot_class = &store->classes[i];
        slot_class->target = targets[i];
        while (slot_class->online > slot_class->target) {
            if (slot_class->free != NO_SLOT) {
                uint32_t slot = slot_class->free;
                slot_class->free = slot_class->slots[slot].next;
                slot_offline(slot_class, slot);
                continue;
            }
            unit_number victim = find_victim(store, slot_class);
            if (victim == NO_UNIT)
                break;
            evict(store, slot_class, victim);
        }
        while (slot_class->online < slot_class->target)
            slot_online(slot_class);
        cache_pump(store, slot_class);
    }
}
