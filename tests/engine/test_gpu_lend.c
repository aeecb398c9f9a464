/* Buffers of long batches that hold experts at other times, under the validation layers. Without a device, the tests
 * are skipped. */
#include "gpu_engine.h"

#include "store/store_private.h"

#define NAME "embedded"
#define SHORT 20 /* tokens of a batch for which no expert leaves the device */
#define LONG 60  /* of one for which some do */
#define ONES 40  /* one by one, until they are back */

/* Opens the model with some experts on the GPU, some in memory, and the others on the drive. */
static struct engine *open_lending(bool fixed)
{
    const struct setting setting = {.kv_type = TENSOR_F16, .fixed = fixed, .gpu_budget = (uint64_t)9 << 20};
    struct engine_options options;
    set_options(&options, &setting);
    return open_above_smallest(model_path(NAME), &options, (uint64_t)3 << 20);
}

static bool is_there(const struct engine *engine, unit_number unit)
{
    bool there;
    store_on_device(engine->open.store, unit, 1, &there);
    return there && model_unit(engine_model(engine), unit)->kind == UNIT_EXPERT;
}

/* The experts in lent memory. */
static uint32_t count_lent(const struct engine *engine)
{
    uint32_t lent = 0;
    for (unit_number u = 0; u < model_unit_count(engine_model(engine)); u++)
        lent += is_there(engine, u) && engine->open.plan->gpu->lent[model_unit(engine_model(engine), u)->layer];
    return lent;
}

/* Compares the weights of every expert on the device with the file. */
static void check_experts(struct engine *engine)
{
    FILE *file = fopen(model_path(NAME), "rb");
    assert_non_null(file);
    for (unit_number u = 0; u < model_unit_count(engine_model(engine)); u++) {
        const struct unit *unit = model_unit(engine_model(engine), u);
        struct gpu_range ranges[UNIT_MAX_SLICES];
        if (!is_there(engine, u))
            continue;
        store_ranges(engine_store(engine), u, ranges);
        for (uint32_t s = 0; s < unit->slice_count; s++) {
            const size_t bytes = (size_t)unit->slices[s].bytes;
            uint8_t *expected = malloc(bytes), *found = malloc(bytes);
            assert_int_equal(fseek(file, (long)unit->slices[s].offset, SEEK_SET), 0);
            assert_int_equal(fread(expected, 1, bytes, file), bytes);
            assert_ok(gpu_download(engine->open.devices.gpus[0], found, ranges[s], bytes, &test_error));
            assert_memory_equal(expected, found, bytes);
            free(expected);
            free(found);
        }
    }
    fclose(file);
}

static uint32_t lent_slots(const struct engine *engine)
{
    const struct plan_gpu *plan = engine->open.plan->gpu;
    uint32_t slots = 0;
    for (uint32_t l = 0; l < plan->layer_count; l++)
        slots += plan->lent[l] ? plan->slots[l] : 0;
    return slots;
}

static void nothing_is_in_use(const struct store *store)
{
    for (unit_number u = 0; u < store->unit_count; u++)
        assert_true(store->units[u].wants == 0 && store->units[u].holds == 0);
}

#define TURNS 2
#define A_TURN (SHORT + LONG + ONES)
#define ALL (TURNS * A_TURN)

static void make_text(int32_t *tokens)
{
    for (size_t i = 0; i < ALL; i++)
        tokens[i] = (int32_t)(260 + i % 7 + i / A_TURN * 3);
}

/* Feeds several prompts, and answers after them. Writes the logits of all tokens. */
static void feed_turns(struct engine *engine, const int32_t *tokens, float *logits)
{
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    const struct gpu_pass *pass = engine->batch.passes[0];
    const struct {
        size_t tokens, batch;
        bool is_short;
    } parts[] = {{SHORT, SHORT, true}, {LONG, LONG, false}, {ONES, 1, true}};
    for (size_t i = 0, at = 0; i < TURNS * COUNT_OF(parts); i++) {
        const size_t part = i % COUNT_OF(parts), count = parts[part].tokens;
        feed(engine, 0, tokens + at, count, parts[part].batch, logits + at * vocabulary);
        at += count;
        assert_int_equal(pass->is_short, parts[part].is_short);
        assert_int_equal(count_lent(engine) > lent_slots(engine) / 2, parts[part].is_short);
        assert_true(parts[part].is_short || count_lent(engine) == 0);
        check_experts(engine);
        nothing_is_in_use(engine_store(engine));
    }
}

/* Experts leave the device for a long batch, and the most used ones come back. The answers are those of the CPU. When
 * experts move depends on their use, not on whether memory had them. */
static void experts_come_back(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    int32_t tokens[ALL];
    size_t vocabulary;
    float *logits[3];
    uint64_t moves[3];
    make_text(tokens);
    float *expected = run_tokens_on_cpu(NAME, tokens, ALL, &vocabulary);
    for (int run = 0; run < 3; run++) {
        struct engine *engine = open_lending(false);
        const struct plan_gpu *plan = engine->open.plan->gpu;
        struct store_statistics statistics;
        assert_true(plan->lent_bytes && plan->lent_bytes < plan->scratch_bytes);
        assert_true(plan_gpu_bytes(plan) <= plan->budget);
        assert_true(plan->resident_bytes + plan->expert_bytes + plan->kv_bytes + plan->scratch_bytes > plan->budget);
        assert_true(gpu_buffer_bytes(store_lent(engine_store(engine), 0)) >= plan->lent_bytes);
        if (run == 1)
            assert_ok(store_resize(engine_store(engine), engine->open.plan->pool_bytes / 2, &test_error));
        if (run == 2)
            let_experts_visit(engine);
        logits[run] = calloc(ALL * vocabulary, sizeof **logits);
        feed_turns(engine, tokens, logits[run]);
        store_statistics(engine_store(engine), &statistics);
        moves[run] = statistics.expert_moves;
        assert_int_equal(engine->batch.passes[0]->visit_turn > 0, run == 2);
        const struct distance d = measure(expected, logits[run], ALL, vocabulary);
        print_message("# %u lent slots, %llu moves: KL %g\n", lent_slots(engine), (unsigned long long)moves[run],
                      d.kl_mean);
        assert_true(d.kl_mean < most_kl(NAME));
        close_silent(engine);
    }
    assert_int_equal(moves[0], moves[1]);
    assert_memory_equal(logits[0], logits[1], ALL * vocabulary * sizeof **logits);
    for (int run = 0; run < 3; run++)
        free(logits[run]);
    free(expected);
    treat_memory_as("shared");
}

