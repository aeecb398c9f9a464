#include "sample.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void models_that_llama_cpp_wrote_are_read(void **state)
{
    (void)state;
    char folder[4096];
    const char *whole = getenv("HYPURA_ORACLE"); /* the whole reference set, if present */
    snprintf(folder, sizeof folder, whole ? "%s/models" : "%s", whole ? whole : test_data("oracle/models"));
    DIR *list = opendir(folder);
    assert_non_null(list);
    size_t seen = 0;
    for (struct dirent *entry; (entry = readdir(list));) {
        if (!strstr(entry->d_name, ".gguf"))
            continue;
        char path[8192];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        struct gguf *file;
        assert_ok(gguf_open(&file, path, &test_error));
        assert_int_equal(gguf_version(file), 3);
        assert_int_equal(gguf_file_count(file), 1);
        assert_string_equal(gguf_file_path(file, 0), path);
        struct gguf_string architecture;
        assert_true(gguf_get_string(file, "general.architecture", &architecture));
        char key[128];
        snprintf(key, sizeof key, "%s.block_count", architecture.data);
        uint32_t layers = 0;
        assert_true(gguf_get_uint32(file, key, &layers));
        assert_in_range(layers, 1, 1000);
        const struct gguf_tensor *embedding = gguf_tensor_find(file, "token_embd.weight");
        assert_non_null(embedding);
        const struct gguf_value *tokens = gguf_find(file, "tokenizer.ggml.tokens");
        assert_non_null(tokens);
        assert_int_equal(tokens->type, GGUF_ARRAY);
        assert_int_equal(tokens->element_type, GGUF_STRING);
        assert_int_equal(tokens->count, embedding->dimensions[1]);
        /* The last tensor's data, with padding, ends at the end of the file, so nothing was skipped. */
        uint64_t end = 0;
        for (size_t i = 0; i < gguf_tensor_count(file); i++)
            end = MAX(end, gguf_tensor_at(file, i)->offset + gguf_tensor_at(file, i)->bytes);
        assert_int_equal(align_up(end, gguf_alignment(file)), gguf_file_bytes(file, 0));
        gguf_close(file);
        seen++;
    }
    closedir(list);
    assert_true(seen >= 16);
}

static void check_sample_values(const struct gguf *file)
{
    char key[64];
    for (size_t i = 0; i < COUNT_OF(sample_values); i++) {
        const struct sample_value *expected = &sample_values[i];
        snprintf(key, sizeof key, "scalar.%s", expected->name);
        const struct gguf_value *scalar = gguf_find(file, key);
        assert_non_null(scalar);
        assert_string_equal(scalar->key.data, key);
        assert_int_equal(scalar->type, expected->type);
        assert_int_equal(scalar->count, 1);
        assert_memory_equal(scalar->data, expected->data, expected->bytes / expected->count);
        snprintf(key, sizeof key, "array.%s", expected->name);
        const struct gguf_value *array = gguf_find(file, key);
        assert_non_null(array);
        assert_int_equal(array->type, GGUF_ARRAY);
        assert_int_equal(array->element_type, expected->type);
        assert_int_equal(array->count, expected->count);
        assert_memory_equal(array->data, expected->data, expected->bytes);
        assert_int_equal((uintptr_t)array->data % 8, 0);
    }
    const struct gguf_value *strings = gguf_find(file, "array.string");
    assert_int_equal(strings->count, 3);
    const struct gguf_string *list = strings->data;
    assert_string_equal(list[0].data, "first");
    assert_int_equal(list[1].size, 0);
    assert_string_equal(list[1].data, "");
    assert_int_equal(list[2].size, 4);
    assert_memory_equal(list[2].data, sample_nul_text, 5);
    assert_int_equal(gguf_find(file, "array.empty")->count, 0);
    assert_int_equal(gguf_find(file, "array.single")->count, 1);
    assert_int_equal(gguf_find(file, "array.single")->type, GGUF_ARRAY);
    assert_null(gguf_find(file, "array"));
    assert_null(gguf_find(file, ""));
}

static void check_sample_tensors(const struct gguf *file, uint64_t alignment)
{
    assert_int_equal(gguf_tensor_count(file), COUNT_OF(sample_tensors));
    FILE *stream = fopen(gguf_file_path(file, 0), "rb");
    assert_non_null(stream);
    for (size_t i = 0; i < COUNT_OF(sample_tensors); i++) {
        const struct sample_tensor *expected = &sample_tensors[i];
        const struct gguf_tensor *tensor = gguf_tensor_find(file, expected->name);
        assert_ptr_equal(tensor, gguf_tensor_at(file, i));
        assert_int_equal(tensor->type, expected->type);
        assert_int_equal(tensor->dimension_count, expected->dimension_count);
        assert_memory_equal(tensor->dimensions, expected->dimensions, sizeof tensor->dimensions);
        assert_int_equal(tensor->bytes, expected->bytes);
        assert_int_equal(tensor->offset % alignment, 0);
        assert_int_equal(fseek(stream, (long)tensor->offset, SEEK_SET), 0);
        for (uint64_t j = 0; j < tensor->bytes; j++)
            assert_int_equal(fgetc(stream), sample_byte(i, j));
    }
    fclose(stream);
    assert_null(gguf_tensor_find(file, "a"));
}

