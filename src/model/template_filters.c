/* The filters. Source: https://jinja.palletsprojects.com/en/3.1.x/templates/#builtin-filters, and tojson as Hugging
 * Face's transformers define it: json.dumps with ensure_ascii off by default and nothing escaped for HTML. */
#include "model/template_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef const struct arguments *args;

static bool given(struct value value)
{
    return value.kind != VALUE_MISSING;
}

static bool argument_true(struct jinja *j, struct value value, bool otherwise)
{
    return given(value) ? value_is_true(j, value) : otherwise;
}

static struct value generator(struct jinja *j, size_t capacity)
{
    return list_new(&j->w, LIST_GENERATOR, capacity);
}

static struct value method(struct jinja *j, struct value self, const char *name, args a)
{
    struct value text = value_from_string(value_string(j, self));
    const struct string *name_string = value_from_text(&j->w, name).string;
    return jinja_call_builtin(j, jinja_find_method(text, name_string), text, a);
}

/* ---- text ---------------------------------------------------------------------------------------------------------
 */

static struct value filter_string(struct jinja *j, struct value self, args a)
{
    (void)a;
    return value_from_string(value_string(j, self));
}

static struct value filter_upper(struct jinja *j, struct value self, args a)
{
    return method(j, self, "upper", a);
}

static struct value filter_lower(struct jinja *j, struct value self, args a)
{
    return method(j, self, "lower", a);
}

static struct value filter_capitalize(struct jinja *j, struct value self, args a)
{
    return method(j, self, "capitalize", a);
}

/* Unlike str.title, a new word begins only after white space, "-", and opening brackets. */
static struct value filter_title(struct jinja *j, struct value self, args a)
{
    const struct string *s = value_string(j, self);
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t start = 0; start < s->size;) {
        int32_t c;
        size_t end = start, next;
        bool boundary = false;
        while (end < s->size && !boundary) {
            next = utf8_next(s->bytes, s->size, end, &c);
            boundary = character_is_space(c) || (c > 0 && c < 128 && strchr("-({[<", (char)c));
            end = next;
        }
        struct value word = string_part(&j->w, s, start, end);
        builder_string(&b, method(j, word, "capitalize", a).string);
        start = end;
    }
    return builder_end(&b);
}

static struct value filter_trim(struct jinja *j, struct value self, args a)
{
    return method(j, self, "strip", a);
}

static struct value filter_replace(struct jinja *j, struct value self, args a)
{
    struct value arguments[3] = {value_from_string(value_string(j, a->positional[0])),
                                 value_from_string(value_string(j, a->positional[1])), a->positional[2]};
    struct arguments call = {.positional = arguments, .count = given(arguments[2]) ? 3 : 2};
    return method(j, self, "replace", &call);
}

static struct value filter_indent(struct jinja *j, struct value self, args a)
{
    const struct string *s = value_string(j, self), *indent;
    bool first = argument_true(j, a->positional[1], false), blank = argument_true(j, a->positional[2], false);
    if (a->positional[0].kind == VALUE_STRING) {
        indent = a->positional[0].string;
    } else {
        struct value width = value_integer(argument_integer(j, a->positional[0], 4, "the width of indent"));
        indent = jinja_binary(j, OPERATION_MULTIPLY, value_from_text(&j->w, " "), width).string;
    }
    struct builder b;
    builder_begin(&b, &j->w);
    if (first)
        builder_string(&b, indent);
    /* Lines end as str.splitlines has it; what ends them becomes one "\n". */
    for (size_t start = 0, line = 0; start < s->size; line++) {
        size_t end = start;
        while (end < s->size && s->bytes[end] != '\n' && s->bytes[end] != '\r')
            end++;
        if (line && (blank || end > start))
            builder_string(&b, indent);
        builder_part(&b, s, start, end);
        if (end < s->size) {
            builder_bytes(&b, "\n", 1, string_is_user(s, end, end + 1));
            end += 1 + (s->bytes[end] == '\r' && end + 1 < s->size && s->bytes[end + 1] == '\n');
            if (end == s->size && blank)
                builder_string(&b, indent);
        }
        start = end;
    }
    return builder_end(&b);
}

