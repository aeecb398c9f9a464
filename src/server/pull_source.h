/* Finds the files that a reference to a model stands for. */
#ifndef HYPURA_SERVER_PULL_SOURCE_H
#define HYPURA_SERVER_PULL_SOURCE_H

#include "core/core.h"

#include <jansson.h>

struct source_part {
    char url[2048];
    char digest[65]; /* SHA-256 in hexadecimal, or empty */
    uint64_t bytes;  /* 0: not known yet */
    uint64_t have;   /* bytes downloaded already */
};

struct source {
    char name[256]; /* of the model, complete */
    struct source_part *parts;
    size_t part_count; /* more than one: a split model, in order */
    json_t *manifest;  /* from the source, or NULL */
};

/* Finds a URL of a GGUF file, "hf.co/USER/REPOSITORY[:QUANTISATION]", or a name in Ollama's library. Free *out even
 * after an error. */
hypura_status source_find(struct source *out, const char *reference, hypura_error *error);
void source_free(struct source *source);

#endif
