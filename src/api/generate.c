/* Starts answers, and returns their events to the program. */
#include "api/api_private.h"

#include <string.h>
#include <unistd.h>

static bool is_busy(hypura_session *session)
{
    pthread_mutex_lock(&session->mutex);
    bool busy = session->running || session->first;
    pthread_mutex_unlock(&session->mutex);
    return busy || session->started;
}

/* Makes the session hold the prompt, to which the answer is appended later. */
static void hold_prompt(hypura_session *session)
{
    const struct token_array *prompt = &session->asked.prompt;
    token_array_free(&session->held);
    session->held = (struct token_array){0};
    for (size_t i = 0; i < prompt->count; i++)
        session->torn |= token_array_append(&session->held, prompt->ids[i], NULL) != HYPURA_OK;
}

/* Empties the pipe of an earlier answer. */
static void drain(hypura_session *session)
{
    char byte;
    pthread_mutex_lock(&session->mutex);
    while (session->signalled && read(session->pipe[0], &byte, 1) == 1)
        session->signalled = false;
    pthread_mutex_unlock(&session->mutex);
}

hypura_status hypura_start(hypura_session *session, const hypura_request *request, hypura_error *error)
{
    if (is_busy(session))
        return error_set(error, HYPURA_ERROR_ARGUMENT,
                         "the session's last answer was not read to its end: call hypura_next until HYPURA_EVENT_END");
    if (!session->model->info.generates)
        return error_set(error, HYPURA_ERROR_UNSUPPORTED, "%s is an encoder: it makes embeddings and cannot write text",
                         session->model->info.name);
    if (atomic_load(&session->cancelled))
        return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
    hypura_status status = ask(session, request, error);
    if (status)
        return status;
    drain(session);
    event_free(session->taken);
    session->taken = NULL;
    session->torn = session->ended = session->has_result = false;
    session->calls = 0;
    session->last_kind = CHAT_CONTENT;
    session->result = (hypura_result){.end_token = HYPURA_NO_TOKEN};
    hold_prompt(session);
    session->number = 0;
    session->started = true;
    atomic_store(&session->stopped, false);
    pthread_mutex_lock(&session->mutex);
    session->running = true;
    session->queued_bytes = 0;
    pthread_mutex_unlock(&session->mutex);
    scheduler_submit(session);
    return HYPURA_OK;
}

static void show(hypura_session *session, struct event_item *item)
{
    event_free(session->taken);
    session->taken = item;
    if (!item)
        return;
    item->event.text = item->text.data ? item->text.data : "";
    item->event.size = item->text.size;
    item->event.name = item->name;
}

hypura_status hypura_next(hypura_session *session, int timeout_milliseconds, const hypura_event **event,
                          hypura_error *error)
{
    static const hypura_event end = {.kind = HYPURA_EVENT_END, .text = "", .token = HYPURA_NO_TOKEN};
    struct event_item *item;
    if (!session->started)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "no answer was started: call hypura_start first");
    hypura_status status = events_take(session, timeout_milliseconds, &item, error);
    show(session, item);
    *event = item ? &item->event : NULL;
    if (item)
        return HYPURA_OK;
    pthread_mutex_lock(&session->mutex);
    bool over = !session->running && !session->first;
    pthread_mutex_unlock(&session->mutex);
    if (!over)
        return HYPURA_OK;
    session->started = false;
    session->has_result = true;
    drain(session);
    if (!status)
        *event = &end;
    return status;
}

hypura_status hypura_answer(hypura_session *session, const hypura_request *request,
                            bool (*on_event)(void *context, const hypura_event *event), void *context,
                            hypura_error *error)
{
    const hypura_event *event;
    bool wanted = true;
    hypura_status status = hypura_start(session, request, error);
    while (!status && !(status = hypura_next(session, -1, &event, error))) {
        bool end = event && event->kind == HYPURA_EVENT_END;
        if (event && wanted && on_event && !on_event(context, event)) {
            wanted = false;
            hypura_stop(session);
        }
        if (end)
            break;
    }
    if (!status && session->result.finish == HYPURA_FINISH_CANCELLED && wanted && atomic_load(&session->cancelled))
        return error_set(error, HYPURA_ERROR_CANCELLED, "cancelled");
    return status;
}

const hypura_result *hypura_session_result(const hypura_session *session)
{
    return session->has_result ? &session->result : NULL;
}
