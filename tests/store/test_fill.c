/* Filling reads experts into free slots of the cache between passes, and delays nothing else. */
#include "expert_world.h"

#define EXPERTS (4u * 16u)

#define MILLISECONDS 60000 /* longer than anything here takes */

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

/* Reads in flight complete, and no new ones begin. Reads that wait for the end of a pass stay unfinished. */
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
    assert_true(found.bytes_filled <= found.pool_bytes_used); /* less, as the last block ends with its file */
    assert_true(store_bytes_used(world.store) < found.bytes_filled);
    close_world(&world);
}

/* Filling stops when no slot is free, evicts nothing, and resumes when more slots are free. */
static void only_free_slots_are_filled(void **state)
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

/* Lent memory holds further experts, and is no part of the pool. */
static void lent_memory_is_filled_too(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, &shape);
    open_filling(&world, 20);
    const uint64_t pool = statistics(&world).pool_bytes;
    store_lend(world.store, 10 * world.largest);
    wait_until_cached(&world, 30);
    assert_ok(store_resize(world.store, (int64_t)(25 * world.largest), &test_error));
    wait_until_cached(&world, 35);
    assert_ok(store_resize(world.store, (int64_t)pool, &test_error));
    assert_int_equal(cached(&world), 30);
    assert_int_equal(statistics(&world).pool_bytes, pool);
    store_lend(world.store, 0);
    assert_int_equal(cached(&world), 20);
    get_and_check(world.store, &world.fixture, expert(3, 15));
    close_world(&world);
}

/* Units that are wanted during filling go first, then the units that come next in the pass. */
static void demands_go_before_filling(void **state)
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

/* An expert whose reading has begun waits for the end of a running pass. */
static void filling_pauses_during_a_pass(void **state)
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

/* A demand takes the slot of an expert whose reading waits, rather than that of one which is there. */
static void filling_gives_way_to_demands(void **state)
{
    (void)state;
    struct world world;
    make_world(&world, &shape);
    atomic_store(&world.sleep_microseconds, 20000);
    open_filling(&world, 20);
    const uint32_t slots = (uint32_t)(statistics(&world).pool_bytes / world.largest);
    for (int i = 0; i < MILLISECONDS && cached(&world) + 4 < slots; i++)
        usleep(1000);
    store_begin(world.store);
    assert_rests(&world);
    const uint32_t there = cached(&world);
    assert_true(there < slots);
    atomic_store(&world.sleep_microseconds, 0);
    for (uint32_t i = there; i < slots; i++)
        get_and_check(world.store, &world.fixture, expert(3, 15 - (i - there)));
    assert_int_equal(cached(&world), slots);
    close_world(&world);
}

/* The stores of a process share the drive, so filling of one waits for the work of another. */
static void filling_pauses_while_another_store_works(void **state)
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

static void filling_resumes_after_a_cancel(void **state)
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

/* Only some of the experts expected in the next pass can be prefetched before it begins. The others, which must wait,
 * must not keep free slots from being filled. */
static void waiting_prefetches_do_not_stop_filling(void **state)
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

static void filling_reads_small_blocks(void **state)
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

/* Experts whose reads failed are filled as well, once a demanded read has shown that the drive works. */
static void filling_resumes_when_the_drive_works_again(void **state)
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

/* This holds however often other reads from the drive succeed. */
static void retries_on_a_broken_drive_are_limited(void **state)
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
        cmocka_unit_test(only_free_slots_are_filled),
        cmocka_unit_test(lent_memory_is_filled_too),
        cmocka_unit_test(demands_go_before_filling),
        cmocka_unit_test(filling_pauses_during_a_pass),
        cmocka_unit_test(filling_gives_way_to_demands),
        cmocka_unit_test(filling_pauses_while_another_store_works),
        cmocka_unit_test(filling_resumes_after_a_cancel),
        cmocka_unit_test(waiting_prefetches_do_not_stop_filling),
        cmocka_unit_test(filling_reads_small_blocks),
        cmocka_unit_test(a_broken_drive_is_left_alone),
        cmocka_unit_test(filling_resumes_when_the_drive_works_again),
        cmocka_unit_test(retries_on_a_broken_drive_are_limited),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
