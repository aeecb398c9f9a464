#include "tools/quantize_encode.h"

#include "compute/compute.h"
#include "compute/cpu/blocks.h"
#include "compute/cpu/grids.h"
#include "core/half.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum method { METHOD_NONE, METHOD_PLAIN, METHOD_SMALL, METHOD_SUPER, METHOD_CODEBOOK, METHOD_GRID };

/* The encoder of each type, without importance and with it. */
static const struct {
    uint8_t plain, weighted;
} methods[TENSOR_TYPE_COUNT] = {
    [TENSOR_F32] = {METHOD_PLAIN, METHOD_PLAIN},          [TENSOR_F16] = {METHOD_PLAIN, METHOD_PLAIN},
    [TENSOR_BF16] = {METHOD_PLAIN, METHOD_PLAIN},         [TENSOR_Q8_0] = {METHOD_PLAIN, METHOD_PLAIN},
    [TENSOR_Q4_0] = {METHOD_PLAIN, METHOD_SMALL},         [TENSOR_Q4_1] = {METHOD_PLAIN, METHOD_SMALL},
    [TENSOR_Q5_0] = {METHOD_PLAIN, METHOD_SMALL},         [TENSOR_Q5_1] = {METHOD_PLAIN, METHOD_SMALL},
    [TENSOR_MXFP4] = {METHOD_PLAIN, METHOD_PLAIN},        [TENSOR_TQ1_0] = {METHOD_PLAIN, METHOD_PLAIN},
    [TENSOR_TQ2_0] = {METHOD_PLAIN, METHOD_PLAIN},        [TENSOR_Q2_K] = {METHOD_SUPER, METHOD_SUPER},
    [TENSOR_Q3_K] = {METHOD_SUPER, METHOD_SUPER},         [TENSOR_Q4_K] = {METHOD_SUPER, METHOD_SUPER},
    [TENSOR_Q5_K] = {METHOD_SUPER, METHOD_SUPER},         [TENSOR_Q6_K] = {METHOD_SUPER, METHOD_SUPER},
    [TENSOR_IQ4_NL] = {METHOD_CODEBOOK, METHOD_CODEBOOK}, [TENSOR_IQ4_XS] = {METHOD_CODEBOOK, METHOD_CODEBOOK},
    [TENSOR_NVFP4] = {METHOD_CODEBOOK, METHOD_CODEBOOK},  [TENSOR_IQ1_S] = {METHOD_GRID, METHOD_GRID},
    [TENSOR_IQ1_M] = {METHOD_GRID, METHOD_GRID},          [TENSOR_IQ2_XXS] = {METHOD_GRID, METHOD_GRID},
    [TENSOR_IQ2_XS] = {METHOD_GRID, METHOD_GRID},         [TENSOR_IQ2_S] = {METHOD_GRID, METHOD_GRID},
    [TENSOR_IQ3_XXS] = {METHOD_GRID, METHOD_GRID},        [TENSOR_IQ3_S] = {METHOD_GRID, METHOD_GRID},
};

bool encode_supports(enum tensor_type type)
{
    return (unsigned)type < TENSOR_TYPE_COUNT && methods[type].plain != METHOD_NONE && compute_supports(type);
}

bool encode_needs_importance(enum tensor_type type)
{
    switch (type) {
    case TENSOR_IQ1_S:
    case TENSOR_IQ1_M:
    case TENSOR_IQ2_XXS:
    case TENSOR_IQ2_XS:
    case TENSOR_IQ2_S:
    case TENSOR_IQ3_XXS:
        return true;
    default:
        return false;
    }
}

/* ---- plain rounding --------------------------------------------------------------------------------------------- */

/* Returns the value that is farthest from zero, the first one if several are equal. */
static float farthest(const float *values, int count)
{
    float greatest = 0, found = 0;
    for (int i = 0; i < count; i++) {
        float size = fabsf(values[i]);
        if (greatest < size) {
            greatest = size;
            found = values[i];
        }
    }
    return found;
}

static float inverse(float d)
{
    return d != 0 ? 1.0f / d : 0.0f;
}

/* Truncates to 0 .. most. Values below 1, and NaN, become 0. */
static unsigned truncated(float value, unsigned most)
{
    if (!(value >= 1))
        return 0;
    return value >= (float)most ? most : (unsigned)value;
}

static void put_pairs(uint8_t *qs, const uint8_t codes[32])
{
    for (int j = 0; j < 16; j++)
        qs[j] = (uint8_t)((codes[j] & 15) | codes[j + 16] << 4);
}

