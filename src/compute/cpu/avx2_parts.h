/* Unpacks each quantised type into operands for multiplying bytes, 32 elements at a time (AVX2).
 *
 * A type has:
 *   part(block, j, x)   elements 32j to 32j + 31 as unsigned bytes, and x with their signs
 *   scales(block)       sixteen 16-bit scales, or eight, twice (super-blocks only)
 *   an offset           by which the unsigned bytes are too high
 *   d(rows)             the float scales of a block of four rows
 * Types with minima also have:
 *   minima(block), m(rows)
 * Products of two bytes are summed in pairs, in 16 bits with saturation. So |a * x| + |b * y| must stay below 2^15:
 * unsigned bytes are at most 128, activations at most 127. */
#ifndef HYPURA_COMPUTE_AVX2_PARTS_H
#define HYPURA_COMPUTE_AVX2_PARTS_H

#include "compute/cpu/avx2.h"
#include "compute/cpu/grids.h"

struct operands {
    __m256i magnitude; /* unsigned bytes */
    __m256i x;         /* signed bytes */
};

static ALWAYS_INLINE struct operands signed_bytes(__m256i quants, __m256i x)
{
    return (struct operands){_mm256_abs_epi8(quants), _mm256_sign_epi8(x, quants)};
}

static ALWAYS_INLINE __m256i low_nibbles(__m256i bytes)
{
    return _mm256_and_si256(bytes, _mm256_set1_epi8(15));
}

static ALWAYS_INLINE __m256i high_nibbles(__m256i bytes)
{
    return low_nibbles(_mm256_srli_epi16(bytes, 4));
}

/* The low nibbles of sixteen bytes, then their high nibbles. */
static ALWAYS_INLINE __m256i nibbles_16(const uint8_t *qs)
{
    const __m256i shift = _mm256_setr_epi32(0, 0, 0, 0, 4, 4, 4, 4);
    return low_nibbles(_mm256_srlv_epi32(_mm256_broadcastsi128_si256(load_128(qs)), shift));
}

/* Eight 16-bit values, each twice. */
static ALWAYS_INLINE __m256i each_twice(__m128i values)
{
    return _mm256_set_m128i(_mm_unpackhi_epi16(values, values), _mm_unpacklo_epi16(values, values));
}

/* Moves the bits of each byte from "bit" on to the place of the mask. to: the mask's lowest bit. */
static ALWAYS_INLINE __m256i move_bits(__m256i bytes, int bit, int to, int mask)
{
    __m256i moved = bit < to ? _mm256_slli_epi16(bytes, to - bit) : _mm256_srli_epi16(bytes, bit - to);
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)mask));
}

static ALWAYS_INLINE uint32_t load_32(const uint8_t *bytes)
{
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static ALWAYS_INLINE uint64_t load_64(const uint8_t *bytes)
{
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

/* A byte of ones for each set bit, a zero byte for each other. */
static ALWAYS_INLINE __m256i bits_to_bytes(uint32_t bits)
{
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32((int)bits), byte);
    return _mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit);
}

static ALWAYS_INLINE __m256i negate_where(__m256i x, uint32_t bits)
{
    __m256i mask = bits_to_bytes(bits);
    return _mm256_sub_epi8(_mm256_xor_si256(x, mask), mask);
}

/* The 4-bit halves of bytes in order: low, high, low, high. */
static ALWAYS_INLINE __m128i nibbles_in_order(__m128i bytes)
{
    const __m128i mask = _mm_set1_epi8(15);
    return _mm_unpacklo_epi8(_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16(bytes, 4), mask));
}

/* 2s + 1 */
static ALWAYS_INLINE __m256i odd_scales(__m256i s)
{
    return _mm256_or_si256(_mm256_slli_epi16(s, 1), _mm256_set1_epi16(1));
}

/* ---- blocks of 32 ------------------------------------------------------------------------------------------------ */

static ALWAYS_INLINE struct operands part_q4_0(const uint8_t *block, int j, __m256i x)
{
    (void)j;
    return (struct operands){nibbles_16(block + 2), x};
}

static ALWAYS_INLINE struct operands part_q8_0(const uint8_t *block, int j, __m256i x)
{
    (void)j;
    return signed_bytes(load_256(block + 2), x);
}

static ALWAYS_INLINE struct operands part_q4_1(const uint8_t *block, int j, __m256i x)
{
    (void)j;
    return (struct operands){nibbles_16(block + 4), x};
}

