#include "server/wire.h"

#include <string.h>
#include <strings.h>

#define CHUNK_LINE_LIMIT ((size_t)1024) /* for a chunk's size and extensions */
#define TRAILER_LIMIT ((size_t)8192)
#define LENGTH_DIGITS 18
#define CHUNK_DIGITS 15

/* ---- characters -----------------------------------------------------------------------------------------------------
 */

static bool is_token(unsigned char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (c && strchr("!#$%&'*+-.^_`|~", c));
}

/* In a header's value: no control character except a tab. */
static bool is_text(unsigned char c)
{
    return c == '\t' || (c >= ' ' && c != 127);
}

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static size_t count_token(const char *text, size_t size)
{
    size_t count = 0;
    while (count < size && is_token((unsigned char)text[count]))
        count++;
    return count;
}

static bool all_text(const char *text, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (!is_text((unsigned char)text[i]))
            return false;
    }
    return true;
}

/* ---- a head ---------------------------------------------------------------------------------------------------------
 */

struct head {
    unsigned hosts, lengths, codings;
    uint64_t length;
    bool old; /* HTTP/1.0 */
};

/* Reads "Name: value" from a line without its CR LF, and appends it to out. Returns NULL, or why it is malformed. */
static const char *read_field(const char *line, size_t size, struct head *head, struct buffer *out)
{
    size_t name = count_token(line, size), start = name + 1;
    if (is_blank(line[0]))
        return "a line of the request's header is folded onto the next";
    if (name == 0 || name == size || line[name] != ':')
        return "a line of the request's header does not begin with a name and a colon";
    while (start < size && is_blank(line[start]))
        start++;
    while (size > start && is_blank(line[size - 1]))
        size--;
    const char *value = line + start;
    size_t length = size - start;
    if (!all_text(value, length))
        return "a line of the request's header contains a control character";
    if (name == 4 && strncasecmp(line, "Host", 4) == 0)
        head->hosts++;
    if (name == 14 && strncasecmp(line, "Content-Length", 14) == 0) {
        head->lengths++;
        head->length = 0;
        for (size_t i = 0; i < length; i++) {
            if (value[i] < '0' || value[i] > '9' || length > LENGTH_DIGITS)
                return "Content-Length is not a number";
            head->length = head->length * 10 + (uint64_t)(value[i] - '0');
        }
        if (length == 0)
            return "Content-Length is not a number";
    }
    if (name == 17 && strncasecmp(line, "Transfer-Encoding", 17) == 0) {
        head->codings++;
        if (length != 7 || strncasecmp(value, "chunked", 7) != 0)
            return "Transfer-Encoding is not \"chunked\"";
    }
    buffer_append(out, line, name);
    buffer_append(out, ": ", 2);
    buffer_append(out, value, length);
    buffer_append(out, "\r\n", 2);
    return NULL;
}

/* Reads "METHOD TARGET HTTP/1.1" without its CR LF. Sets *target and *target_size only if the line is valid. */
static const char *read_request_line(const char *line, size_t size, struct head *head, const char **target,
                                     size_t *target_size)
{
    static const char reason[] = "the request's first line is not \"METHOD TARGET HTTP/1.1\"";
    size_t method = count_token(line, size);
    if (method == 0 || method + 1 >= size || line[method] != ' ')
        return reason;
    const char *start = line + method + 1, *end = start;
    while (end < line + size && (unsigned char)*end > ' ' && *end != 127)
        end++;
    size_t rest = (size_t)(line + size - end);
    if (end == start || rest != 9 || memcmp(end, " HTTP/1.", 8) != 0 || (end[8] != '0' && end[8] != '1'))
        return reason;
    *target = start;
    *target_size = (size_t)(end - start);
    head->old = end[8] == '0';
    return NULL;
}

static const char *read_head(const char *lines, size_t size, struct head *head, const char **target,
                             size_t *target_size, struct buffer *out)
{
    const char *end = memchr(lines, '\r', size), *reason;
    size_t first = (size_t)(end - lines);
    if ((reason = read_request_line(lines, first, head, target, target_size)))
        return reason;
    buffer_append(out, lines, first + 2);
    for (const char *line = end + 2; line < lines + size - 2; line = end + 2) {
        end = memchr(line, '\r', (size_t)(lines + size - line));
        if ((reason = read_field(line, (size_t)(end - line), head, out)))
            return reason;
    }
    if (head->lengths + head->codings > 1)
        return "the request states the length of its body more than once";
    if (head->codings && head->old)
        return "an HTTP/1.0 request cannot have Transfer-Encoding";
    if (head->hosts > 1 || (head->hosts == 0 && !head->old))
        return "the request has no Host header, or more than one";
    buffer_append(out, "\r\n", 2);
    return NULL;
}

/* ---- the state machine ---------------------------------------------------------------------------------------------
 */

static void refuse(struct wire *wire, unsigned status, const char *reason)
{
    wire->part = WIRE_REFUSED;
    wire->status = status;
    wire->reason = reason;
    buffer_free(&wire->lines);
}

