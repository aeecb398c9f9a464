/* The hits of caches of other sizes, computed from how long ago each expert was last used. */
#include "test.h"

#include "store/distances.h"

#include <math.h>
#include <string.h>

#define EXPERTS 8u

/* One layer, in which a pass uses one expert or two. */
struct layer {
    struct distances distances;
    uint32_t last[EXPERTS], pass;
};

static void use(struct layer *layer, const char *experts)
{
    layer->pass++;
    for (const char *expert = experts; *expert; expert++)
        distances_note(&layer->distances, layer->last, EXPERTS, EXPERTS, (uint32_t)(*expert - 'a'));
    for (const char *expert = experts; *expert; expert++)
        layer->last[*expert - 'a'] = layer->pass;
}

/* The number of uses that hit only in a cache with room for more than "from" and at most "to" experts. */
static double uses(const struct layer *layer, uint32_t from, uint32_t to)
{
    double sum = 0;
    for (uint32_t i = from * PLAN_CURVE_POINTS / EXPERTS; i < to * PLAN_CURVE_POINTS / EXPERTS; i++)
        sum += layer->distances.uses[i];
    return sum;
}

static void distance_counts_the_experts_in_between(void **state)
{
    (void)state;
    struct layer layer = {0};
    const char *const passes[] = {"a", "b", "c", "a", "a", "b"};
    for (size_t i = 0; i < COUNT_OF(passes); i++)
        use(&layer, passes[i]);
    assert_float_equal(layer.distances.count, 3, 0);
    assert_float_equal(uses(&layer, 0, 1), 1, 1e-9); /* a after a */
    assert_float_equal(uses(&layer, 1, 2), 0, 1e-9);
    assert_float_equal(uses(&layer, 2, 3), 2, 1e-9); /* a after b, c; b after c, a */
    assert_float_equal(uses(&layer, 3, EXPERTS), 0, 1e-9);
    /* At the three first uses, zero, one and two other experts had been seen. */
    for (uint32_t seen = 0; seen < EXPERTS; seen++)
        assert_float_equal(layer.distances.first_uses[seen * PLAN_CURVE_POINTS / EXPERTS], seen < 3 ? 1 : 0, 0);
}

/* LRU may evict either of two experts that were used in the same pass first. */
static void experts_of_one_pass_share_their_places(void **state)
{
    (void)state;
    struct layer layer = {0};
    use(&layer, "ab");
    use(&layer, "cd");
    use(&layer, "a"); /* third or fourth most recent */
    assert_float_equal(uses(&layer, 2, 3), 0.5, 1e-9);
    assert_float_equal(uses(&layer, 3, 4), 0.5, 1e-9);
    use(&layer, "d"); /* second or third most recent */
    assert_float_equal(uses(&layer, 1, 2), 0.5, 1e-9);
}

/* The share of hits with room for this many experts. */
static double hits(const struct plan_hit_curve *curve, uint32_t experts)
{
    return (double)curve->hits[experts * PLAN_CURVE_POINTS / EXPERTS - 1];
}

/* 100 uses need room for one expert, and 100 need room for three. Another 100 are only known to need room for more than
 * two, so they are counted as needing three. */
static void first_uses_count_by_their_lower_bound(void **state)
{
    (void)state;
    struct distances distances = {.count = 200};
    for (uint32_t i = 0; i < 8; i++)
        distances.uses[i] = distances.uses[16 + i] = 100.0 / 8;
    distances.first_uses[16] = 100;
    struct plan_hit_curve curve = {0};
    assert_true(distances_curve(&distances, 0.25, &curve));
    assert_true(curve.known);
    assert_float_equal(hits(&curve, 1), 1 / 3.0, 1e-6);
    assert_float_equal(hits(&curve, 2), 1 / 3.0, 1e-6);
    assert_float_equal(hits(&curve, 3), 1, 1e-6);
    distances.first_uses[16] = 0;
    assert_true(distances_curve(&distances, 0.25, &curve));
    assert_float_equal(hits(&curve, 2), 0.5, 1e-6);
}

/* If a cache missed a quarter of the uses where LRU would have missed half, it misses a sixteenth where LRU would miss
 * a quarter. */
static void the_policys_advantage_holds_at_other_sizes(void **state)
{
    (void)state;
    struct distances distances = {.count = 400};
    distances_note_cache(&distances, 0.25, 1000, 750);
    for (uint32_t i = 0; i < 8; i++) {
        distances.uses[i] = 200.0 / 8;
        distances.uses[16 + i] = distances.uses[32 + i] = 100.0 / 8;
    }
    struct plan_hit_curve curve = {0};
    assert_true(distances_curve(&distances, 0.25, &curve));
    assert_float_equal(hits(&curve, 2), 0.75, 1e-6);
    assert_float_equal(hits(&curve, 3), 15 / 16.0, 1e-6);
    assert_float_equal(hits(&curve, 5), 1, 1e-6);
}

static void curves_rise_whatever_was_seen(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 11);
    for (uint32_t run = 0; run < 200; run++) {
        struct layer layer = {0};
        struct plan_hit_curve curve = {0};
        uint32_t some = 1 + (uint32_t)(random_next(&random) % EXPERTS);
        for (uint32_t pass = 0; pass < 200; pass++) {
            char expert[2] = {(char)('a' + random_next(&random) % some), 0};
            use(&layer, expert);
            if (random_next(&random) % 16 == 0)
                memset(layer.last, 0, sizeof layer.last);
        }
        distances_note_cache(&layer.distances, 0.5, 200, random_next(&random) % 201);
        if (!distances_curve(&layer.distances, 0.125, &curve))
            continue;
        for (uint32_t i = 1; i < PLAN_CURVE_POINTS; i++)
            assert_true(curve.hits[i] >= curve.hits[i - 1]);
        assert_true(curve.hits[0] >= 0);
        assert_float_equal(curve.hits[PLAN_CURVE_POINTS - 1], 1, 0);
    }
}

static void short_runs_give_no_curve(void **state)
{
    (void)state;
    struct layer layer = {0};
    struct plan_hit_curve curve = {0};
    for (uint32_t pass = 0; pass < 32; pass++)
        use(&layer, "ab");
    assert_false(distances_curve(&layer.distances, 0.25, &curve)); /* 62 uses */
    use(&layer, "ab");
    assert_true(distances_curve(&layer.distances, 0.25, &curve));
    assert_float_equal(hits(&curve, 2), 1, 0.05);
    /* Runs of four passes between batches show no distance above three, and most uses in them are first uses. */
    struct layer other = {0};
    for (uint32_t pass = 0; pass < 800; pass++) {
        use(&other, (const char *const[]){"a", "b", "a", "c"}[pass % 4]);
        if (pass % 4 == 3)
            memset(other.last, 0, sizeof other.last);
    }
    assert_true(distances_curve(&other.distances, 0.25, &curve));
    curve.known = false;
    assert_false(distances_curve(&other.distances, 0.5, &curve));
    assert_false(curve.known);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(distance_counts_the_experts_in_between),
        cmocka_unit_test(experts_of_one_pass_share_their_places),
        cmocka_unit_test(first_uses_count_by_their_lower_bound),
        cmocka_unit_test(the_policys_advantage_holds_at_other_sizes),
        cmocka_unit_test(curves_rise_whatever_was_seen),
        cmocka_unit_test(short_runs_give_no_curve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
