/* How functions report errors.
 *
 * A function that can fail returns a hypura_status. Unless it is HYPURA_OK, the function also fills *error with one
 * sentence that a user can act on: what failed, where (file, offset), what was found and what was expected. error may
 * be NULL. On failure, output arguments are unchanged unless the function's description says otherwise.
 */
#ifndef HYPURA_API_ERROR_H
#define HYPURA_API_ERROR_H

#include <hypura/export.h>

HYPURA_BEGIN

typedef enum hypura_status {
    HYPURA_OK = 0,
    HYPURA_ERROR_ARGUMENT,    /* an argument or a request is invalid */
    HYPURA_ERROR_IO,          /* the operating system failed to open, read or write */
    HYPURA_ERROR_FORMAT,      /* a file is truncated, corrupt or malicious */
    HYPURA_ERROR_UNSUPPORTED, /* valid, but not supported */
    HYPURA_ERROR_MEMORY,      /* out of memory, or the budget is too small */
    HYPURA_ERROR_CANCELLED,   /* the caller cancelled */
    HYPURA_ERROR_DEVICE,      /* a GPU failed or was lost */
    HYPURA_ERROR_HOST         /* another host was lost or does not respond */
} hypura_status;

typedef struct hypura_error {
    hypura_status status;
    char message[512]; /* UTF-8 without control characters, NUL-terminated */
} hypura_error;

/* "ok", "argument", "io", ...; "unknown" for a value that this library does not have. A constant. */
HYPURA_API const char *hypura_status_name(hypura_status status);

HYPURA_END
#endif
