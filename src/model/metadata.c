/* Reading the keys of an architecture. */
#include "model/model_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char *key(struct reader *reader, const char *name)
{
    snprintf(reader->key, sizeof reader->key, "%s.%s", reader->architecture->name, name);
    return reader->key;
}

bool has_float(struct reader *reader, const char *name, float *out)
{
    float value;
    if (!gguf_find(reader->file, key(reader, name)))
        return false;
    if (gguf_get_float(reader->file, reader->key, &value) && isfinite(value)) {
        *out = value;
        return true;
    }
    if (!reader->wrong[0])
        memcpy(reader->wrong, reader->key, sizeof reader->wrong);
    return false;
}

/* A number that may be absent, and is at most "most". */
hypura_status optional_number(struct reader *reader, const char *name, uint32_t most, uint32_t *out,
                              hypura_error *error)
{
    uint64_t value;
    if (!gguf_find(reader->file, key(reader, name)))
        return HYPURA_OK;
    if (!gguf_get_uint64(reader->file, key(reader, name), &value))
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is not a number",
                         gguf_file_path(reader->file, 0), reader->key);
    if (value > most)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is %" PRIu64 "; at most %u is sensible",
                         gguf_file_path(reader->file, 0), reader->key, value, most);
    *out = (uint32_t)value;
    return HYPURA_OK;
}

hypura_status needed_number(struct reader *reader, const char *name, uint32_t most, uint32_t *out, hypura_error *error)
{
    uint32_t value = 0;
    hypura_status status = optional_number(reader, name, most, &value, error);
    if (status)
        return status;
    if (value == 0)
        return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is missing or zero",
                         gguf_file_path(reader->file, 0), key(reader, name));
    *out = value;
    return HYPURA_OK;
}

/* A number per layer: one for all, or an array with one per layer. */
hypura_status layer_number(struct reader *reader, const char *name, uint32_t layer, uint32_t most, uint32_t *out,
                           hypura_error *error)
{
    const struct gguf_value *value = gguf_find(reader->file, key(reader, name));
    if (!value || value->type != GGUF_ARRAY)
        return optional_number(reader, name, most, out, error);
    int64_t number;
    if (!gguf_element_int64(value, layer, &number) || number < 0 || number > most)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: metadata '%s' has no number from 0 to %u for layer %u; it has %" PRIu64 " elements",
                         gguf_file_path(reader->file, 0), reader->key, most, layer, value->count);
    *out = (uint32_t)number;
    return HYPURA_OK;
}

/* The same for a float. */
hypura_status layer_float(struct reader *reader, const char *name, uint32_t layer, float *out, hypura_error *error)
{
    const struct gguf_value *value = gguf_find(reader->file, key(reader, name));
    if (!value || value->type != GGUF_ARRAY) {
        has_float(reader, name, out);
        return HYPURA_OK;
    }
    double number;
    *out = gguf_element_double(value, layer, &number) ? (float)number : NAN;
    if (!isfinite(*out))
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: metadata '%s' has no finite number for layer %u; it has %" PRIu64 " elements",
                         gguf_file_path(reader->file, 0), reader->key, layer, value->count);
    return HYPURA_OK;
}