static ALWAYS_INLINE __m256i five_bits(const uint8_t *qh, const uint8_t *qs)
{
    __m256i fifth = _mm256_and_si256(bits_to_bytes(load_32(qh)), _mm256_set1_epi8(16));
    return _mm256_or_si256(nibbles_16(qs), fifth);
}

static ALWAYS_INLINE struct operands part_q5_0(const uint8_t *block, int j, __m256i x)
{
    (void)j;
    return (struct operands){five_bits(block + 2, block + 6), x};
}

static ALWAYS_INLINE struct operands part_q5_1(const uint8_t *block, int j, __m256i x)
{
    (void)j;
    return (struct operands){five_bits(block + 4, block + 8), x};
}

/* The signs go from x to the codes, as four rows share x. No code is -128, which has no negative. */
static ALWAYS_INLINE struct operands coded(const int8_t *codebook, __m256i index, __m256i x)
{
    __m256i codes = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(load_128((const void *)codebook)), index);
    return (struct operands){_mm256_abs_epi8(x), _mm256_sign_epi8(codes, x)};
}

static ALWAYS_INLINE struct operands part_iq4_nl(const uint8_t *block, int j, __m256i x)
{
    (void)j;
    return coded(codebook_iq4, nibbles_16(block + 2), x);
}

/* Twelve above the values of the codebook: nothing has a sign. */
#define OFFSET_E2M1 12

static ALWAYS_INLINE struct operands part_mxfp4(const uint8_t *block, int j, __m256i x)
{
    (void)j;
    __m128i above = _mm_add_epi8(load_128((const void *)codebook_e2m1), _mm_set1_epi8(OFFSET_E2M1));
    return (struct operands){_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(above), nibbles_16(block + 1)), x};
}

/* Both parts of half a block of 64, one per 128-bit lane. */
static ALWAYS_INLINE struct operands part_nvfp4(const uint8_t *block, int j, __m256i x)
{
    __m128i bytes = load_128(block + offsetof(struct block_nvfp4, qs) + 16 * j), mask = _mm_set1_epi8(15);
    __m128i low = _mm_and_si128(bytes, mask), high = _mm_and_si128(_mm_srli_epi16(bytes, 4), mask);
    __m256i index = _mm256_set_m128i(_mm_unpackhi_epi64(low, high), _mm_unpacklo_epi64(low, high));
    return coded(codebook_e2m1, index, x);
}

/* The scales of two blocks of four rows: those of the first ones, then those of the ones this far behind. */
static ALWAYS_INLINE __m256 pair_halves(const struct four_rows *rows, size_t offset, size_t apart)
{
    struct four_rows second = *rows;
    four_rows_advance(&second, apart);
    return _mm256_cvtph_ps(_mm_unpacklo_epi64(four_words(rows, offset), four_words(&second, offset)));
}

static ALWAYS_INLINE __m256 pair_first(const struct four_rows *rows, size_t apart)
{
    return pair_halves(rows, 0, apart);
}

static ALWAYS_INLINE __m256 pair_second(const struct four_rows *rows, size_t apart)
{
    return pair_halves(rows, 2, apart);
}

static ALWAYS_INLINE uint32_t four_bytes(const struct four_rows *rows, size_t offset)
{
    return rows->at[0][offset] | (uint32_t)rows->at[1][offset] << 8 | (uint32_t)rows->at[2][offset] << 16 |
           (uint32_t)rows->at[3][offset] << 24;
}

/* 2^(e - 128); the two smallest values are subnormal. */
static ALWAYS_INLINE __m256 pair_mxfp4(const struct four_rows *rows, size_t apart)
{
    uint64_t bytes = four_bytes(rows, 0) | (uint64_t)four_bytes(rows, apart) << 32;
    __m256i e = _mm256_cvtepu8_epi32(_mm_set_epi64x(0, (long long)bytes)), one = _mm256_set1_epi32(1);
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, one), 23);
    __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), _mm256_min_epi32(e, one));
    return _mm256_castsi256_ps(_mm256_max_epi32(normal, subnormal));
}

static ALWAYS_INLINE __m128 m_second(const struct four_rows *rows)
{
    return four_halves(rows, 2);
}

static ALWAYS_INLINE __m128 d_first(const struct four_rows *rows)
{
    return four_halves(rows, 0);
}

/* ---- Q4_K, Q5_K -------------------------------------------------------------------------------------------------- */

