/* Truncated, damaged and malicious files are refused with a message, or read with their changed contents. They never
 * cause a crash, or take more memory than a file of their size can need. */
#include "sample.h"

#include "core/sanitized.h"

#include <fcntl.h>
#include <inttypes.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* Limits the address space during these tests, so that an allocation that trusts a number in a file fails with
 * HYPURA_ERROR_MEMORY, which no test accepts. Sanitizers need more address space, so they have no limit. */
static int start(void **state)
{
    struct rlimit limit = {(rlim_t)64 << 20, (rlim_t)64 << 20};
    if (!SANITIZED && setrlimit(RLIMIT_AS, &limit))
        return -1;
    return make_folder(state);
}

/* Keeps the compiler from removing the reads below. */
static volatile unsigned char touched;

/* Opens a file. If that succeeds, reads everything that a user can access. */
static hypura_status open_and_walk(const char *path)
{
    struct gguf *file = NULL;
    memset(&test_error, 0, sizeof test_error);
    hypura_status status = gguf_open(&file, path, &test_error);
    if (status) {
        assert_null(file);
        if (status != HYPURA_ERROR_FORMAT && status != HYPURA_ERROR_UNSUPPORTED)
            fail_msg("status %d: %s", status, test_error.message);
        assert_int_equal(test_error.status, status);
        if (!strstr(test_error.message, path))
            fail_msg("the error does not name the file: %s", test_error.message);
        return status;
    }
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        assert_ptr_equal(gguf_find(file, value->key.data) ? value->data : NULL,
                         strlen(value->key.data) == value->key.size ? value->data : NULL);
        enum gguf_value_type type = value->type == GGUF_ARRAY ? value->element_type : value->type;
        for (uint64_t j = 0; j < value->count; j++) {
            int64_t number;
            double real;
            gguf_element_int64(value, j, &number);
            gguf_element_double(value, j, &real);
            if (type == GGUF_STRING) {
                const struct gguf_string *string = (const struct gguf_string *)value->data + j;
                for (size_t k = 0; k < string->size; k++)
                    touched ^= (unsigned char)string->data[k];
                assert_int_equal(string->data[string->size], 0);
            }
        }
    }
    for (size_t i = 0; i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        assert_true(tensor->offset <= gguf_file_bytes(file, tensor->file));
        assert_true(tensor->bytes <= gguf_file_bytes(file, tensor->file) - tensor->offset);
        assert_non_null(tensor_type_info(tensor->type));
    }
    gguf_close(file);
    return HYPURA_OK;
}

static void every_truncation_is_refused(void **state)
{
    (void)state;
    static const uint32_t alignments[] = {32, 64};
    for (size_t i = 0; i < COUNT_OF(alignments); i++) {
        const char *path = path_in_folder("short.gguf");
        write_sample(path, alignments[i]);
        assert_int_equal(open_and_walk(path), HYPURA_OK);
        struct stat info;
        assert_int_equal(stat(path, &info), 0);
        for (off_t size = info.st_size; size-- > 0;) {
            assert_int_equal(truncate(path, size), 0);
            if (open_and_walk(path) != HYPURA_ERROR_FORMAT)
                fail_msg("a file with only %lld of its %lld bytes was accepted", (long long)size,
                         (long long)info.st_size);
        }
    }
}

static void every_damaged_byte_is_survived(void **state)
{
    (void)state;
    const char *path = path_in_folder("damaged.gguf");
    write_sample(path, 0);
    struct gguf *file;
    assert_ok(gguf_open(&file, path, &test_error));
    off_t header = (off_t)gguf_tensor_at(file, 0)->offset;
    gguf_close(file);
    int descriptor = open(path, O_RDWR);
    assert_true(descriptor >= 0);
    size_t refused = 0, read = 0;
    for (off_t offset = 0; offset < header; offset++) {
        unsigned char byte;
        assert_int_equal(pread(descriptor, &byte, 1, offset), 1);
        const unsigned char others[] = {
            0, 0xff, 0x7f, 0x80, byte ^ 0x01, byte ^ 0x80, (byte + 1) & 0xff, (byte - 1) & 0xff};
        for (size_t i = 0; i < COUNT_OF(others); i++) {
            assert_int_equal(pwrite(descriptor, &others[i], 1, offset), 1);
            if (open_and_walk(path))
                refused++;
            else
                read++;
        }
        assert_int_equal(pwrite(descriptor, &byte, 1, offset), 1);
    }
    close(descriptor);
    assert_int_equal(open_and_walk(path), HYPURA_OK);
    assert_true(refused > 0 && read > 0);
}

