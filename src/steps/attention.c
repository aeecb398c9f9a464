/* How a token sees earlier ones: attention, MLA and delta nets. */
#include "steps/steps_private.h"

static struct step_head no_head(void)
{
    return (struct step_head){.buffer = BUFFER_NONE, .norm = NO_UNIT};
}

/* Whole heads in a buffer: normed one by one, or as one row if the norm is that long; rope from the first element on.
 */
static struct step_head whole_heads(const struct builder *b, enum step_buffer buffer, uint32_t heads, uint32_t size,
                                    unit_number norm)
{
    const struct gguf_tensor *tensor = norm == NO_UNIT ? NULL : model_unit(b->model, norm)->slices[0].tensor;
    return (struct step_head){.buffer = buffer,
                              .heads = heads,
                              .size = size,
                              .normed = size,
                              .norm = norm,
                              .norm_width = tensor ? (uint32_t)tensor->dimensions[0] : size,
                              .norm_each = tensor && tensor->dimensions[1] > 1};
}

static enum rope_layout layout_of(const struct builder *b)
{
    return b->architecture->rope == ROPE_STYLE_NORMAL ? ROPE_NORMAL : ROPE_NEOX;
}

static void multiply_output(struct builder *b, enum tensor_role role, uint32_t columns, enum step_buffer out)
{
    add_matrix(b, add_multiply(b, BUFFER_ATTENDED, columns), role, out);
}

/* ---- attention -----------------------------------------------------------------------------------------------------
 *
 * q = Wq x, k = Wk x, v = Wv x; heads of q and k are normed and get rope; k and v go to the cache; each head's output
 * is the mean of the values that it sees, weighted by softmax(scale q k); Wo projects all outputs back. */

/* Queries, keys and values as parts of one matrix. */
static void multiply_qkv(struct builder *b, struct step *step, const uint32_t widths[3],
                         const enum step_buffer outputs[3])
{
    uint32_t first = 0;
    for (int i = 0; i < 3; i++) {
        add_matrix(b, step, ROLE_ATTENTION_QKV, outputs[i]);
        step->multiply.matrices[i].first = first;
        step->multiply.matrices[i].rows = widths[i];
        first += widths[i];
    }
}

/* Llama 4 with 128 experts (Maverick) has no such norms, and its files do not say so. */
static bool norms_plainly(const struct builder *b)
{
    return (b->architecture->flags & ARCHITECTURE_QK_NORM_PLAIN) && b->layer->rope && b->p->experts != 128;
}

/* Whether a separate matrix computes the gate of attention's output. */
static bool has_gate(const struct builder *b)
{
    return b->architecture->attention_gate != ATTENTION_UNGATED && unit_of(b, ROLE_ATTENTION_GATE) != NO_UNIT;
}

/* The gate has one float per element, or one per head. */
static void make_gate(struct builder *b, enum step_buffer gate, uint32_t heads, uint32_t size)
{
    static const enum glu_kind kinds[] = {[ATTENTION_UNGATED] = GLU_SIGMOID,
                                          [ATTENTION_GATE_SIGMOID] = GLU_SIGMOID,
                                          [ATTENTION_GATE_SOFTPLUS] = GLU_SOFTPLUS};
    const uint64_t rows = model_unit(b->model, unit_of(b, ROLE_ATTENTION_GATE))->slices[0].tensor->dimensions[1];
    const bool each = rows == heads && size > 1;
    add_step(b, STEP_GLU)->glu = (struct step_glu){.kind = kinds[b->architecture->attention_gate],
                                                   .gate = {gate, 0, each ? 1 : size},
                                                   .up = {BUFFER_ATTENDED, 0, size},
                                                   .out = BUFFER_ATTENDED,
                                                   .groups = heads,
                                                   .width = size,
                                                   .gate_per_group = each};
}

/* A norm with a bias treats all heads as one row, before they are split (Jina). Returns the norm that is left for the
 * heads. */
static unit_number make_biased_norm(struct builder *b, enum step_buffer buffer, enum tensor_role role, uint32_t heads)
{
    const unit_number norm = unit_of(b, role), bias = unit_of(b, role + 1);
    if (norm == NO_UNIT || bias == NO_UNIT || !tensor_role_is_bias(role + 1))
        return norm;
    add_groups_norm(b, buffer, buffer, norm, 1, heads * b->layer->key_size)->norm.bias = bias;
    return NO_UNIT;
}

