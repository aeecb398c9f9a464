#include "engine/gpu/pass.h"
#include "store/policy.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The longest context anybody asks for, and the largest batch: byte counts stay far from 64 bits. */
#define MAX_POSITIONS (1u << 24)
#define MAX_CHUNK 16384u
#define MAX_SEQUENCES 1024u

/* Tokens of a text that an encoder takes, unless more are asked for: they all pass together. */
#define ENCODER_CONTEXT 2048u
#define MAX_THREADS 256u

void engine_default_options(struct engine_options *options)
{
    *options = (struct engine_options){.kv_type = TENSOR_F16, .reader = STORE_READER_AUTO, .fill = true};
}

/* ---- planning ------------------------------------------------------------------------------------------------------
 */

static uint64_t planned_kv_bytes(const void *context, uint32_t positions, uint32_t sequences, enum tensor_type type)
{
    return kv_cache_bytes(context, positions, sequences, type);
}

static uint64_t planned_scratch_bytes(const void *context, uint32_t chunk, uint32_t positions)
{
    (void)positions;
    return scratch_bytes(context, chunk);
}

static hypura_status check_options(const struct engine_options *options, hypura_error *error)
{
    if (options->context > MAX_POSITIONS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a context of %u positions; at most %u are possible",
                         options->context, MAX_POSITIONS);
    if (options->chunk > MAX_CHUNK)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "batches of %u tokens; at most %u are possible", options->chunk,
                         MAX_CHUNK);
    if (options->sequences > MAX_SEQUENCES)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%u sequences; at most %u are possible", options->sequences,
                         MAX_SEQUENCES);
    if (options->threads > MAX_THREADS)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%zu threads; at most %u are possible", options->threads,
                         MAX_THREADS);
    return policy_check(options->cache_policy, error);
}

/* Every tensor's type must have a kernel; better said now than in the middle of a pass. */
static hypura_status check_types(const struct model *model, hypura_error *error)
{
    for (uint32_t u = 0; u < model_unit_count(model); u++) {
        const struct unit *unit = model_unit(model, u);
        for (uint32_t i = 0; i < unit->slice_count; i++) {
            const struct gguf_tensor *tensor = unit->slices[i].tensor;
            if (compute_supports(tensor->type))
                continue;
            const struct tensor_type_info *info = tensor_type_info(tensor->type);
            return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                             "%s: tensor '%s' is of type %s, which this program cannot compute with",
                             gguf_file_path(model_file(model), tensor->file), tensor->name.data,
                             info && info->name ? info->name : "?");
        }
    }
    return HYPURA_OK;
}

static hypura_status check_heads(const struct model *model, const struct steps *steps, hypura_error *error)
{
    struct step_list all = steps_all(steps);
    size_t key = 0, value = 0;
    for (size_t i = 0; i < all.count; i++) {
        const struct step *step = &all.steps[i];
        if (step->kind == STEP_ATTEND) {
            key = MAX(key, step->attend.key_size);
            value = MAX(value, step->attend.value_size);
        } else if (step->kind == STEP_ATTEND_LATENT) {
            key = MAX(key, step->attend_latent.rank + step->attend_latent.rotary);
            value = MAX(value, step->attend_latent.rank);
        }
    }
    if (key > ATTENTION_MAX_SIZE || value > ATTENTION_MAX_SIZE)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED,
                         "%s: attention heads of %zu and %zu elements; at most %d are possible",
                         gguf_file_path(model_file(model), 0), key, value, ATTENTION_MAX_SIZE);
    return HYPURA_OK;
}

static size_t choose_threads(const struct engine_options *options, const struct hardware *hardware)
{
    return options->threads ? options->threads : MIN(MAX(hardware->cores, (size_t)1), (size_t)MAX_THREADS);
}

void engine_ask(struct asked *out, const struct geometry *geometry, const struct engine_options *options)
{
    *out = (struct asked){options->context, options->chunk, options->kv_type};
    if (geometry->windows)
        out->chunk = MIN(out->chunk, WINDOW_SLACK);
    const uint32_t most = model_parameters(geometry->model)->context;
    bool encoder = model_architecture(geometry->model)->flags & ARCHITECTURE_ENCODER;
    if (encoder || model_tensor(geometry->model, ROLE_POSITION_EMBEDDING) != NO_UNIT) /* a row for each, no more */
        out->positions = MIN(out->positions ? out->positions : encoder ? ENCODER_CONTEXT : most, most);
    if (!encoder)
        return;
    /* A text passes an encoder as one batch, and nothing reads its cache later. */
    out->chunk = MIN(out->positions, MAX_CHUNK);
    out->kv_type = TENSOR_F32;
}

