/* Whatever a drive does, the store neither hangs nor returns wrong bytes. */
#include "fixture.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

static const struct store_options readers[2] = {
    {.reader = STORE_READER_AUTO, .block_bytes = 16384, .depth = 8},
    {.reader = STORE_READER_THREADS, .block_bytes = 16384, .depth = 4},
};

static const struct fixture_shape mixed = {
    .tensors = 16, .layers = 2, .experts = 16, .tensor_bytes = 150000, .slice_bytes = 9000};

struct mischief {
    struct random random;
    atomic_int number; /* errno of a failed read; 0: reads succeed */
    unsigned every;    /* only every n-th read is affected */
    atomic_uint count;
    bool short_reads;
};

static int play(void *context, uint32_t file, uint64_t offset, uint32_t *bytes)
{
    (void)file;
    (void)offset;
    struct mischief *mischief = context;
    if (atomic_fetch_add(&mischief->count, 1) % MAX(mischief->every, 1u) != 0)
        return 0;
    if (mischief->short_reads) {
        /* Return whole blocks, part of a block, or nothing. */
        uint64_t dice = random_next(&mischief->random);
        *bytes = dice % 4 == 0 ? 0 : (uint32_t)align_down(random_next(&mischief->random) % *bytes, 512);
    }
    return atomic_load(&mischief->number);
}

struct world {
    struct fixture fixture;
    struct mischief mischief;
    struct io_fault fault;
};

static struct store *open_world(struct world *world, size_t reader)
{
    fixture_make(&world->fixture, &mixed);
    world->fault = (struct io_fault){play, &world->mischief};
    random_seed(&world->mischief.random, 11);
    return open_store(&world->fixture, 3 * world->fixture.largest_tensor, 4 * world->fixture.largest_expert,
                      &readers[reader], &world->fault);
}

static void use_everything(struct store *store, const struct fixture *fixture)
{
    unit_number experts[32];
    for (unit_number i = 0; i < fixture->tensors; i++)
        get_and_check(store, fixture, i);
    for (uint32_t i = 0; i < 32; i++)
        experts[i] = fixture->tensors + i;
    assert_ok(store_want(store, experts, 32, &test_error));
    for (uint32_t i = 0; i < 32; i++)
        get_and_check(store, fixture, experts[i]);
}

static void short_reads_are_completed(void **state)
{
    (void)state;
    for (size_t reader = 0; reader < COUNT_OF(readers); reader++) {
        struct world world = {.mischief = {.short_reads = true, .every = 2}};
        struct store *store = open_world(&world, reader);
        use_everything(store, &world.fixture);
        store_close(store);
        fixture_free(&world.fixture);
    }
}

static void temporary_errors_are_retried(void **state)
{
    (void)state;
    const int numbers[] = {EAGAIN, EINTR, EBUSY, ENOMEM};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        struct world world = {.mischief = {.number = numbers[i], .every = 3}};
        struct store *store = open_world(&world, i % 2);
        use_everything(store, &world.fixture);
        store_close(store);
        fixture_free(&world.fixture);
    }
}

static void a_read_error_is_reported_and_nothing_hangs(void **state)
{
    (void)state;
    const int numbers[] = {EIO, ENOMEM};
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        struct world world = {0};
        struct store *store = open_world(&world, i);
        const struct fixture *fixture = &world.fixture;
        struct store_view view;
        get_and_check(store, fixture, 0);
        get_and_check(store, fixture, 20);
        wait_until_idle(store); /* reading ahead has ended */
        atomic_store(&world.mischief.number, numbers[i]);
        const unit_number wanted[] = {30, 31, 32, 33, 34, 20};
        assert_ok(store_want(store, wanted, COUNT_OF(wanted), &test_error));
        for (size_t left = COUNT_OF(wanted); left-- > 0;) {
            hypura_status status = store_get(store, wanted[left], &view, &test_error);
            if (wanted[left] == 20) {
                assert_int_equal(status, HYPURA_OK);
                store_put(store, 20);
                continue;
            }
            assert_int_equal(status, HYPURA_ERROR_IO);
            assert_non_null(strstr(test_error.message, "hypura-test-store"));
            assert_non_null(strstr(test_error.message, "offset"));
            assert_non_null(strstr(test_error.message, strerror(numbers[i])));
        }
        assert_int_equal(store_get(store, 12, &view, &test_error), HYPURA_ERROR_IO);
        /* A failed unit counts as ready: store_wait_any returns it. */
        const unit_number failing = 35;
        size_t index = 7;
        assert_ok(store_want(store, &failing, 1, &test_error));
        assert_ok(store_wait_any(store, &failing, 1, 0, &index, &test_error));
        assert_int_equal(index, 0);
        assert_int_equal(store_get(store, failing, &view, &test_error), HYPURA_ERROR_IO);
        /* When the drive works again, the store does, too. */
        atomic_store(&world.mischief.number, 0);
        use_everything(store, fixture);
        store_close(store);
        fixture_free(&world.fixture);
    }
}

