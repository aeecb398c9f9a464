/* hypura list, pull and rm: manage the model folder, without a server. */
#include "cli/engine_cli.h"
#include "server/server.h"

#include <string.h>

static const char *folder;
static bool as_json;

static const struct option_row folder_rows[] = {
    {"models", "DIR", OPTION_TEXT, &folder,
     "folder of models (default: $HYPURA_MODELS, else ~/.local/share/hypura/models)"},
    {0},
};

static const struct option_row list_rows[] = {
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object, like GET /api/tags"},
    {0},
};

static int run_list(size_t count, char **arguments)
{
    struct registry *registry;
    hypura_error skipped = {0}, error = {0};
    (void)count, (void)arguments;
    if (open_registry(&registry, folder, &error))
        return report_error(&error);
    json_t *tags = registry_tags(registry, &skipped, &error), *model;
    registry_close(registry);
    if (!tags)
        return report_error(&error);
    size_t i;
    if (as_json)
        print_json(tags);
    else
        printf("%-48s %-12s %10s  %s\n", "NAME", "ID", "SIZE", "MODIFIED");
    json_array_foreach(as_json ? NULL : json_object_get(tags, "models"), i, model)
    {
        char size[32];
        printf("%-48s %.12s %10s  %.10s\n", json_string_value(json_object_get(model, "name")),
               json_string_value(json_object_get(model, "digest")),
               format_bytes(size, sizeof size, json_number_value(json_object_get(model, "size"))),
               json_string_value(json_object_get(model, "modified_at")));
    }
    json_decref(tags);
    return skipped.status ? report_error(&skipped) : EXIT_OK;
}

struct pull_line {
    uint64_t start; /* when the current part began; 0: none */
    double first;   /* bytes that were present then */
    double last, total;
};

/* "12.3 MiB/s, 4 min left"; empty until it can be estimated. */
static void tell_rate(struct pull_line *line, double done, double total, char *out, size_t room)
{
    char rate[32], time[32];
    uint64_t now = clock_nanoseconds();
    if (line->start == 0 || done < line->last || total != line->total) { /* another part, or a restart */
        line->start = now;
        line->first = done;
    }
    line->last = done;
    line->total = total;
    *out = 0;
    double seconds = (double)(now - line->start) * 1e-9, speed = (done - line->first) / MAX(seconds, 1e-9);
    if (seconds < 1 || speed < 1)
        return;
    snprintf(out, room, ", %s/s, %s left", format_bytes(rate, sizeof rate, speed),
             format_time(time, sizeof time, (total - done) / speed));
}

static bool show_pull(void *context, const json_t *event)
{
    const char *status = json_string_value(json_object_get(event, "status"));
    double total = json_number_value(json_object_get(event, "total"));
    double done = json_number_value(json_object_get(event, "completed"));
    char a[32], b[32], rate[80];
    if (!json_object_get(event, "completed")) {
        clear_line();
        fprintf(stderr, "%s\n", status);
    } else if (total > 0) {
        tell_rate(context, done, total, rate, sizeof rate);
        show_line("%s: %s of %s (%.0f %%)%s", status, format_bytes(a, sizeof a, done), format_bytes(b, sizeof b, total),
                  100 * done / total, rate);
    }
    return !interrupted();
}

static int run_pull(size_t count, char **arguments)
{
    struct registry *registry;
    struct engine_options options;
    hypura_error error = {0};
    struct pull_line line = {0};
    (void)count;
    if (engine_options_of(&options, &error) || open_registry(&registry, folder, &error))
        return report_error(&error);
    interrupts_cancel(NULL);
    hypura_status status = registry_pull(registry, arguments[0], &options, show_pull, &line, &error);
    clear_line();
    registry_close(registry);
    return status ? report_error(&error) : EXIT_OK;
}

/* Asks the running server to delete a model that the folder lacks: it may have another folder. */
static hypura_status remove_model(struct registry *registry, const char *name, hypura_error *error)
{
    char path[4096];
    hypura_error elsewhere = {0};
    hypura_status status = registry_delete(registry, name, error);
    if (!status || folder || registry_file(registry, name, path, sizeof path, NULL) != HYPURA_ERROR_IO ||
        server_delete(name, &elsewhere))
        return status;
    return HYPURA_OK;
}

static int run_rm(size_t count, char **arguments)
{
    struct registry *registry;
    hypura_error error = {0};
    hypura_status status = open_registry(&registry, folder, &error);
    if (status)
        return report_error(&error);
    for (size_t i = 0; !status && i < count; i++) {
        status = remove_model(registry, arguments[i], &error);
        if (!status)
            printf("deleted '%s'\n", arguments[i]);
    }
    registry_close(registry);
    return status ? report_error(&error) : EXIT_OK;
}

const struct command command_list = {
    .name = "list",
    .arguments = "",
    .summary = "list the models in the model folder",
    .options = {list_rows, folder_rows},
    .run = run_list,
};

const struct command command_pull = {
    .name = "pull",
    .arguments = "MODEL",
    .summary = "download a model into the model folder",
    .details =
        "MODEL is the URL of a GGUF file, hf.co/USER/REPOSITORY or hf.co/USER/REPOSITORY:QUANTISATION, or a name "
        "in Ollama's library. Once it has the header, hypura reports whether and how fast the model would run "
        "here, with --memory and --context if given. An interrupted download continues where it stopped.",
    .options = {folder_rows, plan_option_rows},
    .least = 1,
    .most = 1,
    .run = run_pull,
};

const struct command command_rm = {
    .name = "rm",
    .arguments = "MODEL...",
    .summary = "delete models from the model folder",
    .details =
        "If a model is not in the folder and --models is not given, hypura asks its running server to delete the "
        "model: the one at $HYPURA_HOST (default: 127.0.0.1:11434), with the key $HYPURA_API_KEY if it needs one. "
        "The server unloads the model first if it is loaded.",
    .options = {folder_rows},
    .least = 1,
    .most = 64,
    .run = run_rm,
};
