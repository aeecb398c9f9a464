/* Writes an automaton as GBNF, and lists its texts if they are few. */
#include "grammar/schema_private.h"

#include <string.h>

#define MAX_INLINE 20 /* nesting of groups; deeper states get a rule of their own */

struct view {
    struct schema_writer *w;
    const struct automaton *a;
    uint32_t looked_at, wanted;
    bool in_string;
    bool *live;      /* [states] an accepted text can still follow */
    uint32_t *ways;  /* [states] how many other states lead there */
    unsigned *rules; /* [states] the rule + 1; 0: none yet */
    uint32_t *waiting, waiting_count;
};

static bool ends_well(const struct view *v, uint32_t state)
{
    return (v->a->marks[state] & v->looked_at) == v->wanted;
}

static uint32_t next_of(const struct view *v, uint32_t state, uint32_t class)
{
    uint32_t next = v->a->next[(size_t)state * v->a->classes + class];
    return next != NO_STATE && v->live[next] ? next : NO_STATE;
}

static bool find_live(struct view *v)
{
    const struct automaton *a = v->a;
    struct schema_writer *w = v->w;
    v->live = schema_memory(w, a->states, sizeof *v->live);
    v->ways = schema_memory(w, a->states, sizeof *v->ways);
    v->rules = schema_memory(w, a->states, sizeof *v->rules);
    v->waiting = schema_memory(w, a->states, sizeof *v->waiting);
    uint32_t *first = schema_memory(w, (size_t)a->states + 1, sizeof *first), edges = 0, count = 0;
    for (size_t i = 0; i < (size_t)a->states * a->classes; i++)
        edges += a->next[i] != NO_STATE;
    uint32_t *from = schema_memory(w, (size_t)edges + 1, sizeof *from);
    if (!v->live || !v->ways || !v->rules || !v->waiting || !first || !from)
        return false;
    /* Walks the edges backwards from the states where a text may end. */
    for (size_t i = 0; i < (size_t)a->states * a->classes; i++)
        if (a->next[i] != NO_STATE)
            first[a->next[i]]++;
    for (uint32_t i = 0, sum = 0; i <= a->states; i++) {
        sum += first[i];
        first[i] = sum;
    }
    for (size_t i = (size_t)a->states * a->classes; i-- > 0;)
        if (a->next[i] != NO_STATE)
            from[--first[a->next[i]]] = (uint32_t)(i / a->classes);
    for (uint32_t i = 0; i < a->states; i++)
        if (ends_well(v, i)) {
            v->live[i] = true;
            v->waiting[count++] = i;
        }
    while (count) {
        uint32_t at = v->waiting[--count];
        for (uint32_t i = first[at]; i < first[at + 1]; i++)
            if (!v->live[from[i]]) {
                v->live[from[i]] = true;
                v->waiting[count++] = from[i];
            }
    }
    for (uint32_t i = 0; i < a->states; i++)
        for (uint32_t k = 0, last = NO_STATE; k < a->classes; k++) {
            uint32_t next = v->live[i] ? next_of(v, i, k) : NO_STATE;
            if (next != NO_STATE && next != last)
                v->ways[next]++;
            last = next;
        }
    return schema_work(w, (uint64_t)a->states * a->classes);
}

static bool write_state(struct view *v, uint32_t state, int depth, struct buffer *e);

/* Writes the texts that follow a state: in place if there is only one way to it, or else as a rule. */
static bool write_next(struct view *v, uint32_t state, int depth, struct buffer *e)
{
    if (v->ways[state] == 1 && depth < MAX_INLINE && state != 0) {
        buffer_append_string(e, "(");
        bool fine = write_state(v, state, depth + 1, e);
        buffer_append_string(e, ")");
        return fine;
    }
    if (!v->rules[state]) {
        v->rules[state] = schema_new_rule(v->w) + 1;
        v->waiting[v->waiting_count++] = state;
    }
    buffer_append_format(e, "r%u", v->rules[state] - 1);
    return true;
}

