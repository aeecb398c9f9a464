/* Python's formatting: "%s" % x, "{}".format(x), and strftime. */
#include "template/template_private.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* The part of a format between "%" (or ":" in braces) and the letter, and the letter. */
struct layout {
    char align; /* < > ^ = or 0 */
    bool plus, blank, zero, alternate, comma;
    char fill[5];
    size_t fill_size;
    int width, precision; /* precision -1: none */
    char type;
};

static int read_count(struct jinja *j, const struct string *s, size_t *at)
{
    int count = 0;
    for (; *at < s->size && s->bytes[*at] >= '0' && s->bytes[*at] <= '9'; ++*at) {
        count = count * 10 + (s->bytes[*at] - '0');
        if (count > 10000)
            jinja_fail(&j->w, "a width or precision is larger than 10000");
    }
    return count;
}

/* Inserts "," between groups of three digits before the point. */
static void add_commas(char *text, size_t room)
{
    size_t start = text[0] == '-' || text[0] == '+' || text[0] == ' ', length = strlen(text);
    size_t digits = strspn(text + start, "0123456789");
    for (size_t at = start + digits; at > start + 3 && length + 2 < room;) {
        at -= 3;
        memmove(text + at + 1, text + at, length - at + 1);
        text[at] = ',';
        length++;
    }
}

static void write_padded(struct builder *b, const struct layout *layout, const struct string *text, bool right)
{
    int64_t missing = layout->width - (int64_t)string_length(text);
    char align = layout->align ? layout->align : right ? '>' : '<';
    const char *fill = layout->fill_size ? layout->fill : layout->zero && right ? "0" : " ";
    size_t fill_size = layout->fill_size ? layout->fill_size : 1;
    if (!layout->align && layout->zero && right)
        align = '=';
    size_t sign = align == '=' && text->size && (text->bytes[0] == '-' || text->bytes[0] == '+');
    int64_t before = missing <= 0 || align == '<' ? 0 : align == '^' ? missing / 2 : missing;
    builder_part(b, text, 0, sign);
    for (int64_t i = 0; i < before; i++)
        builder_bytes(b, fill, fill_size, false);
    builder_part(b, text, sign, text->size);
    for (int64_t i = before; i < missing; i++)
        builder_bytes(b, fill, fill_size, false);
}

static void write_number(struct jinja *j, struct builder *b, const struct layout *layout, struct value value)
{
    char text[10400];
    if (value.kind == VALUE_UNDEFINED)
        value_fail_undefined(j, value);
    if (!value_is_number(value))
        jinja_fail(&j->w, "%%%c format: a real number is required, not %s", layout->type, value_type_name(value));
    const char *sign = layout->plus ? "+" : layout->blank ? " " : "";
    size_t start = 0;
    bool whole = strchr("diuxXob", layout->type) != NULL;
    if (whole) {
        if (value.kind == VALUE_FLOAT && !(fabs(value.number) < 0x1p63))
            jinja_fail(&j->w, "%%%c format: the number does not fit in 64 bits", layout->type);
        int64_t integer = value.kind == VALUE_FLOAT ? (int64_t)value.number : value_as_integer(value);
        uint64_t magnitude = integer < 0 ? 0 - (uint64_t)integer : (uint64_t)integer;
        start = (size_t)snprintf(text, sizeof text, "%s", integer < 0 ? "-" : sign);
        if (layout->type == 'b') {
            int bits = magnitude ? 64 - __builtin_clzll(magnitude) : 1;
            for (int i = bits; i-- > 0;)
                text[start++] = (char)('0' + ((magnitude >> i) & 1));
            text[start] = 0;
        } else {
            char *room = text + start;
            size_t size = sizeof text - start;
            unsigned long long m = magnitude;
            int least = MAX(layout->precision, 1);
            switch (layout->type) {
            case 'x':
                snprintf(room, size, layout->alternate ? "0x%.*llx" : "%.*llx", least, m);
                break;
            case 'X':
                snprintf(room, size, layout->alternate ? "0X%.*llX" : "%.*llX", least, m);
                break;
            case 'o':
                snprintf(room, size, layout->alternate ? "0o%.*llo" : "%.*llo", least, m);
                break;
            default:
                snprintf(room, size, "%.*llu", least, m);
            }
        }
    } else {
        double number = value_as_number(value);
        int precision = layout->precision < 0 ? 6 : layout->precision;
        if (!(number < 0))
            start = (size_t)snprintf(text, sizeof text, "%s", sign);
        char *room = text + start;
        size_t size = sizeof text - start;
        switch (layout->type) {
        case 'e':
            snprintf(room, size, "%.*e", precision, number);
            break;
        case 'E':
            snprintf(room, size, "%.*E", precision, number);
            break;
        case 'g':
            snprintf(room, size, "%.*g", precision, number);
            break;
        case 'G':
            snprintf(room, size, "%.*G", precision, number);
            break;
        case '%':
            snprintf(room, size, "%.*f%%", precision, number * 100);
            break;
        default:
            snprintf(room, size, "%.*f", precision, number);
        }
    }
    if (layout->comma)
        add_commas(text, sizeof text);
    write_padded(b, layout, value_from_text(&j->w, text).string, true);
}

