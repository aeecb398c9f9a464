/* The techniques that speed up successive tokens on a GPU change no bit. Without a device, the tests are skipped. */
#include "gpu_engine.h"

/* Kernels that wait for each other by a counter give the same results as with barriers, also after a batch that was
 * recorded but not submitted. */
static void chains_change_no_bit(void **state)
{
    (void)state;
    device_or_skip();
    static const struct {
        const char *name;
        enum tensor_type kv_type;
    } models[] = {{"q-llama-Q4_K_M", TENSOR_Q8_0}, {"q-mixtral-Q4_K-Q4_K-Q6_K", TENSOR_Q8_0},
                  {"qwen3moe", TENSOR_Q8_0},       {"gemma2", TENSOR_F16},
                  {"deepseek2-v3", TENSOR_F16},    {"gpt-oss", TENSOR_F16},
                  {"qwen2moe", TENSOR_F16}};
    for (size_t m = 0; m < COUNT_OF(models); m++) {
        float *logits[2];
        size_t vocabulary = 0;
        for (int chained = 0; chained < 2; chained++) {
            setenv("HYPURA_GPU_CHAINS", chained ? "1" : "0", 1);
            struct setting setting = {.kv_type = models[m].kv_type};
            struct engine *engine = open_with(models[m].name, &setting);
            vocabulary = model_parameters(engine_model(engine))->vocabulary;
            struct gpu *gpu = engine->open.devices.gpus[0];
            const uint32_t before = gpu->chained; /* from the trial row */
            gpu_begin(gpu);
            gpu_launch_chained(gpu, KERNEL_heads, NULL, 0, NULL, GPU_PUSH_BYTES + 1, 1, 1, 1);
            assert_int_equal(gpu_submit(gpu, NULL, 0, &test_error), HYPURA_ERROR_ARGUMENT);
            assert_int_equal(gpu->chained, before);
            gpu->chained = (uint32_t)chained; /* as after a batch whose recording failed */
            const uint32_t nearly = UINT32_MAX - 99;
            gpu_ticket ticket = 0;
            if (chained)
                assert_ok(gpu_upload(gpu, (struct gpu_range){gpu->counters, GPU_PROGRESS_AT}, &nearly, sizeof nearly,
                                     &ticket, &test_error));
            assert_ok(gpu_upload_wait(gpu, ticket, &test_error));
            gpu->chained_sent = chained ? nearly : 0;
            logits[chained] = run_tokens(engine);
            assert_int_equal(gpu->chained_sent > 0, chained);
            assert_true(gpu->chained_sent < nearly);
            close_silent(engine);
        }
        assert_memory_equal(logits[0], logits[1], TOKENS * vocabulary * sizeof(float));
        free(logits[0]);
        free(logits[1]);
    }
    unsetenv("HYPURA_GPU_CHAINS");
}

/* Feeds tokens of two sequences, together and alone, takes some back, and reads a prompt in between. *used counts the
 * batches whose commands had been recorded ahead. */
static float *run_steps(struct engine *engine, uint32_t *used)
{
    static const uint8_t batches[] = {1, 1, 1, 1, 3, 3, 3, 3, 2, 2, 2, 0, 2, 2, 2, 9, 1, 1, 1, 1};
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary, rows = 0;
    float *logits = calloc(2 * COUNT_OF(batches) * vocabulary, sizeof *logits);
    *used = 0;
    for (size_t i = 0; i < COUNT_OF(batches); i++) {
        int32_t tokens[9];
        uint32_t positions[9], sequences[9];
        bool want[9] = {0};
        struct engine_batch batch = {
            .tokens = tokens, .positions = positions, .sequences = sequences, .want_logits = want};
        if (batches[i] == 0) {
            engine_truncate(engine, 1, engine_positions(engine, 1) - 1);
            continue;
        }
        for (uint32_t s = 0; s < 2; s++)
            for (uint32_t n = 0; n < (batches[i] == 9 ? 9 * !s : batches[i] >> s & 1u); n++, batch.count++) {
                tokens[batch.count] = (int32_t)(7 * i + 50 * s + n);
                positions[batch.count] = engine_positions(engine, s) + n;
                sequences[batch.count] = s;
                want[batch.count] = batches[i] < 9 || n == 8;
            }
        engine->batch.pass->ahead.seconds = 0; /* ignore the time that compiling kernels took */
        assert_ok(engine_forward(engine, &batch, &test_error));
        *used += engine->batch.pass->ahead.used;
        size_t count = batches[i] == 3 ? 2 : 1;
        memcpy(logits + rows * vocabulary, engine_logits(engine, 0), count * vocabulary * sizeof *logits);
        rows += count;
    }
    return logits;
}

