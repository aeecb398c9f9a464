/* Prompts on a model with experts on both sides. A long batch uses nearly every expert many times, so copying an expert
 * to the GPU can take less time than computing its rows on the CPU. Experts are copied in groups, to two buffers in
 * turn: while the GPU computes one group, the next is copied. What is in memory is copied before what the drive still
 * reads. */
#include "engine/gpu/pass.h"

#include <string.h>

bool pass_should_visit(const struct batch *batch, uint32_t number)
{
    const struct gpu_pass *pass = batch->pass;
    const struct step *experts = steps_find(steps_of_layer(batch->open->steps, number), STEP_EXPERTS);
    if (!experts || pass->plan->layers[number] != GPU_CAN || pass->plan->visit_slots == 0 ||
        batch->rows <= GPU_VECTOR_TOKENS || (pass->lent && pass->is_short) || batch->trace)
        return false;
    uint32_t missing = model_parameters(batch->open->model)->experts - pass_experts_there(batch, number);
    struct plan_visit visit =
        plan_gpu_visit(batch->open->model, experts->experts.first, missing, pass->plan->visit_slots, batch->rows,
                       &batch->open->hardware, pass->device);
    return visit.many && visit.upload_seconds < visit.here_seconds;
}

hypura_status pass_make_visits(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct unit *largest[UNIT_MAX_SLICES] = {0};
    uint64_t lent = 0;
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
            const uint64_t bytes = pass->visits[b].strides[s] * pass->plan->visit_slots;
            if (pass->lent)
                pass->visits[b].slices[s] = (struct gpu_range){pass->lent, lent};
            else
                TRY(gpu_buffer_create(pass->gpu, &pass->visits[b].slices[s].buffer, bytes, GPU_DEVICE, error));
            lent += bytes;
        }
    return HYPURA_OK;
}

/* Experts that are uploaded together, and held meanwhile. */
#define MOST_AT_ONCE 64u

struct group {
    struct batch *batch;
    struct visit *visit;
    unit_number first_expert;
    uint32_t count, most; /* experts */
};

/* Uploads experts to the next slots. */
static hypura_status upload(struct group *group, const unit_number *units, const struct store_view *views,
                            uint32_t count, hypura_error *error)
{
    struct gpu_pass *pass = group->batch->pass;
    struct visit *visit = group->visit;
    struct gpu_piece pieces[MOST_AT_ONCE * UNIT_MAX_SLICES];
    uint32_t *table = visit->table.host;
    size_t piece = 0;
    for (uint32_t i = 0; i < count; i++) {
        const struct unit *unit = model_unit(group->batch->open->model, units[i]);
        for (uint32_t s = 0; s < unit->slice_count; s++)
            pieces[piece++] = (struct gpu_piece){
                .to = {visit->slices[s].buffer, visit->slices[s].offset + group->count * visit->strides[s]},
                .host = views[i].slices[s],
                .bytes = unit->slices[s].bytes};
        table[units[i] - group->first_expert] = group->count++;
    }
    return gpu_upload_many(pass->gpu, pieces, piece, &pass->wait_upload, error);
}

/* Brings those of the units that are in memory, as far as there is room. Takes them off the list. */
static hypura_status bring_present(struct group *group, unit_number *units, uint32_t *count, hypura_error *error)
{
    struct store *store = group->batch->open->store;
    struct store_view views[MOST_AT_ONCE];
    unit_number taken[MOST_AT_ONCE];
    const uint32_t most = MIN(group->most - group->count, MOST_AT_ONCE);
    uint32_t left = 0, there = 0;
    hypura_status status = HYPURA_OK;
    for (uint32_t i = 0; i < *count; i++) {
        bool now = !status && there < most && store_ready(store, units[i]);
        if (now)
            status = store_get(store, units[i], &views[there], error);
        if (now && !status)
            taken[there++] = units[i];
        else
            units[left++] = units[i];
    }
    *count = left;
    if (!status && there > 0)
        status = upload(group, taken, views, there, error);
    for (uint32_t i = 0; i < there; i++)
        store_put(store, taken[i]);
    return status;
}

/* What still comes from the drive does not hold up what is there. */
static hypura_status fill(struct group *group, unit_number *units, uint32_t *count, hypura_error *error)
{
    while (group->count < group->most) {
        const uint32_t before = group->count;
        size_t first;
        TRY(bring_present(group, units, count, error));
        if (group->count == before)
            TRY(store_wait_any(group->batch->open->store, units, *count, 0, &first, error));
    }
    return HYPURA_OK;
}

/* Brings some of the units and has them computed. Takes them off the list. */
static hypura_status run_group(struct batch *batch, const struct step *step, unit_number *units, uint32_t *count,
                               uint32_t most, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    struct visit *visit = &pass->visits[pass->visit_turn++ % 2];
    struct group group = {batch, visit, step->experts.first, 0, MIN(most, *count)};
    struct store_slots slots = {.count = group.most, .table = visit->table.range};
    TRY(gpu_wait(pass->gpu, visit->used, error));
    memset(visit->table.host, 0xff, model_parameters(batch->open->model)->experts * sizeof(uint32_t)); /* GPU_NO_SLOT */
    TRY(fill(&group, units, count, error));
    for (uint32_t s = 0; s < UNIT_MAX_SLICES; s++) {
        slots.slices[s] = visit->slices[s];
        slots.strides[s] = visit->strides[s];
    }
    pass_record(pass);
    pass_run_experts(batch, step, &slots);
    TRY(pass_send(pass, error));
    visit->used = pass->last;
    return HYPURA_OK;
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
    TRY(store_want(batch->open->store, units, missing, error));
    prefetch_prompt(batch, (uint32_t)step->layer);
    /* A small last group would be uploaded before the device is done with the one before it. */
    const uint32_t groups = plan_visit_groups(missing, pass->plan->visit_slots), most = (missing + groups - 1) / groups;
    hypura_status status = HYPURA_OK;
    while (missing > 0 && !status)
        status = run_group(batch, step, units, &missing, most, error);
    if (status)
        store_forget(batch->open->store, units, missing);
    pass_record(pass);
    return status;
}
