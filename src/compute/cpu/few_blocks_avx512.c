/* A few tokens, types with blocks of 32. Quants are made unsigned by an offset, which the sums of activations take off.
 */
#include "compute/cpu/few_avx512.h"
#include "compute/cpu/grids.h"

/* The first 32 bits of a block of every row: scale and minimum, or scale and something else. They are gathered one by
 * one a block ahead, since a vector loaded right after that would wait for the stores. */
struct heads {
    _Alignas(64) uint32_t words[2][FEW_ROWS];
};

static ALWAYS_INLINE void take_heads(struct heads *heads, const struct few_rows *rows, size_t block, size_t block_bytes)
{
    for (size_t i = 0; i < FEW_ROWS; i++)
        memcpy(&heads->words[block % 2][i], few_row(rows, i) + block * block_bytes, sizeof heads->words[0][0]);
}

/* 32 columns of the block at an offset. */
typedef void few_quants(__m512i out[8], const struct few_rows *rows, size_t offset);
typedef __m512 few_scales(__m512i heads);

static ALWAYS_INLINE void few_blocks(const struct matmul *job, size_t first_row, size_t rows, size_t block_bytes,
                                     int offset, few_quants *quants, few_scales *scales, few_scales *minima)
{
    const struct matrix *weights = &job->weights;
    size_t blocks = weights->columns / 32, stride = weights->row_bytes, count = job->tokens;
    struct few_tokens tokens;
    struct heads heads;
    float *out[FEW_MOST_TOKENS];
    few_start(&tokens, out, job, ACTIVATION_Q8_32);
    for (size_t r = first_row; r < first_row + rows; r += FEW_ROWS) {
        struct few_rows at = few_rows(weights->data + r * stride, stride);
        struct prefetch ahead = {.next = (uintptr_t)at.four[0] + FEW_ROWS * stride};
        memset(tokens.sums, 0, count * sizeof tokens.sums[0]);
        take_heads(&heads, &at, 0, block_bytes);
        for (size_t b = 0; b < blocks; b++) {
            __m512i q[8], head = _mm512_load_si512(heads.words[b % 2]);
            prefetch_more(&ahead, FEW_ROWS * block_bytes);
            if (b + 1 < blocks)
                take_heads(&heads, &at, b + 1, block_bytes);
            quants(q, &at, b * block_bytes);
            __m512 d = scales(head), m = minima ? minima(head) : d;
            for (size_t t = 0; t < count; t++) {
                const struct activation_row *x = &tokens.x[t];
                __m512i integer = few_dot(_mm512_set1_epi32(-offset * x->sums[b]), q, x->quants + 32 * b, 8);
                __m512 scale = _mm512_set1_ps(x->scales[b]);
                __m512 sum = _mm512_fmadd_ps(_mm512_mul_ps(d, scale), _mm512_cvtepi32_ps(integer),
                                             _mm512_load_ps(tokens.sums[t]));
                if (minima)
                    sum = _mm512_fmadd_ps(_mm512_mul_ps(m, scale), _mm512_set1_ps((float)x->sums[b]), sum);
                _mm512_store_ps(tokens.sums[t], sum);
            }
        }
        for (size_t t = 0; t < count; t++)
            memcpy(out[t] + r, tokens.sums[t], sizeof tokens.sums[t]);
    }
}

#define FEW(name, block, offset, quants, scales, minima)                                                               \
    static void name(const struct matmul *job, size_t first_row, size_t rows)                                          \
    {                                                                                                                  \
        few_blocks(job, first_row, rows, sizeof(struct block), offset, quants, scales, minima);                        \
    }

static ALWAYS_INLINE __m512 low_halves(__m512i heads)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(heads));
}

static ALWAYS_INLINE __m512 high_halves(__m512i heads)
{
    return low_halves(_mm512_srli_epi32(heads, 16));
}

/* 2^(e - 128), since the codebook is doubled. */
static ALWAYS_INLINE __m512 exponents(__m512i heads)
{
    __m512i e = _mm512_and_si512(heads, _mm512_set1_epi32(255));
    __m512i normal = _mm512_slli_epi32(_mm512_sub_epi32(e, _mm512_set1_epi32(1)), 23);
    __mmask16 subnormal = _mm512_cmplt_epi32_mask(e, _mm512_set1_epi32(2));
    return _mm512_castsi512_ps(_mm512_mask_sllv_epi32(normal, subnormal, _mm512_set1_epi32(0x00200000), e));
}

/* ---- quants --------------------------------------------------------------------------------------------------------
 */

static ALWAYS_INLINE void q8_0_quants(__m512i out[8], const struct few_rows *rows, size_t offset)
{
    few_turn(out, rows, offset + offsetof(struct block_q8_0, qs));
    few_turn(out + 4, rows, offset + offsetof(struct block_q8_0, qs) + 16);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++)
        out[k] = _mm512_xor_si512(out[k], _mm512_set1_epi8(-128));
}

