/* The table of keywords, and helpers that read their values and make literals, limits and choices of them. */
#include "grammar/schema_keywords_private.h"

#include <math.h>
#include <string.h>

enum key keyword_find(const char *name)
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

struct origin keyword_origin(const struct keyword *k)
{
    return k->literal->origin.key ? k->literal->origin : (struct origin){k->schema, k->key};
}

struct literal keyword_child(const struct keyword *k, const json_t *schema, bool negated, bool whole)
{
    struct literal literal = {.schema = schema, .negated = negated};
    literal.origin = whole || negated ? keyword_origin(k) : k->literal->origin;
    literal.parent = k->literal;
    return literal;
}

struct limit keyword_limit(const struct keyword *k, struct limit limit)
{
    limit.origin = keyword_origin(k);
    limit.of = k->literal;
    return limit;
}

bool keyword_add_way(struct schema_writer *w, const struct keyword *k, struct alternative **ways, size_t count,
                     const struct limit *limits)
{
    struct alternative *fresh = schema_memory(w, 1, sizeof *fresh);
    if (!fresh)
        return false;
    for (size_t i = count; i-- > 0;)
        if (!(fresh->limits = schema_new_limit(w, keyword_limit(k, limits[i]), fresh->limits)))
            return false;
    fresh->next = *ways;
    *ways = fresh;
    return schema_work(w, 1);
}

bool keyword_literal_way(struct schema_writer *w, const struct keyword *k, struct alternative **ways,
                         struct literal literal)
{
    struct limit limit = {.kind = LIMIT_LITERAL, .literal = literal};
    return keyword_add_way(w, k, ways, 1, &limit);
}

bool keyword_add_choice(struct schema_writer *w, struct keyword *k, struct alternative *ways)
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

bool keyword_wrong(struct schema_writer *w, const struct keyword *k, const char *expected)
{
    return schema_refuse(w, "the \"%s\" of the JSON schema is not %s", k->key, expected);
}

bool keyword_is_schema(const json_t *value)
{
    return json_is_object(value) || json_is_boolean(value);
}

bool keyword_check_schemas(struct schema_writer *w, const struct keyword *k)
{
    size_t i;
    json_t *item;
    const char *name;
    if (json_is_array(k->value)) {
        json_array_foreach(k->value, i, item) if (!keyword_is_schema(item)) return keyword_wrong(w, k,
                                                                                                 "a list of schemas");
    } else {
        json_object_foreach((json_t *)k->value, name,
                            item) if (!keyword_is_schema(item)) return keyword_wrong(w, k, "an object of schemas");
    }
    return true;
}

bool keyword_check_list(struct schema_writer *w, const struct keyword *k)
{
    return (json_array_size(k->value) > 0 && keyword_check_schemas(w, k)) || keyword_wrong(w, k, "a list of schemas");
}

bool keyword_is_text(const json_t *value)
{
    return json_is_string(value) && strlen(json_string_value(value)) == json_string_length(value);
}

bool keyword_is_most(const struct keyword *k)
{
    return strncmp(k->key, "max", 3) == 0 || strcmp(k->key, "exclusiveMaximum") == 0;
}

bool keyword_is_exclusive(const struct keyword *k)
{
    return strncmp(k->key, "exclusive", 9) == 0;
}

bool keyword_read_count(struct schema_writer *w, const struct keyword *k, const json_t *value, json_int_t *out)
{
    double number = json_is_number(value) ? json_number_value(value) : -1;
    if (!(number >= 0) || number != floor(number))
        return keyword_wrong(w, k, "a whole number of 0 or more");
    *out = number > 1e9 ? 1000000000 : (json_int_t)number;
    return true;
}

bool keyword_read_types(struct schema_writer *w, const struct keyword *k, unsigned *out)
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
            return schema_refuse(w, "the JSON schema names the type \"%.80s\", which JSON does not have",
                                 name ? name : "");
        *out |= known[at].types;
    }
    if (json_is_true(json_object_get(k->schema, "nullable")))
        *out |= TYPE_NULL;
    return true;
}

json_int_t keyword_prefix_size(const struct keyword *k)
{
    const json_t *prefix = json_object_get(k->schema, "prefixItems"), *items = json_object_get(k->schema, "items");
    return (json_int_t)json_array_size(json_is_array(items) ? items : prefix);
}

bool keyword_read_contains(struct schema_writer *w, const struct keyword *k, json_int_t *low, json_int_t *high)
{
    const json_t *least = json_object_get(k->schema, "minContains"), *most = json_object_get(k->schema, "maxContains");
    *low = 1;
    *high = -1;
    if (w->old_draft)
        return true;
    return (!least || keyword_read_count(w, k, least, low)) && (!most || keyword_read_count(w, k, most, high));
}
