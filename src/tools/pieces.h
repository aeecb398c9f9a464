/* pieces: makes a file piece by piece, with all threads; the file is complete or absent.
 *
 * It is called PATH.partial until it is complete and was read back. PATH.partial.pieces lists the finished pieces with
 * a digest of each. If the work is interrupted, the next pieces_write with the same key checks these and continues.
 */
#ifndef HYPURA_PIECES_H
#define HYPURA_PIECES_H

#include "tools/sources.h"

struct pieces_moment {
    uint64_t done, total; /* bytes of the new file's data */
    uint64_t kept;        /* bytes of done from an earlier run */
    bool verifying;
};

/* Returns false to stop with HYPURA_ERROR_CANCELLED. The finished pieces are kept for the next run. */
typedef bool (*pieces_progress)(void *context, const struct pieces_moment *moment);

struct pieces_work {
    const struct sources *sources; /* the input files, which must not change meanwhile */
    void *context;                 /* passed to the functions below */
    uint64_t count, bytes;         /* number of pieces; bytes of all, including gaps */
    uint64_t most;                 /* bytes of the largest piece */
    uint64_t key;                  /* digest of everything that the file depends on */
    size_t threads;

    /* Writes the header to a file that is open at its start, and extends the file to its final length. */
    hypura_status (*header)(void *context, int descriptor, hypura_error *error);
    /* Gives the position of a piece in the data. Pieces are in ascending order. */
    void (*where)(void *context, uint64_t piece, uint64_t *offset, uint64_t *bytes);
    /* Prepares a batch that begins with this piece. *end: the first piece that must not be in it. making: pieces will
     * be made, rather than verified. NULL: nothing to prepare. */
    hypura_status (*begin)(void *context, uint64_t piece, bool making, uint64_t *end, hypura_error *error);
    /* Makes a piece. *made is out, or another buffer that is valid until the worker's next piece. */
    hypura_status (*make)(void *context, uint64_t piece, size_t worker, uint8_t *out, const uint8_t **made,
                          hypura_error *error);
    /* A batch has been written: its input is not needed again. NULL: ignore. */
    void (*written)(void *context, uint64_t piece, uint64_t count);
};

hypura_status pieces_write(const struct pieces_work *work, const char *path, pieces_progress progress, void *context,
                           hypura_error *error);

#endif
