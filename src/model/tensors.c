#include "model/model_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* What a dimension of a tensor must be. */
enum extent {
    NOTHING, /* the tensor has no such dimension */
    ONE,
    EMBEDDING,
    VOCABULARY,
    POSITIONS,
    ANY,
    HEADS,
    QUERIES, /* heads x key size, twice that with an output gate */
    KEYS,
    VALUES,
    QKV,
    ATTENDED,   /* heads x value size */
    QUERY_NORM, /* one head, or all of them */
    KEY_NORM,
    FEED_FORWARD,
    FEED_FORWARD_UP, /* twice the width where the gate is in front */
    EXPERTS,
    EXPERT_WIDTH,
    EXPERT_WIDTH_TWICE,
    SHARED_WIDTH,
    ROTARY_HALF,
    Q_RANK,
    KV_RANK,
    LATENT_QUERIES,
    LATENT_KV,
    LATENT_KV_B,
    LATENT_NOPE,
    LATENT_VALUE,
    RECURRENT_CONV,
    RECURRENT_CHANNELS,
    RECURRENT_VALUE_HEADS,
    RECURRENT_VALUE_HEADS_TWICE,
    RECURRENT_VALUE_SIZE,
    RECURRENT_INNER
};

struct role_row {
    const char *title;
    const char *name; /* without "blk.N." for tensors of a layer */
    bool layer;
    enum extent extents[3];
};

