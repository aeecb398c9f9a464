/* A model: one file, or the parts of a split model combined. */
#include "format/format_private.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct part {
    char *path;
    uint64_t bytes;
};

struct gguf {
    struct arena arena;
    struct gguf_header header; /* that of the first part, but with the tensors of all parts */
    struct name_entry *tensor_index;
    struct part *parts;
    size_t part_count;
};

/* The length of "-00001-of-00003.gguf", the end of a part's name. */
#define SPLIT_SUFFIX_BYTES 20

static bool five_digits(const char *text, uint32_t *out)
{
    *out = 0;
    for (size_t i = 0; i < 5; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        *out = *out * 10 + (uint32_t)(text[i] - '0');
    }
    return true;
}

static bool split_name(const char *path, size_t *prefix, uint32_t *number, uint32_t *count)
{
    size_t size = strlen(path);
    if (size <= SPLIT_SUFFIX_BYTES)
        return false;
    const char *suffix = path + size - SPLIT_SUFFIX_BYTES;
    *prefix = size - SPLIT_SUFFIX_BYTES;
    return suffix[0] == '-' && five_digits(suffix + 1, number) && memcmp(suffix + 6, "-of-", 4) == 0 &&
           five_digits(suffix + 10, count) && strcmp(suffix + 15, ".gguf") == 0;
}

#define MOST_LINKS 16

/* Follows symbolic links from a path to the first one with the name of a part. Returns false if there is none. */
static bool follow_to_split_name(const char *path, char *out, size_t room)
{
    char target[PATH_MAX];
    size_t prefix;
    uint32_t number, count;
    if (snprintf(out, room, "%s", path) >= (int)room)
        return false;
    for (int links = 0; links < MOST_LINKS; links++) {
        ssize_t size = readlink(out, target, sizeof target - 1);
        if (size <= 0)
            return false;
        target[size] = '\0';
        char *slash = target[0] == '/' ? NULL : strrchr(out, '/');
        size_t folder = slash ? (size_t)(slash - out) + 1 : 0;
        if (snprintf(out + folder, room - folder, "%s", target) >= (int)(room - folder))
            return false;
        if (split_name(out, &prefix, &number, &count))
            return true;
    }
    return false;
}

/* The split.* metadata of a file: its number (from 0), the number of parts (1: not split), and the tensors of all
 * parts. */
struct split_keys {
    uint64_t number;
    uint64_t count;
    uint64_t tensors;
};

static bool header_uint64(const struct gguf_header *header, const char *key, uint64_t *out)
{
    size_t position = name_index_find(header->value_index, header->value_count, key, strlen(key));
    return position != SIZE_MAX && header->values[position].type != GGUF_ARRAY &&
           gguf_value_uint64(&header->values[position], 0, out);
}

static struct split_keys split_keys(const struct gguf_header *header)
{
    struct split_keys keys = {0, 1, UINT64_MAX};
    header_uint64(header, "split.no", &keys.number);
    header_uint64(header, "split.count", &keys.count);
    header_uint64(header, "split.tensors.count", &keys.tensors);
    if (keys.count == 0)
        keys.count = 1;
    return keys;
}

static hypura_status add_part(struct gguf *file, const char *path, uint64_t bytes, hypura_error *error)
{
    hypura_status status = memory_resize((void **)&file->parts, file->part_count, file->part_count + 1,
                                         sizeof *file->parts, "list of files", error);
    if (status || (status = string_copy(&file->parts[file->part_count].path, path, error)))
        return status;
    file->parts[file->part_count++].bytes = bytes;
    return HYPURA_OK;
}

