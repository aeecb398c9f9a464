/* The CPU's share of a layer's experts: it computes those in memory while the device computes its own. So do other
 * hosts with theirs; their rows come back together with the CPU's. */
#include "engine/cluster/share.h"
#include "engine/gpu/pass.h"

#include <string.h>

void pass_stay_awake(struct batch *batch)
{
    const struct plan *plan = batch->open->plan;
    /* Threads that read from the drive would need the cores. */
    if (plan->mode == PLAN_FULL_RESIDENT && !batch->pass->plan->in_place)
        thread_pool_spin(compute_pool(batch->compute), GPU_SHARE_SPIN_NANOSECONDS);
}

static bool any_in_memory(const struct batch *batch, size_t choices)
{
    for (size_t i = 0; i < choices; i++)
        if (!batch->pass->there[batch->scratch.chosen[i]])
            return true;
    return false;
}

void pass_note_uses(struct batch *batch, unit_number first_expert, size_t choices)
{
    const uint8_t *elsewhere = batch->open->plan->elsewhere;
    unit_number units[64];
    size_t count = 0;
    for (size_t i = 0; i < choices; i++) {
        const unit_number unit = first_expert + batch->scratch.chosen[i];
        if (!elsewhere || !elsewhere[unit])
            units[count++] = unit;
        if (count == COUNT_OF(units) || i + 1 == choices) {
            store_note_uses(batch->open->store, units, count);
            count = 0;
        }
    }
}

hypura_status pass_take_choices(struct batch *batch, const struct step *experts, hypura_error *error)
{
    const uint32_t number = (uint32_t)experts->layer;
    const struct gpu_pass *pass = batch->pass;
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    size_t choices = batch->rows * p->experts_used;
    memcpy(s->chosen, pass->back_parts.chosen.host, choices * sizeof *s->chosen);
    memcpy(s->chosen_weights, pass->back_parts.weights.host, choices * sizeof *s->chosen_weights);
    for (size_t i = 0; i < choices; i++)
        if (s->chosen[i] >= p->experts)
            return error_set(error, HYPURA_ERROR_DEVICE, "the GPU chose expert %u of %u in layer %u", s->chosen[i],
                             p->experts, number);
    if (batch->trace)
        TRY(trace_writer_layer(batch->trace, number, s->chosen, error));
    pass_note_uses(batch, experts->experts.first, choices);
    return HYPURA_OK;
}

void pass_tell_asked(struct batch *batch, uint32_t made)
{
    for (uint32_t i = 0; i < PREFETCH_ASKED; i++)
        batch->prefetcher.said[i] = made >> i & 1 ? batch->pass->asked.back[i].host : NULL;
}

static hypura_status compute_share(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step *experts = pass->host_share.experts;
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    size_t choices = batch->rows * p->experts_used, width = experts->experts.columns;
    TRY(gpu_wait(pass->gpu, pass->host_share.routed, error));
    TRY(pass_take_choices(batch, experts, error));
    store_on_device(batch->open->store, experts->experts.first, p->experts, pass->there);
    prefetch_check(batch, (uint32_t)experts->layer);
    pass_tell_asked(batch, pass->host_share.said);
    if (!any_in_memory(batch, choices))
        return prefetch_asked(batch, (uint32_t)experts->layer, error);
    memcpy(s->buffers[experts->experts.in], pass->back_parts.normed.host, batch->rows * width * sizeof(float));
    forget_inputs(batch, 1u << experts->experts.in);
    if (batch->share)
        TRY(share_send(batch, experts, error));
    TRY(run_chosen_experts(batch, experts, pass->there, error));
    float *rows = pass->up_parts.expert_rows.host;
    for (size_t i = 0; i < choices; i++)
        if (!pass->there[s->chosen[i]])
            memcpy(rows + i * width, s->expert_out + i * width, width * sizeof *rows);
    return HYPURA_OK;
}

hypura_status pass_host_share(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    if (!pass->host_share.waiting)
        return HYPURA_OK;
    TRY(compute_share(batch, error));
    TRY(gpu_signal_host(pass->gpu, pass->host_share.value, error));
    pass->host_share.waiting = false;
    return HYPURA_OK;
}
