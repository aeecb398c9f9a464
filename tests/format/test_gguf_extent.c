/* The length of a header, determined from its beginning. */
#include "format/format.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned char *content;
static size_t content_size;
static uint64_t extent;

static int open_model_file(void **state)
{
    (void)state;
    char path[4096];
    const char *folder = getenv("HYPURA_MODELS");
    snprintf(path, sizeof path, "%s/manpage-moe-24m-Q4_K_M.gguf", folder ? folder : "models");
    FILE *file = fopen(path, "rb");
    content = malloc(1 << 20);
    if (!file || !content)
        return -1;
    content_size = fread(content, 1, 1 << 20, file);
    fclose(file);
    return gguf_header_extent(content, content_size, &extent, NULL) || extent == 0;
}

static int close_model_file(void **state)
{
    (void)state;
    free(content);
    return 0;
}

static void the_header_ends_before_the_first_tensor(void **state)
{
    (void)state;
    assert_true(extent > 24 && extent < content_size);
    /* Only zeros follow as padding before the data. */
    for (uint64_t i = extent; i % 32; i++)
        assert_int_equal(content[i], 0);
}

static void anything_shorter_needs_more(void **state)
{
    (void)state;
    uint64_t bytes;
    for (size_t size = 0; size < extent; size += size < 512 ? 1 : 997) {
        bytes = 1;
        assert_int_equal(gguf_header_extent(content, size, &bytes, NULL), HYPURA_OK);
        assert_int_equal(bytes, 0);
    }
    assert_int_equal(gguf_header_extent(content, (size_t)extent - 1, &bytes, NULL), HYPURA_OK);
    assert_int_equal(bytes, 0);
    assert_int_equal(gguf_header_extent(content, (size_t)extent, &bytes, NULL), HYPURA_OK);
    assert_int_equal(bytes, extent);
}

static void other_files_are_an_error(void **state)
{
    (void)state;
    uint64_t bytes;
    hypura_error error;
    assert_int_equal(gguf_header_extent("<html><body>", 12, &bytes, &error), HYPURA_ERROR_FORMAT);
    unsigned char version[24];
    memcpy(version, content, sizeof version);
    version[4] = 9;
    assert_int_equal(gguf_header_extent(version, sizeof version, &bytes, &error), HYPURA_ERROR_FORMAT);
}

static void damaged_headers_are_read_within_bounds(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 5);
    for (int round = 0; round < 300; round++) {
        /* An exact copy, so that sanitizers detect reads beyond the end. */
        size_t size = (size_t)(random_next(&random) % 4096) + 32;
        unsigned char *copy = malloc(size);
        uint64_t bytes;
        assert_non_null(copy);
        memcpy(copy, content, size);
        for (int i = 0; i < 4; i++)
            copy[4 + random_next(&random) % (size - 4)] = (unsigned char)random_next(&random);
        if (gguf_header_extent(copy, size, &bytes, NULL) == HYPURA_OK)
            assert_true(bytes <= size);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_ends_before_the_first_tensor), cmocka_unit_test(anything_shorter_needs_more),
        cmocka_unit_test(other_files_are_an_error), cmocka_unit_test(damaged_headers_are_read_within_bounds)};
    return cmocka_run_group_tests(tests, open_model_file, close_model_file);
}
