/* Options from tables: parsing and help. */
#include "cli/cli.h"

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
    fprintf(stderr, "hypura: %s\n", error->message);
    return error->status == HYPURA_ERROR_ARGUMENT ? EXIT_USAGE : EXIT_FAILED;
}

int report_usage(const struct command *command, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "hypura %s: ", command->name);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\nUsage: hypura %s [OPTION]... %s\n\"hypura %s --help\" tells more.\n", command->name,
            command->arguments, command->name);
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

static bool set_option(const struct option_row *row, const char *text, hypura_error *error)
{
    uint64_t whole;
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *)row->target = true;
        return true;
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
        return parse_bytes(text, row->target, error) == HYPURA_OK;
    case OPTION_COUNT:
        if (!parse_whole_number(text, UINT32_MAX, &whole)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a whole number", text);
            return false;
        }
        *(uint32_t *)row->target = (uint32_t)whole;
        return true;
    case OPTION_SEED:
        if (!parse_whole_number(text, UINT64_MAX, row->target)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a whole number", text);
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

static void print_paragraph(FILE *out, const char *text, int indent)
{
    const int width = 100;
    int column = indent;
    fprintf(out, "%*s", indent, "");
    for (const char *p = text; *p;) {
        if (*p == '\n') {
            fprintf(out, "\n%*s", p[1] && p[1] != '\n' ? indent : 0, "");
            column = indent;
            p++;
            continue;
        }
        size_t word = strcspn(p, " \n");
        if (column > indent && column + (int)word > width) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        }
        fprintf(out, "%.*s", (int)word, p);
        column += (int)word;
        p += word;
        while (*p == ' ') {
            fputc(' ', out);
            column++;
            p++;
        }
    }
    fputc('\n', out);
}

void command_help(const struct command *command, FILE *out)
{
    fprintf(out, "Usage: hypura %s [OPTION]... %s\n\n", command->name, command->arguments);
    fprintf(out, "%c%s.\n", command->summary[0] - 'a' + 'A', command->summary + 1);
    if (command->details) {
        fputc('\n', out);
        print_paragraph(out, command->details, 0);
    }
    fprintf(out, "\nOptions:\n");
    for (size_t t = 0; t < COUNT_OF(command->options) && command->options[t]; t++) {
        for (const struct option_row *row = command->options[t]; row->name; row++) {
            int written =
                fprintf(out, "  --%s%s%s", row->name, row->argument ? " " : "", row->argument ? row->argument : "");
            if (written >= 26) {
                fputc('\n', out);
                written = 0;
            }
            fprintf(out, "%*s", 26 - written, "");
            /* The first line is there already; the rest is indented below it. */
            const char *help = row->help;
            size_t length = strlen(help);
            while (length > 74) {
                size_t cut = 74;
                while (cut > 0 && help[cut] != ' ')
                    cut--;
                fprintf(out, "%.*s\n%26s", (int)cut, help, "");
                help += cut + 1;
                length -= cut + 1;
            }
            fprintf(out, "%s\n", help);
        }
    }
    fprintf(out, "  --help                  this text\n");
}

int command_main(const struct command *command, int count, char **arguments)
{
    hypura_error error = {0};
    size_t positional = 0;
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
        if (argument[1] != '-')
            return report_usage(command, "unknown option \"%s\"", argument);
        const char *name = argument + 2;
        size_t length = strcspn(name, "=");
        const struct option_row *row = find_option(command, name, length);
        if (!row)
            return report_usage(command, "unknown option \"--%.*s\"", (int)length, name);
        const char *value = name[length] == '=' ? name + length + 1 : NULL;
        if (row->kind == OPTION_FLAG && value)
            return report_usage(command, "--%s takes no value", row->name);
        if (row->kind != OPTION_FLAG && !value) {
            if (i + 1 >= count)
                return report_usage(command, "--%s wants a value: %s", row->name, row->argument);
            value = arguments[++i];
        }
        if (!set_option(row, value, &error))
            return report_usage(command, "--%s: %s", row->name, error.message);
    }
    if (positional < command->least)
        return report_usage(command, "too few arguments");
    if (positional > command->most)
        return report_usage(command, "too many arguments, beginning with \"%s\"", arguments[command->most]);
    return command->run(positional, arguments);
}
