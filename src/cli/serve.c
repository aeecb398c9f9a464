/* hypura serve: the HTTP server. */
#include "cli/engine_cli.h"
#include "server/server.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static struct server_options serving;
static const char *port_text, *keep_alive_text;
static struct texts origins, allowed_hosts;

static const struct option_row serve_rows[] = {
    {"host", "HOST", OPTION_TEXT, &serving.host, "address to listen on (default: 127.0.0.1)"},
    {"port", "N", OPTION_TEXT, &port_text, "port to listen on; 0: any free port (default: 11434)"},
    {"models", "DIR", OPTION_TEXT, &serving.model_folder,
     "folder of models (default: $HYPURA_MODELS, else ~/.local/share/hypura/models)"},
    {"parallel", "N", OPTION_COUNT, &serving.parallel, "answers that each model writes at the same time (default: 4)"},
    {"max-loaded", "N", OPTION_COUNT, &serving.most_loaded,
     "most models in memory at the same time, if --memory allows (default: 4)"},
    {"queue", "N", OPTION_COUNT, &serving.queue, "most requests that wait; further ones get status 503 (default: 512)"},
    {"keep-alive", "SECONDS", OPTION_TEXT, &keep_alive_text,
     "how long an unused model stays in memory; -1: forever (default: 300)"},
    {"api-key", "KEY", OPTION_TEXT, &serving.api_key,
     "require this key in every request (default: $HYPURA_API_KEY, else none)"},
    {"cors", "ORIGIN", OPTION_TEXTS, &origins,
     "allow requests from web pages of this origin, such as https://example.org, or * for all; may be repeated"},
    {"allow-host", "NAME", OPTION_TEXTS, &allowed_hosts,
     "also accept requests whose Host header is NAME, such as llm.example.org behind a proxy; may be repeated"},
    {"allow-remote", NULL, OPTION_FLAG, &serving.allow_remote,
     "allow listening without a key on an address that other machines can reach"},
    {"body-limit", "SIZE", OPTION_BYTES, &serving.body_limit, "largest size of a request (default: 32M)"},
    {"connections", "N", OPTION_COUNT, &serving.connections, "most connections at the same time (default: 1024)"},
    {"request-time", "SECONDS", OPTION_COUNT, &serving.request_seconds,
     "how long a request may take to arrive (default: 120)"},
    {"keep-volatile-headers", NULL, OPTION_FLAG, &serving.keep_volatile_headers,
     "keep the lines that some clients put before the system message and change with every request; they are left out "
     "by default, since they prevent reuse of the prompt"},
    {"log-prompts", NULL, OPTION_FLAG, &serving.log_prompts, "write prompts to the log"},
    {0},
};

static void log_line(const char *line, size_t size)
{
    fwrite(line, 1, size, stderr);
}

static void prepare(void)
{
    server_default_options(&serving);
    serving.log = log_line;
}

static void on_signal(int number)
{
    if (number == SIGTERM)
        on_termination(number);
    server_stop();
}

static void say_where(void *context, uint16_t port)
{
    (void)context;
    printf("http://%s:%u\n", strchr(serving.host, ':') ? "[::1]" : serving.host, port);
    fflush(stdout);
}

static bool read_whole(const char *text, long least, long most, long *out)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (end == text || *end || value < least || value > most)
        return false;
    *out = value;
    return true;
}

/* Adds a file that is to be served. Models in the model folder are served anyway. */
static hypura_status add_model(const char **models, const char *given, hypura_error *error)
{
    const char *path;
    hypura_status status = model_path(&path, given, serving.model_folder, error);
    if (status || path != given)
        return status;
    struct stat info;
    if (access(path, R_OK) || stat(path, &info))
        return error_set_errno(error, errno, "cannot open %s", path);
    if (!S_ISREG(info.st_mode))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%s is not a file; expected a GGUF file, or the name of a model",
                         path);
    models[serving.model_count++] = path;
    return HYPURA_OK;
}

