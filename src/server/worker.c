#include "server/worker.h"
#include "engine/prompt.h"
#include "server/server_private.h"

#include <string.h>
#include <time.h>

#define MAX_ACTIVE 1024

struct worker {
    struct server *server;
    pthread_t thread;
    bool started;

    pthread_mutex_t mutex; /* the queue */
    pthread_cond_t changed;
    struct job *first, *last;
    uint32_t waiting;
    uint32_t running;
    bool stop, busy;

    /* Only the worker's thread changes these, and holds look_mutex while it does. */
    pthread_mutex_t look_mutex;
    struct loaded_model loaded;
    uint64_t expires; /* monotonic; UINT64_MAX: never */
    uint64_t budget;

    struct job *active[MAX_ACTIVE]; /* kept jobs; the worker's thread */
    uint32_t active_count;
};

/* ---- models --------------------------------------------------------------------------------------------------------
 */

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
    *loaded = (struct loaded_model){0};
}

void worker_unload(struct worker *worker)
{
    if (!worker->loaded.engine)
        return;
    server_log("info", "model unloaded", "model=%s", worker->loaded.entry.name);
    pthread_mutex_lock(&worker->look_mutex);
    struct loaded_model old = worker->loaded;
    worker->loaded = (struct loaded_model){0};
    pthread_mutex_unlock(&worker->look_mutex);
    free_loaded(&old);
}

static bool go_on_loading(void *context, uint64_t done, uint64_t total)
{
    struct worker *worker = context;
    (void)done;
    (void)total;
    pthread_mutex_lock(&worker->mutex);
    bool stop = worker->stop;
    pthread_mutex_unlock(&worker->mutex);
    return !stop;
}

/* The file of the adapter that /api/create gave the model, or an empty text. */
static void adapter_path(const struct worker *worker, const struct model_entry *entry, char *path, size_t room)
{
    const char *name = json_string_value(json_object_get(entry->manifest, "adapter"));
    if (!name || !registry_adapter(worker->server->registry, name, path, room))
        *path = 0;
}

static hypura_status open_loaded(struct worker *worker, struct loaded_model *loaded, uint32_t context,
                                 hypura_error *error)
{
    struct engine_options options = worker->server->options.engine;
    options.budget = worker->budget;
    options.context = MAX(options.context, context);
    options.sequences = worker->server->options.parallel;
    options.progress = go_on_loading;
    options.progress_context = worker;
    char adapter[4096];
    struct engine_adapter adapters[] = {{adapter, 1}};
    adapter_path(worker, &loaded->entry, adapter, sizeof adapter);
    if (*adapter) {
        options.adapters = adapters;
        options.adapter_count = 1;
    }
    memory_give_back();
    hypura_status status = engine_open(&loaded->engine, loaded->entry.path, &options, error);
    if (status == HYPURA_ERROR_MEMORY) {
        conversations_clear(worker->server->conversations);
        memory_give_back();
        status = engine_open(&loaded->engine, loaded->entry.path, &options, error);
    }
    while (status == HYPURA_ERROR_MEMORY && options.sequences > 1) {
        options.sequences /= 2;
        server_log("warning", "the budget is too small for so many answers at once", "parallel=%u", options.sequences);
        status = engine_open(&loaded->engine, loaded->entry.path, &options, error);
    }
    if (!status)
        status = engine_vocabulary(&loaded->vocabulary, loaded->engine, error);
    if (!status)
        status = prompt_open_template(&loaded->template, model_file(engine_model(loaded->engine)), NULL, error);
    if (!status)
        status = generator_create(&loaded->generator, loaded->engine, loaded->vocabulary, error);
    return status;
}

/* Takes the entry over. */
static hypura_status load(struct worker *worker, struct model_entry *entry, uint32_t context, hypura_error *error)
{
    struct loaded_model fresh = {.entry = *entry};
    *entry = (struct model_entry){0};
    worker_unload(worker);
    hypura_status status = open_loaded(worker, &fresh, context, error);
    if (status) {
        server_log("error", error->message, "model=%s", fresh.entry.name);
        free_loaded(&fresh);
        return status;
    }
    struct engine_statistics s;
    engine_statistics(fresh.engine, &s);
    const struct plan *plan = engine_plan(fresh.engine);
    server_log("info", "model loaded", "model=%s mode=%s context=%u parallel=%u budget=%llu seconds=%.3f",
               fresh.entry.name, plan_mode_name(plan->mode), plan->positions, plan->sequences,
               (unsigned long long)plan->budget, s.load_seconds);
    pthread_mutex_lock(&worker->look_mutex);
    worker->loaded = fresh;
    worker->expires = UINT64_MAX;
    pthread_mutex_unlock(&worker->look_mutex);
    return HYPURA_OK;
}

