/* The parts that drawings have in common. */
#ifndef HYPURA_CLI_PLOT_SVG_H
#define HYPURA_CLI_PLOT_SVG_H

#include "cli/plot.h"

/* Round steps from 0 to at least a value. */
struct plot_axis {
    double most, step;
};
struct plot_axis plot_axis_to(double value, int steps);

void svg_start(struct text_buffer *svg, const struct plot *plot, int width, int height);
void svg_end(struct text_buffer *svg);

/* What the colours mean; weights: and the mark at the size of the weights. */
void svg_legend(struct text_buffer *svg, const struct plot *plot, double x, double y, bool weights);

/* Text with what XML reserves replaced; anchor: start, middle or end. */
void svg_text(struct text_buffer *svg, double x, double y, const char *anchor, const char *class, const char *text);

/* A number as short as its axis allows: "0.25", "12", "7,970". */
const char *plot_number(char *out, size_t room, double value, double step);

extern const char *const plot_kind_titles[PLOT_KINDS];
bool plot_has(const struct plot *plot, enum plot_kind kind, double *most);
bool plot_compared(const struct plot *plot);

#endif
