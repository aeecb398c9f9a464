/* server: HTTP in front of the engine: the APIs of Ollama, OpenAI and Anthropic, metrics, events and a page.
 *
 * Threads:
 * - One takes connections and checks requests to the letter (guard.h).
 * - libmicrohttpd's speaks HTTP: it receives requests and sends answers.
 * - Those of the desk parse bodies, answer what needs no model, and put the rest as jobs into a bounded queue. They
 * also make prompts, which may take seconds, once the model of a job is loaded.
 * - The worker owns the engines of all loaded models and runs their generators in turn; each step is one batch over all
 *   running answers. Answers flow back through the exchange of their request, which is suspended while there is nothing
 *   to send.
 * - One ticks: it feeds the events, and ends requests that take too long to arrive.
 * - Each model is opened, and each download runs, on a thread of its own.
 *
 * Sources: Ollama's API (docs/api.md of that project), OpenAI's and Anthropic's API references. docs/api.md here lists
 * what differs.
 *
 * Nothing that a request says becomes a path: models are found by name in the model folder, and names are made of
 * letters, digits, ".", "_", "-", "/" and ":" that are encoded into file names.
 */
#ifndef HYPURA_SERVER_H
#define HYPURA_SERVER_H

#include "engine/engine.h"

#include <jansson.h>

#define SERVER_MOST_LOADED 16
#define SERVER_MOST_PARALLEL 256

struct server_options {
    const char *host; /* "127.0.0.1" */
    uint16_t port;    /* 0: any that is free */
    const char *model_folder;
    const char *const *models; /* files served in addition to those of the folder */
    size_t model_count;
    const char *preload;          /* loaded at once: a name, "": the first of these; NULL: none */
    struct engine_options engine; /* budget, context, threads ... of every model that is loaded */
    uint32_t parallel;            /* running answers per model, at most SERVER_MOST_PARALLEL */
    uint32_t most_loaded;         /* models in memory at once, at most SERVER_MOST_LOADED */
    uint32_t queue;               /* requests that may wait */
    const char *api_key;          /* NULL: none required */
    const char *const *origins;   /* of pages that may call; "*": all */
    size_t origin_count;
    const char *const *allowed_hosts; /* names in Host that are accepted besides this machine's, as from a proxy */
    size_t allowed_host_count;
    bool allow_remote;        /* a host that is not loopback without a key */
    int64_t keep_alive;       /* seconds that an unused model stays; negative: for good */
    uint64_t body_limit;      /* bytes of a request */
    uint32_t connections;     /* open at once */
    uint32_t request_seconds; /* that a request may take to arrive */
    bool log_prompts;
    void (*log)(const char *line,
                size_t size);   /* takes lines of the log, from any thread; NULL: only warnings are said */
    bool keep_volatile_headers; /* of clients, in front of a system message; otherwise the model does not see them */
};

void server_default_options(struct server_options *options);

/* Serves until server_stop. ready (may be NULL) is called with the port once connections are accepted. */
hypura_status server_run(const struct server_options *options, void (*ready)(void *context, uint16_t port),
                         void *context, hypura_error *error);

/* Asks server_run to end: no new requests, ten seconds for running answers. The second call ends these too.
 * Async-signal-safe. */
void server_stop(void);

/* Changes the memory budget of the server that runs, or of the next one. The log says how it went. From any thread. */
void server_set_budget(uint64_t bytes);

/* ---- the model folder, for the commands that work without a server --------------------------------------------------
 */

/* $HYPURA_MODELS, else $XDG_DATA_HOME/hypura/models, else ~/.local/share/hypura/models, into path. */
hypura_status model_folder_default(char *path, size_t room, hypura_error *error);

struct registry;

/* files: models outside of the folder. Both are copied. The folder need not exist. */
hypura_status registry_open(struct registry **out, const char *folder, const char *const *files, size_t count,
                            hypura_error *error);
void registry_close(struct registry *registry);

/* {"models": [...]} as GET /api/tags gives it; a new reference. A model whose manifest cannot be read is left out, with
 * a warning in the log. NULL with an error if others might be missing too. */
json_t *registry_tags(struct registry *registry, hypura_error *error);

/* The (first) file of a model, into path. HYPURA_ERROR_IO when there is none of that name. */
hypura_status registry_file(struct registry *registry, const char *name, char *path, size_t room, hypura_error *error);

hypura_status registry_delete(struct registry *registry, const char *name, hypura_error *error);

/* Progress of a download: one object of POST /api/pull's answer, borrowed. False ends the download. */
typedef bool (*pull_progress)(void *context, const json_t *event);

/* Downloads a model: a URL of a GGUF file, "hf.co/USER/REPOSITORY[:QUANTISATION]", or a name of Ollama's library. An
 * interrupted download continues. The engine options say what "fits" means. */
hypura_status registry_pull(struct registry *registry, const char *reference, const struct engine_options *options,
                            pull_progress progress, void *context, hypura_error *error);

/* ---- a running server, for commands that ask it --------------------------------------------------------------------
 */

/* GET path, or POST body to it; the answer's JSON is a new reference. The server is that of $HYPURA_HOST (host:port or
 * a URL), else 127.0.0.1:11434; the key that of $HYPURA_API_KEY. HYPURA_ERROR_IO with the server's own words when it
 * refuses. */
hypura_status server_ask(const char *path, const char *body, json_t **out, hypura_error *error);

/* Asks it to delete a model of its own folder. */
hypura_status server_delete(const char *name, hypura_error *error);

#endif
