/* How every function of hypura reports that something went wrong.
 *
 * A function that can fail returns a hypura_status and, when it is not HYPURA_OK, fills the error with one sentence
 * that a user can act on: what was being done, where (file, offset), what was found and what was expected. The error
 * argument may be NULL. On failure every output argument is left as it was unless its own description says otherwise.
 */
#ifndef HYPURA_API_ERROR_H
#define HYPURA_API_ERROR_H

#include <hypura/export.h>

HYPURA_BEGIN

typedef enum hypura_status {
    HYPURA_OK = 0,
    HYPURA_ERROR_ARGUMENT,    /* the caller asked for something that makes no sense */
    HYPURA_ERROR_IO,          /* the operating system refused a read, a write, an open */
    HYPURA_ERROR_FORMAT,      /* a file is truncated, corrupt or hostile */
    HYPURA_ERROR_UNSUPPORTED, /* well formed, but this program does not do it */
    HYPURA_ERROR_MEMORY,      /* no memory, or the budget is too small */
    HYPURA_ERROR_CANCELLED,   /* the caller asked to stop */
    HYPURA_ERROR_DEVICE,      /* a GPU was lost or refused */
    HYPURA_ERROR_HOST         /* another host of several was lost, or says nothing */
} hypura_status;

typedef struct hypura_error {
    hypura_status status;
    char message[512]; /* UTF-8 without control characters, always terminated */
} hypura_error;

/* "argument", "io", ...; "unknown" for a status of a newer library. A constant. */
HYPURA_API const char *hypura_status_name(hypura_status status);

HYPURA_END
#endif
