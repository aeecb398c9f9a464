#include "model/model_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

hypura_status model_read_layer_count(const struct gguf *file, const struct architecture *architecture,
                                     struct model_parameters *out, hypura_error *error)
{
    struct reader reader = {.file = file, .architecture = architecture};
    uint32_t count = 0, predicting = 0;
    TRY(needed_number(&reader, "block_count", MAX_LAYERS, &count, error));
    TRY(optional_number(&reader, "nextn_predict_layers", MAX_LAYERS, &predicting, error));
    if (predicting >= count)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: all %u layers are prediction layers (%u)",
                         gguf_file_path(file, 0), count, predicting);
    out->layers = count - predicting;
    out->prediction_blocks = predicting;
    return HYPURA_OK;
}

/* ---- rope ----------------------------------------------------------------------------------------------------------
 */

static hypura_status read_rope(struct reader *reader, struct model_parameters *p, hypura_error *error)
{
    p->rope_base = 10000.0f;
    has_float(reader, "rope.freq_base", &p->rope_base);
    p->rope_base_local = reader->architecture->rope_base_local;
    if (p->rope_base_local == 0.0f)
        p->rope_base_local = p->rope_base;
    has_float(reader, "rope.freq_base_swa", &p->rope_base_local);
    p->rope_local_scaled = reader->architecture->flags & ARCHITECTURE_LOCAL_ROPE_SCALED;
    p->rope_original_context = p->context;
    TRY(optional_number(reader, "rope.scaling.original_context_length", UINT32_MAX, &p->rope_original_context, error));

    float factor = 0.0f;
    if (!has_float(reader, "rope.scaling.factor", &factor) || factor == 0.0f)
        has_float(reader, "rope.scale_linear", &factor);
    p->rope_scaling = ROPE_SCALING_LINEAR;
    struct gguf_string type;
    if (gguf_get_string(reader->file, key(reader, "rope.scaling.type"), &type)) {
        if (strcmp(type.data, "none") == 0)
            p->rope_scaling = ROPE_SCALING_NONE;
        else if (strcmp(type.data, "linear") == 0)
            p->rope_scaling = ROPE_SCALING_LINEAR;
        else if (strcmp(type.data, "yarn") == 0)
            p->rope_scaling = ROPE_SCALING_YARN;
        else if (strcmp(type.data, "longrope") == 0)
            p->rope_scaling = ROPE_SCALING_LONGROPE;
        else
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "%s: rope scaling '%s' is unknown; expected none, linear, yarn or longrope",
                             gguf_file_path(reader->file, 0), type.data);
    }
    p->rope_factor = factor > 0.0f && p->rope_scaling != ROPE_SCALING_NONE ? factor : 1.0f;
    if (p->rope_factor == 1.0f && p->rope_scaling == ROPE_SCALING_LINEAR)
        p->rope_scaling = ROPE_SCALING_NONE;

    float own = 1.0f, log_multiplier = 0.0f;
    if (reader->architecture->rope == ROPE_STYLE_NONE)
        p->rope_scaling = ROPE_SCALING_NONE; /* without rope there is nothing to scale */
    p->yarn_extrapolation = 1.0f;
    p->yarn_beta_fast = reader->architecture->yarn_beta_fast;
    if (p->yarn_beta_fast == 0.0f)
        p->yarn_beta_fast = 32.0f;
    p->yarn_beta_slow = 1.0f;
    has_float(reader, "rope.scaling.attn_factor", &own);
    has_float(reader, "rope.scaling.yarn_ext_factor", &p->yarn_extrapolation);
    has_float(reader, "rope.scaling.yarn_beta_fast", &p->yarn_beta_fast);
    has_float(reader, "rope.scaling.yarn_beta_slow", &p->yarn_beta_slow);
    bool has_multiplier = has_float(reader, "rope.scaling.yarn_log_multiplier", &log_multiplier);
    p->rope_attention_factor = own;
    if (p->rope_scaling == ROPE_SCALING_YARN && reader->architecture->yarn != YARN_USUAL) {
        float stretch = 0.1f * logf(p->rope_factor), sharper = 1.0f + stretch;
        enum yarn_style style = reader->architecture->yarn;
        p->rope_attention_factor *= sharper;
        if (style == YARN_SHARP)
            p->rope_attention_factor /= 1.0f + stretch * (log_multiplier / 0.1f);
        if (style != YARN_SINES)
            p->attention_scale *= sharper * sharper;
    } else if (p->rope_scaling == ROPE_SCALING_YARN) {
        /* YaRN (Peng et al., 2023) lowers the temperature of attention: it scales queries and keys by 0.1 ln(s) + 1.
         * Models with a multiplier (mscale_all_dim) divide by the same term with it; models with MLA include it in the
         * attention scale instead. */
        float stretch = 0.1f * logf(p->rope_factor);
        if (!has_multiplier || log_multiplier == 0.0f)
            p->rope_attention_factor *= 1.0f + stretch;
        else if (!(reader->architecture->flags & ARCHITECTURE_LATENT))
            p->rope_attention_factor *= (1.0f + stretch) / (1.0f + stretch * log_multiplier);
        else if (reader->architecture->flags & ARCHITECTURE_SCALE_STRETCHED)
            p->rope_attention_factor *= (1.0f + stretch) / (1.0f + stretch * (log_multiplier / 0.1f));
        if (reader->architecture->flags & ARCHITECTURE_SCALE_STRETCHED) {
            p->attention_scale *= own * (1.0f + stretch) * own * (1.0f + stretch);
        } else if (reader->architecture->flags & ARCHITECTURE_LATENT) {
            /* The converter stores 0.1 x the model's mscale_all_dim. */
            float scale = p->rope_attention_factor * (1.0f + stretch * (log_multiplier / 0.1f));
            p->attention_scale *= scale * scale;
        }
    }
    if (reader->architecture->one_key) {
        /* Only layers that compress have the scaling, without a magnitude, and the other base. */
        p->rope_base_local = p->rope_base;
        p->rope_attention_factor = 1.0f;
        has_float(reader, "attention.compress_rope_freq_base", &p->rope_base);
    }
    return HYPURA_OK;
}

