/* Collects a generator's answer to a request. */
#ifndef HYPURA_TEST_ANSWER_H
#define HYPURA_TEST_ANSWER_H

#include "test.h"

#include "engine/generate.h"

#define LONGEST_ANSWER 1024 /* the longest context in these tests */

struct answer {
    int32_t tokens[LONGEST_ANSWER];
    size_t count;
    size_t most; /* tokens after which the answer is ended; 0: never */
    bool cancel; /* end it by generator_cancel instead of the callback's result */
    bool left;   /* the client has left */
    struct generator *generator;
    uint64_t id;
    bool done;
    struct generation_result result;
    struct sampler *sampler; /* the caller destroys it */
};

static bool take_token(void *context, const struct generated_token *token)
{
    struct answer *answer = context;
    if (token->id != NO_TOKEN)
        answer->tokens[answer->count++] = token->id;
    bool enough = answer->most && answer->count >= answer->most;
    if (enough && answer->cancel)
        generator_cancel(answer->generator, answer->id);
    return answer->cancel || !enough;
}

static void take_result(void *context, const struct generation_result *result)
{
    struct answer *answer = context;
    answer->result = *result;
    answer->done = true;
}

static bool is_awaited(void *context)
{
    return !((const struct answer *)context)->left;
}

/* Submits a request with the answer's callbacks and sampler. */
static void submit_for(struct answer *answer, struct generator *generator, struct generation_request request)
{
    request.sampler = answer->sampler;
    request.on_token = take_token;
    request.on_done = take_result;
    request.is_awaited = is_awaited;
    request.context = answer;
    answer->generator = generator;
    assert_ok(generator_submit(generator, &request, &answer->id, &test_error));
}

#endif
