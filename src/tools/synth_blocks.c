/* Random quantised blocks: all bits are random, except the fields that scale them. The layouts are those of ggml's
 * block types (ggml-common.h); comments at each case give the details. */
#include "core/half.h"
#include "tools/synth_private.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

/* How a type is filled. unit: root mean square of the decoded values if the block's scale is 1. */
struct recipe {
    float unit;
    float tail; /* mean of the constant tail divided by the deviation; 0: not supported */
};

static const struct recipe recipes[TENSOR_TYPE_COUNT] = {
    [TENSOR_F32] = {1, 1.5f},           [TENSOR_F16] = {1, 1.5f},         [TENSOR_BF16] = {1, 1.5f},
    [TENSOR_Q4_0] = {4.637f, 1.186f},   [TENSOR_Q4_1] = {4.610f, 2.495f}, [TENSOR_Q5_0] = {9.247f, 1.244f},
    [TENSOR_Q5_1] = {9.233f, 2.545f},   [TENSOR_Q8_0] = {73.52f, 1.299f}, [TENSOR_Q2_K] = {13.11f, 2.098f},
    [TENSOR_Q3_K] = {43.31f, 1.039f},   [TENSOR_Q4_K] = {223.1f, 2.475f}, [TENSOR_Q5_K] = {446.8f, 2.525f},
    [TENSOR_Q6_K] = {1364.f, 1.275f},   [TENSOR_IQ2_XXS] = {53.37f, 0},   [TENSOR_IQ2_XS] = {55.85f, 0},
    [TENSOR_IQ2_S] = {56.44f, 0},       [TENSOR_IQ3_XXS] = {142.5f, 0},   [TENSOR_IQ3_S] = {140.2f, 0},
    [TENSOR_IQ1_S] = {7.202f, 0},       [TENSOR_IQ1_M] = {7.199f, 0},     [TENSOR_IQ4_NL] = {67.43f, 1.201f},
    [TENSOR_IQ4_XS] = {1246.f, 1.040f}, [TENSOR_TQ1_0] = {0.8172f, 0},    [TENSOR_TQ2_0] = {0.8165f, 0},
    [TENSOR_MXFP4] = {2.926f, 0},       [TENSOR_NVFP4] = {2.926f, 0},
};

bool synth_tail_supported(enum tensor_type type)
{
    return recipes[type].tail > 0;
}

float synth_tail_ratio(enum tensor_type type)
{
    return recipes[type].tail;
}

static void put_half(unsigned char *out, float value)
{
    uint16_t half = float_to_half(value);
    memcpy(out, &half, sizeof half);
}

static void random_bytes(struct random *random, unsigned char *out, size_t bytes)
{
    struct random local = *random; /* keeps the state in registers */
    size_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
        uint64_t word = random_next(&local);
        memcpy(out + i, &word, 8);
    }
    if (i < bytes) {
        uint64_t word = random_next(&local);
        memcpy(out + i, &word, bytes - i);
    }
    *random = local;
}

/* ---- plain floats ------------------------------------------------------------------------------------------------ */

#define NORMAL_STEPS 4096

/* Values at evenly spaced quantiles of the normal distribution, so one table look-up makes a normal number. Bisection
 * of erfc finds the inverse without the coefficients of an approximation. */
static float normal_table[NORMAL_STEPS];
static pthread_once_t normal_table_once = PTHREAD_ONCE_INIT;

static void make_normal_table(void)
{
    double low = -6;
    for (int i = 0; i < NORMAL_STEPS / 2; i++) {
        double wanted = (i + 0.5) / NORMAL_STEPS, a = low, b = 0;
        for (int step = 0; step < 40; step++) {
            double middle = 0.5 * (a + b);
            if (0.5 * erfc(-middle * 0.70710678118654752) < wanted)
                a = middle;
            else
                b = middle;
        }
        low = a;
        normal_table[i] = (float)a;
        normal_table[NORMAL_STEPS - 1 - i] = -normal_table[i];
    }
}

