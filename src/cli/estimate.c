/* hypura estimate: predicts how a model would run on a machine, without downloading it. */
#include "tools/estimate.h"
#include "cli/engine_cli.h"
#include "server/header.h"
#include "tools/optimize.h"
#include "tools/synth.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

static const char *machine_name, *preset_type, *trace_path;
static struct sizes memory_sizes;
static bool quantisations, as_json, list_machines;

static const struct option_row estimate_rows[] = {
    {"machine", "NAME|FILE", OPTION_TEXT, &machine_name,
     "a machine in --list-machines, or the output of \"hypura profile --json\" on it (default: this machine)"},
    {"memory", "SIZES", OPTION_SIZES, &memory_sizes,
     "memory limits to compare, such as 8G,16G,32G (default: automatic)"},
    {"quantisations", NULL, OPTION_FLAG, &quantisations,
     "also show the model's other quantisations: size, speed and loss of quality"},
    {"context", "N", OPTION_COUNT, &compute_options.context,
     "most tokens of a prompt with its answer (default: automatic)"},
    {"trace", "FILE", OPTION_TEXT, &trace_path,
     "use the routing that \"hypura run --trace\" recorded for this model, instead of typical routing"},
    {"type", "TYPE", OPTION_TEXT, &preset_type, "type of a preset's weights, instead of its default"},
    {"gpu", "WHICH", OPTION_TEXT, &compute_options.gpu,
     "none ignores all GPUs; for this machine also auto, or GPU numbers (default: auto)"},
    {"gpu-memory", "SIZE", OPTION_SIZES, &compute_options.gpu_memory,
     "limit for each GPU's memory (default: all of it, less some headroom)"},
    {"kv-type", "TYPE", OPTION_TEXT, &compute_options.kv_type,
     "type of the KV cache: f32, f16, bf16, q8_0, q4_0 (default: f16)"},
    {"list-machines", NULL, OPTION_FLAG, &list_machines, "list the machines that can be named"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead"},
    {0},
};

/* The speed at which a person reads an answer. */
#define READING_TOKENS_PER_SECOND 5.0

#define BAR_WIDTH 36

struct machine {
    struct hardware hardware;
    const char *title, *source;
};

struct subject {
    struct model *model;
    struct vocabulary *vocabulary; /* held, since the budget of a run includes it */
    struct model_header header;    /* of a model on a server */
    int descriptor;                /* of a preset, which has no file; -1: none */
    const char *preset;
};

static int print_machines(void)
{
    json_t *list = json_array();
    for (size_t i = 0; i < hardware_published_count(); i++) {
        const struct hardware_published *machine = hardware_published_at(i);
        if (as_json) {
            json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", machine->name, "title", machine->title,
                                                  "source", machine->source));
            continue;
        }
        printf("%-14s %s\n               ", machine->name, machine->title);
        print_paragraph(stdout, machine->source, 15);
    }
    if (as_json)
        print_json(list);
    json_decref(list);
    return EXIT_OK;
}

#define LARGEST_PROFILE ((uint64_t)1 << 20)

static hypura_status find_machine(struct machine *out, const char *drive, hypura_error *error)
{
    if (!machine_name) {
        out->title = "this machine";
        return hardware_detect(&out->hardware, drive, error);
    }
    const struct hardware_published *published = hardware_published(machine_name);
    if (published) {
        hardware_of_published(&out->hardware, published);
        out->title = published->title;
        out->source = published->source;
        return HYPURA_OK;
    }
    char *text = NULL;
    size_t size = 0;
    if (access(machine_name, F_OK))
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "\"%.100s\" is neither a machine in --list-machines nor a file with the output of \"hypura "
                         "profile --json\"",
                         machine_name);
    hypura_status status = read_whole_file(machine_name, LARGEST_PROFILE, &text, &size, error);
    if (!status)
        status = hardware_of_profile(&out->hardware, text, size, machine_name, error);
    memory_free(text);
    out->title = machine_name;
    return status;
}

static hypura_status open_preset(struct subject *out, const struct synth_preset *preset, hypura_error *error)
{
    char path[32];
    struct synth_options options;
    synth_default_options(&options, preset);
    if (preset_type)
        options.type = preset_type;
    out->preset = preset->name;
    hypura_status status = synth_header(&out->descriptor, path, sizeof path, &options, error);
    return status ? status : model_open(&out->model, path, error);
}

