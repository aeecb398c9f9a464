/* Norms and biases of other types than F32 are converted before use, whatever their length. */
#include "copy_model.h"
#include "folder.h"
#include "reference.h"

#define TOKENS 20

/* Whether a tensor is a vector. A router with a single row is a matrix. */
static bool is_vector(const struct gguf_tensor *tensor)
{
    const char *name = tensor->name.data;
    return tensor->type == TENSOR_F32 && !strstr(name, "ffn_gate_inp_shexp") &&
           (tensor->dimensions[1] == 1 || strstr(name, "exps.bias"));
}

/* Writes a model with its vectors in BF16, or with the same numbers in F32. */
static void write_model(const char *name, const char *out, bool short_floats)
{
    struct gguf *file;
    struct gguf_writer *writer;
    assert_ok(gguf_open(&file, model_path(name), &test_error));
    assert_ok(gguf_writer_create(&writer, path_in_folder(out), 0, &test_error));
    copy_values(writer, file);
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        enum tensor_type type = is_vector(tensor) && short_floats ? TENSOR_BF16 : tensor->type;
        assert_ok(gguf_writer_add_tensor(writer, tensor->name.data, type, tensor->dimension_count, tensor->dimensions,
                                         &test_error));
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        uint8_t *data = read_tensor(file, tensor);
        uint64_t bytes = tensor->bytes;
        for (uint64_t at = 0; is_vector(tensor) && at < bytes; at += 4) {
            data[at] = data[at + 1] = 0;
            if (short_floats)
                memmove(data + at / 2, data + at + 2, 2);
        }
        assert_ok(gguf_writer_write(writer, data, is_vector(tensor) && short_floats ? bytes / 2 : bytes, &test_error));
        free(data);
    }
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
    gguf_close(file);
}

static float *run(const char *path, bool smallest)
{
    struct engine_options options;
    struct engine *engine = NULL;
    int32_t tokens[TOKENS];
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.gpu = "none";
    if (smallest)
        engine = open_smallest(path, &options);
    else
        assert_ok(engine_open(&engine, path, &options, &test_error));
    for (int32_t i = 0; i < TOKENS; i++)
        tokens[i] = 7 * i;
    float *logits = calloc((size_t)TOKENS * model_parameters(engine_model(engine))->vocabulary, sizeof *logits);
    feed(engine, 0, tokens, TOKENS, 13, logits);
    engine_close(engine);
    return logits;
}

static void every_type_of_vector_works(void **state)
{
    (void)state;
    static const char *const names[] = {"gpt-oss", "qwen2", "gemma2", "qwen3next"};
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        write_model(names[n], "long.gguf", false);
        write_model(names[n], "short.gguf", true);
        struct model *model;
        assert_ok(model_open(&model, path_in_folder("short.gguf"), &test_error));
        size_t bytes = (size_t)TOKENS * model_parameters(model)->vocabulary * sizeof(float);
        model_close(model);
        float *expected = run(path_in_folder("long.gguf"), false);
        for (int smallest = 0; smallest < 2; smallest++) {
            float *logits = run(path_in_folder("short.gguf"), smallest);
            if (memcmp(logits, expected, bytes) != 0)
                fail_msg("%s: the bits differ", names[n]);
            free(logits);
        }
        free(expected);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(every_type_of_vector_works, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
