/* hypura compare: how far one model's predictions differ from another's. */
#include "tools/compare.h"
#include "cli/engine_cli.h"
#include "tokenizer/vocabulary.h"

#include <string.h>
#include <sys/stat.h>

static const char *text_path;
static uint32_t window = 512;
static bool as_json;

static const struct option_row compare_rows[] = {
    {"text", "FILE", OPTION_TEXT, &text_path,
     "the text that both read, best of the kind that the model will be used for"},
    {"window", "N", OPTION_COUNT, &window, "tokens per window, of which the second half counts (default: 512)"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead"},
    {0},
};

#define TEXT_LIMIT ((uint64_t)1 << 30)
#define BESIDE ((int64_t)96 << 20) /* memory that comparing itself needs */

static bool show_progress(void *context, const struct comparison *so_far, uint64_t windows)
{
    (void)context;
    show_line("window %llu of %llu: divergence %.5f", (unsigned long long)so_far->windows, (unsigned long long)windows,
              so_far->divergence.value);
    return !interrupted();
}

static json_t *value_json(struct compared_value value)
{
    return json_pack("{s:f, s:f}", "value", value.value, "uncertainty", value.uncertainty);
}

static void print_result(const struct comparison *c)
{
    if (as_json) {
        json_t *json =
            json_pack("{s:[o,o], s:o, s:o, s:f, s:f, s:f, s:o, s:I, s:I}", "perplexity", value_json(c->perplexity[0]),
                      value_json(c->perplexity[1]), "log_ratio", value_json(c->log_ratio), "divergence",
                      value_json(c->divergence), "divergence_median", c->median, "divergence_99", c->percentile_99,
                      "divergence_greatest", c->greatest, "agreement", value_json(c->agreement), "counted_tokens",
                      (json_int_t)c->counted, "windows", (json_int_t)c->windows);
        print_json(json);
        json_decref(json);
        return;
    }
    printf("perplexity          %.4f +/- %.4f and %.4f +/- %.4f\n", c->perplexity[0].value,
           c->perplexity[0].uncertainty, c->perplexity[1].value, c->perplexity[1].uncertainty);
    printf("log of their ratio  %.5f +/- %.5f\n", c->log_ratio.value, c->log_ratio.uncertainty);
    printf("KL divergence       %.5f +/- %.5f, median %.5f, 99 %% below %.5f, greatest %.5f\n", c->divergence.value,
           c->divergence.uncertainty, c->median, c->percentile_99, c->greatest);
    printf("same first choice   %.2f %% +/- %.2f %%\n", 100 * c->agreement.value, 100 * c->agreement.uncertainty);
    printf("over %llu tokens in %llu windows of %u\n", (unsigned long long)c->counted, (unsigned long long)c->windows,
           window);
}

/* Each model gets half of --memory. Without --memory, the first leaves room for the file of the second. */
static hypura_status open_both(struct engine *engines[2], char **arguments, hypura_error *error)
{
    struct engine_options options;
    hypura_status status = engine_options_of(&options, error);
    for (int m = 0; !status && m < 2; m++) {
        const char *path;
        struct engine_options own = options;
        struct stat other = {0};
        own.drafting = DRAFTING_OFF;
        own.gpu = own.gpu ? own.gpu : "none";
        if (!(status = model_path(&path, arguments[1 - m], NULL, error)))
            stat(path, &other);
        own.reserved += BESIDE;
        if (m == 0)
            own.reserved += options.budget ? (int64_t)(options.budget / 2) - BESIDE / 2 : (int64_t)other.st_size;
        if (!status && !(status = model_path(&path, arguments[m], NULL, error)))
            status = engine_open(&engines[m], path, &own, error);
    }
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct engine *engines[2] = {NULL, NULL};
    const struct vocabulary *vocabulary = NULL;
    struct token_array tokens = {0};
    struct comparison result;
    char *text = NULL;
    size_t size = 0;
    (void)count;
    if (!text_path)
        return report_usage(&command_compare, "--text is missing: name the text that both models read");
    hypura_status status = read_whole_file(text_path, TEXT_LIMIT, &text, &size, &error);
    if (compute_options.context == 0)
        compute_options.context = window;
    if (!status)
        status = open_both(engines, arguments, &error);
    if (!status)
        status = engine_vocabulary(&vocabulary, engines[0], &error);
    if (!status)
        status = vocabulary_tokenize(vocabulary, text, size, TOKENIZE_ADD_SPECIAL, &tokens, &error);
    if (!status) {
        interrupts_cancel(engines[1]);
        int32_t bos = vocabulary_adds_bos(vocabulary) ? vocabulary_special(vocabulary, SPECIAL_BOS) : NO_TOKEN;
        status = compare_models(engines, tokens.ids, tokens.count, window, bos, show_progress, NULL, &result, &error);
        clear_line();
    }
    if (!status)
        print_result(&result);
    int exit_status = status ? report_error(&error) : EXIT_OK;
    interrupts_cancel(NULL);
    token_array_free(&tokens);
    engine_close(engines[1]);
    engine_close(engines[0]);
    memory_free(text);
    return exit_status;
}

const struct command command_compare = {
    .name = "compare",
    .arguments = "A B",
    .summary = "measure how far one model's predictions differ from another's",
    .details =
        "A and B are GGUF files, or names that \"hypura list\" shows: two quantisations, or the original (A) and a "
        "quantisation of it (B). Both read the same text and share --memory. hypura prints the perplexity of each, "
        "how far B's probabilities diverge from A's, and how often both find the same token most likely.",
    .options = {compare_rows, plan_option_rows, engine_option_rows},
    .least = 2,
    .most = 2,
    .leaves_gpus = true,
    .run = run,
};
