/* Decides what is pinned, what streams through the ring, and how large the ring and the expert cache are.
 *
 * A level says which kinds of dense tensors may stream at all (0: nothing streams; 1: only experts; 2: also feed
 * forward, shared experts and output; 3: also attention; 4: also routers). The first level that fits is taken, because
 * it keeps the kinds in their order. Within a level, a limit says how large a whole tensor may be to stream; larger
 * ones are pinned. The limit matters because the ring must hold the largest streamed tensor: pinning one huge matrix
 * that cannot be cut may take less memory than streaming it. Below the limit, pinning a smaller tensor to shrink the
 * ring does not pay, because the ring shrinks by at most that tensor's size. (An exception is a group of three nearly
 * equal tensors: such models lose at most one tensor's worth.) So trying every size as the limit misses nothing.
 * Tensors in pieces stream under any limit: reading all kinds of them is more even than reading one kind whose pieces
 * happen to be smaller.
 *
 * If only some tensors of a group of kinds stream, whole tensors are packed exactly. If some of them are in pieces, the
 * same share of each size stays, and single pieces fill the rest until it is smaller than the smallest streamed piece.
 */
#include "plan/plan_private.h"

#include <string.h>

#define LEVELS 5

/* The store's bookkeeping per piece: its unit, its state, its place in the ring. */
#define PIECE_TABLE_BYTES 640u

/* The ring may exceed its least size by this part of the bytes that stream. */
#define LOOKAHEAD_PART 8u

/* The least number of experts in the cache: one in use, one being read. */
#define LEAST_EXPERTS 2

static bool is_dense(const struct plan_unit *unit)
{
    return unit->priority < PRIORITY_EXPERT;
}

/* Groups of kinds, packed one after the other. */
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
    return group >= 0 && group >= GROUP_COUNT + 1 - level && (unit->cut.count > 1 || unit->piece <= limit);
}

uint64_t plan_piece_footprint(const struct plan_unit *unit, uint32_t piece)
{
    return piece + 1 < unit->cut.count ? unit->piece : unit->last_piece;
}

uint64_t plan_streamed_footprint(const struct plan_unit *unit, const uint8_t *streams)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < unit->cut.count; i++)
        bytes += streams[unit->cut.first + i] ? plan_piece_footprint(unit, i) : 0;
    return bytes;
}

/* The least memory that a level and a limit need. */
struct demand {
    uint64_t pinned;       /* dense tensors that may not stream; at level 0 also experts */
    uint64_t ring;         /* the largest group and the largest piece */
    uint64_t largest;      /* the largest piece that may stream */
    uint64_t may_stream;   /* all tensors that may stream */
    uint64_t tables;       /* tables of pieces */
    uint64_t expert_cache; /* its least size */
    uint64_t experts;      /* all experts */
};

static struct demand find_demand(const struct plan_table *table, int level, uint64_t limit)
{
    struct demand demand = {0};
    uint64_t group_bytes = 0, group_units = 0, largest_group = 0, scattered = 0, largest_expert = 0;
    const struct plan_unit *previous = NULL;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit->priority == PRIORITY_EXPERT) {
            demand.experts += unit->footprint;
            largest_expert = MAX(largest_expert, unit->footprint);
        }
        if (!is_dense(unit))
            continue;
        demand.tables += unit->cut.count > 1 ? (uint64_t)unit->cut.count * PIECE_TABLE_BYTES : 0;
        if (!may_stream(unit, level, limit)) {
            demand.pinned += unit->footprint;
            continue;
        }
        /* Units are numbered in order of use, so the streamed tensors of a group follow each other. */
        if (!unit->group || !previous || previous->layer != unit->layer || previous->group != unit->group)
            group_bytes = group_units = 0;
        /* The n - 1 tensors that are held leave n gaps in the ring, and one of these must be large enough. */
        group_units++;
        scattered = MAX(scattered, group_bytes + group_units * unit->piece);
        group_bytes += unit->piece;
        largest_group = MAX(largest_group, group_bytes);
        demand.largest = MAX(demand.largest, unit->piece);
        demand.may_stream += unit->footprint;
        previous = unit;
    }
    demand.ring = MAX(largest_group + demand.largest, scattered);
    if (demand.ring == 0) /* nothing streams, so the store cuts nothing */
        demand.tables = 0;
    if (table->experts_move) /* room for experts that are changing sides */
        demand.experts += MAX(table->moves, 1u) * largest_expert;
    if (level == 0)
        demand.pinned += demand.experts;
    else
        demand.expert_cache = MIN(LEAST_EXPERTS * largest_expert, demand.experts);
    return demand;
}

