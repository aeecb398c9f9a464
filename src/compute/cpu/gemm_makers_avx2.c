/* Makes panels with 256-bit vectors. Built twice: for the dot product of bytes (AVX-VNNI), which needs signed quants
 * raised by 128; and for AVX2 alone (gemm_multiply_avx2.c), which needs them unsigned and as small as possible, or
 * signed. It processes eight rows at a time, one per 32-bit lane, and reads nothing after the end of a block. */
#include "compute/cpu/gemm.h"
#include "compute/cpu/grids.h"
#include "compute/cpu/unpack.h"

#include <immintrin.h>
#include <stddef.h>
#include <string.h>

#if defined(__AVXVNNI__)
#define PANEL_MAKERS panel_makers_avx_vnni
#define MORE(offset) (128 - (offset)) /* added to quants that the file stores higher by offset */
#define SIGNED 128                    /* added to signed quants */
#define CODES_E2M1 128
#define CODES_TERNARY 128
#define CODES_IQ1 128
#define CODES_IQ2 128
#define CODES_IQ3_XXS 128
#define CODES_IQ3_S 128
#define CODES_IQ4 128
#else
#define PANEL_MAKERS panel_makers_avx2
#define MORE(offset) 0
#define SIGNED 0
#define CODES_E2M1 12
#define CODES_TERNARY 1
#define CODES_IQ1 9
#define CODES_IQ2 43
#define CODES_IQ3_XXS 62
#define CODES_IQ3_S 15
#define CODES_IQ4 127
#endif

#define INLINE static inline __attribute__((always_inline))

typedef const uint8_t *const panel_rows[PANEL_ROWS];

INLINE __m256i all_bytes(int value)
{
    return _mm256_set1_epi8((char)value);
}

INLINE __m256i right_16(__m256i a, unsigned bits)
{
    return _mm256_srli_epi16(a, (int)bits);
}

/* Transposes sixteen bytes of eight rows: lane i of out[j] has bytes 4 j to 4 j + 3 of row first + i. */
INLINE void turn(__m256i out[4], panel_rows rows, size_t first, size_t offset)
{
    __m256i a[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const void *)(rows[first + i] + offset));
        __m128i high = _mm_loadu_si128((const void *)(rows[first + 4 + i] + offset));
        a[i] = _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
    }
    __m256i low01 = _mm256_unpacklo_epi32(a[0], a[1]);
    __m256i high01 = _mm256_unpackhi_epi32(a[0], a[1]);
    __m256i low23 = _mm256_unpacklo_epi32(a[2], a[3]);
    __m256i high23 = _mm256_unpackhi_epi32(a[2], a[3]);
    out[0] = _mm256_unpacklo_epi64(low01, low23);
    out[1] = _mm256_unpackhi_epi64(low01, low23);
    out[2] = _mm256_unpacklo_epi64(high01, high23);
    out[3] = _mm256_unpackhi_epi64(high01, high23);
}

INLINE void put(struct panel *out, size_t first, size_t column, __m256i quants)
{
    _mm256_store_si256((void *)out->quants[column / 4][first], quants);
}

/* Stores scales or minima of parts, of at most 16 bits, in pairs. */
INLINE void put_pairs(int16_t out[8][PANEL_ROWS][2], size_t first, const __m256i *values, size_t count)
{
#pragma GCC unroll 8
    for (size_t i = 0; i < count / 2; i++)
        _mm256_store_si256((void *)out[i][first],
                           _mm256_blend_epi16(values[2 * i], _mm256_slli_epi32(values[2 * i + 1], 16), 0xaa));
}

/* Converts the half-precision number in the low half of each lane. */
INLINE __m256 halves(__m256i lanes)
{
    __m256i words = _mm256_and_si256(lanes, _mm256_set1_epi32(0xffff));
    words = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), _MM_SHUFFLE(0, 0, 2, 0));
    return _mm256_cvtph_ps(_mm256_castsi256_si128(words));
}

