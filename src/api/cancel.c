/* Ends a session's current call, from other threads and from signal handlers. */
#include "api/api_private.h"

void hypura_cancel(hypura_session *session, bool cancel)
{
    atomic_store(&session->cancelled, cancel);
}

void hypura_stop(hypura_session *session)
{
    pthread_mutex_lock(&session->mutex);
    uint64_t number = session->running ? session->number : 0;
    if (session->running)
        atomic_store(&session->stopped, true);
    pthread_mutex_unlock(&session->mutex);
    if (!number)
        return; /* answer_submit sees the stop */
    generator_cancel(session->model->generator, number);
    generator_look(session->model->generator);
}
