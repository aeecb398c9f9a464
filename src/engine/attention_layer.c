#include "engine/engine_private.h"

#include <math.h>
#include <string.h>

/* Queries come with an output gate (Qwen 3 Next): of each head first the query, then the gate. */
static bool is_gated(const struct engine *engine)
{
    return model_architecture(engine->model)->flags & ARCHITECTURE_QUERY_GATED;
}

static void take_queries(struct engine *engine, size_t heads, size_t size)
{
    struct scratch *s = &engine->scratch;
    for (size_t h = 0; h < engine->rows * heads; h++)
        memcpy(s->query + h * size, s->query_raw + 2 * h * size, size * sizeof(float));
}

static void apply_gates(struct engine *engine, size_t heads, size_t size)
{
    struct scratch *s = &engine->scratch;
    compute_glu(engine->compute, GLU_SIGMOID, s->attended, size, s->query_raw + size, 2 * size, s->attended, size,
                engine->rows * heads, size, 0.0f, 0.0f);
}

static bool reads_own_keys(const struct engine *engine, const struct model_layer *layer)
{
    return model_layer(engine->model, layer->kv_source) == layer;
}

/* Queries, keys and values of all rows: three matrices, or the parts of one. */
static hypura_status project(struct engine *engine, const struct model_layer *layer, struct held *held,
                             hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    size_t widths[3] = {(size_t)layer->heads * layer->key_size, (size_t)layer->kv_heads * layer->key_size,
                        (size_t)layer->kv_heads * layer->value_size};
    float *outputs[3] = {s->query, s->key, s->value};
    if (is_gated(engine)) {
        widths[0] *= 2;
        outputs[0] = s->query_raw;
    }
    static const enum tensor_role roles[3] = {ROLE_ATTENTION_Q, ROLE_ATTENTION_K, ROLE_ATTENTION_V};
    struct product products[3] = {0};
    const unit_number *tensors = layer->tensors;
    bool fused = tensors[ROLE_ATTENTION_QKV] != NO_UNIT;
    int count = fused || reads_own_keys(engine, layer) ? 3 : 1;
    if (!fused && count == 3 && tensors[ROLE_ATTENTION_V] == NO_UNIT)
        count = 2;
    const float *bias = NULL;
    size_t first = 0;
    if (fused)
        TRY(hold_vector(engine, held, tensors[ROLE_ATTENTION_QKV_BIAS], &bias, error));
    for (int i = 0; i < count; i++) {
        struct product *product = &products[i];
        product->role = fused ? ROLE_ATTENTION_QKV : roles[i];
        product->unit = tensors[product->role];
        product->job = (struct matmul){
            .input = s->input, .tokens = engine->rows, .output = outputs[i], .output_stride = widths[i]};
        if (fused) {
            product->first = first;
            product->rows = widths[i];
            product->job.bias = bias ? bias + first : NULL;
            first += widths[i];
        } else {
            TRY(hold_vector(engine, held, tensors[roles[i] + 1], &product->job.bias, error));
        }
    }
    TRY(multiply(engine, layer, products, (size_t)count, error));
    if (count == 2) /* values are the keys, before these are normed and turned */
        memcpy(s->value, s->key, engine->rows * widths[2] * sizeof *s->value);
    return HYPURA_OK;
}

/* Norms of queries and keys: of each head, or of all heads as one row (OLMoE), as the length of the tensor says. */
static hypura_status norm_heads(struct engine *engine, float *values, unit_number weight, size_t heads, size_t size,
                                hypura_error *error)
{
    if (weight == NO_UNIT)
        return HYPURA_OK;
    uint64_t length = model_unit(engine->model, weight)->slices[0].tensor->dimensions[0];
    size_t rows = engine->rows * heads * size / (size_t)length;
    return norm(engine, values, values, weight, NO_UNIT, rows, (size_t)length, error);
}

void scale_queries_by_position(struct engine *engine, const struct model_layer *layer, size_t width)
{
    const struct model_parameters *p = model_parameters(engine->model);
    if (!layer->sharpened)
        return;
    for (size_t r = 0; r < engine->rows; r++) {
        double position = engine->scratch.positions[r] + (double)p->attention_temperature_offset;
        double steps = floor(position / (double)p->attention_temperature_floor);
        float factor = (float)(log(steps + 1.0) * p->attention_temperature_scale + 1.0);
        float *query = engine->scratch.query + r * width;
        compute_scale(engine->compute, query, query, factor, width);
    }
}

static void turn(struct engine *engine, const struct model_layer *layer)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    if (!layer->rope)
        return;
    enum rope_layout layout = model_architecture(engine->model)->rope == ROPE_STYLE_NORMAL ? ROPE_NORMAL : ROPE_NEOX;
    const float *table = s->rope[layer->rope_local];
    size_t size = layer->key_size, rotary = layer->rope_local ? p->rotary_local : p->rotary;
    compute_rope(engine->compute, layout, s->query, engine->rows, layer->heads * size, layer->heads, size, rotary,
                 table);
    if (reads_own_keys(engine, layer))
        compute_rope(engine->compute, layout, s->key, engine->rows, layer->kv_heads * size, layer->kv_heads, size,
                     rotary, table);
}

