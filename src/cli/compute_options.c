/* What commands that compute share: options, opening a model with a progress line, statistics. */
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
     "limit for all memory of the process, such as 8G (default: the free memory, less some headroom)"},
    {"memory-file", "FILE", OPTION_TEXT, &compute_options.memory_file,
     "read the limit from a file, and again at each SIGUSR1 (without this option, SIGUSR1 adapts the limit to the free "
     "memory)"},
    {"mirror", "PATH", OPTION_TEXTS, &compute_options.mirrors,
     "a copy of the model on another drive: a file, or a folder with files of the same names; each read goes to the "
     "drive that will finish it first; may be repeated"},
    {"context", "N", OPTION_COUNT, &compute_options.context,
     "most tokens of a prompt with its answer (default: automatic)"},
    {"threads", "N", OPTION_COUNT, &compute_options.threads,
     "compute threads (default: one per core that this process may use)"},
    {"gpu", "WHICH", OPTION_TEXT, &compute_options.gpu,
     "auto (all GPUs), none, or numbers from \"hypura profile\", such as 0 or 0,2 (default: $HYPURA_GPU, else auto)"},
    {"gpu-memory", "SIZE", OPTION_SIZES, &compute_options.gpu_memory,
     "limit for each GPU's memory, or a list with one per GPU, such as 20G,8G (default: the free memory, less some "
     "headroom)"},
    {"kv-type", "TYPE", OPTION_TEXT, &compute_options.kv_type,
     "type of the KV cache: f32, f16, bf16, q8_0, q4_0 (default: f16)"},
    {"chunk", "N", OPTION_COUNT, &compute_options.chunk, "prompt tokens per pass (default: automatic)"},
    {"no-state", NULL, OPTION_FLAG, &compute_options.no_state,
     "do not read or write the record of which experts a model uses"},
    {0},
};

const struct option_row engine_option_rows[] = {
    {"lora", "FILE[:SCALE]", OPTION_TEXTS, &compute_options.adapters,
     "apply a LoRA adapter (GGUF) with this strength (default: 1); may be repeated"},
    {"gpu-fixed", NULL, OPTION_FLAG, &compute_options.gpu_fixed,
     "do not move experts while running (by default, those used most move to the GPU)"},
    {"reader", "KIND", OPTION_TEXT, &compute_options.reader,
     "how weights are read: auto, io_uring, threads (default: auto)"},
    {"depth", "N", OPTION_COUNT, &compute_options.depth, "reads in flight per drive (default: as measured)"},
    {"prefetch", "KIND", OPTION_TEXT, &compute_options.prefetch,
     "read experts that are likely to be needed: auto (while it pays), on, off (default: auto); --guess is an alias"},
    {"fill", "KIND", OPTION_TEXT, &compute_options.fill,
     "read experts into free memory between answers: on, off (for comparison; default: on)"},
    {"cache-policy", "NAME", OPTION_TEXT, &compute_options.cache_policy,
     "which streamed experts stay in memory: cycle, lru, lfu, s3fifo (default: cycle)"},
    {"overlap", "KIND", OPTION_TEXT, &compute_options.overlap,
     "compute experts while others are being read: on, off (for comparison; default: on)"},
    {0},
};

const struct option_row draft_option_rows[] = {
    {"draft", "MODEL", OPTION_TEXT, &compute_options.draft,
     "a smaller model with the same vocabulary that drafts tokens; the large model checks several in one pass, which "
     "is faster if the drive is the limit and does not change the text"},
    {"drafting", "KIND", OPTION_TEXT, &compute_options.drafting,
     "draft tokens with --draft, with the model's own prediction block, or from repetitions in the text: auto (while "
     "it pays), on, off (default: auto)"},
    {0},
};

const struct option_row prefix_option_rows[] = {
    {"prefix-cache", "DIR[:SIZE]", OPTION_TEXT, &compute_options.prefix_cache,
     "keep computed prefixes in this folder, at most SIZE (default: 16G): after a restart, a text that begins the same "
     "computes only the rest; written when memory is full and at exit"},
    {"prefix-memory", "SIZE", OPTION_BYTES, &compute_options.prefix_memory,
     "memory for computed prefixes; part of --memory, and taken only when used (default: a sixteenth of it)"},
    {"no-prefixes", NULL, OPTION_FLAG, &compute_options.no_prefixes,
     "keep only the last text of each sequence (for comparison)"},
    {0},
};

const struct option_row report_option_rows[] = {
    {"progress", NULL, OPTION_FLAG, &compute_options.progress, "show speed, drive, hit rate and stalls while running"},
    {"stats", "FILE", OPTION_TEXT, &compute_options.stats, "write statistics to this file as one JSON object"},
    {0},
};

