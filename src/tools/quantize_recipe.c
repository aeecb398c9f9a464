#include "tools/quantize_recipe.h"

#include "tools/quantize_encode.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* general.file_type of the mixtures with rules. */
enum {
    FILE_Q4_0 = 2,
    FILE_Q5_0 = 8,
    FILE_Q2_K = 10,
    FILE_Q3_K_S = 11,
    FILE_Q3_K_M = 12,
    FILE_Q3_K_L = 13,
    FILE_Q4_K_S = 14,
    FILE_Q4_K_M = 15,
    FILE_Q5_K_S = 16,
    FILE_Q5_K_M = 17,
    FILE_IQ2_XXS = 19,
    FILE_IQ2_XS = 20,
    FILE_Q2_K_S = 21,
    FILE_IQ3_XS = 22,
    FILE_IQ3_XXS = 23,
    FILE_IQ1_S = 24,
    FILE_IQ4_NL = 25,
    FILE_IQ3_S = 26,
    FILE_IQ3_M = 27,
    FILE_IQ2_S = 28,
    FILE_IQ2_M = 29,
    FILE_IQ4_XS = 30,
    FILE_IQ1_M = 31,
    FILE_TQ1_0 = 36,
    FILE_TQ2_0 = 37,
    FILE_MXFP4 = 38
};

static const struct recipe recipes[] = {
    {"F32", 0, TENSOR_F32, "32 bits per weight"},
    {"F16", 1, TENSOR_F16, "16"},
    {"BF16", 32, TENSOR_BF16, "16"},
    {"Q8_0", 7, TENSOR_Q8_0, "8.5"},
    {"Q6_K", 18, TENSOR_Q6_K, "6.6"},
    {"Q5_K_M", FILE_Q5_K_M, TENSOR_Q5_K, "5.7"},
    {"Q5_K_S", FILE_Q5_K_S, TENSOR_Q5_K, "5.5"},
    {"Q5_1", 9, TENSOR_Q5_1, "6"},
    {"Q5_0", FILE_Q5_0, TENSOR_Q5_0, "5.5"},
    {"Q4_K_M", FILE_Q4_K_M, TENSOR_Q4_K, "4.8"},
    {"Q4_K_S", FILE_Q4_K_S, TENSOR_Q4_K, "4.6"},
    {"Q4_1", 3, TENSOR_Q4_1, "5"},
    {"Q4_0", FILE_Q4_0, TENSOR_Q4_0, "4.5"},
    {"IQ4_NL", FILE_IQ4_NL, TENSOR_IQ4_NL, "4.5"},
    {"IQ4_XS", FILE_IQ4_XS, TENSOR_IQ4_XS, "4.3"},
    {"MXFP4_MOE", FILE_MXFP4, TENSOR_MXFP4, "4.3 for experts, 8.5 for the rest"},
    {"Q3_K_L", FILE_Q3_K_L, TENSOR_Q3_K, "4.3"},
    {"Q3_K_M", FILE_Q3_K_M, TENSOR_Q3_K, "3.9"},
    {"Q3_K_S", FILE_Q3_K_S, TENSOR_Q3_K, "3.5"},
    {"IQ3_M", FILE_IQ3_M, TENSOR_IQ3_S, "3.7"},
    {"IQ3_S", FILE_IQ3_S, TENSOR_IQ3_S, "3.4"},
    {"IQ3_XS", FILE_IQ3_XS, TENSOR_IQ3_S, "3.3, with importance"},
    {"IQ3_XXS", FILE_IQ3_XXS, TENSOR_IQ3_XXS, "3.1, with importance"},
    {"Q2_K", FILE_Q2_K, TENSOR_Q2_K, "3.2"},
    {"Q2_K_S", FILE_Q2_K_S, TENSOR_Q2_K, "2.8, with importance"},
    {"IQ2_M", FILE_IQ2_M, TENSOR_IQ2_S, "2.7, with importance"},
    {"IQ2_S", FILE_IQ2_S, TENSOR_IQ2_XS, "2.5, with importance"},
    {"IQ2_XS", FILE_IQ2_XS, TENSOR_IQ2_XS, "2.3, with importance"},
    {"IQ2_XXS", FILE_IQ2_XXS, TENSOR_IQ2_XXS, "2.1, with importance"},
    {"IQ1_M", FILE_IQ1_M, TENSOR_IQ1_M, "1.75, with importance"},
    {"IQ1_S", FILE_IQ1_S, TENSOR_IQ1_S, "1.6, with importance"},
    {"TQ2_0", FILE_TQ2_0, TENSOR_TQ2_0, "2.1, for models that were trained with three values"},
    {"TQ1_0", FILE_TQ1_0, TENSOR_TQ1_0, "1.7, likewise"},
};

