/* The sampler: each step compared with figures worked out by hand, the distribution that it draws from, and equal
 * tokens for equal seeds. */
#include "test.h"

#include "sampling/sampler.h"

#include <math.h>
#include <string.h>

enum { DRAWS = 20000 };

/* Options with every step off. */
static struct sampler_options plain(void)
{
    struct sampler_options o;
    sampler_default_options(&o);
    o.temperature = 1;
    o.top_k = 0;
    o.top_p = 1;
    o.min_p = 0;
    o.seed = 42;
    return o;
}

/* The share of draws of each of the count tokens, for logits that give the probabilities p. */
static void shares(const struct sampler_options *options, const float *p, size_t count, float *share)
{
    float logits[64];
    for (size_t i = 0; i < count; i++)
        logits[i] = logf(p[i]);
    struct sampler *s;
    assert_ok(sampler_create(&s, options, count, &test_error));
    memset(share, 0, count * sizeof *share);
    for (int i = 0; i < DRAWS; i++) {
        int32_t token;
        assert_ok(sampler_sample(s, logits, &token, &test_error));
        share[token] += 1.0f / DRAWS;
    }
    sampler_destroy(s);
}

static void expect_shares(const struct sampler_options *options, const float *p, size_t count, const float *expected)
{
    float share[64];
    shares(options, p, count, share);
    for (size_t i = 0; i < count; i++) {
        if (expected[i] == 0)
            assert_true(share[i] == 0);
        else if (fabsf(share[i] - expected[i]) > 0.02f)
            fail_msg("token %zu: drawn %.3f of the time, expected %.3f", i, (double)share[i], (double)expected[i]);
    }
}

static const float four[] = {0.1f, 0.4f, 0.2f, 0.3f};

static void test_draws_from_the_distribution(void **state)
{
    (void)state;
    struct sampler_options o = plain();
    expect_shares(&o, four, 4, four);
    /* Temperature 0.5 squares the probabilities: 1, 16, 4, 9 of 30. */
    o.temperature = 0.5f;
    expect_shares(&o, four, 4, (float[]){1 / 30.0f, 16 / 30.0f, 4 / 30.0f, 9 / 30.0f});
}

static void test_truncation(void **state)
{
    (void)state;
    struct sampler_options o = plain();
    o.top_k = 2;
    expect_shares(&o, four, 4, (float[]){0, 4 / 7.0f, 0, 3 / 7.0f});
    o = plain();
    o.top_p = 0.65f; /* reached by 0.4 + 0.3 */
    expect_shares(&o, four, 4, (float[]){0, 4 / 7.0f, 0, 3 / 7.0f});
    o.top_p = 0.75f;
    expect_shares(&o, four, 4, (float[]){0, 4 / 9.0f, 2 / 9.0f, 3 / 9.0f});
    o.top_p = 0; /* always at least one token */
    expect_shares(&o, four, 4, (float[]){0, 1, 0, 0});
    o = plain();
    o.min_p = 0.45f; /* 0.45 of the greatest, 0.4, is 0.18 */
    expect_shares(&o, four, 4, (float[]){0, 4 / 9.0f, 2 / 9.0f, 3 / 9.0f});
    /* The entropy is 1.2799, the surprises are 2.30, 0.92, 1.61 and 1.20. By distance: tokens 3 (0.08), 2 (0.33), 1
     * (0.36) and 0. */
    o = plain();
    o.typical_p = 0.45f;
    expect_shares(&o, four, 4, (float[]){0, 0, 2 / 5.0f, 3 / 5.0f});
    /* The logits are -2.303, -0.916, -1.609 and -1.204, with mean -1.508 and standard deviation 0.520. The best minus
     * half of that is -1.176. */
    o = plain();
    o.top_n_sigma = 0.5f;
    expect_shares(&o, four, 4, (float[]){0, 1, 0, 0});
    o.top_n_sigma = 1;
    expect_shares(&o, four, 4, (float[]){0, 4 / 7.0f, 0, 3 / 7.0f});
}