/* ---- experts -------------------------------------------------------------------------------------------------------
 */

static uint32_t first_dimension(const struct model *model, enum tensor_role role)
{
    for (uint32_t i = 0; i < all_layers(model); i++) {
        const struct gguf_tensor *tensor = model->layer_tensors[i][role];
        if (tensor)
            return (uint32_t)MIN(tensor->dimensions[0], MAX_WIDTH);
    }
    return 0;
}

/* Experts of a group share one more, whose input is the sum of their outputs (GroveMoE). */
static hypura_status read_chunk_experts(struct model *model, struct reader *reader, hypura_error *error)
{
    struct model_parameters *p = &model->parameters;
    p->chunk_feed_forward = first_dimension(model, ROLE_CHUNK_DOWN);
    if (p->chunk_feed_forward == 0)
        return HYPURA_OK;
    TRY(needed_number(reader, "experts_per_group", p->experts, &p->chunk_group, error));
    TRY(optional_number(reader, "expert_chunk_feed_forward_length", MAX_WIDTH, &p->chunk_feed_forward, error));
    if (!has_float(reader, "expert_group_scale", &p->chunk_scale))
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is missing", gguf_file_path(reader->file, 0),
                         key(reader, "expert_group_scale"));
    if (p->experts % p->chunk_group != 0)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: %u experts cannot be divided into groups of %u",
                         gguf_file_path(reader->file, 0), p->experts, p->chunk_group);
    return HYPURA_OK;
}

