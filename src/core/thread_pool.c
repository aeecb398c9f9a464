#include "core/core.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#endif

/* How long threads spin before they sleep, unless thread_pool_spin says otherwise. A decode step opens a section every
 * 20 to 200 us, and waking a worker costs some 50 us. Longer spinning would take cores from the threads that complete
 * reads. */
#define SPIN_NANOSECONDS 40000u

struct worker {
    struct thread_pool *pool;
    size_t index;
    pthread_t thread;
};

/* A worker's seat: four times the number of the last section that the worker joined, or for which the caller closed the
 * seat, plus one of these states. Each seat has a cache line of its own, as has everything below that one thread often
 * writes and others read: when 32 cores write one line in turn, that takes longer than a small section. */
enum { OUTSIDE, INSIDE };

struct seat {
    _Alignas(64) atomic_uint_fast64_t state;
};

/* What is left of a worker's share of a section: first and end, relative to the start of the share, with the section's
 * mark in the bits above. A share with another section's mark is whole, so no thread has to initialise all shares. */
struct share {
    _Alignas(64) atomic_uint_fast64_t left;
};

#define SHARE_BITS 24
#define MARK_BITS 16

/* The caller publishes a section: it writes the section's fields, then increments generation. A worker joins by taking
 * its seat, and leaves the seat when no task is left to start. When the caller has no task left to start, it closes the
 * seats of workers that have not joined (one may have lost its core) and waits for the others. So no worker can run a
 * task of the next section with the old function, and no counter of finished tasks is needed. */
struct thread_pool {
    size_t threads;
    struct worker *workers;
    struct seat *seats;   /* [threads] */
    struct share *shares; /* [threads] */

    _Alignas(64) atomic_uint_fast64_t generation;

    _Alignas(64) thread_task task; /* NULL: the section uses range */
    thread_range range;
    void *context;
    size_t count;
    uint_fast64_t mark; /* of this section's shares; never 0 */
    bool expects;       /* workers ask expectation what is read next; NULL: nothing */
    thread_expectation expectation;
    void *expecting;

    _Alignas(64) atomic_size_t claimed; /* tasks; exceeds count when all are claimed */

    _Alignas(64) atomic_uint sleepers;     /* this and the following are seldom written */
    atomic_uint_fast64_t spin_nanoseconds; /* of workers */
    atomic_bool stop;
    atomic_bool skip, skipped;
    atomic_bool caller_sleeps;