/* Eight scales, then eight minima, as 16-bit values. They are packed as 6 bits each in 12 bytes: see unpack.c. */
static ALWAYS_INLINE __m256i scales_minima_k(const uint8_t *block)
{
    const uint64_t four = load_64(block + 4), rest = load_32(block + 12);
    const uint64_t low = four & 0x3f3f3f3f3f3f3f3fu; /* scales 0 to 3, minima 0 to 3 */
    const uint64_t high = ((rest | rest << 28) & 0x0f0f0f0f0f0f0f0fu) | (four >> 2 & 0x3030303030303030u);
    return _mm256_cvtepu8_epi16(
        _mm_unpacklo_epi32(_mm_set_epi64x(0, (long long)low), _mm_set_epi64x(0, (long long)high)));
}

static ALWAYS_INLINE __m256i k_nibbles_32(const uint8_t *qs, int j)
{
    __m256i bytes = load_256(qs + 32 * (j / 2));
    return j % 2 ? high_nibbles(bytes) : low_nibbles(bytes);
}

static ALWAYS_INLINE struct operands part_q4_k(const uint8_t *block, int j, __m256i x)
{
    return (struct operands){k_nibbles_32(block + offsetof(struct block_q4_k, qs), j), x};
}

static ALWAYS_INLINE struct operands part_q5_k(const uint8_t *block, int j, __m256i x)
{
    __m256i fifth = move_bits(load_256(block + offsetof(struct block_q5_k, qh)), j, 4, 16);
    return (struct operands){_mm256_or_si256(k_nibbles_32(block + offsetof(struct block_q5_k, qs), j), fifth), x};
}

/* ---- Q6_K -------------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE struct operands part_q6_k(const uint8_t *block, int j, __m256i x)
{
    int half = j / 4, p = j % 4;
    __m256i low = load_256(block + 64 * half + 32 * (p % 2));
    low = p < 2 ? low_nibbles(low) : high_nibbles(low);
    __m256i high = move_bits(load_256(block + offsetof(struct block_q6_k, qh) + 32 * half), 2 * p, 4, 48);
    return (struct operands){_mm256_or_si256(low, high), x};
}

static ALWAYS_INLINE __m256i scales_q6_k(const uint8_t *block)
{
    return _mm256_cvtepi8_epi16(load_128(block + offsetof(struct block_q6_k, scales)));
}

static ALWAYS_INLINE __m128 d_q6_k(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_q6_k, d));
}

/* ---- Q2_K, Q3_K -------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE __m256i two_bits(const uint8_t *qs, int j)
{
    return move_bits(load_256(qs + 32 * (j / 4)), 2 * (j % 4), 0, 3);
}

static ALWAYS_INLINE struct operands part_q2_k(const uint8_t *block, int j, __m256i x)
{
    return (struct operands){two_bits(block + offsetof(struct block_q2_k, qs), j), x};
}

static ALWAYS_INLINE __m256i scales_q2_k(const uint8_t *block)
{
    return _mm256_cvtepu8_epi16(_mm_and_si128(load_128(block), _mm_set1_epi8(15)));
}

static ALWAYS_INLINE __m256i minima_q2_k(const uint8_t *block)
{
    return _mm256_srli_epi16(_mm256_cvtepu8_epi16(load_128(block)), 4);
}

static ALWAYS_INLINE __m128 d_q2_k(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_q2_k, d));
}

static ALWAYS_INLINE __m128 m_q2_k(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_q2_k, dmin));
}

static ALWAYS_INLINE struct operands part_q3_k(const uint8_t *block, int j, __m256i x)
{
    __m256i third = move_bits(load_256(block + offsetof(struct block_q3_k, hmask)), j, 2, 4);
    return (struct operands){_mm256_or_si256(two_bits(block + offsetof(struct block_q3_k, qs), j), third), x};
}

static ALWAYS_INLINE __m256i scales_q3_k(const uint8_t *block)
{
    const uint8_t *packed = block + offsetof(struct block_q3_k, scales);
    uint64_t low = load_64(packed);
    uint32_t high = load_32(packed + 8);
    __m128i bits = _mm_and_si128(_mm_set_epi64x((long long)(low >> 4), (long long)low), _mm_set1_epi8(15));
    __m128i top = _mm_srlv_epi32(_mm_set1_epi32((int)high), _mm_setr_epi32(0, 2, 4, 6));
    top = _mm_slli_epi16(_mm_and_si128(top, _mm_set1_epi8(3)), 4);
    return _mm256_sub_epi16(_mm256_cvtepu8_epi16(_mm_or_si128(bits, top)), _mm256_set1_epi16(32));
}

static ALWAYS_INLINE __m128 d_q3_k(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_q3_k, d));
}

/* ---- IQ4_XS ------------------------------------------------------------------------------------------------------ */