static hypura_status read_experts(struct model *model, struct reader *reader, hypura_error *error)
{
    struct model_parameters *p = &model->parameters;
    TRY(optional_number(reader, "expert_count", MAX_EXPERTS, &p->experts, error));
    p->router_gate = model->architecture->router_gate;
    p->router_normalise = model->architecture->router_normalise;
    p->router_scale = 1.0f;
    p->mixture_scale = model->architecture->mixture_scale != 0.0f ? model->architecture->mixture_scale : 1.0f;
    if (p->experts == 0)
        return HYPURA_OK;
    TRY(needed_number(reader, "expert_used_count", p->experts, &p->experts_used, error));
    /* Converters disagree on which key holds the width of an expert; the tensors themselves do not. */
    p->expert_feed_forward = first_dimension(model, ROLE_EXPERT_DOWN);
    p->shared_feed_forward = first_dimension(model, ROLE_SHARED_DOWN);
    p->expert_columns = p->embedding;
    TRY(optional_number(reader, "moe_latent_size", MAX_WIDTH, &p->expert_columns, error));
    TRY(optional_number(reader, "expert_latent_length", MAX_WIDTH, &p->expert_columns, error));
    p->expert_columns = p->expert_columns ? p->expert_columns : p->embedding;

    TRY(read_chunk_experts(model, reader, error));

    uint32_t gate = 0;
    TRY(optional_number(reader, "expert_gating_func", 1000, &gate, error));
    if (gate == 1)
        p->router_gate = ROUTER_SOFTMAX;
    else if (gate == 2)
        p->router_gate = ROUTER_SIGMOID;
    else if (gate == 3)
        p->router_gate = ROUTER_SOFTMAX_SELECTED;
    else if (gate == 4)
        p->router_gate = ROUTER_SQRT_SOFTPLUS;
    else if (gate != 0)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s: expert gating function %u is unknown; expected 1 to 4",
                         gguf_file_path(reader->file, 0), gate);
    gguf_get_bool(reader->file, key(reader, "expert_weights_norm"), &p->router_normalise);
    has_float(reader, "expert_weights_scale", &p->router_scale);
    if (p->router_scale == 0.0f)
        p->router_scale = 1.0f;

    TRY(optional_number(reader, "expert_group_count", MAX_EXPERTS, &p->expert_groups, error));
    TRY(optional_number(reader, "expert_group_used_count", MAX_EXPERTS, &p->expert_groups_used, error));
    if (p->expert_groups <= 1) {
        p->expert_groups = p->expert_groups_used = 0;
    } else if (p->experts % p->expert_groups != 0 || p->expert_groups_used == 0 ||
               p->expert_groups_used > p->expert_groups ||
               (uint64_t)p->experts / p->expert_groups * p->expert_groups_used < p->experts_used) {
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: %u experts in %u groups, with %u groups used and %u experts used, are inconsistent",
                         gguf_file_path(reader->file, 0), p->experts, p->expert_groups, p->expert_groups_used,
                         p->experts_used);
    }
    return HYPURA_OK;
}

static hypura_status read_situ(struct reader *reader, struct model_parameters *p, hypura_error *error)
{
    if (reader->architecture->activation != FFN_SITU)
        return HYPURA_OK;
    if (!has_float(reader, "activation.situ_beta", &p->situ_gate) || p->situ_gate <= 0.0f)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is missing, or not above 0",
                         gguf_file_path(reader->file, 0), key(reader, "activation.situ_beta"));
    if (!has_float(reader, "activation.situ_linear_beta", &p->situ_up) || p->situ_up < 0.0f)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is missing, or below 0",
                         gguf_file_path(reader->file, 0), key(reader, "activation.situ_linear_beta"));
    return HYPURA_OK;
}

/* ---- recurrent layers ----------------------------------------------------------------------------------------------
 */

/* The kind of an architecture's layers with a state; LAYER_ATTENTION: there are none. */
static enum layer_kind recurrent_kind(const struct architecture *a)
{
    return a->decay != DECAY_BY_HEAD             ? LAYER_ATTENTION /* read_channel_delta */
           : a->flags & ARCHITECTURE_RECURRENT   ? LAYER_RECURRENT
           : a->flags & ARCHITECTURE_SCAN_BESIDE ? LAYER_SCAN_HEADS
                                                 : a->keyless;
}

