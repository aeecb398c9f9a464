/* Drafts change how fast a text comes, and nothing else. */
#include "answer.h"
#include "predicting_model.h"
#include "reference.h"

#include "engine/draft.h"
#include "tools/synth.h"

#include <unistd.h>

#define LONGEST 1024 /* tokens of a prompt and its answer together */

static struct engine *open_drafting(const char *name, uint32_t context, enum engine_drafting drafting,
                                    const char *draft)
{
    struct engine_options options;
    struct engine *engine = NULL;
    char path[4096] = "";
    engine_default_options(&options);
    options.context = context;
    options.threads = 2;
    options.gpu = "none";
    options.drafting = drafting;
    if (draft) {
        snprintf(path, sizeof path, "%s", model_path(draft));
        options.draft_path = path;
    }
    if (engine_open(&engine, model_path(name), &options, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    return engine;
}

static const struct vocabulary *vocabulary_of(const struct engine *engine)
{
    const struct vocabulary *vocabulary = NULL;
    assert_ok(engine_vocabulary(&vocabulary, engine, &test_error));
    return vocabulary;
}

/* A request's options besides its tokens. */
struct wish {
    uint32_t max_tokens, break_after; /* break_after 0: never */
    bool cancel;                      /* break off by cancelling */
    float temperature;
    const char *stop;
};

static void ask(struct generator *generator, const struct engine *engine, const int32_t *tokens, size_t count,
                const struct wish *wish, struct answer *answer)
{
    struct sampler_options options;
    *answer = (struct answer){.most = wish->break_after, .cancel = wish->cancel};
    sampler_default_options(&options);
    options.temperature = wish->temperature;
    options.seed = 3;
    options.repeat_penalty = 1.05f;
    assert_ok(
        sampler_create(&answer->sampler, &options, model_parameters(engine_model(engine))->vocabulary, &test_error));
    struct generation_request request = {.tokens = tokens,
                                         .count = count,
                                         .max_tokens = wish->max_tokens,
                                         .stops = &wish->stop,
                                         .stop_count = wish->stop != NULL,
                                         .ignore_end = true};
    submit_for(answer, generator, request);
    while (generator_step(generator))
        ;
    sampler_destroy(answer->sampler);
}

static void prompt_of(int32_t *tokens, size_t count)
{
    struct random random;
    random_seed(&random, 11);
    for (size_t i = 0; i < count; i++)
        tokens[i] = (int32_t)(random_next(&random) % 300);
}

static void assert_same_answer(const char *name, const struct answer *expected, const struct answer *answer)
{
    if (expected->count != answer->count ||
        memcmp(expected->tokens, answer->tokens, answer->count * sizeof *answer->tokens) != 0)
        fail_msg("%s: the tokens with drafts (%zu) differ from those without (%zu)", name, answer->count,
                 expected->count);
    assert_int_equal(answer->result.reason, expected->result.reason);
    assert_int_equal(answer->result.generated_tokens, expected->result.generated_tokens);
    assert_int_equal(answer->result.cached_tokens, expected->result.cached_tokens);
    assert_true(answer->result.stop_string == expected->result.stop_string);
}

static uint64_t fed_to_small; /* tokens fed to the smaller model */

/* Compares answers with and without drafts in two turns; the second begins with the first and its answer. Returns the
 * number of accepted drafts. */
static uint64_t compare(const char *name, uint32_t context, size_t prompt, const struct wish *wish, const char *draft)
{
    static struct answer expected[2], answer;
    static int32_t tokens[LONGEST];
    uint64_t accepted = 0;
    for (int drafts = 0; drafts < 2; drafts++) {
        struct engine *engine =
            open_drafting(name, context, drafts ? DRAFTING_ON : DRAFTING_OFF, drafts ? draft : NULL);
        struct generator *generator;
        struct engine_statistics s;
        assert_ok(generator_create(&generator, engine, vocabulary_of(engine), &test_error));
        prompt_of(tokens, prompt);
        size_t count = prompt;
        for (int turn = 0; turn < 2; turn++) {
            struct answer *out = drafts ? &answer : &expected[turn];
            ask(generator, engine, tokens, count, wish, out);
            if (drafts)
                assert_same_answer(name, &expected[turn], out);
            memcpy(tokens + count, out->tokens, out->count * sizeof *tokens);
            count += out->count;
            tokens[count++] = 5;
        }
        engine_statistics(engine, &s);
        assert_int_equal(s.generated_tokens, expected[0].count + expected[1].count - 2);
        assert_true(s.accepted_tokens <= s.drafted_tokens);
        assert_true(drafts || s.drafted_tokens == 0);
        assert_true(!drafts || s.generated_tokens == s.decode_passes + s.accepted_tokens);
        accepted = s.accepted_tokens;
        if (engine_draft_model(engine)) {
            engine_statistics(engine_draft_model(engine), &s);
            fed_to_small = s.prompt_tokens + s.generated_tokens;
        }
        generator_destroy(generator);
        engine_close(engine);
        memory_give_back();
    }
    return accepted;
}

static void drafts_change_no_token(void **state)
{
    (void)state;
    static const char *const models[] = {"llama",  "mixtral",   "q-llama-Q4_K_M", "phi3-longrope", "deepseek2-v3",
                                         "llama4", "qwen3next", "qwen35",         "embedded"};
    const struct wish greedy = {.max_tokens = 60, .temperature = 0}, sampled = {.max_tokens = 60, .temperature = 0.5f};
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        if (compare(models[i], 256, 20, &greedy, NULL) == 0)
            fail_msg("%s: no draft was accepted", models[i]);
        compare(models[i], 256, 20, &sampled, NULL);
    }
    compare("mamba-rms", 256, 20, &sampled, NULL); /* its text has no repeats */
}

#define KNOWN 20
#define MORE 8

/* Accepts some, none or all of a batch's drafts, then continues the text and compares the bits. streamed: with the
 * smallest budget. */
static void check_going_back(const char *name, bool streamed)
{
    struct engine_options options;
    struct engine *engine;
    int32_t tokens[KNOWN + 2 * MORE];
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.gpu = "none";
    if (streamed)
        engine = open_smallest(model_path(name), &options);
    else
        engine = open_drafting(name, 256, DRAFTING_AUTO, NULL);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    const uint32_t most = MIN(engine_drafts(engine), (uint32_t)MORE - 1);
    float *expected = calloc(COUNT_OF(tokens) * vocabulary, sizeof *expected);
    float *logits = calloc(COUNT_OF(tokens) * vocabulary, sizeof *logits);
    prompt_of(tokens, COUNT_OF(tokens));
    feed(engine, 0, tokens, COUNT_OF(tokens), SIZE_MAX, expected);
    assert_true(streamed || most == MORE - 1);
    for (uint32_t start = 0; start <= KNOWN; start += KNOWN)
        for (uint32_t right = 0; right <= most; right++) {
            int32_t drafts[MORE];
            uint32_t positions[MORE];
            bool want[MORE];
            engine_truncate(engine, 0, 0);
            feed(engine, 0, tokens, start, SIZE_MAX, logits);
            for (uint32_t i = 0; i <= most; i++) {
                drafts[i] = tokens[start + i] ^ (i > right);
                positions[i] = start + i;
                want[i] = true;
            }
            struct engine_batch batch = {
                .count = 1 + most, .tokens = drafts, .positions = positions, .want_logits = want, .drafted = most};
            assert_ok(engine_forward(engine, &batch, &test_error));
            for (uint32_t i = 0; i <= right; i++)
                assert_memory_equal(engine_logits(engine, i), expected + (start + i) * vocabulary,
                                    vocabulary * sizeof *expected);
            assert_ok(engine_accept(engine, right, &test_error));
            const uint32_t now = start + 1 + right;
            assert_int_equal(engine_positions(engine, 0), now);
            feed(engine, 0, tokens + now, MORE, 3, logits);
            if (memcmp(logits, expected + now * vocabulary, MORE * vocabulary * sizeof *logits) != 0)
                fail_msg("%s: the bits differ after %u of %u drafts from position %u were accepted", name, right, most,
                         start);
        }
    free(expected);
    free(logits);
    engine_close(engine);
}

static void states_go_back_to_the_first_wrong_draft(void **state)
{
    (void)state;
    static const char *const models[] = {"llama", "gemma2", "mamba-rms", "qwen3next", "qwen35"};
    /* With the whole reference set, all kinds of states. */
    static const char *const further[] = {"mamba",     "mamba2",   "falcon-h1", "jamba", "lfm2",
                                          "deepseek4", "qwen4exp", "kimi-k3",   "hy-v4", "bailingmoe3"};
    const char *folder = getenv("HYPURA_ORACLE");
    char path[4096];
    for (size_t i = 0; i < COUNT_OF(models); i++)
        for (int streamed = 0; streamed < 2; streamed++)
            check_going_back(models[i], streamed);
    for (size_t i = 0; folder && i < COUNT_OF(further); i++) {
        snprintf(path, sizeof path, "%s/models/%s.gguf", folder, further[i]);
        check_going_back(path, i % 2);
    }
}

static void drafts_keep_windows_intact(void **state)
{
    (void)state;
    const struct wish greedy = {.max_tokens = 40, .temperature = 0};
    static const char *const models[] = {"gemma2", "gpt-oss"};
    for (size_t i = 0; i < COUNT_OF(models); i++)
        if (compare(models[i], 900, 700, &greedy, NULL) == 0)
            fail_msg("%s: no draft was accepted", models[i]);
}

static void drafts_do_not_move_the_end_of_an_answer(void **state)
{
    (void)state;
    const struct wish wishes[] = {{.max_tokens = 1},
                                  {.max_tokens = 2},
                                  {.max_tokens = 33},
                                  {.max_tokens = 50, .break_after = 17},
                                  {.max_tokens = 50, .break_after = 17, .cancel = true},
                                  {.max_tokens = 50, .break_after = 18, .cancel = true},
                                  {.max_tokens = 100, .stop = "e"},
                                  {.max_tokens = 100, .stop = "the"}};
    for (size_t i = 0; i < COUNT_OF(wishes); i++)
        compare("embedded", 256, 12, &wishes[i], NULL);
    /* Answers that end when the context is full. */
    static struct answer with, without;
    int32_t tokens[20];
    prompt_of(tokens, COUNT_OF(tokens));
    for (int drafts = 0; drafts < 2; drafts++) {
        struct engine *engine = open_drafting("embedded", 128, drafts ? DRAFTING_ON : DRAFTING_OFF, NULL);
        struct generator *generator;
        assert_ok(generator_create(&generator, engine, vocabulary_of(engine), &test_error));
        const struct wish endless = {0};
        ask(generator, engine, tokens, COUNT_OF(tokens), &endless, drafts ? &with : &without);
        generator_destroy(generator);
        engine_close(engine);
    }
    assert_int_equal(without.count, 128 - 20 + 1);
    assert_same_answer("embedded", &without, &with);
}

static void a_smaller_model_drafts(void **state)
{
    (void)state;
    const struct wish greedy = {.max_tokens = 60, .temperature = 0}, sampled = {.max_tokens = 60, .temperature = 0.5f};
    uint64_t accepted = compare("q-llama-Q8_0", 256, 20, &greedy, "q-llama-Q4_K_M");
    /* The two models differ only in rounding, so most of the 118 tokens are drafted right. */
    if (accepted < 60)
        fail_msg("only %llu drafts were accepted", (unsigned long long)accepted);
    compare("q-llama-Q8_0", 256, 20, &sampled, "q-llama-Q4_K_M");
}

/* A block of random weights predicts nothing. Drafts of one that predicts right (see test_predict.c) are accepted. */
static void a_block_drafts(void **state)
{
    (void)state;
    static const char *const models[] = {"llama", "embedded", "deepseek2-v3", "qwen3next", "gpt-oss"};
    const struct wish greedy = {.max_tokens = 60, .temperature = 0}, sampled = {.max_tokens = 60, .temperature = 0.5f};
    char path[512];
    temporary_path(path, sizeof path);
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        make_predicting(path, model_path(models[i]), PREDICTION_RANDOM);
        compare(path, 256, 20, &greedy, NULL);
        compare(path, 256, 20, &sampled, NULL);
    }
    compare(path, 900, 700, &greedy, NULL); /* the last model has windows */
    make_predicting(path, model_path("mixtral"), PREDICTION_TRUE);
    uint64_t accepted = compare(path, 256, 20, &sampled, NULL);
    if (accepted < 30)
        fail_msg("only %llu drafts were accepted", (unsigned long long)accepted);
    unlink(path);
    /* The reference set's models with blocks, if the whole set is present. */
    static const char *const reference[] = {
        "bailingmoe2", "exaone-moe",           "glm4moe-nextn",     "mimo2",
        "step35",      "nemotron-h-moe-nextn", "bailingmoe3-nextn", "qwen4exp-nextn"};
    const char *folder = getenv("HYPURA_ORACLE");
    for (size_t i = 0; folder && i < COUNT_OF(reference); i++) {
        snprintf(path, sizeof path, "%s/models/%s.gguf", folder, reference[i]);
        compare(path, 256, 20, &greedy, NULL);
        compare(path, 256, 20, &sampled, NULL);
    }
}

