#include "engine/gpu/pass.h"

#include <string.h>

/* Layers that one batch of commands holds at most: the device starts on it while the next is recorded. Drivers reset a
 * device that takes some seconds for a batch, so of a long prompt on a slow one it holds fewer. */
#define LAYERS_A_BATCH 4u
#define BATCH_SECONDS 1.0

/* ---- opening ------------------------------------------------------------------------------------------------------
 */

/* Biases of experts: the CPU needs them for those that are in RAM. */
static hypura_status copy_vector(struct engine *engine, unit_number unit, hypura_error *error)
{
    if (unit == NO_UNIT)
        return HYPURA_OK;
    const struct unit *what = model_unit(engine->model, unit);
    float **out = &engine->pass->host_vectors[unit];
    TRY(ALLOCATE(out, (size_t)(what->bytes / sizeof **out), "biases of experts", error));
    return store_read(engine->store, unit, 0, what->bytes, *out, error);
}

static hypura_status find_units(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    uint32_t count = model_unit_count(engine->model), layers = model_parameters(engine->model)->layers;
    TRY(ALLOCATE(&pass->units, count, "table of units on the GPU", error));
    TRY(ALLOCATE(&pass->host_vectors, count, "table of units on the GPU", error));
    TRY(ALLOCATE(&pass->slots, layers, "table of experts on the GPU", error));
    TRY(ALLOCATE(&pass->there, model_parameters(engine->model)->experts, "table of experts on the GPU", error));
    for (unit_number u = 0; u < count; u++) {
        struct store_view view;
        struct gpu_range ranges[UNIT_MAX_SLICES];
        if (!pass->plan->units[u] || model_unit(engine->model, u)->kind == UNIT_EXPERT)
            continue;
        TRY(store_get(engine->store, u, &view, error));
        store_ranges(engine->store, u, ranges);
        pass->units[u] = ranges[0];
        store_put(engine->store, u);
    }
    for (uint32_t i = 0; i < layers; i++) {
        const struct step *step = steps_find(steps_of_layer(engine->steps, i), STEP_EXPERTS);
        store_slots(engine->store, i, &pass->slots[i]);
        if (!pass->plan->layers[i] || !step || pass->slots[i].count == model_parameters(engine->model)->experts)
            continue;
        TRY(copy_vector(engine, step->experts.gate_bias, error));
        TRY(copy_vector(engine, step->experts.up_bias, error));
        TRY(copy_vector(engine, step->experts.down_bias, error));
    }
    return HYPURA_OK;
}

static uint64_t elements_of(const struct engine *engine, unit_number unit)
{
    uint64_t elements = 0;
    for (uint32_t i = 0; unit != NO_UNIT && i < model_unit(engine->model, unit)->slice_count; i++) {
        const struct gguf_tensor *tensor = model_unit(engine->model, unit)->slices[i].tensor;
        elements += tensor->dimensions[0] * tensor->dimensions[1];
    }
    return elements;
}

/* What the matrices of the greatest layer multiply and add for a row. */
static double layer_work(const struct engine *engine)
{
    const struct model_parameters *p = model_parameters(engine->model);
    uint64_t most = 0;
    for (uint32_t i = 0; i < p->layers; i++) {
        struct step_list list = steps_of_layer(engine->steps, i);
        const struct step *experts = steps_find(list, STEP_EXPERTS);
        uint64_t work = experts ? experts->experts.used * elements_of(engine, experts->experts.first) : 0;
        for (size_t s = 0; s < list.count; s++) {
            struct step_unit units[STEP_UNITS];
            size_t count = step_units(&list.steps[s], units);
            for (size_t u = 0; u < count; u++)
                work += elements_of(engine, units[u].unit);
        }
        most = MAX(most, work);
    }
    return (double)most;
}

/* ---- lists ---------------------------------------------------------------------------------------------------------
 */

/* Neighbouring layers are rewritten together, so that one ends with the norm that the next begins with. */
static hypura_status make_run(struct engine *engine, struct device_list *lists, bool few, uint32_t first,
                              uint32_t count, hypura_error *error)
{
    const struct plan_gpu *plan = engine->pass->plan;
    struct step_list all = steps_of_layer(engine->steps, first), out = {0}, *part;
    struct step *steps;
    for (uint32_t i = 1; i < count; i++)
        all.count += steps_of_layer(engine->steps, first + i).count;
    if (first + count == plan->layer_count && plan->output)
        all.count += steps_after(engine->steps).count;
    TRY(steps_fuse(all, few, &steps, &out.count, error));
    lists->runs[lists->run_count++] = steps;
    for (size_t i = 0; i < out.count; i++) {
        part = steps[i].layer < 0 ? &lists->after : &lists->layers[steps[i].layer];
        if (part->count++ == 0)
            part->steps = &steps[i];
    }
    return HYPURA_OK;
}

