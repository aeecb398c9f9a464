#include "compute/cpu/attention.h"
#include "compute/cpu/lanes.h"

#include <float.h>

#define BLOCK ATTENTION_BLOCK
#define BLOCK_VECTORS (BLOCK / LANES)

/* The maximum of a query that has seen nothing: finite, so that differences from it are numbers. */
#define NOTHING (-FLT_MAX)

/* ---- elements of cache rows ------------------------------------------------------------------------------------- */

/* A reader of one type has sixteen elements of a cache row, from element c, a multiple of 16. */
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

/* The elements past the last whole sixteen, which only plain types have; the rest is zero. */
static lanes read_last(enum tensor_type type, const uint8_t *row, size_t c, size_t size)
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

/* Asks for the same elements in the next block of positions, which the processor does not guess in time; once in every
 * cache line, and into the second-level cache: the first has no room for as much. */
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
 * where start is 0, or out[i][j] * factors[i] when factors is not NULL. Rows of b are cache rows of any type (floats
 * are F32), b_stride bytes apart; read_ahead asks for those of the next block of positions too. */
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

/* b: 16-bit integers, of b_stride bytes a row; row k times scales[k / 32]. */
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

static void product(const struct product *p, size_t rows, size_t vectors)
{
    product_of(TENSOR_F32, p, rows, vectors);
}

static void product_f16(const struct product *p, size_t rows, size_t vectors)
{
    product_of(TENSOR_F16, p, rows, vectors);
}

static void product_bf16(const struct product *p, size_t rows, size_t vectors)
{
    product_of(TENSOR_BF16, p, rows, vectors);
}

static void product_q8_0(const struct product *p, size_t rows, size_t vectors)
{
    product_of(TENSOR_Q8_0, p, rows, vectors);
}

/* ---- cache rows to floats ---------------------------------------------------------------------------------------- */

/* Values: out[j][d], for positions first to end, padded with zeros to whole vectors. */
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

/* Sixteen positions by sixteen elements, turned. */
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

/* The same where there are fewer positions or elements: zeros for positions, nothing for elements. */
static void unpack_edge(enum tensor_type type, float *out, const uint8_t *rows, size_t stride, size_t c, size_t count,
                        size_t size)
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

/* Keys turned: out[d][j], for positions up to end; those up to the next sixteen are zero, what follows is old. */
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

static void unpack_values(const struct attention *a, float *out, const uint8_t *rows, size_t first, size_t end)
{
#define CALL(type) unpack_rows(type, out, rows, a->value_position_bytes, a->value_size, first, end)
    FOR_TYPE(a->value_type, CALL)
#undef CALL
}

static void unpack_keys(const struct attention *a, float *out, const uint8_t *rows, size_t end)
{
#define CALL(type) unpack_columns(type, out, rows, a->key_position_bytes, a->key_size, end)
    FOR_TYPE(a->key_type, CALL)
#undef CALL
}

/* ---- few queries ------------------------------------------------------------------------------------------------- */

/* What few queries read of a cache is not worth its way through memory as floats: it becomes floats in the product. */
#define FEW_QUERIES ((size_t)2 * LANES_TILE_ROWS)

typedef void product_function(const struct product *p, size_t rows, size_t vectors);

static product_function *direct_product(const struct attention *a, size_t queries)
{
    if (queries > FEW_QUERIES || a->value_size % LANES != 0)
        return NULL;
    switch (a->value_type) {
    case TENSOR_F16:
        return product_f16;
    case TENSOR_BF16:
        return product_bf16;
    case TENSOR_Q8_0:
        return product_q8_0;
    default:
        return NULL;
    }
}

#ifdef LANES_TURN_COLUMNS
/* The last sixteen positions of a block where there are fewer: a copy with zeros behind. */
static const uint8_t *pad_keys(uint8_t *copy, const uint8_t *rows, size_t stride, size_t row_bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        memcpy(copy + i * row_bytes, rows + i * stride, row_bytes);
    memset(copy + count * row_bytes, 0, (LANES - count) * row_bytes);
    return copy;
}
#endif

