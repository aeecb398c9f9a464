/* The list of tensors of a synthetic model: names, shapes, types and how each is filled. */
#include "tools/synth_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* Deviation of the output logits, which makes a vocabulary of a usual size yield varied but not uniform text. */
#define LOGIT_DEVIATION 3.0

/* Queries and keys are larger than 1, so that attention picks some tokens rather than averaging all. */
#define QUERY_DEVIATION 1.4

/* Mean square of gate times up when both have deviation 1: of SiLU, and of gpt-oss's (up + 1) variant. */
#define ACTIVATION_ENERGY 0.356
#define OAI_ACTIVATION_ENERGY 0.8

/* Part of the energy of the values that is left after attention has averaged some. */
#define ATTENTION_ENERGY 0.3

/* ---- types ------------------------------------------------------------------------------------------------------- */

enum matrix_role {
    MATRIX_EMBEDDING,
    MATRIX_OUTPUT,
    MATRIX_Q,
    MATRIX_K,
    MATRIX_V,
    MATRIX_O,
    MATRIX_GATE_UP,
    MATRIX_DOWN
};

static const struct {
    const char *name;
    enum tensor_type base;
    uint32_t number;
} mixtures[] = {{"Q4_K_M", TENSOR_Q4_K, 15}, {"Q5_K_M", TENSOR_Q5_K, 17}};

/* general.file_type of a model whose matrices have one type (llama_ftype). */
static const struct {
    enum tensor_type type;
    uint32_t number;
} file_types[] = {
    {TENSOR_F32, 0},    {TENSOR_F16, 1},     {TENSOR_Q4_0, 2},     {TENSOR_Q4_1, 3},    {TENSOR_Q8_0, 7},
    {TENSOR_Q5_0, 8},   {TENSOR_Q5_1, 9},    {TENSOR_Q2_K, 10},    {TENSOR_Q3_K, 11},   {TENSOR_Q4_K, 14},
    {TENSOR_Q5_K, 16},  {TENSOR_Q6_K, 18},   {TENSOR_IQ2_XXS, 19}, {TENSOR_IQ2_XS, 20}, {TENSOR_IQ3_XXS, 23},
    {TENSOR_IQ1_S, 24}, {TENSOR_IQ4_NL, 25}, {TENSOR_IQ3_S, 26},   {TENSOR_IQ2_S, 28},  {TENSOR_IQ4_XS, 30},
    {TENSOR_IQ1_M, 31}, {TENSOR_BF16, 32},   {TENSOR_TQ1_0, 36},   {TENSOR_TQ2_0, 37},  {TENSOR_MXFP4, 38},
    {TENSOR_NVFP4, 39}};

hypura_status synth_type_names(struct buffer *out, hypura_error *error)
{
    for (size_t i = 0; i < COUNT_OF(mixtures); i++)
        buffer_append_format(out, "%s%s", out->size ? ", " : "", mixtures[i].name);
    for (size_t i = 0; i < COUNT_OF(file_types); i++)
        buffer_append_format(out, ", %s", tensor_type_info(file_types[i].type)->name);
    return out->failed ? error_set(error, HYPURA_ERROR_MEMORY, "no memory for the names of types") : HYPURA_OK;
}

static hypura_status parse_type(struct synth_type *out, const char *name, hypura_error *error)
{
    for (size_t i = 0; i < COUNT_OF(mixtures); i++) {
        if (strcasecmp(mixtures[i].name, name) == 0) {
            *out = (struct synth_type){mixtures[i].base, true, mixtures[i].number};
            return HYPURA_OK;
        }
    }
    enum tensor_type type;
    for (size_t i = 0; i < COUNT_OF(file_types) && tensor_type_by_name(name, &type); i++) {
        if (file_types[i].type == type) {
            *out = (struct synth_type){type, false, file_types[i].number};
            return HYPURA_OK;
        }
    }
    struct buffer names = {0};
    hypura_status status = synth_type_names(&names, error);
    if (!status)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a type that can be made; expected one of %s",
                           name, names.data);
    buffer_free(&names);
    return status;
}

