/* Combines limits on a text. Each limit becomes a deterministic automaton over classes of characters; their product
 * tells which limits a text satisfies. */
#include "grammar/schema_private.h"

#include <stdlib.h>
#include <string.h>

#define MAX_CLASSES 1000
#define MAX_NODES 30000
#define MAX_PART_STATES 20000
#define MAX_STATES 20000
#define LAST_CODE 0x10ffffu

/* The complete automaton of one part. No text satisfies the part once it is in state 0. */
struct component {
    uint32_t states, capacity, classes;
    uint32_t *next; /* [states][classes] */
    bool *keeps;
};

/* A hash table of numbers with open addressing; 0 marks an empty slot. */
struct slots {
    uint32_t *list, size;
};

/* Makes room for count + 1 numbers. *fresh: the table was replaced by an empty one, so the caller inserts all again. */
static bool make_room(struct schema_writer *w, struct slots *slots, uint32_t count, bool *fresh)
{
    *fresh = count * 2 + 2 > slots->size;
    if (!*fresh)
        return true;
    memory_free(slots->list);
    slots->size = MAX(slots->size * 2, 128u);
    return ALLOCATE(&slots->list, slots->size, "JSON schema", w->error) == HYPURA_OK;
}

static void put(struct slots *slots, uint64_t hash, uint32_t number)
{
    uint32_t slot = (uint32_t)hash & (slots->size - 1);
    while (slots->list[slot])
        slot = (slot + 1) & (slots->size - 1);
    slots->list[slot] = number;
}

/* ---- classes of characters ----------------------------------------------------------------------------------------
 */

struct cuts {
    uint32_t codes[MAX_CLASSES];
    size_t count;
    uint32_t common[0x3000 / 32]; /* bit set of the cuts below 0x3000 */
    bool failed;
};

static void cut(struct cuts *cuts, uint32_t code)
{
    if (code > LAST_CODE)
        return;
    if (code < 0x3000) {
        if (cuts->common[code / 32] >> (code % 32) & 1)
            return;
        cuts->common[code / 32] |= 1u << (code % 32);
    } else {
        for (size_t i = 0; i < cuts->count; i++)
            if (cuts->codes[i] == code)
                return;
    }
    if (cuts->count == MAX_CLASSES)
        cuts->failed = true;
    else
        cuts->codes[cuts->count++] = code;
}

static void cut_pattern(struct cuts *cuts, const struct pattern_node *node)
{
    for (uint32_t i = 0; i < node->range_count; i++) {
        cut(cuts, node->ranges[i].low);
        cut(cuts, node->ranges[i].high + 1);
    }
    for (const struct pattern_node *child = node->first; child; child = child->next)
        cut_pattern(cuts, child);
}

