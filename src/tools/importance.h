/* How much each column of a matrix matters: the mean square of what came in there while a model read a text, in the files
 * that llama-imatrix writes (GGUF, or the older form that such files had before), and that llama-quantize reads.
 *
 * Values are read when they are asked for, so that a file for a large mixture takes no memory.
 */
#ifndef HYPURA_IMPORTANCE_H
#define HYPURA_IMPORTANCE_H

#include "core/core.h"

struct importance;

hypura_status importance_open(struct importance **out, const char *path, hypura_error *error);
void importance_close(struct importance *importance);

size_t importance_count(const struct importance *importance);
uint32_t importance_chunks(const struct importance *importance);
const char *importance_dataset(const struct importance *importance); /* the text's name; "" when it is not told */

/* Values that there are for a matrix, those of its experts one after another; 0: none. */
uint64_t importance_size(const struct importance *importance, const char *name);

/* So many values. An expert that nothing came to has ones. */
hypura_status importance_read(const struct importance *importance, const char *name, float *out, hypura_error *error);

#endif
