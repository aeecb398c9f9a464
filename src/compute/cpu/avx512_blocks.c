/* AVX-512 with VNNI: matrix times vector for blocks of 32.
 *
 * It processes four blocks of four rows at a time. Their sixteen integer sums end up in one register: block k in
 * 128-bit lane k, one element per row. So conversion and scaling are done once for all of them. The four float
 * additions, which must follow each other, take one operation per block. An offset makes the quants unsigned; the sums
 * of the activations correct for it. */
#include "compute/cpu/avx512.h"
#include "compute/cpu/grids.h"

#define STEP 4 /* blocks */

struct blocks_activation {
    __m512i quants[2]; /* in the order of the columns */
    __m512i low, high; /* first and second half of each of the four blocks, one per lane */
    __m512i sums;      /* 32 bits, four times in lane k: the sum of block k */
};

/* The dot products of four blocks of a row, block k in lane k, before the correction for the offset. */
typedef __m512i blocks_dot(const uint8_t *blocks, const struct blocks_activation *x);
/* The scales of four blocks of four rows: block k in lane k, one element per row. */
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

/* Adds four blocks to the sums of four rows. Only the first "valid" blocks count. */
static ALWAYS_INLINE __m128 blocks_step(__m128 sum, const struct four_rows *rows, const struct activation_row *x,
                                        size_t b, size_t valid, int offset, blocks_dot *dot, blocks_scales *scales,
                                        blocks_scales *minima)
{
    struct blocks_activation four;
    four.quants[0] = _mm512_loadu_si512(x->quants + 32 * b);
    four.quants[1] = _mm512_loadu_si512(x->quants + 32 * b + 64);
    four.low = even_lanes(four.quants[0], four.quants[1]);
    four.high = odd_lanes(four.quants[0], four.quants[1]);
    four.sums = lanes_of_16(x->sums + b);
    __m512i integers =
        sum_lanes_4(dot(rows->at[0], &four), dot(rows->at[1], &four), dot(rows->at[2], &four), dot(rows->at[3], &four));
    if (offset)
        integers = _mm512_sub_epi32(integers, _mm512_mullo_epi32(four.sums, _mm512_set1_epi32(offset)));
    __m512 scale = lanes_of(x->scales + b);
    __m512 values = _mm512_cvtepi32_ps(integers), factors = _mm512_mul_ps(scales(rows), scale);
    __m512 totals = _mm512_cvtepi32_ps(four.sums), minimum_factors = totals;
    if (minima)
        minimum_factors = _mm512_mul_ps(minima(rows), scale);
#define BLOCK(k)                                                                                                       \
    if (valid > (k)) {                                                                                                 \
        sum = _mm_fmadd_ps(_mm512_extractf32x4_ps(factors, k), _mm512_extractf32x4_ps(values, k), sum);                \
        if (minima)                                                                                                    \
            sum = _mm_fmadd_ps(_mm512_extractf32x4_ps(minimum_factors, k), _mm512_extractf32x4_ps(totals, k), sum);    \
    }
    BLOCK(0)
    BLOCK(1)
    BLOCK(2)
    BLOCK(3)
#undef BLOCK
    return sum;
}

static ALWAYS_INLINE void blocks_gemv(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                                      const struct activation_row *x, size_t block_bytes, int offset, blocks_dot *dot,
                                      blocks_scales *scales, blocks_scales *minima)
{
    size_t blocks = columns / 32;
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        size_t b = 0;
        for (; b + STEP <= blocks; b += STEP) {
            prefetch_more(&ahead, 4 * STEP * block_bytes);
            sum = blocks_step(sum, &at, x, b, STEP, offset, dot, scales, minima);
            four_rows_advance(&at, STEP * block_bytes);
        }
        if (b < blocks) {
            /* The last few blocks come from a copy, so that nothing after the row is read. */
            uint8_t copy[4][STEP * 40] = {0};
            for (int i = 0; i < 4; i++) {
                memcpy(copy[i], at.at[i], (blocks - b) * block_bytes);
                at.at[i] = copy[i];
            }
            sum = blocks_step(sum, &at, x, b, blocks - b, offset, dot, scales, minima);
        }
        store_4(out + r, sum, rows - r);
    }
}

