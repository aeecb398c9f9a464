/* libFuzzer target: one request to a server with a very small model: a line with method and path, lines of headers, an
 * empty line, and the body. This replaces libmicrohttpd, which would read them from a socket. Every request must get
 * exactly one answer with a status, and valid JSON if its type says so. */
#include "fuzz.h"

#include "fake_fetch.h"
#include "server/mhd.h"
#include "server/server.h"

#include <ftw.h>
#include <pthread.h>
#include <stdlib.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#define MOST_HEADERS 16
#define MOST_READS 100000

struct MHD_Daemon {
    int nothing;
};

struct MHD_Response {
    char *text;
    size_t size;
    MHD_ContentReaderCallback read;
    void *context;
    bool json;
};

struct MHD_Connection {
    struct {
        char *name, *value;
    } headers[MOST_HEADERS];
    size_t header_count;
    char *model; /* the value of "model" in the path's query */
    int socket;
    union MHD_ConnectionInfo info;
    void *place;
    bool suspended;
    unsigned status;
    struct MHD_Response *response;
};

static struct MHD_Daemon the_daemon;
static MHD_AccessHandlerCallback on_request;
static MHD_RequestCompletedCallback on_completed;
static MHD_NotifyConnectionCallback on_connection;
static void *context_of_requests;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static bool running;

/* ---- functions of libmicrohttpd ---------------------------------------------------------------------------------- */

static struct MHD_Daemon *start_daemon(unsigned flags, uint16_t port, MHD_AcceptPolicyCallback accept,
                                       void *accept_context, MHD_AccessHandlerCallback handler, void *context, ...)
{
    (void)flags, (void)port, (void)accept, (void)accept_context;
    va_list options;
    va_start(options, context);
    for (enum MHD_OPTION option; (option = va_arg(options, enum MHD_OPTION)) != MHD_OPTION_END;) {
        if (option == MHD_OPTION_NOTIFY_COMPLETED) {
            on_completed = va_arg(options, MHD_RequestCompletedCallback);
            (void)va_arg(options, void *);
        } else if (option == MHD_OPTION_NOTIFY_CONNECTION) {
            on_connection = va_arg(options, MHD_NotifyConnectionCallback);
            (void)va_arg(options, void *);
        } else if (option == MHD_OPTION_CONNECTION_MEMORY_LIMIT) {
            (void)va_arg(options, size_t);
        } else {
            (void)va_arg(options, unsigned);
        }
    }
    va_end(options);
    on_request = handler;
    context_of_requests = context;
    return &the_daemon;
}

static void stop_daemon(struct MHD_Daemon *daemon)
{
    (void)daemon;
}

static enum MHD_Result add_connection(struct MHD_Daemon *daemon, MHD_socket socket, const struct sockaddr *address,
                                      socklen_t size)
{
    (void)daemon, (void)address, (void)size;
    close(socket);
    return MHD_NO;
}

static void suspend_connection(struct MHD_Connection *connection)
{
    pthread_mutex_lock(&mutex);
    connection->suspended = true;
    pthread_mutex_unlock(&mutex);
}

static void resume_connection(struct MHD_Connection *connection)
{
    pthread_mutex_lock(&mutex);
    connection->suspended = false;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

static const union MHD_ConnectionInfo *get_connection_info(struct MHD_Connection *connection,
                                                           enum MHD_ConnectionInfoType type, ...)
{
    if (type == MHD_CONNECTION_INFO_CONNECTION_FD)
        connection->info.connect_fd = connection->socket;
    else
        connection->info.socket_context = connection->place;
    return &connection->info;
}

static const char *lookup(struct MHD_Connection *connection, enum MHD_ValueKind kind, const char *name)
{
    if (kind == MHD_GET_ARGUMENT_KIND)
        return strcmp(name, "model") == 0 ? connection->model : NULL;
    for (size_t i = 0; i < connection->header_count; i++) {
        if (strcasecmp(connection->headers[i].name, name) == 0)
            return connection->headers[i].value;
    }
    return NULL;
}

static struct MHD_Response *from_buffer(size_t size, void *text, enum MHD_ResponseMemoryMode mode)
{
    struct MHD_Response *response = calloc(1, sizeof *response);
    must(response && mode == MHD_RESPMEM_MUST_COPY);
    response->text = malloc(size + 1);
    must(response->text != NULL);
    memcpy(response->text, text, size);
    response->size = size;
    return response;
}

static struct MHD_Response *from_callback(uint64_t size, size_t block, MHD_ContentReaderCallback read, void *context,
                                          MHD_ContentReaderFreeCallback end)
{
    struct MHD_Response *response = calloc(1, sizeof *response);
    (void)size, (void)block;
    must(response && !end);
    response->read = read;
    response->context = context;
    return response;
}

static enum MHD_Result add_header(struct MHD_Response *response, const char *name, const char *value)
{
    must(name && value && !strpbrk(value, "\r\n"));
    response->json |= strcasecmp(name, "Content-Type") == 0 && strncmp(value, "application/json", 16) == 0;
    return MHD_YES;
}

static enum MHD_Result queue_response(struct MHD_Connection *connection, unsigned status, struct MHD_Response *response)
{
    must(!connection->response && status >= 200 && status < 600);
    connection->status = status;
    connection->response = response;
    return MHD_YES;
}

static void destroy_response(struct MHD_Response *response)
{
    (void)response; /* the connection owns it */
}

struct mhd mhd = {start_daemon, stop_daemon, add_connection, suspend_connection, resume_connection, get_connection_info,
                  lookup,       from_buffer, from_callback,  add_header,         queue_response,    destroy_response};

hypura_status mhd_load(hypura_error *error)
{
    (void)error;
    return HYPURA_OK;
}

const char page_html[] = "<!doctype html>";
const size_t page_html_size = sizeof page_html - 1;

/* ---- the server -------------------------------------------------------------------------------------------------- */

static char folder[] = "/tmp/hypura-fuzz-requests-XXXXXX";

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place)
{
    (void)info, (void)kind, (void)place;
    return strcmp(path, folder) == 0 ? 0 : remove(path);
}

