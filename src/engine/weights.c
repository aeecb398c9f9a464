#include "engine/gpu/pass.h"

#include <string.h>

static hypura_status hold(struct engine *engine, struct held *held, unit_number unit, struct store_view *view,
                          hypura_error *error)
{
    if (held->count == HELD_MAX)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a step of the forward pass holds more than %d tensors",
                         HELD_MAX);
    TRY(store_get(engine->store, unit, view, error));
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

struct matrix unit_matrix(const struct engine *engine, unit_number unit, const uint8_t *data)
{
    const struct gguf_tensor *tensor = model_unit(engine->model, unit)->slices[0].tensor;
    return matrix_at(data, tensor->type, tensor->dimensions[0], tensor->dimensions[1] * tensor->dimensions[2]);
}

hypura_status hold_matrix(struct engine *engine, struct held *held, unit_number unit, struct matrix *out,
                          hypura_error *error)
{
    struct store_view view;
    TRY(hold(engine, held, unit, &view, error));
    *out = unit_matrix(engine, unit, view.slices[0]);
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

hypura_status hold_vector(struct engine *engine, struct held *held, unit_number unit, const float **out,
                          hypura_error *error)
{
    struct store_view view;
    *out = NULL;
    if (unit == NO_UNIT)
        return HYPURA_OK;
    TRY(hold(engine, held, unit, &view, error));
    const struct unit_slice *slice = &model_unit(engine->model, unit)->slices[0];
    const uint8_t *data = view.slices[0];
    if (!data) {
        *out = gpu_pass_host_vector(engine, unit);
        return HYPURA_OK;
    }
    if (are_floats(slice)) {
        *out = (const float *)(const void *)data;
        return HYPURA_OK;
    }
    if (held->vectors == COUNT_OF(engine->scratch.vectors))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a step of the forward pass converts too many tensors");
    float *copy = engine->scratch.vectors[held->vectors++];
    size_t elements = vector_elements(slice->tensor);
    if (slice->tensor->type == TENSOR_F32)
        memcpy(copy, data, elements * sizeof *copy);
    else
        compute_dequantize(slice->tensor->type, data, copy, elements);
    *out = copy;
    return HYPURA_OK;
}

void release(struct engine *engine, struct held *held)
{
    for (uint32_t i = 0; i < held->count; i++)
        store_put(engine->store, held->units[i]);
    held->count = held->vectors = 0;
}

static hypura_status norm_held(struct engine *engine, struct held *held, float *out, const float *in,
                               unit_number weight, unit_number bias, size_t rows, size_t columns, hypura_error *error)
{
    const float *scales, *offsets;
    TRY(hold_vector(engine, held, weight, &scales, error));
    TRY(hold_vector(engine, held, bias, &offsets, error));
    float epsilon = model_parameters(engine->model)->norm_epsilon;
    if (model_architecture(engine->model)->flags & ARCHITECTURE_LAYER_NORM) {
        compute_layer_norm(engine->compute, out, in, scales, offsets, rows, columns, epsilon);
        return HYPURA_OK;
    }
    compute_rms_norm(engine->compute, out, in, scales, rows, columns, epsilon);
    for (size_t r = 0; offsets && r < rows; r++)
        compute_add(engine->compute, out + r * columns, out + r * columns, offsets, columns);
    return HYPURA_OK;
}

hypura_status norm(struct engine *engine, float *out, const float *in, unit_number weight, unit_number bias,
                   size_t rows, size_t columns, hypura_error *error)
{
    struct held held = {0};
    hypura_status status = norm_held(engine, &held, out, in, weight, bias, rows, columns, error);
    release(engine, &held);
    return status;
}

hypura_status norm_sum(struct engine *engine, unit_number weight, unit_number bias, hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    if (weight == NO_UNIT)
        return HYPURA_OK;
    return norm(engine, s->hidden, s->hidden, weight, bias, engine->rows, model_parameters(engine->model)->embedding,
                error);
}

hypura_status set_input(struct engine *engine, const struct model_layer *layer, enum tensor_role role,
                        hypura_error *error)
{
    struct scratch *s = &engine->scratch;
    size_t width = model_parameters(engine->model)->embedding;
    if (layer->tensors[role] == NO_UNIT)
        memcpy(s->normed, s->hidden, engine->rows * width * sizeof *s->normed);
    else
        TRY(norm(engine, s->normed, s->hidden, layer->tensors[role], layer->tensors[role + 1], engine->rows, width,
                 error));
    activation_set(s->input, s->normed, engine->rows, width, width);
    return HYPURA_OK;
}

hypura_status add_branch(struct engine *engine, unit_number post_norm, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->model);
    struct scratch *s = &engine->scratch;
    size_t count = engine->rows * p->embedding;
    if (post_norm != NO_UNIT)
        TRY(norm(engine, s->branch, s->branch, post_norm, NO_UNIT, engine->rows, p->embedding, error));
    if (p->residual_scale != 1.0f)
        compute_scale(engine->compute, s->branch, s->branch, p->residual_scale, count);
    compute_add(engine->compute, s->hidden, s->hidden, s->branch, count);
    return HYPURA_OK;
}
