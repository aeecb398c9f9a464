/* HTTP by libmicrohttpd: connections, limits, keys, origins, and the exchanges. */
#include "server/server_private.h"
#include "server/worker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <microhttpd.h>
#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTION_MEMORY (48 * 1024)                  /* headers and buffers of one; taken as it is touched */
#define IDLE_SECONDS 60                                /* that a connection may stay silent */
#define DISCARD_LIMIT ((uint64_t)1 << 30)              /* of a body that is refused: read, so that the answer is seen */
#define GRACE_NANOSECONDS ((uint64_t)10 * 1000000000u) /* of answers in work when the server stops */
#define BODIES_LIMIT ((uint64_t)4)                     /* all bodies in memory, in units of the limit of one */

struct connection {
    struct connection *next, *previous;
    int socket;
    uint64_t waiting_since; /* for a request to arrive in whole; 0: it did */
};

struct http {
    struct server server;
    struct MHD_Daemon *daemon;
    pthread_mutex_t mutex; /* the list */
    struct connection *connections;
    _Atomic uint64_t body_bytes;
    bool loopback;
};

struct exchange {
    struct http *http;
    struct MHD_Connection *connection;
    struct connection *place;
    const struct route *route;
    char id[17];
    char origin[256]; /* that may read the answer, or empty */
    char *path;
    const char *rest;
    atomic_uint references;

    /* the HTTP thread's */
    struct buffer body;
    json_t *json;
    uint64_t discarded, start;
    unsigned refusal; /* status, once it is clear that the request will not be served */
    const char *refusal_message;
    bool handled, preflight;

    pthread_mutex_t mutex; /* all below */
    struct buffer out;
    size_t sent;
    uint64_t sent_before; /* bytes that left the buffer */
    const char *type;
    unsigned status;
    bool ready, streaming, ended, suspended, gone;
    int socket;
};

static volatile sig_atomic_t stop_requests;

void server_stop(void)
{
    stop_requests = stop_requests + 1;
}

/* ---- the answer ----------------------------------------------------------------------------------------------------
 */

struct server *exchange_server(const struct exchange *exchange)
{
    return &exchange->http->server;
}

const char *exchange_id(const struct exchange *exchange)
{
    return exchange->id;
}

const char *exchange_rest(const struct exchange *exchange)
{
    return exchange->rest;
}

void exchange_hold(struct exchange *exchange)
{
    atomic_fetch_add(&exchange->references, 1);
}

void exchange_release(struct exchange *exchange)
{
    if (atomic_fetch_sub(&exchange->references, 1) != 1)
        return;
    atomic_fetch_sub(&exchange->http->body_bytes, exchange->body.size);
    buffer_free(&exchange->body);
    buffer_free(&exchange->out);
    json_decref(exchange->json);
    pthread_mutex_destroy(&exchange->mutex);
    memory_free(exchange->path);
    memory_free(exchange);
}

/* With the mutex held. */
static void wake(struct exchange *exchange)
{
    if (exchange->suspended && !exchange->gone) {
        exchange->suspended = false;
        MHD_resume_connection(exchange->connection);
    }
}

void exchange_reply(struct exchange *exchange, unsigned status, const char *type, const char *text, size_t size)
{
    pthread_mutex_lock(&exchange->mutex);
    if (!exchange->ready) {
        buffer_append(&exchange->out, text, size);
        exchange->status = status;
        exchange->type = type;
        exchange->ready = exchange->ended = true;
        wake(exchange);
    }
    pthread_mutex_unlock(&exchange->mutex);
}

void exchange_reply_json(struct exchange *exchange, unsigned status, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (text)
        exchange_reply(exchange, status, TYPE_JSON, text, strlen(text));
    else
        exchange_reply(exchange, 500, TYPE_JSON, "{\"error\":\"out of memory\"}", 25);
    free(text);
}