/* Names as GGUF files carry them (gguf-py's tensor names). */
static const struct role_row roles[ROLE_COUNT] = {
    [ROLE_TOKEN_EMBEDDING] = {"token embedding", "token_embd.weight", false, {EMBEDDING, VOCABULARY}},
    [ROLE_TOKEN_TYPES] = {"token types", "token_types.weight", false, {EMBEDDING, ANY}},
    [ROLE_POSITION_EMBEDDING] = {"position embedding", "position_embd.weight", false, {EMBEDDING, POSITIONS}},
    [ROLE_EMBEDDING_NORM] = {"embedding norm", "token_embd_norm.weight", false, {EMBEDDING}},
    [ROLE_EMBEDDING_NORM_BIAS] = {"embedding norm bias", "token_embd_norm.bias", false, {EMBEDDING}},
    [ROLE_ROPE_FACTORS] = {"rope factors", "rope_freqs.weight", false, {ROTARY_HALF}},
    [ROLE_ROPE_FACTORS_LONG] = {"rope factors long", "rope_factors_long.weight", false, {ROTARY_HALF}},
    [ROLE_ROPE_FACTORS_SHORT] = {"rope factors short", "rope_factors_short.weight", false, {ROTARY_HALF}},

    [ROLE_ATTENTION_NORM] = {"attention norm", "attn_norm.weight", true, {EMBEDDING}},
    [ROLE_ATTENTION_NORM_BIAS] = {"attention norm bias", "attn_norm.bias", true, {EMBEDDING}},
    [ROLE_ATTENTION_QKV] = {"attention qkv", "attn_qkv.weight", true, {EMBEDDING, QKV}},
    [ROLE_ATTENTION_QKV_BIAS] = {"attention qkv bias", "attn_qkv.bias", true, {QKV}},
    [ROLE_ATTENTION_Q] = {"attention q", "attn_q.weight", true, {EMBEDDING, QUERIES}},
    [ROLE_ATTENTION_Q_BIAS] = {"attention q bias", "attn_q.bias", true, {QUERIES}},
    [ROLE_ATTENTION_K] = {"attention k", "attn_k.weight", true, {EMBEDDING, KEYS}},
    [ROLE_ATTENTION_K_BIAS] = {"attention k bias", "attn_k.bias", true, {KEYS}},
    [ROLE_ATTENTION_V] = {"attention v", "attn_v.weight", true, {EMBEDDING, VALUES}},
    [ROLE_ATTENTION_V_BIAS] = {"attention v bias", "attn_v.bias", true, {VALUES}},
    [ROLE_ATTENTION_GATE] = {"attention gate", "attn_gate.weight", true, {EMBEDDING, RECURRENT_INNER}},
    [ROLE_ATTENTION_Q_A] = {"attention q a", "attn_q_a.weight", true, {EMBEDDING, Q_RANK}},
    [ROLE_ATTENTION_Q_A_NORM] = {"attention q a norm", "attn_q_a_norm.weight", true, {Q_RANK}},
    [ROLE_ATTENTION_Q_B] = {"attention q b", "attn_q_b.weight", true, {Q_RANK, LATENT_QUERIES}},
    [ROLE_ATTENTION_KV_A] = {"attention kv a", "attn_kv_a_mqa.weight", true, {EMBEDDING, LATENT_KV}},
    [ROLE_ATTENTION_KV_A_NORM] = {"attention kv a norm", "attn_kv_a_norm.weight", true, {KV_RANK}},
    [ROLE_ATTENTION_KV_B] = {"attention kv b", "attn_kv_b.weight", true, {KV_RANK, LATENT_KV_B}},
    [ROLE_ATTENTION_K_B] = {"attention k b", "attn_k_b.weight", true, {LATENT_NOPE, KV_RANK, HEADS}},
    [ROLE_ATTENTION_Q_NORM] = {"attention q norm", "attn_q_norm.weight", true, {QUERY_NORM}},
    [ROLE_ATTENTION_K_NORM] = {"attention k norm", "attn_k_norm.weight", true, {KEY_NORM}},
    [ROLE_ATTENTION_SINKS] = {"attention sinks", "attn_sinks.weight", true, {HEADS}},
    [ROLE_ATTENTION_V_B] = {"attention v b", "attn_v_b.weight", true, {KV_RANK, LATENT_VALUE, HEADS}},
    [ROLE_RECURRENT_BETA_ALPHA] = {"recurrent beta alpha",
                                   "ssm_ba.weight",
                                   true,
                                   {EMBEDDING, RECURRENT_VALUE_HEADS_TWICE}},
    [ROLE_RECURRENT_ALPHA] = {"recurrent alpha", "ssm_alpha.weight", true, {EMBEDDING, RECURRENT_VALUE_HEADS}},
    [ROLE_RECURRENT_BETA] = {"recurrent beta", "ssm_beta.weight", true, {EMBEDDING, RECURRENT_VALUE_HEADS}},
    [ROLE_RECURRENT_CONV] = {"recurrent convolution", "ssm_conv1d.weight", true, {RECURRENT_CONV, RECURRENT_CHANNELS}},
    [ROLE_RECURRENT_DT_BIAS] = {"recurrent time step bias", "ssm_dt.bias", true, {RECURRENT_VALUE_HEADS}},
    [ROLE_RECURRENT_A] = {"recurrent a", "ssm_a", true, {RECURRENT_VALUE_HEADS}},
    [ROLE_RECURRENT_NORM] = {"recurrent norm", "ssm_norm.weight", true, {RECURRENT_VALUE_SIZE}},
    [ROLE_RECURRENT_OUT] = {"recurrent output", "ssm_out.weight", true, {RECURRENT_INNER, EMBEDDING}},
    [ROLE_ATTENTION_OUTPUT] = {"attention output", "attn_output.weight", true, {ATTENDED, EMBEDDING}},
    [ROLE_ATTENTION_OUTPUT_BIAS] = {"attention output bias", "attn_output.bias", true, {EMBEDDING}},
    [ROLE_ATTENTION_POST_NORM] = {"attention post norm", "post_attention_norm.weight", true, {EMBEDDING}},
    [ROLE_ATTENTION_SUM_NORM] = {"attention sum norm", "attn_output_norm.weight", true, {EMBEDDING}},
    [ROLE_ATTENTION_SUM_NORM_BIAS] = {"attention sum norm bias", "attn_output_norm.bias", true, {EMBEDDING}},
    [ROLE_FFN_SUM_NORM] = {"ffn sum norm", "layer_output_norm.weight", true, {EMBEDDING}},
    [ROLE_FFN_SUM_NORM_BIAS] = {"ffn sum norm bias", "layer_output_norm.bias", true, {EMBEDDING}},
    [ROLE_FFN_NORM] = {"ffn norm", "ffn_norm.weight", true, {EMBEDDING}},
    [ROLE_FFN_NORM_BIAS] = {"ffn norm bias", "ffn_norm.bias", true, {EMBEDDING}},
    [ROLE_FFN_GATE] = {"ffn gate", "ffn_gate.weight", true, {EMBEDDING, FEED_FORWARD}},
    [ROLE_FFN_GATE_BIAS] = {"ffn gate bias", "ffn_gate.bias", true, {FEED_FORWARD}},
    [ROLE_FFN_UP] = {"ffn up", "ffn_up.weight", true, {EMBEDDING, FEED_FORWARD_UP}},
    [ROLE_FFN_UP_BIAS] = {"ffn up bias", "ffn_up.bias", true, {FEED_FORWARD_UP}},
    [ROLE_FFN_DOWN] = {"ffn down", "ffn_down.weight", true, {FEED_FORWARD, EMBEDDING}},
    [ROLE_FFN_DOWN_BIAS] = {"ffn down bias", "ffn_down.bias", true, {EMBEDDING}},
    [ROLE_ROUTER] = {"router", "ffn_gate_inp.weight", true, {EMBEDDING, EXPERTS}},
    [ROLE_ROUTER_BIAS] = {"router bias", "ffn_gate_inp.bias", true, {EXPERTS}},
    [ROLE_ROUTER_SELECTION_BIAS] = {"router selection bias", "exp_probs_b.bias", true, {EXPERTS}},
    [ROLE_SHARED_ROUTER] = {"shared router", "ffn_gate_inp_shexp.weight", true, {EMBEDDING}},
    [ROLE_SHARED_GATE] = {"shared gate", "ffn_gate_shexp.weight", true, {EMBEDDING, SHARED_WIDTH}},
    [ROLE_SHARED_UP] = {"shared up", "ffn_up_shexp.weight", true, {EMBEDDING, SHARED_WIDTH}},
    [ROLE_SHARED_DOWN] = {"shared down", "ffn_down_shexp.weight", true, {SHARED_WIDTH, EMBEDDING}},
    [ROLE_EXPERT_GATE_BIAS] = {"expert gate bias", "ffn_gate_exps.bias", true, {EXPERT_WIDTH, EXPERTS}},
    [ROLE_EXPERT_UP_BIAS] = {"expert up bias", "ffn_up_exps.bias", true, {EXPERT_WIDTH, EXPERTS}},
    [ROLE_EXPERT_DOWN_BIAS] = {"expert down bias", "ffn_down_exps.bias", true, {EMBEDDING, EXPERTS}},
    [ROLE_EXPERT_GATE_UP] = {"expert gate up",
                             "ffn_gate_up_exps.weight",
                             true,
                             {EMBEDDING, EXPERT_WIDTH_TWICE, EXPERTS}},
    [ROLE_EXPERT_GATE] = {"expert gate", "ffn_gate_exps.weight", true, {EMBEDDING, EXPERT_WIDTH, EXPERTS}},
    [ROLE_EXPERT_UP] = {"expert up", "ffn_up_exps.weight", true, {EMBEDDING, EXPERT_WIDTH, EXPERTS}},
    [ROLE_EXPERT_DOWN] = {"expert down", "ffn_down_exps.weight", true, {EXPERT_WIDTH, EMBEDDING, EXPERTS}},
    [ROLE_ROUTER_SCALE] = {"router scale", "ffn_gate_inp.scale", true, {EMBEDDING}},
    [ROLE_FFN_DENSE_POST_NORM] = {"ffn dense post norm", "post_ffw_norm_1.weight", true, {EMBEDDING}},
    [ROLE_EXPERT_NORM] = {"expert norm", "pre_ffw_norm_2.weight", true, {EMBEDDING}},
    [ROLE_EXPERT_NORM_BIAS] = {"expert norm bias", "pre_ffw_norm_2.bias", true, {EMBEDDING}},
    [ROLE_EXPERT_SCALE] = {"expert scale", "ffn_down_exps.scale", true, {EXPERTS}},
    [ROLE_EXPERT_POST_NORM] = {"expert post norm", "post_ffw_norm_2.weight", true, {EMBEDDING}},
    [ROLE_LAYER_SCALE] = {"layer scale", "layer_output_scale.weight", true, {ONE}},
    [ROLE_FFN_POST_NORM] = {"ffn post norm", "post_ffw_norm.weight", true, {EMBEDDING}},

    [ROLE_OUTPUT_NORM] = {"output norm", "output_norm.weight", false, {EMBEDDING}},
    [ROLE_OUTPUT_NORM_BIAS] = {"output norm bias", "output_norm.bias", false, {EMBEDDING}},
    [ROLE_OUTPUT] = {"output", "output.weight", false, {EMBEDDING, VOCABULARY}},
    [ROLE_OUTPUT_BIAS] = {"output bias", "output.bias", false, {VOCABULARY}},
};

