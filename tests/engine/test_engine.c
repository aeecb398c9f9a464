/* The engine apart from its logits: errors that leave everything unchanged, going back, cancelling, traces, budgets. */
#include "folder.h"
#include "reference.h"

#include "engine/engine_private.h"
#include "hw/hw.h"
#include "store/trace.h"
#include "tools/synth.h"

#include <sys/wait.h>
#include <unistd.h>

static struct engine *open_model(const char *name, uint32_t context, uint32_t sequences)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = context;
    options.sequences = sequences;
    options.threads = 2;
    assert_ok(engine_open(&engine, model_path(name), &options, &test_error));
    return engine;
}

static void fill(int32_t *tokens, size_t count, uint64_t seed)
{
    struct random random;
    random_seed(&random, seed);
    for (size_t i = 0; i < count; i++)
        tokens[i] = (int32_t)(random_next(&random) % 300);
}

/* A rank that computes only experts leaves the memory of all other buffers to them. */
static void experts_alone_need_fewer_buffers(void **state)
{
    (void)state;
    struct model *model;
    struct steps *steps;
    struct geometry all, experts;
    assert_ok(model_open(&model, model_path("embedded"), &test_error));
    assert_ok(steps_make(&steps, model, &test_error));
    geometry_make(&all, model, steps, 1, 1, false);
    geometry_make(&experts, model, steps, 1, 1, true);
    assert_true(all.widths[BUFFER_QUERY] && all.logits_rows);
    assert_true(!experts.widths[BUFFER_HIDDEN] && !experts.widths[BUFFER_QUERY] && !experts.logits_rows);
    assert_int_equal(experts.widths[BUFFER_NORMED], model_parameters(model)->embedding);
    assert_true(scratch_bytes(&experts, 512, 512) < scratch_bytes(&all, 512, 512) * 2 / 3);
    steps_free(steps);
    model_close(model);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static void refuse(struct engine *engine, const struct engine_batch *batch, const char *word)
{
    uint32_t before = engine_positions(engine, 0);
    assert_int_equal(engine_forward(engine, batch, &test_error), HYPURA_ERROR_ARGUMENT);
    if (!strstr(test_error.message, word))
        fail_msg("the error '%s' does not contain '%s'", test_error.message, word);
    assert_int_equal(engine_positions(engine, 0), before);
}

static void refuses_invalid_batches(void **state)
{
    (void)state;
    struct engine *engine = open_model("llama", 64, 2);
    int32_t tokens[70] = {1, 2, 3};
    uint32_t positions[70] = {0, 1, 2}, sequences[70] = {0, 0, 0};
    struct engine_batch batch = {.count = 3, .tokens = tokens, .positions = positions, .sequences = sequences};
    assert_ok(engine_forward(engine, &batch, &test_error));
    refuse(engine, &batch, "position 0 of sequence 0; the next is 3");
    for (uint32_t i = 0; i < 3; i++)
        positions[i] = 3 + i;
    batch.count = 0;
    refuse(engine, &batch, "0 tokens");
    batch.count = 3;
    tokens[1] = 448;
    refuse(engine, &batch, "448");
    tokens[1] = -1;
    refuse(engine, &batch, "-1");
    tokens[1] = 2;
    sequences[2] = 2;
    refuse(engine, &batch, "sequence 2");
    sequences[1] = 1;
    sequences[2] = 0;
    positions[1] = 0;
    positions[2] = 4;
    refuse(engine, &batch, "not adjacent");
    for (uint32_t i = 0; i < 70; i++) {
        sequences[i] = 0;
        positions[i] = 3 + i;
    }
    batch.count = 62;
    refuse(engine, &batch, "context of 64 positions is full");
    batch.count = 61;
    assert_ok(engine_forward(engine, &batch, &test_error));
    bool want[20];
    memset(want, true, sizeof want);
    struct engine_batch many = {
        .count = 20, .tokens = tokens, .positions = sequences, .sequences = sequences, .want_logits = want};
    uint32_t other[20], from_zero[20];
    for (uint32_t i = 0; i < 20; i++) {
        other[i] = 1;
        from_zero[i] = i;
    }
    many.sequences = other;
    many.positions = from_zero;
    assert_true(engine_logits_rows(engine) < 20);
    refuse(engine, &many, "logits");
    engine_close(engine);
}

static void names_files_that_are_not_models(void **state)
{
    (void)state;
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    assert_int_not_equal(engine_open(&engine, "/nonexistent.gguf", &options, &test_error), HYPURA_OK);
    assert_non_null(strstr(test_error.message, "/nonexistent.gguf"));
    options.context = UINT32_MAX;
    assert_int_equal(engine_open(&engine, model_path("llama"), &options, &test_error), HYPURA_ERROR_ARGUMENT);
    engine_default_options(&options);
    options.budget = 1000;
    assert_int_equal(engine_open(&engine, model_path("llama"), &options, &test_error), HYPURA_ERROR_MEMORY);
    assert_non_null(strstr(test_error.message, "smallest"));
    engine_default_options(&options);
    options.kv_type = TENSOR_Q8_0; /* heads of 48 do not fill blocks of 32 */
    assert_int_equal(engine_open(&engine, model_path("qwen3"), &options, &test_error), HYPURA_ERROR_UNSUPPORTED);
    engine_default_options(&options);
    options.cache_policy = "newest"; /* an error even if nothing streams */
    assert_int_equal(engine_open(&engine, model_path("llama"), &options, &test_error), HYPURA_ERROR_ARGUMENT);
    assert_non_null(strstr(test_error.message, "lru"));
    assert_null(engine);
}

/* One token uses the expected number of experts in each layer, and is counted once. */
static void reports_which_experts_were_used(void **state)
{
    (void)state;
    struct engine *engine = open_model("qwen3moe", 64, 1);
    const struct model_parameters *p = model_parameters(engine_model(engine));
    bool used[4096];
    assert_true(p->experts > p->experts_used && p->layers * p->experts <= COUNT_OF(used));
    int32_t token = 7;
    uint32_t position = 0;
    struct engine_batch batch = {.count = 1, .tokens = &token, .positions = &position};
    assert_ok(engine_forward(engine, &batch, &test_error));
    engine_take_used(engine, used);
    for (uint32_t layer = 0; layer < p->layers; layer++) {
        uint32_t count = 0;
        for (uint32_t e = 0; e < p->experts; e++)
            count += used[layer * p->experts + e];
        bool mixture = model_layer(engine_model(engine), layer)->first_expert != NO_UNIT;
        assert_int_equal(count, mixture ? p->experts_used : 0);
    }
    engine_take_used(engine, used);
    for (uint32_t i = 0; i < p->layers * p->experts; i++)
        assert_false(used[i]);
    engine_close(engine);
}

/* Memory does not grow. Takes the least growth of several rounds, since the allocator settles in the first ones. */
static void leaves_nothing_behind(void **state)
{
    (void)state;
    uint64_t least = UINT64_MAX;
    for (int round = 0; round < 6; round++) {
        uint64_t before = memory_resident_bytes();
        for (int i = 0; i < 5; i++) {
            struct engine *engine = open_model("qwen3moe", 256, 1);
            int32_t tokens[20];
            float *logits = calloc(20 * 352, sizeof *logits);
            fill(tokens, 20, 9);
            feed(engine, 0, tokens, 20, 20, logits);
            free(logits);
            engine_close(engine);
        }
        uint64_t after = memory_resident_bytes();
        least = MIN(least, after > before ? after - before : 0);
    }
    assert_true(SANITIZED || least < 64 << 10);
}

/* ---- going back -------------------------------------------------------------------------------------------------- */

static void forgets_and_continues(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        bool goes_back;
    } cases[] = {{"llama", true}, {"mixtral", true}, {"deepseek2-v3", true}, {"gemma2", true}, {"qwen3next", false}};
    for (size_t c = 0; c < COUNT_OF(cases); c++) {
        struct engine *engine = open_model(cases[c].name, 256, 1);
        size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
        int32_t tokens[40], others[20];
        fill(tokens, 40, 1);
        fill(others, 20, 2);
        float *expected = calloc(40 * vocabulary, sizeof *expected), *again = calloc(40 * vocabulary, sizeof *again);
        feed(engine, 0, tokens, 40, 16, expected);
        assert_true(engine_truncate(engine, 0, 0)); /* start from an empty sequence */
        feed(engine, 0, tokens, 20, 16, again);
        feed(engine, 0, others, 20, 16, again);
        assert_true(engine_truncate(engine, 0, 40));
        assert_int_equal(engine_truncate(engine, 0, 20), cases[c].goes_back);
        assert_int_equal(engine_positions(engine, 0), cases[c].goes_back ? 20 : 0);
        uint32_t held = engine_positions(engine, 0);
        feed(engine, 0, tokens + held, 40 - held, 16, again + held * vocabulary);
        assert_memory_equal(again + 20 * vocabulary, expected + 20 * vocabulary, 20 * vocabulary * sizeof *again);
        free(expected);
        free(again);
        engine_close(engine);
    }
}

