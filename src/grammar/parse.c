/* Parses GBNF into a tree of rules. */
#include "grammar/grammar_private.h"

#include <ctype.h>
#include <string.h>

#define MAX_TEXT ((size_t)1 << 20)
#define MAX_TERMS 1000000
#define MAX_NESTING 200
#define MAX_REPEAT 100000

struct gbnf {
    struct grammar_tree *tree;
    const char *text;
    size_t size, at;
    int line, nesting;
    bool marks;
    hypura_error *error;
};

hypura_status grammar_grow(void **array, uint32_t count, uint32_t *capacity, size_t size, uint32_t limit,
                           hypura_error *error)
{
    if (count < *capacity)
        return HYPURA_OK;
    if (count >= limit)
        return error_set(error, HYPURA_ERROR_FORMAT, "the grammar is too large: more than %u parts", (unsigned)limit);
    uint32_t room = MIN(MAX(*capacity * 2, 64u), limit);
    hypura_status status = memory_resize(array, *capacity, room, size, "grammar", error);
    if (status == HYPURA_OK)
        *capacity = room;
    return status;
}

static hypura_status fail(struct gbnf *g, const char *expected)
{
    if (g->at >= g->size)
        return error_set(g->error, HYPURA_ERROR_FORMAT, "grammar, line %d: expected %s, found the end", g->line,
                         expected);
    return error_set(g->error, HYPURA_ERROR_FORMAT, "grammar, line %d: expected %s, found \"%.*s\"", g->line, expected,
                     (int)MIN(g->size - g->at, (size_t)12), g->text + g->at);
}

static hypura_status new_term(struct gbnf *g, enum term_kind kind, uint32_t *out)
{
    struct grammar_tree *tree = g->tree;
    hypura_status status = grammar_grow((void **)&tree->terms, tree->term_count, &tree->term_capacity,
                                        sizeof *tree->terms, MAX_TERMS, g->error);
    if (status != HYPURA_OK)
        return status;
    tree->terms[tree->term_count] = (struct term){.kind = kind, .first = NO_TERM, .next = NO_TERM};
    *out = tree->term_count++;
    return HYPURA_OK;
}

static bool at_char(const struct gbnf *g, char c)
{
    return g->at < g->size && g->text[g->at] == c;
}

static void skip_space(struct gbnf *g)
{
    while (g->at < g->size) {
        char c = g->text[g->at];
        if (c == '#') {
            while (g->at < g->size && g->text[g->at] != '\n')
                g->at++;
        } else if (c == ' ' || c == '\t' || c == '\r' || c == '\n') {
            g->line += c == '\n';
            g->at++;
        } else {
            return;
        }
    }
}

static size_t name_length(const struct gbnf *g, size_t at)
{
    size_t end = at;
    while (end < g->size && (isalnum((unsigned char)g->text[end]) || g->text[end] == '-' || g->text[end] == '_'))
        end++;
    return end - at;
}

/* Whether a rule begins here: a name and "::=". */
static bool at_rule(const struct gbnf *g)
{
    size_t end = g->at + name_length(g, g->at);
    if (end == g->at)
        return false;
    while (end < g->size && (g->text[end] == ' ' || g->text[end] == '\t'))
        end++;
    return g->size - end >= 3 && memcmp(g->text + end, "::=", 3) == 0;
}

static hypura_status find_rule(struct gbnf *g, uint32_t *out)
{
    struct grammar_tree *tree = g->tree;
    size_t length = name_length(g, g->at);
    const char *name = g->text + g->at;
    uint64_t hash = fnv1a(FNV1A_START, name, length);
    for (uint32_t i = 0; i < tree->rule_count; i++) {
        if (tree->rules[i].hash == hash && strlen(tree->rules[i].name) == length &&
            memcmp(tree->rules[i].name, name, length) == 0) {
            g->at += length;
            *out = i;
            return HYPURA_OK;
        }
    }
    hypura_status status = grammar_grow((void **)&tree->rules, tree->rule_count, &tree->rule_capacity,
                                        sizeof *tree->rules, 5000, g->error);
    char *copy = NULL;
    if (status == HYPURA_OK)
        status = ALLOCATE(&copy, length + 1, "grammar", g->error);
    if (status != HYPURA_OK)
        return status;
    memcpy(copy, name, length);
    tree->rules[tree->rule_count] = (struct rule){.name = copy, .hash = hash, .body = NO_TERM, .line = g->line};
    *out = tree->rule_count++;
    g->at += length;
    return HYPURA_OK;
}

/* ---- characters ---------------------------------------------------------------------------------------------------
 */

