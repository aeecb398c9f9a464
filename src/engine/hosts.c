/* Plans for several hosts, which need not exist: what each would hold, and how fast they would be together. */
#include "engine/cluster/part.h"

#include <stdio.h>

struct hosts_work {
    const struct model *model;
    struct steps *steps;
    struct adapters *adapters;
    struct geometry geometry;
    uint8_t *elsewhere; /* [unit_count] the units that a host with experts only leaves out */
};

/* Finds what a host has room for, as that host would plan it. Hosts other than the first hold only experts. */
static hypura_status describe(struct plan_host *out, struct plan **plan, struct plan_request *request,
                              struct hosts_work *work, const struct engine_host *host, bool first,
                              const struct engine_options *asked, hypura_error *error)
{
    const struct part_of part = {&work->geometry, work->model, work->steps, work->adapters, host->hardware, NULL};
    struct engine_options options = *asked;
    options.budget = host->memory;
    options.threads = 0;
    options.experts_only = !first;
    options.elsewhere = first ? NULL : work->elsewhere;
    hypura_status status = part_room(out, NULL, plan, request, &part, &options, error);
    if (status && error) {
        hypura_error why = *error;
        return error_set(error, status, "%s: %s", host->name, why.message);
    }
    out->link_bytes_per_second = host->link_bytes_per_second;
    out->link_seconds = host->link_seconds;
    out->hardware = host->hardware;
    snprintf(out->name, sizeof out->name, "%s", host->name);
    return status;
}

static hypura_status describe_others(struct plan_host *out, struct hosts_work *work, const struct engine_host *hosts,
                                     uint32_t count, const struct engine_options *options, hypura_error *error)
{
    struct plan_request request;
    struct plan *plan;
    part_elsewhere(work->elsewhere, work->model, work->steps, NULL, 0);
    for (uint32_t h = 1; h < count; h++) {
        if (h > 1 && hosts[h - 1].hardware == hosts[h].hardware && hosts[h - 1].memory == hosts[h].memory &&
            hosts[h - 1].link_bytes_per_second == hosts[h].link_bytes_per_second &&
            hosts[h - 1].link_seconds == hosts[h].link_seconds) {
            out[h] = out[h - 1];
            snprintf(out[h].name, sizeof out[h].name, "%s", hosts[h].name);
            continue;
        }
        TRY(describe(&out[h], &plan, &request, work, &hosts[h], false, options, error));
        plan_free(plan);
    }
    return HYPURA_OK;
}

static hypura_status plan_all(struct plan_hosts *out, struct plan **first, struct plan_host *described,
                              struct hosts_work *work, const struct engine_host *hosts, uint32_t count,
                              const struct engine_options *options, hypura_error *error)
{
    struct plan_request request;
    TRY(describe_others(described, work, hosts, count, options, error));
    TRY(describe(&described[0], first, &request, work, &hosts[0], true, options, error));
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
        status = ALLOCATE(&work.elsewhere, model_unit_count(model), "hosts", error);
    if (!status)
        status = plan_all(out, first, described, &work, hosts, count, options, error);
    memory_free(described);
    memory_free(work.elsewhere);
    adapters_close(work.adapters);
    steps_free(work.steps);
    if (status) {
        plan_free(*first);
        *first = NULL;
    }
    return status;
}
