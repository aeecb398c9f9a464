/* What a run next to a device notes about the uses of experts: the hits that the next plan expects are those that come,
 * with the device and without. Without a device, the test is skipped. */
#include "folder.h"
#include "gpu_engine.h"

#define SAID 60u

#define NEAR 0.1

/* Opens the embedded model with memory for this share of the experts that no device holds. What a driver keeps in the
 * process counts, too, and changes. */
static struct engine *open_with_room(struct setting setting, bool gpu, double share)
{
    uint64_t step = (uint64_t)8 << 20;
    for (uint64_t budget = 2 * step; budget < (uint64_t)512 << 20; budget += step) {
        struct engine_options options;
        struct engine *engine = NULL;
        setting.budget = budget;
        set_options(&options, &setting);
        options.gpu = gpu ? number : "none";
        options.remember_usage = true;
        options.prefetching = STORE_PREFETCH_OFF;
        options.fill = false;
        const hypura_status status = engine_open(&engine, model_path("embedded"), &options, &test_error);
        if (status == HYPURA_ERROR_MEMORY)
            continue;
        assert_ok(status);
        const struct plan *plan = engine_plan(engine);
        if (step > (uint64_t)1 << 20) {
            step = (uint64_t)1 << 20;
            budget -= (uint64_t)8 << 20;
            close_silent(engine);
            continue;
        }
        if ((double)plan->expert_cache_bytes >= share * (double)plan->expert_bytes)
            return engine;
        close_silent(engine);
    }
    fail();
    return NULL;
}

static void say(struct engine *engine)
{
    const uint32_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(vocabulary, sizeof *logits);
    struct random random;
    random_seed(&random, 5);
    for (uint32_t i = 0; i < SAID; i++) {
        const int32_t token = (int32_t)(random_next(&random) % 400);
        feed(engine, 0, &token, 1, 1, logits);
    }
    free(logits);
}

/* Of a run: the difference between the hits that its plan expected and those that came. The next plan knows of it. */
static double surprise(const struct setting *setting, bool gpu, double share)
{
    struct engine_statistics found;
    struct engine *engine = open_with_room(*setting, gpu, share);
    const double expected = engine_plan(engine)->predicted_hit_rate;
    assert_int_equal(engine_plan(engine)->mode, PLAN_EXPERT_STREAMING);
    say(engine);
    engine_statistics(engine, &found);
    const double came = (double)found.store.expert_hits / (double)(found.store.expert_hits + found.store.expert_misses);
    print_message("# %s the device: hits %.2f, expected %.2f\n", gpu ? "with" : "without", came, expected);
    close_silent(engine);
    return fabs(came - expected);
}

static void hits_come_as_expected(void **state)
{
    (void)state;
    device_or_skip();
    setenv("XDG_STATE_HOME", test_folder, 1);
    treat_memory_as("separate");
    struct setting with = {.kv_type = TENSOR_F16, .fixed = true};
    const struct setting without = with;
    struct engine *engine = open_with_room(with, true, 0);
    const struct plan_gpu *there = engine_plan(engine)->gpu;
    assert_non_null(there);
    with.gpu_budget = there->scratch_bytes + there->resident_bytes + there->kv_bytes + there->expert_bytes / 3;
    say(engine); /* a driver takes memory when it first compiles a kernel */
    close_silent(engine);
    surprise(&with, true, 0.4);
    assert_true(surprise(&with, true, 0.4) < NEAR);
    assert_true(surprise(&without, false, 0.6) < NEAR);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(hits_come_as_expected, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, find_device, NULL);
}
