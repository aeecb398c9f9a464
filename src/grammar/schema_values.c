/* What a JSON schema says of constants, numbers and strings, as GBNF. */
#include "grammar/grammar_private.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

hypura_status schema_refuse(const struct schema_writer *w, const char *format, ...)
{
    char message[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return error_set(w->error, HYPURA_ERROR_UNSUPPORTED, "%s", message);
}

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

/* ---- constants ----------------------------------------------------------------------------------------------------
 */

hypura_status schema_write_constant(struct schema_writer *w, const json_t *value, struct buffer *expression)
{
    char *text;
    if (json_is_real(value)) {
        char number[40];
        snprintf(number, sizeof number, "%.15g", json_real_value(value));
        if (strtod(number, NULL) != json_real_value(value))
            snprintf(number, sizeof number, "%.17g", json_real_value(value));
        grammar_write_literal(expression, number, strlen(number));
        return HYPURA_OK;
    }
    text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text)
        return error_set(w->error, HYPURA_ERROR_MEMORY, "no memory for a constant of the JSON schema");
    grammar_write_literal(expression, text, strlen(text));
    free(text);
    return HYPURA_OK;
}

hypura_status schema_write_enum(struct schema_writer *w, const json_t *values, struct buffer *expression)
{
    size_t count = json_array_size(values);
    hypura_status status = HYPURA_OK;
    if (count == 0)
        return schema_refuse(w, "the JSON schema has an %s without values", "enum");
    buffer_append_string(expression, "(");
    for (size_t i = 0; i < count && status == HYPURA_OK; i++) {
        buffer_append_string(expression, i ? " | " : "");
        status = schema_write_constant(w, json_array_get(values, i), expression);
    }
    buffer_append_string(expression, ")");
    return status;
}

/* ---- numbers ------------------------------------------------------------------------------------------------------
 */

static void write_digits(struct buffer *e, size_t count)
{
    if (count == 1)
        buffer_append_string(e, " [0-9]");
    else if (count)
        buffer_append_format(e, " [0-9]{%zu}", count);
}

static bool all(const char *digits, size_t count, char digit)
{
    for (size_t i = 0; i < count; i++)
        if (digits[i] != digit)
            return false;
    return true;
}

/* Numbers of one length from low to high. */
static void write_same_length(struct buffer *e, const char *low, const char *high, size_t count)
{
    static const char zeros[] = "00000000000000000000", nines[] = "99999999999999999999";
    if (count == 0) {
        buffer_append_string(e, "\"\"");
        return;
    }
    bool low_open = all(low + 1, count - 1, '0'), high_open = all(high + 1, count - 1, '9');
    if (low[0] == high[0]) {
        buffer_append_format(e, "\"%c\"", low[0]);
        if (count > 1) {
            buffer_append_string(e, " (");
            write_same_length(e, low + 1, high + 1, count - 1);
            buffer_append_string(e, ")");
        }
        return;
    }
    char first = (char)(low[0] + !low_open), last = (char)(high[0] - !high_open);
    const char *between = "";
    if (!low_open) {
        buffer_append_format(e, "\"%c\" (", low[0]);
        write_same_length(e, low + 1, nines, count - 1);
        buffer_append_string(e, ")");
        between = " | ";
    }
    if (first <= last) {
        buffer_append_format(e, "%s[%c-%c]", between, first, last);
        write_digits(e, count - 1);
        between = " | ";
    }
    if (!high_open) {
        buffer_append_format(e, "%s\"%c\" (", between, high[0]);
        write_same_length(e, zeros, high + 1, count - 1);
        buffer_append_string(e, ")");
    }
}

/* Numbers from low up to high; to 16 digits when high is UINT64_MAX. */
static void write_magnitudes(struct buffer *e, uint64_t low, uint64_t high)
{
    static const char nines[] = "99999999999999999999", ones[] = "10000000000000000000";
    char a[24], b[24];
    size_t low_count = (size_t)snprintf(a, sizeof a, "%" PRIu64, low), high_count;
    bool open = high == UINT64_MAX;
    high_count = open ? MAX(low_count, (size_t)16) : (size_t)snprintf(b, sizeof b, "%" PRIu64, high);
    buffer_append_string(e, "(");
    for (size_t count = low_count; count <= high_count; count++) {
        buffer_append_string(e, count > low_count ? " | " : "");
        write_same_length(e, count == low_count ? a : ones, count == high_count && !open ? b : nines, count);
    }
    buffer_append_string(e, ")");
}

