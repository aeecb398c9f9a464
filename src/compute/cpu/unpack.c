#include "compute/cpu/unpack.h"

#include "compute/cpu/blocks.h"
#include "compute/cpu/grids.h"
#include "core/half.h"

#include <stdbool.h>
#include <string.h>

static void start(struct unpacked *out, uint16_t d)
{
    out->d = half_to_float(d);
    out->m = 0;
    for (int i = 0; i < 16; i++) {
        out->scales[i] = 1;
        out->minima[i] = 0;
    }
}

/* ---- blocks of 32 ------------------------------------------------------------------------------------------------ */

static void nibbles(int8_t *out, const uint8_t *qs, int offset)
{
    for (int j = 0; j < 16; j++) {
        out[j] = (int8_t)((qs[j] & 15) - offset);
        out[j + 16] = (int8_t)((qs[j] >> 4) - offset);
    }
}

static void q4_0(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q4_0 *block = (const void *)bytes;
    start(out, block->d);
    nibbles(out->quants, block->qs, 8);
}

/* Values are d * q + m, so the minimum is -m. */
static void start_with_minimum(struct unpacked *out, uint16_t d, uint16_t m)
{
    start(out, d);
    out->m = -half_to_float(m);
    out->minima[0] = out->minima[1] = 1;
}

static void q4_1(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q4_1 *block = (const void *)bytes;
    start_with_minimum(out, block->d, block->m);
    nibbles(out->quants, block->qs, 0);
}

static void fifth_bits(int8_t *quants, const uint8_t *qh)
{
    for (int j = 0; j < 32; j++)
        quants[j] = (int8_t)(quants[j] + ((qh[j / 8] >> (j % 8) & 1) << 4));
}

static void q5_0(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q5_0 *block = (const void *)bytes;
    start(out, block->d);
    nibbles(out->quants, block->qs, 16);
    fifth_bits(out->quants, block->qh);
}

static void q5_1(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q5_1 *block = (const void *)bytes;
    start_with_minimum(out, block->d, block->m);
    nibbles(out->quants, block->qs, 0);
    fifth_bits(out->quants, block->qh);
}

static void codes(int8_t *out, const uint8_t *qs, const int8_t *codebook)
{
    for (int j = 0; j < 16; j++) {
        out[j] = codebook[qs[j] & 15];
        out[j + 16] = codebook[qs[j] >> 4];
    }
}

static void iq4_nl(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_iq4_nl *block = (const void *)bytes;
    start(out, block->d);
    codes(out->quants, block->qs, codebook_iq4);
}

/* The codebook is doubled, so the scale is 2^(e - 128). Its two smallest values are subnormal. */
static void mxfp4(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_mxfp4 *block = (const void *)bytes;
    start(out, 0);
    out->d = float_from_bits(block->e < 2 ? 0x00200000u << block->e : (uint32_t)(block->e - 1) << 23);
    codes(out->quants, block->qs, codebook_e2m1);
}

static void nvfp4(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_nvfp4 *block = (const void *)bytes;
    start(out, 0);
    for (int part = 0; part < 4; part++) {
        out->parts[part] = scales_ue4m3[block->d[part]];
        for (int j = 0; j < 8; j++) {
            uint8_t both = block->qs[8 * part + j];
            out->quants[16 * part + j] = codebook_e2m1[both & 15];
            out->quants[16 * part + 8 + j] = codebook_e2m1[both >> 4];
        }
    }
}

static void q8_0(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q8_0 *block = (const void *)bytes;
    start(out, block->d);
    memcpy(out->quants, block->qs, 32);
}

/* ---- super-blocks ------------------------------------------------------------------------------------------------ */

/* Eight 6-bit scales and eight 6-bit minima in 12 bytes: bytes 0-3 and 4-7 have the first four of each, with the two
 * high bits of the last four on top; bytes 8-11 have the low halves of the last four. */
static void scales_6bit(struct unpacked *out, const uint8_t *packed)
{
    for (int j = 0; j < 8; j++) {
        int scale, minimum;
        if (j < 4) {
            scale = packed[j] & 63;
            minimum = packed[j + 4] & 63;
        } else {
            scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
            minimum = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
        }
        out->scales[2 * j] = out->scales[2 * j + 1] = (int16_t)scale;
        out->minima[2 * j] = out->minima[2 * j + 1] = (int16_t)minimum;
    }
}

