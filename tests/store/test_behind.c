/* Loading behind: pinned units are read while the model is in use, in the order of use. If the drive fails, only
 * callers that need a missing unit get an error. */
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#define MOST_READS 4096

static const struct fixture_shape shape = {.tensors = 24,
                                           .layers = 3,
                                           .experts = 16,
                                           .tensor_bytes = 400000,
                                           .slice_bytes = 9000,
                                           .pin_tensors = true,
                                           .pin_experts = true};

static const struct store_options readers[2] = {
    {.reader = STORE_READER_AUTO, .block_bytes = 16384, .depth = 1, .load_behind = true},
    {.reader = STORE_READER_THREADS, .block_bytes = 16384, .depth = 1, .load_behind = true},
};

/* A drive that fails from an offset of each file on, and records the reads. */
struct drive {
    uint64_t from[FIXTURE_FILES];
    atomic_bool broken;
    struct {
        uint32_t file;
        uint64_t offset;
    } reads[MOST_READS];
    size_t count;
};

static int read_from(void *context, uint32_t file, uint64_t offset, uint32_t *bytes)
{
    struct drive *drive = context;
    if (drive->count < MOST_READS) {
        drive->reads[drive->count].file = file;
        drive->reads[drive->count++].offset = offset;
    }
    return atomic_load(&drive->broken) && offset + *bytes > drive->from[file] ? EIO : 0;
}

struct world {
    struct fixture fixture;
    struct drive drive;
    struct store *store;
};

static void make_world(struct world *world)
{
    fixture_make(&world->fixture, &shape);
    memset(&world->drive, 0, sizeof world->drive);
    for (uint32_t file = 0; file < FIXTURE_FILES; file++)
        world->drive.from[file] = UINT64_MAX;
}

static void start(struct world *world, size_t reader)
{
    world->store = open_store(&world->fixture, 0, 0, &readers[reader], &(struct io_fault){read_from, &world->drive});
}

static void close_world(struct world *world)
{
    store_close(world->store);
    fixture_free(&world->fixture);
}

static void every_unit_arrives(void **state)
{
    (void)state;
    static struct world world;
    for (size_t reader = 0; reader < COUNT_OF(readers); reader++) {
        make_world(&world);
        start(&world, reader);
        for (unit_number i = world.fixture.count; i-- > 0;) /* the last unit first: it must not wait for the others */
            get_and_check(world.store, &world.fixture, i);
        struct store_statistics statistics;
        wait_until_idle(world.store);
        store_statistics(world.store, &statistics);
        assert_int_equal(statistics.bytes_read, 0); /* loading read everything */
        assert_true(statistics.bytes_loaded >= statistics.resident_bytes - 2 * IO_ALIGNMENT);
        close_world(&world);
    }
}

/* The units lie in two files, so the order in the files is not the order of use. */
static void units_load_in_order_of_use(void **state)
{
    (void)state;
    static struct world world;
    uint64_t last[FIXTURE_FILES] = {0};
    make_world(&world);
    start(&world, 0);
    wait_until_idle(world.store);
    assert_true(world.drive.count > 20);
    const uint64_t experts = world.fixture.units[shape.tensors].slices[0].offset;
    bool begun = false;
    for (size_t i = 0; i < world.drive.count; i++) {
        if (world.drive.reads[i].file == 0 && world.drive.reads[i].offset >= experts)
            begun = true;
        else if (world.drive.reads[i].file == 0)
            assert_false(begun); /* all tensors come before any expert */
        last[world.drive.reads[i].file] = i;
    }
    assert_true(begun && last[0] && last[1]);
    close_world(&world);
}

static void only_callers_that_need_missing_units_fail(void **state)
{
    (void)state;
    static struct world world;
    for (size_t reader = 0; reader < COUNT_OF(readers); reader++) {
        const unit_number last = shape.tensors + shape.layers * shape.experts - 1;
        struct store_view view;
        make_world(&world);
        /* The drive fails behind the tensors, so the experts cannot be read. */
        for (uint32_t file = 0; file < FIXTURE_FILES; file++)
            for (unit_number u = 0; u < shape.tensors; u++)
                if (world.fixture.units[u].slices[0].file == file)
                    world.drive.from[file] =
                        align_up(world.fixture.units[u].slices[0].offset + world.fixture.units[u].bytes, IO_ALIGNMENT);
        atomic_store(&world.drive.broken, true);
        start(&world, reader);
        for (unit_number i = 0; i < shape.tensors; i++)
            get_and_check(world.store, &world.fixture, i);
        assert_int_equal(store_get(world.store, last, &view, &test_error), HYPURA_ERROR_IO);
        assert_non_null(strstr(test_error.message, "hypura-test-store"));
        assert_false(store_get_ready(world.store, last, &view));
        wait_until_idle(world.store);
        atomic_store(&world.drive.broken, false);
        get_and_check(world.store, &world.fixture, last);
        close_world(&world);
    }
}

static void a_cancelled_pass_does_not_end_loading(void **state)
{
    (void)state;
    static struct world world;
    struct store_view view;
    make_world(&world);
    start(&world, 0);
    store_cancel(world.store, true);
    for (unit_number i = 0; i < world.fixture.count; i++)
        assert_int_equal(store_get(world.store, i, &view, &test_error), HYPURA_ERROR_CANCELLED);
    store_cancel(world.store, false);
    for (unit_number i = 0; i < world.fixture.count; i++)
        get_and_check(world.store, &world.fixture, i);
    close_world(&world);
}

static void closing_does_not_wait(void **state)
{
    (void)state;
    static struct world world;
    make_world(&world);
    start(&world, 0);
    close_world(&world);
}

struct shown {
    unsigned calls;
    uint64_t done, total;
    bool stop;
};

static bool show(void *context, uint64_t done, uint64_t total)
{
    struct shown *shown = context;
    shown->calls++;
    shown->done = done;
    shown->total = total;
    return !shown->stop;
}

static void a_waiting_caller_sees_progress(void **state)
{
    (void)state;
    static struct world world;
    struct shown shown = {.stop = true};
    struct store_view view;
    make_world(&world);
    struct store_source source = fixture_source(&world.fixture, 0, 0);
    struct io_fault fault = {read_from, &world.drive};
    assert_ok(store_open_source(&world.store, &source, &readers[0], &fault, &test_error));
    store_cancel(world.store, true); /* prevents reads for now */
    assert_ok(store_load(world.store, show, &shown, &test_error));
    assert_int_equal(shown.calls, 0);
    store_begin(world.store);
    store_cancel(world.store, false);
    hypura_status status = HYPURA_OK;
    for (unit_number i = world.fixture.count; i-- > 0 && !status;)
        status = store_get(world.store, i, &view, &test_error);
    assert_int_equal(status, HYPURA_ERROR_CANCELLED);
    assert_true(shown.calls > 0 && shown.total >= shown.done);
    store_abandon(world.store);
    assert_int_equal(shown.done, shown.total); /* the last report */
    const unsigned calls = shown.calls;
    for (unit_number i = 0; i < world.fixture.count; i++)
        get_and_check(world.store, &world.fixture, i);
    assert_int_equal(shown.calls, calls);
    close_world(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_unit_arrives),
        cmocka_unit_test(units_load_in_order_of_use),
        cmocka_unit_test(only_callers_that_need_missing_units_fail),
        cmocka_unit_test(a_cancelled_pass_does_not_end_loading),
        cmocka_unit_test(closing_does_not_wait),
        cmocka_unit_test(a_waiting_caller_sees_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