static struct value filter_escape(struct jinja *j, struct value self, args a)
{
    (void)a;
    static const char marks[] = "&<>\"'";
    static const char *const names[] = {"&amp;", "&lt;", "&gt;", "&#34;", "&#39;"};
    const struct string *s = value_string(j, self);
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t at = 0; at < s->size; at++) {
        const char *mark = s->bytes[at] ? strchr(marks, s->bytes[at]) : NULL;
        if (mark)
            builder_bytes(&b, names[mark - marks], strlen(names[mark - marks]), string_is_user(s, at, at + 1));
        else
            builder_part(&b, s, at, at + 1);
    }
    return builder_end(&b);
}

static struct value filter_format(struct jinja *j, struct value self, args a)
{
    struct value argument;
    if (a->named.count) {
        argument = dict_new(&j->w);
        *argument.dict = a->named;
    } else {
        argument = list_new(&j->w, LIST_TUPLE, a->count);
        for (size_t i = 0; i < a->count; i++)
            list_append(&j->w, argument.list, a->positional[i]);
    }
    return string_format_percent(j, value_string(j, self), argument);
}

/* Words are runs of letters, digits and "_". */
static struct value filter_wordcount(struct jinja *j, struct value self, args a)
{
    const struct string *s = value_string(j, self);
    int64_t count = 0;
    bool in_word = false;
    (void)a;
    for (size_t at = 0; at < s->size;) {
        size_t next = utf8_next(s->bytes, s->size, at, NULL);
        struct value character = string_part(&j->w, s, at, next);
        bool word = s->bytes[at] == '_' || value_is_true(j, method(j, character, "isalnum", &(struct arguments){0}));
        count += word && !in_word;
        in_word = word;
        at = next;
    }
    return value_integer(count);
}

static struct value filter_center(struct jinja *j, struct value self, args a)
{
    const struct string *s = value_string(j, self);
    int64_t width = argument_integer(j, a->positional[0], 80, "the width of center");
    int64_t space = MAX(width - (int64_t)string_length(s), (int64_t)0);
    int64_t left = space / 2 + (space & width & 1);
    struct value blank = value_from_text(&j->w, " ");
    struct builder b;
    builder_begin(&b, &j->w);
    builder_string(&b, jinja_binary(j, OPERATION_MULTIPLY, blank, value_integer(left)).string);
    builder_string(&b, s);
    builder_string(&b, jinja_binary(j, OPERATION_MULTIPLY, blank, value_integer(space - left)).string);
    return builder_end(&b);
}

static struct value filter_truncate(struct jinja *j, struct value self, args a)
{
    const struct string *s = value_string(j, self);
    int64_t length = argument_integer(j, a->positional[0], 255, "the length of truncate");
    bool kill_words = argument_true(j, a->positional[1], false);
    const struct string *end =
        given(a->positional[2]) ? value_string(j, a->positional[2]) : value_from_text(&j->w, "...").string;
    int64_t leeway = argument_integer(j, a->positional[3], 5, "the leeway of truncate");
    int64_t end_length = (int64_t)string_length(end);
    if (length < end_length)
        jinja_fail(&j->w, "truncate: expected a length of at least %lld, got %lld", (long long)end_length,
                   (long long)length);
    if ((int64_t)string_length(s) <= length + MAX(leeway, (int64_t)0))
        return value_from_string(s);
    size_t cut = string_offset(s, (size_t)(length - end_length));
    if (!kill_words) {
        const char *space = memrchr(s->bytes, ' ', cut);
        cut = space ? (size_t)(space - s->bytes) : cut;
    }
    struct builder b;
    builder_begin(&b, &j->w);
    builder_part(&b, s, 0, cut);
    builder_string(&b, end);
    return builder_end(&b);
}

