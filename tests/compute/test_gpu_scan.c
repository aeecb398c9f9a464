/* The GPU's short convolutions and scans of state spaces compared with plain C: several sequences in a batch, new ones
 * and ones with a state. The bits do not depend on the division of rows into batches. */
#include "gpu_test.h"

#include "compute/compute.h"

#define SEQUENCES 3u
#define LONGEST 9u

struct shape {
    uint32_t heads, groups, width, size, taps;
    bool each;        /* a rate per element, as in Mamba 1 */
    uint32_t between; /* floats before each head's input */
    bool bias, silu;
};

static const struct shape shapes[] = {{4, 2, 64, 32, 4, false, 0, true, true},
                                      {6, 3, 24, 20, 4, false, 24, false, true},
                                      {2, 1, 40, 128, 2, false, 0, true, false},
                                      {160, 1, 1, 16, 4, true, 0, true, true}};

static const uint32_t lengths[SEQUENCES] = {5, 1, LONGEST};

struct data {
    uint32_t rows, inner, shared, in_row, kept, state, rates; /* floats */
    float *input, *weights, *bias, *write, *read, *steps, *step_bias, *rate, *skip,
        *states; /* states: two per sequence */
};

static struct data make_data(const struct shape *s, struct random *random)
{
    struct data d = {.rows = 15, .inner = s->heads * s->width, .shared = s->groups * s->size};
    d.in_row = s->heads * (s->width + s->between);
    d.kept = (s->taps - 1) * d.inner;
    d.state = d.kept + (uint32_t)scan_state_floats(s->heads, s->width, s->size);
    d.rates = s->heads * (s->each ? s->size : 1);
    d.input = gpu_test_floats(random, d.rows * d.in_row);
    d.weights = gpu_test_floats(random, d.inner * s->taps);
    d.bias = gpu_test_floats(random, d.inner);
    d.write = gpu_test_floats(random, d.rows * d.shared);
    d.read = gpu_test_floats(random, d.rows * d.shared);
    d.steps = gpu_test_floats(random, d.rows * s->heads);
    d.step_bias = gpu_test_floats(random, s->heads);
    d.rate = gpu_test_floats(random, d.rates);
    d.skip = gpu_test_floats(random, s->heads);
    d.states = gpu_test_floats(random, 2 * SEQUENCES * d.state);
    for (uint32_t i = 0; i < d.rates; i++)
        d.rate[i] = -fabsf(d.rate[i]);
    d.steps[1] = 25; /* softplus leaves this unchanged */
    return d;
}

static void free_data(struct data *d)
{
    float *all[] = {d->input, d->weights,   d->bias, d->write, d->read,
                    d->steps, d->step_bias, d->rate, d->skip,  d->states};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        free(all[i]);
}

/* Computes one sequence's outputs and next state in plain C. */
static void expect(const struct shape *s, const struct data *d, uint32_t first, uint32_t rows, const float *state,
                   float *output, float *next)
{
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    float *convolved = calloc(rows * d->inner, sizeof *convolved), *steps = calloc(rows * s->heads, sizeof *steps);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t h = 0; h < s->heads; h++) {
            double step = (double)d->steps[(first + r) * s->heads + h] + (double)d->step_bias[h];
            steps[r * s->heads + h] = (float)(step > 20 ? step : log1p(exp(step)));
        }
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
                                                       .before = state,
                                                       .after = next,
                                                       .output = convolved});
    compute_scan(compute, &(struct scan){.rows = rows,
                                         .heads = s->heads,
                                         .groups = s->groups,
                                         .width = s->width,
                                         .size = s->size,
                                         .each = s->each,
                                         .input = convolved,
                                         .write = d->write + first * d->shared,
                                         .read = d->read + first * d->shared,
                                         .input_stride = d->inner,
                                         .write_stride = d->shared,
                                         .read_stride = d->shared,
                                         .steps = steps,
                                         .rates = d->rate,
                                         .skip = d->skip,
                                         .output = output + first * d->inner,
                                         .state = state + d->kept,
                                         .next = next + d->kept});
    free(convolved);
    free(steps);
    compute_destroy(compute);
}

/* Records both kernels for a batch of rows of each sequence. Copies the state of a finished sequence to its place for
 * the next batch. */
