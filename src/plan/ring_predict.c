/* Predicts how long the drive waits for the ring.
 *
 * Streamed pieces are read ahead only as far as the ring has room. While the cores compute with weights in memory, the
 * reader fills the ring, and then waits until the next streamed piece is used. Only a ring that is filled much sooner
 * than that costs time: that of a small model, or next to layers on a GPU. */
#include "plan/plan_private.h"

struct pauses {
    double room;         /* seconds in which the reader fills the ring */
    double since, first; /* seconds since the last piece; before the first */
    double idle;
    bool any;
};

static void end_pause(struct pauses *pauses, double seconds)
{
    pauses->idle += MAX(seconds - pauses->room, 0.0);
}

static void use_unit(struct pauses *pauses, const struct plan_unit *unit, const uint8_t *streams)
{
    const struct plan_cut *cut = &unit->cut;
    for (uint32_t piece = 0; piece < cut->count; piece++) {
        if (streams[cut->first + piece]) {
            if (pauses->any)
                end_pause(pauses, pauses->since);
            else
                pauses->first = pauses->since;
            pauses->any = true;
            pauses->since = 0;
        } else if (unit->priority < PRIORITY_EXPERT) {
            pauses->since += unit->compute_seconds / cut->count;
        }
    }
}

/* Units are numbered in the order of their use (src/model/units.c). */
double plan_ring_idle(const struct plan_table *table, const struct plan *plan, double bytes_per_second,
                      const double *rests)
{
    struct pauses pauses = {.room = (double)plan->ring_bytes / bytes_per_second};
    int32_t layer = -1;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit->expert >= 0 || unit->layer >= (int32_t)table->layers)
            continue;
        for (; layer < unit->layer; layer++)
            pauses.since += rests[layer + 2];
        use_unit(&pauses, unit, plan->streams);
    }
    if (!pauses.any)
        return 0;
    /* The last pause ends in the next token. */
    end_pause(&pauses, pauses.since + rests[0] + pauses.first);
    return pauses.idle;
}
