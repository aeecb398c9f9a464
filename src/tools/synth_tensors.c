/* The list of tensors of a synthetic model: their names, shapes, types and contents. */
#include "tools/synth_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Deviation of the output logits. For vocabularies of a usual size, it makes text that varies but is not uniform. */
#define LOGIT_DEVIATION 3.0

/* Queries and keys are larger than 1, so attention picks some tokens rather than averaging all. */
#define QUERY_DEVIATION 1.4

/* Mean square of activated gate times up, if both have deviation 1: with SiLU, and with gpt-oss's (up + 1) variant. */
#define ACTIVATION_ENERGY 0.356
#define OAI_ACTIVATION_ENERGY 0.8

/* The share of the values' energy that is left after attention has averaged them. */
#define ATTENTION_ENERGY 0.3

static struct synth_tensor *add(struct synth_list *list, enum synth_fill fill, enum tensor_type type, uint32_t layer,
                                uint32_t dimensions, const uint64_t *shape, const char *name, ...)
    __attribute__((format(printf, 7, 8)));

/* Adds a tensor. The list has room for the largest number of tensors. */
static struct synth_tensor *add(struct synth_list *list, enum synth_fill fill, enum tensor_type type, uint32_t layer,
                                uint32_t dimensions, const uint64_t *shape, const char *name, ...)
{
    struct synth_tensor *tensor = &list->tensors[list->count++];
    *tensor = (struct synth_tensor){.fill = fill, .type = type, .layer = layer, .dimensions = dimensions};
    memcpy(tensor->shape, shape, dimensions * sizeof *shape);
    tensor->rows = 1;
    for (uint32_t i = 1; i < dimensions; i++)
        tensor->rows *= shape[i];
    tensor->period = dimensions > 1 ? shape[1] : 1;
    tensor_row_bytes(type, shape[0], &tensor->row_bytes);
    va_list arguments;
    va_start(arguments, name);
    vsnprintf(tensor->name, sizeof tensor->name, name, arguments);
    va_end(arguments);
    return tensor;
}

static struct synth_tensor *add_matrix(struct synth_list *list, enum synth_role role, uint32_t layer, uint64_t columns,
                                       uint64_t rows, uint64_t experts, double deviation, const char *name)
{
    uint64_t shape[] = {columns, rows, experts};
    enum tensor_type type = synth_role_type(list, role, layer, columns);
    struct synth_tensor *tensor =
        add(list, SYNTH_FILL_RANDOM, type, layer, experts ? 3 : 2, shape, "blk.%u.%s.weight", layer, name);
    tensor->deviation = deviation;
    return tensor;
}

static void add_vector(struct synth_list *list, enum synth_fill fill, uint32_t layer, uint64_t size, uint64_t experts,
                       double deviation, const char *name)
{
    uint64_t shape[] = {size, experts};
    add(list, fill, TENSOR_F32, layer, experts ? 2 : 1, shape, "blk.%u.%s", layer, name)->deviation = deviation;
}

static void add_band(struct synth_tensor *tensor, uint64_t first, uint64_t count, double deviation)
{
    tensor->band_first = first;
    tensor->band_count = count;
    tensor->band_deviation = deviation;
}

