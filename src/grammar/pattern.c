/* The regular expressions of JSON schemas: ECMA-262 without look-around, back-references and word boundaries. */
#include "grammar/schema_private.h"

#include <ctype.h>
#include <string.h>

#define MAX_RANGES 200

struct ranges {
    struct code_range items[MAX_RANGES];
    size_t count;
};

struct pattern {
    struct schema_writer *w;
    const char *source;
    size_t size, at;
    int nesting;
};

static hypura_status parse_alternatives(struct pattern *p, struct pattern_node **out);

static hypura_status refuse(const struct pattern *p, const char *what)
{
    return error_set(p->w->error, HYPURA_ERROR_UNSUPPORTED,
                     "the pattern \"%.80s\" of the JSON schema has %s at byte %zu", p->source, what, p->at);
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

/* Adds \d, \w, \s or one of their complements \D, \W, \S. */
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
        add(&own, 0x1680, 0x1680);
        add(&own, 0x2000, 0x200a);
        add(&own, 0x2028, 0x2029);
        add(&own, 0x202f, 0x202f);
        add(&own, 0x205f, 0x205f);
        add(&own, 0x3000, 0x3000);
        add(&own, 0xfeff, 0xfeff);
    }
    if (isupper((unsigned char)letter))
        complement(&own);
    bool fits = true;
    for (size_t i = 0; i < own.count; i++)
        fits &= add(set, own.items[i].low, own.items[i].high);
    return fits;
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

/* Reads what follows a backslash: a character, or a shorthand, whose letter goes to *shorthand. */
static hypura_status read_escape(struct pattern *p, uint32_t *code, char *shorthand)
{
    static const char letters[] = "nrtfv", meanings[] = "\n\r\t\f\v";
    if (p->at >= p->size)
        return refuse(p, "a trailing backslash");
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
            return refuse(p, "an escape that is not a character");
        p->at++;
        return HYPURA_OK;
    }
    if (c == 'u')
        return read_hex(p, 4, code);
    if (isalnum((unsigned char)c))
        return refuse(p, "a back-reference, a word boundary or an unknown escape");
    *code = (unsigned char)c;
    return HYPURA_OK;
}

static hypura_status read_character(struct pattern *p, uint32_t *code)
{
    const unsigned char *bytes = (const unsigned char *)p->source + p->at;
    size_t length = bytes[0] < 0x80 ? 1 : bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : 4;
    if (length > p->size - p->at)
        return refuse(p, "bytes that are not UTF-8");
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
            return refuse(p, "an unclosed class");
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
                return refuse(p, "a class with too many ranges");
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
                return refuse(p, "an invalid range");
        }
        if (status == HYPURA_OK && !add(set, low, high))
            return refuse(p, "a class with too many ranges");
    }
    p->at++;
    if (status == HYPURA_OK && negated && !complement(set))
        return refuse(p, "a class with too many ranges");
    return status;
}

/* ---- structure ----------------------------------------------------------------------------------------------------
 */

static hypura_status new_node(struct pattern *p, enum pattern_kind kind, struct pattern_node **out)
{
    *out = schema_memory(p->w, 1, sizeof **out);
    if (!*out)
        return HYPURA_ERROR_MEMORY;
    (*out)->kind = kind;
    return HYPURA_OK;
}

static hypura_status new_set(struct pattern *p, struct ranges *set, struct pattern_node **out)
{
    hypura_status status = new_node(p, PATTERN_SET, out);
    normalize(set);
    if (status != HYPURA_OK || set->count == 0)
        return status;
    (*out)->ranges = schema_memory(p->w, set->count, sizeof *set->items);
    if (!(*out)->ranges)
        return HYPURA_ERROR_MEMORY;
    memcpy((*out)->ranges, set->items, set->count * sizeof *set->items);
    (*out)->range_count = (uint32_t)set->count;
    return HYPURA_OK;
}

static bool read_count(struct pattern *p, uint32_t *count)
{
    size_t start = p->at;
    for (*count = 0; p->at < p->size && isdigit((unsigned char)p->source[p->at]) && *count <= 100000; p->at++)
        *count = *count * 10 + (uint32_t)(p->source[p->at] - '0');
    return p->at > start && *count <= 100000;
}

