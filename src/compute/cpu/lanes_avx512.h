/* The operations of lanes.h, which includes this, in AVX-512. */
#ifndef HYPURA_LANES_AVX512_H
#define HYPURA_LANES_AVX512_H

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

/* a > b ? a : b, so the result is b if either is NaN. */
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

/* a times 2 to the power of the integer in the low bits of n, which was computed by adding 1.5 * 2^23. |integer| is at
 * most 150. */
static inline lanes lanes_times_power(lanes a, lanes n)
{
    return _mm512_scalef_ps(a, _mm512_sub_ps(n, _mm512_set1_ps(0x1.8p+23f)));
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

static inline lanes lanes_from_int16(const int16_t *from)
{
    return _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)from)));
}

#define LANES_TURN_COLUMNS 32

/* Transposes sixteen rows of 16-bit elements: out[c * out_stride + i] = column c of row i. */
static inline __attribute__((always_inline)) void lanes_turn(uint16_t *out, size_t out_stride, __m512i a[16])
{
    const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                  high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    __m512i b[16];
#pragma GCC unroll 8
    for (size_t i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi16(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi16(a[i], a[i + 1]);
    }
    /* 128-bit lane l of a[4 q + m] has columns 8 l + 2 m and 8 l + 2 m + 1 of rows 4 q to 4 q + 3. */
#pragma GCC unroll 4
    for (size_t i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi32(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi32(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi32(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi32(b[i + 1], b[i + 3]);
    }
    /* Lane l of b[8 g + n] has column 8 l + n of rows 8 g to 8 g + 7. */
#pragma GCC unroll 4
    for (size_t m = 0; m < 4; m++) {
#pragma GCC unroll 2
        for (size_t g = 0; g < 2; g++) {
            b[8 * g + 2 * m] = _mm512_unpacklo_epi64(a[8 * g + m], a[8 * g + 4 + m]);
            b[8 * g + 2 * m + 1] = _mm512_unpackhi_epi64(a[8 * g + m], a[8 * g + 4 + m]);
        }
    }
#pragma GCC unroll 8
    for (size_t n = 0; n < 8; n++) {
        __m512i first = _mm512_permutex2var_epi64(b[n], low, b[8 + n]);
        __m512i second = _mm512_permutex2var_epi64(b[n], high, b[8 + n]);
        _mm256_storeu_si256((void *)(out + n * out_stride), _mm512_castsi512_si256(first));
        _mm256_storeu_si256((void *)(out + (8 + n) * out_stride), _mm512_extracti64x4_epi64(first, 1));
        _mm256_storeu_si256((void *)(out + (16 + n) * out_stride), _mm512_castsi512_si256(second));
        _mm256_storeu_si256((void *)(out + (24 + n) * out_stride), _mm512_extracti64x4_epi64(second, 1));
    }
}

/* Transpose sixteen rows of LANES_TURN_COLUMNS elements: 16-bit elements, or bytes, which become 16-bit integers. */
static inline void lanes_turn_halves(uint16_t *out, size_t out_stride, const uint8_t *rows, size_t stride)
{
    __m512i a[16];
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++)
        a[i] = _mm512_loadu_si512(rows + i * stride);
    lanes_turn(out, out_stride, a);
}

static inline void lanes_turn_bytes(uint16_t *out, size_t out_stride, const uint8_t *rows, size_t stride)
{
    __m512i a[16];
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++)
        a[i] = _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)(rows + i * stride)));
    lanes_turn(out, out_stride, a);
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
    /* 128-bit lane l of a[4 g + j] has column 4 l + j of rows 4 g to 4 g + 3. */
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

#endif
