/* Which experts have the memory of buffers for long batches at other times.
 *
 * The slots of a layer's experts are side by side. So a layer has all of its experts in lent memory or none, and a long
 * batch finds none of these on the device. Which experts these are costs little: what a long batch lacks, it reads
 * once, and memory holds the most used ones afterwards. */
#include "plan/plan_private.h"

uint32_t plan_gpu_slots(const struct plan_gpu *plan, uint32_t layer, uint64_t rows)
{
    return plan->lent[layer] && rows > plan->short_rows ? 0 : plan->slots[layer];
}

uint64_t plan_gpu_unit_bytes(const struct unit *unit)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < unit->slice_count; i++)
        bytes += align_up(unit->slices[i].bytes, PLAN_GPU_ALIGNMENT);
    return bytes;
}

/* Takes layers of a device from the last one on until their experts need all of its lent memory. A layer with all
 * experts there keeps them, because they cannot move. */
static bool lend(struct plan_gpu *plan, uint32_t device, const struct model *model, const struct steps *steps,
                 uint64_t max_allocation)
{
    const uint32_t experts = model_parameters(model)->experts;
    uint64_t taken = 0;
    for (uint32_t l = plan->layer_count; l-- > 0 && taken < plan->parts[device].lent_bytes;) {
        if (plan->devices[l] != device || plan->slots[l] == 0 || plan->slots[l] == experts)
            continue;
        plan->lent[l] = plan->parts[device].lent[l] = 1;
        taken += plan->slots[l] * plan_gpu_unit_bytes(model_unit(model, plan_first_expert(steps, l)));
    }
    return taken >= plan->parts[device].lent_bytes && taken <= max_allocation;
}

bool plan_gpu_lend(struct plan_gpu *plan, const struct model *model, const struct steps *steps, uint64_t max_allocation)
{
    bool any = false, all = true;
    for (uint32_t d = 0; d < plan->part_count; d++) {
        any = any || plan->parts[d].lent_bytes;
        all = lend(plan, d, model, steps, max_allocation) && all;
    }
    return any && all;
}
