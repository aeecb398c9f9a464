/* The search for positions worth attention, and attention to chosen positions only. */
#include "compute/vulkan/gpu_private.h"

/* As in shaders/index_score.comp, whose keys must fit shared memory. */
#define SCORE_KEYS 32u
#define SCORE_ROWS 4u
#define MOST_SIZE 192u

bool gpu_index_supports(enum tensor_type type, uint32_t size)
{
    return gpu_attention_supports(type, size, size) && size <= MOST_SIZE;
}

static uint64_t score_stride(uint32_t positions)
{
    return align_up((uint64_t)positions, SCORE_KEYS);
}

uint64_t gpu_index_score_bytes(uint32_t sets, uint32_t positions)
{
    return sets * score_stride(positions) * sizeof(float);
}

/* The most keys that the last row of a sequence sees. */
static uint32_t most_keys(const struct gpu_index *x)
{
    uint32_t most = 0;
    for (uint32_t i = 0; i < x->sequence_count; i++)
        if (x->sequences[i].rows)
            most = MAX(most, (x->sequences[i].first_position + x->sequences[i].rows) / x->every);
    return most;
}

static void score(struct gpu *gpu, const struct gpu_index *x, uint64_t table, uint32_t first, uint32_t rows,
                  uint32_t keys)
{
    const struct {
        uint64_t query, weights, scores, sequences;
        uint32_t sequence_count, first_row, heads, every, key_row, stride, rows;
    } push = {gpu_address(x->query),
              gpu_address(x->weights.buffer ? x->weights : x->query),
              gpu_address(x->scores),
              table,
              x->sequence_count,
              first,
              x->heads,
              x->every,
              gpu_row_elements(x->type, x->key_position_bytes),
              (uint32_t)score_stride(keys),
              rows};
    const uint32_t at_once = x->rows > GPU_VECTOR_TOKENS ? SCORE_ROWS : 1;
    const uint32_t constants[] = {(uint32_t)x->type, x->size, x->by_head, x->weights.buffer != NULL, at_once};
    gpu_launch(gpu, KERNEL_index_score, constants, COUNT_OF(constants), &push, sizeof push,
               (keys + SCORE_KEYS - 1) / SCORE_KEYS, (rows + at_once - 1) / at_once, 1);
}

static void choose(struct gpu *gpu, const struct gpu_index *x, uint64_t table, uint32_t first, uint32_t rows,
                   uint32_t keys)
{
    const uint32_t sets = x->by_head ? x->heads : 1;
    const struct {
        uint64_t scores, words, sequences;
        uint32_t sequence_count, first_row, sets, every, block, local, most, tail, stride, row_words;
    } push = {gpu_address(x->scores),
              gpu_address(x->words),
              table,
              x->sequence_count,
              first,
              sets,
              x->every,
              x->block,
              x->local,
              x->most,
              x->tail,
              (uint32_t)score_stride(keys),
              x->row_words};
    const uint32_t constants[] = {(uint32_t)x->type};
    gpu_launch(gpu, KERNEL_index_choose, constants, COUNT_OF(constants), &push, sizeof push, sets, rows, 1);
}

void gpu_index(struct gpu *gpu, const struct gpu_index *x)
{
    const uint32_t keys = most_keys(x);
    const bool chooses = (keys + x->block - 1) / x->block > x->most;
    const uint64_t row_bytes = gpu_index_score_bytes(x->by_head ? x->heads : 1, keys);
    const uint64_t table = gpu_sequence_table(gpu, x->cache, x->sequences, x->sequence_count);
    if (!table)
        return;
    if (!gpu_index_supports(x->type, x->size) || (chooses && row_bytes > x->score_bytes)) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED,
                         "GPU: a search of %u keys of %u elements, with room for %llu bytes of scores", keys, x->size,
                         (unsigned long long)x->score_bytes);
        return;
    }
    const uint32_t most = chooses ? (uint32_t)MIN(x->score_bytes / row_bytes, GPU_MAX_GROUPS) : GPU_MAX_GROUPS;
    for (uint32_t first = 0; first < x->rows; first += most) {
        const uint32_t rows = MIN(x->rows - first, most);
        if (first > 0) /* reuses the scores */
            gpu_barrier(gpu);
        if (chooses) {
            score(gpu, x, table, first, rows, keys);
            gpu_barrier(gpu);
        }
        choose(gpu, x, table, first, rows, keys);
    }
}

/* As in shaders/attend_chosen_many.comp. */
#define HEADS_TOGETHER 8u
#define WIDE_VALUES 512u

/* Heads per work group: several for many rows. For few rows that would leave most of the device idle. */
static uint32_t heads_together(const struct gpu_attention *a)
{
    uint32_t heads = a->rows > GPU_VECTOR_TOKENS ? HEADS_TOGETHER : 1;
    while (heads > 1 && (a->heads / a->kv_heads % heads || (heads > 4 && a->value_size > WIDE_VALUES)))
        heads /= 2;
    return heads;
}

void gpu_attend_chosen(struct gpu *gpu, const struct gpu_attention *a, const struct gpu_choice *c)
{
    const bool chosen = c->words.buffer != NULL;
    const uint64_t table = gpu_sequence_table(gpu, a->cache, a->sequences, a->sequence_count);
    if (!table)
        return;
    if (!gpu_attention_supports(a->type, a->key_size, a->value_size) || a->rows > GPU_MAX_GROUPS ||
        a->heads > GPU_MAX_GROUPS || a->kv_heads == 0 || a->heads % a->kv_heads || (!chosen && c->ring == 0)) {
        gpu_record_error(gpu, HYPURA_ERROR_UNSUPPORTED, "GPU: %u rows of %u heads of %u and %u elements that choose",
                         a->rows, a->heads, a->key_size, a->value_size);
        return;
    }
    const struct {
        uint64_t query, out, sinks, words, sequences;
        uint32_t sequence_count, heads, kv_heads, key_row, value_row;
        float scale, soft_cap;
        uint32_t sets, most, block, ring, window, every;
    } push = {gpu_address(a->query),
              gpu_address(a->out),
              gpu_address(a->sinks.buffer ? a->sinks : a->query),
              gpu_address(chosen ? c->words : a->query),
              table,
              a->sequence_count,
              a->heads,
              a->kv_heads,
              gpu_row_elements(a->type, a->key_position_bytes),
              gpu_row_elements(a->type, a->value_position_bytes),
              a->scale,
              a->soft_cap,
              c->sets,
              c->most,
              c->block,
              c->ring,
              c->window,
              c->every};
    const uint32_t together = heads_together(a);
    const uint32_t constants[] = {(uint32_t)a->type,       a->key_size, a->value_size, chosen,
                                  a->sinks.buffer != NULL, together};
    if (together > 1)
        gpu_launch(gpu, KERNEL_attend_chosen_many, constants, COUNT_OF(constants), &push, sizeof push,
                   a->heads / together, a->rows, 1);
    else
        gpu_launch(gpu, KERNEL_attend_chosen, constants, COUNT_OF(constants) - 1, &push, sizeof push, a->heads, a->rows,
                   1);
}
