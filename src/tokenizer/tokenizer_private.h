/* Private to tokenizer/: the tokenizers of the four kinds. tokenizer.c finds special tokens and passes the text between
 * them to one of these. */
#ifndef HYPURA_TOKENIZER_PRIVATE_H
#define HYPURA_TOKENIZER_PRIVATE_H

#include "tokenizer/vocabulary_private.h"

/* ---- a heap of possible merges, smallest key first ------------------------------------------------------------- */

struct heap_entry {
    uint64_t key; /* rank, then the index of the left symbol */
    uint32_t size;
};

struct merge_heap {
    struct heap_entry *entries;
    size_t count, capacity;
};

struct heap_entry merge_heap_pop(struct merge_heap *heap); /* count is at least 1 */

/* ---- the state of one call ------------------------------------------------------------------------------------- */

/* A part of a text that may merge with its neighbours. size 0: it has merged into another part. */
struct part {
    uint32_t start, size;   /* in bytes */
    int32_t previous, next; /* -1: none */
    symbol_id symbol;
};

struct tokenizer {
    const struct vocabulary *vocabulary;
    struct token_array *out;
    bool no_control;                /* merging must not produce control tokens */
    const struct work_watch *watch; /* or NULL */
    uint32_t steps;                 /* since the call began */
    hypura_error *error;
    struct split_text split;
    struct part *parts;
    size_t part_capacity;
    struct merge_heap heap;
    struct buffer text;
};

/* Loops over a text call this for every step. Returns HYPURA_ERROR_CANCELLED if watch stops the call. */
#define TOKENIZER_WATCHED_STEPS 4096u /* steps between two calls of watch; a power of two */
hypura_status tokenizer_look(const struct work_watch *watch, hypura_error *error);
static inline hypura_status tokenizer_step(struct tokenizer *tokenizer)
{
    return ++tokenizer->steps % TOKENIZER_WATCHED_STEPS ? HYPURA_OK
                                                        : tokenizer_look(tokenizer->watch, tokenizer->error);
}

/* Asks watch before allocating so many bytes more. Returns HYPURA_ERROR_MEMORY if it refuses. */
hypura_status tokenizer_borrow(const struct work_watch *watch, size_t bytes, hypura_error *error);

hypura_status merge_heap_push(struct tokenizer *tokenizer, struct heap_entry entry);
hypura_status tokenizer_reserve_parts(struct tokenizer *tokenizer, size_t count);

/* Returns the token with exactly this text, or NO_TOKEN if there is none or it is not allowed here. */
int32_t tokenizer_find(const struct tokenizer *tokenizer, const char *text, size_t size);
bool tokenizer_allows(const struct tokenizer *tokenizer, symbol_id symbol);

hypura_status tokenizer_append(struct tokenizer *tokenizer, int32_t id);

/* Each appends the tokens of a text that contains no special tokens. */
hypura_status tokenize_bpe(struct tokenizer *tokenizer, const char *text, size_t size);
hypura_status tokenize_sentencepiece(struct tokenizer *tokenizer, const char *text, size_t size, bool space_before);
hypura_status tokenize_wordpiece(struct tokenizer *tokenizer, const char *text, size_t size);
hypura_status tokenize_unigram(struct tokenizer *tokenizer, const char *text, size_t size);

#endif
