/* A vocabulary that can write JSON in many ways. */
#ifndef HYPURA_TEST_GRAMMAR_TOKENS_H
#define HYPURA_TEST_GRAMMAR_TOKENS_H

#include "test.h"

#include "grammar/grammar.h"

#include <string.h>

enum { MOST_TOKENS = 3000 };

static struct token_piece pieces[MOST_TOKENS];
static char piece_bytes[MOST_TOKENS][8];
static bool ends[MOST_TOKENS];
static size_t token_count;

static void add_token(const char *bytes, size_t size, bool end)
{
    memcpy(piece_bytes[token_count], bytes, size);
    pieces[token_count] = (struct token_piece){piece_bytes[token_count], size};
    ends[token_count++] = end;
}

/* The vocabulary has all bytes, many short strings of JSON's characters, parts of characters, a control token and two
 * end tokens. */
static struct grammar_vocabulary *some_tokens(void)
{
    static const char letters[] = "{}[]\":,.-+0123456789aetrufalsn \n\\x";
    struct random random;
    random_seed(&random, 5);
    token_count = 0;
    add_token("", 0, false);
    add_token("</s>", 4, true);
    for (int i = 0; i < 256; i++)
        add_token((char[]){(char)i}, 1, false);
    while (token_count < MOST_TOKENS - 1) {
        char bytes[8];
        size_t size = 2 + random_next(&random) % 4;
        for (size_t i = 0; i < size; i++)
            bytes[i] = letters[random_next(&random) % (sizeof letters - 1)];
        if (random_next(&random) % 16 == 0)
            memcpy(bytes, random_next(&random) % 2 ? "\x98\x80" : "\xf0\x9f", 2);
        add_token(bytes, size, false);
    }
    add_token("<|end|>", 7, true);
    struct grammar_vocabulary *vocabulary;
    assert_ok(grammar_vocabulary_create(&vocabulary, pieces, ends, token_count, &test_error));
    return vocabulary;
}

#endif
