/* A few tokens, for types with super-blocks of 256. */
#include "compute/cpu/few.h"
#include "compute/cpu/grids.h"

/* A part of 4 * count columns, from a column of the block on. add_part adds one or two parts to the integer sums of all
 * tokens. */
struct part {
    const few_ints *quants;
    size_t column;
    few_ints scale;
};

static ALWAYS_INLINE void add_part(struct few_tokens *tokens, size_t block, const bool first, const struct part *a,
                                   const struct part *b, const int count, const int most)
{
    for (size_t t = 0; t < tokens->count; t++) {
        const int8_t *x = tokens->x[t].quants + 256 * block;
        few_ints total = first ? few_all(0) : few_load(tokens->totals[t]);
        total = few_part(total, a->quants, x + a->column, count, most, a->scale);
        if (b)
            total = few_part(total, b->quants, x + b->column, count, most, b->scale);
        few_store(tokens->totals[t], total);
    }
}

/* Adds two parts, one after the other if the registers cannot hold both. */
static ALWAYS_INLINE void add_parts(struct few_tokens *tokens, size_t block, const bool first, const struct part *a,
                                    const struct part *b, const int count, const int most)
{
    if (2 * count < FEW_REGISTERS) {
        add_part(tokens, block, first, a, b, count, most);
    } else {
        add_part(tokens, block, first, a, NULL, count, most);
        add_part(tokens, block, false, b, NULL, count, most);
    }
}

/* Adds d * total to the sums of all tokens. If the quants are raised by 2^raised_bits, it first subtracts that times
 * the products of the scales (pairs) and the sums of the activations of 16 or 32 columns. */
static ALWAYS_INLINE void add_lowered(struct few_tokens *tokens, size_t block, few_floats d, const few_ints *pairs,
                                      const int parts, const unsigned raised_bits)
{
    for (size_t t = 0; t < tokens->count; t++) {
        const int16_t *sums = tokens->x[t].sums + 16 * block;
        _Alignas(16) int16_t of_32[8];
        if (parts == 8) {
            few_part_sums(of_32, sums);
            sums = of_32;
        }
        few_ints total = few_load(tokens->totals[t]);
        if (raised_bits)
            total = few_subtract(total, few_left(few_pairs(pairs, sums, parts / 2), raised_bits));
        few_store_floats(tokens->sums[t],
                         few_add(few_load_floats(tokens->sums[t]), d, tokens->x[t].scales[block], total));
    }
}

/* ---- Q4_K, Q5_K -------------------------------------------------------------------------------------------------- */

/* The first 16 bytes of both types. */
struct k_head {
    few_floats d, m;
    few_ints scales[8];
    few_ints minima[4]; /* of two parts each */
};

static ALWAYS_INLINE void k_head(struct k_head *out, const struct few_rows *rows)
{
    few_ints head[4], minima[8];
    const few_ints six = few_all(63), four = few_all(15), two = few_all(0x30);
    few_turn(head, rows, 0);
    out->d = few_halves(head[0]);
    out->m = few_halves(few_right(head[0], 16));
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++) {
        few_ints scale = few_right(head[1], 8 * i);
        few_ints minimum = few_right(head[2], 8 * i);
        few_ints low = few_right(head[3], 8 * i);
        out->scales[i] = few_scale(few_and(scale, six));
        out->scales[4 + i] = few_scale(few_join(few_right(scale, 2), two, few_and(low, four)));
        minima[i] = few_and(minimum, six);
        minima[4 + i] = few_join(few_right(minimum, 2), two, few_and(few_right(low, 4), four));
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++)
        out->minima[i] = few_pair(minima[2 * i], minima[2 * i + 1]);
}

/* The float operations of a block, after its integer sums are in totals. */
static ALWAYS_INLINE void k_floats(struct few_tokens *tokens, size_t block, const struct k_head *head)
{
    for (size_t t = 0; t < tokens->count; t++) {
        _Alignas(16) int16_t parts[8];
        float scale = tokens->x[t].scales[block];
        few_part_sums(parts, tokens->x[t].sums + 16 * block);
        few_floats sum = few_add(few_load_floats(tokens->sums[t]), head->d, scale, few_load(tokens->totals[t]));
        few_store_floats(tokens->sums[t], few_take(sum, head->m, scale, few_pairs(head->minima, parts, 4)));
    }
}