static hypura_status parse_quantifier(struct pattern *p, struct pattern_node **atom)
{
    char c = p->at < p->size ? p->source[p->at] : 0;
    uint32_t low = c == '+', high = c == '?' ? 1 : REPEAT_UNBOUNDED;
    if (c == '*' || c == '+' || c == '?') {
        p->at++;
    } else if (c == '{') {
        p->at++;
        if (!read_count(p, &low))
            return refuse(p, "an invalid repetition");
        high = low;
        if (at_char(p, ',')) {
            p->at++;
            high = REPEAT_UNBOUNDED;
            if (!at_char(p, '}') && !read_count(p, &high))
                return refuse(p, "an invalid repetition");
        }
        if (!at_char(p, '}') || high < low)
            return refuse(p, "an invalid repetition");
        p->at++;
    } else {
        return HYPURA_OK;
    }
    p->at += at_char(p, '?'); /* lazy and greedy repetitions match the same texts */
    if (at_char(p, '*') || at_char(p, '+') || at_char(p, '?') || at_char(p, '{'))
        return refuse(p, "a repetition of a repetition");
    struct pattern_node *repeat;
    hypura_status status = new_node(p, PATTERN_REPEAT, &repeat);
    if (status != HYPURA_OK)
        return status;
    repeat->first = *atom;
    repeat->low = low;
    repeat->high = high;
    *atom = repeat;
    return HYPURA_OK;
}

static hypura_status parse_group(struct pattern *p, struct pattern_node **out)
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
        return refuse(p, "groups nested more than 50 deep");
    hypura_status status = parse_alternatives(p, out);
    p->nesting--;
    if (status == HYPURA_OK && !at_char(p, ')'))
        return refuse(p, "an unclosed group");
    p->at++;
    return status;
}

static hypura_status parse_atom(struct pattern *p, struct pattern_node **out)
{
    struct ranges set = {.count = 0};
    hypura_status status = HYPURA_OK;
    char c = p->source[p->at];
    if (c == '(')
        return parse_group(p, out);
    if (c == '^' || c == '$') {
        p->at++;
        return new_node(p, c == '^' ? PATTERN_START : PATTERN_END, out);
    }
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
        return refuse(p, "nothing before a repetition");
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
    return status == HYPURA_OK ? new_set(p, &set, out) : status;
}

static hypura_status parse_sequence(struct pattern *p, struct pattern_node **out)
{
    hypura_status status = new_node(p, PATTERN_SEQUENCE, out);
    struct pattern_node **end = status == HYPURA_OK ? &(*out)->first : NULL;
    while (status == HYPURA_OK && p->at < p->size && !at_char(p, ')') && !at_char(p, '|')) {
        status = parse_atom(p, end);
        if (status == HYPURA_OK)
            status = parse_quantifier(p, end);
        if (status == HYPURA_OK)
            end = &(*end)->next;
    }
    return status;
}

static hypura_status parse_alternatives(struct pattern *p, struct pattern_node **out)
{
    hypura_status status = new_node(p, PATTERN_CHOICE, out);
    struct pattern_node **end = status == HYPURA_OK ? &(*out)->first : NULL;
    while (status == HYPURA_OK) {
        status = parse_sequence(p, end);
        if (status != HYPURA_OK || !at_char(p, '|'))
            break;
        end = &(*end)->next;
        p->at++;
    }
    return status;
}

bool pattern_parse(struct schema_writer *w, const char *pattern, struct pattern_node **out)
{
    struct pattern p = {.w = w, .source = pattern, .size = strlen(pattern)};
    hypura_status status = parse_alternatives(&p, out);
    if (status == HYPURA_OK && p.at < p.size)
        status = refuse(&p, "a closing parenthesis without an opening one");
    return status == HYPURA_OK && schema_work(w, p.size);
}

/* ---- writing GBNF -------------------------------------------------------------------------------------------------
 */

