/* LoRA adapters: beside the weights they give what a model with merged weights gives, from every tier. */
#include "folder.h"
#include "reference.h"

#include "compute/compute.h"

#include <unistd.h>

#define PROMPT 20
#define ALPHA 12.0f

/* Matrices that the tests adapt: all but the embedding and those of the latent heads, as far as they end so. */
static bool is_adapted(const struct gguf_tensor *tensor)
{
    static const char *const kept[] = {"token_embd.weight", "ssm_conv1d.weight", "attn_k_b.weight", "attn_v_b.weight"};
    const char *name = tensor->name.data;
    if (strncmp(name, "blk.", 4) == 0)
        name = strchr(name + 4, '.') + 1;
    for (size_t i = 0; i < COUNT_OF(kept); i++)
        if (strcmp(name, kept[i]) == 0)
            return false;
    return tensor->dimensions[1] > 1 && strstr(name, ".weight");
}

static uint64_t elements_of(const struct gguf_tensor *tensor)
{
    return tensor->dimensions[0] * tensor->dimensions[1] * tensor->dimensions[2];
}

static uint8_t *read_tensor(const struct gguf *file, const struct gguf_tensor *tensor)
{
    uint8_t *data = malloc(tensor->bytes);
    FILE *stream = fopen(gguf_file_path(file, 0), "rb");
    assert_non_null(stream);
    assert_int_equal(fseeko(stream, (off_t)tensor->offset, SEEK_SET), 0);
    assert_int_equal(fread(data, 1, tensor->bytes, stream), tensor->bytes);
    fclose(stream);
    return data;
}

static float *random_floats(struct random *random, uint64_t count, double deviation)
{
    float *values = malloc(count * sizeof *values);
    for (uint64_t i = 0; i < count; i++)
        values[i] = (float)(deviation * random_normal(random));
    return values;
}

/* A and B of a matrix, and the matrix with them in it. */
struct change {
    float *a, *b, *merged;
};

static struct change change_of(const struct gguf *file, const struct gguf_tensor *tensor, size_t rank, uint64_t seed)
{
    struct random random;
    struct change c;
    uint64_t in = tensor->dimensions[0], out = tensor->dimensions[1], experts = tensor->dimensions[2];
    random_seed(&random, seed);
    c.a = random_floats(&random, in * rank * experts, 1 / sqrt((double)in));
    c.b = random_floats(&random, rank * out * experts, 0.3 / sqrt((double)rank));
    c.merged = malloc(elements_of(tensor) * sizeof *c.merged);
    uint8_t *data = read_tensor(file, tensor);
    if (tensor->type == TENSOR_F32)
        memcpy(c.merged, data, tensor->bytes);
    else
        compute_dequantize(tensor->type, data, c.merged, elements_of(tensor));
    free(data);
    for (uint64_t e = 0; e < experts; e++)
        for (uint64_t o = 0; o < out; o++)
            for (uint64_t i = 0; i < in; i++) {
                double sum = 0;
                for (size_t r = 0; r < rank; r++)
                    sum += (double)c.b[(e * out + o) * rank + r] * c.a[(e * rank + r) * in + i];
                c.merged[(e * out + o) * in + i] += (float)(sum * ALPHA / (double)rank);
            }
    return c;
}

static void add_tensor(struct gguf_writer *writer, const char *name, const char *ending, enum tensor_type type,
                       uint64_t columns, uint64_t rows, uint64_t experts)
{
    char full[256];
    snprintf(full, sizeof full, "%s%s", name, ending);
    uint64_t dimensions[] = {columns, rows, experts};
    assert_ok(gguf_writer_add_tensor(writer, full, type, experts > 1 ? 3 : 2, dimensions, &test_error));
}

/* Writes adapter.gguf and merged.gguf for a model of the reference set. */
static void write_files(const char *name, size_t rank)
{
    struct gguf *file;
    struct gguf_writer *adapter, *merged;
    assert_ok(gguf_open(&file, model_path(name), &test_error));
    assert_ok(gguf_writer_create(&adapter, path_in_folder("adapter.gguf"), 0, &test_error));
    assert_ok(gguf_writer_create(&merged, path_in_folder("merged.gguf"), 0, &test_error));
    struct gguf_string architecture;
    assert_true(gguf_get_string(file, "general.architecture", &architecture));
    assert_ok(gguf_writer_add_string(adapter, "general.type", "adapter", &test_error));
    assert_ok(gguf_writer_add_string(adapter, "adapter.type", "lora", &test_error));
    assert_ok(gguf_writer_add_string(adapter, "general.architecture", architecture.data, &test_error));
    assert_ok(gguf_writer_add_float(adapter, "adapter.lora.alpha", ALPHA, &test_error));
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        bool array = value->type == GGUF_ARRAY;
        assert_ok(gguf_writer_add(merged, value->key.data, array ? value->element_type : value->type, value->data,
                                  value->count, array, &test_error));
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        const char *tensor = t->name.data;
        assert_ok(gguf_writer_add_tensor(merged, tensor, is_adapted(t) ? TENSOR_F32 : t->type, t->dimension_count,
                                         t->dimensions, &test_error));
        if (!is_adapted(t))
            continue;
        add_tensor(adapter, tensor, ".lora_a", TENSOR_F32, t->dimensions[0], rank, t->dimensions[2]);
        add_tensor(adapter, tensor, ".lora_b", TENSOR_F32, rank, t->dimensions[1], t->dimensions[2]);
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        if (!is_adapted(t)) {
            uint8_t *data = read_tensor(file, t);
            assert_ok(gguf_writer_write(merged, data, t->bytes, &test_error));
            free(data);
            continue;
        }
        struct change c = change_of(file, t, rank, i);
        uint64_t experts = t->dimensions[2];
        assert_ok(gguf_writer_write(merged, c.merged, elements_of(t) * sizeof(float), &test_error));
        assert_ok(gguf_writer_write(adapter, c.a, t->dimensions[0] * rank * experts * sizeof(float), &test_error));
        assert_ok(gguf_writer_write(adapter, c.b, t->dimensions[1] * rank * experts * sizeof(float), &test_error));
        free(c.a);
        free(c.b);
        free(c.merged);
    }
    assert_ok(gguf_writer_finish(adapter, &test_error));
    assert_ok(gguf_writer_finish(merged, &test_error));
    gguf_writer_destroy(adapter);
    gguf_writer_destroy(merged);
    gguf_close(file);
}

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
    for (size_t i = 0; i < count; i++)
        most = fmax(most, fabs((double)a[i] - b[i]));
    return most;
}

/* Matrices one by one and several as one, experts one by one and fused, shared ones, latent attention, delta nets. */
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

/* Two halves are a whole, and none of it nothing. */
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
        fail_msg("\"%s\" does not say \"%s\"", test_error.message, reason);
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

static void wrong_files_are_refused(void **state)
{
    (void)state;
    write_files("llama", 4);
    assert_refused("qwen2", path_in_folder("adapter.gguf"), "'general.architecture' is 'llama', not 'qwen2'");
    assert_refused("llama3-rope", path_in_folder("adapter.gguf"), "which llama3-rope does not have");
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
        cmocka_unit_test(wrong_files_are_refused),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
