/* Experts that change sides while a model runs: hot experts come to the GPU and replace cold ones there.
 *
 * The side that computes an expert determines its last bits. So every visible change happens at fixed points, every
 * MOVE_PASSES passes, and depends only on the uses before them, never on when something was ready:
 *
 *   MOVES_NONE      chooses pairs, per layer a cold expert on the GPU and a hotter one here. A thread copies the cold
 * one from its slot to the cache if that has a free slot MOVES_LEAVING   the cold one leaves its slot, and is computed
 * here from now on. The thread copies the hot one from the cache to the slot MOVES_COMING    the hot one is computed on
 * the GPU from now on, and leaves the cache
 *
 * A copy has MOVE_PASSES passes of time, and hot experts are in the cache. Only a copy that has not arrived by then is
 * waited for.
 *
 * If the cache never had room for all experts, cold ones are not copied to it, because other cold experts are only on
 * the drive too. Then moves cost little, and a GPU slot with an unused expert costs reads. So pairs leave as soon as
 * they are chosen, several per layer, and for a smaller difference; and a prompt counts as as many passes as it has
 * tokens.
 *
 * A long batch takes lent slots from their experts, which then are on the drive, or in the cache. Whatever moves there
 * is dropped. Afterwards, the hottest experts of these layers come to the empty slots, like others to slots that were
 * left.
 *
 * If an expert cannot be copied, its slot stays empty, and nothing moves from then on. If the device does not get the
 * new table of slots, device and host would disagree about which side computes an expert. That ends the request. */
#include "store/store_private.h"

#include "store/device_private.h"

#include <stdlib.h>

#define MOVE_PASSES 8u

/* The heat of one use, and the part of all heat that fades at each fixed point: a third is left after some 500 passes.
 */
#define HEAT_A_USE 256u
#define HEAT_MOST ((uint32_t)1 << 31)
#define FADING_SHARE 64u

/* Earlier runs count as this many passes. */
#define PASSES_BEFORE 256.0f

/* Even by chance, some expert is always the hottest. A difference counts from this many standard deviations squared on.
 */
#define DEVIATIONS 16u
#define DEVIATIONS_READING 4u

#define MOST_OF_A_LAYER 8u

static uint32_t *heat_of(const struct store *store, unit_number unit)
{
    const struct unit *what = store_unit(store, unit);
    return &store->moves.heat[(size_t)what->layer * store->moves.experts + (size_t)what->expert];
}

/* The experts of a prediction block come after the layers, and stay where they are. */
static bool can_move(const struct store *store, const struct unit *unit)
{
    return unit->kind == UNIT_EXPERT && unit->layer < (int32_t)store->layers;
}

hypura_status moves_prepare(struct store *store, const struct store_source *source, hypura_error *error)
{
    const uint32_t experts = source->experts;
    struct moves *moves = &store->moves;
    uint32_t there = 0, layers = 0;
    uint64_t here = 0;
    moves->experts = experts;
    hypura_status status = ALLOCATE(&moves->first, store->layers, "table of experts", error);
    for (uint32_t i = 0; !status && i < store->layers; i++)
        moves->first[i] = NO_UNIT;
    for (unit_number i = 0; !status && i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        if (unit->expert != 0 || !can_move(store, unit))
            continue;
        uint32_t slots = device_slots(store, (uint32_t)unit->layer);
        if (slots > 0 && slots < experts) {
            moves->first[unit->layer] = i;
            moves->lent += device_lends(store, (uint32_t)unit->layer) ? slots : 0;
            there += slots;
            layers++;
        }
    }
    if (status || there == 0)
        return status;
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct unit *unit = store_unit(store, i);
        store->units[i].moves = can_move(store, unit) && moves->first[unit->layer] != NO_UNIT;
        here += store->units[i].place == PLACE_CACHE ? unit->bytes : 0;
    }
    moves->limit = MIN(source->moves, MOST_MOVES);
    moves->capacity = moves->limit + 2 * moves->lent; /* those that were dropped, and others instead */
    moves->reading = source->expert_cache_bytes < here;
    moves->of_a_layer = moves->reading ? MIN(MAX(moves->limit / layers, 1u), MOST_OF_A_LAYER) : 1;
    moves->uses_a_token = MAX(source->experts_used * layers, 1u);
    status = ALLOCATE(&moves->list, moves->capacity, "list of moves", error);
    if (status)
        return status;
    make_condition(&moves->work);
    return ALLOCATE(&moves->heat, (size_t)store->layers * experts, "heat of experts", error);
}

