/* Writes the constants, numbers and strings of a JSON schema as GBNF. */
#include "core/json_text.h"
#include "grammar/schema_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- constants ----------------------------------------------------------------------------------------------------
 */

void grammar_write_literal(struct buffer *text, const char *bytes, size_t size)
{
    buffer_append_char(text, '"');
    for (size_t i = 0; i < size; i++) {
        char c = bytes[i];
        if (c == '"' || c == '\\')
            buffer_append_format(text, "\\%c", c);
        else if ((unsigned char)c < 0x20 || c == 0x7f)
            buffer_append_format(text, "\\x%02x", (unsigned)c);
        else
            buffer_append_char(text, c);
    }
    buffer_append_char(text, '"');
}

static json_t *plain_numbers(const json_t *value)
{
    json_t *copy = NULL, *item;
    const char *key;
    size_t i;
    if (json_is_real(value)) {
        double number = json_real_value(value);
        return number == floor(number) && fabs(number) < 1e15 ? json_integer((json_int_t)number) : json_real(number);
    }
    if (json_is_array(value)) {
        copy = json_array();
        json_array_foreach(value, i, item) json_array_append_new(copy, plain_numbers(item));
    } else if (json_is_object(value)) {
        copy = json_object();
        json_object_foreach((json_t *)value, key, item) json_object_set_new(copy, key, plain_numbers(item));
    } else {
        copy = json_deep_copy(value);
    }
    return copy;
}

bool schema_write_constant(struct schema_writer *w, const json_t *value, bool canonical, struct buffer *e)
{
    struct decimal number;
    if (json_is_number(value) && schema_read_decimal(value, &number)) {
        buffer_append_format(e, "\"%s%s", number.negative ? "-" : "", number.whole);
        buffer_append_format(e, "%s%s\"", number.fraction[0] ? "." : "", number.fraction);
        return true;
    }
    json_t *plain = plain_numbers(value);
    char *text = plain ? json_text_write(plain, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(17) |
                                                    (canonical ? JSON_SORT_KEYS : 0))
                       : NULL;
    json_decref(plain);
    if (!text)
        return schema_no_memory(w);
    grammar_write_literal(e, text, strlen(text));
    free(text);
    return schema_work(w, 10);
}

/* Writes the texts that satisfy all parts. */
static bool write_parts(struct schema_writer *w, const struct text_part *parts, size_t count, bool in_string,
                        struct buffer *e, bool *empty)
{
    struct automaton a;
    uint32_t looked_at = 0, wanted = 0;
    for (size_t i = 0; i < count; i++) {
        looked_at |= (uint32_t)(parts[i].required || parts[i].forbidden) << i;
        wanted |= (uint32_t)parts[i].required << i;
    }
    return automaton_build(w, parts, count, &a) && automaton_write(w, &a, looked_at, wanted, in_string, e, empty);
}

/* Copies the pattern into the writer's memory and frees the buffer. */
static const char *own_pattern(struct schema_writer *w, struct buffer *pattern)
{
    const char *copy =
        pattern->failed ? (schema_no_memory(w), NULL) : schema_copy_text(w, pattern->data, pattern->size);
    buffer_free(pattern);
    return copy;
}

/* ---- strings ------------------------------------------------------------------------------------------------------
 */

#define DATE_PATTERN                                                                                                   \
    "[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|"                 \
    "02-(?:0[1-9]|1[0-9]|2[0-8]))"
