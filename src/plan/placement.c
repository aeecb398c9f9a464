/* Which units are pinned, which stream through the ring and how large ring and expert cache are.
 *
 * The choices that are tried: a level says which kinds of dense tensors may stream at all (0: nothing streams, 1:
 * experts only, 2: feed forward, shared experts and output too, 3: attention too, 4: routers too). The first level that
 * fits is taken: it keeps the kinds in their order. Within a level a limit says how large a streamed tensor may be;
 * larger ones are pinned. That matters because the ring must hold the largest: to pin one huge output matrix can cost
 * less memory than to stream it. Under one limit it does not pay to pin a smaller tensor for the ring's sake: the
 * ring shrinks by at most what the tensor takes (but where three tensors of a step are nearly equal; such models lose a
 * tensor's worth at most). So trying every size as the limit misses nothing. */
#include "plan/plan_private.h"

#include <string.h>

#define LEVELS 5

/* How many experts the cache holds at least: one in use, one on its way. */
#define LEAST_EXPERTS 2

static bool is_dense(const struct plan_unit *unit)
{
    return unit->priority < PRIORITY_EXPERT;
}

/* Groups that are packed one after the other. */
enum { GROUP_ROUTER, GROUP_ATTENTION, GROUP_REST, GROUP_COUNT };

static int unit_group(const struct plan_unit *unit)
{
    switch (unit->priority) {
    case PRIORITY_ROUTER:
        return GROUP_ROUTER;
    case PRIORITY_ATTENTION:
        return GROUP_ATTENTION;
    case PRIORITY_SHARED:
    case PRIORITY_OUTPUT:
    case PRIORITY_FEED_FORWARD:
        return GROUP_REST;
    default:
        return -1;
    }
}

static bool may_stream(const struct plan_unit *unit, int level, uint64_t limit)
{
    int group = unit_group(unit);
    return group >= 0 && group >= GROUP_COUNT + 1 - level && unit->footprint <= limit;
}

/* What a level and a limit need at least. */
struct demand {
    uint64_t pinned;         /* dense tensors that may not stream */
    uint64_t ring;           /* largest step and largest tensor */
    uint64_t largest;        /* streamed tensor */
    uint64_t expert_cache;   /* least */
    uint64_t experts;        /* all */
    uint64_t free_to_stream; /* dense tensors that may */
};

static struct demand find_demand(const struct plan_table *table, int level, uint64_t limit)
{
    struct demand demand = {0};
    uint64_t step_bytes = 0, step_units = 0, largest_step = 0, scattered = 0, largest_expert = 0;
    const struct plan_unit *previous = NULL;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit->priority == PRIORITY_EXPERT) {
            demand.experts += unit->footprint;
            largest_expert = MAX(largest_expert, unit->footprint);
        }
        if (!is_dense(unit))
            continue;
        if (!may_stream(unit, level, limit)) {
            demand.pinned += unit->footprint;
            continue;
        }
        /* Units are numbered in order of use, so a step's tensors that stream follow one another. */
        if (!previous || previous->layer != unit->layer || previous->step != unit->step)
            step_bytes = step_units = 0;
        /* The n - 1 tensors that are held leave n gaps, of which one must be large enough. */
        step_units++;
        scattered = MAX(scattered, step_bytes + step_units * unit->footprint);
        step_bytes += unit->footprint;
        largest_step = MAX(largest_step, step_bytes);
        demand.largest = MAX(demand.largest, unit->footprint);
        demand.free_to_stream += unit->footprint;
        previous = unit;
    }
    demand.ring = MAX(largest_step + demand.largest, scattered);
    if (table->experts_move) /* one more, for the time between */
        demand.experts += largest_expert;
    if (level == 0)
        demand.pinned += demand.experts;
    else
        demand.expert_cache = MIN(LEAST_EXPERTS * largest_expert, demand.experts);
    return demand;
}

static uint64_t least(const struct demand *demand)
{
    return demand->pinned + demand->ring + demand->expert_cache;
}

/* The next smaller limit worth trying at a level: the largest footprint below "below" of a kind that may stream. */
static uint64_t next_limit(const struct plan_table *table, int level, uint64_t below)
{
    uint64_t limit = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit->footprint < below && may_stream(unit, level, UINT64_MAX))
            limit = MAX(limit, unit->footprint);
    }
    return limit;
}

