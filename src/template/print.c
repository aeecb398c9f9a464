/* Writes values as Python's str() and repr() do, and as JSON. */
#include "template/template_private.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

/* Formats like repr(float). room is at least 40. */
static void format_float(char *text, size_t room, double number)
{
    if (isnan(number) || isinf(number)) {
        snprintf(text, room, "%s", isnan(number) ? "nan" : number < 0 ? "-inf" : "inf");
        return;
    }
    /* Find the fewest digits that read back as the same number. */
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

/* Writes a quoted string. escape_of writes the escape of a character, or leaves it empty if none is needed. */
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
        jinja_fail(&j->w, "prints a value nested more than 120 levels deep");
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
        jinja_fail(&j->w, "tojson of a value nested more than 120 levels deep");
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
