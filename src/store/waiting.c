#include "store/store_private.h"

#include <time.h>

void waiting_append(struct store *store, struct waiting_list *list, unit_number unit)
{
    store->units[unit].next_waiting = NO_UNIT;
    if (list->first == NO_UNIT)
        list->first = unit;
    else
        store->units[list->last].next_waiting = unit;
    list->last = unit;
}

void waiting_prepend(struct store *store, struct waiting_list *list, unit_number unit)
{
    store->units[unit].next_waiting = list->first;
    if (list->first == NO_UNIT)
        list->last = unit;
    list->first = unit;
}

void waiting_remove(struct store *store, struct waiting_list *list, unit_number unit)
{
    unit_number before = NO_UNIT;
    for (unit_number at = list->first; at != unit; at = store->units[at].next_waiting)
        before = at;
    unit_number next = store->units[unit].next_waiting;
    if (before == NO_UNIT)
        list->first = next;
    else
        store->units[before].next_waiting = next;
    if (list->last == unit)
        list->last = before;
}

void make_condition(pthread_cond_t *condition)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
#ifndef __APPLE__
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
#endif
    pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
}

void store_wait_locked(struct store *store)
{
    struct timespec until;
#ifdef __APPLE__
    clock_gettime(CLOCK_REALTIME, &until);
#else
    clock_gettime(CLOCK_MONOTONIC, &until);
#endif
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        until.tv_sec++;
    }
    store->waiters++;
    pthread_cond_timedwait(&store->changed, store->mutex, &until);
    store->waiters--;
}
