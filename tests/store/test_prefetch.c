/* Prefetches use only idle resources: they wait for demands, take no slot that was needed recently, and stop when they
 * do not pay. The experts used most in one run are in the cache at the start of the next. */
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

/* Stops holding reads back, and reads another expert so that the held reads continue. */
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
    /* Improbable experts and invalid arguments are ignored. */
    predict(&world, expert(2, 0), 0.01f);
    predict(&world, world.fixture.count, 1);
    predict(&world, 0, 1);
    assert_int_equal(statistics(&world).prefetches, 1);
    close_world(&world);
}

/* Certain experts are read at once, although another read is in flight and prefetching is off. They stay until their
 * layer has run. */
static void certain_experts_are_demanded(void **state)
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
    /* They evict at most half of the cache. Invalid arguments are ignored. */
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

static void a_late_prefetch_is_given_up(void **state)
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
    assert_ok(store_want(world.store, &wanted, 1, &test_error)); /* the layer of "wrong" wants another expert */
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

static void frequently_used_experts_stay(void **state)
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
    /* Prefetches may use a quarter of the slots. */
    const unit_number units[] = {expert(1, 0), expert(1, 1)};
    const float probabilities[] = {0.9f, 0.9f};
    store_prefetch(world.store, units, probabilities, 2);
    wait_until_cached(&world, expert(1, 0));
    assert_int_equal(statistics(&world).prefetches, 1);
    close_world(&world);
}

/* The one expert that every token of a prompt used is not evicted. */
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

/* A later offer for a layer replaces an earlier one, and nearer layers go first. */
static void the_last_offer_for_a_layer_counts(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 40, STORE_PREFETCH_ON, NULL);
    unit_number wanted = expert(0, 0);
    io_hold(world.store->io, true);
    assert_ok(store_want(world.store, &wanted, 1, &test_error)); /* while this is read, nothing is prefetched */
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
    for (int pass = 0; pass < 10; pass++) /* without misses, prefetches have no use */
        assert_ok(store_advance(world.store, &test_error));
    assert_false(store_wants_prefetch(world.store, 1));
    close_world(&world);
}

/* The mean time to read an expert so far, in seconds. */
static double read_seconds(struct world *world)
{
    struct io_counters counters;
    wait_until_idle(world->store);
    io_counters(world->store->io, &counters);
    uint64_t bytes = 0;
    for (size_t i = 0; i < COUNT_OF(counters.bytes); i++)
        bytes += counters.bytes[i];
    return (double)world->store->cache.sizes[0].stride * 1e-9 * (double)counters.busy_nanoseconds / (double)bytes;
}

/* If reading an expert takes as long as computing one layer, offers for distant layers can wait. */
static void prefetches_look_ahead_as_far_as_reads_take(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 64, STORE_PREFETCH_ON, NULL);
    for (uint32_t layer = 0; layer < 4; layer++) {
        get_and_check(world.store, &world.fixture, expert(layer, 0));
        usleep(5000);
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

/* A demand has to wait until a wrong prefetch in flight has ended. */
static void slow_drives_need_surer_prefetches(void **state)
{
    (void)state;
    assert_true(is_near(prefetch_least_probability(0, 0, 0), 0.4)); /* nothing was measured */
    assert_true(is_near(prefetch_least_probability(1e-3, 1e-3, 1e-3), 0.4));
    assert_true(is_near(prefetch_least_probability(1e-3, 1e-3, 5e-3), 0.4));
    assert_true(is_near(prefetch_least_probability(2e-3, 5e-3, 1e-3), 2.0 / 3));
    assert_true(is_near(prefetch_least_probability(10e-3, 30e-3, 1e-3), 18.0 / 19));
    /* Only part of a large expert is in flight when a demand comes. */
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
        world.store->prefetch.tick_seconds = 10 * seconds; /* per layer, mostly while the drive reads */
        world.store->prefetch.idle_seconds = seconds / 10;
        assert_int_equal(is_prefetched(&world, expert(1, 1), 0.8f), modes[i] == STORE_PREFETCH_ON);
        assert_true(is_prefetched(&world, expert(1, 2), 0.99f));
        world.store->prefetch.idle_seconds = 10 * seconds;
        assert_true(is_prefetched(&world, expert(1, 3), 0.5f));
        close_world(&world);
    }
}

/* The drive counts as idle while no demand is open. */
static void idle_time_per_layer_is_measured(void **state)
{
    (void)state;
    struct world world;
    double longest = 0;
    open_prefetching(&world, 64, STORE_PREFETCH_AUTO, NULL);
    atomic_store(&world.sleep_microseconds, 20000);
    for (uint32_t layer = 0; layer < 4; layer++) {
        uint64_t start = clock_nanoseconds();
        get_and_check(world.store, &world.fixture, expert(layer, 0)); /* each read takes 20 ms */
        usleep(5000);
        longest = fmax(longest, clock_seconds_since(start));
    }
    double idle = world.store->prefetch.idle_seconds;
    assert_true(idle >= 0.005 && idle <= longest - 0.019);
    close_world(&world);
}

