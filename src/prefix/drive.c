/* Reads and writes files: a header, the tokens of a text from its beginning, the table of parts, then the parts. */
#include "core/durable.h"
#include "prefix/prefix_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC "hyprefix"
#define VERSION 1u
#define ORDER 0x01020304u /* tells the byte order */
#define PART_ALIGNMENT 64u
#define MOST_TOKENS (1u << 24)
#define MOST_PARTS (1u << 20)

/* Smaller parts are written together. */
#define WRITE_TOGETHER ((size_t)1 << 20)

struct header {
    char magic[8];
    uint32_t version, order;
    uint64_t digest;
    uint32_t block, tokens, parts, zero;
    uint64_t bytes;    /* of the file */
    uint64_t checksum; /* of this header (with 0 here), the tokens and the table */
};

void contents_free(struct contents *contents)
{
    memory_free(contents->tokens);
    memory_free(contents->parts);
    *contents = (struct contents){0};
}

static uint64_t contents_checksum(struct header header, const struct contents *contents)
{
    header.checksum = 0;
    uint64_t sums[3] = {prefix_checksum(&header, sizeof header),
                        prefix_checksum(contents->tokens, contents->token_count * sizeof *contents->tokens),
                        prefix_checksum(contents->parts, contents->part_count * sizeof *contents->parts)};
    return prefix_checksum(sums, sizeof sums);
}

static uint64_t parts_begin(uint32_t tokens, uint32_t parts)
{
    return align_up(sizeof(struct header) + tokens * (uint64_t)sizeof(int32_t) + parts * (uint64_t)sizeof(struct part),
                    PART_ALIGNMENT);
}

uint64_t drive_file_bytes(uint32_t tokens, uint32_t parts, uint64_t bytes)
{
    return parts_begin(tokens, parts) + bytes + parts * (uint64_t)PART_ALIGNMENT;
}

static bool file_path(char out[PATH_MAX], const struct drive *drive, const char *name)
{
    return snprintf(out, PATH_MAX, "%s/%s", drive->folder, name) < PATH_MAX;
}

/* ---- reading -------------------------------------------------------------------------------------------------------
 */