/* Opens a model with its block and the smallest budget for a mode. With sanitizers, any mode will do, since budgets are
 * inexact. */
static struct engine *open_in_mode(const char *path, struct engine_options *options, enum plan_mode mode)
{
    for (uint64_t more = 0; more < 4 << 20; more += 32 << 10) {
        struct engine *engine = open_above_smallest(path, options, more);
        if ((SANITIZED || engine_plan(engine)->mode == mode) && engine_predicts(engine))
            return engine;
        engine_close(engine);
    }
    fail_msg("%s: no budget gives this mode with the block", path);
    return NULL;
}

static void turn_about(struct engine *engine, struct answer answers[2])
{
    struct generator *generator;
    int32_t tokens[2][40];
    struct sampler_options options;
    sampler_default_options(&options);
    options.temperature = 0;
    assert_ok(generator_create(&generator, engine, vocabulary_of(engine), &test_error));
    for (size_t i = 0; i < 2; i++) {
        answers[i] = (struct answer){0};
        assert_ok(sampler_create(&answers[i].sampler, &options, model_parameters(engine_model(engine))->vocabulary,
                                 &test_error));
        prompt_of(tokens[i], COUNT_OF(tokens[i]));
        tokens[i][0] += (int32_t)i;
        struct generation_request request = {
            .tokens = tokens[i], .count = 20 + 20 * i, .max_tokens = 30 + 40 * (uint32_t)i, .ignore_end = true};
        submit_for(&answers[i], generator, request);
        for (int step = 0; step < 5; step++) /* the second answer joins later and lasts longer */
            generator_step(generator);
    }
    while (generator_step(generator))
        ;
    for (size_t i = 0; i < 2; i++)
        sampler_destroy(answers[i].sampler);
    generator_destroy(generator);
}

