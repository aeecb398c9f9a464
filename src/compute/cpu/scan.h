/* scan: the private contract between scan.c, which splits work over threads, and scan_kernels.c, which is built once
 * for each instruction set. All variants give the same bits: see lanes.h. */
#ifndef HYPURA_COMPUTE_SCAN_H
#define HYPURA_COMPUTE_SCAN_H

#include "compute/compute.h"

/* Channels per task. */
#define SCAN_CHANNELS 64

struct scan_kernels {
    /* Scans all rows of channels [first, first + count) of a head. If each element has a rate: of heads [first, first +
     * count), and head is 0. */
    void (*run)(const struct scan *scan, size_t head, size_t first, size_t count);
};

extern const struct scan_kernels scan_kernels_plain;
extern const struct scan_kernels scan_kernels_avx2;
extern const struct scan_kernels scan_kernels_avx512;
extern const struct scan_kernels scan_kernels_neon;

#endif
