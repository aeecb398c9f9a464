/* Multiplies the panels of gemm.h. Built for each instruction set that has a dot product of bytes. */
#include "compute/cpu/gemm_shapes.h"
#include "compute/cpu/ints.h"

/* The sums in registers: tokens times panels. With few tokens, more panels are processed at once, so that enough sums
 * are in progress to hide the latency of the dot product. */
#if LANES_TILE_VECTORS == 4
#define MOST_TOKENS 6
#define MOST_PANELS 4
#define PANELS_FOR(tokens) ((tokens) <= 3 ? 4 : 2)
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#define MOST_TOKENS 2
#define MOST_PANELS 1
#define PANELS_FOR(tokens) 1
#elif defined(__AVX2__)
#define MOST_TOKENS 6
#define MOST_PANELS 1
#define PANELS_FOR(tokens) 1
#else
#define MOST_TOKENS 3
#define MOST_PANELS 1
#define PANELS_FOR(tokens) 1
#endif

/* Raised weights add 128 times the sum of activations, for which the start values correct. In a narrow sum, the first
 * of two parts is added last, so its start value has INTS_HALF. */
INLINE void make_side(const enum panel_kind kind, const bool narrow, union panel_side *out, const int16_t *from,
                      const int8_t *quants)
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
    case PANEL_PARTS_16:
        for (size_t i = 0; i < 16; i++)
            out->starts[i] = (narrow && i % 2 == 0 ? INTS_HALF : 0) - 128 * INTS_RAISED * sums[i];
        break;
    case PANEL_PARTS_8:
        for (size_t i = 0; i < 8; i++)
            out->starts[i] =
                (narrow && i % 2 == 0 ? INTS_HALF : 0) - 128 * INTS_RAISED * (sums[2 * i] + sums[2 * i + 1]);
        break;
    case PANEL_WHOLE:
        out->starts[0] = 0;
        for (size_t i = 0; i < 16; i++)
            out->starts[0] -= 128 * INTS_RAISED * sums[i];
        break;
    case PANEL_HALVES: /* activations have no sums of halves */
        for (size_t i = 0; i < 16; i++) {
            int32_t sum = 0;
            for (size_t j = 0; j < 16; j++)
                sum += quants[16 * i + j];
            out->starts[i] = -128 * INTS_RAISED * sum;
        }
        break;
    default:
        for (size_t i = 0; i < 8; i++)
            out->starts[i] = -128 * INTS_RAISED * sums[i];
        break;
    }
}

static void make_sides(enum tensor_type type, struct panel_tile *tile)
{
#define SIDES(kind, narrow)                                                                                            \
    for (size_t t = 0; t < tile->count; t++)                                                                           \
    make_side(kind, narrow, &tile->tokens[t].side, tile->tokens[t].sums, tile->tokens[t].quants)
#define CASE(kind)                                                                                                     \
    case kind:                                                                                                         \
        if (tile->narrow)                                                                                              \
            SIDES(kind, true);                                                                                         \
        else                                                                                                           \
            SIDES(kind, false);                                                                                        \
        break
    switch (panel_kind(type)) {
        CASE(PANEL_BLOCKS_MINIMA);
        CASE(PANEL_HALVES);
        CASE(PANEL_WHOLE);
        CASE(PANEL_PARTS_8);
        CASE(PANEL_PARTS_8_MINIMA);
        CASE(PANEL_PARTS_16);
        CASE(PANEL_PARTS_16_MINIMA);
    default:
        SIDES(PANEL_BLOCKS, false);
        break;
    }
#undef CASE
#undef SIDES
}

#if defined(__ARM_FEATURE_MATMUL_INT8)

