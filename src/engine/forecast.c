/* What a plan would make of prompts, without loading. */
#include "engine/gpu/pass.h"

hypura_status engine_forecast(struct plan **out, double *seconds, const uint32_t *prompts, size_t count,
                              const struct model *model, const struct hardware *hardware,
                              const struct engine_options *options, hypura_error *error)
{
    struct plan_request request;
    struct geometry geometry;
    struct plan *plan = NULL;
    struct devices devices;
    struct adapters *adapters = NULL;
    struct steps *steps = NULL;
    TRY(gpu_pass_open_devices(&devices, hardware, options, error));
    hypura_status status = steps_make(&steps, model, error);
    if (!status)
        status = adapters_open(&adapters, model, steps, options->adapters, options->adapter_count, error);
    if (!status)
        status = make_plan(&plan, &request, &geometry, model, steps, adapters, hardware, &devices, options, error);
    if (!status)
        status = plan_prompt_seconds(seconds, prompts, count, plan, model, steps, hardware, &request, error);
    adapters_close(adapters);
    steps_free(steps);
    gpu_pass_close_devices(&devices);
    if (status)
        plan_free(plan);
    else
        *out = plan;
    return status;
}
