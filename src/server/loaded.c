#include "server/loaded_private.h"

#include "engine/prompt.h"

#include <string.h>
#include <time.h>

/* ---- finding ------------------------------------------------------------------------------------------------------
 */

void loaded_adapter_path(const struct loaded_models *models, const struct model_entry *entry, char *path, size_t room)
{
    const char *name = json_string_value(json_object_get(entry->manifest, "adapter"));
    if (!name || !*name || !registry_adapter(models->server->registry, name, path, room))
        *path = 0;
}

static bool same_model(const struct loaded_models *models, const struct model_entry *a, const struct model_entry *b)
{
    char one[4096], other[4096];
    if (strcmp(a->path, b->path) != 0)
        return false;
    loaded_adapter_path(models, a, one, sizeof one);
    loaded_adapter_path(models, b, other, sizeof other);
    return strcmp(one, other) == 0;
}

static bool same_version(const struct model_entry *a, const struct model_entry *b)
{
    return a->stamp == b->stamp;
}

struct loaded_model *loaded_find_file(struct loaded_models *models, const struct model_entry *entry)
{
    for (uint32_t i = 0; i < models->count; i++) {
        if (same_model(models, &models->items[i]->entry, entry))
            return models->items[i];
    }
    return NULL;
}

struct loaded_model *loaded_find(struct loaded_models *models, const struct model_entry *entry, uint32_t context)
{
    struct loaded_model *model = loaded_find_file(models, entry);
    /* A replaced file is another model, and a model whose GPU was lost cannot answer. */
    if (!model || model->gone || engine_lost(model->engine) || !same_version(&model->entry, entry))
        return NULL;
    uint32_t positions = engine_plan(model->engine)->positions;
    return context <= positions || positions >= model_parameters(engine_model(model->engine))->context ? model : NULL;
}

uint32_t loaded_count(const struct loaded_models *models)
{
    return models->count;
}

struct loaded_model *loaded_at(struct loaded_models *models, uint32_t index)
{
    return models->items[index];
}

/* ---- opening --------------------------------------------------------------------------------------------------------
 */

hypura_status loaded_prepare(struct loaded_models *models, struct loaded_model **out, struct model_entry *entry,
                             hypura_error *error)
{
    struct loaded_model *fresh;
    hypura_status status = ALLOCATE(&fresh, 1, "model", error);
    if (status)
        return status;
    fresh->entry = *entry;
    *entry = (struct model_entry){0};
    pthread_mutex_lock(&models->mutex);
    models->opening = fresh;
    pthread_mutex_unlock(&models->mutex);
    *out = fresh;
    return HYPURA_OK;
}

static hypura_status open_engine(struct loaded_models *models, struct loaded_model *fresh,
                                 struct engine_options *options, hypura_error *error)
{
    char adapter[4096];
    struct engine_adapter adapters[] = {{adapter, 1}};
    loaded_adapter_path(models, &fresh->entry, adapter, sizeof adapter);
    if (*adapter) {
        options->adapters = adapters;
        options->adapter_count = 1;
    }
    hypura_status status = engine_open(&fresh->engine, fresh->entry.path, options, error);
    if (status == HYPURA_ERROR_MEMORY) {
        conversations_clear(models->server->conversations);
        memory_give_back();
        status = engine_open(&fresh->engine, fresh->entry.path, options, error);
    }
    while (status == HYPURA_ERROR_MEMORY && options->sequences > 1) {
        options->sequences /= 2;
        server_log("warning", "the budget is too small for --parallel: fewer answers run at once", "parallel=%u",
                   options->sequences);
        status = engine_open(&fresh->engine, fresh->entry.path, options, error);
    }
    return status;
}

/* Computes the model's share of the budget: what became resident from the start of opening to planning, and all that is
 * planned. first: no other model was loaded when it was planned; some may have been unloaded since. */
