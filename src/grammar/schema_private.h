/* Private to grammar/: how a JSON schema becomes a grammar.
 *
 * A literal is a schema or its negation. A goal is a set of literals that a value must satisfy together. There are only
 * as many goals as sets of subschemas, so recursion ends. A goal is opened into shapes; a value must satisfy at least
 * one of them. A shape is a plain list of limits for each type, with oneOf, not, if and the like resolved
 * (schema_open.c, schema_hold.c, schema_break.c). Each goal is then written as a GBNF rule that covers its shapes.
 * Limits on the text of strings and numbers are automata over characters, which can be combined and complemented
 * (automaton.c).
 *
 * Functions that return false have set the writer's error. */
#ifndef HYPURA_SCHEMA_PRIVATE_H
#define HYPURA_SCHEMA_PRIVATE_H

#include "grammar/grammar_private.h"

/* ---- the writer ---------------------------------------------------------------------------------------------------
 */

struct memory_block;

struct resource {
    const char *uri; /* without fragment; "" for the root of a schema without $id */
    const json_t *root;
};

struct place {
    const json_t *schema;
    uint32_t resource;
};

struct anchor {
    const char *name;
    const json_t *schema;
    uint32_t resource;
    bool dynamic;
};

/* A deterministic automaton over classes of characters. It starts in state 0. */
struct automaton {
    uint32_t states, classes;
    uint32_t *starts; /* [classes + 1] the first character of each class */
    uint32_t *next;   /* [states][classes], or NO_STATE */
    uint32_t *marks;  /* [states] bit i: a text that ends here satisfies part i */
};

struct known_pattern {
    const char *pattern;
    struct automaton automaton;
    struct known_pattern *next;
};

struct text_rule {
    const char *text;
    unsigned rule;
    struct text_rule *next;
};

#define TEXT_RULE_SLOTS 4096
#define GOAL_SLOTS 1024

struct goal;

/* A keyword of a schema. */
struct origin {
    const json_t *schema;
    const char *key;
};

struct schema_writer {
    const json_t *root;
    struct buffer *out;
    unsigned rules;
    struct memory_block *blocks; /* memory that lives as long as the writer */
    size_t memory, memory_left;
    json_t *owned;                   /* array of the values that the writer made */
    const json_t *type_schemas[128]; /* {"type": ...} for each set of types */
    struct resource *resources;
    uint32_t resource_count, resource_capacity;
    struct place *places; /* open addressing by the address */
    uint32_t place_count, place_slots;
    struct anchor *anchors;
    uint32_t anchor_count, anchor_capacity;
    bool old_draft; /* draft 7 or older: keywords next to a $ref are ignored */
    struct text_rule *texts[TEXT_RULE_SLOTS];
    struct known_pattern *patterns[64];
    struct goal *goals[GOAL_SLOTS], *first_waiting, *last_waiting;
    uint32_t goal_count;
    uint64_t steps;   /* work done so far; bounded */
    int depth;        /* how many goals are being opened, one for another */
    bool exact;       /* do not narrow goals to the values that are written: consider every valid value */
    struct origin at; /* the current keyword: if it is refused, it can be left out */
    hypura_error *error;
};

/* Refuses the schema: sets the error to a sentence and returns false. */
bool schema_refuse(struct schema_writer *w, const char *format, ...) PRINTF_LIKE(2, 3);
bool schema_no_memory(struct schema_writer *w);
/* Counts work. Returns false once the schema takes too much. */
bool schema_work(struct schema_writer *w, uint64_t steps);
/* Returns zeroed memory that lives as long as the writer, or NULL. */
void *schema_memory(struct schema_writer *w, size_t count, size_t size);
char *schema_copy_text(struct schema_writer *w, const char *text, size_t size);
/* Takes ownership of a new value. NULL means that memory ran out, and is reported. */
const json_t *schema_own(struct schema_writer *w, json_t *value);

