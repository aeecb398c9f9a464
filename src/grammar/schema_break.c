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
                        unsigned types, bool most)
{
    json_int_t count = 0;
    if (!keyword_read_count(w, k, k->value, &count))
        return false;
    struct limit limit = {.kind = kind, .low = most ? count + 1 : 0, .high = most ? -1 : count - 1};
    return (!most && count == 0) || break_with(w, k, ways, types, limit, NO_LIMIT);
}

/* Adds a way for each item: it is present and does not satisfy its schema. */
static bool break_items(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    size_t i;
    json_t *item;
    if (!keyword_check_schemas(w, k))
        return false;
    json_array_foreach(k->value, i, item)
    {
        json_int_t at = (json_int_t)i;
        if (!break_with(w, k, ways, TYPE_ARRAY, (struct limit){.kind = LIMIT_SIZE, .low = at + 1, .high = -1},
                        (struct limit){.kind = LIMIT_ITEM, .low = at, .literal = keyword_child(k, item, true, true)}))
            return false;
    }
    return true;
}

static bool break_properties(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    const char *name;
    json_t *value;
    if (!json_is_object(k->value) || !keyword_check_schemas(w, k))
        return keyword_wrong(w, k, "an object of schemas");
    json_object_foreach((json_t *)k->value, name, value)
    {
        struct limit there = {.kind = LIMIT_REQUIRED, .name = name};
        struct limit other = {.kind = LIMIT_PROPERTY, .name = name, .literal = keyword_child(k, value, true, true)};
        if (!break_with(w, k, ways, TYPE_OBJECT, there, other))
            return false;
    }
    return true;
}

static bool break_list(struct schema_writer *w, struct keyword *k, struct alternative **ways, enum key key)
{
    size_t i;
    json_t *item;
    if (json_array_size(k->value) == 0 || !keyword_check_schemas(w, k))
        return keyword_wrong(w, k, "a list of schemas");
    if (key == KEY_ONE_OF)
        return keyword_break_one_of(w, k, ways);
    struct alternative *none = schema_memory(w, 1, sizeof *none);
    json_array_foreach(k->value, i, item)
    {
        struct literal other = keyword_child(k, item, true, true);
        if (!none || (key == KEY_ALL_OF && !keyword_literal_way(w, k, ways, other)))
            return false;
        if (key == KEY_ANY_OF &&
            !(none->limits = schema_new_limit(
                  w, keyword_limit(k, (struct limit){.kind = LIMIT_LITERAL, .literal = other}), none->limits)))
            return false;
    }
    if (key == KEY_ANY_OF) {
        none->next = *ways;
        *ways = none;
    }
    return none != NULL;
}

