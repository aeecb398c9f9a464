/* Predicted speeds follow from bytes and bandwidths, and a plan is never worse than the page cache. */
#include "test.h"

#include "fake_model.h"

#include <math.h>

static const uint32_t kv_position_bytes = 32 * 1024;

static struct plan_request make_request(uint64_t budget)
{
    return (struct plan_request){.budget = budget,
                                 .overhead = 30 * MIB,
                                 .code = 10 * MIB,
                                 .positions = 1024,
                                 .chunk = 64,
                                 .kv_type = TENSOR_F16,
                                 .working_set = {fake_kv, fake_scratch, &kv_position_bytes}};
}

static void assert_within(double value, double expected, double share)
{
    if (fabs(value - expected) > share * fabs(expected))
        fail_msg("%g is not within %g %% of %g", value, 100 * share, expected);
}

static hypura_status hit_rate(double *out, const struct plan_table *table, uint64_t cache_bytes, const uint64_t *uses)
{
    struct plan_request request = make_request(0);
    request.uses = uses;
    return plan_hit_rate(out, table, cache_bytes, &request, &test_error);
}

static struct plan *plan_for(struct fake *fake, const struct hardware *hardware, uint64_t budget, const uint64_t *uses)
{
    struct plan_request request = make_request(budget);
    request.uses = uses;
    struct plan *plan;
    assert_ok(plan_make_units(&plan, &fake->table, hardware, &request, &test_error));
    return plan;
}

static void a_streamed_dense_model_runs_at_the_speed_of_the_disk(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_dense);
    struct hardware hardware = fake_hardware();
    for (uint64_t gib = 6; gib < 36; gib += 5) {
        struct plan *plan = plan_for(&fake, &hardware, gib * GIB, NULL);
        assert_int_equal(plan->bound, BOUND_DISK);
        uint64_t streamed = 0;
        for (uint32_t i = 0; i < fake.table.count; i++)
            streamed += plan_streamed_footprint(&fake.units[i], plan->streams);
        assert_within(plan->predicted_bytes_per_token, (double)streamed, 0.001);
        assert_within(plan->predicted_tokens_per_second, 2e9 / (double)streamed, 0.01);
        plan_free(plan);
    }
    struct plan *plan = plan_for(&fake, &hardware, 60 * GIB, NULL);
    assert_int_equal(plan->bound, BOUND_COMPUTE);
    assert_within(plan->predicted_tokens_per_second, 1 / plan->predicted_compute_seconds, 0.001);
    /* Kernels as fast as the memory. */
    plan_free(plan);
    hardware.compute_bytes_per_second = hardware.memory_bytes_per_second;
    plan = plan_for(&fake, &hardware, 60 * GIB, NULL);
    assert_int_equal(plan->bound, BOUND_MEMORY);
    plan_free(plan);
}

/* A short sample may catch a burst of a rate-limited drive. */
static void a_lucky_sample_is_not_the_drives_speed(void **state)
{
    (void)state;
    static struct fake fakes[2];
    static const struct fake_shape *const shapes[] = {&fake_dense, &fake_experts};
    for (size_t m = 0; m < COUNT_OF(shapes); m++) {
        fake_build(&fakes[m], shapes[m]);
        struct hardware steady = fake_hardware();
        steady.storage.sample_count = 0;
        struct hardware lucky = steady;
        for (uint32_t block = 4096; block <= 4 << 20; block *= 4)
            for (uint32_t depth = 1; depth <= 64; depth *= 4)
                lucky.storage.samples[lucky.storage.sample_count++] = (struct storage_sample){
                    block, depth, steady.storage.direct_supported, false, 1.5 * steady.storage.bytes_per_second};
        struct plan *plan = plan_for(&fakes[m], &lucky, 8 * GIB, NULL);
        assert_true(plan->predicted_bytes_per_token > 0);
        assert_true(plan->predicted_tokens_per_second <=
                    1.02 * steady.storage.bytes_per_second / plan->predicted_bytes_per_token);
        plan_free(plan);
    }
}

/* Four layers, of which one feed forward streams: the drive reads ahead what the ring holds, and waits for the rest of
 * the other layers' time. */
