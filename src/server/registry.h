/* The models that are known by name: those of the model folder, and files named on the command line. Functions may be
 * called from any thread.
 *
 * A model NAME of the folder is the file NAME.gguf that somebody put there or downloaded, or what the manifest
 * NAME.json says: its "weights" are a file of the folder "weights", which never changes once it has its name; its
 * "file" is elsewhere; and with neither it only adds something to NAME.gguf. A model is replaced by one rename, of the
 * manifest or, without one, of NAME.gguf. So whatever ends a process or a machine leaves the old model or the new one.
 * One process at a time changes the folder, under a lock. */
#ifndef HYPURA_SERVER_REGISTRY_H
#define HYPURA_SERVER_REGISTRY_H

#include "server/server.h"

/* A model that was found. */
struct model_entry {
    char *name;       /* "manpage-moe-24m-Q4_K_M:latest" */
    char *path;       /* of the (first) GGUF file */
    json_t *manifest; /* what /api/create added: system, parameters, messages, template, license; NULL: nothing */
    uint64_t bytes;   /* of all its files */
    int64_t modified; /* seconds since 1970 */
    uint64_t stamp;   /* changes when one of its files is replaced or written to */
    bool in_folder;
};

void model_entry_free(struct model_entry *entry);
/* Whether its files are there, and are those that were found. */
bool model_entry_is_current(const struct model_entry *entry);
hypura_status model_entry_copy(struct model_entry *out, const struct model_entry *entry, hypura_error *error);

/* The name as it is stored: with a tag. False when it is not one. */
bool model_name_complete(const char *name, char *out, size_t room);

/* Without the places that a name of Ollama's library has when it is written in full: "registry.ollama.ai/library/". */
const char *model_name_short(const char *name);

/* HYPURA_ERROR_IO when there is none of that name. An empty name, and NULL, find the first of the command line. */
hypura_status registry_find(struct registry *registry, const char *name, struct model_entry *out, hypura_error *error);

hypura_status registry_copy(struct registry *registry, const char *from, const char *to, hypura_error *error);

/* What a name will mean. */
struct new_model {
    const struct model_entry *from; /* its weights; or NULL, and they come with: */
    const char *const *files;       /* a file, or the parts of a split model, of the model folder's drive. Nobody else
                                       needs them: they lose their names. On the drive already (durable.h) */
    size_t file_count;
    const json_t *manifest;   /* "system" and so on; NULL: nothing */
    const char *adapter_blob; /* becomes the adapter that the manifest names; NULL: none is new */
};

/* Creates the model, or replaces the one of that name. After an error nothing has changed. */
hypura_status registry_create(struct registry *registry, const char *name, const struct new_model *model,
                              hypura_error *error);

/* FOLDER/adapters/NAME; false when it does not fit. */
bool registry_adapter(const struct registry *registry, const char *name, char *out, size_t room);

const char *registry_folder(const struct registry *registry);
hypura_status registry_make_folder(struct registry *registry, hypura_error *error);

/* The file of a name in the folder: FOLDER/ENCODED-NAME.ENDING. The name is complete. */
void registry_path(const struct registry *registry, const char *name, const char *ending, char *out, size_t room);

/* ---- blobs.c: files that were sent, by their SHA-256 ---- */

/* The path of "sha256:DIGEST", whether it is there or not; false: that is no digest. */
bool registry_blob(const struct registry *registry, const char *name, char *out, size_t room);

/* What is being quantized lies there too, under such names. */
#define QUANTIZED_PREFIX "quantized-"

/* Removes those unused for long. */
void registry_forget_blobs(const struct registry *registry);

/* ---- describe.c: what a file says of itself; remembered as long as the file stays as it is ---- */

/* Endings of files next to a model that belong to it, as "hypura optimize" writes them: the whole one first; NULL
 * behind the last. */
extern const char *const model_files_beside[];

/* {"parent_model", "format", "family", "families", "parameter_size", "quantization_level"}; a new reference. */
json_t *model_details(const struct model_entry *entry, hypura_error *error);
/* ["completion", "tools", ...] or ["embedding"]; a new reference. */
json_t *model_capabilities(const struct model_entry *entry, hypura_error *error);
/* 64 hexadecimal digits that change with the file's metadata, its size, a sample of each of its tensors, or the
 * manifest. Not of all of its bytes, which would take minutes. */
hypura_status model_digest(const struct model_entry *entry, char out[65], hypura_error *error);
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
