/* Makes panels of types with super-blocks of 256. */
#include "compute/cpu/gemm_panels_avx512.h"
#include "compute/cpu/grids.h"

/* The first 16 bytes of Q4_K and Q5_K: d, dmin, and eight 6-bit scales and minima. */
static inline void head_6bit(struct panel *out, const uint8_t *const rows[16])
{
    __m512i head[4], scales[8], minima[8];
    __m512i six = _mm512_set1_epi32(63), four = _mm512_set1_epi32(15), two = _mm512_set1_epi32(0x30);
    transpose_16(head, rows, 0);
    _mm512_store_ps(out->d[0], halves(head[0]));
    _mm512_store_ps(out->m[0], halves(_mm512_srli_epi32(head[0], 16)));
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++) {
        __m512i scale = _mm512_srli_epi32(head[1], 8 * i);
        __m512i minimum = _mm512_srli_epi32(head[2], 8 * i);
        __m512i low = _mm512_srli_epi32(head[3], 8 * i);
        scales[i] = _mm512_and_si512(scale, six);
        minima[i] = _mm512_and_si512(minimum, six);
        scales[4 + i] =
            _mm512_or_si512(_mm512_and_si512(low, four), _mm512_and_si512(_mm512_srli_epi32(scale, 2), two));
        minima[4 + i] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(low, 4), four),
                                        _mm512_and_si512(_mm512_srli_epi32(minimum, 2), two));
    }
    put_pairs(out->scales, scales, 8);
    put_pairs(out->minima, minima, 8);
}

void panel_q4_k_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
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

void panel_q5_k_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
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
        /* Move bits 2 (j / 8) and 2 (j / 8) + 1 of qh to bit 4. */
        unsigned bit = 2 * (unsigned)(j / 8);
        __m512i first = _mm512_slli_epi16(_mm512_srli_epi16(high, bit), 4);
        __m512i second = _mm512_slli_epi16(_mm512_srli_epi16(high, bit + 1), 4);
        put(out, column, _mm512_or_si512(_mm512_and_si512(pair, low), _mm512_and_si512(first, fifth)));
        put(out, column + 32,
            _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi16(pair, 4), low), _mm512_and_si512(second, fifth)));
    }
}

void panel_q6_k_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    (void)blocks;
    __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(0x30), raise = _mm512_set1_epi8(128 - 32);
    __m512i high[16], bytes[4], scales[16];
    transpose_64(high, rows, 128);
    transpose_16(bytes, rows, 192);
    _mm512_store_ps(out->d[0], row_halves(rows, 208));
    for (int i = 0; i < 16; i++)
        scales[i] = _mm512_srai_epi32(_mm512_slli_epi32(bytes[i / 4], 24 - 8 * (unsigned)(i % 4)), 24);
    put_pairs(out->scales, scales, 16);
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
                put(out, column + part * 32, _mm512_add_epi8(parts[part], raise));
        }
    }
}

/* Two-bit quants: byte j of a half has, lowest bits first, column j of each of the half's four parts of 32. */
static inline void two_bits(__m512i out[4], __m512i bytes)
{
    __m512i two = _mm512_set1_epi8(3);
    for (unsigned part = 0; part < 4; part++)
        out[part] = _mm512_and_si512(_mm512_srli_epi16(bytes, 2 * part), two);
}

void panel_q2_k_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    (void)blocks;
    __m512i q[16], bytes[4], scales[16], minima[16], four = _mm512_set1_epi32(15);
    transpose_16(bytes, rows, 0);
    transpose_64(q, rows, 16);
    _mm512_store_ps(out->d[0], row_halves(rows, 80));
    _mm512_store_ps(out->m[0], row_halves(rows, 82));
    for (int i = 0; i < 16; i++) {
        __m512i both = _mm512_srli_epi32(bytes[i / 4], 8 * (unsigned)(i % 4));
        scales[i] = _mm512_and_si512(both, four);
        minima[i] = _mm512_and_si512(_mm512_srli_epi32(both, 4), four);
    }
    put_pairs(out->scales, scales, 16);
    put_pairs(out->minima, minima, 16);
    for (int j = 0; j < 16; j++) {
        __m512i parts[4];
        two_bits(parts, q[j]);
        for (int part = 0; part < 4; part++)
            put(out, j / 8 * 128 + part * 32 + j % 8 * 4, parts[part]);
    }
}