void make_attention(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const struct model_layer *layer = b->layer;
    const uint32_t flags = b->architecture->flags;
    const bool gated = flags & ARCHITECTURE_QUERY_GATED, own_keys = layer->kv_source == (uint32_t)b->number;
    const bool fused = unit_of(b, ROLE_ATTENTION_QKV) != NO_UNIT;
    const bool values = fused || unit_of(b, ROLE_ATTENTION_V) != NO_UNIT;
    const enum step_buffer outputs[3] = {gated ? BUFFER_RAW : BUFFER_QUERY, BUFFER_KEY, BUFFER_VALUE};
    const uint32_t widths[3] = {layer->heads * layer->key_size * (gated ? 2 : 1), layer->kv_heads * layer->key_size,
                                layer->kv_heads * layer->value_size};
    struct step *products = add_multiply(b, in, b->p->embedding);
    if (fused) {
        multiply_qkv(b, products, widths, outputs);
    } else {
        add_matrix(b, products, ROLE_ATTENTION_Q, outputs[0]);
        if (own_keys)
            add_matrix(b, products, ROLE_ATTENTION_K, outputs[1]);
        if (own_keys && values)
            add_matrix(b, products, ROLE_ATTENTION_V, outputs[2]);
    }
    if (has_gate(b))
        add_matrix(b, products, ROLE_ATTENTION_GATE, BUFFER_RAW);
    const unit_number query_norm = make_biased_norm(b, BUFFER_QUERY, ROLE_ATTENTION_Q_NORM, layer->heads);
    const unit_number key_norm = make_biased_norm(b, BUFFER_KEY, ROLE_ATTENTION_K_NORM, layer->kv_heads);

    add_step(b, STEP_HEADS)->heads = (struct step_heads){
        .query = whole_heads(b, BUFFER_QUERY, layer->heads, layer->key_size, query_norm),
        .key = own_keys ? whole_heads(b, BUFFER_KEY, layer->kv_heads, layer->key_size, key_norm) : no_head(),
        .raw = gated ? BUFFER_RAW : BUFFER_NONE,
        .value = own_keys ? BUFFER_VALUE : BUFFER_NONE,
        .value_size = layer->value_size,
        .values_are_keys = own_keys && !values,
        .value_norm = flags & ARCHITECTURE_VALUE_NORM,
        .centred = b->p->norm_centred,
        .clamp = b->p->attention_clamp,
        .turns = layer->rope,
        .turns_first = flags & ARCHITECTURE_QK_NORM_AFTER_ROPE,
        .plain_norm = norms_plainly(b),
        .sharpened = layer->sharpened,
        .stores = own_keys,
        .local = layer->rope_local,
        .layout = layout_of(b),
        .rotary = layer->rope_local ? b->p->rotary_local : b->p->rotary,
        .epsilon = b->p->norm_epsilon};

    make_index(b, in, BUFFER_NONE);
    add_step(b, STEP_ATTEND)->attend = (struct step_attend){.query = BUFFER_QUERY,
                                                            .out = BUFFER_ATTENDED,
                                                            .chosen = choice_of_layer(b),
                                                            .source = layer->kv_source,
                                                            .heads = layer->heads,
                                                            .kv_heads = layer->kv_heads,
                                                            .key_size = layer->key_size,
                                                            .value_size = layer->value_size,
                                                            .scale = b->p->attention_scale,
                                                            .soft_cap = b->p->attention_soft_cap,
                                                            .window = layer->window,
                                                            .chunk = layer->chunk,
                                                            .around = layer->around,
                                                            .alibi = b->p->alibi,
                                                            .bidirectional = flags & ARCHITECTURE_ENCODER,
                                                            .sinks = unit_of(b, ROLE_ATTENTION_SINKS)};
    if (gated) /* in the raw rows, each head's gate follows its query */
        add_step(b, STEP_GLU)->glu = (struct step_glu){.kind = GLU_SIGMOID,
                                                       .gate = {BUFFER_RAW, layer->key_size, 2 * layer->key_size},
                                                       .up = {BUFFER_ATTENDED, 0, layer->value_size},
                                                       .out = BUFFER_ATTENDED,
                                                       .groups = layer->heads,
                                                       .width = layer->value_size};
    if (has_gate(b))
        make_gate(b, BUFFER_RAW, layer->heads, layer->value_size);
    if (layer->scans) /* before the last matrix, in this order */
        make_scan_of_heads(b, in, BUFFER_RAW, BUFFER_SIDE);
    multiply_output(b, ROLE_ATTENTION_OUTPUT, layer->heads * layer->value_size, out);
    if (layer->scans)
        add_step(b, STEP_ADD)->add = (struct step_add){.to = out, .from = BUFFER_SIDE, .scale = 1.0f};
}