INLINE __m256i row_words(panel_rows rows, size_t first, size_t offset)
{
    uint32_t words[8];
    for (size_t i = 0; i < 8; i++)
        memcpy(&words[i], rows[first + i] + offset, sizeof words[i]);
    return _mm256_loadu_si256((const void *)words);
}

/* Stores sixteen halves at an offset, one per row; negated if sign is -0. */
INLINE void put_halves(float out[PANEL_ROWS], panel_rows rows, size_t offset, float sign)
{
    uint16_t words[PANEL_ROWS];
    for (size_t i = 0; i < PANEL_ROWS; i++)
        memcpy(&words[i], rows[i] + offset, sizeof words[i]);
    for (size_t first = 0; first < PANEL_ROWS; first += 8) {
        __m256 values = _mm256_cvtph_ps(_mm_loadu_si128((const void *)(words + first)));
        _mm256_store_ps(out + first, _mm256_xor_ps(values, _mm256_set1_ps(sign)));
    }
}

INLINE __m256i table(const int8_t *codes, int raised)
{
    return _mm256_broadcastsi128_si256(_mm_add_epi8(_mm_loadu_si128((const void *)codes), _mm_set1_epi8((char)raised)));
}

/* ---- blocks of 32 ------------------------------------------------------------------------------------------------ */

/* How 4-bit quants become values: by adding "more", or by looking them up in a table raised by "more". */
struct meaning {
    int more;
    const int8_t *codes; /* NULL: no table */
};

INLINE __m256i mean(const struct meaning meaning, __m256i codes, __m256i q)
{
    if (meaning.codes)
        return _mm256_shuffle_epi8(codes, q);
    return meaning.more ? _mm256_add_epi8(q, all_bytes(meaning.more)) : q;
}

/* Byte j has element j in its low half and element j + 16 in its high half. */
INLINE void nibbles(struct panel *out, panel_rows rows, size_t first, size_t block, size_t offset,
                    const struct meaning meaning)
{
    __m256i q[4], low = all_bytes(15), codes = meaning.codes ? table(meaning.codes, meaning.more) : low;
    turn(q, rows, first, offset);
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        put(out, first, block * 32 + j * 4, mean(meaning, codes, _mm256_and_si256(q[j], low)));
        put(out, first, block * 32 + j * 4 + 16, mean(meaning, codes, _mm256_and_si256(right_16(q[j], 4), low)));
    }
}

/* Adds the fifth bits: bit j of the word is for element j. */
INLINE void fifth_bits(struct panel *out, panel_rows rows, size_t first, size_t block, size_t offset)
{
    __m256i word = row_words(rows, first, offset), bits = _mm256_set1_epi32(0x08040201);
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; j++) {
        /* Copies byte j / 2 of each lane to all four bytes of the lane, then tests its lower or upper four bits. */
        const __m256i byte = _mm256_broadcastsi128_si256(
            _mm_add_epi8(_mm_setr_epi32(0, 0x04040404, 0x08080808, 0x0c0c0c0c), _mm_set1_epi8((char)(j / 2))));
        __m256i mask = j % 2 ? _mm256_slli_epi32(bits, 4) : bits;
        __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(word, byte), mask), mask);
        void *at = out->quants[block * 8 + j][first];
        _mm256_store_si256(at, _mm256_add_epi8(_mm256_load_si256(at), _mm256_and_si256(set, all_bytes(16))));
    }
}

/* minima, fifth: their offsets, or 0. A value is d * q + m, so the minimum is -m. */
INLINE void blocks_of_32(struct panel *out, panel_rows rows, size_t blocks, size_t block_bytes, size_t quants,
                         const struct meaning meaning, size_t minima, size_t fifth)
{
    for (size_t block = 0; block < blocks; block++) {
        size_t at = block * block_bytes;
        for (size_t first = 0; first < PANEL_ROWS; first += 8) {
            nibbles(out, rows, first, block, at + quants, meaning);
            if (fifth)
                fifth_bits(out, rows, first, block, at + fifth);
        }
        put_halves(out->d[block], rows, at, 0.0f);
        if (minima)
            put_halves(out->m[block], rows, at + minima, -0.0f);
    }
}

