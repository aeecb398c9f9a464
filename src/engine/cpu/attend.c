/* What a token sees of those before it, by way of the KV cache. */
#include "engine/cpu/execute.h"

#include <string.h>

/* ---- heads ---------------------------------------------------------------------------------------------------------
 */

/* Queries that stand before their gates, head by head. */
static void take_queries(struct engine *engine, const struct step_heads *h)
{
    const float *raw = rows_of(engine, h->raw);
    float *query = rows_of(engine, h->query.buffer);
    size_t size = h->query.size;
    for (size_t head = 0; head < engine->rows * h->query.heads; head++)
        memcpy(query + head * size, raw + 2 * head * size, size * sizeof *query);
}

static void layer_norm(struct engine *engine, float *values, const float *weight, size_t width, float epsilon)
{
    compute_layer_norm(engine->compute, values, values, weight, NULL, 1, width, epsilon);
}

static void rms_norm(struct engine *engine, float *values, const float *weight, size_t width, float epsilon)
{
    compute_rms_norm(engine->compute, values, values, weight, 1, width, epsilon);
}

static hypura_status norm_heads(struct engine *engine, const struct step_heads *h, const struct step_head *head,
                                struct held *held, hypura_error *error)
{
    float *values = rows_of(engine, head->buffer);
    size_t heads = engine->rows * head->heads, width = head->norm_width;
    const float *weight;
    if (head->buffer == BUFFER_NONE || head->norm == NO_UNIT)
        return HYPURA_OK;
    TRY(hold_vector(engine, held, head->norm, &weight, error));
    if (head->norm_each) {
        for (size_t i = 0; i < heads; i++, values += width)
            (h->centred ? layer_norm : rms_norm)(engine, values, weight + i % head->heads * width, width, h->epsilon);
        return HYPURA_OK;
    }
    if (head->normed < head->size)
        for (size_t i = 0; i < heads; i++, values += head->size)
            rms_norm(engine, values, weight, head->normed, h->epsilon);
    else if (h->centred)
        compute_layer_norm(engine->compute, values, values, weight, NULL, heads * head->size / width, width,
                           h->epsilon);
    else
        compute_rms_norm(engine->compute, values, values, weight, heads * head->size / width, width, h->epsilon);
    return HYPURA_OK;
}

static void norm_plainly(struct engine *engine, const struct step_heads *h, const struct step_head *head)
{
    float *values = rows_of(engine, head->buffer);
    if (h->plain_norm && head->buffer != BUFFER_NONE)
        compute_rms_norm(engine->compute, values, values, NULL, engine->rows * head->heads, head->size, h->epsilon);
}

static void turn(struct engine *engine, const struct step_heads *h, const struct step_head *head)
{
    if (h->turns && head->buffer != BUFFER_NONE)
        compute_rope(engine->compute, h->layout, rows_of(engine, head->buffer) + head->turned, engine->rows,
                     (size_t)head->heads * head->size, head->heads, head->size, h->rotary,
                     engine->scratch.rope[h->local]);
}

static void sharpen(struct engine *engine, const struct step_head *head)
{
    const struct model_parameters *p = model_parameters(engine->model);
    size_t width = (size_t)head->heads * head->size;
    for (size_t r = 0; r < engine->rows; r++) {
        float *query = rows_of(engine, head->buffer) + r * width;
        compute_scale(engine->compute, query, query, query_sharpness(p, engine->scratch.positions[r]), width);
    }
}

static void store_heads(struct engine *engine, const struct step *step)
{
    const struct step_heads *h = &step->heads;
    const struct scratch *s = &engine->scratch;
    for (uint32_t i = 0; i < engine->span_count; i++) {
        const struct span *span = &s->spans[i];
        size_t keys = (size_t)span->first_row * h->key.heads * h->key.size;
        size_t values = (size_t)span->first_row * h->key.heads * h->value_size;
        kv_cache_write(&engine->kv, (uint32_t)step->layer, span->sequence, s->positions[span->first_row], span->rows,
                       rows_of(engine, h->key.buffer) + keys,
                       h->value == BUFFER_NONE ? NULL : rows_of(engine, h->value) + values);
    }
}

hypura_status run_heads(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_heads *h = &step->heads;
    size_t value_width = (size_t)h->key.heads * h->value_size;
    if (h->values_are_keys)
        memcpy(rows_of(engine, h->value), rows_of(engine, h->key.buffer), engine->rows * value_width * sizeof(float));
    if (h->raw != BUFFER_NONE)
        take_queries(engine, h);
    for (int last = 0; last < 2; last++) {
        if (last == !h->turns_first) {
            turn(engine, h, &h->query);
            turn(engine, h, &h->key);
            continue;
        }
        TRY(norm_heads(engine, h, &h->query, held, error));
        TRY(norm_heads(engine, h, &h->key, held, error));
        if (h->value_norm && h->value != BUFFER_NONE)
            compute_rms_norm(engine->compute, rows_of(engine, h->value), rows_of(engine, h->value), NULL,
                             engine->rows * h->key.heads, h->value_size, h->epsilon);
    }
    norm_plainly(engine, h, &h->query);
    norm_plainly(engine, h, &h->key);
    if (h->sharpened)
        sharpen(engine, &h->query);
    if (h->stores)
        store_heads(engine, step);
    return HYPURA_OK;
}

