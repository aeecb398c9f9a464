/* Plans in the form of the API, for open models and for files. */
#include "api/api_private.h"

#define ONE_GIB ((int64_t)1 << 30)

struct own_plan {
    hypura_plan shown; /* first, since the program has its address */
    struct plan *plan; /* owns the texts of shown */
};

/* The bytes of a unit that are on storage. If the cache has room for all experts, none of them are. */
static uint64_t bytes_on_storage(const struct model *model, const struct plan *plan, unit_number unit)
{
    const struct unit *known = model_unit(model, unit);
    bool cached = known->kind == UNIT_EXPERT && plan->expert_cache_bytes && plan_holds_experts(plan);
    return plan->tiers[unit] == TIER_STORAGE && !cached ? plan_bytes_on_storage(plan, unit, known->bytes) : 0;
}

void describe_plan(hypura_plan *out, const struct model *model, const struct plan *plan,
                   const struct hardware *hardware)
{
    *out = (hypura_plan){.mode = plan_mode_name(plan->mode),
                         .reason = plan->reason,
                         .bound = plan_bound_name(plan->bound),
                         .tokens_per_second = plan->predicted_tokens_per_second,
                         .even_tokens_per_second = plan->even_tokens_per_second,
                         .tokens_per_second_with_one_more_gib = plan->predicted_tokens_per_second,
                         .bytes_read_per_token = plan->predicted_bytes_per_token,
                         .measured = hardware->measured,
                         .memory_bytes = plan->budget,
                         .smallest_memory_bytes = plan->smallest_budget,
                         .kv_bytes = plan->kv_bytes,
                         .cache_bytes = plan->expert_cache_bytes,
                         .context_tokens = plan->positions,
                         .sessions = plan->sequences,
                         .chunk_tokens = plan->chunk};
    for (unit_number u = 0; u < model_unit_count(model); u++) {
        uint64_t bytes = model_unit(model, u)->bytes, read = bytes_on_storage(model, plan, u);
        out->storage_bytes += read;
        *(plan->tiers[u] == TIER_GPU ? &out->gpu_bytes : &out->ram_bytes) += bytes - read;
    }
}

hypura_status plan_opening(struct plan **out, const struct model *model, const struct hardware *hardware,
                           struct opening *opening, hypura_error *error)
{
    struct engine_options *options = &opening->engine;
    if (!opening->given.sessions)
        options->sequences = 4;
    hypura_status status = engine_plan_only(out, model, hardware, options, error);
    while (status == HYPURA_ERROR_MEMORY && !opening->given.sessions && options->sequences > 1) {
        options->sequences /= 2;
        status = engine_plan_only(out, model, hardware, options, error);
    }
    if (!status && !(*out)->gpu)
        options->gpu = "none"; /* the plan has already reported why */
    return status;
}

static hypura_status make(struct own_plan *own, const char *path, struct opening *opening, hypura_error *error)
{
    struct engine_options *options = &opening->engine;
    struct hardware hardware = {0};
    struct model *model = NULL;
    char why[ENGINE_WHY];
    double more = 0;
    hypura_status status = hardware_detect(&hardware, path, error);
    if (!status)
        status = engine_open_file(&model, path, &hardware, options, why, error);
    if (!status)
        status = plan_opening(&own->plan, model, &hardware, opening, error);
    if (!status)
        status = engine_speed_with(&more, model, &hardware, options, ONE_GIB, error);
    if (!status) {
        plan_warn_of_too_much(own->plan, &hardware);
        describe_plan(&own->shown, model, own->plan, &hardware);
        if (own->plan->mode != PLAN_FULL_RESIDENT && more > 0)
            own->shown.tokens_per_second_with_one_more_gib = more;
    }
    model_close(model);
    hardware_drop_drives(&hardware);
    return status;
}

hypura_status hypura_plan_file(hypura_plan **out, const char *path, const hypura_options *options, hypura_error *error)
{
    struct opening opening;
    struct own_plan *own = NULL;
    hypura_status status = read_options(&opening, options, error);
    if (!status)
        status = ALLOCATE(&own, 1, "plan", error);
    if (!status)
        status = make(own, path, &opening, error);
    close_options(&opening);
    if (status) {
        if (own)
            hypura_plan_free(&own->shown);
        return status;
    }
    *out = &own->shown;
    return HYPURA_OK;
}

void hypura_plan_free(hypura_plan *plan)
{
    struct own_plan *own = (struct own_plan *)plan;
    if (!own)
        return;
    plan_free(own->plan);
    memory_free(own);
}
