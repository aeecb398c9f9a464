/* Panels of types with blocks of 32, and of NVFP4. */
#include "compute/cpu/avx512.h"
#include "compute/cpu/gemm_panels_avx512.h"
#include "compute/cpu/grids.h"

static inline void block_scales(struct panel *out, const uint8_t *const rows[16], size_t blocks, size_t size)
{
    for (size_t block = 0; block < blocks; block++)
        _mm512_store_ps(out->d[block], row_halves(rows, block * size));
}

/* d * q + m: a minimum of -m. */
static inline void block_minima(struct panel *out, const uint8_t *const rows[16], size_t blocks, size_t size)
{
    for (size_t block = 0; block < blocks; block++)
        _mm512_store_ps(out->m[block], _mm512_xor_ps(row_halves(rows, block * size + 2), _mm512_set1_ps(-0.0f)));
}

/* Unpacks 4-bit quants at an offset in each block: byte j has element j in its low half and j + 16 in its high half. */
static inline void nibbles(struct panel *out, const uint8_t *const rows[16], size_t block, size_t offset,
                           __m512i (*value)(__m512i))
{
    __m512i q[4], low = _mm512_set1_epi8(15);
    transpose_16(q, rows, offset);
    for (int j = 0; j < 4; j++) {
        int column = (int)block * 32 + j * 4;
        put(out, column, value(_mm512_and_si512(q[j], low)));
        put(out, column + 16, value(_mm512_and_si512(_mm512_srli_epi16(q[j], 4), low)));
    }
}

static inline __m512i as_it_is(__m512i q)
{
    return q;
}

static inline __m512i raise(__m512i q)
{
    return _mm512_xor_si512(q, _mm512_set1_epi8(-128));
}

static inline __m512i less_8(__m512i q)
{
    return _mm512_add_epi8(q, _mm512_set1_epi8(128 - 8));
}

static inline __m512i less_16(__m512i q)
{
    return _mm512_add_epi8(q, _mm512_set1_epi8(128 - 16));
}

static inline __m512i code_iq4(__m512i q)
{
    return _mm512_shuffle_epi8(raise(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)codebook_iq4))), q);
}

static inline __m512i code_e2m1(__m512i q)
{
    return _mm512_shuffle_epi8(raise(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)codebook_e2m1))), q);
}

/* Adds the fifth bits: bit j of the word is that of element j. */
static inline void fifth_bits(struct panel *out, const uint8_t *const rows[16], size_t block, size_t offset)
{
    __m512i word = row_words(rows, offset);
    for (unsigned j = 0; j < 8; j++) {
        /* Spreads four bits over four bytes. */
        __m512i four = _mm512_and_si512(_mm512_srli_epi32(word, 4 * j), _mm512_set1_epi32(15));
        __m512i spread =
            _mm512_and_si512(_mm512_mullo_epi32(four, _mm512_set1_epi32(0x00204081)), _mm512_set1_epi32(0x01010101));
        uint8_t *at = &out->quants[block * 8 + j][0][0];
        _mm512_store_si512(at, _mm512_add_epi8(_mm512_load_si512(at), _mm512_slli_epi32(spread, 4)));
    }
}

void panel_q4_0_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    for (size_t block = 0; block < blocks; block++)
        nibbles(out, rows, block, block * 18 + 2, less_8);
    block_scales(out, rows, blocks, 18);
}

void panel_q4_1_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    for (size_t block = 0; block < blocks; block++)
        nibbles(out, rows, block, block * 20 + 4, as_it_is);
    block_scales(out, rows, blocks, 20);
    block_minima(out, rows, blocks, 20);
}

void panel_q5_0_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    for (size_t block = 0; block < blocks; block++) {
        nibbles(out, rows, block, block * 22 + 6, less_16);
        fifth_bits(out, rows, block, block * 22 + 2);
    }
    block_scales(out, rows, blocks, 22);
}

void panel_q5_1_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    for (size_t block = 0; block < blocks; block++) {
        nibbles(out, rows, block, block * 24 + 8, as_it_is);
        fifth_bits(out, rows, block, block * 24 + 4);
    }
    block_scales(out, rows, blocks, 24);
    block_minima(out, rows, blocks, 24);
}

void panel_q8_0_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    for (size_t block = 0; block < blocks; block++) {
        for (size_t half = 0; half < 2; half++) {
            __m512i q[4];
            transpose_16(q, rows, block * 34 + 2 + half * 16);
            for (int j = 0; j < 4; j++)
                put(out, (int)(block * 32 + half * 16) + j * 4, raise(q[j]));
        }
    }
    block_scales(out, rows, blocks, 34);
}

void panel_iq4_nl_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    for (size_t block = 0; block < blocks; block++)
        nibbles(out, rows, block, block * 18 + 2, code_iq4);
    block_scales(out, rows, blocks, 18);
}

/* The scale is 2^(e - 128), because the codebook is doubled. The two least scales are subnormal. */
static inline __m512 power_scales(const uint8_t *const rows[16], size_t offset)
{
    int32_t exponents[16];
    for (int i = 0; i < 16; i++)
        exponents[i] = rows[i][offset];
    __m512i e = _mm512_loadu_si512(exponents);
    __m512i bits = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __mmask16 subnormal = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    bits = _mm512_mask_sllv_epi32(bits, subnormal, _mm512_set1_epi32(0x00200000), e);
    return _mm512_castsi512_ps(bits);
}

void panel_mxfp4_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    for (size_t block = 0; block < blocks; block++) {
        nibbles(out, rows, block, block * 17 + 1, code_e2m1);
        _mm512_store_ps(out->d[block], power_scales(rows, block * 17));
    }
}

/* Four parts, in four bytes of scales and 32 of quants. A part's columns are the low halves of its bytes, then the high
 * ones. */
void panel_nvfp4_avx512(struct panel *out, const uint8_t *const rows[16], size_t blocks)
{
    const __m512i low = _mm512_set1_epi8(15), byte = _mm512_set1_epi32(255);
    for (size_t block = 0; block < blocks; block++) { /* each is half a block of 64 */
        size_t offset = block / 2 * sizeof(struct block_nvfp4), half = block % 2;
        __m512i q[4];
        transpose_16(q, rows, offset + offsetof(struct block_nvfp4, qs) + 16 * half);
        for (int j = 0; j < 4; j++) {
            int column = (int)block * 32 + j / 2 * 16 + j % 2 * 4;
            put(out, column, code_e2m1(_mm512_and_si512(q[j], low)));
            put(out, column + 8, code_e2m1(_mm512_and_si512(_mm512_srli_epi16(q[j], 4), low)));
        }
        __m512i scales = _mm512_srli_epi32(row_words(rows, offset), (unsigned)(16 * half));
        _mm512_store_ps(out->d[block], ue4m3_scales(_mm512_and_si512(scales, byte)));
        _mm512_store_ps(out->m[block], ue4m3_scales(_mm512_and_si512(_mm512_srli_epi32(scales, 8), byte)));
    }
}
