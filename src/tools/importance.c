#include "tools/importance.h"

#include "format/format.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Limits on files: the number of entries, the bytes of a name and the number of values. */
#define MOST_ENTRIES 1000000
#define MOST_NAME 1024
#define MOST_VALUES ((uint64_t)1 << 30)

struct entry {
    char *name;
    uint64_t values, offset;
    uint64_t matrices, counts_offset; /* GGUF only: how often each matrix was used */
    float calls;                      /* the older format: the divisor of the values */
};

struct importance {
    char *path;
    int file;
    struct entry *entries;
    size_t count;
    uint32_t chunks;
    char dataset[MOST_NAME + 1];
};

static hypura_status read_at(const struct importance *importance, uint64_t offset, void *out, uint64_t bytes,
                             hypura_error *error)
{
    unsigned char *to = out;
    while (bytes) {
        ssize_t done = pread(importance->file, to, (size_t)bytes, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return error_set_errno(error, errno, "cannot read %.200s", importance->path);
        if (done == 0)
            return error_set(error, HYPURA_ERROR_FORMAT, "%.200s ends too early for an importance matrix",
                             importance->path);
        to += done;
        offset += (uint64_t)done;
        bytes -= (uint64_t)done;
    }
    return HYPURA_OK;
}

/* ---- GGUF: NAME.in_sum2 and NAME.counts ----------------------------------------------------------------------------
 */

static const char sums_ending[] = ".in_sum2";

static hypura_status add_sums(struct importance *importance, const struct gguf *file, const struct gguf_tensor *sums,
                              hypura_error *error)
{
    char name[MOST_NAME + 16];
    size_t length = sums->name.size - (sizeof sums_ending - 1);
    if (length > MOST_NAME)
        return error_set(error, HYPURA_ERROR_FORMAT, "%.200s: a name is too long (%zu bytes)", importance->path,
                         length);
    snprintf(name, sizeof name, "%.*s.counts", (int)length, sums->name.data);
    const struct gguf_tensor *counts = gguf_tensor_find(file, name);
    uint64_t matrices = sums->dimensions[1] * sums->dimensions[2] * sums->dimensions[3];
    if (!counts || counts->type != TENSOR_F32 || sums->type != TENSOR_F32 || counts->bytes / 4 != matrices ||
        sums->bytes / 4 > MOST_VALUES)
        return error_set(error, HYPURA_ERROR_FORMAT, "%.200s: \"%s\" is missing, or does not match its sums",
                         importance->path, name);
    struct entry *entry = &importance->entries[importance->count];
    name[length] = 0;
    hypura_status status = string_copy(&entry->name, name, error);
    if (status)
        return status;
    entry->values = sums->bytes / 4;
    entry->offset = sums->offset;
    entry->matrices = matrices;
    entry->counts_offset = counts->offset;
    importance->count++;
    return HYPURA_OK;
}

static hypura_status open_gguf(struct importance *importance, hypura_error *error)
{
    struct gguf *file;
    struct gguf_string type = {"", 0};
    hypura_status status = gguf_open(&file, importance->path, error);
    if (status)
        return status;
    gguf_get_string(file, "general.type", &type);
    gguf_get_uint32(file, "imatrix.chunk_count", &importance->chunks);
    const struct gguf_value *datasets = gguf_find(file, "imatrix.datasets");
    if (datasets && datasets->type == GGUF_ARRAY && datasets->element_type == GGUF_STRING && datasets->count) {
        const struct gguf_string *last = (const struct gguf_string *)datasets->data + (datasets->count - 1);
        snprintf(importance->dataset, sizeof importance->dataset, "%s", last->data);
    }
    if (strcmp(type.data, "imatrix") != 0 || gguf_file_count(file) != 1)
        status = error_set(error, HYPURA_ERROR_FORMAT, "%.200s is a GGUF file but not an importance matrix",
                           importance->path);
    if (!status)
        status = ALLOCATE(&importance->entries, gguf_tensor_count(file), "table of an importance matrix", error);
    for (size_t i = 0; !status && i < gguf_tensor_count(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        size_t ending = sizeof sums_ending - 1;
        if (tensor->name.size > ending && strcmp(tensor->name.data + tensor->name.size - ending, sums_ending) == 0)
            status = add_sums(importance, file, tensor, error);
    }
    gguf_close(file);
    return status;
}

/* ---- the older format: entries (name, calls, values), then chunks and the text's name ------------------------------
 */

static hypura_status read_int(struct importance *importance, uint64_t *offset, int64_t most, int32_t *out,
                              hypura_error *error)
{
    hypura_status status = read_at(importance, *offset, out, sizeof *out, error);
    *offset += sizeof *out;
    if (!status && (*out < 0 || *out > most))
        status = error_set(error, HYPURA_ERROR_FORMAT, "%.200s is not an importance matrix: found %d at byte %" PRIu64,
                           importance->path, *out, *offset - sizeof *out);
    return status;
}

static hypura_status open_older(struct importance *importance, uint64_t bytes, hypura_error *error)
{
    uint64_t offset = 0;
    int32_t count, length, calls, values;
    hypura_status status = read_int(importance, &offset, MOST_ENTRIES, &count, error);
    if (!status && count == 0)
        status = error_set(error, HYPURA_ERROR_FORMAT, "%.200s contains no importance values", importance->path);
    if (!status)
        status = ALLOCATE(&importance->entries, (size_t)count, "table of an importance matrix", error);
    for (int32_t i = 0; !status && i < count; i++) {
        struct entry *entry = &importance->entries[importance->count];
        char name[MOST_NAME + 1] = "";
        if ((status = read_int(importance, &offset, MOST_NAME, &length, error)) ||
            (status = read_at(importance, offset, name, (uint64_t)length, error)))
            break;
        offset += (uint64_t)length;
        if ((status = read_int(importance, &offset, INT32_MAX, &calls, error)) ||
            (status = read_int(importance, &offset, (int64_t)(bytes / 4), &values, error)) ||
            (status = string_copy(&entry->name, name, error)))
            break;
        entry->offset = offset;
        entry->values = (uint64_t)values;
        entry->calls = calls > 0 ? (float)calls : 1;
        offset += 4 * entry->values;
        importance->count++;
    }
    if (!status && offset > bytes)
        status =
            error_set(error, HYPURA_ERROR_FORMAT, "%.200s ends too early for an importance matrix", importance->path);
    if (!status && offset + 8 <= bytes && read_int(importance, &offset, INT32_MAX, &calls, NULL) == HYPURA_OK) {
        importance->chunks = (uint32_t)calls;
        if (read_int(importance, &offset, MOST_NAME, &length, NULL) == HYPURA_OK && offset + (uint64_t)length <= bytes)
            read_at(importance, offset, importance->dataset, (uint64_t)length, NULL);
    }
    return status;
}

hypura_status importance_open(struct importance **out, const char *path, hypura_error *error)
{
    struct importance *importance;
    char magic[4] = "";
    struct stat info;
    hypura_status status = ALLOCATE(&importance, 1, "importance matrix", error);
    if (status)
        return status;
    importance->file = open(path, O_RDONLY | O_CLOEXEC);
    if (importance->file < 0)
        status = error_set_errno(error, errno, "cannot open %.200s", path);
    else if (fstat(importance->file, &info) || !S_ISREG(info.st_mode))
        status = error_set(error, HYPURA_ERROR_ARGUMENT, "%.200s is not a file", path);
    if (!status)
        status = string_copy(&importance->path, path, error);
    if (!status)
        status = read_at(importance, 0, magic, sizeof magic, error);
    if (!status)
        status = memcmp(magic, "GGUF", 4) == 0 ? open_gguf(importance, error)
                                               : open_older(importance, (uint64_t)info.st_size, error);
    if (status)
        importance_close(importance);
    else
        *out = importance;
    return status;
}

void importance_close(struct importance *importance)
{
    if (!importance)
        return;
    if (importance->file >= 0)
        close(importance->file);
    for (size_t i = 0; i < importance->count; i++)
        memory_free(importance->entries[i].name);
    memory_free(importance->entries);
    memory_free(importance->path);
    memory_free(importance);
}

size_t importance_count(const struct importance *importance)
{
    return importance->count;
}

uint32_t importance_chunks(const struct importance *importance)
{
    return importance->chunks;
}

const char *importance_dataset(const struct importance *importance)
{
    return importance->dataset;
}

static const struct entry *find(const struct importance *importance, const char *name)
{
    for (size_t i = 0; i < importance->count; i++)
        if (strcmp(importance->entries[i].name, name) == 0)
            return &importance->entries[i];
    return NULL;
}

uint64_t importance_size(const struct importance *importance, const char *name)
{
    const struct entry *entry = find(importance, name);
    return entry ? entry->values : 0;
}

static hypura_status divide_by_counts(const struct importance *importance, const struct entry *entry, float *out,
                                      hypura_error *error)
{
    uint64_t columns = entry->values / entry->matrices;
    hypura_status status = HYPURA_OK;
    for (uint64_t m = 0; !status && m < entry->matrices; m++) {
        float count, *row = out + m * columns;
        status = read_at(importance, entry->counts_offset + 4 * m, &count, sizeof count, error);
        for (uint64_t i = 0; i < columns; i++)
            row[i] = count > 0 ? row[i] / count : 1;
    }
    return status;
}

hypura_status importance_read(const struct importance *importance, const char *name, float *out, hypura_error *error)
{
    const struct entry *entry = find(importance, name);
    if (!entry)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%.200s has no values for \"%.200s\"", importance->path, name);
    hypura_status status = read_at(importance, entry->offset, out, 4 * entry->values, error);
    if (!status && entry->matrices)
        status = divide_by_counts(importance, entry, out, error);
    for (uint64_t i = 0; !status && i < entry->values; i++) {
        if (!entry->matrices)
            out[i] /= entry->calls;
        if (!isfinite(out[i]) || out[i] < 0)
            status = error_set(error, HYPURA_ERROR_FORMAT, "%.200s: value %" PRIu64 " of \"%.200s\" is %g",
                               importance->path, i, name, (double)out[i]);
    }
    return status;
}