/* ---- files made by hand ------------------------------------------------------------------------------------------ */

static void u32(struct buffer *out, uint32_t value)
{
    buffer_append(out, &value, sizeof value);
}

static void u64(struct buffer *out, uint64_t value)
{
    buffer_append(out, &value, sizeof value);
}

static void text(struct buffer *out, const char *string)
{
    u64(out, strlen(string));
    buffer_append_string(out, string);
}

static void head(struct buffer *out, uint32_t version, uint64_t tensors, uint64_t values)
{
    buffer_clear(out);
    buffer_append(out, "GGUF", 4);
    u32(out, version);
    u64(out, tensors);
    u64(out, values);
}

static void key(struct buffer *out, const char *name, uint32_t type)
{
    text(out, name);
    u32(out, type);
}

static void tensor(struct buffer *out, const char *name, uint32_t dimensions, const uint64_t *shape, uint32_t type,
                   uint64_t offset)
{
    text(out, name);
    u32(out, dimensions);
    for (uint32_t i = 0; i < dimensions; i++)
        u64(out, shape[i]);
    u32(out, type);
    u64(out, offset);
}

/* Writes the bytes and a hole of "more" bytes, and opens the file. */
static void expect(struct buffer *bytes, uint64_t more, hypura_status status, const char *words)
{
    const char *path = path_in_folder("by-hand.gguf");
    assert_false(bytes->failed);
    FILE *stream = fopen(path, "wb");
    assert_non_null(stream);
    assert_int_equal(fwrite(bytes->data, 1, bytes->size, stream), bytes->size);
    assert_int_equal(fclose(stream), 0);
    assert_int_equal(truncate(path, (off_t)(bytes->size + more)), 0);
    hypura_status found = open_and_walk(path);
    if (found != status || (words && !strstr(test_error.message, words)))
        fail_msg("expected status %d and \"%s\"; found %d: %s", status, words ? words : "", found, test_error.message);
}

static void other_files_are_named_for_what_they_are(void **state)
{
    (void)state;
    struct buffer b = {0};
    struct gguf *file = NULL;
    assert_int_equal(gguf_open(&file, path_in_folder("absent.gguf"), &test_error), HYPURA_ERROR_IO);
    assert_non_null(strstr(test_error.message, "absent.gguf"));
    assert_int_equal(gguf_open(&file, test_folder, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "is a directory"));
    const char *pipe_path = path_in_folder("pipe");
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    assert_int_equal(gguf_open(&file, pipe_path, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "not a regular file"));
    assert_null(file);

    buffer_append_string(&b, "");
    expect(&b, 0, HYPURA_ERROR_FORMAT, "not a GGUF file");
    buffer_append_string(&b, "QK\003\004 and so on");
    expect(&b, 0, HYPURA_ERROR_FORMAT, "found bytes 51 4b 03 04");
    /* The message names other kinds of files that are often mistaken for models. */
    static const char *const others[][2] = {{"<!DOCTYPE html><html>", "web page"},
                                            {"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"},
                                            {"PK\003\004 and so on", "PyTorch"},
                                            {"tjgg\003 and so on", "before GGUF"},
                                            {"\020\001\001\001\001\001\001\001{\"a\": 1}", "safetensors"}};
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        buffer_clear(&b);
        buffer_append_string(&b, others[i][0]);
        expect(&b, 0, HYPURA_ERROR_FORMAT, others[i][1]);
    }
    head(&b, 1, 0, 0);
    expect(&b, 0, HYPURA_ERROR_UNSUPPORTED, "version 1");
    head(&b, 4, 0, 0);
    expect(&b, 0, HYPURA_ERROR_UNSUPPORTED, "version 4");
    head(&b, __builtin_bswap32(3), 0, 0);
    expect(&b, 0, HYPURA_ERROR_UNSUPPORTED, "big-endian");
    buffer_clear(&b);
    buffer_append_string(&b, "FUGG    ");
    expect(&b, 0, HYPURA_ERROR_UNSUPPORTED, "big-endian");
    head(&b, 2, 0, 0);
    expect(&b, 0, HYPURA_OK, NULL);
    buffer_free(&b);
}

