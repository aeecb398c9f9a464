/* The smaller model that drafts tokens for another (draft.h). It is opened first and entirely in memory, so that the
 * other's plan can account for it. */
#include "engine/engine_private.h"

#include <string.h>

#define DRAFT_CONTEXT 8192u
#define DRAFT_CHUNK 256u

/* The share of tokens that may differ between the two vocabularies: model families pad theirs and rename reserved
 * tokens. */
#define DIFFERENT_SHARE 0.01

static struct engine_options draft_options(const struct engine_options *options)
{
    struct engine_options own = *options;
    own.keep_prefixes = false; /* its prompts are quick to read again */
    own.context = options->context ? options->context : DRAFT_CONTEXT;
    own.chunk = DRAFT_CHUNK;
    own.sequences = 1;
    own.shared_context = false;
    own.prefetching = STORE_PREFETCH_OFF;
    own.fill = false;
    own.cache_policy = NULL;
    own.adapters = NULL;
    own.adapter_count = 0;
    own.drafting = DRAFTING_OFF;
    own.draft_path = NULL;
    own.alone = true;
    own.mirror_count = 0; /* these belong to the large model */
    own.remember_usage = false;
    own.trace_path = NULL;
    return own;
}

/* Reserves memory for the state that a drafter keeps (draft.c). */
static hypura_status reserve_state(struct engine_options *options, const struct model *model, const struct plan *plan,
                                   hypura_error *error)
{
    struct engine_kept kept;
    TRY(engine_kept_of(&kept, model, plan->positions, plan->kv_type, error));
    options->reserved += kept.states ? (int64_t)(kept.states + kept.windows) : 0;
    return HYPURA_OK;
}

bool draft_model_wanted(const struct model *model, const struct engine_options *options)
{
    /* Recording the routing excludes drafts: engine_drafts. */
    return options->draft_path && options->drafting != DRAFTING_OFF && !options->trace_path && model_writes_text(model);
}

/* Whether token ids mean the same in both vocabularies. */
static bool same_tokens(const struct vocabulary *a, const struct vocabulary *b)
{
    if (!a || !b)
        return false;
    uint32_t common = MIN(vocabulary_size(a), vocabulary_size(b)), different = 0;
    for (uint32_t i = 0; i < common; i++) {
        struct gguf_string first = vocabulary_text(a, (int32_t)i), second = vocabulary_text(b, (int32_t)i);
        different += first.size != second.size || memcmp(first.data, second.data, first.size) != 0;
    }
    return different <= DIFFERENT_SHARE * common;
}

static hypura_status check(const struct engine *engine, const struct engine *small, const char *path,
                           hypura_error *error)
{
    if (!model_writes_text(small->open.model))
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s cannot draft tokens: it is an encoder", path);
    if (!same_tokens(engine->open.vocabulary, small->open.vocabulary))
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "%s cannot draft tokens for %s: their vocabularies differ; choose a smaller model of the "
                         "same family",
                         path, model_name(engine->open.model));
    if (small->open.plan->mode != PLAN_FULL_RESIDENT)
        return error_set(error, HYPURA_ERROR_MEMORY, "%s cannot draft tokens: it and its caches do not fit the budget",
                         path);
    return HYPURA_OK;
}

/* Takes the smaller model's share off the device memory that the other may use. */
static void share_device(struct engine_options *options, const struct plan *plan)
{
    for (uint32_t d = 0; plan->gpu && d < plan->gpu->part_count; d++) {
        uint64_t budget = options->gpu_budgets[d] ? options->gpu_budgets[d] : options->gpu_budget;
        if (budget)
            options->gpu_budgets[d] = budget - MIN(plan_gpu_bytes(&plan->gpu->parts[d]), budget - 1);
    }
}

hypura_status draft_model_open(struct engine *engine, struct engine_options *options, hypura_error *error)
{
    const char *path = options->draft_path;
    struct engine_options own = draft_options(options);
    own.begin_early = false; /* the large model's plan counts what is resident now */
    hypura_status status = engine_open_model(&engine->draft_model, path, &own, error);
    if (!status)
        status = engine_open_places(engine->draft_model, &own, error);
    if (!status)
        status = check(engine, engine->draft_model, path, error);
    if (status && options->draft_optional && status != HYPURA_ERROR_CANCELLED) {
        log_write(LOG_WARNING, "%s", error->message);
        engine_close(engine->draft_model);
        engine->draft_model = NULL;
        return HYPURA_OK;
    }
    if (status)
        return status;
    /* The memory that was planned for it and not touched yet. */
    const struct plan *plan = engine->draft_model->open.plan;
    options->reserved += (int64_t)(plan->kv_bytes + plan->scratch_bytes);
    share_device(options, plan);
    return reserve_state(options, engine->draft_model->open.model, plan, error);
}

hypura_status draft_model_plan(struct planned_draft *out, const struct model *model, const struct hardware *hardware,
                               struct engine_options *options, hypura_error *error)
{
    struct engine_options own = draft_options(options);
    struct plan *plan;
    if (!draft_model_wanted(model, options))
        return HYPURA_OK;
    TRY(model_open(&out->model, options->draft_path, error));
    vocabulary_open(&out->vocabulary, model_file(out->model), NULL);
    TRY(engine_plan_beside(&plan, out->model, hardware, &own, error));
    options->reserved +=
        (int64_t)(plan->resident_bytes + plan->pool_bytes + plan->table_bytes + plan->kv_bytes + plan->scratch_bytes);
    share_device(options, plan);
    hypura_status status = reserve_state(options, out->model, plan, error);
    plan_free(plan);
    return status;
}

void planned_draft_close(struct planned_draft *draft)
{
    vocabulary_close(draft->vocabulary);
    model_close(draft->model);
}
