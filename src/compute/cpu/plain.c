/* The reference: every kernel in plain C, in the order of sums that compute.h states. */
#include "compute/cpu/kernels.h"
#include "compute/cpu/unpack.h"
#include "core/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define LANES 16

/* Tensor data may start anywhere, so loads are unaligned. */
static uint16_t load_16(const uint8_t *bytes)
{
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static float load_float(const uint8_t *bytes)
{
    float value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static float fold(float *lanes)
{
    for (int width = LANES / 2; width > 0; width /= 2)
        for (int i = 0; i < width; i++)
            lanes[i] += lanes[i + width];
    return lanes[0];
}

/* ---- plain types ------------------------------------------------------------------------------------------------- */

static void gemv_f32(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                     const struct activation_row *x)
{
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *row = weights + r * row_bytes;
        float lanes[LANES] = {0};
        for (size_t c = 0; c < columns; c++)
            lanes[c % LANES] = fmaf(load_float(row + 4 * c), x->floats[c], lanes[c % LANES]);
        out[r] = fold(lanes);
    }
}

static void gemv_f16(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                     const struct activation_row *x)
{
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *row = weights + r * row_bytes;
        float lanes[LANES] = {0};
        for (size_t c = 0; c < columns; c++)
            lanes[c % LANES] = fmaf(half_to_float(load_16(row + 2 * c)), x->floats[c], lanes[c % LANES]);
        out[r] = fold(lanes);
    }
}

/* Lane i adds columns 2i + 1 and 2i of every 32, in this order, like a processor's BF16 dot product. */
static void gemv_bf16(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                      const struct activation_row *x)
{
    for (size_t r = 0; r < rows; r++) {
        const uint8_t *row = weights + r * row_bytes;
        float lanes[LANES] = {0};
        for (size_t pair = 0; pair < (columns + 1) / 2; pair++) {
            float *lane = &lanes[pair % LANES];
            for (size_t c = 2 * pair + 2; c-- > 2 * pair;)
                if (c < columns)
                    *lane = fmaf(bfloat_to_float(load_16(row + 2 * c)), bfloat_to_float(x->bfloats[c]), *lane);
        }
        out[r] = fold(lanes);
    }
}

static void dequantize_f32(float *out, const uint8_t *blocks, size_t elements)
{
    memcpy(out, blocks, elements * sizeof *out);
}

static void dequantize_f16(float *out, const uint8_t *blocks, size_t elements)
{
    for (size_t i = 0; i < elements; i++)
        out[i] = half_to_float(load_16(blocks + 2 * i));
}

static void dequantize_bf16(float *out, const uint8_t *blocks, size_t elements)
{
    for (size_t i = 0; i < elements; i++)
        out[i] = bfloat_to_float(load_16(blocks + 2 * i));
}

/* ---- quantised types --------------------------------------------------------------------------------------------- */

static void dequantize(const struct unpacker *unpacker, float *out, const uint8_t *blocks, size_t elements)
{
    struct unpacked block;
    for (size_t done = 0; done < elements; done += unpacker->elements, blocks += unpacker->bytes) {
        unpacker->unpack(&block, blocks);
        for (size_t i = 0; i < unpacker->elements; i++) {
            float value = block.d * (float)block.scales[i / 16] * (float)block.quants[i];
            out[done + i] = unpacker->minima ? value - block.m * (float)block.minima[i / 16] : value;
        }
    }
}

static void gemv(const struct unpacker *unpacker, float *out, const uint8_t *weights, size_t row_bytes, size_t rows,
                 size_t columns, const struct activation_row *x)
{
    size_t elements = unpacker->elements;
    struct unpacked block;
    for (size_t r = 0; r < rows; r++) {
        float sum = 0;
        for (size_t b = 0; b < columns / elements; b++) {
            unpacker->unpack(&block, weights + r * row_bytes + b * unpacker->bytes);
            const int8_t *quants = x->quants + b * elements;
            int32_t integer = 0, minimum = 0;
            for (size_t part = 0; part < elements / 16; part++) {
                int32_t dot = 0, total = 0;
                for (size_t i = 16 * part; i < 16 * part + 16; i++) {
                    dot += block.quants[i] * quants[i];
                    total += quants[i];
                }
                integer += block.scales[part] * dot;
                minimum += block.minima[part] * total;
            }
            sum = fmaf(block.d * x->scales[b], (float)integer, sum);
            if (unpacker->minima)
                sum = fmaf(-(block.m * x->scales[b]), (float)minimum, sum);
        }
        out[r] = sum;
    }
}

