/* States of sequences, and short convolutions and scans over them, as commands. */
#include "engine/gpu/pass.h"

void pass_find_states(const struct batch *batch, const struct step *step, struct gpu_state_sequence *out)
{
    const struct kv_cache *kv = &batch->kv;
    const struct kv_layer *layer = &kv->layers[step->layer];
    const uint64_t bytes = layer->state_floats * sizeof(float), first = layer->states + step->state * sizeof(float);
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &batch->scratch.spans[i];
        uint64_t held = (uint64_t)(kv->state[span->sequence] ^ batch->pass->ahead.next);
        out[i] = (struct gpu_state_sequence){.first_row = span->first_row,
                                             .rows = span->rows,
                                             .fresh = batch->scratch.positions[span->first_row] == 0,
                                             .state = (2 * (uint64_t)span->sequence + held) * bytes + first,
                                             .next = (2 * (uint64_t)span->sequence + (held ^ 1)) * bytes + first};
    }
}

void pass_move_inputs(struct batch *batch, const struct step *step, bool back)
{
    struct gpu_pass *pass = batch->pass;
    const size_t most = MIN(DRAFT_ROWS, batch->scratch.chunk);
    struct state_input inputs[STEP_TOUCHES];
    size_t count;
    struct gpu_range kept = range_at(pass->state_inputs, most * state_inputs_before(batch, step));
    state_inputs(step, model_parameters(batch->open->model)->embedding, inputs, &count);
    for (size_t i = 0; i < count; i++) {
        struct gpu_range rows = pass->rows[inputs[i].buffer];
        gpu_copy(pass->gpu, back ? rows : kept, back ? kept : rows, batch->rows * inputs[i].width * sizeof(float));
        kept = range_at(kept, most * inputs[i].width);
    }
    gpu_barrier(pass->gpu); /* the step may write what it reads */
}

hypura_status pass_record_convolve(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_convolve *c = &step->convolve;
    struct gpu_state_sequence sequences[GPU_MAX_SEQUENCES];
    (void)error;
    pass_find_states(batch, step, sequences);
    gpu_convolution(pass->gpu, &(struct gpu_convolution){.weights = pass_vector(batch, c->weights),
                                                         .bias = pass_vector(batch, c->bias),
                                                         .input = range_at(pass->rows[c->in.buffer], c->in.offset),
                                                         .output = pass->rows[c->out],
                                                         .states = {pass->caches[step->layer], 0},
                                                         .rows = (uint32_t)batch->rows,
                                                         .channels = c->groups * c->width,
                                                         .taps = c->taps,
                                                         .width = c->width,
                                                         .group_stride = c->in.stride,
                                                         .stride = c->groups * c->in.stride,
                                                         .dilation = c->dilation,
                                                         .silu = c->silu,
                                                         .sequences = sequences,
                                                         .sequence_count = batch->span_count});
    return HYPURA_OK;
}

hypura_status pass_record_scan(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_scan *s = &step->scan;
    struct gpu_state_sequence sequences[GPU_MAX_SEQUENCES];
    (void)error;
    pass_find_states(batch, step, sequences);
    gpu_scan(pass->gpu, &(struct gpu_scan){.input = range_at(pass->rows[s->in.buffer], s->in.offset),
                                           .write = range_at(pass->rows[s->write.buffer], s->write.offset),
                                           .read = range_at(pass->rows[s->read.buffer], s->read.offset),
                                           .steps = pass->rows[s->steps],
                                           .step_bias = pass_vector(batch, s->step_bias),
                                           .rates = pass_vector(batch, s->rates),
                                           .skip = pass_vector(batch, s->skip),
                                           .output = pass->rows[s->out],
                                           .states = {pass->caches[step->layer], 0},
                                           .rows = (uint32_t)batch->rows,
                                           .heads = s->heads,
                                           .groups = s->groups,
                                           .width = s->width,
                                           .size = s->size,
                                           .input_stride = s->in.stride,
                                           .write_stride = s->write.stride,
                                           .read_stride = s->read.stride,
                                           .each = s->each,
                                           .sequences = sequences,
                                           .sequence_count = batch->span_count});
    return HYPURA_OK;
}
