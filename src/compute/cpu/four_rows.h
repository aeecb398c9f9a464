/* Rows taken in fours, as most kernels do: where the four rows are, and memory asked for ahead of them. */
#ifndef HYPURA_COMPUTE_FOUR_ROWS_H
#define HYPURA_COMPUTE_FOUR_ROWS_H

#include "compute/cpu/kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Four rows, the last one several times where fewer are left. */
struct four_rows {
    const uint8_t *at[4];
};

static ALWAYS_INLINE struct four_rows four_rows(const uint8_t *weights, size_t row_bytes, size_t first, size_t rows)
{
    struct four_rows out;
    for (size_t i = 0; i < 4; i++)
        out.at[i] = weights + MIN(first + i, rows - 1) * row_bytes;
    return out;
}

/* While four rows are in work, what follows is asked for, in the order of memory: into the second-level cache, since
 * eight rows are more than the first level keeps. Four rows side by side are four short streams, which the hardware's
 * own prefetch follows badly from memory, and well from there. Four rows ahead, but no less than memory under load
 * takes to answer; and past the last row too, because a worker goes on with the rows that follow. */
#define PREFETCH_DISTANCE ((size_t)24 << 10)

struct prefetch {
    const uint8_t *weights;
    size_t row_bytes, distance;
    uintptr_t next; /* not a pointer: it passes the end */
};

static ALWAYS_INLINE void prefetch_lines(uintptr_t from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const void *)(from + i), 0, 2);
}

/* The starts of the first rows at once, since nobody may have asked for them before. */
static ALWAYS_INLINE struct prefetch prefetch_start(const uint8_t *weights, size_t row_bytes, size_t rows)
{
    for (size_t r = 0; r < MIN(rows, (size_t)4); r++)
        prefetch_lines((uintptr_t)weights + r * row_bytes, MIN(row_bytes, (size_t)2048));
    return (struct prefetch){weights, row_bytes, MAX(4 * row_bytes, PREFETCH_DISTANCE), 0};
}

/* The four rows from this one on are next. */
static ALWAYS_INLINE void prefetch_rows_from(struct prefetch *prefetch, size_t row)
{
    prefetch->next = (uintptr_t)prefetch->weights + row * prefetch->row_bytes + prefetch->distance;
}

static ALWAYS_INLINE void prefetch_more(struct prefetch *prefetch, size_t bytes)
{
    prefetch_lines(prefetch->next, bytes);
    prefetch->next += bytes;
}

#endif