static void test_xtc_drops_all_but_the_least_of_the_likely(void **state)
{
    (void)state;
    struct sampler_options o = plain();
    o.xtc_probability = 1;
    o.xtc_threshold = 0.15f; /* 0.4, 0.3 and 0.2 are above it; the first two are dropped */
    expect_shares(&o, four, 4, (float[]){1 / 3.0f, 0, 2 / 3.0f, 0});
    o.xtc_probability = 0.5f; /* half of the time */
    expect_shares(&o, four, 4, (float[]){(0.1f + 1 / 3.0f) / 2, 0.2f, (0.2f + 2 / 3.0f) / 2, 0.15f});
    o.xtc_probability = 1;
    o.xtc_threshold = 0.35f; /* only one is above it, so none is dropped */
    expect_shares(&o, four, 4, four);
}

static void test_dynamic_temperature_follows_the_entropy(void **state)
{
    (void)state;
    /* A flat distribution has the greatest entropy, so the temperature is the highest. It stays flat. */
    struct sampler_options o = plain();
    o.dynamic_range = 0.5f;
    expect_shares(&o, (float[]){0.25f, 0.25f, 0.25f, 0.25f}, 4, (float[]){0.25f, 0.25f, 0.25f, 0.25f});
    /* For 0.9 and 0.1, the entropy is 0.3251 of 0.6931, a share of 0.4690. The temperature is 0.5 + 0.4690 = 0.9690,
     * the ratio 9 ^ (1 / 0.969). */
    float ratio = powf(9, 1 / 0.969f);
    expect_shares(&o, (float[]){0.9f, 0.1f}, 2, (float[]){ratio / (1 + ratio), 1 / (1 + ratio)});
}

static int32_t sample_once(const struct sampler_options *o, const float *logits, size_t count, const int32_t *history,
                           size_t history_count)
{
    struct sampler *s;
    int32_t token;
    assert_ok(sampler_create(&s, o, count, &test_error));
    for (size_t i = 0; i < history_count; i++)
        sampler_accept(s, history[i]);
    assert_ok(sampler_sample(s, logits, &token, &test_error));
    sampler_destroy(s);
    return token;
}

static void test_greedy_takes_the_best_and_the_lower_id_of_equals(void **state)
{
    (void)state;
    struct sampler_options o = plain();
    o.temperature = 0;
    assert_int_equal(sample_once(&o, (float[]){1, 3, 3, 2}, 4, NULL, 0), 1);
    assert_int_equal(sample_once(&o, (float[]){NAN, -INFINITY, -5, NAN}, 4, NULL, 0), 2);
    o.temperature = -1;
    assert_int_equal(sample_once(&o, (float[]){-1, -3, -0.5f, -2}, 4, NULL, 0), 2);
}

static void test_penalties(void **state)
{
    (void)state;
    struct sampler_options o = plain();
    o.temperature = 0;
    const int32_t seen[] = {0, 0, 1};
    o.repeat_penalty = 2; /* 3 becomes 1.5; -1 becomes -2 */
    assert_int_equal(sample_once(&o, (float[]){3, 0, 1.6f}, 3, seen, 3), 2);
    assert_int_equal(sample_once(&o, (float[]){3, 0, 1.4f}, 3, seen, 3), 0);
    assert_int_equal(sample_once(&o, (float[]){-9, -1, -1.9f}, 3, seen, 3), 2);
    assert_int_equal(sample_once(&o, (float[]){-9, -1, -2.1f}, 3, seen, 3), 1);
    o.repeat_penalty = 1;
    o.frequency_penalty = 1; /* token 0 loses 2, token 1 loses 1 */
    assert_int_equal(sample_once(&o, (float[]){3, 2.1f, 0}, 3, seen, 3), 1);
    assert_int_equal(sample_once(&o, (float[]){3, 1.9f, 0}, 3, seen, 3), 0);
    o.frequency_penalty = 0;
    o.presence_penalty = 1; /* both lose 1 */
    assert_int_equal(sample_once(&o, (float[]){3, 2.9f, 1.9f}, 3, seen, 3), 0);
    assert_int_equal(sample_once(&o, (float[]){3, 2.9f, 2.1f}, 3, seen, 3), 2);
    assert_int_equal(sample_once(&o, (float[]){3, 2.9f, 2.05f}, 3, (int32_t[]){0, 0, 0}, 3), 1);
    o.repeat_last_n = 1; /* only token 1 counts */
    assert_int_equal(sample_once(&o, (float[]){2, 2.9f, 1.95f}, 3, seen, 3), 0);
    o.repeat_last_n = 0;
    assert_int_equal(sample_once(&o, (float[]){2, 2.9f, 1.95f}, 3, seen, 3), 1);
}

