/* What each keyword of a JSON schema asks for. */
#include "grammar/schema_private.h"

#include <math.h>
#include <string.h>

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

static enum key find_key(const char *name)
{
    static const char *const names[] = {"type",
                                        "nullable",
                                        "enum",
                                        "const",
                                        "$ref",
                                        "$dynamicRef",
                                        "allOf",
                                        "anyOf",
                                        "oneOf",
                                        "not",
                                        "if",
                                        "then",
                                        "minimum",
                                        "maximum",
                                        "exclusiveMinimum",
                                        "exclusiveMaximum",
                                        "multipleOf",
                                        "minLength",
                                        "maxLength",
                                        "pattern",
                                        "format",
                                        "prefixItems",
                                        "items",
                                        "additionalItems",
                                        "minItems",
                                        "maxItems",
                                        "uniqueItems",
                                        "contains",
                                        "minContains",
                                        "unevaluatedItems",
                                        "properties",
                                        "patternProperties",
                                        "additionalProperties",
                                        "required",
                                        "minProperties",
                                        "maxProperties",
                                        "propertyNames",
                                        "dependentRequired",
                                        "dependentSchemas",
                                        "dependencies",
                                        "unevaluatedProperties"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(names[i], name) == 0)
            return (enum key)i;
    return strcmp(name, "else") == 0 ? KEY_OF_IF : strcmp(name, "maxContains") == 0 ? KEY_OF_CONTAINS : KEY_UNKNOWN;
}

/* ---- parts --------------------------------------------------------------------------------------------------------
 */

static struct origin own_origin(const struct keyword *k)
{
    return k->literal->origin.key ? k->literal->origin : (struct origin){k->schema, k->key};
}

/* A subschema. whole: it can only be left out with all of this keyword. */
static struct literal child(const struct keyword *k, const json_t *schema, bool negated, bool whole)
{
    struct literal literal = {.schema = schema, .negated = negated};
    literal.origin = whole || negated ? own_origin(k) : k->literal->origin;
    literal.parent = k->literal;
    return literal;
}

static struct limit finish(const struct keyword *k, struct limit limit)
{
    limit.origin = own_origin(k);
    limit.of = k->literal;
    return limit;
}

static bool hold(struct schema_writer *w, struct keyword *k, struct limit limit)
{
    if (!k->end)
        k->end = &k->limits;
    *k->end = schema_new_limit(w, finish(k, limit), NULL);
    if (!*k->end)
        return false;
    k->end = &(*k->end)->next;
    return true;
}

static bool hold_literal(struct schema_writer *w, struct keyword *k, struct literal literal)
{
    return hold(w, k, (struct limit){.kind = LIMIT_LITERAL, .literal = literal});
}

/* One more way: all of up to four limits. */
static bool add_way(struct schema_writer *w, const struct keyword *k, struct alternative **ways, size_t count,
                    const struct limit *limits)
{
    struct alternative *fresh = schema_memory(w, 1, sizeof *fresh);
    if (!fresh)
        return false;
    for (size_t i = count; i-- > 0;)
        if (!(fresh->limits = schema_new_limit(w, finish(k, limits[i]), fresh->limits)))
            return false;
    fresh->next = *ways;
    *ways = fresh;
    return schema_work(w, 1);
}

static bool break_with(struct schema_writer *w, const struct keyword *k, struct alternative **ways, unsigned types,
                       struct limit a, struct limit b)
{
    struct limit limits[] = {{.kind = LIMIT_TYPES, .types = types}, a, b};
    return add_way(w, k, ways, 3, limits);
}

#define NO_LIMIT ((struct limit){.kind = LIMIT_TYPES, .types = TYPE_ALL})

static bool literal_way(struct schema_writer *w, const struct keyword *k, struct alternative **ways,
                        struct literal literal)
{
    struct limit limit = {.kind = LIMIT_LITERAL, .literal = literal};
    return add_way(w, k, ways, 1, &limit);
}

/* The ways were added at the front. */
static bool add_choice(struct schema_writer *w, struct keyword *k, struct alternative *ways)
{
    struct choice *fresh = schema_memory(w, 1, sizeof *fresh);
    if (!fresh)
        return false;
    while (ways) {
        struct alternative *next = ways->next;
        ways->next = fresh->first;
        fresh->first = ways;
        ways = next;
    }
    fresh->next = k->choices;
    k->choices = fresh;
    return true;
}

