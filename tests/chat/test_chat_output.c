/* Answers of every model family, whole and in pieces. */
#include "test.h"

#include "chat/chat_output.h"

#include <string.h>

static const char tools_text[] =
    "[{\"type\":\"function\",\"function\":{\"name\":\"get\",\"parameters\":{\"type\":\"object\",\"properties\":{"
    "\"s\":{\"type\":\"string\"},\"n\":{\"type\":\"integer\"},\"b\":{\"type\":\"boolean\"},\"o\":{\"type\":\"object\"}}"
    "}}},"
    "{\"type\":\"function\",\"function\":{\"name\":\"now\",\"parameters\":{}}}]";

/* Replacements for the templates of each family: only the marks that the template writes. */
static const char hermes[] = "<tool_call> {{ x }} </tool_call> <think></think>";
static const char llama[] = "<|start_header_id|> <|python_tag|> \"parameters\"";
static const char mistral[] = "[TOOL_CALLS] [THINK] [/THINK]";
static const char harmony[] = "<|channel|>";
static const char deepseek[] = "<｜tool▁calls▁begin｜> </think>";
static const char kimi[] = "<|tool_calls_section_begin|>";
static const char minimax[] = "<minimax:tool_call> </think>";
static const char command_r[] = "<|START_ACTION|> <|START_THINKING|> <|END_THINKING|>";
static const char functionary[] = "<function=";
static const char gemma[] = "<|tool_call> <tool_call|> <|channel>thought <channel|>";
static const char granite[] = "<|tool_call|>";
static const char kimi_k3[] = "{{ '<|open|>' ~ tag ~ '<|sep|>' }}";
static const char dsml[] = "{% set dsml_token = '｜DSML｜' %} </think>";
static const char minimax_m3[] = "{% set ns = ']<]minimax[>[' %} <tool_call> </mm:think>";
static const char hunyuan[] = "<tool_calls> <tool_call> <tool_sep> <arg_key> </think>";
static const char hunyuan_suffixed[] = "{% set suffix = ':opensource' %} {{ '<tool_call' ~ suffix ~ '>' }}";
static const char hunyuan_a13b[] = "</think> <answer> </answer> <tool_calls>";
static const char nemotron[] = "<TOOLCALL> </think>";
static const char command_a[] =
    "<|START_ACTION|> <|START_THINKING|> <|END_THINKING|> <|START_RESPONSE|> <|END_RESPONSE|>";
static const char north[] = "<|START_ACTION|> <|START_THINKING|> <|END_THINKING|> <|START_TEXT|> <|END_TEXT|>";

struct example {
    const char *template;
    const char *prompt; /* the end of the prompt */
    const char *output;
    const char *content, *reasoning;
    const char *calls; /* NAME ARGUMENTS; NAME ARGUMENTS; ... */
};

