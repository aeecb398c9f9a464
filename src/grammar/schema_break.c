/* The ways in which a value can break a keyword. */
#include "grammar/schema_keywords_private.h"

#include <string.h>

static bool break_with(struct schema_writer *w, const struct keyword *k, struct alternative **ways, unsigned types,
                       struct limit a, struct limit b)
{
    struct limit limits[] = {{.kind = LIMIT_TYPES, .types = types}, a, b};
    return keyword_add_way(w, k, ways, 3, limits);
}

static bool break_count(struct schema_writer *w, struct keyword *k, struct alternative **ways, enum limit_kind kind,
                        unsigned types)
{
    const bool most = keyword_is_most(k);
    json_int_t count = 0;
    if (!keyword_read_count(w, k, k->value, &count))
        return false;
    struct limit limit = {.kind = kind, .low = most ? count + 1 : 0, .high = most ? -1 : count - 1};
    return (!most && count == 0) || break_with(w, k, ways, types, limit, NO_LIMIT);
}

static bool refuse(struct schema_writer *w, const struct keyword *k)
{
    return schema_refuse(w, "the keyword \"%.80s\" of the JSON schema is not supported where it is negated", k->key);
}

/* Keywords that only other keywords look at. */
static bool break_nothing(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    (void)w, (void)k, (void)ways;
    return true;
}

/* ---- any value ------------------------------------------------------------------------------------------------------
 */

static bool break_type(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    unsigned types;
    return keyword_read_types(w, k, &types) && break_with(w, k, ways, TYPE_ALL & ~types, NO_LIMIT, NO_LIMIT);
}

/* Adds a limit to a way that breaks several at once. */
static bool also(struct schema_writer *w, const struct keyword *k, struct alternative *way, struct limit limit)
{
    way->limits = schema_new_limit(w, keyword_limit(k, limit), way->limits);
    return way->limits != NULL;
}

static bool add_way(struct alternative **ways, struct alternative *way)
{
    way->next = *ways;
    *ways = way;
    return true;
}

static bool break_const(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    struct limit other = {.kind = LIMIT_NO_VALUE, .value = k->value};
    return keyword_add_way(w, k, ways, 1, &other);
}

static bool break_enum(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    size_t i;
    json_t *item;
    struct alternative *none = schema_memory(w, 1, sizeof *none);
    if (!none)
        return false;
    json_array_foreach(k->value, i, item)
    {
        if (!also(w, k, none, (struct limit){.kind = LIMIT_NO_VALUE, .value = item}))
            return false;
    }
    return add_way(ways, none);
}

/* ---- other schemas for the same value ------------------------------------------------------------------------------
 */

static bool break_reference(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    const json_t *target = keyword_referred(w, k, strcmp(k->key, "$dynamicRef") == 0);
    return target && keyword_literal_way(w, k, ways, keyword_child(k, target, true, true));
}

static bool break_all_of(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    size_t i;
    json_t *item;
    if (!keyword_check_list(w, k))
        return false;
    json_array_foreach(k->value, i, item)
    {
        if (!keyword_literal_way(w, k, ways, keyword_child(k, item, true, true)))
            return false;
    }
    return true;
}

static bool break_any_of(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    size_t i;
    json_t *item;
    if (!keyword_check_list(w, k))
        return false;
    struct alternative *none = schema_memory(w, 1, sizeof *none);
    if (!none)
        return false;
    json_array_foreach(k->value, i, item)
    {
        struct literal other = keyword_child(k, item, true, true);
        if (!also(w, k, none, (struct limit){.kind = LIMIT_LITERAL, .literal = other}))
            return false;
    }
    return add_way(ways, none);
}

static bool break_one_of(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    return keyword_check_list(w, k) && keyword_break_one_of(w, k, ways);
}

static bool break_not(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    return keyword_is_schema(k->value) ? keyword_literal_way(w, k, ways, keyword_child(k, k->value, false, true))
                                       : keyword_wrong(w, k, "a schema");
}

static bool break_if(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    return keyword_open_if(w, k, true, ways);
}

/* ---- numbers and strings -------------------------------------------------------------------------------------------
 */

