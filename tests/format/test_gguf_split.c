#include "sample.h"

/* Part "number" (from 1) of "count", according to its metadata, which may disagree with its name. */
struct part {
    const char *name;
    uint16_t number, count;
    int32_t tensors;
    const char *tensor_names[2];
};

static void write_part(const struct part *part)
{
    struct gguf_writer *writer;
    assert_ok(gguf_writer_create(&writer, path_in_folder(part->name), 0, &test_error));
    uint16_t index = (uint16_t)(part->number - 1);
    if (part->number == 1)
        assert_ok(gguf_writer_add_string(writer, "general.architecture", "split", &test_error));
    assert_ok(gguf_writer_add(writer, "split.no", GGUF_UINT16, &index, 1, false, &test_error));
    assert_ok(gguf_writer_add(writer, "split.count", GGUF_UINT16, &part->count, 1, false, &test_error));
    assert_ok(gguf_writer_add(writer, "split.tensors.count", GGUF_INT32, &part->tensors, 1, false, &test_error));
    uint64_t shape[] = {8u * part->number};
    for (size_t i = 0; i < 2 && part->tensor_names[i]; i++)
        assert_ok(gguf_writer_add_tensor(writer, part->tensor_names[i], TENSOR_I8, 1, shape, &test_error));
    char data[64] = {0};
    for (size_t i = 0; i < 2 && part->tensor_names[i]; i++)
        assert_ok(gguf_writer_write(writer, data, shape[0], &test_error));
    assert_ok(gguf_writer_finish(writer, &test_error));
    gguf_writer_destroy(writer);
}

static void any_part_opens_the_model(void **state)
{
    (void)state;
    /* The first part of a model may contain only metadata. */
    static const struct part parts[] = {{"m-00001-of-00003.gguf", 1, 3, 3, {NULL}},
                                        {"m-00002-of-00003.gguf", 2, 3, 3, {"x", "y"}},
                                        {"m-00003-of-00003.gguf", 3, 3, 3, {"z"}}};
    for (size_t i = 0; i < 3; i++)
        write_part(&parts[i]);
    for (size_t i = 0; i < 3; i++) {
        struct gguf *file;
        assert_ok(gguf_open(&file, path_in_folder(parts[i].name), &test_error));
        assert_int_equal(gguf_file_count(file), 3);
        for (size_t j = 0; j < 3; j++)
            assert_string_equal(gguf_file_path(file, j), path_in_folder(parts[j].name));
        struct gguf_string architecture;
        assert_true(gguf_get_string(file, "general.architecture", &architecture));
        assert_int_equal(gguf_tensor_count(file), 3);
        assert_int_equal(gguf_tensor_find(file, "y")->file, 1);
        assert_int_equal(gguf_tensor_find(file, "z")->file, 2);
        assert_int_equal(gguf_tensor_find(file, "z")->bytes, 24);
        assert_true(gguf_tensor_find(file, "z")->offset + 24 <= gguf_file_bytes(file, 2));
        gguf_close(file);
    }
}

/* The other parts are next to the link's target. */
static void a_link_of_another_name_opens_the_model(void **state)
{
    (void)state;
    write_part(&(struct part){"far-00001-of-00002.gguf", 1, 2, 2, {"x"}});
    write_part(&(struct part){"far-00002-of-00002.gguf", 2, 2, 2, {"y"}});
    assert_int_equal(symlink("far-00002-of-00002.gguf", path_in_folder("near.gguf")), 0);
    assert_int_equal(symlink(path_in_folder("near.gguf"), path_in_folder("nearer.gguf")), 0);
    struct gguf *file;
    assert_ok(gguf_open(&file, path_in_folder("nearer.gguf"), &test_error));
    assert_int_equal(gguf_file_count(file), 2);
    assert_int_equal(gguf_tensor_count(file), 2);
    gguf_close(file);
}

static void expect_refusal(const char *name, const char *words)
{
    struct gguf *file = NULL;
    hypura_status status = gguf_open(&file, path_in_folder(name), &test_error);
    assert_true(status == HYPURA_ERROR_FORMAT || status == HYPURA_ERROR_IO);
    assert_null(file);
    if (!strstr(test_error.message, words))
        fail_msg("the error does not contain \"%s\": %s", words, test_error.message);
}

static void a_missing_part_is_named(void **state)
{
    (void)state;
    write_part(&(struct part){"gap-00001-of-00003.gguf", 1, 3, 2, {"x"}});
    write_part(&(struct part){"gap-00003-of-00003.gguf", 3, 3, 2, {"y"}});
    expect_refusal("gap-00003-of-00003.gguf", "gap-00002-of-00003.gguf");
}

static void parts_that_do_not_belong_together_are_refused(void **state)
{
    (void)state;
    write_part(&(struct part){"renamed.gguf", 1, 2, 1, {"x"}});
    expect_refusal("renamed.gguf", "-00001-of-00002.gguf");
    write_part(&(struct part){"swap-00001-of-00002.gguf", 2, 2, 1, {"x"}});
    expect_refusal("swap-00001-of-00002.gguf", "part 2 of 2");
    write_part(&(struct part){"more-00001-of-00002.gguf", 1, 3, 1, {"x"}});
    expect_refusal("more-00001-of-00002.gguf", "part 1 of 3");

    write_part(&(struct part){"mixed-00001-of-00002.gguf", 1, 2, 2, {"x"}});
    write_part(&(struct part){"mixed-00002-of-00002.gguf", 1, 2, 2, {"y"}});
    expect_refusal("mixed-00001-of-00002.gguf", "expected part 2 of 2");

    write_part(&(struct part){"twice-00001-of-00002.gguf", 1, 2, 2, {"x"}});
    write_part(&(struct part){"twice-00002-of-00002.gguf", 2, 2, 2, {"x"}});
    expect_refusal("twice-00001-of-00002.gguf", "\"x\" occurs twice");

    write_part(&(struct part){"few-00001-of-00002.gguf", 1, 2, 5, {"x"}});
    write_part(&(struct part){"few-00002-of-00002.gguf", 2, 2, 5, {"y"}});
    expect_refusal("few-00001-of-00002.gguf", "expected 5");
}

static void a_lone_part_is_a_whole_model(void **state)
{
    (void)state;
    write_part(&(struct part){"lone.gguf", 1, 1, 1, {"x"}});
    struct gguf *file;
    assert_ok(gguf_open(&file, path_in_folder("lone.gguf"), &test_error));
    assert_int_equal(gguf_file_count(file), 1);
    gguf_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_part_opens_the_model),     cmocka_unit_test(a_link_of_another_name_opens_the_model),
        cmocka_unit_test(a_missing_part_is_named),      cmocka_unit_test(parts_that_do_not_belong_together_are_refused),
        cmocka_unit_test(a_lone_part_is_a_whole_model),
    };
    return cmocka_run_group_tests_name("split gguf", tests, make_folder, remove_folder);
}
