/* hypura replay: the hit rate that each cache policy and size would have had on recorded routing. */
#include "tools/replay.h"
#include "cli/engine_cli.h"

#include <stdlib.h>
#include <string.h>

static const char *sizes_text;
static uint32_t warm_passes;
static bool as_json;

static const struct option_row replay_rows[] = {
    {"memory", "SIZES", OPTION_TEXT, &sizes_text,
     "sizes of the expert cache, separated by commas, such as 1G,2G,4G (default: tenths of all experts)"},
    {"warm", "N", OPTION_COUNT, &warm_passes, "passes at the start that fill the cache and do not count (default: 0)"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead"},
    {0},
};

#define MAX_SIZES 64
#define BAR_WIDTH 30

static hypura_status parse_sizes(const struct trace *trace, uint64_t sizes[MAX_SIZES], size_t *count,
                                 hypura_error *error)
{
    *count = 0;
    if (!sizes_text) {
        for (uint64_t i = 1; i <= 10; i++)
            sizes[(*count)++] = replay_total_bytes(trace) / 10 * i;
        return HYPURA_OK;
    }
    for (const char *at = sizes_text; *at;) {
        char piece[64];
        size_t length = strcspn(at, ",");
        if (length >= sizeof piece || *count == MAX_SIZES)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "--memory: expected at most %d sizes, separated by commas",
                             MAX_SIZES);
        memcpy(piece, at, length);
        piece[length] = 0;
        hypura_status status = parse_bytes(piece, &sizes[*count], error);
        if (status)
            return error_prefix(error, "--memory");
        (*count)++;
        at += length + (at[length] == ',');
    }
    return HYPURA_OK;
}

static double hit_rate(const struct replay_result *result)
{
    uint64_t uses = result->hits + result->misses;
    return uses ? (double)result->hits / (double)uses : 0;
}

static void draw_rate(double rate)
{
    int cells = (int)(rate * BAR_WIDTH + 0.5);
    bool blocks = use_blocks();
    for (int i = 0; i < BAR_WIDTH; i++)
        fputs(i < cells ? blocks ? "█" : "#" : blocks ? "·" : ".", stdout);
}

static hypura_status replay_size(const struct trace *trace, uint64_t bytes, json_t *list, hypura_error *error)
{
    char size[32], missed[32];
    if (!as_json)
        printf("\n%s, %.0f %% of all experts%s\n", format_bytes(size, sizeof size, (double)bytes),
               100.0 * (double)bytes / (double)replay_total_bytes(trace),
               bytes < replay_cycle_bytes(trace) ? ": less than one token uses, so plain LRU never hits" : "");
    for (size_t p = 0; p < replay_policy_count(); p++) {
        struct replay_result result;
        const char *policy = replay_policy_name(p);
        hypura_status status =
            replay_run(&result, trace,
                       &(struct replay_how){.policy = policy, .cache_bytes = bytes, .warm_passes = warm_passes}, error);
        if (status)
            return status;
        if (as_json) {
            json_array_append_new(
                list, json_pack("{s:s, s:I, s:I, s:I, s:f, s:I}", "policy", policy, "cache_bytes", (json_int_t)bytes,
                                "expert_hits", (json_int_t)result.hits, "expert_misses", (json_int_t)result.misses,
                                "hit_rate", hit_rate(&result), "bytes_demanded", (json_int_t)result.bytes_missed));
            continue;
        }
        printf("  %-10s %5.1f %%  ", policy, 100 * hit_rate(&result));
        draw_rate(hit_rate(&result));
        printf("  %s per token\n",
               format_bytes(missed, sizeof missed, (double)result.bytes_missed / (double)MAX(result.tokens, 1u)));
    }
    return HYPURA_OK;
}

static int run(size_t count, char **arguments)
{
    (void)count;
    hypura_error error = {0};
    struct trace *trace = NULL;
    uint64_t sizes[MAX_SIZES];
    size_t size_count = 0;
    json_t *list = json_array();
    hypura_status status = trace_read(&trace, arguments[0], &error);
    if (!status)
        status = parse_sizes(trace, sizes, &size_count, &error);
    if (!status && !as_json) {
        char a[32], b[32];
        printf("%s: %llu tokens in %zu passes, %u layers of %u experts, %u used; %s in all, %s for one token\n",
               trace->shape.name, (unsigned long long)trace->tokens, trace->pass_count, trace->shape.layer_count,
               trace->shape.experts, trace->shape.used, format_bytes(a, sizeof a, (double)replay_total_bytes(trace)),
               format_bytes(b, sizeof b, (double)replay_cycle_bytes(trace)));
        printf("hypura uses the first policy. belady is the optimum, which would need to know the future.\n");
    }
    for (size_t i = 0; !status && i < size_count; i++)
        status = replay_size(trace, sizes[i], list, &error);
    if (!status && as_json) {
        json_t *json = json_pack("{s:s, s:I, s:I, s:I, s:O}", "model", trace->shape.name, "tokens",
                                 (json_int_t)trace->tokens, "expert_bytes", (json_int_t)replay_total_bytes(trace),
                                 "cycle_bytes", (json_int_t)replay_cycle_bytes(trace), "results", list);
        print_json(json);
        json_decref(json);
    }
    json_decref(list);
    trace_free(trace);
    return status ? report_error(&error) : EXIT_OK;
}

const struct command command_replay = {
    .name = "replay",
    .arguments = "TRACE",
    .summary = "compare cache policies and sizes on recorded routing",
    .details = "Record the routing with \"hypura run --trace TRACE\". Replaying it runs no model and reads no weights.",
    .options = {replay_rows},
    .least = 1,
    .most = 1,
    .run = run,
};
