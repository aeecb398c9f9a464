#include "engine/gpu/pass.h"

#include <math.h>
#include <string.h>

/* Layers that one batch of commands holds at most: the device starts on it while the next is recorded. Drivers reset a
 * device that takes some seconds for a batch, so of a long prompt on a slow one it holds fewer. */
#define LAYERS_A_BATCH 4u
#define BATCH_SECONDS 1.0

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

/* Biases of experts: the CPU needs them for those that are in RAM. */
static hypura_status copy_vector(struct engine *engine, unit_number unit, hypura_error *error)
{
    if (unit == NO_UNIT)
        return HYPURA_OK;
    const struct unit *what = model_unit(engine->model, unit);
    float **out = &engine->pass->host_vectors[unit];
    TRY(ALLOCATE(out, (size_t)(what->bytes / sizeof **out), "biases of experts", error));
    return store_read(engine->store, unit, 0, what->bytes, *out, error);
}

static hypura_status find_units(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    uint32_t count = model_unit_count(engine->model), layers = model_parameters(engine->model)->layers;
    TRY(ALLOCATE(&pass->units, count, "table of units on the GPU", error));
    TRY(ALLOCATE(&pass->host_vectors, count, "table of units on the GPU", error));
    TRY(ALLOCATE(&pass->slots, layers, "table of experts on the GPU", error));
    TRY(ALLOCATE(&pass->there, model_parameters(engine->model)->experts, "table of experts on the GPU", error));
    for (unit_number u = 0; u < count; u++) {
        struct store_view view;
        struct gpu_range ranges[UNIT_MAX_SLICES];
        if (!pass->plan->units[u] || model_unit(engine->model, u)->kind == UNIT_EXPERT)
            continue;
        TRY(store_get(engine->store, u, &view, error));
        store_ranges(engine->store, u, ranges);
        pass->units[u] = ranges[0];
        store_put(engine->store, u);
    }
    for (uint32_t i = 0; i < layers; i++) {
        const struct model_layer *layer = model_layer(engine->model, i);
        store_slots(engine->store, i, &pass->slots[i]);
        if (!pass->plan->layers[i] || !layer->moe || pass->slots[i].count == model_parameters(engine->model)->experts)
            continue;
        TRY(copy_vector(engine, layer->tensors[ROLE_EXPERT_GATE_BIAS], error));
        TRY(copy_vector(engine, layer->tensors[ROLE_EXPERT_UP_BIAS], error));
        TRY(copy_vector(engine, layer->tensors[ROLE_EXPERT_DOWN_BIAS], error));
    }
    return HYPURA_OK;
}

static uint64_t elements_of(const struct engine *engine, unit_number unit)
{
    uint64_t elements = 0;
    for (uint32_t i = 0; unit != NO_UNIT && i < model_unit(engine->model, unit)->slice_count; i++) {
        const struct gguf_tensor *tensor = model_unit(engine->model, unit)->slices[i].tensor;
        elements += tensor->dimensions[0] * tensor->dimensions[1];
    }
    return elements;
}

/* What the matrices of the greatest layer multiply and add for a row. */
static double layer_work(const struct engine *engine)
{
    const struct model_parameters *p = model_parameters(engine->model);
    uint64_t most = 0;
    for (uint32_t i = 0; i < p->layers; i++) {
        const struct model_layer *layer = model_layer(engine->model, i);
        uint64_t work = layer->moe ? p->experts_used * elements_of(engine, layer->first_expert) : 0;
        for (int role = 0; role < ROLE_COUNT; role++)
            work += elements_of(engine, layer->tensors[role]);
        most = MAX(most, work);
    }
    return (double)most;
}

hypura_status gpu_pass_open(struct engine *engine, struct gpu *gpu, hypura_error *error)
{
    TRY(ALLOCATE(&engine->pass, 1, "GPU pass", error));
    engine->pass->gpu = gpu;
    engine->pass->plan = engine->plan->gpu;
    engine->pass->layer_work = layer_work(engine);
    TRY(find_units(engine, error));
    engine->pass->ahead.possible = pass_can_record_ahead(engine);
    TRY(pass_make_buffers(engine, error));
    return pass_try(engine, error);
}

