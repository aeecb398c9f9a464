/* Prompts on a model with experts on both sides. A long batch uses nearly every expert many times, so copying an expert
 * to the GPU can take less time than computing its rows on the CPU. Experts are copied in groups, to two buffers in
 * turn: while the GPU computes one group, the next is copied. */
#include "engine/gpu/pass.h"

#include <string.h>

bool pass_should_visit(const struct batch *batch, uint32_t number)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step *experts = steps_find(steps_of_layer(batch->open->steps, number), STEP_EXPERTS);
    if (!experts || pass->plan->layers[number] != GPU_CAN || pass->plan->visit_slots == 0 ||
        batch->rows <= GPU_VECTOR_TOKENS || batch->trace)
        return false;
    uint32_t missing = model_parameters(batch->open->model)->experts - pass->slots[number].count;
    struct plan_visit visit =
        plan_gpu_visit(batch->open->model, experts->experts.first, missing, pass->plan->visit_slots, batch->rows,
                       &batch->open->hardware, pass->device);
    return visit.many && visit.upload_seconds < visit.here_seconds;
}

hypura_status pass_make_visits(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct unit *largest[UNIT_MAX_SLICES] = {0};
    if (pass->plan->visit_slots == 0)
        return HYPURA_OK;
    for (uint32_t i = 0; i < pass->plan->layer_count; i++) {
        const struct step *experts = steps_find(steps_of_layer(batch->open->steps, i), STEP_EXPERTS);
        bool may = experts && pass->plan->layers[i] == GPU_CAN;
        const struct unit *unit = may ? model_unit(batch->open->model, experts->experts.first) : NULL;
        for (uint32_t s = 0; unit && s < unit->slice_count; s++)
            if (!largest[s] || unit->slices[s].bytes > largest[s]->slices[s].bytes)
                largest[s] = unit;
    }
    for (int b = 0; b < 2; b++)
        for (uint32_t s = 0; s < UNIT_MAX_SLICES && largest[s]; s++) {
            pass->visits[b].strides[s] = align_up(largest[s]->slices[s].bytes, GPU_ALIGNMENT);
            TRY(gpu_buffer_create(pass->gpu, &pass->visits[b].buffers[s],
                                  pass->visits[b].strides[s] * pass->plan->visit_slots, GPU_DEVICE, error));
        }
    return HYPURA_OK;
}

static hypura_status bring(struct batch *batch, const unit_number *units, uint32_t count, struct visit *visit,
                           hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    uint32_t brought = 0;
    hypura_status status = store_want(batch->open->store, units, count, error);
    if (status)
        return status;
    for (; brought < count && !status; brought += !status) {
        struct store_view view;
        const struct unit *unit = model_unit(batch->open->model, units[brought]);
        status = store_get(batch->open->store, units[brought], &view, error);
        if (status)
            break;
        for (uint32_t s = 0; s < unit->slice_count && !status; s++)
            status = gpu_upload(pass->gpu, (struct gpu_range){visit->buffers[s], brought * visit->strides[s]},
                                view.slices[s], unit->slices[s].bytes, &pass->wait_upload, error);
        store_put(batch->open->store, units[brought]);
    }
    if (status)
        store_forget(batch->open->store, units + brought, count - brought);
    return status;
}

hypura_status pass_visit(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const unit_number first_expert = step->experts.first;
    const struct model_parameters *p = model_parameters(batch->open->model);
    unit_number *units = batch->scratch.expert_units;
    uint32_t missing = 0;
    /* The CPU's share of the layer before uses the same lists of experts. */
    TRY(pass_send(pass, error));
    TRY(pass_host_share(batch, error));
    store_on_device(batch->open->store, first_expert, p->experts, pass->there);
    for (uint32_t e = 0; e < p->experts; e++)
        if (!pass->there[e])
            units[missing++] = first_expert + e;
    prefetch_prompt(batch, (uint32_t)step->layer);
    for (uint32_t first = 0, count; first < missing; first += count) {
        struct visit *visit = &pass->visits[pass->visit_turn++ % 2];
        count = MIN(missing - first, pass->plan->visit_slots);
        TRY(gpu_wait(pass->gpu, visit->used, error));
        TRY(bring(batch, units + first, count, visit, error));
        uint32_t *table = visit->table.host;
        memset(table, 0xff, p->experts * sizeof *table); /* GPU_NO_SLOT */
        struct store_slots slots = {.count = count, .table = visit->table.range};
        for (uint32_t i = 0; i < count; i++)
            table[units[first + i] - first_expert] = i;
        for (uint32_t s = 0; s < UNIT_MAX_SLICES; s++) {
            slots.slices[s].buffer = visit->buffers[s];
            slots.strides[s] = visit->strides[s];
        }
        pass_record(pass);
        pass_run_experts(batch, step, &slots);
        TRY(pass_send(pass, error));
        visit->used = pass->last;
    }
    pass_record(pass);
    return HYPURA_OK;
}
