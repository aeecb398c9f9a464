/* Cycle: what will probably be used last goes.
 *
 * A pass visits the layers in order, so an expert of a layer that was just left cannot be used before a whole pass is
 * over, and one of the next layer may be used at once. With p uses a pass, the expected wait for an item is
 * d + (1 / p - 1) * layers, where d is the steps until its layer comes.
 *
 * p mixes two memories of different length: routing has a slow part (what the text is about, which experts are popular)
 * and a quick one (what the last tokens used is likelier to be used again). On the routing of a real model the mix hits
 * 2 points more often than either alone, and half-lives from a half to twice these change less than 1 point. */
#include "store/policy_internal.h"

#include <math.h>
#include <string.h>

#define SLOW_HALF_LIFE 64.0 /* passes */
#define QUICK_HALF_LIFE 3.0
#define QUICK_WEIGHT 0.3f

/* What was never used waits this part of a use a pass, so that it goes before all else and in the order of layers. */
#define LEAST_RATE 1e-9f
#define FORGOTTEN 1e-12f

struct cycle {
    struct cache_policy policy;
    uint32_t count, groups, group; /* group: of the last access */
    uint32_t *group_of;
    uint32_t *order, *first; /* items sorted by group; [groups + 1] where each begins */
    float *slow, *quick;     /* uses, decayed, over what an item used in every pass would have */
    bool *present;
    uint32_t *worst; /* of each group where known: the item with the least rate that may go */
    bool *known;
};

static float rate(const struct cycle *cycle, uint32_t item)
{
    return (1 - QUICK_WEIGHT) * cycle->slow[item] + QUICK_WEIGHT * cycle->quick[item];
}

static float slow_step(void)
{
    return (float)(1 - exp2(-1 / SLOW_HALF_LIFE));
}

static float quick_step(void)
{
    return (float)(1 - exp2(-1 / QUICK_HALF_LIFE));
}

static void cycle_access(struct cache_policy *policy, uint32_t item)
{
    struct cycle *cycle = (struct cycle *)policy;
    cycle->group = cycle->group_of[item];
    cycle->slow[item] += slow_step();
    cycle->quick[item] += quick_step();
    cycle->known[cycle->group] = false;
}

static void cycle_insert(struct cache_policy *policy, uint32_t item)
{
    struct cycle *cycle = (struct cycle *)policy;
    cycle->present[item] = true;
    cycle->known[cycle->group_of[item]] = false;
}

static void cycle_remove(struct cache_policy *policy, uint32_t item)
{
    struct cycle *cycle = (struct cycle *)policy;
    cycle->present[item] = false;
    cycle->known[cycle->group_of[item]] = false;
}

static uint32_t find_worst(const struct cycle *cycle, uint32_t group, policy_may_go may_go, void *context)
{
    uint32_t worst = NO_ITEM;
    float least = INFINITY;
    for (uint32_t i = cycle->first[group]; i < cycle->first[group + 1]; i++) {
        uint32_t item = cycle->order[i];
        if (cycle->present[item] && rate(cycle, item) < least && may_go(context, item)) {
            least = rate(cycle, item);
            worst = item;
        }
    }
    return worst;
}

static uint32_t cycle_victim(struct cache_policy *policy, policy_may_go may_go, void *context)
{
    struct cycle *cycle = (struct cycle *)policy;
    uint32_t victim = NO_ITEM;
    float longest = -1;
    for (uint32_t group = 0; group < cycle->groups; group++) {
        uint32_t worst = cycle->worst[group];
        if (!cycle->known[group] || (worst != NO_ITEM && !may_go(context, worst))) {
            worst = cycle->worst[group] = find_worst(cycle, group, may_go, context);
            /* What is in use now in the layer at work will be free soon, and then others are worst. */
            cycle->known[group] = group != cycle->group && worst != NO_ITEM;
        }
        if (worst == NO_ITEM)
            continue;
        uint32_t steps = (group + cycle->groups - cycle->group) % cycle->groups;
        float wait = (float)(steps ? steps : cycle->groups) +
                     (1 / fmaxf(rate(cycle, worst), LEAST_RATE) - 1) * (float)cycle->groups;
        if (wait > longest) {
            longest = wait;
            victim = worst;
        }
    }
    return victim;
}

static void cycle_pass(struct cache_policy *policy)
{
    struct cycle *cycle = (struct cycle *)policy;
    float slow = 1 - slow_step(), quick = 1 - quick_step();
    /* Denormal numbers would make this loop many times slower. */
    for (uint32_t i = 0; i < cycle->count; i++) {
        cycle->slow[i] = cycle->slow[i] > FORGOTTEN ? cycle->slow[i] * slow : 0;
        cycle->quick[i] = cycle->quick[i] > FORGOTTEN ? cycle->quick[i] * quick : 0;
    }
    memset(cycle->known, 0, cycle->groups * sizeof *cycle->known);
}

static float cycle_rate(const struct cache_policy *policy, uint32_t item)
{
    return ((const struct cycle *)policy)->slow[item];
}

static void cycle_set_rate(struct cache_policy *policy, uint32_t item, float uses_a_pass)
{
    ((struct cycle *)policy)->slow[item] = uses_a_pass;
}

static void cycle_destroy(struct cache_policy *policy)
{
    struct cycle *cycle = (struct cycle *)policy;
    memory_free(cycle->group_of);
    memory_free(cycle->order);
    memory_free(cycle->first);
    memory_free(cycle->slow);
    memory_free(cycle->quick);
    memory_free(cycle->present);
    memory_free(cycle->worst);
    memory_free(cycle->known);
    memory_free(cycle);
}

static const struct cache_policy_operations cycle_operations = {.name = "cycle",
                                                                .access = cycle_access,
                                                                .insert = cycle_insert,
                                                                .remove = cycle_remove,
                                                                .victim = cycle_victim,
                                                                .pass = cycle_pass,
                                                                .rate = cycle_rate,
                                                                .set_rate = cycle_set_rate,
                                                                .destroy = cycle_destroy};

hypura_status policy_cycle_create(struct cache_policy **out, const struct policy_shape *shape, hypura_error *error)
{
    struct cycle *cycle;
    hypura_status status = ALLOCATE(&cycle, 1, "cache policy", error);
    if (status)
        return status;
    cycle->policy.operations = &cycle_operations;
    cycle->count = shape->count;
    cycle->groups = shape->groups;
    cycle->group = shape->groups - 1;
    if ((status = ALLOCATE(&cycle->group_of, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->order, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->first, (size_t)shape->groups + 1, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->slow, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->quick, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->present, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->worst, shape->groups, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->known, shape->groups, "cache policy", error))) {
        cycle_destroy(&cycle->policy);
        return status;
    }
    memcpy(cycle->group_of, shape->group_of, shape->count * sizeof *cycle->group_of);
    for (uint32_t i = 0; i < shape->count; i++)
        cycle->first[shape->group_of[i] + 1]++;
    for (uint32_t group = 0; group < shape->groups; group++)
        cycle->first[group + 1] += cycle->first[group];
    /* worst is not in use yet: it counts what is placed. */
    for (uint32_t i = 0; i < shape->count; i++) {
        uint32_t group = shape->group_of[i];
        cycle->order[cycle->first[group] + cycle->worst[group]++] = i;
    }
    *out = &cycle->policy;
    return HYPURA_OK;
}
