/* hypura inspect: what a file contains, and where its weights would be kept on this machine. */
#include "cli/inspect.h"

#include <string.h>

static bool list_tensors, as_json;
static const char *preset_name, *preset_type, *hosts_path, *parts_path;
static struct which steps_of;

static const struct option_row inspect_rows[] = {
    {"tensors", NULL, OPTION_FLAG, &list_tensors, "list every tensor with its type, shape, size and place"},
    {"layers", "[N]", OPTION_WHICH, &steps_of,
     "show what each layer does, or only layer N: its steps and their tensors"},
    {"preset", "NAME", OPTION_TEXT, &preset_name, "inspect this geometry of \"hypura synth --list\" instead of a file"},
    {"type", "TYPE", OPTION_TEXT, &preset_type, "with --preset: type of the weights, instead of the default"},
    {"hosts", "FILE", OPTION_TEXT, &hosts_path,
     "plan for the hosts that this JSON file describes, which need not be running"},
    {"parts", "HOST=FILE", OPTION_TEXT, &parts_path, "with --hosts: write the part of the model that this host serves"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead"},
    {0},
};

/* ---- the object -------------------------------------------------------------------------------------------------- */

static bool is(const json_t *json, const char *key)
{
    return json_is_true(json_object_get(json, key));
}

/* A member as "1.2 GiB", in one of four buffers that are used in turn. */
static const char *bytes_of(const json_t *json, const char *key)
{
    static char texts[4][32];
    static unsigned next;
    char *text = texts[next++ % COUNT_OF(texts)];
    return size_text(text, sizeof texts[0], number_of(json, key));
}

/* ---- contents of the file ---------------------------------------------------------------------------------------- */

static void add_number(struct text_buffer *out, const json_t *value)
{
    if (json_is_integer(value))
        text_add_format(out, "%lld", (long long)json_integer_value(value));
    else
        text_add_format(out, "%g", json_real_value(value));
}

static void add_text(struct text_buffer *out, const json_t *value)
{
    const char *text = json_string_value(value);
    const size_t size = json_string_length(value);
    size_t shown = MIN(size, (size_t)70);
    while (shown < size && shown > 0 && ((unsigned char)text[shown] & 0xc0) == 0x80)
        shown--;
    for (size_t i = 0; i < shown; i++)
        text_add_char(out, (unsigned char)text[i] < 32 ? ' ' : text[i]);
    if (shown < size)
        text_add_format(out, "... (%zu bytes)", size);
}

static void add_value(struct text_buffer *out, const json_t *value)
{
    size_t i;
    const json_t *element;
    if (json_is_string(value)) {
        add_text(out, value);
    } else if (json_is_object(value)) {
        text_add_format(out, "[%.0f]", number_of(value, "count"));
        json_array_foreach(json_object_get(value, "first"), i, element)
        {
            text_add_char(out, ' ');
            add_number(out, element);
        }
    } else if (json_is_boolean(value)) {
        text_add_char(out, json_is_true(value) ? '1' : '0');
    } else if (json_is_number(value)) {
        add_number(out, value);
    }
}

static void print_metadata(const json_t *json)
{
    json_t *metadata = json_object_get(json, "metadata");
    struct text_buffer text = {0};
    const char *key;
    json_t *value;
    printf("\nMetadata (GGUF version %.0f, %zu values)\n", number_of(json, "gguf_version"), json_object_size(metadata));
    json_object_foreach(metadata, key, value)
    {
        text_clear(&text);
        text_add_format(&text, "  %-44s ", key);
        add_value(&text, value);
        if (!text.failed)
            clean_text(text.data);
        puts(text.failed ? "  ?" : text.data);
    }
    text_free(&text);
}

static void print_sizes(const json_t *json)
{
    json_t *sizes = json_object_get(json, "sizes");
    const char *role;
    json_t *bytes;
    printf("\nSize by role\n");
    json_object_foreach(sizes, role, bytes)
    {
        const double pieces = number_of(json_object_get(json, "pieces"), role);
        printf("  %-28s %10s  %5.1f %%  %.0f %s\n", role, bytes_of(sizes, role),
               100.0 * json_number_value(bytes) / number_of(json, "bytes"), pieces, pieces > 1 ? "pieces" : "piece");
    }
    printf("  %-28s %10s\n", "all", bytes_of(json, "bytes"));
}

static void print_tensor(const json_t *tensor)
{
    char shape[96];
    size_t used = 0, i;
    const json_t *dimension;
    json_array_foreach(json_object_get(tensor, "shape"), i, dimension)
    {
        if (used < sizeof shape)
            used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%lld", i ? " x " : "",
                                     (long long)json_integer_value(dimension));
    }
    printf("  %-36s %-8s %-20s %10s  %s", text_of(tensor, "name"), text_of(tensor, "type"), used ? shape : "",
           bytes_of(tensor, "bytes"), text_of(tensor, "tier"));
    if (is(tensor, "read_by_rows"))
        printf(", read by rows");
    if (json_object_get(tensor, "bytes_on_storage"))
        printf(", %.0f %% in ram", 100 - 100 * number_of(tensor, "bytes_on_storage") / number_of(tensor, "bytes"));
    putchar('\n');
}