static hypura_status plan_rest(struct plan **out, struct plan_request *request, const struct geometry *geometry,
                               const struct plan_gpu *gpu, const struct hardware_gpu *device,
                               const struct hardware *hardware, const struct engine_options *options,
                               hypura_error *error)
{
    bool encoder = model_architecture(geometry->model)->flags & ARCHITECTURE_ENCODER;
    int64_t held = (int64_t)memory_resident_bytes() + options->reserved;
    struct asked asked;
    engine_ask(&asked, geometry, options);
    *request = (struct plan_request){
        .budget = options->budget,
        .overhead = (uint64_t)MAX(held, 0),
        .code = hardware_code_bytes(),
        .wobble = 256 << 10,
        .positions = asked.positions,
        .sequences = geometry->sequences,
        .chunk = gpu ? MIN(asked.chunk, gpu->chunk) : asked.chunk,
        .shared_kv = options->shared_context && !encoder && kv_cache_can_share(geometry, options->kv_type),
        .kv_type = asked.kv_type,
        .working_set = {.kv_bytes = planned_kv_bytes, .scratch_bytes = planned_scratch_bytes, .context = geometry},
        .gpu = gpu,
        .device = device};
    if (gpu)
        request->overhead += gpu->host_bytes;
    char path[4096];
    if (options->remember_usage && store_usage_path(geometry->model, path, sizeof path))
        memory_free(store_usage_read(geometry->model, path, &request->hit_curve));
    if (gpu && device->info.unified)
        request->overhead += plan_gpu_bytes(gpu);
    TRY(plan_make(out, geometry->model, hardware, request, error));
    if (!geometry->windows || (*out)->chunk <= WINDOW_SLACK)
        return HYPURA_OK;
    /* Rings of sliding windows have room for this many tokens beyond the window. */
    plan_free(*out);
    *out = NULL;
    request->chunk = WINDOW_SLACK;
    return plan_make(out, geometry->model, hardware, request, error);
}

static hypura_status make_plan(struct plan **out, struct plan_request *request, struct geometry *geometry,
                               const struct model *model, const struct steps *steps, const struct adapters *adapters,
                               const struct hardware *hardware, const struct hardware_gpu *device, struct gpu *gpu,
                               const struct engine_options *options, hypura_error *error)
{
    TRY(check_options(options, error));
    TRY(check_types(model, error));
    TRY(check_heads(model, steps, error));
    geometry_make(geometry, model, steps, choose_threads(options, hardware), MAX(options->sequences, 1u));
    geometry->adapters = adapters;
    struct plan_gpu *gpu_plan = NULL;
    if (gpu)
        TRY(gpu_pass_plan(&gpu_plan, geometry, gpu, device, hardware, options, error));
    if (gpu && !gpu_plan)
        log_write(LOG_WARNING, "%s computes nothing: %s", device->info.name,
                  geometry->foreign ? "no layer of this model is of a kind that it has kernels for"
                                    : "no layer of this model fits its memory");
    geometry->on_gpu = gpu_plan ? gpu_plan->layers : NULL;
    hypura_status status = plan_rest(out, request, geometry, gpu_plan, device, hardware, options, error);
    if (status)
        plan_gpu_free(gpu_plan);
    else
        (*out)->gpu = gpu_plan;
    request->gpu = gpu_plan;
    return status;
}

hypura_status engine_plan_beside(struct plan **out, const struct model *model, const struct hardware *hardware,
                                 const struct engine_options *options, hypura_error *error)
{
    struct plan_request request;
    struct geometry geometry;
    struct plan *plan = NULL;
    struct adapters *adapters = NULL;
    struct gpu *gpu = NULL;
    struct hardware_gpu device;
    struct steps *steps = NULL;
    hypura_status status = gpu_pass_open_device(&gpu, &device, hardware, options, error);
    if (!status)
        status = steps_make(&steps, model, error);
    if (!status)
        status = adapters_open(&adapters, model, steps, options->adapters, options->adapter_count, error);
    if (!status)
        status = make_plan(&plan, &request, &geometry, model, steps, adapters, hardware, gpu ? &device : NULL, gpu,
                           options, error);
    if (gpu)
        gpu_pass_close_device(gpu);
    adapters_close(adapters);
    steps_free(steps);
    if (!status)
        *out = plan;
    return status;
}

