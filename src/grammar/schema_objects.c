/* Writes the objects of a JSON schema as GBNF: listed properties in their order, then others with different names. */
#include "grammar/schema_private.h"

#include <stdlib.h>
#include <string.h>

#define MAX_NAMES 5000
#define MAX_GRID 20000
#define FEW_NAMES 16

struct member {
    const char *name;
    bool required, forbidden;
    struct goal *goal;
};

struct object_plan {
    struct schema_writer *w;
    const struct goal *goal;
    const struct shape *shape;
    struct member *members;
    size_t count, capacity;
    json_int_t low, high;
    bool open;                 /* names that no limit covers are allowed */
    const struct limit *some;  /* requires at least one such property, or NULL */
    struct buffer free, first; /* other members; and those that satisfy `some` */
    bool distinct;             /* names must differ */
};

/* ---- names --------------------------------------------------------------------------------------------------------
 */

static bool find(struct schema_writer *w, const char *pattern, const char *name, bool *out)
{
    return automaton_matches(w, pattern, name, out);
}

/* Whether other keywords cover a name, so that additionalProperties or unevaluatedProperties does not apply to it. */
static bool names_already(struct schema_writer *w, const struct shape *shape, const struct limit *limit,
                          const char *name, bool *out)
{
    const char *pattern;
    json_t *value;
    *out = false;
    if (!limit->unevaluated) {
        *out = json_object_get(json_object_get(limit->owner, "properties"), name) != NULL;
        json_object_foreach(json_object_get(limit->owner, "patternProperties"), pattern,
                            value) if (!*out && !find(w, pattern, name, out)) return false;
        return true;
    }
    for (const struct limits *l = shape->limits; l && !*out; l = l->next) {
        if (l->limit == limit || !schema_follows_from(l->limit, limit->of))
            continue;
        if (l->limit->kind == LIMIT_PROPERTY)
            *out = strcmp(l->limit->name, name) == 0;
        else if (l->limit->kind == LIMIT_NAMED_LIKE && !find(w, l->limit->name, name, out))
            return false;
        else if (l->limit->kind == LIMIT_OTHERS)
            *out = l->limit->of != limit->of;
    }
    return true;
}

/* Finds whether a name is forbidden, and the goal of its value. */
static bool read_name(struct schema_writer *w, const struct shape *shape, const char *name, bool canonical,
                      bool *forbidden, struct goal **goal)
{
    struct literals *list = NULL;
    *forbidden = false;
    for (const struct limits *l = shape->limits; l; l = l->next) {
        const struct limit *limit = l->limit;
        bool speaks = false, keeps = true, named = false;
        w->at = limit->origin;
        if (limit->kind == LIMIT_PROPERTY) {
            speaks = strcmp(limit->name, name) == 0;
        } else if (limit->kind == LIMIT_REQUIRED) {
            *forbidden |= limit->negated && strcmp(limit->name, name) == 0;
        } else if (limit->kind == LIMIT_NAMED_LIKE) {
            if (!find(w, limit->name, name, &speaks))
                return false;
        } else if (limit->kind == LIMIT_OTHERS) {
            if (!names_already(w, shape, limit, name, &named))
                return false;
            speaks = !named;
        } else if (limit->kind == LIMIT_NAMES) {
            const json_t *text = schema_own(w, json_string(name));
            if (!text || !schema_check(w, limit->literal, text, &keeps))
                return false;
            *forbidden |= !keeps;
        }
        if (speaks && !(list = schema_add_literal(w, list, limit->literal)))
            return false;
    }
    return schema_find_goal(w, list, canonical, goal);
}

static struct member *find_member(const struct object_plan *p, const char *name)
{
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->members[i].name, name) == 0)
            return &p->members[i];
    return NULL;
}

static bool add_member(struct object_plan *p, const char *name, bool required)
{
    struct member *member = find_member(p, name);
    if (!member) {
        if (p->count == p->capacity) {
            size_t room = MAX(p->capacity * 2, 16u);
            struct member *more = schema_memory(p->w, room, sizeof *more);
            if (!more)
                return false;
            if (p->count)
                memcpy(more, p->members, p->count * sizeof *more);
            p->members = more;
            p->capacity = room;
        }
        if (p->count == MAX_NAMES)
            return schema_refuse(p->w, "the JSON schema lists more than 5000 %s", "properties");
        member = &p->members[p->count++];
        *member = (struct member){.name = name};
    }
    member->required |= required;
    return schema_work(p->w, p->count);
}

