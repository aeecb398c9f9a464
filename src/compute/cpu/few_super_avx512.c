/* A few tokens, types with super-blocks of 256. */
#include "compute/cpu/few_avx512.h"
#include "compute/cpu/grids.h"

/* Onto the sums of a token's rows: d * total, and minus m * minimum where there are minima. */
static ALWAYS_INLINE void add_block(struct few_tokens *tokens, size_t token, size_t block, __m512 d, __m512i total,
                                    __m512 m, __m512i minimum, const bool minima)
{
    __m512 scale = _mm512_set1_ps(tokens->x[token].scales[block]);
    __m512 sum = _mm512_load_ps(tokens->sums[token]);
    sum = _mm512_fmadd_ps(_mm512_mul_ps(d, scale), _mm512_cvtepi32_ps(total), sum);
    if (minima)
        sum = _mm512_fnmadd_ps(_mm512_mul_ps(m, scale), _mm512_cvtepi32_ps(minimum), sum);
    _mm512_store_ps(tokens->sums[token], sum);
}

static ALWAYS_INLINE __m512 halves(__m512i lanes)
{
    return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(lanes));
}

/* Two parts of sixteen times "quads" columns onto a token's integers. */
static ALWAYS_INLINE void add_parts(struct few_tokens *tokens, size_t token, const bool first, __m512i a,
                                    __m512i scale_a, __m512i b, __m512i scale_b)
{
    __m512i total = _mm512_add_epi32(_mm512_mullo_epi32(a, scale_a), _mm512_mullo_epi32(b, scale_b));
    if (!first)
        total = _mm512_add_epi32(total, _mm512_load_si512(tokens->totals[token]));
    _mm512_store_si512(tokens->totals[token], total);
}

/* ---- Q4_K, Q5_K ---------------------------------------------------------------------------------------------------
 */

/* The first 16 bytes of both. */
struct k_head {
    __m512 d, m;
    __m512i scales[8];
    __m512i minima[4]; /* 16 bits, of two parts side by side */
};

static ALWAYS_INLINE void k_head(struct k_head *out, const struct few_rows *rows)
{
    __m512i head[4], minima[8];
    const __m512i six = _mm512_set1_epi32(63), four = _mm512_set1_epi32(15), two = _mm512_set1_epi32(0x30);
    few_turn(head, rows, 0);
    out->d = halves(head[0]);
    out->m = halves(_mm512_srli_epi32(head[0], 16));
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++) {
        __m512i scale = _mm512_srli_epi32(head[1], 8 * i);
        __m512i minimum = _mm512_srli_epi32(head[2], 8 * i);
        __m512i low = _mm512_srli_epi32(head[3], 8 * i);
        out->scales[i] = _mm512_and_si512(scale, six);
        out->scales[4 + i] =
            _mm512_or_si512(_mm512_and_si512(low, four), _mm512_and_si512(_mm512_srli_epi32(scale, 2), two));
        minima[i] = _mm512_and_si512(minimum, six);
        minima[4 + i] = _mm512_or_si512(_mm512_and_si512(_mm512_srli_epi32(low, 4), four),
                                        _mm512_and_si512(_mm512_srli_epi32(minimum, 2), two));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        out->minima[i] = _mm512_or_si512(minima[2 * i], _mm512_slli_epi32(minima[2 * i + 1], 16));
}

/* Sums of 32 activations, from sums of 16. */
static ALWAYS_INLINE void part_sums(int16_t parts[8], const int16_t *sums)
{
    _mm_store_si128((void *)parts,
                    _mm_hadd_epi16(_mm_loadu_si128((const void *)sums), _mm_loadu_si128((const void *)(sums + 8))));
}

/* A block's floats, once its integers are in totals. */
static ALWAYS_INLINE void k_floats(struct few_tokens *tokens, size_t block, const struct k_head *head)
{
    for (size_t t = 0; t < tokens->count; t++) {
        _Alignas(16) int16_t parts[8];
        part_sums(parts, tokens->x[t].sums + 16 * block);
        add_block(tokens, t, block, head->d, _mm512_load_si512(tokens->totals[t]), head->m,
                  few_pairs(head->minima, parts, 4), true);
    }
}