/* A sliding window's ring no longer has distant positions. Going back to them clears the sequence and reports that. */
static void windows_go_back_a_little(void **state)
{
    (void)state;
    enum { COUNT = 1500 };
    struct engine *engine = open_model("gemma2", 2048, 1);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    int32_t *tokens = calloc(COUNT, sizeof *tokens);
    fill(tokens, COUNT, 3);
    float *expected = calloc(COUNT * vocabulary, sizeof *expected), *again = calloc(COUNT * vocabulary, sizeof *again);
    feed(engine, 0, tokens, COUNT, 1000, expected);
    assert_true(engine_truncate(engine, 0, COUNT - 100));
    feed(engine, 0, tokens + COUNT - 100, 100, 7, again);
    assert_memory_equal(again, expected + (COUNT - 100) * vocabulary, 100 * vocabulary * sizeof *again);
    assert_false(engine_truncate(engine, 0, 100));
    assert_int_equal(engine_positions(engine, 0), 0);
    feed(engine, 0, tokens, COUNT, 333, again);
    assert_memory_equal(again, expected, COUNT * vocabulary * sizeof *again);
    free(tokens);
    free(expected);
    free(again);
    engine_close(engine);
}

/* ---- cancelling -------------------------------------------------------------------------------------------------- */

static bool stop_at_once(void *context, size_t index, const float *logits)
{
    (void)context;
    (void)index;
    (void)logits;
    return false;
}