/* Opens a URL, a file, the name of an installed model, or a preset. */
static hypura_status open_subject(struct subject *out, const char *name, const struct hardware *hardware,
                                  struct engine_options *options, hypura_error *error)
{
    const struct synth_preset *preset = name ? synth_preset(name) : NULL;
    const char *path;
    if (preset && access(name, F_OK))
        return open_preset(out, preset, error);
    if (preset_type)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "--type needs a preset; for other types of an existing model, use --quantisations");
    if (name && header_is_remote(name)) {
        int64_t before = (int64_t)memory_resident_bytes();
        hypura_status status = header_fetch(&out->header, name, error);
        options->reserved -=
            (int64_t)memory_resident_bytes() - before; /* a run would not need the memory of the HTTP client */
        if (!status)
            status = model_open(&out->model, out->header.path, error);
        header_forget(&out->header);
        return status;
    }
    hypura_status status = model_path(&path, name, NULL, error);
    if (status || hardware->elsewhere)
        return status ? status : model_open(&out->model, path, error);
    return engine_open_file(&out->model, path, (struct hardware *)hardware, options, NULL, error);
}

/* ---- text ----------------------------------------------------------------------------------------------------------
 */

static const char *number(char *out, size_t room, double value)
{
    snprintf(out, room, "%.*f", value < 0.995 ? 2 : value < 99.5 ? 1 : 0, value);
    return out;
}

static const char *speed(char out[48], const struct estimate *row)
{
    char least[20], usual[20];
    number(least, sizeof least, row->least_tokens_per_second);
    number(usual, sizeof usual, row->tokens_per_second);
    if (strcmp(least, usual) == 0)
        snprintf(out, 48, "%s", usual);
    else
        snprintf(out, 48, "%s to %s", least, usual);
    return out;
}

static const char *first_token(char *out, size_t room, double seconds)
{
    if (seconds <= 0)
        snprintf(out, room, "-");
    else if (seconds < 10)
        snprintf(out, room, "%.1f s", seconds);
    else
        format_time(out, room, seconds);
    return out;
}

static const char *per_token(char *out, size_t room, double bytes)
{
    if (bytes < 1)
        snprintf(out, room, "-");
    else
        format_bytes(out, room, bytes);
    return out;
}

static void print_rows(const struct estimate *rows, size_t count)
{
    char a[32], b[32], c[32], s[48];
    printf("\n%10s %16s %9s %10s %10s   %-20s %9s %9s %9s  %s\n", "memory", "tokens/s", "prompt/s", "first", "token of",
           "mode", "from GPU", "from RAM", "from disk", "bound by");
    printf("%10s %16s %9s %10s %10s   %-20s %9s %9s %9s\n", "", "", "", "500", "20,000", "", "per token", "per token",
           "per token");
    for (size_t i = 0; i < count; i++) {
        const struct estimate *row = &rows[i];
        printf("%10s ", format_bytes(a, sizeof a, (double)row->memory));
        if (!row->possible) {
            print_paragraph(stdout, row->why_not, 11);
            continue;
        }
        printf("%16s %9s", speed(s, row), number(a, sizeof a, row->prompt_tokens_per_second));
        printf(" %10s %10s   %-20s", first_token(a, sizeof a, row->short_seconds),
               first_token(b, sizeof b, row->long_seconds), plan_mode_name(row->mode));
        printf(" %9s %9s %9s  %s\n", per_token(a, sizeof a, row->bytes_from_gpu),
               per_token(b, sizeof b, row->bytes_from_memory), per_token(c, sizeof c, row->bytes_from_storage),
               plan_bound_name(row->bound));
    }
}

/* A bar per size: dark up to the speed with even use of experts, light up to that with typical use. */
static void plot_rows(const struct estimate *rows, size_t count)
{
    double most = 0;
    char text[48], size[32];
    for (size_t i = 0; i < count; i++)
        most = fmax(most, rows[i].tokens_per_second);
    if (most <= 0)
        return;
    printf("\ntokens/s\n");
    for (size_t i = 0; i < count; i++) {
        int full = (int)lround(BAR_WIDTH * rows[i].least_tokens_per_second / most);
        int all = (int)lround(BAR_WIDTH * rows[i].tokens_per_second / most);
        printf("%10s ", format_bytes(size, sizeof size, (double)rows[i].memory));
        for (int cell = 0; cell < BAR_WIDTH; cell++)
            fputs(cell < full ? use_blocks() ? "█" : "#" : cell < all ? use_blocks() ? "░" : "-" : " ", stdout);
        printf(" %s\n", rows[i].possible ? speed(text, &rows[i]) : "too little");
    }
}

