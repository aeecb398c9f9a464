/* compress: the private contract between compress.c, which splits channels over threads, and compress_kernels.c, which
 * is built once for each instruction set. All variants give the same bits: see lanes.h. */
#ifndef HYPURA_COMPUTE_COMPRESS_H
#define HYPURA_COMPUTE_COMPRESS_H

#include "compute/compute.h"

/* Channels first to end of every row; first is a multiple of sixteen. */
typedef void compress_kernel(const struct compression *compression, size_t first, size_t end);

extern compress_kernel compress_plain, compress_avx2, compress_avx512, compress_neon;

#endif
