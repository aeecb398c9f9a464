/* Scales of whole matrices and of experts, as in NVFP4, give the same bits as weights that include them, from every
 * tier and also with adapters. */
#include "adapter_files.h"
#include "scaled_files.h"

#include "steps/steps.h"

#define PROMPT 20

struct run {
    const struct engine_adapter *adapter;
    size_t threads, batch;
    bool limited;
};

static float *run(const char *name, const struct run *how, size_t *count)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 128;
    options.kv_type = TENSOR_F32;
    options.threads = how->threads;
    options.adapters = how->adapter;
    options.adapter_count = how->adapter ? 1 : 0;
    if (how->limited)
        engine = open_smallest(path_in_folder(name), &options);
    else if (engine_open(&engine, path_in_folder(name), &options, &test_error))
        fail_msg("%s", test_error.message);
    int32_t tokens[PROMPT];
    for (size_t i = 0; i < PROMPT; i++)
        tokens[i] = (int32_t)(i * 37 % 300);
    *count = PROMPT * (size_t)model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(*count, sizeof *logits);
    assert_non_null(logits);
    feed(engine, 0, tokens, PROMPT, how->batch, logits);
    engine_close(engine);
    return logits;
}

/* The models have biases, fused matrices, experts with biases, shared experts, weighted inputs, latent attention, delta
 * nets, and a scaled output matrix. */
static void equals_scaled_weights(void **state)
{
    (void)state;
    static const char *const models[] = {"qwen2",    "phi3-longrope", "mixtral",      "gpt-oss",
                                         "qwen2moe", "llama4",        "deepseek2-v3", "qwen35"};
    const struct run plain = {.threads = 2, .batch = SIZE_MAX}, small = {NULL, 1, 3, true};
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        size_t count;
        write_scaled(models[m]);
        float *expected = run("plain.gguf", &plain, &count), *found = run("scaled.gguf", &plain, &count);
        float *streamed = run("scaled.gguf", &small, &count);
        print_message("# %s\n", models[m]);
        assert_memory_equal(found, expected, count * sizeof *expected);
        assert_memory_equal(streamed, expected, count * sizeof *expected);
        free(expected);
        free(found);
        free(streamed);
    }
}

/* An adapter adds to the scaled product. */
static void adapters_add_to_the_scaled_product(void **state)
{
    (void)state;
    static const char *const models[] = {"llama", "mixtral"};
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        size_t count;
        write_scaled(models[m]);
        write_files(models[m], 4);
        struct engine_adapter adapter = {path_in_folder("adapter.gguf"), 1.0f};
        const struct run plain = {.threads = 2, .batch = SIZE_MAX}, with = {&adapter, 2, SIZE_MAX, false};
        float *without = run("plain.gguf", &plain, &count), *expected = run("plain.gguf", &with, &count);
        float *found = run("scaled.gguf", &with, &count);
        assert_memory_equal(found, expected, count * sizeof *expected);
        assert_memory_not_equal(without, expected, count * sizeof *expected);
        free(without);
        free(expected);
        free(found);
    }
}

static void write_wrong(const char *name, uint64_t count)
{
    struct gguf *file;
    struct gguf_writer *writer;
    const float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    assert_ok(gguf_open(&file, model_path("mixtral"), &test_error));
    assert_ok(gguf_writer_create(&writer, path_in_folder("wrong.gguf"), 0, &test_error));
    copy_values(writer, file);
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        assert_ok(
            gguf_writer_add_tensor(writer, t->name.data, t->type, t->dimension_count, t->dimensions, &test_error));
    }
    assert_ok(gguf_writer_add_tensor(writer, name, TENSOR_F32, 1, &count, &test_error));
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        uint8_t *data = read_tensor(file, gguf_tensor_at(file, i));
        assert_ok(gguf_writer_write(writer, data, gguf_tensor_at(file, i)->bytes, &test_error));
        free(data);
    }
    assert_ok(gguf_writer_write(writer, ones, count * sizeof *ones, &test_error));
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
    gguf_close(file);
}

static void wrong_scales_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name, *reason;
        uint64_t count;
    } wrong[] = {
        {"blk.0.attn_q.scale", "has the shape [2]; the metadata asks for [1]", 2},
        {"blk.0.ffn_up_exps.scale", "has the shape [1]; the metadata asks for [", 1},
        {"blk.0.attn_gate.scale", "is the scale of a matrix that is missing", 1},
        {"blk.0.ffn_gate_inp.scale", "the metadata asks for", 1}, /* in Gemma 4, factors of a router's input */
        {"token_embd.scale", "is not used by this kind of layer", 1},
        {"blk.0.attn_x.scale", "is not known here", 1},
    };
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        struct engine_options options;
        struct engine *engine = NULL;
        engine_default_options(&options);
        options.context = 64;
        write_wrong(wrong[i].name, wrong[i].count);
        assert_int_not_equal(engine_open(&engine, path_in_folder("wrong.gguf"), &options, &test_error), HYPURA_OK);
        if (!strstr(test_error.message, wrong[i].reason))
            fail_msg("the error \"%s\" does not contain \"%s\"", test_error.message, wrong[i].reason);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equals_scaled_weights),
        cmocka_unit_test(adapters_add_to_the_scaled_product),
        cmocka_unit_test(wrong_scales_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