static int compare_codes(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Divides the characters into classes that no part distinguishes further. */
static bool make_classes(struct schema_writer *w, const struct text_part *parts, struct pattern_node **trees,
                         size_t count, struct automaton *a)
{
    struct cuts cuts = {.count = 0};
    cut(&cuts, 0);
    cut(&cuts, 0xd800); /* surrogates are not characters */
    cut(&cuts, 0xe000);
    for (size_t i = 0; i < count; i++) {
        if (parts[i].kind == TEXT_PATTERN)
            cut_pattern(&cuts, trees[i]);
        for (uint32_t c = '-'; c <= '9' + 1 && parts[i].kind == TEXT_MULTIPLE; c++)
            cut(&cuts, c);
    }
    if (cuts.failed)
        return schema_refuse(w, "the patterns of the JSON schema distinguish %s", "too many characters");
    qsort(cuts.codes, cuts.count, sizeof *cuts.codes, compare_codes);
    a->classes = (uint32_t)cuts.count;
    a->starts = schema_memory(w, cuts.count + 1, sizeof *a->starts);
    if (!a->starts)
        return false;
    memcpy(a->starts, cuts.codes, cuts.count * sizeof *cuts.codes);
    a->starts[cuts.count] = LAST_CODE + 1;
    return true;
}

static uint32_t class_of(const struct automaton *a, uint32_t code)
{
    uint32_t low = 0, high = a->classes;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (a->starts[middle] <= code)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static bool add_state(struct schema_writer *w, struct component *c, bool keeps, uint32_t *out)
{
    if (c->states == MAX_PART_STATES)
        return schema_refuse(w, "a pattern or a length of the JSON schema is %s", "too large to enforce");
    if (c->states == c->capacity) {
        uint32_t room = MAX(c->capacity * 2, 64u);
        uint32_t *next = schema_memory(w, (size_t)room * c->classes, sizeof *next);
        bool *all = schema_memory(w, room, sizeof *all);
        if (!next || !all)
            return false;
        if (c->states) {
            memcpy(next, c->next, (size_t)c->states * c->classes * sizeof *next);
            memcpy(all, c->keeps, c->states * sizeof *all);
        }
        c->next = next;
        c->keeps = all;
        c->capacity = room;
    }
    c->keeps[c->states] = keeps;
    *out = c->states++;
    return schema_work(w, c->classes);
}

/* ---- patterns -----------------------------------------------------------------------------------------------------
 */

enum node_kind { NODE_SET, NODE_SPLIT, NODE_START, NODE_END, NODE_MATCH };

struct node {
    enum node_kind kind;
    const struct pattern_node *set;
    uint32_t next, other;
};

struct nodes {
    struct schema_writer *w;
    struct node *list;
    uint32_t count, capacity;
};

static bool add_node(struct nodes *n, struct node node, uint32_t *out)
{
    if (n->count == MAX_NODES)
        return schema_refuse(n->w, "a pattern of the JSON schema is %s", "too large to enforce");
    if (grammar_grow((void **)&n->list, n->count, &n->capacity, sizeof *n->list, MAX_NODES, n->w->error) != HYPURA_OK)
        return false;
    n->list[n->count] = node;
    *out = n->count++;
    return schema_work(n->w, 1);
}

static bool add_tree(struct nodes *n, const struct pattern_node *node, uint32_t next, uint32_t *out);

static bool add_repeat(struct nodes *n, const struct pattern_node *node, uint32_t next, uint32_t *out)
{
    uint32_t body;
    *out = next;
    if (node->high == REPEAT_UNBOUNDED) {
        if (!add_node(n, (struct node){NODE_SPLIT, NULL, next, next}, out) || !add_tree(n, node->first, *out, &body))
            return false;
        n->list[*out].other = body;
    } else {
        for (uint32_t i = node->low; i < node->high; i++)
            if (!add_tree(n, node->first, *out, &body) ||
                !add_node(n, (struct node){NODE_SPLIT, NULL, body, next}, out))
                return false;
    }
    for (uint32_t i = 0; i < node->low; i++)
        if (!add_tree(n, node->first, *out, out))
            return false;
    return true;
}

/* Adds the children of a sequence, the last one first, because each leads to the next. */
static bool add_sequence(struct nodes *n, const struct pattern_node *child, uint32_t next, uint32_t *out)
{
    *out = next;
    if (!child)
        return true;
    return add_sequence(n, child->next, next, out) && add_tree(n, child, *out, out);
}

static bool add_tree(struct nodes *n, const struct pattern_node *node, uint32_t next, uint32_t *out)
{
    switch (node->kind) {
    case PATTERN_SET:
        return add_node(n, (struct node){NODE_SET, node, next, 0}, out);
    case PATTERN_START:
        return add_node(n, (struct node){NODE_START, NULL, next, 0}, out);
    case PATTERN_END:
        return add_node(n, (struct node){NODE_END, NULL, next, 0}, out);
    case PATTERN_SEQUENCE:
        return add_sequence(n, node->first, next, out);
    case PATTERN_REPEAT:
        return add_repeat(n, node, next, out);
    case PATTERN_CHOICE:
        break;
    }
    uint32_t way, all = UINT32_MAX;
    for (const struct pattern_node *child = node->first; child; child = child->next) {
        if (!add_tree(n, child, next, &way))
            return false;
        if (all == UINT32_MAX)
            all = way;
        else if (!add_node(n, (struct node){NODE_SPLIT, NULL, way, all}, &all))
            return false;
    }
    *out = all;
    return true;
}

/* A set of nodes: those that read a character, those that wait for the end, and the match. */
struct node_set {
    uint32_t *nodes, count;
    bool first; /* nothing has been read yet */
    uint64_t hash;
};

struct subsets {
    struct schema_writer *w;
    const struct nodes *nodes;
    struct component *component;
    struct node_set *sets; /* [states] */
    uint32_t set_capacity;
    struct slots slots;
    uint32_t *stamps, stamp;
    uint32_t *work, *found, found_count;
};

/* Adds the nodes that those in work lead to without reading a character. */
static void close_nodes(struct subsets *s, uint32_t work, bool at_start, bool at_end)
{
    while (work) {
        uint32_t at = s->work[--work];
        if (s->stamps[at] == s->stamp)
            continue;
        s->stamps[at] = s->stamp;
        const struct node *node = &s->nodes->list[at];
        if (node->kind == NODE_SPLIT) {
            s->work[work++] = node->next;
            s->work[work++] = node->other;
        } else if (node->kind == NODE_START) {
            if (at_start)
                s->work[work++] = node->next;
        } else if (node->kind == NODE_END && at_end) {
            s->work[work++] = node->next;
        } else {
            s->found[s->found_count++] = at;
        }
    }
}

static bool matches(struct subsets *s)
{
    for (uint32_t i = 0; i < s->found_count; i++)
        if (s->nodes->list[s->found[i]].kind == NODE_MATCH)
            return true;
    return false;
}

/* Returns the state for the nodes in found. If the match is among them, so is it for any longer text, and the state
 * needs no other node. */
static bool intern(struct subsets *s, bool first, uint32_t *out)
{
    if (s->found_count == 0) {
        *out = 0;
        return true;
    }
    qsort(s->found, s->found_count, sizeof *s->found, compare_codes);
    if (matches(s)) {
        for (uint32_t i = 0; i < s->found_count; i++)
            if (s->nodes->list[s->found[i]].kind == NODE_MATCH)
                s->found[0] = s->found[i];
        s->found_count = 1;
        first = false;
    }
    uint64_t hash = fnv1a(FNV1A_START + first, s->found, s->found_count * sizeof *s->found);
    bool fresh;
    if (!make_room(s->w, &s->slots, s->component->states, &fresh))
        return false;
    for (uint32_t i = 1; fresh && i < s->component->states; i++)
        put(&s->slots, s->sets[i].hash, i);
    uint32_t slot = (uint32_t)hash & (s->slots.size - 1), state;
    for (; (state = s->slots.list[slot]) != 0; slot = (slot + 1) & (s->slots.size - 1)) {
        const struct node_set *set = &s->sets[state];
        if (set->hash == hash && set->first == first && set->count == s->found_count &&
            memcmp(set->nodes, s->found, s->found_count * sizeof *s->found) == 0) {
            *out = state;
            return true;
        }
    }
    struct node_set set = {.count = s->found_count, .first = first, .hash = hash};
    set.nodes = schema_memory(s->w, set.count, sizeof *set.nodes);
    if (!set.nodes)
        return false;
    memcpy(set.nodes, s->found, set.count * sizeof *set.nodes);
    /* Does a text that ends here match? */
    uint32_t work = 0;
    s->stamp++;
    s->found_count = 0;
    for (uint32_t i = 0; i < set.count; i++)
        s->work[work++] = set.nodes[i];
    close_nodes(s, work, first, true);
    if (!add_state(s->w, s->component, matches(s), out) ||
        grammar_grow((void **)&s->sets, *out, &s->set_capacity, sizeof *s->sets, MAX_PART_STATES, s->w->error) !=
            HYPURA_OK)
        return false;
    s->sets[*out] = set;
    s->slots.list[slot] = *out;
    return schema_work(s->w, set.count);
}

static bool determine(struct subsets *s, const struct automaton *a, uint32_t start)
{
    uint32_t state, next;
    struct component *c = s->component;
    s->stamp++;
    s->found_count = 0;
    s->work[0] = start;
    close_nodes(s, 1, true, false);
    if (!add_state(s->w, c, false, &state) || !intern(s, true, &state))
        return false;
    if (state == 0) { /* state 1 is the start */
        c->states = 1;
        return add_state(s->w, c, false, &state);
    }
    for (uint32_t i = 1; i < c->states; i++) {
        bool all = s->nodes->list[s->sets[i].nodes[0]].kind == NODE_MATCH;
        for (uint32_t k = 0; k < a->classes; k++) {
            uint32_t work = 0;
            s->stamp++;
            s->found_count = 0;
            for (uint32_t j = 0; j < s->sets[i].count; j++) {
                const struct node *node = &s->nodes->list[s->sets[i].nodes[j]];
                for (uint32_t r = 0; node->kind == NODE_SET && r < node->set->range_count; r++)
                    if (a->starts[k] >= node->set->ranges[r].low && a->starts[k] <= node->set->ranges[r].high) {
                        s->work[work++] = node->next;
                        break;
                    }
            }
            if (all)
                s->work[work++] = s->sets[i].nodes[0];
            close_nodes(s, work, false, false);
            if (!intern(s, false, &next) || !schema_work(s->w, s->sets[i].count))
                return false;
            c->next[(size_t)i * c->classes + k] = next;
        }
    }
    return true;
}

static bool make_pattern(struct schema_writer *w, const struct automaton *a, const struct pattern_node *tree,
                         struct component *out)
{
    struct nodes nodes = {.w = w};
    struct subsets s = {.w = w, .nodes = &nodes, .component = out};
    static const struct code_range any = {0, LAST_CODE};
    static const struct pattern_node any_set = {
        .kind = PATTERN_SET, .ranges = (struct code_range *)&any, .range_count = 1};
    uint32_t match = 0, start = 0, body = 0, skip = 0;
    bool fine = add_node(&nodes, (struct node){NODE_MATCH, NULL, 0, 0}, &match) &&
                add_node(&nodes, (struct node){NODE_SPLIT, NULL, 0, 0}, &start) &&
                add_tree(&nodes, tree, match, &body) &&
                add_node(&nodes, (struct node){NODE_SET, &any_set, start, 0}, &skip);
    if (fine) {
        nodes.list[start].next = body;
        nodes.list[start].other = skip;
        s.stamps = schema_memory(w, nodes.count, sizeof *s.stamps);
        s.work = schema_memory(w, (size_t)nodes.count * 3 + 3, sizeof *s.work);
        s.found = schema_memory(w, nodes.count, sizeof *s.found);
        fine = s.stamps && s.work && s.found && determine(&s, a, start);
    }
    memory_free(nodes.list);
    memory_free(s.sets);
    memory_free(s.slots.list);
    return fine;
}

/* ---- lengths and multiples ----------------------------------------------------------------------------------------
 */

static bool make_length(struct schema_writer *w, const struct text_part *part, struct component *c)
{
    json_int_t last = part->high < 0 ? part->low : part->high;
    uint32_t state;
    if (last > MAX_PART_STATES - 3)
        return schema_refuse(w, "a length of the JSON schema is %s", "too large to enforce together with a pattern");
    if (!add_state(w, c, false, &state))
        return false;
    for (json_int_t i = 0; i <= last; i++) {
        if (!add_state(w, c, i >= part->low, &state))
            return false;
        for (uint32_t k = 0; k < c->classes; k++)
            c->next[(size_t)state * c->classes + k] = i < last ? state + 1 : part->high < 0 ? state : 0;
    }
    return true;
}

/* Accepts decimal numbers such as -12.5 that are multiples of M / 10^places. States keep the remainder of the digits
 * so far. */
static bool make_multiple(struct schema_writer *w, const struct automaton *a, const struct text_part *part,
                          struct component *c)
{
    uint32_t m = part->multiple, state, scale = 1 % m, phases = part->places + 2;
    /* States: 0 the dead one, 1 the start, then one per remainder and phase: before the point, and after it with 0 to
     * places digits. */
    if ((uint64_t)m * phases + 2 > MAX_PART_STATES)
        return schema_refuse(w, "the \"multipleOf\" of the JSON schema is %s", "too large or too fine to enforce");
    for (uint32_t i = 0; i < part->places; i++)
        scale = (uint32_t)((uint64_t)scale * 10 % m);
    for (uint32_t i = 0; i < m * phases + 2; i++)
        if (!add_state(w, c, false, &state))
            return false;
    for (uint32_t d = 0; d < 10; d++)
        c->next[c->classes + class_of(a, '0' + d)] = 2 + d % m;
    c->next[c->classes + class_of(a, '-')] = 1;
    for (uint32_t phase = 0; phase < phases; phase++) {
        uint32_t left = 1 % m; /* 10 to the power of the digits still to come */
        for (uint32_t i = phase ? phase - 1 : 0; i < part->places; i++)
            left = (uint32_t)((uint64_t)left * 10 % m);
        for (uint32_t r = 0; r < m; r++) {
            state = 2 + phase * m + r;
            c->keeps[state] = phase != 1 && (uint64_t)r * left % m == 0;
            uint32_t *next = c->next + (size_t)state * c->classes;
            for (uint32_t d = 0; d < 10; d++) {
                uint32_t fresh = (r * 10 + d) % m;
                uint32_t to = phase == 0           ? 2 + fresh
                              : phase < phases - 1 ? 2 + (phase + 1) * m + fresh
                              : d == 0             ? state
                                                   : 0;
                next[class_of(a, '0' + d)] = to;
            }
            if (phase == 0)
                next[class_of(a, '.')] = 2 + m + r;
        }
    }
    if (part->places == 0) /* as in "1.0": the phase after the point accepts whole numbers */
        for (uint32_t r = 0; r < m; r++)
            c->keeps[2 + m + r] = r == 0;
    return true;
}

/* ---- products -----------------------------------------------------------------------------------------------------
 */

struct tuples {
    uint32_t *states; /* [count][width] */
    uint32_t *marks;  /* [count] */
    uint32_t *next;   /* [count][classes] */
    uint32_t count, capacity;
    size_t width;
    struct slots slots;
};

static uint64_t hash_tuple(const struct tuples *t, const uint32_t *states)
{
    return fnv1a(FNV1A_START, states, t->width * sizeof *states);
}

static bool add_tuple(struct schema_writer *w, struct tuples *t, const uint32_t *states, uint32_t classes)
{
    if (t->count == MAX_STATES)
        return schema_refuse(w, "the limits of the JSON schema on a string or a number are %s",
                             "too many to enforce at once");
    if (t->count == t->capacity) {
        uint32_t room = MAX(t->capacity * 2, 32u);
        if (memory_resize((void **)&t->states, t->capacity * t->width, room * t->width, sizeof *t->states,
                          "JSON schema", w->error) != HYPURA_OK ||
            memory_resize((void **)&t->marks, t->capacity, room, sizeof *t->marks, "JSON schema", w->error) !=
                HYPURA_OK ||
            memory_resize((void **)&t->next, (size_t)t->capacity * classes, (size_t)room * classes, sizeof *t->next,
                          "JSON schema", w->error) != HYPURA_OK)
            return false;
        t->capacity = room;
    }
    memcpy(t->states + t->count++ * t->width, states, t->width * sizeof *states);
    return true;
}

static bool find_tuple(struct schema_writer *w, struct tuples *t, const uint32_t *states, uint32_t classes,
                       uint32_t *out)
{
    bool fresh;
    if (!make_room(w, &t->slots, t->count, &fresh))
        return false;
    for (uint32_t i = 0; fresh && i < t->count; i++)
        put(&t->slots, hash_tuple(t, t->states + i * t->width), i + 1);
    uint32_t slot = (uint32_t)hash_tuple(t, states) & (t->slots.size - 1), at;
    for (; (at = t->slots.list[slot]) != 0; slot = (slot + 1) & (t->slots.size - 1))
        if (memcmp(t->states + (at - 1) * t->width, states, t->width * sizeof *states) == 0) {
            *out = at - 1;
            return true;
        }
    *out = t->count;
    t->slots.list[slot] = t->count + 1;
    return add_tuple(w, t, states, classes);
}

static bool walk_together(struct schema_writer *w, const struct text_part *parts, const struct component *components,
                          size_t count, const struct automaton *a, struct tuples *t)
{
    uint32_t tuple[MAX_TEXT_PARTS] = {1}, state;
    for (size_t i = 0; i < t->width; i++)
        tuple[i] = 1;
    if (!find_tuple(w, t, tuple, a->classes, &state))
        return false;
    for (uint32_t at = 0; at < t->count; at++) {
        for (size_t i = 0; i < count; i++)
            t->marks[at] |= (uint32_t)components[i].keeps[t->states[at * t->width + i]] << i;
        for (uint32_t k = 0; k < a->classes; k++) {
            bool dead = a->starts[k] == 0xd800;
            for (size_t i = 0; i < count && !dead; i++) {
                const struct component *c = &components[i];
                tuple[i] = c->next[(size_t)t->states[at * t->width + i] * c->classes + k];
                dead = parts[i].required && tuple[i] == 0;
            }
            state = NO_STATE;
            if (!dead && !find_tuple(w, t, tuple, a->classes, &state))
                return false;
            t->next[(size_t)at * a->classes + k] = state;
        }
        if (!schema_work(w, a->classes * (count + 1)))
            return false;
    }
    return true;
}

static bool join(struct schema_writer *w, const struct text_part *parts, const struct component *components,
                 size_t count, struct automaton *a)
{
    struct tuples t = {.width = MAX(count, 1u)};
    bool fine = walk_together(w, parts, components, count, a, &t);
    size_t cells = (size_t)t.count * a->classes;
    fine = fine && (a->next = schema_memory(w, cells, sizeof *a->next)) &&
           (a->marks = schema_memory(w, t.count, sizeof *a->marks));
    if (fine) {
        memcpy(a->next, t.next, cells * sizeof *a->next);
        memcpy(a->marks, t.marks, t.count * sizeof *a->marks);
        a->states = t.count;
    }
    memory_free(t.states);
    memory_free(t.marks);
    memory_free(t.next);
    memory_free(t.slots.list);
    return fine;
}

bool automaton_build(struct schema_writer *w, const struct text_part *parts, size_t count, struct automaton *out)
{
    struct pattern_node *trees[MAX_TEXT_PARTS] = {NULL};
    struct component components[MAX_TEXT_PARTS] = {{0}};
    *out = (struct automaton){0};
    if (count > MAX_TEXT_PARTS)
        return schema_refuse(w, "the JSON schema puts %s on one string", "more than 32 limits");
    bool fine = true;
    for (size_t i = 0; i < count && fine; i++)
        if (parts[i].kind == TEXT_PATTERN)
            fine = pattern_parse(w, parts[i].pattern, &trees[i]);
    fine = fine && make_classes(w, parts, trees, count, out);
    for (size_t i = 0; i < count && fine; i++) {
        struct component *c = &components[i];
        c->classes = out->classes;
        fine = parts[i].kind == TEXT_PATTERN  ? make_pattern(w, out, trees[i], c)
               : parts[i].kind == TEXT_LENGTH ? make_length(w, &parts[i], c)
                                              : make_multiple(w, out, &parts[i], c);
    }
    return fine && join(w, parts, components, count, out);
}

/* Returns the automaton of a pattern. It is kept, because many texts are matched against it. */
static const struct automaton *known_automaton(struct schema_writer *w, const char *pattern)
{
    struct known_pattern **slot = &w->patterns[fnv1a(FNV1A_START, pattern, strlen(pattern)) % COUNT_OF(w->patterns)];
    struct text_part part = {.kind = TEXT_PATTERN, .pattern = pattern};
    for (struct known_pattern *known = *slot; known; known = known->next)
        if (strcmp(known->pattern, pattern) == 0)
            return &known->automaton;
    struct known_pattern *fresh = schema_memory(w, 1, sizeof *fresh);
    if (!fresh || !automaton_build(w, &part, 1, &fresh->automaton))
        return NULL;
    fresh->pattern = pattern;
    fresh->next = *slot;
    *slot = fresh;
    return &fresh->automaton;
}

bool automaton_matches(struct schema_writer *w, const char *pattern, const char *text, bool *out)
{
    const struct automaton *a = known_automaton(w, pattern);
    if (!a)
        return false;
    uint32_t state = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at && state != NO_STATE;) {
        size_t length = *at < 0x80 ? 1 : *at < 0xe0 ? 2 : *at < 0xf0 ? 3 : 4;
        uint32_t code = length == 1 ? *at : *at & (0x7fu >> length);
        for (size_t i = 1; i < length && at[i]; i++)
            code = code << 6 | (at[i] & 0x3fu);
        for (size_t i = 0; i < length && *at; i++)
            at++;
        state = a->next[(size_t)state * a->classes + class_of(a, code)];
    }
    *out = state != NO_STATE && a->marks[state] & 1;
    return schema_work(w, 10);
}
