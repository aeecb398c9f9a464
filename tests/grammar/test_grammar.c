/* Grammars: what they accept and refuse, by bytes and by tokens, and the messages for invalid ones. */
#include "grammar_text.h"

#include "tokenizer/vocabulary.h"

#include <math.h>
#include <string.h>

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static struct grammar *parse(const char *text)
{
    struct grammar *grammar;
    assert_ok(grammar_parse(&grammar, text, strlen(text), &test_error));
    return grammar;
}

static void expect(const char *gbnf, const char *text, int result)
{
    struct grammar *grammar = parse(gbnf);
    int found = match(grammar, text);
    if (found != result)
        fail_msg("%s\non \"%s\": expected %d, got %d", gbnf, text, result, found);
    grammar_free(grammar);
}

static void test_gbnf(void **state)
{
    (void)state;
    expect("root ::= \"ab\" | \"ac\"", "ab", COMPLETE);
    expect("root ::= \"ab\" | \"ac\"", "a", BEGUN);
    expect("root ::= \"ab\" | \"ac\"", "ad", REFUSED);
    expect("root ::= \"a\"*", "", COMPLETE);
    expect("root ::= \"a\"*", "aaaa", COMPLETE);
    expect("root ::= \"a\"+", "", BEGUN);
    expect("root ::= \"a\"? \"b\"", "b", COMPLETE);
    expect("root ::= \"a\"{2,3}", "a", BEGUN);
    expect("root ::= \"a\"{2,3}", "aaa", COMPLETE);
    expect("root ::= \"a\"{2,3}", "aaaa", REFUSED);
    expect("root ::= \"a\"{2}", "aaa", REFUSED);
    expect("root ::= \"a\"{2,}", "aaaaa", COMPLETE);
    expect("root ::= \"a\"{,2} \"b\"", "b", COMPLETE);
    expect("root ::= \"a\"{,2} \"b\"", "aaab", REFUSED);
    expect("root ::= (\"a\" | \"b\")* \"c\"", "abbac", COMPLETE);
    expect("root ::= [a-c0-9_] [^a-c]", "9z", COMPLETE);
    expect("root ::= [a-c] [^a-c]", "ab", REFUSED);
    expect("root ::= [\\]\\\\\\-x]+", "]\\-x", COMPLETE);
    expect("root ::= [-a] [a-]", "--", COMPLETE);
    expect("root ::= \"\\x41\\u00e9\\U0001F600\\n\\t\\\"\"", "Aé😀\n\t\"", COMPLETE);
    expect("root ::= .", "é", COMPLETE);
    expect("root ::= . .", "é", BEGUN);
    expect("root ::= [а-я]+", "привет", COMPLETE);
    expect("root ::= [а-я]+", "Привет", REFUSED);
    expect("root ::= [^é]", "é", REFUSED);
    expect("root ::= [^é]", "è", COMPLETE);
    expect("# comment\nroot ::= a b # more\na ::= \"x\"\n\nb ::=\n  \"y\"\n  | \"z\"\n", "xz", COMPLETE);
    expect("root ::= ( \"a\"\n  \"b\" )\n", "ab", COMPLETE);
    expect("root ::= \"(\" root? \")\"", "((()))", COMPLETE);
    expect("root ::= \"(\" root? \")\"", "((())))", REFUSED);
    expect("root ::= a\na ::= \"x\" a | \"\"", "xxxxxxxx", COMPLETE);
    /* Alternatives with equal beginnings and different ends. */
    expect("root ::= a | b\na ::= \"x\" a \"1\" | \"y\"\nb ::= \"x\" b \"2\" | \"y\"", "xxy22", COMPLETE);
    expect("root ::= a | b\na ::= \"x\" a \"1\" | \"y\"\nb ::= \"x\" b \"2\" | \"y\"", "xxy21", REFUSED);
    /* Loops over items that can be empty. */
    expect("root ::= ((\"a\"?)*)* \"b\"", "aab", COMPLETE);
    /* An alternative that can never end does not match. */
    expect("root ::= \"a\" x | \"ab\"\nx ::= \"b\" x", "ab", COMPLETE);
    expect("root ::= \"a\" x | \"ab\"\nx ::= \"b\" x", "abb", REFUSED);
}

