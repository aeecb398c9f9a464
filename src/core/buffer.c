#include "core/core.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Only for failed allocations: an append that exceeds the limit is not counted as one. */
static bool find_no_memory(struct buffer *buffer)
{
    buffer->failed = true;
    memory_note_failure();
    return false;
}

static bool make_room(struct buffer *buffer, size_t more)
{
    size_t needed;
    if (buffer->failed)
        return false;
    if (!size_add(&needed, buffer->size, more) || !size_add(&needed, needed, 1))
        return find_no_memory(buffer);
    if (buffer->limit && buffer->size + more > buffer->limit) {
        buffer->failed = true;
        return false;
    }
    if (needed <= buffer->capacity)
        return true;
    size_t capacity = buffer->capacity ? buffer->capacity : 64;
    while (capacity < needed) {
        if (!size_multiply(&capacity, capacity, 2)) {
            capacity = needed;
            break;
        }
    }
    char *data = realloc(buffer->data, capacity);
    if (!data)
        return find_no_memory(buffer);
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void buffer_append(struct buffer *buffer, const void *bytes, size_t size)
{
    if (!make_room(buffer, size))
        return;
    if (size)
        memcpy(buffer->data + buffer->size, bytes, size);
    buffer->size += size;
    buffer->data[buffer->size] = 0;
}

void buffer_append_string(struct buffer *buffer, const char *text)
{
    buffer_append(buffer, text, strlen(text));
}

void buffer_append_char(struct buffer *buffer, char c)
{
    buffer_append(buffer, &c, 1);
}

void buffer_append_format(struct buffer *buffer, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0)
        find_no_memory(buffer); /* vsnprintf could not allocate memory to convert the numbers */
    if (length < 0 || !make_room(buffer, (size_t)length))
        return;
    va_start(arguments, format);
    vsnprintf(buffer->data + buffer->size, (size_t)length + 1, format, arguments);
    va_end(arguments);
    buffer->size += (size_t)length;
}

void buffer_clear(struct buffer *buffer)
{
    buffer->size = 0;
    buffer->failed = false;
    if (buffer->data)
        buffer->data[0] = 0;
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){.limit = buffer->limit};
}
