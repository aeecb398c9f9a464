/* The regular expressions of JSON schemas (ECMA-262, the part without look-around, references and word boundaries) as
 * GBNF for what stands between the quotes of a JSON string. */
#include "grammar/grammar_private.h"

#include <ctype.h>
#include <string.h>

#define MAX_RANGES 200

struct ranges {
    struct code_range items[MAX_RANGES];
    size_t count;
};

struct pattern {
    struct buffer *text;
    const char *source;
    size_t size, at;
    int nesting;
    hypura_error *error;
};

static hypura_status parse_alternatives(struct pattern *p);

static hypura_status refuse(const struct pattern *p, const char *what)
{
    return error_set(p->error, HYPURA_ERROR_UNSUPPORTED, "the pattern \"%.80s\" of the JSON schema has %s at byte %zu",
                     p->source, what, p->at);
}

static bool at_char(const struct pattern *p, char c)
{
    return p->at < p->size && p->source[p->at] == c;
}

/* ---- sets of characters -------------------------------------------------------------------------------------------
 */

static bool add(struct ranges *set, uint32_t low, uint32_t high)
{
    if (set->count == MAX_RANGES)
        return false;
    set->items[set->count++] = (struct code_range){low, high};
    return true;
}

static void normalize(struct ranges *set)
{
    size_t kept = 0;
    for (size_t i = 1; i < set->count; i++)
        for (size_t k = i; k > 0 && set->items[k].low < set->items[k - 1].low; k--) {
            struct code_range swap = set->items[k];
            set->items[k] = set->items[k - 1];
            set->items[k - 1] = swap;
        }
    for (size_t i = 0; i < set->count; i++) {
        if (kept && set->items[i].low <= set->items[kept - 1].high + 1)
            set->items[kept - 1].high = MAX(set->items[kept - 1].high, set->items[i].high);
        else
            set->items[kept++] = set->items[i];
    }
    set->count = kept;
}

static bool complement(struct ranges *set)
{
    struct ranges rest = {.count = 0};
    uint32_t from = 0;
    normalize(set);
    for (size_t i = 0; i < set->count; i++) {
        if (set->items[i].low > from && !add(&rest, from, set->items[i].low - 1))
            return false;
        from = set->items[i].high + 1;
    }
    if (from <= 0x10ffff && !add(&rest, from, 0x10ffff))
        return false;
    *set = rest;
    return true;
}

/* \d, \w, \s and their opposites. */
static bool add_shorthand(struct ranges *set, char letter)
{
    struct ranges own = {.count = 0};
    switch (tolower((unsigned char)letter)) {
    case 'd':
        add(&own, '0', '9');
        break;
    case 'w':
        add(&own, '0', '9');
        add(&own, 'A', 'Z');
        add(&own, 'a', 'z');
        add(&own, '_', '_');
        break;
    default:
        add(&own, 9, 13);
        add(&own, ' ', ' ');
        add(&own, 0xa0, 0xa0);
    }
    if (isupper((unsigned char)letter))
        complement(&own);
    bool fits = true;
    for (size_t i = 0; i < own.count; i++)
        fits &= add(set, own.items[i].low, own.items[i].high);
    return fits;
}

/* The characters of a set as they stand in a JSON string: those that need an escape as escapes. */
static void write_set(struct buffer *text, struct ranges *set)
{
    bool first = true;
    normalize(set);
    buffer_append_string(text, "(");
    for (size_t i = 0; i < set->count; i++) {
        uint32_t low = set->items[i].low, high = set->items[i].high;
        for (uint32_t c = low; c <= high && c <= '\\'; c++) {
            static const char named[] = "\b\f\n\r\t", letters[] = "bfnrt";
            if (c >= 0x20 && c != '"' && c != '\\')
                continue;
            const char *name = c ? strchr(named, (int)c) : NULL;
            buffer_append_string(text, first ? "" : " | ");
            first = false;
            if (c == '"' || c == '\\')
                buffer_append_format(text, "\"\\\\\\%c\"", (char)c);
            else if (name)
                buffer_append_format(text, "\"\\\\%c\"", letters[name - named]);
            else
                buffer_append_format(text, "\"\\\\u%04x\"", (unsigned)c);
        }
    }
    struct ranges plain = {.count = 0};
    static const struct code_range free_ranges[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0xd7ff}, {0xe000, 0x10ffff}};
    for (size_t i = 0; i < set->count; i++)
        for (size_t k = 0; k < COUNT_OF(free_ranges); k++) {
            uint32_t low = MAX(set->items[i].low, free_ranges[k].low);
            uint32_t high = MIN(set->items[i].high, free_ranges[k].high);
            if (low <= high)
                add(&plain, low, high);
        }
    if (plain.count) {
        buffer_append_string(text, first ? "[" : " | [");
        for (size_t i = 0; i < plain.count; i++)
            buffer_append_format(text, "\\U%08x-\\U%08x", (unsigned)plain.items[i].low, (unsigned)plain.items[i].high);
        buffer_append_string(text, "]");
    } else if (first) {
        buffer_append_string(text, "[]"); /* matches nothing */
    }
    buffer_append_string(text, ")");
}

