/* The choice of GPUs if there are several, or if one cannot be used. */
#include "test.h"

#include "hw/hw_private.h"

#include <string.h>

static struct gpu_info device(const char *name, enum gpu_kind kind, uint64_t gigabytes, const char *lacks)
{
    struct gpu_info info = {.kind = kind, .memory_bytes = gigabytes << 30};
    snprintf(info.name, sizeof info.name, "%s", name);
    snprintf(info.lacks, sizeof info.lacks, "%s", lacks);
    return info;
}

static void takes_all_cards_or_the_best_device(void **state)
{
    (void)state;
    const struct gpu_info on_cpu = device("llvmpipe", GPU_CPU, 64, ""), small = device("small", GPU_DISCRETE, 8, ""),
                          large = device("large", GPU_DISCRETE, 24, ""), old = device("old", GPU_DISCRETE, 48, "x"),
                          shared = device("shared", GPU_INTEGRATED, 32, ""),
                          remote = device("remote", GPU_VIRTUAL, 80, "");
    struct gpu_info shown = large, again = large;
    shown.uuid[3] = again.uuid[3] = 1; /* one card, shown by two drivers */
    const struct {
        struct gpu_info gpus[4];
        size_t count, taken, which[2];
    } cases[] = {{{on_cpu, shared}, 2, 1, {1}},          {{shared, small}, 2, 1, {1}},
                 {{small, large, shared}, 3, 2, {0, 1}}, {{large, on_cpu, large}, 3, 2, {0, 2}},
                 {{old, shared, on_cpu}, 3, 1, {1}},     {{old, small}, 2, 1, {1}},
                 {{remote, on_cpu, shared}, 3, 1, {2}},  {{on_cpu, remote, old}, 3, 1, {1}},
                 {{shown, again, small}, 3, 2, {0, 2}}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct hardware_choice chosen;
        char why[512];
        hw_choose_gpus(cases[i].gpus, cases[i].count, &chosen, why, sizeof why);
        assert_int_equal(chosen.count, cases[i].taken);
        assert_false(chosen.listed);
        for (size_t k = 0; k < chosen.count; k++) {
            assert_int_equal(chosen.gpus[k].index, cases[i].which[k]);
            assert_string_equal(chosen.gpus[k].info.name, cases[i].gpus[cases[i].which[k]].name);
        }
    }
}

static void says_why_none_is_taken(void **state)
{
    (void)state;
    const struct gpu_info on_cpu = device("llvmpipe", GPU_CPU, 64, ""),
                          old = device("old", GPU_DISCRETE, 2, "Vulkan 1.2");
    const struct gpu_info both[] = {old, on_cpu};
    struct hardware_choice chosen;
    char why[512];
    hw_choose_gpus(&on_cpu, 1, &chosen, why, sizeof why);
    assert_int_equal(chosen.count, 0);
    assert_non_null(strstr(why, "a program on the CPU (llvmpipe)"));
    hw_choose_gpus(both, 2, &chosen, why, sizeof why);
    assert_int_equal(chosen.count, 0);
    assert_string_equal(why, "old lacks Vulkan 1.2");
}

static void refuses_malformed_lists(void **state)
{
    (void)state;
    static const char *const wrong[] = {"fast", "0,", ",0", "0,,1", "0 1", "-1", "0,1,2,3,4,5,6,7,0", "5000"};
    struct hardware_choice chosen;
    char why[512];
    for (size_t i = 0; i < COUNT_OF(wrong); i++)
        assert_int_equal(hardware_choose_gpus(wrong[i], &chosen, why, sizeof why, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_ok(hardware_choose_gpus("none", &chosen, why, sizeof why, &test_error));
    assert_int_equal(chosen.count, 0);
    assert_ok(hardware_choose_gpus("900,901", &chosen, why, sizeof why, &test_error));
    assert_true(chosen.count == 0 && chosen.listed && why[0]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_all_cards_or_the_best_device),
        cmocka_unit_test(says_why_none_is_taken),
        cmocka_unit_test(refuses_malformed_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
