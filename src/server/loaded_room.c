/* Divides the memory budget among models and requests. */
#include "server/loaded_private.h"

#include <string.h>

/* This part of the budget, and at least LEAST_REQUESTS, is reserved for requests. Plans of large budgets set as much
 * aside. */
#define REQUESTS_SHARE 256
#define LEAST_REQUESTS ((uint64_t)4 << 20)
/* Assumed until the first model is loaded, if the budget is only chosen then. */
#define UNKNOWN_BUDGET ((uint64_t)512 << 20)

bool loaded_is_used(const struct loaded_model *model)
{
    return model->active || model->held;
}

struct loaded_model *loaded_oldest(const struct loaded_models *models, bool idle, uint64_t after)
{
    struct loaded_model *found = NULL;
    for (uint32_t i = 0; i < models->count; i++) {
        struct loaded_model *model = models->items[i];
        if ((!idle || !loaded_is_used(model)) && model->used > after && (!found || model->used < found->used))
            found = model;
    }
    return found;
}

/* ---- the budget -----------------------------------------------------------------------------------------------------
 */

/* What all models hold, or only those in use. With the mutex held. */
static uint64_t held_bytes(const struct loaded_models *models, bool busy_only)
{
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < models->count; i++)
        bytes += !busy_only || loaded_is_used(models->items[i]) ? models->items[i]->bytes : 0;
    return bytes;
}

struct loaded_share loaded_look(struct loaded_models *models)
{
    pthread_mutex_lock(&models->mutex);
    struct loaded_share share = {models->total, held_bytes(models, false), held_bytes(models, true)};
    pthread_mutex_unlock(&models->mutex);
    return share;
}

static uint64_t budget_now(const struct loaded_models *models)
{
    return models->count ? models->total : models->budget ? models->budget : UNKNOWN_BUDGET;
}

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

uint64_t loaded_can_give(const struct loaded_model *model, bool to_the_least)
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

bool loaded_take_from_pools(struct loaded_models *models, uint64_t bytes, bool to_the_least)
{
    for (int pass = 0; pass < 2 && bytes; pass++) {
        struct loaded_model *model;
        for (uint64_t after = 0; bytes && (model = loaded_oldest(models, pass == 0, after)); after = model->used) {
            uint64_t part = MIN(bytes, loaded_can_give(model, to_the_least));
            if (part && change_pool(model, -(int64_t)part))
                bytes -= part;
        }
    }
    return bytes == 0;
}

/* With the mutex held. The most recently used model gets memory first. */
static void spread(struct loaded_models *models)
{
    uint64_t before = UINT64_MAX;
    if (models->opening)
        return; /* the free memory is for that model */
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
        if (part >= LOADED_WOBBLE)
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
            pools += loaded_can_give(models->items[i], true);
        if (less > free && less - free > pools)
            status = error_set(error, HYPURA_ERROR_MEMORY, "the loaded models cannot release so much memory");
        else if (less > free && !loaded_take_from_pools(models, less - free, true))
            status = error_set(error, HYPURA_ERROR_MEMORY, "the pools cannot shrink so far");
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
    return MIN(grown, held); /* memory of running answers, for example, does not go with a model */
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
        bytes += loaded_can_give(models->items[i], false);
    return bytes;
}

/* With the mutex held. */
static bool lend(struct loaded_models *models, uint64_t bytes)
{
    uint64_t before = MAX(models->lent, room_for_requests(models)), after = models->lent + bytes;
    if (after <= before)
        return true;
    if (models->opening) /* the free memory is for that model */
        return false;
    if (!models->count)
        return after <= budget_now(models) / 2;
    uint64_t more = after - before, free = free_bytes(models);
    return more <= free ||
           (more - free <= pools_can_give(models) && loaded_take_from_pools(models, more - free, false));
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

/* What other models may still come to hold is reserved for them. */
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
