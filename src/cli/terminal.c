/* What can be shown where the output goes: colours, redrawn lines, block characters, how much fits a line. */
#include "cli/cli.h"

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
