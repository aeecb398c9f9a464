/* A model on several devices. A single device, listed twice, stands for two. If all layers are on devices and the same
 * kernels run, the bits are those of one device. If a mixture is the last layer on a device, another kernel norms few
 * rows. Without a device, the tests are skipped. */
#include "gpu_engine.h"

static const char *const names[] = {"llama", "mixtral", "qwen35", "mamba-rms", "qwen3moe"};

static struct engine *open_on(const char *name, const char *gpus, const uint64_t *budgets)
{
    struct engine_options options;
    struct engine *engine = NULL;
    set_options(&options, &(struct setting){.kv_type = TENSOR_F16, .fixed = true});
    options.gpu = gpus;
    for (size_t d = 0; budgets && d < 2; d++)
        options.gpu_budgets[d] = budgets[d];
    if (engine_open(&engine, model_path(name), &options, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    return engine;
}

static const char *listed(unsigned times)
{
    static char list[64];
    snprintf(list, sizeof list, "%s%s%s%s%s", number, times > 1 ? "," : "", times > 1 ? number : "",
             times > 2 ? "," : "", times > 2 ? number : "");
    return list;
}

static uint32_t layers_of(const struct engine *engine, uint32_t part)
{
    return engine_plan(engine)->gpu->parts[part].taken;
}

static void compare(const struct engine *engine, const float *logits, const float *expected, const char *name)
{
    const struct model_parameters *p = model_parameters(engine_model(engine));
    const size_t prompt = PROMPT * (size_t)p->vocabulary, all = TOKENS * (size_t)p->vocabulary;
    double most = 0;
    if (memcmp(logits, expected, prompt * sizeof *logits) != 0)
        fail_msg("%s: the bits of a prompt differ", name);
    for (size_t i = prompt; i < all; i++)
        most = fmax(most, fabs((double)logits[i] - (double)expected[i]));
    if (most > (p->experts ? 1e-4 : 0))
        fail_msg("%s: the logits of single tokens differ by %g", name, most);
}

/* A prompt, then tokens one by one. */
static void devices_give_the_bits_of_one(void **state)
{
    (void)state;
    device_or_skip();
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        struct engine *one = open_on(names[i], number, NULL);
        float *expected = run_tokens(one);
        assert_int_equal(engine_plan(one)->gpu->part_count, 1);
        const uint32_t layers = engine_plan(one)->gpu->taken, most = i == 0 ? MIN(layers, 3u) : 2;
        close_silent(one);
        for (unsigned count = 2; count <= most; count++) {
            struct engine *several = open_on(names[i], listed(count), NULL);
            assert_int_equal(engine_plan(several)->gpu->taken, layers);
            for (uint32_t d = 0; d < count; d++)
                assert_true(layers_of(several, d) > 0 && several->batch.passes[d] && engine_gpu_at(several, d));
            assert_null(engine_gpu_at(several, count));
            for (int again = 0; again < 2; again++) {
                engine_truncate(several, 0, 0);
                float *logits = run_tokens(several);
                compare(several, logits, expected, names[i]);
                for (uint32_t d = 0; d < count; d++) /* the last token's commands were recorded ahead */
                    assert_true(several->batch.passes[d]->ahead.used);
                free(logits);
            }
            close_silent(several);
        }
        free(expected);
    }
}

/* A long prompt passes through two devices in parts. Later tokens read the cache entries of all parts. */
static void parts_of_a_prompt_give_the_bits_of_all(void **state)
{
    (void)state;
    device_or_skip();
    enum { LONG = 600, MORE = 4 };
    static const char *const models[] = {"llama", "mixtral"};
    static const struct {
        unsigned devices;
        const char *asked;
        uint32_t parts;
    } ways[] = {{1, NULL, 0}, {2, NULL, 2}, {2, "1000", LONG / 9}};
    int32_t tokens[LONG + MORE];
    struct random random;
    random_seed(&random, 5);
    for (size_t i = 0; i < COUNT_OF(tokens); i++)
        tokens[i] = (int32_t)(random_next(&random) % 300);
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        float *logits[COUNT_OF(ways)];
        size_t vocabulary = 0;
        for (size_t way = 0; way < COUNT_OF(ways); way++) {
            struct engine_options options;
            struct engine *engine = NULL;
            uint32_t positions[LONG];
            set_options(&options, &(struct setting){.kv_type = TENSOR_F16, .fixed = true});
            options.context = 1024;
            options.chunk = LONG;
            options.gpu = listed(ways[way].devices);
            if (ways[way].asked)
                setenv("HYPURA_GPU_PARTS", ways[way].asked, 1);
            assert_ok(engine_open(&engine, model_path(models[i]), &options, &test_error));
            for (uint32_t p = 0; p < LONG; p++)
                positions[p] = p;
            vocabulary = model_parameters(engine_model(engine))->vocabulary;
            logits[way] = calloc((1 + MORE) * vocabulary, sizeof(float));
            const struct engine_batch prompt = {.count = LONG, .tokens = tokens, .positions = positions};
            assert_ok(engine_forward(engine, &prompt, &test_error));
            unsetenv("HYPURA_GPU_PARTS");
            assert_int_equal(engine->batch.passes[1] != NULL, ways[way].parts != 0);
            for (int d = 0; d < 2 && ways[way].parts; d++)
                assert_int_equal(engine->batch.passes[d]->parts, ways[way].parts);
            memcpy(logits[way], engine_logits(engine, 0), vocabulary * sizeof(float));
            feed(engine, 0, tokens + LONG, MORE, 1, logits[way] + vocabulary);
            close_silent(engine);
        }
        for (size_t way = 1; way < COUNT_OF(ways); way++) {
            double most = 0;
            for (size_t k = 0; k < (1 + MORE) * vocabulary; k++)
                most = fmax(most, fabs((double)logits[0][k] - (double)logits[way][k]));
            if (strcmp(models[i], "llama") == 0 ? most != 0 : most > 1e-3)
                fail_msg("%s: the logits differ by %g in %u parts", models[i], most, ways[way].parts);
            free(logits[way]);
        }
        free(logits[0]);
    }
}

