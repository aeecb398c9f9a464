/* What the AVX2 kernels share; AVX-512 uses it too for types that have no kernel of their own there. */
#ifndef HYPURA_COMPUTE_AVX2_H
#define HYPURA_COMPUTE_AVX2_H

#include "compute/cpu/kernels.h"

#include <immintrin.h>
#include <string.h>

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Four rows, the last one several times where fewer are left. */
struct four_rows {
    const uint8_t *at[4];
};

static ALWAYS_INLINE struct four_rows four_rows(const uint8_t *weights, size_t row_bytes, size_t first, size_t rows)
{
    struct four_rows out;
    for (size_t i = 0; i < 4; i++)
        out.at[i] = weights + MIN(first + i, rows - 1) * row_bytes;
    return out;
}

/* While four rows are in work, the next four are asked for, in the order of memory. Four rows side by side are four
 * short streams, which the hardware's own prefetch follows badly. */
struct prefetch {
    const uint8_t *next, *end;
};

static ALWAYS_INLINE void prefetch_lines(const uint8_t *from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)from + i, _MM_HINT_T0);
}

/* The starts of the first rows at once, since nobody asked for them before. The caller sets next for each four. */
static ALWAYS_INLINE struct prefetch prefetch_start(const uint8_t *weights, size_t row_bytes, size_t rows)
{
    for (size_t r = 0; r < MIN(rows, (size_t)4); r++)
        prefetch_lines(weights + r * row_bytes, MIN(row_bytes, (size_t)2048));
    return (struct prefetch){weights, weights + rows * row_bytes};
}

static ALWAYS_INLINE void prefetch_more(struct prefetch *prefetch, size_t bytes)
{
    if (prefetch->next < prefetch->end)
        prefetch_lines(prefetch->next, bytes);
    prefetch->next += bytes;
}

static ALWAYS_INLINE __m128i load_128(const uint8_t *bytes)
{
    return _mm_loadu_si128((const void *)bytes);
}

static ALWAYS_INLINE __m256i load_256(const void *bytes)
{
    return _mm256_loadu_si256(bytes);
}

/* The 16 bits at an offset of four rows' blocks. */
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

/* The sums of a, b, c and d. */
static ALWAYS_INLINE __m128i sum_4_256(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i ab = _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    __m256i cd = _mm256_add_epi32(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    __m256i sums = _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
    return _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
}

/* 8 + 8, 4 + 4, 2 + 2, 1 + 1 */
static ALWAYS_INLINE float fold_16(__m256 low, __m256 high)
{
    __m256 eight = _mm256_add_ps(low, high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#endif
