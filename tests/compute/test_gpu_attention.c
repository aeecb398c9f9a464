/* The GPU's attention, compared with plain C and with double precision: the softmax over the positions that a row sees,
 * and heads that attention makes itself. The bits do not depend on the other rows and sequences of a batch. */
#include "gpu_cache_rows.h"

#define NONE ((struct gpu_range){0})

#define MOST_SEQUENCES 3

struct shape {
    const char *name;
    enum tensor_type type;
    uint32_t heads, kv_heads, key_size, value_size;
    uint32_t rows[MOST_SEQUENCES], positions[MOST_SEQUENCES]; /* in the cache after the batch */
    uint32_t capacity;
    float soft_cap;
    uint32_t window, chunk;
    bool sinks, bidirectional, shared;
    bool pooled; /* the rows of all sequences are in one region, block by block in another order */
};

static const struct shape shapes[] = {
    {"one row", TENSOR_F16, 8, 2, 128, 128, {1}, {700}, 768, 0, 0, 0, false, false, false},
    {"one row of one position", TENSOR_F16, 3, 3, 64, 64, {1}, {1}, 64, 0, 0, 0, true, false, false},
    {"one span", TENSOR_Q8_0, 5, 1, 64, 96, {1}, {100}, 128, 0, 0, 0, false, false, false},
    {"q8_0, seven heads share", TENSOR_Q8_0, 7, 1, 96, 64, {3}, {1200}, 1216, 0, 0, 0, false, false, false},
    {"q4_0", TENSOR_Q4_0, 4, 2, 64, 64, {2}, {300}, 320, 0, 0, 0, false, false, false},
    {"floats", TENSOR_F32, 4, 2, 80, 80, {2}, {200}, 256, 0, 0, 0, false, false, false},
    {"bfloat", TENSOR_BF16, 6, 3, 80, 80, {5}, {170}, 192, 0, 0, 0, false, false, false},
    {"wide", TENSOR_F16, 4, 2, 256, 256, {4}, {260}, 320, 0, 0, 0, false, false, false},
    {"latent", TENSOR_F16, 16, 1, 576, 512, {2}, {280}, 320, 0, 0, 0, false, false, true},
    {"latent, a prompt", TENSOR_F16, 5, 1, 576, 512, {9}, {140}, 192, 0, 0, 0, false, false, true},
    {"latent, a prompt, 16 heads", TENSOR_F16, 16, 1, 576, 512, {19}, {151}, 192, 0, 0, 0, true, false, true},
    {"latent, a prompt, two caches", TENSOR_F16, 4, 2, 576, 512, {65}, {65}, 128, 0, 0, 0, false, false, true},
    {"latent, a prompt, q8_0", TENSOR_Q8_0, 7, 1, 576, 512, {11}, {107}, 128, 0, 0, 0, false, false, true},
    {"latent, a prompt, q4_0", TENSOR_Q4_0, 4, 1, 576, 512, {10}, {97}, 128, 0, 0, 0, false, false, true},
    {"latent, a prompt, window", TENSOR_F16, 4, 1, 576, 512, {40}, {400}, 192, 0, 50, 0, false, false, true},
    {"latent, a prompt, chunks, soft cap", TENSOR_F16, 3, 1, 576, 512, {50}, {200}, 256, 5, 0, 64, true, false, true},
    {"latent, both directions", TENSOR_F16, 2, 1, 576, 512, {50, 9}, {50, 9}, 64, 0, 0, 0, false, true, true},
    {"latent, several", TENSOR_F16, 4, 1, 576, 512, {1, 20, 9}, {90, 70, 9}, 128, 0, 0, 0, true, false, true},
    {"latent, a prompt, 320 and 256", TENSOR_F16, 6, 1, 320, 256, {12}, {130}, 192, 0, 0, 0, false, false, true},
    {"latent, a prompt, 288 and 272", TENSOR_F16, 3, 1, 288, 272, {14}, {80}, 128, 0, 0, 0, false, false, true},
    {"latent, a prompt, 320 and 256, q8_0", TENSOR_Q8_0, 3, 1, 320, 256, {14}, {80}, 128, 0, 0, 0, false, false, true},
    {"latent, a prompt, 304 and 256", TENSOR_F16, 3, 1, 304, 256, {14}, {80}, 128, 0, 0, 0, false, false, true},
    {"as wide, with values", TENSOR_F16, 2, 1, 320, 288, {14}, {80}, 128, 0, 0, 0, false, false, false},
    {"small latents", TENSOR_F16, 2, 1, 40, 32, {3}, {150}, 192, 0, 0, 0, false, false, true},
    {"small latents, a prompt", TENSOR_F16, 2, 1, 40, 32, {20}, {90}, 128, 0, 0, 0, false, false, true},
    {"small latents, floats", TENSOR_F32, 2, 1, 40, 32, {3, 20}, {150, 90}, 192, 0, 0, 0, false, false, true},
    {"window in a ring", TENSOR_F16, 4, 2, 64, 64, {6}, {700}, 256, 0, 150, 0, false, false, false},
    {"chunks", TENSOR_F16, 4, 2, 64, 64, {8}, {516}, 576, 0, 0, 128, false, false, false},
    {"sinks and soft cap", TENSOR_F16, 4, 2, 64, 64, {7, 1}, {200, 140}, 256, 5, 0, 0, true, false, false},
    {"three sequences", TENSOR_F16, 6, 2, 128, 128, {1, 40, 1}, {300, 100, 20}, 320, 0, 0, 0, false, false, false},
    {"three of few rows", TENSOR_F16, 4, 2, 64, 64, {5, 7, 4}, {300, 500, 400}, 512, 0, 0, 0, true, false, false},
    {"many spans", TENSOR_F16, 8, 1, 64, 64, {2, 1}, {1000, 300}, 1024, 0, 0, 0, true, false, false},
    {"too many spans for a tile", TENSOR_F16, 4, 1, 64, 64, {1, 3}, {9000, 400}, 9024, 0, 0, 0, false, false, false},
    {"many spans of latents", TENSOR_F16, 4, 1, 576, 512, {1, 1}, {2300, 1900}, 2304, 0, 0, 0, false, false, true},
    {"a prompt", TENSOR_F16, 8, 2, 128, 128, {70}, {100}, 128, 0, 0, 0, false, false, false},
    {"a prompt from the start", TENSOR_F16, 3, 3, 64, 64, {65}, {65}, 128, 0, 0, 0, true, false, false},
    {"a prompt, q8_0", TENSOR_Q8_0, 6, 2, 64, 32, {50}, {200}, 256, 0, 0, 0, false, false, false},
    {"a prompt, q4_0", TENSOR_Q4_0, 2, 1, 64, 32, {20}, {90}, 128, 0, 0, 0, false, false, false},
    {"a prompt, floats", TENSOR_F32, 4, 2, 80, 80, {33}, {150}, 192, 5, 0, 0, true, false, false},
    {"a prompt, bfloat", TENSOR_BF16, 4, 2, 48, 64, {33}, {150}, 192, 0, 0, 0, false, false, false},
    {"a prompt, wide", TENSOR_F16, 2, 1, 256, 256, {40}, {120}, 128, 0, 0, 0, false, false, false},
    {"a prompt, wide, from the start", TENSOR_F16, 5, 1, 256, 256, {65}, {65}, 128, 0, 0, 0, true, false, false},
    {"a prompt, wide, eight heads share", TENSOR_F16, 8, 1, 256, 256, {33}, {150}, 192, 0, 0, 0, false, false, false},
    {"a prompt, wide, window", TENSOR_F16, 4, 2, 256, 256, {60}, {700}, 256, 0, 100, 0, false, false, false},
    {"a prompt, wide, chunks", TENSOR_F16, 2, 2, 256, 256, {90}, {300}, 320, 0, 0, 128, false, false, false},
    {"a prompt, wide, soft cap", TENSOR_F16, 4, 2, 256, 256, {41, 9}, {141, 73}, 192, 5, 0, 0, true, false, false},
    {"a prompt, wide, q8_0", TENSOR_Q8_0, 4, 2, 256, 256, {50}, {200}, 256, 0, 0, 0, false, false, false},
    {"a prompt, wide, q4_0", TENSOR_Q4_0, 4, 2, 256, 256, {50}, {200}, 256, 0, 0, 0, false, false, false},
    {"a prompt, 192 and 128", TENSOR_F16, 4, 4, 192, 128, {70}, {200}, 256, 0, 0, 0, false, false, false},
    {"a prompt, 192 and 128, q8_0", TENSOR_Q8_0, 5, 1, 192, 128, {30}, {100}, 128, 0, 0, 0, true, false, false},
    {"a prompt, 192 and 128, q4_0", TENSOR_Q4_0, 4, 2, 192, 128, {30}, {100}, 128, 0, 70, 0, false, false, false},
    {"a prompt, 256 and 128", TENSOR_F16, 8, 2, 256, 128, {40}, {120}, 128, 0, 0, 0, false, false, false},
    {"a prompt, 128 and 256", TENSOR_F16, 8, 2, 128, 256, {40}, {120}, 128, 0, 0, 0, false, false, false},
    {"a prompt, 256 and 80", TENSOR_F16, 5, 1, 256, 80, {40}, {120}, 128, 0, 0, 0, false, false, false},
    {"a prompt, 144", TENSOR_F16, 3, 3, 144, 144, {40}, {120}, 128, 0, 0, 0, false, false, false},
    {"a prompt, 160", TENSOR_F16, 8, 1, 160, 160, {40}, {120}, 128, 0, 0, 0, false, false, false},
    {"a prompt, 160, q8_0", TENSOR_Q8_0, 4, 1, 160, 160, {40}, {120}, 128, 0, 0, 0, false, false, false},
    {"a prompt, 160 and 224, q4_0", TENSOR_Q4_0, 4, 1, 160, 224, {40}, {120}, 128, 0, 0, 0, false, false, false},
    {"a prompt, 208 and 176", TENSOR_F16, 3, 1, 208, 176, {40}, {120}, 128, 0, 0, 0, false, false, false},
    {"a prompt, window in a ring", TENSOR_F16, 4, 2, 64, 64, {60}, {700}, 256, 0, 100, 0, false, false, false},
    {"a prompt, chunks", TENSOR_F16, 4, 2, 64, 64, {90}, {300}, 320, 0, 0, 128, false, false, false},
    {"both directions", TENSOR_F16, 4, 4, 64, 64, {150, 6}, {150, 6}, 192, 0, 0, 0, false, true, false},
    {"both directions, wide", TENSOR_F16, 2, 1, 256, 256, {70, 20}, {70, 20}, 128, 0, 0, 0, false, true, false},
    {"pool", TENSOR_F16, 8, 2, 128, 128, {1, 3, 8}, {700, 64, 129}, 704, 0, 0, 0, false, false, false, true},
    {"pool, floats", TENSOR_F32, 4, 2, 80, 80, {2, 33}, {200, 150}, 256, 5, 0, 0, true, false, false, true},
    {"pool, bfloat", TENSOR_BF16, 4, 2, 48, 64, {33, 2}, {150, 193}, 256, 0, 0, 0, false, false, false, true},
    {"pool, q8_0", TENSOR_Q8_0, 6, 2, 64, 32, {50, 1, 3}, {200, 65, 400}, 448, 0, 0, 0, false, false, false, true},
    {"pool, q4_0", TENSOR_Q4_0, 2, 1, 64, 32, {20, 2}, {90, 300}, 320, 0, 0, 0, false, false, false, true},
    {"pool, latent", TENSOR_F16, 16, 1, 576, 512, {2, 9}, {280, 140}, 320, 0, 0, 0, false, false, true, true},
    {"pool, latent, prompts", TENSOR_F16, 5, 1, 576, 512, {40, 9}, {170, 140}, 192, 0, 0, 0, false, false, true, true},
    {"pool, latent, q8_0", TENSOR_Q8_0, 5, 1, 576, 512, {30, 9}, {170, 100}, 192, 0, 0, 0, false, false, true, true},
    {"pool, latent, q4_0", TENSOR_Q4_0, 3, 1, 576, 512, {12, 9}, {90, 100}, 128, 0, 0, 0, false, false, true, true},
    {"pool, wide", TENSOR_F16, 2, 1, 256, 256, {40, 4}, {120, 260}, 320, 0, 0, 0, false, false, false, true},
    {"pool, wide, q8_0", TENSOR_Q8_0, 2, 1, 256, 256, {40, 20}, {120, 260}, 320, 0, 0, 0, true, false, false, true},
    {"pool, wide, q4_0", TENSOR_Q4_0, 5, 1, 256, 256, {40, 20}, {120, 260}, 320, 0, 0, 0, false, false, false, true},
    {"pool, 192 and 128", TENSOR_F16, 4, 2, 192, 128, {30, 40}, {230, 140}, 256, 0, 0, 0, false, false, false, true},
    {"pool, window", TENSOR_F16, 4, 2, 64, 64, {60, 6}, {300, 410}, 448, 0, 100, 0, false, false, false, true},
};