/* ---- multi-head latent attention (DeepSeek-V2, 2024) ---------------------------------------------------------------
 *
 * Keys and values of all heads are projections of one short vector per position. The cache keeps that vector and the
 * part of the key with rope. The projections are moved to the other side of the products: a query is multiplied by its
 * head's key projection and then meets the cached vectors directly; the result is multiplied by the head's value
 * projection. Older files have both projections in one matrix, from which whole keys and values are computed. */

void make_latent_attention(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    const uint32_t heads = b->layer->heads, plain = p->latent_key_size - p->rotary, row = p->kv_rank + p->rotary;
    const bool low = unit_of(b, ROLE_ATTENTION_Q) == NO_UNIT, whole = unit_of(b, ROLE_ATTENTION_KV_B) != NO_UNIT;
    const bool gated = has_gate(b);
    const enum step_buffer latents = whole ? BUFFER_LATENTS : BUFFER_KEY;

    struct step *products = add_multiply(b, in, p->embedding);
    if (!low)
        add_matrix(b, products, ROLE_ATTENTION_Q, BUFFER_QUERY);
    if (gated)
        add_matrix(b, products, ROLE_ATTENTION_GATE, BUFFER_GATE);
    if (low)
        add_matrix(b, products, ROLE_ATTENTION_Q_A, BUFFER_ATTENDED);
    add_matrix(b, products, ROLE_ATTENTION_KV_A, latents);
    if (low) {
        add_groups_norm(b, BUFFER_ATTENDED, BUFFER_ATTENDED, unit_of(b, ROLE_ATTENTION_Q_A_NORM), 1, p->q_rank);
        add_matrix(b, add_multiply(b, BUFFER_ATTENDED, p->q_rank), ROLE_ATTENTION_Q_B, BUFFER_QUERY);
    }
    make_index(b, in, BUFFER_ATTENDED);

    struct step_heads heads_of = {.query = no_head(),
                                  .key = no_head(),
                                  .turns = b->layer->rope,
                                  .layout = layout_of(b),
                                  .rotary = p->rotary,
                                  .epsilon = p->norm_epsilon,
                                  .value_size = whole ? p->latent_value_size : p->kv_rank};
    struct step_heads queries = heads_of, keys = heads_of;
    queries.query = whole_heads(b, BUFFER_QUERY, heads, p->latent_key_size, NO_UNIT);
    queries.query.turned = plain;
    queries.sharpened = b->layer->sharpened;
    if (queries.turns || queries.sharpened)
        add_step(b, STEP_HEADS)->heads = queries;
    keys.key = (struct step_head){.buffer = latents,
                                  .heads = 1,
                                  .size = row,
                                  .normed = p->kv_rank,
                                  .turned = p->kv_rank,
                                  .norm = unit_of(b, ROLE_ATTENTION_KV_A_NORM),
                                  .norm_width = p->kv_rank};
    keys.stores = !whole;
    add_step(b, STEP_HEADS)->heads = keys;

    if (!whole) {
        add_step(b, STEP_ATTEND_LATENT)->attend_latent =
            (struct step_attend_latent){.query = BUFFER_QUERY,
                                        .out = BUFFER_ATTENDED,
                                        .chosen = choice_of_layer(b),
                                        .key_matrix = unit_of(b, ROLE_ATTENTION_K_B),
                                        .value_matrix = unit_of(b, ROLE_ATTENTION_V_B),
                                        .heads = heads,
                                        .plain = plain,
                                        .rotary = p->rotary,
                                        .rank = p->kv_rank,
                                        .value_size = p->latent_value_size,
                                        .scale = p->attention_scale,
                                        .sinks = unit_of(b, ROLE_ATTENTION_SINKS)};
    } else {
        struct step *expand = add_multiply(b, BUFFER_LATENTS, p->kv_rank);
        expand->multiply.stride = row;
        add_matrix(b, expand, ROLE_ATTENTION_KV_B, BUFFER_RAW);
        add_step(b, STEP_SPREAD)->spread = (struct step_spread){.in = BUFFER_RAW,
                                                                .latents = BUFFER_LATENTS,
                                                                .key = BUFFER_KEY,
                                                                .value = BUFFER_VALUE,
                                                                .heads = heads,
                                                                .plain = plain,
                                                                .rotary = p->rotary,
                                                                .value_size = p->latent_value_size,
                                                                .rank = p->kv_rank};
        struct step_heads store = heads_of;
        store.key = whole_heads(b, BUFFER_KEY, heads, p->latent_key_size, NO_UNIT);
        store.value = BUFFER_VALUE;
        store.turns = false;
        store.stores = true;
        add_step(b, STEP_HEADS)->heads = store;
        add_step(b, STEP_ATTEND)->attend = (struct step_attend){.query = BUFFER_QUERY,
                                                                .out = BUFFER_ATTENDED,
                                                                .chosen = choice_of_layer(b),
                                                                .source = (uint32_t)b->number,
                                                                .heads = heads,
                                                                .kv_heads = heads,
                                                                .key_size = p->latent_key_size,
                                                                .value_size = p->latent_value_size,
                                                                .scale = p->attention_scale,
                                                                .sinks = unit_of(b, ROLE_ATTENTION_SINKS)};
    }
    if (gated)
        make_gate(b, BUFFER_GATE, heads, p->latent_value_size);
    multiply_output(b, ROLE_ATTENTION_OUTPUT, heads * p->latent_value_size, out);
}