void gpu_pass_close(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    if (!pass)
        return;
    pass_free_holds(engine);
    gpu_drop(pass->gpu);
    struct gpu_buffer *buffers[] = {pass->scratch, pass->upload, pass->readback};
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        if (buffers[i])
            gpu_buffer_destroy(pass->gpu, buffers[i]);
    for (size_t i = 0; i < COUNT_OF(pass->visits); i++)
        for (size_t s = 0; s < UNIT_MAX_SLICES; s++)
            if (pass->visits[i].buffers[s])
                gpu_buffer_destroy(pass->gpu, pass->visits[i].buffers[s]);
    pass_close_adapters(pass);
    for (uint32_t i = 0; pass->caches && i < engine->kv.layer_count; i++)
        if (pass->caches[i])
            gpu_buffer_destroy(pass->gpu, pass->caches[i]);
    for (unit_number u = 0; pass->host_vectors && u < model_unit_count(engine->model); u++)
        memory_free(pass->host_vectors[u]);
    memory_free(pass->host_vectors);
    memory_free(pass->units);
    memory_free(pass->slots);
    memory_free(pass->there);
    memory_free(pass->caches);
    memory_free(pass);
    engine->pass = NULL;
}

/* ---- looking things up --------------------------------------------------------------------------------------------
 */

bool gpu_pass_has(const struct engine *engine, uint32_t layer)
{
    return engine->pass && engine->pass->plan->layers[layer];
}

const float *gpu_pass_host_vector(const struct engine *engine, unit_number unit)
{
    return engine->pass ? engine->pass->host_vectors[unit] : NULL;
}

struct gpu_range range_at(struct gpu_range range, uint64_t floats)
{
    range.offset += floats * sizeof(float);
    return range;
}

struct gpu_range pass_vector(const struct engine *engine, unit_number unit)
{
    return unit == NO_UNIT ? (struct gpu_range){0} : engine->pass->units[unit];
}

struct gpu_matrix pass_matrix(const struct engine *engine, unit_number unit)
{
    const struct gguf_tensor *tensor = model_unit(engine->model, unit)->slices[0].tensor;
    struct matrix matrix =
        matrix_at(NULL, tensor->type, tensor->dimensions[0], tensor->dimensions[1] * tensor->dimensions[2]);
    return (struct gpu_matrix){.data = engine->pass->units[unit],
                               .type = matrix.type,
                               .rows = (uint32_t)matrix.rows,
                               .columns = (uint32_t)matrix.columns,
                               .row_bytes = matrix.row_bytes};
}

struct gpu_range pass_input(const struct engine *engine, unit_number norm)
{
    return norm == NO_UNIT ? engine->pass->hidden : engine->pass->normed;
}

struct gpu_range pass_input_halves(const struct engine *engine, unit_number norm)
{
    bool there = engine->geometry.halves && norm != NO_UNIT && engine->rows > GPU_VECTOR_TOKENS &&
                 engine->rows * model_parameters(engine->model)->embedding % 8 == 0;
    return there ? engine->pass->normed_halves : (struct gpu_range){0};
}

struct gpu_matmul pass_job(const struct engine *engine, const struct gpu_matrix *weights, struct gpu_range bias,
                           struct gpu_range in, struct gpu_range in_halves, struct gpu_range out)
{
    const struct gpu_pass *pass = engine->pass;
    return (struct gpu_matmul){.weights = *weights,
                               .in = in,
                               .in_halves = in_halves,
                               .out = out,
                               .bias = bias,
                               .unpacked = pass->unpacked_bytes ? pass->unpacked : (struct gpu_range){0},
                               .unpacked_bytes = pass->unpacked_bytes,
                               .tokens = (uint32_t)engine->rows,
                               .in_stride = weights->columns,
                               .out_stride = weights->rows};
}

/* What was normed, as halves too, for products that read those. */
static void halve_normed(struct engine *engine, unit_number norm)
{
    struct gpu_range halves = pass_input_halves(engine, norm);
    if (!halves.buffer)
        return;
    gpu_halves(engine->pass->gpu, halves, engine->pass->normed,
               engine->rows * (uint64_t)model_parameters(engine->model)->embedding);
    gpu_barrier(engine->pass->gpu);
}

unit_number pass_next_norm(const struct engine *engine, uint32_t layer)
{
    if (layer + 1 < model_parameters(engine->model)->layers)
        return gpu_pass_has(engine, layer + 1) ? model_layer(engine->model, layer + 1)->tensors[ROLE_ATTENTION_NORM]
                                               : NO_UNIT;
    return engine->pass->plan->output ? model_tensor(engine->model, ROLE_OUTPUT_NORM) : NO_UNIT;
}