static const struct example examples[] = {
    {hermes, "", "Hello  there\n", "Hello  there\n", "", ""},
    {hermes, "", " Hello", " Hello", "", ""},
    {hermes, "", "<think>\nHm. </thin\n\n</think>\n\nYes.", "Yes.", "Hm. </thin", ""},
    {hermes, "<|im_start|>assistant\n<think>\n", "Hm.\n</think>\nYes. <think>", "Yes. <think>", "Hm.", ""},
    {hermes, "<think>", "<think>Twice</think>x", "x", "Twice", ""},
    {hermes, "<think>\n", "never ends ", "", "never ends", ""},
    {hermes, "<think>\n\n</think>\n\n", "Straight", "Straight", "", ""},
    {hermes, "", "<think></think>x", "x", "", ""},
    {hermes, "", "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"s\": \"é\", \"n\": 0.1}}\n</tool_call>", "", "",
     "get {\"s\":\"é\",\"n\":0.1}; "},
    {hermes, "",
     "<think>a</think>\n\nI call.\n\n<tool_call>{\"name\": \"get\", \"arguments\": {}}</tool_call>\n"
     "<tool_call>\n{\"name\": \"now\"}\n</tool_call>\n",
     "I call.", "a", "get {}; now {}; "},
    {hermes, "", "<tool_call>{\"name\": \"get\", \"arguments\": \"{\\\"n\\\": 1}\"}</tool_call>", "", "",
     "get {\"n\":1}; "},
    {hermes, "", "<tool_call>{\"name\": \"get\", \"arguments\": {\"n\": 1}}", "", "", "get {\"n\":1}; "},
    {hermes, "", "a <tool_call>{broken}</tool_call> b", "a <tool_call>{broken}</tool_call> b", "", ""},
    {hermes, "", "a < b <tool and <tool_cal", "a < b <tool and <tool_cal", "", ""},
    {hermes, "",
     "<tool_call>\n<function=get>\n<parameter=s>\nline 1\n  line 2\n</parameter>\n<parameter=n>\n42\n</parameter>\n"
     "<parameter=b>\nTrue\n</parameter>\n<parameter=o>\n{\"a\": [1]}\n</parameter>\n<parameter=q>\nfree\n</parameter>\n"
     "</function>\n</tool_call>",
     "", "", "get {\"s\":\"line 1\\n  line 2\",\"n\":42,\"b\":true,\"o\":{\"a\":[1]},\"q\":\"free\"}; "},
    {hermes, "", "<tool_call>\n<function=get>\n<parameter=s>\n42\n</parameter>\n</function>\n</tool_call>", "", "",
     "get {\"s\":\"42\"}; "},
    {hermes, "",
     "<tool_call>get\n<arg_key>s</arg_key>\n<arg_value>a "
     "b</arg_value>\n<arg_key>n</arg_key>\n<arg_value>7</arg_value>\n</tool_call>",
     "", "", "get {\"s\":\"a b\",\"n\":7}; "},
    {hermes, "", "<tool_call>now\n</tool_call>", "", "", "now {}; "},
    {llama, "", "{\"name\": \"get\", \"parameters\": {\"s\": \"x\"}}", "", "", "get {\"s\":\"x\"}; "},
    {llama, "",
     "{\"type\": \"function\", \"name\": \"get\", \"parameters\": {}}; {\"name\": \"now\", \"parameters\": {}}", "", "",
     "get {}; now {}; "},
    {llama, "", "{\"answer\": 42}", "{\"answer\": 42}", "", ""},
    {llama, "", "{\"name\": \"broken", "{\"name\": \"broken", "", ""},
    {llama, "", "{\"na", "{\"na", "", ""},
    {llama, "", "<|python_tag|>{\"name\": \"get\", \"parameters\": {\"n\": 1}}", "", "", "get {\"n\":1}; "},
    {llama, "", "<|python_tag|>brave_search.call(query=\"x, y\", count=3)", "", "",
     "brave_search {\"query\":\"x, y\",\"count\":3}; "},
    {llama, "", "<|python_tag|>print(\"hi\")", "", "", "python {\"code\":\"print(\\\"hi\\\")\"}; "},
    {mistral, "",
     "[TOOL_CALLS][{\"name\": \"get\", \"arguments\": {\"n\": 1}, \"id\": \"abc\"}, {\"name\": \"now\", \"arguments\": "
     "{}}]",
     "", "", "get {\"n\":1}; now {}; "},
    {mistral, "", "Sure. [TOOL_CALLS]get[ARGS]{\"n\": 1}[TOOL_CALLS]now[CALL_ID]123[ARGS]{}", "Sure.", "",
     "get {\"n\":1}; now {}; "},
    {mistral, "", "[THINK]deep[/THINK]Yes", "Yes", "deep", ""},
    {harmony, "<|start|>assistant",
     "<|channel|>analysis<|message|>Hm, so.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>", "Yes.",
     "Hm, so.", ""},
    {harmony, "",
     "<|channel|>analysis<|message|>Need it.<|end|><|start|>assistant<|channel|>commentary to=functions.get "
     "<|constrain|>json<|message|>{\"n\": 1}<|call|>",
     "", "Need it.", "get {\"n\":1}; "},
    {harmony, "",
     "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant to=functions.now<|channel|>commentary "
     "json<|message|>{}",
     "I look.", "", "now {}; "},
    {harmony, "", "<|channel|>final<|message|>cut of", "cut of", "", ""},
    {deepseek, "", "Hm</think>", "Hm</think>", "", ""},
    {deepseek, "<｜Assistant｜><think>\n",
     "Hm</think>x<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{\"n\": 1}\n```"
     "<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><"
     "｜tool▁calls▁end｜>",
     "x", "Hm", "get {\"n\":1}; now {}; "},
    {deepseek, "",
     "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get<｜tool▁sep｜>{\"n\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
     "", "", "get {\"n\":1}; "},
    {kimi, "",
     "<|tool_calls_section_begin|><|tool_call_begin|>functions.get:0<|tool_call_argument_begin|>{\"n\": "
     "1}<|tool_call_end|>"
     "<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
     "", "", "get {\"n\":1}; now {}; "},
    {minimax, "",
     "<minimax:tool_call>\n<invoke name=\"get\">\n<parameter name=\"s\">1</parameter>\n<parameter "
     "name=\"n\">1</parameter>\n</invoke>\n</minimax:tool_call>",
     "", "", "get {\"s\":\"1\",\"n\":1}; "},
    {command_r, "",
     "<|START_THINKING|>plan<|END_THINKING|><|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": \"get\", "
     "\"parameters\": {\"n\": 1}}]<|END_ACTION|>",
     "", "plan", "get {\"n\":1}; "},
    {functionary, "", "<function=get>{\"n\": 1}</function>", "", "", "get {\"n\":1}; "},
    {gemma, "",
     "<|channel>thought\nHm.<channel|>Sure.<|tool_call>call:get{s:<|\"|>a, "
     "{b}<|\"|>,n:-1.5,o:{k:[<|\"|>x<|\"|>,true,null],"
     "<|\"|>q:<|\"|>:{}}}<tool_call|>",
     "Sure.", "Hm.", "get {\"s\":\"a, {b}\",\"n\":-1.5,\"o\":{\"k\":[\"x\",true,null],\"q:\":{}}}; "},
    {gemma, "<|channel>thought\n<channel|>", "<|tool_call>call:now{}<tool_call|>", "", "", "now {}; "},
    {gemma, "", "<|tool_call>call:get{n:<tool_call|>", "<|tool_call>call:get{n:<tool_call|>", "", ""},
    {kimi_k3, "<|open|>message role=\"assistant\"<|sep|><|open|>think<|sep|>",
     "Hm.<|close|>think<|sep|><|open|>response<|sep|>Sure. <|close|>response<|sep|><|open|>tools<|sep|>"
     "<|open|>call tool=\"get\" index=\"1\"<|sep|><|open|>argument key=\"s\" type=\"string\"<|sep|> 4 "
     "<b><|close|>argument<|sep|><|open|>argument key=\"n\" type=\"number\"<|sep|>-2<|close|>argument<|sep|>"
     "<|open|>argument key=\"o\" type=\"object\"<|sep|>{\"a\": [1]}<|close|>argument<|sep|><|close|>call<|sep|>"
     "<|open|>call tool=\"now\" index=\"2\"<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>"
     "<|end_of_msg|>",
     "Sure.", "Hm.", "get {\"s\":\" 4 <b>\",\"n\":-2,\"o\":{\"a\":[1]}}; now {}; "},
    {kimi_k3, "<|open|>response<|sep|>", "Just text.<|close|>response<|sep|><|close|>message<|sep|>", "Just text.", "",
     ""},
    {kimi_k3, "", "<|open|>think<|sep|>a<|close|>think<|sep|><|open|>response<|sep|>x < y<|close|>response<|sep|>",
     "x < y", "a", ""},
    {kimi_k3, "<|open|>response<|sep|>",
     "<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool=\"a&amp;&quot;b&lt;\" "
     "index=\"1\"<|sep|><|open|>json "
     "type=\"object\"<|sep|>{\"n\": 1}<|close|>json<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
     "", "", "a&\"b&lt; {\"n\":1}; "},
    {kimi_k3, "", "a <|open|>tools<|sep|>broken<|close|>tools<|sep|> b",
     "a <|open|>tools<|sep|>broken<|close|>tools<|sep|> b", "", ""},
    {dsml, "<｜Assistant｜><think>",
     "Hm</think>I look.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"get\">\n<｜DSML｜parameter name=\"s\" "
     "string=\"true\">12</｜DSML｜parameter>\n<｜DSML｜parameter name=\"n\" string=\"false\">12</｜DSML｜parameter>\n"
     "<｜DSML｜parameter name=\"q\" string=\"false\">[true]</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke "
     "name=\"now\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
     "I look.", "Hm", "get {\"s\":\"12\",\"n\":12,\"q\":[true]}; now {}; "},
    {dsml, "</think>",
     "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"get\">\n<｜DSML｜parameter name=\"s\" string=\"true\">a\n<b>"
     "</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
     "", "", "get {\"s\":\"a\\n<b>\"}; "},
    {dsml, "", "2 < 3 <｜DSML", "2 < 3 <｜DSML", "", ""},
    {minimax_m3, "<mm:think>",
     "Hm.</mm:think>I look.]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name=\"get\">]<]minimax[>[<s>7 > "
     "<b>]<]minimax[>[</s>]<]minimax[>[<n>7]<]minimax[>[</n>\n]<]minimax[>[<o>]<]minimax[>[<k>]<]minimax[>[<item>1"
     "]<]minimax[>[</item>]<]minimax[>[<item>]<]minimax[>[<item>x]<]minimax[>[</item>]<]minimax[>[</"
     "item>]<]minimax[>[</k>"
     "]<]minimax[>[</o>]<]minimax[>[</invoke>\n]<]minimax[>[<invoke name=\"now\">]<]minimax[>[</invoke>\n"
     "]<]minimax[>[</tool_call>",
     "I look.", "Hm.", "get {\"s\":\"7 > <b>\",\"n\":7,\"o\":{\"k\":[1,[\"x\"]]}}; now {}; "},
    {hunyuan, "<think>",
     "Hm</think>\n<tool_calls>\n<tool_call>get<tool_sep>\n<arg_key>s</arg_key>\n<arg_value>5</arg_value>\n"
     "<arg_key>n</arg_key>\n<arg_value>5</arg_value>\n</tool_call>\n<tool_call>now<tool_sep>\n</tool_call>\n"
     "</tool_calls>",
     "", "Hm", "get {\"s\":\"5\",\"n\":5}; now {}; "},
    {hunyuan_suffixed, "<think:opensource>",
     "Hm</think:opensource>Yes.<tool_calls:opensource><tool_call:opensource>get<arg_key:opensource>n"
     "</arg_key:opensource><arg_value:opensource>5</arg_value:opensource></tool_call:opensource>"
     "</tool_calls:opensource>",
     "Yes.", "Hm", "get {\"n\":5}; "},
    {hunyuan_a13b, "", "<think>\nHm\n</think>\n<answer>\nFour.\n</answer>", "Four.", "Hm", ""},
    {hunyuan_a13b, "",
     "<think>a</think><answer><tool_calls>[{\"name\": \"get\", \"arguments\": {\"n\": 1}}]</tool_calls></answer>", "",
     "a", "get {\"n\":1}; "},
    {nemotron, "<think>\n", "Hm</think>\n\n<TOOLCALL>[{\"name\": \"get\", \"arguments\": {\"n\": 1}}]</TOOLCALL>", "",
     "Hm", "get {\"n\":1}; "},
    {command_a, "", "<|START_THINKING|>plan<|END_THINKING|><|START_RESPONSE|>Yes < no.<|END_RESPONSE|>", "Yes < no.",
     "plan", ""},
    {north, "<|START_THINKING|>",
     "plan<|END_THINKING|><|START_TEXT|>Now.<|END_TEXT|><|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": "
     "\"now\", \"parameters\": {}}]<|END_ACTION|>",
     "Now.", "plan", "now {}; "},
    {granite, "", "<|tool_call|>[{\"name\": \"get\", \"arguments\": {\"n\": 1}}]", "", "", "get {\"n\":1}; "},
};