static void loading_reports_a_read_error(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_shape shape = mixed;
    shape.pin_tensors = shape.pin_experts = true;
    fixture_make(&fixture, &shape);
    struct mischief mischief = {.number = EIO, .every = 20};
    const struct io_fault fault = {play, &mischief};
    struct store_source source = fixture_source(&fixture, 0, 0);
    struct store *store;
    assert_ok(store_open_source(&store, &source, &readers[0], &fault, &test_error));
    assert_int_equal(store_load(store, NULL, NULL, &test_error), HYPURA_ERROR_IO);
    assert_non_null(strstr(test_error.message, "offset"));
    store_close(store);
    fixture_free(&fixture);
}

static void a_truncated_file_is_an_error(void **state)
{
    (void)state;
    for (size_t reader = 0; reader < COUNT_OF(readers); reader++) {
        struct world world = {0};
        struct store *store = open_world(&world, reader);
        struct store_view view;
        const unit_number last = world.fixture.count - 1;
        const struct unit_slice *slice = &world.fixture.units[last].slices[0];
        assert_int_equal(truncate(world.fixture.paths[slice->file], (off_t)(slice->offset + 100)), 0);
        assert_int_equal(store_get(store, last, &view, &test_error), HYPURA_ERROR_IO);
        assert_non_null(strstr(test_error.message, "shorter"));
        assert_non_null(strstr(test_error.message, world.fixture.paths[slice->file]));
        get_and_check(store, &world.fixture, 0);
        uint8_t byte;
        for (unit_number i = 0; i < world.fixture.tensors; i++) /* the tensors lie before the experts */
            assert_ok(store_read(store, i, 0, 1, &byte, &test_error));
        assert_int_equal(truncate(world.fixture.paths[1], 10), 0);
        assert_int_equal(store_read(store, 3, 0, 1, &byte, &test_error), HYPURA_ERROR_IO);
        assert_non_null(strstr(test_error.message, "shorter"));
        store_close(store);
        fixture_free(&world.fixture);
    }
}

static void overwrite(const char *path, off_t offset)
{
    usleep(20000); /* file times are coarse */
    int file = open(path, O_WRONLY);
    assert_int_equal(pwrite(file, "other", 5, offset), 5);
    close(file);
}

static void touch(const char *path)
{
    usleep(20000);
    assert_int_equal(utimensat(AT_FDCWD, path, NULL, 0), 0);
}

/* A touched file may have changed in bytes that are in memory and that nothing reads again. The store cannot tell. */
static void a_touched_file_counts_as_modified(void **state)
{
    (void)state;
    for (int touched = 0; touched < 2; touched++) {
        struct world world = {0};
        struct store *store = open_world(&world, 0);
        use_everything(store, &world.fixture);
        assert_ok(store_advance(store, &test_error));
        const struct unit_slice *slice = &world.fixture.units[0].slices[0];
        if (touched)
            touch(world.fixture.paths[slice->file]);
        else
            overwrite(world.fixture.paths[slice->file], (off_t)(slice->offset + slice->bytes / 2));
        for (uint32_t i = 0; i < 16; i++) /* more than the cache holds */
            get_and_check(store, &world.fixture, world.fixture.tensors + i);
        assert_int_equal(store_advance(store, &test_error), HYPURA_ERROR_IO);
        assert_non_null(strstr(test_error.message, "or touched"));
        store_close(store);
        fixture_free(&world.fixture);
    }
}