struct fixture {
    const struct shape *shape;
    struct gpu_attention attention;
    struct gpu_sequence sequences[MOST_SEQUENCES];
    uint32_t rows, count;
    struct gpu_range blocks; /* the tables of all sequences */
    float *query, *sinks;
    float *keys[MOST_SEQUENCES], *values[MOST_SEQUENCES]; /* [positions][kv_heads][size], as the cache holds them */
};

/* Stores the positions of a sequence that its rows see, in pieces that fit in the ring. */
static float *fill(struct gpu *gpu, const struct fixture *f, uint32_t s, bool is_values, struct random *random)
{
    const struct shape *shape = f->shape;
    uint32_t size = is_values ? shape->value_size : shape->key_size, width = size * shape->kv_heads;
    uint32_t positions = shape->positions[s], piece = shape->capacity;
    float *plain = gpu_test_floats(random, (size_t)positions * width);
    const uint32_t first = positions - shape->rows[s];
    for (uint32_t p = shape->window ? first - MIN(first, shape->window - 1) : 0; p < positions; p += piece) {
        struct gpu_sequence sequence = f->sequences[s];
        sequence.first_row = 0;
        sequence.first_position = p;
        sequence.rows = MIN(piece, positions - p);
        if (is_values) /* store values as keys without norm or rope */
            sequence.keys = sequence.values;
        struct gpu_range rows = gpu_test_range(gpu, plain + (size_t)p * width, (size_t)sequence.rows * width * 4);
        gpu_begin(gpu);
        uint32_t position_bytes = (uint32_t)attention_row_bytes(shape->type, size);
        gpu_heads(gpu, &(struct gpu_heads){.key = rows,
                                           .cache = f->attention.cache,
                                           .key_stride = width,
                                           .values_in_keys = true,
                                           .rows = sequence.rows,
                                           .kv_heads = shape->kv_heads,
                                           .key_size = size,
                                           .value_size = size,
                                           .type = shape->type,
                                           .key_position_bytes = position_bytes,
                                           .value_position_bytes = position_bytes,
                                           .sequences = &sequence,
                                           .sequence_count = 1});
        gpu_test_run(gpu);
        gpu_buffer_destroy(gpu, rows.buffer);
    }
    round_rows(shape->type, plain, (size_t)positions * shape->kv_heads, size);
    return plain;
}