static int run(size_t count, char **arguments)
{
    hypura_error error = {0};
    static char folder[PATH_MAX];
    long port = serving.port, keep_alive = (long)serving.keep_alive;
    if (port_text && !read_whole(port_text, 0, 65535, &port))
        return report_usage(&command_serve, "--port: \"%s\" is not a port", port_text);
    if (keep_alive_text && !read_whole(keep_alive_text, -1, INT_MAX, &keep_alive))
        return report_usage(&command_serve, "--keep-alive: \"%s\" is not a number of seconds", keep_alive_text);
    if (serving.parallel < 1 || serving.parallel > SERVER_MOST_PARALLEL)
        return report_usage(&command_serve, "--parallel: expected 1 to %d", SERVER_MOST_PARALLEL);
    if (serving.connections < 1 || serving.request_seconds < 1)
        return report_usage(&command_serve, "--connections and --request-time: expected at least 1");
    if (serving.most_loaded < 1 || serving.most_loaded > SERVER_MOST_LOADED)
        return report_usage(&command_serve, "--max-loaded: expected 1 to %d", SERVER_MOST_LOADED);
    for (size_t i = 0; i < allowed_hosts.count; i++)
        if (!*allowed_hosts.items[i] || strpbrk(allowed_hosts.items[i], "/ "))
            return report_usage(&command_serve, "--allow-host: \"%s\" is not a host name such as llm.example.org",
                                allowed_hosts.items[i]);
    serving.port = (uint16_t)port;
    serving.keep_alive = keep_alive;
    if (!serving.model_folder) {
        if (model_folder_default(folder, sizeof folder, &error))
            return report_error(&error);
        serving.model_folder = folder;
    }
    if (!serving.api_key)
        serving.api_key = getenv("HYPURA_API_KEY");
    if (serving.api_key && !*serving.api_key)
        serving.api_key = NULL;
    /* The embedded model answers requests that name no model. */
    const char *embedded = default_model_path(NULL);
    const char **models;
    if (ALLOCATE(&models, count + 1, "model list", &error))
        return report_error(&error);
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && i < count; i++)
        status = add_model(models, arguments[i], &error);
    if (embedded)
        models[serving.model_count++] = embedded;
    serving.models = models;
    if (count > 0)
        serving.preload = serving.model_count && models[0] == arguments[0] ? "" : arguments[0];
    serving.origins = origins.items;
    serving.origin_count = origins.count;
    serving.allowed_hosts = allowed_hosts.items;
    serving.allowed_host_count = allowed_hosts.count;
    if (!status)
        status = engine_options_of(&serving.engine, &error);
    serving.engine.draft_optional = true; /* it may not suit every model that is served */
    serving.engine.begin_early = true;
    if (!status) {
        memory_keep_little(); /* return freed memory to the system, where the next request can use it */
        struct sigaction action = {.sa_handler = on_signal};
        sigemptyset(&action.sa_mask);
        sigaction(SIGINT, &action, NULL);
        sigaction(SIGTERM, &action, NULL);
        live_memory_start(NULL, compute_options.memory_file);
        status = server_run(&serving, say_where, NULL, &error);
        live_memory_stop();
    }
    memory_free(models);
    return status ? report_error(&error) : EXIT_OK;
}

const struct command command_serve = {
    .name = "serve",
    .arguments = "[MODEL]...",
    .summary = "answer over HTTP, with the APIs of Ollama, OpenAI and Anthropic",
    .details =
        "Serves the models on the command line, those in the model folder, and the embedded one. A model is loaded "
        "when a request names it, next to others if --memory has room for both. Each of the --parallel answers has a "
        "context of --context tokens; if memory is short, they share room for fewer. The server prints its address to "
        "standard output once it accepts requests, and its log to standard error. Ctrl-C ends the server after its "
        "running answers; a second Ctrl-C ends it at once.",
    .options = {serve_rows, plan_option_rows, engine_option_rows, draft_option_rows, prefix_option_rows},
    .most = 64,
    .lives_on = true,
    .prepare = prepare,
    .run = run,
};
