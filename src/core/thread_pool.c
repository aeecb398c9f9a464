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

/* Where a worker is in the newest section that it, or the caller for it, has heard of: the section's number times four,
 * and one of these. In a cache line of its own, as is everything below that one thread often writes and others read:
 * what 32 cores write in turn takes longer than a small section. */
enum { OUTSIDE, INSIDE };

struct seat {
    _Alignas(64) atomic_uint_fast64_t state;
};

/* What is left of a worker's share of a section: first and end, counted from where the share begins, below the mark of
 * the section. With another section's mark the share is whole, so nobody has to fill in the shares of all. */
struct share {
    _Alignas(64) atomic_uint_fast64_t left;
};

#define SHARE_BITS 24
#define MARK_BITS 16

/* A section is published by writing what it is and then adding one to generation. A worker takes part by taking its
 * seat, and leaves the seat when nothing is left to begin. When the caller has nothing left to begin it closes the
 * seats of those who did not come, such as who lost its core, and waits for the others: so nobody takes a task of the
 * next section with the old task's pointer, and no counter of finished tasks is needed. */
struct thread_pool {
    size_t threads;
    struct worker *workers;
    struct seat *seats;   /* [threads] */
    struct share *shares; /* [threads] */

    _Alignas(64) atomic_uint_fast64_t generation;

    _Alignas(64) thread_task task; /* NULL: range */
    thread_range range;
    void *context;
    size_t count;
    uint_fast64_t mark; /* of shares; never 0 */

    _Alignas(64) atomic_size_t claimed; /* tasks, and more at the end */

