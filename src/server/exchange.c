/* Carries an answer from the thread that writes it to the connection that sends it. */
#include "core/json_text.h"
#include "server/http_private.h"
#include "server/loaded.h"
#include "server/worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define LARGE_BYTES ((uint64_t)1 << 20) /* a request that borrows this much takes long to free */
#define SMALL_STEP ((uint64_t)4 << 10)
#define LARGE_STEP ((uint64_t)256 << 10)
#define WATCHED_BYTES ((size_t)64 << 10) /* of a body, parsed between two checks for the client */

/* ---- the answer ----------------------------------------------------------------------------------------------------
 */

struct server *exchange_server(const struct exchange *exchange)
{
    return &exchange->http->server;
}

size_t exchange_bytes(const struct exchange *exchange)
{
    return exchange->body_size;
}

const char *exchange_id(const struct exchange *exchange)
{
    return exchange->id;
}

/* The API whose error format an unknown path gets. */
static enum api api_of_path(const char *path)
{
    if (strncmp(path, "/v1/messages", 12) == 0)
        return API_ANTHROPIC;
    return strncmp(path, "/v1/", 4) == 0 ? API_OPENAI : API_OLLAMA;
}

enum api exchange_api(const struct exchange *exchange)
{
    return exchange->route ? exchange->route->api : api_of_path(exchange->path);
}

const char *exchange_rest(const struct exchange *exchange)
{
    return exchange->rest;
}

const char *exchange_argument(const struct exchange *exchange, const char *name)
{
    return !exchange->connection ? NULL
                                 : mhd.lookup_connection_value(exchange->connection, MHD_GET_ARGUMENT_KIND, name);
}

void exchange_hold(struct exchange *exchange)
{
    atomic_fetch_add(&exchange->references, 1);
}

static void free_exchange(struct exchange *exchange)
{
    struct server *server = exchange_server(exchange);
    uint64_t lent = exchange->lent;
    atomic_fetch_sub(&exchange->http->body_bytes, exchange->body.size + atomic_load(&exchange->reserved));
    if (exchange->end)
        exchange->end(exchange->context);
    if (exchange->end_kept)
        exchange->end_kept(exchange->kept);
    buffer_free(&exchange->body);
    buffer_free(&exchange->out);
    json_decref(exchange->json);
    pthread_mutex_destroy(&exchange->mutex);
    memory_free(exchange->path);
    memory_free(exchange);
    atomic_fetch_add(&server->freed, lent); /* server_follow_budget returns it to the system */
    if (lent >= LARGE_BYTES)
        memory_give_back();
    if (lent)
        loaded_return(server->models, lent);
}

static void free_at_desk(struct desk_task *task)
{
    free_exchange((struct exchange *)((char *)task - offsetof(struct exchange, task)));
}

void exchange_release(struct exchange *exchange)
{
    if (atomic_fetch_sub(&exchange->references, 1) != 1)
        return;
    if (!exchange_is_large(exchange)) {
        free_exchange(exchange);
        return;
    }
    exchange->task = (struct desk_task){.work = free_at_desk, .bytes = exchange->lent};
    desk_submit(exchange_server(exchange)->desk, &exchange->task);
}

/* ---- memory ---- */

/* Borrows in growing steps, because each loan may resize pools. */
static bool borrow(struct exchange *exchange, uint64_t least)
{
    struct loaded_models *models = exchange_server(exchange)->models;
    uint64_t some = MAX(least, align_down(exchange->lent / 4, LARGE_STEP));
    enum loaded_room room = loaded_lend(models, some, exchange->lent);
    if (room != ROOM_NOW && some > least)
        room = loaded_lend(models, some = least, exchange->lent);
    if (room == ROOM_NOW)
        exchange->lent += some;
    else
        exchange->too_large |= room == ROOM_NEVER;
    return room == ROOM_NOW;
}

bool exchange_lend(struct exchange *exchange, size_t bytes)
{
    uint64_t used = exchange->used + MIN(bytes, SIZE_MAX / 4), step = used < LARGE_BYTES ? SMALL_STEP : LARGE_STEP;
    if (used > exchange->lent && !borrow(exchange, align_up(used - exchange->lent, step))) {
        exchange->missing = MAX(used, exchange->missing);
        return false;
    }
    exchange->used = used;
    return true;
}

