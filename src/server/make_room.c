/* Makes room for a requested model: unloads unused models, or shrinks pools. */
#include "server/loaded_private.h"

#include <string.h>

/* A model that takes at most this part of the budget counts as small, and may be loaded next to a large one. */
#define SMALL_SHARE 4

/* The model that needs room. */
struct candidate {
    struct model *model;
    struct hardware *hardware;
    uint32_t context;
};

/* What a plan takes of its budget, and the part of it that is the model's own. */
struct fit {
    hypura_status status;
    bool whole; /* all weights would be in memory */
    uint64_t taken, own;
};

/* gone: bytes that other models will have given back by then. */
static struct fit plan_fit(struct loaded_models *models, const struct candidate *candidate, uint64_t gone)
{
    struct engine_options options;
    struct plan *plan;
    loaded_options(models, candidate->context, &options);
    options.reserved -= (int64_t)gone;
    struct fit fit = {.status = engine_plan_only(&plan, candidate->model, candidate->hardware, &options, NULL)};
    if (fit.status)
        return fit;
    fit.own = plan->resident_bytes + plan->pool_bytes + plan->table_bytes + plan->kv_bytes + plan->scratch_bytes;
    fit.taken = fit.own + plan->overhead_bytes + plan->reserve_bytes;
    fit.whole = plan->mode == PLAN_FULL_RESIDENT;
    plan_free(plan);
    return fit;
}

/* Whether the model could be opened for one answer at a time if no other were loaded. */
static hypura_status plan_alone(struct loaded_models *models, const struct candidate *candidate, hypura_error *error)
{
    struct engine_options options;
    struct plan *plan;
    loaded_options(models, candidate->context, &options);
    options.reserved -= (int64_t)loaded_look(models).held;
    options.sequences = 1;
    hypura_status status = engine_plan_only(&plan, candidate->model, candidate->hardware, &options, error);
    if (!status)
        plan_free(plan);
    return status;
}

/* Shrinks the pools of other models for a small one. */
static bool take_for(struct loaded_models *models, const struct candidate *candidate)
{
    uint64_t pools = 0, total = loaded_budget(models);
    for (uint32_t i = 0; i < models->count; i++)
        pools += loaded_can_give(models->items[i], false);
    if (!pools)
        return false;
    struct fit fit = plan_fit(models, candidate, pools);
    if (fit.status || !fit.whole || fit.own > total / SMALL_SHARE)
        return false;
    uint64_t taken = fit.taken + pools, missing = taken - MIN(taken, total) + LOADED_WOBBLE;
    pthread_mutex_lock(&models->mutex);
    bool given = loaded_take_from_pools(models, MIN(missing, pools), false);
    pthread_mutex_unlock(&models->mutex);
    return given;
}

static enum loaded_room make_room(struct loaded_models *models, const struct candidate *candidate)
{
    uint32_t most = models->server->options.most_loaded;
    for (bool asked_pools = false; models->count;) {
        struct fit fit = plan_fit(models, candidate, 0);
        struct loaded_share share = loaded_look(models);
        if (models->count < most) {
            if (fit.whole)
                return ROOM_NOW;
            if (!asked_pools && take_for(models, candidate)) {
                asked_pools = true;
                continue;
            }
            if (!fit.status && share.held <= share.total / SMALL_SHARE)
                return ROOM_NOW;
        }
        if (!loaded_oldest(models, true, 0))
            return ROOM_LATER;
        /* Next to a large model in use, unloading the unused ones may be in vain. */
        if (share.busy > share.total / SMALL_SHARE && !plan_fit(models, candidate, share.held - share.busy).whole)
            return ROOM_LATER;
        loaded_drop_oldest(models);
    }
    return ROOM_NOW;
}

/* Unloads what the name stood for before /api/create gave it another file or adapter. */
static void drop_namesakes(struct loaded_models *models, const struct model_entry *entry,
                           const struct loaded_model *but)
{
    for (uint32_t i = models->count; i-- > 0;) {
        struct loaded_model *model = models->items[i];
        if (model != but && !loaded_is_used(model) && strcmp(model->entry.name, entry->name) == 0)
            loaded_unload(models, model);
    }
}

static hypura_status open_candidate(struct loaded_models *models, struct candidate *candidate,
                                    const struct model_entry *entry, hypura_error *error)
{
    struct engine_options options;
    loaded_options(models, candidate->context, &options);
    options.mirror_count = 0; /* only opening the model needs them */
    hypura_status status = ALLOCATE(&candidate->hardware, 1, "hardware", error);
    if (!status)
        status = hardware_detect(candidate->hardware, entry->path, error);
    if (!status)
        status = engine_open_file(&candidate->model, entry->path, candidate->hardware, &options, NULL, error);
    return status;
}

/* If the GPU fails here, the model may still open without it, so that is tried. */
static bool can_never_be(struct loaded_models *models, const struct candidate *candidate, hypura_error *error)
{
    hypura_status status = plan_alone(models, candidate, error);
    if (status == HYPURA_ERROR_MEMORY) {
        conversations_clear(models->server->conversations);
        memory_give_back();
        status = plan_alone(models, candidate, error);
    }
    return status != HYPURA_OK && status != HYPURA_ERROR_DEVICE;
}

enum loaded_room loaded_make_room(struct loaded_models *models, const struct model_entry *entry, uint32_t context,
                                  hypura_error *error)
{
    struct loaded_model *old = loaded_find_file(models, entry);
    if (old && loaded_is_used(old))
        return ROOM_LATER;
    drop_namesakes(models, entry, old);
    if (models->count == 0)
        return ROOM_NOW; /* opening it shows whether it fits */
    struct candidate candidate = {.context = context};
    enum loaded_room room = ROOM_NEVER;
    if (!open_candidate(models, &candidate, entry, error) && !can_never_be(models, &candidate, error)) {
        if (old)
            loaded_unload(models, old);
        room = make_room(models, &candidate);
    }
    if (candidate.hardware)
        hardware_drop_drives(candidate.hardware);
    memory_free(candidate.hardware);
    model_close(candidate.model);
    return room;
}

bool loaded_drop_oldest(struct loaded_models *models)
{
    struct loaded_model *model = loaded_oldest(models, true, 0);
    if (model)
        loaded_unload(models, model);
    return model != NULL;
}
