/* hypura manual: man pages, from the same tables as --help. */
#include "cli/cli.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

static const char *folder;

static const struct option_row manual_rows[] = {
    {"folder", "DIR", OPTION_TEXT, &folder, "write the pages of hypura and of all commands to files in this folder"},
    {0},
};

/* Escapes text for roff: dashes can be copied, and no line begins like a request. */
static void print_text(FILE *out, const char *text)
{
    bool line_start = true;
    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\''))
            fputs("\\&", out);
        if (*text == '-')
            fputs("\\-", out);
        else if (*text == '\\')
            fputs("\\e", out);
        else
            fputc(*text, out);
        line_start = *text == '\n';
    }
}

static void print_sentence(FILE *out, const char *summary)
{
    if (isalpha((unsigned char)summary[0]))
        fputc(toupper((unsigned char)*summary++), out);
    print_text(out, summary);
    fprintf(out, ".\n");
}

static void print_options(FILE *out, const struct option_row *rows)
{
    for (const struct option_row *row = rows; row->name; row++) {
        fprintf(out, ".TP\n\\fB\\-\\-");
        print_text(out, row->name);
        fprintf(out, "\\fR");
        if (row->argument) {
            fprintf(out, " \\fI");
            print_text(out, row->argument);
            fprintf(out, "\\fR");
        }
        fputc('\n', out);
        print_sentence(out, row->help);
    }
}

static void print_command(FILE *out, const struct command *command)
{
    fprintf(out, ".TH HYPURA\\-");
    for (const char *c = command->name; *c; c++)
        fputc(toupper((unsigned char)*c), out);
    fprintf(out, " 1 \"\" \"hypura " HYPURA_VERSION "\" \"User Commands\"\n.SH NAME\nhypura\\-%s \\- ", command->name);
    print_text(out, command->summary);
    fprintf(out, "\n.SH SYNOPSIS\n\\fBhypura %s\\fR [\\fIOPTION\\fR]...%s", command->name,
            *command->arguments ? " " : "");
    print_text(out, command->arguments);
    fprintf(out, "\n.SH DESCRIPTION\n");
    print_sentence(out, command->summary);
    if (command->details) {
        fprintf(out, ".PP\n");
        print_text(out, command->details);
        fputc('\n', out);
    }
    fprintf(out, ".SH OPTIONS\n");
    for (size_t t = 0; t < COUNT_OF(command->options) && command->options[t]; t++) {
        const char *title = option_table_title(command->options[t]);
        if (title)
            fprintf(out, ".SS \"%s\"\n", title);
        print_options(out, command->options[t]);
        if (t == 0)
            fprintf(out, ".TP\n\\fB\\-\\-help\\fR\nPrint a summary of the options.\n");
    }
    if (!command->options[0])
        fprintf(out, ".TP\n\\fB\\-\\-help\\fR\nPrint a summary.\n");
    fprintf(out, ".SH EXIT STATUS\n0: success. 1: failure. 2: wrong usage. 130: interrupted.\n"
                 ".SH SEE ALSO\n.BR hypura (1)\n");
}