/* If propertyNames allows only certain names, adds them as listed properties. */
static bool add_listed_names(struct object_plan *p, struct goal *names, bool *listed)
{
    *listed = false;
    if (!schema_open_goal(p->w, names))
        return false;
    for (const struct shape *shape = names->shapes; shape; shape = shape->next)
        if (!shape->values && shape->types & TYPE_STRING)
            return true;
    *listed = true;
    for (const struct shape *shape = names->shapes; shape; shape = shape->next) {
        size_t i;
        json_t *value;
        json_array_foreach(shape->values, i, value)
        {
            if (json_is_string(value) && !add_member(p, json_string_value(value), false))
                return false;
        }
    }
    return true;
}

static int compare_members(const void *a, const void *b)
{
    return strcmp(((const struct member *)a)->name, ((const struct member *)b)->name);
}

/* Finds the goal that names must satisfy, or NULL. */
static bool names_goal(struct object_plan *p, const struct literal *also, struct goal **out)
{
    struct literals *list = NULL;
    *out = NULL;
    for (const struct limits *l = p->shape->limits; l; l = l->next)
        if (l->limit->kind == LIMIT_NAMES && !(list = schema_add_literal(p->w, list, l->limit->literal)))
            return false;
    if (also && !(list = schema_add_literal(p->w, list, *also)))
        return false;
    return !list || schema_find_goal(p->w, list, false, out);
}

static bool read_limits(struct object_plan *p, bool *empty)
{
    bool others = false, needs = false, listed = false;
    size_t required = 0, allowed = 0;
    struct goal *names;
    p->high = -1;
    for (const struct limits *l = p->shape->limits; l; l = l->next) {
        const struct limit *limit = l->limit;
        p->w->at = limit->origin;
        if (limit->kind == LIMIT_COUNT) {
            p->low = MAX(p->low, limit->low);
            p->high = p->high < 0 ? limit->high : limit->high < 0 ? p->high : MIN(p->high, limit->high);
        } else if (limit->kind >= LIMIT_SOME_NAMED_LIKE) {
            if (p->some)
                return schema_refuse(p->w, "the JSON schema requires several %s at once, which is not supported",
                                     "properties that break a rule");
            p->some = limit;
        }
        others |= limit->kind == LIMIT_OTHERS;
        needs |= limit->kind == LIMIT_REQUIRED && !limit->negated && !(limit->of && limit->of->negated);
        if (limit->kind == LIMIT_PROPERTY && !add_member(p, limit->name, false))
            return false;
    }
    for (const struct limits *l = p->shape->limits; l; l = l->next)
        if (l->limit->kind == LIMIT_REQUIRED && !add_member(p, l->limit->name, !l->limit->negated))
            return false;
    if (!names_goal(p, NULL, &names) || (names && !add_listed_names(p, names, &listed)))
        return false;
    p->open = !listed && (others || (!p->shape->lists && !needs));
    for (size_t i = 0; i < p->count && !*empty; i++) {
        struct member *member = &p->members[i];
        bool none;
        if (!read_name(p->w, p->shape, member->name, p->goal->canonical, &member->forbidden, &member->goal) ||
            (!member->forbidden && !schema_goal_is_empty(p->w, member->goal, &none)))
            return false;
        member->forbidden |= !member->forbidden && none;
        *empty = member->forbidden && member->required;
        required += member->required;
        allowed += !member->forbidden;
    }
    p->open |= !listed && p->low > (json_int_t)allowed;
    *empty |= p->high >= 0 && (p->low > p->high || (json_int_t)required > p->high);
    return true;
}

bool schema_object_is_empty(struct schema_writer *w, const struct goal *goal, const struct shape *shape, bool *empty)
{
    json_int_t low = 0, high = -1, required = 0;
    *empty = false;
    for (const struct limits *l = shape->limits; l && !*empty; l = l->next) {
        const struct limit *limit = l->limit;
        struct goal *value;
        bool forbidden;
        if (limit->kind == LIMIT_COUNT) {
            low = MAX(low, limit->low);
            high = high < 0 ? limit->high : limit->high < 0 ? high : MIN(high, limit->high);
        }
        if (limit->kind != LIMIT_REQUIRED || limit->negated)
            continue;
        required++;
        if (!read_name(w, shape, limit->name, goal->canonical, &forbidden, &value) ||
            (!forbidden && !schema_goal_is_empty(w, value, empty)))
            return false;
        *empty |= forbidden;
    }
    *empty |= high >= 0 && (low > high || required > high);
    return true;
}

