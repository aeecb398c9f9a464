/* attention_rows: shared by kernels over a cache's rows. It reads rows of any type, multiplies blocks of them, and
 * unpacks them. The files that include it are built once for each instruction set. */
#ifndef HYPURA_COMPUTE_ATTENTION_ROWS_H
#define HYPURA_COMPUTE_ATTENTION_ROWS_H

#include "compute/cpu/attention.h"
#include "compute/cpu/lanes.h"

#define BLOCK ATTENTION_BLOCK
#define BLOCK_VECTORS (BLOCK / LANES)

/* ---- elements of cache rows -------------------------------------------------------------------------------------- */

/* Reads sixteen elements of a cache row, from element c, a multiple of 16. type is a constant, so each type gets its
 * own code. */
static inline __attribute__((always_inline)) lanes read_16(const enum tensor_type type, const uint8_t *row, size_t c)
{
    uint16_t scale;
    switch (type) {
    case TENSOR_F16:
        return lanes_from_half((const uint16_t *)(const void *)(row + 2 * c));
    case TENSOR_BF16:
        return lanes_from_bfloat((const uint16_t *)(const void *)(row + 2 * c));
    case TENSOR_Q8_0:
        row += c / 32 * 34;
        memcpy(&scale, row, sizeof scale);
        return lanes_multiply(lanes_from_int8((const int8_t *)row + 2 + c % 32), lanes_all(lanes_one_from_half(scale)));
    case TENSOR_Q4_0: {
        int8_t quants[LANES];
        row += c / 32 * 18;
        memcpy(&scale, row, sizeof scale);
        for (size_t i = 0; i < LANES; i++)
            quants[i] = (int8_t)((row[2 + i] >> (c % 32 ? 4 : 0) & 15) - 8);
        return lanes_multiply(lanes_from_int8(quants), lanes_all(lanes_one_from_half(scale)));
    }
    default:
        return lanes_load((const float *)(const void *)(row + 4 * c));
    }
}

/* Reads the last elements, fewer than sixteen, and fills with zeros. Only plain types have such. */
static inline lanes read_last(enum tensor_type type, const uint8_t *row, size_t c, size_t size)
{
    float out[LANES] = {0};
    for (size_t i = 0; c + i < size; i++) {
        uint16_t half;
        if (type == TENSOR_F32) {
            memcpy(&out[i], row + 4 * (c + i), sizeof out[i]);
            continue;
        }
        memcpy(&half, row + 2 * (c + i), sizeof half);
        out[i] = type == TENSOR_F16 ? half_to_float(half) : bfloat_to_float(half);
    }
    return lanes_load(out);
}

/* Prefetches the same elements of the next block of positions, which the processor does not do in time. Once per cache
 * line, and into the second-level cache, because the first is too small. */
