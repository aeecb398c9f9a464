/* Prefetches cost only what is idle: they wait for demands, take no slot that was needed lately, and stop when they do
 * not pay. And what was used most in one run is there at the start of the next. */
#include "expert_world.h"
#include "folder.h"

#include "tools/replay.h"

#include <math.h>
#include <sys/stat.h>

static void open_prefetching(struct world *world, uint64_t slots, enum store_prefetching mode, const char *usage)
{
    make_world(world, &shape);
    open_world(world, slots,
               &(struct store_options){.block_bytes = 16384, .depth = 8, .prefetching = mode, .usage_path = usage});
}

static void predict(struct world *world, unit_number unit, float probability)
{
    store_prefetch(world->store, &unit, &probability, 1);
}

static void wait_until_cached(struct world *world, unit_number unit)
{
    wait_until_idle(world->store);
    assert_true(is_cached(world, unit));
}

/* What was held back goes on with the next read: of another expert. */
static void let_go(struct world *world, unit_number other)
{
    io_hold(world->store->io, false);
    get_and_check(world->store, &world->fixture, other);
}

static void a_right_prefetch_is_a_hit(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 20, STORE_PREFETCH_ON, NULL);
    unit_number right = expert(1, 3);
    get_and_check(world.store, &world.fixture, expert(0, 0));
    predict(&world, right, 0.8f);
    wait_until_cached(&world, right);
    get_and_check(world.store, &world.fixture, right);
    struct store_statistics found = statistics(&world);
    assert_int_equal(found.prefetches, 1);
    assert_int_equal(found.prefetches_used, 1);
    assert_int_equal(found.expert_hits, 1);
    assert_int_equal(found.expert_misses, 1);
    assert_int_equal(found.bytes_prefetched, footprint(&world.fixture, right));
    assert_int_equal(found.bytes_wasted, 0);
    assert_int_equal(found.bytes_read, found.bytes_demanded + found.bytes_prefetched);
    /* What is hardly probable is not read, nor is what the arguments get wrong. */
    predict(&world, expert(2, 0), 0.01f);
    predict(&world, world.fixture.count, 1);
    predict(&world, 0, 1);
    assert_int_equal(statistics(&world).prefetches, 1);
    close_world(&world);
}

/* Read at once, though another read is under way and nothing is prefetched; kept until its layer was there. */
static void what_is_certain_is_a_demand(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 8, STORE_PREFETCH_OFF, NULL);
    const unit_number known[] = {expert(2, 3), expert(2, 4)};
    for (uint32_t i = 0; i < 8; i++)
        get_and_check(world.store, &world.fixture, expert(3, i));
    assert_ok(store_advance(world.store, &test_error));
    uint64_t before = statistics(&world).bytes_demanded;
    store_demand(world.store, known, 2);
    assert_true(store_unit_state(world.store, known[0]) != UNIT_ON_STORAGE);
    wait_until_cached(&world, known[0]);
    wait_until_cached(&world, known[1]);
    struct store_statistics found = statistics(&world);
    assert_int_equal(found.bytes_prefetched, 0);
    assert_int_equal(found.bytes_demanded - before,
                     footprint(&world.fixture, known[0]) + footprint(&world.fixture, known[1]));
    for (uint32_t i = 0; i < 16; i++)
        get_and_check(world.store, &world.fixture, expert(1, i));
    assert_true(is_cached(&world, known[0]) && is_cached(&world, known[1]));
    get_and_check(world.store, &world.fixture, known[0]);
    get_and_check(world.store, &world.fixture, known[1]);
    assert_int_equal(statistics(&world).expert_hits, 2);
    /* Of what others hold no more than half goes for it; what the arguments get wrong is passed over. */
    unit_number many[16] = {world.fixture.count};
    for (uint32_t i = 1; i < 16; i++)
        many[i] = expert(0, i);
    assert_ok(store_advance(world.store, &test_error));
    store_demand(world.store, many, 16);
    wait_until_idle(world.store);
    uint32_t taken = 0;
    for (uint32_t i = 1; i < 16; i++)
        taken += is_cached(&world, many[i]);
    assert_int_equal(taken, 4);
    close_world(&world);
}

