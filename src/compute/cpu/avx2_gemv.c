/* Matrix times vector for all quantised types with 256-bit vectors, built for AVX2 alone and for the dot products of
 * AVX-VNNI. It processes one block of four rows at a time. The four integer sums end up in one register, so a block's
 * float operations are done once for four rows. */
#include "compute/cpu/avx2_parts.h"

typedef struct operands part_function(const uint8_t *block, int j, __m256i x);
typedef __m256i words_function(const uint8_t *block);
typedef __m128 floats_function(const struct four_rows *rows);

#if defined(__AVXVNNI__)

#define KERNELS kernels_avx_vnni_quantized

static ALWAYS_INLINE __m256i add_pairs(__m256i sum, __m256i a, __m256i b)
{
    return _mm256_dpwssd_avx_epi32(sum, a, b);
}

static ALWAYS_INLINE __m256i dot(struct operands operands)
{
    return _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), operands.magnitude, operands.x);
}

#else

#define KERNELS kernels_avx2_quantized

static ALWAYS_INLINE __m256i add_pairs(__m256i sum, __m256i a, __m256i b)
{
    return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
}

static ALWAYS_INLINE __m256i dot(struct operands operands)
{
    return _mm256_madd_epi16(_mm256_maddubs_epi16(operands.magnitude, operands.x), _mm256_set1_epi16(1));
}

#endif

static ALWAYS_INLINE void store_4(float *out, __m128 sums, size_t left)
{
    float values[4];
    _mm_storeu_ps(values, sums);
    memcpy(out, values, MIN(left, (size_t)4) * sizeof *out);
}

/* ---- super-blocks of 256 ----------------------------------------------------------------------------------------- */

/* The scales for sixteen products of pairs: scale 2j for the first eight, scale 2j + 1 for the others. */
static ALWAYS_INLINE __m256i scale_pair(__m256i scales, int j)
{
    __m256i lane = j < 4 ? _mm256_permute4x64_epi64(scales, 0x44) : _mm256_permute4x64_epi64(scales, 0xee);
    short first = (short)(0x0100 + 0x0404 * (j % 4)), second = (short)(first + 0x0202);
    return _mm256_shuffle_epi8(lane, _mm256_set_m128i(_mm_set1_epi16(second), _mm_set1_epi16(first)));
}

static ALWAYS_INLINE __m256i super_dot(const uint8_t *block, const int8_t *x, __m256i sums, int offset,
                                       part_function *part, words_function *scales)
{
    __m256i scale = scales(block);
    __m256i sum = _mm256_setzero_si256();
    for (int j = 0; j < 8; j++) {
        struct operands operands = part(block, j, load_256(x + 32 * j));
        __m256i pairs = _mm256_maddubs_epi16(operands.magnitude, operands.x);
        sum = add_pairs(sum, pairs, scale_pair(scale, j));
    }
    if (offset)
        sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(_mm256_madd_epi16(scale, sums), _mm256_set1_epi32(offset)));
    return sum;
}

static ALWAYS_INLINE void super_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                     const struct activation_row *x, size_t block_bytes, int offset,
                                     part_function *part, words_function *scales, floats_function *d,
                                     words_function *minima, floats_function *m)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 256; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            const int8_t *quants = x->quants + 256 * b;
            __m256i sums = load_256(x->sums + 16 * b), dots[4];
            for (int i = 0; i < 4; i++)
                dots[i] = super_dot(at.at[i], quants, sums, offset, part, scales);
            __m128 scale = _mm_set1_ps(x->scales[b]);
            sum = _mm_fmadd_ps(_mm_mul_ps(d(&at), scale),
                               _mm_cvtepi32_ps(sum_4_256(dots[0], dots[1], dots[2], dots[3])), sum);
            if (minima) {
                for (int i = 0; i < 4; i++)
                    dots[i] = _mm256_madd_epi16(minima(at.at[i]), sums);
                sum = _mm_fnmadd_ps(_mm_mul_ps(m(&at), scale),
                                    _mm_cvtepi32_ps(sum_4_256(dots[0], dots[1], dots[2], dots[3])), sum);
            }
            for (int i = 0; i < 4; i++)
                at.at[i] += block_bytes;
        }
        store_4(out + r, sum, rows - r);
    }
}

