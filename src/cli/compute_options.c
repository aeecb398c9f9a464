/* What every command that computes shares: its options, opening a model with a progress line, and the statistics. */
#include "cli/engine_cli.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct compute_options compute_options = {.kv_type = "f16",
                                          .reader = "auto",
                                          .prefetch = "auto",
                                          .fill = "on",
                                          .overlap = "on",
                                          .drafting = "auto",
                                          .seed = 0};

const struct option_row plan_option_rows[] = {
    {"memory", "SIZE", OPTION_BYTES, &compute_options.memory,
     "bound for everything that the process holds, such as 8G (default: what is free, less a head-room)"},
    {"memory-file", "FILE", OPTION_TEXT, &compute_options.memory_file,
     "read the bound from a file, and again at each SIGUSR1 (without a file, SIGUSR1 fits it to what is free)"},
    {"mirror", "PATH", OPTION_TEXTS, &compute_options.mirrors,
     "a copy of the model on another drive (a file, or a folder with files of the same names); each read goes to "
     "the drive that will finish first; may be repeated"},
    {"context", "N", OPTION_COUNT, &compute_options.context,
     "tokens that the model can look back on (default: chosen)"},
    {"threads", "N", OPTION_COUNT, &compute_options.threads,
     "threads that compute (default: the cores that this process may use)"},
    {"gpu", "WHICH", OPTION_TEXT, &compute_options.gpu,
     "auto (all cards), none, or numbers of \"hypura profile\", such as 0 or 0,2 (default: $HYPURA_GPU, else auto)"},
    {"gpu-memory", "SIZE", OPTION_SIZES, &compute_options.gpu_memory,
     "bound for what each GPU's own memory holds, or one for each, such as 20G,8G (default: what is free there, "
     "less a head-room)"},
    {"kv-type", "TYPE", OPTION_TEXT, &compute_options.kv_type,
     "precision of keys and values: f32, f16, bf16, q8_0, q4_0 (default: f16)"},
    {"chunk", "N", OPTION_COUNT, &compute_options.chunk,
     "tokens of a prompt that go through each layer together (default: chosen)"},
    {"no-state", NULL, OPTION_FLAG, &compute_options.no_state,
     "do not remember from run to run which experts a model uses"},
    {0},
};

const struct option_row engine_option_rows[] = {
    {"lora", "FILE[:SCALE]", OPTION_TEXTS, &compute_options.adapters,
     "add a LoRA adapter (GGUF) with this strength (default: 1); may be repeated"},
    {"gpu-fixed", NULL, OPTION_FLAG, &compute_options.gpu_fixed,
     "leave experts where they are at the start (otherwise the GPU gets those used most)"},
    {"reader", "KIND", OPTION_TEXT, &compute_options.reader,
     "how weights are read: auto, io_uring, threads (default: auto)"},
    {"depth", "N", OPTION_COUNT, &compute_options.depth, "reads in flight (default: as measured)"},
    {"prefetch", "KIND", OPTION_TEXT, &compute_options.prefetch,
     "read experts before they are needed: auto (while it pays), on, off (default: auto); --guess means the same"},
    {"fill", "KIND", OPTION_TEXT, &compute_options.fill,
     "read experts into free memory between answers: on, off (for comparison; default: on)"},
    {"cache-policy", "NAME", OPTION_TEXT, &compute_options.cache_policy,
     "which streamed experts stay in memory: cycle, lru, lfu, s3fifo (default: cycle)"},
    {"overlap", "KIND", OPTION_TEXT, &compute_options.overlap,
     "compute some experts while others are read: on, off (for comparison; default: on)"},
    {0},
};

const struct option_row draft_option_rows[] = {
    {"draft", "MODEL", OPTION_TEXT, &compute_options.draft,
     "a smaller model of the same family that drafts tokens; the large model checks several in one pass: faster if "
     "the drive is the limit, and the text stays the same"},
    {"drafting", "KIND", OPTION_TEXT, &compute_options.drafting,
     "draft tokens, by --draft, by the model's own prediction block, or from what the text repeats: auto (while it "
     "pays), on, off (default: auto)"},
    {0},
};

const struct option_row prefix_option_rows[] = {
    {"prefix-cache", "DIR[:SIZE]", OPTION_TEXT, &compute_options.prefix_cache,
     "keep what was computed of texts in a folder, at most this much (default: 16G), so that a text with the same "
     "beginning is not computed again after a restart; written when memory is full, and at the end"},
    {"prefix-memory", "SIZE", OPTION_BYTES, &compute_options.prefix_memory,
     "keep at most this much of it in memory; it is part of --memory, and taken only when used (default: a "
     "sixteenth)"},
    {"no-prefixes", NULL, OPTION_FLAG, &compute_options.no_prefixes,
     "keep only the last text of each sequence (for comparison)"},
    {0},
};

