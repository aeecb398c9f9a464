/* Parses what a client sends over a connection strictly by RFC 9112, and rewrites every request in one canonical form.
 * This prevents request smuggling: the library behind it sees the same request boundaries as a proxy in front of it. */
#ifndef HYPURA_SERVER_WIRE_H
#define HYPURA_SERVER_WIRE_H

#include "core/core.h"

#define WIRE_HEAD_LIMIT ((size_t)48 * 1024)

enum wire_part {
    WIRE_HEAD,
    WIRE_BODY, /* of known length */
    WIRE_CHUNK_SIZE,
    WIRE_CHUNK_DATA,
    WIRE_CHUNK_END,
    WIRE_TRAILER,
    WIRE_REFUSED
};

struct wire {
    enum wire_part part;
    struct buffer lines; /* the head's lines, or the line with a chunk's size, as far as received */
    size_t line;         /* where the last of them begins */
    uint64_t left;       /* bytes left of the body or the chunk */
    size_t trailers;     /* their bytes so far */
    unsigned requests;   /* begun so far */

    /* WIRE_REFUSED: request number `requests` (from 1) is malformed. A complete request was written in its place, to
     * carry the answer; nothing is written after it. */
    unsigned status;
    const char *reason;
};

/* Consumes all of data, and appends to out what to pass on. False: out of memory. */
bool wire_take(struct wire *wire, const char *data, size_t size, struct buffer *out);
void wire_free(struct wire *wire);

#endif