static ALWAYS_INLINE void q4_k_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block)
{
    const __m512i mask = _mm512_set1_epi8(15);
    struct k_head head;
    k_head(&head, rows);
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        __m512i low[8], high[8];
        few_turn(low, rows, offsetof(struct block_q4_k, qs) + 32 * j);
        few_turn(low + 4, rows, offsetof(struct block_q4_k, qs) + 32 * j + 16);
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            high[k] = _mm512_and_si512(_mm512_srli_epi16(low[k], 4), mask);
            low[k] = _mm512_and_si512(low[k], mask);
        }
        for (size_t t = 0; t < tokens->count; t++) {
            const int8_t *x = tokens->x[t].quants + 256 * block + 64 * j;
            const __m512i zero = _mm512_setzero_si512();
            add_parts(tokens, t, j == 0, few_dot(zero, low, x, 8), head.scales[2 * j], few_dot(zero, high, x + 32, 8),
                      head.scales[2 * j + 1]);
        }
    }
    k_floats(tokens, block, &head);
}

static ALWAYS_INLINE void q5_k_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block)
{
    const __m512i mask = _mm512_set1_epi8(15), sixteen = _mm512_set1_epi8(16);
    struct k_head head;
    __m512i bits[8];
    k_head(&head, rows);
    few_turn(bits, rows, offsetof(struct block_q5_k, qh));
    few_turn(bits + 4, rows, offsetof(struct block_q5_k, qh) + 16);
#pragma GCC unroll 4
    for (unsigned j = 0; j < 4; j++) {
        __m512i low[8], high[8];
        few_turn(low, rows, offsetof(struct block_q5_k, qs) + 32 * j);
        few_turn(low + 4, rows, offsetof(struct block_q5_k, qs) + 32 * j + 16);
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            /* Bits 2 j and 2 j + 1 come to bit 4. */
            __m512i first = j < 2    ? _mm512_slli_epi16(bits[k], 4 - 2 * j)
                            : j == 2 ? bits[k]
                                     : _mm512_srli_epi16(bits[k], 2);
            __m512i second = j < 2 ? _mm512_slli_epi16(bits[k], 3 - 2 * j) : _mm512_srli_epi16(bits[k], 2 * j - 3);
            high[k] = _mm512_and_si512(_mm512_srli_epi16(low[k], 4), mask);
            high[k] = _mm512_ternarylogic_epi64(second, sixteen, high[k], 0xea);
            low[k] = _mm512_ternarylogic_epi64(first, sixteen, _mm512_and_si512(low[k], mask), 0xea);
        }
        for (size_t t = 0; t < tokens->count; t++) {
            const int8_t *x = tokens->x[t].quants + 256 * block + 64 * j;
            const __m512i zero = _mm512_setzero_si512();
            add_parts(tokens, t, j == 0, few_dot(zero, low, x, 8), head.scales[2 * j], few_dot(zero, high, x + 32, 8),
                      head.scales[2 * j + 1]);
        }
    }
    k_floats(tokens, block, &head);
}

/* ---- Q6_K ---------------------------------------------------------------------------------------------------------
 */

