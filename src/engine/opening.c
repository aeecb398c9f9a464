/* Opens and closes an engine: first the model, then the plan, then caches and buffers, which depend on the plan. */
#include "engine/cluster/share.h"
#include "engine/gpu/pass.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static hypura_status open_trace(struct batch *batch, const char *path, hypura_error *error)
{
    struct trace_shape shape;
    TRY(trace_shape_of_model(&shape, batch->open->model, error));
    hypura_status status = trace_writer_create(&batch->trace, path, &shape, error);
    trace_shape_free(&shape);
    return status;
}

/* Rope factors are tensors. LongRoPE has two sets, for contexts up to the original length and for longer ones. */
static hypura_status open_rope(struct opened *open, struct batch *batch, hypura_error *error)
{
    const struct model_parameters *p = model_parameters(open->model);
    unit_number unit = model_tensor(open->model, ROLE_ROPE_FACTORS);
    if (unit == NO_UNIT)
        unit = model_tensor(open->model, open->plan->positions > p->rope_original_context ? ROLE_ROPE_FACTORS_LONG
                                                                                          : ROLE_ROPE_FACTORS_SHORT);
    struct held held = {0};
    const float *factors;
    hypura_status status = hold_vector(batch, &held, unit, &factors, error);
    if (!status)
        status = rope_table_create(&open->rope, p, false, factors, error);
    bool local = false;
    struct step_list all = steps_all(open->steps);
    for (size_t i = 0; i < all.count; i++)
        local = local || (all.steps[i].kind == STEP_HEADS && all.steps[i].heads.local);
    if (!status && local)
        status = rope_table_create(&open->rope_local, p, true, factors, error);
    release(batch, &held);
    return status;
}

static hypura_status open_parts(struct engine *engine, const struct engine_options *asked, hypura_error *error)
{
    struct engine_options own = *asked;
    const struct engine_options *options = &own;
    if (!asked->alone && !asked->experts_only && cluster_here())
        TRY(share_open(engine, &own, error));
    const struct planned planned = {.model = engine->open.model,
                                    .steps = engine->open.steps,
                                    .adapters = engine->open.adapters,
                                    .hardware = &engine->open.hardware,
                                    .devices = &engine->open.devices,
                                    .options = options};
    TRY(make_plan(&engine->open.plan, &engine->open.request, &engine->open.geometry, &planned, error));
    const struct plan *plan = engine->open.plan;
    plan_warn_of_too_much(plan, &engine->open.hardware);
    if (plan->chunk == 0 || plan->chunk > MAX_CHUNK || plan->positions == 0 || plan->positions > MAX_POSITIONS ||
        plan->sequences != engine->open.geometry.sequences)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "a plan with %u tokens per batch and %u positions is not possible", plan->chunk,
                         plan->positions);
    atomic_store(&engine->counters.budget, plan->budget);
    atomic_store(&engine->counters.largest_budget, plan->budget);
    engine->batch.prefetcher.ranks = prefetch_ranks(model_parameters(engine->open.model));
    struct compute_limits limits = compute_limits_of(&engine->open.geometry, plan->chunk);
    TRY(compute_create_limited(&engine->batch.compute, engine->open.geometry.threads, compute_best_instructions(),
                               &limits, error));
    TRY(scratch_create(&engine->batch.scratch, &engine->open.geometry, plan->chunk, plan->positions, error));
    TRY(kv_cache_create(&engine->batch.kv, &engine->open.geometry, plan->positions, plan->kv_positions, plan->kv_type,
                        error));
    TRY(ALLOCATE(&engine->counters.used, expert_places(&engine->open), "expert usage", error));
    engine->open.wait_for_all = options->wait_for_all;
    char usage[4096];
    bool remember = options->remember_usage && store_usage_path(engine->open.model, usage, sizeof usage);
    nodes_find(&engine->open, options);
    struct store_options store = {.reader = options->reader,
                                  .allow_buffered = true,
                                  .depth = options->depth,
                                  .cache_policy = options->cache_policy,
                                  .prefetching = options->prefetching,
                                  .fill = options->fill,
                                  .load_behind = options->begin_early,
                                  .usage_path = remember ? usage : NULL,
                                  .hardware = &engine->open.hardware,
                                  .drives = engine->open.hardware.drives,
                                  .nodes = &engine->open.nodes,
                                  .gpus = engine->open.devices.gpus,
                                  .gpu_count = plan->gpu ? engine->open.devices.count : 0};
    TRY(store_open(&engine->open.store, engine->open.model, plan, &store, error));
    TRY(nodes_use(&engine->open, engine->batch.compute, error));
    budget_lend_buffers(&engine->batch, 0);
    if (!options->experts_only)
        TRY(predictor_create(&engine->predictor, &engine->batch, error));
    if (options->trace_path)
        TRY(open_trace(&engine->batch, options->trace_path, error));
    TRY(store_load(engine->open.store, options->progress, options->progress_context, error));
    if (options->experts_only)
        return plan->gpu ? gpu_pass_open(&engine->batch, error) : HYPURA_OK;
    if (engine->batch.share)
        TRY(share_wait(engine->batch.share, error));
    TRY(open_rope(&engine->open, &engine->batch, error));
    return plan->gpu ? gpu_pass_open(&engine->batch, error) : HYPURA_OK;
}

