/* LoRA adapters give the same results as a model with merged weights, from every tier. */
#include "adapter_files.h"

#include <unistd.h>

#define PROMPT 20

struct run {
    const struct engine_adapter *adapters;
    size_t adapter_count, threads, batch;
    bool limited;
};

static float *run(const char *path, const struct run *how)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 128;
    options.kv_type = TENSOR_F32;
    options.threads = how->threads;
    options.adapters = how->adapters;
    options.adapter_count = how->adapter_count;
    if (how->limited)
        engine = open_smallest(path, &options);
    else
        assert_ok(engine_open(&engine, path, &options, &test_error));
    int32_t tokens[PROMPT];
    for (size_t i = 0; i < PROMPT; i++)
        tokens[i] = (int32_t)(i * 37 % 300);
    float *logits = calloc(PROMPT * (size_t)model_parameters(engine_model(engine))->vocabulary, sizeof *logits);
    feed(engine, 0, tokens, PROMPT, how->batch, logits);
    engine_close(engine);
    return logits;
}

static double most_apart(const float *a, const float *b, size_t count)
{
    double most = 0;
    for (size_t i = 0; i < count; i++) {
        double apart = fabs((double)a[i] - b[i]); /* fmax crashes gcc 12 for Arm here */
        most = apart > most ? apart : most;
    }
    return most;
}

/* The models have separate and fused matrices, separate and fused experts, shared experts, latent attention and delta
 * nets. */
static void equals_the_merged_model(void **state)
{
    (void)state;
    static const char *const models[] = {"llama", "phi3-longrope", "mixtral", "qwen2moe", "deepseek2-legacy", "qwen35"};
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        write_files(models[m], 3 + m);
        char base[4096];
        snprintf(base, sizeof base, "%s", model_path(models[m]));
        struct engine_adapter adapter = {path_in_folder("adapter.gguf"), 1.0f};
        struct run plain = {.threads = 2, .batch = SIZE_MAX}, adapted = plain, small;
        adapted.adapters = &adapter;
        adapted.adapter_count = 1;
        small = (struct run){&adapter, 1, 1, 3, true};
        float *without = run(base, &plain), *merged = run(path_in_folder("merged.gguf"), &plain);
        float *with = run(base, &adapted), *streamed = run(base, &small);
        struct model *model;
        assert_ok(model_open(&model, base, &test_error));
        size_t count = PROMPT * (size_t)model_parameters(model)->vocabulary;
        model_close(model);
        print_message("# %-18s from the merged %8.2g, from the plain %8.2g\n", models[m],
                      most_apart(with, merged, count), most_apart(with, without, count));
        assert_true(most_apart(with, merged, count) < 1e-3);
        assert_true(most_apart(with, without, count) > 1);
        assert_memory_equal(with, streamed, count * sizeof *with);
        free(without);
        free(merged);
        free(with);
        free(streamed);
    }
}

/* An adapter at scales 0.25 and 0.75 equals the same one at scale 1. At scale 0 it changes nothing. */
static void scales_add_up(void **state)
{
    (void)state;
    write_files("llama", 4);
    char base[4096];
    snprintf(base, sizeof base, "%s", model_path("llama"));
    const char *path = path_in_folder("adapter.gguf");
    struct engine_adapter whole = {path, 1.0f}, parts[] = {{path, 0.25f}, {path, 0.75f}}, none = {path, 0.0f};
    struct run plain = {.threads = 2, .batch = SIZE_MAX};
    struct run runs[] = {
        {&whole, 1, 2, SIZE_MAX, false}, {parts, 2, 2, SIZE_MAX, false}, {&none, 1, 2, SIZE_MAX, false}};
    float *expected = run(base, &plain), *found[COUNT_OF(runs)];
    for (size_t i = 0; i < COUNT_OF(runs); i++)
        found[i] = run(base, &runs[i]);
    size_t count = PROMPT * (size_t)448;
    assert_true(most_apart(found[0], found[1], count) < 1e-3);
    assert_true(most_apart(found[0], expected, count) > 1);
    assert_memory_equal(found[2], expected, count * sizeof *expected);
    free(expected);
    for (size_t i = 0; i < COUNT_OF(runs); i++)
        free(found[i]);
}

static void assert_refused(const char *model, const char *adapter, const char *reason)
{
    struct engine_options options;
    struct engine *engine = NULL;
    struct engine_adapter one = {adapter, 1.0f};
    engine_default_options(&options);
    options.adapters = &one;
    options.adapter_count = 1;
    assert_int_not_equal(engine_open(&engine, model_path(model), &options, &test_error), HYPURA_OK);
    if (!strstr(test_error.message, reason))
        fail_msg("the error \"%s\" does not contain \"%s\"", test_error.message, reason);
}

static void write_wrong(const char *name, const char *tensor, uint64_t columns, uint64_t rank, bool both)
{
    struct gguf_writer *writer;
    float zeros[4096] = {0};
    assert_ok(gguf_writer_create(&writer, path_in_folder(name), 0, &test_error));
    assert_ok(gguf_writer_add_string(writer, "general.type", "adapter", &test_error));
    assert_ok(gguf_writer_add_string(writer, "adapter.type", "lora", &test_error));
    assert_ok(gguf_writer_add_string(writer, "general.architecture", "llama", &test_error));
    add_tensor(writer, tensor, ".lora_a", TENSOR_F32, columns, rank, 1);
    if (both)
        add_tensor(writer, tensor, ".lora_b", TENSOR_F32, rank, 128, 1);
    assert_ok(gguf_writer_write(writer, zeros, columns * rank * sizeof *zeros, &test_error));
    if (both)
        assert_ok(gguf_writer_write(writer, zeros, rank * 128 * sizeof *zeros, &test_error));
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
}

static void unsuitable_adapters_are_refused(void **state)
{
    (void)state;
    write_files("llama", 4);
    assert_refused("qwen2", path_in_folder("adapter.gguf"), "'general.architecture' is 'llama', not 'qwen2'");
    assert_refused("llama-tied", path_in_folder("adapter.gguf"), "which llama-tied does not have");
    assert_refused("llama", path_in_folder("merged.gguf"), "'general.type' is 'model', not 'adapter'");
    assert_refused("llama", path_in_folder("absent.gguf"), "absent.gguf");
    write_wrong("wrong.gguf", "blk.0.attn_q.weight", 64, 4, true);
    assert_refused("llama", path_in_folder("wrong.gguf"), "do not fit the model's 'blk.0.attn_q.weight'");
    write_wrong("wrong.gguf", "blk.0.attn_q.weight", 96, 4, false);
    assert_refused("llama", path_in_folder("wrong.gguf"), "tensor 'blk.0.attn_q.weight.lora_b' is missing");
    write_wrong("wrong.gguf", "blk.0.attn_norm.weight", 96, 4, true);
    assert_refused("llama", path_in_folder("wrong.gguf"), "cannot be adapted here");
    write_wrong("wrong.gguf", "blk.3.attn_q.weight", 96, 4, true);
    assert_refused("llama", path_in_folder("wrong.gguf"), "adapts 'blk.3.attn_q.weight', which llama does not have");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_the_merged_model),
        cmocka_unit_test(scales_add_up),
        cmocka_unit_test(unsuitable_adapters_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
