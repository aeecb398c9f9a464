/* Weights times activations on the GPU, for every type that it supports, compared with sums in double precision of the
 * values that plain C decodes. */
#include "gpu_product.h"

#include "compute/vulkan/gpu_private.h"

/* The errors of a sum of floats in any order, and of inputs rounded to half precision, as for many tokens. */
#define VECTOR_ERROR 5e-6
#define HALF_ERROR 1e-3
/* The error of inputs rounded to 8 bits, compared with exact inputs, and with inputs rounded here: on a device with
 * inexact division, a number between two others may be rounded the other way. */
#define BYTES_ERROR 1e-2
#define ROUNDING_ERROR 5e-4

/* Whether there is a kernel that multiplies weights of this type as bytes. */
static bool has_bytes(enum tensor_type type)
{
    static const enum tensor_type bytes[] = {TENSOR_Q8_0, TENSOR_Q4_0,   TENSOR_Q4_1,  TENSOR_Q5_0,
                                             TENSOR_Q5_1, TENSOR_IQ4_NL, TENSOR_MXFP4, TENSOR_IQ4_XS,
                                             TENSOR_Q4_K, TENSOR_Q5_K,   TENSOR_Q6_K};
    for (size_t i = 0; i < COUNT_OF(bytes); i++)
        if (type == bytes[i])
            return true;
    return false;
}

/* Rounds inputs in blocks of 32, as the kernels for few tokens do if they multiply weights of this type as bytes. */
static bool round_inputs(const struct gpu *gpu, enum tensor_type type, float *in, uint32_t rows, uint32_t columns,
                         uint32_t stride)
{
    if (!gpu_get_info(gpu)->int8_dot || !has_bytes(type))
        return false;
    for (uint32_t block = 0; block < rows * (columns / 32); block++) {
        float *x = in + block / (columns / 32) * stride + block % (columns / 32) * 32, most = 0;
        for (uint32_t i = 0; i < 32; i++)
            most = fmaxf(most, fabsf(x[i]));
        for (uint32_t i = 0; i < 32 && most > 0; i++)
            x[i] = (fmaf(x[i], 127 / most, 12582912) - 12582912) * (most / 127);
    }
    return true;
}

static double rounded_bound(const struct gpu *gpu, double bound)
{
    return gpu_get_info(gpu)->kind == GPU_CPU ? bound : ROUNDING_ERROR;
}

/* Checks one job with the given options. Its rows of inputs and outputs are spaced apart. */
static void check(struct gpu *gpu, struct random *random, enum tensor_type type, uint32_t rows, uint32_t columns,
                  uint32_t tokens, bool with_bias, bool accumulate, double bound)
{
    struct product product = product_create(gpu, random, type, rows, columns);
    uint32_t in_stride = columns + (tokens > 1 ? 4 : 0), out_stride = rows + 3;
    size_t in_count = (size_t)tokens * in_stride, out_count = (size_t)tokens * out_stride;
    float *in = gpu_test_floats(random, in_count), *bias = gpu_test_floats(random, rows);
    struct gpu_range input = gpu_test_range(gpu, in, in_count * sizeof(float));
    float *before = gpu_test_floats(random, out_count), *expected = malloc(out_count * sizeof(float));
    assert_non_null(expected);
    memcpy(expected, before, out_count * sizeof(float));
    if (tokens <= GPU_VECTOR_TOKENS && round_inputs(gpu, type, in, tokens, columns, in_stride))
        bound = rounded_bound(gpu, bound);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t r = 0; r < rows; r++) {
            float *into = &expected[(size_t)t * out_stride + r];
            *into = (float)(dot(product.values + (size_t)r * columns, in + (size_t)t * in_stride, columns) +
                            (with_bias ? (double)bias[r] : 0) + (accumulate ? (double)*into : 0));
        }
    struct gpu_matmul job = {.weights = product.matrix,
                             .in = input,
                             .out = gpu_test_range(gpu, before, out_count * sizeof(float)),
                             .tokens = tokens,
                             .in_stride = in_stride,
                             .out_stride = out_stride,
                             .accumulate = accumulate};
    struct gpu_range biases = gpu_test_range(gpu, bias, rows * sizeof(float));
    if (with_bias)
        job.bias = biases;
    gpu_begin(gpu);
    gpu_matmul(gpu, &job, 1);
    gpu_test_run(gpu);
    float *out = gpu_test_take(gpu, job.out, out_count * sizeof(float));
    double error = gpu_test_error(out, expected, out_count);
    if (!(error < bound))
        fail_msg("%s, %u x %u times %u: the error is %g", tensor_type_info(type)->name, rows, columns, tokens, error);
    gpu_buffer_destroy(gpu, job.in.buffer);
    gpu_buffer_destroy(gpu, biases.buffer);
    product_destroy(gpu, &product);
    free(in);
    free(bias);
    free(before);
    free(expected);
    free(out);
}

/* Whether to test all kernels for few tokens of this type. A device that is a CPU takes seconds to compile the long
 * kernels for eight tokens, so similar types are skipped. */