static void print_machine_of(const struct machine *machine)
{
    const struct hardware *h = &machine->hardware;
    char memory[32];
    printf("On %s: %s, %zu cores, %s of memory at %.0f GB/s, a drive of %.1f GB/s", machine->title, h->cpu, h->cores,
           format_bytes(memory, sizeof memory, (double)h->memory_total), h->memory_bytes_per_second / 1e9,
           h->storage.bytes_per_second / 1e9);
    for (size_t i = 0; i < h->gpu_count && h->elsewhere; i++)
        printf(", %s with %s", h->gpus[i].info.name,
               format_bytes(memory, sizeof memory, (double)h->gpus[i].info.memory_bytes));
    printf("\n");
    if (machine->source) {
        printf("  ");
        print_paragraph(stdout, machine->source, 2);
    }
    if (!h->measured)
        printf("  Its speed is a conservative estimate: \"hypura profile\" measures it.\n");
}

static void print_remarks(const struct estimate *rows, size_t count, bool mixture)
{
    bool range = false;
    const struct estimate *last = &rows[count - 1];
    char time[32];
    for (size_t i = 0; i < count; i++)
        range |= rows[i].possible && rows[i].tokens_per_second > rows[i].least_tokens_per_second * 1.01;
    printf("\n");
    if (range)
        printf("Ranges go from even to typically uneven use of experts.\n");
    if (trace_path && mixture)
        printf("The use of experts is taken from %s.\n", trace_path);
    const struct estimate *best = last;
    for (size_t i = 0; i < count; i++)
        best = rows[i].optimize_brings > best->optimize_brings ? &rows[i] : best;
    if (best->optimize_brings >= OPTIMIZE_WORTH)
        printf("\"hypura optimize\" is worth it: about %.0f %% more tokens/s with %s, since it stores each expert in "
               "one piece.\n",
               100 * best->optimize_brings, format_bytes(time, sizeof time, (double)best->memory));
    if (last->possible && last->load_seconds > 0)
        printf("Loading takes another %s, once, with %s.\n", format_time(time, sizeof time, last->load_seconds),
               count > 1 ? "the most memory" : "this memory");
}

/* ---- JSON ----------------------------------------------------------------------------------------------------------
 */

static json_t *row_json(const struct estimate *row)
{
    if (!row->possible)
        return json_pack("{s:I, s:b, s:s}", "memory_bytes", (json_int_t)row->memory, "possible", false, "why_not",
                         row->why_not);
    json_t *json =
        json_pack("{s:I, s:b, s:s, s:s, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:f, s:b}",
                  "memory_bytes", (json_int_t)row->memory, "possible", true, "mode", plan_mode_name(row->mode), "bound",
                  plan_bound_name(row->bound), "smallest_budget_bytes", (json_int_t)row->least, "context",
                  (json_int_t)row->context, "decode_tokens_per_second_even", row->least_tokens_per_second,
                  "decode_tokens_per_second", row->tokens_per_second, "prompt_tokens_per_second",
                  row->prompt_tokens_per_second, "first_token_seconds_500", row->short_seconds, "bytes_per_token_gpu",
                  row->bytes_from_gpu, "bytes_per_token_memory", row->bytes_from_memory, "bytes_per_token_storage",
                  row->bytes_from_storage, "expert_hit_rate", row->hit_rate, "load_seconds", row->load_seconds,
                  "bytes_gpu", (json_int_t)row->bytes_gpu, "bytes_memory", (json_int_t)row->bytes_memory,
                  "optimize_faster", row->optimize_brings, "optimize_worth_it", row->optimize_brings >= OPTIMIZE_WORTH);
    if (json)
        json_object_set_new(json, "first_token_seconds_20000",
                            row->long_seconds > 0 ? json_real(row->long_seconds) : json_null());
    return json;
}

static json_t *machine_json(const struct machine *machine)
{
    const struct hardware *h = &machine->hardware;
    json_t *gpus = json_array();
    for (size_t i = 0; i < h->gpu_count; i++)
        json_array_append_new(gpus, json_string(h->gpus[i].info.name));
    return json_pack("{s:s, s:s*, s:s, s:I, s:f, s:f, s:b, s:o}", "title", machine->title, "source", machine->source,
                     "cpu", h->cpu, "memory_bytes", (json_int_t)h->memory_total, "memory_bytes_per_second",
                     h->memory_bytes_per_second, "drive_bytes_per_second", h->storage.bytes_per_second, "measured",
                     h->measured, "gpus", gpus);
}

/* ---- quantisations -------------------------------------------------------------------------------------------------
 */

struct choice {
    const struct quality *quality;
    uint64_t bytes;
    struct estimate estimate;
};

