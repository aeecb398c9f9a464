#include "compute/cpu/gemm_floats.h"
#include "compute/cpu/lanes.h"

#define STEP ((size_t)512) /* columns */

/* A tile's sums, and one more vector per row, fit the registers. */
#if LANES_TILE_VECTORS == 4
#define TILE_ROWS 4
#define TILE_TOKENS 6
#else
#define TILE_ROWS 2
#define TILE_TOKENS 3
#endif

struct block {
    const struct matmul *job;
    size_t first_row, rows;
    size_t first_token, tokens;
    float *sums;    /* [rows / TILE_ROWS][tokens][TILE_ROWS][LANES] */
    float *inputs;  /* [tokens][STEP] */
    float *weights; /* [TILE_ROWS][STEP] */
};

/* ---- columns first to first + count as floats, zeros up to a whole number of vectors ----------------------------- */

static void take_floats(float *out, const uint8_t *row, size_t first, size_t count)
{
    memcpy(out, row + first * sizeof *out, count * sizeof *out);
    for (; count % LANES; count++)
        out[count] = 0.0f;
}

static void take_halves(float *out, const uint8_t *row, size_t first, size_t count)
{
    const uint8_t *from = row + first * 2;
    size_t c = 0;
    for (; c + LANES <= count; c += LANES)
        lanes_store(out + c, lanes_from_half((const uint16_t *)(const void *)(from + 2 * c)));
    if (c < count) {
        uint16_t rest[LANES] = {0};
        memcpy(rest, from + 2 * c, (count - c) * 2);
        lanes_store(out + c, lanes_from_half(rest));
    }
}

/* Puts the odd ones of every 32 columns first, then the even ones: lane i adds columns 2 i + 1 and 2 i. */
static void take_bfloats(float *out, const uint8_t *row, size_t first, size_t count)
{
    const uint8_t *from = row + first * 2;
    for (size_t c = 0; c < count; c += 2 * LANES) {
        uint32_t pairs[LANES] = {0}, odd[LANES], even[LANES];
        memcpy(pairs, from + 2 * c, MIN(count - c, (size_t)2 * LANES) * 2);
        for (size_t i = 0; i < LANES; i++) {
            odd[i] = pairs[i] & 0xffff0000u;
            even[i] = pairs[i] << 16;
        }
        memcpy(out + c, odd, sizeof odd);
        memcpy(out + c + LANES, even, sizeof even);
    }
}

static void take_weights(enum tensor_type type, float *out, const uint8_t *row, size_t first, size_t count)
{
    if (type == TENSOR_F32)
        take_floats(out, row, first, count);
    else if (type == TENSOR_F16)
        take_halves(out, row, first, count);
    else
        take_bfloats(out, row, first, count);
}

