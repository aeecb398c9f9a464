/* Which of many sockets are ready: epoll where there is one, else poll. For one thread. */
#ifndef HYPURA_SERVER_POLLER_H
#define HYPURA_SERVER_POLLER_H

#include "core/core.h"

enum { POLLER_READ = 1, POLLER_WRITE = 2, POLLER_ENDED = 4 }; /* the last is told unasked: it is closed, or broken */

struct poller;
struct poller_event {
    void *what;
    unsigned ready;
};

hypura_status poller_create(struct poller **out, hypura_error *error);
void poller_destroy(struct poller *poller);

/* False: there is no memory. */
bool poller_add(struct poller *poller, int file, unsigned wanted, void *what);
bool poller_change(struct poller *poller, int file, unsigned wanted, void *what);
void poller_remove(struct poller *poller, int file);

/* How many events there are, at most room. */
size_t poller_wait(struct poller *poller, struct poller_event *events, size_t room, int milliseconds);

#endif
