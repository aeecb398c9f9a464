/* Functions that the AVX2 kernels share. The AVX-512 kernels use some of them too. */
#ifndef HYPURA_COMPUTE_AVX2_H
#define HYPURA_COMPUTE_AVX2_H

#include "compute/cpu/four_rows.h"

#include <immintrin.h>
#include <string.h>

static ALWAYS_INLINE __m128i load_128(const uint8_t *bytes)
{
    return _mm_loadu_si128((const void *)bytes);
}

static ALWAYS_INLINE __m256i load_256(const void *bytes)
{
    return _mm256_loadu_si256(bytes);
}

/* The 16-bit words at an offset in the blocks of four rows. */
static ALWAYS_INLINE __m128i four_words(const struct four_rows *rows, size_t offset)
{
    uint16_t words[4];
    for (int i = 0; i < 4; i++)
        memcpy(&words[i], rows->at[i] + offset, sizeof words[i]);
    return _mm_setr_epi16((short)words[0], (short)words[1], (short)words[2], (short)words[3], 0, 0, 0, 0);
}

static ALWAYS_INLINE __m128 four_halves(const struct four_rows *rows, size_t offset)
{
    return _mm_cvtph_ps(four_words(rows, offset));
}

/* The sum of each of a, b, c and d, in this order. */
static ALWAYS_INLINE __m128i sum_4_256(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    __m256i sums = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

/* Folds in halves: 8 + 8, 4 + 4, 2 + 2, 1 + 1. */
static ALWAYS_INLINE float fold_16(__m256 low, __m256 high)
{
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif
