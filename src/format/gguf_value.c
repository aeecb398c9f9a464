#include "format/format_private.h"

size_t gguf_scalar_bytes(uint32_t type)
{
    switch (type) {
    case GGUF_UINT8:
    case GGUF_INT8:
    case GGUF_BOOL:
        return 1;
    case GGUF_UINT16:
    case GGUF_INT16:
        return 2;
    case GGUF_UINT32:
    case GGUF_INT32:
    case GGUF_FLOAT32:
        return 4;
    case GGUF_UINT64:
    case GGUF_INT64:
    case GGUF_FLOAT64:
        return 8;
    default:
        return 0;
    }
}

static enum gguf_value_type element_type(const struct gguf_value *value)
{
    return value->type == GGUF_ARRAY ? value->element_type : value->type;
}

/* Reads an integer of any width as sign and magnitude, so one range check covers both signs. */
static bool read_integer(const struct gguf_value *value, uint64_t index, bool *negative, uint64_t *magnitude)
{
    if (index >= value->count)
        return false;
    int64_t number;
    switch (element_type(value)) {
    case GGUF_UINT8:
        number = ((const uint8_t *)value->data)[index];
        break;
    case GGUF_BOOL:
        number = ((const bool *)value->data)[index];
        break;
    case GGUF_INT8:
        number = ((const int8_t *)value->data)[index];
        break;
    case GGUF_UINT16:
        number = ((const uint16_t *)value->data)[index];
        break;
    case GGUF_INT16:
        number = ((const int16_t *)value->data)[index];
        break;
    case GGUF_UINT32:
        number = ((const uint32_t *)value->data)[index];
        break;
    case GGUF_INT32:
        number = ((const int32_t *)value->data)[index];
        break;
    case GGUF_INT64:
        number = ((const int64_t *)value->data)[index];
        break;
    case GGUF_UINT64:
        *negative = false;
        *magnitude = ((const uint64_t *)value->data)[index];
        return true;
    default:
        return false;
    }
    *negative = number < 0;
    *magnitude = number < 0 ? -(uint64_t)number : (uint64_t)number;
    return true;
}

bool gguf_value_uint64(const struct gguf_value *value, uint64_t index, uint64_t *out)
{
    bool negative;
    uint64_t magnitude;
    if (!read_integer(value, index, &negative, &magnitude) || negative)
        return false;
    *out = magnitude;
    return true;
}

bool gguf_element_int64(const struct gguf_value *value, uint64_t index, int64_t *out)
{
    bool negative;
    uint64_t magnitude;
    if (!read_integer(value, index, &negative, &magnitude) || magnitude > (uint64_t)INT64_MAX + negative)
        return false;
    *out = negative ? (int64_t)-magnitude : (int64_t)magnitude;
    return true;
}

bool gguf_element_double(const struct gguf_value *value, uint64_t index, double *out)
{
    if (index >= value->count)
        return false;
    if (element_type(value) == GGUF_FLOAT32) {
        *out = ((const float *)value->data)[index];
        return true;
    }
    if (element_type(value) == GGUF_FLOAT64) {
        *out = ((const double *)value->data)[index];
        return true;
    }
    bool negative;
    uint64_t magnitude;
    if (!read_integer(value, index, &negative, &magnitude))
        return false;
    *out = negative ? -(double)magnitude : (double)magnitude;
    return true;
}

bool gguf_element_uint64(const struct gguf_value *value, uint64_t index, uint64_t *out)
{
    bool negative;
    return read_integer(value, index, &negative, out) && !(negative && *out);
}