/* ---- gated delta nets (Yang et al., 2024) --------------------------------------------------------------------------
 *
 * Each value head keeps a matrix instead of a cache; compute.h says how a token updates and reads it. The output is
 * normed per head and gated by another projection of the input. */

void make_delta_net(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    const struct model_parameters *p = b->p;
    const uint32_t inner = p->recurrent_heads_v * p->recurrent_value_size;
    const uint32_t keys = p->recurrent_heads_k * p->recurrent_key_size, channels = inner + 2 * keys;
    const bool together = unit_of(b, ROLE_RECURRENT_BETA_ALPHA) != NO_UNIT;
    struct step *products = add_multiply(b, in, p->embedding);
    add_matrix(b, products, ROLE_ATTENTION_QKV, BUFFER_RAW);
    add_matrix(b, products, ROLE_ATTENTION_GATE, BUFFER_VALUE);
    if (together) {
        add_matrix(b, products, ROLE_RECURRENT_BETA_ALPHA, BUFFER_KEY);
    } else {
        add_matrix(b, products, ROLE_RECURRENT_ALPHA, BUFFER_DECAY);
        add_matrix(b, products, ROLE_RECURRENT_BETA, BUFFER_BETA);
    }
    add_step(b, STEP_DELTA_NET)->delta_net = (struct step_delta_net){
        .in = {{BUFFER_RAW, 0, channels}, {BUFFER_RAW, keys, channels}, {BUFFER_RAW, 2 * keys, channels}},
        .convolved = BUFFER_QUERY,
        .gates = together ? BUFFER_KEY : BUFFER_NONE,
        .beta = BUFFER_BETA,
        .decay = BUFFER_DECAY,
        .out = BUFFER_ATTENDED,
        .convolution = {unit_of(b, ROLE_RECURRENT_CONV), NO_UNIT, NO_UNIT},
        .step_bias = unit_of(b, ROLE_RECURRENT_DT_BIAS),
        .decay_rate = unit_of(b, ROLE_RECURRENT_A),
        .heads_k = p->recurrent_heads_k,
        .heads_v = p->recurrent_heads_v,
        .key_size = p->recurrent_key_size,
        .value_size = p->recurrent_value_size,
        .taps = p->recurrent_conv,
        .tiled = b->architecture->flags & ARCHITECTURE_RECURRENT_HEADS_TILED,
        .root_epsilon = b->architecture->delta_gate_sigmoid,
        .epsilon = p->norm_epsilon};
    add_groups_norm(b, BUFFER_ATTENDED, BUFFER_ATTENDED, unit_of(b, ROLE_RECURRENT_NORM), p->recurrent_heads_v,
                    p->recurrent_value_size);
    const enum glu_kind gate = b->architecture->delta_gate_sigmoid ? GLU_SIGMOID : GLU_SILU;
    add_step(b, STEP_GLU)->glu = (struct step_glu){.kind = gate,
                                                   .gate = {BUFFER_VALUE, 0, inner},
                                                   .up = {BUFFER_ATTENDED, 0, inner},
                                                   .out = BUFFER_ATTENDED,
                                                   .groups = 1,
                                                   .width = inner};
    multiply_output(b, ROLE_RECURRENT_OUT, inner, out);
}

/* The same with a decay per channel (Kimi Linear, 2025). Queries, keys and values have their own convolutions. The
 * decay and the output gate are one matrix each, or two low-rank ones. */

