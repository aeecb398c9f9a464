/* What a model did so far, and where its weights are. */
#include "api/api_private.h"

#include <string.h>

void hypura_get_statistics(hypura_model *model, hypura_statistics *out)
{
    struct engine_statistics s;
    hypura_statistics own = {.bound = "", .share_of_limit = -1, .share_of_both_limits = -1};
    if (!model->engine) {
        give_struct(out, &own, sizeof own);
        return;
    }
    engine_statistics(model->engine, &s);
    struct limit limit = find_limit(model->engine, &s);
    own = (hypura_statistics){
        .load_seconds = s.load_seconds,
        .prompt_tokens = s.prompt_tokens,
        .answer_tokens = s.generated_tokens,
        .prompt_seconds = s.prompt_seconds,
        .answer_seconds = s.decode_seconds,
        .answer_passes = s.decode_passes,
        .drafted_tokens = s.drafted_tokens,
        .accepted_tokens = s.accepted_tokens,
        .read_bytes = s.store.bytes_read,
        .loaded_bytes = s.store.bytes_loaded,
        .demanded_bytes = s.store.bytes_demanded,
        .prefetched_bytes = s.store.bytes_prefetched,
        .filled_bytes = s.store.bytes_filled,
        .wasted_bytes = s.store.bytes_wasted,
        .answer_read_bytes = s.decode_bytes_read,
        .expert_hits = s.store.expert_hits,
        .expert_misses = s.store.expert_misses,
        .expert_moves = s.store.expert_moves,
        .prefetches = s.store.prefetches,
        .prefetches_used = s.store.prefetches_used,
        .rows_wanted = s.store.rows_wanted,
        .rows_cached = s.store.rows_cached,
        .stall_seconds = (double)s.store.stall_nanoseconds * 1e-9,
        .memory_bytes = s.budget_bytes,
        .largest_memory_bytes = s.largest_budget_bytes,
        .peak_bytes = s.peak_rss_bytes,
        .code_bytes_on_top = engine_plan(model->engine)->code_on_top ? hardware_code_bytes() : 0,
        .gpu_bytes = s.bytes_gpu,
        .ram_bytes = s.bytes_ram,
        .storage_bytes = s.bytes_storage,
        .prefix_bytes = s.prefix.bytes,
        .prefix_tokens = s.prefix.restored_tokens,
        .prefix_read_bytes = s.prefix.read_bytes,
        .prefix_written_bytes = s.prefix.written_bytes,
        .bound = plan_bound_name(limit.bound),
        .share_of_limit = limit.share,
        .share_of_both_limits = limit.side_share,
        .over_profile = limit.over_profile,
        .drive_bytes_per_second = engine_hardware(model->engine)->storage.bytes_per_second,
    };
    give_struct(out, &own, sizeof own);
}

static void add_places(hypura_places *row, const uint64_t bytes[UNIT_STATES])
{
    row->gpu_bytes += bytes[UNIT_ON_GPU];
    row->ram_bytes += bytes[UNIT_PINNED];
    row->cached_bytes += bytes[UNIT_CACHED];
    row->storage_bytes += bytes[UNIT_ON_STORAGE] + bytes[UNIT_IN_FLIGHT];
}

size_t hypura_get_places(hypura_model *model, hypura_places *rows, size_t room)
{
    size_t layers = model->info.layers;
    if (!model->engine)
        return 0;
    for (size_t i = 0; i < MIN(room, layers + 1); i++)
        rows[i] = (hypura_places){0};
    const struct model *known = engine_model(model->engine);
    for (unit_number u = 0; u < model_unit_count(known); u++) {
        int32_t layer = model_unit(known, u)->layer;
        size_t row = layer < 0 ? layers : (size_t)layer;
        uint64_t bytes[UNIT_STATES] = {0};
        if (row >= room)
            continue;
        store_count_bytes(engine_store(model->engine), u, bytes);
        add_places(&rows[row], bytes);
    }
    return layers + 1;
}

size_t hypura_take_used_experts(hypura_model *model, bool *used, size_t room)
{
    size_t count = (size_t)model->info.layers * model->info.experts;
    bool *all;
    if (!model->engine || !count || ALLOCATE(&all, count, "expert usage", NULL))
        return 0;
    engine_take_used(model->engine, all);
    memcpy(used, all, MIN(room, count) * sizeof *all);
    memory_free(all);
    return count;
}