static void set_share(struct loaded_models *models, struct loaded_model *fresh, uint64_t resident, int64_t reserved,
                      bool first)
{
    const struct plan *plan = engine_plan(fresh->engine);
    uint64_t then = plan->overhead_bytes + plan->code_on_top;
    fresh->bytes = then - MIN(then, resident + (uint64_t)reserved) + plan->resident_bytes + plan->pool_bytes +
                   plan->table_bytes + plan->kv_bytes + plan->scratch_bytes;
    struct engine_statistics s;
    engine_statistics(fresh->engine, &s);
    if (!plan->pool_bytes) /* otherwise it comes out of the pool */
        fresh->bytes += s.prefix.limit;
    fresh->opened_pool = plan->pool_bytes;
    fresh->engine_budget = plan->budget;
    const struct engine *draft = engine_draft_model(fresh->engine);
    const struct plan_gpu *gpus[] = {plan->gpu, draft ? engine_plan(draft)->gpu : NULL};
    for (size_t i = 0; i < COUNT_OF(gpus); i++)
        for (uint32_t d = 0; gpus[i] && d < gpus[i]->part_count; d++)
            fresh->gpu_bytes[d] += plan_gpu_bytes(&gpus[i]->parts[d]);
    for (size_t d = 0; d < COUNT_OF(fresh->gpu_bytes); d++)
        fresh->all_gpu_bytes += fresh->gpu_bytes[d];
    const struct model *model = engine_model(fresh->engine);
    unit_number embedding = plan->embedding_rows ? model_tensor(model, ROLE_TOKEN_EMBEDDING) : NO_UNIT;
    unit_number table = model_tensor(model, ROLE_TABLE); /* single rows of both are read as tokens need them */
    for (unit_number u = 0; u < plan->unit_count; u++) {
        if (u != embedding && u != table)
            fresh->streamed += plan_bytes_on_storage(plan, u, plan_unit_footprint(model_unit(model, u)));
    }
    pthread_mutex_lock(&models->mutex);
    if (first) {
        models->aside = (int64_t)plan->reserve_bytes - (int64_t)plan->code_on_top;
        models->base = resident - MIN(models->lent, resident);
        models->total = plan->budget;
    }
    pthread_mutex_unlock(&models->mutex);
}

hypura_status loaded_open(struct loaded_models *models, struct loaded_model *fresh, uint32_t context,
                          store_progress progress, void *progress_context, hypura_error *error)
{
    struct engine_options options;
    memory_give_back();
    bool first = loaded_options(models, context, &options);
    options.progress = progress;
    options.progress_context = progress_context;
    uint64_t resident = memory_resident_bytes();
    hypura_status status = open_engine(models, fresh, &options, error);
    if (!status)
        status = engine_vocabulary(&fresh->vocabulary, fresh->engine, error);
    if (!status)
        status = prompt_open_template(&fresh->template, model_file(engine_model(fresh->engine)), NULL, error);
    if (!status)
        status = generator_create(&fresh->generator, fresh->engine, fresh->vocabulary, error);
    if (status) {
        server_log("error", error->message, "model=%s", fresh->entry.name);
        return status;
    }
    set_share(models, fresh, resident, options.reserved, first);
    struct engine_statistics s;
    engine_statistics(fresh->engine, &s);
    const struct plan *plan = engine_plan(fresh->engine);
    server_log("info", "model loaded", "model=%s mode=%s context=%u parallel=%u budget=%llu bytes=%llu seconds=%.3f",
               fresh->entry.name, plan_mode_name(plan->mode), plan->positions, plan->sequences,
               (unsigned long long)plan->budget, (unsigned long long)fresh->bytes, s.load_seconds);
    return HYPURA_OK;
}

void loaded_add(struct loaded_models *models, struct loaded_model *fresh)
{
    pthread_mutex_lock(&models->mutex);
    fresh->number = ++models->numbers;
    fresh->used = clock_nanoseconds();
    models->items[models->count++] = fresh;
    models->opening = NULL;
    pthread_mutex_unlock(&models->mutex);
    loaded_keep(models, fresh, NULL);
    loaded_spread(models);
}

static void free_loaded(struct loaded_model *loaded)
{
    generator_destroy(loaded->generator);
    grammar_vocabulary_free(loaded->grammar);
    chat_template_free(loaded->template);
    engine_close(loaded->engine);
    memory_free(loaded->pieces);
    memory_free(loaded->piece_bytes);
    memory_free(loaded->ends);
    model_entry_free(&loaded->entry);
    memory_free(loaded);
}

void loaded_discard(struct loaded_models *models, struct loaded_model *fresh)
{
    pthread_mutex_lock(&models->mutex);
    models->opening = NULL;
    pthread_mutex_unlock(&models->mutex);
    free_loaded(fresh);
}

/* If a driver cannot run the model at all, each request would load the model again and then fail. */
static bool failed_at_once(struct engine *engine)
{
    struct engine_statistics s;
    engine_statistics(engine, &s);
    return engine_lost(engine) && s.prompt_tokens + s.generated_tokens == 0;
}

void loaded_unload(struct loaded_models *models, struct loaded_model *model)
{
    bool failed = failed_at_once(model->engine);
    if (failed)
        server_log("warning", "the GPU failed before it computed anything: models are opened on the CPU from now on",
                   "model=%s", model->entry.name);
    pthread_mutex_lock(&models->mutex);
    models->gpu_fails |= failed;
    for (uint32_t i = 0; i < models->count; i++) {
        if (models->items[i] == model)
            models->items[i--] = models->items[--models->count];
    }
    pthread_mutex_unlock(&models->mutex);
    server_log("info", "model unloaded", "model=%s", model->entry.name);
    free_loaded(model);
    memory_give_back();
}

