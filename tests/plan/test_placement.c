/* Placement on small models is as good as trying everything. */
#include "test.h"

#include "fake_model.h"

/* What the rules allow: always-pinned kinds stay; when any tensor of a size and kind streams the ring is sized for the
 * kinds and sizes that may stream at all. */
struct rule {
    int first; /* the earliest priority that may stream */
    uint64_t limit;
};

static bool allowed(const struct plan_unit *unit, const struct rule *rule)
{
    return unit->priority >= (enum plan_priority)rule->first && unit->priority < PRIORITY_EXPERT &&
           unit->footprint <= rule->limit;
}

static uint64_t ring_for(const struct plan_table *table, const struct rule *rule)
{
    uint64_t largest = 0, step_largest = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        if (!allowed(&table->units[i], rule))
            continue;
        uint64_t step = 0;
        for (uint32_t j = 0; j < table->count; j++) {
            if (allowed(&table->units[j], rule) && table->units[j].layer == table->units[i].layer &&
                table->units[j].step == table->units[i].step)
                step += table->units[j].footprint;
        }
        largest = MAX(largest, table->units[i].footprint);
        step_largest = MAX(step_largest, step);
    }
    return largest + step_largest;
}

struct best {
    uint64_t attention, total; /* streamed bytes of dense tensors */
    bool found;
};

/* Every subset of the dense tensors that a rule lets stream. */
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
    /* Keys and values of grouped heads are a half of the queries or less. */
    shape.k = MAX(shape.q / (2 << random_next(random) % 3), 16 * KIB);
    shape.q = MAX(shape.q, 2 * shape.k);
    if (random_next(random) % 2)
        shape.output = random_size(random);
    fake_build(fake, &shape);
    /* Some layers carry better quantised tensors. */
    for (uint32_t i = 0; i < fake->table.count; i++) {
        if (fake->units[i].priority > PRIORITY_ATTENTION && random_next(random) % 4 == 0)
            fake->units[i].footprint += random_size(random);
    }
}

static uint64_t sum_dense(const struct plan_table *table)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < table->count; i++)
        sum += table->units[i].priority < PRIORITY_EXPERT ? table->units[i].footprint : 0;
    return sum;
}

static void check_consistent(const struct plan_table *table, const struct placement *placement, uint64_t capacity)
{
    uint64_t resident = 0, streamed = 0, largest = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        if (placement->tiers[i] == TIER_RAM)
            resident += table->units[i].footprint;
        if (placement->in_ring[i]) {
            assert_int_equal(placement->tiers[i], TIER_STORAGE);
            assert_true(table->units[i].priority > PRIORITY_ALWAYS && table->units[i].priority < PRIORITY_EXPERT);
            streamed += table->units[i].footprint;
            largest = MAX(largest, table->units[i].footprint);
        } else if (table->units[i].priority < PRIORITY_EXPERT) {
            assert_int_equal(placement->tiers[i], TIER_RAM);
        }
    }
    assert_int_equal(resident, placement->resident_bytes);
    assert_int_equal(streamed, placement->dense_bytes_per_token);
    assert_true(resident + placement->ring_bytes + placement->expert_cache_bytes <= capacity);
    if (streamed)
        assert_true(placement->ring_bytes >= 2 * largest && placement->ring_units >= 1);
    else
        assert_int_equal(placement->ring_bytes, 0);
}

static void dense_placement_matches_brute_force(void **state)
{
    (void)state;
    static struct fake fake;
    static uint8_t tiers[FAKE_UNITS], in_ring[FAKE_UNITS];
    struct random random;
    random_seed(&random, 11);
    for (int round = 0; round < 40; round++) {
        small_model(&fake, &random);
        const struct plan_table *table = &fake.table;
        uint64_t dense = sum_dense(table), smallest = plan_smallest_capacity(table);
        assert_true(smallest <= dense);
        uint64_t capacity = smallest + random_next(&random) % (dense - smallest + 64 * KIB);

        /* The earliest level at which anything fits, then the best subset under any limit of size. */
        struct best best = {0};
        const int firsts[] = {PRIORITY_EXPERT, PRIORITY_SHARED, PRIORITY_ATTENTION, PRIORITY_ROUTER};
        for (size_t level = 0; level < COUNT_OF(firsts) && !best.found; level++) {
            for (uint32_t i = 0; i <= table->count; i++) {
                struct rule rule = {firsts[level], i < table->count ? table->units[i].footprint : 0};
                try_subsets(table, &rule, capacity, 0, &best);
            }
        }
        assert_true(best.found);
        struct placement placement = {.tiers = tiers, .in_ring = in_ring};
        assert_ok(plan_place(table, capacity, 0, &placement, &test_error));
        check_consistent(table, &placement, capacity);
        assert_int_equal(placement.dense_bytes_per_token, best.total);
    }
}