static void detect(struct chat_format *format, const char *source, const char *prompt)
{
    struct chat_template *template;
    struct rendered_text text = {.text = (char *)prompt, .size = strlen(prompt)};
    assert_ok(chat_template_parse(&template, source, strlen(source), &test_error));
    chat_format_detect(format, template, &text);
    chat_template_free(template);
}

struct seen {
    struct buffer content, reasoning, calls;
    size_t count;
};

static void note(void *context, const struct chat_delta *delta)
{
    struct seen *seen = context;
    if (delta->kind != CHAT_TOOL_CALL) {
        assert_true(delta->size > 0);
        buffer_append(delta->kind == CHAT_CONTENT ? &seen->content : &seen->reasoning, delta->text, delta->size);
        return;
    }
    assert_int_equal(delta->index, seen->count++);
    buffer_append_format(&seen->calls, "%s ", delta->name);
    buffer_append(&seen->calls, delta->text, delta->size);
    buffer_append_string(&seen->calls, "; ");
}

static const char *buffer_text(const struct buffer *buffer)
{
    return buffer->size ? buffer->data : "";
}

static void expect_text(const struct buffer *found, const char *expected, const char *what, const char *output)
{
    const char *text = buffer_text(found);
    if (strlen(expected) != found->size || strcmp(text, expected) != 0)
        fail_msg("%s of \"%s\": expected \"%s\", got \"%s\"", what, output, expected, text);
}

