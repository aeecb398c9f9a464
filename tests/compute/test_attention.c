#include "test.h"

#include "compute/compute.h"
#include "core/half.h"
#include "core/sanitized.h"

#include <math.h>
#include <string.h>
#include <time.h>

/* Attention computes the softmax over the positions that a row sees, with the same bits for every instruction set,
 * number of threads, and division of a prompt into batches. */

struct shape {
    const char *name;
    enum tensor_type key_type, value_type;
    size_t heads, kv_heads, key_size, value_size;
    size_t positions; /* in the cache after the batch */
    size_t rows;
    size_t capacity;
    float soft_cap;
    uint32_t window, chunk;
    bool sinks, bidirectional, shared; /* shared: values are the first elements of the keys */
    uint32_t around;
    float alibi;
};

static const struct shape shapes[] = {
    {"float", TENSOR_F32, TENSOR_F32, 4, 2, 64, 64, 100, 100, 128, 0, 0, 0, false, false, false},
    {"half, one row", TENSOR_F16, TENSOR_F16, 8, 2, 128, 128, 2500, 1, 2560, 0, 0, 0, false, false, false},
    {"bfloat, no groups", TENSOR_BF16, TENSOR_BF16, 3, 3, 80, 80, 70, 5, 128, 0, 0, 0, false, false, false},
    {"q8_0, one kv head", TENSOR_Q8_0, TENSOR_Q8_0, 7, 1, 96, 64, 1200, 40, 1216, 0, 0, 0, false, false, false},
    {"q4_0 values", TENSOR_F16, TENSOR_Q4_0, 4, 4, 32, 32, 90, 3, 128, 0, 0, 0, false, false, false},
    {"odd sizes", TENSOR_F16, TENSOR_F32, 2, 1, 40, 20, 130, 130, 192, 0, 0, 0, false, false, false},
    {"window in a ring", TENSOR_F16, TENSOR_F16, 4, 2, 64, 64, 700, 60, 256, 0, 100, 0, false, false, false},
    {"chunks", TENSOR_F16, TENSOR_F16, 4, 2, 64, 64, 300, 90, 320, 0, 0, 128, false, false, false},
    {"sinks and soft cap", TENSOR_F16, TENSOR_F16, 4, 2, 64, 64, 200, 70, 256, 5, 0, 0, true, false, false},
    {"both directions", TENSOR_F16, TENSOR_F16, 4, 4, 64, 64, 150, 150, 192, 0, 0, 0, false, true, false},
    {"near in both directions", TENSOR_F32, TENSOR_F32, 4, 2, 64, 64, 300, 300, 320, 0, 0, 0, false, true, false, 70},
    {"one position", TENSOR_F32, TENSOR_F32, 3, 3, 32, 32, 90, 90, 128, 0, 0, 0, false, true, false, 1},
    {"alibi", TENSOR_F32, TENSOR_F32, 8, 8, 64, 64, 150, 150, 192, 0, 0, 0, false, true, false, 0, 8},
    {"alibi, odd heads, groups", TENSOR_F16, TENSOR_F16, 6, 2, 64, 64, 1200, 100, 1216, 0, 0, 0, false, true, false, 0,
     8},
    {"more spans than places for them", TENSOR_F16, TENSOR_F16, 8, 1, 32, 128, 24000, 1, 24000, 0, 0, 0, false, false,
     false},
    {"latent", TENSOR_F16, TENSOR_F16, 16, 1, 576, 512, 1100, 9, 1152, 0, 0, 0, false, false, true},
};

struct fixture {
    const struct shape *shape;
    struct attention attention;
    struct attention_sequence sequence;
    uint8_t *keys, *values;
    float *query, *output, *sinks;
    uint32_t *positions;
    float *plain_keys, *plain_values; /* [positions][kv_heads][size], as the cache holds them */
};

static float *random_floats(struct random *random, size_t count)
{
    float *out = malloc(count * sizeof *out);
    assert_non_null(out);
    for (size_t i = 0; i < count; i++)
        out[i] = (float)random_normal(random);
    return out;
}

static float read_element(enum tensor_type type, const uint8_t *row, size_t i)
{
    uint16_t half;
    float value;
    switch (type) {
    case TENSOR_F16:
        memcpy(&half, row + 2 * i, 2);
        return half_to_float(half);
    case TENSOR_BF16:
        memcpy(&half, row + 2 * i, 2);
        return bfloat_to_float(half);
    case TENSOR_Q8_0:
        memcpy(&half, row + i / 32 * 34, 2);
        return half_to_float(half) * (float)(int8_t)row[i / 32 * 34 + 2 + i % 32];
    case TENSOR_Q4_0:
        memcpy(&half, row + i / 32 * 18, 2);
        return half_to_float(half) * (float)((row[i / 32 * 18 + 2 + i % 16] >> (i % 32 < 16 ? 0 : 4) & 15) - 8);
    default:
        memcpy(&value, row + 4 * i, 4);
        return value;
    }
}

