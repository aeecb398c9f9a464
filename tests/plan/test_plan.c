/* Plans for budgets: the sums are right, modes change in order, and no smaller budget than the smallest works. */
#include "test.h"

#include "fake_model.h"

static const uint32_t kv_position_bytes = 96 * 1024;
static const uint32_t tiny_position_bytes = 1024;

static uint64_t tiny_scratch(const void *context, uint32_t chunk, uint32_t positions)
{
    (void)context;
    return chunk * 8 * KIB + positions * 4 + 64 * KIB;
}

static struct plan_request make_request(uint64_t budget)
{
    return (struct plan_request){.budget = budget,
                                 .overhead = 30 * MIB,
                                 .code = 10 * MIB,
                                 .kv_type = TENSOR_F16,
                                 .working_set = {fake_kv, fake_scratch, &kv_position_bytes}};
}

static struct plan_request make_tiny_request(uint64_t budget)
{
    return (struct plan_request){.budget = budget,
                                 .overhead = 12 * MIB,
                                 .code = 10 * MIB,
                                 .kv_type = TENSOR_F16,
                                 .working_set = {fake_kv, tiny_scratch, &tiny_position_bytes}};
}

static void check_account(const struct plan *plan, const struct plan_request *request, const struct fake *fake)
{
    assert_int_equal(plan->budget, request->budget);
    assert_true(plan->overhead_bytes + plan->reserve_bytes + plan->resident_bytes + plan->pool_bytes +
                    plan->table_bytes + plan->kv_bytes + plan->scratch_bytes <=
                plan->budget);
    assert_int_equal(plan->pool_bytes, plan->ring_bytes + plan->expert_cache_bytes);
    assert_int_equal(plan->overhead_bytes + plan->code_on_top, request->overhead);
    if (plan->budget >= PLAN_SMALL_BUDGET)
        assert_int_equal(plan->code_on_top, 0);
    assert_true(plan->smallest_budget <= plan->budget);
    const struct plan_working_set *set = &request->working_set;
    assert_int_equal(plan->kv_bytes, set->kv_bytes(set->context, plan->positions, plan->sequences, plan->kv_type));
    assert_int_equal(plan->scratch_bytes, set->scratch_bytes(set->context, plan->chunk, plan->positions));
    assert_true(strlen(plan->reason) > 20 && strlen(plan->reason) < sizeof plan->reason - 1);

    uint64_t resident = 0;
    bool experts = false, attention = false, tensors = false;
    for (uint32_t i = 0; i < plan->unit_count; i++) {
        if (plan->tiers[i] == TIER_RAM || plan_in_ring(plan, i))
            resident += fake->units[i].footprint - plan_streamed_footprint(&fake->units[i], plan->streams);
        experts |= plan->tiers[i] == TIER_STORAGE && fake->units[i].priority == PRIORITY_EXPERT;
        tensors |= plan_in_ring(plan, i);
        attention |= plan_in_ring(plan, i) && fake->units[i].priority <= PRIORITY_ATTENTION;
    }
    assert_int_equal(resident, plan->resident_bytes);
    enum plan_mode mode = attention ? PLAN_FULL_STREAMING
                          : tensors ? PLAN_DENSE_STREAMING
                          : experts ? PLAN_EXPERT_STREAMING
                                    : PLAN_FULL_RESIDENT;
    assert_int_equal(plan->mode, mode);
    assert_int_equal(plan->expert_cache_bytes > 0, experts);
    assert_int_equal(plan->ring_bytes > 0, tensors);
    assert_true(plan->predicted_tokens_per_second > 0);
    assert_true(plan->predicted_hit_rate >= 0 && plan->predicted_hit_rate <= 1);
}