static hypura_status read_hex(struct gbnf *g, int digits, uint32_t *code)
{
    *code = 0;
    for (int i = 0; i < digits; i++, g->at++) {
        if (g->at >= g->size || !isxdigit((unsigned char)g->text[g->at]))
            return fail(g, "a hexadecimal digit");
        int c = tolower((unsigned char)g->text[g->at]);
        *code = *code * 16 + (uint32_t)(isdigit(c) ? c - '0' : c - 'a' + 10);
    }
    if (*code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000)) {
        g->at -= (size_t)digits;
        return fail(g, "a Unicode character");
    }
    return HYPURA_OK;
}

static hypura_status read_utf8(struct gbnf *g, uint32_t *code)
{
    const unsigned char *bytes = (const unsigned char *)g->text + g->at;
    size_t left = g->size - g->at, length = bytes[0] < 0x80 ? 1 : bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : 4;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    if (length > left || (bytes[0] >= 0x80 && bytes[0] < 0xc2) || bytes[0] > 0xf4)
        return fail(g, "UTF-8");
    *code = length == 1 ? bytes[0] : bytes[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if ((bytes[i] & 0xc0) != 0x80)
            return fail(g, "UTF-8");
        *code = *code << 6 | (bytes[i] & 0x3fu);
    }
    if (*code < least[length] || *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000))
        return fail(g, "UTF-8");
    g->at += length;
    return HYPURA_OK;
}

/* Reads one character of a literal or class and resolves escapes. */
static hypura_status read_character(struct gbnf *g, uint32_t *code)
{
    static const char letters[] = "nrtbf\"\\[]-^/'", meanings[] = "\n\r\t\b\f\"\\[]-^/'";
    if (g->at >= g->size || g->text[g->at] == '\n')
        return fail(g, "a character");
    if (g->text[g->at] != '\\')
        return read_utf8(g, code);
    g->at++;
    char c = g->at < g->size ? g->text[g->at] : 0;
    const char *letter = c ? strchr(letters, c) : NULL;
    if (!letter && c != 'x' && c != 'u' && c != 'U')
        return fail(g, "one of the escapes \\n \\r \\t \\\\ \\\" \\[ \\] \\xHH \\uHHHH \\UHHHHHHHH");
    g->at++;
    if (!letter)
        return read_hex(g, c == 'x' ? 2 : c == 'u' ? 4 : 8, code);
    *code = (uint32_t)meanings[letter - letters];
    return HYPURA_OK;
}

static void append_utf8(struct buffer *bytes, uint32_t c)
{
    if (c < 0x80) {
        buffer_append_char(bytes, (char)c);
        return;
    }
    int more = c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const unsigned lead[] = {0, 0xc0, 0xe0, 0xf0};
    buffer_append_char(bytes, (char)(lead[more] | c >> (6 * more)));
    for (int i = more; i-- > 0;)
        buffer_append_char(bytes, (char)(0x80 | ((c >> (6 * i)) & 0x3f)));
}

static hypura_status parse_literal(struct gbnf *g, uint32_t *out)
{
    hypura_status status = new_term(g, TERM_BYTES, out);
    size_t start = g->tree->bytes.size;
    g->at++;
    while (status == HYPURA_OK && !at_char(g, '"')) {
        uint32_t code;
        status = read_character(g, &code);
        if (status == HYPURA_OK)
            append_utf8(&g->tree->bytes, code);
    }
    if (status != HYPURA_OK)
        return status;
    if (g->tree->bytes.failed)
        return error_set(g->error, HYPURA_ERROR_MEMORY, "no memory for the grammar");
    g->at++;
    g->tree->terms[*out].low = (uint32_t)start;
    g->tree->terms[*out].high = (uint32_t)g->tree->bytes.size;
    return HYPURA_OK;
}

static hypura_status add_range(struct gbnf *g, uint32_t low, uint32_t high)
{
    struct grammar_tree *tree = g->tree;
    hypura_status status = grammar_grow((void **)&tree->ranges, tree->range_count, &tree->range_capacity,
                                        sizeof *tree->ranges, MAX_TERMS, g->error);
    if (status == HYPURA_OK)
        tree->ranges[tree->range_count++] = (struct code_range){low, high};
    return status;
}