    _Alignas(64) atomic_uint sleepers; /* from here on, all of which is seldom written */
    atomic_bool stop;
    atomic_bool skip, skipped;
    atomic_bool caller_sleeps;

    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pthread_cond_t finished;
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

/* ---- what a worker does of a section ----------------------------------------------------------------------------- */

static void walk_tasks(struct thread_pool *pool, size_t worker)
{
    size_t count = pool->count, index;
    while ((index = atomic_fetch_add_explicit(&pool->claimed, 1, memory_order_relaxed)) < count)
        run_task(pool, pool->task, pool->context, index, worker);
}

/* Taken at once: this part of what is left. Large parts have fewer starts, and each start costs some cold misses; small
 * ones at the end decide how long one thread waits for another. */
#define SHARE_PART 4

static bool take_part(struct thread_pool *pool, size_t number, bool from_front, size_t *first, size_t *count)
{
    struct share *share = &pool->shares[number];
    const uint_fast64_t mask = ((uint_fast64_t)1 << SHARE_BITS) - 1;
    size_t start = pool->count * number / pool->threads;
    uint_fast64_t whole = pool->count * (number + 1) / pool->threads - start;
    uint_fast64_t left = atomic_load_explicit(&share->left, memory_order_relaxed), begin, end, part;
    do {
        bool marked = left >> 2 * SHARE_BITS == pool->mark;
        begin = marked ? left >> SHARE_BITS & mask : 0;
        end = marked ? left & mask : whole;
        if (begin >= end)
            return false;
        part = (end - begin + SHARE_PART - 1) / SHARE_PART;
        *first = start + (size_t)(from_front ? begin : end - part);
        *count = (size_t)part;
        begin += from_front ? part : 0;
        end -= from_front ? 0 : part;
    } while (!atomic_compare_exchange_weak_explicit(&share->left, &left,
                                                    pool->mark << 2 * SHARE_BITS | begin << SHARE_BITS | end,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

/* Each its own share first: where workers are pinned, what that covers lies near it. */
static void walk_shares(struct thread_pool *pool, size_t worker)
{
    size_t first, count;
    for (size_t i = 0; i < pool->threads; i++) {
        while (take_part(pool, (worker + i) % pool->threads, i == 0, &first, &count)) {
            if (atomic_load_explicit(&pool->skip, memory_order_relaxed))
                atomic_store(&pool->skipped, true);
            else
                pool->range(pool->context, first, count, worker);
        }
    }
}

static void work(struct thread_pool *pool, size_t worker)
{
    if (pool->task)
        walk_tasks(pool, worker);
    else
        walk_shares(pool, worker);
}

/* ---- taking part ------------------------------------------------------------------------------------------------- */

/* false: the caller has closed the seat. */
static bool take_seat(struct seat *seat, uint_fast64_t generation)
{
    uint_fast64_t state = atomic_load_explicit(&seat->state, memory_order_relaxed);
    while (state / 4 < generation)
        if (atomic_compare_exchange_weak_explicit(&seat->state, &state, 4 * generation + INSIDE, memory_order_acq_rel,
                                                  memory_order_relaxed))
            return true;
    return false;
}

static void leave_seat(struct thread_pool *pool, struct seat *seat, uint_fast64_t generation)
{
    atomic_store(&seat->state, 4 * generation + OUTSIDE);
    if (atomic_load(&pool->caller_sleeps)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_signal(&pool->finished);
        pthread_mutex_unlock(&pool->mutex);
    }
}

static void wait_for_section(struct thread_pool *pool, uint_fast64_t seen)
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
    struct seat *seat = &pool->seats[worker->index];
    uint_fast64_t seen = 0;
    for (;;) {
        wait_for_section(pool, seen);
        if (atomic_load(&pool->stop))
            return NULL;
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (take_seat(seat, seen)) {
            work(pool, worker->index);
            leave_seat(pool, seat, seen);
        }
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
    if (!status) {
        pool->shares = aligned_alloc(64, threads * sizeof *pool->shares);
        pool->seats = aligned_alloc(64, threads * sizeof *pool->seats);
        if (!pool->shares || !pool->seats)
            status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for the thread pool");
    }
    if (status) {
        memory_free(pool->workers);
        free(pool->shares);
        free(pool->seats);
        free(pool);
        return status;
    }
    memset(pool->shares, 0, threads * sizeof *pool->shares);
    memset(pool->seats, 0, threads * sizeof *pool->seats);
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
    free(pool->seats);
    free(pool);
}

size_t thread_pool_threads(const struct thread_pool *pool)
{
    return pool->threads;
}

static void sleep_until_outside(struct thread_pool *pool, struct seat *seat, uint_fast64_t inside)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&seat->state) == inside)
        pthread_cond_wait(&pool->finished, &pool->mutex);
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

/* Closes the seats of who did not come, and waits for who did. */
static void end_section(struct thread_pool *pool, uint_fast64_t generation)
{
    const uint_fast64_t inside = 4 * generation + INSIDE;
    uint64_t start = 0;
    for (size_t i = 1; i < pool->threads; i++) {
        struct seat *seat = &pool->seats[i];
        uint_fast64_t state = atomic_load_explicit(&seat->state, memory_order_acquire);
        while (state / 4 < generation &&
               !atomic_compare_exchange_weak_explicit(&seat->state, &state, 4 * generation + OUTSIDE,
                                                      memory_order_acq_rel, memory_order_acquire))
            ;
        for (unsigned spins = 1; atomic_load_explicit(&seat->state, memory_order_acquire) == inside; spins++) {
            relax();
            if (spins % 64)
                continue;
            start = start ? start : clock_nanoseconds();
            if (clock_nanoseconds() - start > SPIN_NANOSECONDS)
                sleep_until_outside(pool, seat, inside);
        }
    }
}

static void run_section(struct thread_pool *pool, thread_task task, thread_range range, void *context, size_t count)
{
    uint_fast64_t generation = atomic_load_explicit(&pool->generation, memory_order_relaxed) + 1;
    pool->task = task;
    pool->range = range;
    pool->context = context;
    pool->count = count;
    atomic_store_explicit(&pool->claimed, 0, memory_order_relaxed);
    atomic_store(&pool->generation, generation);
    if (atomic_load(&pool->sleepers)) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    work(pool, 0);
    end_section(pool, generation);
}

void thread_pool_run(struct thread_pool *pool, thread_task task, void *context, size_t count)
{
    if (pool->threads == 1 || count == 1) {
        for (size_t i = 0; i < count; i++)
            run_task(pool, task, context, i, 0);
    } else if (count > 0) {
        run_section(pool, task, NULL, context, count);
    }
}

/* No share has the mark of a coming section: when marks begin again, shares lose theirs. */
static void new_mark(struct thread_pool *pool)
{
    if (++pool->mark >> MARK_BITS == 0)
        return;
    for (size_t i = 0; i < pool->threads; i++)
        atomic_store_explicit(&pool->shares[i].left, 0, memory_order_relaxed);
    pool->mark = 1;
}

void thread_pool_run_shares(struct thread_pool *pool, thread_range range, void *context, size_t count)
{
    if (count == 0)
        return;
    new_mark(pool);
    if (pool->threads > 1 && count > 1) {
        run_section(pool, NULL, range, context, count);
        return;
    }
    pool->range = range;
    pool->context = context;
    pool->count = count;
    walk_shares(pool, 0);
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
