/* Grammars: what they accept and refuse, byte by byte and token by token; JSON schemas; and that hostile input of every
 * kind ends in a sentence. */
#include "test.h"

#include "engine/grammar.h"
#include "model/vocabulary.h"

#include <math.h>
#include <string.h>

/* ---- bytes --------------------------------------------------------------------------------------------------------
 */

static struct grammar *parse(const char *text)
{
    struct grammar *grammar;
    assert_ok(grammar_parse(&grammar, text, strlen(text), &test_error));
    return grammar;
}

static struct grammar_vocabulary *no_tokens(void)
{
    static const struct token_piece piece = {"", 0};
    static const bool end = true;
    struct grammar_vocabulary *vocabulary;
    assert_ok(grammar_vocabulary_create(&vocabulary, &piece, &end, 1, &test_error));
    return vocabulary;
}

enum { REFUSED, BEGUN, COMPLETE };

/* How far a text fits, fed byte by byte. */
static int match(const struct grammar *grammar, const char *text)
{
    struct grammar_vocabulary *vocabulary = no_tokens();
    struct grammar_matcher *m;
    int result = BEGUN;
    assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
    for (size_t i = 0; text[i] && result == BEGUN; i++)
        if (grammar_matcher_accept_bytes(m, text + i, 1, &test_error) != HYPURA_OK)
            result = REFUSED;
    if (result == BEGUN && grammar_matcher_is_complete(m))
        result = COMPLETE;
    grammar_matcher_free(m);
    grammar_vocabulary_free(vocabulary);
    return result;
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
    /* Equal beginnings, different ends. */
    expect("root ::= a | b\na ::= \"x\" a \"1\" | \"y\"\nb ::= \"x\" b \"2\" | \"y\"", "xxy22", COMPLETE);
    expect("root ::= a | b\na ::= \"x\" a \"1\" | \"y\"\nb ::= \"x\" b \"2\" | \"y\"", "xxy21", REFUSED);
    /* Loops over what can be nothing. */
    expect("root ::= ((\"a\"?)*)* \"b\"", "aab", COMPLETE);
    /* A way that cannot end is no way. */
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

/* Every character is in a class exactly when the class says so. */
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
            fail_msg("U+%04X is %s", (unsigned)c, in ? "refused" : "accepted");
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
    expect_error("root ::= \"\\q\"", "an escape that is known");
    expect_error("root ::= [z-a]", "a range that goes upwards");
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

/* ---- tokens -------------------------------------------------------------------------------------------------------
 */

enum { MOST_TOKENS = 3000 };

static struct token_piece pieces[MOST_TOKENS];
static char piece_bytes[MOST_TOKENS][8];
static bool ends[MOST_TOKENS];
static size_t token_count;

static void add_token(const char *bytes, size_t size, bool end)
{
    memcpy(piece_bytes[token_count], bytes, size);
    pieces[token_count] = (struct token_piece){piece_bytes[token_count], size};
    ends[token_count++] = end;
}

/* All bytes, many short strings of what JSON is made of, parts of characters, a control token, two ends. */
static struct grammar_vocabulary *some_tokens(void)
{
    static const char letters[] = "{}[]\":,.-+0123456789aetrufalsn \n\\x";
    struct random random;
    random_seed(&random, 5);
    token_count = 0;
    add_token("", 0, false);
    add_token("</s>", 4, true);
    for (int i = 0; i < 256; i++)
        add_token((char[]){(char)i}, 1, false);
    while (token_count < MOST_TOKENS - 1) {
        char bytes[8];
        size_t size = 2 + random_next(&random) % 4;
        for (size_t i = 0; i < size; i++)
            bytes[i] = letters[random_next(&random) % (sizeof letters - 1)];
        if (random_next(&random) % 16 == 0)
            memcpy(bytes, random_next(&random) % 2 ? "\x98\x80" : "\xf0\x9f", 2);
        add_token(bytes, size, false);
    }
    add_token("<|end|>", 7, true);
    struct grammar_vocabulary *vocabulary;
    assert_ok(grammar_vocabulary_create(&vocabulary, pieces, ends, token_count, &test_error));
    return vocabulary;
}

/* Writes a random text of a grammar, token by token, and gives it, or NULL when it found no end. The mask is held
 * against asking for each token. */
static char *random_text(const struct grammar *grammar, const struct grammar_vocabulary *vocabulary,
                         struct random *random, struct buffer *text)
{
    struct grammar_matcher *m;
    uint32_t mask[(MOST_TOKENS + 31) / 32];
    assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
    buffer_clear(text);
    for (int length = 0;; length++) {
        memset(mask, 0, sizeof mask);
        assert_ok(grammar_matcher_mask(m, mask, &test_error));
        if (length < 3)
            for (size_t i = 0; i < token_count; i++)
                assert_int_equal(mask[i / 32] >> (i % 32) & 1, grammar_matcher_allows(m, (int32_t)i));
        bool complete = grammar_matcher_is_complete(m), more = false;
        assert_int_equal(mask[0] >> 1 & 1, complete);
        assert_false(mask[0] & 1);
        for (size_t i = 2; i < token_count; i++)
            more |= (mask[i / 32] >> (i % 32) & 1) && !ends[i];
        if (!more && !complete)
            fail_msg("nothing can follow \"%.*s\"", (int)text->size, text->data);
        if (complete && (!more || length > 60 || random_next(random) % 4 == 0)) {
            assert_ok(grammar_matcher_accept(m, 1, &test_error));
            break;
        }
        /* Long texts are led to their end by what closes. */
        int32_t token = 2 + (unsigned char)"}]\""[random_next(random) % 3];
        while ((length < 40 || random_next(random) % 8 == 0) || ends[token] ||
               !(mask[token / 32] >> (token % 32) & 1)) {
            token = (int32_t)(random_next(random) % token_count);
            if (!ends[token] && (mask[token / 32] >> (token % 32) & 1))
                break;
        }
        assert_ok(grammar_matcher_accept(m, token, &test_error));
        buffer_append(text, pieces[token].bytes, pieces[token].size);
        if (length > 1000) {
            grammar_matcher_free(m);
            return NULL;
        }
    }
    grammar_matcher_free(m);
    buffer_append_char(text, 0);
    return text->data;
}

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

static void test_nesting_is_followed_as_deep_as_it_goes(void **state)
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
    /* A million brackets are an error, not a crash. */
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
    /* Each "a" may be in either of two places on the stack: the places double with each. */
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

/* Tables that overflow are begun again without a change in what is accepted. */
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

/* ---- schemas ------------------------------------------------------------------------------------------------------
 */

/* Texts that begin with "+" fit the schema, those with "-" do not. */
static const char *const schemas[][16] = {
    {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"integer\"}},\"required\":["
     "\"a\"]}",
     "+{\"a\":\"x\"}", "+{\"a\":\"x\",\"b\":-12}", "+{ \"a\" : \"\" , \"b\": 0 }", "-{\"b\":1}", "-{}",
     "-{\"a\":\"x\",\"c\":1}", "-{\"a\":1}", "-{\"a\":\"x\",\"b\":1.5}", "-{\"a\":\"x\",\"b\":01}", "-[]"},
    {"{\"properties\":{\"a\":{},\"b\":{},\"c\":{}}}", "+{}", "+{\"b\":1}", "+{\"a\":[],\"c\":{\"x\":null}}",
     "+{\"a\":1,\"b\":2,\"c\":3}", "-{\"a\":1 \"b\":2}", "-{,}", "-{\"c\":1,\"a\":1}", "-{\"a\":1,}"},
    {"{\"properties\":{\"ab\":{\"type\":\"null\"},\"ac\":{\"type\":\"null\"}},\"additionalProperties\":{\"type\":"
     "\"integer\"}}",
     "+{\"ab\":null,\"x\":1}", "+{\"a\":1,\"abc\":2,\"\":3}", "+{\"é\":1}", "-{\"ab\":1}", "-{\"ac\":1}",
     "-{\"x\":null}", "-{\"\\u0061b\":1}", "+{\"ad\":5}"},
    {"{\"enum\":[1,\"a\\\"b\",null,true,{\"x\":[1,2]},0.1,\"é\"]}", "+1", "+\"a\\\"b\"", "+null", "+true",
     "+{\"x\":[1,2]}", "+0.1", "+\"é\"", "-2", "-false", "-\"a\"", "-{}"},
    {"{\"const\":\"x\"}", "+\"x\"", "-\"y\"", "-x"},
    {"{\"type\":[\"string\",\"null\"]}", "+\"\"", "+null", "-1"},
    {"{\"type\":\"string\",\"nullable\":true}", "+\"a\"", "+null", "-true"},
    {"{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":1,\"maxItems\":3}", "+[true]",
     "+[true,false , true]", "-[]", "-[true,true,true,true]", "-[1]", "-[true,]"},
    {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", "+[]", "+[1]", "+[1, 2,3,4,5,6]", "-[,1]"},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"},{\"type\":\"string\"}]}", "+[1,\"a\"]", "-[1]",
     "-[1,\"a\",2]"},
    {"{\"type\":\"array\",\"prefixItems\":[{\"type\":\"integer\"}],\"items\":{\"type\":\"null\"},\"maxItems\":3}",
     "+[1]", "+[1,null,null]", "-[1,null,null,null]", "-[null]"},
    {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "-\"a\"", "+\"ab\"", "+\"é😀\\n\"", "-\"abcd\"",
     "+\"\\ud83d\\ude00x\"", "-\"\\ud83d\""},
    {"{\"type\":\"string\",\"pattern\":\"^[a-c]+\\\\d{2,3}(x|yz)?$\"}", "+\"abc12\"", "+\"a123yz\"", "-\"a1\"",
     "-\"12\"", "-\"a12yzz\""},
    {"{\"type\":\"string\",\"pattern\":\"a.c\"}", "+\"xxabcxx\"", "+\"a\\\"c\"", "+\"a\\\\c\"", "-\"ac\"",
     "-\"a\\nc\""},
    {"{\"type\":\"string\",\"pattern\":\"^\\\\$\\\\w+\\\\s\\\\S$\"}", "+\"$a_1 x\"", "+\"$a\\tx\"", "-\"a x\"",
     "-\"$a  \""},
    {"{\"type\":\"string\",\"pattern\":\"^[^\\\"\\\\\\\\]*$\"}", "+\"abc\"", "-\"a\\\"\"", "-\"a\\\\\"", "+\"é\\n\""},
    {"{\"type\":\"string\",\"pattern\":\"^(?:foo|ba(?:r|z))$\"}", "+\"foo\"", "+\"baz\"", "-\"ba\"", "-\"food\""},
    {"{\"type\":\"integer\",\"minimum\":-5,\"maximum\":123}", "+-5", "+-1", "+0", "+9", "+10", "+99", "+100", "+123",
     "--6", "-124", "-1000", "-07", "--0"},
    {"{\"type\":\"integer\",\"minimum\":98,\"exclusiveMaximum\":1005}", "+98", "+99", "+100", "+999", "+1000", "+1004",
     "-97", "-1005", "-0", "-5000"},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":17}", "+18", "+20", "+99", "+123456", "-17", "-1", "-0", "--20"},
    {"{\"type\":\"integer\",\"maximum\":-3}", "+-3", "+-10", "+-99999", "--2", "-0", "-3"},
    {"{\"type\":\"number\",\"minimum\":0,\"maximum\":1}", "+0", "+1", "+0.5", "+0.999", "-1.5", "--0.5", "-2", "-1e5"},
    {"{\"type\":\"number\",\"minimum\":-2}", "+-2", "+-1.99", "+-0.5", "+100.25", "--2.5", "--3"},
    {"{\"type\":\"number\"}", "+0", "+-1.5e-7", "+1E+22", "-1.", "-.5", "-+1", "-1e"},
    {"{\"anyOf\":[{\"type\":\"integer\"},{\"type\":\"object\",\"properties\":{\"a\":{\"const\":1}},\"required\":[\"a\"]"
     "}]}",
     "+5", "+{\"a\":1}", "-{}", "-\"x\""},
    {"{\"type\":\"object\",\"properties\":{\"k\":{\"type\":\"integer\"}},\"required\":[\"k\"],\"oneOf\":[{"
     "\"properties\":{\"x\":{\"const\":1}},\"required\":[\"x\"]},"
     "{\"properties\":{\"y\":{\"const\":2}},\"required\":[\"y\"]}]}",
     "+{\"k\":7,\"x\":1}", "+{\"k\":7,\"y\":2}", "-{\"k\":7}", "-{\"k\":7,\"x\":1,\"y\":2}"},
    {"{\"allOf\":[{\"$ref\":\"#/$defs/a\"},{\"properties\":{\"b\":{\"type\":\"null\"}},\"required\":[\"b\"]}],"
     "\"$defs\":{\"a\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"}},\"required\":[\"a\"]}}}",
     "-{\"b\":null,\"a\":null}", "+{\"a\":null,\"b\":null}", "-{\"a\":null}"},
    {"{\"$ref\":\"#/definitions/"
     "tree\",\"definitions\":{\"tree\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},\"l\":{\"$"
     "ref\":\"#/definitions/tree\"},"
     "\"c\":{\"type\":\"array\",\"items\":{\"$ref\":\"#\"}}},\"required\":[\"v\"]}}}",
     "+{\"v\":1,\"l\":{\"v\":2,\"c\":[{\"v\":3}]}}", "-{\"v\":1,\"l\":{}}"},
    {"{\"type\":\"string\",\"format\":\"date-time\"}", "+\"2024-02-28T23:59:59Z\"", "+\"1999-12-31T00:00:00.5+02:00\"",
     "-\"2024-13-01T00:00:00Z\"", "-\"2024-01-32T00:00:00Z\"", "-\"2024-01-01\""},
    {"{\"type\":\"string\",\"format\":\"uuid\"}", "+\"123e4567-e89b-12d3-a456-426614174000\"", "-\"123e4567\""},
    {"{\"format\":\"ipv4\"}", "+\"192.168.0.255\"", "-\"192.168.0.256\"", "-\"1.2.3\"", "-\"01.2.3.4\""},
    {"{\"type\":\"string\",\"format\":\"unheard-of\"}", "+\"anything\"", "-1"},
    {"true", "+{\"a\":[1,{}]}", "+\"x\"", "-x"},
    {"{\"description\":\"any\"}", "+[]", "+1.5"},
    {"{\"type\":\"object\"}", "+{}", "+{\"a\":{\"b\":[]}}", "-[]"},
    {"{\"type\":\"object\",\"additionalProperties\":false}", "+{}", "-{\"a\":1}"},
    {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}", "+{\"a\":1,\"b\":2}", "-{\"a\":\"x\"}"},
    {"{\"type\":\"object\",\"required\":[\"z\"],\"additionalProperties\":true}", "+{\"z\":1}", "+{\"z\":1,\"y\":2}",
     "-{}", "-{\"y\":2}"},
};