/* Where experts may not move, a request's bits must not depend on the prompts before it. */
static void fixed_experts_lend_nothing(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    struct engine *engine = open_lending(true);
    assert_int_equal(engine->open.plan->gpu->lent_bytes, 0);
    assert_null(store_lent(engine_store(engine), 0));
    assert_int_equal(lent_slots(engine), 0);
    close_silent(engine);
    treat_memory_as("shared");
}

/* Feeds tokens, in batches of these lengths, until one fails. Returns the number of batches that did not. */
static size_t feed_until_error(struct engine *engine, const int32_t *tokens, const uint32_t *lengths, size_t count)
{
    for (size_t b = 0; b < count; b++) {
        uint32_t positions[2 * LONG + 8], at = engine_positions(engine, 0);
        for (uint32_t i = 0; i < lengths[b]; i++)
            positions[i] = at + i;
        const struct engine_batch batch = {.count = lengths[b], .tokens = tokens + at, .positions = positions};
        if (engine_forward(engine, &batch, &test_error))
            return b;
    }
    return count;
}

/* A batch takes the room of no more layers than it needs. */
static void longer_batches_take_more(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    const struct setting setting = {.kv_type = TENSOR_F16, .gpu_budget = (uint64_t)12 << 20};
    struct engine_options options;
    int32_t tokens[ALL];
    const uint32_t lengths[] = {1, 64, 128};
    uint32_t left[COUNT_OF(lengths)];
    make_text(tokens);
    set_options(&options, &setting);
    options.chunk = 128;
    struct engine *engine = open_above_smallest(model_path(NAME), &options, (uint64_t)2 << 20);
    const struct plan_gpu *plan = engine->open.plan->gpu;
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        uint32_t expected = 0;
        engine_truncate(engine, 0, 0);
        assert_int_equal(feed_until_error(engine, tokens, &lengths[i], 1), 1);
        left[i] = count_lent(engine);
        for (uint32_t l = 0; l < plan->layer_count; l++)
            expected += plan->lent[l] ? plan_gpu_slots(plan, l, lengths[i]) : 0;
        print_message("# %u rows leave %u of %u lent slots, %u were planned\n", lengths[i], left[i], lent_slots(engine),
                      expected);
        assert_true(left[i] <= expected);
        check_experts(engine);
    }
    assert_true(left[0] == lent_slots(engine) && left[1] < left[0] && left[2] < left[1]);
    /* A short batch between two long ones returns nothing; another one does. */
    const struct gpu_pass *pass = engine->batch.passes[0];
    const uint64_t taken = pass->taken;
    assert_int_equal(feed_until_error(engine, tokens, &lengths[0], 1), 1);
    assert_true(taken > 0 && pass->taken == taken);
    assert_int_equal(feed_until_error(engine, tokens, &lengths[0], 1), 1);
    assert_int_equal(pass->taken, 0);
    close_silent(engine);
    treat_memory_as("shared");
}

/* If the device is not told that experts left it, the request fails. If they cannot be copied back, others compute
 * them.
 */
static void copies_are_refused(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    int32_t tokens[ALL];
    uint32_t lengths[ONES];
    make_text(tokens);
    for (size_t i = 0; i < ONES; i++)
        lengths[i] = i == 1 ? LONG : 1;
    for (int back = 0; back < 2; back++) {
        struct engine *engine = open_lending(false);
        struct gpu *gpu = engine->open.devices.gpus[0];
        assert_int_equal(feed_until_error(engine, tokens, lengths, back ? 2 : 1), back ? 2 : 1);
        unsigned long long copies = gpu->uploaded;
        close_silent(engine);
        char fault[32];
        snprintf(fault, sizeof fault, "copy:%llu", copies + 1);
        setenv("HYPURA_GPU_FAULT", fault, 1);
        engine = open_lending(false);
        unsetenv("HYPURA_GPU_FAULT");
        const size_t fed = feed_until_error(engine, tokens, lengths, back ? 8 : 2);
        if (back) {
            assert_int_equal(fed, 8);
            assert_false(engine_lost(engine));
            assert_int_equal(count_lent(engine), 0);
        } else {
            assert_int_equal(fed, 1);
            assert_int_equal(test_error.status, HYPURA_ERROR_DEVICE);
            assert_true(engine_lost(engine));
        }
        nothing_is_in_use(engine_store(engine));
        close_silent(engine);
    }
    treat_memory_as("shared");
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_come_back),
        cmocka_unit_test(fixed_experts_lend_nothing),
        cmocka_unit_test(longer_batches_take_more),
        cmocka_unit_test(copies_are_refused),
    };
    return cmocka_run_group_tests(tests, find_device, NULL);
}
