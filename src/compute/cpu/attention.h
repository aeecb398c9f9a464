/* attention: the private contract between attention.c, which splits work over threads, and attention_kernels.c, which
 * is built once for each instruction set. All variants give the same bits: see lanes.h.
 *
 * The order of sums. A score is the sum over the elements of the head in order by fmaf, then scaled, then capped. The
 * positions are cut into spans that start at multiples of ATTENTION_SPAN. A span keeps a running maximum, sum and
 * weighted values over its blocks of ATTENTION_BLOCK positions; each element of the values adds the positions in order
 * by fmaf. The spans are then merged in order. So no result depends on which rows share a batch or a tile, nor on which
 * thread computed which span. Chosen positions are treated as adjacent. So a row that chose all positions gets the same
 * bits as one that sees all. */
#ifndef HYPURA_COMPUTE_ATTENTION_H
#define HYPURA_COMPUTE_ATTENTION_H

#include "compute/compute.h"

#define ATTENTION_SPAN 1024

/* Queries of one kv head are numbered row * group + head within the group. A tile is count of them, whose keys and
 * values are unpacked once. */
struct attention_tile {
    const struct attention *attention;
    const struct attention_sequence *sequence;
    size_t kv_head;
    size_t first, count;
};

/* The running softmax of a tile's queries: count maxima, count sums, count rows of attention_value_floats. */
static inline size_t attention_value_floats(size_t value_size)
{
    return align_up(value_size, 16);
}

static inline size_t attention_state_floats(size_t count, size_t value_size)
{
    return count * (attention_value_floats(value_size) + 2);
}

/* Floats that attend needs for a tile, in addition to the state. */
static inline size_t attention_work_floats(size_t count, size_t key_size, size_t value_size)
{
    return ATTENTION_BLOCK * (key_size + attention_value_floats(value_size)) +
           count * (key_size + ATTENTION_BLOCK + 2) + 16;
}

/* Positions of the window that a row sees in addition to those it chose. */
static inline uint32_t attention_near(const struct attention_choice *choice, uint32_t own)
{
    return own < choice->window ? own + 1 : choice->window;
}

/* Further floats after these, for chosen positions: a block of adjacent rows of any type. */
static inline size_t attention_choice_floats(size_t key_size, size_t value_size)
{
    return ATTENTION_BLOCK * (key_size + value_size) + 16;
}

/* Per worker. With sizes up to ATTENTION_MAX_SIZE, some queries always fit. */
size_t attention_scratch_bytes(const struct compute_limits *limits);

/* Positions that the queries of a tile see, from the least first to the greatest last. Chosen positions are numbered by
 * their index in the row's set. */
struct attention_range {
    uint32_t first, last;
};

struct attention_range attention_row_range(const struct attention_tile *tile, size_t row);

/* The chosen set of a row of a tile's sequence. */
const uint32_t *attention_chosen(const struct attention_tile *tile, size_t row);

struct attention_kernels {
    /* Writes a fresh state for the positions first to last, which are in one span. */
    void (*attend)(const struct attention_tile *tile, uint32_t first, uint32_t last, float *state, float *work);
    /* Merges the state "from", of later positions, into the state "into". */
    void (*merge)(float *into, const float *from, size_t count, size_t value_size);
    /* Adds sinks, divides, and writes the output. */
    void (*finish)(const struct attention_tile *tile, const float *state);
};

extern const struct attention_kernels attention_kernels_plain;
extern const struct attention_kernels attention_kernels_avx2;
extern const struct attention_kernels attention_kernels_avx512;
extern const struct attention_kernels attention_kernels_neon;

#endif