static void a_stopped_batch_never_happened(void **state)
{
    (void)state;
    static const char *const names[] = {"qwen3moe", "gemma2", "qwen3next"};
    for (size_t n = 0; n < COUNT_OF(names); n++) {
        struct engine *engine = open_model(names[n], 256, 1);
        size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
        int32_t tokens[30], others[10];
        uint32_t positions[10];
        fill(tokens, 30, 4);
        fill(others, 10, 5);
        float *expected = calloc(30 * vocabulary, sizeof *expected), *again = calloc(30 * vocabulary, sizeof *again);
        feed(engine, 0, tokens, 30, 10, expected);
        engine_truncate(engine, 0, 0);
        feed(engine, 0, tokens, 10, 10, again);
        for (uint32_t i = 0; i < 10; i++)
            positions[i] = 10 + i;
        struct engine_batch batch = {.count = 10, .tokens = others, .positions = positions, .on_logits = stop_at_once};
        assert_int_equal(engine_forward(engine, &batch, &test_error), HYPURA_ERROR_CANCELLED);
        batch.on_logits = NULL;
        engine_cancel(engine, true);
        assert_int_equal(engine_forward(engine, &batch, &test_error), HYPURA_ERROR_CANCELLED);
        engine_cancel(engine, false);
        assert_int_equal(engine_positions(engine, 0), 10);
        feed(engine, 0, tokens + 10, 20, 10, again + 10 * vocabulary);
        assert_memory_equal(again, expected, 30 * vocabulary * sizeof *again);
        free(expected);
        free(again);
        engine_close(engine);
    }
}

/* ---- traces ------------------------------------------------------------------------------------------------------ */

static void records_the_routing(void **state)
{
    (void)state;
    char path[] = "/tmp/hypura-test-trace-XXXXXX";
    close(mkstemp(path));
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 64;
    options.trace_path = path;
    assert_ok(engine_open(&engine, model_path("qwen3moe"), &options, &test_error));
    int32_t tokens[12];
    fill(tokens, 12, 6);
    float *logits = calloc(12 * 352, sizeof *logits);
    feed(engine, 0, tokens, 12, 5, logits);
    engine_close(engine);
    struct trace *trace = NULL;
    assert_ok(trace_read(&trace, path, &test_error));
    assert_int_equal(trace->pass_count, 3);
    assert_int_equal(trace->tokens, 12);
    assert_int_equal(trace->shape.layer_count, 2);
    assert_int_equal(trace->shape.experts, 10);
    assert_int_equal(trace->shape.used, 3);
    for (size_t t = 0; t < 2 * 5; t++) { /* three different experts per token */
        const uint16_t *chosen = trace->passes[0].experts + 3 * t;
        assert_true(chosen[0] < 10 && chosen[1] < 10 && chosen[2] < 10);
        assert_true(chosen[0] != chosen[1] && chosen[0] != chosen[2] && chosen[1] != chosen[2]);
    }
    trace_free(trace);
    unlink(path);
    free(logits);
}

/* ---- budgets ----------------------------------------------------------------------------------------------------- */

