/* Residual streams have the values that compute.h defines, in both forms and at the end, with the same bits for every
 * instruction set, number of threads and division of rows. */
#include "test.h"

#include "compute/compute.h"

#include <math.h>
#include <string.h>

#define ROWS 9
#define WIDTH 2054
#define STREAMS 4
#define FLAT ((size_t)STREAMS * WIDTH)
#define MOST (STREAMS * (2 + STREAMS))

static float streams[ROWS * FLAT], coefficients[ROWS * MOST], branch[ROWS * WIDTH], scale[3], base[MOST];
static double expected_in[ROWS * WIDTH], expected[ROWS * FLAT];

static struct stream_mixer mixer_of(bool returns, uint32_t sinkhorn)
{
    return (struct stream_mixer){.streams = STREAMS,
                                 .width = WIDTH,
                                 .returns = returns,
                                 .sinkhorn = sinkhorn,
                                 .norm_epsilon = 1e-3f,
                                 .epsilon = 1e-2f,
                                 .back_epsilon = sinkhorn ? 0 : 3e-2f,
                                 .magnitude = 1.7f,
                                 .scale = scale,
                                 .base = base};
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* Computes each element separately, in double precision. */
static void expect_matrix(double c[STREAMS][STREAMS], uint32_t rounds)
{
    for (int s = 0; s < STREAMS; s++) {
        double sum = 0;
        for (int t = 0; t < STREAMS; t++)
            sum += exp(c[s][t]);
        for (int t = 0; t < STREAMS; t++)
            c[s][t] = exp(c[s][t]) / sum + (double)1e-2f;
    }
    for (uint32_t half = 1; half < 2 * rounds; half++) {
        double sums[STREAMS] = {0};
        bool columns = half % 2;
        for (int s = 0; s < STREAMS; s++)
            for (int t = 0; t < STREAMS; t++)
                sums[columns ? t : s] += c[s][t];
        for (int s = 0; s < STREAMS; s++)
            for (int t = 0; t < STREAMS; t++)
                c[s][t] /= sums[columns ? t : s] + (double)1e-2f;
    }
}

static void expect_row(const struct stream_mixer *m, size_t row, size_t count)
{
    const float *x = streams + row * FLAT, *mix = coefficients + row * count;
    double squares = 0, matrix[STREAMS][STREAMS] = {{0}};
    for (size_t i = 0; i < FLAT; i++)
        squares += (double)x[i] * x[i];
    double factor = 1 / sqrt(squares / (double)FLAT + 1e-3);
    for (int s = 0; s < STREAMS; s++)
        for (int t = 0; t < STREAMS; t++) {
            size_t at = (size_t)(2 + s) * STREAMS + (size_t)t;
            matrix[s][t] = m->sinkhorn ? mix[at] * factor * scale[2] + base[at] : s == t;
        }
    if (m->sinkhorn)
        expect_matrix(matrix, m->sinkhorn);
    for (size_t i = 0; i < WIDTH; i++) {
        double sum = 0;
        for (size_t s = 0; s < STREAMS; s++)
            sum += (sigmoid(mix[s] * factor * scale[0] + base[s]) + 1e-2) * x[s * WIDTH + i];
        expected_in[row * WIDTH + i] = sum;
        for (size_t t = 0; m->returns && t < STREAMS; t++) {
            double back =
                m->magnitude * sigmoid(mix[STREAMS + t] * factor * scale[1] + base[STREAMS + t]) + m->back_epsilon;
            sum = back * branch[row * WIDTH + i];
            for (size_t s = 0; s < STREAMS; s++)
                sum += matrix[s][t] * x[s * WIDTH + i];
            expected[row * FLAT + t * WIDTH + i] = sum;
        }
    }
}

static void check(const float *values, const double *right, size_t count, const char *what)
{
    for (size_t i = 0; i < count; i++)
        if (!(fabs(values[i] - right[i]) <= 1e-5 * (1 + fabs(right[i]))))
            fail_msg("%s at %zu: %.9g, expected %.9g", what, i, (double)values[i], right[i]);
}

/* Runs the streams in pieces of "cut" rows. */
static void run(enum instruction_set set, size_t threads, const struct stream_mixer *m, size_t cut, float *in, float *x)
{
    static float c[ROWS * MOST];
    struct compute *compute;
    size_t count = stream_coefficients(m);
    assert_ok(compute_create(&compute, threads, set, &test_error));
    memcpy(x, streams, sizeof streams);
    memcpy(c, coefficients, sizeof c);
    for (size_t row = 0, rows; row < ROWS; row += rows) {
        rows = MIN(cut, ROWS - row);
        compute_gather_streams(compute, m, x + row * FLAT, c + row * count, in + row * WIDTH, rows);
        if (m->returns)
            compute_scatter_streams(compute, m, x + row * FLAT, c + row * count, branch + row * WIDTH, rows);
    }
    compute_destroy(compute);
}

static void fill(struct random *random, float *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        values[i] = (float)random_normal(random);
}

static void streams_mix(void **state)
{
    static float in[ROWS * WIDTH], x[ROWS * FLAT], plain_in[ROWS * WIDTH], plain[ROWS * FLAT];
    struct random random;
    (void)state;
    random_seed(&random, 11);
    fill(&random, streams, ROWS * FLAT);
    fill(&random, coefficients, COUNT_OF(coefficients));
    fill(&random, branch, COUNT_OF(branch));
    fill(&random, scale, COUNT_OF(scale));
    fill(&random, base, COUNT_OF(base));
    for (int form = 0; form < 4; form++) {
        struct stream_mixer m = mixer_of(form < 3, form < 2 ? 1 + 4 * (uint32_t)form : 0);
        for (size_t row = 0; row < ROWS; row++)
            expect_row(&m, row, stream_coefficients(&m));
        run(INSTRUCTIONS_PLAIN, 1, &m, ROWS, plain_in, plain);
        check(plain_in, expected_in, ROWS * WIDTH, "the row");
        if (m.returns)
            check(plain, expected, ROWS * FLAT, "streams");
        for (int set = 0; set <= INSTRUCTIONS_NEON; set++)
            for (size_t cut = 1; cut < ROWS && compute_has_instructions((enum instruction_set)set); cut += 3) {
                run((enum instruction_set)set, cut, &m, cut, in, x);
                assert_memory_equal(in, plain_in, sizeof in);
                assert_memory_equal(x, plain, sizeof x);
            }
    }
}

/* Low-rank gates, and values that enter streams. */
static void streams_are_gated_and_matched(void **state)
{
    static float gates[ROWS * FLAT], once[ROWS * FLAT], out[ROWS * FLAT], in[ROWS * WIDTH], inject[ROWS * STREAMS],
        back[ROWS * 2 * STREAMS];
    struct random random;
    (void)state;
    random_seed(&random, 12);
    fill(&random, streams, ROWS * FLAT);
    fill(&random, gates, ROWS * FLAT);
    fill(&random, branch, COUNT_OF(branch));
    fill(&random, inject, COUNT_OF(inject));
    for (size_t r = 0; r < ROWS; r++)
        for (size_t s = 0; s < STREAMS; s++) {
            double match = 0;
            for (size_t i = 0; i < WIDTH; i++)
                match += (double)streams[r * FLAT + s * WIDTH + i] * gates[r * FLAT + s * WIDTH + i];
            match /= sqrt(WIDTH);
            double gate = sigmoid((match > 0 ? 1 : -1) * sqrt(fabs(match)));
            for (size_t i = 0; i < WIDTH; i++) {
                double *sum = &expected_in[r * WIDTH + i];
                *sum = (s ? *sum : 0) +
                       streams[r * FLAT + s * WIDTH + i] * sigmoid(gates[r * FLAT + s * WIDTH + i]) / STREAMS;
                expected[r * FLAT + s * WIDTH + i] = gate * branch[r * WIDTH + i];
            }
        }
    for (int set = 0; set <= INSTRUCTIONS_NEON; set++)
        for (size_t cut = 1; cut < ROWS && compute_has_instructions((enum instruction_set)set); cut += 3) {
            struct compute *compute;
            assert_ok(compute_create(&compute, cut, (enum instruction_set)set, &test_error));
            memcpy(once, gates, sizeof once);
            for (size_t row = 0, rows; row < ROWS; row += rows) {
                rows = MIN(cut, ROWS - row);
                struct stream_match match = {
                    STREAMS, WIDTH, streams + row * FLAT, gates + row * FLAT, branch + row * WIDTH, out + row * FLAT};
                struct gated_gather gather = {STREAMS,
                                              WIDTH,
                                              streams + row * FLAT,
                                              once + row * FLAT,
                                              inject + row * STREAMS,
                                              back + row * 2 * STREAMS,
                                              in + row * WIDTH};
                compute_match_streams(compute, &match, rows);
                compute_gather_gated(compute, &gather, rows);
            }
            compute_destroy(compute);
            check(in, expected_in, ROWS * WIDTH, "the row");
            check(out, expected, ROWS * FLAT, "streams");
            for (size_t i = 0; i < ROWS * STREAMS; i++) {
                double right = 2 * sigmoid(inject[i] / STREAMS);
                assert_true(fabs(back[i / STREAMS * 2 * STREAMS + STREAMS + i % STREAMS] - right) < 1e-5);
            }
            static float first_in[ROWS * WIDTH], first_out[ROWS * FLAT];
            if (set == 0 && cut == 1) {
                memcpy(first_in, in, sizeof in);
                memcpy(first_out, out, sizeof out);
            }
            assert_memory_equal(in, first_in, sizeof in);
            assert_memory_equal(out, first_out, sizeof out);
        }
}

/* The kept rows and the current row, weighted by the softmax of their scores, match double precision, with the same
 * bits for every instruction set and number of threads. */
static void recalls_rows(void **state)
{
    enum { rows = 5, width = 70, room = 4 };
    static float bank[rows * room * width], row[rows * width], weight[width], out[rows * width], first[rows * width];
    (void)state;
    for (size_t kept = 0; kept < room; kept++)
        for (int set = INSTRUCTIONS_PLAIN; set <= INSTRUCTIONS_NEON; set++) {
            struct compute *compute;
            if (!compute_has_instructions((enum instruction_set)set))
                continue;
            for (size_t i = 0; i < COUNT_OF(bank); i++)
                bank[i] = (float)((double)(i * 7919 % 1000) / 250 - 2);
            for (size_t i = 0; i < COUNT_OF(row); i++)
                row[i] = (float)((double)(i * 104729 % 1000) / 250 - 2);
            for (size_t i = 0; i < width; i++)
                weight[i] = (float)((double)(i * 31 % 17) / 8 - 1);
            assert_ok(compute_create(&compute, 1 + (size_t)set, (enum instruction_set)set, &test_error));
            compute_recall(compute, bank, room * width, kept, row, weight, 0.02f, out, rows, width);
            compute_destroy(compute);
            for (size_t r = 0; r < rows; r++) {
                double score[room], sum = 0;
                assert_memory_equal(bank + (r * room + kept) * width, row + r * width, width * sizeof *row);
                for (size_t k = 0; k <= kept; k++) {
                    const float *x = bank + (r * room + k) * width;
                    double squares = 0, dot = 0;
                    for (size_t i = 0; i < width; i++) {
                        squares += (double)x[i] * (double)x[i];
                        dot += (double)x[i] * (double)weight[i];
                    }
                    score[k] = exp(dot / sqrt(squares / width + (double)0.02f));
                    sum += score[k];
                }
                for (size_t i = 0; i < width; i++) {
                    double wanted = 0;
                    for (size_t k = 0; k <= kept; k++)
                        wanted += score[k] / sum * (double)bank[(r * room + k) * width + i];
                    assert_float_equal(out[r * width + i], wanted, 2e-5);
                }
            }
            if (set == INSTRUCTIONS_PLAIN)
                memcpy(first, out, sizeof first);
            assert_memory_equal(first, out, sizeof first);
        }
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(streams_mix), cmocka_unit_test(streams_are_gated_and_matched), cmocka_unit_test(recalls_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
