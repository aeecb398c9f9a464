/* The GPU's gated delta nets compared with plain C: several sequences in a batch, new ones and ones with a state. The
 * bits do not depend on the division of rows into batches. */
#include "gpu_test.h"

#include "compute/compute.h"

#define SEQUENCES 3u

struct shape {
    uint32_t heads_k, heads_v, key_size, value_size, taps;
    bool tiled, together; /* together: beta and alpha are rows of one matrix */
    bool by_channel;
    float bound, root_epsilon; /* 0: none */
};

static const struct shape shapes[] = {
    {2, 4, 32, 64, 4, false, true, false, 0, 0},     {2, 4, 32, 64, 4, true, false, false, 0, 0},
    {1, 3, 20, 37, 2, false, true, false, 0, 0},     {2, 2, 128, 128, 4, false, false, false, 0, 0},
    {3, 3, 32, 32, 4, false, false, true, 0, 0.02f}, {2, 2, 128, 128, 4, false, false, true, -5.0f, 1e-6f}};

static const uint32_t lengths[SEQUENCES] = {5, 1, 9};

struct data {
    uint32_t rows, channels, inner, state_floats, gate_stride;
    float *convolution, *input, *gates, *step_bias, *decay_rate, *states; /* states: two per sequence */
    float *alphas;                                                        /* per channel */
};

static struct data make_data(const struct shape *s, struct random *random)
{
    struct data d = {.rows = 15, .inner = s->heads_v * s->value_size};
    d.channels = d.inner + 2 * s->heads_k * s->key_size;
    d.state_floats = (uint32_t)delta_net_state_floats(s->heads_k, s->heads_v, s->key_size, s->value_size, s->taps);
    d.gate_stride = 2 * s->heads_v;
    d.convolution = gpu_test_floats(random, d.channels * s->taps);
    d.input = gpu_test_floats(random, d.rows * d.channels);
    d.gates = gpu_test_floats(random, d.rows * d.gate_stride);
    d.step_bias = gpu_test_floats(random, s->heads_v * s->key_size);
    d.alphas = gpu_test_floats(random, d.rows * s->heads_v * s->key_size);
    d.decay_rate = gpu_test_floats(random, s->heads_v);
    d.states = gpu_test_floats(random, 2 * SEQUENCES * d.state_floats);
    for (uint32_t h = 0; h < s->heads_v; h++)
        d.decay_rate[h] = -fabsf(d.decay_rate[h]);
    d.gates[1] = d.gates[s->heads_v] = 25; /* softplus leaves this unchanged */
    d.gates[d.gate_stride] = -30;
    return d;
}

static uint32_t gate_index(const struct shape *s, uint32_t head, bool alpha)
{
    uint32_t group = s->heads_v / s->heads_k;
    return s->together ? head / group * 2 * group + head % group + (alpha ? group : 0)
                       : head + (alpha ? s->heads_v : 0);
}

static double decay_of(const struct shape *s, double rate, double f)
{
    return s->bound < 0 ? exp((double)s->bound / (1 + exp(-fabs(rate) * f))) : exp(rate * log1p(exp(f)));
}

