/* Private to grammar/: how a JSON schema becomes a grammar.
 *
 * A literal is a schema or its opposite. A goal is a set of literals that a value keeps all of; there are only as many
 * as there are sets of subschemas, so that recursion ends. A goal is opened into shapes, of which a value keeps at
 * least one: a shape is a plain list of limits for each type (schema_open.c, schema_hold.c, schema_break.c), with
 * oneOf, not, if and the like resolved. What a shape describes is then written as GBNF, a rule for each goal. Limits on
 * the text of strings and numbers are automata over characters, which can be joined and turned round (automaton.c).
 *
 * A function that returns false has said why in the writer's error. */
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

/* Deterministic, over classes of characters; it begins in state 0. */
struct automaton {
    uint32_t states, classes;
    uint32_t *starts; /* [classes + 1] the first character of each class */
    uint32_t *next;   /* [states][classes], or NO_STATE */
    uint32_t *marks;  /* [states] which parts a text that ends here keeps */
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
    struct memory_block *blocks; /* all that lives as long as the writer */
    size_t memory, memory_left;
    json_t *owned;                   /* array of the values that were made */
    const json_t *type_schemas[128]; /* {"type": ...} of each set of types */
    struct resource *resources;
    uint32_t resource_count, resource_capacity;
    struct place *places; /* open addressing by the address */
    uint32_t place_count, place_slots;
    struct anchor *anchors;
    uint32_t anchor_count, anchor_capacity;
    bool old_draft; /* draft 7 and before: what stands next to a $ref does not count */
    struct text_rule *texts[TEXT_RULE_SLOTS];
    struct known_pattern *patterns[64];
    struct goal *goals[GOAL_SLOTS], *first_waiting, *last_waiting;
    uint32_t goal_count;
    uint64_t steps;   /* of work; bounded */
    int depth;        /* of goals that wait for others to be opened */
    bool exact;       /* nothing is narrowed: what is asked is whether any value keeps a goal */
    struct origin at; /* what is being looked at: what is refused then can be left out */
    hypura_error *error;
};

/* Refuses the schema, with a sentence. */
bool schema_refuse(struct schema_writer *w, const char *format, ...) PRINTF_LIKE(2, 3);
bool schema_no_memory(struct schema_writer *w);
/* Counts work; false when it is too much for any sensible schema. */
bool schema_work(struct schema_writer *w, uint64_t steps);
/* Zeroed memory that lives as long as the writer, or NULL. */
void *schema_memory(struct schema_writer *w, size_t count, size_t size);
char *schema_copy_text(struct schema_writer *w, const char *text, size_t size);
/* Takes over a new value (NULL: there was no memory). */
const json_t *schema_own(struct schema_writer *w, json_t *value);

/* "rN ::= TEXT" goes out, once for each text; the buffer is freed. */
bool schema_text_rule(struct schema_writer *w, struct buffer *text, unsigned *rule);
/* A number for a rule that is written later. */
unsigned schema_new_rule(struct schema_writer *w);
bool schema_end_rule(struct schema_writer *w, unsigned rule, struct buffer *text);
/* "{LOW,HIGH}"; high -1: no limit. */
void schema_write_repeat(struct buffer *e, json_int_t low, json_int_t high);
void schema_free_memory(struct schema_writer *w);

/* ---- literals, goals, shapes --------------------------------------------------------------------------------------
 */

struct literal {
    const json_t *schema;
    bool negated;
    struct origin origin;         /* the keyword, such as "not", that it is a part of and can be left out with only */
    const struct literal *parent; /* that this one follows from, for the same value */
};

struct literals {
    struct literal literal;
    struct literals *next;
};

enum schema_types {
    TYPE_NULL = 1,
    TYPE_BOOLEAN = 2,
    TYPE_INTEGER = 4,
    TYPE_FRACTION = 8, /* a number that is no integer */
    TYPE_STRING = 16,
    TYPE_ARRAY = 32,
    TYPE_OBJECT = 64,
    TYPE_NUMBER = TYPE_INTEGER | TYPE_FRACTION,
    TYPE_ALL = 127,
};

enum limit_kind {
    LIMIT_LITERAL,  /* the value keeps literal */
    LIMIT_TYPES,    /* types */
    LIMIT_VALUES,   /* is one of value, an array */
    LIMIT_NO_VALUE, /* is not value */
    LIMIT_LENGTH,   /* low to high characters */
    LIMIT_PATTERN,  /* name is found in it, or with negated not */
    LIMIT_FORMAT,   /* name */
    LIMIT_LEAST,    /* value; exclusive with negated */
    LIMIT_MOST,
    LIMIT_MULTIPLE, /* of value, or with negated not */
    LIMIT_SIZE,     /* low to high items */
    LIMIT_ITEM,     /* item low keeps literal, if it is there */
    LIMIT_ITEMS,    /* items from low on keep literal */
    LIMIT_CONTAINS, /* low to high items, from `from` on, keep literal */
    LIMIT_UNIQUE,
    LIMIT_COUNT,           /* low to high properties */
    LIMIT_PROPERTY,        /* name keeps literal, if it is there */
    LIMIT_NAMED_LIKE,      /* properties in whose names the pattern name is found keep literal */
    LIMIT_OTHERS,          /* properties that owner does not name keep literal */
    LIMIT_NAMES,           /* names keep literal */
    LIMIT_REQUIRED,        /* name is there, or with negated is not */
    LIMIT_SOME_NAMED_LIKE, /* there is a property such as the four above, and it keeps literal */
    LIMIT_SOME_OTHER,
    LIMIT_SOME_NAME,
};

