/* parts: of a model's file what one of several hosts serves.
 *
 * It is a file of the same layout and length, with holes for what is not there, and other first bytes
 * (GGUF_PARTIAL_MAGIC), so that no program takes it for the model. Behind it follow a digest for each expert that is
 * there, and a tail that says of which weights they are and whether the list is whole. A hole is never read: who opens
 * such a file asks parts_read which experts there are, and holds no others. It has what experts are computed with as
 * well (biases).
 */
#ifndef HYPURA_MODEL_PARTS_H
#define HYPURA_MODEL_PARTS_H

#include "model/model.h"

/* Behind the name of the model: a rank other than 0 takes such a file instead of the model itself, if there is one. */
#define PARTS_ENDING ".parts"

struct parts {
    uint32_t layers, experts;
    uint64_t weights;  /* digest of the whole model's header and samples */
    uint64_t *digests; /* [layers][experts]; 0: it is not there */
};

/* The list of an opened partial file. */
hypura_status parts_read(struct parts *out, const struct model *model, hypura_error *error);
void parts_free(struct parts *parts);

struct parts_moment {
    uint64_t done, total; /* bytes */
    bool verifying;
};
typedef bool (*parts_progress)(void *context, const struct parts_moment *moment);

/* Writes the file: units[model_unit_count] says what is to be there. It gets its name when all was read again and is
 * what was in the model; until then it is PATH.partial, which goes when something fails. The model is not written to.
 */
hypura_status parts_write(const char *path, const struct model *model, const uint8_t *units, uint64_t weights,
                          parts_progress progress, void *context, hypura_error *error);

#endif
