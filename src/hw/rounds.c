/* Figures that are measured until they are confirmed. Other programs, low clocks and interrupts make a round slower,
 * never faster. So the best round counts, once a second one agrees with it. */
#include "hw/hw_private.h"

#define AGREES 1.1

void hw_note_round(struct hw_figure *figure, double seconds)
{
    if (figure->rounds++ == 0 || seconds < figure->best) {
        figure->agreeing = figure->rounds > 1 && figure->best <= AGREES * seconds ? figure->agreeing + 1 : 1;
        figure->best = seconds;
    } else {
        figure->agreeing += seconds <= AGREES * figure->best;
    }
}

bool hw_is_settled(const struct hw_figure *figure)
{
    return figure->agreeing >= 2 || figure->rounds >= HW_MOST_ROUNDS;
}
