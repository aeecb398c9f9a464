/* Attention: prepares and stores heads, and attends to the rows of the KV cache. */
#include "engine/cpu/execute.h"

#include <string.h>

/* ---- heads ---------------------------------------------------------------------------------------------------------
 */

/* Takes queries out of rows in which each head's query precedes its gate. */
static void take_queries(struct batch *batch, const struct step_heads *h)
{
    const float *raw = rows_of(batch, h->raw);
    float *query = rows_of(batch, h->query.buffer);
    size_t size = h->query.size;
    for (size_t head = 0; head < batch->rows * h->query.heads; head++)
        memcpy(query + head * size, raw + 2 * head * size, size * sizeof *query);
}

static void layer_norm(struct batch *batch, float *values, const float *weight, size_t width, float epsilon)
{
    compute_layer_norm(batch->compute, values, values, weight, NULL, 1, width, epsilon);
}

static void rms_norm(struct batch *batch, float *values, const float *weight, size_t width, float epsilon)
{
    compute_rms_norm(batch->compute, values, values, weight, 1, width, epsilon);
}

static hypura_status norm_heads(struct batch *batch, const struct step_heads *h, const struct step_head *head,
                                struct held *held, hypura_error *error)
{
    float *values = rows_of(batch, head->buffer);
    size_t heads = batch->rows * head->heads, width = head->norm_width;
    const float *weight;
    if (head->buffer == BUFFER_NONE || head->norm == NO_UNIT)
        return HYPURA_OK;
    TRY(hold_vector(batch, held, head->norm, &weight, error));
    if (head->norm_each) {
        for (size_t i = 0; i < heads; i++, values += width)
            (h->centred ? layer_norm : rms_norm)(batch, values, weight + i % head->heads * width, width, h->epsilon);
        return HYPURA_OK;
    }
    if (head->normed < head->size)
        for (size_t i = 0; i < heads; i++, values += head->size)
            rms_norm(batch, values, weight, head->normed, h->epsilon);
    else if (h->centred)
        compute_layer_norm(batch->compute, values, values, weight, NULL, heads * head->size / width, width, h->epsilon);
    else
        compute_rms_norm(batch->compute, values, values, weight, heads * head->size / width, width, h->epsilon);
    return HYPURA_OK;
}

static void norm_plainly(struct batch *batch, const struct step_heads *h, const struct step_head *head)
{
    float *values = rows_of(batch, head->buffer);
    if (h->plain_norm && head->buffer != BUFFER_NONE)
        compute_rms_norm(batch->compute, values, values, NULL, batch->rows * head->heads, head->size, h->epsilon);
}

static void turn(struct batch *batch, const struct step_heads *h, const struct step_head *head)
{
    if (h->turns && head->buffer != BUFFER_NONE)
        (h->back ? compute_rope_back : compute_rope)(
            batch->compute, h->layout, rows_of(batch, head->buffer) + head->turned, batch->rows,
            (size_t)head->heads * head->size, head->heads, head->size, h->rotary, batch->scratch.rope[h->local]);
}

static void clamp(struct batch *batch, const struct step_heads *h)
{
    size_t sizes[] = {(size_t)h->query.heads * h->query.size, (size_t)h->key.heads * h->key.size,
                      (size_t)h->key.heads * h->value_size};
    enum step_buffer buffers[] = {h->query.buffer, h->key.buffer, h->value};
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        if (buffers[i] != BUFFER_NONE)
            compute_clamp(batch->compute, rows_of(batch, buffers[i]), batch->rows * sizes[i], h->clamp);
}

static void sharpen(struct batch *batch, const struct step_head *head)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    size_t width = (size_t)head->heads * head->size;
    for (size_t r = 0; r < batch->rows; r++) {
        float *query = rows_of(batch, head->buffer) + r * width;
        compute_scale(batch->compute, query, query, query_sharpness(p, batch->scratch.positions[r]), width);
    }
}

/* Fewer elements than this are not worth a parallel section. */
#define SHARED_ELEMENTS ((size_t)32 << 10)

struct storing {
    struct batch *batch;
    const struct step *step;
    const struct span *span;
};