void moves_free(struct store *store)
{
    if (store->moves.heat)
        pthread_cond_destroy(&store->moves.work);
    memory_free(store->moves.list);
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
    if (!store->units[unit].moves)
        return;
    warm(store, unit, HEAT_A_USE);
    store->moves.uses++;
}

void moves_expect(struct store *store, unit_number unit, float uses_a_pass)
{
    if (store->units[unit].moves)
        warm(store, unit, (uint32_t)(uses_a_pass * PASSES_BEFORE * HEAT_A_USE));
}

/* ---- which ------------------------------------------------------------------------------------------------------- */

static void fade(struct store *store)
{
    for (size_t i = 0; i < (size_t)store->layers * store->moves.experts; i++)
        store->moves.heat[i] -= store->moves.heat[i] / FADING_SHARE;
}

/* Uses per pass, as far as heat remembers. */
static float rate(const struct store *store, unit_number unit)
{
    return MIN((float)*heat_of(store, unit) / (HEAT_A_USE * (float)(FADING_SHARE * MOVE_PASSES)), 1.0f);
}

static bool is_chosen(const struct move *chosen, uint32_t count, unit_number unit)
{
    bool is = false;
    for (uint32_t i = 0; i < count; i++)
        is |= chosen[i].state != MOVE_DROPPED && (chosen[i].in == unit || chosen[i].out == unit);
    return is;
}

/* Pairs the hottest expert of a layer here with the coldest one on the GPU, of those not chosen yet; false: not worth
 * it.
 */
