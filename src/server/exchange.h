/* An exchange: one HTTP request and its answer. The HTTP thread reads the request and sends the answer; the worker or a
 * download writes the answer. Any thread may call these functions unless a comment says otherwise. */
#ifndef HYPURA_SERVER_EXCHANGE_H
#define HYPURA_SERVER_EXCHANGE_H

#include "core/core.h"

#include <jansson.h>

struct server;
struct exchange;

enum api { API_OLLAMA, API_OPENAI, API_ANTHROPIC, API_COUNT };

#define TYPE_JSON "application/json; charset=utf-8"
#define TYPE_NDJSON "application/x-ndjson"
#define TYPE_EVENTS "text/event-stream"

/* ---- reading, in a handler: on a desk thread if the request has a body, else on the HTTP thread ---- */
struct server *exchange_server(const struct exchange *exchange);
size_t exchange_bytes(const struct exchange *exchange); /* size of the body */
const char *exchange_id(const struct exchange *exchange);
enum api exchange_api(const struct exchange *exchange);
const char *exchange_rest(const struct exchange *exchange); /* the path after a route that ends with a slash */
const char *exchange_argument(const struct exchange *exchange, const char *name); /* a query parameter, or NULL */

/* The body as a JSON object, owned by the exchange. If it is not one, answers with an error and returns NULL. */
json_t *exchange_json(struct exchange *exchange);

/* Attaches data of the handler. end frees it together with the exchange. */
void exchange_keep(struct exchange *exchange, void *kept, void (*end)(void *kept));
void *exchange_kept(const struct exchange *exchange); /* or NULL */

/* ---- answering ---- */

/* work.c. Starts a unit of work on this thread, which lasts until the next call. If any allocation fails during it
 * (core/core.h), the answer becomes 503, or the stream ends with an error. */
void exchange_start_work(void);
hypura_status exchange_check_work(hypura_error *error); /* HYPURA_ERROR_MEMORY if one has failed */

/* Take and drop a reference. Hold the exchange to answer after the handler returns. */
void exchange_hold(struct exchange *exchange);
void exchange_release(struct exchange *exchange);

/* Calls work on a new thread, or on this one if no thread can be started. The server waits for it before it ends. */
void exchange_aside(struct exchange *exchange, void (*work)(struct exchange *exchange));

/* Gives the complete answer. */
void exchange_reply(struct exchange *exchange, unsigned status, const char *type, const char *text, size_t size);
void exchange_reply_json(struct exchange *exchange, unsigned status, json_t *json); /* takes the reference */

/* Answers with a body that is produced while it is sent. more appends a piece to out and returns false after the last
 * one; end frees the context. The first call of more is on this thread, the others are on the HTTP thread; end may be
 * called on any thread. */
void exchange_reply_pieces(struct exchange *exchange, const char *type, bool (*more)(void *context, struct buffer *out),
                           void (*end)(void *context), void *context);

/* ---- memory ----
 * The memory of a request counts against the memory budget (loaded_lend) until the request is done: its body and, on
 * the desk's threads, its JSON and the work of making its prompt. One thread at a time. */

/* Borrows bytes for the request. False: the budget has no room, either now or for any request of this size;
 * exchange_fail_for_room reports which. */
bool exchange_lend(struct exchange *exchange, size_t bytes);
void exchange_give(struct exchange *exchange, size_t bytes); /* releases some of them */
bool exchange_lacks_room(const struct exchange *exchange);
void exchange_fail_for_room(struct exchange *exchange); /* answers with 413 or 503 */
unsigned exchange_tell_room(const struct exchange *exchange, char *text, size_t room);

/* Between these two calls, JSON that this thread allocates is borrowed for the exchange, and allocations beyond the
 * budget still succeed. If exchange_lacks_room is then true, the JSON must not be kept. */
void exchange_open_account(struct exchange *exchange);
/* Like exchange_lend, but released when the account is closed. Has the type that work_watch takes. */
bool exchange_lend_until_end(void *exchange, size_t bytes);
void exchange_close_account(struct exchange *exchange);

/* Whether freeing it takes long: then do not free it on a thread that other requests wait for. */
bool exchange_is_large(const struct exchange *exchange);

/* Reserves memory for an answer until it is sent. All requests share one limit; false: it is reached. */
bool exchange_reserve(struct exchange *exchange, uint64_t bytes);

/* Answers with an error in the format of the API that was called, or appends it to a stream that has begun and ends the
 * stream. Reporting a lack of memory allocates nothing. */
void exchange_fail(struct exchange *exchange, unsigned status, const char *message);
void exchange_fail_for_memory(struct exchange *exchange); /* with status 503 */
void exchange_fail_with(struct exchange *exchange, const hypura_error *error);
/* code: "code" in the format of OpenAI, which the other APIs lack. */
void exchange_fail_as(struct exchange *exchange, unsigned status, const char *code, const char *message);
unsigned status_of_error(const hypura_error *error);

/* A streamed answer, begun by the first exchange_write. Returns false if the client has left, or if memory ran short;
 * in the second case it has sent the error. */
bool exchange_write(struct exchange *exchange, const char *type, const char *text, size_t size);
bool exchange_write_line(struct exchange *exchange, json_t *json); /* NDJSON; takes the reference */
/* Writes a server-sent event; event may be NULL. Takes the reference. */
bool exchange_write_event(struct exchange *exchange, const char *event, json_t *json);
void exchange_end(struct exchange *exchange);

/* False once the client has closed the connection. */
bool exchange_alive(struct exchange *exchange);
/* Alive, and the server is not ending: long work checks this. Has the type that work_watch takes. */
bool exchange_is_awaited(void *exchange);
bool exchange_begun(struct exchange *exchange);     /* part of the answer was given */
size_t exchange_backlog(struct exchange *exchange); /* bytes written but not sent */

#endif
