/* Describes a model file, and where its weights would live on this machine. */
#include "tools/inspect.h"

#include "api/figures.h"
#include "api/opening.h"
#include "core/json_text.h"
#include "tools/optimize.h"
#include "tools/synth.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_ELEMENTS 6 /* how many elements of an array in the metadata are shown */

static const char *const tier_names[] = {"gpu", "ram", "storage"};

/* Returns a unit's tier, but shows experts as in memory if the cache holds all of them. */
static enum tier shown_tier(const struct model *model, const struct plan *plan, unit_number unit)
{
    enum tier tier = (enum tier)plan->tiers[unit];
    bool cached = plan->expert_cache_bytes && plan_holds_experts(plan);
    return tier == TIER_STORAGE && cached && model_unit(model, unit)->kind == UNIT_EXPERT ? TIER_RAM : tier;
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static void add_sizes(json_t *json, const struct model *model)
{
    uint64_t bytes[ROLE_COUNT] = {0};
    json_int_t pieces[ROLE_COUNT] = {0};
    json_t *sizes = json_object(), *counts = json_object();
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        for (uint32_t s = 0; s < unit->slice_count; s++) {
            bytes[unit->slices[s].role] += unit->slices[s].bytes;
            pieces[unit->slices[s].role]++;
        }
    }
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (!pieces[role])
            continue;
        json_object_set_new(sizes, tensor_role_name((enum tensor_role)role), json_integer((json_int_t)bytes[role]));
        json_object_set_new(counts, tensor_role_name((enum tensor_role)role), json_integer(pieces[role]));
    }
    json_object_set_new(json, "sizes", sizes);
    json_object_set_new(json, "pieces", counts);
}

static json_t *element_json(const struct gguf_value *value, uint64_t index)
{
    int64_t whole;
    double number;
    if (gguf_element_int64(value, index, &whole))
        return json_integer(whole);
    return gguf_element_double(value, index, &number) ? json_real(number) : NULL;
}

static json_t *value_json(const struct gguf_value *value)
{
    const struct gguf_string *string = value->data;
    int64_t whole;
    double number;
    if (value->type == GGUF_STRING) {
        json_t *json = json_stringn(string->data, string->size);
        return json ? json : text_json(string->data);
    }
    if (value->type == GGUF_BOOL)
        return json_boolean(gguf_element_int64(value, 0, &whole) && whole);
    if (value->type == GGUF_FLOAT32 || value->type == GGUF_FLOAT64)
        return gguf_element_double(value, 0, &number) ? json_real(number) : NULL;
    if (value->type != GGUF_ARRAY)
        return element_json(value, 0);
    json_t *first = json_array();
    for (uint64_t i = 0; i < MIN(value->count, (uint64_t)FIRST_ELEMENTS); i++) {
        json_t *element = element_json(value, i);
        if (element)
            json_array_append_new(first, element);
    }
    return json_pack("{s:I, s:o}", "count", (json_int_t)value->count, "first", first);
}

static json_t *metadata_json(const struct gguf *file)
{
    json_t *object = json_object();
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        json_t *json = value_json(value);
        json_object_set_new(object, value->key.data, json ? json : json_null());
    }
    return object;
}

static json_t *tensors_json(const struct model *model, const struct plan *plan)
{
    json_t *array = json_array();
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        const uint64_t read = plan_bytes_on_storage(plan, u, unit->bytes);
        for (uint32_t s = 0; s < unit->slice_count; s++) {
            const struct gguf_tensor *tensor = unit->slices[s].tensor;
            json_t *shape = json_array();
            for (uint32_t d = 0; d < tensor->dimension_count; d++)
                json_array_append_new(shape, json_integer((json_int_t)tensor->dimensions[d]));
            json_t *row = json_pack("{s:o, s:s, s:o, s:i, s:i, s:I, s:I, s:s}", "name", text_json(tensor->name.data),
                                    "type", tensor_type_info(tensor->type)->name, "shape", shape, "layer", unit->layer,
                                    "expert", unit->expert, "offset", (json_int_t)unit->slices[s].offset, "bytes",
                                    (json_int_t)unit->slices[s].bytes, "tier", tier_names[shown_tier(model, plan, u)]);
            if (unit->role == ROLE_TABLE)
                json_object_set_new(row, "read_by_rows", json_true());
            if (unit->kind != UNIT_EXPERT && read > 0 && read < unit->bytes)
                json_object_set_new(row, "bytes_on_storage", json_integer((json_int_t)read));
            json_array_append_new(array, row);
        }
    }
    return array;
}

/* ---- the plan --------------------------------------------------------------------------------------------------- */

