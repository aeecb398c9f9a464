/* Matrix times vector for all quantised types with 256-bit vectors, built for AVX2 alone and for the dot products of
 * AVX-VNNI. It processes a super-block of four rows at a time, or two blocks of 32. All their integer sums end up in
 * one register, so the float operations are done once. Processors have fewer ports for shuffles and shifts than for
 * other operations, so the kernels use few of these. */
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

/* Otherwise gcc would add up all products at the end, with most of them in memory until then. */
#define IN_REGISTER(vector) __asm__("" : "+x"(vector))

static ALWAYS_INLINE void store_4(float *out, __m128 sums, size_t left)
{
    float values[4];
    _mm_storeu_ps(values, sums);
    memcpy(out, values, MIN(left, (size_t)4) * sizeof *out);
}

/* ---- super-blocks of 256 ----------------------------------------------------------------------------------------- */

/* The scales for the sixteen sums of pairs of part j: the j-th of eight; or of sixteen the 2j-th for the first eight
 * sums and the next one for the others. */
static ALWAYS_INLINE __m256i part_scale(__m256i scales, int count, int j)
{
    if (count == 8)
        return _mm256_shuffle_epi8(scales, _mm256_set1_epi16((short)(0x0100 + 0x0202 * j)));
    __m256i lane = j < 4 ? _mm256_permute4x64_epi64(scales, 0x44) : _mm256_permute4x64_epi64(scales, 0xee);
    short first = (short)(0x0100 + 0x0404 * (j % 4)), second = (short)(first + 0x0202);
    return _mm256_shuffle_epi8(lane, _mm256_set_m128i(_mm_set1_epi16(second), _mm_set1_epi16(first)));
}

/* dots[i]: the sums of a super-block of row i. */
static ALWAYS_INLINE void super_dots(__m256i dots[4], const struct four_rows *rows, const int8_t *quants,
                                     const __m256i scales[4], int count, part_function *part)
{
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        dots[i] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        __m256i x = load_256(quants + 32 * j);
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++) {
            struct operands operands = part(rows->at[i], j, x);
            __m256i pairs = _mm256_maddubs_epi16(operands.magnitude, operands.x);
            dots[i] = add_pairs(dots[i], pairs, part_scale(scales[i], count, j));
            IN_REGISTER(dots[i]);
        }
    }
}

static ALWAYS_INLINE __m128 sums_of(const __m256i dots[4])
{
    return _mm_cvtepi32_ps(sum_4_256(dots[0], dots[1], dots[2], dots[3]));
}

static ALWAYS_INLINE void super_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                     const struct activation_row *x, size_t block_bytes, int offset,
                                     part_function *part, int count, words_function *scales, floats_function *d,
                                     words_function *minima, floats_function *m)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 256; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            __m256i sums = load_256(x->sums + 16 * b), scale[4], dots[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                scale[i] = scales(at.at[i]);
            super_dots(dots, &at, x->quants + 256 * b, scale, count, part);
#pragma GCC unroll 4
            for (int i = 0; offset && i < 4; i++)
                dots[i] = _mm256_sub_epi32(
                    dots[i], _mm256_mullo_epi32(_mm256_madd_epi16(scale[i], sums), _mm256_set1_epi32(offset)));
            __m128 activation = _mm_set1_ps(x->scales[b]);
            sum = _mm_fmadd_ps(_mm_mul_ps(d(&at), activation), sums_of(dots), sum);
            if (minima) {
#pragma GCC unroll 4
                for (int i = 0; i < 4; i++)
                    dots[i] = _mm256_madd_epi16(minima(at.at[i]), sums);
                sum = _mm_fnmadd_ps(_mm_mul_ps(m(&at), activation), sums_of(dots), sum);
            }
            four_rows_advance(&at, block_bytes);
        }
        store_4(out + r, sum, rows - r);
    }
}

/* The sums of minima of four rows times sums of 32 quants. */
static ALWAYS_INLINE __m128i minima_4(const __m256i scales_minima[4], __m256i sums)
{
    __m256i two = _mm256_hadd_epi16(sums, sums); /* each lane has four, twice */
    __m256i eight = _mm256_permute4x64_epi64(two, _MM_SHUFFLE(2, 0, 2, 0));
    __m256i ab = _mm256_madd_epi16(_mm256_permute2x128_si256(scales_minima[0], scales_minima[1], 0x31), eight);
    __m256i cd = _mm256_madd_epi16(_mm256_permute2x128_si256(scales_minima[2], scales_minima[3], 0x31), eight);
    __m256i ac_bd = _mm256_add_epi32(_mm256_unpacklo_epi32(ab, cd), _mm256_unpackhi_epi32(ab, cd));
    ac_bd = _mm256_add_epi32(ac_bd, _mm256_shuffle_epi32(ac_bd, _MM_SHUFFLE(1, 0, 3, 2)));
    return _mm_unpacklo_epi32(_mm256_castsi256_si128(ac_bd), _mm256_extracti128_si256(ac_bd, 1));
}

