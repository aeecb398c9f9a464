/* Heads, attention and latent attention, as commands.
 *
 * In latent attention, each head has two matrices: one for its queries, and one for its sums. Products with these run
 * as those of a mixture in which every token chose all experts: head h is expert h, in slot h. */
#include "engine/gpu/pass.h"

/* Queries against the cache's rows are as wide as these rows (576 floats in DeepSeek V3). So only this many heads'
 * queries exist at a time, and a batch is cut into parts. */
#define HEADS_AT_ONCE 16384u
#define LEAST_ROWS (2 * (GPU_VECTOR_TOKENS + 1))

/* Pieces of sequences in a part; a few rows that are left may add one each. */
#define MOST_PIECES (GPU_MAX_SEQUENCES - GPU_VECTOR_TOKENS)

/* Heads, counted over tokens, whose attention is cut into spans at the same time. */
#define SPAN_HEADS 256u

uint32_t pass_latent_rows(const struct geometry *g, uint32_t chunk)
{
    return g->heads ? MIN(chunk, (uint32_t)MAX(HEADS_AT_ONCE / g->heads, (size_t)LEAST_ROWS)) : 0;
}

uint64_t pass_latent_attention_bytes(const struct geometry *g, uint32_t chunk, uint32_t positions)
{
    uint32_t heads = (uint32_t)g->heads, rows = heads ? MIN(chunk, MAX(SPAN_HEADS / heads, 1u)) : 0;
    return gpu_attention_scratch_bytes(rows, heads, model_parameters(g->model)->kv_rank, positions);
}

hypura_status pass_open_latent(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const uint32_t most = pass_latent_rows(&batch->open->geometry, batch->open->plan->chunk);
    size_t rows = most + LATENT_MORE_ROWS, heads = batch->open->geometry.heads;
    uint32_t *ids = NULL;
    gpu_ticket arrived;
    if (most == 0)
        return HYPURA_OK;
    TRY(ALLOCATE(&ids, rows * heads, "table of heads", error));
    for (size_t i = 0; i < rows * heads; i++)
        ids[i] = (uint32_t)(i % heads);
    hypura_status status = gpu_upload(pass->gpu, pass->latent.heads, ids, rows * heads * sizeof *ids, &arrived, error);
    memory_free(ids);
    return status ? status : gpu_upload_wait(pass->gpu, arrived, error);
}

/* ---- heads ---------------------------------------------------------------------------------------------------------
 */

/* As of OLMoE. */
static bool norms_whole_rows(const struct step_head *head)
{
    return head->buffer != BUFFER_NONE && head->norm != NO_UNIT && head->norm_width > head->size;
}

/* Records a norm over all heads as one row. false: the step has none. */
static bool norm_whole_rows(struct batch *batch, const struct step_heads *h, const struct step_head *head)
{
    struct gpu_pass *pass = batch->pass;
    if (!norms_whole_rows(head))
        return false;
    struct gpu_range rows = pass->rows[head->buffer];
    gpu_rms_norm(pass->gpu, rows, rows, pass_vector(batch, head->norm), (struct gpu_range){0}, (uint32_t)batch->rows,
                 head->norm_width, h->epsilon);
    return true;
}

static void clamp_heads(struct batch *batch, const struct step_heads *h)
{
    struct gpu_pass *pass = batch->pass;
    const uint64_t sizes[] = {(uint64_t)h->query.heads * h->query.size, (uint64_t)h->key.heads * h->key.size,
                              (uint64_t)h->key.heads * h->value_size};
    const enum step_buffer buffers[] = {h->query.buffer, h->key.buffer, h->value};
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        if (buffers[i] != BUFFER_NONE)
            gpu_clamp(pass->gpu, pass->rows[buffers[i]], batch->rows * sizes[i], h->clamp);
    gpu_barrier(pass->gpu);
}