/* Parses an output in pieces of about "piece" bytes, cut between characters. */
static void take_apart(struct seen *seen, const struct chat_format *format, const json_t *tools, const char *output,
                       size_t size, size_t piece)
{
    struct chat_parser *parser;
    assert_ok(chat_parser_create(&parser, format, tools, note, seen, &test_error));
    for (size_t at = 0; at < size;) {
        size_t end = MIN(at + piece, size);
        while (end < size && ((unsigned char)output[end] & 0xc0) == 0x80)
            end++;
        assert_ok(chat_parser_push(parser, output + at, end - at, &test_error));
        at = end;
    }
    assert_ok(chat_parser_finish(parser, &test_error));
    chat_parser_free(parser);
}

static void seen_free(struct seen *seen)
{
    buffer_free(&seen->content);
    buffer_free(&seen->reasoning);
    buffer_free(&seen->calls);
}

static void check(const struct example *example, const json_t *tools, size_t piece)
{
    struct chat_format format;
    struct seen seen = {0};
    detect(&format, example->template, example->prompt);
    take_apart(&seen, &format, tools, example->output, strlen(example->output), piece);
    expect_text(&seen.content, example->content, "content", example->output);
    expect_text(&seen.reasoning, example->reasoning, "reasoning", example->output);
    expect_text(&seen.calls, example->calls, "calls", example->output);
    seen_free(&seen);
}