static bool wrong(struct schema_writer *w, const struct keyword *k, const char *expected)
{
    return schema_refuse(w, "the \"%s\" of the JSON schema is not %s", k->key, expected);
}

static bool is_schema(const json_t *value)
{
    return json_is_object(value) || json_is_boolean(value);
}

static bool check_schemas(struct schema_writer *w, const struct keyword *k)
{
    size_t i;
    json_t *item;
    const char *name;
    if (json_is_array(k->value)) {
        json_array_foreach(k->value, i, item) if (!is_schema(item)) return wrong(w, k, "a list of schemas");
    } else {
        json_object_foreach((json_t *)k->value, name, item) if (!is_schema(item)) return wrong(w, k,
                                                                                               "an object of schemas");
    }
    return true;
}

/* A count such as minLength. */
static bool read_count(struct schema_writer *w, const struct keyword *k, const json_t *value, json_int_t *out)
{
    double number = json_is_number(value) ? json_number_value(value) : -1;
    if (!(number >= 0) || number != floor(number))
        return wrong(w, k, "a whole number from 0 on");
    *out = number > 1e9 ? 1000000000 : (json_int_t)number;
    return true;
}

static bool read_types(struct schema_writer *w, const struct keyword *k, unsigned *out)
{
    static const struct {
        const char *name;
        unsigned types;
    } known[] = {{"null", TYPE_NULL},     {"boolean", TYPE_BOOLEAN}, {"integer", TYPE_INTEGER}, {"number", TYPE_NUMBER},
                 {"string", TYPE_STRING}, {"array", TYPE_ARRAY},     {"object", TYPE_OBJECT},   {"any", TYPE_ALL}};
    size_t count = json_is_array(k->value) ? json_array_size(k->value) : 1;
    *out = 0;
    for (size_t i = 0; i < count; i++) {
        const char *name = json_string_value(json_is_array(k->value) ? json_array_get(k->value, i) : k->value);
        size_t at = 0;
        while (at < COUNT_OF(known) && (!name || strcmp(known[at].name, name) != 0))
            at++;
        if (at == COUNT_OF(known))
            return schema_refuse(w, "the JSON schema has the type \"%.80s\", which JSON has not", name ? name : "");
        *out |= known[at].types;
    }
    if (json_is_true(json_object_get(k->schema, "nullable")))
        *out |= TYPE_NULL;
    return true;
}

static json_int_t prefix_size(const struct keyword *k)
{
    const json_t *prefix = json_object_get(k->schema, "prefixItems"), *items = json_object_get(k->schema, "items");
    return (json_int_t)json_array_size(json_is_array(items) ? items : prefix);
}

/* How many items of "contains" there must be. */
static bool read_contains(struct schema_writer *w, const struct keyword *k, json_int_t *low, json_int_t *high)
{
    const json_t *least = json_object_get(k->schema, "minContains"), *most = json_object_get(k->schema, "maxContains");
    *low = 1;
    *high = -1;
    if (w->old_draft)
        return true;
    return (!least || read_count(w, k, least, low)) && (!most || read_count(w, k, most, high));
}

/* ---- combinations -------------------------------------------------------------------------------------------------
 */

/* The types of what is written for a schema. */
static bool written_types(struct schema_writer *w, struct literal literal, unsigned *out)
{
    struct goal *goal;
    *out = TYPE_ALL;
    if (w->exact)
        return true;
    if (!schema_goal_of(w, literal, NULL, false, &goal) || !schema_open_goal(w, goal))
        return false;
    *out = 0;
    for (const struct shape *shape = goal->shapes; shape; shape = shape->next)
        *out |= schema_meant_types(shape);
    for (const struct shape *shape = goal->shapes; shape && !*out; shape = shape->next)
        *out |= shape->types;
    return true;
}

static bool type_literal(struct schema_writer *w, const struct keyword *k, unsigned types, struct literal *out)
{
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    if (!w->type_schemas[types]) {
        json_t *list = json_array();
        for (size_t i = 0; i < COUNT_OF(names); i++)
            if (types >> i & 1)
                json_array_append_new(list, json_string(names[i]));
        w->type_schemas[types] =
            schema_own(w, types == TYPE_ALL ? (json_decref(list), json_object()) : json_pack("{s:o}", "type", list));
    }
    *out = child(k, w->type_schemas[types], false, true);
    return w->type_schemas[types] != NULL;
}