void panel_q3_k_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    (void)blocks;
    __m512i q[16], high[8], bytes[4], scales[16], four = _mm512_set1_epi32(15), two = _mm512_set1_epi32(3);
    uint8_t heads[16][16] = {{0}};
    const uint8_t *head_rows[16];
    for (int i = 0; i < 16; i++) {
        memcpy(heads[i], rows[i] + 96, 12);
        head_rows[i] = heads[i];
    }
    transpose_16(bytes, head_rows, 0);
    transpose_16(high, rows, 0);
    transpose_16(high + 4, rows, 16);
    transpose_64(q, rows, 32);
    _mm512_store_ps(out->d[0], row_halves(rows, 108));
    for (unsigned i = 0; i < 16; i++) {
        __m512i low = _mm512_and_si512(_mm512_srli_epi32(bytes[i % 8 / 4], 8 * (i % 4) + i / 8 * 4), four);
        __m512i top = _mm512_and_si512(_mm512_srli_epi32(bytes[2], 8 * (i % 4) + i / 4 * 2), two);
        __m512i scale = _mm512_or_si512(low, _mm512_slli_epi32(top, 4));
        scales[i] = _mm512_sub_epi32(scale, _mm512_set1_epi32(32));
    }
    put_pairs(out->scales, scales, 16);
    for (int j = 0; j < 16; j++) {
        __m512i parts[4];
        two_bits(parts, q[j]);
        for (int part = 0; part < 4; part++) {
            __m512i third = _mm512_srli_epi16(high[j % 8], (unsigned)(j / 8 * 4 + part));
            third = _mm512_slli_epi16(_mm512_and_si512(third, _mm512_set1_epi8(1)), 2);
            put(out, j / 8 * 128 + part * 32 + j % 8 * 4,
                _mm512_add_epi8(_mm512_or_si512(parts[part], third), _mm512_set1_epi8(128 - 4)));
        }
    }
}

void panel_tq2_0_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    (void)blocks;
    __m512i q[16];
    transpose_64(q, rows, 0);
    _mm512_store_ps(out->d[0], row_halves(rows, 64));
    for (int j = 0; j < 16; j++) {
        __m512i parts[4];
        two_bits(parts, q[j]);
        for (int part = 0; part < 4; part++)
            put(out, j / 8 * 128 + part * 32 + j % 8 * 4, _mm512_add_epi8(parts[part], _mm512_set1_epi8(128 - 1)));
    }
}

void panel_iq4_xs_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    (void)blocks;
    __m512i q[32], scales[8], low = _mm512_set1_epi8(15);
    __m512i codes = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)codebook_iq4));
    codes = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
    __m512i first = row_words(rows, 0), second = row_words(rows, 4);
    transpose_64(q, rows, 8);
    transpose_64(q + 16, rows, 72);
    _mm512_store_ps(out->d[0], halves(first));
    for (unsigned part = 0; part < 8; part++) {
        __m512i scale = _mm512_and_si512(_mm512_srli_epi32(second, 4 * part), _mm512_set1_epi32(15));
        __m512i top = _mm512_and_si512(_mm512_srli_epi32(first, 16 + 2 * part), _mm512_set1_epi32(3));
        scale = _mm512_or_si512(scale, _mm512_slli_epi32(top, 4));
        scales[part] = _mm512_sub_epi32(scale, _mm512_set1_epi32(32));
    }
    put_pairs(out->scales, scales, 8);
    for (int j = 0; j < 32; j++) {
        int column = j / 4 * 32 + j % 4 * 4;
        put(out, column, _mm512_shuffle_epi8(codes, _mm512_and_si512(q[j], low)));
        put(out, column + 16, _mm512_shuffle_epi8(codes, _mm512_and_si512(_mm512_srli_epi16(q[j], 4), low)));
    }
}