static void test_bias(void **state)
{
    (void)state;
    struct sampler_options o = plain();
    o.temperature = 0;
    const struct logit_bias biases[] = {{0, -INFINITY}, {2, 5}};
    o.biases = biases;
    o.bias_count = 2;
    assert_int_equal(sample_once(&o, (float[]){9, 3, -1}, 3, NULL, 0), 2);
    assert_int_equal(sample_once(&o, (float[]){9, 5, -1}, 3, NULL, 0), 1);
}

static void test_dry_penalises_longer_repetitions(void **state)
{
    (void)state;
    struct sampler_options o = plain();
    o.temperature = 0;
    o.dry_multiplier = 1;
    o.dry_base = 2;
    /* After 1 2 3 0 1 2, a 3 would lengthen the repeat "1 2" of length 2: the penalty is 1 * 2 ^ 0. */
    const int32_t seen[] = {1, 2, 3, 0, 1, 2};
    assert_int_equal(sample_once(&o, (float[]){0, 0, 0, 5, 4.5f}, 5, seen, 6), 4);
    assert_int_equal(sample_once(&o, (float[]){0, 0, 0, 5, 3.5f}, 5, seen, 6), 3);
    /* After 1 2 3 0 1 2 3, a 0 would lengthen a repeat of length 3: the penalty is 2 ^ 1. */
    const int32_t longer[] = {1, 2, 3, 0, 1, 2, 3};
    assert_int_equal(sample_once(&o, (float[]){5, 0, 0, 0, 3.5f}, 5, longer, 7), 4);
    assert_int_equal(sample_once(&o, (float[]){5, 0, 0, 0, 2.5f}, 5, longer, 7), 0);
    o.dry_allowed_length = 3;
    assert_int_equal(sample_once(&o, (float[]){0, 0, 0, 5, 4.5f}, 5, seen, 6), 3);
    /* Token 1 contains a breaker, so the repeat after it has only one token. */
    const struct token_piece pieces[] = {{"a", 1}, {"b\n", 2}, {"c", 1}, {"d", 1}, {"e", 1}};
    o.dry_allowed_length = 2;
    o.pieces = pieces;
    assert_int_equal(sample_once(&o, (float[]){0, 0, 0, 5, 4.5f}, 5, seen, 6), 3);
    /* A breaker of two characters also works across two tokens. */
    const char *breakers[] = {"bc"};
    const struct token_piece letters[] = {{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}, {"e", 1}};
    o.pieces = letters;
    o.dry_breakers = breakers;
    o.dry_breaker_count = 1;
    assert_int_equal(sample_once(&o, (float[]){0, 0, 0, 5, 4.5f}, 5, seen, 6), 3);
    o.dry_breaker_count = 0;
    assert_int_equal(sample_once(&o, (float[]){0, 0, 0, 5, 4.5f}, 5, seen, 6), 4);
}

