/* The operations of few.h, which includes this, with NEON and dot products. The dot product takes two signed sides, and
 * selects four of the sixteen activations in a register. */
#ifndef HYPURA_COMPUTE_FEW_NEON_H
#define HYPURA_COMPUTE_FEW_NEON_H

#include <arm_neon.h>

#define FEW_VARIANT(name) name##_neon
#define FEW_REGISTERS 32
#define FEW_RAISED 0
#define FEW_LEAST_NVFP4 FEW_LEAST

typedef int32x4_t few_ints;
typedef float32x4_t few_floats;

static ALWAYS_INLINE few_ints few_all_bytes(int value)
{
    return vreinterpretq_s32_s8(vdupq_n_s8((int8_t)value));
}

static ALWAYS_INLINE few_ints few_all(int32_t value)
{
    return vdupq_n_s32(value);
}

static ALWAYS_INLINE few_ints few_load(const int32_t *from)
{
    return vld1q_s32(from);
}

static ALWAYS_INLINE void few_store(int32_t *to, few_ints a)
{
    vst1q_s32(to, a);
}

static ALWAYS_INLINE few_ints few_and(few_ints a, few_ints b)
{
    return vandq_s32(a, b);
}

/* (a & mask) | b */
static ALWAYS_INLINE few_ints few_join(few_ints a, few_ints mask, few_ints b)
{
    return vorrq_s32(vandq_s32(a, mask), b);
}

static ALWAYS_INLINE few_ints few_subtract(few_ints a, few_ints b)
{
    return vsubq_s32(a, b);
}

/* Shifts of 16-bit numbers. */
static ALWAYS_INLINE few_ints few_right_16(few_ints a, unsigned bits)
{
    return vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), vdupq_n_s16((int16_t)-bits)));
}

static ALWAYS_INLINE few_ints few_left_16(few_ints a, unsigned bits)
{
    return vreinterpretq_s32_u16(vshlq_u16(vreinterpretq_u16_s32(a), vdupq_n_s16((int16_t)bits)));
}

static ALWAYS_INLINE few_ints few_right(few_ints a, unsigned bits)
{
    return vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-(int32_t)bits)));
}

static ALWAYS_INLINE few_ints few_right_signed(few_ints a, unsigned bits)
{
    return vshlq_s32(a, vdupq_n_s32(-(int32_t)bits));
}

static ALWAYS_INLINE few_ints few_left(few_ints a, unsigned bits)
{
    return vshlq_s32(a, vdupq_n_s32((int32_t)bits));
}

static ALWAYS_INLINE void few_turn(few_ints out[4], const struct few_rows *rows, size_t offset)
{
    int32x4_t a[4];
    for (size_t i = 0; i < 4; i++)
        a[i] = vreinterpretq_s32_u8(vld1q_u8(few_row(rows, i) + offset));
    int64x2_t low01 = vreinterpretq_s64_s32(vzip1q_s32(a[0], a[1]));
    int64x2_t high01 = vreinterpretq_s64_s32(vzip2q_s32(a[0], a[1]));
    int64x2_t low23 = vreinterpretq_s64_s32(vzip1q_s32(a[2], a[3]));
    int64x2_t high23 = vreinterpretq_s64_s32(vzip2q_s32(a[2], a[3]));
    out[0] = vreinterpretq_s32_s64(vzip1q_s64(low01, low23));
    out[1] = vreinterpretq_s32_s64(vzip2q_s64(low01, low23));
    out[2] = vreinterpretq_s32_s64(vzip1q_s64(high01, high23));
    out[3] = vreinterpretq_s32_s64(vzip2q_s64(high01, high23));
}

static ALWAYS_INLINE few_ints few_dot(few_ints start, const few_ints *quants, const int8_t *x, const int count,
                                      const int most)
{
    (void)most;
    for (int k = 0; k < count; k += 4) {
        int8x16_t sixteen = vld1q_s8(x + 4 * k);
        start = vdotq_laneq_s32(start, vreinterpretq_s8_s32(quants[k]), sixteen, 0);
        start = vdotq_laneq_s32(start, vreinterpretq_s8_s32(quants[k + 1]), sixteen, 1);
        start = vdotq_laneq_s32(start, vreinterpretq_s8_s32(quants[k + 2]), sixteen, 2);
        start = vdotq_laneq_s32(start, vreinterpretq_s8_s32(quants[k + 3]), sixteen, 3);
    }
    return start;
}

