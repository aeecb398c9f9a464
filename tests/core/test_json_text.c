/* JSON is parsed and written as jansson does it, and whichever allocation fails, the result is an error. */
#include "test.h"

#include "core/account.h"
#include "core/json_text.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

static _Thread_local size_t calls, failing; /* the number of the call that fails; 0: none */

void *__real_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes);
void *__wrap_malloc(size_t bytes)
{
    return ++calls == failing ? NULL : __real_malloc(bytes);
}

static const size_t flags[] = {0, JSON_DECODE_ANY, JSON_DECODE_ANY | JSON_ALLOW_NUL, JSON_REJECT_DUPLICATES,
                               JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK};

/* Walks over all allocations of a parse. Returns their number. */
static size_t fail_each(const char *text)
{
    const size_t size = strlen(text);
    json_t *expected = json_loadb(text, size, JSON_DECODE_ANY, NULL);
    assert_non_null(expected);
    for (size_t n = 1;; n++) {
        json_error_t error;
        uint64_t failures = memory_failures();
        calls = 0;
        failing = n;
        json_t *json = json_text_read(text, size, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, &error);
        failing = 0;
        if (calls < n) {
            assert_true(json_equal(json, expected));
            json_decref(json);
            json_decref(expected);
            return n - 1;
        }
        if (json || memory_failures() == failures || json_error_code(&error) != json_error_out_of_memory)
            fail_msg("allocation %zu of %.60s: %s", n, text, error.text);
    }
}

static char *repeat(char *out, const char *text, size_t times)
{
    while (times--)
        out = stpcpy(out, text);
    return out;
}

/* Makes a text with a token that repeats some characters. */
static char *make_token(char *out, const char *before, const char *repeated, size_t times, const char *after)
{
    stpcpy(repeat(stpcpy(out, before), repeated, times), after);
    return out;
}

static void a_failed_allocation_is_an_error(void **state)
{
    (void)state;
    static char text[20000];
    static const struct {
        const char *before, *repeated, *after;
    } forms[] = {{"\"", "a", "\""},
                 {"[1,\"", "a", "\"]"},
                 {"{\"", "k", "\":1}"},
                 {"\"", "\\\"", "\""},
                 {"\"", "\\u00e9", "\""},
                 {"\"", "\xc3\xa9", "\""},
                 {"\"", "\xf0\x9f\x98\x80", "\""},
                 {"0.", "3", ""},
                 {"[0.", "3", "]"},
                 {"[0.", "3", " , 0]"},
                 {"{\"a\":0.", "3", "}"},
                 {"[\"a\",-0.", "3", ",\"a\"]"},
                 {"[\"", "a", "\",true,\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"]"}};
    for (size_t i = 0; i < COUNT_OF(forms); i++) {
        for (size_t times = 1; times < 600; times += times < 140 ? 1 : 97)
            fail_each(make_token(text, forms[i].before, forms[i].repeated, times, forms[i].after));
        size_t count = fail_each(make_token(text, forms[i].before, forms[i].repeated, 3000, forms[i].after));
        assert_true(count > 9); /* jansson's buffer was extended */
    }
    fail_each("[123456789012345678,1234567890123456]");
    /* Numbers that do not fit are errors, too, but never fatal. */
    for (size_t times = 1; times < 3000; times += times < 140 ? 1 : 97) {
        make_token(text, "[1", "0", times, "]");
        for (size_t n = 1; n < 20; n++) {
            calls = 0;
            failing = n;
            json_decref(json_text_read(text, strlen(text), 0, NULL));
        }
    }
    failing = 0;
}

struct pieces {
    const char *text;
    size_t size, most;
};

static size_t read_pieces(void *out, size_t room, void *context)
{
    struct pieces *pieces = context;
    size_t size = MIN(MIN(room, pieces->size), pieces->most);
    memcpy(out, pieces->text, size);
    pieces->text += size;
    pieces->size -= size;
    return size;
}

static void expect_as_jansson(const char *text, size_t size)
{
    for (size_t i = 0; i < COUNT_OF(flags); i++) {
        json_error_t error, expected_error;
        json_t *expected = json_loadb(text, size, flags[i], &expected_error);
        for (size_t most = 1; most < 2000; most *= 3) {
            json_t *json = json_text_read_from(read_pieces, &(struct pieces){text, size, most}, flags[i], &error);
            if ((json != NULL) != (expected != NULL) || (json && !json_equal(json, expected)) ||
                error.position != expected_error.position || strcmp(error.text, expected_error.text) != 0 ||
                error.line != expected_error.line || error.column != expected_error.column)
                fail_msg("%.*s: \"%s\", expected \"%s\"", (int)size, text, error.text, expected_error.text);
            json_decref(json);
        }
        json_decref(expected);
    }
}

static void values_and_errors_are_those_of_jansson(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        " ",
        "[]",
        "{}",
        "1",
        "-0",
        "1.5e3",
        "01",
        "1.",
        "1e999",
        "99999999999999999999",
        "tru",
        "true",
        "nul",
        "\"",
        "\"a",
        "\"\\",
        "\"\\u00",
        "\"\\ud800\"",
        "\"\n\"",
        "[1,]",
        "[1 2]",
        "{\"a\"}",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1}}",
        "[\"\\u0000\"]",
        "{\"\\u0000\":1}",
        "[1] x",
        "[1]\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "\xff",
        "\"\xc3",
        "[\"\xe2\x82\"]",
        "1aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "[trueaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa]",
        "--------------------------------------------------------------",
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\\x\"",
        "{\"name\": \"caf\xc3\xa9 \\u00e9 \\ud83d\\ude00\", \"values\": [1, -2.5e-3, true, false, null, {\"a\": "
        "[[[]]]}],\n"
        " \"a long key of more than sixteen bytes\": \"and a value of more than thirty-two bytes, \\\"quoted\\\"\"}"};
    for (size_t i = 0; i < COUNT_OF(texts); i++)
        expect_as_jansson(texts[i], strlen(texts[i]));
    expect_as_jansson("[1\0]", 4);
    /* The last text with random bytes changed, and cut. */
    const char *whole = texts[COUNT_OF(texts) - 1];
    char text[400];
    const size_t size = strlen(whole);
    assert_true(size < sizeof text);
    uint32_t random = 1;
    for (size_t i = 0; i < 3000; i++) {
        memcpy(text, whole, size);
        for (size_t j = 0; j < 1 + i % 3; j++) {
            random = random * 1664525 + 1013904223;
            text[(random >> 8) % size] = "\"\\{}[],:1ea \n\xc3-."[random >> 28];
        }
        expect_as_jansson(text, i % 5 ? size : (random >> 8) % size);
    }
}

