/* Private to the files of grammar/ that handle the keywords of a JSON schema. */
#ifndef HYPURA_SCHEMA_KEYWORDS_PRIVATE_H
#define HYPURA_SCHEMA_KEYWORDS_PRIVATE_H

#include "grammar/schema_private.h"

enum key {
    KEY_TYPE,
    KEY_NULLABLE,
    KEY_ENUM,
    KEY_CONST,
    KEY_REF,
    KEY_DYNAMIC_REF,
    KEY_ALL_OF,
    KEY_ANY_OF,
    KEY_ONE_OF,
    KEY_NOT,
    KEY_IF,
    KEY_OF_IF,
    KEY_MINIMUM,
    KEY_MAXIMUM,
    KEY_EXCLUSIVE_MINIMUM,
    KEY_EXCLUSIVE_MAXIMUM,
    KEY_MULTIPLE_OF,
    KEY_MIN_LENGTH,
    KEY_MAX_LENGTH,
    KEY_PATTERN,
    KEY_FORMAT,
    KEY_PREFIX_ITEMS,
    KEY_ITEMS,
    KEY_ADDITIONAL_ITEMS,
    KEY_MIN_ITEMS,
    KEY_MAX_ITEMS,
    KEY_UNIQUE_ITEMS,
    KEY_CONTAINS,
    KEY_OF_CONTAINS,
    KEY_UNEVALUATED_ITEMS,
    KEY_PROPERTIES,
    KEY_PATTERN_PROPERTIES,
    KEY_ADDITIONAL_PROPERTIES,
    KEY_REQUIRED,
    KEY_MIN_PROPERTIES,
    KEY_MAX_PROPERTIES,
    KEY_PROPERTY_NAMES,
    KEY_DEPENDENT_REQUIRED,
    KEY_DEPENDENT_SCHEMAS,
    KEY_DEPENDENCIES,
    KEY_UNEVALUATED_PROPERTIES,
    KEY_UNKNOWN
};

#define NO_LIMIT ((struct limit){.kind = LIMIT_TYPES, .types = TYPE_ALL})

/* ---- schema_keywords.c */

enum key keyword_find(const char *name);
struct origin keyword_origin(const struct keyword *k);
/* Makes the literal of a subschema. whole: the subschema can only be left out together with the whole keyword. */
struct literal keyword_child(const struct keyword *k, const json_t *schema, bool negated, bool whole);
struct limit keyword_limit(const struct keyword *k, struct limit limit);
/* Adds an alternative: all of up to four limits. */
bool keyword_add_way(struct schema_writer *w, const struct keyword *k, struct alternative **ways, size_t count,
                     const struct limit *limits);
bool keyword_literal_way(struct schema_writer *w, const struct keyword *k, struct alternative **ways,
                         struct literal literal);
/* Adds the ways as one choice. They were added at the front, so their order is reversed. */
bool keyword_add_choice(struct schema_writer *w, struct keyword *k, struct alternative *ways);
bool keyword_wrong(struct schema_writer *w, const struct keyword *k, const char *expected);
bool keyword_is_schema(const json_t *value);
bool keyword_check_schemas(struct schema_writer *w, const struct keyword *k);
bool keyword_check_list(struct schema_writer *w, const struct keyword *k); /* which must not be empty */
bool keyword_is_text(const json_t *value);                                 /* a string without NUL */
bool keyword_is_most(const struct keyword *k);                             /* an upper bound, not a lower one */
bool keyword_is_exclusive(const struct keyword *k);
/* Reads a count, such as the value of minLength. */
bool keyword_read_count(struct schema_writer *w, const struct keyword *k, const json_t *value, json_int_t *out);
bool keyword_read_types(struct schema_writer *w, const struct keyword *k, unsigned *out);
json_int_t keyword_prefix_size(const struct keyword *k);
/* Reads how many items must match "contains". */
bool keyword_read_contains(struct schema_writer *w, const struct keyword *k, json_int_t *low, json_int_t *high);

/* ---- schema_combinations.c */

/* Holds "oneOf": exactly one of the schemas. A negated literal is added only for a schema that values written for the
 * chosen one could satisfy too. */
bool keyword_hold_one_of(struct schema_writer *w, struct keyword *k);
/* Breaks "oneOf": none of the schemas, or two of them. */
bool keyword_break_one_of(struct schema_writer *w, struct keyword *k, struct alternative **ways);
/* Opens "if" with "then" and "else", or their negation. */
bool keyword_open_if(struct schema_writer *w, struct keyword *k, bool negated, struct alternative **ways);
/* Opens "dependentRequired", "dependentSchemas" and "dependencies": a property is absent, or others are present too,
 * or the object satisfies a schema. */
bool keyword_open_dependencies(struct schema_writer *w, struct keyword *k, bool negated, struct alternative **broken);
const json_t *keyword_referred(struct schema_writer *w, const struct keyword *k, bool dynamic);

#endif
