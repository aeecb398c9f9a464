/* sources: the files of a model while something is made of them: the same ones from the first byte to the last. */
#ifndef HYPURA_SOURCES_H
#define HYPURA_SOURCES_H

#include "format/format.h"

#include <sys/stat.h>

struct sources;

/* Opens all files of a model; it must outlive this. */
hypura_status sources_open(struct sources **out, const struct gguf *file, hypura_error *error);
void sources_close(struct sources *sources);

/* All of these bytes of an open file; path is for the sentence. */
hypura_status sources_read_exactly(int file, const char *path, uint64_t offset, uint8_t *out, uint64_t bytes,
                                   hypura_error *error);

hypura_status sources_read(const struct sources *sources, uint32_t file, uint64_t offset, uint8_t *out, uint64_t bytes,
                           hypura_error *error);

/* Nothing of this range is needed in the page cache again. */
void sources_drop(const struct sources *sources, uint32_t file, uint64_t offset, uint64_t bytes);

/* That the files are those that were opened, as they were then. */
hypura_status sources_check(const struct sources *sources, hypura_error *error);

/* Continues a digest with what tells these files from others, and from what they were before. */
uint64_t sources_key(const struct sources *sources, uint64_t key);
uint64_t sources_key_of_file(const char *path, uint64_t key);

/* Whether it is one of them. */
bool sources_are(const struct sources *sources, const struct stat *info);

#endif