static void pauses_longer_than_the_ring_cost_time(void **state)
{
    (void)state;
    static struct fake fake;
    static uint8_t streams[FAKE_PIECES];
    static const double rests[5] = {5e-4, 5e-4, 5e-4, 5e-4, 5e-4};
    struct fake_shape shape = fake_dense;
    shape.layers = 4;
    fake_build(&fake, &shape);
    fake_cut(&fake, 2 * MIB);
    memset(streams, 0, sizeof streams);
    double pinned = 25e-4; /* the rests */
    for (uint32_t i = 0; i < fake.table.count; i++) {
        const struct plan_unit *unit = &fake.units[i];
        bool all = unit->layer == 2 && unit->priority == PRIORITY_FEED_FORWARD;
        memset(streams + unit->cut.first, all, unit->cut.count);
        pinned += all || unit->priority >= PRIORITY_EXPERT ? 0 : unit->compute_seconds;
    }
    struct plan plan = {.streams = streams};
    for (plan.ring_bytes = 4 * MIB; plan.ring_bytes < 400 * MIB; plan.ring_bytes *= 2) {
        double filling = (double)plan.ring_bytes / 2e9;
        assert_within(plan_ring_idle(&fake.table, &plan, 2e9, rests), fmax(pinned - filling, 0), 1e-6);
    }
    assert_true(plan_ring_idle(&fake.table, &plan, 2e9, rests) <= 0);
    /* If every other piece streams, no pause is that long. */
    plan.ring_bytes = 4 * MIB;
    for (uint32_t i = 0; i < fake.table.piece_count; i++)
        streams[i] = i % 2;
    assert_true(plan_ring_idle(&fake.table, &plan, 2e9, rests) <= 0);
    memset(streams, 0, sizeof streams);
    assert_true(plan_ring_idle(&fake.table, &plan, 2e9, rests) <= 0);
}

static void experts_overlap_hits_with_misses_but_not_the_whole_token(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    for (uint64_t gib = 3; gib < 16; gib += 3) {
        struct plan *plan = plan_for(&fake, &hardware, gib * GIB, NULL);
        double reads = plan->predicted_bytes_per_token / 2e9, compute = plan->predicted_compute_seconds;
        double token = 1 / plan->predicted_tokens_per_second;
        assert_true(token >= fmax(reads, compute));
        assert_true(token <= reads + compute + 48 * 1e-4 + 1e-3);
        plan_free(plan);
    }
}

/* The drive is the limit in this layer. If its router foresaw all misses, longer tensors would cost nothing; if it
 * foresaw none, they would cost all of their time. */
static void most_misses_wait_for_their_router(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    const struct hardware hardware = fake_hardware();
    const uint32_t used = fake.table.experts_used;
    const double one = 1e-4, bytes = 8e6, tensors = 1e-3;
    const struct plan_layer_cost cost = {
        .expert_compute = one * fake.table.experts, .expert_bytes = bytes * fake.table.experts, .slices = 3};
    for (int i = 0; i <= 10; i++) {
        double miss = i / 10.0;
        double none = plan_layer_seconds(&cost, 0, &fake.table, used, &hardware.storage, miss);
        double some = plan_layer_seconds(&cost, tensors, &fake.table, used, &hardware.storage, miss);
        double compute = used * one, read = used * miss * bytes / hardware.storage.bytes_per_second;
        assert_true(none >= fmax(compute, read) * (1 - 1e-9) && none <= compute + 1.2 * read + 1e-4);
        assert_true(some - none > tensors / 2 && some - none < tensors * (1 + 1e-9));
        if (i == 0)
            assert_within(some, tensors + compute, 1e-9);
        if (i == 10)
            assert_true(some - none < 0.8 * tensors);
    }
}