/* Deals the blocks of one region to the sequences in turn, from the last one down. Returns the region's rows. */
static uint32_t deal_blocks(struct gpu *gpu, struct fixture *f)
{
    const uint32_t each = f->shape->capacity / ATTENTION_BLOCK, all = each * f->count;
    uint32_t table[256];
    assert_true(all <= COUNT_OF(table));
    for (uint32_t s = 0; s < f->count; s++)
        for (uint32_t b = 0; b < each; b++)
            table[s * each + b] = all - 1 - (b * f->count + s);
    f->blocks = gpu_test_range(gpu, table, all * sizeof *table);
    for (uint32_t s = 0; s < f->count; s++) {
        f->sequences[s].capacity = all * ATTENTION_BLOCK;
        f->sequences[s].blocks = f->blocks;
        f->sequences[s].blocks.offset += s * each * sizeof *table;
    }
    return all * ATTENTION_BLOCK;
}

static void setup(struct gpu *gpu, struct fixture *f, const struct shape *shape, struct random *random)
{
    *f = (struct fixture){.shape = shape};
    uint32_t key_bytes = (uint32_t)attention_row_bytes(shape->type, shape->key_size);
    uint32_t value_bytes = shape->shared ? key_bytes : (uint32_t)attention_row_bytes(shape->type, shape->value_size);
    uint64_t end = 0, most = 0;
    for (uint32_t s = 0; s < MOST_SEQUENCES && shape->rows[s]; s++) {
        struct gpu_sequence *sequence = &f->sequences[f->count++];
        sequence->first_row = f->rows;
        sequence->rows = shape->rows[s];
        sequence->first_position = shape->positions[s] - shape->rows[s];
        sequence->capacity = shape->capacity;
        sequence->keys = end;
        end = align_up(end + (uint64_t)key_bytes * shape->capacity * shape->kv_heads, 64);
        sequence->values = shape->shared ? sequence->keys : end;
        if (!shape->shared)
            end = align_up(end + (uint64_t)value_bytes * shape->capacity * shape->kv_heads, 64);
        f->rows += shape->rows[s];
        most = MAX(most, shape->positions[s]);
    }
    if (shape->pooled) {
        const uint64_t rows = (uint64_t)deal_blocks(gpu, f) * shape->kv_heads;
        for (uint32_t s = 0; s < f->count; s++) {
            f->sequences[s].keys = 0;
            f->sequences[s].values = shape->shared ? 0 : align_up(key_bytes * rows, 64);
        }
        end = align_up(key_bytes * rows, 64) + value_bytes * rows;
    }
    struct gpu_attention *a = &f->attention;
    *a = (struct gpu_attention){.rows = f->rows,
                                .heads = shape->heads,
                                .kv_heads = shape->kv_heads,
                                .key_size = shape->key_size,
                                .value_size = shape->value_size,
                                .type = shape->type,
                                .key_position_bytes = key_bytes,
                                .value_position_bytes = value_bytes,
                                .scale = 1 / sqrtf((float)shape->key_size),
                                .soft_cap = shape->soft_cap,
                                .window = shape->window,
                                .chunk = shape->chunk,
                                .bidirectional = shape->bidirectional,
                                .sequences = f->sequences,
                                .sequence_count = f->count};
    /* Anything that no batch wrote is NaN. */
    uint8_t *garbage = malloc(end);
    assert_non_null(garbage);
    memset(garbage, 0xff, end);
    a->cache = gpu_test_range(gpu, garbage, end);
    free(garbage);
    f->query = gpu_test_floats(random, (size_t)f->rows * shape->heads * shape->key_size);
    f->sinks = gpu_test_floats(random, shape->heads);
    a->query = gpu_test_range(gpu, f->query, (size_t)f->rows * shape->heads * shape->key_size * 4);
    a->out = gpu_test_range(gpu, NULL, (size_t)f->rows * shape->heads * shape->value_size * 4);
    a->sinks = shape->sinks ? gpu_test_range(gpu, f->sinks, shape->heads * 4) : NONE;
    a->scratch = gpu_test_range(gpu, NULL,
                                gpu_attention_scratch_bytes(f->rows, shape->heads, shape->value_size, (uint32_t)most));
    for (uint32_t s = 0; s < f->count; s++) {
        f->keys[s] = fill(gpu, f, s, false, random);
        f->values[s] = shape->shared ? NULL : fill(gpu, f, s, true, random);
    }
}

