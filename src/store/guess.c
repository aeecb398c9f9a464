/* Guesses: which experts the next layers may want, read while the drive would be idle. */
#include "store/store_private.h"

#include <string.h>

/* Below this a guess is likelier to be wasted than its slot is worth. */
#define LEAST_PROBABILITY 0.4f

/* Guesses that are open may fill this part of a class's slots. */
#define SLOTS_A_GUESS 4u

/* Experts on their way at once: one that is read, and what follows it without a gap. */
#define UNDER_WAY 3u

/* Guessing stops when more of what it read was wrong than right, and is tried again for TRIAL passes out of PERIOD. */
#define PERIOD 64u
#define TRIAL 8u
#define FADING 0.9 /* of what earlier passes showed, a pass */

/* How much of what earlier steps took is remembered. */
#define STEP_FADING 0.95

/* Without a miss in so many passes there is nothing to guess for. */
#define QUIET_PASSES 4u

hypura_status guess_prepare(struct store *store, hypura_error *error)
{
    uint32_t experts = 0;
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        experts += store->cache.classes[i].unit_count;
    hypura_status status = ALLOCATE(&store->guesses.open, experts, "guesses", error);
    if (!status)
        status = ALLOCATE(&store->guesses.offers, experts, "guesses", error);
    if (!status)
        status = ALLOCATE(&store->guesses.warm, experts, "guesses", error);
    store->guesses.room = experts;
    store->guesses.trial = TRIAL;
    return status;
}

void guess_free(struct store *store)
{
    memory_free(store->guesses.open);
    memory_free(store->guesses.offers);
    memory_free(store->guesses.warm);
}

/* A long prompt is offered as certain to need every expert; what its last chunk did not need it will hardly need now.
 */
static bool is_unlikely(const struct store *store, const struct stored_unit *unit, float probability)
{
    return probability >= CERTAIN && 2 * store->guesses.last_wants >= store->guesses.room &&
           unit->last_pass + 1 < store->pass;
}

/* Which step a unit's layer will be: in this pass when it is yet to come, else in the next. */
static uint64_t step_of(const struct store *store, unit_number number)
{
    uint64_t start = (uint64_t)store->pass * store->layers;
    uint64_t step = start + (uint64_t)store_unit(store, number)->layer;
    return step > store->step ? step : step + store->layers;
}

static bool is_open(const struct stored_unit *unit)
{
    return unit->guessed && (unit->stage == STAGE_READING || unit->stage == STAGE_READY);
}

static uint32_t open_guesses(const struct store *store, uint8_t slot_class)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < store->guesses.open_count; i++) {
        const struct stored_unit *unit = &store->units[store->guesses.open[i]];
        count += unit->slot_class == slot_class && is_open(unit);
    }
    return count;
}

static bool may_open(const struct store *store, unit_number number)
{
    uint8_t slot_class = store->units[number].slot_class;
    return store->guesses.open_count < store->guesses.room &&
           open_guesses(store, slot_class) < MAX(store->cache.classes[slot_class].target / SLOTS_A_GUESS, 1u);
}

/* Offers that can be read are read; those that find no slot are dropped, unless they are certain: then a slot will come
 * free. */
static bool read_offers(struct store *store)
{
    struct guesses *guesses = &store->guesses;
    uint32_t taken = 0;
    bool more = true;
    while (taken < guesses->offer_count && (more = io_unfinished(store->io, PRIORITY_GUESS) < UNDER_WAY)) {
        const struct offer *offer = &guesses->offers[taken];
        struct stored_unit *unit = &store->units[offer->unit];
        if (unit->stage == STAGE_ABSENT && offer->due > store->step) {
            if (!may_open(store, offer->unit)) {
                more = false;
                break;
            }
            if (cache_guess(store, offer->unit, offer->probability)) {
                unit->due = offer->due;
                guesses->open[guesses->open_count++] = offer->unit;
            } else if (offer->probability >= CERTAIN) {
                more = false;
                break;
            }
        }
        taken++;
    }
    guesses->offer_count -= taken;
    if (guesses->offer_count) /* else there may be no table */
        memmove(guesses->offers, guesses->offers + taken, guesses->offer_count * sizeof *guesses->offers);
    return more;
}

