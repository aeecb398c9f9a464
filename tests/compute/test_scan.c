#include "test.h"

#include "compute/compute.h"

#include <math.h>
#include <string.h>

/* Short convolutions and scans of state spaces compute the formulas of compute.h, with the same bits for every
 * instruction set, number of threads and division of the rows. */

#define ROWS 75 /* more than two blocks of rows */

struct shape {
    size_t heads, groups, width, size, taps;
    bool each;             /* a rate per element, as in Mamba 1 */
    size_t between;        /* floats between the inputs of two heads */
    bool bias, silu, more; /* more: the rows that read and write the state are parts of wider rows */
};

static const struct shape shapes[] = {{4, 2, 64, 32, 4, false, 0, true, true, true},
                                      {6, 3, 24, 20, 4, false, 24, false, true, false},
                                      {2, 1, 130, 7, 2, false, 5, true, false, false},
                                      {160, 1, 1, 16, 4, true, 0, true, true, false},
                                      {37, 1, 1, 5, 3, true, 0, false, true, true}};

static struct random numbers;

static float *fresh(size_t count, double spread)
{
    float *values = calloc(count, sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = (float)(random_normal(&numbers) * spread);
    return values;
}

struct data {
    size_t inner, shared, row, in_row, state, kept; /* in floats; state and kept are the sizes of the two states */
    float *input, *weights, *bias, *before, *write, *read, *steps, *rates, *skip, *scanned;
};

static struct data make_data(const struct shape *s)
{
    struct data d = {.inner = s->heads * s->width, .shared = s->groups * s->size, .kept = 0};
    d.row = d.shared + (s->more ? 9 : 0);
    d.in_row = s->heads * (s->width + s->between);
    d.state = scan_state_floats(s->heads, s->width, s->size);
    d.kept = (s->taps - 1) * d.inner;
    assert_int_equal(d.state, d.inner * s->size);
    d.input = fresh(ROWS * d.in_row, 1.0);
    d.weights = fresh(d.inner * s->taps, 0.5);
    d.bias = fresh(d.inner, 0.3);
    d.before = fresh(d.kept, 1.0);
    d.write = fresh(ROWS * d.row, 0.7);
    d.read = fresh(ROWS * d.row, 0.7);
    d.steps = fresh(ROWS * s->heads, 1.0);
    d.rates = fresh(s->heads * (s->each ? s->size : 1), 1.0);
    d.skip = fresh(s->heads, 1.0);
    d.scanned = fresh(d.state, 0.3);
    for (size_t i = 0; i < ROWS * s->heads; i++)
        d.steps[i] = fabsf(d.steps[i]) * 0.3f;
    for (size_t i = 0; i < s->heads * (s->each ? s->size : 1); i++)
        d.rates[i] = -fabsf(d.rates[i]);
    return d;
}

static void free_data(struct data *d)
{
    float *all[] = {d->input, d->weights, d->bias,  d->before, d->write,
                    d->read,  d->steps,   d->rates, d->skip,   d->scanned};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        free(all[i]);
}

/* Runs all rows in calls of at most "batch" rows. Returns the outputs, followed by both final states. */
static float *run(const struct shape *s, const struct data *d, enum instruction_set set, size_t threads, size_t batch)
{
    struct compute *compute;
    assert_ok(compute_create(&compute, threads, set, &test_error));
    float *result = calloc(ROWS * d->inner + d->kept + d->state, sizeof *result);
    float *convolved = calloc(ROWS * d->inner, sizeof *convolved);
    float *kept[2] = {calloc(d->kept, sizeof(float)), calloc(d->kept, sizeof(float))};
    float *states[2] = {calloc(d->state, sizeof(float)), calloc(d->state, sizeof(float))};
    memcpy(kept[0], d->before, d->kept * sizeof(float));
    memcpy(states[0], d->scanned, d->state * sizeof(float));
    int now = 0;
    for (size_t first = 0; first < ROWS; first += batch, now ^= 1) {
        size_t rows = MIN(batch, ROWS - first);
        compute_convolution(compute, &(struct convolution){.rows = rows,
                                                           .channels = d->inner,
                                                           .taps = s->taps,
                                                           .weights = d->weights,
                                                           .bias = s->bias ? d->bias : NULL,
                                                           .silu = s->silu,
                                                           .input = d->input + first * d->in_row + s->between,
                                                           .stride = d->in_row,
                                                           .width = s->between ? s->width : d->inner,
                                                           .group_stride = s->width + s->between,
                                                           .before = kept[now],
                                                           .after = kept[!now],
                                                           .output = convolved + first * d->inner});
        compute_scan(compute, &(struct scan){.rows = rows,
                                             .heads = s->heads,
                                             .groups = s->groups,
                                             .width = s->width,
                                             .size = s->size,
                                             .each = s->each,
                                             .input = convolved + first * d->inner,
                                             .write = d->write + first * d->row,
                                             .read = d->read + first * d->row,
                                             .input_stride = d->inner,
                                             .write_stride = d->row,
                                             .read_stride = d->row,
                                             .steps = d->steps + first * s->heads,
                                             .rates = d->rates,
                                             .skip = d->skip,
                                             .output = result + first * d->inner,
                                             .state = states[now],
                                             .next = states[!now]});
    }
    memcpy(result + ROWS * d->inner, kept[now], d->kept * sizeof(float));
    memcpy(result + ROWS * d->inner + d->kept, states[now], d->state * sizeof(float));
    for (int i = 0; i < 2; i++) {
        free(kept[i]);
        free(states[i]);
    }
    free(convolved);
    compute_destroy(compute);
    return result;
}

static void same_bits_everywhere(void **state)
{
    (void)state;
    static const size_t batches[] = {1, 2, 7, 32, ROWS};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        struct data d = make_data(&shapes[i]);
        float *expected = run(&shapes[i], &d, INSTRUCTIONS_PLAIN, 1, ROWS);
        for (int set = INSTRUCTIONS_PLAIN; set <= INSTRUCTIONS_NEON; set++)
            for (size_t b = 0; compute_has_instructions((enum instruction_set)set) && b < COUNT_OF(batches); b++) {
                float *found = run(&shapes[i], &d, (enum instruction_set)set, 1 + b % 3, batches[b]);
                if (memcmp(found, expected, (ROWS * d.inner + d.kept + d.state) * sizeof *found) != 0)
                    fail_msg("shape %zu: other bits with %s in batches of %zu", i,
                             compute_instructions_name((enum instruction_set)set), batches[b]);
                free(found);
            }
        free(expected);
        free_data(&d);
    }
}

