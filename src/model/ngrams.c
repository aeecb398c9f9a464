/* Hashes of the last tokens, which select a token's rows in a table. */
#include "model/model_private.h"

#include <inttypes.h>

void model_ngram_rows(const struct model_ngrams *ngrams, const int32_t *tokens, size_t before, uint32_t *rows)
{
    uint64_t hash = (uint64_t)(uint32_t)tokens[0] * ngrams->multipliers[0];
    bool cut = false;
    for (uint32_t length = 2, z = 0; length <= ngrams->size; length++) {
        size_t back = length - 1;
        int32_t token = cut || back > before ? ngrams->end : tokens[-(ptrdiff_t)back];
        cut = cut || token == ngrams->end;
        hash ^= (uint64_t)(uint32_t)token * ngrams->multipliers[back];
        for (uint32_t i = 0; i < ngrams->heads; i++, z++)
            rows[z] = (uint32_t)(hash % ngrams->moduli[z] + ngrams->offsets[z]);
    }
}

/* Reads 64-bit numbers; all bits matter. */
static hypura_status read_words(struct reader *reader, const char *name, uint32_t count, uint64_t *out,
                                hypura_error *error)
{
    const struct gguf_value *value = gguf_find(reader->file, key(reader, name));
    for (uint32_t i = 0; i < count; i++)
        if (!value || value->count != count || !gguf_element_uint64(value, i, &out[i]))
            return error_set(error, HYPURA_ERROR_FORMAT, "%s: metadata '%s' is not an array of %u integers",
                             gguf_file_path(reader->file, 0), reader->key, count);
    return HYPURA_OK;
}

hypura_status model_read_ngrams(struct reader *reader, struct model_parameters *p, hypura_error *error)
{
    struct model_ngrams *n = &p->ngrams;
    uint32_t end = 0;
    TRY(needed_number(reader, "ple.ngram_size", MODEL_NGRAM_TOKENS, &n->size, error));
    TRY(needed_number(reader, "ple.heads_per_ngram", MODEL_NGRAM_ROWS, &n->heads, error));
    TRY(needed_number(reader, "ple.conv_kernel", 64, &n->taps, error));
    TRY(needed_number(reader, "embedding_length_per_layer_input", MAX_WIDTH, &p->table_width, error));
    TRY(optional_number(reader, "ple.eos_token_id", MAX_VOCABULARY, &end, error));
    n->end = (int32_t)end;
    n->rows = (n->size - 1) * n->heads;
    if (n->size < 2 || n->rows > MODEL_NGRAM_ROWS || n->taps < 2)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "%s: n-grams of up to %u tokens with %u rows of each length and a convolution of %u; expected "
                         "at least 2 tokens, a convolution of at least 2, and at most %u rows together",
                         gguf_file_path(reader->file, 0), n->size, n->heads, n->taps, MODEL_NGRAM_ROWS);
    TRY(read_words(reader, "ple.layer_multipliers", n->size, n->multipliers, error));
    TRY(read_words(reader, "ple.head_offsets", n->rows, n->offsets, error));
    TRY(read_words(reader, "ple.head_vocab_sizes", n->rows, n->moduli, error));
    for (uint32_t z = 0; z < n->rows; z++) {
        uint64_t end_of_rows;
        if (n->moduli[z] == 0 || __builtin_add_overflow(n->offsets[z], n->moduli[z], &end_of_rows) ||
            end_of_rows > UINT32_MAX)
            return error_set(error, HYPURA_ERROR_FORMAT,
                             "%s: n-grams with rows from %" PRIu64 " on, %" PRIu64 " of them, make no sense",
                             gguf_file_path(reader->file, 0), n->offsets[z], n->moduli[z]);
        p->table_rows = MAX(p->table_rows, end_of_rows);
    }
    return HYPURA_OK;
}

bool model_has_ngrams(struct reader *reader, uint32_t layer)
{
    const struct gguf_value *value = gguf_find(reader->file, key(reader, "ple.layers"));
    int64_t number;
    for (uint64_t i = 0; value && i < value->count; i++)
        if (gguf_element_int64(value, i, &number) && number == (int64_t)layer)
            return true;
    return false;
}
