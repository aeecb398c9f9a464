/* The GPU's search for positions, and attention over the chosen ones. If all positions are chosen, the result is that
 * of attention without a choice. The search makes the same choices as plain C, for two sequences in one batch, and also
 * if there is room for the scores of only a few rows. Scores are small integers: exact, and often equal. */
#include "gpu_test.h"

#include "compute/compute.h"

#define ROWS 6u

struct shape {
    uint32_t heads, size, first; /* first: position of the first sequence's first row */
    bool weighed, by_head;
    uint32_t every, block, local, most;
    bool tail;
    uint32_t rows_at_once;
};

static const struct shape shapes[] = {
    {8, 64, 900, true, false, 1, 1, 0, 300, false, 6}, {70, 40, 2100, true, false, 1, 1, 0, 64, false, 2},
    {2, 32, 1300, false, true, 1, 8, 1, 3, false, 6},  {3, 32, 90, false, true, 1, 4, 3, 2, false, 1},
    {5, 32, 2047, false, false, 4, 1, 0, 3, true, 4},  {1, 192, 9, true, false, 1, 1, 0, 64, false, 6}};

/* Rows per sequence. */
static const uint32_t lengths[2] = {4, 2};

static float *small_floats(struct random *random, size_t count)
{
    float *values = gpu_test_floats(random, count);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)((int)(random_next(random) % 5) - 2);
    return values;
}

static void expect(const struct shape *s, const float *query, const float *weights, const uint8_t *keys, size_t region,
                   uint32_t *words, uint32_t row_words)
{
    struct compute *compute;
    const uint32_t sets = s->by_head ? s->heads : 1;
    const size_t floats = index_score_floats(ROWS, sets, s->first + ROWS);
    float *scores = calloc(floats, sizeof *scores);
    uint32_t positions[ROWS], first = 0;
    const struct compute_limits limits = {.tokens = 1, .index_heads = s->heads, .index_size = s->size};
    assert_ok(compute_create_limited(&compute, 1, INSTRUCTIONS_PLAIN, &limits, &test_error));
    for (uint32_t i = 0; i < 2; first += lengths[i++]) {
        for (uint32_t r = 0; r < lengths[i]; r++)
            positions[first + r] = (i ? s->first / 2 : s->first) + r;
        compute_index(compute, &(struct index_search){.query = query,
                                                      .weights = s->weighed ? weights : NULL,
                                                      .positions = positions,
                                                      .first_row = first,
                                                      .rows = lengths[i],
                                                      .keys = keys + i * region,
                                                      .key_bytes = s->size * sizeof(float),
                                                      .type = TENSOR_F32,
                                                      .heads = s->heads,
                                                      .size = s->size,
                                                      .by_head = s->by_head,
                                                      .every = s->every,
                                                      .block = s->block,
                                                      .local = s->local,
                                                      .most = s->most,
                                                      .tail = s->tail,
                                                      .words = words,
                                                      .stride = row_words,
                                                      .scores = scores,
                                                      .score_floats = floats});
    }
    compute_destroy(compute);
    free(scores);
}

