/* hypura perplexity: how well a model predicts a text. The text is cut into windows of equal length. Only the second
 * half of each counts, for which the model has seen at least half a window. */
#include "cli/cli.h"

#include <math.h>
#include <string.h>

static uint32_t window = 512;
static bool as_json;

static const struct option_row perplexity_rows[] = {
    {"window", "N", OPTION_COUNT, &window, "tokens per window, of which the second half counts (default: 512)"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead"},
    {0},
};

#define TEXT_LIMIT ((uint64_t)1 << 30)

struct measured {
    double perplexity;
    double uncertainty; /* one standard error of the mean, converted to perplexity */
    uint64_t counted;   /* tokens that counted */
    uint64_t windows;
};

struct sums {
    double total, squares;
    uint64_t count;
    const int32_t *tokens; /* of the current window */
    size_t vocabulary;
};

/* The negative logarithm of the softmax at one id. In double, since many tokens are added up. */
static double surprise(const float *logits, size_t vocabulary, int32_t id)
{
    float best = logits[0];
    for (size_t i = 1; i < vocabulary; i++)
        best = MAX(best, logits[i]);
    double sum = 0;
    for (size_t i = 0; i < vocabulary; i++)
        sum += exp((double)(logits[i] - best));
    return log(sum) - (double)(logits[id] - best);
}

static bool count_row(void *context, size_t index, const float *logits)
{
    struct sums *sums = context;
    double value = surprise(logits, sums->vocabulary, sums->tokens[index + 1]);
    sums->total += value;
    sums->squares += value * value;
    sums->count++;
    return true;
}

static void conclude(const struct sums *sums, struct measured *out)
{
    double mean = sums->total / (double)sums->count;
    double variance = sums->squares / (double)sums->count - mean * mean;
    out->perplexity = exp(mean);
    out->counted = sums->count;
    out->uncertainty =
        sums->count > 1 && variance > 0 ? out->perplexity * sqrt(variance / (double)(sums->count - 1)) : 0;
    out->windows++;
}

/* begin: replaces the first token of each window; HYPURA_NO_TOKEN: the model expects none. */
static hypura_status measure_windows(hypura_session *session, int32_t *tokens, uint64_t windows, int32_t begin,
                                     struct sums *sums, struct measured *out, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (uint64_t w = 0; !status && w < windows; w++) {
        int32_t *first = tokens + w * window;
        sums->tokens = first;
        if (begin != HYPURA_NO_TOKEN)
            *first = begin;
        status = hypura_logits(session, first, window - 1, window / 2, count_row, sums, error);
        if (status)
            break;
        conclude(sums, out);
        show_line("window %llu of %llu: perplexity %.4f", (unsigned long long)out->windows, (unsigned long long)windows,
                  out->perplexity);
        if (interrupted())
            status = set_error(error, HYPURA_ERROR_CANCELLED, "stopped after %llu of %llu windows",
                               (unsigned long long)(w + 1), (unsigned long long)windows);
    }
    clear_line();
    return status;
}

static hypura_status measure(hypura_model *model, hypura_session *session, const char *text, size_t size,
                             struct measured *out, hypura_error *error)
{
    struct sums sums = {.vocabulary = hypura_get_info(model)->vocabulary_size};
    uint32_t context = hypura_get_plan(model)->context_tokens;
    int32_t *tokens = NULL;
    size_t count = 0;
    hypura_status status = hypura_tokenize(model, text, size, HYPURA_ADD_SPECIAL, &tokens, &count, error);
    if (!status && (window < 4 || window > context))
        status = set_error(error, HYPURA_ERROR_ARGUMENT, "--window %u: expected at least 4 and at most the context, %u",
                           window, context);
    if (!status && count < window)
        status =
            set_error(error, HYPURA_ERROR_ARGUMENT, "the text has %zu tokens, but one window needs %u", count, window);
    if (!status)
        status = measure_windows(session, tokens, count / window, hypura_begin_token(model), &sums, out, error);
    hypura_free(tokens);
    return status;
}

static void print_result(hypura_model *model, const struct measured *result)
{
    if (as_json) {
        json_t *json = model_statistics_json(model);
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
    hypura_model *model = NULL;
    hypura_session *session = NULL;
    struct measured result = {0};
    char *text = NULL;
    size_t size = 0;
    hypura_status status = read_whole_file(arguments[count - 1], TEXT_LIMIT, &text, &size, &error);
    if (!status && size > 4 && memcmp(text, "GGUF", 4) == 0)
        status = set_error(&error, HYPURA_ERROR_ARGUMENT, "%s is a model; name the text to measure after it",
                           arguments[count - 1]);
    if (compute_options.context == 0)
        compute_options.context = window;
    if (!status)
        status = open_model(&model, &session, count > 1 ? arguments[0] : NULL, OPEN_MEASURES, &error);
    if (!status)
        status = measure(model, session, text, size, &result, &error);
    if (!status)
        print_result(model, &result);
    int exit_status = status ? report_error(&error) : write_model_statistics(model) ? EXIT_OK : EXIT_FAILED;
    close_model(model, session);
    free_memory(text);
    return exit_status;
}

const struct command command_perplexity = {
    .name = "perplexity",
    .arguments = "[MODEL] FILE",
    .summary = "measure how well a model predicts a text",
    .details =
        "The text is cut into windows, and the second half of each counts. llama-perplexity --no-escape does the same, "
        "so the results can be compared.",
    .options = {perplexity_rows, plan_option_rows, engine_option_rows, report_option_rows},
    .least = 1,
    .most = 2,
    .run = run,
};
