/* Rows of a prompt without wanted logits leave the batch in the last layer. Less is computed and read, and the wanted
 * logits have the same bits. */
#include "reference.h"

#include <dirent.h>
#include <stdlib.h>

#define PROMPT 24
#define MORE 3

static void prompt_of(int32_t *tokens, size_t count, uint64_t seed)
{
    struct random random;
    random_seed(&random, seed);
    for (size_t i = 0; i < count; i++)
        tokens[i] = (int32_t)(random_next(&random) % 200);
}

/* Feeds tokens of sequence 0 in one batch. Writes the wanted logits in order. */
static void pass(struct engine *engine, const int32_t *tokens, size_t count, const bool *wanted, float *out)
{
    uint32_t positions[PROMPT];
    for (size_t i = 0; i < count; i++)
        positions[i] = engine_positions(engine, 0) + (uint32_t)i;
    struct copied_logits copied = {out, model_parameters(engine_model(engine))->vocabulary};
    const struct engine_batch batch = {.count = count,
                                       .tokens = tokens,
                                       .positions = positions,
                                       .want_logits = wanted,
                                       .on_logits = copy_logits,
                                       .on_logits_context = &copied};
    assert_ok(engine_forward(engine, &batch, &test_error));
}

static void check_rows(const char *name, const float *all, const float *some, const bool *wanted, size_t count,
                       size_t vocabulary)
{
    for (size_t i = 0; i < count; i++) {
        if (!wanted[i])
            continue;
        if (memcmp(all + i * vocabulary, some, vocabulary * sizeof *all) != 0)
            fail_msg("%s: the logits of row %zu changed", name, i);
        some += vocabulary;
    }
}

/* Feeds the prompt with all logits wanted, then with some. Later tokens check the cache that the prompt left. */
static void check_engine(struct engine *engine, const char *name)
{
    static const size_t rows[][3] = {
        {PROMPT - 1, PROMPT - 1, PROMPT - 1}, {0, 3, PROMPT - 1}, {2, 3, 4}, {PROMPT - 3, PROMPT - 2, PROMPT - 1}};
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *all = calloc((PROMPT + MORE) * vocabulary, sizeof *all), *some = calloc(PROMPT * vocabulary, sizeof *some);
    int32_t tokens[PROMPT + MORE];
    bool wanted[PROMPT];
    prompt_of(tokens, COUNT_OF(tokens), 3);
    memset(wanted, true, sizeof wanted);
    pass(engine, tokens, PROMPT, wanted, all);
    for (size_t i = 0; i < MORE; i++)
        pass(engine, tokens + PROMPT + i, 1, NULL, all + (PROMPT + i) * vocabulary);
    for (size_t r = 0; r <= COUNT_OF(rows); r++) { /* in the last round two batches, the first without wanted logits */
        engine_truncate(engine, 0, 0);
        memset(wanted, false, sizeof wanted);
        for (size_t i = 0; r < COUNT_OF(rows) && i < COUNT_OF(rows[r]); i++)
            wanted[rows[r][i]] = true;
        if (r < COUNT_OF(rows)) {
            pass(engine, tokens, PROMPT, wanted, some);
            check_rows(name, all, some, wanted, PROMPT, vocabulary);
        } else {
            pass(engine, tokens, PROMPT / 2, wanted, some);
            wanted[PROMPT - 1] = true;
            pass(engine, tokens + PROMPT / 2, PROMPT / 2, NULL, some);
            check_rows(name, all, some, wanted, PROMPT, vocabulary);
        }
        for (size_t i = 0; i < MORE; i++) {
            pass(engine, tokens + PROMPT + i, 1, NULL, some);
            check_rows(name, all + (PROMPT + i) * vocabulary, some, &(bool){true}, 1, vocabulary);
        }
    }
    engine_truncate(engine, 0, 0);
    free(all);
    free(some);
}

static struct engine *open_reference(const char *path, bool on_gpu, uint64_t gpu_budget)
{
    struct engine_options options;
    struct engine *engine;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.drafting = DRAFTING_OFF;
    options.gpu_fixed = true;
    options.gpu = on_gpu ? (getenv("HYPURA_GPU_TEST") ? getenv("HYPURA_GPU_TEST") : "0") : "none";
    options.gpu_budget = gpu_budget;
    if (engine_open(&engine, path, &options, &test_error))
        fail_msg("%s: %s", path, test_error.message);
    return engine;
}

static void same_bits_on_the_cpu(void **state)
{
    const char *whole = getenv("HYPURA_ORACLE");
    char folder[4200], path[8192];
    size_t checked = 0;
    (void)state;
    snprintf(folder, sizeof folder, "%s/models", whole && *whole ? whole : test_data("oracle"));
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (!strstr(entry->d_name, ".gguf"))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        struct engine *engine = open_reference(path, false, 0);
        if (!(model_architecture(engine_model(engine))->flags & ARCHITECTURE_ENCODER)) {
            check_engine(engine, entry->d_name);
            checked++;
        }
        engine_close(engine);
    }
    closedir(directory);
    assert_true(checked >= 10);
}

/* With the whole model on the GPU, and with experts on both sides. */
static void same_bits_on_the_gpu(void **state)
{
    static const struct {
        const char *name;
        uint64_t budget;
    } models[] = {
        {"q-llama-Q4_K_M", 512 << 20}, {"deepseek2-v3", 512 << 20}, {"mixtral", 512 << 20}, {"embedded", 16 << 20}};
    (void)state;
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        struct engine *engine = open_reference(model_path(models[m].name), true, models[m].budget);
        const bool there = engine_gpu(engine);
        if (there)
            check_engine(engine, models[m].name);
        engine_close(engine);
        if (!there)
            skip();
    }
}

