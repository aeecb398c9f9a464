#include "compute/cpu/attention.h"
#include "compute/cpu/attention_rows.h"

#include <float.h>

/* The maximum of a query that has seen no position: finite, so that differences from it are numbers. */
#define NOTHING (-FLT_MAX)

/* ---- cache rows to floats ---------------------------------------------------------------------------------------- */

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

/* For few queries, products read the cache directly, because writing it to memory as floats would not pay. */
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
/* Copies the last positions of a block, fewer than sixteen, and appends zeros. */
static const uint8_t *pad_keys(uint8_t *copy, const uint8_t *rows, size_t stride, size_t row_bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        memcpy(copy + i * row_bytes, rows + i * stride, row_bytes);
    memset(copy + count * row_bytes, 0, (LANES - count) * row_bytes);
    return copy;
}
#endif

/* Transposes keys up to end as 16-bit values, if the instruction set can: half the size of floats. Returns false if it
 * cannot. */
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
    /* Four vectors take no longer than three. Elements after the end are stale, and masked later. */
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

/* The slope by which a head's scores fall per position of distance: powers of 2^-(alibi / heads). If heads is no power
 * of two, the rest get every other slope of twice as many heads. */
static float alibi_slope(const struct attention *a, size_t head)
{
    size_t heads = 1;
    while (2 * heads <= a->heads)
        heads *= 2;
    double exponent = head < heads ? (double)(head + 1) : (double)(2 * (head - heads) + 1) / 2;
    return (float)pow(2, -(double)a->alibi * exponent / (double)heads);
}

/* own: the query's position relative to the block, which may be outside of the block. */
static lanes fall(lanes scores, float slope, double own, size_t v)
{
    float distances[LANES];
    for (size_t i = 0; i < LANES; i++)
        distances[i] = -(float)fabs((double)(v * LANES + i) - own);
    return lanes_fma(lanes_all(slope), lanes_load(distances), scores);
}

