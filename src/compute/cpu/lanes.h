/* Sixteen floats as one value, on every instruction set: one zmm, two ymm, four NEON registers, or an array.
 *
 * A kernel that is written with these and built once for each instruction set gives the same bits from each build,
 * because every operation here is one IEEE operation on each lane and the folds have one order. VARIANT(name) is the
 * name with the instruction set behind it.
 */
#ifndef HYPURA_LANES_H
#define HYPURA_LANES_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "core/half.h"

#define LANES 16

#if !defined(PLAIN_KERNELS) && defined(__AVX512F__)

#include <immintrin.h>

#define VARIANT(name) name##_avx512
#define LANES_TILE_ROWS 6
#define LANES_TILE_VECTORS 4

typedef __m512 lanes;

static inline lanes lanes_all(float value)
{
    return _mm512_set1_ps(value);
}

static inline lanes lanes_load(const float *from)
{
    return _mm512_loadu_ps(from);
}

static inline void lanes_store(float *to, lanes a)
{
    _mm512_storeu_ps(to, a);
}

static inline lanes lanes_add(lanes a, lanes b)
{
    return _mm512_add_ps(a, b);
}

static inline lanes lanes_subtract(lanes a, lanes b)
{
    return _mm512_sub_ps(a, b);
}

static inline lanes lanes_multiply(lanes a, lanes b)
{
    return _mm512_mul_ps(a, b);
}

static inline lanes lanes_divide(lanes a, lanes b)
{
    return _mm512_div_ps(a, b);
}

static inline lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* c - a * b, rounded once. */
static inline lanes lanes_fma_negated(lanes a, lanes b, lanes c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

/* a > b ? a : b, so that b comes out where either is not a number. */
static inline lanes lanes_max(lanes a, lanes b)
{
    return _mm512_max_ps(a, b);
}

static inline lanes lanes_min(lanes a, lanes b)
{
    return _mm512_min_ps(a, b);
}

static inline float lanes_one_from_half(uint16_t half)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

static inline lanes lanes_from_half(const uint16_t *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}

static inline lanes lanes_from_bfloat(const uint16_t *from)
{
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

static inline lanes lanes_from_int8(const int8_t *from)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
}

/* a times 2 to the power of the integer in the low bits of n, which was made by adding 1.5 * 2^23; |integer| <= 150. */
static inline lanes lanes_times_power(lanes a, lanes n)
{
    __m512i whole = _mm512_sub_epi32(_mm512_castps_si512(n), _mm512_set1_epi32(0x4b400000));
    __m512i half = _mm512_srai_epi32(whole, 1);
    __m512i rest = _mm512_sub_epi32(whole, half);
    __m512i bias = _mm512_set1_epi32(127);
    __m512 first = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(half, bias), 23));
    __m512 second = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(rest, bias), 23));
    return _mm512_mul_ps(_mm512_mul_ps(a, first), second);
}

static inline __m256 lanes_halves_add(__m512 a)
{
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)));
}

static inline float lanes_fold_add(lanes a)
{
    __m256 eight = lanes_halves_add(a);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float lanes_fold_max(lanes a)
{
    return _mm512_reduce_max_ps(a);
}

static inline void lanes_transpose(lanes a[LANES])
{
    __m512 b[LANES];
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 2) {
        b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < LANES; i += 4) {
#pragma GCC unroll 8
        for (int j = 0; j < 2; j++) {
            __m512d low = _mm512_castps_pd(b[i + j]), high = _mm512_castps_pd(b[i + 2 + j]);
            a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
            a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
        }
    }
    /* a[4 g + j] has column 4 l + j of rows 4 g .. 4 g + 3 in its 128-bit lane l. */
#pragma GCC unroll 8
    for (int j = 0; j < 4; j++) {
        b[j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x44);
        b[4 + j] = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xee);
        b[8 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x44);
        b[12 + j] = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xee);
    }
#pragma GCC unroll 8
    for (int j = 0; j < 4; j++) {
        a[j] = _mm512_shuffle_f32x4(b[j], b[8 + j], 0x88);
        a[4 + j] = _mm512_shuffle_f32x4(b[j], b[8 + j], 0xdd);
        a[8 + j] = _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0x88);
        a[12 + j] = _mm512_shuffle_f32x4(b[4 + j], b[12 + j], 0xdd);
    }
}

#elif !defined(PLAIN_KERNELS) && defined(__AVX2__)

#include <immintrin.h>

#define VARIANT(name) name##_avx2
#define LANES_TILE_ROWS 6
#define LANES_TILE_VECTORS 1

typedef struct {
    __m256 a, b;
} lanes;

#define LANES_EACH(operation)                                                                                          \
    (lanes)                                                                                                            \
    {                                                                                                                  \
        operation(x.a, y.a), operation(x.b, y.b)                                                                       \
    }

