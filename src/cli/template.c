/* hypura template: prints the prompt that the model sees for a chat. */
#include "cli/cli.h"

#include <stdlib.h>

static const char *messages_path = "-", *tools_path;
static struct texts variables;
static bool no_generation_prompt, show_source;

static const struct option_row template_rows[] = {
    {"messages", "FILE", OPTION_TEXT, &messages_path, "JSON array of messages (default: standard input)"},
    {"tools", "FILE", OPTION_TEXT, &tools_path, "JSON array of tool descriptions, as in OpenAI's API"},
    {"var", "NAME=VALUE", OPTION_TEXTS, &variables, TEMPLATE_VARIABLES_HELP},
    {"no-generation-prompt", NULL, OPTION_FLAG, &no_generation_prompt,
     "end with the last message, not with the start of an answer"},
    {"source", NULL, OPTION_FLAG, &show_source, "print the template itself"},
    {0},
};

#define MESSAGES_LIMIT ((uint64_t)64 << 20)

static hypura_status read_json_array(const char *path, char **text, hypura_error *error)
{
    size_t size;
    hypura_status status = read_whole_file(path, MESSAGES_LIMIT, text, &size, error);
    if (status)
        return status;
    json_error_t problem;
    json_t *json = read_json(*text, size, 0, &problem);
    if (!json)
        status = set_error(error, HYPURA_ERROR_ARGUMENT, "%s: line %d, column %d: %s", path, problem.line,
                           problem.column, problem.text);
    else if (!json_is_array(json))
        status = set_error(error, HYPURA_ERROR_ARGUMENT, "%s: expected a JSON array", path);
    json_decref(json);
    return status;
}

static hypura_status read_variables(char **text, hypura_error *error)
{
    json_t *given = NULL;
    hypura_status status = named_values("--var", &variables, &given, error);
    *text = given ? json_dumps(given, 0) : NULL;
    if (!status && given && !*text)
        status = set_error(error, HYPURA_ERROR_MEMORY, "no memory for the variables");
    json_decref(given);
    return status;
}

static hypura_status render(const hypura_model *model, hypura_error *error)
{
    char *messages = NULL, *tools = NULL, *others = NULL, *text = NULL;
    size_t size = 0;
    hypura_status status = read_json_array(messages_path, &messages, error);
    if (!status && tools_path)
        status = read_json_array(tools_path, &tools, error);
    if (!status)
        status = read_variables(&others, error);
    if (!status) {
        hypura_chat chat = {.struct_size = sizeof chat,
                            .messages = messages,
                            .tools = tools,
                            .variables = others,
                            .exact = true,
                            .whole = no_generation_prompt};
        status = hypura_render_chat(model, &chat, &text, &size, error);
    }
    if (!status)
        fwrite(text, 1, size, stdout);
    hypura_free(text);
    free_memory(messages);
    free_memory(tools);
    free(others);
    return status;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    hypura_model *model = NULL;
    hypura_status status = open_texts(&model, count ? arguments[0] : NULL, &error);
    if (!status && show_source)
        puts(hypura_template_source(model));
    else if (!status)
        status = render(model, &error);
    hypura_close(model);
    return status ? report_error(&error) : EXIT_OK;
}

const struct command command_template = {
    .name = "template",
    .arguments = "[MODEL]",
    .summary = "convert JSON messages to the prompt that the model sees",
    .details = "Messages are a JSON array of objects with \"role\" and \"content\". For a model without a template, "
               "hypura uses "
               "ChatML.",
    .options = {template_rows},
    .most = 1,
    .run = run,
};
