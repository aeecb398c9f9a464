/* The panels of gemm.h multiplied by VNNI. The dot product instruction takes unsigned bytes on one side: the quants of
 * types with minima are; for the others activations are packed with 128 added, and the sums of a panel start at minus
 * what that adds. */
#include "compute/cpu/gemm.h"
#include "compute/cpu/gemm_panels_avx512.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

INLINE bool has_minima(const enum panel_kind kind)
{
    return kind == PANEL_BLOCKS_MINIMA || kind == PANEL_PARTS_8_MINIMA || kind == PANEL_PARTS_16_MINIMA;
}

static void pack(enum panel_kind kind, uint8_t *out, const int8_t *quants)
{
    __m512i bias = _mm512_set1_epi8(has_minima(kind) ? 0 : (char)0x80);
    for (size_t i = 0; i < PANEL_COLUMNS; i += 64)
        _mm512_storeu_si512(out + i, _mm512_xor_si512(_mm512_loadu_si512(quants + i), bias));
}

/* sums[t][p] += four columns a step of tokens times panels, for quads steps. */
INLINE void dot(__m512i (*sums)[4], const struct panel *panels, const int count, const uint8_t *quants,
                const int tokens, size_t quad, const int quads, const bool minima)
{
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) {
        __m512i w[4];
#pragma GCC unroll 4
        for (int p = 0; p < count; p++)
            w[p] = _mm512_load_si512(panels[p].quants[quad + q]);
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++) {
            int32_t four;
            __builtin_memcpy(&four, quants + t * PANEL_COLUMNS + (quad + q) * 4, sizeof four);
            __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 4
            for (int p = 0; p < count; p++)
                sums[t][p] =
                    minima ? _mm512_dpbusd_epi32(sums[t][p], w[p], x) : _mm512_dpbusd_epi32(sums[t][p], x, w[p]);
        }
    }
}

/* A super-block in parts (of which there may be one): integer sums with integer scales, then the floats. */
INLINE void super_block(const struct panel *panels, const int count, const uint8_t *tile, const int tokens, float *c,
                        const int parts, const bool minima)
{
    const struct tile_side *sides = (const struct tile_side *)(tile + tokens * PANEL_COLUMNS);
    __m512i total[TILE_TOKENS][4];
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int p = 0; p < count; p++)
            total[t][p] = minima ? _mm512_setzero_si512() : _mm512_load_si512(panels[p].start[0]);
    if (parts == 1) {
        for (int quad = 0; quad < 64; quad += 8)
            dot(total, panels, count, tile, tokens, (size_t)quad, 8, minima);
    } else {
        for (int part = 0; part < parts; part++) {
            __m512i sums[TILE_TOKENS][4];
#pragma GCC unroll 6
            for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
                for (int p = 0; p < count; p++)
                    sums[t][p] = _mm512_setzero_si512();
            dot(sums, panels, count, tile, tokens, (size_t)(part * (64 / parts)), 64 / parts, minima);
#pragma GCC unroll 4
            for (int p = 0; p < count; p++) {
                __m512i scale = _mm512_load_si512(panels[p].scales[part]);
#pragma GCC unroll 6
                for (int t = 0; t < tokens; t++)
                    total[t][p] = _mm512_add_epi32(total[t][p], _mm512_mullo_epi32(sums[t][p], scale));
            }
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        __m512 dx = _mm512_set1_ps(sides[t].scales[0]);
#pragma GCC unroll 4
        for (int p = 0; p < count; p++) {
            float *out = c + t * GROUP_ROWS + p * PANEL_ROWS;
            __m512 sum = _mm512_loadu_ps(out);
            sum = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_load_ps(panels[p].d[0]), dx), _mm512_cvtepi32_ps(total[t][p]),
                                  sum);
            if (minima) {
                __m512i minimum = _mm512_setzero_si512();
#pragma GCC unroll 8
                for (int i = 0; i < parts / 2; i++) {
                    int32_t two;
                    __builtin_memcpy(&two, sides[t].sums + 2 * i, sizeof two);
                    minimum =
                        _mm512_dpwssd_epi32(minimum, _mm512_load_si512(panels[p].minima[i]), _mm512_set1_epi32(two));
                }
                sum = _mm512_fnmadd_ps(_mm512_mul_ps(_mm512_load_ps(panels[p].m[0]), dx), _mm512_cvtepi32_ps(minimum),
                                       sum);
            }
            _mm512_storeu_ps(out, sum);
        }
    }
}

