/* Experts between GPU, memory and drive while a model runs, and what goes wrong there, under the validation layers.
 * Without a device the tests say skipped. */
#include "gpu_engine.h"

#include "store/internal.h"

/* ---- experts change sides ---------------------------------------------------------------------------------------- */

#define LONG 64

/* The tokens of a text that keeps coming back to the same few words. */
static void narrow_text(int32_t *tokens)
{
    for (size_t i = 0; i < LONG; i++)
        tokens[i] = (int32_t)(260 + i % 5);
}

static struct engine *open_divided(const char *name, bool fixed, bool smallest)
{
    struct setting setting = {.kv_type = TENSOR_F16};
    struct engine *engine = open_with(name, &setting);
    const struct plan_gpu *whole = engine->plan->gpu;
    setting.gpu_budget = whole->scratch_bytes + whole->resident_bytes + whole->kv_bytes + 2 * whole->expert_bytes / 5;
    close_silent(engine);
    setting.fixed = fixed;
    setting.smallest = smallest;
    return open_with(name, &setting);
}

static uint64_t moves_of(struct engine *engine, struct store_statistics *statistics)
{
    store_statistics(engine_store(engine), statistics);
    return statistics->expert_moves;
}

/* How many experts of each layer are there never changes; which ones does, and when follows from what was used: not
 * from whether memory had them. */
static void moves_by_use(void **state)
{
    (void)state;
    device_or_skip();
    setenv("HYPURA_GPU_SEPARATE", "1", 1);
    int32_t tokens[LONG];
    size_t vocabulary;
    float *logits[4], *expected;
    uint64_t moves[4];
    narrow_text(tokens);
    expected = run_tokens_on_cpu("embedded", tokens, LONG, &vocabulary);
    for (int run = 0; run < 4; run++) {
        struct engine *engine = open_divided("embedded", run == 2, run == 3);
        struct store_statistics statistics;
        uint32_t count = model_unit_count(engine_model(engine)), there = 0, changed = 0;
        bool *before = calloc(count, sizeof *before);
        assert_int_equal(engine->plan->gpu->moves, run != 2);
        for (unit_number u = 0; u < count; u++)
            there += before[u] = store_on_gpu(engine_store(engine), u);
        logits[run] = calloc(LONG * vocabulary, sizeof **logits);
        feed(engine, 0, tokens, LONG, 1, logits[run]);
        for (unit_number u = 0; u < count; u++) {
            bool now = store_on_gpu(engine_store(engine), u);
            changed += now && !before[u];
            there -= now;
        }
        moves[run] = moves_of(engine, &statistics);
        /* Some may have left their slot a moment ago. */
        assert_true(there <= MOST_MOVES);
        assert_true((run == 2) == (changed == 0));
        if (run < 3) /* all were there when it began */
            assert_true(statistics.expert_misses <= 2 * moves[run]);
        else
            assert_true(statistics.expert_misses > LONG);
        struct distance d = measure(expected, logits[run], LONG, vocabulary);
        print_message("# %llu moves, %llu misses: KL %g\n", (unsigned long long)moves[run],
                      (unsigned long long)statistics.expert_misses, d.kl_mean);
        assert_true(d.kl_mean < most_kl("embedded"));
        free(before);
        close_silent(engine);
    }
    assert_true(moves[0] > 0);
    assert_int_equal(moves[0], moves[1]);
    assert_int_equal(moves[0], moves[3]);
    assert_int_equal(moves[2], 0);
    assert_memory_equal(logits[0], logits[1], LONG * vocabulary * sizeof **logits);
    assert_memory_equal(logits[0], logits[3], LONG * vocabulary * sizeof **logits);
    for (int run = 0; run < 4; run++)
        free(logits[run]);
    free(expected);
    unsetenv("HYPURA_GPU_SEPARATE");
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(moves_by_use),
    };
    return cmocka_run_group_tests(tests, find_device, NULL);
}
