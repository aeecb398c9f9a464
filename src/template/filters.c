/* The filters of https://jinja.palletsprojects.com/en/3.1.x/templates/#builtin-filters. tojson is that of Hugging
 * Face's transformers: json.dumps with ensure_ascii off by default and without escapes for HTML. */
#include "template/template_private.h"

#include <errno.h>
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

/* ---- text ---------------------------------------------------------------------------------------------------------
 */

static struct value filter_string(struct jinja *j, struct value self, args a)
{
    (void)a;
    return value_from_string(value_string(j, self));
}

static struct value filter_upper(struct jinja *j, struct value self, args a)
{
    return jinja_call_method(j, self, "upper", a);
}

static struct value filter_lower(struct jinja *j, struct value self, args a)
{
    return jinja_call_method(j, self, "lower", a);
}

static struct value filter_capitalize(struct jinja *j, struct value self, args a)
{
    return jinja_call_method(j, self, "capitalize", a);
}

/* Unlike str.title, starts a new word only after white space, "-" and opening brackets. */
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
        builder_string(&b, jinja_call_method(j, word, "capitalize", a).string);
        start = end;
    }
    return builder_end(&b);
}

static struct value filter_trim(struct jinja *j, struct value self, args a)
{
    return jinja_call_method(j, self, "strip", a);
}

static struct value filter_replace(struct jinja *j, struct value self, args a)
{
    struct value arguments[3] = {value_from_string(value_string(j, a->positional[0])),
                                 value_from_string(value_string(j, a->positional[1])), a->positional[2]};
    struct arguments call = {.positional = arguments, .count = given(arguments[2]) ? 3 : 2};
    return jinja_call_method(j, self, "replace", &call);
}

