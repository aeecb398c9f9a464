/* Every test file includes this: cmocka, and an assertion that prints hypura's error message when it fails. */
#ifndef HYPURA_TEST_H
#define HYPURA_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#ifdef assert_uint_in_range /* cmocka 2 */
#undef assert_in_range
#define assert_in_range assert_uint_in_range
#endif

#include "core/core.h"

static hypura_error test_error __attribute__((unused));

#define assert_ok(call)                                                                                                \
    do {                                                                                                               \
        if ((call) != HYPURA_OK)                                                                                       \
            fail_msg("%s: %s", #call, test_error.message);                                                             \
    } while (0)

/* The path of a file in tests/data. The result is valid until the next call. */
__attribute__((unused)) static const char *test_data(const char *name)
{
    static char path[4096];
    const char *folder = getenv("HYPURA_TEST_DATA");
    snprintf(path, sizeof path, "%s/%s", folder ? folder : "tests/data", name);
    return path;
}

#endif