static struct {
    size_t now, most;
} taken;

static void count_taken(void *context, size_t bytes)
{
    (void)context;
    taken.now += bytes;
    taken.most = MAX(taken.most, taken.now);
}

static void count_given(void *context, size_t bytes)
{
    (void)context;
    taken.now -= MIN(bytes, taken.now);
}

static void a_parse_takes_as_much_memory_as_with_jansson_alone(void **state)
{
    (void)state;
    static char text[300000];
    struct memory_account account = {.lend = count_taken, .give = count_given};
    memory_set_account(&account);
    for (size_t times = 10; times < 250000; times *= 5) {
        make_token(text, "[\"", "a", times, "\", 1, 2]");
        taken.now = taken.most = 0;
        json_decref(json_loadb(text, strlen(text), 0, NULL));
        const size_t expected = taken.most;
        taken.now = taken.most = 0;
        json_decref(json_text_read(text, strlen(text), 0, NULL));
        assert_true(taken.most <= expected + 128);
    }
    memory_set_account(NULL);
}

static void *fail_in_a_thread(void *context)
{
    char text[800];
    for (size_t times = 1; times < 100; times++) {
        fail_each(make_token(text, "[0.", "3", times, ",1]"));
        fail_each(make_token(text, "[\"", "abc", times, "\",1]"));
    }
    *(bool *)context = true;
    return NULL;
}

static void threads_do_not_disturb_each_other(void **state)
{
    (void)state;
    pthread_t threads[4];
    bool done[4] = {false};
    for (size_t i = 0; i < COUNT_OF(threads); i++)
        assert_int_equal(pthread_create(&threads[i], NULL, fail_in_a_thread, &done[i]), 0);
    for (size_t i = 0; i < COUNT_OF(threads); i++) {
        pthread_join(threads[i], NULL);
        assert_true(done[i]);
    }
}

static void a_file_is_read_to_its_end(void **state)
{
    (void)state;
    static char text[5000];
    make_token(text, "{\"key\": \"", "\xc3\xa9", 2000, "\"}");
    FILE *file = tmpfile();
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    rewind(file);
    json_t *json = json_text_read_file(file, 0, NULL), *expected = json_text_read_string(text, 0, NULL);
    assert_int_equal(json_string_length(json_object_get(json, "key")), 4000);
    assert_true(json_equal(json, expected));
    json_decref(json);
    json_decref(expected);
    fclose(file);
}

static void a_read_that_fails_is_an_error(void **state)
{
    (void)state;
    json_error_t error;
    FILE *file = fopen("/", "re"); /* opens, but cannot be read */
    assert_non_null(file);
    assert_null(json_text_read_file(file, 0, &error));
    assert_string_equal(error.text, strerror(EISDIR));
    assert_int_not_equal(json_error_code(&error), json_error_out_of_memory);
    fclose(file);
}

static void a_text_without_a_part_is_an_error(void **state)
{
    (void)state;
    char name[200];
    json_t *json = json_object();
    for (size_t length = 1; length < sizeof name; length += 3) {
        memset(name, 'n', length);
        name[length] = 0;
        json_object_set_new(json, name, json_pack("[s, i, {s:s}]", name, 5, "inside", name));
    }
    char *expected = json_dumps(json, JSON_COMPACT);
    for (size_t n = 1;; n++) {
        uint64_t failures = memory_failures();
        calls = 0;
        failing = n;
        char *text = json_text_write(json, JSON_COMPACT);
        failing = 0;
        if (calls < n) {
            assert_string_equal(text, expected);
            free(text);
            break;
        }
        if (text || memory_failures() == failures)
            fail_msg("allocation %zu: %s", n, text);
    }
    free(expected);
    json_decref(json);
    assert_null(json_text_write(NULL, 0));
}

int main(void)
{
    /* The library takes jansson's memory over only where it is malloc's, but here malloc is replaced. */
    json_set_alloc_funcs(memory_take, memory_give);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failed_allocation_is_an_error),
        cmocka_unit_test(values_and_errors_are_those_of_jansson),
        cmocka_unit_test(a_parse_takes_as_much_memory_as_with_jansson_alone),
        cmocka_unit_test(threads_do_not_disturb_each_other),
        cmocka_unit_test(a_file_is_read_to_its_end),
        cmocka_unit_test(a_read_that_fails_is_an_error),
        cmocka_unit_test(a_text_without_a_part_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
