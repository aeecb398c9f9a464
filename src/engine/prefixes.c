/* Opens the store of prefixes: chooses its share of the budget, and computes the digest for its files. */
#include "engine/engine_private.h"

/* The store's share of the budget: by default so little that the pool hardly loses speed, and at most the other if an
 * option sets it. */
#define PART 16
#define MOST_PART 2

/* Checkpoints of layers with states are large. There is room for this many of them, within this share of the budget. */
#define CHECKPOINTS 6
#define CHECKPOINTS_PART 8

static bool lend(void *context, uint64_t bytes)
{
    return budget_lend(context, bytes);
}

static uint64_t choose_bytes(const struct engine *engine, uint64_t asked)
{
    const struct plan *plan = engine->open.plan;
    uint64_t checkpoints = MIN(CHECKPOINTS * engine_checkpoint_bytes(engine), plan->budget / CHECKPOINTS_PART);
    uint64_t bytes = asked ? MIN(asked, plan->budget / MOST_PART) : MAX(plan->budget / PART, checkpoints);
    return plan->pool_bytes ? bytes : MIN(bytes, budget_spare(engine));
}

hypura_status prefixes_open(struct engine *engine, const struct engine_options *options, hypura_error *error)
{
    bool nothing = !engine_rows_bytes(engine, 0, PLAN_KV_BLOCK) && !engine_checkpoint_bytes(engine);
    if (nothing && options->prefix_path)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s is an encoder: its prefixes cannot be kept",
                         model_name(engine->open.model));
    if (nothing || !options->keep_prefixes)
        return HYPURA_OK;
    struct prefix_options prefix = {.block = PLAN_KV_BLOCK,
                                    .needs_checkpoint = engine_checkpoint_bytes(engine) > 0,
                                    .bytes = choose_bytes(engine, options->prefix_bytes),
                                    .folder = options->prefix_path,
                                    .folder_bytes = options->prefix_path_bytes,
                                    .lend = lend,
                                    .lend_context = engine};
    if (prefix.folder)
        TRY(engine_state_digest(&prefix.digest, engine, error));
    return prefix_open(&engine->prefixes, &prefix, error);
}
