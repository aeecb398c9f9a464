#include "server/worker.h"
#include "server/server_private.h"

#include <string.h>
#include <time.h>

#define MAX_ACTIVE (SERVER_MOST_LOADED * SERVER_MOST_PARALLEL)

/* The model that is being loaded, and the job that waits for it. */
struct loading {
    struct job *job; /* NULL: none is being loaded */
    uint64_t since;
    bool started;   /* false: it still waits for room */
    bool try_again; /* there may be room now */
    bool threaded;
    pthread_t thread;
    struct loaded_model *fresh;
    hypura_status status;
    hypura_error error;
};

struct worker {
    struct server *server;
    struct loaded_models *models;
    pthread_t thread;
    bool started;

    pthread_mutex_t mutex; /* protects the fields up to woken */
    pthread_cond_t changed;
    struct job *first, *last;
    struct job *ready; /* prepared jobs, in the order of their arrival */
    uint32_t waiting;  /* jobs in the queue, at the desk and ready */
    uint32_t preparing;
    bool awaits_model; /* a client waits for the model that is being loaded */
    uint32_t running;
    uint64_t numbers; /* given to jobs so far */
    bool stop, busy;
    bool load_ended, arrived, woken;

    /* used by the worker's thread only */
    struct loading loading;
    struct job *active[MAX_ACTIVE]; /* kept jobs */
    uint32_t active_count;
    bool stuck; /* no job of the queue can start before another one is done */
};

/* ---- jobs ----------------------------------------------------------------------------------------------------------
 */

