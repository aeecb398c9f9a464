/* Makes model files from other ones, for example split, or with other types. */
#ifndef HYPURA_TEST_COPY_MODEL_H
#define HYPURA_TEST_COPY_MODEL_H

#include "test.h"

#include "format/format.h"

static void copy_values(struct gguf_writer *writer, const struct gguf *file)
{
    for (size_t i = 0; i < gguf_value_count(file); i++) {
        const struct gguf_value *value = gguf_value_at(file, i);
        bool array = value->type == GGUF_ARRAY;
        assert_ok(gguf_writer_add(writer, value->key.data, array ? value->element_type : value->type, value->data,
                                  value->count, array, &test_error));
    }
}

/* Reads a tensor's data, which the caller frees. */
static uint8_t *read_tensor(const struct gguf *file, const struct gguf_tensor *tensor)
{
    uint8_t *data = malloc(tensor->bytes);
    FILE *stream = fopen(gguf_file_path(file, tensor->file), "rb");
    assert_non_null(stream);
    assert_int_equal(fseeko(stream, (off_t)tensor->offset, SEEK_SET), 0);
    assert_int_equal(fread(data, 1, tensor->bytes, stream), tensor->bytes);
    fclose(stream);
    return data;
}

#endif