/* A short convolution over separate channels. */
static hypura_status read_convolution(struct reader *reader, struct model_parameters *p, hypura_error *error)
{
    TRY(needed_number(reader, "shortconv.l_cache", MAX_TAPS, &p->recurrent_conv, error));
    p->recurrent_heads_v = p->embedding;
    p->recurrent_value_size = 1;
    if (p->recurrent_conv < 2)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: a convolution of %u; expected 2 to %u",
                         gguf_file_path(reader->file, 0), p->recurrent_conv, MAX_TAPS);
    return HYPURA_OK;
}

/* In Mamba 1, each channel is a head, in one group; the time steps are projected at low rank. PLaMo 2's heads use the
 * same projection. */
static hypura_status read_channels(struct model *model, struct reader *reader, enum layer_kind kind, uint32_t inner,
                                   hypura_error *error)
{
    struct model_parameters *p = &model->parameters;
    p->recurrent_heads_k = 1;
    p->recurrent_rank = first_dimension(model, ROLE_RECURRENT_DT);
    if (kind == LAYER_SCAN_BETWEEN)
        return needed_number(reader, "ssm.time_step_rank", MAX_HEADS, &p->recurrent_heads_v, error);
    p->recurrent_heads_v = inner;
    gguf_get_bool(reader->file, key(reader, "ssm.dt_b_c_rms"), &p->recurrent_rms);
    return HYPURA_OK;
}

static hypura_status read_recurrent(struct model *model, struct reader *reader, hypura_error *error)
{
    struct model_parameters *p = &model->parameters;
    enum layer_kind kind = recurrent_kind(reader->architecture);
    uint32_t inner = 0;
    if (kind == LAYER_ATTENTION)
        return HYPURA_OK;
    if (kind == LAYER_CONVOLUTION)
        return read_convolution(reader, p, error);
    TRY(needed_number(reader, "ssm.conv_kernel", MAX_TAPS, &p->recurrent_conv, error));
    TRY(needed_number(reader, "ssm.state_size", MAX_WIDTH, &p->recurrent_key_size, error));
    TRY(needed_number(reader, "ssm.inner_size", MAX_WIDTH, &inner, error));
    if (kind == LAYER_SCAN || kind == LAYER_SCAN_BETWEEN) {
        TRY(read_channels(model, reader, kind, inner, error));
    } else {
        TRY(needed_number(reader, "ssm.group_count", MAX_HEADS, &p->recurrent_heads_k, error));
        TRY(needed_number(reader, "ssm.time_step_rank", MAX_HEADS, &p->recurrent_heads_v, error));
    }
    if (inner % p->recurrent_heads_v != 0 || p->recurrent_heads_v % p->recurrent_heads_k != 0 || p->recurrent_conv < 2)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: recurrent layers of width %u with %u value heads, %u key heads and a convolution of %u "
                         "are inconsistent",
                         gguf_file_path(reader->file, 0), inner, p->recurrent_heads_v, p->recurrent_heads_k,
                         p->recurrent_conv);
    p->recurrent_value_size = inner / p->recurrent_heads_v;
    return HYPURA_OK;
}

