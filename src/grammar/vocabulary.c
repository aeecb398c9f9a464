/* Sorts the tokens of a vocabulary, so that a grammar can be matched against all of them in one walk. */
#include "grammar/grammar_private.h"

#include "tokenizer/vocabulary.h"

#include <stdlib.h>
#include <string.h>

struct sort_key {
    uint64_t head; /* the first eight bytes, the first of them highest */
    int32_t token;
    const struct token_piece *piece;
};

static int compare_keys(const void *a, const void *b)
{
    const struct sort_key *x = a, *y = b;
    if (x->head != y->head)
        return x->head < y->head ? -1 : 1;
    int order = memcmp(x->piece->bytes, y->piece->bytes, MIN(x->piece->size, y->piece->size));
    if (order)
        return order;
    if (x->piece->size != y->piece->size)
        return x->piece->size < y->piece->size ? -1 : 1;
    return (x->token > y->token) - (x->token < y->token);
}

static uint64_t head_of(const struct token_piece *piece)
{
    uint64_t head = 0;
    for (size_t i = 0; i < 8; i++)
        head = head << 8 | (i < piece->size ? (unsigned char)piece->bytes[i] : 0);
    return head;
}

hypura_status grammar_vocabulary_create(struct grammar_vocabulary **out, const struct token_piece *pieces,
                                        const bool *ends, size_t count, hypura_error *error)
{
    if (count == 0 || count > INT32_MAX)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "a grammar cannot use a vocabulary of %zu tokens", count);
    struct grammar_vocabulary *v;
    struct sort_key *keys = NULL;
    hypura_status status = ALLOCATE(&v, 1, "grammar", error);
    if (status != HYPURA_OK)
        return status;
    v->pieces = pieces;
    v->count = count;
    status = ALLOCATE(&keys, count, "grammar", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&v->order, count, "grammar", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&v->common, count, "grammar", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&v->ends, count, "grammar", error);
    if (status != HYPURA_OK) {
        memory_free(keys);
        grammar_vocabulary_free(v);
        return status;
    }
    memcpy(v->ends, ends, count * sizeof *ends);
    for (size_t i = 0; i < count; i++)
        if (pieces[i].size && pieces[i].size < UINT16_MAX && !ends[i])
            keys[v->ordered++] = (struct sort_key){head_of(&pieces[i]), (int32_t)i, &pieces[i]};
    qsort(keys, v->ordered, sizeof *keys, compare_keys);
    size_t bytes = 0;
    for (size_t i = 0; i < v->ordered; i++)
        bytes += keys[i].piece->size;
    status = ALLOCATE(&v->bytes, bytes, "grammar", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&v->starts, v->ordered + 1, "grammar", error);
    if (status != HYPURA_OK) {
        memory_free(keys);
        grammar_vocabulary_free(v);
        return status;
    }
    for (size_t i = 0; i < v->ordered; i++) {
        v->order[i] = keys[i].token;
        memcpy(v->bytes + v->starts[i], keys[i].piece->bytes, keys[i].piece->size);
        v->starts[i + 1] = v->starts[i] + keys[i].piece->size;
        v->longest = MAX(v->longest, keys[i].piece->size);
        size_t common = 0;
        while (i && common < keys[i].piece->size && common < keys[i - 1].piece->size &&
               keys[i].piece->bytes[common] == keys[i - 1].piece->bytes[common])
            common++;
        v->common[i] = (uint16_t)common;
    }
    memory_free(keys);
    *out = v;
    return HYPURA_OK;
}

void grammar_vocabulary_free(struct grammar_vocabulary *v)
{
    if (!v)
        return;
    memory_free(v->order);
    memory_free(v->common);
    memory_free(v->bytes);
    memory_free(v->starts);
    memory_free(v->ends);
    memory_free(v->own_pieces);
    buffer_free(&v->own_bytes);
    memory_free(v);
}

hypura_status grammar_vocabulary_read(struct grammar_vocabulary **out, const struct vocabulary *vocabulary,
                                      hypura_error *error)
{
    size_t count = vocabulary_size(vocabulary);
    struct token_piece *pieces = NULL;
    size_t *offsets = NULL;
    bool *ends = NULL;
    struct buffer bytes = {0};
    hypura_status status = ALLOCATE(&pieces, count, "grammar", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&offsets, count + 1, "grammar", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&ends, count, "grammar", error);
    for (size_t i = 0; i < count && status == HYPURA_OK; i++) {
        ends[i] = vocabulary_is_end_of_generation(vocabulary, (int32_t)i);
        vocabulary_piece(vocabulary, (int32_t)i, false, &bytes);
        offsets[i + 1] = bytes.size;
    }
    if (status == HYPURA_OK && bytes.failed)
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for the texts of the tokens");
    for (size_t i = 0; i < count && status == HYPURA_OK; i++)
        if (offsets[i + 1] > offsets[i])
            pieces[i] = (struct token_piece){bytes.data + offsets[i], offsets[i + 1] - offsets[i]};
        else
            pieces[i].bytes = "";
    if (status == HYPURA_OK)
        status = grammar_vocabulary_create(out, pieces, ends, count, error);
    if (status == HYPURA_OK) {
        (*out)->own_pieces = pieces;
        (*out)->own_bytes = bytes;
    } else {
        memory_free(pieces);
        buffer_free(&bytes);
    }
    memory_free(offsets);
    memory_free(ends);
    return status;
}

const struct token_piece *grammar_vocabulary_pieces(const struct grammar_vocabulary *vocabulary)
{
    return vocabulary->pieces;
}
