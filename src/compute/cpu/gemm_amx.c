/* Matrix times matrix by tiles of bytes (AMX), for super-blocks of 256 in parts with integer scales.
 *
 * A part is too short for a tile, so weights are multiplied by their scales first: quant times scale fits 16 bits, and
 * is split into an unsigned low byte and a signed high byte. Two products over all 256 columns then give the exact
 * integer of a super-block, low + 256 * high; minima and floats follow as in gemm_multiply.c. Panels are those of
 * AVX-512 (gemm.h), folded in this way. A tile of weights is four bytes of sixteen rows, sixteen times, the same order
 * as in a panel. */
#include "compute/cpu/gemm.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Panels that all tokens pass together. Folded ones are twice as large. */
#define AMX_PANELS 8
#define AMX_ROWS (AMX_PANELS * PANEL_ROWS)

/* By measurement: for fewer tokens AVX-512 is faster, because folding takes time. */
#define LEAST_TOKENS 24

/* Two tiles of sixteen tokens. */
#define AMX_TOKENS 32

struct folded {
    _Alignas(64) uint8_t low[PANEL_COLUMNS / 4][PANEL_ROWS][4];
    uint8_t high[PANEL_COLUMNS / 4][PANEL_ROWS][4];
    int16_t minima[8][PANEL_ROWS][2];
    float d[PANEL_ROWS], m[PANEL_ROWS];
};

struct amx_scratch {
    struct folded panels[AMX_PANELS];
    union {
        struct panel panel;
        struct {
            _Alignas(64) int8_t quants[AMX_TOKENS][PANEL_COLUMNS];
            /* Indices: this panel, or the next one, which is multiplied meanwhile; tokens from 0, or from 16; low or
             * high. */
            _Alignas(64) int32_t products[2][2][2][16][PANEL_ROWS];
        } tile;
    };
    _Alignas(64) int16_t sums[AMX_TOKENS][16];
    float scales[AMX_TOKENS];
    const float *from[AMX_TOKENS];
    float *to[AMX_TOKENS];
    const int8_t *quants; /* of the first token */
    size_t stride;        /* from token to token */
};

struct amx_work {
    const struct matmul *job;
    enum panel_kind kind;
    panel_maker *make;
    size_t first_row, rows, first_token, tokens; /* of the task; rows of the group */
    size_t segments;
    struct amx_scratch *scratch;
    float *totals; /* [tokens][AMX_ROWS] */
};

_Static_assert(sizeof(struct amx_scratch) <= GROUP_PANELS * sizeof(struct panel) && AMX_ROWS <= GROUP_ROWS,
               "gemm_panels_scratch_bytes has room for it");

static const struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t column_bytes[16];
    uint8_t rows[16];
} configuration = {
    .palette = 1,
    .column_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
    .rows = {16, 16, 16, 16, 16, 16, 16, 16},
};

/* ---- weights ----------------------------------------------------------------------------------------------------- */

/* Multiplies the quants of sixteen rows by their scales. raised: 128 was added to the quants. */
INLINE void fold_quad(struct folded *out, const struct panel *panel, size_t quad, __m512i scale, const bool raised)
{
    const __m512i byte = _mm512_set1_epi16(255), less = _mm512_set1_epi16(raised ? 128 : 0);
    __m512i quants = _mm512_load_si512(panel->quants[quad]);
    __m512i even = _mm512_sub_epi16(_mm512_and_si512(quants, byte), less);
    __m512i odd = _mm512_sub_epi16(_mm512_srli_epi16(quants, 8), less);
    even = _mm512_mullo_epi16(even, scale);
    odd = _mm512_mullo_epi16(odd, scale);
    _mm512_store_si512(out->low[quad], _mm512_or_si512(_mm512_and_si512(even, byte), _mm512_slli_epi16(odd, 8)));
    _mm512_store_si512(out->high[quad], _mm512_or_si512(_mm512_srli_epi16(even, 8), _mm512_andnot_si512(byte, odd)));
}

