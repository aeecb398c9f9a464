/* The ring reads each streamed tensor once per cycle, whole or in pieces, whatever the ring's size and however it
 * changes. */
#include "fixture.h"

static const struct store_options readers[2] = {
    {.reader = STORE_READER_AUTO, .block_bytes = 16384, .depth = 8},
    {.reader = STORE_READER_THREADS, .block_bytes = 16384, .depth = 4},
};

static void get_all(struct store *store, const struct fixture *fixture)
{
    for (unit_number i = 0; i < fixture->tensors; i++)
        get_and_check(store, fixture, i);
}

static uint64_t demanded(struct store *store)
{
    struct store_statistics statistics;
    store_statistics(store, &statistics);
    return statistics.bytes_demanded;
}

/* The bytes that direct reads of all streamed tensors return. The last block of a file ends with the file. */
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
    struct store *store = open_store(&fixture, 3 * fixture.largest_tensor, 0, &readers[0], NULL);
    for (int i = 0; i < 5; i++)
        get_all(store, &fixture);
    wait_until_idle(store);
    /* Five cycles, and what has been read ahead for the sixth. */
    uint64_t read = demanded(store);
    assert_true(read > 5 * cycle && read <= 5 * cycle + 3 * fixture.largest_tensor);
    /* Reading continues across the end of a pass: the next pass finds its first tensors in the ring. */
    assert_int_equal(store_unit_state(store, 0), UNIT_CACHED);
    store_close(store);

    /* A ring that holds all tensors reads each once. */
    store = open_store(&fixture, fixture.tensor_footprint + fixture.largest_tensor, 0, &readers[0], NULL);
    for (int i = 0; i < 3; i++)
        get_all(store, &fixture);
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

/* Tensors in pieces, every third of which stays. */
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

/* Each piece has the file's bytes at the address that the store returns. */
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

/* Pieces that stay are not read again, and the ring need not have room for a whole tensor. */
static void pieces_stream_next_to_others_that_stay(void **state)
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
        /* The bound allows for whole pages, rows read separately, and pieces read for the next cycle. */
        assert_true(statistics.bytes_demanded <=
                    4 * (world.streamed_bytes + world.streamed_pieces * 8192 + CUT_TENSORS * 8192) + CUT_RING);
        struct store_view view;
        for (unit_number i = 0; i < CUT_TENSORS; i++)
            if (world.cuts[i].count > 1)
                assert_int_equal(store_get(store, i, &view, &test_error), HYPURA_ERROR_ARGUMENT);
        store_close(store);
    }

    world.cuts[3].bytes = 7; /* does not match the tensor's size */
    struct store *store = NULL;
    struct store_source source = fixture_source(&world.fixture, CUT_RING, 0);
    assert_true(world.cuts[3].count > 1);
    assert_int_equal(store_open_source(&store, &source, &readers[0], NULL, &test_error), HYPURA_ERROR_ARGUMENT);
    fixture_free(&world.fixture);
}

/* If the pool shrinks, pieces that stay are given up after the running pass. If it grows, they are kept again. */
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

        /* Less room: pieces are given up only after the pass. Until then the ring is smaller by as much. */
        store_begin(store);
        assert_ok(store_resize(store, CUT_RING - 20000, &test_error));
        store_statistics(store, &statistics);
        assert_true(statistics.resident_bytes == before && statistics.pool_bytes <= pool - 20000);
        wait_until_idle(store); /* reads in flight end first */
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

        /* Negative room: half of the pieces that stay are given up. */
        before = statistics.resident_bytes;
        store_begin(store);
        assert_ok(store_resize(store, -100000, &test_error));
        assert_ok(store_resize(store, CUT_RING, &test_error)); /* before the pass ends */
        assert_ok(store_advance(store, &test_error));
        assert_int_equal(pinned_pieces(store, fixture), kept_pieces);
        assert_ok(store_resize(store, -100000, &test_error)); /* at once, as no pass runs */
        store_statistics(store, &statistics);
        assert_true(statistics.resident_bytes <= before - 100000 && statistics.resident_bytes > before - 300000);
        assert_true(statistics.pool_bytes <= CUT_RING);
        assert_true(pinned_pieces(store, fixture) > 0 && pinned_pieces(store, fixture) < kept_pieces);
        get_pieces(store, fixture);
        get_pieces(store, fixture);
        assert_int_equal(store_resize(store, -10000000, &test_error), HYPURA_ERROR_MEMORY);
        /* More room: all pieces are kept again. */
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

/* A plan may stream small tensors but keep one whose pieces do not fit in its ring. Those pieces are never given up. */
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
        if (i % 2 == 0) { /* this one streams */
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

/* The smallest pool that store_resize accepts has room for tensors that are held together, wherever the first one lies
 * in the ring. */
static void the_smallest_ring_holds_a_group(void **state)
{
    (void)state;
    struct fixture fixture;
    const struct fixture_shape shape = {.tensors = 8, .tensor_bytes = 150000};
    uint8_t groups[8];
    fixture_make(&fixture, &shape);
    fixture.groups = groups;
    for (unit_number i = 0; i < fixture.tensors; i++) {
        groups[i] = i == 3 || i == 4;
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
    struct store *store = open_store(&fixture, 3 * fixture.largest_tensor, 0, &readers[1], NULL);
    assert_ok(store_resize(store, fixture.tensor_footprint / 2 + 3 * fixture.largest_tensor, &test_error));
    get_all(store, &fixture);
    get_all(store, &fixture);
    uint64_t before = demanded(store);
    for (int i = 0; i < 4; i++)
        get_all(store, &fixture);
    wait_until_idle(store);
    /* There is room for half of the tensors to stay. Their different sizes waste some of it. */
    uint64_t a_cycle = (demanded(store) - before) / 4;
    assert_true(a_cycle < fixture.tensor_footprint * 3 / 4);
    store_close(store);
    fixture_free(&fixture);
}

static void a_skipped_tensor_is_not_read_for_ever(void **state)
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
    /* A tensor requested out of order is read all the same, and the order continues from it. */
    get_and_check(store, &fixture, 21);
    get_and_check(store, &fixture, 7);
    wait_until_idle(store);
    assert_int_equal(store_unit_state(store, 8), UNIT_CACHED);
    store_close(store);
    fixture_free(&fixture);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_ring_reads_each_tensor_once_a_cycle),
        cmocka_unit_test(pieces_stream_next_to_others_that_stay),
        cmocka_unit_test(pieces_that_stay_follow_the_size_of_the_pool),
        cmocka_unit_test(pieces_that_the_ring_cannot_hold_stay),
        cmocka_unit_test(the_smallest_ring_holds_a_group),
        cmocka_unit_test(memory_beyond_the_window_keeps_tensors),
        cmocka_unit_test(a_skipped_tensor_is_not_read_for_ever),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
