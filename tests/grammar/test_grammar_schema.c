/* JSON schemas as grammars: what they accept and refuse. Hostile schemas and grammars give an error message. */
#include "grammar_text.h"

/* Texts marked with "+" fit the schema, those marked with "-" do not. */
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
    {"{\"type\":\"integer\",\"minimum\":-9007199254740991,\"maximum\":9007199254740991}", "+0", "+9007199254740991",
     "+-9007199254740991", "-9007199254740992", "--9007199254740992", "+8999999999999999"},
    {"{\"type\":\"integer\",\"exclusiveMinimum\":0,\"maximum\":9007199254740991}", "-0", "+1", "+9007199254740991"},
    {"{\"type\":\"number\",\"minimum\":-1.7e308,\"maximum\":1.7e308}", "+-9999999999999999", "+0.5"},
    {"{\"type\":\"integer\",\"minimum\":1,\"maximum\":9223372036854775807}", "+9999999999999999", "+1", "-0"},
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
    {"{\"oneOf\":[{\"type\":\"integer\"},{\"minimum\":2}]}", "+1", "+2.5", "-3"},
    {"{\"type\":\"object\",\"properties\":{\"a\":{},\"b\":{}},\"oneOf\":[{\"required\":[\"a\"]},{\"required\":[\"b\"]}]"
     "}",
     "+{\"a\":1}", "+{\"b\":1}", "-{}", "-{\"a\":1,\"b\":1}"},
    {"{\"type\":\"number\",\"multipleOf\":0.25,\"minimum\":0,\"exclusiveMaximum\":10}", "+0", "+9.75", "+1.50", "-9.8",
     "-10", "--1"},
    {"{\"type\":\"integer\",\"multipleOf\":7}", "+0", "+49", "+-700", "-50"},
    {"{\"type\":\"number\",\"minimum\":0.1,\"maximum\":0.95}", "+0.1", "+0.5", "+0.95", "-0.09", "-0.96", "-1"},
    {"{\"patternProperties\":{\"^x-\":{\"type\":\"integer\"}},\"properties\":{\"x-a\":{\"minimum\":5},\"b\":{}}}",
     "+{\"x-a\":5,\"b\":null,\"x-c\":1}", "-{\"x-a\":1}", "-{\"x-c\":null}", "-{\"c\":1}"},
    {"{\"type\":\"object\",\"propertyNames\":{\"pattern\":\"^[a-z]+$\",\"maxLength\":3},\"additionalProperties\":{"
     "\"type\":"
     "\"null\"}}",
     "+{\"abc\":null,\"z\":null}", "-{\"abcd\":null}", "-{\"A\":null}", "-{\"a\":1}"},
    {"{\"type\":\"object\",\"propertyNames\":{\"enum\":[\"b\",\"a\"]},\"additionalProperties\":{\"type\":\"null\"}}",
     "+{\"b\":null,\"a\":null}", "+{}", "-{\"c\":null}"},
    {"{\"type\":\"object\",\"minProperties\":2,\"maxProperties\":3}", "+{\"a\":1,\"b\":2}", "-{\"a\":1}",
     "-{\"a\":1,\"a\":2}", "-{\"a\":1,\"b\":2,\"c\":3,\"d\":4}"},
    {"{\"properties\":{\"a\":{},\"b\":{},\"c\":{}},\"maxProperties\":1}", "+{}", "+{\"b\":1}", "-{\"a\":1,\"c\":1}"},
    {"{\"items\":{\"type\":\"string\"},\"uniqueItems\":true}", "+[]", "+[\"a\", \"ab\",\"b\"]", "-[\"a\" , \"a\"]",
     "-[\"a\",\"b\",\"a\"]"},
    {"{\"items\":{\"enum\":[\"a\",\"b\",\"c\"]},\"uniqueItems\":true}", "+[\"c\",\"a\",\"b\"]", "-[\"a\",\"a\"]",
     "-[\"a\",\"b\",\"c\",\"a\"]"},
    {"{\"items\":{\"properties\":{\"x\":{\"type\":\"integer\"}},\"required\":[\"x\"]},\"uniqueItems\":true}",
     "+[{\"x\":1},{\"x\":11}]", "-[{\"x\":1}, { \"x\" : 1 }]"},
    {"{\"contains\":{\"type\":\"null\"},\"minContains\":2,\"maxContains\":3,\"items\":{\"type\":[\"null\",\"boolean\"]}"
     "}",
     "+[null,true,null]", "-[null,true]", "-[null,null,null,null]", "-[null,1,null]"},
    {"{\"type\":\"object\",\"properties\":{\"kind\":{\"type\":\"string\"},\"n\":{}},\"required\":[\"kind\"],\"if\":{"
     "\"properties\":{\"kind\":{\"const\":\"x\"}}},\"then\":{\"required\":[\"n\"]},\"else\":{\"properties\":{\"n\":"
     "false}}}",
     "+{\"kind\":\"x\",\"n\":1}", "+{\"kind\":\"y\"}", "-{\"kind\":\"x\"}", "-{\"kind\":\"y\",\"n\":1}"},
    {"{\"properties\":{\"a\":{},\"b\":{}},\"dependentRequired\":{\"a\":[\"b\"]}}", "+{}", "+{\"b\":1}",
     "+{\"a\":1,\"b\":1}", "-{\"a\":1}"},
    {"{\"type\":\"string\",\"not\":{\"enum\":[\"a\",\"\"]}}", "+\"b\"", "+\"aa\"", "-\"a\"", "-\"\\u0061\"", "-\"\""},
    {"{\"type\":\"string\",\"pattern\":\"^[a-z]+$\",\"minLength\":2,\"maxLength\":4}", "+\"abc\"", "-\"a\"",
     "-\"abcde\"", "-\"A1\""},
    {"{\"$ref\":\"#here\",\"$defs\":{\"x\":{\"$anchor\":\"here\",\"type\":\"null\"}}}", "+null", "-1"},
    {"{\"allOf\":[{\"properties\":{\"a\":{}}}],\"properties\":{\"b\":{}},\"unevaluatedProperties\":false,\"required\":["
     "\"a\"]}",
     "+{\"b\":1,\"a\":2}", "-{\"a\":1,\"c\":1}"},
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
                fail_msg("%s wrongly %s %s", schemas[i][0], fits ? "accepts" : "refuses", schemas[i][k] + 1);
        }
        /* Random texts of the grammar are JSON. */
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

