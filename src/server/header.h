/* The header of a model that is on a server, without the rest of it: some MiB of many GB, by requests of ranges. */
#ifndef HYPURA_SERVER_HEADER_H
#define HYPURA_SERVER_HEADER_H

#include "core/core.h"

/* All parts of a model together cost no more. */
#define HEADER_MOST_BYTES ((uint64_t)60 << 20)

/* Whether a name of a model is one of a server: a URL, or hf.co/USER/REPOSITORY[:QUANTISATION]. */
bool header_is_remote(const char *reference);

struct model_header {
    char
        folder[1024]; /* of files that are as long as the model's and hold the headers only; header_forget removes it */
    char path[1200];  /* of the first */
    uint64_t bytes_read;
};

/* Asks for ranges that grow until the whole header is there. An error says what the server did instead. */
hypura_status header_fetch(struct model_header *out, const char *reference, hypura_error *error);
void header_forget(struct model_header *header);

#endif
