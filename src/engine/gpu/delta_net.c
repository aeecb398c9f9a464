/* Gated delta nets as commands. */
#include "engine/gpu/pass.h"

hypura_status pass_record_delta_net(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_delta_net *d = &step->delta_net;
    struct gpu_state_sequence sequences[GPU_MAX_SEQUENCES];
    /* If one matrix gives both, its rows are [beta of a group, alpha of the same group] for each key head. */
    bool together = d->gates != BUFFER_NONE;
    uint32_t group = d->heads_v / d->heads_k;
    const uint32_t sizes[DELTA_PARTS] = {d->heads_k * d->key_size, d->heads_k * d->key_size, 0};
    (void)error;
    pass_find_states(batch, step, sequences);
    struct gpu_delta_net net = {.convolved = pass->rows[d->convolved],
                                .beta = pass->rows[together ? d->gates : d->beta],
                                .alpha = together ? range_at(pass->rows[d->gates], group) : pass->rows[d->decay],
                                .gate_stride = together ? 2 * d->heads_v : d->heads_v,
                                .gate_group = together ? group : 0,
                                .step_bias = pass_vector(batch, d->step_bias),
                                .decay_rate = pass_vector(batch, d->decay_rate),
                                .output = pass->rows[d->out],
                                .states = {pass->caches[step->layer], 0},
                                .scratch = pass->attention,
                                .scratch_bytes = pass->delta_net_bytes,
                                .rows = (uint32_t)batch->rows,
                                .heads_k = d->heads_k,
                                .heads_v = d->heads_v,
                                .key_size = d->key_size,
                                .value_size = d->value_size,
                                .taps = d->taps,
                                .tiled = d->tiled,
                                .by_channel = d->kind != DECAY_OF_HEAD,
                                .bounded = d->kind == DECAY_BOUNDED,
                                .bound = d->bound,
                                .root_epsilon = d->root_epsilon,
                                .epsilon = d->epsilon,
                                .sequences = sequences,
                                .sequence_count = batch->span_count};
    for (uint32_t part = 0; part < DELTA_PARTS; part++) {
        net.convolution[part] = d->convolution[part] != NO_UNIT
                                    ? pass_vector(batch, d->convolution[part])
                                    : range_at(net.convolution[part - 1], sizes[part - 1] * d->taps);
        net.input[part] = range_at(pass->rows[d->in[part].buffer], d->in[part].offset);
        net.input_stride[part] = d->in[part].stride;
    }
    gpu_delta_net(pass->gpu, &net);
    return HYPURA_OK;
}
