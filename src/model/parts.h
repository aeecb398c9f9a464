/* parts: a partial copy of a model's file, for one of several hosts.
 *
 * It has the same layout and length as the model's file, with holes for what it lacks, and other first
 * bytes (GGUF_PARTIAL_MAGIC), so that no program takes it for the model. After that, it has a digest for each of its
 * experts, and a tail that identifies the weights and shows whether the list is complete. The biases of experts are
 * included. A hole is never read: after opening such a file, call parts_read, and use no other experts. */
#ifndef HYPURA_MODEL_PARTS_H
#define HYPURA_MODEL_PARTS_H

#include "model/model.h"

/* Appended to the model's name. A rank other than 0 opens such a file instead of the model, if there is one. */
#define PARTS_ENDING ".parts"

struct parts {
    uint32_t layers, experts;
    uint64_t weights;  /* digest of the whole model's header and samples */
    uint64_t *digests; /* [layers][experts]; 0: the expert is not in the file */
};

/* Reads the list of an opened partial file. The caller frees it with parts_free. */
hypura_status parts_read(struct parts *out, const struct model *model, hypura_error *error);
void parts_free(struct parts *parts);

struct parts_moment {
    uint64_t done, total; /* bytes */
    bool verifying;
};
typedef bool (*parts_progress)(void *context, const struct parts_moment *moment);

/* Writes a partial file with the units for which units[model_unit_count] is not 0. It writes PATH.partial, reads it
 * again and compares it with the model, and then renames it to PATH. After an error, PATH.partial is deleted. */
hypura_status parts_write(const char *path, const struct model *model, const uint8_t *units, uint64_t weights,
                          parts_progress progress, void *context, hypura_error *error);

#endif
