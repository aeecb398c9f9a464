/* The limits that a value must satisfy to satisfy a keyword. */
#include "grammar/schema_keywords_private.h"

#include <string.h>

static bool hold(struct schema_writer *w, struct keyword *k, struct limit limit)
{
    if (!k->end)
        k->end = &k->limits;
    *k->end = schema_new_limit(w, keyword_limit(k, limit), NULL);
    if (!*k->end)
        return false;
    k->end = &(*k->end)->next;
    return true;
}

static bool hold_literal(struct schema_writer *w, struct keyword *k, struct literal literal)
{
    return hold(w, k, (struct limit){.kind = LIMIT_LITERAL, .literal = literal});
}

/* Holds a limit that the keyword's value gives a schema to. */
static bool hold_schema(struct schema_writer *w, struct keyword *k, struct limit limit)
{
    if (!keyword_is_schema(k->value))
        return keyword_wrong(w, k, "a schema");
    limit.literal = keyword_child(k, k->value, false, false);
    return hold(w, k, limit);
}

/* ---- any value ------------------------------------------------------------------------------------------------------
 */

static bool hold_type(struct schema_writer *w, struct keyword *k)
{
    unsigned types;
    k->typed = true;
    return keyword_read_types(w, k, &types) && hold(w, k, (struct limit){.kind = LIMIT_TYPES, .types = types});
}

static bool hold_enum(struct schema_writer *w, struct keyword *k)
{
    if (!json_is_array(k->value) || json_array_size(k->value) == 0)
        return schema_refuse(w, "the JSON schema has an %s without values", "enum");
    return hold(w, k, (struct limit){.kind = LIMIT_VALUES, .value = k->value});
}

static bool hold_const(struct schema_writer *w, struct keyword *k)
{
    const json_t *values = schema_own(w, json_pack("[O]", k->value));
    return values && hold(w, k, (struct limit){.kind = LIMIT_VALUES, .value = values});
}

/* Keywords that only other keywords look at. */
static bool hold_nothing(struct schema_writer *w, struct keyword *k)
{
    (void)w, (void)k;
    return true;
}

/* ---- other schemas for the same value ------------------------------------------------------------------------------
 */

static bool hold_reference(struct schema_writer *w, struct keyword *k)
{
    const json_t *target = keyword_referred(w, k, strcmp(k->key, "$dynamicRef") == 0);
    return target && hold_literal(w, k, keyword_child(k, target, false, false));
}

static bool hold_all_of(struct schema_writer *w, struct keyword *k)
{
    size_t i;
    json_t *schema;
    if (!keyword_check_list(w, k))
        return false;
    json_array_foreach(k->value, i, schema)
    {
        if (!hold_literal(w, k, keyword_child(k, schema, false, false)))
            return false;
    }
    return true;
}

static bool hold_any_of(struct schema_writer *w, struct keyword *k)
{
    size_t i;
    json_t *schema;
    struct alternative *ways = NULL;
    if (!keyword_check_list(w, k))
        return false;
    json_array_foreach(k->value, i, schema)
    {
        if (!keyword_literal_way(w, k, &ways, keyword_child(k, schema, false, false)))
            return false;
    }
    return keyword_add_choice(w, k, ways);
}

static bool hold_one_of(struct schema_writer *w, struct keyword *k)
{
    if (json_array_size(k->value) == 1)
        return hold_any_of(w, k);
    return keyword_check_list(w, k) && keyword_hold_one_of(w, k);
}

static bool hold_not(struct schema_writer *w, struct keyword *k)
{
    return keyword_is_schema(k->value) ? hold_literal(w, k, keyword_child(k, k->value, true, true))
                                       : keyword_wrong(w, k, "a schema");
}

static bool hold_if(struct schema_writer *w, struct keyword *k)
{
    struct alternative *ways = NULL;
    if (!keyword_is_schema(k->value))
        return keyword_wrong(w, k, "a schema");
    if (!json_object_get(k->schema, "then") && !json_object_get(k->schema, "else"))
        return true;
    return keyword_open_if(w, k, false, &ways) && keyword_add_choice(w, k, ways);
}

/* "then" and "else", which "if" looks at. */
static bool hold_of_if(struct schema_writer *w, struct keyword *k)
{
    return keyword_is_schema(k->value) || keyword_wrong(w, k, "a schema");
}

/* ---- numbers and strings -------------------------------------------------------------------------------------------
 */

/* In draft 4, the exclusive bounds were booleans. */
static bool hold_bound(struct schema_writer *w, struct keyword *k)
{
    const bool exclusive = keyword_is_exclusive(k), most = keyword_is_most(k);
    k->spoken = TYPE_NUMBER;
    const json_t *bound = k->value;
    if (exclusive && json_is_boolean(bound)) {
        bound = json_object_get(k->schema, most ? "maximum" : "minimum");
        if (!json_is_true(k->value) || !bound)
            return true;
    }
    if (!json_is_number(bound))
        return keyword_wrong(w, k, "a number");
    return hold(w, k, (struct limit){.kind = most ? LIMIT_MOST : LIMIT_LEAST, .value = bound, .negated = exclusive});
}