/* Whether surely no value keeps them all. */
static bool are_disjoint(struct schema_writer *w, const struct literal literals[3], bool *out)
{
    struct literals *list = NULL;
    struct goal *goal;
    bool exact = w->exact;
    for (int i = 0; i < 3; i++)
        if (!(list = schema_add_literal(w, list, literals[i])))
            return false;
    w->exact = true;
    bool fine = schema_find_goal(w, list, false, &goal) && schema_goal_is_empty(w, goal, out);
    w->exact = exact;
    return fine;
}

static bool add_literal(struct schema_writer *w, const struct keyword *k, struct limits **limits,
                        struct literal literal)
{
    struct limit limit = {.kind = LIMIT_LITERAL, .literal = literal};
    *limits = schema_new_limit(w, finish(k, limit), *limits);
    return *limits != NULL;
}

/* One of the schemas and none of the others. What no value of what is written could keep needs no opposite. */
static bool hold_one_of(struct schema_writer *w, struct keyword *k)
{
    struct alternative *ways = NULL;
    size_t count = json_array_size(k->value);
    for (size_t i = 0; i < count; i++) {
        struct literal literals[3] = {child(k, json_array_get(k->value, i), false, true)};
        struct alternative *way = NULL;
        unsigned types;
        if (!written_types(w, literals[0], &types) || !type_literal(w, k, types, &literals[1]) ||
            !literal_way(w, k, &way, literals[1]))
            return false;
        for (size_t j = 0; j < count; j++) {
            bool disjoint = false;
            literals[2] = child(k, json_array_get(k->value, j), false, true);
            if (i != j && !are_disjoint(w, literals, &disjoint))
                return false;
            literals[2].negated = true;
            if (i != j && !disjoint && !add_literal(w, k, &way->limits, literals[2]))
                return false;
        }
        if (!add_literal(w, k, &way->limits, literals[0]))
            return false;
        way->next = ways;
        ways = way;
    }
    return add_choice(w, k, ways);
}

/* None of them, or two. */
static bool break_one_of(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    size_t count = json_array_size(k->value);
    struct alternative *none = schema_memory(w, 1, sizeof *none);
    if (!none)
        return false;
    for (size_t i = count; i-- > 0;) {
        struct literal own = child(k, json_array_get(k->value, i), true, true);
        if (!(none->limits =
                  schema_new_limit(w, finish(k, (struct limit){.kind = LIMIT_LITERAL, .literal = own}), none->limits)))
            return false;
        for (size_t j = 0; j < i; j++) {
            struct limit both[] = {
                {.kind = LIMIT_LITERAL, .literal = child(k, json_array_get(k->value, i), false, true)},
                {.kind = LIMIT_LITERAL, .literal = child(k, json_array_get(k->value, j), false, true)}};
            if (!add_way(w, k, ways, 2, both))
                return false;
        }
    }
    none->next = *ways;
    *ways = none;
    return true;
}

/* "if" with "then" and "else", or the opposite of all. */
static bool open_if(struct schema_writer *w, struct keyword *k, bool negated, struct alternative **ways)
{
    const json_t *then = json_object_get(k->schema, "then"), *otherwise = json_object_get(k->schema, "else");
    const json_t *branches[] = {then, otherwise};
    for (int i = 0; i < 2; i++) {
        struct limit limits[] = {{.kind = LIMIT_LITERAL, .literal = child(k, k->value, i, true)}, NO_LIMIT};
        if (branches[i])
            limits[1] = (struct limit){.kind = LIMIT_LITERAL, .literal = child(k, branches[i], negated, negated)};
        if ((branches[i] || !negated) && !add_way(w, k, ways, 2, limits))
            return false;
    }
    return true;
}

