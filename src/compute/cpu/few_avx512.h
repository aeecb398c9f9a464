/* Weights times a few rows of activations, by AVX-512 with VNNI: what the kernels of few_super_avx512.c and
 * few_blocks_avx512.c share.
 *
 * Sixteen rows at a time. Their packed quants are turned in registers, so that a 32-bit lane is a row, and each
 * register of quants is then multiplied with the same four activations of one token after another, broadcast from
 * memory: weights are unpacked once for all tokens, nothing is written but integer sums, and no lane has to be added to
 * another. Panels (gemm.h) do the same through memory, which only pays for many tokens. Sums follow compute.h. */
#ifndef HYPURA_COMPUTE_FEW_AVX512_H
#define HYPURA_COMPUTE_FEW_AVX512_H

#include "compute/cpu/four_rows.h"

#include <immintrin.h>
#include <string.h>

/* Where the same block of sixteen rows is. */
struct few_rows {
    const uint8_t *four[4]; /* rows 0, 4, 8 and 12 */
    size_t row_bytes;
};

static ALWAYS_INLINE const uint8_t *few_row(const struct few_rows *rows, size_t row)
{
    return rows->four[row / 4] + row % 4 * rows->row_bytes;
}

/* A few tokens: their activations, and what they have summed so far. */
struct few_tokens {
    size_t count;
    struct activation_row x[FEW_MOST_TOKENS];
    _Alignas(64) float sums[FEW_MOST_TOKENS][FEW_ROWS];
    _Alignas(64) int32_t totals[FEW_MOST_TOKENS][FEW_ROWS]; /* of the block at hand */
};

/* Sixteen bytes of each row, turned: out[j] has bytes 4 j to 4 j + 3 of row i in lane i. */
static ALWAYS_INLINE void few_turn(__m512i out[4], const struct few_rows *rows, size_t offset)
{
    __m512i a[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        __m512i four = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(few_row(rows, i) + offset)));
        four =
            _mm512_mask_broadcast_i32x4(four, 0x00f0, _mm_loadu_si128((const void *)(few_row(rows, 4 + i) + offset)));
        four =
            _mm512_mask_broadcast_i32x4(four, 0x0f00, _mm_loadu_si128((const void *)(few_row(rows, 8 + i) + offset)));
        a[i] =
            _mm512_mask_broadcast_i32x4(four, 0xf000, _mm_loadu_si128((const void *)(few_row(rows, 12 + i) + offset)));
    }
    __m512i low01 = _mm512_unpacklo_epi32(a[0], a[1]);
    __m512i high01 = _mm512_unpackhi_epi32(a[0], a[1]);
    __m512i low23 = _mm512_unpacklo_epi32(a[2], a[3]);
    __m512i high23 = _mm512_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm512_unpacklo_epi64(low01, low23);
    out[1] = _mm512_unpackhi_epi64(low01, low23);
    out[2] = _mm512_unpacklo_epi64(high01, high23);
    out[3] = _mm512_unpackhi_epi64(high01, high23);
}

/* Four activations, or two sums of activations, in every lane. */
static ALWAYS_INLINE __m512i few_all(const void *from)
{
    int32_t word;
    memcpy(&word, from, sizeof word);
    return _mm512_set1_epi32(word);
}

/* Quants without a sign, 4 * count columns, onto a sum. */
static ALWAYS_INLINE __m512i few_dot(__m512i sum, const __m512i *quants, const int8_t *x, const int count)
{
#pragma GCC unroll 8
    for (int k = 0; k < count; k++)
        sum = _mm512_dpbusd_epi32(sum, quants[k], few_all(x + 4 * k));
    return sum;
}

/* Pairs of 16-bit numbers of each row times pairs of sums of activations. */
static ALWAYS_INLINE __m512i few_pairs(const __m512i *pairs, const int16_t *sums, const int count)
{
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        sum = _mm512_dpwssd_epi32(sum, pairs[i], few_all(sums + 2 * i));
    return sum;
}

static ALWAYS_INLINE struct few_rows few_rows(const uint8_t *data, size_t row_bytes)
{
    return (struct few_rows){{data, data + 4 * row_bytes, data + 8 * row_bytes, data + 12 * row_bytes}, row_bytes};
}

/* The tokens of a job, and where their outputs begin. */
static ALWAYS_INLINE void few_start(struct few_tokens *tokens, float **out, const struct matmul *job,
                                    enum activation_kind kind)
{
    tokens->count = job->tokens;
    for (size_t t = 0; t < job->tokens; t++) {
        tokens->x[t] = activation_row(job->input, kind, job->input_rows ? job->input_rows[t] : t);
        out[t] = job->output + (job->output_rows ? job->output_rows[t] : t) * job->output_stride;
    }
}

#endif
