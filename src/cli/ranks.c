/* Under mpirun: rank 0 runs the command, and the other ranks compute for it. */
#include "cli/engine_cli.h"

#include "cluster/cluster.h"

#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

/* The longest time that leaving may take. */
#define LEAVE_SECONDS 10u

static bool serving;
static int own_output = -1, own_errors = -1;

void on_termination(int number)
{
    (void)number;
    cluster_terminate();
}

static void on_continuing(int number)
{
    (void)number;
    cluster_continue();
}

static void catch_signal(int number, void (*handler)(int))
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(number, &action, NULL);
}

/* Runs on the cluster's thread. Rank 0 reports what happened, or rank 1 if rank 0 is lost; mpirun then ends the other
 * ranks. A server keeps running and answers with status 503, unless it is being ended. */
static void on_event(void *context, enum cluster_event event, const char *sentence)
{
    (void)context;
    const uint32_t rank = cluster_rank(cluster_here());
    if (event == CLUSTER_TERMINATED) {
        if (rank)
            _exit(EXIT_FAILED);
        if (serving)
            return; /* the server ends itself */
        catch_signal(SIGTERM, SIG_DFL);
        raise(SIGTERM);
        return;
    }
    if (serving && rank == 0 && !cluster_terminating()) {
        log_write(LOG_ERROR, "%s", sentence);
        return;
    }
    if (rank <= 1 && event == CLUSTER_LOST && first_to_say_lost()) {
        clear_line();
        fprintf(stderr, "hypura: %s\n", sentence);
    }
    _exit(EXIT_FAILED);
}

void hosts_be_quiet(void)
{
    if (cluster_rank_started() == 0)
        return;
    int nothing = open("/dev/null", O_WRONLY | O_CLOEXEC);
    own_output = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
    own_errors = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    if (nothing >= 0 && own_output >= 0 && own_errors >= 0) {
        dup2(nothing, STDOUT_FILENO);
        dup2(nothing, STDERR_FILENO);
    }
    if (nothing >= 0)
        close(nothing);
}

static void speak_again(void)
{
    if (own_output >= 0 && own_errors >= 0) {
        dup2(own_output, STDOUT_FILENO);
        dup2(own_errors, STDERR_FILENO);
    }
}

static bool computes(const struct command *command)
{
    for (size_t t = 0; t < COUNT_OF(command->options) && command->options[t]; t++)
        if (command->options[t] == engine_option_rows)
            return true;
    return false;
}

static int work_for_rank_0(const struct command *command)
{
    hypura_error error;
    struct engine_options options;
    hypura_status status = engine_options_of(&options, &error);
    if (!status && command->leaves_gpus && !options.gpu)
        options.gpu = "none";
    if (!status)
        status = engine_serve(&options, &error);
    if (!status)
        return EXIT_OK;
    if (status != HYPURA_ERROR_HOST) /* on_event reports that */
        report_error(&error);
    return EXIT_FAILED;
}

static int leave(int status)
{
    hypura_error error;
    const bool lost = cluster_here() && cluster_check(cluster_here(), &error);
    fflush(stdout);
    catch_signal(SIGALRM, SIG_DFL);
    alarm(LEAVE_SECONDS); /* other ranks may not respond */
    cluster_end();
    alarm(0);
    if (lost)
        _exit(status == EXIT_OK ? EXIT_FAILED : status);
    return status;
}

int run_on_hosts(const struct command *command, size_t count, char **arguments)
{
    hypura_error error;
    if (cluster_ranks_started() < 2)
        return command->run(count, arguments);
    if (!computes(command))
        return cluster_rank_started() ? EXIT_OK : command->run(count, arguments);
    speak_again();
    serving = command->lives_on;
    catch_signal(SIGTERM, on_termination);
    catch_signal(SIGCONT, on_continuing);
    if (cluster_start(on_event, NULL, &error)) {
        if (cluster_rank_started() == 0)
            report_error(&error);
        _exit(EXIT_FAILED);
    }
    return leave(cluster_rank_started() ? work_for_rank_0(command) : command->run(count, arguments));
}