static void counts_are_not_trusted(void **state)
{
    (void)state;
    struct buffer b = {0};
    static const uint64_t counts[] = {1, 1000, 1u << 31, 1ull << 32, 1ull << 60, (1ull << 61) + 1, UINT64_MAX};
    static const uint64_t sizes[] = {0, 100, 1ull << 40};
    for (size_t i = 0; i < COUNT_OF(counts); i++) {
        for (size_t j = 0; j < COUNT_OF(sizes); j++) {
            uint64_t count = counts[i], size = sizes[j];
            head(&b, 3, count, 0);
            expect(&b, size, HYPURA_ERROR_FORMAT, NULL);
            head(&b, 3, 0, count);
            expect(&b, size, HYPURA_ERROR_FORMAT, NULL);
            head(&b, 3, 0, 1);
            u64(&b, count);
            if (count > 1000 || size == 0) /* a key of 1000 zeros is valid */
                expect(&b, size, HYPURA_ERROR_FORMAT, NULL);
        }
        /* Arrays whose elements fit in the file are read. Arrays with more elements are refused. */
        for (uint32_t type = 0; type <= GGUF_FLOAT64; type++) {
            head(&b, 3, 0, 1);
            key(&b, "k", GGUF_ARRAY);
            u32(&b, type);
            u64(&b, counts[i]);
            if (type == GGUF_ARRAY)
                expect(&b, 100, HYPURA_ERROR_UNSUPPORTED, "array of arrays");
            else
                expect(&b, 100, counts[i] == 1 ? HYPURA_OK : HYPURA_ERROR_FORMAT, counts[i] == 1 ? NULL : "elements");
        }
    }
    /* The header is followed by a hole of a tebibyte: entries of zeros could be read for ever. */
    head(&b, 3, 0, 60000);
    expect(&b, 1ull << 40, HYPURA_ERROR_FORMAT, "a metadata key is empty");
    head(&b, 3, 60000, 0);
    expect(&b, 1ull << 40, HYPURA_ERROR_FORMAT, "a tensor name is empty");
    head(&b, 3, 0, 1);
    key(&b, "k", GGUF_STRING);
    u64(&b, 1ull << 39);
    expect(&b, 1ull << 40, HYPURA_ERROR_FORMAT, "has a length of");
    buffer_free(&b);
}

static void values_are_checked(void **state)
{
    (void)state;
    struct buffer b = {0};
    head(&b, 3, 0, 1);
    key(&b, "k", 13);
    expect(&b, 64, HYPURA_ERROR_FORMAT, "has type 13");
    head(&b, 3, 0, 1);
    key(&b, "k", GGUF_ARRAY);
    u32(&b, 99);
    u64(&b, 0);
    expect(&b, 64, HYPURA_ERROR_FORMAT, "elements of type 99");
    head(&b, 3, 0, 1);
    key(&b, "flag", GGUF_BOOL);
    buffer_append_char(&b, 2);
    expect(&b, 0, HYPURA_ERROR_FORMAT, "\"flag\" is 2");
    head(&b, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        key(&b, "same", GGUF_UINT32);
        u32(&b, 1);
    }
    expect(&b, 0, HYPURA_ERROR_FORMAT, "\"same\" occurs twice (entries 0 and 1)");
    static const uint32_t bad_alignments[] = {0, 3, 24, 33, UINT32_MAX};
    for (size_t i = 0; i < COUNT_OF(bad_alignments); i++) {
        head(&b, 3, 0, 1);
        key(&b, "general.alignment", GGUF_UINT32);
        u32(&b, bad_alignments[i]);
        expect(&b, 0, HYPURA_ERROR_FORMAT, "expected a power of two");
    }
    head(&b, 3, 0, 1);
    key(&b, "general.alignment", GGUF_STRING);
    text(&b, "32");
    expect(&b, 0, HYPURA_ERROR_FORMAT, "general.alignment has value type 8");
    /* A name with control characters for a terminal. */
    head(&b, 3, 0, 1);
    key(&b, "\033[2Jk\n", 77);
    expect(&b, 0, HYPURA_ERROR_FORMAT, "\"?[2Jk?\"");
    buffer_free(&b);
}

