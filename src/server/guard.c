#include "server/guard.h"

#include "server/poller.h"
#include "server/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define PIECE ((size_t)64 << 10)
#define MOST_EVENTS 256
#define MOST_TURNS 8 /* of one connection before the others get a turn */
/* How long a client that is still sending its request has to read the answer. */
#define LINGER_NANOSECONDS ((uint64_t)1000000000)
#define STALL_NANOSECONDS ((uint64_t)60 * 1000000000) /* for which a client may leave an answer unread */
#define END_NANOSECONDS ((uint64_t)300000000)
#define TICK_MILLISECONDS 250

/* The guard's connection to a client, or to the library. */
struct side {
    struct guarded *owner;
    int file; /* -1: closed */
    unsigned wanted;
    struct buffer out; /* still to be sent to it */
    size_t sent;
};

struct guarded {
    struct guarded *next, *previous;
    struct guard *guard;
    struct side client, server;
    int inner; /* the library's end, for guard_find */
    struct wire wire;
    bool client_ended; /* the client has closed its half */
    bool told_server;  /* passed that on to the library */
    bool lingering, over;
    uint64_t since; /* time of the last bytes sent, or since when it lingers */
    atomic_uint references;
    atomic_uint refused; /* the number of the request; set after status and reason */
    unsigned status;
    const char *reason;
};

struct guard {
    struct poller *poller;
    pthread_t thread;
    pthread_mutex_t mutex; /* protects the list, which only the guard's thread changes */
    struct guarded *first;
    struct guarded *over; /* to be freed after the current events */
    int listening;        /* -1: closed */
    bool paused;          /* accepts none for now */
    int wake[2];
    uint32_t most;
    atomic_uint count;
    atomic_bool no_more, stop;
    bool (*add)(void *context, int inner);
    void *context;
    struct guarded *spare; /* used when an allocation fails; or NULL */
    uint64_t ticked;
    char piece[PIECE];
};

static char listening_mark, wake_mark;

/* ---- connections ----------------------------------------------------------------------------------------------------
 */

static void wake_up(struct guard *guard)
{
    ssize_t ignored = write(guard->wake[1], "", 1);
    (void)ignored; /* a full pipe wakes the thread as well */
}

void guard_release(struct guarded *guarded)
{
    if (!guarded || atomic_fetch_sub(&guarded->references, 1) != 1)
        return;
    struct guard *guard = guarded->guard;
    wire_free(&guarded->wire);
    buffer_free(&guarded->client.out);
    buffer_free(&guarded->server.out);
    memory_free(guarded);
    if (atomic_fetch_sub(&guard->count, 1) == guard->most)
        wake_up(guard);
}

struct guarded *guard_find(struct guard *guard, int inner)
{
    pthread_mutex_lock(&guard->mutex);
    struct guarded *found = guard->first;
    while (found && found->inner != inner)
        found = found->next;
    if (found) {
        found->inner = -1; /* the descriptor may be reused before this connection is freed */
        atomic_fetch_add(&found->references, 1);
    }
    pthread_mutex_unlock(&guard->mutex);
    return found;
}

bool guard_refuses(const struct guarded *guarded, unsigned request, unsigned *status, const char **reason)
{
    if (!guarded || atomic_load(&guarded->refused) != request)
        return false;
    *status = guarded->status;
    *reason = guarded->reason;
    return true;
}

static void close_side(struct guard *guard, struct side *side)
{
    if (side->file < 0)
        return;
    poller_remove(guard->poller, side->file);
    close(side->file);
    side->file = -1;
    buffer_free(&side->out);
    side->sent = 0;
}

/* The memory stays until the current events are done, as they may point to it. */
static void end(struct guarded *guarded)
{
    struct guard *guard = guarded->guard;
    if (guarded->over)
        return;
    guarded->over = true;
    close_side(guard, &guarded->client);
    close_side(guard, &guarded->server);
    pthread_mutex_lock(&guard->mutex);
    if (guarded->next)
        guarded->next->previous = guarded->previous;
    *(guarded->previous ? &guarded->previous->next : &guard->first) = guarded->next;
    pthread_mutex_unlock(&guard->mutex);
    guarded->next = guard->over;
    guard->over = guarded;
}

static void prepare(int file)
{
    fcntl(file, F_SETFD, FD_CLOEXEC);
    fcntl(file, F_SETFL, fcntl(file, F_GETFL) | O_NONBLOCK);
#ifdef SO_NOSIGPIPE
    setsockopt(file, SOL_SOCKET, SO_NOSIGPIPE, &(int){1}, sizeof(int));
#endif
}

