#include "engine/engine_private.h"

#include <stdlib.h>

void engine_default_options(struct engine_options *options)
{
    *options = (struct engine_options){
        .kv_type = TENSOR_F16, .reader = STORE_READER_AUTO, .fill = true, .keep_prefixes = true};
}

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
    return engine_gpu_at(engine, 0);
}

const struct gpu_info *engine_gpu_at(const struct engine *engine, uint32_t number)
{
    for (uint32_t d = 0; d < engine->open.devices.count; d++)
        if (engine->batch.passes[d] && number-- == 0)
            return &engine->open.devices.infos[d].info;
    return NULL;
}

const struct hardware_gpu *engine_device_at(const struct engine *engine, uint32_t number)
{
    for (uint32_t d = 0; d < engine->open.devices.count; d++)
        if (engine->batch.passes[d] && number-- == 0)
            return &engine->open.devices.infos[d];
    return NULL;
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

struct prefix_store *engine_prefixes(const struct engine *engine)
{
    return engine->prefixes;
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

uint64_t engine_room_of(const struct engine *engine, const uint32_t *positions)
{
    return kv_cache_room_of(&engine->batch.kv, positions);
}

bool engine_can_share(const struct engine *engine)
{
    return engine->batch.kv.can_share;
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

/* Repeats until the value passed on is current: another thread may have changed it meanwhile. */
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
    if (engine->prefixes)
        prefix_statistics(engine->prefixes, &out->prefix);
    out->device_count = gpu_pass_statistics(&engine->batch, out->devices);
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
