/* Devices that fail while a model is opened or runs: out of memory, lost, hanging. This tests a sample of places;
 * test_gpu_faults_all tests all. Without a device, the tests are skipped. */
#include "gpu_engine.h"

#ifndef EVERYWHERE
#define EVERYWHERE 0
#endif

static hypura_status run_one(struct engine *engine)
{
    int32_t token = 5;
    uint32_t position = engine_positions(engine, 0);
    struct engine_batch batch = {.count = 1, .tokens = &token, .positions = &position};
    return engine_forward(engine, &batch, &test_error);
}

static struct engine *open_with_fault(const char *fault, const char *name)
{
    struct setting setting = {.kv_type = TENSOR_F16};
    setenv("HYPURA_GPU_FAULT", fault, 1);
    struct engine *engine = open_with(name, &setting);
    unsetenv("HYPURA_GPU_FAULT");
    return engine;
}

/* The outcome for a model whose device fails at its n-th allocation or submission. */
enum outcome { ON_CPU, REQUEST_FAILED, FINE };

static enum outcome fail_at(const char *what, int n, const char *word, const float *expected, size_t vocabulary)
{
    char fault[32];
    enum outcome outcome = FINE;
    snprintf(fault, sizeof fault, "%s:%d", what, n);
    struct engine *engine = open_with_fault(fault, "mixtral");
    if (!engine_gpu(engine)) {
        float *logits = run_tokens(engine);
        assert_memory_equal(logits, expected, TOKENS * vocabulary * sizeof *logits);
        free(logits);
        outcome = ON_CPU;
    } else if (run_one(engine)) {
        outcome = REQUEST_FAILED;
        assert_int_equal(test_error.status, HYPURA_ERROR_DEVICE);
        assert_non_null(strstr(test_error.message, word));
        assert_int_equal(engine_positions(engine, 0), 0);
        assert_true(engine_lost(engine)); /* a server then opens the model again */
        assert_int_equal(run_one(engine), HYPURA_ERROR_DEVICE);
    }
    engine_close(engine);
    return outcome;
}

/* Wherever the device fails, either the model is opened on the CPU, or the request fails with a message. */
static void fail_everywhere(const char *what, const char *word)
{
    size_t vocabulary;
    float *expected = run_on_cpu("mixtral", &vocabulary);
    uint32_t counts[3] = {0};
    complaints = 0;
    for (int separate = 0; separate < 2; separate++) {
        treat_memory_as(separate ? "separate" : "shared");
        for (int n = 1; EVERYWHERE ? counts[FINE] <= (uint32_t)separate : n < 8; n += EVERYWHERE ? 1 : 6) {
            assert_true(n < 1000);
            counts[fail_at(what, n, word, expected, vocabulary)]++;
        }
    }
    treat_memory_as("shared");
    print_message("# opened on the CPU: %u, failed requests: %u, unaffected: %u\n", counts[ON_CPU],
                  counts[REQUEST_FAILED], counts[FINE]);
    assert_true(counts[ON_CPU] > 0 && (!EVERYWHERE || counts[REQUEST_FAILED] > 0));
    assert_int_equal(complaints, 0);
    free(expected);
}

static void out_of_device_memory(void **state)
{
    (void)state;
    device_or_skip();
    fail_everywhere("allocation", "memory");
}

static void lost_at_any_time(void **state)
{
    (void)state;
    device_or_skip();
    fail_everywhere("submit", "lost");
}

/* The third and fourth submissions are the trial row. If the device fails then, opening falls back to the CPU, for one
 * request or many. */
static void fails_at_its_first_batch(void **state)
{
    (void)state;
    device_or_skip();
    size_t vocabulary;
    float *expected = run_on_cpu("mixtral", &vocabulary);
    complaints = 0;
    for (int n = 3; n <= 5; n++)
        assert_int_equal(fail_at("submit", n, "lost", expected, vocabulary), n < 5 ? ON_CPU : REQUEST_FAILED);
    assert_int_equal(complaints, 0);
    free(expected);
}

/* If the device completes nothing, every wait still ends, including the one for closing. */
static void hangs(void **state)
{
    (void)state;
    device_or_skip();
    struct engine *engine = open_with_fault("hang:5", "mixtral");
    assert_non_null(engine_gpu(engine));
    uint64_t start = clock_nanoseconds();
    hypura_status status = run_one(engine);
    if (!status)
        status = run_one(engine);
    assert_int_equal(status, HYPURA_ERROR_DEVICE);
    assert_non_null(strstr(test_error.message, "hangs"));
    assert_true(engine_lost(engine));
    assert_int_equal(run_one(engine), HYPURA_ERROR_DEVICE);
    engine_close(engine);
    double seconds = (double)(clock_nanoseconds() - start) * 1e-9;
    print_message("# %.1f s\n", seconds);
    assert_true(seconds < 150);
}