/* Computes one sequence's outputs and next state in plain C. */
static void expect(const struct shape *s, const struct data *d, uint32_t first, uint32_t rows, const float *state,
                   float *output, float *next)
{
    struct compute *compute;
    assert_ok(compute_create(&compute, 1, INSTRUCTIONS_PLAIN, &test_error));
    float *convolved = calloc(rows * d->channels, sizeof *convolved);
    uint32_t decays = s->by_channel ? s->key_size : 1;
    float *beta = calloc(rows * s->heads_v, sizeof *beta), *decay = calloc(rows * s->heads_v * decays, sizeof *decay);
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t h = 0; h < s->heads_v; h++) {
            const float *gates = d->gates + (first + r) * d->gate_stride;
            beta[r * s->heads_v + h] = (float)(1 / (1 + exp(-(double)gates[gate_index(s, h, false)])));
            for (uint32_t k = 0; k < decays; k++) {
                uint32_t channel = h * decays + k, at = (first + r) * s->heads_v * decays + channel;
                float f = s->by_channel ? d->alphas[at] : gates[gate_index(s, h, true)];
                decay[r * s->heads_v * decays + channel] =
                    (float)decay_of(s, (double)d->decay_rate[h], (double)f + (double)d->step_bias[channel]);
            }
        }
    struct delta_net net = {.rows = rows,
                            .heads_k = s->heads_k,
                            .heads_v = s->heads_v,
                            .key_size = s->key_size,
                            .value_size = s->value_size,
                            .taps = s->taps,
                            .tiled = s->tiled,
                            .by_channel = s->by_channel,
                            .root_epsilon = s->root_epsilon > 0,
                            .epsilon = s->root_epsilon > 0 ? s->root_epsilon : 1e-6f,
                            .convolved = convolved,
                            .beta = beta,
                            .decay = decay,
                            .output = output + first * d->inner,
                            .state = state,
                            .next = next};
    for (uint32_t part = 0; part < DELTA_PARTS; part++) {
        uint32_t offset = part * s->heads_k * s->key_size;
        net.convolution[part] = d->convolution + offset * s->taps;
        net.input[part] = d->input + first * d->channels + offset;
        net.input_stride[part] = d->channels;
    }
    compute_delta_net(compute, &net);
    free(convolved);
    free(beta);
    free(decay);
    compute_destroy(compute);
}

/* Runs all rows on the GPU, "batch" rows per sequence at a time. Returns the outputs, followed by the states. */
static float *run(struct gpu *gpu, const struct shape *s, const struct data *d, uint32_t batch)
{
    const uint64_t state_bytes = d->state_floats * sizeof(float);
    const uint32_t group = s->heads_v / s->heads_k, keys = s->heads_k * s->key_size;
    struct gpu_range ranges[] = {gpu_test_range(gpu, d->convolution, d->channels * s->taps * 4),
                                 gpu_test_range(gpu, d->input, d->rows * d->channels * 4),
                                 gpu_test_range(gpu, NULL, d->rows * d->channels * 4),
                                 gpu_test_range(gpu, d->gates, d->rows * d->gate_stride * 4),
                                 gpu_test_range(gpu, d->step_bias, s->heads_v * s->key_size * 4),
                                 gpu_test_range(gpu, d->decay_rate, s->heads_v * 4),
                                 gpu_test_range(gpu, d->alphas, d->rows * s->heads_v * s->key_size * 4)};
    const struct gpu_range alpha = {ranges[3].buffer, (s->together ? group : s->heads_v) * 4};
    struct gpu_range output = gpu_test_range(gpu, NULL, d->rows * d->inner * 4);
    struct gpu_range states = gpu_test_range(gpu, d->states, 2 * SEQUENCES * state_bytes);
    uint32_t held = 0;
    gpu_begin(gpu);
    for (uint32_t done = 0; done < 9; done += batch, held ^= 1) {
        struct gpu_state_sequence sequences[SEQUENCES];
        uint32_t first = 0;
        for (uint32_t i = 0; i < SEQUENCES; first += lengths[i++]) {
            uint32_t rows = done < lengths[i] ? MIN(batch, lengths[i] - done) : 0;
            sequences[i] = (struct gpu_state_sequence){.first_row = first + MIN(done, lengths[i]),
                                                       .rows = rows,
                                                       .fresh = i == 1 && done == 0,
                                                       .state = (2 * i + held) * state_bytes,
                                                       .next = (2 * i + (held ^ 1)) * state_bytes};
        }
        /* Copy the state of a finished sequence to its place for the next batch. */
        for (uint32_t i = 0; i < SEQUENCES; i++)
            if (sequences[i].rows == 0)
                gpu_copy(gpu, (struct gpu_range){states.buffer, sequences[i].next},
                         (struct gpu_range){states.buffer, sequences[i].state}, state_bytes);
        gpu_delta_net(gpu, &(struct gpu_delta_net){
                               .convolution = {ranges[0],
                                               {ranges[0].buffer, keys * s->taps * 4},
                                               {ranges[0].buffer, 2 * keys * s->taps * 4}},
                               .input = {ranges[1], {ranges[1].buffer, keys * 4}, {ranges[1].buffer, 2 * keys * 4}},
                               .input_stride = {d->channels, d->channels, d->channels},
                               .by_channel = s->by_channel,
                               .bounded = s->bound<0, .bound = s->bound, .root_epsilon = s->root_epsilon> 0,
                               .convolved = ranges[2],
                               .beta = ranges[3],
                               .alpha = s->by_channel ? ranges[6] : alpha,
                               .gate_stride = d->gate_stride,
                               .gate_group = s->together ? group : 0,
                               .step_bias = ranges[4],
                               .decay_rate = ranges[5],
                               .output = output,
                               .states = states,
                               .rows = d->rows,
                               .heads_k = s->heads_k,
                               .heads_v = s->heads_v,
                               .key_size = s->key_size,
                               .value_size = s->value_size,
                               .taps = s->taps,
                               .tiled = s->tiled,
                               .epsilon = s->root_epsilon > 0 ? s->root_epsilon : 1e-6f,
                               .sequences = sequences,
                               .sequence_count = SEQUENCES});
        gpu_barrier(gpu);
    }
    gpu_test_run(gpu);
    for (size_t i = 0; i < COUNT_OF(ranges); i++)
        gpu_buffer_destroy(gpu, ranges[i].buffer);
    float *outputs = gpu_test_take(gpu, output, d->rows * d->inner * 4);
    float *after = gpu_test_take(gpu, states, 2 * SEQUENCES * state_bytes);
    float *result = calloc(d->rows * d->inner + SEQUENCES * d->state_floats, sizeof *result);
    memcpy(result, outputs, d->rows * d->inner * sizeof *result);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        memcpy(result + d->rows * d->inner + i * d->state_floats, after + (2 * i + held) * d->state_floats,
               state_bytes);
    free(outputs);
    free(after);
    return result;
}

