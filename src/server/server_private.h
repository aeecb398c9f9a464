/* What the files of the server share. */
#ifndef HYPURA_SERVER_PRIVATE_H
#define HYPURA_SERVER_PRIVATE_H

#include "server/desk.h"
#include "server/exchange.h"
#include "server/registry.h"
#include "server/server.h"

#include <pthread.h>
#include <stdatomic.h>

struct worker;
struct loaded_models;

/* Counted since the start, for /metrics. */
struct server_counters {
    atomic_ullong requests, refused, failed, prompt_tokens, generated_tokens, cached_tokens, answers, cancelled;
};

struct server {
    struct server_options options;
    struct registry *registry;
    struct loaded_models *models;
    struct worker *worker;
    struct desk *desk;
    struct events *events;
    struct conversations *conversations;
    struct server_counters counters;
    uint64_t start;
    atomic_ullong freed; /* bytes that requests took, since memory was given back to the system */
    atomic_uint pulls;   /* downloads in work */
    atomic_uint aside;   /* requests that are worked on by threads of their own */
    atomic_bool stopping;
    atomic_bool ending; /* the worker stops: what takes long should end */
};

/* What answers, whichever way requests come; to be closed after an error too. */
hypura_status server_open(struct server *server, const struct server_options *options, hypura_error *error);
void server_close(struct server *server);

/* Some times per second: does what server_set_budget asked for, and gives back what was freed. */
void server_follow_budget(struct server *server);

struct route {
    const char *method;
    const char *path; /* one that ends with a slash takes every path below it */
    enum api api;
    bool open; /* without a key */
    void (*handle)(struct exchange *exchange);
    /* The HTTP thread: takes a piece of the body, which may be of any size then; false: there is no memory. NULL: it is
     * kept for the handler. */
    bool (*take)(struct exchange *exchange, const char *data, size_t size);
};

extern const struct route routes[];
extern const size_t route_count;

/* ---- logs ---- */
/* Where lines go. NULL, as at the start: warnings go to the log of the program (core/core.h), and nothing else is said.
 */
void server_log_to(void (*write)(const char *line, size_t size));
void server_log(const char *level, const char *message, const char *format, ...) PRINTF_LIKE(3, 4);

/* ---- small things ---- */
void random_hex(char *out, size_t digits);                                    /* and a NUL */
void time_text(char *out, size_t room, int64_t seconds, int64_t nanoseconds); /* RFC 3339, UTC */
void now_text(char *out, size_t room);

/* Reads "5m", "1h30m", "300ms", a number of seconds; negative: for good. False when it is neither. */
bool duration_of_json(const json_t *value, int64_t *nanoseconds);
/* Numbers of JSON that are limits in a schema ("maximum") and have more than 18 digits are rounded, in place. */
void shorten_limits(char *text, size_t size);

/* Whether a Go template only inserts the prompt, which equals no template. Others are not supported. */
bool template_is_plain(const char *text);

/* "model" of a request, or "name" as older clients say. NULL when the answer is given. */
const char *model_field(struct exchange *exchange, const json_t *json);

/* ---- handlers, by file ---- */
void handle_root(struct exchange *exchange);
void handle_version(struct exchange *exchange);
void handle_tags(struct exchange *exchange);
void handle_ps(struct exchange *exchange);
void handle_show(struct exchange *exchange);
void handle_copy(struct exchange *exchange);
void handle_delete(struct exchange *exchange);
void handle_create(struct exchange *exchange);
void handle_pull(struct exchange *exchange);
void handle_push(struct exchange *exchange);
bool take_blob(struct exchange *exchange, const char *data, size_t size);
void handle_blob_sent(struct exchange *exchange);
void handle_blob_there(struct exchange *exchange);
void handle_ollama_generate(struct exchange *exchange);
void handle_ollama_chat(struct exchange *exchange);
void handle_embed(struct exchange *exchange);
void handle_embeddings_old(struct exchange *exchange);
void handle_openai_models(struct exchange *exchange);
void handle_openai_model(struct exchange *exchange);
void handle_openai_chat(struct exchange *exchange);
void handle_openai_completions(struct exchange *exchange);
void handle_openai_embeddings(struct exchange *exchange);
void handle_rerank(struct exchange *exchange);
void handle_openai_responses(struct exchange *exchange);
void handle_openai_input_tokens(struct exchange *exchange);
void handle_openai_response(struct exchange *exchange);
void handle_openai_response_delete(struct exchange *exchange);
void handle_messages(struct exchange *exchange);
void handle_count_tokens(struct exchange *exchange);
void handle_metrics(struct exchange *exchange);
void handle_memory(struct exchange *exchange);
/* Another memory budget; the exchange that asked for it, or NULL, hears how it went. */
void change_budget(struct server *server, struct exchange *exchange, uint64_t bytes);
void handle_events(struct exchange *exchange);
void handle_page(struct exchange *exchange);

/* ---- conversations.c: answers of /v1/responses by their id; from any thread ---- */
struct conversations;
hypura_status conversations_create(struct conversations **out, hypura_error *error);
void conversations_destroy(struct conversations *all);
/* The oldest make room; one that is too large by itself is not kept. */
void conversations_keep(struct conversations *all, const char *id, const json_t *response, const json_t *messages);
json_t *conversations_messages(struct conversations *all, const char *id); /* a copy; NULL: none of that id */
json_t *conversations_response(struct conversations *all, const char *id);
json_t *conversations_item(struct conversations *all, const char *id); /* of an answer's output, by its own id */
void conversations_clear(struct conversations *all);                   /* a model needs the memory */
bool conversations_forget(struct conversations *all, const char *id);

/* ---- events.c ---- */
hypura_status events_create(struct events **out, struct server *server, hypura_error *error);
void events_destroy(struct events *events);
void events_tick(struct events *events);

#endif
