/* Strings that know which of their bytes a user wrote, and how values print. */
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
        jinja_fail(b->w, "makes a text of more than %zu MiB", b->limit >> 20);
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

/* The first span of s that ends after a byte. */
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

/* ---- asking -------------------------------------------------------------------------------------------------------
 */

bool string_is(const struct string *s, const char *text)
{
    return s->size == strlen(text) && memcmp(s->bytes, text, s->size) == 0;
}

/* A byte that is no UTF-8 counts as a character of its own, with the value -1. */
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

/* ---- printing -----------------------------------------------------------------------------------------------------
 */

/* As repr(float), in 40 bytes. */
static void format_float(char *text, size_t room, double number)
{
    if (isnan(number) || isinf(number)) {
        snprintf(text, room, "%s", isnan(number) ? "nan" : number < 0 ? "-inf" : "inf");
        return;
    }
    /* The fewest digits that read back as the same number. */
    char digits[40];
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, number);
    while (strtod(digits, NULL) != number && ++precision < 17);
    const char *e = strchr(digits, 'e');
    int exponent = atoi(e + 1);
    if (exponent < -4 || exponent >= 16) {
        snprintf(text, room, "%.*se%s%02d", (int)(e - digits), digits, exponent < 0 ? "-" : "+", abs(exponent));
        return;
    }
    int decimals = MAX(precision - exponent, 1);
    snprintf(text, room, "%.*f", decimals, number);
}

#define ESCAPE_ROOM 16

/* A text in quotes. escape_of writes what stands for a character, or leaves the escape empty. */
static void write_quoted(struct builder *b, const struct string *s, char quote,
                         void (*escape_of)(int32_t c, char *escape))
{
    builder_bytes(b, &quote, 1, false);
    size_t done = 0;
    for (size_t at = 0; at < s->size;) {
        int32_t c;
        size_t next = utf8_next(s->bytes, s->size, at, &c);
        char escape[ESCAPE_ROOM] = "";
        if (c == quote || c == '\\')
            snprintf(escape, sizeof escape, "\\%c", (char)c);
        else
            escape_of(c, escape);
        if (escape[0]) {
            builder_part(b, s, done, at);
            builder_bytes(b, escape, strlen(escape), string_is_user(s, at, next));
            done = next;
        }
        at = next;
    }
    builder_part(b, s, done, s->size);
    builder_bytes(b, &quote, 1, false);
}