#define BLOCKS(name, type, more, codes, minima, fifth)                                                                 \
    static void name(struct panel *out, panel_rows rows, size_t blocks)                                                \
    {                                                                                                                  \
        blocks_of_32(out, rows, blocks, sizeof(struct type), offsetof(struct type, qs), (struct meaning){more, codes}, \
                     minima, fifth);                                                                                   \
    }

BLOCKS(panel_q4_0, block_q4_0, MORE(8), NULL, 0, 0)
BLOCKS(panel_q4_1, block_q4_1, 0, NULL, 2, 0)
BLOCKS(panel_q5_0, block_q5_0, MORE(16), NULL, 0, 2)
BLOCKS(panel_q5_1, block_q5_1, 0, NULL, 2, 4)
BLOCKS(panel_iq4_nl, block_iq4_nl, SIGNED, codebook_iq4, 0, 0)

static void panel_q8_0(struct panel *out, panel_rows rows, size_t blocks)
{
    for (size_t block = 0; block < blocks; block++) {
        size_t at = block * sizeof(struct block_q8_0);
        for (size_t first = 0; first < PANEL_ROWS; first += 8)
            for (size_t half = 0; half < 2; half++) {
                __m256i q[4];
                turn(q, rows, first, at + offsetof(struct block_q8_0, qs) + 16 * half);
#pragma GCC unroll 4
                for (size_t j = 0; j < 4; j++)
                    put(out, first, block * 32 + half * 16 + j * 4, _mm256_xor_si256(q[j], all_bytes(SIGNED)));
            }
        put_halves(out->d[block], rows, at, 0.0f);
    }
}

/* The scale is 2^(e - 128), because the codebook is doubled. The two smallest scales are subnormal. */
static void panel_mxfp4(struct panel *out, panel_rows rows, size_t blocks)
{
    for (size_t block = 0; block < blocks; block++) {
        size_t at = block * sizeof(struct block_mxfp4);
        int32_t exponents[PANEL_ROWS];
        for (size_t i = 0; i < PANEL_ROWS; i++)
            exponents[i] = rows[i][at];
        for (size_t first = 0; first < PANEL_ROWS; first += 8) {
            nibbles(out, rows, first, block, at + 1, (struct meaning){CODES_E2M1, codebook_e2m1});
            __m256i e = _mm256_loadu_si256((const void *)(exponents + first));
            __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
            __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
            __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e);
            _mm256_store_ps(out->d[block] + first, _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, small)));
        }
    }
}

/* A block has four parts: four bytes of scales, then 32 bytes of quants. The columns of a part are the low halves of
 * its bytes, then the high halves. */
static void panel_nvfp4(struct panel *out, panel_rows rows, size_t blocks)
{
    const __m256i low = all_bytes(15), codes = table(codebook_e2m1, CODES_E2M1);
    for (size_t block = 0; block < blocks; block++) { /* each is half a block of 64 */
        size_t offset = block / 2 * sizeof(struct block_nvfp4), half = block % 2;
        for (size_t first = 0; first < PANEL_ROWS; first += 8) {
            __m256i q[4];
            turn(q, rows, first, offset + offsetof(struct block_nvfp4, qs) + 16 * half);
#pragma GCC unroll 4
            for (size_t j = 0; j < 4; j++) {
                size_t column = block * 32 + j / 2 * 16 + j % 2 * 4;
                put(out, first, column, _mm256_shuffle_epi8(codes, _mm256_and_si256(q[j], low)));
                put(out, first, column + 8, _mm256_shuffle_epi8(codes, _mm256_and_si256(right_16(q[j], 4), low)));
            }
        }
        for (size_t i = 0; i < PANEL_ROWS; i++) {
            out->d[block][i] = scales_ue4m3[rows[i][offset + 2 * half]];
            out->m[block][i] = scales_ue4m3[rows[i][offset + 2 * half + 1]];
        }
    }
}