static void q4_k(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q4_k *block = (const void *)bytes;
    start(out, block->d);
    out->m = half_to_float(block->dmin);
    scales_6bit(out, block->scales);
    for (int part = 0; part < 4; part++) {
        int8_t *quants = out->quants + 64 * part;
        const uint8_t *qs = block->qs + 32 * part;
        for (int j = 0; j < 32; j++) {
            quants[j] = (int8_t)(qs[j] & 15);
            quants[j + 32] = (int8_t)(qs[j] >> 4);
        }
    }
}

static void q5_k(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q5_k *block = (const void *)bytes;
    start(out, block->d);
    out->m = half_to_float(block->dmin);
    scales_6bit(out, block->scales);
    for (int part = 0; part < 4; part++) {
        int8_t *quants = out->quants + 64 * part;
        const uint8_t *qs = block->qs + 32 * part;
        for (int j = 0; j < 32; j++) {
            uint8_t high = (uint8_t)(block->qh[j] >> (2 * part));
            quants[j] = (int8_t)((qs[j] & 15) | (high & 1) << 4);
            quants[j + 32] = (int8_t)(qs[j] >> 4 | (high & 2) << 3);
        }
    }
}

static void q6_k(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q6_k *block = (const void *)bytes;
    start(out, block->d);
    for (int i = 0; i < 16; i++)
        out->scales[i] = block->scales[i];
    for (int half = 0; half < 2; half++) {
        int8_t *quants = out->quants + 128 * half;
        const uint8_t *ql = block->ql + 64 * half, *qh = block->qh + 32 * half;
        for (int j = 0; j < 32; j++) {
            quants[j] = (int8_t)(((ql[j] & 15) | (qh[j] & 3) << 4) - 32);
            quants[j + 32] = (int8_t)(((ql[j + 32] & 15) | (qh[j] & 12) << 2) - 32);
            quants[j + 64] = (int8_t)((ql[j] >> 4 | (qh[j] & 48)) - 32);
            quants[j + 96] = (int8_t)((ql[j + 32] >> 4 | (qh[j] & 192) >> 2) - 32);
        }
    }
}

/* Two-bit quants: byte j of a half has, lowest bits first, element j of each of the half's four parts of 32. */
static void two_bits(int8_t *out, const uint8_t *qs, int offset)
{
    for (int half = 0; half < 2; half++, out += 128, qs += 32) {
        for (int j = 0; j < 32; j++) {
            out[j] = (int8_t)((qs[j] & 3) - offset);
            out[j + 32] = (int8_t)((qs[j] >> 2 & 3) - offset);
            out[j + 64] = (int8_t)((qs[j] >> 4 & 3) - offset);
            out[j + 96] = (int8_t)((qs[j] >> 6) - offset);
        }
    }
}

static void q2_k(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q2_k *block = (const void *)bytes;
    start(out, block->d);
    out->m = half_to_float(block->dmin);
    for (int i = 0; i < 16; i++) {
        out->scales[i] = block->scales[i] & 15;
        out->minima[i] = block->scales[i] >> 4;
    }
    two_bits(out->quants, block->qs, 0);
}

static void q3_k(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q3_k *block = (const void *)bytes;
    start(out, block->d);
    for (int i = 0; i < 16; i++) {
        int low = block->scales[i % 8] >> (i / 8 * 4) & 15;
        int high = block->scales[8 + i % 4] >> (i / 4 * 2) & 3;
        out->scales[i] = (int16_t)((low | high << 4) - 32);
    }
    two_bits(out->quants, block->qs, 4);
    for (int part = 0; part < 8; part++)
        for (int j = 0; j < 32; j++)
            out->quants[32 * part + j] = (int8_t)(out->quants[32 * part + j] + (block->hmask[j] >> part & 1) * 4);
}

static void iq4_xs(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_iq4_xs *block = (const void *)bytes;
    start(out, block->d);
    for (int j = 0; j < 8; j++) {
        int low = block->scales_l[j / 2] >> (j % 2 * 4) & 15;
        int high = block->scales_h >> (2 * j) & 3;
        out->scales[2 * j] = out->scales[2 * j + 1] = (int16_t)((low | high << 4) - 32);
        codes(out->quants + 32 * j, block->qs + 16 * j, codebook_iq4);
    }
}

/* ---- ternary ----------------------------------------------------------------------------------------------------- */

/* Digit n of a byte of base-3 digits. The byte is a fraction of 256, and its first digit is the highest. */
static int8_t ternary_digit(uint8_t byte, int n)
{
    static const uint8_t powers[] = {1, 3, 9, 27, 81};
    uint8_t rest = (uint8_t)(byte * powers[n]);
    return (int8_t)((rest * 3 >> 8) - 1);
}

