/* rows: the private contract between rows.c, which splits work over threads, and rows_kernels.c, which is built once
 * for each instruction set. All variants give the same bits: see lanes.h. */
#ifndef HYPURA_COMPUTE_ROWS_H
#define HYPURA_COMPUTE_ROWS_H

#include "compute/compute.h"

struct row_kernels {
    float (*rms_factor)(const float *in, size_t columns, float epsilon); /* the factor that normalises a row */
    void (*rms_norm)(float *out, const float *in, const float *weight, size_t columns, float epsilon);
    void (*layer_norm)(float *out, const float *in, const float *weight, const float *bias, size_t columns,
                       float epsilon);
    void (*add)(float *out, const float *a, const float *b, size_t count);
    void (*scale)(float *out, const float *in, float factor, size_t count);
    void (*glu)(enum glu_kind kind, float *out, const float *gate, const float *up, size_t count, float alpha,
                float limit);
    void (*function)(enum activation_function function, float *values, size_t count);
    void (*soft_cap)(float *values, size_t count, float cap);
    void (*clamp)(float *values, size_t count, float limit);
    void (*rope)(enum rope_layout layout, float *head, size_t rotary, const float *table, float direction);
    float (*dot)(const float *a, const float *b, size_t count);
    void (*gather)(float *out, const float *streams, const float *weights, size_t count, size_t width);
    void (*scatter)(float *streams, const float *branch, const float *back, const float *matrix, size_t count,
                    size_t width);
};

const struct row_kernels *row_kernels_of(const struct compute *compute);

extern const struct row_kernels row_kernels_plain;
extern const struct row_kernels row_kernels_avx2;
extern const struct row_kernels row_kernels_avx512;
extern const struct row_kernels row_kernels_neon;

#endif
