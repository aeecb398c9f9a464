#include "compute/cpu/unpack.h"

#include "compute/cpu/blocks.h"
#include "core/half.h"

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

/* ---- blocks of 32 -------------------------------------------------------------------------------------------------
 */

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

static void q8_0(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q8_0 *block = (const void *)bytes;
    start(out, block->d);
    memcpy(out->quants, block->qs, 32);
}

/* ---- super-blocks -------------------------------------------------------------------------------------------------
 */

/* Eight 6-bit scales and eight 6-bit minima in 12 bytes: bytes 0-3 and 4-7 hold the first four of each, with the high
 * bits of the last four on top; bytes 8-11 their low halves. */
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
    for (int i = 0; i < 256; i++) {
        uint8_t pair = block->qs[i / 64 * 32 + i % 32];
        out->quants[i] = (int8_t)(i % 64 < 32 ? pair & 15 : pair >> 4);
    }
}

static void q5_k(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q5_k *block = (const void *)bytes;
    start(out, block->d);
    out->m = half_to_float(block->dmin);
    scales_6bit(out, block->scales);
    for (int i = 0; i < 256; i++) {
        uint8_t pair = block->qs[i / 64 * 32 + i % 32];
        int high = block->qh[i % 32] >> (i / 32) & 1;
        out->quants[i] = (int8_t)((i % 64 < 32 ? pair & 15 : pair >> 4) | high << 4);
    }
}

static void q6_k(struct unpacked *out, const uint8_t *bytes)
{
    const struct block_q6_k *block = (const void *)bytes;
    start(out, block->d);
    for (int i = 0; i < 16; i++)
        out->scales[i] = block->scales[i];
    for (int i = 0; i < 256; i++) {
        int half = i / 128, part = i % 128 / 32, j = i % 32;
        uint8_t pair = block->ql[half * 64 + part % 2 * 32 + j];
        int low = part < 2 ? pair & 15 : pair >> 4;
        int high = block->qh[half * 32 + j] >> (2 * part) & 3;
        out->quants[i] = (int8_t)((low | high << 4) - 32);
    }
}

static const struct unpacker unpackers[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_0] = {q4_0, 32, sizeof(struct block_q4_0), false},
    [TENSOR_Q8_0] = {q8_0, 32, sizeof(struct block_q8_0), false},
    [TENSOR_Q4_K] = {q4_k, 256, sizeof(struct block_q4_k), true},
    [TENSOR_Q5_K] = {q5_k, 256, sizeof(struct block_q5_k), true},
    [TENSOR_Q6_K] = {q6_k, 256, sizeof(struct block_q6_k), false},
};

const struct unpacker *unpacker_find(enum tensor_type type)
{
    return (unsigned)type < TENSOR_TYPE_COUNT && unpackers[type].unpack ? &unpackers[type] : NULL;
}
