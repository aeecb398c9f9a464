/* Names and files. A name is encoded into a file name: ":" is "@", "/" is "+", neither of which a name can hold. */
#include "server/registry.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define NAME_ROOM 256

struct registry {
    char *folder;
    char **files;
    size_t file_count;
    pthread_mutex_t mutex; /* changes of the folder, one at a time */
};

static bool ends_with(const char *text, const char *ending)
{
    size_t length = strlen(text), size = strlen(ending);
    return length > size && strcmp(text + length - size, ending) == 0;
}

static bool is_letter_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Parts of letters, digits, "_", "-", "."; none begins with a dot or a dash. */
bool model_name_complete(const char *name, char *out, size_t room)
{
    size_t length = strlen(name);
    if (length == 0 || length > 200 || length + sizeof ":latest" > room)
        return false;
    bool start = true, tag = false;
    for (const char *c = name; *c; c++) {
        if (*c == '/' || *c == ':') {
            if (start || tag)
                return false;
            tag = *c == ':';
            start = true;
            continue;
        }
        if (!is_letter_or_digit(*c) && *c != '_' && (start || (*c != '-' && *c != '.')))
            return false;
        start = false;
    }
    if (start)
        return false;
    snprintf(out, room, "%s%s", name, tag ? "" : ":latest");
    return true;
}

void registry_path(const struct registry *registry, const char *name, const char *ending, char *out, size_t room)
{
    int start = snprintf(out, room, "%s/%s", registry->folder, name);
    if (start < 0 || (size_t)start >= room)
        return;
    for (char *c = out + strlen(registry->folder) + 1; *c; c++)
        *c = *c == ':' ? '@' : *c == '/' ? '+' : *c;
    if (ends_with(out, "@latest"))
        out[start -= 7] = 0;
    snprintf(out + start, room - (size_t)start, ".%s", ending);
}

/* The name that a file's name stands for; what no name can hold becomes a dash. */
static bool name_of_file(const char *path, char *out, size_t room)
{
    char stem[NAME_ROOM];
    const char *slash = strrchr(path, '/');
    snprintf(stem, sizeof stem, "%s", slash ? slash + 1 : path);
    char *dot = strrchr(stem, '.');
    if (dot)
        *dot = 0;
    /* Of a split model the first file counts. */
    size_t length = strlen(stem);
    if (length > 15 && stem[length - 15] == '-' && strncmp(stem + length - 9, "-of-", 4) == 0) {
        if (strncmp(stem + length - 15, "-00001", 6) != 0)
            return false;
        stem[length - 15] = 0;
    }
    for (char *c = stem; *c; c++) {
        if (*c == '@')
            *c = ':';
        else if (*c == '+')
            *c = '/';
        else if (!is_letter_or_digit(*c) && *c != '_' && *c != '-' && *c != '.')
            *c = '-';
    }
    return model_name_complete(stem, out, room);
}

void model_entry_free(struct model_entry *entry)
{
    memory_free(entry->name);
    memory_free(entry->path);
    json_decref(entry->manifest);
    *entry = (struct model_entry){0};
}

hypura_status model_entry_copy(struct model_entry *out, const struct model_entry *entry, hypura_error *error)
{
    struct model_entry copy = *entry;
    copy.name = copy.path = NULL;
    copy.manifest = json_incref(entry->manifest);
    hypura_status status = string_copy(&copy.name, entry->name, error);
    if (!status)
        status = string_copy(&copy.path, entry->path, error);
    if (status)
        model_entry_free(&copy);
    else
        *out = copy;
    return status;
}

/* Of what changes when a file does: a second is long enough to replace one twice. */
static void add_stamp(uint64_t *stamp, const struct stat *info)
{
#ifdef __APPLE__
    const struct timespec *modified = &info->st_mtimespec;
#else
    const struct timespec *modified = &info->st_mtim;
#endif
    const uint64_t parts[] = {(uint64_t)info->st_dev, (uint64_t)info->st_ino, (uint64_t)info->st_size,
                              (uint64_t)modified->tv_sec, (uint64_t)modified->tv_nsec};
    *stamp = fnv1a(*stamp, parts, sizeof parts);
}

