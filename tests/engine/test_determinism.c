/* Logits depend only on the file and the tokens: the bits are the same for every tier, number of threads, reader, cache
 * size and division of a prompt into batches. */
#include "folder.h"
#include "reference.h"

#include "hw/hw.h"
#include "tools/synth.h"

#define PROMPT 24

struct run {
    bool limited; /* to the smallest budget plus "more" */
    uint64_t more;
    size_t threads, batch;
    enum store_reader reader;
    enum tensor_type kv_type;
    uint32_t sequences;
    uint32_t nodes; /* memory nodes; 0: the machine's */
};

static const struct run usual = {false, 0, 2, SIZE_MAX, STORE_READER_AUTO, TENSOR_F16, 1};

static const char *const models[] = {
    "llama",        "llama-tied",       "mixtral",   "qwen3moe", "q-llama-Q4_K_M",
    "qwen2moe",     "phi3-longrope",    "gemma2",    "gpt-oss",  "q-mixtral-Q4_K-Q4_K-Q6_K",
    "deepseek2-v3", "deepseek2-legacy", "qwen3next", "qwen35",   "llama4",
    "command-r",    "embedded"};

static size_t streamed; /* runs under a budget */

/* Simulates memory nodes, each with all processors. Their memory is that of the first node. */
static const struct hardware_nodes *make_nodes(uint32_t count)
{
    static struct hardware_nodes nodes;
    nodes = (struct hardware_nodes){.count = count, .place = true};
    for (uint32_t i = 0; i < count; i++) {
        nodes.nodes[i].cores = 1 + i;
        memset(nodes.nodes[i].cpus, 0xff, sizeof nodes.nodes[i].cpus);
    }
    return count ? &nodes : NULL;
}

static struct engine *open_run(const char *name, const struct run *run)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 256;
    options.threads = run->threads;
    options.reader = run->reader;
    options.kv_type = run->kv_type;
    options.sequences = run->sequences;
    options.nodes = make_nodes(run->nodes);
    if (!run->limited) {
        if (engine_open(&engine, model_path(name), &options, &test_error))
            fail_msg("%s: %s", name, test_error.message);
        return engine;
    }
    return open_above_smallest(model_path(name), &options, run->more);
}

static void prompt_of(int32_t *tokens, size_t count)
{
    struct random random;
    random_seed(&random, 7);
    for (size_t i = 0; i < count; i++)
        tokens[i] = (int32_t)(random_next(&random) % 300);
}

/* The logits of a prompt and of three further tokens, fed one by one. */
static float *run_prompt(const char *name, const struct run *run)
{
    int32_t tokens[PROMPT + 3];
    prompt_of(tokens, COUNT_OF(tokens));
    struct engine *engine = open_run(name, run);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(COUNT_OF(tokens) * vocabulary, sizeof *logits);
    feed(engine, run->sequences - 1, tokens, PROMPT, run->batch, logits);
    feed(engine, run->sequences - 1, tokens + PROMPT, 3, 1, logits + PROMPT * vocabulary);
    if (run->limited) {
        struct engine_statistics statistics;
        engine_statistics(engine, &statistics);
        const struct plan *plan = engine_plan(engine);
        assert_true(plan->resident_bytes + plan->pool_bytes + plan->kv_bytes + plan->scratch_bytes <=
                    statistics.budget_bytes);
        streamed += plan->mode != PLAN_FULL_RESIDENT;
        if (plan->mode != PLAN_FULL_RESIDENT)
            assert_true(statistics.store.bytes_demanded > 0);
    }
    engine_close(engine);
    return logits;
}

static void assert_same(const char *name, const float *expected, const struct run *run, const char *what)
{
    struct model *model = NULL;
    assert_ok(model_open(&model, model_path(name), &test_error));
    size_t bytes = (PROMPT + 3) * (size_t)model_parameters(model)->vocabulary * sizeof(float);
    model_close(model);
    float *logits = run_prompt(name, run);
    if (memcmp(expected, logits, bytes) != 0)
        fail_msg("%s: the bits differ %s", name, what);
    free(logits);
}

