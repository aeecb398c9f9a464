/* Checks whether a given value satisfies a schema, for the values of enum and const. */
#include "grammar/schema_private.h"

#include <math.h>
#include <string.h>

#define MAX_CHECK_DEPTH 300

bool schema_equal(const json_t *a, const json_t *b)
{
    if (json_is_number(a) && json_is_number(b))
        return json_is_integer(a) && json_is_integer(b) ? json_integer_value(a) == json_integer_value(b)
                                                        : json_number_value(a) == json_number_value(b);
    if (json_typeof(a) != json_typeof(b))
        return false;
    if (json_is_array(a)) {
        if (json_array_size(a) != json_array_size(b))
            return false;
        for (size_t i = 0; i < json_array_size(a); i++)
            if (!schema_equal(json_array_get(a, i), json_array_get(b, i)))
                return false;
        return true;
    }
    if (json_is_object(a)) {
        const char *key;
        json_t *value;
        if (json_object_size(a) != json_object_size(b))
            return false;
        json_object_foreach((json_t *)a, key, value)
        {
            const json_t *other = json_object_get(b, key);
            if (!other || !schema_equal(value, other))
                return false;
        }
        return true;
    }
    return json_equal(a, b);
}

bool schema_is_annotation(const char *key)
{
    static const char *const names[] = {
        "title",       "description",      "default",      "examples",    "example",        "$schema",
        "$id",         "$comment",         "$defs",        "definitions", "deprecated",     "readOnly",
        "writeOnly",   "$anchor",          "strict",       "name",        "$dynamicAnchor", "contentEncoding",
        "$vocabulary", "contentMediaType", "contentSchema"};
    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (strcmp(names[i], key) == 0)
            return true;
    return strncmp(key, "x-", 2) == 0;
}

struct checker {
    struct schema_writer *w;
    int depth;
    bool failed; /* the check could not decide; the error says why */
};

static bool keeps(struct checker *c, const json_t *schema, const json_t *value);

static bool cannot(struct checker *c, const char *key)
{
    if (!c->failed)
        schema_refuse(c->w, "the keyword \"%.80s\" of the JSON schema is not supported together with enum or const",
                      key);
    c->failed = true;
    return false;
}

static bool has_type(const json_t *value, const char *name)
{
    if (strcmp(name, "any") == 0)
        return true;
    switch (json_typeof(value)) {
    case JSON_NULL:
        return strcmp(name, "null") == 0;
    case JSON_TRUE:
    case JSON_FALSE:
        return strcmp(name, "boolean") == 0;
    case JSON_STRING:
        return strcmp(name, "string") == 0;
    case JSON_ARRAY:
        return strcmp(name, "array") == 0;
    case JSON_OBJECT:
        return strcmp(name, "object") == 0;
    default:
        return strcmp(name, "number") == 0 ||
               (strcmp(name, "integer") == 0 && json_number_value(value) == floor(json_number_value(value)));
    }
}

static bool check_type(const json_t *schema, const json_t *type, const json_t *value)
{
    if (json_is_null(value) && json_is_true(json_object_get(schema, "nullable")))
        return true;
    for (size_t i = 0; i < json_array_size(type); i++)
        if (has_type(value,
                     json_string_value(json_array_get(type, i)) ? json_string_value(json_array_get(type, i)) : ""))
            return true;
    return json_is_string(type) && has_type(value, json_string_value(type));
}

static bool finds(struct checker *c, const char *pattern, const char *text)
{
    bool out = false;
    if (!c->failed && !automaton_matches(c->w, pattern, text, &out))
        c->failed = true;
    return out;
}

static size_t characters(const char *text)
{
    size_t count = 0;
    for (; *text; text++)
        count += ((unsigned char)*text & 0xc0) != 0x80;
    return count;
}

/* ---- arrays and objects -------------------------------------------------------------------------------------------
 */

static bool check_items(struct checker *c, const json_t *schemas, size_t from, const json_t *value)
{
    for (size_t i = from; i < json_array_size(value); i++) {
        if (json_is_array(schemas) && i >= json_array_size(schemas))
            return true;
        if (!keeps(c, json_is_array(schemas) ? json_array_get(schemas, i) : schemas, json_array_get(value, i)))
            return false;
    }
    return true;
}

static size_t prefix_size(const json_t *schema)
{
    const json_t *items = json_object_get(schema, "items");
    return json_array_size(json_is_array(items) ? items : json_object_get(schema, "prefixItems"));
}