/* Returns false for a quantisation that is impossible: the model's rows do not fill its blocks, or hypura cannot
 * compute with it. */
static bool look_at(struct choice *out, const struct estimate_request *request, const struct quality *quality,
                    uint64_t memory)
{
    char path[32];
    int descriptor;
    hypura_error error;
    struct model *model = NULL;
    struct steps *steps = NULL;
    struct estimate_request other = *request;
    struct engine_options options = *request->options;
    options.remember_usage = false; /* the record is for the original only */
    other.options = &options;
    if (estimate_header(&descriptor, path, sizeof path, request->model, quality->name, &error))
        return false;
    bool good = model_open(&model, path, &error) == HYPURA_OK;
    good = good && (!request->trace || steps_make(&steps, model, &error) == HYPURA_OK);
    other.model = model;
    other.steps = steps;
    good = good && estimate_make(&out->estimate, &other, memory, &error) == HYPURA_OK;
    if (good) {
        out->quality = quality;
        out->bytes = model_bytes(model);
    }
    steps_free(steps);
    model_close(model);
    close(descriptor);
    return good;
}

/* The best quality that is at least as fast as a person reads; if none is, the fastest. */
static size_t best_choice(const struct choice *choices, size_t count)
{
    size_t best = 0;
    for (size_t i = 0; i < count; i++)
        if (choices[i].estimate.possible && choices[i].estimate.tokens_per_second >= READING_TOKENS_PER_SECOND)
            return i;
    for (size_t i = 1; i < count; i++)
        if (choices[i].estimate.tokens_per_second > choices[best].estimate.tokens_per_second)
            best = i;
    return best;
}

static void print_choices(const struct choice *choices, size_t count, uint64_t memory)
{
    char a[32], s[48];
    size_t best = best_choice(choices, count);
    printf("\nQuantisations, with %s of memory\n", format_bytes(a, sizeof a, (double)memory));
    printf("%3s%-10s %10s %16s   %-20s %18s %12s\n", "", "", "size", "tokens/s", "mode", "divergence", "perplexity");
    for (size_t i = 0; i < count; i++) {
        const struct choice *choice = &choices[i];
        printf(" %s %-10s %10s %16s   %-20s %17.4f%s %+12.2f\n", i == best ? ">" : " ", choice->quality->name,
               format_bytes(a, sizeof a, (double)choice->bytes),
               choice->estimate.possible ? speed(s, &choice->estimate) : "too little memory",
               choice->estimate.possible ? plan_mode_name(choice->estimate.mode) : "-", choice->quality->divergence,
               choice->quality->importance ? "*" : " ", choice->quality->perplexity);
    }
    printf("   Divergence (mean Kullback-Leibler) and added perplexity: ");
    print_paragraph(stdout, quality_source, 3);
    printf("   * made with an importance matrix (\"hypura imatrix\")\n");
    if (choices[best].estimate.tokens_per_second >= READING_TOKENS_PER_SECOND)
        printf("   > suits this machine: the best quality that reaches %.0f tokens/s, about reading speed.\n",
               READING_TOKENS_PER_SECOND);
    else
        printf("   > is the fastest here; none reaches %.0f tokens/s, about reading speed.\n",
               READING_TOKENS_PER_SECOND);
    printf("   \"hypura compare\" measures the difference on your own text.\n");
}

static json_t *choices_json(const struct choice *choices, size_t count)
{
    json_t *list = json_array();
    size_t best = best_choice(choices, count);
    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, json_pack("{s:s, s:I, s:f, s:f, s:b, s:b, s:o}", "quantisation",
                                              choices[i].quality->name, "bytes", (json_int_t)choices[i].bytes,
                                              "divergence", choices[i].quality->divergence, "added_perplexity",
                                              choices[i].quality->perplexity, "with_importance",
                                              choices[i].quality->importance, "suits", i == best, "estimate",
                                              row_json(&choices[i].estimate)));
    return list;
}

/* ---- the command ---------------------------------------------------------------------------------------------------
 */

static hypura_status make_rows(struct estimate rows[ESTIMATE_SIZES], size_t *count,
                               const struct estimate_request *request, hypura_error *error)
{
    uint64_t sizes[ESTIMATE_SIZES];
    _Static_assert((size_t)ESTIMATE_SIZES >= (size_t)MOST_SIZES, "--memory takes up to MOST_SIZES");
    *count = memory_sizes.count;
    memcpy(sizes, memory_sizes.bytes, sizeof memory_sizes.bytes);
    if (*count == 0)
        *count = estimate_sizes(sizes, request->model, request->hardware);
    hypura_status status = HYPURA_OK;
    size_t made = 0;
    while (!status && made < *count) {
        status = estimate_make(&rows[made], request, sizes[made], error);
        bool whole = !status && rows[made].possible && rows[made].mode == PLAN_FULL_RESIDENT;
        made++;
        if (whole && memory_sizes.count == 0) /* more memory gains nothing */
            break;
    }
    *count = made;
    return status;
}

