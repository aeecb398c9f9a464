/* Which GPU computes where there are several, or one that cannot be used. */
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

static void takes_the_best(void **state)
{
    (void)state;
    const struct gpu_info on_cpu = device("llvmpipe", GPU_CPU, 64, ""), small = device("small", GPU_DISCRETE, 8, ""),
                          large = device("large", GPU_DISCRETE, 24, ""), old = device("old", GPU_DISCRETE, 48, "x"),
                          shared = device("shared", GPU_INTEGRATED, 32, ""),
                          remote = device("remote", GPU_VIRTUAL, 80, "");
    const struct {
        struct gpu_info gpus[4];
        size_t count, best;
    } cases[] = {{{on_cpu, shared}, 2, 1},       {{shared, small}, 2, 1},       {{small, large, shared}, 3, 1},
                 {{large, small, on_cpu}, 3, 0}, {{old, shared, on_cpu}, 3, 1}, {{remote, on_cpu, shared}, 3, 2},
                 {{on_cpu, remote, old}, 3, 1}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct hardware_gpu chosen = {0};
        char why[512];
        assert_true(hw_choose_gpu(cases[i].gpus, cases[i].count, &chosen, why, sizeof why));
        assert_int_equal(chosen.index, cases[i].best);
        assert_string_equal(chosen.info.name, cases[i].gpus[cases[i].best].name);
    }
}

static void says_why_none_is_taken(void **state)
{
    (void)state;
    const struct gpu_info on_cpu = device("llvmpipe", GPU_CPU, 64, ""),
                          old = device("old", GPU_DISCRETE, 2, "Vulkan 1.2");
    const struct gpu_info both[] = {old, on_cpu};
    struct hardware_gpu chosen;
    char why[512];
    assert_false(hw_choose_gpu(&on_cpu, 1, &chosen, why, sizeof why));
    assert_non_null(strstr(why, "a program on the CPU (llvmpipe)"));
    assert_false(hw_choose_gpu(both, 2, &chosen, why, sizeof why));
    assert_string_equal(why, "old lacks Vulkan 1.2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_the_best),
        cmocka_unit_test(says_why_none_is_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
