/* States of sequences, and the simplest steps that use them. */
#include "engine/cpu/execute.h"

#include <string.h>

struct states states_of(struct batch *batch, const struct step *step, const struct span *span)
{
    float *now = kv_cache_state(&batch->kv, step, span->sequence, false);
    if (batch->kv.held[span->sequence] == 0)
        memset(now, 0, step_state(step) * sizeof *now);
    return (struct states){now, kv_cache_state(&batch->kv, step, span->sequence, true)};
}

hypura_status run_convolve(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_convolve *c = &step->convolve;
    const float *in = rows_of(batch, c->in.buffer) + c->in.offset;
    float *out = rows_of(batch, c->out);
    struct convolution convolution = {.channels = (size_t)c->groups * c->width,
                                      .taps = c->taps,
                                      .dilation = c->dilation,
                                      .silu = c->silu,
                                      .stride = (size_t)c->groups * c->in.stride,
                                      .width = c->width,
                                      .group_stride = c->in.stride};
    TRY(hold_vector(batch, held, c->weights, &convolution.weights, error));
    TRY(hold_vector(batch, held, c->bias, &convolution.bias, error));
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &batch->scratch.spans[i];
        struct states states = states_of(batch, step, span);
        convolution.rows = span->rows;
        convolution.input = in + span->first_row * convolution.stride;
        convolution.output = out + span->first_row * convolution.channels;
        convolution.before = states.now;
        convolution.after = states.next;
        compute_convolution(batch->compute, &convolution);
    }
    return HYPURA_OK;
}

/* Adds the bias to the lengths of the scan's steps, and makes them positive. */
static void make_steps(struct batch *batch, const struct step_scan *s, const float *bias)
{
    float *steps = rows_of(batch, s->steps);
    for (size_t r = 0; bias && r < batch->rows; r++)
        compute_add(batch->compute, steps + r * s->heads, steps + r * s->heads, bias, s->heads);
    compute_function(batch->compute, FUNCTION_SOFTPLUS, steps, batch->rows * s->heads);
}

hypura_status run_scan(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_scan *s = &step->scan;
    const float *in = rows_of(batch, s->in.buffer) + s->in.offset, *bias;
    const float *write = rows_of(batch, s->write.buffer) + s->write.offset;
    const float *read = rows_of(batch, s->read.buffer) + s->read.offset;
    struct scan scan = {.heads = s->heads,
                        .groups = s->groups,
                        .width = s->width,
                        .size = s->size,
                        .each = s->each,
                        .input_stride = s->in.stride,
                        .write_stride = s->write.stride,
                        .read_stride = s->read.stride};
    TRY(hold_vector(batch, held, s->step_bias, &bias, error));
    TRY(hold_vector(batch, held, s->rates, &scan.rates, error));
    TRY(hold_vector(batch, held, s->skip, &scan.skip, error));
    make_steps(batch, s, bias);
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &batch->scratch.spans[i];
        struct states states = states_of(batch, step, span);
        size_t first = span->first_row, inner = (size_t)s->heads * s->width;
        scan.rows = span->rows;
        scan.input = in + first * s->in.stride;
        scan.write = write + first * s->write.stride;
        scan.read = read + first * s->read.stride;
        scan.steps = rows_of(batch, s->steps) + first * s->heads;
        scan.output = rows_of(batch, s->out) + first * inner;
        scan.state = states.now;
        scan.next = states.next;
        compute_scan(batch->compute, &scan);
    }
    return HYPURA_OK;
}