/* While both work, the drive gives three quarters of its speed, and the cores keep four fifths of theirs. */
static void reading_and_computing_share_the_memory(void **state)
{
    (void)state;
    static struct fake fake;
    const struct fake_shape *shapes[] = {&fake_dense, &fake_experts};
    struct hardware apart = fake_hardware(), shared = fake_hardware();
    shared.storage.reading_beside = 0.75;
    shared.storage.computing_beside = 0.8;
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        fake_build(&fake, shapes[i]);
        for (uint64_t gib = 6; gib < 60; gib += 6) {
            struct plan *plan = plan_for(&fake, &shared, gib * GIB, NULL);
            struct plan *alone = plan_for(&fake, &apart, gib * GIB, NULL);
            double reads = (plan->predicted_bytes_per_token - (double)fake.table.embedding_row_bytes) / 2e9;
            double compute = plan->predicted_compute_seconds, token = 1 / plan->predicted_tokens_per_second;
            double least = hardware_side_by_side(&shared.storage, compute, reads);
            if (i == 0)
                assert_within(token, least, 0.002);
            assert_true(token >= least * (1 - 1e-9) && token <= compute / 0.8 + reads / 0.75 + 48 * 1e-4 + 1e-3);
            if (reads > 1e-3)
                assert_true(token > 1 / alone->predicted_tokens_per_second);
            else
                assert_within(token, 1 / alone->predicted_tokens_per_second, 1e-9);
            plan_free(alone);
            plan_free(plan);
        }
    }
}

static void more_memory_is_never_slower(void **state)
{
    (void)state;
    static struct fake fake;
    struct fake_shape shape = fake_experts;
    struct hardware hardware = fake_hardware();
    hardware.storage.reading_beside = 0.6;
    hardware.storage.computing_beside = 0.9;
    for (uint32_t experts = 8; experts <= 128; experts *= 4) {
        shape.experts = experts;
        shape.experts_used = experts / 8;
        shape.expert = 2700 * KIB * 128 / experts;
        fake_build(&fake, &shape);
        double before = 0;
        for (uint64_t gib = 2; gib <= 30; gib++) {
            struct plan *plan = plan_for(&fake, &hardware, gib * GIB, NULL);
            assert_true(plan->predicted_tokens_per_second >= before * (1 - 1e-9));
            before = plan->predicted_tokens_per_second;
            plan_free(plan);
        }
    }
}

static void hit_rates_follow_the_statistics(void **state)
{
    (void)state;
    static struct fake fake;
    static uint64_t uses[FAKE_UNITS];
    struct fake_shape shape = fake_experts;
    shape.layers = 2;
    fake_build(&fake, &shape);
    double rate;
    /* 16 of each layer's 128 experts get nine tenths of the uses. */
    for (uint32_t i = 0; i < fake.table.count; i++)
        uses[i] = fake.units[i].priority != PRIORITY_EXPERT ? 0 : fake.units[i].expert % 8 == 0 ? 63 : 1;
    assert_ok(hit_rate(&rate, &fake.table, 32 * shape.expert, uses));
    assert_within(rate, 0.9, 0.001);
    assert_ok(hit_rate(&rate, &fake.table, 16 * shape.expert, uses));
    assert_within(rate, 0.45, 0.001);
    assert_ok(hit_rate(&rate, &fake.table, 0, uses));
    assert_true(rate <= 0);
    assert_ok(hit_rate(&rate, &fake.table, 256 * shape.expert, uses));
    assert_true(rate >= 1);
    /* Statistics of zeros count as none. */
    memset(uses, 0, sizeof uses);
    double without;
    assert_ok(hit_rate(&rate, &fake.table, 64 * shape.expert, uses));
    assert_ok(hit_rate(&without, &fake.table, 64 * shape.expert, NULL));
    assert_true(rate > 0.25 && rate <= without && rate >= without);
}

static void hit_rates_of_earlier_runs_are_expected_again(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    struct plan_request request = make_request(8 * GIB);
    struct plan *plan;
    double slower = 0;
    request.hit_curve.known = true;
    for (int i = 1; i <= 3; i++) {
        for (uint32_t j = 0; j < PLAN_CURVE_POINTS; j++)
            request.hit_curve.hits[j] = (float)pow((j + 1.0) / PLAN_CURVE_POINTS, 0.8 / i);
        assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
        double share = (double)plan->expert_cache_bytes / (double)plan->expert_bytes;
        assert_within(plan->predicted_hit_rate, pow(share, 0.8 / i), 1e-3);
        assert_true(plan->predicted_tokens_per_second > slower);
        slower = plan->predicted_tokens_per_second;
        plan_free(plan);
    }
}

/* No hits with up to a quarter of the experts, only hits from a half on. Between two points of the curve, hits rise
 * linearly. */