/* For a given context and chunk, more memory never reads more per token. */
static void sweep(const struct fake_shape *shape, uint64_t piece, struct plan_request request, uint64_t to)
{
    static struct fake fake;
    fake_build(&fake, shape);
    fake_cut(&fake, piece);
    struct hardware hardware = fake_hardware();
    request.positions = 1024;
    request.chunk = 32;
    struct plan *plan;
    request.budget = to;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_int_equal(plan->mode, PLAN_FULL_RESIDENT);
    uint64_t smallest = plan->smallest_budget;
    plan_free(plan);
    double before = 0;
    enum plan_mode mode = PLAN_FULL_STREAMING;
    for (int i = 0; i <= 100; i++) {
        request.budget = smallest + (to - smallest) / 100 * (uint64_t)i;
        assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
        check_account(plan, &request, &fake);
        assert_int_equal(plan->smallest_budget, smallest);
        assert_true(plan->mode <= mode);
        mode = plan->mode;
        /* A change of mode may pack differently, which costs at most one tensor. */
        if (i > 0)
            assert_true(plan->predicted_bytes_per_token <= before + (double)shape->down);
        before = plan->predicted_bytes_per_token;
        plan_free(plan);
    }
    assert_int_equal(mode, PLAN_FULL_RESIDENT);
}

static void more_memory_reads_less(void **state)
{
    (void)state;
    sweep(&fake_dense, UINT64_MAX, make_request(0), 60 * GIB);
    sweep(&fake_dense, 40 * MIB, make_request(0), 60 * GIB);
    sweep(&fake_experts, UINT64_MAX, make_request(0), 24 * GIB);
    sweep(&fake_experts, MIB, make_request(0), 24 * GIB);
    sweep(&fake_tiny, 64 * KIB, make_tiny_request(0), 40 * MIB);
}

static void check_smallest(const struct fake_shape *shape, struct plan_request request, uint64_t plenty)
{
    static struct fake fake;
    fake_build(&fake, shape);
    struct hardware hardware = fake_hardware();
    struct plan *plan;
    request.budget = plenty;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    uint64_t smallest = plan->smallest_budget;
    plan_free(plan);

    request.budget = smallest;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    check_account(plan, &request, &fake);
    assert_int_equal(plan->smallest_budget, smallest);
    plan_free(plan);

    request.budget = smallest - 1;
    plan = NULL;
    assert_int_equal(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error), HYPURA_ERROR_MEMORY);
    assert_null(plan);
    char number[32];
    snprintf(number, sizeof number, "%llu", (unsigned long long)smallest);
    assert_non_null(strstr(test_error.message, number));
}

static void the_smallest_budget_works_and_one_byte_less_does_not(void **state)
{
    (void)state;
    struct plan_request request = make_request(0);
    check_smallest(&fake_dense, request, 100 * GIB);
    check_smallest(&fake_experts, request, 100 * GIB);
    check_smallest(&fake_tiny, make_tiny_request(0), GIB);
    request.positions = 32768;
    request.sequences = 3;
    check_smallest(&fake_experts, request, 100 * GIB);
    request.chunk = 1024;
    check_smallest(&fake_dense, request, 100 * GIB);
    /* Just above the limit from which code is part of the budget. */
    struct fake_shape shape = fake_tiny;
    shape.embedding = 240 * MIB;
    check_smallest(&shape, make_tiny_request(0), GIB);
}

/* Five of six layers have a window of 512 positions. */
static uint64_t windowed_kv(const void *context, uint32_t positions, uint32_t sequences, enum tensor_type type)
{
    (void)context, (void)type;
    return (uint64_t)sequences * (positions + 5 * MIN(positions, 512u)) * 16 * KIB;
}

/* The bytes of a cache in shared blocks. */
static uint64_t shared_kv(const void *context, uint32_t positions, uint32_t sequences, uint64_t kv_positions,
                          enum tensor_type type)
{
    (void)positions, (void)sequences;
    return fake_kv(context, PLAN_KV_BLOCK, (uint32_t)(kv_positions / PLAN_KV_BLOCK), type);
}

static uint64_t shared_windowed_kv(const void *context, uint32_t positions, uint32_t sequences, uint64_t kv_positions,
                                   enum tensor_type type)
{
    (void)positions, (void)sequences;
    return windowed_kv(context, PLAN_KV_BLOCK, (uint32_t)(kv_positions / PLAN_KV_BLOCK), type);
}

static struct plan *smallest_plan(struct plan_request request)
{
    static struct fake fake;
    struct hardware hardware = fake_hardware();
    struct plan *plan;
    fake_build(&fake, &fake_experts);
    request.positions = 4096;
    request.sequences = 2;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    request.budget = plan->smallest_budget;
    plan_free(plan);
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    return plan;
}

