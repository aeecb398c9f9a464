/* The model folder, which registry.c reads and registry_change.c changes. */
#ifndef HYPURA_SERVER_REGISTRY_PRIVATE_H
#define HYPURA_SERVER_REGISTRY_PRIVATE_H

#include "core/durable.h"
#include "server/registry.h"

#include <pthread.h>
#include <sys/stat.h>

#define NAME_ROOM 256
#define WEIGHTS "weights" /* subfolder of the files that manifests name */

struct registry {
    char *folder;
    char **files;
    size_t file_count;
    pthread_mutex_t mutex; /* held during changes of the folder, as is a file lock against other processes */
};

/* Reads a manifest; *out is NULL if the file does not exist. HYPURA_ERROR_FORMAT: it exists but cannot be read. */
hypura_status manifest_read(const char *path, json_t **out, hypura_error *error);

/* Writes the path of the (first) file that a model has by its manifest (NULL: none). False: it is too long. */
bool manifest_weights(const struct registry *registry, const char *name, const json_t *manifest, char *out,
                      size_t room);

/* Finds a model of the folder by its complete name, from its manifest and the weights that this names. HYPURA_ERROR_IO:
 * there is none. */
hypura_status registry_in_folder(const struct registry *registry, const char *name, struct model_entry *out,
                                 hypura_error *error);

#endif