/* Replaces a malformed head with a request that carries the answer. */
static void refuse_head(struct wire *wire, unsigned status, const char *reason, const char *target, size_t size,
                        struct buffer *out)
{
    wire->requests++;
    buffer_append_string(out, "GET ");
    buffer_append(out, target ? target : "/", target ? size : 1);
    buffer_append_string(out, " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    refuse(wire, status, reason);
}

static void refuse_body(struct wire *wire, const char *reason, struct buffer *out)
{
    buffer_append_string(out, "0\r\n\r\n");
    refuse(wire, 400, reason);
}

static void end_head(struct wire *wire, struct buffer *out)
{
    struct head head = {0};
    const char *target = NULL;
    size_t size = 0, before = out->size;
    const char *reason = read_head(wire->lines.data, wire->lines.size, &head, &target, &size, out);
    if (reason) {
        if (!out->failed)
            out->size = before; /* drop what was written of it */
        refuse_head(wire, 400, reason, target, size, out);
        return;
    }
    wire->requests++;
    wire->left = head.length;
    wire->part = head.codings ? WIRE_CHUNK_SIZE : head.length ? WIRE_BODY : WIRE_HEAD;
    buffer_free(&wire->lines);
}

static void end_chunk_size(struct wire *wire, struct buffer *out)
{
    const char *line = wire->lines.data;
    size_t size = wire->lines.size - 2, digits = 0;
    wire->left = 0;
    for (; digits < size; digits++) {
        char c = line[digits];
        unsigned value = c >= '0' && c <= '9'   ? (unsigned)(c - '0')
                         : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                         : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10)
                                                : 16;
        if (value == 16 || digits == CHUNK_DIGITS)
            break;
        wire->left = wire->left * 16 + value;
    }
    if (digits == 0 || (digits < size && line[digits] != ';') || !all_text(line + digits, size - digits)) {
        refuse_body(wire, "the size of a chunk is not a hexadecimal number", out);
        return;
    }
    wire->part = wire->left ? WIRE_CHUNK_DATA : WIRE_TRAILER;
    wire->trailers = 0;
    buffer_free(&wire->lines);
}

/* Checks a trailer line and drops it. */
static void end_trailer(struct wire *wire, struct buffer *out)
{
    struct head ignored = {0};
    struct buffer none = {0};
    size_t size = wire->lines.size - 2;
    const char *reason = size ? read_field(wire->lines.data, size, &ignored, &none) : NULL;
    wire->trailers += wire->lines.size;
    out->failed |= none.failed;
    buffer_free(&none);
    if (!reason && wire->trailers > TRAILER_LIMIT)
        reason = "the trailer after the request's body is too long";
    if (reason) {
        refuse_body(wire, reason, out);
        return;
    }
    if (!size) {
        buffer_append_string(out, "0\r\n\r\n");
        wire->part = WIRE_HEAD;
    }
    buffer_free(&wire->lines);
}

static void refuse_here(struct wire *wire, unsigned status, const char *reason, struct buffer *out)
{
    if (wire->part == WIRE_HEAD)
        refuse_head(wire, status, reason, NULL, 0, out);
    else
        refuse_body(wire, reason, out);
}

/* Takes one byte of a line. */
static void take_line_byte(struct wire *wire, char c, struct buffer *out)
{
    struct buffer *lines = &wire->lines;
    char last = lines->size ? lines->data[lines->size - 1] : 0;
    size_t limit = wire->part == WIRE_HEAD ? WIRE_HEAD_LIMIT : CHUNK_LINE_LIMIT;
    if (c == 0 || (c == '\n') != (last == '\r')) {
        refuse_here(wire, 400,
                    c ? "a line of the request does not end with CR and LF" : "the request contains a NUL byte", out);
        return;
    }
    if (lines->size >= limit) {
        refuse_here(wire, 431, "the request's header is too large", out);
        return;
    }
    buffer_append_char(lines, c);
    if (c != '\n' || lines->failed)
        return;
    bool empty = lines->size - wire->line == 2, first = wire->line == 0;
    wire->line = lines->size;
    if (wire->part == WIRE_HEAD && !(empty && !first)) {
        if (empty) /* RFC 9112, 2.2: ignore empty lines before a request */
            buffer_clear(lines);
        else
            return;
        wire->line = 0;
        return;
    }
    wire->line = 0;
    if (wire->part == WIRE_HEAD)
        end_head(wire, out);
    else if (wire->part == WIRE_CHUNK_SIZE)
        end_chunk_size(wire, out);
    else
        end_trailer(wire, out);
}

/* Takes as much of a body as has arrived. */
static size_t take_data(struct wire *wire, const char *data, size_t size, struct buffer *out)
{
    size_t taken = (size_t)MIN((uint64_t)size, wire->left);
    bool chunk = wire->part == WIRE_CHUNK_DATA;
    if (chunk)
        buffer_append_format(out, "%zx\r\n", taken);
    buffer_append(out, data, taken);
    if (chunk)
        buffer_append(out, "\r\n", 2);
    wire->left -= taken;
    if (wire->left == 0) {
        wire->part = chunk ? WIRE_CHUNK_END : WIRE_HEAD;
        wire->left = chunk ? 2 : 0;
    }
    return taken;
}

/* The CR LF after a chunk. */
static void take_chunk_end(struct wire *wire, char c, struct buffer *out)
{
    if (c != (wire->left == 2 ? '\r' : '\n'))
        refuse_body(wire, "a chunk is longer than its stated size", out);
    else if (--wire->left == 0)
        wire->part = WIRE_CHUNK_SIZE;
}

bool wire_take(struct wire *wire, const char *data, size_t size, struct buffer *out)
{
    for (size_t i = 0; i < size && wire->part != WIRE_REFUSED && !wire->lines.failed && !out->failed;) {
        if (wire->part == WIRE_BODY || wire->part == WIRE_CHUNK_DATA)
            i += take_data(wire, data + i, size - i, out);
        else if (wire->part == WIRE_CHUNK_END)
            take_chunk_end(wire, data[i++], out);
        else
            take_line_byte(wire, data[i++], out);
    }
    return !wire->lines.failed && !out->failed;
}

void wire_free(struct wire *wire)
{
    buffer_free(&wire->lines);
}
