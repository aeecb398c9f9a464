#include "engine/gpu/pass.h"

static struct gpu_matrix rows_of(const struct gpu_matrix *matrix, uint64_t first, uint64_t rows)
{
    struct gpu_matrix part = *matrix;
    part.data.offset += first * matrix->row_bytes;
    part.rows = (uint32_t)rows;
    return part;
}

static struct gpu_range part_of(struct gpu_range vector, uint64_t first)
{
    return vector.buffer ? range_at(vector, first) : vector;
}

void pass_take_norm(const struct engine *engine, struct gpu_matmul *job, unit_number norm)
{
    const struct gpu_pass *pass = engine->pass;
    if (norm == NO_UNIT || !pass->norm_left)
        return;
    job->in = pass->hidden;
    job->norm = pass_vector(engine, norm);
    job->epsilon = model_parameters(engine->model)->norm_epsilon;
}

void pass_give_output(const struct engine *engine, struct gpu_matmul *job, bool add)
{
    if (add)
        job->out = engine->pass->hidden;
    job->accumulate = add;
}

/* Queries come with an output gate (Qwen 3 Next): of each head first the query, then the gate. */
static bool is_gated(const struct engine *engine)
{
    return model_architecture(engine->model)->flags & ARCHITECTURE_QUERY_GATED;
}

/* Before these are normed and turned (Gemma 4). */
static bool values_are_keys(const struct model_layer *layer)
{
    return layer->tensors[ROLE_ATTENTION_QKV] == NO_UNIT && layer->tensors[ROLE_ATTENTION_V] == NO_UNIT;
}

/* Queries, keys and values of all rows: three matrices, or the parts of one. */
static void project(struct engine *engine, const struct model_layer *layer)
{
    struct gpu_pass *pass = engine->pass;
    const unit_number *tensors = layer->tensors;
    const bool gated = is_gated(engine);
    const uint32_t widths[3] = {layer->heads * layer->key_size * (gated ? 2 : 1), layer->kv_heads * layer->key_size,
                                layer->kv_heads * layer->value_size};
    const struct gpu_range outputs[3] = {gated ? pass->raw : pass->query, pass->key, pass->value};
    static const enum tensor_role roles[3] = {ROLE_ATTENTION_Q, ROLE_ATTENTION_K, ROLE_ATTENTION_V};
    const bool together = tensors[ROLE_ATTENTION_QKV] != NO_UNIT;
    const int count = values_are_keys(layer) ? 2 : 3;
    struct pass_product products[3] = {0};
    uint32_t first = 0;
    for (int i = 0; i < count; i++) {
        struct gpu_matrix matrix;
        struct gpu_range bias;
        if (together) {
            struct gpu_matrix all = pass_matrix(engine, tensors[ROLE_ATTENTION_QKV]);
            matrix = rows_of(&all, first, widths[i]);
            bias = part_of(pass_vector(engine, tensors[ROLE_ATTENTION_QKV_BIAS]), first);
        } else {
            matrix = pass_matrix(engine, tensors[roles[i]]);
            bias = pass_vector(engine, tensors[roles[i] + 1]);
        }
        products[i].job = pass_job(engine, &matrix, bias, pass_input(engine, tensors[ROLE_ATTENTION_NORM]),
                                   pass_input_halves(engine, tensors[ROLE_ATTENTION_NORM]), outputs[i]);
        pass_take_norm(engine, &products[i].job, tensors[ROLE_ATTENTION_NORM]);
        products[i].role = together ? ROLE_ATTENTION_QKV : roles[i];
        products[i].first = together ? first : 0;
        first += widths[i];
    }
    pass_multiply(engine, layer, products, (size_t)count);
    gpu_barrier(pass->gpu);
}

/* A norm over all heads as one row (OLMoE) is a norm of rows; true when it was one. */
static bool norm_whole_rows(struct engine *engine, struct gpu_range values, unit_number weight, uint32_t width,
                            uint32_t head)
{
    if (weight == NO_UNIT)
        return false;
    uint64_t length = model_unit(engine->model, weight)->slices[0].tensor->dimensions[0];
    if (length == head || length != width)
        return false;
    gpu_rms_norm(engine->pass->gpu, values, values, pass_vector(engine, weight), (struct gpu_range){0},
                 (uint32_t)engine->rows, width, model_parameters(engine->model)->norm_epsilon);
    return true;
}