INLINE void fold(struct folded *out, const struct panel *panel, const size_t parts, const bool minima)
{
    const size_t quads = 64 / parts;
    for (size_t part = 0; part < parts; part++) {
        __m512i pair = _mm512_load_si512(panel->scales[part / 2]);
        __m512i low = _mm512_and_si512(pair, _mm512_set1_epi32(0xffff)), high = _mm512_srli_epi32(pair, 16);
        __m512i scale = part % 2 ? _mm512_or_si512(high, _mm512_slli_epi32(high, 16))
                                 : _mm512_or_si512(low, _mm512_slli_epi32(low, 16));
        for (size_t quad = part * quads; quad < (part + 1) * quads; quad++)
            fold_quad(out, panel, quad, scale, !minima);
    }
    memcpy(out->d, panel->d[0], sizeof out->d);
    if (minima) {
        memcpy(out->minima, panel->minima, sizeof out->minima);
        memcpy(out->m, panel->m[0], sizeof out->m);
    }
}

static void make_panel(const struct amx_work *work, struct folded *out, size_t row, size_t segment)
{
    const struct matrix *weights = &work->job->weights;
    size_t bytes = tensor_type_info(weights->type)->block_bytes, last = work->first_row + work->rows - 1;
    const uint8_t *rows[PANEL_ROWS];
    for (size_t i = 0; i < PANEL_ROWS; i++) { /* past the end: repeats the last row, unused */
        rows[i] = weights->data + MIN(row + i, last) * weights->row_bytes + segment * bytes;
        if (segment + 1 < work->segments)
            for (size_t byte = bytes; byte < 2 * bytes; byte += 64)
                __builtin_prefetch(rows[i] + byte);
    }
    struct panel *panel = &work->scratch->panel;
    work->make(panel, rows, 8);
    switch (work->kind) {
    case PANEL_PARTS_8:
        fold(out, panel, 8, false);
        break;
    case PANEL_PARTS_8_MINIMA:
        fold(out, panel, 8, true);
        break;
    case PANEL_PARTS_16:
        fold(out, panel, 16, false);
        break;
    default:
        fold(out, panel, 16, true);
        break;
    }
}

/* ---- activations ------------------------------------------------------------------------------------------------- */

static float *output_row(const struct amx_work *work, size_t token)
{
    const struct matmul *job = work->job;
    token += work->first_token;
    return job->output + (job->output_rows ? job->output_rows[token] : token) * job->output_stride;
}

/* Takes tokens [first, first + count) over the columns of a segment. Tiles load them in place, because a load after a
 * copy would wait for the stores. They are copied only if input_rows selects them, or the last tile is not full.
 * Rows of a tile past the last one are undefined. */