static void test_schemas(void **state)
{
    (void)state;
    struct grammar_vocabulary *vocabulary = some_tokens();
    struct random random;
    struct buffer text = {0};
    size_t ended = 0;
    random_seed(&random, 9);
    for (size_t i = 0; i < COUNT_OF(schemas); i++) {
        json_error_t error;
        json_t *schema = json_loads(schemas[i][0], JSON_DECODE_ANY, &error);
        struct grammar *grammar;
        if (!schema)
            fail_msg("%s: %s", schemas[i][0], error.text);
        assert_ok(grammar_from_schema(&grammar, schema, &test_error));
        for (size_t k = 1; k < 16 && schemas[i][k]; k++) {
            bool fits = match(grammar, schemas[i][k] + 1) == COMPLETE;
            if (fits != (schemas[i][k][0] == '+'))
                fail_msg("%s %s %s", schemas[i][0], fits ? "accepts" : "refuses", schemas[i][k] + 1);
        }
        /* And what comes out is JSON. */
        for (int k = 0; k < 3; k++) {
            const char *output = random_text(grammar, vocabulary, &random, &text);
            json_t *value = output ? json_loads(output, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error) : json_null();
            ended += output != NULL;
            if (!value)
                fail_msg("%s: not JSON: %s (%s)", schemas[i][0], output, error.text);
            json_decref(value);
        }
        grammar_free(grammar);
        json_decref(schema);
    }
    assert_true(ended > 2 * COUNT_OF(schemas));
    buffer_free(&text);
    grammar_vocabulary_free(vocabulary);
}