static void teardown(struct gpu *gpu, struct fixture *f)
{
    struct gpu_range all[] = {f->attention.cache, f->attention.query,   f->attention.out,
                              f->attention.sinks, f->attention.scratch, f->blocks};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        gpu_buffer_destroy(gpu, all[i].buffer);
    for (uint32_t s = 0; s < f->count; s++) {
        free(f->keys[s]);
        free(f->values[s]);
    }
    free(f->query);
    free(f->sinks);
}

static bool sees(const struct shape *shape, uint32_t row, uint32_t position)
{
    return (shape->bidirectional || position <= row) && (!shape->window || position + shape->window > row) &&
           (!shape->chunk || position / shape->chunk == row / shape->chunk);
}

static void expect_head(const struct fixture *f, uint32_t s, uint32_t row, uint32_t head, float *out)
{
    const struct shape *shape = f->shape;
    uint32_t kv_head = head / (shape->heads / shape->kv_heads), positions = shape->positions[s];
    uint32_t own = f->sequences[s].first_position + row;
    const float *query = f->query + ((size_t)(f->sequences[s].first_row + row) * shape->heads + head) * shape->key_size;
    const float *values = shape->shared ? f->keys[s] : f->values[s];
    uint32_t stride = shape->shared ? shape->key_size : shape->value_size;
    double *weights = calloc(positions, sizeof *weights), most = shape->sinks ? f->sinks[head] : -INFINITY, sum = 0;
    assert_non_null(weights);
    for (uint32_t p = 0; p < positions; p++) {
        if (!sees(shape, own, p))
            continue;
        for (uint32_t i = 0; i < shape->key_size; i++)
            weights[p] +=
                (double)query[i] * (double)f->keys[s][((size_t)p * shape->kv_heads + kv_head) * shape->key_size + i];
        weights[p] *= (double)f->attention.scale;
        if (shape->soft_cap > 0)
            weights[p] = (double)shape->soft_cap * tanh(weights[p] / (double)shape->soft_cap);
        most = fmax(most, weights[p]);
    }
    double result[ATTENTION_MAX_SIZE] = {0};
    for (uint32_t p = 0; p < positions; p++) {
        if (!sees(shape, own, p))
            continue;
        double weight = exp(weights[p] - most);
        sum += weight;
        for (uint32_t i = 0; i < shape->value_size; i++)
            result[i] += weight * (double)values[((size_t)p * shape->kv_heads + kv_head) * stride + i];
    }
    if (shape->sinks)
        sum += exp((double)f->sinks[head] - most);
    for (uint32_t i = 0; i < shape->value_size; i++)
        out[i] = (float)(result[i] / sum);
    free(weights);
}

