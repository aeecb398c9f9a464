#include "model/parts.h"

#include "core/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define COPY_BYTES ((size_t)4 << 20)

struct tail {
    char magic[8];
    uint64_t layers, experts;
    uint64_t model_bytes; /* of the file before the list */
    uint64_t weights;
    uint64_t list; /* a digest of the digests and of this tail, without this number */
};

static const char tail_magic[] = "HYPARTS1";

static uint64_t digest_of_list(const struct tail *tail, const uint64_t *digests)
{
    uint64_t hash = fnv1a(FNV1A_START, digests, (size_t)(tail->layers * tail->experts) * sizeof *digests);
    return fnv1a(hash, tail, offsetof(struct tail, list));
}

static hypura_status read_all(int file, const char *path, uint64_t offset, void *out, size_t bytes, hypura_error *error)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t now = pread(file, (uint8_t *)out + done, bytes - done, (off_t)(offset + done));
        if (now < 0 && errno == EINTR)
            continue;
        if (now < 0)
            return error_set_errno(error, errno, "cannot read %.200s", path);
        if (now == 0)
            return error_set(error, HYPURA_ERROR_IO, "%.200s ends at byte %" PRIu64 ", too early", path, offset + done);
        done += (size_t)now;
    }
    return HYPURA_OK;
}

static hypura_status write_all(int file, const char *path, uint64_t offset, const void *data, size_t bytes,
                               hypura_error *error)
{
    for (size_t done = 0; done < bytes;) {
        ssize_t now = pwrite(file, (const uint8_t *)data + done, bytes - done, (off_t)(offset + done));
        if (now < 0 && errno == EINTR)
            continue;
        if (now < 0)
            return error_set_errno(error, errno, "cannot write %.200s", path);
        done += (size_t)now;
    }
    return HYPURA_OK;
}

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

static hypura_status read_list(struct parts *out, int file, const char *path, hypura_error *error)
{
    struct stat info;
    struct tail tail;
    if (fstat(file, &info))
        return error_set_errno(error, errno, "cannot look at %.200s", path);
    const uint64_t bytes = (uint64_t)info.st_size, list = (uint64_t)out->layers * out->experts * sizeof *out->digests;
    const bool room = bytes > list + sizeof tail;
    if (room)
        TRY(read_all(file, path, bytes - sizeof tail, &tail, sizeof tail, error));
    if (!room || memcmp(tail.magic, tail_magic, sizeof tail.magic) != 0 || tail.layers != out->layers ||
        tail.experts != out->experts || tail.model_bytes != bytes - sizeof tail - list)
        return error_set(
            error, HYPURA_ERROR_FORMAT,
            "%.200s: the list of its contents is missing at the end: the file was cut off, or copied incompletely",
            path);
    TRY(read_all(file, path, tail.model_bytes, out->digests, (size_t)list, error));
    if (digest_of_list(&tail, out->digests) != tail.list)
        return error_set(
            error, HYPURA_ERROR_FORMAT,
            "%.200s: the list of its contents is damaged: write the file again with \"hypura inspect --parts\"", path);
    out->weights = tail.weights;
    return HYPURA_OK;
}

hypura_status parts_read(struct parts *out, const struct model *model, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(model);
    const char *path = gguf_file_path(model_file(model), 0);
    *out = (struct parts){.layers = p->layers, .experts = p->experts};
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return error_set_errno(error, errno, "cannot open %.200s", path);
    hypura_status status = ALLOCATE(&out->digests, (size_t)p->layers * p->experts, "list of experts", error);
    if (!status)
        status = read_list(out, file, path, error);
    close(file);
    if (status)
        parts_free(out);
    return status;
}

void parts_free(struct parts *parts)
{
    memory_free(parts->digests);
    *parts = (struct parts){0};
}

/* ---- writing -------------------------------------------------------------------------------------------------------
 */

struct copy {
    const struct model *model;
    const char *source_path;
    char *path; /* while it is written */
    int source, file;
    struct stat source_info;
    uint8_t *buffer;
    uint64_t *digests;
    struct parts_moment moment;
    parts_progress progress;
    void *context;
};

static hypura_status tell(struct copy *copy, uint64_t bytes, hypura_error *error)
{
    copy->moment.done += bytes;
    return !copy->progress || copy->progress(copy->context, &copy->moment)
               ? HYPURA_OK
               : error_set(error, HYPURA_ERROR_CANCELLED, "writing was stopped; there is no new file");
}

