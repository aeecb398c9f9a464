/* Scales of whole matrices and of experts on a GPU, under the validation layers, give the same results as weights that
 * include them, with all experts on the GPU or some on the CPU. Without a device, the tests are skipped. */
#include "gpu_engine.h"

#include "adapter_files.h"
#include "scaled_files.h"

struct on_gpu {
    float *logits;
    size_t vocabulary;
    uint32_t slots;    /* experts of the first layer on the GPU */
    uint64_t half_way; /* a budget for half of the experts */
};

static struct on_gpu run(const char *name, const struct setting *setting, const struct engine_adapter *adapter)
{
    struct engine_options options;
    struct engine *engine = NULL;
    set_options(&options, setting);
    options.adapters = adapter;
    options.adapter_count = adapter ? 1 : 0;
    if (engine_open(&engine, path_in_folder(name), &options, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    const struct plan_gpu *plan = engine->open.plan->gpu;
    assert_non_null(plan);
    assert_int_equal(plan->taken, plan->layer_count);
    struct on_gpu found = {.vocabulary = model_parameters(engine_model(engine))->vocabulary, .slots = plan->slots[0]};
    found.half_way = plan->scratch_bytes + plan->resident_bytes + plan->kv_bytes + plan->expert_bytes / 2;
    found.logits = run_tokens(engine);
    close_silent(engine);
    return found;
}

static uint64_t compare(const char *model, const struct setting *setting, const struct engine_adapter *adapter)
{
    const struct on_gpu expected = run("plain.gguf", setting, adapter), found = run("scaled.gguf", setting, adapter);
    const struct distance d = measure(expected.logits, found.logits, TOKENS, found.vocabulary);
    print_message("# %-14s %u experts on the GPU, KL %8.2g\n", model, found.slots, d.kl_mean);
    assert_true(d.kl_mean < 1e-6);
    if (setting->gpu_budget)
        assert_in_range(found.slots, 1, 7);
    free(expected.logits);
    free(found.logits);
    return found.half_way;
}

static void equals_scaled_weights(void **state)
{
    (void)state;
    device_or_skip();
    static const char *const models[] = {"qwen2", "phi3-longrope", "llama4"};
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        write_scaled(models[m]);
        compare(models[m], &(struct setting){.kv_type = TENSOR_F16}, NULL);
    }
}

/* Both sides add biases of experts after scaling. */
static void experts_on_both_sides(void **state)
{
    (void)state;
    device_or_skip();
    struct setting setting = {.kv_type = TENSOR_F16, .fixed = true};
    treat_memory_as("separate");
    write_scaled("gpt-oss");
    setting.gpu_budget = compare("gpt-oss", &setting, NULL);
    compare("gpt-oss", &setting, NULL);
    treat_memory_as("shared");
}

static void adapters_add_to_the_scaled_product(void **state)
{
    (void)state;
    device_or_skip();
    write_scaled("llama");
    write_files("llama", 4);
    const struct engine_adapter adapter = {path_in_folder("adapter.gguf"), 1.0f};
    compare("llama", &(struct setting){.kv_type = TENSOR_F16}, &adapter);
}

static int prepare(void **state)
{
    return make_folder(state) || find_device(state);
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_scaled_weights),
        cmocka_unit_test(experts_on_both_sides),
        cmocka_unit_test(adapters_add_to_the_scaled_product),
    };
    return cmocka_run_group_tests(tests, prepare, remove_folder);
}