/* Two sequences in one batch, one of which wants logits in its middle. */
static void several_sequences(void **state)
{
    (void)state;
    struct engine_options options;
    struct engine *engine;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.sequences = 2;
    options.drafting = DRAFTING_OFF;
    options.gpu = "none";
    assert_ok(engine_open(&engine, model_path("embedded"), &options, &test_error));
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits[2];
    int32_t tokens[PROMPT];
    uint32_t positions[PROMPT], sequences[PROMPT];
    bool wanted[PROMPT];
    prompt_of(tokens, PROMPT, 5);
    for (size_t i = 0; i < PROMPT; i++) {
        sequences[i] = i >= 11;
        positions[i] = (uint32_t)(i < 11 ? i : i - 11);
    }
    for (int narrow = 0; narrow < 2; narrow++) {
        logits[narrow] = calloc(PROMPT * vocabulary, sizeof **logits);
        for (size_t i = 0; i < PROMPT; i++)
            wanted[i] = !narrow || i == 7 || i == 20;
        struct copied_logits copied = {logits[narrow], vocabulary};
        const struct engine_batch batch = {.count = PROMPT,
                                           .tokens = tokens,
                                           .positions = positions,
                                           .sequences = sequences,
                                           .want_logits = wanted,
                                           .on_logits = copy_logits,
                                           .on_logits_context = &copied};
        engine_truncate(engine, 0, 0);
        engine_truncate(engine, 1, 0);
        assert_ok(engine_forward(engine, &batch, &test_error));
        assert_int_equal(engine_positions(engine, 0), 11);
        assert_int_equal(engine_positions(engine, 1), PROMPT - 11);
    }
    check_rows("embedded", logits[0], logits[1], wanted, PROMPT, vocabulary);
    free(logits[0]);
    free(logits[1]);
    engine_close(engine);
}

/* The number of experts of the last layer that a prompt used, and the bytes read for it. */
static uint32_t used_last(bool all, uint64_t *bytes, uint32_t *before)
{
    struct engine_options options;
    int32_t tokens[PROMPT];
    bool wanted[PROMPT];
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.drafting = DRAFTING_OFF;
    options.gpu = "none";
    options.chunk = PROMPT;
    options.prefetching = STORE_PREFETCH_OFF;
    options.fill = false;
    struct engine *engine = open_smallest(model_path("embedded"), &options);
    const struct model_parameters *p = model_parameters(engine_model(engine));
    float *logits = calloc((size_t)PROMPT * p->vocabulary, sizeof *logits);
    bool *used = calloc((size_t)p->layers * p->experts, sizeof *used);
    struct engine_statistics statistics;
    uint32_t last = 0;
    prompt_of(tokens, PROMPT, 7);
    memset(wanted, all, sizeof wanted);
    wanted[PROMPT - 1] = true;
    pass(engine, tokens, PROMPT, wanted, logits);
    engine_take_used(engine, used);
    engine_statistics(engine, &statistics);
    *bytes = statistics.store.bytes_demanded;
    *before = 0;
    for (uint32_t e = 0; e < p->experts; e++) {
        last += used[(size_t)(p->layers - 1) * p->experts + e];
        *before += used[(size_t)(p->layers - 2) * p->experts + e];
    }
    if (!all)
        assert_int_equal(last, p->experts_used);
    free(logits);
    free(used);
    engine_close(engine);
    return last;
}

static void reads_less(void **state)
{
    (void)state;
    uint64_t bytes[2];
    uint32_t before[2];
    const uint32_t all = used_last(true, &bytes[0], &before[0]), one = used_last(false, &bytes[1], &before[1]);
    print_message("# last layer: %u experts for all rows, %u for the last one; %llu and %llu bytes read\n", all, one,
                  (unsigned long long)bytes[0], (unsigned long long)bytes[1]);
    assert_true(one < all);
    assert_int_equal(before[0], before[1]);
    assert_true(bytes[1] < bytes[0]);
}

/* A caller that wants the hidden rows gets all of them. */
static void wanted_hidden_rows_stay(void **state)
{
    (void)state;
    int32_t tokens[PROMPT];
    uint32_t positions[PROMPT];
    bool wanted[PROMPT];
    struct engine *engine = open_reference(model_path("embedded"), false, 0);
    const struct model_parameters *p = model_parameters(engine_model(engine));
    const size_t floats = (size_t)PROMPT * p->embedding;
    float *logits = calloc((size_t)PROMPT * p->vocabulary, sizeof *logits), *hidden = calloc(floats, sizeof *hidden);
    prompt_of(tokens, PROMPT, 7);
    memset(wanted, true, sizeof wanted);
    for (uint32_t i = 0; i < PROMPT; i++)
        positions[i] = i;
    pass(engine, tokens, PROMPT, wanted, logits);
    memcpy(hidden, engine_hidden(engine), floats * sizeof *hidden);
    engine_truncate(engine, 0, 0);
    const struct engine_batch batch = {.count = PROMPT, .tokens = tokens, .positions = positions, .want_hidden = true};
    assert_ok(engine_forward(engine, &batch, &test_error));
    assert_memory_equal(hidden, engine_hidden(engine), floats * sizeof *hidden);
    free(logits);
    free(hidden);
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bits_on_the_cpu),    cmocka_unit_test(same_bits_on_the_gpu),
        cmocka_unit_test(several_sequences),       cmocka_unit_test(reads_less),
        cmocka_unit_test(wanted_hidden_rows_stay),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