/* ---- attention -----------------------------------------------------------------------------------------------------
 */

hypura_status run_attend(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_attend *a = &step->attend;
    struct scratch *s = &engine->scratch;
    struct attention attention = kv_cache_attention(&engine->kv, a->source);
    TRY(hold_vector(engine, held, a->sinks, &attention.sinks, error));
    for (uint32_t i = 0; i < engine->span_count; i++)
        s->attention[i] =
            kv_cache_sequence(&engine->kv, a->source, s->spans[i].sequence, s->spans[i].first_row, s->spans[i].rows);
    attention.query = rows_of(engine, a->query);
    attention.output = rows_of(engine, a->out);
    attention.positions = s->positions;
    attention.heads = a->heads;
    attention.scale = a->scale;
    attention.soft_cap = a->soft_cap;
    attention.window = a->window;
    attention.chunk = a->chunk;
    attention.bidirectional = a->bidirectional;
    attention.sequences = s->attention;
    attention.sequence_count = engine->span_count;
    compute_attention(engine->compute, &attention);
    return HYPURA_OK;
}

/* ---- in the latent space -------------------------------------------------------------------------------------------
 */

/* One product per head, of rows of [rows][heads]: with the matrices of all heads one after another in "all". */
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

/* Some rows of one sequence. */
static void attend_part(struct engine *engine, const struct step *step, const struct span *span, uint32_t first,
                        uint32_t rows, const struct matrix *key_matrix, const struct matrix *value_matrix)
{
    const struct step_attend_latent *a = &step->attend_latent;
    struct scratch *s = &engine->scratch;
    size_t heads = a->heads, size = (size_t)a->plain + a->rotary, width = (size_t)a->rank + a->rotary;
    const float *query = rows_of(engine, a->query) + first * heads * size;
    multiply_heads(engine, key_matrix, heads, rows, query, a->plain, size, s->latent_query, width);
    for (size_t h = 0; h < rows * heads; h++)
        memcpy(s->latent_query + h * width + a->rank, query + h * size + a->plain, a->rotary * sizeof *query);
    struct attention_sequence sequence = kv_cache_sequence(&engine->kv, (uint32_t)step->layer, span->sequence, 0, rows);
    struct attention attention = kv_cache_attention(&engine->kv, (uint32_t)step->layer);
    attention.query = s->latent_query;
    attention.output = s->latent_attended;
    attention.positions = s->positions + first;
    attention.heads = heads;
    attention.scale = a->scale;
    attention.sequences = &sequence;
    attention.sequence_count = 1;
    compute_attention(engine->compute, &attention);
    multiply_heads(engine, value_matrix, heads, rows, s->latent_attended, a->rank, a->rank,
                   rows_of(engine, a->out) + first * heads * a->value_size, a->value_size);
}

hypura_status run_attend_latent(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_attend_latent *a = &step->attend_latent;
    struct matrix key_matrix, value_matrix;
    TRY(hold_matrix(engine, held, a->key_matrix, &key_matrix, error));
    TRY(hold_matrix(engine, held, a->value_matrix, &value_matrix, error));
    for (uint32_t i = 0; i < engine->span_count; i++) {
        const struct span *span = &engine->scratch.spans[i];
        for (uint32_t done = 0, rows; done < span->rows; done += rows) {
            rows = MIN(span->rows - done, engine->geometry.latent_rows);
            attend_part(engine, step, span, span->first_row + done, rows, &key_matrix, &value_matrix);
        }
    }
    return HYPURA_OK;
}

hypura_status run_spread(struct engine *engine, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_spread *s = &step->spread;
    const float *from = rows_of(engine, s->in), *latent = rows_of(engine, s->latents) + s->rank;
    float *key = rows_of(engine, s->key), *value = rows_of(engine, s->value);
    (void)held, (void)error;
    for (size_t r = 0; r < engine->rows; r++, latent += s->rank + s->rotary)
        for (size_t h = 0; h < s->heads; h++) {
            memcpy(key, from, s->plain * sizeof *key);
            memcpy(key + s->plain, latent, s->rotary * sizeof *key);
            memcpy(value, from + s->plain, s->value_size * sizeof *value);
            key += s->plain + s->rotary;
            value += s->value_size;
            from += s->plain + s->value_size;
        }
    return HYPURA_OK;
}
