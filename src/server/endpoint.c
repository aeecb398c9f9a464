/* Implements hypura/endpoint.h: answers requests of this process as the server would, without HTTP. */
#include "api/opening.h"
#include "core/json_text.h"
#include "server/http_private.h"
#include "server/loaded.h"
#include "server/worker.h"

#include <hypura/endpoint.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define USUAL_SESSIONS 4
#define BODY_LIMIT ((size_t)32 << 20)
#define AHEAD 2 /* waiting requests per session */

struct hypura_endpoint {
    struct http http;
    struct opening opening;
    char *path;
    const char *model; /* the path, as server_options.models takes it */
    char name[256];
};

/* ---- loading --------------------------------------------------------------------------------------------------------
 */

/* A job that is done once its model is loaded or refused. It is on the stack of the thread that waits for it. */
struct arrival {
    struct job job; /* first */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool over;
    hypura_error error;
};

static void arrive(struct arrival *arrival)
{
    pthread_mutex_lock(&arrival->mutex);
    arrival->over = true;
    pthread_cond_signal(&arrival->changed);
    pthread_mutex_unlock(&arrival->mutex);
}

static void start_arrival(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds)
{
    (void)loaded, (void)load_nanoseconds;
    arrive((struct arrival *)job);
}

static void refuse_arrival(struct job *job, unsigned status, const char *message)
{
    struct arrival *arrival = (struct arrival *)job;
    hypura_status kind = status == 499 ? HYPURA_ERROR_CANCELLED : status == 503 ? HYPURA_ERROR_MEMORY : HYPURA_ERROR_IO;
    error_set(&arrival->error, kind, "%s", message);
    arrive(arrival);
}

static hypura_status load(struct server *server, hypura_error *error)
{
    struct arrival arrival = {
        .job = {.needs_model = true, .brief = true, .start = start_arrival, .refuse = refuse_arrival}};
    hypura_status status = registry_find(server->registry, server->options.preload, &arrival.job.model, error);
    if (status)
        return status;
    pthread_mutex_init(&arrival.mutex, NULL);
    pthread_cond_init(&arrival.changed, NULL);
    worker_submit(server->worker, &arrival.job);
    pthread_mutex_lock(&arrival.mutex);
    while (!arrival.over)
        pthread_cond_wait(&arrival.changed, &arrival.mutex);
    pthread_mutex_unlock(&arrival.mutex);
    pthread_mutex_destroy(&arrival.mutex);
    pthread_cond_destroy(&arrival.changed);
    model_entry_free(&arrival.job.model);
    if (arrival.error.status)
        *error = arrival.error;
    return arrival.error.status;
}

static void look(void *context, struct loaded_model *loaded)
{
    hypura_endpoint_state *state = context;
    const struct plan *plan = engine_plan(loaded->engine);
    struct engine_statistics s;
    engine_statistics(loaded->engine, &s);
    state->mode = plan_mode_name(plan->mode);
    state->sessions = plan->sequences;
    state->context_tokens = plan->positions;
    state->tokens = s.prompt_tokens + s.generated_tokens;
    state->read_bytes = s.store.bytes_read;
}

static void take_name(void *context, struct loaded_model *loaded)
{
    hypura_endpoint *endpoint = context;
    snprintf(endpoint->name, sizeof endpoint->name, "%s", loaded->entry.name);
}

/* Opens a server with this one model and without a model folder. */
static hypura_status open_endpoint(hypura_endpoint *endpoint, const char *path, const hypura_options *given,
                                   hypura_error *error)
{
    struct server_options options;
    server_default_options(&options);
    hypura_status status = read_options(&endpoint->opening, given, error);
    if (status)
        return status;
    options.parallel = endpoint->opening.given.sessions ? endpoint->opening.given.sessions : USUAL_SESSIONS;
    if (options.parallel > HYPURA_ENDPOINT_SESSIONS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "options.sessions is %u: an endpoint has at most %d",
                         options.parallel, HYPURA_ENDPOINT_SESSIONS);
    if (endpoint->opening.given.text_only)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "an endpoint needs the model's weights: leave options.text_only unset");
    if (access(path, R_OK))
        return error_set_errno(error, errno, "cannot open %s", path);
    status = keep_options(&endpoint->opening, error);
    if (!status)
        status = string_copy(&endpoint->path, path, error);
    if (status)
        return status;
    endpoint->model = endpoint->path;
    options.model_folder = "";
    options.models = &endpoint->model;
    options.model_count = 1;
    options.preload = "";
    options.queue = AHEAD * HYPURA_ENDPOINT_SESSIONS;
    options.keep_alive = -1;
    options.engine = endpoint->opening.engine;
    status = server_open(&endpoint->http.server, &options, error);
    return status ? status : load(&endpoint->http.server, error);
}