static float *fill_cache(struct random *random, enum tensor_type type, uint8_t *cache, size_t size,
                         const struct shape *shape)
{
    size_t row_bytes = attention_row_bytes(type, size);
    float *plain = random_floats(random, shape->positions * shape->kv_heads * size);
    for (size_t p = 0; p < shape->positions; p++) {
        uint8_t *at = cache + p % shape->capacity * shape->kv_heads * row_bytes;
        attention_store(type, plain + p * shape->kv_heads * size, shape->kv_heads, size, size, at, row_bytes);
        for (size_t i = 0; i < shape->kv_heads * size; i++)
            plain[p * shape->kv_heads * size + i] = read_element(type, at + i / size * row_bytes, i % size);
    }
    return plain;
}

static void setup(struct fixture *f, const struct shape *shape, struct random *random)
{
    *f = (struct fixture){.shape = shape};
    size_t key_bytes = attention_row_bytes(shape->key_type, shape->key_size);
    size_t value_bytes = attention_row_bytes(shape->value_type, shape->value_size);
    assert_true(key_bytes > 0 && value_bytes > 0);
    f->keys = calloc(shape->capacity * shape->kv_heads, key_bytes);
    assert_non_null(f->keys);
    f->plain_keys = fill_cache(random, shape->key_type, f->keys, shape->key_size, shape);
    f->attention = (struct attention){.heads = shape->heads,
                                      .kv_heads = shape->kv_heads,
                                      .key_size = shape->key_size,
                                      .value_size = shape->value_size,
                                      .key_type = shape->key_type,
                                      .value_type = shape->value_type,
                                      .key_position_bytes = shape->kv_heads * key_bytes,
                                      .key_head_bytes = key_bytes,
                                      .value_position_bytes = shape->kv_heads * value_bytes,
                                      .value_head_bytes = value_bytes,
                                      .scale = 1.0f / sqrtf((float)shape->key_size),
                                      .soft_cap = shape->soft_cap,
                                      .window = shape->window,
                                      .chunk = shape->chunk,
                                      .bidirectional = shape->bidirectional,
                                      .around = shape->around,
                                      .alibi = shape->alibi,
                                      .sequences = &f->sequence,
                                      .sequence_count = 1};
    if (shape->shared) {
        f->attention.value_position_bytes = f->attention.key_position_bytes;
        f->attention.value_head_bytes = key_bytes;
    } else {
        f->values = calloc(shape->capacity * shape->kv_heads, value_bytes);
        assert_non_null(f->values);
        f->plain_values = fill_cache(random, shape->value_type, f->values, shape->value_size, shape);
    }
    f->query = random_floats(random, shape->rows * shape->heads * shape->key_size);
    f->output = random_floats(random, shape->rows * shape->heads * shape->value_size);
    f->sinks = random_floats(random, shape->heads);
    f->positions = calloc(shape->rows, sizeof *f->positions);
    assert_non_null(f->positions);
    for (size_t r = 0; r < shape->rows; r++)
        f->positions[r] = (uint32_t)(shape->positions - shape->rows + r);
    f->sequence = (struct attention_sequence){
        .rows = shape->rows, .keys = f->keys, .values = f->values ? f->values : f->keys, .capacity = shape->capacity};
    f->attention.query = f->query;
    f->attention.output = f->output;
    f->attention.positions = f->positions;
    f->attention.sinks = shape->sinks ? f->sinks : NULL;
}

static void teardown(struct fixture *f)
{
    void *all[] = {f->keys, f->values, f->query, f->output, f->sinks, f->positions, f->plain_keys, f->plain_values};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        free(all[i]);
}

static bool sees(const struct shape *shape, uint32_t row, uint32_t position)
{
    return (shape->bidirectional || position <= row) && (!shape->window || position + shape->window > row) &&
           (!shape->chunk || position / shape->chunk == row / shape->chunk) &&
           (!shape->around || (position < row + shape->around && row < position + shape->around));
}

