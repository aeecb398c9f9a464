/* What several commands need: interrupts, files, finding models. */
#include "cli/child.h"
#include "cli/engine_cli.h"
#include "server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#ifdef __APPLE__
#include <mach-o/dyld.h>
#endif

#define EMBEDDED_MODEL "manpage-moe-24m-Q4_K_M.gguf"

static struct engine *volatile engine_to_cancel;
static hypura_session *volatile session_to_cancel;
static volatile sig_atomic_t interrupt_count, line_is_read;
static int wake[2] = {-1, -1}; /* a pipe that wakes the thread that waits for keys, whichever thread gets the signal */

static void on_interrupt(int number)
{
    (void)number;
    int before = errno;
    if (interrupt_count++ && !line_is_read)
        _exit(EXIT_INTERRUPTED);
    if (line_is_read && write(wake[1], "", 1) < 0)
        errno = before; /* the pipe is full, so the thread wakes anyway */
    if (engine_to_cancel)
        engine_cancel(engine_to_cancel, true);
    if (session_to_cancel)
        hypura_cancel(session_to_cancel, true);
}

static void handle_interrupts(bool afresh)
{
    if (afresh)
        interrupt_count = 0;
    /* SA_RESTART: after an interrupted write, such as to a stopped terminal, stdio would drop the output. */
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
}

void interrupts_cancel(struct engine *engine)
{
    engine_to_cancel = engine;
    handle_interrupts(engine != NULL);
}

void interrupts_cancel_session(hypura_session *session)
{
    session_to_cancel = session;
    handle_interrupts(session != NULL);
}

void interrupts_wait_for_line(bool wait)
{
    if (wait && wake[0] < 0 && pipe(wake) == 0)
        for (int i = 0; i < 2; i++)
            fcntl(wake[i], F_SETFL, O_NONBLOCK);
    line_is_read = wait;
}

bool interrupts_wait_for_input(int file)
{
    struct pollfd both[] = {{.fd = file, .events = POLLIN}, {.fd = wake[0], .events = POLLIN}};
    char bytes[16];
    while (!interrupted() && poll(both, COUNT_OF(both), -1) < 0 && errno == EINTR)
        continue;
    while (wake[0] >= 0 && read(wake[0], bytes, sizeof bytes) > 0)
        continue;
    return !interrupted();
}

bool interrupted(void)
{
    return interrupt_count != 0;
}

json_t *json_text(const char *text)
{
    return text_json(text);
}

void print_json(const json_t *value)
{
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;
    if (text) /* otherwise command_main reports the lack of memory */
        puts(text);
    free(text);
}

hypura_status read_whole_file(const char *path, uint64_t limit, char **text, size_t *size, hypura_error *error)
{
    bool standard_input = strcmp(path, "-") == 0;
    FILE *file = standard_input ? stdin : fopen(path, "rbe");
    if (!file)
        return error_set_errno(error, errno, "cannot open %s", path);
    struct buffer buffer = {.limit = (size_t)limit};
    uint64_t failures = memory_failures();
    char piece[65536];
    size_t got;
    while ((got = fread(piece, 1, sizeof piece, file)) > 0 && !buffer.failed)
        buffer_append(&buffer, piece, got);
    int failed = ferror(file) ? errno : 0;
    if (!standard_input)
        fclose(file);
    buffer_append(&buffer, "", 0);
    if (failed || buffer.failed) {
        buffer_free(&buffer);
        const char *shown = standard_input ? "standard input" : path;
        if (failed)
            return error_set_errno(error, failed, "cannot read %s", shown);
        if (memory_check(failures, "input text", error))
            return error->status;
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%s is larger than %llu bytes, the limit for this input", shown,
                         (unsigned long long)limit);
    }
    *text = buffer.data;
    *size = buffer.size;
    return HYPURA_OK;
}

bool program_path(char *path, size_t room)
{
#ifdef __APPLE__
    char given[PATH_MAX];
    uint32_t length = sizeof given;
    char real[PATH_MAX];
    if (_NSGetExecutablePath(given, &length) || !realpath(given, real) || strlen(real) >= room)
        return false;
    strcpy(path, real);
#else
    ssize_t length = readlink("/proc/self/exe", path, room - 1);
    if (length <= 0)
        return false;
    path[length] = 0;
#endif
    return true;
}

