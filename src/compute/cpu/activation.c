#include "compute/cpu/kernels.h"

static size_t padded(size_t columns)
{
    return align_up(columns, ACTIVATION_PADDING);
}

/* The distance of rows of quants: an odd number of cache lines, so that the same columns of many rows do not share the
 * same few sets of a cache. */
static size_t quants_stride(size_t columns)
{
    return padded(columns) + 64;
}

/* The copies, in the order in which they follow each other. */
enum { QUANTS_32, QUANTS_256, BFLOATS, SCALES_32, SCALES_256, SUMS_32, SUMS_256, PEAKS, COPIES };

/* The bytes of a row of each copy. */
static void row_bytes(size_t columns, size_t out[COPIES])
{
    const size_t elements = padded(columns);
    out[QUANTS_32] = out[QUANTS_256] = quants_stride(columns);
    out[BFLOATS] = 2 * elements;
    out[SCALES_32] = elements / 32 * sizeof(float);
    out[SCALES_256] = elements / 256 * sizeof(float);
    out[SUMS_32] = elements / 32 * sizeof(int16_t);
    out[SUMS_256] = elements / 16 * sizeof(int16_t);
    out[PEAKS] = elements / 256 * sizeof(struct activation_peaks);
}

/* The size of all copies of max_rows rows; false: it overflows. */
static bool total_bytes(size_t rows, size_t columns, size_t *out)
{
    size_t elements, bytes[COPIES];
    if (columns > SIZE_MAX / 2 || !size_multiply(&elements, rows, quants_stride(columns)) || elements > SIZE_MAX / 8)
        return false;
    row_bytes(columns, bytes);
    *out = 0;
    for (int copy = 0; copy < COPIES; copy++)
        *out += rows * bytes[copy];
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
        return error_set(error, HYPURA_ERROR_ARGUMENT, "activations cannot have %zu rows of %zu", max_rows,
                         max_columns);
    struct activation *activation;
    hypura_status status = ALLOCATE(&activation, 1, "activations", error);
    if (status)
        return status;
    /* Mapped, not allocated: a copy that no kernel reads takes no memory. */
    status = memory_map(&activation->memory, bytes, false, "activations", error);
    if (status) {
        memory_free(activation);
        return status;
    }
    activation->memory_bytes = bytes;
    activation->max_rows = max_rows;
    activation->max_columns = max_columns;

    size_t each[COPIES];
    uint8_t *copies[COPIES], *next = activation->memory;
    row_bytes(max_columns, each);
    for (int copy = 0; copy < COPIES; copy++) {
        copies[copy] = next;
        next += max_rows * each[copy];
    }
    activation->quants[0] = (int8_t *)copies[QUANTS_32];
    activation->quants[1] = (int8_t *)copies[QUANTS_256];
    activation->bfloats = (uint16_t *)copies[BFLOATS];
    activation->scales[0] = (float *)copies[SCALES_32];
    activation->scales[1] = (float *)copies[SCALES_256];
    activation->sums[0] = (int16_t *)copies[SUMS_32];
    activation->sums[1] = (int16_t *)copies[SUMS_256];
    activation->peaks = (struct activation_peaks *)copies[PEAKS];
    *out = activation;
    return HYPURA_OK;
}

uint64_t activation_spare_bytes(size_t max_rows, size_t max_columns, size_t rows)
{
    size_t each[COPIES], at = 0;
    uint64_t spare = 0;
    row_bytes(max_columns, each);
    rows = MIN(rows, max_rows);
    for (int copy = 0; copy < COPIES; copy++) {
        spare += memory_whole_pages(at + rows * each[copy], (max_rows - rows) * each[copy]);
        at += max_rows * each[copy];
    }
    return spare;
}

void activation_release(struct activation *activation, size_t rows)
{
    const size_t all = activation->max_rows;
    size_t each[COPIES];
    uint8_t *at = activation->memory;
    row_bytes(activation->max_columns, each);
    rows = MIN(rows, all);
    for (int copy = 0; copy < COPIES; copy++) {
        memory_decommit(at + rows * each[copy], (all - rows) * each[copy]);
        at += all * each[copy];
    }
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
    activation->bfloat_stride = padded(columns);
    activation->quant_stride = quants_stride(columns);
    activation->scale_stride[0] = activation->sum_stride[0] = padded(columns) / 32;
    activation->scale_stride[1] = activation->peak_stride = padded(columns) / 256;
    activation->sum_stride[1] = padded(columns) / 16;
    for (int kind = 0; kind < ACTIVATION_KINDS; kind++)
        activation->ready[kind] = kind == ACTIVATION_FLOAT;
}

const float *activation_values(const struct activation *activation, size_t row)
{
    return activation->values + row * activation->stride;
}

static void prepare_row_256(struct activation *activation, const struct kernel_table *kernels, const float *values,
                            size_t row)
{
    int8_t *quants = activation->quants[1] + row * activation->quant_stride;
    int16_t *sums = activation->sums[1] + row * activation->sum_stride[1];
    struct activation_peaks *peaks = activation->peaks + row * activation->peak_stride;
    kernels->prepare_q8_256(quants, activation->scales[1] + row * activation->scale_stride[1], sums, values,
                            activation->columns);
    for (size_t i = 0; i < activation->peak_stride; i++)
        kernels->find_peaks(&peaks[i], quants + i * 256, sums + i * 16);
}

void activation_prepare_rows(struct activation *activation, const struct kernel_table *kernels,
                             enum activation_kind kind, size_t first, size_t count)
{
    for (size_t row = first; row < first + count; row++) {
        const float *values = activation->values + row * activation->stride;
        if (kind == ACTIVATION_BFLOAT)
            kernels->prepare_bfloat(activation->bfloats + row * activation->bfloat_stride, values, activation->columns);
        else if (kind == ACTIVATION_Q8_32)
            kernels->prepare_q8_32(activation->quants[0] + row * activation->quant_stride,
                                   activation->scales[0] + row * activation->scale_stride[0],
                                   activation->sums[0] + row * activation->sum_stride[0], values, activation->columns);
        else if (kind == ACTIVATION_Q8_256)
            prepare_row_256(activation, kernels, values, row);
    }
}