static bool has_many_kernels(enum tensor_type type)
{
    static const enum tensor_type alike[] = {TENSOR_Q4_1,  TENSOR_Q5_0,   TENSOR_Q5_1,    TENSOR_IQ4_NL,
                                             TENSOR_MXFP4, TENSOR_Q5_K,   TENSOR_IQ1_M,   TENSOR_IQ2_XXS,
                                             TENSOR_IQ2_S, TENSOR_IQ2_XS, TENSOR_IQ3_XXS, TENSOR_TQ2_0};
    for (size_t i = 0; i < COUNT_OF(alike); i++)
        if (type == alike[i])
            return false;
    return true;
}

static void multiplies_few_tokens(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 21);
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        assert_true(gpu_supports(gpu, types[i]));
        check(gpu, &random, types[i], 37, 1024, 1, false, false, VECTOR_ERROR);
        check(gpu, &random, types[i], 9, 256, 3, true, true, VECTOR_ERROR);
        if (has_many_kernels(types[i]))
            check(gpu, &random, types[i], 5, 512, 8, true, false, VECTOR_ERROR);
    }
    check(gpu, &random, TENSOR_Q8_0, 2100, 4608, 1, false, false, VECTOR_ERROR);
    check(gpu, &random, TENSOR_Q4_0, 3, 32, 2, false, false, VECTOR_ERROR);
    for (int type = 0; type < TENSOR_TYPE_COUNT; type++)
        assert_int_equal(gpu_supports(gpu, (enum tensor_type)type), compute_supports((enum tensor_type)type));
}

/* As on a device without an instruction for products of bytes. */
static void multiplies_as_floats_too(void **state)
{
    struct gpu *gpu = gpu_or_skip(state), *floats = NULL;
    struct gpu_info infos[8];
    size_t count;
    struct random random;
    random_seed(&random, 27);
    assert_ok(gpu_list(infos, COUNT_OF(infos), &count, NULL, &test_error));
    for (uint32_t i = 0; i < count && i < COUNT_OF(infos) && !floats; i++)
        if (strcmp(infos[i].name, gpu_get_info(gpu)->name) == 0)
            assert_ok(gpu_open(&floats, &(struct gpu_options){.index = i, .validate = gpu_test_layers, .floats = true},
                               &test_error));
    assert_non_null(floats);
    for (size_t i = 0; i < COUNT_OF(types); i++)
        if (has_bytes(types[i]))
            check(floats, &random, types[i], 9, 512, i % 2 ? 1 : 3, true, false, VECTOR_ERROR);
    assert_int_equal(gpu_validation_messages(floats), 0);
    gpu_close(floats);
}

/* ---- fused norms and gates --------------------------------------------------------------------------------------- */

static double silu(double a)
{
    return a / (1 + exp(-a));
}

/* Two matrices, with normed inputs, and their gated activation in one launch. */
static void check_gated(struct gpu *gpu, struct random *random, enum tensor_type type, uint32_t rows, uint32_t columns,
                        uint32_t tokens, bool normed)
{
    struct product products[2];
    float *in = gpu_test_floats(random, tokens * columns), *weights = gpu_test_floats(random, columns);
    float *biases[2], *expected = malloc(tokens * rows * sizeof *expected);
    assert_non_null(expected);
    struct gpu_matmul jobs[2];
    const struct gpu_range input = gpu_test_range(gpu, in, tokens * columns * sizeof *in),
                           norm = gpu_test_range(gpu, weights, columns * sizeof *weights);
    for (int i = 0; i < 2; i++) {
        products[i] = product_create(gpu, random, type, rows, columns);
        biases[i] = gpu_test_floats(random, rows);
        jobs[i] = (struct gpu_matmul){.weights = products[i].matrix,
                                      .in = input,
                                      .out = gpu_test_range(gpu, NULL, tokens * rows * sizeof(float)),
                                      .bias = gpu_test_range(gpu, biases[i], rows * sizeof(float)),
                                      .tokens = tokens,
                                      .in_stride = columns,
                                      .out_stride = rows,
                                      .epsilon = 1e-5f};
        if (normed)
            jobs[i].norm = norm;
    }
    gpu_begin(gpu);
    assert_true(gpu_matmul_glu(gpu, jobs, &(struct gpu_glu_kind){.kind = GLU_SILU}));
    gpu_test_run(gpu);
    float *out = gpu_test_take(gpu, jobs[0].out, tokens * rows * sizeof(float));

    double factors[GPU_VECTOR_TOKENS];
    for (uint32_t t = 0; t < tokens; t++) {
        float *x = in + t * columns;
        factors[t] = normed ? 1 / sqrt(dot(x, x, columns) / columns + 1e-5) : 1;
        for (uint32_t c = 0; c < columns && normed; c++)
            x[c] *= weights[c];
    }
    bool rounded = round_inputs(gpu, type, in, tokens, columns, columns);
    for (uint32_t t = 0; t < tokens; t++)
        for (uint32_t r = 0; r < rows; r++) {
            double sums[2];
            for (int i = 0; i < 2; i++)
                sums[i] = dot(products[i].values + (size_t)r * columns, in + t * columns, columns) * factors[t] +
                          (double)biases[i][r];
            expected[t * rows + r] = (float)(silu(sums[0]) * sums[1]);
        }
    double error = gpu_test_error(out, expected, tokens * rows);
    if (!(error < (rounded ? rounded_bound(gpu, VECTOR_ERROR) : VECTOR_ERROR)))
        fail_msg("gated, %s, %u x %u times %u: the error is %g", tensor_type_info(type)->name, rows, columns, tokens,
                 error);
    for (int i = 0; i < 2; i++) {
        product_destroy(gpu, &products[i]);
        gpu_buffer_destroy(gpu, jobs[i].bias.buffer);
        free(biases[i]);
    }
    gpu_buffer_destroy(gpu, jobs[1].out.buffer);
    gpu_buffer_destroy(gpu, input.buffer);
    gpu_buffer_destroy(gpu, norm.buffer);
    free(in);
    free(weights);
    free(expected);
    free(out);
}