void guess_pump(struct store *store)
{
    struct guesses *guesses = &store->guesses;
    if (!store->loaded || io_busy(store->io) || atomic_load(&store->cancelled))
        return;
    bool more = read_offers(store);
    if (store->resting && !store->passing)
        return;
    while (more && guesses->warm_count > 0 && io_unfinished(store->io, PRIORITY_GUESS) < UNDER_WAY) {
        unit_number unit = guesses->warm[guesses->warm_next++];
        guesses->warm_count--;
        cache_guess(store, unit, 0);
    }
    /* Between passes guesses that may not be opened yet wait for the next one. */
    if (!store->resting && guesses->warm_count == 0 && io_unfinished(store->io, PRIORITY_GUESS) < UNDER_WAY)
        fill_pump(store);
}

/* What was guessed for a step and is not expected any more. */
static void give_up(struct store *store, uint64_t due)
{
    struct guesses *guesses = &store->guesses;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < guesses->offer_count; i++) {
        if (guesses->offers[i].due != due)
            guesses->offers[kept++] = guesses->offers[i];
    }
    guesses->offer_count = kept;
    for (uint32_t i = 0; i < guesses->open_count; i++) {
        struct stored_unit *unit = &store->units[guesses->open[i]];
        if (is_open(unit) && unit->due == due)
            unit->due = 0;
    }
}

/* Offers stay in the order of their steps. */
static void insert_offer(struct guesses *guesses, struct offer offer)
{
    uint32_t at = guesses->offer_count++;
    for (; at > 0 && guesses->offers[at - 1].due > offer.due; at--)
        guesses->offers[at] = guesses->offers[at - 1];
    guesses->offers[at] = offer;
}

void store_predict(struct store *store, const unit_number *units, const float *probabilities, size_t count)
{
    if (!store->loaded || atomic_load(&store->cancelled))
        return;
    /* Others of the layer may be on the GPU. */
    while (count > 0 && (units[0] >= store->unit_count || store->units[units[0]].place != PLACE_CACHE))
        units++, probabilities++, count--;
    if (count == 0)
        return;
    struct guesses *guesses = &store->guesses;
    if (guesses->mode == STORE_GUESSING_OFF)
        return;
    pthread_mutex_lock(store->mutex);
    uint64_t due = step_of(store, units[0]);
    give_up(store, due);
    for (size_t i = 0; i < count; i++) {
        if ((!guesses->on && probabilities[i] < CERTAIN) || units[i] >= store->unit_count ||
            store->units[units[i]].place != PLACE_CACHE || step_of(store, units[i]) != due ||
            !(probabilities[i] >= LEAST_PROBABILITY))
            continue;
        struct stored_unit *unit = &store->units[units[i]];
        if (is_unlikely(store, unit, probabilities[i]))
            continue;
        if (unit->stage == STAGE_READING)
            cache_hasten(store, units[i]);
        if (unit->stage == STAGE_READY || unit->stage == STAGE_READING)
            unit->due = due;
        else if (guesses->offer_count < guesses->room)
            insert_offer(guesses, (struct offer){units[i], probabilities[i], due});
    }
    guess_expire(store);
    guess_pump(store);
    pthread_mutex_unlock(store->mutex);
}

static double guessed_bytes(const struct store *store, const struct stored_unit *unit)
{
    return (double)store->cache.classes[unit->slot_class].slots[unit->slot].transfer.bytes_read;
}

