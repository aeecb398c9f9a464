/* Gated delta nets (compute.h says what they are). */
#include "engine/cpu/execute.h"

#include <math.h>

/* Computes beta and decay for each value head from their projections. The raw values are grouped by key head in one
 * buffer, or already in the two buffers. */
static void make_gates(struct batch *batch, const struct step_delta_net *d, const float *bias, const float *rate)
{
    const float *raw = d->gates == BUFFER_NONE ? NULL : rows_of(batch, d->gates);
    float *beta = rows_of(batch, d->beta), *decay = rows_of(batch, d->decay);
    size_t heads = d->heads_v, group = heads / d->heads_k;
    for (size_t r = 0; r < batch->rows; r++)
        for (size_t h = 0; h < heads; h++) {
            float *to_decay = &decay[r * heads + h], *to_beta = &beta[r * heads + h];
            if (raw) {
                const float *pair = raw + r * 2 * heads + h / group * 2 * group + h % group;
                *to_beta = pair[0];
                *to_decay = pair[group];
            }
            float step = *to_decay + bias[h];
            step = step > 20.0f ? step : log1pf(expf(step)); /* softplus */
            *to_decay = expf(rate[h] * step);
            *to_beta = 1.0f / (1.0f + expf(-*to_beta));
        }
}

static void make_channel_gates(struct batch *batch, const struct step_delta_net *d, const float *bias,
                               const float *rate)
{
    struct delta_decay decay = {.rows = batch->rows,
                                .heads = d->heads_v,
                                .size = d->key_size,
                                .values = rows_of(batch, d->decay),
                                .bias = bias,
                                .rate = rate,
                                .bounded = d->kind == DECAY_BOUNDED,
                                .bound = d->bound};
    compute_delta_decay(batch->compute, &decay);
    compute_function(batch->compute, FUNCTION_SIGMOID, rows_of(batch, d->beta), batch->rows * d->heads_v);
}

static void run_span(struct batch *batch, const struct step *step, const struct span *span, struct delta_net net)
{
    size_t first = span->first_row, channels = 2 * net.heads_k * net.key_size + net.heads_v * net.value_size;
    struct states states = states_of(batch, step, span);
    net.state = states.now;
    net.next = states.next;
    net.rows = span->rows;
    for (size_t part = 0; part < DELTA_PARTS; part++)
        net.input[part] += first * net.input_stride[part];
    net.convolved += first * channels;
    net.beta += first * net.heads_v;
    net.decay += first * net.heads_v * (net.by_channel ? net.key_size : 1);
    net.output += first * net.heads_v * net.value_size;
    compute_delta_net(batch->compute, &net);
}

hypura_status run_delta_net(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_delta_net *d = &step->delta_net;
    const size_t sizes[DELTA_PARTS] = {(size_t)d->heads_k * d->key_size, (size_t)d->heads_k * d->key_size, 0};
    const float *bias, *rate;
    struct delta_net net = {.tiled = d->tiled,
                            .by_channel = d->kind != DECAY_OF_HEAD,
                            .root_epsilon = d->root_epsilon,
                            .heads_k = d->heads_k,
                            .heads_v = d->heads_v,
                            .key_size = d->key_size,
                            .value_size = d->value_size,
                            .epsilon = d->epsilon,
                            .taps = d->taps,
                            .convolved = rows_of(batch, d->convolved),
                            .beta = rows_of(batch, d->beta),
                            .decay = rows_of(batch, d->decay),
                            .output = rows_of(batch, d->out)};
    TRY(hold_vector(batch, held, d->step_bias, &bias, error));
    TRY(hold_vector(batch, held, d->decay_rate, &rate, error));
    if (net.by_channel)
        make_channel_gates(batch, d, bias, rate);
    else
        make_gates(batch, d, bias, rate);
    for (size_t part = 0; part < DELTA_PARTS; part++) {
        net.input[part] = rows_of(batch, d->in[part].buffer) + d->in[part].offset;
        net.input_stride[part] = d->in[part].stride;
        TRY(hold_vector(batch, held, d->convolution[part], &net.convolution[part], error));
        if (d->convolution[part] == NO_UNIT)
            net.convolution[part] = net.convolution[part - 1] + sizes[part - 1] * d->taps;
    }
    for (uint32_t i = 0; i < batch->span_count; i++)
        run_span(batch, step, &batch->scratch.spans[i], net);
    return HYPURA_OK;
}
