/* Who gets how much of the memory. */
#include "server/loaded_private.h"

#include <string.h>

/* Of the budget: a model that takes no more is small, and is let in next to a large one. */
#define SMALL_SHARE 4
/* Memory comes and goes a little next to the models. */
#define WOBBLE ((uint64_t)512 << 10)
/* Of the budget, for requests without asking: of a large one, what plans set aside; at least so much. */
#define REQUESTS_SHARE 256
#define LEAST_REQUESTS ((uint64_t)4 << 20)
/* A budget that is chosen when the first model is loaded, until then. */
#define UNKNOWN_BUDGET ((uint64_t)512 << 20)

static bool is_used(const struct loaded_model *model)
{
    return model->active || model->held;
}

/* The one that was used longest ago, but after that time; NULL: there is none. */
static struct loaded_model *oldest(const struct loaded_models *models, bool idle, uint64_t after)
{
    struct loaded_model *found = NULL;
    for (uint32_t i = 0; i < models->count; i++) {
        struct loaded_model *model = models->items[i];
        if ((!idle || !is_used(model)) && model->used > after && (!found || model->used < found->used))
            found = model;
    }
    return found;
}

/* ---- the budget -----------------------------------------------------------------------------------------------------
 */

/* What models hold, and those that are in use; with the mutex. */
static uint64_t held_bytes(const struct loaded_models *models, bool busy_only)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < models->count; i++)
        bytes += !busy_only || is_used(models->items[i]) ? models->items[i]->bytes : 0;
    return bytes;
}

struct share {
    uint64_t total, held, busy;
};

static struct share look_at_share(struct loaded_models *models)
{
    pthread_mutex_lock(&models->mutex);
    struct share share = {models->total, held_bytes(models, false), held_bytes(models, true)};
    pthread_mutex_unlock(&models->mutex);
    return share;
}

static uint64_t budget_now(const struct loaded_models *models)
{
    return models->count ? models->total : models->budget ? models->budget : UNKNOWN_BUDGET;
}

/* For requests. */
static uint64_t room_for_requests(const struct loaded_models *models)
{
    return MAX(budget_now(models) / REQUESTS_SHARE, LEAST_REQUESTS);
}

static uint64_t free_bytes(const struct loaded_models *models)
{
    uint64_t beyond = models->lent - MIN(models->lent, room_for_requests(models));
    int64_t taken = (int64_t)(models->base + held_bytes(models, false) + beyond) + models->aside;
    return (int64_t)models->total > taken ? (uint64_t)((int64_t)models->total - taken) : 0;
}

/* What the pool of a model could do without. */
static uint64_t can_give(const struct loaded_model *model, bool to_the_least)
{
    struct store_statistics s;
    store_statistics(engine_store(model->engine), &s);
    uint64_t floor = to_the_least ? s.pool_least_bytes : MAX(s.pool_least_bytes, model->opened_pool / 2);
    return s.pool_bytes > floor ? s.pool_bytes - floor : 0;
}

static bool change_pool(struct loaded_model *model, int64_t bytes)
{
    uint64_t budget = (uint64_t)((int64_t)model->engine_budget + bytes);
    if (engine_set_budget(model->engine, budget, NULL))
        return false;
    model->engine_budget = budget;
    model->bytes = (uint64_t)((int64_t)model->bytes + bytes);
    server_log("info", "pool changed", "model=%s by=%lld", model->entry.name, (long long)bytes);
    return true;
}

/* Takes so much from pools, with the mutex: of models that nobody uses first, and of those the ones that were used
 * longest ago. */
static bool take_from_pools(struct loaded_models *models, uint64_t bytes, bool to_the_least)
{
    for (int pass = 0; pass < 2 && bytes; pass++) {
        struct loaded_model *model;
        for (uint64_t after = 0; bytes && (model = oldest(models, pass == 0, after)); after = model->used) {
            uint64_t part = MIN(bytes, can_give(model, to_the_least));
            if (part && change_pool(model, -(int64_t)part))
                bytes -= part;
        }
    }
    return bytes == 0;
}

/* With the mutex. The one that was used last first. */
static void spread(struct loaded_models *models)
{
    uint64_t before = UINT64_MAX;
    if (models->opening)
        return; /* that is its own */
    for (uint32_t i = 0; i < models->count; i++) {
        struct loaded_model *model = NULL;
        for (uint32_t k = 0; k < models->count; k++) {
            struct loaded_model *each = models->items[k];
            if (each->used < before && (!model || each->used > model->used))
                model = each;
        }
        if (!model)
            return;
        before = model->used;
        struct store_statistics s;
        store_statistics(engine_store(model->engine), &s);
        uint64_t part = s.pool_bytes && s.pool_bytes < model->streamed ? model->streamed - s.pool_bytes : 0;
        part = MIN(part, free_bytes(models));
        if (part >= WOBBLE)
            change_pool(model, (int64_t)part);
    }
}

