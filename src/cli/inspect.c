/* hypura inspect: what a file holds, and where its weights would live on this machine. */
#include "cli/inspect.h"
#include "tools/optimize.h"
#include "tools/synth.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static bool list_tensors, as_json;
static const char *preset_name, *preset_type, *hosts_path, *parts_path;
static struct which steps_of;

static const struct option_row inspect_rows[] = {
    {"tensors", NULL, OPTION_FLAG, &list_tensors, "list every tensor with its type, shape, size and place"},
    {"layers", "[N]", OPTION_WHICH, &steps_of,
     "show what the layers do, step by step, and with which tensors; or only layer N"},
    {"preset", "NAME", OPTION_TEXT, &preset_name,
     "a model of the geometry that \"hypura synth --list\" names, without a file"},
    {"type", "TYPE", OPTION_TEXT, &preset_type, "of its weights, instead of the usual one"},
    {"hosts", "FILE", OPTION_TEXT, &hosts_path,
     "plan for the hosts that this JSON file describes, which need not be there"},
    {"parts", "HOST=FILE", OPTION_TEXT, &parts_path,
     "with --hosts: write what that host serves of the model, for its drive"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead"},
    {0},
};

static const char *const tier_names[] = {"gpu", "ram", "storage"};

/* Experts in a cache that holds all of them are in memory, whichever those are. */
static enum tier shown_tier(const struct model *model, const struct plan *plan, unit_number unit)
{
    enum tier tier = (enum tier)plan->tiers[unit];
    bool cached = plan->expert_cache_bytes && plan_holds_experts(plan);
    return tier == TIER_STORAGE && cached && model_unit(model, unit)->kind == UNIT_EXPERT ? TIER_RAM : tier;
}

struct role_bytes {
    uint64_t bytes;
    uint32_t count;
};

static void sum_roles(const struct model *model, struct role_bytes roles[ROLE_COUNT])
{
    memset(roles, 0, sizeof *roles * ROLE_COUNT);
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        for (uint32_t s = 0; s < unit->slice_count; s++) {
            roles[unit->slices[s].role].bytes += unit->slices[s].bytes;
            roles[unit->slices[s].role].count++;
        }
    }
}

static void describe_value(const struct gguf_value *value, struct buffer *out)
{
    int64_t whole;
    double number;
    if (value->type == GGUF_STRING) {
        const struct gguf_string *string = value->data;
        size_t shown = MIN(string->size, (size_t)70);
        while (shown < string->size && shown > 0 && ((unsigned char)string->data[shown] & 0xc0) == 0x80)
            shown--;
        for (size_t i = 0; i < shown; i++)
            buffer_append_char(out, (unsigned char)string->data[i] < 32 ? ' ' : string->data[i]);
        if (shown < string->size)
            buffer_append_format(out, "... (%zu bytes)", string->size);
    } else if (value->type == GGUF_ARRAY) {
        buffer_append_format(out, "[%" PRIu64 "]", value->count);
        for (uint64_t i = 0; i < MIN(value->count, (uint64_t)6); i++) {
            if (gguf_element_int64(value, i, &whole))
                buffer_append_format(out, " %" PRId64, whole);
            else if (gguf_element_double(value, i, &number))
                buffer_append_format(out, " %g", number);
        }
    } else if (gguf_element_int64(value, 0, &whole)) {
        buffer_append_format(out, "%" PRId64, whole);
    } else if (gguf_element_double(value, 0, &number)) {
        buffer_append_format(out, "%g", number);
    }
}

static void print_metadata(const struct gguf *file)
{
    printf("\nMetadata (GGUF version %u, %zu values)\n", gguf_version(file), gguf_value_count(file));
    struct buffer text = {0};
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        buffer_clear(&text);
        buffer_append_format(&text, "  %-44s ", value->key.data);
        describe_value(value, &text);
        if (!text.failed)
            text_clean(text.data);
        puts(text.failed ? "  ?" : text.data);
    }
    buffer_free(&text);
}