static void norms_inputs_and_gates_outputs(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 28);
    const enum tensor_type some[] = {TENSOR_F16, TENSOR_Q4_K, TENSOR_Q8_0, TENSOR_MXFP4, TENSOR_Q6_K};
    for (size_t i = 0; i < COUNT_OF(some); i++) {
        check_gated(gpu, &random, some[i], 37, 1024, 1, true);
        check_gated(gpu, &random, some[i], 6, 2304, 2, i % 2 != 0);
    }
    /* Rows that share a subgroup. */
    check_gated(gpu, &random, TENSOR_Q8_0, 21, 96, 1, true);
    check_gated(gpu, &random, TENSOR_Q4_K, 9, 256, 2, true);
    /* With two tokens, more columns than are rounded at once. */
    check_gated(gpu, &random, TENSOR_Q8_0, 5, 24576, 2, true);
}

/* Neighbouring jobs that norm the same inputs with different epsilons do not share a launch. */
static void keeps_epsilons_apart(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 29);
    const uint32_t rows = 20, columns = 256;
    struct product product = product_create(gpu, &random, TENSOR_F16, rows, columns);
    float *in = gpu_test_floats(&random, columns), *weights = gpu_test_floats(&random, columns), *outs[2][2];
    for (uint32_t c = 0; c < columns; c++)
        in[c] *= 1e-2f;
    const struct gpu_range input = gpu_test_range(gpu, in, columns * sizeof *in),
                           norm = gpu_test_range(gpu, weights, columns * sizeof *weights);
    for (int together = 0; together < 2; together++) {
        struct gpu_matmul jobs[2];
        gpu_begin(gpu);
        for (int i = 0; i < 2; i++) {
            jobs[i] = (struct gpu_matmul){.weights = product.matrix,
                                          .in = input,
                                          .norm = norm,
                                          .out = gpu_test_range(gpu, NULL, rows * sizeof(float)),
                                          .tokens = 1,
                                          .in_stride = columns,
                                          .out_stride = rows,
                                          .epsilon = i == 0 ? 1e-5f : 1e-3f};
            if (!together)
                gpu_matmul(gpu, &jobs[i], 1);
        }
        if (together)
            gpu_matmul(gpu, jobs, 2);
        gpu_test_run(gpu);
        for (int i = 0; i < 2; i++)
            outs[together][i] = gpu_test_take(gpu, jobs[i].out, rows * sizeof(float));
    }
    assert_true(gpu_test_error(outs[0][0], outs[0][1], rows) > 1e-2);
    for (int i = 0; i < 2; i++) {
        assert_memory_equal(outs[0][i], outs[1][i], rows * sizeof(float));
        free(outs[0][i]);
        free(outs[1][i]);
    }
    product_destroy(gpu, &product);
    gpu_buffer_destroy(gpu, input.buffer);
    gpu_buffer_destroy(gpu, norm.buffer);
    free(in);
    free(weights);
}

static double tile_error(struct gpu *gpu, enum tensor_type type)
{
    return gpu_get_info(gpu)->cooperative_matrix && type != TENSOR_F32 ? HALF_ERROR : VECTOR_ERROR;
}

/* Full tiles, and edges of all kinds. */
static void multiplies_many_tokens(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 26);
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        check(gpu, &random, types[i], 70, 512, 41, true, false, tile_error(gpu, types[i]));
        if (gpu_get_info(gpu)->kind != GPU_CPU || i % 3 == 0)
            check(gpu, &random, types[i], 129, 256, 130, false, true, tile_error(gpu, types[i]));
    }
    check(gpu, &random, TENSOR_Q4_0, 3, 96, 9, false, false, tile_error(gpu, TENSOR_Q4_0));
    check(gpu, &random, TENSOR_F16, 65, 24, 64, false, false, tile_error(gpu, TENSOR_F16));
    check(gpu, &random, TENSOR_F16, 5, 27, 12, false, false, VECTOR_ERROR);
    /* Floats: few rows, whose sums are sliced, and many. */
    check(gpu, &random, TENSOR_F32, 128, 576, 65, true, false, VECTOR_ERROR);
    check(gpu, &random, TENSOR_F32, 1, 260, 40, false, true, VECTOR_ERROR);
    check(gpu, &random, TENSOR_F32, 513, 132, 33, true, false, VECTOR_ERROR);
}

