/* Goals: sets of literals, each with its own rule. */
#include "grammar/schema_private.h"

#include <math.h>
#include <string.h>

#define MAX_GOALS 20000
#define MAX_LOOK_AHEAD 12 /* how deep goals are opened to see whether another is empty */

static bool asks_nothing(const struct literal *literal)
{
    const char *key;
    json_t *value;
    if (literal->negated)
        return json_is_false(literal->schema);
    json_object_foreach((json_t *)literal->schema, key, value) if (!schema_is_annotation(key)) return false;
    return json_is_true(literal->schema) || json_is_object(literal->schema);
}

struct literals *schema_add_literal(struct schema_writer *w, struct literals *list, struct literal literal)
{
    struct literals *fresh = schema_memory(w, 1, sizeof *fresh);
    if (fresh) {
        fresh->literal = literal;
        fresh->next = list;
    }
    return fresh;
}

static bool has_literal(const struct literals *list, const struct literal *literal)
{
    for (; list; list = list->next)
        if (list->literal.schema == literal->schema && list->literal.negated == literal->negated)
            return true;
    return false;
}

static size_t length_of(const struct literals *list)
{
    size_t length = 0;
    for (; list; list = list->next)
        length++;
    return length;
}

bool schema_find_goal(struct schema_writer *w, const struct literals *literals, bool canonical, struct goal **out)
{
    struct literals *own = NULL;
    uint64_t hash = canonical + 2u * w->exact;
    for (; literals; literals = literals->next) {
        struct literal literal = literals->literal;
        literal.parent = NULL; /* the parent is a literal of another value */
        if (asks_nothing(&literal) || has_literal(own, &literal))
            continue;
        if (!(own = schema_add_literal(w, own, literal)))
            return false;
        hash += (((uint64_t)(uintptr_t)literal.schema >> 4) * 2 + literal.negated) * 0x9e3779b97f4a7c15u;
    }
    size_t length = length_of(own);
    struct goal **slot = &w->goals[(hash >> 32) % GOAL_SLOTS];
    for (struct goal *goal = *slot; goal; goal = goal->next) {
        bool same = goal->hash == hash && goal->canonical == canonical && goal->exact == w->exact &&
                    length_of(goal->literals) == length;
        for (const struct literals *l = own; l && same; l = l->next)
            same = has_literal(goal->literals, &l->literal);
        if (same) {
            *out = goal;
            return true;
        }
    }
    struct goal *fresh = schema_memory(w, 1, sizeof *fresh);
    if (!fresh)
        return false;
    if (++w->goal_count > MAX_GOALS)
        return schema_refuse(w, "the JSON schema is %s", "too large, or combines too much");
    *fresh = (struct goal){.literals = own, .hash = hash, .canonical = canonical, .exact = w->exact, .next = *slot};
    *slot = fresh;
    *out = fresh;
    return schema_work(w, 10 * (length + 1));
}

bool schema_goal_of(struct schema_writer *w, struct literal a, const struct literal *b, bool canonical,
                    struct goal **out)
{
    struct literals *list = schema_add_literal(w, NULL, a);
    if (list && b)
        list = schema_add_literal(w, list, *b);
    return list && schema_find_goal(w, list, canonical, out);
}

bool schema_goal_is_any(const struct goal *goal)
{
    return !goal->literals;
}

bool schema_goal_is_empty(struct schema_writer *w, struct goal *goal, bool *out)
{
    *out = false;
    if (goal->empty == EMPTINESS_UNKNOWN && !goal->opening && w->depth < MAX_LOOK_AHEAD) {
        goal->empty = EMPTINESS_ASKED;
        if (!schema_open_goal(w, goal))
            return false;
        goal->empty = goal->shapes ? EMPTINESS_NO : EMPTINESS_YES;
    }
    *out = goal->empty == EMPTINESS_YES;
    return true;
}

