/* Random forward passes over random pools, while another thread resizes and cancels, and the drive misbehaves. Every
 * unit that the store returns has the file's bytes, and nothing is left over between passes.
 *
 * HYPURA_STRESS_SECONDS sets the duration, HYPURA_STRESS_SEED the first seed. */
#include "fixture.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#define PIECE 30000u
#define MOST_PIECES 8u
#define MOST_TENSORS 20u
#define MOST_UNITS (MOST_TENSORS + 5u * 24u)
#define PASSES 30u

struct world {
    struct fixture fixture;
    struct plan_cut cuts[MOST_UNITS];
    uint8_t streams[MOST_TENSORS * MOST_PIECES];
    struct store *store;
    struct random random, drive;
    uint64_t seed;
    unsigned trouble; /* one of this many reads goes wrong; 0: none */
    bool errors;      /* reads that go wrong return an error */
    uint32_t slow;    /* delay of a read, in microseconds */
    atomic_bool stop;
    bool resizes, cancels;
    uint64_t pool;
};

static uint32_t below(struct random *random, uint64_t count)
{
    return (uint32_t)(random_next(random) % count);
}

static int misbehave(void *context, uint32_t file, uint64_t offset, uint32_t *bytes)
{
    static const int numbers[] = {EAGAIN, EINTR, EBUSY, EIO};
    struct world *world = context;
    (void)file, (void)offset;
    if (world->slow)
        usleep(below(&world->drive, world->slow));
    if (!world->trouble || below(&world->drive, world->trouble))
        return 0;
    if (below(&world->drive, 2)) {
        *bytes = below(&world->drive, 4) ? (uint32_t)align_down(below(&world->drive, *bytes), 512) : 0;
        return 0;
    }
    return numbers[below(&world->drive, world->errors ? 4 : 3)];
}

static void make_world(struct world *world, uint64_t seed)
{
    *world = (struct world){.seed = seed};
    random_seed(&world->random, seed);
    random_seed(&world->drive, seed + 1);
    struct fixture_shape shape = {.tensors = 1 + below(&world->random, MOST_TENSORS),
                                  .layers = below(&world->random, 4) ? 1 + below(&world->random, 5) : 0,
                                  .experts = 2 + below(&world->random, 22),
                                  .tensor_bytes = 5000 + below(&world->random, PIECE * (MOST_PIECES - 1) - 5000),
                                  .slice_bytes = 500 + below(&world->random, 20000)};
    fixture_make(&world->fixture, &shape);
    bool cuts = below(&world->random, 2);
    for (unit_number i = 0; i < world->fixture.count; i++) {
        uint64_t bytes = world->fixture.units[i].bytes;
        world->cuts[i] = (struct plan_cut){0, 1, bytes};
        if (!cuts || i >= shape.tensors)
            continue;
        world->cuts[i] = (struct plan_cut){i * MOST_PIECES, (uint32_t)((bytes + PIECE - 1) / PIECE), PIECE};
        for (uint32_t piece = 0; piece < world->cuts[i].count; piece++)
            world->streams[i * MOST_PIECES + piece] = below(&world->random, 3) > 0;
    }
    world->fixture.cuts = world->cuts;
    world->fixture.streams = world->streams;
    static const unsigned troubles[] = {0, 0, 7, 40, 300};
    world->trouble = troubles[below(&world->random, COUNT_OF(troubles))];
    world->errors = below(&world->random, 2);
    world->slow = below(&world->random, 3) ? 0 : 400;
    world->resizes = below(&world->random, 2);
    world->cancels = below(&world->random, 2);
}

/* ---- one pass ---------------------------------------------------------------------------------------------------- */

/* Whether the unit is held. Fails if the status is not among those that may occur in this world. */
static bool is_held(struct world *world, hypura_status status)
{
    if (status == HYPURA_ERROR_IO && world->trouble)
        return false;
    if (status == HYPURA_ERROR_CANCELLED && world->cancels)
        return false;
    if (status)
        fail_msg("seed %llu: %s", (unsigned long long)world->seed, test_error.message);
    return true;
}

static void check_bytes(const struct world *world, unit_number unit, const struct store_view *view)
{
    const struct unit *what = store_unit(world->store, unit);
    for (uint32_t i = 0; i < what->slice_count; i++) {
        const struct unit_slice *slice = &what->slices[i];
        if (memcmp(view->slices[i], world->fixture.bytes[slice->file] + slice->offset, slice->bytes) != 0)
            fail_msg("seed %llu: the bytes of unit %u differ from the file's", (unsigned long long)world->seed, unit);
    }
}