/* ---- batches of commands ------------------------------------------------------------------------------------------
 */

void pass_record(struct gpu_pass *pass)
{
    if (!pass->open)
        gpu_begin(pass->gpu);
    pass->open = true;
}

hypura_status pass_send(struct gpu_pass *pass, hypura_error *error)
{
    if (!pass->open)
        return HYPURA_OK;
    hypura_status status = gpu_submit(pass->gpu, &pass->last, pass->wait_value, pass->wait_upload, error);
    pass->open = false;
    pass->wait_value = 0;
    pass->wait_upload = 0;
    pass->recorded = 0;
    pass->sent++;
    return status;
}

hypura_status pass_finish(struct engine *engine, hypura_error *error)
{
    TRY(pass_send(engine->pass, error));
    TRY(pass_host_share(engine, error));
    TRY(gpu_wait(engine->pass->gpu, engine->pass->last, error));
    return pass_let_go(engine, error);
}

void gpu_pass_begin(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    if (!pass)
        return;
    pass->sent = 0;
    pass->latent.grouped = 0;
    pass->on_device = pass->inputs_sent = pass->hidden_on_device = pass->norm_left = false;
    pass_expect(engine);
    pass->ahead.begun = clock_nanoseconds();
}

/* Batches that wait for the CPU would wait for ever. */
void gpu_pass_abandon(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    if (!pass)
        return;
    if (pass->open) {
        /* What was recorded may run at once: nobody reads what it writes. */
        pass->wait_value = 0;
        pass_send(pass, NULL);
    }
    if (pass->host_share.waiting) {
        gpu_signal_host(pass->gpu, pass->host_share.value, NULL);
        pass->host_share.waiting = false;
    }
    /* Commands recorded ahead that were taken for this batch and not sent: the next ones would be added to them. */
    gpu_drop(pass->gpu);
    pass->ahead.ready = false;
    gpu_wait(pass->gpu, pass->last, NULL);
    gpu_upload_wait(pass->gpu, pass->wait_upload, NULL);
    pass->wait_upload = 0;
    pass_let_go(engine, NULL);
}

/* ---- the way there and back ----------------------------------------------------------------------------------------
 */

/* Sharper attention for far positions: the factors of attention_layer.c. */
static void fill_scales(const struct engine *engine, float *out)
{
    const struct model_parameters *p = model_parameters(engine->model);
    for (size_t r = 0; r < engine->rows; r++) {
        double position = engine->scratch.positions[r] + (double)p->attention_temperature_offset;
        double steps = floor(position / (double)p->attention_temperature_floor);
        out[r] = (float)(log(steps + 1.0) * p->attention_temperature_scale + 1.0);
    }
}

/* Whether the commands of the batch at hand are there, so that only what they read is to be filled in. */
static bool runs_ahead(const struct gpu_pass *pass)
{
    return pass->ahead.used && !pass->ahead.recording;
}

static void send_part(struct gpu_pass *pass, struct gpu_range to, const struct shared_part *from, const void *bytes,
                      size_t count)
{
    if (count == 0)
        return;
    if (!pass->ahead.recording)
        memcpy(from->host, bytes, count);
    if (!runs_ahead(pass))
        gpu_copy(pass->gpu, to, from->range, count);
}

/* What depends on the positions of the batch. */
static void send_inputs(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    const struct scratch *s = &engine->scratch;
    if (pass->inputs_sent)
        return;
    send_part(pass, pass->rope[0], &pass->up_parts.rope[0], s->rope[0], engine->rows * p->rotary * sizeof(float));
    if (engine->rope_local.half)
        send_part(pass, pass->rope[1], &pass->up_parts.rope[1], s->rope[1],
                  engine->rows * p->rotary_local * sizeof(float));
    if (p->attention_temperature_scale != 0.0f) {
        if (!pass->ahead.recording)
            fill_scales(engine, pass->up_parts.scales.host);
        if (!runs_ahead(pass))
            gpu_copy(pass->gpu, pass->scales, pass->up_parts.scales.range, engine->rows * sizeof(float));
    }
    pass->inputs_sent = true;
}