#define BLOCKS_GEMV(name, block, offset, dot, scales, minima)                                                          \
    static void name(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,                \
                     const struct activation_row *x)                                                                   \
    {                                                                                                                  \
        blocks_gemv(out, weights, row_bytes, rows, columns, x, sizeof(struct block), offset, dot, scales, minima);     \
    }

/* Joins the words that permutations picked for two rows each, and converts halves to floats: words 4k and 4k + 1 come
 * from the first register, 4k + 2 and 4k + 3 from the second. */
static ALWAYS_INLINE __m512 join_halves(__m512i rows01, __m512i rows23)
{
    __m256i halves = _mm256_blend_epi32(_mm512_castsi512_si256(rows01), _mm512_castsi512_si256(rows23), 0xaa);
    return _mm512_cvtph_ps(halves);
}

/* A permutation of the 16-bit words of two registers, of which the second counts from 32: words w0 to w3 of both, in
 * pairs, each pair twice. */
#define WORD_PAIRS(w0, w1, w2, w3)                                                                                     \
    _mm512_castsi256_si512(_mm256_setr_epi16(w0, 32 + (w0), w0, 32 + (w0), w1, 32 + (w1), w1, 32 + (w1), w2,           \
                                             32 + (w2), w2, 32 + (w2), w3, 32 + (w3), w3, 32 + (w3)))

/* ---- Q4_0 -------------------------------------------------------------------------------------------------------- */

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

BLOCKS_GEMV(gemv_q4_0, block_q4_0, 8, q4_0_dot, scales_18, NULL)

/* ---- Q8_0 -------------------------------------------------------------------------------------------------------- */

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

BLOCKS_GEMV(gemv_q8_0, block_q8_0, 128, q8_0_dot, q8_0_scales, NULL)

/* ---- Q4_1, Q5_0, Q5_1 -------------------------------------------------------------------------------------------- */

/* Transposes four words of each of four rows, and converts them to floats: 128-bit lane k has word k of each row. */
static ALWAYS_INLINE __m512 transpose_halves(__m128i a, __m128i b)
{
    return _mm512_cvtph_ps(_mm256_set_m128i(_mm_unpackhi_epi32(a, b), _mm_unpacklo_epi32(a, b)));
}

typedef __m128i row_words(const uint8_t *blocks);

static ALWAYS_INLINE __m512 low_words(const struct four_rows *rows, row_words *words)
{
    return transpose_halves(_mm_unpacklo_epi16(words(rows->at[0]), words(rows->at[1])),
                            _mm_unpacklo_epi16(words(rows->at[2]), words(rows->at[3])));
}

static ALWAYS_INLINE __m512 high_words(const struct four_rows *rows, row_words *words)
{
    return transpose_halves(_mm_unpackhi_epi16(words(rows->at[0]), words(rows->at[1])),
                            _mm_unpackhi_epi16(words(rows->at[2]), words(rows->at[3])));
}

/* Eight words, from "first" on, of each of four blocks. A block has "size" words. Two loads, at words 0 and shift,
 * cover all four blocks. */
static ALWAYS_INLINE __m512i quant_words(const uint8_t *blocks, int size, int shift, int first)
{
    int a = first, b = size + first, c = 2 * size + first, d = 32 + 3 * size + first - shift;
#define EIGHT(w)                                                                                                       \
    (short)((w) + 7), (short)((w) + 6), (short)((w) + 5), (short)((w) + 4), (short)((w) + 3), (short)((w) + 2),        \
        (short)((w) + 1), (short)(w)
#define IN_SECOND(w) ((w) + 7 < 32 ? (w) : 32 + (w)-shift)
    const __m512i index = _mm512_set_epi16(EIGHT(d), EIGHT(IN_SECOND(c)), EIGHT(b), EIGHT(a));
#undef IN_SECOND
#undef EIGHT
    return _mm512_permutex2var_epi16(_mm512_loadu_si512(blocks), index, _mm512_loadu_si512(blocks + 2 * shift));
}

