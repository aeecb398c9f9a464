/* Names and files. In file names, ":" of a model's name becomes "@" and "/" becomes "+", which no model's name
 * contains. */
#include "core/json_text.h"
#include "server/registry_private.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#define MOST_TRIES 8 /* to read a model that others are replacing */

static bool is_letter_or_digit(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

/* Parts consist of letters, digits, "_", "-" and "."; none begins with a dot or a dash. */
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
    if (text_has_ending(out, "@latest"))
        out[start -= 7] = 0;
    snprintf(out + start, room - (size_t)start, ".%s", ending);
}

/* Decodes the name of a file; characters that no model's name contains become dashes. False: not a model. */
static bool name_of_file(const char *path, char *out, size_t room)
{
    char stem[NAME_ROOM];
    const char *slash = strrchr(path, '/');
    snprintf(stem, sizeof stem, "%s", slash ? slash + 1 : path);
    char *dot = strrchr(stem, '.');
    if (dot)
        *dot = 0;
    /* A split model is listed by its first file. */
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

/* Includes all that changes with a file, because it may be replaced twice within a second. */
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

/* Fills in bytes, modified and stamp of the entry, without opening files. A split model's parts are found by their
 * names. */
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

/* ---- manifests ------------------------------------------------------------------------------------------------------
 */

/* Whether it names a file in the same folder. */
static bool is_plain_name(const char *name)
{
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) < NAME_MAX;
}

/* The problem is not the file's or the folder's, so another try may succeed. */
static bool is_shortage(int number)
{
    return number == EMFILE || number == ENFILE || number == ENOMEM;
}

hypura_status manifest_read(const char *path, json_t **out, hypura_error *error)
{
    json_error_t problem;
    *out = NULL;
    FILE *file = fopen(path, "re");
    if (!file && errno == ENOENT)
        return HYPURA_OK;
    if (!file && is_shortage(errno))
        return error_set(error, HYPURA_ERROR_MEMORY, "the manifest %s cannot be read now: %s", path, strerror(errno));
    if (!file)
        return error_set(error, HYPURA_ERROR_FORMAT, "the manifest %s cannot be read: %s", path, strerror(errno));
    json_t *manifest = json_text_read_file(file, 0, &problem);
    fclose(file);
    if (!manifest && json_error_code(&problem) == json_error_out_of_memory)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the manifest %s", path);
    static const char *const names[] = {"weights", "replaces"};
    const json_t *elsewhere = json_object_get(manifest, "file");
    const char *reason = !manifest                                 ? problem.text
                         : !json_is_object(manifest)               ? "it is not an object"
                         : elsewhere && !json_is_string(elsewhere) ? "\"file\" is not a path"
                                                                   : NULL;
    for (size_t i = 0; !reason && i < COUNT_OF(names); i++) {
        const json_t *name = json_object_get(manifest, names[i]);
        if (name && !(json_is_string(name) && is_plain_name(json_string_value(name))))
            reason = "the name of one of its files is invalid";
    }
    if (!reason) {
        *out = manifest;
        return HYPURA_OK;
    }
    json_decref(manifest);
    return error_set(error, HYPURA_ERROR_FORMAT,
                     "the manifest %s cannot be read (%s): repair the file, or delete the model", path, reason);
}

bool manifest_weights(const struct registry *registry, const char *name, const json_t *manifest, char *out, size_t room)
{
    const char *weights = json_string_value(json_object_get(manifest, "weights"));
    const char *elsewhere = json_string_value(json_object_get(manifest, "file"));
    if (!weights && !elsewhere) {
        registry_path(registry, name, "gguf", out, room);
        return true;
    }
    int length = weights ? snprintf(out, room, "%s/" WEIGHTS "/%s", registry->folder, weights)
                         : snprintf(out, room, "%s", elsewhere);
    return length > 0 && (size_t)length < room;
}

/* Reads the manifest and finds the weights in their present state. */
static hypura_status look(const struct registry *registry, const char *name, json_t **manifest, char *weights,
                          size_t room, struct stat *info, hypura_error *error)
{
    char path[PATH_MAX];
    registry_path(registry, name, "json", path, sizeof path);
    hypura_status status = manifest_read(path, manifest, error);
    if (!status && (!manifest_weights(registry, name, *manifest, weights, room) || stat(weights, info)))
        status = error_set(error, HYPURA_ERROR_IO, "model '%s' not found", name);
    return status;
}

