/* The search for positions chooses the best ones, and the earlier of equal ones. The choice is the same for every
 * instruction set, number of threads and division of rows. Attention over a choice gives the bits of attention over a
 * cache that holds only the chosen positions. */
#include "test.h"

#include "compute/compute.h"

#include <math.h>
#include <string.h>

/* ---- the search -------------------------------------------------------------------------------------------------- */

struct search_case {
    const char *name;
    enum tensor_type type;
    size_t heads, size, first, rows; /* first: position of the first row */
    bool weighed, by_head;
    uint32_t every, block, local, most;
    bool tail;
};

static const struct search_case searches[] = {
    {"positions", TENSOR_F32, 8, 64, 0, 150, true, false, 1, 1, 0, 10, false},
    {"many heads, half", TENSOR_F16, 70, 40, 2100, 3, true, false, 1, 1, 0, 64, false},
    {"fewer than are chosen", TENSOR_F32, 4, 32, 0, 9, true, false, 1, 1, 0, 16, false},
    {"blocks by head", TENSOR_F32, 2, 32, 30, 130, false, true, 1, 8, 1, 3, false},
    {"more local blocks than chosen", TENSOR_BF16, 3, 32, 90, 5, false, true, 1, 4, 3, 2, false},
    {"keys of four positions", TENSOR_F16, 5, 32, 0, 60, false, false, 4, 1, 0, 3, true},
    {"the same without a tail", TENSOR_F32, 5, 32, 1500, 7, true, false, 4, 1, 0, 100, false},
};

struct search {
    const struct search_case *c;
    float *query, *weights, *keys, *scores;
    uint8_t *cache;
    uint32_t *positions, *words, *expected;
    size_t sets, words_a_row, key_count;
    struct index_search job;
};

static void *zeros(size_t count, size_t size)
{
    void *out = calloc(MAX(count, (size_t)1), size);
    assert_non_null(out);
    return out;
}

/* Fills with small integers, so that every sum is exact and many scores are equal. */
static void fill_small(struct random *random, float *out, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)((int)(random_next(random) % 5) - 2);
}

static void begin_search(struct search *s, const struct search_case *c)
{
    struct random random;
    random_seed(&random, 5);
    *s = (struct search){.c = c, .sets = c->by_head ? c->heads : 1};
    size_t positions = c->first + c->rows, row_bytes = attention_row_bytes(c->type, c->size);
    s->key_count = positions / c->every + 1;
    s->words_a_row = s->sets * (c->most + c->tail + 1);
    s->query = zeros(c->rows * c->heads * c->size, sizeof *s->query);
    s->weights = zeros(c->rows * c->heads, sizeof *s->weights);
    s->keys = zeros(s->key_count * c->size, sizeof *s->keys);
    s->cache = zeros(s->key_count, row_bytes);
    s->scores = zeros(index_score_floats(c->rows, s->sets, positions), sizeof *s->scores);
    s->positions = zeros(c->rows, sizeof *s->positions);
    s->words = zeros(c->rows * s->words_a_row, sizeof *s->words);
    s->expected = zeros(c->rows * s->words_a_row, sizeof *s->expected);
    fill_small(&random, s->query, c->rows * c->heads * c->size);
    fill_small(&random, s->weights, c->rows * c->heads);
    fill_small(&random, s->keys, s->key_count * c->size);
    attention_store(c->type, s->keys, s->key_count, c->size, c->size, s->cache, row_bytes);
    for (size_t r = 0; r < c->rows; r++)
        s->positions[r] = (uint32_t)(c->first + r);
    s->job = (struct index_search){.query = s->query,
                                   .weights = c->weighed ? s->weights : NULL,
                                   .positions = s->positions,
                                   .rows = c->rows,
                                   .keys = s->cache,
                                   .key_bytes = row_bytes,
                                   .type = c->type,
                                   .heads = c->heads,
                                   .size = c->size,
                                   .by_head = c->by_head,
                                   .every = c->every,
                                   .block = c->block,
                                   .local = c->local,
                                   .most = c->most,
                                   .tail = c->tail,
                                   .words = s->words,
                                   .stride = s->words_a_row,
                                   .scores = s->scores};
}

static void end_search(struct search *s)
{
    void *all[] = {s->query, s->weights, s->keys, s->cache, s->scores, s->positions, s->words, s->expected};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        free(all[i]);
}

static double product_of(const struct search *s, size_t row, size_t head, size_t key)
{
    double sum = 0;
    for (size_t i = 0; i < s->c->size; i++)
        sum += (double)s->query[(row * s->c->heads + head) * s->c->size + i] * s->keys[key * s->c->size + i];
    return sum;
}