static ALWAYS_INLINE few_ints few_scale(few_ints scale)
{
    return scale;
}

static ALWAYS_INLINE few_ints few_part(few_ints total, const few_ints *quants, const int8_t *x, const int count,
                                       const int most, few_ints scale)
{
    return vmlaq_s32(total, few_dot(vdupq_n_s32(0), quants, x, count, most), scale);
}

/* Here, pairs are stored as the first numbers of all lanes, then the second ones. */
static ALWAYS_INLINE few_ints few_pair(few_ints a, few_ints b)
{
    return vreinterpretq_s32_s16(vcombine_s16(vmovn_s32(a), vmovn_s32(b)));
}

static ALWAYS_INLINE few_ints few_pairs(const few_ints *pairs, const int16_t *sums, const int count)
{
    int32x4_t sum = vdupq_n_s32(0);
    for (int i = 0; i < count; i++) {
        int16x8_t pair = vreinterpretq_s16_s32(pairs[i]);
        sum = vmlal_n_s16(sum, vget_low_s16(pair), sums[2 * i]);
        sum = vmlal_high_n_s16(sum, pair, sums[2 * i + 1]);
    }
    return sum;
}

/* Sums of 32 activations, from sums of 16. */
static ALWAYS_INLINE void few_part_sums(int16_t parts[8], const int16_t *sums)
{
    vst1q_s16(parts, vpaddq_s16(vld1q_s16(sums), vld1q_s16(sums + 8)));
}

static ALWAYS_INLINE few_ints few_with_sign(few_ints quants)
{
    return quants;
}

static ALWAYS_INLINE few_ints few_table(const int8_t *codes, int raised)
{
    return vreinterpretq_s32_s8(vaddq_s8(vld1q_s8(codes), vdupq_n_s8((int8_t)raised)));
}

static ALWAYS_INLINE few_ints few_look_up(few_ints table, few_ints index)
{
    return vreinterpretq_s32_s8(vqtbl1q_s8(vreinterpretq_s8_s32(table), vreinterpretq_u8_s32(index)));
}

static ALWAYS_INLINE few_ints few_fifth(few_ints bits, const int k)
{
    static const uint8_t lane[16] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};
    uint8x16_t byte = vqtbl1q_u8(vreinterpretq_u8_s32(bits), vaddq_u8(vld1q_u8(lane), vdupq_n_u8((uint8_t)(k / 2))));
    uint8x16_t nibble = vreinterpretq_u8_u32(vdupq_n_u32(k % 2 ? 0x80402010u : 0x08040201u));
    return vreinterpretq_s32_u8(vandq_u8(vtstq_u8(byte, nibble), vdupq_n_u8(16)));
}

static ALWAYS_INLINE few_floats few_halves(few_ints a)
{
    return vcvt_f32_f16(vreinterpret_f16_s16(vmovn_s32(a)));
}

static ALWAYS_INLINE few_floats few_load_halves(const uint16_t *from)
{
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from)));
}

static ALWAYS_INLINE few_floats few_exponents(few_ints a)
{
    int32x4_t e = vandq_s32(a, vdupq_n_s32(255));
    int32x4_t normal = vshlq_n_s32(vsubq_s32(e, vdupq_n_s32(1)), 23);
    int32x4_t subnormal = vshlq_s32(vdupq_n_s32(0x00200000), e);
    return vreinterpretq_f32_s32(vbslq_s32(vcltq_s32(e, vdupq_n_s32(2)), subnormal, normal));
}

static ALWAYS_INLINE few_floats few_load_floats(const float *from)
{
    return vld1q_f32(from);
}

static ALWAYS_INLINE void few_store_floats(float *to, few_floats a)
{
    vst1q_f32(to, a);
}

/* sum + (d * scale) * total; few_take: sum - (d * scale) * total. */
static ALWAYS_INLINE few_floats few_add(few_floats sum, few_floats d, float scale, few_ints total)
{
    return vfmaq_f32(sum, vmulq_n_f32(d, scale), vcvtq_f32_s32(total));
}

static ALWAYS_INLINE few_floats few_take(few_floats sum, few_floats d, float scale, few_ints total)
{
    return vfmsq_f32(sum, vmulq_n_f32(d, scale), vcvtq_f32_s32(total));
}

#endif