static void a_modified_file_is_an_error(void **state)
{
    (void)state;
    struct world world = {0};
    struct store *store = open_world(&world, 0);
    get_and_check(store, &world.fixture, 20);
    assert_ok(store_advance(store, &test_error));
    overwrite(world.fixture.paths[1], 0);
    for (int i = 0; i < 2; i++) {
        use_everything(store, &world.fixture);
        assert_int_equal(store_advance(store, &test_error), HYPURA_ERROR_IO);
        assert_non_null(strstr(test_error.message, "was written to"));
        assert_non_null(strstr(test_error.message, world.fixture.paths[1]));
    }
    store_close(store);
    fixture_free(&world.fixture);

    /* A model that is entirely in memory is not affected. */
    struct fixture fixture;
    struct fixture_shape shape = mixed;
    shape.pin_tensors = shape.pin_experts = true;
    fixture_make(&fixture, &shape);
    store = open_store(&fixture, 0, 0, &readers[0], NULL);
    overwrite(fixture.paths[0], 0);
    get_and_check(store, &fixture, 0);
    assert_ok(store_advance(store, &test_error));
    store_close(store);
    fixture_free(&fixture);
}

/* ---- other threads ----------------------------------------------------------------------------------------------- */

static void *cancel_soon(void *store)
{
    usleep(30000);
    store_cancel(store, true);
    return NULL;
}

static uint64_t bytes_read(struct store *store)
{
    struct store_statistics statistics;
    store_statistics(store, &statistics);
    return statistics.bytes_read;
}

static void a_cancel_from_another_thread_ends_a_wait(void **state)
{
    (void)state;
    for (size_t reader = 0; reader < COUNT_OF(readers); reader++) {
        struct world world = {0};
        struct store *store = open_world(&world, reader);
        const unit_number wanted[] = {20, 21, 22, 23, 24, 25, 26, 27};
        for (int by_any = 0; by_any < 2; by_any++) {
            /* The drive does not answer: only the cancel can end the wait. */
            wait_until_idle(store);
            io_hold(store->io, true);
            assert_ok(store_want(store, wanted, COUNT_OF(wanted), &test_error));
            uint64_t before = bytes_read(store);
            pthread_t thread;
            assert_int_equal(pthread_create(&thread, NULL, cancel_soon, store), 0);
            struct store_view view;
            size_t index;
            hypura_status status = by_any ? store_wait_any(store, wanted + 6, 2, 0, &index, &test_error)
                                          : store_get(store, wanted[6], &view, &test_error);
            pthread_join(thread, NULL);
            assert_int_equal(status, HYPURA_ERROR_CANCELLED);
            assert_int_equal(bytes_read(store), before);
            assert_int_equal(store_want(store, wanted, 1, &test_error), HYPURA_ERROR_CANCELLED);
            assert_int_equal(store_get(store, 0, &view, &test_error), HYPURA_ERROR_CANCELLED);
            store_forget(store, wanted, COUNT_OF(wanted));
            store_cancel(store, false);
            use_everything(store, &world.fixture);
        }
        /* Closing does not wait for units that are only wanted. */
        assert_ok(store_want(store, wanted, COUNT_OF(wanted), &test_error));
        store_close(store);
        fixture_free(&world.fixture);
    }
}

struct resizer {
    struct store *store;
    struct world *world;
    atomic_bool stop;
    unsigned resizes;
};

static void *resize_often(void *argument)
{
    struct resizer *resizer = argument;
    struct random random;
    random_seed(&random, 17);
    uint64_t least = resizer->world->fixture.largest_tensor + resizer->world->fixture.largest_expert;
    while (!atomic_load(&resizer->stop)) {
        uint64_t bytes = least + random_next(&random) % (3 * least);
        if (random_next(&random) % 4 == 0)
            bytes *= 8;
        hypura_error error;
        if (store_resize(resizer->store, bytes, &error) == HYPURA_OK)
            resizer->resizes++;
        struct store_statistics statistics;
        store_statistics(resizer->store, &statistics);
        store_unit_state(resizer->store, 20);
        usleep(300);
    }
    return NULL;
}

