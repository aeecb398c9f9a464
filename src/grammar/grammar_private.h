/* Private to grammar/. */
#ifndef HYPURA_GRAMMAR_PRIVATE_H
#define HYPURA_GRAMMAR_PRIVATE_H

#include "grammar/grammar.h"

/* ---- the tree of a rule -------------------------------------------------------------------------------------------
 */

enum term_kind { TERM_BYTES, TERM_CLASS, TERM_SEQUENCE, TERM_CHOICE, TERM_REPEAT, TERM_RULE, TERM_MARK };

/* What begins after a bracket: items, or the names of members, of which no two may be the same. Only grammars that are
 * made from schemas have marks, as !items and !names. */
enum mark { MARK_ITEMS = 1, MARK_NAMES = 2 };

struct code_range {
    uint32_t low, high; /* code points, both included */
};

#define NO_TERM UINT32_MAX
#define REPEAT_UNBOUNDED UINT32_MAX

/* Terms refer to one another by index. */
struct term {
    enum term_kind kind;
    uint32_t first;     /* sequence, choice: the first child; repeat: what; rule: which; mark: which */
    uint32_t next;      /* of the children of a sequence or choice */
    uint32_t low, high; /* repeat: how often; class: its ranges; bytes: offset and end in the bytes */
};

struct rule {
    char *name;
    uint64_t hash; /* of the name */
    uint32_t body; /* a term, or NO_TERM while it is not defined */
    int line;      /* of its first mention */
};

struct grammar_tree {
    struct term *terms;
    uint32_t term_count, term_capacity;
    struct code_range *ranges;
    uint32_t range_count, range_capacity;
    struct buffer bytes;
    struct rule *rules;
    uint32_t rule_count, rule_capacity;
};

hypura_status grammar_tree_parse(struct grammar_tree *tree, const char *text, size_t size, bool marks,
                                 hypura_error *error);
void grammar_tree_free(struct grammar_tree *tree);

/* ---- the network --------------------------------------------------------------------------------------------------
 */

enum state_kind {
    STATE_BYTES, /* a byte from low to high leads to next */
    STATE_SET,   /* a byte in the set leads to next */
    STATE_SPLIT, /* next and other, for nothing */
    STATE_CALL,  /* through the rule that begins at other, then to next */
    STATE_END,   /* of a rule */
    STATE_MARK,  /* next, for nothing; low: the mark */
};

struct network_state {
    uint8_t kind, low, high;
    uint32_t next, other; /* of STATE_SET: other is the set */
};

struct byte_set {
    uint32_t bits[8];
};

struct grammar {
    struct network_state *states;
    uint32_t state_count, state_capacity;
    struct byte_set *sets;
    uint32_t set_count, set_capacity;
    uint32_t start;
};

/* ---- vocabulary ---------------------------------------------------------------------------------------------------
 */

struct grammar_vocabulary {
    const struct token_piece *pieces;
    bool *ends;
    size_t count;
    int32_t *order;   /* the tokens with bytes, sorted by them */
    uint16_t *common; /* how many bytes each shares with the one before it */
    char *bytes;      /* theirs, one after another: a mask reads all of them */
    size_t *starts;   /* [ordered + 1] */
    size_t ordered;
    size_t longest;
    struct token_piece *own_pieces; /* when they were read from a model's vocabulary, with their bytes */
    struct buffer own_bytes;
};

/* ---- schemas (schema_private.h) -----------------------------------------------------------------------------------
 */

#define SCHEMA_MAX_NESTING 100

/* As grammar_parse, with marks. */
hypura_status grammar_parse_schema(struct grammar **out, const char *text, size_t size, hypura_error *error);

/* Appends a GBNF literal. */
void grammar_write_literal(struct buffer *text, const char *bytes, size_t size);

/* Grows an array by doubling so that one more element fits, up to a limit. */
hypura_status grammar_grow(void **array, uint32_t count, uint32_t *capacity, size_t size, uint32_t limit,
                           hypura_error *error);

#endif