static void attend(struct engine *engine, uint32_t number, const float *sinks)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    uint32_t source = layer->kv_source;
    const struct kv_layer *kv = &engine->kv.layers[source];
    struct scratch *s = &engine->scratch;
    for (uint32_t i = 0; i < engine->span_count; i++) {
        const struct span *span = &s->spans[i];
        if (source == number)
            kv_cache_write(&engine->kv, number, span->sequence, s->positions[span->first_row], span->rows,
                           s->key + span->first_row * kv->heads * kv->key_size,
                           s->value + span->first_row * kv->heads * kv->value_size);
        s->attention[i] = kv_cache_sequence(&engine->kv, source, span->sequence, span->first_row, span->rows);
    }
    struct attention attention = kv_cache_attention(&engine->kv, source);
    attention.query = s->query;
    attention.output = s->attended;
    attention.positions = s->positions;
    attention.heads = layer->heads;
    attention.scale = p->attention_scale;
    attention.soft_cap = p->attention_soft_cap;
    attention.window = layer->window;
    attention.chunk = layer->chunk;
    attention.bidirectional = is_encoder(engine);
    attention.sinks = sinks;
    attention.sequences = s->attention;
    attention.sequence_count = engine->span_count;
    compute_attention(engine->compute, &attention);
}

hypura_status project_rows(struct engine *engine, const struct model_layer *layer, enum tensor_role role, bool bias,
                           const float *values, float *out, hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    struct held held = {0};
    struct product product = {
        .unit = layer->tensors[role], .role = role, .job = {.input = s->input, .tokens = engine->rows, .output = out}};
    hypura_status status = HYPURA_OK;
    if (bias)
        status = hold_vector(engine, &held, layer->tensors[role + 1], &product.job.bias, error);
    if (!status && values) {
        size_t columns = unit_matrix(engine, product.unit, NULL).columns;
        activation_set(s->input, values, engine->rows, columns, columns);
    }
    if (!status)
        status = multiply(engine, layer, &product, 1, error);
    release(engine, &held);
    return status;
}

/* Llama 4 with 128 experts (Maverick) is trained without, and its files do not say. */
bool norms_plainly(const struct model *model, const struct model_layer *layer)
{
    return (model_architecture(model)->flags & ARCHITECTURE_QK_NORM_PLAIN) && layer->rope &&
           model_parameters(model)->experts != 128;
}

static hypura_status attention_steps(struct engine *engine, uint32_t number, struct held *held, hypura_error *error)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    TRY(set_input(engine, layer, ROLE_ATTENTION_NORM, error));
    TRY(project(engine, layer, held, error));
    release(engine, held);
    if (is_gated(engine))
        take_queries(engine, layer->heads, layer->key_size);

    bool turn_first = model_architecture(engine->model)->flags & ARCHITECTURE_QK_NORM_AFTER_ROPE;
    if (turn_first)
        turn(engine, layer);
    TRY(norm_heads(engine, s->query, layer->tensors[ROLE_ATTENTION_Q_NORM], layer->heads, layer->key_size, error));
    if (reads_own_keys(engine, layer))
        TRY(norm_heads(engine, s->key, layer->tensors[ROLE_ATTENTION_K_NORM], layer->kv_heads, layer->key_size, error));
    if (model_architecture(engine->model)->flags & ARCHITECTURE_VALUE_NORM)
        compute_rms_norm(engine->compute, s->value, s->value, NULL, engine->rows * layer->kv_heads, layer->value_size,
                         p->norm_epsilon);
    if (!turn_first)
        turn(engine, layer);
    if (norms_plainly(engine->model, layer)) {
        compute_rms_norm(engine->compute, s->query, s->query, NULL, engine->rows * layer->heads, layer->key_size,
                         p->norm_epsilon);
        compute_rms_norm(engine->compute, s->key, s->key, NULL, engine->rows * layer->kv_heads, layer->key_size,
                         p->norm_epsilon);
    }
    scale_queries_by_position(engine, layer, (size_t)layer->heads * layer->key_size);

    const float *sinks;
    TRY(hold_vector(engine, held, layer->tensors[ROLE_ATTENTION_SINKS], &sinks, error));
    attend(engine, number, sinks);
    release(engine, held);

    if (is_gated(engine))
        apply_gates(engine, layer->heads, layer->value_size);
    TRY(project_rows(engine, layer, ROLE_ATTENTION_OUTPUT, true, s->attended, s->branch, error));
    TRY(add_branch(engine, layer->tensors[ROLE_ATTENTION_POST_NORM], error));
    return norm_sum(engine, layer->tensors[ROLE_ATTENTION_SUM_NORM], layer->tensors[ROLE_ATTENTION_SUM_NORM_BIAS],
                    error);
}

hypura_status attention_layer(struct engine *engine, uint32_t layer, hypura_error *error)
{
    struct held held = {0};
    hypura_status status = attention_steps(engine, layer, &held, error);
    release(engine, &held);
    return status;
}
