/* Parses options by their tables, and prints help from them. */
#include "cli/engine_cli.h"
#include "cli/sampling.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

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

int report_error(const hypura_error *error)
{
    if (error->status == HYPURA_ERROR_CANCELLED && interrupted())
        return EXIT_INTERRUPTED;
    if (error->status == HYPURA_ERROR_HOST && !first_to_say_lost())
        return EXIT_FAILED;
    /* A part that was lost for lack of memory can make the rest look wrong. */
    if (error->status == HYPURA_ERROR_ARGUMENT && memory_failures()) {
        fprintf(stderr, "hypura: out of memory; the incomplete input then failed: %s\n", error->message);
        return EXIT_FAILED;
    }
    fprintf(stderr, "hypura: %s\n", error->message);
    return error->status == HYPURA_ERROR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
}

int report_usage(const struct command *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "hypura %s: ", command->name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\nUsage: hypura %s [OPTION]...%s%s\n\"hypura %s --help\" explains it.\n", command->name,
            *command->arguments ? " " : "", command->arguments, command->name);
    va_end(arguments);
    return EXIT_USAGE;
}

static bool parse_whole_number(const char *text, uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    if (text[0] < '0' || text[0] > '9')
        return false;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || value > most)
        return false;
    *out = value;
    return true;
}

/* of_memory: rejects less than 1024 bytes, where a unit was forgotten. */
static bool parse_size(const char *text, uint64_t *out, bool of_memory, hypura_error *error)
{
    if (parse_bytes(text, out, error))
        return false;
    if (*out == 0)
        error_set(error, HYPURA_ERROR_ARGUMENT, "expected a size above 0, such as 8G");
    if (*out > 0 && *out < 1024 && of_memory) /* such as --memory 16 */
        error_set(error, HYPURA_ERROR_ARGUMENT, "that is %d bytes; write %dG for GiB", (int)*out, (int)*out);
    return *out > 0 && (*out >= 1024 || !of_memory);
}

static bool parse_sizes(const char *text, struct sizes *out, hypura_error *error)
{
    char part[32];
    for (out->count = 0; out->count < COUNT_OF(out->bytes);) {
        const size_t length = strcspn(text, ",");
        snprintf(part, sizeof part, "%.*s", (int)MIN(length, sizeof part), text);
        if (!parse_size(part, &out->bytes[out->count++], true, error))
            return false;
        if (!text[length])
            return true;
        text += length + 1;
    }
    error_set(error, HYPURA_ERROR_ARGUMENT, "expected at most %zu sizes, one for each GPU", COUNT_OF(out->bytes));
    return false;
}

bool set_option(const struct option_row *row, const char *text, hypura_error *error)
{
    uint64_t whole;
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *)row->target = true;
        return true;
    case OPTION_WHICH: {
        struct which *which = row->target;
        *which = (struct which){.given = true, .one = text};
        if (text && !parse_whole_number(text, UINT32_MAX, &whole)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a whole number from 0 to %u", text, UINT32_MAX);
            return false;
        }
        which->number = text ? (uint32_t)whole : 0;
        return true;
    }
    case OPTION_TEXT:
        *(const char **)row->target = text;
        return true;
    case OPTION_TEXTS: {
        struct texts *texts = row->target;
        if (memory_resize((void **)&texts->items, texts->count, texts->count + 1, sizeof *texts->items, "option",
                          error))
            return false;
        texts->items[texts->count++] = text;
        return true;
    }
    case OPTION_BYTES:
        return parse_size(text, row->target, row->target == &compute_options.memory, error);
    case OPTION_SIZES:
        return parse_sizes(text, row->target, error);
    case OPTION_LIMIT:
    case OPTION_COUNT:
        if (row->kind == OPTION_LIMIT && text[0] == '-' && parse_whole_number(text + 1, UINT32_MAX, &whole)) {
            whole = 0;
        } else if (!parse_whole_number(text, UINT32_MAX, &whole)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a whole number from 0 to %u", text, UINT32_MAX);
            return false;
        }
        *(uint32_t *)row->target = (uint32_t)whole;
        return true;
    case OPTION_SEED:
        if (!parse_whole_number(text, UINT64_MAX, row->target)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a whole number from 0 to 2^64 - 1", text);
            return false;
        }
        return true;
    case OPTION_NUMBER: {
        char *end;
        float value = strtof(text, &end);
        if (end == text || *end || !isfinite(value)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a number", text);
            return false;
        }
        *(float *)row->target = value;
        return true;
    }
    }
    return false;
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
