/* The operations of few.h, which includes this, with 256-bit vectors. They are built twice: for AVX2 alone, and for the
 * dot product of bytes (AVX-VNNI), which needs one unsigned side.
 *
 * AVX2 multiplies bytes and sums the products in pairs, in 16 bits with saturation. Small quants leave room to add
 * several of these sums before they are scaled. The signs of signed quants are moved to the activations. */
#ifndef HYPURA_COMPUTE_FEW_AVX2_H
#define HYPURA_COMPUTE_FEW_AVX2_H

#include <immintrin.h>

#define FEW_REGISTERS 16
#if defined(__AVXVNNI__)
#define FEW_VARIANT(name) name##_avx_vnni
#define FEW_RAISED 128
#define FEW_LEAST_NVFP4 1
#else
#define FEW_VARIANT(name) name##_avx2
#define FEW_RAISED 0
#define FEW_LEAST_NVFP4 FEW_LEAST
#endif

typedef __m256i few_ints;
typedef __m256 few_floats;

static ALWAYS_INLINE few_ints few_all_bytes(int value)
{
    return _mm256_set1_epi8((char)value);
}

static ALWAYS_INLINE few_ints few_all(int32_t value)
{
    return _mm256_set1_epi32(value);
}

static ALWAYS_INLINE few_ints few_load(const int32_t *from)
{
    return _mm256_load_si256((const void *)from);
}

static ALWAYS_INLINE void few_store(int32_t *to, few_ints a)
{
    _mm256_store_si256((void *)to, a);
}

static ALWAYS_INLINE few_ints few_and(few_ints a, few_ints b)
{
    return _mm256_and_si256(a, b);
}

/* (a & mask) | b */
static ALWAYS_INLINE few_ints few_join(few_ints a, few_ints mask, few_ints b)
{
    return _mm256_or_si256(_mm256_and_si256(a, mask), b);
}

static ALWAYS_INLINE few_ints few_subtract(few_ints a, few_ints b)
{
    return _mm256_sub_epi32(a, b);
}

/* Shifts of 16-bit numbers. */
static ALWAYS_INLINE few_ints few_right_16(few_ints a, unsigned bits)
{
    return _mm256_srli_epi16(a, (int)bits);
}

static ALWAYS_INLINE few_ints few_left_16(few_ints a, unsigned bits)
{
    return _mm256_slli_epi16(a, (int)bits);
}

static ALWAYS_INLINE few_ints few_right(few_ints a, unsigned bits)
{
    return _mm256_srli_epi32(a, (int)bits);
}

static ALWAYS_INLINE few_ints few_right_signed(few_ints a, unsigned bits)
{
    return _mm256_srai_epi32(a, (int)bits);
}

static ALWAYS_INLINE few_ints few_left(few_ints a, unsigned bits)
{
    return _mm256_slli_epi32(a, (int)bits);
}

static ALWAYS_INLINE void few_turn(few_ints out[4], const struct few_rows *rows, size_t offset)
{
    __m256i a[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        __m128i low = _mm_loadu_si128((const void *)(few_row(rows, i) + offset));
        __m128i high = _mm_loadu_si128((const void *)(few_row(rows, 4 + i) + offset));
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

/* Copies four activations, or two sums of activations, to every lane. */
static ALWAYS_INLINE __m256i few_same(const void *from)
{
    int32_t word;
    memcpy(&word, from, sizeof word);
    return _mm256_set1_epi32(word);
}

static ALWAYS_INLINE few_ints few_pair(few_ints a, few_ints b)
{
    return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa);
}

#if defined(__AVXVNNI__)

static ALWAYS_INLINE few_ints few_dot(few_ints start, const few_ints *quants, const int8_t *x, const int count,
                                      const int most)
{
    (void)most;
#pragma GCC unroll 8
    for (int k = 0; k < count; k++)
        start = _mm256_dpbusd_avx_epi32(start, quants[k], few_same(x + 4 * k));
    return start;
}

static ALWAYS_INLINE few_ints few_scale(few_ints scale)
{
    return scale;
}

static ALWAYS_INLINE few_ints few_part(few_ints total, const few_ints *quants, const int8_t *x, const int count,
                                       const int most, few_ints scale)
{
    few_ints dot = few_dot(_mm256_setzero_si256(), quants, x, count, most);
    return _mm256_add_epi32(total, _mm256_mullo_epi32(dot, scale));
}

static ALWAYS_INLINE few_ints few_add_pairs(few_ints sum, few_ints a, few_ints b)
{
    return _mm256_dpwssd_avx_epi32(sum, a, b);
}

static ALWAYS_INLINE few_ints few_with_sign(few_ints quants)
{
    return _mm256_xor_si256(quants, _mm256_set1_epi8(-128));
}

#else

/* 16-bit sums of two products each. */
static ALWAYS_INLINE __m256i few_products(__m256i quants, const int8_t *x, const int most)
{
    __m256i four = few_same(x);
    if (most == FEW_SIGNED)
        return _mm256_maddubs_epi16(_mm256_abs_epi8(quants), _mm256_sign_epi8(four, quants));
    return _mm256_maddubs_epi16(quants, four);
}

/* scale: each lane has it twice, in 16 bits. */
static ALWAYS_INLINE few_ints few_part(few_ints total, const few_ints *quants, const int8_t *x, const int count,
                                       const int most, few_ints scale)
{
    /* How many of these sums can be added without exceeding 16 bits. */
    const int fit = INT16_MAX / (2 * 127 * most), step = fit < 2 ? 1 : fit < 4 ? 2 : fit < 8 ? 4 : 8;
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int k = 0; k < count; k++) {
        __m256i products = few_products(quants[k], x + 4 * k, most);
        sum = k % step ? _mm256_add_epi16(sum, products) : products;
        if ((k + 1) % step == 0 || k + 1 == count)
            total = _mm256_add_epi32(total, _mm256_madd_epi16(sum, scale));
    }
    return total;
}

