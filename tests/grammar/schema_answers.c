/* Reads JSON schemas, one per line, and writes a line of JSON for each: {"refused": reason}, or {"answers": [...]} with
 * texts that a random sampler wrote under the schema's grammar (null: it did not find an end in time). A text that can
 * begin must be able to end; otherwise the line has a "problem". Arguments: the number of answers and the seed. */
#include "grammar_tokens.h"

#include <stdlib.h>

enum { OPEN = 60, LONGEST = 600 };

static bool is_allowed(const uint32_t *mask, size_t token)
{
    return mask[token / 32] >> (token % 32) & 1;
}

/* Chooses an allowed token. In a long text, prefers one that closes something. */
static int32_t choose(const uint32_t *mask, struct random *random, int length)
{
    static const char closing[] = "}]\",:0123456789";
    for (int i = 0; i < (length > OPEN ? 40 : 0); i++) {
        size_t token = 2 + (unsigned char)closing[random_next(random) % (length > 2 * OPEN ? 3 : sizeof closing - 1)];
        if (is_allowed(mask, token))
            return (int32_t)token;
    }
    int32_t chosen = -1;
    uint64_t best = 0;
    for (size_t i = 2; i < token_count; i++) {
        uint64_t weight = random_next(random) >> 1;
        if (is_allowed(mask, i) && !ends[i] && weight >= best) {
            best = weight;
            chosen = (int32_t)i;
        }
    }
    return chosen;
}

static json_t *answer(const struct grammar *grammar, const struct grammar_vocabulary *vocabulary, struct random *random,
                      const char **problem)
{
    struct grammar_matcher *m;
    uint32_t mask[(MOST_TOKENS + 31) / 32];
    struct buffer text = {0};
    json_t *out = json_null();
    if (grammar_matcher_create(&m, grammar, vocabulary, &test_error) != HYPURA_OK) {
        *problem = test_error.message;
        return out;
    }
    for (int length = 0; length < LONGEST; length++) {
        memset(mask, 0, sizeof mask);
        bool complete = grammar_matcher_is_complete(m);
        if (grammar_matcher_mask(m, mask, &test_error) != HYPURA_OK) {
            *problem = test_error.message;
            break;
        }
        int32_t token = complete && (length > OPEN || random_next(random) % 4 == 0) ? -1 : choose(mask, random, length);
        if (token < 0) {
            if (complete && is_allowed(mask, 1))
                out = json_stringn(text.data ? text.data : "", text.size);
            else
                *problem = "no token can follow";
            break;
        }
        if (grammar_matcher_accept(m, token, &test_error) != HYPURA_OK) {
            *problem = "the mask allows a token that the grammar refuses";
            break;
        }
        buffer_append(&text, pieces[token].bytes, pieces[token].size);
    }
    if (*problem)
        out = json_stringn(text.data ? text.data : "", text.size);
    grammar_matcher_free(m);
    buffer_free(&text);
    return out ? out : json_string("no text");
}

int main(int count, char **arguments)
{
    struct grammar_vocabulary *vocabulary = some_tokens();
    struct random random;
    char *line = NULL;
    size_t room = 0;
    if (count != 3)
        return 2;
    random_seed(&random, strtoull(arguments[2], NULL, 10));
    while (getline(&line, &room, stdin) > 0) {
        json_t *schema = json_loads(line, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL), *result;
        struct grammar *grammar = NULL;
        hypura_error error = {0};
        if (schema && grammar_from_schema(&grammar, schema, &error) == HYPURA_OK) {
            const char *problem = NULL;
            json_t *answers = json_array();
            for (long i = strtol(arguments[1], NULL, 10); i-- > 0 && !problem;)
                json_array_append_new(answers, answer(grammar, vocabulary, &random, &problem));
            result = json_pack("{s:o}", "answers", answers);
            if (problem)
                json_object_set_new(result, "problem", json_string(problem));
        } else {
            result = json_pack("{s:s}", "refused", schema ? error.message : "not JSON");
        }
        json_dumpf(result, stdout, JSON_COMPACT);
        fputs("\n", stdout);
        fflush(stdout);
        json_decref(result);
        json_decref(schema);
        grammar_free(grammar);
    }
    free(line);
    grammar_vocabulary_free(vocabulary);
    return 0;
}
