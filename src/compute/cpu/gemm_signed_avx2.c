/* Multiplies panels of signed 8-bit quants with AVX2 alone.
 *
 * The signs of quants are moved to the activations: for a negative quant, the bits of x are inverted, which can run on
 * any port. That gives -x - 1, so the sum is too low by the magnitude of the quant. The total depends on the weights
 * only. The panel has it in place of the minima, and sums start with it. Signs and magnitudes are computed in registers
 * for eight rows at a time, and six tokens share them. */
#include "compute/cpu/gemm_avx2.h"

#define MOST_TOKENS 6
#define MOST_PANELS 1
#define PANELS_FOR(tokens) 1

/* The start values of the sums of eight rows, for a super-block or a block. */
INLINE __m256i turned(const struct panel *panel, size_t block, size_t half)
{
    return _mm256_load_si256((const void *)panel->minima[block][8 * half]);
}

/* totals += scale * the sums of 4 * count columns of eight rows. scale: each lane has it twice, in 16 bits. */
INLINE void add_part(__m256i *totals, const struct panel *panel, size_t half, const struct panel_token *x,
                     const int tokens, size_t quad, const int count, const __m256i scale)
{
    UNROLL(8)
    for (int q = 0; q < count; q++) {
        const __m256i w = weights(panel, quad + (size_t)q, half);
        const __m256i magnitudes = _mm256_abs_epi8(w), negative = _mm256_cmpgt_epi8(_mm256_setzero_si256(), w);
        UNROLL(6)
        for (int t = 0; t < tokens; t++) {
            __m256i signs = _mm256_xor_si256(same(x[t].quants + (quad + (size_t)q) * 4), negative);
            __m256i products = _mm256_maddubs_epi16(magnitudes, signs);
            totals[t] = _mm256_add_epi32(totals[t], _mm256_madd_epi16(products, scale));
            IN_REGISTER(totals[t]);
        }
    }
}

INLINE void super_block(const struct panel *panel, const struct panel_token *x, const int tokens, const int parts,
                        size_t row)
{
    for (size_t half = 0; half < 2; half++) {
        __m256i totals[MOST_TOKENS];
        UNROLL(6)
        for (int t = 0; t < tokens; t++)
            totals[t] = turned(panel, 0, half);
        for (size_t two = 0; two < (size_t)parts; two += 2) {
            UNROLL(2)
            for (size_t part = two; part < two + 2; part++)
                add_part(totals, panel, half, x, tokens, part * (size_t)(64 / parts), 64 / parts,
                         part_scale(panel, part, half));
        }
        UNROLL(6)
        for (int t = 0; t < tokens; t++) {
            size_t at = row + 8 * half;
            __m256 scale = scaled(panel->d[0] + 8 * half, x[t].scales[0]), sum = _mm256_loadu_ps(x[t].from + at);
            _mm256_storeu_ps(x[t].to + at, _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(totals[t]), sum));
        }
    }
}

/* Blocks of 32, each followed by its float operations. */
INLINE void blocks_of_32(const struct panel *panel, const struct panel_token *x, const int tokens, size_t blocks,
                         size_t row)
{
    for (size_t half = 0; half < 2; half++) {
        __m256 out[MOST_TOKENS];
        UNROLL(6)
        for (int t = 0; t < tokens; t++)
            out[t] = _mm256_loadu_ps(x[t].from + row + 8 * half);
        for (size_t block = 0; block < blocks; block++) {
            __m256i totals[MOST_TOKENS];
            UNROLL(6)
            for (int t = 0; t < tokens; t++)
                totals[t] = turned(panel, block, half);
            add_part(totals, panel, half, x, tokens, block * 8, 8, _mm256_set1_epi16(1));
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

SHAPED void multiply_panels(const enum panel_kind kind, const int how, const struct panel *panels, const int count,
                            const struct panel_token *x, const int tokens, size_t blocks, size_t row)
{
    (void)how, (void)count;
    if (kind == PANEL_BLOCKS)
        blocks_of_32(panels, x, tokens, blocks, row);
    else
        super_block(panels, x, tokens, kind == PANEL_PARTS_8 ? 8 : 16, row);
}

#include "compute/cpu/gemm_walk.h"

static void multiply_blocks(const struct panel_product *product)
{
    multiply_kind(PANEL_BLOCKS, 0, product);
}

static void multiply_parts_8(const struct panel_product *product)
{
    multiply_kind(PANEL_PARTS_8, 0, product);
}

static void multiply_parts_16(const struct panel_product *product)
{
    multiply_kind(PANEL_PARTS_16, 0, product);
}

void panels_multiply_signed(enum tensor_type type, const struct panel_product *product)
{
    const enum panel_kind kind = panel_kind(type);
    (kind == PANEL_BLOCKS ? multiply_blocks : kind == PANEL_PARTS_8 ? multiply_parts_8 : multiply_parts_16)(product);
}

/* ---- start values for inverted bits ------------------------------------------------------------------------------ */

/* -scale * the sum of the negative quants of 4 * count columns, for eight rows. */
INLINE __m256i negatives(const struct panel *panel, size_t quad, size_t count, size_t half, __m256i scale)
{
    __m256i sum = _mm256_setzero_si256();
    for (size_t q = quad; q < quad + count; q++) {
        __m256i negative = _mm256_min_epi8(weights(panel, q, half), _mm256_setzero_si256());
        sum = _mm256_sub_epi16(sum, _mm256_maddubs_epi16(_mm256_set1_epi8(1), negative));
    }
    return _mm256_madd_epi16(sum, scale);
}

static void finish_blocks(struct panel *panel)
{
    for (size_t block = 0; block < 8; block++)
        for (size_t half = 0; half < 2; half++)
            _mm256_store_si256((void *)panel->minima[block][8 * half],
                               negatives(panel, 8 * block, 8, half, _mm256_set1_epi16(1)));
}

static void finish_parts(struct panel *panel, const size_t parts)
{
    for (size_t half = 0; half < 2; half++) {
        __m256i sum = _mm256_setzero_si256();
        for (size_t part = 0; part < parts; part++)
            sum = _mm256_add_epi32(
                sum, negatives(panel, part * (64 / parts), 64 / parts, half, part_scale(panel, part, half)));
        _mm256_store_si256((void *)panel->minima[0][8 * half], sum);
    }
}

void panels_finish_signed(enum tensor_type type, struct panel *panel)
{
    switch (type) {
    case TENSOR_Q8_0:
    case TENSOR_IQ4_NL:
        finish_blocks(panel);
        break;
    case TENSOR_IQ1_M:
    case TENSOR_IQ2_XS:
    case TENSOR_IQ2_S:
        finish_parts(panel, 16);
        break;
    case TENSOR_IQ1_S:
    case TENSOR_IQ2_XXS:
    case TENSOR_IQ3_XXS:
    case TENSOR_IQ3_S:
    case TENSOR_IQ4_XS:
        finish_parts(panel, 8);
        break;
    default:
        break;
    }
}
