/* How fast a plan should be. Compute and reads overlap, so a token takes the longer of the two. */
#include "plan/plan_private.h"

/* Matrix-vector kernels that come this near to the memory's speed are bound by it. */
#define MEMORY_BOUND_SHARE 0.8

void plan_predict(struct plan *plan, const struct plan_table *table, const struct hardware *hardware)
{
    double used = table->experts ? (double)table->experts_used / table->experts : 0;
    double dense = 0, dense_streamed = 0, experts = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        const struct plan_unit *unit = &table->units[i];
        if (unit->priority < PRIORITY_EXPERT)
            dense += (double)unit->footprint;
        else if (unit->priority == PRIORITY_EXPERT)
            experts += (double)unit->footprint;
        if (plan->in_ring[i])
            dense_streamed += (double)unit->footprint;
    }
    plan->expert_bytes = (uint64_t)experts;
    bool streams = plan->expert_cache_bytes > 0;
    plan->expert_cycle_bytes = streams ? (uint64_t)(experts * used) : 0;
    plan->predicted_hit_rate = streams ? MIN(1.0, (double)plan->expert_cache_bytes / experts) : 1;
    plan->predicted_bytes_per_token = dense_streamed + experts * used * (1 - plan->predicted_hit_rate);
    if (plan->embedding_rows)
        plan->predicted_bytes_per_token += (double)table->embedding_row_bytes;

    double compute = (dense + experts * used) / hardware->compute_bytes_per_second;
    double reads = plan->predicted_bytes_per_token / hardware->storage.bytes_per_second;
    double token = MAX(compute, reads);
    plan->predicted_tokens_per_second = token > 0 ? 1 / token : 0;
    plan->bound = reads > compute ? BOUND_DISK
                  : hardware->compute_bytes_per_second >= MEMORY_BOUND_SHARE * hardware->memory_bytes_per_second
                      ? BOUND_MEMORY
                      : BOUND_COMPUTE;
}
