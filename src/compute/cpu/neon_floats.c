/* NEON: matrix times vector for F32, F16 and BF16, four rows at a time; and preparing activations. */
#include "compute/cpu/neon.h"
#include "core/half.h"

/* The operations that floats_gemv.h needs from an instruction set. */
typedef float32x4x4_t sixteen;

static ALWAYS_INLINE sixteen sixteen_zero(void)
{
    sixteen out;
    for (int i = 0; i < 4; i++)
        out.val[i] = vdupq_n_f32(0);
    return out;
}

/* Folds in halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1. */
static ALWAYS_INLINE float sixteen_fold(sixteen sums)
{
    float32x4_t four = vaddq_f32(vaddq_f32(sums.val[0], sums.val[2]), vaddq_f32(sums.val[1], sums.val[3]));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static ALWAYS_INLINE sixteen sixteen_add(sixteen sums, sixteen a, sixteen b)
{
    for (int i = 0; i < 4; i++)
        sums.val[i] = vfmaq_f32(sums.val[i], a.val[i], b.val[i]);
    return sums;
}

static ALWAYS_INLINE sixteen load_f32(const uint8_t *row)
{
    sixteen out;
    for (int i = 0; i < 4; i++)
        out.val[i] = vreinterpretq_f32_u8(vld1q_u8(row + 16 * i));
    return out;
}

static ALWAYS_INLINE sixteen load_f16(const uint8_t *row)
{
    float16x8_t low = vreinterpretq_f16_u8(vld1q_u8(row)), high = vreinterpretq_f16_u8(vld1q_u8(row + 16));
    return (sixteen){{vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)),
                      vcvt_high_f32_f16(high)}};
}

/* Adds the products of four pairs to four sums: the odd column of each pair, then the even one. */
static ALWAYS_INLINE float32x4_t add_pairs(float32x4_t sum, uint32x4_t weights, uint32x4_t x)
{
    const uint32x4_t odd = vdupq_n_u32(0xffff0000u);
    sum = vfmaq_f32(sum, vreinterpretq_f32_u32(vandq_u32(weights, odd)), vreinterpretq_f32_u32(vandq_u32(x, odd)));
    return vfmaq_f32(sum, vreinterpretq_f32_u32(vshlq_n_u32(weights, 16)), vreinterpretq_f32_u32(vshlq_n_u32(x, 16)));
}

static ALWAYS_INLINE void bf16_step(sixteen *sums, struct four_rows *at, const uint16_t *x)
{
    for (int k = 0; k < 4; k++) {
        uint32x4_t values = vreinterpretq_u32_u16(vld1q_u16(x + 8 * k));
        for (int i = 0; i < 4; i++) {
            uint32x4_t row = vreinterpretq_u32_u8(vld1q_u8(at->at[i] + 16 * k));
            sums[i].val[k] = add_pairs(sums[i].val[k], row, values);
        }
    }
    for (int i = 0; i < 4; i++)
        at->at[i] += 64;
}

#include "compute/cpu/floats_gemv.h"

/* ---- activations ------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE int8x16_t quantize_16(const float *values, float inverse)
{
    int32x4_t rounded[4];
    for (int i = 0; i < 4; i++)
        rounded[i] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(values + 4 * i), inverse));
    int16x8_t low = vcombine_s16(vqmovn_s32(rounded[0]), vqmovn_s32(rounded[1]));
    int16x8_t high = vcombine_s16(vqmovn_s32(rounded[2]), vqmovn_s32(rounded[3]));
    return vcombine_s8(vqmovn_s16(low), vqmovn_s16(high));
}

static ALWAYS_INLINE void prepare(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns,
                                  size_t block, size_t part)
{
    for (size_t c = 0; c < align_up(columns, ACTIVATION_PADDING); c += block) {
        float copy[256];
        const float *in = values + c;
        if (c + block > columns) {
            size_t count = c < columns ? columns - c : 0;
            memset(copy, 0, sizeof copy);
            memcpy(copy, values + MIN(c, columns), count * sizeof *copy);
            in = copy;
        }
        float32x4_t greatest = vdupq_n_f32(0);
        for (size_t i = 0; i < block; i += 4)
            greatest = vmaxnmq_f32(greatest, vabsq_f32(vld1q_f32(in + i)));
        float most = vmaxnmvq_f32(greatest);
        *scales++ = most / 127.0f;
        float inverse = most > 0 ? 127.0f / most : 0;
        int sum = 0;
        for (size_t i = 0; i < block; i += 16) {
            int8x16_t bytes = quantize_16(in + i, inverse);
            vst1q_s8(quants + c + i, bytes);
            sum += vaddlvq_s8(bytes);
            if ((i + 16) % part == 0) {
                *sums++ = (int16_t)sum;
                sum = 0;
            }
        }
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

static void store_half(uint16_t *out, const float *values, size_t count)
{
    size_t i = 0;
    for (; i + 4 <= count; i += 4)
        vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(values + i))));
    for (; i < count; i++)
        out[i] = float_to_half(values[i]);
}

const struct kernel_table kernels_neon_floats = {
    .types[TENSOR_F32] = {.gemv = gemv_f32},
    .types[TENSOR_F16] = {.gemv = gemv_f16},
    .types[TENSOR_BF16] = {.gemv = gemv_bf16},
    .store_half = store_half,
    .prepare_q8_32 = prepare_q8_32,
    .prepare_q8_256 = prepare_q8_256,
};
