/* Experts that change sides while a model runs: what is used most comes to the GPU, for what is used least there.
 *
 * Which side computes an expert decides its last bits, so everything that shows happens at fixed points, every
 * MOVE_PASSES passes, and follows from what was used before them, never from when something was ready:
 *
 *   MOVES_NONE      pairs are chosen, in each layer an expert there and a hotter one here; the former is read into the
 *                   cache while the drive has nothing else to do
 *   MOVES_LEAVING   the former leaves its slot: from now on it is computed here. A thread copies the other into the
 *                   slot, from the cache, when it is there
 *   MOVES_COMING    the other is computed there from now on, and leaves the cache
 *
 * Copies have MOVE_PASSES passes' time, and what is hot is in the cache; only what has not arrived after that is waited
 * for.
 *
 * An expert that cannot be copied leaves its slot empty, and nothing moves from then on. Where the device does not take
 * the table of slots, though, it and the host would disagree on who computes what: that ends the request. */
#include "store/store_private.h"

#include "store/device_private.h"

#include <stdlib.h>

#define MOVE_PASSES 8u

/* What a use counts, and the part of it that fades at each fixed point: after some 500 passes a third is left. */
#define HEAT_A_USE 256u
#define HEAT_MOST ((uint32_t)1 << 31)
#define FADING_SHARE 64u

/* Earlier runs count as this many passes. */
#define PASSES_BEFORE 256.0f

/* Of what was noted by chance alone some expert is always the hottest: a difference counts from here on, in standard
 * deviations squared. */
#define DEVIATIONS 16u

static uint32_t *heat_of(const struct store *store, unit_number unit)
{
    const struct unit *what = store_unit(store, unit);
    return &store->moves.heat[(size_t)what->layer * store->moves.experts + (size_t)what->expert];
}

hypura_status moves_prepare(struct store *store, uint32_t experts, uint32_t at_once, hypura_error *error)
{
    struct moves *moves = &store->moves;
    uint32_t there = 0;
    moves->experts = experts;
    hypura_status status = ALLOCATE(&moves->first, store->layers, "table of experts", error);
    for (uint32_t i = 0; !status && i < store->layers; i++)
        moves->first[i] = NO_UNIT;
    for (unit_number i = 0; !status && i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        if (unit->kind != UNIT_EXPERT || unit->expert != 0)
            continue;
        uint32_t slots = device_slots(store, (uint32_t)unit->layer);
        if (slots > 0 && slots < experts) {
            moves->first[unit->layer] = i;
            there += slots;
        }
    }
    if (status || there == 0)
        return status;
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        store->units[i].moves = unit->kind == UNIT_EXPERT && moves->first[unit->layer] != NO_UNIT;
    }
    moves->limit = MIN(at_once, MOST_MOVES);
    make_condition(&moves->work);
    return ALLOCATE(&moves->heat, (size_t)store->layers * experts, "heat of experts", error);
}

void moves_free(struct store *store)
{
    if (store->moves.heat)
        pthread_cond_destroy(&store->moves.work);
    memory_free(store->moves.heat);
    memory_free(store->moves.first);
}

static void warm(struct store *store, unit_number unit, uint32_t by)
{
    uint32_t *heat = heat_of(store, unit);
    *heat += MIN(by, HEAT_MOST - *heat);
}

void moves_note(struct store *store, unit_number unit)
{
    if (store->units[unit].moves)
        warm(store, unit, HEAT_A_USE);
}

void moves_expect(struct store *store, unit_number unit, float uses_a_pass)
{
    if (store->units[unit].moves)
        warm(store, unit, (uint32_t)(uses_a_pass * PASSES_BEFORE * HEAT_A_USE));
}

/* ---- which --------------------------------------------------------------------------------------------------------
 */

static void fade(struct store *store)
{
    for (size_t i = 0; i < (size_t)store->layers * store->moves.experts; i++)
        store->moves.heat[i] -= store->moves.heat[i] / FADING_SHARE;
}

