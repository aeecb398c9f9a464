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
    size_t length = strlen(name), end = strlen(ending);
    if (length <= end || strcmp(name + length - end, ending) != 0 ||
        snprintf(whole, sizeof whole, "%.*s.weight", (int)(length - end), name) >= (int)sizeof whole)
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

static size_t need_channel_delta(const struct gguf_tensor *const *tensors, enum tensor_role *needed)
{
    static const enum tensor_role always[] = {ROLE_RECURRENT_BETA,   ROLE_RECURRENT_DECAY_A, ROLE_RECURRENT_CONV_Q,
                                              ROLE_RECURRENT_CONV_K, ROLE_RECURRENT_CONV_V,  ROLE_RECURRENT_DT_BIAS,
                                              ROLE_RECURRENT_A,      ROLE_RECURRENT_NORM,    ROLE_ATTENTION_OUTPUT};
    size_t count = 0;
    for (; count < COUNT_OF(always); count++)
        needed[count] = always[count];
    for (enum tensor_role role = ROLE_ATTENTION_Q; !tensors[ROLE_ATTENTION_QKV] && role <= ROLE_ATTENTION_V; role += 2)
        needed[count++] = role; /* each followed by its bias */
    if (!tensors[ROLE_RECURRENT_GATE])
        needed[count++] = ROLE_RECURRENT_GATE_A;
    return count;
}

static size_t add_scan_roles(enum tensor_role *needed)
{
    static const enum tensor_role roles[] = {ROLE_RECURRENT_IN, ROLE_RECURRENT_CONV, ROLE_RECURRENT_DT_BIAS,
                                             ROLE_RECURRENT_A,  ROLE_RECURRENT_D,    ROLE_RECURRENT_OUT};
    memcpy(needed, roles, sizeof roles);
    return COUNT_OF(roles);
}

static size_t add_low_rank(enum tensor_role *needed)
{
    size_t count = 0;
    for (int i = 0; i < 4; i++) {
        needed[count++] = ROLE_ATTENTION_STREAMS_NORM + i;
        needed[count++] = ROLE_FFN_STREAMS_NORM + i;
    }
    return count;
}