static void test_answers_are_parsed_whole_and_in_pieces(void **state)
{
    (void)state;
    json_t *tools = json_loads(tools_text, 0, NULL);
    for (size_t i = 0; i < COUNT_OF(examples); i++) {
        check(&examples[i], tools, 100000);
        for (size_t piece = 1; piece < 20; piece += piece < 4 ? 1 : 5)
            check(&examples[i], tools, piece);
    }
    json_decref(tools);
}

/* ---- difficult arguments ----------------------------------------------------------------------------------------- */

/* Two calls with the same text in each form. JSON escapes the text, tags contain it unchanged. */
struct form {
    const char *name, *template, *prompt;
    bool json;
    const char *before, *call, *between, *after; /* call: %s stands for the text */
};

static const struct form forms[] = {
    {"hermes", hermes, "<think>\n", true, "Hm.\n</think>\n\n",
     "<tool_call>\n{\"name\": \"get\", \"arguments\": {\"s\": %s}}\n</tool_call>", "\n", ""},
    {"Qwen 3 Coder, Nemotron 3", hermes, "<think>\n", false, "Hm.\n</think>\n\n",
     "<tool_call>\n<function=get>\n<parameter=s>\n%s\n</parameter>\n</function>\n</tool_call>", "\n", ""},
    {"GLM 4.5", hermes, "<think>", false, "Hm.</think>",
     "\n<tool_call>get\n<arg_key>s</arg_key>\n<arg_value>%s</arg_value>\n</tool_call>", "", ""},
    {"GLM 4.7, GLM 5", hermes, "<think>", false, "Hm.</think>",
     "<tool_call>get<arg_key>s</arg_key><arg_value>%s</arg_value></tool_call>", "", ""},
    {"MiniMax M2", minimax, "<think>\n", false, "Hm.\n</think>\n\n<minimax:tool_call>\n",
     "<invoke name=\"get\">\n<parameter name=\"s\">%s</parameter>\n</invoke>\n", "", "</minimax:tool_call>"},
    {"MiniMax M3", minimax_m3, "<mm:think>", false, "Hm.</mm:think>]<]minimax[>[<tool_call>\n",
     "]<]minimax[>[<invoke name=\"get\">]<]minimax[>[<s>%s]<]minimax[>[</s>]<]minimax[>[</invoke>\n", "",
     "]<]minimax[>[</tool_call>"},
    {"DeepSeek V3.2", dsml, "<think>", false, "Hm.</think>\n\n<｜DSML｜function_calls>\n",
     "<｜DSML｜invoke name=\"get\">\n<｜DSML｜parameter name=\"s\" string=\"true\">%s</｜DSML｜parameter>\n"
     "</｜DSML｜invoke>\n",
     "", "</｜DSML｜function_calls>"},
    {"DeepSeek V4", dsml, "<think>", false, "Hm.</think>\n\n<｜DSML｜tool_calls>\n",
     "<｜DSML｜invoke name=\"get\">\n<｜DSML｜parameter name=\"s\" string=\"true\">%s</｜DSML｜parameter>\n"
     "</｜DSML｜invoke>\n",
     "", "</｜DSML｜tool_calls>"},
    {"Kimi K3", kimi_k3, "<|open|>think<|sep|>", false,
     "Hm.<|close|>think<|sep|><|open|>response<|sep|><|close|>response<|sep|><|open|>tools<|sep|>",
     "<|open|>call tool=\"get\" index=\"1\"<|sep|><|open|>argument key=\"s\" type=\"string\"<|sep|>%s"
     "<|close|>argument<|sep|><|close|>call<|sep|>",
     "", "<|close|>tools<|sep|><|close|>message<|sep|>"},
    {"Nemotron", nemotron, "<think>\n", true, "Hm.</think>\n\n<TOOLCALL>[",
     "{\"name\": \"get\", \"arguments\": {\"s\": %s}}", ", ", "]</TOOLCALL>"},
    {"Mistral 4", mistral, "", true, "[THINK]Hm.[/THINK]", "[TOOL_CALLS]get[ARGS]{\"s\": %s}", "", ""},
    {"Hunyuan", hunyuan, "<think>", false, "Hm.</think>\n<tool_calls>\n",
     "<tool_call>get<tool_sep>\n<arg_key>s</arg_key>\n<arg_value>%s</arg_value>\n</tool_call>\n", "", "</tool_calls>"},
    {"Command A", command_a, "<|START_THINKING|>", true, "Hm.<|END_THINKING|><|START_ACTION|>[\n    ",
     "{\"tool_call_id\": \"0\", \"tool_name\": \"get\", \"parameters\": {\"s\": %s}}", ",\n    ", "\n]<|END_ACTION|>"},
};

