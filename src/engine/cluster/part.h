/* What one rank can have of a model, rank 0 or another. */
#ifndef HYPURA_ENGINE_CLUSTER_PART_H
#define HYPURA_ENGINE_CLUSTER_PART_H

#include "engine/cluster/share.h"

/* What a host's part of a model is planned from. */
struct part_of {
    struct geometry *geometry;
    const struct model *model;
    const struct steps *steps;
    const struct adapters *adapters;
    const struct hardware *hardware;
};

/* Memory, threads and speeds are shared with other ranks on the same host, and nothing is computed on a GPU. */
void part_options(struct engine_options *options, struct hardware *hardware);

/* Bytes of memory that experts could have, and how quick this host is, by a plan under these options, which is the
 * caller's, with what it was made from. Runs and hosts that are only described ask the same. */
hypura_status part_room(struct plan_host *out, struct plan **plan, struct plan_request *request,
                        const struct part_of *part, const struct engine_options *options, hypura_error *error);

/* What a rank other than 0 does not hold, [unit_count]: all but its experts, and what these are computed with. owners
 * NULL: all experts are its own. */
void part_elsewhere(uint8_t *out, const struct model *model, const struct steps *steps, const uint8_t *owners,
                    uint32_t rank);

#endif