/* Two rows times two tokens over eight columns in one instruction. */
INLINE int32x4_t multiply_2x2(int32x4_t sum, int8x16_t four, int8x16_t next_four, int8x16_t x, const bool upper)
{
    int32x4_t a = vreinterpretq_s32_s8(four), b = vreinterpretq_s32_s8(next_four);
    return vmmlaq_s32(sum, vreinterpretq_s8_s32(upper ? vzip2q_s32(a, b) : vzip1q_s32(a, b)), x);
}

INLINE void dot_2x2(ints (*sums)[MOST_PANELS], const struct panel *panel, const struct panel_token *x, size_t quad,
                    const int quads_count)
{
    int32x4_t pairs[8]; /* for rows 2 i and 2 i + 1: both tokens of the first row, then of the second */
    for (int i = 0; i < 8; i++)
        pairs[i] = vdupq_n_s32(0);
    UNROLL(4)
    for (int q = 0; q < quads_count; q += 2) {
        quads w = quads_load(panel->quants[quad + (size_t)q]), next = quads_load(panel->quants[quad + (size_t)q + 1]);
        size_t column = (quad + (size_t)q) * 4;
        int8x16_t both = vcombine_s8(vld1_s8(x[0].quants + column), vld1_s8(x[1].quants + column));
        pairs[0] = multiply_2x2(pairs[0], w.a, next.a, both, false);
        pairs[1] = multiply_2x2(pairs[1], w.a, next.a, both, true);
        pairs[2] = multiply_2x2(pairs[2], w.b, next.b, both, false);
        pairs[3] = multiply_2x2(pairs[3], w.b, next.b, both, true);
        pairs[4] = multiply_2x2(pairs[4], w.c, next.c, both, false);
        pairs[5] = multiply_2x2(pairs[5], w.c, next.c, both, true);
        pairs[6] = multiply_2x2(pairs[6], w.d, next.d, both, false);
        pairs[7] = multiply_2x2(pairs[7], w.d, next.d, both, true);
    }
    sums[0][0] = ints_add(sums[0][0], (ints){vuzp1q_s32(pairs[0], pairs[1]), vuzp1q_s32(pairs[2], pairs[3]),
                                             vuzp1q_s32(pairs[4], pairs[5]), vuzp1q_s32(pairs[6], pairs[7])});
    sums[1][0] = ints_add(sums[1][0], (ints){vuzp2q_s32(pairs[0], pairs[1]), vuzp2q_s32(pairs[2], pairs[3]),
                                             vuzp2q_s32(pairs[4], pairs[5]), vuzp2q_s32(pairs[6], pairs[7])});
}

#endif

/* sums[t][p] += token t times panel p, over quads_count steps of four columns. */
INLINE void dot(ints (*sums)[MOST_PANELS], const struct panel *panels, const int count, const struct panel_token *x,
                const int tokens, size_t quad, const int quads_count, const bool minima)
{
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if (tokens == 2) {
        dot_2x2(sums, panels, x, quad, quads_count);
        return;
    }
#endif
    UNROLL(8)
    for (int q = 0; q < quads_count; q++) {
        quads w[MOST_PANELS];
        UNROLL(4)
        for (int p = 0; p < count; p++)
            w[p] = quads_load(panels[p].quants[quad + (size_t)q]);
        UNROLL(6)
        for (int t = 0; t < tokens; t++) {
            int32_t four;
            memcpy(&four, x[t].quants + (quad + (size_t)q) * 4, sizeof four);
            UNROLL(4)
            for (int p = 0; p < count; p++)
                sums[t][p] = ints_dot(sums[t][p], w[p], four, minima);
        }
    }
}

/* The start value of the sum of part or block i. */
INLINE ints start(const struct panel_token *x, int t, size_t i, const bool minima)
{
    return ints_all(INTS_RAISED && !minima ? x[t].side.starts[i] : 0);
}

INLINE void start_all(ints (*sums)[MOST_PANELS], const int count, const struct panel_token *x, const int tokens,
                      size_t i, const bool minima)
{
    UNROLL(6)
    for (int t = 0; t < tokens; t++) {
        UNROLL(4)
        for (int p = 0; p < count; p++)
            sums[t][p] = start(x, t, i, minima);
    }
}

