/* Multi-head latent attention (latent_layer.c says what it is) as commands.
 *
 * A head's products with its own matrices, the queries' with that of the keys and the sums' with that of the values,
 * are those of a mixture whose every token chose all experts: head h is expert h, in slot h. */
#include "engine/gpu/pass.h"

/* Queries against the cache's rows are as wide as those (576 floats in DeepSeek V3), so only so many heads' are there
 * at once: a batch is cut into parts. */
#define HEADS_AT_ONCE 16384u
#define LEAST_ROWS (2 * (GPU_VECTOR_TOKENS + 1))
#define MOST_ROWS (GPU_MAX_SEQUENCES - LATENT_MORE_ROWS)

/* Heads of tokens whose attention is cut into spans at the same time. */
#define SPAN_HEADS 256u

uint32_t pass_latent_rows(const struct geometry *g, uint32_t chunk)
{
    return g->heads ? MIN(MIN(chunk, MOST_ROWS), (uint32_t)MAX(HEADS_AT_ONCE / g->heads, (size_t)LEAST_ROWS)) : 0;
}

uint64_t pass_latent_attention_bytes(const struct geometry *g, uint32_t chunk, uint32_t positions)
{
    uint32_t heads = (uint32_t)g->heads, rows = heads ? MIN(chunk, MAX(SPAN_HEADS / heads, 1u)) : 0;
    return gpu_attention_scratch_bytes(rows, heads, model_parameters(g->model)->kv_rank, positions);
}

hypura_status pass_open_latent(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    size_t rows = pass->latent.rows + LATENT_MORE_ROWS, heads = engine->geometry.heads;
    uint32_t *ids = NULL;
    gpu_ticket arrived;
    if (pass->latent.rows == 0)
        return HYPURA_OK;
    TRY(ALLOCATE(&ids, rows * heads, "table of heads", error));
    for (size_t i = 0; i < rows * heads; i++)
        ids[i] = (uint32_t)(i % heads);
    hypura_status status = gpu_upload(pass->gpu, pass->latent.heads, ids, rows * heads * sizeof *ids, &arrived, error);
    memory_free(ids);
    return status ? status : gpu_upload_wait(pass->gpu, arrived, error);
}

/* What all calls share that turn something by the batch's positions from a row on. */
static struct gpu_heads turning(const struct engine *engine, uint32_t first, uint32_t rows)
{
    const struct model_parameters *p = model_parameters(engine->model);
    bool normal = model_architecture(engine->model)->rope == ROPE_STYLE_NORMAL;
    return (struct gpu_heads){.table = range_at(engine->pass->rope[0], (uint64_t)first * p->rotary),
                              .layout = normal ? ROPE_NORMAL : ROPE_NEOX,
                              .rotary = p->rotary,
                              .epsilon = p->norm_epsilon,
                              .rows = rows};
}

/* Queries of all rows, [rows][heads][latent key], and latents [rows][kv_rank + rotary], neither turned. Whoever reads
 * the queries has to wait. */
static void project(struct engine *engine, const struct model_layer *layer, struct gpu_range latents)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    const unit_number *tensors = layer->tensors, norm = tensors[ROLE_ATTENTION_NORM];
    const unit_number low_norm = tensors[ROLE_ATTENTION_Q_A_NORM];
    const struct gpu_range none = {0};
    bool low = tensors[ROLE_ATTENTION_Q] == NO_UNIT;
    struct gpu_matrix matrices[2] = {pass_matrix(engine, tensors[low ? ROLE_ATTENTION_Q_A : ROLE_ATTENTION_Q]),
                                     pass_matrix(engine, tensors[ROLE_ATTENTION_KV_A])};
    struct pass_product products[2] = {{.role = low ? ROLE_ATTENTION_Q_A : ROLE_ATTENTION_Q},
                                       {.role = ROLE_ATTENTION_KV_A}};
    for (int i = 0; i < 2; i++) {
        products[i].job =
            pass_job(engine, &matrices[i], none, pass_input(engine, norm), pass_input_halves(engine, norm),
                     i == 1 ? latents
                     : low  ? pass->attended
                            : pass->query);
        pass_take_norm(engine, &products[i].job, norm);
    }
    pass_multiply(engine, layer, products, 2);
    gpu_barrier(pass->gpu);
    if (!low)
        return;
    struct gpu_matrix wide = pass_matrix(engine, tensors[ROLE_ATTENTION_Q_B]);
    struct pass_product product = {.role = ROLE_ATTENTION_Q_B,
                                   .job = pass_job(engine, &wide, none, pass->attended, none, pass->query)};
    if (engine->rows <= GPU_VECTOR_TOKENS && low_norm != NO_UNIT) {
        product.job.norm = pass_vector(engine, low_norm);
        product.job.epsilon = p->norm_epsilon;
    } else {
        gpu_rms_norm(pass->gpu, pass->attended, pass->attended, pass_vector(engine, low_norm), none,
                     (uint32_t)engine->rows, p->q_rank, p->norm_epsilon);
        gpu_barrier(pass->gpu);
    }
    pass_multiply(engine, layer, &product, 1);
}