/* Two words of each of the four blocks: those at "first" for all blocks, then those at "second". */
static ALWAYS_INLINE __m128i single_words(const uint8_t *blocks, int size, int shift, int first, int second)
{
#define WORD(w) (short)((w) < 32 ? (w) : 32 + (w)-shift)
    const __m128i index =
        _mm_setr_epi16(WORD(first), WORD(size + first), WORD(2 * size + first), WORD(3 * size + first), WORD(second),
                       WORD(size + second), WORD(2 * size + second), WORD(3 * size + second));
#undef WORD
    return _mm512_castsi512_si128(_mm512_permutex2var_epi16(_mm512_loadu_si512(blocks), _mm512_castsi128_si512(index),
                                                            _mm512_loadu_si512(blocks + 2 * shift)));
}

/* qh: the fifth bits of the first sixteen elements of all four blocks, then those of the other sixteen. */
static ALWAYS_INLINE __m512i dot_five_bits(__m512i bytes, __m128i qh, const struct blocks_activation *x)
{
    const __m512i mask = _mm512_set1_epi8(15), sixteen = _mm512_set1_epi8(16);
    __m512i low = _mm512_and_si512(bytes, mask), high = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask);
    low = _mm512_mask_add_epi8(low, (__mmask64)_mm_cvtsi128_si64(qh), low, sixteen);
    high = _mm512_mask_add_epi8(high, (__mmask64)_mm_extract_epi64(qh, 1), high, sixteen);
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), low, x->low), high, x->high);
}

static ALWAYS_INLINE __m512i q4_1_dot(const uint8_t *blocks, const struct blocks_activation *x)
{
    return dot_nibbles(quant_words(blocks, 10, 8, 2), x);
}

static ALWAYS_INLINE __m128i q4_1_words(const uint8_t *blocks)
{
    return single_words(blocks, 10, 8, 0, 1);
}

static ALWAYS_INLINE __m512 q4_1_scales(const struct four_rows *rows)
{
    return low_words(rows, q4_1_words);
}

static ALWAYS_INLINE __m512 q4_1_minima(const struct four_rows *rows)
{
    return high_words(rows, q4_1_words);
}

static ALWAYS_INLINE __m512i q5_0_dot(const uint8_t *blocks, const struct blocks_activation *x)
{
    return dot_five_bits(quant_words(blocks, 11, 12, 3), single_words(blocks, 11, 12, 1, 2), x);
}

static ALWAYS_INLINE __m128i q5_0_words(const uint8_t *blocks)
{
    return single_words(blocks, 11, 12, 0, 0);
}

static ALWAYS_INLINE __m512 q5_0_scales(const struct four_rows *rows)
{
    return low_words(rows, q5_0_words);
}

static ALWAYS_INLINE __m512i q5_1_dot(const uint8_t *blocks, const struct blocks_activation *x)
{
    return dot_five_bits(quant_words(blocks, 12, 16, 4), single_words(blocks, 12, 16, 2, 3), x);
}

static ALWAYS_INLINE __m128i q5_1_words(const uint8_t *blocks)
{
    return single_words(blocks, 12, 16, 0, 1);
}

static ALWAYS_INLINE __m512 q5_1_scales(const struct four_rows *rows)
{
    return low_words(rows, q5_1_words);
}

static ALWAYS_INLINE __m512 q5_1_minima(const struct four_rows *rows)
{
    return high_words(rows, q5_1_words);
}

BLOCKS_GEMV(gemv_q4_1, block_q4_1, 0, q4_1_dot, q4_1_scales, q4_1_minima)
BLOCKS_GEMV(gemv_q5_0, block_q5_0, 16, q5_0_dot, q5_0_scales, NULL)
BLOCKS_GEMV(gemv_q5_1, block_q5_1, 0, q5_1_dot, q5_1_scales, q5_1_minima)

