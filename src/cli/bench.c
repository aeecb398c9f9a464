/* hypura bench: how fast a model runs here, beside what the memory allows. */
#include "cli/cli.h"
#include "cli/compare_llama.h"

#include <math.h>
#include <stdlib.h>

static uint32_t prompt_tokens = 512, generated_tokens = 128, context_fill, parallel = 1, repeat = 3;
static bool as_json, compare;

#define PARALLEL_MOST 64

static const struct option_row bench_rows[] = {
    {"prompt-tokens", "N", OPTION_COUNT, &prompt_tokens, "length of the prompt (default: 512; 0: none)"},
    {"gen-tokens", "N", OPTION_COUNT, &generated_tokens, "tokens to decode (default: 128; 0: none)"},
    {"context-fill", "N", OPTION_COUNT, &context_fill, "tokens that are in the context already (default: 0)"},
    {"parallel", "N", OPTION_COUNT, &parallel, "sequences that decode at once (default: 1)"},
    {"repeat", "N", OPTION_COUNT, &repeat, "rounds; the median counts (default: 3)"},
    {"seed", "N", OPTION_SEED, &compute_options.seed, "seed of the random tokens (default: 0)"},
    {"compare", NULL, OPTION_FLAG, &compare,
     "also run llama.cpp's llama-bench ($LLAMA_BENCH, else from the PATH), with the same file and threads, in turn"},
    {"json", NULL, OPTION_FLAG, &as_json, "print one JSON object instead; hypura plot draws it"},
    {0},
};

static int32_t random_token(struct random *random, uint32_t vocabulary)
{
    return (int32_t)(random_next(random) % vocabulary);
}

/* Random tokens of a sequence from position first on, in chunks. */
static hypura_status feed(struct engine *engine, struct random *random, uint32_t sequence, uint32_t first,
                          uint32_t count, hypura_error *error)
{
    uint32_t chunk = engine_plan(engine)->chunk, vocabulary = model_parameters(engine_model(engine))->vocabulary;
    int32_t *tokens = NULL;
    uint32_t *positions = NULL, *sequences = NULL;
    hypura_status status = ALLOCATE(&tokens, chunk, "tokens", error);
    if (!status)
        status = ALLOCATE(&positions, chunk, "positions", error);
    if (!status)
        status = ALLOCATE(&sequences, chunk, "sequences", error);
    for (uint32_t done = 0; !status && done < count;) {
        uint32_t now = MIN(chunk, count - done);
        for (uint32_t i = 0; i < now; i++) {
            tokens[i] = random_token(random, vocabulary);
            positions[i] = first + done + i;
            sequences[i] = sequence;
        }
        struct engine_batch batch = {.count = now, .tokens = tokens, .positions = positions, .sequences = sequences};
        status = engine_forward(engine, &batch, error);
        done += now;
    }
    memory_free(tokens);
    memory_free(positions);
    memory_free(sequences);
    return status;
}

/* Leaves the fill in every sequence, no more: of what is there already, where that can be cut. */
static hypura_status fill_context(struct engine *engine, struct random *random, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (uint32_t s = 0; !status && s < parallel; s++) {
        engine_truncate(engine, s, context_fill);
        uint32_t held = engine_positions(engine, s);
        status = feed(engine, random, s, held, context_fill - held, error);
    }
    return status;
}

/* Decoding between two looks at what the memory gives, which leave nothing in the caches. */
#define METER_SECONDS 0.1

struct decoding {
    double seconds;
    double read_seconds, reads; /* for each byte, and how often that was looked at */
    double looked;              /* when last, in seconds of decoding */
    struct memory_meter *meter; /* or NULL */
};

static void look_at_memory(struct decoding *decoding)
{
    decoding->read_seconds += 1.0 / memory_meter_read(decoding->meter);
    decoding->reads++;
    decoding->looked = decoding->seconds;
}

