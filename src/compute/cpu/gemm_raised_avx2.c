/* Multiplies panels of the IQ types that are super-blocks, with AVX2 alone.
 *
 * Quants are raised until none is negative. That adds the raise times the sum of the activations, for which the start
 * value corrects: in place of minima, the panel has the scales of parts times -raise.
 *
 * AVX2 sums products of bytes in pairs, in 16 bits with saturation. Raised quants of IQ4_XS reach 240, so two
 * activations whose sum exceeds 136 may saturate. If activations are distributed normally, one pair of forty does.
 * Therefore, activations are split: in such a pair, what exceeds 68 is multiplied separately. */
#include "compute/cpu/gemm_avx2.h"

#define MOST_TOKENS 4
#define MOST_PANELS 1
#define PANELS_FOR(tokens) 1

/* How the products of four columns are summed. */
enum way {
    ONE_BY_ONE,
    IN_FOURS, /* four times four columns fit 16 bits */
    SPLIT     /* one by one, and activations are split */
};

/* The greatest sum of two activations that cannot saturate: 240 * 136 fits 16 bits. */
#define PAIR_LIMIT 136

/* ---- activations ------------------------------------------------------------------------------------------------- */

static void split_token(struct panel_split *out, const int8_t *quants)
{
    const __m256i limit = _mm256_set1_epi16(PAIR_LIMIT), high = _mm256_set1_epi8(PAIR_LIMIT / 2);
    const __m256i low = _mm256_set1_epi8(-PAIR_LIMIT / 2);
    uint64_t quads = 0;
    for (size_t i = 0; i < PANEL_COLUMNS; i += 32) {
        __m256i x = _mm256_loadu_si256((const void *)(quants + i));
        __m256i sums = _mm256_abs_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), x));
        __m256i excess = _mm256_sub_epi8(x, _mm256_max_epi8(_mm256_min_epi8(x, high), low));
        __m256i rest = _mm256_and_si256(excess, _mm256_cmpgt_epi16(sums, limit));
        __m256i none = _mm256_cmpeq_epi32(rest, _mm256_setzero_si256());
        _mm256_store_si256((void *)(out->most + i), _mm256_sub_epi8(x, rest));
        _mm256_store_si256((void *)(out->rest + i), rest);
        quads |= (uint64_t)(~_mm256_movemask_ps(_mm256_castsi256_ps(none)) & 255) << (i / 4);
    }
    /* Tokens are multiplied together, so shorter lists continue with a group that has no rest. */
    memset(out->quads, __builtin_ctzll(~quads | (uint64_t)1 << 63), sizeof out->quads);
    out->count = 0;
    for (; quads; quads &= quads - 1)
        out->quads[out->count++] = (uint8_t)__builtin_ctzll(quads);
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* totals += scale * the sums of 4 * count columns. scale: each lane has it twice, in 16 bits. fit: how many groups of
 * four columns can be added in 16 bits. */
INLINE void add_part(__m256i (*totals)[2], const struct panel *panel, const struct panel_token *x, const int tokens,
                     const int fit, size_t quad, const int count, const __m256i scale[2])
{
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
                sums[t][half] = q % fit ? _mm256_add_epi16(sums[t][half], products) : products;
                if (q % fit)
                    IN_REGISTER(sums[t][half]);
                if ((q + 1) % fit == 0) {
                    totals[t][half] = _mm256_add_epi32(totals[t][half], _mm256_madd_epi16(sums[t][half], scale[half]));
                    IN_REGISTER(totals[t][half]);
                }
            }
        }
    }
}

INLINE __m256i scale_twice(const struct panel *panel, size_t part, size_t half)
{
    return _mm256_load_si256((const void *)panel->twice[part][8 * half]);
}

/* totals += the products of the rests. */
INLINE void add_rests(__m256i (*totals)[2], const struct panel *panel, const struct panel_token *x, const int tokens)
{
    unsigned count = 0;
    UNROLL(4)
    for (int t = 0; t < tokens; t++)
        count = MAX(count, x[t].side.split->count);
    for (unsigned i = 0; i < count; i++) {
        UNROLL(4)
        for (int t = 0; t < tokens; t++) {
            size_t quad = x[t].side.split->quads[i];
            __m256i four = same(x[t].side.split->rest + quad * 4);
            UNROLL(2)
            for (size_t half = 0; half < 2; half++) {
                __m256i products = _mm256_maddubs_epi16(weights(panel, quad, half), four);
                totals[t][half] =
                    _mm256_add_epi32(totals[t][half], _mm256_madd_epi16(products, scale_twice(panel, quad / 8, half)));
            }
        }
    }
}