static void print_sizes(const struct model *model)
{
    struct role_bytes roles[ROLE_COUNT];
    sum_roles(model, roles);
    char text[32];
    printf("\nSize by role\n");
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (roles[role].count)
            printf("  %-28s %10s  %5.1f %%  %u %s\n", tensor_role_name((enum tensor_role)role),
                   format_bytes(text, sizeof text, (double)roles[role].bytes),
                   100.0 * (double)roles[role].bytes / (double)model_bytes(model), roles[role].count,
                   roles[role].count == 1 ? "piece" : "pieces");
    }
    printf("  %-28s %10s\n", "all", format_bytes(text, sizeof text, (double)model_bytes(model)));
}

static void print_tensors(const struct model *model, const struct plan *plan)
{
    printf("\nUnits\n");
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        if (unit->kind == UNIT_EXPERT) {
            char text[32];
            printf("  layer %d expert %-3d %39s %10s  %s\n", unit->layer, unit->expert, "",
                   format_bytes(text, sizeof text, (double)unit->bytes), tier_names[shown_tier(model, plan, u)]);
            continue;
        }
        const struct gguf_tensor *tensor = unit->slices[0].tensor;
        char shape[96], text[32];
        size_t used = 0;
        for (uint32_t d = 0; d < tensor->dimension_count; d++)
            used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%" PRIu64, d ? " x " : "",
                                     tensor->dimensions[d]);
        uint64_t read = plan_bytes_on_storage(plan, u, unit->bytes);
        printf("  %-36.*s %-8s %-20s %10s  %s", (int)tensor->name.size, tensor->name.data,
               tensor_type_info(tensor->type)->name, shape, format_bytes(text, sizeof text, (double)unit->bytes),
               tier_names[plan->tiers[u]]);
        if (unit->role == ROLE_TABLE)
            printf(", read by rows");
        if (read > 0 && read < unit->bytes)
            printf(", %.0f %% in ram", 100 - 100 * (double)read / (double)unit->bytes);
        putchar('\n');
    }
}

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

/* Streamed experts take turns in the cache: each has its share of it here. */
static void draw_plan(const struct model *model, const struct plan *plan)
{
    uint32_t layers = model_parameters(model)->layers;
    struct layer_places *rows;
    uint64_t streamed = 0;
    if (ALLOCATE(&rows, (size_t)layers + 1, "tier map", NULL))
        return;
    for (unit_number u = 0; u < model_unit_count(model); u++)
        if (model_unit(model, u)->kind == UNIT_EXPERT && shown_tier(model, plan, u) == TIER_STORAGE)
            streamed += model_unit(model, u)->bytes;
    double held = streamed ? MIN((double)plan->expert_cache_bytes / (double)streamed, 1.0) : 0;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        uint64_t *bytes = rows[unit->layer < 0 ? layers : (uint32_t)unit->layer].bytes;
        enum tier tier = shown_tier(model, plan, u);
        uint64_t read = tier == TIER_STORAGE ? plan_bytes_on_storage(plan, u, unit->bytes) : 0;
        uint64_t cached = unit->kind == UNIT_EXPERT ? (uint64_t)((double)read * held) : 0;
        bytes[tier == TIER_GPU ? MAP_GPU : MAP_MEMORY] += unit->bytes - read;
        bytes[MAP_CACHED] += cached;
        bytes[MAP_STORAGE] += read - cached;
    }
    printf("\nWhere the weights would be:");
    draw_places_of_layers(stdout, rows, layers);
    memory_free(rows);
}