/* Also if nearly all of a dense model streams. The block runs outside the order of streaming tensors. */
static void a_block_drafts_if_everything_streams(void **state)
{
    (void)state;
    static struct answer expected, found;
    const struct wish greedy = {.max_tokens = 60, .temperature = 0};
    char path[512];
    int32_t tokens[20];
    prompt_of(tokens, COUNT_OF(tokens));
    temporary_path(path, sizeof path);
    for (int tied = 0; tied < 2; tied++) {
        make_predicting(path, model_path(tied ? "llama-tied" : "llama"), PREDICTION_TRUE);
        for (int drafts = 0; drafts < 2; drafts++) {
            struct engine_options options;
            struct generator *generator;
            struct engine_statistics s;
            engine_default_options(&options);
            options.context = 256;
            options.threads = 2;
            options.gpu = "none";
            options.drafting = drafts ? DRAFTING_ON : DRAFTING_OFF;
            struct engine *engine =
                drafts ? open_in_mode(path, &options, PLAN_FULL_STREAMING) : open_smallest(path, &options);
            assert_ok(generator_create(&generator, engine, vocabulary_of(engine), &test_error));
            ask(generator, engine, tokens, COUNT_OF(tokens), &greedy, drafts ? &found : &expected);
            engine_statistics(engine, &s);
            assert_true(drafts ? s.accepted_tokens > 20 : s.drafted_tokens == 0);
            generator_destroy(generator);
            engine_close(engine);
        }
        assert_same_answer(path, &expected, &found);
    }
    unlink(path);
}