void loaded_spread(struct loaded_models *models)
{
    pthread_mutex_lock(&models->mutex);
    spread(models);
    pthread_mutex_unlock(&models->mutex);
}

hypura_status loaded_set_budget(struct loaded_models *models, uint64_t bytes, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    pthread_mutex_lock(&models->mutex);
    if (models->opening) {
        status = error_set(error, HYPURA_ERROR_MEMORY, "a model is being loaded");
    } else if (models->count && bytes < models->total) {
        uint64_t less = models->total - bytes, free = free_bytes(models), pools = 0;
        for (uint32_t i = 0; i < models->count; i++)
            pools += can_give(models->items[i], true);
        if (less > free && less - free > pools)
            status = error_set(error, HYPURA_ERROR_MEMORY, "more than that is in memory for good");
        else if (less > free && !take_from_pools(models, less - free, true))
            status = error_set(error, HYPURA_ERROR_MEMORY, "the pools cannot be made so small");
    }
    if (!status) {
        models->budget = models->total = bytes;
        spread(models);
    }
    pthread_mutex_unlock(&models->mutex);
    return status;
}

uint64_t loaded_resident(struct loaded_models *models)
{
    uint64_t resident = memory_resident_bytes();
    pthread_mutex_lock(&models->mutex);
    uint64_t grown = resident - MIN(resident, models->base), held = held_bytes(models, false);
    pthread_mutex_unlock(&models->mutex);
    return MIN(grown, held); /* answers in work and the like are not given back with a model */
}

uint64_t loaded_budget(struct loaded_models *models)
{
    pthread_mutex_lock(&models->mutex);
    uint64_t bytes = models->count ? models->total : models->budget;
    pthread_mutex_unlock(&models->mutex);
    return bytes;
}

/* ---- requests -------------------------------------------------------------------------------------------------------
 */

static uint64_t pools_can_give(const struct loaded_models *models)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < models->count; i++)
        bytes += can_give(models->items[i], false);
    return bytes;
}

/* With the mutex. */
static bool lend(struct loaded_models *models, uint64_t bytes)
{
    uint64_t before = MAX(models->lent, room_for_requests(models)), after = models->lent + bytes;
    if (after <= before)
        return true;
    if (models->opening) /* it was promised what is free */
        return false;
    if (!models->count)
        return after <= budget_now(models) / 2;
    uint64_t more = after - before, free = free_bytes(models);
    return more <= free || (more - free <= pools_can_give(models) && take_from_pools(models, more - free, false));
}

enum loaded_room loaded_lend(struct loaded_models *models, uint64_t bytes, uint64_t own)
{
    pthread_mutex_lock(&models->mutex);
    enum loaded_room room = lend(models, bytes) ? ROOM_NOW : ROOM_LATER;
    if (room == ROOM_NOW)
        models->lent += bytes;
    else if (!models->opening && models->lent - own < bytes)
        room = ROOM_NEVER;
    pthread_mutex_unlock(&models->mutex);
    return room;
}

void loaded_return(struct loaded_models *models, uint64_t bytes)
{
    pthread_mutex_lock(&models->mutex);
    bool gives = models->lent > room_for_requests(models);
    models->lent -= bytes;
    if (gives)
        spread(models);
    pthread_mutex_unlock(&models->mutex);
}

uint64_t loaded_lendable(struct loaded_models *models)
{
    pthread_mutex_lock(&models->mutex);
    uint64_t requests = MAX(models->lent, room_for_requests(models)), bytes = budget_now(models) / 2;
    if (models->opening)
        bytes = UINT64_MAX;
    else if (models->count)
        bytes = requests + free_bytes(models) + pools_can_give(models);
    pthread_mutex_unlock(&models->mutex);
    return bytes;
}

/* ---- opening --------------------------------------------------------------------------------------------------------
 */

