/* Several answers at once have the same tokens as each alone, even if the shared room is too small for all of them. */
#include "answer.h"
#include "reference.h"

#include <pthread.h>
#include <stdatomic.h>

#define ANSWERS 6
#define CONTEXT 256

static void submit_with(struct generator *generator, struct answer *answer, int number, bool left)
{
    int32_t prompt[40];
    struct random random;
    random_seed(&random, (uint64_t)number);
    for (size_t i = 0; i < COUNT_OF(prompt); i++)
        prompt[i] = (int32_t)(random_next(&random) % 300);
    struct sampler_options options;
    sampler_default_options(&options);
    options.seed = (uint64_t)number;
    options.repeat_penalty = 1.1f;
    *answer = (struct answer){.left = left};
    assert_ok(sampler_create(&answer->sampler, &options, 6144, &test_error));
    /* Answer 2 goes on until the context is full. */
    struct generation_request request = {.tokens = prompt,
                                         .count = (size_t)(8 + 5 * number),
                                         .max_tokens = number == 2 ? 0 : (uint32_t)(150 - 20 * number),
                                         .ignore_end = true};
    submit_for(answer, generator, request);
}

static void submit(struct generator *generator, struct answer *answer, int number)
{
    submit_with(generator, answer, number, false);
}

static struct engine *open_shared(const char *name, uint32_t sequences, bool shared, enum tensor_type type)
{
    struct engine_options options;
    struct engine *engine = NULL;
    engine_default_options(&options);
    options.context = CONTEXT;
    options.threads = 2;
    options.sequences = sequences;
    options.shared_context = shared;
    options.kv_type = type;
    if (shared)
        return open_smallest(model_path(name), &options);
    assert_ok(engine_open(&engine, model_path(name), &options, &test_error));
    return engine;
}

static void check_shared_room(enum tensor_type type)
{
    static struct answer alone[ANSWERS], together[ANSWERS];
    const struct vocabulary *vocabulary;
    struct generator *generator;
    struct engine *engine = open_shared("embedded", 1, false, type);
    assert_int_equal(engine_room(engine), UINT64_MAX);
    assert_ok(engine_vocabulary(&vocabulary, engine, &test_error));
    assert_ok(generator_create(&generator, engine, vocabulary, &test_error));
    for (int i = 0; i < ANSWERS; i++) {
        submit(generator, &alone[i], i);
        while (generator_step(generator))
            ;
        assert_true(alone[i].done);
        sampler_destroy(alone[i].sampler);
    }
    generator_destroy(generator);
    engine_close(engine);
    memory_give_back();

    engine = open_shared("embedded", ANSWERS, true, type);
    assert_int_equal(engine_room(engine), CONTEXT);
    assert_ok(engine_vocabulary(&vocabulary, engine, &test_error));
    assert_ok(generator_create(&generator, engine, vocabulary, &test_error));
    uint64_t before = memory_resident_bytes();
    for (int i = 0; i < ANSWERS; i++)
        submit(generator, &together[i], i);
    uint32_t before_step[ANSWERS] = {0}, most_at_once = 0;
    while (generator_step(generator)) {
        uint64_t held = 0;
        uint32_t at_once = 0;
        for (uint32_t s = 0; s < ANSWERS; s++) {
            held += align_up(engine_positions(engine, s), PLAN_KV_BLOCK);
            at_once += engine_positions(engine, s) > before_step[s];
            before_step[s] = engine_positions(engine, s);
        }
        assert_true(held <= engine_room(engine));
        most_at_once = MAX(most_at_once, at_once);
    }
    assert_true(most_at_once > 1);
    if (!SANITIZED) /* the KV cache and the pool stay within their limits */
        assert_true(memory_resident_bytes() <=
                    before + engine_plan(engine)->kv_bytes + engine_plan(engine)->pool_bytes + (2 << 20));
    for (int i = 0; i < ANSWERS; i++) {
        assert_true(together[i].done);
        assert_int_equal(together[i].result.reason, FINISH_LENGTH);
        assert_int_equal(together[i].result.prompt_tokens, alone[i].result.prompt_tokens);
        assert_int_equal(together[i].result.generated_tokens, alone[i].result.generated_tokens);
        assert_int_equal(together[i].count, alone[i].count);
        assert_memory_equal(together[i].tokens, alone[i].tokens, alone[i].count * sizeof *alone[i].tokens);
        sampler_destroy(together[i].sampler);
    }
    generator_destroy(generator);
    engine_close(engine);
}

