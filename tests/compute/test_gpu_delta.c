/* The GPU's gated delta nets compared with plain C: several sequences in a batch, new ones and ones with a state. Of
 * few rows, and of many, which are computed in chunks. */
#include "gpu_test.h"

#include "compute/compute.h"

#define SEQUENCES 5u

struct shape {
    uint32_t heads_k, heads_v, key_size, value_size, taps;
    bool tiled, together; /* together: beta and alpha are rows of one matrix */
    bool by_channel;
    float bound, root_epsilon; /* 0: none */
    float more;                /* is added to alphas; decays are stronger */
    uint32_t every;            /* of so many rows, one forgets nearly all; 0: none */
};

struct data {
    const uint32_t *lengths;
    uint32_t rows, longest, channels, inner, state_floats, gate_stride;
    float *convolution, *input, *gates, *step_bias, *decay_rate, *states; /* states: two per sequence */
    float *alphas;                                                        /* per channel */
};

static uint32_t gate_index(const struct shape *s, uint32_t head, bool alpha)
{
    uint32_t group = s->heads_v / s->heads_k;
    return s->together ? head / group * 2 * group + head % group + (alpha ? group : 0)
                       : head + (alpha ? s->heads_v : 0);
}

static void change_decays(const struct shape *s, const struct data *d)
{
    for (uint32_t r = 0; r < d->rows; r++) {
        const float more = s->every && r % s->every == s->every / 2 ? 50.0f : s->more;
        for (uint32_t h = 0; h < s->heads_v; h++)
            d->gates[r * d->gate_stride + gate_index(s, h, true)] += more;
        for (uint32_t c = 0; c < s->heads_v * s->key_size; c++)
            d->alphas[r * s->heads_v * s->key_size + c] += more;
    }
}

static struct data make_data(const struct shape *s, const uint32_t *lengths, struct random *random)
{
    struct data d = {.lengths = lengths, .inner = s->heads_v * s->value_size};
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        d.rows += lengths[i];
        d.longest = MAX(d.longest, lengths[i]);
    }
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
    change_decays(s, &d);
    return d;
}