/* ---- super-blocks of 256 ----------------------------------------------------------------------------------------- */

/* The first 16 bytes of Q4_K and Q5_K: d, dmin, and eight 6-bit scales and minima. */
INLINE void head_6bit(struct panel *out, panel_rows rows, size_t first)
{
    const __m256i six = _mm256_set1_epi32(63), four = _mm256_set1_epi32(15), two = _mm256_set1_epi32(0x30);
    __m256i head[4], scales[8], minima[8];
    turn(head, rows, first, 0);
    _mm256_store_ps(out->d[0] + first, halves(head[0]));
    _mm256_store_ps(out->m[0] + first, halves(_mm256_srli_epi32(head[0], 16)));
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        __m256i scale = _mm256_srli_epi32(head[1], 8 * i);
        __m256i minimum = _mm256_srli_epi32(head[2], 8 * i);
        __m256i low = _mm256_srli_epi32(head[3], 8 * i);
        scales[i] = _mm256_and_si256(scale, six);
        minima[i] = _mm256_and_si256(minimum, six);
        scales[4 + i] =
            _mm256_or_si256(_mm256_and_si256(low, four), _mm256_and_si256(_mm256_srli_epi32(scale, 2), two));
        minima[4 + i] = _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi32(low, 4), four),
                                        _mm256_and_si256(_mm256_srli_epi32(minimum, 2), two));
    }
    put_pairs(out->scales, first, scales, 8);
    put_pairs(out->minima, first, minima, 8);
}

/* fifth: the offset of the fifth bits, or 0. */
INLINE void panel_k(struct panel *out, panel_rows rows, size_t quants, size_t fifth)
{
    const __m256i low = all_bytes(15), sixteen = all_bytes(16);
    for (size_t first = 0; first < PANEL_ROWS; first += 8) {
        head_6bit(out, rows, first);
        for (size_t part = 0; part < 2; part++) {
            __m256i bits[4];
            if (fifth)
                turn(bits, rows, first, fifth + 16 * part);
#pragma GCC unroll 4
            for (unsigned j = 0; j < 4; j++) {
                __m256i q[4];
                turn(q, rows, first, quants + 32 * j + 16 * part);
#pragma GCC unroll 4
                for (size_t k = 0; k < 4; k++) {
                    size_t column = 64 * j + 16 * part + 4 * k;
                    __m256i a = _mm256_and_si256(q[k], low), b = _mm256_and_si256(right_16(q[k], 4), low);
                    if (fifth) { /* move bits 2 j and 2 j + 1 to bit 4 */
                        __m256i one =
                            j < 2 ? _mm256_slli_epi16(bits[k], (int)(4 - 2 * j)) : right_16(bits[k], 2 * j - 4);
                        __m256i two =
                            j < 2 ? _mm256_slli_epi16(bits[k], (int)(3 - 2 * j)) : right_16(bits[k], 2 * j - 3);
                        a = _mm256_or_si256(a, _mm256_and_si256(one, sixteen));
                        b = _mm256_or_si256(b, _mm256_and_si256(two, sixteen));
                    }
                    put(out, first, column, a);
                    put(out, first, column + 32, b);
                }
            }
        }
    }
}

static void panel_q4_k(struct panel *out, panel_rows rows, size_t blocks)
{
    (void)blocks;
    panel_k(out, rows, offsetof(struct block_q4_k, qs), 0);
}

static void panel_q5_k(struct panel *out, panel_rows rows, size_t blocks)
{
    (void)blocks;
    panel_k(out, rows, offsetof(struct block_q5_k, qs), offsetof(struct block_q5_k, qh));
}