/* Texts with every mark that could end something. */
static const char *const hard_texts[] = {
    "a \"b\" \\ 'c' \\n é 漢字 \xf0\x9f\x98\x80",
    "line 1\n\n  line 2\n",
    "42",
    "{\"k\": [1, \"x\"]}",
    "null",
    "",
    ("if a < b && c > d: </tool_call> x </parameter> x </function> x </arg_value> x </invoke> x </tool_calls> x "
     "</minimax:tool_call> x </think> x </TOOLCALL> x [TOOL_CALLS] x [ARGS] {} x"),
};

static char *text_of(const struct form *form, const char *text)
{
    struct buffer output = {0}, call = {0};
    json_t *string = json_string(text);
    char *escaped = form->json ? json_dumps(string, JSON_ENCODE_ANY) : NULL;
    const char *place = strstr(form->call, "%s");
    buffer_append(&call, form->call, (size_t)(place - form->call));
    buffer_append_string(&call, escaped ? escaped : text);
    buffer_append_string(&call, place + 2);
    buffer_append_string(&output, form->before);
    buffer_append(&output, call.data, call.size);
    buffer_append_string(&output, form->between);
    buffer_append(&output, call.data, call.size);
    buffer_append_string(&output, form->after);
    free(escaped);
    json_decref(string);
    buffer_free(&call);
    return output.data;
}

/* Checks an output that comes in two pieces. */
static void check_form(const struct form *form, const json_t *tools, const char *text, const char *output, size_t cut)
{
    struct chat_format format;
    struct chat_parser *parser;
    struct seen seen = {0};
    json_t *arguments = json_pack("{s:s}", "s", text);
    char *expected = json_dumps(arguments, JSON_COMPACT);
    struct buffer calls = {0};
    buffer_append_format(&calls, "get %s; get %s; ", expected, expected);
    detect(&format, form->template, form->prompt);
    assert_ok(chat_parser_create(&parser, &format, tools, note, &seen, &test_error));
    assert_ok(chat_parser_push(parser, output, cut, &test_error));
    assert_ok(chat_parser_push(parser, output + cut, strlen(output) - cut, &test_error));
    assert_ok(chat_parser_finish(parser, &test_error));
    chat_parser_free(parser);
    expect_text(&seen.calls, calls.data, form->name, output);
    expect_text(&seen.reasoning, "Hm.", form->name, output);
    expect_text(&seen.content, "", form->name, output);
    seen_free(&seen);
    buffer_free(&calls);
    free(expected);
    json_decref(arguments);
}

static void test_hard_arguments_in_every_form(void **state)
{
    (void)state;
    json_t *tools = json_loads(tools_text, 0, NULL);
    for (size_t f = 0; f < COUNT_OF(forms); f++)
        for (size_t t = 0; t < COUNT_OF(hard_texts); t++) {
            char *output = text_of(&forms[f], hard_texts[t]);
            for (size_t cut = 0; cut <= strlen(output); cut++)
                if (((unsigned char)output[cut] & 0xc0) != 0x80)
                    check_form(&forms[f], tools, hard_texts[t], output, cut);
            memory_free(output);
        }
    json_decref(tools);
}