/* Adds two parts, with their scales, to totals. */
INLINE void two_parts(ints (*totals)[MOST_PANELS], const struct panel *panels, const int count,
                      const struct panel_token *x, const int tokens, size_t two, const int parts, const bool minima)
{
    for (size_t part = 2 * two; part < 2 * two + 2; part++) {
        ints sums[MOST_TOKENS][MOST_PANELS];
        start_all(sums, count, x, tokens, part, minima);
        dot(sums, panels, count, x, tokens, part * (size_t)(64 / parts), 64 / parts, minima);
        UNROLL(4)
        for (int p = 0; p < count; p++) {
            ints scales = ints_load(panels[p].scales[two]);
            ints scale = part % 2 ? ints_high(scales) : ints_low(scales);
            UNROLL(6)
            for (int t = 0; t < tokens; t++)
                totals[t][p] = ints_add(totals[t][p], ints_multiply(sums[t][p], scale));
        }
    }
}

/* The same for narrow sums. The second part comes first, because its sum is in the high half. */
INLINE void two_narrow_parts(ints (*totals)[MOST_PANELS], const struct panel *panels, const int count,
                             const struct panel_token *x, const int tokens, size_t two, const int parts,
                             const bool minima)
{
    ints sums[MOST_TOKENS][MOST_PANELS];
    size_t quads_count = (size_t)(64 / parts);
    start_all(sums, count, x, tokens, 2 * two + 1, minima);
    dot(sums, panels, count, x, tokens, (2 * two + 1) * quads_count, 64 / parts, minima);
    UNROLL(6)
    for (int t = 0; t < tokens; t++) {
        ints next = minima ? ints_all(INTS_HALF) : ints_all(x[t].side.starts[2 * two]);
        UNROLL(4)
        for (int p = 0; p < count; p++)
            sums[t][p] = ints_add(ints_push(sums[t][p]), next);
    }
    dot(sums, panels, count, x, tokens, 2 * two * quads_count, 64 / parts, minima);
    UNROLL(4)
    for (int p = 0; p < count; p++) {
        ints scales = ints_load(panels[p].scales[two]);
        UNROLL(6)
        for (int t = 0; t < tokens; t++)
            totals[t][p] = ints_pairs(totals[t][p], ints_settle(sums[t][p]), scales);
    }
}

/* A super-block in one or more parts: integer sums with integer scales, then the float operations. */
INLINE void super_block(const struct panel *panels, const int count, const struct panel_token *x, const int tokens,
                        const int parts, const bool minima, const bool narrow, size_t row)
{
    ints totals[MOST_TOKENS][MOST_PANELS];
    if (parts == 1) {
        start_all(totals, count, x, tokens, 0, false);
        for (size_t quad = 0; quad < 64; quad += 8)
            dot(totals, panels, count, x, tokens, quad, 8, minima);
    } else {
        start_all(totals, count, x, tokens, 0, true);
        for (size_t two = 0; two < (size_t)parts / 2; two++)
            (narrow ? two_narrow_parts : two_parts)(totals, panels, count, x, tokens, two, parts, minima);
    }
    UNROLL(6)
    for (int t = 0; t < tokens; t++) {
        lanes dx = lanes_all(x[t].scales[0]);
        UNROLL(4)
        for (int p = 0; p < count; p++) {
            lanes sum = lanes_load(x[t].from + row + p * PANEL_ROWS);
            sum = lanes_fma(lanes_multiply(lanes_load(panels[p].d[0]), dx), ints_to_lanes(totals[t][p]), sum);
            if (minima) {
                ints minimum = ints_all(0);
                UNROLL(8)
                for (int i = 0; i < parts / 2; i++) {
                    int32_t two;
                    memcpy(&two, x[t].side.sums + 2 * i, sizeof two);
                    minimum = ints_pairs(minimum, ints_load(panels[p].minima[i]), ints_all(two));
                }
                sum = lanes_fma_negated(lanes_multiply(lanes_load(panels[p].m[0]), dx), ints_to_lanes(minimum), sum);
            }
            lanes_store(x[t].to + row + p * PANEL_ROWS, sum);
        }
    }
}