/* Copies a range, or reads the copy again; either way, *hash includes its bytes. */
static hypura_status pass_range(struct copy *copy, uint64_t offset, uint64_t bytes, uint64_t *hash, hypura_error *error)
{
    const bool again = copy->moment.verifying;
    while (bytes) {
        const size_t now = (size_t)MIN(bytes, (uint64_t)COPY_BYTES);
        TRY(read_all(again ? copy->file : copy->source, again ? copy->path : copy->source_path, offset, copy->buffer,
                     now, error));
        *hash = fnv1a(*hash, copy->buffer, now);
        if (!again)
            TRY(write_all(copy->file, copy->path, offset, copy->buffer, now, error));
#ifdef POSIX_FADV_DONTNEED
        posix_fadvise(again ? copy->file : copy->source, (off_t)offset, (off_t)now, POSIX_FADV_DONTNEED);
#endif
        offset += now;
        bytes -= now;
        TRY(tell(copy, now, error));
    }
    return HYPURA_OK;
}

static hypura_status pass_unit(struct copy *copy, unit_number number, hypura_error *error)
{
    const struct unit *unit = model_unit(copy->model, number);
    const struct model_parameters *p = model_parameters(copy->model);
    uint64_t hash = FNV1A_START;
    for (uint32_t s = 0; s < unit->slice_count; s++) {
        /* Its place in the model's own file, even if another file would be read. */
        const struct gguf_tensor *tensor = unit->slices[s].tensor;
        const uint64_t place = unit->kind == UNIT_EXPERT ? (uint64_t)unit->expert : 0;
        TRY(pass_range(copy, tensor->offset + place * unit->slices[s].bytes, unit->slices[s].bytes, &hash, error));
    }
    if (unit->kind != UNIT_EXPERT)
        return HYPURA_OK;
    uint64_t *noted = &copy->digests[(size_t)unit->layer * p->experts + (size_t)unit->expert];
    hash |= 1; /* 0 means absent */
    if (copy->moment.verifying && *noted != hash)
        return error_set(
            error, HYPURA_ERROR_IO,
            "%.200s: the data read back differs from the data written: the drive, or its connection, is faulty",
            copy->path);
    *noted = hash;
    return HYPURA_OK;
}

static hypura_status pass_units(struct copy *copy, const uint8_t *units, hypura_error *error)
{
    for (unit_number u = 0; u < model_unit_count(copy->model); u++)
        if (units[u])
            TRY(pass_unit(copy, u, error));
    return HYPURA_OK;
}

static uint64_t header_bytes(const struct gguf *file)
{
    uint64_t bytes = gguf_file_bytes(file, 0);
    for (size_t i = 0; i < gguf_tensor_count(file); i++)
        bytes = MIN(bytes, gguf_tensor_at(file, i)->offset);
    return bytes;
}

static hypura_status check_source(const struct copy *copy, hypura_error *error)
{
    struct stat now;
    const struct stat *then = &copy->source_info;
    if (fstat(copy->source, &now))
        return error_set_errno(error, errno, "cannot look at %.200s", copy->source_path);
    if (now.st_size != then->st_size || now.st_mtime != then->st_mtime || now.st_ctime != then->st_ctime)
        return error_set(error, HYPURA_ERROR_IO, "%.200s changed while it was copied", copy->source_path);
    return HYPURA_OK;
}

static hypura_status check_room(const struct copy *copy, hypura_error *error)
{
    struct statvfs room;
    char wanted[32], found[32];
    if (fstatvfs(copy->file, &room))
        return HYPURA_OK;
    const uint64_t free_bytes = (uint64_t)room.f_bavail * room.f_frsize;
    if (copy->moment.total <= free_bytes)
        return HYPURA_OK;
    return error_set(error, HYPURA_ERROR_IO, "%.200s: the parts take %s, but the disk has only %s free", copy->path,
                     format_bytes(wanted, sizeof wanted, (double)copy->moment.total),
                     format_bytes(found, sizeof found, (double)free_bytes));
}

