/* A few tokens, for types with blocks of 32. An offset makes the quants unsigned; the sums of activations correct for
 * it. */
#include "compute/cpu/few.h"
#include "compute/cpu/grids.h"

/* The first 32 bits of a block of every row: the scale, and the minimum or something else. They are gathered one by
 * one, a block ahead, because a vector load right after the stores would wait for them. */
struct heads {
    _Alignas(64) int32_t words[2][FEW_LANES];
};

static ALWAYS_INLINE void take_heads(struct heads *heads, const struct few_rows *rows, size_t block, size_t block_bytes)
{
    for (size_t i = 0; i < FEW_LANES; i++)
        memcpy(&heads->words[block % 2][i], few_row(rows, i) + block * block_bytes, sizeof heads->words[0][0]);
}

/* Unpacks 32 columns of the blocks at an offset. */
typedef void few_quants(few_ints out[8], const struct few_rows *rows, size_t offset);
typedef few_floats few_scales(few_ints heads);

/* offset: how much the quants are too high; most: as for few_dot. */
static ALWAYS_INLINE void few_blocks(const struct matmul *job, size_t first_row, size_t rows, size_t block_bytes,
                                     const int offset, const int most, few_quants *quants, few_scales *scales,
                                     few_scales *minima)
{
    size_t blocks = job->weights.columns / 32;
    struct few_tokens tokens;
    struct prefetch ahead = {0};
    struct heads heads;
    few_start(&tokens, job, ACTIVATION_Q8_32);
    for (size_t r = first_row; r < first_row + rows; r += FEW_LANES) {
        struct few_rows at = few_rows(&tokens, &ahead, &job->weights, r);
        take_heads(&heads, &at, 0, block_bytes);
        for (size_t b = 0; b < blocks; b++) {
            few_ints q[8], head = few_load(heads.words[b % 2]);
            prefetch_more(&ahead, FEW_LANES * block_bytes);
            if (b + 1 < blocks)
                take_heads(&heads, &at, b + 1, block_bytes);
            quants(q, &at, b * block_bytes);
            few_floats d = scales(head), m = minima ? minima(head) : d;
            for (size_t t = 0; t < tokens.count; t++) {
                const struct activation_row *x = &tokens.x[t];
                few_ints integer = few_dot(few_all(-offset * x->sums[b]), q, x->quants + 32 * b, 8, most);
                few_floats sum = few_add(few_load_floats(tokens.sums[t]), d, x->scales[b], integer);
                if (minima)
                    sum = few_add(sum, m, x->scales[b], few_all(x->sums[b]));
                few_store_floats(tokens.sums[t], sum);
            }
        }
        few_finish(&tokens, r);
    }
}

#define FEW(name, block, offset, most, quants, scales, minima)                                                         \
    static void name(const struct matmul *job, size_t first_row, size_t rows)                                          \
    {                                                                                                                  \
        few_blocks(job, first_row, rows, sizeof(struct block), offset, most, quants, scales, minima);                  \
    }

static ALWAYS_INLINE few_floats low_halves(few_ints heads)
{
    return few_halves(heads);
}

static ALWAYS_INLINE few_floats high_halves(few_ints heads)
{
    return few_halves(few_right(heads, 16));
}

/* 2^(e - 128), because the codebook is doubled. */
static ALWAYS_INLINE few_floats exponents(few_ints heads)
{
    return few_exponents(heads);
}

/* ---- quants ------------------------------------------------------------------------------------------------------ */

static ALWAYS_INLINE void q8_0_quants(few_ints out[8], const struct few_rows *rows, size_t offset)
{
    few_turn(out, rows, offset + offsetof(struct block_q8_0, qs));
    few_turn(out + 4, rows, offset + offsetof(struct block_q8_0, qs) + 16);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++)
        out[k] = few_with_sign(out[k]);
}

static ALWAYS_INLINE void nibbles(few_ints out[8], const struct few_rows *rows, size_t offset)
{
    const few_ints mask = few_all_bytes(15);
    few_turn(out, rows, offset);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        out[4 + k] = few_and(few_right_16(out[k], 4), mask);
        out[k] = few_and(out[k], mask);
    }
}

static ALWAYS_INLINE void q4_0_quants(few_ints out[8], const struct few_rows *rows, size_t offset)
{
    nibbles(out, rows, offset + offsetof(struct block_q4_0, qs));
}

static ALWAYS_INLINE void q4_1_quants(few_ints out[8], const struct few_rows *rows, size_t offset)
{
    nibbles(out, rows, offset + offsetof(struct block_q4_1, qs));
}

static ALWAYS_INLINE void codes(few_ints out[8], const struct few_rows *rows, size_t offset, const int8_t *codebook,
                                int raised)
{
    few_ints table = few_table(codebook, raised);
    nibbles(out, rows, offset);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++)
        out[k] = few_look_up(table, out[k]);
}

static ALWAYS_INLINE void iq4_nl_quants(few_ints out[8], const struct few_rows *rows, size_t offset)
{
    codes(out, rows, offset + offsetof(struct block_iq4_nl, qs), codebook_iq4, FEW_RAISED);
}

static ALWAYS_INLINE void mxfp4_quants(few_ints out[8], const struct few_rows *rows, size_t offset)
{
    codes(out, rows, offset + offsetof(struct block_mxfp4, qs), codebook_e2m1, 12);
}

