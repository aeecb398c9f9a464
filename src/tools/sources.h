/* sources: keeps the files of a model open while another file is made from them, and detects changes to them. */
#ifndef HYPURA_SOURCES_H
#define HYPURA_SOURCES_H

#include "format/format.h"

#include <sys/stat.h>

struct sources;

/* Opens all files of a model. file must outlive the sources. */
hypura_status sources_open(struct sources **out, const struct gguf *file, hypura_error *error);
void sources_close(struct sources *sources);

/* Reads exactly so many bytes of an open file. path: for error messages. */
hypura_status sources_read_exactly(int file, const char *path, uint64_t offset, uint8_t *out, uint64_t bytes,
                                   hypura_error *error);

hypura_status sources_read(const struct sources *sources, uint32_t file, uint64_t offset, uint8_t *out, uint64_t bytes,
                           hypura_error *error);

/* Drops a range, which is not needed again, from the page cache. */
void sources_drop(const struct sources *sources, uint32_t file, uint64_t offset, uint64_t bytes);

/* Checks that the files are still the ones that were opened, and unchanged. */
hypura_status sources_check(const struct sources *sources, hypura_error *error);

/* Extends a digest with the identity and the state of these files. */
uint64_t sources_key(const struct sources *sources, uint64_t key);
uint64_t sources_key_of_file(const char *path, uint64_t key);

/* Whether info describes one of these files. */
bool sources_are(const struct sources *sources, const struct stat *info);

#endif