/* Two contexts with mostly windowed layers would take more memory in shared blocks than whole. */
static void shared_room_takes_no_more_than_whole_contexts(void **state)
{
    (void)state;
    struct plan_request request = make_request(8 * GIB);
    struct plan *alone = smallest_plan(request);
    request.working_set.shared_kv_bytes = shared_kv;
    struct plan *shared = smallest_plan(request);
    assert_int_equal(alone->kv_positions, 2 * 4096);
    assert_int_equal(shared->kv_positions, 4096);
    assert_int_equal(shared->kv_bytes * 2, alone->kv_bytes);
    assert_true(shared->smallest_budget < alone->smallest_budget);
    plan_free(alone);
    plan_free(shared);
    request.working_set.kv_bytes = windowed_kv;
    request.working_set.shared_kv_bytes = NULL;
    alone = smallest_plan(request);
    request.working_set.shared_kv_bytes = shared_windowed_kv;
    shared = smallest_plan(request);
    assert_int_equal(shared->kv_positions, 2 * 4096);
    assert_int_equal(shared->kv_bytes, alone->kv_bytes);
    assert_int_equal(shared->smallest_budget, alone->smallest_budget);
    plan_free(alone);
    plan_free(shared);
}

static uint64_t spare_scratch(const void *context, uint32_t chunk, uint32_t positions)
{
    return fake_scratch(context, chunk, positions) / 2;
}

/* While a token is generated, experts also have the buffers of long batches. */
static void unused_buffers_hold_experts(void **state)
{
    (void)state;
    static struct fake fake;
    struct hardware hardware = fake_hardware();
    struct plan_request request = make_request(8 * GIB);
    struct plan *without, *with;
    fake_build(&fake, &fake_experts);
    assert_ok(plan_make_units(&without, &fake.table, &hardware, &request, &test_error));
    request.working_set.spare_bytes = spare_scratch;
    assert_ok(plan_make_units(&with, &fake.table, &hardware, &request, &test_error));
    check_account(with, &request, &fake);
    assert_int_equal(without->spare_scratch_bytes, 0);
    assert_int_equal(with->spare_scratch_bytes, with->scratch_bytes / 2);
    assert_int_equal(with->pool_bytes, without->pool_bytes);
    assert_true(with->predicted_hit_rate > without->predicted_hit_rate);
    assert_true(with->predicted_tokens_per_second > without->predicted_tokens_per_second);
    plan_free(without);
    plan_free(with);
    request.budget = 24 * GIB; /* nothing streams */
    assert_ok(plan_make_units(&with, &fake.table, &hardware, &request, &test_error));
    assert_int_equal(with->spare_scratch_bytes, 0);
    plan_free(with);
}

static void modes_follow_the_budget(void **state)
{
    (void)state;
    static struct fake fake;
    struct hardware hardware = fake_hardware();
    const struct {
        const struct fake_shape *shape;
        uint64_t budget;
        enum plan_mode mode;
    } cases[] = {
        {&fake_dense, 60 * GIB, PLAN_FULL_RESIDENT},     {&fake_dense, 30 * GIB, PLAN_DENSE_STREAMING},
        {&fake_dense, 10 * GIB, PLAN_DENSE_STREAMING},   {&fake_dense, 5 * GIB, PLAN_FULL_STREAMING},
        {&fake_experts, 24 * GIB, PLAN_FULL_RESIDENT},   {&fake_experts, 8 * GIB, PLAN_EXPERT_STREAMING},
        {&fake_experts, 2 * GIB, PLAN_EXPERT_STREAMING},
    };
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        fake_build(&fake, cases[i].shape);
        struct plan_request request = make_request(cases[i].budget);
        struct plan *plan;
        assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
        check_account(plan, &request, &fake);
        assert_int_equal(plan->mode, cases[i].mode);
        plan_free(plan);
    }
    assert_string_equal(plan_mode_name(PLAN_DENSE_STREAMING), "dense-ffn-streaming");
    assert_string_equal(plan_bound_name(BOUND_DISK), "disk");
}

