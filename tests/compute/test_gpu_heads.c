/* What the GPU does to heads before attention, compared with plain C: norming, rotating, storing and spreading them. */
#include "gpu_cache_rows.h"

#define NONE ((struct gpu_range){0})

static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_Q8_0, TENSOR_Q4_0};

/* Element i of position p of a head's region on the device. */
static float cache_element(enum tensor_type type, const uint8_t *region, size_t capacity, size_t size, size_t p,
                           size_t i)
{
    uint16_t half;
    float value;
    const uint8_t *scales = region + capacity * size / (type == TENSOR_Q4_0 ? 2 : 1);
    switch (type) {
    case TENSOR_F16:
    case TENSOR_BF16:
        memcpy(&half, region + 2 * (p * size + i), 2);
        return type == TENSOR_F16 ? half_to_float(half) : bfloat_to_float(half);
    case TENSOR_Q8_0:
        memcpy(&half, scales + 2 * (p * size + i) / 32 / 2 * 2, 2);
        return half_to_float(half) * (float)(int8_t)region[p * size + i];
    case TENSOR_Q4_0:
        memcpy(&half, scales + 2 * (p * size + i) / 32 / 2 * 2, 2);
        return half_to_float(half) *
               (float)((region[(p * size + i) / 32 * 16 + i % 16] >> (i % 32 < 16 ? 0 : 4) & 15) - 8);
    default:
        memcpy(&value, region + 4 * (p * size + i), 4);
        return value;
    }
}

/* ---- heads ------------------------------------------------------------------------------------------------------- */

/* A layer norm per head: subtracts the mean, with separate weights for each head. */
static void norm_each(struct compute *compute, float *heads, const float *weights, uint32_t rows, uint32_t count,
                      uint32_t size)
{
    for (uint32_t h = 0; h < rows * count; h++)
        compute_layer_norm(compute, heads + h * size, heads + h * size, weights + h % count * size, NULL, 1, size,
                           1e-5f);
}