static void dequantize_nvfp4(float *out, const uint8_t *blocks, size_t elements)
{
    const struct unpacker *unpacker = unpacker_find(TENSOR_NVFP4);
    struct unpacked block;
    for (size_t done = 0; done < elements; done += unpacker->elements, blocks += unpacker->bytes) {
        unpacker->unpack(&block, blocks);
        for (size_t i = 0; i < unpacker->elements; i++)
            out[done + i] = block.parts[i / 16] * (float)block.quants[i];
    }
}

static void gemv_nvfp4(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                       const struct activation_row *x)
{
    const struct unpacker *unpacker = unpacker_find(TENSOR_NVFP4);
    struct unpacked block;
    for (size_t r = 0; r < rows; r++) {
        float sum = 0;
        for (size_t part = 0; part < columns / 16; part++) {
            if (part % 4 == 0)
                unpacker->unpack(&block, weights + r * row_bytes + part / 4 * unpacker->bytes);
            int32_t dot = 0;
            for (size_t i = 0; i < 16; i++)
                dot += block.quants[part % 4 * 16 + i] * x->quants[part * 16 + i];
            sum = fmaf(block.parts[part % 4] * x->scales[part / 2], (float)dot, sum);
        }
        out[r] = sum;
    }
}

/* Kernels have no argument for the type, so each type gets functions of its own. */
#define QUANTIZED(name, type)                                                                                          \
    static void dequantize_##name(float *out, const uint8_t *blocks, size_t elements)                                  \
    {                                                                                                                  \
        dequantize(unpacker_find(type), out, blocks, elements);                                                        \
    }                                                                                                                  \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        gemv(unpacker_find(type), out, weights, row_bytes, rows, columns, x);                                          \
    }

QUANTIZED(q4_0, TENSOR_Q4_0)
QUANTIZED(q4_1, TENSOR_Q4_1)
QUANTIZED(q5_0, TENSOR_Q5_0)
QUANTIZED(q5_1, TENSOR_Q5_1)
QUANTIZED(q8_0, TENSOR_Q8_0)
QUANTIZED(iq4_nl, TENSOR_IQ4_NL)
QUANTIZED(mxfp4, TENSOR_MXFP4)
QUANTIZED(q2_k, TENSOR_Q2_K)
QUANTIZED(q3_k, TENSOR_Q3_K)
QUANTIZED(q4_k, TENSOR_Q4_K)
QUANTIZED(q5_k, TENSOR_Q5_K)
QUANTIZED(q6_k, TENSOR_Q6_K)
QUANTIZED(iq1_s, TENSOR_IQ1_S)
QUANTIZED(iq1_m, TENSOR_IQ1_M)
QUANTIZED(iq2_xxs, TENSOR_IQ2_XXS)
QUANTIZED(iq2_xs, TENSOR_IQ2_XS)
QUANTIZED(iq2_s, TENSOR_IQ2_S)
QUANTIZED(iq3_xxs, TENSOR_IQ3_XXS)
QUANTIZED(iq3_s, TENSOR_IQ3_S)
QUANTIZED(iq4_xs, TENSOR_IQ4_XS)
QUANTIZED(tq1_0, TENSOR_TQ1_0)
QUANTIZED(tq2_0, TENSOR_TQ2_0)

/* ---- activations ------------------------------------------------------------------------------------------------- */

static void store_half(uint16_t *out, const float *values, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = float_to_half(values[i]);
}

static void prepare_bfloat(uint16_t *out, const float *values, size_t columns)
{
    for (size_t c = 0; c < columns; c++)
        out[c] = float_to_bfloat(values[c]);
    memset(out + columns, 0, (align_up(columns, ACTIVATION_PADDING) - columns) * sizeof *out);
}

/* Quantises up to size values, pads the rest of the block with zeros, and returns its scale. Adding 1.5 * 2^23 leaves
 * the nearest integer, ties to even, in the low bits. */
static float quantize(int8_t *quants, const float *values, size_t count, size_t size)
{
    float greatest = 0;
    for (size_t i = 0; i < count; i++)
        greatest = fmaxf(greatest, fabsf(values[i]));
    float inverse = greatest > 0 ? 127.0f / greatest : 0;
    for (size_t i = 0; i < count; i++)
        quants[i] = (int8_t)(uint8_t)(float_to_bits(values[i] * inverse + 12582912.0f) & 0xff);
    memset(quants + count, 0, size - count);
    return greatest / 127.0f;
}