static void a_prefetch_that_came_too_late_is_given_up(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 20, STORE_PREFETCH_ON, NULL);
    unit_number wrong = expert(1, 3), wanted = expert(1, 5);
    get_and_check(world.store, &world.fixture, expert(0, 0));
    atomic_store(&world.stop_after_one, true);
    predict(&world, wrong, 0.8f);
    while (statistics(&world).bytes_prefetched == 0)
        usleep(1000);
    assert_ok(store_want(world.store, &wanted, 1, &test_error)); /* its layer wants another one */
    let_go(&world, expert(0, 1));
    get_and_check(world.store, &world.fixture, wanted);
    wait_until_idle(world.store);
    assert_int_equal(store_unit_state(world.store, wrong), UNIT_ON_STORAGE);
    struct store_statistics found = statistics(&world);
    assert_int_equal(found.prefetches_used, 0);
    assert_true(found.bytes_prefetched > 0 && found.bytes_prefetched < footprint(&world.fixture, wrong));
    assert_int_equal(found.bytes_wasted, found.bytes_prefetched);
    close_world(&world);
}

static void what_is_needed_often_stays(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 4, STORE_PREFETCH_ON, NULL);
    for (uint32_t pass = 0; pass < 100; pass++) {
        for (uint32_t i = 0; i < 4; i++)
            get_and_check(world.store, &world.fixture, expert(0, i));
        assert_ok(store_advance(world.store, &test_error));
    }
    predict(&world, expert(1, 0), 0.5f);
    assert_int_equal(statistics(&world).prefetches, 0);
    /* Prefetches get a quarter of the slots. */
    const unit_number units[] = {expert(1, 0), expert(1, 1)};
    const float probabilities[] = {0.9f, 0.9f};
    store_prefetch(world.store, units, probabilities, 2);
    wait_until_cached(&world, expert(1, 0));
    assert_int_equal(statistics(&world).prefetches, 1);
    close_world(&world);
}

/* Of a prompt's experts the one that every token used is no victim. */
static void tokens_of_a_prompt_count_one_by_one(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 20, STORE_PREFETCH_OFF, NULL);
    uint32_t experts[16][2];
    for (uint32_t token = 0; token < 16; token++) {
        experts[token][0] = 2;
        experts[token][1] = token == 2 ? 3 : token;
    }
    store_note_tokens(world.store, expert(0, 0), &experts[0][0], 16, 2);
    for (uint32_t i = 0; i < 16; i++)
        get_and_check(world.store, &world.fixture, expert(0, i));
    assert_ok(store_advance(world.store, &test_error));
    for (uint32_t i = 0; i < 16; i++)
        get_and_check(world.store, &world.fixture, expert(2, i));
    assert_true(is_cached(&world, expert(0, 2)));
    assert_false(is_cached(&world, expert(0, 4)) && is_cached(&world, expert(0, 5)));
    close_world(&world);
}

/* A later offer for the same layer takes the place of an earlier one, and nearer layers go first. */
static void the_last_offer_for_a_layer_counts(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 40, STORE_PREFETCH_ON, NULL);
    unit_number wanted = expert(0, 0);
    io_hold(world.store->io, true);
    assert_ok(store_want(world.store, &wanted, 1, &test_error)); /* nothing is prefetched while this is read */
    predict(&world, expert(2, 7), 0.9f);
    predict(&world, expert(1, 3), 0.9f);
    predict(&world, expert(1, 4), 0.9f);
    assert_false(store_wants_prefetch(world.store, 3));
    assert_true(store_wants_prefetch(world.store, 1));
    let_go(&world, expert(0, 1));
    get_and_check(world.store, &world.fixture, wanted);
    wait_until_cached(&world, expert(1, 4));
    wait_until_cached(&world, expert(2, 7));
    assert_int_equal(store_unit_state(world.store, expert(1, 3)), UNIT_ON_STORAGE);
    assert_int_equal(statistics(&world).prefetches, 2);
    assert_true(store_wants_prefetch(world.store, 3));
    for (int pass = 0; pass < 10; pass++) /* without a miss there is nothing to prefetch for */
        assert_ok(store_advance(world.store, &test_error));
    assert_false(store_wants_prefetch(world.store, 1));
    close_world(&world);
}