/* Uses a pass, as far as heat remembers. */
static float rate(const struct store *store, unit_number unit)
{
    return MIN((float)*heat_of(store, unit) / (HEAT_A_USE * (float)(FADING_SHARE * MOVE_PASSES)), 1.0f);
}

/* The hottest expert of a layer that is here, for the coldest there; false when that is not worth it. */
static bool find_pair(const struct store *store, uint32_t layer, struct move *out, uint64_t *gain)
{
    uint32_t hottest = 0, coldest = UINT32_MAX;
    *out = (struct move){.in = NO_UNIT, .out = NO_UNIT};
    for (uint32_t e = 0; e < store->moves.experts; e++) {
        unit_number unit = store->moves.first[layer] + e;
        uint32_t heat = *heat_of(store, unit);
        if (store->units[unit].place == PLACE_CACHE && heat > hottest) {
            hottest = heat;
            out->in = unit;
        } else if (store->units[unit].place == PLACE_GPU && heat < coldest) {
            coldest = heat;
            out->out = unit;
        }
    }
    if (out->in == NO_UNIT || out->out == NO_UNIT || hottest <= coldest)
        return false;
    *gain = hottest - coldest;
    return *gain * *gain > (uint64_t)DEVIATIONS * HEAT_A_USE * ((uint64_t)hottest + coldest);
}

/* The pairs that bring most, of each layer one. */
static void choose(struct store *store)
{
    struct moves *moves = &store->moves;
    uint64_t gains[MOST_MOVES];
    moves->count = 0;
    for (uint32_t layer = 0; layer < store->layers; layer++) {
        struct move move;
        uint64_t gain;
        if (moves->first[layer] == NO_UNIT || !find_pair(store, layer, &move, &gain))
            continue;
        if (moves->count == moves->limit && gain <= gains[moves->count - 1])
            continue;
        uint32_t at = moves->count < moves->limit ? moves->count++ : moves->count - 1;
        for (; at > 0 && gains[at - 1] < gain; at--) {
            gains[at] = gains[at - 1];
            moves->list[at] = moves->list[at - 1];
        }
        gains[at] = gain;
        moves->list[at] = move;
    }
}

/* ---- bringing them ------------------------------------------------------------------------------------------------
 */

/* Locked. */
static struct move *next_to_send(const struct store *store, bool *any)
{
    const struct moves *moves = &store->moves;
    *any = false;
    for (uint32_t i = 0; moves->phase == MOVES_COMING && !moves->failed && i < moves->count; i++) {
        if (moves->list[i].state != MOVE_WAITS)
            continue;
        *any = true;
        if (store->units[moves->list[i].in].stage == STAGE_READY)
            return (struct move *)&moves->list[i];
    }
    return NULL;
}

/* Locked, and lets the lock go meanwhile. The expert is in the cache. */
static void send(struct store *store, struct move *move)
{
    struct stored_unit *unit = &store->units[move->in];
    struct store_view view;
    hypura_error error;
    move->state = MOVE_SENDS;
    unit->holds++;
    unit_show(store, move->in, &view);
    pthread_mutex_unlock(store->mutex);
    hypura_status status = device_bring(store, move->in, move->out, &view, &error);
    pthread_mutex_lock(store->mutex);
    if (status && !store->moves.failed)
        log_write(LOG_WARNING, "experts stay where they are from now on: %s", error.message);
    store->moves.failed |= status != HYPURA_OK;
    move->state = MOVE_SENT;
    unit->holds--;
    if (unit->wants == 0 && unit->holds == 0)
        cache_released(store, move->in);
    pthread_cond_broadcast(&store->changed);
}

static void *thread_main(void *context)
{
    struct store *store = context;
    pthread_mutex_lock(store->mutex);
    while (!store->moves.stop) {
        bool any;
        struct move *move = next_to_send(store, &any);
        if (move)
            send(store, move);
        else if (any)
            store_wait_locked(store);
        else
            pthread_cond_wait(&store->moves.work, store->mutex);
    }
    pthread_mutex_unlock(store->mutex);
    return NULL;
}