static void put_fifth_bits(uint8_t qh[4], const uint8_t codes[32])
{
    memset(qh, 0, 4);
    for (int j = 0; j < 32; j++)
        qh[j / 8] = (uint8_t)(qh[j / 8] | (codes[j] >> 4) << (j % 8));
}

/* Q4_0, Q5_0: the farthest value gets the lowest code, which has no positive counterpart. */
static float round_symmetric(uint8_t codes[32], const float *values, unsigned half)
{
    float d = farthest(values, 32) / -(float)half, factor = inverse(d);
    for (int j = 0; j < 32; j++)
        codes[j] = (uint8_t)truncated(values[j] * factor + ((float)half + 0.5f), 2 * half - 1);
    return d;
}

static float round_between(uint8_t codes[32], const float *values, unsigned most, float *least)
{
    float low = FLT_MAX, high = -FLT_MAX;
    for (int j = 0; j < 32; j++) {
        low = values[j] < low ? values[j] : low;
        high = values[j] > high ? values[j] : high;
    }
    float d = (high - low) / (float)most, factor = inverse(d);
    for (int j = 0; j < 32; j++)
        codes[j] = (uint8_t)truncated((values[j] - low) * factor + 0.5f, most);
    *least = low;
    return d;
}

static void plain_q4_0(const float *values, uint8_t *out)
{
    struct block_q4_0 block;
    uint8_t codes[32];
    block.d = float_to_half(round_symmetric(codes, values, 8));
    put_pairs(block.qs, codes);
    memcpy(out, &block, sizeof block);
}

static void plain_q5_0(const float *values, uint8_t *out)
{
    struct block_q5_0 block;
    uint8_t codes[32];
    block.d = float_to_half(round_symmetric(codes, values, 16));
    put_pairs(block.qs, codes);
    put_fifth_bits(block.qh, codes);
    memcpy(out, &block, sizeof block);
}

static void plain_q4_1(const float *values, uint8_t *out)
{
    struct block_q4_1 block;
    uint8_t codes[32];
    float least;
    block.d = float_to_half(round_between(codes, values, 15, &least));
    block.m = float_to_half(least);
    put_pairs(block.qs, codes);
    memcpy(out, &block, sizeof block);
}

static void plain_q5_1(const float *values, uint8_t *out)
{
    struct block_q5_1 block;
    uint8_t codes[32];
    float least;
    block.d = float_to_half(round_between(codes, values, 31, &least));
    block.m = float_to_half(least);
    put_pairs(block.qs, codes);
    put_fifth_bits(block.qh, codes);
    memcpy(out, &block, sizeof block);
}

static void plain_q8_0(const float *values, uint8_t *out)
{
    struct block_q8_0 block;
    float d = fabsf(farthest(values, 32)) / 127, factor = inverse(d);
    block.d = float_to_half(d);
    for (int j = 0; j < 32; j++)
        block.qs[j] = (int8_t)clamp(roundf(values[j] * factor), -127, 127);
    memcpy(out, &block, sizeof block);
}

static void plain_mxfp4(const float *values, uint8_t *out)
{
    struct block_mxfp4 block;
    uint8_t codes[32];
    float most = fabsf(farthest(values, 32));
    int exponent = most > 0 ? (int)floorf(log2f(most)) - 2 + 127 : 0;
    block.e = (uint8_t)(exponent < 0 ? 0 : exponent > 254 ? 254 : exponent);
    float d = ldexpf(1, block.e - 128);
    for (int j = 0; j < 32; j++) {
        int best = 0;
        float least = fabsf((float)codebook_e2m1[0] * d - values[j]);
        for (int i = 1; i < 16; i++) {
            float distance = fabsf((float)codebook_e2m1[i] * d - values[j]);
            if (distance < least) {
                least = distance;
                best = i;
            }
        }
        codes[j] = (uint8_t)best;
    }
    put_pairs(block.qs, codes);
    memcpy(out, &block, sizeof block);
}

/* Returns 0, 1 or 2 for -1, 0 or 1. */
static unsigned ternary(float value, float factor)
{
    return (unsigned)(clamp(roundf(value * factor), -1, 1) + 1);
}

static uint8_t ternary_byte(unsigned digits)
{
    return (uint8_t)((digits * 256 + 242) / 243);
}

static void plain_tq1_0(const float *values, uint8_t *out)
{
    struct block_tq1_0 block;
    float d = fabsf(farthest(values, 256)), factor = inverse(d);
    block.d = float_to_half(d);
    for (int j = 0; j < 48; j++) {
        const float *first = j < 32 ? values + j : values + 160 + j - 32;
        unsigned digits = 0;
        for (int n = 0; n < 5; n++)
            digits = digits * 3 + ternary(first[n * (j < 32 ? 32 : 16)], factor);
        block.qs[j] = ternary_byte(digits);
    }
    for (int j = 0; j < 4; j++) {
        unsigned digits = 0;
        for (int n = 0; n < 4; n++)
            digits = digits * 3 + ternary(values[240 + j + 4 * n], factor);
        block.qh[j] = ternary_byte(digits * 3);
    }
    memcpy(out, &block, sizeof block);
}

