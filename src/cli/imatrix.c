/* hypura imatrix: how much each column of a model's matrices matters. */
#include "tools/imatrix.h"
#include "cli/engine_cli.h"
#include "tokenizer/vocabulary.h"

#include <string.h>

static const char *text_path;
static uint32_t window = 512;
static bool as_json;

static const struct option_row imatrix_rows[] = {
    {"text", "FILE", OPTION_TEXT, &text_path,
     "the text that the model reads, best of the kind that it will be used for"},
    {"window", "N", OPTION_COUNT, &window, "tokens per window (default: 512)"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead"},
    {0},
};

#define TEXT_LIMIT ((uint64_t)1 << 30)

static bool show_progress(void *context, uint64_t windows, uint64_t total)
{
    (void)context;
    show_line("window %llu of %llu", (unsigned long long)windows, (unsigned long long)total);
    return !interrupted();
}

static void print_result(const struct imatrix *imatrix, const char *path)
{
    struct imatrix_summary summary;
    imatrix_summary(imatrix, &summary);
    if (as_json) {
        json_t *json = json_pack("{s:I, s:I, s:I, s:I}", "tensors", (json_int_t)summary.matrices, "windows",
                                 (json_int_t)summary.windows, "matrices", (json_int_t)summary.experts,
                                 "unused_matrices", (json_int_t)summary.unused);
        print_json(json);
        json_decref(json);
        return;
    }
    printf("%s: importance for %zu tensors from %llu windows of %u tokens", path, summary.matrices,
           (unsigned long long)summary.windows, window);
    if (summary.unused)
        printf("; %llu of %llu matrices (experts) were never used: a longer text reaches more of them",
               (unsigned long long)summary.unused, (unsigned long long)summary.experts);
    printf("\n");
}

static hypura_status open_for_it(struct engine **engine, const char *model, hypura_error *error)
{
    struct engine_options options;
    const char *path;
    uint64_t bytes;
    hypura_status status = model_path(&path, model, NULL, error);
    if (!status && compute_options.gpu && strcmp(compute_options.gpu, "none") != 0)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "importance is collected on the CPU: leave out --gpu");
    if (!status)
        status = imatrix_bytes(&bytes, path, error);
    if (!status && !(status = engine_options_of(&options, error))) {
        options.gpu = "none";
        options.reserved += (int64_t)bytes;
        options.drafting = DRAFTING_OFF;
        status = engine_open(engine, path, &options, error);
    }
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct engine *engine = NULL;
    struct imatrix *imatrix = NULL;
    const struct vocabulary *vocabulary = NULL;
    struct token_array tokens = {0};
    char *text = NULL;
    size_t size = 0;
    (void)count;
    if (!text_path)
        return report_usage(&command_imatrix, "--text is missing: name the text that the model reads");
    hypura_status status = read_whole_file(text_path, TEXT_LIMIT, &text, &size, &error);
    if (compute_options.context == 0)
        compute_options.context = window;
    if (!status)
        status = open_for_it(&engine, arguments[0], &error);
    if (!status)
        status = engine_vocabulary(&vocabulary, engine, &error);
    if (!status)
        status = vocabulary_tokenize(vocabulary, text, size, TOKENIZE_ADD_SPECIAL, &tokens, &error);
    if (!status) {
        interrupts_cancel(engine);
        int32_t bos = vocabulary_adds_bos(vocabulary) ? vocabulary_special(vocabulary, SPECIAL_BOS) : NO_TOKEN;
        status = imatrix_collect(&imatrix, engine, tokens.ids, tokens.count, window, bos, show_progress, NULL, &error);
        clear_line();
    }
    if (!status)
        status = imatrix_write(imatrix, arguments[1], text_path, &error);
    if (!status)
        print_result(imatrix, arguments[1]);
    int exit_status = status ? report_error(&error) : EXIT_OK;
    interrupts_cancel(NULL);
    imatrix_free(imatrix);
    token_array_free(&tokens);
    engine_close(engine);
    memory_free(text);
    return exit_status;
}

const struct command command_imatrix = {
    .name = "imatrix",
    .arguments = "MODEL OUT.gguf",
    .summary = "measure how much each column of a model's matrices matters",
    .details = MODEL_HELP
    "The model reads a text, and OUT gets the mean squares of the inputs of its matrices, in the format of "
    "llama-imatrix, for \"hypura quantize --imatrix\" and llama-quantize. Use a text of about 100,000 tokens, of the "
    "kind that the model will be used for.",
    .options = {imatrix_rows, plan_option_rows, engine_option_rows},
    .least = 2,
    .most = 2,
    .leaves_gpus = true,
    .run = run,
};
