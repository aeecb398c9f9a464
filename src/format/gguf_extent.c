/* Finds the length of a header from the first bytes of a file, for example during a download. */
#include "format/format_private.h"

#include <string.h>

struct scan {
    const unsigned char *data;
    size_t have;
    uint64_t at; /* may exceed have: more bytes are needed then */
};

static bool scan_number(struct scan *scan, void *out, size_t size)
{
    if (scan->at > scan->have || scan->have - scan->at < size)
        return false;
    memcpy(out, scan->data + scan->at, size);
    scan->at += size;
    return true;
}

static bool scan_over(struct scan *scan, uint64_t bytes)
{
    if (scan->at > scan->have || bytes > scan->have - scan->at)
        return false;
    scan->at += bytes;
    return true;
}

static bool scan_string(struct scan *scan)
{
    uint64_t size;
    return scan_number(scan, &size, sizeof size) && scan_over(scan, size);
}

static bool scan_value(struct scan *scan, bool *known)
{
    uint32_t type;
    uint64_t count = 1;
    if (!scan_string(scan) || !scan_number(scan, &type, sizeof type))
        return false;
    if (type == GGUF_ARRAY && (!scan_number(scan, &type, sizeof type) || !scan_number(scan, &count, sizeof count)))
        return false;
    size_t size = gguf_scalar_bytes(type);
    *known = size || type == GGUF_STRING;
    if (size)
        return count <= UINT64_MAX / size && scan_over(scan, count * size);
    for (uint64_t i = 0; *known && i < count; i++)
        if (!scan_string(scan))
            return false;
    return true;
}

hypura_status gguf_header_extent(const void *data, size_t have, uint64_t *bytes, hypura_error *error)
{
    struct scan scan = {.data = data, .have = have};
    char magic[4];
    uint32_t version, dimensions;
    uint64_t tensors, values;
    bool known = true;
    *bytes = 0;
    if (!scan_number(&scan, magic, sizeof magic))
        return HYPURA_OK;
    if (memcmp(magic, "GGUF", 4) != 0)
        return error_set(error, HYPURA_ERROR_FORMAT, "it is not a GGUF file: it does not begin with \"GGUF\"");
    if (!scan_number(&scan, &version, sizeof version) || !scan_number(&scan, &tensors, sizeof tensors) ||
        !scan_number(&scan, &values, sizeof values))
        return HYPURA_OK;
    if (version < 2 || version > 3)
        return error_set(error, HYPURA_ERROR_FORMAT, "it is a GGUF file of version %u; expected 2 or 3", version);
    for (uint64_t i = 0; i < values && known; i++)
        if (!scan_value(&scan, &known))
            return HYPURA_OK;
    if (!known)
        return error_set(error, HYPURA_ERROR_FORMAT, "its metadata is damaged: a value has an unknown type");
    for (uint64_t i = 0; i < tensors; i++) {
        if (!scan_string(&scan) || !scan_number(&scan, &dimensions, sizeof dimensions) ||
            !scan_over(&scan, (uint64_t)dimensions * 8 + 12))
            return HYPURA_OK;
    }
    *bytes = scan.at;
    return HYPURA_OK;
}
