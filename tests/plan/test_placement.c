/* On small models, the placement is as good as the best of all possible ones. */
#include "test.h"

#include "fake_model.h"

#include <math.h>

/* The rules for streaming: tensors that are always pinned stay. If any tensor streams, the ring is sized for all kinds
 * and sizes that may stream. */
struct rule {
    int first; /* the first priority that may stream */
    uint64_t limit;
};

static bool allowed(const struct plan_unit *unit, const struct rule *rule)
{
    return unit->priority >= (enum plan_priority)rule->first && unit->priority < PRIORITY_EXPERT &&
           unit->footprint <= rule->limit;
}

static uint64_t ring_for(const struct plan_table *table, const struct rule *rule)
{
    uint64_t largest = 0, group_largest = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        if (!allowed(&table->units[i], rule))
            continue;
        uint64_t group = 0;
        for (uint32_t j = 0; j < table->count; j++) {
            if (j == i || (allowed(&table->units[j], rule) && table->units[j].layer == table->units[i].layer &&
                           table->units[i].group && table->units[j].group == table->units[i].group))
                group += table->units[j].footprint;
        }
        largest = MAX(largest, table->units[i].footprint);
        group_largest = MAX(group_largest, group);
    }
    return largest + group_largest;
}

struct best {
    uint64_t attention, total; /* bytes of dense tensors that stream */
    bool found;
};

/* Tries every subset of the dense tensors that a rule allows to stream. */
static void try_subsets(const struct plan_table *table, const struct rule *rule, uint64_t capacity, uint64_t cache,
                        struct best *best)
{
    uint32_t free_units[20];
    size_t count = 0;
    uint64_t pinned = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        if (allowed(&table->units[i], rule))
            free_units[count++] = i;
        else if (table->units[i].priority < PRIORITY_EXPERT)
            pinned += table->units[i].footprint;
    }
    assert_true(count <= COUNT_OF(free_units));
    uint64_t ring = ring_for(table, rule);
    for (uint32_t mask = 0; mask < 1u << count; mask++) {
        uint64_t memory = pinned + ring + cache;
        struct best here = {.found = true};
        for (size_t i = 0; i < count; i++) {
            const struct plan_unit *unit = &table->units[free_units[i]];
            if (mask >> i & 1) {
                memory += unit->footprint;
                continue;
            }
            here.total += unit->footprint;
            if (unit->priority == PRIORITY_ATTENTION)
                here.attention += unit->footprint;
        }
        if (memory <= capacity && (!best->found || here.attention < best->attention ||
                                   (here.attention == best->attention && here.total < best->total)))
            *best = here;
    }
}

static uint64_t random_size(struct random *random)
{
    return (16 + random_next(random) % 60 * 4) * KIB;
}

static void small_model(struct fake *fake, struct random *random)
{
    struct fake_shape shape = {.layers = 2,
                               .norm = 4 * KIB,
                               .q = random_size(random),
                               .output_projection = random_size(random),
                               .gate = random_size(random),
                               .down = random_size(random),
                               .embedding = random_size(random)};
    /* With grouped heads, keys and values have at most half the size of queries. */
    shape.k = MAX(shape.q / (2 << random_next(random) % 3), 16 * KIB);
    shape.q = MAX(shape.q, 2 * shape.k);
    if (random_next(random) % 2)
        shape.output = random_size(random);
    fake_build(fake, &shape);
    /* Some layers have tensors in more bits. */
    for (uint32_t i = 0; i < fake->table.count; i++) {
        if (fake->units[i].priority > PRIORITY_ATTENTION && random_next(random) % 4 == 0)
            fake->units[i].footprint += random_size(random);
    }
    fake_cut(fake, UINT64_MAX);
}

static uint64_t sum_dense(const struct plan_table *table)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < table->count; i++)
        sum += table->units[i].priority < PRIORITY_EXPERT ? table->units[i].footprint : 0;
    return sum;
}

static uint8_t tiers[FAKE_UNITS], in_ring[FAKE_UNITS], streams[FAKE_PIECES];
static struct fake fake;

static struct placement place(uint64_t capacity, uint64_t lookahead)
{
    struct placement placement = {.tiers = tiers, .in_ring = in_ring, .streams = streams};
    assert_true(fake.table.piece_count <= COUNT_OF(streams));
    assert_ok(plan_place(&fake.table, capacity, lookahead, &placement, &test_error));
    return placement;
}

