/* Filling: free slots of the expert cache get what is not there, between passes, and that costs nobody anything. */
#include "expert_world.h"

#define EXPERTS (4u * 16u)

#define MILLISECONDS 60000 /* that nothing here takes */

static void open_filling(struct world *world, uint64_t slots)
{
    open_world(world, slots, &(struct store_options){.block_bytes = 1 << 20, .depth = 8, .fill = true});
}

static uint32_t cached(struct world *world)
{
    uint32_t count = 0;
    for (uint32_t i = 0; i < EXPERTS; i++)
        count += is_cached(world, shape.tensors + i);
    return count;
}

static void wait_until_cached(struct world *world, uint32_t count)
{
    for (int i = 0; i < MILLISECONDS && cached(world) < count; i++)
        usleep(1000);
    assert_int_equal(cached(world), count);
}

static uint32_t reads_when_idle(struct world *world)
{
    for (bool busy = true; busy;) {
        usleep(1000);
        pthread_mutex_lock(world->store->mutex);
        busy = io_unfinished(world->store->io, PRIORITY_FILL) > 0;
        pthread_mutex_unlock(world->store->mutex);
    }
    return atomic_load(&world->reads);
}

/* What is in flight comes back, after it nothing begins. What waits for the end of a pass is not finished either. */
static void assert_rests(struct world *world)
{
    uint32_t reads = atomic_load(&world->reads);
    for (uint32_t i = 0, still = 0; i < MILLISECONDS && still < 100; i++) {
        usleep(1000);
        uint32_t now = atomic_load(&world->reads);
        still = now == reads ? still + 1 : 0;
        reads = now;
    }
    usleep(30000);
    assert_int_equal(atomic_load(&world->reads), reads);
    assert_true(cached(world) < EXPERTS);
}

static void a_cache_with_room_for_all_gets_all(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, &shape);
    open_filling(&world, EXPERTS);
    wait_until_cached(&world, EXPERTS);
    for (uint32_t i = 0; i < EXPERTS; i++)
        get_and_check(world.store, &world.fixture, shape.tensors + i);
    struct store_statistics found = statistics(&world);
    assert_int_equal(found.expert_hits, EXPERTS);
    assert_int_equal(found.expert_misses, 0);
    assert_int_equal(found.prefetches, 0);
    assert_int_equal(found.bytes_demanded, 0);
    assert_int_equal(found.bytes_filled, found.bytes_read);
    assert_true(found.bytes_filled <= found.pool_bytes_used); /* the last block ends with its file */
    assert_true(store_bytes_used(world.store) < found.bytes_filled);
    close_world(&world);
}

/* It stops where there is no free slot, puts nothing out, and goes on when there are more. */
static void it_fills_what_is_free(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, &shape);
    open_filling(&world, 20);
    uint32_t slots = (uint32_t)(statistics(&world).pool_bytes / world.largest);
    for (int i = 0; i < MILLISECONDS && cached(&world) < slots; i++)
        usleep(1000);
    uint32_t reads = reads_when_idle(&world), there = cached(&world);
    assert_true(there >= slots && there < EXPERTS);
    get_and_check(world.store, &world.fixture, expert(3, 15));
    assert_int_equal(reads_when_idle(&world), reads + 3);
    assert_int_equal(cached(&world), there);
    assert_ok(store_resize(world.store, (int64_t)(EXPERTS * world.largest), &test_error));
    wait_until_cached(&world, EXPERTS);
    assert_ok(store_resize(world.store, (int64_t)(20 * world.largest), &test_error));
    assert_int_equal(cached(&world), there);
    close_world(&world);
}

/* What is wanted while it fills goes first, and then what comes next in the pass. */
static void it_lets_demands_pass(void **state)
{
    (void)state;
    struct fixture_shape many = shape;
    many.experts = 200;
    many.slice_bytes = 3000;
    struct world world;
    make_world(&world, &many);
    atomic_store(&world.sleep_microseconds, 1000);
    open_filling(&world, 4 * 200);
    unit_number wanted = many.tensors + 200 + 9, later = wanted + 200, there = 0;
    get_and_check(world.store, &world.fixture, wanted);
    for (int i = 0; i < MILLISECONDS && !there; i++) {
        usleep(1000);
        there = is_cached(&world, later);
    }
    assert_int_equal(store_unit_state(world.store, wanted + 1), UNIT_ON_STORAGE);
    close_world(&world);
}

/* While a pass runs, what was begun waits for its end. */
static void it_rests_while_a_pass_runs(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, &shape);
    atomic_store(&world.sleep_microseconds, 2000);
    open_filling(&world, EXPERTS);
    store_begin(world.store);
    assert_rests(&world);
    get_and_check(world.store, &world.fixture, expert(3, 15));
    assert_ok(store_advance(world.store, &test_error));
    atomic_store(&world.sleep_microseconds, 0);
    wait_until_cached(&world, EXPERTS);
    store_begin(world.store);
    store_abandon(world.store);
    close_world(&world);
}

