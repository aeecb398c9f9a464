/* Answers the lines of standard input, several at a time: batch MODEL.gguf [THREADS]. Build with -pthread. Each thread
 * has its own session. The model computes their answers together, so four cost little more than one.
 */
#include <hypura/hypura.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_LINES = 1024, MOST_THREADS = 16, ROOM = 1024 };

static struct batch {
    hypura_model *model;
    char lines[MOST_LINES][ROOM], answers[MOST_LINES][ROOM];
    size_t count, next;
    pthread_mutex_t lock;
} batch = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool keep(void *context, const hypura_event *event)
{
    char *answer = context;
    size_t length = strlen(answer);
    if (event->kind == HYPURA_EVENT_CONTENT)
        snprintf(answer + length, ROOM - length, "%s", event->text);
    return true;
}

static bool take(size_t *line)
{
    pthread_mutex_lock(&batch.lock);
    *line = batch.next++;
    pthread_mutex_unlock(&batch.lock);
    return *line < batch.count;
}

static void *work(void *unused)
{
    hypura_session *session;
    hypura_error error;
    size_t line;
    if (hypura_session_open(&session, batch.model, &error)) {
        fprintf(stderr, "batch: %s\n", error.message);
        return unused;
    }
    hypura_sampling sampling = {.struct_size = sizeof sampling};
    hypura_default_sampling(&sampling);
    sampling.temperature = 0;
    while (take(&line)) {
        hypura_request request = {.struct_size = sizeof request,
                                  .text = batch.lines[line],
                                  .text_size = strlen(batch.lines[line]),
                                  .sampling = &sampling,
                                  .max_tokens = 24};
        if (hypura_answer(session, &request, keep, batch.answers[line], &error))
            snprintf(batch.answers[line], ROOM, "(%s)", error.message);
    }
    hypura_session_close(session);
    return unused;
}

int main(int count, char **arguments)
{
    hypura_error error = {.message = "name a model"};
    int threads = count > 2 ? atoi(arguments[2]) : 4;
    hypura_options options = {.struct_size = sizeof options, .context_tokens = 512, .sessions = MOST_THREADS};
    if (count < 2 || threads < 1 || threads > MOST_THREADS ||
        hypura_open(&batch.model, arguments[1], &options, &error)) {
        fprintf(stderr, "batch: %s\n", error.message);
        return 1;
    }
    while (batch.count < MOST_LINES && fgets(batch.lines[batch.count], ROOM, stdin)) {
        batch.lines[batch.count][strcspn(batch.lines[batch.count], "\n")] = 0;
        batch.count++;
    }
    pthread_t running[MOST_THREADS];
    int started = 0;
    while (started < threads && !pthread_create(&running[started], NULL, work, NULL))
        started++;
    for (int i = 0; i < started; i++)
        pthread_join(running[i], NULL);
    for (size_t i = 0; i < batch.count; i++)
        printf("%s ->%s\n", batch.lines[i], batch.answers[i]);
    hypura_close(batch.model);
    return started ? 0 : 1;
}