#if !SANITIZED /* sanitizers add resident memory of their own */
/* Runs in a separate process, since the peak counts all memory ever touched. */
static void hold_the_budget(uint64_t budget)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 512;
    options.budget = budget;
    options.threads = 2;
    assert_ok(engine_open(&engine, model_path("embedded"), &options, &test_error));
    const struct plan *plan = engine_plan(engine);
    int32_t tokens[500];
    uint32_t positions[500];
    fill(tokens, 500, 7);
    for (uint32_t done = 0, now; done < 500; done += now) {
        now = done < 400 ? MIN(400 - done, plan->chunk) : 1;
        for (uint32_t i = 0; i < now; i++)
            positions[i] = done + i;
        struct engine_batch batch = {.count = now, .tokens = tokens + done, .positions = positions};
        assert_ok(engine_forward(engine, &batch, &test_error));
    }
    struct engine_statistics statistics;
    engine_statistics(engine, &statistics);
    uint64_t code = budget < PLAN_SMALL_BUDGET ? hardware_code_bytes() : 0;
    print_message("# budget %.1f MiB (%s): peak %.1f MiB, of which code %.1f MiB\n", (double)budget / 1048576,
                  plan_mode_name(plan->mode), (double)statistics.peak_rss_bytes / 1048576, (double)code / 1048576);
    assert_true(statistics.peak_rss_bytes <= budget + code);
    engine_close(engine);
}