const struct option_row report_option_rows[] = {
    {"progress", NULL, OPTION_FLAG, &compute_options.progress,
     "show a line with speed, disk, hit rate and stalls while it runs"},
    {"stats", "FILE", OPTION_TEXT, &compute_options.stats, "write statistics there as one JSON object"},
    {0},
};

/* FILE or FILE:SCALE. They live as long as the program, as the command line does. */
static hypura_status set_adapters(struct engine_options *out, hypura_error *error)
{
    const struct texts *given = &compute_options.adapters;
    struct engine_adapter *adapters;
    if (given->count == 0)
        return HYPURA_OK;
    hypura_status status = ALLOCATE(&adapters, given->count, "adapters", error);
    for (size_t i = 0; !status && i < given->count; i++) {
        char *path, *colon, *end;
        status = string_copy(&path, given->items[i], error);
        if (status)
            break;
        adapters[i] = (struct engine_adapter){path, 1.0f};
        if (!(colon = strrchr(path, ':')))
            continue;
        float scale = strtof(colon + 1, &end);
        if (end != colon + 1 && *end == '\0' && isfinite(scale)) {
            adapters[i].scale = scale;
            *colon = '\0';
        }
    }
    out->adapters = adapters;
    out->adapter_count = given->count;
    return status;
}

/* A word that an option may be given; a table of them ends with a row without one. */
struct word {
    const char *text;
    int meaning;
};

static const struct word readers[] = {
    {"auto", STORE_READER_AUTO}, {"io_uring", STORE_READER_URING}, {"threads", STORE_READER_THREADS}, {0}};
static const struct word prefetchings[] = {
    {"auto", STORE_PREFETCH_AUTO}, {"on", STORE_PREFETCH_ON}, {"off", STORE_PREFETCH_OFF}, {0}};
static const struct word draftings[] = {{"auto", DRAFTING_AUTO}, {"on", DRAFTING_ON}, {"off", DRAFTING_OFF}, {0}};
static const struct word switches[] = {{"on", true}, {"off", false}, {0}};

static hypura_status read_word(int *meaning, const char *option, const char *given, const struct word *words,
                               hypura_error *error)
{
    char expected[80] = "";
    int length = 0;
    for (const struct word *word = words; word->text; word++) {
        if (strcmp(given, word->text) == 0) {
            *meaning = word->meaning;
            return HYPURA_OK;
        }
        const char *between = word == words ? "" : word[1].text ? ", " : " or ";
        length += snprintf(expected + length, sizeof expected - (size_t)length, "%s%s", between, word->text);
    }
    return error_set(error, HYPURA_ERROR_ARGUMENT, "--%s %s: expected %s", option, given, expected);
}

static hypura_status read_choices(struct engine_options *out, hypura_error *error)
{
    int reader = 0, prefetching = 0, overlap = 0, fill = 0, drafting = 0;
    const struct {
        int *meaning;
        const char *option, *given;
        const struct word *words;
    } choices[] = {{&reader, "reader", compute_options.reader, readers},
                   {&prefetching, "prefetch", compute_options.prefetch, prefetchings},
                   {&overlap, "overlap", compute_options.overlap, switches},
                   {&fill, "fill", compute_options.fill, switches},
                   {&drafting, "drafting", compute_options.drafting, draftings}};
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && i < COUNT_OF(choices); i++)
        status = read_word(choices[i].meaning, choices[i].option, choices[i].given, choices[i].words, error);
    out->reader = (enum store_reader)reader;
    out->prefetching = (enum store_prefetching)prefetching;
    out->wait_for_all = !overlap;
    out->fill = fill;
    out->drafting = (enum engine_drafting)drafting;
    return status;
}

/* DIR or DIR:SIZE. */
static hypura_status set_prefixes(struct engine_options *out, hypura_error *error)
{
    static char folder[PATH_MAX];
    out->keep_prefixes = !compute_options.no_prefixes;
    out->prefix_bytes = compute_options.prefix_memory;
    if (!compute_options.prefix_cache)
        return HYPURA_OK;
    if (compute_options.no_prefixes)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "--prefix-cache and --no-prefixes exclude each other");
    if (snprintf(folder, sizeof folder, "%s", compute_options.prefix_cache) >= (int)sizeof folder || !folder[0])
        return error_set(error, HYPURA_ERROR_ARGUMENT, "--prefix-cache: expected a folder, or a folder:size");
    char *colon = strrchr(folder, ':');
    if (colon && !parse_bytes(colon + 1, &out->prefix_path_bytes, NULL) && out->prefix_path_bytes)
        *colon = '\0';
    out->prefix_path = folder;
    return HYPURA_OK;
}

