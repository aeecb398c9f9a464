/* One HTTP request and its answer. The HTTP thread reads the one and sends the other; the worker, or a download, writes
 * the answer in between. Functions may be called from any thread unless they say otherwise. */
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

/* ---- reading; in a handler: on a thread of the desk where there is a body, else on the HTTP thread ---- */
struct server *exchange_server(const struct exchange *exchange);
size_t exchange_bytes(const struct exchange *exchange); /* of the body */
const char *exchange_id(const struct exchange *exchange);
enum api exchange_api(const struct exchange *exchange);
const char *exchange_rest(const struct exchange *exchange); /* of the path, behind a route that ends with a slash */
const char *exchange_argument(const struct exchange *exchange, const char *name); /* of the path's query; or NULL */

/* The body as a JSON object, owned by the exchange; NULL when it is none: then the answer is given already. */
json_t *exchange_json(struct exchange *exchange);

/* Something of the handler's own, which end frees with the exchange. */
void exchange_keep(struct exchange *exchange, void *kept, void (*end)(void *kept));
void *exchange_kept(const struct exchange *exchange); /* or NULL */

/* ---- answering ---- */

/* work.c. From here to the next call of this: if memory was short for any part of what this thread makes for a request
 * (core/core.h), its answer becomes 503, or the end of its stream. */
void exchange_start_work(void);
hypura_status exchange_check_work(hypura_error *error); /* HYPURA_ERROR_MEMORY if memory was short since */

/* To answer later than in the handler, hold the exchange until then. */
void exchange_hold(struct exchange *exchange);
void exchange_release(struct exchange *exchange);

/* Calls work on a thread of its own, or on this one if none can be started. A server that ends waits for it. */
void exchange_aside(struct exchange *exchange, void (*work)(struct exchange *exchange));

/* A whole answer. */
void exchange_reply(struct exchange *exchange, unsigned status, const char *type, const char *text, size_t size);
void exchange_reply_json(struct exchange *exchange, unsigned status, json_t *json); /* takes the reference */

/* A whole answer that is written as it is sent: more adds a piece to out, and is false after the last one; end frees
 * the context. The first piece is made at once, the others on the HTTP thread; end is called on any. */
void exchange_reply_pieces(struct exchange *exchange, const char *type, bool (*more)(void *context, struct buffer *out),
                           void (*end)(void *context), void *context);

/* ---- memory ----
 * What a request takes is lent to it out of the memory budget (loaded_lend) until it is over: its body, and on the
 * threads of the desk its JSON and what makes its prompt. One thread at a time. */

/* False: there is none, now or ever for one so large; exchange_fail_for_room says which. */
bool exchange_lend(struct exchange *exchange, size_t bytes);
void exchange_give(struct exchange *exchange, size_t bytes); /* some of it is free again */
bool exchange_lacks_room(const struct exchange *exchange);
void exchange_fail_for_room(struct exchange *exchange); /* 413 or 503: */
unsigned exchange_tell_room(const struct exchange *exchange, char *text, size_t room);

/* Between these, JSON that this thread makes is lent to the exchange, as far as that goes: what went beyond
 * (exchange_lacks_room) must not be kept. */
void exchange_open_account(struct exchange *exchange);
bool exchange_lend_until_end(void *exchange, size_t bytes); /* until the account is closed; as work_watch has it */
void exchange_close_account(struct exchange *exchange);

/* Freeing it takes long: do not do so on a thread that others wait for. */
bool exchange_is_large(const struct exchange *exchange);

/* Memory that an answer holds until it is sent, which all requests share; false: there is none left. */
bool exchange_reserve(struct exchange *exchange, uint64_t bytes);

/* An error in the shape of the API that was called; in a stream that has begun, as its last piece. One without memory
 * needs none itself. */
void exchange_fail(struct exchange *exchange, unsigned status, const char *message);
void exchange_fail_as(struct exchange *exchange, unsigned status, const char *code, const char *message); /* OpenAI's */
void exchange_fail_for_memory(struct exchange *exchange);                                                 /* 503 */
void exchange_fail_with(struct exchange *exchange, const hypura_error *error);
unsigned status_of_error(const hypura_error *error);

/* An answer in pieces. exchange_write begins it. It returns false if nobody listens any more, or if memory was short:
 * then the client is told. */
bool exchange_write(struct exchange *exchange, const char *type, const char *text, size_t size);
bool exchange_write_line(struct exchange *exchange, json_t *json); /* NDJSON; takes the reference */
/* A server-sent event; event may be NULL. Takes the reference. */
bool exchange_write_event(struct exchange *exchange, const char *event, json_t *json);
void exchange_end(struct exchange *exchange);

/* False once the client has closed its end. */
bool exchange_alive(struct exchange *exchange);
bool exchange_is_awaited(
    struct exchange *exchange); /* and the server is not stopping: anything that takes long checks this */
bool exchange_begun(struct exchange *exchange);     /* some of the answer was given */
size_t exchange_backlog(struct exchange *exchange); /* bytes that wait to be sent */

#endif