size_t recipe_count(void)
{
    return COUNT_OF(recipes);
}

const struct recipe *recipe_at(size_t index)
{
    return &recipes[index];
}

const struct recipe *recipe_find(const char *name)
{
    static const char *const others[][2] = {{"Q3_K", "Q3_K_M"},     {"Q4_K", "Q4_K_M"}, {"Q5_K", "Q5_K_M"},
                                            {"MXFP4", "MXFP4_MOE"}, {"FP16", "F16"},    {"FP32", "F32"}};
    for (size_t i = 0; i < COUNT_OF(others); i++)
        if (strcasecmp(name, others[i][0]) == 0)
            name = others[i][1];
    for (size_t i = 0; i < COUNT_OF(recipes); i++)
        if (strcasecmp(name, recipes[i].name) == 0)
            return &recipes[i];
    return NULL;
}

/* ---- names ------------------------------------------------------------------------------------------------------ */

static long layer_of(const char *name)
{
    char *end;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9')
        return -1;
    long layer = strtol(name + 4, &end, 10);
    return *end == '.' ? layer : -1;
}

int recipe_order(const struct gguf_tensor *a, const struct gguf_tensor *b)
{
    long layer_a = layer_of(a->name.data), layer_b = layer_of(b->name.data);
    return layer_a != layer_b ? (layer_a > layer_b) - (layer_a < layer_b) : strcmp(a->name.data, b->name.data);
}

static bool has(const char *name, const char *part)
{
    return strstr(name, part) != NULL;
}

bool recipe_applies(const struct gguf_tensor *tensor)
{
    static const char *const small[] = {"_norm.weight",
                                        "ffn_gate_inp.weight",
                                        "ffn_gate_tid2eid.weight",
                                        "altup",
                                        "laurel",
                                        "per_layer_model_proj",
                                        "ssm_conv1d",
                                        "shortconv.conv.weight",
                                        "indexer.k_proj.weight",
                                        "indexer.q_proj.weight",
                                        "time_mix_first.weight",
                                        "time_mix_w0.weight",
                                        "time_mix_w1.weight",
                                        "time_mix_w2.weight",
                                        "time_mix_v0.weight",
                                        "time_mix_v1.weight",
                                        "time_mix_v2.weight",
                                        "time_mix_a0.weight",
                                        "time_mix_a1.weight",
                                        "time_mix_a2.weight",
                                        "time_mix_g1.weight",
                                        "time_mix_g2.weight",
                                        "time_mix_decay_w1.weight",
                                        "time_mix_decay_w2.weight",
                                        "time_mix_lerp_fused.weight",
                                        "attn_rel_b.weight",
                                        ".position_embd",
                                        "sam.pos_embd",
                                        "sam.neck.",
                                        "sam.net_",
                                        ".rel_pos",
                                        ".patch_embd",
                                        ".patch_merger",
                                        "a.rvq.codebook",
                                        "mm.a.code_embd"};
    const char *name = tensor->name.data;
    size_t length = strlen(name);
    if (tensor->dimensions[1] < 2 && tensor->dimensions[2] < 2 && tensor->dimensions[3] < 2)
        return false;
    if (length < 6 || strcmp(name + length - 6, "weight") != 0 || strcmp(name, "position_embd.weight") == 0 ||
        strcmp(name, "token_types.weight") == 0)
        return false;
    for (size_t i = 0; i < COUNT_OF(small); i++)
        if (has(name, small[i]))
            return false;
    return true;
}

