/* hypura plot: draws the output of hypura bench --json. */
#include "cli/plot.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MOST_BYTES (16 << 20)
#define MOST_RUNS 64

static const char *by, *title;

static const struct option_row plot_rows[] = {
    {"by", "WHAT", OPTION_TEXT, &by,
     "runs: a bar per run; memory: a line over --memory (default: memory if one model ran with three or more budgets, "
     "else runs)"},
    {"title", "TEXT", OPTION_TEXT, &title, "title of the drawing (default: the model, if all runs have the same)"},
    {0},
};

static bool read_figure(const json_t *object, const char *name, struct plot_figure *figure)
{
    char key[80];
    figure->median = json_number_value(json_object_get(object, name));
    snprintf(key, sizeof key, "%s_least", name);
    const json_t *least = json_object_get(object, key);
    snprintf(key, sizeof key, "%s_most", name);
    const json_t *most = json_object_get(object, key);
    figure->least = least ? json_number_value(least) : figure->median;
    figure->most = most ? json_number_value(most) : figure->median;
    return isfinite(figure->median) && isfinite(figure->least) && isfinite(figure->most) && figure->median >= 0 &&
           figure->least >= 0 && figure->least <= figure->most;
}

/* The file name without its folders and ".json". */
static void label_of(char *out, size_t room, const char *path, size_t number)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t length = strlen(name);
    if (length > 5 && strcmp(name + length - 5, ".json") == 0)
        length -= 5;
    if (number)
        snprintf(out, room, "%.*s %zu", (int)MIN(length, 80u), name, number + 1);
    else
        snprintf(out, room, "%.*s", (int)MIN(length, 80u), name);
}

static hypura_status add_run(struct plot *plot, const json_t *json, const char *path, size_t number,
                             hypura_error *error)
{
    static const char *const names[] = {"prompt_tokens_per_second", "decode_tokens_per_second"}, *const ratios[] = {
                                                                                                     "prompt_ratio",
                                                                                                     "decode_ratio"};
    const char *model = json_string_value(json_object_get(json, "model"));
    const char *mode = json_string_value(json_object_get(json, "mode"));
    if (!model || !json_object_get(json, names[PLOT_DECODE]) || !json_object_get(json, names[PLOT_PROMPT]))
        return set_error(error, HYPURA_ERROR_FORMAT, "%s is not the output of hypura bench --json", path);
    if (plot->count == MOST_RUNS)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "too many runs for one drawing: at most %d are possible",
                         MOST_RUNS);
    struct plot_run *run = &plot->runs[plot->count];
    const json_t *llama = json_object_get(json, "llama");
    label_of(run->label, sizeof run->label, path, number);
    snprintf(run->model, sizeof run->model, "%.80s", model);
    snprintf(run->mode, sizeof run->mode, "%.40s", mode ? mode : "");
    run->budget = json_number_value(json_object_get(json, "budget_bytes"));
    run->weights = json_number_value(json_object_get(json, "bytes_ram")) +
                   json_number_value(json_object_get(json, "bytes_gpu")) +
                   json_number_value(json_object_get(json, "bytes_storage"));
    run->compared = json_is_object(llama);
    for (int kind = 0; kind < PLOT_KINDS; kind++) {
        if (!read_figure(json, names[kind], &run->ours[kind]) ||
            (run->compared && !read_figure(llama, names[kind], &run->theirs[kind])))
            return set_error(error, HYPURA_ERROR_FORMAT, "%s has an invalid speed", path);
        run->ratio[kind] = run->compared ? json_number_value(json_object_get(json, ratios[kind])) : 0;
    }
    plot->count++;
    return HYPURA_OK;
}

