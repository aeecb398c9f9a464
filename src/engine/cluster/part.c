#include "engine/cluster/part.h"

#include <string.h>

void part_options(struct engine_options *options, struct hardware *hardware)
{
    const uint32_t ranks = cluster_ranks_on_host();
    if (options->budget == 0)
        options->budget = hardware_default_budget(hardware) / ranks;
    if (options->threads == 0)
        options->threads = MAX(hardware->cores / ranks, (size_t)1);
    hardware_share(hardware, ranks);
}

/* The memory that a plan leaves for experts. */
static uint64_t room_for_experts(const struct plan *plan, const struct model *model)
{
    uint64_t pinned = 0;
    for (unit_number u = 0; u < plan->unit_count; u++)
        if (model_unit(model, u)->kind == UNIT_EXPERT && plan->tiers[u] == TIER_RAM)
            pinned += plan_unit_footprint(model_unit(model, u));
    const uint64_t taken = plan->overhead_bytes + plan->reserve_bytes + plan->resident_bytes - pinned +
                           plan->ring_bytes + plan->table_bytes + plan->kv_bytes + plan->scratch_bytes;
    return plan->budget - MIN(taken, plan->budget) + plan->spare_scratch_bytes;
}

/* The time per byte in which GPUs read the experts that they hold. A layer's experts are on one GPU, so those of
 * several take turns. */
static double seconds_a_byte(const struct plan_gpu *gpu, const struct part_of *part)
{
    double seconds = 0;
    for (uint32_t l = 0; l < gpu->layer_count; l++) {
        const struct step *experts = steps_find(steps_of_layer(part->steps, l), STEP_EXPERTS);
        if (!gpu->slots[l])
            continue;
        const struct unit *unit = model_unit(part->model, experts->experts.first);
        for (uint32_t s = 0; s < unit->slice_count; s++)
            seconds += gpu->slots[l] * (double)unit->slices[s].bytes /
                       hardware_gpu_kernel_speed(&part->devices->infos[gpu->devices[l]], unit->slices[s].tensor->type);
    }
    return seconds * MAX(part->hardware->sharers, 1u) / (double)gpu->expert_bytes;
}

static uint64_t expert_bytes(const struct model *model)
{
    uint64_t bytes = 0;
    for (unit_number u = 0; u < model_unit_count(model); u++)
        bytes += model_unit(model, u)->kind == UNIT_EXPERT ? model_unit(model, u)->bytes : 0;
    return bytes;
}

/* Counts the GPUs: the memory that experts have there, and the speed of GPUs and cores at the same time, if experts
 * take all the room that there is. */
static hypura_status count_devices(struct plan_host *out, double *device_seconds, struct plan_request *request,
                                   const struct part_of *part, const struct planned *planned, hypura_error *error)
{
    struct planned with = *planned;
    struct plan *plan;
    with.devices = part->devices;
    with.quiet = true;
    TRY(make_plan(&plan, request, part->geometry, &with, error));
    const struct plan_gpu *gpu = plan->gpu;
    const uint64_t held = gpu ? gpu->expert_bytes : 0, room = room_for_experts(plan, part->model) + held;
    out->expert_room = room;
    if (held) {
        const double most = (double)MIN(room, expert_bytes(part->model)), there = MIN((double)held / most, 1.0);
        const double here = (1 - there) / part->hardware->compute_bytes_per_second;
        const double longest = MAX(there * seconds_a_byte(gpu, part), here);
        out->compute_bytes_per_second = MAX(out->compute_bytes_per_second, 1 / longest);
    }
    for (uint32_t d = 0; held && device_seconds && d < gpu->part_count; d++)
        if (gpu->parts[d].expert_bytes)
            *device_seconds = MAX(*device_seconds, part->devices->infos[d].turn_seconds);
    plan_free(plan);
    return HYPURA_OK;
}

hypura_status part_room(struct plan_host *out, double *device_seconds, struct plan **plan, struct plan_request *request,
                        const struct part_of *part, const struct engine_options *options, hypura_error *error)
{
    const struct devices none = {0};
    const struct hardware *hardware = part->hardware;
    const struct planned planned = {part->model, part->steps, part->adapters, hardware, &none, options};
    *out = (struct plan_host){.compute_bytes_per_second = hardware->compute_bytes_per_second,
                              .multiply_adds_per_second = hardware->multiply_adds_per_second,
                              .drive_bytes_per_second = hardware->storage.bytes_per_second};
    if (part->devices && part->devices->count)
        TRY(count_devices(out, device_seconds, request, part, &planned, error));
    TRY(make_plan(plan, request, part->geometry, &planned, error));
    out->memory = (*plan)->budget;
    out->expert_room = MAX(room_for_experts(*plan, part->model), out->expert_room);
    return HYPURA_OK;
}

void part_elsewhere(uint8_t *out, const struct model *model, const struct steps *steps, const uint8_t *owners,
                    uint32_t rank)
{
    const struct step_list all = steps_all(steps);
    const uint32_t layers = model_parameters(model)->layers;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        const bool expert = unit->kind == UNIT_EXPERT && unit->layer >= 0 && (uint32_t)unit->layer < layers;
        out[u] = owners ? owners[u] != rank : !expert;
    }
    for (size_t i = 0; i < all.count; i++) {
        const struct step_experts *x = &all.steps[i].experts;
        if (all.steps[i].kind != STEP_EXPERTS || (uint32_t)all.steps[i].layer >= layers)
            continue;
        const unit_number of_all[] = {x->gate_bias,  x->up_bias,  x->down_bias,
                                      x->gate_scale, x->up_scale, x->down_scale};
        for (size_t v = 0; v < COUNT_OF(of_all); v++)
            if (of_all[v] != NO_UNIT)
                out[of_all[v]] = 0;
    }
}

hypura_status engine_hosts_part(uint8_t *units, const struct model *model, const struct plan_hosts *plan, uint32_t host,
                                hypura_error *error)
{
    struct steps *steps = NULL;
    uint8_t *owners;
    TRY(ALLOCATE(&owners, model_unit_count(model), "experts of hosts", error));
    hypura_status status = steps_make(&steps, model, error);
    if (!status)
        status = plan_hosts_owners(owners, model, steps, plan, NULL, error);
    if (!status) {
        part_elsewhere(units, model, steps, owners, host);
        for (unit_number u = 0; u < model_unit_count(model); u++)
            units[u] = !units[u];
    }
    steps_free(steps);
    memory_free(owners);
    return status;
}
