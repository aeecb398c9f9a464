/* Multi-head latent attention (DeepSeek-V2, 2024): keys and values of all heads are projections of one short vector a
 * position, which is what the cache keeps, with one more part of the key that carries the position.
 *
 * The projections are moved to the other side of the products: a query is taken through its head's key projection once
 * and then meets the cached vectors as they are, and what comes back is taken through the head's value projection. So
 * the cache is one key head, kv_rank + rotary wide, whose first kv_rank elements are the values too. Older files carry
 * the two projections as one matrix, from which whole keys and values are made instead. */
#include "engine/engine_private.h"

#include <string.h>

/* scratch.query: [rows][heads][latent key], of which the last rotary elements carry the position. */
static hypura_status make_queries(struct engine *engine, const struct model_layer *layer, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    if (layer->tensors[ROLE_ATTENTION_Q] != NO_UNIT) {
        TRY(project_rows(engine, layer, ROLE_ATTENTION_Q, false, s->normed, s->query, error));
    } else {
        TRY(project_rows(engine, layer, ROLE_ATTENTION_Q_A, false, s->normed, s->attended, error));
        TRY(norm(engine, s->attended, s->attended, layer->tensors[ROLE_ATTENTION_Q_A_NORM], NO_UNIT, engine->rows,
                 p->q_rank, error));
        TRY(project_rows(engine, layer, ROLE_ATTENTION_Q_B, false, s->attended, s->query, error));
    }
    compute_rope(engine->compute,
                 model_architecture(engine->model)->rope == ROPE_STYLE_NORMAL ? ROPE_NORMAL : ROPE_NEOX,
                 s->query + (p->latent_key_size - p->rotary), engine->rows, (size_t)layer->heads * p->latent_key_size,
                 layer->heads, p->latent_key_size, p->rotary, s->rope[0]);
    scale_queries_by_position(engine, layer, (size_t)layer->heads * p->latent_key_size);
    return HYPURA_OK;
}

/* Rows of the latent vector, normed, and the part with the position: [rows][kv_rank + rotary]. */
static hypura_status make_latents(struct engine *engine, const struct model_layer *layer, float *out,
                                  hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t width = (size_t)p->kv_rank + p->rotary;
    TRY(project_rows(engine, layer, ROLE_ATTENTION_KV_A, false, s->normed, out, error));
    struct held held = {0};
    const float *weight;
    TRY(hold_vector(engine, &held, layer->tensors[ROLE_ATTENTION_KV_A_NORM], &weight, error));
    for (size_t r = 0; r < engine->rows; r++)
        compute_rms_norm(engine->compute, out + r * width, out + r * width, weight, 1, p->kv_rank, p->norm_epsilon);
    release(engine, &held);
    compute_rope(engine->compute,
                 model_architecture(engine->model)->rope == ROPE_STYLE_NORMAL ? ROPE_NORMAL : ROPE_NEOX,
                 out + p->kv_rank, engine->rows, width, 1, p->rotary, p->rotary, s->rope[0]);
    return HYPURA_OK;
}

static void attend_rows(struct engine *engine, uint32_t number, const struct span *span, uint32_t first, uint32_t rows,
                        const float *query, float *output)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    struct attention_sequence sequence = kv_cache_sequence(&engine->kv, number, span->sequence, 0, rows);
    struct attention attention = kv_cache_attention(&engine->kv, number);
    attention.query = query;
    attention.output = output;
    attention.positions = engine->scratch.positions + first;
    attention.heads = layer->heads;
    attention.scale = p->attention_scale;
    attention.sequences = &sequence;
    attention.sequence_count = 1;
    compute_attention(engine->compute, &attention);
}

/* One product a head, of rows of [rows][heads]: with the matrices of all heads one after another in "all". */
static void multiply_heads(struct engine *engine, const struct matrix *all, size_t heads, uint32_t rows,
                           const float *values, size_t columns, size_t stride, float *out, size_t out_stride)
{
    struct scratch *s = &engine->scratch;
    struct matmul jobs[64];
    activation_set(s->latent_input, values, rows * heads, columns, stride);
    for (size_t h = 0; h < heads; h++)
        for (uint32_t r = 0; r < rows; r++)
            s->head_rows[h * rows + r] = (uint32_t)(r * heads + h);
    for (size_t first = 0; first < heads; first += COUNT_OF(jobs)) {
        size_t count = MIN(heads - first, COUNT_OF(jobs));
        for (size_t i = 0; i < count; i++) {
            size_t h = first + i, matrix_height = all->rows / heads;
            jobs[i] = (struct matmul){.weights = matrix_rows(all, h * matrix_height, matrix_height),
                                      .input = s->latent_input,
                                      .input_rows = s->head_rows + h * rows,
                                      .tokens = rows,
                                      .output = out,
                                      .output_stride = out_stride,
                                      .output_rows = s->head_rows + h * rows};
        }
        compute_matmul(engine->compute, jobs, count);
    }
}