static hypura_status read_channel_delta(struct reader *reader, struct model_parameters *p, hypura_error *error)
{
    const enum decay_style decay = reader->architecture->decay;
    const char *path = gguf_file_path(reader->file, 0);
    bool safe = true;
    TRY(needed_number(reader, "ssm.conv_kernel", 64, &p->recurrent_conv, error));
    TRY(needed_number(reader, "kda.head_dim", MAX_WIDTH, &p->recurrent_key_size, error));
    TRY(layer_number(reader, "attention.head_count", 0, MAX_HEADS, &p->recurrent_heads_v, error));
    if (p->recurrent_conv < 2 || (uint64_t)p->recurrent_heads_v * p->recurrent_key_size > MAX_WIDTH)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: recurrent layers with %u heads of %u and a convolution of %u are not possible", path,
                         p->recurrent_heads_v, p->recurrent_key_size, p->recurrent_conv);
    p->recurrent_heads_k = p->recurrent_heads_v;
    p->recurrent_value_size = p->recurrent_key_size;
    if (decay != DECAY_BY_CHANNEL)
        p->recurrent_bounded = has_float(reader, "kda.gate_lower_bound", &p->recurrent_bound);
    if (p->recurrent_bound > 0.0f || (!p->recurrent_bounded && decay == DECAY_BY_CHANNEL_ALWAYS_BOUNDED))
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is missing, or above 0", path,
                         key(reader, "kda.gate_lower_bound"));
    if (gguf_get_bool(reader->file, key(reader, "kda.safe_gate"), &safe) && !safe)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s: metadata '%s' is false; only bounded gates are supported", path, reader->key);
    return HYPURA_OK;
}

/* ---- everything ----------------------------------------------------------------------------------------------------
 */

static hypura_status read_heads(struct model *model, struct reader *reader, hypura_error *error)
{
    struct model_parameters *p = &model->parameters;
    uint32_t heads = 0;
    for (uint32_t i = 0; i < p->layers && heads == 0; i++)
        TRY(layer_number(reader, "attention.head_count", i, MAX_HEADS, &heads, error));
    if (heads == 0 && model->architecture->keyless != LAYER_ATTENTION)
        return HYPURA_OK; /* no layer has attention */
    p->key_size = p->value_size = heads ? p->embedding / heads : 0;
    TRY(optional_number(reader, "attention.key_length", MAX_WIDTH, &p->key_size, error));
    TRY(optional_number(reader, "attention.value_length", MAX_WIDTH, &p->value_size, error));
    uint32_t head = p->key_size;
    p->rotary = p->key_size;
    if (model->architecture->flags & ARCHITECTURE_LATENT) {
        p->latent_key_size = p->key_size;
        p->latent_value_size = p->value_size;
        TRY(optional_number(reader, "attention.key_length_mla", MAX_WIDTH, &p->latent_key_size, error));
        TRY(optional_number(reader, "attention.value_length_mla", MAX_WIDTH, &p->latent_value_size, error));
        TRY(optional_number(reader, "attention.q_lora_rank", MAX_WIDTH, &p->q_rank, error));
        TRY(needed_number(reader, "attention.kv_lora_rank", MAX_WIDTH, &p->kv_rank, error));
        head = p->latent_key_size;
    }
    if (model->architecture->one_key) {
        p->latent_key_size = p->kv_rank = p->key_size;
        p->value_size = p->key_size;
        TRY(needed_number(reader, "attention.q_lora_rank", MAX_WIDTH, &p->q_rank, error));
        TRY(needed_number(reader, "attention.output_group_count", MAX_OUTPUT_GROUPS, &p->output_groups, error));
        TRY(needed_number(reader, "attention.output_lora_rank", MAX_WIDTH, &p->output_rank, error));
    }
    TRY(optional_number(reader, "rope.dimension_count", MAX_WIDTH, &p->rotary, error));
    if (head == 0 || p->value_size == 0 || p->rotary % 2 != 0 || p->rotary > head)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: heads with keys of %u, values of %u and %u rotary elements are not possible",
                         gguf_file_path(reader->file, 0), head, p->value_size, p->rotary);

    p->rotary_local = p->rotary;
    TRY(optional_number(reader, "rope.dimension_count_swa", MAX_WIDTH, &p->rotary_local, error));
    if (model->architecture->flags & ARCHITECTURE_ROTARY_HALF)
        p->rotary = p->rotary / 4 * 2;
    p->attention_scale = 1.0f / sqrtf((float)head);
    if (model->architecture->flags & ARCHITECTURE_ATTENTION_UNSCALED)
        p->attention_scale = 1.0f;
    if (model->architecture->wide_scale_layers == p->layers && heads)
        p->attention_scale = 1.0f / sqrtf((float)p->embedding / (float)heads);
    const struct architecture_factors *factors = &model->architecture->factors;
    float scale = factors->attention;
    if (!has_float(reader, "attention.scale", &scale))
        has_float(reader, "attention.output_scale", &scale);
    if (scale != 0.0f)
        p->attention_scale = scale;
    p->attention_soft_cap = factors->attention_soft_cap;
    has_float(reader, "attn_logit_softcapping", &p->attention_soft_cap);
    has_float(reader, "attention.clamp_kqv", &p->attention_clamp);
    p->attention_value_scale = 1.0f;
    if (has_float(reader, "attention.value_scale", &scale) && scale != 0.0f)
        p->attention_value_scale = scale;
    return HYPURA_OK;
}

