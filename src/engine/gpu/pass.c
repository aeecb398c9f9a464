#include "engine/gpu/pass.h"

#include <string.h>

/* Layers that one batch of commands holds at most: the device starts on it while the next is recorded. Drivers reset a
 * device that takes some seconds for a batch, so of a long prompt on a slow one it holds fewer. */
#define LAYERS_A_BATCH 4u
#define BATCH_SECONDS 1.0

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

/* Biases of experts: the CPU needs them for those that are in RAM. */
static hypura_status copy_vector(struct batch *batch, unit_number unit, hypura_error *error)
{
    if (unit == NO_UNIT)
        return HYPURA_OK;
    const struct unit *what = model_unit(batch->open->model, unit);
    float **out = &batch->pass->host_vectors[unit];
    TRY(ALLOCATE(out, (size_t)(what->bytes / sizeof **out), "biases of experts", error));
    return store_read(batch->open->store, unit, 0, what->bytes, *out, error);
}

static hypura_status find_units(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
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
        store_slots(batch->open->store, i, &pass->slots[i]);
        if (!pass->plan->layers[i] || !step || pass->slots[i].count == model_parameters(batch->open->model)->experts)
            continue;
        TRY(copy_vector(batch, step->experts.gate_bias, error));
        TRY(copy_vector(batch, step->experts.up_bias, error));
        TRY(copy_vector(batch, step->experts.down_bias, error));
    }
    return HYPURA_OK;
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

/* What the matrices of the greatest layer multiply and add for a row. */
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

/* ---- lists ---------------------------------------------------------------------------------------------------------
 */

/* Neighbouring layers are rewritten together, so that one ends with the norm that the next begins with. */
static hypura_status make_run(struct batch *batch, struct device_list *lists, bool few, uint32_t first, uint32_t count,
                              hypura_error *error)
{
    const struct plan_gpu *plan = batch->pass->plan;
    struct step_list all = steps_of_layer(batch->open->steps, first), out = {0}, *part;
    struct step *steps;
    for (uint32_t i = 1; i < count; i++)
        all.count += steps_of_layer(batch->open->steps, first + i).count;
    if (first + count == plan->layer_count && plan->output)
        all.count += steps_after(batch->open->steps).count;
    TRY(steps_fuse(all, few, &steps, &out.count, error));
    lists->runs[lists->run_count++] = steps;
    for (size_t i = 0; i < out.count; i++) {
        part = steps[i].layer < 0 ? &lists->after : &lists->layers[steps[i].layer];
        if (part->count++ == 0)
            part->steps = &steps[i];
    }
    return HYPURA_OK;
}

static hypura_status make_lists(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    uint32_t layers = pass->plan->layer_count;
    for (int few = 0; few < 2; few++) {
        struct device_list *lists = &pass->lists[few];
        TRY(ALLOCATE(&lists->runs, layers, "lists of steps", error));
        TRY(ALLOCATE(&lists->layers, layers, "lists of steps", error));
        for (uint32_t i = 0, count; i < layers; i += MAX(count, 1u)) {
            for (count = 0; i + count < layers && pass->plan->layers[i + count];)
                count++;
            if (count)
                TRY(make_run(batch, lists, few, i, count, error));
        }
    }
    return HYPURA_OK;
}

static void free_lists(struct gpu_pass *pass)
{
    for (size_t few = 0; few < COUNT_OF(pass->lists); few++) {
        struct device_list *lists = &pass->lists[few];
        for (uint32_t i = 0; i < lists->run_count; i++)
            memory_free(lists->runs[i]);
        memory_free(lists->runs);
        memory_free(lists->layers);
    }
}

struct step_list pass_steps(const struct batch *batch, uint32_t layer)
{
    return batch->pass->lists[batch->rows <= GPU_VECTOR_TOKENS].layers[layer];
}

struct step_list pass_steps_after(const struct batch *batch)
{
    return batch->pass->lists[batch->rows <= GPU_VECTOR_TOKENS].after;
}

hypura_status gpu_pass_open(struct batch *batch, struct gpu *gpu, hypura_error *error)
{
    TRY(ALLOCATE(&batch->pass, 1, "GPU pass", error));
    batch->pass->gpu = gpu;
    batch->pass->plan = batch->open->plan->gpu;
    batch->pass->layer_work = layer_work(batch);
    TRY(find_units(batch, error));
    TRY(make_lists(batch, error));
    batch->pass->ahead.possible = pass_can_record_ahead(batch);
    TRY(pass_make_buffers(batch, error));
    return pass_try(batch, error);
}

