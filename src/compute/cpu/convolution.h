/* convolution: the private contract between convolution.c, which splits work over threads, and convolution_kernels.c,
 * which is built once for each instruction set. All variants give the same bits: see lanes.h. */
#ifndef HYPURA_COMPUTE_CONVOLUTION_H
#define HYPURA_COMPUTE_CONVOLUTION_H

#include "compute/compute.h"

/* Channels per task. */
#define CONVOLUTION_CHANNELS 128

struct convolution_kernels {
    /* Convolves all rows of channels [first, first + count) of a group. */
    void (*convolve)(const struct convolution *convolution, size_t group, size_t first, size_t count);
};

extern const struct convolution_kernels convolution_kernels_plain;
extern const struct convolution_kernels convolution_kernels_avx2;
extern const struct convolution_kernels convolution_kernels_avx512;
extern const struct convolution_kernels convolution_kernels_neon;

#endif
