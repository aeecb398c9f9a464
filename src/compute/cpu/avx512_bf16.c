/* AVX512-BF16: matrix times vector for BF16. The instruction adds the products of a pair, odd column first, each by a
 * fused operation: the order of compute.h. (It takes subnormal numbers as zero; plain C does not.) */
#include "compute/cpu/avx512.h"

static void gemv_bf16(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                      const struct activation_row *x)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m512 sums[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
        for (size_t c = 0; c < columns; c += 32) {
            prefetch_more(&ahead, 256);
            __mmask32 mask = columns - c >= 32 ? (__mmask32)-1 : (__mmask32)((1u << (columns - c)) - 1);
            __m512bh values = (__m512bh)_mm512_loadu_si512(x->bfloats + c);
            for (int i = 0; i < 4; i++) {
                __m512i row = _mm512_maskz_loadu_epi16(mask, at.at[i] + 2 * c);
                sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)row, values);
            }
        }
        for (size_t i = 0; i < MIN(rows - r, (size_t)4); i++)
            out[r + i] = fold(sums[i]);
    }
}

void kernels_avx512_bf16(struct kernel_table *table)
{
    table->types[TENSOR_BF16].gemv = gemv_bf16;
}
