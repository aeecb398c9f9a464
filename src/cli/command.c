/* Parses options by their tables, and prints help from them. */
#include "cli/engine_cli.h"
#include "cli/sampling.h"

#include <string.h>

const struct command *const *commands;
size_t command_count;

static const struct option_row *find_option(const struct command *command, const char *name, size_t length)
{
    for (size_t t = 0; t < COUNT_OF(command->options) && command->options[t]; t++) {
        for (const struct option_row *row = command->options[t]; row->name; row++) {
            if (strlen(row->name) == length && memcmp(row->name, name, length) == 0)
                return row;
        }
    }
    return NULL;
}

const char *option_table_title(const struct option_row *rows)
{
    return rows == sampling_rows        ? "Sampling"
           : rows == plan_option_rows   ? "Memory and speed"
           : rows == engine_option_rows ? "Adapters, and reading weights"
           : rows == draft_option_rows  ? "Speculative decoding"
           : rows == prefix_option_rows ? "Prefix cache"
           : rows == report_option_rows ? "Statistics"
                                        : NULL;
}

void command_help(const struct command *command, FILE *out)
{
    const int column = 26;
    fprintf(out, "Usage: hypura %s [OPTION]...%s%s\n\n", command->name, *command->arguments ? " " : "",
            command->arguments);
    fprintf(out, "%c%s.\n", command->summary[0] - 'a' + 'A', command->summary + 1);
    if (command->details) {
        fputc('\n', out);
        print_paragraph(out, command->details, 0);
    }
    for (size_t t = 0; t < COUNT_OF(command->options) && command->options[t]; t++) {
        const char *title = option_table_title(command->options[t]);
        fprintf(out, "\n%s:\n", title ? title : "Options");
        for (const struct option_row *row = command->options[t]; row->name; row++) {
            int written =
                fprintf(out, "  --%s%s%s", row->name, row->argument ? " " : "", row->argument ? row->argument : "");
            if (written >= column) {
                fputc('\n', out);
                written = 0;
            }
            fprintf(out, "%*s", column - written, "");
            print_paragraph(out, row->help, column);
        }
    }
    fprintf(out, "\n  --help%*sprint this help\n", column - 8, "");
}

static const struct option_row *find_any(const struct command *command, const char *given, size_t length)
{
    char name[32];
    const struct option_row *row = NULL;
    if (length > 2 && given[1] == '-')
        row = find_option(command, given + 2, length - 2);
    if (row || length >= sizeof name)
        return row;
    snprintf(name, sizeof name, "%.*s", (int)length, given);
    const char *here;
    for (size_t i = 0; !row && (here = option_of_others(i, name)); i++)
        row = find_option(command, here, strlen(here));
    return row;
}

static int report_unknown(const struct command *command, const char *given, size_t length)
{
    char name[64];
    struct nearest nearest = {0};
    snprintf(name, sizeof name, "%.*s", (int)length, given);
    const char *hint = option_hint(name);
    for (size_t t = 0; !hint && t < COUNT_OF(command->options) && command->options[t]; t++)
        for (const struct option_row *row = command->options[t]; row->name; row++)
            nearest_consider(&nearest, name + strspn(name, "-"), row->name);
    fprintf(stderr, "hypura %s: there is no option \"%s\"%s%s%s%s\n\"hypura %s --help\" lists them.\n", command->name,
            name, hint ? ": " : "", hint ? hint : "", nearest.name ? "; perhaps --" : "",
            nearest.name ? nearest.name : "", command->name);
    return EXIT_USAGE;
}

/* -m and --model of llama.cpp; here the model is the first argument. */
static bool names_model(const struct command *command, const char *given, size_t length)
{
    bool option = (length == 2 && memcmp(given, "-m", 2) == 0) || (length == 7 && memcmp(given, "--model", 7) == 0);
    return option && strstr(command->arguments, "MODEL") && command->most > 0;
}

int command_main(const struct command *command, int count, char **arguments)
{
    hypura_error error = {0};
    size_t positional = 0;
    char *model = NULL;
    bool options_end = false;
    if (command->prepare)
        command->prepare();
    for (int i = 0; i < count; i++) {
        char *argument = arguments[i];
        if (options_end || argument[0] != '-' || argument[1] == 0) {
            arguments[positional++] = argument;
            continue;
        }
        if (strcmp(argument, "--") == 0) {
            options_end = true;
            continue;
        }
        if (strcmp(argument, "--help") == 0 || strcmp(argument, "-h") == 0) {
            command_help(command, stdout);
            return EXIT_OK;
        }
        size_t length = strcspn(argument, "=");
        bool is_model = names_model(command, argument, length);
        const struct option_row *row = is_model ? NULL : find_any(command, argument, length);
        if (!row && !is_model)
            return report_unknown(command, argument, length);
        bool flag = row && row->kind == OPTION_FLAG;
        const char *value = argument[length] == '=' ? argument + length + 1 : NULL;
        if (flag && value)
            return report_usage(command, "--%s takes no value", row->name);
        bool which = row && row->kind == OPTION_WHICH;
        if (which && !value && i + 1 < count && arguments[i + 1][strspn(arguments[i + 1], "0123456789")] == 0)
            value = arguments[++i];
        if (!flag && !which && !value) {
            if (i + 1 >= count)
                return report_usage(command, "%.*s needs a value: %s", (int)length, argument,
                                    row ? row->argument : "a model");
            value = arguments[++i];
        }
        if (is_model)
            model = (char *)value;
        else if (!set_option(row, value, &error))
            return error.status == HYPURA_ERROR_MEMORY
                       ? report_error(&error)
                       : report_usage(command, "%.*s: %s", (int)length, argument, error.message);
    }
    /* The option and its value made room for it. */
    if (model) {
        memmove(arguments + 1, arguments, positional++ * sizeof *arguments);
        arguments[0] = model;
    }
    if (positional < command->least)
        return report_usage(command, "an argument is missing");
    if (positional > command->most)
        return report_usage(command, "too many arguments, beginning with \"%s\"", arguments[command->most]);
    int status = run_on_hosts(command, positional, arguments);
    /* Memory ran out somewhere: the output is incomplete. */
    if (status == EXIT_OK && !command->lives_on && memory_check(0, "whole answer", &error))
        status = report_error(&error);
    return status;
}
