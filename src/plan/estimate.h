/* plan/estimate: a small discrete-event simulation of a run, for hardware that need not be at hand.
 *
 * The same pipeline as the engine's: one processor that goes through the tensors in order, one drive that reads what
 * was demanded first and ahead of need when it is idle, the ring of streamed tensors, the expert cache (least recently
 * used goes first), a layer's hits computed while its misses arrive. Which experts are used comes from a recorded or
 * made-up routing, handed in pass by pass. Nothing is read or computed; times come from the figures in struct hardware.
 */
#ifndef HYPURA_PLAN_ESTIMATE_H
#define HYPURA_PLAN_ESTIMATE_H

#include "plan/plan.h"

/* Tokens that go through the layers together, as a trace records them. */
struct estimate_pass {
    uint32_t tokens;         /* 1: a step of an answer; more: a chunk of a prompt */
    uint32_t positions;      /* in the KV cache before the pass */
    const uint16_t *experts; /* [MoE layers in order][tokens][experts_used]; NULL for a model without experts */
};

/* An expert cache of the caller's (the store's policies stand above this folder): true when the unit was there; when it
 * was not it comes in. */
struct estimate_cache {
    bool (*use)(void *context, unit_number unit); /* NULL: the least recently used goes first */
    void *context;
};

struct estimate_source {
    bool (*next)(void *context, struct estimate_pass *pass); /* valid until the next call; false at the end */
    void *context;
    struct estimate_cache cache;
};

/* Sums over passes of one token, and over longer ones. */
struct estimate_part {
    uint64_t passes, tokens;
    double seconds;
    double compute_seconds; /* the processor was busy */
    double disk_seconds;    /* the drive was busy */
    double bytes_read;
    uint64_t expert_hits, expert_misses; /* a pass uses each expert of a layer once */
};

struct estimate {
    struct estimate_part prompt, decode;
    double tokens_per_second; /* of decoding */
    double share_of_limit;    /* what the busier of drive and processor could do at best over what was done; 0 to 1 */
    enum plan_bound bound;    /* while decoding */
};

#endif
