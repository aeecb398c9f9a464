/* Reads experts that the next layers may need while the drive would be idle. */
#include "store/store_private.h"

#include <string.h>

/* Less likely experts are not worth their slots. */
#define LEAST_PROBABILITY 0.4

/* The loss of a wrong prefetch is certain; a drive that is held to a rate would have made up for the gain of a right
 * one.
 */
#define LOSS_WEIGHS 2.0

/* Open prefetches may fill this part of a class's slots. */
#define SLOTS_A_PREFETCH 4u

/* Experts in flight at once: one that is read, and others that follow it without a gap. */
#define UNDER_WAY 3u

/* Prefetching stops when more of what it read was wrong than right, and is tried again for TRIAL passes out of PERIOD.
 */
#define PERIOD 64u
#define TRIAL 8u
#define FADING 0.9 /* of earlier passes' observations, per pass */

/* The weight of earlier ticks in the mean time of a tick. */
#define TICK_FADING 0.95

/* Without a miss in this many passes there is nothing to prefetch for. */
#define QUIET_PASSES 4u

hypura_status prefetch_prepare(struct store *store, hypura_error *error)
{
    uint32_t experts = 0;
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        experts += store->cache.sizes[i].unit_count;
    hypura_status status = ALLOCATE(&store->prefetch.open, experts, "prefetching", error);
    if (!status)
        status = ALLOCATE(&store->prefetch.offers, experts, "prefetching", error);
    if (!status)
        status = ALLOCATE(&store->prefetch.warm, experts, "prefetching", error);
    store->prefetch.room = experts;
    store->prefetch.trial = TRIAL;
    return status;
}

void prefetch_free(struct store *store)
{
    memory_free(store->prefetch.open);
    memory_free(store->prefetch.offers);
    memory_free(store->prefetch.warm);
}

/* A long prompt offers every expert as certain. An expert that its last chunk did not need is unlikely to be needed
 * now. */
static bool is_unlikely(const struct store *store, const struct stored_unit *unit, float probability)
{
    return probability >= CERTAIN && 2 * store->prefetch.last_wants >= store->prefetch.room &&
           unit->last_pass + 1 < store->pass;
}

/* The tick of a unit's layer: in this pass if it is still to come, else in the next one. */
static uint64_t tick_of(const struct store *store, unit_number number)
{
    uint64_t start = (uint64_t)store->pass * store->layers;
    uint64_t tick = start + (uint64_t)store_unit(store, number)->layer;
    return tick > store->tick ? tick : tick + store->layers;
}

static bool is_open(const struct stored_unit *unit)
{
    return unit->prefetched && (unit->stage == STAGE_READING || unit->stage == STAGE_READY);
}

static uint32_t open_prefetches(const struct store *store, uint8_t slot_class)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < store->prefetch.open_count; i++) {
        const struct stored_unit *unit = &store->units[store->prefetch.open[i]];
        count += unit->slot_class == slot_class && is_open(unit);
    }
    return count;
}

static bool may_open(const struct store *store, unit_number number)
{
    uint8_t slot_class = store->units[number].slot_class;
    return store->prefetch.open_count < store->prefetch.room &&
           open_prefetches(store, slot_class) < MAX(store->cache.classes[slot_class].target / SLOTS_A_PREFETCH, 1u);
}

/* Reads offers as far as possible. Drops those without a slot, unless they are certain: then a slot will become free.
 */
static bool read_offers(struct store *store)
{
    struct prefetch *prefetch = &store->prefetch;
    uint32_t taken = 0;
    bool more = true;
    while (taken < prefetch->offer_count && (more = io_unfinished(store->io, PRIORITY_PREFETCH) < UNDER_WAY)) {
        const struct offer *offer = &prefetch->offers[taken];
        struct stored_unit *unit = &store->units[offer->unit];
        if (unit->stage == STAGE_ABSENT && offer->due > store->tick) {
            if (!may_open(store, offer->unit)) {
                more = false;
                break;
            }
            if (cache_prefetch(store, offer->unit, offer->probability)) {
                unit->due = offer->due;
                prefetch->open[prefetch->open_count++] = offer->unit;
            } else if (offer->probability >= CERTAIN) {
                more = false;
                break;
            }
        }
        taken++;
    }
    prefetch->offer_count -= taken;
    if (prefetch->offer_count) /* otherwise there may be no table */
        memmove(prefetch->offers, prefetch->offers + taken, prefetch->offer_count * sizeof *prefetch->offers);
    return more;
}

