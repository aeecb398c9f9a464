/* Functions that make panels with AVX-512. The quants of types without minima are raised by 128, as the dot product
 * needs. Rows have no alignment, and nothing after the end of a block is read. */
#ifndef HYPURA_COMPUTE_GEMM_PANELS_AVX512_H
#define HYPURA_COMPUTE_GEMM_PANELS_AVX512_H

#include "compute/cpu/gemm.h"

#include <immintrin.h>
#include <string.h>

panel_maker panel_q4_0_avx512, panel_q4_1_avx512, panel_q5_0_avx512, panel_q5_1_avx512, panel_q8_0_avx512,
    panel_iq4_nl_avx512, panel_mxfp4_avx512, panel_nvfp4_avx512;
panel_maker panel_q2_k_avx512, panel_q3_k_avx512, panel_q4_k_avx512, panel_q5_k_avx512, panel_q6_k_avx512,
    panel_iq4_xs_avx512, panel_tq2_0_avx512;
panel_maker panel_iq1_s_avx512, panel_iq1_m_avx512, panel_iq2_xxs_avx512, panel_iq2_xs_avx512, panel_iq2_s_avx512,
    panel_iq3_xxs_avx512, panel_iq3_s_avx512, panel_tq1_0_avx512;

/* Transposes 64 bytes of sixteen rows: out[j] has bytes 4 j to 4 j + 3 of each row. */
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
    /* 128-bit lane l of a[4 g + j] has column 4 l + j of rows 4 g to 4 g + 3. */
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

/* The same for 16 bytes of each row. */
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

/* Converts the half-precision number in the low half of each lane. */
static inline __m512 halves(__m512i lanes)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(lanes));
}

static inline void put(struct panel *out, int column, __m512i quants)
{
    _mm512_store_si512(out->quants[column / 4], quants);
}

/* Stores scales or minima of parts, of at most 16 bits, in pairs. */
static inline void put_pairs(int16_t out[8][PANEL_ROWS][2], const __m512i *values, int count)
{
    for (int i = 0; i < count / 2; i++)
        _mm512_store_si512(
            out[i], _mm512_mask_blend_epi16(0xaaaaaaaa, values[2 * i], _mm512_slli_epi32(values[2 * i + 1], 16)));
}

/* Load sixteen halves, or 32-bit words, at an offset, one per row. */
static inline __m512 row_halves(const uint8_t *const rows[16], size_t offset)
{
    uint16_t words[16];
    for (int i = 0; i < 16; i++)
        memcpy(&words[i], rows[i] + offset, sizeof words[i]);
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)words));
}

static inline __m512i row_words(const uint8_t *const rows[16], size_t offset)
{
    uint32_t words[16];
    for (int i = 0; i < 16; i++)
        memcpy(&words[i], rows[i] + offset, sizeof words[i]);
    return _mm512_loadu_si512(words);
}

#endif