/* All files of a split model, by their names alone. */
static bool look_at_files(struct model_entry *entry, const char *path)
{
    struct stat info;
    char part[PATH_MAX];
    if (stat(path, &info) || !S_ISREG(info.st_mode))
        return false;
    entry->bytes = (uint64_t)info.st_size;
    entry->modified = (int64_t)info.st_mtime;
    entry->stamp = FNV1A_START;
    add_stamp(&entry->stamp, &info);
    const char *of = strstr(path, "-00001-of-");
    if (!of)
        return true;
    long count = strtol(of + 10, NULL, 10);
    for (long i = 2; i <= MIN(count, 9999L); i++) {
        snprintf(part, sizeof part, "%.*s-%05ld%s", (int)(of - path), path, i, of + 6);
        if (stat(part, &info))
            continue;
        entry->bytes += (uint64_t)info.st_size;
        add_stamp(&entry->stamp, &info);
    }
    return true;
}

bool model_entry_is_current(const struct model_entry *entry)
{
    struct model_entry now = {0};
    return look_at_files(&now, entry->path) && now.stamp == entry->stamp;
}

static hypura_status make_entry(struct model_entry *out, const char *name, const char *path, json_t *manifest,
                                bool in_folder, hypura_error *error)
{
    struct model_entry entry = {.in_folder = in_folder, .manifest = json_incref(manifest)};
    hypura_status status = HYPURA_OK;
    if (!look_at_files(&entry, path))
        status = error_set(error, HYPURA_ERROR_IO, "the file of model '%s' is gone: %s", name, path);
    if (!status)
        status = string_copy(&entry.name, name, error);
    if (!status)
        status = string_copy(&entry.path, path, error);
    if (status)
        model_entry_free(&entry);
    else
        *out = entry;
    return status;
}

/* A model of the folder by its complete name. */
static hypura_status find_in_folder(const struct registry *registry, const char *name, struct model_entry *out,
                                    hypura_error *error)
{
    char path[PATH_MAX], file[PATH_MAX];
    struct stat info;
    registry_path(registry, name, "json", path, sizeof path);
    json_t *manifest = json_load_file(path, 0, NULL);
    registry_path(registry, name, "gguf", file, sizeof file);
    const char *elsewhere = json_string_value(json_object_get(manifest, "file"));
    if (elsewhere)
        snprintf(file, sizeof file, "%s", elsewhere);
    hypura_status status = stat(file, &info) ? error_set(error, HYPURA_ERROR_IO, "model '%s' not found", name)
                                             : make_entry(out, name, file, manifest, true, error);
    json_decref(manifest);
    return status;
}

struct entries {
    struct model_entry *items;
    size_t count;
};

static bool add_entry(struct entries *entries, const struct model_entry *entry)
{
    if (memory_resize((void **)&entries->items, entries->count, entries->count + 1, sizeof *entries->items, "models",
                      NULL))
        return false;
    entries->items[entries->count++] = *entry;
    return true;
}

static bool has_entry(const struct entries *entries, const char *name)
{
    for (size_t i = 0; i < entries->count; i++) {
        if (strcmp(entries->items[i].name, name) == 0)
            return true;
    }
    return false;
}

static void add_folder(const struct registry *registry, struct entries *entries)
{
    DIR *folder = opendir(registry->folder);
    if (!folder)
        return;
    for (struct dirent *file; (file = readdir(folder));) {
        struct model_entry entry;
        char name[NAME_ROOM], path[PATH_MAX];
        bool model = ends_with(file->d_name, ".gguf"), manifest = ends_with(file->d_name, ".json");
        if (file->d_name[0] == '.' || (!model && !manifest) || !name_of_file(file->d_name, name, sizeof name) ||
            has_entry(entries, name))
            continue;
        snprintf(path, sizeof path, "%s/%s", registry->folder, file->d_name);
        if (find_in_folder(registry, name, &entry, NULL) &&
            (!model || make_entry(&entry, name, path, NULL, true, NULL)))
            continue;
        if (!add_entry(entries, &entry))
            model_entry_free(&entry);
    }
    closedir(folder);
}

