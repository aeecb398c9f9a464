/* Private to grammar/. */
#ifndef HYPURA_GRAMMAR_PRIVATE_H
#define HYPURA_GRAMMAR_PRIVATE_H

#include "grammar/grammar.h"

/* ---- the tree of a rule -------------------------------------------------------------------------------------------
 */

enum term_kind { TERM_BYTES, TERM_CLASS, TERM_SEQUENCE, TERM_CHOICE, TERM_REPEAT, TERM_RULE };

struct code_range {
    uint32_t low, high; /* code points, both included */
};

#define NO_TERM UINT32_MAX
#define REPEAT_UNBOUNDED UINT32_MAX

/* Terms refer to one another by index. */
struct term {
    enum term_kind kind;
    uint32_t first;     /* sequence, choice: the first child; repeat: what; rule: which */
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

hypura_status grammar_tree_parse(struct grammar_tree *tree, const char *text, size_t size, hypura_error *error);
void grammar_tree_free(struct grammar_tree *tree);

/* ---- the network --------------------------------------------------------------------------------------------------
 */

enum state_kind {
    STATE_BYTES, /* a byte from low to high leads to next */
    STATE_SET,   /* a byte in the set leads to next */
    STATE_SPLIT, /* next and other, for nothing */
    STATE_CALL,  /* through the rule that begins at other, then to next */
    STATE_END,   /* of a rule */
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

/* ---- schemas ------------------------------------------------------------------------------------------------------
 */

#define SCHEMA_MAX_NESTING 100

struct known_schema {
    const json_t *schema;
    unsigned rule;
};

struct schema_writer {
    const json_t *root;
    struct buffer *out;
    unsigned rules;
    struct known_schema *known; /* what a $ref led to */
    uint32_t known_count, known_capacity;
    json_t *owned; /* array of the schemas that were made by merging */
    int nesting;
    hypura_error *error;
};

hypura_status schema_refuse(const struct schema_writer *w, const char *format, ...) PRINTF_LIKE(2, 3);

/* Appends an expression for a schema of any kind. */
hypura_status schema_write(struct schema_writer *w, const json_t *schema, struct buffer *expression);

/* "NAME ::= EXPRESSION" goes out; the expression is freed. */
unsigned schema_new_rule(struct schema_writer *w);
void schema_end_rule(struct schema_writer *w, unsigned rule, struct buffer *expression);

/* grammar_schema_references.c: $ref, anyOf and oneOf, allOf. */
hypura_status schema_write_reference(struct schema_writer *w, const char *reference, struct buffer *e);
hypura_status schema_write_alternatives(struct schema_writer *w, const json_t *schema, const char *key,
                                        struct buffer *e);
hypura_status schema_write_all(struct schema_writer *w, const json_t *schema, const char *key, struct buffer *e);

hypura_status schema_resolve(const struct schema_writer *w, const char *reference, const json_t **out);
hypura_status schema_merge(struct schema_writer *w, json_t *into, const json_t *from);
hypura_status schema_copy_without(struct schema_writer *w, const json_t *schema, const char *key, json_t **out);
bool schema_is_annotation(const char *key);
bool schema_is_plain(const json_t *schema); /* nothing in it constrains */

/* grammar_schema_objects.c */
bool schema_is_required(const json_t *required, const char *name);
const char *schema_name_at(const json_t *names, size_t i);

/* These append an expression for a schema of that type. */
hypura_status schema_write_constant(struct schema_writer *w, const json_t *value, struct buffer *expression);
hypura_status schema_write_enum(struct schema_writer *w, const json_t *values, struct buffer *expression);
hypura_status schema_write_number(struct schema_writer *w, const json_t *schema, bool integer, struct buffer *e);
hypura_status schema_write_string(struct schema_writer *w, const json_t *schema, struct buffer *e);
hypura_status schema_write_object(struct schema_writer *w, const json_t *schema, struct buffer *e);

/* A pair such as minItems and maxItems; *high is -1 without the latter. */
hypura_status schema_read_counts(const struct schema_writer *w, const json_t *schema, const char *least,
                                 const char *most, json_int_t *low, json_int_t *high);
void schema_write_repeat(struct buffer *e, json_int_t low, json_int_t high);

/* ---- patterns -----------------------------------------------------------------------------------------------------
 */

/* Appends what stands between the quotes of a JSON string that a regular expression of a schema matches, as GBNF. */
hypura_status grammar_pattern_text(struct buffer *text, const char *pattern, hypura_error *error);

/* Appends a GBNF literal. */
void grammar_write_literal(struct buffer *text, const char *bytes, size_t size);

/* Grows an array by doubling so that one more element fits, up to a limit. */
hypura_status grammar_grow(void **array, uint32_t count, uint32_t *capacity, size_t size, uint32_t limit,
                           hypura_error *error);

#endif
