/* limit: how near decoding came to what the hardware allows. */
#ifndef HYPURA_LIMIT_H
#define HYPURA_LIMIT_H

#include "engine/engine.h"

/* The longer of the times that the bytes of decoding take on the disk (what was prefetched in vain not counted) and
 * through the kernels, over the time that it took: 1 is the limit, also where the machine was quicker than when it was
 * measured. What a GPU has it reads at its measured speed; its experts count as used as much as others. Below 0 where
 * nothing was measured (of a GPU that computes neither) or decoded; what binds is then what the plan expects. */
struct limit {
    double share;        /* the longer of the two, each as fast as it was measured alone */
    double side_share;   /* both at once, as fast as they were measured next to each other */
    double over_profile; /* share, above 1 where the machine was quicker */
    enum plan_bound bound;
};
struct limit find_limit(const struct engine *engine, const struct engine_statistics *statistics);

/* Bytes of weights that one decoded token reads: all tensors but the embedding's other rows, and the experts used. */
double bytes_per_token(const struct model *model);

#endif