static struct value filter_tojson(struct jinja *j, struct value self, args a)
{
    struct value ascii = a->positional[0], indent = a->positional[1], separators = a->positional[2],
                 sort = a->positional[3];
    struct json_layout layout = {.item_separator = ", ", .key_separator = ": "};
    layout.ascii = argument_true(j, ascii, false);
    layout.sort_keys = argument_true(j, sort, false);
    if (indent.kind == VALUE_STRING) {
        layout.indent = indent.string;
    } else if (given(indent) && indent.kind != VALUE_NONE) {
        int64_t width = MAX(argument_integer(j, indent, 0, "the indent of tojson"), (int64_t)0);
        struct value blank = value_from_text(&j->w, " ");
        layout.indent = jinja_binary(j, OPERATION_MULTIPLY, blank, value_integer(MIN(width, (int64_t)100))).string;
    }
    if (layout.indent)
        layout.item_separator = ",";
    if (given(separators) && separators.kind != VALUE_NONE) {
        struct list two = jinja_iterate(j, separators);
        if (two.count != 2 || two.items[0].kind != VALUE_STRING || two.items[1].kind != VALUE_STRING)
            jinja_fail(&j->w, "tojson: separators must be two strings");
        const struct string *item = two.items[0].string, *key = two.items[1].string;
        char *copy = jinja_allocate(&j->w, item->size + key->size + 2);
        memcpy(copy, item->bytes, item->size);
        memcpy(copy + item->size + 1, key->bytes, key->size);
        layout.item_separator = copy;
        layout.key_separator = copy + item->size + 1;
    }
    struct builder b;
    builder_begin(&b, &j->w);
    value_write_json(j, &b, self, &layout, 0);
    return builder_end(&b);
}

/* ---- numbers ------------------------------------------------------------------------------------------------------
 */

static struct value filter_int(struct jinja *j, struct value self, args a)
{
    struct value otherwise = given(a->positional[0]) ? a->positional[0] : value_integer(0);
    int64_t base = argument_integer(j, a->positional[1], 10, "the base of int");
    if (self.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, self);
    if (self.kind == VALUE_INTEGER || self.kind == VALUE_BOOLEAN)
        return value_integer(value_as_integer(self));
    if (self.kind == VALUE_STRING) {
        struct value text = method(j, self, "strip", &(struct arguments){.positional = &(struct value){0}, .count = 1});
        char digits[70];
        size_t length = 0;
        for (size_t i = 0; i < text.string->size && length + 1 < sizeof digits; i++)
            if (text.string->bytes[i] != '_')
                digits[length++] = text.string->bytes[i];
        digits[length] = 0;
        char *end;
        long long integer = strtoll(digits, &end, base >= 2 && base <= 36 ? (int)base : 10);
        if (length && *end == 0)
            return value_integer(integer);
        double number = strtod(digits, &end);
        if (length == 0 || *end || strpbrk(digits, "xXpP"))
            return otherwise;
        self = value_float(number);
    }
    if (self.kind != VALUE_FLOAT || !(fabs(self.number) < 0x1p63))
        return otherwise;
    return value_integer((int64_t)self.number);
}

static struct value filter_float(struct jinja *j, struct value self, args a)
{
    struct value otherwise = given(a->positional[0]) ? a->positional[0] : value_float(0);
    if (self.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, self);
    if (value_is_number(self))
        return value_float(value_as_number(self));
    if (self.kind != VALUE_STRING)
        return otherwise;
    struct value text = method(j, self, "strip", &(struct arguments){.positional = &(struct value){0}, .count = 1});
    char digits[70];
    snprintf(digits, sizeof digits, "%.*s", (int)MIN(text.string->size, sizeof digits - 1), text.string->bytes);
    char *end;
    double number = strtod(digits, &end);
    return end == digits || *end || strpbrk(digits, "xX") ? otherwise : value_float(number);
}

static struct value filter_abs(struct jinja *j, struct value self, args a)
{
    (void)a;
    if (self.kind == VALUE_FLOAT)
        return value_float(fabs(self.number));
    if (!value_is_number(self))
        jinja_fail(&j->w, "bad operand type for abs(): '%s'", value_type_name(self));
    int64_t integer = value_as_integer(self);
    return integer < 0 ? jinja_binary(j, OPERATION_SUBTRACT, value_integer(0), self) : value_integer(integer);
}

