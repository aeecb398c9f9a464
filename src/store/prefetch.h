/* store/prefetch: reads experts before they are needed. Owner: prefetch.c. */
#ifndef HYPURA_STORE_PREFETCH_H
#define HYPURA_STORE_PREFETCH_H

#include "model/model.h"
#include "store/store.h"

struct store;

struct offer {
    unit_number unit;
    float probability;
    uint64_t due; /* the tick that may need it */
};

struct prefetch {
    enum store_prefetching mode;
    uint32_t room;        /* the capacity of each list: all experts */
    struct offer *offers; /* not read yet, by tick, and by falling probability in each tick */
    unit_number *open;    /* read or being read, not due yet */
    unit_number *warm;    /* used most in earlier runs; those from warm_next on are read if there are no offers */
    uint32_t offer_count, open_count, warm_next, warm_count;
    bool on;
    uint64_t wants, last_wants; /* in this pass; in the previous one */
    double right, wrong;        /* bytes of used and of wasted prefetches; older ones count less */
    uint32_t last_miss;         /* the last pass that would have missed without prefetches */
    uint64_t stall_seen;        /* the stall time when store_wants_prefetch was last called */
    uint64_t tick_time;         /* when the tick began */
    uint64_t tick_stall;        /* the stall time when it began */
    uint64_t tick_wanted;       /* the time with demands on the drive when it began */
    double tick_seconds;        /* recent mean of a tick, without waiting; 0: unknown */
    double idle_seconds;        /* recent mean of a tick's time without demands on the drive */
    uint32_t turn, trial;       /* passes since prefetching stopped; passes left of a trial */
};

/* The least probability with which an offer pays. read_seconds: the drive's time for an expert; ahead_seconds: its time
 * for the prefetches that may be in flight when a demand comes; idle_seconds: its idle time per layer. A right prefetch
 * gains the idle time. A wrong one delays demands by what exceeds the idle time. */
float prefetch_least_probability(double read_seconds, double ahead_seconds, double idle_seconds);

hypura_status prefetch_prepare(struct store *store, hypura_error *error);
void prefetch_free(struct store *store);
void prefetch_pump(struct store *store);                     /* reads offers if the drive is idle */
void prefetch_wanted(struct store *store, unit_number unit); /* before it is wanted */
void prefetch_expire(struct store *store);                   /* after a batch of wants */
void prefetch_pass_done(struct store *store);

#endif
