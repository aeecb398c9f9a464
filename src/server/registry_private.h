/* The model folder, as registry.c reads and registry_change.c changes it. */
#ifndef HYPURA_SERVER_REGISTRY_PRIVATE_H
#define HYPURA_SERVER_REGISTRY_PRIVATE_H

#include "core/durable.h"
#include "server/registry.h"

#include <pthread.h>
#include <sys/stat.h>

#define NAME_ROOM 256
#define WEIGHTS "weights" /* the folder of what manifests name */

struct registry {
    char *folder;
    char **files;
    size_t file_count;
    pthread_mutex_t mutex; /* changes of the folder, one at a time; those of other processes wait for a lock on it */
};

/* *out is NULL when there is none. One that is there and cannot be read is HYPURA_ERROR_FORMAT. */
hypura_status manifest_read(const char *path, json_t **out, hypura_error *error);

/* The path of the (first) file that a manifest (NULL: none) gives a model; false when it is too long. */
bool manifest_weights(const struct registry *registry, const char *name, const json_t *manifest, char *out,
                      size_t room);

/* A model of the folder by its complete name: its manifest and the weights that this names. HYPURA_ERROR_IO: there is
 * none. */
hypura_status registry_in_folder(const struct registry *registry, const char *name, struct model_entry *out,
                                 hypura_error *error);

#endif