static bool numbers_are_empty(const struct shape *shape)
{
    double low = -INFINITY, high = INFINITY;
    bool open = false; /* a bound is exclusive */
    for (const struct limits *l = shape->limits; l; l = l->next) {
        double bound = json_number_value(l->limit->value);
        if (l->limit->kind == LIMIT_LEAST && bound >= low) {
            open = (bound == low && open) || l->limit->negated || (bound == high && open);
            low = bound;
        } else if (l->limit->kind == LIMIT_MOST && bound <= high) {
            open = (bound == high && open) || l->limit->negated || (bound == low && open);
            high = bound;
        }
    }
    return low > high || (low == high && open);
}

static bool strings_are_empty(struct schema_writer *w, const struct shape *shape, bool *empty)
{
    struct text_part parts[MAX_TEXT_PARTS];
    struct automaton a;
    size_t count = 0, found;
    uint32_t looked_at = 0, wanted = 0;
    *empty = false;
    if (!schema_string_parts(w, shape, parts, &count))
        return false;
    for (size_t i = 0; i < count; i++) {
        *empty |= parts[i].kind == TEXT_LENGTH && parts[i].high >= 0 && parts[i].low > parts[i].high;
        looked_at |= 1u << i;
        wanted |= (uint32_t)parts[i].required << i;
    }
    if (*empty || count < 2)
        return true;
    if (!automaton_build(w, parts, count, &a) || !automaton_list(w, &a, looked_at, wanted, NULL, 0, &found))
        return false;
    *empty = found == 0;
    return true;
}

bool schema_shape_is_empty(struct schema_writer *w, const struct goal *goal, const struct shape *shape, bool *out)
{
    *out = false;
    if (shape->values) {
        for (size_t i = 0; i < json_array_size(shape->values); i++) {
            bool keeps = true;
            for (const struct literals *l = goal->literals; l && keeps; l = l->next)
                if (!schema_check(w, l->literal, json_array_get(shape->values, i), &keeps))
                    return false;
            if (keeps)
                return true;
        }
        *out = true;
        return true;
    }
    if (shape->types & (TYPE_NULL | TYPE_BOOLEAN) || (shape->types & TYPE_NUMBER && !numbers_are_empty(shape)))
        return true;
    *out = true;
    if (shape->types & TYPE_STRING && !strings_are_empty(w, shape, out))
        return false;
    if (*out && shape->types & TYPE_ARRAY && !schema_array_is_empty(w, goal, shape, out))
        return false;
    return !*out || !(shape->types & TYPE_OBJECT) || schema_object_is_empty(w, goal, shape, out);
}

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

bool schema_write_goal(struct schema_writer *w, struct goal *goal, struct buffer *e)
{
    if (schema_goal_is_any(goal)) {
        buffer_append_string(e, goal->canonical ? "onevalue" : "value");
        return true;
    }
    if (!goal->has_rule) {
        goal->has_rule = true;
        goal->rule = schema_new_rule(w);
        if (w->last_waiting)
            w->last_waiting->next_waiting = goal;
        else
            w->first_waiting = goal;
        w->last_waiting = goal;
    }
    buffer_append_format(e, "r%u", goal->rule);
    return true;
}

/* The alternatives of one goal, without duplicates. */
struct ways {
    struct schema_writer *w;
    struct buffer text;
    uint64_t *seen;
    size_t count, room;
};

static bool add_way(struct ways *ways, struct buffer *way)
{
    struct schema_writer *w = ways->w;
    bool known = way->size == 0, fine = !way->failed || schema_no_memory(w);
    uint64_t hash = fnv1a(FNV1A_START, way->data ? way->data : "", way->size);
    for (size_t i = 0; i < ways->count && !known; i++)
        known = ways->seen[i] == hash;
    if (fine && !known && ways->count == ways->room) {
        uint64_t *more = schema_memory(w, MAX(ways->room * 2, 16u), sizeof *more);
        if (!more)
            fine = false;
        else if (ways->count)
            memcpy(more, ways->seen, ways->count * sizeof *more);
        ways->seen = more;
        ways->room = MAX(ways->room * 2, 16u);
    }
    if (fine && !known) {
        ways->seen[ways->count++] = hash;
        buffer_append_string(&ways->text, ways->text.size ? " | " : "");
        buffer_append(&ways->text, way->data, way->size);
    }
    buffer_free(way);
    return fine && schema_work(w, ways->count);
}

