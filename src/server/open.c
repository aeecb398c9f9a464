/* Opens and closes a server without its HTTP side, as endpoint.c needs it too. */
#include "server/loaded.h"
#include "server/server_private.h"
#include "server/worker.h"

#define GIVE_BACK_BYTES ((unsigned long long)4 << 20) /* freed by requests; the C library keeps freed memory */

static atomic_uint_fast64_t asked_budget; /* 0: no change requested */

void server_set_budget(uint64_t bytes)
{
    atomic_store(&asked_budget, bytes);
}

void server_follow_budget(struct server *server)
{
    uint64_t budget = atomic_exchange(&asked_budget, 0);
    if (budget)
        change_budget(server, NULL, budget);
    if (atomic_load(&server->freed) >= GIVE_BACK_BYTES) {
        atomic_store(&server->freed, 0);
        memory_give_back();
    }
}

void server_default_options(struct server_options *options)
{
    *options = (struct server_options){.host = "127.0.0.1",
                                       .port = 11434,
                                       .parallel = 4,
                                       .most_loaded = 4,
                                       .queue = 512,
                                       .keep_alive = 300,
                                       .body_limit = (uint64_t)32 << 20,
                                       .connections = 1024,
                                       .request_seconds = 120};
    engine_default_options(&options->engine);
    options->engine.begin_early = true;
}

hypura_status server_open(struct server *server, const struct server_options *options, hypura_error *error)
{
    server->options = *options;
    server->start = clock_nanoseconds();
    hypura_status status =
        registry_open(&server->registry, options->model_folder, options->models, options->model_count, error);
    if (!status)
        status = conversations_create(&server->conversations, error);
    if (!status)
        status = loaded_create(&server->models, server, error);
    if (!status)
        status = desk_create(&server->desk, error);
    return status ? status : worker_create(&server->worker, server, error);
}

void server_close(struct server *server)
{
    worker_stop(server->worker);
    desk_destroy(server->desk);
    worker_destroy(server->worker);
    loaded_destroy(server->models);
    conversations_destroy(server->conversations);
    registry_close(server->registry);
}
