/* Reads as many blocks of a file as possible with a given number in flight: by io_uring, or with one thread per read.
 */
#include "hw/hw_private.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#if HYPURA_URING
#include <liburing.h>
#endif

/* A run fills its queue at least this many times even if its time is over, so that its start and end matter less. On a
 * very slow drive it ends after LONG_SECONDS anyway. */
#define LEAST_ROUNDS 2
#define LONG_SECONDS 0.3

uint64_t hw_read_block(const struct read_run *run, uint64_t number)
{
    uint64_t blocks = run->file_bytes / run->block_bytes;
    if (run->sequential)
        return (run->seed + number) % blocks;
    /* Steps of about 0.618 (the golden ratio) of the file, coprime to the number of blocks: every block is read once
     * before any is read twice, and none is near the one before. */
    uint64_t step = MAX((uint64_t)((double)blocks * 0.6180339887), (uint64_t)1);
    while (greatest_common_divisor(step, blocks) != 1)
        step++;
    return (uint64_t)(((unsigned __int128)number * step + run->seed) % blocks);
}

static uint64_t read_limit(const struct read_run *run)
{
    return run->once ? run->file_bytes / run->block_bytes : UINT64_MAX;
}

/* Uses all of the memory in turn: a single place would stay in the caches of the processor or of the host. */
static void *read_memory(const struct read_run *run, uint64_t number)
{
    size_t slots = run->memory_bytes / run->block_bytes;
    return (char *)run->memory + number % slots * run->block_bytes;
}

static bool go_on(const struct read_run *run, uint64_t number, uint64_t started)
{
    double seconds = clock_seconds_since(started);
    return number < read_limit(run) &&
           (seconds < run->seconds || (number < (uint64_t)LEAST_ROUNDS * run->depth && seconds < LONG_SECONDS));
}

static hypura_status read_failed(const struct read_run *run, uint64_t number, int problem, hypura_error *error)
{
    unsigned long long offset = hw_read_block(run, number) * run->block_bytes;
    if (problem)
        return error_set_errno(error, problem, "cannot read %u bytes at offset %llu", run->block_bytes, offset);
    return error_set(error, HYPURA_ERROR_IO, "the file ended at offset %llu while it was being read", offset);
}

#if HYPURA_URING
#define MAX_REFUSALS 150u /* in a row, a millisecond apart; a broken ring keeps failing */

/* HYPURA_ERROR_UNSUPPORTED: the system does not accept reads through the ring. */
static hypura_status run_uring(struct io_uring *ring, const struct read_run *run, double *speed, hypura_error *error)
{
    uint64_t started = clock_nanoseconds(), submitted = 0, completed = 0, last = started;
    hypura_status status = HYPURA_OK;
    uint32_t in_flight = 0, refusals = 0;
    for (; in_flight < run->depth && submitted < read_limit(run); in_flight++, submitted++) {
        struct io_uring_sqe *entry = io_uring_get_sqe(ring);
        io_uring_prep_read(entry, run->file, read_memory(run, submitted), run->block_bytes,
                           hw_read_block(run, submitted) * run->block_bytes);
        io_uring_sqe_set_data64(entry, submitted);
    }
    while (in_flight > 0) {
        int result = io_uring_submit_and_wait(ring, 1);
        if (result < 0 && ++refusals == MAX_REFUSALS) {
            /* The kernel keeps the pages of reads in flight until they complete, even if the ring is closed. */
            return error_set(error, HYPURA_ERROR_UNSUPPORTED, "io_uring refused a read: %s", strerror(-result));
        }
        if (result < 0)
            usleep(1000);
        struct io_uring_cqe *entry;
        while (io_uring_peek_cqe(ring, &entry) == 0) {
            uint64_t number = entry->user_data;
            int size = entry->res;
            io_uring_cqe_seen(ring, entry);
            in_flight--;
            refusals = 0;
            if (size != (int)run->block_bytes) {
                if (status == HYPURA_OK)
                    status = read_failed(run, number, size < 0 ? -size : 0, error);
                continue;
            }
            completed++;
            last = clock_nanoseconds();
            if (status != HYPURA_OK || !go_on(run, submitted, started))
                continue;
            struct io_uring_sqe *next = io_uring_get_sqe(ring);
            io_uring_prep_read(next, run->file, read_memory(run, submitted), run->block_bytes,
                               hw_read_block(run, submitted) * run->block_bytes);
            io_uring_sqe_set_data64(next, submitted++);
            in_flight++;
        }
    }
    if (status == HYPURA_OK)
        *speed = (double)completed * run->block_bytes / ((double)MAX(last - started, (uint64_t)1) * 1e-9);
    return status;
}
#endif