static uint64_t least(const struct demand *demand)
{
    return demand->pinned + demand->ring + demand->tables + demand->expert_cache;
}

/* The next limit below "below" that is worth trying at a level: the largest size of a whole tensor that may stream. */
static uint64_t next_limit(const struct plan_table *table, int level, uint64_t below)
{
    uint64_t limit = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit->cut.count == 1 && unit->piece < below && may_stream(unit, level, UINT64_MAX))
            limit = MAX(limit, unit->piece);
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

uint64_t plan_dense_capacity(const struct plan_table *table)
{
    struct demand demand = find_demand(table, 1, 0);
    return least(&demand);
}

/* The pieces of a group by size, as classes for the packer. */
struct grouping {
    struct pack_class *classes;
    enum plan_priority *priorities; /* of the classes */
    size_t count;
    bool cut; /* some tensors are in pieces */
};

static size_t find_class(const struct grouping *grouping, enum plan_priority priority, uint64_t size)
{
    for (size_t i = 0; i < grouping->count; i++) {
        if (grouping->classes[i].size == size && grouping->priorities[i] == priority)
            return i;
    }
    return grouping->count;
}

static void add_pieces(struct grouping *grouping, enum plan_priority priority, uint64_t size, uint32_t count)
{
    size_t number = find_class(grouping, priority, size);
    if (number == grouping->count) {
        /* Classes are sorted by priority. */
        while (number > 0 && grouping->priorities[number - 1] > priority) {
            grouping->classes[number] = grouping->classes[number - 1];
            grouping->priorities[number] = grouping->priorities[number - 1];
            number--;
        }
        grouping->classes[number] = (struct pack_class){.size = size};
        grouping->priorities[number] = priority;
        grouping->count++;
    }
    grouping->classes[number].count += count;
}

static void group_units(const struct plan_table *table, int group, int level, uint64_t limit, struct grouping *grouping)
{
    grouping->count = 0;
    grouping->cut = false;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit_group(unit) != group || !may_stream(unit, level, limit))
            continue;
        if (unit->cut.count > 1)
            add_pieces(grouping, unit->priority, unit->piece, unit->cut.count - 1);
        add_pieces(grouping, unit->priority, unit->last_piece, 1);
        grouping->cut |= unit->cut.count > 1;
    }
}

/* Takes the same share of each class. Returns the bytes taken. */
static uint64_t share_classes(struct pack_class *classes, size_t count, uint64_t capacity)
{
    uint64_t total = 0, taken = 0;
    for (size_t i = 0; i < count; i++)
        total += classes[i].size * classes[i].count;
    double share = capacity < total ? (double)capacity / (double)total : 1;
    for (size_t i = 0; i < count; i++) {
        struct pack_class *class = &classes[i];
        uint64_t fit = class->size ? (capacity - taken) / class->size : class->count;
        class->taken = (uint32_t)MIN((uint64_t)(share * class->count), MIN(fit, (uint64_t) class->count));
        taken += class->taken * class->size;
    }
    return taken;
}

/* Takes one kind after the other (the output matrix before the feed forward, so that prompts need not read it). Then
 * fills the remaining capacity with any single pieces that fit. Returns the bytes taken. */
static uint64_t share_out(struct grouping *grouping, uint64_t capacity)
{
    uint64_t taken = 0;
    for (size_t i = 0, count; i < grouping->count; i += count) {
        for (count = 1; i + count < grouping->count && grouping->priorities[i + count] == grouping->priorities[i];)
            count++;
        taken += share_classes(grouping->classes + i, count, capacity - taken);
    }
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < grouping->count; i++) {
            struct pack_class *class = &grouping->classes[i];
            if (class->taken == class->count || class->size > capacity - taken)
                continue;
            class->taken++;
            taken += class->size;
            more = true;
        }
    }
    return taken;
}

/* Marks the pieces of the group that stream: of each class, as many as were not taken, spread evenly over its pieces in
 * order. If s of n pieces stream, piece i does if (i * s + offset) mod n < s. That holds for s values of i, which are
 * n / s apart on average. The offset keeps the classes from streaming in the same places. */