static void the_pool_changes_size_under_load(void **state)
{
    (void)state;
    struct world world = {0};
    struct store *store = open_world(&world, 0);
    assert_int_equal(store_resize(store, world.fixture.largest_tensor, &test_error), HYPURA_ERROR_MEMORY);
    struct resizer resizer = {.store = store, .world = &world};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, resize_often, &resizer), 0);
    for (int i = 0; i < 40; i++)
        use_everything(store, &world.fixture);
    atomic_store(&resizer.stop, true);
    pthread_join(thread, NULL);
    assert_true(resizer.resizes > 0);
    /* A unit in use stays until it is put, even if the pool shrinks to its smallest size. */
    struct store_view view;
    uint64_t least = world.fixture.largest_tensor + world.fixture.largest_expert;
    assert_ok(store_resize(store, 20 * least, &test_error));
    use_everything(store, &world.fixture);
    assert_ok(store_get(store, 20, &view, &test_error));
    assert_ok(store_resize(store, least, &test_error));
    assert_true(is_right(&world.fixture, 20, &view));
    store_put(store, 20);
    wait_until_idle(store);
    struct store_statistics statistics;
    store_statistics(store, &statistics);
    assert_true(statistics.pool_bytes_used <= least);
    use_everything(store, &world.fixture);
    store_close(store);
    fixture_free(&world.fixture);
}

/* ---- a ring that fails ------------------------------------------------------------------------------------------- */

#if HYPURA_URING
#include <liburing.h>

/* These override functions of liburing and libc. */
static struct {
    atomic_int calls_left;    /* calls that still reach the system */
    atomic_int refusals_left; /* calls that fail after those */
    atomic_int number;        /* errno of a failure */
    atomic_bool no_threads;
} system_seam = {.calls_left = INT32_MAX};

int io_uring_submit_and_wait(struct io_uring *ring, unsigned count)
{
    int (*real)(struct io_uring *, unsigned) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "io_uring_submit_and_wait");
    if (atomic_fetch_sub(&system_seam.calls_left, 1) > 0 || atomic_fetch_sub(&system_seam.refusals_left, 1) <= 0)
        return real(ring, count);
    return -atomic_load(&system_seam.number);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *), void *argument)
{
    int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) = NULL;
    *(void **)&real = dlsym(RTLD_NEXT, "pthread_create");
    return atomic_load(&system_seam.no_threads) ? EAGAIN : real(thread, attributes, start, argument);
}

static void refuse(int number, int after, int refusals)
{
    atomic_store(&system_seam.number, number);
    atomic_store(&system_seam.refusals_left, refusals);
    atomic_store(&system_seam.calls_left, after);
}

static const char *reader_of(struct store *store)
{
    struct store_statistics statistics;
    store_statistics(store, &statistics);
    return statistics.reader;
}

static struct store *open_with_ring(struct world *world)
{
    refuse(0, INT32_MAX, 0);
    struct store *store = open_world(world, 0);
    if (strcmp(reader_of(store), "io_uring") == 0)
        return store;
    store_close(store); /* this system has no io_uring */
    fixture_free(&world->fixture);
    skip();
    return NULL;
}

static void a_ring_that_fails_for_good_is_replaced_by_threads(void **state)
{
    (void)state;
    const int numbers[] = {EBADF, EINTR, EAGAIN, EBUSY, EPERM};
    for (int i = 0; i < (int)COUNT_OF(numbers); i++) {
        struct world world = {0};
        struct store *store = open_with_ring(&world);
        refuse(numbers[i], i, INT32_MAX); /* from the second round on, with reads in flight */
        use_everything(store, &world.fixture);
        assert_string_equal(reader_of(store), "threads");
        store_close(store);
        fixture_free(&world.fixture);
    }
}

static void a_ring_that_fails_temporarily_recovers(void **state)
{
    (void)state;
    struct world world = {0};
    struct store *store = open_with_ring(&world);
    for (int i = 0; i < 5; i++) {
        refuse(EAGAIN, i, 20);
        use_everything(store, &world.fixture);
    }
    assert_string_equal(reader_of(store), "io_uring");
    store_close(store);
    fixture_free(&world.fixture);
}

