/* Which layers the GPU can compute, and what that takes there besides weights. */
#include "engine/gpu/pass.h"

/* What else an architecture may say is a mechanism that this pass does not have. */
#define KNOWN_FLAGS                                                                                                    \
    ((uint32_t)(ARCHITECTURE_EMBEDDING_SCALED | ARCHITECTURE_FFN_NORM_NAMED_POST | ARCHITECTURE_LOCAL_ROPE |           \
                ARCHITECTURE_QK_NORM_AFTER_ROPE | ARCHITECTURE_VALUE_NORM | ARCHITECTURE_ATTENTION_UNSCALED |          \
                ARCHITECTURE_NORMS_BEHIND | ARCHITECTURE_LATENT | ARCHITECTURE_QUERY_GATED | ARCHITECTURE_RECURRENT |  \
                ARCHITECTURE_RECURRENT_HEADS_TILED | ARCHITECTURE_CHUNKED | ARCHITECTURE_QK_NORM_PLAIN |               \
                ARCHITECTURE_EXPERT_INPUT_WEIGHED | ARCHITECTURE_ENCODER | ARCHITECTURE_LAYER_NORM |                   \
                ARCHITECTURE_NORMS_OF_SUMS | ARCHITECTURE_FFN_UNGATED))

static bool is_vector(enum tensor_role role)
{
    switch (role) {
    case ROLE_ATTENTION_NORM:
    case ROLE_ATTENTION_NORM_BIAS:
    case ROLE_ATTENTION_QKV_BIAS:
    case ROLE_ATTENTION_Q_BIAS:
    case ROLE_ATTENTION_K_BIAS:
    case ROLE_ATTENTION_V_BIAS:
    case ROLE_ATTENTION_Q_A_NORM:
    case ROLE_ATTENTION_KV_A_NORM:
    case ROLE_ATTENTION_Q_NORM:
    case ROLE_ATTENTION_K_NORM:
    case ROLE_ATTENTION_SINKS:
    case ROLE_RECURRENT_CONV:
    case ROLE_RECURRENT_DT_BIAS:
    case ROLE_RECURRENT_A:
    case ROLE_RECURRENT_NORM:
    case ROLE_ATTENTION_OUTPUT_BIAS:
    case ROLE_ATTENTION_POST_NORM:
    case ROLE_ATTENTION_SUM_NORM:
    case ROLE_ATTENTION_SUM_NORM_BIAS:
    case ROLE_FFN_NORM:
    case ROLE_FFN_NORM_BIAS:
    case ROLE_ROUTER_SCALE:
    case ROLE_ROUTER_BIAS:
    case ROLE_ROUTER_SELECTION_BIAS:
    case ROLE_FFN_GATE_BIAS:
    case ROLE_FFN_UP_BIAS:
    case ROLE_FFN_DOWN_BIAS:
    case ROLE_FFN_DENSE_POST_NORM:
    case ROLE_EXPERT_NORM:
    case ROLE_EXPERT_NORM_BIAS:
    case ROLE_EXPERT_POST_NORM:
    case ROLE_EXPERT_SCALE:
    case ROLE_EXPERT_GATE_BIAS:
    case ROLE_EXPERT_UP_BIAS:
    case ROLE_EXPERT_DOWN_BIAS:
    case ROLE_FFN_POST_NORM:
    case ROLE_FFN_SUM_NORM:
    case ROLE_FFN_SUM_NORM_BIAS:
    case ROLE_LAYER_SCALE:
    case ROLE_OUTPUT_NORM:
    case ROLE_OUTPUT_NORM_BIAS:
    case ROLE_OUTPUT_BIAS:
        return true;
    default:
        return false;
    }
}