static void take_tokens(const struct amx_work *work, size_t first, size_t count, size_t segment)
{
    const struct activation *input = work->job->input;
    const uint32_t *rows = work->job->input_rows;
    const size_t kind = ACTIVATION_Q8_256 - ACTIVATION_Q8_32;
    const bool leaves = segment + 1 == work->segments;
    const bool copies = rows || count % 16;
    struct amx_scratch *scratch = work->scratch;
    scratch->quants = scratch->tile.quants[0];
    scratch->stride = PANEL_COLUMNS;
    if (!copies) {
        scratch->quants =
            input->quants[kind] + (work->first_token + first) * input->quant_stride + segment * PANEL_COLUMNS;
        scratch->stride = input->quant_stride;
    }
    for (size_t t = 0; t < count; t++) {
        size_t token = work->first_token + first + t, row = rows ? rows[token] : token;
        const int8_t *quants = input->quants[kind] + row * input->quant_stride + segment * PANEL_COLUMNS;
        for (size_t c = 0; c < PANEL_COLUMNS && copies; c += 64)
            _mm512_store_si512(scratch->tile.quants[t] + c, _mm512_loadu_si512(quants + c));
        scratch->scales[t] = input->scales[kind][row * input->scale_stride[kind] + segment];
        __m256i sums =
            _mm256_loadu_si256((const void *)(input->sums[kind] + row * input->sum_stride[kind] + segment * 16));
        if (work->kind == PANEL_PARTS_8_MINIMA) {
            __m128i of_32 = _mm_hadd_epi16(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
            sums = _mm256_castsi128_si256(of_32);
        }
        _mm256_store_si256((void *)scratch->sums[t], sums);
        scratch->from[t] = work->totals + (first + t) * AMX_ROWS;
        scratch->to[t] = leaves ? output_row(work, first + t) + work->first_row : work->totals + (first + t) * AMX_ROWS;
    }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

INLINE void multiply_tiles(struct amx_scratch *scratch, const struct folded *panel, size_t to, const bool two)
{
    const int8_t *quants = scratch->quants;
    const size_t stride = scratch->stride;
    _tile_zero(0);
    _tile_zero(1);
    if (two) {
        _tile_zero(2);
        _tile_zero(3);
    }
#pragma GCC unroll 4
    for (size_t step = 0; step < 4; step++) {
        /* Keeps the compiler from storing each step's addresses. */
        __asm__ volatile("" : "+r"(quants), "+r"(panel));
        _tile_loadd(4, quants + 64 * step, stride);
        _tile_loadd(6, panel->low[16 * step], 64);
        _tile_loadd(7, panel->high[16 * step], 64);
        _tile_dpbsud(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        if (two) {
            _tile_loadd(5, quants + 16 * stride + 64 * step, stride);
            _tile_dpbsud(2, 5, 6);
            _tile_dpbssd(3, 5, 7);
        }
    }
    _tile_stored(0, scratch->tile.products[to][0][0], 64);
    _tile_stored(1, scratch->tile.products[to][0][1], 64);
    if (two) {
        _tile_stored(2, scratch->tile.products[to][1][0], 64);
        _tile_stored(3, scratch->tile.products[to][1][1], 64);
    }
}

/* Adds the floats of a super-block. */
INLINE void add_products(const struct amx_scratch *scratch, const struct folded *panel, size_t of, size_t count,
                         size_t row, __mmask16 mask, const int pairs)
{
    const __m512 d = _mm512_load_ps(panel->d), m = _mm512_load_ps(panel->m);
    __m512i minima[8];
#pragma GCC unroll 8
    for (int i = 0; i < pairs; i++)
        minima[i] = _mm512_load_si512(panel->minima[i]);
    for (size_t t = 0; t < count; t++) {
        __m512i low = _mm512_load_si512(scratch->tile.products[of][t / 16][0][t % 16]);
        __m512i high = _mm512_load_si512(scratch->tile.products[of][t / 16][1][t % 16]);
        __m512i total = _mm512_add_epi32(low, _mm512_slli_epi32(high, 8));
        __m512 dx = _mm512_set1_ps(scratch->scales[t]), sum = _mm512_loadu_ps(scratch->from[t] + row);
        sum = _mm512_fmadd_ps(_mm512_mul_ps(d, dx), _mm512_cvtepi32_ps(total), sum);
        if (pairs) {
            __m512i minimum = _mm512_setzero_si512();
#pragma GCC unroll 8
            for (int i = 0; i < pairs; i++) {
                int32_t two;
                memcpy(&two, scratch->sums[t] + 2 * i, sizeof two);
                minimum = _mm512_dpwssd_epi32(minimum, minima[i], _mm512_set1_epi32(two));
            }
            sum = _mm512_fnmadd_ps(_mm512_mul_ps(m, dx), _mm512_cvtepi32_ps(minimum), sum);
        }
        _mm512_mask_storeu_ps(scratch->to[t] + row, mask, sum);
    }
}

/* Prefetches part of the data for the next call of take_tokens while a panel is multiplied, because rows are far apart.
 */
static void prefetch_tokens(const struct amx_work *work, size_t first, size_t segment, size_t panel)
{
    const struct activation *input = work->job->input;
    const uint32_t *rows = work->job->input_rows;
    if (first >= work->tokens) {
        first = 0;
        segment++;
    }
    if (segment >= work->segments)
        return;
    const size_t part = AMX_TOKENS / AMX_PANELS, end = MIN(first + (panel + 1) * part, work->tokens);
    for (size_t t = first + panel * part; t < end; t++) {
        size_t token = work->first_token + t, row = rows ? rows[token] : token;
        const int8_t *quants = input->quants[ACTIVATION_Q8_256 - ACTIVATION_Q8_32] + row * input->quant_stride;
        for (size_t c = 0; c < PANEL_COLUMNS; c += 64)
            __builtin_prefetch(quants + segment * PANEL_COLUMNS + c);
    }
}

static void multiply_any(struct amx_scratch *scratch, size_t panel, size_t count)
{
    if (count > 16)
        multiply_tiles(scratch, &scratch->panels[panel], panel % 2, true);
    else
        multiply_tiles(scratch, &scratch->panels[panel], panel % 2, false);
}

static void multiply_group(struct amx_work *work)
{
    struct amx_scratch *scratch = work->scratch;
    size_t panels = (work->rows + PANEL_ROWS - 1) / PANEL_ROWS;
    memset(work->totals, 0, work->tokens * AMX_ROWS * sizeof *work->totals);
    for (size_t segment = 0; segment < work->segments; segment++) {
        for (size_t p = 0; p < panels; p++)
            make_panel(work, &scratch->panels[p], work->first_row + p * PANEL_ROWS, segment);
        for (size_t first = 0; first < work->tokens; first += AMX_TOKENS) {
            size_t count = MIN(work->tokens - first, (size_t)AMX_TOKENS);
            take_tokens(work, first, count, segment);
            multiply_any(scratch, 0, count);
            for (size_t p = 0; p < panels; p++) {
                const struct folded *panel = &scratch->panels[p];
                size_t row = p * PANEL_ROWS, rows = MIN(work->rows - row, (size_t)PANEL_ROWS);
                __mmask16 mask = (__mmask16)((1u << rows) - 1);
                if (p + 1 < panels)
                    multiply_any(scratch, p + 1, count);
                prefetch_tokens(work, first + AMX_TOKENS, segment, p);
                if (work->kind == PANEL_PARTS_8_MINIMA)
                    add_products(scratch, panel, p % 2, count, row, mask, 4);
                else if (work->kind == PANEL_PARTS_16_MINIMA)
                    add_products(scratch, panel, p % 2, count, row, mask, 8);
                else
                    add_products(scratch, panel, p % 2, count, row, mask, 0);
            }
        }
    }
}

static void gemm(const struct matmul *job, size_t first_row, size_t rows, size_t first_token, size_t tokens,
                 void *scratch)
{
    if (tokens < LEAST_TOKENS) {
        gemm_by_panels(&panel_multiplier_avx512, panel_makers_avx512, job, first_row, rows, first_token, tokens,
                       scratch);
        return;
    }
    struct amx_work work = {.job = job,
                            .kind = panel_kind(job->weights.type),
                            .make = panel_makers_avx512[job->weights.type],
                            .first_token = first_token,
                            .tokens = tokens,
                            .segments = job->weights.columns / PANEL_COLUMNS,
                            .scratch = scratch};
    work.totals = (float *)(void *)((uint8_t *)scratch + GROUP_PANELS * sizeof(struct panel));
    _tile_loadconfig(&configuration);
    for (size_t row = 0; row < rows; row += AMX_ROWS) {
        work.first_row = first_row + row;
        work.rows = MIN(rows - row, (size_t)AMX_ROWS);
        multiply_group(&work);
    }
    _tile_release(); /* leaves no state to save at a thread switch */
}

const struct kernel_table kernels_amx = {
    .types[TENSOR_Q2_K] = {.gemm = gemm},
    .types[TENSOR_Q3_K] = {.gemm = gemm},
    .types[TENSOR_Q4_K] = {.gemm = gemm},
    .types[TENSOR_Q5_K] = {.gemm = gemm},
    .types[TENSOR_Q6_K] = {.gemm = gemm},
    .types[TENSOR_IQ1_S] = {.gemm = gemm},
    .types[TENSOR_IQ1_M] = {.gemm = gemm},
    .types[TENSOR_IQ2_XXS] = {.gemm = gemm},
    .types[TENSOR_IQ2_XS] = {.gemm = gemm},
    .types[TENSOR_IQ2_S] = {.gemm = gemm},
    .types[TENSOR_IQ3_XXS] = {.gemm = gemm},
    .types[TENSOR_IQ3_S] = {.gemm = gemm},
    .types[TENSOR_IQ4_XS] = {.gemm = gemm},
};