/* Adds the fifth bits: each row has 32, and bit j is for column j. */
static ALWAYS_INLINE void fifth_bits(few_ints out[8], const struct few_rows *rows, size_t offset)
{
    _Alignas(64) int32_t words[FEW_LANES];
    for (size_t i = 0; i < FEW_LANES; i++)
        memcpy(&words[i], few_row(rows, i) + offset, sizeof words[i]);
    few_ints bits = few_load(words);
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++)
        out[k] = few_join(out[k], few_all_bytes(-1), few_fifth(bits, k));
}

static ALWAYS_INLINE void q5_0_quants(few_ints out[8], const struct few_rows *rows, size_t offset)
{
    nibbles(out, rows, offset + offsetof(struct block_q5_0, qs));
    fifth_bits(out, rows, offset + offsetof(struct block_q5_0, qh));
}

static ALWAYS_INLINE void q5_1_quants(few_ints out[8], const struct few_rows *rows, size_t offset)
{
    nibbles(out, rows, offset + offsetof(struct block_q5_1, qs));
    fifth_bits(out, rows, offset + offsetof(struct block_q5_1, qh));
}

FEW(few_q4_0, block_q4_0, 8, 15, q4_0_quants, low_halves, NULL)
FEW(few_q4_1, block_q4_1, 0, 15, q4_1_quants, low_halves, high_halves)
FEW(few_q5_0, block_q5_0, 16, 31, q5_0_quants, low_halves, NULL)
FEW(few_q5_1, block_q5_1, 0, 31, q5_1_quants, low_halves, high_halves)
FEW(few_q8_0, block_q8_0, FEW_RAISED, FEW_SIGNED, q8_0_quants, low_halves, NULL)
FEW(few_iq4_nl, block_iq4_nl, FEW_RAISED, FEW_SIGNED, iq4_nl_quants, low_halves, NULL)
FEW(few_mxfp4, block_mxfp4, 12, 24, mxfp4_quants, exponents, NULL)

/* ---- NVFP4 ------------------------------------------------------------------------------------------------------- */

/* Adds half a block: 32 columns in two parts, each with a scale of its own. The codes are 12 too high, which adds the
 * same to all rows. */
static ALWAYS_INLINE void nvfp4_half(struct few_tokens *tokens, const struct few_rows *rows, size_t block, size_t half)
{
    const few_ints mask = few_all_bytes(15), table = few_table(codebook_e2m1, 12), offset = few_all_bytes(12);
    const few_ints offsets[4] = {offset, offset, offset, offset};
    few_ints bytes[4], q[2][4];
    _Alignas(64) float d[2][FEW_LANES];
    size_t at = block * sizeof(struct block_nvfp4);
    few_turn(bytes, rows, at + offsetof(struct block_nvfp4, qs) + 16 * half);
#pragma GCC unroll 4
    for (int k = 0; k < 4; k++) {
        q[k / 2][k % 2] = few_look_up(table, few_and(bytes[k], mask));
        q[k / 2][2 + k % 2] = few_look_up(table, few_and(few_right_16(bytes[k], 4), mask));
    }
    for (size_t i = 0; i < FEW_LANES; i++)
        for (size_t part = 0; part < 2; part++)
            d[part][i] = scales_ue4m3[few_row(rows, i)[at + 2 * half + part]];
    for (size_t t = 0; t < tokens->count; t++) {
        const struct activation_row *x = &tokens->x[t];
        const int8_t *quants = x->quants + 64 * block + 32 * half;
        few_floats sum = few_load_floats(tokens->sums[t]);
#pragma GCC unroll 2
        for (size_t part = 0; part < 2; part++) {
            few_ints dot = few_dot(few_all(0), q[part], quants + 16 * part, 4, 24);
            dot = few_subtract(dot, few_dot(few_all(0), offsets, quants + 16 * part, 4, 24));
            sum = few_add(sum, few_load_floats(d[part]), x->scales[2 * block + half], dot);
        }
        few_store_floats(tokens->sums[t], sum);
    }
}

static void few_nvfp4(const struct matmul *job, size_t first_row, size_t rows)
{
    struct few_tokens tokens;
    struct prefetch ahead = {0};
    few_start(&tokens, job, ACTIVATION_Q8_32);
    for (size_t r = first_row; r < first_row + rows; r += FEW_LANES) {
        struct few_rows at = few_rows(&tokens, &ahead, &job->weights, r);
        for (size_t b = 0; b < job->weights.columns / 64; b++) {
            prefetch_more(&ahead, FEW_LANES * sizeof(struct block_nvfp4));
            nvfp4_half(&tokens, &at, b, 0);
            nvfp4_half(&tokens, &at, b, 1);
        }
        few_finish(&tokens, r);
    }
}

const struct kernel_table FEW_VARIANT(kernels_few_blocks) = {
    .types[TENSOR_Q4_0] = {.few = few_q4_0, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_Q4_1] = {.few = few_q4_1, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_Q5_0] = {.few = few_q5_0, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_Q5_1] = {.few = few_q5_1, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_Q8_0] = {.few = few_q8_0, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_IQ4_NL] = {.few = few_iq4_nl, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_MXFP4] = {.few = few_mxfp4, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_NVFP4] = {.few = few_nvfp4, .few_least_tokens = FEW_LEAST_NVFP4},
};