/* Residual streams (hyper-connections). */
static hypura_status read_streams(struct reader *reader, struct model_parameters *p, hypura_error *error)
{
    p->streams = 1;
    TRY(optional_number(reader, "hyper_connection.count", MAX_STREAMS, &p->streams, error));
    if (p->streams <= 1) {
        p->streams = 1;
        return HYPURA_OK;
    }
    TRY(optional_number(reader, "hyper_connection.low_rank", MAX_WIDTH, &p->streams_rank, error));
    TRY(optional_number(reader, "hyper_connection.sinkhorn_iterations", 1000, &p->streams_sinkhorn, error));
    has_float(reader, "hyper_connection.epsilon", &p->streams_epsilon);
    /* Streams that mix add the branch with factors up to 2; others as the file says. */
    p->streams_back_epsilon = p->streams_sinkhorn ? 0.0f : p->streams_epsilon;
    p->streams_magnitude = p->streams_sinkhorn ? 2.0f : 1.0f;
    if (!p->streams_sinkhorn)
        has_float(reader, "hyper_connection.magnitude", &p->streams_magnitude);
    return HYPURA_OK;
}

static void read_factors(struct reader *reader, struct model_parameters *p)
{
    const struct architecture *a = reader->architecture;
    float logits = a->factors.logits;
    p->embedding_scale = p->residual_scale = p->output_scale = 1.0f;
    if (a->flags & ARCHITECTURE_EMBEDDING_SCALED)
        p->embedding_scale = sqrtf((float)p->embedding);
    if (a->embedding_scale != 0.0f)
        p->embedding_scale = a->embedding_scale;
    if (a->residual_depth == 0.0f)
        has_float(reader, "embedding_scale", &p->embedding_scale);
    if (a->residual_depth != 0.0f)
        p->residual_scale = a->residual_depth / sqrtf((float)p->layers);
    else
        has_float(reader, "residual_scale", &p->residual_scale);
    has_float(reader, "logit_scale", &logits);
    if (a->logits_width != 0.0f)
        p->output_scale = a->logits_width / (float)p->embedding;
    else if (logits != 0.0f)
        p->output_scale = a->flags & ARCHITECTURE_LOGITS_SCALED ? logits : 1.0f / logits;
    p->output_soft_cap = a->output_soft_cap;
    has_float(reader, "final_logit_softcapping", &p->output_soft_cap);
    if (p->embedding_scale == 0.0f)
        p->embedding_scale = 1.0f;
    if (p->residual_scale == 0.0f)
        p->residual_scale = 1.0f;

    has_float(reader, "attention.temperature_scale", &p->attention_temperature_scale);
    uint32_t floor_length = p->rope_original_context;
    if (a->flags & ARCHITECTURE_CHUNKED) {
        /* Llama 4's value, which its files do not contain. */
        p->attention_temperature_scale = 0.1f;
        p->attention_temperature_offset = 1.0f;
        floor_length = CHUNK_OF_ATTENTION;
    }
    gguf_get_uint32(reader->file, key(reader, "attention.temperature_length"), &floor_length);
    p->attention_temperature_floor = (float)MAX(floor_length, 1u);
}

/* ---- a row per layer for each token --------------------------------------------------------------------------------
 */

#define GEMMA3N_TOKEN_WIDTH 256u

