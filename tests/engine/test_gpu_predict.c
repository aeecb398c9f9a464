/* The prediction block with layers on a GPU: its predictions are right, its logits match those with all layers on the
 * CPU, and tokens in passes with drafts have the same bits as without. Without a device, the tests are skipped. */
#include "gpu_engine.h"
#include "predicting_model.h"

/* The difference between rounding on a GPU and on the CPU. */
#define NEAR 0.03

static struct engine *open_drafting(const char *path, const struct setting *setting, enum engine_drafting drafting,
                                    bool gpu)
{
    struct engine_options options;
    struct engine *engine = NULL;
    set_options(&options, setting);
    options.gpu = gpu ? number : "none";
    options.drafting = drafting;
    if (engine_open(&engine, path, &options, &test_error))
        fail_msg("%s: %s", path, test_error.message);
    assert_int_equal(engine_predicts(engine), drafting != DRAFTING_OFF);
    return engine;
}

/* The device has everything, part of the experts, or part of the layers. In the last case, the CPU computes logits. */
enum place { WHOLE, DIVIDED, SOME_LAYERS, PLACES };

static struct setting setting_of(const char *path, enum place place)
{
    struct setting setting = {.kv_type = TENSOR_F32};
    if (place == WHOLE)
        return setting;
    struct engine *engine = open_drafting(path, &setting, DRAFTING_ON, true);
    const struct plan_gpu *plan = engine_plan(engine)->gpu;
    const uint64_t fixed = plan->scratch_bytes + plan->resident_bytes + plan->kv_bytes;
    assert_true(plan->output);
    if (place == DIVIDED)
        setting.gpu_budget = fixed + plan->expert_bytes / 2;
    if (place == SOME_LAYERS)
        setting.gpu_budget = plan->scratch_bytes + (plan->resident_bytes + plan->kv_bytes) / 3;
    close_silent(engine);
    return setting;
}

static void show_place(const struct engine *engine)
{
    const struct plan_gpu *plan = engine_plan(engine)->gpu;
    assert_non_null(plan);
    print_message("# %u of %u layers%s\n", plan->taken, plan->layer_count, plan->output ? ", logits" : "");
}

/* The number of tokens to generate without drafts. */
#define SAID 12u

static void say(struct engine *engine, const int32_t *tokens, size_t count, int32_t *said, float *after)
{
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(count * vocabulary, sizeof *logits);
    feed(engine, 0, tokens, count, 64, logits);
    memcpy(after, logits + (count - 1) * vocabulary, vocabulary * sizeof *after);
    said[0] = greatest(after, vocabulary);
    for (size_t i = 1; i < SAID; i++) {
        feed(engine, 0, said + i - 1, 1, 1, after + i * vocabulary);
        said[i] = greatest(after + i * vocabulary, vocabulary);
    }
    free(logits);
}

/* Reads a prompt and wants only the last row's logits. */
static void read_prompt(struct engine *engine, const int32_t *tokens, uint32_t count)
{
    for (uint32_t first = 0, now; first < count; first += now) {
        uint32_t positions[64];
        bool want[64] = {false};
        now = MIN(count - first, 64u);
        for (uint32_t i = 0; i < now; i++)
            positions[i] = first + i;
        want[now - 1] = first + now == count;
        struct engine_batch batch = {
            .count = now, .tokens = tokens + first, .positions = positions, .want_logits = want};
        assert_ok(engine_forward(engine, &batch, &test_error));
    }
}

static void foresees(const char *path, const struct setting *setting, const int32_t *tokens, uint32_t count,
                     uint32_t first_accepted, bool knows)
{
    int32_t said[SAID];
    struct engine *engine = open_drafting(path, setting, DRAFTING_OFF, true);
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *after = calloc(SAID * vocabulary, sizeof *after);
    say(engine, tokens, count, said, after);
    close_silent(engine);
    engine = open_drafting(path, setting, DRAFTING_ON, true);
    show_place(engine);
    for (uint32_t accepted = first_accepted; accepted < 4; accepted++) {
        engine_truncate(engine, 0, 0);
        read_prompt(engine, tokens, count);
        assert_memory_equal(engine_logits(engine, 0), after, vocabulary * sizeof *after);
        size_t next = 0;
        for (int pass = 0; pass < 2; pass++) {
            int32_t batch[5] = {said[next]};
            uint32_t positions[5];
            const bool want[5] = {true, true, true, true, true};
            for (size_t i = 0; i < 4; i++) {
                const float *found;
                assert_ok(engine_predict(engine, 0, batch[i], i > 0, &found, &test_error));
                batch[i + 1] = said[next + i + 1];
                if (knows)
                    assert_int_equal(greatest(found, vocabulary), batch[i + 1]);
            }
            for (uint32_t i = 0; i < 5; i++)
                positions[i] = engine_positions(engine, 0) + i;
            struct engine_batch b = {
                .count = 5, .tokens = batch, .positions = positions, .want_logits = want, .drafted = 4};
            assert_ok(engine_forward(engine, &b, &test_error));
            assert_memory_equal(engine_logits(engine, 0), after + (next + 1) * vocabulary,
                                5 * vocabulary * sizeof *after);
            assert_ok(engine_accept(engine, accepted, &test_error));
            next += accepted + 1;
        }
    }
    free(after);
    close_silent(engine);
}