const char *tensor_role_name(enum tensor_role role)
{
    return (unsigned)role < ROLE_COUNT ? roles[role].title : "unknown";
}

bool tensor_role_is_bias(enum tensor_role role)
{
    const char *name = (unsigned)role < ROLE_COUNT ? roles[role].name : "";
    size_t length = strlen(name);
    return length > 5 && strcmp(name + length - 5, ".bias") == 0;
}

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

static int find_role(const struct architecture *architecture, const char *name, bool layer)
{
    if (layer && (architecture->flags & ARCHITECTURE_FFN_NORM_NAMED_POST) &&
        strcmp(name, "post_attention_norm.weight") == 0)
        return ROLE_FFN_NORM;
    for (int role = 0; role < ROLE_COUNT; role++)
        if (roles[role].layer == layer && strcmp(roles[role].name, name) == 0)
            return role;
    return -1;
}

bool model_tensor_role(const struct model *model, const char *name, int32_t *layer, enum tensor_role *role)
{
    uint32_t number = 0;
    const char *rest = name;
    bool of_layer = split_layer_name(name, &number, &rest);
    int found = of_layer && number >= model->parameters.layers ? -1 : find_role(model->architecture, rest, of_layer);
    if (found < 0)
        return false;
    *layer = of_layer ? (int32_t)number : -1;
    *role = (enum tensor_role)found;
    return true;
}

