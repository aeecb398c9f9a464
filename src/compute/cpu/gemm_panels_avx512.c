#include "compute/cpu/gemm_panels_avx512.h"
#include "compute/cpu/unpack.h"

#include <immintrin.h>
#include <string.h>

/* Sixteen columns of four bytes: out[j] = bytes 4 j .. 4 j + 3 of every row, from 64 bytes of each. */
static inline void transpose_64(__m512i out[16], const uint8_t *const rows[16], size_t offset)
{
    __m512i a[16], b[16];
    for (int i = 0; i < 16; i++)
        a[i] = _mm512_loadu_si512(rows[i] + offset);
    for (int i = 0; i < 16; i += 2) {
        b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
        b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
        a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
        a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
        a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    /* a[4 g + j] has column 4 l + j of rows 4 g .. 4 g + 3 in its 128-bit lane l. */
    for (int j = 0; j < 4; j++) {
        __m512i low01 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x44);
        __m512i high01 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xee);
        __m512i low23 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x44);
        __m512i high23 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xee);
        out[j] = _mm512_shuffle_i32x4(low01, low23, 0x88);
        out[4 + j] = _mm512_shuffle_i32x4(low01, low23, 0xdd);
        out[8 + j] = _mm512_shuffle_i32x4(high01, high23, 0x88);
        out[12 + j] = _mm512_shuffle_i32x4(high01, high23, 0xdd);
    }
}

/* The same for 16 bytes of each row: four columns. */
static inline void transpose_16(__m512i out[4], const uint8_t *const rows[16], size_t offset)
{
    __m512i a[4];
    for (int i = 0; i < 4; i++) {
        __m512i four = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(rows[i] + offset)));
        four = _mm512_mask_broadcast_i32x4(four, 0x00f0, _mm_loadu_si128((const __m128i *)(rows[4 + i] + offset)));
        four = _mm512_mask_broadcast_i32x4(four, 0x0f00, _mm_loadu_si128((const __m128i *)(rows[8 + i] + offset)));
        a[i] = _mm512_mask_broadcast_i32x4(four, 0xf000, _mm_loadu_si128((const __m128i *)(rows[12 + i] + offset)));
    }
    __m512i low01 = _mm512_unpacklo_epi32(a[0], a[1]);
    __m512i high01 = _mm512_unpackhi_epi32(a[0], a[1]);
    __m512i low23 = _mm512_unpacklo_epi32(a[2], a[3]);
    __m512i high23 = _mm512_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm512_unpacklo_epi64(low01, low23);
    out[1] = _mm512_unpackhi_epi64(low01, low23);
    out[2] = _mm512_unpacklo_epi64(high01, high23);
    out[3] = _mm512_unpackhi_epi64(high01, high23);
}

/* The half-precision number in the low half of every lane. */
static inline __m512 halves(__m512i lanes)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(lanes));
}

static inline void put(struct panel *out, int column, __m512i quants)
{
    _mm512_store_si512(out->quants[column / 4], quants);
}

/* Sums start at minus 128 times the sum of weights, scaled as the sums are. */
static inline __m512i weight_sum(const struct panel *panel, int column, int columns)
{
    __m512i sum = _mm512_setzero_si512();
    for (int c = column; c < column + columns; c += 4)
        sum = _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(-128), _mm512_load_si512(panel->quants[c / 4]));
    return sum;
}

static inline void start_parts(struct panel *panel, int parts)
{
    __m512i start = _mm512_setzero_si512();
    for (int part = 0; part < parts; part++) {
        __m512i sum = weight_sum(panel, part * (256 / parts), 256 / parts);
        start = _mm512_sub_epi32(start, _mm512_mullo_epi32(sum, _mm512_load_si512(panel->scales[part])));
    }
    _mm512_store_si512(panel->start[0], start);
}

static inline void start_blocks(struct panel *panel, size_t blocks)
{
    for (size_t block = 0; block < blocks; block++)
        _mm512_store_si512(panel->start[block],
                           _mm512_sub_epi32(_mm512_setzero_si512(), weight_sum(panel, (int)block * 32, 32)));
}

/* ---- super-blocks ------------------------------------------------------------------------------------------------ */

/* The first 16 bytes of Q4_K and Q5_K: d, dmin, and eight 6-bit scales and minima. */
static inline void head_6bit(struct panel *out, const uint8_t *const rows[16])
{
    __m512i head[4], minima[8];
    __m512i six = _mm512_set1_epi32(63), four = _mm512_set1_epi32(15), two = _mm512_set1_epi32(0x30);
    transpose_16(head, rows, 0);
    _mm512_store_ps(out->d[0], halves(head[0]));
    _mm512_store_ps(out->m[0], halves(_mm512_srli_epi32(head[0], 16)));
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++) {
        __m512i scale = _mm512_srli_epi32(head[1], 8 * i);
        __m512i minimum = _mm512_srli_epi32(head[2], 8 * i);
        __m512i low = _mm512_srli_epi32(head[3], 8 * i);
        _mm512_store_si512(out->scales[i], _mm512_and_si512(scale, six));
        minima[i] = _mm512_and_si512(minimum, six);
        scale = _mm512_or_si512(_mm512_and_si512(low, four), _mm512_and_si512(_mm512_srli_epi32(scale, 2), two));
        _mm512_store_si512(out->scales[4 + i], scale);
        minima[4 + i] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(low, 4), four),
                                        _mm512_and_si512(_mm512_srli_epi32(minimum, 2), two));
    }
    for (int i = 0; i < 4; i++)
        _mm512_store_si512(out->minima[i], _mm512_or_si512(minima[2 * i], _mm512_slli_epi32(minima[2 * i + 1], 16)));
}