void prefetch_pump(struct store *store)
{
    struct prefetch *prefetch = &store->prefetch;
    if (!store->loaded || io_busy(store->io) || atomic_load(&store->cancelled))
        return;
    bool more = read_offers(store);
    if (store->resting && !store->passing)
        return;
    while (more && prefetch->warm_count > 0 && io_unfinished(store->io, PRIORITY_PREFETCH) < UNDER_WAY) {
        unit_number unit = prefetch->warm[prefetch->warm_next++];
        prefetch->warm_count--;
        cache_prefetch(store, unit, 0);
    }
    /* Between passes, prefetches that may not be opened yet wait for the next pass. */
    if (!store->resting && prefetch->warm_count == 0 && io_unfinished(store->io, PRIORITY_PREFETCH) < UNDER_WAY)
        fill_pump(store);
}

/* Gives up prefetches for a tick that are no longer expected. */
static void give_up(struct store *store, uint64_t due)
{
    struct prefetch *prefetch = &store->prefetch;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < prefetch->offer_count; i++) {
        if (prefetch->offers[i].due != due)
            prefetch->offers[kept++] = prefetch->offers[i];
    }
    prefetch->offer_count = kept;
    for (uint32_t i = 0; i < prefetch->open_count; i++) {
        struct stored_unit *unit = &store->units[prefetch->open[i]];
        if (is_open(unit) && unit->due == due)
            unit->due = 0;
    }
}

/* That the drive spends on some bytes; 0: not known. */
static double read_seconds(const struct store *store, uint64_t size)
{
    struct io_counters counters;
    io_counters(store->io, &counters);
    double bytes = 0;
    for (size_t i = 0; i < COUNT_OF(counters.bytes); i++)
        bytes += (double)counters.bytes[i];
    return bytes > 0 ? (double)size * 1e-9 * (double)counters.busy_nanoseconds / bytes : 0;
}

static uint64_t expert_bytes(const struct store *store)
{
    return store->cache.class_count ? store->cache.sizes[0].stride : 0;
}

float prefetch_least_probability(double read_seconds, double ahead_seconds, double idle_seconds)
{
    double late = MAX(MIN(read_seconds - idle_seconds, ahead_seconds), 0.0) * LOSS_WEIGHS;
    double least = late > 0 ? late / (late + MAX(idle_seconds, 0.0)) : 0;
    return (float)MAX(least, LEAST_PROBABILITY);
}

static float least_probability(const struct store *store)
{
    if (store->prefetch.mode != STORE_PREFETCH_AUTO || store->prefetch.tick_seconds <= 0)
        return (float)LEAST_PROBABILITY;
    return prefetch_least_probability(read_seconds(store, expert_bytes(store)),
                                      read_seconds(store, io_most_prefetched(store->io)), store->prefetch.idle_seconds);
}

/* Offers stay in the order of their ticks. */
static void insert_offer(struct prefetch *prefetch, struct offer offer)
{
    uint32_t at = prefetch->offer_count++;
    for (; at > 0 && prefetch->offers[at - 1].due > offer.due; at--)
        prefetch->offers[at] = prefetch->offers[at - 1];
    prefetch->offers[at] = offer;
}

void store_prefetch(struct store *store, const unit_number *units, const float *probabilities, size_t count)
{
    if (!store->loaded || atomic_load(&store->cancelled))
        return;
    /* Others of the layer may be on the GPU. */
    while (count > 0 && (units[0] >= store->unit_count || store->units[units[0]].place != PLACE_CACHE))
        units++, probabilities++, count--;
    if (count == 0)
        return;
    struct prefetch *prefetch = &store->prefetch;
    if (prefetch->mode == STORE_PREFETCH_OFF)
        return;
    pthread_mutex_lock(store->mutex);
    uint64_t due = tick_of(store, units[0]);
    float least = least_probability(store);
    give_up(store, due);
    for (size_t i = 0; i < count; i++) {
        if ((!prefetch->on && probabilities[i] < CERTAIN) || units[i] >= store->unit_count ||
            store->units[units[i]].place != PLACE_CACHE || tick_of(store, units[i]) != due ||
            !(probabilities[i] >= least))
            continue;
        struct stored_unit *unit = &store->units[units[i]];
        if (is_unlikely(store, unit, probabilities[i]))
            continue;
        if (unit->stage == STAGE_READING)
            cache_hasten(store, units[i]);
        if (unit->stage == STAGE_READY || unit->stage == STAGE_READING)
            unit->due = due;
        else if (prefetch->offer_count < prefetch->room)
            insert_offer(prefetch, (struct offer){units[i], probabilities[i], due});
    }
    prefetch_expire(store);
    prefetch_pump(store);
    pthread_mutex_unlock(store->mutex);
}

void store_demand(struct store *store, const unit_number *units, size_t count)
{
    if (!store->loaded || atomic_load(&store->cancelled))
        return;
    pthread_mutex_lock(store->mutex);
    for (size_t i = 0; i < count; i++) {
        if (units[i] < store->unit_count && store->units[units[i]].place == PLACE_CACHE &&
            cache_demand(store, units[i]))
            store->units[units[i]].due = tick_of(store, units[i]);
    }
    pthread_mutex_unlock(store->mutex);
}