static void the_embedding_is_held_last(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    struct plan_request request = make_request(0);
    request.positions = 1024;
    request.chunk = 32;
    bool rows_at_first = false;
    for (uint64_t budget = 15 * GIB; budget < 19 * GIB; budget += 50 * MIB) {
        request.budget = budget;
        struct plan *plan;
        assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
        assert_int_equal(plan->embedding_rows, plan->tiers[0] == TIER_STORAGE);
        assert_false(plan_in_ring(plan, 0));
        if (plan->mode == PLAN_FULL_RESIDENT)
            rows_at_first |= plan->embedding_rows;
        else
            assert_true(plan->embedding_rows);
        plan_free(plan);
    }
    assert_true(rows_at_first);
}

/* This holds for any budget. All memory but a cache of rows is for the other weights. */
static void a_table_is_never_held(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    const unit_number table = fake.table.count;
    fake_add(&fake, ROLE_TOKEN_TYPES, -1, 28 * GIB);
    fake.table.units = fake.units;
    fake.units[table].priority = PRIORITY_TABLE;
    fake.units[table].cuttable = false;
    fake.table.rows[fake.table.row_count++] = (struct plan_rows){.unit = table, .row_bytes = 90};
    fake.table.table_bytes_per_token = 16 * 8 * KIB;
    struct hardware hardware = fake_hardware();
    for (uint64_t budget = 2 * GIB; budget <= 512 * GIB; budget *= 4) {
        struct plan_request request = make_request(budget);
        struct plan *plan;
        assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
        check_account(plan, &request, &fake);
        assert_int_equal(plan->tiers[table], TIER_STORAGE);
        assert_false(plan_in_ring(plan, table));
        assert_int_equal(plan->table_count, fake.table.row_count);
        assert_true(plan->row_cache_bytes <= plan->table_bytes && plan->row_cache_bytes <= budget / 64);
        assert_true(plan->predicted_bytes_per_token >= (double)fake.table.table_bytes_per_token);
        assert_non_null(strstr(plan->reason, "only rows are read"));
        assert_int_equal(plan->mode == PLAN_FULL_RESIDENT, budget > 24 * GIB); /* the other weights are 17 GiB */
        plan_free(plan);
    }
}

/* If matrices stream, the embedding takes no memory from them: its rows are read per token. */
static void the_embedding_takes_no_memory_from_matrices_that_stream(void **state)
{
    (void)state;
    static struct fake fake;
    const struct fake_shape *shapes[] = {&fake_dense, &fake_experts};
    struct hardware hardware = fake_hardware();
    struct plan_request request = make_request(12 * GIB);
    for (size_t i = 0; i < COUNT_OF(shapes); i++) {
        fake_build(&fake, shapes[i]);
        fake.table.rows[fake.table.row_count++] = (struct plan_rows){.unit = 0, .row_bytes = 4 * KIB};
        struct plan *plan;
        assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
        assert_int_equal(plan->mode, i ? PLAN_EXPERT_STREAMING : PLAN_DENSE_STREAMING);
        assert_true(plan->row_cache_bytes >= 64 * KIB);
        assert_int_equal(plan->row_cache_bytes > MIB, i);
        plan_free(plan);
    }
}

/* A tied embedding is also the output matrix: it streams whole, and is read by rows, too. */
static void a_tied_embedding_that_streams_is_read_by_rows_too(void **state)
{
    (void)state;
    static struct fake fake;
    struct fake_shape shape = fake_dense;
    shape.output = 0;
    fake_build(&fake, &shape);
    struct hardware hardware = fake_hardware();
    struct plan_request request = make_request(0);
    request.positions = 1024;
    request.chunk = 32;
    request.budget = 100 * GIB;
    struct plan *plan;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_false(plan->embedding_rows);
    request.budget = 6 * GIB;
    plan_free(plan);
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_int_equal(plan->embedding_rows, plan_in_ring(plan, 0));
    plan_free(plan);
}

static void a_requested_context_and_chunk_are_kept(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_dense);
    struct hardware hardware = fake_hardware();
    struct plan_request request = make_request(12 * GIB);
    request.positions = 16384;
    request.chunk = 100;
    request.sequences = 2;
    struct plan *plan;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_int_equal(plan->positions, 16384);
    assert_int_equal(plan->chunk, 100);
    assert_int_equal(plan->sequences, 2);
    plan_free(plan);
    /* Otherwise the plan chooses 4096 if there is room, and less if weights need the room more. */
    request = make_request(60 * GIB);
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_int_equal(plan->positions, 4096);
    plan_free(plan);
    fake.table.context = 1000;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_int_equal(plan->positions, 1000);
    plan_free(plan);
    fake.table.context = 131072;
    request.budget = 2 * GIB;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_true(plan->positions < 4096 && plan->positions >= 512);
    plan_free(plan);
}