/* All integers of some ranges, one by one. */
static void test_integer_ranges_are_exact(void **state)
{
    (void)state;
    struct random random;
    random_seed(&random, 11);
    for (int round = 0; round < 40; round++) {
        int low = (int)(random_next(&random) % 2500) - 1200, high = low + (int)(random_next(&random) % 1300);
        json_t *schema = json_pack("{s:s,s:i,s:i}", "type", "integer", "minimum", low, "maximum", high);
        struct grammar *grammar;
        struct grammar_vocabulary *vocabulary = no_tokens();
        struct grammar_matcher *m;
        assert_ok(grammar_from_schema(&grammar, schema, &test_error));
        assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
        for (int i = -2600; i <= 2600; i++) {
            char text[16];
            snprintf(text, sizeof text, "%d", i);
            grammar_matcher_reset(m);
            bool in = grammar_matcher_accept_bytes(m, text, strlen(text), NULL) == HYPURA_OK &&
                      grammar_matcher_is_complete(m);
            if (in != (i >= low && i <= high))
                fail_msg("%d is %s %d to %d", i, in ? "in" : "not in", low, high);
        }
        grammar_matcher_free(m);
        grammar_vocabulary_free(vocabulary);
        grammar_free(grammar);
        json_decref(schema);
    }
}

