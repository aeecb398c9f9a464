#include "core/core.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Bytes of the UTF-8 character that begins here, 0: it is none. */
static size_t read_character(const unsigned char *at, uint32_t *character)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = at[0] < 0x80 ? 1 : at[0] < 0xc0 ? 0 : at[0] < 0xe0 ? 2 : at[0] < 0xf0 ? 3 : at[0] < 0xf8 ? 4 : 0;
    *character = length > 1 ? at[0] & (0x7fu >> length) : at[0];
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        *character = *character << 6 | (at[i] & 0x3fu);
    }
    bool surrogate = *character >= 0xd800 && *character <= 0xdfff;
    return *character > 0x10ffff || *character < least[length] || surrogate ? 0 : length;
}

void text_clean(char *text)
{
    for (unsigned char *at = (unsigned char *)text; *at;) {
        uint32_t character;
        size_t length = read_character(at, &character);
        if (length == 0)
            *at = '?';
        else if (character < 32 || (character >= 127 && character < 160))
            memset(at, ' ', length);
        at += MAX(length, (size_t)1);
    }
}

char *format_bytes(char *text, size_t room, double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    size_t unit = 0;
    while (fabs(bytes) >= 1024 && unit + 1 < COUNT_OF(units)) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, room,
             unit == 0 || bytes >= 100 ? "%.0f %s"
             : bytes >= 10             ? "%.1f %s"
                                       : "%.2f %s",
             bytes, units[unit]);
    return text;
}

hypura_status parse_bytes(const char *text, uint64_t *bytes, hypura_error *error)
{
    char *end;
    double value = isdigit((unsigned char)text[0]) || text[0] == '.' ? strtod(text, &end) : (end = (char *)text, -1.0);
    if (value < 0 || end == text || !isfinite(value))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is not a size: expected a number such as 512M or 4G",
                         text);
    static const char letters[] = "kmgt";
    double multiple = 1;
    for (int i = 0; letters[i]; i++) {
        if (tolower((unsigned char)*end) == letters[i]) {
            multiple = ldexp(1, 10 * (i + 1));
            end++;
            break;
        }
    }
    if (*end && strcasecmp(end, "b") != 0 && strcasecmp(end, "ib") != 0)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "\"%.40s\" is not a size: after the number expected K, M, G or T", text);
    if (value * multiple >= 0x1p63)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "\"%.40s\" is too large a size", text);
    *bytes = (uint64_t)(value * multiple);
    return HYPURA_OK;
}
