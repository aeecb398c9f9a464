#include "compute/cpu/kernels.h"
#include "core/half.h"

#include <math.h>
#include <string.h>

/* Rows of the KV cache. Q8_0 and Q4_0 are the blocks of 32 of the tensor types of the same name: a half-precision
 * scale, then 32 signed bytes, or 16 bytes with element i in the low half of byte i and element i + 16 in the high. */
#define BLOCK ((size_t)32)
#define Q8_0_BYTES ((size_t)34)
#define Q4_0_BYTES ((size_t)18)

size_t attention_row_bytes(enum tensor_type type, size_t size)
{
    switch (type) {
    case TENSOR_F32:
        return size * 4;
    case TENSOR_F16:
    case TENSOR_BF16:
        return size * 2;
    case TENSOR_Q8_0:
        return size % BLOCK ? 0 : size / BLOCK * Q8_0_BYTES;
    case TENSOR_Q4_0:
        return size % BLOCK ? 0 : size / BLOCK * Q4_0_BYTES;
    default:
        return 0;
    }
}

static void store_q8_0(const float *values, uint8_t *out)
{
    float most = 0.0f;
    for (size_t i = 0; i < BLOCK; i++)
        most = fmaxf(most, fabsf(values[i]));
    float scale = most / 127.0f;
    float inverse = scale > 0.0f ? 1.0f / scale : 0.0f;
    uint16_t half = float_to_half(scale);
    memcpy(out, &half, sizeof half);
    for (size_t i = 0; i < BLOCK; i++)
        out[2 + i] = (uint8_t)(int8_t)rintf(values[i] * inverse);
}

/* The sign of the scale makes the element of greatest magnitude -8, because the range is -8 to 7. */
static void store_q4_0(const float *values, uint8_t *out)
{
    float most = 0.0f;
    for (size_t i = 0; i < BLOCK; i++)
        if (fabsf(values[i]) > fabsf(most))
            most = values[i];
    float scale = most / -8.0f;
    float inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    uint16_t half = float_to_half(scale);
    memcpy(out, &half, sizeof half);
    for (size_t i = 0; i < BLOCK / 2; i++) {
        float low = fminf(floorf(values[i] * inverse + 8.5f), 15.0f);
        float high = fminf(floorf(values[i + BLOCK / 2] * inverse + 8.5f), 15.0f);
        out[2 + i] = (uint8_t)((unsigned)low | (unsigned)high << 4);
    }
}

void attention_store(enum tensor_type type, const float *values, size_t rows, size_t columns, size_t stride, void *out,
                     size_t out_stride)
{
    for (size_t r = 0; r < rows; r++) {
        const float *from = values + r * stride;
        uint8_t *to = (uint8_t *)out + r * out_stride;
        switch (type) {
        case TENSOR_F16:
            kernel_table_best()->store_half((uint16_t *)(void *)to, from, columns);
            break;
        case TENSOR_BF16:
            for (size_t c = 0; c < columns; c++)
                ((uint16_t *)to)[c] = float_to_bfloat(from[c]);
            break;
        case TENSOR_Q8_0:
            for (size_t c = 0; c < columns; c += BLOCK)
                store_q8_0(from + c, to + c / BLOCK * Q8_0_BYTES);
            break;
        case TENSOR_Q4_0:
            for (size_t c = 0; c < columns; c += BLOCK)
                store_q4_0(from + c, to + c / BLOCK * Q4_0_BYTES);
            break;
        default:
            memcpy(to, from, columns * sizeof *from);
            break;
        }
    }
}
