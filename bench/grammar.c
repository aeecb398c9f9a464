/* The cost of a grammar per token, next to a decoding step: bench/grammar MODEL.gguf [TOKENS]
 *
 * The model answers a prompt with and without a JSON schema. Sampling is timed separately from the forward pass. Prints
 * both times and the grammar's share of the time per token. */
#include "grammar/grammar.h"
#include "engine/engine.h"
#include "sampling/sampler.h"
#include "tokenizer/vocabulary.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char schema_text[] =
    "{\"type\":\"object\",\"properties\":{\"title\":{\"type\":\"string\",\"maxLength\":400},\"year\":{\"type\":"
    "\"integer\","
    "\"minimum\":1900,\"maximum\":2100},\"tags\":{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"maxItems\":40},"
    "\"people\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},"
    "\"role\":{"
    "\"enum\":[\"author\",\"editor\",\"reader\"]},\"score\":{\"type\":\"number\"}},\"required\":[\"name\",\"role\","
    "\"score\"]}}},\"required\":[\"title\",\"year\",\"tags\",\"people\"]}";

static hypura_error error;

static void check(hypura_status status)
{
    if (status) {
        fprintf(stderr, "grammar: %s\n", error.message);
        exit(1);
    }
}

struct times {
    double forward, sample;
    size_t tokens;
};

static struct times answer(struct engine *engine, const struct vocabulary *vocabulary, struct sampler *sampler,
                           size_t most)
{
    struct times times = {0};
    static const char prompt[] = "Describe a book about memory as JSON.";
    struct token_array tokens = {0};
    engine_truncate(engine, 0, 0);
    check(vocabulary_tokenize(vocabulary, prompt, sizeof prompt - 1, TOKENIZE_ADD_SPECIAL, &tokens, &error));
    uint32_t position = 0;
    for (; position < tokens.count; position++) {
        struct engine_batch batch = {.count = 1, .tokens = tokens.ids + position, .positions = &position};
        check(engine_forward(engine, &batch, &error));
    }
    token_array_free(&tokens);
    for (; times.tokens < most; times.tokens++, position++) {
        int32_t token;
        uint64_t start = clock_nanoseconds();
        check(sampler_sample(sampler, engine_logits(engine, 0), &token, &error));
        times.sample += clock_seconds_since(start);
        if (vocabulary_is_end_of_generation(vocabulary, token))
            break;
        start = clock_nanoseconds();
        struct engine_batch batch = {.count = 1, .tokens = &token, .positions = &position};
        check(engine_forward(engine, &batch, &error));
        times.forward += clock_seconds_since(start);
    }
    return times;
}

int main(int count, char **arguments)
{
    if (count < 2) {
        fprintf(stderr, "usage: grammar MODEL.gguf [TOKENS]\n");
        return 2;
    }
    size_t most = count > 2 ? (size_t)strtoul(arguments[2], NULL, 10) : 200;
    struct engine_options options;
    struct engine *engine;
    const struct vocabulary *vocabulary;
    struct grammar *grammar;
    struct grammar_vocabulary *pieces;
    struct grammar_matcher *matcher;
    engine_default_options(&options);
    options.context = (uint32_t)most + 256;
    check(engine_open(&engine, arguments[1], &options, &error));
    check(engine_vocabulary(&vocabulary, engine, &error));
    uint64_t start = clock_nanoseconds();
    check(grammar_vocabulary_read(&pieces, vocabulary, &error));
    double read_seconds = clock_seconds_since(start);
    json_t *schema = json_loads(schema_text, 0, NULL);
    check(grammar_from_schema(&grammar, schema, &error));
    check(grammar_matcher_create(&matcher, grammar, pieces, &error));
    printf("%u tokens in the vocabulary, prepared for grammars in %.0f ms, once\n", vocabulary_size(vocabulary),
           1e3 * read_seconds);
    for (int round = 0; round < 3; round++) {
        struct times times[2];
        for (int constrained = 0; constrained < 2; constrained++) {
            struct sampler_options sampling;
            struct sampler *sampler;
            sampler_default_options(&sampling);
            sampling.seed = (uint64_t)round;
            check(sampler_create(&sampler, &sampling, vocabulary_size(vocabulary), &error));
            if (constrained) {
                grammar_matcher_reset(matcher);
                struct token_constraint constraint = grammar_matcher_constraint(matcher);
                sampler_set_constraint(sampler, &constraint);
            }
            times[constrained] = answer(engine, vocabulary, sampler, most);
            sampler_destroy(sampler);
        }
        double plain = times[0].sample / (double)MAX(times[0].tokens, (size_t)1);
        double bound = times[1].sample / (double)MAX(times[1].tokens, (size_t)1);
        double step = times[1].forward / (double)MAX(times[1].tokens, (size_t)1);
        printf("round %d: %zu tokens, a step %.3f ms; sampling %.1f us, with the schema %.1f us: %.2f %% of a token\n",
               round + 1, times[1].tokens, 1e3 * step, 1e6 * plain, 1e6 * bound,
               100 * (bound - plain) / (step + plain));
    }
    grammar_matcher_free(matcher);
    grammar_free(grammar);
    grammar_vocabulary_free(pieces);
    json_decref(schema);
    engine_close(engine);
    return 0;
}