/* ---- other names --------------------------------------------------------------------------------------------------
 */

struct other_names {
    struct object_plan *p;
    struct text_part parts[MAX_TEXT_PARTS];
    size_t count, patterns;     /* the first `patterns` parts decide which limits cover a name */
    uint32_t looked_at, wanted; /* masks of the other parts */
};

static bool add_part(struct other_names *o, struct text_part part)
{
    if (o->count == MAX_TEXT_PARTS)
        return schema_refuse(o->p->w, "the JSON schema puts more than %s on names", "32 limits");
    o->parts[o->count++] = part;
    return true;
}

static bool add_pattern(struct other_names *o, const char *pattern, struct origin origin)
{
    for (size_t i = 0; i < o->patterns; i++)
        if (strcmp(o->parts[i].pattern, pattern) == 0)
            return true;
    o->patterns++;
    return add_part(o, (struct text_part){.kind = TEXT_PATTERN, .pattern = pattern, .origin = origin});
}

static bool has_pattern(const struct other_names *o, uint32_t marks, const char *pattern)
{
    for (size_t i = 0; i < o->patterns; i++)
        if (strcmp(o->parts[i].pattern, pattern) == 0)
            return marks >> i & 1;
    return false;
}

static bool has_pattern_of(const struct other_names *o, uint32_t marks, const json_t *owner)
{
    const char *pattern;
    json_t *value;
    bool any = false;
    json_object_foreach(json_object_get(owner, "patternProperties"), pattern, value) any |=
        has_pattern(o, marks, pattern);
    return any;
}

/* Whether other keywords cover names with these marks, so that unevaluatedProperties does not apply to them. */
static bool are_evaluated(const struct other_names *o, uint32_t marks, const struct limit *limit)
{
    for (const struct limits *l = o->p->shape->limits; l; l = l->next)
        if (l->limit != limit && schema_follows_from(l->limit, limit->of) &&
            ((l->limit->kind == LIMIT_NAMED_LIKE && has_pattern(o, marks, l->limit->name)) ||
             (l->limit->kind == LIMIT_OTHERS && l->limit->of != limit->of)))
            return true;
    return false;
}

/* Finds the goal of the values of names with these marks. *allowed: whether such names may occur. */
static bool goal_of_marks(struct other_names *o, uint32_t marks, const struct literal *also, bool *allowed,
                          struct goal **goal)
{
    struct object_plan *p = o->p;
    struct literals *list = NULL;
    bool none;
    *allowed = p->open || also;
    for (const struct limits *l = p->shape->limits; l; l = l->next) {
        const struct limit *limit = l->limit;
        bool speaks = false;
        if (limit->kind == LIMIT_NAMED_LIKE)
            speaks = has_pattern(o, marks, limit->name);
        else if (limit->kind == LIMIT_OTHERS)
            speaks = limit->unevaluated ? !are_evaluated(o, marks, limit) : !has_pattern_of(o, marks, limit->owner);
        *allowed |= speaks;
        if (speaks && !(list = schema_add_literal(p->w, list, limit->literal)))
            return false;
    }
    if (also && !(list = schema_add_literal(p->w, list, *also)))
        return false;
    if (!schema_find_goal(p->w, list, p->goal->canonical, goal) || !schema_goal_is_empty(p->w, *goal, &none))
        return false;
    *allowed &= !none;
    return true;
}

static bool write_names(struct other_names *o, const struct automaton *a, uint32_t marks, struct goal *goal,
                        struct buffer *out)
{
    struct schema_writer *w = o->p->w;
    struct buffer name = {0}, member = {0};
    uint32_t looked_at = o->looked_at | ((1u << o->patterns) - 1);
    unsigned rule;
    bool empty = false;
    if (!automaton_write(w, a, looked_at, marks | o->wanted, true, &name, &empty) || empty) {
        buffer_free(&name);
        return empty;
    }
    if (!schema_text_rule(w, &name, &rule))
        return false;
    buffer_append_format(&member, "\"\\\"\" r%u \"\\\"\" ws \":\" ws ", rule);
    bool fine = schema_write_goal(w, goal, &member);
    buffer_append_string(&member, " ws");
    fine = fine && schema_text_rule(w, &member, &rule);
    buffer_free(&member);
    buffer_append_format(out, out->size ? " | r%u" : "r%u", rule);
    return fine;
}

/* Writes the names of one shape of the names' goal: appends their members to *out or, if the names are few, lists them
 * as properties. */