/* ---- characters ---------------------------------------------------------------------------------------------------
 */

static hypura_status read_hex(struct pattern *p, size_t digits, uint32_t *code)
{
    *code = 0;
    for (size_t i = 0; i < digits; i++, p->at++) {
        if (p->at >= p->size || !isxdigit((unsigned char)p->source[p->at]))
            return refuse(p, "an escape without its hexadecimal digits");
        int c = tolower((unsigned char)p->source[p->at]);
        *code = *code * 16 + (uint32_t)(isdigit(c) ? c - '0' : c - 'a' + 10);
    }
    return HYPURA_OK;
}

/* After a backslash: one character, or a shorthand (then *shorthand is its letter). */
static hypura_status read_escape(struct pattern *p, uint32_t *code, char *shorthand)
{
    static const char letters[] = "nrtfv", meanings[] = "\n\r\t\f\v";
    if (p->at >= p->size)
        return refuse(p, "a backslash at its end");
    char c = p->source[p->at++];
    *shorthand = 0;
    if (strchr("dDwWsS", c)) {
        *shorthand = c;
        return HYPURA_OK;
    }
    const char *letter = strchr(letters, c);
    if (letter) {
        *code = (uint32_t)meanings[letter - letters];
        return HYPURA_OK;
    }
    if (c == 'x')
        return read_hex(p, 2, code);
    if (c == 'u' && at_char(p, '{')) {
        const char *end = memchr(p->source + p->at, '}', p->size - p->at);
        size_t digits = end ? (size_t)(end - p->source) - p->at - 1 : 0;
        p->at++;
        if (digits == 0 || digits > 6 || read_hex(p, digits, code) != HYPURA_OK || *code > 0x10ffff)
            return refuse(p, "an escape that is no character");
        p->at++;
        return HYPURA_OK;
    }
    if (c == 'u')
        return read_hex(p, 4, code);
    if (isalnum((unsigned char)c))
        return refuse(p, "a reference, a word boundary or an escape that is not known,");
    *code = (unsigned char)c;
    return HYPURA_OK;
}

static hypura_status read_character(struct pattern *p, uint32_t *code)
{
    const unsigned char *bytes = (const unsigned char *)p->source + p->at;
    size_t length = bytes[0] < 0x80 ? 1 : bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : 4;
    if (length > p->size - p->at)
        return refuse(p, "bytes that are no UTF-8");
    *code = length == 1 ? bytes[0] : bytes[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++)
        *code = *code << 6 | (bytes[i] & 0x3fu);
    p->at += length;
    return HYPURA_OK;
}

static hypura_status parse_class(struct pattern *p, struct ranges *set)
{
    hypura_status status = HYPURA_OK;
    bool negated = at_char(p, '^');
    p->at += negated;
    while (status == HYPURA_OK && !at_char(p, ']')) {
        uint32_t low = 0, high;
        char shorthand = 0;
        if (p->at >= p->size)
            return refuse(p, "a class that is not closed");
        if (at_char(p, '\\')) {
            p->at++;
            status = at_char(p, 'b') ? (p->at++, low = 8, HYPURA_OK) : read_escape(p, &low, &shorthand);
        } else {
            status = read_character(p, &low);
        }
        if (status != HYPURA_OK)
            return status;
        if (shorthand) {
            if (!add_shorthand(set, shorthand))
                return refuse(p, "too large a class");
            continue;
        }
        high = low;
        if (at_char(p, '-') && p->at + 1 < p->size && p->source[p->at + 1] != ']') {
            p->at++;
            if (at_char(p, '\\')) {
                p->at++;
                status = read_escape(p, &high, &shorthand);
            } else {
                status = read_character(p, &high);
            }
            if (status == HYPURA_OK && (shorthand || high < low))
                return refuse(p, "a range that is none");
        }
        if (status == HYPURA_OK && !add(set, low, high))
            return refuse(p, "too large a class");
    }
    p->at++;
    if (status == HYPURA_OK && negated && !complement(set))
        return refuse(p, "too large a class");
    return status;
}

/* ---- structure ----------------------------------------------------------------------------------------------------
 */