/* Commands of the next token that were recorded ahead give the same bits as those recorded for it. */
static void recording_ahead_changes_no_bit(void **state)
{
    (void)state;
    device_or_skip();
    static const char *const names[] = {"llama", "mixtral", "gemma2"};
    for (size_t m = 0; m < COUNT_OF(names); m++) {
        float *logits[2];
        size_t bytes = 0;
        for (int ahead = 0; ahead < 2; ahead++) {
            struct engine_options options;
            struct engine *engine = NULL;
            set_options(&options, &(struct setting){.kv_type = TENSOR_F16});
            options.sequences = 2;
            assert_ok(engine_open(&engine, model_path(names[m]), &options, &test_error));
            assert_true(engine->batch.pass && engine->batch.pass->ahead.possible);
            engine->batch.pass->ahead.possible = ahead;
            uint32_t used;
            logits[ahead] = run_steps(engine, &used);
            /* Only batches that follow another expected batch use recorded commands. */
            assert_int_equal(used, ahead ? 8 : 0);
            bytes = 40 * model_parameters(engine_model(engine))->vocabulary * sizeof(float);
            close_silent(engine);
        }
        assert_memory_equal(logits[0], logits[1], bytes);
        free(logits[0]);
        free(logits[1]);
    }
}

/* If a batch that uses commands recorded ahead fails before they are submitted, the next batch does not use them. */
static void fails_before_recorded_commands_are_submitted(void **state)
{
    (void)state;
    device_or_skip();
    struct engine *engine = open_with("llama", &(struct setting){.kv_type = TENSOR_F16});
    for (uint32_t position = 0; position < 3; position++) {
        int32_t token = 5;
        struct engine_batch batch = {.count = 1, .tokens = &token, .positions = &position};
        engine->batch.pass->ahead.seconds = 0;
        assert_ok(engine_forward(engine, &batch, &test_error));
    }
    assert_true(engine->batch.pass->ahead.ready && engine->open.devices.gpus[0]->open);
    engine->batch.scratch.positions[0]++;
    gpu_pass_begin(&engine->batch);
    assert_true(engine->batch.pass->ahead.used);
    gpu_pass_abandon(&engine->batch);
    assert_null(engine->open.devices.gpus[0]->open);
    close_silent(engine);
}

/* If recording ahead fails, the commands are recorded when the batch comes. */
static void cannot_record_ahead(void **state)
{
    (void)state;
    device_or_skip();
    struct engine *engine = open_with("llama", &(struct setting){.kv_type = TENSOR_F16});
    size_t capacity = engine->batch.kv.layers[0].capacity;
    for (uint32_t position = 0; position < 5; position++) {
        int32_t token = 5;
        struct engine_batch batch = {.count = 1, .tokens = &token, .positions = &position};
        engine->batch.pass->ahead.seconds = 0;
        /* The batch at position 3 runs the recorded commands, but recording ahead fails after it. */
        engine->batch.kv.layers[0].capacity = position == 3 ? 1 : capacity;
        assert_int_equal(engine->batch.pass->ahead.ready, position == 2 || position == 3);
        assert_ok(engine_forward(engine, &batch, &test_error));
        assert_int_equal(engine->batch.pass->ahead.used, position == 2 || position == 3);
    }
    close_silent(engine);
}

/* A slow device gets fewer layers of a prompt per submission, and gives the same bits. */
static void slow_devices_get_less_per_submission(void **state)
{
    (void)state;
    device_or_skip();
    struct engine *engine = open_with("embedded", &(struct setting){.kv_type = TENSOR_F16});
    int32_t tokens[TOKENS];
    uint32_t sent[2];
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits[2];
    prompt_of(tokens);
    for (int slow = 0; slow < 2; slow++) {
        if (slow)
            engine->open.devices.infos[0].multiply_adds_per_second =
                engine->batch.pass->layer_work * PROMPT / 2; /* two seconds per layer */
        engine_truncate(engine, 0, 0);
        logits[slow] = calloc(PROMPT * vocabulary, sizeof *logits[slow]);
        feed(engine, 0, tokens, PROMPT, SIZE_MAX, logits[slow]);
        sent[slow] = engine->batch.pass->sent;
    }
    assert_true(engine->batch.pass->layer_work > 1e5);
    assert_true(sent[1] > sent[0] + model_parameters(engine_model(engine))->layers / 2);
    assert_memory_equal(logits[0], logits[1], PROMPT * vocabulary * sizeof(float));
    free(logits[0]);
    free(logits[1]);
    close_silent(engine);
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chains_change_no_bit),
        cmocka_unit_test(recording_ahead_changes_no_bit),
        cmocka_unit_test(fails_before_recorded_commands_are_submitted),
        cmocka_unit_test(cannot_record_ahead),
        cmocka_unit_test(slow_devices_get_less_per_submission),
    };
    return cmocka_run_group_tests(tests, find_device, NULL);
}