static ALWAYS_INLINE void q6_k_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block)
{
    const __m512i low = _mm512_set1_epi8(15), two = _mm512_set1_epi8(48);
    _Alignas(32) uint16_t d[FEW_ROWS]; /* wanted last, when what was stored one by one can be loaded whole */
    for (size_t i = 0; i < FEW_ROWS; i++)
        memcpy(&d[i], few_row(rows, i) + offsetof(struct block_q6_k, d), sizeof d[i]);
    __m512i bytes[4], scales[16], pairs[8];
    few_turn(bytes, rows, offsetof(struct block_q6_k, scales));
#pragma GCC unroll 16
    for (unsigned i = 0; i < 16; i++)
        scales[i] = _mm512_srai_epi32(_mm512_slli_epi32(bytes[i / 4], 24 - 8 * (i % 4)), 24);
#pragma GCC unroll 8
    for (unsigned i = 0; i < 8; i++)
        pairs[i] = _mm512_mask_blend_epi16(0xaaaaaaaau, scales[2 * i], _mm512_slli_epi32(scales[2 * i + 1], 16));
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        size_t half = i / 2, part = i % 2;
        __m512i a[4], b[4], high[4], quants[4][4];
        few_turn(a, rows, 64 * half + 16 * part);
        few_turn(b, rows, 64 * half + 32 + 16 * part);
        few_turn(high, rows, offsetof(struct block_q6_k, qh) + 32 * half + 16 * part);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            /* (x & 48) | y is 0xea with the mask second. */
            quants[0][k] =
                _mm512_ternarylogic_epi64(_mm512_slli_epi16(high[k], 4), two, _mm512_and_si512(a[k], low), 0xea);
            quants[1][k] =
                _mm512_ternarylogic_epi64(_mm512_slli_epi16(high[k], 2), two, _mm512_and_si512(b[k], low), 0xea);
            quants[2][k] =
                _mm512_ternarylogic_epi64(high[k], two, _mm512_and_si512(_mm512_srli_epi16(a[k], 4), low), 0xea);
            quants[3][k] = _mm512_ternarylogic_epi64(_mm512_srli_epi16(high[k], 2), two,
                                                     _mm512_and_si512(_mm512_srli_epi16(b[k], 4), low), 0xea);
        }
        const __m512i *scale = scales + 8 * half + part;
        for (size_t t = 0; t < tokens->count; t++) {
            const int8_t *x = tokens->x[t].quants + 256 * block + 128 * half + 16 * part;
            const __m512i zero = _mm512_setzero_si512();
            add_parts(tokens, t, i == 0, few_dot(zero, quants[0], x, 4), scale[0], few_dot(zero, quants[1], x + 32, 4),
                      scale[2]);
            add_parts(tokens, t, false, few_dot(zero, quants[2], x + 64, 4), scale[4],
                      few_dot(zero, quants[3], x + 96, 4), scale[6]);
        }
    }
    __m512 scale = _mm512_cvtph_ps(_mm256_load_si256((const void *)d));
    for (size_t t = 0; t < tokens->count; t++) {
        /* The quants are 32 too high. */
        __m512i offset = _mm512_slli_epi32(few_pairs(pairs, tokens->x[t].sums + 16 * block, 8), 5);
        __m512i total = _mm512_sub_epi32(_mm512_load_si512(tokens->totals[t]), offset);
        add_block(tokens, t, block, scale, total, scale, total, false);
    }
}

/* ---- IQ4_XS -------------------------------------------------------------------------------------------------------
 */