static void print_gpu(const struct plan *plan, uint64_t weights)
{
    const struct plan_gpu *gpu = plan->gpu;
    char a[32], b[32];
    if (!gpu)
        return;
    printf("  %-28s %s\n", gpu->part_count > 1 ? "on GPUs" : "on the GPU", gpu->reason);
    for (uint32_t d = 0; gpu->part_count > 1 && d < gpu->part_count; d++) {
        const struct plan_gpu *part = &gpu->parts[d];
        char name[32], c[32];
        snprintf(name, sizeof name, "  GPU %u of these", d + 1);
        printf("  %-28s %10s   of %s: %u layers, %s of weights\n", name,
               format_bytes(a, sizeof a, (double)plan_gpu_bytes(part)), format_bytes(b, sizeof b, (double)part->budget),
               part->taken, format_bytes(c, sizeof c, (double)(part->resident_bytes + part->expert_bytes)));
    }
    printf("  %-28s %10s\n", "its memory budget", format_bytes(a, sizeof a, (double)gpu->budget));
    printf("    %-26s %10s   of which %s are experts\n", "weights", format_bytes(a, sizeof a, (double)weights),
           format_bytes(b, sizeof b, (double)gpu->expert_bytes));
    printf("    %-26s %10s\n", "KV cache", format_bytes(a, sizeof a, (double)gpu->kv_bytes));
    printf("    %-26s %10s\n", "scratch", format_bytes(a, sizeof a, (double)gpu->scratch_bytes));
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
                              json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "budget_bytes", (json_int_t)part->budget,
                                        "resident_bytes", (json_int_t)part->resident_bytes, "expert_bytes",
                                        (json_int_t)part->expert_bytes, "kv_bytes", (json_int_t)part->kv_bytes,
                                        "scratch_bytes", (json_int_t)part->scratch_bytes, "layers",
                                        (json_int_t)part->taken, "output", part->output));
    }
    return json_pack("{s:o, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}", "devices", parts, "reason", gpu->reason,
                     "budget_bytes", (json_int_t)gpu->budget, "resident_bytes", (json_int_t)gpu->resident_bytes,
                     "expert_bytes", (json_int_t)gpu->expert_bytes, "kv_bytes", (json_int_t)gpu->kv_bytes,
                     "scratch_bytes", (json_int_t)gpu->scratch_bytes, "layers", (json_int_t)gpu->taken, "experts",
                     experts, "output", gpu->output);
}

/* What a sequence keeps: for each position, and besides. */
static void print_kept(const struct model *model, const struct plan *plan)
{
    struct engine_kept kept;
    if (engine_kept_of(&kept, model, plan->positions, plan->kv_type, NULL))
        return;
    const struct {
        const char *name;
        double each, besides;
    } kinds[] = {{"keys and values", kept.keys, 0},
                 {"compressed positions", kept.compressed, 0},
                 {"keys that are searched", kept.index, 0},
                 {"windows", 0, (double)kept.windows},
                 {"states", 0, (double)kept.states}};
    char a[32];
    printf("  a sequence keeps\n");
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        if (kinds[i].each > 0)
            printf("    %-26s %10s per position\n", kinds[i].name, format_bytes(a, sizeof a, kinds[i].each));
        else if (kinds[i].besides > 0)
            printf("    %-26s %10s\n", kinds[i].name, format_bytes(a, sizeof a, kinds[i].besides));
    }
}

/* Of several: what each is to bring. */
static void print_drives(const struct hardware *hardware)
{
    const struct drives *drives = hardware->drives;
    double shares[HARDWARE_MAX_DRIVES];
    char text[32];
    if (!drives || drives->count < 2)
        return;
    drives_shares(shares, drives);
    for (uint32_t i = 0; i < drives->count; i++) {
        const struct storage *storage = &drives->storages[i];
        printf("  %-28s %9.0f %% of what is read, from %s at %s/s%s\n", i ? "" : "drives", 100 * shares[i],
               storage->device[0] ? storage->device : storage->file_system,
               format_bytes(text, sizeof text, storage->bytes_per_second),
               drives->measured[i] ? "" : " (a guess: \"hypura profile\" measures it)");
    }
    printf("  %-28s %10s/s of all of them%s\n", "", format_bytes(text, sizeof text, hardware->storage.bytes_per_second),
           drives->copy_count > 1 ? "" : ", one after the other");
}