/* Two answers at the same time, with experts that stream. */
static void a_block_drafts_for_sequences_in_turn(void **state)
{
    (void)state;
    static struct answer expected[2], found[2];
    char path[512];
    temporary_path(path, sizeof path);
    make_predicting(path, model_path("mixtral"), PREDICTION_TRUE);
    for (int drafts = 0; drafts < 2; drafts++) {
        struct engine_options options;
        engine_default_options(&options);
        options.context = 256;
        options.sequences = 2;
        options.threads = 2;
        options.gpu = "none";
        options.drafting = drafts ? DRAFTING_ON : DRAFTING_OFF;
        struct engine *engine = NULL;
        if (drafts) {
            engine = open_in_mode(path, &options, PLAN_EXPERT_STREAMING);
        } else {
            assert_ok(engine_open(&engine, path, &options, &test_error));
        }
        turn_about(engine, drafts ? found : expected);
        struct engine_statistics s;
        engine_statistics(engine, &s);
        assert_true(drafts ? s.accepted_tokens > 0 : s.drafted_tokens == 0);
        engine_close(engine);
    }
    for (size_t i = 0; i < 2; i++)
        assert_same_answer("mixtral", &expected[i], &found[i]);
    unlink(path);
}

/* The smaller model goes back to the state before its drafts, not to the beginning. */
static void a_smaller_model_with_states_drafts(void **state)
{
    (void)state;
    const struct wish greedy = {.max_tokens = 60, .temperature = 0}, sampled = {.max_tokens = 60, .temperature = 0.5f};
    static const char *const models[] = {"qwen35", "qwen3next"};
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        uint64_t accepted = compare(models[i], 256, 20, &greedy, models[i]);
        if (accepted < 60)
            fail_msg("%s: only %llu drafts were accepted", models[i], (unsigned long long)accepted);
        compare(models[i], 256, 20, &sampled, models[i]);
        assert_in_range(fed_to_small, 140, 2 * 140 * 2);
    }
}

