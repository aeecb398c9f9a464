/* Gated delta nets (compute.h says what they are). */
#include "engine/cpu/execute.h"

#include <math.h>
#include <string.h>

/* beta and decay of every value head from what their projections gave: those of each key head's group together, or in
 * the two buffers themselves. */
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

static void run_span(struct batch *batch, uint32_t layer, const struct span *span, struct delta_net net)
{
    size_t first = span->first_row, channels = 2 * net.heads_k * net.key_size + net.heads_v * net.value_size;
    float *state = kv_cache_state(&batch->kv, layer, span->sequence, false);
    if (batch->kv.held[span->sequence] == 0)
        memset(state, 0, batch->kv.layers[layer].state_floats * sizeof *state);
    net.state = state;
    net.next = kv_cache_state(&batch->kv, layer, span->sequence, true);
    net.rows = span->rows;
    net.input += first * channels;
    net.convolved += first * channels;
    net.beta += first * net.heads_v;
    net.decay += first * net.heads_v;
    net.output += first * net.heads_v * net.value_size;
    compute_delta_net(batch->compute, &net);
}

hypura_status run_delta_net(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_delta_net *d = &step->delta_net;
    const float *bias, *rate;
    struct delta_net net = {.tiled = d->tiled,
                            .heads_k = d->heads_k,
                            .heads_v = d->heads_v,
                            .key_size = d->key_size,
                            .value_size = d->value_size,
                            .epsilon = d->epsilon,
                            .taps = d->taps,
                            .input = rows_of(batch, d->in),
                            .convolved = rows_of(batch, d->convolved),
                            .beta = rows_of(batch, d->beta),
                            .decay = rows_of(batch, d->decay),
                            .output = rows_of(batch, d->out)};
    TRY(hold_vector(batch, held, d->step_bias, &bias, error));
    TRY(hold_vector(batch, held, d->decay_rate, &rate, error));
    make_gates(batch, d, bias, rate);
    TRY(hold_vector(batch, held, d->convolution, &net.convolution, error));
    for (uint32_t i = 0; i < batch->span_count; i++)
        run_span(batch, (uint32_t)step->layer, &batch->scratch.spans[i], net);
    return HYPURA_OK;
}
