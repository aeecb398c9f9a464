/* Splits a template into tokens. White space is controlled as in Jinja with trim_blocks and lstrip_blocks. */
#include "template/template_private.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

struct lexer {
    struct workspace *w;
    const char *source;
    size_t size, at;
    bool line_starting; /* `at` is directly after a line break */
    struct token *tokens;
    size_t count, capacity;
};

static struct token *emit(struct lexer *l, enum token_kind kind)
{
    l->tokens = jinja_grow(l->w, l->tokens, l->count, &l->capacity, 64, sizeof *l->tokens);
    struct token *token = &l->tokens[l->count++];
    *token = (struct token){.kind = kind, .line = l->w->line};
    return token;
}

static bool looking_at(const struct lexer *l, size_t at, const char *text)
{
    size_t length = strlen(text);
    return l->size - at >= length && memcmp(l->source + at, text, length) == 0;
}

static void move_to(struct lexer *l, size_t at)
{
    for (; l->at < at; l->at++)
        if (l->source[l->at] == '\n')
            l->w->line++;
}

static size_t skip_space(const struct lexer *l, size_t at)
{
    while (at < l->size) {
        int32_t c;
        size_t next = utf8_next(l->source, l->size, at, &c);
        if (!character_is_space(c))
            break;
        at = next;
    }
    return at;
}

/* Returns the end of start .. end without trailing white space. */
static size_t strip_end(const struct lexer *l, size_t start, size_t end)
{
    while (end > start) {
        size_t previous = end - 1;
        while (previous > start && ((unsigned char)l->source[previous] & 0xc0) == 0x80)
            previous--;
        int32_t c;
        if (utf8_next(l->source, end, previous, &c) != end || !character_is_space(c))
            break;
        end = previous;
    }
    return end;
}

/* Returns where text goes on after the end of a tag ("%}" or "#}") at `at`, which a sign may precede. */
static size_t after_end(const struct lexer *l, size_t at, char sign)
{
    at += 2;
    if (sign == '-')
        return skip_space(l, at);
    if (sign != '+' && at < l->size && l->source[at] == '\n')
        return at + 1;
    return at;
}

static void set_line_starting(struct lexer *l)
{
    l->line_starting = l->at > 0 && l->source[l->at - 1] == '\n';
}

static void emit_text(struct lexer *l, size_t start, size_t end)
{
    if (end > start)
        emit(l, TOKEN_TEXT)->value = value_from_bytes(l->w, l->source + start, end - start, false);
}

/* ---- strings and numbers ------------------------------------------------------------------------------------------
 */

static void append_utf8(struct builder *b, uint32_t c)
{
    utf8proc_uint8_t bytes[4];
    utf8proc_ssize_t size = utf8proc_encode_char((utf8proc_int32_t)c, bytes);
    builder_bytes(b, (const char *)bytes, (size_t)size, false);
}

/* Reads up to `most` digits of a base and returns their count. */
static size_t read_digits(const char *text, size_t size, size_t most, int base, uint32_t *number)
{
    size_t count = 0;
    *number = 0;
    while (count < most && count < size) {
        char c = text[count];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : 99;
        if (digit >= base)
            break;
        *number = *number * (uint32_t)base + (uint32_t)digit;
        count++;
    }
    return count;
}

/* Appends the value of the escape at text, as in a Python string literal, and returns the length of the escape. */
static size_t read_escape(struct lexer *l, struct builder *b, const char *text, size_t size)
{
    static const char letters[] = "\\'\"abfnrtv", meanings[] = "\\'\"\a\b\f\n\r\t\v";
    char c = size > 1 ? text[1] : '\\';
    uint32_t number;
    if (c == '\n')
        return 2;
    const char *letter = c ? strchr(letters, c) : NULL;
    if (letter) {
        builder_bytes(b, &meanings[letter - letters], 1, false);
        return 2;
    }
    size_t digits = read_digits(text + 1, size - 1, 3, 8, &number);
    if (digits) {
        append_utf8(b, number);
        return 1 + digits;
    }
    size_t wanted = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (wanted) {
        if (read_digits(text + 2, size - 2, wanted, 16, &number) != wanted || number > 0x10ffff)
            jinja_fail(l->w, "a string has a \\%c without the %zu hexadecimal digits of a character", c, wanted);
        bool pair = number >= 0xd800 && number < 0xdc00 && size >= 12 && text[6] == '\\' && text[7] == 'u';
        uint32_t low;
        if (pair && read_digits(text + 8, 4, 4, 16, &low) == 4 && low >= 0xdc00 && low < 0xe000) {
            append_utf8(b, 0x10000 + ((number - 0xd800) << 10) + (low - 0xdc00));
            return 12;
        }
        if (number >= 0xd800 && number < 0xe000)
            jinja_fail(l->w, "a string has an unpaired surrogate");
        append_utf8(b, number);
        return 2 + wanted;
    }
    builder_bytes(b, text, 1, false);
    return 1;
}