static struct gpu_heads heads_of(const struct batch *batch, const struct step *step)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_heads *h = &step->heads;
    const struct kv_layer *kv = &batch->kv.layers[step->layer];
    const struct kv_plane *plane = h->plane ? &kv->planes[h->plane - 1] : NULL;
    const struct step_head *query = &h->query, *key = &h->key;
    const bool gated = h->raw != BUFFER_NONE;
    /* Keys that are not stored are written in place, as queries are. */
    if (query->buffer == BUFFER_NONE && !h->stores) {
        query = &h->key;
        key = &h->query;
    }
    const struct step_head *first = query->buffer != BUFFER_NONE ? query : key;
    const uint32_t width = query->heads * query->size;
    return (struct gpu_heads){.query = pass->rows[gated ? h->raw : query->buffer],
                              .key = pass->rows[key->buffer],
                              .value = h->value == BUFFER_NONE
                                           ? (struct gpu_range){0}
                                           : pass->rows[h->values_are_keys ? key->buffer : h->value],
                              .query_norm = pass_vector(batch, norms_whole_rows(query) ? NO_UNIT : query->norm),
                              .key_norm = pass_vector(batch, norms_whole_rows(key) ? NO_UNIT : key->norm),
                              .query_scales = h->sharpened ? pass->scales : (struct gpu_range){0},
                              .table = h->turns ? pass->rope[h->local] : (struct gpu_range){0},
                              .out = pass->rows[query->buffer],
                              .cache = {pass->caches[step->layer], 0},
                              .query_stride = gated ? 2 * width : width,
                              .query_head_stride = gated ? 2 * query->size : query->size,
                              .key_stride = key->heads * key->size,
                              .value_stride = key->heads * h->value_size,
                              .value_norm = h->value_norm,
                              .norm_after_rope = h->turns_first,
                              .centred = h->centred,
                              .norm_each = query->norm_each || key->norm_each,
                              .back = h->back,
                              .plain_norm = h->plain_norm,
                              .values_in_keys = h->stores && h->value == BUFFER_NONE,
                              .epsilon = h->epsilon,
                              .layout = h->layout,
                              .rotary = h->rotary,
                              .normed = first->normed < first->size ? first->normed : 0,
                              .turned_from = first->turned,
                              .ring = plane || !kv->every ? 0 : (uint32_t)kv->ring,
                              .rows = (uint32_t)batch->rows,
                              .heads = query->heads,
                              .kv_heads = key->heads,
                              .key_size = first->size,
                              .value_size = plane ? first->size : h->value_size,
                              .type = plane ? kv_plane_type(batch->kv.type) : batch->kv.type,
                              .key_position_bytes = (uint32_t)(plane ? plane->row_bytes : kv->key_position_bytes),
                              .value_position_bytes = (uint32_t)(plane ? plane->row_bytes : kv->value_position_bytes),
                              .sequences = plane ? pass_find_plane(batch, (uint32_t)step->layer, h->plane)
                                                 : pass_find_sequences(batch, (uint32_t)step->layer),
                              .sequence_count = batch->span_count};
}

hypura_status pass_record_heads(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct step_heads *h = &step->heads;
    (void)error;
    if (h->clamp != 0.0f)
        clamp_heads(batch, h);
    const bool whole_query = norm_whole_rows(batch, h, &h->query), whole_key = norm_whole_rows(batch, h, &h->key);
    if (whole_query || whole_key)
        gpu_barrier(batch->pass->gpu);
    const struct gpu_heads heads = heads_of(batch, step);
    gpu_heads(batch->pass->gpu, &heads);
    return HYPURA_OK;
}

hypura_status pass_record_spread(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_spread *s = &step->spread;
    (void)error;
    gpu_spread(pass->gpu, &(struct gpu_spread){.projected = pass->rows[s->in],
                                               .latents = pass->rows[s->latents],
                                               .key = pass->rows[s->key],
                                               .value = pass->rows[s->value],
                                               .rows = (uint32_t)batch->rows,
                                               .heads = s->heads,
                                               .key_size = s->plain + s->rotary,
                                               .value_size = s->value_size,
                                               .rotary = s->rotary,
                                               .latent_size = s->rank + s->rotary});
    return HYPURA_OK;
}

/* ---- attention -----------------------------------------------------------------------------------------------------
 */

static struct gpu_attention attention_of(const struct batch *batch, const struct step *step)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step_attend *a = &step->attend;
    const struct kv_layer *kv = &batch->kv.layers[a->source];
    return (struct gpu_attention){.query = pass->rows[a->query],
                                  .out = pass->rows[a->out],
                                  .cache = {pass->caches[a->source], 0},
                                  .sinks = pass_vector(batch, a->sinks),
                                  .scratch = pass->attention,
                                  .scratch_bytes = pass->attention_bytes,
                                  .rows = (uint32_t)batch->rows,
                                  .heads = a->heads,
                                  .kv_heads = a->kv_heads,
                                  .key_size = a->key_size,
                                  .value_size = a->value_size,
                                  .type = batch->kv.type,
                                  .key_position_bytes = (uint32_t)kv->key_position_bytes,
                                  .value_position_bytes = (uint32_t)kv->value_position_bytes,
                                  .scale = a->scale,
                                  .soft_cap = a->soft_cap,
                                  .window = a->window,
                                  .chunk = a->chunk,
                                  .bidirectional = a->bidirectional,
                                  .sequences = pass_find_sequences(batch, a->source),
                                  .sequence_count = batch->span_count};
}

