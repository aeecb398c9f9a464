/* Weights times a few rows of activations: what the kernels of few_super.c and few_blocks.c share. They are written
 * once and built for each instruction set, which brings the operations (few_avx512.h, few_avx2.h, few_neon.h).
 *
 * FEW_LANES rows at a time. Their packed quants are turned in registers, so that a 32-bit lane is a row, and each
 * register of quants is then multiplied with the same four activations of one token after another: weights are unpacked
 * once for all tokens, nothing is written but integer sums, and no lane has to be added to another. Panels (gemm.h) do
 * the same through memory, which only pays for many tokens. Sums follow compute.h.
 *
 * The operations, on integers of 32 bits and on floats, one a lane:
 *   few_turn(out, rows, offset)        sixteen bytes of each row: out[j] has bytes 4 j to 4 j + 3 of row i in lane i
 *   few_dot(start, quants, x, count, most)
 *                                      start + quants times activations, 4 * count columns (4 or 8 registers). most:
 *                                      no quant is greater, none negative; or FEW_SIGNED, after few_with_sign
 *   few_part(total, quants, x, count, most, scale)
 *                                      total + scale * that, with a scale of few_scale
 *   few_pair(a, b), few_pairs          two numbers of 16 bits a lane; and pairs times pairs of sums of activations
 *   few_with_sign(quants)              signed quants as few_dot wants them: FEW_RAISED higher
 *   few_table, few_look_up             sixteen codes, each so much higher; what the low halves of bytes find there
 *   few_fifth(bits, k)                 16 in byte j where bit 4 k + j of the lane is set, k below 8
 *   few_halves, few_exponents          floats of the lower 16 bits; 2^(e - 128) of the lowest 8
 * and FEW_ALONE, the least tokens of the types for which this is quickest (by measurement), FEW_ALONE_CODES of those
 * that look up codes with a sign; 2 of the others. */
#ifndef HYPURA_COMPUTE_FEW_H
#define HYPURA_COMPUTE_FEW_H

#include "compute/cpu/four_rows.h"

#include <string.h>

/* Instead of the greatest quant. */
#define FEW_SIGNED 255

#if defined(__AVX512F__)
#define FEW_LANES 16
#elif defined(__AVX2__)
#define FEW_LANES 8
#else
#define FEW_LANES 4
#endif

/* Where the same block of FEW_LANES rows is. */
struct few_rows {
    const uint8_t *four[FEW_LANES / 4]; /* rows 0, 4, 8 and 12 */
    size_t row_bytes;
};

static ALWAYS_INLINE const uint8_t *few_row(const struct few_rows *rows, size_t row)
{
    return rows->four[row / 4] + row % 4 * rows->row_bytes;
}

#if defined(__AVX512F__)
#include "compute/cpu/few_avx512.h"
#elif defined(__AVX2__)
#include "compute/cpu/few_avx2.h"
#else
#include "compute/cpu/few_neon.h"
#endif

/* A few tokens: their activations, and what they have summed so far. */
struct few_tokens {
    size_t count;
    struct activation_row x[FEW_MOST_TOKENS];
    float *out[FEW_MOST_TOKENS];
    _Alignas(64) float sums[FEW_MOST_TOKENS][FEW_LANES];
    _Alignas(64) int32_t totals[FEW_MOST_TOKENS][FEW_LANES]; /* of the block at hand */
};

static ALWAYS_INLINE void few_start(struct few_tokens *tokens, const struct matmul *job, enum activation_kind kind)
{
    tokens->count = job->tokens;
    for (size_t t = 0; t < job->tokens; t++) {
        tokens->x[t] = activation_row(job->input, kind, job->input_rows ? job->input_rows[t] : t);
        tokens->out[t] = job->output + (job->output_rows ? job->output_rows[t] : t) * job->output_stride;
    }
}

/* The FEW_LANES rows from this one on are next. */
static ALWAYS_INLINE struct few_rows few_rows(struct few_tokens *tokens, struct prefetch *ahead,
                                              const struct matrix *weights, size_t row)
{
    struct few_rows rows = {.row_bytes = weights->row_bytes};
    for (size_t i = 0; i < FEW_LANES / 4; i++)
        rows.four[i] = weights->data + (row + 4 * i) * weights->row_bytes;
    ahead->next = (uintptr_t)rows.four[0] + MAX(FEW_LANES * weights->row_bytes, PREFETCH_DISTANCE);
    memset(tokens->sums, 0, tokens->count * sizeof tokens->sums[0]);
    return rows;
}

static ALWAYS_INLINE void few_finish(const struct few_tokens *tokens, size_t row)
{
    for (size_t t = 0; t < tokens->count; t++)
        memcpy(tokens->out[t] + row, tokens->sums[t], sizeof tokens->sums[t]);
}

#endif
