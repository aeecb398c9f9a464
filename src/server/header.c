#include "server/header.h"

#include "format/format.h"
#include "server/fetch.h"
#include "server/pull_source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIRST_RANGE ((uint64_t)1 << 20)

bool header_is_remote(const char *reference)
{
    static const char *const beginnings[] = {"http://", "https://", "hf.co/", "huggingface.co/"};
    for (size_t i = 0; i < COUNT_OF(beginnings); i++)
        if (strncmp(reference, beginnings[i], strlen(beginnings[i])) == 0)
            return true;
    return false;
}

struct part {
    struct buffer data;
    uint64_t asked; /* end of the requested range */
    uint64_t total; /* bytes of the file */
    long status;
    bool no_ranges, elsewhere, untold;
};

static bool begin(void *context, const struct fetch_answer *answer)
{
    struct part *part = context;
    part->status = answer->status;
    part->no_ranges = answer->status == 200;
    part->elsewhere = answer->ranged && answer->start != part->data.size;
    part->untold = answer->ranged && answer->total == 0;
    if (part->no_ranges || part->elsewhere || part->untold || !answer->ranged)
        return false;
    part->total = answer->total;
    return true;
}

static bool take(void *context, const void *data, size_t size)
{
    struct part *part = context;
    uint64_t wanted = part->asked - MIN(part->asked, part->data.size);
    buffer_append(&part->data, data, (size_t)MIN((uint64_t)size, wanted));
    return !part->data.failed && size <= wanted;
}

static hypura_status ask(struct part *part, const char *url, hypura_error *error)
{
    struct fetch_answer answer;
    struct fetch fetch = {.url = url,
                          .offset = part->data.size,
                          .end = part->asked,
                          .fail_on_error = true,
                          .begin = begin,
                          .take = take,
                          .context = part};
    hypura_status status = fetch_run(&fetch, &answer, error);
    if (part->data.failed)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the header of %.200s", url);
    if (part->no_ranges)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%.200s: the server does not support range requests, so the header cannot be read without "
                         "downloading the file, which \"hypura pull\" does",
                         url);
    if (part->untold)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%.200s: the server does not report the size of the file",
                         url);
    if (part->elsewhere || (status == HYPURA_ERROR_CANCELLED && part->total == 0))
        return error_set(error, HYPURA_ERROR_IO, "%.200s: the server did not send the requested range (status %ld)",
                         url, part->status);
    /* A server may send more than requested; take stops it once there is enough. */
    return status == HYPURA_ERROR_CANCELLED ? HYPURA_OK : status;
}

/* Fetches the file up to the end of its header. *left: bytes that may still be fetched. */
static hypura_status read_header(struct part *part, const char *url, uint64_t *left, hypura_error *error)
{
    uint64_t extent = 0, limit = *left, next = FIRST_RANGE;
    hypura_status status = HYPURA_OK;
    part->data.limit = (size_t)HEADER_MOST_BYTES + 1;
    while (!status && extent == 0) {
        size_t had = part->data.size;
        part->asked = MIN(had + next, limit);
        if (part->total)
            part->asked = MIN(part->asked, part->total);
        if (part->asked == had && had == part->total)
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "%.200s: the file is truncated: it ends within its header, after %zu bytes", url, had);
        if (part->asked == had)
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "%.200s: the header does not end within %" PRIu64 " MiB, more than any model needs", url,
                             HEADER_MOST_BYTES >> 20);
        status = ask(part, url, error);
        if (!status && part->data.size == had)
            status = error_set(error, HYPURA_ERROR_IO, "%.200s: the server sent an empty range of a longer file", url);
        if (!status && (status = gguf_header_extent(part->data.data, part->data.size, &extent, error)))
            error_prefix(error, "%.200s", url);
        next *= 2;
    }
    *left -= MIN(*left, part->data.size);
    return status;
}

static hypura_status write_part(const char *path, const struct part *part, hypura_error *error)
{
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    bool good = file >= 0;
    for (size_t done = 0; good && done < part->data.size;) {
        ssize_t size = write(file, part->data.data + done, part->data.size - done);
        good = size > 0 || (size < 0 && errno == EINTR);
        done += size > 0 ? (size_t)size : 0;
    }
    /* Extends the file to the model's size, because readers check that tensors lie within it. */
    good = good && (part->total == 0 || ftruncate(file, (off_t)part->total) == 0);
    hypura_status status =
        good ? HYPURA_OK : error_set_errno(error, errno, "cannot write the header of a model to %s", path);
    if (file >= 0)
        close(file);
    return status;
}

static hypura_status write_parts(struct model_header *out, const struct part *parts, size_t count, hypura_error *error)
{
    const char *temporary = getenv("TMPDIR");
    if (snprintf(out->folder, sizeof out->folder, "%s/hypura-header-XXXXXX",
                 temporary && *temporary ? temporary : "/tmp") >= (int)sizeof out->folder) {
        out->folder[0] = 0;
        return error_set(error, HYPURA_ERROR_ARGUMENT, "$TMPDIR is too long");
    }
    if (!mkdtemp(out->folder)) {
        hypura_status status =
            error_set_errno(error, errno, "cannot create a folder for the header of a model: %.200s", out->folder);
        out->folder[0] = 0;
        return status;
    }
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && i < count; i++) {
        char path[sizeof out->path];
        if (count == 1)
            snprintf(path, sizeof path, "%s/model.gguf", out->folder);
        else
            snprintf(path, sizeof path, "%s/model-%05zu-of-%05zu.gguf", out->folder, i + 1, count);
        status = write_part(path, &parts[i], error);
        if (i == 0)
            memcpy(out->path, path, sizeof path);
    }
    return status;
}

hypura_status header_fetch(struct model_header *out, const char *reference, hypura_error *error)
{
    struct source source = {0};
    struct part *parts = NULL;
    uint64_t left = HEADER_MOST_BYTES;
    *out = (struct model_header){0};
    hypura_status status = source_find(&source, reference, error);
    if (!status)
        status = ALLOCATE(&parts, source.part_count, "headers", error);
    for (size_t i = 0; !status && i < source.part_count; i++)
        status = read_header(&parts[i], source.parts[i].url, &left, error);
    /* Only now are files written, so that an interrupt during the download leaves none. */
    if (!status)
        status = write_parts(out, parts, source.part_count, error);
    out->bytes_read = HEADER_MOST_BYTES - left;
    for (size_t i = 0; parts && i < source.part_count; i++)
        buffer_free(&parts[i].data);
    memory_free(parts);
    source_free(&source);
    if (status)
        header_forget(out);
    return status;
}

void header_forget(struct model_header *header)
{
    DIR *listing = header->folder[0] ? opendir(header->folder) : NULL;
    for (const struct dirent *entry; listing && (entry = readdir(listing));) {
        char path[1400];
        snprintf(path, sizeof path, "%s/%s", header->folder, entry->d_name);
        if (entry->d_name[0] != '.')
            unlink(path);
    }
    if (listing)
        closedir(listing);
    if (header->folder[0])
        rmdir(header->folder);
    header->folder[0] = 0;
}