/* Of a norm of the residual stream (Phi 3.5 MoE); or none. */
static struct gpu_range norm_bias(const struct engine *engine, unit_number norm)
{
    if (norm == NO_UNIT)
        return (struct gpu_range){0};
    const struct unit *unit = model_unit(engine->model, norm);
    return pass_vector(engine, unit->layer < 0
                                   ? model_tensor(engine->model, ROLE_OUTPUT_NORM_BIAS)
                                   : model_layer(engine->model, (uint32_t)unit->layer)->tensors[unit->role + 1]);
}

void pass_norm_hidden(struct engine *engine, unit_number weight)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    if (weight == NO_UNIT)
        return;
    gpu_rms_norm(pass->gpu, pass->normed, pass->hidden, pass_vector(engine, weight), norm_bias(engine, weight),
                 (uint32_t)engine->rows, p->embedding, p->norm_epsilon);
    gpu_barrier(pass->gpu);
    halve_normed(engine, weight);
}

static void to_device(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    size_t bytes = engine->rows * model_parameters(engine->model)->embedding * sizeof(float);
    if (!runs_ahead(pass))
        pass_record(pass);
    send_inputs(engine);
    if (!pass->on_device)
        send_part(pass, pass->hidden, &pass->up_parts.hidden, engine->scratch.buffers[BUFFER_HIDDEN], bytes);
    gpu_barrier(pass->gpu);
    pass->on_device = true;
}

hypura_status gpu_pass_to_host(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    if (!pass || !pass->on_device)
        return HYPURA_OK;
    size_t bytes = engine->rows * model_parameters(engine->model)->embedding * sizeof(float);
    pass_record(pass);
    gpu_copy(pass->gpu, pass->back_parts.hidden.range, pass->hidden, bytes);
    TRY(pass_finish(engine, error));
    memcpy(engine->scratch.buffers[BUFFER_HIDDEN], pass->back_parts.hidden.host, bytes);
    pass->on_device = false;
    return HYPURA_OK;
}

/* ---- from tokens to logits ----------------------------------------------------------------------------------------
 */

hypura_status gpu_pass_embed(struct engine *engine, const int32_t *tokens, bool *done, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    unit_number unit = model_tensor(engine->model, ROLE_TOKEN_EMBEDDING);
    (void)error;
    *done = false;
    if (!pass || !pass->plan->units[unit])
        return HYPURA_OK;
    struct gpu_matrix matrix = pass_matrix(engine, unit);
    *done = gpu_embed_supports(matrix.type, matrix.row_bytes);
    if (!*done)
        return HYPURA_OK;
    pass->on_device = true;
    if (runs_ahead(pass)) {
        send_part(pass, pass->tokens, &pass->up_parts.tokens, tokens, engine->rows * sizeof *tokens);
        return HYPURA_OK;
    }
    pass_record(pass);
    send_part(pass, pass->tokens, &pass->up_parts.tokens, tokens, engine->rows * sizeof *tokens);
    gpu_barrier(pass->gpu);
    gpu_embed(pass->gpu, &matrix, pass->tokens, pass->hidden, (uint32_t)engine->rows,
              model_parameters(engine->model)->embedding_scale);
    gpu_barrier(pass->gpu);
    return HYPURA_OK;
}

void pass_add_branch(struct engine *engine, struct gpu_range branch, unit_number post_norm, unit_number layer_scale,
                     unit_number next_norm, const struct gpu_mix *mix)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    bool biased = norm_bias(engine, next_norm).buffer;
    struct gpu_residual residual = {.hidden = pass->hidden,
                                    .branch = branch,
                                    .post_norm = pass_vector(engine, post_norm),
                                    .layer_scale = pass_vector(engine, layer_scale),
                                    .norm = pass_vector(engine, biased ? NO_UNIT : next_norm),
                                    .out = pass->normed,
                                    .out_halves = biased ? (struct gpu_range){0} : pass_input_halves(engine, next_norm),
                                    .scale = p->residual_scale,
                                    .epsilon = p->norm_epsilon,
                                    .rows = (uint32_t)engine->rows,
                                    .columns = p->embedding};
    if (mix)
        residual.mix = *mix;
    gpu_residual(pass->gpu, &residual);
    gpu_barrier(pass->gpu);
    pass->norm_left = false;
    if (biased)
        pass_norm_hidden(engine, next_norm);
}

