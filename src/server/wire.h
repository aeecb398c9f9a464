/* What a client sends over a connection, request after request, read to the letter (RFC 9112) and rewritten in one
 * form, so that nobody behind it can see other requests than a proxy in front does. */
#ifndef HYPURA_SERVER_WIRE_H
#define HYPURA_SERVER_WIRE_H

#include "core/core.h"

#define WIRE_HEAD_LIMIT ((size_t)48 * 1024)

enum wire_part {
    WIRE_HEAD,
    WIRE_BODY, /* of a length that is known */
    WIRE_CHUNK_SIZE,
    WIRE_CHUNK_DATA,
    WIRE_CHUNK_END,
    WIRE_TRAILER,
    WIRE_REFUSED
};

struct wire {
    enum wire_part part;
    struct buffer lines; /* those of a head, or the one of a chunk's size, as far as they are here */
    size_t line;         /* where the last one begins */
    uint64_t left;       /* bytes of the body or the chunk */
    size_t trailers;     /* bytes of them */
    unsigned requests;   /* that have begun */

    /* WIRE_REFUSED: the request of this number (requests, from 1) is none. What was written of it is a whole request
     * all the same, to carry the answer; nothing comes behind it. */
    unsigned status;
    const char *reason;
};

/* Takes all of it, and adds to out what to pass on. False: no memory. */
bool wire_take(struct wire *wire, const char *data, size_t size, struct buffer *out);
void wire_free(struct wire *wire);

#endif