static hypura_status write_tail(struct copy *copy, uint64_t weights, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(copy->model);
    const size_t list = (size_t)p->layers * p->experts * sizeof *copy->digests;
    struct tail tail = {.layers = p->layers,
                        .experts = p->experts,
                        .model_bytes = (uint64_t)copy->source_info.st_size,
                        .weights = weights};
    memcpy(tail.magic, tail_magic, sizeof tail.magic);
    tail.list = digest_of_list(&tail, copy->digests);
    TRY(write_all(copy->file, copy->path, tail.model_bytes, copy->digests, list, error));
    return write_all(copy->file, copy->path, tail.model_bytes + list, &tail, sizeof tail, error);
}

static hypura_status copy_all(struct copy *copy, const uint8_t *units, uint64_t weights, hypura_error *error)
{
    const uint64_t header = header_bytes(model_file(copy->model));
    uint64_t hash = FNV1A_START, again = FNV1A_START;
    copy->moment.total = header;
    for (unit_number u = 0; u < model_unit_count(copy->model); u++)
        copy->moment.total += units[u] ? model_unit(copy->model, u)->bytes : 0;
    TRY(check_room(copy, error));
    if (ftruncate(copy->file, copy->source_info.st_size))
        return error_set_errno(error, errno, "cannot write %.200s", copy->path);
    TRY(pass_range(copy, 0, header, &hash, error));
    TRY(pass_units(copy, units, error));
    TRY(write_tail(copy, weights, error));
    TRY(durable_file(copy->file, copy->path, error));
    copy->moment.done = 0;
    copy->moment.verifying = true;
    TRY(pass_range(copy, 0, header, &again, error));
    if (again != hash)
        return error_set(error, HYPURA_ERROR_IO, "%.200s: the header read back differs from the one written",
                         copy->path);
    TRY(pass_units(copy, units, error));
    TRY(check_source(copy, error));
    /* Written last, so that an incomplete file is never taken for a whole one. */
    TRY(write_all(copy->file, copy->path, 0, GGUF_PARTIAL_MAGIC, 4, error));
    return durable_file(copy->file, copy->path, error);
}

static hypura_status open_files(struct copy *copy, const char *path, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(copy->model);
    const size_t room = strlen(path) + sizeof ".partial";
    struct stat there;
    TRY(ALLOCATE(&copy->buffer, COPY_BYTES, "buffer", error));
    TRY(ALLOCATE(&copy->digests, (size_t)p->layers * p->experts, "list of experts", error));
    TRY(ALLOCATE(&copy->path, room, "file name", error));
    snprintf(copy->path, room, "%s.partial", path);
    copy->source = open(copy->source_path, O_RDONLY | O_CLOEXEC);
    if (copy->source < 0 || fstat(copy->source, &copy->source_info))
        return error_set_errno(error, errno, "cannot open %.200s", copy->source_path);
    if (stat(path, &there) == 0 && there.st_dev == copy->source_info.st_dev && there.st_ino == copy->source_info.st_ino)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%.200s is the model itself, which is never written to", path);
    TRY(durable_may_replace(path, error));
    copy->file = open(copy->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (copy->file < 0 && errno == EEXIST)
        return error_set(
            error, HYPURA_ERROR_ARGUMENT,
            "%.200s already exists: another process is writing it, or was killed; in the second case, remove the file",
            copy->path);
    return copy->file < 0 ? error_set_errno(error, errno, "cannot write %.200s", copy->path) : HYPURA_OK;
}

hypura_status parts_write(const char *path, const struct model *model, const uint8_t *units, uint64_t weights,
                          parts_progress progress, void *context, hypura_error *error)
{
    struct copy copy = {.model = model,
                        .source_path = gguf_file_path(model_file(model), 0),
                        .source = -1,
                        .file = -1,
                        .progress = progress,
                        .context = context};
    if (gguf_file_count(model_file(model)) > 1)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%.200s is split over several files: join them before writing parts", copy.source_path);
    hypura_status status = open_files(&copy, path, error);
    if (!status)
        status = copy_all(&copy, units, weights, error);
    if (!status && rename(copy.path, path))
        status = error_set_errno(error, errno, "cannot rename %.200s to its final name", copy.path);
    if (status && copy.file >= 0)
        unlink(copy.path);
    if (!status)
        status = durable_folder_of(path, error);
    if (copy.source >= 0)
        close(copy.source);
    if (copy.file >= 0)
        close(copy.file);
    memory_free(copy.path);
    memory_free(copy.buffer);
    memory_free(copy.digests);
    return status;
}