/* Blocks of 32, each followed by its float operations. */
INLINE void blocks_of_32(const enum panel_kind kind, const struct panel *panels, const int count,
                         const struct panel_token *x, const int tokens, size_t blocks, size_t row)
{
    const bool minima = kind == PANEL_BLOCKS_MINIMA;
    lanes totals[MOST_TOKENS][MOST_PANELS];
    UNROLL(6)
    for (int t = 0; t < tokens; t++) {
        UNROLL(4)
        for (int p = 0; p < count; p++)
            totals[t][p] = lanes_load(x[t].from + row + p * PANEL_ROWS);
    }
    for (size_t block = 0; block < blocks; block++) {
        ints sums[MOST_TOKENS][MOST_PANELS];
        start_all(sums, count, x, tokens, block, minima);
        dot(sums, panels, count, x, tokens, block * 8, 8, minima);
        UNROLL(4)
        for (int p = 0; p < count; p++) {
            lanes d = lanes_load(panels[p].d[block]);
            UNROLL(6)
            for (int t = 0; t < tokens; t++) {
                lanes dx = lanes_all(x[t].scales[block]);
                lanes scale = kind == PANEL_BLOCKS_POWERS ? lanes_times_power_of_two(dx, d) : lanes_multiply(d, dx);
                totals[t][p] = lanes_fma(scale, ints_to_lanes(sums[t][p]), totals[t][p]);
                if (minima)
                    totals[t][p] = lanes_fma_negated(lanes_multiply(lanes_load(panels[p].m[block]), dx),
                                                     lanes_all(x[t].side.block_sums[block]), totals[t][p]);
            }
        }
    }
    UNROLL(6)
    for (int t = 0; t < tokens; t++) {
        UNROLL(4)
        for (int p = 0; p < count; p++)
            lanes_store(x[t].to + row + p * PANEL_ROWS, totals[t][p]);
    }
}

/* Halves of blocks of 32, each followed by its float operations, with the activations' scale of the whole block. */
INLINE void halves_of_32(const struct panel *panels, const int count, const struct panel_token *x, const int tokens,
                         size_t blocks, size_t row)
{
    lanes totals[MOST_TOKENS][MOST_PANELS];
    UNROLL(6)
    for (int t = 0; t < tokens; t++) {
        UNROLL(4)
        for (int p = 0; p < count; p++)
            totals[t][p] = lanes_load(x[t].from + row + p * PANEL_ROWS);
    }
    for (size_t half = 0; half < 2 * blocks; half++) {
        ints sums[MOST_TOKENS][MOST_PANELS];
        start_all(sums, count, x, tokens, half, false);
        dot(sums, panels, count, x, tokens, half * 4, 4, false);
        UNROLL(4)
        for (int p = 0; p < count; p++) {
            lanes d = lanes_load(half % 2 ? panels[p].m[half / 2] : panels[p].d[half / 2]);
            UNROLL(6)
            for (int t = 0; t < tokens; t++) {
                lanes scale = lanes_multiply(d, lanes_all(x[t].scales[half / 2]));
                totals[t][p] = lanes_fma(scale, ints_to_lanes(sums[t][p]), totals[t][p]);
            }
        }
    }
    UNROLL(6)
    for (int t = 0; t < tokens; t++) {
        UNROLL(4)
        for (int p = 0; p < count; p++)
            lanes_store(x[t].to + row + p * PANEL_ROWS, totals[t][p]);
    }
}