/* Repeats the batch row by row, or with the fewest rows that use the same kernel, and expects the same bits. */
static void expect_same_bits_in_pieces(struct gpu *gpu, struct fixture *f, const float *expected)
{
    size_t width = (size_t)f->shape->heads * f->shape->value_size;
    for (uint32_t s = 0; s < f->count && !f->shape->bidirectional; s++) {
        uint32_t rows = f->sequences[s].rows, piece = rows > GPU_VECTOR_TOKENS ? GPU_VECTOR_TOKENS + 1 : 1;
        struct gpu_sequence part = f->sequences[s];
        for (uint32_t r = 0; r + piece <= rows; r += piece) {
            part.first_row = f->sequences[s].first_row + r;
            part.first_position = f->sequences[s].first_position + r;
            part.rows = piece;
            struct gpu_attention attention = f->attention;
            attention.sequences = &part;
            attention.sequence_count = 1;
            gpu_begin(gpu);
            gpu_attention(gpu, &attention);
            gpu_test_run(gpu);
        }
    }
    float *out = malloc(f->rows * width * sizeof *out);
    assert_non_null(out);
    gpu_test_download(gpu, f->attention.out, out, f->rows * width * sizeof *out);
    assert_memory_equal(out, expected, f->rows * width * sizeof *out);
    free(out);
}

/* Repeats the batch with scratch memory for the rows of one sequence, so that sequences take turns. */
static void expect_same_bits_in_little_scratch(struct gpu *gpu, struct fixture *f, const float *out)
{
    const struct shape *shape = f->shape;
    size_t count = (size_t)f->rows * shape->heads * shape->value_size;
    uint32_t most = 0;
    for (uint32_t s = 0; s < f->count; s++)
        most = MAX(most, shape->positions[s]);
    f->attention.scratch_bytes = gpu_attention_scratch_bytes(GPU_VECTOR_TOKENS, shape->heads, shape->value_size, most);
    gpu_begin(gpu);
    gpu_attention(gpu, &f->attention);
    gpu_test_run(gpu);
    float *again = malloc(count * sizeof *again);
    assert_non_null(again);
    gpu_test_download(gpu, f->attention.out, again, count * sizeof *again);
    assert_memory_equal(again, out, count * sizeof *again);
    free(again);
}

/* Repeats a batch that may write halves, and expects those next to its floats. */
static void expect_halves(struct gpu *gpu, struct fixture *f, const float *out)
{
    const size_t count = (size_t)f->rows * f->shape->heads * f->shape->value_size;
    f->attention.halves = true;
    gpu_begin(gpu);
    gpu_attention(gpu, &f->attention);
    gpu_test_run(gpu);
    f->attention.halves = false;
    uint16_t *halves = malloc(count * sizeof *halves);
    assert_non_null(halves);
    gpu_test_download(gpu, f->attention.out, halves, count * sizeof *halves);
    for (size_t i = 0; i < count; i++) {
        const float half = half_to_float(halves[i]);
        if (!(fabsf(half - out[i]) <= 1e-3f * fabsf(out[i]) + 6e-8f))
            fail_msg("%s: half %zu of %zu is %g; expected %g", f->shape->name, i, count, (double)half, (double)out[i]);
    }
    free(halves);
}

