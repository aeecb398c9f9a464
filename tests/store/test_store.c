/* Whatever the budget, the reader and the order of use, every unit has the file's bytes, and every byte is counted. */
#include "fixture.h"

static const struct store_options readers[2] = {
    {.reader = STORE_READER_URING, .block_bytes = 16384, .depth = 8},
    {.reader = STORE_READER_THREADS, .block_bytes = 16384, .depth = 4},
};

static const struct fixture_shape mixed = {
    .tensors = 24, .layers = 4, .experts = 16, .tensor_bytes = 150000, .slice_bytes = 9000};

/* io_uring may be forbidden on this system. Then only the threads are tested. */
static bool can_use(const struct fixture *fixture, const struct store_options *options)
{
    struct store *store;
    struct store_source source = fixture_source(fixture, fixture->tensor_footprint, fixture->expert_footprint);
    hypura_status status = store_open_source(&store, &source, options, NULL, &test_error);
    if (status == HYPURA_ERROR_UNSUPPORTED && options->reader == STORE_READER_URING)
        return false;
    assert_ok(status);
    store_close(store);
    return true;
}

static void pinned_units_are_loaded(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_shape shape = mixed;
    shape.pin_tensors = shape.pin_experts = true;
    fixture_make(&fixture, &shape);
    for (size_t reader = 0; reader < COUNT_OF(readers); reader++) {
        if (!can_use(&fixture, &readers[reader]))
            continue;
        struct store *store = open_store(&fixture, 0, 0, &readers[reader], NULL);
        for (unit_number i = 0; i < fixture.count; i++) {
            get_and_check(store, &fixture, i);
            assert_int_equal(store_unit_state(store, i), UNIT_PINNED);
        }
        struct store_statistics statistics;
        store_statistics(store, &statistics);
        assert_int_equal(statistics.bytes_read, 0);
        assert_int_equal(statistics.pool_bytes, 0);
        /* Neighbours share pages, so no more is read and held than the files contain. */
        assert_true(statistics.bytes_loaded <= fixture.sizes[0] + fixture.sizes[1]);
        assert_true(statistics.resident_bytes <= align_up(fixture.sizes[0], 4096) + align_up(fixture.sizes[1], 4096));
        assert_string_equal(statistics.reader, reader ? "threads" : "io_uring");
        store_close(store);
    }
    fixture_free(&fixture);
}

struct progress {
    uint64_t last;
    uint64_t total;
    bool stop;
};

static bool note_progress(void *context, uint64_t done, uint64_t total)
{
    struct progress *progress = context;
    assert_true(done >= progress->last && done <= total);
    progress->last = done;
    progress->total = total;
    return !progress->stop;
}

static void loading_reports_and_can_be_stopped(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_shape shape = mixed;
    shape.pin_tensors = shape.pin_experts = true;
    fixture_make(&fixture, &shape);
    struct store_source source = fixture_source(&fixture, 0, 0);
    struct store *store;
    struct store_view view;
    assert_ok(store_open_source(&store, &source, &readers[1], NULL, &test_error));
    assert_int_equal(store_get(store, 0, &view, &test_error), HYPURA_ERROR_ARGUMENT);
    struct progress progress = {0};
    assert_ok(store_load(store, note_progress, &progress, &test_error));
    assert_true(progress.total > 0);
    assert_int_equal(progress.last, progress.total);
    store_close(store);

    assert_ok(store_open_source(&store, &source, &readers[1], NULL, &test_error));
    store_cancel(store, true);
    assert_int_equal(store_load(store, NULL, NULL, &test_error), HYPURA_ERROR_CANCELLED);
    store_cancel(store, false);
    assert_ok(store_load(store, NULL, NULL, &test_error)); /* try again */
    get_and_check(store, &fixture, 3);
    store_close(store);
    fixture_free(&fixture);
}

/* Uses units as a forward pass does: dense tensors in order, and the experts of a layer as a batch, in order of
 * arrival. */
