/* compress: the private contract between compress.c, which splits channels over threads, and compress_kernels.c, which
 * is built once for each instruction set. All variants give the same bits: see lanes.h. */
#ifndef HYPURA_COMPUTE_COMPRESS_H
#define HYPURA_COMPUTE_COMPRESS_H

#include "compute/compute.h"

struct compress_kernels {
    /* Compresses channels [first, end) of every row. first is a multiple of 16. */
    void (*compress)(const struct compression *compression, size_t first, size_t end);
};

extern const struct compress_kernels compress_kernels_plain;
extern const struct compress_kernels compress_kernels_avx2;
extern const struct compress_kernels compress_kernels_avx512;
extern const struct compress_kernels compress_kernels_neon;

#endif