/* Two sequences, one of which wraps around its ring; queries interleaved with gates; scales per row. */
static void makes_heads(struct gpu *gpu, enum tensor_type type, enum rope_layout layout, uint32_t size, unsigned part,
                        struct random *random)
{
    enum { HEADS = 6, KV_HEADS = 3, ROWS = 12, CAPACITY = 64 };
    bool norms = part != 0, turned = part != 1, after = part == 4, value_norm = part == 4;
    bool plain = part == 0 || part == 2, each = part == 3;
    uint32_t rotary = part % 2 ? size : size / 2;
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    float *query = gpu_test_floats(random, ROWS * HEADS * 2 * size),
          *key = gpu_test_floats(random, ROWS * KV_HEADS * size);
    float *value = gpu_test_floats(random, ROWS * KV_HEADS * size), *table = gpu_test_floats(random, ROWS * rotary);
    float *query_norm = gpu_test_floats(random, HEADS * size), *key_norm = gpu_test_floats(random, HEADS * size);
    float *scales = gpu_test_floats(random, ROWS);
    size_t position_bytes = attention_row_bytes(type, size), region = position_bytes * CAPACITY;
    const struct gpu_sequence sequences[] = {
        {.first_row = 0, .rows = 11, .first_position = 60, .capacity = CAPACITY, .values = 2 * KV_HEADS * region},
        {.first_row = 11,
         .rows = 1,
         .first_position = 5,
         .capacity = CAPACITY,
         .keys = KV_HEADS * region,
         .values = 3 * KV_HEADS * region}};
    struct gpu_heads heads = {.query = gpu_test_range(gpu, query, ROWS * HEADS * 2 * size * 4),
                              .key = gpu_test_range(gpu, key, ROWS * KV_HEADS * size * 4),
                              .value = gpu_test_range(gpu, value, ROWS * KV_HEADS * size * 4),
                              .query_norm = norms ? gpu_test_range(gpu, query_norm, HEADS * size * 4) : NONE,
                              .key_norm = norms ? gpu_test_range(gpu, key_norm, HEADS * size * 4) : NONE,
                              .query_scales = turned ? gpu_test_range(gpu, scales, ROWS * 4) : NONE,
                              .table = turned ? gpu_test_range(gpu, table, ROWS * rotary * 4) : NONE,
                              .out = gpu_test_range(gpu, NULL, ROWS * HEADS * size * 4),
                              .cache = gpu_test_range(gpu, NULL, 4 * KV_HEADS * region),
                              .query_stride = HEADS * 2 * size,
                              .query_head_stride = 2 * size,
                              .key_stride = KV_HEADS * size,
                              .value_stride = KV_HEADS * size,
                              .norm_after_rope = after,
                              .value_norm = value_norm,
                              .centred = each,
                              .norm_each = each,
                              .plain_norm = plain,
                              .epsilon = 1e-5f,
                              .layout = layout,
                              .rotary = rotary,
                              .rows = ROWS,
                              .heads = HEADS,
                              .kv_heads = KV_HEADS,
                              .key_size = size,
                              .value_size = size,
                              .type = type,
                              .key_position_bytes = (uint32_t)position_bytes,
                              .value_position_bytes = (uint32_t)position_bytes,
                              .sequences = sequences,
                              .sequence_count = 2};
    gpu_begin(gpu);
    gpu_heads(gpu, &heads);
    gpu_test_run(gpu);
    float *queries = malloc(ROWS * HEADS * size * sizeof *queries);
    assert_non_null(queries);
    for (size_t h = 0; h < ROWS * HEADS; h++)
        memcpy(queries + h * size, query + 2 * h * size, size * sizeof *queries);
    for (int pass = 0; pass < 2; pass++) {
        if (each && pass == 0) {
            norm_each(compute, queries, query_norm, ROWS, HEADS, size);
            norm_each(compute, key, key_norm, ROWS, KV_HEADS, size);
        } else if (norms && pass == after) {
            compute_rms_norm(compute, queries, queries, query_norm, ROWS * HEADS, size, 1e-5f);
            compute_rms_norm(compute, key, key, key_norm, ROWS * KV_HEADS, size, 1e-5f);
        }
        if (turned && pass != after) {
            compute_rope(compute, layout, queries, ROWS, HEADS * size, HEADS, size, rotary, table);
            compute_rope(compute, layout, key, ROWS, KV_HEADS * size, KV_HEADS, size, rotary, table);
        }
    }
    if (plain) {
        compute_rms_norm(compute, queries, queries, NULL, ROWS * HEADS, size, 1e-5f);
        compute_rms_norm(compute, key, key, NULL, ROWS * KV_HEADS, size, 1e-5f);
    }
    if (value_norm)
        compute_rms_norm(compute, value, value, NULL, ROWS * KV_HEADS, size, 1e-5f);
    for (size_t i = 0; turned && i < ROWS * HEADS * size; i++)
        queries[i] *= scales[i / (HEADS * size)];
    float *out = gpu_test_take(gpu, heads.out, ROWS * HEADS * size * 4);
    assert_true(gpu_test_error(out, queries, ROWS * HEADS * size) < 1e-6);
    uint8_t *cache = gpu_test_take(gpu, heads.cache, 4 * KV_HEADS * region);
    /* A difference in the last digit before rounding may change the result by one step of the type. */
    static const double bounds[] = {
        [TENSOR_F32] = 1e-6, [TENSOR_F16] = 1e-4, [TENSOR_BF16] = 1e-3, [TENSOR_Q8_0] = 1e-3, [TENSOR_Q4_0] = 1e-2};
    for (int side = 0; side < 2; side++) {
        float *expected = side ? value : key, *stored = malloc(ROWS * KV_HEADS * size * sizeof *stored);
        assert_non_null(stored);
        round_rows(type, expected, ROWS * KV_HEADS, size);
        for (size_t r = 0; r < ROWS; r++)
            for (size_t h = 0; h < KV_HEADS; h++)
                for (size_t i = 0; i < size; i++) {
                    const struct gpu_sequence *s = &sequences[r >= 11];
                    const uint8_t *at = cache + (side ? s->values : s->keys) + h * region;
                    stored[(r * KV_HEADS + h) * size + i] =
                        cache_element(type, at, CAPACITY, size, (s->first_position + r - s->first_row) % CAPACITY, i);
                }
        double error = gpu_test_error(stored, expected, ROWS * KV_HEADS * size);
        if (!(error < bounds[type]))
            fail_msg("type %d, size %u, side %d: the error is %g", (int)type, size, side, error);
        free(stored);
    }
    struct gpu_range all[] = {heads.query,    heads.key,          heads.value, heads.query_norm,
                              heads.key_norm, heads.query_scales, heads.table};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        gpu_buffer_destroy(gpu, all[i].buffer);
    float *floats[] = {query, key, value, table, query_norm, key_norm, scales, queries, out};
    for (size_t i = 0; i < COUNT_OF(floats); i++)
        free(floats[i]);
    free(cache);
    compute_destroy(compute);
}

