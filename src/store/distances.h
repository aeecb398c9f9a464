/* store/distances: how large a cache would have had to be for each use of an expert to hit. Owner: distances.c.
 *
 * The stack distance of a use (Mattson and others, 1970) is the number of experts of its layer that were used since the
 * same expert's last use. An LRU cache hits if it has room for these and the expert. So one run, with a cache of any
 * size, tells the hits at every size. Distances are shares of the layer's experts: the share that a cache needs to
 * hold.
 *
 * A first use only tells that its distance is greater than the number of experts seen so far. Without such uses, a
 * short run would have too many short distances; counted as misses, they would make the start of a run look permanent.
 * Such data are censored on the right, and their distribution is estimated as by Kaplan and Meier (1958): of the uses
 * that are known to reach a distance, how many end there?
 *
 * The cache's own policy misses less often than LRU, or more often if prefetches took its room. Its misses while full
 * are modelled as LRU's miss rate to some power, which is applied at all sizes. A power keeps the order of sizes, with
 * all misses without a cache and none in a whole one; a factor would not, and is farther from replays at small sizes.
 * All uses are counted, not only those with a known distance: those are mostly short, and what the policy keeps for
 * long, such as from a prompt, appears in the others.
 */
#ifndef HYPURA_STORE_DISTANCES_H
#define HYPURA_STORE_DISTANCES_H

#include "plan/plan.h"

struct distances {
    double uses[PLAN_CURVE_POINTS];       /* by the share of experts that a cache needs to hit */
    double first_uses[PLAN_CURVE_POINTS]; /* censored: only a share is known that is not enough */
    double count;                         /* of uses */
    double wants, missed, shares; /* for a full cache; shares: its share of all experts, summed over the wants */
};

/* Notes a use of one of a layer's experts, before "last" is updated. last: [count] the last pass that used each, 0:
 * unknown. experts: how many of them share the cache. Takes time in proportion to count. */
void distances_note(struct distances *distances, const uint32_t *last, uint32_t count, uint32_t experts,
                    uint32_t expert);

/* Notes that a pass found "kept" of the experts that it wanted in a full cache with room for this share of all, without
 * reading them. */
void distances_note_cache(struct distances *distances, double share, uint64_t wants, uint64_t kept);

/* false, with *out unchanged: too little was seen, or not as far as a cache of this share reaches. */
bool distances_curve(const struct distances *distances, double share, struct plan_hit_curve *out);

#endif
