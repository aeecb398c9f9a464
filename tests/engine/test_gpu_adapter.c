/* LoRA adapters give the same results on a GPU as on the CPU. Runs under the validation layers; without a device, the
 * tests are skipped. */
#include "gpu_engine.h"

#include "adapter_files.h"

static struct engine *open_adapted(const char *name, bool on_cpu, const struct engine_adapter *adapters, size_t count)
{
    struct engine_options options;
    struct engine *engine = NULL;
    set_options(&options, &(struct setting){.kv_type = TENSOR_F16});
    options.gpu = on_cpu ? "none" : number;
    options.adapters = adapters;
    options.adapter_count = count;
    assert_ok(engine_open(&engine, model_path(name), &options, &test_error));
    assert_int_equal(engine_gpu(engine) == NULL, on_cpu);
    return engine;
}

/* The models have separate and fused matrices, experts (which stay on the CPU), both kinds of latent attention, and
 * delta nets. Tests prompts and single tokens. */
static void adds_like_the_cpu(void **state)
{
    (void)state;
    device_or_skip();
    static const char *const models[] = {"llama",        "phi3-longrope", "qwen2moe", "deepseek2-legacy",
                                         "deepseek2-v3", "qwen35",        "gemma2"};
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        write_files(models[m], 8 - m % 3);
        const struct engine_adapter adapter = {path_in_folder("adapter.gguf"), 1.0f};
        struct engine *engine = open_adapted(models[m], true, &adapter, 1);
        const struct model_parameters *p = model_parameters(engine_model(engine));
        size_t vocabulary = p->vocabulary;
        float *expected = run_tokens(engine);
        engine_close(engine);
        engine = open_adapted(models[m], true, NULL, 0);
        float *plain = run_tokens(engine);
        engine_close(engine);
        engine = open_adapted(models[m], false, &adapter, 1);
        const struct plan_gpu *plan = engine->open.plan->gpu;
        assert_int_equal(plan->taken, plan->layer_count);
        for (uint32_t i = 0; i < plan->layer_count; i++)
            assert_int_equal(plan->slots[i], 0);
        float *logits = run_tokens(engine);
        close_silent(engine);
        struct distance d = measure(expected, logits, TOKENS, vocabulary);
        print_message("# %-18s KL %8.2g, from the plain model %8.2g\n", models[m], d.kl_mean,
                      measure(plain, logits, TOKENS, vocabulary).kl_mean);
        assert_true(d.kl_mean < 2e-3);
        assert_true(measure(plain, logits, TOKENS, vocabulary).kl_mean > 0.1);
        free(expected);
        free(plain);
        free(logits);
    }
}

/* Several adapters of a matrix are applied in turn. One with scale 0 changes nothing. The plan counts their memory. */
static void scales_add_up(void **state)
{
    (void)state;
    device_or_skip();
    write_files("llama", 4);
    const char *path = path_in_folder("adapter.gguf");
    const struct engine_adapter whole = {path, 1.0f}, parts[] = {{path, 0.25f}, {path, 0.0f}, {path, 0.75f}};
    float *logits[2];
    uint64_t scratch[2];
    size_t vocabulary = 0;
    for (int i = 0; i < 2; i++) {
        struct engine *engine = open_adapted("llama", false, i ? parts : &whole, i ? 3 : 1);
        vocabulary = model_parameters(engine_model(engine))->vocabulary;
        scratch[i] = engine->open.plan->gpu->scratch_bytes;
        logits[i] = run_tokens(engine);
        close_silent(engine);
    }
    assert_true(measure(logits[0], logits[1], TOKENS, vocabulary).kl_mean < 1e-6);
    assert_true(scratch[1] > scratch[0]);
    free(logits[0]);
    free(logits[1]);
}

static int prepare(void **state)
{
    return make_folder(state) || find_device(state);
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adds_like_the_cpu),
        cmocka_unit_test(scales_add_up),
    };
    return cmocka_run_group_tests(tests, prepare, remove_folder);
}