uint64_t plan_smallest_capacity(const struct plan_table *table)
{
    uint64_t smallest = UINT64_MAX;
    for (int level = 0; level < LEVELS; level++) {
        uint64_t limit = UINT64_MAX;
        do {
            limit = next_limit(table, level, limit);
            struct demand demand = find_demand(table, level, limit);
            smallest = MIN(smallest, least(&demand));
        } while (limit);
    }
    return smallest;
}

uint64_t plan_resident_capacity(const struct plan_table *table)
{
    struct demand demand = find_demand(table, 0, 0);
    return least(&demand);
}

/* One group's streamable units by size: the packer's classes, and which class a unit is in. */
struct grouping {
    struct pack_class *classes;
    enum plan_priority *priorities; /* of the classes */
    size_t count;
};

static size_t find_class(struct grouping *grouping, const struct plan_unit *unit)
{
    for (size_t i = 0; i < grouping->count; i++) {
        if (grouping->classes[i].size == unit->footprint && grouping->priorities[i] == unit->priority)
            return i;
    }
    return grouping->count;
}

static void group_units(const struct plan_table *table, int group, int level, uint64_t limit, struct grouping *grouping)
{
    grouping->count = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit_group(unit) != group || !may_stream(unit, level, limit))
            continue;
        size_t number = find_class(grouping, unit);
        if (number == grouping->count) {
            /* Kept in order of priority. */
            while (number > 0 && grouping->priorities[number - 1] > unit->priority) {
                grouping->classes[number] = grouping->classes[number - 1];
                grouping->priorities[number] = grouping->priorities[number - 1];
                number--;
            }
            grouping->classes[number] = (struct pack_class){.size = unit->footprint};
            grouping->priorities[number] = unit->priority;
            grouping->count++;
        }
        grouping->classes[number].count++;
    }
}

/* Marks the units of the group that stream: of each class as many as were not taken, spread evenly over its units in
 * order. The offset keeps classes from streaming in the same layers: with s of n streamed, unit i streams when
 * (i * s + offset) mod n < s, which holds for s values of i, n / s apart on the average. */
static void spread(const struct plan_table *table, int group, int level, uint64_t limit, struct grouping *grouping,
                   uint32_t *seen, struct placement *out)
{
    memset(seen, 0, grouping->count * sizeof *seen);
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit_group(unit) != group || !may_stream(unit, level, limit))
            continue;
        size_t number = find_class(grouping, unit);
        const struct pack_class *class = &grouping->classes[number];
        uint64_t streamed = class->count - class->taken;
        uint64_t offset = (uint64_t)number * class->count / grouping->count;
        if ((seen[number]++ * streamed + offset) % class->count < streamed) {
            out->tiers[i] = TIER_STORAGE;
            out->in_ring[i] = 1;
        }
    }
}

/* What a choice costs, compared from left to right. */
struct cost {
    uint64_t streamed[GROUP_COUNT];
    uint64_t total;
    uint64_t spare; /* not compared: capacity that is left over */
};

static bool cheaper(const struct cost *a, const struct cost *b)
{
    for (int group = 0; group < GROUP_REST; group++) {
        if (a->streamed[group] != b->streamed[group])
            return a->streamed[group] < b->streamed[group];
    }
    if (a->total != b->total)
        return a->total < b->total;
    return a->spare > b->spare;
}

static struct cost try_choice(const struct plan_table *table, int level, uint64_t limit, uint64_t spare,
                              struct grouping *grouping, uint32_t *seen, struct placement *out)
{
    struct cost cost = {0};
    for (int group = 0; group < GROUP_COUNT; group++) {
        group_units(table, group, level, limit, grouping);
        uint64_t taken = plan_pack(grouping->classes, grouping->count, spare);
        for (size_t i = 0; i < grouping->count; i++)
            cost.streamed[group] += grouping->classes[i].size * grouping->classes[i].count;
        cost.streamed[group] -= taken;
        cost.total += cost.streamed[group];
        spare -= taken;
        if (out)
            spread(table, group, level, limit, grouping, seen, out);
    }
    cost.spare = spare;
    return cost;
}

