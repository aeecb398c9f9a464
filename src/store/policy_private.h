/* store/policy (private): what makes each policy. */
#ifndef HYPURA_STORE_POLICY_PRIVATE_H
#define HYPURA_STORE_POLICY_PRIVATE_H

#include "store/policy.h"

hypura_status policy_lru_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error);
hypura_status policy_lfu_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error);
hypura_status policy_s3fifo_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error);
hypura_status policy_cycle_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error);

/* Item lists that share one pair of arrays: an item is in at most one of them. */
struct item_link {
    uint32_t newer, older;
};

struct item_list {
    uint32_t newest, oldest, count;
};

void list_clear(struct item_list *list);
void list_add(struct item_list *list, struct item_link *links, uint32_t item);
void list_drop(struct item_list *list, struct item_link *links, uint32_t item);

#endif
