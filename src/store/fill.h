/* store/fill: free slots of the cache are filled between passes. Owner: fill.c. */
#ifndef HYPURA_STORE_FILL_H
#define HYPURA_STORE_FILL_H

#include "store/io.h"

struct store;

struct fill {
    bool wanted;
    bool paused;                  /* since a read failed */
    uint32_t failures;            /* so far */
    unit_number first, end, next; /* experts, and which is looked at next */
    uint32_t left;                /* of them to be looked at; 0: all are there, or have no room */
    uint64_t tick;                /* for which next was chosen */
};

void fill_prepare(struct store *store, bool wanted);              /* not locked; after cache_prepare */
void fill_pump(struct store *store);                              /* no pass runs, and the drive is idle */
void fill_again(struct store *store);                             /* there are more slots */
void fill_failed(struct store *store, enum priority priority);    /* a read of any kind */
void fill_succeeded(struct store *store, enum priority priority); /* likewise */

#endif
