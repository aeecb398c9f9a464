/* Reads the header of one GGUF file in order, through a buffer, and checks every number before it is used. */
#include "format/format_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define READ_BYTES ((size_t)256 << 10)

/* Limits that no model comes near (the largest vocabularies take 20 MiB of metadata). Without them, a damaged count in
 * a large file could make the reader take gigabytes of weights for names. */
#define MAX_HEADER_BYTES ((uint64_t)256 << 20)
#define MAX_VALUES 65536
#define MAX_TENSORS (1u << 20)

/* The smallest size of an entry of each table in the file. */
#define LEAST_VALUE_BYTES 13  /* key length, type, one byte */
#define LEAST_TENSOR_BYTES 24 /* name length, dimension count, type, offset */

struct reader {
    int file;
    char path[PATH_TEXT_ROOM];
    uint64_t file_bytes;
    uint64_t position;     /* of the next byte */
    unsigned char *buffer; /* [READ_BYTES] the file's bytes from buffer_start */
    uint64_t buffer_start;
    size_t buffer_bytes;
    struct arena *arena;
    hypura_error *error;
};

PRINTF_LIKE(2, 3)
static hypura_status bad(struct reader *reader, const char *format, ...)
{
    char text[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return error_set(reader->error, HYPURA_ERROR_FORMAT, "%s: %s", reader->path, text);
}

static uint64_t bytes_left(const struct reader *reader)
{
    return MIN(reader->file_bytes, MAX_HEADER_BYTES) - reader->position;
}

static hypura_status read_at(struct reader *reader, void *out, size_t bytes, uint64_t offset)
{
    char *target = out;
    while (bytes) {
        ssize_t got = pread(reader->file, target, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set_errno(reader->error, errno, "%s: cannot read %zu bytes at offset %" PRIu64, reader->path,
                                   bytes, offset);
        if (got == 0)
            return bad(reader, "the file became shorter while it was read: it has no data at offset %" PRIu64, offset);
        target += got;
        offset += (uint64_t)got;
        bytes -= (size_t)got;
    }
    return HYPURA_OK;
}

/* Takes the next bytes of the file. what: the noun for the message if the file ends too early. */
static hypura_status take(struct reader *reader, void *out, uint64_t bytes, const char *what)
{
    if (bytes > bytes_left(reader)) {
        if (reader->file_bytes > MAX_HEADER_BYTES)
            return bad(reader,
                       "at offset %" PRIu64 " the %s makes the metadata exceed %" PRIu64
                       " MiB, more than any model needs; the file is damaged",
                       reader->position, what, MAX_HEADER_BYTES >> 20);
        return bad(reader,
                   "the file is truncated: at offset %" PRIu64 " expected %" PRIu64 " bytes of %s, found %" PRIu64,
                   reader->position, bytes, what, bytes_left(reader));
    }
    unsigned char *target = out;
    while (bytes) {
        uint64_t skip = reader->position - reader->buffer_start;
        if (skip < reader->buffer_bytes) {
            size_t piece = (size_t)MIN(bytes, reader->buffer_bytes - skip);
            memcpy(target, reader->buffer + skip, piece);
            target += piece;
            bytes -= piece;
            reader->position += piece;
            continue;
        }
        hypura_status status;
        if (bytes >= READ_BYTES) {
            status = read_at(reader, target, (size_t)bytes, reader->position);
            reader->position += bytes;
            return status;
        }
        reader->buffer_start = reader->position;
        reader->buffer_bytes = 0;
        size_t next = (size_t)MIN(reader->file_bytes - reader->position, READ_BYTES);
        status = read_at(reader, reader->buffer, next, reader->position);
        if (status)
            return status;
        reader->buffer_bytes = next;
    }
    return HYPURA_OK;
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "numbers from files are used without conversion");

static hypura_status take_uint32(struct reader *reader, uint32_t *out, const char *what)
{
    return take(reader, out, sizeof *out, what);
}

static hypura_status take_uint64(struct reader *reader, uint64_t *out, const char *what)
{
    return take(reader, out, sizeof *out, what);
}

static hypura_status take_string(struct reader *reader, struct gguf_string *out, uint64_t most, const char *what)
{
    uint64_t size, offset = reader->position;
    hypura_status status = take_uint64(reader, &size, what);
    if (status)
        return status;
    if (size > bytes_left(reader))
        return bad(reader,
                   "at offset %" PRIu64 " the %s has a length of %" PRIu64 ", but only %" PRIu64
                   " bytes follow: the file is truncated or damaged",
                   offset, what, size, bytes_left(reader));
    if (size > most)
        return bad(reader, "at offset %" PRIu64 " the %s has a length of %" PRIu64 "; expected at most %" PRIu64,
                   offset, what, size, most);
    void *memory;
    status = arena_take(reader->arena, &memory, (size_t)size + 1, what, reader->error);
    if (status)
        return status;
    char *text = memory;
    status = take(reader, text, size, what);
    if (status)
        return status;
    text[size] = 0;
    *out = (struct gguf_string){text, (size_t)size};
    return HYPURA_OK;
}

/* Takes the elements of a value whose element type and count are known. */
static hypura_status take_elements(struct reader *reader, struct gguf_value *value, enum gguf_value_type type)
{
    char name[NAME_TEXT_ROOM];
    name_text(name, value->key.data, value->key.size);
    bool strings = type == GGUF_STRING;
    uint64_t least = strings ? 8 : gguf_scalar_bytes(type);
    uint64_t offset = reader->position;
    if (value->count > bytes_left(reader) / least)
        return bad(reader,
                   "at offset %" PRIu64 " the value of \"%s\" has %" PRIu64 " elements, but only %" PRIu64
                   " fit into the rest of the file: it is truncated or damaged",
                   offset, name, value->count, bytes_left(reader) / least);
    void *memory;
    size_t element = strings ? sizeof(struct gguf_string) : (size_t)least;
    hypura_status status =
        arena_take(reader->arena, &memory, (size_t)value->count * element, "metadata", reader->error);
    if (status)
        return status;
    value->data = memory;
    if (strings) {
        struct gguf_string *list = memory;
        for (uint64_t i = 0; i < value->count && !status; i++)
            status = take_string(reader, &list[i], UINT64_MAX, "string");
        return status;
    }
    status = take(reader, memory, value->count * least, "metadata values");
    if (status || type != GGUF_BOOL)
        return status;
    const unsigned char *bytes = memory;
    for (uint64_t i = 0; i < value->count; i++)
        if (bytes[i] > 1)
            return bad(reader, "at offset %" PRIu64 " the boolean \"%s\" is %u; expected 0 or 1", offset + i, name,
                       bytes[i]);
    return HYPURA_OK;
}

/* Takes a name. text: the name for error messages. */
static hypura_status take_name(struct reader *reader, struct gguf_string *out, char text[NAME_TEXT_ROOM],
                               const char *what)
{
    hypura_status status = take_string(reader, out, GGUF_MAX_KEY_BYTES, what);
    if (status)
        return status;
    if (out->size == 0)
        return bad(reader, "at offset %" PRIu64 " a %s is empty", reader->position - 8, what);
    name_text(text, out->data, out->size);
    return HYPURA_OK;
}

static hypura_status take_value(struct reader *reader, struct gguf_value *value)
{
    char name[NAME_TEXT_ROOM];
    hypura_status status = take_name(reader, &value->key, name, "metadata key");
    if (status)
        return status;
    uint64_t offset = reader->position;
    uint32_t type;
    status = take_uint32(reader, &type, "value type");
    if (status)
        return status;
    if (type > GGUF_FLOAT64)
        return bad(reader, "at offset %" PRIu64 " the value of \"%s\" has type %u; expected 0 to %d", offset, name,
                   type, GGUF_FLOAT64);
    value->type = (enum gguf_value_type)type;
    value->element_type = value->type;
    value->count = 1;
    if (type != GGUF_ARRAY)
        return take_elements(reader, value, value->type);

    offset = reader->position;
    if ((status = take_uint32(reader, &type, "element type")) || (status = take_uint64(reader, &value->count, "count")))
        return status;
    if (type == GGUF_ARRAY)
        return error_set(reader->error, HYPURA_ERROR_UNSUPPORTED,
                         "%s: at offset %" PRIu64
                         " \"%s\" is an array of arrays, which no model uses and hypura does not support",
                         reader->path, offset, name);
    if (type > GGUF_FLOAT64)
        return bad(reader, "at offset %" PRIu64 " the array \"%s\" has elements of type %u; expected 0 to %d", offset,
                   name, type, GGUF_FLOAT64);
    value->element_type = (enum gguf_value_type)type;
    return take_elements(reader, value, value->element_type);
}

static hypura_status take_tensor(struct reader *reader, struct gguf_tensor *tensor)
{
    char name[NAME_TEXT_ROOM];
    hypura_status status = take_name(reader, &tensor->name, name, "tensor name");
    if (status)
        return status;
    uint64_t offset = reader->position;
    status = take_uint32(reader, &tensor->dimension_count, "dimension count");
    if (status)
        return status;
    if (tensor->dimension_count > GGUF_MAX_DIMENSIONS)
        return bad(reader, "at offset %" PRIu64 " tensor \"%s\" has %u dimensions; expected at most %d", offset, name,
                   tensor->dimension_count, GGUF_MAX_DIMENSIONS);
    uint64_t rows = 1;
    for (uint32_t i = 0; i < GGUF_MAX_DIMENSIONS; i++) {
        uint64_t *dimension = &tensor->dimensions[i];
        *dimension = 1;
        if (i >= tensor->dimension_count)
            continue;
        offset = reader->position;
        if ((status = take_uint64(reader, dimension, "dimension")))
            return status;
        if (*dimension == 0)
            return bad(reader, "at offset %" PRIu64 " dimension %u of tensor \"%s\" is 0", offset, i, name);
        if (i > 0 && __builtin_mul_overflow(rows, *dimension, &rows))
            return bad(reader, "at offset %" PRIu64 " tensor \"%s\" has more elements than 64 bits can count", offset,
                       name);
    }
    offset = reader->position;
    uint32_t type;
    if ((status = take_uint32(reader, &type, "tensor type")))
        return status;
    const struct tensor_type_info *info = tensor_type_info(type);
    if (!info)
        return error_set(reader->error, HYPURA_ERROR_UNSUPPORTED,
                         "%s: at offset %" PRIu64 " tensor \"%s\" has the unknown type number %u", reader->path, offset,
                         name, type);
    tensor->type = (enum tensor_type)type;
    if (tensor->dimensions[0] % info->block_size)
        return bad(reader,
                   "at offset %" PRIu64 " tensor \"%s\" of type %s has rows of %" PRIu64
                   " elements; expected a multiple of %u",
                   offset, name, info->name, tensor->dimensions[0], info->block_size);
    uint64_t row_bytes;
    if (!tensor_row_bytes(tensor->type, tensor->dimensions[0], &row_bytes) ||
        __builtin_mul_overflow(row_bytes, rows, &tensor->bytes))
        return bad(reader, "at offset %" PRIu64 " tensor \"%s\" has more bytes than 64 bits can count", offset, name);
    return take_uint64(reader, &tensor->offset, "tensor offset");
}

/* Recognises other files that are mistaken for GGUF files by their first bytes, and refuses them. */
static hypura_status other_file(struct reader *reader, const unsigned char magic[4])
{
    static const struct {
        char begins[5];
        const char *what;
    } kinds[] = {
        {"<!DO", "a web page; use the link that downloads the file, rather than that of its page"},
        {"<!do", "a web page; use the link that downloads the file, rather than that of its page"},
        {"<htm", "a web page; use the link that downloads the file, rather than that of its page"},
        {"vers", "a Git LFS pointer; \"git lfs pull\" fetches the file"},
        {"PK\3\4", "a PyTorch archive; convert the model with llama.cpp's convert_hf_to_gguf.py"},
        {"lmgg", "a llama.cpp model from before GGUF (2023)"},
        {"tjgg", "a llama.cpp model from before GGUF (2023)"},
    };
    for (size_t i = 0; i < COUNT_OF(kinds); i++)
        if (memcmp(magic, kinds[i].begins, 4) == 0)
            return bad(reader, "not a GGUF file but %s", kinds[i].what);
    unsigned char rest[6] = {0};
    hypura_status status = reader->file_bytes >= 10 ? take(reader, rest, sizeof rest, "magic") : HYPURA_OK;
    if (status)
        return status;
    if (memcmp(rest + 4, "{\"", 2) == 0) /* JSON after its length */
        return bad(reader,
                   "not a GGUF file but a safetensors file; convert the model with llama.cpp's convert_hf_to_gguf.py");
    return bad(reader, "not a GGUF file: at offset 0 found bytes %02x %02x %02x %02x, expected 47 47 55 46 (GGUF)",
               magic[0], magic[1], magic[2], magic[3]);
}

static hypura_status check_magic(struct reader *reader, struct gguf_header *header)
{
    unsigned char magic[4];
    if (reader->file_bytes < sizeof magic)
        return bad(reader, "not a GGUF file: it has %" PRIu64 " bytes", reader->file_bytes);
    hypura_status status = take(reader, magic, sizeof magic, "magic");
    if (status)
        return status;
    header->partial = memcmp(magic, GGUF_PARTIAL_MAGIC, 4) == 0;
    if (memcmp(magic, "GGUF", 4) != 0 && !header->partial) {
        if (memcmp(magic, "FUGG", 4) == 0)
            return error_set(reader->error, HYPURA_ERROR_UNSUPPORTED,
                             "%s: a big-endian GGUF file (it starts with FUGG); convert it to little endian",
                             reader->path);
        return other_file(reader, magic);
    }
    if ((status = take_uint32(reader, &header->version, "version")))
        return status;
    if (header->version == 1)
        return error_set(reader->error, HYPURA_ERROR_UNSUPPORTED,
                         "%s: GGUF version 1 at offset 4, which was in use for some weeks of 2023; expected 2 "
                         "or 3: convert the model again",
                         reader->path);
    if (header->version != 0 && (header->version & 0xffff) == 0)
        return error_set(reader->error, HYPURA_ERROR_UNSUPPORTED,
                         "%s: a big-endian GGUF file (version bytes in reverse order at offset 4); convert it to "
                         "little endian",
                         reader->path);
    if (header->version != 2 && header->version != 3)
        return error_set(reader->error, HYPURA_ERROR_UNSUPPORTED, "%s: GGUF version %u at offset 4; expected 2 or 3",
                         reader->path, header->version);
    return HYPURA_OK;
}

/* Sorts a table of names for look-up, and refuses duplicates. */
static hypura_status check_names(struct reader *reader, struct name_entry *index, size_t count, const char *what)
{
    name_index_sort(index, count);
    const struct name_entry *twice = name_index_duplicate(index, count);
    if (!twice)
        return HYPURA_OK;
    char name[NAME_TEXT_ROOM];
    return bad(reader, "the %s \"%s\" occurs twice (entries %zu and %zu)", what,
               name_text(name, twice->data, twice->size), twice[0].position, twice[1].position);
}

static hypura_status take_values(struct reader *reader, struct gguf_header *header)
{
    hypura_status status = ALLOCATE(&header->values, header->value_count, "metadata table", reader->error);
    for (size_t i = 0; i < header->value_count && !status; i++)
        status = take_value(reader, &header->values[i]);
    if (status || (status = ALLOCATE(&header->value_index, header->value_count, "metadata index", reader->error)))
        return status;
    for (size_t i = 0; i < header->value_count; i++)
        header->value_index[i] = (struct name_entry){header->values[i].key.data, header->values[i].key.size, i};
    return check_names(reader, header->value_index, header->value_count, "metadata key");
}

static hypura_status find_alignment(struct reader *reader, struct gguf_header *header)
{
    static const char key[] = "general.alignment";
    size_t position = name_index_find(header->value_index, header->value_count, key, strlen(key));
    header->alignment = GGUF_DEFAULT_ALIGNMENT;
    if (position == SIZE_MAX)
        return HYPURA_OK;
    const struct gguf_value *value = &header->values[position];
    if (value->type != GGUF_UINT32 || !gguf_value_uint64(value, 0, &header->alignment))
        return bad(reader, "general.alignment has value type %d; expected %d (uint32)", value->type, GGUF_UINT32);
    if (header->alignment == 0 || (header->alignment & (header->alignment - 1)))
        return bad(reader, "general.alignment is %" PRIu64 "; expected a power of two", header->alignment);
    return HYPURA_OK;
}

static hypura_status take_tensors(struct reader *reader, struct gguf_header *header)
{
    hypura_status status = ALLOCATE(&header->tensors, header->tensor_count, "tensor table", reader->error);
    for (size_t i = 0; i < header->tensor_count && !status; i++)
        status = take_tensor(reader, &header->tensors[i]);
    if (status)
        return status;
    header->data_offset = align_up(reader->position, header->alignment);
    for (size_t i = 0; i < header->tensor_count; i++) {
        struct gguf_tensor *tensor = &header->tensors[i];
        char name[NAME_TEXT_ROOM];
        name_text(name, tensor->name.data, tensor->name.size);
        if (tensor->offset % header->alignment)
            return bad(reader, "tensor \"%s\" starts at %" PRIu64 " in the data; expected a multiple of %" PRIu64, name,
                       tensor->offset, header->alignment);
        uint64_t start, end;
        if (__builtin_add_overflow(tensor->offset, header->data_offset, &start) ||
            __builtin_add_overflow(start, tensor->bytes, &end) || end > header->file_bytes)
            return bad(reader,
                       "tensor \"%s\" takes %" PRIu64 " bytes from %" PRIu64 " in the data, which begins at %" PRIu64
                       ", but the file has only %" PRIu64 " bytes: it is truncated or damaged",
                       name, tensor->bytes, tensor->offset, header->data_offset, header->file_bytes);
        tensor->offset = start;
    }
    return HYPURA_OK;
}

static hypura_status read_header(struct reader *reader, struct gguf_header *header)
{
    hypura_status status = check_magic(reader, header);
    uint64_t tensors, values;
    if (status || (status = take_uint64(reader, &tensors, "tensor count")) ||
        (status = take_uint64(reader, &values, "metadata count")))
        return status;
    uint64_t most = MIN(bytes_left(reader) / LEAST_TENSOR_BYTES, MAX_TENSORS);
    if (tensors > most)
        return bad(reader,
                   "at offset 8 the tensor count is %" PRIu64 "; expected at most %" PRIu64 " in a file of this size",
                   tensors, most);
    most = MIN(bytes_left(reader) / LEAST_VALUE_BYTES, MAX_VALUES);
    if (values > most)
        return bad(reader,
                   "at offset 16 the metadata count is %" PRIu64 "; expected at most %" PRIu64
                   " in a file of this size",
                   values, most);
    header->tensor_count = (size_t)tensors;
    header->value_count = (size_t)values;
    if ((status = take_values(reader, header)) || (status = find_alignment(reader, header)))
        return status;
    return take_tensors(reader, header);
}

static hypura_status open_regular(struct reader *reader, const char *path)
{
    /* Without O_NONBLOCK, opening a named pipe would wait for a writer. */
    reader->file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (reader->file < 0)
        return error_set_errno(reader->error, errno, "cannot open %s", reader->path);
    struct stat info;
    if (fstat(reader->file, &info))
        return error_set_errno(reader->error, errno, "cannot look at %s", reader->path);
    if (S_ISDIR(info.st_mode))
        return error_set(reader->error, HYPURA_ERROR_ARGUMENT, "%s is a directory; expected a GGUF file", reader->path);
    if (!S_ISREG(info.st_mode))
        return error_set(reader->error, HYPURA_ERROR_ARGUMENT,
                         "%s is not a regular file; a model cannot be read from a pipe or a device", reader->path);
    reader->file_bytes = (uint64_t)info.st_size;
#ifdef F_NOCACHE
    fcntl(reader->file, F_NOCACHE, 1);
#endif
    return HYPURA_OK;
}

hypura_status gguf_header_read(struct gguf_header *out, struct arena *arena, const char *path, hypura_error *error)
{
    struct reader reader = {.file = -1, .arena = arena, .error = error};
    struct gguf_header header = {0};
    path_text(reader.path, path);
    hypura_status status = open_regular(&reader, path);
    if (!status)
        status = ALLOCATE(&reader.buffer, READ_BYTES, "read buffer", error);
    if (!status) {
        header.file_bytes = reader.file_bytes;
        status = read_header(&reader, &header);
#ifdef POSIX_FADV_DONTNEED
        /* The header is in the arena now: drop it, and the system's read-ahead after it, from the page cache. */
        posix_fadvise(reader.file, 0, (off_t)(reader.position + ((uint64_t)4 << 20)), POSIX_FADV_DONTNEED);
#endif
    }
    if (reader.file >= 0)
        close(reader.file);
    memory_free(reader.buffer);
    if (status)
        gguf_header_free(&header);
    else
        *out = header;
    return status;
}

void gguf_header_free(struct gguf_header *header)
{
    memory_free(header->values);
    memory_free(header->value_index);
    memory_free(header->tensors);
    *header = (struct gguf_header){0};
}