static void check_consistent(const struct plan_table *table, const struct placement *placement, uint64_t capacity)
{
    uint64_t resident = 0, streamed = 0, largest = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        uint64_t read = 0;
        for (uint32_t piece = 0; piece < unit->cut.count; piece++) {
            if (!placement->streams[unit->cut.first + piece])
                continue;
            read += plan_piece_footprint(unit, piece);
            largest = MAX(largest, plan_piece_footprint(unit, piece));
        }
        assert_int_equal(placement->in_ring[i], read > 0);
        streamed += read;
        if (placement->in_ring[i]) {
            assert_int_equal(placement->tiers[i], TIER_STORAGE);
            assert_true(unit->priority > PRIORITY_ALWAYS && unit->priority < PRIORITY_EXPERT);
        } else if (unit->priority < PRIORITY_EXPERT) {
            assert_int_equal(placement->tiers[i], TIER_RAM);
        }
        if (placement->tiers[i] == TIER_RAM || placement->in_ring[i])
            resident += unit->footprint - read;
    }
    assert_int_equal(resident, placement->resident_bytes);
    assert_int_equal(streamed, placement->dense_bytes_per_token);
    assert_true(resident + placement->ring_bytes + placement->table_bytes + placement->expert_cache_bytes <= capacity);
    if (streamed)
        assert_true(placement->ring_bytes >= 2 * largest);
    else
        assert_int_equal(placement->ring_bytes, 0);
}

static void dense_placement_matches_brute_force(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 11);
    for (int round = 0; round < 40; round++) {
        small_model(&fake, &random);
        const struct plan_table *table = &fake.table;
        uint64_t dense = sum_dense(table), smallest = plan_smallest_capacity(table);
        assert_true(smallest <= dense);
        uint64_t capacity = smallest + random_next(&random) % (dense - smallest + 64 * KIB);

        /* Take the first level at which anything fits, then the best subset under any limit of size. */
        struct best best = {0};
        const int firsts[] = {PRIORITY_EXPERT, PRIORITY_SHARED, PRIORITY_ATTENTION, PRIORITY_ROUTER};
        for (size_t level = 0; level < COUNT_OF(firsts) && !best.found; level++) {
            for (uint32_t i = 0; i <= table->count; i++) {
                struct rule rule = {firsts[level], i < table->count ? table->units[i].footprint : 0};
                try_subsets(table, &rule, capacity, 0, &best);
            }
        }
        assert_true(best.found);
        struct placement placement = place(capacity, 0);
        check_consistent(table, &placement, capacity);
        assert_int_equal(placement.dense_bytes_per_token, best.total);
    }
}

/* Without rules of kinds and levels, any subset may stream. No subset needs less than the smallest capacity. */
static void the_smallest_capacity_is_the_smallest(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 5);
    for (int round = 0; round < 20; round++) {
        small_model(&fake, &random);
        const struct plan_table *table = &fake.table;
        uint32_t units[20];
        size_t count = 0;
        uint64_t always = 0, smallest = UINT64_MAX;
        for (uint32_t i = 0; i < table->count; i++) {
            if (table->units[i].priority == PRIORITY_ALWAYS)
                always += table->units[i].footprint;
            else if (table->units[i].priority < PRIORITY_EXPERT)
                units[count++] = i;
        }
        for (uint32_t mask = 0; mask < 1u << count; mask++) {
            uint64_t pinned = always, largest = 0;
            for (size_t i = 0; i < count; i++) {
                const struct plan_unit *unit = &table->units[units[i]];
                if (mask >> i & 1) {
                    pinned += unit->footprint;
                    continue;
                }
                largest = MAX(largest, unit->footprint);
            }
            smallest = MIN(smallest, pinned + 2 * largest);
        }
        assert_int_equal(plan_smallest_capacity(table), smallest);
    }
}

/* With experts: if all experts of a layer are equally likely and the cache holds its share of them, no way to pin
 * tensors and single experts reads less per token than the plan does. */
static void no_static_pinning_beats_the_cache(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 23);
    for (int round = 0; round < 60; round++) {
        struct fake_shape shape = {.layers = 1,
                                   .norm = 4 * KIB,
                                   .q = random_size(&random),
                                   .k = random_size(&random),
                                   .output_projection = random_size(&random),
                                   .experts = 6,
                                   .experts_used = 1 + (uint32_t)(random_next(&random) % 3),
                                   .router = 20 * KIB,
                                   .expert = random_size(&random),
                                   .embedding = random_size(&random)};
        fake_build(&fake, &shape);
        const struct plan_table *table = &fake.table;
        uint64_t smallest = plan_smallest_capacity(table), all = plan_resident_capacity(table);
        uint64_t capacity = smallest + random_next(&random) % (all - smallest + 1);
        struct placement placement = place(capacity, 0);
        check_consistent(table, &placement, capacity);
        if (placement.mode != PLAN_EXPERT_STREAMING)
            continue;
        double share = (double)shape.experts_used / shape.experts, total = (double)(shape.experts * shape.expert);
        double planned = share * (total - (double)placement.expert_cache_bytes);
        for (uint32_t mask = 0; mask < 1u << table->count; mask++) {
            uint64_t memory = 0;
            double read = 0;
            for (uint32_t i = 0; i < table->count && memory <= capacity; i++) {
                bool expert = table->units[i].priority == PRIORITY_EXPERT;
                if (mask >> i & 1)
                    memory += table->units[i].footprint;
                else
                    read += (expert ? share : 1) * (double)table->units[i].footprint;
            }
            if (memory <= capacity)
                assert_true(planned <= read + 1e-6);
        }
    }
}