static inline lanes lanes_all(float value)
{
    return (lanes){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}

static inline lanes lanes_load(const float *from)
{
    return (lanes){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}

static inline void lanes_store(float *to, lanes x)
{
    _mm256_storeu_ps(to, x.a);
    _mm256_storeu_ps(to + 8, x.b);
}

static inline lanes lanes_add(lanes x, lanes y)
{
    return LANES_EACH(_mm256_add_ps);
}

static inline lanes lanes_subtract(lanes x, lanes y)
{
    return LANES_EACH(_mm256_sub_ps);
}

static inline lanes lanes_multiply(lanes x, lanes y)
{
    return LANES_EACH(_mm256_mul_ps);
}

static inline lanes lanes_divide(lanes x, lanes y)
{
    return LANES_EACH(_mm256_div_ps);
}

static inline lanes lanes_fma(lanes x, lanes y, lanes z)
{
    return (lanes){_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}

static inline lanes lanes_fma_negated(lanes x, lanes y, lanes z)
{
    return (lanes){_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)};
}

static inline lanes lanes_max(lanes x, lanes y)
{
    return LANES_EACH(_mm256_max_ps);
}

static inline lanes lanes_min(lanes x, lanes y)
{
    return LANES_EACH(_mm256_min_ps);
}

static inline float lanes_one_from_half(uint16_t half)
{
    return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

static inline lanes lanes_from_half(const uint16_t *from)
{
    return (lanes){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
                   _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 8)))};
}

static inline __m256 lanes_eight_from_bfloat(const uint16_t *from)
{
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}

static inline lanes lanes_from_bfloat(const uint16_t *from)
{
    return (lanes){lanes_eight_from_bfloat(from), lanes_eight_from_bfloat(from + 8)};
}

static inline __m256 lanes_eight_from_int8(const int8_t *from)
{
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}

static inline lanes lanes_from_int8(const int8_t *from)
{
    return (lanes){lanes_eight_from_int8(from), lanes_eight_from_int8(from + 8)};
}

static inline __m256 lanes_eight_times_power(__m256 a, __m256 n)
{
    __m256i whole = _mm256_sub_epi32(_mm256_castps_si256(n), _mm256_set1_epi32(0x4b400000));
    __m256i half = _mm256_srai_epi32(whole, 1);
    __m256i rest = _mm256_sub_epi32(whole, half);
    __m256i bias = _mm256_set1_epi32(127);
    __m256 first = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(half, bias), 23));
    __m256 second = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(rest, bias), 23));
    return _mm256_mul_ps(_mm256_mul_ps(a, first), second);
}

static inline lanes lanes_times_power(lanes x, lanes y)
{
    return LANES_EACH(lanes_eight_times_power);
}