/* Experts that change sides are in the cache, however large it is. If it holds all of them, nothing streams. */
static void experts_that_move_stream_only_if_they_do_not_fit(void **state)
{
    (void)state;
    static struct fake fake;
    static const struct plan_gpu gpu = {.moves = 1, .chunk = 64};
    fake_build(&fake, &fake_experts);
    fake.table.experts_move = true;
    struct hardware hardware = fake_hardware();
    bool seen[2] = {false};
    for (uint64_t gib = 4; gib <= 24; gib++) {
        struct plan_request request = make_request(gib * GIB);
        request.gpu = &gpu;
        struct plan *plan;
        assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
        bool fits = plan->expert_cache_bytes >= plan->expert_bytes;
        assert_true(plan->expert_cache_bytes > 0);
        assert_int_equal(plan_holds_experts(plan), fits);
        assert_int_equal(plan->mode, fits ? PLAN_FULL_RESIDENT : PLAN_EXPERT_STREAMING);
        assert_int_equal(strstr(plan->reason, "fit in the budget") != NULL, fits);
        assert_true(fits == (plan->predicted_bytes_per_token < (double)MIB));
        seen[fits] = true;
        plan_free(plan);
    }
    assert_true(seen[0] && seen[1]);
}

static void no_budget_means_what_the_machine_can_spare(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    hardware.cgroup_limit = 6 * GIB;
    struct plan_request request = make_request(0);
    struct plan *plan;
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    assert_int_equal(plan->budget, hardware_default_budget(&hardware));
    assert_true(plan->budget < 6 * GIB);
    assert_int_equal(plan->mode, PLAN_EXPERT_STREAMING);
    plan_free(plan);
}

static void count_warnings(void *context, enum log_level level, const char *message)
{
    (void)message;
    *(int *)context += level == LOG_WARNING;
}

static void a_budget_beyond_the_memory_gives_a_warning(void **state)
{
    (void)state;
    static struct fake fake;
    fake_build(&fake, &fake_experts);
    struct hardware hardware = fake_hardware();
    struct plan_request request = make_request(6 * GIB);
    struct plan *plan;
    int warnings = 0;
    log_set_sink(count_warnings, &warnings);
    assert_ok(plan_make_units(&plan, &fake.table, &hardware, &request, &test_error));
    plan_warn_of_too_much(plan, &hardware);
    assert_int_equal(warnings, 0);
    hardware.cgroup_limit = 5 * GIB;
    plan_warn_of_too_much(plan, &hardware);
    assert_int_equal(warnings, 1);
    plan_free(plan);
    log_set_sink(NULL, NULL);
}

static void footprints_are_the_enclosing_pages(void **state)
{
    (void)state;
    struct unit unit = {.slice_count = 2,
                        .slices = {{.offset = 4096, .bytes = 4096}, {.offset = 4095 + 8192, .bytes = 2}}};
    assert_int_equal(plan_unit_footprint(&unit), 4096 + 8192);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(more_memory_reads_less),
        cmocka_unit_test(the_smallest_budget_works_and_one_byte_less_does_not),
        cmocka_unit_test(shared_room_takes_no_more_than_whole_contexts),
        cmocka_unit_test(unused_buffers_hold_experts),
        cmocka_unit_test(modes_follow_the_budget),
        cmocka_unit_test(a_table_is_never_held),
        cmocka_unit_test(the_embedding_takes_no_memory_from_matrices_that_stream),
        cmocka_unit_test(the_embedding_is_held_last),
        cmocka_unit_test(a_tied_embedding_that_streams_is_read_by_rows_too),
        cmocka_unit_test(a_requested_context_and_chunk_are_kept),
        cmocka_unit_test(experts_that_move_stream_only_if_they_do_not_fit),
        cmocka_unit_test(no_budget_means_what_the_machine_can_spare),
        cmocka_unit_test(a_budget_beyond_the_memory_gives_a_warning),
        cmocka_unit_test(footprints_are_the_enclosing_pages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