/* The stores of a process share the drive. */
static void it_rests_while_another_store_works(void **state)
{
    (void)state;
    struct world world, other;
    make_world(&world, &shape);
    make_world(&other, &shape);
    open_filling(&other, EXPERTS);
    store_begin(other.store);
    open_filling(&world, EXPERTS);
    assert_rests(&world);
    assert_int_equal(cached(&world), 0);
    get_and_check(world.store, &world.fixture, expert(3, 15));
    assert_ok(store_advance(other.store, &test_error));
    wait_until_cached(&world, EXPERTS);
    wait_until_cached(&other, EXPERTS);
    store_begin(other.store);
    close_world(&other);
    assert_ok(store_resize(world.store, (int64_t)(20 * world.largest), &test_error));
    assert_ok(store_resize(world.store, (int64_t)(EXPERTS * world.largest), &test_error));
    wait_until_cached(&world, EXPERTS);
    close_world(&world);
}

static void it_goes_on_when_a_cancel_is_over(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, &shape);
    atomic_store(&world.sleep_microseconds, 2000);
    open_filling(&world, EXPERTS);
    store_begin(world.store);
    store_cancel(world.store, true);
    store_abandon(world.store);
    assert_rests(&world);
    atomic_store(&world.sleep_microseconds, 0);
    store_cancel(world.store, false);
    wait_until_cached(&world, EXPERTS);
    close_world(&world);
}

/* Some of what is expected of the next pass is read before it begins, the rest may not be: it has room all the same. */
static void prefetches_that_wait_hold_nothing_up(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, &shape);
    atomic_store(&world.sleep_microseconds, 2000);
    open_filling(&world, EXPERTS);
    store_begin(world.store);
    for (uint32_t layer = 1; layer < shape.layers; layer++) {
        unit_number units[16];
        float probabilities[16];
        for (uint32_t i = 0; i < shape.experts; i++) {
            units[i] = expert(layer, i);
            probabilities[i] = 0.9f;
        }
        store_prefetch(world.store, units, probabilities, shape.experts);
    }
    assert_ok(store_advance(world.store, &test_error));
    atomic_store(&world.sleep_microseconds, 0);
    wait_until_cached(&world, EXPERTS);
    close_world(&world);
}

static void its_blocks_are_small(void **state)
{
    (void)state;
    struct fixture_shape large = shape;
    large.layers = 1;
    large.slice_bytes = 700000;
    struct world world;
    make_world(&world, &large);
    open_filling(&world, 16);
    for (int i = 0; i < MILLISECONDS && statistics(&world).bytes_filled < 16 * 3 * 700000; i++)
        usleep(1000);
    assert_true(statistics(&world).bytes_filled >= 16 * 3 * 700000);
    assert_true(atomic_load(&world.largest_read) <= 256 << 10);
    close_world(&world);
}

static void a_broken_drive_is_left_alone(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, &shape);
    atomic_store(&world.sleep_microseconds, 1000);
    open_filling(&world, EXPERTS);
    atomic_store(&world.broken, true);
    uint32_t reads = reads_when_idle(&world);
    usleep(50000);
    assert_int_equal(atomic_load(&world.reads), reads);
    assert_true(cached(&world) < EXPERTS);
    atomic_store(&world.broken, false);
    get_and_check(world.store, &world.fixture, expert(3, 15));
    close_world(&world);
}

/* What failed comes too, once a read that was needed has shown that the drive works. */
static void it_goes_on_when_the_drive_does(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, &shape);
    atomic_store(&world.sleep_microseconds, 1000);
    atomic_store(&world.broken, true);
    open_filling(&world, EXPERTS);
    assert_rests(&world);
    atomic_store(&world.broken, false);
    atomic_store(&world.sleep_microseconds, 0);
    assert_rests(&world);
    assert_int_equal(cached(&world), 0);
    get_and_check(world.store, &world.fixture, expert(3, 15));
    wait_until_cached(&world, EXPERTS);
    close_world(&world);
}

/* However often something else can be read of it. */
static void a_broken_drive_is_not_asked_without_end(void **state)
{
    (void)state;
    struct world world;
    uint32_t tries = 1;
    make_world(&world, &shape);
    atomic_store(&world.broken, true);
    open_filling(&world, EXPERTS);
    for (uint32_t i = 0; i < shape.experts; i++) {
        uint32_t reads = reads_when_idle(&world);
        atomic_store(&world.spared, expert(0, i));
        get_and_check(world.store, &world.fixture, expert(0, i));
        tries += reads_when_idle(&world) > reads + 3;
    }
    assert_in_range(tries, 2, 8);
    assert_int_equal(cached(&world), shape.experts);
    close_world(&world);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_cache_with_room_for_all_gets_all),
        cmocka_unit_test(it_fills_what_is_free),
        cmocka_unit_test(it_lets_demands_pass),
        cmocka_unit_test(it_rests_while_a_pass_runs),
        cmocka_unit_test(it_rests_while_another_store_works),
        cmocka_unit_test(it_goes_on_when_a_cancel_is_over),
        cmocka_unit_test(prefetches_that_wait_hold_nothing_up),
        cmocka_unit_test(its_blocks_are_small),
        cmocka_unit_test(a_broken_drive_is_left_alone),
        cmocka_unit_test(it_goes_on_when_the_drive_does),
        cmocka_unit_test(a_broken_drive_is_not_asked_without_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