static const struct string *cut(struct jinja *j, const struct string *text, int precision)
{
    if (precision < 0)
        return text;
    return string_part(&j->w, text, 0, string_offset(text, (size_t)precision)).string;
}

static const struct string *repr(struct jinja *j, struct value value)
{
    struct builder b;
    builder_begin(&b, &j->w);
    value_write_repr(j, &b, value, 0);
    return builder_end(&b).string;
}

/* ---- "%s" % x -----------------------------------------------------------------------------------------------------
 */

struct percent {
    struct list items;
    size_t next;
    struct value mapping;
};

static struct value next_argument(struct jinja *j, struct percent *p)
{
    if (p->next >= p->items.count)
        jinja_fail(&j->w, "not enough arguments for format string");
    return p->items.items[p->next++];
}

static size_t read_percent(struct jinja *j, struct builder *b, const struct string *s, size_t at, struct percent *p)
{
    struct layout layout = {.precision = -1};
    struct value value = {0};
    if (at < s->size && s->bytes[at] == '(') {
        const char *end = memchr(s->bytes + at, ')', s->size - at);
        if (!end)
            jinja_fail(&j->w, "incomplete format key");
        if (p->mapping.kind != VALUE_DICT)
            jinja_fail(&j->w, "format requires a mapping");
        size_t length = (size_t)(end - s->bytes) - at - 1;
        const struct value *there = dict_find_text(j, p->mapping.dict, s->bytes + at + 1, length);
        if (!there)
            jinja_fail(&j->w, "the format names '%.*s', which is not given", (int)MIN(length, (size_t)60),
                       s->bytes + at + 1);
        value = *there;
        at += length + 2;
    }
    bool left = false;
    for (; at < s->size && s->bytes[at] && strchr("-+ 0#", s->bytes[at]); at++) {
        left |= s->bytes[at] == '-';
        layout.plus |= s->bytes[at] == '+';
        layout.blank |= s->bytes[at] == ' ';
        layout.zero |= s->bytes[at] == '0';
        layout.alternate |= s->bytes[at] == '#';
    }
    layout.align = left ? '<' : 0;
    layout.width = read_count(j, s, &at);
    if (at < s->size && s->bytes[at] == '.') {
        at++;
        layout.precision = read_count(j, s, &at);
    }
    layout.type = at < s->size ? s->bytes[at] : 0;
    if (layout.type == '%') {
        builder_part(b, s, at, at + 1);
        return at + 1;
    }
    if (!layout.type || !strchr("sradiuxXoeEfFgGc", layout.type))
        jinja_fail(&j->w, "incomplete or unknown format");
    if (value.kind == VALUE_MISSING)
        value = next_argument(j, p);
    if (layout.type == 's' || layout.type == 'c' || layout.type == 'r' || layout.type == 'a') {
        bool as_repr = layout.type == 'r' || layout.type == 'a';
        const struct string *text = as_repr ? repr(j, value) : value_string(j, value);
        layout.zero = false;
        write_padded(b, &layout, cut(j, text, layout.precision), true);
    } else {
        write_number(j, b, &layout, value);
    }
    return at + 1;
}

