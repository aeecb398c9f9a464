#include "store/policy_private.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name;
    hypura_status (*create)(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error);
} policies[] = {
    {"cycle", policy_cycle_create},
    {"lru", policy_lru_create},
    {"lfu", policy_lfu_create},
    {"s3fifo", policy_s3fifo_create},
};

size_t policy_count(void)
{
    return COUNT_OF(policies);
}

const char *policy_name(size_t index)
{
    return policies[index].name;
}

/* The number of policies when there is none of that name. */
static size_t find_policy(const char *name)
{
    size_t i = 0;
    while (name && i < COUNT_OF(policies) && strcmp(name, policies[i].name) != 0)
        i++;
    return i;
}

hypura_status policy_check(const char *name, hypura_error *error)
{
    char known[128] = "";
    if (find_policy(name) < COUNT_OF(policies))
        return HYPURA_OK;
    for (size_t i = 0; i < COUNT_OF(policies); i++) {
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", policies[i].name);
    }
    return error_set(error, HYPURA_ERROR_ARGUMENT, "no cache policy \"%s\": expected one of %s", name, known);
}

hypura_status policy_create(struct cache_policy **out, const char *name, const struct policy_shape *shape,
                            hypura_error *error)
{
    hypura_status status = policy_check(name, error);
    return status ? status : policies[find_policy(name)].create(out, shape, error);
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

void list_clear(struct item_list *list)
{
    list->newest = list->oldest = NO_ITEM;
    list->count = 0;
}

void list_add(struct item_list *list, struct item_link *links, uint32_t item)
{
    links[item] = (struct item_link){NO_ITEM, list->newest};
    if (list->newest == NO_ITEM)
        list->oldest = item;
    else
        links[list->newest].newer = item;
    list->newest = item;
    list->count++;
}

void list_drop(struct item_list *list, struct item_link *links, uint32_t item)
{
    const struct item_link *link = &links[item];
    if (link->newer == NO_ITEM)
        list->newest = link->older;
    else
        links[link->newer].older = link->older;
    if (link->older == NO_ITEM)
        list->oldest = link->newer;
    else
        links[link->older].newer = link->newer;
    list->count--;
}

/* ---- least recently used ----------------------------------------------------------------------------------------- */

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