static void read_string(struct lexer *l)
{
    char quote = l->source[l->at];
    size_t start = l->at + 1, end = start;
    bool escaped = false;
    while (end < l->size && l->source[end] != quote) {
        if (l->source[end] == '\\') {
            escaped = true;
            end++;
        }
        end++;
    }
    if (end >= l->size)
        jinja_fail(l->w, "a string has no closing %c", quote);
    struct token *token = emit(l, TOKEN_STRING);
    if (!escaped) {
        token->value = value_from_bytes(l->w, l->source + start, end - start, false);
    } else {
        struct builder b;
        builder_begin(&b, l->w);
        for (size_t at = start; at < end;) {
            if (l->source[at] == '\\') {
                at += read_escape(l, &b, l->source + at, end - at);
            } else {
                builder_bytes(&b, l->source + at, 1, false);
                at++;
            }
        }
        token->value = builder_end(&b);
    }
    move_to(l, end + 1);
}

static size_t digits_end(const struct lexer *l, size_t at)
{
    while (at < l->size && (isdigit((unsigned char)l->source[at]) ||
                            (l->source[at] == '_' && at + 1 < l->size && isdigit((unsigned char)l->source[at + 1]))))
        at++;
    return at;
}

static void read_number(struct lexer *l, bool after_dot)
{
    size_t end = digits_end(l, l->at);
    int base = 10;
    bool real = false;
    char letter =
        l->source[l->at] == '0' && l->at + 1 < l->size ? (char)tolower((unsigned char)l->source[l->at + 1]) : 0;
    if (letter == 'x' || letter == 'o' || letter == 'b') {
        base = letter == 'x' ? 16 : letter == 'o' ? 8 : 2;
        end = l->at + 2;
        while (end < l->size && (isxdigit((unsigned char)l->source[end]) || l->source[end] == '_'))
            end++;
    } else if (!after_dot) {
        if (end + 1 < l->size && l->source[end] == '.' && isdigit((unsigned char)l->source[end + 1])) {
            real = true;
            end = digits_end(l, end + 1);
        }
        size_t exponent = end;
        if (exponent < l->size && (l->source[exponent] | 0x20) == 'e') {
            exponent++;
            if (exponent < l->size && (l->source[exponent] == '+' || l->source[exponent] == '-'))
                exponent++;
            if (exponent < l->size && isdigit((unsigned char)l->source[exponent])) {
                real = true;
                end = digits_end(l, exponent);
            }
        }
    }
    char text[80];
    size_t length = 0;
    for (size_t at = l->at + (base == 10 ? 0 : 2); at < end; at++) {
        if (length + 1 == sizeof text)
            jinja_fail(l->w, "a number has more than %zu digits", sizeof text - 1);
        if (l->source[at] != '_')
            text[length++] = l->source[at];
    }
    text[length] = 0;
    char *stop = text;
    errno = 0;
    struct token *token = emit(l, real ? TOKEN_FLOAT : TOKEN_INTEGER);
    if (real)
        token->value = value_float(strtod(text, &stop));
    else
        token->value = value_integer(strtoll(text, &stop, base));
    if (length == 0 || *stop || (!real && errno == ERANGE))
        jinja_fail(l->w, "%s is not a number of at most 64 bits", text);
    move_to(l, end);
}

/* ---- inside tags --------------------------------------------------------------------------------------------------
 */

static bool is_name_byte(char c)
{
    return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80;
}