struct value string_format_percent(struct jinja *j, const struct string *format, struct value argument)
{
    struct percent p = {.items = {.items = &argument, .count = 1}, .mapping = argument};
    if (argument.kind == VALUE_LIST && argument.list->type == LIST_TUPLE)
        p.items = *argument.list;
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t at = 0; at < format->size;) {
        const char *mark = memchr(format->bytes + at, '%', format->size - at);
        size_t end = mark ? (size_t)(mark - format->bytes) : format->size;
        builder_part(&b, format, at, end);
        at = mark ? read_percent(j, &b, format, end + 1, &p) : end;
    }
    if (p.next < p.items.count && argument.kind != VALUE_DICT)
        jinja_fail(&j->w, "not all arguments converted during string formatting");
    return builder_end(&b);
}

/* ---- "{}".format(x) -----------------------------------------------------------------------------------------------
 */

static void read_layout(struct jinja *j, const struct string *s, size_t at, size_t end, struct layout *layout)
{
    *layout = (struct layout){.precision = -1};
    if (at >= end)
        return;
    size_t second = utf8_next(s->bytes, end, at, NULL);
    if (second < end && strchr("<>^=", s->bytes[second])) {
        layout->fill_size = second - at;
        memcpy(layout->fill, s->bytes + at, layout->fill_size);
        layout->align = s->bytes[second];
        at = second + 1;
    } else if (strchr("<>^=", s->bytes[at])) {
        layout->align = s->bytes[at++];
    }
    if (at < end && (s->bytes[at] == '+' || s->bytes[at] == '-' || s->bytes[at] == ' ')) {
        layout->plus = s->bytes[at] == '+';
        layout->blank = s->bytes[at++] == ' ';
    }
    if (at < end && s->bytes[at] == '#') {
        layout->alternate = true;
        at++;
    }
    if (at < end && s->bytes[at] == '0') {
        layout->zero = true;
        at++;
    }
    layout->width = read_count(j, s, &at);
    if (at < end && s->bytes[at] == ',') {
        layout->comma = true;
        at++;
    }
    if (at < end && s->bytes[at] == '.') {
        at++;
        layout->precision = read_count(j, s, &at);
    }
    layout->type = at < end ? s->bytes[at++] : 0;
    if (at < end || (layout->type && !strchr("sdxXobeEfFgG%", layout->type)))
        jinja_fail(&j->w, "invalid format specifier");
}

/* Finds the value of a field such as "0", "name", "a.b" or "a[0]". */
static struct value find_field(struct jinja *j, const struct string *s, size_t at, size_t end,
                               const struct arguments *a, size_t *automatic)
{
    size_t stop = at;
    while (stop < end && s->bytes[stop] != '.' && s->bytes[stop] != '[')
        stop++;
    bool digits = stop > at && strspn(s->bytes + at, "0123456789") >= stop - at;
    struct value value;
    if (stop == at || digits) {
        size_t index = stop == at ? (*automatic)++ : (size_t)read_count(j, s, &at);
        if (index >= a->count)
            jinja_fail(&j->w, "Replacement index %zu out of range for positional args tuple", index);
        value = a->positional[index];
    } else {
        const struct value *there = dict_find_text(j, &a->named, s->bytes + at, stop - at);
        if (!there)
            jinja_fail(&j->w, "the format names '%.*s', which is not given", (int)MIN(stop - at, (size_t)60),
                       s->bytes + at);
        value = *there;
    }
    while (stop < end) {
        bool item = s->bytes[stop] == '[';
        at = stop + 1;
        stop = at;
        while (stop < end && (item ? s->bytes[stop] != ']' : s->bytes[stop] != '.' && s->bytes[stop] != '['))
            stop++;
        struct value name = string_part(&j->w, s, at, stop);
        if (item && strspn(s->bytes + at, "0123456789") >= stop - at)
            name = value_integer(read_count(j, s, &at));
        value = item ? jinja_item(j, value, name) : jinja_attribute(j, value, name.string);
        stop += item;
    }
    return value;
}

