/* HTTP connections and exchanges, shared by http.c, exchange.c and endpoint.c. */
#ifndef HYPURA_SERVER_HTTP_PRIVATE_H
#define HYPURA_SERVER_HTTP_PRIVATE_H

#include "core/account.h"
#include "server/guard.h"
#include "server/mhd.h"
#include "server/server_private.h"

/* Limit of all bodies and answers in memory together, in multiples of the limit of one body. */
#define BODIES_LIMIT ((uint64_t)4)

struct connection {
    struct connection *next, *previous;
    struct guarded *guarded; /* NULL: the client has left already */
    unsigned requests;       /* begun so far */
    int socket;
    uint64_t waiting_since; /* for a request to arrive completely; 0: none is awaited */
};

struct http {
    struct server server;
    struct MHD_Daemon *daemon;
    struct guard *guard;
    pthread_mutex_t mutex; /* protects the list of connections */
    struct connection *connections;
    _Atomic uint64_t body_bytes;
    bool loopback;
    /* The out-of-memory answer of each API, made in advance. */
    struct MHD_Response *no_memory[API_COUNT];
};

struct exchange {
    struct http *http;
    struct MHD_Connection *connection; /* NULL: the request came from this process (endpoint.c) */
    struct connection *place;
    const struct route *route;
    char id[17];
    char origin[256]; /* the origin that may read the answer, or empty */
    char *path;
    const char *rest;
    atomic_uint references;

    /* owned by the HTTP thread until the request is complete, then by the handler */
    struct buffer body;
    json_t *json;
    struct desk_task task; /* calls the handler, later frees a large exchange */
    uint64_t used, lent;   /* bytes of the memory budget: in use, and borrowed */
    uint64_t until_end;    /* part of used that ends when the account is closed */
    uint64_t missing;      /* what used would have become with the refused loan; 0: none was refused */
    bool too_large;        /* the loan would be refused even without other requests */
    struct memory_account account;

    /* owned by the HTTP thread */
    size_t body_size; /* of the complete body */
    uint64_t discarded, start;
    uint64_t taken; /* bytes of a body that its route takes piece by piece */
    void *kept;
    void (*end_kept)(void *kept);
    _Atomic uint64_t reserved; /* changed by any thread */
    unsigned refusal;          /* HTTP status, set once the request is refused; 0: it is not */
    const char *refusal_message;
    char refusal_text[320];
    unsigned number; /* of the request on its connection, from 1 */
    bool last;       /* the connection is closed after the answer */
    bool handled, preflight;

    pthread_mutex_t mutex; /* protects everything below */
    struct buffer out;
    size_t sent;
    uint64_t sent_before; /* bytes handed to libmicrohttpd */
    const char *type;
    unsigned status;
    bool ready, streaming, ended, suspended, gone;
    const char *last_words;                          /* the out-of-memory error, sent after the contents of out */
    bool (*more)(void *context, struct buffer *out); /* produces the rest of the answer; NULL: none is left */
    void (*end)(void *context);
    void *context;
    int socket;
    /* Without a connection: the callback for the answer; NULL: it was called. */
    void (*answered)(void *asker, unsigned status, const char *text, size_t size);
    void *asker;
};

/* Makes the answers of http->no_memory. */
hypura_status exchange_prepare_answers(struct http *http, hypura_error *error);
void exchange_free_answers(struct http *http);
enum MHD_Result exchange_answer_nobody(struct http *http, struct MHD_Connection *connection, const char *path);

/* Sends what is ready, or suspends the connection until something is. On the HTTP thread. */
enum MHD_Result exchange_deliver(struct exchange *exchange);

#endif
