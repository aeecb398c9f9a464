/* hypura perplexity: how well a model predicts a text. */
#include "tools/perplexity.h"
#include "cli/cli.h"
#include "tokenizer/vocabulary.h"

#include <string.h>

static uint32_t window = 512;
static bool as_json;

static const struct option_row perplexity_rows[] = {
    {"window", "N", OPTION_COUNT, &window, "tokens of a window, of which the second half counts (default: 512)"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead"},
    {0},
};

#define TEXT_LIMIT ((uint64_t)1 << 30)

static bool show_progress(void *context, const struct perplexity *so_far, uint64_t windows)
{
    (void)context;
    show_line("window %llu of %llu: perplexity %.4f", (unsigned long long)so_far->windows, (unsigned long long)windows,
              so_far->perplexity);
    return !interrupted();
}

static void print_result(struct engine *engine, const struct perplexity *result)
{
    if (as_json) {
        json_t *json = statistics_json(engine);
        json_object_set_new(json, "perplexity", json_real(result->perplexity));
        json_object_set_new(json, "uncertainty", json_real(result->uncertainty));
        json_object_set_new(json, "windows", json_integer((json_int_t)result->windows));
        json_object_set_new(json, "counted_tokens", json_integer((json_int_t)result->counted));
        print_json(json);
        json_decref(json);
        return;
    }
    printf("perplexity %.4f +/- %.4f over %llu tokens in %llu windows of %u\n", result->perplexity, result->uncertainty,
           (unsigned long long)result->counted, (unsigned long long)result->windows, window);
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct engine *engine = NULL;
    const struct vocabulary *vocabulary = NULL;
    struct token_array tokens = {0};
    struct perplexity result;
    char *text = NULL;
    size_t size = 0;
    hypura_status status = read_whole_file(arguments[count - 1], TEXT_LIMIT, &text, &size, &error);
    if (!status && size > 4 && memcmp(text, "GGUF", 4) == 0)
        status = error_set(&error, HYPURA_ERROR_ARGUMENT, "%s is a model; the text to measure comes after it",
                           arguments[count - 1]);
    if (compute_options.context == 0)
        compute_options.context = window;
    if (!status)
        status = open_engine(&engine, count > 1 ? arguments[0] : NULL, false, &error);
    if (!status)
        status = engine_vocabulary(&vocabulary, engine, &error);
    if (!status)
        status = vocabulary_tokenize(vocabulary, text, size, TOKENIZE_ADD_SPECIAL, &tokens, &error);
    if (!status) {
        interrupts_cancel(engine);
        int32_t bos = vocabulary_adds_bos(vocabulary) ? vocabulary_special(vocabulary, SPECIAL_BOS) : NO_TOKEN;
        status =
            perplexity_measure(engine, tokens.ids, tokens.count, window, bos, show_progress, NULL, &result, &error);
        clear_line();
    }
    if (!status)
        print_result(engine, &result);
    int exit_status = status ? report_error(&error) : write_statistics(engine) ? EXIT_OK : EXIT_FAILED;
    interrupts_cancel(NULL);
    token_array_free(&tokens);
    close_engine(engine);
    memory_free(text);
    return exit_status;
}

const struct command command_perplexity = {
    .name = "perplexity",
    .arguments = "[MODEL] FILE",
    .summary = "measure how well a model predicts a text",
    .details =
        "The text is cut into windows, and the second half of each counts, as in llama-perplexity, so that figures "
        "compare (with llama.cpp's --no-escape).",
    .options = {perplexity_rows, plan_option_rows, engine_option_rows, report_option_rows},
    .least = 1,
    .most = 2,
    .run = run,
};