static bool use_tensor(struct world *world, unit_number tensor)
{
    struct store_pieces pieces = store_pieces(world->store, tensor);
    for (uint32_t piece = 0; piece < pieces.count; piece++) {
        struct store_view view;
        unit_number unit = pieces.first + piece;
        if (!(below(&world->random, 2) && store_get_ready(world->store, unit, &view)) &&
            !is_held(world, store_get(world->store, unit, &view, &test_error)))
            return false;
        check_bytes(world, unit, &view);
        store_put(world->store, unit);
    }
    const struct unit_slice *slice = &world->fixture.units[tensor].slices[0];
    uint8_t row[300];
    uint64_t at = below(&world->random, slice->bytes), part = MIN(sizeof row, slice->bytes - at);
    if (!is_held(world, store_read(world->store, tensor, at, part, row, &test_error)))
        return false;
    assert_memory_equal(row, world->fixture.bytes[slice->file] + slice->offset + at, part);
    return true;
}

static uint32_t choose_experts(struct world *world, uint32_t layer, unit_number *units)
{
    const struct fixture *fixture = &world->fixture;
    uint32_t count = 0, share = 1 + below(&world->random, 4);
    for (uint32_t e = 0; e < fixture->experts; e++)
        if (below(&world->random, share) == 0)
            units[count++] = fixture->tensors + layer * fixture->experts + e;
    for (uint32_t i = count; i > 1; i--) {
        uint32_t other = below(&world->random, i);
        unit_number unit = units[i - 1];
        units[i - 1] = units[other];
        units[other] = unit;
    }
    return count;
}

static void prefetch(struct world *world, uint32_t layer)
{
    unit_number units[24];
    float probabilities[24];
    uint32_t count = choose_experts(world, layer % world->fixture.layers, units);
    for (uint32_t i = 0; i < count; i++)
        probabilities[i] = below(&world->random, 3) ? (float)random_uniform(&world->random) : 1;
    store_prefetch(world->store, units, probabilities, count);
}

/* Gets the experts of a layer, either those that have arrived or in random order, until none is left. */
static bool use_experts(struct world *world, uint32_t layer)
{
    unit_number units[24];
    uint32_t left = choose_experts(world, layer, units);
    bool good = is_held(world, store_want(world->store, units, left, &test_error));
    if (good && below(&world->random, 2))
        prefetch(world, layer + 1 + below(&world->random, 3));
    while (good && left > 0) {
        size_t index = below(&world->random, left);
        struct store_view view;
        uint32_t slices = below(&world->random, 3);
        if (below(&world->random, 3) &&
            !is_held(world, store_wait_any(world->store, units, left, slices, &index, &test_error)))
            break;
        unit_number unit = units[index];
        hypura_status status = store_get(world->store, unit, &view, &test_error);
        good = is_held(world, status);
        if (good || status == HYPURA_ERROR_IO)
            units[index] = units[--left];
        if (!good)
            break;
        check_bytes(world, unit, &view);
        store_put(world->store, unit);
    }
    store_forget(world->store, units, left);
    return good && left == 0;
}

static bool run_pass(struct world *world)
{
    const struct fixture *fixture = &world->fixture;
    uint32_t layers = MAX(fixture->layers, 1u);
    bool good = true;
    for (uint32_t layer = 0; good && layer < layers; layer++) {
        for (unit_number i = fixture->tensors * layer / layers; good && i < fixture->tensors * (layer + 1) / layers;
             i++)
            good = below(&world->random, 20) == 0 || use_tensor(world, i);
        if (good && fixture->layers)
            good = use_experts(world, layer);
    }
    return good;
}

/* ---- between passes ---------------------------------------------------------------------------------------------- */

