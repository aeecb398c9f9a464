/* AVX512-BF16: matrix times vector for BF16. The instruction adds the two products of a pair, odd column first, each
 * with a fused operation. That is the order of compute.h. (It treats subnormal numbers as zero; plain C does not.) */
#include "compute/cpu/avx512.h"

static ALWAYS_INLINE struct float_values values_32(const struct activation_row *x, size_t column, size_t left)
{
    (void)left; /* the copy of activations is padded */
    return (struct float_values){.first = _mm512_loadu_ps((const void *)(x->bfloats + column))};
}

static ALWAYS_INLINE __m512 step_bf16(__m512 sum, const uint8_t *row, size_t left, struct float_values values)
{
    __m512i weights =
        left < 32 ? _mm512_maskz_loadu_epi16((__mmask32)((1u << left) - 1), row) : _mm512_loadu_si512(row);
    return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)values.first);
}

static void gemv_bf16(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                      const struct activation_row *x)
{
    float_gemv(out, weights, row_bytes, rows, columns, x, 2, values_32, step_bf16);
}

const struct kernel_table kernels_avx512_bf16 = {
    .types[TENSOR_BF16] = {.gemv = gemv_bf16},
};
