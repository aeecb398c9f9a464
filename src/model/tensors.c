#include "model/model_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- finding -------------------------------------------------------------------------------------------------------
 */

/* "blk.12.attn_q.weight" gives 12 and "attn_q.weight". */
static bool split_layer_name(const char *name, uint32_t *layer, const char **rest)
{
    if (strncmp(name, "blk.", 4) != 0)
        return false;
    uint32_t number = 0;
    const char *digit = name + 4;
    if (*digit < '0' || *digit > '9')
        return false;
    for (; *digit >= '0' && *digit <= '9'; digit++) {
        if (number > 100000)
            return false;
        number = number * 10 + (uint32_t)(*digit - '0');
    }
    if (*digit != '.')
        return false;
    *layer = number;
    *rest = digit + 1;
    return true;
}

static int find_role_named(const struct architecture *architecture, const char *name, bool layer)
{
    for (size_t i = 0; i < ARCHITECTURE_ALIASES && architecture->aliases[i].name; i++)
        if (tensor_roles[architecture->aliases[i].role].layer == layer &&
            strcmp(name, architecture->aliases[i].name) == 0)
            return (int)architecture->aliases[i].role;
    if (layer && strcmp(name, "exp_probs_b") == 0) /* some converters omit the ending */
        return ROLE_ROUTER_SELECTION_BIAS;
    for (int role = 0; role < ROLE_COUNT; role++)
        if (tensor_roles[role].layer == layer && strcmp(tensor_roles[role].name, name) == 0)
            return role;
    return -1;
}

/* Some converters omit the ending of a name. */
static int find_role(const struct architecture *architecture, const char *name, bool layer)
{
    char whole[80];
    int role = find_role_named(architecture, name, layer);
    if (role >= 0 || strchr(name, '.') || snprintf(whole, sizeof whole, "%s.weight", name) >= (int)sizeof whole)
        return role;
    return find_role_named(architecture, whole, layer);
}

bool model_tensor_role(const struct model *model, const char *name, int32_t *layer, enum tensor_role *role)
{
    uint32_t number = 0;
    const char *rest = name;
    bool of_layer = split_layer_name(name, &number, &rest);
    int found = of_layer && number >= all_layers(model) ? -1 : find_role(model->architecture, rest, of_layer);
    if (found < 0)
        return false;
    *layer = of_layer ? (int32_t)number : -1;
    *role = (enum tensor_role)found;
    return true;
}

/* Written by old converters; every program computes it from the rope base. */
static bool is_needless(const char *name)
{
    return strcmp(name, "attn_rot_embd.weight") == 0 || strcmp(name, "attn_rot_embd") == 0 ||
           strcmp(name, "rope_freqs.weight") == 0 || strcmp(name, "attn_q.rope_freqs.weight") == 0;
}

/* "ffn_up.scale" belongs to "ffn_up.weight": quantisers with one scale for a whole matrix (NVFP4) write it so.
 * "ffn_up.input_scale" helps those who quantise activations too. */
static int find_scaled(const struct architecture *architecture, const char *name, const char *ending, bool layer)
{
    char whole[80];
    if (!text_has_ending(name, ending) ||
        snprintf(whole, sizeof whole, "%.*s.weight", (int)(strlen(name) - strlen(ending)), name) >= (int)sizeof whole)
        return -1;
    return find_role_named(architecture, whole, layer);
}

