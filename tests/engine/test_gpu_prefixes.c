/* Sequences with the same beginning share its keys and values on a device. The answers have the bits of a sequence that
 * has the model for itself. Without a device, the tests are skipped. */
#define ANSWER 6 /* tokens */

#include "gpu_engine.h"
#include "text_answers.h"

#include <string.h>

#define CONTEXT 2048
#define REQUESTS 8
#define MORE 16 /* tokens of a request after the beginning */

static uint32_t blocks_of(uint32_t positions)
{
    return (positions + PLAN_KV_BLOCK - 1) / PLAN_KV_BLOCK;
}

static void options_for(struct engine_options *options, uint32_t sequences, uint64_t gpu_budget, enum tensor_type type)
{
    const struct setting setting = {.kv_type = type, .gpu_budget = gpu_budget, .fixed = true};
    set_options(options, &setting);
    options->context = CONTEXT;
    options->chunk = 128; /* for what all texts have of their own, so that answers begin together */
    options->sequences = sequences;
    options->shared_context = sequences > 1;
    options->keep_prefixes = true;
    options->drafting = DRAFTING_OFF;
    options->prefix_bytes = 64 << 20;
}

static struct engine *open_for(const char *name, uint32_t sequences, uint64_t gpu_budget, enum tensor_type type)
{
    struct engine_options options;
    struct engine *engine = NULL;
    options_for(&options, sequences, gpu_budget, type);
    if (engine_open(&engine, model_path(name), &options, &test_error))
        fail_msg("%s: %s", name, test_error.message);
    assert_non_null(engine->batch.pass);
    return engine;
}

static struct text texts[REQUESTS + 1];
static struct answered together[REQUESTS + 1], alone[REQUESTS + 1];

static void run(struct generator *generator, struct engine *engine, size_t first, size_t count,
                struct answered *answered)
{
    for (size_t i = first; i < first + count; i++)
        submit(generator, engine, &texts[i], &answered[i]);
    while (generator_step(generator))
        ;
    for (size_t i = first; i < first + count; i++)
        end(&answered[i]);
}

/* The first text is answered up to "beginning" positions, and then the others, which continue there, by a sequence that
 * has a model for itself. So rows have the bits that they have with more sequences, as long as no batch has rows of
 * prompts and of answers. */
static void answer_alone(const char *name, enum tensor_type type, uint32_t beginning, size_t count)
{
    struct engine *engine = open_for(name, 1, 0, type);
    struct generator *generator = generator_of(engine);
    assert_int_equal(engine->batch.kv.pool.blocks, 0);
    random_tokens(&texts[0], 0, beginning + 1 - ANSWER, 5);
    run(generator, engine, 0, 1, alone);
    for (size_t i = 1; i < count; i++) {
        texts[i] = texts[0];
        memcpy(texts[i].tokens + texts[0].count, alone[0].tokens, sizeof alone[0].tokens);
        texts[i].tokens[beginning] = (int32_t)i; /* here, they part */
        random_tokens(&texts[i], beginning + 1, beginning + MORE, 30 + i);
        run(generator, engine, i, 1, alone);
        assert_int_equal(alone[i].cached, beginning);
    }
    generator_destroy(generator);
    close_silent(engine);
}

static uint32_t blocks_in_use(const struct engine *engine)
{
    return engine->batch.kv.pool.blocks - engine->batch.kv.pool.free_count;
}

static void assert_same(const char *name, size_t index)
{
    const struct answered *a = &together[index], *b = &alone[index];
    if (a->logits != b->logits || memcmp(a->tokens, b->tokens, sizeof a->tokens) != 0)
        fail_msg("%s: answer %zu differs from that of a sequence alone", name, index);
    assert_int_equal(a->cached, b->cached);
}

/* Answers the first text, and then the others at once. Returns the most blocks in use. */
static uint32_t answer_together(struct generator *generator, struct engine *engine, const char *name,
                                uint32_t beginning, size_t count)
{
    uint32_t most = 0, at_once = 0;
    run(generator, engine, 0, 1, together);
    for (size_t i = 1; i < count; i++)
        submit(generator, engine, &texts[i], &together[i]);
    while (generator_step(generator)) {
        uint32_t longer = 0;
        for (uint32_t s = 0; s < engine->batch.kv.sequences; s++)
            longer += engine_positions(engine, s) > beginning;
        most = MAX(most, blocks_in_use(engine));
        at_once = MAX(at_once, longer);
    }
    assert_int_equal(at_once, count - 1);
    for (size_t i = 1; i < count; i++)
        end(&together[i]);
    for (size_t i = 0; i < count; i++)
        assert_same(name, i);
    return most;
}

static void check_shared(const char *name, enum tensor_type type, uint32_t beginning)
{
    enum { COUNT = 3 };
    struct engine_statistics statistics;
    answer_alone(name, type, beginning, COUNT);
    struct engine *engine = open_for(name, COUNT, 0, type);
    struct generator *generator = generator_of(engine);
    assert_true(engine_can_share(engine));
    const uint32_t most = answer_together(generator, engine, name, beginning, COUNT);
    /* Each further request takes a block, and a copy of the one that the beginning fills in part. */
    if (most > blocks_of(beginning) + (COUNT - 1) * 2)
        fail_msg("%s: %u blocks were in use", name, most);
    engine_statistics(engine, &statistics);
    assert_int_equal(statistics.device_count, 1);
    const uint64_t bytes = statistics.devices[0].kv_bytes, used = statistics.devices[0].kv_used_bytes;
    assert_true(used > 0 && used < bytes);
    generator_destroy(generator);
    close_silent(engine);
}

