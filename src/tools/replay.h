/* tools/replay: plays a recorded routing against cache policies and sizes, without files and without computing.
 *
 * A pass needs the experts of one layer after the other, as the forward pass does: those that any token of the pass uses
 * in a layer are in use together. A missing expert takes the slot of the policy's victim. The cache has the slots that
 * the store would give it (store/classes.h), so that a replay and a run of the same routing hit alike. "belady" knows the
 * future and evicts what is used last: with experts of one size, no policy that evicts on demand can do better.
 */
#ifndef HYPURA_TOOLS_REPLAY_H
#define HYPURA_TOOLS_REPLAY_H

#include "store/trace.h"

struct replay_result {
    uint64_t hits, misses;
    uint64_t bytes_missed;
    uint64_t tokens; /* of the passes that were counted */
};

/* The names that replay_run takes: those of the store's policies, its default first, then "belady". */
size_t replay_policy_count(void);
const char *replay_policy_name(size_t index);

/* The first warm_passes fill the cache and are not counted. A cache too small for one expert of each size never hits. */
hypura_status replay_run(const struct trace *trace, const char *policy, uint64_t cache_bytes, size_t warm_passes,
                         struct replay_result *out, hypura_error *error);

/* Bytes of the experts that one token uses, and of all: below the first a cache of plain LRU never hits. */
uint64_t replay_cycle_bytes(const struct trace *trace);
uint64_t replay_total_bytes(const struct trace *trace);

#endif
