/* Opens a goal into its shapes: opens the literals keyword by keyword and follows every alternative of each choice. */
#include "grammar/schema_private.h"

#include <string.h>

#define MAX_SHAPES 1000
#define MAX_DEPTH 60

struct opener {
    struct schema_writer *w;
    struct goal *goal;
    struct shape **end;
    uint32_t count;
};

/* The state of one way through the choices. Ways share their lists, so lists only grow at the front. */
struct way {
    struct shape shape; /* its limits from the last to the first */
    struct literals *seen;
    struct limits *todo; /* from the last to the first */
    struct limits *literals,
        *found; /* to open after todo: first those in order, then the newly found ones, last first */
    struct choice *choices;
    bool dead;
};

static bool push(struct schema_writer *w, struct limits **list, const struct limit *limit)
{
    struct limits *link = schema_memory(w, 1, sizeof *link);
    if (!link)
        return false;
    link->limit = limit;
    link->next = *list;
    *list = link;
    return true;
}

static struct limits *reversed(struct schema_writer *w, const struct limits *list, bool *fine)
{
    struct limits *out = NULL;
    for (; list && *fine; list = list->next)
        *fine = push(w, &out, list->limit);
    return out;
}

/* ---- literals -----------------------------------------------------------------------------------------------------
 */

static bool open_keywords(struct schema_writer *w, struct way *way, const struct literal *own)
{
    const char *name;
    json_t *value;
    struct alternative *ways = NULL;
    bool only_reference = own->negated && w->old_draft && json_object_get(own->schema, "$ref");
    json_object_foreach((json_t *)own->schema, name, value)
    {
        struct keyword k = {.schema = own->schema, .key = name, .value = value, .literal = own};
        if (schema_is_annotation(name) || (only_reference && strcmp(name, "$ref") != 0))
            continue;
        if (own->negated) {
            if (!schema_break_keyword(w, &k, &ways))
                return false;
            continue;
        }
        if (!schema_hold_keyword(w, &k))
            return false;
        way->shape.spoken |= k.spoken;
        way->shape.typed |= k.typed;
        way->shape.lists |= k.lists;
        way->shape.listed_items |= k.listed_items;
        for (const struct limits *l = k.limits; l; l = l->next)
            if (!push(w, l->limit->kind == LIMIT_LITERAL ? &way->found : &way->todo, l->limit))
                return false;
        for (struct choice *choice = k.choices, *next; choice; choice = next) {
            next = choice->next;
            choice->next = way->choices;
            way->choices = choice;
        }
    }
    if (own->negated) {
        struct choice *choice = schema_memory(w, 1, sizeof *choice);
        if (!choice)
            return false;
        choice->first = ways;
        choice->next = way->choices;
        way->choices = choice;
        way->dead |= !ways;
    }
    return schema_work(w, 10);
}

static bool apply_literal(struct schema_writer *w, struct way *way, const struct literal *literal)
{
    w->at = literal->origin;
    if (json_is_boolean(literal->schema)) {
        way->dead |= json_is_true(literal->schema) == literal->negated;
        return true;
    }
    if (!json_is_object(literal->schema))
        return schema_refuse(w, "a JSON schema must be an object, true or %s", "false");
    for (const struct literals *l = way->seen; l; l = l->next) {
        if (l->literal.schema != literal->schema)
            continue;
        if (l->literal.negated != literal->negated) {
            way->dead = true;
            return true;
        }
        for (const struct literal *p = literal->parent; p; p = p->parent)
            if (p->schema == literal->schema && p->negated == literal->negated)
                return schema_refuse(w, "the JSON schema is %s: it refers to itself without end", "nested too deeply");
        return true;
    }
    if (!(way->seen = schema_add_literal(w, way->seen, *literal)))
        return false;
    return open_keywords(w, way, &way->seen->literal);
}

/* ---- limits -------------------------------------------------------------------------------------------------------
 */

static unsigned type_of(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_NULL:
        return TYPE_NULL;
    case JSON_TRUE:
    case JSON_FALSE:
        return TYPE_BOOLEAN;
    case JSON_STRING:
        return TYPE_STRING;
    case JSON_ARRAY:
        return TYPE_ARRAY;
    case JSON_OBJECT:
        return TYPE_OBJECT;
    default:
        return TYPE_NUMBER;
    }
}

