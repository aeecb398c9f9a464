/* Sixteen 32-bit integers as one value, like the sixteen floats of lanes.h; and the dot products for the panels of
 * gemm.h. Integer sums are exact, so all variants give the same results. */
#ifndef HYPURA_COMPUTE_INTS_H
#define HYPURA_COMPUTE_INTS_H

#include "compute/cpu/lanes.h"

/* "quads" are four bytes of each of sixteen rows, as in struct panel.
 *
 * ints_dot adds, to each row's sum, the products of its four quants with the same four activations, which are signed.
 * Quants are signed too, or raised by 128 if INTS_RAISED. natural: they are unsigned in either case, and at most 31.
 * ints_pairs adds the products of each row's two 16-bit numbers with two others. ints_low and ints_high extract the two
 * numbers. ints_push moves a sum to the high half, so that another one can be added in the low half, together with
 * INTS_HALF. Then ints_settle subtracts INTS_HALF again. So two sums that fit 16 bits share a lane. */
#define INTS_HALF (1 << 15)

#if defined(__AVX512VNNI__)

#define INTS_RAISED 1

/* Whether scaling two sums at once is faster than one by one. */
#define INTS_NARROW 1

typedef __m512i ints;
typedef __m512i quads;

static inline ints ints_all(int32_t value)
{
    return _mm512_set1_epi32(value);
}

static inline ints ints_load(const void *from)
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
    (void)natural;
    return _mm512_dpbusd_epi32(sum, w, _mm512_set1_epi32(four));
}

static inline ints ints_pairs(ints sum, ints a, ints b)
{
    return _mm512_dpwssd_epi32(sum, a, b);
}

static inline ints ints_low(ints pairs)
{
    return _mm512_srai_epi32(_mm512_slli_epi32(pairs, 16), 16);
}

static inline ints ints_high(ints pairs)
{
    return _mm512_srai_epi32(pairs, 16);
}

static inline ints ints_push(ints a)
{
    return _mm512_slli_epi32(a, 16);
}

static inline ints ints_settle(ints a)
{
    return _mm512_xor_si512(a, _mm512_set1_epi32(INTS_HALF));
}

/* a times d, a power of two. */
static inline lanes lanes_times_power_of_two(lanes a, lanes d)
{
    return _mm512_scalef_ps(a, _mm512_getexp_ps(d));
}

#elif defined(__AVX2__)

#define INTS_NARROW 1

typedef struct {
    __m256i a, b;
} ints;
typedef ints quads;

static inline ints ints_all(int32_t value)
{
    return (ints){_mm256_set1_epi32(value), _mm256_set1_epi32(value)};
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

#define INTS_RAISED 1

static inline ints ints_dot(ints sum, quads w, int32_t four, const bool natural)
{
    (void)natural;
    __m256i x = _mm256_set1_epi32(four);
    return (ints){_mm256_dpbusd_avx_epi32(sum.a, w.a, x), _mm256_dpbusd_avx_epi32(sum.b, w.b, x)};
}

#else

#define INTS_RAISED 0

/* The first instruction sums pairs of products, which fit 16 bits: unsigned quants are at most 31, and with magnitudes
 * of 128 and 127, a pair is at most 2 * 128 * 127 = 32512. */
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

static inline ints ints_pairs(ints sum, ints a, ints b)
{
    return (ints){_mm256_add_epi32(sum.a, _mm256_madd_epi16(a.a, b.a)),
                  _mm256_add_epi32(sum.b, _mm256_madd_epi16(a.b, b.b))};
}

static inline ints ints_push(ints x)
{
    return (ints){_mm256_slli_epi32(x.a, 16), _mm256_slli_epi32(x.b, 16)};
}

static inline ints ints_high(ints x)
{
    return (ints){_mm256_srai_epi32(x.a, 16), _mm256_srai_epi32(x.b, 16)};
}

static inline ints ints_low(ints x)
{
    return ints_high(ints_push(x));
}

static inline ints ints_settle(ints x)
{
    __m256i half = _mm256_set1_epi32(INTS_HALF);
    return (ints){_mm256_xor_si256(x.a, half), _mm256_xor_si256(x.b, half)};
}

static inline lanes lanes_times_power_of_two(lanes a, lanes d)
{
    return lanes_multiply(a, d);
}

#elif defined(__ARM_FEATURE_DOTPROD)

#define INTS_RAISED 0
#define INTS_NARROW 0

typedef struct {
    int32x4_t a, b, c, d;
} ints;
typedef struct {
    int8x16_t a, b, c, d;
} quads;

static inline ints ints_all(int32_t value)
{
    int32x4_t x = vdupq_n_s32(value);
    return (ints){x, x, x, x};
}

static inline ints ints_load(const void *at)
{
    const int32_t *from = at;
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

/* Unsigned quants are small enough to be treated as signed. */
static inline ints ints_dot(ints sum, quads w, int32_t four, const bool natural)
{
    (void)natural;
    int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
    return (ints){vdotq_s32(sum.a, w.a, x), vdotq_s32(sum.b, w.b, x), vdotq_s32(sum.c, w.c, x),
                  vdotq_s32(sum.d, w.d, x)};
}

static inline int32x4_t ints_four_pairs(int32x4_t sum, int32x4_t a, int32x4_t b)
{
    int16x8_t x = vreinterpretq_s16_s32(a), y = vreinterpretq_s16_s32(b);
    int32x4_t low = vmull_s16(vget_low_s16(x), vget_low_s16(y));
    int32x4_t high = vmull_high_s16(x, y);
    return vaddq_s32(sum, vpaddq_s32(low, high));
}

static inline ints ints_pairs(ints sum, ints x, ints y)
{
    return (ints){ints_four_pairs(sum.a, x.a, y.a), ints_four_pairs(sum.b, x.b, y.b), ints_four_pairs(sum.c, x.c, y.c),
                  ints_four_pairs(sum.d, x.d, y.d)};
}

static inline ints ints_push(ints x)
{
    return (ints){vshlq_n_s32(x.a, 16), vshlq_n_s32(x.b, 16), vshlq_n_s32(x.c, 16), vshlq_n_s32(x.d, 16)};
}

static inline ints ints_high(ints x)
{
    return (ints){vshrq_n_s32(x.a, 16), vshrq_n_s32(x.b, 16), vshrq_n_s32(x.c, 16), vshrq_n_s32(x.d, 16)};
}

static inline ints ints_low(ints x)
{
    return ints_high(ints_push(x));
}

static inline ints ints_settle(ints x)
{
    int32x4_t half = vdupq_n_s32(INTS_HALF);
    return (ints){veorq_s32(x.a, half), veorq_s32(x.b, half), veorq_s32(x.c, half), veorq_s32(x.d, half)};
}

static inline lanes lanes_times_power_of_two(lanes a, lanes d)
{
    return lanes_multiply(a, d);
}

#endif

#endif