static void check(struct gpu *gpu, const struct shape *s)
{
    struct random random;
    random_seed(&random, 3);
    const uint32_t sets = s->by_head ? s->heads : 1, row_words = sets * (s->most + s->tail + 1);
    const uint32_t capacity = (uint32_t)align_up((s->first + ROWS) / s->every + 1, ATTENTION_BLOCK);
    const size_t region = capacity * s->size * sizeof(float), bytes = ROWS * row_words * sizeof(uint32_t);
    float *query = small_floats(&random, ROWS * s->heads * s->size), *weights = small_floats(&random, ROWS * s->heads);
    float *keys = small_floats(&random, 2 * region / sizeof *keys);
    uint32_t *expected = calloc(1, bytes), at = 0;
    expect(s, query, weights, (const uint8_t *)keys, region, expected, row_words);
    const uint64_t score_bytes = s->rows_at_once * gpu_index_score_bytes(sets, (s->first + ROWS) / s->every);
    const struct gpu_sequence sequences[] = {
        {.first_row = 0, .rows = lengths[0], .first_position = s->first, .capacity = capacity},
        {.first_row = lengths[0],
         .rows = lengths[1],
         .first_position = s->first / 2,
         .capacity = capacity,
         .keys = region,
         .values = region}};
    struct gpu_index index = {.query = gpu_test_range(gpu, query, ROWS * s->heads * s->size * sizeof(float)),
                              .weights = gpu_test_range(gpu, weights, ROWS * s->heads * sizeof(float)),
                              .cache = gpu_test_range(gpu, keys, 2 * region),
                              .words = gpu_test_range(gpu, NULL, bytes),
                              .scores = gpu_test_range(gpu, NULL, score_bytes),
                              .score_bytes = score_bytes,
                              .rows = ROWS,
                              .heads = s->heads,
                              .size = s->size,
                              .by_head = s->by_head,
                              .tail = s->tail,
                              .every = s->every,
                              .block = s->block,
                              .local = s->local,
                              .most = s->most,
                              .row_words = row_words,
                              .type = TENSOR_F32,
                              .key_position_bytes = s->size * (uint32_t)sizeof(float),
                              .sequences = sequences,
                              .sequence_count = 2};
    const struct gpu_range made[] = {index.query, index.weights, index.cache, index.scores};
    if (!s->weighed)
        index.weights = (struct gpu_range){0};
    gpu_begin(gpu);
    gpu_index(gpu, &index);
    gpu_test_run(gpu);
    uint32_t *words = gpu_test_take(gpu, index.words, bytes);
    for (uint32_t set = 0; set < ROWS * sets; set++, at += s->most + s->tail + 1) {
        assert_in_range(expected[at], 1, s->most + s->tail);
        assert_memory_equal(words + at, expected + at, (1 + expected[at]) * sizeof *words);
    }
    for (size_t i = 0; i < COUNT_OF(made); i++)
        gpu_buffer_destroy(gpu, made[i].buffer);
    free(query), free(weights), free(keys), free(expected), free(words);
}

static void chooses_like_plain_c(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    for (size_t i = 0; i < COUNT_OF(shapes); i++)
        check(gpu, &shapes[i]);
}

/* ---- attention over chosen positions ----------------------------------------------------------------------------- */

#define HEADS 4u
#define KV_HEADS 2u
#define SIZE 64u
#define PLACES 150u /* positions in the cache; the last SEEN are the rows of the batch */
#define SEEN 5u
#define BLOCK 8u
#define SETS (KV_HEADS * (PLACES / BLOCK + 2))

