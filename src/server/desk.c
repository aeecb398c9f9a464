#include "server/desk.h"

#include <pthread.h>

#define MOST_THREADS 3u
#define LARGE_BYTES ((size_t)64 << 10) /* a body of this size takes long to parse */

/* A queue of tasks, and its threads, which are started on demand. */
struct lane {
    struct desk *desk;
    struct desk_task *first, *last;
    pthread_cond_t changed;
    pthread_t threads[MOST_THREADS];
    unsigned most, count, queued, working;
};

struct desk {
    pthread_mutex_t mutex; /* protects everything below */
    struct lane small, large;
    bool stop;
};

static bool is_idle(const struct desk *desk)
{
    return !desk->small.queued && !desk->small.working && !desk->large.queued && !desk->large.working;
}

static void *work(void *context)
{
    struct lane *lane = context;
    struct desk *desk = lane->desk;
    pthread_mutex_lock(&desk->mutex);
    while (!desk->stop || !is_idle(desk)) {
        struct desk_task *task = lane->first;
        if (!task) {
            pthread_cond_wait(&lane->changed, &desk->mutex);
            continue;
        }
        lane->first = task->next;
        if (!lane->first)
            lane->last = NULL;
        lane->queued--;
        lane->working++;
        pthread_mutex_unlock(&desk->mutex);
        task->work(task);
        pthread_mutex_lock(&desk->mutex);
        lane->working--;
        if (desk->stop && is_idle(desk)) {
            pthread_cond_broadcast(&desk->small.changed);
            pthread_cond_broadcast(&desk->large.changed);
        }
    }
    pthread_mutex_unlock(&desk->mutex);
    return NULL;
}

/* With the mutex held, or before other threads exist. */
static int add_thread(struct lane *lane)
{
    int failed = pthread_create(&lane->threads[lane->count], NULL, work, lane);
    lane->count += !failed;
    return failed;
}

void desk_submit(struct desk *desk, struct desk_task *task)
{
    pthread_mutex_lock(&desk->mutex);
    struct lane *lane = task->bytes < LARGE_BYTES ? &desk->small : &desk->large;
    if (lane->working + lane->queued == lane->count && lane->count < lane->most)
        add_thread(lane);
    /* If no thread could be started for large tasks, the small lane's thread does them. */
    if (!lane->count)
        lane = &desk->small;
    task->next = NULL;
    if (lane->last)
        lane->last->next = task;
    else
        lane->first = task;
    lane->last = task;
    lane->queued++;
    pthread_cond_signal(&lane->changed);
    pthread_mutex_unlock(&desk->mutex);
}

bool desk_is_idle(struct desk *desk)
{
    pthread_mutex_lock(&desk->mutex);
    bool idle = is_idle(desk);
    pthread_mutex_unlock(&desk->mutex);
    return idle;
}

hypura_status desk_create(struct desk **out, hypura_error *error)
{
    struct desk *desk;
    hypura_status status = ALLOCATE(&desk, 1, "desk", error);
    if (status)
        return status;
    pthread_mutex_init(&desk->mutex, NULL);
    desk->small = (struct lane){.desk = desk, .most = 1};
    desk->large = (struct lane){.desk = desk, .most = MOST_THREADS};
    pthread_cond_init(&desk->small.changed, NULL);
    pthread_cond_init(&desk->large.changed, NULL);
    *out = desk;
    int failed = add_thread(&desk->small);
    return failed ? error_set_errno(error, failed, "cannot start a thread for requests") : HYPURA_OK;
}

static void join(struct lane *lane)
{
    for (unsigned i = 0; i < lane->count; i++)
        pthread_join(lane->threads[i], NULL);
    pthread_cond_destroy(&lane->changed);
}

void desk_destroy(struct desk *desk)
{
    if (!desk)
        return;
    pthread_mutex_lock(&desk->mutex);
    desk->stop = true;
    pthread_cond_broadcast(&desk->small.changed);
    pthread_cond_broadcast(&desk->large.changed);
    pthread_mutex_unlock(&desk->mutex);
    /* The small lane's thread ends only when no task is left, so no lane starts a thread after this. */
    join(&desk->small);
    join(&desk->large);
    pthread_mutex_destroy(&desk->mutex);
    memory_free(desk);
}