static void sum_tiers(const struct model *model, const struct plan *plan, uint64_t tiers[3])
{
    tiers[0] = tiers[1] = tiers[2] = 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        uint64_t bytes = model_unit(model, u)->bytes, read = 0;
        if (shown_tier(model, plan, u) == TIER_STORAGE)
            read = plan_bytes_on_storage(plan, u, bytes);
        tiers[TIER_STORAGE] += read;
        tiers[plan->tiers[u] == TIER_GPU ? TIER_GPU : TIER_RAM] += bytes - read;
    }
}

struct row {
    uint64_t gpu, ram, cached, storage;
};

/* Makes a row for each layer, and one for units outside the layers. Streamed experts take turns in the cache, so each
 * counts with its share of the cache. */
static json_t *places_json(const struct model *model, const struct plan *plan)
{
    const uint32_t layers = model_parameters(model)->layers;
    struct row *rows;
    uint64_t streamed = 0;
    if (ALLOCATE(&rows, (size_t)layers + 1, "places of weights", NULL))
        return NULL;
    for (unit_number u = 0; u < model_unit_count(model); u++)
        if (model_unit(model, u)->kind == UNIT_EXPERT && shown_tier(model, plan, u) == TIER_STORAGE)
            streamed += model_unit(model, u)->bytes;
    const double held = streamed ? MIN((double)plan->expert_cache_bytes / (double)streamed, 1.0) : 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        struct row *row = &rows[unit->layer < 0 ? layers : MIN((uint32_t)unit->layer, layers)];
        const enum tier tier = shown_tier(model, plan, u);
        const uint64_t read = tier == TIER_STORAGE ? plan_bytes_on_storage(plan, u, unit->bytes) : 0;
        const uint64_t cached = unit->kind == UNIT_EXPERT ? (uint64_t)((double)read * held) : 0;
        *(tier == TIER_GPU ? &row->gpu : &row->ram) += unit->bytes - read;
        row->cached += cached;
        row->storage += read - cached;
    }
    json_t *array = json_array();
    for (uint32_t i = 0; i <= layers; i++)
        json_array_append_new(array,
                              json_pack("{s:I, s:I, s:I, s:I}", "gpu_bytes", (json_int_t)rows[i].gpu, "ram_bytes",
                                        (json_int_t)rows[i].ram, "cached_bytes", (json_int_t)rows[i].cached,
                                        "storage_bytes", (json_int_t)rows[i].storage));
    memory_free(rows);
    return array;
}

/* The layers of a device, such as "0-4, 10-14". */
static json_t *ranges_json(const struct plan_gpu *gpu, const struct plan_gpu *part)
{
    char text[24 * PLAN_MOST_GROUPS] = "";
    size_t used = 0;
    for (uint32_t first = 0, end; first < gpu->layer_count && used < sizeof text; first = end) {
        end = part->layers[first] ? plan_gpu_run_end(gpu, first) : first + 1;
        if (!part->layers[first])
            continue;
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%u", used ? ", " : "", first);
        if (end > first + 1 && used < sizeof text)
            used += (size_t)snprintf(text + used, sizeof text - used, "-%u", end - 1);
    }
    return json_string(text);
}

static json_t *gpu_json(const struct plan_gpu *gpu)
{
    if (!gpu)
        return json_null();
    json_int_t experts = 0;
    for (uint32_t i = 0; i < gpu->layer_count; i++)
        experts += gpu->slots[i];
    json_t *parts = json_array();
    for (uint32_t d = 0; d < gpu->part_count; d++) {
        const struct plan_gpu *part = &gpu->parts[d];
        json_array_append_new(parts,
                              json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:b, s:I}", "budget_bytes",
                                        (json_int_t)part->budget, "resident_bytes", (json_int_t)part->resident_bytes,
                                        "expert_bytes", (json_int_t)part->expert_bytes, "kv_bytes",
                                        (json_int_t)part->kv_bytes, "scratch_bytes", (json_int_t)part->scratch_bytes,
                                        "lent_bytes", (json_int_t)part->lent_bytes, "layers", (json_int_t)part->taken,
                                        "layer_ranges", ranges_json(gpu, part), "output", part->output, "held_bytes",
                                        (json_int_t)plan_gpu_bytes(part)));
    }
    return json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "devices", parts, "reason", gpu->reason,
                     "budget_bytes", (json_int_t)gpu->budget, "resident_bytes", (json_int_t)gpu->resident_bytes,
                     "expert_bytes", (json_int_t)gpu->expert_bytes, "kv_bytes", (json_int_t)gpu->kv_bytes,
                     "scratch_bytes", (json_int_t)gpu->scratch_bytes, "lent_bytes", (json_int_t)gpu->lent_bytes,
                     "layers", (json_int_t)gpu->taken, "experts", experts, "output", gpu->output);
}

