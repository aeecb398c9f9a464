/* What an estimate makes of recorded routing. */
#include "plan/embedded.h"

#include "tools/estimate.h"

#include <stdlib.h>

#define ANSWER 40u /* passes */

/* A prompt of two tokens that use the first experts of each layer, and an answer. Returns the passes. */
static size_t add_round(struct trace *trace, size_t at, bool always_the_same)
{
    const struct trace_shape *shape = &trace->shape;
    for (size_t i = at; i <= at + ANSWER; i++) {
        const uint32_t tokens = i == at ? 2 : 1;
        const size_t choices = (size_t)shape->layer_count * tokens * shape->used;
        uint16_t *experts = calloc(choices, sizeof *experts);
        for (size_t c = 0; c < choices; c++)
            experts[c] = (uint16_t)((c % shape->used + (always_the_same ? 0 : i * shape->used)) % shape->experts);
        trace->passes[i] = (struct trace_pass){tokens, experts};
        trace->tokens += tokens;
    }
    return at + ANSWER + 1;
}

static double hit_rate(const struct trace *trace)
{
    const struct hardware hardware = machine();
    const struct engine_options options = {.context = 256, .chunk = 16};
    const struct estimate_request request = {
        .model = model, .hardware = &hardware, .options = &options, .trace = trace, .steps = steps};
    struct estimate estimate;
    assert_ok(estimate_make(&estimate, &request, 13 * MIB, &test_error));
    assert_true(estimate.possible);
    return estimate.hit_rate;
}

/* The first answer finds a cache that knows its prompt only. If another prompt follows, what comes then counts. */
static void a_first_answer_only_fills_the_cache(void **state)
{
    (void)state;
    struct trace trace = {.passes = calloc((size_t)2 * (ANSWER + 1), sizeof *trace.passes)};
    assert_ok(trace_shape_of_model(&trace.shape, model, &test_error));
    trace.pass_count = add_round(&trace, 0, false);
    const double first = hit_rate(&trace);
    trace.pass_count = add_round(&trace, trace.pass_count, true);
    const double second = hit_rate(&trace);
    assert_true(first < 0.9);
    assert_true(second > 0.99);
    for (size_t i = 0; i < trace.pass_count; i++)
        free((void *)(uintptr_t)trace.passes[i].experts);
    free(trace.passes);
    trace_shape_free(&trace.shape);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_first_answer_only_fills_the_cache)};
    return cmocka_run_group_tests(tests, open_model, close_model);
}