static ALWAYS_INLINE void iq4_xs_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block)
{
    const __m512i mask = _mm512_set1_epi8(15);
    const __m512i codes =
        _mm512_broadcast_i32x4(_mm_xor_si128(_mm_loadu_si128((const void *)codebook_iq4), _mm_set1_epi8(-128)));
    __m512i head[4], scales[8], pairs[4];
    few_turn(head, rows, 0);
#pragma GCC unroll 8
    for (unsigned i = 0; i < 8; i++) {
        __m512i low = _mm512_and_si512(_mm512_srli_epi32(head[1], 4 * i), _mm512_set1_epi32(15));
        __m512i high = _mm512_and_si512(_mm512_srli_epi32(head[0], 16 + 2 * i), _mm512_set1_epi32(3));
        scales[i] = _mm512_sub_epi32(_mm512_or_si512(low, _mm512_slli_epi32(high, 4)), _mm512_set1_epi32(32));
    }
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++)
        pairs[i] = _mm512_mask_blend_epi16(0xaaaaaaaau, scales[2 * i], _mm512_slli_epi32(scales[2 * i + 1], 16));
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        __m512i low[8], high[8]; /* parts 2 j and 2 j + 1: of each first the low halves of bytes, then the high ones */
        few_turn(low, rows, offsetof(struct block_iq4_xs, qs) + 32 * j);
        few_turn(high, rows, offsetof(struct block_iq4_xs, qs) + 32 * j + 16);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            low[4 + k] = _mm512_shuffle_epi8(codes, _mm512_and_si512(_mm512_srli_epi16(low[k], 4), mask));
            low[k] = _mm512_shuffle_epi8(codes, _mm512_and_si512(low[k], mask));
            high[4 + k] = _mm512_shuffle_epi8(codes, _mm512_and_si512(_mm512_srli_epi16(high[k], 4), mask));
            high[k] = _mm512_shuffle_epi8(codes, _mm512_and_si512(high[k], mask));
        }
        for (size_t t = 0; t < tokens->count; t++) {
            const int8_t *x = tokens->x[t].quants + 256 * block + 64 * j;
            const __m512i zero = _mm512_setzero_si512();
            add_parts(tokens, t, j == 0, few_dot(zero, low, x, 8), scales[2 * j], few_dot(zero, high, x + 32, 8),
                      scales[2 * j + 1]);
        }
    }
    __m512 d = halves(head[0]);
    for (size_t t = 0; t < tokens->count; t++) {
        _Alignas(16) int16_t parts[8];
        part_sums(parts, tokens->x[t].sums + 16 * block);
        /* The codebook is 128 too high. */
        __m512i offset = _mm512_slli_epi32(few_pairs(pairs, parts, 4), 7);
        __m512i total = _mm512_sub_epi32(_mm512_load_si512(tokens->totals[t]), offset);
        add_block(tokens, t, block, d, total, d, total, false);
    }
}

/* Adds a block of sixteen rows to the tokens' sums. */
typedef void few_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block);

static ALWAYS_INLINE void few_super(const struct matmul *job, size_t first_row, size_t rows, size_t block_bytes,
                                    few_step *step)
{
    const struct matrix *weights = &job->weights;
    size_t stride = weights->row_bytes;
    struct few_tokens tokens;
    float *out[FEW_MOST_TOKENS];
    few_start(&tokens, out, job, ACTIVATION_Q8_256);
    for (size_t r = first_row; r < first_row + rows; r += FEW_ROWS) {
        struct few_rows at = few_rows(weights->data + r * stride, stride);
        struct prefetch ahead = {.next = (uintptr_t)at.four[0] + FEW_ROWS * stride};
        memset(tokens.sums, 0, tokens.count * sizeof tokens.sums[0]);
        for (size_t b = 0; b < weights->columns / 256; b++) {
            prefetch_more(&ahead, FEW_ROWS * block_bytes);
            step(&tokens, &at, b);
            for (int i = 0; i < 4; i++)
                at.four[i] += block_bytes;
        }
        for (size_t t = 0; t < tokens.count; t++)
            memcpy(out[t] + r, tokens.sums[t], sizeof tokens.sums[t]);
    }
}

#define FEW(name, block, step)                                                                                         \
    static void name(const struct matmul *job, size_t first_row, size_t rows)                                          \
    {                                                                                                                  \
        few_super(job, first_row, rows, sizeof(struct block), step);                                                   \
    }

FEW(few_q4_k, block_q4_k, q4_k_step)
FEW(few_q5_k, block_q5_k, q5_k_step)
FEW(few_q6_k, block_q6_k, q6_k_step)
FEW(few_iq4_xs, block_iq4_xs, iq4_xs_step)

void kernels_few_super_avx512(struct kernel_table *table)
{
    table->types[TENSOR_Q4_K].few = few_q4_k;
    table->types[TENSOR_Q5_K].few = few_q5_k;
    table->types[TENSOR_Q6_K].few = few_q6_k;
    table->types[TENSOR_IQ4_XS].few = few_iq4_xs;
}