static void hit_rates_follow_a_curve_of_any_form(void **state)
{
    (void)state;
    static struct fake fake;
    struct fake_shape shape = fake_experts;
    shape.layers = 2;
    fake_build(&fake, &shape);
    struct plan_request request = make_request(0);
    request.hit_curve.known = true;
    for (uint32_t i = PLAN_CURVE_POINTS / 4; i < PLAN_CURVE_POINTS; i++)
        request.hit_curve.hits[i] = i < PLAN_CURVE_POINTS / 2 ? 0.5f : 1;
    static const struct {
        double experts, hits;
    } points[] = {{0, 0}, {64, 0}, {65, 0.125}, {66, 0.25}, {68, 0.5}, {128, 0.5}, {130, 0.75}, {132, 1}, {255, 1}};
    for (size_t i = 0; i < COUNT_OF(points); i++) {
        double rate;
        assert_ok(plan_hit_rate(&rate, &fake.table, (uint64_t)points[i].experts * shape.expert, &request, &test_error));
        assert_float_equal(rate, points[i].hits, 1e-6);
    }
}

/* What devices hold counts as cached. The first layer has a quarter of its experts on a device, which get half of all
 * its uses, the second one none, and the third one all, which tells nothing. */
static void devices_hold_a_part_of_what_is_cached(void **state)
{
    (void)state;
    static struct fake fake;
    static uint64_t uses[FAKE_UNITS];
    struct fake_shape shape = fake_experts;
    shape.layers = 3;
    fake_build(&fake, &shape);
    struct plan_request request = make_request(0);
    const uint32_t experts = shape.experts;
    request.uses = uses;
    request.hit_curve.known = true;
    for (uint32_t i = 0; i < PLAN_CURVE_POINTS; i++)
        request.hit_curve.hits[i] = (float)sqrt((i + 1.0) / PLAN_CURVE_POINTS);
    for (uint32_t u = 0; u < fake.table.count; u++) {
        struct plan_unit *unit = &fake.units[u];
        const bool there =
            unit->expert >= 0 && (unit->layer == 2 || (unit->layer == 0 && (uint32_t)unit->expert < experts / 4));
        unit->priority = there ? PRIORITY_GPU : unit->priority;
        uses[u] = there ? 3 : 1;
    }
    /* Of two layers, an eighth is there, and gets 3 of 10 uses. A cache for three eighths makes it a half. */
    const uint64_t room = (uint64_t)shape.expert * experts * 2 * 3 / 8;
    double rate;
    assert_ok(plan_hit_rate(&rate, &fake.table, room, &request, &test_error));
    assert_float_equal(rate, 1 - (1 - sqrt(0.5)) / 0.7, 1e-6);
    /* This curve is for the others, of which the cache has room for three sevenths. */
    request.hit_curve.apart = true;
    assert_ok(plan_hit_rate(&rate, &fake.table, room, &request, &test_error));
    assert_float_equal(rate, sqrt(3 / 7.0), 1e-3);
}

/* The expected rates come from flash-moe (512 experts per layer), from offloading Mixtral's eight experts, and from the
 * embedded model. */
static void without_statistics_hit_rates_are_conservative(void **state)
{
    (void)state;
    static struct fake fake;
    struct fake_shape shape = fake_experts;
    shape.layers = 4;
    shape.experts = 512;
    fake_build(&fake, &shape);
    static const double published[][2] = {{16, 0.49}, {32, 0.59}, {64, 0.68}, {128, 0.71}};
    double before = 0;
    for (size_t i = 0; i < COUNT_OF(published); i++) {
        double rate;
        assert_ok(hit_rate(&rate, &fake.table, (uint64_t)published[i][0] * 4 * shape.expert, NULL));
        assert_true(rate <= published[i][1] && rate > published[i][1] - 0.2 && rate > before);
        before = rate;
    }
    shape.experts = 8;
    shape.experts_used = 2;
    fake_build(&fake, &shape);
    double rate;
    assert_ok(hit_rate(&rate, &fake.table, 8 * shape.expert, NULL));
    assert_within(rate, 0.4, 0.1);
    assert_ok(hit_rate(&rate, &fake.table, 16 * shape.expert, NULL));
    assert_within(rate, 0.6, 0.1);
    shape.experts = 12;
    fake_build(&fake, &shape);
    static const double embedded[][2] = {{0.1, 0.171}, {0.2, 0.35}, {0.3, 0.479}, {0.5, 0.709}, {0.75, 0.9}};
    for (size_t i = 0; i < COUNT_OF(embedded); i++) {
        assert_ok(hit_rate(&rate, &fake.table, (uint64_t)(embedded[i][0] * 48 * (double)shape.expert), NULL));
        assert_true(rate < embedded[i][1] * 1.1 && rate > embedded[i][1] * 0.85);
    }
}