/* Keys up to end are turned as integers of 16 bits, where the lanes have that: half of what floats take. False where
 * they are not. */
static bool direct_scores(const struct attention *a, struct product *scores, size_t queries, size_t end, void *block,
                          const uint8_t *rows)
{
#ifdef LANES_TURN_COLUMNS
    bool bytes = a->key_type == TENSOR_Q8_0;
    if (queries > FEW_QUERIES || a->key_size % LANES_TURN_COLUMNS != 0 || (a->key_type != TENSOR_F16 && !bytes))
        return false;
    size_t row_bytes = bytes ? a->key_size / 32 * 34 : 2 * a->key_size;
    float *scales = (float *)block + BLOCK * a->key_size / 2;
    uint8_t *copy = (uint8_t *)(scales + BLOCK * a->key_size / 32);
    for (size_t j = 0; j < end; j += LANES) {
        const uint8_t *group = rows + j * a->key_position_bytes;
        size_t stride = a->key_position_bytes;
        if (end - j < LANES) {
            group = pad_keys(copy, group, stride, row_bytes, end - j);
            stride = row_bytes;
        }
        for (size_t c = 0; c < a->key_size; c += LANES_TURN_COLUMNS) {
            const uint8_t *from = group + (bytes ? c / 32 * 34 : 2 * c);
            uint16_t *out = (uint16_t *)block + c * BLOCK + j, halves[LANES];
            for (size_t i = 0; end == BLOCK && i < LANES; i++)
                __builtin_prefetch((const void *)((uintptr_t)from + (BLOCK + i) * stride), 0, 2);
            if (!bytes) {
                lanes_turn_halves(out, BLOCK, from, stride);
                continue;
            }
            for (size_t i = 0; i < LANES; i++)
                memcpy(&halves[i], from + i * stride, sizeof halves[i]);
            lanes_store(scales + c / 32 * BLOCK + j, lanes_from_half(halves));
            lanes_turn_bytes(out, BLOCK, from + 2, stride);
        }
    }
    scores->b_stride = BLOCK * sizeof(uint16_t);
    scores->scales = scales;
    /* Four vectors take no longer than three. What is behind the end is old, and masked later. */
    size_t vectors = end > 2 * LANES ? BLOCK_VECTORS : (end + LANES - 1) / LANES;
    if (bytes)
        product_of(TURNED_Q8_0, scores, queries, vectors);
    else
        product_f16(scores, queries, vectors);
    return true;
#else
    (void)a, (void)scores, (void)queries, (void)end, (void)block, (void)rows;
    return false;
#endif
}

/* ---- the walk over positions ------------------------------------------------------------------------------------- */

/* Scales, caps and masks the scores of a query, whose positions in this block are from to end; returns the greatest. */
static float mask_scores(const struct attention *a, float *scores, size_t from, size_t end)
{
    lanes most = lanes_all(-INFINITY);
    for (size_t v = 0; v < BLOCK_VECTORS; v++) {
        lanes s = lanes_multiply(lanes_load(scores + v * LANES), lanes_all(a->scale));
        if (a->soft_cap > 0.0f)
            s = lanes_multiply(lanes_tanh(lanes_divide(s, lanes_all(a->soft_cap))), lanes_all(a->soft_cap));
        lanes_store(scores + v * LANES, s);
        most = lanes_max(s, most);
    }
    if (end - from == BLOCK)
        return lanes_fold_max(most);
    for (size_t j = 0; j < from; j++)
        scores[j] = -INFINITY;
    for (size_t j = end; j < BLOCK; j++)
        scores[j] = -INFINITY;
    most = lanes_all(-INFINITY);
    for (size_t v = 0; v < BLOCK_VECTORS; v++)
        most = lanes_max(lanes_load(scores + v * LANES), most);
    return lanes_fold_max(most);
}