static void q4_k(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    (void)blocks;
    __m512i low = _mm512_set1_epi8(15);
    head_6bit(out, rows);
    for (int half = 0; half < 2; half++) {
        __m512i q[16];
        transpose_64(q, rows, 16 + 64 * (size_t)half);
        for (int j = 0; j < 16; j++) {
            int column = half * 128 + j / 8 * 64 + j % 8 * 4;
            put(out, column, _mm512_and_si512(q[j], low));
            put(out, column + 32, _mm512_and_si512(_mm512_srli_epi16(q[j], 4), low));
        }
    }
}

static void q5_k(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    (void)blocks;
    __m512i low = _mm512_set1_epi8(15), fifth = _mm512_set1_epi8(16);
    __m512i q[48];
    head_6bit(out, rows);
    transpose_64(q, rows, 16);       /* qh, then the first 32 bytes of qs */
    transpose_64(q + 16, rows, 80);  /* 64 bytes of qs */
    transpose_64(q + 32, rows, 112); /* 64 bytes of qs, of which the last 32 are new */
    for (int j = 0; j < 32; j++) {
        __m512i pair = q[j < 24 ? 8 + j : 16 + j];
        __m512i high = q[j % 8];
        int column = j / 8 * 64 + j % 8 * 4;
        /* Bits 2 (j / 8) and the next of qh go to bit 4. */
        unsigned bit = 2 * (unsigned)(j / 8);
        __m512i first = _mm512_slli_epi16(_mm512_srli_epi16(high, bit), 4);
        __m512i second = _mm512_slli_epi16(_mm512_srli_epi16(high, bit + 1), 4);
        put(out, column, _mm512_or_si512(_mm512_and_si512(pair, low), _mm512_and_si512(first, fifth)));
        put(out, column + 32,
            _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(pair, 4), low), _mm512_and_si512(second, fifth)));
    }
}

static void q6_k(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    (void)blocks;
    __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(0x30), offset = _mm512_set1_epi8(32);
    __m512i high[16], scales[4];
    uint16_t d[16];
    transpose_64(high, rows, 128);
    transpose_16(scales, rows, 192);
    for (int i = 0; i < 16; i++)
        memcpy(&d[i], rows[i] + 208, sizeof d[i]);
    _mm512_store_ps(out->d[0], _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)d)));
    for (int i = 0; i < 16; i++)
        _mm512_store_si512(out->scales[i],
                           _mm512_srai_epi32(_mm512_slli_epi32(scales[i / 4], 24 - 8 * (unsigned)(i % 4)), 24));
    for (int half = 0; half < 2; half++) {
        __m512i q[16];
        transpose_64(q, rows, 64 * (size_t)half);
        for (int j = 0; j < 8; j++) {
            __m512i h = high[half * 8 + j];
            int column = half * 128 + j * 4;
            __m512i parts[4] = {
                _mm512_or_si512(_mm512_and_si512(q[j], low), _mm512_and_si512(_mm512_slli_epi16(h, 4), two)),
                _mm512_or_si512(_mm512_and_si512(q[8 + j], low), _mm512_and_si512(_mm512_slli_epi16(h, 2), two)),
                _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(q[j], 4), low), _mm512_and_si512(h, two)),
                _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(q[8 + j], 4), low),
                                _mm512_and_si512(_mm512_srli_epi16(h, 2), two)),
            };
            for (int part = 0; part < 4; part++)
                put(out, column + part * 32, _mm512_sub_epi8(parts[part], offset));
        }
    }
    start_parts(out, 16);
}

/* ---- blocks of 32 ------------------------------------------------------------------------------------------------ */

/* The half-precision scales of blocks that are size bytes apart. */
static inline void block_scales(struct panel *out, const uint8_t *const rows[16], size_t blocks, size_t size)
{
    for (size_t block = 0; block < blocks; block++) {
        uint16_t d[16];
        for (int i = 0; i < 16; i++)
            memcpy(&d[i], rows[i] + block * size, sizeof d[i]);
        _mm512_store_ps(out->d[block], _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)d)));
    }
}

static void q8_0(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    for (size_t block = 0; block < blocks; block++) {
        for (size_t half = 0; half < 2; half++) {
            __m512i q[4];
            transpose_16(q, rows, block * 34 + 2 + half * 16);
            for (int j = 0; j < 4; j++)
                put(out, (int)(block * 32 + half * 16) + j * 4, q[j]);
        }
    }
    block_scales(out, rows, blocks, 34);
    start_blocks(out, blocks);
}

static void q4_0(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    __m512i low = _mm512_set1_epi8(15), offset = _mm512_set1_epi8(8);
    for (size_t block = 0; block < blocks; block++) {
        __m512i q[4];
        transpose_16(q, rows, block * 18 + 2);
        for (int j = 0; j < 4; j++) {
            int column = (int)block * 32 + j * 4;
            put(out, column, _mm512_sub_epi8(_mm512_and_si512(q[j], low), offset));
            put(out, column + 16, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(q[j], 4), low), offset));
        }
    }
    block_scales(out, rows, blocks, 18);
    start_blocks(out, blocks);
}

const struct panel_type panel_types_avx512[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_0] = {q4_0, PANEL_BLOCKS},         [TENSOR_Q8_0] = {q8_0, PANEL_BLOCKS},
    [TENSOR_Q4_K] = {q4_k, PANEL_PARTS_8_MINIMA}, [TENSOR_Q5_K] = {q5_k, PANEL_PARTS_8_MINIMA},
    [TENSOR_Q6_K] = {q6_k, PANEL_PARTS_16},
};
