/* hypura synth: writes GGUF files of any geometry with random weights, for tests and benchmarks. */
#include "tools/synth.h"
#include "cli/engine_cli.h"
#include "store/trace.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *preset_name = "tiny-moe", *architecture, *type, *model_title;
static uint32_t layers, embedding, heads, kv_heads, head_size, feed_forward, experts, experts_used, vocabulary,
    context_length, threads;
static uint64_t seed;
static float skew = -1, stickiness = -1;
static bool list_presets, no_check, as_json;

static const struct option_row synth_rows[] = {
    {"preset", "NAME", OPTION_TEXT, &preset_name, "the geometry to start from (default: tiny-moe); see --list"},
    {"list", NULL, OPTION_FLAG, &list_presets, "list the presets"},
    {"type", "TYPE", OPTION_TEXT, &type, "type of the weights: Q4_K_M, Q5_K_M or a tensor type such as Q8_0"},
    {"seed", "N", OPTION_SEED, &seed, "seed for the random weights (default: 0); the same options give the same bytes"},
    {"skew", "X", OPTION_NUMBER, &skew, "how unevenly experts are used: in proportion to rank^-X (default: 0.5)"},
    {"stickiness", "X", OPTION_NUMBER, &stickiness,
     "how much a token uses the experts of the tokens before it, from 0 to 1 (default: 0.7)"},
    {"name", "TEXT", OPTION_TEXT, &model_title, "name of the model (general.name)"},
    {"arch", "NAME", OPTION_TEXT, &architecture, "architecture: llama, qwen2, qwen3, qwen3moe, gpt-oss"},
    {"layers", "N", OPTION_COUNT, &layers, "number of layers"},
    {"embedding", "N", OPTION_COUNT, &embedding, "size of the hidden state"},
    {"heads", "N", OPTION_COUNT, &heads, "number of attention heads"},
    {"kv-heads", "N", OPTION_COUNT, &kv_heads, "number of heads of keys and values"},
    {"head-size", "N", OPTION_COUNT, &head_size, "size of a head"},
    {"feed-forward", "N", OPTION_COUNT, &feed_forward, "width of the feed-forward network, or of an expert"},
    {"experts", "N", OPTION_COUNT, &experts, "experts per layer; 0: a dense model"},
    {"experts-used", "N", OPTION_COUNT, &experts_used, "experts used per layer and token"},
    {"vocabulary", "N", OPTION_COUNT, &vocabulary, "size of the vocabulary"},
    {"context", "N", OPTION_COUNT, &context_length, "context length that the file states"},
    {"threads", "N", OPTION_COUNT, &threads,
     "threads that make weights (default: one per core that this process may use)"},
    {"no-check", NULL, OPTION_FLAG, &no_check, "do not run the model to check how its experts are used"},
    {"json", NULL, OPTION_FLAG, &as_json, "print JSON instead"},
    {0},
};

/* Tokens of the check, which run in one pass, so every expert is read at most once. */
#define CHECK_TOKENS 256

struct expert_use {
    double entropy;   /* of the use of a layer's experts, 1: even; mean over the layers */
    double overlap;   /* share of a token's experts that the previous token used too */
    double by_chance; /* the same share for tokens that are far apart */
    double most_used; /* use of the most used expert, relative to the mean; mean over the layers */
    uint32_t tokens;
};

static uint32_t shared_experts(const uint16_t *a, const uint16_t *b, uint32_t used)
{
    uint32_t same = 0;
    for (uint32_t i = 0; i < used; i++) {
        for (uint32_t j = 0; j < used; j++)
            same += a[i] == b[j];
    }
    return same;
}