static void a_ring_that_fails_without_threads_is_reported_and_can_be_closed(void **state)
{
    (void)state;
    struct world world = {0};
    struct store *store = open_with_ring(&world);
    struct store_view view;
    atomic_store(&system_seam.no_threads, true);
    refuse(EAGAIN, 0, INT32_MAX);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(store_get(store, 20, &view, &test_error), HYPURA_ERROR_IO);
        assert_non_null(strstr(test_error.message, "offset"));
        assert_non_null(strstr(test_error.message, strerror(EAGAIN)));
    }
    atomic_store(&system_seam.no_threads, false);
    use_everything(store, &world.fixture);
    assert_string_equal(reader_of(store), "threads");
    store_close(store);
    fixture_free(&world.fixture);

    /* Reads that never complete must not keep the store from closing. */
    store = open_with_ring(&world);
    const unit_number wanted[] = {20, 21, 22};
    refuse(EINTR, 0, INT32_MAX);
    assert_ok(store_want(store, wanted, COUNT_OF(wanted), &test_error));
    store_cancel(store, true);
    uint64_t start = clock_nanoseconds();
    store_close(store);
    assert_true(clock_nanoseconds() - start < 60000000000u);
    fixture_free(&world.fixture);
    refuse(0, INT32_MAX, 0);
}
#endif

/* ---- part of an expert ------------------------------------------------------------------------------------------- */

struct hold {
    atomic_bool on;
    uint32_t file;
};

static int hold_back(void *context, uint32_t file, uint64_t offset, uint32_t *bytes)
{
    struct hold *hold = context;
    (void)offset, (void)bytes;
    if (file == hold->file && atomic_load(&hold->on))
        usleep(5000);
    return 0;
}

/* Whatever their order in the files, the first slices are read first and can be used while the last is being read. */
static void the_first_slices_are_available_first(void **state)
{
    (void)state;
    static const struct fixture_shape shape = {
        .tensors = 1, .layers = 2, .experts = 4, .tensor_bytes = 5000, .slice_bytes = 1000000, .pin_tensors = true};
    struct fixture fixture;
    fixture_make(&fixture, &shape);
    struct hold hold = {.on = false};
    struct io_fault fault = {hold_back, &hold};
    uint64_t largest;
    footprints(&fixture, UNIT_EXPERT, &largest);
    struct store_options options = {.block_bytes = 4096, .depth = 1};
    struct store *store = open_store(&fixture, 0, 8 * largest, &options, &fault);
    for (uint32_t layer = 0; layer < shape.layers; layer++) {
        unit_number wanted = shape.tensors + layer * shape.experts + 2;
        const struct unit *unit = &fixture.units[wanted];
        struct store_view view;
        size_t index = 1;
        hold.file = unit->slices[2].file;
        assert_int_not_equal(hold.file, unit->slices[1].file);
        atomic_store(&hold.on, true);
        assert_false(store_peek(store, wanted, 2, &view));
        assert_ok(store_want(store, &wanted, 1, &test_error));
        assert_ok(store_wait_any(store, &wanted, 1, 2, &index, &test_error));
        assert_int_equal(index, 0);
        assert_false(store_ready(store, wanted));
        assert_false(store_peek(store, wanted, 3, &view));
        assert_true(store_peek(store, wanted, 2, &view));
        for (uint32_t i = 0; i < 2; i++)
            assert_memory_equal(view.slices[i], fixture.bytes[unit->slices[i].file] + unit->slices[i].offset,
                                unit->slices[i].bytes);
        atomic_store(&hold.on, false);
        assert_ok(store_wait_any(store, &wanted, 1, 0, &index, &test_error));
        assert_false(store_peek(store, wanted, 2, &view));
        get_and_check(store, &fixture, wanted);
    }
    store_close(store);
    fixture_free(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_reads_are_completed),
        cmocka_unit_test(temporary_errors_are_retried),
        cmocka_unit_test(a_read_error_is_reported_and_nothing_hangs),
        cmocka_unit_test(loading_reports_a_read_error),
        cmocka_unit_test(a_truncated_file_is_an_error),
        cmocka_unit_test(a_modified_file_is_an_error),
        cmocka_unit_test(a_touched_file_counts_as_modified),
        cmocka_unit_test(a_cancel_from_another_thread_ends_a_wait),
        cmocka_unit_test(the_pool_changes_size_under_load),
#if HYPURA_URING
        cmocka_unit_test(a_ring_that_fails_for_good_is_replaced_by_threads),
        cmocka_unit_test(a_ring_that_fails_temporarily_recovers),
        cmocka_unit_test(a_ring_that_fails_without_threads_is_reported_and_can_be_closed),
#endif
        cmocka_unit_test(the_first_slices_are_available_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
