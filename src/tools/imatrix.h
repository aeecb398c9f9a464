/* imatrix: how much each column of a model's matrices matters, from what they are multiplied by while the model reads a
 * text, written as llama-imatrix does (importance.h reads it). A model that streams is collected of as one in memory.
 */
#ifndef HYPURA_IMATRIX_H
#define HYPURA_IMATRIX_H

#include "engine/engine.h"

struct imatrix;

/* Bytes that collecting takes, next to the engine: to reserve of its budget. */
hypura_status imatrix_bytes(uint64_t *bytes, const char *model, hypura_error *error);

typedef bool (*imatrix_progress)(void *context, uint64_t windows, uint64_t total);

/* The text, in windows of equal length that each begin anew. All layers must be computed on the CPU. bos: replaces the
 * first token of each window, or negative. The engine is to have so many bytes of its budget reserved. */
hypura_status imatrix_collect(struct imatrix **out, struct engine *engine, const int32_t *tokens, size_t count,
                              uint32_t window, int32_t bos, imatrix_progress progress, void *context,
                              hypura_error *error);
void imatrix_free(struct imatrix *imatrix);

struct imatrix_summary {
    size_t matrices; /* tensors */
    uint64_t windows;
    uint64_t unused; /* experts that nothing came to */
    uint64_t experts;
};
void imatrix_summary(const struct imatrix *imatrix, struct imatrix_summary *out);

/* text: its name, for who reads the file. */
hypura_status imatrix_write(const struct imatrix *imatrix, const char *path, const char *text, hypura_error *error);

#endif