/* A prompt in two batches gives the same bits as in one. */
static void parts_of_prompts_change_no_bit(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 30);
    const uint32_t columns = 320, tokens = 80, first = 45;
    const struct {
        enum tensor_type type;
        uint32_t rows;
    } matrices[] = {{TENSOR_F32, 100}, {TENSOR_F32, 520}, {TENSOR_F16, 100}, {TENSOR_Q8_0, 100}};
    float *in = gpu_test_floats(&random, (size_t)columns * tokens);
    const struct gpu_range input = gpu_test_range(gpu, in, (size_t)columns * tokens * sizeof *in);
    for (size_t i = 0; i < COUNT_OF(matrices); i++) {
        const uint32_t rows = matrices[i].rows;
        const size_t bytes = (size_t)rows * tokens * sizeof(float);
        struct product product = product_create(gpu, &random, matrices[i].type, rows, columns);
        float *outs[2];
        for (int parts = 0; parts < 2; parts++) {
            const struct gpu_range out = gpu_test_range(gpu, NULL, bytes);
            struct gpu_matmul job = {
                .weights = product.matrix, .in = input, .out = out, .in_stride = columns, .out_stride = rows};
            gpu_begin(gpu);
            job.tokens = parts ? first : tokens;
            gpu_matmul(gpu, &job, 1);
            job.in.offset = (uint64_t)first * columns * sizeof(float);
            job.out.offset = (uint64_t)first * rows * sizeof(float);
            job.tokens = tokens - first;
            if (parts)
                gpu_matmul(gpu, &job, 1);
            gpu_test_run(gpu);
            outs[parts] = gpu_test_take(gpu, out, bytes);
        }
        if (memcmp(outs[0], outs[1], bytes) != 0)
            fail_msg("%s, %u rows: parts differ", tensor_type_info(matrices[i].type)->name, rows);
        free(outs[0]);
        free(outs[1]);
        product_destroy(gpu, &product);
    }
    gpu_buffer_destroy(gpu, input.buffer);
    free(in);
}

/* Numbers of columns that wide loads do not divide. */
static void multiplies_odd_columns(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 22);
    const enum tensor_type plain[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16};
    for (size_t i = 0; i < COUNT_OF(plain); i++) {
        check(gpu, &random, plain[i], 6, 1, 1, false, false, VECTOR_ERROR);
        check(gpu, &random, plain[i], 7, 123, 2, true, false, VECTOR_ERROR);
        check(gpu, &random, plain[i], 3, 1026, 1, false, false, VECTOR_ERROR);
    }
}

/* Five jobs of two types on the same inputs give the same bits as each job alone. */
static void many_jobs_give_the_bits_of_each(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 23);
    const uint32_t columns = 512, tokens = 2, rows[] = {40, 9, 17, 1, 30};
    const enum tensor_type of[] = {TENSOR_Q4_K, TENSOR_Q4_K, TENSOR_Q6_K, TENSOR_Q4_K, TENSOR_Q4_K};
    float *in = gpu_test_floats(&random, columns * tokens);
    struct gpu_range input = gpu_test_range(gpu, in, columns * tokens * sizeof(float));
    struct product products[5];
    struct gpu_matmul jobs[5];
    float *alone[5];
    for (size_t i = 0; i < 5; i++) {
        products[i] = product_create(gpu, &random, of[i], rows[i], columns);
        size_t bytes = rows[i] * tokens * sizeof(float);
        jobs[i] = (struct gpu_matmul){.weights = products[i].matrix,
                                      .in = input,
                                      .out = gpu_test_range(gpu, NULL, bytes),
                                      .tokens = tokens,
                                      .in_stride = columns,
                                      .out_stride = rows[i]};
        gpu_begin(gpu);
        gpu_matmul(gpu, &jobs[i], 1);
        gpu_test_run(gpu);
        alone[i] = gpu_test_take(gpu, jobs[i].out, bytes);
        jobs[i].out = gpu_test_range(gpu, NULL, bytes);
    }
    gpu_begin(gpu);
    gpu_matmul(gpu, jobs, 5);
    gpu_test_run(gpu);
    for (size_t i = 0; i < 5; i++) {
        size_t bytes = rows[i] * tokens * sizeof(float);
        float *out = gpu_test_take(gpu, jobs[i].out, bytes);
        assert_memory_equal(out, alone[i], bytes);
        free(out);
        free(alone[i]);
        product_destroy(gpu, &products[i]);
    }
    gpu_buffer_destroy(gpu, input.buffer);
    free(in);
}

/* The largest batch of few tokens gives the same bits as its tokens one by one. */
static void batches_change_no_bit(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 24);
    const uint32_t columns = 768, rows = 21, tokens = GPU_VECTOR_TOKENS;
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        if (!has_many_kernels(types[i]))
            continue;
        struct product product = product_create(gpu, &random, types[i], rows, columns);
        float *in = gpu_test_floats(&random, columns * tokens);
        struct gpu_matmul job = {.weights = product.matrix,
                                 .in = gpu_test_range(gpu, in, columns * tokens * sizeof(float)),
                                 .out = gpu_test_range(gpu, NULL, rows * tokens * sizeof(float)),
                                 .tokens = tokens,
                                 .in_stride = columns,
                                 .out_stride = rows};
        gpu_begin(gpu);
        gpu_matmul(gpu, &job, 1);
        gpu_test_run(gpu);
        float *together = gpu_test_take(gpu, job.out, rows * tokens * sizeof(float));
        for (uint32_t t = 0; t < tokens; t++) {
            struct gpu_matmul one = job;
            one.tokens = 1;
            one.in.offset = t * columns * sizeof(float);
            one.out = gpu_test_range(gpu, NULL, rows * sizeof(float));
            gpu_begin(gpu);
            gpu_matmul(gpu, &one, 1);
            gpu_test_run(gpu);
            float *out = gpu_test_take(gpu, one.out, rows * sizeof(float));
            if (memcmp(out, together + t * rows, rows * sizeof(float)) != 0)
                fail_msg("%s: token %u differs", tensor_type_info(types[i])->name, t);
            free(out);
        }
        gpu_buffer_destroy(gpu, job.in.buffer);
        product_destroy(gpu, &product);
        free(together);
        free(in);
    }
}