static double score_of(const struct search *s, size_t row, size_t set, size_t key)
{
    double sum = 0;
    if (s->c->by_head)
        return product_of(s, row, set, key);
    for (size_t h = 0; h < s->c->heads; h++)
        sum += (s->c->weighed ? (double)s->weights[row * s->c->heads + h] : 1) * fmax(0, product_of(s, row, h, key));
    return sum;
}

/* Takes the best remaining one, one at a time. */
static void expect_set(const struct search *s, size_t row, size_t set, uint32_t *out)
{
    const struct search_case *c = s->c;
    size_t keys = (s->positions[row] + 1) / c->every, blocks = (keys + c->block - 1) / c->block;
    double *best = zeros(blocks, sizeof *best);
    bool *chosen = zeros(blocks, sizeof *chosen);
    for (size_t b = 0; b < blocks; b++) {
        best[b] = -INFINITY;
        for (size_t k = b * c->block; k < MIN((b + 1) * c->block, keys); k++)
            best[b] = fmax(best[b], score_of(s, row, set, k));
        if (b + c->local >= blocks)
            best[b] = INFINITY;
    }
    for (size_t i = 0; i < MIN((size_t)c->most, blocks); i++) {
        size_t next = SIZE_MAX;
        for (size_t b = 0; b < blocks; b++)
            if (!chosen[b] && (next == SIZE_MAX || best[b] > best[next]))
                next = b;
        chosen[next] = true;
    }
    out[0] = 0;
    for (size_t b = 0; b < blocks; b++)
        if (chosen[b])
            out[++out[0]] = (uint32_t)b;
    if (c->tail && keys * c->every <= s->positions[row])
        out[++out[0]] = (uint32_t)keys;
    free(best);
    free(chosen);
}

static void expect_words(const struct search *s, const char *how)
{
    for (size_t r = 0; r < s->c->rows; r++)
        for (size_t set = 0; set < s->sets; set++) {
            size_t at = r * s->words_a_row + set * (s->c->most + s->c->tail + 1);
            if (memcmp(s->words + at, s->expected + at, (s->expected[at] + 1) * sizeof *s->words) != 0)
                fail_msg("%s, %s: row %zu, set %zu does not have the best %u", s->c->name, how, r, set,
                         s->expected[at]);
        }
}

static void the_best_are_chosen(void **state)
{
    struct search s;
    begin_search(&s, *state);
    size_t positions = s.c->first + s.c->rows;
    for (size_t r = 0; r < s.c->rows; r++)
        for (size_t set = 0; set < s.sets; set++)
            expect_set(&s, r, set, s.expected + r * s.words_a_row + set * (s.c->most + s.c->tail + 1));
    for (int set = 0; set <= INSTRUCTIONS_NEON; set++) {
        if (!compute_has_instructions((enum instruction_set)set))
            continue;
        for (size_t threads = 1; threads <= 3; threads += 2) {
            struct compute_limits limits = {.tokens = 1,
                                            .queries = 1,
                                            .key_size = 1,
                                            .value_size = 1,
                                            .index_heads = s.c->heads,
                                            .index_size = s.c->size};
            struct compute *compute;
            assert_ok(compute_create_limited(&compute, threads, (enum instruction_set)set, &limits, &test_error));
            for (size_t cut = 1; cut <= s.c->rows; cut = cut * 7 + 1) {
                /* Room for the scores of one row, or of all. */
                s.job.score_floats = index_score_floats(cut % 2 ? 1 : s.c->rows, s.sets, positions);
                memset(s.words, 0xff, s.c->rows * s.words_a_row * sizeof *s.words);
                for (size_t row = 0; row < s.c->rows; row += cut) {
                    s.job.first_row = row;
                    s.job.rows = MIN(cut, s.c->rows - row);
                    compute_index(compute, &s.job);
                }
                expect_words(&s, compute_instructions_name((enum instruction_set)set));
            }
            compute_destroy(compute);
        }
    }
    end_search(&s);
}

/* ---- attention over a choice ------------------------------------------------------------------------------------- */

struct choice_case {
    const char *name;
    enum tensor_type type;
    size_t heads, kv_heads, key_size, value_size, positions, rows, sets;
    uint32_t most, block;
    bool shared, sinks;
};

static const struct choice_case choices[] = {
    {"latent", TENSOR_F16, 20, 1, 576, 512, 1400, 3, 1, 1200, 1, true, true},
    {"latent, float", TENSOR_F32, 4, 1, 80, 64, 300, 9, 1, 8, 1, true, false},
    {"blocks for each kv head", TENSOR_F32, 8, 2, 64, 64, 331, 40, 2, 12, 8, false, false},
    {"half", TENSOR_F16, 6, 2, 128, 128, 500, 5, 1, 70, 4, false, false},
    {"bytes", TENSOR_Q8_0, 4, 4, 64, 32, 260, 6, 4, 9, 16, false, false},
    {"odd sizes", TENSOR_BF16, 3, 1, 40, 20, 200, 5, 1, 33, 1, false, true},
};