static void tensors_are_checked(void **state)
{
    (void)state;
    struct buffer b = {0};
    const uint64_t one[] = {32, 1, 1, 1, 1}, uneven[] = {33}, none[] = {32, 0}, wide[] = {1ull << 40, 1ull << 40, 1},
                   many[] = {1ull << 62, 1}, tall[] = {32, 1ull << 60};
    static const struct {
        uint32_t dimensions;
        int shape;
        uint32_t type;
        uint64_t offset;
        hypura_status status;
        const char *words;
    } cases[] = {
        {1, 0, TENSOR_Q8_0, 0, HYPURA_OK, NULL},
        {0, 0, TENSOR_F32, 0, HYPURA_OK, NULL},
        {5, 0, TENSOR_F32, 0, HYPURA_ERROR_FORMAT, "5 dimensions"},
        {1, 0, 4, 0, HYPURA_ERROR_UNSUPPORTED, "type number 4"},
        {1, 0, 4096, 0, HYPURA_ERROR_UNSUPPORTED, "type number 4096"},
        {1, 1, TENSOR_Q8_0, 0, HYPURA_ERROR_FORMAT, "multiple of 32"},
        {2, 2, TENSOR_F32, 0, HYPURA_ERROR_FORMAT, "dimension 1 of tensor \"t\" is 0"},
        {3, 3, TENSOR_F32, 0, HYPURA_ERROR_FORMAT, "64 bits"},
        {2, 4, TENSOR_F32, 0, HYPURA_ERROR_FORMAT, "64 bits"},
        {2, 5, TENSOR_F64, 0, HYPURA_ERROR_FORMAT, "64 bits"},
        {1, 0, TENSOR_F32, 16, HYPURA_ERROR_FORMAT, "multiple of 32"},
        {1, 0, TENSOR_F32, 128, HYPURA_ERROR_FORMAT, "truncated or damaged"},
        {1, 0, TENSOR_F32, UINT64_MAX - 31, HYPURA_ERROR_FORMAT, "truncated or damaged"},
    };
    const uint64_t *const shapes[] = {one, uneven, none, wide, many, tall};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        head(&b, 3, 1, 0);
        tensor(&b, "t", cases[i].dimensions, shapes[cases[i].shape], cases[i].type, cases[i].offset);
        expect(&b, align_up(b.size, 32) - b.size + 128, cases[i].status, cases[i].words);
    }
    head(&b, 3, 2, 0);
    tensor(&b, "t", 1, one, TENSOR_F32, 0);
    tensor(&b, "t", 1, one, TENSOR_F32, 0);
    expect(&b, 1024, HYPURA_ERROR_FORMAT, "\"t\" occurs twice");
    head(&b, 3, 2, 0);
    tensor(&b, "t", 1, one, TENSOR_F32, 0);
    tensor(&b, "shared", 1, one, TENSOR_F32, 0);
    expect(&b, 1024, HYPURA_OK, NULL);
    buffer_free(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(every_damaged_byte_is_survived),
        cmocka_unit_test(other_files_are_named_for_what_they_are),
        cmocka_unit_test(counts_are_not_trusted),
        cmocka_unit_test(values_are_checked),
        cmocka_unit_test(tensors_are_checked),
    };
    return cmocka_run_group_tests_name("hostile gguf", tests, start, remove_folder);
}