/* Checks that, up to any layer, the streamed bytes differ from the even share by at most "slack". */
static void check_even(uint64_t slack)
{
    uint64_t streamed = 0, total = 0;
    for (uint32_t i = 0; i < fake.table.count; i++)
        total += fake.units[i].layer >= 0 ? plan_streamed_footprint(&fake.units[i], streams) : 0;
    for (uint32_t i = 0; i < fake.table.count; i++) {
        if (fake.units[i].layer < 0)
            continue;
        streamed += plan_streamed_footprint(&fake.units[i], streams);
        if (fake.units[i + 1].layer == fake.units[i].layer)
            continue;
        double even = (double)total * (fake.units[i].layer + 1) / fake.table.layers;
        assert_true((double)streamed <= even + (double)slack);
        assert_true((double)streamed >= even - (double)slack);
    }
}

static void streamed_tensors_are_spread_evenly(void **state)
{
    (void)state;
    fake_build(&fake, &fake_dense);
    for (uint64_t gib = 9; gib < 40; gib += 3) {
        struct placement placement = place(gib * GIB, 16 * MIB);
        check_consistent(&fake.table, &placement, gib * GIB);
        assert_int_equal(placement.mode, PLAN_DENSE_STREAMING);
        check_even(2 * 184 * MIB);
    }
}

/* Pieces spread as evenly, also among the tensors of a layer, and almost no room is left over. */
static void pieces_are_spread_evenly(void **state)
{
    (void)state;
    const uint64_t piece = 10 * MIB;
    fake_build(&fake, &fake_dense);
    fake_cut(&fake, piece);
    for (uint64_t gib = 1; gib < 40; gib += 3) {
        struct placement placement = place(gib * GIB, 16 * MIB);
        check_consistent(&fake.table, &placement, gib * GIB);
        assert_int_equal(placement.mode, gib < 7 ? PLAN_FULL_STREAMING : PLAN_DENSE_STREAMING);
        check_even(8 * piece);
        /* Once the output matrix stays, the same share of each feed forward matrix streams. */
        double streamed = 0, all = 0;
        for (uint32_t i = 0; i < fake.table.count; i++) {
            bool counts = fake.units[i].priority == PRIORITY_FEED_FORWARD;
            streamed += counts ? (double)plan_streamed_footprint(&fake.units[i], streams) : 0;
            all += counts ? (double)fake.units[i].footprint : 0;
            if (fake.units[i].priority == PRIORITY_OUTPUT && gib > 8)
                assert_int_equal(tiers[i], TIER_RAM);
        }
        for (uint32_t i = 0; i < fake.table.count; i++) {
            const struct plan_unit *unit = &fake.units[i];
            double share = (double)plan_streamed_footprint(unit, streams) / (double)unit->footprint;
            if (unit->priority == PRIORITY_FEED_FORWARD)
                assert_true(fabs(share - streamed / all) <= 2.0 / unit->cut.count);
        }
        assert_true(placement.resident_bytes + placement.ring_bytes + placement.table_bytes + piece > gib * GIB);
        assert_true(placement.ring_bytes <= 4 * piece);
    }
}

static double streamed_share(uint64_t footprint)
{
    double streamed = 0, all = 0;
    for (uint32_t i = 0; i < fake.table.count; i++) {
        bool counts = fake.units[i].priority == PRIORITY_FEED_FORWARD && fake.units[i].footprint == footprint;
        streamed += counts ? (double)plan_streamed_footprint(&fake.units[i], streams) : 0;
        all += counts ? (double)fake.units[i].footprint : 0;
    }
    return streamed / all;
}

/* Rows differ in length, so pieces do, too. A kind of matrix with smaller pieces is not read more than another. */
static void kinds_with_unlike_pieces_stream_alike(void **state)
{
    (void)state;
    fake_build(&fake, &fake_dense);
    fake_cut_unlike(&fake, 10 * MIB, fake_dense.down, 9 * MIB);
    for (uint64_t gib = 10; gib < 40; gib += 3) {
        struct placement placement = place(gib * GIB, 16 * MIB);
        check_consistent(&fake.table, &placement, gib * GIB);
        assert_true(fabs(streamed_share(fake_dense.gate) - streamed_share(fake_dense.down)) < 0.01);
    }
}