static void count_up(const struct plan_table *table, struct placement *out)
{
    uint64_t smallest = UINT64_MAX;
    bool experts = false, attention = false;
    uint32_t streamed = 0;
    out->resident_bytes = 0;
    out->dense_bytes_per_token = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (out->tiers[i] == TIER_RAM)
            out->resident_bytes += unit->footprint;
        experts |= out->tiers[i] == TIER_STORAGE && unit->priority == PRIORITY_EXPERT;
        if (!out->in_ring[i])
            continue;
        out->dense_bytes_per_token += unit->footprint;
        smallest = MIN(smallest, unit->footprint);
        attention |= unit->priority == PRIORITY_ATTENTION || unit->priority == PRIORITY_ROUTER;
        streamed++;
    }
    out->ring_units = streamed ? (uint32_t)MIN((uint64_t)streamed, out->ring_bytes / smallest) : 0;
    out->mode = attention  ? PLAN_FULL_STREAMING
                : streamed ? PLAN_DENSE_STREAMING
                : experts  ? PLAN_EXPERT_STREAMING
                           : PLAN_FULL_RESIDENT;
    out->embedding_rows = table->embedding_unit != NO_UNIT && out->tiers[table->embedding_unit] == TIER_STORAGE;
}

static void fill(const struct plan_table *table, int level, uint64_t limit, uint64_t capacity, uint64_t lookahead,
                 struct grouping *grouping, uint32_t *seen, struct placement *out)
{
    struct demand demand = find_demand(table, level, limit);
    uint64_t spare = capacity - least(&demand);
    for (uint32_t i = 0; i < table->count; i++) {
        enum plan_priority priority = table->units[i].priority;
        bool pinned = priority < PRIORITY_EXPERT || (priority == PRIORITY_EXPERT && level == 0);
        out->tiers[i] = pinned ? TIER_RAM : priority == PRIORITY_GPU ? TIER_GPU : TIER_STORAGE;
        out->in_ring[i] = 0;
    }
    /* Rows of the embedding are worth less than anything else, so it comes in when all the rest is in. */
    uint32_t embedding = table->embedding_unit;
    uint64_t kept = table->experts_move && level == 1 ? demand.experts - demand.expert_cache : 0;
    if (level == (table->experts_move ? 1 : 0) && embedding != NO_UNIT &&
        table->units[embedding].priority == PRIORITY_ROWS && kept <= spare &&
        table->units[embedding].footprint <= spare - kept) {
        out->tiers[embedding] = TIER_RAM;
        spare -= table->units[embedding].footprint;
    }
    /* A ring of small tensors needs more of them for the queue to stay full. It is taken from what would be pinned, so
     * only where that hardly costs anything. */
    uint64_t more = lookahead > demand.largest ? lookahead - demand.largest : 0;
    if (demand.ring == 0 || more > spare / 8)
        more = 0;
    spare = try_choice(table, level, limit, spare - more, grouping, seen, out).spare + more;

    out->expert_cache_bytes = level ? MIN(demand.experts, demand.expert_cache + spare - more) : 0;
    out->ring_bytes = demand.ring + more;
    count_up(table, out);
    if (out->dense_bytes_per_token == 0)
        out->ring_bytes = 0;
    else if (demand.experts == 0)
        out->ring_bytes = MIN(demand.ring + spare, out->dense_bytes_per_token + demand.ring);
}

hypura_status plan_place(const struct plan_table *table, uint64_t capacity, uint64_t lookahead, struct placement *out,
                         hypura_error *error)
{
    bool fits = false;
    struct grouping grouping = {0};
    uint32_t *seen = NULL;
    size_t count = table->count;
    hypura_status status = ALLOCATE(&grouping.classes, count, "planner's sizes", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&grouping.priorities, count, "planner's sizes", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&seen, count, "planner's sizes", error);
    for (int level = table->experts_move ? 1 : 0; status == HYPURA_OK && level < LEVELS && !fits; level++) {
        struct cost best = {0};
        uint64_t best_limit = 0, limit = UINT64_MAX;
        do {
            limit = next_limit(table, level, limit);
            struct demand demand = find_demand(table, level, limit);
            if (least(&demand) > capacity)
                continue;
            struct cost cost = try_choice(table, level, limit, capacity - least(&demand), &grouping, NULL, NULL);
            if (!fits || cheaper(&cost, &best)) {
                best = cost;
                best_limit = limit;
            }
            fits = true;
        } while (limit);
        if (fits)
            fill(table, level, best_limit, capacity, lookahead, &grouping, seen, out);
    }
    memory_free(grouping.classes);
    memory_free(grouping.priorities);
    memory_free(seen);
    return status;
}
