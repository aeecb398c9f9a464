#include "cli/plot_svg.h"

#include <math.h>
#include <string.h>

const char *const plot_kind_titles[PLOT_KINDS] = {"Reading a prompt, tokens/s", "Decoding, tokens/s"};

static const char style[] = "text { font: 12px system-ui, sans-serif; fill: #333 }\n"
                            ".title { font-size: 15px; font-weight: 600 }\n"
                            ".kind, .label { font-weight: 600 }\n"
                            ".faint { fill: #6b6b6b }\n"
                            ".grid { stroke: #888; stroke-opacity: .25 }\n"
                            ".zero { stroke: #888 }\n"
                            ".ours { fill: #0b74c4; stroke: #0b74c4 }\n"
                            ".theirs { fill: #c2571a; stroke: #c2571a }\n"
                            "rect.ours, rect.theirs, text { stroke: none }\n"
                            ".line { fill: none; stroke-width: 2 }\n"
                            ".range { stroke: #333; stroke-opacity: .75 }\n"
                            ".mark { stroke: #888; stroke-dasharray: 4 3 }\n"
                            "@media (prefers-color-scheme: dark) {\n"
                            "  text { fill: #ddd }\n"
                            "  .faint { fill: #a0a0a0 }\n"
                            "  .ours { fill: #4aa3f0; stroke: #4aa3f0 }\n"
                            "  .theirs { fill: #ff9d5c; stroke: #ff9d5c }\n"
                            "  .range { stroke: #eee }\n"
                            "  .line { fill: none }\n"
                            "}\n";

struct plot_axis plot_axis_to(double value, int steps)
{
    if (!(value > 0))
        return (struct plot_axis){.most = 1, .step = 1};
    double power = pow(10, floor(log10(value / steps)));
    static const double round[] = {1, 2, 2.5, 5, 10};
    for (size_t i = 0; i < COUNT_OF(round); i++) {
        double step = round[i] * power, most = step * ceil(value / step - 1e-9);
        if (most / step <= steps + 1e-9)
            return (struct plot_axis){.most = most, .step = step};
    }
    return (struct plot_axis){.most = 10 * power * steps, .step = 10 * power};
}

void svg_text(struct text_buffer *svg, double x, double y, const char *anchor, const char *class, const char *text)
{
    text_add_format(svg, "<text class=\"%s\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", class, x, y, anchor);
    for (; *text; text++) {
        if (*text == '&')
            text_add_string(svg, "&amp;");
        else if (*text == '<')
            text_add_string(svg, "&lt;");
        else if (*text == '>')
            text_add_string(svg, "&gt;");
        else if ((unsigned char)*text >= ' ')
            text_add_char(svg, *text);
    }
    text_add_string(svg, "</text>\n");
}

const char *plot_number(char *out, size_t room, double value, double step)
{
    int digits = step >= 1 && step == floor(step)               ? 0
                 : step * 10 == floor(step * 10) && step >= 0.1 ? 1
                 : step >= 0.01                                 ? 2
                                                                : 3;
    if (digits || value < 1000) {
        snprintf(out, room, "%.*f", digits, value);
        return out;
    }
    char plain[32];
    int length = snprintf(plain, sizeof plain, "%.0f", value);
    size_t at = 0;
    for (int i = 0; i < length && at + 2 < room; i++) {
        if (i && (length - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = plain[i];
    }
    out[at] = 0;
    return out;
}

bool plot_has(const struct plot *plot, enum plot_kind kind, double *most)
{
    *most = 0;
    for (size_t i = 0; i < plot->count; i++) {
        *most = MAX(*most, plot->runs[i].ours[kind].most);
        if (plot->runs[i].compared)
            *most = MAX(*most, plot->runs[i].theirs[kind].most);
    }
    return *most > 0;
}

bool plot_compared(const struct plot *plot)
{
    for (size_t i = 0; i < plot->count; i++)
        if (plot->runs[i].compared)
            return true;
    return false;
}

void svg_start(struct text_buffer *svg, const struct plot *plot, int width, int height)
{
    text_add_format(svg,
                    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" width=\"%d\" height=\"%d\" "
                    "role=\"img\">\n<style>\n%s</style>\n",
                    width, height, width, height, style);
    svg_text(svg, 16, 26, "start", "title", plot->title);
}

void svg_legend(struct text_buffer *svg, const struct plot *plot, double x, double y, bool weights)
{
    double at = x;
    static const struct {
        const char *class, *text;
        int width;
    } sides[] = {{"ours", "hypura", 64}, {"theirs", "llama.cpp", 80}};
    for (size_t i = 0; i < (plot_compared(plot) ? 2u : 1u); i++) {
        text_add_format(svg, "<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"10\" height=\"10\" rx=\"2\"/>\n",
                        sides[i].class, at, y - 9);
        svg_text(svg, at + 15, y, "start", "", sides[i].text);
        at += sides[i].width;
    }
    text_add_format(svg, "<path class=\"range\" d=\"M%.1f %.1fh16m0 -3v6m-16 -6v6\"/>\n", at + 2, y - 4);
    svg_text(svg, at + 24, y, "start", "faint", "slowest to fastest round");
    if (weights) {
        at += 184;
        text_add_format(svg, "<path class=\"mark\" d=\"M%.1f %.1fv14\"/>\n", at, y - 11);
        svg_text(svg, at + 8, y, "start", "faint", "size of the weights");
    }
}

void svg_end(struct text_buffer *svg)
{
    text_add_string(svg, "</svg>\n");
}
