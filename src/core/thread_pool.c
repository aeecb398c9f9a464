#include "core/core.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

/* How long a worker looks for the next section before it sleeps. A decode step opens a section every 20 to 200 us;
 * waking from sleep costs some 50 us, and more of spinning would steal the core from the reader's completions. */
#define SPIN_NANOSECONDS 40000u

struct worker {
    struct thread_pool *pool;
    size_t index;
    pthread_t thread;
};

/* What is left of a worker's share of a section: first in the upper half, end in the lower. */
struct share {
    _Alignas(64) atomic_uint_fast64_t left;
};

/* A section is published by writing task, context and count and then adding one to generation. The claim counter
 * carries the low bits of the generation in its upper half, so that a worker that was late for one section can never
 * take a task of the next with the old task's pointer. */
struct thread_pool {
    size_t threads;
    struct worker *workers;
    struct share *shares; /* [threads] */

    thread_task task;
    void *context;
    size_t count;

    _Alignas(64) atomic_uint generation;
    _Alignas(64) atomic_uint_fast64_t claim;
    _Alignas(64) atomic_size_t done;
    _Alignas(64) atomic_uint sleepers;
    atomic_bool stop;
    atomic_bool skip, skipped;

    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_cond_t finished;
    bool caller_sleeps;
    bool pinned;
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void run_task(struct thread_pool *pool, thread_task task, void *context, size_t index, size_t worker)
{
    if (atomic_load_explicit(&pool->skip, memory_order_relaxed))
        atomic_store(&pool->skipped, true);
    else
        task(context, index, worker);
}

void thread_pool_skip(struct thread_pool *pool, bool skip)
{
    atomic_store(&pool->skip, skip);
}

bool thread_pool_skipped(struct thread_pool *pool)
{
    return atomic_exchange(&pool->skipped, false);
}

/* Takes tasks of one section until none is left. task and context are read only after a claim succeeded: the claim
 * proves that the section is still open, because it closes only when every claimed task is done. */
static void work(struct thread_pool *pool, unsigned generation, size_t worker)
{
    for (;;) {
        uint_fast64_t claim = atomic_load_explicit(&pool->claim, memory_order_acquire);
        size_t index;
        do {
            if ((unsigned)(claim >> 32) != generation)
                return;
            index = (size_t)(claim & 0xffffffffu);
            if (index == 0)
                return;
        } while (!atomic_compare_exchange_weak_explicit(&pool->claim, &claim, claim - 1, memory_order_acq_rel,
                                                        memory_order_acquire));
        size_t count = pool->count;
        run_task(pool, pool->task, pool->context, count - index, worker);
        if (atomic_fetch_add_explicit(&pool->done, 1, memory_order_acq_rel) + 1 == count) {
            pthread_mutex_lock(&pool->mutex);
            if (pool->caller_sleeps)
                pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static void wait_for_section(struct thread_pool *pool, unsigned seen)
{
    uint64_t start = clock_nanoseconds();
    for (unsigned i = 0;; i++) {
        if (atomic_load_explicit(&pool->generation, memory_order_acquire) != seen || atomic_load(&pool->stop))
            return;
        relax();
        if ((i & 63) == 63 && clock_nanoseconds() - start > SPIN_NANOSECONDS)
            break;
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (atomic_load(&pool->generation) == seen && !atomic_load(&pool->stop))
        pthread_cond_wait(&pool->wake, &pool->mutex);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct thread_pool *pool = worker->pool;
    unsigned seen = 0;
    for (;;) {
        wait_for_section(pool, seen);
        if (atomic_load(&pool->stop))
            return NULL;
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        work(pool, seen, worker->index);
    }
}

hypura_status thread_pool_create(struct thread_pool **out, size_t threads, hypura_error *error)
{
    if (threads < 1 || threads > 256)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "%zu threads asked for: expected 1 to 256", threads);
    struct thread_pool *pool = aligned_alloc(64, align_up(sizeof *pool, 64));
    if (!pool)
        return error_set(error, HYPURA_ERROR_MEMORY, "no memory for the thread pool");
    memset(pool, 0, sizeof *pool);
    hypura_status status = ALLOCATE(&pool->workers, threads, "thread table", error);
    if (!status)
        pool->shares = aligned_alloc(64, threads * sizeof *pool->shares);
    if (!status && !pool->shares)
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for the thread pool");
    if (status) {
        memory_free(pool->workers);
        free(pool);
        return status;
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->finished, NULL);
    pool->threads = 1;
    for (size_t i = 1; i < threads; i++) {
        pool->workers[i] = (struct worker){.pool = pool, .index = i};
        int failed = pthread_create(&pool->workers[i].thread, NULL, worker_main, &pool->workers[i]);
        if (failed) {
            thread_pool_destroy(pool);
            return error_set_errno(error, failed, "cannot start thread %zu of %zu", i + 1, threads);
        }
        pool->threads = i + 1;
    }
    *out = pool;
    return HYPURA_OK;
}

void thread_pool_destroy(struct thread_pool *pool)
{
    if (!pool)
        return;
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (size_t i = 1; i < pool->threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_cond_destroy(&pool->finished);
    pthread_mutex_destroy(&pool->mutex);
    memory_free(pool->workers);
    free(pool->shares);
    free(pool);
}

size_t thread_pool_threads(const struct thread_pool *pool)
{
    return pool->threads;
}

static void run_one_batch(struct thread_pool *pool, thread_task task, void *context, size_t count)
{
    pool->task = task;
    pool->context = context;
    pool->count = count;
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    unsigned generation = atomic_load_explicit(&pool->generation, memory_order_relaxed) + 1;
    atomic_store_explicit(&pool->claim, ((uint_fast64_t)generation << 32) | count, memory_order_release);
    atomic_store(&pool->generation, generation);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    work(pool, generation, 0);

    uint64_t start = clock_nanoseconds();
    for (unsigned i = 0; atomic_load_explicit(&pool->done, memory_order_acquire) != count; i++) {
        relax();
        if ((i & 63) != 63 || clock_nanoseconds() - start <= SPIN_NANOSECONDS)
            continue;
        pthread_mutex_lock(&pool->mutex);
        pool->caller_sleeps = true;
        while (atomic_load(&pool->done) != count)
            pthread_cond_wait(&pool->finished, &pool->mutex);
        pool->caller_sleeps = false;
        pthread_mutex_unlock(&pool->mutex);
    }
}

void thread_pool_run(struct thread_pool *pool, thread_task task, void *context, size_t count)
{
    if (pool->threads == 1 || count == 1) {
        for (size_t i = 0; i < count; i++)
            run_task(pool, task, context, i, 0);
    } else if (count > 0) {
        run_one_batch(pool, task, context, count);
    }
}

/* ---- shares ------------------------------------------------------------------------------------------------------ */

/* Taken at once: this part of what is left. Large parts have fewer starts, and each start costs some cold misses; small
 * ones at the end decide how long one thread waits for another. */
#define SHARE_PART 4

struct walk {
    struct thread_pool *pool;
    thread_range range;
    void *context;
};

static bool take_part(struct share *share, bool from_front, size_t *first, size_t *count)
{
    uint_fast64_t left = atomic_load_explicit(&share->left, memory_order_relaxed), rest;
    do {
        uint_fast64_t begin = left >> 32, end = left & 0xffffffffu;
        if (begin >= end)
            return false;
        uint_fast64_t part = (end - begin + SHARE_PART - 1) / SHARE_PART;
        *count = (size_t)part;
        *first = (size_t)(from_front ? begin : end - part);
        rest = from_front ? (begin + part) << 32 | end : begin << 32 | (end - part);
    } while (
        !atomic_compare_exchange_weak_explicit(&share->left, &left, rest, memory_order_relaxed, memory_order_relaxed));
    return true;
}

/* Where workers are pinned, each its own share first: what that covers lies near it. */
static void walk_shares(void *context, size_t index, size_t worker)
{
    const struct walk *walk = context;
    struct thread_pool *pool = walk->pool;
    size_t first, count, own = pool->pinned ? worker : index;
    for (size_t i = 0; i < pool->threads; i++) {
        while (take_part(&pool->shares[(own + i) % pool->threads], i == 0, &first, &count)) {
            if (atomic_load_explicit(&pool->skip, memory_order_relaxed))
                atomic_store(&pool->skipped, true);
            else
                walk->range(walk->context, first, count, worker);
        }
    }
}

void thread_pool_run_shares(struct thread_pool *pool, thread_range range, void *context, size_t count)
{
    struct walk walk = {pool, range, context};
    for (size_t i = 0; i < pool->threads; i++) {
        uint_fast64_t first = (uint_fast64_t)count * i / pool->threads;
        uint_fast64_t end = (uint_fast64_t)count * (i + 1) / pool->threads;
        atomic_store_explicit(&pool->shares[i].left, first << 32 | end, memory_order_relaxed);
    }
    thread_pool_run(pool, walk_shares, &walk, MIN(count, pool->threads));
}

/* ---- cores ------------------------------------------------------------------------------------------------------- */

void thread_pool_pin(struct thread_pool *pool, size_t worker, const uint64_t *cpus, size_t words)
{
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    for (size_t i = 0; i < 64 * words && i < CPU_SETSIZE; i++)
        if (cpus[i / 64] >> i % 64 & 1)
            CPU_SET(i, &set);
    pool->pinned = true;
    if (worker > 0 && worker < pool->threads && CPU_COUNT(&set) > 0)
        pthread_setaffinity_np(pool->workers[worker].thread, sizeof set, &set);
#else
    (void)pool, (void)worker, (void)cpus, (void)words;
#endif
}

size_t thread_usable_cores(void)
{
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    size_t cores = online > 0 ? (size_t)online : 1;
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cores = MIN(cores, (size_t)CPU_COUNT(&set));
#endif
    return MAX(cores, (size_t)1);
}
