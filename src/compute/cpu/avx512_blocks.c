/* AVX-512 with VNNI: matrix times vector for blocks of 32.
 *
 * Four blocks of four rows at a time. Their sixteen integers come out in one register, block k in 128-bit lane k and
 * rows side by side, so that conversion and scales are done once for all, and the four sums that must follow each other
 * are one operation a block. Quants are made unsigned by adding an offset; what that adds to the sum is taken off by
 * the sums of the activations. */
#include "compute/cpu/avx512.h"

#define STEP 4 /* blocks */

struct blocks_activation {
    __m512i quants[2]; /* in the order of the columns */
    __m512i low, high; /* first and second half of each of the four blocks, one a lane */
    __m512i sums;      /* 32 bits, four times in lane k: the sum of block k */
};

/* Lane sums of what one row's four blocks give, before the offset is taken off. */
typedef __m512i blocks_dot(const uint8_t *blocks, const struct blocks_activation *x);
/* The scales of four blocks of four rows: block k in lane k, rows side by side. */
typedef __m512 blocks_scales(const struct four_rows *rows);

static ALWAYS_INLINE __m512 lanes_of(const float *values)
{
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(index, _mm512_castps128_ps512(_mm_loadu_ps(values)));
}

static ALWAYS_INLINE __m512i lanes_of_16(const int16_t *values)
{
    const __m512i index = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    __m128i wide = _mm_cvtepi16_epi32(_mm_loadl_epi64((const void *)values));
    return _mm512_permutexvar_epi32(index, _mm512_castsi128_si512(wide));
}

/* Four blocks onto the sums of four rows; only the first valid ones count. */
static ALWAYS_INLINE __m128 blocks_step(__m128 sum, const struct four_rows *rows, const struct activation_row *x,
                                        size_t b, size_t valid, int offset, blocks_dot *dot, blocks_scales *scales)
{
    struct blocks_activation four;
    four.quants[0] = _mm512_loadu_si512(x->quants + 32 * b);
    four.quants[1] = _mm512_loadu_si512(x->quants + 32 * b + 64);
    four.low = even_lanes(four.quants[0], four.quants[1]);
    four.high = odd_lanes(four.quants[0], four.quants[1]);
    four.sums = lanes_of_16(x->sums + b);
    __m512i integers =
        sum_lanes_4(dot(rows->at[0], &four), dot(rows->at[1], &four), dot(rows->at[2], &four), dot(rows->at[3], &four));
    integers = _mm512_sub_epi32(integers, _mm512_mullo_epi32(four.sums, _mm512_set1_epi32(offset)));
    __m512 values = _mm512_cvtepi32_ps(integers);
    __m512 factors = _mm512_mul_ps(scales(rows), lanes_of(x->scales + b));
    sum = _mm_fmadd_ps(_mm512_castps512_ps128(factors), _mm512_castps512_ps128(values), sum);
    if (valid > 1)
        sum = _mm_fmadd_ps(_mm512_extractf32x4_ps(factors, 1), _mm512_extractf32x4_ps(values, 1), sum);
    if (valid > 2)
        sum = _mm_fmadd_ps(_mm512_extractf32x4_ps(factors, 2), _mm512_extractf32x4_ps(values, 2), sum);
    if (valid > 3)
        sum = _mm_fmadd_ps(_mm512_extractf32x4_ps(factors, 3), _mm512_extractf32x4_ps(values, 3), sum);
    return sum;
}

static ALWAYS_INLINE void blocks_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                      const struct activation_row *x, size_t block_bytes, int offset, blocks_dot *dot,
                                      blocks_scales *scales)
{
    size_t blocks = columns / 32;
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        ahead.next = weights + (r + 4) * row_bytes;
        __m128 sum = _mm_setzero_ps();
        size_t b = 0;
        for (; b + STEP <= blocks; b += STEP) {
            prefetch_more(&ahead, 4 * STEP * block_bytes);
            sum = blocks_step(sum, &at, x, b, STEP, offset, dot, scales);
            for (int i = 0; i < 4; i++)
                at.at[i] += STEP * block_bytes;
        }
        if (b < blocks) {
            /* The last few from a copy, so that nothing is read past the row. */
            uint8_t copy[4][STEP * 40] = {0};
            for (int i = 0; i < 4; i++) {
                memcpy(copy[i], at.at[i], (blocks - b) * block_bytes);
                at.at[i] = copy[i];
            }
            sum = blocks_step(sum, &at, x, b, blocks - b, offset, dot, scales);
        }
        store_4(out + r, sum, rows - r);
    }
}

#define BLOCKS_GEMV(name, block, offset, dot, scales)                                                                  \
    static void name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,                \
                     const struct activation_row *x)                                                                   \
    {                                                                                                                  \
        blocks_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block), offset, dot, scales);             \
    }