/* Writes "rN ::= TEXT" once per distinct text, sets *rule to N and frees the buffer. */
bool schema_text_rule(struct schema_writer *w, struct buffer *text, unsigned *rule);
/* Reserves the number of a rule that is written later. */
unsigned schema_new_rule(struct schema_writer *w);
bool schema_end_rule(struct schema_writer *w, unsigned rule, struct buffer *text);
/* Appends "{LOW,HIGH}". high -1: no limit. */
void schema_write_repeat(struct buffer *e, json_int_t low, json_int_t high);
void schema_free_memory(struct schema_writer *w);

/* ---- literals, goals, shapes --------------------------------------------------------------------------------------
 */

struct literal {
    const json_t *schema;
    bool negated;
    struct origin origin;         /* the keyword, such as "not", with which it must be left out; or none */
    const struct literal *parent; /* the literal that implies this one, for the same value */
};

struct literals {
    struct literal literal;
    struct literals *next;
};

enum schema_types {
    TYPE_NULL = 1,
    TYPE_BOOLEAN = 2,
    TYPE_INTEGER = 4,
    TYPE_FRACTION = 8, /* a number that is not an integer */
    TYPE_STRING = 16,
    TYPE_ARRAY = 32,
    TYPE_OBJECT = 64,
    TYPE_NUMBER = TYPE_INTEGER | TYPE_FRACTION,
    TYPE_ALL = 127,
};

enum limit_kind {
    LIMIT_LITERAL,  /* the value satisfies literal */
    LIMIT_TYPES,    /* its type is one of types */
    LIMIT_VALUES,   /* it is in the array value */
    LIMIT_NO_VALUE, /* it is not value */
    LIMIT_LENGTH,   /* low to high characters */
    LIMIT_PATTERN,  /* the pattern name occurs in it; negated: does not */
    LIMIT_FORMAT,   /* the format name */
    LIMIT_LEAST,    /* at least value; negated: more than value */
    LIMIT_MOST,     /* at most value; negated: less than value */
    LIMIT_MULTIPLE, /* a multiple of value; negated: not one */
    LIMIT_SIZE,     /* low to high items */
    LIMIT_ITEM,     /* item low satisfies literal, if present */
    LIMIT_ITEMS,    /* items from low on satisfy literal */
    LIMIT_CONTAINS, /* low to high items, from `from` on, satisfy literal */
    LIMIT_UNIQUE,
    LIMIT_COUNT,           /* low to high properties */
    LIMIT_PROPERTY,        /* property name satisfies literal, if present */
    LIMIT_NAMED_LIKE,      /* properties whose names match the pattern name satisfy literal */
    LIMIT_OTHERS,          /* properties that owner does not name satisfy literal */
    LIMIT_NAMES,           /* property names satisfy literal */
    LIMIT_REQUIRED,        /* property name is present; negated: absent */
    LIMIT_SOME_NAMED_LIKE, /* at least one property as for LIMIT_NAMED_LIKE, _OTHERS or _NAMES satisfies literal */
    LIMIT_SOME_OTHER,
    LIMIT_SOME_NAME,
};

struct limit {
    enum limit_kind kind;
    bool negated;
    unsigned types;
    json_int_t low, high, from; /* high -1: no limit */
    const char *name;
    const json_t *value, *owner;
    struct literal literal;
    bool unevaluated;         /* ITEMS and OTHERS: those that no limit implied by `of` covers */
    const struct literal *of; /* the literal that it belongs to */
    struct origin origin;
};

struct limits {
    const struct limit *limit;
    struct limits *next;
};

struct shape {
    unsigned types, spoken; /* spoken: the types that its limits apply to */
    bool typed;             /* a schema names the types */
    bool lists;             /* a schema lists properties, by name or pattern */
    bool listed_items;
    const json_t *values;  /* array, or NULL: any */
    struct limits *limits; /* in the order of the schema */
    struct shape *next;
};