/* The device with more room gets more layers, and the CPU computes layers for which neither has room. */
static void devices_share_by_room(void **state)
{
    (void)state;
    device_or_skip();
    struct engine *one = open_on("embedded", number, NULL);
    const struct plan_gpu *all = engine_plan(one)->gpu;
    const uint64_t fixed = all->scratch_bytes, weights = plan_gpu_bytes(all) - fixed;
    const uint32_t layers = all->layer_count;
    const uint64_t unequal[] = {fixed + weights / 4, fixed + weights},
                   few[] = {fixed + weights / 4, fixed + weights / 4};
    close_silent(one);
    size_t vocabulary;
    float *exact = run_on_cpu("embedded", &vocabulary);
    for (int kind = 0; kind < 2; kind++) {
        struct engine *engine = open_on("embedded", listed(2), kind ? few : unequal);
        const struct plan_gpu *plan = engine_plan(engine)->gpu;
        assert_int_equal(plan->part_count, 2);
        for (uint32_t d = 0; d < 2; d++)
            assert_true(plan_gpu_bytes(&plan->parts[d]) <= (kind ? few : unequal)[d]);
        if (kind == 0)
            assert_true(layers_of(engine, 0) > 0 && layers_of(engine, 0) < layers_of(engine, 1));
        else
            assert_true(plan->resident_bytes + plan->expert_bytes < weights && layers_of(engine, 1) > 0);
        for (uint32_t i = 1; i < layers; i++)
            assert_true(!plan->layers[i - 1] || (plan->layers[i] && plan->devices[i - 1] <= plan->devices[i]));
        float *logits = run_tokens(engine);
        struct distance d = measure(exact, logits, TOKENS, vocabulary);
        assert_true(d.kl_mean < most_kl("embedded"));
        free(logits);
        close_silent(engine);
    }
    free(exact);
}