/* Answers 503 without allocating, if memory runs short before a request is complete. */
static void turn_away(struct guarded *guarded)
{
    static const char words[] = "{\"error\":\"server busy, please try again.  out of memory\"}";
    char answer[300];
    int size = snprintf(answer, sizeof answer,
                        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json; charset=utf-8\r\n"
                        "Retry-After: 1\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                        sizeof words - 1, words);
    ssize_t ignored = send(guarded->client.file, answer, (size_t)size, 0);
    (void)ignored;
    close_side(guarded->guard, &guarded->server);
    shutdown(guarded->client.file, SHUT_WR);
    guarded->lingering = true;
    guarded->since = clock_nanoseconds();
}

/* Keeps a spare one for the case that an allocation fails. */
static struct guarded *make_guarded(struct guard *guard)
{
    struct guarded *guarded = NULL;
    if (!guard->spare && ALLOCATE(&guard->spare, 1, "connection", NULL))
        guard->spare = NULL;
    if (ALLOCATE(&guarded, 1, "connection", NULL)) {
        guarded = guard->spare;
        guard->spare = NULL;
    }
    return guarded;
}

/* Takes ownership of the client's socket. */
static void begin(struct guard *guard, int client)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends)) {
        close(client);
        return;
    }
    prepare(client);
    prepare(ends[0]);
    prepare(ends[1]);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    struct guarded *guarded = make_guarded(guard);
    if (!guarded) {
        close(client);
        close(ends[0]);
        close(ends[1]);
        return;
    }
    guarded->guard = guard;
    guarded->client = (struct side){.owner = guarded, .file = client, .wanted = POLLER_READ};
    guarded->server = (struct side){.owner = guarded, .file = ends[0], .wanted = POLLER_READ};
    guarded->inner = ends[1];
    guarded->since = clock_nanoseconds();
    atomic_store(&guarded->references, 1);
    atomic_fetch_add(&guard->count, 1);
    pthread_mutex_lock(&guard->mutex);
    guarded->next = guard->first;
    if (guarded->next)
        guarded->next->previous = guarded;
    guard->first = guarded;
    pthread_mutex_unlock(&guard->mutex);
    if (!poller_add(guard->poller, client, POLLER_READ, &guarded->client) ||
        !poller_add(guard->poller, ends[0], POLLER_READ, &guarded->server)) {
        close(ends[1]);
        end(guarded);
    } else if (!guard->add(guard->context, ends[1])) {
        turn_away(guarded);
    }
}

/* ---- forwarding ----------------------------------------------------------------------------------------------------
 */

/* Sends as much as the socket takes. False: the other side is gone. */
static bool flush(struct guarded *guarded, struct side *side)
{
    while (side->sent < side->out.size) {
        ssize_t sent = send(side->file, side->out.data + side->sent, side->out.size - side->sent, 0);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK;
        side->sent += (size_t)sent;
        guarded->since = clock_nanoseconds();
    }
    if (side->sent) {
        buffer_free(&side->out);
        side->sent = 0;
    }
    return true;
}

static bool waits(const struct side *side)
{
    return side->sent < side->out.size;
}

#define NOTHING_NOW ((ssize_t)PIECE + 1)

/* Reads into the guard's piece. Returns the number of bytes, NOTHING_NOW, 0 at the end, or -1 after an error. */
static ssize_t take(struct guard *guard, int file)
{
    ssize_t got;
    do
        got = recv(file, guard->piece, sizeof guard->piece, 0);
    while (got < 0 && errno == EINTR);
    return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK) ? NOTHING_NOW : got;
}

/* Called before the rewritten request is flushed, so that guard_refuses reports it before the library reads it. */
static void note_refusal(struct guarded *guarded)
{
    const struct wire *wire = &guarded->wire;
    if (wire->part != WIRE_REFUSED || atomic_load(&guarded->refused))
        return;
    guarded->status = wire->status;
    guarded->reason = wire->reason;
    atomic_store(&guarded->refused, wire->requests);
}

/* From the client to the library. False: the connection is over. */
static bool pass_requests(struct guarded *guarded)
{
    struct guard *guard = guarded->guard;
    struct side *server = &guarded->server;
    for (int turn = 0; turn < MOST_TURNS && !guarded->client_ended && !waits(server); turn++) {
        ssize_t got = take(guard, guarded->client.file);
        if (got == NOTHING_NOW)
            break;
        if (got < 0)
            return false;
        guarded->client_ended = got == 0;
        if (server->file < 0 || guarded->lingering)
            continue;
        if (!wire_take(&guarded->wire, guard->piece, (size_t)got, &server->out)) {
            turn_away(guarded);
            return true;
        }
        note_refusal(guarded);
        flush(guarded, server); /* if it is closed, reading from it reports that */
    }
    if (guarded->client_ended && server->file >= 0 && !waits(server) && !guarded->told_server) {
        shutdown(server->file, SHUT_WR);
        guarded->told_server = true;
    }
    return true;
}

