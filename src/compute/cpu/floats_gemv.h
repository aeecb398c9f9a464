/* Matrix times vector for F32, F16 and BF16, four rows and sixteen columns at a time, for instruction sets without
 * masked lanes. The including file first defines
 *   sixteen                            a float for each of sixteen columns
 *   sixteen_zero(), sixteen_fold(sums) all 0; their sum in the order of compute.h
 *   sixteen_add(sums, a, b)            sums + a * b, rounded once
 *   load_f32(row), load_f16(row)       the next sixteen columns
 *   bf16_step(sums, at, x)             adds the next 32 columns of four rows, and advances *at */
#ifndef HYPURA_COMPUTE_FLOATS_GEMV_H
#define HYPURA_COMPUTE_FLOATS_GEMV_H

#include "compute/cpu/four_rows.h"

#include <string.h>

typedef sixteen load_function(const uint8_t *row);

/* The last columns of four rows, fewer than a whole step, in copies padded with zeros. */
struct tail {
    uint8_t rows[4][64];
    float x[16];
};

static void tail_rows(struct tail *tail, struct four_rows *at, size_t bytes)
{
    memset(tail, 0, sizeof *tail);
    for (int i = 0; i < 4; i++) {
        memcpy(tail->rows[i], at->at[i], bytes);
        at->at[i] = tail->rows[i];
    }
}

/* Folds all four, so that the compiler keeps the sums in registers; stores those of existing rows. */
static ALWAYS_INLINE void store_sums(float *out, const sixteen sums[4], size_t left)
{
    float folded[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        folded[i] = sixteen_fold(sums[i]);
    memcpy(out, folded, MIN(left, (size_t)4) * sizeof *out);
}

static ALWAYS_INLINE void float_step(sixteen *sums, struct four_rows *at, const float *x, size_t element_bytes,
                                     load_function *load)
{
    sixteen values = load_f32((const uint8_t *)x);
    for (int i = 0; i < 4; i++) {
        sums[i] = sixteen_add(sums[i], load(at->at[i]), values);
        at->at[i] += 16 * element_bytes;
    }
}

static ALWAYS_INLINE void float_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                     const struct activation_row *x, size_t element_bytes, load_function *load)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        sixteen sums[4];
        for (int i = 0; i < 4; i++)
            sums[i] = sixteen_zero();
        size_t c = 0;
        for (; c + 16 <= columns; c += 16) {
            prefetch_more(&ahead, 64 * element_bytes);
            float_step(sums, &at, x->floats + c, element_bytes, load);
        }
        if (c < columns) {
            struct tail tail;
            tail_rows(&tail, &at, (columns - c) * element_bytes);
            memcpy(tail.x, x->floats + c, (columns - c) * sizeof *tail.x);
            float_step(sums, &at, tail.x, element_bytes, load);
        }
        store_sums(out + r, sums, rows - r);
    }
}

static void gemv_f32(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                     const struct activation_row *x)
{
    float_gemv(out, weights, row_bytes, rows, columns, x, 4, load_f32);
}

static void gemv_f16(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                     const struct activation_row *x)
{
    float_gemv(out, weights, row_bytes, rows, columns, x, 2, load_f16);
}

static void gemv_bf16(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                      const struct activation_row *x)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        sixteen sums[4];
        for (int i = 0; i < 4; i++)
            sums[i] = sixteen_zero();
        size_t c = 0;
        for (; c + 32 <= columns; c += 32) {
            prefetch_more(&ahead, 256);
            bf16_step(sums, &at, x->bfloats + c);
        }
        if (c < columns) {
            struct tail tail;
            tail_rows(&tail, &at, (columns - c) * 2);
            bf16_step(sums, &at, x->bfloats + c);
        }
        store_sums(out + r, sums, rows - r);
    }
}

#endif
