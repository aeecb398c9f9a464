/* hypura manual: the man page, from the same tables as --help. */
#include "cli/cli.h"
#include "cli/sampling.h"

#include <ctype.h>
#include <string.h>

/* Text for roff: dashes that can be copied, no line that begins like a request. */
static void print_text(const char *text)
{
    bool line_start = true;
    for (; *text; text++) {
        if (line_start && (*text == '.' || *text == '\''))
            fputs("\\&", stdout);
        if (*text == '-')
            fputs("\\-", stdout);
        else if (*text == '\\')
            fputs("\\e", stdout);
        else
            putchar(*text);
        line_start = *text == '\n';
    }
}

static void print_option(const struct option_row *row)
{
    printf(".TP\n\\fB\\-\\-");
    print_text(row->name);
    printf("\\fR");
    if (row->argument)
        printf(" \\fI%s\\fR", row->argument);
    putchar('\n');
    print_text(row->help);
    printf(".\n");
}

static void print_command(const struct command *command)
{
    printf(".SS \"hypura %s ", command->name);
    for (const char *c = command->arguments; *c; c++)
        printf(*c == '-' ? "\\-" : *c == '"' ? "\"\"" : "%c", *c);
    printf("\"\n");
    putchar(toupper((unsigned char)command->summary[0]));
    print_text(command->summary + 1);
    printf(".\n");
    if (command->details) {
        printf(".PP\n");
        print_text(command->details);
        printf("\n");
    }
    for (size_t t = 0; t < COUNT_OF(command->options) && command->options[t]; t++) {
        const char *title = option_table_title(command->options[t]);
        if (title && command->options[t] != sampling_rows) {
            printf(".PP\nAnd the options under \\fI%s\\fR, below.\n", title);
            continue;
        }
        for (const struct option_row *row = command->options[t]; row->name; row++)
            print_option(row);
    }
}

static int run(size_t count, char **arguments)
{
    (void)count;
    (void)arguments;
    printf(
        ".TH HYPURA 1 \"\" \"hypura " HYPURA_VERSION "\" \"User Commands\"\n"
        ".SH NAME\nhypura \\- run language models that do not fit in memory\n"
        ".SH SYNOPSIS\n.B hypura\n.I command\n[\\fIoption\\fR]... [\\fIargument\\fR]...\n"
        ".SH DESCRIPTION\n"
        "hypura runs GGUF language models that exceed memory. It keeps in RAM what is read most, reads the rest from "
        "the\n"
        "disk ahead of need with direct I/O, and computes while it reads. Of a mixture of experts it reads only the\n"
        "experts that the router chose and keeps the hot ones. Models that fit run from memory.\n"
        ".PP\nWhere a command takes \\fIMODEL\\fR and none is named, it uses the embedded model.\n"
        ".SH COMMANDS\n");
    for (size_t i = 0; i < command_count; i++)
        print_command(commands[i]);
    printf(".SH OPTIONS OF SEVERAL COMMANDS\n");
    const struct option_row *const shared[] = {plan_option_rows, engine_option_rows, draft_option_rows,
                                               prefix_option_rows, report_option_rows};
    for (size_t i = 0; i < COUNT_OF(shared); i++) {
        printf(".SS \"%s\"\n", option_table_title(shared[i]));
        for (const struct option_row *row = shared[i]; row->name; row++)
            print_option(row);
    }
    printf(".SH OPTIONS OF LLAMA.CPP\n"
           "Where they mean the same they are understood: "
           "\\-m, \\-p, \\-f, \\-n, \\-c, \\-t, \\-s, \\-sys, \\-i, \\-b, \\-r, \\-ctk and "
           "their long names. Others are answered\n"
           "with what does that here.\n");
    printf(".SH STATISTICS\n"
           "\\fB\\-\\-stats\\fR and \\fB\\-\\-json\\fR use these keys: model, mode, threads, prompt_tokens, "
           "generated_tokens,\n"
           "load_seconds, prompt_seconds, decode_seconds, prompt_tokens_per_second, decode_tokens_per_second, "
           "bytes_read,\n"
           "bytes_demanded, bytes_guessed, bytes_filled, bytes_wasted, expert_hits, expert_misses, expert_moves, "
           "rows_wanted, rows_cached, peak_rss_bytes, "
           "budget_bytes, bytes_gpu,\n"
           "bytes_ram, bytes_storage, decode_bytes_read, decode_passes, drafted_tokens, accepted_tokens, "
           "share_of_limit, share_side_by_side, bound, guess_precision, guess_recall, code_on_top_bytes,\n"
           "prefix_bytes, prefix_tokens, prefix_bytes_read, prefix_bytes_written.\n"
           "share_of_limit is the longer of the times that decoding's bytes take on the disk and through the kernels, "
           "each\n"
           "as fast as the profile saw it alone, over the time that decoding took. share_side_by_side is of the time "
           "that\n"
           "both take at once, as fast as the profile saw each beside the other. Both go from 0 to 1; null where\n"
           "nothing was measured or decoded, or a GPU computes a part. bound: disk, compute or memory,\n"
           "then as the plan expects.\n"
           "bytes_guessed were prefetched; guess_precision is the share of prefetched experts that were needed, "
           "guess_recall\n"
           "the share of needed ones that were prefetched, of those that were not in memory before. peak_rss_bytes "
           "less code_on_top_bytes, which is "
           "0\n"
           "from budgets of 256 MiB on, is what budget_bytes bounds.\n"
           ".SH ENVIRONMENT\n"
           ".TP\n.B HYPURA_MODEL\nThe model that runs when none is named.\n"
           ".TP\n.B HYPURA_GPU\nThe GPU where \\fB\\-\\-gpu\\fR does not say.\n"
           ".TP\n.B HYPURA_GPU_TIMES\n1: tell how long each kind of GPU kernel took, run one at a time.\n"
           ".TP\n.B HYPURA_MODELS\nThe folder of models.\n"
           ".TP\n.B HYPURA_HOST\nThe server that ps, stop and rm ask.\n"
           ".TP\n.B HYPURA_API_KEY\nThe key that a server wants, and that they send.\n"
           ".TP\n.BR HYPURA_HUB \", \" HYPURA_LIBRARY\nWhere models are pulled from, instead of "
           "https://huggingface.co and\nhttps://registry.ollama.ai.\n"
           ".TP\n.BR XDG_CACHE_HOME \", \" XDG_STATE_HOME \", \" XDG_DATA_HOME\nWhere profiles, and which experts a "
           "model used, are remembered, and where\nthe folder of models is when \\fBHYPURA_MODELS\\fR does not say.\n"
           ".TP\n.B HYPURA_INSTRUCTIONS\nplain, avx2, avx512 or neon: compute with a lesser instruction set than the "
           "best one.\n"
           ".SH EXIT STATUS\n0: done. 1: it failed. 2: wrong usage. 130: interrupted.\n");
    return EXIT_OK;
}

const struct command command_manual = {
    .name = "manual",
    .arguments = "",
    .summary = "print the manual page, for man",
    .run = run,
};
