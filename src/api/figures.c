/* An engine's statistics, as a struct and as JSON. */
#include "api/figures.h"

static void fill(hypura_statistics *out, struct engine *engine, const struct engine_statistics *all)
{
    const struct engine_statistics s = *all;
    struct limit limit = find_limit(engine, all);
    *out = (hypura_statistics){
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
        .code_bytes_on_top = engine_plan(engine)->code_on_top ? hardware_code_bytes() : 0,
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
        .drive_bytes_per_second = engine_hardware(engine)->storage.bytes_per_second,
    };
}

void figures_of(struct engine *engine, hypura_statistics *out)
{
    struct engine_statistics s;
    engine_statistics(engine, &s);
    fill(out, engine, &s);
}

/* ---- as JSON ---- */

/* precision: the share of prefetched experts that were needed. recall: the share of needed experts not in memory that
 * had been prefetched. Below 0: no such experts. */
struct prefetch_rates {
    double precision, recall;
};

json_t *text_json(const char *text)
{
    char *copy;
    json_t *json = json_string(text);
    if (json || string_copy(&copy, text, NULL))
        return json;
    text_clean(copy);
    json = json_string(copy);
    memory_free(copy);
    return json;
}

static struct prefetch_rates find_prefetch_rates(const hypura_statistics *s)
{
    double used = (double)s->prefetches_used, needed = used + (double)s->expert_misses;
    if (!s->prefetches)
        return (struct prefetch_rates){-1, -1};
    return (struct prefetch_rates){used / (double)s->prefetches, needed > 0 ? used / needed : -1};
}

static json_t *rate_json(double rate)
{
    return rate < 0 ? json_null() : json_real(rate);
}

/* Statistics per host. */
static json_t *hosts_json(struct engine *engine)
{
    struct engine_rank hosts[64];
    json_t *array = json_array();
    const uint32_t count = engine_ranks(engine, hosts, COUNT_OF(hosts));
    for (uint32_t i = 0; i < count; i++)
        json_array_append_new(
            array, json_pack("{s:i, s:o, s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f}", "rank",
                             (int)hosts[i].rank, "name", text_json(hosts[i].name), "layers", (int)hosts[i].layers,
                             "experts_computed", (json_int_t)hosts[i].experts_computed, "gpu_experts_computed",
                             (json_int_t)hosts[i].gpu_experts_computed, "expert_hits", (json_int_t)hosts[i].expert_hits,
                             "expert_misses", (json_int_t)hosts[i].expert_misses, "bytes_read",
                             (json_int_t)hosts[i].bytes_read, "bytes_sent", (json_int_t)hosts[i].bytes_sent,
                             "bytes_received", (json_int_t)hosts[i].bytes_received, "busy_seconds",
                             hosts[i].busy_seconds, "wait_seconds", hosts[i].wait_seconds, "link_seconds",
                             hosts[i].link_seconds, "link_bytes_per_second", hosts[i].link_bytes_per_second));
    return array;
}

/* Statistics per drive. */
static json_t *drives_json(const struct store_statistics *s)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < s->drive_count; i++)
        json_array_append_new(array,
                              json_pack("{s:o, s:I, s:f, s:f, s:i}", "device", text_json(s->drives[i].name),
                                        "bytes_read", (json_int_t)s->drives[i].bytes_read, "share",
                                        s->bytes_read ? (double)s->drives[i].bytes_read / (double)s->bytes_read : 0.0,
                                        "bytes_per_second", s->drives[i].bytes_per_second, "files_left",
                                        (int)s->drives[i].copies_left));
    return array;
}

/* Statistics per GPU. */
static json_t *gpus_json(const struct engine_statistics *s)
{
    json_t *array = json_array();
    for (uint32_t i = 0; i < s->device_count; i++)
        json_array_append_new(
            array, json_pack("{s:o, s:i, s:I, s:I, s:I, s:f}", "name", text_json(s->devices[i].name), "layers",
                             (int)s->devices[i].layers, "bytes", (json_int_t)s->devices[i].bytes, "kv_bytes",
                             (json_int_t)s->devices[i].kv_bytes, "kv_used_bytes",
                             (json_int_t)s->devices[i].kv_used_bytes, "busy_seconds", s->devices[i].busy_seconds));
    return array;
}

json_t *figures_json(struct engine *engine)
{
    struct engine_statistics all;
    hypura_statistics s;
    engine_statistics(engine, &all);
    fill(&s, engine, &all);
    struct prefetch_rates prefetches = find_prefetch_rates(&s);
    return json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, "
        "s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:f, s:o}",
        "model", model_name(engine_model(engine)), "mode", plan_mode_name(engine_plan(engine)->mode), "threads",
        (json_int_t)engine_threads(engine), "prompt_tokens", (json_int_t)s.prompt_tokens, "generated_tokens",
        (json_int_t)s.answer_tokens, "load_seconds", s.load_seconds, "prompt_seconds", s.prompt_seconds,
        "decode_seconds", s.answer_seconds, "prompt_tokens_per_second",
        s.prompt_seconds > 0 ? (double)s.prompt_tokens / s.prompt_seconds : 0.0, "decode_tokens_per_second",
        s.answer_seconds > 0 ? (double)s.answer_tokens / s.answer_seconds : 0.0, "bytes_read", (json_int_t)s.read_bytes,
        "bytes_demanded", (json_int_t)s.demanded_bytes, "bytes_guessed", (json_int_t)s.prefetched_bytes, "bytes_filled",
        (json_int_t)s.filled_bytes, "bytes_wasted", (json_int_t)s.wasted_bytes, "expert_hits",
        (json_int_t)s.expert_hits, "expert_misses", (json_int_t)s.expert_misses, "expert_moves",
        (json_int_t)s.expert_moves, "rows_wanted", (json_int_t)s.rows_wanted, "rows_cached", (json_int_t)s.rows_cached,
        "peak_rss_bytes", (json_int_t)s.peak_bytes, "budget_bytes", (json_int_t)s.memory_bytes, "bytes_gpu",
        (json_int_t)s.gpu_bytes, "bytes_ram", (json_int_t)s.ram_bytes, "bytes_storage", (json_int_t)s.storage_bytes,
        "decode_bytes_read", (json_int_t)s.answer_read_bytes, "decode_passes", (json_int_t)s.answer_passes,
        "drafted_tokens", (json_int_t)s.drafted_tokens, "accepted_tokens", (json_int_t)s.accepted_tokens,
        "share_of_limit", rate_json(s.share_of_limit), "share_side_by_side", rate_json(s.share_of_both_limits), "bound",
        s.bound, "guess_precision", rate_json(prefetches.precision), "guess_recall", rate_json(prefetches.recall),
        "code_on_top_bytes", (json_int_t)s.code_bytes_on_top, "prefix_bytes", (json_int_t)s.prefix_bytes,
        "prefix_tokens", (json_int_t)s.prefix_tokens, "prefix_bytes_read", (json_int_t)s.prefix_read_bytes,
        "prefix_bytes_written", (json_int_t)s.prefix_written_bytes, "drives", drives_json(&all.store), "hosts",
        hosts_json(engine), "hosts_expected_tokens_per_second", engine_ranks_expect(engine), "gpus", gpus_json(&all));
}