/* fifth: whether there are fifth bits (Q5_K). */
static ALWAYS_INLINE void k_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block,
                                 const size_t quants_at, const bool fifth)
{
    const few_ints mask = few_all_bytes(15), sixteen = few_all_bytes(16);
    struct k_head head;
    few_ints bits[8];
    k_head(&head, rows);
    if (fifth) {
        few_turn(bits, rows, offsetof(struct block_q5_k, qh));
        few_turn(bits + 4, rows, offsetof(struct block_q5_k, qh) + 16);
    }
#pragma GCC unroll 4
    for (unsigned j = 0; j < 4; j++) {
        few_ints low[8], high[8];
        few_turn(low, rows, quants_at + 32 * j);
        few_turn(low + 4, rows, quants_at + 32 * j + 16);
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            high[k] = few_and(few_right_16(low[k], 4), mask);
            low[k] = few_and(low[k], mask);
            if (fifth) { /* move bits 2 j and 2 j + 1 to bit 4 */
                few_ints first = j < 2 ? few_left_16(bits[k], 4 - 2 * j) : j == 2 ? bits[k] : few_right_16(bits[k], 2);
                few_ints second = j < 2 ? few_left_16(bits[k], 3 - 2 * j) : few_right_16(bits[k], 2 * j - 3);
                high[k] = few_join(second, sixteen, high[k]);
                low[k] = few_join(first, sixteen, low[k]);
            }
        }
        struct part a = {low, 64 * j, head.scales[2 * j]}, b = {high, 64 * j + 32, head.scales[2 * j + 1]};
        add_parts(tokens, block, j == 0, &a, &b, 8, fifth ? 31 : 15);
    }
    k_floats(tokens, block, &head);
}

static ALWAYS_INLINE void q4_k_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block)
{
    k_step(tokens, rows, block, offsetof(struct block_q4_k, qs), false);
}

static ALWAYS_INLINE void q5_k_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block)
{
    k_step(tokens, rows, block, offsetof(struct block_q5_k, qs), true);
}

/* ---- Q6_K -------------------------------------------------------------------------------------------------------- */

static ALWAYS_INLINE void q6_k_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block)
{
    const few_ints low = few_all_bytes(15), two = few_all_bytes(48);
    _Alignas(32) uint16_t d[FEW_LANES]; /* stored one by one; loaded whole at the end, without waiting for the stores */
    for (size_t i = 0; i < FEW_LANES; i++)
        memcpy(&d[i], few_row(rows, i) + offsetof(struct block_q6_k, d), sizeof d[i]);
    few_ints bytes[4], scales[16], pairs[8];
    few_turn(bytes, rows, offsetof(struct block_q6_k, scales));
#pragma GCC unroll 16
    for (unsigned i = 0; i < 16; i++)
        scales[i] = few_right_signed(few_left(bytes[i / 4], 24 - 8 * (i % 4)), 24);
#pragma GCC unroll 8
    for (unsigned i = 0; i < 8; i++)
        pairs[i] = few_pair(scales[2 * i], scales[2 * i + 1]);
#pragma GCC unroll 4
    for (size_t i = 0; i < 4; i++) {
        size_t half = i / 2, part = i % 2, column = 128 * half + 16 * part;
        few_ints a[4], b[4], high[4], quants[4][4];
        few_turn(a, rows, 64 * half + 16 * part);
        few_turn(b, rows, 64 * half + 32 + 16 * part);
        few_turn(high, rows, offsetof(struct block_q6_k, qh) + 32 * half + 16 * part);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            quants[0][k] = few_join(few_left_16(high[k], 4), two, few_and(a[k], low));
            quants[1][k] = few_join(few_left_16(high[k], 2), two, few_and(b[k], low));
            quants[2][k] = few_join(high[k], two, few_and(few_right_16(a[k], 4), low));
            quants[3][k] = few_join(few_right_16(high[k], 2), two, few_and(few_right_16(b[k], 4), low));
        }
        const few_ints *scale = scales + 8 * half + part;
        struct part parts[4];
#pragma GCC unroll 4
        for (size_t k = 0; k < 4; k++)
            parts[k] = (struct part){quants[k], column + 32 * k, few_scale(scale[2 * k])};
        add_parts(tokens, block, i == 0, &parts[0], &parts[1], 4, 63);
        add_parts(tokens, block, false, &parts[2], &parts[3], 4, 63);
    }
    add_lowered(tokens, block, few_load_halves(d), pairs, 16, 5);
}

