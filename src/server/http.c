/* HTTP with libmicrohttpd: connections, limits, keys, origins, and exchanges. */
#include "server/http_private.h"
#include "server/loaded.h"
#include "server/worker.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>

#include <netdb.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define CONNECTION_MEMORY (48 * 1024)     /* headers and buffers of one connection; becomes resident as it is touched */
#define IDLE_SECONDS 60                   /* after which a silent connection is closed */
#define DISCARD_LIMIT ((uint64_t)1 << 30) /* bytes read of a refused body, so that the client gets to the answer */
#define LIVELY_BYTES ((uint64_t)1 << 20)  /* of an upload: each part of this size has request_seconds to arrive */
#define OTHER_FILES 256                   /* open files besides connections */
#define GRACE_NANOSECONDS ((uint64_t)10 * 1000000000u) /* for running answers when the server stops */

static volatile sig_atomic_t stop_requests;

void server_stop(void)
{
    stop_requests = stop_requests + 1;
}

/* ---- checking ------------------------------------------------------------------------------------------------------
 */

static const char *header(struct exchange *exchange, const char *name)
{
    return mhd.lookup_connection_value(exchange->connection, MHD_HEADER_KIND, name);
}

static void refuse(struct exchange *exchange, unsigned status, const char *message)
{
    if (!exchange->refusal) {
        exchange->refusal = status;
        exchange->refusal_message = message;
    }
}

/* Takes the same time wherever the two differ, so that timing does not reveal the key. */
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

static bool ends_with(const char *text, const char *ending)
{
    size_t length = strlen(text), size = strlen(ending);
    return length > size && strcasecmp(text + length - size, ending) == 0;
}

/* Guards against DNS rebinding: a web site can point its own name at a loopback address and make a browser send
 * requests there. The Host header then holds that name, which a browser does not let a page forge. Names that no public
 * site can have are safe: containers use host.docker.internal for the machine they run on. Other names in ".local" may
 * belong to any machine of the network. */
static bool is_local_name(const char *host)
{
    char name[256], own[256] = "";
    snprintf(name, sizeof name, "%s", host);
    if (gethostname(own, sizeof own - sizeof ".local"))
        *own = 0;
    size_t length = strlen(own);
    char *colon = strrchr(name, ':');
    if (colon && !strchr(colon, ']'))
        *colon = 0;
    struct in_addr address;
    bool mine = length && (strcasecmp(name, own) == 0 ||
                           (strncasecmp(name, own, length) == 0 && strcasecmp(name + length, ".local") == 0));
    return strcasecmp(name, "localhost") == 0 || ends_with(name, ".localhost") || ends_with(name, ".internal") ||
           mine || name[0] == '[' || inet_pton(AF_INET, name, &address) == 1;
}

/* Compares with and without the port that a proxy may have appended. */
static bool is_allowed_name(const char *host, const struct server_options *options)
{
    const char *colon = strchr(host, ':');
    size_t length = colon ? (size_t)(colon - host) : strlen(host);
    for (size_t i = 0; i < options->allowed_host_count; i++) {
        const char *allowed = options->allowed_hosts[i];
        if (strcasecmp(host, allowed) == 0 || (strlen(allowed) == length && strncasecmp(host, allowed, length) == 0))
            return true;
    }
    return false;
}

static void check_origin(struct exchange *exchange, const struct server_options *options)
{
    const char *host = header(exchange, "Host"), *origin = header(exchange, "Origin");
    if (exchange->http->loopback && !options->api_key && host && !is_local_name(host) &&
        strcasecmp(host, options->host) != 0 && !is_allowed_name(host, options))
        refuse(exchange, 403,
               "the Host header does not name this machine: behind a proxy, start hypura serve with --allow-host NAME, "
               "or with --api-key KEY");
    if (!origin)
        return;
    const char *own = strstr(origin, "://");
    bool allowed = false, same = own && host && strcasecmp(own + 3, host) == 0;
    for (size_t i = 0; i < options->origin_count; i++)
        allowed |= strcmp(options->origins[i], "*") == 0 || strcasecmp(options->origins[i], origin) == 0;
    if (allowed && strlen(origin) < sizeof exchange->origin)
        strcpy(exchange->origin, origin);
    else if (!same)
        refuse(exchange, 403,
               "web pages of this origin may not call this server: hypura serve --cors ORIGIN allows them");
}

