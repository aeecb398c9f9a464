/* What the files of a download share. */
#ifndef HYPURA_SERVER_PULL_PRIVATE_H
#define HYPURA_SERVER_PULL_PRIVATE_H

#include "server/fetch.h"

/* ---- pull_note.c: what is known of a file that is here in part, next to it ---- */

struct pull_note {
    char url[2048];
    char digest[65]; /* as the source tells it, or empty */
    char etag[256];
    char modified[128];
    uint64_t total; /* bytes of the whole file; 0: not known */
    uint64_t have;  /* of these, on the drive for sure */
};

/* 16 digits that stand for a source in the names of its files, and a NUL. */
void pull_key(const char *url, char out[17]);

/* False: there is none, or none that can be read. */
bool pull_note_read(const char *path, struct pull_note *out);
hypura_status pull_note_write(const char *path, const struct pull_note *note, hypura_error *error);

/* What a server is asked to compare with before it goes on where a file broke off; NULL: nothing tells versions of the
 * file apart. */
const char *pull_note_version(const struct pull_note *note);

/* Whether an answer goes on with the file that the note is of. */
bool pull_note_fits(const struct pull_note *note, const struct fetch_answer *answer);

/* ---- pull_check.c ---- */

/* Whether a model (the path of its first part) is whole: every tensor lies in its file, and has weights where the
 * header says so. What a drive lost in a power cut is zeros that begin or end in the middle of a row. go_on is asked
 * now and then. */
hypura_status pull_check_weights(const char *path, bool (*go_on)(void *context), void *context, hypura_error *error);

#endif