void pass_find_sequences(const struct engine *engine, uint32_t number, struct gpu_sequence *out)
{
    const struct kv_layer *kv = &engine->kv.layers[number];
    const struct scratch *s = &engine->scratch;
    uint64_t values = kv->values_in_keys ? 0 : (uint64_t)engine->kv.sequences * kv->heads * kv->key_head_bytes;
    for (uint32_t i = 0; i < engine->span_count; i++)
        out[i] =
            (struct gpu_sequence){.first_row = s->spans[i].first_row,
                                  .rows = s->spans[i].rows,
                                  .first_position = s->positions[s->spans[i].first_row],
                                  .capacity = (uint32_t)kv->capacity,
                                  .keys = (uint64_t)s->spans[i].sequence * kv->heads * kv->key_head_bytes,
                                  .values = values + (uint64_t)s->spans[i].sequence * kv->heads * kv->value_head_bytes};
}

void pass_attention(struct engine *engine, uint32_t number, bool add)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    const struct kv_layer *kv = &engine->kv.layers[number];
    struct gpu_range cache = {pass->caches[number], 0};
    const struct gpu_sequence *sequences = engine->scratch.device_sequences;
    pass_find_sequences(engine, number, engine->scratch.device_sequences);
    project(engine, layer);

    uint32_t queries = layer->heads * layer->key_size, keys = layer->kv_heads * layer->key_size;
    unit_number query_norm = layer->tensors[ROLE_ATTENTION_Q_NORM], key_norm = layer->tensors[ROLE_ATTENTION_K_NORM];
    bool gated = is_gated(engine), whole = false;
    if (!gated)
        whole = norm_whole_rows(engine, pass->query, query_norm, queries, layer->key_size);
    whole = norm_whole_rows(engine, pass->key, key_norm, keys, layer->key_size) || whole;
    if (whole)
        gpu_barrier(pass->gpu);
    struct gpu_heads heads = {
        .query = gated ? pass->raw : pass->query,
        .key = pass->key,
        .value = values_are_keys(layer) ? pass->key : pass->value,
        .query_norm = pass_vector(engine, whole ? NO_UNIT : query_norm),
        .key_norm = pass_vector(engine, whole ? NO_UNIT : key_norm),
        .query_scales = layer->sharpened ? pass->scales : (struct gpu_range){0},
        .table = layer->rope ? pass->rope[layer->rope_local] : (struct gpu_range){0},
        .out = pass->query,
        .cache = cache,
        .query_stride = gated ? 2 * queries : queries,
        .query_head_stride = gated ? 2 * layer->key_size : layer->key_size,
        .key_stride = keys,
        .value_stride = layer->kv_heads * layer->value_size,
        .value_norm = model_architecture(engine->model)->flags & ARCHITECTURE_VALUE_NORM,
        .norm_after_rope = model_architecture(engine->model)->flags & ARCHITECTURE_QK_NORM_AFTER_ROPE,
        .plain_norm = steps_find(steps_of_layer(engine->steps, number), STEP_HEADS)->heads.plain_norm,
        .epsilon = p->norm_epsilon,
        .layout = model_architecture(engine->model)->rope == ROPE_STYLE_NORMAL ? ROPE_NORMAL : ROPE_NEOX,
        .rotary = layer->rope_local ? p->rotary_local : p->rotary,
        .rows = (uint32_t)engine->rows,
        .heads = layer->heads,
        .kv_heads = layer->kv_heads,
        .key_size = layer->key_size,
        .value_size = layer->value_size,
        .type = engine->kv.type,
        .key_position_bytes = (uint32_t)kv->key_position_bytes,
        .value_position_bytes = (uint32_t)kv->value_position_bytes,
        .sequences = sequences,
        .sequence_count = engine->span_count};
    gpu_heads(pass->gpu, &heads);
    gpu_barrier(pass->gpu);

    struct gpu_attention attention = {.query = pass->query,
                                      .out = pass->attended,
                                      .cache = cache,
                                      .sinks = pass_vector(engine, layer->tensors[ROLE_ATTENTION_SINKS]),
                                      .scratch = pass->attention,
                                      .scratch_bytes = pass->attention_bytes,
                                      .rows = (uint32_t)engine->rows,
                                      .heads = layer->heads,
                                      .kv_heads = layer->kv_heads,
                                      .key_size = layer->key_size,
                                      .value_size = layer->value_size,
                                      .type = engine->kv.type,
                                      .key_position_bytes = heads.key_position_bytes,
                                      .value_position_bytes = heads.value_position_bytes,
                                      .scale = p->attention_scale,
                                      .soft_cap = p->attention_soft_cap,
                                      .window = layer->window,
                                      .chunk = layer->chunk,
                                      .bidirectional = is_encoder(engine),
                                      .sequences = sequences,
                                      .sequence_count = engine->span_count};
    struct gpu_matrix output = pass_matrix(engine, layer->tensors[ROLE_ATTENTION_OUTPUT]);
    attention.halves = !gated && !pass_is_adapted(engine, layer, ROLE_ATTENTION_OUTPUT) &&
                       gpu_takes_halves(pass->gpu, &output, 0, (uint32_t)engine->rows) &&
                       gpu_attention_makes_halves(pass->gpu, &attention);
    gpu_attention(pass->gpu, &attention);
    gpu_barrier(pass->gpu);
    if (gated) {
        gpu_glu(pass->gpu, GLU_SIGMOID, pass->attended, range_at(pass->raw, layer->value_size), pass->attended,
                (uint32_t)engine->rows * layer->heads, layer->value_size, 2 * layer->value_size, layer->value_size, 0,
                0);
        gpu_barrier(pass->gpu);
    }

    struct pass_product product = {
        .role = ROLE_ATTENTION_OUTPUT,
        .job = pass_job(engine, &output, pass_vector(engine, layer->tensors[ROLE_ATTENTION_OUTPUT_BIAS]),
                        attention.halves ? (struct gpu_range){0} : pass->attended,
                        attention.halves ? pass->attended : (struct gpu_range){0}, pass->branch)};
    pass_give_output(engine, &product.job, add);
    pass_multiply(engine, layer, &product, 1);
    gpu_barrier(pass->gpu);
}