struct bounds {
    bool has_low, has_high;
    int64_t low, high;
};

static void write_integers(struct buffer *e, const struct bounds *bounds)
{
    bool negative = !bounds->has_low || bounds->low < 0, positive = !bounds->has_high || bounds->high >= 0;
    buffer_append_string(e, "(");
    if (negative) {
        uint64_t most = bounds->has_low ? (uint64_t)0 - (uint64_t)bounds->low : UINT64_MAX;
        uint64_t least = bounds->has_high && bounds->high < 0 ? (uint64_t)0 - (uint64_t)bounds->high : 1;
        buffer_append_string(e, "\"-\" ");
        write_magnitudes(e, least, most);
    }
    buffer_append_string(e, negative && positive ? " | " : "");
    if (positive)
        write_magnitudes(e, bounds->has_low && bounds->low > 0 ? (uint64_t)bounds->low : 0,
                         bounds->has_high ? (uint64_t)bounds->high : UINT64_MAX);
    buffer_append_string(e, ")");
}

/* minimum and its kin, drawn in to integers. */
static hypura_status read_bounds(const struct schema_writer *w, const json_t *schema, struct bounds *bounds)
{
    static const char *const names[] = {"minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum"};
    *bounds = (struct bounds){0};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const json_t *value = json_object_get(schema, names[i]);
        if (!value)
            continue;
        if (!json_is_number(value))
            return schema_refuse(w, "the \"%s\" of the JSON schema is not a number", names[i]);
        double number = json_number_value(value);
        bool low = i < 2, exclusive = i % 2;
        /* What is written has 16 digits at most: a limit beyond them limits nothing, or leaves nothing. */
        if (low ? number <= -1e16 : number >= 1e16)
            continue;
        if (!(fabs(number) < 1e16))
            return schema_refuse(w, "the \"%s\" of the JSON schema leaves no number of 16 digits or less", names[i]);
        int64_t whole = (int64_t)(low ? ceil(number) : floor(number));
        if (exclusive && (double)whole == number)
            whole += low ? 1 : -1;
        if (low) {
            bounds->low = bounds->has_low ? MAX(bounds->low, whole) : whole;
            bounds->has_low = true;
        } else {
            bounds->high = bounds->has_high ? MIN(bounds->high, whole) : whole;
            bounds->has_high = true;
        }
    }
    if (bounds->has_low && bounds->has_high && bounds->low > bounds->high)
        return schema_refuse(w, "no number of the JSON schema lies between its %s", "minimum and maximum");
    return HYPURA_OK;
}

hypura_status schema_write_number(struct schema_writer *w, const json_t *schema, bool integer, struct buffer *e)
{
    struct bounds bounds;
    hypura_status status = read_bounds(w, schema, &bounds);
    if (status != HYPURA_OK)
        return status;
    if (!bounds.has_low && !bounds.has_high) {
        buffer_append_string(e, integer ? "integer" : "number");
        return HYPURA_OK;
    }
    buffer_append_string(e, "(");
    write_integers(e, &bounds);
    if (!integer) {
        /* With a fraction: n.x lies between n and n + 1, and -n.x between -n - 1 and -n. */
        struct bounds up = bounds, down = bounds;
        up.low = bounds.has_low ? MAX(bounds.low, 0) : 0;
        up.has_low = true;
        up.high = bounds.high - 1;
        if (!up.has_high || up.high >= up.low) {
            buffer_append_string(e, " | ");
            write_integers(e, &up);
            buffer_append_string(e, " \".\" [0-9]{1,16}");
        }
        /* m = n of -n.x: from -high, at least 0, to -low - 1. */
        int64_t least = bounds.has_high ? MAX(-bounds.high, 0) : 0;
        down = (struct bounds){.has_low = true, .low = least, .has_high = bounds.has_low, .high = -bounds.low - 1};
        if (!down.has_high || down.high >= down.low) {
            buffer_append_string(e, " | \"-\" ");
            write_integers(e, &down);
            buffer_append_string(e, " \".\" [0-9]{1,16}");
        }
    }
    buffer_append_string(e, ")");
    return HYPURA_OK;
}

