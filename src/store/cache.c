/* The expert cache: slots of a few sizes. Demands and prefetches fill them; the policy empties them. */
#include "store/store_private.h"

/* Populated at a time, while others wait: a huge page. */
#define POPULATE_BYTES ((uint64_t)2 << 20)

/* ---- slots ------------------------------------------------------------------------------------------------------- */

static uint8_t *slot_memory(const struct slot_class *slot_class, uint32_t slot)
{
    return slot_class->memory + slot * slot_class->size->stride;
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
    memory_set_huge(slot_memory(slot_class, number), slot_class->size->stride, true);
}

/* Returns the memory of an empty slot, which is in no list, to the system. */
static void slot_offline(struct store *store, struct slot_class *slot_class, uint32_t number)
{
    struct slot *slot = &slot_class->slots[number];
    memory_set_huge(slot_memory(slot_class, number), slot_class->size->stride, false);
    memory_decommit(slot_memory(slot_class, number), slot_class->size->stride);
    slot->online = false;
    store->cache.slots_changed = true;
    slot->populated = 0;
    slot->next = slot_class->offline;
    slot_class->offline = number;
    slot_class->online--;
}

static void slot_free(struct store *store, struct slot_class *slot_class, uint32_t number)
{
    slot_class->slots[number].unit = NO_UNIT;
    if (slot_class->online > slot_class->target) {
        slot_offline(store, slot_class, number);
    } else {
        slot_class->slots[number].next = slot_class->free;
        slot_class->free = number;
    }
}

void cache_taken(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    store->cache.classes[unit->slot_class].granted -= unit->granted;
    unit->granted = false;
}

/* Before it is known whether a prefetch that is there was right. */
static void count_used(struct store *store, const struct stored_unit *unit)
{
    if (unit->prefetched && unit->stage == STAGE_READY)
        store->cache.unused -= store->cache.classes[unit->slot_class].slots[unit->slot].transfer.bytes_read;
}

/* Removes a unit from its slot, which is then free. */
static void evict(struct store *store, struct slot_class *slot_class, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    uint64_t bytes = unit_footprint(store, number);
    count_used(store, unit);
    if (unit->stage == STAGE_READY)
        slot_class->policy->operations->remove(slot_class->policy, unit->item);
    if (unit->prefetched)
        store->counts.bytes_wasted += slot_class->slots[unit->slot].transfer.bytes_read;
    cache_taken(store, number);
    unit->prefetched = false;
    unit->stage = STAGE_ABSENT;
    unit->memory = NULL;
    store->cache.used -= bytes;
    slot_free(store, slot_class, unit->slot);
}

struct candidate_context {
    const struct store *store;
    const struct slot_class *slot_class;
    bool even_expected; /* including prefetched units that are expected soon */
};