static void stays_within_the_budget(void **state)
{
    (void)state;
    static const uint64_t budgets[] = {9 << 20, 12 << 20, 16 << 20, 300 << 20};
    for (size_t i = 0; i < COUNT_OF(budgets); i++) {
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            hold_the_budget(budgets[i]);
            fflush(NULL);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
}
#endif

static bool ignore_logits(void *context, size_t index, const float *logits)
{
    (void)context;
    (void)index;
    (void)logits;
    return true;
}

/* The bytes that a prompt of 20 tokens reads. */
static uint64_t prompt_reads(struct engine *engine, bool all)
{
    struct engine_statistics before, after;
    int32_t tokens[20];
    uint32_t positions[20];
    bool want[20];
    fill(tokens, 20, 8);
    for (uint32_t i = 0; i < 20; i++) {
        positions[i] = i;
        want[i] = all || i == 19;
    }
    struct engine_batch batch = {
        .count = 20, .tokens = tokens, .positions = positions, .want_logits = want, .on_logits = ignore_logits};
    engine_statistics(engine, &before);
    for (int i = 0; i < 4; i++) {
        engine_truncate(engine, 0, 0);
        assert_ok(engine_forward(engine, &batch, &test_error));
    }
    engine_statistics(engine, &after);
    return after.store.bytes_read - before.store.bytes_read;
}

/* If the output matrix streams, a pass reads it once, whether it wants many logits or few. */
static void many_logits_read_the_output_matrix_once(void **state)
{
    (void)state;
    struct synth_options synth;
    synth_default_options(&synth, synth_preset("tiny-mixtral"));
    synth.type = "Q8_0";
    synth.geometry.experts = synth.geometry.experts_used = 0;
    synth.geometry.layers = 1;
    synth.geometry.feed_forward = 8 * synth.geometry.embedding;
    synth.geometry.vocabulary = 8000;
    assert_ok(synth_write(path_in_folder("wide.gguf"), &synth, NULL, NULL, &test_error));
    struct engine_options options;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.chunk = 20;
    struct engine *engine = open_smallest(path_in_folder("wide.gguf"), &options);
    prompt_reads(engine, false);
    uint64_t few = prompt_reads(engine, false), all = prompt_reads(engine, true);
    assert_true(all <= few + few / 20);
    engine_close(engine);
}

/* If the budget shrinks, a dense model gives up part of its pinned weights, and answers the same. */
static void pinned_weights_make_room_for_a_smaller_budget(void **state)
{
    (void)state;
    struct engine_options options;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    struct engine *engine = open_model("phi3-longrope", 256, 1);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    int32_t tokens[40];
    fill(tokens, 40, 8);
    float *expected = calloc(40 * vocabulary, sizeof *expected), *logits = calloc(40 * vocabulary, sizeof *logits);
    feed(engine, 0, tokens, 40, 20, expected);
    engine_close(engine);
    /* If part of the weights stays, the smallest budget has some slack. */
    engine = open_smallest(model_path("phi3-longrope"), &options);
    assert_true(SANITIZED || engine_plan(engine)->table_bytes);
    if (engine_plan(engine)->table_bytes) {
        struct engine_statistics before, after;
        feed(engine, 0, tokens, 10, 10, logits);
        engine_statistics(engine, &before);
        assert_ok(engine_set_budget(engine, options.budget - (60 << 10), &test_error));
        feed(engine, 0, tokens + 10, 10, 1, logits + 10 * vocabulary);
        engine_statistics(engine, &after);
        assert_true(after.store.resident_bytes + after.store.pool_bytes + (55 << 10) <=
                    before.store.resident_bytes + before.store.pool_bytes);
        assert_ok(engine_set_budget(engine, options.budget, &test_error));
        feed(engine, 0, tokens + 20, 20, 20, logits + 20 * vocabulary);
        assert_memory_equal(logits, expected, 40 * vocabulary * sizeof *logits);
    }
    free(expected);
    free(logits);
    engine_close(engine);
}

static void budgets_move_while_running(void **state)
{
    (void)state;
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    struct engine *whole = open_model("qwen3moe", 256, 1);
    int32_t tokens[60];
    fill(tokens, 60, 8);
    float *expected = calloc(60 * 352, sizeof *expected), *logits = calloc(60 * 352, sizeof *logits);
    feed(whole, 0, tokens, 60, 20, expected);
    engine_close(whole);
    engine = open_smallest(model_path("qwen3moe"), &options);
    feed(engine, 0, tokens, 20, 20, logits);
    assert_ok(engine_set_budget(engine, options.budget + (200 << 10), &test_error));
    feed(engine, 0, tokens + 20, 20, 20, logits + 20 * 352);
    assert_ok(engine_set_budget(engine, options.budget, &test_error));
    feed(engine, 0, tokens + 40, 20, 20, logits + 40 * 352);
    assert_memory_equal(logits, expected, 60 * 352 * sizeof *logits);
    assert_int_equal(engine_set_budget(engine, 100 << 10, &test_error), HYPURA_ERROR_MEMORY);
    free(expected);
    free(logits);
    engine_close(engine);
}

static uint64_t held_experts(struct engine *engine)
{
    struct store_statistics s;
    store_statistics(engine_store(engine), &s);
    return s.pool_bytes_used;
}

/* Short batches leave the memory of most buffers to experts, and a long one gets it back. */
static void buffers_of_long_batches_hold_experts(void **state)
{
    (void)state;
    struct engine_options options;
    struct engine *engine, *whole = open_model("embedded", 512, 1);
    const uint32_t vocabulary = model_parameters(engine_model(whole))->vocabulary;
    int32_t tokens[400];
    fill(tokens, 400, 9);
    float *expected = calloc((size_t)400 * vocabulary, sizeof *expected), *logits = calloc((size_t)400 * vocabulary, 4);
    feed(whole, 0, tokens, 400, 400, expected);
    engine_close(whole);
    engine_default_options(&options);
    options.context = 512;
    options.threads = 2;
    options.chunk = 200;
    engine = open_above_smallest(model_path("embedded"), &options, 8 << 20);
    const struct plan *plan = engine_plan(engine);
    assert_true(plan->expert_cache_bytes && plan->expert_cache_bytes < plan->expert_bytes);
    assert_in_range(plan->spare_scratch_bytes, plan->scratch_bytes / 3, plan->scratch_bytes);
    feed(engine, 0, tokens, 190, 1, logits);
    assert_true(held_experts(engine) > plan->pool_bytes);
    feed(engine, 0, tokens + 190, 200, 200, logits + (size_t)190 * vocabulary);
    assert_true(held_experts(engine) <= plan->pool_bytes);
    feed(engine, 0, tokens + 390, 10, 1, logits + (size_t)390 * vocabulary);
    assert_memory_equal(logits, expected, (size_t)400 * vocabulary * sizeof *logits);
    free(expected);
    free(logits);
    engine_close(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_alone_need_fewer_buffers),
#if !SANITIZED
        cmocka_unit_test(stays_within_the_budget), /* must be first: memory that other tests leave counts, too */
#endif
        cmocka_unit_test(refuses_invalid_batches),
        cmocka_unit_test(names_files_that_are_not_models),
        cmocka_unit_test(reports_which_experts_were_used),
        cmocka_unit_test(leaves_nothing_behind),
        cmocka_unit_test(forgets_and_continues),
        cmocka_unit_test(windows_go_back_a_little),
        cmocka_unit_test(a_stopped_batch_never_happened),
        cmocka_unit_test(records_the_routing),
        cmocka_unit_test_setup_teardown(many_logits_read_the_output_matrix_once, make_folder, remove_folder),
        cmocka_unit_test(pinned_weights_make_room_for_a_smaller_budget),
        cmocka_unit_test(budgets_move_while_running),
        cmocka_unit_test(buffers_of_long_batches_hold_experts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
