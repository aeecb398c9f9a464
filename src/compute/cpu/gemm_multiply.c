/* The panels of gemm.h multiplied, built once for each instruction set that has a dot product of bytes. */
#include "compute/cpu/gemm.h"
#include "compute/cpu/ints.h"

#define INLINE static inline __attribute__((always_inline))

/* How many sums are in registers: tokens times panels. Few tokens take more panels at once, so that enough sums are
 * under way to hide the latency of the dot product. */
#if LANES_TILE_VECTORS == 4
#define MOST_TOKENS 6
#define MOST_PANELS 4
#define PANELS_FOR(tokens) ((tokens) <= 3 ? 4 : 2)
#elif (defined(__AVX2__) && !INTS_BIASED) || defined(__ARM_FEATURE_MATMUL_INT8)
#define MOST_TOKENS 2
#define MOST_PANELS 1
#define PANELS_FOR(tokens) 1
#else
#define MOST_TOKENS 3
#define MOST_PANELS 1
#define PANELS_FOR(tokens) 1
#endif

INLINE bool has_minima(const enum panel_kind kind)
{
    return kind == PANEL_BLOCKS_MINIMA || kind == PANEL_PARTS_8_MINIMA || kind == PANEL_PARTS_16_MINIMA;
}

static void pack(enum panel_kind kind, uint8_t *out, const int8_t *quants)
{
    uint8_t bias = INTS_BIASED && !has_minima(kind) ? 0x80 : 0;
    for (size_t i = 0; i < PANEL_COLUMNS; i++)
        out[i] = (uint8_t)quants[i] ^ bias;
}

/* What a multiplication works on: a tile's activations, and outputs GROUP_ROWS floats apart. */
struct tile {
    const uint8_t *quants;
    const struct tile_side *sides;
    float *out;
};

#if defined(__ARM_FEATURE_MATMUL_INT8)

/* Two rows times two tokens over eight columns in one instruction. */
INLINE int32x4_t multiply_2x2(int32x4_t sum, int8x16_t four, int8x16_t next_four, int8x16_t x, const bool upper)
{
    int32x4_t a = vreinterpretq_s32_s8(four), b = vreinterpretq_s32_s8(next_four);
    return vmmlaq_s32(sum, vreinterpretq_s8_s32(upper ? vzip2q_s32(a, b) : vzip1q_s32(a, b)), x);
}

INLINE void dot_2x2(ints (*sums)[MOST_PANELS], const struct panel *panel, const struct tile *tile, size_t quad,
                    const int quads_count)
{
    int32x4_t pairs[8]; /* of rows 2 i and 2 i + 1: both tokens of the one, then of the other */
    for (int i = 0; i < 8; i++)
        pairs[i] = vdupq_n_s32(0);
#pragma GCC unroll 4
    for (int q = 0; q < quads_count; q += 2) {
        quads w = quads_load(panel->quants[quad + (size_t)q]), next = quads_load(panel->quants[quad + (size_t)q + 1]);
        const int8_t *from = (const int8_t *)tile->quants + (quad + (size_t)q) * 4;
        int8x16_t x = vcombine_s8(vld1_s8(from), vld1_s8(from + PANEL_COLUMNS));
        pairs[0] = multiply_2x2(pairs[0], w.a, next.a, x, false);
        pairs[1] = multiply_2x2(pairs[1], w.a, next.a, x, true);
        pairs[2] = multiply_2x2(pairs[2], w.b, next.b, x, false);
        pairs[3] = multiply_2x2(pairs[3], w.b, next.b, x, true);
        pairs[4] = multiply_2x2(pairs[4], w.c, next.c, x, false);
        pairs[5] = multiply_2x2(pairs[5], w.c, next.c, x, true);
        pairs[6] = multiply_2x2(pairs[6], w.d, next.d, x, false);
        pairs[7] = multiply_2x2(pairs[7], w.d, next.d, x, true);
    }
    sums[0][0] = ints_add(sums[0][0], (ints){vuzp1q_s32(pairs[0], pairs[1]), vuzp1q_s32(pairs[2], pairs[3]),
                                             vuzp1q_s32(pairs[4], pairs[5]), vuzp1q_s32(pairs[6], pairs[7])});
    sums[1][0] = ints_add(sums[1][0], (ints){vuzp2q_s32(pairs[0], pairs[1]), vuzp2q_s32(pairs[2], pairs[3]),
                                             vuzp2q_s32(pairs[4], pairs[5]), vuzp2q_s32(pairs[6], pairs[7])});
}

#endif