static hypura_status make_lists(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    uint32_t layers = pass->plan->layer_count;
    for (int few = 0; few < 2; few++) {
        struct device_list *lists = &pass->lists[few];
        TRY(ALLOCATE(&lists->runs, layers, "lists of steps", error));
        TRY(ALLOCATE(&lists->layers, layers, "lists of steps", error));
        for (uint32_t i = 0, count; i < layers; i += MAX(count, 1u)) {
            for (count = 0; i + count < layers && pass->plan->layers[i + count];)
                count++;
            if (count)
                TRY(make_run(engine, lists, few, i, count, error));
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

struct step_list pass_steps(const struct engine *engine, uint32_t layer)
{
    return engine->pass->lists[engine->rows <= GPU_VECTOR_TOKENS].layers[layer];
}

struct step_list pass_steps_after(const struct engine *engine)
{
    return engine->pass->lists[engine->rows <= GPU_VECTOR_TOKENS].after;
}

hypura_status gpu_pass_open(struct engine *engine, struct gpu *gpu, hypura_error *error)
{
    TRY(ALLOCATE(&engine->pass, 1, "GPU pass", error));
    engine->pass->gpu = gpu;
    engine->pass->plan = engine->plan->gpu;
    engine->pass->layer_work = layer_work(engine);
    TRY(find_units(engine, error));
    TRY(make_lists(engine, error));
    engine->pass->ahead.possible = pass_can_record_ahead(engine);
    TRY(pass_make_buffers(engine, error));
    return pass_try(engine, error);
}

void gpu_pass_close(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    if (!pass)
        return;
    pass_free_holds(engine);
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
    for (uint32_t i = 0; pass->caches && i < engine->kv.layer_count; i++)
        if (pass->caches[i])
            gpu_buffer_destroy(pass->gpu, pass->caches[i]);
    for (unit_number u = 0; pass->host_vectors && u < model_unit_count(engine->model); u++)
        memory_free(pass->host_vectors[u]);
    free_lists(pass);
    memory_free(pass->host_vectors);
    memory_free(pass->units);
    memory_free(pass->slots);
    memory_free(pass->there);
    memory_free(pass->caches);
    memory_free(pass);
    engine->pass = NULL;
}

/* ---- looking things up --------------------------------------------------------------------------------------------
 */

bool gpu_pass_has(const struct engine *engine, uint32_t layer)
{
    return engine->pass && engine->pass->plan->layers[layer];
}

const float *gpu_pass_host_vector(const struct engine *engine, unit_number unit)
{
    return engine->pass ? engine->pass->host_vectors[unit] : NULL;
}

struct gpu_range pass_vector(const struct engine *engine, unit_number unit)
{
    return unit == NO_UNIT ? (struct gpu_range){0} : engine->pass->units[unit];
}

struct gpu_matrix pass_matrix(const struct engine *engine, unit_number unit)
{
    const struct gguf_tensor *tensor = model_unit(engine->model, unit)->slices[0].tensor;
    struct matrix matrix =
        matrix_at(NULL, tensor->type, tensor->dimensions[0], tensor->dimensions[1] * tensor->dimensions[2]);
    return (struct gpu_matrix){.data = engine->pass->units[unit],
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

hypura_status pass_finish(struct engine *engine, hypura_error *error)
{
    TRY(pass_send(engine->pass, error));
    TRY(pass_host_share(engine, error));
    TRY(gpu_wait(engine->pass->gpu, engine->pass->last, error));
    return pass_let_go(engine, error);
}

void gpu_pass_begin(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    if (!pass)
        return;
    pass->sent = 0;
    pass->latent.grouped = 0;
    memset(pass->state, 0, sizeof pass->state); /* ROWS_FLOATS */
    pass->on_device = pass->inputs_sent = pass->hidden_on_device = false;
    pass_expect(engine);
    pass->ahead.begun = clock_nanoseconds();
}

/* Batches that wait for the CPU would wait for ever. */
void gpu_pass_abandon(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
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
    pass_let_go(engine, NULL);
}

/* ---- the way there and back ----------------------------------------------------------------------------------------
 */

static void fill_scales(const struct engine *engine, float *out)
{
    const struct model_parameters *p = model_parameters(engine->model);
    for (size_t r = 0; r < engine->rows; r++) {
        out[r] = query_sharpness(p, engine->scratch.positions[r]);
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
static void send_inputs(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    const struct model_parameters *p = model_parameters(engine->model);
    const struct scratch *s = &engine->scratch;
    if (pass->inputs_sent)
        return;
    send_part(pass, pass->rope[0], &pass->up_parts.rope[0], s->rope[0], engine->rows * p->rotary * sizeof(float));
    if (engine->rope_local.half)
        send_part(pass, pass->rope[1], &pass->up_parts.rope[1], s->rope[1],
                  engine->rows * p->rotary_local * sizeof(float));
    if (p->attention_temperature_scale != 0.0f) {
        if (!pass->ahead.recording)
            fill_scales(engine, pass->up_parts.scales.host);
        if (!runs_ahead(pass))
            gpu_copy(pass->gpu, pass->scales, pass->up_parts.scales.range, engine->rows * sizeof(float));
    }
    pass->inputs_sent = true;
}

void pass_to_device(struct engine *engine)
{
    struct gpu_pass *pass = engine->pass;
    size_t bytes = engine->rows * model_parameters(engine->model)->embedding * sizeof(float);
    if (!runs_ahead(pass))
        pass_record(pass);
    if (pass->on_device && pass->inputs_sent)
        return;
    send_inputs(engine);
    if (!pass->on_device)
        send_part(pass, pass->rows[BUFFER_HIDDEN], &pass->up_parts.hidden, engine->scratch.buffers[BUFFER_HIDDEN],
                  bytes);
    gpu_barrier(pass->gpu);
    pass->on_device = true;
}

hypura_status gpu_pass_to_host(struct engine *engine, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    if (!pass || !pass->on_device)
        return HYPURA_OK;
    size_t bytes = engine->rows * model_parameters(engine->model)->embedding * sizeof(float);
    pass_record(pass);
    pass_settle(pass);
    gpu_copy(pass->gpu, pass->back_parts.hidden.range, pass->rows[BUFFER_HIDDEN], bytes);
    TRY(pass_finish(engine, error));
    memcpy(engine->scratch.buffers[BUFFER_HIDDEN], pass->back_parts.hidden.host, bytes);
    pass->on_device = false;
    return HYPURA_OK;
}

/* ---- from tokens to logits ----------------------------------------------------------------------------------------
 */

hypura_status gpu_pass_embed(struct engine *engine, const int32_t *tokens, bool *done, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    const struct step_embed *embed = &steps_before(engine->steps).steps->embed;
    unit_number unit = embed->unit;
    (void)error;
    *done = false;
    if (!pass || !pass->plan->units[unit])
        return HYPURA_OK;
    struct gpu_matrix matrix = pass_matrix(engine, unit);
    *done = gpu_embed_supports(matrix.type, matrix.row_bytes);
    if (!*done)
        return HYPURA_OK;
    pass->on_device = true;
    if (runs_ahead(pass)) {
        send_part(pass, pass->tokens, &pass->up_parts.tokens, tokens, engine->rows * sizeof *tokens);
        return HYPURA_OK;
    }
    pass_record(pass);
    send_part(pass, pass->tokens, &pass->up_parts.tokens, tokens, engine->rows * sizeof *tokens);
    gpu_barrier(pass->gpu);
    gpu_embed(pass->gpu, &matrix, pass->tokens, pass->rows[BUFFER_HIDDEN], (uint32_t)engine->rows, embed->scale);
    gpu_barrier(pass->gpu);
    return HYPURA_OK;
}

static uint32_t layers_a_batch(const struct engine *engine)
{
    double seconds =
        (double)engine->rows * engine->pass->layer_work / MAX(engine->device.multiply_adds_per_second, 1.0);
    return seconds * LAYERS_A_BATCH > BATCH_SECONDS ? MAX((uint32_t)(BATCH_SECONDS / seconds), 1u) : LAYERS_A_BATCH;
}

hypura_status gpu_pass_layer(struct engine *engine, uint32_t number, hypura_error *error)
{
    struct gpu_pass *pass = engine->pass;
    if (runs_ahead(pass)) {
        pass->open = !pass->on_device || !pass->inputs_sent;
        if (pass->open)
            pass_to_device(engine);
        return pass_send(pass, error);
    }
    pass_to_device(engine);
    TRY(pass_record_steps(engine, pass_steps(engine, number), error));
    /* The first layer goes alone, so that the device starts early. */
    uint32_t most = pass->sent == 0 ? 1 : layers_a_batch(engine);
    return ++pass->recorded >= most && !pass->ahead.recording ? pass_send(pass, error) : HYPURA_OK;
}