bool exchange_write(struct exchange *exchange, const char *type, const char *text, size_t size)
{
    pthread_mutex_lock(&exchange->mutex);
    bool listened = !exchange->gone && !exchange->ended;
    if (listened) {
        if (!exchange->ready) {
            exchange->status = 200;
            exchange->type = type;
            exchange->ready = exchange->streaming = true;
        }
        buffer_append(&exchange->out, text, size);
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
}

bool exchange_write_line(struct exchange *exchange, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    if (!text)
        return false;
    size_t size = strlen(text);
    text[size] = '\n'; /* in place of the NUL */
    bool listened = exchange_write(exchange, TYPE_NDJSON, text, size + 1);
    free(text);
    return listened;
}

bool exchange_write_event(struct exchange *exchange, const char *event, json_t *json)
{
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    struct buffer out = {0};
    if (event)
        buffer_append_format(&out, "event: %s\n", event);
    buffer_append_string(&out, "data: ");
    buffer_append_string(&out, text ? text : "{}");
    buffer_append_string(&out, "\n\n");
    bool listened = !out.failed && exchange_write(exchange, TYPE_EVENTS, out.data, out.size);
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

/* The HTTP thread does not look at a suspended connection, so this does. */
bool exchange_alive(struct exchange *exchange)
{
    pthread_mutex_lock(&exchange->mutex);
    if (!exchange->gone && exchange->socket >= 0) {
        char byte;
        ssize_t got = recv(exchange->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
        if (got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR))
            exchange->socket = -1;
    }
    bool alive = !exchange->gone && exchange->socket >= 0;
    pthread_mutex_unlock(&exchange->mutex);
    return alive;
}

static const char *openai_error_type(unsigned status)
{
    switch (status) {
    case 401:
        return "authentication_error";
    case 403:
        return "permission_error";
    case 404:
        return "not_found_error";
    case 429:
        return "rate_limit_error";
    default:
        return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

static json_t *error_json(enum api api, unsigned status, const char *message)
{
    /* A message may quote bytes of a request or a file. */
    json_t *text = json_string(message);
    if (!text)
        text = json_string("an error whose message is not UTF-8 text");
    if (api == API_OPENAI)
        return json_pack("{s:{s:o, s:s, s:n, s:s?}}", "error", "message", text, "type", openai_error_type(status),
                         "param", "code",
                         status == 401   ? "invalid_api_key"
                         : status == 404 ? "not_found"
                                         : NULL);
    if (api == API_ANTHROPIC)
        return json_pack("{s:s, s:{s:s, s:o}}", "type", "error", "error", "type",
                         status == 503   ? "overloaded_error"
                         : status >= 500 ? "api_error"
                                         : openai_error_type(status),
                         "message", text);
    return json_pack("{s:o}", "error", text);
}

void exchange_fail(struct exchange *exchange, unsigned status, const char *message)
{
    enum api api = exchange->route ? exchange->route->api : API_OLLAMA;
    json_t *json = error_json(api, status, message);
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

unsigned status_of_error(const hypura_error *error)
{
    switch (error->status) {
    case HYPURA_ERROR_ARGUMENT:
    case HYPURA_ERROR_UNSUPPORTED:
        return 400;
    case HYPURA_ERROR_CANCELLED:
        return 499;
    default:
        return 500;
    }
}

void exchange_fail_with(struct exchange *exchange, const hypura_error *error)
{
    exchange_fail(exchange, status_of_error(error), error->message);
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
    json_t *json = json_loadb(exchange->body.data, exchange->body.size, 0, &where);
    if (json && json_is_object(json)) {
        exchange->json = json;
        return json;
    }
    char message[320];
    if (json)
        snprintf(message, sizeof message, "the request's body is JSON, but no object");
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
    size_t left = exchange->out.size - exchange->sent;
    ssize_t given = 0;
    if (left) {
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
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->mutex);
    return given;
}

static enum MHD_Result queue_answer(struct exchange *exchange)
{
    struct MHD_Response *response;
    static char empty[1];
    bool small = !exchange->streaming && exchange->out.size <= 1024 * 1024;
    if (small)
        response = MHD_create_response_from_buffer(exchange->out.size, exchange->out.data ? exchange->out.data : empty,
                                                   MHD_RESPMEM_MUST_COPY);
    else
        response = MHD_create_response_from_callback(exchange->streaming ? MHD_SIZE_UNKNOWN : exchange->out.size, 16384,
                                                     read_answer, exchange, NULL);
    if (!response)
        return MHD_NO;
    if (small)
        exchange->sent_before = exchange->out.size;
    MHD_add_response_header(response, "X-Request-Id", exchange->id);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    if (exchange->type)
        MHD_add_response_header(response, "Content-Type", exchange->type);
    if (exchange->streaming || exchange->status >= 400)
        MHD_add_response_header(response, "Cache-Control", "no-cache");
    if (exchange->status == 401)
        MHD_add_response_header(response, "WWW-Authenticate", "Bearer");
    if (exchange->status == 503)
        MHD_add_response_header(response, "Retry-After", "1");
    if (exchange->status == 405 && exchange->route)
        MHD_add_response_header(response, "Allow", exchange->route->method);
    if (exchange->type && strncmp(exchange->type, "text/html", 9) == 0)
        MHD_add_response_header(response, "Content-Security-Policy",
                                "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                                "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                                "frame-ancestors 'none'");
    if (exchange->origin[0]) {
        MHD_add_response_header(response, "Access-Control-Allow-Origin", exchange->origin);
        MHD_add_response_header(response, "Vary", "Origin");
        MHD_add_response_header(response, "Access-Control-Expose-Headers", "X-Request-Id");
        if (exchange->preflight) {
            MHD_add_response_header(response, "Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS");
            MHD_add_response_header(response, "Access-Control-Allow-Headers", "*, Authorization");
            MHD_add_response_header(response, "Access-Control-Max-Age", "86400");
        }
    }
    enum MHD_Result result = MHD_queue_response(exchange->connection, exchange->status, response);
    MHD_destroy_response(response);
    return result;
}

/* Sends what is ready, or sleeps until something is. */
static enum MHD_Result deliver(struct exchange *exchange)
{
    enum MHD_Result result = MHD_YES;
    pthread_mutex_lock(&exchange->mutex);
    bool ready = exchange->ready;
    if (!ready) {
        exchange->suspended = true;
        MHD_suspend_connection(exchange->connection);
    }
    pthread_mutex_unlock(&exchange->mutex);
    if (ready)
        result = queue_answer(exchange);
    return result;
}

/* ---- checking ------------------------------------------------------------------------------------------------------
 */

static const char *header(struct exchange *exchange, const char *name)
{
    return MHD_lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

static void refuse(struct exchange *exchange, unsigned status, const char *message)
{
    if (!exchange->refusal) {
        exchange->refusal = status;
        exchange->refusal_message = message;
    }
}

/* Takes the same time wherever the two differ. */
static bool same_key(const char *given, const char *key)
{
    size_t length = strlen(key), given_length = strlen(given);
    unsigned char different = given_length != length;
    for (size_t i = 0; i < length; i++)
        different |= (unsigned char)(key[i] ^ given[given_length ? i % given_length : 0]);
    return different == 0;
}

static bool has_key(struct exchange *exchange, const char *key)
{
    const char *bearer = header(exchange, "Authorization"), *plain = header(exchange, "x-api-key");
    if (bearer && strncasecmp(bearer, "Bearer ", 7) == 0)
        return same_key(bearer + 7, key);
    return plain && same_key(plain, key);
}

/* A page of another site can make a browser send requests to a loopback address under that site's own name. Its name
 * then stands in Host, which a browser does not let it forge. */
static bool is_local_name(const char *host)
{
    char name[256];
    snprintf(name, sizeof name, "%s", host);
    char *colon = strrchr(name, ':');
    if (colon && !strchr(colon, ']'))
        *colon = 0;
    size_t length = strlen(name);
    struct in_addr address;
    return strcasecmp(name, "localhost") == 0 || (length > 10 && strcasecmp(name + length - 10, ".localhost") == 0) ||
           name[0] == '[' || inet_pton(AF_INET, name, &address) == 1;
}

static void check_origin(struct exchange *exchange, const struct server_options *options)
{
    const char *host = header(exchange, "Host"), *origin = header(exchange, "Origin");
    if (exchange->http->loopback && !options->api_key && host && !is_local_name(host) &&
        strcasecmp(host, options->host) != 0)
        refuse(exchange, 403, "the Host header does not name this machine");
    if (!origin)
        return;
    const char *own = strstr(origin, "://");
    bool allowed = false, same = own && host && strcasecmp(own + 3, host) == 0;
    for (size_t i = 0; i < options->origin_count; i++)
        allowed |= strcmp(options->origins[i], "*") == 0 || strcasecmp(options->origins[i], origin) == 0;
    if (allowed && strlen(origin) < sizeof exchange->origin)
        strcpy(exchange->origin, origin);
    else if (!same)
        refuse(exchange, 403, "pages of this origin may not call; hypura serve --cors ORIGIN lets them");
}

static void find_route(struct exchange *exchange, const char *path, const char *method)
{
    size_t length = strlen(path);
    bool wrong_method = false;
    for (size_t i = 0; i < route_count; i++) {
        const struct route *route = &routes[i];
        size_t size = strlen(route->path);
        bool below = size > 1 && route->path[size - 1] == '/' && length > size && strncmp(path, route->path, size) == 0;
        if (!below && strcmp(path, route->path) != 0)
            continue;
        bool fits =
            strcmp(method, route->method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(route->method, "GET") == 0);
        if (exchange->route && !fits)
            continue;
        exchange->route = route;
        exchange->rest = below ? exchange->path + size : "";
        wrong_method = !fits;
        if (fits)
            break;
    }
    if (!exchange->route)
        refuse(exchange, 404, "404 page not found");
    else if (wrong_method)
        refuse(exchange, 405, "405 method not allowed");
}

static void check(struct exchange *exchange, const char *path, const char *method)
{
    struct server *server = &exchange->http->server;
    const struct server_options *options = &server->options;
    check_origin(exchange, options);
    if (strcmp(method, "OPTIONS") == 0 && header(exchange, "Origin") && !exchange->refusal) {
        exchange->preflight = true;
        return;
    }
    find_route(exchange, path, method);
    if (options->api_key && !(exchange->route && exchange->route->open) && !has_key(exchange, options->api_key)) {
        exchange->refusal = 401;
        exchange->refusal_message = "unauthorized: a key is needed, as in \"Authorization: Bearer KEY\"";
    }
    const char *length = header(exchange, "Content-Length");
    if (length && strtoull(length, NULL, 10) > options->body_limit)
        refuse(exchange, 413, "the request's body is too large");
    if (atomic_load(&server->stopping))
        refuse(exchange, 503, "the server is shutting down");
}

static struct exchange *start_exchange(struct http *http, struct MHD_Connection *connection, const char *path,
                                       const char *method)
{
    struct exchange *exchange;
    if (ALLOCATE(&exchange, 1, "request", NULL))
        return NULL;
    pthread_mutex_init(&exchange->mutex, NULL);
    exchange->references = 1;
    exchange->http = http;
    exchange->connection = connection;
    exchange->start = clock_nanoseconds();
    exchange->body.limit = http->server.options.body_limit + 1;
    random_hex(exchange->id, 16);
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    exchange->place = info ? info->socket_context : NULL;
    exchange->socket = exchange->place ? exchange->place->socket : -1;
    if (string_copy(&exchange->path, path, NULL)) {
        exchange_release(exchange);
        return NULL;
    }
    check(exchange, path, method);
    atomic_fetch_add(&http->server.counters.requests, 1);
    return exchange;
}

/* ---- libmicrohttpd's callbacks -------------------------------------------------------------------------------------
 */

static void set_waiting(struct http *http, struct connection *place, uint64_t since)
{
    if (!place)
        return;
    pthread_mutex_lock(&http->mutex);
    place->waiting_since = since;
    pthread_mutex_unlock(&http->mutex);
}

static void take_body(struct exchange *exchange, const char *data, size_t size)
{
    struct http *http = exchange->http;
    uint64_t limit = http->server.options.body_limit;
    if (!exchange->refusal) {
        if (exchange->body.size + size > limit)
            refuse(exchange, 413, "the request's body is too large");
        else if (atomic_load(&http->body_bytes) + size > BODIES_LIMIT * limit)
            refuse(exchange, 503, "server busy, please try again.  too many large requests at once");
    }
    if (exchange->refusal) {
        exchange->discarded += size;
        return;
    }
    atomic_fetch_add(&http->body_bytes, size);
    buffer_append(&exchange->body, data, size);
    if (exchange->body.failed)
        refuse(exchange, 503, "server busy, please try again.  out of memory");
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data, size_t *size, void **state)
{
    struct http *http = context;
    struct exchange *exchange = *state;
    (void)version;
    if (!exchange) {
        *state = exchange = start_exchange(http, connection, path, method);
        return exchange ? MHD_YES : MHD_NO;
    }
    if (*size) {
        take_body(exchange, data, *size);
        *size = 0;
        return exchange->discarded > DISCARD_LIMIT ? MHD_NO : MHD_YES;
    }
    if (!exchange->handled) {
        exchange->handled = true;
        set_waiting(http, exchange->place, 0);
        if (exchange->refusal) {
            atomic_fetch_add(&http->server.counters.refused, 1);
            exchange_fail(exchange, exchange->refusal, exchange->refusal_message);
        } else if (exchange->preflight) {
            exchange_reply(exchange, 204, NULL, "", 0);
        } else {
            exchange->route->handle(exchange);
        }
    }
    return deliver(exchange);
}

static void on_completed(void *context, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code)
{
    struct http *http = context;
    struct exchange *exchange = *state;
    (void)connection;
    if (!exchange)
        return;
    *state = NULL;
    pthread_mutex_lock(&exchange->mutex);
    exchange->gone = true;
    exchange->socket = -1;
    pthread_mutex_unlock(&exchange->mutex);
    server_log("info", "request", "id=%s path=%s status=%u bytes_in=%zu bytes_out=%llu seconds=%.6f%s", exchange->id,
               exchange->route ? exchange->route->path : "-", exchange->status, exchange->body.size,
               (unsigned long long)exchange->sent_before, clock_seconds_since(exchange->start),
               code == MHD_REQUEST_TERMINATED_COMPLETED_OK ? "" : " broken_off=true");
    set_waiting(http, exchange->place, clock_nanoseconds());
    exchange_release(exchange);
}

static void on_connection(void *context, struct MHD_Connection *connection, void **state,
                          enum MHD_ConnectionNotificationCode code)
{
    struct http *http = context;
    struct connection *place = *state;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (!info || ALLOCATE(&place, 1, "connection", NULL))
            return;
        place->socket = info->connect_fd;
        place->waiting_since = clock_nanoseconds();
        pthread_mutex_lock(&http->mutex);
        place->next = http->connections;
        if (place->next)
            place->next->previous = place;
        http->connections = place;
        pthread_mutex_unlock(&http->mutex);
        *state = place;
        return;
    }
    if (!place)
        return;
    pthread_mutex_lock(&http->mutex);
    if (place->next)
        place->next->previous = place->previous;
    *(place->previous ? &place->previous->next : &http->connections) = place->next;
    pthread_mutex_unlock(&http->mutex);
    memory_free(place);
    *state = NULL;
}

/* A request that trickles in is never idle; this ends it all the same. */
static void end_slow_requests(struct http *http)
{
    uint64_t now = clock_nanoseconds(), most = (uint64_t)http->server.options.request_seconds * 1000000000u;
    pthread_mutex_lock(&http->mutex);
    for (struct connection *place = http->connections; place; place = place->next) {
        if (place->waiting_since && now > place->waiting_since + most) {
            shutdown(place->socket, SHUT_RDWR);
            place->waiting_since = 0;
        }
    }
    pthread_mutex_unlock(&http->mutex);
}

/* ---- starting and stopping -----------------------------------------------------------------------------------------
 */

static hypura_status resolve(const struct server_options *options, struct sockaddr_storage *address, socklen_t *size,
                             bool *loopback, hypura_error *error)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found;
    char port[8];
    snprintf(port, sizeof port, "%u", options->port);
    int failed = getaddrinfo(options->host, port, &hints, &found);
    if (failed)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the host \"%s\" is not known: %s", options->host,
                         gai_strerror(failed));
    memcpy(address, found->ai_addr, found->ai_addrlen);
    *size = found->ai_addrlen;
    freeaddrinfo(found);
    if (address->ss_family == AF_INET)
        *loopback = (ntohl(((struct sockaddr_in *)address)->sin_addr.s_addr) >> 24) == 127;
    else
        *loopback = IN6_IS_ADDR_LOOPBACK(&((struct sockaddr_in6 *)address)->sin6_addr);
    return HYPURA_OK;
}

static hypura_status open_socket(const struct server_options *options, int *out, bool *loopback, hypura_error *error)
{
    struct sockaddr_storage address = {0};
    socklen_t size = 0;
    hypura_status status = resolve(options, &address, &size, loopback, error);
    if (status)
        return status;
    if (!*loopback && !options->api_key && !options->allow_remote)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%s can be reached from other machines: give --api-key KEY, or --allow-remote if anybody may "
                         "use it",
                         options->host);
    int one = 1, fd = socket(address.ss_family, SOCK_STREAM, 0);
    if (fd < 0)
        return error_set_errno(error, errno, "cannot make a socket");
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, 1024)) {
        int number = errno;
        close(fd);
        return error_set_errno(error, number, "cannot listen on %s port %u", options->host, options->port);
    }
    *out = fd;
    return HYPURA_OK;
}