/* ---- IQ4_NL, MXFP4 ----------------------------------------------------------------------------------------------- */

/* A codebook in every lane, raised by an offset so that it is unsigned. */
static ALWAYS_INLINE __m512i raised_codebook(const int8_t *codebook, int offset)
{
    __m128i values = _mm_add_epi8(load_128((const void *)codebook), _mm_set1_epi8((char)offset));
    return _mm512_broadcast_i32x4(values);
}

static ALWAYS_INLINE __m512i dot_codes(__m512i bytes, __m512i codebook, const struct blocks_activation *x)
{
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i low = _mm512_shuffle_epi8(codebook, _mm512_and_si512(bytes, mask));
    __m512i high = _mm512_shuffle_epi8(codebook, _mm512_and_si512(_mm512_srli_epi16(bytes, 4), mask));
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(_mm512_setzero_si512(), low, x->low), high, x->high);
}

static ALWAYS_INLINE __m512i iq4_nl_dot(const uint8_t *blocks, const struct blocks_activation *x)
{
    return dot_codes(quants_18(blocks), raised_codebook(codebook_iq4, 128), x);
}

/* Four blocks of 17 bytes have 68 bytes. The quants of the first and third block begin at odd bytes, those of the
 * others at even bytes. */
static ALWAYS_INLINE __m512i mxfp4_dot(const uint8_t *blocks, const struct blocks_activation *x)
{
    const __m512i index = _mm512_set_epi16(63, 62, 61, 60, 59, 58, 57, 56, 24, 23, 22, 21, 20, 19, 18, 17, 46, 45, 44,
                                           43, 42, 41, 40, 39, 7, 6, 5, 4, 3, 2, 1, 0);
    __m512i bytes = _mm512_permutex2var_epi16(_mm512_loadu_si512(blocks + 1), index, _mm512_loadu_si512(blocks + 4));
    return dot_codes(bytes, raised_codebook(codebook_e2m1, 12), x);
}

/* The exponents are bytes 0, 17, 34 and 51, that is, byte k of 128-bit lane k. Row r is loaded from 4 * r bytes
 * earlier, so that its exponents get 32-bit words of their own. Only the exponents are read. */
static ALWAYS_INLINE __m512i mxfp4_exponents(const struct four_rows *rows)
{
    const __mmask64 first = 0x0008000400020001u;
    const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 8, 8, 8, 8, 16, 16, 16, 16, 24, 24, 24, 24);
    __m512i words = _mm512_maskz_loadu_epi8(first, rows->at[0]);
    for (int r = 1; r < 4; r++)
        words = _mm512_mask_loadu_epi8(words, first << 4 * r, rows->at[r] - 4 * r);
    return _mm512_srlv_epi32(words, shift);
}

static ALWAYS_INLINE __m512 mxfp4_scales(const struct four_rows *rows)
{
    __m512i e = mxfp4_exponents(rows);
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __mmask16 subnormal = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(_mm512_mask_sllv_epi32(normal, subnormal, _mm512_set1_epi32(0x00200000), e));
}

BLOCKS_GEMV(gemv_iq4_nl, block_iq4_nl, 128, iq4_nl_dot, scales_18, NULL)
BLOCKS_GEMV(gemv_mxfp4, block_mxfp4, 12, mxfp4_dot, mxfp4_scales, NULL)

/* ---- NVFP4 ------------------------------------------------------------------------------------------------------- */

/* The codes of the four parts of a block, one part per 128-bit lane, 12 too high. */
static ALWAYS_INLINE __m512i nvfp4_codes(const uint8_t *block, __m512i codebook)
{
    const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m256i mask = _mm256_set1_epi8(15);
    __m256i bytes = _mm256_loadu_si256((const void *)(block + offsetof(struct block_nvfp4, qs)));
    __m256i low = _mm256_and_si256(bytes, mask), high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), mask);
    __m512i index = _mm512_permutexvar_epi64(order, _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1));
    return _mm512_shuffle_epi8(codebook, index);
}