static bool write_set(struct view *v, uint32_t state, uint32_t target, struct buffer *e)
{
    struct code_range ranges[1000];
    size_t count = 0;
    for (uint32_t k = 0; k < v->a->classes; k++) {
        if (next_of(v, state, k) != target)
            continue;
        uint32_t low = v->a->starts[k], high = v->a->starts[k + 1] - 1;
        if (count && ranges[count - 1].high + 1 == low)
            ranges[count - 1].high = high;
        else
            ranges[count++] = (struct code_range){low, high};
    }
    struct buffer set = {0};
    unsigned rule;
    pattern_write_set(&set, ranges, count, v->in_string);
    if (set.size <= 40) {
        buffer_append(e, set.data, set.size);
        e->failed |= set.failed;
        buffer_free(&set);
        return true;
    }
    bool fine = schema_text_rule(v->w, &set, &rule);
    buffer_append_format(e, "r%u", rule);
    return fine;
}

static bool write_state(struct view *v, uint32_t state, int depth, struct buffer *e)
{
    const char *between = "";
    bool fine = schema_work(v->w, v->a->classes);
    if (ends_well(v, state)) {
        buffer_append_string(e, "\"\"");
        between = " | ";
    }
    for (uint32_t k = 0; k < v->a->classes && fine; k++) {
        uint32_t target = next_of(v, state, k), before = 0;
        while (target != NO_STATE && before < k && next_of(v, state, before) != target)
            before++;
        if (target == NO_STATE || before < k) /* dead, or written with an earlier class */
            continue;
        buffer_append_string(e, between);
        between = " | ";
        fine = write_set(v, state, target, e);
        buffer_append_string(e, " ");
        fine = fine && write_next(v, target, depth, e);
    }
    return fine;
}

bool automaton_write(struct schema_writer *w, const struct automaton *a, uint32_t looked_at, uint32_t wanted,
                     bool in_string, struct buffer *e, bool *empty)
{
    struct view v = {.w = w, .a = a, .looked_at = looked_at, .wanted = wanted, .in_string = in_string};
    if (!find_live(&v))
        return false;
    *empty = !v.live[0];
    if (*empty)
        return true;
    bool fine = write_next(&v, 0, 0, e);
    while (fine && v.waiting_count) {
        uint32_t state = v.waiting[--v.waiting_count];
        struct buffer body = {0};
        fine = write_state(&v, state, 0, &body) && schema_end_rule(w, v.rules[state] - 1, &body);
        buffer_free(&body);
    }
    return fine;
}

/* ---- few texts ----------------------------------------------------------------------------------------------------
 */

struct listing {
    struct view view;
    const char **texts;
    size_t room, count;
    char text[64];
};

static size_t append_utf8(char *bytes, uint32_t c)
{
    static const unsigned lead[] = {0, 0xc0, 0xe0, 0xf0};
    int more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    bytes[0] = (char)(lead[more] | c >> (6 * more));
    for (int i = 1; i <= more; i++)
        bytes[i] = (char)(0x80 | ((c >> (6 * (more - i))) & 0x3f));
    return (size_t)more + 1;
}

/* Lists texts until there are more than the room allows. */
static bool list_from(struct listing *l, uint32_t state, size_t size)
{
    const struct automaton *a = l->view.a;
    if (l->count > l->room)
        return true;
    if (size + 5 > sizeof l->text) { /* too long: count it as too many */
        l->count = l->room + 1;
        return true;
    }
    if (ends_well(&l->view, state) && ++l->count <= l->room &&
        !(l->texts[l->count - 1] = schema_copy_text(l->view.w, l->text, size)))
        return false;
    for (uint32_t k = 0; k < a->classes && l->count <= l->room; k++) {
        uint32_t next = next_of(&l->view, state, k);
        if (next == NO_STATE)
            continue;
        if (a->starts[k] == 0 || a->starts[k + 1] - a->starts[k] > l->room) {
            l->count = l->room + 1;
            return true;
        }
        for (uint32_t c = a->starts[k]; c < a->starts[k + 1] && l->count <= l->room; c++)
            if (!list_from(l, next, size + append_utf8(l->text + size, c)))
                return false;
    }
    return true;
}

bool automaton_list(struct schema_writer *w, const struct automaton *a, uint32_t looked_at, uint32_t wanted,
                    const char **texts, size_t room, size_t *count)
{
    struct listing l = {
        .view = {.w = w, .a = a, .looked_at = looked_at, .wanted = wanted}, .texts = texts, .room = room};
    if (!find_live(&l.view))
        return false;
    bool fine = !l.view.live[0] || list_from(&l, 0, 0);
    *count = l.count;
    return fine;
}