/* Says which elements are wrong: more than chance makes of an error of this bound. */
static void print_wrong(const struct fixture *f, const float *out, const float *expected, size_t count, double error,
                        double bound)
{
    const struct shape *shape = f->shape;
    size_t wrong = 0, first = 0;
    double length = 0;
    for (size_t i = 0; i < count; i++)
        length += (double)expected[i] * (double)expected[i] / (double)count;
    for (size_t i = 0; i < count; i++)
        if (!(fabs((double)out[i] - (double)expected[i]) <= 5 * bound * sqrt(length)) && wrong++ == 0)
            first = i;
    const size_t head = first / shape->value_size, row = head / shape->heads;
    fprintf(stderr,
            "# %s: the error is %g, above %g; %zu of %zu elements are wrong, first row %zu, head %zu, element "
            "%zu: %g; expected %g\n",
            shape->name, error, bound, wrong, count, row, head % shape->heads, first % shape->value_size,
            (double)out[first], (double)expected[first]);
}

static void attention_is_right_and_reproducible(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 77);
    double worst[2] = {0};
    size_t failed = 0;
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        const struct shape *shape = &shapes[i];
        struct fixture f;
        setup(gpu, &f, shape, &random);
        gpu_begin(gpu);
        gpu_attention(gpu, &f.attention);
        gpu_drop(gpu); /* what is recorded but not sent leaves no trace */
        gpu_begin(gpu);
        gpu_attention(gpu, &f.attention);
        gpu_test_run(gpu);
        size_t count = (size_t)f.rows * shape->heads * shape->value_size;
        float *out = malloc(count * sizeof *out), *expected = malloc(count * sizeof *expected);
        assert_true(out && expected);
        gpu_test_download(gpu, f.attention.out, out, count * sizeof *out);
        for (uint32_t s = 0; s < f.count; s++)
            for (uint32_t r = 0; r < f.sequences[s].rows; r++)
                for (uint32_t h = 0; h < shape->heads; h++)
                    expect_head(&f, s, r, h,
                                expected +
                                    ((size_t)(f.sequences[s].first_row + r) * shape->heads + h) * shape->value_size);
        /* On matrix units, queries and attention weights of prompts are halves. Quantised values always are. */
        bool few = shape->rows[0] <= GPU_VECTOR_TOKENS && f.count == 1;
        bool exact =
            (few || !gpu_get_info(gpu)->cooperative_matrix) && shape->type != TENSOR_Q8_0 && shape->type != TENSOR_Q4_0;
        double error = gpu_test_error(out, expected, count), bound = exact ? 2e-6 : 1e-3;
        worst[!exact] = fmax(worst[!exact], error);
        if (!(error < bound)) {
            print_wrong(&f, out, expected, count, error, bound);
            failed++;
        } else if (shape->type == TENSOR_F16) /* other types differ only in reading a tile */
            expect_same_bits_in_pieces(gpu, &f, out);
        if (f.count > 1)
            expect_same_bits_in_little_scratch(gpu, &f, out);
        if (gpu_attention_makes_halves(gpu, &f.attention))
            expect_halves(gpu, &f, out);
        free(out);
        free(expected);
        teardown(gpu, &f);
    }
    assert_int_equal(failed, 0);
    fprintf(stderr, "# attention: largest relative error %.1e, or %.1e with halves\n", worst[0], worst[1]);
}

/* ---- heads made by attention ---------------------------------------------------------------------------------------
 */

static const struct shape making_shapes[] = {
    {"one row", TENSOR_F16, 8, 2, 128, 128, {1}, {700}, 768, 0, 0, 0, false, false, false},
    {"no context", TENSOR_F16, 3, 3, 64, 64, {1}, {1}, 64, 0, 0, 0, true, false, false},
    {"three rows", TENSOR_F16, 8, 1, 128, 128, {1, 1, 1}, {640, 257, 100}, 640, 5, 0, 0, true, false, false},
    {"pool", TENSOR_F16, 6, 2, 80, 80, {1, 1, 1}, {129, 65, 128}, 192, 0, 0, 0, false, false, false, true},
    {"window in a ring", TENSOR_F16, 4, 2, 64, 64, {1, 1}, {700, 90}, 256, 0, 150, 0, false, false, false},
    {"chunks", TENSOR_F16, 4, 2, 64, 96, {1, 1}, {513, 512}, 576, 0, 0, 128, false, false, false},
    {"wide", TENSOR_F16, 8, 1, 256, 256, {1}, {200}, 256, 0, 0, 0, false, false, false},
    {"floats", TENSOR_F32, 4, 2, 192, 80, {1, 1}, {300, 64}, 320, 0, 0, 0, false, false, false},
    {"bfloat", TENSOR_BF16, 6, 3, 80, 128, {1, 1}, {170, 33}, 192, 0, 0, 0, false, false, false},
    {"q8_0", TENSOR_Q8_0, 7, 1, 96, 64, {1, 1}, {400, 128}, 448, 0, 0, 0, false, false, false},
    {"q8_0, wide", TENSOR_Q8_0, 2, 1, 192, 256, {1}, {321}, 384, 0, 0, 0, false, false, false},
    {"q4_0", TENSOR_Q4_0, 4, 2, 64, 160, {1, 1}, {300, 1}, 320, 0, 0, 0, false, false, false},
};