#define TIME_PATTERN                                                                                                   \
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,9})?(?:Z|[-+](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define BYTE_PATTERN "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"

static const char *format_pattern(const char *name)
{
    static const char *const formats[][2] = {
        {"date", "^" DATE_PATTERN "$"},
        {"time", "^" TIME_PATTERN "$"},
        {"date-time", "^" DATE_PATTERN "T" TIME_PATTERN "$"},
        {"uuid", "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"},
        {"ipv4", "^" BYTE_PATTERN "(?:\\." BYTE_PATTERN "){3}$"},
    };
    for (size_t i = 0; i < COUNT_OF(formats); i++)
        if (strcmp(formats[i][0], name) == 0)
            return formats[i][1];
    return NULL;
}

void schema_quote(struct buffer *pattern, const char *text)
{
    for (; *text; text++) {
        if (strchr("\\^$.|?*+()[]{}/-", *text))
            buffer_append_char(pattern, '\\');
        buffer_append_char(pattern, *text);
    }
}

/* Adds a part that forbids the excluded strings. */
static bool add_exclusion(struct schema_writer *w, const struct shape *shape, struct text_part *parts, size_t *count)
{
    struct buffer p = {0};
    struct text_part part = {.kind = TEXT_PATTERN, .forbidden = true};
    for (const struct limits *l = shape->limits; l; l = l->next) {
        if (l->limit->kind != LIMIT_NO_VALUE || !json_is_string(l->limit->value))
            continue;
        w->at = part.origin = l->limit->origin;
        if (strlen(json_string_value(l->limit->value)) != json_string_length(l->limit->value)) {
            buffer_free(&p);
            return schema_refuse(w, "the JSON schema excludes a string with %s, which is not supported", "U+0000");
        }
        buffer_append_string(&p, p.size ? "|" : "^(?:");
        schema_quote(&p, json_string_value(l->limit->value));
    }
    if (p.size == 0)
        return true;
    buffer_append_string(&p, ")$");
    part.pattern = own_pattern(w, &p);
    parts[(*count)++] = part;
    return part.pattern != NULL;
}

bool schema_string_parts(struct schema_writer *w, const struct shape *shape, struct text_part parts[MAX_TEXT_PARTS],
                         size_t *count)
{
    struct text_part length = {.kind = TEXT_LENGTH, .high = -1, .required = true};
    for (const struct limits *l = shape->limits; l; l = l->next) {
        const struct limit *limit = l->limit;
        struct text_part part = {.kind = TEXT_PATTERN, .required = true, .origin = limit->origin};
        if (limit->kind == LIMIT_LENGTH) {
            length.low = MAX(length.low, limit->low);
            length.high = length.high < 0 ? limit->high : limit->high < 0 ? length.high : MIN(length.high, limit->high);
            length.origin = limit->origin;
            continue;
        }
        if (limit->kind == LIMIT_PATTERN)
            part.pattern = limit->name;
        else if (limit->kind == LIMIT_FORMAT)
            part.pattern = format_pattern(limit->name);
        if (!part.pattern)
            continue;
        part.required = limit->kind == LIMIT_FORMAT || (limit->kind == LIMIT_PATTERN && !limit->negated);
        part.forbidden = !part.required;
        bool known = false;
        for (size_t i = 0; i < *count && !known; i++)
            known = parts[i].kind == TEXT_PATTERN && parts[i].required == part.required &&
                    strcmp(parts[i].pattern, part.pattern) == 0;
        w->at = limit->origin;
        if (!known && *count == MAX_TEXT_PARTS - 4)
            return schema_refuse(w, "the JSON schema puts %s on one string", "too many limits");
        if (!known)
            parts[(*count)++] = part;
    }
    if (length.low > 0 || length.high >= 0)
        parts[(*count)++] = length;
    return add_exclusion(w, shape, parts, count);
}

bool schema_write_string(struct schema_writer *w, const struct goal *goal, const struct shape *shape, struct buffer *e)
{
    struct text_part parts[MAX_TEXT_PARTS];
    size_t count = 0;
    bool empty = false;
    if (!schema_string_parts(w, shape, parts, &count))
        return false;
    if (count == 0) {
        buffer_append_string(e, goal->canonical ? "onestring" : "string");
        return true;
    }
    w->at = parts[count - 1].origin;
    if (count == 1 && parts[0].kind == TEXT_LENGTH) {
        if (parts[0].low > 100000 || parts[0].high > 100000) {
            if (parts[0].low > 100000)
                return schema_refuse(w, "the \"%s\" of the JSON schema is more than 100000", "minLength");
            parts[0].high = 100000;
        }
        if (parts[0].high >= 0 && parts[0].high < parts[0].low)
            return true;
        buffer_append_string(e, goal->canonical ? "\"\\\"\" onechar" : "\"\\\"\" char");
        schema_write_repeat(e, parts[0].low, parts[0].high);
        buffer_append_string(e, " \"\\\"\"");
        return true;
    }
    if (count == 1 && parts[0].required && !goal->canonical) {
        struct pattern_node *tree;
        if (!pattern_parse(w, parts[0].pattern, &tree))
            return false;
        if (pattern_is_plain(tree)) {
            buffer_append_string(e, "\"\\\"\" ");
            pattern_write(tree, e);
            buffer_append_string(e, " \"\\\"\"");
            return true;
        }
    }
    struct buffer inside = {0};
    unsigned rule;
    if (!write_parts(w, parts, count, true, &inside, &empty)) {
        buffer_free(&inside);
        return false;
    }
    if (empty) {
        buffer_free(&inside);
        return true;
    }
    bool fine = schema_text_rule(w, &inside, &rule);
    buffer_append_format(e, "\"\\\"\" r%u \"\\\"\"", rule);
    return fine;
}

/* ---- decimal numbers ----------------------------------------------------------------------------------------------
 */

bool schema_read_decimal(const json_t *value, struct decimal *out)
{
    char text[64], digits[64];
    int exponent = 0;
    *out = (struct decimal){0};
    if (json_is_integer(value)) {
        snprintf(text, sizeof text, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        snprintf(digits, sizeof digits, "%s", text + (text[0] == '-'));
        exponent = (int)strlen(digits);
    } else {
        double number = json_real_value(value);
        for (int precision = 0; precision <= 16; precision++) {
            snprintf(text, sizeof text, "%.*e", precision, number);
            if (strtod(text, NULL) == number)
                break;
        }
        /* d.ddde+xx */
        const char *at = text + (text[0] == '-'), *mark = strchr(text, 'e');
        size_t count = 0;
        for (; mark && at < mark; at++)
            if (*at != '.')
                digits[count++] = *at;
        digits[count] = 0;
        exponent = mark ? atoi(mark + 1) + 1 : 0;
    }
    size_t count = strlen(digits);
    while (count && digits[count - 1] == '0' && (int)count > exponent)
        digits[--count] = 0;
    if (exponent > 19 || exponent < -14 || (int)count - exponent > 18)
        return false;
    out->negative = text[0] == '-' && strspn(digits, "0") != count;
    size_t whole = 0, fraction = 0;
    for (int i = 0; i < exponent; i++)
        out->whole[whole++] = i < (int)count ? digits[i] : '0';
    if (!whole || strspn(out->whole, "0") == whole) {
        memset(out->whole, 0, sizeof out->whole);
        out->whole[0] = '0';
    }
    for (int i = exponent; i < (int)count; i++)
        out->fraction[fraction++] = i < 0 ? '0' : digits[i];
    while (fraction && out->fraction[fraction - 1] == '0')
        out->fraction[--fraction] = 0;
    return true;
}

/* Multiplies a number by 10^places, which makes it whole. Returns false if the result is too large. */
static bool scaled(const struct decimal *number, size_t places, uint64_t *out)
{
    char text[128];
    snprintf(text, sizeof text, "%s%s", number->whole, number->fraction);
    size_t length = strlen(text), more = places - strlen(number->fraction);
    if (length + more > 18)
        return false;
    memset(text + length, '0', more);
    text[length + more] = 0;
    *out = strtoull(text, NULL, 10);
    return true;
}

bool schema_decimal_is_multiple(const struct decimal *a, const struct decimal *b)
{
    uint64_t x, y;
    size_t places = MAX(strlen(a->fraction), strlen(b->fraction));
    return scaled(a, places, &x) && scaled(b, places, &y) && y && x % y == 0;
}

/* ---- ranges of numbers, as patterns -------------------------------------------------------------------------------
 */

#define ANY_FRACTION "(?:\\.[0-9]+)?"

static const char *next_way(const char **between)
{
    const char *now = *between;
    *between = "|";
    return now;
}

/* Writes the whole numbers with as many digits that are larger (with `less`: smaller), with any fraction. */
static void write_other_whole(struct buffer *p, const char *digits, bool less, const char **between)
{
    size_t count = strlen(digits);
    for (size_t i = 0; i < count; i++) {
        char from = less ? (i == 0 && count > 1 ? '1' : '0') : (char)(digits[i] + 1);
        char to = less ? (char)(digits[i] - 1) : '9';
        if (from <= to)
            buffer_append_format(p, "%s%.*s[%c-%c][0-9]{%zu}" ANY_FRACTION, next_way(between), (int)i, digits, from, to,
                                 count - i - 1);
    }
}

/* Writes the magnitudes from a number on. */
static void write_magnitudes_from(struct buffer *p, const struct decimal *number, bool exclusive)
{
    const char *between = "", *f = number->fraction;
    buffer_append_format(p, "(?:%s[1-9][0-9]{%zu,}" ANY_FRACTION, next_way(&between), strlen(number->whole));
    write_other_whole(p, number->whole, false, &between);
    for (size_t i = 0; f[i]; i++)
        if (f[i] < '9')
            buffer_append_format(p, "|%s\\.%.*s[%c-9][0-9]*", number->whole, (int)i, f, f[i] + 1);
    if (exclusive)
        buffer_append_format(p, "|%s\\.%s[0-9]*[1-9][0-9]*)", number->whole, f);
    else if (f[0])
        buffer_append_format(p, "|%s\\.%s[0-9]*)", number->whole, f);
    else
        buffer_append_format(p, "|%s" ANY_FRACTION ")", number->whole);
}

/* Writes the magnitudes up to a number; [] if there are none. */
static void write_magnitudes_to(struct buffer *p, const struct decimal *number, bool exclusive)
{
    const char *between = "", *f = number->fraction;
    size_t count = strlen(number->whole);
    buffer_append_string(p, "(?:");
    if (count > 1)
        buffer_append_format(p, "%s(?:0|[1-9][0-9]{0,%zu})" ANY_FRACTION, next_way(&between), count - 2);
    write_other_whole(p, number->whole, true, &between);
    for (size_t i = 0; f[i]; i++) {
        if (f[i] > '0')
            buffer_append_format(p, "%s%s\\.%.*s[0-%c][0-9]*", next_way(&between), number->whole, (int)i, f, f[i] - 1);
        /* The same digits with fewer decimals are smaller. */
        buffer_append_format(p, i ? "%s%s\\.%.*s" : "%s%s", next_way(&between), number->whole, (int)i, f);
    }
    if (!exclusive)
        buffer_append_format(p, f[0] ? "%s%s\\.%s0*" : "%s%s(?:\\.0+)?", next_way(&between), number->whole, f);
    buffer_append_string(p, *between ? ")" : "[])");
}

/* Makes the pattern of all numbers from a bound on, or up to it. */
static const char *bound_pattern(struct schema_writer *w, const struct decimal *bound, bool most, bool exclusive)
{
    static const char any[] = "(?:0|[1-9][0-9]*)" ANY_FRACTION;
    struct buffer p = {0};
    buffer_append_string(&p, most ? "^(?:-" : "^(?:");
    if (most != bound->negative)
        buffer_append_format(&p, most ? "%s|" : "%s|-", any);
    if (most != bound->negative)
        write_magnitudes_to(&p, bound, exclusive);
    else
        write_magnitudes_from(&p, bound, exclusive);
    buffer_append_string(&p, ")$");
    return own_pattern(w, &p);
}

/* ---- numbers ------------------------------------------------------------------------------------------------------
 */

struct number_plan {
    struct text_part parts[MAX_TEXT_PARTS];
    size_t count;
    size_t whole, places; /* digits before and after the point */
    bool exclusive;
};

static bool add_part(struct schema_writer *w, struct number_plan *plan, struct text_part part)
{
    if (part.kind == TEXT_PATTERN && !part.pattern)
        return false;
    if (plan->count == MAX_TEXT_PARTS - 2)
        return schema_refuse(w, "the JSON schema puts %s on one number", "too many limits");
    plan->parts[plan->count++] = part;
    return true;
}

/* Lists the multiples of a number that is too large for an automaton of remainders. */
static bool list_multiples(struct schema_writer *w, const struct decimal *number, struct text_part *part)
{
    uint64_t step;
    size_t places = strlen(number->fraction);
    struct buffer p = {0};
    if (!scaled(number, places, &step) || step > 1000000000000000u)
        return schema_refuse(w, "the \"multipleOf\" of the JSON schema is %s", "too large or too fine to enforce");
    buffer_append_string(&p, "^(?:0");
    for (uint64_t k = 1; k <= 50 && k * step <= 1000000000000000u; k++) {
        char digits[32];
        int length = snprintf(digits, sizeof digits, "%0*" PRIu64, (int)places + 1, k * step);
        buffer_append_format(&p, "|-?%.*s", length - (int)places, digits);
        if (places)
            buffer_append_format(&p, "\\.%s", digits + length - (int)places);
    }
    buffer_append_string(&p, ")$");
    part->kind = TEXT_PATTERN;
    part->pattern = own_pattern(w, &p);
    return part->pattern != NULL;
}

static bool plan_multiple(struct schema_writer *w, struct number_plan *plan, const struct limit *limit, unsigned types)
{
    struct text_part part = {
        .kind = TEXT_MULTIPLE, .required = !limit->negated, .forbidden = limit->negated, .origin = limit->origin};
    struct decimal number;
    uint64_t step, one = 1;
    if (!schema_read_decimal(limit->value, &number) || !scaled(&number, strlen(number.fraction), &step) || !step)
        return schema_refuse(w, "the \"multipleOf\" of the JSON schema is %s", "too large or too fine to enforce");
    size_t places = strlen(number.fraction);
    for (size_t i = 0; i < places; i++)
        one *= 10;
    if (types == TYPE_INTEGER) { /* reduce the fraction: for whole numbers only its numerator counts */
        step /= greatest_common_divisor(step, one);
        places = 0;
    }
    part.multiple = (uint32_t)MIN(step, (uint64_t)UINT32_MAX);
    part.places = (uint32_t)places;
    plan->places = MAX(plan->places, places);
    if (step * (places + 2) <= 1200)
        return add_part(w, plan, part);
    if (limit->negated)
        return schema_refuse(w, "the \"multipleOf\" of the JSON schema is %s", "too large or too fine to enforce");
    struct decimal whole = number;
    if (types == TYPE_INTEGER) {
        memset(&whole, 0, sizeof whole);
        snprintf(whole.whole, sizeof whole.whole, "%" PRIu64, step);
    }
    return list_multiples(w, &whole, &part) && add_part(w, plan, part);
}

static bool plan_limit(struct schema_writer *w, struct number_plan *plan, const struct limit *limit, unsigned types,
                       bool *skip)
{
    struct text_part part = {.kind = TEXT_PATTERN, .required = true, .origin = limit->origin};
    struct decimal number;
    bool most = limit->kind == LIMIT_MOST;
    w->at = limit->origin;
    if (limit->kind == LIMIT_MULTIPLE)
        return plan_multiple(w, plan, limit, types);
    if (limit->kind == LIMIT_NO_VALUE && json_is_number(limit->value)) {
        struct buffer p = {0};
        if (!schema_read_decimal(limit->value, &number))
            return true; /* such a number is never written */
        bool zero = strcmp(number.whole, "0") == 0 && !number.fraction[0];
        buffer_append_format(&p, "^%s%s", zero ? "-?" : number.negative ? "-" : "", number.whole);
        buffer_append_format(&p, number.fraction[0] ? "\\.%s0*$" : "(?:\\.0*)?$", number.fraction);
        part.pattern = own_pattern(w, &p);
        part.required = false;
        part.forbidden = true;
        plan->places = MAX(plan->places, strlen(number.fraction));
        return add_part(w, plan, part);
    }
    if (limit->kind != LIMIT_LEAST && !most)
        return true;
    if (!schema_read_decimal(limit->value, &number)) {
        double bound = json_number_value(limit->value);
        if (fabs(bound) < 1) {
            number = (struct decimal){.negative = bound < 0, .whole = "0"}; /* zero takes its place */
            if ((bound > 0) != most)
                return schema_refuse(w, "a bound of a number in the JSON schema is %s", "too fine to enforce");
        } else if ((bound > 0) == most) {
            return true; /* beyond all numbers that are written */
        } else if (fabs(bound) > 1e18) {
            *skip = true;
            return true;
        } else {
            return schema_refuse(w, "a bound of a number in the JSON schema is %s", "too fine to enforce");
        }
    }
    plan->exclusive |= limit->negated;
    plan->whole = MAX(plan->whole, strlen(number.whole) + (most == number.negative));
    plan->places = MAX(plan->places, strlen(number.fraction) + 2);
    part.pattern = bound_pattern(w, &number, most, limit->negated);
    return add_part(w, plan, part);
}

bool schema_write_number(struct schema_writer *w, const struct goal *goal, const struct shape *shape, unsigned types,
                         struct buffer *e)
{
    struct number_plan plan = {.count = 0};
    bool skip = false, empty = false;
    types &= TYPE_NUMBER;
    for (const struct limits *l = shape->limits; l; l = l->next)
        if (!plan_limit(w, &plan, l->limit, types, &skip))
            return false;
    if (skip)
        return true;
    if (plan.count == 0 && types != TYPE_FRACTION) {
        const char *one = types == TYPE_INTEGER ? "oneinteger" : "onenumber";
        buffer_append_string(e, goal->canonical ? one : types == TYPE_INTEGER ? "integer" : "number");
        return true;
    }
    /* At most 15 digits in all, which every JSON reader can distinguish. */
    size_t places = MIN(MAX(plan.places, (size_t)6), (size_t)14);
    size_t whole = MIN(MAX(plan.whole, types == TYPE_INTEGER ? 15 : 15 - places), (size_t)19);
    places = whole < 15 ? MIN(places, 15 - whole) : 0;
    if (!plan.exclusive && types == TYPE_NUMBER && !places)
        places = 1;
    struct buffer p = {0};
    char fraction[64] = "", last[64] = "";
    if (places) {
        snprintf(fraction, sizeof fraction, "(?:\\.[0-9]{1,%zu})?", places);
        snprintf(last, sizeof last, "\\.[0-9]{0,%zu}[1-9]", places - 1);
    }
    bool integers = types & TYPE_INTEGER, exact = goal->canonical || types == TYPE_FRACTION;
    if (types == TYPE_INTEGER)
        buffer_append_format(&p, "^(?:0|-?[1-9][0-9]{0,%zu})$", whole - 1);
    else if (exact && !integers)
        buffer_append_format(&p, "^-?(?:0|[1-9][0-9]{0,%zu})%s$", whole - 1, places ? last : "[]");
    else if (exact)
        buffer_append_format(&p, "^(?:0|-?[1-9][0-9]{0,%zu}%s%s", whole - 1, places ? "|-?(?:0|[1-9][0-9]{0,8})" : "",
                             last),
            buffer_append_string(&p, ")$");
    else
        buffer_append_format(&p, "^(?:0%s|-?[1-9][0-9]{0,%zu}%s", fraction, whole - 1, fraction),
            buffer_append_format(&p, "%s%s)$", places ? "|-0" : "", last);
    struct text_part base = {.kind = TEXT_PATTERN, .required = true};
    base.pattern = own_pattern(w, &p);
    if (!base.pattern)
        return false;
    base.origin = plan.count ? plan.parts[plan.count - 1].origin : w->at;
    plan.parts[plan.count++] = base;
    struct buffer text = {0};
    unsigned rule;
    w->at = base.origin;
    if (!write_parts(w, plan.parts, plan.count, false, &text, &empty) || empty) {
        buffer_free(&text);
        return empty;
    }
    if (text.size < 60) {
        buffer_append(e, text.data, text.size);
        e->failed |= text.failed;
        buffer_free(&text);
        return true;
    }
    bool fine = schema_text_rule(w, &text, &rule);
    buffer_append_format(e, "r%u", rule);
    return fine;
}
