/* Operands of commands: where units, buffers and caches are on the device. */
#include "engine/gpu/pass.h"

bool gpu_pass_has(const struct batch *batch, uint32_t layer)
{
    return batch->pass && batch->open->plan->gpu->layers[layer];
}

void pass_choose(struct batch *batch, uint32_t layer)
{
    batch->pass = batch->passes[batch->open->plan->gpu->devices[layer]];
}

struct gpu_pass *pass_with_output(const struct batch *batch)
{
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++)
        if (batch->passes[d] && batch->passes[d]->plan->output)
            return batch->passes[d];
    return NULL;
}

const float *gpu_pass_host_vector(const struct batch *batch, unit_number unit)
{
    const float *vector = NULL;
    for (size_t d = 0; d < COUNT_OF(batch->passes) && !vector; d++)
        vector = batch->passes[d] ? batch->passes[d]->host_vectors[unit] : NULL;
    return vector;
}

struct gpu_range pass_vector(const struct batch *batch, unit_number unit)
{
    return unit == NO_UNIT ? (struct gpu_range){0} : batch->pass->units[unit];
}

struct gpu_matrix pass_matrix(const struct batch *batch, unit_number unit)
{
    const struct gguf_tensor *tensor = model_unit(batch->open->model, unit)->slices[0].tensor;
    struct matrix matrix =
        matrix_at(NULL, tensor->type, tensor->dimensions[0], tensor->dimensions[1] * tensor->dimensions[2]);
    return (struct gpu_matrix){.data = batch->pass->units[unit],
                               .type = matrix.type,
                               .rows = (uint32_t)matrix.rows,
                               .columns = (uint32_t)matrix.columns,
                               .row_bytes = matrix.row_bytes};
}

struct gpu_range range_at(struct gpu_range range, uint64_t floats)
{
    range.offset += floats * sizeof(float);
    return range;
}

/* A buffer's rows as halves, if products read those. */
static struct gpu_range halves_of(const struct gpu_pass *pass, enum step_buffer buffer)
{
    switch (buffer) {
    case BUFFER_NORMED:
        return pass->normed_halves;
    case BUFFER_GATE:
        return pass->inner_halves;
    case BUFFER_ATTENDED: /* instead of floats */
        return pass->rows[BUFFER_ATTENDED];
    default:
        return (struct gpu_range){0};
    }
}

struct gpu_range pass_floats(const struct gpu_pass *pass, enum step_buffer buffer)
{
    return pass->state[buffer] == ROWS_HALVES ? (struct gpu_range){0} : pass->rows[buffer];
}

struct gpu_range pass_halves(const struct gpu_pass *pass, enum step_buffer buffer)
{
    return pass->state[buffer] == ROWS_FLOATS ? (struct gpu_range){0} : halves_of(pass, buffer);
}

bool pass_takes_halves(const struct batch *batch)
{
    return batch->pass->halves && batch->rows > GPU_VECTOR_TOKENS &&
           batch->rows * model_parameters(batch->open->model)->embedding % 8 == 0;
}

/* Where a sequence's part of the table of blocks is, if the layer's cache is a pool. */
static struct gpu_range blocks_of(const struct batch *batch, uint32_t layer, uint32_t sequence)
{
    const struct kv_cache *kv = &batch->kv;
    return kv->layers[layer].pooled ? range_at(batch->pass->blocks, (uint64_t)sequence * kv->blocks)
                                    : (struct gpu_range){0};
}

/* Finds the batch's sequences in a part of a layer's cache. key_bytes, value_bytes: per sequence. */
static const struct gpu_sequence *find_sequences(const struct batch *batch, uint64_t capacity, uint64_t keys,
                                                 uint64_t key_bytes, uint64_t values, uint64_t value_bytes)
{
    const struct scratch *s = &batch->scratch;
    for (uint32_t i = 0; i < batch->span_count; i++)
        s->device_sequences[i] = (struct gpu_sequence){.first_row = s->spans[i].first_row,
                                                       .rows = s->spans[i].rows,
                                                       .first_position = s->positions[s->spans[i].first_row],
                                                       .capacity = (uint32_t)capacity,
                                                       .keys = keys + s->spans[i].sequence * key_bytes,
                                                       .values = values + s->spans[i].sequence * value_bytes};
    return s->device_sequences;
}

const struct gpu_sequence *pass_find_sequences(const struct batch *batch, uint32_t layer)
{
    const struct kv_layer *kv = &batch->kv.layers[layer];
    const uint64_t regions = kv->pooled ? 0 : kv->heads;
    find_sequences(batch, kv->capacity, kv->keys, regions * kv->key_head_bytes, kv->values,
                   regions * kv->value_head_bytes);
    for (uint32_t i = 0; i < batch->span_count; i++)
        batch->scratch.device_sequences[i].blocks = blocks_of(batch, layer, batch->scratch.spans[i].sequence);
    return batch->scratch.device_sequences;
}

const struct gpu_sequence *pass_find_plane(const struct batch *batch, uint32_t layer, uint32_t plane)
{
    const struct kv_plane *p = &batch->kv.layers[layer].planes[plane - 1];
    return find_sequences(batch, p->rows, p->offset, p->rows * p->row_bytes, p->offset, p->rows * p->row_bytes);
}

void pass_settle(struct gpu_pass *pass)
{
    if (pass->pending_reads | pass->pending_writes)
        gpu_barrier(pass->gpu);
    pass->pending_reads = pass->pending_writes = 0;
}