/* Joins for two rows each what a 16-bit permutation picks: words 4k and 4k + 1 of one, 4k + 2 and 4k + 3 of the other,
 * halves to floats. */
static ALWAYS_INLINE __m512 join_halves(__m512i rows01, __m512i rows23)
{
    __m256i halves = _mm256_blend_epi32(_mm512_castsi512_si256(rows01), _mm512_castsi512_si256(rows23), 0xaa);
    return _mm512_cvtph_ps(halves);
}

/* 16-bit words of [first | second], the second counted from 32: word w0 to w3 of each, in pairs, each pair twice. */
#define WORD_PAIRS(w0, w1, w2, w3)                                                                                     \
    _mm512_castsi256_si512(_mm256_setr_epi16(w0, 32 + (w0), w0, 32 + (w0), w1, 32 + (w1), w1, 32 + (w1), w2,           \
                                             32 + (w2), w2, 32 + (w2), w3, 32 + (w3), w3, 32 + (w3)))

/* ---- Q4_0 ---------------------------------------------------------------------------------------------------------
 */

static ALWAYS_INLINE __m512i dot_nibbles(__m512i bytes, const struct blocks_activation *x)
{
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i sum = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_and_si512(bytes, mask), x->low);
    return _mm512_dpbusd_epi32(sum, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask), x->high);
}

/* Four blocks of 18 bytes are 36 words: two loads cover them. */
static ALWAYS_INLINE __m512i quants_18(const uint8_t *blocks)
{
    const __m512i index = _mm512_set_epi16(63, 62, 61, 60, 59, 58, 57, 56, 26, 25, 24, 23, 22, 21, 20, 19, 17, 16, 15,
                                           14, 13, 12, 11, 10, 8, 7, 6, 5, 4, 3, 2, 1);
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(blocks), index, _mm512_loadu_si512(blocks + 8));
}

static ALWAYS_INLINE __m512 scales_18(const struct four_rows *rows)
{
    const __m512i index = WORD_PAIRS(0, 9, 18, 27);
    return join_halves(
        _mm512_permutex2var_epi16(_mm512_loadu_si512(rows->at[0]), index, _mm512_loadu_si512(rows->at[1])),
        _mm512_permutex2var_epi16(_mm512_loadu_si512(rows->at[2]), index, _mm512_loadu_si512(rows->at[3])));
}

static ALWAYS_INLINE __m512i q4_0_dot(const uint8_t *blocks, const struct blocks_activation *x)
{
    return dot_nibbles(quants_18(blocks), x);
}

BLOCKS_GEMV(gemv_q4_0, block_q4_0, 8, q4_0_dot, scales_18)

/* ---- Q8_0 ---------------------------------------------------------------------------------------------------------
 */

static ALWAYS_INLINE __m512i two_blocks(const uint8_t *a, const uint8_t *b)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const void *)a)),
                              _mm256_loadu_si256((const void *)b), 1);
}

static ALWAYS_INLINE __m512i q8_0_dot(const uint8_t *blocks, const struct blocks_activation *x)
{
    const __m512i flip = _mm512_set1_epi8(-128);
    __m512i a = _mm512_xor_si512(two_blocks(blocks + 2, blocks + 36), flip);
    __m512i b = _mm512_xor_si512(two_blocks(blocks + 70, blocks + 104), flip);
    a = _mm512_dpbusd_epi32(_mm512_setzero_si512(), a, x->quants[0]);
    b = _mm512_dpbusd_epi32(_mm512_setzero_si512(), b, x->quants[1]);
    return _mm512_add_epi32(even_lanes(a, b), odd_lanes(a, b));
}

/* Scales are words 0, 17, 34 and 51 of 68. */
static ALWAYS_INLINE __m512i q8_0_row_scales(const uint8_t *blocks)
{
    const __m512i index =
        _mm512_castsi256_si512(_mm256_setr_epi16(0, 0, 0, 0, 17, 17, 17, 17, 34, 34, 34, 34, 51, 51, 51, 51));
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(blocks), index, _mm512_loadu_si512(blocks + 64));
}

static ALWAYS_INLINE __m512 q8_0_scales(const struct four_rows *rows)
{
    __m512i rows01 = _mm512_mask_blend_epi16(0x2222, q8_0_row_scales(rows->at[0]), q8_0_row_scales(rows->at[1]));
    __m512i rows23 = _mm512_mask_blend_epi16(0x8888, q8_0_row_scales(rows->at[2]), q8_0_row_scales(rows->at[3]));
    return join_halves(rows01, rows23);
}

BLOCKS_GEMV(gemv_q8_0, block_q8_0, 128, q8_0_dot, q8_0_scales)

void kernels_avx512_blocks(struct kernel_table *table)
{
    table->types[TENSOR_Q4_0].gemv = gemv_q4_0;
    table->types[TENSOR_Q8_0].gemv = gemv_q8_0;
}
