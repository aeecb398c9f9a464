#include "test.h"

#include "core/account.h"
#include "core/core.h"
#include "core/durable.h"
#include "core/half.h"

#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/resource.h>
#endif

static void size_overflow_is_detected(void **state)
{
    (void)state;
    size_t out = 7;
    assert_false(size_multiply(&out, SIZE_MAX, 2));
    assert_false(size_add(&out, SIZE_MAX, 1));
    assert_int_equal(out, 7);
    assert_true(size_multiply(&out, 6, 7));
    assert_int_equal(out, 42);
}

static void byte_sizes_parse(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},     {"1000", 1000}, {"4G", 4ull << 30}, {"1.5g", 3ull << 29}, {"512MiB", 512ull << 20},
                {"2kB", 2048}};
    static const char *const bad[] = {"", "G", "-1", "4X", "4GX", "nan", "inf", "1e30", "99999999999T"};
    for (size_t i = 0; i < COUNT_OF(good); i++) {
        uint64_t bytes = 1;
        assert_ok(parse_bytes(good[i].text, &bytes, &test_error));
        assert_int_equal(bytes, good[i].bytes);
    }
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        uint64_t bytes;
        assert_int_equal(parse_bytes(bad[i], &bytes, &test_error), HYPURA_ERROR_ARGUMENT);
    }
}

static void equal_numbers_are_one_number(void **state)
{
    (void)state;
    char text[32];
    assert_string_equal(format_range(text, sizeof text, 2, 0.95, 1.82), "0.95 to 1.82");
    assert_string_equal(format_range(text, sizeof text, 1, 1.81, 1.82), "1.8");
}

static void halves_round_trip(void **state)
{
    (void)state;
    for (uint32_t i = 0; i < 65536; i++) {
        float value = half_to_float((uint16_t)i);
        if (isnan(value))
            assert_true(isnan(half_to_float(float_to_half(value))));
        else
            assert_int_equal(float_to_half(value), i);
        float brain = bfloat_to_float((uint16_t)i);
        if (!isnan(brain))
            assert_int_equal(float_to_bfloat(brain), i);
    }
    assert_int_equal(float_to_half(65519.0f), 0x7bff);
    assert_int_equal(float_to_half(65520.0f), 0x7c00);
    assert_int_equal(float_to_half(0x1p-25f), 0);
    assert_int_equal(float_to_half(0x1.8p-25f), 1);
}

static void a_cut_message_stays_utf8(void **state)
{
    (void)state;
    char text[600];
    for (size_t i = 0; i + 2 < sizeof text; i += 2)
        memcpy(text + i, "\xc3\xa9", 2);
    text[598] = 0;
    error_set(&test_error, HYPURA_ERROR_IO, "x%s", text);
    size_t length = strlen(test_error.message);
    assert_int_equal((length - 1) % 2, 0);
}

/* Names from files and requests are not trusted: a terminal would obey control characters, and JSON rejects them. */
static void messages_quote_no_control_characters(void **state)
{
    (void)state;
    error_set(&test_error, HYPURA_ERROR_FORMAT, "tensor \"%s\"",
              "a\x1b[2J\n\x7f\xc2\x9b"
              "b\xff\xed\xa0\x80\xc3\xa9\xf0\x9f\x99\x82\xc3");
    assert_string_equal(test_error.message, "tensor \"a [2J    b????\xc3\xa9\xf0\x9f\x99\x82?\"");
    error_prefix(&test_error, "%s", "x\ty");
    assert_memory_equal(test_error.message, "x y: tensor", 11);
    char text[1] = "";
    text_clean(text);
    assert_string_equal(text, "");
}

static void buffer_respects_its_limit(void **state)
{
    (void)state;
    struct buffer buffer = {.limit = 10};
    buffer_append_string(&buffer, "12345");
    buffer_append_format(&buffer, "%d", 67890);
    assert_false(buffer.failed);
    assert_string_equal(buffer.data, "1234567890");
    buffer_append_char(&buffer, 'x');
    assert_true(buffer.failed);
    assert_int_equal(buffer.size, 10);
    buffer_free(&buffer);
}

static void decommitted_memory_reads_zero(void **state)
{
    (void)state;
    void *memory = NULL;
    assert_ok(memory_map(&memory, 3 << 20, false, "test", &test_error));
    memset(memory, 1, 3 << 20);
    memory_decommit(memory, 3 << 20);
    for (size_t i = 0; i < 3 << 20; i += 4096)
        assert_int_equal(((char *)memory)[i], 0);
    memory_unmap(memory, 3 << 20);
}

struct tally {
    atomic_uint ran[1000];
};

static void count_task(void *context, size_t index, size_t worker)
{
    struct tally *tally = context;
    assert_true(worker < 8);
    atomic_fetch_add(&tally->ran[index], 1);
}

static void count_range(void *context, size_t first, size_t count, size_t worker)
{
    for (size_t i = first; i < first + count; i++)
        count_task(context, i, worker);
}

