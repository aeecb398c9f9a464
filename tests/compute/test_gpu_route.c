/* A router's matrix and the choice that follows it, in one launch. */
#include "gpu_product.h"

#include "compute/vulkan/gpu_private.h"
#include "model/model.h"

struct routing {
    enum tensor_type type;
    uint32_t columns, experts, used, tokens, groups, chunk;
    int gate;
    bool normed, biased;
};

#define ROUTED_FLOATS(r) ((r)->tokens * ((r)->experts + 6 * (r)->used))

/* Two routers, of which the second reads the weights of the first's choice; twice. Returns all that they write. */
static float *run_routers(struct gpu *gpu, const struct routing *r)
{
    struct random random;
    random_seed(&random, 33);
    const uint32_t choices = r->tokens * r->used;
    struct product first = product_create(gpu, &random, r->type, r->experts, r->columns);
    struct product second = product_create(gpu, &random, TENSOR_F32, r->experts, r->used);
    float *values[] = {gpu_test_floats(&random, r->tokens * r->columns), gpu_test_floats(&random, r->columns),
                       gpu_test_floats(&random, r->experts), gpu_test_floats(&random, ROUTED_FLOATS(r))};
    const struct gpu_range in = gpu_test_range(gpu, values[0], r->tokens * r->columns * sizeof(float)),
                           norm = gpu_test_range(gpu, values[1], r->columns * sizeof(float)),
                           bias = gpu_test_range(gpu, values[2], r->experts * sizeof(float)),
                           logits = gpu_test_range(gpu, NULL, r->tokens * r->experts * sizeof(float)),
                           out = gpu_test_range(gpu, values[3], ROUTED_FLOATS(r) * sizeof(float)), none = {0};
    struct gpu_range parts[6];
    for (uint32_t i = 0; i < COUNT_OF(parts); i++)
        parts[i] = (struct gpu_range){out.buffer, (r->tokens * r->experts + i * choices) * sizeof(float)};
    const struct gpu_matmul jobs[] = {{.weights = first.matrix,
                                       .in = in,
                                       .out = out,
                                       .bias = r->biased ? bias : none,
                                       .norm = r->normed ? norm : none,
                                       .tokens = r->tokens,
                                       .in_stride = r->columns,
                                       .out_stride = r->experts,
                                       .epsilon = 1e-5f},
                                      {.weights = second.matrix,
                                       .in = parts[1],
                                       .out = logits,
                                       .tokens = r->tokens,
                                       .in_stride = r->used,
                                       .out_stride = r->experts}};
    struct gpu_router routers[2];
    for (uint32_t i = 0; i < 2; i++)
        routers[i] = (struct gpu_router){.logits = jobs[i].out,
                                         .selection_bias = r->biased ? bias : none,
                                         .expert_scales = r->biased ? bias : none,
                                         .ids = parts[2 * i],
                                         .weights = parts[2 * i + 1],
                                         .chunk_ids = r->chunk ? parts[4] : none,
                                         .chunk_weights = parts[5],
                                         .rows = r->tokens,
                                         .experts = r->experts,
                                         .used = r->used,
                                         .groups = r->groups,
                                         .groups_used = r->groups / 2,
                                         .chunk = r->chunk,
                                         .gate = r->gate,
                                         .normalise = true,
                                         .scale = 1.5f};
    for (int batch = 0; batch < 2; batch++) {
        gpu_begin(gpu);
        for (uint32_t i = 0; i < 2; i++) {
            gpu_route(gpu, &jobs[i], &routers[i]);
            gpu_barrier(gpu);
        }
        gpu_test_run(gpu);
    }
    float *all = gpu_test_take(gpu, out, ROUTED_FLOATS(r) * sizeof *all);
    const struct gpu_range ranges[] = {in, norm, bias, logits};
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        gpu_buffer_destroy(gpu, ranges[i].buffer);
    for (size_t i = 0; i < COUNT_OF(values); i++)
        free(values[i]);
    product_destroy(gpu, &first);
    product_destroy(gpu, &second);
    return all;
}