/* Runs a batch on the cache as it was, and takes what it leaves. */
static void run_heads(struct gpu *gpu, const struct gpu_heads *heads, const struct gpu_attention *attention,
                      const uint8_t *before, uint64_t cache_bytes, float *out, uint64_t out_bytes, uint8_t *after)
{
    gpu_ticket ticket;
    assert_ok(gpu_upload(gpu, attention->cache, before, cache_bytes, &ticket, &test_error));
    assert_ok(gpu_upload_wait(gpu, ticket, &test_error));
    gpu_begin(gpu);
    if (!attention->makes) {
        gpu_heads(gpu, heads);
        gpu_barrier(gpu);
    }
    gpu_attention(gpu, attention);
    gpu_test_run(gpu);
    gpu_test_download(gpu, attention->out, out, out_bytes);
    gpu_test_download(gpu, attention->cache, after, cache_bytes);
}

/* The kinds of heads: without norms and rope, or with each thing that attention supports. */
static void makes_the_same_heads(struct gpu *gpu, struct fixture *f, unsigned kind, struct random *random)
{
    const struct shape *shape = f->shape;
    const bool norms = kind != 0, turned = kind != 1, gated = kind == 2;
    const uint32_t rotary = kind == 3 ? shape->key_size / 2 : shape->key_size, rows = f->rows;
    const uint32_t query_width = shape->heads * shape->key_size * (gated ? 2 : 1);
    const uint32_t key_width = shape->kv_heads * shape->key_size, value_width = shape->kv_heads * shape->value_size;
    float *query = gpu_test_floats(random, (size_t)rows * query_width);
    float *key = gpu_test_floats(random, (size_t)rows * key_width);
    float *value = gpu_test_floats(random, (size_t)rows * value_width);
    float *table = gpu_test_floats(random, (size_t)rows * rotary), *scales = gpu_test_floats(random, rows);
    float *query_norm = gpu_test_floats(random, shape->key_size), *key_norm = gpu_test_floats(random, shape->key_size);
    struct gpu_heads heads = {.query = gpu_test_range(gpu, query, (size_t)rows * query_width * 4),
                              .key = gpu_test_range(gpu, key, (size_t)rows * key_width * 4),
                              .value = gpu_test_range(gpu, value, (size_t)rows * value_width * 4),
                              .query_norm = norms ? gpu_test_range(gpu, query_norm, shape->key_size * 4) : NONE,
                              .key_norm = norms ? gpu_test_range(gpu, key_norm, shape->key_size * 4) : NONE,
                              .query_scales = kind == 3 ? gpu_test_range(gpu, scales, rows * 4) : NONE,
                              .table = turned ? gpu_test_range(gpu, table, (size_t)rows * rotary * 4) : NONE,
                              .out = f->attention.query,
                              .cache = f->attention.cache,
                              .query_stride = query_width,
                              .query_head_stride = shape->key_size * (gated ? 2 : 1),
                              .key_stride = key_width,
                              .value_stride = value_width,
                              .norm_after_rope = kind == 3,
                              .value_norm = kind == 2,
                              .epsilon = 1e-5f,
                              .layout = kind % 2 ? ROPE_NORMAL : ROPE_NEOX,
                              .rotary = rotary,
                              .rows = rows,
                              .heads = shape->heads,
                              .kv_heads = shape->kv_heads,
                              .key_size = shape->key_size,
                              .value_size = shape->value_size,
                              .type = shape->type,
                              .key_position_bytes = f->attention.key_position_bytes,
                              .value_position_bytes = f->attention.value_position_bytes,
                              .sequences = f->sequences,
                              .sequence_count = f->count};
    const uint64_t cache_bytes = gpu_buffer_bytes(heads.cache.buffer) / 4 * 4;
    const uint64_t out_bytes = (uint64_t)rows * shape->heads * shape->value_size * 4;
    uint8_t *before = malloc(cache_bytes), *after[2] = {malloc(cache_bytes), malloc(cache_bytes)};
    float *out[2] = {malloc(out_bytes), malloc(out_bytes)};
    assert_true(before && after[0] && after[1] && out[0] && out[1]);
    gpu_test_download(gpu, heads.cache, before, cache_bytes);
    struct gpu_attention attention = f->attention;
    run_heads(gpu, &heads, &attention, before, cache_bytes, out[0], out_bytes, after[0]);
    assert_memory_not_equal(before, after[0], cache_bytes);
    /* A device with many cores may have too many work groups for it. */
    const bool makes = gpu_attention_makes_heads(gpu, &heads, &attention);
    assert_true(makes || gpu_get_info(gpu)->cores);
    attention.makes = &heads;
    /* All sequences at once, and in turns. */
    for (int turns = 0; makes && turns <= (f->count > 1); turns++) {
        if (turns)
            attention.scratch_bytes =
                gpu_attention_scratch_bytes(1, shape->heads, shape->value_size, shape->positions[0]);
        run_heads(gpu, &heads, &attention, before, cache_bytes, out[1], out_bytes, after[1]);
        if (memcmp(after[0], after[1], cache_bytes) != 0 || memcmp(out[0], out[1], out_bytes) != 0)
            fail_msg("%s, kind %u, turns %d: other %s", shape->name, kind, turns,
                     memcmp(after[0], after[1], cache_bytes) ? "keys or values" : "results");
    }
    gpu_ticket ticket;
    assert_ok(gpu_upload(gpu, heads.cache, before, cache_bytes, &ticket, &test_error));
    assert_ok(gpu_upload_wait(gpu, ticket, &test_error));
    const struct gpu_range all[] = {heads.query,    heads.key,          heads.value, heads.query_norm,
                                    heads.key_norm, heads.query_scales, heads.table};
    for (size_t i = 0; i < COUNT_OF(all); i++)
        gpu_buffer_destroy(gpu, all[i].buffer);
    float *floats[] = {query, key, value, table, scales, query_norm, key_norm, out[0], out[1]};
    for (size_t i = 0; i < COUNT_OF(floats); i++)
        free(floats[i]);
    free(before);
    free(after[0]);
    free(after[1]);
}