static void check_that_each_runs_once(bool shares)
{
    for (size_t threads = 1; threads <= 8; threads *= 2) {
        struct thread_pool *pool = NULL;
        assert_ok(thread_pool_create(&pool, threads, &test_error));
        for (size_t round = 0; round < 2000; round++) {
            static struct tally tally;
            memset(&tally, 0, sizeof tally);
            size_t count = round % 20 == 0 ? 1000 : round % 11;
            if (shares)
                thread_pool_run_shares(pool, count_range, &tally, count);
            else
                thread_pool_run(pool, count_task, &tally, count);
            for (size_t i = 0; i < 1000; i++)
                assert_int_equal(atomic_load(&tally.ran[i]), i < count);
        }
        thread_pool_destroy(pool);
    }
}

static void a_copy_by_threads_is_whole(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 99, 100, 101, 250, 1000};
    uint8_t from[1000], to[1001];
    for (size_t i = 0; i < sizeof from; i++)
        from[i] = (uint8_t)(1 + i % 251);
    for (size_t threads = 0; threads <= 4; threads += 2) {
        struct thread_pool *pool = NULL;
        if (threads)
            assert_ok(thread_pool_create(&pool, threads, &test_error));
        for (size_t i = 0; i < COUNT_OF(sizes); i++) {
            memset(to, 0, sizeof to);
            thread_pool_copy(pool, to, from, sizes[i], 100);
            assert_memory_equal(to, from, sizes[i]);
            assert_int_equal(to[sizes[i]], 0);
        }
        thread_pool_destroy(pool);
    }
}

static void every_task_runs_once(void **state)
{
    (void)state;
    check_that_each_runs_once(false);
}

static void shares_cover_everything_once(void **state)
{
    (void)state;
    check_that_each_runs_once(true);
}

struct held_up {
    struct tally tally;
    atomic_size_t by_caller;
};

/* Each worker except the caller stalls in its first part until the caller has done all other parts. */
static void hold_up(void *context, size_t first, size_t count, size_t worker)
{
    struct held_up *held_up = context;
    count_range(&held_up->tally, first, count, worker);
    if (worker == 0)
        atomic_fetch_add(&held_up->by_caller, count);
    uint64_t start = clock_nanoseconds();
    while (worker != 0 && atomic_load(&held_up->by_caller) + count < 1000 && clock_seconds_since(start) < 20)
        usleep(1000);
}

static void a_stalled_worker_keeps_only_one_part(void **state)
{
    (void)state;
    static struct held_up held_up;
    struct thread_pool *pool = NULL;
    assert_ok(thread_pool_create(&pool, 2, &test_error));
    for (size_t round = 0; round < 20; round++) {
        memset(&held_up, 0, sizeof held_up);
        thread_pool_run_shares(pool, hold_up, &held_up, 1000);
        assert_true(atomic_load(&held_up.by_caller) >= 1000 - 500 / 2);
    }
    thread_pool_destroy(pool);
}

static void tasks_can_be_skipped(void **state)
{
    (void)state;
    for (size_t threads = 1; threads <= 4; threads += 3) {
        static struct tally tally;
        struct thread_pool *pool = NULL;
        memset(&tally, 0, sizeof tally);
        assert_ok(thread_pool_create(&pool, threads, &test_error));
        thread_pool_skip(pool, true);
        thread_pool_run(pool, count_task, &tally, 100);
        for (size_t i = 0; i < 100; i++)
            assert_int_equal(atomic_load(&tally.ran[i]), 0);
        assert_true(thread_pool_skipped(pool));
        thread_pool_skip(pool, false);
        thread_pool_run(pool, count_task, &tally, 100);
        for (size_t i = 0; i < 100; i++)
            assert_int_equal(atomic_load(&tally.ran[i]), 1);
        assert_false(thread_pool_skipped(pool));
        thread_pool_skip(pool, true);
        thread_pool_run_shares(pool, count_range, &tally, 100);
        thread_pool_skip(pool, false);
        for (size_t i = 0; i < 100; i++)
            assert_int_equal(atomic_load(&tally.ran[i]), 1);
        assert_true(thread_pool_skipped(pool));
        thread_pool_destroy(pool);
    }
}

#define EXPECTING 4u

struct expecting {
    atomic_uint joined, asked[EXPECTING];
    uint8_t memory[1000];
};

/* Ends when every worker has a task. */
static void join_all(void *context, size_t index, size_t worker)
{
    struct expecting *expecting = context;
    (void)index, (void)worker;
    atomic_fetch_add(&expecting->joined, 1);
    while (atomic_load(&expecting->joined) < EXPECTING)
        sched_yield();
}

static struct thread_memory memory_of(void *context, size_t worker)
{
    struct expecting *expecting = context;
    atomic_fetch_add(&expecting->asked[worker], 1);
    return (struct thread_memory){expecting->memory, sizeof expecting->memory};
}