/* Queries of all rows where they are. */
static void turn_queries(struct engine *engine, const struct model_layer *layer)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    struct gpu_heads heads = turning(engine, 0, (uint32_t)engine->rows);
    heads.query = heads.out = pass->query;
    if (layer->sharpened)
        heads.query_scales = pass->scales;
    heads.query_head_stride = heads.key_size = p->latent_key_size;
    heads.query_stride = layer->heads * p->latent_key_size;
    heads.heads = layer->heads;
    heads.turned_from = p->latent_key_size - p->rotary;
    gpu_heads(pass->gpu, &heads);
}

/* ---- on latents ----------------------------------------------------------------------------------------------------
 */

/* Rows of all heads, [rows][heads], each by its head's matrix. */
static void multiply_heads(struct engine *engine, const struct model_layer *layer, enum tensor_role role, uint32_t rows,
                           struct gpu_range in, uint32_t in_stride, struct gpu_range out, uint32_t out_stride)
{
    struct gpu_pass *pass = engine->pass;
    struct gpu_matrix matrix = pass_matrix(engine, layer->tensors[role]);
    matrix.rows /= layer->heads;
    struct gpu_expert_matmul job = {.weights = matrix,
                                    .slot_stride = matrix.rows * matrix.row_bytes,
                                    .slots = pass->latent.heads,
                                    .ids = pass->latent.heads,
                                    .in = in,
                                    .out = out,
                                    .in_stride = in_stride,
                                    .out_stride = out_stride,
                                    .groups = pass->latent.groups,
                                    .experts = layer->heads,
                                    .used = layer->heads,
                                    .tokens = rows,
                                    .per_choice = true};
    gpu_expert_matmul(pass->gpu, &job, 1);
}

/* Some rows of the batch, from pass->query to pass->attended. */
static void attend_part(struct engine *engine, uint32_t number, uint32_t first, uint32_t rows,
                        const struct gpu_sequence *sequences, uint32_t count)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    const struct kv_layer *kv = &engine->kv.layers[number];
    uint32_t heads = layer->heads, width = (uint32_t)kv->key_size;
    struct gpu_range query = range_at(pass->query, (uint64_t)first * heads * p->latent_key_size);
    if (rows > GPU_VECTOR_TOKENS && pass->latent.grouped != rows) {
        gpu_expert_group(pass->gpu, pass->latent.heads, pass->latent.groups, heads, heads, rows);
        gpu_barrier(pass->gpu);
        pass->latent.grouped = rows;
    }
    struct gpu_heads turned = turning(engine, first, rows);
    if (layer->sharpened) /* turned already */
        turned.table = (struct gpu_range){0};
    turned.query = range_at(query, p->latent_key_size - p->rotary);
    turned.query_stride = heads * p->latent_key_size;
    turned.query_head_stride = p->latent_key_size;
    turned.out = range_at(pass->latent.query, p->kv_rank);
    turned.out_head_stride = width;
    turned.heads = heads;
    turned.key_size = p->rotary;
    gpu_heads(pass->gpu, &turned);
    multiply_heads(engine, layer, ROLE_ATTENTION_K_B, rows, query, p->latent_key_size, pass->latent.query, width);
    gpu_barrier(pass->gpu);

    const struct gpu_attention attention = {.query = pass->latent.query,
                                            .out = pass->latent.attended,
                                            .cache = {pass->caches[number], 0},
                                            .scratch = pass->attention,
                                            .scratch_bytes = pass->attention_bytes,
                                            .rows = rows,
                                            .heads = heads,
                                            .kv_heads = 1,
                                            .key_size = width,
                                            .value_size = p->kv_rank,
                                            .type = engine->kv.type,
                                            .key_position_bytes = (uint32_t)kv->key_position_bytes,
                                            .value_position_bytes = (uint32_t)kv->value_position_bytes,
                                            .scale = p->attention_scale,
                                            .sequences = sequences,
                                            .sequence_count = count};
    gpu_attention(pass->gpu, &attention);
    gpu_barrier(pass->gpu);
    multiply_heads(engine, layer, ROLE_ATTENTION_V_B, rows, pass->latent.attended, 0,
                   range_at(pass->attended, (uint64_t)first * heads * p->latent_value_size), 0);
    gpu_barrier(pass->gpu);
}