/* In a chain, the work group of the matrix that ends last makes the choice. */
static void routers_in_a_chain_change_no_bit(void **state)
{
    (void)gpu_or_skip(state);
    const struct routing routings[] = {
        {TENSOR_F32, 512, 128, 8, 1, .gate = ROUTER_SOFTMAX, .normed = true},
        {TENSOR_F32, 2880, 32, 4, 1, .gate = ROUTER_SOFTMAX_SELECTED, .biased = true},
        {TENSOR_BF16, 64, 8, 4, 2, .gate = ROUTER_SOFTMAX_SELECTED, .normed = true},
        {TENSOR_F16, 40, 14, 4, 2, .gate = ROUTER_SQRT_SOFTPLUS, .biased = true},
        {TENSOR_F32, 7168, 66, 4, 2, .gate = ROUTER_SOFTMAX, .normed = true, .biased = true},
        {TENSOR_F32, 256, 896, 16, 1, .gate = ROUTER_SIGMOID, .biased = true},
        {TENSOR_F16, 256, 256, 8, 2, .groups = 8, .gate = ROUTER_SIGMOID, .normed = true, .biased = true},
        {TENSOR_F32, 256, 64, 8, 1, .chunk = 2, .gate = ROUTER_SOFTMAX},
        {TENSOR_F16, 30, 16, 2, 1, .gate = ROUTER_SOFTMAX},
        {TENSOR_F32, 256, 64, 8, 3, .gate = ROUTER_SOFTMAX}};
    for (size_t i = 0; i < COUNT_OF(routings); i++) {
        const struct routing *r = &routings[i];
        const bool suits = r->tokens < 3 && r->columns % 8 == 0;
        float *outs[2];
        for (int chained = 0; chained < 2; chained++) {
            struct gpu *gpu;
            setenv("HYPURA_GPU_CHAINS", chained ? "1" : "0", 1);
            assert_ok(gpu_open(&gpu, &(struct gpu_options){.validate = gpu_test_layers}, &test_error));
            unsetenv("HYPURA_GPU_CHAINS");
            outs[chained] = run_routers(gpu, r);
            assert_int_equal(gpu->pipelines[KERNEL_matvec_router_F32] != NULL, chained && suits);
            assert_int_equal(gpu->pipelines[KERNEL_router] == NULL, chained && suits);
            assert_int_equal(gpu_validation_messages(gpu), 0);
            gpu_close(gpu);
        }
        if (memcmp(outs[0], outs[1], ROUTED_FLOATS(r) * sizeof(float)) != 0)
            fail_msg("%u of %u experts: the choice in a chain differs", r->used, r->experts);
        free(outs[0]);
        free(outs[1]);
    }
}

/* An error is kept until the batch is sent. */
static void refuses_too_many_experts(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    const struct gpu_range range = gpu_test_range(gpu, NULL, 4096);
    const struct gpu_router router = {
        .logits = range, .ids = range, .weights = range, .rows = 1, .experts = GPU_ROUTER_EXPERTS + 1, .used = 1};
    const struct gpu_matmul job = {.weights = {range, TENSOR_F32, router.experts, 1, 4},
                                   .in = range,
                                   .out = range,
                                   .tokens = 1,
                                   .in_stride = 1,
                                   .out_stride = router.experts};
    gpu_ticket ticket;
    gpu_begin(gpu);
    gpu_route(gpu, &job, &router);
    assert_int_equal(gpu_submit(gpu, &ticket, 0, &test_error), HYPURA_ERROR_UNSUPPORTED);
    gpu_buffer_destroy(gpu, range.buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(routers_in_a_chain_change_no_bit),
        cmocka_unit_test(refuses_too_many_experts),
    };
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