static bool write_others(struct other_names *o, const struct limit *some, struct buffer *out)
{
    struct object_plan *p = o->p;
    struct automaton a;
    struct goal *goal;
    const struct literal *also = some && some->kind != LIMIT_SOME_NAME ? &some->literal : NULL;
    uint32_t mask = (1u << o->patterns) - 1;
    uint32_t *seen;
    size_t seen_count = 0;
    if (!automaton_build(p->w, o->parts, o->count, &a) || !(seen = schema_memory(p->w, a.states, sizeof *seen)))
        return false;
    for (uint32_t i = 0; i < a.states; i++) {
        uint32_t marks = a.marks[i] & mask;
        bool known = (a.marks[i] & o->looked_at) != o->wanted, allowed;
        for (size_t k = 0; k < seen_count && !known; k++)
            known = seen[k] == marks;
        if (known)
            continue;
        seen[seen_count++] = marks;
        if (some && ((some->kind == LIMIT_SOME_NAMED_LIKE && !has_pattern(o, marks, some->name)) ||
                     (some->kind == LIMIT_SOME_OTHER && has_pattern_of(o, marks, some->owner))))
            continue;
        if (!goal_of_marks(o, marks, some && !also ? &(struct literal){.schema = json_true()} : also, &allowed, &goal))
            return false;
        if (!allowed)
            continue;
        const char *few[FEW_NAMES];
        size_t count = FEW_NAMES + 1;
        if (!some && o->patterns &&
            !automaton_list(p->w, &a, o->looked_at | mask, marks | o->wanted, few, FEW_NAMES, &count))
            return false;
        for (size_t k = 0; count <= FEW_NAMES && k < count; k++) {
            if (!add_member(p, few[k], false))
                return false;
            find_member(p, few[k])->goal = goal;
        }
        if (count > FEW_NAMES && !p->goal->canonical && !write_names(o, &a, marks, goal, out))
            return false;
    }
    return schema_work(p->w, (uint64_t)seen_count * seen_count);
}

static bool write_names_of_shape(struct object_plan *p, const struct shape *names, const struct limit *some,
                                 size_t excluded, struct buffer *out)
{
    struct other_names o = {.p = p};
    struct buffer pattern = {0};
    const char *key;
    json_t *value;
    for (const struct limits *l = p->shape->limits; l; l = l->next)
        if (l->limit->kind == LIMIT_NAMED_LIKE && !add_pattern(&o, l->limit->name, l->limit->origin))
            return false;
    if (some && some->kind == LIMIT_SOME_NAMED_LIKE && !add_pattern(&o, some->name, some->origin))
        return false;
    if (some && some->kind == LIMIT_SOME_OTHER)
        json_object_foreach(json_object_get(some->owner, "patternProperties"), key,
                            value) if (!add_pattern(&o, key, some->origin)) return false;
    if (excluded) {
        for (size_t i = 0; i < excluded; i++) {
            buffer_append_string(&pattern, i ? "|" : "^(?:");
            schema_quote(&pattern, p->members[i].name);
        }
        buffer_append_string(&pattern, ")$");
        const char *copy = pattern.failed ? NULL : schema_copy_text(p->w, pattern.data, pattern.size);
        buffer_free(&pattern);
        if (!copy)
            return schema_no_memory(p->w);
        if (!add_part(&o, (struct text_part){.kind = TEXT_PATTERN, .pattern = copy, .forbidden = true}))
            return false;
    }
    if (names && !schema_string_parts(p->w, names, o.parts, &o.count))
        return false;
    for (size_t i = o.patterns; i < o.count; i++) {
        o.looked_at |= 1u << i;
        o.wanted |= (uint32_t)o.parts[i].required << i;
    }
    if (o.count)
        return write_others(&o, some, out);
    /* Any name. */
    struct goal *goal;
    struct buffer member = {0};
    struct literal any = {.schema = json_true()};
    unsigned rule = 0;
    bool allowed;
    if (!goal_of_marks(&o, 0, some ? (some->kind == LIMIT_SOME_NAME ? &any : &some->literal) : NULL, &allowed, &goal))
        return false;
    if (!allowed || p->goal->canonical)
        return true;
    if (schema_goal_is_any(goal)) {
        buffer_append_string(out, "member");
        return true;
    }
    buffer_append_string(&member, "string ws \":\" ws ");
    bool fine = schema_write_goal(p->w, goal, &member);
    buffer_append_string(&member, " ws");
    fine = fine && schema_text_rule(p->w, &member, &rule);
    buffer_append_format(out, "r%u", rule);
    return fine;
}

