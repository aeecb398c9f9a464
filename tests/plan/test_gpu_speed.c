/* How fast devices multiply in prompts, and in how many parts these pass several devices. */
#include "gpu_card.h"

#include <math.h>

/* Long parts cost less per row. More groups keep all devices at work with fewer parts. */
static void prompts_pass_in_few_long_parts(void **state)
{
    (void)state;
    struct plan_gpu parts[2] = {{.taken = 20}, {.taken = 20}};
    struct plan_gpu plan = {.part_count = 2, .parts = parts, .pace = {.row_seconds = 1e-4, .unpacked = 1}};
    plan.groups = 4;
    assert_int_equal(plan_gpu_parts(&plan, 2048), 2);
    assert_int_equal(plan_gpu_parts(&plan, 300), 1);
    plan.groups = 1;
    plan.pace.unpacked = 0; /* then short parts cost little */
    assert_in_range(plan_gpu_parts(&plan, 2048), 4, 6);
    plan.groups = 4;
    plan.pace.way_seconds = 20e-3; /* a third part hides the way */
    assert_true(plan_gpu_parts(&plan, 2048) > 2);
    parts[1].taken = 0; /* one device */
    plan.groups = 1;
    assert_int_equal(plan_gpu_parts(&plan, 2048), 1);
}

/* What was measured on two H100 with 24 layers of Mixtral's geometry: its experts have half as many tokens in a part of
 * half as many rows, and more of their tiles are empty. So two parts are faster than four, in one run or two. */
static void experts_need_long_parts(void **state)
{
    (void)state;
    const struct hardware_gpu card = {.memory_bytes_per_second = 2.96e12,
                                      .multiply_adds_per_second = 196e12,
                                      .info = {.panels = true, .cooperative_matrix = true}};
    struct plan_gpu parts[2] = {{.taken = 12}, {.taken = 12}};
    struct plan_gpu plan = {.part_count = 2,
                            .parts = parts,
                            .pace = {.row_seconds = 5.1e-6,
                                     .way_seconds = 35e-6,
                                     .way_row_seconds = 0.8e-6,
                                     .panels = true,
                                     .kept = 0.95,
                                     .expert_elements = 12 * 176e6,
                                     .experts = 8,
                                     .used = 2,
                                     .expert_speed = plan_gpu_expert_speed(&card, 0.95)}};
    for (plan.groups = 1; plan.groups <= 2; plan.groups++)
        assert_int_equal(plan_gpu_parts(&plan, 2048), 2);
}

/* Panels need many rows to be fast. Without them, the length was not measured, so it makes no difference. */
static void panels_need_long_batches(void **state)
{
    (void)state;
    struct hardware_gpu device = card(1);
    const double plain = plan_gpu_batch_speed(&device, 2048);
    assert_true(plain == plan_gpu_batch_speed(&device, 300) && plain == plan_gpu_tile_speed(&device));
    device.info.panels = true;
    double before = plan_gpu_batch_speed(&device, 4096);
    assert_true(before == plain);
    for (double rows = 2000; rows > 256; rows /= 1.3) {
        const double speed = plan_gpu_batch_speed(&device, rows);
        assert_true(speed < before && speed > plain / 3);
        before = speed;
    }
    assert_true(plan_gpu_tile_speed(&device) < plain);
}

/* With few tokens per expert, tiles are partly empty, and weights are unpacked for few tokens. */
static void experts_with_few_tokens_take_longer_per_token(void **state)
{
    (void)state;
    const double elements = 1e6, experts = 128;
    struct hardware_gpu device = card(1);
    for (int cooperative = 0; cooperative < 2; cooperative++) {
        device.info.cooperative_matrix = cooperative;
        const double ideal = elements / plan_gpu_tile_speed(&device);
        const struct plan_expert_speed speed = plan_gpu_expert_speed(&device, 0);
        double most = INFINITY;
        for (double each = 1; each < 5000; each *= 4) {
            const double seconds = plan_gpu_experts_seconds(&speed, elements, each * experts, experts, each);
            const double per_token = seconds / (each * experts);
            assert_true(per_token > ideal && per_token < most);
            most = per_token;
        }
        assert_true(most < 1.3 * ideal);
    }
    const struct plan_expert_speed speed = plan_gpu_expert_speed(&device, 0);
    assert_true(plan_gpu_experts_seconds(&speed, elements, 0, 0, 0) == 0);
}

/* With many tokens, panels are faster than tiles; the fewer there are, the more it matters whether they are kept. */
static void panels_are_faster_for_experts_with_many_tokens(void **state)
{
    (void)state;
    const double elements = 1e6, experts = 8;
    struct hardware_gpu device = card(1);
    device.info.cooperative_matrix = device.info.panels = true;
    device.memory_bytes_per_second *= 2; /* reading does not bind */
    struct plan_expert_speed tiles = plan_gpu_expert_speed(&device, 0);
    const struct plan_expert_speed fresh = tiles, kept = plan_gpu_expert_speed(&device, 1);
    tiles.panels = 0;
    const struct {
        double each;
        bool fresh, kept; /* whether they are faster */
    } cases[] = {{32, false, false}, {100, false, true}, {256, true, true}, {1024, true, true}};
    double gain = INFINITY;
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const double each = cases[i].each, choices = each * experts;
        const double from_tiles = plan_gpu_experts_seconds(&tiles, elements, choices, experts, each);
        const double from_fresh = plan_gpu_experts_seconds(&fresh, elements, choices, experts, each);
        const double from_kept = plan_gpu_experts_seconds(&kept, elements, choices, experts, each);
        assert_int_equal(from_fresh < from_tiles, cases[i].fresh);
        assert_int_equal(from_kept < from_tiles, cases[i].kept);
        if (!cases[i].fresh)
            assert_true(from_fresh == from_tiles);
        if (cases[i].kept) {
            assert_true(from_fresh / from_kept < gain);
            gain = from_fresh / from_kept;
        }
    }
    assert_true(gain > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_pass_in_few_long_parts),
        cmocka_unit_test(experts_need_long_parts),
        cmocka_unit_test(panels_need_long_batches),
        cmocka_unit_test(experts_with_few_tokens_take_longer_per_token),
        cmocka_unit_test(panels_are_faster_for_experts_with_many_tokens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