/* If the driver lacks a feature, there is a message, and the CPU computes. */
static void lacks_something(void **state)
{
    (void)state;
    device_or_skip();
    struct gpu *gpu = NULL;
    struct engine *engine = open_with_fault("lacks:8-bit storage", "llama");
    assert_null(engine_gpu(engine));
    assert_int_equal(run_one(engine), HYPURA_OK);
    engine_close(engine);
    setenv("HYPURA_GPU_FAULT", "lacks:8-bit storage", 1);
    assert_int_equal(gpu_open(&gpu, &(struct gpu_options){.index = (uint32_t)device}, &test_error),
                     HYPURA_ERROR_UNSUPPORTED);
    unsetenv("HYPURA_GPU_FAULT");
    assert_non_null(strstr(test_error.message, "lacks 8-bit storage"));
}

/* If the driver limits the size of allocations, batches are shorter, and units that do not fit stay in memory. */
static void has_small_allocations(void **state)
{
    (void)state;
    device_or_skip();
    size_t vocabulary;
    float *expected = run_on_cpu("mixtral", &vocabulary);
    struct engine_options options;
    struct engine *engine = NULL;
    uint32_t chunks[2];
    set_options(&options, &(struct setting){.kv_type = TENSOR_F16});
    options.chunk = 0;
    for (int small = 0; small < 2; small++) {
        if (small)
            setenv("HYPURA_GPU_FAULT", "largest:1", 1);
        assert_ok(engine_open(&engine, model_path("mixtral"), &options, &test_error));
        unsetenv("HYPURA_GPU_FAULT");
        assert_non_null(engine_gpu(engine));
        chunks[small] = engine->open.plan->gpu->chunk;
        assert_true(!small || gpu_buffer_bytes(engine->batch.pass->scratch) <= 1 << 20);
        float *logits = run_tokens(engine);
        assert_true(measure(expected, logits, TOKENS, vocabulary).kl_mean < 2e-3);
        free(logits);
        close_silent(engine);
    }
    assert_true(chunks[1] < chunks[0]);
    /* Also if the options ask for longer batches. */
    options.chunk = chunks[0];
    setenv("HYPURA_GPU_FAULT", "largest:1", 1);
    assert_ok(engine_open(&engine, model_path("mixtral"), &options, &test_error));
    unsetenv("HYPURA_GPU_FAULT");
    assert_non_null(engine_gpu(engine));
    assert_int_equal(engine->open.plan->chunk, engine->open.plan->gpu->chunk);
    assert_true(engine->open.plan->chunk < chunks[0] && engine->open.plan->chunk >= chunks[1]);
    engine_close(engine);
    free(expected);
}

/* If the device has less room than it reports, it gets the units that fit. */
static void has_less_room_than_it_reports(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    struct setting setting = {.kv_type = TENSOR_F16};
    struct engine *engine = open_with("embedded", &setting);
    const struct plan_gpu *plan = engine->open.plan->gpu;
    uint64_t all = plan->resident_bytes + plan->expert_bytes + plan->kv_bytes + plan->scratch_bytes;
    char fault[32];
    close_silent(engine);
    /* Loading needs another 32 MiB for a ring. */
    snprintf(fault, sizeof fault, "room:%u", (unsigned)(all / 3 * 2 >> 20) + 33);
    engine = open_with_fault(fault, "embedded");
    assert_non_null(engine_gpu(engine));
    plan = engine->open.plan->gpu;
    assert_true(plan->resident_bytes + plan->expert_bytes + plan->kv_bytes + plan->scratch_bytes <= all / 4 * 3);
    close_silent(engine);
    treat_memory_as("shared");
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    setenv("HYPURA_GPU_AWAKE", "0", 1); /* the tests count batches */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(out_of_device_memory),
        cmocka_unit_test(lost_at_any_time),
        cmocka_unit_test(fails_at_its_first_batch),
        cmocka_unit_test(hangs),
        cmocka_unit_test(lacks_something),
        cmocka_unit_test(has_small_allocations),
        cmocka_unit_test(has_less_room_than_it_reports),
    };
    return cmocka_run_group_tests(tests, find_device, NULL);
}
