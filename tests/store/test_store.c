/* Whatever the budget, the reader, the order of use: every unit has the file's bytes, and every byte is counted. */
#include "fixture.h"

static const struct store_options readers[2] = {
    {.reader = STORE_READER_URING, .block_bytes = 16384, .depth = 8},
    {.reader = STORE_READER_THREADS, .block_bytes = 16384, .depth = 4},
};

static const struct fixture_shape mixed = {
    .tensors = 24, .layers = 4, .experts = 16, .tensor_bytes = 150000, .slice_bytes = 9000};

/* io_uring may be forbidden where the tests run; then only the threads are tested. */
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
        /* Neighbours share the pages between them: not more is read and held than the files have. */
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
    assert_ok(store_load(store, NULL, NULL, &test_error)); /* and tried again */
    get_and_check(store, &fixture, 3);
    store_close(store);
    fixture_free(&fixture);
}

/* One forward pass, as an engine does it: the dense tensors in order, the experts of a layer as a batch, taken as they
 * arrive. */
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
            assert_ok(store_wait_any(store, wanted, left, &index, &test_error));
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

static void any_block_and_depth_will_do(void **state)
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
    assert_int_equal(store_wait_any(store, &other, 1, &index, &test_error), HYPURA_ERROR_MEMORY);
    assert_true(is_right(&fixture, 30, &held));
    store_put(store, 30);
    assert_ok(store_get(store, other, &view, &test_error)); /* the want of before still counts */
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
    fixture.in_ring[5] = 0; /* held by nobody */
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
    assert_int_equal(store_wait_any(store, &unit, 1, &index, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_int_equal(store_wait_any(store, &unit, 0, &index, &test_error), HYPURA_ERROR_ARGUMENT);
    unit = 30; /* not wanted: it would never come */
    assert_int_equal(store_wait_any(store, &unit, 1, &index, &test_error), HYPURA_ERROR_ARGUMENT);
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
    shape.tensor_bytes = 900000; /* beyond the buffer for small reads */
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

static uint64_t demanded(struct store *store)
{
    struct store_statistics statistics;
    store_statistics(store, &statistics);
    return statistics.bytes_demanded;
}

/* What direct reads of all streamed tensors bring: the last block of a file ends with the file. */
static uint64_t cycle_bytes(const struct fixture *fixture)
{
    uint64_t sum = fixture->tensor_footprint;
    for (unit_number i = 0; i < fixture->tensors; i++) {
        const struct unit_slice *slice = &fixture->units[i].slices[0];
        uint64_t end = align_up(slice->offset + slice->bytes, 4096);
        if (end > fixture->sizes[slice->file])
            sum -= end - fixture->sizes[slice->file];
    }
    return sum;
}

static void a_ring_reads_each_tensor_once_a_cycle(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct fixture_shape shape = {.tensors = 40, .tensor_bytes = 150000};
    fixture_make(&fixture, &shape);
    uint64_t cycle = cycle_bytes(&fixture);
    struct random random;
    random_seed(&random, 1);
    struct store *store = open_store(&fixture, 3 * fixture.largest_tensor, 0, &readers[0], NULL);
    for (int i = 0; i < 5; i++)
        pass(store, &fixture, &random, 0);
    wait_until_idle(store);
    /* Five cycles, and what is read ahead of the sixth already. */
    uint64_t read = demanded(store);
    assert_true(read > 5 * cycle && read <= 5 * cycle + 3 * fixture.largest_tensor);
    /* It goes on across the end of a pass: the next pass finds its first tensors there. */
    assert_int_equal(store_unit_state(store, 0), UNIT_CACHED);
    store_close(store);

    /* A ring that holds all reads all once. */
    store = open_store(&fixture, fixture.tensor_footprint + fixture.largest_tensor, 0, &readers[0], NULL);
    for (int i = 0; i < 3; i++)
        pass(store, &fixture, &random, 0);
    wait_until_idle(store);
    assert_int_equal(demanded(store), cycle);
    store_close(store);
    fixture_free(&fixture);
}

static void get_pieces(struct store *store, const struct fixture *fixture)
{
    for (unit_number i = 0; i < fixture->tensors; i++) {
        const struct unit_slice *slice = &fixture->units[i].slices[0];
        struct store_pieces pieces = store_pieces(store, i);
        for (uint32_t piece = 0; piece < pieces.count; piece++) {
            struct store_view view;
            uint64_t start = piece * pieces.bytes;
            assert_ok(store_get(store, pieces.first + piece, &view, &test_error));
            assert_memory_equal(view.slices[0], fixture->bytes[slice->file] + slice->offset + start,
                                MIN(pieces.bytes, slice->bytes - start));
            store_put(store, pieces.first + piece);
        }
    }
}

static uint32_t pinned_pieces(struct store *store, const struct fixture *fixture)
{
    uint32_t count = 0;
    for (unit_number i = 0; i < fixture->tensors; i++) {
        struct store_pieces pieces = store_pieces(store, i);
        for (uint32_t piece = 0; piece < pieces.count; piece++)
            count += store_unit_state(store, pieces.first + piece) == UNIT_PINNED;
    }
    return count;
}

enum { CUT_TENSORS = 12, PIECE = 20000, MOST_PIECES = 16, CUT_RING = 3 * (PIECE + 8192) };

/* Tensors in pieces, of which every third stays. */
struct cut_world {
    struct fixture fixture;
    struct plan_cut cuts[CUT_TENSORS];
    uint8_t streams[CUT_TENSORS * MOST_PIECES];
    uint64_t kept_bytes, streamed_bytes, streamed_pieces;
};

static void cut_world_make(struct cut_world *world)
{
    const struct fixture_shape shape = {.tensors = CUT_TENSORS, .tensor_bytes = 150000};
    *world = (struct cut_world){0};
    fixture_make(&world->fixture, &shape);
    for (unit_number i = 0; i < CUT_TENSORS; i++) {
        uint64_t bytes = world->fixture.units[i].bytes;
        world->cuts[i] = (struct plan_cut){i * MOST_PIECES, (uint32_t)((bytes + PIECE - 1) / PIECE), PIECE};
        for (uint32_t piece = 0; piece < world->cuts[i].count; piece++) {
            bool streams = piece % 3 != 1;
            world->streams[i * MOST_PIECES + piece] = streams;
            *(streams ? &world->streamed_bytes : &world->kept_bytes) += MIN(PIECE, bytes - piece * PIECE);
            world->streamed_pieces += streams;
        }
    }
    world->fixture.cuts = world->cuts;
    world->fixture.streams = world->streams;
}

/* A tensor's bytes stand where they are said to be, and are the file's. */
static void check_pieces(struct store *store, const struct cut_world *world, unit_number tensor)
{
    const struct unit_slice *slice = &world->fixture.units[tensor].slices[0];
    const uint8_t *expected = world->fixture.bytes[slice->file] + slice->offset;
    const struct plan_cut *cut = &world->cuts[tensor];
    struct store_pieces pieces = store_pieces(store, tensor);
    assert_int_equal(pieces.count, cut->count);
    uint64_t where[UNIT_STATES] = {0}, stays = 0, all = 0;
    store_count_bytes(store, tensor, where);
    for (uint32_t piece = 0; piece < pieces.count && pieces.count > 1; piece++)
        stays += piece % 3 == 1 ? MIN(PIECE, slice->bytes - piece * PIECE) : 0;
    for (int which = 0; which < UNIT_STATES; which++)
        all += where[which];
    assert_int_equal(where[UNIT_PINNED], stays);
    assert_int_equal(all, slice->bytes);
    for (uint32_t piece = 0; piece < pieces.count; piece++) {
        struct store_view view;
        bool there = store_get_ready(store, pieces.first + piece, &view);
        assert_true(there || cut->count == 1 || world->streams[cut->first + piece]);
        if (!there)
            assert_ok(store_get(store, pieces.first + piece, &view, &test_error));
        uint64_t start = piece * pieces.bytes;
        assert_memory_equal(view.slices[0], expected + start, MIN(pieces.bytes, slice->bytes - start));
        store_put(store, pieces.first + piece);
    }
    uint8_t row[700];
    uint64_t at = slice->bytes > sizeof row ? slice->bytes / 2 : 0, part = MIN(sizeof row, slice->bytes);
    assert_ok(store_read(store, tensor, at, part, row, &test_error));
    assert_memory_equal(row, expected + at, part);
}

/* What stays is not read again, and the ring need not hold a tensor. */
static void pieces_stream_beside_others_that_stay(void **state)
{
    (void)state;
    struct cut_world world;
    cut_world_make(&world);
    for (size_t reader = 0; reader < COUNT_OF(readers); reader++) {
        struct store *store = open_store(&world.fixture, CUT_RING, 0, &readers[reader], NULL);
        struct store_statistics statistics;
        store_statistics(store, &statistics);
        assert_true(statistics.resident_bytes >= world.kept_bytes && statistics.bytes_loaded >= world.kept_bytes);
        for (int cycle = 0; cycle < 4; cycle++)
            for (unit_number i = 0; i < CUT_TENSORS; i++)
                check_pieces(store, &world, i);
        store_statistics(store, &statistics);
        assert_true(statistics.bytes_demanded >= 4 * world.streamed_bytes);
        /* Whole pages, rows that were read by themselves, and what is there for the next cycle. */
        assert_true(statistics.bytes_demanded <=
                    4 * (world.streamed_bytes + world.streamed_pieces * 8192 + CUT_TENSORS * 8192) + CUT_RING);
        struct store_view view;
        for (unit_number i = 0; i < CUT_TENSORS; i++)
            if (world.cuts[i].count > 1)
                assert_int_equal(store_get(store, i, &view, &test_error), HYPURA_ERROR_ARGUMENT);
        store_close(store);
    }

    world.cuts[3].bytes = 7; /* other bytes than the tensor has */
    struct store *store = NULL;
    struct store_source source = fixture_source(&world.fixture, CUT_RING, 0);
    assert_true(world.cuts[3].count > 1);
    assert_int_equal(store_open_source(&store, &source, &readers[0], NULL, &test_error), HYPURA_ERROR_ARGUMENT);
    fixture_free(&world.fixture);
}

/* Pieces that stay are given up for a smaller pool, after the pass that runs, and are kept again in a larger one. */
static void pieces_that_stay_follow_the_size_of_the_pool(void **state)
{
    (void)state;
    struct cut_world world;
    cut_world_make(&world);
    const struct fixture *fixture = &world.fixture;
    for (size_t reader = 0; reader < COUNT_OF(readers); reader++) {
        struct store *store = open_store(fixture, CUT_RING, 0, &readers[reader], NULL);
        struct store_statistics statistics;
        store_statistics(store, &statistics);
        uint32_t kept_pieces = pinned_pieces(store, fixture);
        uint64_t before = statistics.resident_bytes, pool = statistics.pool_bytes;

        /* Less room: what is given up goes after the pass, and until then the ring does without as much. */
        assert_ok(store_resize(store, CUT_RING - 20000, &test_error));
        store_statistics(store, &statistics);
        assert_true(statistics.resident_bytes == before && statistics.pool_bytes <= pool - 20000);
        wait_until_idle(store); /* reads that are under way end first */
        store_statistics(store, &statistics);
        assert_true(statistics.pool_bytes_used <= statistics.pool_bytes);
        get_pieces(store, fixture);
        assert_ok(store_advance(store, &test_error));
        store_statistics(store, &statistics);
        assert_true(statistics.resident_bytes <= before - 20000 && statistics.pool_bytes == pool);
        assert_true(pinned_pieces(store, fixture) < kept_pieces);
        get_pieces(store, fixture);
        for (unit_number i = 0; i < CUT_TENSORS; i++) {
            const struct unit_slice *slice = &fixture->units[i].slices[0];
            uint8_t row[100];
            for (uint64_t at = 0; at + sizeof row <= slice->bytes; at += PIECE / 2) {
                assert_ok(store_read(store, i, at, sizeof row, row, &test_error));
                assert_memory_equal(row, fixture->bytes[slice->file] + slice->offset + at, sizeof row);
            }
            assert_ok(store_read(store, i, slice->bytes, 0, row, &test_error));
        }
        store_statistics(store, &statistics);
        kept_pieces = pinned_pieces(store, fixture);

        /* Less room than nothing: half of what stays is given up. */
        before = statistics.resident_bytes;
        assert_ok(store_resize(store, -100000, &test_error));
        assert_ok(store_resize(store, CUT_RING, &test_error)); /* in time */
        assert_ok(store_advance(store, &test_error));
        assert_int_equal(pinned_pieces(store, fixture), kept_pieces);
        assert_ok(store_resize(store, -100000, &test_error));
        get_pieces(store, fixture);
        assert_ok(store_advance(store, &test_error));
        store_statistics(store, &statistics);
        assert_true(statistics.resident_bytes <= before - 100000 && statistics.resident_bytes > before - 300000);
        assert_true(statistics.pool_bytes <= CUT_RING);
        assert_true(pinned_pieces(store, fixture) > 0 && pinned_pieces(store, fixture) < kept_pieces);
        get_pieces(store, fixture);
        get_pieces(store, fixture);
        assert_int_equal(store_resize(store, -10000000, &test_error), HYPURA_ERROR_MEMORY);
        /* More room: everything is kept again. */
        assert_ok(store_resize(store, 4000000, &test_error));
        get_pieces(store, fixture);
        wait_until_idle(store);
        uint64_t all = demanded(store);
        get_pieces(store, fixture);
        assert_int_equal(demanded(store), all);
        store_close(store);
    }
    fixture_free(&world.fixture);
}

/* A plan may stream small tensors and keep one whose pieces its ring cannot hold: those are never given up. */
static void pieces_that_the_ring_cannot_hold_stay(void **state)
{
    (void)state;
    enum { LARGE_PIECE = 60000 };
    struct fixture fixture;
    const struct fixture_shape shape = {.tensors = 12, .tensor_bytes = 150000};
    fixture_make(&fixture, &shape);
    struct plan_cut cuts[12];
    uint8_t streams[12] = {0};
    uint32_t large = 0;
    for (unit_number i = 0; i < fixture.tensors; i++) {
        cuts[i] = (struct plan_cut){0, 1, fixture.units[i].bytes};
        if (i % 2 == 0) { /* streams */
            fixture.units[i].bytes = fixture.units[i].slices[0].bytes = MIN(fixture.units[i].bytes, 15000);
            continue;
        }
        fixture.tiers[i] = TIER_RAM;
        fixture.in_ring[i] = 0;
        if (fixture.units[i].bytes <= LARGE_PIECE)
            continue;
        large++;
        cuts[i] =
            (struct plan_cut){0, (uint32_t)((fixture.units[i].bytes + LARGE_PIECE - 1) / LARGE_PIECE), LARGE_PIECE};
    }
    assert_true(large > 0);
    fixture.cuts = cuts;
    fixture.streams = streams;
    struct store *store = open_store(&fixture, 2 * 20480, 0, &readers[0], NULL);
    struct store_statistics statistics;
    store_statistics(store, &statistics);
    assert_ok(store_resize(store, (int64_t)statistics.pool_least_bytes, &test_error));
    get_pieces(store, &fixture);
    assert_ok(store_advance(store, &test_error));
    for (unit_number i = 1; i < fixture.tensors; i += 2) {
        struct store_pieces pieces = store_pieces(store, i);
        assert_int_equal(pieces.count, cuts[i].count);
        for (uint32_t piece = 0; piece + 1 < pieces.count; piece++)
            assert_int_equal(store_unit_state(store, pieces.first + piece), UNIT_PINNED);
    }
    get_pieces(store, &fixture);
    store_close(store);
    fixture_free(&fixture);
}

/* The smallest pool that store_resize takes has room for tensors that are held together, wherever the first lies. */
static void the_smallest_ring_holds_a_group(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct fixture_shape shape = {.tensors = 8, .tensor_bytes = 150000};
    fixture_make(&fixture, &shape);
    for (unit_number i = 0; i < fixture.tensors; i++) {
        fixture.units[i].role = i == 3 ? ROLE_ATTENTION_K_B : i == 4 ? ROLE_ATTENTION_V_B : ROLE_ATTENTION_OUTPUT;
        fixture.units[i].bytes = fixture.units[i].slices[0].bytes = MIN(fixture.units[i].bytes, 30000);
    }
    struct store *store = open_store(&fixture, 400000, 0, &readers[0], NULL);
    struct store_statistics statistics;
    store_statistics(store, &statistics);
    assert_ok(store_resize(store, (int64_t)statistics.pool_least_bytes, &test_error));
    for (int cycle = 0; cycle < 20; cycle++) {
        struct store_view views[2];
        for (unit_number i = 0; i < fixture.tensors; i++) {
            assert_ok(store_get(store, i, &views[i == 4], &test_error));
            assert_true(is_right(&fixture, i, &views[i == 4]));
            if (i == 4) {
                assert_true(is_right(&fixture, 3, &views[0]));
                store_put(store, 3);
            }
            if (i != 3)
                store_put(store, i);
        }
    }
    store_close(store);
    fixture_free(&fixture);
}

static void memory_beyond_the_window_keeps_tensors(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct fixture_shape shape = {.tensors = 40, .tensor_bytes = 150000};
    fixture_make(&fixture, &shape);
    struct random random;
    random_seed(&random, 1);
    struct store *store = open_store(&fixture, 3 * fixture.largest_tensor, 0, &readers[1], NULL);
    assert_ok(store_resize(store, fixture.tensor_footprint / 2 + 3 * fixture.largest_tensor, &test_error));
    pass(store, &fixture, &random, 0);
    pass(store, &fixture, &random, 0);
    uint64_t before = demanded(store);
    for (int i = 0; i < 4; i++)
        pass(store, &fixture, &random, 0);
    wait_until_idle(store);
    /* Half of the tensors stay; some of that is lost to tensors of other sizes. */
    uint64_t a_cycle = (demanded(store) - before) / 4;
    assert_true(a_cycle < fixture.tensor_footprint * 3 / 4);
    store_close(store);
    fixture_free(&fixture);
}

static void a_tensor_that_is_skipped_is_not_read_for_ever(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct fixture_shape shape = {.tensors = 40, .tensor_bytes = 150000};
    fixture_make(&fixture, &shape);
    struct store *store = open_store(&fixture, 3 * fixture.largest_tensor, 0, &readers[1], NULL);
    for (int i = 0; i < 4; i++) {
        for (unit_number j = 0; j < fixture.tensors; j++) {
            if (j % 2 == 0)
                get_and_check(store, &fixture, j);
        }
    }
    uint64_t half = 0, before = demanded(store);
    for (unit_number j = 0; j < fixture.tensors; j += 2) {
        get_and_check(store, &fixture, j);
        half += footprint(&fixture, j);
    }
    wait_until_idle(store);
    assert_true(demanded(store) - before <= half + 3 * fixture.largest_tensor);
    /* Asked for out of order it is there all the same, and the order goes on from it. */
    get_and_check(store, &fixture, 21);
    get_and_check(store, &fixture, 7);
    wait_until_idle(store);
    assert_int_equal(store_unit_state(store, 8), UNIT_CACHED);
    store_close(store);
    fixture_free(&fixture);
}

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
    /* Half of the experts fit, and every pass wants them all, a layer at a time: an eighth of them is on its way at
     * once, so that three eighths can stay for the next pass. */
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
                assert_ok(store_wait_any(store, wanted, left, &index, &test_error));
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
        cmocka_unit_test(any_block_and_depth_will_do),
        cmocka_unit_test(one_slot_serves_any_order),
        cmocka_unit_test(holding_everything_is_an_error_and_no_deadlock),
        cmocka_unit_test(wrong_calls_are_refused),
        cmocka_unit_test(parts_of_a_tensor_are_read),
        cmocka_unit_test(a_ring_reads_each_tensor_once_a_cycle),
        cmocka_unit_test(pieces_stream_beside_others_that_stay),
        cmocka_unit_test(pieces_that_stay_follow_the_size_of_the_pool),
        cmocka_unit_test(pieces_that_the_ring_cannot_hold_stay),
        cmocka_unit_test(the_smallest_ring_holds_a_group),
        cmocka_unit_test(memory_beyond_the_window_keeps_tensors),
        cmocka_unit_test(a_tensor_that_is_skipped_is_not_read_for_ever),
        cmocka_unit_test(hits_misses_and_bytes_are_exact),
        cmocka_unit_test(a_prompt_keeps_part_of_the_cache),
        cmocka_unit_test(a_file_system_without_direct_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
