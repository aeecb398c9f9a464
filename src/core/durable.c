#include "core/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int bring(int file)
{
#ifdef F_FULLFSYNC /* macOS: fsync does not flush the drive's own cache */
    if (fcntl(file, F_FULLFSYNC) == 0)
        return 0;
#endif
    return fsync(file);
}

hypura_status durable_file(int file, const char *path, hypura_error *error)
{
    return bring(file) ? error_set_errno(error, errno, "cannot write %s", path) : HYPURA_OK;
}

hypura_status durable_folder(const char *folder, hypura_error *error)
{
    int opened = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    /* Some file systems cannot flush a folder, and keep its names consistent without that. */
    bool fine = opened >= 0 && (bring(opened) == 0 || errno == EINVAL || errno == ENOTSUP || errno == EBADF);
    int number = errno;
    if (opened >= 0)
        close(opened);
    return fine ? HYPURA_OK : error_set_errno(error, number, "cannot write the folder %s", folder);
}

hypura_status durable_may_replace(const char *path, hypura_error *error)
{
    struct stat info;
    if (stat(path, &info) || S_ISREG(info.st_mode))
        return HYPURA_OK;
    return error_set(error, HYPURA_ERROR_ARGUMENT, "%.300s is not a regular file: it will not be replaced", path);
}

/* Writes the folder part of a path. It ends in "/" only if it is the root; "." if there is no slash. */
static void folder_of(const char *path, char *out, size_t room)
{
    const char *slash = strrchr(path, '/');
    snprintf(out, room, "%.*s", slash && slash > path ? (int)(slash - path) : 1, slash ? path : ".");
}

hypura_status durable_folder_of(const char *path, hypura_error *error)
{
    char folder[PATH_MAX];
    folder_of(path, folder, sizeof folder);
    return durable_folder(folder, error);
}

static bool write_all(int file, const char *data, size_t size)
{
    while (size) {
        ssize_t written = write(file, data, size);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return false;
        data += written;
        size -= (size_t)written;
    }
    return true;
}

hypura_status durable_write(const char *path, const void *data, size_t size, bool *replaced, hypura_error *error)
{
    char partial[PATH_MAX];
    if (replaced)
        *replaced = false;
    if (snprintf(partial, sizeof partial, "%s.partial", path) >= (int)sizeof partial)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path %s is too long", path);
    if (durable_may_replace(path, error))
        return HYPURA_ERROR_ARGUMENT;
    int file = open(partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool fine = file >= 0 && write_all(file, data, size) && bring(file) == 0;
    int number = errno;
    if (file >= 0 && close(file) && fine) {
        number = errno;
        fine = false;
    }
    if (fine && rename(partial, path)) {
        number = errno;
        fine = false;
    }
    if (!fine) {
        unlink(partial);
        return error_set_errno(error, number, "cannot write %s", path);
    }
    if (replaced)
        *replaced = true;
    return durable_folder_of(path, error);
}

hypura_status durable_make_folder(const char *folder, hypura_error *error)
{
    char path[PATH_MAX], above[PATH_MAX];
    if (snprintf(path, sizeof path, "%s", folder) >= (int)sizeof path)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path of a folder is too long: %.200s...", folder);
    for (char *c = path + 1;; c++) {
        char kept = *c;
        if (kept && kept != '/')
            continue;
        *c = 0;
        if (mkdir(path, 0755) == 0) {
            folder_of(path, above, sizeof above);
            durable_folder(above, NULL); /* fails if that folder may not be read: not an error here */
        } else if (!kept && errno != EEXIST) {
            return error_set_errno(error, errno, "cannot create the folder %s", path);
        }
        *c = kept;
        if (!kept)
            return HYPURA_OK;
    }
}
