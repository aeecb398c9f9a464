#include "engine/gpu/pass.h"

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

/* Copies a small tensor to the host, since the CPU needs it for experts in RAM. */
static hypura_status copy_vector(struct batch *batch, unit_number unit, hypura_error *error)
{
    if (unit == NO_UNIT)
        return HYPURA_OK;
    const struct unit *what = model_unit(batch->open->model, unit);
    float **out = &batch->pass->host_vectors[unit];
    TRY(ALLOCATE(out, (size_t)(what->bytes / sizeof **out), "biases of experts", error));
    return store_read(batch->open->store, unit, 0, what->bytes, *out, error);
}

/* Copies the norm that the prediction block shares with the output, since the CPU computes the block. */
static hypura_status copy_predicting(struct batch *batch, hypura_error *error)
{
    enum step_buffer left;
    const struct step_list list = steps_predicting(batch->open->steps, &left);
    for (size_t i = 0; i < list.count; i++) {
        const struct step *step = &list.steps[i];
        if (step->kind == STEP_NORM && step->norm.weight != NO_UNIT && batch->pass->plan->units[step->norm.weight])
            TRY(copy_vector(batch, step->norm.weight, error));
    }
    return HYPURA_OK;
}

static hypura_status find_units(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const bool routes = !batch->open->geometry.experts_only;
    uint32_t count = model_unit_count(batch->open->model), layers = model_parameters(batch->open->model)->layers;
    TRY(ALLOCATE(&pass->units, count, "table of units on the GPU", error));
    TRY(ALLOCATE(&pass->host_vectors, count, "table of units on the GPU", error));
    TRY(ALLOCATE(&pass->slots, layers, "table of experts on the GPU", error));
    TRY(ALLOCATE(&pass->there, model_parameters(batch->open->model)->experts, "table of experts on the GPU", error));
    for (unit_number u = 0; u < count; u++) {
        struct store_view view;
        struct gpu_range ranges[UNIT_MAX_SLICES];
        if (!pass->plan->units[u] || model_unit(batch->open->model, u)->kind == UNIT_EXPERT)
            continue;
        TRY(store_get(batch->open->store, u, &view, error));
        store_ranges(batch->open->store, u, ranges);
        pass->units[u] = ranges[0];
        store_put(batch->open->store, u);
    }
    for (uint32_t i = 0; i < layers; i++) {
        const struct step *step = steps_find(steps_of_layer(batch->open->steps, i), STEP_EXPERTS);
        store_slots(batch->open->store, pass->number, i, &pass->slots[i]);
        if (!pass->plan->layers[i] || !step || pass->slots[i].count == model_parameters(batch->open->model)->experts)
            continue;
        pass_stay_awake(batch);
        if (routes)
            TRY(copy_vector(batch, steps_find(steps_of_layer(batch->open->steps, i), STEP_ROUTE)->route.selection_bias,
                            error));
        TRY(copy_vector(batch, step->experts.gate_bias, error));
        TRY(copy_vector(batch, step->experts.up_bias, error));
        TRY(copy_vector(batch, step->experts.down_bias, error));
        TRY(copy_vector(batch, step->experts.gate_scale, error));
        if (step->experts.up_scale != step->experts.gate_scale)
            TRY(copy_vector(batch, step->experts.up_scale, error));
        TRY(copy_vector(batch, step->experts.down_scale, error));
    }
    return routes ? copy_predicting(batch, error) : HYPURA_OK;
}

static uint64_t elements_of(const struct batch *batch, unit_number unit)
{
    uint64_t elements = 0;
    for (uint32_t i = 0; unit != NO_UNIT && i < model_unit(batch->open->model, unit)->slice_count; i++) {
        const struct gguf_tensor *tensor = model_unit(batch->open->model, unit)->slices[i].tensor;
        elements += tensor->dimensions[0] * tensor->dimensions[1];
    }
    return elements;
}

/* The multiply-adds per row of the largest layer. */
static double layer_work(const struct batch *batch)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    uint64_t most = 0;
    for (uint32_t i = 0; i < p->layers; i++) {
        struct step_list list = steps_of_layer(batch->open->steps, i);
        const struct step *experts = steps_find(list, STEP_EXPERTS);
        uint64_t work = experts ? experts->experts.used * elements_of(batch, experts->experts.first) : 0;
        for (size_t s = 0; s < list.count; s++) {
            struct step_unit units[STEP_UNITS];
            size_t count = step_units(&list.steps[s], units);
            for (size_t u = 0; u < count; u++)
                work += elements_of(batch, units[u].unit);
        }
        most = MAX(most, work);
    }
    return (double)most;
}

