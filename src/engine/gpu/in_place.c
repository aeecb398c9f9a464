/* Mixtures on a device that shares memory with the host: the GPU reads experts in the store's cache. The host reads the
 * router's choice, sends the experts in memory as one batch, and those that arrive from the drive as further ones.
 * Experts are held until the batch that reads them is done. */
#include "engine/gpu/pass.h"

#include <stdlib.h>
#include <string.h>

/* Slots of a table count in this many bytes. So 32 bits reach 64 GiB, and every kernel can read at these addresses. */
#define STEP 16u

/* Whether all experts begin at multiples of STEP in their files, and so in memory, and the device accepts host
 * memory. */
bool pass_can_read_in_place(struct gpu *gpu, const struct model *model)
{
    const struct gpu_info *info = gpu_get_info(gpu);
    struct gpu_buffer *buffer = NULL;
    uint64_t odd = 0;
    if (!info->unified || !info->host_import || info->import_alignment == 0)
        return false;
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        for (uint32_t s = 0; unit->kind == UNIT_EXPERT && s < unit->slice_count; s++)
            odd |= unit->slices[s].offset;
    }
    uint64_t bytes = align_up(memory_page_size(), info->import_alignment);
    void *page = odd % STEP == 0 ? aligned_alloc((size_t)bytes, (size_t)bytes) : NULL;
    bool takes = page && gpu_buffer_import(gpu, &buffer, page, bytes, NULL) == HYPURA_OK;
    gpu_buffer_destroy(gpu, buffer);
    free(page);
    return takes;
}

bool pass_reads_in_place(const struct batch *batch, uint32_t number)
{
    const struct plan_gpu *plan = batch->pass->plan;
    return plan->in_place && plan->layers[number] == GPU_CAN && store_reads_in_place(batch->open->store);
}

hypura_status pass_make_holds(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    for (size_t i = 0; pass->plan->in_place && i < COUNT_OF(pass->visits); i++)
        TRY(ALLOCATE(&pass->visits[i].held, model_parameters(batch->open->model)->experts, "experts in use", error));
    return HYPURA_OK;
}

void pass_free_holds(struct batch *batch)
{
    for (size_t i = 0; i < COUNT_OF(batch->pass->visits); i++)
        memory_free(batch->pass->visits[i].held);
}

/* Waits for the batch of a group, then releases its experts. Does so after an error, too: nothing reads the results
 * then. */
static hypura_status let_go(struct batch *batch, struct visit *visit, hypura_error *error)
{
    hypura_status status = visit->held_count ? gpu_wait(batch->pass->gpu, visit->used, error) : HYPURA_OK;
    for (uint32_t i = 0; i < visit->held_count; i++)
        store_put(batch->open->store, visit->held[i]);
    visit->held_count = 0;
    return status;
}

hypura_status pass_let_go(struct batch *batch, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    for (size_t i = 0; i < COUNT_OF(batch->pass->visits); i++) {
        hypura_status other = let_go(batch, &batch->pass->visits[i], status ? NULL : error);
        status = status ? status : other;
    }
    return status;
}

/* Lists the chosen experts of the layer, and returns their number. */
static uint32_t list_chosen(struct batch *batch, unit_number first_expert)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    struct scratch *s = &batch->scratch;
    uint32_t count = 0;
    memset(s->expert_first, 0, p->experts * sizeof *s->expert_first);
    for (size_t i = 0; i < batch->rows * p->experts_used; i++)
        s->expert_first[s->chosen[i]] = 1;
    for (uint32_t e = 0; e < p->experts; e++)
        if (s->expert_first[e])
            s->expert_units[count++] = first_expert + e;
    return count;
}

/* Holds another expert for a group. */
static hypura_status take(struct batch *batch, unit_number unit, struct visit *visit, struct gpu_range *ranges,
                          hypura_error *error)
{
    struct store_view view;
    TRY(store_get(batch->open->store, unit, &view, error));
    store_ranges(batch->open->store, unit, ranges);
    visit->held[visit->held_count++] = unit;
    for (uint32_t s = 0; s < model_unit(batch->open->model, unit)->slice_count; s++)
        if (!ranges[s].buffer)
            return error_set(error, HYPURA_ERROR_DEVICE, "an expert in memory is not where the GPU can read it");
    return HYPURA_OK;
}