enum kind {
    KIND_OUTPUT,
    KIND_EMBEDDING,
    KIND_QKV,
    KIND_KV_B,
    KIND_V,
    KIND_K,
    KIND_Q,
    KIND_ATTENTION_OUTPUT,
    KIND_UP,
    KIND_GATE,
    KIND_DOWN,
    KIND_OTHER
};

static enum kind kind_of(const char *name)
{
    static const struct {
        const char *part;
        enum kind kind;
    } parts[] = {
        {"attn_qkv.weight", KIND_QKV}, {"attn_kv_b.weight", KIND_KV_B}, {"attn_v.weight", KIND_V},
        {"attn_k.weight", KIND_K},     {"attn_q.weight", KIND_Q},       {"attn_output.weight", KIND_ATTENTION_OUTPUT},
        {"ffn_up", KIND_UP},           {"ffn_gate", KIND_GATE},         {"ffn_down", KIND_DOWN}};
    if (strcmp(name, "output.weight") == 0)
        return KIND_OUTPUT;
    if (strcmp(name, "token_embd.weight") == 0 || strcmp(name, "per_layer_token_embd.weight") == 0)
        return KIND_EMBEDDING;
    for (size_t i = 0; i < COUNT_OF(parts); i++)
        if (has(name, parts[i].part))
            return parts[i].kind;
    return KIND_OTHER;
}

static bool is_value(enum kind kind)
{
    return kind == KIND_V || kind == KIND_QKV || kind == KIND_KV_B;
}

/* ---- rules ------------------------------------------------------------------------------------------------------ */

enum tensor_type recipe_fitting(enum tensor_type type, uint64_t columns)
{
    if (columns % tensor_type_info(type)->block_size == 0)
        return type;
    switch (type) {
    case TENSOR_Q2_K:
    case TENSOR_Q3_K:
    case TENSOR_TQ1_0:
    case TENSOR_TQ2_0:
        type = TENSOR_Q4_0;
        break;
    case TENSOR_Q4_K:
        type = TENSOR_Q5_0;
        break;
    case TENSOR_Q5_K:
        type = TENSOR_Q5_1;
        break;
    case TENSOR_Q6_K:
        type = TENSOR_Q8_0;
        break;
    default:
        type = TENSOR_IQ4_NL;
        break;
    }
    return columns % tensor_type_info(type)->block_size == 0 ? type : TENSOR_F16;
}

bool recipe_needs_importance(const struct recipe *recipe, const struct gguf_tensor *tensor, enum tensor_type type)
{
    enum kind kind = kind_of(tensor->name.data);
    return kind != KIND_OUTPUT && kind != KIND_EMBEDDING &&
           (encode_needs_importance(type) || (type == TENSOR_Q2_K && recipe->file_type == FILE_Q2_K_S));
}

/* The input of the rules, and counters of the matrices of some kinds so far. */
struct rules {
    const struct recipe *recipe;
    uint32_t file_type, layers, experts, shared_heads;
    bool importance, tied, falcon, large;
    uint32_t values, value, down;
};

/* Whether a layer gets more bits: those at both ends, and every third in between. */
static bool more_bits(uint32_t layer, uint32_t layers)
{
    return layer < layers / 8 || layer >= 7 * layers / 8 || (layer - layers / 8) % 3 == 2;
}

static bool is_file(const struct rules *rules, const uint32_t *files, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (rules->file_type == files[i])
            return true;
    return false;
}