/* Rows with few columns share the invocations of a subgroup. Some of the rows, alone, get the same bits, wherever they
 * are in a subgroup and however many there are. */
static void rows_of_few_columns_share_subgroups(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 31);
    const struct {
        enum tensor_type type;
        uint32_t columns, rows, tokens, first, some;
    } shapes[] = {{TENSOR_Q8_0, 32, 75, 1, 5, 9},   {TENSOR_Q8_0, 96, 75, 1, 3, 40},  {TENSOR_Q8_0, 288, 40, 1, 7, 20},
                  {TENSOR_Q8_0, 352, 40, 1, 1, 3},  {TENSOR_Q8_0, 768, 40, 1, 9, 31}, {TENSOR_Q8_0, 1408, 20, 1, 9, 11},
                  {TENSOR_Q8_0, 96, 2100, 2, 1, 5}, {TENSOR_Q4_K, 256, 50, 2, 3, 6},  {TENSOR_Q4_K, 768, 50, 1, 3, 6},
                  {TENSOR_Q6_K, 768, 50, 1, 11, 2}, {TENSOR_Q6_K, 512, 50, 1, 1, 30}};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        const uint32_t columns = shapes[i].columns, rows = shapes[i].rows, tokens = shapes[i].tokens;
        check(gpu, &random, shapes[i].type, rows, columns, tokens, true, true, VECTOR_ERROR);
        struct product product = product_create(gpu, &random, shapes[i].type, rows, columns);
        float *in = gpu_test_floats(&random, columns * tokens), *outs[2];
        const struct gpu_range input = gpu_test_range(gpu, in, columns * tokens * sizeof *in);
        for (int some = 0; some < 2; some++) {
            struct gpu_matmul job = {.weights = product.matrix,
                                     .in = input,
                                     .out = gpu_test_range(gpu, NULL, rows * tokens * sizeof(float)),
                                     .tokens = tokens,
                                     .in_stride = columns,
                                     .out_stride = rows};
            if (some) {
                job.weights.data.offset += shapes[i].first * product.matrix.row_bytes;
                job.weights.rows = shapes[i].some;
            }
            gpu_begin(gpu);
            gpu_matmul(gpu, &job, 1);
            gpu_test_run(gpu);
            outs[some] = gpu_test_take(gpu, job.out, rows * tokens * sizeof(float));
        }
        for (uint32_t t = 0; t < tokens; t++)
            if (memcmp(outs[0] + t * rows + shapes[i].first, outs[1] + t * rows, shapes[i].some * sizeof(float)) != 0)
                fail_msg("%s, %u columns: rows alone differ", tensor_type_info(shapes[i].type)->name, columns);
        gpu_buffer_destroy(gpu, input.buffer);
        product_destroy(gpu, &product);
        free(in);
        free(outs[0]);
        free(outs[1]);
    }
}

/* ---- experts ----------------------------------------------------------------------------------------------------- */

#define EXPERTS 6u
#define USED 2u
#define SLOTS 4u

/* The gate and up matrices of experts, two of which are not on the device; their rows must not change. apart: floats
 * between rows of inputs, and between rows of outputs. */