static ALWAYS_INLINE struct operands part_iq4_xs(const uint8_t *block, int j, __m256i x)
{
    return coded(codebook_iq4, nibbles_16(block + offsetof(struct block_iq4_xs, qs) + 16 * j), x);
}

static ALWAYS_INLINE __m256i scales_iq4_xs(const uint8_t *block)
{
    uint16_t high;
    memcpy(&high, block + 2, sizeof high);
    __m128i low = _mm_cvtepu8_epi16(nibbles_in_order(_mm_cvtsi32_si128((int)load_32(block + 4))));
    /* The two bits at 2j: a multiplication moves them to the top of a word, a shift moves them down again. */
    const __m128i shift = _mm_setr_epi16(1 << 14, 1 << 12, 1 << 10, 1 << 8, 1 << 6, 1 << 4, 1 << 2, 1);
    __m128i top = _mm_srli_epi16(_mm_mullo_epi16(_mm_set1_epi16((short)high), shift), 14);
    __m128i scales = _mm_or_si128(low, _mm_slli_epi16(top, 4));
    return _mm256_broadcastsi128_si256(_mm_sub_epi16(scales, _mm_set1_epi16(32)));
}

/* ---- ternary ----------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE __m256i scales_one(const uint8_t *block)
{
    (void)block;
    return _mm256_set1_epi16(1);
}

static ALWAYS_INLINE struct operands part_tq2_0(const uint8_t *block, int j, __m256i x)
{
    return (struct operands){two_bits(block, j), x};
}

static ALWAYS_INLINE __m128 d_tq2_0(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_tq2_0, d));
}

/* Multiplies by 3 modulo 256, n times. */
static ALWAYS_INLINE __m256i times_three(__m256i bytes, int n)
{
    for (int i = 0; i < n; i++)
        bytes = _mm256_add_epi8(bytes, _mm256_add_epi8(bytes, bytes));
    return bytes;
}

/* The highest base-3 digit: byte * 3 / 256. */
static ALWAYS_INLINE __m256i first_digit(__m256i bytes)
{
    __m256i one = _mm256_cmpeq_epi8(_mm256_max_epu8(bytes, _mm256_set1_epi8(86)), bytes);
    __m256i two = _mm256_cmpeq_epi8(_mm256_max_epu8(bytes, _mm256_set1_epi8((char)171)), bytes);
    return _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two));
}

static ALWAYS_INLINE struct operands part_tq1_0(const uint8_t *block, int j, __m256i x)
{
    if (j < 5)
        return (struct operands){first_digit(times_three(load_256(block), j)), x};
    __m256i sixteen = _mm256_broadcastsi128_si256(load_128(block + 32));
    if (j < 7) {
        __m256i first = times_three(sixteen, 2 * (j - 5));
        return (struct operands){first_digit(_mm256_blend_epi32(first, times_three(first, 1), 0xf0)), x};
    }
    __m256i rest = _mm256_set1_epi32((int)load_32(block + offsetof(struct block_tq1_0, qh)));
    __m256i three = times_three(rest, 1), nine = times_three(three, 1), twenty_seven = times_three(nine, 1);
    rest =
        _mm256_blend_epi32(_mm256_blend_epi32(rest, three, 0x20), _mm256_blend_epi32(nine, twenty_seven, 0x80), 0xc0);
    return (struct operands){first_digit(_mm256_blend_epi32(times_three(sixteen, 4), rest, 0xf0)), x};
}

static ALWAYS_INLINE __m128 d_tq1_0(const struct four_rows *rows)
{
    return four_halves(rows, offsetof(struct block_tq1_0, d));
}

/* ---- codebooks of eight and of four ------------------------------------------------------------------------------ */

/* IQ2 and IQ1 use an eighth of d, IQ3_XXS a quarter. */
static ALWAYS_INLINE __m128 d_eighth(const struct four_rows *rows)
{
    return _mm_mul_ps(four_halves(rows, 0), _mm_set1_ps(0.125f));
}

