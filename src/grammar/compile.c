/* Compiles the tree of rules to a network of byte transitions. Terms are compiled backwards: each gets the state that
 * follows it. */
#include "grammar/grammar_private.h"

#include <string.h>

#define MAX_STATES 2000000
#define MAX_DEPTH 1000
#define MAX_STEPS 20000000

struct compiler {
    struct grammar *grammar;
    const struct grammar_tree *tree;
    uint32_t *starts; /* [rules] the state where each starts */
    uint32_t depth, steps;
    hypura_error *error;
};

static hypura_status new_state(struct compiler *c, struct network_state state, uint32_t *out)
{
    struct grammar *g = c->grammar;
    hypura_status status =
        grammar_grow((void **)&g->states, g->state_count, &g->state_capacity, sizeof *g->states, MAX_STATES, c->error);
    if (status != HYPURA_OK)
        return status;
    g->states[g->state_count] = state;
    *out = g->state_count++;
    return HYPURA_OK;
}

static hypura_status new_bytes(struct compiler *c, unsigned low, unsigned high, uint32_t next, uint32_t *out)
{
    return new_state(c, (struct network_state){STATE_BYTES, (uint8_t)low, (uint8_t)high, next, 0}, out);
}

/* Adds a way to a start: *start becomes a split between both, or the way itself if there was none. */
static hypura_status add_way(struct compiler *c, uint32_t way, uint32_t *start)
{
    if (*start == UINT32_MAX) {
        *start = way;
        return HYPURA_OK;
    }
    return new_state(c, (struct network_state){STATE_SPLIT, 0, 0, way, *start}, start);
}

/* ---- classes ------------------------------------------------------------------------------------------------------
 */

struct utf8_tails {
    uint32_t next, one, two; /* one, two: before one and two bytes 80..BF that lead to next; UINT32_MAX: not made yet */
};

static hypura_status tail(struct compiler *c, struct utf8_tails *tails, int count, uint32_t *out)
{
    hypura_status status = HYPURA_OK;
    if (tails->one == UINT32_MAX)
        status = new_bytes(c, 0x80, 0xbf, tails->next, &tails->one);
    if (status == HYPURA_OK && count == 2 && tails->two == UINT32_MAX)
        status = new_bytes(c, 0x80, 0xbf, tails->one, &tails->two);
    *out = count == 2 ? tails->two : tails->one;
    return status;
}

static int encode(uint32_t code, uint8_t *bytes)
{
    int more = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    static const uint8_t lead[] = {0, 0xc0, 0xe0, 0xf0};
    bytes[0] = (uint8_t)(lead[more] | code >> (6 * more));
    for (int i = 1; i <= more; i++)
        bytes[i] = (uint8_t)(0x80 | ((code >> (6 * (more - i))) & 0x3f));
    return more + 1;
}

/* Compiles code points of one encoded length whose encodings are exactly a range for each byte. */
static hypura_status compile_plain_range(struct compiler *c, uint32_t low, uint32_t high, struct utf8_tails *tails,
                                         uint32_t *start)
{
    uint8_t a[4], b[4];
    int length = encode(low, a);
    encode(high, b);
    uint32_t next = tails->next;
    hypura_status status = HYPURA_OK;
    for (int i = length; i-- > 0 && status == HYPURA_OK;) {
        int after = length - i;
        if (i > 0 && after <= 2 && a[i] == 0x80 && b[i] == 0xbf && (after == 1 || next == tails->one))
            status = tail(c, tails, after, &next);
        else
            status = new_bytes(c, a[i], b[i], next, &next);
    }
    return status == HYPURA_OK ? add_way(c, next, start) : status;
}

/* Cuts a range into parts that compile_plain_range can take (the method of Russ Cox's RE2). */
static hypura_status compile_range(struct compiler *c, uint32_t low, uint32_t high, struct utf8_tails *tails,
                                   uint32_t *start)
{
    static const uint32_t ends[] = {0x7f, 0x7ff, 0xd7ff, 0xdfff, 0xffff};
    if (low >= 0xd800 && high <= 0xdfff) /* surrogates are not characters */
        return HYPURA_OK;
    uint32_t cut = UINT32_MAX;
    for (size_t i = 0; i < COUNT_OF(ends) && cut == UINT32_MAX; i++)
        if (low <= ends[i] && ends[i] < high)
            cut = ends[i];
    for (int i = 1; i < 4 && cut == UINT32_MAX && high > 0x7f; i++) {
        uint32_t mask = (1u << (6 * i)) - 1;
        if ((low & ~mask) == (high & ~mask))
            continue;
        if (low & mask)
            cut = low | mask;
        else if ((high & mask) != mask)
            cut = (high & ~mask) - 1;
    }
    if (cut == UINT32_MAX)
        return compile_plain_range(c, low, high, tails, start);
    hypura_status status = compile_range(c, low, cut, tails, start);
    return status == HYPURA_OK ? compile_range(c, cut + 1, high, tails, start) : status;
}