/* From the library to the client. False: the connection is over. */
static bool pass_answers(struct guarded *guarded)
{
    struct guard *guard = guarded->guard;
    struct side *client = &guarded->client, *server = &guarded->server;
    for (int turn = 0; turn < MOST_TURNS && server->file >= 0 && !waits(client); turn++) {
        ssize_t got = take(guard, server->file);
        if (got == NOTHING_NOW)
            break;
        if (got <= 0) {
            close_side(guard, server);
            break;
        }
        /* Most clients take the piece at once; then no memory is needed. */
        ssize_t sent = send(client->file, guard->piece, (size_t)got, 0);
        sent = MAX(sent, (ssize_t)0);
        if (sent < got)
            buffer_append(&client->out, guard->piece + sent, (size_t)(got - sent));
        guarded->since = sent ? clock_nanoseconds() : guarded->since;
        if (client->out.failed || !flush(guarded, client))
            return false;
    }
    if (server->file >= 0 || waits(client) || guarded->lingering)
        return true;
    /* If the socket were closed with bytes unread, the client's system would discard the answer. */
    shutdown(client->file, SHUT_WR);
    guarded->lingering = true;
    guarded->since = clock_nanoseconds();
    return true;
}

/* The library has closed its end before a slow client took the answer: buffers the rest, which a socket can hold. */
static void take_rest(struct guarded *guarded)
{
    struct side *client = &guarded->client;
    ssize_t got;
    while ((got = take(guarded->guard, guarded->server.file)) > 0 && got != NOTHING_NOW)
        buffer_append(&client->out, guarded->guard->piece, (size_t)got);
    close_side(guarded->guard, &guarded->server);
}

static void set_wanted(struct guarded *guarded, struct side *side, bool read)
{
    unsigned wanted = (read ? (unsigned)POLLER_READ : 0u) | (waits(side) ? (unsigned)POLLER_WRITE : 0u);
    if (side->file < 0 || wanted == side->wanted)
        return;
    side->wanted = wanted;
    if (!poller_change(guarded->guard->poller, side->file, wanted, side))
        end(guarded);
}

static void step(struct guarded *guarded)
{
    if (guarded->over)
        return;
    if (guarded->server.file >= 0)
        flush(guarded, &guarded->server);
    bool fine = flush(guarded, &guarded->client) && pass_requests(guarded) && pass_answers(guarded);
    if (!fine || (guarded->lingering && guarded->client_ended)) {
        end(guarded);
        return;
    }
    set_wanted(guarded, &guarded->client, !guarded->client_ended && !waits(&guarded->server));
    if (!guarded->over)
        set_wanted(guarded, &guarded->server, !waits(&guarded->client));
}

/* ---- the thread -----------------------------------------------------------------------------------------------------
 */

static void close_listening(struct guard *guard)
{
    if (guard->listening < 0)
        return;
    if (!guard->paused)
        poller_remove(guard->poller, guard->listening);
    close(guard->listening);
    guard->listening = -1;
}

static void set_paused(struct guard *guard, bool paused)
{
    if (guard->listening < 0 || guard->paused == paused)
        return;
    guard->paused = paused;
    if (paused)
        poller_remove(guard->poller, guard->listening);
    else if (!poller_add(guard->poller, guard->listening, POLLER_READ, &listening_mark))
        guard->paused = true; /* the next tick tries again */
}

static void take_connections(struct guard *guard)
{
    for (int i = 0; i < MOST_EVENTS && guard->listening >= 0 && atomic_load(&guard->count) < guard->most; i++) {
        int client = accept(guard->listening, NULL, NULL);
        if (client >= 0) {
            begin(guard, client);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            set_paused(guard, true); /* until the next tick */
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            break;
        }
    }
    if (atomic_load(&guard->count) >= guard->most)
        set_paused(guard, true);
}

static void tick(struct guard *guard, uint64_t now)
{
    guard->ticked = now;
    set_paused(guard, atomic_load(&guard->count) >= guard->most);
    for (struct guarded *each = guard->first, *next; each; each = next) {
        next = each->next;
        if ((each->lingering && now - each->since > LINGER_NANOSECONDS) ||
            (waits(&each->client) && now - each->since > STALL_NANOSECONDS))
            end(each);
    }
}

