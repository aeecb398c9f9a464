/* store/policy (private): creates each policy. Owners: policy_cycle.c, policy_lfu.c, policy_lru.c, policy_s3fifo.c. */
#ifndef HYPURA_STORE_POLICY_PRIVATE_H
#define HYPURA_STORE_POLICY_PRIVATE_H

#include "store/policy.h"

hypura_status policy_lru_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error);
hypura_status policy_lfu_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error);
hypura_status policy_s3fifo_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error);
hypura_status policy_cycle_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error);

#endif