static void written_files_read_back(void **state)
{
    (void)state;
    static const uint32_t alignments[] = {0, 8, 32, 64, 4096, 65536};
    for (size_t i = 0; i < COUNT_OF(alignments); i++) {
        uint64_t alignment = alignments[i] ? alignments[i] : 32;
        const char *path = path_in_folder("round-trip.gguf");
        write_sample(path, alignments[i]);
        struct gguf *file;
        assert_ok(gguf_open(&file, path, &test_error));
        assert_int_equal(gguf_version(file), 3);
        assert_int_equal(gguf_alignment(file), alignment);
        assert_int_equal(gguf_value_count(file), 4 + 2 * COUNT_OF(sample_values) + 4 + (alignment != 32));
        check_sample_values(file);
        check_sample_tensors(file, alignment);
        gguf_close(file);
    }
}

static void numbers_convert_when_they_fit(void **state)
{
    (void)state;
    const char *path = path_in_folder("numbers.gguf");
    write_sample(path, 0);
    struct gguf *file;
    assert_ok(gguf_open(&file, path, &test_error));
    uint64_t u64 = 1;
    uint32_t u32 = 2;
    int64_t i64 = 3;
    float real = 4;
    bool truth = false;
    struct gguf_string text = {0};
    assert_true(gguf_get_uint32(file, "plain.u32", &u32));
    assert_int_equal(u32, 70000);
    assert_true(gguf_get_uint64(file, "scalar.u8", &u64));
    assert_int_equal(u64, 0);
    assert_true(gguf_get_int64(file, "scalar.i8", &i64));
    assert_int_equal(i64, -128);
    assert_true(gguf_get_int64(file, "scalar.i64", &i64));
    assert_true(i64 == INT64_MIN);
    assert_true(gguf_get_float(file, "plain.f32", &real));
    assert_true(real == 0.125f);
    assert_true(gguf_get_float(file, "scalar.i16", &real));
    assert_true(real == -32768.0f);
    assert_true(gguf_get_bool(file, "plain.bool", &truth));
    assert_true(truth);
    assert_true(gguf_get_string(file, "general.architecture", &text));
    assert_string_equal(text.data, "sample");

    u64 = 11;
    u32 = 12;
    i64 = 13;
    real = 14;
    static const char *const not_natural[] = {"scalar.i8", "scalar.i64", "scalar.f32",    "scalar.bool",
                                              "array.u32", "absent",     "scalar.string", "array.single"};
    for (size_t i = 0; i < COUNT_OF(not_natural); i++) {
        assert_false(gguf_get_uint64(file, not_natural[i], &u64));
        assert_false(gguf_get_uint32(file, not_natural[i], &u32));
    }
    assert_false(gguf_get_int64(file, "scalar.f64", &i64));
    assert_false(gguf_get_float(file, "scalar.f64", &real)); /* 1e300 */
    assert_false(gguf_get_float(file, "scalar.string", &real));
    assert_false(gguf_get_bool(file, "scalar.u8", &truth));
    assert_false(gguf_get_string(file, "scalar.u8", &text));
    assert_int_equal(u64, 11);
    assert_int_equal(u32, 12);
    assert_int_equal(i64, 13);
    assert_true(real == 14);

    double wide;
    const struct gguf_value *array = gguf_find(file, "array.u64");
    assert_true(gguf_element_int64(array, 0, &i64));
    assert_false(gguf_element_int64(array, 1, &i64)); /* 2^64 - 1 */
    assert_false(gguf_element_int64(array, 2, &i64));
    assert_true(gguf_element_double(array, 1, &wide));
    assert_true(wide == 0x1p64);
    assert_true(gguf_element_int64(gguf_find(file, "array.i32"), 0, &i64));
    assert_int_equal(i64, INT32_MIN);
    assert_true(gguf_element_double(gguf_find(file, "array.f64"), 0, &wide));
    assert_true(wide == 1e300);
    assert_true(gguf_element_int64(gguf_find(file, "array.bool"), 3, &i64));
    assert_int_equal(i64, 1);
    assert_false(gguf_element_double(gguf_find(file, "array.string"), 0, &wide));
    assert_true(gguf_element_int64(gguf_find(file, "plain.u32"), 0, &i64));
    assert_false(gguf_element_int64(gguf_find(file, "plain.u32"), 1, &i64));
    gguf_close(file);
}