void worker_submit(struct worker *worker, struct job *job)
{
    if (job->exchange)
        exchange_close_account(job->exchange);
    if (job->exchange && exchange_lacks_room(job->exchange)) {
        char text[320];
        unsigned status = exchange_tell_room(job->exchange, text, sizeof text);
        job->refuse(job, status, text);
        return;
    }
    pthread_mutex_lock(&worker->mutex);
    bool full = worker->stop || worker->waiting >= worker->server->options.queue;
    if (!full) {
        job->next = NULL;
        if (worker->last)
            worker->last->next = job;
        else
            worker->first = job;
        worker->last = job;
        job->number = ++worker->numbers;
        worker->waiting++;
        worker->arrived = true;
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
    if (registry_find(worker->server->registry, worker->server->options.preload, &job->model, &error))
        refuse_preload(job, 404, error.message);
    else
        worker_submit(worker, job);
}

static void set_expiry(struct worker *worker, struct loaded_model *loaded, const struct job *job)
{
    loaded_keep(worker->models, loaded, job->keep_alive_given ? &job->keep_alive : NULL);
}

static void tell_running(struct worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    worker->running = worker->active_count;
    pthread_mutex_unlock(&worker->mutex);
}

void worker_keep(struct worker *worker, struct job *job, struct loaded_model *loaded)
{
    /* There is always a free element: has_room admits at most one job per sequence of each model. */
    worker->active[worker->active_count++] = job;
    job->loaded = loaded;
    loaded->active++;
    loaded->alone = job->alone;
    tell_running(worker);
}

void worker_done(struct worker *worker, struct job *job)
{
    struct loaded_model *loaded = job->loaded;
    for (uint32_t i = 0; i < worker->active_count; i++) {
        if (worker->active[i] == job) {
            worker->active[i] = worker->active[--worker->active_count];
            break;
        }
    }
    loaded->alone = worker->stuck = false;
    if (--loaded->active == 0)
        worker->loading.try_again = true;
    tell_running(worker);
    set_expiry(worker, loaded, job);
}

static bool is_wanted(const struct job *job)
{
    return !job->exchange || exchange_alive(job->exchange);
}

static void start(struct worker *worker, struct job *job, struct loaded_model *loaded, uint64_t since)
{
    if (!is_wanted(job)) {
        job->refuse(job, 499, "the client went away");
        return;
    }
    uint32_t kept = worker->active_count;
    struct job settings = *job; /* the job may have been freed if it was not kept */
    uint64_t now = clock_nanoseconds();
    if (loaded)
        set_expiry(worker, loaded, job);
    exchange_start_work();
    job->start(job, loaded, now - MIN(since, now));
    if (worker->active_count == kept && loaded)
        set_expiry(worker, loaded, &settings);
}

/* ---- preparing ------------------------------------------------------------------------------------------------------
 */

/* With the mutex held. */
static void add_ready(struct worker *worker, struct job *job)
{
    struct job **at = &worker->ready;
    while (*at && (*at)->number < job->number)
        at = &(*at)->next;
    job->next = *at;
    *at = job;
}

static void prepare(struct desk_task *task)
{
    struct job *job = (struct job *)((char *)task - offsetof(struct job, task));
    struct worker *worker = exchange_server(job->exchange)->worker;
    exchange_start_work();
    exchange_open_account(job->exchange);
    job->prepare(job, job->loaded);
    exchange_close_account(job->exchange);
    pthread_mutex_lock(&worker->mutex);
    job->prepared = true;
    add_ready(worker, job);
    worker->preparing--;
    pthread_cond_signal(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
}

static void start_preparing(struct worker *worker, struct job *job, struct loaded_model *loaded,
                            uint64_t load_nanoseconds)
{
    job->loaded = loaded;
    job->load_nanoseconds = load_nanoseconds;
    job->task = (struct desk_task){.work = prepare, .bytes = exchange_bytes(job->exchange)};
    loaded->held++;
    pthread_mutex_lock(&worker->mutex);
    worker->waiting++;
    worker->preparing++;
    pthread_mutex_unlock(&worker->mutex);
    desk_submit(worker->server->desk, &job->task);
}

static void let_go(struct worker *worker, struct loaded_model *loaded)
{
    loaded->held--;
    worker->stuck = false;
    worker->loading.try_again |= !loaded->held && !loaded->active;
}

/* Its model was unloaded or replaced since it was prepared: puts it at the head of the queue. */
static void prepare_again(struct worker *worker, struct job *job)
{
    job->prepared = false;
    pthread_mutex_lock(&worker->mutex);
    job->next = worker->first;
    worker->first = job;
    if (!worker->last)
        worker->last = job;
    worker->waiting++;
    worker->arrived = true;
    pthread_mutex_unlock(&worker->mutex);
}

static void start_prepared(struct worker *worker, struct job *job)
{
    struct loaded_model *loaded = job->loaded;
    if (is_wanted(job) && loaded_find(worker->models, &job->model, job->context) != loaded)
        prepare_again(worker, job);
    else
        start(worker, job, loaded, clock_nanoseconds() - job->load_nanoseconds);
    let_go(worker, loaded);
}

static void start_or_prepare(struct worker *worker, struct job *job, struct loaded_model *loaded, uint64_t since)
{
    if (job->prepare && is_wanted(job))
        start_preparing(worker, job, loaded, clock_nanoseconds() - since);
    else
        start(worker, job, loaded, since);
}

/* ---- loading --------------------------------------------------------------------------------------------------------
 */

static bool goes_on(struct worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    bool stop = worker->stop;
    pthread_mutex_unlock(&worker->mutex);
    return !stop;
}

static bool go_on_loading(void *context, uint64_t done, uint64_t total)
{
    struct worker *worker = context;
    const struct engine_options *options = &worker->server->options.engine;
    return goes_on(worker) && (!options->progress || options->progress(options->progress_context, done, total));
}

static void *open_model(void *context)
{
    struct worker *worker = context;
    struct loading *loading = &worker->loading;
    loading->status =
        loaded_open(worker->models, loading->fresh, loading->job->context, go_on_loading, worker, &loading->error);
    pthread_mutex_lock(&worker->mutex);
    worker->load_ended = true;
    pthread_cond_signal(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
    return NULL;
}

/* Returns the job, which then belongs to the caller. */
static struct job *end_loading(struct worker *worker)
{
    struct job *job = worker->loading.job;
    pthread_mutex_lock(&worker->mutex);
    worker->awaits_model = false;
    pthread_mutex_unlock(&worker->mutex);
    worker->loading = (struct loading){0};
    worker->stuck = false;
    return job;
}

static void start_loading(struct worker *worker)
{
    struct loading *loading = &worker->loading;
    struct model_entry entry;
    hypura_error error = {0};
    hypura_status status = model_entry_copy(&entry, &loading->job->model, &error);
    if (!status)
        status = loaded_prepare(worker->models, &loading->fresh, &entry, &error);
    if (status) {
        struct job *job = end_loading(worker);
        job->refuse(job, status_of_error(&error), error.message);
        return;
    }
    loading->started = true;
    loading->threaded = pthread_create(&loading->thread, NULL, open_model, worker) == 0;
    if (!loading->threaded)
        open_model(worker);
}

static void refuse_loading(struct worker *worker, const hypura_error *why)
{
    /* A copy, because end_loading clears the loading with its error. */
    hypura_error error = *why;
    unsigned status = error.status == HYPURA_ERROR_CANCELLED && !goes_on(worker) ? 503 : status_of_error(&error);
    struct job *job = end_loading(worker);
    if (job->model.path && !model_entry_is_current(&job->model)) {
        status = 503;
        error_set(&error, HYPURA_ERROR_IO, "model '%s' was replaced or deleted during the request: try again",
                  job->model.name);
    }
    job->refuse(job, status, error.message);
}

/* Loads the model that a job waits for, as soon as there is room for it. */
static void try_loading(struct worker *worker)
{
    struct loading *loading = &worker->loading;
    if (!is_wanted(loading->job)) {
        struct job *job = end_loading(worker);
        job->refuse(job, 499, "the client went away");
        return;
    }
    if (!loading->try_again)
        return;
    loading->try_again = false;
    hypura_error error = {0};
    enum loaded_room room = loaded_make_room(worker->models, &loading->job->model, loading->job->context, &error);
    if (room == ROOM_NOW)
        start_loading(worker);
    if (room != ROOM_NEVER)
        return;
    server_log("error", error.message, "model=%s", loading->job->model.name);
    refuse_loading(worker, &error);
}

static void finish_loading(struct worker *worker)
{
    struct loading *loading = &worker->loading;
    pthread_mutex_lock(&worker->mutex);
    worker->load_ended = false;
    pthread_mutex_unlock(&worker->mutex);
    if (loading->threaded)
        pthread_join(loading->thread, NULL);
    struct loaded_model *fresh = loading->fresh;
    if (!loading->status) {
        uint64_t since = loading->since;
        struct job *job = end_loading(worker);
        loaded_add(worker->models, fresh);
        loaded_names_changed(worker->models); /* perhaps while it was being loaded */
        start_or_prepare(worker, job, fresh, since);
        return;
    }
    loaded_discard(worker->models, fresh);
    loading->fresh = NULL;
    /* There was less memory than planned: make room and try again. */
    if (loading->status == HYPURA_ERROR_MEMORY && loaded_drop_oldest(worker->models)) {
        loading->started = false;
        loading->try_again = true;
        return;
    }
    loaded_spread(worker->models);
    refuse_loading(worker, &loading->error);
}

/* ---- the queue ------------------------------------------------------------------------------------------------------
 */

enum turn {
    TURN_NOW,
    TURN_LOAD,  /* its model must be loaded first, which can begin now */
    TURN_LATER, /* later jobs may overtake it */
    TURN_NONE   /* no job may overtake it */
};

/* Models that an earlier job waits for. */
struct full_models {
    struct loaded_model *items[SERVER_MOST_LOADED];
    uint32_t count;
};

static bool is_full(const struct full_models *full, const struct loaded_model *loaded)
{
    for (uint32_t i = 0; i < full->count; i++) {
        if (full->items[i] == loaded)
            return true;
    }
    return false;
}

/* Whether the job's model has room for it and no earlier job waits for that model. */
static bool has_room(const struct job *job, struct loaded_model *loaded, struct full_models *full)
{
    if (job->brief)
        return true;
    if (is_full(full, loaded))
        return false;
    bool room = job->alone ? loaded->active == 0 && (job->prepared || loaded->held == 0)
                           : !loaded->alone && loaded->active < engine_plan(loaded->engine)->sequences;
    if (!room)
        full->items[full->count++] = loaded;
    return room;
}

static enum turn turn_of(struct worker *worker, const struct job *job, struct full_models *full)
{
    const struct loading *loading = &worker->loading;
    bool named = job->model.path != NULL;
    if (!named)
        return worker->active_count == 0 && !worker->preparing && !worker->ready && !loading->job ? TURN_NOW
                                                                                                  : TURN_NONE;
    struct loaded_model *loaded = job->needs_model ? loaded_find(worker->models, &job->model, job->context)
                                                   : loaded_find_file(worker->models, &job->model);
    if (!loaded && loading->job)
        return TURN_LATER;
    if (!loaded)
        return job->needs_model ? TURN_LOAD : TURN_NOW;
    if (job->prepare)
        return job->brief || !is_full(full, loaded) ? TURN_NOW : TURN_LATER;
    return has_room(job, loaded, full) ? TURN_NOW : TURN_LATER;
}

/* With the mutex held. */
static struct job *take_ready(struct worker *worker)
{
    struct full_models full = {.count = 0};
    for (struct job **at = &worker->ready; *at; at = &(*at)->next) {
        struct job *job = *at;
        if (has_room(job, job->loaded, &full) || (job == worker->ready && !is_wanted(job))) {
            *at = job->next;
            worker->waiting--;
            return job;
        }
    }
    return NULL;
}

/* Takes the next job that can start, or (*load) whose model can be loaded. With the mutex held. */
static struct job *take(struct worker *worker, bool *load)
{
    struct full_models full = {.count = 0};
    /* No job overtakes one that waits for room for its model. */
    if (worker->loading.job && !worker->loading.started)
        return NULL;
    if (worker->stuck && !worker->arrived && (!worker->first || is_wanted(worker->first)))
        return NULL;
    worker->stuck = worker->arrived = false;
    for (struct job *job = worker->first, *before = NULL; job; before = job, job = job->next) {
        enum turn turn = turn_of(worker, job, &full);
        /* If its client has left, take it at once: start refuses it. */
        if (turn > TURN_LOAD && job == worker->first && !is_wanted(job))
            turn = TURN_NOW;
        if (turn <= TURN_LOAD) {
            *(before ? &before->next : &worker->first) = job->next;
            if (!job->next)
                worker->last = before;
            worker->waiting--;
            *load = turn == TURN_LOAD;
            worker->awaits_model |= *load && job->exchange;
            return job;
        }
        if (turn == TURN_NONE)
            break;
    }
    worker->stuck = true;
    return NULL;
}

static void run_job(struct worker *worker, struct job *job, bool load)
{
    uint64_t now = clock_nanoseconds();
    if (load) {
        worker->loading = (struct loading){.job = job, .since = now, .try_again = true};
        return;
    }
    struct loaded_model *loaded = job->needs_model ? loaded_find(worker->models, &job->model, job->context) : NULL;
    if (loaded)
        start_or_prepare(worker, job, loaded, now);
    else
        start(worker, job, NULL, now);
}

/* Runs one batch of each model with running answers. */
static void step(struct worker *worker)
{
    for (uint32_t i = 0; i < loaded_count(worker->models); i++) {
        struct loaded_model *loaded = loaded_at(worker->models, i);
        if (loaded->active && !loaded->alone)
            generator_step(loaded->generator);
    }
    for (uint32_t i = worker->active_count; i-- > 0;) {
        struct job *job = worker->active[i];
        exchange_start_work();
        if (job->step)
            job->step(job, job->loaded);
    }
    for (uint32_t i = 0; i < worker->active_count; i++) {
        struct job *job = worker->active[i];
        if (!job->step && !exchange_alive(job->exchange))
            job->cancel(job, job->loaded);
    }
}

static void refuse_ready(struct worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    while (worker->preparing) /* soon over: exchange_is_awaited is false while the server ends */
        pthread_cond_wait(&worker->changed, &worker->mutex);
    pthread_mutex_unlock(&worker->mutex);
    while (worker->ready) {
        struct job *job = worker->ready;
        worker->ready = job->next;
        let_go(worker, job->loaded);
        job->refuse(job, 503, "the server is shutting down");
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

/* With the mutex held. next: the time at which a model is due to be unloaded. */
static void wait_for_work(struct worker *worker, uint64_t next)
{
    struct timespec until;
    uint64_t now = clock_nanoseconds();
    uint64_t wait = next > now ? MIN(next - now, (uint64_t)1000000000u) : 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)wait;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    worker->busy = worker->loading.job != NULL;
    if (!worker->woken)
        pthread_cond_timedwait(&worker->changed, &worker->mutex, &until);
    worker->woken = false;
}

static void end_all(struct worker *worker)
{
    struct loading *loading = &worker->loading;
    if (loading->started) {
        if (loading->threaded)
            pthread_join(loading->thread, NULL);
        loaded_discard(worker->models, loading->fresh);
    }
    if (loading->job) {
        struct job *job = end_loading(worker);
        job->refuse(job, 503, "the server is shutting down");
    }
    refuse_ready(worker);
    refuse_all(worker);
    for (uint32_t i = worker->active_count; i-- > 0;) {
        struct job *job = worker->active[i];
        if (job->step) {
            worker_done(worker, job);
            job->refuse(job, 503, "the server is shutting down");
        }
    }
    while (loaded_count(worker->models)) {
        struct loaded_model *loaded = loaded_at(worker->models, 0);
        /* Ends running answers, which still use their model. */
        generator_destroy(loaded->generator);
        loaded->generator = NULL;
        loaded_unload(worker->models, loaded);
    }
}

static void *work(void *context)
{
    struct worker *worker = context;
    uint64_t next = UINT64_MAX;
    for (;;) {
        bool load = false;
        exchange_start_work();
        pthread_mutex_lock(&worker->mutex);
        struct job *ready = worker->stop ? NULL : take_ready(worker);
        struct job *job = worker->stop || ready ? NULL : take(worker, &load);
        bool to_try = worker->loading.job && !worker->loading.started && worker->loading.try_again;
        if (!ready && !job && !worker->stop && !worker->active_count && !worker->load_ended && !to_try)
            wait_for_work(worker, next);
        bool stop = worker->stop, ended = worker->load_ended, brief = job && (job->brief || job->prepare);
        worker->busy = ready || job || worker->active_count || worker->loading.job;
        pthread_mutex_unlock(&worker->mutex);
        if (stop)
            break;
        if (ready)
            start_prepared(worker, ready);
        if (job)
            run_job(worker, job, load);
        if (ended)
            finish_loading(worker);
        if (worker->loading.job && !worker->loading.started)
            try_loading(worker);
        /* Jobs that can start do so before the next step, to share its batch. Brief jobs and those to be prepared may
         * arrive without end, so answers step in between. */
        if (worker->active_count && !ready && (!job || brief))
            step(worker);
        next = loaded_expire(worker->models);
    }
    end_all(worker);
    return NULL;
}

void worker_names_changed(struct worker *worker)
{
    loaded_names_changed(worker->models);
    pthread_mutex_lock(&worker->mutex);
    worker->woken = true;
    pthread_cond_signal(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
}

/* ---- counts --------------------------------------------------------------------------------------------------------
 */

uint32_t worker_waiting(struct worker *worker)
{
    pthread_mutex_lock(&worker->mutex);
    uint32_t waiting = worker->waiting + worker->awaits_model;
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
    bool idle = !worker->busy && !worker->first && !worker->preparing && !worker->ready;
    pthread_mutex_unlock(&worker->mutex);
    return idle;
}

/* ---- creating and destroying ---------------------------------------------------------------------------------------
 */

hypura_status worker_create(struct worker **out, struct server *server, hypura_error *error)
{
    struct worker *worker;
    hypura_status status = ALLOCATE(&worker, 1, "worker", error);
    if (status)
        return status;
    worker->server = server;
    worker->models = server->models;
    pthread_mutex_init(&worker->mutex, NULL);
    pthread_cond_init(&worker->changed, NULL);
    *out = worker;
    int failed = pthread_create(&worker->thread, NULL, work, worker);
    if (failed)
        return error_set_errno(error, failed, "cannot start the worker thread");
    worker->started = true;
    return HYPURA_OK;
}

static void look(void *context, struct loaded_model *loaded)
{
    (void)context;
    generator_look(loaded->generator);
}

void worker_look(struct worker *worker)
{
    loaded_each(worker->models, look, NULL);
}

/* A pass that streams weights may take minutes, so it is cancelled instead of awaited. */
static void cancel_pass(void *context, struct loaded_model *loaded)
{
    (void)context;
    engine_cancel(loaded->engine, true);
}

void worker_stop(struct worker *worker)
{
    if (!worker || !worker->started)
        return;
    pthread_mutex_lock(&worker->mutex);
    worker->stop = true;
    atomic_store(&worker->server->ending, true);
    pthread_cond_signal(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
    loaded_each(worker->models, cancel_pass, NULL);
    pthread_join(worker->thread, NULL);
    worker->started = false;
}

void worker_destroy(struct worker *worker)
{
    if (!worker)
        return;
    worker_stop(worker);
    pthread_mutex_destroy(&worker->mutex);
    pthread_cond_destroy(&worker->changed);
    memory_free(worker);
}