/* The scales of part k of four rows in lane k. */
static ALWAYS_INLINE __m512 nvfp4_scales(const struct four_rows *rows)
{
    const __m512i shift = _mm512_setr_epi32(0, 0, 0, 0, 8, 8, 8, 8, 16, 16, 16, 16, 24, 24, 24, 24);
    int32_t words[4];
    for (int i = 0; i < 4; i++)
        memcpy(&words[i], rows->at[i], sizeof words[i]);
    __m512i all = _mm512_broadcast_i32x4(_mm_setr_epi32(words[0], words[1], words[2], words[3]));
    return ue4m3_scales(_mm512_and_si512(_mm512_srlv_epi32(all, shift), _mm512_set1_epi32(255)));
}

/* Adds a block of 64 of four rows to their sums. Its parts are processed like the four blocks of blocks_step. */
static ALWAYS_INLINE __m128 nvfp4_step(__m128 sum, const struct four_rows *rows, const int8_t *quants,
                                       const float *scales, __m512i codebook)
{
    __m512i x = _mm512_loadu_si512(quants), zero = _mm512_setzero_si512(), dots[4];
    for (int i = 0; i < 4; i++)
        dots[i] = _mm512_dpbusd_epi32(zero, nvfp4_codes(rows->at[i], codebook), x);
    /* The codes' offset adds the same to all rows. */
    __m512i offset = _mm512_dpbusd_epi32(zero, _mm512_set1_epi8(12), x);
    __m512i integers =
        _mm512_sub_epi32(sum_lanes_4(dots[0], dots[1], dots[2], dots[3]), sum_lanes_4(offset, offset, offset, offset));
    __m512 scale = _mm512_insertf32x8(_mm512_set1_ps(scales[0]), _mm256_set1_ps(scales[1]), 1);
    __m512 values = _mm512_cvtepi32_ps(integers), factors = _mm512_mul_ps(nvfp4_scales(rows), scale);
#define PART(k) sum = _mm_fmadd_ps(_mm512_extractf32x4_ps(factors, k), _mm512_extractf32x4_ps(values, k), sum)
    PART(0);
    PART(1);
    PART(2);
    PART(3);
#undef PART
    return sum;
}

static void gemv_nvfp4(float *out, const uint8_t *weights, size_t row_bytes, size_t rows, size_t columns,
                       const struct activation_row *x)
{
    const __m512i codebook = raised_codebook(codebook_e2m1, 12);
    struct prefetch ahead = prefetch_start(weights, row_bytes, rows, &x->around);
    for (size_t r = 0; r < rows; r += 4) {
        struct four_rows at = four_rows(weights, row_bytes, r, rows);
        prefetch_rows_from(&ahead, r);
        __m128 sum = _mm_setzero_ps();
        for (size_t b = 0; b < columns / 64; b++) {
            prefetch_more(&ahead, 4 * sizeof(struct block_nvfp4));
            sum = nvfp4_step(sum, &at, x->quants + 64 * b, x->scales + 2 * b, codebook);
            four_rows_advance(&at, sizeof(struct block_nvfp4));
        }
        store_4(out + r, sum, rows - r);
    }
}

const struct kernel_table kernels_avx512_blocks = {
    .types[TENSOR_Q4_0] = {.gemv = gemv_q4_0},
    .types[TENSOR_Q4_1] = {.gemv = gemv_q4_1},
    .types[TENSOR_Q5_0] = {.gemv = gemv_q5_0},
    .types[TENSOR_Q5_1] = {.gemv = gemv_q5_1},
    .types[TENSOR_Q8_0] = {.gemv = gemv_q8_0},
    .types[TENSOR_IQ4_NL] = {.gemv = gemv_iq4_nl},
    .types[TENSOR_MXFP4] = {.gemv = gemv_mxfp4},
    .types[TENSOR_NVFP4] = {.gemv = gemv_nvfp4},
};
