/* Private to grammar/. */
#ifndef HYPURA_GRAMMAR_PRIVATE_H
#define HYPURA_GRAMMAR_PRIVATE_H

#include "grammar/grammar.h"

/* ---- the tree of a rule -------------------------------------------------------------------------------------------
 */

enum term_kind { TERM_BYTES, TERM_CLASS, TERM_SEQUENCE, TERM_CHOICE, TERM_REPEAT, TERM_RULE, TERM_MARK };

/* Announces, after a bracket, items or member names of which no two may be equal. Written !items and !names; only
 * grammars made from schemas have marks. */
enum mark { MARK_ITEMS = 1, MARK_NAMES = 2 };

struct code_range {
    uint32_t low, high; /* code points, inclusive */
};

#define NO_TERM UINT32_MAX
#define REPEAT_UNBOUNDED UINT32_MAX

/* Terms refer to one another by index. */
struct term {
    enum term_kind kind;
    uint32_t first;     /* sequence, choice: first child; repeat: the repeated term; rule: its index; mark: enum mark */
    uint32_t next;      /* the next child of the same sequence or choice */
    uint32_t low, high; /* repeat: counts; class: range indices; bytes: offset and end in the tree's bytes */
};

struct rule {
    char *name;
    uint64_t hash; /* of the name */
    uint32_t body; /* a term; NO_TERM until the rule is defined */
    int line;      /* where it is first mentioned */
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
    STATE_SPLIT, /* leads to next and to other without a byte */
    STATE_CALL,  /* runs the rule that starts at other, then leads to next */
    STATE_END,   /* the end of a rule */
    STATE_MARK,  /* leads to next without a byte; low: the mark */
};

struct network_state {
    uint8_t kind, low, high;
    uint32_t next, other; /* STATE_SET: other is the set */
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
    int32_t *order;   /* the tokens with bytes, sorted by their bytes */
    uint16_t *common; /* how many leading bytes each shares with the previous one */
    char *bytes;      /* their bytes, contiguous because making a mask reads all of them */
    size_t *starts;   /* [ordered + 1] */
    size_t ordered;
    size_t longest;
    struct token_piece *own_pieces; /* owned if read from a model's vocabulary; their bytes follow */
    struct buffer own_bytes;
};

/* ---- schemas (schema_private.h) -----------------------------------------------------------------------------------
 */

#define SCHEMA_MAX_NESTING 100

/* Like grammar_parse, but allows marks. */
hypura_status grammar_parse_schema(struct grammar **out, const char *text, size_t size, hypura_error *error);

/* Appends a GBNF literal. */
void grammar_write_literal(struct buffer *text, const char *bytes, size_t size);

/* Grows an array by doubling so that one more element fits, up to a limit. */
hypura_status grammar_grow(void **array, uint32_t count, uint32_t *capacity, size_t size, uint32_t limit,
                           hypura_error *error);

#endif
