/* Parses headers of an answer. */
#include "server/fetch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Writes the trimmed value of a header line with this name. False: it has another name. */
static bool value_of(const char *line, size_t size, const char *name, char *out, size_t room)
{
    size_t length = strlen(name);
    if (size <= length || strncasecmp(line, name, length) != 0 || line[length] != ':')
        return false;
    line += length + 1;
    size -= length + 1;
    while (size && (*line == ' ' || *line == '\t')) {
        line++;
        size--;
    }
    while (size && strchr(" \t\r\n", line[size - 1]))
        size--;
    *out = 0;
    if (size < room && !memchr(line, 0, size)) {
        memcpy(out, line, size);
        out[size] = 0;
    }
    return true;
}

/* Parses digits and moves *at past them. */
static bool take_number(const char **at, uint64_t *out)
{
    const char *start = *at;
    uint64_t value = 0;
    for (; **at >= '0' && **at <= '9'; (*at)++) {
        if (value > (UINT64_MAX >> 2) / 10)
            return false;
        value = value * 10 + (uint64_t)(**at - '0');
    }
    *out = value;
    return *at > start;
}

/* "bytes 5-9/20"; an asterisk in place of "20" or, with status 416, of "5-9". */
static void read_range(struct fetch_answer *answer, const char *text)
{
    uint64_t start = 0, end = 0, total = 0;
    if (strncasecmp(text, "bytes ", 6) != 0)
        return;
    text += 6;
    bool none = *text == '*';
    if (none)
        text++;
    else if (!take_number(&text, &start) || *text++ != '-' || !take_number(&text, &end) || end < start)
        return;
    if (*text++ != '/')
        return;
    if (*text == '*' ? text[1] != 0 : !take_number(&text, &total) || *text || (!none && end >= total))
        return;
    answer->ranged = !none;
    answer->start = start;
    answer->total = total;
}

void fetch_read_header(struct fetch_answer *answer, const char *line, size_t size)
{
    char value[256];
    if (size >= 5 && strncmp(line, "HTTP/", 5) == 0) { /* the answer before was a redirect */
        const char *space = memchr(line, ' ', size);
        char digits[4] = "";
        if (space && line + size - space > 3)
            memcpy(digits, space + 1, 3);
        *answer = (struct fetch_answer){.status = strtol(digits, NULL, 10)};
        return;
    }
    value_of(line, size, "ETag", answer->etag, sizeof answer->etag);
    value_of(line, size, "Last-Modified", answer->modified, sizeof answer->modified);
    if (value_of(line, size, "Content-Range", value, sizeof value))
        read_range(answer, value);
    const char *at = value;
    if (answer->status == 200 && value_of(line, size, "Content-Length", value, sizeof value) &&
        (!take_number(&at, &answer->total) || *at))
        answer->total = 0;
}
