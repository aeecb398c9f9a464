/* Writes the arrays of a JSON schema as GBNF. */
#include "grammar/schema_private.h"

#include <string.h>

#define MAX_CONTAINS 4
#define MAX_GRID 3000
#define FEW 100 /* with fewer values, unique items could run out */

struct array_plan {
    struct schema_writer *w;
    const struct goal *goal;
    const struct shape *shape;
    bool canonical, unique, more;
    struct origin unique_origin;
    json_int_t low, high, fixed; /* fixed: items from this index on share one goal */
    const struct limit *contains[MAX_CONTAINS];
    size_t contains_count;
    struct goal **items; /* [fixed + 1] the goal of each item */
};

bool schema_follows_from(const struct limit *limit, const struct literal *from)
{
    for (const struct literal *p = limit->of; p && !p->negated; p = p->parent)
        if (p->schema == from->schema)
            return true;
    return false;
}

/* Returns the first item that an unevaluatedItems applies to; -1: it applies to none. */
static json_int_t first_unevaluated(const struct array_plan *p, const struct limit *limit)
{
    json_int_t first = 0;
    for (const struct limits *l = p->shape->limits; l; l = l->next) {
        if (l->limit == limit || !schema_follows_from(l->limit, limit->of))
            continue;
        if (l->limit->kind == LIMIT_ITEM)
            first = MAX(first, l->limit->low + 1);
        else if (l->limit->kind == LIMIT_ITEMS && !(l->limit->unevaluated && l->limit->of == limit->of))
            return -1;
    }
    return first;
}

static json_int_t first_of(const struct array_plan *p, const struct limit *limit)
{
    return limit->unevaluated ? first_unevaluated(p, limit) : limit->low;
}

static struct literals *item_literals(const struct array_plan *p, json_int_t index, bool *fine)
{
    struct literals *list = NULL;
    for (const struct limits *l = p->shape->limits; l && *fine; l = l->next) {
        json_int_t first = l->limit->kind == LIMIT_ITEMS ? first_of(p, l->limit) : -1;
        if ((l->limit->kind == LIMIT_ITEM && l->limit->low == index) || (first >= 0 && index >= first))
            *fine = (list = schema_add_literal(p->w, list, l->limit->literal)) != NULL;
    }
    return list;
}

/* Counts the values that satisfy a goal, if that is easy. *out is -1 if there are many or the count is unknown. */
static bool count_values(struct schema_writer *w, struct goal *goal, json_int_t *out)
{
    *out = -1;
    json_int_t count = 0;
    if (schema_goal_is_any(goal))
        return true;
    if (!schema_open_goal(w, goal))
        return false;
    unsigned types = 0;
    for (const struct shape *shape = goal->shapes; shape; shape = shape->next) {
        if (shape->values)
            count += (json_int_t)json_array_size(shape->values);
        else if (shape->types & ~(unsigned)(TYPE_NULL | TYPE_BOOLEAN))
            return true;
        else
            types |= shape->types;
    }
    *out = count + (types & TYPE_NULL ? 1 : 0) + (types & TYPE_BOOLEAN ? 2 : 0);
    return true;
}