static void tq1_0(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_tq1_0 *block = (const void *)bytes;
    start(out, block->d);
    for (int digit = 0; digit < 5; digit++) {
        for (int j = 0; j < 32; j++)
            out->quants[32 * digit + j] = ternary_digit(block->qs[j], digit);
        for (int j = 0; j < 16; j++)
            out->quants[160 + 16 * digit + j] = ternary_digit(block->qs[32 + j], digit);
    }
    for (int i = 0; i < 16; i++)
        out->quants[240 + i] = ternary_digit(block->qh[i % 4], i / 4);
}

static void tq2_0(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_tq2_0 *block = (const void *)bytes;
    start(out, block->d);
    two_bits(out->quants, block->qs, 1);
}

/* ---- codebooks --------------------------------------------------------------------------------------------------- */

static uint32_t load_32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* Writes count elements, lowest byte first, negated if their sign bit is set. It negates all bytes at once: bit i
 * becomes a mask in byte i, and the masked bytes are inverted and incremented. No element is 0, so nothing is carried.
 */
static void entry(int8_t *out, uint64_t grid, uint32_t signs, size_t count)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t bits = (signs & 255) * ones & 0x8040201008040201u;
    uint64_t negative = (bits + 0x7f * ones) >> 7 & ones;
    uint64_t values = (grid ^ negative * 255) + negative;
    for (size_t i = 0; i < count; i++)
        out[i] = (int8_t)(uint8_t)(values >> (8 * i));
}

/* The scales of IQ2 and IQ3_XXS are (s + 1/2) / 4 or (s + 1/2) / 2. They become 2s + 1, and d gets the rest. */
static void start_scaled(struct unpacked *out, uint16_t d, float factor)
{
    start(out, d);
    out->d *= factor;
}

static void iq2_xxs(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_iq2_xxs *block = (const void *)bytes;
    start_scaled(out, block->d, 0.125f);
    for (int j = 0; j < 8; j++) {
        uint32_t rest = load_32(block->qs + 8 * j + 4), signs = even_signs_4(rest);
        out->scales[2 * j] = out->scales[2 * j + 1] = (int16_t)(2 * (rest >> 28) + 1);
        for (int k = 0; k < 4; k++)
            entry(out->quants + 32 * j + 8 * k, grid_iq2_xxs[block->qs[8 * j + k]], signs >> (8 * k), 8);
    }
}

static void scales_4bit(struct unpacked *out, const uint8_t *scales)
{
    for (int i = 0; i < 16; i++)
        out->scales[i] = (int16_t)(2 * (scales[i / 2] >> (i % 2 * 4) & 15) + 1);
}

static void iq2_xs(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_iq2_xs *block = (const void *)bytes;
    start_scaled(out, block->d, 0.125f);
    scales_4bit(out, block->scales);
    for (int k = 0; k < 32; k++) {
        uint32_t index = (uint32_t)(block->qs[2 * k] | block->qs[2 * k + 1] << 8);
        entry(out->quants + 8 * k, grid_iq2_xs[index & 511], even_signs(index >> 9), 8);
    }
}

static void iq2_s(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_iq2_s *block = (const void *)bytes;
    start_scaled(out, block->d, 0.125f);
    scales_4bit(out, block->scales);
    for (int k = 0; k < 32; k++) {
        uint32_t index = block->qs[k] | (block->qh[k / 4] >> (k % 4 * 2) & 3u) << 8;
        entry(out->quants + 8 * k, grid_iq2_s[index], block->signs[k], 8);
    }
}

static void iq3_xxs(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_iq3_xxs *block = (const void *)bytes;
    start_scaled(out, block->d, 0.25f);
    for (int j = 0; j < 8; j++) {
        uint32_t rest = load_32(block->signs + 4 * j), signs = even_signs_4(rest);
        out->scales[2 * j] = out->scales[2 * j + 1] = (int16_t)(2 * (rest >> 28) + 1);
        for (int k = 0; k < 8; k++)
            entry(out->quants + 32 * j + 4 * k, grid_iq3_xxs[block->qs[8 * j + k]], signs >> (4 * k), 4);
    }
}

static void iq3_s(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_iq3_s *block = (const void *)bytes;
    start(out, block->d);
    for (int j = 0; j < 8; j++) {
        int scale = block->scales[j / 2] >> (j % 2 * 4) & 15;
        out->scales[2 * j] = out->scales[2 * j + 1] = (int16_t)(2 * scale + 1);
    }
    for (int k = 0; k < 64; k++) {
        uint32_t index = block->qs[k] | (block->qh[k / 8] >> (k % 8) & 1u) << 8;
        entry(out->quants + 4 * k, grid_iq3_s[index], block->signs[k / 2] >> (k % 2 * 4), 4);
    }
}