/* Shows an expert as one line: its slices are adjacent in the list. */
static void print_tensors(const json_t *tensors)
{
    printf("\nUnits\n");
    for (size_t i = 0; i < json_array_size(tensors); i++) {
        const json_t *tensor = json_array_get(tensors, i), *next;
        const double layer = number_of(tensor, "layer"), expert = number_of(tensor, "expert");
        double bytes = number_of(tensor, "bytes");
        char text[32];
        if (expert < 0) {
            print_tensor(tensor);
            continue;
        }
        while ((next = json_array_get(tensors, i + 1)) && number_of(next, "layer") == layer &&
               number_of(next, "expert") == expert) {
            bytes += number_of(next, "bytes");
            i++;
        }
        printf("  layer %.0f expert %-3.0f %39s %10s  %s\n", layer, expert, "", size_text(text, sizeof text, bytes),
               text_of(tensor, "tier"));
    }
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

static void draw_plan(const json_t *places)
{
    const size_t count = json_array_size(places);
    struct layer_places *rows;
    if (!count || NEW_ARRAY(&rows, count, "tier map", NULL))
        return;
    for (size_t i = 0; i < count; i++) {
        const json_t *row = json_array_get(places, i);
        rows[i].bytes[MAP_GPU] = (uint64_t)number_of(row, "gpu_bytes");
        rows[i].bytes[MAP_MEMORY] = (uint64_t)number_of(row, "ram_bytes");
        rows[i].bytes[MAP_CACHED] = (uint64_t)number_of(row, "cached_bytes");
        rows[i].bytes[MAP_STORAGE] = (uint64_t)number_of(row, "storage_bytes");
    }
    printf("\nWhere the weights would be:");
    draw_places_of_layers(stdout, rows, (uint32_t)count - 1);
    free_memory(rows);
}

static void print_budget(const json_t *plan)
{
    const struct {
        const char *name, *key, *less;
    } uses[] = {{"weights that stay", "resident_bytes", NULL},
                {"ring for streamed tensors", "ring_bytes", NULL},
                {"expert cache", "expert_cache_bytes", NULL},
                {"KV cache", "kv_bytes", NULL},
                {"scratch", "scratch_bytes", NULL},
                {"table of pieces", "table_bytes", "row_cache_bytes"},
                {"rows of tables", "row_cache_bytes", NULL},
                {"program and vocabulary", "overhead_bytes", NULL},
                {"page tables and slack", "reserve_bytes", NULL}};
    char text[32];
    const double budget = number_of(plan, "budget_bytes");
    double left = budget;
    printf("  %-28s %10s   smallest that works: %s\n", "memory budget", bytes_of(plan, "budget_bytes"),
           bytes_of(plan, "smallest_budget_bytes"));
    for (size_t i = 0; i < COUNT_OF(uses); i++) {
        const double bytes = number_of(plan, uses[i].key) - (uses[i].less ? number_of(plan, uses[i].less) : 0);
        left -= MIN(left, bytes);
        if (bytes > 0)
            printf("    %-26s %10s\n", uses[i].name, size_text(text, sizeof text, bytes));
    }
    if (left > budget / 50)
        printf("    %-26s %10s\n", "not needed", size_text(text, sizeof text, left));
}

static void print_gpu(const json_t *plan)
{
    const json_t *gpu = json_object_get(plan, "gpu"), *devices = json_object_get(gpu, "devices");
    const size_t count = json_array_size(devices);
    char text[32];
    if (!json_is_object(gpu))
        return;
    printf("  %-28s %s\n", count > 1 ? "on GPUs" : "on the GPU", text_of(gpu, "reason"));
    for (size_t d = 0; count > 1 && d < count; d++) {
        const json_t *part = json_array_get(devices, d);
        const char *ranges = text_of(part, "layer_ranges");
        char name[32];
        snprintf(name, sizeof name, "  GPU %zu of these", d + 1);
        printf("  %-28s %10s   of %s: %.0f layers%s%s%s, %s of weights\n", name, bytes_of(part, "held_bytes"),
               bytes_of(part, "budget_bytes"), number_of(part, "layers"), ranges[0] ? " (" : "", ranges,
               ranges[0] ? ")" : "",
               size_text(text, sizeof text, number_of(part, "resident_bytes") + number_of(part, "expert_bytes")));
    }
    printf("  %-28s %10s\n", "its memory budget", bytes_of(gpu, "budget_bytes"));
    printf("    %-26s %10s   of which %s are experts\n", "weights", bytes_of(plan, "bytes_gpu"),
           bytes_of(gpu, "expert_bytes"));
    printf("    %-26s %10s\n", "KV cache", bytes_of(gpu, "kv_bytes"));
    const double lent = number_of(gpu, "lent_bytes");
    printf("    %-26s %10s", "scratch", size_text(text, sizeof text, number_of(gpu, "scratch_bytes") - lent));
    if (lent > 0)
        printf("   and %s of experts' room while a long prompt passes", size_text(text, sizeof text, lent));
    printf("\n");
}

/* What a sequence keeps in memory, per position and in all. */
static void print_kept(const json_t *kept)
{
    static const struct {
        const char *name, *key;
        bool each;
    } kinds[] = {{"keys and values", "keys_per_position", true},
                 {"compressed positions", "compressed_per_position", true},
                 {"index keys", "index_per_position", true},
                 {"windows", "windows", false},
                 {"states", "states", false}};
    if (!json_is_object(kept))
        return;
    printf("  kept per sequence\n");
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (number_of(kept, kinds[i].key) > 0)
            printf("    %-26s %10s%s\n", kinds[i].name, bytes_of(kept, kinds[i].key),
                   kinds[i].each ? " per position" : "");
}

/* With several drives: the share of each. */
static void print_drives(const json_t *json, const json_t *plan)
{
    const json_t *drives = json_object_get(json, "drives"), *drive;
    size_t i;
    if (json_array_size(drives) < 2)
        return;
    json_array_foreach(drives, i, drive)
    {
        printf("  %-28s %9.0f %% of the reads, from %s at %s/s%s\n", i ? "" : "drives", 100 * number_of(drive, "share"),
               text_of(drive, "device"), bytes_of(drive, "bytes_per_second"),
               is(drive, "measured") ? "" : " (estimated: \"hypura profile\" measures it)");
    }
    printf("  %-28s %10s/s from all of them%s\n", "", bytes_of(plan, "drive_bytes_per_second"),
           is(json, "drives_at_once") ? "" : ", one at a time");
}

static void print_speed(const json_t *json, const json_t *plan, bool resident)
{
    const double speed = number_of(plan, "decode_tokens_per_second"),
                 even = number_of(plan, "decode_tokens_per_second_even");
    const double more = number_of(plan, "decode_tokens_per_second_with_one_more_gib");
    const json_t *gain = json_object_get(json, "optimize");
    char text[RANGE_TEXT];
    printf("  %-28s %s tokens/s, bound by %s\n", "expected", range_text(text, 2, even, speed), text_of(plan, "bound"));
    if (even < speed)
        printf("  %-28s (from even to typically uneven use of experts; a run measures it)\n", "");
    if (!is(plan, "measured"))
        printf("  %-28s (a conservative estimate: \"hypura profile\" measures the machine)\n", "");
    if (resident)
        printf("  %-28s nothing: all weights are in memory\n", "one more GiB would bring");
    else if (more > 0)
        printf("  %-28s %.2f tokens/s (%+.0f %%)\n", "one more GiB would bring", more, 100 * (more / speed - 1));
    if (json_object_get(json, "expert_file"))
        printf("  %-28s %s\n", "experts are read from", text_of(json, "expert_file"));
    else if (is(gain, "worth_it"))
        printf("  %-28s about %.0f %% more tokens/s: each expert in one piece\n", "\"hypura optimize\" would bring",
               100 * number_of(gain, "faster"));
    if (number_of(plan, "bytes_read_per_token") > 0)
        printf("  %-28s %10s\n", "read from disk per token", bytes_of(plan, "bytes_read_per_token"));
}

static void print_plan(const json_t *json)
{
    const json_t *plan = json_object_get(json, "plan");
    const double first = number_of(plan, "bytes_gpu") + number_of(plan, "bytes_ram");
    char a[32], b[32];
    draw_plan(json_object_get(plan, "places"));
    printf("\nPlan for this machine: %s\n  ", text_of(plan, "mode"));
    print_paragraph(stdout, text_of(plan, "reason"), 2);
    print_budget(plan);
    print_gpu(plan);
    printf("  %-28s %10s in RAM, %s on disk\n",
           json_is_object(json_object_get(plan, "gpu")) ? "the other weights" : "weights", bytes_of(plan, "bytes_ram"),
           bytes_of(plan, "bytes_storage"));
    printf("  %-28s %10s, about %s\n", "loaded before answering", size_text(a, sizeof a, first),
           format_time(b, sizeof b, first / number_of(plan, "drive_bytes_per_second")));
    print_drives(json, plan);
    if (!is(plan, "direct_io"))
        printf("  %-28s through the page cache, which is dropped afterwards: direct I/O is not possible\n", "reads go");
    printf("  %-28s %.0f tokens, KV in %s, prompts in chunks of %.0f\n", "context", number_of(plan, "context"),
           text_of(plan, "kv_type"), number_of(plan, "chunk"));
    print_kept(json_object_get(plan, "kv_cache_bytes"));
    print_speed(json, plan, strcmp(text_of(plan, "mode"), "full-resident") == 0);
}

/* The prediction blocks after the layers. A file may have several, of which only the first is used. */
static void print_predictions(const json_t *json)
{
    const json_t *prediction = json_object_get(json, "prediction");
    if (is(prediction, "used"))
        printf("  a prediction block, which drafts tokens: layer %.0f\n", number_of(json, "layers"));
    else if (prediction)
        printf("  a prediction block, which is not used: %s\n", text_of(prediction, "why_not"));
}

static void print_all(const json_t *json)
{
    print_header(json);
    print_predictions(json);
    if (steps_of.given) {
        print_layers(json);
        return;
    }
    print_metadata(json);
    print_sizes(json);
    if (list_tensors)
        print_tensors(json_object_get(json, "tensors"));
    print_plan(json);
}

/* ---- the command ------------------------------------------------------------------------------------------------- */

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    hypura_options options;
    hypura_adapter *adapters = NULL;
    const hypura_inspection what = {.struct_size = sizeof what,
                                    .tensors = list_tensors,
                                    .layers = steps_of.given,
                                    .one_layer = steps_of.one,
                                    .layer = steps_of.number,
                                    .preset = preset_name,
                                    .preset_type = preset_type};
    const char *path = NULL;
    char *text = NULL;
    hypura_status status = HYPURA_OK;
    if (!hosts_path && parts_path)
        return report_usage(&command_inspect, "--parts needs --hosts, which describes the hosts");
    if (preset_name && parts_path)
        status = set_error(&error, HYPURA_ERROR_ARGUMENT, "--parts needs a model: a preset has no weights");
    else if (hosts_path && (list_tensors || steps_of.given))
        status =
            set_error(&error, HYPURA_ERROR_ARGUMENT, "--hosts shows only a plan: leave out --tensors and --layers");
    else if (preset_name && count)
        status = set_error(&error, HYPURA_ERROR_ARGUMENT, "--preset replaces MODEL: leave one of them out");
    else if (!preset_name)
        status = model_path(&path, count ? arguments[0] : NULL, NULL, &error);
    if (!status)
        status = given_options(&options, &adapters, &error);
    if (!status && hosts_path) {
        int result = inspect_hosts(path, hosts_path, parts_path, &options, &what, as_json);
        free_memory(adapters);
        return result;
    }
    if (!status)
        status = hypura_inspect(path, &options, &what, &text, &error);
    free_memory(adapters);
    return status ? report_error(&error) : show_description(text, as_json, print_all);
}

