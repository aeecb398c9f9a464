/* hypura optimize: writes a model's experts to a separate file, each in one piece. */
#include "tools/optimize.h"
#include "cli/engine_cli.h"

#include <inttypes.h>
#include <limits.h>
#include <string.h>

static const char *trace;
static uint32_t threads;
static bool dry_run, as_json;

static const struct option_row optimize_rows[] = {
    {"trace", "FILE", OPTION_TEXT, &trace,
     "in each layer, put the experts that this trace uses most at the front (\"hypura run --trace\" records one)"},
    {"threads", "N", OPTION_COUNT, &threads, "threads that copy (default: one per core that this process may use)"},
    {"dry-run", NULL, OPTION_FLAG, &dry_run, "report the size and the gain, but write nothing"},
    {"json", NULL, OPTION_FLAG, &as_json, "print JSON instead"},
    {0},
};

static json_t *reads_json(const struct optimize_reads *reads)
{
    return json_pack("{s:I, s:I, s:f}", "reads", (json_int_t)reads->reads, "bytes", (json_int_t)reads->bytes, "seconds",
                     reads->seconds);
}

static void print_gain(const struct optimize_gain *gain, bool measured)
{
    char a[32], b[32];
    printf("experts per token, if none is in memory: %" PRIu64 " reads of %s -> %" PRIu64 " of %s\n",
           gain->before.reads, format_bytes(a, sizeof a, (double)gain->before.bytes), gain->after.reads,
           format_bytes(b, sizeof b, (double)gain->after.bytes));
    printf("on this drive%s: about %.1f %% more tokens/s; %s\n",
           measured ? "" : " (not measured yet: run \"hypura profile\")", 100 * MAX(gain->faster, 0),
           gain->faster >= OPTIMIZE_WORTH ? "worth it if the model does not fit in memory"
                                          : "not worth it here: reads are large enough already");
}

static void print_result(const struct optimize *optimize, const char *path, const struct hardware *hardware,
                         double seconds)
{
    char size[32], time[32];
    struct optimize_gain gain;
    bool known = optimize_gain(&gain, optimize_model(optimize), &hardware->storage, 0, 1);
    if (as_json) {
        json_t *json = json_pack("{s:I, s:i, s:s}", "bytes", (json_int_t)optimize_bytes(optimize), "experts",
                                 (int)optimize_experts(optimize), "file", path);
        if (json && !dry_run)
            json_object_set_new(json, "seconds", json_real(seconds));
        if (json && known)
            json_object_set_new(json, "gain",
                                json_pack("{s:o, s:o, s:f, s:b, s:b}", "before", reads_json(&gain.before), "after",
                                          reads_json(&gain.after), "at_most", gain.faster, "worth_it",
                                          gain.faster >= OPTIMIZE_WORTH, "drive_measured", hardware->measured));
        print_json(json);
        json_decref(json);
        return;
    }
    printf("%s: %u experts, %s", path, optimize_experts(optimize),
           format_bytes(size, sizeof size, (double)optimize_bytes(optimize)));
    if (!dry_run)
        printf(", %s", format_time(time, sizeof time, seconds));
    printf("\n");
    if (known)
        print_gain(&gain, hardware->measured);
}

static hypura_status optimize(const char *model, const char *out, hypura_error *error)
{
    const struct optimize_options options = {.trace = trace, .threads = threads};
    struct optimize *plan = NULL;
    struct hardware hardware = {0};
    const char *path;
    char beside[PATH_MAX];
    uint64_t start = clock_nanoseconds();
    hypura_status status = model_path(&path, model, NULL, error);
    if (!status)
        status = optimize_open(&plan, path, &options, error);
    if (!status)
        status = hardware_detect(&hardware, path, error);
    if (!status && !out) {
        const char *first = gguf_file_path(model_file(optimize_model(plan)), 0);
        if (snprintf(beside, sizeof beside, "%s" EXPERT_FILE_ENDING, first) >= (int)sizeof beside)
            status = error_set(error, HYPURA_ERROR_ARGUMENT, "the path %.100s... is too long", first);
        out = beside;
    }
    if (!status && !dry_run) {
        interrupts_cancel(NULL);
        status = optimize_write(plan, out, show_pieces, &start, error);
        clear_line();
    }
    if (!status)
        print_result(plan, out, &hardware, clock_seconds_since(start));
    optimize_close(plan);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    if (count == 0)
        return report_usage(&command_optimize, "MODEL is missing");
    return optimize(arguments[0], count > 1 ? arguments[1] : NULL, &error) ? report_error(&error) : EXIT_OK;
}

const struct command command_optimize = {
    .name = "optimize",
    .arguments = "MODEL [OUT]",
    .summary = "write a second copy of a model's experts, each in one piece, for slow drives",
    .details = MODEL_HELP
    "In a GGUF file, each expert is stored in three places. OUT stores each expert of a mixture in one page-aligned "
    "piece, so a single read loads it. OUT is nearly as large as the model, which does not change and is still needed. "
    "Answers stay the same to the last bit.\n\n"
    "By default OUT is MODEL.experts, next to the model, and every command that opens the model uses it. Otherwise, "
    "for example on a faster drive, open OUT in place of the model. If the model is changed or copied, OUT is ignored "
    "with a warning, except for copies that keep the time of change, such as with cp -p.\n\n"
    "This pays if the drive does few reads per second or the experts are small; --dry-run and \"hypura inspect\" show "
    "how much.\n\n"
    "While OUT is being written, its name is OUT.partial, and OUT.partial.pieces lists its finished parts. If anything "
    "interrupts the command, run it again to continue. OUT is checked before it gets its name. The model is never "
    "changed.",
    .options = {optimize_rows},
    .most = 2,
    .run = run,
};