/* Scores to weights, in place; returns their sum. */
static float weigh_scores(float *scores, float maximum)
{
    lanes sum = lanes_all(0.0f);
    for (size_t v = 0; v < BLOCK_VECTORS; v++) {
        lanes e = lanes_exp(lanes_subtract(lanes_load(scores + v * LANES), lanes_all(maximum)));
        lanes_store(scores + v * LANES, e);
        sum = lanes_add(sum, e);
    }
    return lanes_fold_add(sum);
}

static float exp_of(float a)
{
    float e[LANES];
    lanes_store(e, lanes_exp(lanes_all(a)));
    return e[0];
}

struct walk {
    const struct attention_tile *tile;
    float *maxima, *sums, *values; /* the state */
    size_t value_floats;
    float *query, *scores, *factors, *keys_block, *values_block;
};

static void start(struct walk *walk)
{
    const struct attention_tile *tile = walk->tile;
    const struct attention *a = tile->attention;
    size_t group = a->heads / a->kv_heads;
    for (size_t i = 0; i < tile->count; i++) {
        size_t row = tile->sequence->first_row + (tile->first + i) / group;
        size_t head = tile->kv_head * group + (tile->first + i) % group;
        memcpy(walk->query + i * a->key_size, a->query + (row * a->heads + head) * a->key_size,
               a->key_size * sizeof(float));
        walk->maxima[i] = NOTHING;
        walk->sums[i] = 0.0f;
    }
    memset(walk->values, 0, tile->count * walk->value_floats * sizeof(float));
}

/* The softmax of one block for count queries, LANES at most, from query first on: scores become weights, maxima and
 * sums go on, factors are what the values shrink by. */
static void advance_some(struct walk *walk, uint32_t position, size_t first, size_t count)
{
    const struct attention_tile *tile = walk->tile;
    const struct attention *a = tile->attention;
    size_t group = a->heads / a->kv_heads;
    struct attention_range range = {1, 0};
    size_t range_row = SIZE_MAX;
    float shrink[LANES] = {0};
    bool seen[LANES];
    for (size_t i = 0; i < count; i++) {
        size_t row = (tile->first + first + i) / group;
        float *scores = walk->scores + (first + i) * BLOCK, *maximum = &walk->maxima[first + i];
        if (row != range_row)
            range = attention_row_range(a, tile->sequence, row);
        range_row = row;
        size_t from = range.first > position ? MIN(range.first - position, (uint32_t)BLOCK) : 0;
        size_t end = range.last < position ? 0 : MIN((size_t)(range.last - position) + 1, (size_t)BLOCK);
        seen[i] = from < end;
        if (!seen[i]) {
            memset(scores, 0, BLOCK * sizeof *scores);
            continue;
        }
        float greatest = mask_scores(a, scores, from, end);
        greatest = greatest > *maximum ? greatest : *maximum;
        shrink[i] = *maximum - greatest;
        *maximum = greatest;
    }
    lanes_store(shrink, lanes_exp(lanes_load(shrink)));
    for (size_t i = 0; i < count; i++) {
        size_t query = first + i;
        walk->factors[query] = seen[i] ? shrink[i] : 1.0f;
        if (seen[i])
            walk->sums[query] =
                fmaf(walk->sums[query], shrink[i], weigh_scores(walk->scores + query * BLOCK, walk->maxima[query]));
    }
}

static void advance(struct walk *walk, uint32_t position)
{
    for (size_t i = 0; i < walk->tile->count; i += LANES)
        advance_some(walk, position, i, MIN(walk->tile->count - i, (size_t)LANES));
}