static ALWAYS_INLINE few_ints few_dot(few_ints start, const few_ints *quants, const int8_t *x, const int count,
                                      const int most)
{
    return few_part(start, quants, x, count, most, _mm256_set1_epi16(1));
}

static ALWAYS_INLINE few_ints few_scale(few_ints scale)
{
    return few_pair(scale, scale);
}

static ALWAYS_INLINE few_ints few_add_pairs(few_ints sum, few_ints a, few_ints b)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

static ALWAYS_INLINE few_ints few_with_sign(few_ints quants)
{
    return quants;
}

#endif

static ALWAYS_INLINE few_ints few_pairs(const few_ints *pairs, const int16_t *sums, const int count)
{
    __m256i sum = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        sum = few_add_pairs(sum, pairs[i], few_same(sums + 2 * i));
    return sum;
}

/* Sums of 32 activations, from sums of 16. */
static ALWAYS_INLINE void few_part_sums(int16_t parts[8], const int16_t *sums)
{
    _mm_store_si128((void *)parts,
                    _mm_hadd_epi16(_mm_loadu_si128((const void *)sums), _mm_loadu_si128((const void *)(sums + 8))));
}

static ALWAYS_INLINE few_ints few_table(const int8_t *codes, int raised)
{
    return _mm256_broadcastsi128_si256(_mm_add_epi8(_mm_loadu_si128((const void *)codes), _mm_set1_epi8((char)raised)));
}

static ALWAYS_INLINE few_ints few_look_up(few_ints table, few_ints index)
{
    return _mm256_shuffle_epi8(table, index);
}

static ALWAYS_INLINE few_ints few_fifth(few_ints bits, const int k)
{
    const __m256i byte = _mm256_broadcastsi128_si256(_mm_setr_epi32(
        0x01010101 * (k / 2), 0x01010101 * (4 + k / 2), 0x01010101 * (8 + k / 2), 0x01010101 * (12 + k / 2)));
    __m256i nibble = _mm256_set1_epi32(k % 2 ? (int)0x80402010u : 0x08040201);
    __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(_mm256_shuffle_epi8(bits, byte), nibble), nibble);
    return _mm256_and_si256(set, _mm256_set1_epi8(16));
}

static ALWAYS_INLINE few_floats few_halves(few_ints a)
{
    __m256i words = _mm256_and_si256(a, _mm256_set1_epi32(0xffff));
    words = _mm256_permute4x64_epi64(_mm256_packus_epi32(words, words), _MM_SHUFFLE(0, 0, 2, 0));
    return _mm256_cvtph_ps(_mm256_castsi256_si128(words));
}

static ALWAYS_INLINE few_floats few_load_halves(const uint16_t *from)
{
    return _mm256_cvtph_ps(_mm_load_si128((const void *)from));
}

static ALWAYS_INLINE few_floats few_exponents(few_ints a)
{
    __m256i e = _mm256_and_si256(a, _mm256_set1_epi32(255));
    __m256i normal = _mm256_slli_epi32(_mm256_sub_epi32(e, _mm256_set1_epi32(1)), 23);
    __m256i subnormal = _mm256_sllv_epi32(_mm256_set1_epi32(0x00200000), e);
    return _mm256_castsi256_ps(_mm256_blendv_epi8(normal, subnormal, _mm256_cmpgt_epi32(_mm256_set1_epi32(2), e)));
}

static ALWAYS_INLINE few_floats few_load_floats(const float *from)
{
    return _mm256_load_ps(from);
}

static ALWAYS_INLINE void few_store_floats(float *to, few_floats a)
{
    _mm256_store_ps(to, a);
}

/* sum + (d * scale) * total; few_take: sum - (d * scale) * total. */
static ALWAYS_INLINE few_floats few_add(few_floats sum, few_floats d, float scale, few_ints total)
{
    return _mm256_fmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(scale)), _mm256_cvtepi32_ps(total), sum);
}

static ALWAYS_INLINE few_floats few_take(few_floats sum, few_floats d, float scale, few_ints total)
{
    return _mm256_fnmadd_ps(_mm256_mul_ps(d, _mm256_set1_ps(scale)), _mm256_cvtepi32_ps(total), sum);
}

#endif