static hypura_status summarise(const struct trace *trace, struct expert_use *out, hypura_error *error)
{
    const struct trace_shape *shape = &trace->shape;
    const struct trace_pass *pass = &trace->passes[0];
    uint32_t *counts;
    hypura_status status = ALLOCATE(&counts, shape->experts, "counts", error);
    if (status)
        return status;
    uint32_t half = pass->tokens / 2;
    *out = (struct expert_use){.tokens = pass->tokens};
    for (uint32_t layer = 0; layer < shape->layer_count; layer++) {
        const uint16_t *chosen = pass->experts + (size_t)layer * pass->tokens * shape->used;
        memset(counts, 0, shape->experts * sizeof *counts);
        double entropy = 0, near = 0, far = 0;
        uint32_t most = 0, uses = pass->tokens * shape->used;
        for (uint32_t i = 0; i < uses; i++)
            counts[chosen[i]]++;
        for (uint32_t e = 0; e < shape->experts; e++) {
            most = MAX(most, counts[e]);
            double share = (double)counts[e] / uses;
            entropy -= share > 0 ? share * log(share) : 0;
        }
        for (uint32_t t = 1; t < pass->tokens; t++) {
            const uint16_t *here = chosen + (size_t)t * shape->used;
            near += shared_experts(here, here - shape->used, shape->used);
            far += shared_experts(here, chosen + (size_t)((t + half) % pass->tokens) * shape->used, shape->used);
        }
        out->entropy += entropy / log(shape->experts) / shape->layer_count;
        out->overlap += near / ((pass->tokens - 1.0) * shape->used) / shape->layer_count;
        out->by_chance += far / ((pass->tokens - 1.0) * shape->used) / shape->layer_count;
        out->most_used += (double)most * shape->experts / uses / shape->layer_count;
    }
    memory_free(counts);
    return HYPURA_OK;
}

/* Runs one chunk of random tokens and counts which experts the routers choose. */
static hypura_status check_experts(const char *path, struct expert_use *out, hypura_error *error)
{
    char trace_path[] = "/tmp/hypura-trace-XXXXXX";
    int descriptor = mkstemp(trace_path);
    if (descriptor < 0)
        return error_set(error, HYPURA_ERROR_IO, "cannot create a temporary file in /tmp");
    close(descriptor);
    struct engine_options options;
    struct engine *engine = NULL;
    struct trace *trace = NULL;
    engine_default_options(&options);
    options.context = CHECK_TOKENS;
    options.chunk = CHECK_TOKENS;
    options.threads = threads;
    options.trace_path = trace_path;
    int32_t tokens[CHECK_TOKENS];
    uint32_t positions[CHECK_TOKENS];
    struct random random;
    hypura_status status = engine_open(&engine, path, &options, error);
    if (!status) {
        random_seed(&random, seed + 1);
        for (uint32_t i = 0; i < CHECK_TOKENS; i++) {
            tokens[i] = (int32_t)(random_next(&random) % model_parameters(engine_model(engine))->vocabulary);
            positions[i] = i;
        }
        struct engine_batch batch = {.count = CHECK_TOKENS, .tokens = tokens, .positions = positions};
        status = engine_forward(engine, &batch, error);
    }
    engine_close(engine); /* the trace is complete only now */
    if (!status)
        status = trace_read(&trace, trace_path, error);
    if (!status && trace->pass_count)
        status = summarise(trace, out, error);
    trace_free(trace);
    unlink(trace_path);
    return status;
}

static bool show_progress(void *context, uint64_t done, uint64_t total)
{
    const uint64_t *start = context;
    char a[32], b[32], rate[32];
    if (clock_seconds_since(*start) > 0.5)
        show_line("writing %s of %s, %s/s", format_bytes(a, sizeof a, (double)done),
                  format_bytes(b, sizeof b, (double)total),
                  format_bytes(rate, sizeof rate, (double)done / clock_seconds_since(*start)));
    return true;
}

static int print_presets(void)
{
    json_t *list = json_array();
    for (size_t i = 0; i < synth_preset_count(); i++) {
        const struct synth_preset *preset = synth_preset_at(i);
        if (as_json)
            json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "name", preset->name, "type", preset->type,
                                                  "description", preset->description));
        else
            printf("  %-18s %-8s %s\n", preset->name, preset->type, preset->description);
    }
    if (as_json)
        print_json(list);
    json_decref(list);
    return EXIT_OK;
}

