/* Reads what a sequence keeps out of the caches, and writes it back (engine.h describes it). Rows are ordered by block,
 * then by layer, then by head. In each layer, compressed rows and further planes follow keys and values. */
#include "engine/gpu/pass.h"

#include <inttypes.h>
#include <string.h>

/* Bytes that move out of the caches (out) or into them (in); with neither, they are only counted. */
struct transfer {
    struct batch *batch;
    const struct kv_cache *kv;
    uint32_t sequence;
    uint8_t *out;
    const uint8_t *in;
    uint64_t bytes; /* so far */
    hypura_error *error;
};

static hypura_status move(struct transfer *t, uint32_t layer, uint64_t offset, uint64_t bytes)
{
    uint64_t at = t->bytes;
    t->bytes += bytes;
    if (bytes == 0 || (!t->out && !t->in))
        return HYPURA_OK;
    if (t->kv->layers[layer].on_gpu)
        return t->out ? gpu_pass_read_cache(t->batch, layer, offset, bytes, t->out + at, t->error)
                      : gpu_pass_write_cache(t->batch, layer, offset, bytes, t->in + at, t->error);
    if (t->out)
        memcpy(t->out + at, t->kv->memory + offset, bytes);
    else
        memcpy(t->kv->memory + offset, t->in + at, bytes);
    return HYPURA_OK;
}

/* The bytes of a row's scales, which a device stores apart: the quants of all rows, then the scales of all rows. */
static size_t scale_bytes(const struct kv_cache *kv, uint32_t layer, size_t row_bytes)
{
    const struct tensor_type_info *info = tensor_type_info(kv->type);
    return kv->layers[layer].on_gpu && info->block_size > 1 ? row_bytes / info->block_bytes * sizeof(uint16_t) : 0;
}

/* Moves adjacent rows of one head, from an index on. */
static hypura_status move_run(struct transfer *t, uint32_t layer, uint64_t region, size_t row_bytes, size_t index,
                              size_t rows)
{
    const size_t scales = scale_bytes(t->kv, layer, row_bytes), quants = row_bytes - scales;
    TRY(move(t, layer, region + index * quants, rows * quants));
    return move(t, layer, region + t->kv->layers[layer].capacity * quants + index * scales, rows * scales);
}

/* Moves rows of all heads. A ring continues at its start, and blocks may lie apart. */
static hypura_status move_heads(struct transfer *t, uint32_t layer, bool values, size_t first, size_t end)
{
    const struct kv_layer *l = &t->kv->layers[layer];
    const size_t row_bytes = values ? l->value_position_bytes : l->key_position_bytes;
    for (size_t head = 0; head < l->heads; head++)
        for (size_t row = first, now; row < end; row += now) {
            const size_t index = row % l->ring;
            const struct kv_run run =
                kv_cache_run(t->kv, layer, t->sequence, values, head, index, MIN(end - row, l->ring - index));
            now = run.rows;
            TRY(move_run(t, layer, run.region, row_bytes, run.index, now));
        }
    return HYPURA_OK;
}

static hypura_status move_positions(struct transfer *t, uint32_t layer, size_t first, size_t end)
{
    const struct kv_layer *l = &t->kv->layers[layer];
    if (l->heads == 0)
        return HYPURA_OK;
    TRY(move_heads(t, layer, false, first, end));
    return l->values_in_keys ? HYPURA_OK : move_heads(t, layer, true, first, end);
}

/* Moves compressed rows, which follow the ring. */
static hypura_status move_compressed(struct transfer *t, uint32_t layer, size_t first, size_t end)
{
    const struct kv_layer *l = &t->kv->layers[layer];
    for (size_t head = 0; head < l->heads && first < end; head++)
        TRY(move_run(t, layer, l->keys + (t->sequence * l->heads + head) * l->key_head_bytes, l->key_position_bytes,
                     l->ring + first, end - first));
    return HYPURA_OK;
}

/* Moves a layer's rows of these positions. A row that covers several positions exists once the last of them does. */
static hypura_status move_block(struct transfer *t, uint32_t layer, uint32_t first, uint32_t end)
{
    const struct kv_layer *l = &t->kv->layers[layer];
    if (!kv_cache_is_ring(t->kv, layer))
        TRY(move_positions(t, layer, first, end));
    if (l->every)
        TRY(move_compressed(t, layer, first / l->every, end / l->every));
    for (size_t i = 0; i < KV_PLANES; i++) {
        const struct kv_plane *p = &l->planes[i];
        if (p->width)
            TRY(move(t, layer, p->offset + (t->sequence * p->rows + first / p->every) * p->row_bytes,
                     (end / p->every - first / p->every) * p->row_bytes));
    }
    return HYPURA_OK;
}

