/* store/usage: what is remembered of earlier runs. Owner: usage.c. Not locked but where it says so. */
#ifndef HYPURA_STORE_USAGE_H
#define HYPURA_STORE_USAGE_H

#include "store/distances.h"
#include "store/store.h"

struct store;

struct usage {
    char *path;
    uint64_t fingerprint; /* of the model's layout */
    uint32_t count;       /* experts */
    unit_number first;    /* experts are numbered one after the other */
    uint16_t *rates;      /* uses a pass * 65535, of earlier runs */
    struct plan_hit_curve curve;
    struct distances distances; /* of uses in this run, in passes of few tokens */
    bool full;                  /* the cache, at the end of some pass */
    uint32_t *last;             /* such pass that used each expert last, since the last one of many tokens; 0: none */
    uint32_t *counts;           /* passes that used an expert outside of the cache; NULL: nobody says */
};

hypura_status usage_prepare(struct store *store, const char *path, hypura_error *error);
void usage_warm(struct store *store); /* locked: what was used most in earlier runs is read while the drive is idle */
void usage_note_pass(struct store *store); /* locked: before prefetch_pass_done */
void usage_save(struct store *store);
void usage_free(struct store *store);

#endif