static void begin_step(struct store *store, uint64_t step)
{
    struct guesses *guesses = &store->guesses;
    uint64_t now = clock_nanoseconds(), stall = store->counts.stall_nanoseconds;
    if (step == store->step + 1 && step % store->layers) {
        double seconds = 1e-9 * ((double)(now - guesses->step_time) - (double)(stall - guesses->step_stall));
        guesses->step_seconds =
            guesses->step_seconds > 0 ? STEP_FADING * guesses->step_seconds + (1 - STEP_FADING) * seconds : seconds;
    }
    guesses->step_time = now;
    guesses->step_stall = stall;
    store->step = step;
}

void guess_wanted(struct store *store, unit_number number)
{
    struct guesses *guesses = &store->guesses;
    struct stored_unit *unit = &store->units[number];
    uint64_t step = (uint64_t)store->pass * store->layers + (uint64_t)store_unit(store, number)->layer;
    if (step > store->step)
        begin_step(store, step);
    unit->last_pass = store->pass;
    guesses->wants++;
    if (unit->guessed)
        guesses->right += guessed_bytes(store, unit);
    if (unit->guessed || unit->stage != STAGE_READY)
        guesses->last_miss = store->pass;
}

void guess_expire(struct store *store)
{
    struct guesses *guesses = &store->guesses;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < guesses->open_count; i++) {
        unit_number number = guesses->open[i];
        struct stored_unit *unit = &store->units[number];
        if (!is_open(unit))
            continue;
        if (unit->due > store->step) {
            guesses->open[kept++] = number;
            continue;
        }
        guesses->wrong += guessed_bytes(store, unit);
        if (unit->stage == STAGE_READING && unit->wants == 0)
            cache_unwanted(store, number);
    }
    guesses->open_count = kept;
}

/* ---- do they pay? ------------------------------------------------------------------------------------------------ */

/* Layers that go by while two experts are read, and one more: a guess that is made earlier is only less sure. */
static uint32_t layers_worth_guessing(const struct store *store)
{
    struct io_counters counters;
    io_counters(store->io, &counters);
    double bytes = 0;
    for (size_t i = 0; i < COUNT_OF(counters.bytes); i++)
        bytes += (double)counters.bytes[i];
    if (bytes <= 0 || store->guesses.step_seconds <= 0 || store->cache.class_count == 0)
        return UINT32_MAX;
    double read_seconds = (double)store->cache.classes[0].stride * 1e-9 * (double)counters.busy_nanoseconds / bytes;
    return 2 + (uint32_t)MIN(2 * read_seconds / store->guesses.step_seconds, 1e6);
}

bool store_wants_guesses(struct store *store, uint32_t ahead)
{
    struct guesses *guesses = &store->guesses;
    pthread_mutex_lock(store->mutex);
    bool wants = guesses->on && guesses->last_miss + QUIET_PASSES >= store->pass;
    if (wants && ahead > 1) {
        bool idle = guesses->offer_count == 0 && !io_busy(store->io) && io_unfinished(store->io, PRIORITY_GUESS) < 2;
        bool waited = ahead == 2 && store->counts.stall_nanoseconds > guesses->stall_seen;
        guesses->stall_seen = store->counts.stall_nanoseconds;
        wants = (idle || waited) && ahead <= layers_worth_guessing(store);
    }
    pthread_mutex_unlock(store->mutex);
    return wants;
}

void guess_pass_done(struct store *store)
{
    struct guesses *guesses = &store->guesses;
    if (guesses->mode == STORE_GUESSING_AUTO) {
        if (guesses->on) {
            guesses->on = guesses->wrong <= guesses->right || guesses->trial > 0;
            guesses->trial -= guesses->trial > 0;
            guesses->turn = 0;
        } else if (++guesses->turn >= PERIOD) {
            guesses->on = true;
            guesses->trial = TRIAL;
            guesses->right = guesses->wrong = 0;
        }
        guesses->right *= FADING;
        guesses->wrong *= FADING;
    }
    guesses->last_wants = guesses->wants;
    guesses->wants = 0;
    store->pass++;
}
