/* Compares lengths of batches for models whose experts are on both sides.
 *
 * A prompt uploads a layer's missing experts for each of its batches (plan_gpu_visit), so half as many batches mean
 * half as many uploads. But the buffers of a longer batch take room from experts. For every token of an answer, some of
 * these are then computed on the CPU, or read from the drive. Both costs are added up for a usual request. Costs that
 * do not depend on the length, such as the GPU's own work, are left out. */
#include "plan/plan_private.h"

/* Between two groups, the host waits for a free buffer, records and sends commands, and wakes the threads that copy. */
#define VISIT_GROUP_SECONDS 100e-6

uint32_t plan_visit_groups(uint32_t missing, uint32_t slots)
{
    return slots ? missing / slots + (missing % slots != 0) : 0;
}

struct plan_visit plan_gpu_visit(const struct model *model, unit_number expert, uint32_t missing, uint32_t slots,
                                 uint64_t tokens, const struct hardware *hardware, const struct hardware_gpu *device)
{
    const struct model_parameters *p = model_parameters(model);
    const struct unit *unit = model_unit(model, expert);
    const double choices = (double)tokens * p->experts_used;
    double here = 0; /* an expert with the mean number of rows */
    for (uint32_t i = 0; i < unit->slice_count; i++) {
        const struct unit_slice *slice = &unit->slices[i];
        const struct tensor_type_info *info = tensor_type_info(slice->tensor->type);
        const double elements = (double)(slice->bytes / info->block_bytes * info->block_size);
        const struct product_cost cost =
            hardware_product_cost(hardware, slice->tensor->type, (double)slice->bytes, elements);
        here += cost.start + cost.each * choices / p->experts;
    }
    return (struct plan_visit){.upload_seconds = missing * (double)unit->bytes / device->upload_bytes_per_second +
                                                 plan_visit_groups(missing, slots) * VISIT_GROUP_SECONDS,
                               .here_seconds = missing * here,
                               .many = slots > 0 && choices >= 2.0 * p->experts};
}

double plan_gpu_share_here(const struct plan_gpu *plan, const struct model *model,
                           const struct plan_gpu_request *request, uint32_t layer, unit_number first)
{
    uint32_t experts = model_parameters(model)->experts;
    double all = 0, here = 0;
    for (uint32_t e = 0; request->uses && e < experts; e++) {
        all += (double)request->uses[first + e];
        here += plan->units[first + e] ? 0 : (double)request->uses[first + e];
    }
    return all > 0 ? here / all : 1 - (double)plan->slots[layer] / experts;
}

static double seconds_here(const struct unit *unit, const struct hardware *hardware)
{
    double seconds = 0;
    for (uint32_t i = 0; i < unit->slice_count; i++)
        seconds += (double)unit->slices[i].bytes / hardware_kernel_speed(hardware, unit->slices[i].tensor->type);
    return seconds;
}

double plan_gpu_request_seconds(const struct plan_gpu *plan, const struct model *model, const struct steps *steps,
                                const struct plan_gpu_request *request)
{
    const struct hardware *hardware = request->hardware;
    uint32_t experts = model_parameters(model)->experts, used = model_parameters(model)->experts_used;
    double batch = 0, token = 0, token_bytes = 0, missing_bytes = 0, leaving_bytes = 0;
    for (uint32_t i = 0; i < plan->layer_count; i++) {
        unit_number first = plan_first_expert(steps, i);
        if (first == NO_UNIT)
            continue;
        const struct unit *unit = model_unit(model, first);
        uint32_t missing = experts - plan->slots[i], there = plan_gpu_slots(plan, i, plan->chunk);
        double uses = used * plan_gpu_share_here(plan, model, request, i, first);
        struct plan_visit visit =
            plan_gpu_visit(model, first, experts - there, plan->parts[plan->devices[i]].visit_slots, plan->chunk,
                           hardware, &request->devices[plan->devices[i]]);
        bool visits = plan->layers[i] == GPU_CAN && visit.many;
        batch += visits ? MIN(visit.upload_seconds, visit.here_seconds) : visit.here_seconds;
        token += uses * seconds_here(unit, hardware);
        token_bytes += uses * (double)unit->bytes;
        missing_bytes += missing * (double)unit->bytes;
        leaving_bytes += (plan->slots[i] - there) * (double)unit->bytes;
    }
    /* Each batch reads the experts without room in memory once. A token reads the same share of its own experts. What
     * leaves the devices for a prompt takes the place of others in memory, and is read once more for the answer. */
    uint64_t there = plan->resident_bytes + plan->expert_bytes, all = model_bytes(model);
    double beyond = (double)(all - MIN(all, there)) - (double)request->memory;
    if (beyond > 0 && missing_bytes > 0) {
        batch = MAX(batch, (beyond + leaving_bytes) / hardware->storage.bytes_per_second);
        token += token_bytes * MIN(beyond / missing_bytes, 1.0) / hardware->storage.bytes_per_second;
    }
    return (double)USUAL_PROMPT / plan->chunk * batch + USUAL_ANSWER * token +
           leaving_bytes / hardware->storage.bytes_per_second;
}