hypura_status engine_options_of(struct engine_options *out, hypura_error *error)
{
    engine_default_options(out);
    if (compute_options.memory && compute_options.memory_file)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "--memory and --memory-file exclude each other");
    hypura_status status = HYPURA_OK;
    out->budget = compute_options.memory;
    if (compute_options.memory_file)
        status = memory_from_file(&out->budget, compute_options.memory_file, error);
    if (status)
        return status;
    out->gpu = compute_options.gpu;
    const char *which = compute_options.gpu;
    size_t listed = 1;
    for (const char *at = which; at && *at; at++)
        listed += *at == ',';
    if (which && *which >= '0' && *which <= '9' && compute_options.gpu_memory.count > listed)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "--gpu-memory has %zu sizes, but --gpu names %zu",
                         compute_options.gpu_memory.count, listed);
    if (compute_options.gpu_memory.count == 1)
        out->gpu_budget = compute_options.gpu_memory.bytes[0];
    for (size_t i = 0; compute_options.gpu_memory.count > 1 && i < compute_options.gpu_memory.count; i++)
        out->gpu_budgets[i] = compute_options.gpu_memory.bytes[i];
    out->gpu_fixed = compute_options.gpu_fixed;
    out->threads = compute_options.threads;
    out->context = compute_options.context;
    out->chunk = compute_options.chunk;
    out->sequences = compute_options.sequences;
    out->trace_path = compute_options.trace;
    out->cache_policy = compute_options.cache_policy;
    if (!tensor_type_by_name(compute_options.kv_type, &out->kv_type) ||
        (out->kv_type != TENSOR_F32 && out->kv_type != TENSOR_F16 && out->kv_type != TENSOR_BF16 &&
         out->kv_type != TENSOR_Q8_0 && out->kv_type != TENSOR_Q4_0))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "--kv-type %s: expected f32, f16, bf16, q8_0 or q4_0",
                         compute_options.kv_type);
    status = read_choices(out, error);
    if (status)
        return status;
    if (compute_options.draft && out->drafting == DRAFTING_OFF)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "--draft and --drafting off exclude each other");
    if (compute_options.draft) {
        static char draft[PATH_MAX]; /* what model_path finds lasts until it is asked again */
        status = model_path(&out->draft_path, compute_options.draft, NULL, error);
        if (status)
            return status;
        snprintf(draft, sizeof draft, "%s", out->draft_path);
        out->draft_path = draft;
    }
    out->depth = compute_options.depth;
    out->mirrors = compute_options.mirrors.items;
    out->mirror_count = compute_options.mirrors.count;
    out->remember_usage = !compute_options.no_state;
    status = set_prefixes(out, error);
    return status ? status : set_adapters(out, error);
}

/* What the command line asked for, as programs ask the library. */
static hypura_status library_options_of(hypura_options *out, hypura_adapter **adapters, hypura_error *error)
{
    static const char *const reader_names[] = {"auto", "io_uring", "threads"};
    static const hypura_switch drafting[] = {HYPURA_AUTO, HYPURA_ON, HYPURA_OFF};
    struct engine_options own;
    hypura_status status = engine_options_of(&own, error);
    if (!status)
        status = ALLOCATE(adapters, own.adapter_count, "adapters", error);
    if (status)
        return status;
    for (size_t i = 0; i < own.adapter_count; i++)
        (*adapters)[i] = (hypura_adapter){own.adapters[i].path, own.adapters[i].scale};
    *out = (hypura_options){.struct_size = sizeof *out,
                            .memory_bytes = own.budget,
                            .gpu = own.gpu,
                            .gpu_memory_bytes = own.gpu_budget,
                            .threads = (uint32_t)own.threads,
                            .context_tokens = own.context,
                            .sessions = MAX(own.sequences, 1u),
                            .chunk_tokens = own.chunk,
                            .kv_type = compute_options.kv_type,
                            .adapters = *adapters,
                            .adapter_count = own.adapter_count,
                            .drafting = drafting[own.drafting],
                            .draft_path = own.draft_path,
                            .forget_prefixes = !own.keep_prefixes,
                            .prefix_memory_bytes = own.prefix_bytes,
                            .prefix_folder = own.prefix_path,
                            .prefix_folder_bytes = own.prefix_path_bytes,
                            .forget_usage = !own.remember_usage,
                            .gpu_fixed = own.gpu_fixed,
                            .reader = reader_names[own.reader],
                            .reads_in_flight = own.depth,
                            .prefetch = own.prefetching == STORE_PREFETCH_ON    ? HYPURA_ON
                                        : own.prefetching == STORE_PREFETCH_OFF ? HYPURA_OFF
                                                                                : HYPURA_AUTO,
                            .cache_policy = own.cache_policy,
                            .no_fill = !own.fill,
                            .no_overlap = own.wait_for_all,
                            .trace_path = own.trace_path,
                            .mirror_paths = own.mirrors,
                            .mirror_count = own.mirror_count,
                            .gpus_memory_bytes = compute_options.gpu_memory.bytes,
                            .gpu_count = compute_options.gpu_memory.count};
    return HYPURA_OK;
}