static void is_ready(void *context, uint16_t port)
{
    (void)context, (void)port;
    pthread_mutex_lock(&mutex);
    running = true;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
}

static void *serve(void *context)
{
    static const char *const models[] = {FUZZ_MODEL};
    static const char *const origins[] = {"http://known.example"};
    struct server_options options;
    hypura_error error = {0};
    (void)context;
    server_default_options(&options);
    options.port = 0;
    options.model_folder = folder;
    options.models = models;
    options.model_count = 1;
    options.origins = origins;
    options.origin_count = 1;
    options.engine.budget = (uint64_t)256 << 20;
    options.engine.context = 64;
    options.engine.threads = 1;
    options.body_limit = 1 << 16;
    options.parallel = 2;
    must(server_run(&options, is_ready, NULL, &error) == HYPURA_OK);
    return NULL;
}

static void start(void)
{
    pthread_t thread;
    setenv("HYPURA_GPU", "none", 1);
    must(mkdtemp(folder) != NULL && freopen("/dev/null", "w", stdout));
    must(pthread_create(&thread, NULL, serve, NULL) == 0);
    pthread_mutex_lock(&mutex);
    while (!running)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

static void wait_until_resumed(struct MHD_Connection *connection)
{
    pthread_mutex_lock(&mutex);
    while (connection->suspended)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
}

/* ---- a request --------------------------------------------------------------------------------------------------- */

/* Takes a line, without its end, off the rest of the text. */
static char *take_line(char **rest)
{
    char *line = *rest, *end = strchr(line, '\n');
    *rest = end ? end + 1 : line + strlen(line);
    if (end)
        *end = 0;
    return line;
}

static void read_answer(struct MHD_Connection *connection, bool endless)
{
    struct MHD_Response *response = connection->response;
    char piece[16384];
    for (int i = 0; response->read && i < (endless ? 2 : MOST_READS); i++) {
        ssize_t got = response->read(response->context, 0, piece, sizeof piece);
        must(got >= 0 || got == MHD_CONTENT_READER_END_OF_STREAM);
        if (got < 0)
            return;
        wait_until_resumed(connection);
        must(endless || i + 1 < MOST_READS);
    }
    if (response->text && response->json && response->size) {
        json_t *json = json_loadb(response->text, response->size, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        must(json != NULL);
        json_decref(json);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int sockets[2];
    if (!on_request) {
        must(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
        start();
    }
    char *copy = malloc(size + 1), *rest = copy;
    must(copy != NULL);
    memcpy(copy, data, size);
    copy[size] = 0;
    struct MHD_Connection connection = {.socket = sockets[0]};
    char *method = take_line(&rest), *path = strchr(method, ' ');
    if (!path || !*method) {
        free(copy);
        return -1;
    }
    *path++ = 0;
    char *query = strchr(path, '?');
    if (query)
        *query++ = 0;
    connection.model = query && strncmp(query, "model=", 6) == 0 ? query + 6 : NULL;
    for (char *line; *(line = take_line(&rest));) {
        char *colon = strstr(line, ": ");
        if (!colon || connection.header_count == MOST_HEADERS)
            continue;
        *colon = 0;
        connection.headers[connection.header_count].name = line;
        connection.headers[connection.header_count++].value = colon + 2;
    }
    size_t body = size - (size_t)(rest - copy), used = body;
    fake_fetch_set((const uint8_t *)rest, body);
    void *state = NULL;
    on_connection(context_of_requests, &connection, &connection.place, MHD_CONNECTION_NOTIFY_STARTED);
    must(on_request(context_of_requests, &connection, path, method, "HTTP/1.1", NULL, &(size_t){0}, &state) == MHD_YES);
    if (!connection.response && body)
        must(on_request(context_of_requests, &connection, path, method, "HTTP/1.1", rest, &used, &state) == MHD_YES);
    while (!connection.response) {
        must(on_request(context_of_requests, &connection, path, method, "HTTP/1.1", NULL, &(size_t){0}, &state) ==
             MHD_YES);
        wait_until_resumed(&connection);
    }
    read_answer(&connection, strstr(path, "events") != NULL);
    on_completed(context_of_requests, &connection, &state, MHD_REQUEST_TERMINATED_COMPLETED_OK);
    on_connection(context_of_requests, &connection, &connection.place, MHD_CONNECTION_NOTIFY_CLOSED);
    free(connection.response->text);
    free(connection.response);
    if (strcmp(method, "POST") == 0 && strstr(path, "/api/")) /* the request may have left files */
        nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    free(copy);
    return 0;
}
