/* Decoding of blocks, compared with reference data. Matrix products: every instruction set of this machine gives the
 * bits of plain C, however the work is cut according to compute.h. */
#include "test.h"

#include "compute/compute.h"
#include "compute/cpu/kernels.h"
#include "compute/cpu/unpack.h"
#include "core/half.h"
#include "format/format.h"

#include <math.h>
#include <string.h>

static const enum instruction_set all_sets[] = {INSTRUCTIONS_PLAIN,  INSTRUCTIONS_AVX2, INSTRUCTIONS_AVX_VNNI,
                                                INSTRUCTIONS_AVX512, INSTRUCTIONS_AMX,  INSTRUCTIONS_NEON};

static void *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s", path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    void *data = malloc(*size + 1);
    assert_non_null(data);
    assert_int_equal(fread(data, 1, *size, file), *size);
    fclose(file);
    return data;
}

static void blocks_decode_like_the_reference(void **state)
{
    (void)state;
    size_t checked = 0;
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT; type++) {
        /* F32 and F16 have no reference files. */
        if (!compute_supports(type) || type == TENSOR_F32 || type == TENSOR_F16)
            continue;
        const struct tensor_type_info *info = tensor_type_info(type);
        char name[64];
        size_t block_bytes, value_bytes;
        snprintf(name, sizeof name, "oracle/dequant/%s.blocks", info->name);
        uint8_t *blocks = read_file(test_data(name), &block_bytes);
        snprintf(name, sizeof name, "oracle/dequant/%s.f32", info->name);
        float *expected = read_file(test_data(name), &value_bytes);
        size_t elements = block_bytes / info->block_bytes * info->block_size;
        assert_int_equal(value_bytes, elements * sizeof(float));
        float *out = malloc(value_bytes);
        assert_non_null(out);
        for (size_t s = 0; s < COUNT_OF(all_sets); s++) {
            if (!compute_has_instructions(all_sets[s]))
                continue;
            memset(out, 0xff, value_bytes);
            kernel_table_get(all_sets[s])->types[type].dequantize(out, blocks, elements);
            for (size_t i = 0; i < elements; i++)
                if (!(out[i] == expected[i]) && !(isnan(out[i]) && isnan(expected[i])))
                    fail_msg("%s by %s: element %zu is %a, expected %a", info->name,
                             compute_instructions_name(all_sets[s]), i, (double)out[i], (double)expected[i]);
        }
        free(out);
        free(expected);
        free(blocks);
        checked++;
    }
    assert_int_equal(checked, 24);
}

/* Fills blocks with random bits, except for half-precision fields, which are bounded so that scales are finite. */
static void fill_weights(struct random *random, enum tensor_type type, uint8_t *data, size_t rows, size_t columns)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    size_t blocks = rows * columns / info->block_size;
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *block = data + b * info->block_bytes;
        float values[256];
        bool finite;
        do {
            for (size_t i = 0; i < info->block_bytes; i++)
                block[i] = (uint8_t)(random_next(random) >> 32);
            compute_dequantize(type, block, values, info->block_size);
            finite = true;
            for (size_t i = 0; i < info->block_size; i++)
                finite &= fabsf(values[i]) < 1e6f;
        } while (!finite);
    }
}

static float *random_floats(struct random *random, size_t count)
{
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)random_normal(random);
    return values;
}

struct product {
    uint8_t *memory;
    struct matrix weights;
    float *input;
    size_t tokens;
};

/* offset: start of the weights, to test unaligned ones. The allocation ends with the last row, so that sanitizers
 * detect a read beyond it. */
static struct product product_create(struct random *random, enum tensor_type type, size_t rows, size_t columns,
                                     size_t tokens, size_t offset)
{
    struct product product = {.tokens = tokens};
    uint64_t row_bytes;
    assert_true(tensor_row_bytes(type, columns, &row_bytes));
    product.memory = malloc(offset + rows * row_bytes);
    assert_non_null(product.memory);
    product.weights = (struct matrix){product.memory + offset, type, rows, columns, row_bytes};
    fill_weights(random, type, product.memory + offset, rows, columns);
    product.input = random_floats(random, tokens * columns);
    return product;
}

static void product_destroy(struct product *product)
{
    free(product->memory);
    free(product->input);
}

