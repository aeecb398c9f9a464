#include "core/core.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* If the text fills its room, removes an incomplete UTF-8 character from its end. */
static void cut_at_character(char *text, size_t room)
{
    size_t length = strlen(text);
    if (length + 1 < room)
        return;
    while (length > 0 && ((unsigned char)text[length - 1] & 0xc0) == 0x80)
        length--;
    if (length > 0 && (unsigned char)text[length - 1] >= 0xc0)
        length--;
    text[length] = 0;
}

hypura_status error_set(hypura_error *error, hypura_status status, const char *format, ...)
{
    if (!error)
        return status;
    va_list arguments;
    va_start(arguments, format);
    error->status = status;
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    cut_at_character(error->message, sizeof error->message);
    text_clean(error->message);
    return status;
}

hypura_status error_set_errno(hypura_error *error, int number, const char *format, ...)
{
    if (!error)
        return HYPURA_ERROR_IO;
    char what[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return error_set(error, HYPURA_ERROR_IO, "%s: %s", what, strerror(number));
}

hypura_status error_prefix(hypura_error *error, const char *format, ...)
{
    if (!error)
        return HYPURA_ERROR_IO;
    char context[256];
    char message[sizeof error->message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(context, sizeof context, format, arguments);
    va_end(arguments);
    memcpy(message, error->message, sizeof message);
    return error_set(error, error->status, "%s: %s", context, message);
}