static bool read_limits(struct array_plan *p, bool *empty)
{
    json_int_t prefix = 0;
    bool given = false, fine = true;
    p->high = -1;
    for (const struct limits *l = p->shape->limits; l; l = l->next) {
        const struct limit *limit = l->limit;
        json_int_t first = 0;
        p->w->at = limit->origin;
        if (limit->kind == LIMIT_SIZE) {
            p->low = MAX(p->low, limit->low);
            p->high = p->high < 0 ? limit->high : limit->high < 0 ? p->high : MIN(p->high, limit->high);
        } else if (limit->kind == LIMIT_ITEM) {
            first = limit->low + 1;
            if (!limit->of || !limit->of->negated)
                prefix = MAX(prefix, first);
        } else if (limit->kind == LIMIT_ITEMS) {
            first = first_of(p, limit);
            given = true;
        } else if (limit->kind == LIMIT_CONTAINS) {
            if (p->contains_count == MAX_CONTAINS)
                return schema_refuse(p->w, "the JSON schema has more than four \"%s\" for one array", "contains");
            struct goal *goal;
            bool none;
            p->contains[p->contains_count++] = limit;
            first = limit->from;
            if (!schema_goal_of(p->w, limit->literal, NULL, p->canonical, &goal) ||
                !schema_goal_is_empty(p->w, goal, &none))
                return false;
            *empty |= none && limit->low > 0;
        } else if (limit->kind == LIMIT_UNIQUE) {
            p->unique = true;
            p->unique_origin = limit->origin;
        }
        p->fixed = MAX(p->fixed, first);
    }
    if (p->fixed > 1000)
        return schema_refuse(p->w, "the JSON schema lists more than 1000 %s", "items");
    p->more = given || !p->shape->listed_items || p->low > prefix || p->contains_count;
    if (!p->more)
        p->high = p->high < 0 ? p->fixed : MIN(p->high, p->fixed);
    p->items = schema_memory(p->w, (size_t)p->fixed + 1, sizeof(struct goal *));
    if (!p->items)
        return false;
    for (json_int_t i = 0; i <= p->fixed; i++) {
        const struct literals *list = item_literals(p, i, &fine);
        bool none;
        if (!fine || !schema_find_goal(p->w, list, p->canonical, &p->items[i]) ||
            !schema_goal_is_empty(p->w, p->items[i], &none))
            return false;
        if (none)
            p->high = p->high < 0 ? i : MIN(p->high, i);
    }
    if (p->shape->listed_items && !p->contains_count) /* prefixItems are written completely */
        p->low = MAX(p->low, p->high < 0 ? prefix : MIN(prefix, p->high));
    *empty |= p->high >= 0 && p->low > p->high;
    return true;
}

static bool has_many(struct schema_writer *w, struct goal *goal, int depth, bool *out);

/* Whether certainly more values satisfy a shape than an array can have items. */
static bool shape_has_many(struct schema_writer *w, const struct goal *goal, const struct shape *shape, int depth,
                           bool *out)
{
    struct text_part parts[MAX_TEXT_PARTS];
    struct automaton a;
    bool low = false, high = false, size = false;
    size_t count = 0, found = 0;
    uint32_t looked_at = 0, wanted = 0;
    for (const struct limits *l = shape->limits; l; l = l->next) {
        enum limit_kind kind = l->limit->kind;
        low |= kind == LIMIT_LEAST;
        high |= kind == LIMIT_MOST;
        size |= kind == LIMIT_MULTIPLE || (kind >= LIMIT_SIZE && kind <= LIMIT_UNIQUE);
    }
    *out = !shape->values &&
           ((shape->types & TYPE_NUMBER && !(low && high) && !size) || (shape->types & TYPE_ARRAY && !size));
    if (*out || shape->values)
        return true;
    if (shape->types & TYPE_STRING) {
        if (!schema_string_parts(w, shape, parts, &count))
            return false;
        for (size_t i = 0; i < count; i++) {
            looked_at |= 1u << i;
            wanted |= (uint32_t)parts[i].required << i;
        }
        if (count &&
            (!automaton_build(w, parts, count, &a) || !automaton_list(w, &a, looked_at, wanted, NULL, 0, &found)))
            return false;
        const char *texts[FEW];
        if (count && found && !automaton_list(w, &a, looked_at, wanted, texts, FEW, &found))
            return false;
        *out = count == 0 || found > FEW;
    }
    for (const struct limits *l = shape->limits; l && !*out && shape->types & TYPE_OBJECT; l = l->next) {
        struct goal *value;
        if (l->limit->kind == LIMIT_PROPERTY && (!schema_goal_of(w, l->limit->literal, NULL, goal->canonical, &value) ||
                                                 !has_many(w, value, depth + 1, out)))
            return false;
    }
    return true;
}

static bool has_many(struct schema_writer *w, struct goal *goal, int depth, bool *out)
{
    *out = schema_goal_is_any(goal);
    if (*out || depth > 4)
        return true;
    if (!schema_open_goal(w, goal))
        return false;
    for (const struct shape *shape = goal->shapes; shape && !*out; shape = shape->next)
        if (!shape_has_many(w, goal, shape, depth, out))
            return false;
    return true;
}

