/* HTTP as a client, by libcurl. The library is loaded when it is first needed, so that a program that downloads nothing
 * does not carry it and what it draws in. */
#ifndef HYPURA_SERVER_FETCH_H
#define HYPURA_SERVER_FETCH_H

#include "core/core.h"

struct fetch {
    const char *url;
    const char *method; /* NULL: GET, or POST with a body */
    const char *accept; /* a media type, or NULL */
    const char *key;    /* "Authorization: Bearer KEY", or NULL */
    const char *body;   /* posted as JSON, or NULL: a GET */
    uint64_t offset;    /* begin there */
    bool fail_on_error; /* a status of 400 and above is an error, and its text is not taken */

    /* Takes a piece; false ends it with HYPURA_ERROR_CANCELLED. total: of the whole file, 0 when it is not known;
     * restarted: the server does not do ranges, so this is the beginning. */
    bool (*take)(void *context, const void *data, size_t size, uint64_t total, bool restarted);
    bool (*go_on)(void *context); /* asked some times a second; NULL: always */
    void *context;
};

/* HYPURA_ERROR_IO with the reason when it fails; *status is that of HTTP, 0 when there was none. */
hypura_status fetch_run(const struct fetch *fetch, long *status, hypura_error *error);

/* The whole of a short answer, at most 16 MiB, whatever its status. */
hypura_status fetch_text(const char *url, const char *method, const char *accept, const char *key, const char *body,
                         struct buffer *out, long *status, hypura_error *error);

#endif