static void list_entries(const struct registry *registry, struct entries *entries)
{
    for (size_t i = 0; i < registry->file_count; i++) {
        struct model_entry entry;
        char name[NAME_ROOM];
        if (name_of_file(registry->files[i], name, sizeof name) && !has_entry(entries, name) &&
            !make_entry(&entry, name, registry->files[i], NULL, false, NULL) && !add_entry(entries, &entry))
            model_entry_free(&entry);
    }
    add_folder(registry, entries);
}

static void free_entries(struct entries *entries)
{
    for (size_t i = 0; i < entries->count; i++)
        model_entry_free(&entries->items[i]);
    memory_free(entries->items);
}

const char *model_name_short(const char *name)
{
    static const char *const places[] = {"registry.ollama.ai/", "library/"};
    for (size_t i = 0; i < COUNT_OF(places); i++) {
        if (strncmp(name, places[i], strlen(places[i])) == 0)
            name += strlen(places[i]);
    }
    return name;
}

/* SIZE_MAX: none. An empty name is any. */
static size_t look_for(const struct entries *entries, const char *name)
{
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < entries->count; i++) {
            const char *own = entries->items[i].name;
            if (!*name || (pass ? strcasecmp(own, name) : strcmp(own, name)) == 0)
                return i;
        }
    }
    return SIZE_MAX;
}

hypura_status registry_find(struct registry *registry, const char *name, struct model_entry *out, hypura_error *error)
{
    char complete[NAME_ROOM] = "", plain[NAME_ROOM] = "";
    struct entries entries = {0};
    hypura_status status = HYPURA_OK;
    if (name && *name &&
        !(model_name_complete(name, complete, sizeof complete) &&
          model_name_complete(model_name_short(name), plain, sizeof plain)))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "invalid model name");
    pthread_mutex_lock(&registry->mutex);
    list_entries(registry, &entries);
    size_t found = look_for(&entries, complete);
    if (found == SIZE_MAX)
        found = look_for(&entries, plain);
    if (found == SIZE_MAX) {
        status = error_set(error, HYPURA_ERROR_IO, "model '%s' not found", name && *name ? name : "");
    } else {
        *out = entries.items[found];
        entries.items[found] = (struct model_entry){0};
    }
    free_entries(&entries);
    pthread_mutex_unlock(&registry->mutex);
    return status;
}

hypura_status registry_file(struct registry *registry, const char *name, char *path, size_t room, hypura_error *error)
{
    struct model_entry entry;
    hypura_status status = registry_find(registry, name, &entry, error);
    if (status)
        return status;
    if (snprintf(path, room, "%s", entry.path) >= (int)room)
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "the path of model '%s' is too long", name);
    model_entry_free(&entry);
    return status;
}

static int newest_first(const void *a, const void *b)
{
    const struct model_entry *left = a, *right = b;
    if (left->modified != right->modified)
        return left->modified < right->modified ? 1 : -1;
    return strcmp(left->name, right->name);
}

json_t *registry_tags(struct registry *registry)
{
    struct entries entries = {0};
    pthread_mutex_lock(&registry->mutex);
    list_entries(registry, &entries);
    pthread_mutex_unlock(&registry->mutex);
    if (entries.count)
        qsort(entries.items, entries.count, sizeof *entries.items, newest_first);
    json_t *models = json_array();
    for (size_t i = 0; i < entries.count; i++)
        json_array_append_new(models, model_tags_entry(&entries.items[i]));
    free_entries(&entries);
    return json_pack("{s:o}", "models", models);
}