static void multiply_low_rank(struct builder *b, enum step_buffer between, enum tensor_role role, enum step_buffer out)
{
    if (unit_of(b, role) != NO_UNIT)
        add_matrix(b, add_multiply(b, between, b->p->recurrent_key_size), role, out);
}

void make_channel_delta_net(struct builder *b, enum step_buffer in, enum step_buffer out)
{
    static const enum step_buffer outputs[DELTA_PARTS] = {BUFFER_QUERY, BUFFER_KEY, BUFFER_VALUE};
    const struct model_parameters *p = b->p;
    const uint32_t inner = p->recurrent_heads_v * p->recurrent_value_size;
    const uint32_t widths[DELTA_PARTS] = {inner, inner, inner};
    const bool low_decay = unit_of(b, ROLE_RECURRENT_DECAY_B) != NO_UNIT;
    const bool low_gate = unit_of(b, ROLE_RECURRENT_GATE_B) != NO_UNIT;
    const bool plain_gate = unit_of(b, ROLE_RECURRENT_GATE) != NO_UNIT;

    struct step *products = add_multiply(b, in, p->embedding);
    if (unit_of(b, ROLE_ATTENTION_QKV) != NO_UNIT) {
        multiply_qkv(b, products, widths, outputs);
    } else {
        add_matrix(b, products, ROLE_ATTENTION_Q, BUFFER_QUERY);
        add_matrix(b, products, ROLE_ATTENTION_K, BUFFER_KEY);
        add_matrix(b, products, ROLE_ATTENTION_V, BUFFER_VALUE);
    }
    add_matrix(b, products, ROLE_RECURRENT_BETA, BUFFER_BETA);
    products = add_multiply(b, in, p->embedding);
    add_matrix(b, products, ROLE_RECURRENT_DECAY_A, low_decay ? BUFFER_LATENTS : BUFFER_DECAY);
    if (low_decay) { /* in the order of units, in which they stream */
        multiply_low_rank(b, BUFFER_LATENTS, ROLE_RECURRENT_DECAY_B, BUFFER_DECAY);
        products = add_multiply(b, in, p->embedding);
    }
    add_matrix(b, products, plain_gate ? ROLE_RECURRENT_GATE : ROLE_RECURRENT_GATE_A,
               low_gate ? BUFFER_ATTENDED : BUFFER_GATE);
    multiply_low_rank(b, BUFFER_ATTENDED, ROLE_RECURRENT_GATE_B, BUFFER_GATE);

    add_step(b, STEP_DELTA_NET)->delta_net =
        (struct step_delta_net){.in = {{BUFFER_QUERY, 0, inner}, {BUFFER_KEY, 0, inner}, {BUFFER_VALUE, 0, inner}},
                                .convolved = BUFFER_RAW,
                                .gates = BUFFER_NONE,
                                .beta = BUFFER_BETA,
                                .decay = BUFFER_DECAY,
                                .out = BUFFER_ATTENDED,
                                .convolution = {unit_of(b, ROLE_RECURRENT_CONV_Q), unit_of(b, ROLE_RECURRENT_CONV_K),
                                                unit_of(b, ROLE_RECURRENT_CONV_V)},
                                .step_bias = unit_of(b, ROLE_RECURRENT_DT_BIAS),
                                .decay_rate = unit_of(b, ROLE_RECURRENT_A),
                                .heads_k = p->recurrent_heads_k,
                                .heads_v = p->recurrent_heads_v,
                                .key_size = p->recurrent_key_size,
                                .value_size = p->recurrent_value_size,
                                .taps = p->recurrent_conv,
                                .kind = p->recurrent_bounded ? DECAY_BOUNDED : DECAY_OF_CHANNEL,
                                .bound = p->recurrent_bound,
                                .root_epsilon = true,
                                .epsilon = p->norm_epsilon};
    add_groups_norm(b, BUFFER_ATTENDED, BUFFER_ATTENDED, unit_of(b, ROLE_RECURRENT_NORM), p->recurrent_heads_v,
                    p->recurrent_value_size);
    add_step(b, STEP_GLU)->glu = (struct step_glu){.kind = GLU_SIGMOID,
                                                   .gate = {BUFFER_GATE, 0, inner},
                                                   .up = {BUFFER_ATTENDED, 0, inner},
                                                   .out = BUFFER_ATTENDED,
                                                   .groups = 1,
                                                   .width = inner};
    multiply_output(b, ROLE_ATTENTION_OUTPUT, inner, out);
}