/* Scales, caps and masks the scores of a query that sees [from, end) of this block. Returns the greatest. */
static float mask_scores(const struct attention *a, float *scores, size_t from, size_t end, float slope, double own)
{
    lanes most = lanes_all(-INFINITY);
    for (size_t v = 0; v < BLOCK_VECTORS; v++) {
        lanes s = lanes_multiply(lanes_load(scores + v * LANES), lanes_all(a->scale));
        if (slope > 0.0f)
            s = fall(s, slope, own, v);
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

/* Turns scores into weights, in place, and returns their sum. */
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

/* Continues the softmax with one block, for up to LANES queries from "first" on: turns scores into weights, updates
 * maxima and sums, and sets the factors that scale earlier values. */
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
            range = attention_row_range(tile, row);
        range_row = row;
        size_t from = range.first > position ? MIN(range.first - position, (uint32_t)BLOCK) : 0;
        size_t end = range.last < position ? 0 : MIN((size_t)(range.last - position) + 1, (size_t)BLOCK);
        seen[i] = from < end;
        if (!seen[i]) {
            memset(scores, 0, BLOCK * sizeof *scores);
            continue;
        }
        float slope = 0.0f;
        double own = 0;
        if (a->alibi > 0.0f) {
            slope = alibi_slope(a, tile->kv_head * group + (tile->first + first + i) % group);
            own = (double)a->positions[tile->sequence->first_row + row] - (double)position;
        }
        float greatest = mask_scores(a, scores, from, end, slope, own);
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

/* Copies the rows of a window, then those chosen, to adjacent memory. */
static void gather_ring(uint8_t *out, size_t row_bytes, const uint8_t *rows, size_t stride,
                        const struct attention_choice *choice, const uint32_t *set, uint32_t own, uint32_t first,
                        uint32_t end)
{
    const uint32_t near = attention_near(choice, own);
    for (uint32_t i = first; i < end; i++, out += row_bytes) {
        size_t index = i < near ? (own - near + 1 + i) % choice->ring
                                : choice->ring + (size_t)(set ? set[1 + i - near] : i - near);
        memcpy(out, rows + index * stride, row_bytes);
    }
}

/* Copies the rows of chosen positions [first, end) of the set to adjacent memory. */
static void gather(uint8_t *out, size_t row_bytes, const uint8_t *rows, size_t stride, size_t capacity,
                   const struct attention_choice *choice, const uint32_t *set, uint32_t own, uint32_t first,
                   uint32_t end)
{
    if (choice->ring) {
        gather_ring(out, row_bytes, rows, stride, choice, set, own, first, end);
        return;
    }
    for (uint32_t i = first; i < end;) {
        uint32_t in_block = i % choice->block, run = MIN(choice->block - in_block, end - i);
        size_t position = (size_t)set[1 + i / choice->block] * choice->block + in_block;
        for (uint32_t j = 0; j < run; j++, out += row_bytes)
            memcpy(out, rows + (position + j) % capacity * stride, row_bytes);
        i += run;
    }
}

/* Gathers keys and values of a block of chosen positions for attend. */
static void gather_block(const struct attention *near, const struct attention_tile *tile, uint32_t position,
                         size_t from, size_t end, uint8_t *memory, const uint8_t **key_rows, const uint8_t **value_rows)
{
    const struct attention *a = tile->attention;
    const struct attention_sequence *sequence = tile->sequence;
    const size_t row = tile->first / (a->heads / a->kv_heads);
    const uint32_t *set = attention_chosen(tile, row), own = a->positions[sequence->first_row + row];
    const uint8_t *keys = sequence->keys + tile->kv_head * a->key_head_bytes;
    const uint8_t *values = sequence->values + tile->kv_head * a->value_head_bytes;
    uint8_t *value_memory = memory + BLOCK * near->key_position_bytes;
    uint32_t first = position + (uint32_t)from, last = position + (uint32_t)end;
    if (keys == values)
        value_memory = memory;
    else
        gather(value_memory + from * near->value_position_bytes, near->value_position_bytes, values,
               a->value_position_bytes, sequence->capacity, a->choice, set, own, first, last);
    gather(memory + from * near->key_position_bytes, near->key_position_bytes, keys, a->key_position_bytes,
           sequence->capacity, a->choice, set, own, first, last);
    *key_rows = memory;
    *value_rows = value_memory;
}

/* The layout of gathered rows. Values that are a prefix of the keys stay one. */
static struct attention gathered_layout(const struct attention_tile *tile)
{
    const struct attention *a = tile->attention;
    struct attention near = *a;
    bool prefix = tile->sequence->keys == tile->sequence->values;
    near.key_position_bytes = attention_row_bytes(a->key_type, a->key_size);
    near.value_position_bytes = prefix ? near.key_position_bytes : attention_row_bytes(a->value_type, a->value_size);
    return near;
}

static void attend(const struct attention_tile *tile, uint32_t first, uint32_t last, float *state, float *work)
{
    const struct attention near = tile->attention->choice ? gathered_layout(tile) : *tile->attention, *a = &near;
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
    uint8_t *gathered = (uint8_t *)(walk.factors + align_up(count, 16));
    start(&walk);

    const uint8_t *keys = sequence->keys + tile->kv_head * a->key_head_bytes;
    const uint8_t *values = sequence->values + tile->kv_head * a->value_head_bytes;
    product_function *direct = direct_product(a, count);
    for (uint32_t position = first - first % BLOCK; position <= last; position += BLOCK) {
        size_t index = position % sequence->capacity;
        size_t from = position < first ? first - position : 0;
        size_t end = MIN((size_t)(last - position) + 1, (size_t)BLOCK);

        size_t place = sequence->places ? sequence->places[index / BLOCK] : 0;
        const uint8_t *key_rows = keys + place * sequence->place_key_bytes + index * a->key_position_bytes;
        const uint8_t *value_rows = values + place * sequence->place_value_bytes + index * a->value_position_bytes;
        if (a->choice)
            gather_block(&near, tile, position, from, end, gathered, &key_rows, &value_rows);
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
