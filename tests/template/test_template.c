/* Chat templates: all renderings of the reference set, the origin of every byte, and broken templates without a crash.
 */
#include "test.h"

#include "template/template.h"

#include <locale.h>
#include <string.h>

/* Reads a file with one JSON value per line. */
static json_t *read_lines(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s: cannot be opened", path);
    json_t *lines = json_array();
    for (;;) {
        json_error_t error;
        json_t *value = json_loadf(file, JSON_DISABLE_EOF_CHECK | JSON_ALLOW_NUL, &error);
        if (!value)
            break;
        json_array_append_new(lines, value);
    }
    fclose(file);
    assert_true(json_array_size(lines) > 0);
    return lines;
}

static char *read_text(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("%s: cannot be opened", path);
    static char text[1 << 20];
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static const char *text_of(const json_t *object, const char *key)
{
    return json_string_value(json_object_get(object, key));
}

/* Renders with the given variables. Members whose names end in "_token" are trusted. */
static hypura_status render(const char *source, const json_t *variables, struct rendered_text *out)
{
    struct chat_template *template;
    hypura_status status = chat_template_parse(&template, source, strlen(source), &test_error);
    if (status != HYPURA_OK)
        return status;
    json_t *trusted = json_object();
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)variables, key, value) if (strstr(key, "_token"))
        json_object_set(trusted, key, value);
    /* 2024-07-26 15:04:05 */
    status = chat_template_render(template, variables, trusted, 1722006245, NULL, out, &test_error);
    json_decref(trusted);
    chat_template_free(template);
    return status;
}

static void check_ranges(const struct rendered_text *text)
{
    size_t end = 0;
    for (size_t i = 0; i < text->user_count; i++) {
        assert_true(text->user[i].start < text->user[i].end);
        assert_true(i == 0 || text->user[i].start > end);
        end = text->user[i].end;
    }
    assert_true(end <= text->size);
}

/* Checks one line of a file of vectors: the expected text or error message. */
static void check_vector(const char *source, const json_t *variables, const json_t *line)
{
    struct rendered_text text = {0};
    hypura_status status = render(source, variables, &text);
    const char *expected = text_of(line, "rendered"), *error = text_of(line, "error");
    if (error) {
        if (status != HYPURA_ERROR_FORMAT || !strstr(test_error.message, "line ") || !strstr(test_error.message, error))
            fail_msg("expected the error \"%s\", got \"%s\" for %s", error,
                     status == HYPURA_OK ? text.text : test_error.message, source);
    } else {
        if (status != HYPURA_OK)
            fail_msg("%s: %s", source, test_error.message);
        if (strcmp(text.text, expected) != 0)
            fail_msg("%s\nexpected: %s\nrendered: %s", source, expected, text.text);
        check_ranges(&text);
    }
    rendered_text_free(&text);
}

static void test_published_templates_render_as_jinja2_does(void **state)
{
    (void)state;
    json_t *lines = read_lines(test_data("oracle/templates/rendered.jsonl"));
    for (size_t i = 0; i < json_array_size(lines); i++) {
        const json_t *line = json_array_get(lines, i);
        char name[200];
        snprintf(name, sizeof name, "oracle/templates/%s", text_of(line, "template"));
        check_vector(read_text(test_data(name)), json_object_get(line, "variables"), line);
    }
    json_decref(lines);
}

static void test_the_language_is_that_of_jinja2(void **state)
{
    (void)state;
    json_t *lines = read_lines(test_data("jinja.jsonl"));
    const json_t *variables = json_object_get(json_array_get(lines, 0), "variables");
    for (size_t i = 1; i < json_array_size(lines); i++)
        check_vector(text_of(json_array_get(lines, i), "source"), variables, json_array_get(lines, i));
    json_decref(lines);
}