SHAPED void multiply_panels(const enum panel_kind kind, const int narrow, const struct panel *panels, const int count,
                            const struct panel_token *x, const int tokens, size_t blocks, size_t row)
{
    switch (kind) {
    case PANEL_WHOLE:
        super_block(panels, count, x, tokens, 1, false, false, row);
        break;
    case PANEL_PARTS_8:
    case PANEL_PARTS_8_MINIMA:
        super_block(panels, count, x, tokens, 8, kind == PANEL_PARTS_8_MINIMA, narrow, row);
        break;
    case PANEL_PARTS_16:
    case PANEL_PARTS_16_MINIMA:
        super_block(panels, count, x, tokens, 16, kind == PANEL_PARTS_16_MINIMA, narrow, row);
        break;
    case PANEL_HALVES:
        halves_of_32(panels, count, x, tokens, blocks, row);
        break;
    default:
        blocks_of_32(kind, panels, count, x, tokens, blocks, row);
        break;
    }
}

#include "compute/cpu/gemm_walk.h"

#define KIND(name, kind, narrow)                                                                                       \
    static void name(const struct panel_product *product)                                                              \
    {                                                                                                                  \
        multiply_kind(kind, narrow, product);                                                                          \
    }
KIND(multiply_blocks, PANEL_BLOCKS, false)
KIND(multiply_blocks_minima, PANEL_BLOCKS_MINIMA, false)
KIND(multiply_blocks_powers, PANEL_BLOCKS_POWERS, false)
KIND(multiply_halves, PANEL_HALVES, false)
KIND(multiply_whole, PANEL_WHOLE, false)
KIND(multiply_parts_8, PANEL_PARTS_8, false)
KIND(multiply_parts_8_minima, PANEL_PARTS_8_MINIMA, false)
KIND(multiply_parts_16, PANEL_PARTS_16, false)
KIND(multiply_parts_16_minima, PANEL_PARTS_16_MINIMA, false)
KIND(multiply_narrow_8, PANEL_PARTS_8, INTS_NARROW)
KIND(multiply_narrow_8_minima, PANEL_PARTS_8_MINIMA, INTS_NARROW)
KIND(multiply_narrow_16, PANEL_PARTS_16, INTS_NARROW)
KIND(multiply_narrow_16_minima, PANEL_PARTS_16_MINIMA, INTS_NARROW)

static void multiply(enum tensor_type type, const struct panel_product *product)
{
    typedef void multiplication(const struct panel_product *);
    static multiplication *const kinds[][2] = {
        [PANEL_BLOCKS] = {multiply_blocks, multiply_blocks},
        [PANEL_BLOCKS_MINIMA] = {multiply_blocks_minima, multiply_blocks_minima},
        [PANEL_BLOCKS_POWERS] = {multiply_blocks_powers, multiply_blocks_powers},
        [PANEL_HALVES] = {multiply_halves, multiply_halves},
        [PANEL_WHOLE] = {multiply_whole, multiply_whole},
        [PANEL_PARTS_8] = {multiply_parts_8, multiply_narrow_8},
        [PANEL_PARTS_8_MINIMA] = {multiply_parts_8_minima, multiply_narrow_8_minima},
        [PANEL_PARTS_16] = {multiply_parts_16, multiply_narrow_16},
        [PANEL_PARTS_16_MINIMA] = {multiply_parts_16_minima, multiply_narrow_16_minima},
    };
    kinds[panel_kind(type)][product->tile->narrow](product);
}

#if defined(__AVXVNNI__)
const struct panel_multiplier panel_multiplier_avx_vnni = {
#elif defined(__ARM_FEATURE_MATMUL_INT8)
const struct panel_multiplier panel_multiplier_i8mm = {
#else
const struct panel_multiplier VARIANT(panel_multiplier) = {
#endif
    .make_sides = make_sides,
    .multiply = multiply,
    .raise = 128 * INTS_RAISED,
};
