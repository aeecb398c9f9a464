/* Plans for the embedded model. */
#include "embedded.h"

#include <stdlib.h>
#include <string.h>

static uint64_t kv_bytes(const void *context, uint32_t positions, uint32_t sequences, enum tensor_type kv_type)
{
    (void)context;
    (void)kv_type;
    return (uint64_t)positions * sequences * 2048;
}

static uint64_t scratch_bytes(const void *context, uint32_t chunk, uint32_t positions)
{
    (void)context;
    (void)positions;
    return chunk * (uint64_t)8192;
}

static struct plan_request request_for(uint64_t budget)
{
    return (struct plan_request){.budget = budget,
                                 .overhead = 2 * MIB,
                                 .positions = 256,
                                 .chunk = 16,
                                 .kv_type = TENSOR_F16,
                                 .working_set = {kv_bytes, scratch_bytes, NULL}};
}

static void every_unit_has_a_place_at_every_budget(void **state)
{
    (void)state;
    struct hardware hardware = machine();
    struct plan_request request = request_for(64 * MIB);
    struct plan *plan;
    assert_ok(plan_make(&plan, model, steps, &hardware, &request, &test_error));
    assert_int_equal(plan->mode, PLAN_FULL_RESIDENT);
    assert_int_equal(plan->unit_count, model_unit_count(model));
    assert_false(plan->embedding_rows);
    uint64_t footprint = 0, smallest = plan->smallest_budget;
    for (unit_number unit = 0; unit < plan->unit_count; unit++) {
        assert_int_equal(plan->tiers[unit], TIER_RAM);
        footprint += plan_unit_footprint(model_unit(model, unit));
    }
    assert_int_equal(footprint, plan->resident_bytes);
    assert_true(footprint >= model_bytes(model));
    plan_free(plan);

    struct plan_table table;
    assert_ok(plan_table_make(&table, model, steps, &hardware, &test_error));
    bool seen[4] = {false}, cut = false;
    for (uint64_t budget = smallest; budget < 32 * MIB; budget += 100000) {
        request.budget = budget;
        assert_ok(plan_make(&plan, model, steps, &hardware, &request, &test_error));
        assert_int_equal(plan->smallest_budget, smallest);
        seen[plan->mode] = true;
        uint64_t largest = 0, pinned = 0;
        for (unit_number unit = 0; unit < plan->unit_count; unit++) {
            uint64_t bytes = plan_unit_footprint(model_unit(model, unit));
            if (plan->tiers[unit] == TIER_RAM)
                pinned += bytes;
            else if (model_unit(model, unit)->kind == UNIT_EXPERT)
                assert_true(plan->expert_cache_bytes >= 2 * bytes);
            else if (plan_in_ring(plan, unit))
                for (uint32_t piece = 0; piece < table.units[unit].cut.count; piece++) {
                    uint64_t part = plan_piece_footprint(&table.units[unit], piece);
                    bool streams = plan->streams[table.units[unit].cut.first + piece];
                    largest = MAX(largest, streams ? part : 0);
                    cut |= streams && part < bytes;
                    pinned += streams ? 0 : part;
                }
            else
                assert_true(unit == model_tensor(model, ROLE_TOKEN_EMBEDDING) && plan->embedding_rows);
        }
        assert_int_equal(pinned, plan->resident_bytes);
        assert_true(plan->ring_bytes >= 2 * largest);
        assert_true(plan->overhead_bytes + plan->resident_bytes + plan->pool_bytes + plan->table_bytes +
                        plan->kv_bytes + plan->scratch_bytes <=
                    budget);
        plan_free(plan);
    }
    plan_table_free(&table);
    assert_true(seen[PLAN_FULL_RESIDENT] && seen[PLAN_EXPERT_STREAMING] && seen[PLAN_FULL_STREAMING] && cut);
}

/* Before the first run, the use of experts is unknown, so the speed is a range: from even use to typical use. After a
 * run, it is one number. */
static void unknown_routing_is_a_range(void **state)
{
    (void)state;
    struct plan *plan;
    struct hardware hardware = machine();
    struct plan_request request = request_for(8 * MIB);
    uint64_t *uses = calloc(model_unit_count(model), sizeof *uses);
    assert_ok(plan_make(&plan, model, steps, &hardware, &request, &test_error));
    assert_true(plan->predicted_hit_rate < 1);
    assert_true(plan->even_tokens_per_second < plan->predicted_tokens_per_second);
    plan_free(plan);
    for (unit_number u = 0; u < model_unit_count(model); u++)
        uses[u] = model_unit(model, u)->kind == UNIT_EXPERT;
    request.uses = uses;
    assert_ok(plan_make(&plan, model, steps, &hardware, &request, &test_error));
    assert_true(plan->even_tokens_per_second >= plan->predicted_tokens_per_second); /* they are equal */
    plan_free(plan);
    request = request_for((uint64_t)1 << 40);
    assert_ok(plan_make(&plan, model, steps, &hardware, &request, &test_error));
    assert_true(plan->even_tokens_per_second >= plan->predicted_tokens_per_second);
    plan_free(plan);
    free(uses);
}

static void one_more_gigabyte_is_worth_something(void **state)
{
    (void)state;
    struct hardware hardware = machine();
    struct plan_request request = request_for(8 * MIB);
    struct plan *plan;
    assert_ok(plan_make(&plan, model, steps, &hardware, &request, &test_error));
    double now = plan->predicted_tokens_per_second, more, same;
    plan_free(plan);
    assert_ok(plan_tokens_per_second_with(model, steps, &hardware, &request, 0, &same, &test_error));
    assert_true(same >= now && same <= now);
    assert_ok(plan_tokens_per_second_with(model, steps, &hardware, &request, (int64_t)1 << 30, &more, &test_error));
    assert_true(more > now);
    assert_int_equal(plan_tokens_per_second_with(model, steps, &hardware, &request, INT64_MIN, &more, &test_error),
                     HYPURA_ERROR_MEMORY);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_unit_has_a_place_at_every_budget),
        cmocka_unit_test(unknown_routing_is_a_range),
        cmocka_unit_test(one_more_gigabyte_is_worth_something),
    };
    return cmocka_run_group_tests(tests, open_model, close_model);
}
