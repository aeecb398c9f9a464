/* HTTP connections and exchanges, as http.c and exchange.c share them. */
#ifndef HYPURA_SERVER_HTTP_PRIVATE_H
#define HYPURA_SERVER_HTTP_PRIVATE_H

#include "core/account.h"
#include "server/guard.h"
#include "server/mhd.h"
#include "server/server_private.h"

/* Bodies and answers in memory, in units of the limit of one body. */
#define BODIES_LIMIT ((uint64_t)4)

struct connection {
    struct connection *next, *previous;
    struct guarded *guarded; /* NULL: its client has left already */
    unsigned requests;       /* that have begun */
    int socket;
    uint64_t waiting_since; /* for a request to arrive in whole; 0: it did */
};

struct http {
    struct server server;
    struct MHD_Daemon *daemon;
    struct guard *guard;
    pthread_mutex_t mutex; /* the list */
    struct connection *connections;
    _Atomic uint64_t body_bytes;
    bool loopback;
    /* The answer to a request for which there is no memory, of each API: made when there was some. */
    struct MHD_Response *no_memory[API_COUNT];
};

struct exchange {
    struct http *http;
    struct MHD_Connection *connection; /* NULL: it was asked in this process */
    struct connection *place;
    const struct route *route;
    char id[17];
    char origin[256]; /* that may read the answer, or empty */
    char *path;
    const char *rest;
    atomic_uint references;

    /* the HTTP thread's until the request is there in whole, then the handler's */
    struct buffer body;
    json_t *json;
    struct desk_task task; /* that the handler is, then that its end is */
    uint64_t used, lent;   /* bytes, of the memory budget */
    uint64_t until_end;    /* of these, used only until the account is closed */
    uint64_t missing;      /* that it would have used with what was not lent; 0: nothing was refused */
    bool too_large;        /* it would not be lent so much without others either */
    struct memory_account account;

    /* the HTTP thread's */
    size_t body_size; /* of what is there in whole */
    uint64_t discarded, start;
    uint64_t taken; /* bytes of a body that its route takes as it comes */
    void *kept;
    void (*end_kept)(void *kept);
    _Atomic uint64_t reserved; /* any thread's */
    unsigned refusal;          /* status, once it is clear that the request will not be served */
    const char *refusal_message;
    char refusal_text[320];
    unsigned number; /* of its connection, from 1 */
    bool last;       /* the connection ends with the answer */
    bool handled, preflight;

    pthread_mutex_t mutex; /* all below */
    struct buffer out;
    size_t sent;
    uint64_t sent_before; /* bytes that left the buffer */
    const char *type;
    unsigned status;
    bool ready, streaming, ended, suspended, gone;
    const char *last_words;                          /* that no memory was there for the answer; after what is in out */
    bool (*more)(void *context, struct buffer *out); /* of an answer that is written as it is sent; NULL: no more */
    void (*end)(void *context);
    void *context;
    int socket;
    /* Without a connection: who is told the answer, and has not been told yet. */
    void (*answered)(void *asker, unsigned status, const char *text, size_t size);
    void *asker;
};

/* Answers that need no memory any more. */
hypura_status exchange_prepare_answers(struct http *http, hypura_error *error);
void exchange_free_answers(struct http *http);
enum MHD_Result exchange_answer_nobody(struct http *http, struct MHD_Connection *connection, const char *path);

/* Sends what is ready, or sleeps until something is; the HTTP thread. */
enum MHD_Result exchange_deliver(struct exchange *exchange);

#endif