static void show(const struct subject *subject, const struct machine *machine, const struct estimate *rows,
                 size_t count, const struct choice *choices, size_t choice_count)
{
    if (as_json) {
        json_t *list = json_array();
        for (size_t i = 0; i < count; i++)
            json_array_append_new(list, row_json(&rows[i]));
        json_t *json =
            json_pack("{s:s, s:s, s:I, s:I, s:o, s:o}", "model", model_name(subject->model), "architecture",
                      model_architecture(subject->model)->name, "bytes", (json_int_t)model_bytes(subject->model),
                      "header_bytes_read", (json_int_t)subject->header.bytes_read, "machine", machine_json(machine),
                      "rows", list);
        if (json && choice_count) {
            json_object_set_new(json, "quantisations", choices_json(choices, choice_count));
            json_object_set_new(json, "quality_source", json_string(quality_source));
        }
        print_json(json);
        json_decref(json);
        return;
    }
    hypura_model_info info = {0};
    describe_model(&info, subject->model);
    print_summary(stdout, &info);
    if (subject->header.bytes_read) {
        char text[32];
        printf("  only %s of it were downloaded\n",
               format_bytes(text, sizeof text, (double)subject->header.bytes_read));
    }
    print_machine_of(machine);
    print_rows(rows, count);
    plot_rows(rows, count);
    print_remarks(rows, count, model_parameters(subject->model)->experts);
    if (choice_count)
        print_choices(choices, choice_count, rows[count - 1].memory);
}

static int run(size_t count, char **arguments)
{
    if (list_machines)
        return print_machines();
    hypura_error error = {0};
    struct engine_options options;
    struct machine *machine = NULL;
    struct subject subject = {.descriptor = -1};
    struct trace *trace = NULL;
    struct steps *steps = NULL;
    struct estimate rows[ESTIMATE_SIZES];
    struct choice *choices = NULL;
    size_t row_count = 0, choice_count = 0;
    const char *name = count ? arguments[0] : NULL, *drive = name && access(name, F_OK) == 0 ? name : ".";
    bool failed = ALLOCATE(&machine, 1, "machine", &error) || engine_options_of(&options, &error) ||
                  find_machine(machine, drive, &error) ||
                  open_subject(&subject, name, &machine->hardware, &options, &error);
    if (!failed)
        vocabulary_open(&subject.vocabulary, model_file(subject.model), NULL);
    if (!failed && trace_path)
        failed = trace_read(&trace, trace_path, &error) || estimate_check_trace(trace, subject.model, &error) ||
                 steps_make(&steps, subject.model, &error);
    struct estimate_request request = {subject.model, machine ? &machine->hardware : NULL, &options, trace, steps};
    failed = failed || make_rows(rows, &row_count, &request, &error);
    if (!failed && quantisations)
        failed = ALLOCATE(&choices, quality_count(), "quantisations", &error) != HYPURA_OK;
    for (size_t i = 0; choices && i < quality_count(); i++)
        choice_count += look_at(&choices[choice_count], &request, quality_at(i), rows[row_count - 1].memory);
    if (!failed)
        show(&subject, machine, rows, row_count, choices, choice_count);
    memory_free(choices);
    steps_free(steps);
    trace_free(trace);
    vocabulary_close(subject.vocabulary);
    model_close(subject.model);
    if (subject.descriptor >= 0)
        close(subject.descriptor);
    if (machine)
        hardware_drop_drives(&machine->hardware);
    memory_free(machine);
    return failed ? report_error(&error) : EXIT_OK;
}

const struct command command_estimate = {
    .name = "estimate",
    .arguments = "[MODEL|URL|PRESET]",
    .summary = "predict how a model would run, here or elsewhere, before downloading it",
    .details =
        "MODEL is a GGUF file, or a name that \"hypura list\" shows. For a URL, or "
        "hf.co/USER/REPOSITORY[:QUANTISATION], hypura downloads only the header: a few MiB, at most 60. PRESET is a "
        "geometry of \"hypura synth --list\" and needs no file. The figures come from the plan that \"hypura run\" "
        "would make with that much memory on that machine. The speed of prompts and the time to the first token are "
        "for a loaded model.",
    .options = {estimate_rows},
    .most = 1,
    .run = run,
};