void gpu_pass_close(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    if (!pass)
        return;
    pass_free_holds(batch);
    gpu_drop(pass->gpu);
    struct gpu_buffer *buffers[] = {pass->scratch, pass->upload, pass->readback};
    for (size_t i = 0; i < COUNT_OF(buffers); i++)
        if (buffers[i])
            gpu_buffer_destroy(pass->gpu, buffers[i]);
    for (size_t i = 0; i < COUNT_OF(pass->visits); i++)
        for (size_t s = 0; s < UNIT_MAX_SLICES; s++)
            if (pass->visits[i].buffers[s])
                gpu_buffer_destroy(pass->gpu, pass->visits[i].buffers[s]);
    pass_close_adapters(pass);
    for (uint32_t i = 0; pass->caches && i < batch->kv.layer_count; i++)
        if (pass->caches[i])
            gpu_buffer_destroy(pass->gpu, pass->caches[i]);
    for (unit_number u = 0; pass->host_vectors && u < model_unit_count(batch->open->model); u++)
        memory_free(pass->host_vectors[u]);
    free_lists(pass);
    memory_free(pass->host_vectors);
    memory_free(pass->units);
    memory_free(pass->slots);
    memory_free(pass->there);
    memory_free(pass->caches);
    memory_free(pass);
    batch->pass = NULL;
}

/* ---- looking things up --------------------------------------------------------------------------------------------
 */

bool gpu_pass_has(const struct batch *batch, uint32_t layer)
{
    return batch->pass && batch->pass->plan->layers[layer];
}

const float *gpu_pass_host_vector(const struct batch *batch, unit_number unit)
{
    return batch->pass ? batch->pass->host_vectors[unit] : NULL;
}

struct gpu_range pass_vector(const struct batch *batch, unit_number unit)
{
    return unit == NO_UNIT ? (struct gpu_range){0} : batch->pass->units[unit];
}

struct gpu_matrix pass_matrix(const struct batch *batch, unit_number unit)
{
    const struct gguf_tensor *tensor = model_unit(batch->open->model, unit)->slices[0].tensor;
    struct matrix matrix =
        matrix_at(NULL, tensor->type, tensor->dimensions[0], tensor->dimensions[1] * tensor->dimensions[2]);
    return (struct gpu_matrix){.data = batch->pass->units[unit],
                               .type = matrix.type,
                               .rows = (uint32_t)matrix.rows,
                               .columns = (uint32_t)matrix.columns,
                               .row_bytes = matrix.row_bytes};
}

/* ---- batches of commands ------------------------------------------------------------------------------------------
 */

void pass_record(struct gpu_pass *pass)
{
    if (!pass->open)
        gpu_begin(pass->gpu);
    pass->open = true;
}

hypura_status pass_send(struct gpu_pass *pass, hypura_error *error)
{
    if (!pass->open)
        return HYPURA_OK;
    hypura_status status = gpu_submit(pass->gpu, &pass->last, pass->wait_value, pass->wait_upload, error);
    pass->open = false;
    pass->wait_value = 0;
    pass->wait_upload = 0;
    pass->recorded = 0;
    pass->pending_reads = pass->pending_writes = 0; /* batches see what those before them wrote */
    pass->sent++;
    return status;
}

hypura_status pass_finish(struct batch *batch, hypura_error *error)
{
    TRY(pass_send(batch->pass, error));
    TRY(pass_host_share(batch, error));
    TRY(gpu_wait(batch->pass->gpu, batch->pass->last, error));
    return pass_let_go(batch, error);
}

void gpu_pass_begin(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    if (!pass)
        return;
    pass->sent = 0;
    pass->latent.grouped = 0;
    memset(pass->state, 0, sizeof pass->state); /* ROWS_FLOATS */
    pass->on_device = pass->inputs_sent = pass->hidden_on_device = false;
    pass_expect(batch);
    pass->ahead.begun = clock_nanoseconds();
}

/* Batches that wait for the CPU would wait for ever. */
void gpu_pass_abandon(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    if (!pass)
        return;
    if (pass->open) {
        /* What was recorded may run at once: nobody reads what it writes. */
        pass->wait_value = 0;
        pass_send(pass, NULL);
    }
    if (pass->host_share.waiting) {
        gpu_signal_host(pass->gpu, pass->host_share.value, NULL);
        pass->host_share.waiting = false;
    }
    /* Commands recorded ahead that were taken for this batch and not sent: the next ones would be added to them. */
    gpu_drop(pass->gpu);
    pass->ahead.ready = false;
    gpu_wait(pass->gpu, pass->last, NULL);
    gpu_upload_wait(pass->gpu, pass->wait_upload, NULL);
    pass->wait_upload = 0;
    pass_let_go(batch, NULL);
}

/* ---- the way there and back ----------------------------------------------------------------------------------------
 */

static void fill_scales(const struct batch *batch, float *out)
{
    const struct model_parameters *p = model_parameters(batch->open->model);
    for (size_t r = 0; r < batch->rows; r++) {
        out[r] = query_sharpness(p, batch->scratch.positions[r]);
    }
}

/* Whether the commands of the batch at hand are there, so that only what they read is to be filled in. */
static bool runs_ahead(const struct gpu_pass *pass)
{
    return pass->ahead.used && !pass->ahead.recording;
}

