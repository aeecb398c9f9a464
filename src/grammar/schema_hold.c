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

static bool hold_range(struct schema_writer *w, struct keyword *k, enum limit_kind kind, unsigned spoken, bool most)
{
    json_int_t count = 0;
    k->spoken = spoken;
    return keyword_read_count(w, k, k->value, &count) &&
           hold(w, k, (struct limit){.kind = kind, .low = most ? 0 : count, .high = most ? count : -1});
}

/* Holds "minimum" and similar bounds. In draft 4, the exclusive ones were booleans. */
static bool hold_bound(struct schema_writer *w, struct keyword *k, enum limit_kind kind, bool exclusive)
{
    k->spoken = TYPE_NUMBER;
    const json_t *bound = k->value;
    if (exclusive && json_is_boolean(bound)) {
        bound = json_object_get(k->schema, kind == LIMIT_LEAST ? "minimum" : "maximum");
        if (!json_is_true(k->value) || !bound)
            return true;
    }
    if (!json_is_number(bound))
        return keyword_wrong(w, k, "a number");
    return hold(w, k, (struct limit){.kind = kind, .value = bound, .negated = exclusive});
}

static bool hold_items(struct schema_writer *w, struct keyword *k)
{
    size_t i;
    json_t *item;
    if (!keyword_check_schemas(w, k))
        return false;
    k->listed_items = true;
    json_array_foreach(k->value, i,
                       item) if (!hold(w, k,
                                       (struct limit){.kind = LIMIT_ITEM,
                                                      .low = (json_int_t)i,
                                                      .literal = keyword_child(k, item, false, false)})) return false;
    return true;
}

static bool hold_properties(struct schema_writer *w, struct keyword *k, enum limit_kind kind)
{
    const char *name;
    json_t *value;
    k->spoken = TYPE_OBJECT;
    k->lists = true;
    if (!json_is_object(k->value))
        return keyword_wrong(w, k, "an object");
    if (!keyword_check_schemas(w, k))
        return false;
    json_object_foreach(
        (json_t *)k->value, name,
        value) if (!hold(w, k,
                         (struct limit){.kind = kind,
                                        .name = name,
                                        .literal = keyword_child(k, value, false, false)})) return false;
    return true;
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
        if (!json_is_string(name) || strlen(json_string_value(name)) != json_string_length(name))
            return keyword_wrong(w, k, "a list of names");
        if (!hold(w, k, (struct limit){.kind = LIMIT_REQUIRED, .name = json_string_value(name)}))
            return false;
    }
    return true;
}

static bool hold_list(struct schema_writer *w, struct keyword *k, enum key key)
{
    size_t i;
    json_t *schema;
    struct alternative *ways = NULL;
    if (json_array_size(k->value) == 0 || !keyword_check_schemas(w, k))
        return keyword_wrong(w, k, "a list of schemas");
    if (key == KEY_ONE_OF && json_array_size(k->value) > 1)
        return keyword_hold_one_of(w, k);
    json_array_foreach(k->value, i, schema)
    {
        struct literal own = keyword_child(k, schema, false, false);
        if (key == KEY_ALL_OF ? !hold_literal(w, k, own) : !keyword_literal_way(w, k, &ways, own))
            return false;
    }
    return key == KEY_ALL_OF || keyword_add_choice(w, k, ways);
}