static void heads_are_made_and_stored(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    const uint32_t sizes[] = {64, 80, 96, 128, 256};
    struct random random;
    random_seed(&random, 21);
    for (size_t t = 0; t < COUNT_OF(types); t++)
        for (unsigned i = 0; i < COUNT_OF(sizes); i++)
            if (gpu_attention_supports(types[t], sizes[i], sizes[i]))
                makes_heads(gpu, types[t], t % 2 ? ROPE_NORMAL : ROPE_NEOX, sizes[i], i, &random);
}

/* ---- heads of latent attention ----------------------------------------------------------------------------------- */

/* The first elements of a key are normed, the others rotated. The last elements of queries are rotated and stored after
 * other elements in wider rows. */
static void latent_heads_are_made_and_stored(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    enum { HEADS = 3, ROWS = 5, CAPACITY = 64, RANK = 512, ROTARY = 64, WIDTH = RANK + ROTARY, PLAIN = 40 };
    const uint32_t query_size = PLAIN + ROTARY, query_width = HEADS * query_size;
    struct random random;
    random_seed(&random, 31);
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    float *query = gpu_test_floats(&random, ROWS * query_width), *key = gpu_test_floats(&random, ROWS * WIDTH);
    float *norm = gpu_test_floats(&random, RANK), *table = gpu_test_floats(&random, ROWS * ROTARY);
    float *before = gpu_test_floats(&random, ROWS * HEADS * WIDTH);
    const uint32_t bytes = (uint32_t)attention_row_bytes(TENSOR_F16, WIDTH);
    const struct gpu_sequence sequence = {.rows = ROWS, .first_position = 7, .capacity = CAPACITY};
    struct gpu_heads keys = {.key = gpu_test_range(gpu, key, ROWS * WIDTH * 4),
                             .key_norm = gpu_test_range(gpu, norm, RANK * 4),
                             .table = gpu_test_range(gpu, table, ROWS * ROTARY * 4),
                             .cache = gpu_test_range(gpu, NULL, (uint64_t)CAPACITY * bytes),
                             .key_stride = WIDTH,
                             .values_in_keys = true,
                             .epsilon = 1e-5f,
                             .layout = ROPE_NORMAL,
                             .rotary = ROTARY,
                             .normed = RANK,
                             .turned_from = RANK,
                             .rows = ROWS,
                             .kv_heads = 1,
                             .key_size = WIDTH,
                             .value_size = RANK,
                             .type = TENSOR_F16,
                             .key_position_bytes = bytes,
                             .value_position_bytes = bytes,
                             .sequences = &sequence,
                             .sequence_count = 1};
    struct gpu_heads queries = {.query = gpu_test_range(gpu, query, ROWS * query_width * 4),
                                .table = keys.table,
                                .out = gpu_test_range(gpu, before, ROWS * HEADS * WIDTH * 4),
                                .query_stride = query_width,
                                .query_head_stride = query_size,
                                .out_head_stride = WIDTH,
                                .layout = ROPE_NORMAL,
                                .rotary = ROTARY,
                                .rows = ROWS,
                                .heads = HEADS,
                                .key_size = ROTARY};
    struct gpu_range to = queries.out, from = queries.query;
    queries.query.offset = PLAIN * 4;
    queries.out.offset = RANK * 4;
    gpu_begin(gpu);
    gpu_heads(gpu, &keys);
    gpu_heads(gpu, &queries);
    gpu_test_run(gpu);
    for (uint32_t r = 0; r < ROWS; r++)
        compute_rms_norm(compute, key + r * WIDTH, key + r * WIDTH, norm, 1, RANK, 1e-5f);
    compute_rope(compute, ROPE_NORMAL, key + RANK, ROWS, WIDTH, 1, ROTARY, ROTARY, table);
    compute_rope(compute, ROPE_NORMAL, query + PLAIN, ROWS, query_width, HEADS, query_size, ROTARY, table);
    round_rows(TENSOR_F16, key, ROWS, WIDTH);
    for (uint32_t h = 0; h < ROWS * HEADS; h++)
        memcpy(before + h * WIDTH + RANK, query + h * query_size + PLAIN, ROTARY * sizeof *before);
    float *out = gpu_test_take(gpu, to, ROWS * HEADS * WIDTH * 4);
    assert_true(gpu_test_error(out, before, ROWS * HEADS * WIDTH) < 1e-6);
    uint8_t *cache = gpu_test_take(gpu, keys.cache, (uint64_t)CAPACITY * bytes);
    float *stored = malloc(ROWS * WIDTH * sizeof *stored);
    assert_non_null(stored);
    for (uint32_t i = 0; i < ROWS * WIDTH; i++)
        stored[i] = cache_element(TENSOR_F16, cache, CAPACITY, WIDTH, sequence.first_position + i / WIDTH, i % WIDTH);
    assert_true(gpu_test_error(stored, key, ROWS * WIDTH) < 1e-4);
    const struct gpu_range all[] = {keys.key, keys.key_norm, keys.table, from};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        gpu_buffer_destroy(gpu, all[i].buffer);
    float *floats[] = {query, key, norm, table, before, out, stored};
    for (size_t i = 0; i < COUNT_OF(floats); i++)
        free(floats[i]);
    free(cache);
    compute_destroy(compute);
}

