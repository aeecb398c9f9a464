/* store/pinned: units that stay in memory, adjacent in one arena. Owner: pinned.c.
 *
 * They are read in the order in which the first pass needs them. With store_options.load_behind, passes may run
 * meanwhile: a pass that needs a unit that is not in memory yet waits for it, and it is read before the others. */
#ifndef HYPURA_STORE_PINNED_H
#define HYPURA_STORE_PINNED_H

#include "store/io.h"
#include "store/store.h"

#include <stdatomic.h>

struct store;

struct load_order {
    unit_number unit; /* the first unit of the transfer */
    uint32_t transfer;
};

struct pinned {
    uint8_t *memory; /* the arena */
    uint64_t bytes;
    uint8_t **slices;
    struct transfer *load;          /* [load_count], in the order of the arena */
    bool *there;                    /* [load_count], whether a transfer's bytes are in memory */
    struct load_order *order;       /* [load_count], as the first pass needs them */
    uint32_t load_count, load_left; /* left: queued or in flight */
    uint32_t missing;               /* not in memory, whether queued or not */
    atomic_bool complete;           /* nothing is missing; never false again */
    uint64_t came;                  /* bytes in memory */
    uint64_t populated;             /* bytes of the arena that have pages */
    struct failure failure;
    /* With load_behind: called while a pass waits, until the first pass ends. */
    store_progress progress;
    void *progress_context;
    uint64_t before, total;
};

/* Not locked, before anything else runs. */
hypura_status pinned_prepare(struct store *store, hypura_error *error);
void pinned_free(struct store *store);

/* Reads all pinned units. progress gets the bytes done, which start at "before", and the total. */
hypura_status pinned_load(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context,
                          hypura_error *error);
void pinned_finished(struct store *store, struct transfer *transfer);

/* The same, but returns at once. pinned_passed, not locked: a pass has ended, so progress is no longer called. */
void pinned_start(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context);
void pinned_passed(struct store *store);

/* Whether all pinned units are in memory. From any thread, not locked. */
bool pinned_all_there(const struct store *store);

/* Whether a pinned unit is in memory. Locked. pinned_is_settled: whether it is, or its read has failed. */
bool pinned_is_there(const struct store *store, unit_number unit);
bool pinned_is_settled(struct store *store, unit_number unit);

/* Locked. Gives the unit's transfers the priority of a demand. Repeats those that failed. */
void pinned_want(struct store *store, unit_number unit);

/* Locked. Waits for a short while, and calls progress. HYPURA_ERROR_CANCELLED: progress returned false, or the store
 * was cancelled. */
hypura_status pinned_linger(struct store *store, hypura_error *error);

/* Locked. Waits until the unit is in memory. */
hypura_status pinned_wait(struct store *store, unit_number unit, hypura_error *error);

#endif