static bool may_go(void *context, uint32_t item)
{
    const struct candidate_context *candidate = context;
    const struct store *store = candidate->store;
    const struct stored_unit *unit = &store->units[candidate->slot_class->units[item]];
    return unit->wants == 0 && unit->holds == 0 && (candidate->even_expected || unit->due <= store->tick);
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

/* Filling takes slots while nothing else wants them. So before an expert is evicted, the filling that has read the
 * least gives its slot back, unless a block of it is in flight. */
static bool have_slot_without_evicting(struct store *store, struct slot_class *slot_class)
{
    if (slot_class->free != NO_SLOT || io_unfinished(store->io, PRIORITY_FILL) == 0)
        return slot_class->free != NO_SLOT;
    struct slot *least = NULL;
    for (uint32_t i = 0; i < slot_class->size->unit_count; i++) {
        struct slot *slot = &slot_class->slots[i];
        if (slot->unit == NO_UNIT || store->units[slot->unit].stage != STAGE_READING ||
            store->units[slot->unit].wants > 0 || slot->transfer.priority != PRIORITY_FILL ||
            slot->transfer.in_flight > 0)
            continue;
        if (!least || slot->transfer.bytes_read < least->transfer.bytes_read)
            least = slot;
    }
    if (least && io_abandon(store->io, &least->transfer))
        evict(store, slot_class, least->unit);
    return slot_class->free != NO_SLOT;
}

static bool have_free_slot(struct store *store, struct slot_class *slot_class)
{
    if (!have_slot_without_evicting(store, slot_class)) {
        unit_number victim = find_victim(store, slot_class);
        if (victim != NO_UNIT)
            evict(store, slot_class, victim);
    }
    return slot_class->free != NO_SLOT;
}

/* Its transfer, which is to be started. */
static struct transfer *take_slot(struct store *store, struct slot_class *slot_class, unit_number number,
                                  enum priority priority)
{
    struct stored_unit *unit = &store->units[number];
    uint32_t slot = slot_class->free;
    slot_class->free = slot_class->slots[slot].next;
    slot_class->slots[slot].unit = number;
    slot_class->slots[slot].populated = slot_class->size->stride;
    unit->slot = slot;
    unit->stage = STAGE_READING;
    unit->memory = slot_memory(slot_class, slot);
    store->cache.used += unit_footprint(store, number);
    layout_transfer(&slot_class->slots[slot].transfer, store_unit(store, number), number, unit->memory, priority);
    return &slot_class->slots[slot].transfer;
}

static void start(struct store *store, struct slot_class *slot_class, unit_number number, enum priority priority)
{
    io_start(store->io, take_slot(store, slot_class, number, priority));
}

/* Stops a read that is no longer wanted, if there is one. Its slot becomes free once its blocks in flight are back. */
static void abandon_unwanted(struct store *store, struct slot_class *slot_class)
{
    /* Units that warm up the cache are in falling order of worth. */
    for (uint32_t i = slot_class->size->unit_count; i-- > 0;) {
        struct slot *slot = &slot_class->slots[i];
        if (slot->unit == NO_UNIT || store->units[slot->unit].stage != STAGE_READING ||
            store->units[slot->unit].wants > 0 || slot->transfer.abandoned)
            continue;
        if (io_abandon(store->io, &slot->transfer))
            evict(store, slot_class, slot->unit);
        return;
    }
}

/* A long prompt wants more experts of a layer than must be in memory at once. Those that were used already are the best
 * victims for the others, so the others wait. This much in flight, or not taken yet, but only a part of the slots,
 * keeps drive and cores busy. */
#define WINDOW_BYTES ((uint64_t)64 << 20)
#define WINDOW_PART 4u
#define WINDOW_LEAST 4u

static bool enough_under_way(const struct slot_class *slot_class)
{
    uint64_t window = MIN(WINDOW_BYTES / slot_class->size->stride, (uint64_t)slot_class->target / WINDOW_PART);
    return slot_class->granted >= MAX(window, (uint64_t)WINDOW_LEAST);
}

/* Gives a slot to the first waiting unit; false: there is no slot now. */
static bool start_first(struct store *store, struct slot_class *slot_class)
{
    if (!have_free_slot(store, slot_class))
        abandon_unwanted(store, slot_class);
    if (slot_class->free == NO_SLOT)
        return false;
    unit_number unit = slot_class->waiting.first;
    waiting_remove(store, &slot_class->waiting, unit);
    start(store, slot_class, unit, PRIORITY_DEMAND);
    store->units[unit].granted = true;
    slot_class->granted++;
    return true;
}

void cache_pump(struct store *store, struct slot_class *slot_class)
{
    while (slot_class->waiting.first != NO_UNIT) {
        if (slot_class->free == NO_SLOT && enough_under_way(slot_class))
            return;
        if (!start_first(store, slot_class))
            return;
    }
}

void cache_note_tokens(struct store *store, unit_number first, const uint32_t *experts, size_t tokens, size_t used)
{
    size_t told[MAX_CLASSES] = {0}; /* tokens */
    for (size_t i = 0; i < tokens * used; i++) {
        struct stored_unit *unit = &store->units[first + experts[i]];
        if (unit->place != PLACE_CACHE)
            continue;
        struct cache_policy *policy = store->cache.classes[unit->slot_class].policy;
        if (!policy->operations->token)
            continue;
        unit->noted_pass = store->pass;
        if (i / used + POLICY_TOKENS < tokens)
            continue;
        if (told[unit->slot_class] != i / used + 1)
            policy->operations->token(policy, unit->item);
        told[unit->slot_class] = i / used + 1;
        policy->operations->access(policy, unit->item);
    }
}

void cache_want(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->cache.classes[unit->slot_class];
    if (unit->noted_pass != store->pass)
        slot_class->policy->operations->access(slot_class->policy, unit->item);
    if (unit->stage == STAGE_READY)
        store->counts.expert_hits++;
    else
        store->counts.expert_misses++;
    unit->kept = unit->stage == STAGE_READY && !unit->prefetched;
    count_used(store, unit);
    if (unit->prefetched) {
        store->counts.prefetches_used++;
        unit->prefetched = false;
    }
    if (unit->stage == STAGE_READING && !slot_class->slots[unit->slot].transfer.abandoned) {
        io_promote(store->io, &slot_class->slots[unit->slot].transfer, PRIORITY_DEMAND);
    } else if (unit->stage == STAGE_ABSENT) {
        unit->stage = STAGE_WAITING;
        waiting_append(store, &slot_class->waiting, number);
    }
}

/* The policy's own victim makes room for a prefetch. A right prefetch evicts what its demand would have evicted anyway,
 * and saves about a third of a read, for which it is early. A wrong one costs a read if its victim is needed. Other
 * victims, such as the least recently used expert, are used by the next layers. */
static bool is_worth(float probability, float victim_chance)
{
    return probability > 3 * (1 - probability) * victim_chance;
}

static float chance(const struct store *store, unit_number number)
{
    const struct stored_unit *unit = &store->units[number];
    const struct cache_policy *policy = store->cache.classes[unit->slot_class].policy;
    return policy->operations->chance ? policy->operations->chance(policy, unit->item) : 0;
}

bool cache_prefetch(struct store *store, unit_number number, float probability)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->cache.classes[unit->slot_class];
    if (unit->stage != STAGE_ABSENT || slot_class->waiting.first != NO_UNIT)
        return false;
    if (!have_slot_without_evicting(store, slot_class)) {
        unit_number victim =
            ask_policy(slot_class, (struct candidate_context){.store = store, .slot_class = slot_class});
        if (victim == NO_UNIT || (probability < CERTAIN && !is_worth(probability, chance(store, victim))))
            return false;
        evict(store, slot_class, victim);
        if (slot_class->free == NO_SLOT)
            return false;
    }
    store->counts.prefetches++;
    unit->prefetched = true;
    start(store, slot_class, number, PRIORITY_PREFETCH);
    return true;
}

