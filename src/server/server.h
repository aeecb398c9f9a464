/* The server: HTTP in front of the engine, with the APIs of Ollama, OpenAI and Anthropic, metrics, events and a web
 * page.
 *
 * Threads:
 * - The guard's thread accepts connections and checks requests strictly (guard.h).
 * - libmicrohttpd's thread, called the HTTP thread, receives requests and sends answers.
 * - The desk's threads parse bodies, answer what needs no model, and put the rest as jobs into a bounded queue. They
 *   also make prompts, which may take seconds, once the model of a job is loaded.
 * - The worker's thread owns the engines of all loaded models and steps their generators in turn. Each step is one
 *   batch over all running answers of a model. Answers go back through the exchange of their request; its connection is
 *   suspended while there is nothing to send.
 * - The thread that calls server_run ticks: it feeds the events, and ends requests that take too long to arrive.
 * - Each model is opened, and each download runs, on a thread of its own.
 *
 * The APIs are described in docs/api.md of the Ollama project and in OpenAI's and Anthropic's API references.
 * docs/api.md of this project lists the differences.
 *
 * Nothing from a request is used as a path. Models are found by name in the model folder; names consist of letters,
 * digits, ".", "_", "-", "/" and ":", and are encoded into file names.
 */
#ifndef HYPURA_SERVER_H
#define HYPURA_SERVER_H

#include "engine/engine.h"

#include <jansson.h>

#define SERVER_MOST_LOADED 16
#define SERVER_MOST_PARALLEL 256

struct server_options {
    const char *host; /* default: "127.0.0.1" */
    uint16_t port;    /* default: 11434; 0: any free one */
    const char *model_folder;
    const char *const *models; /* files served in addition to the folder */
    size_t model_count;
    const char *preload;          /* name of a model to load at once; "": the first of models; NULL: none */
    struct engine_options engine; /* budget, context, threads and so on, for every model */
    uint32_t parallel;            /* answers per model at once, at most SERVER_MOST_PARALLEL */
    uint32_t most_loaded;         /* models in memory at once, at most SERVER_MOST_LOADED */
    uint32_t queue;               /* limit of waiting requests */
    const char *api_key;          /* NULL: none required */
    const char *const *origins;   /* of web pages that may call; "*": all */
    size_t origin_count;
    const char *const *allowed_hosts; /* accepted in the Host header besides this machine's names, for a proxy */
    size_t allowed_host_count;
    bool allow_remote;        /* allows a host that is not loopback without a key */
    int64_t keep_alive;       /* seconds that an unused model stays loaded; negative: forever */
    uint64_t body_limit;      /* limit of a request's body, in bytes */
    uint32_t connections;     /* limit of open connections */
    uint32_t request_seconds; /* time limit for a request to arrive */
    bool log_prompts;
    /* Takes lines of the log, from any thread. NULL: only warnings go to the program's log. */
    void (*log)(const char *line, size_t size);
    bool keep_volatile_headers; /* let the model see them (volatile_heads.c) */
};

void server_default_options(struct server_options *options);

/* Serves until server_stop is called. Calls ready, which may be NULL, with the port once connections are accepted. */
hypura_status server_run(const struct server_options *options, void (*ready)(void *context, uint16_t port),
                         void *context, hypura_error *error);

/* Makes server_run accept no more connections and return after the running answers, within ten seconds. A second call
 * ends the answers at once. Async-signal-safe. */
void server_stop(void);

/* Changes the memory budget of the running server, or of the next one. The log has the result. From any thread. */
void server_set_budget(uint64_t bytes);

/* ---- the model folder, for the commands that work without a server --------------------------------------------------
 */

/* Writes $HYPURA_MODELS, else $XDG_DATA_HOME/hypura/models, else ~/.local/share/hypura/models. */
hypura_status model_folder_default(char *path, size_t room, hypura_error *error);

struct registry;

/* files: models outside the folder. Copies all strings. The folder need not exist. */
hypura_status registry_open(struct registry **out, const char *folder, const char *const *files, size_t count,
                            hypura_error *error);
void registry_close(struct registry *registry);

/* {"models": [...]} as GET /api/tags answers; a new reference. Skips models whose manifests cannot be read: *skipped
 * says why the first one is missing, and the log has a warning for each further one. NULL with an error if others might
 * be missing too. */
json_t *registry_tags(struct registry *registry, hypura_error *skipped, hypura_error *error);

/* Writes the path of a model's (first) file. HYPURA_ERROR_IO: there is no model of this name. */
hypura_status registry_file(struct registry *registry, const char *name, char *path, size_t room, hypura_error *error);

hypura_status registry_delete(struct registry *registry, const char *name, hypura_error *error);

/* Gets the progress of a download: one object of POST /api/pull's answer, borrowed. False ends the download. */
typedef bool (*pull_progress)(void *context, const json_t *event);

/* Downloads a model by the URL of a GGUF file, "hf.co/USER/REPOSITORY[:QUANTISATION]", or a name in Ollama's library.
 * Continues an interrupted download. A model that would not run with these options is refused early. */
hypura_status registry_pull(struct registry *registry, const char *reference, const struct engine_options *options,
                            pull_progress progress, void *context, hypura_error *error);

/* ---- a running server, for commands that send it requests ----------------------------------------------------------
 */

/* Sends GET path or, with a body, POST path. *out is the answer's JSON, a new reference. The server is $HYPURA_HOST
 * (host:port or a URL), else 127.0.0.1:11434; the key is $HYPURA_API_KEY. HYPURA_ERROR_IO with the server's message if
 * it refuses. */
hypura_status server_ask(const char *path, const char *body, json_t **out, hypura_error *error);

/* Has the server delete a model of its folder. */
hypura_status server_delete(const char *name, hypura_error *error);

#endif
