/* The two programs run in turn, each in its own process, so neither holds memory while the other is measured. */
#include "cli/compare_llama.h"
#include "cli/child.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

enum { PROMPT, DECODE, KINDS };

struct rounds {
    double *ours, *theirs, *ratios;
};

struct measured {
    struct rounds of[KINDS];
    json_t *last; /* what hypura printed in the last round */
    char version[64];
    uint32_t threads;
};

static const char *const left_out[] = {"compare", "json", "repeat", "stats", "prompt-tokens", "gen-tokens", NULL};

/* $LLAMA_BENCH may be a command with arguments. */
static hypura_status llama_command(struct arguments *arguments, hypura_error *error)
{
    const char *command = getenv("LLAMA_BENCH");
    if (!command || !*command)
        command = "llama-bench";
    hypura_status status = HYPURA_OK;
    while (!status && *command) {
        char word[PATH_MAX];
        size_t length = strcspn(command, " ");
        if (length > 0) {
            snprintf(word, sizeof word, "%.*s", (int)length, command);
            status = arguments_add(arguments, word, error);
        }
        command += length + strspn(command + length, " ");
    }
    return status             ? status
           : arguments->count ? HYPURA_OK
                              : set_error(error, HYPURA_ERROR_ARGUMENT, "LLAMA_BENCH is blank");
}

static hypura_status check_llama(hypura_error *error)
{
    struct arguments arguments = {0};
    hypura_status status = llama_command(&arguments, error);
    if (!status && !child_exists(arguments.items[0]))
        status = set_error(error, HYPURA_ERROR_IO,
                           "there is no program \"%.200s\": install llama.cpp, or set LLAMA_BENCH to its llama-bench",
                           arguments.items[0]);
    arguments_free(&arguments);
    return status;
}

static hypura_status add_number(struct arguments *arguments, const char *option, uint32_t value, hypura_error *error)
{
    char number[16];
    snprintf(number, sizeof number, "%u", value);
    hypura_status status = arguments_add(arguments, option, error);
    return status ? status : arguments_add(arguments, number, error);
}

static hypura_status add_texts(struct arguments *arguments, const char *const *texts, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && texts[i]; i++)
        status = arguments_add(arguments, texts[i], error);
    return status;
}

static double number_of(const json_t *object, const char *key)
{
    return json_number_value(json_object_get(object, key));
}

static hypura_status this_program(struct arguments *arguments, hypura_error *error)
{
    char path[PATH_MAX];
    if (!program_path(path, sizeof path))
        return set_error(error, HYPURA_ERROR_UNSUPPORTED, "the system does not tell the path of this program");
    return arguments_add(arguments, path, error);
}

/* llama.cpp maps the whole file. If the file exceeds the free memory, the machine only reads it again and again; with
 * swap, it may not respond for hours. */
static hypura_status check_room(const struct llama_comparison *comparison, const char *model, hypura_error *error)
{
    struct arguments arguments = {0};
    json_t *json = NULL;
    uint32_t context = comparison->context_fill + MAX(MAX(comparison->prompt_tokens, comparison->generated_tokens), 8u);
    hypura_status status = this_program(&arguments, error);
    if (!status)
        status = add_texts(&arguments, (const char *const[]){"inspect", model, "--json", "--gpu", "none", NULL}, error);
    if (!status)
        status = add_number(&arguments, "--context", context, error);
    if (!status)
        status = child_json(&json, &arguments, true, error);
    if (!status) {
        const json_t *plan = json_object_get(json, "plan");
        double needed = number_of(json, "bytes") + number_of(plan, "kv_bytes") + number_of(plan, "scratch_bytes");
        double free_bytes = number_of(plan, "budget_bytes");
        char a[32], b[32];
        if (needed > free_bytes)
            status =
                set_error(error, HYPURA_ERROR_MEMORY,
                          "llama.cpp would need %s for this model, but only %s are free, so it would read the file "
                          "again and again; compare with a smaller model, or in a control group with "
                          "bench/oversize.sh",
                          size_text(a, sizeof a, needed), size_text(b, sizeof b, free_bytes));
    }
    json_decref(json);
    arguments_free(&arguments);
    return status;
}

