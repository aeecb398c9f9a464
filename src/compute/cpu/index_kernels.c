#include "compute/cpu/attention_rows.h"
#include "compute/cpu/index.h"

static void unpack(const struct index_search *s, float *out, const uint8_t *rows, size_t end)
{
#define CALL(type) unpack_columns(type, out, rows, s->key_bytes, s->size, end)
    FOR_TYPE(s->type, CALL)
#undef CALL
}

/* Sums the products of all heads into the scores of one block of a row. */
static void sum_heads(const struct index_search *s, const float *products, const float *weights, float *scores)
{
    for (size_t v = 0; v < BLOCK_VECTORS; v++) {
        lanes sum = lanes_all(0.0f);
        for (size_t h = 0; h < s->heads; h++)
            sum = lanes_fma(lanes_all(weights ? weights[h] : 1.0f),
                            lanes_max(lanes_all(0.0f), lanes_load(products + h * BLOCK + v * LANES)), sum);
        lanes_store(scores + v * LANES, sum);
    }
}

static void score(const struct index_tile *tile, float *work)
{
    const struct index_search *s = tile->search;
    float *keys = work, *products = work + BLOCK * s->size;
    const size_t sets = index_sets(s), row_floats = s->heads * s->size;
    for (size_t key = tile->first; key < tile->end; key += BLOCK) {
        size_t count = MIN(tile->end - key, (size_t)BLOCK);
        struct product p = {.out = products,
                            .out_stride = BLOCK,
                            .a = s->query + tile->row * row_floats,
                            .a_stride = s->size,
                            .b = keys,
                            .b_stride = BLOCK * sizeof(float),
                            .end = s->size};
        unpack(s, keys, s->keys + key * s->key_bytes, count);
        product(&p, tile->rows * s->heads, (count + LANES - 1) / LANES);
        for (size_t r = 0; r < tile->rows; r++) {
            const float *own = products + r * s->heads * BLOCK;
            float *scores = tile->scores + r * sets * tile->stride + key;
            if (!s->by_head) {
                sum_heads(s, own, s->weights ? s->weights + (tile->row + r) * s->heads : NULL, scores);
                continue;
            }
            for (size_t h = 0; h < s->heads; h++)
                memcpy(scores + h * tile->stride, own + h * BLOCK, BLOCK * sizeof *scores);
        }
    }
}

const struct index_kernels VARIANT(index_kernels) = {.score = score};