INLINE void super_block(const struct panel *panel, const struct panel_token *x, const int tokens, const int parts,
                        const enum way way, size_t row)
{
    __m256i totals[MOST_TOKENS][2];
    UNROLL(4)
    for (int t = 0; t < tokens; t++)
        totals[t][0] = totals[t][1] = _mm256_setzero_si256();
    UNROLL(8)
    for (int i = 0; i < parts / 2; i++) {
        UNROLL(4)
        for (int t = 0; t < tokens; t++) {
            UNROLL(2)
            for (int half = 0; half < 2; half++) {
                __m256i pairs = _mm256_load_si256((const void *)panel->minima[i][8 * half]);
                totals[t][half] =
                    _mm256_add_epi32(totals[t][half], _mm256_madd_epi16(pairs, same(x[t].side.sums + 2 * i)));
                IN_REGISTER(totals[t][half]);
            }
        }
    }
    for (size_t two = 0; two < (size_t)parts; two += 2) {
        UNROLL(2)
        for (size_t part = two; part < two + 2; part++) {
            const __m256i scale[2] = {part_scale(panel, part, 0), part_scale(panel, part, 1)};
            add_part(totals, panel, x, tokens, way == IN_FOURS ? 4 : 1, part * (size_t)(64 / parts), 64 / parts, scale);
        }
    }
    if (way == SPLIT)
        add_rests(totals, panel, x, tokens);
    UNROLL(4)
    for (int t = 0; t < tokens; t++) {
        UNROLL(2)
        for (size_t half = 0; half < 2; half++) {
            size_t at = row + 8 * half;
            __m256 scale = scaled(panel->d[0] + 8 * half, x[t].scales[0]), sum = _mm256_loadu_ps(x[t].from + at);
            _mm256_storeu_ps(x[t].to + at, _mm256_fmadd_ps(scale, _mm256_cvtepi32_ps(totals[t][half]), sum));
        }
    }
}

SHAPED void multiply_panels(const enum panel_kind kind, const int how, const struct panel *panels, const int count,
                            const struct panel_token *x, const int tokens, size_t blocks, size_t row)
{
    (void)count, (void)blocks;
    super_block(panels, x, tokens, kind == PANEL_PARTS_8 ? 8 : 16, (enum way)how, row);
}

#include "compute/cpu/gemm_walk.h"

#define KIND(name, kind, way)                                                                                          \
    static void name(const struct panel_product *product)                                                              \
    {                                                                                                                  \
        multiply_kind(kind, way, product);                                                                             \
    }
KIND(parts_8_one_by_one, PANEL_PARTS_8, ONE_BY_ONE)
KIND(parts_8_in_fours, PANEL_PARTS_8, IN_FOURS)
KIND(parts_8_split, PANEL_PARTS_8, SPLIT)
KIND(parts_16_one_by_one, PANEL_PARTS_16, ONE_BY_ONE)
KIND(parts_16_in_fours, PANEL_PARTS_16, IN_FOURS)

typedef void multiplication(const struct panel_product *);
static multiplication *const types[TENSOR_TYPE_COUNT] = {
    [TENSOR_IQ1_S] = parts_8_in_fours,     [TENSOR_IQ1_M] = parts_16_in_fours,   [TENSOR_IQ2_XXS] = parts_8_one_by_one,
    [TENSOR_IQ2_XS] = parts_16_one_by_one, [TENSOR_IQ2_S] = parts_16_one_by_one, [TENSOR_IQ3_XXS] = parts_8_one_by_one,
    [TENSOR_IQ3_S] = parts_8_in_fours,     [TENSOR_IQ4_XS] = parts_8_split,
};

bool panels_are_raised(enum tensor_type type)
{
    return types[type];
}

void panels_multiply_raised(enum tensor_type type, const struct panel_product *product)
{
    types[type](product);
}

void panels_make_sides_raised(enum tensor_type type, struct panel_tile *tile)
{
    const bool of_32 = panel_kind(type) == PANEL_PARTS_8;
    for (size_t t = 0; t < tile->count; t++) {
        struct panel_token *token = &tile->tokens[t];
        int16_t sums[16]; /* a copy that cannot overlap the output, so that the compiler can vectorise this */
        memcpy(sums, token->sums, sizeof sums);
        memcpy(token->side.sums, sums, sizeof sums);
        for (size_t i = 0; i < 8 && of_32; i++)
            token->side.sums[i] = (int16_t)(sums[2 * i] + sums[2 * i + 1]);
        if (types[type] == parts_8_split) {
            split_token(&tile->splits[t], token->quants);
            token->quants = tile->splits[t].most;
            token->side.split = &tile->splits[t];
        }
    }
}

void panels_finish_raised(enum tensor_type type, int raise, struct panel *panel)
{
    const __m256i factor = _mm256_set1_epi16((short)-raise);
    const __m256i *scales = (const void *)panel->scales;
    __m256i *minima = (void *)panel->minima;
    for (size_t i = 0; i < sizeof panel->scales / sizeof *scales; i++)
        minima[i] = _mm256_mullo_epi16(scales[i], factor);
    for (size_t part = 0; part < 8 && types[type] == parts_8_split; part++)
        for (size_t half = 0; half < 2; half++)
            _mm256_store_si256((void *)panel->twice[part][8 * half], part_scale(panel, part, half));
}