static bool apply_values(struct schema_writer *w, struct way *way, const json_t *values)
{
    if (!way->shape.values) {
        way->shape.values = values;
        return true;
    }
    json_t *both = json_array();
    size_t i, j;
    json_t *a, *b;
    json_array_foreach(way->shape.values, i, a)
    {
        bool in = false;
        json_array_foreach(values, j, b) in = in || schema_equal(a, b);
        if (in)
            json_array_append(both, a);
    }
    way->shape.values = schema_own(w, both);
    way->dead |= json_array_size(both) == 0;
    return way->shape.values && schema_work(w, json_array_size(values));
}

/* Adds the ways in which an array or object differs from a constant: in its size or in one of its parts. */
static bool apply_other_than(struct schema_writer *w, struct way *way, const struct limit *limit)
{
    const json_t *value = limit->value;
    bool array = json_is_array(value);
    json_int_t size = (json_int_t)(array ? json_array_size(value) : json_object_size(value));
    enum limit_kind kind = array ? LIMIT_SIZE : LIMIT_COUNT;
    struct choice *choice = schema_memory(w, 1, sizeof *choice);
    struct limit other_type = {.kind = LIMIT_TYPES, .types = TYPE_ALL & ~type_of(value), .origin = limit->origin};
    struct limit own_type = {.kind = LIMIT_TYPES, .types = type_of(value), .origin = limit->origin};
    struct limit more = {.kind = kind, .low = size + 1, .high = -1, .origin = limit->origin};
    struct limit less = {.kind = kind, .low = 0, .high = size - 1, .origin = limit->origin};
    const struct limit *first[] = {&other_type, &more, &less};
    bool fine = choice != NULL;
    for (int i = 0; i < (size ? 3 : 2) && fine; i++) {
        struct alternative *fresh = schema_memory(w, 1, sizeof *fresh);
        fine = fresh && (fresh->limits = schema_new_limit(w, *first[i], NULL));
        if (fine && i > 0)
            fine = (fresh->limits = schema_new_limit(w, own_type, fresh->limits)) != NULL;
        if (fine) {
            fresh->next = choice->first;
            choice->first = fresh;
        }
    }
    const char *key = "";
    void *at = array ? NULL : json_object_iter((json_t *)value);
    for (json_int_t i = 0; i < size && fine; i++) {
        const json_t *part = array ? json_array_get(value, (size_t)i) : json_object_iter_value(at);
        key = array ? "" : json_object_iter_key(at);
        const json_t *constant = schema_own(w, json_pack("{s:O}", "const", part));
        struct alternative *fresh = schema_memory(w, 1, sizeof *fresh);
        struct limit there = array ? (struct limit){.kind = LIMIT_SIZE, .low = i + 1, .high = -1}
                                   : (struct limit){.kind = LIMIT_REQUIRED, .name = key};
        struct limit differs = {.kind = array ? LIMIT_ITEM : LIMIT_PROPERTY, .low = i, .name = key};
        differs.literal = (struct literal){.schema = constant, .negated = true, .origin = limit->origin};
        there.origin = differs.origin = limit->origin;
        fine = constant && fresh && (fresh->limits = schema_new_limit(w, differs, NULL)) &&
               (fresh->limits = schema_new_limit(w, there, fresh->limits)) &&
               (fresh->limits = schema_new_limit(w, own_type, fresh->limits));
        if (fine) {
            fresh->next = choice->first;
            choice->first = fresh;
        }
        if (!array)
            at = json_object_iter_next((json_t *)value, at);
    }
    if (fine) {
        choice->next = way->choices;
        way->choices = choice;
    }
    return fine;
}

static bool apply(struct schema_writer *w, struct way *way, const struct limit *limit)
{
    unsigned type;
    w->at = limit->origin;
    switch (limit->kind) {
    case LIMIT_LITERAL:
        return apply_literal(w, way, &limit->literal);
    case LIMIT_TYPES:
        way->shape.types &= limit->types;
        way->dead |= way->shape.types == 0;
        return true;
    case LIMIT_VALUES:
        return apply_values(w, way, limit->value);
    case LIMIT_NO_VALUE:
        type = type_of(limit->value);
        if (type == TYPE_ARRAY || type == TYPE_OBJECT)
            return (way->shape.types & type) == 0 || apply_other_than(w, way, limit);
        if (type == TYPE_NULL) {
            way->shape.types &= ~type;
            way->dead |= way->shape.types == 0;
            return true;
        }
        break;
    case LIMIT_REQUIRED:
        for (const struct limits *l = way->shape.limits; l; l = l->next)
            if (l->limit->kind == LIMIT_REQUIRED && strcmp(l->limit->name, limit->name) == 0) {
                way->dead |= l->limit->negated != limit->negated && way->shape.types == TYPE_OBJECT;
                if (l->limit->negated == limit->negated)
                    return true;
            }
        break;
    default:
        break;
    }
    return push(w, &way->shape.limits, limit);
}

