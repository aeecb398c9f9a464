/* base.h on top of core, so that commands share its counting of memory and its cutting and cleaning of text. */
#include "cli/base.h"
#include "core/durable.h"
#include "core/json_text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE (sizeof((hypura_error *)0)->message + 1)

#define FORMAT(text, format)                                                                                           \
    do {                                                                                                               \
        va_list arguments;                                                                                             \
        va_start(arguments, format);                                                                                   \
        vsnprintf(text, sizeof text, format, arguments);                                                               \
        va_end(arguments);                                                                                             \
    } while (0)

hypura_status set_error(hypura_error *error, hypura_status status, const char *format, ...)
{
    char text[MESSAGE];
    FORMAT(text, format);
    return error_set(error, status, "%s", text);
}

hypura_status set_error_errno(hypura_error *error, int number, const char *format, ...)
{
    char text[MESSAGE];
    FORMAT(text, format);
    return error_set_errno(error, number, "%s", text);
}

hypura_status prefix_error(hypura_error *error, const char *format, ...)
{
    char text[MESSAGE];
    FORMAT(text, format);
    return error_prefix(error, "%s", text);
}

void log_warning(const char *format, ...)
{
    char text[MESSAGE];
    FORMAT(text, format);
    log_write(LOG_WARNING, "%s", text);
}

hypura_status new_array(void **out, size_t count, size_t size, const char *what, hypura_error *error)
{
    return memory_allocate(out, count, size, what, error);
}

hypura_status resize_array(void **array, size_t old_count, size_t count, size_t size, const char *what,
                           hypura_error *error)
{
    return memory_resize(array, old_count, count, size, what, error);
}

void free_memory(void *memory)
{
    memory_free(memory);
}

hypura_status copy_text(char **out, const char *text, hypura_error *error)
{
    return string_copy(out, text, error);
}

uint64_t lost_memory(void)
{
    return memory_failures();
}

hypura_status check_memory(uint64_t lost_before, const char *what, hypura_error *error)
{
    return memory_check(lost_before, what, error);
}

/* ---- texts ---- */

/* text_buffer and buffer have the same fields. */
static struct buffer buffer_of(const struct text_buffer *text)
{
    return (struct buffer){text->data, text->size, text->capacity, text->limit, text->failed};
}

static void take(struct text_buffer *text, const struct buffer *buffer)
{
    *text = (struct text_buffer){buffer->data, buffer->size, buffer->capacity, buffer->limit, buffer->failed};
}

void text_add(struct text_buffer *text, const void *bytes, size_t size)
{
    struct buffer buffer = buffer_of(text);
    buffer_append(&buffer, bytes, size);
    take(text, &buffer);
}

void text_add_string(struct text_buffer *text, const char *string)
{
    text_add(text, string, strlen(string));
}

void text_add_char(struct text_buffer *text, char c)
{
    text_add(text, &c, 1);
}

void text_add_format(struct text_buffer *text, const char *format, ...)
{
    char room[512], *long_one;
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    const int length = vsnprintf(room, sizeof room, format, arguments);
    if (length >= 0 && (size_t)length < sizeof room) {
        text_add(text, room, (size_t)length);
    } else if (length < 0 || memory_allocate((void **)&long_one, (size_t)length + 1, 1, "text", NULL)) {
        text->failed = true;
    } else {
        vsnprintf(long_one, (size_t)length + 1, format, again);
        text_add(text, long_one, (size_t)length);
        memory_free(long_one);
    }
    va_end(again);
    va_end(arguments);
}

void text_clear(struct text_buffer *text)
{
    struct buffer buffer = buffer_of(text);
    buffer_clear(&buffer);
    take(text, &buffer);
}

void text_free(struct text_buffer *text)
{
    struct buffer buffer = buffer_of(text);
    buffer_free(&buffer);
    take(text, &buffer);
}

void clean_text(char *text)
{
    text_clean(text);
}

char *size_text(char *text, size_t room, double bytes)
{
    return format_bytes(text, room, bytes);
}

char *range_text(char text[RANGE_TEXT], int decimals, double low, double high)
{
    return format_range(text, RANGE_TEXT, decimals, low, high);
}

hypura_status read_size(const char *text, uint64_t *bytes, hypura_error *error)
{
    return parse_bytes(text, bytes, error);
}

uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
    return fnv1a(hash, bytes, size);
}

json_t *read_json(const char *text, size_t size, size_t flags, json_error_t *error)
{
    return json_text_read(text, size, flags, error);
}

/* ---- clock, files ---- */

uint64_t now_nanoseconds(void)
{
    return clock_nanoseconds();
}

double seconds_since(uint64_t start)
{
    return clock_seconds_since(start);
}

hypura_status flush_file(int file, const char *path, hypura_error *error)
{
    return durable_file(file, path, error);
}

hypura_status flush_folder_of(const char *path, hypura_error *error)
{
    return durable_folder_of(path, error);
}

hypura_status may_replace_file(const char *path, hypura_error *error)
{
    return durable_may_replace(path, error);
}
