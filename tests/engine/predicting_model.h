/* Makes models with a prediction block from other models, whose last layer becomes the block. */
#ifndef HYPURA_TEST_PREDICTING_MODEL_H
#define HYPURA_TEST_PREDICTING_MODEL_H

#include "copy_model.h"

#include "compute/compute.h"
#include "core/core.h"
#include "model/model.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MADE_TENSORS 512

/* A file in the making: tensors of another file, possibly renamed, and new tensors. */
struct made {
    struct gguf_writer *writer;
    struct {
        uint8_t *data;
        uint64_t bytes;
    } tensors[MADE_TENSORS];
    size_t count;
};

static void make_begin(struct made *made, const char *path)
{
    *made = (struct made){0};
    assert_ok(gguf_writer_create(&made->writer, path, 0, &test_error));
}

/* Adds a tensor. Takes ownership of data, which comes from malloc. */
static void make_tensor(struct made *made, const char *name, enum tensor_type type, uint32_t count,
                        const uint64_t *dimensions, uint8_t *data, uint64_t bytes)
{
    assert_true(made->count < MADE_TENSORS);
    assert_ok(gguf_writer_add_tensor(made->writer, name, type, count, dimensions, &test_error));
    made->tensors[made->count].data = data;
    made->tensors[made->count++].bytes = bytes;
}

static void make_floats(struct made *made, const char *name, uint64_t columns, uint64_t rows, const float *values)
{
    const uint64_t dimensions[] = {columns, rows};
    uint64_t bytes = columns * rows * sizeof *values;
    uint8_t *copy = malloc(bytes);
    assert_non_null(copy);
    memcpy(copy, values, bytes);
    make_tensor(made, name, TENSOR_F32, rows > 1 ? 2 : 1, dimensions, copy, bytes);
}

/* Copies a tensor. zero: fills it with zeros instead. */
static void make_copy(struct made *made, const struct gguf *file, const struct gguf_tensor *tensor, const char *name,
                      bool zero)
{
    uint8_t *data = read_tensor(file, tensor);
    if (zero)
        memset(data, 0, tensor->bytes);
    make_tensor(made, name, tensor->type, tensor->dimension_count, tensor->dimensions, data, tensor->bytes);
}

static void make_end(struct made *made)
{
    for (size_t i = 0; i < made->count; i++) {
        assert_ok(gguf_writer_write(made->writer, made->tensors[i].data, made->tensors[i].bytes, &test_error));
        free(made->tensors[i].data);
    }
    assert_ok(gguf_writer_finish(made->writer, &test_error));
    gguf_writer_destroy(made->writer);
}

static float *random_floats(size_t count, float middle, float spread, uint64_t seed)
{
    struct random random;
    float *out = malloc(count * sizeof *out);
    assert_non_null(out);
    random_seed(&random, seed);
    for (size_t i = 0; i < count; i++)
        out[i] = middle + spread * ((float)(random_next(&random) % 20001) / 10000.0f - 1.0f);
    return out;
}

static void make_random(struct made *made, uint32_t block, const char *name, uint64_t columns, uint64_t rows,
                        float middle, float spread)
{
    char whole[80];
    float *values = random_floats(columns * rows, middle, spread, columns + rows + strlen(name));
    snprintf(whole, sizeof whole, "blk.%u.%s", block, name);
    make_floats(made, whole, columns, rows, values);
    free(values);
}

/* The block's own tensors. TRUE: the layers add nothing and the block looks only at the token, as the model itself then
 * does, so its predictions are right. */
enum prediction { PREDICTION_RANDOM, PREDICTION_TRUE, PREDICTION_WITHOUT_JOIN };

static void add_block(struct made *made, const struct model *model, uint32_t block, enum prediction how)
{
    const uint64_t e = model_parameters(model)->embedding;
    char name[80];
    if (how == PREDICTION_TRUE) {
        float *join = calloc(2 * e * e, sizeof *join), *ones = random_floats(e, 1, 0, 1);
        for (uint64_t i = 0; i < e; i++)
            join[2 * e * i + i] = 1;
        snprintf(name, sizeof name, "blk.%u.nextn.enorm.weight", block);
        make_floats(made, name, e, 1, ones);
        snprintf(name, sizeof name, "blk.%u.nextn.hnorm.weight", block);
        make_floats(made, name, e, 1, ones);
        snprintf(name, sizeof name, "blk.%u.nextn.eh_proj.weight", block);
        make_floats(made, name, 2 * e, e, join);
        free(join);
        free(ones);
        return; /* the block uses the model's output norm */
    }
    make_random(made, block, "nextn.enorm.weight", e, 1, 1, 0.5f);
    make_random(made, block, "nextn.hnorm.weight", e, 1, 1, 0.5f);
    make_random(made, block, "nextn.shared_head_norm.weight", e, 1, 1, 0.5f);
    if (how != PREDICTION_WITHOUT_JOIN)
        make_random(made, block, "nextn.eh_proj.weight", 2 * e, e, 0, 1.5f / sqrtf((float)e));
}

/* Writes a model with a prediction block to path. Returns the block's layer number. */
__attribute__((unused)) static uint32_t make_predicting(const char *path, const char *base, enum prediction how)
{
    struct model *model;
    struct made made;
    char key[80];
    assert_ok(model_open(&model, base, &test_error));
    const struct gguf *file = model_file(model);
    const uint32_t block = model_parameters(model)->layers - 1;
    make_begin(&made, path);
    copy_values(made.writer, file);
    snprintf(key, sizeof key, "%s.nextn_predict_layers", model_architecture(model)->name);
    assert_ok(gguf_writer_add_uint32(made.writer, key, 1, &test_error));
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        bool gives = strstr(tensor->name.data, "attn_output.") || strstr(tensor->name.data, "ffn_down");
        make_copy(&made, file, tensor, tensor->name.data, how == PREDICTION_TRUE && gives);
    }
    add_block(&made, model, block, how);
    make_end(&made);
    model_close(model);
    return block;
}

/* Makes a temporary file, which the caller removes. */
__attribute__((unused)) static void temporary_path(char *path, size_t room)
{
    const char *folder = getenv("TMPDIR");
    snprintf(path, room, "%s/hypura-predicting-XXXXXX", folder ? folder : "/tmp");
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
}

#endif
