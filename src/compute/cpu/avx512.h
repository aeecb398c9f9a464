/* Functions that the AVX-512 kernels share: sums across the lanes of several registers, and matrix times vector for
 * floats. */
#ifndef HYPURA_COMPUTE_AVX512_H
#define HYPURA_COMPUTE_AVX512_H

#include "compute/cpu/avx2.h"

/* 128-bit lane k of the result has the sums over lane k of a, b, c and d. */
static ALWAYS_INLINE __m512i sum_lanes_4(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
}

/* The entries of scales_ue4m3 (grids.h) for numbers below 256. */
static ALWAYS_INLINE __m512 ue4m3_scales(__m512i bytes)
{
    const __m512i mask = _mm512_set1_epi32(127);
    __m256i halves = _mm512_cvtepi32_epi16(_mm512_slli_epi32(_mm512_and_si512(bytes, mask), 7));
    __mmask16 number = _mm512_cmpneq_epi32_mask(bytes, mask);
    return _mm512_maskz_mul_ps(number, _mm512_cvtph_ps(halves), _mm512_set1_ps(128));
}

/* The sum of each of a, b, c and d, in this order. */
static ALWAYS_INLINE __m128i sum_4(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i lanes = sum_lanes_4(a, b, c, d);
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64(lanes, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* Spreads four of sixteen 16-bit scales over 64 elements: scale 4j + k fills 128-bit lane k. */
static ALWAYS_INLINE __m512i scale_16(__m512i scales, int j)
{
    const __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 0x10001, 0x10001, 0x10001, 0x10001, 0x20002, 0x20002, 0x20002,
                                            0x20002, 0x30003, 0x30003, 0x30003, 0x30003);
    return _mm512_permutexvar_epi16(_mm512_add_epi16(first, _mm512_set1_epi16((short)(4 * j))), scales);
}

static ALWAYS_INLINE float fold(__m512 lanes)
{
    return fold_16(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
}

static ALWAYS_INLINE void store_4(float *out, __m128 sums, size_t left)
{
    if (left >= 4)
        _mm_storeu_ps(out, sums);
    else
        _mm_mask_storeu_ps(out, (__mmask8)((1u << left) - 1), sums);
}

/* Split the lanes of a register pair [a b c d] [e f g h] into [a c e g] and [b d f h]: the low and the high halves of
 * four blocks of 32. */
static ALWAYS_INLINE __m512i even_lanes(__m512i a, __m512i b)
{
    return _mm512_shuffle_i64x2(a, b, _MM_SHUFFLE(2, 0, 2, 0));
}

static ALWAYS_INLINE __m512i odd_lanes(__m512i a, __m512i b)
{
    return _mm512_shuffle_i64x2(a, b, _MM_SHUFFLE(3, 1, 3, 1));
}

/* ---- rows of floats ------------------------------------------------------------------------------------------------
 *
 * Each row is a chain of additions, so several rows are summed in parallel: eight, because four took a tenth longer
 * from memory. */

#define FLOAT_ROWS 8

/* A step processes 64 bytes of every row. float_load loads the activations of these columns; float_step adds weights
 * times activations to a row's sum. Only the first "left" columns count. */
struct float_values {
    __m512 first, second; /* sixteen columns and sixteen, or 32 bfloats */
};
typedef struct float_values float_load(const struct activation_row *x, size_t column, size_t left);
typedef __m512 float_step(__m512 sum, const uint8_t *row, size_t left, struct float_values values);

static ALWAYS_INLINE void float_columns(__m512 sums[FLOAT_ROWS], const uint8_t *const at[FLOAT_ROWS], size_t byte,
                                        size_t left, struct float_values values, float_step *step)
{
#pragma GCC unroll 8
    for (int i = 0; i < FLOAT_ROWS; i++)
        sums[i] = step(sums[i], at[i] + byte, left, values);
}

static ALWAYS_INLINE void float_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                     const struct activation_row *x, size_t element_bytes, float_load *load,
                                     float_step *step)
{
    const size_t columns_64 = 64 / element_bytes;
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    ahead.distance = MIN(2 * ahead.distance, (size_t)256 << 10);
    for (size_t r = 0; r < rows; r += FLOAT_ROWS) {
        const uint8_t *at[FLOAT_ROWS];
        __m512 sums[FLOAT_ROWS];
        float folded[FLOAT_ROWS];
#pragma GCC unroll 8
        for (size_t i = 0; i < FLOAT_ROWS; i++) {
            at[i] = weights + MIN(r + i, rows - 1) * row_bytes;
            sums[i] = _mm512_setzero_ps();
        }
        prefetch_rows_from(&ahead, r);
        size_t c = 0;
        for (; c + columns_64 <= columns; c += columns_64) {
            prefetch_more(&ahead, FLOAT_ROWS * 64);
            float_columns(sums, at, c * element_bytes, columns_64, load(x, c, columns_64), step);
        }
        if (c < columns)
            float_columns(sums, at, c * element_bytes, columns - c, load(x, c, columns - c), step);
            /* The number of rows is constant: otherwise the compiler would keep the sums in memory all the time. */
#pragma GCC unroll 8
        for (int i = 0; i < FLOAT_ROWS; i++)
            folded[i] = fold(sums[i]);
        memcpy(out + r, folded, MIN(rows - r, (size_t)FLOAT_ROWS) * sizeof *out);
    }
}

#endif
