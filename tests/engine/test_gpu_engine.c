/* The forward pass with part of the model on a GPU, under the validation layers. Logits are close to the reference for
 * any division, and errors of the device are handled cleanly. Without a device, the tests are skipped. */
#include "gpu_engine.h"

#include <unistd.h>

/* One model per mechanism, entirely on the GPU. The long test_gpu_oracle covers all models. */
static void agrees_with_the_reference(void **state)
{
    (void)state;
    device_or_skip();
    static const char *const names[] = {"llama-tied",        "mixtral",      "gemma2",    "gpt-oss", "q-llama-Q4_K_M",
                                        "granitemoe-shared", "deepseek2-v3", "qwen3next", "llama4",  "command-r"};
    int failures = 0;
    for (size_t i = 0; i < COUNT_OF(names); i++) {
        char path[512];
        struct setting setting = {.kv_type = TENSOR_F16};
        struct engine *engine = open_with(names[i], &setting);
        snprintf(path, sizeof path, "oracle/logits/%s.exact.bin", names[i]);
        failures += distance_from(engine, names[i], test_data(path)) > 2e-3;
        const struct plan_gpu *gpu = engine->open.plan->gpu;
        failures += !gpu || gpu->taken < model_parameters(engine->open.model)->layers ||
                    !gpu->units[model_tensor(engine->open.model, ROLE_TOKEN_EMBEDDING)]; /* tied or not */
        close_silent(engine);
    }
    assert_int_equal(failures, 0);
}

/* ---- a model on both sides --------------------------------------------------------------------------------------- */

static uint32_t experts_there(const struct engine *engine)
{
    uint32_t experts = 0;
    for (uint32_t i = 0; engine->open.plan->gpu && i < engine->open.plan->gpu->layer_count; i++)
        experts += engine->open.plan->gpu->slots[i];
    return experts;
}

/* A budget for all but the experts, and for so many eighths of these. */
static uint64_t budget_with_experts(const char *name, const struct setting *setting, uint64_t eighths)
{
    struct engine *engine = open_with(name, setting);
    const struct plan_gpu *whole = engine->open.plan->gpu;
    assert_non_null(whole);
    const uint64_t budget =
        whole->scratch_bytes + whole->resident_bytes + whole->kv_bytes + whole->expert_bytes * eighths / 8;
    close_silent(engine);
    return budget;
}

/* For any division of layers and experts between GPU and memory, logits are close to the CPU's, and the same in each
 * run. */
static void divides_a_model(void **state)
{
    (void)state;
    device_or_skip();
    static const char *const names[] = {"embedded", "mixtral", "gpt-oss", "qwen2moe", "deepseek2-v3", "llama4"};
    uint32_t divided = 0, some_layers = 0;
    treat_memory_as("separate");
    for (size_t m = 0; m < COUNT_OF(names); m++) {
        size_t vocabulary;
        float *expected = run_on_cpu(names[m], &vocabulary);
        struct setting setting = {.kv_type = TENSOR_F16};
        struct engine *engine = open_with(names[m], &setting);
        const struct plan_gpu *whole = engine->open.plan->gpu;
        assert_non_null(whole);
        uint64_t fixed = whole->scratch_bytes;
        uint64_t rest = whole->resident_bytes + whole->kv_bytes + whole->expert_bytes;
        close_silent(engine);
        for (uint64_t eighths = 2; eighths <= 6; eighths += 4) {
            setting.gpu_budget = fixed + rest * eighths / 8;
            float *logits[2];
            for (int again = 0; again < 2; again++) {
                engine = open_with(names[m], &setting);
                divided += experts_there(engine) > 0;
                some_layers += engine->open.plan->gpu &&
                               engine->open.plan->gpu->taken < model_parameters(engine->open.model)->layers;
                if (engine->open.plan->gpu) {
                    const struct plan_gpu *gpu = engine->open.plan->gpu;
                    assert_true((gpu->host_bytes > 0) == (strcmp(names[m], "gpt-oss") == 0)); /* it has biases */
                    assert_true(engine->open.request.overhead >= gpu->host_bytes);
                    assert_true(gpu->resident_bytes + gpu->expert_bytes + gpu->kv_bytes + gpu->scratch_bytes <=
                                gpu->budget);
                }
                logits[again] = run_tokens(engine);
                close_silent(engine);
            }
            struct distance d = measure(expected, logits[0], TOKENS, vocabulary);
            print_message("# %s, %llu eighths: most %g, KL %g\n", names[m], (unsigned long long)eighths, d.most,
                          d.kl_mean);
            assert_true(d.kl_mean < most_kl(names[m]));
            assert_memory_equal(logits[0], logits[1], TOKENS * vocabulary * sizeof(float));
            free(logits[0]);
            free(logits[1]);
        }
        free(expected);
    }
    assert_true(divided > 0 && some_layers > 0);
    treat_memory_as("shared");
}

