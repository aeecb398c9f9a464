/* Recurrent layers (recurrent_layer.c) as commands. */
#include "engine/gpu/pass.h"

/* Channels, gates of the output, and beta and alpha, of all rows. Of one matrix of both the parts are [beta of a group,
 * alpha of it] for each key head's group. */
static void project(struct engine *engine, const struct model_layer *layer, struct gpu_delta_net *net)
{
    struct gpu_pass *pass = engine->pass;
    const unit_number *tensors = layer->tensors, norm = tensors[ROLE_ATTENTION_NORM];
    bool together = tensors[ROLE_RECURRENT_BETA_ALPHA] != NO_UNIT;
    uint32_t group = net->heads_v / net->heads_k;
    net->beta = pass->key;
    net->alpha = range_at(pass->key, together ? group : engine->rows * net->heads_v);
    net->gate_stride = together ? 2 * net->heads_v : net->heads_v;
    net->gate_group = together ? group : 0;
    const struct {
        enum tensor_role role;
        struct gpu_range out;
    } parts[PASS_PRODUCTS] = {{ROLE_ATTENTION_QKV, pass->raw},
                              {ROLE_ATTENTION_GATE, pass->value},
                              {together ? ROLE_RECURRENT_BETA_ALPHA : ROLE_RECURRENT_BETA, pass->key},
                              {ROLE_RECURRENT_ALPHA, net->alpha}};
    struct pass_product products[COUNT_OF(parts)] = {0};
    size_t count = together ? 3 : 4;
    for (size_t i = 0; i < count; i++) {
        struct gpu_matrix matrix = pass_matrix(engine, tensors[parts[i].role]);
        products[i].role = parts[i].role;
        products[i].job = pass_job(engine, &matrix, (struct gpu_range){0}, pass_input(engine, norm),
                                   pass_input_halves(engine, norm), parts[i].out);
        pass_take_norm(engine, &products[i].job, norm);
    }
    pass_multiply(engine, layer, products, count);
    gpu_barrier(pass->gpu);
}

/* Where the states of the batch's sequences are: of each there are two in turn. A token that is recorded ahead follows
 * one that is not counted yet, and has left its state in the other. */
static void find_states(const struct engine *engine, uint32_t number, struct gpu_delta_sequence *out)
{
    const struct kv_cache *kv = &engine->kv;
    const uint64_t bytes = kv->layers[number].state_floats * sizeof(float);
    for (uint32_t i = 0; i < engine->span_count; i++) {
        const struct span *span = &engine->scratch.spans[i];
        uint64_t held = (uint64_t)(kv->state[span->sequence] ^ engine->pass->ahead.recording);
        out[i] = (struct gpu_delta_sequence){.first_row = span->first_row,
                                             .rows = span->rows,
                                             .fresh = engine->scratch.positions[span->first_row] == 0,
                                             .state = (2 * (uint64_t)span->sequence + held) * bytes,
                                             .next = (2 * (uint64_t)span->sequence + (held ^ 1)) * bytes};
    }
}

void pass_recurrent(struct engine *engine, uint32_t number, bool add)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    const unit_number *tensors = layer->tensors;
    const struct gpu_range none = {0};
    struct gpu_delta_sequence sequences[GPU_MAX_SEQUENCES];
    uint32_t rows = (uint32_t)engine->rows, inner = p->recurrent_heads_v * p->recurrent_value_size;
    struct gpu_delta_net net = {.convolution = pass_vector(engine, tensors[ROLE_RECURRENT_CONV]),
                                .input = pass->raw,
                                .convolved = pass->query,
                                .step_bias = pass_vector(engine, tensors[ROLE_RECURRENT_DT_BIAS]),
                                .decay_rate = pass_vector(engine, tensors[ROLE_RECURRENT_A]),
                                .output = pass->attended,
                                .states = {pass->caches[number], 0},
                                .rows = rows,
                                .heads_k = p->recurrent_heads_k,
                                .heads_v = p->recurrent_heads_v,
                                .key_size = p->recurrent_key_size,
                                .value_size = p->recurrent_value_size,
                                .taps = p->recurrent_conv,
                                .tiled = model_architecture(engine->model)->flags & ARCHITECTURE_RECURRENT_HEADS_TILED,
                                .epsilon = p->norm_epsilon,
                                .sequences = sequences,
                                .sequence_count = engine->span_count};
    find_states(engine, number, sequences);
    project(engine, layer, &net);
    gpu_delta_net(pass->gpu, &net);
    gpu_barrier(pass->gpu);
    gpu_rms_norm(pass->gpu, pass->attended, pass->attended, pass_vector(engine, tensors[ROLE_RECURRENT_NORM]), none,
                 rows * p->recurrent_heads_v, p->recurrent_value_size, p->norm_epsilon);
    gpu_barrier(pass->gpu);
    gpu_glu(pass->gpu, GLU_SILU, pass->attended, pass->value, pass->attended, rows, inner, inner, inner, 0, 0);
    gpu_barrier(pass->gpu);
    struct gpu_matrix output = pass_matrix(engine, tensors[ROLE_RECURRENT_OUT]);
    struct pass_product product = {.role = ROLE_RECURRENT_OUT,
                                   .job = pass_job(engine, &output, none, pass->attended, none, pass->branch)};
    pass_give_output(engine, &product.job, add);
    pass_multiply(engine, layer, &product, 1);
    gpu_barrier(pass->gpu);
}