static void random_floats(struct random *random, enum tensor_type type, unsigned char *out, uint64_t count,
                          float deviation)
{
    pthread_once(&normal_table_once, make_normal_table);
    uint32_t encoded[NORMAL_STEPS];
    size_t bytes = type == TENSOR_F32 ? 4 : 2;
    for (size_t i = 0; i < NORMAL_STEPS; i++) {
        float value = normal_table[i] * deviation;
        encoded[i] = type == TENSOR_F32   ? float_to_bits(value)
                     : type == TENSOR_F16 ? float_to_half(value)
                                          : float_to_bfloat(value);
    }
    struct random local = *random;
    for (uint64_t i = 0; i < count;) {
        uint64_t word = random_next(&local);
        for (size_t j = 0; j < 5 && i < count; j++, i++, word >>= 12)
            memcpy(out + i * bytes, &encoded[word % NORMAL_STEPS], bytes); /* little endian: the low bytes */
    }
    *random = local;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------ */

/* Packs eight 6-bit scales, and eight 6-bit minima equal to them, into the 12 bytes of Q4_K and Q5_K. If the block's
 * minimum is half the range times its scale, every sub-block is centred on 0. */
static void pack_scales(unsigned char out[12], const unsigned char scales[8])
{
    for (int i = 0; i < 4; i++) {
        unsigned char low = scales[i], high = scales[i + 4];
        out[i] = (unsigned char)(low | (high >> 4) << 6);
        out[i + 4] = (unsigned char)(low | (high >> 4) << 6);
        out[i + 8] = (unsigned char)((high & 15) | (high & 15) << 4);
    }
}

static void random_scales(struct random *random, unsigned char *out)
{
    unsigned char scales[8];
    uint64_t word = random_next(random);
    for (int i = 0; i < 8; i++, word >>= 5)
        scales[i] = (unsigned char)(32 + (word & 31));
    pack_scales(out, scales);
}

/* Writes the block's scale with a random sign, which makes the mean 0 if the codes are not symmetric. */
static void signed_scale(struct random *random, unsigned char *out, uint16_t scale)
{
    scale ^= (uint16_t)(random_next(random) & 0x8000u);
    memcpy(out, &scale, sizeof scale);
}

static void fix_block(struct random *random, enum tensor_type type, unsigned char *b, float d, uint16_t half)
{
    switch (type) {
    case TENSOR_Q4_0:
    case TENSOR_Q5_0:
    case TENSOR_IQ4_NL:
        signed_scale(random, b, half);
        break;
    case TENSOR_Q4_1:
        memcpy(b, &half, 2);
        put_half(b + 2, -7.5f * d);
        break;
    case TENSOR_Q5_1:
        memcpy(b, &half, 2);
        put_half(b + 2, -15.5f * d);
        break;
    case TENSOR_Q8_0:
        memcpy(b, &half, 2);
        for (int i = 2; i < 34; i++)
            b[i] = b[i] == 0x80 ? 0 : b[i]; /* quantisers never produce -128 */
        break;
    case TENSOR_Q2_K:
        for (int i = 0; i < 16; i++)
            b[i] = (unsigned char)((8 | (b[i] & 7)) * 0x11); /* scale and minimum are equal, 8 to 15 */
        memcpy(b + 80, &half, 2);
        put_half(b + 82, 1.5f * d);
        break;
    case TENSOR_Q3_K:
        memcpy(b + 108, &half, 2);
        break;
    case TENSOR_Q4_K:
    case TENSOR_Q5_K:
        memcpy(b, &half, 2);
        put_half(b + 2, (type == TENSOR_Q4_K ? 7.5f : 15.5f) * d);
        random_scales(random, b + 4);
        break;
    case TENSOR_Q6_K:
        memcpy(b + 208, &half, 2);
        break;
    case TENSOR_IQ1_M: /* the half-precision scale is spread over the top four bits of four words */
        for (int i = 0; i < 4; i++)
            b[49 + 2 * i] = (unsigned char)((b[49 + 2 * i] & 15) | ((half >> (4 * i)) & 15) << 4);
        break;
    case TENSOR_TQ1_0:
        memcpy(b + 52, &half, 2);
        break;
    case TENSOR_TQ2_0: /* four digits of 0 to 2 per byte; not quite uniform, since 81 does not divide 256 */
        for (int i = 0; i < 64; i++) {
            unsigned digits = b[i] % 81u;
            b[i] = (unsigned char)(digits % 3 | digits / 3 % 3 << 2 | digits / 9 % 3 << 4 | digits / 27 << 6);
        }
        signed_scale(random, b + 64, half);
        break;
    default: /* IQ2, IQ3, IQ1_S, IQ4_XS: the half-precision scale comes first */
        memcpy(b, &half, 2);
    }
}

/* MXFP4 scales are powers of two: mixes the two around the wanted scale in such a ratio that the energy is right. */
static void random_mxfp4(struct random *random, unsigned char *out, uint64_t blocks, float d)
{
    int exponent;
    float fraction = frexpf(d, &exponent); /* d = 2 fraction * 2^(exponent - 1), 2 fraction in [1, 2) */
    double larger = (4.0 * (double)fraction * (double)fraction - 1) / 3;
    int base = 127 + exponent - 1;
    for (uint64_t i = 0; i < blocks; i++)
        out[i * 17] = (unsigned char)(base + (random_uniform(random) < larger));
}

/* NVFP4 scales are 8-bit floats for 16 elements each: mixes the two around the wanted scale in the same way. */
static void random_nvfp4(struct random *random, unsigned char *out, uint64_t blocks, float d)
{
    double scales[127], wanted = (double)d * (double)d;
    for (unsigned i = 0; i < COUNT_OF(scales); i++)
        scales[i] = 256 * (double)half_to_float((uint16_t)(i << 7));
    unsigned base = 0;
    while (base + 2 < COUNT_OF(scales) && scales[base + 1] * scales[base + 1] <= wanted)
        base++;
    double low = scales[base] * scales[base], high = scales[base + 1] * scales[base + 1];
    double larger = (wanted - low) / (high - low);
    for (uint64_t i = 0; i < blocks; i++)
        for (int part = 0; part < 4; part++)
            out[i * 36 + (uint64_t)part] = (unsigned char)(base + (random_uniform(random) < larger));
}

void synth_random_blocks(struct random *random, enum tensor_type type, unsigned char *out, uint64_t blocks,
                         float deviation)
{
    if (type == TENSOR_F32 || type == TENSOR_F16 || type == TENSOR_BF16) {
        random_floats(random, type, out, blocks, deviation);
        return;
    }
    size_t bytes = tensor_type_info(type)->block_bytes;
    if (deviation == 0) {
        memset(out, 0, blocks * bytes); /* every type decodes zeros to 0 (MXFP4: code 0 is 0 at any scale) */
        return;
    }
    random_bytes(random, out, blocks * bytes);
    float d = deviation / recipes[type].unit;
    if (type == TENSOR_MXFP4) {
        random_mxfp4(random, out, blocks, d);
        return;
    }
    if (type == TENSOR_NVFP4) {
        random_nvfp4(random, out, blocks, d);
        return;
    }
    uint16_t half = float_to_half(d);
    for (uint64_t i = 0; i < blocks; i++)
        fix_block(random, type, out + i * bytes, d, half);
}

/* ---- the constant tail ------------------------------------------------------------------------------------------- */

static void set_bits(unsigned char *bytes, size_t count, unsigned char bits)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] |= bits;
}

