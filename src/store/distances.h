/* store/distances: how large a cache would have had to be for each use of an expert to hit. Owner: distances.c.
 *
 * When an expert is used, those of its layer that were used since its own last use are its stack distance (Mattson and
 * others, 1970): a cache that keeps what was used last hits when it has room for these and the expert. So one run at
 * any size tells the hits at every size. Distances are counted as shares of the layer's experts, which is what a cache
 * of that share of all experts has room for in each layer.
 *
 * A first use only says that its distance is more than the number of experts seen by then. Left out, it would leave too
 * many short distances, since a short run has no room for long ones; counted as a miss, a run's beginning would go on
 * for ever. Such data are cut off on the right, and their distribution is estimated as Kaplan and Meier do (1958): of
 * the uses that are known to have gone so far, how many end here?
 *
 * The cache's own policy misses less than LRU, or more where prefetches took its room. What it missed from when it was
 * full is what LRU misses on the whole to some power; the same power is taken at all sizes. It keeps the order of
 * sizes, and no cache misses all and a whole one nothing; a factor would not, and is farther from what replays show at
 * small sizes. Only the uses whose distance is known would not do: most are short, and what the policy has kept for
 * long, of a prompt say, in place of some of these shows in the others.
 */
#ifndef HYPURA_STORE_DISTANCES_H
#define HYPURA_STORE_DISTANCES_H

#include "plan/plan.h"

struct distances {
    double uses[PLAN_CURVE_POINTS];       /* by the share of experts that a cache needs to hit */
    double first_uses[PLAN_CURVE_POINTS]; /* of which only a share is known that is not enough */
    double count;                         /* of uses */
    double wants, missed, shares;         /* of a full cache; sum of its shares of all experts over the wants */
};

/* A use of one of a layer's experts, before last says so. last: [count] the pass that used each of them last, 0: not
 * known. experts: of these, those that share the cache. Takes time in proportion to count. */
void distances_note(struct distances *distances, const uint32_t *last, uint32_t count, uint32_t experts,
                    uint32_t expert);

/* A pass found so many of the experts that it wanted in a full cache with room for this share of all, not read for it.
 */
void distances_note_cache(struct distances *distances, double share, uint64_t wants, uint64_t kept);

/* False, and *out as it was: too little was seen, or not as far as a cache of this share reaches. */
bool distances_curve(const struct distances *distances, double share, struct plan_hit_curve *out);

#endif