static void spreads_heads(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    enum { HEADS = 3, ROWS = 4, RANK = 24, ROTARY = 16, PLAIN = 70, VALUE = 40, KEY = PLAIN + ROTARY };
    struct random random;
    random_seed(&random, 32);
    const size_t projected_count = ROWS * HEADS * (PLAIN + VALUE), latent_count = ROWS * (RANK + ROTARY);
    float *projected = gpu_test_floats(&random, projected_count), *latents = gpu_test_floats(&random, latent_count);
    struct gpu_spread spread = {.projected = gpu_test_range(gpu, projected, projected_count * 4),
                                .latents = gpu_test_range(gpu, latents, latent_count * 4),
                                .key = gpu_test_range(gpu, NULL, ROWS * HEADS * KEY * 4),
                                .value = gpu_test_range(gpu, NULL, ROWS * HEADS * VALUE * 4),
                                .rows = ROWS,
                                .heads = HEADS,
                                .key_size = KEY,
                                .value_size = VALUE,
                                .rotary = ROTARY,
                                .latent_size = RANK + ROTARY};
    gpu_begin(gpu);
    gpu_spread(gpu, &spread);
    gpu_test_run(gpu);
    float *key = gpu_test_take(gpu, spread.key, ROWS * HEADS * KEY * 4);
    float *value = gpu_test_take(gpu, spread.value, ROWS * HEADS * VALUE * 4);
    for (uint32_t r = 0; r < ROWS; r++)
        for (uint32_t h = 0; h < HEADS; h++) {
            const float *from = projected + (r * HEADS + h) * (PLAIN + VALUE), *at = key + (r * HEADS + h) * KEY;
            assert_memory_equal(at, from, PLAIN * sizeof *at);
            assert_memory_equal(at + PLAIN, latents + r * (RANK + ROTARY) + RANK, ROTARY * sizeof *at);
            assert_memory_equal(value + (r * HEADS + h) * VALUE, from + PLAIN, VALUE * sizeof *at);
        }
    gpu_buffer_destroy(gpu, spread.projected.buffer);
    gpu_buffer_destroy(gpu, spread.latents.buffer);
    free(projected);
    free(latents);
    free(key);
    free(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(heads_are_made_and_stored),
        cmocka_unit_test(latent_heads_are_made_and_stored),
        cmocka_unit_test(spreads_heads),
    };
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