/* The linear search for repetitions finds the same as comparing all pairs. */
static void test_dry_equals_the_plain_search(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 3);
    for (int round = 0; round < 300; round++) {
        int32_t history[40];
        size_t count = 3 + random_next(&random) % 37;
        for (size_t i = 0; i < count; i++)
            history[i] = (int32_t)(random_next(&random) % 3);
        float expected[4] = {0, 0, 0, -50};
        for (int32_t next = 0; next < 3; next++) {
            size_t longest = 0;
            for (size_t at = 0; at + 1 < count; at++) {
                size_t length = 0;
                while (length <= at && history[at - length] == history[count - 1 - length])
                    length++;
                if (history[at + 1] == next)
                    longest = MAX(longest, length);
            }
            if (longest >= 2)
                expected[next] = -0.5f * powf(1.25f, (float)longest - 2);
        }
        int32_t best = 0;
        for (int32_t i = 1; i < 3; i++)
            if (expected[i] > expected[best])
                best = i;
        struct sampler_options o = plain();
        o.temperature = 0;
        o.dry_multiplier = 0.5f;
        o.dry_base = 1.25f;
        assert_int_equal(sample_once(&o, (float[]){0, 0, 0, -50}, 4, history, count), best);
    }
}

static void test_mirostat_holds_its_surprise(void **state)
{
    (void)state;
    float logits[64], sum = 0, p[64];
    for (int i = 0; i < 64; i++) {
        p[i] = 1.0f / (float)(i + 1);
        sum += p[i];
        logits[i] = logf(p[i]);
    }
    struct sampler_options o = plain();
    o.mirostat = 2;
    o.mirostat_tau = 2;
    struct sampler *s;
    assert_ok(sampler_create(&s, &o, 64, &test_error));
    double surprise = 0;
    for (int i = 0; i < DRAWS; i++) {
        int32_t token;
        assert_ok(sampler_sample(s, logits, &token, &test_error));
        surprise -= log2((double)(p[token] / sum)) / DRAWS;
    }
    sampler_destroy(s);
    /* Mirostat measures surprise after truncation. Over the whole distribution, it is somewhat greater. */
    assert_true(surprise > 1.8 && surprise < 3.2);
}

static void fill(float *logits, size_t count, uint64_t seed)
{
    struct random random;
    random_seed(&random, seed);
    for (size_t i = 0; i < count; i++)
        logits[i] = (float)random_normal(&random) * 3;
}

/* Logits are read in runs: the greatest may be anywhere, also twice, and next to what is no number. */
static void test_greedy_takes_the_best_of_many(void **state)
{
    (void)state;
    static const size_t counts[] = {255, 256, 257, 511, 1024, 1500};
    struct sampler_options greedy = plain(), biased;
    greedy.temperature = 0;
    biased = greedy;
    const struct logit_bias none = {.token = 0};
    biased.biases = &none; /* changes a copy of the logits */
    biased.bias_count = 1;
    for (size_t c = 0; c < COUNT_OF(counts); c++)
        for (uint64_t seed = 0; seed < 20; seed++) {
            float logits[1500];
            const size_t count = counts[c], best = (seed * 97 + c) * 131 % count;
            fill(logits, count, seed);
            for (size_t i = 0; i < count; i += 7)
                logits[i] = i % 2 ? NAN : INFINITY;
            logits[best] = 50;
            if (best + 300 < count)
                logits[best + 300] = 50;
            assert_int_equal(sample_once(&greedy, logits, count, NULL, 0), best);
            assert_int_equal(sample_once(&biased, logits, count, NULL, 0), best);
        }
}

static void test_the_same_seed_gives_the_same_tokens(void **state)
{
    (void)state;
    enum { VOCABULARY = 5000 };
    static float logits[VOCABULARY];
    struct sampler_options o;
    sampler_default_options(&o);
    o.seed = 7;
    o.repeat_penalty = 1.1f;
    o.dry_multiplier = 0.8f;
    struct sampler *a, *b;
    assert_ok(sampler_create(&a, &o, VOCABULARY, &test_error));
    assert_ok(sampler_create(&b, &o, VOCABULARY, &test_error));
    int32_t first[100];
    for (size_t i = 0; i < 100; i++) {
        int32_t other;
        fill(logits, VOCABULARY, i);
        assert_ok(sampler_sample(a, logits, &first[i], &test_error));
        assert_ok(sampler_sample(b, logits, &other, &test_error));
        assert_int_equal(first[i], other);
    }
    sampler_reset(b);
    size_t same = 0;
    for (size_t i = 0; i < 100; i++) {
        int32_t other, next;
        fill(logits, VOCABULARY, i);
        assert_ok(sampler_sample(b, logits, &other, &test_error));
        assert_int_equal(first[i], other); /* a reset starts again */
        assert_ok(sampler_sample(a, logits, &next, &test_error));
        same += next == first[i];
    }
    assert_true(same < 60); /* new random numbers give new tokens */
    sampler_destroy(a);
    sampler_destroy(b);
}