enum emptiness { EMPTINESS_UNKNOWN, EMPTINESS_ASKED, EMPTINESS_NO, EMPTINESS_YES };

struct goal {
    struct literals *literals;
    uint64_t hash;
    bool canonical; /* equal values have one text */
    bool exact;
    bool opening, opened;
    struct shape *shapes;
    enum emptiness empty;
    bool has_rule;
    unsigned rule;
    struct goal *next, *next_waiting;
};

/* schema_goal.c */
struct literals *schema_add_literal(struct schema_writer *w, struct literals *list, struct literal literal);
bool schema_find_goal(struct schema_writer *w, const struct literals *literals, bool canonical, struct goal **out);
bool schema_goal_of(struct schema_writer *w, struct literal a, const struct literal *b, bool canonical,
                    struct goal **out);
/* Whether every value satisfies a goal: it has no literals. */
bool schema_goal_is_any(const struct goal *goal);
/* Whether certainly no value satisfies a goal. *out is false if unsure. */
bool schema_goal_is_empty(struct schema_writer *w, struct goal *goal, bool *out);
/* Whether certainly no value satisfies a shape of a goal. */
bool schema_shape_is_empty(struct schema_writer *w, const struct goal *goal, const struct shape *shape, bool *out);
/* Appends a reference to the goal's rule, which is written later. */
bool schema_write_goal(struct schema_writer *w, struct goal *goal, struct buffer *e);
bool schema_write_waiting(struct schema_writer *w);

/* The types to write for a shape: the named ones, or else those that its limits apply to. */
unsigned schema_meant_types(const struct shape *shape);

/* schema_writer.c */
struct limits *schema_new_limit(struct schema_writer *w, struct limit limit, struct limits *next);

/* schema_open.c: fills goal->shapes. */
bool schema_open_goal(struct schema_writer *w, struct goal *goal);

struct alternative {
    struct limits *limits;
    struct alternative *next;
};

struct choice {
    struct alternative *first;
    struct choice *next;
};

struct keyword {
    const json_t *schema; /* the schema that contains it */
    const char *key;
    const json_t *value;
    const struct literal *literal; /* the literal that is being opened */
    struct limits *limits, **end;  /* out: all of these hold */
    struct choice *choices;        /* out: and one alternative of each of these */
    unsigned spoken;
    bool typed, lists, listed_items;
};

/* schema_hold.c */
bool schema_hold_keyword(struct schema_writer *w, struct keyword *k);

/* schema_break.c. Adds the ways to break the schema's keyword to *ways. */
bool schema_break_keyword(struct schema_writer *w, struct keyword *k, struct alternative **ways);

/* schema_references.c */
bool schema_index(struct schema_writer *w);
bool schema_resolve(struct schema_writer *w, const json_t *from, const char *reference, bool dynamic,
                    const json_t **out);
void schema_forget_index(struct schema_writer *w);

/* schema_check.c: whether a value satisfies a literal. */
bool schema_check(struct schema_writer *w, struct literal literal, const json_t *value, bool *out);
bool schema_equal(const json_t *a, const json_t *b);
/* Whether a keyword never constrains a value. */
bool schema_is_annotation(const char *key);

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

/* schema_objects.c, schema_arrays.c, schema_texts.c: append GBNF for a shape's values of that type. */
bool schema_write_object(struct schema_writer *w, const struct goal *goal, const struct shape *shape, struct buffer *e);
bool schema_write_array(struct schema_writer *w, const struct goal *goal, const struct shape *shape, struct buffer *e);
/* Whether certainly no array or object satisfies a shape. */
bool schema_array_is_empty(struct schema_writer *w, const struct goal *goal, const struct shape *shape, bool *empty);
bool schema_object_is_empty(struct schema_writer *w, const struct goal *goal, const struct shape *shape, bool *empty);
/* Whether a literal implies a limit for the same value, without a negation in between. */
bool schema_follows_from(const struct limit *limit, const struct literal *from);
bool schema_write_string(struct schema_writer *w, const struct goal *goal, const struct shape *shape, struct buffer *e);
bool schema_write_number(struct schema_writer *w, const struct goal *goal, const struct shape *shape, unsigned types,
                         struct buffer *e);