static json_t *drives_json(const struct hardware *hardware)
{
    json_t *array = json_array();
    const struct drives *drives = hardware->drives;
    double shares[HARDWARE_MAX_DRIVES];
    if (drives)
        drives_shares(shares, drives);
    for (uint32_t i = 0; drives && i < drives->count; i++) {
        const struct storage *storage = &drives->storages[i];
        json_array_append_new(array, json_pack("{s:o, s:f, s:f, s:b}", "device",
                                               json_text(storage->device[0] ? storage->device : storage->file_system),
                                               "share", shares[i], "bytes_per_second", storage->bytes_per_second,
                                               "measured", drives->measured[i]));
    }
    return array;
}

/* What "hypura optimize" would bring, where experts come from the drive. */
static bool find_gain(struct optimize_gain *gain, const struct model *model, const struct hardware *hardware,
                      const struct plan *plan)
{
    double seconds = plan->predicted_tokens_per_second > 0 ? 1 / plan->predicted_tokens_per_second : 0;
    return plan->mode != PLAN_FULL_RESIDENT && hardware->measured && seconds > 0 && !model_expert_file(model) &&
           optimize_gain(gain, model, &hardware->storage, seconds, plan->predicted_bytes_per_token);
}

static void print_plan(const struct model *model, const struct hardware *hardware, const struct plan *plan,
                       double with_more)
{
    struct optimize_gain gain;
    uint64_t tiers[3];
    char a[32], b[32];
    sum_tiers(model, plan, tiers);
    draw_plan(model, plan);
    printf("\nPlan for this machine: %s\n  ", plan_mode_name(plan->mode));
    print_paragraph(stdout, plan->reason, 2);
    printf("  %-28s %10s   the least that works is %s\n", "memory budget",
           format_bytes(a, sizeof a, (double)plan->budget), format_bytes(b, sizeof b, (double)plan->smallest_budget));
    const struct {
        const char *name;
        uint64_t bytes;
    } uses[] = {{"weights that stay", plan->resident_bytes},
                {"ring for streamed tensors", plan->ring_bytes},
                {"expert cache", plan->expert_cache_bytes},
                {"KV cache", plan->kv_bytes},
                {"scratch", plan->scratch_bytes},
                {"table of pieces", plan->table_bytes - plan->row_cache_bytes},
                {"rows of tables", plan->row_cache_bytes},
                {"program and vocabulary", plan->overhead_bytes},
                {"page tables and slack", plan->reserve_bytes}};
    uint64_t left = plan->budget;
    for (size_t i = 0; i < COUNT_OF(uses); i++) {
        left -= MIN(left, uses[i].bytes);
        if (uses[i].bytes)
            printf("    %-26s %10s\n", uses[i].name, format_bytes(a, sizeof a, (double)uses[i].bytes));
    }
    if (left > plan->budget / 50)
        printf("    %-26s %10s\n", "not needed", format_bytes(a, sizeof a, (double)left));
    print_gpu(plan, tiers[TIER_GPU]);
    printf("  %-28s %10s in RAM, %s on disk\n", plan->gpu ? "the other weights" : "weights",
           format_bytes(a, sizeof a, (double)tiers[TIER_RAM]), format_bytes(b, sizeof b, (double)tiers[TIER_STORAGE]));
    uint64_t first = tiers[TIER_GPU] + tiers[TIER_RAM];
    printf("  %-28s %10s, about %s\n", "loaded before it answers", format_bytes(a, sizeof a, (double)first),
           format_time(b, sizeof b, (double)first / hardware->storage.bytes_per_second));
    print_drives(hardware);
    if (!hardware->storage.direct_supported)
        printf("  %-28s passes through the page cache, since there is no direct I/O, and is dropped afterwards\n", "what is read");
    printf("  %-28s %u tokens, KV in %s, prompts in chunks of %u\n", "context", plan->positions,
           tensor_type_info(plan->kv_type)->name, plan->chunk);
    print_kept(model, plan);
    char speed[PLAN_SPEED_TEXT];
    plan_speed_text(plan, 2, speed);
    printf("  %-28s %s tokens/s, bound by %s\n", "expected", speed, plan_bound_name(plan->bound));
    if (plan->even_tokens_per_second < plan->predicted_tokens_per_second)
        printf("  %-28s (from experts all used alike to as unevenly as is usual: a run shows which)\n", "");
    if (!hardware->measured)
        printf("  %-28s (a careful guess: \"hypura profile\" measures the machine)\n", "");
    if (plan->mode == PLAN_FULL_RESIDENT)
        printf("  %-28s nothing: all weights are in memory\n", "one more GiB would bring");
    else if (with_more > 0)
        printf("  %-28s %.2f tokens/s (%+.0f %%)\n", "one more GiB would bring", with_more,
               100 * (with_more / plan->predicted_tokens_per_second - 1));
    if (model_expert_file(model))
        printf("  %-28s %s\n", "experts are read from", model_expert_file(model));
    else if (find_gain(&gain, model, hardware, plan) && gain.faster >= OPTIMIZE_WORTH)
        printf("  %-28s up to %.0f %% more tokens/s: each expert in one place\n", "\"hypura optimize\" would bring",
               100 * gain.faster);
    if (plan->predicted_bytes_per_token > 0)
        printf("  %-28s %10s\n", "read from disk a token", format_bytes(a, sizeof a, plan->predicted_bytes_per_token));
}