/* Moves the tensors of another part to the end of the table. */
static hypura_status add_tensors(struct gguf *file, const struct gguf_header *more, hypura_error *error)
{
    struct gguf_header *all = &file->header;
    size_t total = all->tensor_count + more->tensor_count; /* both were bounded by the sizes of their files */
    hypura_status status =
        memory_resize((void **)&all->tensors, all->tensor_count, total, sizeof *all->tensors, "tensor table", error);
    if (status)
        return status;
    for (size_t i = 0; i < more->tensor_count; i++) {
        all->tensors[all->tensor_count + i] = more->tensors[i];
        all->tensors[all->tensor_count + i].file = (uint32_t)file->part_count;
    }
    all->tensor_count = total;
    return HYPURA_OK;
}

static hypura_status read_part(struct gguf *file, const char *path, uint32_t number, uint32_t count,
                               hypura_error *error)
{
    char shown[PATH_TEXT_ROOM];
    path_text(shown, path);
    if (access(path, F_OK))
        return error_set_errno(error, errno, "part %u of %u of the split model is missing: %s", number, count, shown);
    struct gguf_header header = {0};
    hypura_status status = gguf_header_read(&header, &file->arena, path, error);
    if (status)
        return status;
    struct split_keys keys = split_keys(&header);
    if (header.partial)
        status =
            error_set(error, HYPURA_ERROR_FORMAT,
                      "%s: this file holds only the tensors that one host serves; expected the complete part %u of %u",
                      shown, number, count);
    else if (keys.number + 1 != number || keys.count != count)
        status = error_set(error, HYPURA_ERROR_FORMAT,
                           "%s: the file says that it is part %" PRIu64 " of %" PRIu64 "; expected part %u of %u",
                           shown, keys.number + 1, keys.count, number, count);
    if (!status && number == 1) {
        uint64_t bytes = header.file_bytes;
        file->header = header;
        return add_part(file, path, bytes, error);
    }
    if (!status)
        status = add_tensors(file, &header, error);
    if (!status)
        status = add_part(file, path, header.file_bytes, error);
    gguf_header_free(&header);
    return status;
}

static hypura_status read_all_parts(struct gguf *file, const char *path, size_t prefix, uint32_t count,
                                    hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    struct buffer name = {0};
    for (uint32_t number = 1; number <= count && !status; number++) {
        buffer_clear(&name);
        buffer_append(&name, path, prefix);
        buffer_append_format(&name, "-%05u-of-%05u.gguf", number, count);
        status = name.failed ? error_set(error, HYPURA_ERROR_MEMORY, "no memory for a file name")
                             : read_part(file, name.data, number, count, error);
    }
    buffer_free(&name);
    return status;
}

static hypura_status read_model(struct gguf *file, const char *path, hypura_error *error)
{
    struct gguf_header header = {0};
    hypura_status status = gguf_header_read(&header, &file->arena, path, error);
    if (status)
        return status;
    struct split_keys keys = split_keys(&header);
    if (keys.count == 1) {
        uint64_t bytes = header.file_bytes;
        file->header = header;
        return add_part(file, path, bytes, error);
    }
    gguf_header_free(&header);
    arena_free(&file->arena);
    char shown[PATH_TEXT_ROOM], linked[PATH_MAX];
    path_text(shown, path);
    size_t prefix;
    uint32_t number, count;
    if (!split_name(path, &prefix, &number, &count) && follow_to_split_name(path, linked, sizeof linked))
        path = linked;
    if (!split_name(path, &prefix, &number, &count))
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: the file is part %" PRIu64 " of %" PRIu64
                         " of a split model; expected a name that ends in -%05" PRIu64 "-of-%05" PRIu64
                         ".gguf, which is how the other parts are found",
                         shown, keys.number + 1, keys.count, keys.number + 1, keys.count);
    if (keys.number + 1 != number || keys.count != count)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: the file says that it is part %" PRIu64 " of %" PRIu64
                         ", but its name says part %u of %u",
                         shown, keys.number + 1, keys.count, number, count);
    status = read_all_parts(file, path, prefix, count, error);
    if (!status && keys.tensors != UINT64_MAX && keys.tensors != file->header.tensor_count)
        status = error_set(error, HYPURA_ERROR_FORMAT,
                           "%s: the %u parts of the model have %zu tensors together; expected %" PRIu64, shown, count,
                           file->header.tensor_count, keys.tensors);
    return status;
}

