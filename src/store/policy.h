/* store/policy: which of the cached units goes when room is needed.
 *
 * A policy sees items, numbered from 0 to count - 1, and never memory or files, so that the same code decides in the
 * store and in a replay of a trace. It is told of every access, whether the item was there or not, and of what comes in
 * and goes out.
 */
#ifndef HYPURA_STORE_POLICY_H
#define HYPURA_STORE_POLICY_H

#include "core/core.h"

#define NO_ITEM UINT32_MAX

struct cache_policy;

/* Answers whether an item may go now; one that is in use may not. */
typedef bool (*policy_may_go)(void *context, uint32_t item);

struct cache_policy_operations {
    const char *name;
    void (*access)(struct cache_policy *policy, uint32_t item); /* needed, there or not */
    void (*insert)(struct cache_policy *policy, uint32_t item); /* came in; was not in */
    void (*remove)(struct cache_policy *policy, uint32_t item); /* went; was in */
    /* The item that should go first among those that may, or NO_ITEM. */
    uint32_t (*victim)(struct cache_policy *policy, policy_may_go may_go, void *context);
    void (*destroy)(struct cache_policy *policy);
};

struct cache_policy {
    const struct cache_policy_operations *operations;
};

hypura_status policy_lru_create(struct cache_policy **out, uint32_t count, hypura_error *error);

#endif
