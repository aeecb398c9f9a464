/* Layers that alternate between devices in groups. A single device, listed twice, stands for two. The bits are those of
 * one device. Only for a few rows of some models, the last digits differ: if a run ends with a mixture, or with a norm
 * of what the layer adds, another kernel norms the rows. Some divide the output matrix. Without a device, the tests are
 * skipped. */
#include "gpu_engine.h"

#include "tools/synth.h"

#include <unistd.h>

static char dense[] = "/tmp/hypura-test-XXXXXX", mixture[] = "/tmp/hypura-test-XXXXXX";

static const struct {
    const char *name;
    uint32_t groups;
    bool same;          /* also for a few rows */
    const char *events; /* whether devices wait for rows by themselves */
    const char *output; /* whether they divide the output matrix */
    const char *fault;
} models[] = {{dense, 4, true, "0", "0"},        {dense, 3, true, "1", "1"},
              {dense, 1, true, "0", "1"},        {dense, 2, true, "0", "1", "import:1"}, /* they share no memory */
              {"qwen35", 2, true, "1", "1"},     {"gemma2", 2, false, "0", "1"},         /* caps its logits */
              {"qwen3next", 2, false, "1", "0"}, {"qwen3next", 1, false, "1", "1"}};

static int make_model(void **state)
{
    struct synth_options synth;
    close(mkstemp(dense));
    synth_default_options(&synth, synth_preset("tiny-dense"));
    synth.geometry.layers = 9;
    synth.geometry.embedding = 128;
    synth.geometry.heads = 4;
    synth.geometry.kv_heads = 2;
    synth.geometry.head_size = 32;
    synth.geometry.feed_forward = 256;
    synth.geometry.vocabulary = 512;
    synth.type = "Q8_0";
    assert_ok(synth_write(dense, &synth, NULL, NULL, &test_error));
    close(mkstemp(mixture));
    synth_default_options(&synth, synth_preset("tiny-mixtral"));
    synth.geometry.layers = 3;
    synth.geometry.vocabulary = 512;
    synth.type = "Q8_0";
    assert_ok(synth_write(mixture, &synth, NULL, NULL, &test_error));
    return find_device(state);
}

static int remove_model(void **state)
{
    (void)state;
    return unlink(dense) | unlink(mixture);
}

static void default_options(struct engine_options *options)
{
    set_options(options, &(struct setting){.kv_type = TENSOR_F16, .fixed = true});
    options->sequences = 2;
}

/* Since version 23, Mesa's driver on the CPU makes no kernel while a batch is on the device. A batch that waits at an
 * event would never end, if another must be recorded before the host sets it. Real drivers do not block. */
static const char *possible(const char *events)
{
    unsigned mesa = 0;
    const char *version = strstr(device_info.driver, "Mesa ");
    return version && sscanf(version, "Mesa %u", &mesa) == 1 && mesa > 22 && device_info.kind == GPU_CPU ? "0" : events;
}