const struct command command_inspect = {
    .name = "inspect",
    .arguments = "[MODEL]",
    .summary = "show what a model contains and where its weights would be kept here",
    .details = MODEL_HELP
    "hypura inspect reads only the metadata. The plan is the one that \"hypura run\" would make with the same options: "
    "which weights stay in memory, which are read from the drive, the expected speed, and why.\n\n"
    "With --hosts, the plan is for several hosts. The first holds the weights that every token uses; the experts are "
    "divided among all. The file is JSON: {\"hosts\": [{\"name\": \"box\", \"count\": 4, \"memory\": \"64G\", "
    "\"memory_bytes_per_second\": 8e10, \"drive_bytes_per_second\": 7e9, \"link_bits_per_second\": 1e10}]}. "
    "\"memory\" limits the process on that host. Optional keys are \"compute_bytes_per_second\" (the speed of the "
    "kernels, as \"hypura profile --json\" prints it; default: that of memory), \"cores\", and \"link_seconds\" (the "
    "round trip of a short message; default: 1e-4). Keys next to \"hosts\" apply to all hosts. Instead of these "
    "figures, \"profile\" may name the output of \"hypura profile --json\" on a host.\n\n"
    "--parts box=model.gguf.parts writes the experts of that host, in the model's layout with holes for the rest. Put "
    "the file where that host would have the model; it is used instead.",
    .options = {inspect_rows, plan_option_rows},
    .most = 1,
    .run = run,
};
