/* importance: reads importance matrices: for each column of a matrix, the mean square of its inputs while a model read
 * a text. The files are those of llama-imatrix (GGUF, or the format that it used before) and llama-quantize.
 *
 * Values are read from the file on request, so files for large mixtures take little memory.
 */
#ifndef HYPURA_IMPORTANCE_H
#define HYPURA_IMPORTANCE_H

#include "core/core.h"

struct importance;

hypura_status importance_open(struct importance **out, const char *path, hypura_error *error);
void importance_close(struct importance *importance);

size_t importance_count(const struct importance *importance);
uint32_t importance_chunks(const struct importance *importance);
const char *importance_dataset(const struct importance *importance); /* the text's name; "" if unknown */

/* Returns how many values a matrix has, those of all its experts together; 0: none. */
uint64_t importance_size(const struct importance *importance, const char *name);

/* Reads importance_size values, expert by expert. Experts that were never used get ones. */
hypura_status importance_read(const struct importance *importance, const char *name, float *out, hypura_error *error);

#endif