static void test_only_utf8_comes_out(void **state)
{
    (void)state;
    struct grammar *grammar = parse("root ::= [^a]");
    assert_int_equal(match(grammar, "\xc3"), BEGUN);
    assert_int_equal(match(grammar, "\x80"), REFUSED);
    assert_int_equal(match(grammar, "\xc0"), REFUSED);     /* overlong */
    assert_int_equal(match(grammar, "\xe0\x80"), REFUSED); /* overlong */
    assert_int_equal(match(grammar, "\xe0\xa0"), BEGUN);
    assert_int_equal(match(grammar, "\xed\xa0"), REFUSED); /* surrogate */
    assert_int_equal(match(grammar, "\xed\x9f\xbf"), COMPLETE);
    assert_int_equal(match(grammar, "\xf4\x90"), REFUSED); /* above 10FFFF */
    assert_int_equal(match(grammar, "\xf4\x8f\xbf\xbf"), COMPLETE);
    assert_int_equal(match(grammar, "\xf5"), REFUSED);
    grammar_free(grammar);
}

/* A class accepts exactly the characters that it names. */
static void test_classes_are_exact(void **state)
{
    (void)state;
    struct grammar *grammar =
        parse("root ::= [\\x21-\\u07f0\\u0fff-\\u2000\\ufffe-\\U00010400\\U0010fff0-\\U0010ffff]");
    struct grammar_vocabulary *vocabulary = no_tokens();
    struct grammar_matcher *m;
    assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
    for (uint32_t c = 1; c <= 0x10ffff; c += c < 0x11000 ? 1 : 7) {
        char bytes[5] = "";
        size_t size = 0;
        if (c >= 0xd800 && c < 0xe000)
            continue;
        if (c < 0x80) {
            bytes[size++] = (char)c;
        } else {
            int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
            bytes[size++] = (char)((more == 1 ? 0xc0 : more == 2 ? 0xe0 : 0xf0) | c >> (6 * more));
            while (more-- > 0)
                bytes[size++] = (char)(0x80 | ((c >> (6 * more)) & 0x3f));
        }
        bool in =
            (c >= 0x21 && c <= 0x7f0) || (c >= 0xfff && c <= 0x2000) || (c >= 0xfffe && c <= 0x10400) || c >= 0x10fff0;
        grammar_matcher_reset(m);
        bool matched = grammar_matcher_accept_bytes(m, bytes, size, NULL) == HYPURA_OK;
        if (matched != in)
            fail_msg("U+%04X is wrongly %s", (unsigned)c, in ? "refused" : "accepted");
    }
    grammar_matcher_free(m);
    grammar_vocabulary_free(vocabulary);
    grammar_free(grammar);
}

static void expect_error(const char *gbnf, const char *message)
{
    struct grammar *grammar;
    if (grammar_parse(&grammar, gbnf, strlen(gbnf), &test_error) == HYPURA_OK)
        fail_msg("%s was not refused", gbnf);
    if (!strstr(test_error.message, message))
        fail_msg("%s: expected \"%s\" in \"%s\"", gbnf, message, test_error.message);
}

