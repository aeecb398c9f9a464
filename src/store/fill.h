/* store/fill: fills free slots of the cache between passes. Owner: fill.c. */
#ifndef HYPURA_STORE_FILL_H
#define HYPURA_STORE_FILL_H

#include "store/io.h"

struct store;

struct fill {
    bool wanted;
    bool paused;                  /* since a read failed */
    uint32_t failures;            /* so far */
    unit_number first, end, next; /* experts; the next one to consider */
    uint32_t left;                /* experts left to consider; 0: all are in memory, or have no room */
    uint64_t tick;                /* at which next was chosen */
};

void fill_prepare(struct store *store, bool wanted);              /* not locked; after cache_prepare */
void fill_pump(struct store *store);                              /* call it while no pass runs and the drive is idle */
void fill_again(struct store *store);                             /* there are more slots */
void fill_failed(struct store *store, enum priority priority);    /* after a failed read of any kind */
void fill_succeeded(struct store *store, enum priority priority); /* after a successful one */

#endif