static void attention_makes_the_same_heads(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    struct random random;
    random_seed(&random, 83);
    const struct gpu_info *info = gpu_get_info(gpu);
    if (info->subgroup_max > 64 || info->subgroup_min != info->subgroup_max)
        skip(); /* other sums in other kernels */
    for (size_t i = 0; i < COUNT_OF(making_shapes); i++) {
        struct fixture f;
        setup(gpu, &f, &making_shapes[i], &random);
        for (unsigned kind = 0; kind < 4; kind++)
            if (i == 0 || kind == i % 4)
                makes_the_same_heads(gpu, &f, kind, &random);
        teardown(gpu, &f);
    }
}

/* Matrix units compute latent attention of prompts if values are the first elements of keys in halves, or in types that
 * become halves. */
static void latent_prompts_use_matrix_units(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    const bool matrices = gpu_get_info(gpu)->cooperative_matrix;
    const struct gpu_sequence sequence = {.rows = GPU_VECTOR_TOKENS + 1, .capacity = 64}, few = {.rows = 1},
                              apart = {.rows = GPU_VECTOR_TOKENS + 1, .values = 256};
    const struct gpu_attention latent = {.heads = 16,
                                         .kv_heads = 1,
                                         .key_size = 576,
                                         .value_size = 512,
                                         .type = TENSOR_F16,
                                         .key_position_bytes = 1152,
                                         .value_position_bytes = 1152,
                                         .sequences = &sequence,
                                         .sequence_count = 1};
    struct gpu_attention other = latent;
    assert_int_equal(gpu_attention_makes_halves(gpu, &latent), matrices);
    other.key_size = 288;
    other.value_size = 256;
    assert_int_equal(gpu_attention_makes_halves(gpu, &other), matrices);
    other.key_size = 304; /* the halves that subgroups share are not whole matrices */
    assert_false(gpu_attention_makes_halves(gpu, &other));
    other = latent;
    other.key_size = 640;
    assert_false(gpu_attention_makes_halves(gpu, &other));
    other = latent;
    other.type = TENSOR_BF16;
    assert_false(gpu_attention_makes_halves(gpu, &other));
    other = latent;
    other.sequences = &few;
    assert_false(gpu_attention_makes_halves(gpu, &other));
    other.sequences = &apart;
    assert_false(gpu_attention_makes_halves(gpu, &other));
}

static void attention_refuses_unsupported_shapes(void **state)
{
    struct gpu *gpu = gpu_or_skip(state);
    assert_false(gpu_attention_supports(TENSOR_F16, 68, 64));
    assert_false(gpu_attention_supports(TENSOR_Q8_0, 80, 64));
    assert_false(gpu_attention_supports(TENSOR_F16, 1024, 64));
    assert_false(gpu_attention_supports(TENSOR_Q6_K, 64, 64));
    struct random random;
    random_seed(&random, 5);
    struct fixture f;
    setup(gpu, &f, &shapes[0], &random);
    gpu_ticket ticket;
    f.attention.heads = 7;
    gpu_begin(gpu);
    gpu_attention(gpu, &f.attention);
    assert_int_equal(gpu_submit(gpu, &ticket, 0, &test_error), HYPURA_ERROR_UNSUPPORTED);
    f.attention.heads = 8;
    struct gpu_range scratch = f.attention.scratch;
    f.attention.scratch = f.attention.sinks;
    gpu_begin(gpu);
    gpu_attention(gpu, &f.attention);
    assert_int_equal(gpu_submit(gpu, &ticket, 0, &test_error), HYPURA_ERROR_ARGUMENT);
    f.attention.scratch = scratch;
    f.attention.makes = &(struct gpu_heads){.heads = 8};
    gpu_begin(gpu);
    gpu_attention(gpu, &f.attention);
    assert_int_equal(gpu_submit(gpu, &ticket, 0, &test_error), HYPURA_ERROR_ARGUMENT);
    teardown(gpu, &f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_right_and_reproducible),
        cmocka_unit_test(attention_makes_the_same_heads),
        cmocka_unit_test(latent_prompts_use_matrix_units),
        cmocka_unit_test(attention_refuses_unsupported_shapes),
    };
    return cmocka_run_group_tests(tests, gpu_test_open, gpu_test_close);
}