static void check_budgets(const char *name)
{
    float *expected = run_prompt(name, &usual);
    struct run run = usual;
    run.limited = true;
    assert_same(name, expected, &run, "from the smallest budget");
    run.reader = STORE_READER_THREADS;
    assert_same(name, expected, &run, "from the smallest budget, read by threads");
    run.batch = 5;
    for (int step = 1; step <= 2; step++) {
        run.more = (uint64_t)step * 100000;
        run.reader = step % 2 ? STORE_READER_AUTO : STORE_READER_THREADS;
        run.threads = 1 + (size_t)step % 3;
        assert_same(name, expected, &run, "from a budget between");
    }
    free(expected);
}

static void same_bits_from_every_budget(void **state)
{
    (void)state;
    for (size_t m = 0; m < COUNT_OF(models); m++)
        check_budgets(models[m]);
    print_message("# %zu of %zu runs under a budget streamed\n", streamed, 4 * COUNT_OF(models));
    assert_true(SANITIZED || streamed >= COUNT_OF(models)); /* tiny models may fit in the slack */
}

/* Experts so large that their computation begins while the last slice is still being read. */
static void same_bits_from_large_experts(void **state)
{
    (void)state;
    struct synth_options synth;
    synth_default_options(&synth, synth_preset("tiny-mixtral"));
    synth.type = "Q8_0";
    synth.geometry.layers = 2;
    synth.geometry.experts = 4;
    synth.geometry.feed_forward = 4096;
    const char *path = path_in_folder("large.gguf");
    assert_ok(synth_write(path, &synth, NULL, NULL, &test_error));
    float *expected = run_prompt(path, &usual);
    struct run run = usual;
    run.limited = true;
    for (size_t batch = 1; batch <= 2; batch++) {
        run.batch = batch;
        run.reader = STORE_READER_AUTO;
        assert_same(path, expected, &run, "from large experts");
        run.reader = STORE_READER_THREADS;
        assert_same(path, expected, &run, "from large experts, read by threads");
    }
    free(expected);
}

static void check_batches(const char *name)
{
    static const size_t batches[] = {1, 3, 7, PROMPT - 1};
    float *expected = run_prompt(name, &usual);
    for (size_t b = 0; b < COUNT_OF(batches); b++) {
        struct run run = usual;
        run.batch = batches[b];
        run.threads = 1 + b % 3;
        run.sequences = 1 + (uint32_t)b;
        assert_same(name, expected, &run, "for other batches, threads and sequences");
    }
    free(expected);
}

static void same_bits_for_every_batch(void **state)
{
    (void)state;
    for (size_t m = 0; m < COUNT_OF(models); m++)
        check_batches(models[m]);
}

static void same_bits_for_every_node(void **state)
{
    (void)state;
    static const char *const names[] = {"llama",        "mixtral",   "qwen3moe", "gpt-oss",
                                        "deepseek2-v3", "qwen3next", "embedded"};
    for (size_t m = 0; m < COUNT_OF(names); m++) {
        float *expected = run_prompt(names[m], &usual);
        for (uint32_t nodes = 2; nodes <= 3; nodes++) {
            struct run run = usual;
            run.nodes = nodes;
            run.threads = nodes + 1;
            run.batch = nodes == 2 ? 1 : SIZE_MAX;
            assert_same(names[m], expected, &run, "on several nodes");
            run.limited = true;
            assert_same(names[m], expected, &run, "on several nodes, from the smallest budget");
        }
        free(expected);
    }
}

static void same_bits_for_every_cache_type(void **state)
{
    (void)state;
    static const enum tensor_type types[] = {TENSOR_F32, TENSOR_Q8_0, TENSOR_Q4_0};
    static const char *const names[] = {"llama", "qwen3moe", "gemma2"};
    for (size_t m = 0; m < COUNT_OF(names); m++)
        for (size_t t = 0; t < COUNT_OF(types); t++) {
            struct run run = usual;
            run.kv_type = types[t];
            float *expected = run_prompt(names[m], &run);
            run.batch = 5;
            run.threads = 3;
            assert_same(names[m], expected, &run, "with a cache of this type");
            free(expected);
        }
}