static hypura_status find_set(struct compiler *c, const struct byte_set *set, uint32_t *out)
{
    struct grammar *g = c->grammar;
    for (uint32_t i = 0; i < g->set_count; i++)
        if (memcmp(&g->sets[i], set, sizeof *set) == 0) {
            *out = i;
            return HYPURA_OK;
        }
    hypura_status status =
        grammar_grow((void **)&g->sets, g->set_count, &g->set_capacity, sizeof *g->sets, 100000, c->error);
    if (status == HYPURA_OK) {
        g->sets[g->set_count] = *set;
        *out = g->set_count++;
    }
    return status;
}

static hypura_status compile_class(struct compiler *c, const struct term *term, uint32_t next, uint32_t *out)
{
    struct utf8_tails tails = {next, UINT32_MAX, UINT32_MAX};
    struct byte_set ascii = {0};
    bool any_ascii = false;
    hypura_status status = HYPURA_OK;
    *out = UINT32_MAX;
    for (uint32_t i = term->low; i < term->high && status == HYPURA_OK; i++) {
        struct code_range range = c->tree->ranges[i];
        for (; range.low < 0x80 && range.low <= range.high; range.low++) {
            ascii.bits[range.low / 32] |= 1u << (range.low % 32);
            any_ascii = true;
        }
        if (range.low <= range.high)
            status = compile_range(c, range.low, range.high, &tails, out);
    }
    if (status == HYPURA_OK && any_ascii) {
        struct network_state set = {STATE_SET, 0, 0, next, 0};
        uint32_t state;
        status = find_set(c, &ascii, &set.other);
        if (status == HYPURA_OK)
            status = new_state(c, set, &state);
        if (status == HYPURA_OK)
            status = add_way(c, state, out);
    }
    /* An empty class matches nothing: low 1 is above high 0. */
    if (status == HYPURA_OK && *out == UINT32_MAX)
        status = new_bytes(c, 1, 0, next, out);
    return status;
}

/* ---- terms --------------------------------------------------------------------------------------------------------
 */

static hypura_status compile(struct compiler *c, uint32_t index, uint32_t next, uint32_t *out);

/* Compiles the children of a sequence, the last one first, because each leads to the next. */
static hypura_status compile_sequence(struct compiler *c, uint32_t child, uint32_t next, uint32_t *out)
{
    uint32_t *children = NULL, count = 0;
    for (uint32_t i = child; i != NO_TERM; i = c->tree->terms[i].next)
        count++;
    hypura_status status = ALLOCATE(&children, count, "grammar", c->error);
    for (uint32_t i = child, k = 0; status == HYPURA_OK && i != NO_TERM; i = c->tree->terms[i].next)
        children[k++] = i;
    *out = next;
    while (count-- > 0 && status == HYPURA_OK)
        status = compile(c, children[count], *out, out);
    memory_free(children);
    return status;
}

static hypura_status compile_choice(struct compiler *c, uint32_t child, uint32_t next, uint32_t *out)
{
    hypura_status status = HYPURA_OK;
    *out = UINT32_MAX;
    for (; child != NO_TERM && status == HYPURA_OK; child = c->tree->terms[child].next) {
        uint32_t way;
        status = compile(c, child, next, &way);
        if (status == HYPURA_OK)
            status = add_way(c, way, out);
    }
    return status;
}

static hypura_status compile_repeat(struct compiler *c, const struct term *term, uint32_t next, uint32_t *out)
{
    hypura_status status = HYPURA_OK;
    uint32_t body;
    *out = next;
    if (term->high == REPEAT_UNBOUNDED) {
        status = new_state(c, (struct network_state){STATE_SPLIT, 0, 0, next, next}, out);
        if (status == HYPURA_OK)
            status = compile(c, term->first, *out, &body);
        if (status == HYPURA_OK)
            c->grammar->states[*out].next = body;
    }
    for (uint32_t i = term->low; term->high != REPEAT_UNBOUNDED && i < term->high && status == HYPURA_OK; i++) {
        status = compile(c, term->first, *out, &body);
        if (status == HYPURA_OK)
            status = new_state(c, (struct network_state){STATE_SPLIT, 0, 0, body, next}, out);
    }
    for (uint32_t i = 0; i < term->low && status == HYPURA_OK; i++)
        status = compile(c, term->first, *out, out);
    return status;
}