struct limit {
    enum limit_kind kind;
    bool negated;
    unsigned types;
    json_int_t low, high, from; /* high: -1 is no limit */
    const char *name;
    const json_t *value, *owner;
    struct literal literal;
    bool unevaluated;         /* items and others: those that nothing below `of` speaks of */
    const struct literal *of; /* whose limit it is */
    struct origin origin;
};

struct limits {
    const struct limit *limit;
    struct limits *next;
};

struct shape {
    unsigned types, spoken; /* spoken: those that its limits speak of */
    bool typed;             /* a schema named the types */
    bool lists;             /* properties by name or pattern */
    bool listed_items;
    const json_t *values;  /* array, or NULL: any */
    struct limits *limits; /* in their order */
    struct shape *next;
};

enum emptiness { EMPTINESS_UNKNOWN, EMPTINESS_ASKED, EMPTINESS_NO, EMPTINESS_YES };

struct goal {
    struct literals *literals;
    uint64_t hash;
    bool canonical; /* values that are equal have one text */
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
/* Whether a goal asks for nothing. */
bool schema_goal_is_any(const struct goal *goal);
/* Whether surely no value keeps it. */
bool schema_goal_is_empty(struct schema_writer *w, struct goal *goal, bool *out);
/* Whether surely no value keeps a shape of it. */
bool schema_shape_is_empty(struct schema_writer *w, const struct goal *goal, const struct shape *shape, bool *out);
/* Appends what stands for any value that keeps a goal: a rule that is written later. */
bool schema_write_goal(struct schema_writer *w, struct goal *goal, struct buffer *e);
bool schema_write_waiting(struct schema_writer *w);

/* The types that a schema means which names none: those that its limits speak of. */
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
    const json_t *schema; /* in which it stands */
    const char *key;
    const json_t *value;
    const struct literal *literal; /* that is opened */
    struct limits *limits, **end;  /* out: all of these */
    struct choice *choices;        /* out: and one of each of these */
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

/* schema_check.c: whether a value keeps a literal. */
bool schema_check(struct schema_writer *w, struct literal literal, const json_t *value, bool *out);
bool schema_equal(const json_t *a, const json_t *b);
/* Keywords that say nothing of a value. */
bool schema_is_annotation(const char *key);

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

/* schema_objects.c, schema_arrays.c, schema_texts.c: append what stands for a shape's values of that type. */
bool schema_write_object(struct schema_writer *w, const struct goal *goal, const struct shape *shape, struct buffer *e);
bool schema_write_array(struct schema_writer *w, const struct goal *goal, const struct shape *shape, struct buffer *e);
/* Whether surely no array or object keeps a shape. */
bool schema_array_is_empty(struct schema_writer *w, const struct goal *goal, const struct shape *shape, bool *empty);
bool schema_object_is_empty(struct schema_writer *w, const struct goal *goal, const struct shape *shape, bool *empty);
/* Whether a limit follows from a literal, for the same value and without an opposite between. */
bool schema_follows_from(const struct limit *limit, const struct literal *from);
bool schema_write_string(struct schema_writer *w, const struct goal *goal, const struct shape *shape, struct buffer *e);
bool schema_write_number(struct schema_writer *w, const struct goal *goal, const struct shape *shape, unsigned types,
                         struct buffer *e);
bool schema_write_constant(struct schema_writer *w, const json_t *value, bool canonical, struct buffer *e);

/* A number, digit by digit. */
struct decimal {
    bool negative;
    char whole[32], fraction[48]; /* without zeros in front of and behind them, but for "0" */
};

/* False when it is too large or too fine to be written so. */
bool schema_read_decimal(const json_t *value, struct decimal *out);
bool schema_decimal_is_multiple(const struct decimal *a, const struct decimal *b);

/* ---- texts --------------------------------------------------------------------------------------------------------
 */

/* What a text must keep; the automaton of several says of each whether the text keeps it. */
enum text_kind { TEXT_PATTERN, TEXT_LENGTH, TEXT_MULTIPLE };

struct text_part {
    enum text_kind kind;
    const char *pattern;  /* found anywhere in the text */
    json_int_t low, high; /* length; high -1: no limit */
    uint32_t multiple;    /* of multiple / 10^places */
    uint32_t places;
    bool required, forbidden;
    struct origin origin;
};

#define MAX_TEXT_PARTS 32

#define NO_STATE UINT32_MAX

/* Appends a pattern that matches just this text. */
void schema_quote(struct buffer *pattern, const char *text);

/* What a shape says of a string. */
bool schema_string_parts(struct schema_writer *w, const struct shape *shape, struct text_part parts[MAX_TEXT_PARTS],
                         size_t *count);

/* The states that can be reached while all required parts can still be kept. */
bool automaton_build(struct schema_writer *w, const struct text_part *parts, size_t count, struct automaton *out);
/* Appends the texts whose marks are `wanted` among the parts of `looked_at`. Nothing is appended and *empty is set when
 * there are none. */
bool automaton_write(struct schema_writer *w, const struct automaton *a, uint32_t looked_at, uint32_t wanted,
                     bool in_string, struct buffer *e, bool *empty);
/* Finds its texts, up to room; *count is room + 1 when there are more. */
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
    uint32_t low, high; /* of a repetition */
};

/* A choice of sequences. It matches a text in which it is found. */
bool pattern_parse(struct schema_writer *w, const char *pattern, struct pattern_node **out);

/* Whether it can be written as it is: its anchors are at the beginnings and ends of its alternatives. */
bool pattern_is_plain(const struct pattern_node *pattern);
/* Appends what stands between the quotes of a JSON string that it matches, as GBNF. */
void pattern_write(const struct pattern_node *pattern, struct buffer *text);

/* Appends one character of a set; in a JSON string with the escapes that are needed, and no others. */
void pattern_write_set(struct buffer *text, const struct code_range *ranges, size_t count, bool in_string);

#endif
