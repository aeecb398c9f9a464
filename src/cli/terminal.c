/* What the output supports: colours, redrawn lines, block characters, line width. */
#include "cli/cli.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
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

/* Without a locale, as in most containers, assumes UTF-8. */
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

/* ---- a line that is redrawn ----------------------------------------------------------------------------------------
 *
 * If an answer goes to the same terminal, redrawing must not erase it. The status line is then the one below the
 * cursor, and is cleared before more of the answer is written. */

static pthread_mutex_t drawing = PTHREAD_MUTEX_INITIALIZER;
static enum { NOT_SHOWN, SHOWN_HERE, SHOWN_BELOW } shown;
static bool answer_is_shown;
static size_t answer_column; /* characters in the answer's last line, which may wrap over several rows */
static bool line_is_open;

static void clear(void)
{
    if (shown)
        fputs(shown == SHOWN_HERE ? "\r\033[K" : "\033[J", stderr);
    shown = NOT_SHOWN;
}

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
    /* A wider line would wrap, and clearing it would leave a part behind. */
    bool known = !ioctl(STDERR_FILENO, TIOCGWINSZ, &size) && size.ws_col;
    int width = known ? size.ws_col : 80;
    pthread_mutex_lock(&drawing);
    if (!answer_is_shown || answer_column == 0) {
        fprintf(stderr, "\r\033[K%.*s", width - 1, text);
        shown = SHOWN_HERE;
    } else if (answer_column % (size_t)width) { /* after a full row, the cursor is still on its last letter */
        /* Down and up, which makes sure of a row below; save the cursor, write there, restore it. */
        fprintf(stderr, "\033D\033M\0337\033[B\r\033[K%.*s\0338", width - 1, text);
        shown = SHOWN_BELOW;
    }
    fflush(stderr);
    pthread_mutex_unlock(&drawing);
}

void clear_line(void)
{
    pthread_mutex_lock(&drawing);
    clear();
    pthread_mutex_unlock(&drawing);
}

void answer_starts(void)
{
    pthread_mutex_lock(&drawing);
    clear();
    answer_is_shown = is_terminal(stdout);
    answer_column = 0;
    line_is_open = true; /* even an empty answer ends with a line feed */
    pthread_mutex_unlock(&drawing);
}

void show_answer(const char *text, size_t size)
{
    pthread_mutex_lock(&drawing);
    if (answer_is_shown)
        clear();
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    if (size)
        line_is_open = text[size - 1] != '\n';
    for (size_t i = 0; i < size; i++)
        answer_column = text[i] == '\n' ? 0 : answer_column + ((text[i] & 0xc0) != 0x80);
    pthread_mutex_unlock(&drawing);
}

void answer_ends(void)
{
    pthread_mutex_lock(&drawing);
    clear();
    if (line_is_open)
        putchar('\n');
    fflush(stdout);
    answer_is_shown = false;
    pthread_mutex_unlock(&drawing);
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