static void test_errors_say_what_and_where(void **state)
{
    (void)state;
    expect_error("", "no rule \"root\"");
    expect_error("a ::= \"x\"", "no rule \"root\"");
    expect_error("root ::= a\n", "line 1: the rule \"a\" is not defined");
    expect_error("root ::= \"x\"\nroot ::= \"y\"", "line 2: the rule \"root\" is defined twice");
    expect_error("root ::= \"x", "expected a character, found the end");
    expect_error("root ::= [a", "expected a character, found the end");
    expect_error("root ::= (\"a\"", "expected \")\"");
    expect_error("root ::= \"\\q\"", "one of the escapes");
    expect_error("root ::= [z-a]", "a range in ascending order");
    expect_error("root ::= \"a\"{3,1}", "after a repetition");
    expect_error("root ::= \"a\"{9999999}", "fewer repetitions");
    expect_error("\n\n= x", "line 3: expected a rule");
    expect_error("root ::= root \"x\" | \"y\"", "left-recursive");
    expect_error("root ::= a\na ::= b? c\nb ::= \"x\"\nc ::= a \"y\" | \"z\"", "left-recursive");
    expect_error("root ::= \"a\" root", "no text can match");
    expect_error("root ::= (((\"a\"{1000}){1000}){1000}){1000}", "too large");
    expect_error("root ::= ((((\"\"{99999}){99999}){99999}){99999})", "repeats more than");
    char deep[4000];
    memset(deep, '(', sizeof deep - 1);
    memcpy(deep, "root ::= ", 9);
    deep[sizeof deep - 1] = 0;
    expect_error(deep, "less nesting");
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

static void test_json_mode_writes_json_objects(void **state)
{
    (void)state;
    struct grammar_vocabulary *vocabulary = some_tokens();
    struct grammar *grammar;
    struct random random;
    struct buffer text = {0};
    random_seed(&random, 1);
    assert_ok(grammar_json(&grammar, &test_error));
    for (int i = 0; i < 60; i++) {
        json_error_t error;
        const char *output = random_text(grammar, vocabulary, &random, &text);
        json_t *value = output ? json_loads(output, JSON_ALLOW_NUL, &error) : json_object();
        if (!json_is_object(value))
            fail_msg("not a JSON object: %s (%s)", output, error.text);
        json_decref(value);
    }
    buffer_free(&text);
    grammar_free(grammar);
    grammar_vocabulary_free(vocabulary);
}

static void test_a_sampler_obeys_a_grammar(void **state)
{
    (void)state;
    struct grammar_vocabulary *vocabulary = some_tokens();
    struct grammar *grammar = parse("root ::= [a-f]{4} \"😀\"");
    struct grammar_matcher *m;
    struct sampler *sampler;
    struct sampler_options options;
    static float logits[MOST_TOKENS];
    sampler_default_options(&options);
    assert_ok(sampler_create(&sampler, &options, token_count, &test_error));
    for (int round = 0; round < 20; round++) {
        struct buffer text = {0};
        struct random random;
        random_seed(&random, (uint64_t)round);
        assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
        struct token_constraint constraint = grammar_matcher_constraint(m);
        sampler_set_constraint(sampler, &constraint);
        int32_t token = 0;
        while (!ends[token]) {
            for (size_t i = 0; i < token_count; i++)
                logits[i] = (float)random_normal(&random);
            assert_ok(sampler_sample(sampler, logits, &token, &test_error));
            if (!ends[token])
                buffer_append(&text, pieces[token].bytes, pieces[token].size);
        }
        buffer_append_char(&text, 0);
        assert_int_equal(match(grammar, text.data), COMPLETE);
        assert_int_equal(strlen(text.data), 8);
        buffer_free(&text);
        grammar_matcher_free(m);
    }
    sampler_destroy(sampler);
    grammar_free(grammar);
    grammar_vocabulary_free(vocabulary);
}

static void test_a_models_tokens_write_json(void **state)
{
    (void)state;
    static const char *const models[] = {"oracle/models/llama.gguf", "oracle/models/qwen2.gguf"};
    struct grammar *grammar;
    assert_ok(grammar_json(&grammar, &test_error));
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        struct gguf *file;
        struct vocabulary *model_vocabulary;
        struct grammar_vocabulary *vocabulary;
        struct sampler_options options;
        assert_ok(gguf_open(&file, test_data(models[i]), &test_error));
        assert_ok(vocabulary_open(&model_vocabulary, file, &test_error));
        assert_ok(grammar_vocabulary_read(&vocabulary, model_vocabulary, &test_error));
        size_t count = vocabulary_size(model_vocabulary);
        const struct token_piece *texts = grammar_vocabulary_pieces(vocabulary);
        float *logits = calloc(count, sizeof *logits);
        sampler_default_options(&options);
        options.top_k = 0;
        options.top_p = 1;
        options.min_p = 0;
        for (int round = 0; round < 10; round++) {
            struct sampler *sampler;
            struct grammar_matcher *m;
            struct random random;
            struct buffer text = {0};
            options.seed = (uint64_t)round;
            random_seed(&random, options.seed);
            assert_ok(sampler_create(&sampler, &options, count, &test_error));
            assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
            struct token_constraint constraint = grammar_matcher_constraint(m);
            sampler_set_constraint(sampler, &constraint);
            for (int length = 0; length < 3000; length++) {
                int32_t token;
                for (size_t k = 0; k < count; k++) {
                    logits[k] = (float)random_normal(&random);
                    if (texts[k].size == 1 && strchr("}]\"", texts[k].bytes[0]))
                        logits[k] += (float)length / 10;
                }
                assert_ok(sampler_sample(sampler, logits, &token, &test_error));
                if (vocabulary_is_end_of_generation(model_vocabulary, token))
                    break;
                assert_true(texts[token].size > 0);
                buffer_append(&text, texts[token].bytes, texts[token].size);
            }
            buffer_append_char(&text, 0);
            if (grammar_matcher_is_complete(m)) {
                json_error_t error;
                json_t *value = json_loads(text.data, JSON_ALLOW_NUL, &error);
                if (!json_is_object(value))
                    fail_msg("not a JSON object: %s (%s)", text.data, error.text);
                json_decref(value);
            } else {
                assert_int_equal(match(grammar, text.data), BEGUN);
            }
            buffer_free(&text);
            grammar_matcher_free(m);
            sampler_destroy(sampler);
        }
        free(logits);
        grammar_vocabulary_free(vocabulary);
        vocabulary_close(model_vocabulary);
        gguf_close(file);
    }
    grammar_free(grammar);
}

