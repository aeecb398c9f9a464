#include "core/core.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

bool text_has_ending(const char *text, const char *ending)
{
    size_t length = strlen(text), size = strlen(ending);
    return length > size && strcmp(text + length - size, ending) == 0;
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

char *format_range(char *text, size_t room, int decimals, double low, double high)
{
    char first[32], last[32];
    snprintf(first, sizeof first, "%.*f", decimals, low);
    snprintf(last, sizeof last, "%.*f", decimals, high);
    if (strcmp(first, last) == 0)
        snprintf(text, room, "%s", last);
    else
        snprintf(text, room, "%s to %s", first, last);
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
                         "\"%.40s\" is not a size: expected K, M, G or T after the number", text);
    if (value * multiple >= 0x1p63)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the size \"%.40s\" is too large", text);
    *bytes = (uint64_t)(value * multiple);
    return HYPURA_OK;
}