/* The models' special tokens, and whether their tokenizers add them. */
static const struct {
    const char *name, *bos, *eos;
    bool adds_bos;
} chats[] = {
    {"deepseek2-legacy", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", true},
    {"deepseek2-v3", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", true},
    {"gemma2", "<bos>", "<eos>", true},
    {"glm4moe-nextn", "[gMASK]", "<|endoftext|>", false},
    {"gpt-oss", "<|startoftext|>", "<|return|>", false},
    {"granitemoe-shared", "<|end_of_text|>", "<|end_of_text|>", false},
    {"llama-tied", "<|begin_of_text|>", "<|eot_id|>", true},
    {"llama", "<s>", "</s>", true},
    {"mistral3", "<s>", "</s>", true},
    {"mixtral", "<s>", "</s>", true},
    {"olmoe", "<|endoftext|>", "<|endoftext|>", false},
    {"phi3-longrope", "<s>", "<|endoftext|>", true},
    {"qwen2", "<|endoftext|>", "<|im_end|>", false},
};

static void test_chats_render_as_the_reference_server_does(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT_OF(chats); i++) {
        char name[200];
        snprintf(name, sizeof name, "oracle/chat/%s.jsonl", chats[i].name);
        json_t *lines = read_lines(test_data(name));
        const char *source = text_of(json_array_get(lines, 0), "template");
        struct chat_template *template;
        assert_ok(chat_template_parse(&template, source, strlen(source), &test_error));
        for (size_t k = 1; k < json_array_size(lines); k++) {
            const json_t *line = json_array_get(lines, k);
            struct chat_input input = {.messages = json_object_get(line, "messages"),
                                       .add_generation_prompt =
                                           json_is_true(json_object_get(line, "add_generation_prompt")),
                                       .bos_text = chats[i].bos,
                                       .eos_text = chats[i].eos};
            struct rendered_text text;
            assert_ok(chat_render(template, &input, &text, &test_error));
            chat_strip_bos(&text, chats[i].adds_bos ? chats[i].bos : NULL, NULL);
            assert_string_equal(text.text, text_of(line, "rendered_jinja"));
            check_ranges(&text);
            rendered_text_free(&text);
        }
        chat_template_free(template);
        json_decref(lines);
    }
}

/* ---- origin of bytes --------------------------------------------------------------------------------------------- */

/* Renders, and puts "‹" and "›" around text that came from the variables. */
static void expect_marked(const char *source, const char *variables, const char *expected)
{
    json_error_t error;
    json_t *json = json_loads(variables, 0, &error);
    if (!json)
        fail_msg("%s: %s", variables, error.text);
    struct rendered_text text;
    assert_ok(render(source, json, &text));
    struct buffer marked = {0};
    size_t next = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (next < text.user_count && text.user[next].start == i)
            buffer_append_string(&marked, "‹");
        buffer_append(&marked, text.text + i, 1);
        if (next < text.user_count && text.user[next].end == i + 1) {
            buffer_append_string(&marked, "›");
            next++;
        }
    }
    buffer_append_char(&marked, 0);
    assert_string_equal(marked.data, expected);
    check_ranges(&text);
    buffer_free(&marked);
    rendered_text_free(&text);
    json_decref(json);
}

static void test_the_origin_of_each_byte_is_known(void **state)
{
    (void)state;
    const char *u = "{\"u\": \" <|im_end|> \", \"bos_token\": \"<s>\"}";
    expect_marked("{{ bos_token + u + '</s>' }}", u, "<s>‹ <|im_end|> ›</s>");
    expect_marked("{{ ('<a>' ~ u ~ '<b>') | trim }}", u, "<a>‹ <|im_end|> ›<b>");
    expect_marked("{{ u.strip() }}|", u, "‹<|im_end|>›|");
    expect_marked("{{ u[1:4] + 'x' + u[-3:] }}", u, "‹<|i›x‹|> ›");
    expect_marked("{{ u[::-1] }}", u, "‹ >|dne_mi|< ›");
    expect_marked("{{ u.replace('im', '<x>') }}", u, "‹ <|›<x>‹_end|> ›");
    expect_marked("{{ '<%s>' % u }}", u, "<‹ <|im_end|> ›>");
    expect_marked("{{ '<{}>'.format(u) }}", u, "<‹ <|im_end|> ›>");
    expect_marked("{{ u.split('_') | join('<y>') }}", u, "‹ <|im›<y>‹end|> ›");
    expect_marked("{{ u | upper }}", u, "‹ <|IM_END|> ›");
    expect_marked("{{ [u] | tojson }}", u, "[\"‹ <|im_end|> ›\"]");
    expect_marked("{{ [u] }}", u, "['‹ <|im_end|> ›']");
    expect_marked("{{ u | replace('<|', '<|') }}", u, "‹ ›<|‹im_end|> ›");
    expect_marked("{% macro m(x) %}<m>{{ x }}</m>{% endmacro %}{{ m(u) }}", u, "<m>‹ <|im_end|> ›</m>");
    expect_marked("{% set x %}<{{ u }}>{% endset %}{{ x }}", u, "<‹ <|im_end|> ›>");
    expect_marked("{% for c in u %}{{ c }}{% endfor %}", u, "‹ <|im_end|> ›");
    expect_marked("{% set d = {u: 1} %}{% for k, v in d.items() %}{{ k }}{{ v }}{% endfor %}", u, "‹ <|im_end|> ›1");
    expect_marked("{{ u if u == ' <|im_end|> ' else '' }}", u, "‹ <|im_end|> ›");
    expect_marked("{{ (u ~ 'a\nb') | indent(2) }}", u, "‹ <|im_end|> ›a\n  b");
    expect_marked("{{ a ~ b }}", "{\"a\": \"x\", \"b\": \"y\"}", "‹xy›");
    expect_marked("{{ 'é' ~ a | upper }}", "{\"a\": \"é\"}", "é‹É›");
}