/* A token of every sequence a step. */
static hypura_status decode(struct engine *engine, struct random *random, uint32_t first, uint32_t count,
                            struct decoding *decoding, hypura_error *error)
{
    int32_t tokens[PARALLEL_MOST];
    uint32_t positions[PARALLEL_MOST], sequences[PARALLEL_MOST];
    bool want[PARALLEL_MOST];
    hypura_status status = HYPURA_OK;
    for (uint32_t i = 0; !status && i < count; i++) {
        if (decoding->meter && decoding->seconds - decoding->looked >= METER_SECONDS)
            look_at_memory(decoding);
        for (uint32_t s = 0; s < parallel; s++) {
            tokens[s] = random_token(random, model_parameters(engine_model(engine))->vocabulary);
            positions[s] = first + i;
            sequences[s] = s;
            want[s] = true;
        }
        struct engine_batch batch = {
            .count = parallel, .tokens = tokens, .positions = positions, .sequences = sequences, .want_logits = want};
        uint64_t start = clock_nanoseconds();
        status = engine_forward(engine, &batch, error);
        decoding->seconds += clock_seconds_since(start);
    }
    if (decoding->meter)
        look_at_memory(decoding);
    return status;
}

struct rounds {
    double *speeds; /* tokens a second */
    double median, least, most;
};

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarise(struct rounds *rounds, uint32_t count)
{
    qsort(rounds->speeds, count, sizeof *rounds->speeds, compare_doubles);
    rounds->least = rounds->speeds[0];
    rounds->most = rounds->speeds[count - 1];
    rounds->median =
        count % 2 ? rounds->speeds[count / 2] : 0.5 * (rounds->speeds[count / 2 - 1] + rounds->speeds[count / 2]);
}

struct figures {
    struct rounds prompt, decode;
    struct rounds memory, share; /* bytes a second that the memory gave while tokens were decoded; 0: not measured */
};

/* What is not counted: pages, caches and clocks settle. A GPU's kernels are made when they are first used, so there it
 * is as long as what is measured. */
static hypura_status warm_up(struct engine *engine, struct random *random, hypura_error *error)
{
    uint32_t chunk = engine_plan(engine)->chunk;
    hypura_status status =
        feed(engine, random, 0, 0, MIN(engine_gpu(engine) ? MAX(prompt_tokens, 8u) : 8u, chunk), error);
    struct decoding decoding = {0};
    if (!status && engine_gpu(engine) && generated_tokens)
        status = fill_context(engine, random, error);
    if (!status && engine_gpu(engine))
        status = decode(engine, random, context_fill, MIN(generated_tokens, 4u), &decoding, error);
    return status;
}

static hypura_status measure(struct engine *engine, struct figures *figures, struct memory_meter *meter,
                             hypura_error *error)
{
    struct random random;
    random_seed(&random, compute_options.seed);
    hypura_status status = warm_up(engine, &random, error);
    for (uint32_t round = 0; !status && round < repeat; round++) {
        status = fill_context(engine, &random, error);
        uint64_t start = clock_nanoseconds();
        if (!status)
            status = feed(engine, &random, 0, context_fill, prompt_tokens, error);
        figures->prompt.speeds[round] = prompt_tokens / clock_seconds_since(start);
        /* Decoding starts from the fill, not from the prompt: that is what a reader expects of two separate figures. */
        if (!status)
            status = fill_context(engine, &random, error);
        struct decoding decoding = {.meter = meter};
        if (!status)
            status = decode(engine, &random, context_fill, generated_tokens, &decoding, error);
        double speed = decoding.seconds > 0 ? generated_tokens * parallel / decoding.seconds : 0;
        figures->decode.speeds[round] = speed;
        if (meter) {
            figures->memory.speeds[round] = decoding.reads / decoding.read_seconds;
            figures->share.speeds[round] =
                speed * bytes_per_token(engine_model(engine)) / figures->memory.speeds[round];
        }
    }
    if (!status) {
        summarise(&figures->prompt, repeat);
        summarise(&figures->decode, repeat);
        summarise(&figures->memory, repeat);
        summarise(&figures->share, repeat);
    }
    return status;
}

static void print_speed(const char *name, uint32_t tokens, const struct rounds *rounds)
{
    if (tokens)
        printf("%-8s %6u tokens  %10.2f tokens/s  (%.2f to %.2f)\n", name, tokens, rounds->median, rounds->least,
               rounds->most);
}