/* "dependentRequired" and its kin: a property is not there, or with others, or all keeps a schema. */
static bool open_dependencies(struct schema_writer *w, struct keyword *k, bool negated, struct alternative **broken)
{
    const char *name, *other;
    json_t *value, *item;
    size_t i;
    if (!json_is_object(k->value))
        return wrong(w, k, "an object");
    json_object_foreach((json_t *)k->value, name, value)
    {
        struct limit there = {.kind = LIMIT_REQUIRED, .name = name};
        struct limit object = {.kind = LIMIT_TYPES, .types = TYPE_OBJECT};
        struct limit no_object = {.kind = LIMIT_TYPES, .types = TYPE_ALL & ~TYPE_OBJECT};
        struct limit absent = {.kind = LIMIT_REQUIRED, .name = name, .negated = true};
        struct alternative *ways = NULL, *with = schema_memory(w, 1, sizeof *with);
        if (!with || (!json_is_array(value) && !is_schema(value)))
            return with && wrong(w, k, "an object of schemas or of lists of names");
        if (json_is_array(value) && json_array_size(value) == 0)
            continue;
        if (json_is_array(value)) {
            json_array_foreach(value, i, item)
            {
                other = json_string_value(item);
                if (!other || strlen(other) != json_string_length(item))
                    return wrong(w, k, "an object of lists of names");
                struct limit needed = {.kind = LIMIT_REQUIRED, .name = other, .negated = negated};
                struct limit breaking[] = {object, there, needed};
                if (negated ? !add_way(w, k, broken, 3, breaking)
                            : !(with->limits = schema_new_limit(w, finish(k, needed), with->limits)))
                    return false;
            }
        } else {
            struct limit keeps = {.kind = LIMIT_LITERAL, .literal = child(k, value, negated, negated)};
            struct limit breaking[] = {object, there, keeps};
            if (negated ? !add_way(w, k, broken, 3, breaking)
                        : !(with->limits = schema_new_limit(w, finish(k, keeps), NULL)))
                return false;
        }
        if (negated)
            continue;
        with->limits = schema_new_limit(w, finish(k, there), with->limits);
        with->limits = with->limits ? schema_new_limit(w, finish(k, object), with->limits) : NULL;
        struct limit without[] = {object, absent};
        ways = with;
        if (!with->limits || !add_way(w, k, &ways, 2, without) || !add_way(w, k, &ways, 1, &no_object) ||
            !add_choice(w, k, ways))
            return false;
    }
    return true;
}

static const json_t *referred(struct schema_writer *w, const struct keyword *k, bool dynamic)
{
    const json_t *target;
    if (!json_is_string(k->value))
        return wrong(w, k, "a text"), NULL;
    if (!schema_resolve(w, k->schema, json_string_value(k->value), dynamic, &target))
        return NULL;
    return is_schema(target) ? target : (wrong(w, k, "the address of a schema"), NULL);
}

/* ---- what holds ---------------------------------------------------------------------------------------------------
 */

static bool hold_range(struct schema_writer *w, struct keyword *k, enum limit_kind kind, unsigned spoken, bool most)
{
    json_int_t count = 0;
    k->spoken = spoken;
    return read_count(w, k, k->value, &count) &&
           hold(w, k, (struct limit){.kind = kind, .low = most ? 0 : count, .high = most ? count : -1});
}

/* The bound of "minimum" and its kin; the exclusive ones were booleans once. */
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
        return wrong(w, k, "a number");
    return hold(w, k, (struct limit){.kind = kind, .value = bound, .negated = exclusive});
}

static bool hold_items(struct schema_writer *w, struct keyword *k)
{
    size_t i;
    json_t *item;
    if (!check_schemas(w, k))
        return false;
    k->listed_items = true;
    json_array_foreach(k->value, i,
                       item) if (!hold(w, k,
                                       (struct limit){.kind = LIMIT_ITEM,
                                                      .low = (json_int_t)i,
                                                      .literal = child(k, item, false, false)})) return false;
    return true;
}

static bool hold_properties(struct schema_writer *w, struct keyword *k, enum limit_kind kind)
{
    const char *name;
    json_t *value;
    k->spoken = TYPE_OBJECT;
    k->lists = true;
    if (!json_is_object(k->value))
        return wrong(w, k, "an object");
    if (!check_schemas(w, k))
        return false;
    json_object_foreach((json_t *)k->value, name,
                        value) if (!hold(w, k,
                                         (struct limit){.kind = kind,
                                                        .name = name,
                                                        .literal = child(k, value, false, false)})) return false;
    return true;
}