static ALWAYS_INLINE __m128 d_quarter(const struct four_rows *rows)
{
    return _mm_mul_ps(four_halves(rows, 0), _mm_set1_ps(0.25f));
}

static ALWAYS_INLINE __m256i entries_8(const uint64_t *grid, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    return _mm256_setr_epi64x((long long)grid[a], (long long)grid[b], (long long)grid[c], (long long)grid[d]);
}

/* high: the ninth bit of each index. */
static ALWAYS_INLINE __m256i entries_4(const uint32_t *grid, const uint8_t *at, uint32_t high)
{
    uint32_t entries[8];
    for (int k = 0; k < 8; k++)
        entries[k] = grid[at[k] | (high << (8 - k) & 256)];
    return load_256(entries);
}

/* 2s + 1 for the top four bits s of eight 32-bit words, each twice: for two parts of 16. */
static ALWAYS_INLINE __m256i top_scales(__m256i words)
{
    __m256i s = _mm256_srli_epi32(words, 28);
    return odd_scales(_mm256_or_si256(s, _mm256_slli_epi32(s, 16)));
}

static ALWAYS_INLINE struct operands part_iq2_xxs(const uint8_t *block, int j, __m256i x)
{
    const uint8_t *at = block + 2 + 8 * j;
    return (struct operands){entries_8(grid_iq2_xxs, at[0], at[1], at[2], at[3]),
                             negate_where(x, even_signs_4(load_32(at + 4)))};
}

static ALWAYS_INLINE __m256i scales_iq2_xxs(const uint8_t *block)
{
    __m256 odd =
        _mm256_shuffle_ps(_mm256_castsi256_ps(load_256(block + 2)), _mm256_castsi256_ps(load_256(block + 34)), 0xdd);
    return top_scales(_mm256_permute4x64_epi64(_mm256_castps_si256(odd), _MM_SHUFFLE(3, 1, 2, 0)));
}

static ALWAYS_INLINE struct operands part_iq2_xs(const uint8_t *block, int j, __m256i x)
{
    uint64_t words = load_64(block + 2 + 8 * j);
    uint32_t signs = (uint32_t)even_signs(words >> 9 & 127) | (uint32_t)even_signs(words >> 25 & 127) << 8 |
                     (uint32_t)even_signs(words >> 41 & 127) << 16 |
                     (uint32_t)even_signs((uint32_t)(words >> 57)) << 24;
    return (struct operands){
        entries_8(grid_iq2_xs, words & 511, words >> 16 & 511, words >> 32 & 511, words >> 48 & 511),
        negate_where(x, signs)};
}

static ALWAYS_INLINE __m256i scales_16_nibbles(const uint8_t *packed)
{
    return odd_scales(_mm256_cvtepu8_epi16(nibbles_in_order(_mm_loadl_epi64((const void *)packed))));
}

static ALWAYS_INLINE __m256i scales_iq2_xs(const uint8_t *block)
{
    return scales_16_nibbles(block + offsetof(struct block_iq2_xs, scales));
}

static ALWAYS_INLINE struct operands part_iq2_s(const uint8_t *block, int j, __m256i x)
{
    const uint8_t *at = block + offsetof(struct block_iq2_s, qs) + 4 * j;
    uint32_t high = block[offsetof(struct block_iq2_s, qh) + j];
    return (struct operands){entries_8(grid_iq2_s, at[0] | (high << 8 & 768), at[1] | (high << 6 & 768),
                                       at[2] | (high << 4 & 768), at[3] | (high << 2 & 768)),
                             negate_where(x, load_32(block + offsetof(struct block_iq2_s, signs) + 4 * j))};
}

static ALWAYS_INLINE __m256i scales_iq2_s(const uint8_t *block)
{
    return scales_16_nibbles(block + offsetof(struct block_iq2_s, scales));
}

static ALWAYS_INLINE struct operands part_iq3_xxs(const uint8_t *block, int j, __m256i x)
{
    uint32_t signs = load_32(block + offsetof(struct block_iq3_xxs, signs) + 4 * j);
    return (struct operands){entries_4(grid_iq3_xxs, block + 2 + 8 * j, 0), negate_where(x, even_signs_4(signs))};
}

static ALWAYS_INLINE __m256i scales_iq3_xxs(const uint8_t *block)
{
    return top_scales(load_256(block + offsetof(struct block_iq3_xxs, signs)));
}

