/* Strings that record which of their bytes come from a user. */
#include "template/template_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#define OUTPUT_LIMIT ((size_t)64 << 20)

/* ---- building -----------------------------------------------------------------------------------------------------
 */

void builder_begin(struct builder *b, struct workspace *w)
{
    *b = (struct builder){.w = w, .limit = OUTPUT_LIMIT};
}

static void reserve(struct builder *b, size_t size)
{
    if (size > b->limit - b->size)
        jinja_fail(b->w, "makes a text larger than %zu MiB", b->limit >> 20);
    if (size <= b->capacity - b->size)
        return;
    size_t capacity = MAX(b->size + size, b->capacity * 2);
    capacity = MAX(capacity, (size_t)64);
    char *bytes = jinja_allocate(b->w, capacity);
    if (b->size)
        memcpy(bytes, b->bytes, b->size);
    b->bytes = bytes;
    b->capacity = capacity;
}

static void mark(struct builder *b, size_t start, size_t end)
{
    if (b->span_count && b->spans[b->span_count - 1].end == start) {
        b->spans[b->span_count - 1].end = end;
        return;
    }
    b->spans = jinja_grow(b->w, b->spans, b->span_count, &b->span_capacity, 4, sizeof *b->spans);
    b->spans[b->span_count++] = (struct text_range){start, end};
}

void builder_bytes(struct builder *b, const char *bytes, size_t size, bool user)
{
    if (size == 0)
        return;
    reserve(b, size);
    memcpy(b->bytes + b->size, bytes, size);
    if (user)
        mark(b, b->size, b->size + size);
    b->size += size;
}

void builder_text(struct builder *b, const char *text)
{
    builder_bytes(b, text, strlen(text), false);
}

/* Returns the first span of s that ends after a byte. */
static size_t first_span(const struct string *s, size_t at)
{
    size_t low = 0, high = s->span_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (s->spans[middle].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

void builder_part(struct builder *b, const struct string *s, size_t start, size_t end)
{
    if (start >= end)
        return;
    size_t base = b->size;
    builder_bytes(b, s->bytes + start, end - start, false);
    for (size_t i = first_span(s, start); i < s->span_count && s->spans[i].start < end; i++)
        mark(b, base + MAX(s->spans[i].start, start) - start, base + MIN(s->spans[i].end, end) - start);
}

void builder_string(struct builder *b, const struct string *s)
{
    builder_part(b, s, 0, s->size);
}

static bool is_ascii(const char *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)bytes[i] >= 0x80)
            return false;
    return true;
}

struct value builder_end(struct builder *b)
{
    struct string *s = jinja_allocate(b->w, sizeof *s);
    *s = (struct string){.bytes = b->bytes ? b->bytes : "",
                         .size = b->size,
                         .spans = b->spans,
                         .span_count = b->span_count,
                         .ascii = is_ascii(b->bytes, b->size)};
    return value_from_string(s);
}

struct value value_from_bytes(struct workspace *w, const char *bytes, size_t size, bool user)
{
    struct string *s = jinja_allocate(w, sizeof *s);
    *s = (struct string){.bytes = bytes, .size = size, .ascii = is_ascii(bytes, size)};
    if (user && size) {
        struct text_range *span = jinja_allocate(w, sizeof *span);
        *span = (struct text_range){0, size};
        s->spans = span;
        s->span_count = 1;
    }
    return value_from_string(s);
}

struct value value_from_text(struct workspace *w, const char *text)
{
    return value_from_bytes(w, text, strlen(text), false);
}

struct value string_part(struct workspace *w, const struct string *s, size_t start, size_t end)
{
    if (start == 0 && end == s->size)
        return value_from_string(s);
    struct string *part = jinja_allocate(w, sizeof *part);
    start = MIN(start, s->size);
    end = MAX(MIN(end, s->size), start);
    *part = (struct string){.bytes = s->bytes + start, .size = end - start};
    part->ascii = s->ascii || is_ascii(part->bytes, part->size);
    size_t from = first_span(s, start), to = from;
    while (to < s->span_count && s->spans[to].start < end)
        to++;
    if (to > from && part->size) {
        struct text_range *spans = jinja_allocate(w, (to - from) * sizeof *spans);
        for (size_t i = from; i < to; i++)
            spans[i - from] =
                (struct text_range){MAX(s->spans[i].start, start) - start, MIN(s->spans[i].end, end) - start};
        part->spans = spans;
        part->span_count = to - from;
    }
    return value_from_string(part);
}

/* ---- queries ------------------------------------------------------------------------------------------------------
 */

bool string_is(const struct string *s, const char *text)
{
    return s->size == strlen(text) && memcmp(s->bytes, text, s->size) == 0;
}

/* A byte that is not UTF-8 counts as a character with the value -1. */
size_t utf8_next(const char *bytes, size_t size, size_t at, int32_t *character)
{
    utf8proc_int32_t found;
    utf8proc_ssize_t length =
        utf8proc_iterate((const utf8proc_uint8_t *)bytes + at, (utf8proc_ssize_t)MIN(size - at, (size_t)4), &found);
    if (length <= 0) {
        found = -1;
        length = 1;
    }
    if (character)
        *character = found;
    return at + (size_t)length;
}

size_t string_length(const struct string *s)
{
    if (s->ascii)
        return s->size;
    size_t length = 0;
    for (size_t at = 0; at < s->size; length++)
        at = utf8_next(s->bytes, s->size, at, NULL);
    return length;
}

size_t string_offset(const struct string *s, size_t characters)
{
    if (s->ascii)
        return MIN(characters, s->size);
    size_t at = 0;
    while (characters > 0 && at < s->size) {
        at = utf8_next(s->bytes, s->size, at, NULL);
        characters--;
    }
    return at;
}

size_t string_find(const struct string *s, const struct string *needle, size_t from, size_t to)
{
    if (from > to || needle->size > to - from)
        return SIZE_MAX;
    const char *found =
        needle->size ? memmem(s->bytes + from, to - from, needle->bytes, needle->size) : s->bytes + from;
    return found ? (size_t)(found - s->bytes) : SIZE_MAX;
}

bool string_is_user(const struct string *s, size_t start, size_t end)
{
    size_t i = first_span(s, start);
    return i < s->span_count && s->spans[i].start < end;
}

bool character_is_space(int32_t c)
{
    if (c < 0x80)
        return (c >= 9 && c <= 13) || (c >= 28 && c <= 32);
    return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}