/* A file may contain several objects, one after the other or in an array. */
static hypura_status read_runs(struct plot *plot, const char *path, hypura_error *error)
{
    char *text = NULL;
    size_t size = 0, number = 0;
    hypura_status status = read_whole_file(path, MOST_BYTES, &text, &size, error);
    const char *rest = text;
    while (!status && (rest += strspn(rest, " \t\r\n"), *rest)) {
        json_error_t where;
        json_t *json = read_json(rest, size - (size_t)(rest - text), JSON_DISABLE_EOF_CHECK, &where), *item;
        if (!json) {
            status = set_error(error, HYPURA_ERROR_FORMAT, "%s is not JSON: %.100s", path, where.text);
            break;
        }
        size_t i;
        if (json_is_array(json)) {
            json_array_foreach(json, i, item)
            {
                if (!status)
                    status = add_run(plot, item, path, number++, error);
            }
        } else {
            status = add_run(plot, json, path, number++, error);
        }
        json_decref(json);
        rest += where.position;
    }
    if (!status && number == 0)
        status = set_error(error, HYPURA_ERROR_FORMAT, "%s is empty", path);
    free_memory(text);
    return status;
}

/* Whether all runs are of one model, and how many different budgets they had. */
static bool one_model(const struct plot *plot, size_t *budgets)
{
    bool same = true;
    *budgets = 0;
    for (size_t i = 0; i < plot->count; i++) {
        bool seen = false;
        for (size_t k = 0; k < i; k++)
            seen = seen || plot->runs[k].budget == plot->runs[i].budget;
        *budgets += !seen;
        same = same && strcmp(plot->runs[i].model, plot->runs[0].model) == 0;
    }
    return same;
}

static hypura_status draw(struct plot *plot, const char *path, hypura_error *error)
{
    size_t budgets;
    bool same = one_model(plot, &budgets);
    bool lines = by ? strcmp(by, "memory") == 0 : same && budgets >= 3;
    if (lines && !same)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "--by memory needs runs of one model, but these are of several");
    plot->title = title ? title : same ? plot->runs[0].model : "Tokens per second";
    plot->name_models = !same;
    struct text_buffer svg = {0};
    uint64_t failures = lost_memory();
    if (lines)
        plot_lines(&svg, plot);
    else
        plot_bars(&svg, plot);
    hypura_status status = HYPURA_OK;
    if (svg.failed)
        status = check_memory(failures, "drawing", error);
    FILE *out = status ? NULL : strcmp(path, "-") == 0 ? stdout : fopen(path, "we");
    if (!status && !out)
        status = set_error_errno(error, errno, "cannot write %s", path);
    if (out) {
        bool failed = fwrite(svg.data, 1, svg.size, out) != svg.size;
        if (out != stdout && (fclose(out) || failed))
            status = set_error_errno(error, errno, "cannot write %s", path);
    }
    text_free(&svg);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct plot plot = {0};
    const char *out = arguments[count - 1];
    size_t length = strlen(out);
    if (by && strcmp(by, "runs") && strcmp(by, "memory"))
        return report_usage(&command_plot, "--by %.40s: expected runs or memory", by);
    if (strcmp(out, "-") && (length < 5 || strcmp(out + length - 4, ".svg")))
        return report_usage(&command_plot,
                            "the last argument is the drawing: a name that ends in .svg, or - for standard output");
    hypura_status status = NEW_ARRAY(&plot.runs, MOST_RUNS, "runs", &error);
    for (size_t i = 0; !status && i + 1 < count; i++)
        status = read_runs(&plot, arguments[i], &error);
    if (!status)
        status = draw(&plot, out, &error);
    free_memory(plot.runs);
    return status ? report_error(&error) : EXIT_OK;
}

const struct command command_plot = {
    .name = "plot",
    .arguments = "FILE... OUT.svg",
    .summary = "draw the output of hypura bench --json",
    .details =
        "Each FILE is the output of one or more runs of hypura bench --json, with or without --compare. The drawing "
        "has "
        "one axis for prompts and one for decoding, both from 0. It marks the slowest and the fastest round, and "
        "adapts to the reader's light or dark theme.",
    .options = {plot_rows},
    .least = 2,
    .most = MOST_RUNS + 1,
    .run = run,
};
