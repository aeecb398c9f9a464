/* A small GGUF file with values of every type, and a folder for it. */
#ifndef HYPURA_TEST_FORMAT_SAMPLE_H
#define HYPURA_TEST_FORMAT_SAMPLE_H

#include "folder.h"

#include "format/format.h"

#include <string.h>
#include <unistd.h>

#define STRING(text) ((struct gguf_string){(text), sizeof(text) - 1})

static const uint8_t sample_u8[] = {0, 7, 255};
static const int8_t sample_i8[] = {-128, 0, 127};
static const uint16_t sample_u16[] = {0, 65535};
static const int16_t sample_i16[] = {-32768, 32767};
static const uint32_t sample_u32[] = {0, 1, UINT32_MAX};
static const int32_t sample_i32[] = {INT32_MIN, -1, INT32_MAX};
static const float sample_f32[] = {-1.5f, 0.0f, 3e38f};
static const bool sample_bool[] = {true, false, true, true};
static const uint64_t sample_u64[] = {0, UINT64_MAX};
static const int64_t sample_i64[] = {INT64_MIN, INT64_MAX};
static const double sample_f64[] = {1e300, -0.25};
static const char sample_nul_text[] = "a\0b\xff";

struct sample_value {
    const char *name;
    enum gguf_value_type type;
    const void *data;
    uint64_t count;
    size_t bytes;
};

#define SAMPLE(name, type, values)                                                                                     \
    {                                                                                                                  \
        name, type, values, COUNT_OF(values), sizeof(values)                                                           \
    }

static const struct sample_value sample_values[] = {
    SAMPLE("u8", GGUF_UINT8, sample_u8),     SAMPLE("i8", GGUF_INT8, sample_i8),
    SAMPLE("u16", GGUF_UINT16, sample_u16),  SAMPLE("i16", GGUF_INT16, sample_i16),
    SAMPLE("u32", GGUF_UINT32, sample_u32),  SAMPLE("i32", GGUF_INT32, sample_i32),
    SAMPLE("f32", GGUF_FLOAT32, sample_f32), SAMPLE("bool", GGUF_BOOL, sample_bool),
    SAMPLE("u64", GGUF_UINT64, sample_u64),  SAMPLE("i64", GGUF_INT64, sample_i64),
    SAMPLE("f64", GGUF_FLOAT64, sample_f64),
};

struct sample_tensor {
    const char *name;
    enum tensor_type type;
    uint32_t dimension_count;
    uint64_t dimensions[GGUF_MAX_DIMENSIONS];
    uint64_t bytes;
};

/* At alignment 32, the last tensor has no padding after it, so every byte of the file is needed. */
static const struct sample_tensor sample_tensors[] = {
    {"a.weight", TENSOR_F32, 1, {5, 1, 1, 1}, 20},
    {"b.weight", TENSOR_Q4_0, 2, {64, 3, 1, 1}, 2 * 18 * 3},
    {"c.weight", TENSOR_Q6_K, 3, {256, 2, 2, 1}, 210 * 4},
    {"d.weight", TENSOR_F16, 4, {4, 2, 2, 2}, 64},
};

static unsigned char sample_byte(size_t tensor, uint64_t index)
{
    return (unsigned char)(tensor * 101 + index * 7 + (index >> 8));
}

/* Writes the file, with data in pieces whose size differs from that of any tensor. */
__attribute__((unused)) static void write_sample(const char *path, uint32_t alignment)
{
    struct gguf_writer *writer;
    assert_ok(gguf_writer_create(&writer, path, alignment, &test_error));
    assert_ok(gguf_writer_add_string(writer, "general.architecture", "sample", &test_error));
    assert_ok(gguf_writer_add_uint32(writer, "plain.u32", 70000, &test_error));
    assert_ok(gguf_writer_add_float(writer, "plain.f32", 0.125f, &test_error));
    assert_ok(gguf_writer_add_bool(writer, "plain.bool", true, &test_error));
    char key[64];
    for (size_t i = 0; i < COUNT_OF(sample_values); i++) {
        const struct sample_value *value = &sample_values[i];
        snprintf(key, sizeof key, "scalar.%s", value->name);
        assert_ok(gguf_writer_add(writer, key, value->type, value->data, 1, false, &test_error));
        snprintf(key, sizeof key, "array.%s", value->name);
        assert_ok(gguf_writer_add(writer, key, value->type, value->data, value->count, true, &test_error));
    }
    const struct gguf_string strings[] = {STRING("first"), STRING(""), {sample_nul_text, 4}};
    assert_ok(gguf_writer_add(writer, "scalar.string", GGUF_STRING, &strings[2], 1, false, &test_error));
    assert_ok(gguf_writer_add(writer, "array.string", GGUF_STRING, strings, 3, true, &test_error));
    assert_ok(gguf_writer_add(writer, "array.empty", GGUF_STRING, NULL, 0, true, &test_error));
    assert_ok(gguf_writer_add(writer, "array.single", GGUF_UINT32, sample_u32, 1, true, &test_error));
    uint64_t total = 0;
    for (size_t i = 0; i < COUNT_OF(sample_tensors); i++) {
        const struct sample_tensor *tensor = &sample_tensors[i];
        assert_ok(gguf_writer_add_tensor(writer, tensor->name, tensor->type, tensor->dimension_count,
                                         tensor->dimensions, &test_error));
        total += tensor->bytes;
    }
    unsigned char data[4096];
    assert_true(total <= sizeof data);
    size_t used = 0;
    for (size_t i = 0; i < COUNT_OF(sample_tensors); i++)
        for (uint64_t j = 0; j < sample_tensors[i].bytes; j++)
            data[used++] = sample_byte(i, j);
    for (size_t start = 0; start < used; start += 37)
        assert_ok(gguf_writer_write(writer, data + start, MIN(37, used - start), &test_error));
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
}

#endif
