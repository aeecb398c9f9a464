/* hypura quantize: converts a model's matrices to another type. */
#include "tools/quantize.h"
#include "cli/engine_cli.h"
#include "tools/quantize_recipe.h"

#include <string.h>

static const char *type, *importance;
static struct texts tensor_types;
static uint64_t memory;
static uint32_t threads;
static bool requantize, pure, dry_run, list_types, as_json;

static const struct option_row quantize_rows[] = {
    {"type", "TYPE", OPTION_TEXT, &type, "the new type: Q4_K_M, Q8_0, ...; see --list"},
    {"imatrix", "FILE", OPTION_TEXT, &importance,
     "importance of each column, written by \"hypura imatrix\" or llama-imatrix"},
    {"tensor-type", "RE=TYPE", OPTION_TEXTS, &tensor_types,
     "use another type for tensors whose names match this regular expression; may be repeated, the first match "
     "counts"},
    {"pure", NULL, OPTION_FLAG, &pure,
     "use --type for every matrix, without the exceptions of mixtures such as Q4_K_M"},
    {"allow-requantize", NULL, OPTION_FLAG, &requantize, "accept matrices that are already quantised"},
    {"memory", "SIZE", OPTION_BYTES, &memory, "limit for all memory of the process (default: what its threads need)"},
    {"threads", "N", OPTION_COUNT, &threads, "threads that convert (default: one per core that this process may use)"},
    {"dry-run", NULL, OPTION_FLAG, &dry_run, "report what would be written, but write nothing"},
    {"list", NULL, OPTION_FLAG, &list_types, "list the types"},
    {"json", NULL, OPTION_FLAG, &as_json, "print JSON instead"},
    {0},
};

static int print_types(void)
{
    json_t *list = json_array();
    for (size_t i = 0; i < recipe_count(); i++) {
        const struct recipe *recipe = recipe_at(i);
        if (as_json)
            json_array_append_new(list, json_pack("{s:s, s:s}", "type", recipe->name, "bits", recipe->description));
        else
            printf("%-10s %s\n", recipe->name, recipe->description);
    }
    if (as_json)
        print_json(list);
    json_decref(list);
    return EXIT_OK;
}

/* "RE=TYPE", split at the last equals sign. */
static hypura_status read_overrides(struct quantize_override *out, char **copies, hypura_error *error)
{
    for (size_t i = 0; i < tensor_types.count; i++) {
        hypura_status status = string_copy(&copies[i], tensor_types.items[i], error);
        if (status)
            return status;
        char *equals = strrchr(copies[i], '=');
        if (!equals || equals == copies[i])
            return error_set(error, HYPURA_ERROR_ARGUMENT, "--tensor-type %.100s: expected RE=TYPE", copies[i]);
        *equals = 0;
        out[i].expression = copies[i];
        if (!tensor_type_by_name(equals + 1, &out[i].type))
            return error_set(error, HYPURA_ERROR_ARGUMENT, "--tensor-type: there is no tensor type \"%.50s\"",
                             equals + 1);
    }
    return HYPURA_OK;
}