/* Also in a plan that is made without loading the model. */
static void a_smaller_model_is_planned_for(void **state)
{
    (void)state;
    struct engine_options options;
    struct hardware hardware;
    struct model *model;
    struct plan *without, *with;
    char path[4096];
    snprintf(path, sizeof path, "%s", model_path("embedded"));
    engine_default_options(&options);
    options.context = 256;
    options.gpu = "none";
    assert_ok(model_open(&model, path, &test_error));
    assert_ok(hardware_detect(&hardware, path, &test_error));
    assert_ok(engine_plan_only(&without, model, &hardware, &options, &test_error));
    options.draft_path = path;
    assert_ok(engine_plan_only(&with, model, &hardware, &options, &test_error));
    assert_true(with->overhead_bytes >= without->overhead_bytes + without->resident_bytes);
    plan_free(without);
    plan_free(with);
    model_close(model);
}

static uint64_t planned_overhead(const char *path, const struct engine_options *options)
{
    struct hardware hardware;
    struct model *model;
    struct plan *plan;
    memory_give_back(); /* memory that other tests left must not count */
    assert_ok(model_open(&model, path, &test_error));
    assert_ok(hardware_detect(&hardware, path, &test_error));
    assert_ok(engine_plan_only(&plan, model, &hardware, options, &test_error));
    uint64_t bytes = plan->overhead_bytes;
    plan_free(plan);
    model_close(model);
    return bytes;
}

