/* Ollama's POST /api/pull. */
#include "server/loaded.h"
#include "server/server_private.h"
#include "server/worker.h"

#include <string.h>

#define MAX_PULLS 4

struct request {
    struct exchange *exchange;
    bool stream;
    char reference[2048];
};

static bool write_progress(void *context, const json_t *event)
{
    struct request *request = context;
    bool last = strcmp(json_string_value(json_object_get(event, "status")), "success") == 0;
    if (atomic_load(&exchange_server(request->exchange)->stopping) || !exchange_alive(request->exchange))
        return false;
    if (request->stream)
        return exchange_write_line(request->exchange, json_incref((json_t *)event));
    if (last)
        exchange_reply_json(request->exchange, 200, json_incref((json_t *)event));
    return true;
}

static void *run(void *context)
{
    struct request *request = context;
    struct server *server = exchange_server(request->exchange);
    hypura_error error = {0};
    struct engine_options options = server->options.engine;
    options.budget = loaded_budget(server->models);
    options.reserved = -(int64_t)loaded_resident(server->models); /* loaded models would make room for this one */
    hypura_status status =
        registry_pull(server->registry, request->reference, &options, write_progress, request, &error);
    if (status) {
        exchange_fail_with(request->exchange, &error);
    } else {
        worker_names_changed(server->worker);
        exchange_end(request->exchange);
    }
    server_log(status ? "error" : "info", status ? error.message : "model pulled", "id=%s",
               exchange_id(request->exchange));
    exchange_release(request->exchange);
    memory_free(request);
    atomic_fetch_sub(&server->pulls, 1);
    return NULL;
}

void handle_pull(struct exchange *exchange)
{
    json_t *json = exchange_json(exchange);
    struct server *server = exchange_server(exchange);
    struct request *request;
    hypura_error error = {0};
    const char *name = json_string_value(json_object_get(json, "model"));
    if (!json)
        return;
    if (!name || !*name)
        name = json_string_value(json_object_get(json, "name"));
    char complete[256];
    bool url = name && (strncmp(name, "http://", 7) == 0 || strncmp(name, "https://", 8) == 0);
    if (!name || strlen(name) >= sizeof request->reference ||
        (!url && !model_name_complete(name, complete, sizeof complete))) {
        exchange_fail(exchange, 400, "invalid model name");
        return;
    }
    if (atomic_fetch_add(&server->pulls, 1) >= MAX_PULLS) {
        atomic_fetch_sub(&server->pulls, 1);
        exchange_fail(exchange, 503, "server busy, please try again.  too many downloads at once");
        return;
    }
    pthread_t thread;
    if (ALLOCATE(&request, 1, "download", &error)) {
        atomic_fetch_sub(&server->pulls, 1);
        exchange_fail_with(exchange, &error);
        return;
    }
    request->exchange = exchange;
    request->stream = !json_is_false(json_object_get(json, "stream"));
    strcpy(request->reference, name);
    exchange_hold(exchange);
    if (pthread_create(&thread, NULL, run, request)) {
        exchange_fail(exchange, 500, "cannot start a thread for the download");
        exchange_release(exchange);
        memory_free(request);
        atomic_fetch_sub(&server->pulls, 1);
        return;
    }
    pthread_detach(thread);
}
