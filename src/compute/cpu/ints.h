/* Sixteen 32-bit integers as one value, beside the sixteen floats of lanes.h, and the dot products that panels of
 * gemm.h are multiplied by. Integer sums are exact, so all variants agree. */
#ifndef HYPURA_COMPUTE_INTS_H
#define HYPURA_COMPUTE_INTS_H

#include "compute/cpu/lanes.h"

/* "quads" are four bytes of each of sixteen rows, as struct panel has them. ints_dot adds to each row's sum the
 * products of its four with the same four activations; "natural" says that the quants are unsigned and the activations
 * signed. Otherwise quants are signed, and activations too, or, where INTS_BIASED, have 128 added. ints_pairs adds the
 * products of two 16-bit numbers of each row with the same two. */

#if defined(__AVX512VNNI__)

#define INTS_BIASED 1

typedef __m512i ints;
typedef __m512i quads;

static inline ints ints_zero(void)
{
    return _mm512_setzero_si512();
}

static inline ints ints_load(const int32_t *from)
{
    return _mm512_load_si512(from);
}

static inline ints ints_add(ints a, ints b)
{
    return _mm512_add_epi32(a, b);
}

static inline ints ints_multiply(ints a, ints b)
{
    return _mm512_mullo_epi32(a, b);
}

static inline lanes ints_to_lanes(ints a)
{
    return _mm512_cvtepi32_ps(a);
}

static inline quads quads_load(const void *from)
{
    return _mm512_load_si512(from);
}

static inline ints ints_dot(ints sum, quads w, int32_t four, const bool natural)
{
    __m512i x = _mm512_set1_epi32(four);
    return natural ? _mm512_dpbusd_epi32(sum, w, x) : _mm512_dpbusd_epi32(sum, x, w);
}

static inline ints ints_pairs(ints sum, const void *pairs, int32_t two)
{
    return _mm512_dpwssd_epi32(sum, _mm512_load_si512(pairs), _mm512_set1_epi32(two));
}

#elif defined(__AVX2__)

typedef struct {
    __m256i a, b;
} ints;
typedef ints quads;

static inline ints ints_zero(void)
{
    return (ints){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

static inline ints ints_load(const void *from)
{
    const __m256i *at = from;
    return (ints){_mm256_load_si256(at), _mm256_load_si256(at + 1)};
}

static inline ints ints_add(ints x, ints y)
{
    return (ints){_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
}

static inline ints ints_multiply(ints x, ints y)
{
    return (ints){_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)};
}

static inline lanes ints_to_lanes(ints x)
{
    return (lanes){_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)};
}

static inline quads quads_load(const void *from)
{
    return ints_load(from);
}

#if defined(__AVXVNNI__)

#define INTS_BIASED 1

static inline ints ints_dot(ints sum, quads w, int32_t four, const bool natural)
{
    __m256i x = _mm256_set1_epi32(four);
    if (natural)
        return (ints){_mm256_dpbusd_avx_epi32(sum.a, w.a, x), _mm256_dpbusd_avx_epi32(sum.b, w.b, x)};
    return (ints){_mm256_dpbusd_avx_epi32(sum.a, x, w.a), _mm256_dpbusd_avx_epi32(sum.b, x, w.b)};
}

#else

#define INTS_BIASED 0

/* The pairs that the first instruction sums fit 16 bits: quants without a sign are at most 31, and the greatest of two
 * magnitudes of 128 and 127 is 2 * 128 * 127 = 32512. */
static inline __m256i ints_eight_dot(__m256i sum, __m256i w, __m256i x, const bool natural)
{
    __m256i pairs =
        natural ? _mm256_maddubs_epi16(w, x) : _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

static inline ints ints_dot(ints sum, quads w, int32_t four, const bool natural)
{
    __m256i x = _mm256_set1_epi32(four);
    return (ints){ints_eight_dot(sum.a, w.a, x, natural), ints_eight_dot(sum.b, w.b, x, natural)};
}

#endif

static inline ints ints_pairs(ints sum, const void *pairs, int32_t two)
{
    ints w = ints_load(pairs);
    __m256i x = _mm256_set1_epi32(two);
    return (ints){_mm256_add_epi32(sum.a, _mm256_madd_epi16(w.a, x)),
                  _mm256_add_epi32(sum.b, _mm256_madd_epi16(w.b, x))};
}

#elif defined(__ARM_FEATURE_DOTPROD)

#define INTS_BIASED 0

typedef struct {
    int32x4_t a, b, c, d;
} ints;
typedef struct {
    int8x16_t a, b, c, d;
} quads;

static inline ints ints_zero(void)
{
    int32x4_t zero = vdupq_n_s32(0);
    return (ints){zero, zero, zero, zero};
}

static inline ints ints_load(const int32_t *from)
{
    return (ints){vld1q_s32(from), vld1q_s32(from + 4), vld1q_s32(from + 8), vld1q_s32(from + 12)};
}

static inline ints ints_add(ints x, ints y)
{
    return (ints){vaddq_s32(x.a, y.a), vaddq_s32(x.b, y.b), vaddq_s32(x.c, y.c), vaddq_s32(x.d, y.d)};
}

static inline ints ints_multiply(ints x, ints y)
{
    return (ints){vmulq_s32(x.a, y.a), vmulq_s32(x.b, y.b), vmulq_s32(x.c, y.c), vmulq_s32(x.d, y.d)};
}

static inline lanes ints_to_lanes(ints x)
{
    return (lanes){vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)};
}

static inline quads quads_load(const void *from)
{
    const int8_t *at = from;
    return (quads){vld1q_s8(at), vld1q_s8(at + 16), vld1q_s8(at + 32), vld1q_s8(at + 48)};
}

/* Quants without a sign are small enough to pass for signed ones. */
static inline ints ints_dot(ints sum, quads w, int32_t four, const bool natural)
{
    (void)natural;
    int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
    return (ints){vdotq_s32(sum.a, w.a, x), vdotq_s32(sum.b, w.b, x), vdotq_s32(sum.c, w.c, x),
                  vdotq_s32(sum.d, w.d, x)};
}

static inline int32x4_t ints_four_pairs(int32x4_t sum, const int16_t *pairs, int16x8_t x)
{
    int16x8_t w = vld1q_s16(pairs);
    int32x4_t low = vmull_s16(vget_low_s16(w), vget_low_s16(x));
    int32x4_t high = vmull_high_s16(w, x);
    return vaddq_s32(sum, vpaddq_s32(low, high));
}

static inline ints ints_pairs(ints sum, const void *pairs, int32_t two)
{
    const int16_t *at = pairs;
    int16x8_t x = vreinterpretq_s16_s32(vdupq_n_s32(two));
    return (ints){ints_four_pairs(sum.a, at, x), ints_four_pairs(sum.b, at + 8, x), ints_four_pairs(sum.c, at + 16, x),
                  ints_four_pairs(sum.d, at + 24, x)};
}

#endif

#endif
