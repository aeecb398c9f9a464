/* index: the private contract between index.c, which splits the search over threads and chooses, and index_kernels.c,
 * which is built once for each instruction set. All variants give the same bits: see lanes.h.
 *
 * The order of sums. A product is the sum over the elements in order by fmaf, and a score the sum over the heads in
 * order by fmaf. No score depends on another, so results do not depend on how rows and keys are cut into tasks. */
#ifndef HYPURA_COMPUTE_INDEX_H
#define HYPURA_COMPUTE_INDEX_H

#include "compute/compute.h"

/* Keys per task. */
#define INDEX_SPAN 1024

/* The scores of some rows for keys [first, end). first is a multiple of ATTENTION_BLOCK. */
struct index_tile {
    const struct index_search *search;
    size_t row, rows; /* of the batch */
    size_t first, end;
    float *scores; /* [rows][sets][stride], from key 0 on */
    size_t stride; /* from set to set; a multiple of ATTENTION_BLOCK */
};

static inline size_t index_sets(const struct index_search *search)
{
    return search->by_head ? search->heads : 1;
}

/* Floats that a worker needs for a tile of this many rows. */
static inline size_t index_work_floats(size_t rows, size_t heads, size_t size)
{
    return ATTENTION_BLOCK * (size + rows * heads) + 16;
}

/* Per worker. */
size_t index_scratch_bytes(const struct compute_limits *limits);

struct index_kernels {
    void (*score)(const struct index_tile *tile, float *work);
};

extern const struct index_kernels index_kernels_plain;
extern const struct index_kernels index_kernels_avx2;
extern const struct index_kernels index_kernels_avx512;
extern const struct index_kernels index_kernels_neon;

#endif