/* Eight elements of IQ1, in eighths: entries are 8 too high, and delta is an eighth up or down. */
static void entry_iq1(int8_t *out, uint32_t index, bool down)
{
    entry(out, grid_iq1[index], 0, 8);
    for (int i = 0; i < 8; i++)
        out[i] = (int8_t)(out[i] - 8 + (down ? -1 : 1));
}

static void iq1_s(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_iq1_s *block = (const void *)bytes;
    start_scaled(out, block->d, 0.125f);
    for (int j = 0; j < 8; j++) {
        uint32_t high = (uint32_t)(block->qh[2 * j] | block->qh[2 * j + 1] << 8);
        out->scales[2 * j] = out->scales[2 * j + 1] = (int16_t)(2 * (high >> 12 & 7) + 1);
        for (int k = 0; k < 4; k++)
            entry_iq1(out->quants + 32 * j + 8 * k, block->qs[4 * j + k] | (high >> (3 * k) & 7) << 8, high >> 15);
    }
}

static void iq1_m(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_iq1_m *block = (const void *)bytes;
    uint32_t words[4], d = 0;
    for (int i = 0; i < 4; i++) {
        words[i] = (uint32_t)(block->scales[2 * i] | block->scales[2 * i + 1] << 8);
        d |= words[i] >> 12 << (4 * i);
    }
    start_scaled(out, (uint16_t)d, 0.125f);
    for (int i = 0; i < 16; i++)
        out->scales[i] = (int16_t)(2 * (words[i / 4] >> (i % 4 * 3) & 7) + 1);
    for (int k = 0; k < 32; k++) {
        uint32_t high = block->qh[k / 2] >> (k % 2 * 4) & 15u;
        entry_iq1(out->quants + 8 * k, block->qs[k] | (high & 7) << 8, high >> 3);
    }
}

static const struct unpacker unpackers[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_0] = {q4_0, 32, sizeof(struct block_q4_0), false},
    [TENSOR_Q4_1] = {q4_1, 32, sizeof(struct block_q4_1), true},
    [TENSOR_Q5_0] = {q5_0, 32, sizeof(struct block_q5_0), false},
    [TENSOR_Q5_1] = {q5_1, 32, sizeof(struct block_q5_1), true},
    [TENSOR_Q8_0] = {q8_0, 32, sizeof(struct block_q8_0), false},
    [TENSOR_IQ4_NL] = {iq4_nl, 32, sizeof(struct block_iq4_nl), false},
    [TENSOR_MXFP4] = {mxfp4, 32, sizeof(struct block_mxfp4), false},
    [TENSOR_NVFP4] = {nvfp4, 64, sizeof(struct block_nvfp4), false},
    [TENSOR_Q2_K] = {q2_k, 256, sizeof(struct block_q2_k), true},
    [TENSOR_Q3_K] = {q3_k, 256, sizeof(struct block_q3_k), false},
    [TENSOR_Q4_K] = {q4_k, 256, sizeof(struct block_q4_k), true},
    [TENSOR_Q5_K] = {q5_k, 256, sizeof(struct block_q5_k), true},
    [TENSOR_Q6_K] = {q6_k, 256, sizeof(struct block_q6_k), false},
    [TENSOR_IQ1_S] = {iq1_s, 256, sizeof(struct block_iq1_s), false},
    [TENSOR_IQ1_M] = {iq1_m, 256, sizeof(struct block_iq1_m), false},
    [TENSOR_IQ2_XXS] = {iq2_xxs, 256, sizeof(struct block_iq2_xxs), false},
    [TENSOR_IQ2_XS] = {iq2_xs, 256, sizeof(struct block_iq2_xs), false},
    [TENSOR_IQ2_S] = {iq2_s, 256, sizeof(struct block_iq2_s), false},
    [TENSOR_IQ3_XXS] = {iq3_xxs, 256, sizeof(struct block_iq3_xxs), false},
    [TENSOR_IQ3_S] = {iq3_s, 256, sizeof(struct block_iq3_s), false},
    [TENSOR_IQ4_XS] = {iq4_xs, 256, sizeof(struct block_iq4_xs), false},
    [TENSOR_TQ1_0] = {tq1_0, 256, sizeof(struct block_tq1_0), false},
    [TENSOR_TQ2_0] = {tq2_0, 256, sizeof(struct block_tq2_0), false},
};

const struct unpacker *unpacker_find(enum tensor_type type)
{
    return (unsigned)type < TENSOR_TYPE_COUNT && unpackers[type].unpack ? &unpackers[type] : NULL;
}
