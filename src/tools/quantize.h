/* quantize: converts a model's matrices to other types, from file to file.
 *
 * All threads read, encode and write pieces of some rows (pieces.h), so memory does not grow with the model, and either
 * the cores or the drive limit the speed. The number of threads does not change a bit of the result.
 */
#ifndef HYPURA_QUANTIZE_H
#define HYPURA_QUANTIZE_H

#include "tools/pieces.h"

struct quantize_override {
    const char *expression; /* regular expression, matched anywhere in a tensor's name */
    enum tensor_type type;
};

struct quantize_options {
    const char *type;       /* a name for recipe_find */
    const char *importance; /* a file of importance.h, or NULL */
    const struct quantize_override *overrides;
    size_t override_count;
    bool pure;       /* give every matrix that type, without the rules of a mixture */
    bool requantize; /* allow matrices that are already quantised */
    size_t threads;  /* 0: the cores that this process may use */
    uint64_t memory; /* limit for buffers, which may reduce the threads; 0: none */
};

struct quantize_tensor {
    const struct gguf_tensor *source;
    enum tensor_type type;
    uint64_t bytes;
    uint64_t offset; /* from the start of the tensors' data */
    uint64_t rows, row_bytes, source_row_bytes;
    uint64_t piece_rows, pieces;
    bool weighted; /* errors are weighted by importance */
};

struct quantize;

/* Opens the model (one file, or split into parts) and chooses the type of each tensor. Refuses conversions that are
 * impossible or useless. */
hypura_status quantize_open(struct quantize **out, const char *model, const struct quantize_options *options,
                            hypura_error *error);
void quantize_close(struct quantize *quantize);

size_t quantize_count(const struct quantize *quantize);
const struct quantize_tensor *quantize_at(const struct quantize *quantize, size_t index);
uint64_t quantize_bytes(const struct quantize *quantize);        /* tensor data in the new file */
uint64_t quantize_source_bytes(const struct quantize *quantize); /* tensor data in the old file */
uint64_t quantize_elements(const struct quantize *quantize);
uint64_t quantize_memory(const struct quantize *quantize); /* the most that writing takes */

hypura_status quantize_write(struct quantize *quantize, const char *path, pieces_progress progress, void *context,
                             hypura_error *error);

#endif