static void send_part(struct gpu_pass *pass, struct gpu_range to, const struct shared_part *from, const void *bytes,
                      size_t count)
{
    if (count == 0)
        return;
    if (!pass->ahead.recording)
        memcpy(from->host, bytes, count);
    if (!runs_ahead(pass))
        gpu_copy(pass->gpu, to, from->range, count);
}

/* What depends on the positions of the batch. */
static void send_inputs(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    const struct model_parameters *p = model_parameters(batch->open->model);
    const struct scratch *s = &batch->scratch;
    if (pass->inputs_sent)
        return;
    send_part(pass, pass->rope[0], &pass->up_parts.rope[0], s->rope[0], batch->rows * p->rotary * sizeof(float));
    if (batch->open->rope_local.half)
        send_part(pass, pass->rope[1], &pass->up_parts.rope[1], s->rope[1],
                  batch->rows * p->rotary_local * sizeof(float));
    if (p->attention_temperature_scale != 0.0f) {
        if (!pass->ahead.recording)
            fill_scales(batch, pass->up_parts.scales.host);
        if (!runs_ahead(pass))
            gpu_copy(pass->gpu, pass->scales, pass->up_parts.scales.range, batch->rows * sizeof(float));
    }
    pass->inputs_sent = true;
}

void pass_to_device(struct batch *batch)
{
    struct gpu_pass *pass = batch->pass;
    size_t bytes = batch->rows * model_parameters(batch->open->model)->embedding * sizeof(float);
    if (!runs_ahead(pass))
        pass_record(pass);
    if (pass->on_device && pass->inputs_sent)
        return;
    send_inputs(batch);
    if (!pass->on_device)
        send_part(pass, pass->rows[BUFFER_HIDDEN], &pass->up_parts.hidden, batch->scratch.buffers[BUFFER_HIDDEN],
                  bytes);
    gpu_barrier(pass->gpu);
    pass->on_device = true;
}

hypura_status gpu_pass_to_host(struct batch *batch, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    if (!pass || !pass->on_device)
        return HYPURA_OK;
    size_t bytes = batch->rows * model_parameters(batch->open->model)->embedding * sizeof(float);
    pass_record(pass);
    pass_settle(pass);
    gpu_copy(pass->gpu, pass->back_parts.hidden.range, pass->rows[BUFFER_HIDDEN], bytes);
    TRY(pass_finish(batch, error));
    memcpy(batch->scratch.buffers[BUFFER_HIDDEN], pass->back_parts.hidden.host, bytes);
    pass->on_device = false;
    return HYPURA_OK;
}

/* ---- from tokens to logits ----------------------------------------------------------------------------------------
 */

hypura_status gpu_pass_embed(struct batch *batch, const int32_t *tokens, bool *done, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    const struct step_embed *embed = &steps_before(batch->open->steps).steps->embed;
    unit_number unit = embed->unit;
    (void)error;
    *done = false;
    if (!pass || !pass->plan->units[unit] || steps_before(batch->open->steps).count > 1)
        return HYPURA_OK;
    struct gpu_matrix matrix = pass_matrix(batch, unit);
    *done = gpu_embed_supports(matrix.type, matrix.row_bytes);
    if (!*done)
        return HYPURA_OK;
    pass->on_device = true;
    if (runs_ahead(pass)) {
        send_part(pass, pass->tokens, &pass->up_parts.tokens, tokens, batch->rows * sizeof *tokens);
        return HYPURA_OK;
    }
    pass_record(pass);
    send_part(pass, pass->tokens, &pass->up_parts.tokens, tokens, batch->rows * sizeof *tokens);
    gpu_barrier(pass->gpu);
    gpu_embed(pass->gpu, &matrix, pass->tokens, pass->rows[BUFFER_HIDDEN], (uint32_t)batch->rows, embed->scale);
    gpu_barrier(pass->gpu);
    return HYPURA_OK;
}

static uint32_t layers_a_batch(const struct batch *batch)
{
    double seconds =
        (double)batch->rows * batch->pass->layer_work / MAX(batch->open->device.multiply_adds_per_second, 1.0);
    return seconds * LAYERS_A_BATCH > BATCH_SECONDS ? MAX((uint32_t)(BATCH_SECONDS / seconds), 1u) : LAYERS_A_BATCH;
}

hypura_status gpu_pass_layer(struct batch *batch, uint32_t number, hypura_error *error)
{
    struct gpu_pass *pass = batch->pass;
    if (runs_ahead(pass)) {
        pass->open = !pass->on_device || !pass->inputs_sent;
        if (pass->open)
            pass_to_device(batch);
        return pass_send(pass, error);
    }
    pass_to_device(batch);
    TRY(pass_record_steps(batch, pass_steps(batch, number), error));
    /* The first layer goes alone, so that the device starts early. */
    uint32_t most = pass->sent == 0 ? 1 : layers_a_batch(batch);
    return ++pass->recorded >= most && !pass->ahead.recording ? pass_send(pass, error) : HYPURA_OK;
}