static bool check_contains(struct checker *c, const json_t *schema, const json_t *contained, const json_t *value)
{
    const json_t *least = json_object_get(schema, "minContains"), *most = json_object_get(schema, "maxContains");
    double count = 0;
    for (size_t i = 0; i < json_array_size(value); i++)
        count += keeps(c, contained, json_array_get(value, i));
    if (c->w->old_draft)
        return count >= 1;
    return count >= (least ? json_number_value(least) : 1) && (!most || count <= json_number_value(most));
}

static bool is_unique(const json_t *value)
{
    for (size_t i = 0; i < json_array_size(value); i++)
        for (size_t k = 0; k < i; k++)
            if (schema_equal(json_array_get(value, i), json_array_get(value, k)))
                return false;
    return true;
}

/* Whether "properties" or "patternProperties" of the schema cover a name. */
static bool speaks_of(struct checker *c, const json_t *schema, const char *name)
{
    const char *pattern;
    json_t *other;
    if (json_object_get(json_object_get(schema, "properties"), name))
        return true;
    json_object_foreach(json_object_get(schema, "patternProperties"), pattern,
                        other) if (finds(c, pattern, name)) return true;
    return false;
}

static bool check_members(struct checker *c, const json_t *schema, const char *key, const json_t *own,
                          const json_t *value)
{
    const char *name, *pattern;
    json_t *member, *other;
    json_object_foreach((json_t *)value, name, member)
    {
        bool fine = true;
        if (strcmp(key, "properties") == 0) {
            fine = !json_object_get(own, name) || keeps(c, json_object_get(own, name), member);
        } else if (strcmp(key, "patternProperties") == 0) {
            json_object_foreach((json_t *)own, pattern, other) fine =
                fine && (!finds(c, pattern, name) || keeps(c, other, member));
        } else if (strcmp(key, "additionalProperties") == 0) {
            fine = speaks_of(c, schema, name) || keeps(c, own, member);
        } else { /* propertyNames */
            const json_t *text = schema_own(c->w, json_string(name));
            c->failed |= !text;
            fine = text && keeps(c, own, text);
        }
        if (!fine)
            return false;
    }
    return true;
}

static bool has_all(const json_t *names, const json_t *value)
{
    for (size_t i = 0; i < json_array_size(names); i++) {
        const char *name = json_string_value(json_array_get(names, i));
        if (!name || !json_object_get(value, name))
            return false;
    }
    return true;
}

static bool check_dependencies(struct checker *c, const json_t *own, const json_t *value)
{
    const char *name;
    json_t *needed;
    json_object_foreach((json_t *)own, name, needed)
    {
        if (json_object_get(value, name) && !(json_is_array(needed) ? has_all(needed, value) : keeps(c, needed, value)))
            return false;
    }
    return true;
}

/* ---- keywords -----------------------------------------------------------------------------------------------------
 */

static size_t count_kept(struct checker *c, const json_t *schemas, const json_t *value)
{
    size_t count = 0;
    for (size_t i = 0; i < json_array_size(schemas); i++)
        count += keeps(c, json_array_get(schemas, i), value);
    return count;
}

static bool is_multiple(struct checker *c, const json_t *of, const json_t *value)
{
    if (json_is_integer(of) && json_is_integer(value) && json_integer_value(of) > 0)
        return json_integer_value(value) % json_integer_value(of) == 0;
    struct decimal a, b;
    if (!schema_read_decimal(value, &a) || !schema_read_decimal(of, &b))
        return cannot(c, "multipleOf");
    return schema_decimal_is_multiple(&a, &b);
}

/* Checks limits on numbers, strings and sizes. */
static bool check_size(struct checker *c, const json_t *schema, const char *key, const json_t *own, const json_t *value,
                       bool *known)
{
    static const char *const names[] = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties",
                                        "maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"};
    size_t at = 0;
    while (at < COUNT_OF(names) && strcmp(names[at], key) != 0)
        at++;
    *known = at < COUNT_OF(names);
    if (!*known)
        return true;
    double size, limit = json_number_value(own);
    bool number = at % 5 < 2, exclusive = at % 5 == 1;
    if (number        ? !json_is_number(value)
        : at % 5 == 2 ? !json_is_string(value)
        : at % 5 == 3 ? !json_is_array(value)
                      : !json_is_object(value))
        return true;
    if (exclusive && json_is_boolean(own)) {
        exclusive = json_is_true(own);
        limit = json_number_value(json_object_get(schema, at < 5 ? "minimum" : "maximum"));
    } else if (!json_is_number(own)) {
        return cannot(c, key);
    }
    size = number                  ? json_number_value(value)
           : json_is_string(value) ? (double)characters(json_string_value(value))
           : json_is_array(value)  ? (double)json_array_size(value)
                                   : (double)json_object_size(value);
    if (exclusive && size == limit)
        return false;
    return at < 5 ? size >= limit : size <= limit;
}