hypura_status engine_plan_only(struct plan **out, const struct model *model, const struct hardware *hardware,
                               const struct engine_options *options, hypura_error *error)
{
    struct vocabulary *vocabulary = NULL;
    struct planned_draft draft = {0};
    struct engine_options rest = *options;
    /* The budget of a run includes it. */
    vocabulary_open(&vocabulary, model_file(model), NULL);
    hypura_status status = draft_model_plan(&draft, model, hardware, &rest, error);
    if (!status)
        status = engine_plan_beside(out, model, hardware, &rest, error);
    planned_draft_close(&draft);
    vocabulary_close(vocabulary);
    return status;
}

hypura_status engine_speed_with(double *tokens_per_second, const struct model *model, const struct hardware *hardware,
                                const struct engine_options *options, int64_t more_bytes, hypura_error *error)
{
    struct plan_request request;
    struct geometry geometry;
    struct plan *plan = NULL;
    struct gpu *gpu;
    struct hardware_gpu device;
    struct adapters *adapters = NULL;
    struct steps *steps = NULL;
    TRY(gpu_pass_open_device(&gpu, &device, hardware, options, error));
    hypura_status status = steps_make(&steps, model, error);
    if (!status)
        status = adapters_open(&adapters, model, steps, options->adapters, options->adapter_count, error);
    if (!status)
        status = make_plan(&plan, &request, &geometry, model, steps, adapters, hardware, gpu ? &device : NULL, gpu,
                           options, error);
    if (!status) {
        request.budget = plan->budget;
        request.positions = plan->positions; /* more memory is not to be spent on a longer context */
        status = plan_tokens_per_second_with(model, hardware, &request, more_bytes, tokens_per_second, error);
    }
    plan_free(plan);
    adapters_close(adapters);
    steps_free(steps);
    if (gpu)
        gpu_pass_close_device(gpu);
    return status;
}

/* ---- opening -------------------------------------------------------------------------------------------------------
 */

static hypura_status open_trace(struct engine *engine, const char *path, hypura_error *error)
{
    struct trace_shape shape;
    TRY(trace_shape_of_model(&shape, engine->open.model, error));
    hypura_status status = trace_writer_create(&engine->batch.trace, path, &shape, error);
    trace_shape_free(&shape);
    return status;
}

/* Rope factors stand in tensors: LongRoPE has two sets, for contexts up to the original length and beyond. */
static hypura_status open_rope(struct engine *engine, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(engine->open.model);
    unit_number unit = model_tensor(engine->open.model, ROLE_ROPE_FACTORS);
    if (unit == NO_UNIT)
        unit = model_tensor(engine->open.model, engine->open.plan->positions > p->rope_original_context
                                                    ? ROLE_ROPE_FACTORS_LONG
                                                    : ROLE_ROPE_FACTORS_SHORT);
    struct held held = {0};
    const float *factors;
    hypura_status status = hold_vector(&engine->batch, &held, unit, &factors, error);
    if (!status)
        status = rope_table_create(&engine->open.rope, p, false, factors, error);
    release(&engine->batch, &held);
    bool local = false;
    struct step_list all = steps_all(engine->open.steps);
    for (size_t i = 0; i < all.count; i++)
        local = local || (all.steps[i].kind == STEP_HEADS && all.steps[i].heads.local);
    if (!status && local)
        status = rope_table_create(&engine->open.rope_local, p, true, NULL, error);
    return status;
}

static size_t expert_places(const struct engine *engine)
{
    const struct model_parameters *p = model_parameters(engine->open.model);
    return (size_t)p->layers * p->experts;
}

