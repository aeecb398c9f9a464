/* replay: replays a routing trace against cache policies and sizes, without files and without computing.
 *
 * As in a forward pass, a pass uses the experts layer by layer; those of one layer, for all tokens of the pass, are in
 * use together. A missing expert takes the slot of the policy's victim. The cache has the slots that the store would
 * give it (store/classes.h), so a replay and a run with the same routing have the same hits. The policy "belady" sees
 * the future and evicts the expert whose next use is the latest: with experts of one size, no policy that evicts on
 * demand is better.
 */
#ifndef HYPURA_TOOLS_REPLAY_H
#define HYPURA_TOOLS_REPLAY_H

#include "store/trace.h"

struct replay_result {
    uint64_t hits, misses;
    uint64_t bytes_missed;
    uint64_t returned; /* experts that were read because they came back */
    uint64_t tokens;   /* in the counted passes */
};

/* The names that replay_run accepts: those of the store's policies, the default first, then "belady". */
size_t replay_policy_count(void);
const char *replay_policy_name(size_t index);

struct replay_how {
    const char *policy;   /* NULL: the default */
    const bool *left_out; /* [layer_count][experts] experts that are not in the cache, and not counted; NULL: none */
    uint64_t cache_bytes; /* too few for one expert of each size: nothing ever hits */
    uint64_t lent_bytes;  /* more cache in passes of one token, which is empty when they begin */
    /* A device's lent slots, after a prompt: experts come back, used or not, and have that room soon after. */
    const bool *returns;      /* [layer_count][experts]; NULL: none */
    uint64_t returning_bytes; /* their room */
    uint32_t chunk;           /* longer passes are batches of at most so many tokens; 0: of any number */
    size_t warm_passes;       /* the first ones, which only fill the cache and are not counted */
    bool tokens_only;         /* passes of several tokens are not counted either */
    bool narrows; /* layers from late_layer on process only the last token of a pass of several (plan_late_layer), in
                   * its last batch */
    uint32_t late_layer;
};

hypura_status replay_run(struct replay_result *out, const struct trace *trace, const struct replay_how *how,
                         hypura_error *error);

/* Bytes of the experts that one token uses, and of all experts. A smaller cache than the first never hits with plain
 * LRU. */
uint64_t replay_cycle_bytes(const struct trace *trace);
uint64_t replay_total_bytes(const struct trace *trace);

#endif