hypura_status registry_in_folder(const struct registry *registry, const char *name, struct model_entry *out,
                                 hypura_error *error)
{
    char weights[PATH_MAX];
    json_t *manifest = NULL, *before = NULL;
    struct stat info;
    hypura_status status = HYPURA_OK;
    for (int i = 0; i < MOST_TRIES; i++) {
        status = look(registry, name, &manifest, weights, sizeof weights, &info, error);
        /* The weights do not exist: perhaps the model was replaced just now, and this was the old manifest. */
        if (status != HYPURA_ERROR_IO || (i && json_equal(manifest, before)) || (i && !manifest && !before))
            break;
        json_decref(before);
        before = manifest;
        manifest = NULL;
    }
    if (!status) { /* the path replaces these keys */
        json_object_del(manifest, "weights");
        json_object_del(manifest, "file");
        json_object_del(manifest, "replaces");
        status = make_entry(out, name, weights, json_object_size(manifest) ? manifest : NULL, true, error);
    }
    json_decref(before);
    json_decref(manifest);
    return status;
}

/* ---- lists ----------------------------------------------------------------------------------------------------------
 */

struct listed {
    struct model_entry entry;
    char *problem; /* why the model cannot be used; then the entry has only a name. NULL: it can */
};

struct entries {
    struct listed *items;
    size_t count;
};

/* Takes the contents of the entry. */
static hypura_status add_entry(struct entries *entries, struct model_entry *entry, const char *problem,
                               hypura_error *error)
{
    hypura_status status = memory_resize((void **)&entries->items, entries->count, entries->count + 1,
                                         sizeof *entries->items, "models", error);
    if (!status)
        status = string_copy(&entries->items[entries->count].problem, problem, error);
    if (status)
        model_entry_free(entry);
    else
        entries->items[entries->count++].entry = *entry;
    return status;
}

static bool has_entry(const struct entries *entries, const char *name)
{
    for (size_t i = 0; i < entries->count; i++) {
        if (strcmp(entries->items[i].entry.name, name) == 0)
            return true;
    }
    return false;
}

/* Adds the model that a file of the folder stands for. Skips other files; lists a model that cannot be read with the
 * reason. */
static hypura_status add_file(const struct registry *registry, struct entries *entries, const char *file,
                              hypura_error *error)
{
    char name[NAME_ROOM], path[PATH_MAX];
    struct model_entry entry = {0};
    hypura_error problem = {0};
    bool model = text_has_ending(file, ".gguf"), manifest = text_has_ending(file, ".json");
    if (file[0] == '.' || (!model && !manifest) || !name_of_file(file, name, sizeof name) || has_entry(entries, name))
        return HYPURA_OK;
    hypura_status status = registry_in_folder(registry, name, &entry, &problem);
    if (status == HYPURA_ERROR_IO && model &&
        snprintf(path, sizeof path, "%s/%s", registry->folder, file) < (int)sizeof path)
        status = make_entry(&entry, name, path, NULL, true, &problem);
    if (!status)
        return add_entry(entries, &entry, NULL, error);
    if (status == HYPURA_ERROR_MEMORY)
        return error_set(error, status, "%s", problem.message);
    if (status != HYPURA_ERROR_FORMAT)
        return HYPURA_OK;
    status = string_copy(&entry.name, name, error);
    return status ? status : add_entry(entries, &entry, problem.message, error);
}

/* Some file systems, such as tmpfs, skip a file that is renamed while they list its folder. So a folder that has just
 * changed is listed again. */
static hypura_status scan_folder(const struct registry *registry, struct entries *entries, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    bool again = true;
    for (int i = 0; !status && again && i < MOST_TRIES; i++) {
        struct stat info;
        size_t known = entries->count;
        DIR *folder = opendir(registry->folder);
        /* The folder need not exist. But if it does and cannot be read, that is an error, not an empty list. */
        if (!folder && is_shortage(errno))
            return error_set(error, HYPURA_ERROR_MEMORY, "the model folder %s cannot be read now: %s", registry->folder,
                             strerror(errno));
        if (!folder && errno != ENOENT)
            return error_set(error, HYPURA_ERROR_FORMAT, "the model folder %s cannot be read: %s", registry->folder,
                             strerror(errno));
        for (struct dirent *file; !status && folder && (file = readdir(folder));)
            status = add_file(registry, entries, file->d_name, error);
        bool busy = folder && fstat(dirfd(folder), &info) == 0 && info.st_mtime >= time(NULL) - 1;
        again = busy && (i == 0 || entries->count > known);
        if (folder)
            closedir(folder);
    }
    return status;
}

