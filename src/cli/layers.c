/* What a model does, for "hypura inspect --layers": its steps with their tensors, and where they run. */
#include "cli/engine_cli.h"
#include "steps/steps.h"

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

static const char *tier_of(const struct plan *plan, unit_number unit)
{
    static const char *const names[] = {"gpu", "ram", "storage"};
    return names[plan->tiers[unit]];
}

/* "attn_q.weight" of "blk.7.attn_q.weight", so that equal layers read the same. */
static const char *short_name(const struct gguf_tensor *tensor)
{
    const char *name = tensor->name.data;
    const char *dot = strncmp(name, "blk.", 4) == 0 ? strchr(name + 4, '.') : NULL;
    return dot ? dot + 1 : name;
}

static void shape_of(const struct gguf_tensor *tensor, char *out, size_t room)
{
    size_t used = 0;
    for (uint32_t d = 0; d < tensor->dimension_count && used < room; d++)
        used += (size_t)snprintf(out + used, room - used, "%s%" PRIu64, d ? " x " : "", tensor->dimensions[d]);
}

/* The tensors of a step: those that it reads by itself, or the slices of the experts that it chooses from. */
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

static void describe_list(struct buffer *out, const struct model *model, const struct plan *plan, struct step_list list)
{
    uint64_t bytes = 0;
    char text[32], shape[96], line[512];
    for (size_t i = 0; i < list.count; i++) {
        struct tensor_list tensors;
        step_describe(&list.steps[i], line, sizeof line);
        buffer_append_format(out, "  %-14s %s\n", step_name(list.steps[i].kind), line);
        list_tensors(&tensors, model, &list.steps[i]);
        for (size_t t = 0; t < tensors.count; t++) {
            const struct gguf_tensor *tensor = tensors.tensors[t];
            shape_of(tensor, shape, sizeof shape);
            buffer_append_format(out, "                   %-28s %-7s %-20s %10s  %s\n", short_name(tensor),
                                 tensor_type_info(tensor->type)->name, shape,
                                 format_bytes(text, sizeof text, (double)tensor->bytes),
                                 tier_of(plan, tensors.units[t]));
            bytes += tensor->bytes;
        }
    }
    buffer_append_format(out, "  %zu steps, %s\n", list.count, format_bytes(text, sizeof text, (double)bytes));
}

/* "0 to 2, 4", of those that are marked with a number. */
static void print_numbers(const uint32_t *groups, uint32_t layers, uint32_t group)
{
    const char *between = "";
    for (uint32_t i = 0; i < layers; i++) {
        uint32_t last = i;
        if (groups[i] != group)
            continue;
        while (last + 1 < layers && groups[last + 1] == group)
            last++;
        printf(last > i ? "%s%u to %u" : "%s%u", between, i, last);
        between = ", ";
        i = last;
    }
}

static void describe_layer(struct buffer *out, const struct model *model, const struct plan *plan,
                           const struct steps *steps, uint32_t layer)
{
    buffer_clear(out);
    buffer_append_format(out, ", on the %s\n", place_of(plan, (int32_t)layer));
    describe_list(out, model, plan, steps_of_layer(steps, layer));
}

/* Layers that read the same are shown once. */
static hypura_status print_groups(const struct model *model, const struct plan *plan, const struct steps *steps,
                                  hypura_error *error)
{
    struct buffer first = {0}, other = {0};
    uint32_t layers = model_parameters(model)->layers, *groups; /* [layers] number of the first of its group, and one */
    hypura_status status = ALLOCATE(&groups, layers, "groups of layers", error);
    if (status)
        return status;
    for (uint32_t i = 0; i < layers; i++) {
        if (groups[i])
            continue;
        uint32_t count = 0;
        describe_layer(&first, model, plan, steps, i);
        for (uint32_t j = i; j < layers; j++) {
            if (groups[j])
                continue;
            describe_layer(&other, model, plan, steps, j);
            bool same = !first.failed && !other.failed && strcmp(first.data, other.data) == 0;
            groups[j] = same ? i + 1 : 0;
            count += same;
        }
        printf(count > 1 ? "\nLayers " : "\nLayer ");
        print_numbers(groups, layers, i + 1);
        printf("%s%s", count > 1 ? ", each" : "", first.failed ? "\n" : first.data);
    }
    buffer_free(&first);
    buffer_free(&other);
    memory_free(groups);
    return HYPURA_OK;
}

static void print_part(const char *title, const struct model *model, const struct plan *plan, struct step_list list)
{
    struct buffer text = {0};
    describe_list(&text, model, plan, list);
    printf("\n%s\n%s", title, text.failed ? "" : text.data);
    buffer_free(&text);
}

static hypura_status make_steps(struct steps **out, const struct model *model, const struct which *which,
                                hypura_error *error)
{
    uint32_t layers = model_parameters(model)->layers + model_parameters(model)->predicting;
    *out = NULL;
    if (which->one && which->number >= layers)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "there is no layer %u; the model has layers 0 to %u",
                         which->number, layers - 1);
    return steps_make(out, model, error);
}

hypura_status print_layers(const struct model *model, const struct plan *plan, const struct which *which,
                           hypura_error *error)
{
    struct steps *steps;
    struct buffer text = {0};
    hypura_status status = make_steps(&steps, model, which, error);
    if (status)
        return status;
    if (which->one) {
        describe_layer(&text, model, plan, steps, which->number);
        printf("\nLayer %u%s", which->number, text.failed ? "\n" : text.data);
    } else {
        print_part("Before the layers", model, plan, steps_before(steps));
        status = print_groups(model, plan, steps, error);
        print_part("After the layers", model, plan, steps_after(steps));
        enum step_buffer left;
        struct step_list predicting = steps_predicting(steps, &left);
        if (predicting.count)
            print_part("The block that predicts further tokens, on the CPU", model, plan, predicting);
    }
    buffer_free(&text);
    steps_free(steps);
    return status;
}

static json_t *list_json(const struct model *model, const struct plan *plan, struct step_list list)
{
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
                                  json_pack("{s:s, s:s, s:s, s:I, s:s}", "name", tensor->name.data, "type",
                                            tensor_type_info(tensor->type)->name, "shape", shape, "bytes",
                                            (json_int_t)tensor->bytes, "tier", tier_of(plan, tensors.units[t])));
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

hypura_status layers_json(json_t **out, const struct model *model, const struct plan *plan, const struct which *which,
                          hypura_error *error)
{
    struct steps *steps;
    hypura_status status = make_steps(&steps, model, which, error);
    if (status)
        return status;
    json_t *layers = json_array();
    for (uint32_t i = 0; i < model_parameters(model)->layers + model_parameters(model)->predicting; i++)
        if (!which->one || which->number == i)
            json_array_append_new(layers, layer_json(model, plan, steps, i));
    *out = layers;
    if (!which->one)
        *out = json_pack("{s:o, s:o, s:o}", "before", list_json(model, plan, steps_before(steps)), "layers", layers,
                         "after", list_json(model, plan, steps_after(steps)));
    steps_free(steps);
    return HYPURA_OK;
}