static bool is_matrix(enum tensor_role role)
{
    switch (role) {
    case ROLE_ATTENTION_QKV:
    case ROLE_ATTENTION_Q:
    case ROLE_ATTENTION_K:
    case ROLE_ATTENTION_V:
    case ROLE_ATTENTION_GATE:
    case ROLE_RECURRENT_BETA_ALPHA:
    case ROLE_RECURRENT_ALPHA:
    case ROLE_RECURRENT_BETA:
    case ROLE_RECURRENT_OUT:
    case ROLE_ATTENTION_Q_A:
    case ROLE_ATTENTION_Q_B:
    case ROLE_ATTENTION_KV_A:
    case ROLE_ATTENTION_KV_B:
    case ROLE_ATTENTION_K_B:
    case ROLE_ATTENTION_V_B:
    case ROLE_ATTENTION_OUTPUT:
    case ROLE_ROUTER:
    case ROLE_FFN_GATE:
    case ROLE_FFN_UP:
    case ROLE_FFN_DOWN:
    case ROLE_SHARED_ROUTER:
    case ROLE_SHARED_GATE:
    case ROLE_SHARED_UP:
    case ROLE_SHARED_DOWN:
        return true;
    default:
        return false;
    }
}

/* Whether a tensor can be used where it is for what it is. A role of neither kind is a mechanism that is not there. */
static bool can_use(const struct gpu *gpu, const struct model *model, unit_number unit, enum tensor_role role)
{
    if (unit == NO_UNIT)
        return true;
    const struct gguf_tensor *tensor = model_unit(model, unit)->slices[0].tensor;
    if (tensor->bytes > gpu_get_info(gpu)->max_allocation)
        return false;
    return is_vector(role) ? tensor->type == TENSOR_F32 : is_matrix(role) && gpu_supports(gpu, tensor->type);
}

/* Parts of a matrix begin at rows: those must be as well placed as a matrix of their own. */
static bool can_split(const struct model *model, unit_number unit, uint64_t rows)
{
    uint64_t row_bytes = 0;
    const struct gguf_tensor *tensor = model_unit(model, unit)->slices[0].tensor;
    return tensor_row_bytes(tensor->type, tensor->dimensions[0], &row_bytes) && rows * row_bytes % GPU_ALIGNMENT == 0;
}

static bool can_attend_latently(const struct geometry *geometry, const struct model_layer *layer,
                                enum tensor_type kv_type)
{
    const struct model_parameters *p = model_parameters(geometry->model);
    uint32_t width = p->kv_rank + p->rotary;
    if (layer->tensors[ROLE_ATTENTION_KV_B] != NO_UNIT)
        return width <= ATTENTION_MAX_SIZE && gpu_attention_supports(kv_type, p->latent_key_size, p->latent_value_size);
    /* The table of heads is that of all layers. */
    return layer->heads == geometry->heads && layer->heads <= GPU_ROUTER_EXPERTS &&
           gpu_attention_supports(kv_type, width, p->kv_rank);
}

/* If at all. */
static bool norms_head_by_head(const struct model *model, const struct model_layer *layer, enum tensor_role role)
{
    unit_number norm = layer->tensors[role];
    return norm == NO_UNIT || model_unit(model, norm)->slices[0].tensor->dimensions[0] == layer->key_size;
}

/* Gates stand beside queries. */
static bool can_gate(const struct model *model, const struct model_layer *layer)
{
    return layer->key_size == layer->value_size && norms_head_by_head(model, layer, ROLE_ATTENTION_Q_NORM);
}

static bool can_attend(const struct geometry *geometry, uint32_t number, enum tensor_type kv_type)
{
    const struct model *model = geometry->model;
    const struct model_layer *layer = model_layer(model, number);
    uint64_t queries = (uint64_t)layer->heads * layer->key_size, keys = (uint64_t)layer->kv_heads * layer->key_size;
    if (geometry->sequences > GPU_MAX_SEQUENCES || (model_architecture(model)->flags & ~KNOWN_FLAGS))
        return false;
    if (layer->kind == LAYER_LATENT)
        return can_attend_latently(geometry, layer, kv_type);
    if (layer->kind == LAYER_RECURRENT) {
        const struct model_parameters *p = model_parameters(model);
        return gpu_delta_net_supports(p->recurrent_key_size, p->recurrent_conv);
    }
    if ((model_architecture(model)->flags & ARCHITECTURE_QUERY_GATED) && !can_gate(model, layer))
        return false;
    if (layer->kind != LAYER_ATTENTION || layer->kv_source != number)
        return false;
    for (uint32_t i = number + 1; i < model_parameters(model)->layers; i++)
        if (model_layer(model, i)->kv_source == number)
            return false; /* on the CPU, perhaps */
    if (layer->tensors[ROLE_ATTENTION_QKV] != NO_UNIT &&
        (!can_split(model, layer->tensors[ROLE_ATTENTION_QKV], queries) ||
         !can_split(model, layer->tensors[ROLE_ATTENTION_QKV], keys)))
        return false;
    /* Values that are the keys are those before a norm of all heads as one row, which is done in place. */
    if (layer->tensors[ROLE_ATTENTION_QKV] == NO_UNIT && layer->tensors[ROLE_ATTENTION_V] == NO_UNIT &&
        (layer->key_size != layer->value_size || !norms_head_by_head(model, layer, ROLE_ATTENTION_K_NORM)))
        return false;
    return gpu_attention_supports(kv_type, layer->key_size, layer->value_size);
}

