/* Multiplies the panels of gemm.h with AVX2 alone. AVX2 multiplies bytes and sums the products in pairs, in 16 bits
 * with saturation.
 *
 * Quants of few bits leave room to add the pairs of several columns. So the one instruction that scales and widens them
 * is needed less often. For that, quants are unsigned and as small as possible (raises), and the start value of a sum
 * corrects for what was added. In 16 bits this may wrap around, but the final sum fits. For larger quants, see
 * gemm_raised_avx2.c (super-blocks) and gemm_signed_avx2.c (blocks). */
#include "compute/cpu/gemm_avx2.h"

/* Six 16-bit sums in registers, next to the weights, their magnitudes and a token's four activations. */
#define MOST_TOKENS 3
#define MOST_PANELS 1
#define PANELS_FOR(tokens) 1

/* How many groups of four columns can be added in 16 bits. */
enum fit { FIT_2 = 2, FIT_4 = 4, FIT_8 = 8 };

static const uint8_t raises[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_0] = 8,   [TENSOR_Q5_0] = 16,    [TENSOR_MXFP4] = 12,   [TENSOR_NVFP4] = 12,
    [TENSOR_Q3_K] = 4,   [TENSOR_Q6_K] = 32,    [TENSOR_TQ1_0] = 1,    [TENSOR_TQ2_0] = 1,
    [TENSOR_IQ1_S] = 9,  [TENSOR_IQ1_M] = 9,    [TENSOR_IQ2_XXS] = 43, [TENSOR_IQ2_XS] = 43,
    [TENSOR_IQ2_S] = 43, [TENSOR_IQ3_XXS] = 62, [TENSOR_IQ3_S] = 15,   [TENSOR_IQ4_XS] = 127,
};

/* The start values of the 16-bit sums of sixteen columns: for the first two and the last two of every four columns. */
INLINE void start_pairs(int32_t starts[16], const int8_t *quants, int raise)
{
    const __m256i factor = _mm256_set1_epi16((short)-raise);
    for (size_t i = 0; i < 16; i += 2) {
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), _mm256_loadu_si256((const void *)(quants + 16 * i)));
        pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, _MM_SHUFFLE(1, 0, 3, 2)));
        pairs = _mm256_add_epi16(pairs, _mm256_shuffle_epi32(pairs, _MM_SHUFFLE(2, 3, 0, 1)));
        pairs = _mm256_mullo_epi16(pairs, factor);
        starts[i] = _mm256_extract_epi32(pairs, 0);
        starts[i + 1] = _mm256_extract_epi32(pairs, 4);
    }
}

INLINE void make_side(const enum panel_kind kind, union panel_side *out, const int16_t *from, const int8_t *quants,
                      int raise)
{
    int16_t sums[16]; /* a copy that cannot overlap the output, so that the compiler can vectorise this */
    memcpy(sums, from, kind >= PANEL_WHOLE ? sizeof sums : sizeof sums / 2);
    switch (kind) {
    case PANEL_BLOCKS_MINIMA:
        for (size_t i = 0; i < 8; i++)
            out->block_sums[i] = (float)sums[i];
        break;
    case PANEL_PARTS_16_MINIMA:
        memcpy(out->sums, sums, sizeof out->sums);
        break;
    case PANEL_PARTS_8_MINIMA:
        for (size_t i = 0; i < 8; i++)
            out->sums[i] = (int16_t)(sums[2 * i] + sums[2 * i + 1]);
        break;
    case PANEL_WHOLE:
        out->starts[0] = 0;
        for (size_t i = 0; i < 16; i++)
            out->starts[0] -= raise * sums[i];
        break;
    case PANEL_PARTS_16:
        start_pairs(out->starts, quants, raise);
        break;
    case PANEL_HALVES: /* activations have no sums of halves */
        for (size_t i = 0; i < 16; i++) {
            int32_t sum = 0;
            for (size_t j = 0; j < 16; j++)
                sum += quants[16 * i + j];
            out->starts[i] = -raise * sum;
        }
        break;
    case PANEL_BLOCKS:
    case PANEL_BLOCKS_POWERS:
        for (size_t i = 0; i < 8; i++)
            out->starts[i] = -raise * sums[i];
        break;
    default:
        break;
    }
}