static inline __attribute__((always_inline)) void prefetch_16(const enum tensor_type type, const uint8_t *row, size_t c,
                                                              size_t stride)
{
    size_t per_line = type == TENSOR_F32 ? 16 : type == TENSOR_F16 || type == TENSOR_BF16 ? 32 : 64;
    size_t byte = type == TENSOR_F32                          ? 4 * c
                  : type == TENSOR_F16 || type == TENSOR_BF16 ? 2 * c
                  : type == TENSOR_Q8_0                       ? c / 32 * 34
                                                              : c / 32 * 18;
    if (c % per_line == 0)
        __builtin_prefetch((const void *)((uintptr_t)row + BLOCK * stride + byte), 0, 2);
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

/* out[i][j] = start + sum over k from first to end, in order, of a[i][k] * b[k][j], for rows x vectors * 16 outputs,
 * where start is 0, or out[i][j] * factors[i] if factors is not NULL. Rows of b are cache rows of any type (floats
 * are F32), b_stride bytes apart. read_ahead prefetches the next block of positions. */
struct product {
    float *out;
    size_t out_stride;
    const float *a;
    size_t a_stride;
    const void *b;
    size_t b_stride;
    size_t first, end;
    const float *factors;
    const float *scales; /* TURNED_Q8_0 */
    bool read_ahead;
};

/* b has 16-bit integers, in rows of b_stride bytes; row k is multiplied by scales[k / 32]. */
#define TURNED_Q8_0 ((enum tensor_type)TENSOR_TYPE_COUNT)

static inline __attribute__((always_inline)) lanes read_operand(const enum tensor_type type, const struct product *p,
                                                                size_t k, size_t column)
{
    const uint8_t *row = (const uint8_t *)p->b + k * p->b_stride;
#ifdef LANES_TURN_COLUMNS
    if (type == TURNED_Q8_0)
        return lanes_multiply(lanes_from_int16((const int16_t *)(const void *)(row + 2 * column)),
                              lanes_load(p->scales + k / 32 * BLOCK + column));
#endif
    return read_16(type, row, column);
}

static inline __attribute__((always_inline)) void product_tile(const enum tensor_type type, const struct product *p,
                                                               size_t row, size_t column, const size_t rows,
                                                               const size_t vectors)
{
    lanes sums[LANES_TILE_ROWS][LANES_TILE_VECTORS];
    const float *a = p->a + row * p->a_stride;
    const uint8_t *b = p->b;
    float *out = p->out + row * p->out_stride + column;
    bool read_ahead = p->read_ahead && row == 0;
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < vectors; j++)
            sums[i][j] = p->factors ? lanes_multiply(lanes_load(out + i * p->out_stride + j * LANES),
                                                     lanes_all(p->factors[row + i]))
                                    : lanes_all(0.0f);
    for (size_t k = p->first; k < p->end; k++) {
        lanes right[LANES_TILE_VECTORS];
        for (size_t j = 0; j < vectors; j++) {
            if (read_ahead)
                prefetch_16(type, b + k * p->b_stride, column + j * LANES, p->b_stride);
            right[j] = read_operand(type, p, k, column + j * LANES);
        }
        for (size_t i = 0; i < rows; i++) {
            lanes left = lanes_all(a[i * p->a_stride + k]);
            for (size_t j = 0; j < vectors; j++)
                sums[i][j] = lanes_fma(left, right[j], sums[i][j]);
        }
    }
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < vectors; j++)
            lanes_store(out + i * p->out_stride + j * LANES, sums[i][j]);
}

static inline __attribute__((always_inline)) void product_rows(const enum tensor_type type, const struct product *p,
                                                               size_t row, size_t rows, size_t column, size_t vectors)
{
#define TILE(r)                                                                                                        \
    case r:                                                                                                            \
        if (vectors == LANES_TILE_VECTORS)                                                                             \
            product_tile(type, p, row, column, r, LANES_TILE_VECTORS);                                                 \
        else                                                                                                           \
            for (size_t j = 0; j < vectors; j++)                                                                       \
                product_tile(type, p, row, column + j * LANES, r, 1);                                                  \
        break
    switch (rows) {
        TILE(1);
        TILE(2);
        TILE(3);
        TILE(4);
#if LANES_TILE_ROWS == 6
        TILE(5);
        TILE(6);
#endif
    }
#undef TILE
}

static inline __attribute__((always_inline)) void product_of(const enum tensor_type type, const struct product *p,
                                                             size_t rows, size_t vectors)
{
    for (size_t j = 0; j < vectors; j += LANES_TILE_VECTORS)
        for (size_t i = 0; i < rows; i += LANES_TILE_ROWS)
            product_rows(type, p, i, MIN(rows - i, (size_t)LANES_TILE_ROWS), j * LANES,
                         MIN(vectors - j, (size_t)LANES_TILE_VECTORS));
}

static inline void product(const struct product *p, size_t rows, size_t vectors)
{
    product_of(TENSOR_F32, p, rows, vectors);
}

static inline void product_f16(const struct product *p, size_t rows, size_t vectors)
{
    product_of(TENSOR_F16, p, rows, vectors);
}

