/* Guesses: which experts the next layers may want, read while the drive would be idle. */
#include "store/internal.h"

#include <math.h>

/* Below this a guess is likelier to be wasted than its slot is worth. */
#define LEAST_PROBABILITY 0.4f

/* Guesses that are open may fill this part of a class's slots. */
#define SLOTS_A_GUESS 8u

/* Each arm is tried this often before they are compared; then the better one runs, and of every PERIOD passes the other
 * one gets TRIAL. */
#define FIRST_SAMPLES 8u
#define PERIOD 64u
#define TRIAL 4u

/* A long prompt is offered as certain to need every expert; what its last chunk did not need it will hardly need now.
 */
static bool is_unlikely(const struct store *store, const struct stored_unit *unit, float probability)
{
    uint64_t experts = 0;
    for (uint32_t i = 0; i < store->class_count; i++)
        experts += store->classes[i].unit_count;
    return probability >= CERTAIN && 2 * store->guesses.last_wants >= experts && unit->last_pass + 1 < store->pass;
}

/* Which step a unit's layer will be: in this pass when it is yet to come, else in the next. */
static uint64_t step_of(const struct store *store, unit_number number)
{
    uint64_t start = (uint64_t)store->pass * store->layers;
    uint64_t step = start + (uint64_t)store->unit(store->model, number)->layer;
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

void store_predict(struct store *store, const unit_number *units, const float *probabilities, size_t count)
{
    if (!store->loaded || atomic_load(&store->cancelled))
        return;
    struct guesses *guesses = &store->guesses;
    pthread_mutex_lock(store->mutex);
    guesses->offered = true;
    for (size_t i = 0; guesses->on && i < count; i++) {
        if (units[i] >= store->unit_count || store->units[units[i]].place != PLACE_CACHE ||
            !(probabilities[i] >= LEAST_PROBABILITY))
            continue;
        struct stored_unit *unit = &store->units[units[i]];
        if (is_unlikely(store, unit, probabilities[i]))
            continue;
        uint64_t due = step_of(store, units[i]);
        const struct slot_class *slot_class = &store->classes[unit->slot_class];
        if (unit->stage == STAGE_READY || unit->stage == STAGE_READING) {
            unit->due = due;
        } else if (guesses->open_count < MAX_GUESSES &&
                   open_guesses(store, unit->slot_class) < MAX(slot_class->target / SLOTS_A_GUESS, 1u) &&
                   cache_guess(store, units[i], probabilities[i])) {
            unit->due = due;
            guesses->open[guesses->open_count++] = units[i];
        }
    }
    pthread_mutex_unlock(store->mutex);
}

void guess_wanted(struct store *store, unit_number number)
{
    uint64_t step = (uint64_t)store->pass * store->layers + (uint64_t)store->unit(store->model, number)->layer;
    store->step = MAX(store->step, step);
    store->units[number].last_pass = store->pass;
    store->guesses.wants++;
    if (store->guesses.pass_start == 0)
        store->guesses.pass_start = clock_nanoseconds();
}

void guess_expire(struct store *store)
{
    struct guesses *guesses = &store->guesses;
    uint32_t kept = 0;
    for (uint32_t i = 0; i < guesses->open_count; i++) {
        unit_number number = guesses->open[i];
        struct stored_unit *unit = &store->units[number];
        if (is_open(unit) && unit->due > store->step)
            guesses->open[kept++] = number;
        else if (is_open(unit) && unit->stage == STAGE_READING && unit->wants == 0)
            cache_unwanted(store, number);
    }
    guesses->open_count = kept;
}

/* ---- do they pay? ------------------------------------------------------------------------------------------------ */

static void add_sample(struct guess_arm *arm, double value)
{
    arm->samples++;
    arm->mean += (value - arm->mean) / MIN(arm->samples, 16u);
}

static void choose_arm(struct guesses *guesses)
{
    const struct guess_arm *arms = guesses->arms;
    if (guesses->mode != STORE_GUESSING_AUTO) {
        guesses->on = guesses->mode == STORE_GUESSING_ON;
    } else if (arms[0].samples < FIRST_SAMPLES || arms[1].samples < FIRST_SAMPLES) {
        guesses->on = arms[1].samples <= arms[0].samples;
    } else {
        bool better = arms[1].mean < arms[0].mean;
        guesses->on = guesses->turn % PERIOD < TRIAL ? !better : better;
        guesses->turn++;
    }
}

void guess_pass_done(struct store *store)
{
    struct guesses *guesses = &store->guesses;
    /* Only passes of the same kind can be compared: single tokens with single tokens. */
    bool alike = guesses->wants > 0 && guesses->wants == guesses->last_wants;
    if (guesses->offered && alike && guesses->pass_start) {
        add_sample(&guesses->arms[guesses->on], log((double)(clock_nanoseconds() - guesses->pass_start)));
        choose_arm(guesses);
    }
    guesses->last_wants = guesses->wants;
    guesses->wants = 0;
    guesses->pass_start = 0;
    guesses->offered = false;
    store->pass++;
}
