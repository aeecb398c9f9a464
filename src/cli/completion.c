/* hypura completion: shell completions, from the same tables as --help. */
#include "cli/cli.h"

#include <string.h>

static void print_bash(void)
{
    printf("_hypura() {\n"
           "    local word=${COMP_WORDS[COMP_CWORD]} words\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ]; then\n"
           "        words=\"");
    for (size_t i = 0; i < command_count; i++)
        printf("%s%s", i ? " " : "", commands[i]->name);
    printf("\"\n"
           "    else\n"
           "        case ${COMP_WORDS[1]} in\n");
    for (size_t i = 0; i < command_count; i++) {
        printf("        %s) words=\"--help", commands[i]->name);
        for (size_t t = 0; t < COUNT_OF(commands[i]->options) && commands[i]->options[t]; t++) {
            for (const struct option_row *row = commands[i]->options[t]; row->name; row++)
                printf(" --%s", row->name);
        }
        printf("\" ;;\n");
    }
    printf("        esac\n"
           "    fi\n"
           "    if [ \"$COMP_CWORD\" -eq 1 ] || [ \"${word#-}\" != \"$word\" ]; then\n"
           "        COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
           "    else\n"
           "        COMPREPLY=($(compgen -f -- \"$word\"))\n"
           "    fi\n"
           "}\n"
           "complete -o filenames -F _hypura hypura\n");
}

static void print_escaped(const char *text, const char *special)
{
    for (; *text; text++) {
        if (strchr(special, *text))
            putchar('\\');
        putchar(*text);
    }
}

static void print_zsh(void)
{
    printf("#compdef hypura\n_hypura() {\n    local -a commands\n    commands=(\n");
    for (size_t i = 0; i < command_count; i++) {
        printf("        \"%s:", commands[i]->name);
        print_escaped(commands[i]->summary, "\"`$\\:");
        printf("\"\n");
    }
    printf("    )\n"
           "    if (( CURRENT == 2 )); then\n"
           "        _describe command commands\n"
           "        return\n"
           "    fi\n"
           "    case $words[2] in\n");
    for (size_t i = 0; i < command_count; i++) {
        printf("    %s) _arguments '--help[print help]'", commands[i]->name);
        for (size_t t = 0; t < COUNT_OF(commands[i]->options) && commands[i]->options[t]; t++) {
            for (const struct option_row *row = commands[i]->options[t]; row->name; row++) {
                printf(" \\\n        \"%s--%s%s[", row->kind == OPTION_TEXTS ? "*" : "", row->name,
                       row->argument ? "=" : "");
                print_escaped(row->help, "\"`$\\[]:");
                printf("]%s%s%s\"", row->argument ? ":" : "", row->argument ? row->argument : "",
                       row->argument ? ":_files" : "");
            }
        }
        printf(" \\\n        '*:file:_files' ;;\n");
    }
    printf("    esac\n}\n_hypura \"$@\"\n");
}

static void print_fish(void)
{
    for (size_t i = 0; i < command_count; i++) {
        printf("complete -c hypura -n __fish_use_subcommand -a %s -d \"", commands[i]->name);
        print_escaped(commands[i]->summary, "\"$\\");
        printf("\"\n");
        printf("complete -c hypura -n '__fish_seen_subcommand_from %s' -l help -d \"print help\"\n", commands[i]->name);
        for (size_t t = 0; t < COUNT_OF(commands[i]->options) && commands[i]->options[t]; t++) {
            for (const struct option_row *row = commands[i]->options[t]; row->name; row++) {
                printf("complete -c hypura -n '__fish_seen_subcommand_from %s' -l %s%s -d \"", commands[i]->name,
                       row->name, row->argument ? " -r" : "");
                print_escaped(row->help, "\"$\\");
                printf("\"\n");
            }
        }
    }
}

static int run(size_t count, char **arguments)
{
    (void)count;
    if (strcmp(arguments[0], "bash") == 0)
        print_bash();
    else if (strcmp(arguments[0], "zsh") == 0)
        print_zsh();
    else if (strcmp(arguments[0], "fish") == 0)
        print_fish();
    else
        return report_usage(&command_completion, "no completions for \"%s\": expected bash, zsh or fish", arguments[0]);
    return EXIT_OK;
}

const struct command command_completion = {
    .name = "completion",
    .arguments = "bash|zsh|fish",
    .summary = "print shell completions",
    .least = 1,
    .most = 1,
    .run = run,
};