static hypura_status copy_entry(struct model_entry *out, const struct model_entry *entry, hypura_error *error)
{
    struct model_entry copy = *entry;
    copy.name = copy.path = NULL;
    copy.manifest = json_incref(entry->manifest);
    hypura_status status = string_copy(&copy.name, entry->name, error);
    if (!status)
        status = string_copy(&copy.path, entry->path, error);
    if (status)
        model_entry_free(&copy);
    else
        *out = copy;
    return status;
}

hypura_status worker_reload(struct worker *worker, uint64_t budget, hypura_error *error)
{
    struct model_entry entry, again;
    uint64_t before = worker->budget;
    worker->budget = budget;
    if (!worker->loaded.engine)
        return HYPURA_OK;
    uint32_t context = engine_plan(worker->loaded.engine)->positions;
    hypura_status status = copy_entry(&entry, &worker->loaded.entry, error);
    if (status)
        return status;
    status = copy_entry(&again, &entry, error);
    if (status) {
        model_entry_free(&entry);
        return status;
    }
    status = load(worker, &entry, context, error);
    if (status) {
        hypura_error ignored = {0}; /* the log has it; whoever asks next tries again */
        worker->budget = before;
        load(worker, &again, context, &ignored);
    }
    model_entry_free(&entry);
    model_entry_free(&again);
    return status;
}

hypura_status worker_clear_sequences(struct loaded_model *loaded, hypura_error *error)
{
    struct generator *fresh;
    hypura_status status = generator_create(&fresh, loaded->engine, loaded->vocabulary, error);
    if (status)
        return status;
    generator_destroy(loaded->generator);
    loaded->generator = fresh;
    for (uint32_t s = 0; s < engine_plan(loaded->engine)->sequences; s++)
        engine_truncate(loaded->engine, s, 0);
    return HYPURA_OK;
}

hypura_status worker_grammar_vocabulary(struct loaded_model *loaded, hypura_error *error)
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

/* ---- jobs ----------------------------------------------------------------------------------------------------------
 */

void worker_submit(struct worker *worker, struct job *job)
{
    pthread_mutex_lock(&worker->mutex);
    bool full = worker->stop || worker->waiting >= worker->server->options.queue;
    if (!full) {
        job->next = NULL;
        if (worker->last)
            worker->last->next = job;
        else
            worker->first = job;
        worker->last = job;
        worker->waiting++;
        pthread_cond_signal(&worker->changed);
    }
    pthread_mutex_unlock(&worker->mutex);
    if (full)
        job->refuse(job, 503, "server busy, please try again.  maximum pending requests exceeded");
}

static void end_preload(struct job *job, struct loaded_model *loaded, uint64_t load_nanoseconds)
{
    (void)loaded;
    (void)load_nanoseconds;
    model_entry_free(&job->model);
    memory_free(job);
}

static void refuse_preload(struct job *job, unsigned status, const char *message)
{
    server_log("warning", message, "status=%u", status);
    end_preload(job, NULL, 0);
}

void worker_preload(struct worker *worker)
{
    struct job *job;
    if (ALLOCATE(&job, 1, "request", NULL))
        return;
    job->needs_model = true;
    job->start = end_preload;
    job->refuse = refuse_preload;
    hypura_error error = {0};
    if (registry_find(worker->server->registry, NULL, &job->model, &error))
        refuse_preload(job, 404, error.message);
    else
        worker_submit(worker, job);
}

void worker_keep(struct worker *worker, struct job *job)
{
    /* Never more than sequences, of which the engine has 1024 at most. */
    if (worker->active_count < MAX_ACTIVE)
        worker->active[worker->active_count++] = job;
}

static void set_expiry(struct worker *worker, const struct job *job)
{
    int64_t keep = job->keep_alive_given ? job->keep_alive
                   : worker->server->options.keep_alive < 0
                       ? -1
                       : (int64_t)MIN((uint64_t)worker->server->options.keep_alive, (uint64_t)INT32_MAX) * 1000000000;
    pthread_mutex_lock(&worker->look_mutex);
    worker->expires = keep < 0 ? UINT64_MAX : clock_nanoseconds() + (uint64_t)keep;
    pthread_mutex_unlock(&worker->look_mutex);
}

void worker_done(struct worker *worker, struct job *job)
{
    for (uint32_t i = 0; i < worker->active_count; i++) {
        if (worker->active[i] == job) {
            worker->active[i] = worker->active[--worker->active_count];
            break;
        }
    }
    set_expiry(worker, job);
}