static hypura_status our_round(const struct llama_comparison *comparison, const char *model, struct measured *measured,
                               uint32_t round, hypura_error *error)
{
    struct arguments arguments = {0};
    hypura_status status = this_program(&arguments, error);
    if (!status)
        status = add_texts(&arguments, (const char *const[]){"bench", model, "--json", "--repeat", "1", NULL}, error);
    if (!status)
        status = add_number(&arguments, "--prompt-tokens", comparison->prompt_tokens, error);
    if (!status)
        status = add_number(&arguments, "--gen-tokens", comparison->generated_tokens, error);
    const struct option_row *const *tables = comparison->command->options;
    for (size_t t = 0; !status && t < COUNT_OF(comparison->command->options) && tables[t]; t++)
        status = arguments_add_options(&arguments, tables[t], left_out, error);
    json_decref(measured->last);
    measured->last = NULL;
    if (!status)
        status = child_json(&measured->last, &arguments, false, error);
    if (!status) {
        measured->threads = (uint32_t)number_of(measured->last, "threads");
        measured->of[PROMPT].ours[round] = number_of(measured->last, "prompt_tokens_per_second");
        measured->of[DECODE].ours[round] = number_of(measured->last, "decode_tokens_per_second");
    }
    arguments_free(&arguments);
    return status;
}

static hypura_status their_round(const struct llama_comparison *comparison, const char *model,
                                 struct measured *measured, uint32_t round, hypura_error *error)
{
    struct arguments arguments = {0};
    json_t *rows = NULL;
    const char *kv = compute_options.kv_type;
    bool on_gpu = number_of(measured->last, "bytes_gpu") > 0;
    hypura_status status = llama_command(&arguments, error);
    if (!status)
        status = add_texts(&arguments,
                           (const char *const[]){"-m", model, "-r", "1", "-o", "json", "-ctk", kv, "-ctv", kv, "-ngl",
                                                 on_gpu ? "99" : "0", NULL},
                           error);
    /* llama.cpp needs flash attention for a quantised cache. */
    if (!status && kv[0] == 'q')
        status = add_texts(&arguments, (const char *const[]){"-fa", "1", NULL}, error);
    if (!status)
        status = add_number(&arguments, "-t", measured->threads, error);
    if (!status)
        status = add_number(&arguments, "-p", comparison->prompt_tokens, error);
    if (!status)
        status = add_number(&arguments, "-n", comparison->generated_tokens, error);
    if (!status && comparison->context_fill)
        status = add_number(&arguments, "-d", comparison->context_fill, error);
    if (!status)
        status = child_json(&rows, &arguments, true, error);
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row)
    {
        struct rounds *rounds = &measured->of[number_of(row, "n_gen") > 0 ? DECODE : PROMPT];
        rounds->theirs[round] = number_of(row, "avg_ts");
        const char *commit = json_string_value(json_object_get(row, "build_commit"));
        snprintf(measured->version, sizeof measured->version, "%.0f (%.40s)", number_of(row, "build_number"),
                 commit ? commit : "?");
    }
    for (int kind = 0; !status && kind < KINDS; kind++) {
        struct rounds *rounds = &measured->of[kind];
        bool wanted = kind == PROMPT ? comparison->prompt_tokens : comparison->generated_tokens;
        if (wanted && !(rounds->theirs[round] > 0))
            status = set_error(error, HYPURA_ERROR_FORMAT, "%s printed no speed for %s", arguments.items[0],
                               kind == PROMPT ? "the prompt" : "decoding");
        rounds->ratios[round] = wanted ? rounds->ours[round] / rounds->theirs[round] : 0;
    }
    json_decref(rows);
    arguments_free(&arguments);
    return status;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *sorted, uint32_t count)
{
    return count % 2 ? sorted[count / 2] : 0.5 * (sorted[count / 2 - 1] + sorted[count / 2]);
}

/* NAME, NAME_least and NAME_most. */
static void set_figures(json_t *json, const char *name, const double *sorted, uint32_t count)
{
    char key[80];
    json_object_set_new(json, name, json_real(median(sorted, count)));
    snprintf(key, sizeof key, "%s_least", name);
    json_object_set_new(json, key, json_real(sorted[0]));
    snprintf(key, sizeof key, "%s_most", name);
    json_object_set_new(json, key, json_real(sorted[count - 1]));
}