/* Experts kept for later layers may take this part of the slots from others. */
#define EXPECTED_PART 2u

static uint32_t expected_units(const struct store *store, const struct slot_class *slot_class)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < slot_class->size->unit_count; i++) {
        const unit_number unit = slot_class->slots[i].unit;
        count += unit != NO_UNIT && store->units[unit].due > store->tick;
    }
    return count;
}

bool cache_demand(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->cache.classes[unit->slot_class];
    if (unit->stage == STAGE_READING && !slot_class->slots[unit->slot].transfer.abandoned)
        io_promote(store->io, &slot_class->slots[unit->slot].transfer, PRIORITY_DEMAND);
    if (unit->stage == STAGE_READING || unit->stage == STAGE_READY)
        return true;
    if (unit->stage != STAGE_ABSENT || slot_class->waiting.first != NO_UNIT)
        return false;
    if (!have_slot_without_evicting(store, slot_class)) {
        unit_number victim =
            ask_policy(slot_class, (struct candidate_context){.store = store, .slot_class = slot_class});
        if (victim == NO_UNIT || expected_units(store, slot_class) >= slot_class->target / EXPECTED_PART)
            return false;
        evict(store, slot_class, victim);
        if (slot_class->free == NO_SLOT)
            return false;
    }
    start(store, slot_class, number, PRIORITY_DEMAND);
    return true;
}

void cache_bring(struct store *store, unit_number number, enum priority priority)
{
    start(store, &store->cache.classes[store->units[number].slot_class], number, priority);
}

void cache_hasten(struct store *store, unit_number number)
{
    const struct stored_unit *unit = &store->units[number];
    struct transfer *transfer = &store->cache.classes[unit->slot_class].slots[unit->slot].transfer;
    if (transfer->priority == PRIORITY_FILL)
        io_promote(store->io, transfer, PRIORITY_PREFETCH);
}

bool cache_receive(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->cache.classes[unit->slot_class];
    if (unit->stage != STAGE_ABSENT || slot_class->waiting.first != NO_UNIT || slot_class->free == NO_SLOT)
        return false;
    io_start_elsewhere(store->io, take_slot(store, slot_class, number, PRIORITY_PREFETCH));
    return true;
}

void cache_received(struct store *store, unit_number number, bool there)
{
    const struct stored_unit *unit = &store->units[number];
    io_end_elsewhere(store->io, &store->cache.classes[unit->slot_class].slots[unit->slot].transfer, there);
}

float cache_rate(const struct store *store, unit_number number)
{
    const struct stored_unit *unit = &store->units[number];
    const struct cache_policy *policy = store->cache.classes[unit->slot_class].policy;
    return policy->operations->rate ? policy->operations->rate(policy, unit->item) : 0;
}

void cache_set_rate(struct store *store, unit_number number, float uses_a_pass)
{
    const struct stored_unit *unit = &store->units[number];
    struct cache_policy *policy = store->cache.classes[unit->slot_class].policy;
    if (policy->operations->set_rate)
        policy->operations->set_rate(policy, unit->item, uses_a_pass);
}

void cache_released(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->cache.classes[unit->slot_class];
    if (slot_class->online > slot_class->target && unit->stage == STAGE_READY)
        evict(store, slot_class, number);
    cache_pump(store, slot_class);
}

void cache_unwanted(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->cache.classes[unit->slot_class];
    if (io_abandon(store->io, &slot_class->slots[unit->slot].transfer))
        evict(store, slot_class, number);
}

void cache_drop(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->cache.classes[unit->slot_class];
    if (unit->stage == STAGE_READING)
        cache_unwanted(store, number);
    else if (unit->stage == STAGE_READY)
        evict(store, slot_class, number);
    cache_pump(store, slot_class);
}