static json_t *kept_json(const struct model *model, const struct plan *plan)
{
    struct engine_kept kept;
    if (engine_kept_of(&kept, model, plan->positions, plan->kv_type, NULL))
        return json_null();
    return json_pack("{s:f, s:f, s:f, s:I, s:I}", "keys_per_position", kept.keys, "compressed_per_position",
                     kept.compressed, "index_per_position", kept.index, "windows", (json_int_t)kept.windows, "states",
                     (json_int_t)kept.states);
}

static json_t *plan_json(const struct model *model, const struct plan *plan, double with_more)
{
    uint64_t tiers[3];
    sum_tiers(model, plan, tiers);
    return json_pack(
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
}

static json_t *metadata_json(const struct gguf *file)
{
    json_t *object = json_object();
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        const struct gguf_string *string = value->data;
        int64_t whole;
        double number;
        json_t *json;
        if (value->type == GGUF_STRING)
            json = json_stringn(string->data, string->size);
        else if (value->type == GGUF_ARRAY)
            json = json_pack("{s:I}", "count", (json_int_t)value->count);
        else if (value->type == GGUF_BOOL)
            json = json_boolean(gguf_element_int64(value, 0, &whole) && whole);
        else if (value->type != GGUF_FLOAT32 && value->type != GGUF_FLOAT64 && gguf_element_int64(value, 0, &whole))
            json = json_integer(whole);
        else
            json = gguf_element_double(value, 0, &number) ? json_real(number) : NULL;
        json_object_set_new(object, value->key.data, json ? json : json_null());
    }
    return object;
}

static json_t *tensors_json(const struct model *model, const struct plan *plan)
{
    json_t *array = json_array();
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        for (uint32_t s = 0; s < unit->slice_count; s++) {
            const struct gguf_tensor *tensor = unit->slices[s].tensor;
            json_t *shape = json_array();
            for (uint32_t d = 0; d < tensor->dimension_count; d++)
                json_array_append_new(shape, json_integer((json_int_t)tensor->dimensions[d]));
            json_array_append_new(
                array, json_pack("{s:s, s:s, s:o, s:i, s:i, s:I, s:I, s:s}", "name", tensor->name.data, "type",
                                 tensor_type_info(tensor->type)->name, "shape", shape, "layer", unit->layer, "expert",
                                 unit->expert, "offset", (json_int_t)unit->slices[s].offset, "bytes",
                                 (json_int_t)unit->slices[s].bytes, "tier", tier_names[shown_tier(model, plan, u)]));
        }
    }
    return array;
}

