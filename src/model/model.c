#include "model/model_private.h"

#include <string.h>

/* "llama, mistral3, ...", for the error about an unsupported architecture. */
static void list_architectures(struct buffer *list)
{
    for (size_t i = 0; i < architecture_count(); i++)
        buffer_append_format(list, "%s%s", i ? ", " : "", architecture_at(i)->name);
}

static hypura_status choose_architecture(struct model *model, hypura_error *error)
{
    const char *path = gguf_file_path(model->file, 0);
    struct gguf_string name;
    if (!gguf_get_string(model->file, "general.architecture", &name))
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata 'general.architecture' is missing", path);
    model->architecture = architecture_find(&name);
    if (model->architecture)
        return HYPURA_OK;
    struct buffer list = {0};
    list_architectures(&list);
    hypura_status status =
        error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s: architecture '%s' is not supported; these are: %s", path,
                  name.data, list.data ? list.data : "");
    buffer_free(&list);
    return status;
}

static hypura_status name_model(struct model *model, hypura_error *error)
{
    struct gguf_string name;
    const char *path = gguf_file_path(model->file, 0);
    const char *slash = strrchr(path, '/');
    bool named = gguf_get_string(model->file, "general.name", &name) && name.size;
    hypura_status status = string_copy(&model->name, named ? name.data : slash ? slash + 1 : path, error);
    if (status)
        return status;
    char *ending = named ? NULL : strrchr(model->name, '.');
    if (ending && ending != model->name)
        *ending = '\0';
    text_clean(model->name);
    return HYPURA_OK;
}

static hypura_status understand(struct model *model, bool predicting, hypura_error *error)
{
    hypura_status status;
    if ((status = choose_architecture(model, error)) || (status = name_model(model, error)) ||
        (status = model_read_layer_count(model->file, model->architecture, &model->parameters, error)))
        return status;
    model->parameters.predicting = predicting && model->parameters.prediction_blocks;
    if ((status = ALLOCATE(&model->layers, all_layers(model), "layer table", error)) ||
        (status = ALLOCATE(&model->layer_tensors, all_layers(model), "tensor table", error)) ||
        (status = ALLOCATE(&model->layer_scales, all_layers(model), "tensor table", error)) ||
        (status = model_find_tensors(model, error)) || (status = model_read_parameters(model, error)) ||
        (status = model_check_tensors(model, error)))
        return status;
    return model_make_units(model, error);
}

static hypura_status open_model(struct model **out, const char *path, bool predicting, bool partial,
                                hypura_error *error)
{
    struct model *model;
    hypura_status status = ALLOCATE(&model, 1, "model", error);
    if (status)
        return status;
    status = partial ? gguf_open_partial(&model->file, path, error) : gguf_open(&model->file, path, error);
    if (!status)
        status = model_find_behind_experts(model, error);
    if (!status)
        status = understand(model, predicting, error);
    memory_free(model->layer_tensors);
    memory_free(model->layer_scales);
    model->layer_tensors = model->layer_scales = NULL;
    if (status) {
        model_close(model);
        return status;
    }
    *out = model;
    return HYPURA_OK;
}

hypura_status model_open(struct model **out, const char *path, hypura_error *error)
{
    return open_model(out, path, false, false, error);
}

static hypura_status open_predicting(struct model **out, const char *path, bool partial, hypura_error *error)
{
    hypura_error problem = {0};
    hypura_status status = open_model(out, path, true, partial, &problem);
    if (!status)
        return HYPURA_OK;
    status = open_model(out, path, false, partial, error);
    if (!status)
        (*out)->prediction_error = problem;
    return status;
}

hypura_status model_open_predicting(struct model **out, const char *path, hypura_error *error)
{
    return open_predicting(out, path, false, error);
}

hypura_status model_open_partial(struct model **out, const char *path, bool predicting, hypura_error *error)
{
    return predicting ? open_predicting(out, path, true, error) : open_model(out, path, false, true, error);
}

const char *model_prediction_problem(const struct model *model)
{
    return model->prediction_error.status ? model->prediction_error.message : NULL;
}

void model_close(struct model *model)
{
    if (!model)
        return;
    memory_free(model->units);
    memory_free(model->layers);
    memory_free(model->name);
    memory_free(model->expert_path);
    if (model->file)
        gguf_close(model->file);
    memory_free(model);
}

const struct gguf *model_file(const struct model *model)
{
    return model->file;
}

const char *model_name(const struct model *model)
{
    return model->name;
}

const struct architecture *model_architecture(const struct model *model)
{
    return model->architecture;
}

const struct model_parameters *model_parameters(const struct model *model)
{
    return &model->parameters;
}

const struct model_layer *model_layer(const struct model *model, uint32_t layer)
{
    return layer < all_layers(model) ? &model->layers[layer] : NULL;
}

unit_number model_scale(const struct model *model, enum tensor_role role)
{
    return model->scale_units[role];
}

unit_number model_tensor(const struct model *model, enum tensor_role role)
{
    return (unsigned)role < ROLE_COUNT ? model->tensor_units[role] : NO_UNIT;
}

uint32_t model_unit_count(const struct model *model)
{
    return model->unit_count;
}

const struct unit *model_unit(const struct model *model, unit_number unit)
{
    return unit < model->unit_count ? &model->units[unit] : NULL;
}

uint64_t model_bytes(const struct model *model)
{
    return model->bytes;
}

bool model_tied_output(const struct model *model)
{
    return model->tensor_units[ROLE_OUTPUT] == NO_UNIT && !(model->architecture->flags & ARCHITECTURE_ENCODER);
}