hypura_status hypura_endpoint_open(hypura_endpoint **out, const char *path, const hypura_options *options,
                                   hypura_error *error)
{
    hypura_endpoint *endpoint;
    hypura_status status = ALLOCATE(&endpoint, 1, "endpoint", error);
    if (status)
        return status;
    pthread_mutex_init(&endpoint->http.mutex, NULL);
    status = open_endpoint(endpoint, path, options, error);
    endpoint->http.server.options.engine.progress = NULL; /* a later reload may outlive its context */
    if (status) {
        hypura_endpoint_close(endpoint);
        return status;
    }
    loaded_each(endpoint->http.server.models, take_name, endpoint);
    if (!*endpoint->name) {
        hypura_endpoint_close(endpoint);
        return error_set(error, HYPURA_ERROR_IO, "%s was changed while it was being loaded", path);
    }
    *out = endpoint;
    return HYPURA_OK;
}

void hypura_endpoint_close(hypura_endpoint *endpoint)
{
    if (!endpoint)
        return;
    atomic_store(&endpoint->http.server.stopping, true);
    server_close(&endpoint->http.server);
    pthread_mutex_destroy(&endpoint->http.mutex);
    close_options(&endpoint->opening);
    memory_free(endpoint->path);
    memory_free(endpoint);
}

/* ---- requests ------------------------------------------------------------------------------------------------------
 */

static const struct route *find(const char *path)
{
    for (size_t i = 0; i < route_count; i++) {
        if (strcmp(routes[i].method, "POST") == 0 && strcmp(routes[i].path, path) == 0)
            return &routes[i];
    }
    return NULL;
}

static bool is_of_a_model(const char *path)
{
    static const char *const paths[] = {
        "/v1/chat/completions", "/v1/completions", "/v1/responses",  "/v1/responses/input_tokens", "/v1/embeddings",
        "/v1/rerank",           "/rerank",         "/v1/messages",   "/v1/messages/count_tokens",  "/api/chat",
        "/api/generate",        "/api/embed",      "/api/embeddings"};
    bool found = false;
    for (size_t i = 0; i < COUNT_OF(paths); i++)
        found |= strcmp(paths[i], path) == 0;
    return found;
}

static hypura_status read_body(json_t **out, const char *body, size_t size, hypura_error *error)
{
    json_error_t where;
    uint64_t failures = memory_failures();
    if (size > BODY_LIMIT)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the request has %zu bytes, more than the limit of %zu", size,
                         BODY_LIMIT);
    json_t *json = json_text_read(body, size, 0, &where);
    hypura_status status = memory_check(failures, "request", error);
    if (!status && !json)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "the request is not valid JSON: line %d, column %d: %s",
                           where.line, where.column, where.text);
    else if (!status && !json_is_object(json))
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "the request is JSON, but not an object");
    else if (!status && json_is_true(json_object_get(json, "stream")))
        status =
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"stream\" is not supported here: the answer comes as a whole");
    if (status)
        json_decref(json);
    else
        *out = json;
    return status;
}

hypura_status hypura_endpoint_ask(hypura_endpoint *endpoint, const char *path, const char *body, size_t size,
                                  hypura_on_reply on_reply, void *context, hypura_error *error)
{
    struct exchange *exchange;
    json_t *json = NULL;
    const struct route *route = is_of_a_model(path) ? find(path) : NULL;
    if (!route)
        return error_set(
            error, HYPURA_ERROR_ARGUMENT,
            "unknown path \"%.100s\": it must be that of a request to a model, such as /v1/chat/completions", path);
    hypura_status status = read_body(&json, body, size, error);
    if (!status && json_object_set_new(json, "model", json_string(endpoint->name))) /* replaces any other name */
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for the request");
    if (!status)
        status = ALLOCATE(&exchange, 1, "request", error);
    if (status) {
        json_decref(json);
        return status;
    }
    pthread_mutex_init(&exchange->mutex, NULL);
    exchange->references = 1;
    exchange->http = &endpoint->http;
    exchange->route = route;
    exchange->rest = "";
    exchange->json = json;
    exchange->start = clock_nanoseconds();
    exchange->socket = -1;
    exchange->answered = on_reply;
    exchange->asker = context;
    random_hex(exchange->id, 16);
    exchange_start_work();
    route->handle(exchange);
    exchange_release(exchange);
    return HYPURA_OK;
}

/* ---- state and budget ----------------------------------------------------------------------------------------------
 */

void hypura_endpoint_get_state(hypura_endpoint *endpoint, hypura_endpoint_state *out)
{
    hypura_endpoint_state state = {.name = endpoint->name, .mode = ""};
    server_follow_budget(&endpoint->http.server);
    state.memory_bytes = loaded_budget(endpoint->http.server.models);
    loaded_each(endpoint->http.server.models, look, &state);
    give_struct(out, &state, sizeof state);
}

hypura_status hypura_endpoint_set_memory(hypura_endpoint *endpoint, uint64_t bytes, hypura_error *error)
{
    if (!bytes) {
        struct hardware hardware;
        hypura_status status = hardware_detect(&hardware, endpoint->path, error);
        if (status)
            return status;
        bytes = hardware_default_budget(&hardware) + memory_resident_bytes();
    }
    change_budget(&endpoint->http.server, NULL, bytes);
    return HYPURA_OK;
}
