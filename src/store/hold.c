/* What the forward pass calls: wanting units, waiting for them, holding and releasing them. */
#include "store/store_private.h"

#include <errno.h>
#include <stdlib.h>

/* Checks a unit that is requested whole. */
static hypura_status check_whole_unit(const struct store *store, unit_number unit, hypura_error *error)
{
    hypura_status status = store_check_unit(store, unit, error);
    if (!status && store->units[unit].place >= PLACE_PIECES)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u is %s: the plan holds no room for it", unit,
                         store->units[unit].place == PLACE_PIECES ? "got in pieces" : "read in parts only");
    return status;
}

/* Whether a pinned unit is still being loaded. */
static bool is_coming(const struct store *store, unit_number unit)
{
    return store->units[unit].place == PLACE_PINNED && !pinned_is_there(store, unit);
}

static void want_locked(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    if (unit->place == PLACE_RING) {
        ring_want(store, number);
    } else {
        prefetch_wanted(store, number);
        cache_want(store, number);
    }
    unit->wants++;
}

static void pump(struct store *store)
{
    ring_pump(store);
    for (uint32_t i = 0; i < store->cache.class_count; i++)
        cache_pump(store, &store->cache.classes[i]);
}

hypura_status store_want(struct store *store, const unit_number *units, size_t count, hypura_error *error)
{
    for (size_t i = 0; i < count; i++) {
        hypura_status status = check_whole_unit(store, units[i], error);
        if (status)
            return status;
    }
    if (atomic_load(&store->cancelled))
        return store_cancelled_error(error);
    /* All are protected before the first takes room, so that no miss evicts a hit of the same batch. */
    pthread_mutex_lock(store->mutex);
    for (size_t i = 0; i < count; i++) {
        if (!is_fixed(&store->units[units[i]]))
            want_locked(store, units[i]);
        else if (is_coming(store, units[i]))
            pinned_want(store, units[i]);
    }
    prefetch_expire(store);
    pump(store);
    pthread_mutex_unlock(store->mutex);
    return HYPURA_OK;
}

static bool is_settled(struct store *store, unit_number number)
{
    const struct stored_unit *unit = &store->units[number];
    if (unit->place == PLACE_PINNED)
        return pinned_is_settled(store, number);
    return is_fixed(unit) || unit->stage == STAGE_READY || unit->stage == STAGE_FAILED;
}

/* Whether the first slices of a wanted expert have arrived while others are still being read. */
static bool has_arrived(const struct store *store, unit_number number, uint32_t slices)
{
    const struct stored_unit *unit = &store->units[number];
    if (slices == 0 || unit->place != PLACE_CACHE || unit->stage != STAGE_READING || unit->wants == 0)
        return false;
    return layout_has_arrived(store_unit(store, number), slices,
                              &store->cache.classes[unit->slot_class].slots[unit->slot].transfer);
}

static bool is_there(struct store *store, unit_number number, uint32_t slices)
{
    return is_settled(store, number) || has_arrived(store, number, slices);
}

bool store_ready(struct store *store, unit_number unit)
{
    if (unit >= store->unit_count || !store->loaded)
        return false;
    if (is_fixed(&store->units[unit]) && pinned_all_there(store))
        return true;
    pthread_mutex_lock(store->mutex);
    bool ready = is_settled(store, unit);
    pthread_mutex_unlock(store->mutex);
    return ready;
}

static bool force(struct store *store, unit_number unit)
{
    return store->units[unit].place == PLACE_RING ? ring_force(store, unit) : cache_force(store, unit);
}

static hypura_status no_room(const struct store *store, unit_number unit, hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_MEMORY,
                     "no room in the pool of %llu bytes for a unit of %llu: everything in it is in use",
                     (unsigned long long)store->pool_bytes, (unsigned long long)unit_footprint(store, unit));
}

hypura_status store_wait_any(struct store *store, const unit_number *units, size_t count, uint32_t slices,
                             size_t *index, hypura_error *error)
{
    if (count == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "there are no units to wait for");
    for (size_t i = 0; i < count; i++) {
        hypura_status status = check_whole_unit(store, units[i], error);
        if (status)
            return status;
    }
    hypura_status status = HYPURA_OK;
    uint64_t start = 0;
    pthread_mutex_lock(store->mutex);
    store->parts_will_do = slices > 0;
    for (;;) {
        size_t found = 0, coming = 0;
        bool behind = false;
        while (found < count && !is_there(store, units[found], slices)) {
            const struct stored_unit *unit = &store->units[units[found]];
            coming += unit->stage == STAGE_READING || is_fixed(unit);
            behind = behind || is_fixed(unit);
            if (unit->wants == 0 && !is_fixed(unit))
                break;
            found++;
        }
        if (atomic_load(&store->cancelled)) {
            status = store_cancelled_error(error);
        } else if (found < count && !is_there(store, units[found], slices)) {
            status =
                error_set(error, HYPURA_ERROR_ARGUMENT, "unit %u is waited for, but was not announced", units[found]);
        } else if (found < count) {
            *index = found;
        } else if (coming > 0 || force(store, units[0])) {
            if (start == 0)
                start = clock_nanoseconds();
            if (behind)
                status = pinned_linger(store, error);
            else if (!cache_populate(store))
                store_wait_locked(store);
            if (!status)
                continue;
        } else {
            status = no_room(store, units[0], error);
        }
        break;
    }
    store->parts_will_do = false;
    if (start)
        store->counts.stall_nanoseconds += clock_nanoseconds() - start;
    pthread_mutex_unlock(store->mutex);
    return status;
}

