/* store/policy: which cached unit is evicted when room is needed. Owner: policy.c.
 *
 * A policy sees items, numbered from 0 to count - 1, but no memory and no files. So the same code decides in the store
 * and when a trace is replayed. Items belong to groups, the layers of a model, which a pass visits in order. The caller
 * reports every access, hit or miss, and every insertion and removal. For a pass of several tokens, such as a prompt,
 * it also reports the accesses of each token, if the policy uses them.
 *
 *   lru     evicts the least recently used item.
 *   lfu     evicts the least often used item. Older uses count less (half after 64 passes).
 *   s3fifo  has a small queue in front of a main queue, and ghosts of items that left the small one (Yang et al., SOSP
 *           2023).
 *   cycle   evicts the item whose next use is probably farthest away: the steps until its layer, plus whole passes,
 *           estimated by how often it was used. It leans towards recency or frequency as the routing does. It has no
 *           cliff: a cache smaller than the items of one pass keeps the most used ones, rather than losing all in turn.
 */
#ifndef HYPURA_STORE_POLICY_H
#define HYPURA_STORE_POLICY_H

#include "core/core.h"

#define NO_ITEM UINT32_MAX

/* For a long batch, only the last tokens are reported. */
#define POLICY_TOKENS 32u

struct cache_policy;

/* Whether an item may be evicted now, that is, is not in use. */
typedef bool (*policy_may_go)(void *context, uint32_t item);

struct cache_policy_operations {
    const char *name;
    void (*access)(struct cache_policy *policy, uint32_t item); /* a hit or a miss; once per pass, or per token */
    /* The next accesses to this item's group in the pass are those of another token. NULL: each pass counts as one
     * access, whatever its number of tokens. */
    void (*token)(struct cache_policy *policy, uint32_t item);
    void (*insert)(struct cache_policy *policy, uint32_t item); /* it was not in the cache */
    void (*remove)(struct cache_policy *policy, uint32_t item); /* it was in the cache */
    /* The item to evict first among those that may be evicted, or NO_ITEM. */
    uint32_t (*victim)(struct cache_policy *policy, policy_may_go may_go, void *context);
    void (*pass)(struct cache_policy *policy); /* a pass has ended; may be NULL */
    /* rate: an item's uses per pass, from 0 to 1, as far back as the policy remembers. set_rate sets it at the start,
     * from the statistics of earlier runs. NULL: the policy keeps no rates. */
    float (*rate)(const struct cache_policy *policy, uint32_t item);
    float (*chance)(const struct cache_policy *policy, uint32_t item); /* the probability of a use in the next pass */
    void (*set_rate)(struct cache_policy *policy, uint32_t item, float uses_a_pass);
    void (*destroy)(struct cache_policy *policy);
};

struct cache_policy {
    const struct cache_policy_operations *operations;
};

struct policy_shape {
    uint32_t count;
    uint32_t groups;          /* at least 1 */
    const uint32_t *group_of; /* [count]; need not outlive the call */
};

/* The policies by name, the default first. */
size_t policy_count(void);
const char *policy_name(size_t index);

/* name NULL: the default. For an unknown name, the error lists the known ones. */
hypura_status policy_check(const char *name, hypura_error *error);
hypura_status policy_create(struct cache_policy **out, const char *name, const struct policy_shape *shape,
                            hypura_error *error);

#endif