static struct value filter_round(struct jinja *j, struct value self, args a)
{
    int64_t precision = argument_integer(j, a->positional[0], 0, "the precision of round");
    if (self.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, self);
    if (!value_is_number(self))
        jinja_fail(&j->w, "type %s doesn't define __round__ method", value_type_name(self));
    double number = value_as_number(self);
    const char *how = "common";
    if (given(a->positional[1]))
        how = argument_string(j, a->positional[1], "the method of round")->bytes;
    if (precision < -300 || precision > 300)
        return self;
    double scale = pow(10, (double)precision);
    if (strncmp(how, "ceil", 4) == 0)
        return value_float(ceil(number * scale) / scale);
    if (strncmp(how, "floor", 5) == 0)
        return value_float(floor(number * scale) / scale);
    if (strncmp(how, "common", 6) != 0)
        jinja_fail(&j->w, "method must be common, ceil or floor");
    if (self.kind != VALUE_FLOAT && precision >= 0)
        return value_integer(value_as_integer(self));
    if (precision < 0) {
        double rounded = nearbyint(number * scale) / scale;
        return self.kind == VALUE_FLOAT ? value_float(rounded) : value_integer((int64_t)rounded);
    }
    char text[700]; /* printf rounds the exact decimal value, half to even, as Python does */
    snprintf(text, sizeof text, "%.*f", (int)precision, number);
    return value_float(strtod(text, NULL));
}

/* ---- sequences ----------------------------------------------------------------------------------------------------
 */

static struct value filter_length(struct jinja *j, struct value self, args a)
{
    (void)a;
    if (self.kind == VALUE_STRING)
        return value_integer((int64_t)string_length(self.string));
    if (self.kind == VALUE_DICT)
        return value_integer((int64_t)self.dict->count);
    if (self.kind == VALUE_LIST && self.list->type != LIST_GENERATOR)
        return value_integer((int64_t)self.list->count);
    if (self.kind == VALUE_LOOP)
        return value_integer((int64_t)self.loop->count);
    if (self.kind == VALUE_UNDEFINED)
        return value_integer(0);
    jinja_fail(&j->w, "object of type '%s' has no len()", value_type_name(self));
}

static struct value filter_list(struct jinja *j, struct value self, args a)
{
    (void)a;
    struct list items = jinja_iterate(j, self);
    struct value list = list_new(&j->w, LIST_PLAIN, items.count);
    for (size_t i = 0; i < items.count; i++)
        list_append(&j->w, list.list, items.items[i]);
    return list;
}

static struct value filter_first(struct jinja *j, struct value self, args a)
{
    (void)a;
    struct list items = jinja_iterate(j, self);
    return items.count ? items.items[0] : value_undefined(&j->w, "No first item, sequence was empty.");
}

static struct value filter_last(struct jinja *j, struct value self, args a)
{
    (void)a;
    if (self.kind == VALUE_LIST && self.list->type == LIST_GENERATOR)
        jinja_fail(&j->w, "'generator' object is not reversible");
    struct list items = jinja_iterate(j, self);
    return items.count ? items.items[items.count - 1] : value_undefined(&j->w, "No last item, sequence was empty.");
}

static struct value filter_reverse(struct jinja *j, struct value self, args a)
{
    (void)a;
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, items.count);
    for (size_t i = items.count; i-- > 0;)
        list_append(&j->w, list.list, items.items[i]);
    if (self.kind != VALUE_STRING)
        return list;
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t i = 0; i < list.list->count; i++)
        builder_string(&b, list.list->items[i].string);
    return builder_end(&b);
}

/* item["a"]["b"] for the attribute "a.b"; an attribute of digits is an index. `otherwise` replaces what is undefined.
 */
static struct value attribute_path(struct jinja *j, struct value item, struct value attribute, struct value otherwise)
{
    if (!given(attribute) || attribute.kind == VALUE_NONE)
        return item;
    if (attribute.kind != VALUE_STRING)
        return jinja_item(j, item, attribute);
    const struct string *path = attribute.string;
    for (size_t start = 0; start <= path->size;) {
        const char *dot = memchr(path->bytes + start, '.', path->size - start);
        size_t end = dot ? (size_t)(dot - path->bytes) : path->size;
        struct value part = string_part(&j->w, path, start, end);
        bool digits = end > start && end - start < 10;
        for (size_t i = start; i < end; i++)
            digits &= path->bytes[i] >= '0' && path->bytes[i] <= '9';
        if (digits)
            part = value_integer(atoi(path->bytes + start));
        item = jinja_item(j, item, part);
        if (item.kind == VALUE_UNDEFINED && given(otherwise))
            item = otherwise;
        start = end + 1;
    }
    return item;
}