static bool hold_multiple(struct schema_writer *w, struct keyword *k)
{
    k->spoken = TYPE_NUMBER;
    if (!json_is_number(k->value) || !(json_number_value(k->value) > 0))
        return keyword_wrong(w, k, "a number above 0");
    return hold(w, k, (struct limit){.kind = LIMIT_MULTIPLE, .value = k->value});
}

static bool hold_range(struct schema_writer *w, struct keyword *k, enum limit_kind kind, unsigned spoken)
{
    const bool most = keyword_is_most(k);
    json_int_t count = 0;
    k->spoken = spoken;
    return keyword_read_count(w, k, k->value, &count) &&
           hold(w, k, (struct limit){.kind = kind, .low = most ? 0 : count, .high = most ? count : -1});
}

static bool hold_length(struct schema_writer *w, struct keyword *k)
{
    return hold_range(w, k, LIMIT_LENGTH, TYPE_STRING);
}

static bool hold_text(struct schema_writer *w, struct keyword *k, enum limit_kind kind)
{
    k->spoken = TYPE_STRING;
    if (!keyword_is_text(k->value))
        return keyword_wrong(w, k, "a string");
    return hold(w, k, (struct limit){.kind = kind, .name = json_string_value(k->value)});
}

static bool hold_pattern(struct schema_writer *w, struct keyword *k)
{
    return hold_text(w, k, LIMIT_PATTERN);
}

static bool hold_format(struct schema_writer *w, struct keyword *k)
{
    return hold_text(w, k, LIMIT_FORMAT);
}

/* ---- arrays ---------------------------------------------------------------------------------------------------------
 */

static bool hold_prefix_items(struct schema_writer *w, struct keyword *k)
{
    size_t i;
    json_t *item;
    k->spoken = TYPE_ARRAY;
    if (!json_is_array(k->value))
        return keyword_wrong(w, k, "a list of schemas");
    if (!keyword_check_schemas(w, k))
        return false;
    k->listed_items = true;
    json_array_foreach(k->value, i, item)
    {
        struct literal own = keyword_child(k, item, false, false);
        if (!hold(w, k, (struct limit){.kind = LIMIT_ITEM, .low = (json_int_t)i, .literal = own}))
            return false;
    }
    return true;
}

/* Holds a schema for the items after the listed ones. */
static bool hold_rest(struct schema_writer *w, struct keyword *k)
{
    return hold_schema(w, k, (struct limit){.kind = LIMIT_ITEMS, .low = keyword_prefix_size(k)});
}

static bool hold_items(struct schema_writer *w, struct keyword *k)
{
    k->spoken = TYPE_ARRAY;
    return json_is_array(k->value) ? hold_prefix_items(w, k) : hold_rest(w, k);
}

static bool hold_additional_items(struct schema_writer *w, struct keyword *k)
{
    return !json_is_array(json_object_get(k->schema, "items")) || hold_rest(w, k);
}

static bool hold_unevaluated_items(struct schema_writer *w, struct keyword *k)
{
    k->spoken = TYPE_ARRAY;
    return hold_schema(w, k, (struct limit){.kind = LIMIT_ITEMS, .unevaluated = true});
}

static bool hold_size(struct schema_writer *w, struct keyword *k)
{
    return hold_range(w, k, LIMIT_SIZE, TYPE_ARRAY);
}

static bool hold_unique(struct schema_writer *w, struct keyword *k)
{
    if (!json_is_boolean(k->value))
        return keyword_wrong(w, k, "true or false");
    k->spoken = json_is_true(k->value) ? TYPE_ARRAY : 0;
    return json_is_false(k->value) || hold(w, k, (struct limit){.kind = LIMIT_UNIQUE});
}

static bool hold_contains(struct schema_writer *w, struct keyword *k)
{
    struct limit limit = {.kind = LIMIT_CONTAINS};
    k->spoken = TYPE_ARRAY;
    if (!keyword_is_schema(k->value))
        return keyword_wrong(w, k, "a schema");
    if (!keyword_read_contains(w, k, &limit.low, &limit.high))
        return false;
    limit.literal = keyword_child(k, k->value, false, limit.high >= 0);
    return (limit.low == 0 && limit.high < 0) || hold(w, k, limit);
}

/* ---- objects --------------------------------------------------------------------------------------------------------
 */

static bool hold_listed(struct schema_writer *w, struct keyword *k, enum limit_kind kind)
{
    const char *name;
    json_t *value;
    k->spoken = TYPE_OBJECT;
    k->lists = true;
    if (!json_is_object(k->value))
        return keyword_wrong(w, k, "an object");
    if (!keyword_check_schemas(w, k))
        return false;
    json_object_foreach((json_t *)k->value, name, value)
    {
        struct literal own = keyword_child(k, value, false, false);
        if (!hold(w, k, (struct limit){.kind = kind, .name = name, .literal = own}))
            return false;
    }
    return true;
}