/* Stores keys and values of a sequence as a layer does. The queries belong to the last rows. */
static struct gpu_attention fill_cache(struct gpu *gpu, enum tensor_type type, struct gpu_sequence *sequence,
                                       struct gpu_range ranges[4])
{
    struct random random;
    random_seed(&random, 9);
    const uint32_t position_bytes = (uint32_t)attention_row_bytes(type, SIZE);
    const uint32_t capacity = (uint32_t)align_up(PLACES, ATTENTION_BLOCK);
    float *rows = gpu_test_floats(&random, PLACES * HEADS * SIZE), *sinks = gpu_test_floats(&random, HEADS);
    ranges[0] = gpu_test_range(gpu, rows, PLACES * HEADS * SIZE * sizeof *rows);
    ranges[1] = gpu_test_range(gpu, NULL, 2ull * KV_HEADS * capacity * position_bytes);
    ranges[2] = gpu_test_range(gpu, sinks, HEADS * sizeof *sinks);
    ranges[3] = gpu_test_range(gpu, NULL, gpu_attention_scratch_bytes(GPU_VECTOR_TOKENS, HEADS, SIZE, PLACES));
    *sequence = (struct gpu_sequence){
        .rows = PLACES, .capacity = capacity, .values = (uint64_t)KV_HEADS * capacity * position_bytes};
    gpu_begin(gpu);
    gpu_heads(gpu, &(struct gpu_heads){.key = ranges[0],
                                       .value = ranges[0],
                                       .cache = ranges[1],
                                       .key_stride = HEADS * SIZE,
                                       .value_stride = HEADS * SIZE,
                                       .rows = PLACES,
                                       .kv_heads = KV_HEADS,
                                       .key_size = SIZE,
                                       .value_size = SIZE,
                                       .type = type,
                                       .key_position_bytes = position_bytes,
                                       .value_position_bytes = position_bytes,
                                       .sequences = sequence,
                                       .sequence_count = 1});
    gpu_test_run(gpu);
    sequence->rows = SEEN;
    sequence->first_position = PLACES - SEEN;
    free(rows), free(sinks);
    return (struct gpu_attention){.query = ranges[0],
                                  .cache = ranges[1],
                                  .sinks = ranges[2],
                                  .scratch = ranges[3],
                                  .rows = SEEN,
                                  .heads = HEADS,
                                  .kv_heads = KV_HEADS,
                                  .key_size = SIZE,
                                  .value_size = SIZE,
                                  .type = type,
                                  .key_position_bytes = position_bytes,
                                  .value_position_bytes = position_bytes,
                                  .scale = 0.125f,
                                  .sequences = sequence,
                                  .sequence_count = 1};
}

/* If all blocks are chosen, or a window covers all, the result is that of attention without a choice. */
static void check_all(struct gpu *gpu, enum tensor_type type, double most)
{
    struct gpu_sequence sequence;
    struct gpu_range ranges[4];
    struct gpu_attention attention = fill_cache(gpu, type, &sequence, ranges);
    const size_t count = SEEN * HEADS * SIZE, bytes = count * sizeof(float);
    uint32_t words[SEEN * SETS] = {0};
    const struct gpu_choice chosen = {.sets = KV_HEADS, .most = SETS / KV_HEADS - 1, .block = BLOCK};
    const struct gpu_choice window = {
        .sets = 1, .block = 1, .ring = sequence.capacity, .window = PLACES, .every = 1000};
    for (uint32_t set = 0; set < SEEN * KV_HEADS; set++) {
        uint32_t *ids = words + set * (SETS / KV_HEADS), own = PLACES - SEEN + set / KV_HEADS;
        ids[0] = own / BLOCK + 1;
        for (uint32_t i = 0; i < ids[0]; i++)
            ids[1 + i] = i;
    }
    float *expected = NULL;
    for (int way = 0; way < 3; way++) {
        struct gpu_choice choice = way == 1 ? chosen : window;
        if (way == 1)
            choice.words = gpu_test_range(gpu, words, sizeof words);
        attention.out = gpu_test_range(gpu, NULL, bytes);
        gpu_begin(gpu);
        if (way == 0)
            gpu_attention(gpu, &attention);
        else
            gpu_attend_chosen(gpu, &attention, &choice);
        gpu_test_run(gpu);
        float *out = gpu_test_take(gpu, attention.out, bytes);
        if (way == 0) {
            expected = out;
            continue;
        }
        double error = gpu_test_error(out, expected, count);
        if (!(error < most))
            fail_msg("type %d, way %d: the error is %g", type, way, error);
        free(out);
        if (choice.words.buffer)
            gpu_buffer_destroy(gpu, choice.words.buffer);
    }
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        gpu_buffer_destroy(gpu, ranges[i].buffer);
    free(expected);
}

static void choosing_all_equals_no_choice(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    check_all(gpu, TENSOR_F32, 2e-6);
    check_all(gpu, TENSOR_F16, 2e-6);
    check_all(gpu, TENSOR_BF16, 2e-6);
    check_all(gpu, TENSOR_Q8_0, 1e-3); /* the other kernels convert these to halves */
    check_all(gpu, TENSOR_Q4_0, 1e-3);
}

