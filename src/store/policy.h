/* store/policy: which of the cached units goes when room is needed. Owner: policy.c.
 *
 * A policy sees items, numbered from 0 to count - 1, and never memory or files, so that the same code decides in the
 * store and in a replay of a trace. Items belong to groups, the layers of a model, which a pass visits in order. A
 * policy is told of every access, whether the item was there or not, and of what comes in and goes out. A pass of
 * several tokens, a prompt, says more of an item than that it was needed: where a policy wants to know, each token's
 * are told.
 *
 *   lru     least recently used goes.
 *   lfu     least often used goes; uses count less the longer they are past (half after 64 passes).
 *   s3fifo  a small queue in front of a main one, ghosts of what left the small one (Yang et al., SOSP 2023).
 *   cycle   what will probably be used last goes: steps until its layer comes again, plus whole passes, by how often it
 *           was used. It bends towards recency or frequency as the routing wants, and it has no cliff: a cache that is
 *           smaller than what one pass touches keeps what is used most instead of losing everything in turn.
 */
#ifndef HYPURA_STORE_POLICY_H
#define HYPURA_STORE_POLICY_H

#include "core/core.h"

#define NO_ITEM UINT32_MAX

/* Of a long batch, the policy is told the last tokens only. */
#define POLICY_TOKENS 32u

struct cache_policy;

/* Answers whether an item may go now; one that is in use may not. */
typedef bool (*policy_may_go)(void *context, uint32_t item);

struct cache_policy_operations {
    const char *name;
    void (*access)(struct cache_policy *policy, uint32_t item); /* needed, there or not; once a pass, or a token */
    /* The accesses from here on are those of another token of the same pass to this item's group, up to the last of the
     * group in the pass. NULL: a pass is one access however many tokens it has. */
    void (*token)(struct cache_policy *policy, uint32_t item);
    void (*insert)(struct cache_policy *policy, uint32_t item); /* came in; was not in */
    void (*remove)(struct cache_policy *policy, uint32_t item); /* went; was in */
    /* The item that should go first among those that may, or NO_ITEM. */
    uint32_t (*victim)(struct cache_policy *policy, policy_may_go may_go, void *context);
    void (*pass)(struct cache_policy *policy); /* a pass is done; NULL: not of interest */
    /* Uses a pass of an item, from 0 to 1, as far back as the policy remembers; and setting them at the start from what
     * was learnt in an earlier run. NULL: the policy keeps no such thing. */
    float (*rate)(const struct cache_policy *policy, uint32_t item);
    float (*chance)(const struct cache_policy *policy, uint32_t item); /* of a use in the next pass */
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

/* name NULL: the default. An unknown name gets a sentence that lists the known ones. */
hypura_status policy_check(const char *name, hypura_error *error);
hypura_status policy_create(struct cache_policy **out, const char *name, const struct policy_shape *shape,
                            hypura_error *error);

#endif