/* Cuts the batch into parts. A sequence with few rows is handed over row by row, since the states of all heads' spans
 * take much memory; with more it is cut evenly. No part, and no piece of a prompt, has so few rows that it would go
 * through other kernels than the whole: how a batch is cut changes no bit. */
static void attend_parts(struct engine *engine, uint32_t number, const struct gpu_sequence *sequences)
{
    const uint32_t most = engine->pass->latent.rows;
    struct gpu_sequence part[GPU_MAX_SEQUENCES];
    uint32_t count = 0, first = 0, rows = 0, left = (uint32_t)engine->rows;
    for (uint32_t i = 0; i < engine->span_count; i++) {
        const struct gpu_sequence *whole = &sequences[i];
        uint32_t pieces = whole->rows <= GPU_VECTOR_TOKENS ? whole->rows : (whole->rows + most - 1) / most;
        for (uint32_t n = 0, done = 0, now; n < pieces; n++, done += now, left -= now) {
            now = whole->rows / pieces + (n < whole->rows % pieces);
            if (rows + now > most && rows > GPU_VECTOR_TOKENS && left > GPU_VECTOR_TOKENS) {
                attend_part(engine, number, first, rows, part, count);
                first += rows;
                rows = count = 0;
            }
            part[count] = *whole;
            part[count].first_row = rows;
            part[count].rows = now;
            part[count++].first_position = whole->first_position + done;
            rows += now;
        }
    }
    attend_part(engine, number, first, rows, part, count);
}

static void attend_on_latents(struct engine *engine, uint32_t number, const struct gpu_sequence *sequences)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    const struct kv_layer *kv = &engine->kv.layers[number];
    struct gpu_heads keys = turning(engine, 0, (uint32_t)engine->rows);
    keys.key = pass->key;
    keys.key_norm = pass_vector(engine, layer->tensors[ROLE_ATTENTION_KV_A_NORM]);
    keys.cache = (struct gpu_range){pass->caches[number], 0};
    keys.values_in_keys = true;
    keys.normed = keys.turned_from = p->kv_rank;
    keys.kv_heads = 1;
    keys.key_stride = keys.key_size = (uint32_t)kv->key_size;
    keys.value_size = p->kv_rank;
    keys.type = engine->kv.type;
    keys.key_position_bytes = (uint32_t)kv->key_position_bytes;
    keys.value_position_bytes = (uint32_t)kv->value_position_bytes;
    keys.sequences = sequences;
    keys.sequence_count = engine->span_count;
    gpu_heads(pass->gpu, &keys);
    gpu_barrier(pass->gpu);
    if (layer->sharpened) {
        turn_queries(engine, layer);
        gpu_barrier(pass->gpu);
    }
    attend_parts(engine, number, sequences);
}

/* ---- on whole keys and values, of files with the undivided matrix -------------------------------------------------
 */