static void escape_for_python(int32_t c, char *escape)
{
    if (c == '\n')
        strcpy(escape, "\\n");
    else if (c == '\r')
        strcpy(escape, "\\r");
    else if (c == '\t')
        strcpy(escape, "\\t");
    else if (c >= 0 && c != ' ') {
        utf8proc_category_t category = utf8proc_category(c);
        bool hidden = category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF ||
                      category == UTF8PROC_CATEGORY_CS || category == UTF8PROC_CATEGORY_CO ||
                      category == UTF8PROC_CATEGORY_CN || category == UTF8PROC_CATEGORY_ZL ||
                      category == UTF8PROC_CATEGORY_ZP || category == UTF8PROC_CATEGORY_ZS;
        if (hidden)
            snprintf(escape, ESCAPE_ROOM, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", (unsigned)c);
    }
}

static void write_string_repr(struct builder *b, const struct string *s)
{
    bool single = memchr(s->bytes, '\'', s->size), twice = memchr(s->bytes, '"', s->size);
    write_quoted(b, s, single && !twice ? '"' : '\'', escape_for_python);
}

static void write_items(struct jinja *j, struct builder *b, const struct list *list, const char *open,
                        const char *close, size_t depth)
{
    builder_text(b, open);
    for (size_t i = 0; i < list->count; i++) {
        if (i)
            builder_text(b, ", ");
        value_write_repr(j, b, list->items[i], depth + 1);
    }
    if (list->type == LIST_TUPLE && list->count == 1)
        builder_text(b, ",");
    builder_text(b, close);
}

static void write_dict(struct jinja *j, struct builder *b, const struct dict *dict, size_t depth)
{
    builder_text(b, "{");
    for (size_t i = 0; i < dict->count; i++) {
        if (i)
            builder_text(b, ", ");
        value_write_repr(j, b, dict->entries[i].key, depth + 1);
        builder_text(b, ": ");
        value_write_repr(j, b, dict->entries[i].value, depth + 1);
    }
    builder_text(b, "}");
}

void value_write_repr(struct jinja *j, struct builder *b, struct value value, size_t depth)
{
    jinja_step(j, 1);
    if (depth > 120)
        jinja_fail(&j->w, "prints a value that is nested more than 120 levels deep");
    char text[64];
    switch (value.kind) {
    case VALUE_MISSING:
    case VALUE_UNDEFINED:
        builder_text(b, "Undefined");
        return;
    case VALUE_NONE:
        builder_text(b, "None");
        return;
    case VALUE_BOOLEAN:
        builder_text(b, value.boolean ? "True" : "False");
        return;
    case VALUE_INTEGER:
        snprintf(text, sizeof text, "%lld", (long long)value.integer);
        builder_text(b, text);
        return;
    case VALUE_FLOAT:
        format_float(text, sizeof text, value.number);
        builder_text(b, text);
        return;
    case VALUE_STRING:
        write_string_repr(b, value.string);
        return;
    case VALUE_LIST:
        if (value.list->type == LIST_TUPLE)
            write_items(j, b, value.list, "(", ")", depth);
        else if (value.list->type == LIST_VIEW) {
            builder_text(b, value.list->view);
            write_items(j, b, value.list, "([", "])", depth);
        } else if (value.list->type == LIST_GENERATOR)
            builder_text(b, "<generator object>");
        else
            write_items(j, b, value.list, "[", "]", depth);
        return;
    case VALUE_DICT:
        write_dict(j, b, value.dict, depth);
        return;
    case VALUE_NAMESPACE:
        builder_text(b, "<Namespace ");
        write_dict(j, b, value.dict, depth);
        builder_text(b, ">");
        return;
    case VALUE_CALLABLE:
        if (value.callable->macro) {
            builder_text(b, "<Macro '");
            builder_string(b, value.callable->macro->text);
            builder_text(b, "'>");
        } else {
            builder_text(b, "<function ");
            builder_text(b, value.callable->builtin->name);
            builder_text(b, ">");
        }
        return;
    case VALUE_LOOP:
        snprintf(text, sizeof text, "<LoopContext %zu/%zu>", value.loop->index + 1, value.loop->count);
        builder_text(b, text);
        return;
    case VALUE_CYCLER:
        builder_text(b, value.cycler->joiner ? "<Joiner>" : "<Cycler>");
        return;
    }
}

void value_write(struct jinja *j, struct builder *b, struct value value)
{
    if (value.kind == VALUE_STRING)
        builder_string(b, value.string);
    else if (value.kind != VALUE_UNDEFINED && value.kind != VALUE_MISSING)
        value_write_repr(j, b, value, 0);
}

const struct string *value_string(struct jinja *j, struct value value)
{
    if (value.kind == VALUE_STRING)
        return value.string;
    struct builder b;
    builder_begin(&b, &j->w);
    value_write(j, &b, value);
    return builder_end(&b).string;
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------
 */

static void escape_for_json(int32_t c, char *escape)
{
    if (c >= 8 && c <= 13 && c != 11)
        snprintf(escape, ESCAPE_ROOM, "\\%c", "btn.fr"[c - 8]);
    else if (c >= 0 && c < 0x20)
        snprintf(escape, ESCAPE_ROOM, "\\u%04x", (unsigned)c);
}

static void escape_for_ascii_json(int32_t c, char *escape)
{
    if (c < 0x7f)
        escape_for_json(c, escape);
    else if (c >= 0x10000)
        snprintf(escape, ESCAPE_ROOM, "\\u%04x\\u%04x", 0xd800u + (unsigned)((c - 0x10000) >> 10),
                 0xdc00u + (unsigned)((c - 0x10000) & 0x3ff));
    else if (c != 0x7f)
        snprintf(escape, ESCAPE_ROOM, "\\u%04x", (unsigned)c);
}

static void write_json_string(struct builder *b, const struct string *s, bool ascii)
{
    write_quoted(b, s, '"', ascii ? escape_for_ascii_json : escape_for_json);
}

static void json_break(struct builder *b, const struct json_layout *layout, size_t depth)
{
    if (!layout->indent)
        return;
    builder_text(b, "\n");
    for (size_t i = 0; i < depth; i++)
        builder_string(b, layout->indent);
}

static int compare_entries(const void *a, const void *b)
{
    const struct string *x = ((const struct dict_entry *)a)->key.string,
                        *y = ((const struct dict_entry *)b)->key.string;
    int order = memcmp(x->bytes, y->bytes, MIN(x->size, y->size));
    return order ? order : (x->size > y->size) - (x->size < y->size);
}

static void write_json_dict(struct jinja *j, struct builder *b, const struct dict *dict,
                            const struct json_layout *layout, size_t depth)
{
    if (dict->count == 0) {
        builder_text(b, "{}");
        return;
    }
    struct dict_entry *entries = jinja_allocate(&j->w, dict->count * sizeof *entries);
    memcpy(entries, dict->entries, dict->count * sizeof *entries);
    for (size_t i = 0; i < dict->count; i++) {
        struct value *key = &entries[i].key;
        if (key->kind == VALUE_NONE)
            *key = value_from_text(&j->w, "null");
        else if (key->kind == VALUE_BOOLEAN)
            *key = value_from_text(&j->w, key->boolean ? "true" : "false");
        else if (key->kind == VALUE_INTEGER || key->kind == VALUE_FLOAT)
            *key = value_from_string(value_string(j, *key));
        else if (key->kind != VALUE_STRING)
            jinja_fail(&j->w, "keys must be str, int, float, bool or None, not %s", value_type_name(*key));
    }
    if (layout->sort_keys)
        qsort(entries, dict->count, sizeof *entries, compare_entries);
    builder_text(b, "{");
    for (size_t i = 0; i < dict->count; i++) {
        if (i)
            builder_text(b, layout->item_separator);
        json_break(b, layout, depth + 1);
        write_json_string(b, entries[i].key.string, layout->ascii);
        builder_text(b, layout->key_separator);
        value_write_json(j, b, entries[i].value, layout, depth + 1);
    }
    json_break(b, layout, depth);
    builder_text(b, "}");
}

void value_write_json(struct jinja *j, struct builder *b, struct value value, const struct json_layout *layout,
                      size_t depth)
{
    jinja_step(j, 1);
    if (depth > 120)
        jinja_fail(&j->w, "tojson of a value that is nested more than 120 levels deep");
    char text[64];
    switch (value.kind) {
    case VALUE_NONE:
        builder_text(b, "null");
        return;
    case VALUE_BOOLEAN:
        builder_text(b, value.boolean ? "true" : "false");
        return;
    case VALUE_FLOAT:
        if (isfinite(value.number))
            format_float(text, sizeof text, value.number);
        else
            snprintf(text, sizeof text, "%s",
                     isnan(value.number) ? "NaN"
                     : value.number < 0  ? "-Infinity"
                                         : "Infinity");
        builder_text(b, text);
        return;
    case VALUE_INTEGER:
        value_write_repr(j, b, value, 0);
        return;
    case VALUE_STRING:
        write_json_string(b, value.string, layout->ascii);
        return;
    case VALUE_LIST:
        if (value.list->type > LIST_TUPLE)
            break;
        if (value.list->count == 0) {
            builder_text(b, "[]");
            return;
        }
        builder_text(b, "[");
        for (size_t i = 0; i < value.list->count; i++) {
            if (i)
                builder_text(b, layout->item_separator);
            json_break(b, layout, depth + 1);
            value_write_json(j, b, value.list->items[i], layout, depth + 1);
        }
        json_break(b, layout, depth);
        builder_text(b, "]");
        return;
    case VALUE_DICT:
        write_json_dict(j, b, value.dict, layout, depth);
        return;
    default:
        break;
    }
    jinja_fail(&j->w, "Object of type %s is not JSON serializable", value_type_name(value));
}