static bool break_bound(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    struct limit beyond = {
        .kind = keyword_is_most(k) ? LIMIT_LEAST : LIMIT_MOST, .value = k->value, .negated = !keyword_is_exclusive(k)};
    return json_is_number(k->value) ? break_with(w, k, ways, TYPE_NUMBER, beyond, NO_LIMIT)
                                    : keyword_wrong(w, k, "a number");
}

static bool break_multiple(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    if (!json_is_number(k->value) || !(json_number_value(k->value) > 0))
        return keyword_wrong(w, k, "a number above 0");
    struct limit other = {.kind = LIMIT_MULTIPLE, .value = k->value, .negated = true};
    return break_with(w, k, ways, TYPE_NUMBER, other, NO_LIMIT);
}

static bool break_length(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    return break_count(w, k, ways, LIMIT_LENGTH, TYPE_STRING);
}

static bool break_pattern(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    struct limit other = {.kind = LIMIT_PATTERN, .name = json_string_value(k->value), .negated = true};
    return keyword_is_text(k->value) ? break_with(w, k, ways, TYPE_STRING, other, NO_LIMIT)
                                     : keyword_wrong(w, k, "a string");
}

/* ---- arrays ---------------------------------------------------------------------------------------------------------
 */

/* Adds a way for each item: it is present and does not satisfy its schema. */
static bool break_prefix_items(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    size_t i;
    json_t *item;
    if (!keyword_check_schemas(w, k))
        return false;
    json_array_foreach(k->value, i, item)
    {
        json_int_t at = (json_int_t)i;
        struct limit there = {.kind = LIMIT_SIZE, .low = at + 1, .high = -1};
        struct limit other = {.kind = LIMIT_ITEM, .low = at, .literal = keyword_child(k, item, true, true)};
        if (!break_with(w, k, ways, TYPE_ARRAY, there, other))
            return false;
    }
    return true;
}

/* An item after the listed ones does not satisfy the schema. */
static bool break_rest(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    struct limit some = {.kind = LIMIT_CONTAINS,
                         .low = 1,
                         .high = -1,
                         .from = keyword_prefix_size(k),
                         .literal = keyword_child(k, k->value, true, true)};
    return break_with(w, k, ways, TYPE_ARRAY, some, NO_LIMIT);
}

static bool break_items(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    return json_is_array(k->value) ? break_prefix_items(w, k, ways) : break_rest(w, k, ways);
}

static bool break_additional_items(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    return !json_is_array(json_object_get(k->schema, "items")) || break_rest(w, k, ways);
}

static bool break_size(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    return break_count(w, k, ways, LIMIT_SIZE, TYPE_ARRAY);
}

static bool break_unique(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    (void)ways;
    return !json_is_true(k->value) || refuse(w, k);
}

/* Too few items match, or too many. */
static bool break_contains(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    json_int_t low, high;
    struct limit some = {.kind = LIMIT_CONTAINS, .literal = keyword_child(k, k->value, false, true)};
    if (!keyword_read_contains(w, k, &low, &high))
        return false;
    some.high = low - 1;
    if (low > 0 && !break_with(w, k, ways, TYPE_ARRAY, some, NO_LIMIT))
        return false;
    some.low = high + 1;
    some.high = -1;
    return high < 0 || break_with(w, k, ways, TYPE_ARRAY, some, NO_LIMIT);
}

/* ---- objects --------------------------------------------------------------------------------------------------------
 */

static bool check_properties(struct schema_writer *w, struct keyword *k)
{
    return (json_is_object(k->value) && keyword_check_schemas(w, k)) || keyword_wrong(w, k, "an object of schemas");
}

static bool break_properties(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    const char *name;
    json_t *value;
    if (!check_properties(w, k))
        return false;
    json_object_foreach((json_t *)k->value, name, value)
    {
        struct limit there = {.kind = LIMIT_REQUIRED, .name = name};
        struct limit other = {.kind = LIMIT_PROPERTY, .name = name, .literal = keyword_child(k, value, true, true)};
        if (!break_with(w, k, ways, TYPE_OBJECT, there, other))
            return false;
    }
    return true;
}