/* An argument that may only be a string stays one, in whatever way the tool's description says so. */
static void test_types_from_descriptions(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *text, *value;
    } cases[] = {
        {"{\"type\": [\"string\", \"null\"]}", "42", "\"42\""},
        {"{\"type\": [\"string\", \"null\"]}", "null", "null"},
        {"{\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"null\"}]}", "true", "\"true\""},
        {"{\"anyOf\": [{\"type\": \"string\"}, {\"type\": \"integer\"}]}", "42", "42"},
        {"{\"type\": [\"integer\", \"null\"]}", "42", "42"},
        {"{\"type\": \"string\"}", "null", "\"null\""},
        {"{\"type\": \"array\"}", "[1]", "[1]"},
        {"{}", "\"x\"", "\"\\\"x\\\"\""},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct buffer tools_json = {0}, output = {0}, expected = {0};
        buffer_append_format(&tools_json,
                             "[{\"type\": \"function\", \"function\": {\"name\": \"get\", \"parameters\": "
                             "{\"properties\": {\"p\": %s}}}}]",
                             cases[i].schema);
        buffer_append_format(&output, "<tool_call>get<arg_key>p</arg_key><arg_value>%s</arg_value></tool_call>",
                             cases[i].text);
        buffer_append_format(&expected, "get {\"p\":%s}; ", cases[i].value);
        json_t *tools = json_loads(tools_json.data, 0, NULL);
        assert_non_null(tools);
        check(&(struct example){hermes, "", output.data, "", "", expected.data}, tools, 3);
        json_decref(tools);
        buffer_free(&tools_json);
        buffer_free(&output);
        buffer_free(&expected);
    }
}

static void test_without_tools_calls_are_content(void **state)
{
    (void)state;
    check(&(struct example){hermes, "", "<tool_call>{\"name\": \"get\"}</tool_call>",
                            "<tool_call>{\"name\": \"get\"}</tool_call>", "", ""},
          NULL, 3);
    check(&(struct example){llama, "", "{\"name\": \"get\"}", "{\"name\": \"get\"}", "", ""}, NULL, 3);
}

