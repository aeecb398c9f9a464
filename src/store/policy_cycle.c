/* Cycle: evicts the item whose next use is probably farthest away.
 *
 * A pass visits the layers in order. So an expert of the layer just left cannot be used for a whole pass, and one of
 * the next layer may be used at once. With p uses per pass, the expected wait for an item is d + (1 / p - 1) * layers,
 * where d is the number of steps until its layer.
 *
 * p is learnt while running: of the items with the same age (passes since the last use) and the same overall frequency,
 * which part is used at the next visit of their layer? So the policy leans towards recency or frequency as the routing
 * does. Half-lives from half to twice these, or a third more sorts of items, change the hit rate by less than 1 point.
 * Each token of a prompt counts as a visit. As a single visit, a prompt would make most experts look always used, and
 * the first answer would read a fifth more bytes. */
#include "store/policy_private.h"

#include <math.h>
#include <string.h>

#define HALF_LIFE 64.0 /* passes */

/* Sorts of items: by passes since the last use (1, 2, to 4, to 8, to 16, more), and by overall frequency (up to a
 * quarter of the mean, a half, one, two, four, more). */
#define AGES 6u
#define RATES 6u
#define LEAST_EDGE 0.25f

/* An item's overall frequency counts as this many prior visits of its sort. */
#define PRIOR_VISITS 10.0f

/* Breaks ties between items of one sort. */
#define TIE 1e-4f

/* The uses per pass of an item that was never used: it is evicted before all others, in the order of layers. */
#define LEAST_RATE 1e-9f
#define FORGOTTEN 1e-12f

struct sort {
    float visits, uses;
};

/* A layer. seen: the value in used[] of an item that was used at every visit. Divided by it, rates are comparable after
 * few and many passes, and between layers before and after the current one. */
struct group {
    float seen;
    uint32_t visits;
    bool visited; /* in this pass */
};

struct cycle {
    struct cache_policy policy;
    uint32_t count, group_count, group; /* group: of the last access */
    uint32_t *group_of;
    uint32_t *order, *first; /* items sorted by group; [groups + 1] where each begins */
    struct group *groups;
    float *used;    /* uses, decayed */
    uint32_t *last; /* the last visit of its group that used it, counted from 1; 0: none */
    uint8_t *sort;  /* before this pass' visit */
    struct sort sorts[AGES * RATES];
    float mean; /* rate of the items */
    bool *present;
    uint32_t *worst; /* per group, if known: the item with the least rate that may be evicted */
    bool *known;
};

static float whole_rate(const struct cycle *cycle, uint32_t item)
{
    return cycle->used[item] / fmaxf(cycle->groups[cycle->group_of[item]].seen, FORGOTTEN);
}

static uint8_t sort_of(const struct cycle *cycle, uint32_t item)
{
    uint32_t age = 0, rate = 0;
    uint32_t past = cycle->groups[cycle->group_of[item]].visits + 1 - cycle->last[item];
    while (age + 1 < AGES && past > (cycle->last[item] ? 1u << age : 0))
        age++;
    float part = whole_rate(cycle, item) / fmaxf(cycle->mean, FORGOTTEN);
    for (float edge = LEAST_EDGE; rate + 1 < RATES && part >= edge; edge *= 2)
        rate++;
    return (uint8_t)(age * RATES + rate);
}

/* The probability that an item is used at the next visit. */
static float probability(const struct cycle *cycle, uint32_t item)
{
    const struct sort *sort = &cycle->sorts[sort_of(cycle, item)];
    float whole = whole_rate(cycle, item);
    return (sort->uses + PRIOR_VISITS * whole) / (sort->visits + PRIOR_VISITS) + TIE * whole;
}

static float step(void)
{
    return (float)(1 - exp2(-1 / HALF_LIFE));
}

/* Denormal numbers would make loops over items many times slower. */
static void fade(float *used)
{
    *used = *used > FORGOTTEN ? *used * (1 - step()) : 0;
}

static void visit(struct cycle *cycle, uint32_t number)
{
    struct group *group = &cycle->groups[number];
    for (uint32_t i = cycle->first[number]; i < cycle->first[number + 1]; i++) {
        uint32_t item = cycle->order[i];
        cycle->sort[item] = sort_of(cycle, item);
        cycle->sorts[cycle->sort[item]].visits++;
    }
    group->visits++;
    group->seen += step();
    group->visited = true;
}

static void cycle_access(struct cache_policy *policy, uint32_t item)
{
    struct cycle *cycle = (struct cycle *)policy;
    cycle->group = cycle->group_of[item];
    if (!cycle->groups[cycle->group].visited)
        visit(cycle, cycle->group);
    cycle->sorts[cycle->sort[item]].uses++;
    cycle->last[item] = cycle->groups[cycle->group].visits;
    cycle->used[item] += step();
    cycle->known[cycle->group] = false;
}