static inline void product_bf16(const struct product *p, size_t rows, size_t vectors)
{
    product_of(TENSOR_BF16, p, rows, vectors);
}

static inline void product_q8_0(const struct product *p, size_t rows, size_t vectors)
{
    product_of(TENSOR_Q8_0, p, rows, vectors);
}

/* ---- cache rows to floats ---------------------------------------------------------------------------------------- */

/* Unpacks values to out[j][d], for positions [first, end), padded with zeros to whole vectors. */
static inline __attribute__((always_inline)) void unpack_rows(const enum tensor_type type, float *out,
                                                              const uint8_t *rows, size_t stride, size_t size,
                                                              size_t first, size_t end)
{
    size_t out_stride = attention_value_floats(size);
    for (size_t j = first; j < end; j++) {
        size_t c = 0;
        for (; c + LANES <= size; c += LANES) {
            prefetch_16(type, rows + j * stride, c, stride);
            lanes_store(out + j * out_stride + c, read_16(type, rows + j * stride, c));
        }
        if (c < size)
            lanes_store(out + j * out_stride + c, read_last(type, rows + j * stride, c, size));
    }
}

/* Transposes sixteen elements of sixteen positions. */
static inline __attribute__((always_inline)) void unpack_square(const enum tensor_type type, float *out,
                                                                const uint8_t *rows, size_t stride, size_t c)
{
    lanes square[LANES];
#pragma GCC unroll 16
    for (size_t i = 0; i < LANES; i++) {
        prefetch_16(type, rows + i * stride, c, stride);
        square[i] = read_16(type, rows + i * stride, c);
    }
    lanes_transpose(square);
#pragma GCC unroll 16
    for (size_t i = 0; i < LANES; i++)
        lanes_store(out + i * BLOCK, square[i]);
}

/* The same for fewer positions or elements: missing positions become zeros, missing elements are not written. */
static inline void unpack_edge(enum tensor_type type, float *out, const uint8_t *rows, size_t stride, size_t c,
                               size_t count, size_t size)
{
    lanes square[LANES];
    for (size_t i = 0; i < LANES; i++)
        square[i] = i >= count          ? lanes_all(0.0f)
                    : c + LANES <= size ? read_16(type, rows + i * stride, c)
                                        : read_last(type, rows + i * stride, c, size);
    lanes_transpose(square);
    for (size_t i = 0; i < MIN(size - c, (size_t)LANES); i++)
        lanes_store(out + i * BLOCK, square[i]);
}

/* Transposes keys to out[d][j], for positions up to end. Fills with zeros up to the next multiple of sixteen; the rest
 * stays stale. */
static inline __attribute__((always_inline)) void
unpack_columns(const enum tensor_type type, float *out, const uint8_t *rows, size_t stride, size_t size, size_t end)
{
    for (size_t j = 0; j < end; j += LANES) {
        for (size_t c = 0; c < size; c += LANES) {
            if (j + LANES <= end && c + LANES <= size)
                unpack_square(type, out + c * BLOCK + j, rows + j * stride, stride, c);
            else
                unpack_edge(type, out + c * BLOCK + j, rows + j * stride, stride, c, MIN(end - j, (size_t)LANES), size);
        }
    }
}

#define FOR_TYPE(type, call)                                                                                           \
    switch (type) {                                                                                                    \
    case TENSOR_F16:                                                                                                   \
        call(TENSOR_F16);                                                                                              \
        break;                                                                                                         \
    case TENSOR_BF16:                                                                                                  \
        call(TENSOR_BF16);                                                                                             \
        break;                                                                                                         \
    case TENSOR_Q8_0:                                                                                                  \
        call(TENSOR_Q8_0);                                                                                             \
        break;                                                                                                         \
    case TENSOR_Q4_0:                                                                                                  \
        call(TENSOR_Q4_0);                                                                                             \
        break;                                                                                                         \
    default:                                                                                                           \
        call(TENSOR_F32);                                                                                              \
        break;                                                                                                         \
    }

#endif
