/* inspect: the parts of hypura/inspect.h. */
#ifndef HYPURA_TOOLS_INSPECT_H
#define HYPURA_TOOLS_INSPECT_H

#include "engine/engine.h"

#include <hypura/inspect.h>
#include <jansson.h>

/* A model that is looked at, in a file or of a preset; closed after an error too. */
struct inspected {
    const char *path;  /* of what is opened */
    const char *drive; /* that it would be read from */
    char header[32];
    int descriptor;
    struct model *model;
};

/* Finds it; who calls opens it. */
hypura_status inspect_find(struct inspected *out, const char *path, const hypura_inspection *what, hypura_error *error);
void inspect_close(struct inspected *inspected);

/* The text of an object, whose reference is taken; NULL where memory was wanting. failures: memory_failures from before
 * it was made. */
hypura_status inspect_text(char **text, json_t *json, uint64_t failures, hypura_error *error);

/* inspect_layers.c: the steps of a model's layers, or of one of them. */
hypura_status inspect_layers(json_t **out, const struct model *model, const struct plan *plan,
                             const hypura_inspection *what, hypura_error *error);

#endif
