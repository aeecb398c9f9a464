#include "cli/plot_svg.h"

#include <string.h>

enum { WIDTH = 760, LEFT = 230, RIGHT = 150, HEAD = 58, KIND_HEAD = 26, BAR = 14, GAP = 12, LABELS = 30, FOOT = 30 };

struct panel {
    struct plot_axis axis;
    double top, bottom;
};

static double x_of(const struct panel *panel, double value)
{
    return LEFT + (WIDTH - LEFT - RIGHT) * value / panel->axis.most;
}

static int row_height(const struct plot_run *run)
{
    return MAX((run->compared ? 2 : 1) * BAR, LABELS) + GAP;
}

static void draw_axis(struct text_buffer *svg, const struct panel *panel)
{
    char text[32];
    for (int i = 0; i * panel->axis.step <= panel->axis.most * (1 + 1e-9); i++) {
        double value = i * panel->axis.step, x = x_of(panel, value);
        text_add_format(svg, "<line class=\"%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                        i ? "grid" : "zero", x, x, panel->top, panel->bottom);
        svg_text(svg, x, panel->bottom + 16, "middle", "faint",
                 plot_number(text, sizeof text, value, panel->axis.step));
    }
}

static void draw_speed(struct text_buffer *svg, const struct panel *panel, double y, const char *class,
                       const struct plot_figure *figure, double ratio)
{
    char number[32], text[80];
    double middle = y + BAR / 2.0, from = x_of(panel, figure->least), to = x_of(panel, figure->most);
    text_add_format(svg, "<rect class=\"%s\" x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\"/>\n", class, LEFT, y + 1,
                    x_of(panel, figure->median) - LEFT, BAR - 2);
    if (figure->most > figure->least)
        text_add_format(svg, "<path class=\"range\" d=\"M%.1f %.1fH%.1fM%.1f %.1fv6M%.1f %.1fv6\"/>\n", from, middle,
                        to, from, middle - 3, to, middle - 3);
    plot_number(number, sizeof number, figure->median, figure->median >= 100 ? 1 : figure->median >= 10 ? 0.1 : 0.01);
    if (ratio > 0)
        snprintf(text, sizeof text, "%s (%.2f times)", number, ratio);
    else
        snprintf(text, sizeof text, "%s", number);
    svg_text(svg, MAX(to, x_of(panel, figure->median)) + 6, middle + 4, "start", "", text);
}

static void draw_row(struct text_buffer *svg, const struct plot *plot, const struct plot_run *run,
                     const struct panel *panel, double y, enum plot_kind kind)
{
    char below[200], size[32];
    const struct plot_figure *ours = &run->ours[kind], *theirs = &run->theirs[kind];
    svg_text(svg, LEFT - 10, y + 12, "end", "label", run->label);
    size_text(size, sizeof size, run->budget);
    snprintf(below, sizeof below, "%s%s%s in %s", plot->name_models ? run->model : "", plot->name_models ? ", " : "",
             run->mode, size);
    svg_text(svg, LEFT - 10, y + 26, "end", "faint", below);
    double at = y + (run->compared ? 1 : (LABELS - BAR) / 2);
    if (ours->median > 0)
        draw_speed(svg, panel, at, "ours", ours, run->ratio[kind]);
    if (run->compared && theirs->median > 0)
        draw_speed(svg, panel, at + BAR, "theirs", theirs, 0);
}

void plot_bars(struct text_buffer *svg, const struct plot *plot)
{
    double rows = 0, most[PLOT_KINDS];
    int kinds = 0;
    for (size_t i = 0; i < plot->count; i++)
        rows += row_height(&plot->runs[i]);
    for (int kind = 0; kind < PLOT_KINDS; kind++)
        kinds += plot_has(plot, kind, &most[kind]);
    svg_start(svg, plot, WIDTH, (int)(HEAD + kinds * (KIND_HEAD + rows + FOOT) + 8));
    svg_legend(svg, plot, 16, 46, false);
    double y = HEAD;
    for (int kind = 0; kind < PLOT_KINDS; kind++) {
        if (most[kind] <= 0)
            continue;
        struct panel panel = {.axis = plot_axis_to(most[kind], 5), .top = y + KIND_HEAD - 6};
        panel.bottom = y + KIND_HEAD + rows;
        svg_text(svg, LEFT, y + 12, "start", "kind", plot_kind_titles[kind]);
        draw_axis(svg, &panel);
        double row = y + KIND_HEAD;
        for (size_t i = 0; i < plot->count; i++) {
            draw_row(svg, plot, &plot->runs[i], &panel, row + GAP / 2.0, kind);
            row += row_height(&plot->runs[i]);
        }
        y = panel.bottom + FOOT;
    }
    svg_end(svg);
}
