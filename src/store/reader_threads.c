#include "store/reader.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

/* More threads gain nothing, because a pread of a large block keeps the drive busy for long. */
#define MAX_THREADS 32u

struct threads_reader {
    struct reader reader;
    pthread_mutex_t mutex;
    pthread_cond_t work;        /* wakes threads: a read is queued, or stop */
    pthread_cond_t results;     /* ends waits: a result, or a wake */
    struct reader_read *queued; /* circular, [depth] */
    struct reader_result *done; /* circular, [depth] */
    uint32_t depth;
    uint32_t queued_first, queued_count;
    uint32_t done_first, done_count;
    bool woken, stop;
    pthread_t threads[MAX_THREADS];
    uint32_t thread_count;
};

static int32_t read_now(const struct reader_read *read)
{
    ssize_t got = pread(read->descriptor, read->memory, read->bytes, (off_t)read->offset);
    return got < 0 ? -errno : (int32_t)got;
}

static void *thread_main(void *argument)
{
    struct threads_reader *threads = argument;
    pthread_mutex_lock(&threads->mutex);
    for (;;) {
        while (threads->queued_count == 0 && !threads->stop)
            pthread_cond_wait(&threads->work, &threads->mutex);
        if (threads->queued_count == 0)
            break;
        struct reader_read read = threads->queued[threads->queued_first];
        threads->queued_first = (threads->queued_first + 1) % threads->depth;
        threads->queued_count--;
        pthread_mutex_unlock(&threads->mutex);
        int32_t result = read_now(&read);
        pthread_mutex_lock(&threads->mutex);
        uint32_t at = (threads->done_first + threads->done_count) % threads->depth;
        threads->done[at] = (struct reader_result){read.tag, result};
        threads->done_count++;
        pthread_cond_signal(&threads->results);
    }
    pthread_mutex_unlock(&threads->mutex);
    return NULL;
}

static void threads_submit(struct reader *reader, const struct reader_read *reads, size_t count)
{
    struct threads_reader *threads = (struct threads_reader *)reader;
    if (count == 0)
        return;
    pthread_mutex_lock(&threads->mutex);
    for (size_t i = 0; i < count; i++) {
        uint32_t at = (threads->queued_first + threads->queued_count) % threads->depth;
        threads->queued[at] = reads[i];
        threads->queued_count++;
        pthread_cond_signal(&threads->work);
    }
    pthread_mutex_unlock(&threads->mutex);
}

static size_t threads_wait(struct reader *reader, struct reader_result *results, size_t room, int *broken)
{
    (void)broken; /* running threads stay */
    struct threads_reader *threads = (struct threads_reader *)reader;
    pthread_mutex_lock(&threads->mutex);
    while (threads->done_count == 0 && !threads->woken)
        pthread_cond_wait(&threads->results, &threads->mutex);
    threads->woken = false;
    size_t count = 0;
    for (; count < room && threads->done_count > 0; count++) {
        results[count] = threads->done[threads->done_first];
        threads->done_first = (threads->done_first + 1) % threads->depth;
        threads->done_count--;
    }
    pthread_mutex_unlock(&threads->mutex);
    return count;
}

static void threads_wake(struct reader *reader)
{
    struct threads_reader *threads = (struct threads_reader *)reader;
    pthread_mutex_lock(&threads->mutex);
    threads->woken = true;
    pthread_cond_signal(&threads->results);
    pthread_mutex_unlock(&threads->mutex);
}

static void threads_destroy(struct reader *reader)
{
    struct threads_reader *threads = (struct threads_reader *)reader;
    pthread_mutex_lock(&threads->mutex);
    threads->stop = true;
    pthread_cond_broadcast(&threads->work);
    pthread_mutex_unlock(&threads->mutex);
    for (uint32_t i = 0; i < threads->thread_count; i++)
        pthread_join(threads->threads[i], NULL);
    pthread_cond_destroy(&threads->work);
    pthread_cond_destroy(&threads->results);
    pthread_mutex_destroy(&threads->mutex);
    memory_free(threads->queued);
    memory_free(threads->done);
    memory_free(threads);
}

static const struct reader_operations threads_operations = {.name = "threads",
                                                            .submit = threads_submit,
                                                            .wait = threads_wait,
                                                            .wake = threads_wake,
                                                            .destroy = threads_destroy};

hypura_status reader_threads_create(struct reader **out, uint32_t depth, hypura_error *error)
{
    struct threads_reader *threads;
    hypura_status status = ALLOCATE(&threads, 1, "reader", error);
    if (status)
        return status;
    threads->reader.operations = &threads_operations;
    threads->depth = depth;
    pthread_mutex_init(&threads->mutex, NULL);
    pthread_cond_init(&threads->work, NULL);
    pthread_cond_init(&threads->results, NULL);
    if ((status = ALLOCATE(&threads->queued, depth, "queue of reads", error)) ||
        (status = ALLOCATE(&threads->done, depth, "queue of reads", error))) {
        threads_destroy(&threads->reader);
        return status;
    }
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, (size_t)256 << 10);
    int failed = 0;
    for (uint32_t i = 0; i < MIN(depth, MAX_THREADS) && !failed; i++) {
        failed = pthread_create(&threads->threads[i], &attributes, thread_main, threads);
        if (!failed)
            threads->thread_count++;
    }
    pthread_attr_destroy(&attributes);
    /* If the system is short of threads, fewer reads are in flight. */
    if (threads->thread_count == 0) {
        threads_destroy(&threads->reader);
        return error_set_errno(error, failed, "cannot start a thread for reading");
    }
    *out = &threads->reader;
    return HYPURA_OK;
}
