#include "store/io.h"

#include "hw/hw.h"

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
            return error_set(error, HYPURA_ERROR_UNSUPPORTED, "the file system of %s does no direct I/O", path);
        }
#ifdef POSIX_FADV_RANDOM
        /* Read-ahead would bring pages that nobody drops again. */
        posix_fadvise(opened.descriptor, 0, 0, POSIX_FADV_RANDOM);
#endif
        log_write(
            LOG_WARNING,
            "the file system of %s does no direct I/O: weights pass through the page cache and are dropped behind",
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
        return false; /* reading will say what is wrong */
    struct timespec now = modified(&status);
    return (uint64_t)status.st_size != file->bytes || now.tv_sec != file->modified.tv_sec ||
           now.tv_nsec != file->modified.tv_nsec;
}

/* ---- layout ------------------------------------------------------------------------------------------------------ */

void unit_layout_make(struct unit_layout *out, const struct unit *unit)
{
    uint32_t order[UNIT_MAX_SLICES];
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        uint32_t at = i;
        for (; at > 0; at--) {
            const struct unit_slice *before = &unit->slices[order[at - 1]], *slice = &unit->slices[i];
            if (before->file < slice->file || (before->file == slice->file && before->offset <= slice->offset))
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    struct unit_layout layout = {0};
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct unit_slice *slice = &unit->slices[order[i]];
        uint64_t start = align_down(slice->offset, IO_ALIGNMENT);
        uint64_t end = align_up(slice->offset + slice->bytes, IO_ALIGNMENT);
        struct segment *last = layout.segment_count ? &layout.segments[layout.segment_count - 1] : NULL;
        if (!last || last->file != slice->file || last->offset + last->bytes < start) {
            last = &layout.segments[layout.segment_count++];
            *last = (struct segment){.file = slice->file, .offset = start, .bytes = end - start};
            layout.footprint += end - start;
        } else if (end > last->offset + last->bytes) {
            layout.footprint += end - last->offset - last->bytes;
            last->bytes = end - last->offset;
        }
        last->needed = MAX(last->needed, slice->offset + slice->bytes - last->offset);
        layout.slice_position[order[i]] = layout.footprint - last->bytes + (slice->offset - last->offset);
    }
    *out = layout;
}

hypura_status failure_error(const struct failure *failure, const struct store_file *files, hypura_error *error)
{
    const char *path = files[failure->file].path;
    if (failure->kind == FAILURE_TRUNCATED)
        return error_set(error, HYPURA_ERROR_IO,
                         "%s has become shorter: %llu bytes were expected at offset %llu, %llu are there", path,
                         (unsigned long long)failure->expected, (unsigned long long)failure->offset,
                         (unsigned long long)failure->found);
    return error_set_errno(error, failure->number, "cannot read %llu bytes at offset %llu of %s",
                           (unsigned long long)failure->expected, (unsigned long long)failure->offset, path);
}