static void expected_experts_stay_until_their_layer_has_run(void **state)
{
    (void)state;
    struct world world;
    open_prefetching(&world, 8, STORE_PREFETCH_ON, NULL);
    for (uint32_t pass = 0; pass < 10; pass++) {
        for (uint32_t i = 0; i < 7; i++)
            get_and_check(world.store, &world.fixture, expert(1, i));
        assert_ok(store_advance(world.store, &test_error));
    }
    get_and_check(world.store, &world.fixture, expert(3, 9)); /* used only once: the next victim */
    assert_ok(store_advance(world.store, &test_error));
    predict(&world, expert(3, 9), 0.9f);
    get_and_check(world.store, &world.fixture, expert(1, 10));
    assert_true(is_cached(&world, expert(3, 9)));
    get_and_check(world.store, &world.fixture, expert(3, 10)); /* its layer runs without it */
    get_and_check(world.store, &world.fixture, expert(3, 11));
    get_and_check(world.store, &world.fixture, expert(3, 12));
    assert_false(is_cached(&world, expert(3, 9)));
    close_world(&world);
}

/* Runs passes whose prefetches are all wrong or all right. Returns how many of them prefetched. */
static unsigned prefetched_passes(struct world *world, bool wrong)
{
    unsigned with_prefetches = 0;
    for (uint32_t pass = 0; pass < 150; pass++) {
        bool prefetching = statistics(world).prefetching;
        with_prefetches += pass >= 50 && prefetching;
        unit_number next = expert(1, (pass * 3 + 1) % 16), other = expert(1, (pass * 3 + 9) % 16);
        get_and_check(world->store, &world->fixture, expert(0, (pass * 3) % 16));
        world->store->prefetch.idle_seconds = 1; /* independent of this machine's drive */
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

/* The share of uses that a cache with this share of the experts serves, according to the file. */
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

static void the_next_run_starts_with_the_most_used_experts(void **state)
{
    (void)state;
    char path[300];
    snprintf(path, sizeof path, "%s/a/b/usage", test_folder);
    struct world world;
    struct stat info;
    open_prefetching(&world, 10, STORE_PREFETCH_AUTO, path);
    run_passes(&world, 5);
    close_world(&world);
    assert_int_not_equal(stat(path, &info), 0); /* the run was too short for statistics */

    open_prefetching(&world, 10, STORE_PREFETCH_AUTO, path);
    run_passes(&world, 100);
    close_world(&world);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal(info.st_size, USAGE_BYTES);

    /* The cache kept nearly all favourites and nothing else, so half of the uses hit with 10 slots of 64. More slots do
     * not help, since the other experts are used in turn. */
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

    /* The statistics are saved even if the program ends while the drive is busy. */
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

    /* A file of another version, or of another shape, is ignored. */
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

/* A long batch uses nearly every expert, in no known order. */
static void a_long_batch_gives_no_distances(void **state)
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
    /* The batch filled the cache, but the expert that every earlier pass used stayed. */
    assert_float_equal(distances->wants, 2, 0);
    assert_float_equal(distances->missed, 0, 0);
    assert_float_equal(distances->shares / distances->wants, 10 / 64.0, 0.05);
    close_world(&world);
}

/* ---- other sizes ------------------------------------------------------------------------------------------------- */

#define TRACE_PASSES 600u
#define TOPIC 6u /* experts that a text uses during one topic */

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
    assert_ok(replay_run(&result, &texts,
                         &(struct replay_how){.policy = "cycle", .cache_bytes = slots, .warm_passes = 100},
                         &test_error));
    return (double)result.hits / (double)(result.hits + result.misses);
}

/* Layers of nearly the same size, so that all slots are nearly equal. */
static const struct fixture_shape small = {
    .tensors = 2, .layers = 4, .experts = 16, .tensor_bytes = 5000, .slice_bytes = 1000, .pin_tensors = true};

static void one_run_predicts_the_hits_at_other_sizes(void **state)
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
    /* An exponent that fits the run's own size of cache would not fit the other sizes. */
    assert_true(fabs(pow(0.25, power) - replayed(16)) > 0.1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_right_prefetch_is_a_hit),
        cmocka_unit_test(certain_experts_are_demanded),
        cmocka_unit_test(a_late_prefetch_is_given_up),
        cmocka_unit_test(frequently_used_experts_stay),
        cmocka_unit_test(tokens_of_a_prompt_count_one_by_one),
        cmocka_unit_test(the_last_offer_for_a_layer_counts),
        cmocka_unit_test(prefetches_look_ahead_as_far_as_reads_take),
        cmocka_unit_test(slow_drives_need_surer_prefetches),
        cmocka_unit_test(likely_experts_of_a_slow_drive_wait_until_they_are_needed),
        cmocka_unit_test(idle_time_per_layer_is_measured),
        cmocka_unit_test(expected_experts_stay_until_their_layer_has_run),
        cmocka_unit_test(prefetches_that_do_not_pay_stop),
        cmocka_unit_test_setup_teardown(the_next_run_starts_with_the_most_used_experts, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(a_long_batch_gives_no_distances, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(one_run_predicts_the_hits_at_other_sizes, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
