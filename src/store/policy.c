#include "store/policy.h"

/* Least recently used: a list, newest first. */

struct lru_link {
    uint32_t newer, older;
};

struct lru {
    struct cache_policy policy;
    struct lru_link *links;
    bool *present;
    uint32_t newest, oldest;
};

static void unlink_item(struct lru *lru, uint32_t item)
{
    struct lru_link *link = &lru->links[item];
    if (link->newer == NO_ITEM)
        lru->newest = link->older;
    else
        lru->links[link->newer].older = link->older;
    if (link->older == NO_ITEM)
        lru->oldest = link->newer;
    else
        lru->links[link->older].newer = link->newer;
}

static void link_newest(struct lru *lru, uint32_t item)
{
    lru->links[item] = (struct lru_link){NO_ITEM, lru->newest};
    if (lru->newest == NO_ITEM)
        lru->oldest = item;
    else
        lru->links[lru->newest].newer = item;
    lru->newest = item;
}

static void lru_access(struct cache_policy *policy, uint32_t item)
{
    struct lru *lru = (struct lru *)policy;
    if (lru->present[item]) {
        unlink_item(lru, item);
        link_newest(lru, item);
    }
}

static void lru_insert(struct cache_policy *policy, uint32_t item)
{
    struct lru *lru = (struct lru *)policy;
    lru->present[item] = true;
    link_newest(lru, item);
}

static void lru_remove(struct cache_policy *policy, uint32_t item)
{
    struct lru *lru = (struct lru *)policy;
    lru->present[item] = false;
    unlink_item(lru, item);
}

static uint32_t lru_victim(struct cache_policy *policy, policy_may_go may_go, void *context)
{
    struct lru *lru = (struct lru *)policy;
    uint32_t item = lru->oldest;
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

hypura_status policy_lru_create(struct cache_policy **out, uint32_t count, hypura_error *error)
{
    struct lru *lru;
    hypura_status status = ALLOCATE(&lru, 1, "cache policy", error);
    if (status)
        return status;
    lru->policy.operations = &lru_operations;
    lru->newest = lru->oldest = NO_ITEM;
    if ((status = ALLOCATE(&lru->links, count, "cache policy", error)) ||
        (status = ALLOCATE(&lru->present, count, "cache policy", error))) {
        lru_destroy(&lru->policy);
        return status;
    }
    *out = &lru->policy;
    return HYPURA_OK;
}
