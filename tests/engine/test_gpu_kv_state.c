/* The data of a sequence in device memory, read out and written back to another sequence and to a newly opened model.
 * The text continues with the same bits. Without a device, the tests are skipped. */
#include "gpu_engine.h"

#define STOP 70
#define LONG 600 /* long enough for a window's ring to wrap around */
#define AFTER 5

static int32_t tokens[LONG + AFTER];

static struct engine *open_two(const char *name, uint64_t gpu_budget, enum tensor_type type)
{
    struct engine_options options;
    struct engine *engine = NULL;
    const struct setting setting = {.kv_type = type, .gpu_budget = gpu_budget, .fixed = true};
    set_options(&options, &setting);
    options.sequences = 2;
    options.context = 1024;
    if (engine_open(&engine, model_path(name), &options, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    assert_non_null(engine->batch.pass);
    return engine;
}

/* Feeds tokens one by one, so that commands are recorded ahead. */
static float *go_on(struct engine *engine, uint32_t sequence)
{
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(AFTER * vocabulary, sizeof *logits);
    feed(engine, sequence, tokens + engine_positions(engine, sequence), AFTER, 1, logits);
    return logits;
}

static void read_prompt(struct engine *engine, uint32_t sequence, uint32_t count)
{
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(count * vocabulary, sizeof *logits);
    engine_truncate(engine, sequence, 0);
    feed(engine, sequence, tokens, count, 50, logits);
    free(logits);
}

static void assert_goes_on(struct engine *engine, uint32_t sequence, const float *expected, const char *name,
                           const char *what)
{
    size_t bytes = AFTER * (size_t)model_parameters(engine_model(engine))->vocabulary * sizeof(float);
    float *logits = go_on(engine, sequence);
    if (memcmp(logits, expected, bytes) != 0)
        fail_msg("%s: the bits differ %s", name, what);
    free(logits);
}

static void check_at(struct engine *engine, const char *name, uint64_t gpu_budget, uint32_t stop)
{
    uint64_t digest, other;
    read_prompt(engine, 0, stop);
    uint8_t *rows = malloc(engine_rows_bytes(engine, 0, stop) + 1);
    uint8_t *checkpoint = malloc(engine_checkpoint_bytes(engine) + 1);
    assert_ok(engine_read_rows(engine, 0, 0, stop, rows, &test_error));
    assert_ok(engine_read_checkpoint(engine, 0, checkpoint, &test_error));
    float *expected = go_on(engine, 0);

    assert_ok(engine_write_checkpoint(engine, 0, stop, tokens, checkpoint, &test_error));
    assert_goes_on(engine, 0, expected, name, "where it was before");
    read_prompt(engine, 1, 20); /* the sequence holds another text */
    assert_ok(engine_write_rows(engine, 1, 0, stop, rows, &test_error));
    assert_ok(engine_write_checkpoint(engine, 1, stop, tokens, checkpoint, &test_error));
    uint8_t *again = malloc(engine_rows_bytes(engine, 0, stop) + 1);
    assert_ok(engine_read_rows(engine, 1, 0, stop, again, &test_error));
    assert_memory_equal(rows, again, engine_rows_bytes(engine, 0, stop));
    assert_goes_on(engine, 1, expected, name, "in another sequence");
    if (engine_can_share(engine)) {
        const uint32_t whole = (uint32_t)align_down(stop, PLAN_KV_BLOCK);
        assert_ok(engine_share_rows(engine, 1, 0, whole, &test_error));
        read_prompt(engine, 0, 20); /* the first sequence reads another text */
        assert_ok(engine_write_rows(engine, 1, whole, stop, rows + engine_rows_bytes(engine, 0, whole), &test_error));
        assert_ok(engine_write_checkpoint(engine, 1, stop, tokens, checkpoint, &test_error));
        assert_ok(engine_read_rows(engine, 1, 0, stop, again, &test_error));
        assert_memory_equal(rows, again, engine_rows_bytes(engine, 0, stop));
        assert_goes_on(engine, 1, expected, name, "with rows of another sequence");
    }
    free(again);

    struct engine *anew = open_two(name, gpu_budget, engine->batch.kv.type);
    assert_ok(engine_state_digest(&digest, engine, &test_error));
    assert_ok(engine_state_digest(&other, anew, &test_error));
    assert_true(digest == other);
    assert_ok(engine_write_rows(anew, 1, 0, stop, rows, &test_error));
    assert_ok(engine_write_checkpoint(anew, 1, stop, tokens, checkpoint, &test_error));
    assert_goes_on(anew, 1, expected, name, "in a newly opened model");
    close_silent(anew);
    free(expected);
    free(rows);
    free(checkpoint);
}

/* After some drafts are accepted, the text continues as if the others had not existed. */
static void check_drafts(struct engine *engine, const char *name)
{
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    const uint32_t most = engine_drafts(engine);
    assert_int_equal(most, GPU_VECTOR_TOKENS - 1);
    for (uint32_t right = 0; right <= most; right += 3) {
        int32_t drafts[GPU_VECTOR_TOKENS];
        uint32_t positions[GPU_VECTOR_TOKENS];
        bool want[GPU_VECTOR_TOKENS];
        float *logits = calloc((1 + right) * vocabulary, sizeof *logits);
        read_prompt(engine, 0, 20);
        feed(engine, 0, tokens + 20, 1 + right, 1, logits);
        float *expected = go_on(engine, 0);
        read_prompt(engine, 0, 20);
        for (uint32_t i = 0; i <= most; i++) {
            drafts[i] = tokens[20 + i] ^ (i > right);
            positions[i] = 20 + i;
            want[i] = true;
        }
        struct engine_batch batch = {
            .count = 1 + most, .tokens = drafts, .positions = positions, .want_logits = want, .drafted = most};
        assert_ok(engine_forward(engine, &batch, &test_error));
        assert_memory_equal(engine_logits(engine, right), logits + right * vocabulary, vocabulary * sizeof *logits);
        assert_ok(engine_accept(engine, right, &test_error));
        assert_int_equal(engine_positions(engine, 0), 21 + right);
        assert_goes_on(engine, 0, expected, name, "after drafts");
        free(expected);
        free(logits);
    }
}

static void check_model(const char *name, enum tensor_type type, bool rings, bool divided)
{
    struct engine *engine = open_two(name, 0, type);
    const struct plan_gpu *gpu = engine->open.plan->gpu;
    const uint64_t moved = gpu->resident_bytes + gpu->kv_bytes;
    const uint64_t less = moved / 2 + gpu->expert_bytes + gpu->scratch_bytes;
    assert_true(gpu->taken > 0);
    check_at(engine, name, 0, STOP);
    check_drafts(engine, name);
    if (rings)
        check_at(engine, name, 0, LONG);
    close_silent(engine);
    if (divided) { /* layers on both sides */
        engine = open_two(name, less, type);
        check_at(engine, name, less, STOP);
        check_drafts(engine, name);
        close_silent(engine);
    }
}

static void same_bits_from_kept_data(void **state)
{
    (void)state;
    device_or_skip();
    const char *folder = getenv("HYPURA_ORACLE");
    char path[4096];
    struct random random;
    random_seed(&random, 3);
    for (size_t i = 0; i < COUNT_OF(tokens); i++)
        tokens[i] = (int32_t)(random_next(&random) % 300);
    treat_memory_as("separate");
    check_model("llama", TENSOR_Q8_0, false, true);
    check_model("gemma2", TENSOR_F16, true, false);
    check_model("deepseek2-v3", TENSOR_F16, false, false);
    check_model("qwen3next", TENSOR_F16, false, true);
    treat_memory_as("shared");
    check_model("llama", TENSOR_F16, false, false);
    /* Models with heads and a state in one layer, and with an index. */
    static const char *const further[] = {"falcon-h1", "glm-dsa"};
    for (size_t i = 0; folder && i < COUNT_OF(further); i++) {
        snprintf(path, sizeof path, "%s/models/%s.gguf", folder, further[i]);
        check_model(path, TENSOR_F16, false, false);
    }
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup(same_bits_from_kept_data, find_device)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