static hypura_status open_pass(struct batch *batch, uint32_t number, hypura_error *error)
{
    struct gpu_pass *pass;
    TRY(ALLOCATE(&pass, 1, "GPU pass", error));
    batch->pass = batch->passes[number] = pass;
    pass->gpu = batch->open->devices.gpus[number];
    pass->number = number;
    pass->device = &batch->open->devices.infos[number];
    pass->plan = &batch->open->plan->gpu->parts[number];
    pass->halves = gpu_get_info(pass->gpu)->cooperative_matrix;
    pass->layer_work = layer_work(batch);
    TRY(find_units(batch, error));
    if (batch->open->geometry.experts_only) {
        TRY(pass_make_buffers(batch, error));
        return pass_try_experts(batch, error);
    }
    TRY(pass_make_lists(batch, error));
    pass->ahead.possible = pass_devices_do_all(batch);
    pass_import_rows(batch);
    TRY(pass_make_buffers(batch, error));
    TRY(pass_copy_output(batch, error));
    TRY(pass_open_kept(batch, error));
    return pass_try(batch, error);
}

hypura_status gpu_pass_open(struct batch *batch, hypura_error *error)
{
    const struct plan_gpu *plan = batch->open->plan->gpu;
    if (!batch->open->geometry.experts_only)
        pass_share_rows(batch);
    for (uint32_t d = 0; d < plan->part_count; d++)
        if (plan->parts[d].taken || plan->parts[d].output)
            TRY(open_pass(batch, d, error));
    return HYPURA_OK;
}

bool gpu_pass_failed(const struct batch *batch, uint32_t *number)
{
    const struct devices *devices = &batch->open->devices;
    if (batch->pass)
        *number = batch->pass->number; /* it was being opened */
    bool found = batch->pass;
    for (uint32_t d = 0; d < devices->count && !found; d++)
        if ((found = gpu_is_lost(devices->gpus[d])))
            *number = d;
    return found;
}

uint32_t gpu_pass_statistics(const struct batch *batch, struct engine_device *out)
{
    const uint64_t used = atomic_load(&batch->counters->pool_blocks);
    uint32_t count = 0;
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++) {
        const struct gpu_pass *pass = batch->passes[d];
        if (pass)
            out[count++] = (struct engine_device){
                .name = pass->device->info.name,
                .layers = pass->plan->taken,
                .bytes = pass->plan->resident_bytes + pass->plan->copied_bytes + pass->plan->expert_bytes,
                .kv_bytes = pass->cache_bytes,
                .kv_used_bytes = pass->cache_bytes - pass->pool_bytes + used * pass->block_bytes,
                .busy_seconds = (double)gpu_busy_nanoseconds(pass->gpu) * 1e-9};
    }
    return count;
}

static void close_pass(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    pass_free_holds(batch);
    gpu_drop(pass->gpu);
    struct gpu_buffer *buffers[] = {pass->scratch, pass->upload, pass->readback, pass->handed_rows, pass->output_copy};
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        if (buffers[i])
            gpu_buffer_destroy(pass->gpu, buffers[i]);
    for (size_t i = 0; i < COUNT_OF(pass->visits); i++)
        for (size_t s = 0; s < UNIT_MAX_SLICES && !pass->lent; s++)
            if (pass->visits[i].slices[s].buffer)
                gpu_buffer_destroy(pass->gpu, pass->visits[i].slices[s].buffer);
    pass_close_adapters(pass);
    pass_close_kept(batch);
    for (uint32_t i = 0; pass->caches && i < batch->kv.layer_count; i++)
        if (pass->caches[i])
            gpu_buffer_destroy(pass->gpu, pass->caches[i]);
    for (unit_number u = 0; pass->host_vectors && u < model_unit_count(batch->open->model); u++)
        memory_free(pass->host_vectors[u]);
    pass_free_lists(pass);
    memory_free(pass->host_vectors);
    memory_free(pass->units);
    memory_free(pass->slots);
    memory_free(pass->there);
    memory_free(pass->known_blocks);
    memory_free(pass->caches);
    memory_free(pass);
}

void gpu_pass_close(struct batch *batch)
{
    for (size_t d = 0; d < COUNT_OF(batch->passes); d++) {
        batch->pass = batch->passes[d];
        if (batch->pass)
            close_pass(batch);
        batch->passes[d] = NULL;
    }
    batch->pass = NULL;
    pass_unshare_rows(batch);
}