/* Whether a node contains an anchor. */
static bool has_anchor(const struct pattern_node *node)
{
    if (node->kind == PATTERN_START || node->kind == PATTERN_END)
        return true;
    for (const struct pattern_node *child = node->first; child; child = child->next)
        if (has_anchor(child))
            return true;
    return false;
}

bool pattern_is_plain(const struct pattern_node *pattern)
{
    for (const struct pattern_node *way = pattern->first; way; way = way->next)
        for (const struct pattern_node *part = way->first; part; part = part->next)
            if (has_anchor(part) && !(part->kind == PATTERN_START && part == way->first) &&
                !(part->kind == PATTERN_END && !part->next))
                return false;
    return true;
}

void pattern_write_set(struct buffer *text, const struct code_range *ranges, size_t count, bool in_string)
{
    bool first = true;
    buffer_append_string(text, "(");
    for (size_t i = 0; i < count && in_string; i++) {
        uint32_t low = ranges[i].low, high = ranges[i].high;
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
                buffer_append_format(text, "\"\\\\u%04X\"", (unsigned)c);
        }
    }
    static const struct code_range free_ranges[] = {{0x20, 0x21}, {0x23, 0x5b}, {0x5d, 0xd7ff}, {0xe000, 0x10ffff}};
    static const struct code_range all_ranges[] = {{0, 0xd7ff}, {0xe000, 0x10ffff}};
    const struct code_range *allowed = in_string ? free_ranges : all_ranges;
    size_t allowed_count = in_string ? COUNT_OF(free_ranges) : COUNT_OF(all_ranges);
    bool open = false;
    for (size_t i = 0; i < count; i++)
        for (size_t k = 0; k < allowed_count; k++) {
            uint32_t low = MAX(ranges[i].low, allowed[k].low), high = MIN(ranges[i].high, allowed[k].high);
            if (low > high)
                continue;
            buffer_append_string(text, open ? "" : first ? "[" : " | [");
            open = true;
            if (low == high && low < 0x7f && isalnum((int)low))
                buffer_append_char(text, (char)low);
            else if (high < 0x7f && isalnum((int)low) && isalnum((int)high))
                buffer_append_format(text, "%c-%c", (char)low, (char)high);
            else
                buffer_append_format(text, "\\U%08x-\\U%08x", (unsigned)low, (unsigned)high);
        }
    buffer_append_string(text, open ? "]" : first ? "[]" : ""); /* [] matches nothing */
    buffer_append_string(text, ")");
}

static void write_node(const struct pattern_node *node, struct buffer *text)
{
    switch (node->kind) {
    case PATTERN_SET:
        pattern_write_set(text, node->ranges, node->range_count, true);
        break;
    case PATTERN_SEQUENCE:
        for (const struct pattern_node *part = node->first; part; part = part->next) {
            buffer_append_string(text, " ");
            write_node(part, text);
        }
        break;
    case PATTERN_CHOICE:
        buffer_append_string(text, "(");
        for (const struct pattern_node *way = node->first; way; way = way->next) {
            write_node(way, text);
            buffer_append_string(text, way->next ? " |" : "");
        }
        buffer_append_string(text, ")");
        break;
    case PATTERN_REPEAT:
        buffer_append_string(text, "(");
        write_node(node->first, text);
        buffer_append_string(text, ")");
        schema_write_repeat(text, node->low, node->high == REPEAT_UNBOUNDED ? -1 : (json_int_t)node->high);
        break;
    case PATTERN_START:
    case PATTERN_END:
        break;
    }
}

void pattern_write(const struct pattern_node *pattern, struct buffer *text)
{
    buffer_append_string(text, "(");
    for (const struct pattern_node *way = pattern->first; way; way = way->next) {
        const struct pattern_node *last = way->first;
        while (last && last->next)
            last = last->next;
        bool start = way->first && way->first->kind == PATTERN_START, end = last && last->kind == PATTERN_END;
        buffer_append_string(text, start ? "" : "char*");
        write_node(way, text);
        buffer_append_string(text, end ? "" : " char*");
        buffer_append_string(text, way->next ? " |" : ")");
    }
}