#define MANY 20u

/* Attention over a choice, with at most "at_once" rows per call. */
static float *attend_rows(struct gpu *gpu, struct gpu_attention attention, const struct gpu_choice *choice,
                          uint32_t at_once)
{
    const uint32_t row = attention.heads * SIZE, words = choice->sets * (choice->most + 1);
    const struct gpu_sequence whole = *attention.sequences;
    struct gpu_range out = gpu_test_range(gpu, NULL, (size_t)MANY * row * sizeof(float));
    for (uint32_t first = 0; first < MANY; first += at_once) {
        struct gpu_attention part = attention;
        struct gpu_choice some = *choice;
        struct gpu_sequence sequence = whole;
        sequence.rows = part.rows = at_once;
        sequence.first_position += first;
        part.sequences = &sequence;
        part.query.offset += (uint64_t)first * row * sizeof(float);
        part.out = out;
        part.out.offset += (uint64_t)first * row * sizeof(float);
        if (some.words.buffer)
            some.words.offset += (uint64_t)first * words * sizeof(uint32_t);
        gpu_begin(gpu);
        gpu_attend_chosen(gpu, &part, &some);
        gpu_test_run(gpu);
    }
    return gpu_test_take(gpu, out, (size_t)MANY * row * sizeof(float));
}

/* Many rows use a kernel that reads each position once for several heads. */
static void many_rows_match_few_rows(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_F16, TENSOR_Q8_0, TENSOR_Q4_0};
    static const uint32_t heads[][2] = {{4, 2}, {4, 1}, {8, 1}};
    for (size_t t = 0; t < COUNT_OF(types) * COUNT_OF(heads); t++) {
        struct gpu_sequence sequence;
        struct gpu_range ranges[4];
        struct gpu_attention attention = fill_cache(gpu, types[t % COUNT_OF(types)], &sequence, ranges);
        const struct gpu_range sinks = attention.sinks;
        attention.heads = heads[t / COUNT_OF(types)][0];
        attention.kv_heads = heads[t / COUNT_OF(types)][1];
        sequence.first_position = PLACES - MANY;
        uint32_t words[MANY * SETS] = {0};
        const struct gpu_choice chosen = {
            .sets = attention.kv_heads, .most = SETS / attention.kv_heads - 1, .block = BLOCK};
        for (uint32_t set = 0; set < MANY * chosen.sets; set++) {
            uint32_t *ids = words + set * (chosen.most + 1), own = PLACES - MANY + set / chosen.sets;
            for (uint32_t id = set % 3; id <= own / BLOCK; id += 2)
                ids[1 + ids[0]++] = id;
        }
        for (int way = 0; way < 2; way++) {
            struct gpu_choice choice =
                way ? (struct gpu_choice){.sets = 1, .block = 1, .ring = 64, .window = 40, .every = 7} : chosen;
            if (way == 0)
                choice.words = gpu_test_range(gpu, words, sizeof words);
            attention.sinks = way ? sinks : (struct gpu_range){0};
            attention.soft_cap = way ? 0.0f : 30.0f;
            float *few = attend_rows(gpu, attention, &choice, 5), *many = attend_rows(gpu, attention, &choice, MANY);
            double error = gpu_test_error(many, few, (size_t)MANY * attention.heads * SIZE);
            if (!(error < 2e-6))
                fail_msg("type %d, %u heads, way %d: the error is %g", (int)attention.type, attention.heads, way,
                         error);
            free(few);
            free(many);
            if (choice.words.buffer)
                gpu_buffer_destroy(gpu, choice.words.buffer);
        }
        for (size_t i = 0; i < COUNT_OF(ranges); i++)
            gpu_buffer_destroy(gpu, ranges[i].buffer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(chooses_like_plain_c),
                                       cmocka_unit_test(choosing_all_equals_no_choice),
                                       cmocka_unit_test(many_rows_match_few_rows)};
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