static void sequences_share_a_beginning(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    check_shared("llama", TENSOR_F16, 4 * PLAN_KV_BLOCK);
    check_shared("llama", TENSOR_Q8_0, 4 * PLAN_KV_BLOCK - 20);
    check_shared("deepseek2-v3", TENSOR_F16, 3 * PLAN_KV_BLOCK + 20);
    check_shared("gemma2", TENSOR_F16, 3 * PLAN_KV_BLOCK + 20);
    check_shared("qwen3next", TENSOR_F16, 3 * PLAN_KV_BLOCK + 20);
}

/* With little memory on the device, eight sequences share room for less than two of their texts, of which they take 1.3
 * beginnings. Texts that lose the room to others come back. */
static void a_beginning_takes_its_room_once(void **state)
{
    enum { LONG = 24 * PLAN_KV_BLOCK };
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    answer_alone("llama", TENSOR_F16, LONG, REQUESTS + 1);
    struct engine *engine = open_for("llama", 1, 0, TENSOR_F16);
    const uint64_t bytes = plan_gpu_bytes(engine_plan(engine)->gpu), one = engine_plan(engine)->gpu->kv_bytes;
    close_silent(engine);
    engine = open_for("llama", REQUESTS, bytes + one / 2, TENSOR_F16);
    const struct plan_gpu *gpu = engine_plan(engine)->gpu;
    assert_int_equal(gpu->taken, gpu->layer_count);
    assert_true(gpu->output && plan_gpu_bytes(gpu) <= bytes + one / 2);
    assert_int_equal(engine_room(engine), CONTEXT);
    assert_int_equal(engine->batch.kv.pool.blocks, CONTEXT / PLAN_KV_BLOCK);
    assert_true(2 * LONG > CONTEXT);
    struct generator *generator = generator_of(engine);
    const uint32_t most = answer_together(generator, engine, "llama", LONG, REQUESTS);
    assert_true(10 * most <= 13 * LONG / PLAN_KV_BLOCK);

    const struct text last = texts[REQUESTS];
    random_tokens(&texts[REQUESTS], 0, LONG + MORE, 50);
    run(generator, engine, REQUESTS, 1, together);
    assert_int_equal(together[REQUESTS].cached, 0);
    assert_true(blocks_in_use(engine) <= CONTEXT / PLAN_KV_BLOCK);
    texts[REQUESTS] = last;
    run(generator, engine, REQUESTS, 1, together);
    assert_same("llama", REQUESTS);
    generator_destroy(generator);
    close_silent(engine);
}

static float *logits_for(const struct engine *engine, size_t count)
{
    return calloc(count * model_parameters(engine_model(engine))->vocabulary, sizeof(float));
}

/* A sequence that writes within a block that it shares gets its own copy; the other keeps its rows. */
static void check_divergence(enum tensor_type type)
{
    enum { SHARED = 3 * PLAN_KV_BLOCK, KEPT = SHARED - 23, NEW = 30 };
    struct engine *engine = open_for("llama", 3, 0, type), *single = open_for("llama", 1, 0, type);
    const size_t width = model_parameters(engine_model(engine))->vocabulary * sizeof(float);
    const struct kv_pool *pool = &engine->batch.kv.pool;
    random_tokens(&texts[0], 0, SHARED + NEW, 1);
    texts[1] = texts[0];
    random_tokens(&texts[1], KEPT, KEPT + NEW, 2);
    float *expected[2], *got = logits_for(engine, SHARED + NEW), *warm = logits_for(engine, SHARED + NEW);
    for (size_t i = 0; i < 2; i++) {
        const uint32_t from = i ? KEPT : SHARED;
        expected[i] = logits_for(single, NEW);
        engine_truncate(single, 0, 0);
        feed(single, 0, texts[i].tokens, from, SIZE_MAX, warm);
        feed(single, 0, texts[i].tokens + from, NEW, SIZE_MAX, expected[i]);
    }
    feed(engine, 0, texts[0].tokens, SHARED, SIZE_MAX, warm);
    assert_int_equal(pool->blocks - pool->free_count, 3);
    for (uint32_t s = 1; s < 3; s++) {
        assert_ok(engine_share_rows(engine, s, 0, SHARED, &test_error));
        assert_ok(engine_write_checkpoint(engine, s, s == 1 ? KEPT : SHARED, NULL, NULL, &test_error));
    }
    assert_int_equal(pool->blocks - pool->free_count, 3); /* nothing was copied */
    engine_truncate(engine, 0, 0);                        /* the rows outlast the sequence that computed them */
    feed(engine, 1, texts[1].tokens + KEPT, NEW, SIZE_MAX, got);
    assert_memory_equal(got, expected[1], NEW * width);
    assert_int_equal(pool->blocks - pool->free_count, 5);
    feed(engine, 2, texts[0].tokens + SHARED, NEW, SIZE_MAX, got);
    assert_memory_equal(got, expected[0], NEW * width);
    free(expected[0]);
    free(expected[1]);
    free(got);
    free(warm);
    close_silent(single);
    close_silent(engine);
}

static void a_sequence_that_diverges_gets_its_own_block(void **state)
{
    (void)state;
    device_or_skip();
    treat_memory_as("separate");
    check_divergence(TENSOR_F16);
    check_divergence(TENSOR_Q8_0);
    treat_memory_as("shared");
    check_divergence(TENSOR_F32);
}

int main(void)
{
    setenv("HYPURA_GPU_VALIDATE", "1", 0);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_sequence_that_diverges_gets_its_own_block, find_device),
        cmocka_unit_test(sequences_share_a_beginning),
        cmocka_unit_test(a_beginning_takes_its_room_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