static void read_operator(struct lexer *l, char *brackets, size_t *depth, size_t room)
{
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
                                            "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};
    for (size_t i = 0; i < COUNT_OF(operators); i++) {
        if (!looking_at(l, l->at, operators[i]))
            continue;
        char c = operators[i][0];
        if (c == '(' || c == '[' || c == '{') {
            if (*depth == room)
                jinja_fail(l->w, "more than %zu brackets are open", room);
            brackets[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (*depth == 0)
                jinja_fail(l->w, "unexpected '%c'", c);
            if (brackets[--*depth] != c)
                jinja_fail(l->w, "unexpected '%c', expected '%c'", c, brackets[*depth]);
        }
        strcpy(emit(l, TOKEN_OPERATOR)->operator, operators[i]);
        move_to(l, l->at + strlen(operators[i]));
        return;
    }
    jinja_fail(l->w, "unexpected character '%.*s'", (int)(utf8_next(l->source, l->size, l->at, NULL) - l->at),
               l->source + l->at);
}

/* Reads a tag, from after "{{" or "{%" to after its end. */
static void read_tag(struct lexer *l, bool block)
{
    char brackets[200];
    size_t depth = 0;
    const char *close = block ? "%}" : "}}";
    bool after_dot = false;
    for (;;) {
        move_to(l, skip_space(l, l->at));
        if (l->at >= l->size)
            jinja_fail(l->w, "the template ends inside a tag: expected '%s'", close);
        char c = l->source[l->at];
        bool sign = c == '-' || (block && c == '+');
        if (depth == 0 && (looking_at(l, l->at, close) || (sign && looking_at(l, l->at + 1, close)))) {
            emit(l, block ? TOKEN_BLOCK_END : TOKEN_OUTPUT_END);
            size_t at = l->at + sign;
            if (block)
                move_to(l, after_end(l, at, sign ? c : 0));
            else
                move_to(l, sign ? skip_space(l, at + 2) : at + 2);
            set_line_starting(l);
            return;
        }
        if (c == '\'' || c == '"') {
            read_string(l);
        } else if (isdigit((unsigned char)c)) {
            read_number(l, after_dot);
        } else if (is_name_byte(c)) {
            size_t end = l->at;
            while (end < l->size && is_name_byte(l->source[end]))
                end++;
            emit(l, TOKEN_NAME)->value = value_from_bytes(l->w, l->source + l->at, end - l->at, false);
            move_to(l, end);
        } else {
            read_operator(l, brackets, &depth, sizeof brackets);
        }
        after_dot = c == '.';
    }
}

/* ---- outside of tags -------------------------------------------------------------------------------------------- */

/* If the tag at "{%" is "{% raw %}", returns the offset after it, or else 0. */
static size_t raw_begin(const struct lexer *l, size_t at)
{
    at += 2;
    if (at < l->size && (l->source[at] == '-' || l->source[at] == '+'))
        at++;
    at = skip_space(l, at);
    if (!looking_at(l, at, "raw"))
        return 0;
    at = skip_space(l, at + 3);
    if (looking_at(l, at, "-%}"))
        return skip_space(l, at + 3);
    return looking_at(l, at, "%}") ? at + 2 : 0;
}

/* Returns the end of the text before a tag, after white space control. A sign may follow the tag's first two bytes. */
static size_t text_end(const struct lexer *l, size_t start, size_t tag)
{
    char sign = tag + 2 < l->size ? l->source[tag + 2] : 0;
    if (sign == '-')
        return strip_end(l, start, tag);
    if (sign == '+' || l->source[tag + 1] == '{')
        return tag;
    size_t line = tag;
    while (line > start && l->source[line - 1] != '\n')
        line--;
    if ((line > start || l->line_starting) && skip_space(l, line) >= tag)
        return line;
    return tag;
}

static void read_raw(struct lexer *l, size_t begin)
{
    move_to(l, begin);
    set_line_starting(l);
    for (size_t at = l->at; at < l->size; at++) {
        if (!looking_at(l, at, "{%"))
            continue;
        size_t name = at + 2;
        if (name < l->size && (l->source[name] == '-' || l->source[name] == '+'))
            name++;
        name = skip_space(l, name);
        if (!looking_at(l, name, "endraw"))
            continue;
        size_t end = skip_space(l, name + 6);
        char sign = end < l->size && (l->source[end] == '-' || l->source[end] == '+') ? l->source[end] : 0;
        if (!looking_at(l, end + (sign != 0), "%}"))
            continue;
        emit_text(l, l->at, text_end(l, l->at, at));
        move_to(l, after_end(l, end + (sign != 0), sign));
        set_line_starting(l);
        return;
    }
    jinja_fail(l->w, "the template ends inside {%% raw %%}: expected {%% endraw %%}");
}

static void read_comment(struct lexer *l)
{
    size_t begin = l->at + 2;
    if (begin < l->size && (l->source[begin] == '-' || l->source[begin] == '+'))
        begin++;
    for (size_t at = begin; at < l->size; at++) {
        if (!looking_at(l, at, "#}"))
            continue;
        char sign = at > begin ? l->source[at - 1] : 0;
        move_to(l, after_end(l, at, sign));
        set_line_starting(l);
        return;
    }
    jinja_fail(l->w, "a comment has no end: expected '#}'");
}

struct token *jinja_tokenize(struct workspace *w, const char *source, size_t size)
{
    /* Turns all line breaks into "\n" and drops one at the end. */
    char *text = jinja_allocate(w, size + 1);
    size_t length = 0;
    for (size_t i = 0; i < size; i++) {
        if (source[i] == '\r') {
            text[length++] = '\n';
            if (i + 1 < size && source[i + 1] == '\n')
                i++;
        } else {
            text[length++] = source[i];
        }
    }
    if (length && text[length - 1] == '\n')
        length--;
    struct lexer l = {.w = w, .source = text, .size = length, .line_starting = true};
    w->line = 1;
    while (l.at < l.size) {
        size_t tag = l.at;
        while (tag < l.size && !looking_at(&l, tag, "{{") && !looking_at(&l, tag, "{%") && !looking_at(&l, tag, "{#"))
            tag++;
        if (tag >= l.size) {
            emit_text(&l, l.at, l.size);
            break;
        }
        emit_text(&l, l.at, text_end(&l, l.at, tag));
        move_to(&l, tag);
        char kind = l.source[tag + 1];
        size_t raw = kind == '%' ? raw_begin(&l, tag) : 0;
        if (raw) {
            read_raw(&l, raw);
        } else if (kind == '#') {
            read_comment(&l);
        } else {
            emit(&l, kind == '{' ? TOKEN_OUTPUT_BEGIN : TOKEN_BLOCK_BEGIN);
            char sign = tag + 2 < l.size ? l.source[tag + 2] : 0;
            move_to(&l, tag + 2 + (sign == '-' || sign == '+'));
            read_tag(&l, kind == '%');
        }
    }
    emit(&l, TOKEN_END);
    return l.tokens;
}