/* ---- time -----------------------------------------------------------------------------------------------------------
 */

void loaded_keep(struct loaded_models *models, struct loaded_model *model, const int64_t *keep)
{
    uint64_t now = clock_nanoseconds();
    int64_t seconds = models->server->options.keep_alive;
    int64_t usual = seconds < 0 ? -1 : MIN(seconds, (int64_t)INT32_MAX) * 1000000000, chosen = keep ? *keep : usual;
    pthread_mutex_lock(&models->mutex);
    model->used = now;
    model->expires = chosen < 0 ? UINT64_MAX : now + (uint64_t)chosen;
    pthread_mutex_unlock(&models->mutex);
}

/* Files also change without a request: by hypura rm, or by hand. */
static void look_at_files(struct loaded_models *models, uint64_t now)
{
    if (now - models->looked < 1000000000u)
        return;
    models->looked = now;
    for (uint32_t i = 0; i < models->count; i++) {
        if (!model_entry_is_current(&models->items[i]->entry))
            models->items[i]->gone = true;
    }
}

uint64_t loaded_expire(struct loaded_models *models)
{
    uint64_t now = clock_nanoseconds(), next = UINT64_MAX;
    uint32_t before = models->count;
    look_at_files(models, now);
    for (uint32_t i = models->count; i-- > 0;) {
        struct loaded_model *model = models->items[i];
        if (model->active || model->held)
            continue;
        if (model->gone || model->expires <= now)
            loaded_unload(models, model);
        else
            next = MIN(next, model->expires);
    }
    if (models->count < before)
        loaded_spread(models);
    return next;
}

/* ---- another budget -------------------------------------------------------------------------------------------------
 */

/* Here the worker's own thread loads, so the load must end when the server stops. */
static bool go_on_reopening(void *context, uint64_t done, uint64_t total)
{
    const struct server *server = context;
    (void)done;
    (void)total;
    return !atomic_load(&server->stopping);
}

static hypura_status reopen(struct loaded_models *models, struct model_entry *entry, uint32_t context,
                            hypura_error *error)
{
    struct loaded_model *fresh;
    struct model_entry copy;
    hypura_status status = model_entry_copy(&copy, entry, error);
    if (!status)
        status = loaded_prepare(models, &fresh, &copy, error);
    if (status)
        return status;
    status = loaded_open(models, fresh, context, go_on_reopening, models->server, error);
    if (status)
        loaded_discard(models, fresh);
    else
        loaded_add(models, fresh);
    return status;
}

hypura_status loaded_reload(struct loaded_models *models, uint64_t budget, bool *reloaded, hypura_error *error)
{
    struct loaded_model *last = NULL;
    struct model_entry entry;
    *reloaded = loaded_set_budget(models, budget, NULL) != HYPURA_OK;
    if (!*reloaded)
        return HYPURA_OK;
    for (uint32_t i = 0; i < models->count; i++)
        last = !last || models->items[i]->used > last->used ? models->items[i] : last;
    if (!last)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "no model is loaded");
    uint32_t context = engine_plan(last->engine)->positions;
    hypura_status status = model_entry_copy(&entry, &last->entry, error);
    if (status)
        return status;
    while (models->count)
        loaded_unload(models, models->items[0]);
    uint64_t before = loaded_budget(models);
    loaded_set_budget(models, budget, NULL);
    status = reopen(models, &entry, context, error);
    if (status) {
        hypura_error ignored = {0}; /* it was logged, and the next request tries again */
        loaded_set_budget(models, before, NULL);
        reopen(models, &entry, context, &ignored);
    }
    model_entry_free(&entry);
    return status;
}

/* ---- what a request needs of a model -------------------------------------------------------------------------------
 */

hypura_status loaded_clear_sequences(struct loaded_models *models, struct loaded_model *loaded, hypura_error *error)
{
    struct generator *fresh;
    generator_keep(loaded->generator);
    hypura_status status = generator_create(&fresh, loaded->engine, loaded->vocabulary, error);
    if (status)
        return status;
    struct generator *old = loaded->generator;
    pthread_mutex_lock(&models->mutex);
    loaded->generator = fresh;
    pthread_mutex_unlock(&models->mutex);
    generator_destroy(old);
    for (uint32_t s = 0; s < engine_plan(loaded->engine)->sequences; s++)
        engine_truncate(loaded->engine, s, 0);
    return HYPURA_OK;
}

