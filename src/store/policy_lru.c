#include "store/item_list.h"
#include "store/policy_private.h"

struct lru {
    struct cache_policy policy;
    struct item_link *links;
    bool *present;
    struct item_list list;
};

static void lru_access(struct cache_policy *policy, uint32_t item)
{
    struct lru *lru = (struct lru *)policy;
    if (lru->present[item]) {
        list_drop(&lru->list, lru->links, item);
        list_add(&lru->list, lru->links, item);
    }
}

static void lru_insert(struct cache_policy *policy, uint32_t item)
{
    struct lru *lru = (struct lru *)policy;
    lru->present[item] = true;
    list_add(&lru->list, lru->links, item);
}

static void lru_remove(struct cache_policy *policy, uint32_t item)
{
    struct lru *lru = (struct lru *)policy;
    lru->present[item] = false;
    list_drop(&lru->list, lru->links, item);
}

static uint32_t lru_victim(struct cache_policy *policy, policy_may_go may_go, void *context)
{
    struct lru *lru = (struct lru *)policy;
    uint32_t item = lru->list.oldest;
    while (item != NO_ITEM && !may_go(context, item))
        item = lru->links[item].newer;
    return item;
}

static void lru_destroy(struct cache_policy *policy)
{
    struct lru *lru = (struct lru *)policy;
    memory_free(lru->links);
    memory_free(lru->present);
    memory_free(lru);
}

static const struct cache_policy_operations lru_operations = {.name = "lru",
                                                              .access = lru_access,
                                                              .insert = lru_insert,
                                                              .remove = lru_remove,
                                                              .victim = lru_victim,
                                                              .destroy = lru_destroy};

hypura_status policy_lru_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error)
{
    struct lru *lru;
    hypura_status status = ALLOCATE(&lru, 1, "cache policy", error);
    if (status)
        return status;
    lru->policy.operations = &lru_operations;
    list_clear(&lru->list);
    if ((status = ALLOCATE(&lru->links, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&lru->present, shape->count, "cache policy", error))) {
        lru_destroy(&lru->policy);
        return status;
    }
    *out = &lru->policy;
    return HYPURA_OK;
}