static void store_rows(void *context, size_t first, size_t count, size_t worker)
{
    const struct storing *storing = context;
    struct batch *batch = storing->batch;
    const struct step_heads *h = &storing->step->heads;
    size_t row = storing->span->first_row + first;
    (void)worker;
    kv_cache_write(&batch->kv, (uint32_t)storing->step->layer, storing->span->sequence, batch->scratch.positions[row],
                   (uint32_t)count, rows_of(batch, h->key.buffer) + row * h->key.heads * h->key.size,
                   h->value == BUFFER_NONE ? NULL : rows_of(batch, h->value) + row * h->key.heads * h->value_size);
}

static void store_heads(struct batch *batch, const struct step *step)
{
    const struct step_heads *h = &step->heads;
    const struct scratch *s = &batch->scratch;
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &s->spans[i];
        struct storing storing = {batch, step, span};
        if (h->plane)
            kv_cache_write_plane(&batch->kv, (uint32_t)step->layer, h->plane, span->sequence,
                                 s->positions[span->first_row], span->rows,
                                 rows_of(batch, h->key.buffer) + (size_t)span->first_row * h->key.heads * h->key.size);
        else if ((size_t)span->rows * h->key.heads * (h->key.size + h->value_size) < SHARED_ELEMENTS)
            store_rows(&storing, 0, span->rows, 0);
        else
            thread_pool_run_shares(compute_pool(batch->compute), store_rows, &storing, span->rows);
    }
}

hypura_status run_heads(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_heads *h = &step->heads;
    size_t value_width = (size_t)h->key.heads * h->value_size;
    if (h->values_are_keys)
        memcpy(rows_of(batch, h->value), rows_of(batch, h->key.buffer), batch->rows * value_width * sizeof(float));
    if (h->raw != BUFFER_NONE)
        take_queries(batch, h);
    if (h->clamp != 0.0f)
        clamp(batch, h);
    for (int last = 0; last < 2; last++) {
        if (last == !h->turns_first) {
            turn(batch, h, &h->query);
            turn(batch, h, &h->key);
            continue;
        }
        TRY(norm_heads(batch, h, &h->query, held, error));
        TRY(norm_heads(batch, h, &h->key, held, error));
        if (h->value_norm && h->value != BUFFER_NONE)
            compute_rms_norm(batch->compute, rows_of(batch, h->value), rows_of(batch, h->value), NULL,
                             batch->rows * h->key.heads, h->value_size, h->epsilon);
    }
    norm_plainly(batch, h, &h->query);
    norm_plainly(batch, h, &h->key);
    if (h->sharpened)
        sharpen(batch, &h->query);
    if (h->stores)
        store_heads(batch, step);
    return HYPURA_OK;
}

/* ---- attention -----------------------------------------------------------------------------------------------------
 */

/* The choice of a layer with compressed rows: the window, and the compressed rows before it. */
static const struct attention_choice *compressed_choice(struct batch *batch, const struct step_attend *a,
                                                        struct attention_choice *out)
{
    const bool chosen = a->chosen.buffer != BUFFER_NONE;
    *out = (struct attention_choice){.words = chosen ? (const uint32_t *)(const void *)rows_of(batch, a->chosen.buffer)
                                                     : NULL,
                                     .stride = chosen ? step_choice_words(&a->chosen) : 0,
                                     .sets = 1,
                                     .most = a->chosen.most,
                                     .block = 1,
                                     .ring = (uint32_t)batch->kv.layers[a->source].ring,
                                     .window = a->window,
                                     .every = a->compressed};
    return out;
}

hypura_status run_attend(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_attend *a = &step->attend;
    struct scratch *s = &batch->scratch;
    struct attention attention = kv_cache_attention(&batch->kv, a->source);
    TRY(hold_vector(batch, held, a->sinks, &attention.sinks, error));
    for (uint32_t i = 0; i < batch->span_count; i++)
        s->attention[i] =
            kv_cache_sequence(&batch->kv, a->source, s->spans[i].sequence, s->spans[i].first_row, s->spans[i].rows);
    attention.query = rows_of(batch, a->query);
    attention.output = rows_of(batch, a->out);
    attention.positions = s->positions;
    attention.heads = a->heads;
    attention.scale = a->scale;
    attention.soft_cap = a->soft_cap;
    attention.window = a->window;
    attention.chunk = a->chunk;
    attention.around = a->around;
    attention.alibi = a->alibi;
    attention.bidirectional = a->bidirectional;
    attention.sequences = s->attention;
    attention.sequence_count = batch->span_count;
    if (a->chosen.buffer == BUFFER_NONE && !a->compressed) {
        compute_attention(batch->compute, &attention);
        return HYPURA_OK;
    }
    attention.sequence_count = 1;
    for (uint32_t i = 0; i < batch->span_count; i++, attention.sequences++) {
        struct attention_choice choice;
        attention.choice =
            a->compressed ? compressed_choice(batch, a, &choice) : choice_of(batch, &a->chosen, &s->spans[i], &choice);
        compute_attention(batch->compute, &attention);
    }
    return HYPURA_OK;
}