hypura_status model_find_tensors(struct model *model, hypura_error *error)
{
    for (size_t i = 0; i < gguf_tensor_count(model->file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(model->file, i);
        uint32_t layer = 0;
        const char *rest = tensor->name.data;
        bool of_layer = split_layer_name(tensor->name.data, &layer, &rest);
        if (of_layer && (layer >= all_layers(model) || is_needless(rest)))
            continue; /* part of a prediction block */
        int role = find_role(model->architecture, rest, of_layer), scaled = -1;
        if (role < 0 && find_scaled(model->architecture, rest, ".input_scale", of_layer) >= 0)
            continue;
        if (role < 0)
            scaled = find_scaled(model->architecture, rest, ".scale", of_layer);
        if (role < 0 && of_layer && layer >= model->parameters.layers && strcmp(rest, "layer_output_norm.weight") == 0)
            role = ROLE_PREDICTION_OUTPUT_NORM; /* Ling's name */
        if (role < 0 && scaled < 0 && of_layer && layer >= model->parameters.layers)
            return error_set(error, HYPURA_ERROR_UNSUPPORTED, "its tensor '%s' is unknown", tensor->name.data);
        if (role < 0 && scaled < 0)
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "%s has a tensor '%s', whose use in architecture '%s' is not known here: without it the "
                             "answer would be wrong",
                             gguf_file_path(model->file, 0), tensor->name.data, model->architecture->name);
        const struct gguf_tensor **tensors = of_layer ? model->layer_tensors[layer] : model->tensors;
        const struct gguf_tensor **scales = of_layer ? model->layer_scales[layer] : model->scales;
        const struct gguf_tensor **place = role >= 0 ? &tensors[role] : &scales[scaled];
        if (*place)
            return error_set(error, HYPURA_ERROR_FORMAT, "%s: the tensors '%s' and '%s' have the same role",
                             gguf_file_path(model->file, 0), (*place)->name.data, tensor->name.data);
        *place = tensor;
    }
    return HYPURA_OK;
}

/* ---- checking ------------------------------------------------------------------------------------------------------
 */

static void shape_text(char *text, size_t room, const uint64_t *dimensions, uint32_t count)
{
    size_t used = (size_t)snprintf(text, room, "[");
    for (uint32_t d = 0; d < count && used < room; d++)
        used += (size_t)snprintf(text + used, room - used, "%s%" PRIu64, d ? ", " : "", dimensions[d]);
    if (used < room)
        snprintf(text + used, room - used, "]");
}

/* Some files store small tensors with extra dimensions of 1. */
static bool fits_but_for_ones(const struct model *model, const struct gguf_tensor *tensor, enum tensor_role role,
                              const struct model_layer *layer)
{
    uint32_t d = 0;
    if (role < ROLE_RECURRENT_CONV || role > ROLE_RECURRENT_NORM)
        return false;
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t expected = extent_value(tensor_roles[role].extents[i], model, layer);
        while (expected != 1 && d < COUNT_OF(tensor->dimensions) && tensor->dimensions[d] == 1)
            d++;
        if (expected != 1 && (d == COUNT_OF(tensor->dimensions) || tensor->dimensions[d++] != expected))
            return false;
    }
    while (d < COUNT_OF(tensor->dimensions) && tensor->dimensions[d] == 1)
        d++;
    return d == COUNT_OF(tensor->dimensions);
}

static hypura_status check_shape(const struct model *model, const struct gguf_tensor *tensor, enum tensor_role role,
                                 const struct model_layer *layer, hypura_error *error)
{
    const enum extent *extents = tensor_roles[role].extents;
    uint64_t expected[3];
    uint32_t count = 0;
    bool fits = true;
    for (uint32_t d = 0; d < 3; d++) {
        expected[d] = extent_value(extents[d], model, layer);
        uint64_t found = tensor->dimensions[d];
        if (extents[d] != NOTHING)
            count = d + 1;
        bool same = found == expected[d] || extents[d] == ANY;
        same = same || (extents[d] == TABLE_ROWS && expected[d] && found > expected[d] && found <= UINT32_MAX);
        /* Both forms exist; the length tells which one it is, also in the forward pass. */
        if (extents[d] == QUERY_NORM)
            same = same || found == (uint64_t)layer->heads * expected[d];
        if (extents[d] == KEY_NORM)
            same = same || found == (uint64_t)layer->kv_heads * expected[d];
        if (extents[d] == GATES && layer->kind != LAYER_RECURRENT)
            same = same || found == layer->heads;
        /* A norm may have separate weights for each head. */
        if (d == 1 && (extents[0] == QUERY_NORM || extents[0] == KEY_NORM))
            same = same || found == (extents[0] == QUERY_NORM ? layer->heads : layer->kv_heads);
        if (extents[d] == FEED_FORWARD_UP && !(model->architecture->flags & ARCHITECTURE_FFN_UNGATED) &&
            !model->layer_tensors[layer - model->layers][ROLE_FFN_GATE])
            expected[d] *= 2, same = found == expected[d];
        fits = fits && same;
    }
    /* A list of numbers may be stored as a matrix of one column. */
    fits = fits || (count == 1 && tensor->dimensions[0] == 1 && tensor->dimensions[1] == expected[0] &&
                    tensor->dimensions[2] == 1);
    if ((fits && tensor->dimensions[3] == 1) || (layer && fits_but_for_ones(model, tensor, role, layer)))
        return HYPURA_OK;
    for (uint32_t d = 0; layer && d < count; d++)
        if (expected[d] == 0)
            return error_set(
                error, HYPURA_ERROR_UNSUPPORTED, "%s: layer %u has a tensor '%s', which such a layer does not use here",
                gguf_file_path(model->file, tensor->file), (uint32_t)(layer - model->layers), tensor->name.data);
    char found_text[100], expected_text[100];
    shape_text(found_text, sizeof found_text, tensor->dimensions, tensor->dimension_count);
    shape_text(expected_text, sizeof expected_text, expected, count);
    return error_set(error, HYPURA_ERROR_FORMAT, "%s: tensor '%s' has the shape %s; the metadata asks for %s",
                     gguf_file_path(model->file, tensor->file), tensor->name.data, found_text, expected_text);
}

