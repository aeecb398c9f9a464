/* Gated delta net (Yang et al., 2024; in Qwen 3 Next and 3.5): instead of a cache, each value head keeps one matrix S
 * of key size x value size. A token at which the key is k, the value v, the query q changes it:
 *     S = exp(g) S;  S += k (beta (v - k S));  the answer is q S
 * where g (never positive) forgets and beta (0 to 1) writes. Queries, keys and values pass a short causal convolution
 * first, whose last inputs are the other part of the state.
 *
 * Tokens run one after the other, so that how a prompt was cut into batches changes nothing; heads run in parallel. */
#include "engine/engine_private.h"

#include <math.h>
#include <string.h>

/* Where the parts of a row of the convolution are, and of the state. */
struct delta_net {
    const struct model_parameters *parameters;
    bool tiled;
    size_t heads_k, heads_v, key_size, value_size, inner, channels, taps;
    const float *convolution; /* [channels][taps] */
    const float *input;       /* [rows][channels] before the convolution */
    float *convolved;         /* [rows][channels]: queries, keys, values */
    const float *beta;        /* [rows][heads_v] */
    const float *decay;       /* [rows][heads_v], exp(g) */
    float *output;            /* [rows][inner] */
    const float *state;       /* that holds: matrices, then the last taps - 1 inputs */
    float *next;
    size_t rows;
};

/* ---- convolution ---------------------------------------------------------------------------------------------------
 */

static void convolve_row(void *context, size_t row, size_t worker)
{
    const struct delta_net *net = context;
    (void)worker;
    const float *before = net->state + net->inner * net->key_size;
    float *out = net->convolved + row * net->channels;
    for (size_t c = 0; c < net->channels; c++) {
        float sum = 0.0f;
        for (size_t tap = 0; tap < net->taps; tap++) {
            size_t at = row + tap; /* of the last taps - 1 inputs, followed by the rows */
            float value = at < net->taps - 1 ? before[at * net->channels + c]
                                             : net->input[(at - (net->taps - 1)) * net->channels + c];
            sum += value * net->convolution[c * net->taps + tap];
        }
        out[c] = sum / (1.0f + expf(-sum));
    }
    for (size_t h = 0; h < 2 * net->heads_k; h++) { /* queries and keys have length 1 */
        float *head = out + h * net->key_size, sum = 0.0f;
        for (size_t i = 0; i < net->key_size; i++)
            sum += head[i] * head[i];
        float scale = 1.0f / fmaxf(sqrtf(sum), net->parameters->norm_epsilon);
        if (h < net->heads_k)
            scale /= sqrtf((float)net->key_size);
        for (size_t i = 0; i < net->key_size; i++)
            head[i] *= scale;
    }
}

static void keep_inputs(const struct delta_net *net)
{
    const float *before = net->state + net->inner * net->key_size;
    float *kept = net->next + net->inner * net->key_size;
    for (size_t i = 0; i < net->taps - 1; i++) {
        size_t at = net->rows + i;
        const float *from =
            at < net->taps - 1 ? before + at * net->channels : net->input + (at - (net->taps - 1)) * net->channels;
        memcpy(kept + i * net->channels, from, net->channels * sizeof *kept);
    }
}

/* ---- the rule ------------------------------------------------------------------------------------------------------
 */

static void run_head(void *context, size_t head, size_t worker)
{
    const struct delta_net *net = context;
    (void)worker;
    size_t keys = net->key_size, values = net->value_size;
    size_t shared = net->tiled ? head % net->heads_k : head / (net->heads_v / net->heads_k);
    const float *old = net->state + head * keys * values;
    float *matrix = net->next + head * keys * values;
    float delta[RECURRENT_MAX_SIZE];
    for (size_t r = 0; r < net->rows; r++, old = matrix) {
        const float *row = net->convolved + r * net->channels;
        const float *query = row + shared * keys, *key = query + net->heads_k * keys;
        const float *value = row + 2 * net->heads_k * keys + head * values;
        float *out = net->output + r * net->inner + head * values;
        float decay = net->decay[r * net->heads_v + head], beta = net->beta[r * net->heads_v + head];
        memset(delta, 0, values * sizeof *delta);
        for (size_t k = 0; k < keys; k++)
            for (size_t v = 0; v < values; v++) {
                float kept = old[k * values + v] * decay;
                matrix[k * values + v] = kept;
                delta[v] += kept * key[k];
            }
        for (size_t v = 0; v < values; v++) {
            delta[v] = (value[v] - delta[v]) * beta;
            out[v] = 0.0f;
        }
        for (size_t k = 0; k < keys; k++)
            for (size_t v = 0; v < values; v++) {
                float now = matrix[k * values + v] + key[k] * delta[v];
                matrix[k * values + v] = now;
                out[v] += now * query[k];
            }
    }
}

/* ---- the layer -----------------------------------------------------------------------------------------------------
 */

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
    float *state = kv_cache_state(&engine->kv, number, span->sequence, false);
    if (engine->kv.held[span->sequence] == 0)
        memset(state, 0, engine->kv.layers[number].state_floats * sizeof *state);
    net.state = state;
    net.next = kv_cache_state(&engine->kv, number, span->sequence, true);
    net.rows = span->rows;
    net.input += span->first_row * net.channels;
    net.convolved += span->first_row * net.channels;
    net.beta += span->first_row * net.heads_v;
    net.decay += span->first_row * net.heads_v;
    net.output += span->first_row * net.inner;
    struct thread_pool *pool = compute_pool(engine->compute);
    thread_pool_run(pool, convolve_row, &net, net.rows);
    keep_inputs(&net);
    thread_pool_run(pool, run_head, &net, net.heads_v);
}

static hypura_status recurrent_steps(struct engine *engine, uint32_t number, struct held *held, hypura_error *error)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    float *beta = s->key, *decay = beta + engine->rows * p->recurrent_heads_v;
    struct delta_net net = {.parameters = p,
                            .tiled = model_architecture(engine->model)->flags & ARCHITECTURE_RECURRENT_HEADS_TILED,
                            .heads_k = p->recurrent_heads_k,
                            .heads_v = p->recurrent_heads_v,
                            .key_size = p->recurrent_key_size,
                            .value_size = p->recurrent_value_size,
                            .inner = (size_t)p->recurrent_heads_v * p->recurrent_value_size,
                            .taps = p->recurrent_conv,
                            .input = s->query_raw,
                            .convolved = s->query,
                            .beta = beta,
                            .decay = decay,
                            .output = s->attended};
    net.channels = net.inner + 2 * net.heads_k * net.key_size;
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
    compute_glu(engine->compute, GLU_SILU, s->attended, net.inner, s->value, net.inner, s->attended, net.inner,
                engine->rows, net.inner, 0.0f, 0.0f);
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