static void prepare(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns, size_t block,
                    size_t part)
{
    size_t padded = align_up(columns, ACTIVATION_PADDING);
    for (size_t c = 0; c < padded; c += block) {
        size_t count = c < columns ? MIN(block, columns - c) : 0;
        scales[c / block] = quantize(quants + c, values + MIN(c, columns), count, block);
    }
    for (size_t c = 0; c < padded; c += part) {
        int sum = 0;
        for (size_t i = 0; i < part; i++)
            sum += quants[c + i];
        sums[c / part] = (int16_t)sum;
    }
}

static void prepare_q8_32(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns)
{
    prepare(quants, scales, sums, values, columns, 32, 32);
}

static void prepare_q8_256(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns)
{
    prepare(quants, scales, sums, values, columns, 256, 16);
}

static void find_peaks(struct activation_peaks *out, const int8_t *quants, const int16_t *sums)
{
    *out = (struct activation_peaks){0};
    for (size_t part = 0; part < 8; part++) {
        int magnitude = 0;
        for (size_t half = 2 * part; half < 2 * part + 2; half++) {
            int of_16 = 0;
            for (size_t i = 0; i < 16; i++)
                of_16 += abs(quants[half * 16 + i]);
            out->of_16 = (uint16_t)MAX((int)out->of_16, of_16);
            magnitude += of_16;
        }
        int sum = sums[2 * part] + sums[2 * part + 1];
        out->of_32 = (uint16_t)MAX((int)out->of_32, (magnitude + abs(sum)) / 2);
    }
}

const struct kernel_table kernels_plain = {
#define ENTRY(name, kind)                                                                                              \
    {                                                                                                                  \
        .activation = kind, .dequantize = dequantize_##name, .gemv = gemv_##name                                       \
    }
    .types[TENSOR_F32] = ENTRY(f32, ACTIVATION_FLOAT),
    .types[TENSOR_F16] = ENTRY(f16, ACTIVATION_FLOAT),
    .types[TENSOR_BF16] = ENTRY(bf16, ACTIVATION_BFLOAT),
    .types[TENSOR_Q4_0] = ENTRY(q4_0, ACTIVATION_Q8_32),
    .types[TENSOR_Q4_1] = ENTRY(q4_1, ACTIVATION_Q8_32),
    .types[TENSOR_Q5_0] = ENTRY(q5_0, ACTIVATION_Q8_32),
    .types[TENSOR_Q5_1] = ENTRY(q5_1, ACTIVATION_Q8_32),
    .types[TENSOR_Q8_0] = ENTRY(q8_0, ACTIVATION_Q8_32),
    .types[TENSOR_IQ4_NL] = ENTRY(iq4_nl, ACTIVATION_Q8_32),
    .types[TENSOR_MXFP4] = ENTRY(mxfp4, ACTIVATION_Q8_32),
    .types[TENSOR_NVFP4] = ENTRY(nvfp4, ACTIVATION_Q8_32),
    .types[TENSOR_Q2_K] = ENTRY(q2_k, ACTIVATION_Q8_256),
    .types[TENSOR_Q3_K] = ENTRY(q3_k, ACTIVATION_Q8_256),
    .types[TENSOR_Q4_K] = ENTRY(q4_k, ACTIVATION_Q8_256),
    .types[TENSOR_Q5_K] = ENTRY(q5_k, ACTIVATION_Q8_256),
    .types[TENSOR_Q6_K] = ENTRY(q6_k, ACTIVATION_Q8_256),
    .types[TENSOR_IQ1_S] = ENTRY(iq1_s, ACTIVATION_Q8_256),
    .types[TENSOR_IQ1_M] = ENTRY(iq1_m, ACTIVATION_Q8_256),
    .types[TENSOR_IQ2_XXS] = ENTRY(iq2_xxs, ACTIVATION_Q8_256),
    .types[TENSOR_IQ2_XS] = ENTRY(iq2_xs, ACTIVATION_Q8_256),
    .types[TENSOR_IQ2_S] = ENTRY(iq2_s, ACTIVATION_Q8_256),
    .types[TENSOR_IQ3_XXS] = ENTRY(iq3_xxs, ACTIVATION_Q8_256),
    .types[TENSOR_IQ3_S] = ENTRY(iq3_s, ACTIVATION_Q8_256),
    .types[TENSOR_IQ4_XS] = ENTRY(iq4_xs, ACTIVATION_Q8_256),
    .types[TENSOR_TQ1_0] = ENTRY(tq1_0, ACTIVATION_Q8_256),
    .types[TENSOR_TQ2_0] = ENTRY(tq2_0, ACTIVATION_Q8_256),
#undef ENTRY
    .store_half = store_half,
    .prepare_bfloat = prepare_bfloat,
    .prepare_q8_32 = prepare_q8_32,
    .prepare_q8_256 = prepare_q8_256,
    .find_peaks = find_peaks,
};