static hypura_status read_at(int file, const char *name, void *out, uint64_t bytes, uint64_t offset,
                             hypura_error *error)
{
    for (char *at = out; bytes;) {
        ssize_t got = pread(file, at, (size_t)MIN(bytes, (uint64_t)1 << 30), (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set_errno(error, errno, "cannot read %s", name);
        if (got == 0)
            return error_set(error, HYPURA_ERROR_FORMAT, "%s is truncated", name);
        at += got;
        offset += (uint64_t)got;
        bytes -= (uint64_t)got;
    }
    return HYPURA_OK;
}

static bool part_fits(const struct part *part, const struct header *header)
{
    bool rows = part->kind == PART_ROWS;
    return (rows || part->kind == PART_CHECKPOINT) && part->first < part->end && part->end <= header->tokens &&
           part->first % header->block == 0 && part->end - part->first <= header->block &&
           part->offset >= parts_begin(header->tokens, header->parts) && part->offset <= header->bytes &&
           part->bytes <= header->bytes - part->offset;
}

static hypura_status read_tables(const struct header *header, int file, const char *name, struct contents *out,
                                 hypura_error *error)
{
    TRY(ALLOCATE(&out->tokens, header->tokens, "tokens of a prefix", error));
    TRY(ALLOCATE(&out->parts, header->parts, "parts of a prefix", error));
    out->token_count = header->tokens;
    out->part_count = header->parts;
    uint64_t tokens = header->tokens * (uint64_t)sizeof *out->tokens;
    TRY(read_at(file, name, out->tokens, tokens, sizeof *header, error));
    TRY(read_at(file, name, out->parts, header->parts * sizeof *out->parts, sizeof *header + tokens, error));
    bool fine = contents_checksum(*header, out) == header->checksum;
    for (uint32_t i = 0; fine && i < header->parts; i++)
        fine = part_fits(&out->parts[i], header);
    return fine ? HYPURA_OK : error_set(error, HYPURA_ERROR_FORMAT, "%s is damaged", name);
}

hypura_status drive_read_contents(const struct drive *drive, const char *name, struct contents *out, uint64_t *bytes,
                                  hypura_error *error)
{
    char path[PATH_MAX];
    struct header header;
    struct stat info;
    *out = (struct contents){0};
    int file = file_path(path, drive, name) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0 || fstat(file, &info)) {
        int number = errno;
        if (file >= 0)
            close(file);
        return error_set_errno(error, number, "cannot open %s", name);
    }
    hypura_status status = read_at(file, name, &header, sizeof header, 0, error);
    if (!status && (memcmp(header.magic, MAGIC, sizeof header.magic) != 0 || header.version != VERSION ||
                    header.order != ORDER || header.digest != drive->digest || header.block != drive->block))
        status = error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s is of another version", name);
    else if (!status && (header.bytes != (uint64_t)info.st_size || header.tokens > MOST_TOKENS ||
                         header.parts > MOST_PARTS || parts_begin(header.tokens, header.parts) > header.bytes))
        status = error_set(error, HYPURA_ERROR_FORMAT, "%s is damaged", name);
    if (!status)
        status = read_tables(&header, file, name, out, error);
    close(file);
    *bytes = (uint64_t)info.st_size;
    if (status)
        contents_free(out);
    return status;
}

hypura_status drive_read(struct drive *drive, struct drive_file *file, const struct part *part, void *out,
                         hypura_error *error)
{
    char path[PATH_MAX];
    int opened = file_path(path, drive, file->name) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (opened < 0) {
        file->gone = true; /* most likely, another process made room */
        return error_set_errno(error, errno, "cannot open %s", path);
    }
#ifdef POSIX_FADV_WILLNEED /* reads the next part while this one is used */
    posix_fadvise(opened, (off_t)part->offset, (off_t)MIN(2 * part->bytes, (uint64_t)INT64_MAX / 2),
                  POSIX_FADV_WILLNEED);
#endif
    hypura_status status = read_at(opened, path, out, part->bytes, part->offset, error);
    if (!status && prefix_checksum(out, part->bytes) != part->checksum)
        status = error_set(error, HYPURA_ERROR_FORMAT, "%s is damaged", path);
#ifdef POSIX_FADV_DONTNEED
    posix_fadvise(opened, (off_t)part->offset, (off_t)part->bytes, POSIX_FADV_DONTNEED);
#endif
    close(opened);
    if (!status)
        return HYPURA_OK;
    file->gone = true;
    log_write(LOG_WARNING, "prefix cache: %s; it is removed", error ? error->message : path);
    unlink(path);
    return status;
}

/* Whether a byte can be read without waiting for the drive; true if the system does not tell. */
static bool is_near(int file, uint64_t offset)
{
#ifdef RWF_NOWAIT
    char byte;
    struct iovec to = {&byte, 1};
    return preadv2(file, &to, 1, (off_t)offset, RWF_NOWAIT) >= 0 || errno != EAGAIN;
#else
    (void)file, (void)offset;
    return true;
#endif
}

bool drive_fetch(const struct drive *drive, struct fetch *fetch, const struct drive_file *file, const struct part *part,
                 bool begin)
{
    char path[PATH_MAX];
    if (fetch->of != file) {
        drive_fetched(fetch);
        fetch->of = file;
        fetch->file = file_path(path, drive, file->name) ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    }
    if (fetch->file < 0 || part->bytes == 0)
        return true; /* the read will fail */
#ifdef POSIX_FADV_WILLNEED
    if (begin)
        posix_fadvise(fetch->file, (off_t)part->offset, (off_t)part->bytes, POSIX_FADV_WILLNEED);
#endif
    return is_near(fetch->file, part->offset) && is_near(fetch->file, part->offset + part->bytes - 1);
}

void drive_fetched(struct fetch *fetch)
{
    if (fetch->of && fetch->file >= 0)
        close(fetch->file);
    *fetch = (struct fetch){.file = -1};
}

void drive_touch(const struct drive *drive, const struct drive_file *file)
{
    char path[PATH_MAX];
    if (!file->gone && file_path(path, drive, file->name))
        utimensat(AT_FDCWD, path, NULL, 0);
}

/* ---- writing -------------------------------------------------------------------------------------------------------
 */

struct writer {
    int file;
    int number; /* errno of the first failure */
    size_t waiting;
    char *together;
};

static void write_through(struct writer *writer, const char *data, uint64_t bytes)
{
    while (bytes && !writer->number) {
        ssize_t written = write(writer->file, data, (size_t)MIN(bytes, (uint64_t)1 << 26));
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0) {
            writer->number = errno;
            return;
        }
        data += written;
        bytes -= (uint64_t)written;
    }
}

static void write_waiting(struct writer *writer)
{
    write_through(writer, writer->together, writer->waiting);
    writer->waiting = 0;
}