#define SUPER_GEMV(name, offset, part, scales, d, minima, m)                                                           \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        super_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_##name), offset, part, scales, d,    \
                   minima, m);                                                                                         \
    }

SUPER_GEMV(q2_k, 0, part_q2_k, scales_q2_k, d_q2_k, minima_q2_k, m_q2_k)
SUPER_GEMV(q3_k, 4, part_q3_k, scales_q3_k, d_q3_k, NULL, NULL)
SUPER_GEMV(q4_k, 0, part_q4_k, scales_k, d_first, minima_k, m_second)
SUPER_GEMV(q5_k, 0, part_q5_k, scales_k, d_first, minima_k, m_second)
SUPER_GEMV(q6_k, 32, part_q6_k, scales_q6_k, d_q6_k, NULL, NULL)
SUPER_GEMV(iq4_xs, 0, part_iq4_xs, scales_iq4_xs, d_first, NULL, NULL)
SUPER_GEMV(tq1_0, 1, part_tq1_0, scales_one, d_tq1_0, NULL, NULL)
SUPER_GEMV(tq2_0, 1, part_tq2_0, scales_one, d_tq2_0, NULL, NULL)
SUPER_GEMV(iq2_xxs, 0, part_iq2_xxs, scales_iq2_xxs, d_eighth, NULL, NULL)
SUPER_GEMV(iq2_xs, 0, part_iq2_xs, scales_iq2_xs, d_eighth, NULL, NULL)
SUPER_GEMV(iq2_s, 0, part_iq2_s, scales_iq2_s, d_eighth, NULL, NULL)
SUPER_GEMV(iq3_xxs, 0, part_iq3_xxs, scales_iq3_xxs, d_quarter, NULL, NULL)
SUPER_GEMV(iq3_s, 0, part_iq3_s, scales_iq3_s, d_first, NULL, NULL)
SUPER_GEMV(iq1_s, 9, part_iq1_s, scales_iq1_s, d_eighth, NULL, NULL)
SUPER_GEMV(iq1_m, 9, part_iq1_m, scales_iq1_m, d_iq1_m, NULL, NULL)

/* ---- blocks of 32 ------------------------------------------------------------------------------------------------ */

static ALWAYS_INLINE void blocks_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                      const struct activation_row *x, size_t block_bytes, int offset,
                                      part_function *part, floats_function *d, floats_function *m)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 32; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            __m256i quants = load_256(x->quants + 32 * b), dots[4];
            for (int i = 0; i < 4; i++)
                dots[i] = dot(part(at.at[i], 0, quants));
            __m128i integer = sum_4_256(dots[0], dots[1], dots[2], dots[3]);
            if (offset)
                integer = _mm_sub_epi32(integer, _mm_set1_epi32(offset * x->sums[b]));
            __m128 scale = _mm_set1_ps(x->scales[b]);
            sum = _mm_fmadd_ps(_mm_mul_ps(d(&at), scale), _mm_cvtepi32_ps(integer), sum);
            if (m)
                sum = _mm_fmadd_ps(_mm_mul_ps(m(&at), scale), _mm_set1_ps(x->sums[b]), sum);
            for (int i = 0; i < 4; i++)
                at.at[i] += block_bytes;
        }
        store_4(out + r, sum, rows - r);
    }
}

#define BLOCKS_GEMV(name, offset, part, d, m)                                                                          \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        blocks_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_##name), offset, part, d, m);       \
    }

BLOCKS_GEMV(q4_0, 8, part_q4_0, d_first, NULL)
BLOCKS_GEMV(q4_1, 0, part_q4_1, d_first, m_second)
BLOCKS_GEMV(q5_0, 16, part_q5_0, d_first, NULL)
BLOCKS_GEMV(q5_1, 0, part_q5_1, d_first, m_second)
BLOCKS_GEMV(q8_0, 0, part_q8_0, d_first, NULL)
BLOCKS_GEMV(iq4_nl, 0, part_iq4_nl, d_first, NULL)
BLOCKS_GEMV(mxfp4, 0, part_mxfp4, d_mxfp4, NULL)