/* The rest of the arguments from `from` on, for a filter or test that an argument names. */
static struct arguments rest_of(args a, size_t from)
{
    size_t skip = MIN(from, a->count);
    struct arguments rest = {.count = a->count - skip, .named = a->named};
    if (rest.count)
        rest.positional = a->positional + skip;
    return rest;
}

static struct value filter_map(struct jinja *j, struct value self, args a)
{
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, items.count);
    const struct value *attribute = dict_find_text(&a->named, "attribute", 9);
    const struct value *otherwise = dict_find_text(&a->named, "default", 7);
    if (a->count == 0 && attribute) {
        for (size_t i = 0; i < items.count; i++)
            list_append(&j->w, list.list,
                        attribute_path(j, items.items[i], *attribute, otherwise ? *otherwise : (struct value){0}));
        return list;
    }
    if (a->count == 0)
        jinja_fail(&j->w, "map requires a filter argument");
    const struct string *name = argument_string(j, a->positional[0], "the filter of map");
    const struct builtin *filter = jinja_find_filter(name);
    if (!filter)
        jinja_fail(&j->w, "no filter named '%.*s'", (int)MIN(name->size, (size_t)60), name->bytes);
    struct arguments rest = rest_of(a, 1);
    for (size_t i = 0; i < items.count; i++)
        list_append(&j->w, list.list, jinja_call_builtin(j, filter, items.items[i], &rest));
    return list;
}

static struct value select_items(struct jinja *j, struct value self, args a, bool by_attribute, bool wanted)
{
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, items.count);
    size_t at = by_attribute ? 1 : 0;
    if (a->count < at)
        jinja_fail(&j->w, "missing parameter for attribute name");
    const struct builtin *test = NULL;
    if (a->count > at) {
        const struct string *name = argument_string(j, a->positional[at], "the test of a selection");
        test = jinja_find_test(name);
        if (!test)
            jinja_fail(&j->w, "no test named '%.*s'", (int)MIN(name->size, (size_t)60), name->bytes);
    }
    struct arguments rest = rest_of(a, at + 1);
    for (size_t i = 0; i < items.count; i++) {
        struct value item = items.items[i];
        if (by_attribute)
            item = attribute_path(j, item, a->positional[0], (struct value){0});
        if (test)
            item = jinja_call_builtin(j, test, item, &rest);
        if (value_is_true(j, item) == wanted)
            list_append(&j->w, list.list, items.items[i]);
    }
    return list;
}

static struct value filter_select(struct jinja *j, struct value self, args a)
{
    return select_items(j, self, a, false, true);
}

static struct value filter_reject(struct jinja *j, struct value self, args a)
{
    return select_items(j, self, a, false, false);
}

static struct value filter_selectattr(struct jinja *j, struct value self, args a)
{
    return select_items(j, self, a, true, true);
}

static struct value filter_rejectattr(struct jinja *j, struct value self, args a)
{
    return select_items(j, self, a, true, false);
}

static struct value filter_join(struct jinja *j, struct value self, args a)
{
    const struct string *separator = given(a->positional[0]) ? value_string(j, a->positional[0]) : NULL;
    struct list items = jinja_iterate(j, self);
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t i = 0; i < items.count; i++) {
        if (i && separator)
            builder_string(&b, separator);
        value_write(j, &b, attribute_path(j, items.items[i], a->positional[1], (struct value){0}));
    }
    return builder_end(&b);
}

static struct value filter_sum(struct jinja *j, struct value self, args a)
{
    struct value sum = given(a->positional[1]) ? a->positional[1] : value_integer(0);
    struct list items = jinja_iterate(j, self);
    for (size_t i = 0; i < items.count; i++)
        sum =
            jinja_binary(j, OPERATION_ADD, sum, attribute_path(j, items.items[i], a->positional[0], (struct value){0}));
    return sum;
}