hypura_status registry_make_folder(struct registry *registry, hypura_error *error)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", registry->folder);
    for (char *c = path + 1; *c; c++) {
        if (*c != '/')
            continue;
        *c = 0;
        mkdir(path, 0755);
        *c = '/';
    }
    if (mkdir(path, 0755) && errno != EEXIST)
        return error_set_errno(error, errno, "cannot make the model folder %s", path);
    return HYPURA_OK;
}

hypura_status registry_write_manifest(const char *path, const json_t *manifest, hypura_error *error)
{
    char partial[PATH_MAX];
    if (snprintf(partial, sizeof partial, "%s.partial", path) >= (int)sizeof partial)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path %s is too long", path);
    if (json_dump_file(manifest, partial, JSON_INDENT(2)) || rename(partial, path)) {
        int number = errno;
        unlink(partial);
        return error_set_errno(error, number, "cannot write %s", path);
    }
    return HYPURA_OK;
}

/* With the mutex held: an adapter that came with a model goes with the last model that names it. */
static void forget_adapter(const struct registry *registry, const json_t *manifest)
{
    const char *adapter = json_string_value(json_object_get(manifest, "adapter"));
    char path[PATH_MAX];
    if (!adapter || strlen(adapter) != sizeof "sha256-.gguf" - 1 + 64 || strncmp(adapter, "sha256-", 7) != 0)
        return;
    bool used = false;
    DIR *folder = opendir(registry->folder);
    for (struct dirent *file; folder && !used && (file = readdir(folder));) {
        if (!ends_with(file->d_name, ".json") ||
            snprintf(path, sizeof path, "%s/%s", registry->folder, file->d_name) >= (int)sizeof path)
            continue;
        json_t *other = json_load_file(path, 0, NULL);
        const char *named = json_string_value(json_object_get(other, "adapter"));
        used = named && strcmp(named, adapter) == 0;
        json_decref(other);
    }
    if (folder)
        closedir(folder);
    if (folder && !used && registry_adapter(registry, adapter, path, sizeof path))
        unlink(path);
}

hypura_status registry_create(struct registry *registry, const char *name, const struct model_entry *from,
                              const json_t *manifest, hypura_error *error)
{
    char complete[NAME_ROOM], file[PATH_MAX], next[PATH_MAX], description[PATH_MAX], real[PATH_MAX];
    if (!model_name_complete(model_name_short(name), complete, sizeof complete))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "invalid model name");
    hypura_status status = registry_make_folder(registry, error);
    if (status)
        return status;
    registry_path(registry, complete, "gguf", file, sizeof file);
    registry_path(registry, complete, "gguf.new", next, sizeof next);
    registry_path(registry, complete, "json", description, sizeof description);
    if (!realpath(from->path, real))
        return error_set_errno(error, errno, "cannot find %s", from->path);
    json_t *full = manifest ? json_deep_copy(manifest) : json_object();
    pthread_mutex_lock(&registry->mutex);
    /* A second name for the same bytes: deleting one leaves the other. Files of a split model know each other by their
     * names, and a folder on another drive takes no link: then the manifest says where the file is. */
    struct stat old, source;
    bool same =
        stat(file, &old) == 0 && stat(real, &source) == 0 && old.st_ino == source.st_ino && old.st_dev == source.st_dev;
    /* What had the name stays until all of what replaces it is on the drive. */
    bool linked = false;
    if (!same) {
        unlink(next);
        linked = !strstr(real, "-00001-of-") && link(real, next) == 0;
        if (!linked)
            json_object_set_new(full, "file", json_string(real));
    }
    json_t *before = json_load_file(description, 0, NULL);
    status = registry_write_manifest(description, full, error);
    if (!status && linked && rename(next, file))
        status = error_set_errno(error, errno, "cannot put %s in place", file);
    else if (!status && !same && !linked)
        unlink(file);
    if (!status)
        forget_adapter(registry, before);
    else if (linked)
        unlink(next);
    pthread_mutex_unlock(&registry->mutex);
    json_decref(before);
    json_decref(full);
    return status;
}