/* A long batch uploads experts from memory to the GPU if that is faster. */
static void experts_visit(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    static const char *const names[] = {"embedded", "mixtral", "gpt-oss"};
    uint32_t visited = 0;
    for (size_t m = 0; m < COUNT_OF(names); m++) {
        size_t vocabulary;
        float *expected = run_on_cpu(names[m], &vocabulary);
        const struct setting all = {.kv_type = TENSOR_F16};
        for (uint64_t eighths = 1; eighths <= 4; eighths += 3) {
            struct setting setting = all;
            setting.gpu_budget = budget_with_experts(names[m], &all, eighths);
            struct engine *engine = open_with(names[m], &setting);
            let_experts_visit(engine);
            float *logits = run_tokens(engine);
            struct distance d = measure(expected, logits, TOKENS, vocabulary);
            print_message("# %s: %u visits, KL %g\n", names[m], engine->batch.pass->visit_turn, d.kl_mean);
            visited += engine->batch.pass->visit_turn > 0;
            assert_true(d.kl_mean < most_kl(names[m]));
            free(logits);
            close_silent(engine);
        }
        free(expected);
    }
    assert_true(visited >= COUNT_OF(names)); /* at least once per model */
    treat_memory_as("shared");
}

/* Replaces the chunks of attention in a list by small ones. */
static void set_chunks(struct step_list list)
{
    for (size_t i = 0; i < list.count; i++) {
        struct step *step = (struct step *)&list.steps[i];
        assert_true(step->kind != STEP_ATTEND || step->attend.chunk == 0 || step->attend.chunk > TOKENS);
        if (step->kind == STEP_ATTEND && step->attend.chunk > 0)
            step->attend.chunk = 8;
    }
}

/* Layers that see only their chunk give the CPU's results, for prompts and token by token. */
static void sees_only_its_chunk(void **state)
{
    (void)state;
    device_or_skip();
    float *logits[3];
    size_t vocabulary = 0;
    for (int side = 0; side < 3; side++) {
        struct engine_options options;
        struct engine *engine = NULL;
        set_options(&options, &(struct setting){.kv_type = TENSOR_F16});
        options.gpu = side == 0 ? "none" : number;
        assert_ok(engine_open(&engine, model_path("llama4"), &options, &test_error));
        assert_int_equal(engine_gpu(engine) != NULL, side > 0);
        const struct model_parameters *p = model_parameters(engine_model(engine));
        if (side == 0)
            set_chunks(steps_all(engine->open.steps));
        for (uint32_t i = 0; side == 1 && i < p->layers; i++)
            for (size_t few = 0; few < COUNT_OF(engine->batch.pass->lists); few++)
                set_chunks(engine->batch.pass->lists[few].layers[i]);
        vocabulary = p->vocabulary;
        logits[side] = run_tokens(engine);
        close_silent(engine);
    }
    assert_true(measure(logits[0], logits[1], TOKENS, vocabulary).kl_mean < 2e-3);
    assert_true(measure(logits[0], logits[2], TOKENS, vocabulary).kl_mean > 1e-2);
    for (int side = 0; side < 3; side++)
        free(logits[side]);
}