/* The slopes of ALiBi's reference code, for powers of two and other numbers of heads. */
static double slope(const struct shape *shape, size_t head)
{
    size_t heads = 1;
    while (2 * heads <= shape->heads)
        heads *= 2;
    if (head < heads)
        return pow(pow(2, -(double)shape->alibi / (double)heads), (double)head + 1);
    return pow(pow(2, -(double)shape->alibi / 2 / (double)heads), 2 * (double)(head - heads) + 1);
}

/* Computes one head of one row in double precision. */
static void expect_head(const struct fixture *f, size_t row, size_t head, double *out)
{
    const struct shape *s = f->shape;
    size_t kv_head = head / (s->heads / s->kv_heads);
    const float *query = f->query + (row * s->heads + head) * s->key_size;
    double *scores = calloc(s->positions, sizeof *scores);
    assert_non_null(scores);
    double most = s->sinks ? f->sinks[head] : -INFINITY, sum = 0;
    for (size_t p = 0; p < s->positions; p++) {
        if (!sees(s, f->positions[row], (uint32_t)p))
            continue;
        for (size_t i = 0; i < s->key_size; i++)
            scores[p] += (double)query[i] * f->plain_keys[(p * s->kv_heads + kv_head) * s->key_size + i];
        scores[p] *= f->attention.scale;
        if (s->alibi > 0)
            scores[p] -= slope(s, head) * fabs((double)p - (double)f->positions[row]);
        if (s->soft_cap > 0)
            scores[p] = s->soft_cap * tanh(scores[p] / s->soft_cap);
        most = fmax(most, scores[p]);
    }
    memset(out, 0, s->value_size * sizeof *out);
    const float *values = s->shared ? f->plain_keys : f->plain_values;
    size_t stride = s->shared ? s->key_size : s->value_size;
    for (size_t p = 0; p < s->positions; p++) {
        if (!sees(s, f->positions[row], (uint32_t)p))
            continue;
        double weight = exp(scores[p] - most);
        sum += weight;
        for (size_t i = 0; i < s->value_size; i++)
            out[i] += weight * values[(p * s->kv_heads + kv_head) * stride + i];
    }
    if (s->sinks)
        sum += exp(f->sinks[head] - most);
    for (size_t i = 0; i < s->value_size; i++)
        out[i] /= sum;
    free(scores);
}

static void attention_is_right_and_reproducible(void **state)
{
    const struct shape *shape = *state;
    struct random random;
    struct fixture f;
    random_seed(&random, 77);
    setup(&f, shape, &random);
    size_t row_floats = shape->heads * shape->value_size;
    double *expected = calloc(shape->value_size, sizeof *expected);
    float *plain = calloc(shape->rows * row_floats, sizeof *plain);
    assert_non_null(expected);
    assert_non_null(plain);

    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    compute_attention(compute, &f.attention);
    memcpy(plain, f.output, shape->rows * row_floats * sizeof *plain);
    compute_destroy(compute);
    for (size_t row = 0; row<shape->rows; row += shape->rows> 20 ? 11 : 1) {
        for (size_t head = 0; head < shape->heads; head++) {
            expect_head(&f, row, head, expected);
            for (size_t i = 0; i < shape->value_size; i++)
                if (!(fabs(plain[row * row_floats + head * shape->value_size + i] - expected[i]) < 2e-6))
                    fail_msg("%s: row %zu head %zu element %zu: %.9g, expected %.9g", shape->name, row, head, i,
                             (double)plain[row * row_floats + head * shape->value_size + i], expected[i]);
        }
    }

    for (int set = 0; set <= INSTRUCTIONS_NEON; set++) {
        if (!compute_has_instructions((enum instruction_set)set))
            continue;
        for (size_t threads = 1; threads <= 5; threads += SANITIZED ? 4 : 2) { /* sanitizers make this slow */
            /* One thread has unlimited scratch memory, three have just enough, others have room for a few queries. */
            size_t queries = shape->rows * shape->heads / shape->kv_heads;
            struct compute_limits limits = {1, threads == 3 ? queries : 3, shape->key_size, shape->value_size};
            assert_ok(compute_create_limited(&compute, threads, (enum instruction_set)set, threads > 1 ? &limits : NULL,
                                             &test_error));
            memset(f.output, 0xff, shape->rows * row_floats * sizeof *f.output);
            compute_attention(compute, &f.attention);
            if (memcmp(f.output, plain, shape->rows * row_floats * sizeof *plain) != 0)
                fail_msg("%s: %s with %zu threads differs from plain C", shape->name,
                         compute_instructions_name((enum instruction_set)set), threads);
            /* Cut the batch into sequences of one row and of two. With both directions, later rows count: skip it. */
            struct attention cut = f.attention;
            struct attention_sequence rows[200];
            for (size_t step = SANITIZED ? 2 : 1; step <= 2 && !shape->bidirectional; step++) {
                cut.sequence_count = 0;
                cut.sequences = rows;
                for (size_t row = 0; row < shape->rows; row += step) {
                    struct attention_sequence *one = &rows[cut.sequence_count++];
                    *one = f.sequence;
                    one->first_row = row;
                    one->rows = MIN(step, shape->rows - row);
                }
                memset(f.output, 0xff, shape->rows * row_floats * sizeof *f.output);
                compute_attention(compute, &cut);
                if (memcmp(f.output, plain, shape->rows * row_floats * sizeof *plain) != 0)
                    fail_msg("%s: %s with %zu threads differs in batches of %zu", shape->name,
                             compute_instructions_name((enum instruction_set)set), threads, step);
            }
            compute_destroy(compute);
        }
    }
    free(expected);
    free(plain);
    teardown(&f);
}