/* Experts change sides on each device. */
static void experts_move_on_each_device(void **state)
{
    (void)state;
    device_or_skip();
    struct engine *one = open_on("embedded", number, NULL);
    const struct plan_gpu *all = engine_plan(one)->gpu;
    const uint64_t budget = all->scratch_bytes + (all->resident_bytes + all->kv_bytes) * 2 / 3 + all->expert_bytes / 5;
    close_silent(one);
    struct engine_options options;
    struct engine *engine = NULL;
    set_options(&options, &(struct setting){.kv_type = TENSOR_F16, .gpu_budget = budget});
    options.gpu = listed(2);
    assert_ok(engine_open(&engine, model_path("embedded"), &options, &test_error));
    assert_true(engine_plan(engine)->gpu->moves);
    float *logits = NULL;
    for (int i = 0; i < 12; i++) {
        engine_truncate(engine, 0, 0);
        free(logits);
        logits = run_tokens(engine);
    }
    size_t vocabulary;
    float *exact = run_on_cpu("embedded", &vocabulary);
    assert_true(measure(exact, logits, TOKENS, vocabulary).kl_mean < most_kl("embedded"));
    struct engine_statistics statistics;
    engine_statistics(engine, &statistics);
    assert_true(statistics.store.expert_moves > 0);
    assert_int_equal(statistics.device_count, 2);
    for (uint32_t d = 0; d < 2; d++) {
        assert_int_equal(statistics.devices[d].layers, layers_of(engine, d));
        assert_true(statistics.devices[d].bytes > 0 && statistics.devices[d].name[0]);
        assert_true(device_info.kind == GPU_CPU || statistics.devices[d].busy_seconds > 0);
    }
    free(exact);
    free(logits);
    close_silent(engine);
}

static struct engine *open_with_fault(const char *fault)
{
    setenv("HYPURA_GPU_FAULT", fault, 1);
    struct engine *engine = open_on("llama", listed(2), NULL);
    unsetenv("HYPURA_GPU_FAULT");
    return engine;
}

/* Opens a model whose second device fails, but only after opening, which needs more submissions on some devices. */
static struct engine *open_to_fail_later(void)
{
    for (int submits = 12;; submits += 4) {
        char fault[32];
        snprintf(fault, sizeof fault, "submit:%d@1", submits);
        struct engine *engine = open_with_fault(fault);
        if (engine_gpu_at(engine, 1))
            return engine;
        assert_true(submits < 1000);
        engine_close(engine);
    }
}

/* A device that fails while the model is opened is left out. If a device is lost later, the request fails. */
static void continues_with_the_remaining_devices(void **state)
{
    (void)state;
    device_or_skip();
    const char *const faults[] = {"submit:1@1", "submit:1@0"};
    bool failed = false;
    for (size_t i = 0; i <= COUNT_OF(faults); i++) {
        struct engine *engine = i < COUNT_OF(faults) ? open_with_fault(faults[i]) : open_to_fail_later();
        assert_non_null(engine_gpu(engine));
        if (i < COUNT_OF(faults)) {
            assert_null(engine_gpu_at(engine, 1));
            float *logits = run_tokens(engine);
            struct engine *one = open_on("llama", number, NULL);
            float *expected = run_tokens(one);
            compare(engine, logits, expected, faults[i]);
            close_silent(one);
            free(expected);
            free(logits);
        } else {
            int32_t tokens[TOKENS];
            uint32_t positions[TOKENS];
            prompt_of(tokens);
            for (uint32_t p = 0; p < TOKENS; p++)
                positions[p] = p;
            const struct engine_batch batch = {.count = PROMPT, .tokens = tokens, .positions = positions};
            hypura_status status = HYPURA_OK;
            for (int pass = 0; pass < 20 && !status; pass++) {
                engine_truncate(engine, 0, 0);
                status = engine_forward(engine, &batch, &test_error);
            }
            assert_int_equal(status, HYPURA_ERROR_DEVICE);
            failed = engine_lost(engine);
        }
        engine_close(engine);
    }
    assert_true(failed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_give_the_bits_of_one),
        cmocka_unit_test(parts_of_a_prompt_give_the_bits_of_all),
        cmocka_unit_test(devices_share_by_room),
        cmocka_unit_test(experts_move_on_each_device),
        cmocka_unit_test(continues_with_the_remaining_devices),
    };
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    return cmocka_run_group_tests(tests, find_device, NULL);
}
