/* Shared by the files of downloads. */
#ifndef HYPURA_SERVER_PULL_PRIVATE_H
#define HYPURA_SERVER_PULL_PRIVATE_H

#include "server/fetch.h"

/* ---- pull_note.c: a note next to each partial file, so that its download can continue ---- */

struct pull_note {
    char url[2048];
    char digest[65]; /* SHA-256 from the source, or empty */
    char etag[256];
    char modified[128];
    uint64_t total; /* bytes of the whole file; 0: unknown */
    uint64_t have;  /* bytes that are durable on the drive */
};

/* Writes 16 digits that identify a source in file names, and a NUL. */
void pull_key(const char *url, char out[17]);

/* False: the note does not exist or cannot be read. */
bool pull_note_read(const char *path, struct pull_note *out);
hypura_status pull_note_write(const char *path, const struct pull_note *note, hypura_error *error);

/* The version (for If-Range) that the server's file must have for the download to continue. NULL: versions cannot be
 * told apart. */
const char *pull_note_version(const struct pull_note *note);

/* Whether an answer is about the same version of the file. */
bool pull_note_fits(const struct pull_note *note, const struct fetch_answer *answer);

/* ---- pull_check.c ---- */

/* Checks that a model (by the path of its first part) is complete: every tensor lies in its file and contains weights.
 * Data lost in a power cut shows as zeros that begin or end within a row. go_on is called often; false cancels. */
hypura_status pull_check_weights(const char *path, bool (*go_on)(void *context), void *context, hypura_error *error);

#endif
