/* store/waiting: units that wait for room, and threads that wait for a change. Owner: waiting.c. */
#ifndef HYPURA_STORE_WAITING_H
#define HYPURA_STORE_WAITING_H

#include "model/model.h"

#include <pthread.h>

struct store;

#include <pthread.h>
/* A short queue: the wants of one layer. */
struct waiting_list {
    unit_number first, last;
};

void waiting_append(struct store *store, struct waiting_list *list, unit_number unit);
void waiting_prepend(struct store *store, struct waiting_list *list, unit_number unit);
void waiting_remove(struct store *store, struct waiting_list *list, unit_number unit);

/* Waits until something changes, but at most some milliseconds, because store_cancel, which a signal handler may call,
 * cannot wake threads. */
void store_wait_locked(struct store *store);
void make_condition(pthread_cond_t *condition); /* for store_wait_locked */

#endif