static void panel_q6_k(struct panel *out, panel_rows rows, size_t blocks)
{
    (void)blocks;
    const __m256i low = all_bytes(15), two = all_bytes(48), more = all_bytes(MORE(32));
    put_halves(out->d[0], rows, offsetof(struct block_q6_k, d), 0.0f);
    for (size_t first = 0; first < PANEL_ROWS; first += 8) {
        __m256i bytes[4], scales[16];
        turn(bytes, rows, first, offsetof(struct block_q6_k, scales));
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++)
            scales[i] = _mm256_srai_epi32(_mm256_slli_epi32(bytes[i / 4], 24 - 8 * (i % 4)), 24);
        put_pairs(out->scales, first, scales, 16);
        for (size_t i = 0; i < 4; i++) {
            size_t half = i / 2, part = i % 2;
            __m256i a[4], b[4], high[4];
            turn(a, rows, first, 64 * half + 16 * part);
            turn(b, rows, first, 64 * half + 32 + 16 * part);
            turn(high, rows, first, offsetof(struct block_q6_k, qh) + 32 * half + 16 * part);
#pragma GCC unroll 4
            for (size_t k = 0; k < 4; k++) {
                const __m256i parts[4] = {
                    _mm256_or_si256(_mm256_and_si256(a[k], low), _mm256_and_si256(_mm256_slli_epi16(high[k], 4), two)),
                    _mm256_or_si256(_mm256_and_si256(b[k], low), _mm256_and_si256(_mm256_slli_epi16(high[k], 2), two)),
                    _mm256_or_si256(_mm256_and_si256(right_16(a[k], 4), low), _mm256_and_si256(high[k], two)),
                    _mm256_or_si256(_mm256_and_si256(right_16(b[k], 4), low),
                                    _mm256_and_si256(right_16(high[k], 2), two)),
                };
#pragma GCC unroll 4
                for (size_t p = 0; p < 4; p++)
                    put(out, first, 128 * half + 16 * part + 32 * p + 4 * k, _mm256_add_epi8(parts[p], more));
            }
        }
    }
}

/* Two-bit quants at an offset: 32 bytes have 128 columns, lowest bits first. third: the offset of the third bits
 * (Q3_K), or SIZE_MAX. */
INLINE void two_bits(struct panel *out, panel_rows rows, size_t quants, size_t third, const int more)
{
    const __m256i three = all_bytes(3), four = all_bytes(4);
    for (size_t first = 0; first < PANEL_ROWS; first += 8)
        for (size_t i = 0; i < 4; i++) {
            size_t half = i / 2, part = i % 2;
            __m256i q[4], bits[4];
            turn(q, rows, first, quants + 32 * half + 16 * part);
            if (third != SIZE_MAX)
                turn(bits, rows, first, third + 16 * part);
#pragma GCC unroll 4
            for (size_t k = 0; k < 4; k++)
#pragma GCC unroll 4
                for (unsigned p = 0; p < 4; p++) {
                    __m256i value = _mm256_and_si256(right_16(q[k], 2 * p), three);
                    if (third != SIZE_MAX) {
                        __m256i bit = right_16(bits[k], half ? 4 + p : p);
                        value = _mm256_or_si256(value, _mm256_and_si256(_mm256_slli_epi16(bit, 2), four));
                    }
                    put(out, first, 128 * half + 16 * part + 32 * p + 4 * k, _mm256_add_epi8(value, all_bytes(more)));
                }
        }
}

