/* Functions that the NEON kernels share. */
#ifndef HYPURA_COMPUTE_NEON_H
#define HYPURA_COMPUTE_NEON_H

#include "compute/cpu/four_rows.h"

#include <arm_neon.h>
#include <string.h>

static ALWAYS_INLINE float32x4_t four_halves(const struct four_rows *rows, size_t offset)
{
    uint16_t words[4];
    for (int i = 0; i < 4; i++)
        memcpy(&words[i], rows->at[i] + offset, sizeof words[i]);
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(words)));
}

static ALWAYS_INLINE void store_4(float *out, float32x4_t sums, size_t left)
{
    float values[4];
    vst1q_f32(values, sums);
    memcpy(out, values, MIN(left, (size_t)4) * sizeof *out);
}

/* The sum of each of four vectors, in order. */
static ALWAYS_INLINE int32x4_t sum_4(const int32x4_t *sums)
{
    return vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
}

#endif
