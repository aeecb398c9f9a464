/* A guard in front of the HTTP library: it accepts connections, reads them to the letter (wire.h), and passes on only
 * true requests, whatever the library itself would accept. Answers go back unchanged. One thread. */
#ifndef HYPURA_SERVER_GUARD_H
#define HYPURA_SERVER_GUARD_H

#include "core/core.h"

struct guard;
struct guarded; /* a connection */

/* Takes connections from the listening socket, which it closes at its end; at most so many at once. add gets one end of
 * each, which it closes or keeps; it is called on the guard's thread. */
hypura_status guard_start(struct guard **out, int listening, uint32_t most, bool (*add)(void *context, int inner),
                          void *context, hypura_error *error);

/* Accepts no more connections; existing ones continue. From any thread. */
void guard_take_no_more(struct guard *guard);

/* Sends what is left, if that takes no longer than a moment. */
void guard_stop(struct guard *guard);

/* By the socket that add was given, until it is released; NULL: its client has left. From any thread. */
struct guarded *guard_find(struct guard *guard, int inner);
void guard_release(struct guarded *guarded);

/* Whether the connection's request of this number (from 1) was refused, and nothing comes behind it. *status is that of
 * HTTP. From any thread. */
bool guard_refuses(const struct guarded *guarded, unsigned request, unsigned *status, const char **reason);

#endif