static bool break_pattern_properties(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    const char *name;
    json_t *value;
    if (!check_properties(w, k))
        return false;
    json_object_foreach((json_t *)k->value, name, value)
    {
        struct limit other = {
            .kind = LIMIT_SOME_NAMED_LIKE, .name = name, .literal = keyword_child(k, value, true, true)};
        if (!break_with(w, k, ways, TYPE_OBJECT, other, NO_LIMIT))
            return false;
    }
    return true;
}

static bool break_additional_properties(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    struct limit other = {
        .kind = LIMIT_SOME_OTHER, .owner = k->schema, .literal = keyword_child(k, k->value, true, true)};
    return break_with(w, k, ways, TYPE_OBJECT, other, NO_LIMIT);
}

static bool break_required(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    size_t i;
    json_t *name;
    json_array_foreach(k->value, i, name)
    {
        struct limit absent = {.kind = LIMIT_REQUIRED, .name = json_string_value(name), .negated = true};
        if (!keyword_is_text(name))
            return keyword_wrong(w, k, "a list of names");
        if (!break_with(w, k, ways, TYPE_OBJECT, absent, NO_LIMIT))
            return false;
    }
    return true;
}

static bool break_property_count(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    return break_count(w, k, ways, LIMIT_COUNT, TYPE_OBJECT);
}

static bool break_names(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    struct limit other = {.kind = LIMIT_SOME_NAME, .literal = keyword_child(k, k->value, true, true)};
    return break_with(w, k, ways, TYPE_OBJECT, other, NO_LIMIT);
}

static bool break_dependencies(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    return keyword_open_dependencies(w, k, true, ways);
}

bool schema_break_keyword(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    /* "format" and what depends on other keywords cannot be broken. */
    static bool (*const breakers[KEY_UNKNOWN])(struct schema_writer * w, struct keyword * k,
                                               struct alternative * *ways) = {
        [KEY_TYPE] = break_type,
        [KEY_NULLABLE] = break_nothing,
        [KEY_ENUM] = break_enum,
        [KEY_CONST] = break_const,
        [KEY_REF] = break_reference,
        [KEY_DYNAMIC_REF] = break_reference,
        [KEY_ALL_OF] = break_all_of,
        [KEY_ANY_OF] = break_any_of,
        [KEY_ONE_OF] = break_one_of,
        [KEY_NOT] = break_not,
        [KEY_IF] = break_if,
        [KEY_OF_IF] = break_nothing,
        [KEY_MINIMUM] = break_bound,
        [KEY_MAXIMUM] = break_bound,
        [KEY_EXCLUSIVE_MINIMUM] = break_bound,
        [KEY_EXCLUSIVE_MAXIMUM] = break_bound,
        [KEY_MULTIPLE_OF] = break_multiple,
        [KEY_MIN_LENGTH] = break_length,
        [KEY_MAX_LENGTH] = break_length,
        [KEY_PATTERN] = break_pattern,
        [KEY_PREFIX_ITEMS] = break_prefix_items,
        [KEY_ITEMS] = break_items,
        [KEY_ADDITIONAL_ITEMS] = break_additional_items,
        [KEY_MIN_ITEMS] = break_size,
        [KEY_MAX_ITEMS] = break_size,
        [KEY_UNIQUE_ITEMS] = break_unique,
        [KEY_CONTAINS] = break_contains,
        [KEY_OF_CONTAINS] = break_nothing,
        [KEY_PROPERTIES] = break_properties,
        [KEY_PATTERN_PROPERTIES] = break_pattern_properties,
        [KEY_ADDITIONAL_PROPERTIES] = break_additional_properties,
        [KEY_REQUIRED] = break_required,
        [KEY_MIN_PROPERTIES] = break_property_count,
        [KEY_MAX_PROPERTIES] = break_property_count,
        [KEY_PROPERTY_NAMES] = break_names,
        [KEY_DEPENDENT_REQUIRED] = break_dependencies,
        [KEY_DEPENDENT_SCHEMAS] = break_dependencies,
        [KEY_DEPENDENCIES] = break_dependencies,
    };
    enum key key = keyword_find(k->key);
    w->at = keyword_origin(k);
    return key != KEY_UNKNOWN && breakers[key] ? breakers[key](w, k, ways) : refuse(w, k);
}