/* Sorts and joins the ranges from `first` on. negated: replaces them by their complement. */
static hypura_status finish_ranges(struct gbnf *g, uint32_t first, bool negated)
{
    struct grammar_tree *tree = g->tree;
    uint32_t count = tree->range_count - first, kept = 0;
    if (count == 0)
        return negated ? add_range(g, 0, 0x10ffff) : HYPURA_OK;
    struct code_range *ranges = tree->ranges + first;
    for (uint32_t i = 1; i < count; i++)
        for (uint32_t k = i; k > 0 && ranges[k].low < ranges[k - 1].low; k--) {
            struct code_range swap = ranges[k];
            ranges[k] = ranges[k - 1];
            ranges[k - 1] = swap;
        }
    for (uint32_t i = 0; i < count; i++) {
        if (kept && ranges[i].low <= ranges[kept - 1].high + 1)
            ranges[kept - 1].high = MAX(ranges[kept - 1].high, ranges[i].high);
        else
            ranges[kept++] = ranges[i];
    }
    tree->range_count = first + kept;
    if (!negated)
        return HYPURA_OK;
    uint32_t from = 0, old_end = tree->range_count;
    hypura_status status = HYPURA_OK;
    for (uint32_t i = first; i < old_end && status == HYPURA_OK; i++) {
        struct code_range range = tree->ranges[i];
        if (range.low > from)
            status = add_range(g, from, range.low - 1);
        from = range.high + 1;
    }
    if (status == HYPURA_OK && from <= 0x10ffff)
        status = add_range(g, from, 0x10ffff);
    if (status != HYPURA_OK)
        return status;
    memmove(tree->ranges + first, tree->ranges + old_end, (tree->range_count - old_end) * sizeof *tree->ranges);
    tree->range_count -= old_end - first;
    return HYPURA_OK;
}

static hypura_status parse_class(struct gbnf *g, uint32_t *out)
{
    hypura_status status = new_term(g, TERM_CLASS, out);
    uint32_t first = g->tree->range_count;
    bool any = at_char(g, '.'), negated = any;
    g->at++;
    if (!any && at_char(g, '^')) {
        negated = true;
        g->at++;
    }
    while (status == HYPURA_OK && !any && !at_char(g, ']')) {
        uint32_t low, high;
        status = read_character(g, &low);
        high = low;
        if (status == HYPURA_OK && at_char(g, '-') && g->at + 1 < g->size && g->text[g->at + 1] != ']') {
            g->at++;
            status = read_character(g, &high);
        }
        if (status == HYPURA_OK && high < low)
            return fail(g, "a range in ascending order before this");
        if (status == HYPURA_OK)
            status = add_range(g, low, high);
        if (g->tree->range_count - first > 5000)
            return fail(g, "fewer ranges in a class");
    }
    if (status != HYPURA_OK)
        return status;
    g->at += !any;
    status = finish_ranges(g, first, negated);
    g->tree->terms[*out].low = first;
    g->tree->terms[*out].high = g->tree->range_count;
    return status;
}

/* ---- terms --------------------------------------------------------------------------------------------------------
 */

static hypura_status parse_choice(struct gbnf *g, uint32_t *out);

static hypura_status read_count(struct gbnf *g, uint32_t *count)
{
    if (g->at >= g->size || !isdigit((unsigned char)g->text[g->at]))
        return fail(g, "a number");
    for (*count = 0; g->at < g->size && isdigit((unsigned char)g->text[g->at]); g->at++) {
        *count = *count * 10 + (uint32_t)(g->text[g->at] - '0');
        if (*count > MAX_REPEAT)
            return fail(g, "fewer repetitions (at most 100000)");
    }
    return HYPURA_OK;
}

/* Parses "*", "+", "?" and "{m,n}" after a term. */
static hypura_status parse_repeats(struct gbnf *g, uint32_t *term)
{
    for (;;) {
        uint32_t low = 0, high = REPEAT_UNBOUNDED, repeat;
        if (at_char(g, '*')) {
            g->at++;
        } else if (at_char(g, '+')) {
            low = 1;
            g->at++;
        } else if (at_char(g, '?')) {
            high = 1;
            g->at++;
        } else if (at_char(g, '{')) {
            g->at++;
            skip_space(g);
            if (!at_char(g, ',') && read_count(g, &low) != HYPURA_OK)
                return HYPURA_ERROR_FORMAT;
            high = low;
            skip_space(g);
            if (at_char(g, ',')) {
                g->at++;
                skip_space(g);
                high = REPEAT_UNBOUNDED;
                if (!at_char(g, '}') && read_count(g, &high) != HYPURA_OK)
                    return HYPURA_ERROR_FORMAT;
            }
            skip_space(g);
            if (!at_char(g, '}') || high < low)
                return fail(g, "\"}\" after a repetition such as {1,3}");
            g->at++;
        } else {
            return HYPURA_OK;
        }
        hypura_status status = new_term(g, TERM_REPEAT, &repeat);
        if (status != HYPURA_OK)
            return status;
        g->tree->terms[repeat].first = *term;
        g->tree->terms[repeat].low = low;
        g->tree->terms[repeat].high = high;
        *term = repeat;
    }
}

