/* quantize: a model's matrices in another type, from file to file.
 *
 * Pieces of some rows are read, encoded and written by all threads at once (pieces.h), so that memory does not grow with
 * the model and either the cores or the drive are at their limit; the same bits whatever the number of threads.
 */
#ifndef HYPURA_QUANTIZE_H
#define HYPURA_QUANTIZE_H

#include "tools/pieces.h"

struct quantize_override {
    const char *expression; /* regular, found anywhere in a tensor's name */
    enum tensor_type type;
};

struct quantize_options {
    const char *type;       /* of recipe_find */
    const char *importance; /* a file of importance.h, or NULL */
    const struct quantize_override *overrides;
    size_t override_count;
    bool pure;       /* every matrix gets that type, without the rules of a mixture */
    bool requantize; /* matrices that are quantised already may be */
    size_t threads;  /* 0: the cores that this process may use */
    uint64_t memory; /* for buffers at most, fewer threads if need be; 0: no limit */
};

struct quantize_tensor {
    const struct gguf_tensor *source;
    enum tensor_type type;
    uint64_t bytes;
    uint64_t offset; /* from the start of the tensors' data */
    uint64_t rows, row_bytes, source_row_bytes;
    uint64_t piece_rows, pieces;
    bool weighted; /* by importance */
};

struct quantize;

/* Opens the model (of one file, or of parts) and finds what becomes what; refuses what cannot be. */
hypura_status quantize_open(struct quantize **out, const char *model, const struct quantize_options *options,
                            hypura_error *error);
void quantize_close(struct quantize *quantize);

size_t quantize_count(const struct quantize *quantize);
const struct quantize_tensor *quantize_at(const struct quantize *quantize, size_t index);
uint64_t quantize_bytes(const struct quantize *quantize);        /* of tensors, in the new file */
uint64_t quantize_source_bytes(const struct quantize *quantize); /* in the old one */
uint64_t quantize_elements(const struct quantize *quantize);
uint64_t quantize_memory(const struct quantize *quantize); /* that writing it takes at most */

hypura_status quantize_write(struct quantize *quantize, const char *path, pieces_progress progress, void *context,
                             hypura_error *error);

#endif
