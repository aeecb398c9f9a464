/* Where a reference to a model leads. */
#ifndef HYPURA_SERVER_PULL_SOURCE_H
#define HYPURA_SERVER_PULL_SOURCE_H

#include "core/core.h"

#include <jansson.h>

struct source_part {
    char url[2048];
    char digest[65]; /* SHA-256 in hexadecimal, or empty */
    uint64_t bytes;  /* 0: not known before it is asked for */
    uint64_t have;   /* of these, here already */
};

struct source {
    char name[256]; /* complete */
    struct source_part *parts;
    size_t part_count; /* more than one: a split model, in order */
    json_t *manifest;  /* what came with it, or NULL */
};

/* A URL of a GGUF file, "hf.co/USER/REPOSITORY[:QUANTISATION]", or a name of Ollama's library. To be freed, errors
 * included. */
hypura_status source_find(struct source *out, const char *reference, hypura_error *error);
void source_free(struct source *source);

#endif