static hypura_status read_token_widths(struct model *model, struct reader *reader, hypura_error *error)
{
    struct model_parameters *p = &model->parameters;
    if (model->architecture->sides) {
        p->token_width = GEMMA3N_TOKEN_WIDTH;
        p->sides = model->architecture->sides;
        p->laurel = first_dimension(model, ROLE_LAUREL_UP);
    }
    if (!model->tensors[ROLE_LAYERS_PROJECTION])
        return HYPURA_OK;
    TRY(optional_number(reader, "embedding_length_per_layer_input", MAX_WIDTH, &p->token_width, error));
    if ((uint64_t)p->token_width * p->layers > MAX_TOKEN_ROW)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: %u elements per token for each of %u layers; expected at most %u",
                         gguf_file_path(reader->file, 0), p->token_width, p->layers, MAX_TOKEN_ROW);
    p->table_width = p->token_width * p->layers;
    p->table_rows = p->vocabulary;
    return HYPURA_OK;
}

/* ---- encoders ------------------------------------------------------------------------------------------------------
 */

/* The activation that the file names, if any. */
static hypura_status read_activation(struct reader *reader, const char *name, enum ffn_activation *out,
                                     hypura_error *error)
{
    static const struct {
        const char *name;
        enum ffn_activation activation;
    } known[] = {{"gelu", FFN_GELU}, {"silu", FFN_SILU}, {"swiglu", FFN_SILU}, {"relu", FFN_RELU}, {"tanh", FFN_TANH}};
    struct gguf_string said;
    if (!gguf_get_string(reader->file, key(reader, name), &said))
        return HYPURA_OK;
    for (size_t i = 0; i < COUNT_OF(known); i++)
        if (strcmp(said.data, known[i].name) == 0) {
            *out = known[i].activation;
            return HYPURA_OK;
        }
    return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s: metadata '%s' is '%.40s', which is unknown",
                     gguf_file_path(reader->file, 0), reader->key, said.data);
}

/* The rows of a matrix of the whole model; 0: there is none. */
static uint32_t second_dimension(const struct model *model, enum tensor_role role)
{
    const struct gguf_tensor *tensor = model->tensors[role];
    return tensor ? (uint32_t)MIN(tensor->dimensions[1], MAX_WIDTH) : 0;
}

/* As pooling_type numbers them. */
#define POOLING_TYPES 4u
#define POOLING_TYPE_RANK 4u

/* The pooling of a text's rows, and the classifier. */
static hypura_status read_pooling(struct model *model, struct reader *reader, hypura_error *error)
{
    static const enum pooling poolings[POOLING_TYPES] = {POOLING_UNSAID, POOLING_MEAN, POOLING_FIRST, POOLING_LAST};
    const struct architecture *a = model->architecture;
    struct model_parameters *p = &model->parameters;
    uint32_t type = 0;
    TRY(optional_number(reader, "pooling_type", POOLING_TYPE_RANK, &type, error));
    p->pooled_width = second_dimension(model, ROLE_POOLED_UP);
    p->judges = type == POOLING_TYPE_RANK;
    p->pooling = p->judges || type == 0 ? POOLING_MEAN : poolings[type];
    if (!p->judges)
        return HYPURA_OK;
    p->labels =
        second_dimension(model, model->tensors[ROLE_CLASSIFIER_OUTPUT] ? ROLE_CLASSIFIER_OUTPUT : ROLE_CLASSIFIER);
    if (p->labels == 0 || p->labels > p->embedding)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: metadata '%s' says that texts get scores, but the classifier has %u; expected 1 to %u",
                         gguf_file_path(reader->file, 0), reader->key, p->labels, p->embedding);
    type = 0;
    TRY(optional_number(reader, "classifier.pooling_type", POOLING_TYPES - 1, &type, error));
    p->pooling = type ? poolings[type] : a->classifier_pooling;
    if (p->pooling == POOLING_UNSAID)
        p->pooling = a->flags & ARCHITECTURE_ENCODER ? POOLING_FIRST : POOLING_LAST;
    p->classifier_activation = a->classifier_gelu ? FFN_GELU : FFN_TANH;
    TRY(read_activation(reader, "classifier.activation", &p->classifier_activation, error));
    if (p->classifier_activation != FFN_GELU && p->classifier_activation != FFN_TANH)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s: metadata '%s' is not gelu or tanh",
                         gguf_file_path(reader->file, 0), reader->key);
    return HYPURA_OK;
}

