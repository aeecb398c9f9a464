/* HTTP as a client, by libcurl. The library is loaded when it is first needed, so that a program that downloads nothing
 * does not carry it and what it draws in. */
#ifndef HYPURA_SERVER_FETCH_H
#define HYPURA_SERVER_FETCH_H

#include "core/core.h"

/* What an answer says of itself before its bytes come. */
struct fetch_answer {
    long status;
    bool ranged;        /* it says which range of the file it is */
    uint64_t start;     /* of that range */
    uint64_t total;     /* bytes of the whole file; 0: not told */
    char etag[256];     /* as it stands there; empty: none, or one that is too long */
    char modified[128]; /* Last-Modified, likewise */
};

struct fetch {
    const char *url;
    const char *method; /* NULL: GET, or POST with a body */
    const char *accept; /* a media type, or NULL */
    const char *key;    /* "Authorization: Bearer KEY", or NULL */
    const char *body;   /* posted as JSON, or NULL: a GET */
    uint64_t offset;    /* begin there, unless the server begins at the beginning */
    uint64_t end;       /* ask for no more than what is before it; 0: all */
    const char *unless; /* what the file was by then (an ETag or a date): if it is another one, begin at 0; or NULL */
    bool fail_on_error; /* a status of 400 and above is an error, and its text is not taken */

    /* Called once before the first piece, even where none follows; false ends it with HYPURA_ERROR_CANCELLED. NULL is
     * fine. */
    bool (*begin)(void *context, const struct fetch_answer *answer);
    bool (*take)(void *context, const void *data, size_t size); /* a piece; false ends it likewise */
    bool (*go_on)(void *context);                               /* asked some times per second; NULL: always */
    void *context;
};

/* HYPURA_ERROR_IO with the reason when it fails; the answer tells the status of HTTP after an error too, 0 when there
 * was none. */
hypura_status fetch_run(const struct fetch *fetch, struct fetch_answer *answer, hypura_error *error);

/* Takes a line of a header into an answer; one that begins a status line begins the answer anew. */
void fetch_read_header(struct fetch_answer *answer, const char *line, size_t size);

/* The whole of a short answer, at most 16 MiB, whatever its status. */
hypura_status fetch_text(const char *url, const char *method, const char *accept, const char *key, const char *body,
                         struct buffer *out, long *status, hypura_error *error);

#endif