static void answers_share_room(void **state)
{
    (void)state;
    check_shared_room(TENSOR_F16);
    check_shared_room(TENSOR_Q8_0); /* its blocks are not whole pages */
}

static void batches_beyond_the_room_are_refused(void **state)
{
    (void)state;
    struct engine *engine = open_shared("embedded", ANSWERS, true, TENSOR_F16);
    uint32_t room = (uint32_t)(engine_room(engine) / PLAN_KV_BLOCK), sequence = 0;
    int32_t tokens[PLAN_KV_BLOCK + 1] = {0};
    size_t vocabulary = model_parameters(engine_model(engine))->vocabulary;
    float *logits = calloc(COUNT_OF(tokens) * vocabulary, sizeof *logits);
    assert_non_null(logits);
    for (; sequence < room; sequence++)
        feed(engine, sequence, tokens, PLAN_KV_BLOCK, 64, logits);
    uint32_t position = PLAN_KV_BLOCK, first = 0;
    struct engine_batch batch = {.count = 1, .tokens = tokens, .positions = &position, .sequences = &first};
    assert_int_equal(engine_forward(engine, &batch, &test_error), HYPURA_ERROR_MEMORY);
    assert_int_equal(engine_positions(engine, 0), PLAN_KV_BLOCK);
    /* Room that another sequence gives up can be used. */
    assert_true(engine_truncate(engine, 1, 0));
    assert_ok(engine_forward(engine, &batch, &test_error));
    free(logits);
    engine_close(engine);
}

struct looking {
    struct generator *generator;
    atomic_bool stop;
};

static void *look(void *context)
{
    struct looking *looking = context;
    while (!atomic_load(&looking->stop))
        generator_look(looking->generator);
    return NULL;
}

/* A batch ends early if its only client has left, but not if another one still waits. Later batches are unaffected. */
static void answers_without_clients_end_within_a_batch(void **state)
{
    (void)state;
    static struct answer alone, left, beside;
    const struct vocabulary *vocabulary;
    struct looking looking = {0};
    pthread_t thread;
    struct engine *engine = open_shared("embedded", 2, false, TENSOR_F16);
    assert_ok(engine_vocabulary(&vocabulary, engine, &test_error));
    assert_ok(generator_create(&looking.generator, engine, vocabulary, &test_error));
    submit(looking.generator, &alone, 3);
    while (generator_step(looking.generator))
        ;
    assert_int_equal(pthread_create(&thread, NULL, look, &looking), 0);
    submit_with(looking.generator, &left, 0, true);
    while (generator_step(looking.generator))
        ;
    assert_int_equal(left.result.reason, FINISH_CANCELLED);
    sampler_destroy(left.sampler);
    submit_with(looking.generator, &left, 1, true);
    submit(looking.generator, &beside, 3);
    while (generator_step(looking.generator))
        ;
    assert_int_equal(beside.result.reason, FINISH_LENGTH);
    assert_int_equal(beside.count, alone.count);
    assert_memory_equal(beside.tokens, alone.tokens, alone.count * sizeof *alone.tokens);
    sampler_destroy(left.sampler);
    /* This does not undo a cancel by the engine's user. */
    engine_cancel(engine, true);
    for (int i = 0; i < 2; i++) {
        submit_with(looking.generator, &left, i, true);
        while (generator_step(looking.generator))
            ;
        assert_int_equal(left.result.reason, FINISH_CANCELLED);
        assert_int_equal(left.count, 0);
        sampler_destroy(left.sampler);
    }
    atomic_store(&looking.stop, true);
    pthread_join(thread, NULL);
    sampler_destroy(alone.sampler);
    sampler_destroy(beside.sampler);
    generator_destroy(looking.generator);
    engine_close(engine);
}

#define SHIFTED 128u /* positions per answer */
#define KEPT 9u

