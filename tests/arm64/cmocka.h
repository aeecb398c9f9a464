/* The part of cmocka that the tests of the compute folder use, for machines without cmocka. A failed assertion ends its
 * test. Results are printed as TAP. */
#ifndef HYPURA_TESTS_ARM64_CMOCKA_H
#define HYPURA_TESTS_ARM64_CMOCKA_H

#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*run)(void **state);
    int (*set_up)(void **state);
    int (*tear_down)(void **state);
    void *state;
};

#define cmocka_unit_test(function)                                                                                     \
    {                                                                                                                  \
#function, function                                                                                            \
    }

static jmp_buf end_of_test;

#define fail_msg(...)                                                                                                  \
    do {                                                                                                               \
        printf("# %s:%d: ", __FILE__, __LINE__);                                                                       \
        printf(__VA_ARGS__);                                                                                           \
        putchar('\n');                                                                                                 \
        longjmp(end_of_test, 1);                                                                                       \
    } while (0)

#define assert_true(condition)                                                                                         \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            fail_msg("not true: %s", #condition);                                                                      \
    } while (0)
#define assert_false(condition) assert_true(!(condition))
#define assert_non_null(pointer) assert_true((pointer) != NULL)
#define assert_null(pointer) assert_true((pointer) == NULL)
#define assert_int_equal(a, b) assert_true((intmax_t)(a) == (intmax_t)(b))
#define assert_int_not_equal(a, b) assert_true((intmax_t)(a) != (intmax_t)(b))
#define assert_string_equal(a, b) assert_true(strcmp(a, b) == 0)
#define assert_memory_equal(a, b, size) assert_true(memcmp(a, b, size) == 0)

static int run_tests(const struct CMUnitTest *tests, size_t count)
{
    int failed = 0;
    printf("1..%zu\n", count);
    for (size_t i = 0; i < count; i++) {
        void *state = tests[i].state;
        int bad = setjmp(end_of_test);
        if (!bad) {
            if (tests[i].set_up && tests[i].set_up(&state) != 0)
                fail_msg("the set-up failed");
            tests[i].run(&state);
            if (tests[i].tear_down && tests[i].tear_down(&state) != 0)
                fail_msg("the tear-down failed");
        }
        failed += bad;
        printf("%sok %zu - %s\n", bad ? "not " : "", i + 1, tests[i].name);
        fflush(stdout);
    }
    return failed;
}

#define cmocka_run_group_tests(tests, set_up, tear_down)                                                               \
    ((void)(set_up), (void)(tear_down), run_tests(tests, sizeof(tests) / sizeof((tests)[0])))

#endif
