#include "test.h"

#include "compute/compute.h"
#include "compute/cpu/gemm.h"

#include <math.h>
#include <string.h>

/* Matrix times matrix gives the bits of matrix times vector, also for sizes that do not divide evenly into tasks,
 * groups, panels, tiles and segments. test_kernels covers the rest. */

struct shape {
    enum tensor_type type;
    size_t rows, columns, tokens;
};

static const struct shape shapes[] = {
    {TENSOR_F32, 67, 2049, 199},   {TENSOR_F16, 67, 2049, 199},    {TENSOR_BF16, 67, 2049, 199},
    {TENSOR_Q4_0, 261, 2880, 261}, {TENSOR_Q4_0, 17, 14368, 13},   {TENSOR_Q4_1, 85, 1056, 37},
    {TENSOR_Q5_0, 85, 1056, 37},   {TENSOR_Q5_1, 85, 1056, 37},    {TENSOR_Q8_0, 40, 8224, 259},
    {TENSOR_IQ4_NL, 85, 1056, 37}, {TENSOR_MXFP4, 85, 2880, 37},   {TENSOR_Q2_K, 85, 1280, 37},
    {TENSOR_Q3_K, 85, 1280, 37},   {TENSOR_Q4_K, 261, 2816, 263},  {TENSOR_Q4_K, 17, 15360, 13},
    {TENSOR_Q5_K, 130, 1280, 61},  {TENSOR_Q6_K, 261, 2816, 197},  {TENSOR_IQ1_S, 85, 1280, 37},
    {TENSOR_IQ1_M, 85, 1280, 37},  {TENSOR_IQ2_XXS, 85, 1280, 37}, {TENSOR_IQ2_XS, 85, 1280, 37},
    {TENSOR_IQ2_S, 85, 1280, 37},  {TENSOR_IQ3_XXS, 85, 1280, 37}, {TENSOR_IQ3_S, 85, 1280, 37},
    {TENSOR_IQ4_XS, 85, 1280, 37}, {TENSOR_TQ1_0, 85, 1280, 37},   {TENSOR_TQ2_0, 85, 1280, 37},
    {TENSOR_NVFP4, 85, 2880, 37},  {TENSOR_NVFP4, 17, 14400, 13},
};

/* Every way to multiply panels on this machine, including those that the tables replace with faster ones. */
static const struct panel_multiplier *multipliers[8];
static panel_maker *const *makers[8];
static size_t multiplier_count;

static void find_multipliers(void)
{
#if defined(__x86_64__)
    if (compute_has_instructions(INSTRUCTIONS_AVX2)) {
        multipliers[multiplier_count++] = &panel_multiplier_avx2;
        makers[multiplier_count] = panel_makers_avx2;
        multipliers[multiplier_count++] = &panel_multiplier_avx2;
    }
    if (compute_has_instructions(INSTRUCTIONS_AVX_VNNI)) {
        multipliers[multiplier_count++] = &panel_multiplier_avx_vnni;
        makers[multiplier_count] = panel_makers_avx_vnni;
        multipliers[multiplier_count++] = &panel_multiplier_avx_vnni;
    }
    if (compute_has_instructions(INSTRUCTIONS_AVX512)) {
        multipliers[multiplier_count++] = &panel_multiplier_avx512;
        makers[multiplier_count] = panel_makers_avx512;
        multipliers[multiplier_count++] = &panel_multiplier_avx512;
    }
#elif defined(__aarch64__)
    if (compute_has_instructions(INSTRUCTIONS_NEON))
        multipliers[multiplier_count++] = &panel_multiplier_neon;
    if (cpu_has_i8mm())
        multipliers[multiplier_count++] = &panel_multiplier_i8mm;
#endif
}

static uint8_t *random_weights(struct random *random, const struct shape *shape, uint64_t row_bytes)
{
    const struct tensor_type_info *info = tensor_type_info(shape->type);
    uint8_t *data = malloc(shape->rows * row_bytes);
    assert_non_null(data);
    for (size_t b = 0; b < shape->rows * row_bytes / info->block_bytes; b++) {
        uint8_t *block = data + b * info->block_bytes;
        float values[256];
        bool finite;
        do {
            finite = true;
            for (size_t i = 0; i < info->block_bytes; i++)
                block[i] = (uint8_t)(random_next(random) >> 32);
            compute_dequantize(shape->type, block, values, info->block_size);
            for (size_t i = 0; i < info->block_size; i++)
                finite &= fabsf(values[i]) < 1e6f;
        } while (!finite);
    }
    return data;
}

