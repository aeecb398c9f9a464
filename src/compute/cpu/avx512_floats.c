/* AVX-512: matrix times vector for F32 and F16; and preparing activations. */
#include "compute/cpu/avx512.h"

static ALWAYS_INLINE __mmask16 first_16(size_t count)
{
    return count < 16 ? (__mmask16)((1u << count) - 1) : (__mmask16)-1;
}

static ALWAYS_INLINE __m512 load_f16(const uint8_t *row, size_t column)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)(row + 2 * column)));
}

static ALWAYS_INLINE __m512 load_part_f16(const uint8_t *row, size_t column, __mmask16 mask)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, row + 2 * column));
}

static ALWAYS_INLINE struct float_values values_16(const struct activation_row *x, size_t column, size_t left)
{
    return (struct float_values){.first = left < 16 ? _mm512_maskz_loadu_ps(first_16(left), x->floats + column)
                                                    : _mm512_loadu_ps(x->floats + column)};
}

static ALWAYS_INLINE struct float_values values_32(const struct activation_row *x, size_t column, size_t left)
{
    struct float_values out = values_16(x, column, left);
    if (left > 16)
        out.second = values_16(x, column + 16, left - 16).first;
    return out;
}

static ALWAYS_INLINE __m512 step_f32(__m512 sum, const uint8_t *row, size_t left, struct float_values values)
{
    __m512 weights = left < 16 ? _mm512_maskz_loadu_ps(first_16(left), row) : _mm512_loadu_ps(row);
    return _mm512_fmadd_ps(weights, values.first, sum);
}

static ALWAYS_INLINE __m512 step_f16(__m512 sum, const uint8_t *row, size_t left, struct float_values values)
{
    sum = _mm512_fmadd_ps(left < 16 ? load_part_f16(row, 0, first_16(left)) : load_f16(row, 0), values.first, sum);
    if (left <= 16)
        return sum;
    return _mm512_fmadd_ps(left < 32 ? load_part_f16(row, 16, first_16(left - 16)) : load_f16(row, 16), values.second,
                           sum);
}

static void gemv_f32(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                     const struct activation_row *x)
{
    float_gemv(out, weights, row_bytes, rows, columns, x, 4, values_16, step_f32);
}

static void gemv_f16(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                     const struct activation_row *x)
{
    float_gemv(out, weights, row_bytes, rows, columns, x, 2, values_32, step_f16);
}

static void dequantize_f16(float *out, const uint8_t *blocks, size_t elements)
{
    size_t i = 0;
    for (; i + 16 <= elements; i += 16)
        _mm512_storeu_ps(out + i, load_f16(blocks, i));
    if (i < elements) {
        __mmask16 mask = (__mmask16)((1u << (elements - i)) - 1);
        _mm512_mask_storeu_ps(out + i, mask, load_part_f16(blocks, i, mask));
    }
}

/* ---- activations ------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE __m512 load_values(const float *values, size_t column, size_t columns)
{
    if (column + 16 <= columns)
        return _mm512_loadu_ps(values + column);
    if (column >= columns)
        return _mm512_setzero_ps();
    return _mm512_maskz_loadu_ps((__mmask16)((1u << (columns - column)) - 1), values + column);
}

/* Sums up each eight consecutive bytes of 256. */
static ALWAYS_INLINE __m512i sums_of_eight(__m512i a, __m512i b, __m512i c, __m512i d)
{
    __m512i zero = _mm512_setzero_si512();
    __m512i words = _mm512_castsi128_si512(_mm512_cvtepi64_epi16(_mm512_sad_epu8(a, zero)));
    words = _mm512_inserti32x4(words, _mm512_cvtepi64_epi16(_mm512_sad_epu8(b, zero)), 1);
    words = _mm512_inserti32x4(words, _mm512_cvtepi64_epi16(_mm512_sad_epu8(c, zero)), 2);
    return _mm512_inserti32x4(words, _mm512_cvtepi64_epi16(_mm512_sad_epu8(d, zero)), 3);
}

/* Sums up the parts of 256 quants. For unsigned sums, the quants are raised by 128 meanwhile. */
static ALWAYS_INLINE void sum_parts(int16_t *sums, const int8_t *quants, size_t part)
{
    const __m512i sign = _mm512_set1_epi8(-128);
    __m512i words = sums_of_eight(_mm512_xor_si512(_mm512_loadu_si512(quants), sign),
                                  _mm512_xor_si512(_mm512_loadu_si512(quants + 64), sign),
                                  _mm512_xor_si512(_mm512_loadu_si512(quants + 128), sign),
                                  _mm512_xor_si512(_mm512_loadu_si512(quants + 192), sign));
    __m512i of_16 = _mm512_madd_epi16(words, _mm512_set1_epi16(1));
    if (part == 16) {
        of_16 = _mm512_sub_epi32(of_16, _mm512_set1_epi32(128 * 16));
        _mm256_storeu_si256((void *)sums, _mm512_cvtepi32_epi16(of_16));
    } else {
        __m512i of_32 = _mm512_add_epi32(of_16, _mm512_srli_epi64(of_16, 32));
        _mm_storeu_si128((void *)sums, _mm_sub_epi16(_mm512_cvtepi64_epi16(of_32), _mm_set1_epi16(128 * 32)));
    }
}

