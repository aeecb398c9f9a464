/* Values of options. */
#include "cli/engine_cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool parse_whole_number(const char *text, uint64_t most, uint64_t *out)
{
    char *end;
    errno = 0;
    if (text[0] < '0' || text[0] > '9')
        return false;
    unsigned long long value = strtoull(text, &end, 10);
    if (errno || *end || value > most)
        return false;
    *out = value;
    return true;
}

/* of_memory: rejects less than 1024 bytes, where a unit was forgotten. */
static bool parse_size(const char *text, uint64_t *out, bool of_memory, hypura_error *error)
{
    if (parse_bytes(text, out, error))
        return false;
    if (*out == 0)
        error_set(error, HYPURA_ERROR_ARGUMENT, "expected a size above 0, such as 8G");
    if (*out > 0 && *out < 1024 && of_memory) /* such as --memory 16 */
        error_set(error, HYPURA_ERROR_ARGUMENT, "that is %d bytes; write %dG for GiB", (int)*out, (int)*out);
    return *out > 0 && (*out >= 1024 || !of_memory);
}

static bool parse_sizes(const char *text, struct sizes *out, hypura_error *error)
{
    char part[32];
    for (out->count = 0; out->count < COUNT_OF(out->bytes);) {
        const size_t length = strcspn(text, ",");
        snprintf(part, sizeof part, "%.*s", (int)MIN(length, sizeof part), text);
        if (!parse_size(part, &out->bytes[out->count++], true, error))
            return false;
        if (!text[length])
            return true;
        text += length + 1;
    }
    error_set(error, HYPURA_ERROR_ARGUMENT, "expected at most %zu sizes, one for each GPU", COUNT_OF(out->bytes));
    return false;
}

bool set_option(const struct option_row *row, const char *text, hypura_error *error)
{
    uint64_t whole;
    switch (row->kind) {
    case OPTION_FLAG:
        *(bool *)row->target = true;
        return true;
    case OPTION_WHICH: {
        struct which *which = row->target;
        *which = (struct which){.given = true, .one = text};
        if (text && !parse_whole_number(text, UINT32_MAX, &whole)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a whole number from 0 to %u", text, UINT32_MAX);
            return false;
        }
        which->number = text ? (uint32_t)whole : 0;
        return true;
    }
    case OPTION_TEXT:
        *(const char **)row->target = text;
        return true;
    case OPTION_TEXTS: {
        struct texts *texts = row->target;
        if (memory_resize((void **)&texts->items, texts->count, texts->count + 1, sizeof *texts->items, "option",
                          error))
            return false;
        texts->items[texts->count++] = text;
        return true;
    }
    case OPTION_BYTES:
        return parse_size(text, row->target, row->target == &compute_options.memory, error);
    case OPTION_SIZES:
        return parse_sizes(text, row->target, error);
    case OPTION_LIMIT:
    case OPTION_COUNT:
        if (row->kind == OPTION_LIMIT && text[0] == '-' && parse_whole_number(text + 1, UINT32_MAX, &whole)) {
            whole = 0;
        } else if (!parse_whole_number(text, UINT32_MAX, &whole)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a whole number from 0 to %u", text, UINT32_MAX);
            return false;
        }
        *(uint32_t *)row->target = (uint32_t)whole;
        return true;
    case OPTION_SEED:
        if (!parse_whole_number(text, UINT64_MAX, row->target)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a whole number from 0 to 2^64 - 1", text);
            return false;
        }
        return true;
    case OPTION_NUMBER: {
        char *end;
        float value = strtof(text, &end);
        if (end == text || *end || !isfinite(value)) {
            error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a number", text);
            return false;
        }
        *(float *)row->target = value;
        return true;
    }
    }
    return false;
}