static void check_experts(struct gpu *gpu, struct random *random, enum tensor_type type, uint32_t rows,
                          uint32_t columns, uint32_t tokens, bool per_choice, bool with_bias, uint32_t apart,
                          double bound)
{
    const uint32_t slots[EXPERTS] = {2, GPU_NO_SLOT, 0, 3, GPU_NO_SLOT, 1};
    /* A slot holds the rows of both matrices and further bytes. */
    uint32_t choices = tokens * USED, in_rows = per_choice ? choices : tokens;
    const uint32_t in_stride = columns + apart, out_stride = rows + apart;
    struct product pool = product_create(gpu, random, type, SLOTS * 2 * rows, columns);
    uint64_t matrix_bytes = rows * pool.matrix.row_bytes;
    uint32_t *ids = malloc(choices * sizeof *ids);
    assert_non_null(ids);
    for (uint32_t i = 0; i < choices; i++)
        ids[i] = i % USED == 0 ? (uint32_t)(random_next(random) % EXPERTS) : (ids[i - 1] + 1) % EXPERTS;
    float *in = gpu_test_floats(random, (size_t)in_rows * in_stride), *bias = gpu_test_floats(random, EXPERTS * rows);
    size_t out_count = (size_t)choices * out_stride;
    float *before = gpu_test_floats(random, out_count);
    struct gpu_expert_matmul jobs[2];
    for (uint32_t m = 0; m < 2; m++)
        jobs[m] = (struct gpu_expert_matmul){
            .weights = {{pool.matrix.data.buffer, m * matrix_bytes}, type, rows, columns, pool.matrix.row_bytes},
            .slot_stride = 2 * matrix_bytes,
            .slots = gpu_test_range(gpu, slots, sizeof slots),
            .ids = gpu_test_range(gpu, ids, choices * sizeof *ids),
            .in = gpu_test_range(gpu, in, (size_t)in_rows * in_stride * sizeof(float)),
            .out = gpu_test_range(gpu, before, out_count * sizeof(float)),
            .bias = with_bias ? gpu_test_range(gpu, bias, EXPERTS * rows * sizeof(float)) : (struct gpu_range){0},
            .in_stride = apart ? in_stride : 0,
            .out_stride = apart ? out_stride : 0,
            .experts = EXPERTS,
            .used = USED,
            .tokens = tokens,
            .per_choice = per_choice};
    struct gpu_range halves = {0};
    if (columns % 8 == 0 && apart == 0) {
        halves = gpu_test_range(gpu, NULL, (size_t)in_rows * columns * 2);
        gpu_begin(gpu);
        gpu_halves(gpu, halves, jobs[0].in, (uint64_t)in_rows * columns);
        gpu_test_run(gpu);
    }
    jobs[0].in_halves = jobs[1].in_halves = halves;
    if (tokens <= GPU_VECTOR_TOKENS && round_inputs(gpu, type, in, in_rows, columns, in_stride))
        bound = rounded_bound(gpu, bound);
    uint64_t group_bytes = gpu_expert_group_bytes(EXPERTS, USED, tokens);
    jobs[0].groups = jobs[1].groups = gpu_test_range(gpu, NULL, group_bytes);
    struct gpu_expert_matmul second = jobs[1];
    jobs[1].slots = jobs[0].slots;
    jobs[1].ids = jobs[0].ids;
    jobs[1].in = jobs[0].in;
    gpu_begin(gpu);
    if (tokens > GPU_VECTOR_TOKENS) {
        gpu_expert_group(gpu, jobs[0].ids, jobs[0].groups, EXPERTS, USED, tokens);
        gpu_barrier(gpu);
    }
    gpu_expert_matmul(gpu, jobs, 2);
    gpu_test_run(gpu);
    for (uint32_t m = 0; m < 2; m++) {
        float *expected = malloc(out_count * sizeof(float));
        assert_non_null(expected);
        memcpy(expected, before, out_count * sizeof(float));
        for (uint32_t choice = 0; choice < choices; choice++) {
            uint32_t expert = ids[choice], slot = slots[expert];
            for (uint32_t r = 0; r < rows && slot != GPU_NO_SLOT; r++)
                expected[(size_t)choice * out_stride + r] =
                    (float)(dot(pool.values + ((size_t)slot * 2 * rows + m * rows + r) * columns,
                                in + (size_t)(per_choice ? choice : choice / USED) * in_stride, columns) +
                            (with_bias ? (double)bias[expert * rows + r] : 0));
        }
        float *out = gpu_test_take(gpu, jobs[m].out, out_count * sizeof(float));
        double error = gpu_test_error(out, expected, out_count);
        if (!(error < bound))
            fail_msg("experts of %s, matrix %u, %u x %u times %u: the error is %g", tensor_type_info(type)->name, m,
                     rows, columns, tokens, error);
        for (uint32_t choice = 0; choice < choices; choice++)
            if (slots[ids[choice]] == GPU_NO_SLOT)
                assert_memory_equal(out + (size_t)choice * out_stride, before + (size_t)choice * out_stride,
                                    out_stride * sizeof(float));
        if (with_bias)
            gpu_buffer_destroy(gpu, jobs[m].bias.buffer);
        free(expected);
        free(out);
    }
    const struct gpu_range ranges[] = {jobs[0].slots, jobs[0].ids, jobs[0].in,     second.slots,
                                       second.ids,    second.in,   jobs[0].groups, halves};
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        gpu_buffer_destroy(gpu, ranges[i].buffer);
    product_destroy(gpu, &pool);
    free(ids);
    free(in);
    free(bias);
    free(before);
}

static void multiplies_by_experts(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 25);
    for (size_t i = 0; i < COUNT_OF(types); i++) {
        check_experts(gpu, &random, types[i], 13, 256, 1, false, false, 0, VECTOR_ERROR);
        check_experts(gpu, &random, types[i], 6, 512, 3, true, true, 0, VECTOR_ERROR);
        check_experts(gpu, &random, types[i], 70, 256, 40, i % 2 != 0, i % 3 == 0, 0, tile_error(gpu, types[i]));
    }
    /* Rows with a gap in between, as in heads of latent attention. */
    check_experts(gpu, &random, TENSOR_F16, 20, 128, 2, true, false, 64, VECTOR_ERROR);
    check_experts(gpu, &random, TENSOR_Q8_0, 70, 128, 30, true, false, 64, tile_error(gpu, TENSOR_Q8_0));
    check_experts(gpu, &random, TENSOR_Q8_0, 12, 512, 3, false, true, 4, VECTOR_ERROR);
    /* Too narrow for tiles, and more choices than work groups in one dimension. */
    check_experts(gpu, &random, TENSOR_F16, 3, 30, GPU_MAX_GROUPS / USED + 40, false, true, 0, VECTOR_ERROR);
    check_experts(gpu, &random, TENSOR_F16, 2, 30, GPU_MAX_GROUPS / USED + 40, true, false, 0, VECTOR_ERROR);
}