    struct { /* the caller's: the next section's expectation */
        bool given;
        thread_expectation expectation;
        void *context;
    } next;

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

/* ---- a worker's tasks of a section ------------------------------------------------------------------------------- */

static void walk_tasks(struct thread_pool *pool, size_t worker)
{
    size_t count = pool->count, index;
    while ((index = atomic_fetch_add_explicit(&pool->claimed, 1, memory_order_relaxed)) < count)
        run_task(pool, pool->task, pool->context, index, worker);
}

/* A worker takes 1 / SHARE_PART of what is left of a share at a time. Large parts mean fewer starts, each of which
 * costs some cache misses. Small parts at the end shorten the time that one thread waits for another. */
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

/* Each worker starts with its own share: when workers are pinned, the share's data is in memory near the worker. */
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

/* ---- joining and leaving sections -------------------------------------------------------------------------------- */

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

/* Little at a time, so that a new section is seen at once. */
#define EXPECTED_AT_ONCE ((size_t)256)
#define CACHE_LINE 64u

static void ask_for(struct thread_memory *expected)
{
    const size_t bytes = MIN(expected->bytes, EXPECTED_AT_ONCE);
    for (size_t i = 0; i < bytes; i += CACHE_LINE)
        __builtin_prefetch(expected->start + i, 0, 2);
    expected->start += bytes;
    expected->bytes -= bytes;
}

static void wait_for_section(struct thread_pool *pool, uint_fast64_t seen, struct thread_memory *expected)
{
    uint64_t start = clock_nanoseconds();
    for (unsigned i = 0;; i++) {
        if (atomic_load_explicit(&pool->generation, memory_order_acquire) != seen || atomic_load(&pool->stop))
            return;
        if (expected->bytes)
            ask_for(expected);
        else
            relax();
        if ((i & 63) == 63 &&
            clock_nanoseconds() - start > atomic_load_explicit(&pool->spin_nanoseconds, memory_order_relaxed))
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
    struct thread_memory expected = {0};
    uint_fast64_t seen = 0;
    for (;;) {
        wait_for_section(pool, seen, &expected);
        if (atomic_load(&pool->stop))
            return NULL;
        seen = atomic_load_explicit(&pool->generation, memory_order_acquire);
        if (take_seat(seat, seen)) {
            work(pool, worker->index);
            if (pool->expects)
                expected =
                    pool->expectation ? pool->expectation(pool->expecting, worker->index) : (struct thread_memory){0};
            leave_seat(pool, seat, seen);
        }
    }
}

hypura_status thread_pool_create(struct thread_pool **out, size_t threads, hypura_error *error)
{
    if (threads < 1 || threads > 256)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "cannot use %zu threads: expected 1 to 256", threads);
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
    atomic_store(&pool->spin_nanoseconds, SPIN_NANOSECONDS);
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

void thread_pool_spin(struct thread_pool *pool, uint64_t nanoseconds)
{
    atomic_store(&pool->spin_nanoseconds, nanoseconds);
}

void thread_pool_expect(struct thread_pool *pool, thread_expectation expectation, void *context)
{
    pool->next.given = true;
    pool->next.expectation = expectation;
    pool->next.context = context;
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

/* Closes the seats of workers that have not joined, and waits for those that have. */
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
    pool->expects = pool->next.given;
    pool->expectation = pool->next.expectation;
    pool->expecting = pool->next.context;
    pool->next.given = false;
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
        pool->next.given = false; /* no worker has joined */
        for (size_t i = 0; i < count; i++)
            run_task(pool, task, context, i, 0);
    } else if (count > 0) {
        run_section(pool, task, NULL, context, count);
    }
}

/* Makes sure that no share has the new mark yet: when marks start again at 1, all shares are reset. */
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
    pool->next.given = false;
    pool->range = range;
    pool->context = context;
    pool->count = count;
    walk_shares(pool, 0);
}

/* ---- copies ------------------------------------------------------------------------------------------------------ */

struct copy {
    uint8_t *to;
    const uint8_t *from;
    size_t bytes, piece;
};

static void copy_piece(void *context, size_t index, size_t worker)
{
    const struct copy *copy = context;
    const size_t first = index * copy->piece;
    (void)worker;
    memcpy(copy->to + first, copy->from + first, MIN(copy->piece, copy->bytes - first));
}

void thread_pool_copy(struct thread_pool *pool, void *to, const void *from, size_t bytes, size_t piece)
{
    struct copy copy = {to, from, bytes, piece};
    if (pool && bytes > piece)
        thread_pool_run(pool, copy_piece, &copy, (bytes + piece - 1) / piece);
    else
        memcpy(to, from, bytes);
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

/* A thread with a short slice preempts one with a long slice when it wakes. Otherwise it may wait for the end of the
 * other's slice, which is some milliseconds: longer than a layer computes. */
#define SHORT_SLICE_NANOSECONDS 100000u

bool thread_wakes_soon(void)
{
#if defined(__linux__) && defined(SYS_sched_setattr) && defined(SYS_sched_getattr)
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } now; /* struct sched_attr, which not all C libraries have */
    memset(&now, 0, sizeof now);
    if (syscall(SYS_sched_getattr, 0, &now, sizeof now, 0) || now.policy != SCHED_OTHER)
        return false;
    now.flags = 0;
    now.runtime = SHORT_SLICE_NANOSECONDS;
    if (syscall(SYS_sched_setattr, 0, &now, 0))
        return false;
    return syscall(SYS_sched_getattr, 0, &now, sizeof now, 0) == 0 && now.runtime == SHORT_SLICE_NANOSECONDS;
#else
    return false;
#endif
}
