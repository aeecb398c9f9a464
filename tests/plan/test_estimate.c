/* The simulated pipeline: bytes and hits are exact, times follow from overlap. */
#include "test.h"

#include "fake_model.h"

#include <math.h>

static const uint32_t kv_position_bytes = 32 * 1024;

static struct plan *plan_for(struct fake *fake, const struct hardware *hardware, uint64_t budget)
{
    struct plan_request request = {.budget = budget,
                                   .overhead = 30 * MIB,
                                   .positions = 1024,
                                   .chunk = 64,
                                   .kv_type = TENSOR_F16,
                                   .working_set = {fake_kv, fake_scratch, &kv_position_bytes}};
    struct plan *plan;
    assert_ok(plan_make_units(&plan, &fake->table, hardware, &request, &test_error));
    return plan;
}

static void assert_within(double value, double expected, double share)
{
    if (fabs(value - expected) > share * fabs(expected))
        fail_msg("%g is not within %g %% of %g", value, 100 * share, expected);
}

/* Passes with random routing; with `hot` of the experts taking nine of ten choices. */
struct routing {
    struct random random;
    uint32_t layers, experts, used, hot;
    uint32_t passes, tokens;
    uint16_t chosen[80 * 64 * 16];
};

static bool next_pass(void *context, struct estimate_pass *pass)
{
    struct routing *routing = context;
    if (routing->passes == 0)
        return false;
    routing->passes--;
    size_t choices = (size_t)routing->layers * routing->tokens;
    for (size_t i = 0; i < choices; i++) {
        uint16_t *row = routing->chosen + i * routing->used;
        for (uint32_t j = 0; j < routing->used;) {
            bool hot = routing->hot && random_next(&routing->random) % 10;
            row[j] = (uint16_t)(random_next(&routing->random) % (hot ? routing->hot : routing->experts));
            bool fresh = true;
            for (uint32_t k = 0; k < j; k++)
                fresh &= row[k] != row[j];
            j += fresh;
        }
    }
    *pass = (struct estimate_pass){.tokens = routing->tokens, .positions = 100, .experts = routing->chosen};
    return true;
}

static struct routing make_routing(const struct fake_shape *shape, uint32_t passes, uint32_t tokens)
{
    struct routing routing = {.layers = shape->experts ? shape->layers : 0,
                              .experts = shape->experts,
                              .used = shape->experts_used,
                              .passes = passes,
                              .tokens = tokens};
    random_seed(&routing.random, 3);
    return routing;
}

static void dense_streaming_takes_the_longer_of_reading_and_computing(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_dense);
    const double disks[] = {1e9, 5e9, 15e9, 40e9};
    for (size_t i = 0; i < COUNT_OF(disks); i++) {
        for (uint64_t gib = 8; gib <= 32; gib += 8) {
            struct hardware hardware = fake_hardware();
            hardware.storage.bytes_per_second = disks[i];
            struct plan *plan = plan_for(&fake, &hardware, gib * GIB);
            static struct routing routing;
            routing = make_routing(&fake_dense, 30, 1);
            struct estimate estimate;
            assert_ok(estimate_units(&estimate, plan, &fake.table, &hardware,
                                     &(struct estimate_source){next_pass, &routing, {0}}, 10, &test_error));
            assert_int_equal(estimate.decode.tokens, 20);
            /* A ring's worth may be read before or after the passes that count. */
            assert_true(fabs(estimate.decode.bytes_read / 20 - plan->predicted_bytes_per_token) <=
                        (double)plan->ring_bytes / 10);
            double reads = plan->predicted_bytes_per_token / disks[i];
            double longer = fmax(reads, plan->predicted_compute_seconds);
            assert_within(1 / estimate.tokens_per_second, longer, 0.06);
            assert_true(estimate.share_of_limit > 0.93);
            plan_free(plan);
        }
    }
}

static void a_resident_model_reads_nothing(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    struct plan *plan = plan_for(&fake, &hardware, 40 * GIB);
    static struct routing routing;
    routing = make_routing(&fake_experts, 5, 1);
    struct estimate estimate;
    assert_ok(estimate_units(&estimate, plan, &fake.table, &hardware,
                             &(struct estimate_source){next_pass, &routing, {0}}, 0, &test_error));
    assert_true(estimate.decode.bytes_read <= 0);
    assert_int_equal(estimate.decode.expert_misses, 0);
    assert_int_equal(estimate.bound, BOUND_COMPUTE);
    assert_within(1 / estimate.tokens_per_second, plan->predicted_compute_seconds, 0.02);
    plan_free(plan);
}

/* The simplest cache that could be: an array of units in order of last use. */
static uint64_t count_misses(const struct fake *fake, uint64_t capacity, uint32_t passes)
{
    static struct routing routing;
    routing = make_routing(&fake_experts, passes, 1);
    routing.hot = 30;
    static uint32_t order[FAKE_UNITS];
    size_t held = 0, room = (size_t)(capacity / fake_experts.expert);
    uint64_t misses = 0;
    uint32_t first = fake->table.count - fake_experts.layers * fake_experts.experts;
    struct estimate_pass pass;
    while (next_pass(&routing, &pass)) {
        for (uint32_t layer = 0; layer < fake_experts.layers; layer++) {
            bool wanted[128] = {false};
            for (uint32_t i = 0; i < fake_experts.experts_used; i++)
                wanted[pass.experts[layer * fake_experts.experts_used + i]] = true;
            for (uint32_t expert = 0; expert < fake_experts.experts; expert++) {
                if (!wanted[expert])
                    continue;
                uint32_t unit = first + layer * fake_experts.experts + expert;
                size_t at = 0;
                while (at < held && order[at] != unit)
                    at++;
                if (at == held) {
                    misses++;
                    if (held == room)
                        at = 0;
                    else
                        held++;
                }
                memmove(order + at, order + at + 1, (held - 1 - at) * sizeof *order);
                order[held - 1] = unit;
            }
        }
    }
    return misses;
}