/* sums[t][p] += four columns a step of tokens times panels, for quads steps. */
INLINE void dot(ints (*sums)[MOST_PANELS], const struct panel *panels, const int count, const struct tile *tile,
                const int tokens, size_t quad, const int quads_count, const bool minima)
{
#if defined(__ARM_FEATURE_MATMUL_INT8)
    if (tokens == 2) {
        dot_2x2(sums, panels, tile, quad, quads_count);
        return;
    }
#endif
#pragma GCC unroll 8
    for (int q = 0; q < quads_count; q++) {
        quads w[MOST_PANELS];
#pragma GCC unroll 4
        for (int p = 0; p < count; p++)
            w[p] = quads_load(panels[p].quants[quad + (size_t)q]);
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            int32_t four;
            memcpy(&four, tile->quants + t * PANEL_COLUMNS + (quad + (size_t)q) * 4, sizeof four);
#pragma GCC unroll 4
            for (int p = 0; p < count; p++)
                sums[t][p] = ints_dot(sums[t][p], w[p], four, minima);
        }
    }
}

/* Where the sums of a block begin. */
INLINE ints start(const struct panel *panel, size_t block, const bool minima)
{
    return INTS_BIASED && !minima ? ints_load(panel->start[block]) : ints_zero();
}

/* A super-block in parts (of which there may be one): integer sums with integer scales, then the floats. */
INLINE void super_block(const struct panel *panels, const int count, const struct tile *tile, const int tokens,
                        const int parts, const bool minima)
{
    ints total[MOST_TOKENS][MOST_PANELS];
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int p = 0; p < count; p++)
            total[t][p] = start(&panels[p], 0, minima);
    if (parts == 1) {
        for (size_t quad = 0; quad < 64; quad += 8)
            dot(total, panels, count, tile, tokens, quad, 8, minima);
    } else {
        for (int part = 0; part < parts; part++) {
            ints sums[MOST_TOKENS][MOST_PANELS];
#pragma GCC unroll 6
            for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
                for (int p = 0; p < count; p++)
                    sums[t][p] = ints_zero();
            dot(sums, panels, count, tile, tokens, (size_t)(part * (64 / parts)), 64 / parts, minima);
#pragma GCC unroll 4
            for (int p = 0; p < count; p++) {
                ints scale = ints_load(panels[p].scales[part]);
#pragma GCC unroll 6
                for (int t = 0; t < tokens; t++)
                    total[t][p] = ints_add(total[t][p], ints_multiply(sums[t][p], scale));
            }
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        lanes dx = lanes_all(tile->sides[t].scales[0]);
#pragma GCC unroll 4
        for (int p = 0; p < count; p++) {
            float *out = tile->out + t * GROUP_ROWS + p * PANEL_ROWS;
            lanes sum =
                lanes_fma(lanes_multiply(lanes_load(panels[p].d[0]), dx), ints_to_lanes(total[t][p]), lanes_load(out));
            if (minima) {
                ints minimum = ints_zero();
#pragma GCC unroll 8
                for (int i = 0; i < parts / 2; i++) {
                    int32_t two;
                    memcpy(&two, tile->sides[t].sums + 2 * i, sizeof two);
                    minimum = ints_pairs(minimum, panels[p].minima[i], two);
                }
                sum = lanes_fma_negated(lanes_multiply(lanes_load(panels[p].m[0]), dx), ints_to_lanes(minimum), sum);
            }
            lanes_store(out, sum);
        }
    }
}

/* Blocks of 32: the floats after each. */
INLINE void blocks_of_32(const struct panel *panels, const int count, const struct tile *tile, const int tokens,
                         size_t blocks, const bool minima)
{
    lanes out[MOST_TOKENS][MOST_PANELS];
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int p = 0; p < count; p++)
            out[t][p] = lanes_load(tile->out + t * GROUP_ROWS + p * PANEL_ROWS);
    for (size_t block = 0; block < blocks; block++) {
        ints sums[MOST_TOKENS][MOST_PANELS];
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
            for (int p = 0; p < count; p++)
                sums[t][p] = start(&panels[p], block, minima);
        dot(sums, panels, count, tile, tokens, block * 8, 8, minima);
#pragma GCC unroll 4
        for (int p = 0; p < count; p++) {
            lanes d = lanes_load(panels[p].d[block]);
#pragma GCC unroll 6
            for (int t = 0; t < tokens; t++) {
                lanes dx = lanes_all(tile->sides[t].scales[block]);
                out[t][p] = lanes_fma(lanes_multiply(d, dx), ints_to_lanes(sums[t][p]), out[t][p]);
                if (minima)
                    out[t][p] = lanes_fma_negated(lanes_multiply(lanes_load(panels[p].m[block]), dx),
                                                  lanes_all(tile->sides[t].block_sums[block]), out[t][p]);
            }
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int p = 0; p < count; p++)
            lanes_store(tile->out + t * GROUP_ROWS + p * PANEL_ROWS, out[t][p]);
}