hypura_status model_read_parameters(struct model *model, hypura_error *error)
{
    struct reader reader = {.file = model->file, .architecture = model->architecture};
    struct model_parameters *p = &model->parameters;
    const char *path = gguf_file_path(model->file, 0);
    TRY(needed_number(&reader, "context_length", UINT32_MAX, &p->context, error));
    TRY(needed_number(&reader, "embedding_length", MAX_WIDTH, &p->embedding, error));

    const struct gguf_tensor *embedding = model->tensors[ROLE_TOKEN_EMBEDDING];
    if (!embedding)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: tensor 'token_embd.weight' is missing; is this a vocabulary only?", path);
    if (embedding->dimensions[1] == 0 || embedding->dimensions[1] > MAX_VOCABULARY)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: the token embedding has %" PRIu64 " rows; 1 to %u are sensible", path,
                         embedding->dimensions[1], MAX_VOCABULARY);
    p->vocabulary = (uint32_t)embedding->dimensions[1];

    p->activation = model->architecture->activation;
    if (model->architecture->flags & ARCHITECTURE_ENCODER)
        TRY(read_activation(&reader, "hidden_activation", &p->activation, error));
    if (p->activation != model->architecture->activation &&
        (p->activation == FFN_TANH || (model->architecture->flags & ARCHITECTURE_FFN_UNGATED)))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s: metadata '%s': a '%s' with that function is unknown",
                         path, key(&reader, "hidden_activation"), model->architecture->name);
    p->alibi = model->architecture->alibi;
    TRY(read_pooling(model, &reader, error));
    p->norm_epsilon = 1e-5f;
    bool by_length = has_float(&reader, "attention.layer_norm_rms_epsilon", &p->norm_epsilon);
    if (!by_length)
        has_float(&reader, "attention.layer_norm_epsilon", &p->norm_epsilon);
    p->norm_centred = (model->architecture->flags & ARCHITECTURE_LAYER_NORM) && !by_length;
    TRY(read_heads(model, &reader, error));
    TRY(read_rope(&reader, p, error));
    read_factors(&reader, p);
    TRY(read_streams(&reader, p, error));
    TRY(optional_number(&reader, "attn_res.block_size", MAX_LAYERS, &p->residual_block, error));
    if (p->residual_block && p->layers / p->residual_block + 2 > RECALLED_MAX)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s: %u layers in residual blocks of %u; expected at most %u blocks", path, p->layers,
                         p->residual_block, RECALLED_MAX - 2);
    if (gguf_find(reader.file, key(&reader, "ple.layers")))
        TRY(model_read_ngrams(&reader, p, error));
    TRY(read_experts(model, &reader, error));
    TRY(read_token_widths(model, &reader, error));
    TRY(read_situ(&reader, p, error));
    TRY(read_recurrent(model, &reader, error));
    if (model->architecture->index != INDEX_NONE)
        TRY(model_read_index(&reader, p, error));
    if (model->architecture->decay != DECAY_BY_HEAD)
        TRY(read_channel_delta(&reader, p, error));
    if (reader.wrong[0])
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is not a finite number", path, reader.wrong);
    if (p->norm_epsilon < 0.0f || (p->rotary && (p->rope_base <= 0.0f || p->rope_base_local <= 0.0f)))
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: an epsilon of norms of %g, rope bases of %g and %g: expected an epsilon of at least 0, "
                         "and bases above 0",
                         path, (double)p->norm_epsilon, (double)p->rope_base, (double)p->rope_base_local);
    return model_read_layers(model, &reader, error);
}