static void write_next(struct writer *writer, const void *data, uint64_t bytes)
{
    if (writer->waiting + bytes > WRITE_TOGETHER)
        write_waiting(writer);
    if (bytes > WRITE_TOGETHER) {
        write_through(writer, data, bytes);
        return;
    }
    memcpy(writer->together + writer->waiting, data, bytes);
    writer->waiting += bytes;
}

static void write_zeros(struct writer *writer, uint64_t count)
{
    static const char zeros[PART_ALIGNMENT];
    write_next(writer, zeros, count);
}

static void write_parts(struct writer *writer, const struct header *header, const struct contents *contents,
                        const void *const *data)
{
    uint64_t at = sizeof *header + contents->token_count * (uint64_t)sizeof *contents->tokens +
                  contents->part_count * (uint64_t)sizeof *contents->parts;
    write_next(writer, header, sizeof *header);
    write_next(writer, contents->tokens, contents->token_count * sizeof *contents->tokens);
    write_next(writer, contents->parts, contents->part_count * sizeof *contents->parts);
    for (uint32_t i = 0; i < contents->part_count && !writer->number; i++) {
        const struct part *part = &contents->parts[i];
        write_zeros(writer, part->offset - at);
        write_next(writer, data[i], part->bytes);
        at = part->offset + part->bytes;
    }
    write_waiting(writer);
}

static void name_file(char name[FILE_NAME], const struct drive *drive)
{
    static _Atomic uint64_t count;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t parts[] = {(uint64_t)now.tv_sec, (uint64_t)now.tv_nsec, (uint64_t)getpid(), atomic_fetch_add(&count, 1)};
    snprintf(name, FILE_NAME, "%016llx-%016llx.prefix", (unsigned long long)drive->digest,
             (unsigned long long)prefix_checksum(parts, sizeof parts));
}

static hypura_status write_file(struct drive *drive, const char *name, const struct header *header,
                                const struct contents *contents, const void *const *data, hypura_error *error)
{
    char path[PATH_MAX], partial[PATH_MAX];
    if (!file_path(path, drive, name) || snprintf(partial, sizeof partial, "%s.partial", path) >= PATH_MAX)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the path of the folder is too long");
    struct writer writer = {.file = open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600)};
    if (writer.file < 0)
        return error_set_errno(error, errno, "cannot write %s", partial);
    hypura_status status = ALLOCATE(&writer.together, WRITE_TOGETHER, "prefix file", error);
    if (!status) {
        write_parts(&writer, header, contents, data);
        if (writer.number)
            status = error_set_errno(error, writer.number, "cannot write %s", partial);
    }
    if (!status)
        status = durable_file(writer.file, partial, error);
#ifdef POSIX_FADV_DONTNEED
    posix_fadvise(writer.file, 0, 0, POSIX_FADV_DONTNEED);
#endif
    memory_free(writer.together);
    close(writer.file);
    if (!status && rename(partial, path))
        status = error_set_errno(error, errno, "cannot write %s", path);
    if (status)
        unlink(partial);
    return status ? status : durable_folder(drive->folder, error);
}

hypura_status drive_write(struct drive *drive, struct drive_file **out, struct contents *contents,
                          const void *const *data, hypura_error *error)
{
    struct header header = {.version = VERSION,
                            .order = ORDER,
                            .digest = drive->digest,
                            .block = drive->block,
                            .tokens = contents->token_count,
                            .parts = contents->part_count};
    memcpy(header.magic, MAGIC, sizeof header.magic);
    uint64_t at = parts_begin(contents->token_count, contents->part_count);
    for (uint32_t i = 0; i < contents->part_count; i++) {
        contents->parts[i].offset = at;
        contents->parts[i].checksum = prefix_checksum(data[i], contents->parts[i].bytes);
        header.bytes = at + contents->parts[i].bytes;
        at = align_up(header.bytes, PART_ALIGNMENT);
    }
    header.checksum = contents_checksum(header, contents);
    struct drive_file *file;
    TRY(ALLOCATE(&file, 1, "file of a prefix", error));
    file->bytes = header.bytes;
    name_file(file->name, drive);
    hypura_status status = write_file(drive, file->name, &header, contents, data, error);
    if (status) {
        memory_free(file);
        return status;
    }
    file->next = drive->files;
    drive->files = file;
    drive->bytes += file->bytes;
    *out = file;
    return HYPURA_OK;
}
