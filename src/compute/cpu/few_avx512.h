/* The operations of few.h, which includes this, with AVX-512 and VNNI. */
#ifndef HYPURA_COMPUTE_FEW_AVX512_H
#define HYPURA_COMPUTE_FEW_AVX512_H

#include <immintrin.h>

#define FEW_VARIANT(name) name##_avx512
#define FEW_REGISTERS 32
#define FEW_LEAST_NVFP4 FEW_LEAST
#define FEW_RAISED 128 /* the dot product needs one unsigned side */

typedef __m512i few_ints;
typedef __m512 few_floats;

static ALWAYS_INLINE few_ints few_all_bytes(int value)
{
    return _mm512_set1_epi8((char)value);
}

static ALWAYS_INLINE few_ints few_all(int32_t value)
{
    return _mm512_set1_epi32(value);
}

static ALWAYS_INLINE few_ints few_load(const int32_t *from)
{
    return _mm512_load_si512(from);
}

static ALWAYS_INLINE void few_store(int32_t *to, few_ints a)
{
    _mm512_store_si512(to, a);
}

static ALWAYS_INLINE few_ints few_and(few_ints a, few_ints b)
{
    return _mm512_and_si512(a, b);
}

/* (a & mask) | b */
static ALWAYS_INLINE few_ints few_join(few_ints a, few_ints mask, few_ints b)
{
    return _mm512_ternarylogic_epi64(a, mask, b, 0xea);
}

static ALWAYS_INLINE few_ints few_subtract(few_ints a, few_ints b)
{
    return _mm512_sub_epi32(a, b);
}

/* Shifts of 16-bit numbers. */
static ALWAYS_INLINE few_ints few_right_16(few_ints a, unsigned bits)
{
    return _mm512_srli_epi16(a, bits);
}

static ALWAYS_INLINE few_ints few_left_16(few_ints a, unsigned bits)
{
    return _mm512_slli_epi16(a, bits);
}

static ALWAYS_INLINE few_ints few_right(few_ints a, unsigned bits)
{
    return _mm512_srli_epi32(a, bits);
}

static ALWAYS_INLINE few_ints few_right_signed(few_ints a, unsigned bits)
{
    return _mm512_srai_epi32(a, bits);
}

static ALWAYS_INLINE few_ints few_left(few_ints a, unsigned bits)
{
    return _mm512_slli_epi32(a, bits);
}

static ALWAYS_INLINE void few_turn(few_ints out[4], const struct few_rows *rows, size_t offset)
{
    __m512i a[4];
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        __m512i four = _mm512_castsi128_si512(_mm_loadu_si128((const void *)(few_row(rows, i) + offset)));
        four =
            _mm512_mask_broadcast_i32x4(four, 0x00f0, _mm_loadu_si128((const void *)(few_row(rows, 4 + i) + offset)));
        four =
            _mm512_mask_broadcast_i32x4(four, 0x0f00, _mm_loadu_si128((const void *)(few_row(rows, 8 + i) + offset)));
        a[i] =
            _mm512_mask_broadcast_i32x4(four, 0xf000, _mm_loadu_si128((const void *)(few_row(rows, 12 + i) + offset)));
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

/* Copies four activations, or two sums of activations, to every lane. */
static ALWAYS_INLINE __m512i few_same(const void *from)
{
    int32_t word;
    memcpy(&word, from, sizeof word);
    return _mm512_set1_epi32(word);
}

static ALWAYS_INLINE few_ints few_dot(few_ints start, const few_ints *quants, const int8_t *x, const int count,
                                      const int most)
{
    (void)most;
#pragma GCC unroll 8
    for (int k = 0; k < count; k++)
        start = _mm512_dpbusd_epi32(start, quants[k], few_same(x + 4 * k));
    return start;
}

static ALWAYS_INLINE few_ints few_scale(few_ints scale)
{
    return scale;
}

static ALWAYS_INLINE few_ints few_part(few_ints total, const few_ints *quants, const int8_t *x, const int count,
                                       const int most, few_ints scale)
{
    few_ints dot = few_dot(_mm512_setzero_si512(), quants, x, count, most);
    return _mm512_add_epi32(total, _mm512_mullo_epi32(dot, scale));
}

static ALWAYS_INLINE few_ints few_pair(few_ints a, few_ints b)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaau, a, _mm512_slli_epi32(b, 16));
}

static ALWAYS_INLINE few_ints few_pairs(const few_ints *pairs, const int16_t *sums, const int count)
{
    __m512i sum = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int i = 0; i < count; i++)
        sum = _mm512_dpwssd_epi32(sum, pairs[i], few_same(sums + 2 * i));
    return sum;
}

/* Sums of 32 activations, from sums of 16. */
static ALWAYS_INLINE void few_part_sums(int16_t parts[8], const int16_t *sums)
{
    _mm_store_si128((void *)parts,
                    _mm_hadd_epi16(_mm_loadu_si128((const void *)sums), _mm_loadu_si128((const void *)(sums + 8))));
}

static ALWAYS_INLINE few_ints few_with_sign(few_ints quants)
{
    return _mm512_xor_si512(quants, _mm512_set1_epi8(-128));
}

static ALWAYS_INLINE few_ints few_table(const int8_t *codes, int raised)
{
    return _mm512_broadcast_i32x4(_mm_add_epi8(_mm_loadu_si128((const void *)codes), _mm_set1_epi8((char)raised)));
}

static ALWAYS_INLINE few_ints few_look_up(few_ints table, few_ints index)
{
    return _mm512_shuffle_epi8(table, index);
}

static ALWAYS_INLINE few_ints few_fifth(few_ints bits, const int k)
{
    const __m512i byte = _mm512_broadcast_i32x4(_mm_setr_epi32(0x01010101 * (k / 2), 0x01010101 * (4 + k / 2),
                                                               0x01010101 * (8 + k / 2), 0x01010101 * (12 + k / 2)));
    __m512i nibble = k % 2 ? _mm512_set1_epi32((int)0x80402010u) : _mm512_set1_epi32(0x08040201);
    return _mm512_maskz_set1_epi8(_mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, byte), nibble), 16);
}

static ALWAYS_INLINE few_floats few_halves(few_ints a)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(a));
}

static ALWAYS_INLINE few_floats few_load_halves(const uint16_t *from)
{
    return _mm512_cvtph_ps(_mm256_load_si256((const void *)from));
}

static ALWAYS_INLINE few_floats few_exponents(few_ints a)
{
    __m512i e = _mm512_and_si512(a, _mm512_set1_epi32(255));
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __mmask16 subnormal = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(_mm512_mask_sllv_epi32(normal, subnormal, _mm512_set1_epi32(0x00200000), e));
}

static ALWAYS_INLINE few_floats few_load_floats(const float *from)
{
    return _mm512_load_ps(from);
}

static ALWAYS_INLINE void few_store_floats(float *to, few_floats a)
{
    _mm512_store_ps(to, a);
}

/* sum + (d * scale) * total; few_take: sum - (d * scale) * total. */
static ALWAYS_INLINE few_floats few_add(few_floats sum, few_floats d, float scale, few_ints total)
{
    return _mm512_fmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(scale)), _mm512_cvtepi32_ps(total), sum);
}

static ALWAYS_INLINE few_floats few_take(few_floats sum, few_floats d, float scale, few_ints total)
{
    return _mm512_fnmadd_ps(_mm512_mul_ps(d, _mm512_set1_ps(scale)), _mm512_cvtepi32_ps(total), sum);
}

#endif