static void override(uint32_t *target, uint32_t value)
{
    if (value)
        *target = value;
}

static void set_options(struct synth_options *options, const struct synth_preset *preset)
{
    synth_default_options(options, preset);
    struct synth_geometry *g = &options->geometry;
    if (architecture)
        g->architecture = architecture;
    override(&g->layers, layers);
    override(&g->embedding, embedding);
    override(&g->heads, heads);
    override(&g->kv_heads, kv_heads);
    override(&g->head_size, head_size);
    override(&g->feed_forward, feed_forward);
    override(&g->vocabulary, vocabulary);
    override(&g->context, context_length);
    override(&g->experts_used, experts_used);
    if (experts != UINT32_MAX)
        g->experts = experts;
    if (type)
        options->type = type;
    if (model_title)
        options->name = model_title;
    options->seed = seed;
    options->skew = skew;
    options->stickiness = stickiness;
    options->threads = threads;
}

static void print_result(const char *path, uint64_t bytes, double seconds, const struct expert_use *use)
{
    char size[32], rate[32];
    if (as_json) {
        json_t *json = json_pack("{s:o, s:I, s:f}", "model", json_text(path), "bytes", (json_int_t)bytes,
                                 "write_seconds", seconds);
        if (use->tokens) {
            json_object_set_new(json, "expert_entropy", json_real(use->entropy));
            json_object_set_new(json, "expert_overlap", json_real(use->overlap));
            json_object_set_new(json, "expert_overlap_by_chance", json_real(use->by_chance));
            json_object_set_new(json, "expert_most_used", json_real(use->most_used));
        }
        print_json(json);
        json_decref(json);
        return;
    }
    printf("%s: %s of weights, written at %s/s\n", path, format_bytes(size, sizeof size, (double)bytes),
           format_bytes(rate, sizeof rate, (double)bytes / seconds));
    if (use->tokens)
        printf("Experts over %u random tokens: entropy of their use %.3f (1 is even), the most used %.1f times the "
               "mean; a token shares %.0f %% of its experts with the previous one (%.0f %% with a distant one).\n",
               use->tokens, use->entropy, use->most_used, 100 * use->overlap, 100 * use->by_chance);
}

static void prepare(void)
{
    experts = UINT32_MAX; /* 0 means dense */
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    if (list_presets)
        return print_presets();
    if (count == 0)
        return report_usage(&command_synth, "the file to write is missing");
    const struct synth_preset *preset = synth_preset(preset_name);
    if (!preset)
        return report_usage(&command_synth, "there is no preset \"%s\"; --list shows them", preset_name);
    if (preset->recipe && (architecture || embedding || heads || kv_heads || head_size || feed_forward ||
                           experts != UINT32_MAX || experts_used || vocabulary || context_length))
        return report_usage(&command_synth, "the preset %s allows only --layers, --type and --seed", preset->name);
    struct synth_options options;
    struct expert_use use = {0};
    uint64_t bytes = 0, start = clock_nanoseconds();
    set_options(&options, preset);
    hypura_status status = synth_bytes(&bytes, &options, &error);
    if (!status)
        status = synth_write(arguments[0], &options, show_progress, &start, &error);
    double seconds = clock_seconds_since(start);
    clear_line();
    if (!status && options.geometry.experts && !no_check)
        status = check_experts(arguments[0], &use, &error);
    if (status)
        return report_error(&error);
    print_result(arguments[0], bytes, seconds, &use);
    return EXIT_OK;
}

const struct command command_synth = {
    .name = "synth",
    .arguments = "OUT.gguf",
    .summary = "write a model of any geometry with random weights",
    .details =
        "For tests and benchmarks: the geometry is real, the output meaningless. --skew and --stickiness set how the "
        "experts of a mixture are used; at the end, hypura runs the model and reports their actual use.",
    .options = {synth_rows},
    .most = 1,
    .prepare = prepare,
    .run = run,
};
