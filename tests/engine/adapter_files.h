/* Makes an adapter for a reference model, and that model with the adapter merged into its weights. The tests of the CPU
 * and of the GPU share this. */
#ifndef HYPURA_TEST_ADAPTER_FILES_H
#define HYPURA_TEST_ADAPTER_FILES_H

#include "copy_model.h"
#include "folder.h"
#include "reference.h"

#include "compute/compute.h"

#define ALPHA 12.0f

/* Whether the tests adapt a tensor: all matrices but the embedding, convolutions and those of latent heads. */
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

static float *random_floats(struct random *random, uint64_t count, double deviation)
{
    float *values = malloc(count * sizeof *values);
    for (uint64_t i = 0; i < count; i++)
        values[i] = (float)(deviation * random_normal(random));
    return values;
}

/* The matrices A and B for a tensor, and the tensor with both merged into it. */
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

/* Writes adapter.gguf and merged.gguf for a reference model. */
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
    copy_values(merged, file);
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

#endif