static void embed_text(const char *name, const char *gpu, const char *text, uint64_t budget, float *out)
{
    struct engine_options options;
    struct engine *engine = NULL;
    struct token_array tokens = {0};
    const struct vocabulary *vocabulary;
    char path[256];
    engine_default_options(&options);
    options.threads = 2;
    options.gpu = gpu;
    options.gpu_budget = budget;
    snprintf(path, sizeof path, "embed/%s.gguf", name);
    assert_ok(engine_open(&engine, test_data(path), &options, &test_error));
    assert_int_equal(engine_gpu(engine) == NULL, strcmp(gpu, "none") == 0);
    if (engine_gpu(engine)) {
        const struct plan_gpu *plan = engine->open.plan->gpu;
        assert_true(budget ? plan->taken < plan->layer_count : plan->taken == plan->layer_count);
        assert_int_equal(plan->chunk, engine->open.plan->chunk);
    }
    assert_ok(engine_vocabulary(&vocabulary, engine, &test_error));
    assert_ok(vocabulary_tokenize(vocabulary, text, strlen(text), TOKENIZE_ADD_SPECIAL, &tokens, &test_error));
    assert_ok(engine_embed(engine, tokens.ids, tokens.count, out, &test_error));
    token_array_free(&tokens);
    close_silent(engine);
}

/* Encoders with short and long texts, and with all or some layers on the GPU. */
static void encoders_embed_like_the_cpu(void **state)
{
    (void)state;
    device_or_skip();
    static const char *const names[] = {"bert", "nomic-bert"};
    static const char *const texts[] = {"hello world",
                                        "The model is larger than the memory of this machine, so most of it stays on "
                                        "the drive and what is needed next is read ahead of need."};
    for (size_t m = 0; m < COUNT_OF(names); m++)
        for (size_t i = 0; i < COUNT_OF(texts); i++) {
            float here[64], there[64];
            double most = 0;
            embed_text(names[m], "none", texts[i], 0, here);
            embed_text(names[m], number, texts[i], 0, there);
            for (size_t d = 0; d < COUNT_OF(here); d++)
                most = fmax(most, fabs((double)here[d] - (double)there[d]));
            print_message("# %s: %.2g\n", names[m], most);
            assert_true(most < 1e-3);
        }
}

/* Opens a model with the GPU under nearly the smallest budget. A driver's memory grows each time that a device is
 * opened, more so with sanitizers, so a budget that was just enough may no longer suffice for the GPU. */
static struct engine *open_smallest_with_gpu(const char *path, struct engine_options *options)
{
    for (uint64_t more = 0; more < (uint64_t)32 << 20; more += (uint64_t)2 << 20) {
        struct engine *engine = open_above_smallest(path, options, more);
        if (engine_gpu(engine))
            return engine;
        engine_close(engine);
    }
    fail_msg("%s: 32 MiB above the smallest budget are not enough for the GPU", path);
    return NULL;
}

/* GPU, memory and drive each hold part of the model, with a budget for GPU and memory. */
static void three_tiers(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    size_t vocabulary;
    float *expected = run_on_cpu("embedded", &vocabulary);
    struct engine_options options;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.gpu = number;
    options.gpu_budget = (uint64_t)9 << 20;
    struct engine *engine = open_smallest_with_gpu(model_path("embedded"), &options);
    float *logits = run_tokens(engine);
    struct distance d = measure(expected, logits, TOKENS, vocabulary);
    struct engine_statistics statistics;
    engine_statistics(engine, &statistics);
    print_message("# on the GPU %llu, in memory %llu, on the drive %llu; read %llu: KL %g\n",
                  (unsigned long long)statistics.bytes_gpu, (unsigned long long)statistics.bytes_ram,
                  (unsigned long long)statistics.bytes_storage, (unsigned long long)statistics.store.bytes_demanded,
                  d.kl_mean);
    assert_true(d.kl_mean < most_kl("embedded"));
    assert_true(statistics.bytes_gpu > 0 && statistics.bytes_ram > 0 && statistics.bytes_storage > 0);
    assert_true(statistics.store.bytes_demanded > 0);
    free(logits);
    free(expected);
    close_silent(engine);
    treat_memory_as("shared");
}