/* groups 0: one device. */
static struct engine *open_divided(const char *name, uint32_t groups, const char *events, const char *output,
                                   const struct engine_options *options)
{
    char gpus[2 * sizeof number], asked[16];
    struct engine_options own = *options;
    struct engine *engine = NULL;
    snprintf(gpus, sizeof gpus, "%s,%s", number, number);
    snprintf(asked, sizeof asked, "%u", groups);
    setenv("HYPURA_GPU_GROUPS", asked, 1);
    setenv("HYPURA_GPU_EVENTS", possible(events), 1);
    setenv("HYPURA_GPU_OUTPUT", output, 1);
    own.gpu = groups ? gpus : number;
    if (engine_open(&engine, model_path(name), &own, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    unsetenv("HYPURA_GPU_GROUPS");
    unsetenv("HYPURA_GPU_EVENTS");
    unsetenv("HYPURA_GPU_OUTPUT");
    return engine;
}

static struct engine *open_in(const char *name, uint32_t groups, const char *events,
                              const struct engine_options *options)
{
    return open_divided(name, groups, events, "0", options);
}

static void check_runs(const struct engine *engine, uint32_t groups)
{
    const struct plan_gpu *plan = engine_plan(engine)->gpu;
    uint32_t runs = 0;
    assert_int_equal(plan->groups, groups);
    for (uint32_t i = 0; i < plan->layer_count; i = plan_gpu_run_end(plan, i))
        assert_int_equal(plan->devices[i], runs++ % 2);
    assert_int_equal(runs, 2 * groups);
}

/* ---- what a server does with sequences --------------------------------------------------------------------------- */

enum { STEPS = 4, ROWS = TOKENS + PROMPT + 2 * STEPS + 3 + 2 * STEPS };

struct recorded {
    float *logits; /* [ROWS][vocabulary] */
    size_t count, vocabulary;
    bool few[ROWS]; /* rows of batches of a few rows */
};

static void feed_on(struct engine *engine, struct recorded *out, uint32_t sequence, const int32_t *tokens, size_t count,
                    size_t batch)
{
    feed(engine, sequence, tokens, count, batch, out->logits + out->count * out->vocabulary);
    for (size_t i = 0; i < count; i++)
        out->few[out->count++] = batch <= GPU_VECTOR_TOKENS;
}

static void keep(struct engine *engine, struct recorded *out, size_t rows)
{
    for (size_t i = 0; i < rows; i++) {
        memcpy(out->logits + out->count * out->vocabulary, engine_logits(engine, i), out->vocabulary * sizeof(float));
        out->few[out->count++] = true;
    }
}

/* Steps of both sequences in one batch. */
static void step_together(struct engine *engine, struct recorded *out)
{
    for (int32_t i = 0; i < STEPS; i++) {
        const int32_t tokens[] = {20 + i, 40 + i};
        const uint32_t sequences[] = {0, 1};
        const uint32_t positions[] = {engine_positions(engine, 0), engine_positions(engine, 1)};
        const bool want[] = {true, true};
        const struct engine_batch batch = {
            .count = 2, .tokens = tokens, .positions = positions, .sequences = sequences, .want_logits = want};
        assert_ok(engine_forward(engine, &batch, &test_error));
        keep(engine, out, 2);
    }
}

/* Two drafted tokens, of which the second is wrong. */
static void draft(struct engine *engine, struct recorded *out)
{
    const uint32_t at = engine_positions(engine, 0);
    const int32_t tokens[] = {5, 6, 7};
    const uint32_t positions[] = {at, at + 1, at + 2};
    const bool want[] = {true, true, true};
    const struct engine_batch batch = {
        .count = 3, .tokens = tokens, .positions = positions, .want_logits = want, .drafted = 2};
    assert_ok(engine_forward(engine, &batch, &test_error));
    keep(engine, out, 3);
    assert_ok(engine_accept(engine, 1, &test_error));
    assert_int_equal(engine_positions(engine, 0), at + 2);
}

/* The second sequence gets what the first one has. */
static void copy_sequence(struct engine *engine, const int32_t *text)
{
    const uint32_t at = engine_positions(engine, 0);
    uint8_t *rows = malloc(engine_rows_bytes(engine, 0, at) + 1);
    uint8_t *checkpoint = malloc(engine_checkpoint_bytes(engine) + 1);
    assert_ok(engine_read_rows(engine, 0, 0, at, rows, &test_error));
    assert_ok(engine_read_checkpoint(engine, 0, checkpoint, &test_error));
    engine_truncate(engine, 1, 0);
    assert_ok(engine_write_rows(engine, 1, 0, at, rows, &test_error));
    assert_ok(
        engine_write_checkpoint(engine, 1, at, text, engine_checkpoint_bytes(engine) ? checkpoint : NULL, &test_error));
    free(rows);
    free(checkpoint);
}

/* Prompts, tokens one by one, two sequences at once, drafts, and a prefix that is used again. */
static struct recorded run_all(struct engine *engine)
{
    const int32_t next[STEPS] = {3, 1, 4, 1};
    int32_t tokens[TOKENS + STEPS + 3];
    struct recorded out = {.vocabulary = model_parameters(engine_model(engine))->vocabulary};
    out.logits = calloc(ROWS * out.vocabulary, sizeof(float));
    engine_truncate(engine, 0, 0);
    engine_truncate(engine, 1, 0);
    prompt_of(tokens);
    feed_on(engine, &out, 0, tokens, PROMPT, SIZE_MAX);
    feed_on(engine, &out, 0, tokens + PROMPT, TOKENS - PROMPT, 1);
    feed_on(engine, &out, 1, tokens + 2, PROMPT, SIZE_MAX);
    step_together(engine, &out);
    draft(engine, &out);
    for (int32_t i = 0; i < STEPS; i++)
        tokens[TOKENS + i] = 20 + i;
    tokens[TOKENS + STEPS] = 5;
    tokens[TOKENS + STEPS + 1] = 6;
    copy_sequence(engine, tokens);
    feed_on(engine, &out, 1, next, STEPS, 1);
    feed_on(engine, &out, 0, next, STEPS, 1);
    assert_int_equal(out.count, ROWS);
    const float *const after = out.logits + (ROWS - 2 * STEPS) * out.vocabulary;
    assert_memory_equal(after, after + STEPS * out.vocabulary, STEPS * out.vocabulary * sizeof(float));
    return out;
}

static void compare(const char *name, const struct recorded *out, const struct recorded *expected, bool same)
{
    for (size_t r = 0; r < ROWS; r++) {
        double most = 0;
        for (size_t i = r * out->vocabulary; i < (r + 1) * out->vocabulary; i++)
            most = fmax(most, fabs((double)out->logits[i] - (double)expected->logits[i]));
        if (!(most <= (same || !out->few[r] ? 0 : 1e-3)))
            fail_msg("%s: the logits of row %zu differ by %g", name, r, most);
    }
}

static void groups_give_the_bits_of_one(void **state)
{
    (void)state;
    device_or_skip();
    struct engine_options options;
    default_options(&options);
    for (size_t i = 0; i < COUNT_OF(models); i++) {
        struct engine *one = open_in(models[i].name, 0, "0", &options);
        struct recorded expected = run_all(one);
        close_silent(one);
        if (models[i].fault)
            setenv("HYPURA_GPU_FAULT", models[i].fault, 1);
        struct engine *engine =
            open_divided(models[i].name, models[i].groups, models[i].events, models[i].output, &options);
        unsetenv("HYPURA_GPU_FAULT");
        if (models[i].fault)
            assert_null(engine->batch.passes[0]->handed_rows);
        check_runs(engine, models[i].groups);
        assert_int_equal(engine_plan(engine)->gpu->output_divided, *models[i].output == '1');
        for (int again = 0; again < 2; again++) {
            struct recorded out = run_all(engine);
            compare(models[i].name, &out, &expected, models[i].same);
            for (int d = 0; d < 2; d++) /* the last token's commands were recorded ahead */
                assert_true(engine->batch.passes[d]->ahead.used);
            free(out.logits);
        }
        close_silent(engine);
        free(expected.logits);
    }
}

/* ---- prompts in parts -------------------------------------------------------------------------------------------- */

enum { LONG = 96, MORE = 2 };

static float *run_long(struct engine *engine, const char *parts)
{
    int32_t tokens[LONG + MORE];
    uint32_t positions[LONG];
    const size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc((1 + MORE) * vocabulary, sizeof *logits);
    for (uint32_t i = 0; i < COUNT_OF(tokens); i++)
        tokens[i] = (int32_t)(i * 7 % 300);
    for (uint32_t i = 0; i < LONG; i++)
        positions[i] = i;
    const struct engine_batch prompt = {.count = LONG, .tokens = tokens, .positions = positions};
    setenv("HYPURA_GPU_PARTS", parts, 1);
    assert_ok(engine_forward(engine, &prompt, &test_error));
    unsetenv("HYPURA_GPU_PARTS");
    memcpy(logits, engine_logits(engine, 0), vocabulary * sizeof *logits);
    feed(engine, 0, tokens + LONG, MORE, 1, logits + vocabulary);
    return logits;
}

/* Tokens after the prompt read the cache entries of all parts, on both devices. */
static void parts_give_the_bits_of_one(void **state)
{
    (void)state;
    device_or_skip();
    static const struct {
        const char *parts;
        uint32_t groups, sent;
        const char *events;
    } ways[] = {{"2", 4, 8, "0"}, {"5", 2, 10, "0"}, {"1", 4, 0, "0"}, {"2", 4, 8, "1"}, {"5", 2, 10, "1"}};
    struct engine_options options;
    default_options(&options);
    options.chunk = LONG;
    struct engine *one = open_in(dense, 0, "0", &options);
    float *expected = run_long(one, "1");
    const size_t bytes = (1 + MORE) * (size_t)model_parameters(engine_model(one))->vocabulary * sizeof *expected;
    close_silent(one);
    for (size_t way = 0; way < COUNT_OF(ways); way++) {
        struct engine *engine = open_in(dense, ways[way].groups, ways[way].events, &options);
        float *logits = run_long(engine, ways[way].parts);
        for (int d = 0; d < 2; d++)
            assert_int_equal(engine->batch.passes[d]->parts, ways[way].sent);
        if (memcmp(logits, expected, bytes) != 0)
            fail_msg("the bits differ in %s parts and %u groups", ways[way].parts, ways[way].groups);
        close_silent(engine);
        free(logits);
    }
    free(expected);
}

/* ---- weights that stay unpacked ---------------------------------------------------------------------------------- */

/* Returns whether the device has panels. */
static bool check_kept_panels(const char *path)
{
    enum { ROUNDS = 4, COUNT = 600 };
    struct engine_options options;
    default_options(&options);
    options.chunk = COUNT;
    options.context = 2 * COUNT;
    struct engine *engine = open_in(path, 0, "0", &options);
    const bool panels = gpu_get_info(engine->batch.passes[engine_plan(engine)->gpu->devices[0]]->gpu)->panels;
    const size_t bytes = model_parameters(engine_model(engine))->vocabulary * sizeof(float);
    float *first = malloc(bytes);
    int32_t tokens[COUNT];
    uint32_t positions[COUNT];
    for (uint32_t i = 0; i < COUNT; i++) {
        tokens[i] = (int32_t)(i * 7 % 300);
        positions[i] = i;
    }
    for (int round = 0; round < ROUNDS && panels; round++) {
        const struct engine_batch prompt = {.count = COUNT, .tokens = tokens, .positions = positions};
        engine_truncate(engine, 0, 0);
        assert_ok(engine_forward(engine, &prompt, &test_error));
        if (round == 0)
            memcpy(first, engine_logits(engine, 0), bytes);
        assert_memory_equal(first, engine_logits(engine, 0), bytes);
        usleep(200000); /* memory is taken meanwhile */
    }
    free(first);
    close_silent(engine);
    return panels;
}

/* On a device with panels: a prompt has the same bits while its weights are unpacked each time, when they are unpacked
 * to stay, and when they are there. So do experts. */
static void kept_panels_change_no_bit(void **state)
{
    (void)state;
    device_or_skip();
    const bool panels = check_kept_panels(dense);
    if (!panels || !check_kept_panels(mixture))
        skip();
}

/* ---- exceptions -------------------------------------------------------------------------------------------------- */

/* A device without a layer for each group gets as many groups as it has layers. */
static void few_layers_make_few_groups(void **state)
{
    (void)state;
    device_or_skip();
    struct engine_options options;
    default_options(&options);
    struct engine *engine = open_in("llama", 3, "0", &options);
    assert_int_equal(engine_plan(engine)->gpu->groups, 1);
    close_silent(engine);
}

/* A device that is lost ends the request, and the engine says so. */
static void a_lost_device_ends_the_request(void **state)
{
    (void)state;
    device_or_skip();
    bool failed = false;
    for (int submits = 40; !failed; submits += 20) {
        struct engine_options options;
        struct gpu *gpu;
        char fault[32];
        default_options(&options);
        options.chunk = LONG;
        /* Without a fault, so that the devices of the next one are counted anew. */
        assert_ok(gpu_open(&gpu, &(struct gpu_options){.index = (uint32_t)strtoul(number, NULL, 10)}, &test_error));
        gpu_close(gpu);
        snprintf(fault, sizeof fault, "submit:%d@1", submits);
        setenv("HYPURA_GPU_FAULT", fault, 1);
        struct engine *engine = open_divided(dense, 4, submits % 40 ? "1" : "0", "1", &options);
        unsetenv("HYPURA_GPU_FAULT");
        if (engine->batch.passes[0] && engine->batch.passes[1]) { /* else one was lost while the model was opened */
            int32_t tokens[LONG] = {0};
            uint32_t positions[LONG];
            hypura_status status = HYPURA_OK;
            for (uint32_t i = 0; i < LONG; i++)
                positions[i] = i;
            for (int pass = 0; pass < 40 && !status; pass++) {
                const struct engine_batch batch = {
                    .count = pass % 4 ? 1 : LONG, .tokens = tokens, .positions = positions};
                engine_truncate(engine, 0, 0);
                status = engine_forward(engine, &batch, &test_error);
            }
            assert_int_equal(status, HYPURA_ERROR_DEVICE);
            failed = engine_lost(engine);
            assert_true(failed);
        }
        assert_true(submits < 1000);
        engine_close(engine);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_give_the_bits_of_one),    cmocka_unit_test(parts_give_the_bits_of_one),
        cmocka_unit_test(kept_panels_change_no_bit),      cmocka_unit_test(few_layers_make_few_groups),
        cmocka_unit_test(a_lost_device_ends_the_request),
    };
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    return cmocka_run_group_tests(tests, make_model, remove_model);
}
