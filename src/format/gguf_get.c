/* Gets metadata by key, converted to the requested type. */
#include "format/format_private.h"

#include <float.h>
#include <math.h>

/* Finds a value that the numeric getters may convert: a scalar that is not a bool. */
static const struct gguf_value *find_number(const struct gguf *file, const char *key)
{
    const struct gguf_value *value = gguf_find(file, key);
    return value && value->type != GGUF_ARRAY && value->type != GGUF_BOOL ? value : NULL;
}

bool gguf_get_uint64(const struct gguf *file, const char *key, uint64_t *out)
{
    const struct gguf_value *value = find_number(file, key);
    return value && gguf_value_uint64(value, 0, out);
}

bool gguf_get_uint32(const struct gguf *file, const char *key, uint32_t *out)
{
    uint64_t wide;
    if (!gguf_get_uint64(file, key, &wide) || wide > UINT32_MAX)
        return false;
    *out = (uint32_t)wide;
    return true;
}

bool gguf_get_int64(const struct gguf *file, const char *key, int64_t *out)
{
    const struct gguf_value *value = find_number(file, key);
    return value && gguf_element_int64(value, 0, out);
}

bool gguf_get_float(const struct gguf *file, const char *key, float *out)
{
    const struct gguf_value *value = find_number(file, key);
    double wide;
    if (!value || !gguf_element_double(value, 0, &wide) || (isfinite(wide) && fabs(wide) > FLT_MAX))
        return false;
    *out = (float)wide;
    return true;
}

bool gguf_get_bool(const struct gguf *file, const char *key, bool *out)
{
    const struct gguf_value *value = gguf_find(file, key);
    if (!value || value->type != GGUF_BOOL)
        return false;
    *out = *(const bool *)value->data;
    return true;
}

bool gguf_get_string(const struct gguf *file, const char *key, struct gguf_string *out)
{
    const struct gguf_value *value = gguf_find(file, key);
    if (!value || value->type != GGUF_STRING)
        return false;
    *out = *(const struct gguf_string *)value->data;
    return true;
}
