/* store/prefetch: experts that are read before anybody wants them. Owner: prefetch.c. */
#ifndef HYPURA_STORE_PREFETCH_H
#define HYPURA_STORE_PREFETCH_H

#include "model/model.h"
#include "store/store.h"

struct store;

struct offer {
    unit_number unit;
    float probability;
    uint64_t due; /* tick that may want it */
};

struct prefetch {
    enum store_prefetching mode;
    uint32_t room;        /* of each list: all experts */
    struct offer *offers; /* not read yet, the tick that comes first first, and of that the likeliest */
    unit_number *open;    /* read or being read, not due yet */
    unit_number *warm;    /* used most in earlier runs: from warm_next on, read when there is nothing better */
    uint32_t offer_count, open_count, warm_next, warm_count;
    bool on;
    uint64_t wants, last_wants; /* in this pass, in the one before */
    double right, wrong;        /* bytes prefetched, older ones count less */
    uint32_t last_miss;         /* pass that did not find everything there, prefetches aside */
    uint64_t stall_seen;        /* when store_wants_prefetch was asked last */
    uint64_t tick_time;         /* when the tick began */
    uint64_t tick_stall;        /* what had been waited by then */
    uint64_t tick_wanted;       /* and for how long something was wanted of the drive */
    double tick_seconds;        /* of late, without waiting; 0: not known */
    double idle_seconds;        /* of a tick, in which nothing was wanted of the drive */
    uint32_t turn, trial;       /* passes since prefetching stopped; passes that it goes on for whatever it shows */
};

/* Below this an offer does not pay. An expert keeps the drive busy for read_seconds, prefetches that are in flight when
 * something is needed for ahead_seconds at most, and each layer leaves the drive idle for idle_seconds. So what is
 * right is there that much earlier, and what is wrong keeps what is needed waiting for the rest of it. */
float prefetch_least_probability(double read_seconds, double ahead_seconds, double idle_seconds);

hypura_status prefetch_prepare(struct store *store, hypura_error *error);
void prefetch_free(struct store *store);
void prefetch_pump(struct store *store);                     /* the drive may be idle: reads what was offered */
void prefetch_wanted(struct store *store, unit_number unit); /* before it is wanted */
void prefetch_expire(struct store *store);                   /* after a batch of wants */
void prefetch_pass_done(struct store *store);

#endif