struct gpu_glu_kind pass_glu_kind(const struct engine *engine)
{
    struct step_list all = steps_all(engine->steps);
    for (size_t i = 0; i < all.count; i++) {
        const struct step *step = &all.steps[i];
        if (step->kind == STEP_EXPERTS)
            return (struct gpu_glu_kind){step->experts.glu, OAI_ALPHA, OAI_LIMIT};
        if (step->kind == STEP_GLU && step->glu.gate.buffer == BUFFER_GATE)
            return (struct gpu_glu_kind){step->glu.kind, OAI_ALPHA, OAI_LIMIT};
    }
    return (struct gpu_glu_kind){GLU_SILU, OAI_ALPHA, OAI_LIMIT};
}

/* The gated product of pass->gate and pass->up, as halves where the matrix that reads it takes those; whether it is. */
bool pass_glu(struct engine *engine, const struct gpu_matrix *down, uint64_t slot_stride, uint32_t rows, uint32_t inner,
              bool may_halve)
{
    struct gpu_pass *pass = engine->pass;
    const struct gpu_glu_kind glu = pass_glu_kind(engine);
    bool halves =
        may_halve && engine->geometry.halves && gpu_takes_halves(pass->gpu, down, slot_stride, (uint32_t)engine->rows);
    if (halves)
        gpu_glu_halves(pass->gpu, glu.kind, pass->inner_halves, pass->gate, pass->up, (uint64_t)rows * inner, glu.alpha,
                       glu.limit);
    else
        gpu_glu(pass->gpu, glu.kind, pass->gate, pass->gate, pass->up, rows, inner, inner, inner, glu.alpha, glu.limit);
    gpu_barrier(pass->gpu);
    return halves;
}

/* What the down matrix reads where there is no gate: one matrix, and a function of each element. */
static void ungated_inner(struct engine *engine, const struct model_layer *layer)
{
    struct gpu_pass *pass = engine->pass;
    const unit_number *tensors = layer->tensors;
    struct gpu_matrix matrix = pass_matrix(engine, tensors[ROLE_FFN_UP]);
    struct pass_product product = {.role = ROLE_FFN_UP,
                                   .job = pass_job(engine, &matrix, pass_vector(engine, tensors[ROLE_FFN_UP_BIAS]),
                                                   pass_input(engine, tensors[ROLE_FFN_NORM]),
                                                   pass_input_halves(engine, tensors[ROLE_FFN_NORM]), pass->gate)};
    pass_take_norm(engine, &product.job, tensors[ROLE_FFN_NORM]);
    pass_multiply(engine, layer, &product, 1);
    gpu_barrier(pass->gpu);
    gpu_gelu(pass->gpu, pass->gate, engine->rows * (uint64_t)matrix.rows);
    gpu_barrier(pass->gpu);
}

