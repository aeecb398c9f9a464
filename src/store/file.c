#include "store/file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_direct(const char *path)
{
    struct storage storage;
    if (hardware_detect_storage(&storage, path, NULL) || !storage.direct_supported)
        return -1;
#ifdef O_DIRECT
    return open(path, O_RDONLY | O_CLOEXEC | O_DIRECT);
#else
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
#ifdef F_NOCACHE
    if (descriptor >= 0) {
        fcntl(descriptor, F_NOCACHE, 1);
        fcntl(descriptor, F_RDAHEAD, 0);
    }
#endif
    return descriptor;
#endif
}

static struct timespec modified(const struct stat *status)
{
#ifdef __APPLE__
    return status->st_mtimespec;
#else
    return status->st_mtim;
#endif
}

hypura_status store_file_open(struct store_file *file, const char *path, bool allow_buffered, hypura_error *error)
{
    struct store_file opened = {.descriptor = open_direct(path), .direct = true};
    if (opened.descriptor < 0) {
        opened.direct = false;
        opened.descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (opened.descriptor < 0)
            return error_set_errno(error, errno, "cannot open %s", path);
        if (!allow_buffered) {
            close(opened.descriptor);
            return error_set(error, HYPURA_ERROR_UNSUPPORTED, "the file system of %s does not support direct I/O",
                             path);
        }
#ifdef POSIX_FADV_RANDOM
        /* Read-ahead would leave pages in the cache that are never dropped. */
        posix_fadvise(opened.descriptor, 0, 0, POSIX_FADV_RANDOM);
#endif
        log_write(LOG_WARNING,
                  "the file system of %s does not support direct I/O: weights are read through the page cache, and "
                  "dropped from it afterwards",
                  path);
    }
    struct stat status;
    if (fstat(opened.descriptor, &status) != 0) {
        hypura_status failed = error_set_errno(error, errno, "cannot find the size of %s", path);
        close(opened.descriptor);
        return failed;
    }
    if (!S_ISREG(status.st_mode)) {
        close(opened.descriptor);
        return error_set(error, HYPURA_ERROR_IO, "%s is not a regular file", path);
    }
    opened.bytes = (uint64_t)status.st_size;
    opened.modified = modified(&status);
    hypura_status failed = string_copy(&opened.path, path, error);
    if (failed) {
        close(opened.descriptor);
        return failed;
    }
    *file = opened;
    return HYPURA_OK;
}

void store_file_close(struct store_file *file)
{
    if (file->path)
        close(file->descriptor);
    memory_free(file->path);
    file->path = NULL;
}

bool store_file_changed(const struct store_file *file)
{
    struct stat status;
    if (fstat(file->descriptor, &status) != 0)
        return false; /* reading will return the error */
    struct timespec now = modified(&status);
    return (uint64_t)status.st_size != file->bytes || now.tv_sec != file->modified.tv_sec ||
           now.tv_nsec != file->modified.tv_nsec;
}