/* ---- IQ4_XS ------------------------------------------------------------------------------------------------------ */

static ALWAYS_INLINE void iq4_xs_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block)
{
    const few_ints mask = few_all_bytes(15), codes = few_table(codebook_iq4, FEW_RAISED);
    few_ints head[4], scales[8], pairs[4];
    few_turn(head, rows, 0);
#pragma GCC unroll 8
    for (unsigned i = 0; i < 8; i++) {
        few_ints low = few_and(few_right(head[1], 4 * i), few_all(15));
        few_ints high = few_and(few_right(head[0], 16 + 2 * i), few_all(3));
        scales[i] = few_subtract(few_join(few_left(high, 4), few_all(-1), low), few_all(32));
    }
#pragma GCC unroll 4
    for (unsigned i = 0; i < 4; i++)
        pairs[i] = few_pair(scales[2 * i], scales[2 * i + 1]);
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) {
        few_ints low[8], high[8]; /* parts 2 j and 2 j + 1, each with the low halves of its bytes first */
        few_turn(low, rows, offsetof(struct block_iq4_xs, qs) + 32 * j);
        few_turn(high, rows, offsetof(struct block_iq4_xs, qs) + 32 * j + 16);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) {
            low[4 + k] = few_look_up(codes, few_and(few_right_16(low[k], 4), mask));
            low[k] = few_look_up(codes, few_and(low[k], mask));
            high[4 + k] = few_look_up(codes, few_and(few_right_16(high[k], 4), mask));
            high[k] = few_look_up(codes, few_and(high[k], mask));
        }
        struct part a = {low, 64 * j, few_scale(scales[2 * j])}, b = {high, 64 * j + 32, few_scale(scales[2 * j + 1])};
        add_parts(tokens, block, j == 0, &a, &b, 8, FEW_SIGNED);
    }
    add_lowered(tokens, block, few_halves(head[0]), pairs, 8, FEW_RAISED == 128 ? 7 : 0);
}

/* Adds a block of FEW_LANES rows to the tokens' sums. */
typedef void few_step(struct few_tokens *tokens, const struct few_rows *rows, size_t block);

static ALWAYS_INLINE void few_super(const struct matmul *job, size_t first_row, size_t rows, size_t block_bytes,
                                    few_step *step)
{
    struct few_tokens tokens;
    struct prefetch ahead = {0};
    few_start(&tokens, job, ACTIVATION_Q8_256);
    for (size_t r = first_row; r < first_row + rows; r += FEW_LANES) {
        struct few_rows at = few_rows(&tokens, &ahead, &job->weights, r);
        for (size_t b = 0; b < job->weights.columns / 256; b++) {
            prefetch_more(&ahead, FEW_LANES * block_bytes);
            step(&tokens, &at, b);
            for (size_t i = 0; i < FEW_LANES / 4; i++)
                at.four[i] += block_bytes;
        }
        few_finish(&tokens, r);
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

const struct kernel_table FEW_VARIANT(kernels_few_super) = {
    .types[TENSOR_Q4_K] = {.few = few_q4_k, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_Q5_K] = {.few = few_q5_k, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_Q6_K] = {.few = few_q6_k, .few_least_tokens = FEW_LEAST},
    .types[TENSOR_IQ4_XS] = {.few = few_iq4_xs, .few_least_tokens = FEW_LEAST},
};
