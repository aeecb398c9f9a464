/* Keywords that combine schemas: oneOf, if, dependencies and references. */
#include "grammar/schema_keywords_private.h"

#include <string.h>

/* Finds the types of the values that are written for a schema. */
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
    *out = keyword_child(k, w->type_schemas[types], false, true);
    return w->type_schemas[types] != NULL;
}

/* Whether certainly no value satisfies all of them. */
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
    *limits = schema_new_limit(w, keyword_limit(k, limit), *limits);
    return *limits != NULL;
}

bool keyword_hold_one_of(struct schema_writer *w, struct keyword *k)
{
    struct alternative *ways = NULL;
    size_t count = json_array_size(k->value);
    for (size_t i = 0; i < count; i++) {
        struct literal literals[3] = {keyword_child(k, json_array_get(k->value, i), false, true)};
        struct alternative *way = NULL;
        unsigned types;
        if (!written_types(w, literals[0], &types) || !type_literal(w, k, types, &literals[1]) ||
            !keyword_literal_way(w, k, &way, literals[1]))
            return false;
        for (size_t j = 0; j < count; j++) {
            bool disjoint = false;
            literals[2] = keyword_child(k, json_array_get(k->value, j), false, true);
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
    return keyword_add_choice(w, k, ways);
}

bool keyword_break_one_of(struct schema_writer *w, struct keyword *k, struct alternative **ways)
{
    size_t count = json_array_size(k->value);
    struct alternative *none = schema_memory(w, 1, sizeof *none);
    if (!none)
        return false;
    for (size_t i = count; i-- > 0;) {
        struct literal own = keyword_child(k, json_array_get(k->value, i), true, true);
        if (!(none->limits = schema_new_limit(
                  w, keyword_limit(k, (struct limit){.kind = LIMIT_LITERAL, .literal = own}), none->limits)))
            return false;
        for (size_t j = 0; j < i; j++) {
            struct limit both[] = {
                {.kind = LIMIT_LITERAL, .literal = keyword_child(k, json_array_get(k->value, i), false, true)},
                {.kind = LIMIT_LITERAL, .literal = keyword_child(k, json_array_get(k->value, j), false, true)}};
            if (!keyword_add_way(w, k, ways, 2, both))
                return false;
        }
    }
    none->next = *ways;
    *ways = none;
    return true;
}

bool keyword_open_if(struct schema_writer *w, struct keyword *k, bool negated, struct alternative **ways)
{
    const json_t *then = json_object_get(k->schema, "then"), *otherwise = json_object_get(k->schema, "else");
    const json_t *branches[] = {then, otherwise};
    for (int i = 0; i < 2; i++) {
        struct limit limits[] = {{.kind = LIMIT_LITERAL, .literal = keyword_child(k, k->value, i, true)}, NO_LIMIT};
        if (branches[i])
            limits[1] =
                (struct limit){.kind = LIMIT_LITERAL, .literal = keyword_child(k, branches[i], negated, negated)};
        if ((branches[i] || !negated) && !keyword_add_way(w, k, ways, 2, limits))
            return false;
    }
    return true;
}

bool keyword_open_dependencies(struct schema_writer *w, struct keyword *k, bool negated, struct alternative **broken)
{
    const char *name, *other;
    json_t *value, *item;
    size_t i;
    if (!json_is_object(k->value))
        return keyword_wrong(w, k, "an object");
    json_object_foreach((json_t *)k->value, name, value)
    {
        struct limit there = {.kind = LIMIT_REQUIRED, .name = name};
        struct limit object = {.kind = LIMIT_TYPES, .types = TYPE_OBJECT};
        struct limit no_object = {.kind = LIMIT_TYPES, .types = TYPE_ALL & ~TYPE_OBJECT};
        struct limit absent = {.kind = LIMIT_REQUIRED, .name = name, .negated = true};
        struct alternative *ways = NULL, *with = schema_memory(w, 1, sizeof *with);
        if (!with || (!json_is_array(value) && !keyword_is_schema(value)))
            return with && keyword_wrong(w, k, "an object of schemas or of lists of names");
        if (json_is_array(value) && json_array_size(value) == 0)
            continue;
        if (json_is_array(value)) {
            json_array_foreach(value, i, item)
            {
                other = json_string_value(item);
                if (!other || strlen(other) != json_string_length(item))
                    return keyword_wrong(w, k, "an object of lists of names");
                struct limit needed = {.kind = LIMIT_REQUIRED, .name = other, .negated = negated};
                struct limit breaking[] = {object, there, needed};
                if (negated ? !keyword_add_way(w, k, broken, 3, breaking)
                            : !(with->limits = schema_new_limit(w, keyword_limit(k, needed), with->limits)))
                    return false;
            }
        } else {
            struct limit keeps = {.kind = LIMIT_LITERAL, .literal = keyword_child(k, value, negated, negated)};
            struct limit breaking[] = {object, there, keeps};
            if (negated ? !keyword_add_way(w, k, broken, 3, breaking)
                        : !(with->limits = schema_new_limit(w, keyword_limit(k, keeps), NULL)))
                return false;
        }
        if (negated)
            continue;
        with->limits = schema_new_limit(w, keyword_limit(k, there), with->limits);
        with->limits = with->limits ? schema_new_limit(w, keyword_limit(k, object), with->limits) : NULL;
        struct limit without[] = {object, absent};
        ways = with;
        if (!with->limits || !keyword_add_way(w, k, &ways, 2, without) ||
            !keyword_add_way(w, k, &ways, 1, &no_object) || !keyword_add_choice(w, k, ways))
            return false;
    }
    return true;
}

const json_t *keyword_referred(struct schema_writer *w, const struct keyword *k, bool dynamic)
{
    const json_t *target;
    if (!json_is_string(k->value))
        return keyword_wrong(w, k, "a string"), NULL;
    if (!schema_resolve(w, k->schema, json_string_value(k->value), dynamic, &target))
        return NULL;
    return keyword_is_schema(target) ? target : (keyword_wrong(w, k, "a reference to a schema"), NULL);
}
