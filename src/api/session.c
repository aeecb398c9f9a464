/* Opens, closes and copies sessions. */
#include "api/api_private.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

hypura_status hypura_session_open(hypura_session **out, hypura_model *model, hypura_error *error)
{
    hypura_session *session;
    if (!model->engine)
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "the model was opened for text only: sessions need its weights (options.text_only)");
    hypura_status status = ALLOCATE(&session, 1, "session", error);
    if (status)
        return status;
    session->model = model;
    session->pipe[0] = session->pipe[1] = -1;
    pthread_mutex_init(&session->mutex, NULL);
    pthread_cond_init(&session->changed, NULL);
    *out = session;
    return HYPURA_OK;
}

static bool is_running(hypura_session *session)
{
    pthread_mutex_lock(&session->mutex);
    bool running = session->running;
    pthread_mutex_unlock(&session->mutex);
    return running;
}

void hypura_session_close(hypura_session *session)
{
    if (!session)
        return;
    hypura_stop(session);
    while (is_running(session)) {
        struct event_item *item;
        events_take(session, -1, &item, NULL);
        event_free(item);
    }
    for (struct event_item *item = session->first, *next; item; item = next) {
        next = item->next;
        event_free(item);
    }
    event_free(session->taken);
    forget_asked(&session->asked);
    token_array_free(&session->held);
    for (int i = 0; i < 2; i++)
        if (session->pipe[i] >= 0)
            close(session->pipe[i]);
    pthread_mutex_destroy(&session->mutex);
    pthread_cond_destroy(&session->changed);
    memory_free(session);
}

const int32_t *hypura_session_tokens(const hypura_session *session, size_t *count)
{
    *count = session->held.count;
    return session->held.ids;
}

static hypura_status copy_tokens(struct token_array *out, const struct token_array *from, hypura_error *error)
{
    hypura_status status = ALLOCATE(&out->ids, from->count, "tokens", error);
    if (status)
        return status;
    if (from->count)
        memcpy(out->ids, from->ids, from->count * sizeof *from->ids);
    out->count = out->capacity = from->count;
    return HYPURA_OK;
}

hypura_status hypura_session_fork(hypura_session **out, hypura_session *session, hypura_error *error)
{
    hypura_session *fork = NULL;
    if (is_running(session))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "an answer of the session still runs");
    hypura_status status = hypura_session_open(&fork, session->model, error);
    if (!status)
        status = copy_tokens(&fork->held, &session->held, error);
    if (status)
        hypura_session_close(fork);
    else
        *out = fork;
    return status;
}

hypura_status hypura_session_file(hypura_session *session, int *descriptor, hypura_error *error)
{
    int ends[2];
    if (session->pipe[0] < 0) {
        if (pipe(ends))
            return error_set(error, HYPURA_ERROR_IO, "cannot make a pipe for the session");
        for (int i = 0; i < 2; i++)
            if (fcntl(ends[i], F_SETFD, FD_CLOEXEC) || fcntl(ends[i], F_SETFL, O_NONBLOCK)) {
                close(ends[0]);
                close(ends[1]);
                return error_set(error, HYPURA_ERROR_IO, "cannot prepare a pipe for the session");
            }
        pthread_mutex_lock(&session->mutex);
        memcpy(session->pipe, ends, sizeof ends);
        if (session->first || (session->started && !session->running))
            session->signalled = write(ends[1], "", 1) == 1;
        pthread_mutex_unlock(&session->mutex);
    }
    *descriptor = session->pipe[0];
    return HYPURA_OK;
}
