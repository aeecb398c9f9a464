#include "format/format_private.h"

#include "core/durable.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define WRITE_BYTES ((size_t)1 << 20)

/* Dirty pages are flushed to the drive in pieces of this size, so the final fsync does not wait for the whole file. */
#define FLUSH_BYTES ((uint64_t)64 << 20)

static const char alignment_key[] = "general.alignment";

struct name_list {
    struct name_entry *entries;
    size_t count;
    size_t room;
};

struct gguf_writer {
    char *path;
    char *partial_path;
    int file;
    uint32_t alignment;
    bool opened;
    bool header_written;
    bool finished;

    struct arena names;
    struct name_list value_names;
    struct name_list tensor_names;
    uint64_t *tensor_bytes; /* as many as tensor_names has capacity for */
    struct buffer values;
    struct buffer tensors;
    uint64_t data_bytes; /* offset of the next tensor while they are being added */

    size_t tensor;         /* the current tensor */
    uint64_t tensor_taken; /* its bytes so far */
    unsigned char *buffer;
    size_t buffered;
    uint64_t written; /* bytes passed to the system */
    uint64_t flushed;
};

static hypura_status no_room(hypura_error *error)
{
    return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the header of a GGUF file");
}

static hypura_status make_writer(struct gguf_writer **out, uint32_t alignment, hypura_error *error)
{
    if (alignment == 0)
        alignment = GGUF_DEFAULT_ALIGNMENT;
    if (alignment < 8 || (alignment & (alignment - 1)))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "alignment %u; expected a power of two of at least 8",
                         alignment);
    hypura_status status = ALLOCATE(out, 1, "GGUF writer", error);
    if (status)
        return status;
    (*out)->file = -1;
    (*out)->alignment = alignment;
    return HYPURA_OK;
}

static hypura_status say_alignment(struct gguf_writer *writer, hypura_error *error)
{
    if (writer->alignment == GGUF_DEFAULT_ALIGNMENT)
        return HYPURA_OK;
    return gguf_writer_add(writer, alignment_key, GGUF_UINT32, &writer->alignment, 1, false, error);
}

hypura_status gguf_writer_create(struct gguf_writer **out, const char *path, uint32_t alignment, hypura_error *error)
{
    struct gguf_writer *writer;
    hypura_status status = make_writer(&writer, alignment, error);
    if (status)
        return status;
    size_t room = strlen(path) + sizeof ".partial";
    if ((status = string_copy(&writer->path, path, error)) ||
        (status = ALLOCATE(&writer->partial_path, room, "file name", error)) ||
        (status = ALLOCATE(&writer->buffer, WRITE_BYTES, "write buffer", error)))
        goto failed;
    snprintf(writer->partial_path, room, "%s.partial", path);
    if ((status = durable_may_replace(path, error)))
        goto failed;
    writer->file = open(writer->partial_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (writer->file < 0) {
        char shown[PATH_TEXT_ROOM];
        status = error_set_errno(error, errno, "cannot write %s", path_text(shown, writer->partial_path));
        goto failed;
    }
    writer->opened = true;
    if ((status = say_alignment(writer, error)))
        goto failed;
    *out = writer;
    return HYPURA_OK;
failed:
    gguf_writer_destroy(writer);
    return status;
}

hypura_status gguf_writer_create_header(struct gguf_writer **out, int descriptor, uint32_t alignment,
                                        hypura_error *error)
{
    struct gguf_writer *writer;
    hypura_status status = make_writer(&writer, alignment, error);
    if (status)
        return status;
    writer->file = dup(descriptor);
    if (writer->file < 0)
        status = error_set_errno(error, errno, "cannot write the header");
    if (!status)
        status = string_copy(&writer->partial_path, "a file without a name", error);
    if (!status)
        status = ALLOCATE(&writer->buffer, WRITE_BYTES, "write buffer", error);
    if (!status)
        status = say_alignment(writer, error);
    if (status)
        gguf_writer_destroy(writer);
    else
        *out = writer;
    return status;
}

static hypura_status add_name(struct gguf_writer *writer, struct name_list *list, const char *name, hypura_error *error)
{
    size_t size = strlen(name);
    if (size > GGUF_MAX_KEY_BYTES)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a name has %zu bytes; expected at most %d", size,
                         GGUF_MAX_KEY_BYTES);
    if (list->count == list->room) {
        size_t room = list->room ? list->room * 2 : 64;
        hypura_status status = HYPURA_OK;
        if (list == &writer->tensor_names)
            status = memory_resize((void **)&writer->tensor_bytes, list->count, room, sizeof *writer->tensor_bytes,
                                   "table of names", error);
        if (!status)
            status = memory_resize((void **)&list->entries, list->count, room, sizeof *list->entries, "table of names",
                                   error);
        if (status)
            return status;
        list->room = room;
    }
    void *copy;
    hypura_status status = arena_take(&writer->names, &copy, size + 1, "name", error);
    if (status)
        return status;
    memcpy(copy, name, size + 1);
    list->entries[list->count] = (struct name_entry){copy, size, list->count};
    list->count++;
    return HYPURA_OK;
}