static hypura_status compile(struct compiler *c, uint32_t index, uint32_t next, uint32_t *out)
{
    const struct term *term = &c->tree->terms[index];
    hypura_status status = HYPURA_OK;
    if (++c->depth > MAX_DEPTH)
        return error_set(c->error, HYPURA_ERROR_FORMAT, "the grammar is nested more than %d levels deep", MAX_DEPTH);
    if (++c->steps > MAX_STEPS) /* repetitions of nothing make no states, so states alone do not bound the work */
        return error_set(c->error, HYPURA_ERROR_FORMAT, "the grammar repeats more than %d times", MAX_STEPS);
    switch (term->kind) {
    case TERM_BYTES:
        *out = next;
        for (uint32_t i = term->high; i-- > term->low && status == HYPURA_OK;) {
            unsigned byte = (unsigned char)c->tree->bytes.data[i];
            status = new_bytes(c, byte, byte, *out, out);
        }
        break;
    case TERM_CLASS:
        status = compile_class(c, term, next, out);
        break;
    case TERM_SEQUENCE:
        status = compile_sequence(c, term->first, next, out);
        break;
    case TERM_CHOICE:
        status = compile_choice(c, term->first, next, out);
        break;
    case TERM_REPEAT:
        status = compile_repeat(c, term, next, out);
        break;
    case TERM_RULE:
        /* other holds the rule's number until all rules have a start. */
        status = new_state(c, (struct network_state){STATE_CALL, 0, 0, next, term->first}, out);
        break;
    case TERM_MARK:
        status = new_state(c, (struct network_state){STATE_MARK, (uint8_t)term->first, 0, next, 0}, out);
        break;
    }
    c->depth--;
    return status;
}

/* ---- left recursion -----------------------------------------------------------------------------------------------
 */

struct reach {
    const struct grammar *grammar;
    const uint32_t *starts;
    const struct grammar_tree *tree;
    bool *nullable;  /* [rules] it can match the empty text */
    uint32_t *stamp; /* [states] the last walk that saw it */
    uint32_t walk;
    uint32_t *work;  /* [2 * states] */
    uint32_t *calls; /* the rules that rule r may call before any byte: from offsets[r] to offsets[r + 1] */
    uint32_t *offsets;
    uint32_t call_count;
};

/* Walks the states of a rule that can be reached before any byte. Returns whether its end is among them. */
static bool walk_rule(struct reach *r, uint32_t rule, bool note_calls)
{
    size_t count = 0;
    bool end = false;
    r->walk++;
    r->work[count++] = r->starts[rule];
    while (count) {
        uint32_t at = r->work[--count];
        const struct network_state *s = &r->grammar->states[at];
        if (r->stamp[at] == r->walk)
            continue;
        r->stamp[at] = r->walk;
        end |= s->kind == STATE_END;
        if (s->kind == STATE_SPLIT) {
            r->work[count++] = s->next;
            r->work[count++] = s->other;
        } else if (s->kind == STATE_MARK) {
            r->work[count++] = s->next;
        } else if (s->kind == STATE_CALL) {
            if (note_calls)
                r->calls[r->call_count++] = s->other;
            if (r->nullable[s->other])
                r->work[count++] = s->next;
        }
    }
    return end;
}

/* Repeatedly removes the rules that call no remaining rule. The others call themselves, or a rule that does. */
static hypura_status refuse_cycles(const struct reach *r, hypura_error *error)
{
    uint32_t rules = r->tree->rule_count, left = rules, last = 0;
    bool *done;
    hypura_status status = ALLOCATE(&done, rules, "grammar", error);
    if (status != HYPURA_OK)
        return status;
    for (bool changed = true; changed && left;) {
        changed = false;
        for (uint32_t i = 0; i < rules; i++) {
            bool waits = false;
            for (uint32_t k = r->offsets[i]; k < r->offsets[i + 1] && !waits && !done[i]; k++)
                waits = !done[r->calls[k]];
            if (waits) {
                last = i;
            } else if (!done[i]) {
                done[i] = changed = true;
                left--;
            }
        }
    }
    memory_free(done);
    if (left)
        return error_set(error, HYPURA_ERROR_FORMAT,
                         "grammar: the rule \"%.60s\" is left-recursive or calls one that is: it begins with itself",
                         r->tree->rules[last].name);
    return HYPURA_OK;
}