/* Blocks of 32: the floats after each. */
INLINE void blocks_of_32(const struct panel *panels, const int count, const uint8_t *tile, const int tokens, float *c,
                         size_t blocks, const bool minima)
{
    const struct tile_side *sides = (const struct tile_side *)(tile + tokens * PANEL_COLUMNS);
    __m512 out[TILE_TOKENS][4];
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int p = 0; p < count; p++)
            out[t][p] = _mm512_loadu_ps(c + t * GROUP_ROWS + p * PANEL_ROWS);
    for (size_t block = 0; block < blocks; block++) {
        __m512i sums[TILE_TOKENS][4];
#pragma GCC unroll 6
        for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
            for (int p = 0; p < count; p++)
                sums[t][p] = minima ? _mm512_setzero_si512() : _mm512_load_si512(panels[p].start[block]);
        dot(sums, panels, count, tile, tokens, block * 8, 8, minima);
#pragma GCC unroll 4
        for (int p = 0; p < count; p++) {
            __m512 d = _mm512_load_ps(panels[p].d[block]);
#pragma GCC unroll 6
            for (int t = 0; t < tokens; t++) {
                __m512 dx = _mm512_set1_ps(sides[t].scales[block]);
                out[t][p] = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(sums[t][p]), out[t][p]);
                if (minima)
                    out[t][p] = _mm512_fnmadd_ps(_mm512_mul_ps(_mm512_load_ps(panels[p].m[block]), dx),
                                                 _mm512_set1_ps(sides[t].block_sums[block]), out[t][p]);
            }
        }
    }
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int p = 0; p < count; p++)
            _mm512_storeu_ps(c + t * GROUP_ROWS + p * PANEL_ROWS, out[t][p]);
}

INLINE void multiply_panels(const enum panel_kind kind, const struct panel *panels, const int count,
                            const uint8_t *tile, const int tokens, size_t blocks, float *c)
{
    switch (kind) {
    case PANEL_BLOCKS:
    case PANEL_BLOCKS_MINIMA:
        blocks_of_32(panels, count, tile, tokens, c, blocks, kind == PANEL_BLOCKS_MINIMA);
        break;
    case PANEL_WHOLE:
        super_block(panels, count, tile, tokens, c, 1, false);
        break;
    case PANEL_PARTS_8:
    case PANEL_PARTS_8_MINIMA:
        super_block(panels, count, tile, tokens, c, 8, kind == PANEL_PARTS_8_MINIMA);
        break;
    default:
        super_block(panels, count, tile, tokens, c, 16, kind == PANEL_PARTS_16_MINIMA);
        break;
    }
}

/* Few tokens take four panels at once, so that enough sums are under way to hide the latency of the dot product. */
INLINE void multiply_kind(const enum panel_kind kind, const struct panel *panels, size_t count, const uint8_t *tile,
                          size_t tokens, size_t blocks, float *c)
{
#define TOKENS(n, wide)                                                                                                \
    case n:                                                                                                            \
        for (; count - p >= (wide); p += (wide))                                                                       \
            multiply_panels(kind, panels + p, wide, tile, n, blocks, c + p * PANEL_ROWS);                              \
        for (; p < count; p++)                                                                                         \
            multiply_panels(kind, panels + p, 1, tile, n, blocks, c + p * PANEL_ROWS);                                 \
        break
    size_t p = 0;
    switch (tokens) {
        TOKENS(1, 4);
        TOKENS(2, 4);
        TOKENS(3, 4);
        TOKENS(4, 2);
        TOKENS(5, 2);
        TOKENS(6, 2);
    }
#undef TOKENS
}

#define KIND(name, kind)                                                                                               \
    static void name(const struct panel *panels, size_t count, const uint8_t *tile, size_t tokens, size_t blocks,      \
                     float *c)                                                                                         \
    {                                                                                                                  \
        multiply_kind(kind, panels, count, tile, tokens, blocks, c);                                                   \
    }