static bool fits_loaded(const struct worker *worker, const struct job *job)
{
    const struct loaded_model *loaded = &worker->loaded;
    if (!loaded->engine || strcmp(loaded->entry.path, job->model.path) != 0)
        return false;
    /* A file that was replaced is another model, and one whose GPU is gone answers nobody. */
    if (engine_lost(loaded->engine) || loaded->entry.bytes != job->model.bytes ||
        loaded->entry.modified != job->model.modified)
        return false;
    char own[4096], wanted[4096];
    adapter_path(worker, &loaded->entry, own, sizeof own);
    adapter_path(worker, &job->model, wanted, sizeof wanted);
    if (strcmp(own, wanted) != 0)
        return false;
    uint32_t positions = engine_plan(loaded->engine)->positions;
    uint32_t most = model_parameters(engine_model(loaded->engine))->context;
    return job->context <= positions || positions >= most;
}

static void start(struct worker *worker, struct job *job)
{
    uint64_t before = clock_nanoseconds();
    hypura_error error = {0};
    if (job->exchange && !exchange_alive(job->exchange)) {
        job->refuse(job, 499, "the client went away");
        return;
    }
    if (job->needs_model && !fits_loaded(worker, job)) {
        struct model_entry entry;
        hypura_status status = copy_entry(&entry, &job->model, &error);
        if (!status)
            status = load(worker, &entry, job->context, &error);
        if (status) {
            job->refuse(job, status == HYPURA_ERROR_CANCELLED ? 503 : 500, error.message);
            return;
        }
    }
    uint32_t kept = worker->active_count;
    struct job settings = *job; /* the job itself is gone when it did not keep itself */
    job->start(job, job->needs_model ? &worker->loaded : NULL, clock_nanoseconds() - before);
    if (worker->active_count == kept && settings.needs_model)
        set_expiry(worker, &settings);
}

/* The next job, when it can start now. */
static struct job *take(struct worker *worker)
{
    struct job *job = worker->first;
    if (!job)
        return NULL;
    bool idle = worker->active_count == 0;
    bool other_model = job->needs_model && !fits_loaded(worker, job);
    uint32_t sequences = worker->loaded.engine ? engine_plan(worker->loaded.engine)->sequences : 1;
    if (!idle && (job->alone || other_model || worker->active_count >= sequences)) {
        /* One that nobody waits for any more need not wait itself. */
        if (!job->exchange || exchange_alive(job->exchange))
            return NULL;
    }
    worker->first = job->next;
    if (!worker->first)
        worker->last = NULL;
    worker->waiting--;
    return job;
}

static void cancel_abandoned(struct worker *worker)
{
    for (uint32_t i = 0; i < worker->active_count; i++) {
        struct job *job = worker->active[i];
        if (!exchange_alive(job->exchange))
            job->cancel(job, &worker->loaded);
    }
}

static void refuse_all(struct worker *worker)
{
    for (;;) {
        pthread_mutex_lock(&worker->mutex);
        struct job *job = worker->first;
        if (job) {
            worker->first = job->next;
            if (!worker->first)
                worker->last = NULL;
            worker->waiting--;
        }
        pthread_mutex_unlock(&worker->mutex);
        if (!job)
            return;
        job->refuse(job, 503, "the server is shutting down");
    }
}

static void wait_for_work(struct worker *worker)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 1;
    uint64_t now = clock_nanoseconds();
    if (worker->loaded.engine && worker->expires < now + 1000000000u) {
        uint64_t rest = worker->expires > now ? worker->expires - now : 0;
        until.tv_sec -= 1;
        until.tv_nsec += (long)rest;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
    }
    worker->busy = false;
    worker->running = 0;
    pthread_cond_timedwait(&worker->changed, &worker->mutex, &until);
}

static void *work(void *context)
{
    struct worker *worker = context;
    for (;;) {
        pthread_mutex_lock(&worker->mutex);
        if (!worker->first && worker->active_count == 0 && !worker->stop)
            wait_for_work(worker);
        bool stop = worker->stop;
        struct job *job = stop ? NULL : take(worker);
        worker->busy = job || worker->active_count;
        worker->running = worker->active_count;
        pthread_mutex_unlock(&worker->mutex);
        if (stop)
            break;
        if (job) {
            start(worker, job);
            continue;
        }
        if (worker->active_count) {
            generator_step(worker->loaded.generator);
            cancel_abandoned(worker);
        } else if (worker->loaded.engine && clock_nanoseconds() >= worker->expires) {
            worker_unload(worker);
        }
    }
    refuse_all(worker);
    /* Answers in work end while their model is still there. */
    generator_destroy(worker->loaded.generator);
    worker->loaded.generator = NULL;
    worker_unload(worker);
    return NULL;
}