static void panel_q2_k(struct panel *out, panel_rows rows, size_t blocks)
{
    (void)blocks;
    const __m256i four = _mm256_set1_epi32(15);
    put_halves(out->d[0], rows, offsetof(struct block_q2_k, d), 0.0f);
    put_halves(out->m[0], rows, offsetof(struct block_q2_k, dmin), 0.0f);
    for (size_t first = 0; first < PANEL_ROWS; first += 8) {
        __m256i bytes[4], scales[16], minima[16];
        turn(bytes, rows, first, 0);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m256i both = _mm256_srli_epi32(bytes[i / 4], 8 * (i % 4));
            scales[i] = _mm256_and_si256(both, four);
            minima[i] = _mm256_and_si256(_mm256_srli_epi32(both, 4), four);
        }
        put_pairs(out->scales, first, scales, 16);
        put_pairs(out->minima, first, minima, 16);
    }
    two_bits(out, rows, offsetof(struct block_q2_k, qs), SIZE_MAX, 0);
}

static void panel_q3_k(struct panel *out, panel_rows rows, size_t blocks)
{
    (void)blocks;
    const __m256i four = _mm256_set1_epi32(15), two = _mm256_set1_epi32(3), middle = _mm256_set1_epi32(32);
    put_halves(out->d[0], rows, offsetof(struct block_q3_k, d), 0.0f);
    for (size_t first = 0; first < PANEL_ROWS; first += 8) {
        __m256i words[3], scales[16];
#pragma GCC unroll 3
        for (size_t i = 0; i < 3; i++)
            words[i] = row_words(rows, first, offsetof(struct block_q3_k, scales) + 4 * i);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            __m256i low = _mm256_and_si256(_mm256_srli_epi32(words[i % 8 / 4], 8 * (i % 4) + i / 8 * 4), four);
            __m256i top = _mm256_and_si256(_mm256_srli_epi32(words[2], 8 * (i % 4) + i / 4 * 2), two);
            scales[i] = _mm256_sub_epi32(_mm256_or_si256(low, _mm256_slli_epi32(top, 4)), middle);
        }
        put_pairs(out->scales, first, scales, 16);
    }
    two_bits(out, rows, offsetof(struct block_q3_k, qs), offsetof(struct block_q3_k, hmask), MORE(4));
}

static void panel_tq2_0(struct panel *out, panel_rows rows, size_t blocks)
{
    (void)blocks;
    put_halves(out->d[0], rows, offsetof(struct block_tq2_0, d), 0.0f);
    two_bits(out, rows, offsetof(struct block_tq2_0, qs), SIZE_MAX, MORE(1));
}

static void panel_iq4_xs(struct panel *out, panel_rows rows, size_t blocks)
{
    (void)blocks;
    const __m256i low = all_bytes(15), codes = table(codebook_iq4, CODES_IQ4);
    const __m256i four = _mm256_set1_epi32(15), two = _mm256_set1_epi32(3), middle = _mm256_set1_epi32(32);
    for (size_t first = 0; first < PANEL_ROWS; first += 8) {
        __m256i head = row_words(rows, first, 0), second = row_words(rows, first, 4), scales[8];
        _mm256_store_ps(out->d[0] + first, halves(head));
#pragma GCC unroll 8
        for (int part = 0; part < 8; part++) {
            __m256i scale = _mm256_and_si256(_mm256_srli_epi32(second, 4 * part), four);
            __m256i top = _mm256_and_si256(_mm256_srli_epi32(head, 16 + 2 * part), two);
            scales[part] = _mm256_sub_epi32(_mm256_or_si256(scale, _mm256_slli_epi32(top, 4)), middle);
        }
        put_pairs(out->scales, first, scales, 8);
        for (size_t part = 0; part < 8; part++) {
            __m256i q[4];
            turn(q, rows, first, offsetof(struct block_iq4_xs, qs) + 16 * part);
#pragma GCC unroll 4
            for (size_t k = 0; k < 4; k++) {
                put(out, first, 32 * part + 4 * k, _mm256_shuffle_epi8(codes, _mm256_and_si256(q[k], low)));
                put(out, first, 32 * part + 16 + 4 * k,
                    _mm256_shuffle_epi8(codes, _mm256_and_si256(right_16(q[k], 4), low)));
            }
        }
    }
}