static void assert_nothing_is_left_over(struct world *world)
{
    struct store *store = world->store;
    uint64_t cached = 0, ring = 0, unused = 0;
    pthread_mutex_lock(store->mutex);
    for (unit_number i = 0; i < store->unit_count; i++) {
        const struct stored_unit *unit = &store->units[i];
        bool there = unit->stage == STAGE_READING || unit->stage == STAGE_READY;
        if (unit->wants || unit->holds || unit->granted || unit->failure || (unit->stage != STAGE_ABSENT && !there))
            fail_msg("seed %llu: unit %u is in stage %d, wanted %u times, held %u times, granted %d",
                     (unsigned long long)world->seed, i, unit->stage, unit->wants, unit->holds, unit->granted);
        if (unit->place == PLACE_CACHE && there) {
            const struct slot *slot = &store->cache.classes[unit->slot_class].slots[unit->slot];
            assert_int_equal(slot->unit, i);
            cached += footprint(&world->fixture, i);
            unused += unit->prefetched && unit->stage == STAGE_READY ? slot->transfer.bytes_read : 0;
        } else if (unit->place == PLACE_RING && there) {
            ring += store->ring.entries[unit->item].bytes;
        }
    }
    assert_int_equal(store->cache.used, cached);
    assert_int_equal(store->cache.unused, unused);
    assert_int_equal(store->ring.used, ring);
    for (uint32_t c = 0; c < store->cache.class_count; c++) {
        const struct slot_class *slot_class = &store->cache.classes[c];
        uint32_t online = 0, used = 0, free = 0, offline = 0;
        for (uint32_t s = 0; s < slot_class->size->unit_count; s++) {
            online += slot_class->slots[s].online;
            used += slot_class->slots[s].unit != NO_UNIT;
        }
        for (uint32_t s = slot_class->free; s != NO_SLOT; s = slot_class->slots[s].next)
            free++;
        for (uint32_t s = slot_class->offline; s != NO_SLOT; s = slot_class->slots[s].next)
            offline++;
        assert_int_equal(online, slot_class->online);
        assert_int_equal(online, used + free);
        assert_int_equal(online + offline, slot_class->size->unit_count);
        assert_int_equal(slot_class->granted, 0);
        assert_int_equal(slot_class->waiting.first, NO_UNIT);
    }
    assert_int_equal(store->ring.waiting.first, NO_UNIT);
    pthread_mutex_unlock(store->mutex);
}

static void *meddle(void *argument)
{
    struct world *world = argument;
    struct random random;
    hypura_error error;
    struct store_statistics statistics;
    random_seed(&random, world->seed + 2);
    store_statistics(world->store, &statistics);
    uint64_t least = statistics.pool_least_bytes;
    while (!atomic_load(&world->stop)) {
        usleep(below(&random, 1500));
        uint32_t what = below(&random, 4);
        if (what == 0 && world->resizes)
            store_resize(world->store, (int64_t)(least / 2 + below(&random, 2 * world->pool)), &error);
        else if (what == 1 && world->cancels) {
            store_cancel(world->store, true);
            usleep(below(&random, 500));
            store_cancel(world->store, false);
        } else if (what == 2)
            store_statistics(world->store, &statistics);
        else
            store_unit_state(world->store, below(&random, world->fixture.count));
    }
    return NULL;
}

static void open_world(struct world *world)
{
    static const char *const policies[] = {NULL, "lru", "lfu", "s3fifo", "cycle"};
    struct random *random = &world->random;
    struct store_options options = {.reader = below(random, 2) ? STORE_READER_AUTO : STORE_READER_THREADS,
                                    .block_bytes = 4096u << below(random, 6),
                                    .depth = 1 + below(random, 12),
                                    .cache_policy = policies[below(random, COUNT_OF(policies))],
                                    .prefetching = (enum store_prefetching)below(random, 3),
                                    .fill = below(random, 2)};
    const struct fixture *fixture = &world->fixture;
    uint64_t ring = 2 * fixture->largest_tensor + 8192 + below(random, fixture->tensor_footprint);
    uint64_t cache = fixture->layers ? fixture->largest_expert + below(random, fixture->expert_footprint) : 0;
    world->pool = ring + cache;
    unsigned trouble = world->trouble;
    world->trouble = 0;
    const struct io_fault fault = {misbehave, world};
    world->store = open_store(fixture, ring, cache, &options, &fault);
    pthread_mutex_lock(world->store->mutex);
    world->trouble = trouble;
    pthread_mutex_unlock(world->store->mutex);
}

static void run_world(uint64_t seed)
{
    struct world world;
    make_world(&world, seed);
    open_world(&world);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, meddle, &world), 0);
    for (uint32_t i = 0; i < PASSES; i++) {
        store_begin(world.store);
        if (run_pass(&world))
            assert_ok(store_advance(world.store, &test_error));
        else
            store_abandon(world.store);
        assert_nothing_is_left_over(&world);
    }
    atomic_store(&world.stop, true);
    pthread_join(thread, NULL);
    store_close(world.store);
    fixture_free(&world.fixture);
}

static void nothing_is_lost_or_left_over(void **state)
{
    (void)state;
    const char *seconds = getenv("HYPURA_STRESS_SECONDS"), *first = getenv("HYPURA_STRESS_SEED");
    uint64_t seed = first ? strtoull(first, NULL, 10) : 1, start = clock_nanoseconds();
    for (uint64_t i = 0; seconds ? clock_seconds_since(start) < atof(seconds) : i < 12; i++) {
        if (seconds)
            print_message("# %llu\n", (unsigned long long)(seed + i));
        run_world(seed + i);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_lost_or_left_over),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