hypura_status registry_copy(struct registry *registry, const char *from, const char *to, hypura_error *error)
{
    struct model_entry entry;
    hypura_status status = registry_find(registry, from, &entry, error);
    if (status)
        return status;
    status = registry_create(registry, to, &entry, entry.manifest, error);
    model_entry_free(&entry);
    return status;
}

hypura_status registry_delete(struct registry *registry, const char *name, hypura_error *error)
{
    struct model_entry entry;
    char path[PATH_MAX];
    hypura_status status = registry_find(registry, name, &entry, error);
    if (status)
        return status;
    if (!entry.in_folder) {
        status = error_set(error, HYPURA_ERROR_ARGUMENT,
                           "model '%s' is not in the model folder, and what is elsewhere is not deleted", entry.name);
        model_entry_free(&entry);
        return status;
    }
    pthread_mutex_lock(&registry->mutex);
    bool elsewhere = json_object_get(entry.manifest, "file") != NULL;
    /* The file that it was found as, unless the manifest points out of the folder. */
    if (!elsewhere && unlink(entry.path))
        status = error_set_errno(error, errno, "cannot delete %s", entry.path);
    const char *of = elsewhere ? NULL : strstr(entry.path, "-00001-of-");
    for (long i = 2; of && i <= MIN(strtol(of + 10, NULL, 10), 9999L); i++) {
        snprintf(path, sizeof path, "%.*s-%05ld%s", (int)(of - entry.path), entry.path, i, of + 6);
        unlink(path);
    }
    registry_path(registry, entry.name, "json", path, sizeof path);
    unlink(path);
    forget_adapter(registry, entry.manifest);
    pthread_mutex_unlock(&registry->mutex);
    model_entry_free(&entry);
    return status;
}

bool registry_adapter(const struct registry *registry, const char *name, char *out, size_t room)
{
    int length = snprintf(out, room, "%s/adapters/%s", registry->folder, name);
    return length > 0 && (size_t)length < room;
}

const char *registry_folder(const struct registry *registry)
{
    return registry->folder;
}

hypura_status registry_open(struct registry **out, const char *folder, const char *const *files, size_t count,
                            hypura_error *error)
{
    struct registry *registry;
    hypura_status status = ALLOCATE(&registry, 1, "model registry", error);
    if (status)
        return status;
    pthread_mutex_init(&registry->mutex, NULL);
    status = string_copy(&registry->folder, folder, error);
    if (!status)
        status = ALLOCATE(&registry->files, count, "model list", error);
    for (size_t i = 0; !status && i < count; i++) {
        status = string_copy(&registry->files[i], files[i], error);
        registry->file_count += status == HYPURA_OK;
    }
    if (status)
        registry_close(registry);
    else
        *out = registry;
    return status;
}

void registry_close(struct registry *registry)
{
    if (!registry)
        return;
    for (size_t i = 0; i < registry->file_count; i++)
        memory_free(registry->files[i]);
    memory_free(registry->files);
    memory_free(registry->folder);
    pthread_mutex_destroy(&registry->mutex);
    memory_free(registry);
}

hypura_status model_folder_default(char *path, size_t room, hypura_error *error)
{
    const char *chosen = getenv("HYPURA_MODELS"), *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    int length = -1;
    if (chosen && *chosen)
        length = snprintf(path, room, "%s", chosen);
    else if (data && *data)
        length = snprintf(path, room, "%s/hypura/models", data);
    else if (home && *home)
        length = snprintf(path, room, "%s/.local/share/hypura/models", home);
    if (length <= 0 || (size_t)length >= room)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "there is no home for the model folder: give --models DIR or set HYPURA_MODELS");
    return HYPURA_OK;
}
