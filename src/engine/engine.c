#include "engine/engine_private.h"

#include <stdlib.h>

void engine_default_options(struct engine_options *options)
{
    *options = (struct engine_options){.kv_type = TENSOR_F16, .reader = STORE_READER_AUTO, .fill = true};
}

/* ---- opening, with the smaller model -------------------------------------------------------------------------------
 */

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

hypura_status engine_open(struct engine **out, const char *path, const struct engine_options *options,
                          hypura_error *error)
{
    struct engine *engine;
    struct engine_options rest = *options;
    uint64_t start = clock_nanoseconds();
    TRY(engine_open_model(&engine, path, options, error));
    hypura_status status = HYPURA_OK;
    if (draft_model_wanted(engine->open.model, options))
        status = draft_model_open(engine, &rest, error);
    if (!status)
        status = engine_open_places(engine, &rest, error);
    if (status) {
        engine_close(engine);
        return status;
    }
    engine->open.load_seconds = clock_seconds_since(start);
    *out = engine;
    return HYPURA_OK;
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
    if (sequence >= engine->batch.kv.sequences)
        return true;
    uint32_t before = engine->batch.kv.held[sequence];
    bool kept = kv_cache_truncate(&engine->batch.kv, sequence, positions);
    uint32_t now = engine->batch.kv.held[sequence];
    if (engine->predictor && now < before)
        predictor_truncate(engine->predictor, sequence, now, before - now);
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
    for (size_t i = 0; i < expert_places(&engine->open); i++)
        used[i] = atomic_exchange_explicit(&engine->counters.used[i], false, memory_order_relaxed);
}