static ALWAYS_INLINE struct operands part_iq3_s(const uint8_t *block, int j, __m256i x)
{
    return (struct operands){entries_4(grid_iq3_s, block + 2 + 8 * j, block[offsetof(struct block_iq3_s, qh) + j]),
                             negate_where(x, load_32(block + offsetof(struct block_iq3_s, signs) + 4 * j))};
}

static ALWAYS_INLINE __m256i scales_iq3_s(const uint8_t *block)
{
    uint32_t packed = load_32(block + offsetof(struct block_iq3_s, scales));
    return odd_scales(each_twice(_mm_cvtepu8_epi16(nibbles_in_order(_mm_cvtsi32_si128((int)packed)))));
}

/* IQ1 in eighths, 9 too high: entries are 8 too high, and deltas of -1 and 1 are stored as 0 and 2. */
static ALWAYS_INLINE struct operands part_iq1_s(const uint8_t *block, int j, __m256i x)
{
    const uint8_t *at = block + offsetof(struct block_iq1_s, qs) + 4 * j;
    uint32_t high = block[offsetof(struct block_iq1_s, qh) + 2 * j] |
                    (uint32_t)block[offsetof(struct block_iq1_s, qh) + 2 * j + 1] << 8;
    __m256i entries = entries_8(grid_iq1, at[0] | (high << 8 & 0x700), at[1] | (high << 5 & 0x700),
                                at[2] | (high << 2 & 0x700), at[3] | (high >> 1 & 0x700));
    return (struct operands){_mm256_add_epi8(entries, _mm256_set1_epi8(high & 0x8000 ? 0 : 2)), x};
}

static ALWAYS_INLINE __m256i scales_iq1_s(const uint8_t *block)
{
    __m128i high = load_128(block + offsetof(struct block_iq1_s, qh));
    return odd_scales(each_twice(_mm_and_si128(_mm_srli_epi16(high, 12), _mm_set1_epi16(7))));
}

static ALWAYS_INLINE struct operands part_iq1_m(const uint8_t *block, int j, __m256i x)
{
    const uint8_t *at = block + 4 * j;
    uint32_t high = block[offsetof(struct block_iq1_m, qh) + 2 * j] |
                    (uint32_t)block[offsetof(struct block_iq1_m, qh) + 2 * j + 1] << 8;
    __m256i entries = entries_8(grid_iq1, at[0] | (high << 8 & 0x700), at[1] | (high << 4 & 0x700),
                                at[2] | (high & 0x700), at[3] | (high >> 4 & 0x700));
    uint64_t twos = 0x0202020202020202u;
    __m256i delta = _mm256_setr_epi64x((long long)(high & 8 ? 0 : twos), (long long)(high & 0x80 ? 0 : twos),
                                       (long long)(high & 0x800 ? 0 : twos), (long long)(high & 0x8000 ? 0 : twos));
    return (struct operands){_mm256_add_epi8(entries, delta), x};
}

static ALWAYS_INLINE __m256i scales_iq1_m(const uint8_t *block)
{
    /* The three bits at 3k of word i / 4: a multiplication moves them to the top, a shift moves them down again. */
    const __m256i word =
        _mm256_setr_epi64x(0x0100010001000100, 0x0302030203020302, 0x0504050405040504, 0x0706070607060706);
    const __m256i shift = _mm256_set1_epi64x(1ll << 13 | 1ll << (16 + 10) | 1ll << (32 + 7) | 1ll << (48 + 4));
    __m128i packed = _mm_loadl_epi64((const void *)(block + offsetof(struct block_iq1_m, scales)));
    __m256i words = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(packed), word);
    return odd_scales(_mm256_srli_epi16(_mm256_mullo_epi16(words, shift), 13));
}

/* The bits of d are in the top four bits of the four words of scales. */
static ALWAYS_INLINE __m128 d_iq1_m(const struct four_rows *rows)
{
    uint16_t d[4];
    for (int i = 0; i < 4; i++) {
        uint64_t words = load_64(rows->at[i] + offsetof(struct block_iq1_m, scales));
        d[i] = (uint16_t)((words >> 12 & 0xf) | (words >> 24 & 0xf0) | (words >> 36 & 0xf00) | (words >> 48 & 0xf000));
    }
    __m128i halves = _mm_setr_epi16((short)d[0], (short)d[1], (short)d[2], (short)d[3], 0, 0, 0, 0);
    return _mm_mul_ps(_mm_cvtph_ps(halves), _mm_set1_ps(0.125f));
}

#endif