/* The residual stream through a norm, in place (encoders); nothing without a tensor. */
static void renorm_hidden(struct engine *engine, unit_number weight, unit_number bias)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    bool centred = model_architecture(engine->model)->flags & ARCHITECTURE_LAYER_NORM;
    if (weight == NO_UNIT)
        return;
    (centred ? gpu_layer_norm : gpu_rms_norm)(pass->gpu, pass->hidden, pass->hidden, pass_vector(engine, weight),
                                              pass_vector(engine, bias), (uint32_t)engine->rows, p->embedding,
                                              p->norm_epsilon);
    gpu_barrier(pass->gpu);
}

/* Whether the matrix that ends a branch adds it to the residual stream by itself, and whoever reads that next norms it
 * by itself: two launches less where few tokens make launches count. */
static bool adds_by_itself(const struct engine *engine, unit_number post_norm, unit_number layer_scale,
                           unit_number next_norm)
{
    return engine->rows <= GPU_VECTOR_TOKENS && post_norm == NO_UNIT && layer_scale == NO_UNIT &&
           !norm_bias(engine, next_norm).buffer && model_parameters(engine->model)->residual_scale == 1.0f;
}

static uint32_t layers_a_batch(const struct engine *engine)
{
    double seconds =
        (double)engine->rows * engine->pass->layer_work / MAX(engine->device.multiply_adds_per_second, 1.0);
    return seconds * LAYERS_A_BATCH > BATCH_SECONDS ? MAX((uint32_t)(BATCH_SECONDS / seconds), 1u) : LAYERS_A_BATCH;
}

void pass_attend(struct engine *engine, uint32_t number, bool add)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    unit_number norm = layer->tensors[ROLE_ATTENTION_NORM];
    if (!pass->on_device || !pass->inputs_sent) {
        to_device(engine);
        pass->norm_left = engine->rows <= GPU_VECTOR_TOKENS && !norm_bias(engine, norm).buffer;
        if (!pass->norm_left)
            pass_norm_hidden(engine, norm);
    }
    pass_record(pass);
    switch (layer->kind) {
    case LAYER_ATTENTION:
        pass_attention(engine, number, add);
        break;
    case LAYER_LATENT:
        pass_latent(engine, number, add);
        break;
    case LAYER_RECURRENT:
        pass_recurrent(engine, number, add);
        break;
    }
}

hypura_status gpu_pass_layer(struct engine *engine, uint32_t number, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    const unit_number *tensors = layer->tensors;
    if (runs_ahead(pass)) {
        pass->open = !pass->on_device || !pass->inputs_sent;
        if (pass->open)
            to_device(engine);
        return pass_send(pass, error);
    }
    bool add =
        !layer->moe && adds_by_itself(engine, tensors[ROLE_ATTENTION_POST_NORM], NO_UNIT, tensors[ROLE_FFN_NORM]);
    pass_attend(engine, number, add);
    if (add)
        pass->norm_left = true;
    else
        pass_add_branch(engine, pass->branch, tensors[ROLE_ATTENTION_POST_NORM], NO_UNIT, tensors[ROLE_FFN_NORM], NULL);
    renorm_hidden(engine, tensors[ROLE_ATTENTION_SUM_NORM], tensors[ROLE_ATTENTION_SUM_NORM_BIAS]);
    unit_number next = pass_next_norm(engine, number);
    if (layer->moe) {
        TRY(pass_experts(engine, number, next, error));
    } else {
        /* The output matrix's norm is wanted by itself. */
        add = number + 1 < model_parameters(engine->model)->layers &&
              adds_by_itself(engine, tensors[ROLE_FFN_POST_NORM], tensors[ROLE_LAYER_SCALE], next);
        pass_dense(engine, layer, ROLE_FFN_GATE, ROLE_FFN_UP, ROLE_FFN_DOWN, layer->feed_forward, pass->branch, add);
        gpu_barrier(pass->gpu);
        if (add)
            pass->norm_left = true;
        else
            pass_add_branch(engine, pass->branch, tensors[ROLE_FFN_POST_NORM], tensors[ROLE_LAYER_SCALE], next, NULL);
        renorm_hidden(engine, tensors[ROLE_FFN_SUM_NORM], tensors[ROLE_FFN_SUM_NORM_BIAS]);
    }
    /* The first layer goes alone, so that the device starts early. */
    uint32_t most = pass->sent == 0 ? 1 : layers_a_batch(engine);
    return ++pass->recorded >= most && !pass->ahead.recording ? pass_send(pass, error) : HYPURA_OK;
}