/* Writes the members that are not listed; with `some`, only those that satisfy it. */
static bool write_free(struct object_plan *p, const struct limit *some, struct buffer *out)
{
    struct goal *names;
    size_t excluded = p->count; /* p->count may grow below */
    if (!names_goal(p, some && some->kind == LIMIT_SOME_NAME ? &some->literal : NULL, &names))
        return false;
    if (!names)
        return write_names_of_shape(p, NULL, some, excluded, out);
    if (!schema_open_goal(p->w, names))
        return false;
    for (const struct shape *shape = names->shapes; shape; shape = shape->next)
        if (!shape->values && shape->types & TYPE_STRING && !write_names_of_shape(p, shape, some, excluded, out))
            return false;
    return true;
}

/* ---- members ------------------------------------------------------------------------------------------------------
 */

static bool write_member(struct object_plan *p, const struct member *member, unsigned *rule)
{
    struct buffer body = {0};
    json_t *name = json_string(member->name);
    bool fine = name ? schema_write_constant(p->w, name, p->goal->canonical, &body) : schema_no_memory(p->w);
    json_decref(name);
    buffer_append_string(&body, " ws \":\" ws ");
    fine = fine && schema_write_goal(p->w, member->goal, &body);
    buffer_append_string(&body, " ws");
    if (fine)
        return schema_text_rule(p->w, &body, rule);
    buffer_free(&body);
    return false;
}

/* Writes what may follow the listed properties, of which `count` were written. */
static void write_tail(const struct object_plan *p, json_int_t count, unsigned free, unsigned first, struct buffer *e)
{
    json_int_t low = MAX(p->low - count, 0), high = p->high < 0 ? -1 : MAX(p->high - count, 0);
    const char *comma = count ? "\",\" ws " : "";
    if (p->some) {
        if (high == 0) {
            buffer_append_string(e, "[]");
            return;
        }
        buffer_append_format(e, "%sr%u", comma, first);
        if (p->free.size) {
            buffer_append_format(e, " (\",\" ws r%u)", free);
            schema_write_repeat(e, MAX(low - 1, 0), high < 0 ? -1 : high - 1);
        } else if (low > 1) {
            buffer_append_string(e, " []");
        }
    } else if (!p->free.size || high == 0) {
        buffer_append_string(e, low ? "[]" : "\"\"");
    } else if (count) {
        buffer_append_format(e, "(\",\" ws r%u)", free);
        schema_write_repeat(e, low, high);
    } else {
        buffer_append_format(e, "(r%u (\",\" ws r%u)", free, free);
        schema_write_repeat(e, MAX(low - 1, 0), high < 0 ? -1 : high - 1);
        buffer_append_string(e, low ? ")" : ")?");
    }
}

/* Writes a rule for each position in the list and each count of properties so far, up to the largest count that
 * matters. */
static bool write_members(struct object_plan *p, struct buffer *e)
{
    struct schema_writer *w = p->w;
    json_int_t cap = MAX(MAX(p->high, p->low), (json_int_t)1);
    size_t kept = 0, width = (size_t)cap + 1;
    unsigned free = 0, first = 0, *rules, *next;
    for (size_t i = 0; i < p->count; i++)
        if (!p->members[i].forbidden)
            p->members[kept++] = p->members[i];
    p->count = kept;
    if (p->goal->canonical && kept)
        qsort(p->members, kept, sizeof *p->members, compare_members);
    if (p->high > (json_int_t)kept && !p->free.size && !p->some) { /* too few properties to exceed the maximum */
        p->high = -1;
        cap = MAX(p->low, (json_int_t)1);
        width = (size_t)cap + 1;
    }
    if ((p->count + 1) * width > MAX_GRID)
        return schema_refuse(w, "the JSON schema counts properties up to %lld, which is too many to enforce",
                             (long long)cap);
    if (p->free.size) {
        struct buffer copy = {0};
        buffer_append(&copy, p->free.data, p->free.size);
        if (!schema_text_rule(w, &copy, &free))
            return false;
    }
    if (p->first.size) {
        struct buffer copy = {0};
        buffer_append(&copy, p->first.data, p->first.size);
        if (!schema_text_rule(w, &copy, &first))
            return false;
    }
    if (!(rules = schema_memory(w, width, sizeof *rules)) || !(next = schema_memory(w, width, sizeof *next)))
        return false;
    for (size_t c = 0; c < width; c++) {
        struct buffer body = {0};
        write_tail(p, (json_int_t)c, free, first, &body);
        if (!schema_text_rule(w, &body, &next[c]))
            return false;
    }
    for (size_t i = p->count; i-- > 0;) {
        unsigned member;
        if (!write_member(p, &p->members[i], &member))
            return false;
        for (size_t c = 0; c < width && c <= i; c++) {
            struct buffer body = {0};
            bool takes = p->high < 0 || (json_int_t)c < p->high;
            if (takes)
                buffer_append_format(&body, "%sr%u r%u", c ? "\",\" ws " : "", member, next[MIN(c + 1, (size_t)cap)]);
            if (!p->members[i].required)
                buffer_append_format(&body, takes ? " | r%u" : "r%u", next[c]);
            else if (!takes)
                buffer_append_string(&body, "[]");
            if (!schema_text_rule(w, &body, &rules[c]))
                return false;
        }
        memcpy(next, rules, width * sizeof *next);
    }
    buffer_append_format(e, p->distinct ? "\"{\" !names ws r%u \"}\"" : "\"{\" ws r%u \"}\"", next[0]);
    return true;
}