void exchange_give(struct exchange *exchange, size_t bytes)
{
    exchange->used -= MIN(exchange->used, bytes);
}

/* Returns what was borrowed but is not used. */
static void return_rest(struct exchange *exchange)
{
    uint64_t kept = align_up(exchange->used, SMALL_STEP), rest = exchange->lent - MIN(kept, exchange->lent);
    if (rest < LARGE_BYTES)
        return;
    memory_give_back();
    exchange->lent -= rest;
    loaded_return(exchange_server(exchange)->models, rest);
}

bool exchange_lacks_room(const struct exchange *exchange)
{
    return exchange->missing != 0;
}

bool exchange_is_large(const struct exchange *exchange)
{
    return exchange->lent >= LARGE_BYTES;
}

/* What is refused here is noted as missing (exchange_lacks_room). */
static void lend_json(void *context, size_t bytes)
{
    exchange_lend(context, bytes);
}

static void give_json(void *context, size_t bytes)
{
    exchange_give(context, bytes);
}

void exchange_open_account(struct exchange *exchange)
{
    exchange->account = (struct memory_account){lend_json, give_json, exchange};
    memory_set_account(&exchange->account);
}

bool exchange_lend_until_end(void *context, size_t bytes)
{
    struct exchange *exchange = context;
    bool lent = exchange_lend(exchange, bytes);
    exchange->until_end += lent ? bytes : 0;
    return lent;
}

void exchange_close_account(struct exchange *exchange)
{
    memory_set_account(NULL);
    exchange_give(exchange, exchange->until_end);
    exchange->until_end = 0;
    return_rest(exchange);
}

unsigned exchange_tell_room(const struct exchange *exchange, char *text, size_t room)
{
    char least[32];
    if (!exchange->too_large) {
        snprintf(text, room, "server busy, please try again.  there is not enough memory for the request now");
        return 503;
    }
    snprintf(text, room,
             "the request needs %s of memory or more, which is beyond the memory budget: send less, or give the server "
             "more (hypura serve --memory)",
             format_bytes(least, sizeof least, (double)exchange->missing));
    return 413;
}

void exchange_fail_for_room(struct exchange *exchange)
{
    char text[320];
    unsigned status = exchange_tell_room(exchange, text, sizeof text);
    atomic_fetch_add(&exchange_server(exchange)->counters.refused, 1);
    exchange_fail(exchange, status, text);
}

void exchange_keep(struct exchange *exchange, void *kept, void (*end)(void *kept))
{
    exchange->kept = kept;
    exchange->end_kept = end;
}

void *exchange_kept(const struct exchange *exchange)
{
    return exchange->kept;
}

/* ---- out of memory ---- */

/* Ollama's clients recognise the beginning of this text. */
#define NO_MEMORY "server busy, please try again.  out of memory"
#define OPENAI_NO_MEMORY                                                                                               \
    "{\"error\":{\"message\":\"" NO_MEMORY "\",\"type\":\"server_error\",\"param\":null,\"code\":null}}"
#define ANTHROPIC_NO_MEMORY                                                                                            \
    "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"" NO_MEMORY "\"}}"

static const struct {
    const char *whole, *in_stream;
} no_memory[API_COUNT] = {
    [API_OLLAMA] = {"{\"error\":\"" NO_MEMORY "\"}", "{\"error\":\"" NO_MEMORY "\"}\n"},
    [API_OPENAI] = {OPENAI_NO_MEMORY, "data: " OPENAI_NO_MEMORY "\n\n"},
    [API_ANTHROPIC] = {ANTHROPIC_NO_MEMORY, "event: error\ndata: " ANTHROPIC_NO_MEMORY "\n\n"},
};

/* With the mutex held. Pieces already written to a stream are sent first. */
static void tell_no_memory(struct exchange *exchange)
{
    if (exchange->ended)
        return;
    bool begun = exchange->ready;
    enum api api = exchange_api(exchange);
    if (!begun) {
        buffer_clear(&exchange->out);
        exchange->status = 503;
        exchange->type = TYPE_JSON;
    }
    exchange->out.failed = false;
    exchange->last_words = begun ? no_memory[api].in_stream : no_memory[api].whole;
    exchange->ready = exchange->ended = true;
    atomic_fetch_add(&exchange->http->server.counters.failed, 1);
}