/* llama-quantize gives the first and last eighth of the layers, and every third between, more bits. */
static bool more_bits(uint32_t layer, uint32_t layers)
{
    return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

static enum tensor_type mixture_type(const struct synth_type *type, const struct synth_geometry *geometry,
                                     enum matrix_role role, uint32_t layer)
{
    bool more = more_bits(layer, geometry->layers);
    switch (role) {
    case MATRIX_OUTPUT:
        return TENSOR_Q6_K;
    case MATRIX_K:
        return geometry->experts == 8 ? TENSOR_Q8_0 : type->base;
    case MATRIX_V:
        if (geometry->experts == 8)
            return TENSOR_Q8_0;
        if (more)
            return TENSOR_Q6_K;
        /* The value matrix of the 70B models is an eighth of the query matrix, so its bits are cheap. */
        return geometry->layers == 80 && geometry->heads == 8 * geometry->kv_heads ? TENSOR_Q5_K : type->base;
    case MATRIX_O:
        return geometry->experts == 8 && type->base == TENSOR_Q4_K ? TENSOR_Q5_K : type->base;
    case MATRIX_DOWN:
        return more ? TENSOR_Q6_K : type->base;
    default:
        return type->base;
    }
}

/* What llama-quantize takes where the rows do not fill whole blocks. */
static enum tensor_type fitting_type(enum tensor_type type, uint64_t columns)
{
    if (columns % tensor_type_info(type)->block_size == 0)
        return type;
    switch (type) {
    case TENSOR_Q4_K:
        return TENSOR_Q5_0;
    case TENSOR_Q5_K:
        return TENSOR_Q5_1;
    case TENSOR_Q6_K:
        return TENSOR_Q8_0;
    case TENSOR_TQ1_0:
    case TENSOR_TQ2_0:
        return TENSOR_Q4_0;
    default:
        return TENSOR_IQ4_NL;
    }
}

static enum tensor_type matrix_type(const struct synth_list *list, enum matrix_role role, uint32_t layer,
                                    uint64_t columns)
{
    const struct synth_geometry *geometry = &list->options.geometry;
    enum tensor_type type = list->type.base;
    bool expert = geometry->experts && (role == MATRIX_GATE_UP || role == MATRIX_DOWN);
    if (list->type.mixture)
        type = mixture_type(&list->type, geometry, role, layer);
    else if (type == TENSOR_MXFP4 && geometry->experts && !expert)
        type = TENSOR_Q8_0; /* only experts are published in MXFP4 */
    else if ((role == MATRIX_EMBEDDING || role == MATRIX_OUTPUT) && !synth_tail_supported(type))
        type = TENSOR_Q4_K; /* nobody packs these two below 4 bits */
    return fitting_type(type, columns);
}

enum tensor_type synth_matrix_type(const struct synth_list *list, const char *name, uint64_t columns)
{
    enum matrix_role role = strstr(name, "down_exps")                  ? MATRIX_DOWN
                            : strstr(name, "_exps")                    ? MATRIX_GATE_UP
                            : strcmp(name, "token_embd.weight") == 0   ? MATRIX_EMBEDDING
                            : strcmp(name, "output.weight") == 0       ? MATRIX_OUTPUT
                                                                       : MATRIX_Q;
    enum tensor_type type = matrix_type(list, role, list->options.geometry.layers / 2, columns);
    /* Few bits are for experts; the rest of such a model is next to nothing. */
    return columns % tensor_type_info(type)->block_size ? TENSOR_F16 : type;
}

/* ---- the list ---------------------------------------------------------------------------------------------------- */

static struct synth_tensor *add(struct synth_list *list, enum synth_fill fill, enum tensor_type type, uint32_t layer,
                                uint32_t dimensions, const uint64_t *shape, const char *name, ...)
    __attribute__((format(printf, 7, 8)));

/* The list has room for the most tensors that its layers can have. */
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

static struct synth_tensor *add_matrix(struct synth_list *list, enum matrix_role role, uint32_t layer, uint64_t columns,
                                       uint64_t rows, uint64_t experts, double deviation, const char *name)
{
    uint64_t shape[] = {columns, rows, experts};
    enum tensor_type type = matrix_type(list, role, layer, columns);
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
    bool slow = g->experts && layer == 0; /* this layer makes the moving average */
    double unit = 1 / sqrt((double)size);

    add_vector(list, slow ? SYNTH_FILL_ONE : SYNTH_FILL_NORM, layer, size, 0, 0, "attn_norm.weight");
    double query = synth_query_key_norm(g->architecture) ? unit : QUERY_DEVIATION * unit;
    struct synth_tensor *q = add_matrix(list, MATRIX_Q, layer, size, width, 0, query, "attn_q");
    struct synth_tensor *k = add_matrix(list, MATRIX_K, layer, size, kv_width, 0, query, "attn_k");
    struct synth_tensor *v = add_matrix(list, MATRIX_V, layer, size, kv_width, 0, unit, "attn_v");
    /* Energies are those of the stream where an embedding has 1. */
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
    hypura_status status = parse_type(&list->type, list->options.type, error);
    if (status)
        return status;
    if (list->options.recipe)
        return synth_recipe_list(list, vocabulary, error);
    enum tensor_type embedding_type = matrix_type(list, MATRIX_EMBEDDING, 0, g->embedding);
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
    enum tensor_type output_type = matrix_type(list, MATRIX_OUTPUT, 0, g->embedding);
    struct synth_tensor *output = add(list, SYNTH_FILL_RANDOM, output_type, 0, 2, table, "output.weight");
    /* Bytes and special tokens get rows of zeros: text stays text, and no answer ends by chance. */
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