static hypura_status check_recursion(const struct compiler *c)
{
    struct reach r = {.grammar = c->grammar, .starts = c->starts, .tree = c->tree};
    uint32_t rules = c->tree->rule_count, states = c->grammar->state_count;
    hypura_status status = ALLOCATE(&r.nullable, rules, "grammar", c->error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&r.offsets, (size_t)rules + 1, "grammar", c->error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&r.calls, states, "grammar", c->error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&r.stamp, states, "grammar", c->error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&r.work, (size_t)states * 2 + 2, "grammar", c->error);
    for (bool changed = status == HYPURA_OK; changed;) {
        changed = false;
        for (uint32_t i = 0; i < rules; i++)
            if (!r.nullable[i] && walk_rule(&r, i, false))
                r.nullable[i] = changed = true;
    }
    for (uint32_t i = 0; i < rules && status == HYPURA_OK; i++) {
        walk_rule(&r, i, true);
        r.offsets[i + 1] = r.call_count;
    }
    if (status == HYPURA_OK)
        status = refuse_cycles(&r, c->error);
    memory_free(r.nullable);
    memory_free(r.offsets);
    memory_free(r.calls);
    memory_free(r.stamp);
    memory_free(r.work);
    return status;
}

/* ---- dead ends ----------------------------------------------------------------------------------------------------
 */

/* Closes the ways that no text can finish, such as a rule that always calls itself. After this, every state that can be
 * reached can be completed. Calls already name the start state here. */
static hypura_status close_dead_ends(struct grammar *g, hypura_error *error)
{
    bool *finishes;
    hypura_status status = ALLOCATE(&finishes, g->state_count, "grammar", error);
    if (status != HYPURA_OK)
        return status;
    for (bool changed = true; changed;) {
        changed = false;
        for (uint32_t i = 0; i < g->state_count; i++) {
            const struct network_state *s = &g->states[i];
            if (finishes[i])
                continue;
            switch (s->kind) {
            case STATE_BYTES:
                finishes[i] = s->low <= s->high && finishes[s->next];
                break;
            case STATE_SET:
            case STATE_MARK:
                finishes[i] = finishes[s->next];
                break;
            case STATE_SPLIT:
                finishes[i] = finishes[s->next] || finishes[s->other];
                break;
            case STATE_CALL:
                finishes[i] = finishes[s->next] && finishes[s->other];
                break;
            default:
                finishes[i] = true;
            }
            changed |= finishes[i];
        }
    }
    if (!finishes[g->start])
        status = error_set(error, HYPURA_ERROR_FORMAT, "grammar: no text can match the rule \"root\"");
    for (uint32_t i = 0; i < g->state_count; i++)
        if (!finishes[i])
            g->states[i] = (struct network_state){STATE_BYTES, 1, 0, 0, 0};
    memory_free(finishes);
    return status;
}

/* ---- whole --------------------------------------------------------------------------------------------------------
 */

static hypura_status compile_tree(struct grammar **out, const struct grammar_tree *tree, hypura_error *error)
{
    struct compiler c = {.tree = tree, .error = error};
    hypura_status status = ALLOCATE(&c.grammar, 1, "grammar", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&c.starts, tree->rule_count, "grammar", error);
    for (uint32_t i = 0; i < tree->rule_count && status == HYPURA_OK; i++) {
        uint32_t end;
        status = new_state(&c, (struct network_state){STATE_END, 0, 0, 0, 0}, &end);
        if (status == HYPURA_OK)
            status = compile(&c, tree->rules[i].body, end, &c.starts[i]);
        if (status == HYPURA_OK && strcmp(tree->rules[i].name, "root") == 0)
            c.grammar->start = c.starts[i];
    }
    if (status == HYPURA_OK)
        status = check_recursion(&c);
    for (uint32_t i = 0; status == HYPURA_OK && i < c.grammar->state_count; i++)
        if (c.grammar->states[i].kind == STATE_CALL)
            c.grammar->states[i].other = c.starts[c.grammar->states[i].other];
    if (status == HYPURA_OK)
        status = close_dead_ends(c.grammar, error);
    memory_free(c.starts);
    if (status == HYPURA_OK)
        *out = c.grammar;
    else
        grammar_free(c.grammar);
    return status;
}

void grammar_free(struct grammar *grammar)
{
    if (!grammar)
        return;
    memory_free(grammar->states);
    memory_free(grammar->sets);
    memory_free(grammar);
}

static hypura_status parse_and_compile(struct grammar **out, const char *text, size_t size, bool marks,
                                       hypura_error *error)
{
    struct grammar_tree tree = {0};
    hypura_status status = grammar_tree_parse(&tree, text, size, marks, error);
    if (status == HYPURA_OK)
        status = compile_tree(out, &tree, error);
    grammar_tree_free(&tree);
    return status;
}

hypura_status grammar_parse(struct grammar **out, const char *text, size_t size, hypura_error *error)
{
    return parse_and_compile(out, text, size, false, error);
}

hypura_status grammar_parse_schema(struct grammar **out, const char *text, size_t size, hypura_error *error)
{
    return parse_and_compile(out, text, size, true, error);
}