/* One number for a matrix, or one for each expert. */
static hypura_status check_scale(const struct model *model, const struct gguf_tensor *scale,
                                 const struct gguf_tensor *matrix, enum tensor_role role, hypura_error *error)
{
    const char *path = gguf_file_path(model->file, scale->file);
    const uint64_t expected = model_is_expert_role(role) ? model->parameters.experts : 1;
    char found[100];
    if (!matrix)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: tensor '%s' is the scale of a matrix that is missing", path,
                         scale->name.data);
    if (scale->dimensions[0] == expected && scale->dimensions[1] * scale->dimensions[2] * scale->dimensions[3] == 1)
        return HYPURA_OK;
    shape_text(found, sizeof found, scale->dimensions, scale->dimension_count);
    return error_set(error, HYPURA_ERROR_FORMAT,
                     "%s: tensor '%s' has the shape %s; the metadata asks for [%" PRIu64 "]", path, scale->name.data,
                     found, expected);
}

static hypura_status missing(const struct model *model, int32_t layer, enum tensor_role role, hypura_error *error)
{
    char name[64];
    const char *rest = tensor_roles[role].name;
    for (size_t i = 0; i < ARCHITECTURE_ALIASES && model->architecture->aliases[i].name; i++)
        if (model->architecture->aliases[i].role == role)
            rest = model->architecture->aliases[i].name;
    if (layer < 0)
        snprintf(name, sizeof name, "%s", rest);
    else
        snprintf(name, sizeof name, "blk.%d.%s", layer, rest);
    return error_set(error, HYPURA_ERROR_FORMAT, "%s: tensor '%s' is missing; architecture '%s' needs it",
                     gguf_file_path(model->file, 0), name, model->architecture->name);
}

/* The tensors that a model, or one of its layers, must have. The first one that is missing is reported. */
struct needed {
    enum tensor_role roles[ROLE_COUNT];
    size_t count;
};

static void need_all(struct needed *needed, const enum tensor_role *roles, size_t count)
{
    memcpy(needed->roles + needed->count, roles, count * sizeof *roles);
    needed->count += count;
}

#define NEED(needed, ...)                                                                                              \
    need_all(needed, (const enum tensor_role[]){__VA_ARGS__},                                                          \
             sizeof(const enum tensor_role[]){__VA_ARGS__} / sizeof(enum tensor_role))

static void need_range(struct needed *needed, enum tensor_role first, enum tensor_role last)
{
    for (enum tensor_role role = first; role <= last; role++)
        needed->roles[needed->count++] = role;
}