/* ---- order --------------------------------------------------------------------------------------------------------
 */

static struct value fold_case(struct jinja *j, struct value value, bool case_sensitive)
{
    return value.kind == VALUE_STRING && !case_sensitive ? method(j, value, "lower", &(struct arguments){0}) : value;
}

/* Sorts items by keys, keeping the order of equals. */
static void merge_sort(struct jinja *j, struct value *items, struct value *keys, size_t count, bool reverse)
{
    struct value *from_items = items, *from_keys = keys;
    struct value *to_items = jinja_allocate(&j->w, count * sizeof *items);
    struct value *to_keys = jinja_allocate(&j->w, count * sizeof *keys);
    for (size_t width = 1; width < count; width *= 2) {
        for (size_t start = 0; start < count; start += 2 * width) {
            size_t a = start, middle = MIN(start + width, count), b = middle, end = MIN(start + 2 * width, count);
            for (size_t to = start; to < end; to++) {
                bool first = b >= end;
                if (!first && a < middle) {
                    int order = value_compare(j, from_keys[b], from_keys[a], "<");
                    first = reverse ? order <= 0 : order >= 0;
                }
                size_t from = first ? a++ : b++;
                to_items[to] = from_items[from];
                to_keys[to] = from_keys[from];
            }
        }
        struct value *swap = from_items;
        from_items = to_items;
        to_items = swap;
        swap = from_keys;
        from_keys = to_keys;
        to_keys = swap;
    }
    if (from_items != items && count) {
        memcpy(items, from_items, count * sizeof *items);
        memcpy(keys, from_keys, count * sizeof *keys);
    }
}

static struct value filter_sort(struct jinja *j, struct value self, args a)
{
    bool reverse = argument_true(j, a->positional[0], false), sensitive = argument_true(j, a->positional[1], false);
    struct value attribute = a->positional[2];
    struct value list = filter_list(j, self, NULL);
    size_t count = list.list->count;
    struct value *keys = jinja_allocate(&j->w, count * sizeof *keys);
    for (size_t i = 0; i < count; i++) {
        if (attribute.kind == VALUE_STRING && memchr(attribute.string->bytes, ',', attribute.string->size)) {
            struct value comma = value_from_text(&j->w, ","), key = list_new(&j->w, LIST_PLAIN, 2);
            struct value names = method(j, attribute, "split", &(struct arguments){.positional = &comma, .count = 1});
            for (size_t k = 0; k < names.list->count; k++) {
                struct value part = attribute_path(j, list.list->items[i], names.list->items[k], (struct value){0});
                list_append(&j->w, key.list, fold_case(j, part, sensitive));
            }
            keys[i] = key;
        } else {
            keys[i] = fold_case(j, attribute_path(j, list.list->items[i], attribute, (struct value){0}), sensitive);
        }
    }
    merge_sort(j, list.list->items, keys, count, reverse);
    return list;
}

static struct value filter_dictsort(struct jinja *j, struct value self, args a)
{
    if (self.kind != VALUE_DICT)
        jinja_fail(&j->w, "dictsort needs a dict, got '%s'", value_type_name(self));
    bool sensitive = argument_true(j, a->positional[0], false), by_value = false;
    if (given(a->positional[1])) {
        const struct string *by = argument_string(j, a->positional[1], "the 'by' of dictsort");
        by_value = string_is(by, "value");
        if (!by_value && !string_is(by, "key"))
            jinja_fail(&j->w, "You can only sort by either \"key\" or \"value\"");
    }
    struct value list = list_new(&j->w, LIST_PLAIN, self.dict->count);
    struct value *keys = jinja_allocate(&j->w, self.dict->count * sizeof *keys);
    for (size_t i = 0; i < self.dict->count; i++) {
        struct value pair = list_new(&j->w, LIST_TUPLE, 2);
        list_append(&j->w, pair.list, self.dict->entries[i].key);
        list_append(&j->w, pair.list, self.dict->entries[i].value);
        list_append(&j->w, list.list, pair);
        keys[i] = fold_case(j, pair.list->items[by_value], sensitive);
    }
    merge_sort(j, list.list->items, keys, list.list->count, argument_true(j, a->positional[2], false));
    return list;
}