static void test_formats_are_detected_from_templates(void **state)
{
    (void)state;
    static const struct {
        const char *template, *name;
    } known[] = {{hermes, "hermes"},
                 {llama, "llama3"},
                 {mistral, "mistral"},
                 {harmony, "harmony"},
                 {deepseek, "deepseek"},
                 {kimi, "kimi"},
                 {minimax, "minimax"},
                 {command_r, "command-r"},
                 {granite, "granite"},
                 {gemma, "gemma"},
                 {functionary, "functionary"},
                 {"{{ messages }}", "plain"},
                 {kimi_k3, "kimi-k3"},
                 {dsml, "dsml"},
                 {minimax_m3, "minimax-m3"},
                 {hunyuan, "hunyuan"},
                 {hunyuan_suffixed, "hunyuan"},
                 {hunyuan_a13b, "hunyuan"},
                 {nemotron, "nemotron"},
                 {command_a, "command-r"},
                 {north, "command-r"}};
    struct chat_format format;
    for (size_t i = 0; i < COUNT_OF(known); i++) {
        detect(&format, known[i].template, "");
        assert_string_equal(chat_format_name(&format), known[i].name);
    }
    static const char *const files[][2] = {{"Qwen-Qwen2.5-7B-Instruct", "hermes"},
                                           {"NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use", "hermes"},
                                           {"meta-llama-Llama-3.1-8B-Instruct", "llama3"},
                                           {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B", "deepseek"},
                                           {"google-gemma-2-2b-it", "plain"}};
    for (size_t i = 0; i < COUNT_OF(files); i++) {
        char name[200], text[20000];
        snprintf(name, sizeof name, "oracle/templates/%s.jinja", files[i][0]);
        FILE *file = fopen(test_data(name), "rb");
        assert_non_null(file);
        text[fread(text, 1, sizeof text - 1, file)] = 0;
        fclose(file);
        detect(&format, text, "");
        assert_string_equal(chat_format_name(&format), files[i][1]);
    }
}

static void test_content_streams_as_it_comes(void **state)
{
    (void)state;
    struct chat_format format;
    struct chat_parser *parser;
    struct seen seen = {0};
    json_t *tools = json_loads(tools_text, 0, NULL);
    detect(&format, hermes, "");
    assert_ok(chat_parser_create(&parser, &format, tools, note, &seen, &test_error));
    assert_ok(chat_parser_push(parser, "Hello, world <t", 15, &test_error));
    expect_text(&seen.content, "Hello, world", "content", "so far");
    assert_ok(chat_parser_push(parser, "able>", 5, &test_error));
    expect_text(&seen.content, "Hello, world <table>", "content", "so far");
    assert_ok(chat_parser_finish(parser, &test_error));
    chat_parser_free(parser);
    buffer_free(&seen.content);
    json_decref(tools);
}

/* Any mixture of marks and text is parsed without harm, and the result does not depend on the pieces. */
static void test_any_mixture_is_parsed(void **state)
{
    (void)state;
    static const char *const parts[] = {"<think>",
                                        "</think>",
                                        "<tool_call>",
                                        "</tool_call>",
                                        "{\"name\": \"get\", \"arguments\": {}}",
                                        "<function=get>",
                                        "</function>",
                                        "<parameter=s>",
                                        "</parameter>",
                                        "<arg_key>",
                                        "</arg_key>",
                                        "<arg_value>",
                                        "</arg_value>",
                                        "[TOOL_CALLS]",
                                        "[ARGS]",
                                        "{}",
                                        "<|channel|>",
                                        "<|message|>",
                                        "<|end|>",
                                        "<|start|>",
                                        "analysis",
                                        "final",
                                        " to=functions.get ",
                                        "\n",
                                        "é",
                                        "<",
                                        "text ",
                                        "<|python_tag|>",
                                        ".call(",
                                        "x=1)",
                                        "<｜tool▁calls▁begin｜>",
                                        "<｜tool▁call▁begin｜>",
                                        "<｜tool▁sep｜>",
                                        "<｜tool▁calls▁end｜>",
                                        "<|tool_call>",
                                        "<tool_call|>",
                                        "call:f{",
                                        "<|\"|>",
                                        "a:[1,",
                                        "}",
                                        "]",
                                        "<channel|>",
                                        "<|open|>tools<|sep|>",
                                        "<|open|>call tool=\"get\"<|sep|>",
                                        "<|open|>argument key=\"s\" type=\"string\"<|sep|>",
                                        "<|close|>argument<|sep|>",
                                        "<|close|>call<|sep|>",
                                        "<|close|>tools<|sep|>",
                                        "<|open|>response<|sep|>",
                                        "<｜DSML｜tool_calls>",
                                        "<｜DSML｜invoke name=\"get\">",
                                        "<｜DSML｜parameter name=\"s\" string=\"true\">",
                                        "</｜DSML｜invoke>",
                                        "</｜DSML｜tool_calls>",
                                        "]<]minimax[>[<tool_call>",
                                        "]<]minimax[>[<invoke name=\"get\">",
                                        "]<]minimax[>[<s>",
                                        "]<]minimax[>[</s>",
                                        "]<]minimax[>[</invoke>",
                                        "]<]minimax[>[</tool_call>",
                                        "<tool_calls>",
                                        "<tool_sep>",
                                        "</tool_calls>"};
    static const char *const templates[] = {hermes,    llama, mistral, harmony, deepseek,   kimi,   minimax,
                                            command_r, gemma, kimi_k3, dsml,    minimax_m3, hunyuan};
    json_t *tools = json_loads(tools_text, 0, NULL);
    struct random random;
    random_seed(&random, 17);
    for (int round = 0; round < 400; round++) {
        struct chat_format format;
        struct buffer output = {0};
        for (size_t i = 0, count = 1 + random_next(&random) % 12; i < count; i++)
            buffer_append_string(&output, parts[random_next(&random) % COUNT_OF(parts)]);
        detect(&format, templates[random_next(&random) % COUNT_OF(templates)],
               random_next(&random) % 2 ? "<think>" : "");
        struct seen whole = {0}, pieces = {0};
        take_apart(&whole, &format, tools, output.data, output.size, output.size);
        take_apart(&pieces, &format, tools, output.data, output.size, 1);
        expect_text(&pieces.content, buffer_text(&whole.content), "content", output.data);
        expect_text(&pieces.reasoning, buffer_text(&whole.reasoning), "reasoning", output.data);
        expect_text(&pieces.calls, buffer_text(&whole.calls), "calls", output.data);
        assert_int_equal(pieces.count, whole.count);
        seen_free(&whole);
        seen_free(&pieces);
        buffer_free(&output);
    }
    json_decref(tools);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_are_parsed_whole_and_in_pieces),
        cmocka_unit_test(test_hard_arguments_in_every_form),
        cmocka_unit_test(test_types_from_descriptions),
        cmocka_unit_test(test_without_tools_calls_are_content),
        cmocka_unit_test(test_formats_are_detected_from_templates),
        cmocka_unit_test(test_content_streams_as_it_comes),
        cmocka_unit_test(test_any_mixture_is_parsed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