/* Seconds that an expert has taken to read so far. */
static double read_seconds(struct world *world)
{
    struct io_counters counters;
    wait_until_idle(world->store);
    io_counters(world->store->io, &counters);
    uint64_t bytes = 0;
    for (size_t i = 0; i < COUNT_OF(counters.bytes); i++)
        bytes += counters.bytes[i];
    return (double)world->store->cache.classes[0].stride * 1e-9 * (double)counters.busy_nanoseconds / (double)bytes;
}

/* Where an expert is read while one layer computes, an offer for a layer far away can wait. */
static void prefetches_look_as_far_as_reads_take(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 64, STORE_PREFETCH_ON, NULL);
    for (uint32_t layer = 0; layer < 4; layer++) {
        get_and_check(world.store, &world.fixture, expert(layer, 0));
        usleep(5000); /* at least */
    }
    assert_true(world.store->prefetch.tick_seconds >= 0.005);
    world.store->prefetch.tick_seconds = 0.99 * read_seconds(&world);
    assert_true(store_wants_prefetch(world.store, 4));
    assert_false(store_wants_prefetch(world.store, 5));
    world.store->prefetch.tick_seconds /= 3;
    assert_true(store_wants_prefetch(world.store, 8));
    assert_false(store_wants_prefetch(world.store, 9));
    close_world(&world);
}

static bool is_near(float value, double expected)
{
    return fabs((double)value - expected) < 1e-3;
}

/* What is wrong keeps what is needed waiting for the rest of it. */
static void the_slower_the_drive_the_surer_a_prefetch_must_be(void **state)
{
    (void)state;
    assert_true(is_near(prefetch_least_probability(0, 0, 0), 0.4)); /* nothing is known */
    assert_true(is_near(prefetch_least_probability(1e-3, 1e-3, 1e-3), 0.4));
    assert_true(is_near(prefetch_least_probability(1e-3, 1e-3, 5e-3), 0.4));
    assert_true(is_near(prefetch_least_probability(2e-3, 5e-3, 1e-3), 2.0 / 3));
    assert_true(is_near(prefetch_least_probability(10e-3, 30e-3, 1e-3), 18.0 / 19));
    /* Of large experts only a part is in flight when something else is needed. */
    assert_true(is_near(prefetch_least_probability(50e-3, 2e-3, 4e-3), 0.5));
    /* A drive that is never idle. */
    assert_true(is_near(prefetch_least_probability(1e-3, 1e-3, 0), 1));
}

static bool is_prefetched(struct world *world, unit_number unit, float probability)
{
    uint64_t before = statistics(world).prefetches;
    predict(world, unit, probability);
    wait_until_idle(world->store);
    return statistics(world).prefetches > before;
}

static void likely_experts_of_a_slow_drive_wait_until_they_are_needed(void **state)
{
    (void)state;
    const enum store_prefetching modes[] = {STORE_PREFETCH_AUTO, STORE_PREFETCH_ON};
    for (size_t i = 0; i < COUNT_OF(modes); i++) {
        struct world world;
        open_prefetching(&world, 64, modes[i], NULL);
        get_and_check(world.store, &world.fixture, expert(0, 0));
        double seconds = read_seconds(&world);
        world.store->prefetch.tick_seconds = 10 * seconds; /* that one layer computes, mostly while the drive reads */
        world.store->prefetch.idle_seconds = seconds / 10;
        assert_int_equal(is_prefetched(&world, expert(1, 1), 0.8f), modes[i] == STORE_PREFETCH_ON);
        assert_true(is_prefetched(&world, expert(1, 2), 0.99f));
        world.store->prefetch.idle_seconds = 10 * seconds;
        assert_true(is_prefetched(&world, expert(1, 3), 0.5f));
        close_world(&world);
    }
}