#define IS_FILE(rules, ...) is_file(rules, (const uint32_t[]){__VA_ARGS__}, COUNT_OF(((const uint32_t[]){__VA_ARGS__})))
#define IS_TWO_BIT(rules) IS_FILE(rules, FILE_IQ2_XXS, FILE_IQ2_XS, FILE_IQ2_S, FILE_IQ2_M, FILE_IQ1_S, FILE_IQ1_M)

static enum tensor_type output_type(const struct rules *rules, uint64_t columns)
{
    enum tensor_type base = rules->recipe->base;
    if (rules->file_type == FILE_MXFP4 || rules->falcon || columns % tensor_type_info(base)->block_size ||
        base == TENSOR_Q8_0)
        return TENSOR_Q8_0;
    return IS_TWO_BIT(rules) || rules->file_type == FILE_IQ3_XXS ? TENSOR_Q5_K : TENSOR_Q6_K;
}

static enum tensor_type embedding_type(const struct rules *rules)
{
    if (IS_FILE(rules, FILE_IQ2_XXS, FILE_IQ2_XS, FILE_IQ1_S, FILE_IQ1_M))
        return TENSOR_Q2_K;
    if (IS_FILE(rules, FILE_IQ2_S, FILE_IQ2_M, FILE_IQ3_XXS))
        return TENSOR_IQ3_S;
    return IS_FILE(rules, FILE_TQ1_0, FILE_TQ2_0) ? TENSOR_Q4_K : rules->recipe->base;
}

/* The rules of mixtures below three bits. */
static enum tensor_type two_bit_type(struct rules *rules, enum kind kind)
{
    enum tensor_type base = rules->recipe->base;
    bool larger = IS_FILE(rules, FILE_IQ2_S, FILE_IQ2_M);
    if (is_value(kind)) {
        rules->value++;
        return rules->shared_heads >= 4 || rules->experts >= 4 ? TENSOR_Q4_K : larger ? TENSOR_IQ3_S : TENSOR_Q2_K;
    }
    if (kind == KIND_K && rules->experts == 8)
        return TENSOR_Q4_K;
    if (kind == KIND_DOWN)
        return rules->down++ < rules->layers / 8 ? larger ? TENSOR_IQ3_S : TENSOR_Q2_K : base;
    if (kind == KIND_ATTENTION_OUTPUT) {
        if (rules->experts == 8)
            return TENSOR_Q5_K;
        return IS_FILE(rules, FILE_IQ1_S, FILE_IQ1_M) ? TENSOR_IQ2_XXS : larger ? TENSOR_IQ3_S : base;
    }
    return base;
}

static enum tensor_type value_type(struct rules *rules)
{
    enum tensor_type type = rules->recipe->base;
    bool shared = rules->shared_heads >= 4;
    uint32_t index = rules->value++;
    switch (rules->file_type) {
    case FILE_Q2_K:
        type = shared ? TENSOR_Q4_K : TENSOR_Q3_K;
        break;
    case FILE_Q2_K_S:
    case FILE_IQ3_XS:
    case FILE_IQ3_S:
        type = shared ? TENSOR_Q4_K : type;
        break;
    case FILE_IQ3_XXS:
        type = shared ? TENSOR_Q4_K : rules->importance ? TENSOR_IQ3_XXS : TENSOR_IQ3_S;
        break;
    case FILE_IQ3_M:
        type = TENSOR_Q4_K;
        break;
    case FILE_Q3_K_M:
        type = index < 2 ? TENSOR_Q5_K : TENSOR_Q4_K;
        break;
    case FILE_Q3_K_L:
        type = TENSOR_Q5_K;
        break;
    case FILE_IQ4_NL:
    case FILE_IQ4_XS:
        type = shared ? TENSOR_Q5_K : type;
        break;
    case FILE_Q4_K_M:
    case FILE_Q5_K_M:
        type = more_bits(index, rules->values) ? TENSOR_Q6_K : type;
        break;
    case FILE_Q4_K_S:
        type = index < 4 ? TENSOR_Q5_K : type;
        break;
    default:
        break;
    }
    if (rules->large && (type == TENSOR_Q3_K || type == TENSOR_Q4_K))
        type = TENSOR_Q5_K;
    return rules->experts == 8 ? TENSOR_Q8_0 : type;
}

