/* store/usage: statistics kept from run to run. Owner: usage.c. Not locked, except where it says so. */
#ifndef HYPURA_STORE_USAGE_H
#define HYPURA_STORE_USAGE_H

#include "store/distances.h"
#include "store/store.h"

struct store;

struct usage {
    char *path;
    uint64_t fingerprint; /* of the model's layout */
    uint32_t count;       /* experts */
    unit_number first;    /* experts have consecutive numbers */
    uint16_t *rates;      /* uses per pass * 65535, in earlier runs */
    struct plan_hit_curve curve;
    struct distances distances; /* of uses in this run, in passes of few tokens */
    bool full;                  /* the cache was full at the end of some pass */
    uint32_t *last;   /* the last such pass that used each expert, since the last pass of many tokens; 0: none */
    uint32_t *counts; /* passes that used an expert outside of the cache; NULL: not counted */
};

hypura_status usage_prepare(struct store *store, const char *path, hypura_error *error);
void usage_warm(
    struct store *store); /* locked: reads the experts that earlier runs used most, while the drive is idle */
void usage_note_pass(struct store *store); /* locked: before prefetch_pass_done */
void usage_save(struct store *store);
void usage_free(struct store *store);

#endif