static void pass(struct store *store, const struct fixture *fixture, struct random *random, uint32_t used)
{
    uint32_t tensors_a_layer = fixture->layers ? fixture->tensors / fixture->layers : fixture->tensors;
    for (uint32_t layer = 0; layer < MAX(fixture->layers, 1u); layer++) {
        for (uint32_t i = 0; i < tensors_a_layer; i++)
            get_and_check(store, fixture, layer * tensors_a_layer + i);
        if (fixture->experts == 0)
            continue;
        unit_number wanted[16];
        uint32_t start = (uint32_t)random_next(random);
        for (uint32_t i = 0; i < used; i++)
            wanted[i] = fixture->tensors + layer * fixture->experts + (start + i * 5) % fixture->experts;
        assert_ok(store_want(store, wanted, used, &test_error));
        for (uint32_t left = used; left > 0; left--) {
            size_t index;
            assert_ok(store_wait_any(store, wanted, left, 0, &index, &test_error));
            assert_true(store_ready(store, wanted[index]));
            get_and_check(store, fixture, wanted[index]);
            wanted[index] = wanted[left - 1];
        }
        assert_ok(store_advance(store, &test_error));
    }
}

static void every_budget_gives_the_same_bytes(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_make(&fixture, &mixed);
    const double parts[] = {0, 0.1, 0.3, 0.7, 1.1};
    for (size_t reader = 0; reader < COUNT_OF(readers); reader++) {
        if (!can_use(&fixture, &readers[reader]))
            continue;
        for (size_t part = 0; part < COUNT_OF(parts); part++) {
            struct random random;
            random_seed(&random, 3);
            uint64_t ring = MAX((uint64_t)((double)fixture.tensor_footprint * parts[part]), fixture.largest_tensor);
            uint64_t cache = MAX((uint64_t)((double)fixture.expert_footprint * parts[part]), fixture.largest_expert);
            struct store *store = open_store(&fixture, ring, cache, &readers[reader], NULL);
            for (int i = 0; i < 6; i++)
                pass(store, &fixture, &random, 4);
            struct store_statistics statistics;
            store_statistics(store, &statistics);
            assert_int_equal(statistics.expert_hits + statistics.expert_misses, 6 * 4 * 4);
            assert_true(statistics.pool_bytes_used <= statistics.pool_bytes);
            assert_int_equal(statistics.pool_bytes, ring + cache);
            assert_int_equal(statistics.bytes_read, statistics.bytes_demanded);
            assert_true(statistics.direct);
            assert_true(statistics.read_nanoseconds > 0);
            store_close(store);
        }
    }
    fixture_free(&fixture);
}

static void any_block_and_depth_work(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_make(&fixture, &mixed);
    const uint32_t blocks[] = {1, 4096, 5000, 1 << 20}, depths[] = {1, 3, 64};
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        for (size_t j = 0; j < COUNT_OF(depths); j++) {
            struct random random;
            random_seed(&random, 3);
            struct store_options options = {.block_bytes = blocks[i], .depth = depths[j]};
            struct store *store =
                open_store(&fixture, 2 * fixture.largest_tensor, 5 * fixture.largest_expert, &options, NULL);
            pass(store, &fixture, &random, 4);
            store_close(store);
        }
    }
    fixture_free(&fixture);
}

static void one_slot_serves_any_order(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_make(&fixture, &mixed);
    struct store *store = open_store(&fixture, fixture.largest_tensor, fixture.largest_expert, &readers[1], NULL);
    const unit_number experts[] = {24, 25, 26, 40, 39}, tensors[] = {3, 4, 5, 9};
    for (int round = 0; round < 20; round++) {
        assert_ok(store_want(store, experts, COUNT_OF(experts), &test_error));
        assert_ok(store_want(store, tensors, COUNT_OF(tensors), &test_error));
        for (size_t i = COUNT_OF(experts); i-- > 0;)
            get_and_check(store, &fixture, experts[(i + (size_t)round) % COUNT_OF(experts)]);
        for (size_t i = COUNT_OF(tensors); i-- > 0;)
            get_and_check(store, &fixture, tensors[(i + (size_t)round) % COUNT_OF(tensors)]);
    }
    store_close(store);
    fixture_free(&fixture);
}

