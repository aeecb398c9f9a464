#include "test.h"

#include "format/format.h"

/* Number, elements per block and bytes per block of each type, as llama.cpp wrote and python3-gguf read them. */
static void block_sizes_equal_ggmls(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint32_t number, elements, bytes;
    } known[] = {
        {"BF16", 30, 1, 2},       {"Q4_0", 2, 32, 18},      {"Q4_1", 3, 32, 20},     {"Q5_0", 6, 32, 22},
        {"Q5_1", 7, 32, 24},      {"Q8_0", 8, 32, 34},      {"Q2_K", 10, 256, 84},   {"Q3_K", 11, 256, 110},
        {"Q4_K", 12, 256, 144},   {"Q5_K", 13, 256, 176},   {"Q6_K", 14, 256, 210},  {"IQ4_NL", 20, 32, 18},
        {"IQ4_XS", 23, 256, 136}, {"IQ3_XXS", 18, 256, 98}, {"IQ3_S", 21, 256, 110}, {"IQ2_XXS", 16, 256, 66},
        {"IQ2_XS", 17, 256, 74},  {"IQ2_S", 22, 256, 82},   {"IQ1_S", 19, 256, 50},  {"IQ1_M", 29, 256, 56},
        {"TQ1_0", 34, 256, 54},   {"TQ2_0", 35, 256, 66},   {"MXFP4", 39, 32, 17},   {"F32", 0, 1, 4},
        {"F16", 1, 1, 2},         {"F64", 28, 1, 8},        {"I32", 26, 1, 4},       {"NVFP4", 40, 64, 36},
        {"Q1_0", 41, 128, 18},    {"Q2_0", 42, 64, 18},
    };
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        const struct tensor_type_info *info = tensor_type_info(known[i].number);
        assert_non_null(info);
        assert_string_equal(info->name, known[i].name);
        assert_int_equal(info->block_size, known[i].elements);
        assert_int_equal(info->block_bytes, known[i].bytes);
    }
}

static void names_and_numbers_agree(void **state)
{
    (void)state;
    size_t known = 0;
    for (uint32_t number = 0; number < TENSOR_TYPE_COUNT; number++) {
        const struct tensor_type_info *info = tensor_type_info(number);
        if (!info)
            continue;
        known++;
        enum tensor_type type = TENSOR_TYPE_COUNT;
        assert_true(tensor_type_by_name(info->name, &type));
        assert_int_equal(type, number);
    }
    assert_int_equal(known, 35);
    enum tensor_type type = TENSOR_I8;
    assert_true(tensor_type_by_name("q4_k", &type));
    assert_int_equal(type, TENSOR_Q4_K);
    assert_false(tensor_type_by_name("Q4_K_M", &type));
    assert_false(tensor_type_by_name("", &type));
    assert_int_equal(type, TENSOR_Q4_K);
    assert_null(tensor_type_info(4));
    assert_null(tensor_type_info(31));
    assert_null(tensor_type_info(UINT32_MAX));
}

static void rows_are_whole_blocks(void **state)
{
    (void)state;
    uint64_t bytes = 5;
    assert_true(tensor_row_bytes(TENSOR_Q4_K, 4096, &bytes));
    assert_int_equal(bytes, 16 * 144);
    assert_false(tensor_row_bytes(TENSOR_Q4_K, 4096 + 32, &bytes));
    assert_false(tensor_row_bytes(TENSOR_F64, UINT64_MAX / 4, &bytes));
    assert_false(tensor_row_bytes((enum tensor_type)5, 32, &bytes));
    assert_int_equal(bytes, 16 * 144);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_sizes_equal_ggmls),
        cmocka_unit_test(names_and_numbers_agree),
        cmocka_unit_test(rows_are_whole_blocks),
    };
    return cmocka_run_group_tests_name("tensor type", tests, NULL, NULL);
}
