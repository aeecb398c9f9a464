#include "tools/quantize_private.h"

#include <string.h>

/* Whether a metadata value is not copied, because it is written anew or no longer holds. The new file always has the
 * default alignment. */
static bool left_out(const struct quantize *quantize, const struct gguf_value *value)
{
    static const char *const keys[] = {"general.quantization_version", "general.file_type", "split.no", "split.count",
                                       "split.tensors.count"};
    const char *key = value->key.data;
    int64_t alignment = 32;
    for (size_t i = 0; i < COUNT_OF(keys); i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    if (strcmp(key, "general.alignment") == 0)
        return value->type != GGUF_UINT32 || !gguf_element_int64(value, 0, &alignment) || alignment != 32;
    return quantize->importance && strncmp(key, "quantize.imatrix.", 17) == 0;
}

static hypura_status add_metadata(const struct quantize *quantize, struct gguf_writer *writer, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; !status && i < gguf_value_count(quantize->file); i++) {
        const struct gguf_value *value = gguf_value_at(quantize->file, i);
        bool array = value->type == GGUF_ARRAY;
        if (!left_out(quantize, value))
            status = gguf_writer_add(writer, value->key.data, array ? value->element_type : value->type, value->data,
                                     value->count, array, error);
    }
    if (!status)
        status = gguf_writer_add_uint32(writer, "general.quantization_version", 2, error);
    if (!status)
        status = gguf_writer_add_uint32(writer, "general.file_type", quantize->recipe->file_type, error);
    if (status || !quantize->importance)
        return status;
    if (!(status = gguf_writer_add_string(writer, "quantize.imatrix.file", quantize->importance_path, error)) &&
        !(status = gguf_writer_add_string(writer, "quantize.imatrix.dataset", importance_dataset(quantize->importance),
                                          error)) &&
        !(status = gguf_writer_add_uint32(writer, "quantize.imatrix.entries_count",
                                          (uint32_t)importance_count(quantize->importance), error)))
        status = gguf_writer_add_uint32(writer, "quantize.imatrix.chunks_count",
                                        importance_chunks(quantize->importance), error);
    return status;
}

hypura_status quantize_header(const struct quantize *quantize, int descriptor, hypura_error *error)
{
    struct gguf_writer *writer;
    hypura_status status = gguf_writer_create_header(&writer, descriptor, 0, error);
    if (status)
        return status;
    status = add_metadata(quantize, writer, error);
    for (size_t i = 0; !status && i < quantize->count; i++) {
        const struct quantize_tensor *tensor = &quantize->tensors[i];
        uint32_t dimensions = GGUF_MAX_DIMENSIONS;
        while (dimensions > 1 && tensor->source->dimensions[dimensions - 1] == 1)
            dimensions--;
        dimensions = MAX(dimensions, tensor->source->dimension_count);
        status = gguf_writer_add_tensor(writer, tensor->source->name.data, tensor->type, dimensions,
                                        tensor->source->dimensions, error);
    }
    if (!status)
        status = gguf_writer_finish_header(writer, error);
    gguf_writer_destroy(writer);
    return status;
}
