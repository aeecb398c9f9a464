/* The registry: models by name, which are those of the model folder and files named on the command line. Any thread may
 * call these functions.
 *
 * A model NAME of the folder is either the file NAME.gguf, which somebody put there or downloaded, or is described by
 * the manifest NAME.json. "weights" of the manifest names a file in the subfolder "weights", which never changes once
 * it has its name; "file" names a file elsewhere; with neither, the manifest only adds to NAME.gguf. One rename
 * replaces a model: that of the manifest or, without one, of NAME.gguf. So if a process or the machine dies, either the
 * old model or the new one is there. A lock ensures that one process at a time changes the folder. */
#ifndef HYPURA_SERVER_REGISTRY_H
#define HYPURA_SERVER_REGISTRY_H

#include "server/server.h"

/* A model that was found. Owns its strings and a reference to the manifest. */
struct model_entry {
    char *name;       /* "manpage-moe-24m-Q4_K_M:latest" */
    char *path;       /* of the (first) GGUF file */
    json_t *manifest; /* added by /api/create: system, parameters, messages, template, license; NULL: none */
    uint64_t bytes;   /* size of all its files */
    int64_t modified; /* seconds since 1970 */
    uint64_t stamp;   /* changes when one of its files is replaced or written to */
    bool in_folder;
};

void model_entry_free(struct model_entry *entry);
/* Whether its files still exist unchanged. */
bool model_entry_is_current(const struct model_entry *entry);
hypura_status model_entry_copy(struct model_entry *out, const struct model_entry *entry, hypura_error *error);

/* Writes the name as it is stored, with a tag. False: it is not a valid name. */
bool model_name_complete(const char *name, char *out, size_t room);

/* The name without the prefix "registry.ollama.ai/library/", which full names of Ollama's library have. */
const char *model_name_short(const char *name);

/* Finds a model by name; an empty name or NULL finds the first of the command line. HYPURA_ERROR_IO: there is none. */
hypura_status registry_find(struct registry *registry, const char *name, struct model_entry *out, hypura_error *error);

/* Gives a model a second name. */
hypura_status registry_copy(struct registry *registry, const char *from, const char *to, hypura_error *error);

/* What a new model consists of. */
struct new_model {
    const struct model_entry *from; /* has the weights; or NULL, then they are in: */
    /* A file, or the parts of a split model, on the model folder's drive and durable (durable.h). They are renamed, so
     * nothing else may use them. */
    const char *const *files;
    size_t file_count;
    const json_t *manifest;   /* "system" and so on; NULL: none */
    const char *adapter_blob; /* becomes the adapter that the manifest names; NULL: no new one */
};

/* Creates the model, or replaces the one with this name. Changes nothing if it fails. */
hypura_status registry_create(struct registry *registry, const char *name, const struct new_model *model,
                              hypura_error *error);

/* Writes FOLDER/adapters/NAME. False: it is too long. */
bool registry_adapter(const struct registry *registry, const char *name, char *out, size_t room);

const char *registry_folder(const struct registry *registry);
hypura_status registry_make_folder(struct registry *registry, hypura_error *error);

/* Writes FOLDER/ENCODED-NAME.ENDING for a complete name. */
void registry_path(const struct registry *registry, const char *name, const char *ending, char *out, size_t room);

/* ---- blobs.c: uploaded files, named by their SHA-256 ---- */

/* Writes the path of the blob "sha256:DIGEST", whether it exists or not. False: that is not a digest. */
bool registry_blob(const struct registry *registry, const char *name, char *out, size_t room);

/* Files that are being quantized are in the same folder, under names with this prefix. */
#define QUANTIZED_PREFIX "quantized-"

/* Deletes blobs that have not changed for a day. */
void registry_forget_blobs(const struct registry *registry);

/* ---- describe.c: what the header of a model's file says; cached until the file changes ---- */

/* Suffixes of files next to a model that belong to it, as "hypura optimize" writes them: the finished one first, NULL
 * last. */
extern const char *const model_files_beside[];

/* {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"}; a new reference. */
json_t *model_details(const struct model_entry *entry, hypura_error *error);
/* ["completion", "tools", ...] or ["embedding"]; a new reference. */
json_t *model_capabilities(const struct model_entry *entry, hypura_error *error);
/* Writes 64 hexadecimal digits that change with the file's size, its metadata, a sample of each of its tensors, or the
 * manifest. Hashing all bytes would take minutes. */
hypura_status model_digest(const struct model_entry *entry, char out[65], hypura_error *error);
/* The model's object in GET /api/tags; a new reference. */
json_t *model_tags_entry(const struct model_entry *entry, hypura_error *error);

/* ---- sha256.c (FIPS 180-4) ---- */
struct sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64];
};

void sha256_start(struct sha256 *sha);
void sha256_add(struct sha256 *sha, const void *data, size_t size);
void sha256_finish(struct sha256 *sha, char out[65]); /* hexadecimal */

#endif