/* For any order of steps and any size of vocabulary, the steps keep the tokens that their definitions say. */
static void test_partial_selection_equals_a_full_sort(void **state)
{
    (void)state;
    enum { VOCABULARY = 20000 };
    static float logits[VOCABULARY];
    fill(logits, VOCABULARY, 1);
    for (int32_t i = 0; i < VOCABULARY; i++)
        logits[i] = roundf(logits[i] * 8) / 8 / 4; /* many ties in a flat distribution */
    static const float ps[] = {0.001f, 0.02f, 0.3f, 0.9f};
    for (size_t k = 0; k < COUNT_OF(ps); k++) {
        /* Find the smallest logit that top-p keeps. */
        double sum = 0, total = 0;
        for (int i = 0; i < VOCABULARY; i++)
            total += exp((double)logits[i]);
        float least = 100;
        while (sum < (double)ps[k] * total) {
            float next = -100;
            for (int i = 0; i < VOCABULARY; i++)
                if (logits[i] < least && logits[i] > next)
                    next = logits[i];
            least = next;
            for (int i = 0; i < VOCABULARY; i++)
                if (logits[i] == least)
                    sum += exp((double)least);
        }
        struct sampler_options o = plain();
        o.top_p = ps[k];
        struct sampler *s;
        assert_ok(sampler_create(&s, &o, VOCABULARY, &test_error));
        float lowest = 100;
        for (int i = 0; i < 300; i++) {
            int32_t token;
            assert_ok(sampler_sample(s, logits, &token, &test_error));
            assert_true(logits[token] >= least);
            lowest = MIN(lowest, logits[token]);
        }
        assert_true(lowest <= least + 1);
        sampler_destroy(s);
    }
}

static void test_steps_are_a_list_of_names(void **state)
{
    (void)state;
    struct sampler_options o = plain();
    assert_ok(sampler_parse_steps(&o, "temperature;top_k", &test_error));
    assert_int_equal(o.step_count, 2);
    assert_int_equal(o.steps[0], SAMPLER_TEMPERATURE);
    o.min_p = 0.9f; /* has no effect, as it is not listed */
    expect_shares(&o, four, 4, four);
    assert_int_equal(sampler_parse_steps(&o, "top_q", &test_error), HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "\"top_q\""));
    assert_int_equal(sampler_parse_steps(&o, "top_k;top_k", &test_error), HYPURA_ERROR_ARGUMENT);
    /* The order matters. After temperature 2, the weights are 0.316, 0.632, 0.447 and 0.548, and top-p keeps two.
     * Before it, they are 0.1, 0.4, 0.2 and 0.3, and top-p keeps one. */
    o = plain();
    o.temperature = 2;
    o.top_p = 0.35f;
    assert_ok(sampler_parse_steps(&o, "temperature;top_p", &test_error));
    expect_shares(&o, four, 4, (float[]){0, 0.632f / 1.18f, 0, 0.548f / 1.18f});
    assert_ok(sampler_parse_steps(&o, "top_p;temperature", &test_error));
    expect_shares(&o, four, 4, (float[]){0, 1, 0, 0});
}

