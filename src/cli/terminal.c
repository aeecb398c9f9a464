/* What can be shown where the output goes: colours, redrawn lines, block characters, how much fits a line. */
#include "cli/cli.h"

#include <math.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

bool is_terminal(FILE *file)
{
    const char *kind = getenv("TERM");
    return isatty(fileno(file)) == 1 && kind && strcmp(kind, "dumb") != 0;
}

bool use_colour(FILE *file)
{
    const char *refused = getenv("NO_COLOR");
    return is_terminal(file) && !(refused && *refused);
}

/* Where nothing is said of the locale, as in most containers, terminals take UTF-8 today. */
bool use_blocks(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        const char *locale = getenv(names[i]);
        if (locale && *locale) {
            const char *set = strchr(locale, '.');
            return set ? strncasecmp(set, ".utf-8", 6) == 0 || strncasecmp(set, ".utf8", 5) == 0
                       : strcmp(locale, "C") != 0 && strcmp(locale, "POSIX") != 0;
        }
    }
    return true;
}

static atomic_bool line_is_shown;

void show_line(const char *format, ...)
{
    struct winsize size;
    char text[512];
    va_list arguments;
    if (!is_terminal(stderr))
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    /* One that is wider would leave its rest behind. */
    bool known = !ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col;
    fprintf(stderr, "\r\033[K%.*s", known ? size.ws_col - 1 : 79, text);
    fflush(stderr);
    line_is_shown = true;
}

void clear_line(void)
{
    if (atomic_exchange(&line_is_shown, false))
        fprintf(stderr, "\r\033[K");
}

const char *format_time(char *out, size_t room, double seconds)
{
    double minutes = round(seconds / 60);
    if (seconds < 90)
        snprintf(out, room, "%.0f s", seconds);
    else if (minutes < 90)
        snprintf(out, room, "%.0f min", minutes);
    else
        snprintf(out, room, "%.0f h %.0f min", floor(minutes / 60), fmod(minutes, 60));
    return out;
}

int text_width(FILE *file)
{
    struct winsize size;
    if (isatty(fileno(file)) != 1 || ioctl(fileno(file), TIOCGWINSZ, &size) || size.ws_col == 0)
        return 80;
    return MIN(MAX((int)size.ws_col, 60), 100);
}

void print_paragraph(FILE *out, const char *text, int indent)
{
    const int width = text_width(out);
    int column = indent;
    for (const char *p = text; *p;) {
        if (*p == '\n') {
            fprintf(out, "\n%*s", p[1] && p[1] != '\n' ? indent : 0, "");
            column = indent;
            p++;
            continue;
        }
        size_t word = strcspn(p, " \n");
        if (column > indent && column + 1 + (int)word > width) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", (int)word, p);
        column += (int)word;
        p += word;
        p += strspn(p, " ");
    }
    fputc('\n', out);
}

void draw_bar(FILE *out, double share, int width)
{
    static const char *const parts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    bool blocks = use_blocks();
    int eighths = (int)(share * width * 8 + 0.5), cells = 0;
    for (; eighths >= 8; eighths -= 8, cells++)
        fputs(blocks ? "█" : "#", out);
    if (eighths > 0 && blocks) {
        fputs(parts[eighths], out);
        cells++;
    }
    fprintf(out, "%*s", MAX(width - cells, 0), "");
}
