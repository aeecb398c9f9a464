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
    bool left;                /* for what it did; another copy stands for it */
    uint8_t drive;            /* as struct spread numbers them */
    uint64_t bytes;           /* when it was opened */
    struct timespec modified; /* likewise */
};

/* Opens for direct reads where the file system allows it. */
hypura_status store_file_open(struct store_file *file, const char *path, bool allow_buffered, hypura_error *error);
void store_file_close(struct store_file *file);

/* Written to since it was opened; one that only got another time (touch) counts, too. What tells the two apart for sure
 * is reading all of it: a sample misses what was written elsewhere, and the system reports no writes through a mapping,
 * as tools for GGUF files make them, nor those of other machines. */
bool store_file_changed(const struct store_file *file);

#endif