/* Norms that take the mean off are there of sums only, and sums are normed in layers without other norms. */
static bool can_norm(const struct model *model, const struct model_layer *layer)
{
    static const enum tensor_role others[] = {ROLE_ATTENTION_NORM,      ROLE_FFN_NORM,      ROLE_ATTENTION_Q_NORM,
                                              ROLE_ATTENTION_K_NORM,    ROLE_FFN_POST_NORM, ROLE_LAYER_SCALE,
                                              ROLE_ATTENTION_POST_NORM, ROLE_ROUTER};
    if (!(model_architecture(model)->flags & (ARCHITECTURE_LAYER_NORM | ARCHITECTURE_NORMS_OF_SUMS)))
        return layer->tensors[ROLE_ATTENTION_SUM_NORM] == NO_UNIT && layer->tensors[ROLE_FFN_SUM_NORM] == NO_UNIT;
    for (size_t i = 0; i < COUNT_OF(others); i++)
        if (layer->tensors[others[i]] != NO_UNIT)
            return false;
    return true;
}

static bool can_choose(const struct model *model, const struct model_layer *layer)
{
    const struct model_parameters *p = model_parameters(model);
    if (!layer->moe)
        return true;
    /* A dense feed forward beside the experts, with norms and a router input of their own: all of it, or nothing. */
    static const enum tensor_role beside[] = {ROLE_ROUTER_SCALE, ROLE_EXPERT_NORM, ROLE_EXPERT_POST_NORM, ROLE_FFN_UP};
    size_t parts = 0;
    for (size_t i = 0; i < COUNT_OF(beside); i++)
        parts += layer->tensors[beside[i]] != NO_UNIT;
    return p->experts <= GPU_ROUTER_EXPERTS && p->experts_used <= GPU_ROUTER_USED &&
           layer->tensors[ROLE_ROUTER] != NO_UNIT &&
           (parts == 0 || (parts == COUNT_OF(beside) && p->shared_feed_forward == 0)) &&
           (p->shared_feed_forward == 0 || layer->tensors[ROLE_SHARED_GATE] != NO_UNIT);
}

/* Whether the thin matrices for one that is there can be used there too. */
static bool can_adapt(const struct gpu *gpu, const struct adapters *adapters, int32_t layer, enum tensor_role role)
{
    const struct thin_pair *pair = adapters ? adapters_find(adapters, layer, role) : NULL;
    for (; pair; pair = pair->next)
        if (!gpu_supports(gpu, pair->a->type) || !gpu_supports(gpu, pair->b->type))
            return false;
    return pass_adapter_bytes(adapters, layer) <= gpu_get_info(gpu)->max_allocation;
}

/* Adapters add to experts on the CPU only. */
static bool adapts_experts(const struct adapters *adapters, uint32_t layer)
{
    bool any = false;
    for (enum tensor_role role = ROLE_EXPERT_GATE_UP; adapters && role <= ROLE_EXPERT_DOWN; role++)
        any = any || adapters_find(adapters, (int32_t)layer, role);
    return any;
}

