/* store/pinned: units that stay in memory, side by side in one arena. Owner: pinned.c. */
#ifndef HYPURA_STORE_PINNED_H
#define HYPURA_STORE_PINNED_H

#include "store/io.h"
#include "store/store.h"

struct store;

struct pinned {
    uint8_t *memory; /* the arena */
    uint64_t bytes;
    uint8_t **slices;
    struct transfer *load; /* until it is loaded */
    uint32_t load_count, load_left;
    struct failure failure;
};

/* Not locked, before anything else runs. */
hypura_status pinned_prepare(struct store *store, hypura_error *error);
void pinned_free(struct store *store);

/* Reads them all; progress is told of the bytes that were there before, and of how many in all. */
hypura_status pinned_load(struct store *store, uint64_t before, uint64_t total, store_progress progress, void *context,
                          hypura_error *error);
void pinned_finished(struct store *store, struct transfer *transfer);

#endif