/* The drive is idle while nothing is wanted of it. */
static void how_long_a_layer_leaves_the_drive_idle_is_measured(void **state)
{
    (void)state;
    struct world world;
    double longest = 0;
    open_prefetching(&world, 64, STORE_PREFETCH_AUTO, NULL);
    atomic_store(&world.sleep_microseconds, 20000);
    for (uint32_t layer = 0; layer < 4; layer++) {
        uint64_t start = clock_nanoseconds();
        get_and_check(world.store, &world.fixture, expert(layer, 0)); /* its reads take 20 ms each */
        usleep(5000);
        longest = fmax(longest, clock_seconds_since(start));
    }
    double idle = world.store->prefetch.idle_seconds;
    assert_true(idle >= 0.005 && idle <= longest - 0.019);
    close_world(&world);
}

static void what_is_expected_stays_until_its_layer_was_there(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 8, STORE_PREFETCH_ON, NULL);
    for (uint32_t pass = 0; pass < 10; pass++) {
        for (uint32_t i = 0; i < 7; i++)
            get_and_check(world.store, &world.fixture, expert(1, i));
        assert_ok(store_advance(world.store, &test_error));
    }
    get_and_check(world.store, &world.fixture, expert(3, 9)); /* used once: the next to go */
    assert_ok(store_advance(world.store, &test_error));
    predict(&world, expert(3, 9), 0.9f);
    get_and_check(world.store, &world.fixture, expert(1, 10));
    assert_true(is_cached(&world, expert(3, 9)));
    get_and_check(world.store, &world.fixture, expert(3, 10)); /* its layer: it was not wanted */
    get_and_check(world.store, &world.fixture, expert(3, 11));
    get_and_check(world.store, &world.fixture, expert(3, 12));
    assert_false(is_cached(&world, expert(3, 9)));
    close_world(&world);
}

/* Passes whose prefetches are all wrong, or right. */
static unsigned prefetched_passes(struct world *world, bool wrong)
{
    unsigned with_prefetches = 0;
    for (uint32_t pass = 0; pass < 150; pass++) {
        bool prefetching = statistics(world).prefetching;
        with_prefetches += pass >= 50 && prefetching;
        unit_number next = expert(1, (pass * 3 + 1) % 16), other = expert(1, (pass * 3 + 9) % 16);
        get_and_check(world->store, &world->fixture, expert(0, (pass * 3) % 16));
        world->store->prefetch.idle_seconds = 1; /* however long reads take here */
        predict(world, wrong ? other : next, 0.9f);
        if (prefetching)
            wait_until_cached(world, wrong ? other : next);
        get_and_check(world->store, &world->fixture, next);
        assert_ok(store_advance(world->store, &test_error));
    }
    return with_prefetches;
}

static void prefetches_that_do_not_pay_stop(void **state)
{
    (void)state;
    for (int wrong = 0; wrong < 2; wrong++) {
        struct world world;
        open_prefetching(&world, 4, STORE_PREFETCH_AUTO, NULL);
        unsigned with_prefetches = prefetched_passes(&world, wrong);
        assert_true(wrong ? with_prefetches < 30 : with_prefetches > 90);
        close_world(&world);
    }
    struct world world;
    open_prefetching(&world, 64, STORE_PREFETCH_OFF, NULL);
    assert_int_equal(prefetched_passes(&world, false), 0);
    assert_int_equal(statistics(&world).prefetches, 0);
    assert_false(store_wants_prefetch(world.store, 1));
    close_world(&world);
}

/* ---- from run to run --------------------------------------------------------------------------------------------- */

static void run_passes(struct world *world, uint32_t passes)
{
    for (uint32_t pass = 0; pass < passes; pass++) {
        for (uint32_t layer = 0; layer < 4; layer++) {
            get_and_check(world->store, &world->fixture, expert(layer, 2)); /* a favourite */
            get_and_check(world->store, &world->fixture, expert(layer, (pass * 7 + layer) % 16));
        }
        assert_ok(store_advance(world->store, &test_error));
    }
}

#define CURVE_AT 24
#define USAGE_BYTES (CURVE_AT + 2 * (PLAN_CURVE_POINTS + 64))

/* Of experts' uses those that a cache of this share serves. */
static double saved_hits(const char *path, double share)
{
    uint8_t bytes[CURVE_AT + 2 * PLAN_CURVE_POINTS];
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(bytes, sizeof bytes, 1, file), 1);
    fclose(file);
    const uint8_t *value = bytes + CURVE_AT + 2 * (size_t)(share * PLAN_CURVE_POINTS - 1);
    return (value[0] | value[1] << 8) / 65535.0;
}