static void its_predictions_are_right(void **state)
{
    (void)state;
    device_or_skip();
    char path[512];
    int32_t tokens[150];
    struct random random;
    random_seed(&random, 3);
    for (size_t i = 0; i < COUNT_OF(tokens); i++)
        tokens[i] = (int32_t)(random_next(&random) % 300);
    temporary_path(path, sizeof path);
    /* In the last model, delta nets contribute, too, which the block does not see. It drafts as many tokens. */
    static const char *const bases[] = {"embedded", "deepseek2-v3", "qwen3next"};
    for (size_t i = 0; i < COUNT_OF(bases); i++) {
        make_predicting(path, model_path(bases[i]), PREDICTION_TRUE);
        for (enum place place = WHOLE; place < (i ? DIVIDED : PLACES); place++) {
            treat_memory_as(place == DIVIDED ? "separate" : "shared");
            const struct setting setting = setting_of(path, place);
            foresees(path, &setting, tokens, i ? COUNT_OF(tokens) : PROMPT, i ? 0 : 3, i < 2);
        }
    }
    unlink(path);
}

static void ask_block(const char *path, const struct setting *setting, bool gpu, float *first, float *second)
{
    int32_t tokens[TOKENS];
    const float *found;
    prompt_of(tokens);
    struct engine *engine = open_drafting(path, setting, DRAFTING_ON, gpu);
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    read_prompt(engine, tokens, PROMPT);
    assert_ok(engine_predict(engine, 0, tokens[PROMPT], false, &found, &test_error));
    memcpy(first, found, vocabulary * sizeof *found);
    assert_ok(engine_predict(engine, 0, tokens[PROMPT + 1], true, &found, &test_error));
    memcpy(second, found, vocabulary * sizeof *found);
    close_silent(engine);
}

static double difference(const float *a, const float *b, size_t count)
{
    double sum = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        sum += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        all += (double)b[i] * (double)b[i];
    }
    return sqrt(sum / all);
}

static void its_logits_match_the_cpus(void **state)
{
    (void)state;
    device_or_skip();
    static const char *const bases[] = {"mixtral", "deepseek2-v3", "qwen3next"};
    static float found[4][1 << 12];
    char path[512];
    temporary_path(path, sizeof path);
    for (size_t i = 0; i < COUNT_OF(bases); i++) {
        struct model *model;
        make_predicting(path, model_path(bases[i]), PREDICTION_RANDOM);
        assert_ok(model_open(&model, path, &test_error));
        const size_t vocabulary = model_parameters(model)->vocabulary;
        model_close(model);
        assert_true(vocabulary <= COUNT_OF(found[0]));
        const struct setting setting = {.kv_type = TENSOR_F32};
        ask_block(path, &setting, true, found[0], found[1]);
        ask_block(path, &setting, false, found[2], found[3]);
        for (int which = 0; which < 2; which++) {
            double far = difference(found[which], found[2 + which], vocabulary);
            print_message("# %s: difference %.2g\n", bases[i], far);
            assert_true(far < NEAR);
        }
    }
    unlink(path);
}

static void expect_used(const char *path, double cpu_speed, const char *says)
{
    const struct setting setting = {.kv_type = TENSOR_F32};
    struct engine_options options;
    struct hardware hardware;
    struct model *model;
    char why[ENGINE_WHY] = "?";
    set_options(&options, &setting);
    assert_ok(hardware_detect(&hardware, path, &test_error));
    hardware.compute_bytes_per_second = cpu_speed;
    assert_ok(engine_open_file(&model, path, &hardware, &options, why, &test_error));
    assert_int_equal(model_parameters(model)->predicting, !says);
    if (says && !strstr(why, says))
        fail_msg("%s", why);
    model_close(model);
}

static void a_slow_cpu_does_not_draft(void **state)
{
    (void)state;
    device_or_skip();
    char path[512];
    temporary_path(path, sizeof path);
    make_predicting(path, model_path("mixtral"), PREDICTION_RANDOM);
    expect_used(path, 1e15, NULL);
    expect_used(path, 1, "faster than the CPU would draft one");
    unlink(path);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(its_predictions_are_right),
        cmocka_unit_test(its_logits_match_the_cpus),
        cmocka_unit_test(a_slow_cpu_does_not_draft),
    };
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    return cmocka_run_group_tests(tests, find_device, NULL);
}