void cache_finished(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    struct slot_class *slot_class = &store->cache.classes[unit->slot_class];
    struct transfer *transfer = &slot_class->slots[unit->slot].transfer;
    if (transfer->abandoned || transfer->failure.kind != FAILURE_NONE) {
        evict(store, slot_class, number);
        if (unit_not_brought(store, number, transfer))
            waiting_append(store, &slot_class->waiting, number);
    } else {
        unit->stage = STAGE_READY;
        store->cache.unused += unit->prefetched ? transfer->bytes_read : 0;
        slot_class->policy->operations->insert(slot_class->policy, unit->item);
        if (unit->wants == 0 && slot_class->online > slot_class->target)
            evict(store, slot_class, number);
    }
    cache_pump(store, slot_class);
}

bool cache_force(struct store *store, unit_number number)
{
    struct slot_class *slot_class = &store->cache.classes[store->units[number].slot_class];
    waiting_remove(store, &slot_class->waiting, number);
    waiting_prepend(store, &slot_class->waiting, number);
    if (start_first(store, slot_class)) /* however much is in flight, because none of that may be requested before */
        return true;
    unit_number other = NO_UNIT;
    for (uint32_t i = 0; i < slot_class->size->unit_count; i++) {
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
    /* A wanted unit in memory that is not requested next is evicted, and read again later. */
    evict(store, slot_class, other);
    if (store->units[other].wants > 0) {
        store->units[other].stage = STAGE_WAITING;
        waiting_append(store, &slot_class->waiting, other);
    }
    cache_pump(store, slot_class);
    return true;
}

void cache_advance(struct store *store)
{
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        struct cache_policy *policy = store->cache.classes[i].policy;
        if (policy->operations->pass)
            policy->operations->pass(policy);
    }
}

bool cache_populate(struct store *store)
{
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        struct slot_class *slot_class = &store->cache.classes[i];
        uint32_t number = slot_class->free;
        while (number != NO_SLOT && slot_class->slots[number].populated == slot_class->size->stride)
            number = slot_class->slots[number].next;
        if (number == NO_SLOT)
            continue;
        struct slot *slot = &slot_class->slots[number];
        uint8_t *start = slot_memory(slot_class, number) + slot->populated;
        uint64_t bytes = MIN(POPULATE_BYTES, slot_class->size->stride - slot->populated);
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
    if (!cache_share_out(store, bytes, targets))
        return; /* the caller has checked cache_least */
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        struct slot_class *slot_class = &store->cache.classes[i];
        slot_class->target = targets[i];
        while (slot_class->online > slot_class->target) {
            if (slot_class->free != NO_SLOT) {
                uint32_t slot = slot_class->free;
                slot_class->free = slot_class->slots[slot].next;
                slot_offline(store, slot_class, slot);
                continue;
            }
            unit_number victim = find_victim(store, slot_class);
            if (victim == NO_UNIT)
                break;
            evict(store, slot_class, victim);
        }
        store->cache.slots_changed |= slot_class->online < slot_class->target;
    }
    if (!store->cache.grows_at_rest)
        cache_grow(store);
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        cache_pump(store, &store->cache.classes[i]);
}

hypura_status cache_prepare(struct store *store, uint64_t bytes, const char *policy, hypura_error *error)
{
    hypura_status status = cache_classes_prepare(store, bytes, policy, error);
    if (!status && store->cache.class_count)
        cache_set_capacity(store, bytes);
    return status;
}

void cache_grow(struct store *store)
{
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        struct slot_class *slot_class = &store->cache.classes[i];
        while (slot_class->online < slot_class->target)
            slot_online(slot_class);
    }
}

void cache_fill(struct store *store)
{
    if (cache_load_bytes(store) == 0)
        return;
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        struct slot_class *slot_class = &store->cache.classes[i];
        for (uint32_t u = 0; u < slot_class->size->unit_count && slot_class->free != NO_SLOT; u++) {
            const struct stored_unit *unit = &store->units[slot_class->units[u]];
            if (unit->place == PLACE_CACHE && unit->stage == STAGE_ABSENT)
                start(store, slot_class, slot_class->units[u], PRIORITY_AHEAD);
        }
    }
}

uint64_t cache_filled(const struct store *store, bool *more)
{
    uint64_t bytes = 0;
    *more = false;
    for (uint32_t i = 0; i < store->cache.class_count; i++) {
        const struct slot_class *slot_class = &store->cache.classes[i];
        for (uint32_t s = 0; s < slot_class->size->unit_count; s++) {
            unit_number unit = slot_class->slots[s].unit;
            if (unit == NO_UNIT)
                continue;
            *more |= store->units[unit].stage == STAGE_READING;
            bytes += slot_class->slots[s].transfer.bytes_read;
        }
    }
    return bytes;
}