/* The bytes that the page cache would read per token. It keeps the most recently used pages: of a cycle that does not
 * fit, nothing is left when it repeats; of the experts, it keeps as much as the memory holds next to what every token
 * uses. It has the same drive, and no page faults. */
static double naive_bytes_per_token(const struct plan_table *table, uint64_t memory)
{
    double used = table->experts ? (double)table->experts_used / table->experts : 0;
    uint64_t dense = 0, experts = 0;
    for (uint32_t i = 0; i < table->count; i++) {
        dense += table->units[i].priority < PRIORITY_EXPERT ? table->units[i].footprint : 0;
        experts += table->units[i].priority == PRIORITY_EXPERT ? table->units[i].footprint : 0;
    }
    double cycle = (double)dense + used * (double)experts;
    if (memory >= dense + experts)
        return 0;
    if ((double)memory < cycle)
        return cycle;
    double rate;
    assert_ok(hit_rate(&rate, table, memory - dense, NULL));
    return used * (double)experts * (1 - rate);
}

static void never_worse_than_the_page_cache(void **state)
{
    (void)state;
    static struct fake fake;
    struct hardware hardware = fake_hardware();
    const struct fake_shape *shapes[] = {&fake_dense, &fake_experts};
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        fake_build(&fake, shapes[i]);
        struct plan *plan = plan_for(&fake, &hardware, 100 * GIB, NULL);
        uint64_t all = plan->resident_bytes, smallest = plan->smallest_budget;
        plan_free(plan);
        for (int percent = 5; percent <= 150; percent++) {
            uint64_t budget = all / 100 * (uint64_t)percent;
            if (budget < smallest)
                continue;
            plan = plan_for(&fake, &hardware, budget, NULL);
            /* The overhead and the row of the embedding are the same for both. */
            uint64_t memory =
                budget - plan->overhead_bytes - plan->reserve_bytes - plan->kv_bytes - plan->scratch_bytes;
            double naive = naive_bytes_per_token(&fake.table, memory);
            if (plan->predicted_bytes_per_token > naive + 8192 + 1)
                fail_msg("with %d %% of the memory, the plan reads %.0f bytes per token, the page cache %.0f", percent,
                         plan->predicted_bytes_per_token, naive);
            plan_free(plan);
        }
    }
}

static void slow_drives_get_long_chunks(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_dense);
    struct hardware hardware = fake_hardware();
    struct plan_request request = make_request(16 * GIB);
    request.chunk = 0;
    request.positions = 8192;
    struct plan *plan;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_int_equal(plan->chunk, 512);
    plan_free(plan);
    hardware.storage.bytes_per_second = 60e6;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_true(plan->chunk > 512 && plan->chunk <= 4096);
    assert_true(plan->scratch_bytes <= GIB);
    plan_free(plan);
}

/* A mixture of large experts reads almost all missing ones for every chunk. A chunk that computes long enough to hide
 * these reads may take more memory than a chunk otherwise does. */
