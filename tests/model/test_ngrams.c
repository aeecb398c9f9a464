/* Rows of a table of n-grams: 64-bit hashes, which neither 32-bit integers nor doubles could compute, and the tokens
 * that cut n-grams. */
#include "test.h"

#include "model/model.h"

static const struct model_ngrams ngrams = {
    .size = 3,
    .heads = 2,
    .rows = 4,
    .end = 13,
    .multipliers = {23456248059221u, 0xF1415926535897F1u, 27182818284591u},
    .offsets = {0, 101, 204, 311},
    .moduli = {101, 103, 107, 109},
};

/* An end token stands before the text. An end token hides all tokens before it from those after it, and is itself
 * hashed like any other token. */
static void rows_follow_from_the_last_tokens(void **state)
{
    static const int32_t tokens[] = {351, 7, 13, 200, 13, 13, 90, 91, 92};
    static const uint32_t expected[][4] = {{48, 182, 292, 315}, {21, 154, 280, 387}, {58, 117, 278, 392},
                                           {58, 124, 227, 395}, {55, 161, 236, 397}, {2, 109, 272, 376},
                                           {17, 176, 204, 332}, {70, 123, 260, 329}, {54, 103, 255, 412}};
    (void)state;
    for (size_t i = 0; i < COUNT_OF(tokens); i++) {
        uint32_t rows[4];
        model_ngram_rows(&ngrams, tokens + i, i, rows);
        assert_memory_equal(rows, expected[i], sizeof rows);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_follow_from_the_last_tokens)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
