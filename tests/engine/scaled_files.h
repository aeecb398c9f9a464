/* Makes a reference model in floats, and a copy with each matrix divided by a power of two, which its ".scale"
 * restores. Both give the same products to the last bit. The tests of the CPU and of the GPU share this. */
#ifndef HYPURA_TEST_SCALED_FILES_H
#define HYPURA_TEST_SCALED_FILES_H

#include "copy_model.h"
#include "folder.h"
#include "reference.h"

#include "compute/compute.h"

/* Whether a matrix may have a scale. Those of heads, tables, convolutions and routers may not. */
static bool may_scale(const struct gguf_tensor *tensor)
{
    static const char *const kept[] = {"token_embd.weight", "ssm_conv1d.weight",   "attn_k_b.weight",
                                       "attn_v_b.weight",   "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight"};
    const char *name = tensor->name.data;
    if (strncmp(name, "blk.", 4) == 0)
        name = strchr(name + 4, '.') + 1;
    for (size_t i = 0; i < COUNT_OF(kept); i++)
        if (strcmp(name, kept[i]) == 0)
            return false;
    return tensor->dimensions[1] > 1 && strstr(name, ".weight");
}

static float scale_at(size_t tensor, uint64_t expert)
{
    return ldexpf(1.0f, (int)((tensor * 5 + expert * 3) % 9) - 4);
}

static float *floats_of(const struct gguf *file, const struct gguf_tensor *tensor)
{
    const uint64_t count = tensor->dimensions[0] * tensor->dimensions[1] * tensor->dimensions[2];
    float *floats = malloc(count * sizeof *floats);
    uint8_t *data = read_tensor(file, tensor);
    assert_non_null(floats);
    if (tensor->type == TENSOR_F32)
        memcpy(floats, data, tensor->bytes);
    else
        compute_dequantize(tensor->type, data, floats, count);
    free(data);
    return floats;
}

static void name_scale(char *out, size_t room, const struct gguf_tensor *tensor, const char *ending)
{
    const char *name = tensor->name.data;
    snprintf(out, room, "%.*s%s", (int)(strlen(name) - strlen(".weight")), name, ending);
}

/* Writes plain.gguf and scaled.gguf. */
static void write_scaled(const char *model)
{
    struct gguf *file;
    assert_ok(gguf_open(&file, model_path(model), &test_error));
    for (int scaled = 0; scaled < 2; scaled++) {
        struct gguf_writer *writer;
        assert_ok(gguf_writer_create(&writer, path_in_folder(scaled ? "scaled.gguf" : "plain.gguf"), 0, &test_error));
        copy_values(writer, file);
        for (size_t i = 0; i < gguf_tensor_count(file); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(file, i);
            const bool may = may_scale(t);
            char name[128];
            assert_ok(gguf_writer_add_tensor(writer, t->name.data, may ? TENSOR_F32 : t->type, t->dimension_count,
                                             t->dimensions, &test_error));
            for (int input = 0; may && scaled && input < 2; input++) {
                name_scale(name, sizeof name, t, input ? ".input_scale" : ".scale");
                assert_ok(gguf_writer_add_tensor(writer, name, TENSOR_F32, 1, &t->dimensions[2], &test_error));
            }
        }
        for (size_t i = 0; i < gguf_tensor_count(file); i++) {
            const struct gguf_tensor *t = gguf_tensor_at(file, i);
            const uint64_t matrix = t->dimensions[0] * t->dimensions[1], experts = t->dimensions[2];
            if (!may_scale(t)) {
                uint8_t *data = read_tensor(file, t);
                assert_ok(gguf_writer_write(writer, data, t->bytes, &test_error));
                free(data);
                continue;
            }
            float *floats = floats_of(file, t), *scales = calloc(experts, sizeof *scales);
            assert_non_null(scales);
            for (uint64_t e = 0; e < experts; e++) {
                scales[e] = scale_at(i, e);
                for (uint64_t n = 0; scaled && n < matrix; n++)
                    floats[e * matrix + n] /= scales[e];
            }
            assert_ok(gguf_writer_write(writer, floats, matrix * experts * sizeof *floats, &test_error));
            for (int input = 0; scaled && input < 2; input++)
                assert_ok(gguf_writer_write(writer, scales, experts * sizeof *scales, &test_error));
            free(floats);
            free(scales);
        }
        assert_ok(gguf_writer_finish(writer, &test_error));
        gguf_writer_destroy(writer);
    }
    gguf_close(file);
}

#endif