/* With the mutex held. */
static void wake(struct exchange *exchange)
{
    if (exchange->suspended && !exchange->gone) {
        exchange->suspended = false;
        mhd.resume_connection(exchange->connection);
    }
}

/* Gives the answer to a caller in this process, once it is complete. */
static void hand_over(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    bool due = exchange->answered && exchange->ended;
    void (*answered)(void *, unsigned, const char *, size_t) = due ? exchange->answered : NULL;
    if (due)
        exchange->answered = NULL;
    pthread_mutex_unlock(&exchange->mutex);
    if (!due)
        return;
    const struct buffer *out = &exchange->out;
    const char *words = exchange->last_words;
    answered(exchange->asker, exchange->status,
             words       ? words
             : out->data ? out->data
                         : "",
             words ? strlen(words) : out->size);
}

void exchange_fail_for_memory(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    tell_no_memory(exchange);
    wake(exchange);
    pthread_mutex_unlock(&exchange->mutex);
    hand_over(exchange);
}

void exchange_reply(struct exchange *exchange, unsigned status, const char *type, const char *text, size_t size)
{
    pthread_mutex_lock(&exchange->mutex);
    if (!exchange->ready) {
        buffer_append(&exchange->out, text, size);
        if (exchange_check_work(NULL)) {
            tell_no_memory(exchange);
        } else {
            exchange->status = status;
            exchange->type = type;
            exchange->ready = exchange->ended = true;
        }
        wake(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
    hand_over(exchange);
}

void exchange_reply_json(struct exchange *exchange, unsigned status, json_t *json)
{
    char *text = json ? json_text_write(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (text)
        exchange_reply(exchange, status, TYPE_JSON, text, strlen(text));
    else
        exchange_fail_for_memory(exchange);
    free(text);
}

void exchange_reply_pieces(struct exchange *exchange, const char *type, bool (*more)(void *context, struct buffer *out),
                           void (*end)(void *context), void *context)
{
    pthread_mutex_lock(&exchange->mutex);
    bool taken = !exchange->ready;
    if (taken) {
        bool left = more(context, &exchange->out);
        while (left && exchange->answered)
            left = more(context, &exchange->out);
        exchange->end = end;
        exchange->context = context;
        if (exchange_check_work(NULL)) {
            tell_no_memory(exchange);
        } else {
            exchange->status = 200;
            exchange->type = type;
            exchange->ready = exchange->streaming = true;
            exchange->more = left ? more : NULL;
            exchange->ended = !left;
        }
        wake(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
    if (!taken)
        end(context);
    hand_over(exchange);
}

bool exchange_reserve(struct exchange *exchange, uint64_t bytes)
{
    struct http *http = exchange->http;
    if (atomic_fetch_add(&http->body_bytes, bytes) + bytes > BODIES_LIMIT * http->server.options.body_limit) {
        atomic_fetch_sub(&http->body_bytes, bytes);
        return false;
    }
    atomic_fetch_add(&exchange->reserved, bytes);
    return true;
}

bool exchange_write(struct exchange *exchange, const char *type, const char *text, size_t size)
{
    pthread_mutex_lock(&exchange->mutex);
    bool listened = !exchange->gone && !exchange->ended;
    if (listened) {
        /* If building the text failed half-way, it is incomplete and must not be sent. */
        if (exchange_check_work(NULL) == HYPURA_OK)
            buffer_append(&exchange->out, text, size);
        listened = exchange_check_work(NULL) == HYPURA_OK;
        if (!listened) {
            tell_no_memory(exchange);
        } else if (!exchange->ready) {
            exchange->status = 200;
            exchange->type = type;
            exchange->ready = exchange->streaming = true;
        }
        wake(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
    return listened;
}

void exchange_end(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    exchange->ended = true;
    wake(exchange);
    pthread_mutex_unlock(&exchange->mutex);
    hand_over(exchange);
}

bool exchange_write_line(struct exchange *exchange, json_t *json)
{
    char *text = json ? json_text_write(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text) {
        exchange_fail_for_memory(exchange);
        return false;
    }
    size_t size = strlen(text);
    text[size] = '\n'; /* in place of the NUL */
    bool listened = exchange_write(exchange, TYPE_NDJSON, text, size + 1);
    free(text);
    return listened;
}

bool exchange_write_event(struct exchange *exchange, const char *event, json_t *json)
{
    char *text = json ? json_text_write(json, JSON_COMPACT) : NULL;
    json_decref(json);
    struct buffer out = {0};
    if (event)
        buffer_append_format(&out, "event: %s\n", event);
    buffer_append_string(&out, "data: ");
    buffer_append_string(&out, text ? text : "{}");
    buffer_append_string(&out, "\n\n");
    bool listened = text && !out.failed;
    if (listened)
        listened = exchange_write(exchange, TYPE_EVENTS, out.data, out.size);
    else
        exchange_fail_for_memory(exchange);
    buffer_free(&out);
    free(text);
    return listened;
}

bool exchange_begun(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    bool begun = exchange->ready;
    pthread_mutex_unlock(&exchange->mutex);
    return begun;
}

size_t exchange_backlog(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    size_t bytes = exchange->out.size - exchange->sent;
    pthread_mutex_unlock(&exchange->mutex);
    return bytes;
}

/* The HTTP thread does not watch a suspended connection, so this reads from the socket. */
bool exchange_alive(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    if (exchange->connection && !exchange->gone && exchange->socket >= 0) {
        char byte;
        ssize_t got = recv(exchange->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            exchange->socket = -1;
    }
    bool alive = !exchange->gone && (exchange->socket >= 0 || !exchange->connection);
    pthread_mutex_unlock(&exchange->mutex);
    return alive;
}

bool exchange_is_awaited(void *context)
{
    struct exchange *exchange = context;
    return exchange_alive(exchange) && !atomic_load(&exchange->http->server.ending);
}

/* Anthropic's names of error types. */
static const char *anthropic_error_type(unsigned status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 413:
        return "request_too_large";
    case 503:
        return "overloaded_error";
    default:
        return status >= 500 ? "api_error" : "invalid_request_error";
    }
}

static json_t *error_json(const struct exchange *exchange, enum api api, unsigned status, const char *code,
                          const char *message)
{
    /* A message may quote a request or a file, so it may not be UTF-8. */
    json_t *text = json_string(message);
    if (!text)
        text = json_string("an error whose message is not UTF-8 text");
    if (api == API_OPENAI)
        return json_pack("{s:{s:o, s:s, s:n, s:s?}}", "error", "message", text, "type",
                         status >= 500 ? "server_error" : "invalid_request_error", "param", "code",
                         status == 401 ? "invalid_api_key" : code);
    if (api == API_ANTHROPIC)
        return json_pack("{s:s, s:{s:s, s:o}, s:s}", "type", "error", "error", "type", anthropic_error_type(status),
                         "message", text, "request_id", exchange->id);
    return json_pack("{s:o}", "error", text);
}

void exchange_fail_as(struct exchange *exchange, unsigned status, const char *code, const char *message)
{
    if (exchange_check_work(NULL)) { /* the failed allocation may have caused the error */
        exchange_fail_for_memory(exchange);
        return;
    }
    enum api api = exchange_api(exchange);
    json_t *json = error_json(exchange, api, status, code, message);
    if (status >= 500)
        atomic_fetch_add(&exchange->http->server.counters.failed, 1);
    if (!exchange_begun(exchange)) {
        exchange_reply_json(exchange, status, json);
        return;
    }
    if (api == API_OLLAMA)
        exchange_write_line(exchange, json);
    else
        exchange_write_event(exchange, api == API_ANTHROPIC ? "error" : NULL, json);
    exchange_end(exchange);
}

void exchange_fail(struct exchange *exchange, unsigned status, const char *message)
{
    exchange_fail_as(exchange, status, NULL, message);
}

unsigned status_of_error(const hypura_error *error)
{
    switch (error->status) {
    case HYPURA_ERROR_ARGUMENT:
    case HYPURA_ERROR_UNSUPPORTED:
        return 400;
    case HYPURA_ERROR_CANCELLED:
        return 499;
    case HYPURA_ERROR_MEMORY:
    case HYPURA_ERROR_HOST: /* lasts until the server is restarted */
        return 503;
    default:
        return 500;
    }
}

void exchange_fail_with(struct exchange *exchange, const hypura_error *error)
{
    exchange_fail(exchange, status_of_error(error), error->message);
}

struct reading {
    struct exchange *exchange;
    size_t at;
    bool stopped;
};

/* Ends the parse when memory was refused. The refused allocation was made all the same. */
static size_t read_body(void *out, size_t room, void *context)
{
    struct reading *reading = context;
    const struct buffer *body = &reading->exchange->body;
    size_t size = MIN(room, body->size - reading->at);
    if (reading->at / WATCHED_BYTES != (reading->at + size) / WATCHED_BYTES)
        reading->stopped |= !exchange_is_awaited(reading->exchange);
    if (reading->stopped || exchange_lacks_room(reading->exchange))
        return (size_t)-1;
    memcpy(out, body->data + reading->at, size);
    reading->at += size;
    return size;
}

static void forget_body(struct exchange *exchange)
{
    atomic_fetch_sub(&exchange->http->body_bytes, exchange->body.size);
    exchange_give(exchange, exchange->body.size);
    buffer_free(&exchange->body);
}

json_t *exchange_json(struct exchange *exchange)
{
    if (exchange->json)
        return exchange->json;
    if (exchange->body.size == 0) {
        exchange_fail(exchange, 400, "missing request body");
        return NULL;
    }
    json_error_t where;
    shorten_limits(exchange->body.data, exchange->body.size);
    struct reading reading = {exchange, 0, false};
    uint64_t before = exchange->used;
    json_t *json = json_text_read_from(read_body, &reading, 0, &where);
    /* A handler may build structures as large as the JSON, so check that there is room for both. */
    uint64_t made = exchange->used - MIN(before, exchange->used);
    if (json && exchange_lend(exchange, made))
        exchange_give(exchange, made);
    forget_body(exchange);
    if (exchange->missing || reading.stopped) {
        json_decref(json);
        if (reading.stopped)
            exchange_fail(exchange, 503, "the server is shutting down");
        else
            exchange_fail_for_room(exchange);
        return NULL;
    }
    if (json && json_is_object(json)) {
        exchange->json = json;
        return json;
    }
    char message[320];
    if (json)
        snprintf(message, sizeof message, "the request's body is JSON, but not an object");
    else
        snprintf(message, sizeof message, "the request's body is not valid JSON: line %d, column %d: %s", where.line,
                 where.column, where.text);
    json_decref(json);
    exchange_fail(exchange, 400, message);
    return NULL;
}

/* ---- sending -------------------------------------------------------------------------------------------------------
 */

static ssize_t read_answer(void *context, uint64_t position, char *out, size_t room)
{
    struct exchange *exchange = context;
    (void)position;
    pthread_mutex_lock(&exchange->mutex);
    if (exchange->out.size == exchange->sent && exchange->more && !exchange->more(exchange->context, &exchange->out)) {
        exchange->more = NULL;
        exchange->ended = true;
    }
    size_t left = exchange->out.size - exchange->sent;
    ssize_t given = 0;
    if (exchange->out.failed) {
        given = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (!left && exchange->last_words && *exchange->last_words) {
        given = (ssize_t)MIN(strlen(exchange->last_words), room);
        memcpy(out, exchange->last_words, (size_t)given);
        exchange->last_words += given;
        exchange->sent_before += (uint64_t)given;
    } else if (left) {
        given = (ssize_t)MIN(left, room);
        memcpy(out, exchange->out.data + exchange->sent, (size_t)given);
        exchange->sent += (size_t)given;
        exchange->sent_before += (uint64_t)given;
        if (exchange->sent == exchange->out.size) {
            buffer_clear(&exchange->out);
            exchange->sent = 0;
        }
    } else if (exchange->ended) {
        given = MHD_CONTENT_READER_END_OF_STREAM;
    } else {
        exchange->suspended = true;
        mhd.suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->mutex);
    return given;
}

/* False without memory for a header: the answer must not be sent without it. */
static bool add_headers(struct exchange *exchange, struct MHD_Response *response)
{
    const char *const headers[][2] = {
        {"X-Request-Id", exchange->id},
        {"X-Content-Type-Options", "nosniff"},
        {"Content-Type", exchange->type},
        {"Cache-Control", exchange->streaming || exchange->status >= 400 ? "no-cache" : NULL},
        {"Connection", exchange->last ? "close" : NULL},
        {"WWW-Authenticate", exchange->status == 401 ? "Bearer" : NULL},
        {"Retry-After", exchange->status == 503 ? "1" : NULL},
        {"Allow", exchange->status == 405 && exchange->route ? exchange->route->method : NULL},
        {"Content-Security-Policy", exchange->type && strncmp(exchange->type, "text/html", 9) == 0
                                        ? "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                                          "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                                          "frame-ancestors 'none'"
                                        : NULL},
        {"Access-Control-Allow-Origin", exchange->origin[0] ? exchange->origin : NULL},
        {"Vary", exchange->origin[0] ? "Origin" : NULL},
        {"Access-Control-Expose-Headers", exchange->origin[0] ? "X-Request-Id" : NULL},
    };
    static const char *const preflight[][2] = {
        {"Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS"},
        {"Access-Control-Allow-Headers", "*, Authorization"},
        {"Access-Control-Max-Age", "86400"},
    };
    bool fine = true;
    for (size_t i = 0; fine && i < COUNT_OF(headers); i++)
        fine = !headers[i][1] || mhd.add_response_header(response, headers[i][0], headers[i][1]) == MHD_YES;
    for (size_t i = 0; fine && exchange->origin[0] && exchange->preflight && i < COUNT_OF(preflight); i++)
        fine = mhd.add_response_header(response, preflight[i][0], preflight[i][1]) == MHD_YES;
    return fine;
}

static enum MHD_Result queue_answer(struct exchange *exchange)
{
    const char *text = "";
    size_t size = 0;
    /* The buffer of a stream still grows on the writer's thread, so only read_answer may read it. */
    if (!exchange->streaming && exchange->last_words) {
        text = exchange->last_words;
        size = strlen(text);
    } else if (!exchange->streaming && exchange->out.data) {
        text = exchange->out.data;
        size = exchange->out.size;
    }
    bool small = !exchange->streaming && size <= 1024 * 1024;
    struct MHD_Response *response =
        small ? mhd.create_response_from_buffer(size, (void *)(uintptr_t)text, MHD_RESPMEM_MUST_COPY)
              : mhd.create_response_from_callback(exchange->streaming ? MHD_SIZE_UNKNOWN : size, 16384, read_answer,
                                                  exchange, NULL);
    bool whole = response && add_headers(exchange, response);
    if (response && !whole)
        mhd.destroy_response(response);
    if (!whole) {
        exchange->status = 503;
        return mhd.queue_response(exchange->connection, 503, exchange->http->no_memory[exchange_api(exchange)]);
    }
    if (small)
        exchange->sent_before = size;
    enum MHD_Result result = mhd.queue_response(exchange->connection, exchange->status, response);
    mhd.destroy_response(response);
    return result;
}

hypura_status exchange_prepare_answers(struct http *http, hypura_error *error)
{
    for (int api = 0; api < API_COUNT; api++) {
        const char *text = no_memory[api].whole;
        struct MHD_Response *response =
            mhd.create_response_from_buffer(strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);
        http->no_memory[api] = response;
        if (!response || mhd.add_response_header(response, "Content-Type", TYPE_JSON) != MHD_YES ||
            mhd.add_response_header(response, "Retry-After", "1") != MHD_YES)
            return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the HTTP server");
    }
    return HYPURA_OK;
}

void exchange_free_answers(struct http *http)
{
    for (int api = 0; api < API_COUNT; api++) {
        if (http->no_memory[api])
            mhd.destroy_response(http->no_memory[api]);
    }
}

enum MHD_Result exchange_answer_nobody(struct http *http, struct MHD_Connection *connection, const char *path)
{
    return mhd.queue_response(connection, 503, http->no_memory[api_of_path(path)]);
}

enum MHD_Result exchange_deliver(struct exchange *exchange)
{
    enum MHD_Result result = MHD_YES;
    pthread_mutex_lock(&exchange->mutex);
    bool ready = exchange->ready;
    if (!ready) {
        exchange->suspended = true;
        mhd.suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->mutex);
    if (ready)
        result = queue_answer(exchange);
    return result;
}