void print_summary_of(FILE *out, const struct model *model)
{
    hypura_model_info info = {0};
    describe_model(&info, model);
    print_summary(out, &info);
}

/* Of the blocks behind the layers that predict further tokens; a file may have several, of which the first is used. */
static void print_predictions(const struct model *model, const char *why)
{
    const struct model_parameters *p = model_parameters(model);
    if (p->predicting)
        printf("  a block that predicts further tokens, which drafts: layer %u\n", p->layers);
    else if (p->prediction_blocks)
        printf("  a block that predicts further tokens is not used: %s\n", why);
}

static int print_all(const struct model *model, const struct hardware *hardware, const struct plan *plan,
                     double with_more, const char *why)
{
    hypura_error error;
    print_summary_of(stdout, model);
    print_predictions(model, why);
    if (steps_of.given)
        return print_layers(model, plan, &steps_of, &error) ? report_error(&error) : EXIT_OK;
    print_metadata(model_file(model));
    print_sizes(model);
    if (list_tensors)
        print_tensors(model, plan);
    print_plan(model, hardware, plan, with_more);
    return EXIT_OK;
}

static int print_all_json(const struct model *model, const struct hardware *hardware, const struct plan *plan,
                          double with_more, const char *why)
{
    hypura_error error;
    json_t *sizes = json_object();
    struct role_bytes roles[ROLE_COUNT];
    sum_roles(model, roles);
    for (int role = 0; role < ROLE_COUNT; role++) {
        if (roles[role].count)
            json_object_set_new(sizes, tensor_role_name((enum tensor_role)role),
                                json_integer((json_int_t)roles[role].bytes));
    }
    const struct model_parameters *p = model_parameters(model);
    json_t *json = json_pack("{s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:o, s:o, s:o}", "model", model_name(model),
                             "architecture", model_architecture(model)->name, "bytes", (json_int_t)model_bytes(model),
                             "layers", (int)p->layers, "experts", (int)p->experts, "experts_used", (int)p->experts_used,
                             "vocabulary", (int)p->vocabulary, "sizes", sizes, "plan",
                             plan_json(model, plan, with_more), "metadata", metadata_json(model_file(model)));
    if (json && p->prediction_blocks)
        json_object_set_new(json, "prediction",
                            json_pack("{s:i, s:b, s:s}", "blocks", (int)p->prediction_blocks, "used",
                                      p->predicting != 0, "why_not", why));
    struct optimize_gain gain;
    if (json && model_expert_file(model))
        json_object_set_new(json, "expert_file", json_text(model_expert_file(model)));
    else if (json && find_gain(&gain, model, hardware, plan))
        json_object_set_new(json, "optimize",
                            json_pack("{s:f, s:b}", "faster", gain.faster, "worth_it", gain.faster >= OPTIMIZE_WORTH));
    if (json && hardware->drives)
        json_object_set_new(json, "drives", drives_json(hardware));
    if (json && list_tensors)
        json_object_set_new(json, "tensors", tensors_json(model, plan));
    json_t *steps = NULL;
    if (steps_of.given && layers_json(&steps, model, plan, &steps_of, &error)) {
        json_decref(json);
        return report_error(&error);
    }
    if (json && steps)
        json_object_set_new(json, "steps", steps);
    print_json(json);
    json_decref(json);
    return EXIT_OK;
}

/* A model file, or what a preset of "hypura synth" would make, whose weights nobody needs here: its drive is the one
 * under the folder that this runs in. */
static hypura_status find_model(const char **path, const char **drive, int *descriptor, const char *argument,
                                hypura_error *error)
{
    static char header[32];
    if (!preset_name) {
        hypura_status status = model_path(path, argument, NULL, error);
        *drive = *path;
        return status;
    }
    const struct synth_preset *preset = synth_preset(preset_name);
    struct synth_options options;
    if (!preset || argument)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         preset ? "--preset stands for a model: name no other"
                                : "there is no preset \"%.40s\"; \"hypura synth --list\" lists them",
                         preset_name);
    synth_default_options(&options, preset);
    if (preset_type)
        options.type = preset_type;
    *path = header;
    *drive = ".";
    return synth_header(descriptor, header, sizeof header, &options, error);
}

