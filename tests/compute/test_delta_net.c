#include "test.h"

#include "compute/compute.h"

#include <math.h>
#include <string.h>

/* Gated delta nets compute the recurrence in compute.h, with the same bits for every instruction set, number of threads
 * and division of the rows. */

#define ROWS 11

struct shape {
    size_t heads_k, heads_v, key_size, value_size, taps;
    bool tiled, by_channel;
    float root_epsilon; /* 0: epsilon is the smallest length */
};

static const struct shape shapes[] = {{2, 4, 32, 64, 4, false, false, 0.0f}, {2, 4, 32, 64, 4, true, false, 0.0f},
                                      {1, 3, 20, 37, 2, false, false, 0.0f}, {4, 4, 16, 130, 5, false, false, 0.0f},
                                      {4, 4, 32, 32, 4, false, true, 0.02f}, {3, 3, 20, 70, 2, false, true, 1e-5f}};

/* The number of decay factors per row. */
static size_t decays(const struct shape *s)
{
    return s->heads_v * (s->by_channel ? s->key_size : 1);
}

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
    d.decay = fresh(ROWS * decays(s), 1.0);
    d.state = fresh(d.state_floats, 0.3);
    for (size_t i = 0; i < ROWS * s->heads_v; i++)
        d.beta[i] = 1.0f / (1.0f + expf(-d.beta[i]));
    for (size_t i = 0; i < ROWS * decays(s); i++)
        d.decay[i] = expf(-fabsf(d.decay[i]));
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

/* Runs all rows in calls of at most "batch" rows. Returns the outputs, followed by the final state. */
static float *run(const struct shape *s, const struct data *d, enum instruction_set set, size_t threads, size_t batch)
{
    struct compute *compute;
    assert_ok(compute_create(&compute, threads, set, &test_error));
    float *result = calloc(ROWS * d->inner + d->state_floats, sizeof *result);
    float *convolved = calloc(ROWS * d->channels, sizeof *convolved);
    float *states[2] = {calloc(d->state_floats, sizeof(float)), calloc(d->state_floats, sizeof(float))};
    memcpy(states[0], d->state, d->state_floats * sizeof(float));
    const size_t parts[] = {0, s->heads_k * s->key_size, 2 * s->heads_k * s->key_size};
    int now = 0;
    for (size_t first = 0; first < ROWS; first += batch, now ^= 1) {
        struct delta_net net = {.rows = MIN(batch, ROWS - first),
                                .heads_k = s->heads_k,
                                .heads_v = s->heads_v,
                                .key_size = s->key_size,
                                .value_size = s->value_size,
                                .taps = s->taps,
                                .tiled = s->tiled,
                                .by_channel = s->by_channel,
                                .root_epsilon = s->root_epsilon > 0.0f,
                                .epsilon = s->root_epsilon > 0.0f ? s->root_epsilon : 1e-6f,
                                .convolved = convolved,
                                .beta = d->beta + first * s->heads_v,
                                .decay = d->decay + first * decays(s),
                                .output = result + first * d->inner,
                                .state = states[now],
                                .next = states[!now]};
        for (size_t part = 0; part < DELTA_PARTS; part++) {
            net.convolution[part] = d->convolution + parts[part] * s->taps;
            net.input[part] = d->input + first * d->channels + parts[part];
            net.input_stride[part] = d->channels;
        }
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

/* Computes the recurrence in double precision, head by head. */
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
                x[h * s->key_size + k] /=
                    sqrt(sum + (double)s->root_epsilon) * (h < s->heads_k ? sqrt((double)s->key_size) : 1);
        }
        for (size_t h = 0; h < s->heads_v; h++) {
            size_t shared = s->tiled ? h % s->heads_k : h / (s->heads_v / s->heads_k);
            const double *query = x + shared * s->key_size, *key = query + s->heads_k * s->key_size;
            const double *value = x + 2 * s->heads_k * s->key_size + h * s->value_size;
            for (size_t v = 0; v < s->value_size; v++) {
                double *column = matrices + h * s->key_size * s->value_size + v, recalled = 0, answer = 0;
                for (size_t k = 0; k < s->key_size; k++) {
                    column[k * s->value_size] *= d->decay[r * decays(s) + (s->by_channel ? h * s->key_size + k : h)];
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

static double decay_of(const struct delta_decay *d, size_t head, double f)
{
    double rate = (double)d->rate[head];
    return d->bounded ? exp((double)d->bound / (1 + exp(-fabs(rate) * f))) : exp(rate * log1p(exp(f)));
}

/* Both forms, over arguments for which softplus is nearly zero to arguments that it leaves unchanged. All instruction
 * sets give the same bits. */
static void decays_per_channel_are_right(void **state)
{
    enum { heads = 3, size = 20, count = ROWS * heads * size };
    (void)state;
    float *values = fresh(count, 8.0), *bias = fresh(heads * size, 1.0);
    const float rates[] = {-0.02f, -1.0f, -16.0f};
    values[0] = 60.0f, values[size] = -60.0f, values[2 * size] = -100.0f;
    for (int bounded = 0; bounded < 2; bounded++) {
        float first[count], found[count];
        for (int set = INSTRUCTIONS_PLAIN; set <= INSTRUCTIONS_NEON; set++) {
            if (!compute_has_instructions((enum instruction_set)set))
                continue;
            struct compute *compute;
            assert_ok(compute_create(&compute, 1 + (size_t)set, (enum instruction_set)set, &test_error));
            memcpy(found, values, sizeof found);
            struct delta_decay d = {ROWS, heads, size, found, bias, rates, bounded, bounded ? -5.0f : 0.0f};
            compute_delta_decay(compute, &d);
            compute_destroy(compute);
            for (size_t i = 0; i < count; i++) {
                double expected = decay_of(&d, i / size % heads, (double)values[i] + (double)bias[i % (heads * size)]);
                if (!(fabs((double)found[i] - expected) <= 2e-7 * (2 - log(expected)) * expected + 1e-37))
                    fail_msg("decay %zu is %g, expected %g", i, (double)found[i], expected);
            }
            if (set == INSTRUCTIONS_PLAIN)
                memcpy(first, found, sizeof first);
            assert_memory_equal(first, found, sizeof first);
        }
    }
    free(values);
    free(bias);
}

int main(void)
{
    random_seed(&numbers, 11);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_everywhere),
        cmocka_unit_test(follows_the_recurrence),
        cmocka_unit_test(decays_per_channel_are_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