/* Checks that enough values are left for each item, however the previous items were chosen. */
static bool check_unique(struct array_plan *p, bool *empty)
{
    for (json_int_t i = 0; i <= p->fixed && !*empty; i++) {
        json_int_t count;
        bool many;
        if (p->high >= 0 && i >= p->high)
            break;
        if (!count_values(p->w, p->items[i], &count) || !has_many(p->w, p->items[i], 0, &many))
            return false;
        json_int_t needed = i < p->fixed ? i + 1 : p->low; /* this many values are needed */
        if (many || needed <= 1 || count >= needed)
            continue;
        *empty = count >= 0 && p->fixed == 0;
        p->w->at = p->unique_origin;
        if (!*empty)
            return schema_refuse(p->w, "the \"%s\" of the JSON schema is not supported where few values are allowed",
                                 "uniqueItems");
    }
    return true;
}

/* ---- without contains ---------------------------------------------------------------------------------------------
 */

static bool write_plain(struct array_plan *p, struct buffer *e)
{
    struct buffer tail = {0}, item = {0};
    bool fine = true, open = p->more && (p->high < 0 || p->high > p->fixed);
    if (open) {
        json_int_t low = MAX(p->low - p->fixed, 0), high = p->high < 0 ? -1 : p->high - p->fixed;
        unsigned rule = 0;
        if (low > 100000)
            return schema_refuse(p->w, "the \"%s\" of the JSON schema is more than 100000", "minItems");
        high = MIN(high, 100000);
        fine = schema_write_goal(p->w, p->items[p->fixed], &item);
        buffer_append_string(&item, " ws");
        fine = fine && schema_text_rule(p->w, &item, &rule);
        if (p->fixed) {
            buffer_append_format(&tail, "(\",\" ws r%u)", rule);
            schema_write_repeat(&tail, low, high);
        } else {
            buffer_append_format(&tail, "(r%u (\",\" ws r%u)", rule, rule);
            schema_write_repeat(&tail, MAX(low - 1, 0), high < 0 ? -1 : high - 1);
            buffer_append_string(&tail, low ? ")" : ")?");
        }
    }
    json_int_t last = p->high < 0 ? p->fixed : MIN(p->fixed, p->high);
    for (json_int_t i = last; i-- > 0 && fine;) {
        struct buffer whole = {0};
        unsigned rule = 0;
        buffer_append_string(&whole, i ? "\",\" ws " : "");
        fine = schema_write_goal(p->w, p->items[i], &whole);
        buffer_append_string(&whole, " ws ");
        buffer_append(&whole, tail.data ? tail.data : "", tail.size);
        whole.failed |= tail.failed;
        buffer_free(&tail);
        tail = (struct buffer){0};
        if (i >= p->low) {
            fine = fine && schema_text_rule(p->w, &whole, &rule);
            buffer_append_format(&tail, "r%u?", rule);
        } else {
            tail = whole;
        }
    }
    buffer_append_string(e, p->unique ? "\"[\" !items ws " : "\"[\" ws ");
    buffer_append(e, tail.data ? tail.data : "", tail.size);
    buffer_append_string(e, " \"]\"");
    e->failed |= tail.failed;
    buffer_free(&tail);
    return fine;
}

/* ---- with contains ------------------------------------------------------------------------------------------------
 */

/* A cell of the grid stands for how many items were written, and how many of them each "contains" counts. */
struct grid {
    struct array_plan *p;
    json_int_t caps[MAX_CONTAINS], cap; /* higher counts share a cell */
    unsigned *rules;                    /* [cells] the rule + 1, or 0 */
    json_int_t *waiting, waiting_count;
};

static bool ask(struct grid *g, json_int_t at, unsigned *rule)
{
    if (!g->rules[at]) {
        g->rules[at] = schema_new_rule(g->p->w) + 1;
        g->waiting[g->waiting_count++] = at;
    }
    *rule = g->rules[at] - 1;
    return true;
}

/* Writes an item that the "contains" in the bit set `counted` count, and the others that have a maximum do not. */
static bool write_step(struct grid *g, json_int_t index, const json_int_t *counts, unsigned counted, struct buffer *e)
{
    struct array_plan *p = g->p;
    bool fine = true, none;
    struct literals *list = item_literals(p, MIN(index, p->fixed), &fine);
    json_int_t next = index < g->cap ? index + 1 : index;
    for (size_t j = 0; j < p->contains_count && fine; j++) {
        const struct limit *c = p->contains[j];
        bool on = counted >> j & 1, bounded = c->high >= 0, here = index >= c->from;
        json_int_t count = counts[j] + on;
        if (on && (!here || (bounded ? count > c->high : counts[j] == g->caps[j])))
            return true; /* impossible, or no different from not counting it */
        next = next * (g->caps[j] + 1) + count;
        struct literal literal = c->literal;
        literal.negated = on ? literal.negated : !literal.negated;
        if (on || (bounded && here))
            fine = (list = schema_add_literal(p->w, list, literal)) != NULL;
    }
    struct goal *goal;
    unsigned rule;
    if (!fine || !schema_find_goal(p->w, list, p->canonical, &goal) || !schema_goal_is_empty(p->w, goal, &none))
        return false;
    if (none)
        return true;
    buffer_append_string(e, e->size ? " | " : "");
    buffer_append_string(e, index ? "\",\" ws " : "");
    fine = schema_write_goal(p->w, goal, e) && ask(g, next, &rule);
    if (fine)
        buffer_append_format(e, " ws r%u", rule);
    return fine;
}