bool schema_hold_keyword(struct schema_writer *w, struct keyword *k)
{
    enum key key = keyword_find(k->key);
    json_int_t low, high;
    unsigned types;
    const json_t *target;
    struct alternative *ways = NULL;
    w->at = keyword_origin(k);
    switch (key) {
    case KEY_TYPE:
        k->typed = true;
        return keyword_read_types(w, k, &types) && hold(w, k, (struct limit){.kind = LIMIT_TYPES, .types = types});
    case KEY_ENUM:
        if (!json_is_array(k->value) || json_array_size(k->value) == 0)
            return schema_refuse(w, "the JSON schema has an %s without values", "enum");
        return hold(w, k, (struct limit){.kind = LIMIT_VALUES, .value = k->value});
    case KEY_CONST:
        target = schema_own(w, json_pack("[O]", k->value));
        return target && hold(w, k, (struct limit){.kind = LIMIT_VALUES, .value = target});
    case KEY_REF:
    case KEY_DYNAMIC_REF:
        target = keyword_referred(w, k, key == KEY_DYNAMIC_REF);
        return target && hold_literal(w, k, keyword_child(k, target, false, false));
    case KEY_ALL_OF:
    case KEY_ANY_OF:
    case KEY_ONE_OF:
        return hold_list(w, k, key);
    case KEY_NOT:
        return keyword_is_schema(k->value) ? hold_literal(w, k, keyword_child(k, k->value, true, true))
                                           : keyword_wrong(w, k, "a schema");
    case KEY_IF:
        if (!keyword_is_schema(k->value))
            return keyword_wrong(w, k, "a schema");
        if (!json_object_get(k->schema, "then") && !json_object_get(k->schema, "else"))
            return true;
        return keyword_open_if(w, k, false, &ways) && keyword_add_choice(w, k, ways);
    case KEY_OF_IF:
        return keyword_is_schema(k->value) || keyword_wrong(w, k, "a schema");
    case KEY_MINIMUM:
    case KEY_EXCLUSIVE_MINIMUM:
        return hold_bound(w, k, LIMIT_LEAST, key == KEY_EXCLUSIVE_MINIMUM);
    case KEY_MAXIMUM:
    case KEY_EXCLUSIVE_MAXIMUM:
        return hold_bound(w, k, LIMIT_MOST, key == KEY_EXCLUSIVE_MAXIMUM);
    case KEY_MULTIPLE_OF:
        k->spoken = TYPE_NUMBER;
        if (!json_is_number(k->value) || !(json_number_value(k->value) > 0))
            return keyword_wrong(w, k, "a number above 0");
        return hold(w, k, (struct limit){.kind = LIMIT_MULTIPLE, .value = k->value});
    case KEY_MIN_LENGTH:
    case KEY_MAX_LENGTH:
        return hold_range(w, k, LIMIT_LENGTH, TYPE_STRING, key == KEY_MAX_LENGTH);
    case KEY_PATTERN:
    case KEY_FORMAT:
        k->spoken = TYPE_STRING;
        if (!json_is_string(k->value) || strlen(json_string_value(k->value)) != json_string_length(k->value))
            return keyword_wrong(w, k, "a string");
        return hold(w, k,
                    (struct limit){.kind = key == KEY_PATTERN ? LIMIT_PATTERN : LIMIT_FORMAT,
                                   .name = json_string_value(k->value)});
    case KEY_PREFIX_ITEMS:
        k->spoken = TYPE_ARRAY;
        return json_is_array(k->value) ? hold_items(w, k) : keyword_wrong(w, k, "a list of schemas");
    case KEY_ITEMS:
        k->spoken = TYPE_ARRAY;
        if (json_is_array(k->value))
            return hold_items(w, k);
        if (!keyword_is_schema(k->value))
            return keyword_wrong(w, k, "a schema");
        return hold(w, k,
                    (struct limit){.kind = LIMIT_ITEMS,
                                   .low = keyword_prefix_size(k),
                                   .literal = keyword_child(k, k->value, false, false)});
    case KEY_ADDITIONAL_ITEMS:
        if (!json_is_array(json_object_get(k->schema, "items")))
            return true;
        if (!keyword_is_schema(k->value))
            return keyword_wrong(w, k, "a schema");
        return hold(w, k,
                    (struct limit){.kind = LIMIT_ITEMS,
                                   .low = keyword_prefix_size(k),
                                   .literal = keyword_child(k, k->value, false, false)});
    case KEY_MIN_ITEMS:
    case KEY_MAX_ITEMS:
        return hold_range(w, k, LIMIT_SIZE, TYPE_ARRAY, key == KEY_MAX_ITEMS);
    case KEY_UNIQUE_ITEMS:
        if (!json_is_boolean(k->value))
            return keyword_wrong(w, k, "true or false");
        k->spoken = json_is_true(k->value) ? TYPE_ARRAY : 0;
        return json_is_false(k->value) || hold(w, k, (struct limit){.kind = LIMIT_UNIQUE});
    case KEY_CONTAINS:
        k->spoken = TYPE_ARRAY;
        if (!keyword_is_schema(k->value))
            return keyword_wrong(w, k, "a schema");
        return keyword_read_contains(w, k, &low, &high) &&
               ((low == 0 && high < 0) ||
                hold(w, k,
                     (struct limit){.kind = LIMIT_CONTAINS,
                                    .low = low,
                                    .high = high,
                                    .literal = keyword_child(k, k->value, false, high >= 0)}));
    case KEY_NULLABLE:
    case KEY_OF_CONTAINS:
        return true;
    case KEY_UNEVALUATED_ITEMS:
        k->spoken = TYPE_ARRAY;
        return keyword_is_schema(k->value) ? hold(w, k,
                                                  (struct limit){.kind = LIMIT_ITEMS,
                                                                 .unevaluated = true,
                                                                 .literal = keyword_child(k, k->value, false, false)})
                                           : keyword_wrong(w, k, "a schema");
    case KEY_PROPERTIES:
        return hold_properties(w, k, LIMIT_PROPERTY);
    case KEY_PATTERN_PROPERTIES:
        return hold_properties(w, k, LIMIT_NAMED_LIKE);
    case KEY_ADDITIONAL_PROPERTIES:
    case KEY_UNEVALUATED_PROPERTIES:
        k->spoken = TYPE_OBJECT;
        return keyword_is_schema(k->value) ? hold(w, k,
                                                  (struct limit){.kind = LIMIT_OTHERS,
                                                                 .owner = k->schema,
                                                                 .unevaluated = key == KEY_UNEVALUATED_PROPERTIES,
                                                                 .literal = keyword_child(k, k->value, false, false)})
                                           : keyword_wrong(w, k, "a schema");
    case KEY_REQUIRED:
        return hold_required(w, k);
    case KEY_MIN_PROPERTIES:
    case KEY_MAX_PROPERTIES:
        return hold_range(w, k, LIMIT_COUNT, TYPE_OBJECT, key == KEY_MAX_PROPERTIES);
    case KEY_PROPERTY_NAMES:
        k->spoken = TYPE_OBJECT;
        return keyword_is_schema(k->value)
                   ? hold(w, k,
                          (struct limit){.kind = LIMIT_NAMES, .literal = keyword_child(k, k->value, false, false)})
                   : keyword_wrong(w, k, "a schema");
    case KEY_DEPENDENT_REQUIRED:
    case KEY_DEPENDENT_SCHEMAS:
    case KEY_DEPENDENCIES:
        k->spoken = TYPE_OBJECT;
        return keyword_open_dependencies(w, k, false, NULL);
    case KEY_UNKNOWN:
        break;
    }
    return schema_refuse(w, "the keyword \"%.80s\" of the JSON schema is not supported", k->key);
}