/* For large codebooks and base-3 digits: unpacks rows one by one, then transposes them. */
INLINE void any(enum tensor_type type, struct panel *out, panel_rows rows, size_t parts, int more)
{
    const struct unpacker *unpacker = unpacker_find(type);
    struct unpacked blocks[PANEL_ROWS];
    const uint8_t *quants[PANEL_ROWS];
    for (size_t i = 0; i < PANEL_ROWS; i++) {
        unpacker->unpack(&blocks[i], rows[i]);
        quants[i] = (const uint8_t *)blocks[i].quants;
        out->d[0][i] = blocks[i].d;
        for (size_t part = 0; part < parts; part++)
            out->scales[part / 2][i][part % 2] = blocks[i].scales[part * 16 / parts];
    }
    for (size_t first = 0; first < PANEL_ROWS; first += 8)
        for (size_t column = 0; column < PANEL_COLUMNS; column += 16) {
            __m256i q[4];
            turn(q, quants, first, column);
            for (size_t k = 0; k < 4; k++)
                put(out, first, column + 4 * k, _mm256_add_epi8(q[k], all_bytes(more)));
        }
}

#define ANY(name, type, parts, more)                                                                                   \
    static void name(struct panel *out, panel_rows rows, size_t blocks)                                                \
    {                                                                                                                  \
        (void)blocks;                                                                                                  \
        any(type, out, rows, parts, more);                                                                             \
    }

ANY(panel_iq1_s, TENSOR_IQ1_S, 8, CODES_IQ1)
ANY(panel_iq1_m, TENSOR_IQ1_M, 16, CODES_IQ1)
ANY(panel_iq2_xxs, TENSOR_IQ2_XXS, 8, CODES_IQ2)
ANY(panel_iq2_xs, TENSOR_IQ2_XS, 16, CODES_IQ2)
ANY(panel_iq2_s, TENSOR_IQ2_S, 16, CODES_IQ2)
ANY(panel_iq3_xxs, TENSOR_IQ3_XXS, 8, CODES_IQ3_XXS)
ANY(panel_iq3_s, TENSOR_IQ3_S, 8, CODES_IQ3_S)
ANY(panel_tq1_0, TENSOR_TQ1_0, 1, CODES_TERNARY)

panel_maker *const PANEL_MAKERS[TENSOR_TYPE_COUNT] = {
    [TENSOR_Q4_0] = panel_q4_0,       [TENSOR_Q4_1] = panel_q4_1,     [TENSOR_Q5_0] = panel_q5_0,
    [TENSOR_Q5_1] = panel_q5_1,       [TENSOR_Q8_0] = panel_q8_0,     [TENSOR_IQ4_NL] = panel_iq4_nl,
    [TENSOR_MXFP4] = panel_mxfp4,     [TENSOR_NVFP4] = panel_nvfp4,   [TENSOR_Q2_K] = panel_q2_k,
    [TENSOR_Q3_K] = panel_q3_k,       [TENSOR_Q4_K] = panel_q4_k,     [TENSOR_Q5_K] = panel_q5_k,
    [TENSOR_Q6_K] = panel_q6_k,       [TENSOR_IQ1_S] = panel_iq1_s,   [TENSOR_IQ1_M] = panel_iq1_m,
    [TENSOR_IQ2_XXS] = panel_iq2_xxs, [TENSOR_IQ2_XS] = panel_iq2_xs, [TENSOR_IQ2_S] = panel_iq2_s,
    [TENSOR_IQ3_XXS] = panel_iq3_xxs, [TENSOR_IQ3_S] = panel_iq3_s,   [TENSOR_IQ4_XS] = panel_iq4_xs,
    [TENSOR_TQ1_0] = panel_tq1_0,     [TENSOR_TQ2_0] = panel_tq2_0,
};
