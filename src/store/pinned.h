/* store/pinned: units that stay in memory, side by side in one arena. Owner: pinned.c.
 *
 * They are read in the order in which the first pass wants them. Who loads behind (store_options.load_behind) goes on
 * meanwhile: a unit is asked for as any other, and who needs one that is not there waits for it, ahead of the rest. */
#ifndef HYPURA_STORE_PINNED_H
#define HYPURA_STORE_PINNED_H

#include "store/io.h"
#include "store/store.h"

#include <stdatomic.h>

struct store;

struct load_order {
    unit_number unit; /* that a transfer begins with */
    uint32_t transfer;
};

struct pinned {
    uint8_t *memory; /* the arena */
    uint64_t bytes;
    uint8_t **slices;
    struct transfer *load;          /* side by side too, until all are there */
    bool *there;                    /* [load_count] */
    struct load_order *order;       /* [load_count] as the first pass wants them */
    uint32_t load_count, load_left; /* left: on their way */
    uint32_t missing;               /* that are not there, on their way or not */
    atomic_bool complete;           /* none is missing: what follows need not be asked any more */
    uint64_t came;                  /* bytes of those that are there */
    uint64_t populated;             /* bytes of the arena that have pages */
    struct failure failure;
    /* Of who loads behind: told while a pass waits, until the first one ends. */
    store_progress progress;
    void *progress_context;
    uint64_t before, total;
};

/* Not locked, before anything else runs. */
hypura_status pinned_prepare(struct store *store, hypura_error *error);
void pinned_free(struct store *store);

/* Reads them all; progress is told of the bytes that were there before, and of how many in all. */
hypura_status pinned_load(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context,
                          hypura_error *error);
void pinned_finished(struct store *store, struct transfer *transfer);

/* The same, but goes on at once. And, not locked, a pass is over: nobody is told how far it is any more. */
void pinned_start(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context);
void pinned_passed(struct store *store);

/* From any thread, without the lock: whether all are there. */
bool pinned_all_there(const struct store *store);

/* Of a pinned unit: whether it is there, or will not come by itself; locked, the one or the other. */
bool pinned_is_there(const struct store *store, unit_number unit);
bool pinned_is_settled(struct store *store, unit_number unit);

/* Locked. It is read before what nobody waits for; what failed, once more. */
void pinned_want(struct store *store, unit_number unit);

/* Locked. While there is something to wait for: a while. An error: who asked how far it is wants no more of it. */
hypura_status pinned_linger(struct store *store, hypura_error *error);

/* Locked. Waits until it is there. */
hypura_status pinned_wait(struct store *store, unit_number unit, hypura_error *error);

#endif