static bool program_folder(char *folder, size_t room)
{
    char *slash = program_path(folder, room) ? strrchr(folder, '/') : NULL;
    if (!slash)
        return false;
    *slash = 0;
    return true;
}

hypura_status named_values(const char *option, const struct texts *given, json_t **out, hypura_error *error)
{
    uint64_t failures = memory_failures();
    json_t *object = given->count ? json_object() : NULL;
    for (size_t i = 0; i < given->count; i++) {
        const char *equals = strchr(given->items[i], '=');
        if (!equals || equals == given->items[i]) {
            json_decref(object);
            return error_set(error, HYPURA_ERROR_ARGUMENT, "%s %s: expected NAME=VALUE", option, given->items[i]);
        }
        json_t *value = read_json(equals + 1, strlen(equals + 1), JSON_DECODE_ANY, NULL);
        if (!value)
            value = json_string(equals + 1);
        json_object_setn_new(object, given->items[i], (size_t)(equals - given->items[i]), value);
    }
    hypura_status status = memory_check(failures, "given values", error);
    if (status)
        json_decref(object);
    else
        *out = object;
    return status;
}

hypura_status open_registry(struct registry **out, const char *folder, hypura_error *error)
{
    char usual[PATH_MAX];
    if (!folder) {
        hypura_status status = model_folder_default(usual, sizeof usual, error);
        if (status)
            return status;
        folder = usual;
    }
    const char *embedded = default_model_path(NULL);
    return registry_open(out, folder, &embedded, embedded ? 1 : 0, error);
}

hypura_status model_path(const char **path, const char *given, const char *folder, hypura_error *error)
{
    static char found[PATH_MAX];
    *path = given ? given : default_model_path(error);
    if (!given)
        return *path ? HYPURA_OK : error->status;
    size_t length = strlen(given);
    if (length == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the name of the model is empty");
    bool file = length > 5 && strcasecmp(given + length - 5, ".gguf") == 0;
    bool remote = strncmp(given, "https://", 8) == 0 || strncmp(given, "http://", 7) == 0;
    if (remote)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%.300s is not on this machine: \"hypura pull %.300s\" downloads it, and \"hypura list\" then "
                         "shows its name",
                         given, given);
    if (file || access(given, F_OK) == 0)
        return HYPURA_OK; /* opening it reports what is wrong, if anything */
    struct registry *registry;
    hypura_status status = open_registry(&registry, folder, error);
    if (status)
        return status;
    status = registry_file(registry, given, found, sizeof found, error);
    registry_close(registry);
    *path = found;
    if (!status || status == HYPURA_ERROR_MEMORY || status == HYPURA_ERROR_FORMAT)
        return status;
    if (strchr(given, ' '))
        return error_set(
            error, HYPURA_ERROR_IO,
            "there is no file and no model \"%.200s\"; if this is a prompt, name the model before it, or use "
            "--prompt",
            given);
    return error_set(error, HYPURA_ERROR_IO,
                     "there is no file and no model \"%.200s\": \"hypura list\" shows the installed models, "
                     "\"hypura pull %.200s\" downloads one",
                     given, given);
}

const char *default_model_path(hypura_error *error)
{
    static char path[PATH_MAX + 64];
    const char *chosen = getenv("HYPURA_MODEL");
    if (chosen && *chosen)
        return chosen;
    char folder[PATH_MAX];
    if (program_folder(folder, sizeof folder)) {
        static const char *const beside[] = {"../share/hypura/models", "../models"};
        for (size_t i = 0; i < COUNT_OF(beside); i++) {
            snprintf(path, sizeof path, "%s/%s/" EMBEDDED_MODEL, folder, beside[i]);
            if (access(path, R_OK) == 0)
                return path;
        }
    }
    snprintf(path, sizeof path, "%s/" EMBEDDED_MODEL, HYPURA_MODEL_FOLDER);
    if (access(path, R_OK) == 0)
        return path;
    error_set(error, HYPURA_ERROR_IO,
              "no model was named, and the embedded one is not at %s; name a GGUF file or set HYPURA_MODEL", path);
    return NULL;
}