/* FILE or FILE:SCALE. */
static hypura_status set_adapters(hypura_adapter **out, hypura_error *error)
{
    const struct texts *given = &compute_options.adapters;
    hypura_status status = NEW_ARRAY(out, given->count, "adapters", error);
    for (size_t i = 0; !status && i < given->count; i++) {
        char *path, *colon, *end;
        status = copy_text(&path, given->items[i], error); /* never freed: the options point to it */
        if (status)
            break;
        (*out)[i] = (hypura_adapter){path, 1.0f};
        if (!(colon = strrchr(path, ':')))
            continue;
        float scale = strtof(colon + 1, &end);
        if (end != colon + 1 && *end == '\0' && isfinite(scale)) {
            (*out)[i].scale = scale;
            *colon = '\0';
        }
    }
    if (status) {
        free_memory(*out);
        *out = NULL;
    }
    return status;
}

/* The values that an option takes. */
struct words {
    const char *option, *const *given;
    const char *words[6];
};

static const struct words choices[] = {
    {"kv-type", &compute_options.kv_type, {"f32", "f16", "bf16", "q8_0", "q4_0"}},
    {"reader", &compute_options.reader, {"auto", "io_uring", "threads"}},
    {"prefetch", &compute_options.prefetch, {"auto", "on", "off"}},
    {"overlap", &compute_options.overlap, {"on", "off"}},
    {"fill", &compute_options.fill, {"on", "off"}},
    {"drafting", &compute_options.drafting, {"auto", "on", "off"}},
};

static hypura_status check_words(const struct words *choice, hypura_error *error)
{
    char expected[80] = "";
    int length = 0;
    for (size_t i = 0; choice->words[i]; i++) {
        if (strcmp(*choice->given, choice->words[i]) == 0)
            return HYPURA_OK;
        const char *between = i == 0 ? "" : choice->words[i + 1] ? ", " : " or ";
        length += snprintf(expected + length, sizeof expected - (size_t)length, "%s%s", between, choice->words[i]);
    }
    return set_error(error, HYPURA_ERROR_ARGUMENT, "--%s %s: expected %s", choice->option, *choice->given, expected);
}

/* word: auto, on or off. */
static hypura_switch switch_of(const char *word)
{
    return strcmp(word, "on") == 0 ? HYPURA_ON : strcmp(word, "off") == 0 ? HYPURA_OFF : HYPURA_AUTO;
}

/* DIR or DIR:SIZE. */
static hypura_status set_prefixes(hypura_options *out, hypura_error *error)
{
    static char folder[PATH_MAX];
    if (!compute_options.prefix_cache)
        return HYPURA_OK;
    if (compute_options.no_prefixes)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "--prefix-cache and --no-prefixes exclude each other");
    if (snprintf(folder, sizeof folder, "%s", compute_options.prefix_cache) >= (int)sizeof folder || !folder[0])
        return set_error(error, HYPURA_ERROR_ARGUMENT, "--prefix-cache: expected DIR or DIR:SIZE");
    char *colon = strrchr(folder, ':');
    if (colon && !read_size(colon + 1, &out->prefix_folder_bytes, NULL) && out->prefix_folder_bytes)
        *colon = '\0';
    out->prefix_folder = folder;
    return HYPURA_OK;
}

static hypura_status check_gpus(hypura_error *error)
{
    const char *which = compute_options.gpu;
    size_t listed = 1;
    for (const char *at = which; at && *at; at++)
        listed += *at == ',';
    if (which && *which >= '0' && *which <= '9' && compute_options.gpu_memory.count > listed)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "--gpu-memory has %zu sizes, but --gpu names %zu GPUs",
                         compute_options.gpu_memory.count, listed);
    return HYPURA_OK;
}

static hypura_status set_draft(hypura_options *out, hypura_error *error)
{
    static char draft[PATH_MAX]; /* model_path overwrites its result at the next call */
    if (!compute_options.draft)
        return HYPURA_OK;
    if (out->drafting == HYPURA_OFF)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "--draft and --drafting off exclude each other");
    hypura_status status = model_path(&out->draft_path, compute_options.draft, NULL, error);
    if (status)
        return status;
    snprintf(draft, sizeof draft, "%s", out->draft_path);
    out->draft_path = draft;
    return HYPURA_OK;
}