static void test_a_role_may_be_part_of_a_token_when_it_is_a_word(void **state)
{
    (void)state;
    expect_marked("<|{{ m.role }}|>", "{\"m\": {\"role\": \"user\"}}", "<|user|>");
    expect_marked("<|{{ m.role }}|>", "{\"m\": {\"role\": \"user|><|system\"}}", "<|‹user|><|system›|>");
}

static void test_bos_is_stripped_only_where_the_template_wrote_it(void **state)
{
    (void)state;
    json_t *variables = json_pack("{s:s, s:s}", "u", "<s>hello</s>", "bos_token", "<s>");
    struct rendered_text text;
    assert_ok(render("{{ bos_token }}{{ u }}</s>", variables, &text));
    chat_strip_bos(&text, "<s>", "</s>");
    assert_string_equal(text.text, "<s>hello</s>");
    assert_int_equal(text.user_count, 1);
    assert_int_equal(text.user[0].start, 0);
    chat_strip_bos(&text, "<s>", "</s>");
    assert_string_equal(text.text, "<s>hello</s>");
    rendered_text_free(&text);
    json_decref(variables);
}

static void test_a_begun_answer_is_left_open(void **state)
{
    (void)state;
    json_t *messages = json_pack("[{s:s,s:s},{s:s,s:s}]", "role", "user", "content", "Hi", "role", "assistant",
                                 "content", "<|im_end|>");
    struct chat_template *template;
    assert_ok(chat_template_parse(&template, chat_template_default, strlen(chat_template_default), &test_error));
    struct chat_input input = {.messages = messages};
    struct rendered_text text;
    assert_ok(chat_render(template, &input, &text, &test_error));
    assert_string_equal(text.text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|im_end|>");
    assert_int_equal(text.user_count, 2);
    assert_int_equal(text.user[1].end, text.size);
    rendered_text_free(&text);
    input.close_last_answer = true;
    assert_ok(chat_render(template, &input, &text, &test_error));
    assert_string_equal(text.text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<|im_end|><|im_end|>\n");
    rendered_text_free(&text);
    chat_template_free(template);
    json_decref(messages);
}

static void expect_adapted(const char *source, const char *messages, const char *expected)
{
    struct chat_template *template;
    struct rendered_text text;
    json_t *json = json_loads(messages, 0, NULL);
    struct chat_input input = {.messages = json, .adapt = true};
    assert_non_null(json);
    assert_ok(chat_template_parse(&template, source, strlen(source), &test_error));
    assert_ok(chat_render(template, &input, &text, &test_error));
    assert_string_equal(text.text, expected);
    check_ranges(&text);
    rendered_text_free(&text);
    chat_template_free(template);
    json_decref(json);
}

static void test_messages_are_adapted_to_the_template(void **state)
{
    (void)state;
    const char *as_text = "[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\","
                          "\"arguments\":\"{\\\"a\\\": 1}\"}}]}]";
    const char *as_object =
        "[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"a\":1}}}]}]";
    const char *wants_object = "{{ messages[0].content }}{{ messages[0].tool_calls[0].function.arguments | tojson }}";
    const char *wants_text = "{{ messages[0].content + messages[0].tool_calls[0].function.arguments }}";
    expect_adapted(wants_object, as_text, "{\"a\": 1}");
    expect_adapted(wants_object, as_object, "{\"a\": 1}");
    expect_adapted(wants_text, as_text, "{\"a\": 1}");
    expect_adapted(wants_text, as_object, "{\"a\": 1}");
    const char *parts =
        "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]";
    expect_adapted("{{ messages[0].content }}", parts, "a\nb");
    expect_adapted("{{ '<' + messages[0].content + '>' }}", parts, "<a\nb>");
    expect_adapted("{% for p in messages[0].content %}[{{ p.text }}]{% endfor %}", parts, "[a][b]");
}

/* System messages are moved to places where the template supports them. None is lost. */
static void test_system_messages_go_where_the_template_supports_them(void **state)
{
    (void)state;
    const char *chat = "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"system\",\"content\":\"t\"},"
                       "{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"system\",\"content\":\"u\"},"
                       "{\"role\":\"user\",\"content\":\"b\"},{\"role\":\"assistant\",\"content\":\"c\"},"
                       "{\"role\":\"system\",\"content\":[{\"type\":\"text\",\"text\":\"v\"}]},"
                       "{\"role\":\"assistant\",\"content\":\"d\"},{\"role\":\"user\",\"content\":\"e\"}]";
    expect_adapted("{% for m in messages %}{{ m.role[0] + m.content }} {% endfor %}", chat,
                   "ss st ua su ub ac sv ad ue ");
    /* This template fails for a system message that is not the first message. */
    expect_adapted("{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}"
                   "{% endif %}{{ m.role[0] + m.content }} {% endfor %}",
                   chat, "ss\nt ua\nu\nb ac uv ad ue ");
    /* This one ignores such messages. */
    expect_adapted("{% for m in messages %}{% if m.role != 'system' or loop.first %}{{ m.role[0] + m.content }} "
                   "{% endif %}{% endfor %}",
                   chat, "ss\nt ua\nu\nb ac uv ad ue ");
    /* This one expects content in parts. */
    expect_adapted("{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('no') }}"
                   "{% endif %}{{ m.role[0] }}{% if m.content is string %}{{ m.content }}{% else %}"
                   "{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endif %} {% endfor %}",
                   chat, "ss\nt ua\nu\nb ac u<v> ad ue ");
    /* This one supports no system messages at all (Gemma 2). */
    expect_adapted("{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{% for m in messages %}"
                   "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('alternate') }}{% endif %}"
                   "{{ m.role[0] + m.content }} {% endfor %}",
                   "[{\"role\":\"system\",\"content\":\"s\"},{\"role\":\"user\",\"content\":\"a\"},"
                   "{\"role\":\"assistant\",\"content\":\"b\"},{\"role\":\"user\",\"content\":\"c\"}]",
                   "us\na ab uc ");
    /* Without adaptation, such a template decides. */
    struct chat_template *template;
    struct rendered_text text;
    const char *strict = "{% if messages[1].role == 'system' %}{{ raise_exception('no') }}{% endif %}";
    json_t *json = json_loads(chat, 0, NULL);
    struct chat_input input = {.messages = json};
    assert_ok(chat_template_parse(&template, strict, strlen(strict), &test_error));
    assert_int_equal(chat_render(template, &input, &text, NULL), HYPURA_ERROR_FORMAT);
    chat_template_free(template);
    json_decref(json);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void expect_error(const char *source, const char *message)
{
    json_t *variables = json_object();
    struct rendered_text text;
    if (render(source, variables, &text) == HYPURA_OK)
        fail_msg("%s was not refused, but rendered: %.100s", source, text.text);
    if (!strstr(test_error.message, message))
        fail_msg("%s: expected \"%s\" in \"%s\"", source, message, test_error.message);
    json_decref(variables);
}

static void test_errors_name_the_line(void **state)
{
    (void)state;
    expect_error("a\nb\n{% if x %}", "line 3: the template ends inside a block");
    expect_error("a\n{{ 1 + }}", "line 2: expected an expression, found '}}'");
    expect_error("a\n{{ x.y }}", "line 2: 'x' is undefined");
    expect_error("\n\n{{ raise_exception('no ' ~ 1) }}", "line 3: no 1");
    expect_error("{% include 'x' %}", "line 1: unknown tag 'include'");
    expect_error("{{ 1 | nothing }}", "no filter named 'nothing'");
    expect_error("{{ 'a", "line 1: a string has no closing '");
    expect_error("{# a", "line 1: a comment has no end");
}

static void test_a_template_cannot_exhaust_the_machine(void **state)
{
    (void)state;
    expect_error("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "levels deep");
    expect_error("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "MiB of memory");
    expect_error("{{ range(100000000) }}", "range() of more than");
    expect_error("{{ 'a' * 1000000000000 }}", "steps");
    expect_error("{{ ('a' * 100000) * 100000 }}", "a text larger than 64 MiB");
    expect_error("{% set x = [1] %}{% for i in range(60) %}{% set _ = x.extend(x) %}{% endfor %}", "MiB of memory");
    expect_error("{% set x = [] %}{% set _ = x.append(x) %}{{ x }}", "levels deep");
    expect_error("{% set x = [] %}{% set _ = x.append(x) %}{{ x | tojson }}", "levels deep");
    expect_error("{{ 9223372036854775807 + 1 }}", "does not fit in 64 bits");
    expect_error("{{ '99999999999999999999' | int }}", "does not fit in 64 bits");
    expect_error("{{ 9223372036854775807 | round(-1) }}", "does not fit in 64 bits");
    expect_error("{{ '%d' % 1e300 }}", "does not fit in 64 bits");
    expect_error("{{ '%d' % ('nan' | float) }}", "does not fit in 64 bits");
    char deep[4096];
    memset(deep, '(', sizeof deep - 1);
    memcpy(deep, "{{ ", 3);
    deep[sizeof deep - 1] = 0;
    expect_error(deep, "");
    char signs[4096];
    memset(signs, '-', sizeof signs - 1);
    memcpy(signs, "{{ ", 3);
    memcpy(signs + sizeof signs - 6, "1 }}", 5);
    expect_error(signs, "levels deep");
}

/* Operations that scan much data count as several steps. Otherwise, a template could run for days within its steps. */
static void test_scanning_much_data_costs_many_steps(void **state)
{
    (void)state;
    static const char *const looks[] = {"x | length",      "x[5]",        "x.rfind(y[1:])", "x.strip(y)",
                                        "x | truncate(5)", "x.isalpha()", "x.islower()",    "x.startswith(y)",
                                        "x in {}"};
    for (size_t i = 0; i < COUNT_OF(looks); i++) {
        struct buffer source = {0};
        buffer_append_format(&source,
                             "{%% set x = 'äb' * 1000000 %%}{%% set y = 'äb' * 1000000 %%}"
                             "{%% for a in range(90000) %%}{%% set z = %s %%}{%% endfor %%}",
                             looks[i]);
        expect_error(source.data, "");
        if (!strstr(test_error.message, "steps") && !strstr(test_error.message, "MiB"))
            fail_msg("%s: %s", looks[i], test_error.message);
        buffer_free(&source);
    }
    struct buffer pairs = {0}; /* each is a pair of the previous one twice */
    buffer_append_string(&pairs, "{% set t = 'ab' %}");
    for (int i = 0; i < 40; i++)
        buffer_append_string(&pairs, "{% set t = (t, t) %}");
    buffer_append_string(&pairs, "{{ t in {} }}");
    expect_error(pairs.data, "steps");
    buffer_free(&pairs);
    struct buffer names = {0};
    for (int i = 0; i < 40000; i++)
        buffer_append_format(&names, "{%% set a%d = 1 %%}", i);
    buffer_append_string(&names, "{% for a in range(90000) %}{% set z = nothing is defined %}{% endfor %}");
    expect_error(names.data, "steps");
    buffer_free(&names);
}

static bool count_down(void *context)
{
    return --*(int *)context > 0;
}

static void test_a_rendering_can_be_stopped(void **state)
{
    (void)state;
    const char *source = "{% for i in range(1000) %}{% for k in range(1000) %}{{ i }}{% endfor %}{% endfor %}";
    json_t *messages = json_pack("[{s:s,s:s}]", "role", "user", "content", "Hi");
    struct chat_template *template;
    struct rendered_text text = {0};
    int looks = 5;
    struct work_watch watch = {.go_on = count_down, .context = &looks};
    struct chat_input input = {.messages = messages, .adapt = true, .watch = &watch};
    assert_ok(chat_template_parse(&template, source, strlen(source), &test_error));
    assert_int_equal(chat_render(template, &input, &text, &test_error), HYPURA_ERROR_CANCELLED);
    assert_int_equal(looks, 0);
    assert_null(text.text);
    looks = 1 << 20;
    assert_ok(chat_render(template, &input, &text, &test_error));
    assert_true(looks < (1 << 20) - 100);
    rendered_text_free(&text);
    chat_template_free(template);
    json_decref(messages);
}

/* Templates with changed, missing and duplicate bytes are refused or rendered. */
static void test_broken_templates_do_no_harm(void **state)
{
    (void)state;
    static const char *const names[] = {"meetkai-functionary-medium-v3.2", "meta-llama-Llama-3.1-8B-Instruct",
                                        "CohereForAI-c4ai-command-r-plus-tool_use", "Qwen-Qwen2.5-7B-Instruct"};
    static const char marks[] = "{}%#|.-+*/()[]'\" =,:~<>!0129azZ_\n\\";
    json_t *lines = read_lines(test_data("oracle/templates/rendered.jsonl"));
    const json_t *variables = json_object_get(json_array_get(lines, 7), "variables");
    struct random random;
    random_seed(&random, 7);
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        char name[200];
        snprintf(name, sizeof name, "oracle/templates/%s.jinja", names[n]);
        const char *source = read_text(test_data(name));
        size_t size = strlen(source);
        char *changed = malloc(size + 64);
        for (int round = 0; round < 150; round++) {
            memcpy(changed, source, size + 1);
            size_t changes = 1 + random_next(&random) % 4;
            for (size_t i = 0; i < changes; i++) {
                size_t at = random_next(&random) % size;
                if (random_next(&random) % 8 == 0)
                    memmove(changed + at, changed + at / 2, size - at);
                else
                    changed[at] = marks[random_next(&random) % (sizeof marks - 1)];
            }
            struct rendered_text text = {0};
            if (render(changed, variables, &text) == HYPURA_OK)
                check_ranges(&text);
            else
                assert_true(test_error.message[0]);
            rendered_text_free(&text);
        }
        free(changed);
    }
    json_decref(lines);
}

/* A template writes numbers with a point even in a locale that uses a comma. */
static void test_numbers_do_not_follow_the_locale(void **state)
{
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "pt_BR.UTF-8", "ru_RU.UTF-8"};
    size_t i = 0;
    while (i < COUNT_OF(names) && !setlocale(LC_NUMERIC, names[i]))
        i++;
    if (i == COUNT_OF(names))
        return; /* this machine has no such locale */
    char written[16];
    snprintf(written, sizeof written, "%.1f", 0.5);
    struct rendered_text text = {0};
    json_t *none = json_object();
    hypura_status status = render("{{ 0.5 + 1 }} {{ '2.25' | float }} {{ '%.2f' | format(0.125) }}", none, &text);
    hypura_status failed = render("{{ 0.5 }} {{ 1 / 0 }}", none, &(struct rendered_text){0});
    json_decref(none);
    char after[16];
    snprintf(after, sizeof after, "%.1f", 0.5);
    setlocale(LC_NUMERIC, "C");
    assert_ok(status);
    assert_string_equal(text.text, "1.5 2.25 0.12");
    rendered_text_free(&text);
    assert_int_equal(failed, HYPURA_ERROR_FORMAT);
    assert_string_equal(written, "0,5");
    assert_string_equal(after, written);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_published_templates_render_as_jinja2_does),
        cmocka_unit_test(test_the_language_is_that_of_jinja2),
        cmocka_unit_test(test_chats_render_as_the_reference_server_does),
        cmocka_unit_test(test_the_origin_of_each_byte_is_known),
        cmocka_unit_test(test_a_role_may_be_part_of_a_token_when_it_is_a_word),
        cmocka_unit_test(test_bos_is_stripped_only_where_the_template_wrote_it),
        cmocka_unit_test(test_a_begun_answer_is_left_open),
        cmocka_unit_test(test_messages_are_adapted_to_the_template),
        cmocka_unit_test(test_system_messages_go_where_the_template_supports_them),
        cmocka_unit_test(test_errors_name_the_line),
        cmocka_unit_test(test_a_template_cannot_exhaust_the_machine),
        cmocka_unit_test(test_scanning_much_data_costs_many_steps),
        cmocka_unit_test(test_a_rendering_can_be_stopped),
        cmocka_unit_test(test_broken_templates_do_no_harm),
        cmocka_unit_test(test_numbers_do_not_follow_the_locale),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