static void large_experts_get_long_enough_chunks(void **state)
{
    (void)state;
    static struct fake fake;
    struct fake_shape shape = fake_experts;
    shape.layers = 4;
    shape.experts = 8;
    shape.experts_used = 2;
    shape.expert = 96 * MIB;
    fake_build(&fake, &shape);
    struct hardware hardware = fake_hardware();
    hardware.multiply_adds_per_second = 300e9;
    struct plan_request request = make_request(2 * GIB);
    request.chunk = 0;
    request.positions = 2048;
    struct plan *plan;
    double experts = 32.0 * (double)shape.expert, work = 8.0 * (double)shape.expert * 16 / 9;
    /* Half of the experts have no room, so a chunk reads at least 1.3 GiB. The fastest drive here takes 0.35 s for
     * that; 512 tokens take 2.4 s, 256 take 1.2 s. */
    for (uint32_t speed = 1; speed <= 8; speed *= 2) {
        hardware.storage.bytes_per_second = 0.5e9 * speed;
        assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
        double missing = experts - (double)plan->expert_cache_bytes;
        double reads = missing / hardware.storage.bytes_per_second;
        double computes = plan->chunk * work / hardware.multiply_adds_per_second;
        bool no_more_room = 2 * plan->scratch_bytes > plan->budget / 8;
        assert_true(computes > 2 * reads || no_more_room);
        assert_true(plan->scratch_bytes <= plan->budget / 8);
        if (speed == 8)
            assert_true(plan->scratch_bytes > plan->budget / 64 && plan->scratch_bytes <= plan->budget / 16);
        plan_free(plan);
    }
}

/* A model's parts are on two drives, one half as fast as the other. Each byte takes the time of its own drive. */
static void parts_are_read_at_the_speed_of_their_drives(void **state)
{
    (void)state;
    static struct fake fake;
    static struct drives drives;
    static struct storage of_files[2];
    const struct fake_shape *const shapes[] = {&fake_dense, &fake_experts};
    for (size_t s = 0; s < COUNT_OF(shapes); s++) {
        fake_build(&fake, shapes[s]);
        struct hardware hardware = fake_hardware();
        struct plan *one = plan_for(&fake, &hardware, 6 * GIB, NULL);
        of_files[0] = of_files[1] = hardware.storage;
        of_files[1].bytes_per_second /= 2;
        for (size_t i = 0; i < of_files[1].sample_count; i++)
            of_files[1].samples[i].bytes_per_second /= 2;
        drives = (struct drives){.count = 2, .file_count = 2, .copy_count = 1, .of_files = of_files};
        hardware.drives = &drives;
        struct plan *both = plan_for(&fake, &hardware, 6 * GIB, NULL); /* the whole model is on the first */
        assert_within(both->predicted_tokens_per_second, one->predicted_tokens_per_second, 1e-9);
        plan_free(both);
        double halves[2] = {0};
        for (uint32_t i = 0; i < fake.table.count; i++) {
            fake.units[i].file = fake.units[i].layer >= (int32_t)fake.table.layers / 4;
            halves[fake.units[i].file] += (double)plan_streamed_footprint(&fake.units[i], one->streams);
        }
        both = plan_for(&fake, &hardware, 6 * GIB, NULL);
        assert_true(both->predicted_tokens_per_second < 0.7 * one->predicted_tokens_per_second);
        assert_true(both->predicted_tokens_per_second > 0.5 * one->predicted_tokens_per_second);
        if (shapes[s] == &fake_dense)
            assert_within(1 / both->predicted_tokens_per_second, halves[0] / 2e9 + halves[1] / 1e9, 0.02);
        plan_free(both);
        plan_free(one);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_streamed_dense_model_runs_at_the_speed_of_the_disk),
        cmocka_unit_test(a_lucky_sample_is_not_the_drives_speed),
        cmocka_unit_test(pauses_longer_than_the_ring_cost_time),
        cmocka_unit_test(experts_overlap_hits_with_misses_but_not_the_whole_token),
        cmocka_unit_test(most_misses_wait_for_their_router),
        cmocka_unit_test(reading_and_computing_share_the_memory),
        cmocka_unit_test(more_memory_is_never_slower),
        cmocka_unit_test(hit_rates_follow_the_statistics),
        cmocka_unit_test(hit_rates_of_earlier_runs_are_expected_again),
        cmocka_unit_test(hit_rates_follow_a_curve_of_any_form),
        cmocka_unit_test(devices_hold_a_part_of_what_is_cached),
        cmocka_unit_test(without_statistics_hit_rates_are_conservative),
        cmocka_unit_test(never_worse_than_the_page_cache),
        cmocka_unit_test(slow_drives_get_long_chunks),
        cmocka_unit_test(large_experts_get_long_enough_chunks),
        cmocka_unit_test(parts_are_read_at_the_speed_of_their_drives),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