static hypura_status move_rows(struct transfer *t, uint32_t first, uint32_t end)
{
    while (first < end) {
        uint32_t block_end = MIN(end, (uint32_t)align_down(first, PLAN_KV_BLOCK) + PLAN_KV_BLOCK);
        for (uint32_t i = 0; i < t->kv->layer_count; i++)
            TRY(move_block(t, i, first, block_end));
        first = block_end;
    }
    return HYPURA_OK;
}

static hypura_status move_checkpoint(struct transfer *t, uint32_t position)
{
    for (uint32_t i = 0; i < t->kv->layer_count; i++) {
        const struct kv_layer *l = &t->kv->layers[i];
        const uint64_t bytes = l->state_floats * sizeof(float);
        TRY(move(t, i, l->states + (2 * (uint64_t)t->sequence + t->kv->state[t->sequence]) * bytes, bytes));
        if (kv_cache_is_ring(t->kv, i))
            TRY(move_positions(t, i, position - MIN(position, l->window - 1), position));
    }
    return HYPURA_OK;
}

static bool is_encoder(const struct engine *engine)
{
    return model_architecture(engine->open.model)->flags & ARCHITECTURE_ENCODER;
}

uint64_t engine_rows_bytes(const struct engine *engine, uint32_t first, uint32_t end)
{
    struct transfer t = {.kv = &engine->batch.kv};
    if (first >= end || end > t.kv->capacity || is_encoder(engine))
        return 0;
    move_rows(&t, first, end);
    return t.bytes;
}

uint64_t engine_checkpoint_bytes_at(const struct engine *engine, uint32_t position)
{
    struct transfer t = {.kv = &engine->batch.kv};
    if (is_encoder(engine))
        return 0;
    move_checkpoint(&t, position);
    return t.bytes;
}

uint64_t engine_checkpoint_bytes(const struct engine *engine)
{
    return engine_checkpoint_bytes_at(engine, engine->batch.kv.capacity);
}

uint32_t engine_rows_there(const struct engine *engine, uint32_t sequence)
{
    return sequence < engine->batch.kv.sequences ? engine->batch.kv.there[sequence] : 0;
}

bool engine_has_states(const struct engine *engine)
{
    bool any = false;
    for (uint32_t i = 0; i < engine->batch.kv.layer_count; i++)
        any = any || engine->batch.kv.layers[i].state_floats;
    return any;
}

static hypura_status check_sequence(const struct engine *engine, uint32_t sequence, hypura_error *error)
{
    if (is_encoder(engine))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s is an encoder: its data for a text depends on the whole text",
                         model_name(engine->open.model));
    if (sequence >= engine->batch.kv.sequences)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "no sequence %u: there are %u", sequence,
                         engine->batch.kv.sequences);
    if (atomic_load(&engine->batch.lost))
        return error_set(error, HYPURA_ERROR_DEVICE, "the GPU was lost in an earlier request; open the model again");
    return HYPURA_OK;
}

static hypura_status settle(struct batch *batch, hypura_status status, hypura_error *error)
{
    hypura_status settled = gpu_pass_settle_caches(batch, status ? NULL : error);
    status = status ? status : settled;
    if (status == HYPURA_ERROR_DEVICE)
        atomic_store(&batch->lost, true);
    return status;
}

/* Copies the first rows of a block of a pool to another block. */
static void copy_on_device(struct batch *batch, uint32_t layer, bool values, const struct kv_copy *copy)
{
    const struct kv_layer *l = &batch->kv.layers[layer];
    const size_t row_bytes = values ? l->value_position_bytes : l->key_position_bytes;
    const size_t scales = scale_bytes(&batch->kv, layer, row_bytes), quants = row_bytes - scales;
    const uint64_t from = (uint64_t)copy->from * PLAN_KV_BLOCK, to = (uint64_t)copy->to * PLAN_KV_BLOCK;
    for (size_t head = 0; head < l->heads; head++) {
        const uint64_t region = values ? l->values + head * l->value_head_bytes : l->keys + head * l->key_head_bytes;
        const uint64_t after = region + l->capacity * quants;
        gpu_pass_copy_cache(batch, layer, region + from * quants, region + to * quants, copy->rows * quants);
        if (scales)
            gpu_pass_copy_cache(batch, layer, after + from * scales, after + to * scales, copy->rows * scales);
    }
}

hypura_status batch_own_rows(struct batch *batch, uint32_t sequence, uint32_t first, uint32_t end, hypura_error *error)
{
    struct kv_cache *kv = &batch->kv;
    struct kv_copy copy;
    if (!kv_cache_own(kv, sequence, first, end, &copy))
        return error_set(error, HYPURA_ERROR_MEMORY, "all sequences together have room for only %" PRIu64 " positions",
                         kv->room);
    for (uint32_t i = 0; i < kv->layer_count && copy.rows; i++) {
        if (!kv->layers[i].pooled)
            continue;
        copy_on_device(batch, i, false, &copy);
        if (!kv->layers[i].values_in_keys)
            copy_on_device(batch, i, true, &copy);
    }
    return copy.rows ? settle(batch, HYPURA_OK, error) : HYPURA_OK;
}