void engine_watch_inputs(struct engine *engine, const struct engine_watch *watch)
{
    engine->batch.watch = watch;
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
    share_close(engine->batch.share);
    engine->batch.share = NULL;
    if (engine->open.store)
        store_close(engine->open.store);
    memory_free(engine->counters.used);
    predictor_destroy(engine->predictor);
    rope_table_destroy(&engine->open.rope);
    rope_table_destroy(&engine->open.rope_local);
    kv_cache_destroy(&engine->batch.kv);
    scratch_destroy(&engine->batch.scratch);
    compute_destroy(engine->batch.compute);
    plan_free(engine->open.plan);
    gpu_pass_close_devices(&engine->open.devices);
    engine->counters.used = NULL;
    engine->predictor = NULL;
    engine->open.store = NULL;
    engine->batch.lends = false;
    engine->batch.compute = NULL;
    engine->open.plan = NULL;
}

/* How often GPUs are tried, each time with less memory: not every driver tells how much other processes hold. */
#define GPU_ATTEMPTS 3

/* Limits each device to three quarters of what it refused. false: the plan requested nothing from any. */
static bool ask_for_less(struct engine_options *less, const struct engine *engine)
{
    const struct plan_gpu *plan = engine->open.plan ? engine->open.plan->gpu : NULL;
    for (uint32_t d = 0; plan && d < plan->part_count; d++)
        less->gpu_budgets[engine->open.devices.order[d]] = MAX(plan_gpu_bytes(&plan->parts[d]) / 4 * 3, (uint64_t)1);
    return plan;
}

/* Leaves out the device that failed, if there are others. false: the failed device is unknown, or the only one. */
static bool leave_out(struct engine_options *less, const struct engine *engine)
{
    const struct devices *devices = &engine->open.devices;
    uint32_t failed;
    if (devices->count < 2 || !gpu_pass_failed(&engine->batch, &failed))
        return false;
    less->gpus_left_out |= 1u << devices->order[failed];
    return true;
}

/* If GPUs refuse memory, opens again with less of theirs, and at last on the CPU alone. */
hypura_status engine_open_places(struct engine *engine, const struct engine_options *options, hypura_error *error)
{
    hypura_error problem = {0};
    hypura_status status = HYPURA_ERROR_MEMORY;
    struct engine_options less = *options;
    for (int attempt = 1; status == HYPURA_ERROR_MEMORY && attempt <= GPU_ATTEMPTS;) {
        if (engine->open.devices.count == 0) /* a rank has opened them to measure what they can hold */
            TRY(gpu_pass_open_devices(&engine->open.devices, &engine->open.hardware, &less, error));
        if (engine->open.devices.count == 0)
            return open_parts(engine, options, error);
        status = open_parts(engine, &less, &problem);
        if (status != HYPURA_ERROR_DEVICE && status != HYPURA_ERROR_MEMORY)
            return status ? error_set(error, status, "%s", problem.message) : HYPURA_OK;
        if (status == HYPURA_ERROR_DEVICE && leave_out(&less, engine)) {
            log_write(LOG_WARNING, "computing without one of the GPUs: %s", problem.message);
            status = HYPURA_ERROR_MEMORY; /* continue without this device */
            close_parts(engine);
            continue;
        }
        bool asked = ask_for_less(&less, engine);
        close_parts(engine);
        if (!asked)
            break;
        if (status == HYPURA_ERROR_MEMORY && attempt < GPU_ATTEMPTS)
            log_write(LOG_INFO, "%s; trying again with less GPU memory", problem.message);
        attempt++;
    }
    status = open_parts(engine, options, error);
    if (!status)
        log_write(LOG_WARNING, "computing on the CPU: %s", problem.message);
    return status;
}