static void report(const struct llama_comparison *comparison, const char *model, struct measured *measured)
{
    static const char *const speeds[] = {"prompt_tokens_per_second", "decode_tokens_per_second"},
                             *const ratios[] = {"prompt_ratio", "decode_ratio"}, *const names[] = {"prompt", "decode"};
    uint32_t tokens[] = {comparison->prompt_tokens, comparison->generated_tokens}, rounds = comparison->rounds;
    json_t *json = measured->last, *llama = json_object();
    json_object_set_new(llama, "version", json_string(measured->version));
    json_object_set_new(json, "file", json_text(model));
    json_object_set_new(json, "repeat", json_integer(rounds));
    json_object_set(json, "llama", llama);
    if (!comparison->json)
        printf(
            "%s, %s, %u threads; llama.cpp %s; in turn, medians of %u (least to most)\n\n%-8s %12s  %-28s %-28s %s\n",
            json_string_value(json_object_get(json, "model")), json_string_value(json_object_get(json, "mode")),
            measured->threads, measured->version, rounds, "", "", "hypura, tokens/s", "llama.cpp, tokens/s", "ratio");
    for (int kind = 0; kind < KINDS; kind++) {
        struct rounds *of = &measured->of[kind];
        if (tokens[kind] == 0)
            continue;
        double *const all[] = {of->ours, of->theirs, of->ratios};
        for (size_t i = 0; i < COUNT_OF(all); i++)
            qsort(all[i], rounds, sizeof *all[i], compare_doubles);
        set_figures(json, speeds[kind], of->ours, rounds);
        set_figures(llama, speeds[kind], of->theirs, rounds);
        set_figures(json, ratios[kind], of->ratios, rounds);
        char ours[64], theirs[64];
        snprintf(ours, sizeof ours, "%.2f (%.2f to %.2f)", median(of->ours, rounds), of->ours[0], of->ours[rounds - 1]);
        snprintf(theirs, sizeof theirs, "%.2f (%.2f to %.2f)", median(of->theirs, rounds), of->theirs[0],
                 of->theirs[rounds - 1]);
        if (!comparison->json)
            printf("%-8s %5u tokens  %-28s %-28s %.2f\n", names[kind], tokens[kind], ours, theirs,
                   median(of->ratios, rounds));
    }
    if (compute_options.memory && !comparison->json)
        printf("\n--memory limits only hypura; llama.cpp could use all memory.\n");
    if (comparison->json)
        print_json(json);
    json_decref(llama);
}

int compare_with_llama(const struct llama_comparison *comparison)
{
    hypura_error error = {0};
    struct measured measured = {0};
    const char *model;
    hypura_status status = model_path(&model, comparison->model, NULL, &error);
    if (!status)
        status = check_llama(&error);
    if (!status)
        status = check_room(comparison, model, &error);
    for (int kind = 0; !status && kind < KINDS; kind++) {
        struct rounds *rounds = &measured.of[kind];
        status = NEW_ARRAY(&rounds->ours, comparison->rounds, "figures", &error);
        if (!status)
            status = NEW_ARRAY(&rounds->theirs, comparison->rounds, "figures", &error);
        if (!status)
            status = NEW_ARRAY(&rounds->ratios, comparison->rounds, "figures", &error);
    }
    for (uint32_t round = 0; !status && round < comparison->rounds; round++) {
        show_line("round %u of %u: hypura", round + 1, comparison->rounds);
        status = our_round(comparison, model, &measured, round, &error);
        show_line("round %u of %u: llama.cpp", round + 1, comparison->rounds);
        if (!status)
            status = their_round(comparison, model, &measured, round, &error);
        clear_line();
    }
    if (!status)
        report(comparison, model, &measured);
    json_decref(measured.last);
    for (int kind = 0; kind < KINDS; kind++) {
        free_memory(measured.of[kind].ours);
        free_memory(measured.of[kind].theirs);
        free_memory(measured.of[kind].ratios);
    }
    return status ? report_error(&error) : EXIT_OK;
}