static int report(struct engine *engine, const struct figures *figures)
{
    const struct rounds *prompt = &figures->prompt, *decoding = &figures->decode;
    double memory = figures->memory.median, share = figures->share.median;
    if (as_json) {
        json_t *json = statistics_json(engine);
        json_object_set_new(json, "prompt_tokens", json_integer(prompt_tokens));
        json_object_set_new(json, "generated_tokens", json_integer(generated_tokens));
        json_object_set_new(json, "context_fill", json_integer(context_fill));
        json_object_set_new(json, "parallel", json_integer(parallel));
        json_object_set_new(json, "repeat", json_integer(repeat));
        json_object_set_new(json, "prompt_tokens_per_second", json_real(prompt->median));
        json_object_set_new(json, "prompt_tokens_per_second_least", json_real(prompt->least));
        json_object_set_new(json, "prompt_tokens_per_second_most", json_real(prompt->most));
        json_object_set_new(json, "decode_tokens_per_second", json_real(decoding->median));
        json_object_set_new(json, "decode_tokens_per_second_least", json_real(decoding->least));
        json_object_set_new(json, "decode_tokens_per_second_most", json_real(decoding->most));
        json_object_set_new(json, "memory_bytes_per_second", memory > 0 ? json_real(memory) : json_null());
        json_object_set_new(json, "share_of_memory_bandwidth", memory > 0 ? json_real(share) : json_null());
        print_json(json);
        json_decref(json);
        return EXIT_OK;
    }
    char text[32];
    printf("%s, %s, %zu threads\n", model_name(engine_model(engine)), plan_mode_name(engine_plan(engine)->mode),
           engine_threads(engine));
    print_speed("prompt", prompt_tokens, prompt);
    print_speed("decode", generated_tokens, decoding);
    if (generated_tokens && parallel > 1)
        printf("The tokens are those of each of %u sequences, the speed is of all together.\n", parallel);
    if (generated_tokens && memory > 0)
        printf("Decoding moved %.0f %% of what the memory gave in this run (%s/s).\n", 100 * share,
               format_bytes(text, sizeof text, memory));
    return EXIT_OK;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct engine *engine = NULL;
    struct figures figures = {0};
    struct memory_meter *meter = NULL;
    uint64_t needed = (uint64_t)context_fill + MAX(MAX(prompt_tokens, generated_tokens), 8u);
    if (repeat == 0 || needed > UINT32_MAX)
        return report_usage(&command_bench, "--repeat must be at least 1, and the lengths fit a context");
    if (parallel == 0 || parallel > PARALLEL_MOST)
        return report_usage(&command_bench, "--parallel %u: expected 1 to %d", parallel, PARALLEL_MOST);
    if (compare && (parallel > 1 || compute_options.stats || compute_options.adapters.count))
        return report_usage(&command_bench,
                            "--compare takes no --parallel, --stats or --lora: llama-bench has nothing like them");
    if (compare && prompt_tokens == 0 && generated_tokens == 0)
        return report_usage(&command_bench, "--compare needs tokens of a prompt or to decode");
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
    hypura_status status = open_engine(&engine, count ? arguments[0] : NULL, false, &error);
    if (!status) {
        interrupts_cancel(engine);
        struct rounds *all[] = {&figures.prompt, &figures.decode, &figures.memory, &figures.share};
        for (size_t i = 0; i < COUNT_OF(all) && !status; i++)
            status = ALLOCATE(&all[i]->speeds, repeat, "figures", &error);
    }
    /* Only where the memory is the limit, since the test needs memory of its own: sequences that share a pass are bound
     * by compute. */
    if (!status && parallel == 1 && generated_tokens && engine_plan(engine)->mode == PLAN_FULL_RESIDENT &&
        !engine_gpu(engine))
        status = memory_meter_open(&meter, engine_hardware(engine), engine_threads(engine), &error);
    if (!status)
        status = measure(engine, &figures, meter, &error);
    memory_meter_close(meter);
    int result = status ? report_error(&error) : report(engine, &figures);
    if (!status && !write_statistics(engine))
        result = EXIT_FAILED;
    interrupts_cancel(NULL);
    close_engine(engine);
    memory_free(figures.prompt.speeds);
    memory_free(figures.decode.speeds);
    memory_free(figures.memory.speeds);
    memory_free(figures.share.speeds);
    return result;
}

const struct command command_bench = {
    .name = "bench",
    .arguments = "[MODEL]",
    .summary = "measure how fast a model reads prompts and decodes",
    .details =
        "Runs random tokens. Between decoded tokens it measures what plain reading gets from the memory, to state "
        "what share of that decoding reached.",
    .options = {bench_rows, plan_option_rows, engine_option_rows, report_option_rows},
    .most = 1,
    .run = run,
};