static void append_uint32(struct buffer *buffer, uint32_t value)
{
    buffer_append(buffer, &value, sizeof value);
}

static void append_uint64(struct buffer *buffer, uint64_t value)
{
    buffer_append(buffer, &value, sizeof value);
}

static void append_string(struct buffer *buffer, const char *data, size_t size)
{
    append_uint64(buffer, size);
    buffer_append(buffer, data, size);
}

static hypura_status refuse_after_data(const struct gguf_writer *writer, const char *name, hypura_error *error)
{
    if (!writer->header_written)
        return HYPURA_OK;
    return error_set(error, HYPURA_ERROR_ARGUMENT, "\"%s\" is added after tensor data; the header is written already",
                     name);
}

hypura_status gguf_writer_add(struct gguf_writer *writer, const char *key, enum gguf_value_type type, const void *data,
                              uint64_t count, bool array, hypura_error *error)
{
    hypura_status status = refuse_after_data(writer, key, error);
    if (status)
        return status;
    size_t scalar = gguf_scalar_bytes(type), bytes;
    if (type != GGUF_STRING && scalar == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "\"%s\" has value type %d, which is not a scalar", key, type);
    if (!array && count != 1)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "\"%s\" has %" PRIu64 " values but is not an array", key, count);
    if (strcmp(key, alignment_key) == 0) {
        if (array || type != GGUF_UINT32 || memcmp(data, &writer->alignment, sizeof writer->alignment) != 0)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "%s differs from the writer's alignment of %u", key,
                             writer->alignment);
        if (writer->alignment != GGUF_DEFAULT_ALIGNMENT && writer->value_names.count > 0)
            return HYPURA_OK; /* the writer has added it itself */
    }
    if (count > SIZE_MAX / 8 || !size_multiply(&bytes, (size_t)count, scalar))
        return no_room(error);
    if ((status = add_name(writer, &writer->value_names, key, error)))
        return status;
    struct buffer *out = &writer->values;
    append_string(out, key, strlen(key));
    append_uint32(out, array ? GGUF_ARRAY : type);
    if (array) {
        append_uint32(out, type);
        append_uint64(out, count);
    }
    if (type == GGUF_STRING) {
        const struct gguf_string *strings = data;
        for (uint64_t i = 0; i < count; i++)
            append_string(out, strings[i].data, strings[i].size);
    } else {
        buffer_append(out, data, bytes);
    }
    return out->failed ? no_room(error) : HYPURA_OK;
}

hypura_status gguf_writer_add_uint32(struct gguf_writer *writer, const char *key, uint32_t value, hypura_error *error)
{
    return gguf_writer_add(writer, key, GGUF_UINT32, &value, 1, false, error);
}

hypura_status gguf_writer_add_float(struct gguf_writer *writer, const char *key, float value, hypura_error *error)
{
    return gguf_writer_add(writer, key, GGUF_FLOAT32, &value, 1, false, error);
}

hypura_status gguf_writer_add_bool(struct gguf_writer *writer, const char *key, bool value, hypura_error *error)
{
    return gguf_writer_add(writer, key, GGUF_BOOL, &value, 1, false, error);
}

hypura_status gguf_writer_add_string(struct gguf_writer *writer, const char *key, const char *value,
                                     hypura_error *error)
{
    struct gguf_string string = {value, strlen(value)};
    return gguf_writer_add(writer, key, GGUF_STRING, &string, 1, false, error);
}