static bool hold_properties(struct schema_writer *w, struct keyword *k)
{
    return hold_listed(w, k, LIMIT_PROPERTY);
}

static bool hold_pattern_properties(struct schema_writer *w, struct keyword *k)
{
    return hold_listed(w, k, LIMIT_NAMED_LIKE);
}

static bool hold_others(struct schema_writer *w, struct keyword *k, bool unevaluated)
{
    k->spoken = TYPE_OBJECT;
    return hold_schema(w, k, (struct limit){.kind = LIMIT_OTHERS, .owner = k->schema, .unevaluated = unevaluated});
}

static bool hold_additional_properties(struct schema_writer *w, struct keyword *k)
{
    return hold_others(w, k, false);
}

static bool hold_unevaluated_properties(struct schema_writer *w, struct keyword *k)
{
    return hold_others(w, k, true);
}

static bool hold_required(struct schema_writer *w, struct keyword *k)
{
    size_t i;
    json_t *name;
    k->spoken = TYPE_OBJECT;
    if (!json_is_array(k->value))
        return keyword_wrong(w, k, "a list of names");
    json_array_foreach(k->value, i, name)
    {
        if (!keyword_is_text(name))
            return keyword_wrong(w, k, "a list of names");
        if (!hold(w, k, (struct limit){.kind = LIMIT_REQUIRED, .name = json_string_value(name)}))
            return false;
    }
    return true;
}

static bool hold_count(struct schema_writer *w, struct keyword *k)
{
    return hold_range(w, k, LIMIT_COUNT, TYPE_OBJECT);
}

static bool hold_names(struct schema_writer *w, struct keyword *k)
{
    k->spoken = TYPE_OBJECT;
    return hold_schema(w, k, (struct limit){.kind = LIMIT_NAMES});
}

static bool hold_dependencies(struct schema_writer *w, struct keyword *k)
{
    k->spoken = TYPE_OBJECT;
    return keyword_open_dependencies(w, k, false, NULL);
}

bool schema_hold_keyword(struct schema_writer *w, struct keyword *k)
{
    static bool (*const holders[KEY_UNKNOWN])(struct schema_writer * w, struct keyword * k) = {
        [KEY_TYPE] = hold_type,
        [KEY_NULLABLE] = hold_nothing,
        [KEY_ENUM] = hold_enum,
        [KEY_CONST] = hold_const,
        [KEY_REF] = hold_reference,
        [KEY_DYNAMIC_REF] = hold_reference,
        [KEY_ALL_OF] = hold_all_of,
        [KEY_ANY_OF] = hold_any_of,
        [KEY_ONE_OF] = hold_one_of,
        [KEY_NOT] = hold_not,
        [KEY_IF] = hold_if,
        [KEY_OF_IF] = hold_of_if,
        [KEY_MINIMUM] = hold_bound,
        [KEY_MAXIMUM] = hold_bound,
        [KEY_EXCLUSIVE_MINIMUM] = hold_bound,
        [KEY_EXCLUSIVE_MAXIMUM] = hold_bound,
        [KEY_MULTIPLE_OF] = hold_multiple,
        [KEY_MIN_LENGTH] = hold_length,
        [KEY_MAX_LENGTH] = hold_length,
        [KEY_PATTERN] = hold_pattern,
        [KEY_FORMAT] = hold_format,
        [KEY_PREFIX_ITEMS] = hold_prefix_items,
        [KEY_ITEMS] = hold_items,
        [KEY_ADDITIONAL_ITEMS] = hold_additional_items,
        [KEY_MIN_ITEMS] = hold_size,
        [KEY_MAX_ITEMS] = hold_size,
        [KEY_UNIQUE_ITEMS] = hold_unique,
        [KEY_CONTAINS] = hold_contains,
        [KEY_OF_CONTAINS] = hold_nothing,
        [KEY_UNEVALUATED_ITEMS] = hold_unevaluated_items,
        [KEY_PROPERTIES] = hold_properties,
        [KEY_PATTERN_PROPERTIES] = hold_pattern_properties,
        [KEY_ADDITIONAL_PROPERTIES] = hold_additional_properties,
        [KEY_REQUIRED] = hold_required,
        [KEY_MIN_PROPERTIES] = hold_count,
        [KEY_MAX_PROPERTIES] = hold_count,
        [KEY_PROPERTY_NAMES] = hold_names,
        [KEY_DEPENDENT_REQUIRED] = hold_dependencies,
        [KEY_DEPENDENT_SCHEMAS] = hold_dependencies,
        [KEY_DEPENDENCIES] = hold_dependencies,
        [KEY_UNEVALUATED_PROPERTIES] = hold_unevaluated_properties,
    };
    enum key key = keyword_find(k->key);
    w->at = keyword_origin(k);
    return key != KEY_UNKNOWN ? holders[key](w, k)
                              : schema_refuse(w, "the keyword \"%.80s\" of the JSON schema is not supported", k->key);
}