static void the_cache_hits_as_a_cache_does(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    for (uint64_t gib = 3; gib <= 12; gib += 3) {
        struct plan *plan = plan_for(&fake, &hardware, gib * GIB);
        static struct routing routing;
        routing = make_routing(&fake_experts, 60, 1);
        routing.hot = 30;
        struct estimate estimate;
        assert_ok(estimate_units(&estimate, plan, &fake.table, &hardware,
                                 &(struct estimate_source){next_pass, &routing, {0}}, 0, &test_error));
        assert_int_equal(estimate.decode.expert_misses, count_misses(&fake, plan->expert_cache_bytes, 60));
        assert_int_equal(estimate.decode.expert_hits + estimate.decode.expert_misses, 60 * 48 * 8);
        double expected = (double)estimate.decode.expert_misses * (double)fake_experts.expert +
                          60.0 * (double)fake.table.embedding_row_bytes;
        assert_within(estimate.decode.bytes_read, expected, 1e-9);
        /* Neither faster than the busier of the two, nor slower than one after the other. */
        struct estimate_part *part = &estimate.decode;
        assert_true(part->seconds >= fmax(part->compute_seconds, part->disk_seconds));
        assert_true(part->seconds <= part->compute_seconds + part->disk_seconds + 60 * 49 * 1e-4 + 1e-9);
        plan_free(plan);
    }
}

/* Where both know the same, the formula and the simulation agree. */
static void the_prediction_agrees_with_the_simulation(void **state)
{
    (void)state;
    static struct fake fake;
    static uint64_t uses[FAKE_UNITS];
    fake_build(&fake, &fake_experts);
    for (uint32_t i = 0; i < fake.table.count; i++)
        uses[i] = fake.units[i].priority == PRIORITY_EXPERT;
    struct hardware hardware = fake_hardware();
    for (uint64_t gib = 4; gib <= 14; gib += 2) {
        struct plan *plan = plan_for(&fake, &hardware, gib * GIB);
        assert_ok(plan_predict(plan, &fake.table, &hardware, uses, &test_error));
        static struct routing routing;
        routing = make_routing(&fake_experts, 400, 1);
        struct estimate estimate;
        assert_ok(estimate_units(&estimate, plan, &fake.table, &hardware,
                                 &(struct estimate_source){next_pass, &routing, {0}}, 200, &test_error));
        assert_within(plan->predicted_tokens_per_second, estimate.tokens_per_second, 0.1);
        plan_free(plan);
    }
}

static void a_chunk_reads_every_streamed_byte_once(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    struct plan *plan = plan_for(&fake, &hardware, 3 * GIB);
    static struct routing routing;
    routing = make_routing(&fake_experts, 2, 64);
    struct estimate estimate;
    assert_ok(estimate_units(&estimate, plan, &fake.table, &hardware,
                             &(struct estimate_source){next_pass, &routing, {0}}, 0, &test_error));
    assert_int_equal(estimate.prompt.tokens, 128);
    assert_int_equal(estimate.decode.tokens, 0);
    assert_true(estimate.prompt.expert_misses <= 2 * 48 * 128);
    assert_true(estimate.prompt.expert_misses >= 2 * 48 * 100);
    plan_free(plan);
}

static bool never_there(void *context, unit_number unit)
{
    (void)unit;
    ++*(uint64_t *)context;
    return false;
}

static void another_cache_may_decide(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    struct plan *plan = plan_for(&fake, &hardware, 12 * GIB);
    static struct routing routing;
    routing = make_routing(&fake_experts, 3, 1);
    uint64_t asked = 0;
    struct estimate estimate;
    struct estimate_source source = {next_pass, &routing, {never_there, &asked}};
    assert_ok(estimate_units(&estimate, plan, &fake.table, &hardware, &source, 0, &test_error));
    assert_int_equal(asked, 3 * 48 * 8);
    assert_int_equal(estimate.decode.expert_misses, asked);
    plan_free(plan);
}

static void nonsense_in_a_routing_is_refused(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    struct plan *plan = plan_for(&fake, &hardware, 3 * GIB);
    static struct routing routing;
    struct estimate estimate;
    routing = make_routing(&fake_experts, 2, 1);
    routing.experts = 500;
    assert_int_equal(estimate_units(&estimate, plan, &fake.table, &hardware,
                                    &(struct estimate_source){next_pass, &routing, {0}}, 0, &test_error),
                     HYPURA_ERROR_ARGUMENT);
    routing = make_routing(&fake_experts, 2, 1);
    routing.tokens = 0;
    assert_int_equal(estimate_units(&estimate, plan, &fake.table, &hardware,
                                    &(struct estimate_source){next_pass, &routing, {0}}, 0, &test_error),
                     HYPURA_ERROR_ARGUMENT);
    plan_free(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dense_streaming_takes_the_longer_of_reading_and_computing),
        cmocka_unit_test(a_resident_model_reads_nothing),
        cmocka_unit_test(the_cache_hits_as_a_cache_does),
        cmocka_unit_test(the_prediction_agrees_with_the_simulation),
        cmocka_unit_test(a_chunk_reads_every_streamed_byte_once),
        cmocka_unit_test(another_cache_may_decide),
        cmocka_unit_test(nonsense_in_a_routing_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