/* Returns the outputs, which the caller frees. */
static float *product_run(const struct product *product, enum instruction_set set, size_t threads, size_t chunk)
{
    struct compute *compute;
    struct activation *activation;
    size_t rows = product->weights.rows, columns = product->weights.columns;
    assert_ok(compute_create(&compute, threads, set, &test_error));
    assert_ok(activation_create(&activation, chunk, columns, &test_error));
    float *output = malloc(product->tokens * rows * sizeof *output);
    assert_non_null(output);
    for (size_t first = 0; first < product->tokens; first += chunk) {
        size_t tokens = MIN(chunk, product->tokens - first);
        activation_set(activation, product->input + first * columns, tokens, columns, columns);
        struct matmul job = {.weights = product->weights,
                             .input = activation,
                             .tokens = tokens,
                             .output = output + first * rows,
                             .output_stride = rows};
        compute_matmul(compute, &job, 1);
    }
    activation_destroy(activation);
    compute_destroy(compute);
    return output;
}

static void compare(const float *a, const float *b, size_t count, const char *what, enum tensor_type type,
                    enum instruction_set set)
{
    for (size_t i = 0; i < count; i++)
        if (memcmp(&a[i], &b[i], sizeof *a) != 0 && !(a[i] == b[i]))
            fail_msg("%s, %s by %s: output %zu is %a, expected %a", what, tensor_type_info(type)->name,
                     compute_instructions_name(set), i, (double)a[i], (double)b[i]);
}

/* Compares products with sums in double precision of decoded weights and float activations. */
static void products_are_right(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 1);
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT; type++) {
        if (!compute_supports(type))
            continue;
        size_t rows = 5, columns = 512;
        struct product product = product_create(&random, type, rows, columns, 2, 1);
        float *output = product_run(&product, INSTRUCTIONS_PLAIN, 1, 2);
        float decoded[512];
        for (size_t r = 0; r < rows; r++) {
            compute_dequantize(type, product.weights.data + r * product.weights.row_bytes, decoded, columns);
            for (size_t t = 0; t < product.tokens; t++) {
                double sum = 0, size = 0;
                for (size_t c = 0; c < columns; c++) {
                    double term = (double)decoded[c] * (double)product.input[t * columns + c];
                    sum += term;
                    size += term * term;
                }
                /* Rounding activations to 8 bits changes each term by about 1/250, in either direction. */
                double tolerance = (type == TENSOR_F32 || type == TENSOR_F16 ? 1e-5 : 0.04) * sqrt(size) + 1e-30;
                double found = (double)output[t * rows + r];
                if (!(fabs(found - sum) <= tolerance))
                    fail_msg("%s: output %zu of token %zu is %g, expected %g +- %g", tensor_type_info(type)->name, r, t,
                             found, sum, tolerance);
            }
        }
        free(output);
        product_destroy(&product);
    }
}

static void products_have_the_same_bits_everywhere(void **state)
{
    (void)state;
    static const struct {
        size_t rows, blocks, tokens, offset;
    } shapes[] = {{1, 1, 1, 0}, {7, 3, 2, 1}, {19, 2, 5, 3}, {33, 5, 1, 2}, {64, 4, 37, 0}, {130, 9, 3, 5}};
    struct random random;
    random_seed(&random, 2);
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT; type++) {
        if (!compute_supports(type))
            continue;
        for (size_t i = 0; i < COUNT_OF(shapes); i++) {
            size_t block = tensor_type_info(type)->block_size;
            size_t columns = shapes[i].blocks * (block == 1 ? 37 : block);
            struct product product =
                product_create(&random, type, shapes[i].rows, columns, shapes[i].tokens, shapes[i].offset);
            size_t count = shapes[i].rows * shapes[i].tokens;
            float *expected = product_run(&product, INSTRUCTIONS_PLAIN, 1, 1);
            for (size_t s = 0; s < COUNT_OF(all_sets); s++) {
                if (!compute_has_instructions(all_sets[s]))
                    continue;
                size_t chunks[] = {1, shapes[i].tokens, MAX(shapes[i].tokens / 2, (size_t)1)};
                for (size_t threads = 1; threads <= 3; threads++) {
                    float *output = product_run(&product, all_sets[s], threads, chunks[threads - 1]);
                    compare(output, expected, count, "threads and chunks", type, all_sets[s]);
                    free(output);
                }
            }
            free(expected);
            product_destroy(&product);
        }
    }
}

