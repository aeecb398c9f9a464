/* libFuzzer target: any bytes at all, opened as a model. Built with -Dfuzz=true and clang; see meson.build here. */
#include "format/format.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int file = -1;
static char path[64];

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (file < 0) {
        file = memfd_create("gguf", MFD_CLOEXEC);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    }
    if (file < 0 || ftruncate(file, 0) || pwrite(file, data, size, 0) != (ssize_t)size)
        __builtin_trap();
    struct gguf *model;
    hypura_error error = {0};
    hypura_status status = gguf_open(&model, path, &error);
    if (status) {
        /* A refusal has its sentence. */
        if (error.status != status || !error.message[0])
            __builtin_trap();
        return 0;
    }
    for (size_t i = 0; i < gguf_tensor_count(model); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(model, i);
        uint64_t bytes = gguf_file_bytes(model, tensor->file);
        if (tensor->offset > bytes || tensor->bytes > bytes - tensor->offset)
            __builtin_trap();
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