/* Describes the memory of a sequence: per position, and fixed. */
static json_t *kept_json(const struct model *model, const struct plan *plan)
{
    struct engine_kept kept;
    if (engine_kept_of(&kept, model, plan->positions, plan->kv_type, NULL))
        return json_null();
    return json_pack("{s:f, s:f, s:f, s:I, s:I}", "keys_per_position", kept.keys, "compressed_per_position",
                     kept.compressed, "index_per_position", kept.index, "windows", (json_int_t)kept.windows, "states",
                     (json_int_t)kept.states);
}

static json_t *plan_json(const struct model *model, const struct plan *plan, const struct hardware *hardware,
                         double with_more)
{
    uint64_t tiers[3];
    sum_tiers(model, plan, tiers);
    json_t *json = json_pack(
        "{s:s, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:i, s:i, s:s, "
        "s:f, s:f, s:f, s:f, s:o, s:o}",
        "mode", plan_mode_name(plan->mode), "reason", plan->reason, "bound", plan_bound_name(plan->bound),
        "budget_bytes", (json_int_t)plan->budget, "smallest_budget_bytes", (json_int_t)plan->smallest_budget,
        "resident_bytes", (json_int_t)plan->resident_bytes, "ring_bytes", (json_int_t)plan->ring_bytes,
        "expert_cache_bytes", (json_int_t)plan->expert_cache_bytes, "kv_bytes", (json_int_t)plan->kv_bytes,
        "scratch_bytes", (json_int_t)plan->scratch_bytes, "overhead_bytes", (json_int_t)plan->overhead_bytes,
        "table_bytes", (json_int_t)plan->table_bytes, "row_cache_bytes", (json_int_t)plan->row_cache_bytes,
        "reserve_bytes", (json_int_t)plan->reserve_bytes, "bytes_gpu", (json_int_t)tiers[TIER_GPU], "bytes_ram",
        (json_int_t)tiers[TIER_RAM], "bytes_storage", (json_int_t)tiers[TIER_STORAGE], "context", (int)plan->positions,
        "chunk", (int)plan->chunk, "kv_type", tensor_type_info(plan->kv_type)->name, "decode_tokens_per_second",
        plan->predicted_tokens_per_second, "decode_tokens_per_second_even", plan->even_tokens_per_second,
        "bytes_read_per_token", plan->predicted_bytes_per_token, "decode_tokens_per_second_with_one_more_gib",
        with_more, "gpu", gpu_json(plan->gpu), "kv_cache_bytes", kept_json(model, plan));
    json_object_set_new(json, "measured", json_boolean(hardware->measured));
    json_object_set_new(json, "direct_io", json_boolean(hardware->storage.direct_supported));
    json_object_set_new(json, "drive_bytes_per_second", json_real(hardware->storage.bytes_per_second));
    json_object_set_new(json, "places", places_json(model, plan));
    return json;
}

/* Describes the share of each drive, if there are several. */
static void add_drives(json_t *json, const struct drives *drives)
{
    double shares[HARDWARE_MAX_DRIVES];
    if (!drives)
        return;
    json_t *array = json_array();
    drives_shares(shares, drives);
    for (uint32_t i = 0; i < drives->count; i++) {
        const struct storage *storage = &drives->storages[i];
        json_array_append_new(array, json_pack("{s:o, s:f, s:f, s:b}", "device",
                                               text_json(storage->device[0] ? storage->device : storage->file_system),
                                               "share", shares[i], "bytes_per_second", storage->bytes_per_second,
                                               "measured", drives->measured[i]));
    }
    json_object_set_new(json, "drives", array);
    json_object_set_new(json, "drives_at_once", json_boolean(drives->copy_count > 1));
}

/* ---- the whole description -------------------------------------------------------------------------------------- */

struct looked_at {
    const struct model *model;
    const struct hardware *hardware;
    const struct plan *plan;
    double with_more;
    const char *why; /* why the prediction block is not used, or NULL */
};