/* The plan also counts the smaller model's vocabulary, as opening does. */
static void a_smaller_model_is_planned_for_with_its_vocabulary(void **state)
{
    (void)state;
    const uint64_t mib = 1 << 20;
    struct engine_options options;
    struct engine *engine;
    struct synth_options synth;
    char path[] = "/tmp/hypura-test-draft-XXXXXX";
    close(mkstemp(path));
    synth_default_options(&synth, synth_preset("tiny-mixtral"));
    synth.geometry.vocabulary = 200000;
    synth.geometry.layers = 1;
    assert_ok(synth_write(path, &synth, NULL, NULL, &test_error));
    engine_default_options(&options);
    options.context = 256;
    options.gpu = "none";
    uint64_t without = planned_overhead(path, &options);
    options.draft_path = path;
    uint64_t planned = planned_overhead(path, &options);
    memory_give_back();
    assert_ok(engine_open(&engine, path, &options, &test_error));
    uint64_t opened = engine_plan(engine)->overhead_bytes;
    printf("# without %llu, planned %llu, opened %llu MiB\n", (unsigned long long)(without / mib),
           (unsigned long long)(planned / mib), (unsigned long long)(opened / mib));
    if (!SANITIZED) /* sanitizers return freed memory late */
        assert_in_range(planned, opened - 4 * mib, opened + 4 * mib);
    engine_close(engine);
    unlink(path);
}

static void a_model_that_cannot_draft_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *draft, *says;
    } wrong[] = {{"embedded", "their vocabularies differ"},
                 {"../../embed/bert", "it is an encoder"},
                 {"no-such-file", "no-such-file"}};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        struct engine_options options;
        struct engine *engine = NULL;
        char path[4096];
        snprintf(path, sizeof path, "%s", model_path(wrong[i].draft));
        engine_default_options(&options);
        options.context = 256;
        options.gpu = "none";
        options.draft_path = path;
        assert_int_not_equal(engine_open(&engine, model_path("llama"), &options, &test_error), HYPURA_OK);
        if (!strstr(test_error.message, wrong[i].says))
            fail_msg("%s: %s", wrong[i].draft, test_error.message);
        /* If drafting is optional, the model runs without it. */
        options.draft_optional = true;
        assert_ok(engine_open(&engine, model_path("llama"), &options, &test_error));
        assert_null(engine_draft_model(engine));
        engine_close(engine);
    }
}

/* Without drafting, no memory is reserved for going back in states. */
static void without_drafting_states_need_nothing(void **state)
{
    (void)state;
    struct engine *engine = open_drafting("qwen3next", 256, DRAFTING_OFF, NULL);
    int32_t tokens[] = {1, 2};
    uint32_t positions[] = {0, 1};
    const bool want[] = {true, true};
    assert_int_equal(engine_drafts(engine), 0);
    struct engine_batch batch = {
        .count = 2, .tokens = tokens, .positions = positions, .want_logits = want, .drafted = 1};
    assert_int_equal(engine_forward(engine, &batch, &test_error), HYPURA_ERROR_ARGUMENT);
    uint64_t without = engine_plan(engine)->scratch_bytes;
    engine_close(engine);
    engine = open_drafting("qwen3next", 256, DRAFTING_AUTO, NULL);
    assert_true(engine_plan(engine)->chunk != 0 && engine_plan(engine)->scratch_bytes > without);
    engine_close(engine);
}

/* ---- the number of drafts ---------------------------------------------------------------------------------------- */

/* Drafts after a text that repeats 1 2 3 4, all of which can be drafted. Returns their number. */
static uint32_t drafts(struct drafter *drafter)
{
    int32_t tokens[64], out[DRAFT_MOST];
    for (int32_t i = 0; i < 64; i++)
        tokens[i] = 1 + i % 4;
    uint32_t count = drafter_propose(drafter, 0, tokens, COUNT_OF(tokens), 7, out);
    for (uint32_t i = 0; i < count; i++)
        assert_int_equal(out[i], 1 + i % 4);
    return count;
}

static uint32_t drafted; /* total drafts of the last call of learn */

/* Simulates passes of a millisecond in which all or none of the drafts are accepted. Each draft adds "further"
 * nanoseconds. Returns the larger number of drafts of the last two passes. */