static bool hold_required(struct schema_writer *w, struct keyword *k)
{
    size_t i;
    json_t *name;
    k->spoken = TYPE_OBJECT;
    if (!json_is_array(k->value))
        return wrong(w, k, "a list of names");
    json_array_foreach(k->value, i, name)
    {
        if (!json_is_string(name) || strlen(json_string_value(name)) != json_string_length(name))
            return wrong(w, k, "a list of names");
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
    if (json_array_size(k->value) == 0 || !check_schemas(w, k))
        return wrong(w, k, "a list of schemas");
    if (key == KEY_ONE_OF && json_array_size(k->value) > 1)
        return hold_one_of(w, k);
    json_array_foreach(k->value, i, schema)
    {
        struct literal own = child(k, schema, false, false);
        if (key == KEY_ALL_OF ? !hold_literal(w, k, own) : !literal_way(w, k, &ways, own))
            return false;
    }
    return key == KEY_ALL_OF || add_choice(w, k, ways);
}

bool schema_hold_keyword(struct schema_writer *w, struct keyword *k)
{
    enum key key = find_key(k->key);
    json_int_t low, high;
    unsigned types;
    const json_t *target;
    struct alternative *ways = NULL;
    w->at = own_origin(k);
    switch (key) {
    case KEY_TYPE:
        k->typed = true;
        return read_types(w, k, &types) && hold(w, k, (struct limit){.kind = LIMIT_TYPES, .types = types});
    case KEY_ENUM:
        if (!json_is_array(k->value) || json_array_size(k->value) == 0)
            return schema_refuse(w, "the JSON schema has an %s without values", "enum");
        return hold(w, k, (struct limit){.kind = LIMIT_VALUES, .value = k->value});
    case KEY_CONST:
        target = schema_own(w, json_pack("[O]", k->value));
        return target && hold(w, k, (struct limit){.kind = LIMIT_VALUES, .value = target});
    case KEY_REF:
    case KEY_DYNAMIC_REF:
        target = referred(w, k, key == KEY_DYNAMIC_REF);
        return target && hold_literal(w, k, child(k, target, false, false));
    case KEY_ALL_OF:
    case KEY_ANY_OF:
    case KEY_ONE_OF:
        return hold_list(w, k, key);
    case KEY_NOT:
        return is_schema(k->value) ? hold_literal(w, k, child(k, k->value, true, true)) : wrong(w, k, "a schema");
    case KEY_IF:
        if (!is_schema(k->value))
            return wrong(w, k, "a schema");
        if (!json_object_get(k->schema, "then") && !json_object_get(k->schema, "else"))
            return true;
        return open_if(w, k, false, &ways) && add_choice(w, k, ways);
    case KEY_OF_IF:
        return is_schema(k->value) || wrong(w, k, "a schema");
    case KEY_MINIMUM:
    case KEY_EXCLUSIVE_MINIMUM:
        return hold_bound(w, k, LIMIT_LEAST, key == KEY_EXCLUSIVE_MINIMUM);
    case KEY_MAXIMUM:
    case KEY_EXCLUSIVE_MAXIMUM:
        return hold_bound(w, k, LIMIT_MOST, key == KEY_EXCLUSIVE_MAXIMUM);
    case KEY_MULTIPLE_OF:
        k->spoken = TYPE_NUMBER;
        if (!json_is_number(k->value) || !(json_number_value(k->value) > 0))
            return wrong(w, k, "a number above 0");
        return hold(w, k, (struct limit){.kind = LIMIT_MULTIPLE, .value = k->value});
    case KEY_MIN_LENGTH:
    case KEY_MAX_LENGTH:
        return hold_range(w, k, LIMIT_LENGTH, TYPE_STRING, key == KEY_MAX_LENGTH);
    case KEY_PATTERN:
    case KEY_FORMAT:
        k->spoken = TYPE_STRING;
        if (!json_is_string(k->value) || strlen(json_string_value(k->value)) != json_string_length(k->value))
            return wrong(w, k, "a text");
        return hold(w, k,
                    (struct limit){.kind = key == KEY_PATTERN ? LIMIT_PATTERN : LIMIT_FORMAT,
                                   .name = json_string_value(k->value)});
    case KEY_PREFIX_ITEMS:
        k->spoken = TYPE_ARRAY;
        return json_is_array(k->value) ? hold_items(w, k) : wrong(w, k, "a list of schemas");
    case KEY_ITEMS:
        k->spoken = TYPE_ARRAY;
        if (json_is_array(k->value))
            return hold_items(w, k);
        if (!is_schema(k->value))
            return wrong(w, k, "a schema");
        return hold(
            w, k,
            (struct limit){.kind = LIMIT_ITEMS, .low = prefix_size(k), .literal = child(k, k->value, false, false)});
    case KEY_ADDITIONAL_ITEMS:
        if (!json_is_array(json_object_get(k->schema, "items")))
            return true;
        if (!is_schema(k->value))
            return wrong(w, k, "a schema");
        return hold(
            w, k,
            (struct limit){.kind = LIMIT_ITEMS, .low = prefix_size(k), .literal = child(k, k->value, false, false)});
    case KEY_MIN_ITEMS:
    case KEY_MAX_ITEMS:
        return hold_range(w, k, LIMIT_SIZE, TYPE_ARRAY, key == KEY_MAX_ITEMS);
    case KEY_UNIQUE_ITEMS:
        if (!json_is_boolean(k->value))
            return wrong(w, k, "true or false");
        k->spoken = json_is_true(k->value) ? TYPE_ARRAY : 0;
        return json_is_false(k->value) || hold(w, k, (struct limit){.kind = LIMIT_UNIQUE});
    case KEY_CONTAINS:
        k->spoken = TYPE_ARRAY;
        if (!is_schema(k->value))
            return wrong(w, k, "a schema");
        return read_contains(w, k, &low, &high) &&
               ((low == 0 && high < 0) || hold(w, k,
                                               (struct limit){.kind = LIMIT_CONTAINS,
                                                              .low = low,
                                                              .high = high,
                                                              .literal = child(k, k->value, false, high >= 0)}));
    case KEY_NULLABLE:
    case KEY_OF_CONTAINS:
        return true;
    case KEY_UNEVALUATED_ITEMS:
        k->spoken = TYPE_ARRAY;
        return is_schema(k->value)
                   ? hold(w, k,
                          (struct limit){
                              .kind = LIMIT_ITEMS, .unevaluated = true, .literal = child(k, k->value, false, false)})
                   : wrong(w, k, "a schema");
    case KEY_PROPERTIES:
        return hold_properties(w, k, LIMIT_PROPERTY);
    case KEY_PATTERN_PROPERTIES:
        return hold_properties(w, k, LIMIT_NAMED_LIKE);
    case KEY_ADDITIONAL_PROPERTIES:
    case KEY_UNEVALUATED_PROPERTIES:
        k->spoken = TYPE_OBJECT;
        return is_schema(k->value) ? hold(w, k,
                                          (struct limit){.kind = LIMIT_OTHERS,
                                                         .owner = k->schema,
                                                         .unevaluated = key == KEY_UNEVALUATED_PROPERTIES,
                                                         .literal = child(k, k->value, false, false)})
                                   : wrong(w, k, "a schema");
    case KEY_REQUIRED:
        return hold_required(w, k);
    case KEY_MIN_PROPERTIES:
    case KEY_MAX_PROPERTIES:
        return hold_range(w, k, LIMIT_COUNT, TYPE_OBJECT, key == KEY_MAX_PROPERTIES);
    case KEY_PROPERTY_NAMES:
        k->spoken = TYPE_OBJECT;
        return is_schema(k->value)
                   ? hold(w, k, (struct limit){.kind = LIMIT_NAMES, .literal = child(k, k->value, false, false)})
                   : wrong(w, k, "a schema");
    case KEY_DEPENDENT_REQUIRED:
    case KEY_DEPENDENT_SCHEMAS:
    case KEY_DEPENDENCIES:
        k->spoken = TYPE_OBJECT;
        return open_dependencies(w, k, false, NULL);
    case KEY_UNKNOWN:
        break;
    }
    return schema_refuse(w, "the keyword \"%.80s\" of the JSON schema is not supported", k->key);
}

/* ---- what breaks --------------------------------------------------------------------------------------------------
 */

static bool break_count(struct schema_writer *w, struct keyword *k, struct alternative **ways, enum limit_kind kind,
                        unsigned types, bool most)
{
    json_int_t count = 0;
    if (!read_count(w, k, k->value, &count))
        return false;
    struct limit limit = {.kind = kind, .low = most ? count + 1 : 0, .high = most ? -1 : count - 1};
    return (!most && count == 0) || break_with(w, k, ways, types, limit, NO_LIMIT);
}

/* One of the items is there and does not keep its schema. */
static bool break_items(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    size_t i;
    json_t *item;
    if (!check_schemas(w, k))
        return false;
    json_array_foreach(k->value, i, item)
    {
        json_int_t at = (json_int_t)i;
        if (!break_with(w, k, ways, TYPE_ARRAY, (struct limit){.kind = LIMIT_SIZE, .low = at + 1, .high = -1},
                        (struct limit){.kind = LIMIT_ITEM, .low = at, .literal = child(k, item, true, true)}))
            return false;
    }
    return true;
}

static bool break_properties(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    const char *name;
    json_t *value;
    if (!json_is_object(k->value) || !check_schemas(w, k))
        return wrong(w, k, "an object of schemas");
    json_object_foreach((json_t *)k->value, name, value)
    {
        struct limit there = {.kind = LIMIT_REQUIRED, .name = name};
        struct limit other = {.kind = LIMIT_PROPERTY, .name = name, .literal = child(k, value, true, true)};
        if (!break_with(w, k, ways, TYPE_OBJECT, there, other))
            return false;
    }
    return true;
}

static bool break_list(struct schema_writer *w, struct keyword *k, struct alternative **ways, enum key key)
{
    size_t i;
    json_t *item;
    if (json_array_size(k->value) == 0 || !check_schemas(w, k))
        return wrong(w, k, "a list of schemas");
    if (key == KEY_ONE_OF)
        return break_one_of(w, k, ways);
    struct alternative *none = schema_memory(w, 1, sizeof *none);
    json_array_foreach(k->value, i, item)
    {
        struct literal other = child(k, item, true, true);
        if (!none || (key == KEY_ALL_OF && !literal_way(w, k, ways, other)))
            return false;
        if (key == KEY_ANY_OF &&
            !(none->limits = schema_new_limit(w, finish(k, (struct limit){.kind = LIMIT_LITERAL, .literal = other}),
                                              none->limits)))
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
    enum key key = find_key(k->key);
    json_int_t low, high;
    unsigned types;
    const json_t *target;
    struct alternative *none;
    struct limit some = {.kind = LIMIT_CONTAINS, .low = 1, .high = -1};
    size_t i;
    json_t *item;
    w->at = own_origin(k);
    switch (key) {
    case KEY_TYPE:
        return read_types(w, k, &types) && break_with(w, k, ways, TYPE_ALL & ~types, NO_LIMIT, NO_LIMIT);
    case KEY_ENUM:
    case KEY_CONST:
        none = schema_memory(w, 1, sizeof *none);
        if (!none)
            return false;
        if (key == KEY_CONST) {
            none->limits =
                schema_new_limit(w, finish(k, (struct limit){.kind = LIMIT_NO_VALUE, .value = k->value}), NULL);
            if (!none->limits)
                return false;
        }
        if (key == KEY_ENUM)
            json_array_foreach(
                k->value, i,
                item) if (!(none->limits =
                                schema_new_limit(w, finish(k, (struct limit){.kind = LIMIT_NO_VALUE, .value = item}),
                                                 none->limits))) return false;
        none->next = *ways;
        *ways = none;
        return true;
    case KEY_REF:
    case KEY_DYNAMIC_REF:
        target = referred(w, k, key == KEY_DYNAMIC_REF);
        return target && literal_way(w, k, ways, child(k, target, true, true));
    case KEY_ALL_OF:
    case KEY_ANY_OF:
    case KEY_ONE_OF:
        return break_list(w, k, ways, key);
    case KEY_NOT:
        return is_schema(k->value) ? literal_way(w, k, ways, child(k, k->value, false, true)) : wrong(w, k, "a schema");
    case KEY_IF:
        return open_if(w, k, true, ways);
    case KEY_MINIMUM:
    case KEY_EXCLUSIVE_MINIMUM:
    case KEY_MAXIMUM:
    case KEY_EXCLUSIVE_MAXIMUM:
        if (!json_is_number(k->value))
            return wrong(w, k, "a number");
        return break_with(
            w, k, ways, TYPE_NUMBER,
            (struct limit){.kind = key == KEY_MINIMUM || key == KEY_EXCLUSIVE_MINIMUM ? LIMIT_MOST : LIMIT_LEAST,
                           .value = k->value,
                           .negated = key == KEY_MINIMUM || key == KEY_MAXIMUM},
            NO_LIMIT);
    case KEY_MULTIPLE_OF:
        if (!json_is_number(k->value) || !(json_number_value(k->value) > 0))
            return wrong(w, k, "a number above 0");
        return break_with(w, k, ways, TYPE_NUMBER,
                          (struct limit){.kind = LIMIT_MULTIPLE, .value = k->value, .negated = true}, NO_LIMIT);
    case KEY_MIN_LENGTH:
    case KEY_MAX_LENGTH:
        return break_count(w, k, ways, LIMIT_LENGTH, TYPE_STRING, key == KEY_MAX_LENGTH);
    case KEY_PATTERN:
        if (!json_is_string(k->value) || strlen(json_string_value(k->value)) != json_string_length(k->value))
            return wrong(w, k, "a text");
        return break_with(w, k, ways, TYPE_STRING,
                          (struct limit){.kind = LIMIT_PATTERN, .name = json_string_value(k->value), .negated = true},
                          NO_LIMIT);
    case KEY_PREFIX_ITEMS:
        return break_items(w, k, ways);
    case KEY_ITEMS:
        if (json_is_array(k->value))
            return break_items(w, k, ways);
        some.from = prefix_size(k);
        some.literal = child(k, k->value, true, true);
        return break_with(w, k, ways, TYPE_ARRAY, some, NO_LIMIT);
    case KEY_ADDITIONAL_ITEMS:
        some.from = prefix_size(k);
        some.literal = child(k, k->value, true, true);
        return !json_is_array(json_object_get(k->schema, "items")) ||
               break_with(w, k, ways, TYPE_ARRAY, some, NO_LIMIT);
    case KEY_MIN_ITEMS:
    case KEY_MAX_ITEMS:
        return break_count(w, k, ways, LIMIT_SIZE, TYPE_ARRAY, key == KEY_MAX_ITEMS);
    case KEY_CONTAINS:
        some.literal = child(k, k->value, false, true);
        if (!read_contains(w, k, &low, &high))
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
        if (!json_is_object(k->value) || !check_schemas(w, k))
            return wrong(w, k, "an object of schemas");
        json_object_foreach((json_t *)k->value, some.name, item)
        {
            struct limit like = {
                .kind = LIMIT_SOME_NAMED_LIKE, .name = some.name, .literal = child(k, item, true, true)};
            if (!break_with(w, k, ways, TYPE_OBJECT, like, NO_LIMIT))
                return false;
        }
        return true;
    case KEY_ADDITIONAL_PROPERTIES:
        return break_with(
            w, k, ways, TYPE_OBJECT,
            (struct limit){.kind = LIMIT_SOME_OTHER, .owner = k->schema, .literal = child(k, k->value, true, true)},
            NO_LIMIT);
    case KEY_REQUIRED:
        json_array_foreach(k->value, i, item)
        {
            struct limit absent = {.kind = LIMIT_REQUIRED, .name = json_string_value(item), .negated = true};
            if (!absent.name || strlen(absent.name) != json_string_length(item))
                return wrong(w, k, "a list of names");
            if (!break_with(w, k, ways, TYPE_OBJECT, absent, NO_LIMIT))
                return false;
        }
        return true;
    case KEY_MIN_PROPERTIES:
    case KEY_MAX_PROPERTIES:
        return break_count(w, k, ways, LIMIT_COUNT, TYPE_OBJECT, key == KEY_MAX_PROPERTIES);
    case KEY_PROPERTY_NAMES:
        return break_with(w, k, ways, TYPE_OBJECT,
                          (struct limit){.kind = LIMIT_SOME_NAME, .literal = child(k, k->value, true, true)}, NO_LIMIT);
    case KEY_DEPENDENT_REQUIRED:
    case KEY_DEPENDENT_SCHEMAS:
    case KEY_DEPENDENCIES:
        return open_dependencies(w, k, true, ways);
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
    return schema_refuse(w, "the opposite of the keyword \"%.80s\" of the JSON schema is not supported", k->key);
}