static bool find_pair(const struct store *store, uint32_t layer, const struct move *chosen, uint32_t count,
                      struct move *out, uint64_t *gain)
{
    uint32_t hottest = 0, coldest = UINT32_MAX;
    *out = (struct move){.in = NO_UNIT, .out = NO_UNIT};
    for (uint32_t e = 0; e < store->moves.experts; e++) {
        unit_number unit = store->moves.first[layer] + e;
        uint32_t heat = *heat_of(store, unit);
        if (is_chosen(chosen, count, unit))
            continue;
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
    out->slot = device_slot_of(store, out->out);
    *gain = hottest - coldest;
    const uint64_t deviations = store->moves.reading ? DEVIATIONS_READING : DEVIATIONS;
    return *gain * *gain > deviations * HEAT_A_USE * ((uint64_t)hottest + coldest);
}

/* Keeps a move if it is among those with the largest gains. */
static void insert(struct moves *moves, uint64_t gains[MOST_MOVES], struct move move, uint64_t gain)
{
    if (moves->count == moves->limit && gain <= gains[moves->count - 1])
        return;
    uint32_t at = moves->count < moves->limit ? moves->count++ : moves->count - 1;
    for (; at > 0 && gains[at - 1] < gain; at--) {
        gains[at] = gains[at - 1];
        moves->list[at] = moves->list[at - 1];
    }
    gains[at] = gain;
    moves->list[at] = move;
}

/* The hottest expert of a layer here that no move brings; NO_UNIT: none was used. */
static unit_number find_hottest(const struct store *store, uint32_t layer)
{
    const struct moves *moves = &store->moves;
    unit_number found = NO_UNIT;
    uint32_t hottest = 0;
    for (unit_number unit = moves->first[layer]; unit < moves->first[layer] + moves->experts; unit++)
        if (store->units[unit].place == PLACE_CACHE && *heat_of(store, unit) > hottest &&
            !is_chosen(moves->list, moves->count, unit)) {
            hottest = *heat_of(store, unit);
            found = unit;
        }
    return found;
}

/* Whether an expert of the layer is on its way to a slot. */
static bool is_awaited(const struct store *store, uint32_t layer, uint32_t slot)
{
    const struct moves *moves = &store->moves;
    for (uint32_t i = 0; i < moves->count; i++)
        if (moves->list[i].state != MOVE_DROPPED && moves->list[i].slot.number == slot &&
            (uint32_t)store_unit(store, moves->list[i].in)->layer == layer)
            return true;
    return false;
}

/* Chooses experts for the empty lent slots. */
static void choose_for_lent(struct store *store)
{
    struct moves *moves = &store->moves;
    for (uint32_t layer = 0; layer < store->layers; layer++) {
        struct device_slot slot = {0};
        if (moves->first[layer] == NO_UNIT || !device_lends(store, layer) || store_is_taken(store, layer))
            continue;
        for (; moves->count < moves->capacity && device_find_empty(store, layer, slot.number, &slot); slot.number++) {
            const unit_number in = is_awaited(store, layer, slot.number) ? NO_UNIT : find_hottest(store, layer);
            if (in != NO_UNIT)
                moves->list[moves->count++] = (struct move){.in = in, .out = NO_UNIT, .slot = slot};
        }
    }
}

/* Chooses the pairs with the largest gains, and then experts for empty slots. A layer with empty slots has no pairs. */
static void choose(struct store *store)
{
    struct moves *moves = &store->moves;
    uint64_t gains[MOST_MOVES];
    moves->count = 0;
    for (uint32_t layer = 0; layer < store->layers; layer++) {
        struct move pairs[MOST_OF_A_LAYER];
        struct device_slot empty;
        uint64_t gain;
        if (moves->first[layer] == NO_UNIT ||
            (device_lends(store, layer) && device_find_empty(store, layer, 0, &empty)))
            continue;
        for (uint32_t n = 0; n < moves->of_a_layer && find_pair(store, layer, pairs, n, &pairs[n], &gain); n++)
            insert(moves, gains, pairs[n], gain);
    }
    choose_for_lent(store);
}

/* ---- bringing them ----------------------------------------------------------------------------------------------- */

/* Locked. */
static struct move *next_to_send(struct store *store, bool *any)
{
    struct moves *moves = &store->moves;
    *any = false;
    for (uint32_t i = 0; moves->phase == MOVES_COMING && !moves->failed && i < moves->count; i++) {
        if (moves->list[i].state != MOVE_WAITS)
            continue;
        *any = true;
        if (!moves->list[i].fetches && store->units[moves->list[i].in].stage == STAGE_READY)
            return &moves->list[i];
    }
    return NULL;
}

/* Locked, but releases the lock meanwhile. The expert is in the cache. */
static void send(struct store *store, struct move *move)
{
    struct stored_unit *unit = &store->units[move->in];
    struct store_view view;
    hypura_error error;
    move->state = MOVE_SENDS;
    unit->holds++;
    unit_show(store, move->in, &view);
    pthread_mutex_unlock(store->mutex);
    hypura_status status = device_bring(store, move->in, move->slot, &view, &error);
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

/* Locked. */
static struct move *next_to_fetch(struct store *store)
{
    for (uint32_t i = 0; i < store->moves.count; i++)
        if (store->moves.list[i].fetches)
            return &store->moves.list[i];
    return NULL;
}

/* Locked, but releases the lock meanwhile. An expert that cannot be copied is read from the drive when it is needed. */
static void fetch(struct store *store, struct move *move)
{
    uint8_t *memory = store->units[move->out].memory;
    pthread_mutex_unlock(store->mutex);
    hypura_status status = device_fetch(store, move->out, memory, NULL);
    pthread_mutex_lock(store->mutex);
    move->fetches = false;
    cache_received(store, move->out, status == HYPURA_OK);
}

static void *thread_main(void *context)
{
    struct store *store = context;
    pthread_mutex_lock(store->mutex);
    while (!store->moves.stop) {
        bool any;
        struct move *fetched = next_to_fetch(store), *move = fetched ? NULL : next_to_send(store, &any);
        if (fetched)
            fetch(store, fetched);
        else if (move)
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

/* Waits for copies that have not arrived; false: it was stopped. */
static bool wait_for_all(struct store *store)
{
    struct moves *moves = &store->moves;
    for (uint32_t i = 0; i < moves->count && !moves->failed; i++) {
        struct store_view view;
        bool waits = moves->list[i].state == MOVE_WAITS;
        if (moves->list[i].state == MOVE_DROPPED)
            continue;
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

/* Locked. */
static void leave_device(struct store *store, unit_number out)
{
    device_leave(store, out);
    store->units[out].place = PLACE_CACHE;
}

/* Locked. A cache that holds all experts of this side also has slots for those that leave. */
static void leave(struct store *store)
{
    struct moves *moves = &store->moves;
    for (uint32_t i = 0; i < moves->count; i++) {
        const struct move *move = &moves->list[i];
        if (move->state == MOVE_DROPPED)
            continue;
        if (move->out != NO_UNIT)
            leave_device(store, move->out);
        cache_prefetch(store, move->in, rate(store, move->in));
    }
}

/* Locked. After a failure, no expert comes, and the slots that were left stay empty. */
static void come(struct store *store)
{
    struct moves *moves = &store->moves;
    for (uint32_t i = 0; i < moves->count && !moves->failed; i++) {
        if (moves->list[i].state == MOVE_DROPPED)
            continue;
        device_come(store, moves->list[i].in, moves->list[i].slot);
        store->units[moves->list[i].in].place = PLACE_GPU;
        cache_drop(store, moves->list[i].in);
        store->counts.expert_moves++;
    }
    moves->count = 0;
    cache_fill(store);
}

/* Locked, but releases the lock meanwhile. */
static hypura_status send_table(struct store *store, hypura_error *error)
{
    pthread_mutex_unlock(store->mutex);
    hypura_status status = devices_send_tables(store, error);
    pthread_mutex_lock(store->mutex);
    store->moves.failed |= status != HYPURA_OK;
    return status;
}

static hypura_status begin_to_leave(struct store *store, hypura_error *error)
{
    leave(store);
    hypura_status status = send_table(store, error);
    store->moves.phase = MOVES_COMING;
    pthread_cond_signal(&store->moves.work);
    return status;
}

static hypura_status next_phase(struct store *store, hypura_error *error)
{
    struct moves *moves = &store->moves;
    hypura_status status = HYPURA_OK;
    if (moves->phase == MOVES_LEAVING)
        return begin_to_leave(store, error);
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
    if (moves->reading && moves->count)
        return begin_to_leave(store, error);
    for (uint32_t i = 0; i < moves->count; i++) {
        struct move *move = &moves->list[i];
        if (move->out == NO_UNIT)
            continue;
        move->fetches = cache_receive(store, move->out);
        if (!move->fetches)
            cache_prefetch(store, move->out, rate(store, move->out));
    }
    pthread_cond_signal(&moves->work);
    moves->phase = moves->count ? MOVES_LEAVING : MOVES_NONE;
    return HYPURA_OK;
}

/* As how many passes the pass that ends counts. */
static uint32_t passes_of(struct moves *moves)
{
    const uint64_t tokens = moves->uses / moves->uses_a_token;
    moves->uses = 0;
    return moves->reading ? (uint32_t)MIN(MAX(tokens, (uint64_t)1), (uint64_t)MOVE_PASSES) : 1;
}

hypura_status moves_pass_done(struct store *store, hypura_error *error)
{
    struct moves *moves = &store->moves;
    hypura_status status = HYPURA_OK;
    if (!moves->heat)
        return HYPURA_OK;
    moves->passes += passes_of(moves);
    if (moves->passes < MOVE_PASSES)
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

/* ---- lent slots -------------------------------------------------------------------------------------------------- */

static bool is_taken(const struct store *store, unit_number unit)
{
    return store->units[unit].moves && store_is_taken(store, (uint32_t)store_unit(store, unit)->layer);
}

/* Locked, but releases the lock meanwhile. */
static void drop_moves(struct store *store)
{
    struct moves *moves = &store->moves;
    for (uint32_t i = 0; i < moves->count; i++)
        if (is_taken(store, moves->list[i].in) && moves->list[i].state == MOVE_WAITS)
            moves->list[i].state = MOVE_DROPPED;
    for (uint32_t i = 0; i < moves->count; i++) {
        struct move *move = &moves->list[i];
        if (!is_taken(store, move->in))
            continue;
        while (move->fetches || move->state == MOVE_SENDS)
            store_wait_locked(store);
        move->state = MOVE_DROPPED;
    }
}

/* Locked, but releases the lock meanwhile. */
static hypura_status empty_taken(struct store *store, hypura_error *error)
{
    const struct moves *moves = &store->moves;
    drop_moves(store);
    for (uint32_t layer = 0; layer < store->layers; layer++)
        for (uint32_t e = 0; moves->first[layer] != NO_UNIT && e < moves->experts; e++) {
            const unit_number unit = moves->first[layer] + e;
            if (store->units[unit].place == PLACE_GPU && is_taken(store, unit))
                leave_device(store, unit);
        }
    return send_table(store, error);
}

/* Locked. Experts that come soon need not wait for the next fixed point to be chosen. */
static void begin_to_return(struct store *store)
{
    struct moves *moves = &store->moves;
    const uint32_t before = moves->count;
    if (!moves->running || moves->failed || moves->phase == MOVES_LEAVING)
        return;
    choose_for_lent(store);
    for (uint32_t i = before; i < moves->count; i++)
        cache_prefetch(store, moves->list[i].in, rate(store, moves->list[i].in));
    if (moves->count > before) {
        moves->phase = MOVES_COMING;
        pthread_cond_signal(&moves->work);
    }
}

hypura_status store_take_lent(struct store *store, uint32_t device, uint64_t bytes, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    pthread_mutex_lock(store->mutex);
    const uint64_t before = device_take(store, device, bytes);
    if (bytes > before)
        status = empty_taken(store, error);
    else if (bytes < before)
        begin_to_return(store);
    pthread_mutex_unlock(store->mutex);
    return status;
}
