#include "test.h"

#include "format/format.h"

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
    snprintf(folder, sizeof folder, "%s", test_data("oracle/models"));
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
        assert_in_range(layers, 1, 16);
        const struct gguf_tensor *embedding = gguf_tensor_find(file, "token_embd.weight");
        assert_non_null(embedding);
        const struct gguf_value *tokens = gguf_find(file, "tokenizer.ggml.tokens");
        assert_non_null(tokens);
        assert_int_equal(tokens->type, GGUF_ARRAY);
        assert_int_equal(tokens->element_type, GGUF_STRING);
        assert_int_equal(tokens->count, embedding->dimensions[1]);
        /* The last tensor's data, padded, ends where the file ends: nothing was skipped. */
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(models_that_llama_cpp_wrote_are_read),
    };
    return cmocka_run_group_tests_name("gguf", tests, NULL, NULL);
}