bool schema_write_constant(struct schema_writer *w, const json_t *value, bool canonical, struct buffer *e);

/* A decimal number as digits. */
struct decimal {
    bool negative;
    char whole[32], fraction[48]; /* no leading zeros in whole, except "0"; no trailing zeros in fraction */
};

/* Returns false if the number has too many digits. */
bool schema_read_decimal(const json_t *value, struct decimal *out);
bool schema_decimal_is_multiple(const struct decimal *a, const struct decimal *b);

/* ---- texts --------------------------------------------------------------------------------------------------------
 */

/* A condition on a text. An automaton of several parts tells, for each, whether the text satisfies it. */
enum text_kind { TEXT_PATTERN, TEXT_LENGTH, TEXT_MULTIPLE };

struct text_part {
    enum text_kind kind;
    const char *pattern;  /* may match anywhere in the text */
    json_int_t low, high; /* length; high -1: no limit */
    uint32_t multiple;    /* the number is a multiple of multiple / 10^places */
    uint32_t places;
    bool required, forbidden;
    struct origin origin;
};

#define MAX_TEXT_PARTS 32

#define NO_STATE UINT32_MAX

/* Appends a pattern that matches exactly this text. */
void schema_quote(struct buffer *pattern, const char *text);

/* Collects a shape's conditions on strings. */
bool schema_string_parts(struct schema_writer *w, const struct shape *shape, struct text_part parts[MAX_TEXT_PARTS],
                         size_t *count);

/* Builds the automaton of the parts, without states from which a required part can no longer be satisfied. */
bool automaton_build(struct schema_writer *w, const struct text_part *parts, size_t count, struct automaton *out);
/* Appends, as GBNF, the texts whose marks, masked by looked_at, equal `wanted`. If there are none, appends nothing and
 * sets *empty. */
bool automaton_write(struct schema_writer *w, const struct automaton *a, uint32_t looked_at, uint32_t wanted,
                     bool in_string, struct buffer *e, bool *empty);
/* Lists these texts, at most room of them. *count is room + 1 if there are more. */
bool automaton_list(struct schema_writer *w, const struct automaton *a, uint32_t looked_at, uint32_t wanted,
                    const char **texts, size_t room, size_t *count);
bool automaton_matches(struct schema_writer *w, const char *pattern, const char *text, bool *out);

/* ---- patterns -----------------------------------------------------------------------------------------------------
 */

enum pattern_kind { PATTERN_SET, PATTERN_SEQUENCE, PATTERN_CHOICE, PATTERN_REPEAT, PATTERN_START, PATTERN_END };

struct pattern_node {
    enum pattern_kind kind;
    struct pattern_node *first, *next;
    struct code_range *ranges; /* of a set, sorted */
    uint32_t range_count;
    uint32_t low, high; /* counts of a repetition */
};

/* Parses a pattern into a choice of sequences. A text matches if the pattern occurs anywhere in it. */
bool pattern_parse(struct schema_writer *w, const char *pattern, struct pattern_node **out);

/* Whether pattern_write can write it directly: anchors are only at the beginnings and ends of its alternatives. */
bool pattern_is_plain(const struct pattern_node *pattern);
/* Appends, as GBNF, the contents (between the quotes) of the JSON strings that it matches. */
void pattern_write(const struct pattern_node *pattern, struct buffer *text);

/* Appends one character of a set as GBNF. In a JSON string, escapes are used only where they are required. */
void pattern_write_set(struct buffer *text, const struct code_range *ranges, size_t count, bool in_string);

#endif