/* Sets every byte of a block to the pattern, as far as the block's values stay finite. */
static void fill_extreme(struct random *random, enum tensor_type type, uint8_t *data, size_t blocks, uint8_t pattern)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    fill_weights(random, type, data, 1, blocks * info->block_size);
    for (size_t b = 0; b < blocks; b++) {
        for (size_t i = 0; i < info->block_bytes; i++) {
            uint8_t *byte = data + b * info->block_bytes + i, kept = *byte;
            float values[256];
            bool finite = true;
            *byte = pattern;
            compute_dequantize(type, data + b * info->block_bytes, values, info->block_size);
            for (size_t j = 0; j < info->block_size; j++)
                finite &= fabsf(values[j]) < 1e6f;
            if (!finite)
                *byte = kept;
        }
    }
}

/* The greatest and smallest quants times the greatest and smallest activations, for one, few and many tokens. */
static void the_greatest_sums_fit(void **state)
{
    (void)state;
    static const uint8_t patterns[] = {0xff, 0x00, 0x80, 0x7f};
    enum { ROWS = 16, TOKENS = 40 };
    struct random random;
    random_seed(&random, 6);
    for (unsigned type = 0; type < TENSOR_TYPE_COUNT; type++) {
        if (!compute_supports(type) || tensor_type_info(type)->block_size == 1)
            continue;
        size_t columns = 512;
        struct product product = product_create(&random, type, ROWS, columns, TOKENS, 0);
        for (size_t t = 0; t < TOKENS; t++)
            for (size_t c = 0; c < columns; c++)
                product.input[t * columns + c] = t % 4 == 0 || (t % 4 == 1 && c % 3) ? 1.0f : -1.0f;
        for (size_t p = 0; p < COUNT_OF(patterns); p++) {
            fill_extreme(&random, type, product.memory, ROWS * columns / tensor_type_info(type)->block_size,
                         patterns[p]);
            float *expected = product_run(&product, INSTRUCTIONS_PLAIN, 1, 1);
            for (size_t s = 0; s < COUNT_OF(all_sets); s++) {
                static const size_t chunks[] = {1, 8, TOKENS};
                for (size_t c = 0; c < COUNT_OF(chunks) && compute_has_instructions(all_sets[s]); c++) {
                    float *output = product_run(&product, all_sets[s], 1, chunks[c]);
                    compare(output, expected, (size_t)ROWS * TOKENS, "extremes", type, all_sets[s]);
                    free(output);
                }
            }
            free(expected);
        }
        product_destroy(&product);
    }
}

/* Rows of inputs and outputs by index, biases, several jobs of different types on one activation, and a job without
 * tokens. */
static void jobs_share_a_section(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 3);
    enum { COLUMNS = 512, ROWS = 24, TOKENS = 6 };
    struct product a = product_create(&random, TENSOR_Q4_K, ROWS, COLUMNS, TOKENS, 0);
    struct product b = product_create(&random, TENSOR_Q8_0, ROWS, COLUMNS, TOKENS, 0);
    float *plain_a = product_run(&a, INSTRUCTIONS_PLAIN, 1, TOKENS);
    memcpy(b.input, a.input, TOKENS * COLUMNS * sizeof *a.input);
    float *plain_b = product_run(&b, INSTRUCTIONS_PLAIN, 1, TOKENS);
    float *bias = random_floats(&random, ROWS);

    struct compute *compute;
    struct activation *activation;
    assert_ok(compute_create(&compute, 2, compute_best_instructions(), &test_error));
    assert_ok(activation_create(&activation, TOKENS, COLUMNS, &test_error));
    activation_set(activation, a.input, TOKENS, COLUMNS, COLUMNS);
    static const uint32_t in[] = {5, 0, 3}, out[] = {2, 0, 1};
    float output_a[3][ROWS], output_b[TOKENS][ROWS + 3], untouched[1] = {42};
    struct matmul jobs[] = {
        {.weights = b.weights, .input = activation, .tokens = 0, .output = untouched, .output_stride = 1},
        {.weights = a.weights,
         .input = activation,
         .input_rows = in,
         .tokens = 3,
         .output = &output_a[0][0],
         .output_stride = ROWS,
         .output_rows = out,
         .bias = bias},
        {.weights = a.weights, .input = activation, .tokens = 0, .output = untouched, .output_stride = 1},
        {.weights = b.weights,
         .input = activation,
         .tokens = TOKENS,
         .output = &output_b[0][0],
         .output_stride = ROWS + 3},
    };
    compute_matmul(compute, jobs, COUNT_OF(jobs));
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t t = 0; t < 3; t++)
            assert_true(output_a[out[t]][r] == plain_a[in[t] * ROWS + r] + bias[r]);
        for (size_t t = 0; t < TOKENS; t++)
            assert_true(output_b[t][r] == plain_b[t * ROWS + r]);
    }
    assert_true(untouched[0] == 42);

    activation_destroy(activation);
    compute_destroy(compute);
    free(bias);
    free(plain_a);
    free(plain_b);
    product_destroy(&a);
    product_destroy(&b);
}

