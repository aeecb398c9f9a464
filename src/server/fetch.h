/* An HTTP client with libcurl. The library is loaded on first use, so that it and its dependencies take memory only in
 * programs that download. */
#ifndef HYPURA_SERVER_FETCH_H
#define HYPURA_SERVER_FETCH_H

#include "core/core.h"

/* The status and headers of an answer. */
struct fetch_answer {
    long status;
    bool ranged;        /* it is a range of the file, and says which */
    uint64_t start;     /* of that range */
    uint64_t total;     /* bytes of the whole file; 0: unknown */
    char etag[256];     /* verbatim; empty: none, or too long */
    char modified[128]; /* Last-Modified, likewise */
};

struct fetch {
    const char *url;
    const char *method; /* NULL: GET, or POST with a body */
    const char *accept; /* a media type, or NULL */
    const char *key;    /* sent as "Authorization: Bearer KEY"; or NULL */
    const char *body;   /* posted as JSON; or NULL */
    uint64_t offset;    /* first byte to request; the server may send the whole file all the same */
    uint64_t end;       /* end of the requested range; 0: the end of the file */
    const char *unless; /* expected version (an ETag or a date): if the file has another one, begin at 0; or NULL */
    bool fail_on_error; /* a status of 400 and above is an error, and take does not get the body */

    /* Called once before the first piece, even if none follows; false ends the request with HYPURA_ERROR_CANCELLED. May
     * be NULL. */
    bool (*begin)(void *context, const struct fetch_answer *answer);
    bool (*take)(void *context, const void *data, size_t size); /* a piece of the body; false ends the request too */
    bool (*go_on)(void *context); /* called several times per second; false ends it; may be NULL */
    void *context;
};

/* Runs the request. HYPURA_ERROR_IO with the reason if it fails. After an error, too, answer has the HTTP status; 0:
 * none was received. */
hypura_status fetch_run(const struct fetch *fetch, struct fetch_answer *answer, hypura_error *error);

/* Reads a line of a header into an answer. A status line resets the answer. */
void fetch_read_header(struct fetch_answer *answer, const char *line, size_t size);

/* Requests a short answer, of at most 16 MiB, and returns its whole body, whatever the status. */
hypura_status fetch_text(const char *url, const char *method, const char *accept, const char *key, const char *body,
                         struct buffer *out, long *status, hypura_error *error);

#endif