static uint16_t port_of(int fd)
{
    struct sockaddr_storage address = {0};
    socklen_t size = sizeof address;
    getsockname(fd, (struct sockaddr *)&address, &size);
    return ntohs(address.ss_family == AF_INET ? ((struct sockaddr_in *)&address)->sin_port
                                              : ((struct sockaddr_in6 *)&address)->sin6_port);
}

/* Each connection is a file. */
static void allow_files(uint32_t connections)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)connections + 256;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < wanted) {
        limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? wanted : MIN(wanted, limit.rlim_max);
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static void serve(struct http *http, int listening)
{
    struct timespec tick = {.tv_nsec = 50000000};
    uint64_t stopped = 0;
    for (unsigned turn = 0;; turn++) {
        nanosleep(&tick, NULL);
        if (turn % 5 == 0)
            events_tick(http->server.events);
        if (turn % 20 == 0)
            end_slow_requests(http);
        if (stop_requests && !stopped) {
            stopped = clock_nanoseconds();
            server_log("info", "stopping", "grace_seconds=10%s", "");
            atomic_store(&http->server.stopping, true);
            MHD_quiesce_daemon(http->daemon);
            close(listening);
        }
        if (stopped && (stop_requests > 1 || worker_is_idle(http->server.worker) ||
                        clock_nanoseconds() - stopped > GRACE_NANOSECONDS))
            return;
    }
}

void server_default_options(struct server_options *options)
{
    *options = (struct server_options){.host = "127.0.0.1",
                                       .port = 11434,
                                       .parallel = 4,
                                       .queue = 512,
                                       .keep_alive = 300,
                                       .body_limit = (uint64_t)32 << 20,
                                       .connections = 1024,
                                       .request_seconds = 120};
    engine_default_options(&options->engine);
}

static void write_log(void *context, enum log_level level, const char *message)
{
    static const char *const names[] = {"debug", "info", "warning", "error"};
    (void)context;
    server_log(names[level], message, "%s", "");
}

hypura_status server_run(const struct server_options *options, void (*ready)(void *context, uint16_t port),
                         void *context, hypura_error *error)
{
    struct http *http;
    int listening = -1;
    hypura_status status = ALLOCATE(&http, 1, "server", error);
    if (status)
        return status;
    struct server *server = &http->server;
    server->options = *options;
    server->start = clock_nanoseconds();
    pthread_mutex_init(&http->mutex, NULL);
    log_set_sink(write_log, NULL);
    signal(SIGPIPE, SIG_IGN);
    allow_files(options->connections);
    status = registry_open(&server->registry, options->model_folder, options->models, options->model_count, error);
    if (!status)
        status = open_socket(options, &listening, &http->loopback, error);
    if (!status)
        status = worker_create(&server->worker, server, error);
    if (!status)
        status = events_create(&server->events, server, error);
    if (!status) {
        http->daemon = MHD_start_daemon(
            MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, on_request, http,
            MHD_OPTION_LISTEN_SOCKET, listening, MHD_OPTION_CONNECTION_LIMIT, (unsigned)options->connections,
            MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
            (size_t)CONNECTION_MEMORY, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http, MHD_OPTION_NOTIFY_CONNECTION,
            on_connection, http, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
        if (!http->daemon)
            status = error_set(error, HYPURA_ERROR_IO, "the HTTP server does not start");
    }
    if (!status) {
        uint16_t port = port_of(listening);
        server_log("info", "listening", "host=%s port=%u models=%s", options->host, port, options->model_folder);
        if (options->preload)
            worker_preload(server->worker);
        if (ready)
            ready(context, port);
        serve(http, listening);
    } else if (listening >= 0) {
        close(listening);
    }
    atomic_store(&server->stopping, true);
    /* The worker ends its answers before the connections that carry them go. */
    worker_stop(server->worker);
    while (atomic_load(&server->pulls))
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    events_destroy(server->events);
    if (http->daemon) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        MHD_stop_daemon(http->daemon);
    }
    worker_destroy(server->worker);
    registry_close(server->registry);
    if (!status)
        server_log("info", "stopped", "requests=%llu", (unsigned long long)atomic_load(&server->counters.requests));
    pthread_mutex_destroy(&http->mutex);
    memory_free(http);
    return status;
}