static void holding_everything_is_an_error_and_no_deadlock(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_make(&fixture, &mixed);
    struct store *store = open_store(&fixture, fixture.largest_tensor, fixture.largest_expert, &readers[1], NULL);
    struct store_view held, view;
    unit_number other = 31;
    size_t index;
    assert_ok(store_get(store, 30, &held, &test_error));
    assert_int_equal(store_get(store, other, &view, &test_error), HYPURA_ERROR_MEMORY);
    /* The failed store_get has withdrawn its want, so there is nothing to wait for. */
    assert_int_equal(store_wait_any(store, &other, 1, 0, &index, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_ok(store_want(store, &other, 1, &test_error));
    assert_int_equal(store_get(store, other, &view, &test_error), HYPURA_ERROR_MEMORY);
    assert_int_equal(store_wait_any(store, &other, 1, 0, &index, &test_error), HYPURA_ERROR_MEMORY);
    assert_true(is_right(&fixture, 30, &held));
    store_put(store, 30);
    assert_ok(store_wait_any(store, &other, 1, 0, &index, &test_error));
    assert_ok(store_get(store, other, &view, &test_error));
    store_put(store, other);
    unit_number largest = 0;
    for (unit_number i = 0; i < fixture.tensors; i++)
        largest = footprint(&fixture, i) == fixture.largest_tensor ? i : largest;
    assert_ok(store_get(store, largest, &held, &test_error));
    assert_int_equal(store_get(store, largest ? 0 : 1, &view, &test_error), HYPURA_ERROR_MEMORY);
    assert_true(is_right(&fixture, largest, &held));
    store_put(store, largest);
    store_close(store);
    fixture_free(&fixture);
}

static void wrong_calls_are_refused(void **state)
{
    (void)state;
    struct fixture fixture;
    fixture_make(&fixture, &mixed);
    fixture.in_ring[5] = 0; /* neither pinned nor in the ring */
    struct store *store;
    struct store_source source = fixture_source(&fixture, fixture.largest_tensor, 4095);
    assert_int_equal(store_open_source(&store, &source, &readers[1], NULL, &test_error), HYPURA_ERROR_MEMORY);
    source = fixture_source(&fixture, 4095, fixture.largest_expert);
    assert_int_equal(store_open_source(&store, &source, &readers[1], NULL, &test_error), HYPURA_ERROR_MEMORY);
    store = open_store(&fixture, fixture.largest_tensor, fixture.largest_expert, &readers[1], NULL);
    struct store_view view;
    unit_number unit = fixture.count;
    size_t index;
    assert_int_equal(store_get(store, unit, &view, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(store_want(store, &unit, 1, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(store_wait_any(store, &unit, 1, 0, &index, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(store_wait_any(store, &unit, 0, 0, &index, &test_error), HYPURA_ERROR_ARGUMENT);
    unit = 30; /* not wanted, so waiting for it would never end */
    assert_int_equal(store_wait_any(store, &unit, 1, 0, &index, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(store_get(store, 5, &view, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_false(store_ready(store, fixture.count));
    uint8_t byte;
    assert_int_equal(store_read(store, 3, fixture.units[3].bytes, 1, &byte, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(store_read(store, 30, 0, 1, &byte, &test_error), HYPURA_ERROR_ARGUMENT);
    store_close(store);
    fixture_free(&fixture);
}

static void parts_of_a_tensor_are_read(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_shape shape = mixed;
    shape.tensor_bytes = 900000; /* larger than the buffer for small reads */
    fixture_make(&fixture, &shape);
    fixture.in_ring[5] = 0;
    fixture.tiers[6] = TIER_RAM;
    struct store *store = open_store(&fixture, fixture.largest_tensor, fixture.largest_expert, &readers[1], NULL);
    uint8_t *out = malloc(900000);
    struct random random;
    random_seed(&random, 5);
    struct store_statistics statistics;
    for (int i = 0; i < 60; i++) {
        const unit_number numbers[] = {5, 6, 7};
        unit_number number = numbers[i % 3];
        const struct unit_slice *slice = &fixture.units[number].slices[0];
        uint64_t offset = i < 3 ? 0 : random_next(&random) % slice->bytes;
        uint64_t bytes = i < 3 ? slice->bytes : random_next(&random) % (slice->bytes - offset + 1);
        assert_ok(store_read(store, number, offset, bytes, out, &test_error));
        assert_memory_equal(out, fixture.bytes[slice->file] + slice->offset + offset, bytes);
        if (i == 0) {
            store_statistics(store, &statistics);
            assert_true(statistics.bytes_demanded >= bytes && statistics.bytes_demanded <= bytes + 4 * 8192);
        }
    }
    free(out);
    store_close(store);
    fixture_free(&fixture);
}

/* ---- counting ---------------------------------------------------------------------------------------------------- */

static void hits_misses_and_bytes_are_exact(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_shape shape = mixed;
    shape.pin_tensors = true;
    fixture_make(&fixture, &shape);
    struct store *store = open_store(&fixture, 0, fixture.expert_footprint * 2, &readers[1], NULL);
    uint64_t bytes = 0;
    for (unit_number i = fixture.tensors; i < fixture.tensors + 40; i++) {
        get_and_check(store, &fixture, i);
        get_and_check(store, &fixture, i);
        bytes += footprint(&fixture, i);
        assert_int_equal(store_unit_state(store, i), UNIT_CACHED);
    }
    assert_int_equal(store_unit_state(store, fixture.tensors + 41), UNIT_ON_STORAGE);
    struct store_statistics statistics;
    store_statistics(store, &statistics);
    assert_int_equal(statistics.expert_hits, 40);
    assert_int_equal(statistics.expert_misses, 40);
    assert_int_equal(statistics.bytes_demanded, bytes);
    assert_int_equal(statistics.pool_bytes_used, bytes);
    assert_true(statistics.stall_nanoseconds > 0);
    store_close(store);
    fixture_free(&fixture);
}

static void a_prompt_keeps_part_of_the_cache(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_shape shape = mixed;
    shape.pin_tensors = true;
    fixture_make(&fixture, &shape);
    /* Half of the experts fit. Every pass wants all of them, a layer at a time. At most an eighth of them is being read
     * at once, so three eighths can stay for the next pass. */
    struct store *store = open_store(&fixture, 0, 32 * fixture.largest_expert, &readers[1], NULL);
    struct store_statistics before = {0}, after;
    unit_number wanted[16];
    for (int i = 0; i < 10; i++) {
        if (i == 5)
            store_statistics(store, &before);
        for (uint32_t layer = 0; layer < 4; layer++) {
            for (uint32_t j = 0; j < 16; j++)
                wanted[j] = fixture.tensors + layer * 16 + j;
            assert_ok(store_want(store, wanted, 16, &test_error));
            for (uint32_t left = 16; left > 0; left--) {
                size_t index;
                assert_ok(store_wait_any(store, wanted, left, 0, &index, &test_error));
                get_and_check(store, &fixture, wanted[index]);
                wanted[index] = wanted[left - 1];
            }
        }
        assert_ok(store_advance(store, &test_error));
    }
    store_statistics(store, &after);
    assert_true(after.expert_hits - before.expert_hits > 5 * 64 / 4);
    store_close(store);
    fixture_free(&fixture);
}

static void a_file_system_without_direct_reads(void **state)
{
    (void)state;
    struct fixture fixture;
    struct fixture_shape shape = mixed;
    shape.folder = "/dev/shm";
    if (access(shape.folder, W_OK) != 0)
        skip();
    fixture_make(&fixture, &shape);
    struct storage storage;
    assert_ok(hardware_detect_storage(&storage, fixture.paths[0], &test_error));
    if (!storage.direct_supported) {
        struct store_source source = fixture_source(&fixture, 2 * fixture.largest_tensor, 4 * fixture.largest_expert);
        struct store *store;
        struct store_options options = {.reader = STORE_READER_AUTO};
        assert_int_equal(store_open_source(&store, &source, &options, NULL, &test_error), HYPURA_ERROR_UNSUPPORTED);
        options.allow_buffered = true;
        store = open_store(&fixture, 2 * fixture.largest_tensor, 4 * fixture.largest_expert, &options, NULL);
        struct random random;
        random_seed(&random, 9);
        for (int i = 0; i < 3; i++)
            pass(store, &fixture, &random, 4);
        struct store_statistics statistics;
        store_statistics(store, &statistics);
        assert_false(statistics.direct);
        store_close(store);
    }
    fixture_free(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pinned_units_are_loaded),
        cmocka_unit_test(loading_reports_and_can_be_stopped),
        cmocka_unit_test(every_budget_gives_the_same_bytes),
        cmocka_unit_test(any_block_and_depth_work),
        cmocka_unit_test(one_slot_serves_any_order),
        cmocka_unit_test(holding_everything_is_an_error_and_no_deadlock),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(parts_of_a_tensor_are_read),
        cmocka_unit_test(hits_misses_and_bytes_are_exact),
        cmocka_unit_test(a_prompt_keeps_part_of_the_cache),
        cmocka_unit_test(a_file_system_without_direct_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