static enum tensor_type down_type(struct rules *rules, const char *name)
{
    enum tensor_type base = rules->recipe->base;
    uint32_t layers = rules->layers, layer = rules->down++;
    if (rules->experts > 1)
        layer = (uint32_t)(layer_of(name) < 0 ? 0 : layer_of(name));
    bool early = layer < layers / 8, more = more_bits(layer, layers);
    switch (rules->file_type) {
    case FILE_Q2_K:
        return TENSOR_Q3_K;
    case FILE_Q2_K_S:
        return early ? TENSOR_Q4_K : base;
    case FILE_IQ3_XXS:
        return rules->importance ? base : early ? TENSOR_Q4_K : TENSOR_Q3_K;
    case FILE_Q3_K_M:
        return layer < layers / 16 ? TENSOR_Q5_K : !rules->falcon || more ? TENSOR_Q4_K : TENSOR_Q3_K;
    case FILE_IQ3_M:
        return early || (rules->experts == 8 && more) ? TENSOR_Q4_K : base;
    case FILE_Q3_K_L:
        return rules->falcon ? TENSOR_Q4_K : TENSOR_Q5_K;
    case FILE_Q4_K_M:
        if (rules->falcon)
            return layer < layers / 16 ? TENSOR_Q6_K : more ? TENSOR_Q5_K : TENSOR_Q4_K;
        return more ? TENSOR_Q6_K : base;
    case FILE_IQ4_NL:
    case FILE_IQ4_XS:
        return early && !rules->importance ? TENSOR_Q5_K : base;
    case FILE_Q5_K_M:
        return more ? TENSOR_Q6_K : base;
    case FILE_Q4_K_S:
        return early && !rules->falcon ? TENSOR_Q5_K : base;
    case FILE_Q4_0:
        return early && rules->importance ? TENSOR_Q4_1 : base;
    case FILE_Q5_0:
        return early && rules->importance ? TENSOR_Q5_1 : base;
    default:
        return base;
    }
}

static enum tensor_type attention_output_type(const struct rules *rules)
{
    enum tensor_type base = rules->recipe->base;
    if (rules->falcon)
        return rules->file_type == FILE_Q3_K_L ? TENSOR_Q4_K : base;
    if (rules->experts == 8)
        return IS_FILE(rules, FILE_Q2_K, FILE_IQ3_XS, FILE_IQ3_XXS, FILE_Q3_K_S, FILE_Q3_K_M, FILE_IQ4_NL, FILE_Q4_K_S,
                       FILE_Q4_K_M, FILE_IQ3_S, FILE_IQ3_M, FILE_IQ4_XS)
                   ? TENSOR_Q5_K
                   : base;
    switch (rules->file_type) {
    case FILE_Q2_K:
        return TENSOR_Q3_K;
    case FILE_IQ3_XXS:
        return TENSOR_IQ3_S;
    case FILE_Q3_K_M:
    case FILE_IQ3_M:
        return TENSOR_Q4_K;
    case FILE_Q3_K_L:
        return TENSOR_Q5_K;
    default:
        return base;
    }
}

static enum tensor_type query_key_type(const struct rules *rules, enum kind kind)
{
    if (kind == KIND_K && rules->experts == 8)
        return TENSOR_Q8_0;
    return rules->file_type == FILE_IQ3_XS    ? TENSOR_IQ3_XXS
           : rules->file_type == FILE_IQ3_XXS ? TENSOR_IQ2_S
                                              : rules->recipe->base;
}