static void add_attention(struct synth_list *list, uint32_t layer)
{
    const struct synth_geometry *g = &list->options.geometry;
    uint64_t size = g->embedding, width = (uint64_t)g->heads * g->head_size,
             kv_width = (uint64_t)g->kv_heads * g->head_size;
    bool gpt_oss = strcmp(g->architecture, "gpt-oss") == 0, biases = gpt_oss || strcmp(g->architecture, "qwen2") == 0;
    bool slow = g->experts && layer == 0; /* this layer computes the moving average */
    double unit = 1 / sqrt((double)size);

    add_vector(list, slow ? SYNTH_FILL_ONE : SYNTH_FILL_NORM, layer, size, 0, 0, "attn_norm.weight");
    double query = synth_query_key_norm(g->architecture) ? unit : QUERY_DEVIATION * unit;
    struct synth_tensor *q = add_matrix(list, MATRIX_Q, layer, size, width, 0, query, "attn_q");
    struct synth_tensor *k = add_matrix(list, MATRIX_K, layer, size, kv_width, 0, query, "attn_k");
    struct synth_tensor *v = add_matrix(list, MATRIX_V, layer, size, kv_width, 0, unit, "attn_v");
    /* Energies are relative to that of an embedding in the stream, which is 1. */
    double per_row = 1 / sqrt((double)width * ATTENTION_ENERGY);
    double everywhere = g->experts ? 0.3 * (double)SYNTH_NOISE_ENERGY : 1.5;
    struct synth_tensor *o =
        add_matrix(list, MATRIX_O, layer, width, size, 0, sqrt(everywhere / g->layers) * per_row, "attn_output");
    if (slow) {
        struct synth_tensor *const four[] = {q, k, v, o};
        const enum synth_fill fills[] = {SYNTH_FILL_POSITION, SYNTH_FILL_POSITION, SYNTH_FILL_SLOW_VALUE,
                                         SYNTH_FILL_SLOW_OUTPUT};
        for (size_t i = 0; i < COUNT_OF(four); i++) {
            four[i]->fill = fills[i];
            if (tensor_type_info(four[i]->type)->block_size > 1) {
                four[i]->type = TENSOR_Q8_0;
                tensor_row_bytes(TENSOR_Q8_0, four[i]->shape[0], &four[i]->row_bytes);
            }
        }
    } else if (g->experts) {
        add_band(o, list->router.context.first, list->router.context.count,
                 sqrt((double)SYNTH_CONTEXT_ENERGY) * per_row);
    }
    if (biases) {
        add_vector(list, SYNTH_FILL_BIAS, layer, width, 0, slow ? 0 : 0.3, "attn_q.bias");
        add_vector(list, SYNTH_FILL_BIAS, layer, kv_width, 0, slow ? 0 : 0.3, "attn_k.bias");
        add_vector(list, SYNTH_FILL_BIAS, layer, kv_width, 0, slow ? 0 : 0.1, "attn_v.bias");
    }
    if (gpt_oss) {
        add_vector(list, SYNTH_FILL_BIAS, layer, size, 0, 0.01, "attn_output.bias");
        add_vector(list, SYNTH_FILL_BIAS, layer, g->heads, 0, slow ? 0 : 1, "attn_sinks.weight");
    }
    if (synth_query_key_norm(g->architecture)) {
        enum synth_fill fill = slow ? SYNTH_FILL_POSITION_NORM : SYNTH_FILL_QUERY_NORM;
        add_vector(list, fill, layer, g->head_size, 0, QUERY_DEVIATION, "attn_q_norm.weight");
        add_vector(list, fill, layer, g->head_size, 0, QUERY_DEVIATION, "attn_k_norm.weight");
    }
}

static void add_feed_forward(struct synth_list *list, uint32_t layer)
{
    const struct synth_geometry *g = &list->options.geometry;
    uint64_t size = g->embedding, width = g->feed_forward, experts = g->experts;
    bool gpt_oss = strcmp(g->architecture, "gpt-oss") == 0;
    double unit = 1 / sqrt((double)size);

    add_vector(list, SYNTH_FILL_NORM, layer, size, 0, 0, gpt_oss ? "post_attention_norm.weight" : "ffn_norm.weight");
    if (!experts) {
        add_matrix(list, MATRIX_GATE_UP, layer, size, width, 0, unit, "ffn_gate");
        add_matrix(list, MATRIX_GATE_UP, layer, size, width, 0, unit, "ffn_up");
        double down = sqrt(2.0 / g->layers / (width * ACTIVATION_ENERGY));
        add_matrix(list, MATRIX_DOWN, layer, width, size, 0, down, "ffn_down");
        return;
    }
    uint64_t router[] = {size, experts};
    add(list, SYNTH_FILL_ROUTER, TENSOR_F32, layer, 2, router, "blk.%u.ffn_gate_inp.weight", layer);
    add_matrix(list, MATRIX_GATE_UP, layer, size, width, experts, unit, "ffn_gate_exps");
    add_matrix(list, MATRIX_GATE_UP, layer, size, width, experts, unit, "ffn_up_exps");
    /* The outputs of the chosen experts are summed with weights whose squares sum to about this. */
    double sum = pow(g->experts_used, -0.65);
    double per_row = 1 / sqrt(width * (gpt_oss ? OAI_ACTIVATION_ENERGY : ACTIVATION_ENERGY) * sum);
    double everywhere = sqrt(0.7 * (double)SYNTH_NOISE_ENERGY / g->layers);
    struct synth_tensor *down =
        add_matrix(list, MATRIX_DOWN, layer, width, size, experts, everywhere * per_row, "ffn_down_exps");
    struct synth_part fresh = synth_fresh_part(&list->router, layer);
    add_band(down, fresh.first, fresh.count, sqrt((double)SYNTH_FRESH_ENERGY) * per_row);
    if (gpt_oss) {
        add_vector(list, SYNTH_FILL_BIAS, layer, experts, 0, 0, "ffn_gate_inp.bias");
        add_vector(list, SYNTH_FILL_BIAS, layer, width, experts, 0.1, "ffn_gate_exps.bias");
        add_vector(list, SYNTH_FILL_BIAS, layer, width, experts, 0.1, "ffn_up_exps.bias");
        add_vector(list, SYNTH_FILL_BIAS, layer, size, experts, 0.01, "ffn_down_exps.bias");
    }
}

