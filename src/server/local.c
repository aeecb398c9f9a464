/* Requests that come from this process: the same answers, without HTTP. */
#include "server/http_private.h"
#include "server/loaded.h"
#include "server/worker.h"

#include <string.h>

struct local_server {
    struct http http;
};

/* ---- loading --------------------------------------------------------------------------------------------------------
 */

/* A job that is over once its model is there, or cannot be. Whoever waits owns it. */
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
    hypura_status kind = status == 499   ? HYPURA_ERROR_CANCELLED
                         : status == 503 ? HYPURA_ERROR_MEMORY
                                         : HYPURA_ERROR_IO;
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

hypura_status local_server_open(struct local_server **out, const struct server_options *options, hypura_error *error)
{
    struct local_server *local;
    hypura_status status = ALLOCATE(&local, 1, "server", error);
    if (status)
        return status;
    server_log_warnings_only();
    pthread_mutex_init(&local->http.mutex, NULL);
    status = server_open(&local->http.server, options, error);
    if (!status)
        status = load(&local->http.server, error);
    local->http.server.options.engine.progress = NULL; /* of this loading: its context may be gone at another */
    if (status)
        local_server_close(local);
    else
        *out = local;
    return status;
}

void local_server_close(struct local_server *local)
{
    if (!local)
        return;
    atomic_store(&local->http.server.stopping, true);
    server_close(&local->http.server);
    pthread_mutex_destroy(&local->http.mutex);
    memory_free(local);
}

/* ---- asking ---------------------------------------------------------------------------------------------------------
 */

static const struct route *find(const char *path)
{
    for (size_t i = 0; i < route_count; i++) {
        if (strcmp(routes[i].method, "POST") == 0 && strcmp(routes[i].path, path) == 0)
            return &routes[i];
    }
    return NULL;
}

hypura_status local_server_ask(struct local_server *local, const char *path, json_t *body,
                               void (*answered)(void *asker, unsigned status, const char *text, size_t size),
                               void *asker, hypura_error *error)
{
    struct exchange *exchange;
    const struct route *route = find(path);
    hypura_status status = route ? ALLOCATE(&exchange, 1, "request", error)
                                 : error_set(error, HYPURA_ERROR_ARGUMENT, "nothing answers to \"%.100s\"", path);
    if (!status && json_is_true(json_object_get(body, "stream"))) {
        memory_free(exchange);
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "the answer is given as a whole, without \"stream\"");
    }
    if (status) {
        json_decref(body);
        return status;
    }
    pthread_mutex_init(&exchange->mutex, NULL);
    exchange->references = 1;
    exchange->http = &local->http;
    exchange->route = route;
    exchange->rest = "";
    exchange->json = body;
    exchange->start = clock_nanoseconds();
    exchange->socket = -1;
    exchange->answered = answered;
    exchange->asker = asker;
    random_hex(exchange->id, 16);
    exchange_start_work();
    route->handle(exchange);
    exchange_release(exchange);
    return HYPURA_OK;
}

/* ---- looking in -----------------------------------------------------------------------------------------------------
 */

static void look(void *context, struct loaded_model *loaded)
{
    struct local_state *state = context;
    const struct plan *plan = engine_plan(loaded->engine);
    struct engine_statistics s;
    engine_statistics(loaded->engine, &s);
    *state = (struct local_state){.mode = plan->mode,
                                  .budget = s.budget_bytes,
                                  .sequences = plan->sequences,
                                  .positions = plan->positions,
                                  .tokens = s.prompt_tokens + s.generated_tokens,
                                  .bytes_read = s.store.bytes_read};
    snprintf(state->name, sizeof state->name, "%s", loaded->entry.name);
}

void local_server_state(struct local_server *local, struct local_state *out)
{
    *out = (struct local_state){0};
    server_follow_budget(&local->http.server);
    loaded_each(local->http.server.models, look, out);
}
