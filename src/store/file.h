/* store/file: a model's files, opened to be read past the page cache. Owner: file.c. */
#ifndef HYPURA_STORE_FILE_H
#define HYPURA_STORE_FILE_H

#include "core/core.h"
#include "hw/hw.h"

#include <time.h>

/* Direct reads have offsets, lengths and memory that are multiples of this. */
#define IO_ALIGNMENT STORAGE_ALIGNMENT

struct store_file {
    char *path;
    int descriptor;
    bool direct;
    bool left;                /* not read any more, because it failed; another copy replaces it */
    uint8_t drive;            /* number in struct spread */
    uint64_t bytes;           /* when it was opened */
    struct timespec modified; /* when it was opened */
};

/* Opens a file, for direct reads if the file system allows them. */
hypura_status store_file_open(struct store_file *file, const char *path, bool allow_buffered, hypura_error *error);
void store_file_close(struct store_file *file);

/* Whether a file was written to, or touched, since it was opened. Only reading all of it could distinguish the two:
 * samples miss writes elsewhere, and the system does not report writes through a mapping (as tools for GGUF files do)
 * or from other machines. */
bool store_file_changed(const struct store_file *file);

#endif
