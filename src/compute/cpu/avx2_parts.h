/* How each quantised type becomes operands of a multiplication of bytes, 32 elements at a time (AVX2).
 *
 * A type has:
 *   part(block, j, x)   elements 32j to 32j + 31 as bytes without sign, and x with the signs moved over to it;
 *   scales(block)       sixteen 16-bit scales (super-blocks only);
 *   OFFSET              how much too high the unsigned bytes are;
 *   d(rows)             the float scales of a block of four rows;
 * and for types with minima
 *   minima(block), m(rows).
 * Products of two bytes are summed in pairs in 16 bits with saturation, so that |a * x| + |b * y| must stay below 2^15:
 * bytes without sign go up to 128, activations to 127. */
#ifndef HYPURA_COMPUTE_AVX2_PARTS_H
#define HYPURA_COMPUTE_AVX2_PARTS_H

#include "compute/cpu/avx2.h"

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

/* Sixteen bytes' low nibbles, then their high ones. */
static ALWAYS_INLINE __m256i nibbles_16(const uint8_t *qs)
{
    __m128i bytes = load_128(qs);
    return low_nibbles(_mm256_set_m128i(_mm_srli_epi16(bytes, 4), bytes));
}

/* Eight 16-bit values, each twice. */
static ALWAYS_INLINE __m256i each_twice(__m128i values)
{
    return _mm256_set_m128i(_mm_unpackhi_epi16(values, values), _mm_unpacklo_epi16(values, values));
}

/* Bits [bit, bit + width) of each byte, moved to where mask is; to: the mask's lowest bit. */
static ALWAYS_INLINE __m256i move_bits(__m256i bytes, int bit, int to, int mask)
{
    __m256i moved = bit < to ? _mm256_slli_epi16(bytes, to - bit) : _mm256_srli_epi16(bytes, bit - to);
    return _mm256_and_si256(moved, _mm256_set1_epi8((char)mask));
}

/* ---- blocks of 32 -------------------------------------------------------------------------------------------------
 */

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

static ALWAYS_INLINE __m128 d_first(const struct four_rows *rows)
{
    return four_halves(rows, 0);
}

/* ---- Q4_K, Q5_K ---------------------------------------------------------------------------------------------------
 */

/* Eight scales in the low, eight minima in the high half: 6 bits each in 12 bytes, see unpack.c. */
static ALWAYS_INLINE __m128i k_scales_minima(const uint8_t *packed)
{
    uint32_t words[3];
    memcpy(words, packed, sizeof words);
    uint32_t scales = (words[2] & 0x0f0f0f0fu) | (words[0] >> 2 & 0x30303030u);
    uint32_t minima = (words[2] >> 4 & 0x0f0f0f0fu) | (words[1] >> 2 & 0x30303030u);
    return _mm_setr_epi32((int)(words[0] & 0x3f3f3f3fu), (int)scales, (int)(words[1] & 0x3f3f3f3fu), (int)minima);
}

static ALWAYS_INLINE __m256i scales_k(const uint8_t *block)
{
    return each_twice(_mm_cvtepu8_epi16(k_scales_minima(block + 4)));
}

static ALWAYS_INLINE __m256i minima_k(const uint8_t *block)
{
    return each_twice(_mm_cvtepu8_epi16(_mm_srli_si128(k_scales_minima(block + 4), 8)));
}

static ALWAYS_INLINE __m128 m_k(const struct four_rows *rows)
{
    return four_halves(rows, 2);
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

/* ---- Q6_K ---------------------------------------------------------------------------------------------------------
 */

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

#endif