/* Returns the error of a read and uses up the want, so that the next want reads again. */
static hypura_status take_failure(struct store *store, struct stored_unit *unit, hypura_error *error)
{
    static const struct failure unknown = {.kind = FAILURE_SYSTEM, .number = EIO};
    hypura_status status = failure_error(unit->failure ? unit->failure : &unknown, store->files, error);
    if (--unit->wants == 0) {
        unit->stage = STAGE_ABSENT;
        free(unit->failure);
        unit->failure = NULL;
    }
    return status;
}

static void released(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    if (unit->wants > 0 || unit->holds > 0)
        return;
    if (unit->place == PLACE_RING)
        ring_released(store, number);
    else
        cache_released(store, number);
}

/* Removes one want. */
static void forget(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    if (is_fixed(unit) || unit->wants == 0 || --unit->wants > 0)
        return;
    if (unit->stage == STAGE_WAITING) {
        waiting_remove(
            store, unit->place == PLACE_RING ? &store->ring.waiting : &store->cache.classes[unit->slot_class].waiting,
            number);
        unit->stage = STAGE_ABSENT;
    } else if (unit->stage == STAGE_FAILED) {
        free(unit->failure);
        unit->failure = NULL;
        unit->stage = STAGE_ABSENT;
    } else if (unit->stage == STAGE_READING) {
        if (unit->place == PLACE_RING)
            ring_unwanted(store, number);
        else
            cache_unwanted(store, number);
    }
    if (unit->place == PLACE_CACHE)
        cache_taken(store, number);
    released(store, number);
}

hypura_status store_get(struct store *store, unit_number number, struct store_view *view, hypura_error *error)
{
    hypura_status status = check_whole_unit(store, number, error);
    if (status)
        return status;
    if (atomic_load_explicit(&store->cancelled, memory_order_relaxed))
        return store_cancelled_error(error);
    struct stored_unit *unit = &store->units[number];
    if (is_fixed(unit)) {
        if (unit->place == PLACE_PINNED && !pinned_all_there(store)) {
            pthread_mutex_lock(store->mutex);
            status = pinned_wait(store, number, error);
            pthread_mutex_unlock(store->mutex);
        }
        if (!status)
            unit_show(store, number, view);
        return status;
    }
    uint64_t start = 0;
    pthread_mutex_lock(store->mutex);
    if (unit->place == PLACE_RING)
        ring_ask(store, number);
    bool wanted = unit->wants > 0;
    if (!wanted) {
        want_locked(store, number);
        prefetch_expire(store);
    }
    pump(store);
    while (!is_settled(store, number)) {
        if (atomic_load(&store->cancelled)) {
            status = store_cancelled_error(error);
            break;
        }
        if (unit->stage == STAGE_WAITING && !force(store, number)) {
            status = no_room(store, number, error);
            break;
        }
        if (is_settled(store, number))
            break;
        if (start == 0)
            start = clock_nanoseconds();
        if (!cache_populate(store))
            store_wait_locked(store);
    }
    if (start)
        store->counts.stall_nanoseconds += clock_nanoseconds() - start;
    if (status && !wanted) {
        forget(store, number);
    } else if (!status && unit->stage == STAGE_FAILED) {
        status = take_failure(store, unit, error);
    } else if (!status) {
        unit->wants--;
        unit->holds++;
        if (unit->place == PLACE_CACHE)
            cache_taken(store, number);
        unit_show(store, number, view);
    }
    pthread_mutex_unlock(store->mutex);
    return status;
}

bool store_peek(struct store *store, unit_number number, uint32_t slices, struct store_view *view)
{
    pthread_mutex_lock(store->mutex);
    bool there = has_arrived(store, number, slices);
    if (there)
        unit_show(store, number, view);
    pthread_mutex_unlock(store->mutex);
    return there;
}

bool store_get_ready(struct store *store, unit_number number, struct store_view *view)
{
    if (check_whole_unit(store, number, NULL) || atomic_load_explicit(&store->cancelled, memory_order_relaxed))
        return false;
    struct stored_unit *unit = &store->units[number];
    if (is_fixed(unit) && pinned_all_there(store)) {
        unit_show(store, number, view);
        return true;
    }
    if (is_fixed(unit)) {
        pthread_mutex_lock(store->mutex);
        bool there = unit->place != PLACE_PINNED || pinned_is_there(store, number);
        pthread_mutex_unlock(store->mutex);
        if (there)
            unit_show(store, number, view);
        return there;
    }
    if (unit->place != PLACE_RING)
        return false;
    pthread_mutex_lock(store->mutex);
    bool ready = unit->stage == STAGE_READY;
    if (ready) {
        ring_ask(store, number);
        unit->holds++;
        unit_show(store, number, view);
        ring_pump(store);
    }
    pthread_mutex_unlock(store->mutex);
    return ready;
}

void store_put(struct store *store, unit_number number)
{
    struct stored_unit *unit = &store->units[number];
    if (is_fixed(unit))
        return;
    pthread_mutex_lock(store->mutex);
    unit->holds--;
    released(store, number);
    pthread_mutex_unlock(store->mutex);
}

void store_forget(struct store *store, const unit_number *units, size_t count)
{
    pthread_mutex_lock(store->mutex);
    for (size_t i = 0; i < count; i++)
        forget(store, units[i]);
    pthread_mutex_unlock(store->mutex);
}