static bool write_cell(struct grid *g, json_int_t at)
{
    struct array_plan *p = g->p;
    struct buffer e = {0};
    json_int_t counts[MAX_CONTAINS], index = at;
    bool ends = true, fine = true;
    for (size_t j = p->contains_count; j-- > 0;) {
        counts[j] = index % (g->caps[j] + 1);
        index /= g->caps[j] + 1;
        ends = ends && counts[j] >= p->contains[j]->low;
    }
    if (p->high < 0 || index < p->high)
        for (unsigned counted = 0; counted < 1u << p->contains_count && fine; counted++)
            fine = write_step(g, index, counts, counted, &e);
    if (ends && index >= p->low)
        buffer_append_string(&e, e.size ? " | \"\"" : "\"\"");
    if (!e.size)
        buffer_append_string(&e, "[]");
    if (fine)
        return schema_end_rule(p->w, g->rules[at] - 1, &e);
    buffer_free(&e);
    return false;
}

static bool write_grid(struct array_plan *p, struct buffer *e)
{
    struct grid g = {.p = p, .cap = MAX(MAX(p->fixed, p->low), MAX(p->high, (json_int_t)1))};
    json_int_t cells = g.cap + 1;
    unsigned rule;
    for (size_t j = 0; j < p->contains_count; j++) {
        g.caps[j] = MAX(p->contains[j]->high, p->contains[j]->low);
        p->w->at = p->contains[j]->origin;
        if (g.caps[j] > MAX_GRID || cells > MAX_GRID || (cells *= g.caps[j] + 1) > MAX_GRID)
            return schema_refuse(p->w, "the counts of \"%s\" in the JSON schema are too large to enforce", "contains");
    }
    g.rules = schema_memory(p->w, (size_t)cells, sizeof *g.rules);
    g.waiting = schema_memory(p->w, (size_t)cells, sizeof *g.waiting);
    if (!g.rules || !g.waiting || !ask(&g, 0, &rule))
        return false;
    buffer_append_format(e, p->unique ? "\"[\" !items ws r%u \"]\"" : "\"[\" ws r%u \"]\"", rule);
    while (g.waiting_count)
        if (!write_cell(&g, g.waiting[--g.waiting_count]))
            return false;
    return true;
}

bool schema_array_is_empty(struct schema_writer *w, const struct goal *goal, const struct shape *shape, bool *empty)
{
    struct array_plan p = {.w = w, .goal = goal, .shape = shape, .canonical = goal->canonical};
    *empty = false;
    for (const struct limits *l = shape->limits; l; l = l->next)
        if (l->limit->kind >= LIMIT_SIZE && l->limit->kind <= LIMIT_UNIQUE)
            return read_limits(&p, empty);
    return true;
}

bool schema_write_array(struct schema_writer *w, const struct goal *goal, const struct shape *shape, struct buffer *e)
{
    struct array_plan p = {.w = w, .goal = goal, .shape = shape, .canonical = goal->canonical};
    bool empty = false, any = true;
    for (const struct limits *l = shape->limits; l; l = l->next) {
        enum limit_kind kind = l->limit->kind;
        any &= kind < LIMIT_SIZE || kind > LIMIT_UNIQUE;
        p.canonical |= kind == LIMIT_UNIQUE; /* items are compared by their texts */
    }
    if (any) {
        buffer_append_string(e, goal->canonical ? "onearray" : "array");
        return true;
    }
    if (!read_limits(&p, &empty) || (p.unique && !empty && !check_unique(&p, &empty)))
        return false;
    return empty || (p.contains_count ? write_grid(&p, e) : write_plain(&p, e));
}