static uint64_t address_of(struct gpu_range range)
{
    return gpu_buffer_address(range.buffer) + range.offset;
}

/* Fills in tables of the experts' places: for each slice, the distance from the lowest one. */
static hypura_status fill_tables(struct batch *batch, unit_number first_expert, struct visit *visit,
                                 struct gpu_range (*ranges)[UNIT_MAX_SLICES], struct store_slots *out,
                                 hypura_error *error)
{
    uint32_t experts = model_parameters(batch->open->model)->experts, *tables = visit->table.host;
    *out = (struct store_slots){.count = visit->held_count, .table = visit->table.range};
    memset(tables, 0xff, UNIT_MAX_SLICES * experts * sizeof *tables); /* GPU_NO_SLOT */
    for (uint32_t s = 0; s < model_unit(batch->open->model, first_expert)->slice_count; s++) {
        out->slices[s] = ranges[0][s];
        for (uint32_t i = 1; i < visit->held_count; i++)
            if (address_of(ranges[i][s]) < address_of(out->slices[s]))
                out->slices[s] = ranges[i][s];
        out->strides[s] = STEP;
        out->tables[s] = range_at(visit->table.range, (uint64_t)s * experts);
        for (uint32_t i = 0; i < visit->held_count; i++) {
            uint64_t steps = (address_of(ranges[i][s]) - address_of(out->slices[s])) / STEP;
            if (steps >= GPU_NO_SLOT)
                return error_set(error, HYPURA_ERROR_DEVICE, "experts in memory lie too far apart for the GPU");
            tables[s * experts + (visit->held[i] - first_expert)] = (uint32_t)steps;
        }
    }
    return HYPURA_OK;
}

/* Experts per group, so that the device has work while the next ones are looked up. */
#define MOST_A_GROUP 64u

/* Runs the experts that are in memory, or else the first one to arrive, as one batch. Takes them off the list. */
static hypura_status run_group(struct batch *batch, const struct step *step, unit_number *units, uint32_t *count,
                               hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    struct visit *visit = &pass->visits[pass->visit_turn++ % 2];
    struct gpu_range ranges[MOST_A_GROUP][UNIT_MAX_SLICES];
    struct store_slots slots;
    uint32_t left = 0;
    size_t first = SIZE_MAX;
    TRY(let_go(batch, visit, error));
    for (uint32_t i = 0; i < *count && first == SIZE_MAX; i++)
        first = store_ready(batch->open->store, units[i]) ? i : SIZE_MAX;
    if (first == SIZE_MAX) {
        /* Held experts could leave no room for the next one. */
        TRY(pass_let_go(batch, error));
        TRY(store_wait_any(batch->open->store, units, *count, 0, &first, error));
    }
    hypura_status status = HYPURA_OK;
    for (uint32_t i = 0; i < *count; i++) {
        bool now =
            !status && visit->held_count < MOST_A_GROUP && (i == first || store_ready(batch->open->store, units[i]));
        uint32_t held = visit->held_count;
        if (now)
            status = take(batch, units[i], visit, ranges[held], error);
        if (visit->held_count == held)
            units[left++] = units[i];
    }
    *count = left;
    visit->used = 0;
    if (!status)
        status = fill_tables(batch, step->experts.first, visit, ranges, &slots, error);
    if (status)
        return status;
    pass_record(pass);
    pass_run_experts(batch, step, &slots);
    status = pass_send(pass, error);
    visit->used = pass->last;
    return status;
}

hypura_status pass_in_place(struct batch *batch, const struct step *step, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    TRY(pass_send(pass, error)); /* what was recorded since the choice */
    TRY(pass_host_share(batch, error));
    TRY(gpu_wait(pass->gpu, pass->mixture.routed, error));
    TRY(pass_take_choices(batch, step, error));
    unit_number *units = batch->scratch.expert_units;
    uint32_t count = list_chosen(batch, step->experts.first);
    prefetch_check(batch, (uint32_t)step->layer);
    pass_tell_asked(batch, pass->asked.made);
    hypura_status status = store_want(batch->open->store, units, count, error);
    if (status)
        return status;
    status = prefetch_asked(batch, (uint32_t)step->layer, error);
    while (count > 0 && !status)
        status = run_group(batch, step, units, &count, error);
    if (status)
        store_forget(batch->open->store, units, count);
    pass_record(pass);
    return status;
}