static void nothing_is_known(const char *path)
{
    struct world world;
    open_prefetching(&world, 10, STORE_PREFETCH_AUTO, path);
    wait_until_idle(world.store);
    assert_int_equal(statistics(&world).prefetches, 0);
    run_passes(&world, 5);
    close_world(&world);
}

static void the_next_run_starts_with_what_was_used_most(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/a/b/usage", test_folder);
    struct world world;
    struct stat info;
    open_prefetching(&world, 10, STORE_PREFETCH_AUTO, path);
    run_passes(&world, 5);
    close_world(&world);
    assert_int_not_equal(stat(path, &info), 0); /* too short a run to say anything */

    open_prefetching(&world, 10, STORE_PREFETCH_AUTO, path);
    run_passes(&world, 100);
    close_world(&world);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, USAGE_BYTES);

    /* Nearly all favourites were kept, nothing else: half of the hits with 10 slots of 64, and no more with most of
     * them, since the others come in turn. */
    assert_float_equal(saved_hits(path, 10 / 64.0), 0.5, 0.05);
    assert_float_equal(saved_hits(path, 0.75), 0.5, 0.05);
    assert_float_equal(saved_hits(path, 1), 1, 0);

    open_prefetching(&world, 10, STORE_PREFETCH_AUTO, path);
    for (uint32_t layer = 0; layer < 4; layer++)
        wait_until_cached(&world, expert(layer, 2));
    wait_until_idle(world.store);
    for (uint32_t layer = 0; layer < 4; layer++)
        get_and_check(world.store, &world.fixture, expert(layer, 2));
    struct store_statistics found = statistics(&world);
    assert_int_equal(found.expert_hits, 4);
    assert_int_equal(found.prefetches, 10);
    assert_int_equal(found.prefetches_used, 4);
    close_world(&world);

    /* A program that ends while the drive is busy keeps it too. */
    open_prefetching(&world, 10, STORE_PREFETCH_OFF, path);
    run_passes(&world, 30);
    assert_int_equal(unlink(path), 0);
    wait_until_idle(world.store);
    io_hold(world.store->io, true);
    unit_number waiting = expert(3, 15);
    assert_ok(store_want(world.store, &waiting, 1, &test_error));
    store_leave(world.store);
    assert_int_equal(stat(path, &info), 0);
    io_hold(world.store->io, false);
    close_world(&world);

    /* A file of another version, or one that does not fit, is as none. */
    FILE *file = fopen(path, "rb+");
    assert_non_null(file);
    assert_int_equal(fseek(file, 8, SEEK_SET), 0);
    assert_int_equal(fputc(2, file), 2);
    fclose(file);
    nothing_is_known(path);
    assert_int_equal(truncate(path, 100), 0);
    nothing_is_known(path);
    open_prefetching(&world, 10, STORE_PREFETCH_AUTO, path);
    run_passes(&world, 30);
    close_world(&world);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, USAGE_BYTES);
}

/* It uses nearly everything, nobody knows in what order. */
static void a_long_batch_tells_no_distance(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/batch", test_folder);
    struct world world;
    open_prefetching(&world, 10, STORE_PREFETCH_OFF, path);
    const struct distances *distances = &world.store->usage.distances;
    const double known[] = {0, 1, 1, 1, 2};
    for (uint32_t pass = 0; pass < COUNT_OF(known); pass++) {
        for (uint32_t i = 0; pass == 2 && i < 48; i++)
            get_and_check(world.store, &world.fixture, expert(i / 16, i % 16));
        if (pass != 2)
            get_and_check(world.store, &world.fixture, expert(0, 0));
        assert_ok(store_advance(world.store, &test_error));
        assert_float_equal(distances->count, known[pass], 0);
    }
    /* The batch filled the cache; the expert, used in every pass before, stayed. */
    assert_float_equal(distances->wants, 2, 0);
    assert_float_equal(distances->missed, 0, 0);
    assert_float_equal(distances->shares / distances->wants, 10 / 64.0, 0.05);
    close_world(&world);
}

/* ---- other sizes ------------------------------------------------------------------------------------------------- */