KIND(multiply_blocks, PANEL_BLOCKS)
KIND(multiply_blocks_minima, PANEL_BLOCKS_MINIMA)
KIND(multiply_whole, PANEL_WHOLE)
KIND(multiply_parts_8, PANEL_PARTS_8)
KIND(multiply_parts_8_minima, PANEL_PARTS_8_MINIMA)
KIND(multiply_parts_16, PANEL_PARTS_16)
KIND(multiply_parts_16_minima, PANEL_PARTS_16_MINIMA)

static void multiply(enum panel_kind kind, const struct panel *panels, size_t count, const uint8_t *tile, size_t tokens,
                     size_t blocks, float *c)
{
    static void (*const kinds[PANEL_KINDS])(const struct panel *, size_t, const uint8_t *, size_t, size_t, float *) = {
        multiply_blocks,         multiply_blocks_minima, multiply_whole,           multiply_parts_8,
        multiply_parts_8_minima, multiply_parts_16,      multiply_parts_16_minima,
    };
    kinds[kind](panels, count, tile, tokens, blocks, c);
}

static const struct panel_type panel_types[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_0] = {panel_q4_0_avx512, PANEL_BLOCKS, 4},
    [TENSOR_Q4_1] = {panel_q4_1_avx512, PANEL_BLOCKS_MINIMA, 4},
    [TENSOR_Q5_0] = {panel_q5_0_avx512, PANEL_BLOCKS, 4},
    [TENSOR_Q5_1] = {panel_q5_1_avx512, PANEL_BLOCKS_MINIMA, 4},
    [TENSOR_Q8_0] = {panel_q8_0_avx512, PANEL_BLOCKS, 3},
    [TENSOR_IQ4_NL] = {panel_iq4_nl_avx512, PANEL_BLOCKS, 4},
    [TENSOR_MXFP4] = {panel_mxfp4_avx512, PANEL_BLOCKS, 2},
    [TENSOR_Q2_K] = {panel_q2_k_avx512, PANEL_PARTS_16_MINIMA, 2},
    [TENSOR_Q3_K] = {panel_q3_k_avx512, PANEL_PARTS_16, 2},
    [TENSOR_Q4_K] = {panel_q4_k_avx512, PANEL_PARTS_8_MINIMA, 2},
    [TENSOR_Q5_K] = {panel_q5_k_avx512, PANEL_PARTS_8_MINIMA, 3},
    [TENSOR_Q6_K] = {panel_q6_k_avx512, PANEL_PARTS_16, 3},
    [TENSOR_IQ1_S] = {panel_iq1_s_avx512, PANEL_PARTS_8, 8},
    [TENSOR_IQ1_M] = {panel_iq1_m_avx512, PANEL_PARTS_16, 4},
    [TENSOR_IQ2_XXS] = {panel_iq2_xxs_avx512, PANEL_PARTS_8, 8},
    [TENSOR_IQ2_XS] = {panel_iq2_xs_avx512, PANEL_PARTS_16, 8},
    [TENSOR_IQ2_S] = {panel_iq2_s_avx512, PANEL_PARTS_16, 8},
    [TENSOR_IQ3_XXS] = {panel_iq3_xxs_avx512, PANEL_PARTS_8, 8},
    [TENSOR_IQ3_S] = {panel_iq3_s_avx512, PANEL_PARTS_8, 12},
    [TENSOR_IQ4_XS] = {panel_iq4_xs_avx512, PANEL_PARTS_8, 2},
    [TENSOR_TQ1_0] = {panel_tq1_0_avx512, PANEL_WHOLE, 20},
    [TENSOR_TQ2_0] = {panel_tq2_0_avx512, PANEL_WHOLE, 3},
};

static const struct panel_kernels kernels = {.types = panel_types, .pack = pack, .multiply = multiply};

static void gemm(const struct matmul *job, size_t first_row, size_t rows, size_t first_token, size_t tokens,
                 void *scratch)
{
    gemm_by_panels(&kernels, job, first_row, rows, first_token, tokens, scratch);
}

void gemm_kernels_avx512(struct kernel_table *table)
{
    for (size_t type = 0; type < TENSOR_TYPE_COUNT; type++) {
        if (!panel_types[type].make)
            continue;
        struct kernel *kernel = &table->types[type];
        kernel->gemm = gemm;
        kernel->gemm_least_tokens = panel_types[type].least_tokens;
        kernel->gemm_task_rows = GEMM_TASK_ROWS;
        kernel->gemm_task_tokens = GEMM_TASK_TOKENS;
    }
}