/* Q4_K and Q5_K. */
static ALWAYS_INLINE void k_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                 const struct activation_row *x, size_t block_bytes, part_function *part)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 256; b++) {
            prefetch_more(&ahead, 4 * block_bytes);
            __m256i scales[4], dots[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                scales[i] = scales_minima_k(at.at[i]);
            __m128 minima = _mm_cvtepi32_ps(minima_4(scales, load_256(x->sums + 16 * b)));
#pragma GCC unroll 4
            for (int i = 0; i < 4; i++)
                scales[i] = _mm256_permute4x64_epi64(scales[i], _MM_SHUFFLE(1, 0, 1, 0));
            super_dots(dots, &at, x->quants + 256 * b, scales, 8, part);
            __m128 scale = _mm_set1_ps(x->scales[b]);
            sum = _mm_fmadd_ps(_mm_mul_ps(d_first(&at), scale), sums_of(dots), sum);
            sum = _mm_fnmadd_ps(_mm_mul_ps(m_second(&at), scale), minima, sum);
            four_rows_advance(&at, block_bytes);
        }
        store_4(out + r, sum, rows - r);
    }
}

#define SUPER_GEMV(name, offset, part, count, scales, d, minima, m)                                                    \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        super_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_##name), offset, part, count,        \
                   scales, d, minima, m);                                                                              \
    }

SUPER_GEMV(q2_k, 0, part_q2_k, 16, scales_q2_k, d_q2_k, minima_q2_k, m_q2_k)
SUPER_GEMV(q3_k, 4, part_q3_k, 16, scales_q3_k, d_q3_k, NULL, NULL)
SUPER_GEMV(q6_k, 32, part_q6_k, 16, scales_q6_k, d_q6_k, NULL, NULL)
SUPER_GEMV(iq4_xs, 0, part_iq4_xs, 8, scales_iq4_xs, d_first, NULL, NULL)
SUPER_GEMV(tq1_0, 1, part_tq1_0, 16, scales_one, d_tq1_0, NULL, NULL)
SUPER_GEMV(tq2_0, 1, part_tq2_0, 16, scales_one, d_tq2_0, NULL, NULL)
SUPER_GEMV(iq2_xxs, 0, part_iq2_xxs, 16, scales_iq2_xxs, d_eighth, NULL, NULL)
SUPER_GEMV(iq2_xs, 0, part_iq2_xs, 16, scales_iq2_xs, d_eighth, NULL, NULL)
SUPER_GEMV(iq2_s, 0, part_iq2_s, 16, scales_iq2_s, d_eighth, NULL, NULL)
SUPER_GEMV(iq3_xxs, 0, part_iq3_xxs, 16, scales_iq3_xxs, d_quarter, NULL, NULL)
SUPER_GEMV(iq3_s, 0, part_iq3_s, 16, scales_iq3_s, d_first, NULL, NULL)
SUPER_GEMV(iq1_s, 9, part_iq1_s, 16, scales_iq1_s, d_eighth, NULL, NULL)
SUPER_GEMV(iq1_m, 9, part_iq1_m, 16, scales_iq1_m, d_iq1_m, NULL, NULL)

#define K_GEMV(name)                                                                                                   \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        k_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block_##name), part_##name);                   \
    }

K_GEMV(q4_k)
K_GEMV(q5_k)

/* ---- blocks of 32 ------------------------------------------------------------------------------------------------ */

/* A pair of blocks of 32 in each of four rows, this many bytes apart: the low half of a vector belongs to the first
 * one. */
typedef __m256 pair_function(const struct four_rows *rows, size_t apart);

/* How blocks of a type become numbers: struct operands and their offset, scales, minima (or NULL). */
struct block_kind {
    size_t bytes;
    int offset;
    part_function *part;
    pair_function *d, *m;
};

