/* Helpers for the tests of grammars: matches a text, and generates random texts. */
#ifndef HYPURA_TEST_GRAMMAR_TEXT_H
#define HYPURA_TEST_GRAMMAR_TEXT_H

#include "grammar_tokens.h"

#include <string.h>

static struct grammar_vocabulary *no_tokens(void)
{
    static const struct token_piece piece = {"", 0};
    static const bool end = true;
    struct grammar_vocabulary *vocabulary;
    assert_ok(grammar_vocabulary_create(&vocabulary, &piece, &end, 1, &test_error));
    return vocabulary;
}

enum { REFUSED, BEGUN, COMPLETE };

/* Feeds a text to a grammar byte by byte. Returns whether it is complete, only begun, or refused. */
static int match(const struct grammar *grammar, const char *text)
{
    struct grammar_vocabulary *vocabulary = no_tokens();
    struct grammar_matcher *m;
    int result = BEGUN;
    assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
    for (size_t i = 0; text[i] && result == BEGUN; i++)
        if (grammar_matcher_accept_bytes(m, text + i, 1, &test_error) != HYPURA_OK)
            result = REFUSED;
    if (result == BEGUN && grammar_matcher_is_complete(m))
        result = COMPLETE;
    grammar_matcher_free(m);
    grammar_vocabulary_free(vocabulary);
    return result;
}

/* Writes a random text of a grammar, token by token. Returns it, or NULL if it found no end. Compares the mask with the
 * answer for each single token. */
static char *random_text(const struct grammar *grammar, const struct grammar_vocabulary *vocabulary,
                         struct random *random, struct buffer *text)
{
    struct grammar_matcher *m;
    uint32_t mask[(MOST_TOKENS + 31) / 32];
    assert_ok(grammar_matcher_create(&m, grammar, vocabulary, &test_error));
    buffer_clear(text);
    for (int length = 0;; length++) {
        memset(mask, 0, sizeof mask);
        assert_ok(grammar_matcher_mask(m, mask, &test_error));
        if (length < 3)
            for (size_t i = 0; i < token_count; i++)
                assert_int_equal(mask[i / 32] >> (i % 32) & 1, grammar_matcher_allows(m, (int32_t)i));
        bool complete = grammar_matcher_is_complete(m), more = false;
        assert_int_equal(mask[0] >> 1 & 1, complete);
        assert_false(mask[0] & 1);
        for (size_t i = 2; i < token_count; i++)
            more |= (mask[i / 32] >> (i % 32) & 1) && !ends[i];
        if (!more && !complete)
            fail_msg("nothing can follow \"%.*s\"", (int)text->size, text->data);
        if (complete && (!more || length > 60 || random_next(random) % 4 == 0)) {
            assert_ok(grammar_matcher_accept(m, 1, &test_error));
            break;
        }
        /* Prefer closing characters in long texts, so that they end. */
        int32_t token = 2 + (unsigned char)"}]\""[random_next(random) % 3];
        while ((length < 40 || random_next(random) % 8 == 0) || ends[token] ||
               !(mask[token / 32] >> (token % 32) & 1)) {
            token = (int32_t)(random_next(random) % token_count);
            if (!ends[token] && (mask[token / 32] >> (token % 32) & 1))
                break;
        }
        assert_ok(grammar_matcher_accept(m, token, &test_error));
        buffer_append(text, pieces[token].bytes, pieces[token].size);
        if (length > 1000) {
            grammar_matcher_free(m);
            return NULL;
        }
    }
    grammar_matcher_free(m);
    buffer_append_char(text, 0);
    return text->data;
}

#endif