static inline float lanes_fold_add(lanes x)
{
    __m256 eight = _mm256_add_ps(x.a, x.b);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float lanes_fold_max(lanes x)
{
    __m256 eight = _mm256_max_ps(x.a, x.b);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static inline void lanes_eight_transpose(__m256 a[8])
{
    __m256 b[8];
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
        a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
        a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
        a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
    for (int j = 0; j < 4; j++) {
        b[j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x20);
        b[4 + j] = _mm256_permute2f128_ps(a[j], a[4 + j], 0x31);
    }
    memcpy(a, b, sizeof b);
}

static inline void lanes_transpose(lanes x[LANES])
{
    for (int left = 0; left < 2; left++) {
        __m256 top[8], bottom[8];
        for (int i = 0; i < 8; i++) {
            top[i] = left ? x[i].b : x[i].a;
            bottom[i] = left ? x[8 + i].b : x[8 + i].a;
        }
        lanes_eight_transpose(top);
        lanes_eight_transpose(bottom);
        /* Columns 0 to 7 wait in the halves that have been read. */
        for (int i = 0; i < 8; i++) {
            if (left) {
                __m256 waiting = x[8 + i].a;
                x[8 + i] = (lanes){top[i], bottom[i]};
                x[i].b = waiting;
            } else {
                x[i].a = top[i];
                x[8 + i].a = bottom[i];
            }
        }
    }
}

#elif !defined(PLAIN_KERNELS) && defined(__aarch64__)

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

#else

#define VARIANT(name) name##_plain
#define LANES_TILE_ROWS 4
#define LANES_TILE_VECTORS 1

typedef struct {
    float v[LANES];
} lanes;

#define LANES_EACH(expression)                                                                                         \
    lanes result;                                                                                                      \
    for (int i = 0; i < LANES; i++)                                                                                    \
        result.v[i] = (expression);                                                                                    \
    return result

static inline lanes lanes_all(float value)
{
    LANES_EACH(value);
}

static inline lanes lanes_load(const float *from)
{
    LANES_EACH(from[i]);
}

static inline void lanes_store(float *to, lanes x)
{
    memcpy(to, x.v, sizeof x.v);
}

static inline lanes lanes_add(lanes x, lanes y)
{
    LANES_EACH(x.v[i] + y.v[i]);
}

static inline lanes lanes_subtract(lanes x, lanes y)
{
    LANES_EACH(x.v[i] - y.v[i]);
}

static inline lanes lanes_multiply(lanes x, lanes y)
{
    LANES_EACH(x.v[i] * y.v[i]);
}

static inline lanes lanes_divide(lanes x, lanes y)
{
    LANES_EACH(x.v[i] / y.v[i]);
}

static inline lanes lanes_fma(lanes x, lanes y, lanes z)
{
    LANES_EACH(fmaf(x.v[i], y.v[i], z.v[i]));
}

static inline lanes lanes_fma_negated(lanes x, lanes y, lanes z)
{
    LANES_EACH(fmaf(-x.v[i], y.v[i], z.v[i]));
}

static inline lanes lanes_max(lanes x, lanes y)
{
    LANES_EACH(x.v[i] > y.v[i] ? x.v[i] : y.v[i]);
}

static inline lanes lanes_min(lanes x, lanes y)
{
    LANES_EACH(x.v[i] < y.v[i] ? x.v[i] : y.v[i]);
}

static inline float lanes_one_from_half(uint16_t half)
{
    return half_to_float(half);
}

static inline lanes lanes_from_half(const uint16_t *from)
{
    LANES_EACH(half_to_float(from[i]));
}

static inline lanes lanes_from_bfloat(const uint16_t *from)
{
    LANES_EACH(bfloat_to_float(from[i]));
}

static inline lanes lanes_from_int8(const int8_t *from)
{
    LANES_EACH((float)from[i]);
}

static inline float lanes_one_times_power(float a, float n)
{
    int32_t whole = (int32_t)float_to_bits(n) - 0x4b400000;
    int32_t half = whole >> 1;
    return a * float_from_bits((uint32_t)(half + 127) << 23) * float_from_bits((uint32_t)(whole - half + 127) << 23);
}

static inline lanes lanes_times_power(lanes x, lanes y)
{
    LANES_EACH(lanes_one_times_power(x.v[i], y.v[i]));
}

static inline float lanes_fold_add(lanes x)
{
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            x.v[i] += x.v[i + half];
    return x.v[0];
}

static inline void lanes_transpose(lanes x[LANES])
{
    lanes copy[LANES];
    memcpy(copy, x, sizeof copy);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++)
            x[i].v[j] = copy[j].v[i];
}

static inline float lanes_fold_max(lanes x)
{
    float result = x.v[0];
    for (int i = 1; i < LANES; i++)
        result = x.v[i] > result ? x.v[i] : result;
    return result;
}

#endif

#undef LANES_EACH

/* The first count (below LANES) elements; the rest are fill. */
static inline lanes lanes_load_part(const float *from, size_t count, float fill)
{
    float part[LANES];
    for (size_t i = 0; i < LANES; i++)
        part[i] = i < count ? from[i] : fill;
    return lanes_load(part);
}

static inline void lanes_store_part(float *to, lanes a, size_t count)
{
    float part[LANES];
    lanes_store(part, a);
    memcpy(to, part, count * sizeof *to);
}

/* e to the power of a, within about 1 ulp; 0 below -104, infinity above 88.8. Reduction by Cody and Waite, then a
 * polynomial (Taylor's terms with the last two fitted) on [-ln 2 / 2, ln 2 / 2]. */
static inline lanes lanes_exp(lanes a)
{
    a = lanes_max(lanes_all(-104.0f), lanes_min(lanes_all(89.0f), a));
    lanes shifted = lanes_fma(a, lanes_all(0x1.715476p+0f), lanes_all(0x1.8p+23f));
    lanes n = lanes_subtract(shifted, lanes_all(0x1.8p+23f));
    lanes r = lanes_fma(n, lanes_all(-0x1.62e4p-1f), a);
    r = lanes_fma(n, lanes_all(-0x1.7f7d1cp-20f), r);
    lanes p = lanes_all(0x1.6850e4p-10f);
    p = lanes_fma(p, r, lanes_all(0x1.123bccp-7f));
    p = lanes_fma(p, r, lanes_all(0x1.555b98p-5f));
    p = lanes_fma(p, r, lanes_all(0x1.55548ep-3f));
    p = lanes_fma(p, r, lanes_all(0x1.fffff8p-2f));
    p = lanes_fma(p, r, lanes_all(1.0f));
    p = lanes_fma(p, r, lanes_all(1.0f));
    return lanes_times_power(p, shifted);
}

/* 1 / (1 + exp(-a)) */
static inline lanes lanes_sigmoid(lanes a)
{
    lanes one = lanes_all(1.0f);
    return lanes_divide(one, lanes_add(one, lanes_exp(lanes_subtract(lanes_all(0.0f), a))));
}

static inline lanes lanes_tanh(lanes a)
{
    lanes one = lanes_all(1.0f);
    lanes e = lanes_exp(lanes_add(a, a));
    return lanes_subtract(one, lanes_divide(lanes_all(2.0f), lanes_add(one, e)));
}

#endif