static void expect_schema_error(const char *text, const char *message)
{
    json_t *schema = json_loads(text, JSON_DECODE_ANY, NULL);
    struct grammar *grammar;
    assert_non_null(schema);
    if (grammar_from_schema(&grammar, schema, &test_error) == HYPURA_OK)
        fail_msg("%s was not refused", text);
    if (!strstr(test_error.message, message))
        fail_msg("%s: expected \"%s\" in \"%s\"", text, message, test_error.message);
    json_decref(schema);
}

static void test_schemas_that_cannot_be_followed_are_refused_by_name(void **state)
{
    (void)state;
    expect_schema_error("{\"not\":{}}", "keyword \"not\"");
    expect_schema_error("{\"properties\":{\"a\":{\"patternProperties\":{}}}}", "keyword \"patternProperties\"");
    expect_schema_error("{\"type\":\"strange\"}", "\"strange\"");
    expect_schema_error("{\"$ref\":\"http://example.com\"}", "http://example.com");
    expect_schema_error("{\"$ref\":\"#/nowhere\"}", "#/nowhere");
    expect_schema_error("{\"type\":\"string\",\"pattern\":\"(?=x)\"}", "look-around");
    expect_schema_error("{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", "reference");
    expect_schema_error("{\"type\":\"string\",\"pattern\":\"(a\"}", "not closed");
    expect_schema_error("{\"type\":\"string\",\"minLength\":5,\"maxLength\":2}", "minLength");
    expect_schema_error("{\"type\":\"integer\",\"minimum\":5,\"maximum\":2}", "minimum and maximum");
    expect_schema_error("{\"required\":[\"a\"],\"additionalProperties\":false}", "requires \"a\"");
    expect_schema_error("{\"$ref\":\"#\"}", "left-recursive");
    expect_schema_error("{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":1}", "no text can match");
    expect_schema_error("{\"allOf\":[{\"$ref\":\"#\"}]}", "nested");
    expect_schema_error("5", "must be an object");
}