static void print_result(const struct quantize *quantize, const char *path, double seconds)
{
    char from[32], to[32], time[32];
    double bits = 8.0 * (double)quantize_bytes(quantize) / (double)MAX(quantize_elements(quantize), 1);
    size_t changed = 0;
    json_t *tensors = json_array();
    for (size_t i = 0; i < quantize_count(quantize); i++) {
        const struct quantize_tensor *tensor = quantize_at(quantize, i);
        const char *before = tensor_type_info(tensor->source->type)->name,
                   *after = tensor_type_info(tensor->type)->name;
        changed += tensor->type != tensor->source->type;
        if (dry_run && !as_json)
            printf("%-40s %7s -> %-7s %s%s\n", tensor->source->name.data, before, after,
                   format_bytes(to, sizeof to, (double)tensor->bytes), tensor->weighted ? ", by importance" : "");
        json_array_append_new(tensors,
                              json_pack("{s:o, s:s, s:s, s:I, s:b}", "name", json_text(tensor->source->name.data),
                                        "from", before, "to", after, "bytes", (json_int_t)tensor->bytes,
                                        "by_importance", tensor->weighted));
    }
    if (as_json) {
        json_t *json =
            json_pack("{s:I, s:I, s:f, s:I, s:o}", "source_bytes", (json_int_t)quantize_source_bytes(quantize), "bytes",
                      (json_int_t)quantize_bytes(quantize), "bits_per_weight", bits, "quantised", (json_int_t)changed,
                      "tensors", tensors);
        if (json && !dry_run)
            json_object_set_new(json, "seconds", json_real(seconds));
        print_json(json);
        json_decref(json);
        return;
    }
    json_decref(tensors);
    printf("%s%s%zu of %zu tensors quantised, %s -> %s, %.2f bits per weight", dry_run ? "" : path, dry_run ? "" : ": ",
           changed, quantize_count(quantize), format_bytes(from, sizeof from, (double)quantize_source_bytes(quantize)),
           format_bytes(to, sizeof to, (double)quantize_bytes(quantize)), bits);
    if (!dry_run)
        printf(", %s", format_time(time, sizeof time, seconds));
    printf("\n");
}

static hypura_status quantize(const char *model, const char *out, hypura_error *error)
{
    struct quantize_options options = {.type = type,
                                       .importance = importance,
                                       .pure = pure,
                                       .requantize = requantize,
                                       .threads = threads,
                                       .memory = memory};
    struct quantize_override *overrides = NULL;
    struct quantize *plan = NULL;
    char **copies = NULL;
    const char *path;
    uint64_t start = clock_nanoseconds();
    hypura_status status = ALLOCATE(&overrides, tensor_types.count, "table of types", error);
    if (!status)
        status = ALLOCATE(&copies, tensor_types.count, "table of types", error);
    if (!status)
        status = read_overrides(overrides, copies, error);
    options.overrides = overrides;
    options.override_count = tensor_types.count;
    if (!status)
        status = model_path(&path, model, NULL, error);
    if (!status)
        status = quantize_open(&plan, path, &options, error);
    if (!status && !dry_run) {
        interrupts_cancel(NULL);
        status = quantize_write(plan, out, show_pieces, &start, error);
        clear_line();
    }
    if (!status)
        print_result(plan, out, clock_seconds_since(start));
    quantize_close(plan);
    for (size_t i = 0; copies && i < tensor_types.count; i++)
        memory_free(copies[i]);
    memory_free(copies);
    memory_free(overrides);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    if (list_types)
        return print_types();
    if (!type)
        return report_usage(&command_quantize, "--type is missing: \"hypura quantize --list\" lists the types");
    if (!recipe_find(type))
        return report_usage(&command_quantize, "there is no type \"%.50s\": \"hypura quantize --list\" lists them",
                            type);
    if (count != (dry_run ? 1 : 2) && !(dry_run && count == 2))
        return report_usage(&command_quantize, dry_run ? "MODEL is missing" : "MODEL and OUT are needed");
    return quantize(arguments[0], count > 1 ? arguments[1] : NULL, &error) ? report_error(&error) : EXIT_OK;
}

const struct command command_quantize = {
    .name = "quantize",
    .arguments = "MODEL OUT.gguf",
    .summary = "convert a model's matrices to another type",
    .details = MODEL_HELP
    "Its weights should be F16, BF16 or F32. It may be split into several files; OUT is one file.\n\n"
    "The types and the mixtures of types, such as Q4_K_M, are those of llama.cpp, tensor by tensor, and OUT runs "
    "there too. Types below three bits and IQ3_XXS should be used with --imatrix, and the others gain by it.\n\n"
    "The model is read in pieces, so it need not fit in memory, and it is never changed. While OUT is being written, "
    "its name is OUT.partial, and OUT.partial.pieces lists its finished parts. If anything interrupts the command, run "
    "it again to continue. OUT is checked before it gets its name.",
    .options = {quantize_rows},
    .most = 2,
    .run = run,
};