/* Some rows of one sequence, from scratch.query to scratch.attended. */
static void attend_latent(struct engine *engine, uint32_t number, const struct span *span, uint32_t first,
                          uint32_t rows, const struct matrix *key_matrix, const struct matrix *value_matrix)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t heads = layer->heads, plain = p->latent_key_size - p->rotary, width = (size_t)p->kv_rank + p->rotary;
    const float *query = s->query + first * heads * p->latent_key_size;
    multiply_heads(engine, key_matrix, heads, rows, query, plain, p->latent_key_size, s->latent_query, width);
    for (size_t h = 0; h < rows * heads; h++)
        memcpy(s->latent_query + h * width + p->kv_rank, query + h * p->latent_key_size + plain,
               p->rotary * sizeof(float));
    attend_rows(engine, number, span, first, rows, s->latent_query, s->latent_attended);
    multiply_heads(engine, value_matrix, heads, rows, s->latent_attended, p->kv_rank, p->kv_rank,
                   s->attended + first * heads * p->latent_value_size, p->latent_value_size);
}

static hypura_status attention_on_latents(struct engine *engine, uint32_t number, struct held *held,
                                          hypura_error *error)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    struct scratch *s = &engine->scratch;
    struct matrix key_matrix, value_matrix;
    size_t width = engine->kv.layers[number].key_size;
    TRY(make_latents(engine, layer, s->key, error));
    TRY(hold_matrix(engine, held, layer->tensors[ROLE_ATTENTION_K_B], &key_matrix, error));
    TRY(hold_matrix(engine, held, layer->tensors[ROLE_ATTENTION_V_B], &value_matrix, error));
    for (uint32_t i = 0; i < engine->span_count; i++) {
        const struct span *span = &s->spans[i];
        kv_cache_write(&engine->kv, number, span->sequence, s->positions[span->first_row], span->rows,
                       s->key + span->first_row * width, NULL);
        for (uint32_t done = 0, rows; done < span->rows; done += rows) {
            rows = MIN(span->rows - done, engine->geometry.latent_rows);
            attend_latent(engine, number, span, span->first_row + done, rows, &key_matrix, &value_matrix);
        }
    }
    release(engine, held);
    return HYPURA_OK;
}

/* Keys and values of every head from the undivided matrix. */
static void spread_heads(struct engine *engine, size_t heads, const float *latents, const float *expanded)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t plain = p->latent_key_size - p->rotary, width = (size_t)p->kv_rank + p->rotary;
    for (size_t r = 0; r < engine->rows; r++)
        for (size_t h = 0; h < heads; h++) {
            const float *from = expanded + (r * heads + h) * (plain + p->latent_value_size);
            float *key = s->key + (r * heads + h) * p->latent_key_size;
            memcpy(key, from, plain * sizeof *key);
            memcpy(key + plain, latents + r * width + p->kv_rank, p->rotary * sizeof *key);
            memcpy(s->value + (r * heads + h) * p->latent_value_size, from + plain, p->latent_value_size * sizeof *key);
        }
}

static hypura_status attention_on_heads(struct engine *engine, uint32_t number, struct held *held, hypura_error *error)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t heads = layer->heads, width = (size_t)p->kv_rank + p->rotary;
    float *latents = s->latents;
    TRY(make_latents(engine, layer, latents, error));
    struct matmul job = {.input = s->input, .tokens = engine->rows, .output = s->query_raw};
    TRY(hold_matrix(engine, held, layer->tensors[ROLE_ATTENTION_KV_B], &job.weights, error));
    job.output_stride = job.weights.rows;
    activation_set(s->input, latents, engine->rows, p->kv_rank, width);
    compute_matmul(engine->compute, &job, 1);
    adapt(engine, &job, layer, ROLE_ATTENTION_KV_B, 0, 0);
    release(engine, held);
    spread_heads(engine, heads, latents, s->query_raw);
    for (uint32_t i = 0; i < engine->span_count; i++) {
        const struct span *span = &s->spans[i];
        size_t first = span->first_row;
        kv_cache_write(&engine->kv, number, span->sequence, s->positions[first], span->rows,
                       s->key + first * heads * p->latent_key_size, s->value + first * heads * p->latent_value_size);
        attend_rows(engine, number, span, span->first_row, span->rows, s->query + first * heads * p->latent_key_size,
                    s->attended + first * heads * p->latent_value_size);
    }
    return HYPURA_OK;
}

hypura_status latent_layer(struct engine *engine, uint32_t number, hypura_error *error)
{
    const struct model_layer *layer = model_layer(engine->model, number);
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    struct held held = {0};
    TRY(norm(engine, s->normed, s->hidden, layer->tensors[ROLE_ATTENTION_NORM], NO_UNIT, engine->rows, p->embedding,
             error));
    TRY(make_queries(engine, layer, error));
    bool divided = layer->tensors[ROLE_ATTENTION_KV_B] == NO_UNIT;
    hypura_status status =
        divided ? attention_on_latents(engine, number, &held, error) : attention_on_heads(engine, number, &held, error);
    release(engine, &held);
    if (status)
        return status;
    TRY(project_rows(engine, layer, ROLE_ATTENTION_OUTPUT, true, s->attended, s->branch, error));
    return add_branch(engine, layer->tensors[ROLE_ATTENTION_POST_NORM], error);
}