/* No rule of kinds, no levels: any subset may stream. The smallest capacity is the smallest of all of them. */
static void the_smallest_capacity_is_the_smallest(void **state)
{
    (void)state;
    static struct fake fake;
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
            uint64_t pinned = always, largest = 0, step = 0, largest_step = 0;
            const struct plan_unit *previous = NULL;
            for (size_t i = 0; i < count; i++) {
                const struct plan_unit *unit = &table->units[units[i]];
                if (mask >> i & 1) {
                    pinned += unit->footprint;
                    continue;
                }
                bool together = previous && previous->layer == unit->layer && previous->step == unit->step;
                step = (together ? step : 0) + unit->footprint;
                largest_step = MAX(largest_step, step);
                largest = MAX(largest, unit->footprint);
                previous = unit;
            }
            smallest = MIN(smallest, pinned + largest + largest_step);
        }
        assert_int_equal(plan_smallest_capacity(table), smallest);
    }
}

/* With experts: no way to pin tensors and single experts reads less per token than the plan does, when all experts of a
 * layer are equally likely and the cache holds its share of them. */
static void no_static_pinning_beats_the_cache(void **state)
{
    (void)state;
    static struct fake fake;
    static uint8_t tiers[FAKE_UNITS], in_ring[FAKE_UNITS];
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
        struct placement placement = {.tiers = tiers, .in_ring = in_ring};
        assert_ok(plan_place(table, capacity, 0, &placement, &test_error));
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

static void streamed_tensors_are_spread_evenly(void **state)
{
    (void)state;
    static struct fake fake;
    static uint8_t tiers[FAKE_UNITS], in_ring[FAKE_UNITS];
    fake_build(&fake, &fake_dense);
    for (uint64_t gib = 9; gib < 40; gib += 3) {
        struct placement placement = {.tiers = tiers, .in_ring = in_ring};
        assert_ok(plan_place(&fake.table, gib * GIB, 16 * MIB, &placement, &test_error));
        check_consistent(&fake.table, &placement, gib * GIB);
        assert_int_equal(placement.mode, PLAN_DENSE_STREAMING);
        /* Up to any layer the share that was streamed is within some tensors of the even share. */
        uint64_t streamed = 0, total = 0;
        for (uint32_t i = 0; i < fake.table.count; i++)
            total += in_ring[i] && fake.units[i].layer >= 0 ? fake.units[i].footprint : 0;
        for (uint32_t i = 0; i < fake.table.count; i++) {
            if (in_ring[i] && fake.units[i].layer >= 0)
                streamed += fake.units[i].footprint;
            if (fake.units[i].layer >= 0 && fake.units[i + 1].layer != fake.units[i].layer) {
                double even = (double)total * (fake.units[i].layer + 1) / 80;
                assert_true((double)streamed <= even + 2 * 184.0 * (double)MIB);
                assert_true((double)streamed >= even - 2 * 184.0 * (double)MIB);
            }
        }
    }
}

/* A matrix that is larger than the rest together stays when a ring for it would take twice its size. */
static void a_giant_is_pinned_rather_than_streamed(void **state)
{
    (void)state;
    static struct fake fake;
    static uint8_t tiers[FAKE_UNITS], in_ring[FAKE_UNITS];
    struct fake_shape shape = fake_dense;
    shape.layers = 4;
    shape.output = 4 * GIB;
    fake_build(&fake, &shape);
    struct placement placement = {.tiers = tiers, .in_ring = in_ring};
    uint64_t smallest = plan_smallest_capacity(&fake.table);
    assert_true(smallest < 5 * GIB);
    assert_ok(plan_place(&fake.table, smallest, 0, &placement, &test_error));
    check_consistent(&fake.table, &placement, smallest);
    for (uint32_t i = 0; i < fake.table.count; i++) {
        if (fake.units[i].footprint == 4 * GIB)
            assert_int_equal(tiers[i], TIER_RAM);
    }
    assert_int_equal(placement.mode, PLAN_FULL_STREAMING);
}

/* Queries, keys and values of equal size: with two held anywhere, the third finds a place. */
static void three_equal_tensors_of_a_step_fit_however_they_lie(void **state)
{
    (void)state;
    static struct fake fake;
    static uint8_t tiers[FAKE_UNITS], in_ring[FAKE_UNITS];
    struct fake_shape shape = fake_experts;
    shape.q = shape.k = shape.output_projection = 4 * MIB;
    shape.output = 0;
    shape.embedding = 2 * MIB;
    fake_build(&fake, &shape);
    uint64_t smallest = plan_smallest_capacity(&fake.table);
    struct placement placement = {.tiers = tiers, .in_ring = in_ring};
    assert_ok(plan_place(&fake.table, smallest, 0, &placement, &test_error));
    assert_int_equal(placement.mode, PLAN_FULL_STREAMING);
    assert_true(placement.ring_bytes >= 5 * 4 * MIB);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_placement_matches_brute_force),
        cmocka_unit_test(the_smallest_capacity_is_the_smallest),
        cmocka_unit_test(no_static_pinning_beats_the_cache),
        cmocka_unit_test(streamed_tensors_are_spread_evenly),
        cmocka_unit_test(three_equal_tensors_of_a_step_fit_however_they_lie),
        cmocka_unit_test(a_giant_is_pinned_rather_than_streamed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