static hypura_status check_layer(const struct model *model, uint32_t number, hypura_error *error)
{
    const struct model_layer *layer = &model->layers[number];
    const struct gguf_tensor *const *tensors = model->layer_tensors[number];
    enum tensor_role needed[ROLE_COUNT];
    size_t count = 0;
    bool behind = model->architecture->flags & ARCHITECTURE_NORMS_BEHIND;
    bool ungated = model->architecture->flags & ARCHITECTURE_FFN_UNGATED;
    bool of_sums = model->architecture->flags & ARCHITECTURE_NORMS_OF_SUMS;
    const bool low = model->parameters.streams_rank; /* these norm the streams when they gather them */
    /* If embeddings are normed, the first layer may have no norm (ModernBERT). */
    const bool normed = number == 0 && !of_sums && !behind && model->tensors[ROLE_EMBEDDING_NORM];
    if (!low && !normed)
        needed[count++] = of_sums ? ROLE_ATTENTION_SUM_NORM : behind ? ROLE_ATTENTION_POST_NORM : ROLE_ATTENTION_NORM;
    if (!low && !(model->architecture->flags & (ARCHITECTURE_PARALLEL | ARCHITECTURE_ONE_BRANCH)))
        needed[count++] = of_sums ? ROLE_FFN_SUM_NORM : behind ? ROLE_FFN_POST_NORM : ROLE_FFN_NORM;
    if (model->parameters.residual_block) {
        needed[count++] = ROLE_ATTENTION_RESIDUAL_SCORE;
        needed[count++] = ROLE_FFN_RESIDUAL_SCORE;
    }
    if (low)
        count += add_low_rank(needed + count);
    if (layer->ngrams)
        for (int role = ROLE_NGRAM_KEY; role <= ROLE_NGRAM_CONVOLUTION; role++)
            needed[count++] = role;
    if (model->parameters.streams > 1 && !low) {
        static const enum tensor_role of_streams[] = {ROLE_ATTENTION_STREAMS,       ROLE_ATTENTION_STREAMS_BASE,
                                                      ROLE_ATTENTION_STREAMS_SCALE, ROLE_FFN_STREAMS,
                                                      ROLE_FFN_STREAMS_BASE,        ROLE_FFN_STREAMS_SCALE};
        memcpy(needed + count, of_streams, sizeof of_streams);
        count += COUNT_OF(of_streams);
    }
    switch (layer->kind) {
    case LAYER_ATTENTION:
        needed[count++] = ROLE_ATTENTION_OUTPUT;
        if (!tensors[ROLE_ATTENTION_QKV]) {
            needed[count++] = ROLE_ATTENTION_Q;
            if (layer->kv_source == number)
                needed[count++] = ROLE_ATTENTION_K;
            if (layer->kv_source == number && !(model->architecture->flags & ARCHITECTURE_VALUE_NORM))
                needed[count++] = ROLE_ATTENTION_V;
        }
        break;
    case LAYER_LATENT:
        needed[count++] = ROLE_ATTENTION_OUTPUT;
        needed[count++] = ROLE_ATTENTION_KV_A;
        needed[count++] = ROLE_ATTENTION_KV_A_NORM;
        if (!tensors[ROLE_ATTENTION_KV_B]) {
            needed[count++] = ROLE_ATTENTION_K_B;
            needed[count++] = ROLE_ATTENTION_V_B;
        }
        if (!tensors[ROLE_ATTENTION_Q]) {
            needed[count++] = ROLE_ATTENTION_Q_A;
            needed[count++] = ROLE_ATTENTION_Q_A_NORM;
            needed[count++] = ROLE_ATTENTION_Q_B;
        }
        break;
    case LAYER_ONE_KEY: {
        static const enum tensor_role of_one_key[] = {
            ROLE_ATTENTION_Q_A,       ROLE_ATTENTION_Q_A_NORM, ROLE_ATTENTION_Q_B,     ROLE_ATTENTION_KV,
            ROLE_ATTENTION_KV_A_NORM, ROLE_ATTENTION_OUTPUT_A, ROLE_ATTENTION_OUTPUT_B};
        memcpy(needed + count, of_one_key, sizeof of_one_key);
        count += COUNT_OF(of_one_key);
        for (int role = ROLE_COMPRESS_KV; layer->compress && role <= ROLE_COMPRESS_NORM; role++)
            needed[count++] = role;
        break;
    }
    case LAYER_RECURRENT:
        if (model->architecture->decay != DECAY_BY_HEAD) {
            count += need_channel_delta(tensors, needed + count);
            break;
        }
        needed[count++] = ROLE_ATTENTION_QKV;
        needed[count++] = ROLE_ATTENTION_GATE;
        needed[count++] = ROLE_RECURRENT_CONV;
        needed[count++] = ROLE_RECURRENT_DT_BIAS;
        needed[count++] = ROLE_RECURRENT_A;
        needed[count++] = ROLE_RECURRENT_NORM;
        needed[count++] = ROLE_RECURRENT_OUT;
        if (!tensors[ROLE_RECURRENT_BETA_ALPHA]) {
            needed[count++] = ROLE_RECURRENT_ALPHA;
            needed[count++] = ROLE_RECURRENT_BETA;
        }
        break;
    case LAYER_SCAN:
    case LAYER_SCAN_BETWEEN:
        needed[count++] = ROLE_RECURRENT_X;
        needed[count++] = ROLE_RECURRENT_DT;
        count += add_scan_roles(needed + count);
        break;
    case LAYER_SCAN_HEADS:
        count += add_scan_roles(needed + count);
        break;
    case LAYER_CONVOLUTION:
        needed[count++] = ROLE_RECURRENT_IN;
        needed[count++] = ROLE_RECURRENT_CONV;
        needed[count++] = ROLE_RECURRENT_OUT;
        break;
    case LAYER_NO_MIXER:
        break;
    }
    if (layer->indexed && model->architecture->index == INDEX_COMPRESSED) {
        for (int role = ROLE_INDEX_COMPRESS_KV; role <= ROLE_INDEX_WEIGHTS; role++)
            needed[count++] = role;
        needed[count++] = ROLE_INDEX_Q_B;
    } else if (layer->indexed && model->architecture->index == INDEX_POSITIONS) {
        needed[count++] = ROLE_ATTENTION_Q_A;
        needed[count++] = ROLE_INDEX_Q_B;
        needed[count++] = ROLE_INDEX_K_A;
        needed[count++] = ROLE_INDEX_WEIGHTS;
    } else if (layer->indexed) {
        needed[count++] = ROLE_INDEX_Q;
        needed[count++] = ROLE_INDEX_Q_NORM;
        needed[count++] = ROLE_INDEX_K;
        needed[count++] = ROLE_INDEX_K_NORM;
    }
    if (layer->scans)
        count += add_scan_roles(needed + count);
    if (layer->moe) {
        needed[count++] = ROLE_ROUTER;
        needed[count++] = ROLE_EXPERT_DOWN;
        if (!tensors[ROLE_EXPERT_GATE_UP]) {
            if (!ungated)
                needed[count++] = ROLE_EXPERT_GATE;
            needed[count++] = ROLE_EXPERT_UP;
        }
        if (model->parameters.expert_columns != model->parameters.embedding || tensors[ROLE_LATENT_DOWN]) {
            needed[count++] = ROLE_LATENT_DOWN;
            needed[count++] = ROLE_LATENT_UP;
        }
        if (model->parameters.chunk_group) {
            needed[count++] = ROLE_CHUNK_GATE;
            needed[count++] = ROLE_CHUNK_UP;
            needed[count++] = ROLE_CHUNK_DOWN;
        }
        if (model->parameters.shared_feed_forward) {
            if (!ungated)
                needed[count++] = ROLE_SHARED_GATE;
            needed[count++] = ROLE_SHARED_UP;
            needed[count++] = ROLE_SHARED_DOWN;
        }
    } else if (!layer->no_feed_forward) {
        needed[count++] = ROLE_FFN_UP;
        needed[count++] = ROLE_FFN_DOWN;
    }
    if (model->parameters.sides)
        for (enum tensor_role role = ROLE_SIDES_NORM; role <= ROLE_SIDES_PREDICT; role++)
            needed[count++] = role;
    if (model->parameters.sides)
        for (enum tensor_role role = ROLE_LAUREL_DOWN; role <= ROLE_LAUREL_NORM; role++)
            needed[count++] = role;
    if (model->parameters.sides) {
        needed[count++] = ROLE_SIDES_CORRECT;
        needed[count++] = ROLE_SIDES_SCALE;
    }
    if (model->tensors[ROLE_LAYERS_PROJECTION])
        for (enum tensor_role role = ROLE_TOKEN_GATE; role <= ROLE_TOKEN_NORM; role++)
            needed[count++] = role;
    for (size_t i = 0; i < count; i++)
        if (!tensors[needed[i]])
            return missing(model, (int32_t)number, needed[i], error);
    for (int role = 0; role < ROLE_COUNT; role++) {
        const struct gguf_tensor *scale = model->layer_scales[number][role];
        hypura_status status = tensors[role] ? check_shape(model, tensors[role], role, layer, error) : HYPURA_OK;
        if (!status && scale)
            status = check_scale(model, scale, tensors[role], role, error);
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
    const bool low = model->parameters.streams_rank;
    if (!model->tensors[ROLE_OUTPUT_NORM] && !low && !(model->architecture->flags & ARCHITECTURE_ENCODER))
        return missing(model, -1, ROLE_OUTPUT_NORM, error);
    if (model->parameters.residual_block && !model->tensors[ROLE_OUTPUT_RESIDUAL_SCORE])
        return missing(model, -1, ROLE_OUTPUT_RESIDUAL_SCORE, error);
    if (model->parameters.table_rows && !model->tensors[ROLE_TABLE])
        return missing(model, -1, ROLE_TABLE, error);
    for (int role = ROLE_OUTPUT_STREAMS_NORM; low && role <= ROLE_OUTPUT_STREAMS_UP; role++)
        if (!model->tensors[role])
            return missing(model, -1, role, error);
    for (int role = ROLE_OUTPUT_STREAMS; model->parameters.streams > 1 && !low && role < ROLE_OUTPUT_NORM; role++)
        if (!model->tensors[role])
            return missing(model, -1, role, error);
    static const enum tensor_role sides[] = {ROLE_SIDES, ROLE_SIDES_BACK, ROLE_LAYERS_PROJECTION};
    for (size_t i = 0; i < COUNT_OF(sides) && model->parameters.sides; i++)
        if (!model->tensors[sides[i]])
            return missing(model, -1, sides[i], error);
    static const enum tensor_role of_tokens[] = {ROLE_TABLE, ROLE_LAYERS_NORM};
    for (size_t i = 0; i < COUNT_OF(of_tokens) && model->tensors[ROLE_LAYERS_PROJECTION]; i++)
        if (!model->tensors[of_tokens[i]])
            return missing(model, -1, of_tokens[i], error);
    for (int role = 0; role < ROLE_COUNT; role++) {
        hypura_status status =
            model->tensors[role] ? check_shape(model, model->tensors[role], role, NULL, error) : HYPURA_OK;
        if (!status && model->scales[role])
            status = check_scale(model, model->scales[role], model->tensors[role], role, error);
        if (status)
            return status;
    }
    for (uint32_t i = 0; i < all_layers(model); i++) {
        hypura_status status = check_layer(model, i, error);
        if (status)
            return status;
    }
    return model->parameters.predicting ? check_prediction(model, error) : HYPURA_OK;
}
