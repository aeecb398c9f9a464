/* A model's thread, which runs one pass over the weights for all answers that need a token. Also lets one caller at a
 * time have the engine to itself. */
#include "api/api_private.h"

#include <time.h>

/* Called with the mutex. */
static void wait_a_moment(pthread_cond_t *condition, pthread_mutex_t *mutex)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += LOOK_MILLISECONDS * 1000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(condition, mutex, &until);
}

/* Submits the waiting answers to the generator. Called with the mutex, which it releases meanwhile. */
static void submit_waiting(hypura_model *model)
{
    model->yield = false;
    while (model->first) {
        struct hypura_session *session = model->first;
        model->first = session->next;
        if (!model->first)
            model->last = NULL;
        model->running++;
        model->stepping = true;
        pthread_mutex_unlock(&model->mutex);
        answer_submit(session);
        pthread_mutex_lock(&model->mutex);
        model->stepping = false;
    }
}

/* While a session has the engine to itself, its own thread computes, so this thread watches for its cancel. Called with
 * the mutex. */
static void look_after(hypura_model *model)
{
    if (!model->alone_stopped && atomic_load(&model->alone->cancelled)) {
        model->alone_stopped = true;
        engine_stop(model->engine, true);
    }
    wait_a_moment(&model->changed, &model->mutex);
}

static void *run(void *context)
{
    hypura_model *model = context;
    pthread_mutex_lock(&model->mutex);
    while (!model->stop) {
        if (model->alone) {
            look_after(model);
            continue;
        }
        if (model->first && (!model->alone_waiting || model->yield)) {
            submit_waiting(model); /* it released the mutex, so look at everything again */
            continue;
        }
        if (!model->running) {
            pthread_cond_broadcast(&model->calm);
            pthread_cond_wait(&model->changed, &model->mutex);
            continue;
        }
        model->stepping = true;
        pthread_mutex_unlock(&model->mutex);
        bool worked = generator_step(model->generator);
        pthread_mutex_lock(&model->mutex);
        model->stepping = false;
        if (!worked && model->running)
            wait_a_moment(&model->changed, &model->mutex);
    }
    pthread_mutex_unlock(&model->mutex);
    return NULL;
}

hypura_status scheduler_start(hypura_model *model, hypura_error *error)
{
    hypura_status status = generator_create(&model->generator, model->engine, model->vocabulary, error);
    if (status)
        return status;
    model->threaded = pthread_create(&model->thread, NULL, run, model) == 0;
    return model->threaded ? HYPURA_OK : error_set(error, HYPURA_ERROR_MEMORY, "cannot start the model's thread");
}

void scheduler_stop(hypura_model *model)
{
    if (model->threaded) {
        pthread_mutex_lock(&model->mutex);
        model->stop = true;
        pthread_cond_signal(&model->changed);
        pthread_mutex_unlock(&model->mutex);
        pthread_join(model->thread, NULL);
    }
    generator_destroy(model->generator);
    model->generator = NULL;
}

void scheduler_submit(struct hypura_session *session)
{
    hypura_model *model = session->model;
    pthread_mutex_lock(&model->mutex);
    session->next = NULL;
    if (model->last)
        model->last->next = session;
    else
        model->first = session;
    model->last = session;
    pthread_cond_signal(&model->changed);
    pthread_mutex_unlock(&model->mutex);
}

hypura_status scheduler_begin_alone(struct hypura_session *session, enum alone how, hypura_error *error)
{
    hypura_model *model = session->model;
    bool cancelled;
    pthread_mutex_lock(&model->mutex);
    model->alone_waiting++;
    while (!(cancelled = atomic_load(&session->cancelled)) &&
           (model->running || model->stepping || model->alone || (model->yield && model->first))) {
        pthread_cond_signal(&model->changed);
        wait_a_moment(&model->calm, &model->mutex);
    }
    model->alone_waiting--;
    if (!cancelled) {
        model->alone = session;
        model->alone_stopped = false;
    }
    pthread_cond_signal(&model->changed);
    pthread_mutex_unlock(&model->mutex);
    if (cancelled)
        return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
    if (how == ALONE_EMPTY)
        generator_clear(model->generator);
    return HYPURA_OK;
}

void scheduler_end_alone(struct hypura_session *session)
{
    hypura_model *model = session->model;
    pthread_mutex_lock(&model->mutex);
    if (model->alone_stopped)
        engine_stop(model->engine, false);
    model->alone = NULL;
    model->yield =
        model->first != NULL; /* answers that waited go before the next caller that wants the engine to itself */
    pthread_cond_broadcast(&model->calm);
    pthread_cond_signal(&model->changed);
    pthread_mutex_unlock(&model->mutex);
}

void scheduler_hold(hypura_model *model)
{
    pthread_mutex_lock(&model->mutex); /* the model's thread cannot continue without it */
    model->alone_waiting++;
    while (model->running || model->stepping || model->alone) {
        pthread_cond_signal(&model->changed);
        wait_a_moment(&model->calm, &model->mutex);
    }
    model->alone_waiting--;
}

void scheduler_release(hypura_model *model)
{
    pthread_cond_signal(&model->changed);
    pthread_mutex_unlock(&model->mutex);
}