static hypura_status open_parts(struct engine *engine, const struct hardware_gpu *device,
                                const struct engine_options *options, hypura_error *error)
{
    TRY(make_plan(&engine->open.plan, &engine->open.request, &engine->open.geometry, engine->open.model,
                  engine->open.steps, engine->open.adapters, &engine->open.hardware, device, engine->open.gpu, options,
                  error));
    const struct plan *plan = engine->open.plan;
    if (plan->chunk == 0 || plan->chunk > MAX_CHUNK || plan->positions == 0 || plan->positions > MAX_POSITIONS ||
        plan->sequences != engine->open.geometry.sequences)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a plan for %u tokens a batch and %u positions cannot be",
                         plan->chunk, plan->positions);
    atomic_store(&engine->counters.budget, plan->budget);
    atomic_store(&engine->counters.largest_budget, plan->budget);
    engine->batch.prefetcher.ranks = prefetch_ranks(model_parameters(engine->open.model));
    struct compute_limits limits = compute_limits_of(&engine->open.geometry, plan->chunk);
    TRY(compute_create_limited(&engine->batch.compute, engine->open.geometry.threads, compute_best_instructions(),
                               &limits, error));
    TRY(scratch_create(&engine->batch.scratch, &engine->open.geometry, plan->chunk, error));
    TRY(kv_cache_create(&engine->batch.kv, &engine->open.geometry, plan->positions, plan->kv_type, error));
    if (plan->kv_positions < (uint64_t)plan->positions * plan->sequences)
        engine->batch.kv.room = plan->kv_positions;
    TRY(ALLOCATE(&engine->counters.used, expert_places(engine), "expert usage", error));
    engine->open.wait_for_all = options->wait_for_all;
    char usage[4096];
    bool remember = options->remember_usage && store_usage_path(engine->open.model, usage, sizeof usage);
    struct store_options store = {.reader = options->reader,
                                  .allow_buffered = true,
                                  .depth = options->depth,
                                  .cache_policy = options->cache_policy,
                                  .prefetching = options->prefetching,
                                  .fill = options->fill,
                                  .usage_path = remember ? usage : NULL,
                                  .hardware = &engine->open.hardware,
                                  .gpu = plan->gpu ? engine->open.gpu : NULL};
    TRY(store_open(&engine->open.store, engine->open.model, plan, &store, error));
    if (options->trace_path)
        TRY(open_trace(engine, options->trace_path, error));
    TRY(store_load(engine->open.store, options->progress, options->progress_context, error));
    TRY(open_rope(engine, error));
    return plan->gpu ? gpu_pass_open(&engine->batch, engine->open.gpu, error) : HYPURA_OK;
}

hypura_status engine_end_trace(struct engine *engine, hypura_error *error)
{
    struct trace_writer *trace = engine->batch.trace;
    engine->batch.trace = NULL;
    return trace_writer_close(trace, error);
}

static void close_parts(struct engine *engine)
{
    hypura_error lost;
    if (engine_end_trace(engine, &lost))
        log_write(LOG_WARNING, "%s", lost.message);
    gpu_pass_close(&engine->batch);
    if (engine->open.store)
        store_close(engine->open.store);
    memory_free(engine->counters.used);
    rope_table_destroy(&engine->open.rope);
    rope_table_destroy(&engine->open.rope_local);
    kv_cache_destroy(&engine->batch.kv);
    scratch_destroy(&engine->batch.scratch);
    compute_destroy(engine->batch.compute);
    plan_free(engine->open.plan);
    if (engine->open.gpu)
        gpu_pass_close_device(engine->open.gpu);
    engine->counters.used = NULL;
    engine->open.store = NULL;
    engine->batch.compute = NULL;
    engine->open.plan = NULL;
    engine->open.gpu = NULL;
}

/* How often a GPU is asked, each time for less. Not every driver says how much memory others have. */
#define GPU_ATTEMPTS 3

/* What a GPU refuses is tried again with less of it, and without it. */
static hypura_status open_somewhere(struct engine *engine, const struct engine_options *options, hypura_error *error)
{
    hypura_error problem = {0};
    hypura_status status = HYPURA_ERROR_MEMORY;
    struct engine_options less = *options;
    for (int attempt = 1; status == HYPURA_ERROR_MEMORY && attempt <= GPU_ATTEMPTS; attempt++) {
        TRY(gpu_pass_open_device(&engine->open.gpu, &engine->open.device, &engine->open.hardware, &less, error));
        if (!engine->open.gpu)
            return open_parts(engine, NULL, options, error);
        status = open_parts(engine, &engine->open.device, &less, &problem);
        if (status != HYPURA_ERROR_DEVICE && status != HYPURA_ERROR_MEMORY)
            return status ? error_set(error, status, "%s", problem.message) : HYPURA_OK;
        less.gpu_budget = engine->open.plan ? plan_gpu_bytes(engine->open.plan->gpu) / 4 * 3 : 0;
        close_parts(engine);
        if (less.gpu_budget == 0)
            break;
        if (status == HYPURA_ERROR_MEMORY && attempt < GPU_ATTEMPTS)
            log_write(LOG_INFO, "%s; trying again with less of it", problem.message);
    }
    status = open_parts(engine, NULL, options, error);
    if (!status)
        log_write(LOG_WARNING, "computing on the CPU: %s", problem.message);
    return status;
}