#define MOST_TENSORS_A_LAYER 20

static hypura_status make_list(struct synth_list *list, const struct synth_vocabulary *vocabulary, hypura_error *error)
{
    const struct synth_geometry *g = &list->options.geometry;
    hypura_status status = synth_type_parse(&list->type, list->options.type, error);
    if (status)
        return status;
    if (list->options.recipe)
        return synth_recipe_list(list, vocabulary, error);
    enum tensor_type embedding_type = synth_role_type(list, MATRIX_EMBEDDING, 0, g->embedding);
    if (g->experts &&
        (status = synth_router_plan(&list->router, &list->options, synth_tail_ratio(embedding_type), error)))
        return status;
    size_t most = (size_t)g->layers * MOST_TENSORS_A_LAYER + 3;
    if ((status = ALLOCATE(&list->tensors, most, "list of tensors", error)))
        return status;
    uint64_t table[] = {g->embedding, g->vocabulary};
    struct synth_tensor *embedding = add(list, SYNTH_FILL_RANDOM, embedding_type, 0, 2, table, "token_embd.weight");
    embedding->deviation = 1;
    embedding->constant_tail = g->experts > 0;
    for (uint32_t layer = 0; layer < g->layers; layer++) {
        add_attention(list, layer);
        add_feed_forward(list, layer);
    }
    uint64_t size[] = {g->embedding};
    add(list, SYNTH_FILL_NORM, TENSOR_F32, 0, 1, size, "output_norm.weight");
    enum tensor_type output_type = synth_role_type(list, MATRIX_OUTPUT, 0, g->embedding);
    struct synth_tensor *output = add(list, SYNTH_FILL_RANDOM, output_type, 0, 2, table, "output.weight");
    /* Bytes and special tokens get rows of zeros, so answers consist of words and do not end by chance. */
    uint32_t first, end;
    synth_vocabulary_words(vocabulary, &first, &end);
    add_band(output, first, end - first, LOGIT_DEVIATION / sqrt(g->embedding));
    return HYPURA_OK;
}

hypura_status synth_list_make(struct synth_list *list, const struct synth_options *options,
                              const struct synth_vocabulary *vocabulary, hypura_error *error)
{
    *list = (struct synth_list){.options = *options};
    hypura_status status = make_list(list, vocabulary, error);
    if (status)
        synth_list_free(list);
    return status;
}

void synth_list_free(struct synth_list *list)
{
    memory_free(list->tensors);
    synth_router_plan_free(&list->router);
    *list = (struct synth_list){0};
}

uint64_t synth_list_bytes(const struct synth_list *list)
{
    uint64_t total = 0;
    for (size_t i = 0; i < list->count; i++)
        total += list->tensors[i].rows * list->tensors[i].row_bytes;
    return total;
}