static hypura_status list_entries(const struct registry *registry, struct entries *entries, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && i < registry->file_count; i++) {
        struct model_entry entry;
        char name[NAME_ROOM];
        if (!name_of_file(registry->files[i], name, sizeof name) || has_entry(entries, name))
            continue;
        status = make_entry(&entry, name, registry->files[i], NULL, false, error);
        if (!status)
            status = add_entry(entries, &entry, NULL, error);
        else if (status == HYPURA_ERROR_IO) /* the file is gone */
            status = HYPURA_OK;
    }
    return status ? status : scan_folder(registry, entries, error);
}

static void free_entries(struct entries *entries)
{
    for (size_t i = 0; i < entries->count; i++) {
        model_entry_free(&entries->items[i].entry);
        memory_free(entries->items[i].problem);
    }
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

/* The index of the model, preferring the exact spelling; SIZE_MAX: none. An empty name finds any. */
static size_t look_for(const struct entries *entries, const char *name)
{
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < entries->count; i++) {
            const char *own = entries->items[i].entry.name;
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
    if (name && *name &&
        !(model_name_complete(name, complete, sizeof complete) &&
          model_name_complete(model_name_short(name), plain, sizeof plain)))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "invalid model name");
    hypura_status status = list_entries(registry, &entries, error);
    size_t found = look_for(&entries, complete);
    if (found == SIZE_MAX)
        found = look_for(&entries, plain);
    if (status) {
        /* error is set */
    } else if (found == SIZE_MAX) {
        /* Perhaps it was being replaced while the folder was listed. */
        hypura_error problem = {0};
        status = *plain ? registry_in_folder(registry, plain, out, &problem) : HYPURA_ERROR_IO;
        if (status == HYPURA_ERROR_IO)
            error_set(error, status, "model '%s' not found", name && *name ? name : "");
        else if (status)
            error_set(error, status, "%s", problem.message);
    } else if (entries.items[found].problem) {
        status = error_set(error, HYPURA_ERROR_FORMAT, "%s", entries.items[found].problem);
    } else {
        *out = entries.items[found].entry;
        entries.items[found].entry = (struct model_entry){0};
    }
    free_entries(&entries);
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
    const struct model_entry *left = &((const struct listed *)a)->entry, *right = &((const struct listed *)b)->entry;
    if (left->modified != right->modified)
        return left->modified < right->modified ? 1 : -1;
    return strcmp(left->name, right->name);
}

/* Starts again if the model was replaced meanwhile, so that all fields are of the same model. */
static json_t *tags_entry(const struct registry *registry, struct model_entry *entry, hypura_error *error)
{
    for (int i = 0; i < MOST_TRIES; i++) {
        struct model_entry now;
        hypura_error problem = {0}, again = {0};
        json_t *tags = model_tags_entry(entry, &problem);
        bool final = problem.status == HYPURA_ERROR_MEMORY || !entry->in_folder || model_entry_is_current(entry);
        hypura_status status = final ? HYPURA_OK : registry_in_folder(registry, entry->name, &now, &again);
        if (final || status == HYPURA_ERROR_IO) {
            if (!tags)
                error_set(error, problem.status, "%s", problem.message);
            return tags;
        }
        json_decref(tags);
        if (status) {
            error_set(error, status, "%s", again.message);
            return NULL;
        }
        model_entry_free(entry);
        *entry = now;
    }
    return model_tags_entry(entry, error);
}

json_t *registry_tags(struct registry *registry, hypura_error *skipped, hypura_error *error)
{
    struct entries entries = {0};
    uint64_t failures = memory_failures();
    json_t *models = json_array();
    hypura_status status = list_entries(registry, &entries, error);
    if (entries.count)
        qsort(entries.items, entries.count, sizeof *entries.items, newest_first);
    for (size_t i = 0; !status && i < entries.count; i++) {
        json_t *entry = NULL;
        if (entries.items[i].problem && skipped->status)
            log_write(LOG_WARNING, "%s", entries.items[i].problem);
        else if (entries.items[i].problem)
            error_set(skipped, HYPURA_ERROR_FORMAT, "%s", entries.items[i].problem);
        else if (!(entry = tags_entry(registry, &entries.items[i].entry, error)))
            status = error->status;
        else
            json_array_append_new(models, entry);
    }
    free_entries(&entries);
    json_t *tags = json_pack("{s:o}", "models", models);
    if (!status)
        status = memory_check(failures, "list of models", error);
    if (status)
        json_decref(tags);
    return status ? NULL : tags;
}

hypura_status registry_make_folder(struct registry *registry, hypura_error *error)
{
    return durable_make_folder(registry->folder, error);
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
                         "cannot choose a model folder: give --models DIR, or set HYPURA_MODELS or HOME");
    return HYPURA_OK;
}