static void need_norms(const struct model *model, uint32_t number, struct needed *n)
{
    const unsigned flags = model->architecture->flags;
    const bool behind = flags & ARCHITECTURE_NORMS_BEHIND, of_sums = flags & ARCHITECTURE_NORMS_OF_SUMS;
    const bool low = model->parameters.streams_rank; /* these norm the streams when they gather them */
    /* If embeddings are normed, the first layer may have no norm (ModernBERT). */
    const bool normed = number == 0 && !of_sums && !behind && model->tensors[ROLE_EMBEDDING_NORM];
    if (!low && !normed)
        NEED(n, of_sums ? ROLE_ATTENTION_SUM_NORM : behind ? ROLE_ATTENTION_POST_NORM : ROLE_ATTENTION_NORM);
    if (!low && !(flags & (ARCHITECTURE_PARALLEL | ARCHITECTURE_ONE_BRANCH)))
        NEED(n, of_sums ? ROLE_FFN_SUM_NORM : behind ? ROLE_FFN_POST_NORM : ROLE_FFN_NORM);
    if (model->parameters.residual_block)
        NEED(n, ROLE_ATTENTION_RESIDUAL_SCORE, ROLE_FFN_RESIDUAL_SCORE);
    for (int i = 0; low && i < 4; i++)
        NEED(n, ROLE_ATTENTION_STREAMS_NORM + i, ROLE_FFN_STREAMS_NORM + i);
}

static void need_latent(const struct gguf_tensor *const *tensors, struct needed *n)
{
    NEED(n, ROLE_ATTENTION_OUTPUT, ROLE_ATTENTION_KV_A, ROLE_ATTENTION_KV_A_NORM);
    if (!tensors[ROLE_ATTENTION_KV_B])
        NEED(n, ROLE_ATTENTION_K_B, ROLE_ATTENTION_V_B);
    if (!tensors[ROLE_ATTENTION_Q])
        NEED(n, ROLE_ATTENTION_Q_A, ROLE_ATTENTION_Q_A_NORM, ROLE_ATTENTION_Q_B);
}

static void need_delta(const struct gguf_tensor *const *tensors, struct needed *n)
{
    NEED(n, ROLE_ATTENTION_QKV, ROLE_ATTENTION_GATE, ROLE_RECURRENT_CONV, ROLE_RECURRENT_DT_BIAS, ROLE_RECURRENT_A,
         ROLE_RECURRENT_NORM, ROLE_RECURRENT_OUT);
    if (!tensors[ROLE_RECURRENT_BETA_ALPHA])
        NEED(n, ROLE_RECURRENT_ALPHA, ROLE_RECURRENT_BETA);
}

static void need_channel_delta(const struct gguf_tensor *const *tensors, struct needed *n)
{
    NEED(n, ROLE_RECURRENT_BETA, ROLE_RECURRENT_DECAY_A, ROLE_RECURRENT_CONV_Q, ROLE_RECURRENT_CONV_K,
         ROLE_RECURRENT_CONV_V, ROLE_RECURRENT_DT_BIAS, ROLE_RECURRENT_A, ROLE_RECURRENT_NORM, ROLE_ATTENTION_OUTPUT);
    if (!tensors[ROLE_ATTENTION_QKV])
        NEED(n, ROLE_ATTENTION_Q, ROLE_ATTENTION_K, ROLE_ATTENTION_V);
    if (!tensors[ROLE_RECURRENT_GATE])
        NEED(n, ROLE_RECURRENT_GATE_A);
}

static void need_scan(struct needed *n)
{
    NEED(n, ROLE_RECURRENT_IN, ROLE_RECURRENT_CONV, ROLE_RECURRENT_DT_BIAS, ROLE_RECURRENT_A, ROLE_RECURRENT_D,
         ROLE_RECURRENT_OUT);
}

