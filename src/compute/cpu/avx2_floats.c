/* AVX2: matrix times vector for F32, F16 and BF16, four rows at a time; and preparing activations. */
#include "compute/cpu/avx2.h"
#include "core/half.h"

/* The operations that floats_gemv.h needs from an instruction set. */
typedef struct {
    __m256 low, high;
} sixteen;

static ALWAYS_INLINE sixteen sixteen_zero(void)
{
    return (sixteen){_mm256_setzero_ps(), _mm256_setzero_ps()};
}

static ALWAYS_INLINE float sixteen_fold(sixteen sums)
{
    return fold_16(sums.low, sums.high);
}

static ALWAYS_INLINE sixteen sixteen_add(sixteen sums, sixteen a, sixteen b)
{
    return (sixteen){_mm256_fmadd_ps(a.low, b.low, sums.low), _mm256_fmadd_ps(a.high, b.high, sums.high)};
}

static ALWAYS_INLINE sixteen load_f32(const uint8_t *row)
{
    return (sixteen){_mm256_loadu_ps((const void *)row), _mm256_loadu_ps((const void *)(row + 32))};
}

static ALWAYS_INLINE sixteen load_f16(const uint8_t *row)
{
    return (sixteen){_mm256_cvtph_ps(load_128(row)), _mm256_cvtph_ps(load_128(row + 16))};
}

/* Adds the products of eight pairs to eight sums: the odd column of each pair, then the even one. */
static ALWAYS_INLINE __m256 add_pairs(__m256 sum, __m256i weights, __m256i x)
{
    const __m256i odd = _mm256_set1_epi32((int)0xffff0000u);
    sum = _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(weights, odd)),
                          _mm256_castsi256_ps(_mm256_and_si256(x, odd)), sum);
    return _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(weights, 16)),
                           _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)), sum);
}

static ALWAYS_INLINE void bf16_step(sixteen *sums, struct four_rows *at, const uint16_t *x)
{
    __m256i low = load_256(x), high = load_256(x + 16);
    for (int i = 0; i < 4; i++) {
        sums[i].low = add_pairs(sums[i].low, load_256(at->at[i]), low);
        sums[i].high = add_pairs(sums[i].high, load_256(at->at[i] + 32), high);
        at->at[i] += 64;
    }
}

#include "compute/cpu/floats_gemv.h"

static void dequantize_f16(float *out, const uint8_t *blocks, size_t elements)
{
    size_t i = 0;
    for (; i + 8 <= elements; i += 8)
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(load_128(blocks + 2 * i)));
    for (; i < elements; i++) {
        uint16_t half;
        memcpy(&half, blocks + 2 * i, sizeof half);
        out[i] = _cvtsh_ss(half);
    }
}

/* ---- activations ------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE float greatest_of(__m256 values)
{
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

/* Rounds 32 scaled values to bytes. */
static ALWAYS_INLINE __m256i quantize_32(const float *values, __m256 inverse)
{
    const __m256 one_and_a_half = _mm256_set1_ps(12582912.0f); /* 1.5 * 2^23: the sum's low bits are the integer */
    __m256i rounded[4];
    for (int i = 0; i < 4; i++) {
        __m256 sum = _mm256_add_ps(_mm256_mul_ps(_mm256_loadu_ps(values + 8 * i), inverse), one_and_a_half);
        rounded[i] = _mm256_sub_epi32(_mm256_castps_si256(sum), _mm256_castps_si256(one_and_a_half));
    }
    __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(rounded[0], rounded[1]), _mm256_packs_epi32(rounded[2], rounded[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static ALWAYS_INLINE void prepare(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns,
                                  size_t block)
{
    for (size_t c = 0; c < align_up(columns, ACTIVATION_PADDING); c += block) {
        float copy[256];
        const float *in = values + c;
        if (c + block > columns) {
            size_t count = c < columns ? columns - c : 0;
            memset(copy, 0, sizeof copy);
            memcpy(copy, values + MIN(c, columns), count * sizeof *copy);
            in = copy;
        }
        __m256 greatest = _mm256_setzero_ps();
        for (size_t i = 0; i < block; i += 8)
            greatest = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_loadu_ps(in + i)), greatest);
        float most = greatest_of(greatest);
        *scales++ = most / 127.0f;
        __m256 inverse = _mm256_set1_ps(most > 0 ? 127.0f / most : 0);
        for (size_t i = 0; i < block; i += 32) {
            __m256i bytes = quantize_32(in + i, inverse);
            _mm256_storeu_si256((void *)(quants + c + i), bytes);
            __m256i fours = _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes), _mm256_set1_epi16(1));
            __m256i eights = _mm256_hadd_epi32(fours, fours);
            __m256i sixteens = _mm256_hadd_epi32(eights, eights);
            int low = _mm256_extract_epi32(sixteens, 0), high = _mm256_extract_epi32(sixteens, 4);
            if (block == 32) {
                *sums++ = (int16_t)(low + high);
            } else {
                *sums++ = (int16_t)low;
                *sums++ = (int16_t)high;
            }
        }
    }
}

static void prepare_q8_32(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns)
{
    prepare(quants, scales, sums, values, columns, 32);
}

static void prepare_q8_256(int8_t *quants, float *scales, int16_t *sums, const float *values, size_t columns)
{
    prepare(quants, scales, sums, values, columns, 256);
}

static void store_half(uint16_t *out, const float *values, size_t count)
{
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        _mm_storeu_si128((void *)(out + i), _mm256_cvtps_ph(_mm256_loadu_ps(values + i), _MM_FROUND_TO_NEAREST_INT));
    for (; i < count; i++)
        out[i] = float_to_half(values[i]);
}

const struct kernel_table kernels_avx2_floats = {
    .types[TENSOR_F32] = {.gemv = gemv_f32},
    .types[TENSOR_F16] = {.gemv = gemv_f16, .dequantize = dequantize_f16},
    .types[TENSOR_BF16] = {.gemv = gemv_bf16},
    .store_half = store_half,
    .prepare_q8_32 = prepare_q8_32,
    .prepare_q8_256 = prepare_q8_256,
};