static double processor_seconds(clockid_t clock)
{
    struct timespec time;
    assert_int_equal(clock_gettime(clock, &time), 0);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* A prompt within one span, with fewer large tiles than threads: the work is still shared among the threads. */
static void many_threads_share_a_prompt(void **state)
{
    (void)state;
    static const struct shape shape = {"prompt", TENSOR_F16, TENSOR_F16, 8, 2, 128,   128,   400,
                                       400,      448,        0,          0, 0, false, false, false};
    struct random random;
    struct fixture f;
    struct compute *compute;
    random_seed(&random, 5);
    setup(&f, &shape, &random);
    assert_ok(compute_create(&compute, 24, compute_best_instructions(), &test_error));
    double share = 1;
    for (int round = 0; round < 30 && share > 0.9; round++) {
        double own = processor_seconds(CLOCK_THREAD_CPUTIME_ID), all = processor_seconds(CLOCK_PROCESS_CPUTIME_ID);
        for (int i = 0; i < 4; i++)
            compute_attention(compute, &f.attention);
        own = processor_seconds(CLOCK_THREAD_CPUTIME_ID) - own;
        share = own / (processor_seconds(CLOCK_PROCESS_CPUTIME_ID) - all);
    }
    assert_true(share <= 0.9);
    compute_destroy(compute);
    teardown(&f);
}

static void cache_rows_keep_their_values(void **state)
{
    (void)state;
    static const struct {
        enum tensor_type type;
        size_t bytes;
        float error; /* largest error, relative to the greatest magnitude in a block */
    } kinds[] = {{TENSOR_F32, 256, 0},
                 {TENSOR_F16, 128, 0x1p-11f},
                 {TENSOR_BF16, 128, 0x1p-8f},
                 {TENSOR_Q8_0, 68, 0.5f / 127 + 0x1p-11f},
                 {TENSOR_Q4_0, 36, 1.0f / 8}};
    struct random random;
    random_seed(&random, 3);
    for (size_t k = 0; k < COUNT_OF(kinds); k++) {
        float *values = random_floats(&random, 3 * 70);
        uint8_t out[3 * 300];
        assert_int_equal(attention_row_bytes(kinds[k].type, 64), kinds[k].bytes);
        attention_store(kinds[k].type, values, 3, 64, 70, out, 300);
        for (size_t r = 0; r < 3; r++) {
            for (size_t c = 0; c < 64; c++) {
                float most = 0;
                for (size_t i = c / 32 * 32; i < c / 32 * 32 + 32; i++)
                    most = fmaxf(most, fabsf(values[r * 70 + i]));
                float got = read_element(kinds[k].type, out + r * 300, c);
                assert_true(fabsf(got - values[r * 70 + c]) <= kinds[k].error * most);
            }
        }
        free(values);
    }
    assert_int_equal(attention_row_bytes(TENSOR_Q8_0, 40), 0);
    assert_int_equal(attention_row_bytes(TENSOR_Q4_K, 256), 0);
}

int main(void)
{
    struct CMUnitTest tests[COUNT_OF(shapes) + 2];
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        tests[i] = (struct CMUnitTest){shapes[i].name, attention_is_right_and_reproducible, NULL, NULL,
                                       (void *)(uintptr_t)&shapes[i]};
    tests[COUNT_OF(shapes)] = (struct CMUnitTest)cmocka_unit_test(cache_rows_keep_their_values);
    tests[COUNT_OF(shapes) + 1] = (struct CMUnitTest)cmocka_unit_test(many_threads_share_a_prompt);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