static double convolved(const struct shape *s, const struct data *d, size_t row, size_t head, size_t i)
{
    size_t channel = head * s->width + i, back = s->taps - 1;
    double sum = 0;
    for (size_t tap = 0; tap < s->taps; tap++) {
        size_t at = row + tap;
        float value = at < back ? d->before[at * d->inner + channel]
                                : d->input[(at - back) * d->in_row + head * (s->width + s->between) + s->between + i];
        sum += (double)value * d->weights[channel * s->taps + tap];
    }
    sum += s->bias ? (double)d->bias[channel] : 0;
    return s->silu ? sum / (1 + exp(-sum)) : sum;
}

/* Computes the state in double precision, one number at a time. */
static void follows_the_formulas(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        const struct shape *s = &shapes[i];
        struct data d = make_data(s);
        float *found = run(s, &d, compute_best_instructions(), 2, 33);
        for (size_t h = 0; h < s->heads; h++)
            for (size_t v = 0; v < s->width; v++) {
                double *matrix = calloc(s->size, sizeof *matrix);
                for (size_t n = 0; n < s->size; n++)
                    matrix[n] = d.scanned[s->each ? n * s->heads + h : (h * s->size + n) * s->width + v];
                for (size_t r = 0; r < ROWS; r++) {
                    double x = convolved(s, &d, r, h, v), step = d.steps[r * s->heads + h], sum = x * (double)d.skip[h];
                    size_t at = r * d.row + h / (s->heads / s->groups) * s->size;
                    for (size_t n = 0; n < s->size; n++) {
                        double rate = d.rates[s->each ? h * s->size + n : h];
                        matrix[n] = matrix[n] * exp(step * rate) + step * x * (double)d.write[at + n];
                        sum += matrix[n] * (double)d.read[at + n];
                    }
                    double value = found[r * d.inner + h * s->width + v];
                    if (fabs(value - sum) > 2e-5)
                        fail_msg("shape %zu: row %zu of head %zu is %g, expected %g", i, r, h, value, sum);
                }
                free(matrix);
            }
        free(found);
        free_data(&d);
    }
}

int main(void)
{
    random_seed(&numbers, 11);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_everywhere),
        cmocka_unit_test(follows_the_formulas),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