/* ---- looking in ----------------------------------------------------------------------------------------------------
 */

void worker_look(struct worker *worker, void (*look)(void *context, struct loaded_model *loaded), void *context)
{
    pthread_mutex_lock(&worker->look_mutex);
    look(context, worker->loaded.engine ? &worker->loaded : NULL);
    pthread_mutex_unlock(&worker->look_mutex);
}

uint32_t worker_waiting(struct worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    uint32_t waiting = worker->waiting;
    pthread_mutex_unlock(&worker->mutex);
    return waiting;
}

uint32_t worker_running(struct worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    uint32_t running = worker->running;
    pthread_mutex_unlock(&worker->mutex);
    return running;
}

bool worker_is_idle(struct worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    bool idle = !worker->busy && !worker->first;
    pthread_mutex_unlock(&worker->mutex);
    return idle;
}

json_t *worker_ps(struct worker *worker)
{
    json_t *models = json_array();
    pthread_mutex_lock(&worker->look_mutex);
    if (worker->loaded.engine) {
        const struct model_entry *entry = &worker->loaded.entry;
        struct engine_statistics s;
        struct timespec now;
        char expires[40], digest[65];
        engine_statistics(worker->loaded.engine, &s);
        clock_gettime(CLOCK_REALTIME, &now);
        uint64_t ticks = clock_nanoseconds();
        /* For good is told as a century, since clients parse a time. */
        uint64_t rest = worker->expires == UINT64_MAX ? (uint64_t)100 * 365 * 86400 * 1000000000u
                        : worker->expires > ticks     ? worker->expires - ticks
                                                      : 0;
        time_text(expires, sizeof expires, (int64_t)now.tv_sec + (int64_t)(rest / 1000000000u), 0);
        model_digest(entry, digest);
        json_array_append_new(models, json_pack("{s:s, s:s, s:I, s:s, s:o, s:s, s:I, s:I}", "name", entry->name,
                                                "model", entry->name, "size", (json_int_t)entry->bytes, "digest",
                                                digest, "details", model_details(entry), "expires_at", expires,
                                                "size_vram", (json_int_t)s.bytes_gpu, "context_length",
                                                (json_int_t)engine_plan(worker->loaded.engine)->positions));
    }
    pthread_mutex_unlock(&worker->look_mutex);
    return json_pack("{s:o}", "models", models);
}

hypura_status worker_set_budget(struct worker *worker, uint64_t bytes, hypura_error *error)
{
    hypura_status status = HYPURA_OK;
    pthread_mutex_lock(&worker->look_mutex);
    if (worker->loaded.engine)
        status = engine_set_budget(worker->loaded.engine, bytes, error);
    if (!status)
        worker->budget = bytes;
    pthread_mutex_unlock(&worker->look_mutex);
    return status;
}

uint64_t worker_budget(struct worker *worker)
{
    pthread_mutex_lock(&worker->look_mutex);
    uint64_t budget = worker->budget;
    pthread_mutex_unlock(&worker->look_mutex);
    return budget;
}

/* ---- beginning and end ---------------------------------------------------------------------------------------------
 */

hypura_status worker_create(struct worker **out, struct server *server, hypura_error *error)
{
    struct worker *worker;
    hypura_status status = ALLOCATE(&worker, 1, "worker", error);
    if (status)
        return status;
    worker->server = server;
    worker->budget = server->options.engine.budget;
    worker->expires = UINT64_MAX;
    pthread_mutex_init(&worker->mutex, NULL);
    pthread_mutex_init(&worker->look_mutex, NULL);
    pthread_cond_init(&worker->changed, NULL);
    *out = worker;
    int failed = pthread_create(&worker->thread, NULL, work, worker);
    if (failed)
        return error_set_errno(error, failed, "cannot start the worker thread");
    worker->started = true;
    return HYPURA_OK;
}

void worker_stop(struct worker *worker)
{
    if (!worker || !worker->started)
        return;
    pthread_mutex_lock(&worker->mutex);
    worker->stop = true;
    pthread_cond_signal(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
    pthread_join(worker->thread, NULL);
    worker->started = false;
}

void worker_destroy(struct worker *worker)
{
    if (!worker)
        return;
    worker_stop(worker);
    pthread_mutex_destroy(&worker->mutex);
    pthread_mutex_destroy(&worker->look_mutex);
    pthread_cond_destroy(&worker->changed);
    memory_free(worker);
}