/* Blocks have 16 * vectors values. */
static ALWAYS_INLINE void prepare(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns,
                                  size_t vectors, size_t part)
{
    const __m512 one_and_a_half = _mm512_set1_ps(12582912.0f); /* 1.5 * 2^23: the sum's low bits are the integer */
    size_t padded = align_up(columns, ACTIVATION_PADDING);
    for (size_t c = 0; c < padded; c += 16 * vectors) {
        __m512 in[16], greatest = _mm512_setzero_ps();
        for (size_t i = 0; i < vectors; i++) {
            in[i] = load_values(values, c + 16 * i, columns);
            greatest = _mm512_max_ps(_mm512_abs_ps(in[i]), greatest);
        }
        float most = _mm512_reduce_max_ps(greatest);
        *scales++ = most / 127.0f;
        __m512 inverse = _mm512_set1_ps(most > 0 ? 127.0f / most : 0);
        for (size_t i = 0; i < vectors; i++) {
            __m512i bits = _mm512_castps_si512(_mm512_add_ps(_mm512_mul_ps(in[i], inverse), one_and_a_half));
            _mm_storeu_si128((void *)(quants + c + 16 * i), _mm512_cvtepi32_epi8(bits));
        }
    }
    for (size_t c = 0; c < padded; c += 256)
        sum_parts(sums + c / part, quants + c, part);
}

static void prepare_q8_32(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns)
{
    prepare(quants, scales, sums, values, columns, 2, 32);
}

static void prepare_q8_256(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns)
{
    prepare(quants, scales, sums, values, columns, 16, 16);
}

static void find_peaks(struct activation_peaks *out, const int8_t *quants, const int16_t *sums)
{
    __m512i words = sums_of_eight(
        _mm512_abs_epi8(_mm512_loadu_si512(quants)), _mm512_abs_epi8(_mm512_loadu_si512(quants + 64)),
        _mm512_abs_epi8(_mm512_loadu_si512(quants + 128)), _mm512_abs_epi8(_mm512_loadu_si512(quants + 192)));
    __m512i of_16 = _mm512_madd_epi16(words, _mm512_set1_epi16(1));
    __m256i both = _mm512_cvtepi64_epi32(_mm512_add_epi32(of_16, _mm512_srli_epi64(of_16, 32)));
    __m256i sum = _mm256_madd_epi16(_mm256_loadu_si256((const void *)sums), _mm256_set1_epi16(1));
    __m256i of_32 = _mm256_srli_epi32(_mm256_add_epi32(both, _mm256_abs_epi32(sum)), 1);
    out->of_16 = (uint16_t)_mm512_reduce_max_epu32(of_16);
    out->of_32 = (uint16_t)_mm512_reduce_max_epu32(_mm512_zextsi256_si512(of_32));
}

static void prepare_bfloat(uint16_t *out, const float *values, size_t columns)
{
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff), infinity = _mm512_set1_epi32(0x7f800000);
    for (size_t c = 0; c < align_up(columns, ACTIVATION_PADDING); c += 16) {
        __m512i bits = _mm512_castps_si512(load_values(values, c, columns));
        __m512i top = _mm512_srli_epi32(bits, 16);
        __m512i odd = _mm512_and_si512(top, _mm512_set1_epi32(1));
        __m512i rounded =
            _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
        __mmask16 nan = _mm512_cmpgt_epi32_mask(_mm512_and_si512(bits, magnitude), infinity);
        rounded = _mm512_mask_or_epi32(rounded, nan, top, _mm512_set1_epi32(0x40));
        _mm256_storeu_si256((void *)(out + c), _mm512_cvtepi32_epi16(rounded));
    }
}

const struct kernel_table kernels_avx512_floats = {
    .types[TENSOR_F32] = {.gemv = gemv_f32},
    .types[TENSOR_F16] = {.gemv = gemv_f16, .dequantize = dequantize_f16},
    .prepare_q8_32 = prepare_q8_32,
    .prepare_q8_256 = prepare_q8_256,
    .find_peaks = find_peaks,
    .prepare_bfloat = prepare_bfloat,
};
