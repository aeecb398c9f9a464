#include "engine/gpu/pass.h"

#include <string.h>

static hypura_status hold(struct batch *batch, struct held *held, unit_number unit, struct store_view *view,
                          hypura_error *error)
{
    if (held->count == HELD_MAX)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a step of the forward pass holds more than %d tensors",
                         HELD_MAX);
    TRY(store_get(batch->open->store, unit, view, error));
    held->units[held->count++] = unit;
    return HYPURA_OK;
}

struct matrix matrix_at(const uint8_t *data, enum tensor_type type, size_t columns, size_t rows)
{
    uint64_t row_bytes = 0;
    tensor_row_bytes(type, columns, &row_bytes); /* the reader checked that rows are whole blocks */
    return (struct matrix){.data = data, .type = type, .rows = rows, .columns = columns, .row_bytes = row_bytes};
}

struct matrix matrix_rows(const struct matrix *matrix, size_t first, size_t rows)
{
    struct matrix part = *matrix;
    part.data += first * matrix->row_bytes;
    part.rows = rows;
    return part;
}

struct matrix unit_matrix(const struct batch *batch, unit_number unit, const uint8_t *data)
{
    const struct gguf_tensor *tensor = model_unit(batch->open->model, unit)->slices[0].tensor;
    return matrix_at(data, tensor->type, tensor->dimensions[0], tensor->dimensions[1] * tensor->dimensions[2]);
}

hypura_status hold_matrix(struct batch *batch, struct held *held, unit_number unit, struct matrix *out,
                          hypura_error *error)
{
    struct store_view view;
    TRY(hold(batch, held, unit, &view, error));
    *out = unit_matrix(batch, unit, view.slices[0]);
    return HYPURA_OK;
}

bool are_floats(const struct unit_slice *slice)
{
    return slice->tensor->type == TENSOR_F32 && slice->offset % _Alignof(float) == 0;
}

size_t vector_elements(const struct gguf_tensor *tensor)
{
    const uint64_t *n = tensor->dimensions;
    return (size_t)(n[0] * n[1] * n[2] * n[3]);
}

hypura_status hold_vector(struct batch *batch, struct held *held, unit_number unit, const float **out,
                          hypura_error *error)
{
    struct store_view view;
    *out = NULL;
    if (unit == NO_UNIT)
        return HYPURA_OK;
    TRY(hold(batch, held, unit, &view, error));
    const struct unit_slice *slice = &model_unit(batch->open->model, unit)->slices[0];
    const uint8_t *data = view.slices[0];
    if (!data) {
        *out = gpu_pass_host_vector(batch, unit);
        return HYPURA_OK;
    }
    if (are_floats(slice)) {
        *out = (const float *)(const void *)data;
        return HYPURA_OK;
    }
    if (held->vectors == COUNT_OF(batch->scratch.vectors))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a step of the forward pass converts too many tensors");
    float *copy = batch->scratch.vectors[held->vectors++];
    size_t elements = vector_elements(slice->tensor);
    if (slice->tensor->type == TENSOR_F32)
        memcpy(copy, data, elements * sizeof *copy);
    else
        compute_dequantize(slice->tensor->type, data, copy, elements);
    *out = copy;
    return HYPURA_OK;
}

void release(struct batch *batch, struct held *held)
{
    for (uint32_t i = 0; i < held->count; i++)
        store_put(batch->open->store, held->units[i]);
    held->count = held->vectors = 0;
}