/* More jobs than fit in one parallel section, each with its own rows of one output. */
static void any_number_of_jobs_runs(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 5);
    enum { COLUMNS = 64, ROWS = 700 };
    struct product product = product_create(&random, TENSOR_Q8_0, ROWS, COLUMNS, 1, 0);
    float *expected = product_run(&product, INSTRUCTIONS_PLAIN, 1, 1);
    struct compute *compute;
    struct activation *activation;
    assert_ok(compute_create(&compute, 2, compute_best_instructions(), &test_error));
    assert_ok(activation_create(&activation, 1, COLUMNS, &test_error));
    activation_set(activation, product.input, 1, COLUMNS, COLUMNS);
    float output[ROWS];
    struct matmul jobs[ROWS];
    for (size_t r = 0; r < ROWS; r++) {
        struct matrix row = product.weights;
        row.data += r * row.row_bytes;
        row.rows = 1;
        jobs[r] =
            (struct matmul){.weights = row, .input = activation, .tokens = 1, .output = &output[r], .output_stride = 1};
    }
    compute_matmul(compute, jobs, ROWS);
    compare(output, expected, ROWS, "many jobs", TENSOR_Q8_0, compute_instructions(compute));
    activation_destroy(activation);
    compute_destroy(compute);
    free(expected);
    product_destroy(&product);
}

/* Whatever is expected: what comes, other weights, too many, or what a kernel for prompts reads. */
static void expectations_change_no_bit(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 6);
    enum { COLUMNS = 1024, ROWS = 500, MOST = 40 };
    struct product product = product_create(&random, TENSOR_Q4_K, ROWS, COLUMNS, 1, 0);
    float *expected = product_run(&product, INSTRUCTIONS_PLAIN, 1, 1);
    struct compute *compute;
    struct activation *activation;
    assert_ok(compute_create(&compute, 4, compute_best_instructions(), &test_error));
    assert_ok(activation_create(&activation, 1, COLUMNS, &test_error));
    activation_set(activation, product.input, 1, COLUMNS, COLUMNS);
    struct matrix weights[MOST];
    for (size_t i = 0; i < MOST; i++) {
        weights[i] = product.weights;
        weights[i].rows = ROWS - i;
    }
    static const struct {
        size_t count, tokens;
    } expectations[] = {{1, 1}, {0, 1}, {MOST / 2, 1}, {MOST, 1}, {2, 3}, {1, 500}, {1, 0}, {1, 1}};
    for (size_t e = 0; e < COUNT_OF(expectations); e++)
        for (int again = 0; again < 2; again++) {
            float output[ROWS];
            if (!again)
                compute_expect(compute, weights, expectations[e].count, expectations[e].tokens);
            compute_matmul(compute,
                           &(struct matmul){.weights = product.weights,
                                            .input = activation,
                                            .tokens = 1,
                                            .output = output,
                                            .output_stride = ROWS},
                           1);
            compare(output, expected, ROWS, "expected", TENSOR_Q4_K, compute_instructions(compute));
        }
    activation_destroy(activation);
    compute_destroy(compute);
    free(expected);
    product_destroy(&product);
}

static void instructions_can_be_requested(void **state)
{
    (void)state;
    const char *before = getenv("HYPURA_INSTRUCTIONS");
    char *kept = before ? strdup(before) : NULL;
    unsetenv("HYPURA_INSTRUCTIONS");
    enum instruction_set best = compute_best_instructions();
    assert_true(compute_has_instructions(best));
    setenv("HYPURA_INSTRUCTIONS", "plain", 1);
    assert_int_equal(compute_best_instructions(), INSTRUCTIONS_PLAIN);
    setenv("HYPURA_INSTRUCTIONS", "something else", 1);
    assert_int_equal(compute_best_instructions(), best);
    if (kept)
        setenv("HYPURA_INSTRUCTIONS", kept, 1);
    else
        unsetenv("HYPURA_INSTRUCTIONS");
    free(kept);

    struct compute *compute;
    for (size_t s = 0; s < COUNT_OF(all_sets); s++)
        if (!compute_has_instructions(all_sets[s]))
            assert_int_equal(compute_create(&compute, 1, all_sets[s], &test_error), HYPURA_ERROR_ARGUMENT);
}