/* counter: how many up (or gate) matrices came before. */
static enum tensor_type middle_type(const struct rules *rules, const char *name, uint32_t counter)
{
    uint32_t layer = rules->experts > 1 && layer_of(name) >= 0 ? (uint32_t)layer_of(name) : counter;
    bool middle = layer >= rules->layers / 8 && layer < 7 * rules->layers / 8;
    return rules->file_type == FILE_IQ3_XS && middle ? TENSOR_IQ3_XXS : rules->recipe->base;
}

static enum tensor_type type_of(struct rules *rules, const struct gguf_tensor *tensor, uint32_t counters[2])
{
    const char *name = tensor->name.data;
    enum kind kind = kind_of(name);
    if (kind == KIND_OUTPUT || (kind == KIND_EMBEDDING && rules->tied))
        return output_type(rules, tensor->dimensions[0]);
    if (rules->file_type == FILE_MXFP4)
        return tensor->dimensions[2] > 1 ? TENSOR_MXFP4 : TENSOR_Q8_0;
    if (kind == KIND_EMBEDDING)
        return embedding_type(rules);
    if (IS_TWO_BIT(rules))
        return two_bit_type(rules, kind);
    if (is_value(kind))
        return value_type(rules);
    if (kind == KIND_K || kind == KIND_Q)
        return query_key_type(rules, kind);
    if (kind == KIND_DOWN)
        return down_type(rules, name);
    if (kind == KIND_ATTENTION_OUTPUT)
        return attention_output_type(rules);
    if (kind == KIND_GATE || kind == KIND_UP)
        return middle_type(rules, name, counters[kind == KIND_UP]++);
    return rules->recipe->base;
}

static uint32_t first_number(const struct gguf *file, const char *architecture, const char *key)
{
    char full[300];
    uint64_t number = 0;
    snprintf(full, sizeof full, "%.200s.%s", architecture, key);
    const struct gguf_value *value = gguf_find(file, full);
    if (value && value->count)
        gguf_element_uint64(value, 0, &number);
    return (uint32_t)MIN(number, UINT32_MAX);
}

void recipe_types(const struct recipe *recipe, const struct gguf *file, const struct gguf_tensor *const *tensors,
                  size_t count, const struct recipe_wish *wish, enum tensor_type *types)
{
    struct gguf_string architecture = {"", 0};
    gguf_get_string(file, "general.architecture", &architecture);
    const char *name = architecture.data;
    uint32_t heads = first_number(file, name, "attention.head_count");
    uint32_t kv_heads = first_number(file, name, "attention.head_count_kv");
    if (!kv_heads)
        kv_heads = heads;
    struct rules rules = {
        .recipe = recipe, .file_type = recipe->file_type, .importance = wish->importance, .tied = true};
    rules.layers = first_number(file, name, "block_count");
    rules.experts = first_number(file, name, "expert_count");
    rules.shared_heads = kv_heads ? heads / kv_heads : 0;
    rules.falcon = strcmp(name, "falcon") == 0;
    rules.large = rules.layers == 80 && heads != kv_heads &&
                  (strcmp(name, "llama") == 0 || strcmp(name, "qwen2") == 0 || strcmp(name, "deci") == 0);
    for (size_t i = 0; i < count; i++) {
        enum kind kind = kind_of(tensors[i]->name.data);
        rules.values += is_value(kind);
        rules.tied = rules.tied && kind != KIND_OUTPUT;
    }
    uint32_t counters[2] = {0, 0};
    bool plain = tensor_type_info(recipe->base)->block_size == 1;
    for (size_t i = 0; i < count; i++) {
        types[i] = tensors[i]->type;
        if (!recipe_applies(tensors[i]))
            continue;
        types[i] = recipe->base;
        if (!wish->asked(wish->context, tensors[i]->name.data, &types[i]) && !plain && !wish->pure)
            types[i] = type_of(&rules, tensors[i], counters);
        types[i] = recipe_fitting(types[i], tensors[i]->dimensions[0]);
    }
}