hypura_status engine_read_rows(struct engine *engine, uint32_t sequence, uint32_t first, uint32_t end, void *out,
                               hypura_error *error)
{
    const struct kv_cache *kv = &engine->batch.kv;
    TRY(check_sequence(engine, sequence, error));
    if (first > end || end > kv->there[sequence])
        return error_set(error, HYPURA_ERROR_ARGUMENT, "cannot read rows of positions %u to %u: the sequence has %u",
                         first, end, kv->there[sequence]);
    struct transfer t = {.batch = &engine->batch, .kv = kv, .sequence = sequence, .out = out, .error = error};
    return settle(&engine->batch, move_rows(&t, first, end), error);
}

hypura_status engine_write_rows(struct engine *engine, uint32_t sequence, uint32_t first, uint32_t end, const void *in,
                                hypura_error *error)
{
    struct kv_cache *kv = &engine->batch.kv;
    TRY(check_sequence(engine, sequence, error));
    if (first > end || end > kv->capacity || first > kv->there[sequence])
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "cannot write rows of positions %u to %u: at most %u are possible, and the sequence has %u",
                         first, end, kv->capacity, kv->there[sequence]);
    engine_truncate(engine, sequence, first);
    const struct span grown = {.sequence = sequence, .rows = end - kv->held[sequence]};
    kv->claimed[sequence] = end;
    hypura_status status = batch_own_rows(&engine->batch, sequence, first, end, error);
    if (!status && !kv_cache_take_room(kv, &grown, 1))
        status = error_set(error, HYPURA_ERROR_MEMORY,
                           "all sequences together have room for only %" PRIu64 " positions", kv->room);
    struct transfer t = {.batch = &engine->batch, .kv = kv, .sequence = sequence, .in = in, .error = error};
    if (!status)
        status = settle(&engine->batch, move_rows(&t, first, end), error);
    kv->claimed[sequence] = 0;
    if (!status)
        kv->there[sequence] = end;
    return status;
}

hypura_status engine_share_rows(struct engine *engine, uint32_t sequence, uint32_t from, uint32_t positions,
                                hypura_error *error)
{
    struct kv_cache *kv = &engine->batch.kv;
    TRY(check_sequence(engine, sequence, error));
    TRY(check_sequence(engine, from, error));
    if (!kv->can_share)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "sequences of %s cannot share rows in place",
                         model_name(engine->open.model));
    if (sequence == from || positions % PLAN_KV_BLOCK || positions > kv->there[from])
        return error_set(
            error, HYPURA_ERROR_ARGUMENT,
            "cannot share %u positions of sequence %u, which has %u, with sequence %u: expected whole blocks of %u",
            positions, from, kv->there[from], sequence, PLAN_KV_BLOCK);
    engine_truncate(engine, sequence, 0);
    kv_cache_share(kv, sequence, from, positions);
    return HYPURA_OK;
}

hypura_status engine_read_checkpoint(struct engine *engine, uint32_t sequence, void *out, hypura_error *error)
{
    TRY(check_sequence(engine, sequence, error));
    struct transfer t = {
        .batch = &engine->batch, .kv = &engine->batch.kv, .sequence = sequence, .out = out, .error = error};
    return settle(&engine->batch, move_checkpoint(&t, t.kv->held[sequence]), error);
}

hypura_status engine_write_checkpoint(struct engine *engine, uint32_t sequence, uint32_t position,
                                      const int32_t *tokens, const void *in, hypura_error *error)
{
    struct kv_cache *kv = &engine->batch.kv;
    TRY(check_sequence(engine, sequence, error));
    int32_t *kept = kv_cache_tokens(kv, sequence);
    if (position > kv->there[sequence])
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "cannot write a checkpoint at position %u: the sequence has %u rows", position,
                         kv->there[sequence]);
    if (position && ((kept && !tokens) || (!in && engine_checkpoint_bytes_at(engine, position))))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%s needs %s to continue at position %u",
                         model_name(engine->open.model), in ? "the tokens" : "a checkpoint", position);
    kv->held[sequence] = kv->reached[sequence] = kv->resumed[sequence] = 0; /* until all of it has arrived */
    if (position) {
        struct transfer t = {.batch = &engine->batch, .kv = kv, .sequence = sequence, .in = in, .error = error};
        TRY(settle(&engine->batch, in ? move_checkpoint(&t, position) : HYPURA_OK, error));
    }
    if (kept && position)
        memcpy(kept, tokens, position * sizeof *tokens);
    kv->held[sequence] = kv->reached[sequence] = kv->resumed[sequence] = position;
    return HYPURA_OK;
}