static int run_hosts(const char *argument)
{
    hypura_error error = {0};
    const char *path, *drive;
    int descriptor = -1;
    hypura_status status = HYPURA_OK;
    if (parts_path && preset_name)
        status = error_set(&error, HYPURA_ERROR_ARGUMENT, "--parts needs a model, and a preset has no weights");
    if (list_tensors || steps_of.given)
        status = error_set(&error, HYPURA_ERROR_ARGUMENT,
                           "--hosts shows a plan: it goes with neither --tensors nor --layers");
    if (!status)
        status = find_model(&path, &drive, &descriptor, argument, &error);
    int result = status ? report_error(&error) : inspect_hosts(path, hosts_path, parts_path, as_json);
    if (descriptor >= 0)
        close(descriptor);
    return result;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct engine_options options;
    struct model *model = NULL;
    struct plan *plan = NULL;
    struct hardware hardware = {0};
    int result = EXIT_FAILED;
    double with_more = 0;
    const char *path = NULL, *drive = NULL;
    char why[ENGINE_WHY] = "";
    int descriptor = -1;
    if (hosts_path)
        return run_hosts(count ? arguments[0] : NULL);
    if (parts_path)
        return report_usage(&command_inspect, "--parts needs --hosts, which says what each host has");
    bool failed = find_model(&path, &drive, &descriptor, count ? arguments[0] : NULL, &error) ||
                  engine_options_of(&options, &error) || hardware_detect(&hardware, drive, &error) ||
                  engine_open_file(&model, path, &hardware, &options, why, &error) ||
                  engine_plan_only(&plan, model, &hardware, &options, &error);
    if (!failed && !plan->gpu)
        options.gpu = "none"; /* why, was said */
    if (!failed)
        plan_warn_of_too_much(plan, &hardware);
    if (failed || engine_speed_with(&with_more, model, &hardware, &options, (int64_t)1 << 30, &error))
        result = report_error(&error);
    else
        result = as_json ? print_all_json(model, &hardware, plan, with_more, why)
                         : print_all(model, &hardware, plan, with_more, why);
    plan_free(plan);
    model_close(model);
    hardware_drop_drives(&hardware);
    if (descriptor >= 0)
        close(descriptor);
    return result;
}

const struct command command_inspect = {
    .name = "inspect",
    .arguments = "[MODEL]",
    .summary = "show what a model holds and where its weights would live here",
    .details = MODEL_HELP
    "Reads the metadata only. The plan is the one that \"hypura run\" would follow with the same options: which "
    "weights stay in memory, which are read from the disk, how fast that should be and why.\n\n"
    "With --hosts the plan is that of several hosts, whose first holds what every token uses, while experts are dealt out "
    "over all of them. The file is JSON: {\"hosts\": [{\"name\": \"box\", \"count\": 4, \"memory\": \"64G\", "
    "\"memory_bytes_per_second\": 8e10, \"drive_bytes_per_second\": 7e9, \"link_bits_per_second\": 1e10}]}. "
    "\"memory\" is what the process may hold there. \"compute_bytes_per_second\" (weights through the kernels, as "
    "\"hypura profile --json\" tells; otherwise that of memory), \"cores\" and \"link_seconds\" (a short message there "
    "and back; otherwise 1e-4) may be given as well. Keys next to \"hosts\" are those of all hosts. "
    "Instead of such figures \"profile\" may name what \"hypura profile --json\" wrote on a host.\n\n"
    "--parts box=model.gguf.parts writes the experts of that host, in the model's layout with holes for the rest. It goes "
    "to where that host would have the model, and is taken there instead of it.",
    .options = {inspect_rows, plan_option_rows},
    .most = 1,
    .run = run,
};