struct choice_world {
    const struct choice_case *c;
    struct attention attention;
    struct attention_sequence sequence;
    struct attention_choice choice;
    float *query, *output, *expected, *sinks;
    uint8_t *keys, *values, *near_keys, *near_values;
    uint32_t *positions, *words;
};

static void fill_normal(struct random *random, float *out, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)random_normal(random);
}

static uint8_t *random_cache(struct random *random, const struct choice_case *c, size_t size)
{
    size_t bytes = attention_row_bytes(c->type, size), capacity = align_up(c->positions, ATTENTION_BLOCK);
    float *floats = zeros(capacity * c->kv_heads * size, sizeof *floats);
    uint8_t *out = zeros(capacity * c->kv_heads, bytes);
    fill_normal(random, floats, capacity * c->kv_heads * size);
    attention_store(c->type, floats, capacity * c->kv_heads, size, size, out, bytes);
    free(floats);
    return out;
}

/* Chooses as many blocks as allowed for each row and set, including the row's own block. all: chooses every block. */
static void choose(struct choice_world *w, struct random *random, bool all)
{
    for (size_t r = 0; r < w->c->rows; r++)
        for (size_t set = 0; set < w->c->sets; set++) {
            uint32_t *out = w->words + r * w->choice.stride + set * (w->choice.most + 1), own = w->positions[r];
            uint32_t blocks = own / w->c->block + 1, wanted = all ? blocks : MIN(w->c->most, blocks);
            out[0] = 0;
            for (uint32_t b = 0; b < blocks; b++) {
                uint32_t left = blocks - b, missing = wanted - out[0];
                if (missing && (b + 1 == blocks || random_next(random) % left < missing - (missing > 1 ? 0 : 1)))
                    out[++out[0]] = b;
            }
        }
}

static void begin_choice(struct choice_world *w, const struct choice_case *c, bool all)
{
    struct random random;
    random_seed(&random, 9);
    *w = (struct choice_world){.c = c};
    size_t key_bytes = attention_row_bytes(c->type, c->key_size), blocks = c->positions / c->block + 1;
    size_t value_bytes = c->shared ? key_bytes : attention_row_bytes(c->type, c->value_size);
    w->keys = random_cache(&random, c, c->key_size);
    w->near_keys = random_cache(&random, c, c->key_size);
    w->values = c->shared ? w->keys : random_cache(&random, c, c->value_size);
    w->near_values = c->shared ? w->near_keys : random_cache(&random, c, c->value_size);
    w->query = zeros(c->rows * c->heads * c->key_size, sizeof *w->query);
    w->output = zeros(c->rows * c->heads * c->value_size, sizeof *w->output);
    w->expected = zeros(c->rows * c->heads * c->value_size, sizeof *w->expected);
    w->sinks = zeros(c->heads, sizeof *w->sinks);
    w->positions = zeros(c->rows, sizeof *w->positions);
    fill_normal(&random, w->query, c->rows * c->heads * c->key_size);
    fill_normal(&random, w->sinks, c->heads);
    for (size_t r = 0; r < c->rows; r++)
        w->positions[r] = (uint32_t)(c->positions - c->rows + r);
    w->choice.sets = c->sets;
    w->choice.most = all ? blocks : c->most;
    w->choice.block = c->block;
    w->choice.stride = c->sets * (w->choice.most + 1);
    w->choice.words = w->words = zeros(c->rows * w->choice.stride, sizeof *w->words);
    choose(w, &random, all);
    w->sequence = (struct attention_sequence){.rows = c->rows,
                                              .keys = w->keys,
                                              .values = w->values,
                                              .capacity = (size_t)align_up(c->positions, ATTENTION_BLOCK)};
    w->attention = (struct attention){.query = w->query,
                                      .output = w->output,
                                      .positions = w->positions,
                                      .heads = c->heads,
                                      .kv_heads = c->kv_heads,
                                      .key_size = c->key_size,
                                      .value_size = c->value_size,
                                      .key_type = c->type,
                                      .value_type = c->type,
                                      .key_position_bytes = c->kv_heads * key_bytes,
                                      .key_head_bytes = key_bytes,
                                      .value_position_bytes = c->kv_heads * value_bytes,
                                      .value_head_bytes = value_bytes,
                                      .scale = 0.2f,
                                      .choice = &w->choice,
                                      .sinks = c->sinks ? w->sinks : NULL,
                                      .sequences = &w->sequence,
                                      .sequence_count = 1};
}