hypura_status gguf_writer_add_tensor(struct gguf_writer *writer, const char *name, enum tensor_type type,
                                     uint32_t dimension_count, const uint64_t *dimensions, hypura_error *error)
{
    hypura_status status = refuse_after_data(writer, name, error);
    if (status)
        return status;
    const struct tensor_type_info *info = tensor_type_info(type);
    if (!info)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "tensor \"%s\" has unknown type %d", name, type);
    if (dimension_count == 0 || dimension_count > GGUF_MAX_DIMENSIONS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "tensor \"%s\" has %u dimensions; expected 1 to %d", name,
                         dimension_count, GGUF_MAX_DIMENSIONS);
    uint64_t bytes, end;
    bool fits = dimensions[0] > 0 && tensor_row_bytes(type, dimensions[0], &bytes);
    for (uint32_t i = 1; i < dimension_count && fits; i++)
        fits = dimensions[i] > 0 && !__builtin_mul_overflow(bytes, dimensions[i], &bytes);
    if (!fits || __builtin_add_overflow(writer->data_bytes, bytes, &end) || end > (uint64_t)INT64_MAX / 2)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "tensor \"%s\" of type %s cannot have this shape: rows of %" PRIu64
                         " elements (blocks have %u), or a dimension that is 0, or too large",
                         name, info->name, dimensions[0], info->block_size);
    if ((status = add_name(writer, &writer->tensor_names, name, error)))
        return status;
    writer->tensor_bytes[writer->tensor_names.count - 1] = bytes;
    struct buffer *out = &writer->tensors;
    append_string(out, name, strlen(name));
    append_uint32(out, dimension_count);
    for (uint32_t i = 0; i < dimension_count; i++)
        append_uint64(out, dimensions[i]);
    append_uint32(out, type);
    append_uint64(out, writer->data_bytes);
    writer->data_bytes = align_up(end, writer->alignment);
    return out->failed ? no_room(error) : HYPURA_OK;
}

static hypura_status give_to_system(struct gguf_writer *writer, const unsigned char *data, uint64_t bytes,
                                    hypura_error *error)
{
    while (bytes) {
        ssize_t done = write(writer->file, data, (size_t)MIN(bytes, FLUSH_BYTES));
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0) {
            char shown[PATH_TEXT_ROOM];
            return error_set_errno(error, errno, "%s: cannot write at offset %" PRIu64,
                                   path_text(shown, writer->partial_path), writer->written);
        }
        data += done;
        bytes -= (uint64_t)done;
        writer->written += (uint64_t)done;
    }
#ifdef SYNC_FILE_RANGE_WRITE
    if (writer->written - writer->flushed >= FLUSH_BYTES) {
        sync_file_range(writer->file, (off_t)writer->flushed, (off_t)(writer->written - writer->flushed),
                        SYNC_FILE_RANGE_WRITE);
        writer->flushed = writer->written;
    }
#endif
    return HYPURA_OK;
}

static hypura_status empty_buffer(struct gguf_writer *writer, hypura_error *error)
{
    size_t bytes = writer->buffered;
    writer->buffered = 0;
    return give_to_system(writer, writer->buffer, bytes, error);
}

static hypura_status put(struct gguf_writer *writer, const unsigned char *data, uint64_t bytes, hypura_error *error)
{
    if (bytes >= WRITE_BYTES) {
        hypura_status status = empty_buffer(writer, error);
        return status ? status : give_to_system(writer, data, bytes, error);
    }
    while (bytes) {
        size_t piece = (size_t)MIN(bytes, WRITE_BYTES - writer->buffered);
        memcpy(writer->buffer + writer->buffered, data, piece);
        writer->buffered += piece;
        data += piece;
        bytes -= piece;
        if (writer->buffered == WRITE_BYTES) {
            hypura_status status = empty_buffer(writer, error);
            if (status)
                return status;
        }
    }
    return HYPURA_OK;
}

static hypura_status put_padding(struct gguf_writer *writer, hypura_error *error)
{
    static const unsigned char zeros[4096];
    uint64_t position = writer->written + writer->buffered;
    uint64_t left = align_up(position, writer->alignment) - position;
    hypura_status status = HYPURA_OK;
    while (left && !status) {
        uint64_t piece = MIN(left, sizeof zeros);
        status = put(writer, zeros, piece, error);
        left -= piece;
    }
    return status;
}

static hypura_status refuse_duplicates(struct name_list *list, const char *what, hypura_error *error)
{
    name_index_sort(list->entries, list->count);
    const struct name_entry *twice = name_index_duplicate(list->entries, list->count);
    char name[NAME_TEXT_ROOM];
    return twice ? error_set(error, HYPURA_ERROR_ARGUMENT, "the %s \"%s\" was added twice", what,
                             name_text(name, twice->data, twice->size))
                 : HYPURA_OK;
}

