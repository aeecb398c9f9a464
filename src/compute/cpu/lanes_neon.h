/* The operations of lanes.h, which includes this, in NEON. */
#ifndef HYPURA_LANES_NEON_H
#define HYPURA_LANES_NEON_H

#include <arm_neon.h>

#define VARIANT(name) name##_neon
#define LANES_TILE_ROWS 6
#define LANES_TILE_VECTORS 1

typedef struct {
    float32x4_t a, b, c, d;
} lanes;

#define LANES_EACH(operation)                                                                                          \
    (lanes)                                                                                                            \
    {                                                                                                                  \
        operation(x.a, y.a), operation(x.b, y.b), operation(x.c, y.c), operation(x.d, y.d)                             \
    }

static inline lanes lanes_all(float value)
{
    float32x4_t q = vdupq_n_f32(value);
    return (lanes){q, q, q, q};
}

static inline lanes lanes_load(const float *from)
{
    return (lanes){vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)};
}

static inline void lanes_store(float *to, lanes x)
{
    vst1q_f32(to, x.a);
    vst1q_f32(to + 4, x.b);
    vst1q_f32(to + 8, x.c);
    vst1q_f32(to + 12, x.d);
}

static inline lanes lanes_add(lanes x, lanes y)
{
    return LANES_EACH(vaddq_f32);
}

static inline lanes lanes_subtract(lanes x, lanes y)
{
    return LANES_EACH(vsubq_f32);
}

static inline lanes lanes_multiply(lanes x, lanes y)
{
    return LANES_EACH(vmulq_f32);
}

static inline lanes lanes_divide(lanes x, lanes y)
{
    return LANES_EACH(vdivq_f32);
}

static inline lanes lanes_fma(lanes x, lanes y, lanes z)
{
    return (lanes){vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c),
                   vfmaq_f32(z.d, x.d, y.d)};
}

static inline lanes lanes_fma_negated(lanes x, lanes y, lanes z)
{
    return (lanes){vfmsq_f32(z.a, x.a, y.a), vfmsq_f32(z.b, x.b, y.b), vfmsq_f32(z.c, x.c, y.c),
                   vfmsq_f32(z.d, x.d, y.d)};
}

static inline float32x4_t lanes_four_max(float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vcgtq_f32(x, y), x, y);
}

static inline float32x4_t lanes_four_min(float32x4_t x, float32x4_t y)
{
    return vbslq_f32(vcltq_f32(x, y), x, y);
}

static inline lanes lanes_max(lanes x, lanes y)
{
    return LANES_EACH(lanes_four_max);
}

static inline lanes lanes_min(lanes x, lanes y)
{
    return LANES_EACH(lanes_four_min);
}

static inline float lanes_one_from_half(uint16_t half)
{
    return vgetq_lane_f32(vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half))), 0);
}

static inline lanes lanes_from_half(const uint16_t *from)
{
    float16x8_t low = vreinterpretq_f16_u16(vld1q_u16(from));
    float16x8_t high = vreinterpretq_f16_u16(vld1q_u16(from + 8));
    return (lanes){vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low), vcvt_f32_f16(vget_low_f16(high)),
                   vcvt_high_f32_f16(high)};
}

static inline lanes lanes_from_bfloat(const uint16_t *from)
{
    uint16x8_t low = vld1q_u16(from);
    uint16x8_t high = vld1q_u16(from + 8);
    return (lanes){
        vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(low), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(low, 16)),
        vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(high), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(high, 16))};
}

static inline lanes lanes_from_int8(const int8_t *from)
{
    int8x16_t bytes = vld1q_s8(from);
    int16x8_t low = vmovl_s8(vget_low_s8(bytes));
    int16x8_t high = vmovl_high_s8(bytes);
    return (lanes){vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
                   vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
}

static inline float32x4_t lanes_four_times_power(float32x4_t a, float32x4_t n)
{
    int32x4_t whole = vsubq_s32(vreinterpretq_s32_f32(n), vdupq_n_s32(0x4b400000));
    int32x4_t half = vshrq_n_s32(whole, 1);
    int32x4_t rest = vsubq_s32(whole, half);
    int32x4_t bias = vdupq_n_s32(127);
    float32x4_t first = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(half, bias), 23));
    float32x4_t second = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(rest, bias), 23));
    return vmulq_f32(vmulq_f32(a, first), second);
}

static inline lanes lanes_times_power(lanes x, lanes y)
{
    return LANES_EACH(lanes_four_times_power);
}

static inline float lanes_fold_add(lanes x)
{
    float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

static inline float lanes_fold_max(lanes x)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.c), vmaxq_f32(x.b, x.d)));
}

static inline void lanes_transpose(lanes x[LANES])
{
    float in[LANES][LANES];
    for (int i = 0; i < LANES; i++)
        lanes_store(in[i], x[i]);
    for (int j = 0; j < LANES; j += 4) {
        float32x4_t out[4][4];
        for (int i = 0; i < LANES; i += 4) {
            float32x4x2_t low = vtrnq_f32(vld1q_f32(&in[i][j]), vld1q_f32(&in[i + 1][j]));
            float32x4x2_t high = vtrnq_f32(vld1q_f32(&in[i + 2][j]), vld1q_f32(&in[i + 3][j]));
            out[0][i / 4] = vcombine_f32(vget_low_f32(low.val[0]), vget_low_f32(high.val[0]));
            out[1][i / 4] = vcombine_f32(vget_low_f32(low.val[1]), vget_low_f32(high.val[1]));
            out[2][i / 4] = vcombine_f32(vget_high_f32(low.val[0]), vget_high_f32(high.val[0]));
            out[3][i / 4] = vcombine_f32(vget_high_f32(low.val[1]), vget_high_f32(high.val[1]));
        }
        for (int k = 0; k < 4; k++)
            x[j + k] = (lanes){out[k][0], out[k][1], out[k][2], out[k][3]};
    }
}

#endif
