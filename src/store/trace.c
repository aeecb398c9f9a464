#include "store/trace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MAGIC "HYPTRACE"
#define VERSION 1u
#define MAX_NAME 4096u
#define MAX_LAYERS 65536u
#define MAX_EXPERTS 65536u

static void put_u32(uint8_t *bytes, uint32_t value)
{
    for (unsigned i = 0; i < 4; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

static void put_u64(uint8_t *bytes, uint64_t value)
{
    for (unsigned i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(value >> (8 * i));
}

static uint32_t get_u32(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static uint64_t get_u64(const uint8_t *bytes)
{
    return get_u32(bytes) | (uint64_t)get_u32(bytes + 4) << 32;
}

void trace_shape_free(struct trace_shape *shape)
{
    memory_free(shape->layers);
    shape->layers = NULL;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

struct trace_writer {
    FILE *file;
    char *path;
    struct trace_shape shape;
    uint64_t written;  /* bytes of the file, with whole passes */
    hypura_error lost; /* why writing stopped */
    uint32_t tokens;   /* of the pass that is open; 0: none */
    bool *given;       /* [layer_count] */
    uint8_t *pass;     /* PASS_HEAD, [layer_count][tokens][used] u16 */
    size_t room;
};

#define PASS_HEAD 4u

static hypura_status write_failed(const struct trace_writer *writer, hypura_error *error)
{
    return error_set_errno(error, errno, "cannot write the trace %s", writer->path);
}

static hypura_status write_header(struct trace_writer *writer, hypura_error *error)
{
    const struct trace_shape *shape = &writer->shape;
    size_t name_bytes = shape->name ? MIN(strlen(shape->name), (size_t)MAX_NAME) : 0;
    uint8_t head[28];
    memcpy(head, MAGIC, 8);
    put_u32(head + 8, VERSION);
    put_u32(head + 12, shape->layer_count);
    put_u32(head + 16, shape->experts);
    put_u32(head + 20, shape->used);
    put_u32(head + 24, (uint32_t)name_bytes);
    bool good = fwrite(head, sizeof head, 1, writer->file) == 1 &&
                fwrite(shape->name ? shape->name : "", 1, name_bytes, writer->file) == name_bytes;
    for (uint32_t i = 0; good && i < shape->layer_count; i++) {
        uint8_t layer[12];
        put_u32(layer, shape->layers[i].layer);
        put_u64(layer + 4, shape->layers[i].expert_bytes);
        good = fwrite(layer, sizeof layer, 1, writer->file) == 1;
    }
    writer->written = sizeof head + name_bytes + 12 * (uint64_t)shape->layer_count;
    return good ? HYPURA_OK : write_failed(writer, error);
}

static void writer_free(struct trace_writer *writer)
{
    if (writer->file)
        fclose(writer->file);
    memory_free(writer->path);
    memory_free(writer->shape.layers);
    memory_free(writer->given);
    memory_free(writer->pass);
    memory_free(writer);
}

static hypura_status check_shape(const struct trace_shape *shape, const char *path, hypura_error *error)
{
    if (shape->layer_count == 0 || shape->layer_count > MAX_LAYERS || shape->experts == 0 ||
        shape->experts > MAX_EXPERTS || shape->used == 0 || shape->used > shape->experts)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: a trace of %u layers with %u experts, %u of them used: expected 1 to %u layers, 1 to %u "
                         "experts, and no more used than exist",
                         path, shape->layer_count, shape->experts, shape->used, MAX_LAYERS, MAX_EXPERTS);
    return HYPURA_OK;
}

hypura_status trace_writer_create(struct trace_writer **out, const char *path, const struct trace_shape *shape,
                                  hypura_error *error)
{
    hypura_status status = check_shape(shape, path, error);
    if (status)
        return status;
    struct trace_writer *writer;
    status = ALLOCATE(&writer, 1, "trace writer", error);
    if (status)
        return status;
    writer->shape = *shape;
    writer->shape.layers = NULL;
    if ((status = string_copy(&writer->path, path, error)) ||
        (status = ALLOCATE(&writer->shape.layers, shape->layer_count, "layers of the trace", error)) ||
        (status = ALLOCATE(&writer->given, shape->layer_count, "layers of the trace", error))) {
        writer_free(writer);
        return status;
    }
    memcpy(writer->shape.layers, shape->layers, shape->layer_count * sizeof *shape->layers);
    writer->file = fopen(path, "wbe");
    if (!writer->file) {
        status = error_set_errno(error, errno, "cannot create the trace %s", path);
        writer_free(writer);
        return status;
    }
    setvbuf(writer->file, NULL, _IONBF, 0); /* each pass is one write, so that a failure is known at once */
    status = write_header(writer, error);
    writer->shape.name = NULL; /* the caller's; no longer needed */
    if (status) {
        writer_free(writer);
        return status;
    }
    *out = writer;
    return HYPURA_OK;
}

static size_t layer_bytes(const struct trace_writer *writer)
{
    return (size_t)writer->tokens * writer->shape.used * 2;
}

hypura_status trace_writer_begin(struct trace_writer *writer, uint32_t tokens, hypura_error *error)
{
    if (tokens == 0 || tokens > TRACE_MAX_TOKENS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a trace pass of %u tokens: expected 1 to %u", tokens,
                         TRACE_MAX_TOKENS);
    writer->tokens = 0;
    memset(writer->given, 0, writer->shape.layer_count * sizeof *writer->given);
    size_t bytes;
    if (!size_multiply(&bytes, (size_t)tokens * writer->shape.used * 2, writer->shape.layer_count) ||
        !size_add(&bytes, bytes, PASS_HEAD))
        return error_set(error, HYPURA_ERROR_MEMORY, "a trace pass of %u tokens is too large", tokens);
    if (bytes > writer->room) {
        hypura_status status =
            memory_resize((void **)&writer->pass, writer->room, bytes, 1, "pass of the trace", error);
        if (status)
            return status;
        writer->room = bytes;
    }
    writer->tokens = tokens;
    return HYPURA_OK;
}

hypura_status trace_writer_layer(struct trace_writer *writer, uint32_t layer, const uint32_t *experts,
                                 hypura_error *error)
{
    if (writer->tokens == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "no trace pass was begun");
    uint32_t index = 0;
    while (index < writer->shape.layer_count && writer->shape.layers[index].layer != layer)
        index++;
    if (index == writer->shape.layer_count)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "layer %u has no experts: it cannot be in the trace", layer);
    uint8_t *out = writer->pass + PASS_HEAD + index * layer_bytes(writer);
    size_t count = (size_t)writer->tokens * writer->shape.used;
    for (size_t i = 0; i < count; i++) {
        if (experts[i] >= writer->shape.experts)
            return error_set(error, HYPURA_ERROR_ARGUMENT, "expert %u of layer %u: there are %u", experts[i], layer,
                             writer->shape.experts);
        out[2 * i] = (uint8_t)experts[i];
        out[2 * i + 1] = (uint8_t)(experts[i] >> 8);
    }
    writer->given[index] = true;
    return HYPURA_OK;
}

/* Removes an incomplete pass, because readers need whole ones. */
static void write_pass(struct trace_writer *writer, size_t bytes)
{
    if (writer->lost.status)
        return;
    if (fwrite(writer->pass, 1, bytes, writer->file) == bytes) {
        writer->written += bytes;
        return;
    }
    write_failed(writer, &writer->lost);
    if (ftruncate(fileno(writer->file), (off_t)writer->written))
        log_write(LOG_WARNING, "the last pass of the trace %s is incomplete", writer->path);
}

hypura_status trace_writer_end(struct trace_writer *writer, hypura_error *error)
{
    if (writer->tokens == 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "no trace pass was begun");
    for (uint32_t i = 0; i < writer->shape.layer_count; i++) {
        if (!writer->given[i])
            return error_set(error, HYPURA_ERROR_ARGUMENT, "the trace pass lacks layer %u",
                             writer->shape.layers[i].layer);
    }
    put_u32(writer->pass, writer->tokens);
    write_pass(writer, PASS_HEAD + layer_bytes(writer) * writer->shape.layer_count);
    writer->tokens = 0;
    return HYPURA_OK;
}

hypura_status trace_writer_close(struct trace_writer *writer, hypura_error *error)
{
    if (!writer)
        return HYPURA_OK;
    hypura_status status = writer->lost.status;
    if (fclose(writer->file) && !status)
        status = write_failed(writer, &writer->lost);
    if (status && error)
        *error = writer->lost;
    writer->file = NULL;
    writer_free(writer);
    return status;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

struct source {
    FILE *file;
    const char *path;
    uint64_t offset, bytes;
};

static hypura_status take(struct source *source, void *out, size_t bytes, const char *what, hypura_error *error)
{
    if (bytes > source->bytes - source->offset)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: the trace ends at byte %llu within the %s at byte %llu, which takes %zu bytes",
                         source->path, (unsigned long long)source->bytes, what, (unsigned long long)source->offset,
                         bytes);
    if (bytes && fread(out, 1, bytes, source->file) != bytes)
        return error_set_errno(error, ferror(source->file) ? errno : EIO, "cannot read the trace %s at byte %llu",
                               source->path, (unsigned long long)source->offset);
    source->offset += bytes;
    return HYPURA_OK;
}

static hypura_status read_header(struct source *source, struct trace *trace, hypura_error *error)
{
    uint8_t head[28];
    hypura_status status = take(source, head, sizeof head, "header", error);
    if (status)
        return status;
    if (memcmp(head, MAGIC, 8) != 0 || get_u32(head + 8) != VERSION)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s is not a routing trace of version %u", source->path, VERSION);
    struct trace_shape *shape = &trace->shape;
    shape->layer_count = get_u32(head + 12);
    shape->experts = get_u32(head + 16);
    shape->used = get_u32(head + 20);
    uint32_t name_bytes = get_u32(head + 24);
    status = check_shape(shape, source->path, error);
    if (status)
        return status;
    if (name_bytes > MAX_NAME)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: a model name of %u bytes at byte 24: expected at most %u",
                         source->path, name_bytes, MAX_NAME);
    if ((status = ALLOCATE(&trace->name, name_bytes + 1, "name in the trace", error)) ||
        (status = take(source, trace->name, name_bytes, "model name", error)) ||
        (status = ALLOCATE(&shape->layers, shape->layer_count, "layers of the trace", error)))
        return status;
    shape->name = trace->name;
    for (uint32_t i = 0; i < shape->layer_count; i++) {
        uint8_t layer[12];
        status = take(source, layer, sizeof layer, "layer table", error);
        if (status)
            return status;
        shape->layers[i] = (struct trace_layer){get_u32(layer), get_u64(layer + 4)};
        if (shape->layers[i].expert_bytes == 0)
            return error_set(error, HYPURA_ERROR_FORMAT, "%s: layer %u has experts of 0 bytes", source->path,
                             shape->layers[i].layer);
    }
    return HYPURA_OK;
}

static hypura_status read_passes(struct source *source, struct trace *trace, hypura_error *error)
{
    const struct trace_shape *shape = &trace->shape;
    size_t token_numbers = (size_t)shape->layer_count * shape->used; /* both at most 65536 */
    uint64_t left = source->bytes - source->offset;
    size_t room = 0, used = 0;
    hypura_status status = ALLOCATE(&trace->choice, left / 2, "routing in the trace", error);
    if (status)
        return status;
    while (source->offset < source->bytes) {
        uint8_t head[4];
        uint64_t start = source->offset;
        status = take(source, head, sizeof head, "pass", error);
        if (status)
            return status;
        uint32_t tokens = get_u32(head);
        if (tokens == 0 || tokens > TRACE_MAX_TOKENS)
            return error_set(error, HYPURA_ERROR_FORMAT, "%s: a pass of %u tokens at byte %llu: expected 1 to %u",
                             source->path, tokens, (unsigned long long)start, TRACE_MAX_TOKENS);
        size_t count = token_numbers * tokens;
        uint16_t *choice = trace->choice + used;
        uint64_t at = source->offset;
        status = take(source, choice, count * 2, "pass", error);
        if (status)
            return status;
        for (size_t i = 0; i < count; i++) {
            const uint8_t *bytes = (const uint8_t *)&choice[i];
            uint16_t expert = (uint16_t)(bytes[0] | bytes[1] << 8);
            if (expert >= shape->experts)
                return error_set(error, HYPURA_ERROR_FORMAT, "%s: expert %u at byte %llu: there are %u", source->path,
                                 expert, (unsigned long long)(at + 2 * i), shape->experts);
            choice[i] = expert;
        }
        if (trace->pass_count == room) {
            size_t more = room ? 2 * room : 64;
            status =
                memory_resize((void **)&trace->passes, room, more, sizeof *trace->passes, "passes of the trace", error);
            if (status)
                return status;
            room = more;
        }
        trace->passes[trace->pass_count++] = (struct trace_pass){tokens, choice};
        trace->tokens += tokens;
        used += count;
    }
    return HYPURA_OK;
}

hypura_status trace_read(struct trace **out, const char *path, hypura_error *error)
{
    struct source source = {.file = fopen(path, "rbe"), .path = path};
    if (!source.file)
        return error_set_errno(error, errno, "cannot open the trace %s", path);
    struct trace *trace = NULL;
    hypura_status status = ALLOCATE(&trace, 1, "trace", error);
    if (status) {
        fclose(source.file);
        return status;
    }
    off_t size = fseeko(source.file, 0, SEEK_END) == 0 ? ftello(source.file) : -1;
    if (size < 0 || fseeko(source.file, 0, SEEK_SET) != 0) {
        status = error_set_errno(error, errno, "cannot find the size of the trace %s", path);
    } else {
        source.bytes = (uint64_t)size;
        if (!(status = read_header(&source, trace, error)))
            status = read_passes(&source, trace, error);
    }
    fclose(source.file);
    if (status) {
        trace_free(trace);
        return status;
    }
    *out = trace;
    return HYPURA_OK;
}

void trace_free(struct trace *trace)
{
    if (!trace)
        return;
    trace_shape_free(&trace->shape);
    memory_free(trace->passes);
    memory_free(trace->choice);
    memory_free(trace->name);
    memory_free(trace);
}
