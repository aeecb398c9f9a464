/* Weights times a few rows of activations: shared by few_super.c and few_blocks.c, whose kernels are written once and
 * built for each instruction set. few_avx512.h, few_avx2.h and few_neon.h have the operations.
 *
 * FEW_LANES rows are processed at a time. Their packed quants are transposed in registers, so that each 32-bit lane is
 * a row. Each register of quants is then multiplied by four activations of one token after another. So weights are
 * unpacked once for all tokens, only integer sums are written, and no sum crosses lanes. Panels (gemm.h) do the same
 * through memory, which only pays for many tokens. Sums follow compute.h.
 *
 * The operations, on 32-bit integers and floats, one per lane:
 *   few_turn(out, rows, offset)        transposes 16 bytes per row: lane i of out[j] has bytes 4 j to 4 j + 3 of row i
 *   few_dot(start, quants, x, count, most)
 *                                      start + quants times activations, 4 * count columns (4 or 8 registers). most:
 *                                      the greatest quant, none is negative; or FEW_SIGNED, after few_with_sign
 *   few_part(total, quants, x, count, most, scale)
 *                                      total + scale * that, with a scale of few_scale
 *   few_pair(a, b), few_pairs          two 16-bit numbers per lane; pairs times pairs of sums of activations
 *   few_with_sign(quants)              signed quants in the form for few_dot: raised by FEW_RAISED
 *   few_table, few_look_up             sixteen codes, raised; looks up the low half of each byte
 *   few_fifth(bits, k)                 16 in byte j if bit 4 k + j of the lane is set, k below 8
 *   few_halves, few_exponents          floats of the lower 16 bits; 2^(e - 128) of the lowest 8
 * and FEW_LEAST_NVFP4, as FEW_LEAST for NVFP4. */
#ifndef HYPURA_COMPUTE_FEW_H
#define HYPURA_COMPUTE_FEW_H

#include "compute/cpu/four_rows.h"

#include <string.h>

/* The least tokens for which these kernels are faster than gemv. */
#define FEW_LEAST 2

/* In place of the greatest quant. */
#define FEW_SIGNED 255

#if defined(__AVX512F__)
#define FEW_LANES 16
#elif defined(__AVX2__)
#define FEW_LANES 8
#else
#define FEW_LANES 4
#endif

/* The addresses of the same block of FEW_LANES rows. */
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

/* A few tokens: their activations, and their sums so far. */
struct few_tokens {
    size_t count;
    struct activation_row x[FEW_MOST_TOKENS];
    float *out[FEW_MOST_TOKENS];
    _Alignas(64) float sums[FEW_MOST_TOKENS][FEW_LANES];
    _Alignas(64) int32_t totals[FEW_MOST_TOKENS][FEW_LANES]; /* of the current block */
};

static ALWAYS_INLINE void few_start(struct few_tokens *tokens, const struct matmul *job, enum activation_kind kind)
{
    tokens->count = job->tokens;
    for (size_t t = 0; t < job->tokens; t++) {
        tokens->x[t] = activation_row(job->input, kind, job->input_rows ? job->input_rows[t] : t);
        tokens->out[t] = job->output + (job->output_rows ? job->output_rows[t] : t) * job->output_stride;
    }
}

/* Begins with the FEW_LANES rows from this one on. */
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
