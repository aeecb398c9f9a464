/* Private to quantize*.c. */
#ifndef HYPURA_QUANTIZE_PRIVATE_H
#define HYPURA_QUANTIZE_PRIVATE_H

#include "tools/importance.h"
#include "tools/quantize.h"
#include "tools/quantize_recipe.h"

struct quantize {
    struct gguf *file;
    struct sources *sources;
    const struct recipe *recipe;
    struct importance *importance;
    char *importance_path;
    struct quantize_tensor *tensors;
    size_t count;
    size_t threads;
    uint64_t bytes, source_bytes, elements;
    uint64_t most_columns, most_piece, most_source_piece, most_importance;
};

/* quantize_header.c: writes the metadata and the tensor table to a file that is open at its start, and extends the file
 * to its final length. */
hypura_status quantize_header(const struct quantize *quantize, int descriptor, hypura_error *error);

/* Returns a digest of everything that the new file depends on, except the weights themselves. */
uint64_t quantize_key(const struct quantize *quantize);

#endif