static void end_choice(struct choice_world *w)
{
    void *all[] = {w->keys,
                   w->near_keys,
                   w->query,
                   w->output,
                   w->expected,
                   w->c->shared ? NULL : w->values,
                   w->c->shared ? NULL : w->near_values,
                   w->sinks,
                   w->positions,
                   w->words};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        free(all[i]);
}

/* Copies the chosen rows of one KV head to another cache, without gaps. Returns their number. */
static size_t bring_near(const struct choice_world *w, size_t row, size_t kv_head)
{
    const struct attention *a = &w->attention;
    const uint32_t *set = w->words + row * w->choice.stride + (w->c->sets > 1 ? kv_head : 0) * (w->choice.most + 1);
    size_t count = 0;
    for (uint32_t i = 1; i <= set[0]; i++)
        for (size_t p = (size_t)set[i] * w->c->block; p < (size_t)(set[i] + 1) * w->c->block; p++) {
            if (p > w->positions[row])
                break;
            size_t key = kv_head * a->key_head_bytes, value = kv_head * a->value_head_bytes;
            memcpy(w->near_keys + count * a->key_position_bytes + key, w->keys + p * a->key_position_bytes + key,
                   a->key_head_bytes);
            memcpy(w->near_values + count * a->value_position_bytes + value,
                   w->values + p * a->value_position_bytes + value, a->value_head_bytes);
            count++;
        }
    return count;
}

/* Computes each row and KV head separately, over a cache of only the chosen positions. */
static void expect_near(const struct choice_world *w, struct compute *compute)
{
    const struct choice_case *c = w->c;
    float *out = zeros(c->heads * c->value_size, sizeof *out);
    size_t group = c->heads / c->kv_heads;
    for (size_t row = 0; row < c->rows; row++)
        for (size_t kv_head = 0; kv_head < c->kv_heads; kv_head++) {
            uint32_t position = (uint32_t)bring_near(w, row, kv_head) - 1;
            struct attention_sequence sequence = w->sequence;
            struct attention one = w->attention;
            sequence.rows = 1;
            sequence.keys = w->near_keys;
            sequence.values = w->near_values;
            one.query += row * c->heads * c->key_size;
            one.output = out;
            one.positions = &position;
            one.choice = NULL;
            one.sequences = &sequence;
            compute_attention(compute, &one);
            memcpy(w->expected + (row * c->heads + kv_head * group) * c->value_size,
                   out + kv_head * group * c->value_size, group * c->value_size * sizeof *out);
        }
    free(out);
}

static void check_choice(const struct choice_case *c, bool all)
{
    struct choice_world w;
    struct compute *compute;
    size_t bytes = c->rows * c->heads * c->value_size * sizeof(float);
    begin_choice(&w, c, all);
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    if (all) {
        w.attention.choice = NULL;
        compute_attention(compute, &w.attention);
        w.attention.choice = &w.choice;
        memcpy(w.expected, w.output, bytes);
    } else {
        expect_near(&w, compute);
    }
    compute_destroy(compute);
    for (int set = 0; set <= INSTRUCTIONS_NEON; set++) {
        if (!compute_has_instructions((enum instruction_set)set))
            continue;
        for (size_t threads = 1; threads <= 3; threads += 2) {
            struct compute_limits limits = {
                .tokens = 1, .queries = threads, .key_size = c->key_size, .value_size = c->value_size, .chooses = true};
            assert_ok(compute_create_limited(&compute, threads, (enum instruction_set)set, &limits, &test_error));
            memset(w.output, 0xff, bytes);
            compute_attention(compute, &w.attention);
            if (memcmp(w.output, w.expected, bytes) != 0)
                fail_msg("%s%s: %s with %zu threads gives other bits", c->name, all ? ", all of them" : "",
                         compute_instructions_name((enum instruction_set)set), threads);
            compute_destroy(compute);
        }
    }
    end_choice(&w);
}

static void only_chosen_positions_are_seen(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(choices); i++)
        check_choice(&choices[i], false);
}

static void choosing_all_equals_no_choice(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(choices); i++)
        check_choice(&choices[i], true);
}

int main(void)
{
    struct CMUnitTest tests[COUNT_OF(searches) + 2];
    for (size_t i = 0; i < COUNT_OF(searches); i++)
        tests[i] = (struct CMUnitTest){searches[i].name, the_best_are_chosen, NULL, NULL, (void *)&searches[i]};
    tests[COUNT_OF(searches)] = (struct CMUnitTest)cmocka_unit_test(only_chosen_positions_are_seen);
    tests[COUNT_OF(searches) + 1] = (struct CMUnitTest)cmocka_unit_test(choosing_all_equals_no_choice);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
