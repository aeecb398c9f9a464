#include "cli/plot_svg.h"

#include <math.h>
#include <stdlib.h>

enum { WIDTH = 760, HEAD = 58, HEIGHT = 260, PANEL_LEFT = 64, PANEL_RIGHT = 20, TOP = 28, BOTTOM = 46 };

struct panel {
    struct plot_axis x, y;
    double left, right, top, bottom, unit; /* unit: bytes of one on the x axis */
};

static double x_of(const struct panel *panel, double bytes)
{
    return panel->left + (panel->right - panel->left) * bytes / panel->unit / panel->x.most;
}

static double y_of(const struct panel *panel, double value)
{
    return panel->bottom - (panel->bottom - panel->top) * value / panel->y.most;
}

static void draw_axes(struct text_buffer *svg, const struct panel *panel)
{
    char text[32];
    for (int i = 0; i * panel->y.step <= panel->y.most * (1 + 1e-9); i++) {
        double y = y_of(panel, i * panel->y.step);
        text_add_format(svg, "<line class=\"%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                        i ? "grid" : "zero", panel->left, panel->right, y, y);
        svg_text(svg, panel->left - 6, y + 4, "end", "faint",
                 plot_number(text, sizeof text, i * panel->y.step, panel->y.step));
    }
    for (int i = 0; i * panel->x.step <= panel->x.most * (1 + 1e-9); i++) {
        double x = x_of(panel, i * panel->x.step * panel->unit);
        text_add_format(svg, "<line class=\"%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                        i ? "grid" : "zero", x, x, panel->top, panel->bottom);
        svg_text(svg, x, panel->bottom + 16, "middle", "faint",
                 plot_number(text, sizeof text, i * panel->x.step, panel->x.step));
    }
    snprintf(text, sizeof text, "memory, %s", panel->unit >= 1 << 30 ? "GiB" : "MiB");
    svg_text(svg, (panel->left + panel->right) / 2, panel->bottom + 34, "middle", "", text);
}

static void draw_side(struct text_buffer *svg, const struct plot *plot, const struct panel *panel, enum plot_kind kind,
                      bool theirs)
{
    const char *class = theirs ? "theirs" : "ours";
    text_add_format(svg, "<polyline class=\"%s line\" points=\"", class);
    for (size_t i = 0; i < plot->count; i++) {
        const struct plot_figure *figure = theirs ? &plot->runs[i].theirs[kind] : &plot->runs[i].ours[kind];
        if (figure->median > 0)
            text_add_format(svg, "%.1f,%.1f ", x_of(panel, plot->runs[i].budget), y_of(panel, figure->median));
    }
    text_add_string(svg, "\"/>\n");
    for (size_t i = 0; i < plot->count; i++) {
        const struct plot_figure *figure = theirs ? &plot->runs[i].theirs[kind] : &plot->runs[i].ours[kind];
        double x = x_of(panel, plot->runs[i].budget), from = y_of(panel, figure->least), to = y_of(panel, figure->most);
        if (!(figure->median > 0))
            continue;
        text_add_format(svg, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", class, x,
                        y_of(panel, figure->median));
        if (figure->most > figure->least)
            text_add_format(svg, "<path class=\"range\" d=\"M%.1f %.1fV%.1fM%.1f %.1fh6M%.1f %.1fh6\"/>\n", x, from, to,
                            x - 3, from, x - 3, to);
    }
}

static int compare_budgets(const void *a, const void *b)
{
    double x = ((const struct plot_run *)a)->budget, y = ((const struct plot_run *)b)->budget;
    return (x > y) - (x < y);
}

void plot_lines(struct text_buffer *svg, const struct plot *plot)
{
    double most[PLOT_KINDS], memory = 0;
    int kinds = 0, at = 0;
    qsort(plot->runs, plot->count, sizeof *plot->runs, compare_budgets);
    for (size_t i = 0; i < plot->count; i++)
        memory = MAX(memory, MAX(plot->runs[i].budget, plot->runs[i].weights));
    for (int kind = 0; kind < PLOT_KINDS; kind++)
        kinds += plot_has(plot, kind, &most[kind]);
    svg_start(svg, plot, WIDTH, HEAD + HEIGHT + 8);
    svg_legend(svg, plot, 16, 46, plot->runs[0].weights > 0);
    for (int kind = 0; kind < PLOT_KINDS; kind++) {
        if (most[kind] <= 0)
            continue;
        double unit = memory >= 1 << 30 ? 1 << 30 : 1 << 20, width = (double)WIDTH / kinds;
        struct panel panel = {.x = plot_axis_to(memory / unit, 6),
                              .y = plot_axis_to(most[kind], 5),
                              .unit = unit,
                              .left = at * width + PANEL_LEFT,
                              .right = (at + 1) * width - PANEL_RIGHT,
                              .top = HEAD + TOP,
                              .bottom = HEAD + HEIGHT - BOTTOM};
        svg_text(svg, panel.left, HEAD + 14, "start", "kind", plot_kind_titles[kind]);
        draw_axes(svg, &panel);
        if (plot->runs[0].weights > 0) {
            double x = x_of(&panel, plot->runs[0].weights);
            text_add_format(svg, "<line class=\"mark\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n", x, x,
                            panel.top, panel.bottom);
        }
        if (plot_compared(plot))
            draw_side(svg, plot, &panel, kind, true);
        draw_side(svg, plot, &panel, kind, false);
        at++;
    }
    svg_end(svg);
}
