#include "tools/sources.h"

#include "core/core.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <unistd.h>

#ifdef __APPLE__
#define MODIFIED st_mtimespec
#else
#define MODIFIED st_mtim
#endif

struct sources {
    const struct gguf *file;
    size_t count;
    struct source {
        int descriptor;
        struct stat info;
    } * files;
};

hypura_status sources_open(struct sources **out, const struct gguf *file, hypura_error *error)
{
    struct sources *sources;
    hypura_status status = ALLOCATE(&sources, 1, "table of files", error);
    if (status)
        return status;
    sources->file = file;
    status = ALLOCATE(&sources->files, gguf_file_count(file), "table of files", error);
    for (; !status && sources->count < gguf_file_count(file); sources->count++) {
        const char *path = gguf_file_path(file, sources->count);
        struct source *source = &sources->files[sources->count];
        source->descriptor = open(path, O_RDONLY | O_CLOEXEC);
        if (source->descriptor < 0 || fstat(source->descriptor, &source->info))
            status = error_set_errno(error, errno, "cannot open %.200s", path);
        else if ((uint64_t)source->info.st_size != gguf_file_bytes(file, sources->count))
            status = error_set(error, HYPURA_ERROR_IO, "%.200s changed while it was opened", path);
#ifdef POSIX_FADV_SEQUENTIAL
        if (!status)
            posix_fadvise(source->descriptor, 0, 0, POSIX_FADV_SEQUENTIAL);
#endif
    }
    if (status)
        sources_close(sources);
    else
        *out = sources;
    return status;
}

void sources_close(struct sources *sources)
{
    if (!sources)
        return;
    for (size_t i = 0; i < sources->count; i++)
        if (sources->files[i].descriptor >= 0)
            close(sources->files[i].descriptor);
    memory_free(sources->files);
    memory_free(sources);
}

hypura_status sources_read_exactly(int file, const char *path, uint64_t offset, uint8_t *out, uint64_t bytes,
                                   hypura_error *error)
{
    while (bytes) {
        ssize_t done = pread(file, out, (size_t)bytes, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return error_set_errno(error, errno, "cannot read %.200s at byte %" PRIu64, path, offset);
        if (done == 0)
            return error_set(error, HYPURA_ERROR_IO, "%.200s ends at byte %" PRIu64 ", before its tensors do", path,
                             offset);
        out += done;
        offset += (uint64_t)done;
        bytes -= (uint64_t)done;
    }
    return HYPURA_OK;
}

hypura_status sources_read(const struct sources *sources, uint32_t file, uint64_t offset, uint8_t *out, uint64_t bytes,
                           hypura_error *error)
{
    return sources_read_exactly(sources->files[file].descriptor, gguf_file_path(sources->file, file), offset, out,
                                bytes, error);
}

void sources_drop(const struct sources *sources, uint32_t file, uint64_t offset, uint64_t bytes)
{
#ifdef POSIX_FADV_DONTNEED
    if (bytes) /* 0 would mean the rest of the file */
        posix_fadvise(sources->files[file].descriptor, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
#else
    (void)sources, (void)file, (void)offset, (void)bytes;
#endif
}

hypura_status sources_check(const struct sources *sources, hypura_error *error)
{
    for (size_t i = 0; i < sources->count; i++) {
        const struct stat *then = &sources->files[i].info;
        struct stat now;
        if (fstat(sources->files[i].descriptor, &now))
            return error_set_errno(error, errno, "cannot read %.200s", gguf_file_path(sources->file, i));
        if (now.st_size != then->st_size || now.MODIFIED.tv_sec != then->MODIFIED.tv_sec ||
            now.MODIFIED.tv_nsec != then->MODIFIED.tv_nsec)
            return error_set(error, HYPURA_ERROR_ARGUMENT,
                             "%.200s changed while it was read; the unfinished result was removed: start again",
                             gguf_file_path(sources->file, i));
    }
    return HYPURA_OK;
}

static uint64_t add_info(const struct stat *info, uint64_t key)
{
    uint64_t facts[] = {(uint64_t)info->st_ino, (uint64_t)info->st_size, (uint64_t)info->MODIFIED.tv_sec,
                        (uint64_t)info->MODIFIED.tv_nsec};
    return fnv1a(key, facts, sizeof facts);
}

uint64_t sources_key(const struct sources *sources, uint64_t key)
{
    for (size_t i = 0; i < sources->count; i++)
        key = add_info(&sources->files[i].info, key);
    return key;
}

uint64_t sources_key_of_file(const char *path, uint64_t key)
{
    struct stat info;
    return stat(path, &info) ? key : add_info(&info, key);
}

bool sources_are(const struct sources *sources, const struct stat *info)
{
    for (size_t i = 0; i < sources->count; i++)
        if (info->st_dev == sources->files[i].info.st_dev && info->st_ino == sources->files[i].info.st_ino)
            return true;
    return false;
}
