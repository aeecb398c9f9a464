/* Which experts have the memory of buffers for long batches at other times.
 *
 * The slots of a layer's experts are side by side. So a layer has all of its experts in lent memory or none, and a long
 * batch finds none of these on the device. Which experts these are costs little: what a long batch lacks, it reads
 * once, and memory holds the most used ones afterwards. */
#include "plan/plan_private.h"

uint32_t plan_gpu_slots(const struct plan_gpu *plan, uint32_t layer, uint64_t rows)
{
    return plan->lent[layer] && rows > plan->lent[layer] ? 0 : plan->slots[layer];
}

uint64_t plan_gpu_unit_bytes(const struct unit *unit)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < unit->slice_count; i++)
        bytes += align_up(unit->slices[i].bytes, PLAN_GPU_ALIGNMENT);
    return bytes;
}

static uint64_t slots_bytes(const struct plan_gpu *plan, uint32_t layer, const struct model *model,
                            const struct steps *steps)
{
    return plan->slots[layer] * plan_gpu_unit_bytes(model_unit(model, plan_first_expert(steps, layer)));
}

/* Finds the batches that take a layer's room: they have all uploaded experts and then, in proportion to their rows,
 * other buffers. */
static uint32_t rows_before(const struct plan_gpu *part, uint64_t bytes, uint32_t short_rows)
{
    const double others = (double)(part->lent_bytes - part->visit_bytes);
    const double rows = ((double)bytes - (double)part->visit_bytes) / others * part->chunk;
    return rows > short_rows ? (uint32_t)rows : short_rows;
}

/* Takes layers of a device from the last one on until their experts need all of its lent memory. A layer with all
 * experts there keeps them, because they cannot move. */
static bool lend(struct plan_gpu *plan, uint32_t device, const struct model *model, const struct steps *steps,
                 const struct plan_gpu_request *request)
{
    struct plan_gpu *part = &plan->parts[device];
    const uint32_t experts = model_parameters(model)->experts;
    uint64_t taken = 0, before = 0;
    for (uint32_t l = plan->layer_count; l-- > 0 && taken < part->lent_bytes;) {
        if (plan->devices[l] != device || plan->slots[l] == 0 || plan->slots[l] == experts)
            continue;
        part->lent[l] = 1;
        taken += slots_bytes(plan, l, model, steps);
    }
    for (uint32_t l = 0; l < plan->layer_count; l++) {
        if (!part->lent[l])
            continue;
        plan->lent[l] = part->lent[l] = rows_before(part, before, request->short_rows);
        before += slots_bytes(plan, l, model, steps);
    }
    return taken >= part->lent_bytes && taken <= request->max_allocation;
}

bool plan_gpu_lend(struct plan_gpu *plan, const struct model *model, const struct steps *steps,
                   const struct plan_gpu_request *request)
{
    bool any = false, all = true;
    for (uint32_t d = 0; d < plan->part_count; d++) {
        any = any || plan->parts[d].lent_bytes;
        all = lend(plan, d, model, steps, request) && all;
    }
    return any && all;
}
