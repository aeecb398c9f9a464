/* The store of what was computed of texts: how much of the budget it may have, and under which digest. */
#include "engine/engine_private.h"

/* Of the budget of a model that streams, as much as costs its pool little; of one that does not, of what is left. */
#define STREAMED_PART 16
#define RESIDENT_PART 4

/* Checkpoints are large where layers have states; a conversation wants some of them. */
#define CHECKPOINTS 6
#define CHECKPOINTS_PART 8

static bool lend(void *context, uint64_t bytes)
{
    return budget_lend(context, bytes);
}

static uint64_t choose_bytes(const struct engine *engine)
{
    const struct plan *plan = engine->open.plan;
    if (!plan->pool_bytes)
        return MIN(budget_spare(engine), plan->budget / RESIDENT_PART);
    uint64_t checkpoints = CHECKPOINTS * engine_checkpoint_bytes(engine);
    return MAX(plan->budget / STREAMED_PART, MIN(checkpoints, plan->budget / CHECKPOINTS_PART));
}

hypura_status prefixes_open(struct engine *engine, const struct engine_options *options, hypura_error *error)
{
    bool nothing = !engine_rows_bytes(engine, 0, PLAN_KV_BLOCK) && !engine_checkpoint_bytes(engine);
    if (nothing && options->prefix_path)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s is an encoder, of which no prefix can be kept",
                         model_name(engine->open.model));
    if (nothing || !options->keep_prefixes)
        return HYPURA_OK;
    struct prefix_options prefix = {.block = PLAN_KV_BLOCK,
                                    .needs_checkpoint = engine_checkpoint_bytes(engine) > 0,
                                    .bytes = options->prefix_bytes ? options->prefix_bytes : choose_bytes(engine),
                                    .folder = options->prefix_path,
                                    .folder_bytes = options->prefix_path_bytes,
                                    .lend = lend,
                                    .lend_context = engine};
    if (prefix.folder)
        TRY(engine_state_digest(&prefix.digest, engine, error));
    return prefix_open(&engine->prefixes, &prefix, error);
}
