/* Creates, replaces and deletes models of the model folder. The process may be killed after any step: the folder is
 * then still valid. */
#include "core/json_text.h"
#include "server/registry_private.h"
#include "server/server_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define MOST_PARTS 1000
#define UNUSED_SECONDS (24 * 3600) /* age at which weights without a manifest go; newer ones may be about to get it */

/* ---- the lock -------------------------------------------------------------------------------------------------------
 */

static int wait_for(int file)
{
    while (file >= 0 && flock(file, LOCK_EX)) {
        if (errno != EINTR) {
            int number = errno;
            close(file);
            errno = number;
            return -1;
        }
    }
    return file;
}

/* Locks the folder itself or, if a network's file system cannot do that, a file in it. */
static hypura_status lock(struct registry *registry, int *out, hypura_error *error)
{
    char path[PATH_MAX];
    hypura_status status = registry_make_folder(registry, error);
    if (status)
        return status;
    pthread_mutex_lock(&registry->mutex);
    *out = wait_for(open(registry->folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (*out < 0 && snprintf(path, sizeof path, "%s/.lock", registry->folder) < (int)sizeof path)
        *out = wait_for(open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    if (*out < 0) {
        status = error_set_errno(error, errno, "cannot lock the model folder %s", registry->folder);
        pthread_mutex_unlock(&registry->mutex);
    }
    return status;
}

static void unlock(struct registry *registry, int lock)
{
    close(lock);
    pthread_mutex_unlock(&registry->mutex);
}

/* ---- files that no manifest names ----------------------------------------------------------------------------------
 */

/* Whether a manifest names this file under this key: itself, as a part of a split model, or as a file next to it. */
static bool names(const json_t *manifest, const char *key, const char *file)
{
    const char *named = json_string_value(json_object_get(manifest, key));
    char name[NAME_MAX + 1];
    if (!named || snprintf(name, sizeof name, "%s", file) >= (int)sizeof name)
        return false;
    for (size_t i = 0; model_files_beside[i]; i++)
        if (text_has_ending(name, model_files_beside[i]))
            name[strlen(name) - strlen(model_files_beside[i])] = '\0';
    const char *of = strstr(named, "-00001-of-");
    if (!of || strlen(named) != strlen(name))
        return strcmp(named, name) == 0;
    size_t before = (size_t)(of - named);
    return strncmp(named, name, before + 1) == 0 && strcmp(of + 6, name + before + 6) == 0;
}

/* Whether a manifest of the folder names the file, or may do so because it cannot be read. */
static bool is_named(const struct registry *registry, const char *key, const char *name)
{
    struct dirent *file = NULL;
    DIR *folder = opendir(registry->folder);
    bool found = !folder;
    while (!found && (errno = 0, file = readdir(folder))) {
        char path[PATH_MAX];
        json_t *manifest = NULL;
        if (file->d_name[0] == '.' || !text_has_ending(file->d_name, ".json"))
            continue;
        found = snprintf(path, sizeof path, "%s/%s", registry->folder, file->d_name) >= (int)sizeof path ||
                manifest_read(path, &manifest, NULL) != HYPURA_OK || names(manifest, key, name);
        json_decref(manifest);
    }
    found |= !file && errno; /* the list is incomplete */
    if (folder)
        closedir(folder);
    return found;
}

static hypura_status remove_file(const char *path, hypura_error *error)
{
    return unlink(path) && errno != ENOENT ? error_set_errno(error, errno, "cannot delete %s", path) : HYPURA_OK;
}

static void drop(const char *path)
{
    if (unlink(path) && errno != ENOENT)
        log_write(LOG_WARNING, "cannot delete %s, which is no longer needed: %s", path, strerror(errno));
}

static void drop_beside(const char *model)
{
    char path[PATH_MAX];
    for (size_t i = 0; model_files_beside[i]; i++)
        if (snprintf(path, sizeof path, "%s%s", model, model_files_beside[i]) < (int)sizeof path)
            drop(path);
}

/* Deletes weights that no manifest names any more: those that this one named, and those older than UNUSED_SECONDS. */
static void drop_weights(const struct registry *registry, const json_t *manifest)
{
    char folder[PATH_MAX], path[PATH_MAX];
    if (snprintf(folder, sizeof folder, "%s/" WEIGHTS, registry->folder) >= (int)sizeof folder)
        return;
    DIR *list = opendir(folder);
    for (struct dirent *file; list && (file = readdir(list));) {
        struct stat info;
        if (file->d_name[0] == '.' || snprintf(path, sizeof path, "%s/%s", folder, file->d_name) >= (int)sizeof path ||
            stat(path, &info))
            continue;
        bool due = names(manifest, "weights", file->d_name) || info.st_ctime < time(NULL) - UNUSED_SECONDS;
        if (due && !is_named(registry, "weights", file->d_name))
            drop(path);
    }
    if (list)
        closedir(list);
    rmdir(folder); /* succeeds if it is empty */
}

/* Deletes an uploaded adapter with the last model that names it. */
static void drop_adapter(const struct registry *registry, const json_t *manifest)
{
    const char *adapter = json_string_value(json_object_get(manifest, "adapter"));
    char path[PATH_MAX];
    if (adapter && strlen(adapter) == sizeof "sha256-.gguf" - 1 + 64 && strncmp(adapter, "sha256-", 7) == 0 &&
        registry_adapter(registry, adapter, path, sizeof path) && !is_named(registry, "adapter", adapter))
        drop(path);
}

/* ---- new weights ---------------------------------------------------------------------------------------------------
 */

/* New files of a model, in the folder. */
struct placed {
    char weights[NAME_MAX + 1]; /* as the manifest names them */
    char stem[PATH_MAX];        /* paths up to the part's number */
    char adapter[PATH_MAX];     /* path of the new one, or empty */
    size_t count, total;        /* files named so far, and files of the model */
    bool linked;                /* they have their old names as well */
    bool adapter_linked;
};

static bool placed_path(const struct placed *placed, size_t part, char *out, size_t room)
{
    int length = placed->total == 1
                     ? snprintf(out, room, "%s.gguf", placed->stem)
                     : snprintf(out, room, "%s-%05zu-of-%05zu.gguf", placed->stem, part + 1, placed->total);
    return length > 0 && (size_t)length < room;
}

/* Gives a file a second name or, on file systems without links and if it may be moved, a new name. *linked: it has two
 * names now. */
static hypura_status give_name(const char *from, const char *to, bool may_move, bool *linked, hypura_error *error)
{
    bool second = link(from, to) == 0;
    if (second || (may_move && (errno == EPERM || errno == ENOTSUP || errno == ENOSYS) && rename(from, to) == 0)) {
        *linked = second;
        return HYPURA_OK;
    }
    return error_set_errno(error, errno, "cannot create %s", to);
}

static void take_back_files(const struct new_model *model, struct placed *placed)
{
    char path[PATH_MAX];
    for (size_t i = 0; i < placed->count; i++) {
        if (placed_path(placed, i, path, sizeof path) && (placed->linked || rename(path, model->files[i])))
            drop(path);
    }
    placed->count = 0;
}

static void take_back(const struct new_model *model, struct placed *placed)
{
    take_back_files(model, placed);
    if (placed->adapter[0] && (placed->adapter_linked || rename(placed->adapter, model->adapter_blob)))
        drop(placed->adapter);
}

/* Makes a file durable that another program wrote. */
static hypura_status bring_to_drive(const char *path, hypura_error *error)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return error_set_errno(error, errno, "cannot read %s", path);
    hypura_status status = durable_file(file, path, error);
    close(file);
    return status;
}

/* Gives files new, unique names in the folder of weights. own: they may be renamed, and are durable. */
static hypura_status place_files(const struct registry *registry, const char *name, const char *const *files,
                                 size_t count, bool own, struct placed *out, hypura_error *error)
{
    char folder[PATH_MAX], base[PATH_MAX], path[PATH_MAX], generation[17];
    registry_path(registry, name, "", base, sizeof base);
    random_hex(generation, 16);
    out->total = count;
    if (snprintf(folder, sizeof folder, "%s/" WEIGHTS, registry->folder) >= (int)sizeof folder ||
        snprintf(out->stem, sizeof out->stem, "%s/%s%s", folder, strrchr(base, '/') + 1, generation) >=
            (int)sizeof out->stem)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path of the model folder is too long");
    hypura_status status = durable_make_folder(folder, error);
    for (size_t i = 0; !status && i < count; i++) {
        if (!placed_path(out, i, path, sizeof path))
            return error_set(error, HYPURA_ERROR_ARGUMENT, "the path of the model folder is too long");
        if (!own)
            status = bring_to_drive(files[i], error);
        if (!status)
            status = give_name(files[i], path, own, &out->linked, error);
        out->count += status == HYPURA_OK;
        if (i == 0)
            snprintf(out->weights, sizeof out->weights, "%s", strrchr(path, '/') + 1);
    }
    return status ? status : durable_folder(folder, error);
}

/* Gives all files of an existing model second names in the folder of weights. */
static hypura_status place_copy(const struct registry *registry, const char *name, const char *path, struct placed *out,
                                hypura_error *error)
{
    const char *of = strstr(path, "-00001-of-");
    long count = of ? strtol(of + 10, NULL, 10) : 1;
    char **paths;
    if (count < 1 || count > MOST_PARTS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a model has at most %d files", MOST_PARTS);
    hypura_status status = ALLOCATE(&paths, (size_t)count, "list of files", error);
    for (long i = 0; !status && i < count; i++) {
        char part[PATH_MAX];
        snprintf(part, sizeof part, "%s", path);
        if (of)
            snprintf(part, sizeof part, "%.*s-%05ld%s", (int)(of - path), path, i + 1, of + 6);
        status = string_copy(&paths[i], part, error);
    }
    if (!status)
        status = place_files(registry, name, (const char *const *)paths, (size_t)count, false, out, error);
    /* The file that "hypura optimize" wrote for the model is valid under the new name too. */
    char first[PATH_MAX], experts[PATH_MAX], second[PATH_MAX];
    if (!status && placed_path(out, 0, first, sizeof first) &&
        snprintf(experts, sizeof experts, "%s%s", path, model_files_beside[0]) < (int)sizeof experts &&
        snprintf(second, sizeof second, "%s%s", first, model_files_beside[0]) < (int)sizeof second &&
        access(experts, F_OK) == 0 && link(experts, second))
        log_write(LOG_WARNING, "cannot create %s: %s", second, strerror(errno));
    for (long i = 0; paths && i < count; i++)
        memory_free(paths[i]);
    memory_free(paths);
    return status;
}

static hypura_status place_adapter(const struct registry *registry, const struct new_model *model, struct placed *out,
                                   hypura_error *error)
{
    char folder[PATH_MAX], path[PATH_MAX];
    const char *name = json_string_value(json_object_get(model->manifest, "adapter"));
    if (!name || !registry_adapter(registry, "", folder, sizeof folder) ||
        !registry_adapter(registry, name, path, sizeof path))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path of the model folder is too long");
    folder[strlen(folder) - 1] = 0; /* the final slash */
    hypura_status status = durable_make_folder(folder, error);
    if (status || access(path, F_OK) == 0) /* named by its digest, so it is the same */
        return status;
    status = give_name(model->adapter_blob, path, true, &out->adapter_linked, error);
    if (!status)
        strcpy(out->adapter, path);
    return status ? status : durable_folder(folder, error);
}

static bool same_file(const char *a, const char *b)
{
    struct stat one, other;
    return stat(a, &one) == 0 && stat(b, &other) == 0 && one.st_ino == other.st_ino && one.st_dev == other.st_dev;
}

/* Puts the weights in place and notes in the manifest where they are. before: the present manifest of the name, or
 * NULL. */
static hypura_status place(const struct registry *registry, const char *name, const struct new_model *model,
                           const json_t *before, json_t *manifest, struct placed *placed, hypura_error *error)
{
    char own[PATH_MAX], real[PATH_MAX], inside[PATH_MAX];
    hypura_status status = HYPURA_OK;
    bool fine = true;
    if (model->adapter_blob && (status = place_adapter(registry, model, placed, error)))
        return status;
    if (!model->from) {
        status = place_files(registry, name, model->files, model->file_count, true, placed, error);
        fine = status || json_object_set_new(manifest, "weights", json_string(placed->weights)) == 0;
    } else if (manifest_weights(registry, name, before, own, sizeof own) && same_file(own, model->from->path)) {
        /* The name has these weights already. */
        json_t *weights = json_object_get(before, "weights"), *file = json_object_get(before, "file");
        fine = (!weights || json_object_set(manifest, "weights", weights) == 0) &&
               (!file || json_object_set(manifest, "file", file) == 0);
    } else if (!realpath(model->from->path, real) || !model_entry_is_current(model->from)) {
        status = error_set(error, HYPURA_ERROR_IO, "the file of model '%s' was replaced meanwhile: try again",
                           model->from->name ? model->from->name : name);
    } else {
        /* The weights of another model are shared with it; other files get a second name. A file that cannot have one
         * (on another drive, or on a file system without links) stays where it is, and the manifest has its path. */
        const char *weights = strrchr(model->from->path, '/');
        snprintf(inside, sizeof inside, "%s/" WEIGHTS "%s", registry->folder, weights ? weights : "");
        if (weights && strcmp(inside, model->from->path) == 0) {
            fine = json_object_set_new(manifest, "weights", json_string(weights + 1)) == 0;
        } else if (place_copy(registry, name, real, placed, NULL) == HYPURA_OK) {
            fine = json_object_set_new(manifest, "weights", json_string(placed->weights)) == 0;
        } else {
            take_back_files(model, placed);
            fine = json_object_set_new(manifest, "file", json_string(real)) == 0;
        }
    }
    return fine ? status : error_set(error, HYPURA_ERROR_MEMORY, "no memory for the manifest of model '%s'", name);
}

/* ---- creating ------------------------------------------------------------------------------------------------------
 */

/* Renames a single file to NAME.gguf. Only if the name has no manifest, as one rename must replace the whole model. */
static hypura_status put_in_place(const struct registry *registry, const char *file, const char *path,
                                  hypura_error *error)
{
    if (rename(file, path))
        return error_set_errno(error, errno, "cannot create %s", path);
    drop_beside(path); /* they belong to the previous model */
    return durable_folder(registry->folder, error);
}

/* Writes the manifest, once the weights are in place. Its rename replaces the model. */
static hypura_status write_manifest(const char *path, const json_t *manifest, bool *replaced, hypura_error *error)
{
    char *text = json_text_write(manifest, JSON_INDENT(2));
    if (!text)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the manifest %s", path);
    hypura_status status = durable_write(path, text, strlen(text), replaced, error);
    free(text);
    return status;
}

/* Deletes a model's file or, of a split model, all parts: the first one first, because the others are found by it. */
static hypura_status remove_model_files(const char *path, hypura_error *error)
{
    char part[PATH_MAX];
    hypura_status status = remove_file(path, error);
    const char *of = strstr(path, "-00001-of-");
    for (long i = 2; !status && of && i <= MIN(strtol(of + 10, NULL, 10), MOST_PARTS); i++) {
        snprintf(part, sizeof part, "%.*s-%05ld%s", (int)(of - path), path, i, of + 6);
        drop(part);
    }
    if (!status)
        drop_beside(path);
    return status;
}

/* Deletes the model file that a manifest replaced. An earlier call may have been interrupted. */
static hypura_status remove_replaced(const struct registry *registry, const json_t *manifest, hypura_error *error)
{
    const char *replaced = json_string_value(json_object_get(manifest, "replaces"));
    char path[PATH_MAX];
    if (!replaced || snprintf(path, sizeof path, "%s/%s", registry->folder, replaced) >= (int)sizeof path)
        return HYPURA_OK;
    return remove_model_files(path, error);
}

/* Notes in the manifest which file it replaces, so that the old model does not reappear once the manifest is gone. */
static hypura_status note_replaced(struct registry *registry, const char *name, const json_t *before, json_t *manifest,
                                   hypura_error *error)
{
    struct model_entry old = {0};
    hypura_error problem = {0};
    bool fine = true;
    json_t *noted = json_object_get(before, "replaces");
    if (noted) {
        fine = json_object_set(manifest, "replaces", noted) == 0;
    } else if (!json_object_get(before, "weights") && !json_object_get(before, "file")) {
        hypura_status status = registry_find(registry, name, &old, &problem);
        if (status)
            return status == HYPURA_ERROR_IO ? HYPURA_OK : error_set(error, status, "%s", problem.message);
        const char *slash = strrchr(old.path, '/');
        fine = !old.in_folder || strcmp(old.name, name) != 0 || !slash ||
               json_object_set_new(manifest, "replaces", json_string(slash + 1)) == 0;
    }
    model_entry_free(&old);
    return fine ? HYPURA_OK : error_set(error, HYPURA_ERROR_MEMORY, "no memory for the manifest of model '%s'", name);
}

/* Deletes what was replaced, and old names of files that have new ones. */
static void clean_up(const struct registry *registry, const struct new_model *model, const struct placed *placed,
                     const json_t *before, const json_t *now)
{
    hypura_error problem = {0};
    for (size_t i = 0; placed->linked && !model->from && i < placed->count; i++)
        drop(model->files[i]);
    if (model->adapter_blob && (placed->adapter_linked || !placed->adapter[0]))
        drop(model->adapter_blob);
    if (remove_replaced(registry, now, &problem))
        log_write(LOG_WARNING, "%s", problem.message);
    drop_weights(registry, before);
    drop_adapter(registry, before);
}

static hypura_status create(struct registry *registry, const char *name, const struct new_model *model,
                            hypura_error *error)
{
    char description[PATH_MAX], file[PATH_MAX];
    struct placed placed = {0};
    json_t *before;
    bool replaced = false;
    registry_path(registry, name, "json", description, sizeof description);
    registry_path(registry, name, "gguf", file, sizeof file);
    hypura_status status = manifest_read(description, &before, error);
    if (status)
        return status;
    if (!before && !model->from && !model->manifest && model->file_count == 1)
        return put_in_place(registry, model->files[0], file, error);
    json_t *manifest = model->manifest ? json_deep_copy(model->manifest) : json_object();
    if (!manifest)
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for the manifest of model '%s'", name);
    if (!status)
        status = place(registry, name, model, before, manifest, &placed, error);
    /* Not for "file", which may be the folder's own file of this name. */
    if (!status && json_object_get(manifest, "weights"))
        status = note_replaced(registry, name, before, manifest, error);
    if (!status)
        status = write_manifest(description, manifest, &replaced, error);
    if (!replaced)
        take_back(model, &placed);
    else if (!status)
        clean_up(registry, model, &placed, before, manifest);
    json_decref(before);
    json_decref(manifest);
    return status;
}

hypura_status registry_create(struct registry *registry, const char *name, const struct new_model *model,
                              hypura_error *error)
{
    char complete[NAME_ROOM];
    int held;
    if (!model_name_complete(model_name_short(name), complete, sizeof complete))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "invalid model name");
    if (model->file_count > MOST_PARTS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a model has at most %d files", MOST_PARTS);
    hypura_status status = lock(registry, &held, error);
    if (status)
        return status;
    status = create(registry, complete, model, error);
    unlock(registry, held);
    return status;
}

hypura_status registry_copy(struct registry *registry, const char *from, const char *to, hypura_error *error)
{
    struct model_entry entry;
    hypura_status status = registry_find(registry, from, &entry, error);
    if (status)
        return status;
    status = registry_create(registry, to, &(struct new_model){.from = &entry, .manifest = entry.manifest}, error);
    model_entry_free(&entry);
    return status;
}

/* ---- deleting -------------------------------------------------------------------------------------------------------
 */

/* Deletes a model; without path, one whose manifest may be invalid. One whose manifest says where its weights are ends
 * with the manifest; any other ends with its first file (path), without which the manifest means nothing. If a step
 * fails, the rest is still the model. */
static hypura_status delete (const struct registry *registry, const char *name, const char *path, hypura_error *error)
{
    char description[PATH_MAX];
    json_t *manifest = NULL;
    registry_path(registry, name, "json", description, sizeof description);
    hypura_status status = manifest_read(description, &manifest, error);
    if (status && (path || status != HYPURA_ERROR_FORMAT)) /* path may be a file that the manifest only refers to */
        return status;
    bool elsewhere = json_object_get(manifest, "weights") || json_object_get(manifest, "file");
    status = remove_replaced(registry, manifest, error);
    if (!status && !elsewhere && path)
        status = remove_model_files(path, error);
    if (!status)
        status = durable_folder(registry->folder, error);
    if (!status)
        status = remove_file(description, error);
    if (!status)
        status = durable_folder(registry->folder, error);
    if (!status) {
        drop_weights(registry, manifest);
        drop_adapter(registry, manifest);
    }
    json_decref(manifest);
    return status;
}

/* Deletes a model whose manifest cannot be read, or whose weights are gone. */
static hypura_status delete_rest(const struct registry *registry, const char *name, hypura_error *error)
{
    char complete[NAME_ROOM], description[PATH_MAX];
    if (!model_name_complete(model_name_short(name), complete, sizeof complete))
        return error->status;
    registry_path(registry, complete, "json", description, sizeof description);
    return access(description, F_OK) ? error->status : delete (registry, complete, NULL, error);
}

hypura_status registry_delete(struct registry *registry, const char *name, hypura_error *error)
{
    struct model_entry entry = {0};
    hypura_error problem = {0};
    int held = -1;
    hypura_status status = HYPURA_OK;
    /* Locking would create the folder. */
    if (access(registry->folder, F_OK) == 0 && (status = lock(registry, &held, error)))
        return status;
    status = registry_find(registry, name, &entry, &problem);
    if (!status && !entry.in_folder)
        status = error_set(&problem, HYPURA_ERROR_ARGUMENT,
                           "model '%s' is not in the model folder, and only models there can be deleted", entry.name);
    else if (!status)
        status = delete (registry, entry.name, entry.path, &problem);
    else if (status == HYPURA_ERROR_FORMAT || status == HYPURA_ERROR_IO)
        status = delete_rest(registry, name, &problem);
    if (held >= 0)
        unlock(registry, held);
    model_entry_free(&entry);
    return status ? error_set(error, status, "%s", problem.message) : HYPURA_OK;
}