static void print_program(FILE *out)
{
    fprintf(
        out,
        ".TH HYPURA 1 \"\" \"hypura " HYPURA_VERSION "\" \"User Commands\"\n"
        ".SH NAME\nhypura \\- run language models that do not fit in memory\n"
        ".SH SYNOPSIS\n.B hypura\n.I command\n[\\fIoption\\fR]... [\\fIargument\\fR]...\n"
        ".SH DESCRIPTION\n"
        "hypura runs GGUF language models, including those that do not fit in memory. It keeps the weights that are\n"
        "used most in RAM, and reads the others from the drive before they are needed, with direct I/O and while it\n"
        "computes. For a mixture of experts, it reads only the experts that the router chooses, and caches those\n"
        "used most. Models that fit run from memory.\n"
        ".PP\nCommands that take \\fIMODEL\\fR use the embedded model if none is named.\n"
        ".SH COMMANDS\n");
    for (size_t i = 0; i < command_count; i++) {
        fprintf(out, ".TP\n.BR hypura\\-%s (1)\n", commands[i]->name);
        print_sentence(out, commands[i]->summary);
    }
    fprintf(out,
            ".SH OPTIONS OF LLAMA.CPP\n"
            "hypura accepts these options of llama.cpp if a command has their meaning: \\-m, \\-p, \\-n, \\-d, \\-c,\n"
            "\\-t, \\-f, \\-i, \\-cnv, \\-sys, \\-s, \\-r, \\-b, \\-ub, \\-l, \\-np, \\-md, and their long names.\n"
            "For other options of llama.cpp, the error names the equivalent.\n");
    fprintf(
        out,
        ".SH STATISTICS\n"
        "\\fB\\-\\-stats\\fR and \\fB\\-\\-json\\fR use these keys: model, mode, threads, prompt_tokens,\n"
        "generated_tokens, load_seconds, prompt_seconds, decode_seconds, prompt_tokens_per_second,\n"
        "decode_tokens_per_second, bytes_read, bytes_demanded, bytes_guessed, bytes_filled, bytes_wasted,\n"
        "expert_hits, expert_misses, expert_moves, rows_wanted, rows_cached, peak_rss_bytes,\n"
        "budget_bytes, bytes_gpu, bytes_ram, bytes_storage, decode_bytes_read, decode_passes,\n"
        "drafted_tokens, accepted_tokens, share_of_limit, share_side_by_side, bound, guess_precision,\n"
        "guess_recall, code_on_top_bytes, prefix_bytes, prefix_tokens, prefix_bytes_read,\n"
        "prefix_bytes_written, drives, gpus, hosts, hosts_expected_tokens_per_second.\n"
        ".TP\n.B share_of_limit\n"
        "How close decoding came to the speed that the profile allows: the time that its bytes need on the drive or\n"
        "through the kernels, whichever is longer, divided by the time that decoding took. From 0 to 1; null if\n"
        "nothing was decoded, or the machine or a GPU in use was not measured.\n"
        ".TP\n.B share_side_by_side\n"
        "The same with the drive and the kernels at once, at the speeds that they were measured at together.\n"
        ".TP\n.B bound\n"
        "What limited decoding: disk, compute, memory or gpu. Without measurements, what the plan expects.\n"
        ".TP\n.B bytes_guessed\nBytes of prefetches.\n"
        ".TP\n.B guess_precision\nThe share of prefetched experts that were needed.\n"
        ".TP\n.B guess_recall\nThe share of needed experts not in memory that had been prefetched.\n"
        ".TP\n.B budget_bytes\n"
        "The memory budget. It limits peak_rss_bytes less code_on_top_bytes, which is 0 for budgets of at least\n"
        "256 MiB.\n"
        ".TP\n.B gpus\nPer GPU: its name, layers, bytes of weights, and busy seconds.\n"
        ".TP\n.B hosts\nUnder mpirun: what each rank did.\n"
        ".TP\n.B hosts_expected_tokens_per_second\nThe speed that the plan for all ranks expects.\n"
        ".SH ENVIRONMENT\n"
        ".TP\n.B HYPURA_MODEL\nThe model to use if none is named.\n"
        ".TP\n.B HYPURA_GPU\nThe GPU to use without \\fB\\-\\-gpu\\fR.\n"
        ".TP\n.B HYPURA_GPU_TIMES\n1: report the time of each kind of GPU kernel, run one at a time.\n"
        ".TP\n.B HYPURA_MODELS\nThe model folder.\n"
        ".TP\n.B HYPURA_HOST\nThe server that ps, stop and rm talk to.\n"
        ".TP\n.B HYPURA_API_KEY\nThe key that serve requires, and that ps, stop and rm send.\n"
        ".TP\n.BR HYPURA_HUB \", \" HYPURA_LIBRARY\n"
        "Where to pull models from, instead of https://huggingface.co and\nhttps://registry.ollama.ai.\n"
        ".TP\n.BR XDG_CACHE_HOME \", \" XDG_STATE_HOME \", \" XDG_DATA_HOME\n"
        "Folders for profiles, for the record of used experts, and for the model folder unless\n"
        "\\fBHYPURA_MODELS\\fR is set.\n"
        ".TP\n.B HYPURA_HOSTS\n"
        "all: under mpirun, give every rank experts in proportion to its memory, even if that costs speed.\n"
        ".TP\n.B HYPURA_INSTRUCTIONS\n"
        "plain, avx2, avx-vnni, avx512, amx or neon: use this instruction set instead of the best one.\n"
        ".SH EXIT STATUS\n0: success. 1: failure. 2: wrong usage. 130: interrupted.\n"
        ".SH SEE ALSO\n");
    for (size_t i = 0; i < command_count; i++)
        fprintf(out, ".BR hypura\\-%s (1)%s\n", commands[i]->name, i + 1 < command_count ? "," : "");
}

/* command NULL: the page of the program. */
static hypura_status write_page(const struct command *command, hypura_error *error)
{
    char path[4096];
    int length =
        snprintf(path, sizeof path, "%s/hypura%s%s.1", folder, command ? "-" : "", command ? command->name : "");
    FILE *out = length < (int)sizeof path ? fopen(path, "we") : NULL;
    if (!out)
        return set_error(error, HYPURA_ERROR_IO, "cannot write \"%s\": %s", path, strerror(errno));
    if (command)
        print_command(out, command);
    else
        print_program(out);
    bool failed = ferror(out) != 0;
    if (fclose(out) || failed)
        return set_error(error, HYPURA_ERROR_IO, "cannot write \"%s\": %s", path, strerror(errno));
    return HYPURA_OK;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    const struct command *command = NULL;
    if (folder && count)
        return report_usage(&command_manual, "--folder writes all pages and takes no command");
    if (folder) {
        hypura_status status = write_page(NULL, &error);
        for (size_t i = 0; !status && i < command_count; i++)
            status = write_page(commands[i], &error);
        return status ? report_error(&error) : EXIT_OK;
    }
    for (size_t i = 0; count && !command && i < command_count; i++)
        command = strcmp(commands[i]->name, arguments[0]) == 0 ? commands[i] : NULL;
    if (count && !command)
        return report_usage(&command_manual, "there is no command \"%s\"", arguments[0]);
    if (command)
        print_command(stdout, command);
    else
        print_program(stdout);
    return EXIT_OK;
}

const struct command command_manual = {
    .name = "manual",
    .arguments = "[COMMAND]",
    .summary = "print the man page of hypura or of a command",
    .options = {manual_rows},
    .most = 1,
    .run = run,
};