static ALWAYS_INLINE __m256i pair_dots(const struct four_rows *rows, size_t apart, const int8_t *first,
                                       const int8_t *second, part_function *part)
{
    const int8_t *quants[2] = {first, second};
    __m256i sums[2];
#pragma GCC unroll 2
    for (size_t b = 0; b < 2; b++) {
        __m256i x = load_256(quants[b]), dots[4];
#pragma GCC unroll 4
        for (int i = 0; i < 4; i++)
            dots[i] = dot(part(rows->at[i] + b * apart, 0, x));
        sums[b] = sum_4_lanes(dots[0], dots[1], dots[2], dots[3]);
    }
    return _mm256_add_epi32(_mm256_permute2x128_si256(sums[0], sums[1], 0x20),
                            _mm256_permute2x128_si256(sums[0], sums[1], 0x31));
}

/* factor times the sums of quants of a pair, or of one block. */
static ALWAYS_INLINE __m256i pair_sums(const int16_t *sums, size_t count, int factor)
{
    const __m256i factors = _mm256_set_m128i(_mm_set1_epi32((int)((uint32_t)factor << 16)), _mm_set1_epi32(factor));
    uint32_t both = 0;
    memcpy(&both, sums, count * sizeof *sums);
    return _mm256_madd_epi16(_mm256_set1_epi32((int)both), factors);
}

static ALWAYS_INLINE __m256 pair_scales(const float *scales, size_t count)
{
    double both = 0;
    memcpy(&both, scales, count * sizeof *scales);
    return _mm256_permutevar_ps(_mm256_castpd_ps(_mm256_set1_pd(both)), _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1));
}

static ALWAYS_INLINE __m128 add_product(__m128 sum, __m256 a, __m256 b, int half)
{
    return half ? _mm_fmadd_ps(_mm256_extractf128_ps(a, 1), _mm256_extractf128_ps(b, 1), sum)
                : _mm_fmadd_ps(_mm256_castps256_ps128(a), _mm256_castps256_ps128(b), sum);
}

/* Adds two blocks, or the last one alone, which then stands for both. */
static ALWAYS_INLINE __m128 add_blocks(__m128 sum, const struct four_rows *rows, const struct activation_row *x,
                                       size_t block, size_t count, const struct block_kind kind)
{
    const size_t apart = (count - 1) * kind.bytes;
    const int8_t *quants = x->quants + 32 * block;
    __m256i integers = pair_dots(rows, apart, quants, quants + 32 * (count - 1), kind.part);
    if (kind.offset)
        integers = _mm256_sub_epi32(integers, pair_sums(x->sums + block, count, kind.offset));
    __m256 scale = pair_scales(x->scales + block, count), values = _mm256_cvtepi32_ps(integers);
    __m256 d = _mm256_mul_ps(kind.d(rows, apart), scale),
           m = kind.m ? _mm256_mul_ps(kind.m(rows, apart), scale) : scale;
#pragma GCC unroll 2
    for (int half = 0; half < (int)count; half++) {
        sum = add_product(sum, d, values, half);
        if (kind.m)
            sum = add_product(sum, m, _mm256_cvtepi32_ps(pair_sums(x->sums + block, count, 1)), half);
    }
    return sum;
}

static ALWAYS_INLINE void blocks_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                      const struct activation_row *x, const struct block_kind kind)
{
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        size_t block = 0;
        for (; block + 1 < columns / 32; block += 2) {
            prefetch_more(&ahead, 8 * kind.bytes);
            sum = add_blocks(sum, &at, x, block, 2, kind);
            four_rows_advance(&at, 2 * kind.bytes);
        }
        if (block < columns / 32) {
            prefetch_more(&ahead, 4 * kind.bytes);
            sum = add_blocks(sum, &at, x, block, 1, kind);
        }
        store_4(out + r, sum, rows - r);
    }
}

#define BLOCKS_GEMV(name, offset, d, m)                                                                                \
    static void gemv_##name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,         \
                            const struct activation_row *x)                                                            \
    {                                                                                                                  \
        blocks_gemv(out, weights, row_bytes, rows, columns, x,                                                         \
                    (struct block_kind){sizeof(struct block_##name), offset, part_##name, d, m});                      \
    }

BLOCKS_GEMV(q4_0, 8, pair_first, NULL)
BLOCKS_GEMV(q4_1, 0, pair_first, pair_second)
BLOCKS_GEMV(q5_0, 16, pair_first, NULL)
BLOCKS_GEMV(q5_1, 0, pair_first, pair_second)
BLOCKS_GEMV(q8_0, 0, pair_first, NULL)
BLOCKS_GEMV(iq4_nl, 0, pair_first, NULL)
BLOCKS_GEMV(mxfp4, OFFSET_E2M1, pair_mxfp4, NULL)

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
            four_rows_advance(&at, sizeof(struct block_nvfp4));
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