static struct value filter_indent(struct jinja *j, struct value self, args a)
{
    if (self.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, self);
    if (self.kind != VALUE_STRING)
        jinja_fail(&j->w, "indent needs a string, got '%s'", value_type_name(self));
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
    /* Lines end at "\n", "\r" or "\r\n"; each becomes "\n". */
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

/* Counts words: runs of letters, digits and "_". */
static struct value filter_wordcount(struct jinja *j, struct value self, args a)
{
    const struct string *s = value_string(j, self);
    int64_t count = 0;
    bool in_word = false;
    (void)a;
    for (size_t at = 0; at < s->size;) {
        size_t next = utf8_next(s->bytes, s->size, at, NULL);
        struct value character = string_part(&j->w, s, at, next);
        bool word =
            s->bytes[at] == '_' || value_is_true(j, jinja_call_method(j, character, "isalnum", &(struct arguments){0}));
        count += word && !in_word;
        in_word = word;
        at = next;
    }
    return value_integer(count);
}

static struct value filter_center(struct jinja *j, struct value self, args a)
{
    const struct string *s = value_string(j, self);
    int64_t width = argument_integer(j, a->positional[0], 80, "the width of center"),
            length = (int64_t)string_length(s);
    int64_t space = width > length ? width - length : 0;
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
    if (self.kind == VALUE_NONE || value_is_number(self))
        jinja_fail(&j->w, "object of type '%s' has no len()", value_type_name(self));
    const struct string *s = value_string(j, self);
    int64_t length = argument_integer(j, a->positional[0], 255, "the length of truncate");
    bool kill_words = argument_true(j, a->positional[1], false);
    const struct string *end =
        given(a->positional[2]) ? value_string(j, a->positional[2]) : value_from_text(&j->w, "...").string;
    int64_t leeway = argument_integer(j, a->positional[3], 5, "the leeway of truncate");
    jinja_step_characters(j, s);
    int64_t end_length = (int64_t)string_length(end);
    if (length < end_length)
        jinja_fail(&j->w, "truncate: expected a length of at least %lld, got %lld", (long long)end_length,
                   (long long)length);
    if ((int64_t)string_length(s) - length <= MAX(leeway, (int64_t)0))
        return value_from_string(s);
    size_t cut = string_offset(s, (size_t)(length - end_length));
    if (!kill_words) {
        size_t end_of_word = cut;
        while (end_of_word > 0 && s->bytes[end_of_word - 1] != ' ')
            end_of_word--;
        cut = end_of_word > 0 ? end_of_word - 1 : cut;
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

#define NUMBER_ROOM 400 /* the longest float without an exponent */

/* Copies the text of a number without surrounding white space and without "_" between digits. Returns false if it is
 * too long for a number. */
static bool number_text(struct jinja *j, struct value text, char number[NUMBER_ROOM])
{
    struct arguments none = {.positional = &(struct value){0}, .count = 1};
    const struct string *s = jinja_call_method(j, text, "strip", &none).string;
    size_t length = 0;
    for (size_t i = 0; i < s->size && length < NUMBER_ROOM; i++)
        if (s->bytes[i] != '_')
            number[length++] = s->bytes[i];
    if (length == 0 || length == NUMBER_ROOM)
        return false;
    number[length] = 0;
    return true;
}

static struct value filter_int(struct jinja *j, struct value self, args a)
{
    struct value otherwise = given(a->positional[0]) ? a->positional[0] : value_integer(0);
    int64_t base = argument_integer(j, a->positional[1], 10, "the base of int");
    if (self.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, self);
    if (self.kind == VALUE_INTEGER || self.kind == VALUE_BOOLEAN)
        return value_integer(value_as_integer(self));
    if (self.kind == VALUE_STRING) {
        char text[NUMBER_ROOM], *end;
        if (!number_text(j, self, text))
            return otherwise;
        errno = 0;
        long long integer = strtoll(text, &end, base >= 2 && base <= 36 ? (int)base : 10);
        if (*end == 0 && errno == ERANGE)
            jinja_fail(&j->w, "an integer does not fit in 64 bits");
        if (*end == 0)
            return value_integer(integer);
        double number = strtod(text, &end);
        if (*end || strpbrk(text, "xXpP"))
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
    char text[NUMBER_ROOM], *end;
    if (self.kind != VALUE_STRING || !number_text(j, self, text))
        return otherwise;
    double number = strtod(text, &end);
    return *end || strpbrk(text, "xX") ? otherwise : value_float(number);
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
    const struct string *how = value_from_text(&j->w, "common").string;
    if (given(a->positional[1]))
        how = argument_string(j, a->positional[1], "the method of round");
    bool up = string_is(how, "ceil"), down = string_is(how, "floor");
    if (!up && !down && !string_is(how, "common"))
        jinja_fail(&j->w, "method must be common, ceil or floor");
    if (precision < -300 || precision > 300)
        return self;
    double scale = pow(10, (double)precision);
    if (up)
        return value_float(ceil(number * scale) / scale);
    if (down)
        return value_float(floor(number * scale) / scale);
    if (self.kind != VALUE_FLOAT && precision >= 0)
        return value_integer(value_as_integer(self));
    if (precision < 0) {
        double rounded = nearbyint(number * scale) / scale;
        if (self.kind == VALUE_FLOAT)
            return value_float(rounded);
        if (!(fabs(rounded) < 0x1p63))
            jinja_fail(&j->w, "an integer does not fit in 64 bits");
        return value_integer((int64_t)rounded);
    }
    char text[700]; /* printf rounds the exact decimal value, half to even, as Python does */
    snprintf(text, sizeof text, "%.*f", (int)precision, number);
    return value_float(strtod(text, NULL));
}

/* ---- other filters ---------------------------------------------------------------------------------------------- */

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
    {"capitalize", "", filter_capitalize},
    {"center", "width ", filter_center},
    {"d", "default_value boolean ", filter_default},
    {"default", "default_value boolean ", filter_default},
    {"e", "", filter_escape},
    {"escape", "", filter_escape},
    {"float", "default ", filter_float},
    {"forceescape", "", filter_escape},
    {"format", NULL, filter_format},
    {"indent", "width first blank ", filter_indent},
    {"int", "default base ", filter_int},
    {"lower", "", filter_lower},
    {"replace", "old new count ", filter_replace},
    {"round", "precision method ", filter_round},
    {"safe", "", filter_safe},
    {"string", "", filter_string},
    {"title", "", filter_title},
    {"tojson", "ensure_ascii indent separators sort_keys ", filter_tojson},
    {"trim", "chars ", filter_trim},
    {"truncate", "length killwords end leeway ", filter_truncate},
    {"upper", "", filter_upper},
    {"wordcount", "", filter_wordcount},
};

const struct builtin *jinja_find_filter(const struct string *name)
{
    const struct builtin *filter = builtin_find(filters, COUNT_OF(filters), name);
    return filter ? filter : jinja_find_sequence_filter(name);
}