#define TRACE_PASSES 600u
#define TOPIC 6u /* experts that a text uses while its topic lasts */

static uint16_t choices[TRACE_PASSES][4][2];
static struct trace_pass trace_passes[TRACE_PASSES];
static struct trace_layer trace_layers[4] = {{0, 1}, {1, 1}, {2, 1}, {3, 1}};
static const struct trace texts = {.shape = {"texts", 4, 16, 2, trace_layers},
                                   .pass_count = TRACE_PASSES,
                                   .passes = trace_passes,
                                   .tokens = TRACE_PASSES};

static void make_texts(void)
{
    struct random random;
    random_seed(&random, 3);
    for (uint32_t pass = 0; pass < TRACE_PASSES; pass++) {
        trace_passes[pass] = (struct trace_pass){1, &choices[pass][0][0]};
        for (uint32_t layer = 0; layer < 4; layer++) {
            uint32_t first = (pass / 50 * 5 + 3 * layer) % 16, chosen = (uint32_t)(random_next(&random) % TOPIC);
            uint32_t other = (chosen + 1 + (uint32_t)(random_next(&random) % (TOPIC - 1))) % TOPIC;
            choices[pass][layer][0] = (uint16_t)((first + chosen) % 16);
            choices[pass][layer][1] = (uint16_t)((first + other) % 16);
        }
    }
}

static double replayed(uint32_t slots)
{
    struct replay_result result;
    assert_ok(replay_run(&texts, "cycle", slots, 100, &result, &test_error));
    return (double)result.hits / (double)(result.hits + result.misses);
}

/* Layers of nearly one size, so that a slot is a slot. */
static const struct fixture_shape small = {
    .tensors = 2, .layers = 4, .experts = 16, .tensor_bytes = 5000, .slice_bytes = 1000, .pin_tensors = true};

static void one_run_tells_the_hits_of_other_sizes(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/texts", test_folder);
    make_texts();
    struct world world;
    make_world(&world, &small);
    open_world(&world, 32,
               &(struct store_options){
                   .block_bytes = 16384, .depth = 8, .usage_path = path, .prefetching = STORE_PREFETCH_OFF});
    for (uint32_t pass = 0; pass < TRACE_PASSES; pass++) {
        for (uint32_t layer = 0; layer < 4; layer++) {
            unit_number units[2] = {expert(layer, choices[pass][layer][0]), expert(layer, choices[pass][layer][1])};
            assert_ok(store_want(world.store, units, 2, &test_error));
            get_and_check(world.store, &world.fixture, units[0]);
            get_and_check(world.store, &world.fixture, units[1]);
        }
        assert_ok(store_advance(world.store, &test_error));
    }
    close_world(&world);
    double power = log(replayed(32)) / log(0.5);
    for (uint32_t i = 1; i <= 3; i++) {
        assert_float_equal(saved_hits(path, 0.25 * i), replayed(16 * i), 0.03);
    }
    /* One exponent that fits the run's own size does not fit the others. */
    assert_true(fabs(pow(0.25, power) - replayed(16)) > 0.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_prefetch_is_a_hit),
        cmocka_unit_test(what_is_certain_is_a_demand),
        cmocka_unit_test(a_prefetch_that_came_too_late_is_given_up),
        cmocka_unit_test(what_is_needed_often_stays),
        cmocka_unit_test(tokens_of_a_prompt_count_one_by_one),
        cmocka_unit_test(the_last_offer_for_a_layer_counts),
        cmocka_unit_test(prefetches_look_as_far_as_reads_take),
        cmocka_unit_test(the_slower_the_drive_the_surer_a_prefetch_must_be),
        cmocka_unit_test(likely_experts_of_a_slow_drive_wait_until_they_are_needed),
        cmocka_unit_test(how_long_a_layer_leaves_the_drive_idle_is_measured),
        cmocka_unit_test(what_is_expected_stays_until_its_layer_was_there),
        cmocka_unit_test(prefetches_that_do_not_pay_stop),
        cmocka_unit_test_setup_teardown(the_next_run_starts_with_what_was_used_most, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_long_batch_tells_no_distance, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(one_run_tells_the_hits_of_other_sizes, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
