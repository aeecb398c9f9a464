/* Draws speeds as SVG, with an axis that begins at 0 for each kind. */
#ifndef HYPURA_CLI_PLOT_H
#define HYPURA_CLI_PLOT_H

#include "cli/cli.h"

enum plot_kind { PLOT_PROMPT, PLOT_DECODE, PLOT_KINDS };

/* Tokens per second; a median of 0: not measured. */
struct plot_figure {
    double median, least, most;
};

struct plot_run {
    char label[96], model[96], mode[48];
    double budget, weights; /* bytes */
    bool compared;          /* theirs is set */
    struct plot_figure ours[PLOT_KINDS], theirs[PLOT_KINDS];
    double ratio[PLOT_KINDS]; /* 0: not compared */
};

struct plot {
    struct plot_run *runs;
    size_t count;
    const char *title;
    bool name_models; /* the runs are of different models */
};

/* Draws a bar per run. */
void plot_bars(struct text_buffer *svg, const struct plot *plot);

/* Draws speed as a line over the memory budget, with a mark where all weights fit. */
void plot_lines(struct text_buffer *svg, const struct plot *plot);

#endif