/* Others may come to hold more than they hold now: that is theirs already. */
bool loaded_options(struct loaded_models *models, uint32_t context, struct engine_options *options)
{
    *options = models->server->options.engine;
    uint64_t resident = memory_resident_bytes();
    pthread_mutex_lock(&models->mutex);
    uint64_t promised = models->base + held_bytes(models, false) + models->lent;
    options->budget = models->budget;
    bool first = models->count == 0;
    if (!first) {
        options->budget = models->total;
        options->reserved = (int64_t)(promised - MIN(promised, resident));
    }
    for (uint32_t d = 0; d < HARDWARE_MAX_GPUS; d++) {
        uint64_t gpu = 0, asked = options->gpu_budgets[d] ? options->gpu_budgets[d] : options->gpu_budget;
        for (uint32_t i = 0; i < models->count; i++)
            gpu += models->items[i]->gpu_bytes[d];
        if (asked)
            options->gpu_budgets[d] = asked - MIN(gpu, asked - 1);
    }
    bool gpu_fails = models->gpu_fails;
    pthread_mutex_unlock(&models->mutex);
    if (gpu_fails)
        options->gpu = "none";
    options->context = MAX(options->context, context);
    options->sequences = models->server->options.parallel;
    options->shared_context = true;
    return first;
}

/* A model that asks for room. */
struct candidate {
    struct model *model;
    struct hardware *hardware;
    uint32_t context;
};

/* What a plan takes of its budget, and of that, what the model itself would. */
struct fit {
    hypura_status status;
    bool whole; /* nothing would be read while it runs */
    uint64_t taken, own;
};

/* gone: what others will have given back by then. */
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

/* Whether it could be opened if nothing else were loaded, for one answer at a time. */
static hypura_status plan_alone(struct loaded_models *models, const struct candidate *candidate, hypura_error *error)
{
    struct engine_options options;
    struct plan *plan;
    loaded_options(models, candidate->context, &options);
    options.reserved -= (int64_t)look_at_share(models).held;
    options.sequences = 1;
    hypura_status status = engine_plan_only(&plan, candidate->model, candidate->hardware, &options, error);
    if (!status)
        plan_free(plan);
    return status;
}

/* Out of the pools of others, for one that is small. */
static bool take_for(struct loaded_models *models, const struct candidate *candidate)
{
    uint64_t pools = 0, total = loaded_budget(models);
    for (uint32_t i = 0; i < models->count; i++)
        pools += can_give(models->items[i], false);
    if (!pools)
        return false;
    struct fit fit = plan_fit(models, candidate, pools);
    if (fit.status || !fit.whole || fit.own > total / SMALL_SHARE)
        return false;
    uint64_t taken = fit.taken + pools, missing = taken - MIN(taken, total) + WOBBLE;
    pthread_mutex_lock(&models->mutex);
    bool given = take_from_pools(models, MIN(missing, pools), false);
    pthread_mutex_unlock(&models->mutex);
    return given;
}

static enum loaded_room make_room(struct loaded_models *models, const struct candidate *candidate)
{
    uint32_t most = models->server->options.most_loaded;
    for (bool asked_pools = false; models->count;) {
        struct fit fit = plan_fit(models, candidate, 0);
        struct share share = look_at_share(models);
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
        if (!oldest(models, true, 0))
            return ROOM_LATER;
        /* Where the large one is in use it does not help that others go. */
        if (share.busy > share.total / SMALL_SHARE && !plan_fit(models, candidate, share.held - share.busy).whole)
            return ROOM_LATER;
        loaded_drop_oldest(models);
    }
    return ROOM_NOW;
}

/* What a name stood for before /api/create gave it another file or adapter. */
static void drop_namesakes(struct loaded_models *models, const struct model_entry *entry,
                           const struct loaded_model *but)
{
    for (uint32_t i = models->count; i-- > 0;) {
        struct loaded_model *model = models->items[i];
        if (model != but && !is_used(model) && strcmp(model->entry.name, entry->name) == 0)
            loaded_unload(models, model);
    }
}

static hypura_status open_candidate(struct loaded_models *models, struct candidate *candidate,
                                    const struct model_entry *entry, hypura_error *error)
{
    struct engine_options options;
    loaded_options(models, candidate->context, &options);
    options.mirror_count = 0; /* opening it for good looks for them */
    hypura_status status = ALLOCATE(&candidate->hardware, 1, "hardware", error);
    if (!status)
        status = hardware_detect(candidate->hardware, entry->path, error);
    if (!status)
        status = engine_open_file(&candidate->model, entry->path, candidate->hardware, &options, NULL, error);
    return status;
}

/* A device that fails here is not there when the model is opened, perhaps: that is tried. */
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
    if (old && is_used(old))
        return ROOM_LATER;
    drop_namesakes(models, entry, old);
    if (models->count == 0)
        return ROOM_NOW; /* opening it tells whether it can be */
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
    struct loaded_model *model = oldest(models, true, 0);
    if (model)
        loaded_unload(models, model);
    return model != NULL;
}
