/* libFuzzer target: the bytes up to the first NUL are a grammar in GBNF, or a JSON schema if they begin with "{". The
 * rest is text to match. */
#include "fuzz.h"

#include "grammar/grammar.h"

static struct grammar_vocabulary *vocabulary(void)
{
    static struct grammar_vocabulary *all_bytes;
    static char bytes[256];
    static struct token_piece pieces[257];
    static bool ends[257];
    if (all_bytes)
        return all_bytes;
    for (int i = 0; i < 256; i++) {
        bytes[i] = (char)i;
        pieces[i] = (struct token_piece){&bytes[i], 1};
    }
    ends[256] = true;
    must(grammar_vocabulary_create(&all_bytes, pieces, ends, 257, NULL) == HYPURA_OK);
    return all_bytes;
}

static void follow(const struct grammar *grammar, const uint8_t *text, size_t size)
{
    struct grammar_matcher *m;
    uint32_t mask[9] = {0};
    if (grammar_matcher_create(&m, grammar, vocabulary(), NULL) != HYPURA_OK)
        return;
    for (size_t i = 0; i < size; i++) {
        bool allowed = grammar_matcher_allows(m, text[i]);
        memset(mask, 0, sizeof mask);
        hypura_status masked = grammar_matcher_mask(m, mask, NULL);
        hypura_status status = grammar_matcher_accept(m, text[i], NULL);
        must(masked != HYPURA_OK ||
             (allowed == (status == HYPURA_OK) && allowed == (mask[text[i] / 32] >> (text[i] % 32) & 1)));
        if (status != HYPURA_OK)
            break;
        /* A text that can begin can be completed: either something may follow, or the text is complete. */
        memset(mask, 0, sizeof mask);
        uint32_t any = 0;
        if (grammar_matcher_mask(m, mask, NULL) != HYPURA_OK)
            break;
        for (int k = 0; k < 9; k++)
            any |= mask[k];
        must(any != 0);
    }
    grammar_matcher_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, 0, size);
    size_t length = end ? (size_t)(end - data) : size;
    struct grammar *grammar = NULL;
    hypura_error error = {0};
    hypura_status status = HYPURA_OK;
    if (length && data[0] == '{') {
        json_t *schema = json_loadb((const char *)data, length, 0, NULL);
        status = schema ? grammar_from_schema(&grammar, schema, &error) : HYPURA_OK;
        json_decref(schema);
    } else {
        status = grammar_parse(&grammar, (const char *)data, length, &error);
    }
    must_explain(status, &error);
    if (status == HYPURA_OK && grammar && end)
        follow(grammar, end + 1, size - length - 1);
    grammar_free(grammar);
    return 0;
}
