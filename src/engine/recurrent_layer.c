/* Recurrent layers: gated delta nets (compute.h says what they are; in Qwen 3 Next and 3.5). */
#include "engine/engine_private.h"

#include <math.h>
#include <string.h>

/* beta and decay of every value head, from one matrix (b and a of each key head's group together) or two. */
static hypura_status make_gates(struct engine *engine, const struct model_layer *layer, struct held *held, float *beta,
                                float *decay, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    size_t heads = p->recurrent_heads_v, group = heads / p->recurrent_heads_k;
    float *raw = beta + 2 * engine->rows * heads;
    const float *bias, *a;
    if (layer->tensors[ROLE_RECURRENT_BETA_ALPHA] != NO_UNIT) {
        TRY(project_rows(engine, layer, ROLE_RECURRENT_BETA_ALPHA, false, NULL, raw, error));
        for (size_t r = 0; r < engine->rows; r++)
            for (size_t h = 0; h < heads; h++) {
                const float *pair = raw + r * 2 * heads + h / group * 2 * group + h % group;
                beta[r * heads + h] = pair[0];
                decay[r * heads + h] = pair[group];
            }
    } else {
        TRY(project_rows(engine, layer, ROLE_RECURRENT_ALPHA, false, NULL, decay, error));
        TRY(project_rows(engine, layer, ROLE_RECURRENT_BETA, false, NULL, beta, error));
    }
    TRY(hold_vector(engine, held, layer->tensors[ROLE_RECURRENT_DT_BIAS], &bias, error));
    TRY(hold_vector(engine, held, layer->tensors[ROLE_RECURRENT_A], &a, error));
    for (size_t r = 0; r < engine->rows; r++)
        for (size_t h = 0; h < heads; h++) {
            float *d = &decay[r * heads + h], *b = &beta[r * heads + h];
            float step = *d + bias[h];
            step = step > 20.0f ? step : log1pf(expf(step)); /* softplus */
            *d = expf(a[h] * step);
            *b = 1.0f / (1.0f + expf(-*b));
        }
    release(engine, held);
    return HYPURA_OK;
}

static void run_span(struct engine *engine, uint32_t number, const struct span *span, struct delta_net net)
{
    size_t first = span->first_row, channels = 2 * net.heads_k * net.key_size + net.heads_v * net.value_size;
    float *state = kv_cache_state(&engine->kv, number, span->sequence, false);
    if (engine->kv.held[span->sequence] == 0)
        memset(state, 0, engine->kv.layers[number].state_floats * sizeof *state);
    net.state = state;
    net.next = kv_cache_state(&engine->kv, number, span->sequence, true);
    net.rows = span->rows;
    net.input += first * channels;
    net.convolved += first * channels;
    net.beta += first * net.heads_v;
    net.decay += first * net.heads_v;
    net.output += first * net.heads_v * net.value_size;
    compute_delta_net(engine->compute, &net);
}

static hypura_status recurrent_steps(struct engine *engine, uint32_t number, struct held *held, hypura_error *error)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    float *beta = s->key, *decay = beta + engine->rows * p->recurrent_heads_v;
    struct delta_net net = {.tiled = model_architecture(engine->model)->flags & ARCHITECTURE_RECURRENT_HEADS_TILED,
                            .heads_k = p->recurrent_heads_k,
                            .heads_v = p->recurrent_heads_v,
                            .key_size = p->recurrent_key_size,
                            .value_size = p->recurrent_value_size,
                            .epsilon = p->norm_epsilon,
                            .taps = p->recurrent_conv,
                            .input = s->query_raw,
                            .convolved = s->query,
                            .beta = beta,
                            .decay = decay,
                            .output = s->attended};
    size_t inner = net.heads_v * net.value_size;
    TRY(set_input(engine, layer, ROLE_ATTENTION_NORM, error));
    TRY(project_rows(engine, layer, ROLE_ATTENTION_QKV, false, NULL, s->query_raw, error));
    TRY(project_rows(engine, layer, ROLE_ATTENTION_GATE, false, NULL, s->value, error));
    TRY(make_gates(engine, layer, held, beta, decay, error));

    TRY(hold_vector(engine, held, layer->tensors[ROLE_RECURRENT_CONV], &net.convolution, error));
    for (uint32_t i = 0; i < engine->span_count; i++)
        run_span(engine, number, &s->spans[i], net);
    release(engine, held);

    TRY(norm(engine, s->attended, s->attended, layer->tensors[ROLE_RECURRENT_NORM], NO_UNIT, engine->rows * net.heads_v,
             net.value_size, error));
    compute_glu(engine->compute, GLU_SILU, s->attended, inner, s->value, inner, s->attended, inner, engine->rows, inner,
                0.0f, 0.0f);
    TRY(project_rows(engine, layer, ROLE_RECURRENT_OUT, false, s->attended, s->branch, error));
    return add_branch(engine, layer->tensors[ROLE_ATTENTION_POST_NORM], error);
}

hypura_status recurrent_layer(struct engine *engine, uint32_t layer, hypura_error *error)
{
    struct held held = {0};
    hypura_status status = recurrent_steps(engine, layer, &held, error);
    release(engine, &held);
    return status;
}
