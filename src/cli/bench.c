/* hypura bench: how fast a model runs here, compared with the bandwidth of the memory. */
#include "cli/cli.h"
#include "cli/compare_llama.h"

#include <string.h>

static uint32_t prompt_tokens = 512, generated_tokens = 128, context_fill, parallel = 1, repeat = 3;
static bool as_json, compare;

#define PARALLEL_MOST 64

static const struct option_row bench_rows[] = {
    {"prompt-tokens", "N", OPTION_COUNT, &prompt_tokens, "length of the prompt (default: 512; 0: none)"},
    {"gen-tokens", "N", OPTION_COUNT, &generated_tokens, "tokens to decode (default: 128; 0: none)"},
    {"context-fill", "N", OPTION_COUNT, &context_fill, "tokens already in the context (default: 0)"},
    {"parallel", "N", OPTION_COUNT, &parallel, "sequences that decode at the same time (default: 1)"},
    {"repeat", "N", OPTION_COUNT, &repeat, "rounds, of which the median is reported (default: 3)"},
    {"seed", "N", OPTION_SEED, &compute_options.seed, "seed for the random tokens (default: 0)"},
    {"trace", "FILE", OPTION_TEXT, &compute_options.trace, "record which experts are chosen, for \"hypura estimate\""},
    {"compare", NULL, OPTION_FLAG, &compare,
     "alternate with llama.cpp's llama-bench ($LLAMA_BENCH, else from the PATH), with the same file and threads"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead, which \"hypura plot\" draws"},
    {0},
};

static void print_speed(const char *name, uint32_t tokens, const hypura_rate *rate)
{
    if (tokens)
        printf("%-8s %6u tokens  %10.2f tokens/s  (%.2f to %.2f)\n", name, tokens, rate->median, rate->least,
               rate->most);
}

static void report_json(hypura_model *model, const hypura_speed *speed)
{
    const hypura_rate *prompt = &speed->prompt_tokens_per_second, *answer = &speed->answer_tokens_per_second;
    double memory = speed->memory_bytes_per_second.median;
    json_t *json = model_statistics_json(model);
    json_object_set_new(json, "prompt_tokens", json_integer(prompt_tokens));
    json_object_set_new(json, "generated_tokens", json_integer(generated_tokens));
    json_object_set_new(json, "context_fill", json_integer(context_fill));
    json_object_set_new(json, "parallel", json_integer(parallel));
    json_object_set_new(json, "repeat", json_integer(repeat));
    json_object_set_new(json, "prompt_tokens_per_second", json_real(prompt->median));
    json_object_set_new(json, "prompt_tokens_per_second_least", json_real(prompt->least));
    json_object_set_new(json, "prompt_tokens_per_second_most", json_real(prompt->most));
    json_object_set_new(json, "decode_tokens_per_second", json_real(answer->median));
    json_object_set_new(json, "decode_tokens_per_second_least", json_real(answer->least));
    json_object_set_new(json, "decode_tokens_per_second_most", json_real(answer->most));
    json_object_set_new(json, "decode_bytes_per_token", json_real(speed->answer_bytes_per_token.median));
    json_object_set_new(json, "memory_bytes_per_second", memory > 0 ? json_real(memory) : json_null());
    json_object_set_new(json, "share_of_memory_bandwidth",
                        memory > 0 ? json_real(speed->share_of_memory.median) : json_null());
    print_json(json);
    json_decref(json);
}

static void report(hypura_model *model, const hypura_speed *speed)
{
    char text[32];
    const double memory = speed->memory_bytes_per_second.median, read = speed->answer_bytes_per_token.median;
    if (as_json) {
        report_json(model, speed);
        return;
    }
    printf("%s, %s, %u threads\n", hypura_get_info(model)->name, hypura_get_plan(model)->mode,
           hypura_get_info(model)->threads);
    print_speed("prompt", prompt_tokens, &speed->prompt_tokens_per_second);
    print_speed("decode", generated_tokens, &speed->answer_tokens_per_second);
    if (generated_tokens && parallel > 1)
        printf("Tokens are per sequence; the speed is that of all %u sequences together.\n", parallel);
    if (generated_tokens && memory > 0)
        printf("Decoding reached %.0f %% of the memory bandwidth measured in this run (%s/s).\n",
               100 * speed->share_of_memory.median, size_text(text, sizeof text, memory));
    if (read > 0)
        printf("Each token read %s from the drive.\n", size_text(text, sizeof text, read));
}

/* The memory bandwidth is measured only if it is the limit, since measuring needs memory itself. Several sequences that
 * share a pass are bound by compute. */
static hypura_status measure(hypura_model *model, hypura_session *session, hypura_speed *speed, hypura_error *error)
{
    bool resident = strcmp(hypura_get_plan(model)->mode, "full-resident") == 0;
    hypura_measure how = {.struct_size = sizeof how,
                          .prompt_tokens = prompt_tokens,
                          .answer_tokens = generated_tokens,
                          .held_tokens = context_fill,
                          .sequences = parallel,
                          .rounds = repeat,
                          .seed = compute_options.seed,
                          .meter_memory =
                              parallel == 1 && generated_tokens && resident && !hypura_get_info(model)->gpu};
    return hypura_measure_speed(session, &how, speed, error);
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    hypura_model *model = NULL;
    hypura_session *session = NULL;
    hypura_speed speed = {.struct_size = sizeof speed};
    uint64_t needed = (uint64_t)context_fill + MAX(MAX(prompt_tokens, generated_tokens), 8u);
    if (repeat == 0 || needed > UINT32_MAX)
        return report_usage(&command_bench, "--repeat must be at least 1, and the lengths must fit a context");
    if (parallel == 0 || parallel > PARALLEL_MOST)
        return report_usage(&command_bench, "--parallel %u: expected 1 to %d", parallel, PARALLEL_MOST);
    if (compare && (parallel > 1 || compute_options.stats || compute_options.adapters.count))
        return report_usage(&command_bench,
                            "--compare does not work with --parallel, --stats or --lora, which llama-bench lacks");
    if (compare && prompt_tokens == 0 && generated_tokens == 0)
        return report_usage(&command_bench, "--compare needs --prompt-tokens or --gen-tokens above 0");
    if (compare)
        return compare_with_llama(&(struct llama_comparison){.command = &command_bench,
                                                             .model = count ? arguments[0] : NULL,
                                                             .prompt_tokens = prompt_tokens,
                                                             .generated_tokens = generated_tokens,
                                                             .context_fill = context_fill,
                                                             .rounds = repeat,
                                                             .json = as_json});
    compute_options.sequences = parallel;
    if (compute_options.context == 0)
        compute_options.context = (uint32_t)needed;
    hypura_status status = open_model(&model, &session, count ? arguments[0] : NULL, OPEN_MEASURES, &error);
    if (!status)
        status = measure(model, session, &speed, &error);
    if (!status)
        report(model, &speed);
    int result = status ? report_error(&error) : write_model_statistics(model) ? EXIT_OK : EXIT_FAILED;
    close_model(model, session);
    return result;
}

const struct command command_bench = {
    .name = "bench",
    .arguments = "[MODEL]",
    .summary = "measure how fast a model reads prompts and decodes",
    .details = "Runs random tokens through the model. Between decoded tokens it measures the bandwidth of the memory, "
               "and reports "
               "what share of it decoding used.",
    .options = {bench_rows, plan_option_rows, engine_option_rows, report_option_rows},
    .most = 1,
    .run = run,
};