/* A model without one computes; whoever wants texts gets the error. */
static void open_vocabulary(struct engine *engine)
{
    const struct gguf *file = model_file(engine->open.model);
    uint32_t rows = model_parameters(engine->open.model)->vocabulary;
    if (vocabulary_open(&engine->open.vocabulary, file, &engine->open.vocabulary_error))
        return;
    uint32_t tokens = vocabulary_size(engine->open.vocabulary);
    if (tokens == rows)
        return;
    vocabulary_close(engine->open.vocabulary);
    engine->open.vocabulary = NULL;
    error_set(&engine->open.vocabulary_error, HYPURA_ERROR_FORMAT,
              "%s: its vocabulary has %u tokens, but its embedding and its logits are of %u", gguf_file_path(file, 0),
              tokens, rows);
}

hypura_status engine_open(struct engine **out, const char *path, const struct engine_options *options,
                          hypura_error *error)
{
    struct engine *engine;
    uint64_t start = clock_nanoseconds();
    TRY(ALLOCATE(&engine, 1, "engine", error));
    engine->batch.open = &engine->open;
    engine->batch.counters = &engine->counters;
    engine->open.drafting = options->drafting;
    hypura_status status = model_open(&engine->open.model, path, error);
    if (!status)
        open_vocabulary(engine);
    if (!status)
        status = steps_make(&engine->open.steps, engine->open.model, error);
    if (!status)
        status = adapters_open(&engine->open.adapters, engine->open.model, engine->open.steps, options->adapters,
                               options->adapter_count, error);
    if (!status)
        status = hardware_detect(&engine->open.hardware, path, error);
    struct engine_options rest = *options;
    if (!status && draft_model_wanted(engine->open.model, options))
        status = draft_model_open(engine, &rest, error);
    if (!status)
        status = open_somewhere(engine, &rest, error);
    if (status) {
        engine_close(engine);
        return status;
    }
    engine->open.load_seconds = clock_seconds_since(start);
    *out = engine;
    return HYPURA_OK;
}

void engine_close(struct engine *engine)
{
    if (!engine)
        return;
    close_parts(engine);
    engine_close(engine->draft_model);
    adapters_close(engine->open.adapters);
    vocabulary_close(engine->open.vocabulary);
    steps_free(engine->open.steps);
    model_close(engine->open.model);
    memory_free(engine);
}

void engine_leave(struct engine *engine)
{
    hypura_error lost;
    if (!engine || engine->open.gpu) { /* a device's work has to be waited for, and its compiled kernels are kept */
        engine_close(engine);
        return;
    }
    if (engine_end_trace(engine, &lost))
        log_write(LOG_WARNING, "%s", lost.message);
    store_leave(engine->open.store);
}

/* ---- looking in ----------------------------------------------------------------------------------------------------
 */

const struct model *engine_model(const struct engine *engine)
{
    return engine->open.model;
}

const struct plan *engine_plan(const struct engine *engine)
{
    return engine->open.plan;
}

const struct hardware *engine_hardware(const struct engine *engine)
{
    return &engine->open.hardware;
}

enum engine_drafting engine_drafting(const struct engine *engine)
{
    return engine->open.drafting;
}

struct engine *engine_draft_model(const struct engine *engine)
{
    return engine->draft_model;
}

bool engine_lost(const struct engine *engine)
{
    return atomic_load(&engine->batch.lost);
}

const struct gpu_info *engine_gpu(const struct engine *engine)
{
    return engine->batch.pass ? &engine->open.device.info : NULL;
}

struct store *engine_store(struct engine *engine)
{
    return engine->open.store;
}

hypura_status engine_vocabulary(const struct vocabulary **out, const struct engine *engine, hypura_error *error)
{
    if (!engine->open.vocabulary)
        return error_set(error, engine->open.vocabulary_error.status, "%s", engine->open.vocabulary_error.message);
    *out = engine->open.vocabulary;
    return HYPURA_OK;
}

size_t engine_threads(const struct engine *engine)
{
    return engine->open.geometry.threads;
}

uint32_t engine_positions(const struct engine *engine, uint32_t sequence)
{
    return sequence < engine->batch.kv.sequences ? engine->batch.kv.held[sequence] : 0;
}

void engine_run(struct engine *engine, thread_task task, void *context, size_t count)
{
    thread_pool_run(compute_pool(engine->batch.compute), task, context, count);
}

uint64_t engine_room(const struct engine *engine)
{
    return engine->batch.kv.room;
}