static void write_field(struct jinja *j, struct builder *b, const struct string *s, size_t at, size_t end,
                        const struct arguments *a, size_t *automatic)
{
    const char *colon = memchr(s->bytes + at, ':', end - at);
    size_t name_end = colon ? (size_t)(colon - s->bytes) : end;
    struct layout layout;
    read_layout(j, s, MIN(name_end + 1, end), end, &layout);
    char conversion = 0;
    if (name_end >= at + 2 && s->bytes[name_end - 2] == '!') {
        conversion = s->bytes[name_end - 1];
        name_end -= 2;
    }
    struct value value = find_field(j, s, at, name_end, a, automatic);
    if (conversion == 'r' || conversion == 'a')
        value = value_from_string(repr(j, value));
    else if (conversion)
        value = value_from_string(value_string(j, value));
    bool number = value_is_number(value) && (value.kind != VALUE_BOOLEAN || layout.type);
    if (!number || layout.type == 's') {
        write_padded(b, &layout, cut(j, value_string(j, value), layout.precision), number);
    } else if (!layout.type && value.kind == VALUE_FLOAT && layout.precision < 0) {
        struct value text = value_from_string(value_string(j, value));
        write_padded(b, &layout, text.string, true);
    } else {
        if (!layout.type)
            layout.type = value.kind == VALUE_FLOAT ? 'g' : 'd';
        write_number(j, b, &layout, value);
    }
}

struct value string_format_braces(struct jinja *j, const struct string *s, const struct arguments *a)
{
    struct builder b;
    builder_begin(&b, &j->w);
    size_t automatic = 0;
    for (size_t at = 0; at < s->size;) {
        char c = s->bytes[at];
        if (c != '{' && c != '}') {
            size_t end = at;
            while (end < s->size && s->bytes[end] != '{' && s->bytes[end] != '}')
                end++;
            builder_part(&b, s, at, end);
            at = end;
        } else if (at + 1 < s->size && s->bytes[at + 1] == c) {
            builder_part(&b, s, at, at + 1);
            at += 2;
        } else {
            const char *close = c == '{' ? memchr(s->bytes + at, '}', s->size - at) : NULL;
            if (!close)
                jinja_fail(&j->w, "Single '%c' encountered in format string", c);
            size_t end = (size_t)(close - s->bytes);
            write_field(j, &b, s, at + 1, end, a, &automatic);
            at = end + 1;
        }
    }
    return builder_end(&b);
}

/* ---- time ---------------------------------------------------------------------------------------------------------
 */