/* ---- NVFP4 ------------------------------------------------------------------------------------------------------- */

/* Adds two parts of four rows. Each 128-bit lane has the integer sums of a part, one per row. */
static ALWAYS_INLINE __m128 nvfp4_parts(__m128 sum, const struct four_rows *rows, int j, const int8_t *quants,
                                        float scale)
{
    __m256i x = load_256(quants), dots[4];
    for (int i = 0; i < 4; i++)
        dots[i] = dot(part_nvfp4(rows->at[i], j, x));
    __m256i sums = _mm256_hadd_epi32(_mm256_hadd_epi32(dots[0], dots[1]), _mm256_hadd_epi32(dots[2], dots[3]));
    __m256 values = _mm256_cvtepi32_ps(sums);
    for (int part = 0; part < 2; part++) {
        size_t at = (size_t)(2 * j + part);
        __m128 d = _mm_setr_ps(scales_ue4m3[rows->at[0][at]], scales_ue4m3[rows->at[1][at]],
                               scales_ue4m3[rows->at[2][at]], scales_ue4m3[rows->at[3][at]]);
        __m128 integers = part ? _mm256_extractf128_ps(values, 1) : _mm256_castps256_ps128(values);
        sum = _mm_fmadd_ps(_mm_mul_ps(d, _mm_set1_ps(scale)), integers, sum);
    }
    return sum;
}

static void gemv_nvfp4(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                       const struct activation_row *x)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 64; b++) {
            prefetch_more(&ahead, 4 * sizeof(struct block_nvfp4));
            for (int j = 0; j < 2; j++)
                sum = nvfp4_parts(sum, &at, j, x->quants + 64 * b + 32 * j, x->scales[2 * b + (size_t)j]);
            for (int i = 0; i < 4; i++)
                at.at[i] += sizeof(struct block_nvfp4);
        }
        store_4(out + r, sum, rows - r);
    }
}

const struct kernel_table KERNELS = {
    .types[TENSOR_Q4_0] = {.gemv = gemv_q4_0},
    .types[TENSOR_Q4_1] = {.gemv = gemv_q4_1},
    .types[TENSOR_Q5_0] = {.gemv = gemv_q5_0},
    .types[TENSOR_Q5_1] = {.gemv = gemv_q5_1},
    .types[TENSOR_Q8_0] = {.gemv = gemv_q8_0},
    .types[TENSOR_IQ4_NL] = {.gemv = gemv_iq4_nl},
    .types[TENSOR_MXFP4] = {.gemv = gemv_mxfp4},
    .types[TENSOR_NVFP4] = {.gemv = gemv_nvfp4},
    .types[TENSOR_Q2_K] = {.gemv = gemv_q2_k},
    .types[TENSOR_Q3_K] = {.gemv = gemv_q3_k},
    .types[TENSOR_Q4_K] = {.gemv = gemv_q4_k},
    .types[TENSOR_Q5_K] = {.gemv = gemv_q5_k},
    .types[TENSOR_Q6_K] = {.gemv = gemv_q6_k},
    .types[TENSOR_IQ1_S] = {.gemv = gemv_iq1_s},
    .types[TENSOR_IQ1_M] = {.gemv = gemv_iq1_m},
    .types[TENSOR_IQ2_XXS] = {.gemv = gemv_iq2_xxs},
    .types[TENSOR_IQ2_XS] = {.gemv = gemv_iq2_xs},
    .types[TENSOR_IQ2_S] = {.gemv = gemv_iq2_s},
    .types[TENSOR_IQ3_XXS] = {.gemv = gemv_iq3_xxs},
    .types[TENSOR_IQ3_S] = {.gemv = gemv_iq3_s},
    .types[TENSOR_IQ4_XS] = {.gemv = gemv_iq4_xs},
    .types[TENSOR_TQ1_0] = {.gemv = gemv_tq1_0},
    .types[TENSOR_TQ2_0] = {.gemv = gemv_tq2_0},
};