static hypura_status index_tensors(struct gguf *file, hypura_error *error)
{
    size_t count = file->header.tensor_count;
    hypura_status status = ALLOCATE(&file->tensor_index, count, "tensor index", error);
    if (status)
        return status;
    for (size_t i = 0; i < count; i++)
        file->tensor_index[i] =
            (struct name_entry){file->header.tensors[i].name.data, file->header.tensors[i].name.size, i};
    name_index_sort(file->tensor_index, count);
    const struct name_entry *twice = name_index_duplicate(file->tensor_index, count);
    if (!twice)
        return HYPURA_OK;
    char name[NAME_TEXT_ROOM], shown[PATH_TEXT_ROOM];
    return error_set(error, HYPURA_ERROR_FORMAT, "%s: the tensor \"%s\" occurs twice (entries %zu and %zu)",
                     path_text(shown, file->parts[0].path), name_text(name, twice->data, twice->size),
                     twice[0].position, twice[1].position);
}

static hypura_status check_whole(const struct gguf *file, hypura_error *error)
{
    char shown[PATH_TEXT_ROOM];
    if (!file->header.partial)
        return HYPURA_OK;
    return error_set(error, HYPURA_ERROR_FORMAT,
                     "%s holds only the tensors that one of several hosts serves; use the file of the whole model",
                     path_text(shown, file->parts[0].path));
}

static hypura_status open_file(struct gguf **out, const char *path, bool partial, hypura_error *error)
{
    struct gguf *file;
    hypura_status status = ALLOCATE(&file, 1, "model file", error);
    if (status)
        return status;
    if ((status = read_model(file, path, error)) || (!partial && (status = check_whole(file, error))) ||
        (status = index_tensors(file, error)))
        gguf_close(file);
    else
        *out = file;
    return status;
}

hypura_status gguf_open(struct gguf **out, const char *path, hypura_error *error)
{
    return open_file(out, path, false, error);
}

hypura_status gguf_open_partial(struct gguf **out, const char *path, hypura_error *error)
{
    return open_file(out, path, true, error);
}

bool gguf_is_partial(const struct gguf *file)
{
    return file->header.partial;
}

void gguf_close(struct gguf *file)
{
    if (!file)
        return;
    for (size_t i = 0; i < file->part_count; i++)
        memory_free(file->parts[i].path);
    memory_free(file->parts);
    memory_free(file->tensor_index);
    gguf_header_free(&file->header);
    arena_free(&file->arena);
    memory_free(file);
}

uint32_t gguf_version(const struct gguf *file)
{
    return file->header.version;
}

uint64_t gguf_alignment(const struct gguf *file)
{
    return file->header.alignment;
}

size_t gguf_file_count(const struct gguf *file)
{
    return file->part_count;
}

const char *gguf_file_path(const struct gguf *file, size_t index)
{
    return file->parts[index].path;
}

uint64_t gguf_file_bytes(const struct gguf *file, size_t index)
{
    return file->parts[index].bytes;
}

size_t gguf_value_count(const struct gguf *file)
{
    return file->header.value_count;
}

const struct gguf_value *gguf_value_at(const struct gguf *file, size_t index)
{
    return &file->header.values[index];
}

const struct gguf_value *gguf_find(const struct gguf *file, const char *key)
{
    size_t position = name_index_find(file->header.value_index, file->header.value_count, key, strlen(key));
    return position == SIZE_MAX ? NULL : &file->header.values[position];
}

size_t gguf_tensor_count(const struct gguf *file)
{
    return file->header.tensor_count;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *file, size_t index)
{
    return &file->header.tensors[index];
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *file, const char *name)
{
    size_t position = name_index_find(file->tensor_index, file->header.tensor_count, name, strlen(name));
    return position == SIZE_MAX ? NULL : &file->header.tensors[position];
}
