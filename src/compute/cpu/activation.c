#include "compute/cpu/kernels.h"

static size_t padded(size_t columns)
{
    return align_up(columns, ACTIVATION_PADDING);
}

/* Bytes of every copy of max_rows rows; false when they overflow. */
static bool total_bytes(size_t rows, size_t columns, size_t *out)
{
    size_t elements;
    if (columns > SIZE_MAX / 2 || !size_multiply(&elements, rows, padded(columns)) || elements > SIZE_MAX / 8)
        return false;
    /* bfloats; quants, sums and scales of blocks of 32; the same of blocks of 256 */
    *out = 2 * elements + (elements + elements / 32 * (4 + 2)) + (elements + elements / 256 * 4 + elements / 16 * 2);
    return true;
}

uint64_t activation_bytes(size_t max_rows, size_t max_columns)
{
    size_t bytes;
    return total_bytes(max_rows, max_columns, &bytes) ? sizeof(struct activation) + bytes : UINT64_MAX;
}

hypura_status activation_create(struct activation **out, size_t max_rows, size_t max_columns, hypura_error *error)
{
    size_t bytes;
    if (max_rows == 0 || max_columns == 0 || !total_bytes(max_rows, max_columns, &bytes))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "activations of %zu rows of %zu cannot be", max_rows,
                         max_columns);
    struct activation *activation;
    hypura_status status = ALLOCATE(&activation, 1, "activations", error);
    if (status)
        return status;
    /* Mapped, not allocated: a copy that no weight asks for takes no memory. */
    status = memory_map(&activation->memory, bytes, false, "activations", error);
    if (status) {
        memory_free(activation);
        return status;
    }
    activation->memory_bytes = bytes;
    activation->max_rows = max_rows;
    activation->max_columns = max_columns;

    size_t elements = max_rows * padded(max_columns);
    uint8_t *next = activation->memory;
    for (int i = 0; i < 2; i++) {
        activation->quants[i] = (int8_t *)next;
        next += elements;
    }
    activation->bfloats = (uint16_t *)next;
    next += 2 * elements;
    for (int i = 0; i < 2; i++) {
        activation->scales[i] = (float *)next;
        next += elements / (i == 0 ? 32 : 256) * 4;
    }
    for (int i = 0; i < 2; i++) {
        activation->sums[i] = (int16_t *)next;
        next += elements / (i == 0 ? 32 : 16) * 2;
    }
    *out = activation;
    return HYPURA_OK;
}

void activation_destroy(struct activation *activation)
{
    if (!activation)
        return;
    memory_unmap(activation->memory, activation->memory_bytes);
    memory_free(activation);
}

void activation_set(struct activation *activation, const float *values, size_t rows, size_t columns, size_t stride)
{
    activation->values = values;
    activation->rows = rows;
    activation->columns = columns;
    activation->stride = stride;
    activation->bfloat_stride = activation->quant_stride = padded(columns);
    activation->scale_stride[0] = activation->sum_stride[0] = padded(columns) / 32;
    activation->scale_stride[1] = padded(columns) / 256;
    activation->sum_stride[1] = padded(columns) / 16;
    for (int kind = 0; kind < ACTIVATION_KINDS; kind++)
        activation->ready[kind] = kind == ACTIVATION_FLOAT;
}

void activation_prepare_rows(struct activation *activation, const struct kernel_table *kernels,
                             enum activation_kind kind, size_t first, size_t count)
{
    for (size_t row = first; row < first + count; row++) {
        const float *values = activation->values + row * activation->stride;
        if (kind == ACTIVATION_BFLOAT) {
            kernels->prepare_bfloat(activation->bfloats + row * activation->bfloat_stride, values, activation->columns);
        } else if (kind != ACTIVATION_FLOAT) {
            size_t i = kind - ACTIVATION_Q8_32;
            (i == 0 ? kernels->prepare_q8_32 : kernels->prepare_q8_256)(
                activation->quants[i] + row * activation->quant_stride,
                activation->scales[i] + row * activation->scale_stride[i],
                activation->sums[i] + row * activation->sum_stride[i], values, activation->columns);
        }
    }
}