/* Experts that norm their inputs give what dense matrices do that norm theirs. */
static void check_normed_experts(struct gpu *gpu, struct random *random, enum tensor_type type, uint32_t rows,
                                 uint32_t columns)
{
    const uint32_t slots[] = {1, 0}, ids[] = {0, 1, 1, 0}, choices = COUNT_OF(ids), tokens = choices / USED;
    const size_t out_bytes = choices * rows * sizeof(float);
    const struct gpu_glu_kind silu_kind = {.kind = GLU_SILU};
    struct product pool = product_create(gpu, random, type, COUNT_OF(slots) * 2 * rows, columns);
    const uint64_t matrix_bytes = rows * pool.matrix.row_bytes;
    float *in = gpu_test_floats(random, tokens * columns), *weights = gpu_test_floats(random, columns);
    const struct gpu_range input = gpu_test_range(gpu, in, tokens * columns * sizeof *in),
                           norm = gpu_test_range(gpu, weights, columns * sizeof *weights),
                           places = gpu_test_range(gpu, slots, sizeof slots),
                           chosen = gpu_test_range(gpu, ids, sizeof ids), out = gpu_test_range(gpu, NULL, out_bytes),
                           expected = gpu_test_range(gpu, NULL, out_bytes);
    struct gpu_expert_matmul jobs[2];
    for (uint32_t m = 0; m < 2; m++)
        jobs[m] = (struct gpu_expert_matmul){
            .weights = {{pool.matrix.data.buffer, m * matrix_bytes}, type, rows, columns, pool.matrix.row_bytes},
            .slot_stride = 2 * matrix_bytes,
            .slots = places,
            .ids = chosen,
            .in = input,
            .norm = norm,
            .out = out,
            .experts = COUNT_OF(slots),
            .used = USED,
            .tokens = tokens,
            .epsilon = 1e-2f};
    gpu_begin(gpu);
    assert_true(gpu_expert_matmul_glu(gpu, jobs, &silu_kind));
    for (uint32_t choice = 0; choice < choices; choice++) {
        struct gpu_matmul dense[2];
        for (uint32_t m = 0; m < 2; m++) {
            dense[m] = (struct gpu_matmul){.weights = jobs[m].weights,
                                           .in = {input.buffer, choice / USED * columns * sizeof *in},
                                           .norm = norm,
                                           .out = {expected.buffer, choice * rows * sizeof(float)},
                                           .tokens = 1,
                                           .in_stride = columns,
                                           .out_stride = rows,
                                           .epsilon = jobs[m].epsilon};
            dense[m].weights.data.offset += slots[ids[choice]] * jobs[m].slot_stride;
        }
        assert_true(gpu_matmul_glu(gpu, dense, &silu_kind));
    }
    gpu_test_run(gpu);
    float *found = gpu_test_take(gpu, out, out_bytes), *wanted = gpu_test_take(gpu, expected, out_bytes);
    const double error = gpu_test_error(found, wanted, choices * rows);
    if (!(error < VECTOR_ERROR))
        fail_msg("normed experts of %s, %u x %u: the error is %g", tensor_type_info(type)->name, rows, columns, error);
    const struct gpu_range ranges[] = {input, norm, places, chosen};
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        gpu_buffer_destroy(gpu, ranges[i].buffer);
    product_destroy(gpu, &pool);
    free(in);
    free(weights);
    free(found);
    free(wanted);
}

static void norms_inputs_of_experts(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 34);
    const enum tensor_type some[] = {TENSOR_F16, TENSOR_Q4_K, TENSOR_Q8_0, TENSOR_MXFP4, TENSOR_Q2_K, TENSOR_IQ2_XS};
    for (size_t i = 0; i < COUNT_OF(some); i++)
        check_normed_experts(gpu, &random, some[i], 13, 768);
    check_normed_experts(gpu, &random, TENSOR_Q8_0, 21, 96);
    check_normed_experts(gpu, &random, TENSOR_F32, 5, 30);
    /* More columns than are rounded at once. */
    check_normed_experts(gpu, &random, TENSOR_Q8_0, 4, 49152);
}

