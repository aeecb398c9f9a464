/* durable: writes that survive a power cut. A new file appears under its name complete or not at all. When a function
 * here returns HYPURA_OK, the data is on the drive. */
#ifndef HYPURA_CORE_DURABLE_H
#define HYPURA_CORE_DURABLE_H

#include "core/core.h"

/* Flushes a file to the drive. path is only for the error message. */
hypura_status durable_file(int file, const char *path, hypura_error *error);

/* Flushes a folder: after that, created, renamed and deleted names in it are on the drive. */
hypura_status durable_folder(const char *folder, hypura_error *error);

/* Flushes the folder that contains this path. */
hypura_status durable_folder_of(const char *path, hypura_error *error);

/* HYPURA_OK if a new file may be renamed to this path: nothing or a regular file is there. Devices and pipes are never
 * replaced, since a program run as root would otherwise put a file in place of /dev/null. */
hypura_status durable_may_replace(const char *path, hypura_error *error);

/* Writes PATH.partial, flushes it, renames it to PATH and flushes the folder. *replaced (may be NULL) is set even on an
 * error: true if the new file already has the name. */
hypura_status durable_write(const char *path, const void *data, size_t size, bool *replaced, hypura_error *error);

/* Creates a folder and any missing parents. */
hypura_status durable_make_folder(const char *folder, hypura_error *error);

#endif