/* Chooses the likeliest tokens, so that the answer depends only on the text. */
static void answer_to(const struct engine *engine, struct generator *generator, struct answer *answer,
                      struct generation_request request)
{
    struct sampler_options options;
    sampler_default_options(&options);
    options.temperature = 0;
    options.repeat_penalty = 1;
    *answer = (struct answer){0};
    assert_ok(
        sampler_create(&answer->sampler, &options, model_parameters(engine_model(engine))->vocabulary, &test_error));
    request.ignore_end = true;
    submit_for(answer, generator, request);
    while (generator_step(generator))
        ;
    assert_true(answer->done);
    sampler_destroy(answer->sampler);
}

/* After a shift, the answer continues as it would after the remaining text, for each kind of layer, and with drafts. */
static void a_full_context_is_shifted(const char *name, enum engine_drafting drafting)
{
    static struct answer shifted, part;
    const struct vocabulary *vocabulary;
    struct generator *generator;
    struct engine_options options;
    engine_default_options(&options);
    options.context = CONTEXT;
    options.threads = 2;
    options.drafting = drafting;
    struct engine *engine;
    assert_ok(engine_open(&engine, model_path(name), &options, &test_error));
    assert_ok(engine_vocabulary(&vocabulary, engine, &test_error));
    assert_ok(generator_create(&generator, engine, vocabulary, &test_error));
    int32_t text[SHIFTED + 1];
    uint32_t count = 40, made = 0, shifts = 0;
    for (uint32_t i = 0; i < count; i++)
        text[i] = (int32_t)(5 + i * 7 % 90);
    answer_to(engine, generator, &shifted,
              (struct generation_request){.tokens = text,
                                          .count = count,
                                          .max_tokens = 330,
                                          .positions = SHIFTED,
                                          .shift = true,
                                          .shift_keep = KEPT});
    assert_int_equal(shifted.result.reason, FINISH_LENGTH);
    assert_int_equal(shifted.count, 330);
    assert_int_equal(shifted.result.prompt_tokens, 40);
    while (made < shifted.count) {
        uint32_t most = MIN(SHIFTED + 1 - count, (uint32_t)shifted.count - made);
        answer_to(engine, generator, &part,
                  (struct generation_request){.tokens = text, .count = count, .max_tokens = most});
        assert_int_equal(part.count, most);
        assert_memory_equal(part.tokens, shifted.tokens + made, most * sizeof *text);
        made += most;
        memcpy(text + count, part.tokens, most * sizeof *text);
        count += most;
        if (count < SHIFTED + 1)
            break;
        /* The context is full and the last token is yet to be read: half of the positions beyond the kept ones go. */
        uint32_t dropped = (SHIFTED - KEPT) / 2;
        memmove(text + KEPT, text + KEPT + dropped, (count - KEPT - dropped) * sizeof *text);
        count -= dropped;
        shifts++;
    }
    assert_int_equal(made, shifted.count);
    assert_true(shifts >= 4);
    /* Even if all is to be kept, there is room for the answer. Without a shift, the answer ends. */
    answer_to(engine, generator, &shifted,
              (struct generation_request){.tokens = text,
                                          .count = 100,
                                          .max_tokens = 200,
                                          .positions = SHIFTED,
                                          .shift = true,
                                          .shift_keep = UINT32_MAX});
    assert_int_equal(shifted.count, 200);
    answer_to(engine, generator, &shifted,
              (struct generation_request){.tokens = text, .count = 100, .max_tokens = 200, .positions = SHIFTED});
    assert_int_equal(shifted.result.reason, FINISH_LENGTH);
    assert_int_equal(shifted.count, SHIFTED + 1 - 100);
    generator_destroy(generator);
    engine_close(engine);
}

static void full_contexts_are_shifted(void **state)
{
    (void)state;
    a_full_context_is_shifted("embedded", DRAFTING_OFF);
    a_full_context_is_shifted("embedded", DRAFTING_ON);
    a_full_context_is_shifted("qwen3next", DRAFTING_OFF);
    a_full_context_is_shifted("gemma2", DRAFTING_ON);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_share_room), cmocka_unit_test(batches_beyond_the_room_are_refused),
        cmocka_unit_test(full_contexts_are_shifted), cmocka_unit_test(answers_without_clients_end_within_a_batch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