static struct value extreme(struct jinja *j, struct value self, args a, int sign)
{
    bool sensitive = argument_true(j, a->positional[0], false);
    struct list items = jinja_iterate(j, self);
    if (items.count == 0)
        return value_undefined(&j->w, "No aggregated item, sequence was empty.");
    size_t best = 0;
    struct value best_key = {0};
    for (size_t i = 0; i < items.count; i++) {
        struct value key =
            fold_case(j, attribute_path(j, items.items[i], a->positional[1], (struct value){0}), sensitive);
        if (i == 0 || value_compare(j, key, best_key, "<") * sign > 0) {
            best = i;
            best_key = key;
        }
    }
    return items.items[best];
}

static struct value filter_min(struct jinja *j, struct value self, args a)
{
    return extreme(j, self, a, -1);
}

static struct value filter_max(struct jinja *j, struct value self, args a)
{
    return extreme(j, self, a, 1);
}

static struct value filter_unique(struct jinja *j, struct value self, args a)
{
    bool sensitive = argument_true(j, a->positional[0], false);
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, 0), seen = dict_new(&j->w);
    for (size_t i = 0; i < items.count; i++) {
        struct value key =
            fold_case(j, attribute_path(j, items.items[i], a->positional[1], (struct value){0}), sensitive);
        if (dict_find(j, seen.dict, key))
            continue;
        dict_set(&j->w, seen.dict, key, value_none());
        list_append(&j->w, list.list, items.items[i]);
    }
    return list;
}

static struct value filter_groupby(struct jinja *j, struct value self, args a)
{
    bool sensitive = argument_true(j, a->positional[2], false);
    struct arguments order = {.positional = (struct value[]){{0}, value_boolean(sensitive), a->positional[0]},
                              .count = 3};
    struct value sorted = filter_sort(j, self, &order), list = list_new(&j->w, LIST_PLAIN, 0), last = {0};
    struct list *group = NULL;
    for (size_t i = 0; i < sorted.list->count; i++) {
        struct value item = sorted.list->items[i];
        struct value raw = attribute_path(j, item, a->positional[0], a->positional[1]);
        struct value key = fold_case(j, raw, sensitive);
        if (!group || !value_equal(j, key, last)) {
            struct value pair = list_new(&j->w, LIST_TUPLE, 2), members = list_new(&j->w, LIST_PLAIN, 0);
            list_append(&j->w, pair.list, raw);
            list_append(&j->w, pair.list, members);
            list_append(&j->w, list.list, pair);
            group = members.list;
            last = key;
        }
        list_append(&j->w, group, item);
    }
    return list;
}

static struct value filter_batch(struct jinja *j, struct value self, args a)
{
    int64_t width = argument_integer(j, a->positional[0], 0, "the width of batch");
    if (width < 1)
        jinja_fail(&j->w, "batch needs a width of at least 1");
    struct list items = jinja_iterate(j, self);
    struct value list = generator(j, 0);
    for (size_t i = 0; i < items.count;) {
        struct value row = list_new(&j->w, LIST_PLAIN, 0);
        for (int64_t k = 0; k < width && i < items.count; k++, i++)
            list_append(&j->w, row.list, items.items[i]);
        while (i == items.count && given(a->positional[1]) && a->positional[1].kind != VALUE_NONE &&
               (int64_t)row.list->count < width) {
            jinja_step(j, 1);
            list_append(&j->w, row.list, a->positional[1]);
        }
        list_append(&j->w, list.list, row);
    }
    return list;
}

static struct value filter_slice(struct jinja *j, struct value self, args a)
{
    int64_t slices = argument_integer(j, a->positional[0], 0, "the count of slice");
    if (slices < 1 || slices > 100000)
        jinja_fail(&j->w, "slice needs a count from 1 to 100000");
    struct list items = jinja_iterate(j, self);
    size_t each = items.count / (size_t)slices, more = items.count % (size_t)slices, at = 0;
    struct value list = generator(j, 0);
    for (size_t i = 0; i < (size_t)slices; i++) {
        struct value row = list_new(&j->w, LIST_PLAIN, 0);
        for (size_t k = 0; k < each + (i < more); k++)
            list_append(&j->w, row.list, items.items[at++]);
        if (given(a->positional[1]) && a->positional[1].kind != VALUE_NONE && i >= more)
            list_append(&j->w, row.list, a->positional[1]);
        list_append(&j->w, list.list, row);
    }
    return list;
}

