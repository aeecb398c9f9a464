/* Answers to texts of random tokens, with a digest of their logits. Before it includes this, a test defines ANSWER, the
 * tokens of an answer. */
#ifndef HYPURA_TEST_TEXT_ANSWERS_H
#define HYPURA_TEST_TEXT_ANSWERS_H

#include "test.h"

#include "engine/generate.h"

#define LONGEST_TEXT 6000

struct answered {
    int32_t tokens[ANSWER];
    uint64_t logits; /* a digest of them */
    uint32_t count, cached;
    size_t vocabulary;
    struct sampler *sampler;
    bool done;
};

struct text {
    int32_t tokens[LONGEST_TEXT];
    uint32_t count;
    uint64_t seed;
};

static bool take(void *context, const struct generated_token *token)
{
    struct answered *answered = context;
    if (token->id == NO_TOKEN)
        return true;
    answered->tokens[answered->count++] = token->id;
    answered->logits = fnv1a(answered->logits, token->logits, answered->vocabulary * sizeof *token->logits);
    return true;
}

static void finish(void *context, const struct generation_result *result)
{
    struct answered *answered = context;
    answered->cached = result->cached_tokens;
    answered->done = true;
    if (result->reason != FINISH_LENGTH)
        fail_msg("an answer ended early: %s", result->reason == FINISH_ERROR ? result->error.message : "no error");
}

static void random_tokens(struct text *text, uint32_t from, uint32_t count, uint64_t seed)
{
    struct random random;
    random_seed(&random, seed);
    for (uint32_t i = from; i < count; i++)
        text->tokens[i] = (int32_t)(random_next(&random) % 256);
    text->count = count;
    text->seed = seed;
}

static struct generator *generator_of(struct engine *engine)
{
    const struct vocabulary *vocabulary;
    struct generator *generator;
    assert_ok(engine_vocabulary(&vocabulary, engine, &test_error));
    assert_ok(generator_create(&generator, engine, vocabulary, &test_error));
    return generator;
}

static void submit(struct generator *generator, struct engine *engine, const struct text *text,
                   struct answered *answered)
{
    struct sampler_options options;
    sampler_default_options(&options);
    options.seed = text->seed;
    *answered = (struct answered){.vocabulary = model_parameters(engine_model(engine))->vocabulary};
    assert_ok(sampler_create(&answered->sampler, &options, (uint32_t)answered->vocabulary, &test_error));
    struct generation_request request = {.tokens = text->tokens,
                                         .count = text->count,
                                         .max_tokens = ANSWER,
                                         .ignore_end = true,
                                         .sampler = answered->sampler,
                                         .on_token = take,
                                         .on_done = finish,
                                         .context = answered};
    assert_ok(generator_submit(generator, &request, NULL, &test_error));
}

static void end(struct answered *answered)
{
    assert_true(answered->done);
    sampler_destroy(answered->sampler);
}

#endif
