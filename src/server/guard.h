/* A guard in front of libmicrohttpd. It accepts connections, parses requests strictly (wire.h), and passes on only
 * valid ones, however lenient the installed version of the library is. Answers go back unchanged. It runs on one
 * thread. */
#ifndef HYPURA_SERVER_GUARD_H
#define HYPURA_SERVER_GUARD_H

#include "core/core.h"

struct guard;
struct guarded; /* a connection */

/* Accepts connections from the listening socket, at most this many at once, and closes the socket when it stops. Calls
 * add on the guard's thread with the library's end of each connection, which add owns from then on. */
hypura_status guard_start(struct guard **out, int listening, uint32_t most, bool (*add)(void *context, int inner),
                          void *context, hypura_error *error);

/* Accepts no more connections; existing ones continue. From any thread. */
void guard_take_no_more(struct guard *guard);

/* Stops the thread, after up to 0.3 s for answers still to be sent. NULL is allowed. */
void guard_stop(struct guard *guard);

/* Finds a connection by the socket that add was given, and holds it until guard_release. NULL: the client has left.
 * From any thread. */
struct guarded *guard_find(struct guard *guard, int inner);
void guard_release(struct guarded *guarded);

/* Whether the connection's request of this number (from 1) was refused; no further request follows it. *status is the
 * HTTP status. From any thread. */
bool guard_refuses(const struct guarded *guarded, unsigned request, unsigned *status, const char **reason);

#endif