static struct value filter_items(struct jinja *j, struct value self, args a)
{
    (void)a;
    if (self.kind == VALUE_UNDEFINED)
        return generator(j, 0);
    if (self.kind != VALUE_DICT)
        jinja_fail(&j->w, "Can only get item pairs from a mapping.");
    struct value list = generator(j, self.dict->count);
    for (size_t i = 0; i < self.dict->count; i++) {
        struct value pair = list_new(&j->w, LIST_TUPLE, 2);
        list_append(&j->w, pair.list, self.dict->entries[i].key);
        list_append(&j->w, pair.list, self.dict->entries[i].value);
        list_append(&j->w, list.list, pair);
    }
    return list;
}

/* ---- the rest -----------------------------------------------------------------------------------------------------
 */

static struct value filter_default(struct jinja *j, struct value self, args a)
{
    bool falsy = argument_true(j, a->positional[1], false);
    if (self.kind != VALUE_UNDEFINED && !(falsy && !value_is_true(j, self)))
        return self;
    return given(a->positional[0]) ? a->positional[0] : value_from_text(&j->w, "");
}

static struct value filter_attr(struct jinja *j, struct value self, args a)
{
    if (self.kind == VALUE_DICT) /* attributes only, never items */
        return value_undefined(&j->w, "'dict object' has no such attribute");
    return jinja_attribute(j, self, argument_string(j, a->positional[0], "the name of attr"));
}

static struct value filter_safe(struct jinja *j, struct value self, args a)
{
    (void)a;
    return value_from_string(value_string(j, self));
}

static const struct builtin filters[] = {
    {"abs", "", filter_abs},
    {"attr", "name ", filter_attr},
    {"batch", "linecount fill_with ", filter_batch},
    {"capitalize", "", filter_capitalize},
    {"center", "width ", filter_center},
    {"count", "", filter_length},
    {"d", "default_value boolean ", filter_default},
    {"default", "default_value boolean ", filter_default},
    {"dictsort", "case_sensitive by reverse ", filter_dictsort},
    {"e", "", filter_escape},
    {"escape", "", filter_escape},
    {"first", "", filter_first},
    {"float", "default ", filter_float},
    {"forceescape", "", filter_escape},
    {"format", NULL, filter_format},
    {"groupby", "attribute default case_sensitive ", filter_groupby},
    {"indent", "width first blank ", filter_indent},
    {"int", "default base ", filter_int},
    {"items", "", filter_items},
    {"join", "d attribute ", filter_join},
    {"last", "", filter_last},
    {"length", "", filter_length},
    {"list", "", filter_list},
    {"lower", "", filter_lower},
    {"map", NULL, filter_map},
    {"max", "case_sensitive attribute ", filter_max},
    {"min", "case_sensitive attribute ", filter_min},
    {"reject", NULL, filter_reject},
    {"rejectattr", NULL, filter_rejectattr},
    {"replace", "old new count ", filter_replace},
    {"reverse", "", filter_reverse},
    {"round", "precision method ", filter_round},
    {"safe", "", filter_safe},
    {"select", NULL, filter_select},
    {"selectattr", NULL, filter_selectattr},
    {"slice", "slices fill_with ", filter_slice},
    {"sort", "reverse case_sensitive attribute ", filter_sort},
    {"string", "", filter_string},
    {"sum", "attribute start ", filter_sum},
    {"title", "", filter_title},
    {"tojson", "ensure_ascii indent separators sort_keys ", filter_tojson},
    {"trim", "chars ", filter_trim},
    {"truncate", "length killwords end leeway ", filter_truncate},
    {"unique", "case_sensitive attribute ", filter_unique},
    {"upper", "", filter_upper},
    {"wordcount", "", filter_wordcount},
};

const struct builtin *jinja_find_filter(const struct string *name)
{
    return builtin_find(filters, COUNT_OF(filters), name);
}