hypura_status given_options(hypura_options *out, hypura_adapter **adapters, hypura_error *error)
{
    const struct compute_options *given = &compute_options;
    hypura_status status = HYPURA_OK;
    if (given->memory && given->memory_file)
        return set_error(error, HYPURA_ERROR_ARGUMENT, "--memory and --memory-file exclude each other");
    *out = (hypura_options){.struct_size = sizeof *out,
                            .memory_bytes = given->memory,
                            .gpu = given->gpu,
                            .threads = given->threads,
                            .context_tokens = given->context,
                            .sessions = MAX(given->sequences, 1u),
                            .chunk_tokens = given->chunk,
                            .kv_type = given->kv_type,
                            .drafting = switch_of(given->drafting),
                            .forget_prefixes = given->no_prefixes,
                            .prefix_memory_bytes = given->prefix_memory,
                            .forget_usage = given->no_state,
                            .gpu_fixed = given->gpu_fixed,
                            .reader = given->reader,
                            .reads_in_flight = given->depth,
                            .prefetch = switch_of(given->prefetch),
                            .cache_policy = given->cache_policy,
                            .no_fill = switch_of(given->fill) == HYPURA_OFF,
                            .no_overlap = switch_of(given->overlap) == HYPURA_OFF,
                            .trace_path = given->trace,
                            .mirror_paths = given->mirrors.items,
                            .mirror_count = given->mirrors.count};
    if (given->gpu_memory.count == 1) {
        out->gpu_memory_bytes = given->gpu_memory.bytes[0];
    } else {
        out->gpus_memory_bytes = given->gpu_memory.bytes;
        out->gpu_count = given->gpu_memory.count;
    }
    if (given->memory_file)
        status = memory_from_file(&out->memory_bytes, given->memory_file, error);
    if (!status)
        status = check_gpus(error);
    for (size_t i = 0; !status && i < COUNT_OF(choices); i++)
        status = check_words(&choices[i], error);
    if (!status)
        status = set_draft(out, error);
    if (!status)
        status = set_prefixes(out, error);
    if (!status)
        status = set_adapters(adapters, error);
    if (status)
        return status;
    out->adapters = *adapters;
    out->adapter_count = given->adapters.count;
    return HYPURA_OK;
}

static bool show_load(void *context, uint64_t done, uint64_t total)
{
    struct load_line *line = context;
    uint64_t now = now_nanoseconds();
    if (done >= total && line->last) {
        clear_line();
        line->last = 0;
    }
    /* Quick loads show no line. */
    if (done < total && now - line->start > 500000000u && now - line->last > 100000000u && total > 0 && done > 0) {
        char a[32], b[32], rate[32], left[32];
        double seconds = (double)(now - line->start) * 1e-9, speed = (double)done / seconds;
        show_line("loading %s of %s (%.0f %%), %s/s, %s left", size_text(a, sizeof a, (double)done),
                  size_text(b, sizeof b, (double)total), 100.0 * (double)done / (double)total,
                  size_text(rate, sizeof rate, speed),
                  format_time(left, sizeof left, (double)(total - MIN(done, total)) / speed));
        line->last = now;
    }
    return !interrupted();
}

static bool go_on_loading(void *context, uint64_t done, uint64_t total)
{
    (void)context, (void)done, (void)total;
    return !interrupted();
}

void load_line_start(struct load_line *line, hypura_options *options)
{
    *line = (struct load_line){.start = now_nanoseconds()};
    options->on_load = is_terminal(stderr) ? show_load : go_on_loading;
    options->on_load_context = line;
}

hypura_status open_model(hypura_model **out, hypura_session **session, const char *model, enum open_for what,
                         hypura_error *error)
{
    static struct load_line line; /* shown until all weights are loaded, which may be during the first answer */
    hypura_options options;
    hypura_adapter *adapters = NULL;
    const char *path;
    hypura_status status = given_options(&options, &adapters, error);
    if (!status)
        status = model_path(&path, model, NULL, error);
    if (status) {
        free_memory(adapters);
        return status;
    }
    load_line_start(&line, &options);
    if (what == OPEN_ANSWERS) {
        options.load_behind = true;
        if (!is_terminal(stderr))
            options.on_load = NULL;
    } else {
        options.drafting = HYPURA_OFF;
        options.draft_path = NULL;
    }
    status = hypura_open(out, path, &options, error);
    free_memory(adapters);
    clear_line();
    if (status)
        return status;
    live_memory_start(*out, compute_options.memory_file);
    if (compute_options.progress)
        progress_start(*out);
    status = hypura_session_open(session, *out, error);
    if (!status)
        interrupts_cancel_session(*session);
    return status;
}

void close_model(hypura_model *model, hypura_session *session)
{
    static hypura_model *left; /* a leak checker must see that this memory is kept on purpose */
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
    json_t *json = read_json(text, strlen(text), 0, NULL);
    hypura_free(text);
    return json;
}

static bool write_json(json_t *json)
{
    uint64_t failures = lost_memory();
    int failed = !json || json_dump_file(json, compute_options.stats, JSON_INDENT(2)) || lost_memory() != failures;
    json_decref(json);
    if (failed)
        fprintf(stderr, "hypura: cannot write %s: %s\n", compute_options.stats, strerror(errno));
    return !failed;
}

bool write_model_statistics(hypura_model *model)
{
    return !compute_options.stats || write_json(model_statistics_json(model));
}