static void spread(const struct plan_table *table, int group, int level, uint64_t limit, struct grouping *grouping,
                   uint32_t *seen, struct placement *out)
{
    memset(seen, 0, grouping->count * sizeof *seen);
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit_group(unit) != group || !may_stream(unit, level, limit))
            continue;
        for (uint32_t piece = 0; piece < unit->cut.count; piece++) {
            size_t number = find_class(grouping, unit->priority, plan_piece_footprint(unit, piece));
            const struct pack_class *class = &grouping->classes[number];
            uint64_t streamed = class->count - class->taken;
            uint64_t offset = (uint64_t)number * class->count / grouping->count;
            if ((seen[number]++ * streamed + offset) % class->count < streamed) {
                out->tiers[i] = TIER_STORAGE;
                out->in_ring[i] = 1;
                out->streams[unit->cut.first + piece] = 1;
            }
        }
    }
}

/* The cost of a choice. The more important groups decide first, then the total, then spare. */
struct cost {
    uint64_t streamed[GROUP_COUNT];
    uint64_t total;
    uint64_t spare; /* capacity that is left over: the more, the better */
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
        uint64_t taken =
            grouping->cut ? share_out(grouping, spare) : plan_pack(grouping->classes, grouping->count, spare);
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
    bool attention = false, streamed = false;
    uint64_t experts = 0;
    out->resident_bytes = 0;
    out->dense_bytes_per_token = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (out->tiers[i] == TIER_RAM)
            out->resident_bytes += unit->footprint;
        if (out->tiers[i] == TIER_STORAGE && unit->priority == PRIORITY_EXPERT)
            experts += unit->footprint;
        for (uint32_t piece = 0; out->in_ring[i] && piece < unit->cut.count; piece++) {
            uint64_t bytes = plan_piece_footprint(unit, piece);
            if (out->streams[unit->cut.first + piece]) {
                out->dense_bytes_per_token += bytes;
                streamed = true;
            } else {
                out->resident_bytes += bytes;
            }
        }
        attention |= out->in_ring[i] && (unit->priority == PRIORITY_ATTENTION || unit->priority == PRIORITY_ROUTER);
    }
    /* Experts that change sides are in the cache, even if it holds all of them. */
    out->mode = attention                           ? PLAN_FULL_STREAMING
                : streamed                          ? PLAN_DENSE_STREAMING
                : experts > out->expert_cache_bytes ? PLAN_EXPERT_STREAMING
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
    memset(out->streams, 0, table->piece_count);
    /* The embedding is worth less than anything else, so it is pinned only if everything else is in memory. */
    uint32_t embedding = table->embedding_unit;
    uint64_t kept = table->experts_move && level == 1 ? demand.experts - demand.expert_cache : 0;
    if (level == (table->experts_move ? 1 : 0) && embedding != NO_UNIT &&
        table->units[embedding].priority == PRIORITY_ROWS && kept <= spare &&
        table->units[embedding].footprint <= spare - kept) {
        out->tiers[embedding] = TIER_RAM;
        spare -= table->units[embedding].footprint;
    }
    /* If pieces are small, the ring must have room for more of them to keep the drive's queue full. The room comes from
     * tensors that would be pinned, and that are then read too. So it is limited to a small part of what is read
     * anyway. */
    uint64_t read = demand.may_stream > spare ? demand.may_stream - spare : 0;
    uint64_t more = lookahead > demand.largest ? MIN(lookahead - demand.largest, MIN(spare, read / LOOKAHEAD_PART)) : 0;
    spare = try_choice(table, level, limit, spare - more, grouping, seen, out).spare + more;

    out->expert_cache_bytes = level ? MIN(demand.experts, demand.expert_cache + spare - more) : 0;
    out->ring_bytes = demand.ring + more;
    out->table_bytes = demand.tables;
    count_up(table, out);
    if (out->dense_bytes_per_token == 0)
        out->ring_bytes = out->table_bytes = 0;
    else if (demand.experts == 0)
        out->ring_bytes = MIN(demand.ring + spare, out->dense_bytes_per_token + demand.ring);
}

hypura_status plan_place(const struct plan_table *table, uint64_t capacity, uint64_t lookahead, struct placement *out,
                         hypura_error *error)
{
    bool fits = false;
    struct grouping grouping = {0};
    uint32_t *seen = NULL;
    size_t classes = 2 * (size_t)table->count; /* at most two sizes per tensor */
    hypura_status status = ALLOCATE(&grouping.classes, classes, "planner's sizes", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&grouping.priorities, classes, "planner's sizes", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&seen, classes, "planner's sizes", error);
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