/* A model without a vocabulary still computes; calls that need text return vocabulary_error. */
static void open_vocabulary(struct opened *open)
{
    const struct gguf *file = model_file(open->model);
    uint32_t rows = model_parameters(open->model)->vocabulary;
    if (vocabulary_open(&open->vocabulary, file, &open->vocabulary_error))
        return;
    uint32_t tokens = vocabulary_size(open->vocabulary);
    if (tokens == rows)
        return;
    vocabulary_close(open->vocabulary);
    open->vocabulary = NULL;
    error_set(&open->vocabulary_error, HYPURA_ERROR_FORMAT,
              "%s: the vocabulary has %u tokens, but the embedding and the logits have %u", gguf_file_path(file, 0),
              tokens, rows);
}

static hypura_status begin_opening(struct engine **out, enum engine_drafting drafting, hypura_error *error)
{
    struct engine *engine;
    TRY(ALLOCATE(&engine, 1, "engine", error));
    pthread_mutex_init(&engine->budget_mutex, NULL);
    engine->batch.open = &engine->open;
    engine->batch.counters = &engine->counters;
    engine->batch.narrowing.layer = NO_LAYER;
    engine->open.drafting = drafting;
    *out = engine;
    return HYPURA_OK;
}

/* Makes the steps and opens the adapters. If that fails, or status says that opening the file did, closes the
 * engine. */
static hypura_status finish_opening(struct engine **out, struct engine *engine, hypura_status status,
                                    const struct engine_options *options, hypura_error *error)
{
    struct opened *open = &engine->open;
    if (!status)
        status = steps_make(&open->steps, open->model, error);
    if (!status)
        status =
            adapters_open(&open->adapters, open->model, open->steps, options->adapters, options->adapter_count, error);
    if (status)
        engine_close(engine);
    else
        *out = engine;
    return status;
}

hypura_status engine_open_model(struct engine **out, const char *path, const struct engine_options *options,
                                hypura_error *error)
{
    struct engine *engine;
    TRY(begin_opening(&engine, options->drafting, error));
    struct opened *open = &engine->open;
    hypura_error missing = {0};
    hypura_status status = hardware_detect(&open->hardware, path, &missing);
    status = status ? model_open(&open->model, path, error) /* its message is more precise */
                    : engine_open_file(&open->model, path, &open->hardware, options, NULL, error);
    if (!status && missing.status)
        status = error_set(error, missing.status, "%s", missing.message);
    if (!status)
        open_vocabulary(open);
    return finish_opening(out, engine, status, options, error);
}

hypura_status engine_open_part(struct engine **out, const char *path, bool predicting,
                               const struct engine_options *options, hypura_error *error)
{
    struct engine *engine;
    char parts[PATH_MAX];
    const int length = snprintf(parts, sizeof parts, "%s" PARTS_ENDING, path);
    if (length < (int)sizeof parts && access(parts, F_OK) == 0)
        path = parts;
    TRY(begin_opening(&engine, DRAFTING_OFF, error));
    struct opened *open = &engine->open;
    hypura_error missing = {0};
    hypura_status found = hardware_detect(&open->hardware, path, &missing);
    hypura_status status = model_open_partial(&open->model, path, predicting, error);
    if (!status && found)
        status = error_set(error, found, "%s", missing.message);
    if (!status && (options->mirror_count || gguf_file_count(model_file(open->model)) > 1))
        status = store_find_drives(&open->hardware, open->model, options->mirrors, options->mirror_count, error);
    return finish_opening(out, engine, status, options, error);
}

void engine_close(struct engine *engine)
{
    if (!engine)
        return;
    prefix_close(engine->prefixes, false);
    close_parts(engine);
    engine_close(engine->draft_model);
    adapters_close(engine->open.adapters);
    vocabulary_close(engine->open.vocabulary);
    steps_free(engine->open.steps);
    model_close(engine->open.model);
    hardware_drop_drives(&engine->open.hardware);
    pthread_mutex_destroy(&engine->budget_mutex);
    memory_free(engine);
}

void engine_leave(struct engine *engine)
{
    hypura_error lost;
    if (!engine ||
        engine->open.devices.count) { /* closing waits for the device's work and keeps its compiled kernels */
        engine_close(engine);
        return;
    }
    prefix_close(engine->prefixes, false);
    engine->prefixes = NULL;
    if (engine_end_trace(engine, &lost))
        log_write(LOG_WARNING, "%s", lost.message);
    store_leave(engine->open.store);
}