/* Writes the objects in which a listed property satisfies `some`. */
static bool write_some_listed(struct object_plan *p, struct buffer *e)
{
    const struct limit *some = p->some;
    size_t count = p->count;
    for (size_t i = 0; i < count; i++) {
        const char *name = p->members[i].name;
        bool fits = !p->members[i].forbidden, named;
        struct shape with = *p->shape;
        with.limits = NULL;
        if (!fits)
            continue;
        if (some->kind == LIMIT_SOME_NAME) {
            const json_t *text = schema_own(p->w, json_string(name));
            if (!text || !schema_check(p->w, some->literal, text, &fits))
                return false;
        } else if (some->kind == LIMIT_SOME_NAMED_LIKE) {
            if (!find(p->w, some->name, name, &fits))
                return false;
        } else {
            if (!names_already(p->w, p->shape, some, name, &named))
                return false;
            fits = !named;
        }
        if (!fits)
            continue;
        struct limit there = {.kind = LIMIT_REQUIRED, .name = name, .of = some->of, .origin = some->origin};
        struct limit value = {
            .kind = LIMIT_PROPERTY, .name = name, .literal = some->literal, .of = some->of, .origin = some->origin};
        struct limits **end = &with.limits;
        for (const struct limits *l = p->shape->limits; l; l = l->next)
            if (l->limit != some) {
                if (!(*end = schema_new_limit(p->w, *l->limit, NULL)))
                    return false;
                end = &(*end)->next;
            }
        if (!(*end = schema_new_limit(p->w, there, NULL)) ||
            (some->kind != LIMIT_SOME_NAME && !((*end)->next = schema_new_limit(p->w, value, NULL))))
            return false;
        struct buffer way = {0};
        bool fine = schema_write_object(p->w, p->goal, &with, &way);
        if (way.size)
            buffer_append_string(e, e->size ? " | " : "");
        buffer_append(e, way.data ? way.data : "", way.size);
        e->failed |= way.failed;
        buffer_free(&way);
        if (!fine)
            return false;
    }
    return true;
}

static bool write_plan(struct object_plan *p, struct buffer *e)
{
    if (p->some) {
        if (!write_some_listed(p, e) || !write_free(p, p->some, &p->first))
            return false;
        if (!p->first.size)
            return true;
        buffer_append_string(e, e->size ? " | " : "");
    }
    if (!write_free(p, NULL, &p->free))
        return false;
    p->distinct = p->some || (p->low > 1 && p->free.size);
    return write_members(p, e);
}

bool schema_write_object(struct schema_writer *w, const struct goal *goal, const struct shape *shape, struct buffer *e)
{
    struct object_plan p = {.w = w, .goal = goal, .shape = shape};
    bool any = true, empty = false;
    for (const struct limits *l = shape->limits; l; l = l->next)
        any &= l->limit->kind < LIMIT_COUNT;
    if (any) {
        buffer_append_string(e, goal->canonical ? "oneobject" : "object");
        return true;
    }
    if (!read_limits(&p, &empty))
        return false;
    bool fine = empty || write_plan(&p, e);
    if (p.free.failed || p.first.failed)
        fine = schema_no_memory(w);
    buffer_free(&p.free);
    buffer_free(&p.first);
    return fine;
}