/* Broken grammars and schemas: refused or compiled, and then followed for a while. */
static void test_broken_grammars_do_no_harm(void **state)
{
    (void)state;
    static const char marks[] = "\"[]()|*+?{},.-^\\:=#\n ax01";
    struct buffer source = {0};
    struct random random;
    struct grammar_vocabulary *vocabulary = some_tokens();
    random_seed(&random, 13);
    for (size_t i = 0; i < COUNT_OF(schemas); i++) {
        json_t *schema = json_loads(schemas[i][0], JSON_DECODE_ANY, NULL);
        buffer_clear(&source);
        assert_ok(grammar_schema_text(&source, schema, &test_error));
        json_decref(schema);
        for (int round = 0; round < 15; round++) {
            char *changed = malloc(source.size);
            struct grammar *grammar;
            struct grammar_matcher *m;
            memcpy(changed, source.data, source.size);
            for (size_t k = 0; k < 1 + random_next(&random) % 3; k++)
                changed[random_next(&random) % source.size] = marks[random_next(&random) % (sizeof marks - 1)];
            hypura_status status = grammar_parse(&grammar, changed, source.size, &test_error);
            if (status == HYPURA_OK) {
                if (grammar_matcher_create(&m, grammar, vocabulary, &test_error) == HYPURA_OK) {
                    uint32_t mask[(MOST_TOKENS + 31) / 32] = {0};
                    grammar_matcher_mask(m, mask, &test_error);
                    for (int32_t token = 2; token < 258; token++)
                        if (grammar_matcher_allows(m, token))
                            grammar_matcher_accept(m, token, &test_error);
                    grammar_matcher_free(m);
                }
                grammar_free(grammar);
            } else {
                assert_true(test_error.message[0]);
            }
            free(changed);
            /* The same for the schema's own text. */
            char *text = strdup(schemas[i][0]);
            text[random_next(&random) % strlen(text)] = marks[random_next(&random) % (sizeof marks - 1)];
            json_t *broken = json_loads(text, JSON_DECODE_ANY, NULL);
            if (broken && grammar_from_schema(&grammar, broken, &test_error) == HYPURA_OK)
                grammar_free(grammar);
            json_decref(broken);
            free(text);
        }
    }
    buffer_free(&source);
    grammar_vocabulary_free(vocabulary);
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
        cmocka_unit_test(test_nesting_is_followed_as_deep_as_it_goes),
        cmocka_unit_test(test_ambiguity_is_bounded),
        cmocka_unit_test(test_long_texts_are_followed),
        cmocka_unit_test(test_schemas),
        cmocka_unit_test(test_integer_ranges_are_exact),
        cmocka_unit_test(test_schemas_that_cannot_be_followed_are_refused_by_name),
        cmocka_unit_test(test_broken_grammars_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
