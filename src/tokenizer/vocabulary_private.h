/* Private to tokenizer/: the tables of a vocabulary. */
#ifndef HYPURA_VOCABULARY_PRIVATE_H
#define HYPURA_VOCABULARY_PRIVATE_H

#include "tokenizer/split.h"
#include "tokenizer/vocabulary.h"

/* ---- symbols ------------------------------------------------------------------------------------------------------
 *
 * A symbol is a token, or another text that occurs in the merges (as left, right or result). Symbols below the number
 * of tokens are the tokens. One hash table finds both by their text. */

typedef uint32_t symbol_id;
#define NO_SYMBOL UINT32_MAX

struct symbol_slot {
    uint32_t hash;
    symbol_id symbol; /* NO_SYMBOL: free */
};

struct symbol_table {
    struct symbol_slot *slots;
    size_t slot_count; /* a power of two, at least twice the number of symbols */
    size_t interned;   /* texts looked up while the table was filled */
    size_t walked;     /* slots passed while it was filled */
    const struct gguf_string *tokens;
    size_t token_count;
    struct gguf_string *extra; /* symbols that are not tokens; the table owns their texts */
    size_t extra_count, extra_capacity;
};

hypura_status symbol_table_build(struct symbol_table *table, const struct gguf_string *tokens, size_t count,
                                 hypura_error *error);
void symbol_table_free(struct symbol_table *table);
symbol_id symbol_find(const struct symbol_table *table, const char *text, size_t size);

/* Finds or adds the symbol with this text followed by tail (tail_size may be 0). */
hypura_status symbol_intern(struct symbol_table *table, const char *text, size_t size, const char *tail,
                            size_t tail_size, symbol_id *out, hypura_error *error);
struct gguf_string symbol_text(const struct symbol_table *table, symbol_id symbol);

/* ---- merges ------------------------------------------------------------------------------------------------------ */

/* A merge's rank is its index; lower ranks merge first. */
struct merge {
    symbol_id left, right, result;
};

struct merge_table {
    struct merge *merges;
    size_t count;
    uint32_t *slots; /* index of a merge; UINT32_MAX: free */
    size_t slot_count;
    size_t walked; /* slots passed while it was filled */
};

#define NO_MERGE UINT32_MAX

hypura_status merge_table_build(struct merge_table *table, struct symbol_table *symbols,
                                const struct gguf_value *merges, hypura_error *error);
void merge_table_free(struct merge_table *table);
uint32_t merge_find(const struct merge_table *table, symbol_id left, symbol_id right);

/* ---- tokens by prefix ---------------------------------------------------------------------------------------------
 *
 * Ids are sorted by text, so walking along a text narrows a range of them byte by byte. */

struct prefix_index {
    int32_t *ids;
    size_t count;
    uint32_t first[257]; /* ids whose text starts with byte b: first[b] to first[b + 1] */
};

struct prefix_range {
    size_t low, high;
    size_t depth;
};

/* Takes ownership of ids. None may have an empty text. */
void prefix_index_build(struct prefix_index *index, const struct gguf_string *tokens, int32_t *ids, size_t count);
void prefix_index_free(struct prefix_index *index);

static inline struct prefix_range prefix_all(const struct prefix_index *index)
{
    return (struct prefix_range){0, index->count, 0};
}

/* Narrows the range by one byte. Returns false if nothing is left. */
bool prefix_step(const struct prefix_index *index, const struct gguf_string *tokens, struct prefix_range *range,
                 uint8_t byte);

/* Returns the token whose text is exactly the bytes walked so far, or NO_TOKEN. */
int32_t prefix_exact(const struct prefix_index *index, const struct gguf_string *tokens,
                     const struct prefix_range *range);

static inline bool bit_is_set(const uint8_t *bits, size_t index)
{
    return bits[index / 8] >> (index % 8) & 1;
}

static inline void bit_set(uint8_t *bits, size_t index)
{
    bits[index / 8] |= (uint8_t)(1u << (index % 8));
}

static inline void bit_clear(uint8_t *bits, size_t index)
{
    bits[index / 8] &= (uint8_t) ~(1u << (index % 8));
}

/* ---- the vocabulary ---------------------------------------------------------------------------------------------- */

struct vocabulary {
    enum vocabulary_kind kind;
    const struct gguf_string *tokens; /* [count] borrowed from the file, like the scores */
    uint32_t count;
    const float *scores;           /* [count]; NULL: none */
    const int32_t *integer_scores; /* [count]; NULL: none */
    uint8_t *attributes;
    uint8_t *end_of_generation; /* one bit per token */
    size_t longest_token;       /* in bytes */

    struct symbol_table symbols;
    int32_t byte_tokens[256]; /* the fallback token of each byte */
    int32_t special[SPECIAL_COUNT];

    bool add_bos, add_eos, add_separator;
    bool add_space_prefix;
    bool remove_extra_spaces;
    bool clean_spaces;
    bool escape_spaces; /* spaces are U+2581 in token texts */

    /* tokens that are found in a text before all others */
    struct prefix_index partition_index;
    uint8_t *marked_control; /* one bit per token: the file itself marks it as control or unknown */

    /* BPE */
    const struct pre_tokenizer *pre;
    struct splitter *splitter;
    struct merge_table merges;
    symbol_id byte_symbols[256];     /* the character that represents a byte */
    int32_t single_byte_tokens[256]; /* the token whose text is that one byte */

    /* SentencePiece: bytes that directly precede a space inside some token. No merge crosses the boundary between any
     * other byte and a space. */
    bool before_inner_space[256];

    /* WordPiece */
    bool lowercase, strip_accents;

    /* Unigram */
    struct prefix_index unigram_index, user_defined_index;
    double unknown_score;
    uint32_t *character_map; /* double-array trie: prefixes of a text and their replacements */
    size_t character_map_count;
    const char *replacements;
    size_t replacement_bytes;
};

/* Sets special tokens, attributes and the end-of-generation set from metadata and known texts. */
void vocabulary_find_special(struct vocabulary *vocabulary, const struct gguf *file);

/* Reads the tables that only Unigram vocabularies have. */
hypura_status unigram_open(struct vocabulary *vocabulary, const struct gguf *file, hypura_error *error);

/* Finds the tokens that remove white space next to them. No key marks them: this goes by the name of the model. */
void vocabulary_find_strips(struct vocabulary *vocabulary, const struct gguf *file);

#define SPACE_SYMBOL "\xE2\x96\x81" /* U+2581, a space in SentencePiece token texts */
#define SPACE_SYMBOL_SIZE 3

#endif