/* Writes the value of a strftime letter. Returns false if the value is a number, which the caller writes. */
static bool write_time_word(struct jinja *j, struct builder *b, char letter, const struct tm *t, int64_t now)
{
    static const char *const days[] = {"Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"};
    static const char *const months[] = {"January", "February", "March",     "April",   "May",      "June",
                                         "July",    "August",   "September", "October", "November", "December"};
    static const char *const composed[][2] = {
        {"D", "%m/%d/%y"}, {"F", "%Y-%m-%d"}, {"T", "%H:%M:%S"},    {"R", "%H:%M"},
        {"x", "%m/%d/%y"}, {"X", "%H:%M:%S"}, {"r", "%I:%M:%S %p"}, {"c", "%a %b %e %H:%M:%S %Y"}};
    for (size_t i = 0; i < COUNT_OF(composed); i++)
        if (composed[i][0][0] == letter) {
            struct value text = time_format(j, value_from_text(&j->w, composed[i][1]).string, now);
            builder_string(b, text.string);
            return true;
        }
    char seconds[32];
    switch (letter) {
    case 'a':
        builder_bytes(b, days[t->tm_wday], 3, false);
        return true;
    case 'A':
        builder_text(b, days[t->tm_wday]);
        return true;
    case 'b':
    case 'h':
        builder_bytes(b, months[t->tm_mon], 3, false);
        return true;
    case 'B':
        builder_text(b, months[t->tm_mon]);
        return true;
    case 'p':
        builder_text(b, t->tm_hour < 12 ? "AM" : "PM");
        return true;
    case 'P':
        builder_text(b, t->tm_hour < 12 ? "am" : "pm");
        return true;
    case 'n':
        builder_text(b, "\n");
        return true;
    case 't':
        builder_text(b, "\t");
        return true;
    case '%':
        builder_text(b, "%");
        return true;
    case 'z': /* the clock has no time zone */
    case 'Z':
        return true;
    case 's':
        snprintf(seconds, sizeof seconds, "%lld", (long long)now);
        builder_text(b, seconds);
        return true;
    case 'f':
        builder_text(b, "000000");
        return true;
    default:
        return false;
    }
}

static void write_time(struct jinja *j, struct builder *b, char letter, char flag, const struct tm *t, int64_t now)
{
    if (write_time_word(j, b, letter, t, now))
        return;
    const int hour = t->tm_hour % 12 ? t->tm_hour % 12 : 12, year = t->tm_year + 1900;
    const struct {
        char letter;
        int number, width;
        char pad;
    } numbers[] = {
        {'d', t->tm_mday, 2, '0'},
        {'e', t->tm_mday, 2, ' '},
        {'m', t->tm_mon + 1, 2, '0'},
        {'y', year % 100, 2, '0'},
        {'Y', year, 1, '0'},
        {'C', year / 100, 2, '0'},
        {'H', t->tm_hour, 2, '0'},
        {'k', t->tm_hour, 2, ' '},
        {'I', hour, 2, '0'},
        {'l', hour, 2, ' '},
        {'M', t->tm_min, 2, '0'},
        {'S', t->tm_sec, 2, '0'},
        {'j', t->tm_yday + 1, 3, '0'},
        {'w', t->tm_wday, 1, '0'},
        {'u', t->tm_wday ? t->tm_wday : 7, 1, '0'},
        {'U', (t->tm_yday + 7 - t->tm_wday) / 7, 2, '0'},
        {'W', (t->tm_yday + 7 - (t->tm_wday + 6) % 7) / 7, 2, '0'},
    };
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        if (numbers[i].letter != letter)
            continue;
        char text[32];
        snprintf(text, sizeof text, numbers[i].pad == ' ' || flag == '_' ? "%*d" : "%0*d",
                 flag == '-' ? 1 : numbers[i].width, numbers[i].number);
        builder_text(b, text);
        return;
    }
    jinja_fail(&j->w, "strftime_now does not support %%%c", letter);
}

struct value time_format(struct jinja *j, const struct string *format, int64_t now)
{
    struct tm t;
    time_t seconds = (time_t)now;
    if (!gmtime_r(&seconds, &t))
        jinja_fail(&j->w, "the clock is out of range");
    struct builder b;
    builder_begin(&b, &j->w);
    for (size_t at = 0; at < format->size; at++) {
        char flag = 0;
        if (format->bytes[at] != '%' || at + 1 == format->size) {
            builder_part(&b, format, at, at + 1);
            continue;
        }
        at++;
        if ((format->bytes[at] == '-' || format->bytes[at] == '_') && at + 1 < format->size)
            flag = format->bytes[at++];
        write_time(j, &b, format->bytes[at], flag, &t, now);
    }
    return builder_end(&b);
}