static void make_sides(enum tensor_type type, struct panel_tile *tile)
{
    const enum panel_kind kind = panel_kind(type);
    const int raise = raises[type];
    if (panels_are_raised(type)) {
        panels_make_sides_raised(type, tile);
        return;
    }
    for (size_t t = 0; t < tile->count; t++) {
        struct panel_token *token = &tile->tokens[t];
        make_side(kind, &token->side, token->sums, token->quants, raise);
    }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* totals += scale * the sums of 4 * count columns. scale: each lane has it twice, in 16 bits. starts: whether the
 * 16-bit sums have start values. */
INLINE void add_part(__m256i (*totals)[2], const struct panel *panel, const struct panel_token *x, const int tokens,
                     const enum fit fit, size_t quad, const int count, const __m256i scale[2], const bool starts,
                     size_t part)
{
    const int step = starts ? count : (int)fit;
    __m256i sums[MOST_TOKENS][2];
    UNROLL(8)
    for (int q = 0; q < count; q++) {
        const __m256i w[2] = {weights(panel, quad + (size_t)q, 0), weights(panel, quad + (size_t)q, 1)};
        UNROLL(4)
        for (int t = 0; t < tokens; t++) {
            __m256i four = same(x[t].quants + (quad + (size_t)q) * 4);
            UNROLL(2)
            for (int half = 0; half < 2; half++) {
                __m256i products = _mm256_maddubs_epi16(w[half], four);
                if (q % step)
                    sums[t][half] = _mm256_add_epi16(sums[t][half], products);
                else if (starts)
                    sums[t][half] = _mm256_add_epi16(products, _mm256_set1_epi32(x[t].side.starts[part]));
                else
                    sums[t][half] = products;
                if (q % step || starts)
                    IN_REGISTER(sums[t][half]);
            }
        }
        if ((q + 1) % step && q + 1 < count)
            continue;
        UNROLL(4)
        for (int t = 0; t < tokens; t++) {
            UNROLL(2)
            for (int half = 0; half < 2; half++) {
                totals[t][half] = _mm256_add_epi32(totals[t][half], _mm256_madd_epi16(sums[t][half], scale[half]));
                IN_REGISTER(totals[t][half]);
            }
        }
    }
}

/* A super-block in one or more parts: integer sums with integer scales, then the float operations. */
INLINE void super_block(const struct panel *panel, const struct panel_token *x, const int tokens, const int parts,
                        const bool minima, const enum fit fit, size_t row)
{
    const bool starts = parts == 16 && !minima;
    __m256i totals[MOST_TOKENS][2], scale[2] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
    UNROLL(4)
    for (int t = 0; t < tokens; t++) {
        UNROLL(2)
        for (size_t half = 0; half < 2; half++)
            totals[t][half] = _mm256_set1_epi32(parts == 1 ? x[t].side.starts[0] : 0);
    }
    if (parts == 1) {
        for (size_t quad = 0; quad < 64; quad += 8)
            add_part(totals, panel, x, tokens, fit, quad, 8, scale, false, 0);
    } else {
        for (size_t two = 0; two < (size_t)parts; two += 2) {
            UNROLL(2)
            for (size_t part = two; part < two + 2; part++) {
                scale[0] = part_scale(panel, part, 0);
                scale[1] = part_scale(panel, part, 1);
                add_part(totals, panel, x, tokens, fit, part * (size_t)(64 / parts), 64 / parts, scale, starts, part);
            }
        }
    }
    UNROLL(4)
    for (int t = 0; t < tokens; t++) {
        float dx = x[t].scales[0];
        UNROLL(2)
        for (size_t half = 0; half < 2; half++) {
            __m256 sum = _mm256_loadu_ps(x[t].from + row + 8 * half);
            sum = _mm256_fmadd_ps(scaled(panel->d[0] + 8 * half, dx), _mm256_cvtepi32_ps(totals[t][half]), sum);
            if (minima) {
                __m256i minimum = _mm256_setzero_si256();
                UNROLL(8)
                for (int i = 0; i < parts / 2; i++) {
                    __m256i pairs = _mm256_load_si256((const void *)panel->minima[i][8 * half]);
                    minimum = _mm256_add_epi32(minimum, _mm256_madd_epi16(pairs, same(x[t].side.sums + 2 * i)));
                }
                sum = _mm256_fnmadd_ps(scaled(panel->m[0] + 8 * half, dx), _mm256_cvtepi32_ps(minimum), sum);
            }
            _mm256_storeu_ps(x[t].to + row + 8 * half, sum);
        }
    }
}

/* Blocks of 32, or halves of them with scales of their own, each followed by its float operations. */
INLINE void blocks_of_32(const enum panel_kind kind, const struct panel *panel, const struct panel_token *x,
                         const int tokens, const enum fit fit, size_t blocks, size_t row)
{
    const int cuts = kind == PANEL_HALVES ? 2 : 1;
    const __m256i ones[2] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
    __m256 out[MOST_TOKENS][2];
    UNROLL(4)
    for (int t = 0; t < tokens; t++) {
        UNROLL(2)
        for (int half = 0; half < 2; half++)
            out[t][half] = _mm256_loadu_ps(x[t].from + row + 8 * half);
    }
    for (size_t block = 0; block < blocks; block++) {
        UNROLL(2)
        for (int cut = 0; cut < cuts; cut++) {
            size_t part = block * (size_t)cuts + (size_t)cut;
            const float *d = cut ? panel->m[block] : panel->d[block];
            __m256i totals[MOST_TOKENS][2];
            UNROLL(4)
            for (int t = 0; t < tokens; t++) {
                UNROLL(2)
                for (size_t half = 0; half < 2; half++)
                    totals[t][half] = _mm256_set1_epi32(kind == PANEL_BLOCKS_MINIMA ? 0 : x[t].side.starts[part]);
            }
            add_part(totals, panel, x, tokens, fit, part * (size_t)(8 / cuts), 8 / cuts, ones, false, 0);
            UNROLL(4)
            for (int t = 0; t < tokens; t++) {
                float dx = x[t].scales[block];
                UNROLL(2)
                for (int half = 0; half < 2; half++) {
                    __m256 *sum = &out[t][half];
                    *sum = _mm256_fmadd_ps(scaled(d + 8 * half, dx), _mm256_cvtepi32_ps(totals[t][half]), *sum);
                    if (kind == PANEL_BLOCKS_MINIMA)
                        *sum = _mm256_fnmadd_ps(scaled(panel->m[block] + 8 * half, dx),
                                                _mm256_set1_ps(x[t].side.block_sums[block]), *sum);
                }
            }
        }
    }
    UNROLL(4)
    for (int t = 0; t < tokens; t++) {
        UNROLL(2)
        for (int half = 0; half < 2; half++)
            _mm256_storeu_ps(x[t].to + row + 8 * half, out[t][half]);
    }
}

SHAPED void multiply_panels(const enum panel_kind kind, const int fit, const struct panel *panels, const int count,
                            const struct panel_token *x, const int tokens, size_t blocks, size_t row)
{
    (void)count;
    switch (kind) {
    case PANEL_WHOLE:
        super_block(panels, x, tokens, 1, false, (enum fit)fit, row);
        break;
    case PANEL_PARTS_8_MINIMA:
        super_block(panels, x, tokens, 8, true, (enum fit)fit, row);
        break;
    case PANEL_PARTS_16:
    case PANEL_PARTS_16_MINIMA:
        super_block(panels, x, tokens, 16, kind == PANEL_PARTS_16_MINIMA, (enum fit)fit, row);
        break;
    default:
        blocks_of_32(kind, panels, x, tokens, (enum fit)fit, blocks, row);
        break;
    }
}

#include "compute/cpu/gemm_walk.h"

#define KIND(name, kind, fit)                                                                                          \
    static void name(const struct panel_product *product)                                                              \
    {                                                                                                                  \
        multiply_kind(kind, fit, product);                                                                             \
    }
KIND(multiply_blocks_4, PANEL_BLOCKS, FIT_4)
KIND(multiply_blocks_8, PANEL_BLOCKS, FIT_8)
KIND(multiply_blocks_minima_4, PANEL_BLOCKS_MINIMA, FIT_4)
KIND(multiply_blocks_minima_8, PANEL_BLOCKS_MINIMA, FIT_8)
KIND(multiply_halves, PANEL_HALVES, FIT_4)
KIND(multiply_whole, PANEL_WHOLE, FIT_8)
KIND(multiply_parts_8_minima_4, PANEL_PARTS_8_MINIMA, FIT_4)
KIND(multiply_parts_8_minima_8, PANEL_PARTS_8_MINIMA, FIT_8)
KIND(multiply_parts_16, PANEL_PARTS_16, FIT_2)
KIND(multiply_parts_16_minima, PANEL_PARTS_16_MINIMA, FIT_8)

static void multiply(enum tensor_type type, const struct panel_product *product)
{
    typedef void multiplication(const struct panel_product *);
    static multiplication *const types[TENSOR_TYPE_COUNT] = {
        [TENSOR_Q4_0] = multiply_blocks_8,         [TENSOR_Q4_1] = multiply_blocks_minima_8,
        [TENSOR_Q5_0] = multiply_blocks_4,         [TENSOR_Q5_1] = multiply_blocks_minima_4,
        [TENSOR_MXFP4] = multiply_blocks_4,        [TENSOR_NVFP4] = multiply_halves,
        [TENSOR_Q2_K] = multiply_parts_16_minima,  [TENSOR_Q3_K] = multiply_parts_16,
        [TENSOR_Q4_K] = multiply_parts_8_minima_8, [TENSOR_Q5_K] = multiply_parts_8_minima_4,
        [TENSOR_Q6_K] = multiply_parts_16,         [TENSOR_TQ1_0] = multiply_whole,
        [TENSOR_TQ2_0] = multiply_whole,
    };
    if (types[type])
        types[type](product);
    else if (panels_are_raised(type))
        panels_multiply_raised(type, product);
    else
        panels_multiply_signed(product);
}

static void finish(enum tensor_type type, struct panel *panel)
{
    if (panels_are_raised(type))
        panels_finish_raised(type, raises[type], panel);
    else if (type == TENSOR_Q8_0 || type == TENSOR_IQ4_NL)
        panels_finish_signed(panel);
}

const struct panel_multiplier panel_multiplier_avx2 = {
    .make_sides = make_sides, .multiply = multiply, .raises = raises, .finish = finish};
