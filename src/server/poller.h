/* Waits for many sockets at once, with epoll where the system has it, else with poll. For one thread. */
#ifndef HYPURA_SERVER_POLLER_H
#define HYPURA_SERVER_POLLER_H

#include "core/core.h"

enum { POLLER_READ = 1, POLLER_WRITE = 2, POLLER_ENDED = 4 }; /* POLLER_ENDED: closed or broken; always reported */

struct poller;
struct poller_event {
    void *what;
    unsigned ready;
};

hypura_status poller_create(struct poller **out, hypura_error *error);
void poller_destroy(struct poller *poller);

/* False: out of memory. */
bool poller_add(struct poller *poller, int file, unsigned wanted, void *what);
bool poller_change(struct poller *poller, int file, unsigned wanted, void *what);
void poller_remove(struct poller *poller, int file);

/* Waits and returns the number of events, at most room. */
size_t poller_wait(struct poller *poller, struct poller_event *events, size_t room, int milliseconds);

#endif
