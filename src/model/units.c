#include "model/model_private.h"

/* Far above every published model (a hundred thousand). It bounds a small hostile file that uses the same bytes for
 * many experts. */
#define MAX_UNITS ((size_t)1 << 20)

static void add_slice(struct unit *unit, enum tensor_role role, const struct gguf_tensor *tensor, uint64_t start,
                      uint64_t bytes)
{
    struct unit_slice *slice = &unit->slices[unit->slice_count++];
    *slice = (struct unit_slice){
        .role = role, .tensor = tensor, .file = tensor->file, .offset = tensor->offset + start, .bytes = bytes};
    unit->bytes += bytes;
}

bool model_is_expert_role(enum tensor_role role)
{
    return role == ROLE_EXPERT_GATE || role == ROLE_EXPERT_UP || role == ROLE_EXPERT_GATE_UP ||
           role == ROLE_EXPERT_DOWN;
}

/* A layer that shares another layer's keys and values may still have matrices for them, which are never read. */
static bool is_idle(const struct model *model, uint32_t layer, enum tensor_role role)
{
    static const enum tensor_role keys[] = {ROLE_ATTENTION_K, ROLE_ATTENTION_K_BIAS, ROLE_ATTENTION_V,
                                            ROLE_ATTENTION_V_BIAS, ROLE_ATTENTION_K_NORM};
    if (model->layers[layer].kv_source == layer)
        return false;
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        if (role == keys[i])
            return true;
    return false;
}

static unit_number add_tensor(struct model *model, const struct gguf_tensor *tensor, enum tensor_role role,
                              int32_t layer)
{
    struct unit *unit = &model->units[model->unit_count];
    *unit = (struct unit){.kind = UNIT_TENSOR, .layer = layer, .expert = -1, .role = role};
    add_slice(unit, role, tensor, 0, tensor->bytes);
    model->bytes += unit->bytes;
    return model->unit_count++;
}

static void add_experts(struct model *model, uint32_t number)
{
    static const enum tensor_role order[] = {ROLE_EXPERT_GATE_UP, ROLE_EXPERT_GATE, ROLE_EXPERT_UP, ROLE_EXPERT_DOWN};
    uint32_t experts = model->parameters.experts;
    model->layers[number].first_expert = model->unit_count;
    for (uint32_t e = 0; e < experts; e++) {
        struct unit *unit = &model->units[model->unit_count++];
        *unit = (struct unit){
            .kind = UNIT_EXPERT, .layer = (int32_t)number, .expert = (int32_t)e, .role = ROLE_EXPERT_DOWN};
        for (size_t i = 0; i < COUNT_OF(order); i++) {
            const struct gguf_tensor *tensor = model->layer_tensors[number][order[i]];
            if (tensor) /* the shape was checked: all experts' matrices have the same size */
                add_slice(unit, order[i], tensor, tensor->bytes / experts * e, tensor->bytes / experts);
        }
        model->bytes += unit->bytes;
    }
}

static void add_layer(struct model *model, uint32_t number)
{
    struct model_layer *layer = &model->layers[number];
    layer->first_expert = NO_UNIT;
    for (int role = 0; role < ROLE_COUNT; role++) {
        const struct gguf_tensor *tensor = model->layer_tensors[number][role];
        const struct gguf_tensor *scale = model->layer_scales[number][role];
        const bool idle = is_idle(model, number, role);
        layer->tensors[role] =
            tensor && !model_is_expert_role(role) && !idle ? add_tensor(model, tensor, role, (int32_t)number) : NO_UNIT;
        layer->scales[role] = scale && !idle ? add_tensor(model, scale, ROLE_SCALE, (int32_t)number) : NO_UNIT;
    }
}

static void add_of_model(struct model *model, enum tensor_role role)
{
    if (model->tensors[role])
        model->tensor_units[role] = add_tensor(model, model->tensors[role], role, -1);
    if (model->scales[role])
        model->scale_units[role] = add_tensor(model, model->scales[role], ROLE_SCALE, -1);
}

/* Units are numbered in order of use: before the layers, each layer, after the layers, a prediction block, then
 * experts.
 */
hypura_status model_make_units(struct model *model, hypura_error *error)
{
    uint32_t trunk = model->parameters.layers, layers = all_layers(model);
    size_t count = 0;
    for (int role = 0; role < ROLE_COUNT; role++)
        count += (model->tensors[role] != NULL) + (model->scales[role] != NULL);
    for (uint32_t i = 0; i < layers; i++) {
        for (int role = 0; role < ROLE_COUNT; role++)
            count +=
                (model->layer_tensors[i][role] && !model_is_expert_role(role)) + (model->layer_scales[i][role] != NULL);
        count += model->layers[i].moe ? model->parameters.experts : 0;
    }
    if (count > MAX_UNITS)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s: %zu tensors and experts; hypura supports at most %zu",
                         gguf_file_path(model->file, 0), count, MAX_UNITS);
    hypura_status status = ALLOCATE(&model->units, count, "table of units", error);
    if (status)
        return status;

    for (int role = 0; role < ROLE_COUNT; role++)
        model->tensor_units[role] = model->scale_units[role] = NO_UNIT;
    for (int role = 0; role < ROLE_SIDES_BACK; role++)
        add_of_model(model, role);
    for (uint32_t i = 0; i < trunk; i++)
        add_layer(model, i);
    for (int role = ROLE_SIDES_BACK; role < ROLE_COUNT; role++)
        add_of_model(model, role);
    for (uint32_t i = trunk; i < layers; i++)
        add_layer(model, i);
    for (uint32_t i = 0; i < layers; i++)
        if (model->layers[i].moe)
            add_experts(model, i);
    return HYPURA_OK;
}