hypura_status pass_record_attend(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_attend *a = &step->attend;
    struct gpu_attention attention = attention_of(batch, step);
    (void)error;
    if (a->compressed)
        pass_attend_compressed(batch, a, &attention);
    if (a->compressed || pass_attend_chosen(batch, &a->chosen, 0, &attention))
        return HYPURA_OK;
    attention.halves = pass_may_give_halves(batch, step, a->out) && gpu_attention_makes_halves(pass->gpu, &attention);
    gpu_attention(pass->gpu, &attention);
    if (attention.halves)
        pass->state[a->out] = ROWS_HALVES;
    return HYPURA_OK;
}

/* Whether a later step of the layer reads what a step left in a buffer. */
static bool is_read_after(const struct batch *batch, const struct step *step, enum step_buffer buffer)
{
    const struct step_list list = pass_steps(batch, (uint32_t)step->layer);
    for (const struct step *later = step + 1; later < list.steps + list.count; later++) {
        if (later->reads >> buffer & 1)
            return true;
        if (later->writes >> buffer & 1)
            return false;
    }
    return false;
}

bool pass_join_heads(const struct batch *batch, const struct step *heads, const struct step *attend,
                     struct gpu_heads *made, struct gpu_attention *attention)
{
    const struct step_heads *h = &heads->heads;
    const struct step_attend *a = &attend->attend;
    if (heads->kind != STEP_HEADS || attend->kind != STEP_ATTEND || attend->layer != heads->layer ||
        (int32_t)a->source != heads->layer || a->query != h->query.buffer || !h->stores || h->plane ||
        h->clamp != 0.0f || norms_whole_rows(&h->query) || norms_whole_rows(&h->key) || a->compressed ||
        a->chosen.buffer != BUFFER_NONE || is_read_after(batch, attend, a->query))
        return false;
    *made = heads_of(batch, heads);
    *attention = attention_of(batch, attend);
    attention->makes = made;
    return gpu_attention_makes_heads(batch->pass->gpu, made, attention);
}

/* ---- on latents ----------------------------------------------------------------------------------------------------
 */

/* The product of rows of all heads, [rows][heads], each with its head's matrix; the caller adds rows and results. */
static struct gpu_expert_matmul product_of_heads(const struct batch *batch, uint32_t heads, unit_number unit,
                                                 uint32_t rows)
{
    const struct gpu_pass *pass = batch->pass;
    struct gpu_matrix matrix = pass_matrix(batch, unit);
    matrix.rows /= heads;
    return (struct gpu_expert_matmul){.weights = matrix,
                                      .slot_stride = matrix.rows * matrix.row_bytes,
                                      .slots = pass->latent.heads,
                                      .ids = pass->latent.heads,
                                      .groups = pass->latent.groups,
                                      .experts = heads,
                                      .used = heads,
                                      .tokens = rows,
                                      .per_choice = true};
}

/* Copies the rotary part of queries next to their products with the key matrices, and rotates it if that is not done
 * yet. */
static void hand_turned(struct batch *batch, const struct step_attend_latent *a, uint32_t first, uint32_t rows,
                        struct gpu_range query)
{
    struct gpu_pass *pass = batch->pass;
    gpu_heads(pass->gpu, &(struct gpu_heads){.query = range_at(query, a->plain),
                                             .query_stride = a->heads * (a->plain + a->rotary),
                                             .query_head_stride = a->plain + a->rotary,
                                             .out = range_at(pass->latent.query, a->rank),
                                             .out_head_stride = a->rank + a->rotary,
                                             .table = a->turns ? range_at(pass->rope[0], (uint64_t)first * a->rotary)
                                                               : (struct gpu_range){0},
                                             .layout = a->layout,
                                             .rotary = a->rotary,
                                             .epsilon = model_parameters(batch->open->model)->norm_epsilon,
                                             .rows = rows,
                                             .heads = a->heads,
                                             .key_size = a->rotary});
}

