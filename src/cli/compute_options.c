/* What every command that computes shares: its options, opening a model with a progress line, and the statistics. */
#include "cli/cli.h"

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

void load_line_start(struct load_line *line, struct engine_options *options)
{
    *line = (struct load_line){.start = clock_nanoseconds()};
    if (is_terminal(stderr)) {
        options->progress = show_load;
        options->progress_context = line;
    }
}

hypura_status open_engine(struct engine **out, const char *model, bool drafts, hypura_error *error)
{
    struct engine_options options;
    const char *path;
    hypura_status status = engine_options_of(&options, error);
    if (!drafts)
        options.drafting = DRAFTING_OFF;
    if (!status)
        status = model_path(&path, model, NULL, error);
    if (status)
        return status;
    static struct load_line line; /* the first pass shows it too */
    options.begin_early = drafts; /* for who is going to talk */
    load_line_start(&line, &options);
    status = engine_open(out, path, &options, error);
    clear_line();
    if (!status)
        live_memory_start(*out);
    if (!status && compute_options.progress)
        progress_start(*out);
    return status;
}

void close_engine(struct engine *engine)
{
    static struct engine *left; /* so that what is left to the end of the program is known to be meant */
    progress_stop();
    live_memory_stop();
    if (interrupted())
        engine_leave(left = engine);
    else
        engine_close(engine);
}

struct prefetch_rates find_prefetch_rates(const struct engine_statistics *s)
{
    double used = (double)s->store.prefetches_used, needed = used + (double)s->store.expert_misses;
    if (!s->store.prefetches)
        return (struct prefetch_rates){-1, -1};
    return (struct prefetch_rates){used / (double)s->store.prefetches, needed > 0 ? used / needed : -1};
}

static json_t *rate_json(double rate)
{
    return rate < 0 ? json_null() : json_real(rate);
}

/* What each drive brought. */
static json_t *drives_json(const struct store_statistics *s)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < s->drive_count; i++)
        json_array_append_new(array,
                              json_pack("{s:o, s:I, s:f, s:f, s:i}", "device", json_text(s->drives[i].name),
                                        "bytes_read", (json_int_t)s->drives[i].bytes_read, "share",
                                        s->bytes_read ? (double)s->drives[i].bytes_read / (double)s->bytes_read : 0.0,
                                        "bytes_per_second", s->drives[i].bytes_per_second, "files_left",
                                        (int)s->drives[i].copies_left));
    return array;
}

json_t *statistics_json(struct engine *engine)
{
    struct engine_statistics s;
    engine_statistics(engine, &s);
    const struct plan *plan = engine_plan(engine);
    struct limit limit = find_limit(engine, &s);
    struct prefetch_rates prefetches = find_prefetch_rates(&s);
    return json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:o}",
        "model", model_name(engine_model(engine)), "mode", plan_mode_name(plan->mode), "threads",
        (json_int_t)engine_threads(engine), "prompt_tokens", (json_int_t)s.prompt_tokens, "generated_tokens",
        (json_int_t)s.generated_tokens, "load_seconds", s.load_seconds, "prompt_seconds", s.prompt_seconds,
        "decode_seconds", s.decode_seconds, "prompt_tokens_per_second",
        s.prompt_seconds > 0 ? (double)s.prompt_tokens / s.prompt_seconds : 0.0, "decode_tokens_per_second",
        s.decode_seconds > 0 ? (double)s.generated_tokens / s.decode_seconds : 0.0, "bytes_read",
        (json_int_t)s.store.bytes_read, "bytes_demanded", (json_int_t)s.store.bytes_demanded, "bytes_guessed",
        (json_int_t)s.store.bytes_prefetched, "bytes_filled", (json_int_t)s.store.bytes_filled, "bytes_wasted",
        (json_int_t)s.store.bytes_wasted, "expert_hits", (json_int_t)s.store.expert_hits, "expert_misses",
        (json_int_t)s.store.expert_misses, "expert_moves", (json_int_t)s.store.expert_moves, "rows_wanted",
        (json_int_t)s.store.rows_wanted, "rows_cached", (json_int_t)s.store.rows_cached, "peak_rss_bytes",
        (json_int_t)s.peak_rss_bytes, "budget_bytes", (json_int_t)s.budget_bytes, "bytes_gpu", (json_int_t)s.bytes_gpu,
        "bytes_ram", (json_int_t)s.bytes_ram, "bytes_storage", (json_int_t)s.bytes_storage, "decode_bytes_read",
        (json_int_t)s.decode_bytes_read, "decode_passes", (json_int_t)s.decode_passes, "drafted_tokens",
        (json_int_t)s.drafted_tokens, "accepted_tokens", (json_int_t)s.accepted_tokens, "share_of_limit",
        rate_json(limit.share), "share_side_by_side", rate_json(limit.side_share), "bound",
        plan_bound_name(limit.bound), "guess_precision", rate_json(prefetches.precision), "guess_recall",
        rate_json(prefetches.recall), "code_on_top_bytes", (json_int_t)(plan->code_on_top ? hardware_code_bytes() : 0),
        "prefix_bytes", (json_int_t)s.prefix.bytes, "prefix_tokens", (json_int_t)s.prefix.restored_tokens,
        "prefix_bytes_read", (json_int_t)s.prefix.read_bytes, "prefix_bytes_written",
        (json_int_t)s.prefix.written_bytes, "drives", drives_json(&s.store));
}

bool write_statistics(struct engine *engine)
{
    if (!compute_options.stats)
        return true;
    uint64_t failures = memory_failures();
    json_t *json = statistics_json(engine);
    int failed = !json || json_dump_file(json, compute_options.stats, JSON_INDENT(2)) || memory_failures() != failures;
    json_decref(json);
    if (failed)
        fprintf(stderr, "hypura: cannot write %s: %s\n", compute_options.stats, strerror(errno));
    return !failed;
}