static bool can_run_experts(const struct gpu *gpu, const struct geometry *geometry, uint32_t number)
{
    const struct model *model = geometry->model;
    const struct model_layer *layer = model_layer(model, number);
    if (!layer->moe)
        return true;
    if (adapts_experts(geometry->adapters, number))
        return false;
    const struct model_parameters *p = model_parameters(model);
    const struct unit *unit = model_unit(model, layer->first_expert);
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        uint64_t row_bytes = 0;
        enum tensor_type type = unit->slices[i].tensor->type;
        if (!gpu_supports(gpu, type))
            return false;
        if (unit->slices[i].role == ROLE_EXPERT_GATE_UP && (!tensor_row_bytes(type, p->embedding, &row_bytes) ||
                                                            row_bytes * p->expert_feed_forward % GPU_ALIGNMENT != 0))
            return false;
    }
    return true;
}

static enum gpu_ability ability_of(const struct geometry *geometry, const struct gpu *gpu, uint32_t number,
                                   enum tensor_type kv_type)
{
    const struct model_layer *layer = model_layer(geometry->model, number);
    if (!can_attend(geometry, number, kv_type) || !can_norm(geometry->model, layer) ||
        !can_choose(geometry->model, layer))
        return GPU_CANNOT;
    for (int role = 0; role < ROLE_COUNT; role++)
        if (!can_use(gpu, geometry->model, layer->tensors[role], (enum tensor_role)role) ||
            !can_adapt(gpu, geometry->adapters, (int32_t)number, (enum tensor_role)role))
            return GPU_CANNOT;
    return can_run_experts(gpu, geometry, number) ? GPU_CAN : GPU_CAN_BUT_EXPERTS;
}

static bool can_output(const struct gpu *gpu, const struct geometry *geometry)
{
    const struct model *model = geometry->model;
    if (model_architecture(model)->flags & ARCHITECTURE_ENCODER)
        return false;
    unit_number unit = model_tensor(model, ROLE_OUTPUT);
    if (unit == NO_UNIT)
        unit = model_tensor(model, ROLE_TOKEN_EMBEDDING);
    return can_use(gpu, model, unit, ROLE_FFN_UP) && can_adapt(gpu, geometry->adapters, -1, ROLE_OUTPUT) &&
           can_use(gpu, model, model_tensor(model, ROLE_OUTPUT_NORM), ROLE_OUTPUT_NORM) &&
           can_use(gpu, model, model_tensor(model, ROLE_OUTPUT_NORM_BIAS), ROLE_OUTPUT_NORM_BIAS) &&
           can_use(gpu, model, model_tensor(model, ROLE_OUTPUT_BIAS), ROLE_OUTPUT_BIAS);
}

static bool can_embed(const struct gpu *gpu, const struct model *model)
{
    unit_number unit = model_tensor(model, ROLE_TOKEN_EMBEDDING);
    const struct gguf_tensor *tensor = unit == NO_UNIT ? NULL : model_unit(model, unit)->slices[0].tensor;
    uint64_t row_bytes = 0;
    return tensor && tensor->bytes <= gpu_get_info(gpu)->max_allocation &&
           tensor_row_bytes(tensor->type, tensor->dimensions[0], &row_bytes) &&
           gpu_embed_supports(tensor->type, row_bytes);
}

static uint64_t kv_bytes(const void *context, uint32_t layer, uint32_t positions, uint32_t sequences,
                         enum tensor_type kv_type)
{
    return kv_layer_bytes(context, layer, positions, sequences, kv_type);
}

static uint64_t wanted_scratch(const void *context, uint32_t chunk, uint32_t positions)
{
    return gpu_pass_scratch_bytes(context, chunk, positions);
}

void gpu_pass_request(struct plan_gpu_request *out, uint8_t *abilities, const struct geometry *geometry,
                      struct gpu *gpu, enum tensor_type kv_type)
{
    for (uint32_t i = 0; i < model_parameters(geometry->model)->layers; i++)
        abilities[i] = (uint8_t)ability_of(geometry, gpu, i, kv_type);
    out->max_allocation = gpu_get_info(gpu)->max_allocation;
    out->layers = abilities;
    out->output = can_output(gpu, geometry);
    out->embedding = can_embed(gpu, geometry->model);
    out->kv_type = kv_type;
    out->kv_bytes = kv_bytes;
    out->scratch_bytes = wanted_scratch;
    out->context = geometry;
}
