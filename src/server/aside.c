/* Runs slow work of handlers, which needs no model, on separate threads, so that the HTTP thread does not block. */
#include "server/server_private.h"

struct aside {
    struct exchange *exchange;
    void (*work)(struct exchange *exchange);
};

static void *run(void *context)
{
    struct aside aside = *(struct aside *)context;
    struct server *server = exchange_server(aside.exchange);
    memory_free(context);
    aside.work(aside.exchange);
    exchange_release(aside.exchange);
    atomic_fetch_sub(&server->aside, 1);
    return NULL;
}

void exchange_aside(struct exchange *exchange, void (*work)(struct exchange *exchange))
{
    struct aside *aside;
    pthread_t thread;
    if (ALLOCATE(&aside, 1, "request", NULL)) {
        work(exchange);
        return;
    }
    *aside = (struct aside){exchange, work};
    exchange_hold(exchange);
    atomic_fetch_add(&exchange_server(exchange)->aside, 1);
    if (pthread_create(&thread, NULL, run, aside))
        run(aside);
    else
        pthread_detach(thread);
}
