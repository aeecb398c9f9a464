/* Lists the folder's files, locks it for writing, and makes room for more. */
#include "core/durable.h"
#include "prefix/prefix_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __APPLE__
#define st_mtim st_mtimespec
#endif

/* How long to wait for another process that writes. */
#define LOCK_TRIES 20
#define LOCK_PAUSE_NANOSECONDS 10000000

struct found {
    char name[FILE_NAME];
    uint64_t bytes;
    struct timespec used;
};

struct founds {
    struct found *items;
    size_t count, room;
};

hypura_status drive_open(struct drive *drive, const struct prefix_options *options, hypura_error *error)
{
    drive->digest = options->digest;
    drive->block = options->block;
    drive->limit = options->folder_bytes ? options->folder_bytes : PREFIX_FOLDER_BYTES;
    if (snprintf(drive->folder, sizeof drive->folder, "%s", options->folder) >= (int)sizeof drive->folder)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path of the prefix cache is too long: %.200s...",
                         options->folder);
    /* Only the owner may read what people wrote. */
    if (mkdir(drive->folder, 0700) && errno == ENOENT) {
        TRY(durable_make_folder(drive->folder, error));
        if (chmod(drive->folder, 0700))
            return error_set_errno(error, errno, "cannot protect the folder %s", drive->folder);
    }
    struct stat info;
    if (stat(drive->folder, &info))
        return error_set_errno(error, errno, "cannot make the folder %s of the prefix cache", drive->folder);
    if (!S_ISDIR(info.st_mode) || access(drive->folder, R_OK | W_OK | X_OK))
        return error_set(error, HYPURA_ERROR_IO, "the prefix cache cannot use %s: it is not a writable folder",
                         drive->folder);
    return HYPURA_OK;
}

void drive_close(struct drive *drive)
{
    while (drive->files) {
        struct drive_file *file = drive->files;
        drive->files = file->next;
        memory_free(file);
    }
}

bool drive_changed(const struct drive *drive)
{
    struct stat info;
    return stat(drive->folder, &info) == 0 &&
           (info.st_mtim.tv_sec != drive->changed.tv_sec || info.st_mtim.tv_nsec != drive->changed.tv_nsec);
}

/* ---- scanning ------------------------------------------------------------------------------------------------------
 */

static void list(struct founds *out, const struct drive *drive, const char *ending)
{
    DIR *folder = opendir(drive->folder);
    const struct dirent *entry;
    while (folder && (entry = readdir(folder))) {
        struct stat info;
        if (!text_has_ending(entry->d_name, ending) || strlen(entry->d_name) >= FILE_NAME ||
            fstatat(dirfd(folder), entry->d_name, &info, AT_SYMLINK_NOFOLLOW) || !S_ISREG(info.st_mode))
            continue;
        if (out->count == out->room) {
            size_t room = out->room ? 2 * out->room : 64;
            if (memory_resize((void **)&out->items, out->room, room, sizeof *out->items, "list of files", UNTOLD))
                break;
            out->room = room;
        }
        struct found *found = &out->items[out->count++];
        *found = (struct found){.bytes = (uint64_t)info.st_size, .used = info.st_mtim};
        memcpy(found->name, entry->d_name, strlen(entry->d_name) + 1);
    }
    if (folder)
        closedir(folder);
}

static int longest_unused_first(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->used.tv_sec != y->used.tv_sec)
        return x->used.tv_sec < y->used.tv_sec ? -1 : 1;
    if (x->used.tv_nsec != y->used.tv_nsec)
        return x->used.tv_nsec < y->used.tv_nsec ? -1 : 1;
    return strcmp(x->name, y->name);
}

static struct drive_file *known(const struct drive *drive, const char *name)
{
    struct drive_file *file = drive->files;
    while (file && strcmp(file->name, name) != 0)
        file = file->next;
    return file;
}

static bool is_ours(const struct drive *drive, const char *name)
{
    char digest[18];
    snprintf(digest, sizeof digest, "%016llx-", (unsigned long long)drive->digest);
    return strncmp(name, digest, sizeof digest - 1) == 0;
}

static bool take_in(struct drive *drive, const struct found *found,
                    bool (*add)(void *context, struct drive_file *file, const struct contents *contents), void *context)
{
    struct contents contents;
    struct drive_file *file;
    uint64_t bytes;
    if (drive_read_contents(drive, found->name, &contents, &bytes, NULL))
        return true; /* another version, or damaged: removed when it is the least recently used */
    bool more = ALLOCATE(&file, 1, "file of a prefix", UNTOLD) == HYPURA_OK;
    if (more) {
        memcpy(file->name, found->name, sizeof file->name);
        file->bytes = bytes;
        file->found = true;
        file->next = drive->files;
        drive->files = file;
        more = add(context, file, &contents);
    }
    contents_free(&contents);
    return more;
}

void drive_scan(struct drive *drive,
                bool (*add)(void *context, struct drive_file *file, const struct contents *contents), void *context)
{
    struct founds founds = {0};
    struct stat info;
    if (stat(drive->folder, &info) == 0)
        drive->changed = info.st_mtim; /* before the listing: files that appear later are a change */
    list(&founds, drive, ".prefix");
    if (founds.count)
        qsort(founds.items, founds.count, sizeof *founds.items, longest_unused_first);
    for (struct drive_file *file = drive->files; file; file = file->next)
        file->found = false;
    drive->bytes = 0;
    bool more = true;
    for (size_t i = founds.count; i-- > 0;) {
        struct drive_file *file = known(drive, founds.items[i].name);
        drive->bytes += founds.items[i].bytes;
        if (file)
            file->found = true;
        else if (more && is_ours(drive, founds.items[i].name))
            more = take_in(drive, &founds.items[i], add, context);
    }
    for (struct drive_file *file = drive->files; file; file = file->next)
        file->gone |= !file->found;
    memory_free(founds.items);
}

/* ---- room for more -------------------------------------------------------------------------------------------------
 */

int drive_lock(const struct drive *drive)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/lock", drive->folder);
    int lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    for (int i = 0; lock >= 0 && i < LOCK_TRIES; i++) {
        if (flock(lock, LOCK_EX | LOCK_NB) == 0)
            return lock;
        nanosleep(&(struct timespec){0, LOCK_PAUSE_NANOSECONDS}, NULL);
    }
    if (lock >= 0)
        close(lock);
    return -1;
}

void drive_unlock(int lock)
{
    close(lock);
}

static void remove_file(struct drive *drive, const char *name)
{
    char path[PATH_MAX];
    struct drive_file *file = known(drive, name);
    if (file)
        file->gone = true;
    if (snprintf(path, sizeof path, "%s/%s", drive->folder, name) < (int)sizeof path)
        unlink(path);
}

bool drive_make_room(struct drive *drive, uint64_t bytes)
{
    struct founds partial = {0}, founds = {0};
    uint64_t taken = 0;
    list(&partial, drive, ".partial");
    for (size_t i = 0; i < partial.count; i++)
        remove_file(drive, partial.items[i].name);
    memory_free(partial.items);
    list(&founds, drive, ".prefix");
    if (founds.count)
        qsort(founds.items, founds.count, sizeof *founds.items, longest_unused_first);
    for (size_t i = 0; i < founds.count; i++)
        taken += founds.items[i].bytes;
    for (size_t i = 0; i < founds.count && bytes <= drive->limit && taken > drive->limit - bytes; i++) {
        remove_file(drive, founds.items[i].name);
        taken -= founds.items[i].bytes;
    }
    drive->bytes = taken;
    memory_free(founds.items);
    return bytes <= drive->limit && taken <= drive->limit - bytes;
}