static hypura_status write_header(struct gguf_writer *writer, hypura_error *error)
{
    struct buffer *values = &writer->values, *tensors = &writer->tensors;
    if (values->failed || tensors->failed)
        return no_room(error);
    hypura_status status = refuse_duplicates(&writer->value_names, "metadata key", error);
    if (status || (status = refuse_duplicates(&writer->tensor_names, "tensor", error)))
        return status;
    struct {
        char magic[4];
        uint32_t version;
        uint64_t tensors;
        uint64_t values;
    } start = {{'G', 'G', 'U', 'F'}, 3, writer->tensor_names.count, writer->value_names.count};
    if ((status = put(writer, (const unsigned char *)&start, sizeof start, error)) ||
        (status = put(writer, (const unsigned char *)values->data, values->size, error)) ||
        (status = put(writer, (const unsigned char *)tensors->data, tensors->size, error)) ||
        (status = put_padding(writer, error)))
        return status;
    writer->header_written = true;
    buffer_free(values);
    buffer_free(tensors);
    return HYPURA_OK;
}

hypura_status gguf_writer_write(struct gguf_writer *writer, const void *data, uint64_t bytes, hypura_error *error)
{
    const unsigned char *source = data;
    hypura_status status = writer->header_written ? HYPURA_OK : write_header(writer, error);
    while (bytes && !status) {
        if (writer->tensor == writer->tensor_names.count)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "the data exceeds the tensors by %" PRIu64 " bytes", bytes);
        uint64_t whole = writer->tensor_bytes[writer->tensor];
        uint64_t piece = MIN(bytes, whole - writer->tensor_taken);
        status = put(writer, source, piece, error);
        source += piece;
        bytes -= piece;
        writer->tensor_taken += piece;
        if (!status && writer->tensor_taken == whole) {
            writer->tensor++;
            writer->tensor_taken = 0;
            status = put_padding(writer, error);
        }
    }
    return status;
}

hypura_status gguf_writer_finish(struct gguf_writer *writer, hypura_error *error)
{
    hypura_status status = writer->header_written ? HYPURA_OK : write_header(writer, error);
    if (status)
        return status;
    if (writer->tensor < writer->tensor_names.count)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the data of %zu of %zu tensors was not written",
                         writer->tensor_names.count - writer->tensor, writer->tensor_names.count);
    if ((status = empty_buffer(writer, error)))
        return status;
    char shown[PATH_TEXT_ROOM];
    path_text(shown, writer->partial_path);
    /* A full drive may cause an error only here. Without fsync, a crash after the rename could leave an empty file. */
    if (fsync(writer->file))
        return error_set_errno(error, errno, "%s: cannot flush the file to the drive", shown);
#ifdef POSIX_FADV_DONTNEED
    posix_fadvise(writer->file, 0, 0, POSIX_FADV_DONTNEED);
#endif
    int file = writer->file;
    writer->file = -1;
    if (close(file))
        return error_set_errno(error, errno, "%s: cannot close the file", shown);
    if (rename(writer->partial_path, writer->path))
        return error_set_errno(error, errno, "%s: cannot rename the file to its name without \".partial\"", shown);
    writer->finished = true;
    return HYPURA_OK;
}

hypura_status gguf_writer_finish_header(struct gguf_writer *writer, hypura_error *error)
{
    hypura_status status = write_header(writer, error);
    if (!status)
        status = empty_buffer(writer, error);
    if (!status && ftruncate(writer->file, (off_t)(writer->written + writer->data_bytes)))
        status = error_set_errno(error, errno, "cannot extend %s to its full length", writer->partial_path);
    return status;
}

void gguf_writer_destroy(struct gguf_writer *writer)
{
    if (!writer)
        return;
    if (writer->file >= 0)
        close(writer->file);
    if (!writer->finished && writer->opened)
        unlink(writer->partial_path);
    memory_free(writer->path);
    memory_free(writer->partial_path);
    memory_free(writer->value_names.entries);
    memory_free(writer->tensor_names.entries);
    memory_free(writer->tensor_bytes);
    memory_free(writer->buffer);
    buffer_free(&writer->values);
    buffer_free(&writer->tensors);
    arena_free(&writer->names);
    memory_free(writer);
}