/* Attention for some rows of the batch. */
static void attend_part(struct batch *batch, const struct step *step, uint32_t first, uint32_t rows,
                        const struct gpu_sequence *sequences, uint32_t count)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_attend_latent *a = &step->attend_latent;
    const struct kv_layer *kv = &batch->kv.layers[step->layer];
    uint32_t heads = a->heads, size = a->plain + a->rotary, width = a->rank + a->rotary;
    struct gpu_range query = range_at(pass->rows[a->query], (uint64_t)first * heads * size);
    struct gpu_expert_matmul queries = product_of_heads(batch, heads, a->key_matrix, rows);
    struct gpu_expert_matmul values = product_of_heads(batch, heads, a->value_matrix, rows);
    if (first > 0) /* this part overwrites what the previous one reads */
        gpu_barrier(pass->gpu);
    if (rows > GPU_VECTOR_TOKENS && pass->latent.grouped != rows) {
        gpu_expert_group(pass->gpu, pass->latent.heads, pass->latent.groups, heads, heads, rows);
        gpu_barrier(pass->gpu);
        pass->latent.grouped = rows;
    }
    hand_turned(batch, a, first, rows, query);
    queries.in = query;
    queries.in_stride = size;
    queries.out = pass->latent.query;
    queries.out_stride = width;
    gpu_expert_matmul(pass->gpu, &queries, 1);
    gpu_barrier(pass->gpu);

    struct gpu_attention attention = {.query = pass->latent.query,
                                      .out = pass->latent.attended,
                                      .cache = {pass->caches[step->layer], 0},
                                      .scratch = pass->attention,
                                      .scratch_bytes = pass->attention_bytes,
                                      .rows = rows,
                                      .heads = heads,
                                      .kv_heads = 1,
                                      .key_size = width,
                                      .value_size = a->rank,
                                      .type = batch->kv.type,
                                      .key_position_bytes = (uint32_t)kv->key_position_bytes,
                                      .value_position_bytes = (uint32_t)kv->value_position_bytes,
                                      .sinks = pass_vector(batch, a->sinks),
                                      .scale = a->scale,
                                      .sequences = sequences,
                                      .sequence_count = count};
    if (!pass_attend_chosen(batch, &a->chosen, first, &attention)) {
        attention.halves = gpu_takes_halves(pass->gpu, &values.weights, values.slot_stride, rows) &&
                           gpu_attention_makes_halves(pass->gpu, &attention);
        gpu_attention(pass->gpu, &attention);
    }
    gpu_barrier(pass->gpu);
    if (attention.halves)
        values.in_halves = pass->latent.attended;
    else
        values.in = pass->latent.attended;
    values.out = range_at(pass->rows[a->out], (uint64_t)first * heads * a->value_size);
    gpu_expert_matmul(pass->gpu, &values, 1);
}

/* Rows of the next piece of a sequence of so many rows, of which "rest" are left. Few rows are passed one by one, since
 * the states of all heads' spans take much memory. */
static uint32_t piece_rows(uint32_t rows, uint32_t rest, uint32_t most)
{
    if (rows <= GPU_VECTOR_TOKENS)
        return 1;
    return rest <= most ? rest : rest - most > GPU_VECTOR_TOKENS ? most : most - GPU_VECTOR_TOKENS;
}

/* Cuts the batch into parts, as long as possible, so that their tiles fill a device. Each part, and each piece of a
 * prompt, has enough rows to use the same kernels as the whole, so cutting changes no bit. */
hypura_status pass_record_attend_latent(struct batch *batch, const struct step *step, hypura_error *error)
{
    const struct gpu_sequence *sequences = pass_find_sequences(batch, (uint32_t)step->layer);
    const uint32_t most = batch->pass->latent.rows;
    struct gpu_sequence part[GPU_MAX_SEQUENCES];
    uint32_t count = 0, first = 0, rows = 0, left = (uint32_t)batch->rows;
    (void)error;
    for (uint32_t i = 0; i < batch->span_count; i++) {
        const struct gpu_sequence *whole = &sequences[i];
        for (uint32_t done = 0, now; done < whole->rows; done += now, left -= now) {
            now = piece_rows(whole->rows, whole->rows - done, most);
            if ((rows + now > most || count >= MOST_PIECES) && rows > GPU_VECTOR_TOKENS && left > GPU_VECTOR_TOKENS) {
                attend_part(batch, step, first, rows, part, count);
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
    attend_part(batch, step, first, rows, part, count);
    return HYPURA_OK;
}