static void activations_round_alike(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 4);
    static const size_t sizes[] = {1, 31, 32, 64, 100, 256, 300, 1024};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        size_t columns = sizes[i], padded = align_up(columns, ACTIVATION_PADDING);
        float *values = random_floats(&random, columns);
        values[columns / 2] = i % 2 ? 0 : -3e4f;
        if (i == 3)
            memset(values, 0, columns / 2 * sizeof *values);
        const struct kernel_table *plain = kernel_table_get(INSTRUCTIONS_PLAIN);
        /* Two sets of results: plain C, and the instruction set under test. */
        int8_t *quants = aligned_alloc(64, 2 * padded);
        float scales[2][32];
        int16_t sums[2][64];
        uint16_t bfloats[2][1024];
        assert_non_null(quants);
        for (size_t s = 0; s < COUNT_OF(all_sets); s++) {
            if (!compute_has_instructions(all_sets[s]))
                continue;
            const struct kernel_table *tables[] = {plain, kernel_table_get(all_sets[s])};
            for (int wide = 0; wide < 2; wide++) {
                memset(quants, 0x55, 2 * padded);
                for (int k = 0; k < 2; k++)
                    (wide ? tables[k]->prepare_q8_256 : tables[k]->prepare_q8_32)(quants + (size_t)k * padded,
                                                                                  scales[k], sums[k], values, columns);
                assert_memory_equal(quants, quants + padded, padded);
                assert_memory_equal(scales[0], scales[1], padded / (wide ? 256 : 32) * sizeof(float));
                assert_memory_equal(sums[0], sums[1], padded / (wide ? 16 : 32) * sizeof(int16_t));
            }
            for (int k = 0; k < 2; k++)
                tables[k]->prepare_bfloat(bfloats[k], values, columns);
            assert_memory_equal(bfloats[0], bfloats[1], padded * sizeof(uint16_t));
        }
        free(quants);
        free(values);
    }
}

/* Tests every half, the midpoints to its neighbours, numbers slightly to both sides of these, and numbers beyond the
 * greatest half. */
static void halves_round_alike(void **state)
{
    (void)state;
    for (int set = INSTRUCTIONS_PLAIN + 1; set <= INSTRUCTIONS_NEON; set++) {
        if (!compute_has_instructions((enum instruction_set)set))
            continue;
        for (uint32_t half = 0; half < 0x10000; half++) {
            if ((half & 0x7fff) > 0x7c00)
                continue;
            float values[11];
            uint16_t expected[COUNT_OF(values)], out[COUNT_OF(values)];
            uint32_t bits = float_to_bits(half_to_float((uint16_t)half));
            for (uint32_t i = 0; i < COUNT_OF(values); i++)
                values[i] = float_from_bits(bits + i / 3 * 0x1000 - 1 + i % 3);
            if (!isfinite(values[COUNT_OF(values) - 1]))
                values[0] = values[COUNT_OF(values) - 1] = -3e38f;
            for (size_t i = 0; i < COUNT_OF(values); i++)
                values[i] = isnan(values[i]) ? 1e-30f : values[i];
            kernel_table_get(INSTRUCTIONS_PLAIN)->store_half(expected, values, COUNT_OF(values));
            kernel_table_get((enum instruction_set)set)->store_half(out, values, COUNT_OF(values));
            assert_memory_equal(out, expected, sizeof out);
            assert_int_equal(expected[1], half);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_decode_like_the_reference),
        cmocka_unit_test(products_are_right),
        cmocka_unit_test(products_have_the_same_bits_everywhere),
        cmocka_unit_test(the_greatest_sums_fit),
        cmocka_unit_test(jobs_share_a_section),
        cmocka_unit_test(any_number_of_jobs_runs),
        cmocka_unit_test(expectations_change_no_bit),
        cmocka_unit_test(instructions_can_be_requested),
        cmocka_unit_test(activations_round_alike),
        cmocka_unit_test(halves_round_alike),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