static void test_invalid_settings_are_refused(void **state)
{
    (void)state;
    struct sampler *s;
    struct sampler_options o = plain();
    o.top_p = NAN;
    assert_int_equal(sampler_create(&s, &o, 10, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "top_p"));
    o = plain();
    o.repeat_penalty = 0;
    assert_int_equal(sampler_create(&s, &o, 10, &test_error), HYPURA_ERROR_ARGUMENT);
    o = plain();
    o.mirostat = 1;
    assert_int_equal(sampler_create(&s, &o, 10, &test_error), HYPURA_ERROR_ARGUMENT);
    o = plain();
    o.biases = &(struct logit_bias){10, 1};
    o.bias_count = 1;
    assert_int_equal(sampler_create(&s, &o, 10, &test_error), HYPURA_ERROR_ARGUMENT);
    o = plain();
    assert_ok(sampler_create(&s, &o, 2, &test_error));
    int32_t token;
    assert_int_equal(sampler_sample(s, (float[]){NAN, -INFINITY}, &token, &test_error), HYPURA_ERROR_ARGUMENT);
    sampler_destroy(s);
}

/* ---- constraint -------------------------------------------------------------------------------------------------- */

struct odd {
    int masks, accepted;
};

static bool allows_odd(void *context, int32_t token)
{
    (void)context;
    return token % 2 == 1;
}

static hypura_status mask_odd(void *context, uint32_t *bits, hypura_error *error)
{
    (void)error;
    ((struct odd *)context)->masks++;
    bits[0] = 0xaaaaaaaau;
    return HYPURA_OK;
}

static hypura_status accept_odd(void *context, int32_t token, hypura_error *error)
{
    (void)error;
    assert_int_equal(token % 2, 1);
    ((struct odd *)context)->accepted++;
    return HYPURA_OK;
}

static void test_a_constraint_is_never_broken(void **state)
{
    (void)state;
    struct odd odd = {0};
    const struct token_constraint constraint = {allows_odd, mask_odd, accept_odd, &odd};
    struct sampler_options o = plain();
    struct sampler *s;
    float logits[20];
    assert_ok(sampler_create(&s, &o, 20, &test_error));
    sampler_set_constraint(s, &constraint);
    for (int i = 0; i < 500; i++) {
        int32_t token;
        fill(logits, 20, (uint64_t)i);
        assert_ok(sampler_sample(s, logits, &token, &test_error));
        assert_int_equal(token % 2, 1);
    }
    assert_int_equal(odd.accepted, 500);
    assert_true(odd.masks > 50 && odd.masks < 450); /* a mask is made only if the first draw is not allowed */
    sampler_destroy(s);
}

static void test_logprobs(void **state)
{
    (void)state;
    float logits[4];
    for (int i = 0; i < 4; i++)
        logits[i] = logf(four[i]) + 3;
    struct token_logprob top[6];
    float logprob = logits_logprobs(logits, 4, 2, top, 6);
    assert_true(fabsf(logprob - logf(0.2f)) < 1e-5f);
    const int32_t order[] = {1, 3, 2, 0};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(top[i].token, order[i]);
        assert_true(fabsf(top[i].logprob - logf(four[order[i]])) < 1e-5f);
    }
    assert_int_equal(top[4].token, -1);
    logits_logprobs(logits, 4, 2, top, 2);
    assert_int_equal(top[1].token, 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws_from_the_distribution),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_xtc_drops_all_but_the_least_of_the_likely),
        cmocka_unit_test(test_dynamic_temperature_follows_the_entropy),
        cmocka_unit_test(test_greedy_takes_the_best_and_the_lower_id_of_equals),
        cmocka_unit_test(test_greedy_takes_the_best_of_many),
        cmocka_unit_test(test_penalties),
        cmocka_unit_test(test_bias),
        cmocka_unit_test(test_dry_penalises_longer_repetitions),
        cmocka_unit_test(test_dry_equals_the_plain_search),
        cmocka_unit_test(test_mirostat_holds_its_surprise),
        cmocka_unit_test(test_the_same_seed_gives_the_same_tokens),
        cmocka_unit_test(test_partial_selection_equals_a_full_sort),
        cmocka_unit_test(test_steps_are_a_list_of_names),
        cmocka_unit_test(test_invalid_settings_are_refused),
        cmocka_unit_test(test_a_constraint_is_never_broken),
        cmocka_unit_test(test_logprobs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