/* Whether an alternative of a choice already holds. */
static bool holds_already(const struct way *way, const struct alternative *alternative)
{
    for (const struct limits *l = alternative->limits; l; l = l->next) {
        const struct limit *limit = l->limit;
        bool holds = false;
        if (limit->kind == LIMIT_TYPES)
            holds = (way->shape.types & ~limit->types) == 0;
        else if (limit->kind == LIMIT_LITERAL)
            for (const struct literals *seen = way->seen; seen && !holds; seen = seen->next)
                holds =
                    seen->literal.schema == limit->literal.schema && seen->literal.negated == limit->literal.negated;
        else if (limit->kind == LIMIT_REQUIRED)
            for (const struct limits *own = way->shape.limits; own && !holds; own = own->next)
                holds = own->limit->kind == LIMIT_REQUIRED && own->limit->negated == limit->negated &&
                        strcmp(own->limit->name, limit->name) == 0;
        if (!holds)
            return false;
    }
    return true;
}

/* ---- ways ---------------------------------------------------------------------------------------------------------
 */

static bool finish(struct opener *o, struct way *way)
{
    struct shape *shape = schema_memory(o->w, 1, sizeof *shape);
    bool fine = shape != NULL, empty = false;
    if (!fine)
        return false;
    *shape = way->shape;
    shape->limits = reversed(o->w, shape->limits, &fine);
    if (!fine || !schema_shape_is_empty(o->w, o->goal, shape, &empty))
        return false;
    if (empty)
        return true;
    if (++o->count > MAX_SHAPES)
        return schema_refuse(o->w, "the JSON schema combines its parts in %s", "too many ways");
    *o->end = shape;
    o->end = &shape->next;
    return true;
}

static bool go_on(struct opener *o, struct way way, int depth)
{
    struct schema_writer *w = o->w;
    bool fine = true;
    if (depth > 500)
        return schema_refuse(w, "the JSON schema combines its parts in %s", "too many ways");
    while (!way.dead && (way.todo || way.found || way.literals)) {
        /* Order: the limits of the literal itself, then those of schemas that it refers to, then the next literals. */
        struct limits *list = reversed(w, way.todo, &fine);
        for (way.todo = NULL; list && fine && !way.dead; list = list->next)
            fine = apply(w, &way, list->limit);
        for (; way.found && fine; way.found = way.found->next)
            fine = push(w, &way.literals, way.found->limit);
        if (!fine)
            return false;
        if (way.dead || !way.literals)
            continue;
        const struct limit *literal = way.literals->limit;
        way.literals = way.literals->next;
        if (!apply(w, &way, literal))
            return false;
    }
    if (way.dead || !schema_work(w, 20))
        return way.dead;
    const struct choice *choice = way.choices;
    if (!choice)
        return finish(o, &way);
    way.choices = choice->next;
    for (const struct alternative *a = choice->first; a; a = a->next)
        if (holds_already(&way, a))
            return go_on(o, way, depth + 1);
    for (const struct alternative *a = choice->first; a; a = a->next) {
        struct way next = way;
        for (const struct limits *l = a->limits; l && fine; l = l->next)
            fine = push(w, l->limit->kind == LIMIT_LITERAL ? &next.found : &next.todo, l->limit);
        if (!fine || !go_on(o, next, depth + 1))
            return false;
    }
    return true;
}

bool schema_open_goal(struct schema_writer *w, struct goal *goal)
{
    struct opener o = {.w = w, .goal = goal, .end = &goal->shapes};
    struct way way = {.shape = {.types = TYPE_ALL}};
    bool fine = true, exact = w->exact;
    if (goal->opened)
        return true;
    if (goal->opening || w->depth >= MAX_DEPTH)
        return schema_refuse(w, "the JSON schema is nested too deeply, or %s", "refers to itself without end");
    goal->opening = true;
    w->exact = goal->exact;
    w->depth++;
    for (const struct literals *l = goal->literals; l && fine; l = l->next) {
        struct limit limit = {.kind = LIMIT_LITERAL, .literal = l->literal, .origin = l->literal.origin};
        way.found = schema_new_limit(w, limit, way.found);
        fine = way.found != NULL;
    }
    fine = fine && go_on(&o, way, 0);
    w->depth--;
    w->exact = exact;
    goal->opening = false;
    goal->opened = fine;
    return fine;
}
