/* imatrix: measures how much each column of a model's matrices matters, from their inputs while the model reads a text.
 * The file has the format of llama-imatrix (importance.h reads it). Models may stream.
 */
#ifndef HYPURA_IMATRIX_H
#define HYPURA_IMATRIX_H

#include "engine/engine.h"

struct imatrix;

/* Computes the memory that collecting needs. The caller reserves it from the engine's budget. */
hypura_status imatrix_bytes(uint64_t *bytes, const char *model, hypura_error *error);

typedef bool (*imatrix_progress)(void *context, uint64_t windows, uint64_t total);

/* Reads the text in independent windows of equal length. The engine must compute all layers on the CPU and have
 * imatrix_bytes of its budget reserved. bos: replaces the first token of each window; negative: none. If progress
 * returns false, this stops with HYPURA_ERROR_CANCELLED. */
hypura_status imatrix_collect(struct imatrix **out, struct engine *engine, const int32_t *tokens, size_t count,
                              uint32_t window, int32_t bos, imatrix_progress progress, void *context,
                              hypura_error *error);
void imatrix_free(struct imatrix *imatrix);

struct imatrix_summary {
    size_t matrices; /* tensors */
    uint64_t windows;
    uint64_t unused; /* experts that no token used */
    uint64_t experts;
};
void imatrix_summary(const struct imatrix *imatrix, struct imatrix_summary *out);

/* text: the name of the text, which is stored in the file. */
hypura_status imatrix_write(const struct imatrix *imatrix, const char *path, const char *text, hypura_error *error);

#endif