static hypura_status parse_quantifier(struct pattern *p)
{
    char c = p->at < p->size ? p->source[p->at] : 0;
    if (c == '*' || c == '+' || c == '?') {
        buffer_append_char(p->text, c);
        p->at++;
    } else if (c == '{') {
        const char *end = memchr(p->source + p->at, '}', p->size - p->at);
        size_t length = end ? (size_t)(end - p->source) - p->at + 1 : 0;
        if (length < 3 || !isdigit((unsigned char)p->source[p->at + 1]) ||
            strspn(p->source + p->at + 1, "0123456789,") != length - 2)
            return refuse(p, "a repetition that is none");
        buffer_append(p->text, p->source + p->at, length);
        p->at += length;
    } else {
        return HYPURA_OK;
    }
    p->at += at_char(p, '?'); /* lazy or greedy match the same texts */
    if (at_char(p, '*') || at_char(p, '+') || at_char(p, '?') || at_char(p, '{'))
        return refuse(p, "a repetition of a repetition");
    return HYPURA_OK;
}

static hypura_status parse_group(struct pattern *p)
{
    p->at++;
    if (at_char(p, '?')) {
        bool plain = p->at + 1 < p->size && p->source[p->at + 1] == ':';
        bool named = p->at + 2 < p->size && p->source[p->at + 1] == '<' && isalpha((unsigned char)p->source[p->at + 2]);
        const char *name_end = named ? memchr(p->source + p->at, '>', p->size - p->at) : NULL;
        if (plain)
            p->at += 2;
        else if (name_end)
            p->at = (size_t)(name_end - p->source) + 1;
        else
            return refuse(p, "look-around");
    }
    if (++p->nesting > 50)
        return refuse(p, "more than 50 groups inside one another");
    buffer_append_string(p->text, "(");
    hypura_status status = parse_alternatives(p);
    buffer_append_string(p->text, ")");
    p->nesting--;
    if (status == HYPURA_OK && !at_char(p, ')'))
        return refuse(p, "a group that is not closed");
    p->at++;
    return status;
}

static hypura_status parse_atom(struct pattern *p)
{
    struct ranges set = {.count = 0};
    hypura_status status = HYPURA_OK;
    char c = p->source[p->at];
    if (c == '(')
        return parse_group(p);
    if (c == '[') {
        p->at++;
        status = parse_class(p, &set);
    } else if (c == '.') {
        p->at++;
        add(&set, '\n', '\n');
        add(&set, '\r', '\r');
        add(&set, 0x2028, 0x2029);
        complement(&set);
    } else if (strchr("*+?{", c)) {
        return refuse(p, "a repetition of nothing");
    } else if (c == '^' || c == '$') {
        return refuse(p, "an anchor that is not at its beginning or end");
    } else {
        uint32_t code = 0;
        char shorthand = 0;
        if (c == '\\') {
            p->at++;
            status = read_escape(p, &code, &shorthand);
        } else {
            status = read_character(p, &code);
        }
        if (shorthand)
            add_shorthand(&set, shorthand);
        else
            add(&set, code, code);
    }
    if (status == HYPURA_OK)
        write_set(p->text, &set);
    return status;
}

static hypura_status parse_alternatives(struct pattern *p)
{
    hypura_status status = HYPURA_OK;
    while (status == HYPURA_OK && p->at < p->size && !at_char(p, ')')) {
        if (at_char(p, '|')) {
            buffer_append_string(p->text, " |");
            p->at++;
            continue;
        }
        buffer_append_string(p->text, " ");
        status = parse_atom(p);
        if (status == HYPURA_OK)
            status = parse_quantifier(p);
    }
    return status;
}

/* Whether there is a "|" outside of groups and classes. */
static bool has_alternatives(const char *pattern, size_t size)
{
    int depth = 0;
    bool in_class = false;
    for (size_t i = 0; i < size; i++) {
        char c = pattern[i];
        if (c == '\\') {
            i++;
        } else if (in_class) {
            in_class = c != ']';
        } else if (c == '[') {
            in_class = true;
        } else if (c == '(' || c == ')') {
            depth += c == '(' ? 1 : -1;
        } else if (c == '|' && depth == 0) {
            return true;
        }
    }
    return false;
}

hypura_status grammar_pattern_text(struct buffer *text, const char *pattern, hypura_error *error)
{
    struct pattern p = {.text = text, .source = pattern, .size = strlen(pattern), .error = error};
    bool start = p.size && pattern[0] == '^', end = p.size > (size_t)start && pattern[p.size - 1] == '$';
    size_t slashes = 0; /* an odd number of them makes the "$" a character */
    while (end && slashes + 2 <= p.size && pattern[p.size - 2 - slashes] == '\\')
        slashes++;
    end = end && slashes % 2 == 0;
    if ((start || end) && has_alternatives(pattern, p.size))
        return refuse(&p, "an anchor beside alternatives that are not in a group");
    p.at = start;
    p.size -= end;
    if (!start)
        buffer_append_string(text, "char* ");
    buffer_append_string(text, "(");
    hypura_status status = parse_alternatives(&p);
    buffer_append_string(text, ")");
    if (!end)
        buffer_append_string(text, " char*");
    if (status == HYPURA_OK && p.at < p.size)
        return refuse(&p, "a group that is not opened");
    return status;
}