void moves_stop(struct store *store)
{
    if (!store->moves.running)
        return;
    pthread_mutex_lock(store->mutex);
    store->moves.stop = true;
    pthread_cond_broadcast(&store->moves.work);
    pthread_cond_broadcast(&store->changed);
    pthread_mutex_unlock(store->mutex);
    pthread_join(store->moves.thread, NULL);
    store->moves.running = false;
}

/* Waits for those that have not arrived; false when it was stopped. */
static bool wait_for_all(struct store *store)
{
    struct moves *moves = &store->moves;
    for (uint32_t i = 0; i < moves->count && !moves->failed; i++) {
        struct store_view view;
        bool waits = moves->list[i].state == MOVE_WAITS;
        if (waits) {
            pthread_mutex_unlock(store->mutex);
            hypura_status status = store_get(store, moves->list[i].in, &view, NULL);
            pthread_mutex_lock(store->mutex);
            if (status)
                return false;
        }
        while (moves->list[i].state != MOVE_SENT && !moves->failed)
            store_wait_locked(store);
        if (waits) {
            pthread_mutex_unlock(store->mutex);
            store_put(store, moves->list[i].in);
            pthread_mutex_lock(store->mutex);
        }
    }
    return true;
}

/* ---- fixed points ------------------------------------------------------------------------------------------------ */

/* Locked. Where the cache holds all experts that are here, it has slots for those that leave as well. */
static void leave(struct store *store)
{
    struct moves *moves = &store->moves;
    for (uint32_t i = 0; i < moves->count; i++) {
        device_leave(store, moves->list[i].out);
        store->units[moves->list[i].out].place = PLACE_CACHE;
        cache_prefetch(store, moves->list[i].in, rate(store, moves->list[i].in));
    }
}

/* Locked. After a failure nothing comes, and the slots that were left stay empty. */
static void come(struct store *store)
{
    struct moves *moves = &store->moves;
    for (uint32_t i = 0; i < moves->count && !moves->failed; i++) {
        device_come(store, moves->list[i].in, moves->list[i].out);
        store->units[moves->list[i].in].place = PLACE_GPU;
        cache_drop(store, moves->list[i].in);
        store->counts.expert_moves++;
    }
    moves->count = 0;
    cache_fill(store);
}

/* Locked, and lets the lock go meanwhile. */
static hypura_status send_table(struct store *store, hypura_error *error)
{
    pthread_mutex_unlock(store->mutex);
    hypura_status status = devices_send_tables(store, error);
    pthread_mutex_lock(store->mutex);
    store->moves.failed |= status != HYPURA_OK;
    return status;
}

static hypura_status next_phase(struct store *store, hypura_error *error)
{
    struct moves *moves = &store->moves;
    hypura_status status = HYPURA_OK;
    if (moves->phase == MOVES_LEAVING) {
        leave(store);
        status = send_table(store, error);
        moves->phase = MOVES_COMING;
        pthread_cond_signal(&moves->work);
        return status;
    }
    if (moves->phase == MOVES_COMING) {
        if (!wait_for_all(store))
            return HYPURA_OK;
        come(store);
        moves->phase = MOVES_NONE;
        status = moves->failed ? HYPURA_OK : send_table(store, error);
    }
    if (moves->failed)
        return status;
    choose(store);
    for (uint32_t i = 0; i < moves->count; i++)
        cache_prefetch(store, moves->list[i].out, rate(store, moves->list[i].out));
    moves->phase = moves->count ? MOVES_LEAVING : MOVES_NONE;
    return HYPURA_OK;
}

hypura_status moves_pass_done(struct store *store, hypura_error *error)
{
    struct moves *moves = &store->moves;
    hypura_status status = HYPURA_OK;
    if (!moves->heat || ++moves->passes < MOVE_PASSES)
        return HYPURA_OK;
    moves->passes = 0;
    if (!moves->running)
        moves->running = pthread_create(&moves->thread, NULL, thread_main, store) == 0;
    if (!moves->running)
        return HYPURA_OK;
    pthread_mutex_lock(store->mutex);
    if (!moves->failed) {
        fade(store);
        status = next_phase(store, error);
    }
    pthread_mutex_unlock(store->mutex);
    return status;
}
