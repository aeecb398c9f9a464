/* SIGUSR1 changes the memory budget of a running program, which keeps its conversations and computed data.
 *
 * The new budget is read from the file of --memory-file. Without that option it is chosen as at a start without
 * --memory: what this process holds, plus what is free, less the headroom. A thread waits for the signal, so it also
 * works in the middle of a long prompt. */
#include "cli/engine_cli.h"
#include "hw/hw.h"
#include "server/server.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>

static hypura_model *model_to_change; /* if both are NULL: the server */
static hypura_endpoint *endpoint_to_change;
static const char *path; /* of --memory-file, or NULL */
static bool running;
static pthread_t thread;
static atomic_bool stop;

hypura_status memory_from_file(uint64_t *out, const char *file, hypura_error *error)
{
    char *text;
    size_t size;
    hypura_status status = read_whole_file(file, 4096, &text, &size, error);
    if (status)
        return status;
    text[strcspn(text, " \t\r\n")] = '\0';
    status = parse_bytes(text, out, error);
    if (!status && *out == 0)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "expected a size such as 8G");
    memory_free(text);
    return status ? error_prefix(error, "%s", file) : HYPURA_OK;
}

/* The budget that a start without --memory would choose now. For a server, whose models may be on any drive. */
static hypura_status usual_budget(uint64_t *out, hypura_error *error)
{
    struct hardware hardware;
    hypura_status status = hardware_detect(&hardware, ".", error);
    if (!status)
        *out = hardware_default_budget(&hardware) + memory_resident_bytes();
    return status;
}

static void change(void)
{
    hypura_error error;
    hypura_statistics now = {.struct_size = sizeof now};
    uint64_t bytes = 0;
    hypura_status status = HYPURA_OK;
    char text[32];
    bool serves = !model_to_change && !endpoint_to_change;
    if (path)
        status = memory_from_file(&bytes, path, &error);
    else if (serves)
        status = usual_budget(&bytes, &error);
    if (!status && serves) {
        server_set_budget(bytes);
        return;
    }
    if (!status && model_to_change)
        status = hypura_set_memory(model_to_change, bytes, &error); /* 0: as at a start */
    else if (!status)
        status = hypura_endpoint_set_memory(endpoint_to_change, bytes, &error);
    if (status) {
        fprintf(stderr, "hypura: the memory budget stays as it is: %s\n", error.message);
        return;
    }
    if (!model_to_change)
        return; /* hypura batch reports the result, from the endpoint's state */
    hypura_get_statistics(model_to_change, &now);
    fprintf(stderr, "hypura: the memory budget is now %s\n", format_bytes(text, sizeof text, (double)now.memory_bytes));
}

static sigset_t signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    return set;
}

static void *wait_for_signal(void *argument)
{
    (void)argument;
    sigset_t set = signals();
    int number;
    while (sigwait(&set, &number) == 0 && !atomic_load(&stop))
        change();
    return NULL;
}

void live_memory_prepare(void)
{
    /* Later threads inherit this mask, so only the waiting thread gets the signal. Until that thread exists, while a
     * prompt is typed or a model is loaded, the signal stays pending and does not end the program. */
    sigset_t set = signals();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

static void start_waiting(const char *memory_file)
{
    path = memory_file;
    atomic_store(&stop, false);
    running = !pthread_create(&thread, NULL, wait_for_signal, NULL); /* on failure, the signal just stays blocked */
}

void live_memory_start(hypura_model *model, const char *memory_file)
{
    model_to_change = model;
    start_waiting(memory_file);
}

void live_memory_start_endpoint(hypura_endpoint *endpoint, const char *memory_file)
{
    endpoint_to_change = endpoint;
    start_waiting(memory_file);
}

void live_memory_stop(void)
{
    if (!running)
        return;
    atomic_store(&stop, true);
    pthread_kill(thread, SIGUSR1);
    pthread_join(thread, NULL);
    running = false;
}