/* Left over from old converters and computed by everybody from the rope base. */
static bool is_needless(const char *name)
{
    return strcmp(name, "attn_rot_embd.weight") == 0 || strcmp(name, "attn_rot_embd") == 0 ||
           strcmp(name, "rope_freqs.weight") == 0 || strcmp(name, "attn_q.rope_freqs.weight") == 0;
}

hypura_status model_find_tensors(struct model *model, hypura_error *error)
{
    for (size_t i = 0; i < gguf_tensor_count(model->file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(model->file, i);
        uint32_t layer = 0;
        const char *rest = tensor->name.data;
        bool of_layer = split_layer_name(tensor->name.data, &layer, &rest);
        if (of_layer && (layer >= model->parameters.layers || is_needless(rest)))
            continue; /* of a block that predicts further tokens */
        int role = find_role(model->architecture, rest, of_layer);
        if (role < 0)
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "%s has a tensor '%s', whose use in architecture '%s' is not known here: without it the "
                             "answer would be wrong",
                             gguf_file_path(model->file, 0), tensor->name.data, model->architecture->name);
        const struct gguf_tensor **place = of_layer ? &model->layer_tensors[layer][role] : &model->tensors[role];
        if (*place)
            return error_set(error, HYPURA_ERROR_FORMAT, "%s: the tensors '%s' and '%s' are for the same use",
                             gguf_file_path(model->file, 0), (*place)->name.data, tensor->name.data);
        *place = tensor;
    }
    return HYPURA_OK;
}

/* ---- checking ------------------------------------------------------------------------------------------------------
 */

