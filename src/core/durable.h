/* Files that outlast a power cut: what is written appears under its name as a whole or not at all, and is on the drive
 * before anything depends on it. */
#ifndef HYPURA_CORE_DURABLE_H
#define HYPURA_CORE_DURABLE_H

#include "core/core.h"

/* What was written to the file is on the drive. The path is for the error. */
hypura_status durable_file(int file, const char *path, hypura_error *error);

/* The names in a folder are on the drive: those that came and those that went. */
hypura_status durable_folder(const char *folder, hypura_error *error);

/* The same of the folder that holds this path. */
hypura_status durable_folder_of(const char *path, hypura_error *error);

/* Whether a file that is written under another name may be renamed to this one: there is none, or it is a regular file.
 * A device, or a pipe, is never replaced: a program run as root would put a file where /dev/null was. */
hypura_status durable_may_replace(const char *path, hypura_error *error);

/* PATH.partial is written, brought to the drive and renamed; then the folder is brought there. replaced (may be NULL)
 * says after an error too whether the new file has the name by now. */
hypura_status durable_write(const char *path, const void *data, size_t size, bool *replaced, hypura_error *error);

/* The folder, made with those above it where it is missing. */
hypura_status durable_make_folder(const char *folder, hypura_error *error);

#endif
