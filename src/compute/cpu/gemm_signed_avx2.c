/* Multiplies panels of blocks of signed 8-bit quants with AVX2 alone.
 *
 * The signs of quants are moved to the activations: for a negative quant, the bits of x are inverted, which can run on
 * any port. That gives -x - 1, so the sum is too low by the magnitude of the quant. The total depends on the weights
 * only. The panel has it in place of the minima, and sums start with it. Signs and magnitudes are computed in registers
 * for eight rows at a time, and six tokens share them. */
#include "compute/cpu/gemm_avx2.h"

#define MOST_TOKENS 6
#define MOST_PANELS 1
#define PANELS_FOR(tokens) 1

/* The sums of a block for eight rows. */
INLINE void sum_block(__m256i *totals, const struct panel *panel, const struct panel_token *x, const int tokens,
                      size_t block, size_t half)
{
    UNROLL(6)
    for (int t = 0; t < tokens; t++)
        totals[t] = _mm256_load_si256((const void *)panel->minima[block][8 * half]);
    UNROLL(8)
    for (size_t i = 0; i < 8; i++) {
        const __m256i w = weights(panel, 8 * block + i, half);
        const __m256i magnitudes = _mm256_abs_epi8(w), negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), w);
        UNROLL(6)
        for (int t = 0; t < tokens; t++) {
            __m256i signs = _mm256_xor_si256(same(x[t].quants + 32 * block + 4 * i), negative);
            __m256i products = _mm256_maddubs_epi16(magnitudes, signs);
            totals[t] = _mm256_add_epi32(totals[t], _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
            IN_REGISTER(totals[t]);
        }
    }
}

/* Each block is followed by its float operations. */
SHAPED void multiply_panels(const enum panel_kind kind, const int how, const struct panel *panel, const int count,
                            const struct panel_token *x, const int tokens, size_t blocks, size_t row)
{
    (void)kind, (void)how, (void)count;
    for (size_t half = 0; half < 2; half++) {
        __m256 out[MOST_TOKENS];
        UNROLL(6)
        for (int t = 0; t < tokens; t++)
            out[t] = _mm256_loadu_ps(x[t].from + row + 8 * half);
        for (size_t block = 0; block < blocks; block++) {
            __m256i totals[MOST_TOKENS];
            sum_block(totals, panel, x, tokens, block, half);
            UNROLL(6)
            for (int t = 0; t < tokens; t++)
                out[t] = _mm256_fmadd_ps(scaled(panel->d[block] + 8 * half, x[t].scales[block]),
                                         _mm256_cvtepi32_ps(totals[t]), out[t]);
        }
        UNROLL(6)
        for (int t = 0; t < tokens; t++)
            _mm256_storeu_ps(x[t].to + row + 8 * half, out[t]);
    }
}

#include "compute/cpu/gemm_walk.h"

void panels_multiply_signed(const struct panel_product *product)
{
    multiply_kind(PANEL_BLOCKS, 0, product);
}

/* The magnitudes of the negative quants of a block, summed up for eight rows. */
INLINE __m256i negatives(const struct panel *panel, size_t block, size_t half)
{
    __m256i sum = _mm256_setzero_si256();
    for (size_t q = 8 * block; q < 8 * block + 8; q++) {
        __m256i negative = _mm256_min_epi8(weights(panel, q, half), _mm256_setzero_si256());
        sum = _mm256_sub_epi16(sum, _mm256_maddubs_epi16(_mm256_set1_epi8(1), negative));
    }
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

void panels_finish_signed(struct panel *panel)
{
    for (size_t block = 0; block < 8; block++)
        for (size_t half = 0; half < 2; half++)
            _mm256_store_si256((void *)panel->minima[block][8 * half], negatives(panel, block, half));
}