static void need_mixer(const struct model *model, uint32_t number, struct needed *n)
{
    const struct model_layer *layer = &model->layers[number];
    const struct gguf_tensor *const *tensors = model->layer_tensors[number];
    switch (layer->kind) {
    case LAYER_ATTENTION:
        NEED(n, ROLE_ATTENTION_OUTPUT);
        if (!tensors[ROLE_ATTENTION_QKV]) {
            NEED(n, ROLE_ATTENTION_Q);
            if (layer->kv_source == number)
                NEED(n, ROLE_ATTENTION_K);
            if (layer->kv_source == number && !(model->architecture->flags & ARCHITECTURE_VALUE_NORM))
                NEED(n, ROLE_ATTENTION_V);
        }
        break;
    case LAYER_LATENT:
        need_latent(tensors, n);
        break;
    case LAYER_ONE_KEY:
        NEED(n, ROLE_ATTENTION_Q_A, ROLE_ATTENTION_Q_A_NORM, ROLE_ATTENTION_Q_B, ROLE_ATTENTION_KV,
             ROLE_ATTENTION_KV_A_NORM, ROLE_ATTENTION_OUTPUT_A, ROLE_ATTENTION_OUTPUT_B);
        if (layer->compress)
            need_range(n, ROLE_COMPRESS_KV, ROLE_COMPRESS_NORM);
        break;
    case LAYER_RECURRENT:
        (model->architecture->decay == DECAY_BY_HEAD ? need_delta : need_channel_delta)(tensors, n);
        break;
    case LAYER_SCAN:
    case LAYER_SCAN_BETWEEN:
        NEED(n, ROLE_RECURRENT_X, ROLE_RECURRENT_DT);
        need_scan(n);
        break;
    case LAYER_SCAN_HEADS:
        need_scan(n);
        break;
    case LAYER_CONVOLUTION:
        NEED(n, ROLE_RECURRENT_IN, ROLE_RECURRENT_CONV, ROLE_RECURRENT_OUT);
        break;
    case LAYER_NO_MIXER:
        break;
    }
}

static void need_index(const struct model *model, struct needed *n)
{
    if (model->architecture->index == INDEX_COMPRESSED) {
        need_range(n, ROLE_INDEX_COMPRESS_KV, ROLE_INDEX_WEIGHTS);
        NEED(n, ROLE_INDEX_Q_B);
    } else if (model->architecture->index == INDEX_POSITIONS)
        NEED(n, ROLE_ATTENTION_Q_A, ROLE_INDEX_Q_B, ROLE_INDEX_K_A, ROLE_INDEX_WEIGHTS);
    else
        NEED(n, ROLE_INDEX_Q, ROLE_INDEX_Q_NORM, ROLE_INDEX_K, ROLE_INDEX_K_NORM);
}

static void need_mixture(const struct model *model, const struct gguf_tensor *const *tensors, struct needed *n)
{
    const struct model_parameters *p = &model->parameters;
    const bool ungated = model->architecture->flags & ARCHITECTURE_FFN_UNGATED;
    NEED(n, ROLE_ROUTER, ROLE_EXPERT_DOWN);
    if (!tensors[ROLE_EXPERT_GATE_UP] && !ungated)
        NEED(n, ROLE_EXPERT_GATE);
    if (!tensors[ROLE_EXPERT_GATE_UP])
        NEED(n, ROLE_EXPERT_UP);
    if (p->expert_columns != p->embedding || tensors[ROLE_LATENT_DOWN])
        NEED(n, ROLE_LATENT_DOWN, ROLE_LATENT_UP);
    if (p->chunk_group)
        NEED(n, ROLE_CHUNK_GATE, ROLE_CHUNK_UP, ROLE_CHUNK_DOWN);
    if (p->shared_feed_forward && !ungated)
        NEED(n, ROLE_SHARED_GATE);
    if (p->shared_feed_forward)
        NEED(n, ROLE_SHARED_UP, ROLE_SHARED_DOWN);
}

static void need_layer(const struct model *model, uint32_t number, struct needed *n)
{
    const struct model_parameters *p = &model->parameters;
    const struct model_layer *layer = &model->layers[number];
    need_norms(model, number, n);
    if (layer->ngrams)
        need_range(n, ROLE_NGRAM_KEY, ROLE_NGRAM_CONVOLUTION);
    if (p->streams > 1 && !p->streams_rank)
        NEED(n, ROLE_ATTENTION_STREAMS, ROLE_ATTENTION_STREAMS_BASE, ROLE_ATTENTION_STREAMS_SCALE, ROLE_FFN_STREAMS,
             ROLE_FFN_STREAMS_BASE, ROLE_FFN_STREAMS_SCALE);
    need_mixer(model, number, n);
    if (layer->indexed)
        need_index(model, n);
    if (layer->scans)
        need_scan(n);
    if (layer->moe)
        need_mixture(model, model->layer_tensors[number], n);
    else if (!layer->no_feed_forward)
        NEED(n, ROLE_FFN_UP, ROLE_FFN_DOWN);
    if (p->sides) {
        need_range(n, ROLE_SIDES_NORM, ROLE_SIDES_PREDICT);
        need_range(n, ROLE_LAUREL_DOWN, ROLE_LAUREL_NORM);
        NEED(n, ROLE_SIDES_CORRECT, ROLE_SIDES_SCALE);
    }
    if (model->tensors[ROLE_LAYERS_PROJECTION])
        need_range(n, ROLE_TOKEN_GATE, ROLE_TOKEN_NORM);
}