static bool write_values(struct ways *ways, const struct goal *goal, const json_t *values)
{
    size_t i;
    json_t *value;
    json_array_foreach(values, i, value)
    {
        struct buffer way = {0};
        bool keeps = true;
        for (const struct literals *l = goal->literals; l && keeps; l = l->next)
            if (!schema_check(ways->w, l->literal, value, &keeps))
                return false;
        if (keeps && (!schema_write_constant(ways->w, value, goal->canonical, &way) || !add_way(ways, &way)))
            return false;
    }
    return true;
}

static bool write_type(struct ways *ways, const struct goal *goal, const struct shape *shape, unsigned type)
{
    struct schema_writer *w = ways->w;
    struct buffer way = {0};
    bool fine = true;
    if (type == TYPE_NULL) {
        buffer_append_string(&way, "null");
    } else if (type == TYPE_BOOLEAN) {
        bool no[2] = {false, false};
        for (const struct limits *l = shape->limits; l; l = l->next)
            if (l->limit->kind == LIMIT_NO_VALUE && json_is_boolean(l->limit->value))
                no[json_is_true(l->limit->value)] = true;
        buffer_append_string(&way, no[0] && no[1] ? "" : no[0] ? "\"true\"" : no[1] ? "\"false\"" : "boolean");
    } else if (type == TYPE_STRING) {
        fine = schema_write_string(w, goal, shape, &way);
    } else if (type == TYPE_ARRAY) {
        fine = schema_write_array(w, goal, shape, &way);
    } else if (type == TYPE_OBJECT) {
        fine = schema_write_object(w, goal, shape, &way);
    } else {
        fine = schema_write_number(w, goal, shape, type, &way);
    }
    if (!fine) {
        buffer_free(&way);
        return false;
    }
    return add_way(ways, &way);
}

unsigned schema_meant_types(const struct shape *shape)
{
    return shape->typed || shape->values || !shape->spoken ? shape->types : shape->types & shape->spoken;
}

static bool write_shape(struct ways *ways, const struct goal *goal, const struct shape *shape, unsigned types)
{
    static const unsigned order[] = {TYPE_OBJECT, TYPE_ARRAY, TYPE_STRING, TYPE_NUMBER, TYPE_BOOLEAN, TYPE_NULL};
    if (shape->values)
        return write_values(ways, goal, shape->values);
    for (size_t i = 0; i < COUNT_OF(order); i++)
        if (types & order[i] && !write_type(ways, goal, shape, types & order[i]))
            return false;
    return true;
}

static bool write_goal(struct schema_writer *w, struct goal *goal)
{
    struct ways ways = {.w = w};
    bool fine = schema_open_goal(w, goal);
    for (const struct shape *shape = goal->shapes; shape && fine; shape = shape->next)
        fine = write_shape(&ways, goal, shape, schema_meant_types(shape));
    /* If no value of the implied types is left, write the other types. */
    bool none = !ways.text.size;
    for (const struct shape *shape = goal->shapes; shape && fine && none; shape = shape->next)
        fine = write_shape(&ways, goal, shape, shape->types);
    if (fine && !ways.text.size)
        buffer_append_string(&ways.text, "[]"); /* no value satisfies it; [] matches nothing */
    if (!fine) {
        buffer_free(&ways.text);
        return false;
    }
    return schema_end_rule(w, goal->rule, &ways.text);
}

bool schema_write_waiting(struct schema_writer *w)
{
    while (w->first_waiting) {
        struct goal *goal = w->first_waiting;
        w->first_waiting = goal->next_waiting;
        if (!w->first_waiting)
            w->last_waiting = NULL;
        if (!write_goal(w, goal))
            return false;
    }
    return true;
}
