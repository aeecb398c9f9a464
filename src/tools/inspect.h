/* inspect: private to the files that implement hypura/inspect.h. */
#ifndef HYPURA_TOOLS_INSPECT_H
#define HYPURA_TOOLS_INSPECT_H

#include "engine/engine.h"

#include <hypura/inspect.h>
#include <jansson.h>

/* The inspected model, from a file or a preset. inspect_close must follow inspect_find, even after an error. */
struct inspected {
    const char *path;  /* the file to open */
    const char *drive; /* a path on the drive that it would be read from */
    char header[32];
    int descriptor;
    struct model *model;
};

/* Finds the file or makes the preset's header. The caller opens the model. */
hypura_status inspect_find(struct inspected *out, const char *path, const hypura_inspection *what, hypura_error *error);
void inspect_close(struct inspected *inspected);

/* Writes an object as text and releases its reference. json may be NULL if memory ran out. failures: the value of
 * memory_failures before json was made; a later failure is an error. */
hypura_status inspect_text(char **text, json_t *json, uint64_t failures, hypura_error *error);

/* inspect_layers.c: describes the steps of all layers, or of one. */
hypura_status inspect_layers(json_t **out, const struct model *model, const struct plan *plan,
                             const hypura_inspection *what, hypura_error *error);

#endif
