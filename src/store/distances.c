#include "store/distances.h"

#include <math.h>

#define BINS PLAN_CURVE_POINTS

#define LEAST_USES 64.0

/* If the result is unknown for more than this share of uses, too little was seen. */
#define MOST_UNKNOWN 0.1
#define FAR_ENOUGH 0.5

/* An exponent beyond these comes from a few chance uses. */
#define LEAST_POWER 0.5
#define MOST_POWER 2.0

/* Adds one use, evenly over a range. */
static void spread(double bins[BINS], double from, double to)
{
    for (uint32_t i = (uint32_t)(from * BINS); i < BINS && i < to * BINS; i++)
        bins[i] += (fmin(to, (i + 1.0) / BINS) - fmax(from, (double)i / BINS)) / (to - from);
}

void distances_note(struct distances *distances, const uint32_t *last, uint32_t count, uint32_t experts,
                    uint32_t expert)
{
    uint32_t seen = 0, later = 0, alike = 0;
    for (uint32_t i = 0; i < count; i++) {
        seen += last[i] > 0;
        later += last[i] > last[expert];
        alike += last[i] == last[expert];
    }
    if (last[expert] == 0) {
        distances->first_uses[(uint64_t)seen * BINS / experts]++;
        return;
    }
    /* The order of experts within a pass is meaningless. */
    double from = (double)later / experts, to = (double)(later + alike) / experts;
    spread(distances->uses, from, to);
    distances->count++;
}

void distances_note_cache(struct distances *distances, double share, uint64_t wants, uint64_t kept)
{
    distances->wants += (double)wants;
    distances->missed += (double)(wants - kept);
    distances->shares += (double)wants * share;
}

/* misses[i]: the part of all uses that LRU misses with i of BINS parts of the experts. Returns the i from which on too
 * little was seen; from there they fall evenly. */
static uint32_t find_misses(const struct distances *distances, double misses[BINS + 1])
{
    double uses = distances->count, first_uses = 0;
    uint32_t known = 0;
    for (uint32_t i = 0; i < BINS; i++)
        first_uses += distances->first_uses[i];
    misses[0] = 1;
    for (; known < BINS && uses >= 1; known++) {
        first_uses -= distances->first_uses[known];
        misses[known + 1] = misses[known] * fmax(1 - distances->uses[known] / (uses + first_uses), 0);
        uses -= distances->uses[known];
    }
    for (uint32_t i = known + 1; i <= BINS; i++)
        misses[i] = misses[known] * (BINS - i) / (BINS - known);
    return known;
}

static double find_power(const struct distances *distances, const double misses[BINS + 1])
{
    if (distances->wants < LEAST_USES)
        return 1;
    double at = fmin(distances->shares / distances->wants, 1) * BINS;
    uint32_t below = (uint32_t)fmin(at, BINS - 1);
    double by_lru = misses[below] + (at - below) * (misses[below + 1] - misses[below]);
    if (by_lru <= 0 || by_lru >= 1)
        return 1;
    return fmin(fmax(log(distances->missed / distances->wants) / log(by_lru), LEAST_POWER), MOST_POWER);
}

bool distances_curve(const struct distances *distances, double share, struct plan_hit_curve *out)
{
    double misses[BINS + 1];
    if (distances->count < LEAST_USES)
        return false;
    uint32_t known = find_misses(distances, misses);
    if (known < fmin(share, FAR_ENOUGH) * BINS && misses[known] > MOST_UNKNOWN)
        return false;
    double power = find_power(distances, misses);
    for (uint32_t i = 0; i + 1 < BINS; i++)
        out->hits[i] = (float)(1 - pow(misses[i + 1], power));
    out->hits[BINS - 1] = 1;
    out->known = true;
    return true;
}