/* The same of a gate and what it lets through, two matrices or the halves of one; whether it is halves. */
static bool gated_inner(struct engine *engine, const struct model_layer *layer, enum tensor_role gate,
                        enum tensor_role up, enum tensor_role down, uint32_t inner)
{
    struct gpu_pass *pass = engine->pass;
    const unit_number *tensors = layer->tensors;
    bool dense = up == ROLE_FFN_UP; /* only dense layers have biases here */
    struct gpu_matrix matrices[2], downwards = pass_matrix(engine, tensors[down]);
    struct gpu_range biases[2];
    struct pass_product products[2] = {{.role = gate}, {.role = up}};
    if (tensors[gate] != NO_UNIT) {
        matrices[0] = pass_matrix(engine, tensors[gate]);
        matrices[1] = pass_matrix(engine, tensors[up]);
        biases[0] = pass_vector(engine, dense ? tensors[ROLE_FFN_GATE_BIAS] : NO_UNIT);
        biases[1] = pass_vector(engine, dense ? tensors[ROLE_FFN_UP_BIAS] : NO_UNIT);
    } else {
        struct gpu_matrix both = pass_matrix(engine, tensors[up]);
        struct gpu_range bias = pass_vector(engine, dense ? tensors[ROLE_FFN_UP_BIAS] : NO_UNIT);
        for (uint32_t i = 0; i < 2; i++) {
            products[i].role = up;
            products[i].first = (uint32_t)i * inner;
            matrices[i] = rows_of(&both, (uint64_t)i * inner, inner);
            biases[i] = part_of(bias, (uint64_t)i * inner);
        }
    }
    for (int i = 0; i < 2; i++) {
        products[i].job = pass_job(engine, &matrices[i], biases[i], pass_input(engine, tensors[ROLE_FFN_NORM]),
                                   pass_input_halves(engine, tensors[ROLE_FFN_NORM]), i == 0 ? pass->gate : pass->up);
        pass_take_norm(engine, &products[i].job, tensors[ROLE_FFN_NORM]);
    }
    const struct gpu_matmul jobs[2] = {products[0].job, products[1].job};
    const struct gpu_glu_kind glu = pass_glu_kind(engine);
    bool adapted = pass_is_adapted(engine, layer, products[0].role) || pass_is_adapted(engine, layer, products[1].role);
    if (!adapted && gpu_matmul_glu(pass->gpu, jobs, &glu)) {
        gpu_barrier(pass->gpu);
        return false;
    }
    pass_multiply(engine, layer, products, 2);
    gpu_barrier(pass->gpu);
    return pass_glu(engine, &downwards, 0, (uint32_t)engine->rows, inner, !pass_is_adapted(engine, layer, down));
}

void pass_dense(struct engine *engine, const struct model_layer *layer, enum tensor_role gate, enum tensor_role up,
                enum tensor_role down, size_t width, struct gpu_range out, bool add)
{
    struct gpu_pass *pass = engine->pass;
    struct gpu_matrix downwards = pass_matrix(engine, layer->tensors[down]);
    unit_number bias = down == ROLE_FFN_DOWN ? layer->tensors[ROLE_FFN_DOWN_BIAS] : NO_UNIT;
    bool halves = false;
    if (model_architecture(engine->model)->flags & ARCHITECTURE_FFN_UNGATED)
        ungated_inner(engine, layer);
    else
        halves = gated_inner(engine, layer, gate, up, down, (uint32_t)width);
    struct pass_product product = {.role = down,
                                   .job = pass_job(engine, &downwards, pass_vector(engine, bias),
                                                   halves ? (struct gpu_range){0} : pass->gate,
                                                   halves ? pass->inner_halves : (struct gpu_range){0}, out)};
    pass_give_output(engine, &product.job, add);
    pass_multiply(engine, layer, &product, 1);
}