INLINE void multiply_panels(const enum panel_kind kind, const struct panel *panels, const int count,
                            const struct tile *tile, const int tokens, size_t blocks)
{
    switch (kind) {
    case PANEL_BLOCKS:
    case PANEL_BLOCKS_MINIMA:
        blocks_of_32(panels, count, tile, tokens, blocks, kind == PANEL_BLOCKS_MINIMA);
        break;
    case PANEL_WHOLE:
        super_block(panels, count, tile, tokens, 1, false);
        break;
    case PANEL_PARTS_8:
    case PANEL_PARTS_8_MINIMA:
        super_block(panels, count, tile, tokens, 8, kind == PANEL_PARTS_8_MINIMA);
        break;
    default:
        super_block(panels, count, tile, tokens, 16, kind == PANEL_PARTS_16_MINIMA);
        break;
    }
}

/* All panels of a group for a constant number of tokens. */
INLINE void multiply_tokens(const enum panel_kind kind, const struct panel *panels, size_t count,
                            const struct tile *first, const int tokens, size_t blocks)
{
    struct tile tile = *first;
    size_t p = 0;
    for (; count - p >= PANELS_FOR(tokens); p += PANELS_FOR(tokens), tile.out += PANELS_FOR(tokens) * PANEL_ROWS)
        multiply_panels(kind, panels + p, PANELS_FOR(tokens), &tile, tokens, blocks);
    for (; p < count; p++, tile.out += PANEL_ROWS)
        multiply_panels(kind, panels + p, 1, &tile, tokens, blocks);
}

INLINE void multiply_kind(const enum panel_kind kind, const struct panel *panels, size_t count, const uint8_t *quants,
                          size_t tokens, size_t blocks, float *out)
{
    struct tile tile = {quants, (const struct tile_side *)(const void *)(quants + tokens * PANEL_COLUMNS), out};
    for (size_t t = 0; t < tokens; t += MOST_TOKENS) {
        switch (tokens - t) {
        case 1:
            multiply_tokens(kind, panels, count, &tile, 1, blocks);
            break;
#if MOST_TOKENS > 2
        case 2:
            multiply_tokens(kind, panels, count, &tile, 2, blocks);
            break;
#endif
#if MOST_TOKENS > 3
        case 3:
            multiply_tokens(kind, panels, count, &tile, 3, blocks);
            break;
        case 4:
            multiply_tokens(kind, panels, count, &tile, 4, blocks);
            break;
        case 5:
            multiply_tokens(kind, panels, count, &tile, 5, blocks);
            break;
#endif
        default:
            multiply_tokens(kind, panels, count, &tile, MOST_TOKENS, blocks);
            break;
        }
        tile.quants += MOST_TOKENS * PANEL_COLUMNS;
        tile.sides += MOST_TOKENS;
        tile.out += MOST_TOKENS * GROUP_ROWS;
    }
}

#define KIND(name, kind)                                                                                               \
    static void name(const struct panel *panels, size_t count, const uint8_t *quants, size_t tokens, size_t blocks,    \
                     float *out)                                                                                       \
    {                                                                                                                  \
        multiply_kind(kind, panels, count, quants, tokens, blocks, out);                                               \
    }
KIND(multiply_blocks, PANEL_BLOCKS)
KIND(multiply_blocks_minima, PANEL_BLOCKS_MINIMA)
KIND(multiply_whole, PANEL_WHOLE)
KIND(multiply_parts_8, PANEL_PARTS_8)
KIND(multiply_parts_8_minima, PANEL_PARTS_8_MINIMA)
KIND(multiply_parts_16, PANEL_PARTS_16)
KIND(multiply_parts_16_minima, PANEL_PARTS_16_MINIMA)

static void multiply(enum panel_kind kind, const struct panel *panels, size_t count, const uint8_t *tile, size_t tokens,
                     size_t blocks, float *out)
{
    static void (*const kinds[])(const struct panel *, size_t, const uint8_t *, size_t, size_t, float *) = {
        [PANEL_BLOCKS] = multiply_blocks,
        [PANEL_BLOCKS_MINIMA] = multiply_blocks_minima,
        [PANEL_WHOLE] = multiply_whole,
        [PANEL_PARTS_8] = multiply_parts_8,
        [PANEL_PARTS_8_MINIMA] = multiply_parts_8_minima,
        [PANEL_PARTS_16] = multiply_parts_16,
        [PANEL_PARTS_16_MINIMA] = multiply_parts_16_minima,
    };
    kinds[kind](panels, count, tile, tokens, blocks, out);
}

#if defined(__AVXVNNI__)
const struct panel_multiplier panel_multiplier_avx_vnni = {
#elif defined(__ARM_FEATURE_MATMUL_INT8)
const struct panel_multiplier panel_multiplier_i8mm = {
#else
const struct panel_multiplier VARIANT(panel_multiplier) = {
#endif
    .pack = pack,
    .multiply = multiply,
};