static void need_outside_layers(const struct model *model, struct needed *n)
{
    const struct model_parameters *p = &model->parameters;
    if (!p->streams_rank && !(model->architecture->flags & ARCHITECTURE_ENCODER))
        NEED(n, ROLE_OUTPUT_NORM);
    if (p->residual_block)
        NEED(n, ROLE_OUTPUT_RESIDUAL_SCORE);
    if (p->table_rows)
        NEED(n, ROLE_TABLE);
    if (p->streams_rank)
        need_range(n, ROLE_OUTPUT_STREAMS_NORM, ROLE_OUTPUT_STREAMS_UP);
    else if (p->streams > 1)
        need_range(n, ROLE_OUTPUT_STREAMS, ROLE_OUTPUT_STREAMS_SCALE);
    if (p->sides)
        NEED(n, ROLE_SIDES, ROLE_SIDES_BACK, ROLE_LAYERS_PROJECTION);
    if (model->tensors[ROLE_LAYERS_PROJECTION])
        NEED(n, ROLE_TABLE, ROLE_LAYERS_NORM);
}

/* Checks that the tensors of a layer (-1: those outside the layers) are complete and have the expected shapes. */
static hypura_status check_tensors(const struct model *model, int32_t number, const struct needed *needed,
                                   hypura_error *error)
{
    const struct model_layer *layer = number < 0 ? NULL : &model->layers[number];
    const struct gguf_tensor *const *tensors = layer ? model->layer_tensors[number] : model->tensors;
    const struct gguf_tensor *const *scales = layer ? model->layer_scales[number] : model->scales;
    for (size_t i = 0; i < needed->count; i++)
        if (!tensors[needed->roles[i]])
            return missing(model, number, needed->roles[i], error);
    for (int role = 0; role < ROLE_COUNT; role++) {
        hypura_status status = tensors[role] ? check_shape(model, tensors[role], role, layer, error) : HYPURA_OK;
        if (!status && scales[role])
            status = check_scale(model, scales[role], tensors[role], role, error);
        if (status)
            return status;
    }
    return HYPURA_OK;
}

/* A prediction block is an ordinary layer between the steps for its input and those for its logits. A block that needs
 * more of the other layers than their last rows is not supported. */
static hypura_status check_prediction(const struct model *model, hypura_error *error)
{
    static const enum tensor_role needed[] = {ROLE_PREDICTION_TOKEN_NORM, ROLE_PREDICTION_HIDDEN_NORM,
                                              ROLE_PREDICTION_JOIN};
    const struct model_parameters *p = &model->parameters;
    const struct model_layer *layer = &model->layers[p->layers];
    for (size_t i = 0; i < COUNT_OF(needed); i++)
        if (!model->layer_tensors[p->layers][needed[i]])
            return missing(model, (int32_t)p->layers, needed[i], error);
    bool plain = (layer->kind == LAYER_ATTENTION || layer->kind == LAYER_LATENT) && !layer->recurrent &&
                 !layer->no_feed_forward && (layer->indexed || !layer->chosen) && !layer->index_every &&
                 !layer->ngrams && p->streams == 1 && !p->sides && !p->residual_block && !p->token_width &&
                 model->architecture->mixture_input == MIXTURE_FEED_FORWARD;
    if (!plain)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "it is not a layer of attention and feed forward alone");
    return HYPURA_OK;
}

hypura_status model_check_tensors(const struct model *model, hypura_error *error)
{
    struct needed outside = {.count = 0};
    need_outside_layers(model, &outside);
    hypura_status status = check_tensors(model, -1, &outside, error);
    for (uint32_t i = 0; !status && i < all_layers(model); i++) {
        struct needed needed = {.count = 0};
        need_layer(model, i, &needed);
        status = check_tensors(model, (int32_t)i, &needed, error);
    }
    return !status && model->parameters.predicting ? check_prediction(model, error) : status;
}
