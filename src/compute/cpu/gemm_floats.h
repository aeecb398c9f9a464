/* gemm_floats: matrix times matrix for F32, F16 and BF16 weights, built once for each instruction set (see lanes.h),
 * and for the processor's BF16 dot product.
 *
 * Each output has sixteen partial sums, as compute.h says, so a tile of rows x tokens walks the columns with a vector
 * of partial sums per output. In each step of columns, a tile's weights and activations fit the first-level cache.
 * Between steps, the partial sums of a block of rows x tokens are kept in scratch. */
#ifndef HYPURA_COMPUTE_GEMM_FLOATS_H
#define HYPURA_COMPUTE_GEMM_FLOATS_H

#include "compute/cpu/kernels.h"

#define FLOATS_BLOCK_ROWS ((size_t)128)
#define FLOATS_BLOCK_TOKENS ((size_t)48)

/* For gemm_floats_scratch_bytes: columns per step, and the most rows of a tile. */
#define FLOATS_STEP 512
#define FLOATS_TILE_ROWS 4
#define FLOATS_LANES 16

/* The gemm entries of these types. */
extern const struct kernel_table gemm_floats_plain;
extern const struct kernel_table gemm_floats_avx2;
extern const struct kernel_table gemm_floats_avx512;
extern const struct kernel_table gemm_floats_neon;
extern const struct kernel_table gemm_bf16_avx512;

#endif