static void multiply(const struct shape *shape, const uint8_t *weights, uint64_t row_bytes, const float *input,
                     float *output, enum instruction_set set, size_t threads, size_t batch)
{
    struct compute *compute;
    struct activation *activation;
    /* With several threads, scratch memory has room for a third of the batch, so tasks are small. */
    struct compute_limits limits = {batch / 3 + 1, 1, 32, 32};
    assert_ok(compute_create_limited(&compute, threads, set, threads > 1 ? &limits : NULL, &test_error));
    assert_ok(activation_create(&activation, batch, shape->columns, &test_error));
    for (size_t first = 0; first < shape->tokens; first += batch) {
        size_t tokens = MIN(batch, shape->tokens - first);
        activation_set(activation, input + first * shape->columns, tokens, shape->columns, shape->columns);
        compute_matmul(compute,
                       &(struct matmul){.weights = {weights, shape->type, shape->rows, shape->columns, row_bytes},
                                        .input = activation,
                                        .tokens = tokens,
                                        .output = output + first * shape->rows,
                                        .output_stride = shape->rows},
                       1);
    }
    activation_destroy(activation);
    compute_destroy(compute);
}

/* Multiplies all tokens at once in whole tasks, without any threshold. */
static void multiply_panels(const struct shape *shape, const uint8_t *weights, uint64_t row_bytes, const float *input,
                            float *output, size_t index)
{
    struct activation *activation;
    assert_ok(activation_create(&activation, shape->tokens, shape->columns, &test_error));
    activation_set(activation, input, shape->tokens, shape->columns, shape->columns);
    const struct kernel_table *kernels = kernel_table_get(compute_best_instructions());
    activation_prepare_rows(activation, kernels, kernels->types[shape->type].activation, 0, shape->tokens);
    struct matmul job = {.weights = {weights, shape->type, shape->rows, shape->columns, row_bytes},
                         .input = activation,
                         .tokens = shape->tokens,
                         .output = output,
                         .output_stride = shape->rows};
    void *scratch = aligned_alloc(64, gemm_panels_scratch_bytes(GEMM_TASK_TOKENS));
    assert_non_null(scratch);
    for (size_t row = 0; row < shape->rows; row += GEMM_TASK_ROWS)
        for (size_t token = 0; token < shape->tokens; token += GEMM_TASK_TOKENS)
            gemm_by_panels(multipliers[index], makers[index], &job, row, MIN(shape->rows - row, (size_t)GEMM_TASK_ROWS),
                           token, MIN(shape->tokens - token, (size_t)GEMM_TASK_TOKENS), scratch);
    free(scratch);
    activation_destroy(activation);
}

static void compare(const struct shape *shape, const float *output, const float *expected, const char *how)
{
    for (size_t j = 0; j < shape->rows * shape->tokens; j++)
        if (!(output[j] == expected[j]))
            fail_msg("%s by %s, %zu x %zu: row %zu of token %zu is %a, expected %a",
                     tensor_type_info(shape->type)->name, how, shape->rows, shape->columns, j % shape->rows,
                     j / shape->rows, (double)output[j], (double)expected[j]);
}

/* Whether a token has the greatest possible quants, so that partial sums exceed 16 bits. The first tile has no such
 * token. */
static bool is_loud(size_t token)
{
    return token % 48 >= TILE_TOKENS && token % 7 == 3;
}

static void products_of_any_size_have_the_bits_of_vectors(void **state)
{
    (void)state;
    struct random random;
    find_multipliers();
    random_seed(&random, 11);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        const struct shape *shape = &shapes[i];
        uint64_t row_bytes;
        assert_true(tensor_row_bytes(shape->type, shape->columns, &row_bytes));
        uint8_t *weights = random_weights(&random, shape, row_bytes);
        size_t outputs = shape->rows * shape->tokens;
        float *input = malloc(shape->tokens * shape->columns * sizeof *input);
        float *vectors = malloc(outputs * sizeof *vectors), *output = malloc(outputs * sizeof *output);
        assert_true(input && vectors && output);
        for (size_t j = 0; j < shape->tokens * shape->columns; j++)
            input[j] = is_loud(j / shape->columns) ? j % 256 < 160 ? 1.0f : -1.0f : (float)random_normal(&random);
        multiply(shape, weights, row_bytes, input, vectors, compute_best_instructions(), 2, 1);
        for (int set = INSTRUCTIONS_PLAIN + 1; set <= INSTRUCTIONS_NEON; set++) {
            if (!compute_has_instructions((enum instruction_set)set))
                continue;
            /* Many tokens and few. The remainders cover other small numbers. */
            const size_t batches[] = {shape->tokens, shape->tokens / 2, FEW_MOST_TOKENS, 7, 2};
            for (size_t b = 0; b < COUNT_OF(batches); b++) {
                memset(output, 0xff, outputs * sizeof *output);
                multiply(shape, weights, row_bytes, input, output, (enum instruction_set)set, 1 + b % 2, batches[b]);
                compare(shape, output, vectors, compute_instructions_name((enum instruction_set)set));
            }
        }
        for (size_t m = 0; m < multiplier_count && panel_kind(shape->type) != PANEL_NONE; m++) {
            memset(output, 0xff, outputs * sizeof *output);
            multiply_panels(shape, weights, row_bytes, input, output, m);
            compare(shape, output, vectors, "panels");
        }
        free(weights);
        free(input);
        free(vectors);
        free(output);
    }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(products_of_any_size_have_the_bits_of_vectors)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
