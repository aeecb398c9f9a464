/* hypura template: what a chat looks like to the model. */
#include "template/template.h"
#include "cli/cli.h"
#include "engine/prompt.h"
#include "tokenizer/vocabulary.h"

#include <string.h>

static const char *messages_path = "-", *tools_path;
static struct texts variables;
static bool no_generation_prompt, show_source;

static const struct option_row template_rows[] = {
    {"messages", "FILE", OPTION_TEXT, &messages_path, "JSON array of messages (default: standard input)"},
    {"tools", "FILE", OPTION_TEXT, &tools_path, "JSON array of tool descriptions, as in OpenAI's API"},
    {"var", "NAME=VALUE", OPTION_TEXTS, &variables, TEMPLATE_VARIABLES_HELP},
    {"no-generation-prompt", NULL, OPTION_FLAG, &no_generation_prompt,
     "end with the last message, without the beginning of an answer"},
    {"source", NULL, OPTION_FLAG, &show_source, "print the template itself"},
    {0},
};

#define MESSAGES_LIMIT ((uint64_t)64 << 20)

static hypura_status load_json_array(const char *path, json_t **out, hypura_error *error)
{
    char *text;
    size_t size;
    hypura_status status = read_whole_file(path, MESSAGES_LIMIT, &text, &size, error);
    if (status)
        return status;
    json_error_t problem;
    json_t *json = json_loadb(text, size, 0, &problem);
    memory_free(text);
    if (!json_is_array(json)) {
        status = json ? error_set(error, HYPURA_ERROR_ARGUMENT, "%s: expected a JSON array", path)
                      : error_set(error, HYPURA_ERROR_ARGUMENT, "%s: line %d, column %d: %s", path, problem.line,
                                  problem.column, problem.text);
        json_decref(json);
        return status;
    }
    *out = json;
    return HYPURA_OK;
}

static hypura_status render(const struct gguf *file, const struct vocabulary *vocabulary, hypura_error *error)
{
    struct gguf_string source = {chat_template_default, strlen(chat_template_default)};
    gguf_get_string(file, "tokenizer.chat_template", &source);
    if (show_source) {
        fwrite(source.data, 1, source.size, stdout);
        putchar('\n');
        return HYPURA_OK;
    }
    struct chat_template *template = NULL;
    json_t *messages = NULL, *tools = NULL, *others = NULL;
    struct rendered_text text = {0};
    hypura_status status = chat_template_parse(&template, source.data, source.size, error);
    if (!status)
        status = load_json_array(messages_path, &messages, error);
    if (!status && tools_path)
        status = load_json_array(tools_path, &tools, error);
    if (!status)
        status = named_values("--var", &variables, &others, error);
    if (!status) {
        struct chat_input input = {.messages = messages,
                                   .tools = tools,
                                   .variables = others,
                                   .add_generation_prompt = !no_generation_prompt,
                                   .close_last_answer = no_generation_prompt,
                                   .now = prompt_now()};
        status = prompt_render_chat(template, vocabulary, &input, &text, error);
    }
    if (!status)
        fwrite(text.text, 1, text.size, stdout);
    rendered_text_free(&text);
    json_decref(messages);
    json_decref(tools);
    json_decref(others);
    chat_template_free(template);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    struct gguf *file = NULL;
    struct vocabulary *vocabulary = NULL;
    hypura_status status = open_vocabulary(&file, &vocabulary, count ? arguments[0] : NULL, &error);
    if (!status)
        status = render(file, vocabulary, &error);
    vocabulary_close(vocabulary);
    gguf_close(file);
    return status ? report_error(&error) : EXIT_OK;
}

const struct command command_template = {
    .name = "template",
    .arguments = "[MODEL]",
    .summary = "turn JSON messages into the prompt text that the model sees",
    .details =
        "Messages are a JSON array of objects with \"role\" and \"content\". A model without a template of its own "
        "gets ChatML.",
    .options = {template_rows},
    .most = 1,
    .run = run,
};