struct reading {
    const struct read_run *run;
    uint64_t started;
    atomic_uint_fast64_t next, completed, last;
    atomic_int failed; /* 1 + errno */
    atomic_uint_fast64_t failed_number;
};

static void *read_blocks(void *context)
{
    struct reading *reading = context;
    const struct read_run *run = reading->run;
    for (;;) {
        uint64_t number = atomic_fetch_add(&reading->next, 1);
        if (atomic_load(&reading->failed) || !go_on(run, number, reading->started))
            return NULL;
        ssize_t size = pread(run->file, read_memory(run, number), run->block_bytes,
                             (off_t)(hw_read_block(run, number) * run->block_bytes));
        if (size != (ssize_t)run->block_bytes) {
            atomic_store(&reading->failed_number, number);
            atomic_store(&reading->failed, 1 + (size < 0 ? errno : 0));
            return NULL;
        }
        atomic_fetch_add(&reading->completed, 1);
        atomic_store(&reading->last, clock_nanoseconds());
    }
}

static hypura_status run_threads(const struct read_run *run, double *speed, hypura_error *error)
{
    pthread_t threads[256];
    struct reading reading = {.run = run, .started = clock_nanoseconds()};
    size_t count = 0;
    while (count < MIN(run->depth, (uint32_t)COUNT_OF(threads)) &&
           pthread_create(&threads[count], NULL, read_blocks, &reading) == 0)
        count++;
    for (size_t i = 0; i < count; i++)
        pthread_join(threads[i], NULL);
    if (count == 0)
        return error_set(error, HYPURA_ERROR_MEMORY, "cannot start a thread for reading");
    int failed = atomic_load(&reading.failed);
    if (failed)
        return read_failed(run, atomic_load(&reading.failed_number), failed - 1, error);
    uint64_t taken = MAX(atomic_load(&reading.last), reading.started + 1) - reading.started;
    *speed = (double)atomic_load(&reading.completed) * run->block_bytes / ((double)taken * 1e-9);
    return HYPURA_OK;
}

static hypura_status run_reads(const struct read_run *run, double *bytes_per_second, hypura_error *error)
{
#if HYPURA_URING
    /* Some containers forbid io_uring, and some kernels have it turned off. */
    struct io_uring ring;
    if (!run->threads && io_uring_queue_init(run->depth, &ring, 0) == 0) {
        hypura_status status = run_uring(&ring, run, bytes_per_second, error);
        io_uring_queue_exit(&ring);
        if (status != HYPURA_ERROR_UNSUPPORTED)
            return status;
    }
#endif
    return run_threads(run, bytes_per_second, error);
}

struct run_apart {
    const struct read_run *run;
    double *bytes_per_second;
    hypura_error *error;
    hypura_status status;
};

static void *read_apart(void *context)
{
    struct run_apart *apart = context;
    thread_wakes_soon();
    apart->status = run_reads(apart->run, apart->bytes_per_second, apart->error);
    return NULL;
}

/* As a model is read: by a thread that the system runs soon after it wakes, even if all cores compute. */
hypura_status hw_run_reads(const struct read_run *run, double *bytes_per_second, hypura_error *error)
{
    struct run_apart apart = {.run = run, .bytes_per_second = bytes_per_second, .error = error};
    pthread_t thread;
    if (run->depth == 0 || run->depth > 256 || run->block_bytes == 0 || run->file_bytes < run->block_bytes ||
        run->memory_bytes < run->block_bytes)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "cannot measure reads of %u bytes, %u in flight, in %llu bytes",
                         run->block_bytes, run->depth, (unsigned long long)run->file_bytes);
    if (pthread_create(&thread, NULL, read_apart, &apart))
        return error_set(error, HYPURA_ERROR_MEMORY, "cannot start a thread for reading");
    pthread_join(thread, NULL);
    return apart.status;
}