/* Each once, in the section for which that was said, and in no other. */
static void workers_are_asked_what_comes_next(void **state)
{
    (void)state;
    struct thread_pool *pool = NULL;
    assert_ok(thread_pool_create(&pool, EXPECTING, &test_error));
    static const thread_expectation expectations[] = {memory_of, NULL};
    for (size_t e = 0; e < COUNT_OF(expectations); e++) {
        struct expecting expecting = {0};
        thread_pool_expect(pool, expectations[e], &expecting);
        for (int section = 0; section < 3; section++) {
            atomic_store(&expecting.joined, 0);
            thread_pool_run(pool, join_all, &expecting, EXPECTING);
            for (size_t worker = 1; worker < EXPECTING; worker++)
                assert_int_equal(atomic_load(&expecting.asked[worker]), expectations[e] != NULL);
        }
    }
    /* A section without workers was one, too. */
    struct expecting expecting = {.joined = EXPECTING};
    thread_pool_expect(pool, memory_of, &expecting);
    thread_pool_run(pool, join_all, &expecting, 1);
    atomic_store(&expecting.joined, 0);
    thread_pool_run(pool, join_all, &expecting, EXPECTING);
    for (size_t worker = 1; worker < EXPECTING; worker++)
        assert_int_equal(atomic_load(&expecting.asked[worker]), 0);
    thread_pool_destroy(pool);
}

#ifdef __linux__
/* Only the slice changes. A thread with another policy keeps that. */
static void *wake_soon(void *context)
{
    bool *kept = context;
    struct sched_param parameters = {0};
    kept[0] = setpriority(PRIO_PROCESS, 0, 7) == 0; /* of this thread only */
    const bool can = thread_wakes_soon();
    kept[0] = kept[0] && getpriority(PRIO_PROCESS, 0) == 7 && sched_getscheduler(0) == SCHED_OTHER;
    kept[1] = thread_wakes_soon() == can;
    kept[2] = sched_setscheduler(0, SCHED_BATCH, &parameters) == 0 && !thread_wakes_soon() &&
              sched_getscheduler(0) == SCHED_BATCH;
    return NULL;
}

static void a_thread_that_wakes_soon_keeps_its_priority(void **state)
{
    (void)state;
    pthread_t thread;
    bool kept[3] = {false};
    assert_int_equal(pthread_create(&thread, NULL, wake_soon, kept), 0);
    pthread_join(thread, NULL);
    assert_true(kept[0] && kept[1] && kept[2]);
}
#endif

static void random_numbers_repeat(void **state)
{
    (void)state;
    struct random a, b;
    random_seed(&a, 42);
    random_seed(&b, 42);
    double sum = 0, squares = 0;
    for (int i = 0; i < 10000; i++) {
        double value = random_normal(&a);
        assert_true(value == random_normal(&b));
        sum += value;
        squares += value * value;
    }
    assert_true(fabs(sum / 10000) < 0.05 && fabs(squares / 10000 - 1) < 0.05);
}

/* The expected values come from the test suite of FNV's authors. File names and stored digests depend on the hashes. */
static void hashes_are_fnv1a(void **state)
{
    (void)state;
    assert_true(fnv1a(FNV1A_START, "", 0) == 0xcbf29ce484222325u);
    assert_true(fnv1a(FNV1A_START, "a", 1) == 0xaf63dc4c8601ec8cu);
    assert_true(fnv1a(FNV1A_START, "foobar", 6) == 0x85944171f73967e8u);
    assert_true(fnv1a(fnv1a(FNV1A_START, "foo", 3), "bar", 3) == 0x85944171f73967e8u);
    assert_true(fnv1a(FNV1A_START, "\xff", 1) == (FNV1A_START ^ 0xff) * 0x100000001b3u);
}

static void a_device_is_not_replaced(void **state)
{
    (void)state;
    assert_ok(durable_may_replace("/dev/null/none", &test_error));
    assert_int_equal(durable_may_replace("/dev/null", &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(durable_may_replace("/", &test_error), HYPURA_ERROR_ARGUMENT);
}

static void programs_with_the_library_notice_failed_json(void **state)
{
    (void)state;
    json_malloc_t take;
    json_get_alloc_funcs(&take, NULL);
    assert_true(take == memory_take);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(size_overflow_is_detected),
        cmocka_unit_test(byte_sizes_parse),
        cmocka_unit_test(equal_numbers_are_one_number),
        cmocka_unit_test(halves_round_trip),
        cmocka_unit_test(a_cut_message_stays_utf8),
        cmocka_unit_test(buffer_respects_its_limit),
        cmocka_unit_test(decommitted_memory_reads_zero),
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(a_copy_by_threads_is_whole),
        cmocka_unit_test(tasks_can_be_skipped),
        cmocka_unit_test(shares_cover_everything_once),
        cmocka_unit_test(a_stalled_worker_keeps_only_one_part),
        cmocka_unit_test(workers_are_asked_what_comes_next),
#ifdef __linux__
        cmocka_unit_test(a_thread_that_wakes_soon_keeps_its_priority),
#endif
        cmocka_unit_test(random_numbers_repeat),
        cmocka_unit_test(messages_quote_no_control_characters),
        cmocka_unit_test(hashes_are_fnv1a),
        cmocka_unit_test(a_device_is_not_replaced),
        cmocka_unit_test(programs_with_the_library_notice_failed_json),
    };
    return cmocka_run_group_tests_name("core", tests, NULL, NULL);
}
