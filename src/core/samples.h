/* samples: reads some ranges of a file, for comparing them with another file's. */
#ifndef HYPURA_SAMPLES_H
#define HYPURA_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Opens a file for scattered reads, without read-ahead. The caller closes it. Negative: it cannot be opened (errno). */
int samples_open(const char *path);

/* false: the range could not be read completely. */
bool samples_read(int file, uint8_t *out, size_t bytes, uint64_t offset);

#endif