static void test_nesting_is_followed_to_any_depth(void **state)
{
    (void)state;
    struct grammar *grammar;
    struct grammar_vocabulary *vocabulary = no_tokens();
    struct grammar_matcher *m;
    assert_ok(grammar_json(&grammar, &test_error));
    assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
    assert_ok(grammar_matcher_accept_bytes(m, "{\"a\":", 5, &test_error));
    for (int i = 0; i < 1000; i++)
        assert_ok(grammar_matcher_accept_bytes(m, "[", 1, &test_error));
    for (int i = 0; i < 1000; i++)
        assert_ok(grammar_matcher_accept_bytes(m, "]", 1, &test_error));
    assert_int_equal(grammar_matcher_accept_bytes(m, "]", 1, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_ok(grammar_matcher_accept_bytes(m, "}", 1, &test_error));
    assert_true(grammar_matcher_is_complete(m));
    /* A million brackets give an error instead of a crash. */
    grammar_matcher_reset(m);
    assert_ok(grammar_matcher_accept_bytes(m, "{\"a\":", 5, &test_error));
    hypura_status status = HYPURA_OK;
    for (int i = 0; i < 1000000 && status == HYPURA_OK; i++)
        status = grammar_matcher_accept_bytes(m, "[", 1, &test_error);
    assert_int_equal(status, HYPURA_ERROR_FORMAT);
    assert_non_null(strstr(test_error.message, "levels deep"));
    grammar_matcher_free(m);
    grammar_vocabulary_free(vocabulary);
    grammar_free(grammar);
}

static void test_ambiguity_is_bounded(void **state)
{
    (void)state;
    /* Each "a" may belong to either of two rules, so the number of possible stacks doubles with each. */
    struct grammar *grammar = parse("root ::= x | y\nx ::= \"a\" root \"b\"\ny ::= \"a\" root \"c\" | \"d\"");
    struct grammar_vocabulary *vocabulary = no_tokens();
    struct grammar_matcher *m;
    hypura_status status = HYPURA_OK;
    assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
    for (int i = 0; i < 100 && status == HYPURA_OK; i++)
        status = grammar_matcher_accept_bytes(m, "a", 1, &test_error);
    assert_int_equal(status, HYPURA_ERROR_FORMAT);
    assert_non_null(strstr(test_error.message, "ambiguous"));
    grammar_matcher_free(m);
    grammar_vocabulary_free(vocabulary);
    grammar_free(grammar);
}

/* When tables overflow, they are cleared. This does not change what is accepted. */
static void test_long_texts_are_followed(void **state)
{
    (void)state;
    struct grammar *grammar = parse("root ::= [a-z]{60000} \"!\"");
    struct grammar_vocabulary *vocabulary = no_tokens();
    struct grammar_matcher *m;
    assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
    for (int i = 0; i < 60000; i++)
        assert_ok(grammar_matcher_accept_bytes(m, "q", 1, &test_error));
    assert_int_equal(grammar_matcher_accept_bytes(m, "q", 1, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_ok(grammar_matcher_accept_bytes(m, "!", 1, &test_error));
    assert_true(grammar_matcher_is_complete(m));
    grammar_matcher_free(m);
    grammar_vocabulary_free(vocabulary);
    grammar_free(grammar);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gbnf),
        cmocka_unit_test(test_only_utf8_comes_out),
        cmocka_unit_test(test_classes_are_exact),
        cmocka_unit_test(test_errors_say_what_and_where),
        cmocka_unit_test(test_json_mode_writes_json_objects),
        cmocka_unit_test(test_a_sampler_obeys_a_grammar),
        cmocka_unit_test(test_a_models_tokens_write_json),
        cmocka_unit_test(test_nesting_is_followed_to_any_depth),
        cmocka_unit_test(test_ambiguity_is_bounded),
        cmocka_unit_test(test_long_texts_are_followed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