/* Tests all integers in and around some ranges. */
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
                fail_msg("%d is %s %d to %d, but the grammar disagrees", i, in ? "in" : "not in", low, high);
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

static void test_unsupported_schemas_are_refused_by_name(void **state)
{
    (void)state;
    expect_schema_error("{\"not\":{}}", "no value");
    expect_schema_error("{\"properties\":{\"a\":{\"unheardOf\":{}}}}", "keyword \"unheardOf\"");
    expect_schema_error("{\"not\":{\"uniqueItems\":true}}", "\"uniqueItems\"");
    expect_schema_error("{\"type\":\"strange\"}", "\"strange\"");
    expect_schema_error("{\"$ref\":\"http://example.com\"}", "http://example.com");
    expect_schema_error("{\"$ref\":\"#/nowhere\"}", "#/nowhere");
    expect_schema_error("{\"type\":\"string\",\"pattern\":\"(?=x)\"}", "look-around");
    expect_schema_error("{\"type\":\"string\",\"pattern\":\"(a)\\\\1\"}", "reference");
    expect_schema_error("{\"type\":\"string\",\"pattern\":\"(a\"}", "unclosed");
    expect_schema_error("{\"type\":\"string\",\"minLength\":5,\"maxLength\":2}", "no value");
    expect_schema_error("{\"type\":\"integer\",\"minimum\":5,\"maximum\":2}", "no value");
    expect_schema_error("{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}", "no value");
    expect_schema_error("{\"type\":\"integer\",\"minimum\":1e300}", "no text");
    expect_schema_error("{\"$ref\":\"#\"}", "refers to itself");
    expect_schema_error("{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":1}", "no text");
    expect_schema_error("{\"allOf\":[{\"$ref\":\"#\"}]}", "nested");
    expect_schema_error("5", "must be an object");
}

/* Only keywords that a grammar cannot enforce are left out. */
static void test_schemas_are_relaxed_until_they_can_be_enforced(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"{\"type\":\"string\",\"pattern\":\"(?=x)\",\"maxLength\":3}", "{\"type\":\"string\",\"maxLength\":3}",
         "look-around"},
        {"{\"properties\":{\"a\":{\"unheardOf\":1,\"type\":\"null\"}}}", "{\"properties\":{\"a\":{\"type\":\"null\"}}}",
         "unheardOf"},
        {"{\"type\":\"array\",\"not\":{\"items\":{\"uniqueItems\":true}}}", "{\"type\":\"array\"}", "uniqueItems"},
        {"{\"$ref\":\"other.json\",\"minimum\":1}", "{\"minimum\":1}", "other.json"},
        {"{\"type\":\"strange\",\"minimum\":1}", "{\"minimum\":1}", "strange"},
        {"{\"type\":\"integer\",\"minimum\":2,\"maximum\":1}", "{\"type\":\"object\"}", "no value"},
        {"{\"propertyNames\":{\"type\":\"string\"}}", "{\"propertyNames\":{\"type\":\"string\"}}", NULL},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        json_t *schema = json_loads(cases[i][0], 0, NULL), *left = json_loads(cases[i][1], 0, NULL);
        struct buffer lines = {0};
        assert_non_null(schema);
        assert_ok(grammar_relax_schema(schema, &lines, &test_error));
        if (!json_equal(schema, left))
            fail_msg("%s: the relaxed schema is not the expected one", cases[i][0]);
        if (cases[i][2] ? !lines.data || !strstr(lines.data, cases[i][2]) : lines.size != 0)
            fail_msg("%s: unexpected report: %s", cases[i][0], lines.data ? lines.data : "(none)");
        buffer_free(&lines);
        json_decref(schema);
        json_decref(left);
    }
}

/* Damaged grammars and schemas are refused, or compiled and then followed for a while. */
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
            /* Damage the text of a schema in the same way. */
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
        cmocka_unit_test(test_schemas),
        cmocka_unit_test(test_integer_ranges_are_exact),
        cmocka_unit_test(test_unsupported_schemas_are_refused_by_name),
        cmocka_unit_test(test_schemas_are_relaxed_until_they_can_be_enforced),
        cmocka_unit_test(test_broken_grammars_do_no_harm),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
