/* Fetches only the headers of a model on a web server, some MiB of many GB, by range requests. */
#ifndef HYPURA_SERVER_HEADER_H
#define HYPURA_SERVER_HEADER_H

#include "core/core.h"

/* Limit of what is fetched for all parts of a model together. */
#define HEADER_MOST_BYTES ((uint64_t)60 << 20)

/* Whether a reference is to a web server: a URL, or hf.co/USER/REPOSITORY[:QUANTISATION]. */
bool header_is_remote(const char *reference);

struct model_header {
    /* Has files of the same sizes as the model's, which contain only their headers. header_forget removes it. */
    char folder[1024];
    char path[1200]; /* of the first file */
    uint64_t bytes_read;
};

/* Requests growing ranges until the headers are complete, and writes the files. An error says what the server did
 * instead. */
hypura_status header_fetch(struct model_header *out, const char *reference, hypura_error *error);
void header_forget(struct model_header *header);

#endif
