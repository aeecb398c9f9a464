/* Small functions that the server's files share: log lines, times, random names, durations. */
#include "server/server_private.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

static void (*log_line)(const char *line, size_t size);

void server_log_to(void (*write)(const char *line, size_t size))
{
    log_line = write;
}

/* Writes one line of key=value pairs in one call, so that lines of threads do not mix. The message is quoted. */
void server_log(const char *level, const char *message, const char *format, ...)
{
    struct buffer line = {.limit = 8192};
    char time[40], fields[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(fields, sizeof fields, format, arguments);
    va_end(arguments);
    if (!log_line) {
        if (strcmp(level, "warning") == 0)
            log_write(LOG_WARNING, length > 0 ? "%s (%s)" : "%s", message, fields);
        return;
    }
    now_text(time, sizeof time);
    buffer_append_format(&line, "time=%s level=%s msg=\"", time, level);
    for (const char *c = message; *c; c++) {
        if (*c == '"' || *c == '\\')
            buffer_append_char(&line, '\\');
        buffer_append_char(&line, (unsigned char)*c < ' ' ? ' ' : *c);
    }
    buffer_append_string(&line, "\" ");
    if (length > 0)
        buffer_append(&line, fields, MIN((size_t)length, sizeof fields - 1));
    buffer_append_char(&line, '\n');
    if (line.data)
        log_line(line.data, line.size);
    buffer_free(&line);
}

void random_hex(char *out, size_t digits)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char bytes[32];
    digits = MIN(digits, sizeof bytes);
    if (getentropy(bytes, sizeof bytes)) {
        uint64_t now = clock_nanoseconds();
        memcpy(bytes, &now, sizeof now);
    }
    for (size_t i = 0; i < digits; i++)
        out[i] = hex[bytes[i] & 15];
    out[digits] = 0;
}

void time_text(char *out, size_t room, int64_t seconds, int64_t nanoseconds)
{
    time_t whole = (time_t)seconds;
    struct tm parts;
    char text[32];
    gmtime_r(&whole, &parts);
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
    snprintf(out, room, "%.20s.%09uZ", text, (unsigned)(nanoseconds % 1000000000) % 1000000000u);
}

void now_text(char *out, size_t room)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    time_text(out, room, now.tv_sec, now.tv_nsec);
}

static bool duration_of_text(const char *text, int64_t *nanoseconds)
{
    static const struct {
        const char *name;
        double nanoseconds;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
    double total = 0, sign = 1;
    if (*text == '-' || *text == '+')
        sign = *text++ == '-' ? -1 : 1;
    if (!*text)
        return false;
    while (*text) {
        char *end;
        if ((*text < '0' || *text > '9') && *text != '.')
            return false;
        double value = strtod(text, &end);
        size_t length = strspn(end, "numsh");
        size_t u = 0;
        while (u < COUNT_OF(units) && (strlen(units[u].name) != length || strncmp(end, units[u].name, length) != 0))
            u++;
        if (u == COUNT_OF(units)) {
            /* A bare number in a string means seconds. */
            if (*end || total > 0)
                return false;
            u = 3;
        }
        total += value * units[u].nanoseconds;
        text = end + length;
    }
    *nanoseconds = sign < 0 ? -1 : (int64_t)fmin(total, 9e18);
    return true;
}

bool duration_of_json(const json_t *value, int64_t *nanoseconds)
{
    if (json_is_number(value)) {
        double seconds = json_number_value(value);
        *nanoseconds = seconds < 0 ? -1 : (int64_t)fmin(seconds * 1e9, 9e18);
        return true;
    }
    return json_is_string(value) && duration_of_text(json_string_value(value), nanoseconds);
}

/* Programs in Rust and Go write their largest numbers as "maximum", which jansson cannot read. */
void shorten_limits(char *text, size_t size)
{
    static const char key[] = "imum\"", digits[] = "0123456789";
    const size_t kept = 16, most = 18; /* kept: digits that stay; most: digits that always fit 64 bits */
    char *end = text + size, *at = text;
    while ((at = memmem(at, (size_t)(end - at), key, sizeof key - 1))) {
        at += sizeof key - 1;
        while (at < end && memchr(" \t\r\n:-", *at, 7))
            at++;
        char *number = at;
        while (at < end && memchr(digits, *at, 10))
            at++;
        size_t count = (size_t)(at - number);
        if (count <= most || count > 9999 || (at < end && memchr(".eE", *at, 3)))
            continue;
        char exponent[8];
        int length = snprintf(exponent, sizeof exponent, "e%zu", count - kept);
        memset(number + kept, ' ', count - kept);
        memcpy(number + kept, exponent, (size_t)length);
    }
}
