/* Four rows at a time, as most kernels work: their addresses, and prefetching. */
#ifndef HYPURA_COMPUTE_FOUR_ROWS_H
#define HYPURA_COMPUTE_FOUR_ROWS_H

#include "compute/cpu/kernels.h"

#define ALWAYS_INLINE inline __attribute__((always_inline))

/* Four rows; if fewer are left, the last one is repeated. */
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

static ALWAYS_INLINE void four_rows_advance(struct four_rows *rows, size_t bytes)
{
    for (int i = 0; i < 4; i++)
        rows->at[i] += bytes;
}

/* While a kernel works on four rows, it prefetches what follows in memory, into the second-level cache, because eight
 * rows do not fit the first. Four adjacent rows are four short streams. The hardware's own prefetcher follows such
 * streams badly from memory, but well from the second level. The distance is four rows, and at least enough for the
 * latency of memory under load. After the last row, prefetching goes on with what the worker reads next (struct
 * gemv_surroundings). */
#define PREFETCH_DISTANCE ((size_t)24 << 10)

struct prefetch {
    const uint8_t *weights;
    size_t row_bytes, distance;
    uintptr_t next, end, jump; /* not pointers: jump, from the end to the next weights, may wrap around */
};

static ALWAYS_INLINE void prefetch_lines(uintptr_t from, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const void *)(from + i), 0, 2);
}

/* If the first rows are cold, prefetches all that prefetch_more would have by now; for long rows, as much in total. */
static inline void prefetch_head(const uint8_t *weights, size_t row_bytes, size_t rows)
{
    size_t side_by_side = MIN(rows, (size_t)4);
    if (side_by_side * row_bytes <= PREFETCH_DISTANCE) {
        prefetch_lines((uintptr_t)weights, MIN(rows * row_bytes, PREFETCH_DISTANCE));
        return;
    }
    for (size_t r = 0; r < side_by_side; r++)
        prefetch_lines((uintptr_t)weights + r * row_bytes, MIN(row_bytes, PREFETCH_DISTANCE / 4));
}

static ALWAYS_INLINE struct prefetch prefetch_start(const uint8_t *weights, size_t row_bytes, size_t rows,
                                                    const struct gemv_surroundings *around)
{
    if (around->cold)
        prefetch_head(weights, row_bytes, rows);
    uintptr_t end = (uintptr_t)weights + rows * row_bytes;
    return (struct prefetch){.weights = weights,
                             .row_bytes = row_bytes,
                             .distance = MAX(4 * row_bytes, PREFETCH_DISTANCE),
                             .end = end,
                             .jump = around->then ? (uintptr_t)around->then - end : 0};
}

/* Goes on to the four rows from this one on. */
static ALWAYS_INLINE void prefetch_rows_from(struct prefetch *prefetch, size_t row)
{
    prefetch->next = (uintptr_t)prefetch->weights + row * prefetch->row_bytes + prefetch->distance;
}

static ALWAYS_INLINE void prefetch_more(struct prefetch *prefetch, size_t bytes)
{
    prefetch_lines(prefetch->next < prefetch->end ? prefetch->next : prefetch->next + prefetch->jump, bytes);
    prefetch->next += bytes;
}

#endif