static void a_large_vocabulary_loads(void **state)
{
    (void)state;
    enum { WORDS = 250000 };
    struct gguf_string *words;
    char *letters;
    assert_ok(ALLOCATE(&words, WORDS, "words", &test_error));
    assert_ok(ALLOCATE(&letters, WORDS * 12, "letters", &test_error));
    for (size_t i = 0; i < WORDS; i++)
        words[i] = (struct gguf_string){letters + i * 12, (size_t)snprintf(letters + i * 12, 12, "w%zu", i)};
    const char *path = path_in_folder("vocabulary.gguf");
    struct gguf_writer *writer;
    assert_ok(gguf_writer_create(&writer, path, 0, &test_error));
    assert_ok(gguf_writer_add(writer, "tokens", GGUF_STRING, words, WORDS, true, &test_error));
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
    struct gguf *file;
    assert_ok(gguf_open(&file, path, &test_error));
    const struct gguf_value *value = gguf_find(file, "tokens");
    assert_int_equal(value->count, WORDS);
    const struct gguf_string *read = value->data;
    for (size_t i = 0; i < WORDS; i++) {
        assert_int_equal(read[i].size, words[i].size);
        assert_memory_equal(read[i].data, words[i].data, words[i].size + 1);
    }
    gguf_close(file);
    memory_free(words);
    memory_free(letters);
}

static void the_name_appears_only_at_the_end(void **state)
{
    (void)state;
    const char *path = path_in_folder("late.gguf"), *partial = path_in_folder("late.gguf.partial");
    const uint64_t shape[] = {8};
    struct gguf_writer *writer;
    assert_ok(gguf_writer_create(&writer, path, 0, &test_error));
    assert_ok(gguf_writer_add_tensor(writer, "t", TENSOR_F32, 1, shape, &test_error));
    assert_ok(gguf_writer_write(writer, "0123456789abcdef", 16, &test_error));
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(partial, F_OK), 0);
    assert_int_equal(gguf_writer_finish(writer, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "1 of 1"));
    gguf_writer_destroy(writer);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(access(partial, F_OK), -1);
}

static void the_writer_refuses_invalid_files(void **state)
{
    (void)state;
    struct gguf_writer *writer;
    const char *path = path_in_folder("refused.gguf");
    assert_int_equal(gguf_writer_create(&writer, path, 24, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(gguf_writer_create(&writer, path, 4, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(gguf_writer_create(&writer, path_in_folder("no/such/folder"), 0, &test_error), HYPURA_ERROR_IO);
    assert_ok(gguf_writer_create(&writer, path, 0, &test_error));
    static const struct {
        enum tensor_type type;
        uint32_t count;
        uint64_t shape[5];
    } bad[] = {
        {TENSOR_Q4_K, 1, {100}},          {TENSOR_F32, 0, {1}},
        {TENSOR_F32, 5, {1, 1, 1, 1, 1}}, {TENSOR_F32, 2, {4, 0}},
        {(enum tensor_type)31, 1, {32}},  {TENSOR_F32, 3, {1ull << 32, 1ull << 32, 2}},
        {TENSOR_F32, 1, {1ull << 60}},
    };
    for (size_t i = 0; i < COUNT_OF(bad); i++)
        assert_int_equal(gguf_writer_add_tensor(writer, "t", bad[i].type, bad[i].count, bad[i].shape, &test_error),
                         HYPURA_ERROR_ARGUMENT);
    assert_int_equal(gguf_writer_add(writer, "k", GGUF_ARRAY, NULL, 0, true, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(gguf_writer_add(writer, "k", GGUF_UINT8, sample_u8, 2, false, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(gguf_writer_add_uint32(writer, "general.alignment", 64, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_ok(gguf_writer_add_uint32(writer, "twice", 1, &test_error));
    assert_ok(gguf_writer_add_uint32(writer, "twice", 2, &test_error));
    assert_int_equal(gguf_writer_finish(writer, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "\"twice\""));
    gguf_writer_destroy(writer);

    const uint64_t shape[] = {2};
    assert_ok(gguf_writer_create(&writer, path, 0, &test_error));
    assert_ok(gguf_writer_add_tensor(writer, "t", TENSOR_F32, 1, shape, &test_error));
    assert_ok(gguf_writer_write(writer, "01234567", 8, &test_error));
    assert_int_equal(gguf_writer_write(writer, "8", 1, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(gguf_writer_add_uint32(writer, "late", 1, &test_error), HYPURA_ERROR_ARGUMENT);
    gguf_writer_destroy(writer);
    assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_that_llama_cpp_wrote_are_read), cmocka_unit_test(written_files_read_back),
        cmocka_unit_test(numbers_convert_when_they_fit),        cmocka_unit_test(a_large_vocabulary_loads),
        cmocka_unit_test(the_name_appears_only_at_the_end),     cmocka_unit_test(the_writer_refuses_invalid_files),
    };
    return cmocka_run_group_tests_name("gguf", tests, make_folder, remove_folder);
}