static bool show_load(void *context, uint64_t done, uint64_t total)
{
    struct load_line *line = context;
    uint64_t now = clock_nanoseconds();
    if (done >= total && line->last) {
        clear_line();
        line->last = 0;
    }
    /* Quick loads stay silent. */
    if (done < total && now - line->start > 500000000u && now - line->last > 100000000u && total > 0 && done > 0) {
        char a[32], b[32], rate[32], left[32];
        double seconds = (double)(now - line->start) * 1e-9, speed = (double)done / seconds;
        show_line("loading %s of %s (%.0f %%), %s/s, %s left", format_bytes(a, sizeof a, (double)done),
                  format_bytes(b, sizeof b, (double)total), 100.0 * (double)done / (double)total,
                  format_bytes(rate, sizeof rate, speed),
                  format_time(left, sizeof left, (double)(total - MIN(done, total)) / speed));
        line->last = now;
    }
    return !interrupted();
}

void load_line_start(struct load_line *line, bool (**progress)(void *, uint64_t, uint64_t), void **context)
{
    *line = (struct load_line){.start = clock_nanoseconds()};
    if (is_terminal(stderr)) {
        *progress = show_load;
        *context = line;
    }
}

static bool go_on_loading(void *context, uint64_t done, uint64_t total)
{
    (void)context, (void)done, (void)total;
    return !interrupted();
}

hypura_status open_model(hypura_model **out, hypura_session **session, const char *model, enum open_for what,
                         hypura_error *error)
{
    static struct load_line line; /* the first answer may show it too */
    hypura_options options;
    hypura_adapter *adapters = NULL;
    const char *path;
    hypura_status status = library_options_of(&options, &adapters, error);
    if (!status)
        status = model_path(&path, model, NULL, error);
    if (status) {
        memory_free(adapters);
        return status;
    }
    load_line_start(&line, &options.on_load, &options.on_load_context);
    if (what == OPEN_ANSWERS) {
        options.load_behind = true;
    } else {
        options.drafting = HYPURA_OFF;
        options.draft_path = NULL;
        if (!options.on_load)
            options.on_load = go_on_loading; /* all is there before it is used */
    }
    status = hypura_open(out, path, &options, error);
    memory_free(adapters);
    clear_line();
    if (status)
        return status;
    live_memory_start(*out);
    if (compute_options.progress)
        progress_start(*out);
    status = hypura_session_open(session, *out, error);
    if (!status)
        interrupts_cancel_session(*session);
    return status;
}

void close_model(hypura_model *model, hypura_session *session)
{
    static hypura_model *left; /* so that what is left to the end of the program is known to be meant */
    interrupts_cancel_session(NULL);
    progress_stop();
    live_memory_stop();
    hypura_session_close(session);
    if (interrupted() && model)
        hypura_leave(left = model);
    else
        hypura_close(model);
}

hypura_status open_texts(hypura_model **out, const char *model, hypura_error *error)
{
    hypura_options options = {.struct_size = sizeof options, .text_only = true};
    const char *path;
    hypura_status status = model_path(&path, model, NULL, error);
    return status ? status : hypura_open(out, path, &options, error);
}

json_t *model_statistics_json(hypura_model *model)
{
    char *text = NULL;
    if (hypura_statistics_json(model, &text, NULL))
        return NULL;
    json_t *json = json_loads(text, 0, NULL);
    hypura_free(text);
    return json;
}

static bool write_json(json_t *json)
{
    uint64_t failures = memory_failures();
    int failed = !json || json_dump_file(json, compute_options.stats, JSON_INDENT(2)) || memory_failures() != failures;
    json_decref(json);
    if (failed)
        fprintf(stderr, "hypura: cannot write %s: %s\n", compute_options.stats, strerror(errno));
    return !failed;
}

bool write_model_statistics(hypura_model *model)
{
    return !compute_options.stats || write_json(model_statistics_json(model));
}
