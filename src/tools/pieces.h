/* pieces: a file that is made piece by piece, by all threads at once, and whole or not there.
 *
 * It is PATH.partial until it is whole and was read again; PATH.partial.pieces says which pieces are in it, with a digest of
 * each. Whatever ends the work, the next pieces_write with the same key checks those and goes on from there.
 */
#ifndef HYPURA_PIECES_H
#define HYPURA_PIECES_H

#include "tools/sources.h"

struct pieces_moment {
    uint64_t done, total; /* bytes of the new file's data */
    uint64_t kept;        /* of these were there from an earlier start */
    bool verifying;
};

/* False stops: HYPURA_ERROR_CANCELLED; what was written stays for the next start. */
typedef bool (*pieces_progress)(void *context, const struct pieces_moment *moment);

struct pieces_work {
    const struct sources *sources; /* which must not change meanwhile */
    void *context;                 /* of the functions */
    uint64_t count, bytes;         /* pieces, and bytes of them with what is between */
    uint64_t most;                 /* bytes of a piece */
    uint64_t key;                  /* of all that the file depends on */
    size_t threads;

    /* The header, into a file that is open at its start, which becomes as long as it will be. */
    hypura_status (*header)(void *context, int descriptor, hypura_error *error);
    /* Where a piece lies in the data; they follow each other. */
    void (*where)(void *context, uint64_t piece, uint64_t *offset, uint64_t *bytes);
    /* The next batch begins with this piece: the first one that is not to be in it. NULL: any is. */
    hypura_status (*begin)(void *context, uint64_t piece, bool making, uint64_t *end, hypura_error *error);
    /* The bytes of a piece: into out, or elsewhere until the worker's next one. */
    hypura_status (*make)(void *context, uint64_t piece, size_t worker, uint8_t *out, const uint8_t **made,
                          hypura_error *error);
    /* A batch is written: what it was made of is not needed again. */
    void (*written)(void *context, uint64_t piece, uint64_t count);
};

hypura_status pieces_write(const struct pieces_work *work, const char *path, pieces_progress progress, void *context,
                           hypura_error *error);

#endif
