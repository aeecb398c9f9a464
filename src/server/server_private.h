/* Shared by the files of the server. */
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

/* Counts since the start, for /metrics. */
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
    atomic_ullong freed;  /* bytes that requests freed since memory was last returned to the system */
    atomic_uint pulls;    /* running downloads */
    atomic_uint aside;    /* requests running on threads of their own (exchange_aside) */
    atomic_bool stopping; /* no new requests */
    atomic_bool ending;   /* the worker stops: long work must end */
};

/* Opens all parts but HTTP. Close the server even after an error. */
hypura_status server_open(struct server *server, const struct server_options *options, hypura_error *error);
void server_close(struct server *server);

/* Called several times per second: applies the budget of server_set_budget, and returns freed memory to the system. */
void server_follow_budget(struct server *server);

struct route {
    const char *method;
    const char *path; /* with a final slash: also every path below it */
    enum api api;
    bool open; /* needs no key */
    void (*handle)(struct exchange *exchange);
    /* Takes a piece of the body on the HTTP thread; the body may then have any size. False: out of memory. NULL: the
     * body is kept for the handler. */
    bool (*take)(struct exchange *exchange, const char *data, size_t size);
};

extern const struct route routes[];
extern const size_t route_count;

/* ---- logs ---- */
/* Sets where lines go. NULL, the default: only warnings, and to the program's log (core/core.h). */
void server_log_to(void (*write)(const char *line, size_t size));
/* Logs one line: level, message, and fields "key=value" by the format. */
void server_log(const char *level, const char *message, const char *format, ...) PRINTF_LIKE(3, 4);

/* ---- values.c ---- */
void random_hex(char *out, size_t digits);                                    /* writes digits and a NUL */
void time_text(char *out, size_t room, int64_t seconds, int64_t nanoseconds); /* RFC 3339, UTC */
void now_text(char *out, size_t room);

/* Reads "5m", "1h30m", "300ms", or a number of seconds; negative: forever. False: it is neither. */
bool duration_of_json(const json_t *value, int64_t *nanoseconds);
/* Rounds, in place, numbers of more than 18 digits that are limits in a JSON schema ("maximum"). */
void shorten_limits(char *text, size_t size);

/* Whether a Go template only inserts the prompt, which equals no template. Others are not supported. */
bool template_is_plain(const char *text);

/* "model" of a request or, from older clients, "name". If neither is there, answers with an error and returns NULL. */
const char *model_field(struct exchange *exchange, const json_t *json);

/* ---- handlers, by file ---- */
void handle_root(struct exchange *exchange);
void handle_version(struct exchange *exchange);
/* What GET /api/tags answers; the log says which models are missing because their manifests cannot be read. NULL:
 * answered with an error. */
json_t *listed_models(struct exchange *exchange);
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
/* Changes the memory budget. Answers the exchange; if it is NULL, only logs. */
void change_budget(struct server *server, struct exchange *exchange, uint64_t bytes);
void handle_events(struct exchange *exchange);
void handle_page(struct exchange *exchange);

/* ---- conversations.c: answers of /v1/responses by id; from any thread ---- */
struct conversations;
hypura_status conversations_create(struct conversations **out, hypura_error *error);
void conversations_destroy(struct conversations *all);
/* Keeps an answer and drops the oldest ones for it. Does not keep one that is too large by itself. */
void conversations_keep(struct conversations *all, const char *id, const json_t *response, const json_t *messages);
json_t *conversations_messages(struct conversations *all, const char *id); /* a new reference; NULL: unknown id */
json_t *conversations_response(struct conversations *all, const char *id);
/* Finds an item of an answer's output by the item's id. */
json_t *conversations_item(struct conversations *all, const char *id);
void conversations_clear(struct conversations *all); /* when a model needs the memory */
bool conversations_forget(struct conversations *all, const char *id);

/* ---- events.c ---- */
hypura_status events_create(struct events **out, struct server *server, hypura_error *error);
void events_destroy(struct events *events);
void events_tick(struct events *events);

#endif
