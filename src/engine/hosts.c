/* Several hosts that need not be there: what each could hold, and what they would do together. */
#include "engine/gpu/pass.h"
#include "plan/hosts.h"

#include <stdio.h>

struct hosts_work {
    const struct model *model;
    struct steps *steps;
    struct adapters *adapters;
    struct geometry geometry;
};

/* What a host would do alone. */
static hypura_status plan_alone(struct plan **out, struct plan_request *request, struct hosts_work *work,
                                const struct engine_host *host, const struct engine_options *asked, hypura_error *error)
{
    const struct devices none = {0};
    struct engine_options options = *asked;
    options.budget = host->memory;
    options.threads = 0;
    hypura_status status = make_plan(out, request, &work->geometry, work->model, work->steps, work->adapters,
                                     host->hardware, &none, &options, error);
    if (status && error) {
        hypura_error why = *error;
        error_set(error, status, "%s: %s", host->name, why.message);
    }
    return status;
}

/* Bytes that experts can have next to the rest of a plan; of a host that has nothing but experts, no keys and values
 * either. */
static uint64_t room_for_experts(const struct plan *plan, const struct model *model, bool first)
{
    uint64_t taken = plan->overhead_bytes + plan->reserve_bytes + plan->table_bytes + plan->scratch_bytes;
    uint64_t pinned = 0;
    for (unit_number u = 0; first && u < plan->unit_count; u++)
        if (model_unit(model, u)->kind == UNIT_EXPERT && plan->tiers[u] == TIER_RAM)
            pinned += plan_unit_footprint(model_unit(model, u));
    if (first)
        taken += plan->kv_bytes + plan->ring_bytes + plan->resident_bytes - pinned;
    return plan->budget - MIN(plan->budget, taken);
}

static hypura_status plan_others(struct plan_host *out, struct hosts_work *work, const struct engine_host *hosts,
                                 uint32_t count, const struct engine_options *options, hypura_error *error)
{
    struct plan_request request;
    struct plan *plan;
    for (uint32_t h = 1; h < count; h++) {
        const struct hardware *hardware = hosts[h].hardware;
        out[h] = (struct plan_host){.memory = hosts[h].memory,
                                    .compute_bytes_per_second = hardware->compute_bytes_per_second,
                                    .multiply_adds_per_second = hardware->multiply_adds_per_second,
                                    .drive_bytes_per_second = hardware->storage.bytes_per_second,
                                    .link_bytes_per_second = hosts[h].link_bytes_per_second,
                                    .link_seconds = hosts[h].link_seconds,
                                    .hardware = hardware};
        snprintf(out[h].name, sizeof out[h].name, "%s", hosts[h].name);
        if (h > 1 && hosts[h - 1].hardware == hardware && hosts[h - 1].memory == hosts[h].memory) {
            out[h].expert_room = out[h - 1].expert_room;
            continue;
        }
        TRY(plan_alone(&plan, &request, work, &hosts[h], options, error));
        out[h].expert_room = room_for_experts(plan, work->model, false);
        plan_free(plan);
    }
    return HYPURA_OK;
}

static hypura_status plan_all(struct plan_hosts *out, struct plan **first, struct plan_host *described,
                              struct hosts_work *work, const struct engine_host *hosts, uint32_t count,
                              const struct engine_options *options, hypura_error *error)
{
    struct plan_request request;
    TRY(plan_others(described, work, hosts, count, options, error));
    TRY(plan_alone(first, &request, work, &hosts[0], options, error));
    described[0] = (struct plan_host){.memory = hosts[0].memory,
                                      .expert_room = room_for_experts(*first, work->model, true),
                                      .link_bytes_per_second = hosts[0].link_bytes_per_second,
                                      .hardware = hosts[0].hardware};
    snprintf(described[0].name, sizeof described[0].name, "%s", hosts[0].name);
    return plan_hosts_make(out, *first, work->model, work->steps, hosts[0].hardware, &request, described, count, error);
}

hypura_status engine_plan_hosts(struct plan_hosts *out, struct plan **first, const struct model *model,
                                const struct engine_host *hosts, uint32_t count, const struct engine_options *options,
                                hypura_error *error)
{
    struct hosts_work work = {.model = model};
    struct plan_host *described = NULL;
    *first = NULL;
    hypura_status status = steps_make(&work.steps, model, error);
    if (!status)
        status = adapters_open(&work.adapters, model, work.steps, options->adapters, options->adapter_count, error);
    if (!status)
        status = ALLOCATE(&described, count, "hosts", error);
    if (!status)
        status = plan_all(out, first, described, &work, hosts, count, options, error);
    memory_free(described);
    adapters_close(work.adapters);
    steps_free(work.steps);
    if (status) {
        plan_free(*first);
        *first = NULL;
    }
    return status;
}
