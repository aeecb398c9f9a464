/* figures: what an engine did, as programs are told it; also for commands that use an engine without a model of the
 * API. */
#ifndef HYPURA_FIGURES_H
#define HYPURA_FIGURES_H

#include "engine/engine.h"

#include <hypura/statistics.h>
#include <jansson.h>

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

/* What a file says of a model, whether it is opened for computing or not. */
void describe_model(hypura_model_info *info, const struct model *model);

/* A JSON string of a name of the system's or a file's, which may not be UTF-8 (text_clean). */
json_t *text_json(const char *text);

/* All figures: the struct, and one JSON object with stable keys; NULL where memory was wanting. */
void figures_of(struct engine *engine, hypura_statistics *out);
json_t *figures_json(struct engine *engine);

#endif