static bool check_keyword(struct checker *c, const json_t *schema, const char *key, const json_t *own,
                          const json_t *value)
{
    const json_t *target;
    bool known, array = json_is_array(value), object = json_is_object(value);
    bool fine = check_size(c, schema, key, own, value, &known);
    if (known || schema_is_annotation(key))
        return fine;
    if (strcmp(key, "type") == 0)
        return check_type(schema, own, value);
    if (strcmp(key, "const") == 0)
        return schema_equal(own, value);
    if (strcmp(key, "enum") == 0) {
        for (size_t i = 0; i < json_array_size(own); i++)
            if (schema_equal(json_array_get(own, i), value))
                return true;
        return false;
    }
    if (strcmp(key, "$ref") == 0 || strcmp(key, "$dynamicRef") == 0) {
        if (!json_is_string(own) || !schema_resolve(c->w, schema, json_string_value(own), key[1] == 'd', &target)) {
            c->failed = true;
            return false;
        }
        return keeps(c, target, value);
    }
    if (strcmp(key, "allOf") == 0)
        return count_kept(c, own, value) == json_array_size(own);
    if (strcmp(key, "anyOf") == 0)
        return count_kept(c, own, value) > 0;
    if (strcmp(key, "oneOf") == 0)
        return count_kept(c, own, value) == 1;
    if (strcmp(key, "not") == 0)
        return !keeps(c, own, value);
    if (strcmp(key, "if") == 0) {
        const json_t *next = json_object_get(schema, keeps(c, own, value) ? "then" : "else");
        return !next || keeps(c, next, value);
    }
    if (strcmp(key, "multipleOf") == 0)
        return !json_is_number(value) || is_multiple(c, own, value);
    if (strcmp(key, "pattern") == 0)
        return !json_is_string(value) ||
               finds(c, json_string_value(own) ? json_string_value(own) : "", json_string_value(value));
    if (strcmp(key, "prefixItems") == 0)
        return !array || check_items(c, own, 0, value);
    if (strcmp(key, "items") == 0)
        return !array || check_items(c, own, json_is_array(own) ? 0 : prefix_size(schema), value);
    if (strcmp(key, "additionalItems") == 0)
        return !array || !json_is_array(json_object_get(schema, "items")) ||
               check_items(c, own, prefix_size(schema), value);
    if (strcmp(key, "uniqueItems") == 0)
        return !array || !json_is_true(own) || is_unique(value);
    if (strcmp(key, "contains") == 0)
        return !array || check_contains(c, schema, own, value);
    if (strcmp(key, "required") == 0)
        return !object || has_all(own, value);
    if (strncmp(key, "depend", 6) == 0)
        return !object || check_dependencies(c, own, value);
    if (strcmp(key, "properties") == 0 || strcmp(key, "patternProperties") == 0 ||
        strcmp(key, "additionalProperties") == 0 || strcmp(key, "propertyNames") == 0)
        return !object || check_members(c, schema, key, own, value);
    if (strcmp(key, "then") == 0 || strcmp(key, "else") == 0 || strcmp(key, "nullable") == 0 ||
        strcmp(key, "minContains") == 0 || strcmp(key, "maxContains") == 0)
        return true;
    if (strcmp(key, "format") == 0 && !json_is_string(value))
        return true;
    return cannot(c, key);
}

static bool keeps(struct checker *c, const json_t *schema, const json_t *value)
{
    const char *key;
    json_t *own;
    if (json_is_boolean(schema))
        return json_is_true(schema);
    if (c->failed || !schema_work(c->w, 10) || ++c->depth > MAX_CHECK_DEPTH)
        return cannot(c, "$ref");
    bool fine = true;
    bool only_reference = c->w->old_draft && json_object_get(schema, "$ref");
    json_object_foreach((json_t *)schema, key, own)
    {
        if (!fine || c->failed)
            break;
        if (!only_reference || strcmp(key, "$ref") == 0)
            fine = check_keyword(c, schema, key, own, value);
    }
    c->depth--;
    return fine;
}

bool schema_check(struct schema_writer *w, struct literal literal, const json_t *value, bool *out)
{
    struct checker c = {.w = w};
    w->at = literal.origin;
    *out = keeps(&c, literal.schema, value) != literal.negated;
    return !c.failed;
}