static void attend(const struct attention_tile *tile, uint32_t first, uint32_t last, float *state, float *work)
{
    const struct attention *a = tile->attention;
    const struct attention_sequence *sequence = tile->sequence;
    size_t count = tile->count;
    struct walk walk = {.tile = tile, .value_floats = attention_value_floats(a->value_size)};
    walk.maxima = state;
    walk.sums = walk.maxima + count;
    walk.values = walk.sums + count;
    walk.keys_block = work;
    walk.values_block = walk.keys_block + BLOCK * a->key_size;
    walk.query = walk.values_block + BLOCK * walk.value_floats;
    walk.scores = walk.query + count * a->key_size;
    walk.factors = walk.scores + count * BLOCK;
    start(&walk);

    const uint8_t *keys = sequence->keys + tile->kv_head * a->key_head_bytes;
    const uint8_t *values = sequence->values + tile->kv_head * a->value_head_bytes;
    product_function *direct = direct_product(a, count);
    for (uint32_t position = first - first % BLOCK; position <= last; position += BLOCK) {
        size_t index = position % sequence->capacity;
        size_t from = position < first ? first - position : 0;
        size_t end = MIN((size_t)(last - position) + 1, (size_t)BLOCK);

        const uint8_t *key_rows = keys + index * a->key_position_bytes;
        const uint8_t *value_rows = values + index * a->value_position_bytes;
        struct product scores = {.out = walk.scores,
                                 .out_stride = BLOCK,
                                 .a = walk.query,
                                 .a_stride = a->key_size,
                                 .b = walk.keys_block,
                                 .end = a->key_size};
        if (!direct_scores(a, &scores, count, end, walk.keys_block, key_rows)) {
            unpack_keys(a, walk.keys_block, key_rows, end);
            scores.b_stride = BLOCK * sizeof(float);
            product(&scores, count, (end + LANES - 1) / LANES);
        }
        advance(&walk, position);
        struct product sums = {.out = walk.values,
                               .out_stride = walk.value_floats,
                               .a = walk.scores,
                               .a_stride = BLOCK,
                               .first = from,
                               .end = end,
                               .factors = walk.factors};
        if (direct) {
            sums.b = value_rows;
            sums.b_stride = a->value_position_bytes;
            sums.read_ahead = true;
        } else {
            unpack_values(a, walk.values_block, value_rows, from, end);
            sums.b = walk.values_block;
            sums.b_stride = walk.value_floats * sizeof(float);
        }
        (direct ? direct : product)(&sums, count, walk.value_floats / LANES);
    }
}

static void merge(float *into, const float *from, size_t count, size_t value_size)
{
    size_t size = attention_value_floats(value_size);
    for (size_t i = 0; i < count; i++) {
        float *values = into + 2 * count + i * size;
        const float *more = from + 2 * count + i * size;
        if (from[i] == NOTHING)
            continue;
        if (into[i] == NOTHING) {
            into[i] = from[i];
            into[count + i] = from[count + i];
            memcpy(values, more, size * sizeof *values);
            continue;
        }
        float maximum = from[i] > into[i] ? from[i] : into[i];
        float keep = exp_of(into[i] - maximum);
        float take = exp_of(from[i] - maximum);
        into[i] = maximum;
        into[count + i] = fmaf(from[count + i], take, into[count + i] * keep);
        for (size_t c = 0; c < size; c += LANES)
            lanes_store(values + c, lanes_fma(lanes_load(more + c), lanes_all(take),
                                              lanes_multiply(lanes_load(values + c), lanes_all(keep))));
    }
}

static void finish(const struct attention_tile *tile, const float *state)
{
    const struct attention *a = tile->attention;
    size_t group = a->heads / a->kv_heads;
    size_t size = attention_value_floats(a->value_size);
    for (size_t i = 0; i < tile->count; i++) {
        size_t row = tile->sequence->first_row + (tile->first + i) / group;
        size_t head = tile->kv_head * group + (tile->first + i) % group;
        float sum = state[tile->count + i];
        float factor = 1.0f;
        if (a->sinks) {
            float maximum = a->sinks[head] > state[i] ? a->sinks[head] : state[i];
            factor = exp_of(state[i] - maximum);
            sum = fmaf(sum, factor, exp_of(a->sinks[head] - maximum));
        }
        factor = sum > 0.0f ? factor / sum : 0.0f;
        const float *values = state + 2 * tile->count + i * size;
        float *out = a->output + (row * a->heads + head) * a->value_size;
        for (size_t c = 0; c < a->value_size; c++)
            out[c] = values[c] * factor;
    }
}

const struct attention_kernels VARIANT(attention_kernels) = {.attend = attend, .merge = merge, .finish = finish};
