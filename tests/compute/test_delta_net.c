#include "test.h"

#include "compute/compute.h"

#include <math.h>
#include <string.h>

/* What gated delta nets promise: the recurrence as it is written in compute.h, and the same bits from every instruction
 * set, every number of threads and every way to cut the rows. */

#define ROWS 11

struct shape {
    size_t heads_k, heads_v, key_size, value_size, taps;
    bool tiled;
};

static const struct shape shapes[] = {
    {2, 4, 32, 64, 4, false}, {2, 4, 32, 64, 4, true}, {1, 3, 20, 37, 2, false}, {4, 4, 16, 130, 5, false}};

static struct random numbers;

static float *fresh(size_t count, double spread)
{
    float *values = calloc(count, sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(random_normal(&numbers) * spread);
    return values;
}

struct data {
    size_t channels, inner, state_floats;
    float *convolution, *input, *beta, *decay, *state;
};

static struct data make_data(const struct shape *s)
{
    struct data d = {.inner = s->heads_v * s->value_size};
    d.channels = d.inner + 2 * s->heads_k * s->key_size;
    d.state_floats = delta_net_state_floats(s->heads_k, s->heads_v, s->key_size, s->value_size, s->taps);
    assert_int_equal(d.state_floats, d.inner * s->key_size + (s->taps - 1) * d.channels);
    d.convolution = fresh(d.channels * s->taps, 0.5);
    d.input = fresh(ROWS * d.channels, 1.0);
    d.beta = fresh(ROWS * s->heads_v, 1.0);
    d.decay = fresh(ROWS * s->heads_v, 1.0);
    d.state = fresh(d.state_floats, 0.3);
    for (size_t i = 0; i < ROWS * s->heads_v; i++) {
        d.beta[i] = 1.0f / (1.0f + expf(-d.beta[i]));
        d.decay[i] = expf(-fabsf(d.decay[i]));
    }
    return d;
}

static void free_data(struct data *d)
{
    free(d->convolution);
    free(d->input);
    free(d->beta);
    free(d->decay);
    free(d->state);
}

/* Outputs of all rows, and the state after them behind, with rows in calls of at most "batch". */
static float *run(const struct shape *s, const struct data *d, enum instruction_set set, size_t threads, size_t batch)
{
    struct compute *compute;
    assert_ok(compute_create(&compute, threads, set, &test_error));
    float *result = calloc(ROWS * d->inner + d->state_floats, sizeof *result);
    float *convolved = calloc(ROWS * d->channels, sizeof *convolved);
    float *states[2] = {calloc(d->state_floats, sizeof(float)), calloc(d->state_floats, sizeof(float))};
    memcpy(states[0], d->state, d->state_floats * sizeof(float));
    int now = 0;
    for (size_t first = 0; first < ROWS; first += batch, now ^= 1) {
        struct delta_net net = {.rows = MIN(batch, ROWS - first),
                                .heads_k = s->heads_k,
                                .heads_v = s->heads_v,
                                .key_size = s->key_size,
                                .value_size = s->value_size,
                                .taps = s->taps,
                                .tiled = s->tiled,
                                .epsilon = 1e-6f,
                                .convolution = d->convolution,
                                .input = d->input + first * d->channels,
                                .convolved = convolved,
                                .beta = d->beta + first * s->heads_v,
                                .decay = d->decay + first * s->heads_v,
                                .output = result + first * d->inner,
                                .state = states[now],
                                .next = states[!now]};
        compute_delta_net(compute, &net);
    }
    memcpy(result + ROWS * d->inner, states[now], d->state_floats * sizeof(float));
    free(states[0]);
    free(states[1]);
    free(convolved);
    compute_destroy(compute);
    return result;
}

static void same_bits_everywhere(void **state)
{
    (void)state;
    static const size_t batches[] = {1, 2, 4, ROWS};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct data d = make_data(&shapes[i]);
        float *expected = run(&shapes[i], &d, INSTRUCTIONS_PLAIN, 1, ROWS);
        for (int set = INSTRUCTIONS_PLAIN; set <= INSTRUCTIONS_NEON; set++)
            for (size_t b = 0; compute_has_instructions((enum instruction_set)set) && b < COUNT_OF(batches); b++) {
                float *found = run(&shapes[i], &d, (enum instruction_set)set, 1 + b % 3, batches[b]);
                if (memcmp(found, expected, (ROWS * d.inner + d.state_floats) * sizeof *found) != 0)
                    fail_msg("shape %zu: other bits with %s in batches of %zu", i,
                             compute_instructions_name((enum instruction_set)set), batches[b]);
                free(found);
            }
        free(expected);
        free_data(&d);
    }
}