static double prefetched_bytes(const struct store *store, const struct stored_unit *unit)
{
    return (double)store->cache.classes[unit->slot_class].slots[unit->slot].transfer.bytes_read;
}

static double faded(double before, double seconds, bool first)
{
    return first ? seconds : TICK_FADING * before + (1 - TICK_FADING) * seconds;
}

static void begin_tick(struct store *store, uint64_t tick)
{
    struct prefetch *prefetch = &store->prefetch;
    struct io_counters counters;
    io_counters(store->io, &counters);
    uint64_t now = clock_nanoseconds(), stall = store->counts.stall_nanoseconds, wanted = counters.wanted_nanoseconds;
    if (tick == store->tick + 1 && tick % store->layers) {
        bool first = prefetch->tick_seconds <= 0;
        double seconds = 1e-9 * (double)(now - prefetch->tick_time);
        prefetch->tick_seconds =
            faded(prefetch->tick_seconds, seconds - 1e-9 * (double)(stall - prefetch->tick_stall), first);
        prefetch->idle_seconds =
            faded(prefetch->idle_seconds, MAX(seconds - 1e-9 * (double)(wanted - prefetch->tick_wanted), 0.0), first);
    }
    prefetch->tick_time = now;
    prefetch->tick_stall = stall;
    prefetch->tick_wanted = wanted;
    store->tick = tick;
}

void prefetch_wanted(struct store *store, unit_number number)
{
    struct prefetch *prefetch = &store->prefetch;
    struct stored_unit *unit = &store->units[number];
    uint32_t layer = (uint32_t)store_unit(store, number)->layer;
    uint64_t tick = (uint64_t)store->pass * store->layers + layer;
    if (layer < store->layers && tick > store->tick)
        begin_tick(store, tick);
    unit->last_pass = store->pass;
    prefetch->wants++;
    if (unit->prefetched)
        prefetch->right += prefetched_bytes(store, unit);
    if (unit->prefetched || unit->stage != STAGE_READY)
        prefetch->last_miss = store->pass;
}

void prefetch_expire(struct store *store)
{
    struct prefetch *prefetch = &store->prefetch;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < prefetch->open_count; i++) {
        unit_number number = prefetch->open[i];
        struct stored_unit *unit = &store->units[number];
        if (!is_open(unit))
            continue;
        if (unit->due > store->tick) {
            prefetch->open[kept++] = number;
            continue;
        }
        prefetch->wrong += prefetched_bytes(store, unit);
        if (unit->stage == STAGE_READING && unit->wants == 0)
            cache_unwanted(store, number);
    }
    prefetch->open_count = kept;
}

/* ---- do they pay? ------------------------------------------------------------------------------------------------ */

/* The layers that pass while two experts are read, and one more. An earlier offer would only be less certain. */
static uint32_t layers_worth_prefetching(const struct store *store)
{
    double seconds = read_seconds(store, expert_bytes(store));
    if (seconds <= 0 || store->prefetch.tick_seconds <= 0)
        return UINT32_MAX;
    return 2 + (uint32_t)MIN(2 * seconds / store->prefetch.tick_seconds, 1e6);
}

bool store_wants_prefetch(struct store *store, uint32_t ahead)
{
    struct prefetch *prefetch = &store->prefetch;
    pthread_mutex_lock(store->mutex);
    bool wants = prefetch->on && prefetch->last_miss + QUIET_PASSES >= store->pass;
    if (wants && ahead > 1) {
        bool idle =
            prefetch->offer_count == 0 && !io_busy(store->io) && io_unfinished(store->io, PRIORITY_PREFETCH) < 2;
        bool waited = ahead == 2 && store->counts.stall_nanoseconds > prefetch->stall_seen;
        prefetch->stall_seen = store->counts.stall_nanoseconds;
        wants = (idle || waited) && ahead <= layers_worth_prefetching(store);
    }
    pthread_mutex_unlock(store->mutex);
    return wants;
}

void prefetch_pass_done(struct store *store)
{
    struct prefetch *prefetch = &store->prefetch;
    if (prefetch->mode == STORE_PREFETCH_AUTO) {
        if (prefetch->on) {
            prefetch->on = prefetch->wrong <= prefetch->right || prefetch->trial > 0;
            prefetch->trial -= prefetch->trial > 0;
            prefetch->turn = 0;
        } else if (++prefetch->turn >= PERIOD) {
            prefetch->on = true;
            prefetch->trial = TRIAL;
            prefetch->right = prefetch->wrong = 0;
        }
        prefetch->right *= FADING;
        prefetch->wrong *= FADING;
    }
    prefetch->last_wants = prefetch->wants;
    prefetch->wants = 0;
    store->pass++;
}
