/* tools/replay: a routing trace played against cache policies and sizes, without files and without computing.
 *
 * A pass wants the experts of one layer after the other, as the forward pass does: those of one layer, of all tokens of
 * the pass together, are in use at once. What is not there is a miss and comes in, in place of what the policy gives.
 * "belady" knows the future and gives what is used last: no policy that evicts on demand can do better with experts of
 * one size.
 */
#ifndef HYPURA_STORE_REPLAY_H
#define HYPURA_STORE_REPLAY_H

#include "store/trace.h"

struct replay_result {
    uint64_t hits, misses;
    uint64_t bytes_missed;
};

/* The names that replay_run takes: those of the store's policies, its default first, then "belady". */
size_t replay_policy_count(void);
const char *replay_policy_name(size_t index);

/* The first warm_passes only fill the cache; they are not counted. */
hypura_status replay_run(const struct trace *trace, const char *policy, uint64_t cache_bytes, size_t warm_passes,
                         struct replay_result *out, hypura_error *error);

/* Bytes of the experts that one token uses, and of all: below the first a cache of plain LRU never hits. */
uint64_t replay_cycle_bytes(const struct trace *trace);
uint64_t replay_total_bytes(const struct trace *trace);

#endif