static void free_those_that_are_over(struct guard *guard)
{
    while (guard->over) {
        struct guarded *guarded = guard->over;
        guard->over = guarded->next;
        guard_release(guarded);
    }
}

static void handle(struct guard *guard, const struct poller_event *event)
{
    if (event->what == &listening_mark) {
        take_connections(guard);
    } else if (event->what == &wake_mark) {
        char bytes[64];
        while (read(guard->wake[0], bytes, sizeof bytes) > 0)
            ;
        set_paused(guard, atomic_load(&guard->count) >= guard->most);
    } else {
        struct side *side = event->what;
        struct guarded *guarded = side->owner;
        if (guarded->over)
            return;
        if (side == &guarded->server && (event->ready & POLLER_ENDED) && !(side->wanted & POLLER_READ))
            take_rest(guarded);
        /* The poller would report a broken socket that is not read again and again, so end it now. */
        bool broken = side == &guarded->client && (event->ready & POLLER_ENDED) && !(side->wanted & POLLER_READ);
        if (broken)
            end(guarded);
        else
            step(guarded);
    }
}

static void *run(void *context)
{
    struct guard *guard = context;
    struct poller_event events[MOST_EVENTS];
    uint64_t stopped = 0;
    for (;;) {
        size_t count = poller_wait(guard->poller, events, COUNT_OF(events), TICK_MILLISECONDS);
        for (size_t i = 0; i < count; i++)
            handle(guard, &events[i]);
        uint64_t now = clock_nanoseconds();
        if (now - guard->ticked > (uint64_t)TICK_MILLISECONDS * 1000000u)
            tick(guard, now);
        if (atomic_load(&guard->no_more))
            close_listening(guard);
        free_those_that_are_over(guard);
        if (!atomic_load(&guard->stop))
            continue;
        stopped = stopped ? stopped : now;
        bool waiting = false;
        for (struct guarded *each = guard->first; each; each = each->next)
            waiting |= each->server.file >= 0 || waits(&each->client);
        if (!waiting || now - stopped > END_NANOSECONDS)
            return NULL;
    }
}

void guard_take_no_more(struct guard *guard)
{
    atomic_store(&guard->no_more, true);
    wake_up(guard);
}

static void destroy(struct guard *guard)
{
    while (guard->first)
        end(guard->first);
    free_those_that_are_over(guard);
    if (guard->listening >= 0)
        close(guard->listening);
    for (int i = 0; i < 2; i++) {
        if (guard->wake[i] >= 0)
            close(guard->wake[i]);
    }
    memory_free(guard->spare);
    poller_destroy(guard->poller);
    pthread_mutex_destroy(&guard->mutex);
    memory_free(guard);
}

void guard_stop(struct guard *guard)
{
    if (!guard)
        return;
    atomic_store(&guard->no_more, true);
    atomic_store(&guard->stop, true);
    wake_up(guard);
    pthread_join(guard->thread, NULL);
    destroy(guard);
}

hypura_status guard_start(struct guard **out, int listening, uint32_t most, bool (*add)(void *context, int inner),
                          void *context, hypura_error *error)
{
    struct guard *guard;
    hypura_status status = ALLOCATE(&guard, 1, "connections", error);
    if (status)
        return status;
    pthread_mutex_init(&guard->mutex, NULL);
    guard->listening = -1;
    guard->wake[0] = guard->wake[1] = -1;
    guard->most = MAX(most, 1u);
    guard->add = add;
    guard->context = context;
    status = poller_create(&guard->poller, error);
    if (!status && pipe(guard->wake))
        status = error_set_errno(error, errno, "cannot create a pipe");
    if (!status) {
        prepare(guard->wake[0]);
        prepare(guard->wake[1]);
        prepare(listening);
        if (!poller_add(guard->poller, listening, POLLER_READ, &listening_mark) ||
            !poller_add(guard->poller, guard->wake[0], POLLER_READ, &wake_mark))
            status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for connections");
    }
    guard->listening = status ? -1 : listening;
    *out = guard; /* before add can call guard_find */
    int failed = status ? 0 : pthread_create(&guard->thread, NULL, run, guard);
    if (failed) {
        guard->listening = -1;
        status = error_set_errno(error, failed, "cannot start a thread for connections");
    }
    if (status) {
        *out = NULL;
        destroy(guard);
    }
    return status;
}