/* Sequences in the same batch do not affect each other. */
static void check_sequences(const char *name)
{
    float *expected = run_prompt(name, &usual);
    struct run run = usual;
    run.sequences = 3;
    struct engine *engine = open_run(name, &run);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    int32_t prompt[PROMPT];
    prompt_of(prompt, PROMPT);
    float *logits = calloc(9 * vocabulary, sizeof *logits);
    for (uint32_t step = 0; step < PROMPT / 3; step++) {
        /* three tokens of sequence 1, among tokens of sequences 0 and 2 */
        int32_t tokens[6];
        uint32_t positions[6], sequences[6] = {0, 1, 1, 1, 2, 2};
        bool want[6];
        for (uint32_t i = 0; i < 6; i++) {
            uint32_t s = sequences[i];
            positions[i] = engine_positions(engine, s) + (s == 1 ? i - 1 : s == 2 ? i - 4 : 0);
            tokens[i] = s == 1 ? prompt[positions[i]] : (int32_t)(step * 6 + i) % 300;
            want[i] = true;
        }
        struct engine_batch batch = {
            .count = 6, .tokens = tokens, .positions = positions, .sequences = sequences, .want_logits = want};
        assert_ok(engine_forward(engine, &batch, &test_error));
        for (uint32_t i = 0; i < 3; i++)
            if (memcmp(engine_logits(engine, 1 + i), expected + (step * 3 + i) * vocabulary,
                       vocabulary * sizeof(float)) != 0)
                fail_msg("%s: the bits differ at position %u if other sequences are in the batch", name, step * 3 + i);
    }
    free(logits);
    free(expected);
    engine_close(engine);
}

static void sequences_are_independent(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen3moe", "gemma2", "deepseek2-v3", "qwen3next"};
    for (size_t m = 0; m < COUNT_OF(names); m++)
        check_sequences(names[m]);
}

/* Truncates a sequence and reads the removed tokens again. */
static void check_going_back(const char *name)
{
    float *expected = run_prompt(name, &usual);
    struct engine *engine = open_run(name, &usual);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    int32_t prompt[PROMPT], other[PROMPT] = {0};
    float *logits = calloc(PROMPT * vocabulary, sizeof *logits);
    prompt_of(prompt, PROMPT);
    feed(engine, 0, prompt, PROMPT / 2, PROMPT, logits);
    feed(engine, 0, other, PROMPT, PROMPT, logits);
    assert_true(engine_truncate(engine, 0, PROMPT / 2));
    feed(engine, 0, prompt + PROMPT / 2, PROMPT / 2, PROMPT, logits);
    if (memcmp(logits, expected + PROMPT / 2 * vocabulary, PROMPT / 2 * vocabulary * sizeof *logits) != 0)
        fail_msg("%s: the bits differ after going back", name);
    free(logits);
    free(expected);
    engine_close(engine);
}

/* Models with an indexer, of the whole reference set. Their prompts have more positions than the indexer chooses. */
static void same_bits_with_chosen_positions(void **state)
{
    (void)state;
    static const char *const names[] = {"glm-dsa", "hy-v4", "minimax-m3", "qwen4exp"};
    const char *folder = getenv("HYPURA_ORACLE");
    char path[4096];
    for (size_t m = 0; folder && m < COUNT_OF(names); m++) { /* only with the whole set */
        snprintf(path, sizeof path, "%s/models/%s.gguf", folder, names[m]);
        check_budgets(path);
        check_batches(path);
        check_sequences(path);
        if (strcmp(names[m], "qwen4exp") != 0) /* its states can only go back to checkpoints */
            check_going_back(path);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_from_every_budget),
        cmocka_unit_test_setup_teardown(same_bits_from_large_experts, make_folder, remove_folder),
        cmocka_unit_test(same_bits_for_every_batch),
        cmocka_unit_test(same_bits_for_every_node),
        cmocka_unit_test(same_bits_for_every_cache_type),
        cmocka_unit_test(sequences_are_independent),
        cmocka_unit_test(same_bits_with_chosen_positions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