/* Parses a term and its repetitions. *found is false if no term begins here. */
static hypura_status parse_term(struct gbnf *g, uint32_t *out, bool *found)
{
    hypura_status status;
    *found = g->at < g->size;
    if (at_char(g, '"')) {
        status = parse_literal(g, out);
    } else if (at_char(g, '[') || at_char(g, '.')) {
        status = parse_class(g, out);
    } else if (at_char(g, '(')) {
        g->at++;
        status = parse_choice(g, out);
        if (status == HYPURA_OK && !at_char(g, ')'))
            return fail(g, "\")\"");
        g->at++;
    } else if (g->marks && at_char(g, '!')) {
        bool items = g->size - g->at > 6 && memcmp(g->text + g->at, "!items", 6) == 0;
        status = new_term(g, TERM_MARK, out);
        if (status == HYPURA_OK)
            g->tree->terms[*out].first = items ? MARK_ITEMS : MARK_NAMES;
        g->at += MIN(g->size - g->at, (size_t)6);
    } else if (name_length(g, g->at) && !at_rule(g)) {
        uint32_t rule;
        status = new_term(g, TERM_RULE, out);
        if (status == HYPURA_OK)
            status = find_rule(g, &rule);
        if (status == HYPURA_OK)
            g->tree->terms[*out].first = rule;
    } else {
        *found = false;
        return HYPURA_OK;
    }
    return status == HYPURA_OK ? parse_repeats(g, out) : status;
}

static hypura_status parse_sequence(struct gbnf *g, uint32_t *out)
{
    hypura_status status = new_term(g, TERM_SEQUENCE, out);
    uint32_t last = NO_TERM;
    while (status == HYPURA_OK) {
        uint32_t term;
        bool found;
        skip_space(g);
        status = parse_term(g, &term, &found);
        if (status != HYPURA_OK || !found)
            break;
        if (last == NO_TERM)
            g->tree->terms[*out].first = term;
        else
            g->tree->terms[last].next = term;
        last = term;
    }
    return status;
}

static hypura_status parse_choice(struct gbnf *g, uint32_t *out)
{
    hypura_status status = new_term(g, TERM_CHOICE, out);
    uint32_t last = NO_TERM;
    if (++g->nesting > MAX_NESTING)
        return fail(g, "less nesting (at most 200 levels)");
    while (status == HYPURA_OK) {
        uint32_t sequence;
        status = parse_sequence(g, &sequence);
        if (status != HYPURA_OK)
            break;
        if (last == NO_TERM)
            g->tree->terms[*out].first = sequence;
        else
            g->tree->terms[last].next = sequence;
        last = sequence;
        skip_space(g);
        if (!at_char(g, '|'))
            break;
        g->at++;
    }
    g->nesting--;
    return status;
}

static hypura_status parse_rule(struct gbnf *g)
{
    uint32_t rule, body;
    if (!at_rule(g))
        return fail(g, "a rule such as: name ::= \"text\"");
    hypura_status status = find_rule(g, &rule);
    if (status != HYPURA_OK)
        return status;
    if (g->tree->rules[rule].body != NO_TERM)
        return error_set(g->error, HYPURA_ERROR_FORMAT, "grammar, line %d: the rule \"%.60s\" is defined twice",
                         g->line, g->tree->rules[rule].name);
    skip_space(g);
    g->at += 3;
    status = parse_choice(g, &body);
    if (status == HYPURA_OK)
        g->tree->rules[rule].body = body;
    return status;
}

hypura_status grammar_tree_parse(struct grammar_tree *tree, const char *text, size_t size, bool marks,
                                 hypura_error *error)
{
    struct gbnf g = {.tree = tree, .text = text, .size = size, .line = 1, .marks = marks, .error = error};
    if (size > MAX_TEXT)
        return error_set(error, HYPURA_ERROR_FORMAT, "the grammar has %zu bytes, more than the %zu allowed", size,
                         MAX_TEXT);
    skip_space(&g);
    while (g.at < size) {
        hypura_status status = parse_rule(&g);
        if (status != HYPURA_OK)
            return status;
        skip_space(&g);
    }
    bool root = false;
    for (uint32_t i = 0; i < tree->rule_count; i++) {
        root |= strcmp(tree->rules[i].name, "root") == 0;
        if (tree->rules[i].body == NO_TERM)
            return error_set(error, HYPURA_ERROR_FORMAT, "grammar, line %d: the rule \"%.60s\" is not defined",
                             tree->rules[i].line, tree->rules[i].name);
    }
    if (!root)
        return error_set(error, HYPURA_ERROR_FORMAT, "the grammar has no rule \"root\"");
    return HYPURA_OK;
}

void grammar_tree_free(struct grammar_tree *tree)
{
    for (uint32_t i = 0; i < tree->rule_count; i++)
        memory_free(tree->rules[i].name);
    memory_free(tree->rules);
    memory_free(tree->terms);
    memory_free(tree->ranges);
    buffer_free(&tree->bytes);
    *tree = (struct grammar_tree){0};
}
