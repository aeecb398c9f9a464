/* samples: a look at some bytes of files, to tell whether they are what another file was made of. */
#ifndef HYPURA_SAMPLES_H
#define HYPURA_SAMPLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* For reads here and there, without reading ahead; the caller closes it. Negative: it cannot be opened (errno). */
int samples_open(const char *path);

/* False: not all of it could be read. */
bool samples_read(int file, uint8_t *out, size_t bytes, uint64_t offset);

#endif