bool engine_truncate(struct engine *engine, uint32_t sequence, uint32_t positions)
{
    if (sequence >= engine->batch.kv.sequences || positions >= engine->batch.kv.held[sequence])
        return true;
    bool kept = kv_cache_can_truncate(&engine->batch.kv, sequence, positions);
    engine->batch.kv.held[sequence] = kept ? positions : 0;
    if (engine->batch.kv.held[sequence] == 0)
        engine->batch.kv.reached[sequence] = 0;
    return kept;
}

/* Until what was passed on is what holds: another thread may have changed it meanwhile. */
static void follow_cancel(struct engine *engine)
{
    bool end;
    do {
        end = batch_is_to_end(&engine->batch);
        thread_pool_skip(compute_pool(engine->batch.compute), end);
        store_cancel(engine->open.store, end);
    } while (end != batch_is_to_end(&engine->batch));
}

void engine_cancel(struct engine *engine, bool cancel)
{
    if (engine->draft_model)
        engine_cancel(engine->draft_model, cancel);
    atomic_store(&engine->batch.cancelled, cancel);
    follow_cancel(engine);
}

void engine_stop(struct engine *engine, bool stop)
{
    atomic_store(&engine->batch.stopped, stop);
    follow_cancel(engine);
}

/* What the plan uses, without the pool. */
static uint64_t fixed_bytes(const struct plan *plan)
{
    if (plan->pool_bytes)
        return plan->budget - MIN(plan->budget, plan->pool_bytes);
    return plan->overhead_bytes + plan->reserve_bytes + plan->resident_bytes + plan->table_bytes + plan->kv_bytes +
           plan->scratch_bytes;
}

hypura_status engine_set_budget(struct engine *engine, uint64_t bytes, hypura_error *error)
{
    const struct plan *plan = engine->open.plan;
    uint64_t fixed = fixed_bytes(plan);
    if (plan->pool_bytes == 0 && bytes < fixed) {
        char text[32];
        return error_set(error, HYPURA_ERROR_MEMORY,
                         "all weights are in memory for good; the least without loading the model anew is %s",
                         format_bytes(text, sizeof text, (double)fixed));
    }
    if (plan->pool_bytes) {
        hypura_status status =
            store_resize(engine->open.store, (int64_t)MIN(bytes, (uint64_t)INT64_MAX) - (int64_t)fixed, error);
        if (status)
            return error_prefix(error, "a budget of %.1f MiB, of which %.1f MiB are taken by what stays in memory",
                                (double)bytes / 1048576.0, (double)fixed / 1048576.0);
    }
    atomic_store(&engine->counters.budget, bytes);
    if (bytes > atomic_load(&engine->counters.largest_budget))
        atomic_store(&engine->counters.largest_budget, bytes);
    return HYPURA_OK;
}

void engine_statistics(struct engine *engine, struct engine_statistics *out)
{
    *out = (struct engine_statistics){
        .load_seconds = engine->open.load_seconds,
        .prompt_tokens = atomic_load(&engine->counters.prompt_tokens),
        .generated_tokens = atomic_load(&engine->counters.generated_tokens),
        .decode_passes = atomic_load(&engine->counters.decode_passes),
        .drafted_tokens = atomic_load(&engine->counters.drafted_tokens),
        .accepted_tokens = atomic_load(&engine->counters.accepted_tokens),
        .prompt_seconds = (double)atomic_load(&engine->counters.prompt_nanoseconds) * 1e-9,
        .decode_bytes_read = atomic_load(&engine->counters.decode_bytes_read),
        .decode_seconds = (double)atomic_load(&engine->counters.decode_nanoseconds) * 1e-9,
        .peak_rss_bytes = memory_peak_resident_bytes(),
        .budget_bytes = atomic_load(&engine->counters.budget),
        .largest_budget_bytes = atomic_load(&engine->counters.largest_budget),
    };
    store_statistics(engine->open.store, &out->store);
    uint64_t bytes[UNIT_STATES] = {0};
    for (uint32_t u = 0; u < model_unit_count(engine->open.model); u++)
        store_count_bytes(engine->open.store, u, bytes);
    out->bytes_gpu = bytes[UNIT_ON_GPU];
    out->bytes_ram = bytes[UNIT_CACHED] + bytes[UNIT_PINNED];
    out->bytes_storage = bytes[UNIT_ON_STORAGE] + bytes[UNIT_IN_FLIGHT];
}

void engine_take_used(struct engine *engine, bool *used)
{
    for (size_t i = 0; i < expert_places(engine); i++)
        used[i] = atomic_exchange_explicit(&engine->counters.used[i], false, memory_order_relaxed);
}