static void take_inputs(const struct block *block, size_t first, size_t count)
{
    const struct matmul *job = block->job;
    bool brain = job->weights.type == TENSOR_BF16;
    for (size_t t = 0; t < block->tokens; t++) {
        size_t token = block->first_token + t;
        struct activation_row x = activation_row(job->input, brain ? ACTIVATION_BFLOAT : ACTIVATION_FLOAT,
                                                 job->input_rows ? job->input_rows[token] : token);
        if (brain)
            take_bfloats(block->inputs + t * STEP, (const uint8_t *)x.bfloats, first, count);
        else
            take_floats(block->inputs + t * STEP, (const uint8_t *)x.floats, first, count);
    }
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* Multiplies all rows of a tile by some tokens. */
static inline __attribute__((always_inline)) void tile(float *sums, const float *weights, const float *inputs,
                                                       size_t count, const size_t tokens)
{
    lanes out[TILE_TOKENS][TILE_ROWS];
#pragma GCC unroll 6
    for (size_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (size_t r = 0; r < TILE_ROWS; r++)
            out[t][r] = lanes_load(sums + (t * TILE_ROWS + r) * LANES);
    for (size_t c = 0; c < count; c += LANES) {
        lanes w[TILE_ROWS];
#pragma GCC unroll 4
        for (size_t r = 0; r < TILE_ROWS; r++)
            w[r] = lanes_load(weights + r * STEP + c);
#pragma GCC unroll 6
        for (size_t t = 0; t < tokens; t++) {
            lanes x = lanes_load(inputs + t * STEP + c);
#pragma GCC unroll 4
            for (size_t r = 0; r < TILE_ROWS; r++)
                out[t][r] = lanes_fma(w[r], x, out[t][r]);
        }
    }
#pragma GCC unroll 6
    for (size_t t = 0; t < tokens; t++)
#pragma GCC unroll 4
        for (size_t r = 0; r < TILE_ROWS; r++)
            lanes_store(sums + (t * TILE_ROWS + r) * LANES, out[t][r]);
}

static void tiles(const struct block *block, float *sums, size_t count)
{
    size_t t = 0;
    for (; t + TILE_TOKENS <= block->tokens; t += TILE_TOKENS)
        tile(sums + t * TILE_ROWS * LANES, block->weights, block->inputs + t * STEP, count, TILE_TOKENS);
    sums += t * TILE_ROWS * LANES;
    const float *inputs = block->inputs + t * STEP;
    switch (block->tokens - t) {
    case 1:
        tile(sums, block->weights, inputs, count, 1);
        break;
    case 2:
        tile(sums, block->weights, inputs, count, 2);
        break;
#if TILE_TOKENS == 6
    case 3:
        tile(sums, block->weights, inputs, count, 3);
        break;
    case 4:
        tile(sums, block->weights, inputs, count, 4);
        break;
    case 5:
        tile(sums, block->weights, inputs, count, 5);
        break;
#endif
    default:
        break;
    }
}

/* Prefetches the next tile's columns. The processor cannot, because each row is left at the end of the step. */
static void prefetch_rows(const struct matrix *weights, size_t row, size_t first, size_t count)
{
    size_t element = weights->type == TENSOR_F32 ? 4 : 2;
    for (size_t end = MIN(row + TILE_ROWS, weights->rows); row < end; row++)
        for (size_t byte = first * element; byte < (first + count) * element; byte += 64)
            __builtin_prefetch(weights->data + row * weights->row_bytes + byte);
}

static void run_block(const struct block *block)
{
    const struct matmul *job = block->job;
    const struct matrix *weights = &job->weights;
    size_t columns = weights->columns, tile_sums = block->tokens * TILE_ROWS * LANES;
    size_t last = block->first_row + block->rows - 1;
    memset(block->sums, 0, (block->rows + TILE_ROWS - 1) / TILE_ROWS * tile_sums * sizeof(float));
    for (size_t first = 0; first < columns; first += STEP) {
        size_t count = MIN(STEP, columns - first);
        /* Odd and even columns of BF16 are two vectors. */
        size_t padded = align_up(count, weights->type == TENSOR_BF16 ? 2 * LANES : LANES);
        take_inputs(block, first, count);
        for (size_t r = 0; r < block->rows; r += TILE_ROWS) {
            for (size_t i = 0; i < TILE_ROWS; i++) /* past the end: repeats the last row, unused */
                take_weights(weights->type, block->weights + i * STEP,
                             weights->data + MIN(block->first_row + r + i, last) * weights->row_bytes, first, count);
            prefetch_rows(weights, block->first_row + r + TILE_ROWS, first, count);
            tiles(block, block->sums + r / TILE_ROWS * tile_sums, padded);
        }
    }
    for (size_t t = 0; t < block->tokens; t++) {
        size_t token = block->first_token + t;
        float *out = job->output + (job->output_rows ? job->output_rows[token] : token) * job->output_stride;
        for (size_t r = 0; r < block->rows; r++) {
            const float *sums = block->sums + r / TILE_ROWS * tile_sums + (t * TILE_ROWS + r % TILE_ROWS) * LANES;
            out[block->first_row + r] = lanes_fold_add(lanes_load(sums));
        }
    }
}

static void gemm(const struct matmul *job, size_t first_row, size_t rows, size_t first_token, size_t tokens,
                 void *scratch)
{
    struct block block = {.job = job, .sums = scratch};
    const size_t block_tokens = MIN(tokens, FLOATS_BLOCK_TOKENS);
    block.inputs = block.sums + FLOATS_BLOCK_ROWS * block_tokens * LANES;
    block.weights = block.inputs + block_tokens * STEP;
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

_Static_assert(STEP == FLOATS_STEP && TILE_ROWS <= FLOATS_TILE_ROWS && LANES == FLOATS_LANES,
               "gemm_floats_scratch_bytes knows these");

#define ENTRY                                                                                                          \
    {                                                                                                                  \
        .gemm = gemm, .gemm_least_tokens = 6, .gemm_task_rows = FLOATS_BLOCK_ROWS                                      \
    }

const struct kernel_table VARIANT(gemm_floats) = {
    .types[TENSOR_F32] = ENTRY,
    .types[TENSOR_F16] = ENTRY,
    .types[TENSOR_BF16] = ENTRY,
};