static void plain_tq2_0(const float *values, uint8_t *out)
{
    struct block_tq2_0 block;
    float d = fabsf(farthest(values, 256)), factor = inverse(d);
    block.d = float_to_half(d);
    for (int j = 0; j < 64; j++) {
        unsigned byte = 0;
        for (int n = 0; n < 4; n++)
            byte |= ternary(values[j / 32 * 128 + j % 32 + 32 * n], factor) << (2 * n);
        block.qs[j] = (uint8_t)byte;
    }
    memcpy(out, &block, sizeof block);
}

static void encode_plain(enum tensor_type type, const float *values, uint8_t *out)
{
    switch (type) {
    case TENSOR_Q4_0:
        plain_q4_0(values, out);
        break;
    case TENSOR_Q4_1:
        plain_q4_1(values, out);
        break;
    case TENSOR_Q5_0:
        plain_q5_0(values, out);
        break;
    case TENSOR_Q5_1:
        plain_q5_1(values, out);
        break;
    case TENSOR_Q8_0:
        plain_q8_0(values, out);
        break;
    case TENSOR_MXFP4:
        plain_mxfp4(values, out);
        break;
    case TENSOR_TQ1_0:
        plain_tq1_0(values, out);
        break;
    default:
        plain_tq2_0(values, out);
        break;
    }
}

static void encode_floats(enum tensor_type type, const float *values, uint64_t elements, uint8_t *out)
{
    for (uint64_t i = 0; type == TENSOR_F16 && i < elements; i++) {
        uint16_t half = float_to_half(values[i]);
        memcpy(out + 2 * i, &half, sizeof half);
    }
    for (uint64_t i = 0; type == TENSOR_BF16 && i < elements; i++) {
        uint16_t half = float_to_bfloat(values[i]);
        memcpy(out + 2 * i, &half, sizeof half);
    }
    if (type == TENSOR_F32)
        memcpy(out, values, elements * sizeof *values);
}

/* ---- rows ------------------------------------------------------------------------------------------------------- */

struct encode_scratch {
    struct grid_scratch *grid;
    float weights[256];
};

hypura_status encode_scratch_create(struct encode_scratch **out, hypura_error *error)
{
    hypura_status status = ALLOCATE(out, 1, "encoder", error);
    if (!status && (status = grid_scratch_create(&(*out)->grid, error))) {
        memory_free(*out);
        *out = NULL;
    }
    return status;
}

void encode_scratch_destroy(struct encode_scratch *scratch)
{
    if (scratch)
        grid_scratch_destroy(scratch->grid);
    memory_free(scratch);
}

/* Computes the weights of squared errors: the column's importance, times a factor that is larger for large values,
 * since these carry more of what the model learned than noise around zero. llama.cpp publishes results for this
 * weighting. */
static void weigh(float *weights, const float *values, size_t count, const float *importance, float mean_square)
{
    for (size_t i = 0; i < count; i++)
        weights[i] = (importance ? importance[i] : 1) * sqrtf(mean_square + values[i] * values[i]);
}

void encode_row(struct encode_scratch *scratch, enum tensor_type type, const float *values, uint64_t elements,
                const float *importance, uint8_t *out)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    size_t size = info->block_size;
    if (size == 1) {
        encode_floats(type, values, elements, out);
        return;
    }
    enum method method = importance ? methods[type].weighted : methods[type].plain;
    float mean_square = 0;
    if (method != METHOD_PLAIN) {
        double sum = 0;
        for (uint64_t i = 0; i < elements; i++)
            sum += (double)values[i] * values[i];
        mean_square = (float)(sum / (double)elements);
    }
    for (uint64_t i = 0; i < elements; i += size, out += info->block_bytes) {
        if (method != METHOD_PLAIN)
            weigh(scratch->weights, values + i, size, importance ? importance + i : NULL, mean_square);
        if (method == METHOD_PLAIN)
            encode_plain(type, values + i, out);
        else if (method == METHOD_SMALL)
            encode_small(type, values + i, scratch->weights, out);
        else if (method == METHOD_SUPER)
            encode_super(type, values + i, scratch->weights, out);
        else if (method == METHOD_CODEBOOK)
            encode_codebook(type, values + i, scratch->weights, out);
        else
            encode_grid(scratch->grid, type, values + i, scratch->weights, out);
    }
}
