/* Residual streams that predict and correct each other, compared with plain code of the formulas. The bits do not
 * depend on the number of rows and threads. */
#include "test.h"

#include "compute/compute.h"
#include "core/core.h"

#include <math.h>
#include <string.h>

enum { SIDES = 3, COUNT = SIDES + 1, WIDTH = 37, ROWS = 3 };

static float norm[WIDTH], router[COUNT][WIDTH], predict[COUNT * COUNT][COUNT], correct[COUNT][COUNT], scale[WIDTH];
static float hidden[ROWS][WIDTH], sides[ROWS][SIDES][WIDTH], branch[ROWS][WIDTH];

static void fill(struct random *random, void *out, size_t count)
{
    for (size_t i = 0; i < count; i++)
        ((float *)out)[i] = (float)random_uniform(random) * 2.0f - 1.0f;
}

static void fill_all(void)
{
    struct random random;
    random_seed(&random, 8);
    fill(&random, norm, WIDTH);
    fill(&random, router, COUNT * WIDTH);
    fill(&random, predict, COUNT * COUNT * COUNT);
    fill(&random, correct, COUNT * COUNT);
    fill(&random, scale, WIDTH);
    fill(&random, hidden, ROWS * WIDTH);
    fill(&random, sides, ROWS * SIDES * WIDTH);
    fill(&random, branch, ROWS * WIDTH);
    for (size_t k = 0; k < COUNT; k++) /* large enough for tanh to matter */
        for (size_t i = 0; i < WIDTH; i++)
            router[k][i] *= 20.0f;
}

static double modality(const float *x, size_t k)
{
    double squares = 0, sum = 0;
    for (size_t i = 0; i < WIDTH; i++)
        squares += (double)x[i] * x[i];
    for (size_t i = 0; i < WIDTH; i++)
        sum += (double)router[k][i] * (x[i] / sqrt(squares / WIDTH + 1e-6) * norm[i] / WIDTH);
    return tanh(sum);
}

static const float *stream(size_t row, size_t a)
{
    return a == 0 ? hidden[row] : sides[row][a - 1];
}

static struct side_streams streams_of(const void *coefficients)
{
    return (struct side_streams){SIDES, WIDTH, norm, &router[0][0], coefficients, scale, 1e-6f};
}

static void predictions_use_all_streams(void **state)
{
    (void)state;
    fill_all();
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    static float h[ROWS][WIDTH], s[ROWS][SIDES][WIDTH];
    memcpy(h, hidden, sizeof h);
    memcpy(s, sides, sizeof s);
    struct side_streams streams = streams_of(predict);
    compute_predict_sides(compute, &streams, &h[0][0], &s[0][0][0], ROWS);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t a = 0; a < COUNT; a++)
            for (size_t i = 0; i < WIDTH; i++) {
                double expected = stream(r, a)[i];
                for (size_t b = 0; b < COUNT; b++)
                    for (size_t k = 0; k < COUNT; k++)
                        expected += predict[a * COUNT + b][k] * modality(hidden[r], k) * stream(r, b)[i];
                assert_true(fabs(expected - (a ? s[r][a - 1][i] : h[r][i])) < 1e-5);
            }
    compute_destroy(compute);
}

static void the_branch_corrects_all_streams(void **state)
{
    (void)state;
    fill_all();
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    static float h[ROWS][WIDTH], s[ROWS][SIDES][WIDTH], out[ROWS][WIDTH];
    memcpy(h, hidden, sizeof h);
    memcpy(s, sides, sizeof s);
    struct side_streams streams = streams_of(correct);
    compute_correct_sides(compute, &streams, &h[0][0], &s[0][0][0], &branch[0][0], &out[0][0], ROWS);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t a = 0; a < COUNT; a++)
            for (size_t i = 0; i < WIDTH; i++) {
                double weight = 1.0;
                for (size_t k = 0; k < COUNT; k++)
                    weight += correct[a][k] * modality(branch[r], k);
                double expected = stream(r, a)[i] + weight * ((double)branch[r][i] - hidden[r][i]);
                assert_true(fabs(expected - (a ? s[r][a - 1][i] : h[r][i])) < 1e-5);
                assert_true(a || fabs(expected * scale[i] - out[r][i]) < 1e-5);
            }
    compute_destroy(compute);
}

static void lengths_and_sparse_gates(void **state)
{
    (void)state;
    fill_all();
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    compute_match_lengths(compute, &sides[0][0][0], &hidden[0][0], ROWS, SIDES, WIDTH);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t s = 0; s < SIDES; s++) {
            double lengths[2] = {0, 0};
            for (size_t i = 0; i < WIDTH; i++) {
                lengths[0] += (double)sides[r][s][i] * sides[r][s][i];
                lengths[1] += (double)hidden[r][i] * hidden[r][i];
            }
            assert_true(fabs(lengths[0] - lengths[1]) < 1e-5 * lengths[1]);
        }
    float gates[] = {1.0f, 2.0f, 3.0f, 10.0f}; /* mean 4, standard deviation sqrt(50 / 3) */
    compute_sparse(compute, gates, 1, COUNT_OF(gates), 1.0f);
    assert_true(gates[0] == 0.0f && gates[1] == 0.0f && gates[2] == 0.0f);
    assert_true(fabs(gates[3] - (6.0 - sqrt(50.0 / 3.0))) < 1e-5);
    compute_destroy(compute);
}

static void same_bits_by_many_threads(void **state)
{
    (void)state;
    enum { MANY = 300 };
    float *h[2], *s[2], *b = calloc(MANY * WIDTH, sizeof *b), *out = calloc(MANY * WIDTH, sizeof *out);
    struct side_streams foresee = streams_of(predict), mend = streams_of(correct);
    fill_all();
    for (size_t i = 0; i < MANY * WIDTH; i++)
        b[i] = branch[i / WIDTH % ROWS][i % WIDTH];
    for (size_t t = 0; t < 2; t++) {
        struct compute *compute;
        assert_ok(compute_create(&compute, t ? 2 : 1, INSTRUCTIONS_PLAIN, &test_error));
        h[t] = calloc(MANY * WIDTH, sizeof *h[t]);
        s[t] = calloc(MANY * SIDES * WIDTH, sizeof *s[t]);
        for (size_t r = 0; r < MANY; r++) {
            memcpy(h[t] + r * WIDTH, hidden[r % ROWS], sizeof hidden[0]);
            memcpy(s[t] + r * SIDES * WIDTH, sides[r % ROWS], sizeof sides[0]);
        }
        size_t step = t ? MANY : 1; /* all rows at once, or one by one */
        for (size_t r = 0; r < MANY; r += step) {
            compute_predict_sides(compute, &foresee, h[t] + r * WIDTH, s[t] + r * SIDES * WIDTH, step);
            compute_correct_sides(compute, &mend, h[t] + r * WIDTH, s[t] + r * SIDES * WIDTH, b + r * WIDTH,
                                  out + r * WIDTH, step);
        }
        compute_destroy(compute);
    }
    assert_memory_equal(h[0], h[1], MANY * WIDTH * sizeof *h[0]);
    assert_memory_equal(s[0], s[1], MANY * SIDES * WIDTH * sizeof *s[0]);
    for (size_t t = 0; t < 2; t++) {
        free(h[t]);
        free(s[t]);
    }
    free(b);
    free(out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(predictions_use_all_streams),
        cmocka_unit_test(the_branch_corrects_all_streams),
        cmocka_unit_test(lengths_and_sparse_gates),
        cmocka_unit_test(same_bits_by_many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