/* ---- strings ------------------------------------------------------------------------------------------------------
 */

/* A count such as minLength; otherwise when it is not there. */
static hypura_status read_count(const struct schema_writer *w, const json_t *schema, const char *name,
                                json_int_t otherwise, json_int_t *out)
{
    const json_t *value = json_object_get(schema, name);
    *out = otherwise;
    if (!value)
        return HYPURA_OK;
    double number = json_is_number(value) ? json_number_value(value) : -1;
    if (!(number >= 0 && number <= 100000) || number != floor(number))
        return schema_refuse(w, "the \"%s\" of the JSON schema is not a whole number up to 100000", name);
    *out = (json_int_t)number;
    return HYPURA_OK;
}

hypura_status schema_read_counts(const struct schema_writer *w, const json_t *schema, const char *least,
                                 const char *most, json_int_t *low, json_int_t *high)
{
    *high = -1;
    hypura_status status = read_count(w, schema, least, 0, low);
    if (status == HYPURA_OK)
        status = read_count(w, schema, most, -1, high);
    if (status == HYPURA_OK && *high >= 0 && *high < *low)
        return schema_refuse(w, "the \"%s\" of the JSON schema is more than its maximum", least);
    return status;
}

void schema_write_repeat(struct buffer *e, json_int_t low, json_int_t high)
{
    if (high < 0)
        buffer_append_format(e, "{%lld,}", (long long)low);
    else
        buffer_append_format(e, "{%lld,%lld}", (long long)low, (long long)high);
}

#define DATE_TEXT                                                                                                      \
    "[0-9]{4} \"-\" ((\"0\" [13578] | \"1\" [02]) \"-\" (\"0\" [1-9] | [12] [0-9] | \"3\" [01]) | "                    \
    "(\"0\" [469] | \"11\") \"-\" (\"0\" [1-9] | [12] [0-9] | \"30\") | "                                              \
    "\"02-\" (\"0\" [1-9] | \"1\" [0-9] | \"2\" [0-8]))"
#define TIME_TEXT                                                                                                      \
    "([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9] \":\" [0-5] [0-9] (\".\" [0-9]{1,9})? "                              \
    "(\"Z\" | [-+] ([01] [0-9] | \"2\" [0-3]) \":\" [0-5] [0-9])"
#define BYTE_TEXT "(\"25\" [0-5] | \"2\" [0-4] [0-9] | \"1\" [0-9]{2} | [1-9]? [0-9])"

static const char *find_format(const char *name)
{
    static const char *const formats[][2] = {
        {"date", DATE_TEXT},
        {"time", TIME_TEXT},
        {"date-time", DATE_TEXT " \"T\" " TIME_TEXT},
        {"uuid", "hex{8} \"-\" hex{4} \"-\" hex{4} \"-\" hex{4} \"-\" hex{12}"},
        {"ipv4", BYTE_TEXT " (\".\" " BYTE_TEXT "){3}"},
    };
    for (size_t i = 0; name && i < COUNT_OF(formats); i++)
        if (strcmp(formats[i][0], name) == 0)
            return formats[i][1];
    return NULL;
}

hypura_status schema_write_string(struct schema_writer *w, const json_t *schema, struct buffer *e)
{
    json_int_t low, high;
    hypura_status status = schema_read_counts(w, schema, "minLength", "maxLength", &low, &high);
    if (status != HYPURA_OK)
        return status;
    const char *pattern = json_string_value(json_object_get(schema, "pattern"));
    const char *format = find_format(json_string_value(json_object_get(schema, "format")));
    bool counted = low > 0 || high >= 0;
    if ((pattern != NULL) + (format != NULL) + counted > 1)
        return schema_refuse(w, "the JSON schema has more than one of %s for one string, which is not supported",
                             "pattern, format and minLength or maxLength");
    if (!pattern && !format && !counted) {
        buffer_append_string(e, "string");
        return HYPURA_OK;
    }
    buffer_append_string(e, "\"\\\"\" ");
    if (pattern) {
        status = grammar_pattern_text(e, pattern, w->error);
    } else if (format) {
        buffer_append_string(e, format);
    } else {
        buffer_append_string(e, "char");
        schema_write_repeat(e, low, high);
    }
    buffer_append_string(e, " \"\\\"\"");
    return status;
}