bool schema_break_keyword(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    enum key key = keyword_find(k->key);
    json_int_t low, high;
    unsigned types;
    const json_t *target;
    struct alternative *none;
    struct limit some = {.kind = LIMIT_CONTAINS, .low = 1, .high = -1};
    size_t i;
    json_t *item;
    w->at = keyword_origin(k);
    switch (key) {
    case KEY_TYPE:
        return keyword_read_types(w, k, &types) && break_with(w, k, ways, TYPE_ALL & ~types, NO_LIMIT, NO_LIMIT);
    case KEY_ENUM:
    case KEY_CONST:
        none = schema_memory(w, 1, sizeof *none);
        if (!none)
            return false;
        if (key == KEY_CONST) {
            none->limits =
                schema_new_limit(w, keyword_limit(k, (struct limit){.kind = LIMIT_NO_VALUE, .value = k->value}), NULL);
            if (!none->limits)
                return false;
        }
        if (key == KEY_ENUM)
            json_array_foreach(
                k->value, i,
                item) if (!(none->limits =
                                schema_new_limit(
                                    w, keyword_limit(k, (struct limit){.kind = LIMIT_NO_VALUE, .value = item}),
                                    none->limits))) return false;
        none->next = *ways;
        *ways = none;
        return true;
    case KEY_REF:
    case KEY_DYNAMIC_REF:
        target = keyword_referred(w, k, key == KEY_DYNAMIC_REF);
        return target && keyword_literal_way(w, k, ways, keyword_child(k, target, true, true));
    case KEY_ALL_OF:
    case KEY_ANY_OF:
    case KEY_ONE_OF:
        return break_list(w, k, ways, key);
    case KEY_NOT:
        return keyword_is_schema(k->value) ? keyword_literal_way(w, k, ways, keyword_child(k, k->value, false, true))
                                           : keyword_wrong(w, k, "a schema");
    case KEY_IF:
        return keyword_open_if(w, k, true, ways);
    case KEY_MINIMUM:
    case KEY_EXCLUSIVE_MINIMUM:
    case KEY_MAXIMUM:
    case KEY_EXCLUSIVE_MAXIMUM:
        if (!json_is_number(k->value))
            return keyword_wrong(w, k, "a number");
        return break_with(
            w, k, ways, TYPE_NUMBER,
            (struct limit){.kind = key == KEY_MINIMUM || key == KEY_EXCLUSIVE_MINIMUM ? LIMIT_MOST : LIMIT_LEAST,
                           .value = k->value,
                           .negated = key == KEY_MINIMUM || key == KEY_MAXIMUM},
            NO_LIMIT);
    case KEY_MULTIPLE_OF:
        if (!json_is_number(k->value) || !(json_number_value(k->value) > 0))
            return keyword_wrong(w, k, "a number above 0");
        return break_with(w, k, ways, TYPE_NUMBER,
                          (struct limit){.kind = LIMIT_MULTIPLE, .value = k->value, .negated = true}, NO_LIMIT);
    case KEY_MIN_LENGTH:
    case KEY_MAX_LENGTH:
        return break_count(w, k, ways, LIMIT_LENGTH, TYPE_STRING, key == KEY_MAX_LENGTH);
    case KEY_PATTERN:
        if (!json_is_string(k->value) || strlen(json_string_value(k->value)) != json_string_length(k->value))
            return keyword_wrong(w, k, "a string");
        return break_with(w, k, ways, TYPE_STRING,
                          (struct limit){.kind = LIMIT_PATTERN, .name = json_string_value(k->value), .negated = true},
                          NO_LIMIT);
    case KEY_PREFIX_ITEMS:
        return break_items(w, k, ways);
    case KEY_ITEMS:
        if (json_is_array(k->value))
            return break_items(w, k, ways);
        some.from = keyword_prefix_size(k);
        some.literal = keyword_child(k, k->value, true, true);
        return break_with(w, k, ways, TYPE_ARRAY, some, NO_LIMIT);
    case KEY_ADDITIONAL_ITEMS:
        some.from = keyword_prefix_size(k);
        some.literal = keyword_child(k, k->value, true, true);
        return !json_is_array(json_object_get(k->schema, "items")) ||
               break_with(w, k, ways, TYPE_ARRAY, some, NO_LIMIT);
    case KEY_MIN_ITEMS:
    case KEY_MAX_ITEMS:
        return break_count(w, k, ways, LIMIT_SIZE, TYPE_ARRAY, key == KEY_MAX_ITEMS);
    case KEY_CONTAINS:
        some.literal = keyword_child(k, k->value, false, true);
        if (!keyword_read_contains(w, k, &low, &high))
            return false;
        some.low = 0;
        some.high = low - 1;
        if (low > 0 && !break_with(w, k, ways, TYPE_ARRAY, some, NO_LIMIT))
            return false;
        some.low = high + 1;
        some.high = -1;
        return high < 0 || break_with(w, k, ways, TYPE_ARRAY, some, NO_LIMIT);
    case KEY_OF_IF:
    case KEY_NULLABLE:
    case KEY_OF_CONTAINS:
        return true;
    case KEY_PROPERTIES:
        return break_properties(w, k, ways);
    case KEY_PATTERN_PROPERTIES:
        if (!json_is_object(k->value) || !keyword_check_schemas(w, k))
            return keyword_wrong(w, k, "an object of schemas");
        json_object_foreach((json_t *)k->value, some.name, item)
        {
            struct limit like = {
                .kind = LIMIT_SOME_NAMED_LIKE, .name = some.name, .literal = keyword_child(k, item, true, true)};
            if (!break_with(w, k, ways, TYPE_OBJECT, like, NO_LIMIT))
                return false;
        }
        return true;
    case KEY_ADDITIONAL_PROPERTIES:
        return break_with(w, k, ways, TYPE_OBJECT,
                          (struct limit){.kind = LIMIT_SOME_OTHER,
                                         .owner = k->schema,
                                         .literal = keyword_child(k, k->value, true, true)},
                          NO_LIMIT);
    case KEY_REQUIRED:
        json_array_foreach(k->value, i, item)
        {
            struct limit absent = {.kind = LIMIT_REQUIRED, .name = json_string_value(item), .negated = true};
            if (!absent.name || strlen(absent.name) != json_string_length(item))
                return keyword_wrong(w, k, "a list of names");
            if (!break_with(w, k, ways, TYPE_OBJECT, absent, NO_LIMIT))
                return false;
        }
        return true;
    case KEY_MIN_PROPERTIES:
    case KEY_MAX_PROPERTIES:
        return break_count(w, k, ways, LIMIT_COUNT, TYPE_OBJECT, key == KEY_MAX_PROPERTIES);
    case KEY_PROPERTY_NAMES:
        return break_with(w, k, ways, TYPE_OBJECT,
                          (struct limit){.kind = LIMIT_SOME_NAME, .literal = keyword_child(k, k->value, true, true)},
                          NO_LIMIT);
    case KEY_DEPENDENT_REQUIRED:
    case KEY_DEPENDENT_SCHEMAS:
    case KEY_DEPENDENCIES:
        return keyword_open_dependencies(w, k, true, ways);
    case KEY_UNIQUE_ITEMS:
        if (!json_is_true(k->value))
            return true;
        break;
    case KEY_FORMAT:
    case KEY_UNEVALUATED_ITEMS:
    case KEY_UNEVALUATED_PROPERTIES:
    case KEY_UNKNOWN:
        break;
    }
    return schema_refuse(w, "the keyword \"%.80s\" of the JSON schema is not supported where it is negated", k->key);
}