/* Sequences in the same batch do not affect each other. */
static void sequences_are_independent(void **state)
{
    (void)state;
    device_or_skip();
    int32_t tokens[TOKENS];
    prompt_of(tokens);
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.sequences = 2;
    options.gpu = number;
    options.gpu_budget = (uint64_t)512 << 20;
    assert_ok(engine_open(&engine, model_path("mixtral"), &options, &test_error));
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *alone = calloc(6 * vocabulary, sizeof *alone);
    for (uint32_t i = 0; i < 6; i++)
        feed(engine, 1, tokens + i, 1, 1, alone + i * vocabulary);
    engine_truncate(engine, 1, 0);
    for (uint32_t i = 0; i < 6; i++) {
        int32_t both[2] = {(int32_t)(100 + i), tokens[i]};
        uint32_t positions[2] = {i, i}, sequences[2] = {0, 1};
        bool want[2] = {true, true};
        struct engine_batch batch = {
            .count = 2, .tokens = both, .positions = positions, .sequences = sequences, .want_logits = want};
        assert_ok(engine_forward(engine, &batch, &test_error));
        assert_memory_equal(engine_logits(engine, 1), alone + i * vocabulary, vocabulary * sizeof(float));
    }
    free(alone);
    close_silent(engine);
}

#define MOST_CUT 520

/* A batch of sequences with these lengths gives the same bits in parts of at most "most" rows and in smaller ones.
 * Length 0 means a whole part. */
static void cut_and_compare(const uint32_t *lengths, uint32_t sequence_count, uint32_t chunk, uint32_t most)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.sequences = sequence_count;
    options.chunk = chunk;
    options.gpu = number;
    options.gpu_budget = (uint64_t)512 << 20;
    assert_ok(engine_open(&engine, model_path("deepseek2-v3"), &options, &test_error));
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    int32_t tokens[MOST_CUT];
    struct gpu_pass *pass = engine->batch.pass;
    const struct geometry *geometry = &engine->open.geometry;
    uint32_t positions[MOST_CUT], sequences[MOST_CUT];
    bool want[MOST_CUT];
    size_t count = 0;
    /* Rows of longer parts, which this model has room for, are left out before those that are used. */
    assert_true(most > 18 && most <= pass->latent.rows);
    pass->latent.query.offset += (pass->latent.rows - most) * geometry->latent_query * sizeof(float);
    pass->latent.attended.offset += (pass->latent.rows - most) * geometry->latent_attended * sizeof(float);
    for (uint32_t s = 0; s < sequence_count; s++)
        for (uint32_t p = 0; p < (lengths[s] ? lengths[s] : most); p++, count++) {
            assert_true(count < MOST_CUT && count < chunk);
            tokens[count] = (int32_t)(7 * count % 300);
            positions[count] = p;
            sequences[count] = s;
            want[count] = true;
        }
    float *logits[2];
    for (int cut = 0; cut < 2; cut++) {
        for (uint32_t s = 0; s < sequence_count; s++)
            engine_truncate(engine, s, 0);
        pass->latent.rows = cut ? 18 : most;
        logits[cut] = calloc(count * vocabulary, sizeof **logits);
        struct copied_logits copied = {logits[cut], vocabulary};
        struct engine_batch batch = {.count = count,
                                     .tokens = tokens,
                                     .positions = positions,
                                     .sequences = sequences,
                                     .want_logits = want,
                                     .on_logits = copy_logits,
                                     .on_logits_context = &copied};
        assert_ok(engine_forward(engine, &batch, &test_error));
    }
    assert_memory_equal(logits[0], logits[1], count * vocabulary * sizeof **logits);
    free(logits[0]);
    free(logits[1]);
    close_silent(engine);
}

/* The division of latent attention into parts changes no bit. There is room for the longest possible part, which has a
 * few rows, a piece of a prompt, and a few more rows, and for that of the most sequences. */