static uint32_t learn(struct drafter *drafter, int passes, bool come_true, uint64_t further)
{
    uint32_t count = 0, before = 0;
    drafted = 0;
    for (int i = 0; i < passes; i++) {
        before = count;
        count = drafts(drafter);
        drafted += count;
        drafter_learn(drafter, come_true ? count : 0, 1000000 + count * further);
    }
    return MAX(count, before);
}

static void the_number_of_drafts_follows_their_gain(void **state)
{
    (void)state;
    struct engine *engine = open_drafting("llama", 256, DRAFTING_AUTO, NULL);
    struct drafter *drafter;
    assert_ok(drafter_create(&drafter, engine, &test_error));
    for (int i = 0; i < 4; i++) {
        assert_int_equal(drafts(drafter), 0); /* too few passes were timed */
        drafter_learn(drafter, 0, 1000000);
    }
    assert_true(drafts(drafter) > 0);
    /* Drafts cost almost nothing and are accepted. */
    assert_int_equal(learn(drafter, 40, true, 1000), 7);
    /* A draft takes a tenth longer than a pass, so drafting cannot gain. It is only retried, at a cost of at most a
     * hundredth of the time. */
    learn(drafter, 200, true, 1100000);
    learn(drafter, 2000, true, 1100000);
    assert_in_range(drafted, 1, 200);
    /* Drafts are cheap again, but none is accepted. */
    learn(drafter, 2000, false, 200000);
    learn(drafter, 1000, false, 200000);
    assert_in_range(drafted, 1, 150);
    /* Drafts are accepted: soon there are many. */
    assert_int_equal(learn(drafter, 400, true, 100000), 7);
    drafter_destroy(drafter);
    engine_close(engine);
}

static void text_without_repeats_is_not_drafted(void **state)
{
    (void)state;
    struct engine *engine = open_drafting("llama", 256, DRAFTING_ON, NULL);
    struct drafter *drafter;
    int32_t tokens[] = {1, 2, 3, 4, 5, 6, 7, 8}, out[DRAFT_MOST];
    assert_ok(drafter_create(&drafter, engine, &test_error));
    assert_int_equal(drafter_propose(drafter, 0, tokens, COUNT_OF(tokens), 7, out), 0);
    assert_int_equal(drafter_propose(drafter, 0, tokens, 1, 7, out), 0);
    assert_int_equal(drafter_propose(drafter, 0, tokens, COUNT_OF(tokens), 0, out), 0);
    /* A longer match wins over a later one. */
    int32_t twice[] = {7, 1, 2, 50, 9, 2, 60, 7, 1, 2};
    assert_int_equal(drafter_propose(drafter, 0, twice, COUNT_OF(twice), 2, out), 2);
    assert_int_equal(out[0], 50);
    assert_int_equal(out[1], 9);
    drafter_destroy(drafter);
    engine_close(engine);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {cmocka_unit_test(drafts_change_no_token),
                                              cmocka_unit_test(states_go_back_to_the_first_wrong_draft),
                                              cmocka_unit_test(drafts_keep_windows_intact),
                                              cmocka_unit_test(drafts_do_not_move_the_end_of_an_answer),
                                              cmocka_unit_test(a_smaller_model_drafts),
                                              cmocka_unit_test(a_block_drafts),
                                              cmocka_unit_test(a_block_drafts_if_everything_streams),
                                              cmocka_unit_test(a_block_drafts_for_sequences_in_turn),
                                              cmocka_unit_test(a_smaller_model_with_states_drafts),
                                              cmocka_unit_test(a_smaller_model_is_planned_for),
                                              cmocka_unit_test(a_smaller_model_is_planned_for_with_its_vocabulary),
                                              cmocka_unit_test(a_model_that_cannot_draft_is_refused),
                                              cmocka_unit_test(without_drafting_states_need_nothing),
                                              cmocka_unit_test(the_number_of_drafts_follows_their_gain),
                                              cmocka_unit_test(text_without_repeats_is_not_drafted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
