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
    uint64_t all = 0;
    for (int i = 0; i < 4; i++) {
        uint16_t word;
        memcpy(&word, rows->at[i] + offset, sizeof word);
        all |= (uint64_t)word << 16 * i;
    }
    return _mm_set_epi64x(0, (long long)all);
}

static ALWAYS_INLINE __m128 four_halves(const struct four_rows *rows, size_t offset)
{
    return _mm_cvtph_ps(four_words(rows, offset));
}

/* Sums of neighbours: a0 + a1, b0 + b1, a2 + a3, b2 + b3, ... A blend can run on more ports than a shuffle. */
static ALWAYS_INLINE __m256i sum_neighbours(__m256i a, __m256i b)
{
    __m256i crossed = _mm256_shuffle_epi32(_mm256_blend_epi32(a, b, 0x55), _MM_SHUFFLE(2, 3, 0, 1));
    return _mm256_add_epi32(_mm256_blend_epi32(a, b, 0xaa), crossed);
}

/* The sum of each of a, b, c and d, in this order, in each half. */
static ALWAYS_INLINE __m256i sum_4_lanes(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i ab = sum_neighbours(a, b), cd = sum_neighbours(c, d);
    __m256i crossed = _mm256_shuffle_epi32(_mm256_blend_epi32(ab, cd, 0x33), _MM_SHUFFLE(1, 0, 3, 2));
    return _mm256_add_epi32(_mm256_blend_epi32(ab, cd, 0xcc), crossed);
}

/* The same of both halves. */
static ALWAYS_INLINE __m128i sum_4_256(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i sums = sum_4_lanes(a, b, c, d);
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
