#include "cli/engine_cli.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static const struct command *const all[] = {
    &command_run,        &command_serve,      &command_batch,    &command_list,     &command_pull,    &command_rm,
    &command_ps,         &command_stop,       &command_inspect,  &command_estimate, &command_bench,   &command_plot,
    &command_profile,    &command_iobench,    &command_quantize, &command_optimize, &command_imatrix, &command_compare,
    &command_perplexity, &command_replay,     &command_logits,   &command_embed,    &command_synth,   &command_tokenize,
    &command_template,   &command_completion, &command_manual,
};

static void print_help(FILE *out)
{
    fprintf(out, "hypura runs GGUF language models. Models that fit in memory run at memory speed, larger ones\n"
                 "at the speed of the drive.\n\n"
                 "Usage: hypura COMMAND [OPTION]... [ARGUMENT]...\n\n");
    for (size_t i = 0; i < command_count; i++)
        fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(out,
            "\nStart here:\n"
            "  hypura run                              talk to the embedded model\n"
            "  hypura run model.gguf --memory 8G       a model of any size in 8 GiB\n"
            "  hypura inspect model.gguf               where its weights would be kept, and how fast it would run\n"
            "  hypura pull hf.co/USER/REPOSITORY       download a model; \"hypura list\" shows its name for \"hypura "
            "run\"\n"
            "  hypura serve                            the APIs of Ollama, OpenAI and Anthropic, and a page at /ui\n"
            "  mpirun --hostfile FILE --bind-to none hypura run model.gguf\n"
            "                                          a mixture of experts over several hosts\n"
            "\n\"hypura COMMAND --help\" or \"man hypura-COMMAND\" explains a command, \"man hypura\" the rest.\n"
            "\"hypura --version\" prints the version.\n"
            "Exit status: 0 success, 1 failure, 2 wrong usage, 130 interrupted.\n");
}

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < command_count; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    struct nearest nearest = {0};
    const char *hint = command_hint(name);
    size_t length = strlen(name);
    for (size_t i = 0; i < command_count; i++)
        nearest_consider(&nearest, name, commands[i]->name);
    fprintf(stderr, "hypura: there is no command \"%s\"", name);
    if (hint)
        fprintf(stderr, ": %s\n", hint);
    else if (name[0] == '-')
        fprintf(stderr, ": options come after a command, as in \"hypura run --memory 8G\"\n");
    else if ((length > 5 && strcasecmp(name + length - 5, ".gguf") == 0) || access(name, F_OK) == 0)
        fprintf(stderr, ": \"hypura run %s\" runs a model\n", name);
    else if (nearest.name)
        fprintf(stderr, ": perhaps \"hypura %s\"\n", nearest.name);
    else
        fprintf(stderr, ": \"hypura --help\" lists them\n");
    return NULL;
}

/* Not used by hypura serve, which has its own log. */
static void print_warning(void *context, enum log_level level, const char *message)
{
    (void)context;
    if (level < LOG_WARNING)
        return;
    clear_line();
    fprintf(stderr, "hypura: %s\n", message);
}

static int run_command(int count, char **arguments)
{
    if (count < 2) {
        print_help(stderr);
        return EXIT_USAGE;
    }
    const char *name = arguments[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        if (count < 3) {
            print_help(stdout);
            return EXIT_OK;
        }
        const struct command *command = find_command(arguments[2]);
        if (!command)
            return EXIT_USAGE;
        command_help(command, stdout);
        return EXIT_OK;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0 || strcmp(name, "-v") == 0 ||
        strcmp(name, "-V") == 0) {
        puts("hypura " HYPURA_VERSION);
        return EXIT_OK;
    }
    const struct command *command = find_command(name);
    return command ? command_main(command, count - 2, arguments + 2) : EXIT_USAGE;
}

int main(int count, char **arguments)
{
    commands = all;
    command_count = COUNT_OF(all);
    hosts_be_quiet();
    log_set_sink(print_warning, NULL);
    live_memory_prepare();
    signal(SIGXFSZ, SIG_IGN); /* writing beyond the file size limit then fails with an error message */
    int status = run_command(count, arguments);
    /* Output that was not written is a failure. */
    errno = 0;
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "hypura: cannot write to standard output%s%s\n", errno ? ": " : "",
                errno ? strerror(errno) : "");
        return status == EXIT_OK ? EXIT_FAILED : status;
    }
    return status;
}