/* ---- in the latent space -------------------------------------------------------------------------------------------
 */

/* One product per head, with rows of [rows][heads]. "all" holds the matrices of all heads, one after another. */
static void multiply_heads(struct batch *batch, unit_number unit, const struct matrix *all, size_t heads, uint32_t rows,
                           const float *values, size_t columns, size_t stride, float *out, size_t out_stride)
{
    struct scratch *s = &batch->scratch;
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
        compute_matmul(batch->compute, jobs, count);
        for (size_t i = 0; i < count; i++)
            watch_inputs(batch, &model_unit(batch->open->model, unit)->slices[0], (uint32_t)(first + i), &jobs[i]);
    }
}

/* Attention for some rows of one sequence. */
static void attend_part(struct batch *batch, const struct step *step, const struct span *span, uint32_t first,
                        uint32_t rows, const struct matrix *key_matrix, const struct matrix *value_matrix,
                        const float *sinks)
{
    const struct step_attend_latent *a = &step->attend_latent;
    struct scratch *s = &batch->scratch;
    size_t heads = a->heads, size = (size_t)a->plain + a->rotary, width = (size_t)a->rank + a->rotary;
    const float *query = rows_of(batch, a->query) + first * heads * size;
    multiply_heads(batch, a->key_matrix, key_matrix, heads, rows, query, a->plain, size, s->latent_query, width);
    for (size_t h = 0; h < rows * heads; h++)
        memcpy(s->latent_query + h * width + a->rank, query + h * size + a->plain, a->rotary * sizeof *query);
    struct attention_sequence sequence = kv_cache_sequence(&batch->kv, (uint32_t)step->layer, span->sequence, 0, rows);
    struct attention attention = kv_cache_attention(&batch->kv, (uint32_t)step->layer);
    attention.query = s->latent_query;
    attention.output = s->latent_attended;
    attention.positions = s->positions + first;
    attention.heads = heads;
    attention.scale = a->scale;
    attention.sinks = sinks;
    attention.sequences = &sequence;
    struct attention_choice choice;
    attention.choice = choice_of(batch, &a->chosen, &(struct span){span->sequence, first, rows}, &choice);
    if (attention.choice)
        choice.words += first * choice.stride;
    attention.sequence_count = 1;
    compute_attention(batch->compute, &attention);
    multiply_heads(batch, a->value_matrix, value_matrix, heads, rows, s->latent_attended, a->rank, a->rank,
                   rows_of(batch, a->out) + first * heads * a->value_size, a->value_size);
}

hypura_status run_attend_latent(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_attend_latent *a = &step->attend_latent;
    struct matrix key_matrix, value_matrix;
    const float *sinks;
    TRY(hold_matrix(batch, held, a->key_matrix, &key_matrix, error));
    TRY(hold_matrix(batch, held, a->value_matrix, &value_matrix, error));
    TRY(hold_vector(batch, held, a->sinks, &sinks, error));
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct span *span = &batch->scratch.spans[i];
        for (uint32_t done = 0, rows; done < span->rows; done += rows) {
            rows = MIN(span->rows - done, batch->open->geometry.latent_rows);
            attend_part(batch, step, span, span->first_row + done, rows, &key_matrix, &value_matrix, sinks);
        }
    }
    return HYPURA_OK;
}

hypura_status run_spread(struct batch *batch, const struct step *step, struct held *held, hypura_error *error)
{
    const struct step_spread *s = &step->spread;
    const float *from = rows_of(batch, s->in), *latent = rows_of(batch, s->latents) + s->rank;
    float *key = rows_of(batch, s->key), *value = rows_of(batch, s->value);
    (void)held, (void)error;
    for (size_t r = 0; r < batch->rows; r++, latent += s->rank + s->rotary)
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
