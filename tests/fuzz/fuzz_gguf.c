/* libFuzzer target: arbitrary bytes, opened as a GGUF file. */
#include "fuzz.h"

#include "format/format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *model;
    hypura_error error = {0};
    hypura_status status = gguf_open(&model, as_file(data, size), &error);
    must_explain(status, &error);
    if (status != HYPURA_OK)
        return 0;
    for (size_t i = 0; i < gguf_tensor_count(model); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(model, i);
        uint64_t bytes = gguf_file_bytes(model, tensor->file);
        must(tensor->offset <= bytes && tensor->bytes <= bytes - tensor->offset);
    }
    unsigned sum = 0;
    for (size_t i = 0; i < gguf_value_count(model); i++) {
        const struct gguf_value *value = gguf_value_at(model, i);
        int64_t number;
        for (uint64_t j = 0; j < value->count; j++) {
            sum += gguf_element_int64(value, j, &number);
            if (value->type == GGUF_STRING || value->element_type == GGUF_STRING)
                sum += (unsigned)strlen(((const struct gguf_string *)value->data)[j].data);
        }
    }
    gguf_close(model);
    return sum == UINT32_MAX;
}
