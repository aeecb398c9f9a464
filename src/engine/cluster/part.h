/* What one rank, 0 or another, can hold of a model. */
#ifndef HYPURA_ENGINE_CLUSTER_PART_H
#define HYPURA_ENGINE_CLUSTER_PART_H

#include "engine/cluster/share.h"

/* The input of a plan for a host's part of a model. */
struct part_of {
    struct geometry *geometry;
    const struct model *model;
    const struct steps *steps;
    const struct adapters *adapters;
    const struct hardware *hardware;
    const struct devices *devices; /* NULL: none */
};

/* Adjusts options and hardware to a rank: it shares memory, threads and speeds with the other ranks on its host. */
void part_options(struct engine_options *options, struct hardware *hardware);

/* Makes a plan under these options, and describes the host by it: its speeds, and the memory that experts could have,
 * also on devices. device_seconds, unless NULL: as in struct measured. *plan is for the CPU alone, and the caller owns
 * it. Serves both running ranks and hosts that are only described. */
hypura_status part_room(struct plan_host *out, double *device_seconds, struct plan **plan, struct plan_request *request,
                        const struct part_of *part, const struct engine_options *options, hypura_error *error);

/* Marks the units that a rank other than 0 does not hold, [unit_count]: all but its experts and what these are computed
 * with. owners NULL: all experts are its own. */
void part_elsewhere(uint8_t *out, const struct model *model, const struct steps *steps, const uint8_t *owners,
                    uint32_t rank);

#endif
