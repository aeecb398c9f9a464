/* Passes the events of an answer from the model's thread to the session's. */
#include "api/api_private.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* The most bytes of events that wait to be taken. */
#define MOST_QUEUED ((size_t)64 << 20)

void event_free(struct event_item *item)
{
    if (!item)
        return;
    buffer_free(&item->text);
    memory_free(item->name);
    memory_free(item->top);
    memory_free(item);
}

/* Called with the session's mutex. */
static void signal_session(struct hypura_session *session)
{
    pthread_cond_signal(&session->changed);
    if (session->pipe[1] >= 0 && !session->signalled)
        session->signalled = write(session->pipe[1], "", 1) == 1;
}

/* Called with the session's mutex. If an event cannot be queued, session->torn makes the answer end with an error. */
static void push(struct hypura_session *session, struct event_item *item, size_t bytes)
{
    session->queued_bytes += bytes;
    if (session->last)
        session->last->next = item;
    else
        session->first = item;
    session->last = item;
    signal_session(session);
}

static struct event_item *make(struct hypura_session *session, hypura_event_kind kind)
{
    struct event_item *item = NULL;
    if (session->queued_bytes > MOST_QUEUED || ALLOCATE(&item, 1, "event", NULL)) {
        session->torn = true;
        return NULL;
    }
    item->event = (hypura_event){.kind = kind, .token = HYPURA_NO_TOKEN};
    return item;
}

void events_text(struct hypura_session *session, hypura_event_kind kind, const char *text, size_t size)
{
    pthread_mutex_lock(&session->mutex);
    struct event_item *item = session->last;
    bool fresh = !item || item->event.kind != kind;
    if (fresh)
        item = make(session, kind);
    if (item) {
        size_t before = item->text.size;
        buffer_append(&item->text, text, size);
        session->torn |= item->text.failed || session->queued_bytes > MOST_QUEUED;
        if (fresh)
            push(session, item, sizeof *item);
        session->queued_bytes += item->text.size - before;
    }
    pthread_mutex_unlock(&session->mutex);
}

void events_call(struct hypura_session *session, const char *name, const char *arguments, size_t size)
{
    pthread_mutex_lock(&session->mutex);
    struct event_item *item = make(session, HYPURA_EVENT_TOOL_CALL);
    if (item) {
        item->event.call_index = session->calls++;
        session->torn |= string_copy(&item->name, name, NULL) != HYPURA_OK;
        buffer_append(&item->text, arguments, size);
        session->torn |= item->text.failed;
        push(session, item, sizeof *item + size);
    }
    pthread_mutex_unlock(&session->mutex);
}

void events_token(struct hypura_session *session, int32_t token, float logprob, const struct token_logprob *top,
                  size_t count)
{
    pthread_mutex_lock(&session->mutex);
    struct event_item *item = make(session, HYPURA_EVENT_TOKEN);
    if (item && count && ALLOCATE(&item->top, count, "event", NULL)) {
        event_free(item);
        item = NULL;
        session->torn = true;
    }
    if (item) {
        for (size_t i = 0; i < count; i++)
            item->top[i] = (hypura_logprob){top[i].token, top[i].logprob};
        item->event.token = token;
        item->event.logprob = logprob;
        item->event.top = item->top;
        item->event.top_count = count;
        push(session, item, sizeof *item + count * sizeof *top);
    }
    pthread_mutex_unlock(&session->mutex);
}

void events_end(struct hypura_session *session, const hypura_error *error)
{
    pthread_mutex_lock(&session->mutex);
    session->error = error ? *error : (hypura_error){0};
    if (!error && session->torn)
        error_set(&session->error, HYPURA_ERROR_MEMORY,
                  "no memory for the answer, or more than %zu MiB of its events were not taken with hypura_next",
                  MOST_QUEUED >> 20);
    session->running = false;
    signal_session(session);
    pthread_mutex_unlock(&session->mutex);
}

/* Called with the mutex, which is released while waiting. until: monotonic nanoseconds. */
static void wait_until(struct hypura_session *session, uint64_t until)
{
    struct timespec time;
    uint64_t now = clock_nanoseconds(), most = (uint64_t)LOOK_MILLISECONDS * 1000000;
    uint64_t wait = until > now ? MIN(until - now, most) : 0;
    clock_gettime(CLOCK_REALTIME, &time);
    time.tv_nsec += (long)wait;
    time.tv_sec += time.tv_nsec / 1000000000;
    time.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&session->changed, &session->mutex, &time);
}

/* Stops the model's thread, which may be in a long pass. Releases the mutex meanwhile. */
static void pass_on_cancel(struct hypura_session *session)
{
    pthread_mutex_unlock(&session->mutex);
    hypura_stop(session);
    pthread_mutex_lock(&session->mutex);
}

/* Called with the mutex. Empties the pipe if there is nothing more to take. */
static void take_signal(struct hypura_session *session)
{
    char byte;
    if (session->signalled && !session->first && session->running)
        session->signalled = read(session->pipe[0], &byte, 1) != 1;
}

hypura_status events_take(struct hypura_session *session, int milliseconds, struct event_item **out,
                          hypura_error *error)
{
    uint64_t until = milliseconds < 0 ? UINT64_MAX : clock_nanoseconds() + (uint64_t)milliseconds * 1000000;
    hypura_status status = HYPURA_OK;
    bool told = false;
    *out = NULL;
    pthread_mutex_lock(&session->mutex);
    while (!session->first && session->running) {
        if (!told && atomic_load(&session->cancelled)) {
            told = true;
            pass_on_cancel(session);
            continue;
        }
        if (clock_nanoseconds() >= until)
            break;
        wait_until(session, until);
    }
    struct event_item *item = session->first;
    if (item) {
        session->first = item->next;
        if (!session->first)
            session->last = NULL;
        session->queued_bytes -= MIN(session->queued_bytes, sizeof *item + item->text.size);
        if (!session->first && session->running)
            take_signal(session);
        *out = item;
    } else if (!session->running) {
        status = session->error.status;
        if (status && error)
            *error = session->error;
    } else {
        take_signal(session);
    }
    pthread_mutex_unlock(&session->mutex);
    return status;
}
