/* Describes the steps of a model with their tensors, and where they run. */
#include "api/figures.h"
#include "steps/steps.h"
#include "tools/inspect.h"

#include <inttypes.h>
#include <string.h>

static const char *place_of(const struct plan *plan, int32_t layer)
{
    static const char *const names[HARDWARE_MAX_GPUS] = {"GPU 1", "GPU 2", "GPU 3", "GPU 4",
                                                         "GPU 5", "GPU 6", "GPU 7", "GPU 8"};
    const struct plan_gpu *gpu = plan->gpu;
    bool there = gpu && (layer < 0 ? gpu->output : gpu->layers[layer]);
    if (!there || gpu->part_count < 2)
        return there ? "GPU" : "CPU";
    for (uint32_t d = 0; d < gpu->part_count; d++)
        if (layer < 0 ? gpu->parts[d].output : gpu->parts[d].layers[layer])
            return names[d];
    return "GPU";
}

static void shape_of(const struct gguf_tensor *tensor, char *out, size_t room)
{
    size_t used = 0;
    for (uint32_t d = 0; d < tensor->dimension_count && used < room; d++)
        used += (size_t)snprintf(out + used, room - used, "%s%" PRIu64, d ? " x " : "", tensor->dimensions[d]);
}

/* The tensors of a step: those that it reads directly, and the slices of the experts that it chooses from. */
struct tensor_list {
    const struct gguf_tensor *tensors[STEP_UNITS + UNIT_MAX_SLICES];
    unit_number units[STEP_UNITS + UNIT_MAX_SLICES];
    size_t count;
};

static void list_tensors(struct tensor_list *out, const struct model *model, const struct step *step)
{
    struct step_unit units[STEP_UNITS];
    size_t count = step_units(step, units);
    out->count = 0;
    for (size_t i = 0; i < count; i++) {
        out->tensors[out->count] = model_unit(model, units[i].unit)->slices[0].tensor;
        out->units[out->count++] = units[i].unit;
    }
    if (step->kind != STEP_EXPERTS)
        return;
    const struct unit *expert = model_unit(model, step->experts.first);
    for (uint32_t s = 0; s < expert->slice_count; s++) {
        out->tensors[out->count] = expert->slices[s].tensor;
        out->units[out->count++] = step->experts.first;
    }
}

static json_t *list_json(const struct model *model, const struct plan *plan, struct step_list list)
{
    static const char *const tiers[] = {"gpu", "ram", "storage"};
    json_t *array = json_array();
    char line[512], shape[96];
    for (size_t i = 0; i < list.count; i++) {
        struct tensor_list tensors;
        json_t *of_step = json_array();
        list_tensors(&tensors, model, &list.steps[i]);
        for (size_t t = 0; t < tensors.count; t++) {
            const struct gguf_tensor *tensor = tensors.tensors[t];
            shape_of(tensor, shape, sizeof shape);
            json_array_append_new(of_step,
                                  json_pack("{s:o, s:s, s:s, s:I, s:s}", "name", text_json(tensor->name.data), "type",
                                            tensor_type_info(tensor->type)->name, "shape", shape, "bytes",
                                            (json_int_t)tensor->bytes, "tier", tiers[plan->tiers[tensors.units[t]]]));
        }
        step_describe(&list.steps[i], line, sizeof line);
        json_array_append_new(array, json_pack("{s:s, s:s, s:o}", "step", step_name(list.steps[i].kind), "does", line,
                                               "tensors", of_step));
    }
    return array;
}

static json_t *layer_json(const struct model *model, const struct plan *plan, const struct steps *steps, uint32_t layer)
{
    return json_pack("{s:i, s:s, s:o}", "layer", (int)layer, "place", place_of(plan, (int32_t)layer), "steps",
                     list_json(model, plan, steps_of_layer(steps, layer)));
}

hypura_status inspect_layers(json_t **out, const struct model *model, const struct plan *plan,
                             const hypura_inspection *what, hypura_error *error)
{
    const uint32_t layers = model_parameters(model)->layers + model_parameters(model)->predicting;
    struct steps *steps;
    if (what->one_layer && what->layer >= layers)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "there is no layer %u; the model has layers 0 to %u",
                         what->layer, layers - 1);
    hypura_status status = steps_make(&steps, model, error);
    if (status)
        return status;
    json_t *array = json_array();
    for (uint32_t i = 0; i < layers; i++)
        if (!what->one_layer || what->layer == i)
            json_array_append_new(array, layer_json(model, plan, steps, i));
    *out = array;
    if (!what->one_layer) {
        *out = json_pack("{s:o, s:o, s:o}", "before", list_json(model, plan, steps_before(steps)), "layers", array,
                         "after", list_json(model, plan, steps_after(steps)));
    }
    steps_free(steps);
    return HYPURA_OK;
}
