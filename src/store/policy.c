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

/* The index of a policy; the number of policies if there is none of that name. */
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
