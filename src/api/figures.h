/* figures: the statistics of an engine in the form of the API, also for commands that use an engine directly. */
#ifndef HYPURA_FIGURES_H
#define HYPURA_FIGURES_H

#include "engine/engine.h"

#include <hypura/statistics.h>
#include <jansson.h>

/* How close decoding came to what the profile allows: the time that its bytes need on the drive (without wasted
 * prefetches) or through the kernels, whichever is longer, divided by the time that it took. Shares are at most 1, even
 * if the machine was faster than its profile. Weights on a GPU count at its measured speed, and its experts as used as
 * often as others. Shares are below 0 if nothing was decoded, or the machine or a GPU in use was not measured; bound is
 * then that of the plan. */
struct limit {
    double share;        /* with each of the two as fast as measured alone */
    double side_share;   /* with both at once, as fast as measured together */
    double over_profile; /* share without its maximum of 1 */
    enum plan_bound bound;
};
struct limit find_limit(const struct engine *engine, const struct engine_statistics *statistics);

/* Bytes of weights that decoding one token reads: all tensors except those read by rows, and of the experts those used.
 */
double bytes_per_token(const struct model *model);

/* Fills what a model's file says. The model need not be opened for computing. */
void describe_model(hypura_model_info *info, const struct model *model);

/* A JSON string from a name that may not be valid UTF-8 (see text_clean). */
json_t *text_json(const char *text);

/* All statistics, as the struct and as one JSON object with stable keys; NULL: out of memory. */
void figures_of(struct engine *engine, hypura_statistics *out);
json_t *figures_json(struct engine *engine);

#endif