static json_t *all_json(const struct looked_at *at)
{
    const struct model_parameters *p = model_parameters(at->model);
    const struct gguf *file = model_file(at->model);
    json_t *json = json_pack(
        "{s:o, s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "model", text_json(model_name(at->model)),
        "architecture", model_architecture(at->model)->name, "title", model_architecture(at->model)->title, "bytes",
        (json_int_t)model_bytes(at->model), "files", (int)gguf_file_count(file), "layers", (int)p->layers, "embedding",
        (int)p->embedding, "experts", (int)p->experts, "experts_used", (int)p->experts_used, "vocabulary",
        (int)p->vocabulary, "trained_context", (int)p->context, "gguf_version", (int)gguf_version(file));
    struct optimize_gain gain;
    add_sizes(json, at->model);
    json_object_set_new(json, "plan", plan_json(at->model, at->plan, at->hardware, at->with_more));
    json_object_set_new(json, "metadata", metadata_json(file));
    if (p->prediction_blocks)
        json_object_set_new(json, "prediction",
                            json_pack("{s:i, s:b, s:s}", "blocks", (int)p->prediction_blocks, "used",
                                      p->predicting != 0, "why_not", at->why));
    if (model_expert_file(at->model))
        json_object_set_new(json, "expert_file", text_json(model_expert_file(at->model)));
    else if (optimize_gain_of_plan(&gain, at->model, at->hardware, at->plan))
        json_object_set_new(json, "optimize",
                            json_pack("{s:f, s:b}", "faster", gain.faster, "worth_it", gain.faster >= OPTIMIZE_WORTH));
    add_drives(json, at->hardware->drives);
    return json;
}

static hypura_status describe(char **text, const struct looked_at *at, const hypura_inspection *what,
                              hypura_error *error)
{
    const uint64_t failures = memory_failures();
    json_t *json = all_json(at), *steps = NULL;
    if (what->tensors)
        json_object_set_new(json, "tensors", tensors_json(at->model, at->plan));
    if (what->layers || what->one_layer) {
        hypura_status status = inspect_layers(&steps, at->model, at->plan, what, error);
        if (status) {
            json_decref(json);
            return status;
        }
        json_object_set_new(json, "steps", steps);
    }
    return inspect_text(text, json, failures, error);
}

hypura_status inspect_text(char **text, json_t *json, uint64_t failures, hypura_error *error)
{
    struct buffer buffer = {0};
    char *dumped = json ? json_text_write(json, JSON_INDENT(2)) : NULL;
    json_decref(json);
    if (dumped)
        buffer_append_string(&buffer, dumped);
    free(dumped);
    if (memory_check(failures, "description of a model", error) || !buffer.data) {
        buffer_free(&buffer);
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the description of the model");
    }
    *text = buffer.data;
    return HYPURA_OK;
}

/* A preset has only a header here. Its drive is that of the current folder. */
hypura_status inspect_find(struct inspected *out, const char *path, const hypura_inspection *what, hypura_error *error)
{
    struct synth_options options;
    *out = (struct inspected){.path = path, .drive = path, .descriptor = -1};
    if (!what->preset)
        return path ? HYPURA_OK : error_set(error, HYPURA_ERROR_ARGUMENT, "no file and no preset to inspect: name one");
    const struct synth_preset *preset = synth_preset(what->preset);
    if (path)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "name either a preset or a file, not both");
    if (!preset)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "there is no preset \"%.40s\"; \"hypura synth --list\" lists them", what->preset);
    synth_default_options(&options, preset);
    if (what->preset_type)
        options.type = what->preset_type;
    out->path = out->header;
    out->drive = ".";
    return synth_header(&out->descriptor, out->header, sizeof out->header, &options, error);
}

void inspect_close(struct inspected *inspected)
{
    model_close(inspected->model);
    if (inspected->descriptor >= 0)
        close(inspected->descriptor);
}

static hypura_status look(char **json, struct inspected *inspected, struct opening *opening,
                          const hypura_inspection *what, hypura_error *error)
{
    struct engine_options *options = &opening->engine;
    struct hardware hardware = {0};
    struct plan *plan = NULL;
    char why[ENGINE_WHY] = "";
    double with_more = 0;
    hypura_status status = hardware_detect(&hardware, inspected->drive, error);
    if (!status)
        status = engine_open_file(&inspected->model, inspected->path, &hardware, options, why, error);
    if (!status)
        status = plan_opening(&plan, inspected->model, &hardware, opening, error);
    if (!status) {
        plan_warn_of_too_much(plan, &hardware);
        status = engine_speed_with(&with_more, inspected->model, &hardware, options, (int64_t)1 << 30, error);
    }
    const struct looked_at at = {inspected->model, &hardware, plan, with_more, why};
    if (!status)
        status = describe(json, &at, what, error);
    plan_free(plan);
    hardware_drop_drives(&hardware);
    return status;
}

hypura_status hypura_inspect(const char *path, const hypura_options *options, const hypura_inspection *given,
                             char **json, hypura_error *error)
{
    struct opening opening;
    struct inspected inspected = {.descriptor = -1};
    hypura_inspection what;
    hypura_status status = take_struct(&what, sizeof what, given, "hypura_inspection", error);
    if (status)
        return status;
    status = read_options(&opening, options, error);
    if (!status)
        status = inspect_find(&inspected, path, &what, error);
    if (!status)
        status = look(json, &inspected, &opening, &what, error);
    inspect_close(&inspected);
    close_options(&opening);
    return status;
}