/* Drops a final slash, and the "http://HOST" that clients put before the path when they talk to a proxy. */
static hypura_status set_path(struct exchange *exchange, const char *path)
{
    const char *authority = strncmp(path, "http://", 7) == 0 ? path + 7 : NULL;
    if (authority)
        path = strchr(authority, '/') ? strchr(authority, '/') : "/";
    hypura_status status = string_copy(&exchange->path, path, NULL);
    size_t length = status ? 0 : strlen(exchange->path);
    if (length > 1 && exchange->path[length - 1] == '/')
        exchange->path[length - 1] = 0;
    return status;
}

static void find_route(struct exchange *exchange, const char *method)
{
    const char *path = exchange->path;
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

/* Refuses a request that the guard passed on only so that it gets an answer. */
static void check_guard(struct exchange *exchange)
{
    unsigned status;
    const char *reason;
    if (!exchange->place || !guard_refuses(exchange->place->guarded, exchange->number, &status, &reason))
        return;
    exchange->last = true;
    exchange->refusal = status;
    exchange->refusal_message = reason;
}

static void refuse_for_room(struct exchange *exchange, uint64_t bytes)
{
    if (bytes)
        exchange->too_large = true;
    exchange->missing = MAX(exchange->missing, bytes);
    unsigned status = exchange_tell_room(exchange, exchange->refusal_text, sizeof exchange->refusal_text);
    refuse(exchange, status, exchange->refusal_text);
}

static void check(struct exchange *exchange, const char *method)
{
    struct server *server = &exchange->http->server;
    const struct server_options *options = &server->options;
    check_guard(exchange);
    check_origin(exchange, options);
    if (strcmp(method, "OPTIONS") == 0 && !exchange->refusal) {
        exchange->preflight = true;
        return;
    }
    find_route(exchange, method);
    if (options->api_key && !(exchange->route && exchange->route->open) && !has_key(exchange, options->api_key)) {
        exchange->refusal = 401;
        exchange->refusal_message = "unauthorized: send the API key, as in \"Authorization: Bearer KEY\"";
    }
    const char *length = header(exchange, "Content-Length");
    bool any_size = exchange->route && exchange->route->take;
    uint64_t bytes = length && !any_size ? strtoull(length, NULL, 10) : 0;
    if (bytes > options->body_limit)
        refuse(exchange, 413, "the request's body is too large: hypura serve --body-limit sets the limit");
    else if (bytes > loaded_lendable(server->models))
        refuse_for_room(exchange, bytes);
    if (atomic_load(&server->stopping))
        refuse(exchange, 503, "the server is shutting down");
}

static struct exchange *start_exchange(struct http *http, struct MHD_Connection *connection, const char *path,
                                       const char *method)
{
    struct exchange *exchange;
    const union MHD_ConnectionInfo *info = mhd.get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    struct connection *place = info ? info->socket_context : NULL;
    /* Counts every request, as the guard does, even one that fails below. place is NULL if memory was short. */
    unsigned number = place ? ++place->requests : 0;
    if (!place || ALLOCATE(&exchange, 1, "request", NULL))
        return NULL;
    pthread_mutex_init(&exchange->mutex, NULL);
    exchange->references = 1;
    exchange->http = http;
    exchange->connection = connection;
    exchange->start = clock_nanoseconds();
    exchange->body.limit = http->server.options.body_limit + 1;
    random_hex(exchange->id, 16);
    exchange->place = place;
    exchange->socket = place->socket;
    exchange->number = number;
    if (set_path(exchange, path)) {
        exchange_release(exchange);
        return NULL;
    }
    check(exchange, method);
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

/* An upload may take longer than request_seconds as long as it goes on. */
static void take_on_the_way(struct exchange *exchange, const char *data, size_t size)
{
    if (exchange->taken / LIVELY_BYTES != (exchange->taken + size) / LIVELY_BYTES)
        set_waiting(exchange->http, exchange->place, clock_nanoseconds());
    exchange->taken += size;
    if (!exchange->route->take(exchange, data, size))
        refuse(exchange, 503, "server busy, please try again.  out of memory");
}

static void take_body(struct exchange *exchange, const char *data, size_t size)
{
    struct http *http = exchange->http;
    uint64_t limit = http->server.options.body_limit;
    if (!exchange->refusal && exchange->route && exchange->route->take) {
        take_on_the_way(exchange, data, size);
        return;
    }
    if (!exchange->refusal) {
        if (exchange->body.size + size > limit)
            refuse(exchange, 413, "the request's body is too large: hypura serve --body-limit sets the limit");
        else if (atomic_load(&http->body_bytes) + size > BODIES_LIMIT * limit)
            refuse(exchange, 503, "server busy, please try again.  too many large requests at once");
    }
    if (exchange->refusal) {
        exchange->discarded += size;
        return;
    }
    if (!exchange_lend(exchange, size)) {
        refuse_for_room(exchange, 0);
        return;
    }
    buffer_append(&exchange->body, data, size);
    if (exchange->body.failed)
        refuse(exchange, 503, "server busy, please try again.  out of memory");
    else
        atomic_fetch_add(&http->body_bytes, size); /* subtracted when the exchange is freed */
}

static void handle_body(struct desk_task *task)
{
    struct exchange *exchange = (struct exchange *)((char *)task - offsetof(struct exchange, task));
    exchange_start_work();
    exchange_open_account(exchange);
    if (exchange_is_awaited(exchange))
        exchange->route->handle(exchange);
    else
        exchange_fail(exchange, 503, "the server is shutting down");
    memory_set_account(NULL); /* a job may own the exchange now */
    exchange_release(exchange);
}

static void answer(struct http *http, struct exchange *exchange)
{
    exchange->handled = true;
    exchange->body_size = exchange->body.size;
    exchange_start_work();
    set_waiting(http, exchange->place, 0);
    if (exchange->refusal) {
        atomic_fetch_add(&http->server.counters.refused, 1);
        exchange_fail(exchange, exchange->refusal, exchange->refusal_message);
    } else if (exchange->preflight) {
        exchange_reply(exchange, 204, NULL, "", 0);
    } else if (exchange->body_size) {
        exchange_hold(exchange);
        exchange->task = (struct desk_task){.work = handle_body, .bytes = exchange->body_size};
        desk_submit(http->server.desk, &exchange->task);
    } else {
        exchange->route->handle(exchange);
    }
}

/* Whether the client waits for "100 Continue" before it sends the body. */
static bool holds_body_back(struct exchange *exchange)
{
    const char *expected = header(exchange, "Expect");
    return expected && strcasecmp(expected, "100-continue") == 0;
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data, size_t *size, void **state)
{
    struct http *http = context;
    struct exchange *exchange = *state;
    (void)version;
    if (!exchange) {
        *state = exchange = start_exchange(http, connection, path, method);
        if (!exchange)
            return exchange_answer_nobody(http, connection, path);
        if (!exchange->refusal || !(exchange->last || holds_body_back(exchange)))
            return MHD_YES;
        answer(http, exchange);
        return exchange_deliver(exchange);
    }
    if (*size) {
        take_body(exchange, data, *size);
        *size = 0;
        return exchange->discarded > DISCARD_LIMIT ? MHD_NO : MHD_YES;
    }
    if (!exchange->handled) {
        check_guard(exchange); /* the body may be malformed */
        answer(http, exchange);
    }
    return exchange_deliver(exchange);
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
               exchange->route ? exchange->route->path : "-", exchange->status,
               exchange->body_size + (size_t)exchange->taken, (unsigned long long)exchange->sent_before,
               clock_seconds_since(exchange->start),
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
        const union MHD_ConnectionInfo *info = mhd.get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        if (!info || ALLOCATE(&place, 1, "connection", NULL))
            return;
        place->socket = info->connect_fd;
        place->guarded = guard_find(http->guard, place->socket);
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
    guard_release(place->guarded);
    memory_free(place);
    *state = NULL;
}

/* Whether the client has closed its half of the connection, so that no further request can come. */
static bool has_left(int socket)
{
    char byte;
    return recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

/* Closes connections that libmicrohttpd's idle limit misses or ends late: a request that trickles in is never idle, and
 * a connection whose client has closed its half stays until it has been idle for IDLE_SECONDS. */
static void end_slow_requests(struct http *http)
{
    uint64_t now = clock_nanoseconds(), most = (uint64_t)http->server.options.request_seconds * 1000000000u;
    pthread_mutex_lock(&http->mutex);
    for (struct connection *place = http->connections; place; place = place->next) {
        uint64_t since = place->waiting_since;
        if (since && (now > since + most || (now > since + 1000000000u && has_left(place->socket)))) {
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
        return error_set(error, HYPURA_ERROR_ARGUMENT, "cannot resolve the host \"%s\": %s", options->host,
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
                         "other machines can reach %s: give --api-key KEY, or --allow-remote to let anybody use the "
                         "server",
                         options->host);
    int one = 1, fd = socket(address.ss_family, SOCK_STREAM, 0);
    if (fd < 0)
        return error_set_errno(error, errno, "cannot create a socket");
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&address, size) || listen(fd, 1024)) {
        int number = errno;
        close(fd);
        error_set_errno(error, number, "cannot listen on %s port %u", options->host, options->port);
        if (number == EADDRINUSE) /* most often by Ollama */
            error_set(error, HYPURA_ERROR_IO,
                      "another server already listens on %s port %u: stop it, or choose another port (--port)",
                      options->host, options->port);
        return error->status;
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

/* Raises the limit of open files and returns how many connections it allows. Each takes three files: the client's
 * socket, and a pair between the guard and libmicrohttpd. */
static uint32_t allow_files(uint32_t connections)
{
    struct rlimit limit;
    rlim_t wanted = (rlim_t)connections * 3 + OTHER_FILES;
    if (getrlimit(RLIMIT_NOFILE, &limit))
        return connections;
    if (limit.rlim_cur < wanted) {
        limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? wanted : MIN(wanted, limit.rlim_max);
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur >= wanted)
        return connections;
    return limit.rlim_cur > OTHER_FILES ? (uint32_t)MAX((limit.rlim_cur - OTHER_FILES) / 3, (rlim_t)1) : 1;
}

/* Passes libmicrohttpd's end of a connection to it. */
static bool add_connection(void *context, int inner)
{
    struct http *http = context;
    struct sockaddr_un nobody = {.sun_family = AF_UNIX};
    return mhd.add_connection(http->daemon, inner, (struct sockaddr *)&nobody, sizeof nobody) == MHD_YES;
}

static void serve(struct http *http)
{
    struct timespec tick = {.tv_nsec = 50000000};
    uint64_t stopped = 0;
    for (unsigned turn = 0;; turn++) {
        nanosleep(&tick, NULL);
        server_follow_budget(&http->server);
        worker_look(http->server.worker);
        if (turn % 5 == 0)
            events_tick(http->server.events);
        if (turn % 20 == 0)
            end_slow_requests(http);
        if (stop_requests && !stopped) {
            stopped = clock_nanoseconds();
            server_log("info", "stopping", "grace_seconds=10%s", "");
            atomic_store(&http->server.stopping, true);
            guard_take_no_more(http->guard);
        }
        if (stopped && (stop_requests > 1 || (desk_is_idle(http->server.desk) && worker_is_idle(http->server.worker)) ||
                        clock_nanoseconds() - stopped > GRACE_NANOSECONDS))
            return;
    }
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
    pthread_mutex_init(&http->mutex, NULL);
    if (options->log) {
        log_set_sink(write_log, NULL);
        server_log_to(options->log);
    }
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* so that exceeding a file size limit is an error of write() */
    uint32_t connections = allow_files(options->connections);
    status = mhd_load(error);
    if (!status)
        status = open_socket(options, &listening, &http->loopback, error);
    if (!status)
        status = server_open(server, options, error);
    if (!status)
        registry_forget_blobs(server->registry);
    if (!status)
        status = events_create(&server->events, server, error);
    if (!status)
        status = exchange_prepare_answers(http, error);
    if (!status) {
        http->daemon = mhd.start_daemon(
            MHD_USE_EPOLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_NO_LISTEN_SOCKET, 0, NULL,
            NULL, on_request, http, MHD_OPTION_CONNECTION_LIMIT, (unsigned)connections + 16,
            MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
            (size_t)CONNECTION_MEMORY, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http, MHD_OPTION_NOTIFY_CONNECTION,
            on_connection, http, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
        if (!http->daemon)
            status = error_set(error, HYPURA_ERROR_IO, "cannot start the HTTP server");
    }
    uint16_t port = listening >= 0 ? port_of(listening) : 0;
    if (!status)
        status = guard_start(&http->guard, listening, connections, add_connection, http, error);
    if (!status) {
        server_log("info", "listening", "host=%s port=%u models=%s", options->host, port, options->model_folder);
        if (options->preload)
            worker_preload(server->worker);
        if (ready)
            ready(context, port);
        serve(http);
    } else if (listening >= 0) {
        close(listening);
    }
    atomic_store(&server->stopping, true);
    /* The worker must end its answers before the connections are closed. */
    worker_stop(server->worker);
    while (server->desk && !desk_is_idle(server->desk))
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    while (atomic_load(&server->pulls) || atomic_load(&server->aside))
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    events_destroy(server->events);
    if (http->daemon) {
        nanosleep(&(struct timespec){.tv_nsec = 100000000}, NULL);
        mhd.stop_daemon(http->daemon);
    }
    exchange_free_answers(http);
    guard_stop(http->guard);
    server_close(server);
    if (!status)
        server_log("info", "stopped", "requests=%llu", (unsigned long long)atomic_load(&server->counters.requests));
    pthread_mutex_destroy(&http->mutex);
    memory_free(http);
    return status;
}