static void parts_change_no_bit(void **state)
{
    (void)state;
    device_or_skip();
    cut_and_compare((const uint32_t[]){41, 3, 1, 12, 7}, 5, 64, 64);
    cut_and_compare((const uint32_t[]){1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1}, 17, 272, 240);
    uint32_t lengths[GPU_MAX_SEQUENCES];
    for (size_t i = 0; i < COUNT_OF(lengths); i++)
        lengths[i] = 2;
    cut_and_compare(lengths, COUNT_OF(lengths), MOST_CUT, MOST_CUT);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static void no_such_device(void **state)
{
    (void)state;
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 256;
    options.gpu = "99";
    assert_ok(engine_open(&engine, model_path("llama"), &options, &test_error));
    assert_null(engine_gpu(engine));
    engine_close(engine);
    options.gpu = "fast";
    assert_int_equal(engine_open(&engine, model_path("llama"), &options, &test_error), HYPURA_ERROR_ARGUMENT);
}

static void device_is_lost(void **state)
{
    (void)state;
    device_or_skip();
    struct setting setting = {.kv_type = TENSOR_F16};
    struct engine *engine = open_with("mixtral", &setting);
    int32_t token = 5;
    uint32_t position = 0;
    struct engine_batch batch = {.count = 1, .tokens = &token, .positions = &position};
    assert_ok(engine_forward(engine, &batch, &test_error));
    assert_false(engine_lost(engine));
    atomic_store(&engine->open.devices.gpus[0]->lost, true);
    position = 1;
    for (int again = 0; again < 2; again++) {
        assert_int_equal(engine_forward(engine, &batch, &test_error), HYPURA_ERROR_DEVICE);
        assert_non_null(strstr(test_error.message, "lost"));
        assert_true(engine_lost(engine));
        assert_int_equal(engine_positions(engine, 0), 1);
    }
    atomic_store(&engine->open.devices.gpus[0]->lost, false); /* so that closing treats the device as working */
    close_silent(engine);
}

/* A cancelled batch leaves no GPU batch waiting for the CPU's share, and the next batch runs. */
static void cancelled_in_between(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    struct setting setting = {.gpu_budget = (uint64_t)9 << 20, .kv_type = TENSOR_F16};
    struct engine *engine = open_with("embedded", &setting);
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    int32_t token = 5;
    uint32_t position = 0;
    struct engine_batch batch = {.count = 1, .tokens = &token, .positions = &position};
    store_cancel(engine->open.store, true);
    assert_int_equal(engine_forward(engine, &batch, &test_error), HYPURA_ERROR_CANCELLED);
    store_cancel(engine->open.store, false);
    assert_ok(engine_forward(engine, &batch, &test_error));
    float *first = calloc(vocabulary, sizeof *first);
    memcpy(first, engine_logits(engine, 0), vocabulary * sizeof *first);
    engine_truncate(engine, 0, 0);
    assert_ok(engine_forward(engine, &batch, &test_error));
    assert_memory_equal(first, engine_logits(engine, 0), vocabulary * sizeof *first);
    free(first);
    close_silent(engine);
    treat_memory_as("shared");
}

static bool stop_soon(void *context, uint64_t done, uint64_t total)
{
    (void)done, (void)total;
    return ++*(int *)context < 3;
}

/* If the user stops loading, uploads in flight end before their buffers are freed. */
static void cancelled_while_loading(void **state)
{
    (void)state;
    device_or_skip();
    int calls = 0;
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = 256;
    options.threads = 2;
    options.gpu = number;
    options.gpu_budget = (uint64_t)512 << 20;
    options.progress = stop_soon;
    options.progress_context = &calls;
    treat_memory_as("separate");
    complaints = 0;
    assert_int_equal(engine_open(&engine, model_path("embedded"), &options, &test_error), HYPURA_ERROR_CANCELLED);
    treat_memory_as("shared");
    assert_int_equal(calls, 3);
    assert_int_equal(complaints, 0);
}

/* With more sequences than a batch on the GPU can have, the GPU gets no layers. */
static void too_many_sequences(void **state)
{
    (void)state;
    device_or_skip();
    struct engine_options options;
    engine_default_options(&options);
    options.context = 64;
    options.threads = 2;
    options.chunk = 64;
    options.gpu = number;
    options.gpu_budget = (uint64_t)512 << 20;
    for (uint32_t more = 0; more < 2; more++) {
        struct engine *engine = NULL;
        options.sequences = GPU_MAX_SEQUENCES + more;
        assert_ok(engine_open(&engine, model_path("mixtral"), &options, &test_error));
        assert_int_equal(engine_gpu(engine) == NULL, more);
        assert_int_equal(engine->open.geometry.foreign, more);
        close_silent(engine);
    }
}

/* A layer whose missing experts are uploaded may follow one whose missing experts the CPU computes. */
static void visits_follow_divided_layers(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    static const char *const names[] = {"embedded", "mixtral"};
    for (size_t m = 0; m < COUNT_OF(names); m++) {
        size_t vocabulary;
        float *expected = run_on_cpu(names[m], &vocabulary);
        struct setting setting = {.kv_type = TENSOR_F16};
        setting.gpu_budget = budget_with_experts(names[m], &setting, 4);
        for (uint32_t first = 0; first < 2; first++) {
            struct engine *engine = open_with(names[m], &setting);
            let_experts_visit(engine);
            struct plan_gpu *plan = engine->open.plan->gpu;
            for (uint32_t l = first; l < plan->layer_count; l += 2)
                if (plan->layers[l] == GPU_CAN)
                    plan->parts[0].layers[l] = GPU_CAN_BUT_EXPERTS;
            float *logits = run_tokens(engine);
            struct distance d = measure(expected, logits, TOKENS, vocabulary);
            assert_true(engine->batch.pass->visit_turn > 0);
            assert_true(d.kl_mean < most_kl(names[m]));
            free(logits);
            close_silent(engine);
        }
        free(expected);
    }
    treat_memory_as("shared");
}

/* Experts without a GPU kernel stay on the CPU, however fast an upload would be. */
static void unknown_types_do_not_visit(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    struct setting setting = {.kv_type = TENSOR_F16};
    setting.gpu_budget = budget_with_experts("embedded", &setting, 4);
    struct engine *engine = open_with("embedded", &setting);
    assert_true(engine->open.plan->gpu && engine->open.plan->gpu->visit_slots > 0);
    let_experts_visit(engine);
    engine->batch.rows = 64;
    uint32_t last = engine->open.plan->gpu->layer_count - 1;
    assert_int_equal(engine->open.plan->gpu->layers[last], GPU_CAN);
    assert_true(pass_should_visit(&engine->batch, last));
    engine->open.plan->gpu->parts[0].layers[last] = GPU_CAN_BUT_EXPERTS;
    assert_false(pass_should_visit(&engine->batch, last));
    close_silent(engine);
    treat_memory_as("shared");
}

/* The trace has every pass, but not the engine's own trial passes. */
static void records_the_routing(void **state)
{
    (void)state;
    device_or_skip();
    char path[] = "/tmp/hypura-test-trace-XXXXXX";
    close(mkstemp(path));
    struct setting setting = {.kv_type = TENSOR_F16};
    struct engine_options options;
    struct engine *engine = NULL;
    set_options(&options, &setting);
    options.trace_path = path;
    assert_ok(engine_open(&engine, model_path("mixtral"), &options, &test_error));
    assert_non_null(engine_gpu(engine));
    free(run_tokens(engine));
    close_silent(engine);
    struct trace *trace = NULL;
    assert_ok(trace_read(&trace, path, &test_error));
    assert_int_equal(trace->pass_count, 1 + TOKENS - PROMPT);
    assert_int_equal(trace->tokens, TOKENS);
    trace_free(trace);
    unlink(path);
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_the_reference),
        cmocka_unit_test(divides_a_model),
        cmocka_unit_test(experts_visit),
        cmocka_unit_test(visits_follow_divided_layers),
        cmocka_unit_test(sees_only_its_chunk),
        cmocka_unit_test(encoders_embed_like_the_cpu),
        cmocka_unit_test(three_tiers),
        cmocka_unit_test(sequences_are_independent),
        cmocka_unit_test(parts_change_no_bit),
        cmocka_unit_test(no_such_device),
        cmocka_unit_test(device_is_lost),
        cmocka_unit_test(cancelled_in_between),
        cmocka_unit_test(cancelled_while_loading),
        cmocka_unit_test(too_many_sequences),
        cmocka_unit_test(unknown_types_do_not_visit),
        cmocka_unit_test(records_the_routing),
    };
    return cmocka_run_group_tests(tests, find_device, NULL);
}
