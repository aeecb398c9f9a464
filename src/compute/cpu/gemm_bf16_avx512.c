/* gemm_floats.h for BF16 weights with the processor's BF16 dot product: as gemm_floats.c, but without conversions. */
#include "compute/cpu/gemm_floats.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#define STEP ((size_t)1024) /* columns */
#define TILE_ROWS 4
#define TILE_TOKENS 6
#define LANES 16

struct block {
    const struct matmul *job;
    size_t first_row, rows;
    size_t first_token, tokens;
    float *sums;      /* [rows / TILE_ROWS][tokens][TILE_ROWS][LANES] */
    uint16_t *inputs; /* [tokens][STEP] */
};

INLINE void columns_32(__m512 (*sums)[TILE_ROWS], const uint8_t *const rows[TILE_ROWS], const uint16_t *inputs,
                       size_t c, const int tokens, __mmask32 mask)
{
    __m512bh w[TILE_ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < TILE_ROWS; r++)
        w[r] = (__m512bh)_mm512_maskz_loadu_epi16(mask, rows[r] + 2 * c);
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++) {
        __m512bh x = (__m512bh)_mm512_load_si512(inputs + (size_t)t * STEP + c);
#pragma GCC unroll 4
        for (int r = 0; r < TILE_ROWS; r++)
            sums[t][r] = _mm512_dpbf16_ps(sums[t][r], w[r], x);
    }
}

INLINE void tile(float *sums, const uint8_t *const rows[TILE_ROWS], const uint16_t *inputs, size_t count,
                 const int tokens)
{
    __m512 out[TILE_TOKENS][TILE_ROWS];
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int r = 0; r < TILE_ROWS; r++)
            out[t][r] = _mm512_load_ps(sums + (t * TILE_ROWS + r) * LANES);
    size_t c = 0;
    for (; c + 32 <= count; c += 32)
        columns_32(out, rows, inputs, c, tokens, (__mmask32)-1);
    if (c < count)
        columns_32(out, rows, inputs, c, tokens, (__mmask32)((1u << (count - c)) - 1));
#pragma GCC unroll 6
    for (int t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (int r = 0; r < TILE_ROWS; r++)
            _mm512_store_ps(sums + (t * TILE_ROWS + r) * LANES, out[t][r]);
}

static void tiles(const struct block *block, float *sums, const uint8_t *const rows[TILE_ROWS], size_t count)
{
    for (size_t t = 0; t < block->tokens; t += TILE_TOKENS, sums += TILE_TOKENS * TILE_ROWS * LANES) {
        const uint16_t *inputs = block->inputs + t * STEP;
#define TOKENS(n)                                                                                                      \
    case n:                                                                                                            \
        tile(sums, rows, inputs, count, n);                                                                            \
        break
        switch (block->tokens - t) {
            TOKENS(1);
            TOKENS(2);
            TOKENS(3);
            TOKENS(4);
            TOKENS(5);
        default:
            tile(sums, rows, inputs, count, TILE_TOKENS);
            break;
        }
#undef TOKENS
    }
}

/* Adds lanes 8 and 8, then 4 and 4, 2 and 2, 1 and 1. */
static float fold(const float *sums)
{
    __m256 eight = _mm256_add_ps(_mm256_load_ps(sums), _mm256_load_ps(sums + 8));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static void take_inputs(const struct block *block, size_t first, size_t count)
{
    const struct matmul *job = block->job;
    for (size_t t = 0; t < block->tokens; t++) {
        size_t token = block->first_token + t;
        struct activation_row x =
            activation_row(job->input, ACTIVATION_BFLOAT, job->input_rows ? job->input_rows[token] : token);
        memcpy(block->inputs + t * STEP, x.bfloats + first, count * sizeof *x.bfloats);
    }
}

/* Prefetches the next tile's columns. The processor cannot, because each row is left at the end of the step. */
static void prefetch_rows(const struct matrix *weights, size_t row, size_t first, size_t count)
{
    for (size_t end = MIN(row + TILE_ROWS, weights->rows); row < end; row++)
        for (size_t byte = first * 2; byte < (first + count) * 2; byte += 64)
            __builtin_prefetch(weights->data + row * weights->row_bytes + byte);
}

static void run_block(const struct block *block)
{
    const struct matmul *job = block->job;
    const struct matrix *weights = &job->weights;
    size_t tile_sums = block->tokens * TILE_ROWS * LANES;
    size_t last = block->first_row + block->rows - 1;
    memset(block->sums, 0, (block->rows + TILE_ROWS - 1) / TILE_ROWS * tile_sums * sizeof(float));
    for (size_t first = 0; first < weights->columns; first += STEP) {
        size_t count = MIN(STEP, weights->columns - first);
        take_inputs(block, first, align_up(count, 32)); /* copies are padded with zeros */
        for (size_t r = 0; r < block->rows; r += TILE_ROWS) {
            const uint8_t *rows[TILE_ROWS];
            for (size_t i = 0; i < TILE_ROWS; i++) /* past the end: repeats the last row, unused */
                rows[i] = weights->data + MIN(block->first_row + r + i, last) * weights->row_bytes + 2 * first;
            prefetch_rows(weights, block->first_row + r + TILE_ROWS, first, count);
            tiles(block, block->sums + r / TILE_ROWS * tile_sums, rows, count);
        }
    }
    for (size_t t = 0; t < block->tokens; t++) {
        size_t token = block->first_token + t;
        float *out = job->output + (job->output_rows ? job->output_rows[token] : token) * job->output_stride;
        for (size_t r = 0; r < block->rows; r++)
            out[block->first_row + r] =
                fold(block->sums + r / TILE_ROWS * tile_sums + (t * TILE_ROWS + r % TILE_ROWS) * LANES);
    }
}

static void gemm(const struct matmul *job, size_t first_row, size_t rows, size_t first_token, size_t tokens,
                 void *scratch)
{
    struct block block = {.job = job, .sums = scratch};
    block.inputs = (uint16_t *)(block.sums + FLOATS_BLOCK_ROWS * MIN(tokens, FLOATS_BLOCK_TOKENS) * LANES);
    for (size_t t = 0; t < tokens; t += FLOATS_BLOCK_TOKENS) {
        for (size_t r = 0; r < rows; r += FLOATS_BLOCK_ROWS) {
            block.first_row = first_row + r;
            block.rows = MIN(FLOATS_BLOCK_ROWS, rows - r);
            block.first_token = first_token + t;
            block.tokens = MIN(FLOATS_BLOCK_TOKENS, tokens - t);
            run_block(&block);
        }
    }
}

_Static_assert(STEP * sizeof(uint16_t) == FLOATS_STEP * sizeof(float) && LANES == FLOATS_LANES,
               "gemm_floats_scratch_bytes counts the inputs of gemm_floats.c");

const struct kernel_table gemm_bf16_avx512 = {
    .types[TENSOR_BF16] = {.gemm = gemm, .gemm_least_tokens = 3, .gemm_task_rows = FLOATS_BLOCK_ROWS},
};
