/* Rows of heads as a cache stores them: for tests that compare with what a device stored or read. */
#ifndef HYPURA_GPU_CACHE_ROWS_H
#define HYPURA_GPU_CACHE_ROWS_H

#include "gpu_test.h"

#include "compute/compute.h"
#include "core/half.h"

/* Element i of a row that attention_store made. */
static float row_element(enum tensor_type type, const uint8_t *row, size_t i)
{
    uint16_t half;
    float value;
    switch (type) {
    case TENSOR_F16:
    case TENSOR_BF16:
        memcpy(&half, row + 2 * i, 2);
        return type == TENSOR_F16 ? half_to_float(half) : bfloat_to_float(half);
    case TENSOR_Q8_0:
        memcpy(&half, row + i / 32 * 34, 2);
        return half_to_float(half) * (float)(int8_t)row[i / 32 * 34 + 2 + i % 32];
    case TENSOR_Q4_0:
        memcpy(&half, row + i / 32 * 18, 2);
        return half_to_float(half) * (float)((row[i / 32 * 18 + 2 + i % 16] >> (i % 32 < 16 ? 0 : 4) & 15) - 8);
    default:
        memcpy(&value, row + 4 * i, 4);
        return value;
    }
}

/* Rounds rows of heads in place, as a cache of this type does. */
static void round_rows(enum tensor_type type, float *values, size_t rows, size_t size)
{
    uint8_t *row = malloc(attention_row_bytes(type, size));
    assert_non_null(row);
    for (size_t r = 0; r < rows; r++) {
        attention_store(type, values + r * size, 1, size, size, row, 0);
        for (size_t i = 0; i < size; i++)
            values[r * size + i] = row_element(type, row, i);
    }
    free(row);
}

#endif