static uint64_t extent_value(enum extent extent, const struct model *model, const struct model_layer *layer)
{
    const struct model_parameters *p = &model->parameters;
    uint64_t queries = layer ? (uint64_t)layer->heads * layer->key_size : 0;
    uint64_t keys = layer ? (uint64_t)layer->kv_heads * layer->key_size : 0;
    uint64_t values = layer ? (uint64_t)layer->kv_heads * layer->value_size : 0;
    uint64_t inner = (uint64_t)p->recurrent_heads_v * p->recurrent_value_size;
    uint64_t channels = inner + 2 * (uint64_t)p->recurrent_heads_k * p->recurrent_key_size;
    switch (extent) {
    case NOTHING:
    case ANY:
    case ONE:
        return 1;
    case EMBEDDING:
        return p->embedding;
    case VOCABULARY:
        return p->vocabulary;
    case POSITIONS:
        return p->context;
    case HEADS:
        return layer->heads;
    case QUERIES:
        if (layer->kind == LAYER_LATENT)
            return (uint64_t)layer->heads * p->latent_key_size;
        return model->architecture->flags & ARCHITECTURE_QUERY_GATED ? 2 * queries : queries;
    case KEYS:
        return keys;
    case VALUES:
        return values;
    case QKV:
        return layer->kind == LAYER_RECURRENT ? channels : queries + keys + values;
    case ATTENDED:
        if (layer->kind == LAYER_LATENT)
            return (uint64_t)layer->heads * p->latent_value_size;
        return (uint64_t)layer->heads * layer->value_size;
    case QUERY_NORM:
    case KEY_NORM:
        return layer->key_size;
    case FEED_FORWARD:
    case FEED_FORWARD_UP:
        return layer->feed_forward;
    case EXPERTS:
        return p->experts;
    case EXPERT_WIDTH:
        return p->expert_feed_forward;
    case EXPERT_WIDTH_TWICE:
        return 2 * (uint64_t)p->expert_feed_forward;
    case SHARED_WIDTH:
        return p->shared_feed_forward;
    case ROTARY_HALF:
        return p->rotary / 2;
    case Q_RANK:
        return p->q_rank;
    case KV_RANK:
        return p->kv_rank;
    case LATENT_QUERIES:
        return (uint64_t)layer->heads * p->latent_key_size;
    case LATENT_KV:
        return (uint64_t)p->kv_rank + p->rotary;
    case LATENT_KV_B:
        return (uint64_t)layer->heads * (p->latent_key_size - p->rotary + p->latent_value_size);
    case LATENT_NOPE:
        return p->latent_key_size - p->rotary;
    case LATENT_VALUE:
        return p->latent_value_size;
    case RECURRENT_CONV:
        return p->recurrent_conv;
    case RECURRENT_CHANNELS:
        return channels;
    case RECURRENT_VALUE_HEADS:
        return p->recurrent_heads_v;
    case RECURRENT_VALUE_HEADS_TWICE:
        return 2 * (uint64_t)p->recurrent_heads_v;
    case RECURRENT_VALUE_SIZE:
        return p->recurrent_value_size;
    case RECURRENT_INNER:
        return inner;
    }
    return 0;
}

static void shape_text(char *text, size_t room, const uint64_t *dimensions, uint32_t count)
{
    size_t used = (size_t)snprintf(text, room, "[");
    for (uint32_t d = 0; d < count && used < room; d++)
        used += (size_t)snprintf(text + used, room - used, "%s%" PRIu64, d ? ", " : "", dimensions[d]);
    if (used < room)
        snprintf(text + used, room - used, "]");
}

