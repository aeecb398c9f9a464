/* Experts that move between GPU, memory and drive while a model runs, under the validation layers. Without a device,
 * the tests are skipped. */
#include "gpu_engine.h"

#include "store/store_private.h"

/* ---- experts change sides ---------------------------------------------------------------------------------------- */

#define LONG 48

/* Makes a text that repeats the same few tokens. */
static void narrow_text(int32_t *tokens)
{
    for (size_t i = 0; i < LONG; i++)
        tokens[i] = (int32_t)(260 + i % 5);
}

/* A budget with room in memory for less than half of the experts that are not on the GPU. */
static uint64_t budget_that_reads(const struct model *model, const struct hardware *hardware,
                                  const struct engine_options *options)
{
    struct engine_options smaller = *options;
    for (smaller.budget = (uint64_t)256 << 20;; smaller.budget -= smaller.budget / 256) {
        struct plan *plan;
        assert_ok(engine_plan_only(&plan, model, hardware, &smaller, &test_error));
        const bool reads = plan->mode == PLAN_EXPERT_STREAMING && plan->expert_cache_bytes < plan->expert_bytes / 2;
        plan_free(plan);
        if (reads)
            return smaller.budget;
    }
}

/* Opens a model with two fifths of the experts on the GPU, and all or half of the others in memory. */
static struct engine *open_divided_with(const char *name, bool fixed, bool reads, enum store_prefetching prefetching)
{
    struct setting setting = {.kv_type = TENSOR_F16, .fixed = fixed};
    struct engine_options options;
    struct hardware hardware;
    struct model *model;
    struct plan *plan;
    set_options(&options, &setting);
    assert_ok(model_open(&model, model_path(name), &test_error));
    assert_ok(hardware_detect(&hardware, model_path(name), &test_error));
    assert_ok(engine_plan_only(&plan, model, &hardware, &options, &test_error));
    const struct plan_gpu *whole = plan->gpu;
    setting.gpu_budget = whole->scratch_bytes + whole->resident_bytes + whole->kv_bytes + 2 * whole->expert_bytes / 5;
    plan_free(plan);
    set_options(&options, &setting);
    if (reads)
        options.budget = budget_that_reads(model, &hardware, &options);
    model_close(model);
    struct engine *engine = NULL;
    options.prefetching = prefetching;
    if (engine_open(&engine, model_path(name), &options, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    return engine;
}

static struct engine *open_divided(const char *name, bool fixed)
{
    return open_divided_with(name, fixed, false, STORE_PREFETCH_AUTO);
}

static uint64_t moves_of(struct engine *engine, struct store_statistics *statistics)
{
    store_statistics(engine_store(engine), statistics);
    return statistics->expert_moves;
}

/* The number of experts per layer on the GPU never changes, but the experts do. When they move depends on their use,
 * not on whether memory had them. */
static void moves_by_use(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    int32_t tokens[LONG];
    size_t vocabulary;
    float *logits[3], *expected;
    uint64_t moves[3];
    narrow_text(tokens);
    expected = run_tokens_on_cpu("embedded", tokens, LONG, &vocabulary);
    for (int run = 0; run < 3; run++) {
        struct engine *engine = open_divided("embedded", run == 2);
        struct store_statistics statistics;
        uint32_t count = model_unit_count(engine_model(engine)), there = 0, changed = 0;
        bool *before = calloc(count, sizeof *before), *after = calloc(count, sizeof *after);
        assert_int_equal(engine->open.plan->gpu->moves > 0, run != 2);
        if (run == 1) /* other experts are read from the drive */
            assert_ok(store_resize(engine_store(engine), engine->open.plan->pool_bytes / 3, &test_error));
        store_on_device(engine_store(engine), 0, count, before);
        for (unit_number u = 0; u < count; u++)
            there += before[u];
        logits[run] = calloc(LONG * vocabulary, sizeof **logits);
        /* With few tokens, one whose router chose other experts would dominate the mean. */
        size_t fed = run == 2 ? LONG / 2 : LONG;
        feed(engine, 0, tokens, fed, 1, logits[run]);
        store_on_device(engine_store(engine), 0, count, after);
        for (unit_number u = 0; u < count; u++) {
            changed += after[u] && !before[u];
            there -= after[u];
        }
        moves[run] = moves_of(engine, &statistics);
        /* Some may just have left their slot. */
        assert_true(there <= MOST_MOVES);
        assert_true((run == 2) == (changed == 0));
        if (run != 1) { /* memory had all others at first, and experts that leave the GPU are copied from it */
            assert_true(statistics.expert_misses <= 2 * moves[run]);
            assert_int_equal(statistics.bytes_demanded + statistics.bytes_prefetched, 0);
        }
        if (run == 1) /* prefetches prevent some misses, more if computing is slow */
            assert_true(statistics.expert_misses > 0);
        struct distance d = measure(expected, logits[run], fed, vocabulary);
        print_message("# %llu moves, %llu misses: KL %g\n", (unsigned long long)moves[run],
                      (unsigned long long)statistics.expert_misses, d.kl_mean);
        assert_true(d.kl_mean < most_kl("embedded"));
        free(before);
        free(after);
        close_silent(engine);
    }
    assert_true(moves[0] > 0);
    assert_int_equal(moves[0], moves[1]);
    assert_int_equal(moves[2], 0);
    assert_memory_equal(logits[0], logits[1], LONG * vocabulary * sizeof **logits);
    for (int run = 0; run < 3; run++)
        free(logits[run]);
    free(expected);
    treat_memory_as("shared");
}

/* If memory lacks room, an unused expert on the GPU costs reads of used ones, so experts move sooner. */
static void moves_sooner_if_the_drive_is_read(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    int32_t tokens[LONG];
    size_t vocabulary;
    uint64_t moves[2];
    narrow_text(tokens);
    float *expected = run_tokens_on_cpu("embedded", tokens, LONG, &vocabulary);
    float *logits = calloc(LONG * vocabulary, sizeof *logits);
    for (int reads = 0; reads < 2; reads++) {
        struct engine *engine = open_divided_with("embedded", false, reads, STORE_PREFETCH_OFF);
        struct store_statistics statistics;
        assert_int_equal(engine->open.plan->mode, reads ? PLAN_EXPERT_STREAMING : PLAN_FULL_RESIDENT);
        feed(engine, 0, tokens, LONG, 1, logits);
        moves[reads] = moves_of(engine, &statistics);
        assert_true(measure(expected, logits, LONG, vocabulary).kl_mean < most_kl("embedded"));
        close_silent(engine);
    }
    print_message("# %llu moves, %llu if the drive is read\n", (unsigned long long)moves[0],
                  (unsigned long long)moves[1]);
    assert_true(moves[1] > 2 * moves[0]);
    free(logits);
    free(expected);
    treat_memory_as("shared");
}

/* Routers of layers on the device run ahead of their layers and predict the chosen experts better than chance. These
 * experts are prefetched, and no bit changes. */
static void routers_run_ahead(void **state)
{
    (void)state;
    device_or_skip();
    int32_t tokens[LONG];
    struct random random;
    random_seed(&random, 3);
    for (size_t i = 0; i < LONG; i++)
        tokens[i] = (int32_t)(random_next(&random) % 300);
    for (int separate = 0; separate < 2; separate++) {
        float *logits[2];
        size_t bytes = 0;
        treat_memory_as(separate ? "separate" : "shared");
        for (int on = 0; on < 2; on++) {
            struct engine *engine =
                open_divided_with("embedded", false, false, on ? STORE_PREFETCH_ON : STORE_PREFETCH_OFF);
            const struct model_parameters *p = model_parameters(engine_model(engine));
            const struct prefetcher *prefetcher = &engine->batch.prefetcher;
            struct store_statistics statistics;
            uint32_t made = 0, right = 0;
            bytes = LONG * p->vocabulary * sizeof **logits;
            logits[on] = calloc(1, bytes);
            assert_ok(store_resize(engine_store(engine), engine->open.plan->pool_bytes / 3, &test_error));
            feed(engine, 0, tokens, LONG, 1, logits[on]);
            store_statistics(engine_store(engine), &statistics);
            for (uint32_t margin = PREFETCH_MARGINS / 2; margin < PREFETCH_MARGINS; margin++) {
                made += prefetcher->made[0][margin];
                right += prefetcher->right[0][margin];
            }
            print_message("# %u of %u predictions were right, %llu experts were prefetched\n", right, made,
                          (unsigned long long)statistics.prefetches);
            assert_true(statistics.expert_misses > 0);
            assert_int_equal(statistics.prefetches > 0, on);
            if (on)
                assert_true(made > LONG && right * p->experts > 3 * made * p->experts_used / 2);
            close_silent(engine);
        }
        assert_memory_equal(logits[0], logits[1], bytes);
        free(logits[0]);
        free(logits[1]);
    }
    treat_memory_as("shared");
}

/* Feeds one token at a time until one fails. Returns the number fed successfully. */
static uint32_t feed_until_error(struct engine *engine, const int32_t *tokens, uint32_t count, float *logits)
{
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    for (uint32_t i = 0; i < count; i++) {
        struct engine_batch batch = {.count = 1, .tokens = &tokens[i], .positions = &i};
        if (engine_forward(engine, &batch, &test_error))
            return i;
        memcpy(logits + i * vocabulary, engine_logits(engine, 0), vocabulary * sizeof *logits);
    }
    return count;
}

/* Waits for moves in progress. Returns the number of copies to the device so far. */
static unsigned long long copies_done(struct engine *engine, enum move_phase *phase)
{
    struct store *store = engine_store(engine);
    bool all = false;
    pthread_mutex_lock(store->mutex);
    while (!all) {
        all = true;
        for (uint32_t i = 0; store->moves.phase != MOVES_NONE && i < store->moves.count; i++) {
            const struct move *move = &store->moves.list[i];
            all = all && !move->fetches && (store->moves.phase == MOVES_LEAVING || move->state == MOVE_SENT);
        }
        if (!all)
            store_wait_locked(store);
    }
    *phase = store->moves.phase;
    pthread_mutex_unlock(store->mutex);
    struct gpu *gpu = engine->open.devices.gpus[0];
    pthread_mutex_lock(&gpu->upload_lock); /* moves to the host are copies, too */
    unsigned long long copies = gpu->uploaded;
    pthread_mutex_unlock(&gpu->upload_lock);
    return copies;
}

/* A model with few kernels to compile. A narrow text uses one of its experts much more than others. */
#define MODEL "qwen3moe"

/* The first token after which an expert leaves or arrives, and the number of copies before it. */
struct fixed_point {
    uint32_t token;
    unsigned long long copies;
};

static void find_fixed_points(const int32_t *tokens, float *logits, struct fixed_point *leave, struct fixed_point *come)
{
    struct engine *engine = open_divided(MODEL, false);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    *leave = *come = (struct fixed_point){0};
    for (uint32_t i = 0; i < LONG && come->copies == 0; i++) {
        enum move_phase before, after;
        unsigned long long copies = copies_done(engine, &before);
        feed(engine, 0, &tokens[i], 1, 1, logits + i * vocabulary);
        copies_done(engine, &after);
        if (before == MOVES_LEAVING && after == MOVES_COMING)
            *leave = (struct fixed_point){i, copies};
        if (before == MOVES_COMING && after != MOVES_COMING)
            *come = (struct fixed_point){i, copies};
    }
    assert_true(leave->copies > 0 && come->copies > leave->copies + 1);
    close_silent(engine);
}

static struct engine *open_with_copies_refused_from(const char *name, bool fixed, unsigned long long n)
{
    char fault[32];
    snprintf(fault, sizeof fault, "copy:%llu", n);
    setenv("HYPURA_GPU_FAULT", fault, 1);
    struct engine *engine = open_divided(name, fixed);
    unsetenv("HYPURA_GPU_FAULT");
    return engine;
}

/* If the table of experts cannot be copied to the device, it would disagree with the host, so the request fails, at
 * fixed points for leaving as well as for arriving experts. An expert that does not arrive is not an error. */
static void copies_are_refused(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    int32_t tokens[LONG];
    size_t vocabulary;
    narrow_text(tokens);
    float *expected = run_tokens_on_cpu(MODEL, tokens, LONG, &vocabulary);
    float *logits = calloc(LONG * vocabulary, sizeof *logits);
    struct fixed_point leave, come;
    find_fixed_points(tokens, logits, &leave, &come);
    const struct {
        unsigned long long first;
        uint32_t fed;
        bool fails;
    } cases[] = {{leave.copies + 1, leave.token, true},
                 {come.copies + 1, come.token, true},
                 {leave.copies + 2, come.token + 1, false}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        struct engine *engine = open_with_copies_refused_from(MODEL, false, cases[i].first);
        uint32_t fed = feed_until_error(engine, tokens, come.token + 1, logits);
        assert_int_equal(fed, cases[i].fed);
        assert_int_equal(engine_lost(engine), cases[i].fails);
        struct distance d = measure(expected, logits, fed, vocabulary);
        assert_true(d.kl_mean < most_kl(MODEL));
        if (cases[i].fails) {
            assert_int_equal(test_error.status, HYPURA_ERROR_DEVICE);
            assert_int_equal(engine_positions(engine, 0), fed);
            assert_int_equal(feed_until_error(engine, tokens + fed, 1, logits), 0);
            assert_int_equal(test_error.status, HYPURA_ERROR_DEVICE);
        } else {
            struct store_statistics statistics;
            assert_int_equal(moves_of(engine, &statistics), 0);
        }
        close_silent(engine);
    }
    free(logits);
    free(expected);
    treat_memory_as("shared");
}

/* ---- experts that visit the GPU for a long batch ------------------------------------------------------------------
 */

static void nothing_is_in_use(const struct store *store)
{
    for (unit_number u = 0; u < store->unit_count; u++)
        assert_true(store->units[u].wants == 0 && store->units[u].holds == 0);
}

/* The same bits, whether the experts to upload are in memory or on the drive. */
static void visits_come_from_memory_and_drive(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    size_t vocabulary;
    float *expected = run_on_cpu("embedded", &vocabulary), *logits[3];
    struct engine *engine = open_divided_with("embedded", true, true, STORE_PREFETCH_OFF);
    struct store *store = engine_store(engine);
    struct store_statistics statistics;
    store_statistics(store, &statistics);
    const uint64_t bytes = engine->open.plan->expert_bytes, pools[] = {bytes, bytes / 2, statistics.pool_least_bytes};
    uint64_t misses = 0;
    let_experts_visit(engine);
    for (int i = 0; i < 3; i++) {
        assert_ok(store_resize(store, (int64_t)pools[i], &test_error));
        engine_truncate(engine, 0, 0);
        logits[i] = run_tokens(engine);
        nothing_is_in_use(store);
        store_statistics(store, &statistics);
        print_message("# %llu hits, %llu misses\n", (unsigned long long)statistics.expert_hits,
                      (unsigned long long)statistics.expert_misses);
        assert_true(i < 2 || statistics.expert_misses > misses);
        misses = statistics.expert_misses;
    }
    assert_true(engine->batch.pass->visit_turn > 0);
    assert_true(measure(expected, logits[0], TOKENS, vocabulary).kl_mean < most_kl("embedded"));
    for (int i = 1; i < 3; i++)
        assert_memory_equal(logits[0], logits[i], TOKENS * vocabulary * sizeof **logits);
    close_silent(engine);
    for (int i = 0; i < 3; i++)
        free(logits[i]);
    free(expected);
    treat_memory_as("shared");
}

/* A visit that fails in between ends its request, and leaves no expert in use. Requests without visits go on. */
static void visits_are_refused(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    int32_t tokens[TOKENS];
    prompt_of(tokens);
    unsigned long long before = 0, after = 0;
    struct engine *engine = open_divided("embedded", true);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(PROMPT * vocabulary, sizeof *logits);
    let_experts_visit(engine);
    before = engine->open.devices.gpus[0]->uploaded;
    feed(engine, 0, tokens, PROMPT, SIZE_MAX, logits);
    after = engine->open.devices.gpus[0]->uploaded;
    close_silent(engine);
    assert_true(after > before + 2);
    engine = open_with_copies_refused_from("embedded", true, (before + after) / 2);
    let_experts_visit(engine);
    uint32_t positions[PROMPT];
    for (uint32_t i = 0; i < PROMPT; i++)
        positions[i] = i;
    const struct engine_batch batch = {.count = PROMPT, .tokens = tokens, .positions = positions};
    assert_int_equal(engine_forward(engine, &batch, &test_error), HYPURA_ERROR_MEMORY);
    assert_int_equal(engine_positions(engine, 0), 0);
    assert_false(engine_lost(engine));
    nothing_is_in_use(engine_store(engine));
    feed(engine, 0, tokens, 4, 1, logits);
    close_silent(engine);
    free(logits);
    treat_memory_as("shared");
}

/* ---- shared memory ----------------------------------------------------------------------------------------------- */

/* The GPU reads experts in memory in place. While the pool shrinks and grows, the experts read in place change with it.
 * The bits are those of a pool that holds all experts. */
static void reads_in_place(void **state)
{
    (void)state;
    shared_memory_or_skip();
    static const char *const names[] = {"embedded", "gpt-oss"};
    for (size_t m = 0; m < COUNT_OF(names); m++) {
        size_t vocabulary;
        float *expected = run_on_cpu(names[m], &vocabulary), *logits[3];
        struct engine *engine = open_divided(names[m], false);
        struct store *store = engine_store(engine);
        uint64_t all = engine->open.plan->pool_bytes, misses = 0;
        assert_true(engine->open.plan->gpu->in_place && !engine->open.plan->gpu->moves);
        assert_int_equal(engine->open.plan->gpu->expert_bytes, 0);
        for (int i = 0; i < 3; i++) {
            struct store_statistics statistics;
            if (i > 0)
                assert_ok(store_resize(store, i == 1 ? all / 3 : all, &test_error));
            engine_truncate(engine, 0, 0);
            assert_true(store_reads_in_place(store));
            logits[i] = run_tokens(engine);
            assert_true(store_reads_in_place(store));
            store_statistics(store, &statistics);
            print_message("# %s: %llu hits, %llu misses\n", names[m], (unsigned long long)statistics.expert_hits,
                          (unsigned long long)statistics.expert_misses);
            if (i < 2)
                assert_true((statistics.expert_misses > misses) == (i == 1));
            misses = statistics.expert_misses;
        }
        struct distance d = measure(expected, logits[0], TOKENS, vocabulary);
        print_message("# %s: KL %g\n", names[m], d.kl_mean);
        assert_true(d.kl_mean < most_kl(names[m]));
        assert_true(engine->batch.pass->visit_turn > 0);
        assert_memory_equal(logits[0], logits[1], TOKENS * vocabulary * sizeof **logits);
        assert_memory_equal(logits[0], logits[2], TOKENS * vocabulary * sizeof **logits);
        close_silent(engine);
        for (int i = 0; i < 3; i++)
            free(logits[i]);
        free(expected);
    }
}

/* If the driver cannot import host memory after all, experts are copied, or the CPU computes them. */
static void imports_are_refused(void **state)
{
    (void)state;
    shared_memory_or_skip();
    size_t vocabulary;
    float *expected = run_on_cpu("mixtral", &vocabulary);
    for (int n = 1; n <= 2; n++) {
        char fault[32];
        snprintf(fault, sizeof fault, "import:%d", n);
        setenv("HYPURA_GPU_FAULT", fault, 1);
        struct engine *engine = open_divided("mixtral", false);
        unsetenv("HYPURA_GPU_FAULT");
        /* The first import is a trial before planning, the second is the cache. */
        assert_int_equal(engine->open.plan->gpu->in_place, n == 2);
        assert_false(store_reads_in_place(engine_store(engine)));
        float *logits = run_tokens(engine);
        struct distance d = measure(expected, logits, TOKENS, vocabulary);
        assert_true(d.kl_mean < most_kl("mixtral"));
        free(logits);
        close_silent(engine);
    }
    free(expected);
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_by_use),
        cmocka_unit_test(moves_sooner_if_the_drive_is_read),
        cmocka_unit_test(routers_run_ahead),
        cmocka_unit_test(copies_are_refused),
        cmocka_unit_test(visits_come_from_memory_and_drive),
        cmocka_unit_test(visits_are_refused),
        cmocka_unit_test(reads_in_place),
        cmocka_unit_test(imports_are_refused),
    };
    return cmocka_run_group_tests(tests, find_device, NULL);
}
