/* libFuzzer target: a GGUF file with a vocabulary, which tokenizes a text and converts the tokens back. The text is the
 * end of the same file. */
#include "fuzz.h"

#include "tokenizer/vocabulary.h"

static const char words[] =
    " Hello, World's  café 1234567\n\n\t<|im_start|> \xe4\xbd\xa0\xe5\xa5\xbd\xf0\x9f\x99\x82 x";
#define TEXT_BYTES 256

static void follow(const struct vocabulary *vocabulary, const char *text, size_t size)
{
    hypura_error error = {0};
    for (uint32_t flags = 0; flags < 4; flags++) {
        struct token_array tokens = {0};
        struct buffer out = {0};
        hypura_status status = vocabulary_tokenize(vocabulary, text, size, flags, &tokens, &error);
        must_explain(status, &error);
        must(status == HYPURA_OK || tokens.count == 0);
        for (size_t i = 0; i < tokens.count; i++)
            must(tokens.ids[i] >= 0 && (uint32_t)tokens.ids[i] < vocabulary_size(vocabulary));
        vocabulary_detokenize(vocabulary, tokens.ids, tokens.count, flags, &out);
        struct token_decoder decoder;
        token_decoder_start(&decoder, vocabulary, flags & 1);
        for (size_t i = 0; i < tokens.count; i++)
            token_decoder_push(&decoder, tokens.ids[i], &out);
        token_decoder_finish(&decoder, &out);
        buffer_free(&out);
        token_array_free(&tokens);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *gguf;
    struct vocabulary *vocabulary;
    hypura_error error = {0};
    if (gguf_open(&gguf, as_file(data, size), &error) != HYPURA_OK)
        return 0;
    hypura_status status = vocabulary_open(&vocabulary, gguf, &error);
    must_explain(status, &error);
    if (status == HYPURA_OK) {
        size_t own = size < TEXT_BYTES ? size : TEXT_BYTES;
        follow(vocabulary, words, sizeof words - 1);
        follow(vocabulary, (const char *)data + size - own, own);
        vocabulary_close(vocabulary);
    }
    gguf_close(gguf);
    return 0;
}