/* The ring has the requested length, or is shorter if that would be much compared with the bytes that stream. */
static void the_ring_follows_the_bytes_read(void **state)
{
    (void)state;
    const uint64_t lookahead = 100 * MIB;
    fake_build(&fake, &fake_dense);
    fake_cut(&fake, 10 * MIB);
    uint64_t all = plan_resident_capacity(&fake.table), longest = 0, shortest = UINT64_MAX;
    for (uint64_t missing = 128 * MIB; missing < 30 * GIB; missing *= 2) {
        struct placement placement = place(all - missing, lookahead);
        check_consistent(&fake.table, &placement, all - missing);
        assert_true(placement.ring_bytes <= MIN(lookahead, placement.dense_bytes_per_token / 8) + 4 * 10 * MIB);
        longest = MAX(longest, placement.ring_bytes);
        shortest = MIN(shortest, placement.ring_bytes);
    }
    assert_true(longest >= lookahead);
    assert_true(shortest < lookahead / 2);
}

/* A matrix that is larger than all others together stays if a ring for it would need twice its size. */
static void a_giant_is_pinned_rather_than_streamed(void **state)
{
    (void)state;
    struct fake_shape shape = fake_dense;
    shape.layers = 4;
    shape.output = 4 * GIB;
    fake_build(&fake, &shape);
    uint64_t smallest = plan_smallest_capacity(&fake.table);
    assert_true(smallest < 5 * GIB);
    struct placement placement = place(smallest, 0);
    check_consistent(&fake.table, &placement, smallest);
    for (uint32_t i = 0; i < fake.table.count; i++) {
        if (fake.units[i].footprint == 4 * GIB)
            assert_int_equal(tiers[i], TIER_RAM);
    }
    assert_int_equal(placement.mode, PLAN_FULL_STREAMING);
}

/* Three tensors of equal size are held together: wherever two of them are, the third finds room. */
static void three_equal_tensors_of_a_group_fit_however_they_lie(void **state)
{
    (void)state;
    struct fake_shape shape = fake_experts;
    shape.q = shape.k = shape.output_projection = 4 * MIB;
    shape.output = 0;
    shape.embedding = 2 * MIB;
    fake_build(&fake, &shape);
    for (uint32_t i = 0; i < fake.table.count; i++)
        fake.units[i].group = fake.units[i].footprint == 4 * MIB;
    uint64_t smallest = plan_smallest_capacity(&fake.table);
    struct placement placement = place(smallest, 0);
    assert_int_equal(placement.mode, PLAN_FULL_STREAMING);
    assert_true(placement.ring_bytes >= (3 + 4) * 4 * MIB);
}

/* A model in pieces streams whatever it cannot hold, and room for two pieces is enough. It reads at most one piece per
 * token more than with the best choice of pieces. */
static void pieces_need_little_and_waste_little(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 3);
    const uint64_t piece = 40 * KIB;
    for (int round = 0; round < 40; round++) {
        small_model(&fake, &random);
        fake_cut(&fake, piece);
        const struct plan_table *table = &fake.table;
        uint64_t smallest = plan_smallest_capacity(table), dense = sum_dense(table), always = 0, tables = 0;
        for (uint32_t i = 0; i < table->count; i++) {
            always += table->units[i].priority == PRIORITY_ALWAYS ? table->units[i].footprint : 0;
            tables += table->units[i].cut.count > 1 ? table->units[i].cut.count * KIB : 0;
        }
        assert_true(smallest <= always + 2 * piece + tables);
        uint64_t capacity = smallest + random_next(&random) % (dense - smallest);
        struct placement placement = place(capacity, 0);
        check_consistent(table, &placement, capacity);
        uint64_t used = placement.resident_bytes + placement.ring_bytes + placement.table_bytes;
        assert_true(used + piece > capacity);
        assert_true(placement.dense_bytes_per_token + capacity <= dense + 3 * piece + tables);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_placement_matches_brute_force),
        cmocka_unit_test(the_smallest_capacity_is_the_smallest),
        cmocka_unit_test(no_static_pinning_beats_the_cache),
        cmocka_unit_test(streamed_tensors_are_spread_evenly),
        cmocka_unit_test(pieces_are_spread_evenly),
        cmocka_unit_test(kinds_with_unlike_pieces_stream_alike),
        cmocka_unit_test(the_ring_follows_the_bytes_read),
        cmocka_unit_test(pieces_need_little_and_waste_little),
        cmocka_unit_test(three_equal_tensors_of_a_group_fit_however_they_lie),
        cmocka_unit_test(a_giant_is_pinned_rather_than_streamed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
