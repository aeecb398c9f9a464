/* What the drawings have in common. */
#ifndef HYPURA_CLI_PLOT_SVG_H
#define HYPURA_CLI_PLOT_SVG_H

#include "cli/plot.h"

/* An axis from 0 to at least the value, with at most this many round steps. */
struct plot_axis {
    double most, step;
};
struct plot_axis plot_axis_to(double value, int steps);

void svg_start(struct text_buffer *svg, const struct plot *plot, int width, int height);
void svg_end(struct text_buffer *svg);

/* The legend. weights: include the mark at the size of the weights. */
void svg_legend(struct text_buffer *svg, const struct plot *plot, double x, double y, bool weights);

/* Text, escaped for XML. anchor: start, middle or end. */
void svg_text(struct text_buffer *svg, double x, double y, const char *anchor, const char *class, const char *text);

/* Formats a number with no more digits than its axis needs: "0.25", "12", "7,970". */
const char *plot_number(char *out, size_t room, double value, double step);

extern const char *const plot_kind_titles[PLOT_KINDS];
bool plot_has(const struct plot *plot, enum plot_kind kind, double *most);
bool plot_compared(const struct plot *plot);

#endif