static ALWAYS_INLINE void nibbles(__m512i out[8], const struct few_rows *rows, size_t offset)
{
    const __m512i mask = _mm512_set1_epi8(15);
    few_turn(out, rows, offset);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        out[4 + k] = _mm512_and_si512(_mm512_srli_epi16(out[k], 4), mask);
        out[k] = _mm512_and_si512(out[k], mask);
    }
}

static ALWAYS_INLINE void q4_0_quants(__m512i out[8], const struct few_rows *rows, size_t offset)
{
    nibbles(out, rows, offset + offsetof(struct block_q4_0, qs));
}

static ALWAYS_INLINE void q4_1_quants(__m512i out[8], const struct few_rows *rows, size_t offset)
{
    nibbles(out, rows, offset + offsetof(struct block_q4_1, qs));
}

static ALWAYS_INLINE void codes(__m512i out[8], const struct few_rows *rows, size_t offset, const int8_t *codebook,
                                int raised)
{
    __m128i raise = _mm_set1_epi8((char)raised);
    __m512i table = _mm512_broadcast_i32x4(_mm_add_epi8(_mm_loadu_si128((const void *)codebook), raise));
    nibbles(out, rows, offset);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++)
        out[k] = _mm512_shuffle_epi8(table, out[k]);
}

static ALWAYS_INLINE void iq4_nl_quants(__m512i out[8], const struct few_rows *rows, size_t offset)
{
    codes(out, rows, offset + offsetof(struct block_iq4_nl, qs), codebook_iq4, 128);
}

static ALWAYS_INLINE void mxfp4_quants(__m512i out[8], const struct few_rows *rows, size_t offset)
{
    codes(out, rows, offset + offsetof(struct block_mxfp4, qs), codebook_e2m1, 12);
}

/* The fifth bits are 32 bits of a row, bit j that of column j: bits 4 k to 4 k + 3 go to the four bytes of register k.
 */
static ALWAYS_INLINE void fifth_bits(__m512i out[8], const struct few_rows *rows, size_t offset)
{
    uint32_t words[FEW_ROWS];
    for (size_t i = 0; i < FEW_ROWS; i++)
        memcpy(&words[i], few_row(rows, i) + offset, sizeof words[i]);
    __m512i bits = _mm512_loadu_si512(words);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) {
        const __m512i byte = _mm512_broadcast_i32x4(_mm_setr_epi32(
            0x01010101 * (k / 2), 0x01010101 * (4 + k / 2), 0x01010101 * (8 + k / 2), 0x01010101 * (12 + k / 2)));
        __m512i nibble = k % 2 ? _mm512_set1_epi32((int)0x80402010u) : _mm512_set1_epi32(0x08040201);
        out[k] = _mm512_mask_add_epi8(out[k], _mm512_test_epi8_mask(_mm512_shuffle_epi8(bits, byte), nibble), out[k],
                                      _mm512_set1_epi8(16));
    }
}

static ALWAYS_INLINE void q5_0_quants(__m512i out[8], const struct few_rows *rows, size_t offset)
{
    nibbles(out, rows, offset + offsetof(struct block_q5_0, qs));
    fifth_bits(out, rows, offset + offsetof(struct block_q5_0, qh));
}

static ALWAYS_INLINE void q5_1_quants(__m512i out[8], const struct few_rows *rows, size_t offset)
{
    nibbles(out, rows, offset + offsetof(struct block_q5_1, qs));
    fifth_bits(out, rows, offset + offsetof(struct block_q5_1, qh));
}

FEW(few_q4_0, block_q4_0, 8, q4_0_quants, low_halves, NULL)
FEW(few_q4_1, block_q4_1, 0, q4_1_quants, low_halves, high_halves)
FEW(few_q5_0, block_q5_0, 16, q5_0_quants, low_halves, NULL)
FEW(few_q5_1, block_q5_1, 0, q5_1_quants, low_halves, high_halves)
FEW(few_q8_0, block_q8_0, 128, q8_0_quants, low_halves, NULL)
FEW(few_iq4_nl, block_iq4_nl, 128, iq4_nl_quants, low_halves, NULL)
FEW(few_mxfp4, block_mxfp4, 12, mxfp4_quants, exponents, NULL)

void kernels_few_blocks_avx512(struct kernel_table *table)
{
    table->types[TENSOR_Q4_0].few = few_q4_0;
    table->types[TENSOR_Q4_1].few = few_q4_1;
    table->types[TENSOR_Q5_0].few = few_q5_0;
    table->types[TENSOR_Q5_1].few = few_q5_1;
    table->types[TENSOR_Q8_0].few = few_q8_0;
    table->types[TENSOR_IQ4_NL].few = few_iq4_nl;
    table->types[TENSOR_MXFP4].few = few_mxfp4;
}