static void attend_on_heads(struct engine *engine, uint32_t number, const struct gpu_sequence *sequences)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    const struct kv_layer *kv = &engine->kv.layers[number];
    const struct gpu_range none = {0}, latents = pass->latent.latents;
    uint32_t rows = (uint32_t)engine->rows, heads = layer->heads, width = p->kv_rank + p->rotary;
    struct gpu_heads normed = turning(engine, 0, rows);
    normed.query = normed.out = latents;
    normed.query_norm = pass_vector(engine, layer->tensors[ROLE_ATTENTION_KV_A_NORM]);
    normed.normed = normed.turned_from = p->kv_rank;
    normed.query_stride = normed.query_head_stride = normed.key_size = width;
    normed.heads = 1;
    gpu_heads(pass->gpu, &normed);
    gpu_barrier(pass->gpu);
    turn_queries(engine, layer);

    struct gpu_matrix matrix = pass_matrix(engine, layer->tensors[ROLE_ATTENTION_KV_B]);
    struct pass_product product = {.role = ROLE_ATTENTION_KV_B,
                                   .job = pass_job(engine, &matrix, none, latents, none, pass->raw)};
    product.job.in_stride = width;
    pass_multiply(engine, layer, &product, 1);
    gpu_barrier(pass->gpu);
    gpu_spread(pass->gpu, &(struct gpu_spread){.projected = pass->raw,
                                               .latents = latents,
                                               .key = pass->key,
                                               .value = pass->value,
                                               .rows = rows,
                                               .heads = heads,
                                               .key_size = p->latent_key_size,
                                               .value_size = p->latent_value_size,
                                               .rotary = p->rotary,
                                               .latent_size = width});
    gpu_barrier(pass->gpu);
    const struct gpu_range cache = {pass->caches[number], 0};
    gpu_heads(pass->gpu, &(struct gpu_heads){.key = pass->key,
                                             .value = pass->value,
                                             .cache = cache,
                                             .key_stride = heads * p->latent_key_size,
                                             .value_stride = heads * p->latent_value_size,
                                             .rows = rows,
                                             .kv_heads = heads,
                                             .key_size = p->latent_key_size,
                                             .value_size = p->latent_value_size,
                                             .type = engine->kv.type,
                                             .key_position_bytes = (uint32_t)kv->key_position_bytes,
                                             .value_position_bytes = (uint32_t)kv->value_position_bytes,
                                             .sequences = sequences,
                                             .sequence_count = engine->span_count});
    gpu_barrier(pass->gpu);
    gpu_attention(pass->gpu, &(struct gpu_attention){.query = pass->query,
                                                     .out = pass->attended,
                                                     .cache = cache,
                                                     .scratch = pass->attention,
                                                     .scratch_bytes = pass->attention_bytes,
                                                     .rows = rows,
                                                     .heads = heads,
                                                     .kv_heads = heads,
                                                     .key_size = p->latent_key_size,
                                                     .value_size = p->latent_value_size,
                                                     .type = engine->kv.type,
                                                     .key_position_bytes = (uint32_t)kv->key_position_bytes,
                                                     .value_position_bytes = (uint32_t)kv->value_position_bytes,
                                                     .scale = p->attention_scale,
                                                     .sequences = sequences,
                                                     .sequence_count = engine->span_count});
    gpu_barrier(pass->gpu);
}

void pass_latent(struct engine *engine, uint32_t number, bool add)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct gpu_sequence *sequences = engine->scratch.device_sequences;
    bool divided = layer->tensors[ROLE_ATTENTION_KV_B] == NO_UNIT;
    pass_find_sequences(engine, number, engine->scratch.device_sequences);
    project(engine, layer, divided ? pass->key : pass->latent.latents);
    if (divided)
        attend_on_latents(engine, number, sequences);
    else
        attend_on_heads(engine, number, sequences);
    struct gpu_matrix output = pass_matrix(engine, layer->tensors[ROLE_ATTENTION_OUTPUT]);
    struct pass_product product = {.role = ROLE_ATTENTION_OUTPUT,
                                   .job = pass_job(engine, &output,
                                                   pass_vector(engine, layer->tensors[ROLE_ATTENTION_OUTPUT_BIAS]),
                                                   pass->attended, (struct gpu_range){0}, pass->branch)};
    pass_give_output(engine, &product.job, add);
    pass_multiply(engine, layer, &product, 1);
    gpu_barrier(pass->gpu);
}