/* The recurrence in double precision, one head after another. */
static double *reference(const struct shape *s, const struct data *d)
{
    double *out = calloc(ROWS * d->inner, sizeof *out);
    double *matrices = calloc(d->inner * s->key_size, sizeof *matrices);
    double *x = calloc(d->channels, sizeof *x);
    for (size_t i = 0; i < d->inner * s->key_size; i++)
        matrices[i] = d->state[i];
    const float *before = d->state + d->inner * s->key_size;
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t c = 0; c < d->channels; c++) {
            x[c] = 0;
            for (size_t tap = 0; tap < s->taps; tap++) {
                size_t at = r + tap, back = s->taps - 1;
                float value = at < back ? before[at * d->channels + c] : d->input[(at - back) * d->channels + c];
                x[c] += (double)value * d->convolution[c * s->taps + tap];
            }
            x[c] /= 1 + exp(-x[c]);
        }
        for (size_t h = 0; h < 2 * s->heads_k; h++) {
            double sum = 0;
            for (size_t k = 0; k < s->key_size; k++)
                sum += x[h * s->key_size + k] * x[h * s->key_size + k];
            for (size_t k = 0; k < s->key_size; k++)
                x[h * s->key_size + k] /= sqrt(sum) * (h < s->heads_k ? sqrt((double)s->key_size) : 1);
        }
        for (size_t h = 0; h < s->heads_v; h++) {
            size_t shared = s->tiled ? h % s->heads_k : h / (s->heads_v / s->heads_k);
            const double *query = x + shared * s->key_size, *key = query + s->heads_k * s->key_size;
            const double *value = x + 2 * s->heads_k * s->key_size + h * s->value_size;
            for (size_t v = 0; v < s->value_size; v++) {
                double *column = matrices + h * s->key_size * s->value_size + v, recalled = 0, answer = 0;
                for (size_t k = 0; k < s->key_size; k++) {
                    column[k * s->value_size] *= d->decay[r * s->heads_v + h];
                    recalled += column[k * s->value_size] * key[k];
                }
                double delta = (value[v] - recalled) * d->beta[r * s->heads_v + h];
                for (size_t k = 0; k < s->key_size; k++) {
                    column[k * s->value_size] += key[k] * delta;
                    answer += column[k * s->value_size] * query[k];
                }
                out[r * d->inner + h * s->value_size + v] = answer;
            }
        }
    }
    free(matrices);
    free(x);
    return out;
}

static void follows_the_recurrence(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct data d = make_data(&shapes[i]);
        double *expected = reference(&shapes[i], &d);
        float *found = run(&shapes[i], &d, compute_best_instructions(), 2, 3);
        for (size_t j = 0; j < ROWS * d.inner; j++)
            if (fabs(found[j] - expected[j]) > 1e-5)
                fail_msg("shape %zu: value %zu is %g, expected %g", i, j, (double)found[j], expected[j]);
        free(expected);
        free(found);
        free_data(&d);
    }
}

int main(void)
{
    random_seed(&numbers, 11);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_everywhere),
        cmocka_unit_test(follows_the_recurrence),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