/* The last 32 elements are the last block, or the last sub-block (two of them if they have 16 elements). Sets its
 * scale, and the top bits of its codes. */
void synth_constant_tail(enum tensor_type type, unsigned char *row, uint64_t columns, float deviation)
{
    const struct tensor_type_info *info = tensor_type_info(type);
    uint64_t row_bytes = columns / info->block_size * info->block_bytes;
    if (info->block_size == 1) {
        float values[SYNTH_TAIL];
        for (int i = 0; i < SYNTH_TAIL; i++)
            values[i] = deviation * recipes[type].tail;
        uint64_t bytes = SYNTH_TAIL * (uint64_t)info->block_bytes;
        synth_encode(type, row + row_bytes - bytes, values, SYNTH_TAIL);
        return;
    }
    unsigned char *b = row + row_bytes - info->block_bytes;
    switch (type) {
    case TENSOR_Q4_0: /* codes 12 to 15, less 8 */
    case TENSOR_IQ4_NL:
        b[1] &= 0x7f;
        set_bits(b + 2, 16, 0xcc);
        break;
    case TENSOR_Q4_1: /* codes 8 to 15, no minimum */
        memset(b + 2, 0, 2);
        set_bits(b + 4, 16, 0x88);
        break;
    case TENSOR_Q5_0: /* codes 24 to 31, less 16 */
        b[1] &= 0x7f;
        memset(b + 2, 0xff, 4);
        set_bits(b + 6, 16, 0x88);
        break;
    case TENSOR_Q5_1: /* codes 16 to 31, no minimum */
        memset(b + 2, 0, 2);
        memset(b + 4, 0xff, 4);
        break;
    case TENSOR_Q8_0: /* 64 to 127 */
        for (int i = 2; i < 34; i++)
            b[i] = (unsigned char)((b[i] & 0x7f) | 0x40);
        break;
    case TENSOR_Q2_K: /* scales 11, no minimum, codes 2 and 3 */
        b[14] = b[15] = 11;
        set_bits(b + 16 + 32, 32, 0x80);
        break;
    case TENSOR_Q3_K: /* scales 50 less 32, codes 6 and 7 less 4 */
        set_bits(b, 32, 0x80);
        set_bits(b + 32 + 32, 32, 0x80);
        for (int i = 0; i < 2; i++) {
            b[96 + 6 + i] = (unsigned char)((b[96 + 6 + i] & 0x0f) | 2 << 4);
            b[96 + 10 + i] |= 0xc0;
        }
        break;
    case TENSOR_Q5_K: /* scale 48, no minimum, codes 16 to 31 */
        set_bits(b + 16, 32, 0x80);
        b[4 + 11] = 0;
        b[4 + 3] = (unsigned char)((b[4 + 3] & 0x3f) | 3 << 6);
        b[4 + 7] &= 0x3f;
        break;
    case TENSOR_Q4_K: /* scale 48, no minimum, codes 8 to 15 */
        set_bits(b + 16 + 96, 32, 0x80);
        b[4 + 11] = 0;
        b[4 + 3] = (unsigned char)((b[4 + 3] & 0x3f) | 3 << 6);
        b[4 + 7] &= 0x3f;
        break;
    case TENSOR_Q6_K: /* scales 74, codes 48 to 63 less 32 */
        set_bits(b + 128 + 32, 32, 0xc0);
        b[192 + 14] = b[192 + 15] = 74;
        break;
    default: /* IQ4_XS: scale 48 less 32, the four largest codes */
        b[3] |= 0xc0;
        b[4 + 3] &= 0x0f;
        set_bits(b + 8 + 112, 16, 0xcc);
    }
}

void synth_encode(enum tensor_type type, unsigned char *out, const float *values, uint64_t count)
{
    for (uint64_t i = 0; i < count && (type == TENSOR_F16 || type == TENSOR_BF16); i++) {
        uint16_t half = type == TENSOR_F16 ? float_to_half(values[i]) : float_to_bfloat(values[i]);
        memcpy(out + 2 * i, &half, 2);
    }
    if (type == TENSOR_F32)
        memcpy(out, values, count * sizeof *values);
    for (uint64_t i = 0; i < count && type == TENSOR_Q8_0; i += 32, out += 34) {
        float largest = 0;
        for (int j = 0; j < 32; j++)
            largest = fmaxf(largest, fabsf(values[i + j]));
        uint16_t half = float_to_half(largest / 127);
        float scale = half_to_float(half);
        memcpy(out, &half, 2);
        for (int j = 0; j < 32; j++) {
            float code = scale > 0 ? roundf(values[i + j] / scale) : 0;
            out[2 + j] = (unsigned char)(signed char)fmaxf(-127, fminf(127, code));
        }
    }
}
