/* Least frequently used, where older uses weigh less.
 *
 * The count of an item is the sum of 2^((t_use - t) / H) over its uses, t in passes. All counts fall in the same
 * proportion, so the order of two items changes only when one is used; kept as log2 of the sum of 2^(t_use / H), a
 * count needs no ageing at all. */
#include "store/heap.h"
#include "store/policy_private.h"

#include <math.h>

/* log2(2^a + 2^b) */
static double add_logarithms(double a, double b)
{
    double high = fmax(a, b), low = fmin(a, b);
    return low == -INFINITY ? high : high + log2(1 + exp2(low - high));
}

#define LFU_HALF_LIFE 64.0

struct lfu {
    struct cache_policy policy;
    struct heap heap;
    double now; /* passes / half-life */
};

static void lfu_access(struct cache_policy *policy, uint32_t item)
{
    struct lfu *lfu = (struct lfu *)policy;
    heap_set(&lfu->heap, item, add_logarithms(lfu->heap.keys[item], lfu->now));
}

static void lfu_insert(struct cache_policy *policy, uint32_t item)
{
    heap_insert(&((struct lfu *)policy)->heap, item);
}

static void lfu_remove(struct cache_policy *policy, uint32_t item)
{
    heap_remove(&((struct lfu *)policy)->heap, item);
}

static uint32_t lfu_victim(struct cache_policy *policy, policy_may_go may_go, void *context)
{
    return heap_first(&((struct lfu *)policy)->heap, may_go, context);
}

static void lfu_pass(struct cache_policy *policy)
{
    ((struct lfu *)policy)->now += 1 / LFU_HALF_LIFE;
}

static void lfu_destroy(struct cache_policy *policy)
{
    heap_destroy(&((struct lfu *)policy)->heap);
    memory_free(policy);
}

static const struct cache_policy_operations lfu_operations = {.name = "lfu",
                                                              .access = lfu_access,
                                                              .insert = lfu_insert,
                                                              .remove = lfu_remove,
                                                              .victim = lfu_victim,
                                                              .pass = lfu_pass,
                                                              .destroy = lfu_destroy};

hypura_status policy_lfu_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error)
{
    struct lfu *lfu;
    hypura_status status = ALLOCATE(&lfu, 1, "cache policy", error);
    if (status)
        return status;
    lfu->policy.operations = &lfu_operations;
    status = heap_create(&lfu->heap, shape->count, error);
    if (status) {
        lfu_destroy(&lfu->policy);
        return status;
    }
    for (uint32_t i = 0; i < shape->count; i++)
        lfu->heap.keys[i] = -INFINITY;
    *out = &lfu->policy;
    return HYPURA_OK;
}