static hypura_status check_shape(const struct model *model, const struct gguf_tensor *tensor, enum tensor_role role,
                                 const struct model_layer *layer, hypura_error *error)
{
    const enum extent *extents = roles[role].extents;
    uint64_t expected[3];
    uint32_t count = 0;
    bool fits = true;
    for (uint32_t d = 0; d < 3; d++) {
        expected[d] = extent_value(extents[d], model, layer);
        uint64_t found = tensor->dimensions[d];
        if (extents[d] != NOTHING)
            count = d + 1;
        bool same = found == expected[d] || extents[d] == ANY;
        /* Both forms exist; which one it is follows from the length, and the forward pass asks it likewise. */
        if (extents[d] == QUERY_NORM)
            same = same || found == (uint64_t)layer->heads * expected[d];
        if (extents[d] == KEY_NORM)
            same = same || found == (uint64_t)layer->kv_heads * expected[d];
        /* A norm may have weights of its own for each head. */
        if (d == 1 && (extents[0] == QUERY_NORM || extents[0] == KEY_NORM))
            same = same || found == (extents[0] == QUERY_NORM ? layer->heads : layer->kv_heads);
        if (extents[d] == FEED_FORWARD_UP && !(model->architecture->flags & ARCHITECTURE_FFN_UNGATED) &&
            !model->layer_tensors[layer - model->layers][ROLE_FFN_GATE])
            expected[d] *= 2, same = found == expected[d];
        fits = fits && same;
    }
    if (fits && tensor->dimensions[3] == 1)
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

static hypura_status missing(const struct model *model, int32_t layer, enum tensor_role role, hypura_error *error)
{
    char name[64];
    if (layer < 0)
        snprintf(name, sizeof name, "%s", roles[role].name);
    else
        snprintf(name, sizeof name, "blk.%d.%s", layer, roles[role].name);
    return error_set(error, HYPURA_ERROR_FORMAT, "%s: tensor '%s' is missing; architecture '%s' needs it",
                     gguf_file_path(model->file, 0), name, model->architecture->name);
}

static hypura_status check_layer(const struct model *model, uint32_t number, hypura_error *error)
{
    const struct model_layer *layer = &model->layers[number];
    const struct gguf_tensor *const *tensors = model->layer_tensors[number];
    enum tensor_role needed[ROLE_COUNT];
    size_t count = 0;
    bool behind = model->architecture->flags & ARCHITECTURE_NORMS_BEHIND;
    bool of_sums = model->architecture->flags & ARCHITECTURE_NORMS_OF_SUMS;
    needed[count++] = of_sums ? ROLE_ATTENTION_SUM_NORM : behind ? ROLE_ATTENTION_POST_NORM : ROLE_ATTENTION_NORM;
    if (!(model->architecture->flags & ARCHITECTURE_PARALLEL))
        needed[count++] = of_sums ? ROLE_FFN_SUM_NORM : behind ? ROLE_FFN_POST_NORM : ROLE_FFN_NORM;
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
    case LAYER_RECURRENT:
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
    }
    if (layer->moe) {
        needed[count++] = ROLE_ROUTER;
        needed[count++] = ROLE_EXPERT_DOWN;
        if (!tensors[ROLE_EXPERT_GATE_UP]) {
            needed[count++] = ROLE_EXPERT_GATE;
            needed[count++] = ROLE_EXPERT_UP;
        }
        if (model->parameters.shared_feed_forward) {
            needed[count++] = ROLE_SHARED_GATE;
            needed[count++] = ROLE_SHARED_UP;
            needed[count++] = ROLE_SHARED_DOWN;
        }
    } else {
        needed[count++] = ROLE_FFN_UP;
        needed[count++] = ROLE_FFN_DOWN;
    }
    for (size_t i = 0; i < count; i++)
        if (!tensors[needed[i]])
            return missing(model, (int32_t)number, needed[i], error);
    for (int role = 0; role < ROLE_COUNT; role++) {
        hypura_status status = tensors[role] ? check_shape(model, tensors[role], role, layer, error) : HYPURA_OK;
        if (status)
            return status;
    }
    return HYPURA_OK;
}

hypura_status model_check_tensors(const struct model *model, hypura_error *error)
{
    if (!model->tensors[ROLE_OUTPUT_NORM] && !(model->architecture->flags & ARCHITECTURE_ENCODER))
        return missing(model, -1, ROLE_OUTPUT_NORM, error);
    for (int role = 0; role < ROLE_COUNT; role++)
        if (model->tensors[role]) {
            hypura_status status = check_shape(model, model->tensors[role], role, NULL, error);
            if (status)
                return status;
        }
    for (uint32_t i = 0; i < model->parameters.layers; i++) {
        hypura_status status = check_layer(model, i, error);
        if (status)
            return status;
    }
    return HYPURA_OK;
}