/* Earlier observations of the group fade with each token, as from pass to pass. */
static void cycle_token(struct cache_policy *policy, uint32_t item)
{
    struct cycle *cycle = (struct cycle *)policy;
    struct group *group = &cycle->groups[cycle->group_of[item]];
    uint32_t first = cycle->first[cycle->group_of[item]], end = cycle->first[cycle->group_of[item] + 1];
    if (!group->visited)
        return;
    double sum = 0;
    for (uint32_t i = first; i < end; i++) {
        sum += whole_rate(cycle, cycle->order[i]);
        fade(&cycle->used[cycle->order[i]]);
    }
    group->seen *= 1 - step();
    group->visited = false;
    if (cycle->mean <= 0) /* still in the first pass */
        cycle->mean = (float)(sum / (end - first));
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
        if (!cycle->present[item])
            continue;
        float likely = probability(cycle, item);
        if (likely < least && may_go(context, item)) {
            least = likely;
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
    for (uint32_t group = 0; group < cycle->group_count; group++) {
        uint32_t worst = cycle->worst[group];
        if (!cycle->known[group] || (worst != NO_ITEM && !may_go(context, worst))) {
            worst = cycle->worst[group] = find_worst(cycle, group, may_go, context);
            /* Items in use in the current layer will be free soon, and may then be worst. */
            cycle->known[group] = group != cycle->group && worst != NO_ITEM;
        }
        if (worst == NO_ITEM)
            continue;
        uint32_t steps = (group + cycle->group_count - cycle->group) % cycle->group_count;
        float wait = (float)(steps ? steps : cycle->group_count) +
                     (1 / fmaxf(probability(cycle, worst), LEAST_RATE) - 1) * (float)cycle->group_count;
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
    float keep = 1 - step();
    double sum = 0;
    for (uint32_t group = 0; group < cycle->group_count; group++) {
        cycle->groups[group].seen *= keep;
        cycle->groups[group].visited = false;
    }
    for (uint32_t i = 0; i < COUNT_OF(cycle->sorts); i++) {
        cycle->sorts[i].visits *= keep;
        cycle->sorts[i].uses *= keep;
    }
    for (uint32_t i = 0; i < cycle->count; i++) {
        fade(&cycle->used[i]);
        sum += whole_rate(cycle, i);
    }
    cycle->mean = (float)(sum / cycle->count);
    memset(cycle->known, 0, cycle->group_count * sizeof *cycle->known);
}

static float cycle_rate(const struct cache_policy *policy, uint32_t item)
{
    return whole_rate((const struct cycle *)policy, item);
}

static float cycle_chance(const struct cache_policy *policy, uint32_t item)
{
    return probability((const struct cycle *)policy, item);
}

static void cycle_set_rate(struct cache_policy *policy, uint32_t item, float uses_a_pass)
{
    struct cycle *cycle = (struct cycle *)policy;
    cycle->used[item] = uses_a_pass;
    cycle->groups[cycle->group_of[item]].seen = 1;
}

static void cycle_destroy(struct cache_policy *policy)
{
    struct cycle *cycle = (struct cycle *)policy;
    memory_free(cycle->group_of);
    memory_free(cycle->order);
    memory_free(cycle->first);
    memory_free(cycle->groups);
    memory_free(cycle->used);
    memory_free(cycle->last);
    memory_free(cycle->sort);
    memory_free(cycle->present);
    memory_free(cycle->worst);
    memory_free(cycle->known);
    memory_free(cycle);
}

static const struct cache_policy_operations cycle_operations = {.name = "cycle",
                                                                .access = cycle_access,
                                                                .token = cycle_token,
                                                                .insert = cycle_insert,
                                                                .remove = cycle_remove,
                                                                .victim = cycle_victim,
                                                                .pass = cycle_pass,
                                                                .rate = cycle_rate,
                                                                .chance = cycle_chance,
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
    cycle->group_count = shape->groups;
    cycle->group = shape->groups - 1;
    if ((status = ALLOCATE(&cycle->group_of, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->order, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->first, (size_t)shape->groups + 1, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->groups, shape->groups, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->used, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->last, shape->count, "cache policy", error)) ||
        (status = ALLOCATE(&cycle->sort, shape->count, "cache policy", error)) ||
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
    /* worst is not in use yet, and counts placed items here. */
    for (uint32_t i = 0; i < shape->count; i++) {
        uint32_t group = shape->group_of[i];
        cycle->order[cycle->first[group] + cycle->worst[group]++] = i;
    }
    *out = &cycle->policy;
    return HYPURA_OK;
}