hypura_status loaded_grammar_vocabulary(struct loaded_model *loaded, hypura_error *error)
{
    if (loaded->grammar)
        return HYPURA_OK;
    uint32_t count = vocabulary_size(loaded->vocabulary);
    struct buffer bytes = {0};
    hypura_status status = HYPURA_OK;
    if (!loaded->pieces)
        status = ALLOCATE(&loaded->pieces, count, "token texts", error);
    if (!status && !loaded->ends)
        status = ALLOCATE(&loaded->ends, count, "token ends", error);
    if (status)
        return status;
    for (uint32_t i = 0; i < count; i++) {
        size_t before = bytes.size;
        vocabulary_piece(loaded->vocabulary, (int32_t)i, false, &bytes);
        loaded->pieces[i].size = bytes.size - before;
        loaded->ends[i] = vocabulary_is_end_of_generation(loaded->vocabulary, (int32_t)i);
    }
    if (bytes.failed) {
        buffer_free(&bytes);
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the texts of %u tokens", count);
    }
    memory_free(loaded->piece_bytes);
    loaded->piece_bytes = bytes.data;
    const char *at = bytes.data ? bytes.data : "";
    for (uint32_t i = 0; i < count; i++) {
        loaded->pieces[i].bytes = at;
        at += loaded->pieces[i].size;
    }
    return grammar_vocabulary_create(&loaded->grammar, loaded->pieces, loaded->ends, count, error);
}

/* ---- names ----------------------------------------------------------------------------------------------------------
 */

void loaded_names_changed(struct loaded_models *models)
{
    pthread_mutex_lock(&models->mutex);
    for (uint32_t i = 0; i < models->count; i++) {
        struct loaded_model *model = models->items[i];
        struct model_entry now;
        hypura_status status = registry_find(models->server->registry, model->entry.name, &now, NULL);
        if (status) {
            model->gone |= status != HYPURA_ERROR_MEMORY; /* which says nothing about the name */
            continue;
        }
        if (!same_model(models, &model->entry, &now) || !same_version(&model->entry, &now))
            model->gone = true;
        model_entry_free(&now);
    }
    pthread_mutex_unlock(&models->mutex);
}

/* ---- listing -------------------------------------------------------------------------------------------------------
 */

void loaded_each(struct loaded_models *models, void (*look)(void *context, struct loaded_model *loaded), void *context)
{
    pthread_mutex_lock(&models->mutex);
    struct loaded_model *order[SERVER_MOST_LOADED];
    for (uint32_t i = 0; i < models->count; i++) {
        uint32_t at = i;
        for (; at && order[at - 1]->used < models->items[i]->used; at--)
            order[at] = order[at - 1];
        order[at] = models->items[i];
    }
    for (uint32_t i = 0; i < models->count; i++)
        look(context, order[i]);
    pthread_mutex_unlock(&models->mutex);
}

struct ps_list {
    json_t *json;
    hypura_error error;
};

static void add_to_list(void *context, struct loaded_model *loaded)
{
    struct ps_list *list = context;
    const struct model_entry *entry = &loaded->entry;
    struct timespec now;
    char expires[40], digest[65];
    clock_gettime(CLOCK_REALTIME, &now);
    uint64_t ticks = clock_nanoseconds();
    /* Clients parse a time, so "forever" becomes a century. */
    uint64_t rest = loaded->expires == UINT64_MAX ? (uint64_t)100 * 365 * 86400 * 1000000000u
                    : loaded->expires > ticks     ? loaded->expires - ticks
                                                  : 0;
    time_text(expires, sizeof expires, (int64_t)now.tv_sec + (int64_t)(rest / 1000000000u), 0);
    if (list->error.status || model_digest(entry, digest, &list->error))
        return;
    json_t *details = model_details(entry, &list->error);
    json_array_append_new(
        list->json, json_pack("{s:s, s:s, s:I, s:s, s:o, s:s, s:I, s:I}", "name", entry->name, "model", entry->name,
                              "size", (json_int_t)(loaded->bytes + loaded->all_gpu_bytes), "digest", digest, "details",
                              details, "expires_at", expires, "size_vram", (json_int_t)loaded->all_gpu_bytes,
                              "context_length", (json_int_t)engine_plan(loaded->engine)->positions));
}

json_t *loaded_ps(struct loaded_models *models, hypura_error *error)
{
    struct ps_list list = {.json = json_array()};
    loaded_each(models, add_to_list, &list);
    if (!list.error.status)
        return json_pack("{s:o}", "models", list.json);
    json_decref(list.json);
    *error = list.error;
    return NULL;
}

/* ---- creating and destroying ---------------------------------------------------------------------------------------
 */

hypura_status loaded_create(struct loaded_models **out, struct server *server, hypura_error *error)
{
    struct loaded_models *models;
    hypura_status status = ALLOCATE(&models, 1, "table of models", error);
    if (status)
        return status;
    models->server = server;
    models->budget = server->options.engine.budget;
    pthread_mutex_init(&models->mutex, NULL);
    *out = models;
    return HYPURA_OK;
}

void loaded_destroy(struct loaded_models *models)
{
    if (!models)
        return;
    pthread_mutex_destroy(&models->mutex);
    memory_free(models);
}