static void follows_the_rule(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 41);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        const struct shape *s = &shapes[i];
        struct data d = make_data(s, &random);
        size_t outputs = d.rows * d.inner, count = outputs + SEQUENCES * d.state_floats;
        float *expected = calloc(count, sizeof *expected), *zero = calloc(d.state_floats, sizeof *zero);
        uint32_t first = 0;
        for (uint32_t q = 0; q < SEQUENCES; first += lengths[q++])
            expect(s, &d, first, lengths[q], q == 1 ? zero : d.states + 2 * q * d.state_floats, expected,
                   expected + outputs + q * d.state_floats);
        float *whole = run(gpu, s, &d, 9), *cut = run(gpu, s, &d, 2);
        double error = gpu_test_error(whole, expected, outputs);
        double state_error = gpu_test_error(whole + outputs, expected + outputs, count - outputs);
        fprintf(stderr, "# delta net %zu: relative errors %.1e and %.1e of states\n", i, error, state_error);
        if (!(error < 5e-6 && state_error < 5e-6))
            fail_msg("delta net %zu: the relative error is %g for outputs and %g for states", i, error, state_error);
        assert_memory_equal(whole, cut, count * sizeof *whole);
        float *all[] = {d.convolution, d.input, d.gates,  d.step_bias, d.decay_rate, d.alphas,
                        d.states,      zero,    expected, whole,       cut};
        for (size_t n = 0; n < COUNT_OF(all); n++)
            free(all[n]);
    }
    assert_false(gpu_delta_net_supports(260, 4));
    assert_false(gpu_delta_net_supports(30, 4));
    assert_true(gpu_delta_net_supports(128, 4));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(follows_the_rule)};
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