static void free_data(const struct data *d)
{
    float *all[] = {d->convolution, d->input, d->gates, d->step_bias, d->decay_rate, d->alphas, d->states};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        free(all[i]);
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

/* Outputs of all rows, then states of all sequences. */
static size_t result_floats(const struct data *d)
{
    return (size_t)d->rows * d->inner + (size_t)SEQUENCES * d->state_floats;
}

static float *expect_all(const struct shape *s, const struct data *d)
{
    float *expected = calloc(result_floats(d), sizeof *expected), *zero = calloc(d->state_floats, sizeof *zero);
    uint32_t first = 0;
    for (uint32_t q = 0; q < SEQUENCES; first += d->lengths[q++])
        expect(s, d, first, d->lengths[q], q == 1 ? zero : d->states + 2 * q * d->state_floats, expected,
               expected + (size_t)d->rows * d->inner + q * d->state_floats);
    free(zero);
    return expected;
}

struct way {
    uint32_t batch;         /* rows per sequence at a time */
    bool alone;             /* one sequence at a time */
    uint64_t scratch_bytes; /* 0: as much as there should be */
};

/* Memory with this many bytes of not-a-numbers. */
static struct gpu_range garbage(struct gpu *gpu, uint64_t bytes)
{
    void *all = malloc(bytes);
    memset(all, 0xff, bytes);
    struct gpu_range range = gpu_test_range(gpu, all, bytes);
    free(all);
    return range;
}

static float *run(struct gpu *gpu, const struct shape *s, const struct data *d, struct way way)
{
    const uint64_t state_bytes = d->state_floats * sizeof(float);
    const uint64_t scratch_bytes =
        way.scratch_bytes ? way.scratch_bytes
                          : gpu_delta_net_scratch_bytes(d->rows, SEQUENCES, s->heads_v, s->key_size, s->value_size);
    const uint32_t group = s->heads_v / s->heads_k, keys = s->heads_k * s->key_size;
    struct gpu_range ranges[] = {gpu_test_range(gpu, d->convolution, d->channels * s->taps * 4),
                                 gpu_test_range(gpu, d->input, d->rows * d->channels * 4),
                                 garbage(gpu, d->rows * d->channels * 4),
                                 gpu_test_range(gpu, d->gates, d->rows * d->gate_stride * 4),
                                 gpu_test_range(gpu, d->step_bias, s->heads_v * s->key_size * 4),
                                 gpu_test_range(gpu, d->decay_rate, s->heads_v * 4),
                                 gpu_test_range(gpu, d->alphas, d->rows * s->heads_v * s->key_size * 4),
                                 garbage(gpu, MAX(scratch_bytes, (uint64_t)4))};
    const struct gpu_range alpha = {ranges[3].buffer, (s->together ? group : s->heads_v) * 4};
    struct gpu_range output = garbage(gpu, d->rows * d->inner * 4);
    struct gpu_range states = gpu_test_range(gpu, d->states, 2 * SEQUENCES * state_bytes);
    uint32_t held[SEQUENCES] = {0}, done[SEQUENCES] = {0};
    gpu_begin(gpu);
    for (uint32_t turn = 0;; turn++) {
        struct gpu_state_sequence sequences[SEQUENCES];
        uint32_t first = 0, rows = 0;
        for (uint32_t i = 0; i < SEQUENCES; first += d->lengths[i++]) {
            const uint32_t some = way.alone && turn % SEQUENCES != i ? 0 : MIN(way.batch, d->lengths[i] - done[i]);
            sequences[i] = (struct gpu_state_sequence){.first_row = first + done[i],
                                                       .rows = some,
                                                       .fresh = i == 1 && done[i] == 0,
                                                       .state = (2 * i + held[i]) * state_bytes,
                                                       .next = (2 * i + (held[i] ^ 1)) * state_bytes};
            done[i] += some;
            held[i] ^= some > 0;
            rows += d->lengths[i] - done[i] + some;
        }
        if (rows == 0)
            break;
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
                               .scratch = ranges[7],
                               .scratch_bytes = scratch_bytes,
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
    float *result = calloc(result_floats(d), sizeof *result);
    memcpy(result, outputs, d->rows * d->inner * sizeof *result);
    for (uint32_t i = 0; i < SEQUENCES; i++)
        memcpy(result + (size_t)d->rows * d->inner + i * d->state_floats, after + (2 * i + held[i]) * d->state_floats,
               state_bytes);
    free(outputs);
    free(after);
    return result;
}

/* Compares a run with plain C, sequence by sequence, and its bits with those of other ways. */
static void check(struct gpu *gpu, const char *name, const struct shape *s, const uint32_t *lengths,
                  struct random *random, const struct way *ways, size_t count)
{
    struct data d = make_data(s, lengths, random);
    float *expected = expect_all(s, &d), *whole = run(gpu, s, &d, (struct way){.batch = d.longest});
    double error = 0, state_error = 0;
    size_t at = 0, state_at = (size_t)d.rows * d.inner;
    for (uint32_t i = 0; i < SEQUENCES; i++) {
        error = fmax(error, gpu_test_error(whole + at, expected + at, lengths[i] * d.inner));
        state_error = fmax(state_error, gpu_test_error(whole + state_at, expected + state_at, d.state_floats));
        at += lengths[i] * d.inner;
        state_at += d.state_floats;
    }
    const double all = gpu_test_error(whole, expected, result_floats(&d)); /* notices a not-a-number */
    fprintf(stderr, "# delta net, %s: relative errors %.1e and %.1e of states\n", name, error, state_error);
    if (!(error < 5e-6 && state_error < 5e-6 && all < 5e-6))
        fail_msg("delta net, %s: the relative error is %g for outputs and %g for states, %g for all", name, error,
                 state_error, all);
    for (size_t i = 0; i < count; i++) {
        float *other = run(gpu, s, &d, ways[i]);
        assert_memory_equal(whole, other, result_floats(&d) * sizeof *whole);
        free(other);
    }
    free(expected);
    free(whole);
    free_data(&d);
}

static void takes_few_rows(void **state)
{
    static const struct {
        const char *name;
        struct shape shape;
    } cases[] = {
        {"a head's decay", {2, 4, 32, 64, 4, .together = true}},
        {"tiled heads", {2, 4, 32, 64, 4, .tiled = true}},
        {"odd sizes", {1, 3, 20, 37, 2, .together = true}},
        {"large heads", {2, 2, 128, 128, 4}},
        {"a channel's decay", {3, 3, 32, 32, 4, .by_channel = true, .root_epsilon = 0.02f}},
        {"a bounded decay", {2, 2, 128, 128, 4, .by_channel = true, .bound = -5.0f, .root_epsilon = 1e-6f}},
    };
    static const uint32_t lengths[SEQUENCES] = {5, 1, 9, 3, 2};
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 41);
    for (size_t i = 0; i < COUNT_OF(cases); i++)
        check(gpu, cases[i].name, &cases[i].shape, lengths, &random, &(struct way){.batch = 2}, 1);
    assert_false(gpu_delta_net_supports(260, 4));
    assert_false(gpu_delta_net_supports(30, 4));
    assert_true(gpu_delta_net_supports(128, 4));
}

/* Bits do not depend on other sequences, on how much scratch memory there is, or on cuts between chunks. */
static void takes_many_rows_in_chunks(void **state)
{
    static const struct {
        const char *name;
        struct shape shape;
    } cases[] = {
        {"chunks", {2, 4, 128, 128, 4, .together = true}},
        {"chunks, tiled heads", {2, 4, 64, 64, 4, .tiled = true}},
        {"chunks, odd sizes", {1, 3, 36, 37, 2, .together = true}},
        {"chunks, keys of 100", {2, 2, 100, 40, 4}},
        {"chunks, keys of 256", {1, 2, 256, 48, 4, .together = true}},
        {"chunks, a channel's decay", {2, 2, 128, 128, 4, .by_channel = true, .root_epsilon = 0.02f}},
        {"chunks, a channel's decay, keys of 200", {1, 2, 200, 37, 2, .by_channel = true}},
        {"chunks, a bounded decay", {2, 2, 128, 64, 4, .by_channel = true, .bound = -5.0f, .root_epsilon = 1e-6f}},
        {"chunks, nothing is forgotten", {2, 4, 64, 64, 4, .together = true, .more = -20.0f}},
        {"chunks, no channel forgets", {2, 2, 128, 64, 4, .by_channel = true, .more = -20.0f}},
        {"chunks, all is forgotten now and then", {2, 4, 64, 64, 4, .together = true, .more = -5.0f, .every = 7}},
        {"chunks, all channels forget now and then", {2, 2, 128, 64, 4, .by_channel = true, .more = -5.0f, .every = 7}},
        {"chunks, all is forgotten", {2, 4, 64, 64, 4, .together = true, .more = 50.0f}},
        {"chunks, a bound of -50", {2, 2, 128, 64, 4, .by_channel = true, .bound = -50.0f, .every = 5}},
    };
    static const uint32_t lengths[SEQUENCES] = {166, 37, 9, 64, 16};
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 42);
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        const struct shape *s = &cases[i].shape;
        const uint64_t least = gpu_delta_net_scratch_bytes(32, 1, s->heads_v, s->key_size, s->value_size);
        const struct way ways[] = {
            {.batch = 64}, {.batch = 166, .alone = true}, {.batch = 166, .scratch_bytes = least}};
        check(gpu, cases[i].name, s, lengths, &random, ways, COUNT_OF(ways));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(takes_few_rows), cmocka_unit_test(takes_many_rows_in_chunks)};
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