static void record(struct gpu *gpu, const struct shape *s, const struct data *d, const struct gpu_range *ranges,
                   const struct gpu_state_sequence *sequences)
{
    struct gpu_state_sequence scanned[SEQUENCES];
    const struct gpu_range states = ranges[11];
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        scanned[i] = sequences[i];
        scanned[i].state += d->kept * sizeof(float);
        scanned[i].next += d->kept * sizeof(float);
        if (sequences[i].rows == 0)
            gpu_copy(gpu, (struct gpu_range){states.buffer, sequences[i].next},
                     (struct gpu_range){states.buffer, sequences[i].state}, d->state * sizeof(float));
    }
    gpu_convolution(gpu, &(struct gpu_convolution){.weights = ranges[1],
                                                   .bias = s->bias ? ranges[2] : (struct gpu_range){0},
                                                   .input = {ranges[0].buffer, s->between * sizeof(float)},
                                                   .output = ranges[9],
                                                   .states = states,
                                                   .rows = d->rows,
                                                   .channels = d->inner,
                                                   .taps = s->taps,
                                                   .width = s->between ? s->width : d->inner,
                                                   .group_stride = s->width + s->between,
                                                   .stride = d->in_row,
                                                   .silu = s->silu,
                                                   .sequences = sequences,
                                                   .sequence_count = SEQUENCES});
    gpu_barrier(gpu);
    gpu_scan(gpu, &(struct gpu_scan){.input = ranges[9],
                                     .write = ranges[3],
                                     .read = ranges[4],
                                     .steps = ranges[5],
                                     .step_bias = ranges[6],
                                     .rates = ranges[7],
                                     .skip = ranges[8],
                                     .output = ranges[10],
                                     .states = states,
                                     .rows = d->rows,
                                     .heads = s->heads,
                                     .groups = s->groups,
                                     .width = s->width,
                                     .size = s->size,
                                     .input_stride = d->inner,
                                     .write_stride = d->shared,
                                     .read_stride = d->shared,
                                     .each = s->each,
                                     .sequences = scanned,
                                     .sequence_count = SEQUENCES});
    gpu_barrier(gpu);
}

/* Runs all rows on the GPU, "batch" rows per sequence at a time. Returns the outputs, followed by the states. */
static float *run(struct gpu *gpu, const struct shape *s, const struct data *d, uint32_t batch)
{
    const uint64_t state_bytes = d->state * sizeof(float);
    const struct gpu_range ranges[] = {gpu_test_range(gpu, d->input, d->rows * d->in_row * 4),
                                       gpu_test_range(gpu, d->weights, d->inner * s->taps * 4),
                                       gpu_test_range(gpu, d->bias, d->inner * 4),
                                       gpu_test_range(gpu, d->write, d->rows * d->shared * 4),
                                       gpu_test_range(gpu, d->read, d->rows * d->shared * 4),
                                       gpu_test_range(gpu, d->steps, d->rows * s->heads * 4),
                                       gpu_test_range(gpu, d->step_bias, s->heads * 4),
                                       gpu_test_range(gpu, d->rate, d->rates * 4),
                                       gpu_test_range(gpu, d->skip, s->heads * 4),
                                       gpu_test_range(gpu, NULL, d->rows * d->inner * 4),
                                       gpu_test_range(gpu, NULL, d->rows * d->inner * 4),
                                       gpu_test_range(gpu, d->states, 2 * SEQUENCES * state_bytes)};
    uint32_t held = 0;
    gpu_begin(gpu);
    for (uint32_t done = 0; done < LONGEST; done += batch, held ^= 1) {
        struct gpu_state_sequence sequences[SEQUENCES];
        uint32_t first = 0;
        for (uint32_t i = 0; i < SEQUENCES; first += lengths[i++])
            sequences[i] = (struct gpu_state_sequence){.first_row = first + MIN(done, lengths[i]),
                                                       .rows = done < lengths[i] ? MIN(batch, lengths[i] - done) : 0,
                                                       .fresh = i == 1 && done == 0,
                                                       .state = (2 * i + held) * state_bytes,
                                                       .next = (2 * i + (held ^ 1)) * state_bytes};
        record(gpu, s, d, ranges, sequences);
    }
    gpu_test_run(gpu);
    float *outputs = gpu_test_take(gpu, ranges[10], d->rows * d->inner * 4);
    float *after = gpu_test_take(gpu, ranges[11], 2 * SEQUENCES * state_bytes);
    for (size_t i = 0; i < 10; i++)
        gpu_buffer_destroy(gpu, ranges[i].buffer);
    float *result = calloc(d->rows * d->inner + SEQUENCES * d->state, sizeof *result);
    memcpy(result, outputs, d->rows * d->inner * sizeof *result);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        memcpy(result + d->rows * d->inner + i * d->state, after + (2 * i + held) * d->state, state_bytes);
    free(outputs);
    free(after);
    return result;
}

static void follows_plain_c(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 43);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        const struct shape *s = &shapes[i];
        struct data d = make_data(s, &random);
        size_t outputs = d.rows * d.inner, count = outputs + SEQUENCES * d.state;
        float *expected = calloc(count, sizeof *expected), *zero = calloc(d.state, sizeof *zero);
        uint32_t first = 0;
        for (uint32_t q = 0; q < SEQUENCES; first += lengths[q++])
            expect(s, &d, first, lengths[q], q == 1 ? zero : d.states + 2 * q * d.state, expected,
                   expected + outputs + q * d.state);
        float *whole = run(gpu, s, &d, LONGEST), *cut = run(gpu, s, &d, 2);
        double error = gpu_test_error(whole, expected, outputs);
        double state_error = gpu_test_error(whole + outputs, expected + outputs, count - outputs);
        fprintf(stderr, "# scan %zu: relative errors %.1e and %.1e of states\n", i, error, state_error);
        if (!(error < 5e-6 && state_error < 5e-6))
            fail_msg("scan %zu: the relative error is %g for outputs and %g for states", i, error, state_error);
        assert_memory_equal(whole, cut, count * sizeof *whole);
        free_data(&d);
        free(zero);
        free(expected);
        free(whole);
        free(cut);
    }
    assert_false(gpu_scan_supports(260));
    assert_false(gpu_scan_supports(30));
    assert_true(gpu_scan_supports(16));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(follows_plain_c)};
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
