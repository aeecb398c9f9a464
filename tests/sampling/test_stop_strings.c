#include "test.h"

#include "sampling/stop_strings.h"

#include <string.h>

/* The length of the expected output: the text before the stop string that is complete first. */
static size_t expected_end(const char *text, const char *const *stops, size_t count)
{
    size_t length = strlen(text);
    for (size_t end = 1; end <= length; end++) {
        size_t longest = 0;
        for (size_t i = 0; i < count; i++) {
            size_t size = strlen(stops[i]);
            if (size <= end && memcmp(text + end - size, stops[i], size) == 0)
                longest = MAX(longest, size);
        }
        if (longest)
            return end - longest;
    }
    return length;
}

static void check(const char *text, const char *const *stops, size_t count, struct random *random)
{
    struct stop_matcher matcher;
    struct buffer out = {0};
    const char *stop = NULL, *piece;
    size_t size, length = strlen(text);
    stop_matcher_start(&matcher, stops, count);
    for (size_t at = 0; at < length && !stop;) {
        size_t now = random_next(random) % 4;
        now = MIN(now, length - at);
        stop_matcher_push(&matcher, text + at, now, &piece, &size, &stop);
        buffer_append(&out, piece, size);
        at += now;
    }
    if (!stop) {
        stop_matcher_finish(&matcher, &piece, &size);
        buffer_append(&out, piece, size);
    }
    size_t end = expected_end(text, stops, count);
    assert_int_equal(stop != NULL, end < length);
    assert_int_equal(out.size, end);
    assert_memory_equal(out.data ? out.data : "", text, end);
    buffer_free(&out);
    stop_matcher_free(&matcher);
}

static void pieces_do_not_matter(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 5);
    for (int round = 0; round < 20000; round++) {
        char text[24], words[3][6];
        size_t length = random_next(&random) % sizeof text;
        for (size_t i = 0; i < length; i++)
            text[i] = (char)('a' + random_next(&random) % 2);
        text[length] = 0;
        const char *stops[3] = {words[0], words[1], words[2]};
        for (size_t w = 0; w < 3; w++) {
            size_t size = random_next(&random) % sizeof words[w];
            for (size_t i = 0; i < size; i++)
                words[w][i] = (char)('a' + random_next(&random) % 2);
            words[w][size] = 0;
        }
        check(text, stops, random_next(&random) % 4, &random);
    }
}

static void only_possible_stop_strings_are_held_back(void **state)
{
    (void)state;
    static const char *const stops[] = {"</end>"};
    struct stop_matcher matcher;
    const char *piece, *stop;
    size_t size;
    stop_matcher_start(&matcher, stops, 1);
    stop_matcher_push(&matcher, "hello <", 7, &piece, &size, &stop);
    assert_int_equal(size, 6);
    stop_matcher_push(&matcher, "b>", 2, &piece, &size, &stop);
    assert_int_equal(size, 3);
    assert_memory_equal(piece, "<b>", 3);
    stop_matcher_push(&matcher, "</end> more", 11, &piece, &size, &stop);
    assert_int_equal(size, 0);
    assert_ptr_equal(stop, stops[0]);
    stop_matcher_free(&matcher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_do_not_matter),
        cmocka_unit_test(only_possible_stop_strings_are_held_back),
    };
    return cmocka_run_group_tests_name("stop strings", tests, NULL, NULL);
}