/* Gate and up, and then down, of experts, twice; the second expert is not on the device. */
static float *run_chained_experts(struct gpu *gpu, enum tensor_type type, uint32_t columns, uint32_t width)
{
    struct random random;
    random_seed(&random, 32);
    const uint32_t slots[] = {1, GPU_NO_SLOT, 0}, ids[] = {2, 0, 1, 0};
    const size_t choices = COUNT_OF(ids), out_bytes = choices * columns * sizeof(float);
    struct product first = product_create(gpu, &random, type, 4 * width, columns);
    struct product second = product_create(gpu, &random, type, 2 * columns, width);
    float *in = gpu_test_floats(&random, 2 * columns), *inner = gpu_test_floats(&random, choices * width);
    struct gpu_expert_matmul jobs[3];
    const struct gpu_range ranges[] = {gpu_test_range(gpu, slots, sizeof slots), gpu_test_range(gpu, ids, sizeof ids),
                                       gpu_test_range(gpu, in, 2 * columns * sizeof *in),
                                       gpu_test_range(gpu, inner, choices * width * sizeof *inner),
                                       gpu_test_range(gpu, NULL, out_bytes)};
    for (uint32_t i = 0; i < 3; i++) {
        jobs[i] = (struct gpu_expert_matmul){.weights = i == 2 ? second.matrix : first.matrix,
                                             .slots = ranges[0],
                                             .ids = ranges[1],
                                             .in = ranges[i == 2 ? 3 : 2],
                                             .out = ranges[i == 2 ? 4 : 3],
                                             .experts = 3,
                                             .used = 2,
                                             .tokens = 2,
                                             .per_choice = i == 2,
                                             .routed = true};
        jobs[i].weights.rows = i == 2 ? columns : width;
        jobs[i].slot_stride = (i == 2 ? columns : 2 * width) * jobs[i].weights.row_bytes;
        jobs[i].weights.data.offset = i == 1 ? width * jobs[i].weights.row_bytes : 0;
    }
    gpu_begin(gpu);
    for (int layer = 0; layer < 2; layer++) {
        assert_true(gpu_expert_matmul_glu(gpu, jobs, &(struct gpu_glu_kind){.kind = GLU_SILU}));
        gpu_barrier(gpu);
        gpu_expert_matmul(gpu, &jobs[2], 1);
        gpu_barrier(gpu);
    }
    gpu_test_run(gpu);
    float *out = gpu_test_take(gpu, ranges[4], out_bytes);
    for (size_t i = 0; i < 4; i++)
        gpu_buffer_destroy(gpu, ranges[i].buffer);
    product_destroy(gpu, &first);
    product_destroy(gpu, &second);
    free(in);
    free(inner);
    return out;
}

/* In a chain, the down projection has no barrier before it. */
static void experts_in_a_chain_change_no_bit(void **state)
{
    (void)gpu_or_skip(state);
    const uint32_t columns = 512, width = 256;
    float *outs[2];
    for (int chained = 0; chained < 2; chained++) {
        struct gpu *gpu;
        setenv("HYPURA_GPU_CHAINS", chained ? "1" : "0", 1);
        assert_ok(gpu_open(&gpu, &(struct gpu_options){.validate = gpu_test_layers}, &test_error));
        unsetenv("HYPURA_GPU_CHAINS");
        outs[chained] = run_chained_experts(gpu, TENSOR_Q4_K, columns, width);
        assert_int_equal(gpu->chained_sent > 0, chained);
        assert_int_equal(gpu_validation_messages(gpu), 0);
        gpu_close(gpu);
    }
    for (uint32_t choice = 0; choice < 4; choice++)
        if (choice != 2)
            assert_memory_equal(outs[0] + choice * columns, outs[1] + choice * columns, columns * sizeof(float));
    free(outs[0]);
    free(outs[1]);
}

/* Work groups and their sizes follow from the device's cores. */
static void cores_change_no_bit(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    const uint32_t own = gpu->info.cores, columns = 512, width = 256, cores[] = {0, 1, 4, 5, 100};
    float *first = NULL;
    for (size_t i = 0; i < COUNT_OF(cores); i++) {
        gpu->info.cores = cores[i];
        float *out = run_chained_experts(gpu, TENSOR_Q8_0, columns, width);
        for (uint32_t choice = 0; choice < 4 && first; choice++)
            if (choice != 2 && memcmp(first + choice * columns, out + choice * columns, columns * sizeof(float)) != 0)
                fail_msg("%u cores: choice %u differs", cores[i], choice);
        free(first);
        first = out;
    }
    gpu->info.cores = own;
    free(first);
}

static void refuses_unsupported_weights(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct gpu_range range = gpu_test_range(gpu, NULL, 4096);
    struct gpu_matmul job = {.weights = {range, TENSOR_I32, 1, 256, 1024},
                             .in = range,
                             .out = range,
                             .tokens = 1,
                             .in_stride = 256,
                             .out_stride = 1};
    gpu_ticket ticket;
    gpu_begin(gpu);
    gpu_matmul(gpu, &job, 1);
    assert_int_equal(gpu_submit(gpu, &ticket, 0, &test_error), HYPURA_ERROR_UNSUPPORTED);
    job.weights = (struct gpu_matrix){{range.buffer, 8}, TENSOR_Q4_K, 1, 256, 144};
    gpu_begin(gpu);
    gpu_matmul(gpu, &job, 1);
    assert_int_equal(gpu_submit(gpu, &ticket, 0, &test_error), HYPURA_ERROR_UNSUPPORTED);
    gpu_buffer_destroy(gpu, range.buffer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(multiplies_few_tokens),
        cmocka_unit_test(multiplies_many_tokens),
        cmocka_unit_test(parts_of_prompts_change_no_bit),
        cmocka_unit_test(multiplies_odd_columns),
        cmocka_unit_test(many_jobs_give_the_bits_of_each),
        cmocka_unit_test(batches_change_no_bit),
        cmocka_unit_test(multiplies_by_experts),
        cmocka_unit_test(multiplies_as_floats_too),
        cmocka_unit_test(norms_inputs_and_gates_outputs),
        cmocka_unit_test(norms_inputs_of_experts),
        cmocka_unit_test(keeps_epsilons_apart),
        cmocka_unit_test(refuses_unsupported_weights),
        cmocka_unit_test(rows_of_few_columns_share_subgroups),
        cmocka_unit_test(experts_in_a_chain_change_no_bit),
        cmocka_unit_test(cores_change_no_bit),
    };
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
