/* Follows a text through a grammar with a deterministic automaton that is built lazily.
 *
 * A place in the grammar is a network state and a stack of the states to return to. Stacks are shared lists: a frame is
 * a network state and the frame below it, and equal frames are stored once (hash consing), so a place is one number. A
 * state of the automaton is the set of places before a byte. When the tables of frames and states have grown large,
 * they are cleared, and only the current state is kept. */
#include "grammar/match_private.h"

#include <stdlib.h>
#include <string.h>

/* ---- frames -------------------------------------------------------------------------------------------------------
 */

uint32_t matcher_fail(struct grammar_matcher *m, hypura_status status, const char *message)
{
    if (!m->failed)
        error_set(&m->reason, status, "%s", message);
    m->failed = true;
    return 0;
}

static uint32_t mix(uint32_t a, uint32_t b)
{
    uint64_t x = ((uint64_t)a << 32 | b) * 0x9e3779b97f4a7c15u;
    return (uint32_t)(x >> 32) ^ (uint32_t)x;
}

static bool grow(struct grammar_matcher *m, void **array, uint32_t count, uint32_t *capacity, size_t size)
{
    if (count < *capacity)
        return true;
    uint32_t room = MAX(*capacity * 2, 256u);
    if (memory_resize(array, *capacity, room, size, "grammar", NULL) != HYPURA_OK)
        return matcher_fail(m, HYPURA_ERROR_MEMORY, "no memory for the states of the grammar");
    *capacity = room;
    return true;
}

/* Keeps the index at least twice as large as the count of its entries. Returns false if memory runs out. */
static bool grow_index(struct grammar_matcher *m, uint32_t **index, uint32_t *slots, uint32_t count, bool *rebuilt)
{
    *rebuilt = false;
    if (count * 2 < *slots)
        return true;
    uint32_t room = MAX(*slots * 2, 1024u), *fresh;
    if (ALLOCATE(&fresh, room, "grammar", NULL) != HYPURA_OK)
        return matcher_fail(m, HYPURA_ERROR_MEMORY, "no memory for the states of the grammar");
    memory_free(*index);
    *index = fresh;
    *slots = room;
    *rebuilt = true;
    return true;
}

static void index_frame(struct grammar_matcher *m, uint32_t frame)
{
    uint32_t slot = mix(m->frames[frame].state, m->frames[frame].below) & (m->frame_slots - 1);
    while (m->frame_index[slot])
        slot = (slot + 1) & (m->frame_slots - 1);
    m->frame_index[slot] = frame;
}

/* Returns the frame of a network state on top of another frame, or 0 if it cannot be made. */
static uint32_t push(struct grammar_matcher *m, uint32_t state, uint32_t below)
{
    uint32_t slot = mix(state, below) & (m->frame_slots - 1), frame;
    for (; (frame = m->frame_index[slot]) != 0; slot = (slot + 1) & (m->frame_slots - 1))
        if (m->frames[frame].state == state && m->frames[frame].below == below)
            return frame;
    bool rebuilt;
    uint32_t depth = below ? m->frames[below].depth + 1 : 0;
    if (depth > MAX_STACK)
        return matcher_fail(m, HYPURA_ERROR_FORMAT,
                            "the output nests the rules of its grammar more than 5000 levels deep");
    if (m->frame_count >= MAX_FRAMES)
        return matcher_fail(m, HYPURA_ERROR_FORMAT, "the grammar is too ambiguous to follow");
    if (!grow(m, (void **)&m->frames, m->frame_count, &m->frame_capacity, sizeof *m->frames) ||
        !grow_index(m, &m->frame_index, &m->frame_slots, m->frame_count, &rebuilt))
        return 0;
    frame = m->frame_count++;
    m->frames[frame] = (struct frame){state, below, depth, 0};
    for (uint32_t i = 1; rebuilt && i < frame; i++)
        index_frame(m, i);
    index_frame(m, frame);
    return frame;
}

/* ---- states -------------------------------------------------------------------------------------------------------
 */

static uint32_t hash_places(const uint32_t *places, uint32_t count, unsigned kind)
{
    uint32_t hash = kind;
    for (uint32_t i = 0; i < count; i++)
        hash = mix(hash, places[i]);
    return hash;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void index_state(struct grammar_matcher *m, uint32_t state)
{
    const struct state *s = &m->states[state];
    uint32_t slot = hash_places(m->places + s->first, s->count, s->complete + 2u * s->marks) & (m->state_slots - 1);
    while (m->state_index[slot])
        slot = (slot + 1) & (m->state_slots - 1);
    m->state_index[slot] = state;
}

/* Returns the state whose places are the first count in found. */
static uint32_t intern(struct grammar_matcher *m, uint32_t count, bool complete, uint8_t marks)
{
    if (count == 0 && !complete)
        return DEAD;
    qsort(m->found, count, sizeof *m->found, compare_numbers);
    uint32_t slot = hash_places(m->found, count, complete + 2u * marks) & (m->state_slots - 1), state;
    for (; (state = m->state_index[slot]) != 0; slot = (slot + 1) & (m->state_slots - 1)) {
        const struct state *s = &m->states[state];
        if (s->count == count && s->complete == complete && s->marks == marks &&
            (count == 0 || memcmp(m->places + s->first, m->found, count * sizeof *m->found) == 0))
            return state;
    }
    bool rebuilt;
    if (!grow(m, (void **)&m->states, m->state_count, &m->state_capacity, sizeof *m->states) ||
        !grow_index(m, &m->state_index, &m->state_slots, m->state_count, &rebuilt))
        return DEAD;
    for (uint32_t i = 0; i < count; i++) {
        if (!grow(m, (void **)&m->places, m->place_count + i, &m->place_capacity, sizeof *m->places))
            return DEAD;
        m->places[m->place_count + i] = m->found[i];
    }
    state = m->state_count++;
    m->states[state] = (struct state){.first = m->place_count, .count = count, .complete = complete, .marks = marks};
    m->place_count += count;
    for (uint32_t i = 1; rebuilt && i < state; i++)
        index_state(m, i);
    index_state(m, state);
    return state;
}

/* Adds a place to the work, unless this closure has seen it already. */
static void visit(struct grammar_matcher *m, uint32_t state, uint32_t below, uint32_t *work)
{
    uint32_t place = push(m, state, below);
    if (place == 0 || m->frames[place].stamp == m->stamp)
        return;
    m->frames[place].stamp = m->stamp;
    if (*work == MAX_PLACES * 4)
        matcher_fail(m, HYPURA_ERROR_FORMAT, "the grammar is too ambiguous to follow");
    else
        m->work[(*work)++] = place;
}

/* Returns the state of all places before a byte that the places in work lead to without reading one. */
static uint32_t close_places(struct grammar_matcher *m, uint32_t work)
{
    uint32_t count = 0;
    bool complete = false;
    uint8_t marks = 0;
    while (work && !m->failed) {
        uint32_t place = m->work[--work];
        struct frame frame = m->frames[place];
        const struct network_state *s = &m->grammar->states[frame.state];
        switch (s->kind) {
        case STATE_SPLIT:
            visit(m, s->next, frame.below, &work);
            visit(m, s->other, frame.below, &work);
            break;
        case STATE_CALL:
            /* A call at the end of a rule needs no return, so tail recursion does not grow the stack. */
            if (m->grammar->states[s->next].kind == STATE_END) {
                visit(m, s->other, frame.below, &work);
            } else {
                uint32_t way_back = push(m, s->next, frame.below);
                if (way_back)
                    visit(m, s->other, way_back, &work);
            }
            break;
        case STATE_MARK:
            marks |= s->low;
            visit(m, s->next, frame.below, &work);
            break;
        case STATE_END:
            if (frame.below)
                visit(m, m->frames[frame.below].state, m->frames[frame.below].below, &work);
            else
                complete = true;
            break;
        default:
            if (count == MAX_PLACES)
                return matcher_fail(m, HYPURA_ERROR_FORMAT, "the grammar is too ambiguous to follow");
            m->found[count++] = place;
        }
    }
    return m->failed ? DEAD : intern(m, count, complete, marks);
}

static bool takes(const struct grammar *g, const struct network_state *s, unsigned byte)
{
    if (s->kind == STATE_SET)
        return byte < 128 && (g->sets[s->other].bits[byte / 32] >> (byte % 32) & 1);
    return byte >= s->low && byte <= s->high;
}

uint32_t matcher_step(struct grammar_matcher *m, uint32_t state, unsigned byte)
{
    if (state == DEAD)
        return DEAD;
    uint32_t *steps = m->states[state].steps;
    if (steps && steps[byte] != UNKNOWN)
        return steps[byte];
    if (!steps) {
        if (ALLOCATE(&steps, 256, "grammar", NULL) != HYPURA_OK)
            return matcher_fail(m, HYPURA_ERROR_MEMORY, "no memory for the states of the grammar");
        memset(steps, 0xff, 256 * sizeof *steps);
        m->states[state].steps = steps;
    }
    uint32_t work = 0;
    m->stamp++;
    for (uint32_t i = 0; i < m->states[state].count; i++) {
        struct frame frame = m->frames[m->places[m->states[state].first + i]];
        const struct network_state *s = &m->grammar->states[frame.state];
        if (takes(m->grammar, s, byte))
            visit(m, s->next, frame.below, &work);
    }
    uint32_t next = close_places(m, work);
    if (!m->failed)
        steps[byte] = next;
    return next;
}

/* ---- creating and clearing ----------------------------------------------------------------------------------------
 */

static void forget(struct grammar_matcher *m)
{
    for (uint32_t i = 0; i < m->state_count; i++) {
        memory_free(m->states[i].steps);
        memory_free(m->states[i].mask);
    }
    m->state_count = 1;
    m->frame_count = 1;
    m->place_count = 0;
    m->mask_count = 0;
    if (m->states)
        m->states[0] = (struct state){0};
    if (m->frame_index)
        memset(m->frame_index, 0, m->frame_slots * sizeof *m->frame_index);
    if (m->state_index)
        memset(m->state_index, 0, m->state_slots * sizeof *m->state_index);
}

/* Writes the network states of a place to stack, the top first, and returns their count. */
static uint32_t unwind(const struct grammar_matcher *m, uint32_t place, uint32_t *stack)
{
    uint32_t count = 0;
    for (; place; place = m->frames[place].below)
        stack[count++] = m->frames[place].state;
    return count;
}

/* Clears the tables, except for the current state. */
static void forget_all_but_current(struct grammar_matcher *m)
{
    const struct state *s = &m->states[m->current];
    uint32_t count = s->count, *stacks = NULL, *lengths = NULL;
    bool complete = s->complete;
    uint8_t marks = s->marks;
    size_t total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += m->frames[m->places[s->first + i]].depth + 1;
    if (ALLOCATE(&stacks, total, "grammar", NULL) != HYPURA_OK ||
        ALLOCATE(&lengths, count, "grammar", NULL) != HYPURA_OK) {
        matcher_fail(m, HYPURA_ERROR_MEMORY, "no memory for the states of the grammar");
    } else {
        size_t at = 0;
        for (uint32_t i = 0; i < count; i++) {
            lengths[i] = unwind(m, m->places[s->first + i], stacks + at);
            at += lengths[i];
        }
        forget(m);
        at = 0;
        for (uint32_t i = 0; i < count; i++) {
            uint32_t place = 0;
            for (uint32_t k = lengths[i]; k-- > 0;)
                place = push(m, stacks[at + k], place);
            m->found[i] = place;
            at += lengths[i];
        }
        m->current = intern(m, count, complete, marks);
    }
    memory_free(stacks);
    memory_free(lengths);
}

void matcher_keep_small(struct grammar_matcher *m)
{
    if (m->state_count > MAX_STATES || m->frame_count > MAX_FRAMES / 2)
        forget_all_but_current(m);
}

void grammar_matcher_reset(struct grammar_matcher *m)
{
    m->failed = false;
    m->ended = false;
    distinct_clear(&m->distinct);
    forget(m);
    uint32_t work = 0;
    m->stamp++;
    visit(m, m->grammar->start, 0, &work);
    m->current = close_places(m, work);
}

hypura_status grammar_matcher_create(struct grammar_matcher **out, const struct grammar *grammar,
                                     const struct grammar_vocabulary *vocabulary, hypura_error *error)
{
    struct grammar_matcher *m;
    bool ignored;
    hypura_status status = ALLOCATE(&m, 1, "grammar", error);
    if (status != HYPURA_OK)
        return status;
    m->grammar = grammar;
    m->vocabulary = vocabulary;
    status = ALLOCATE(&m->work, MAX_PLACES * 4, "grammar", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&m->found, MAX_PLACES, "grammar", error);
    if (status == HYPURA_OK)
        status = ALLOCATE(&m->trail, vocabulary->longest + 1, "grammar", error);
    if (status == HYPURA_OK && (!grow(m, (void **)&m->states, 0, &m->state_capacity, sizeof *m->states) ||
                                !grow(m, (void **)&m->frames, 0, &m->frame_capacity, sizeof *m->frames) ||
                                !grow(m, (void **)&m->places, 0, &m->place_capacity, sizeof *m->places) ||
                                !grow_index(m, &m->frame_index, &m->frame_slots, 0, &ignored) ||
                                !grow_index(m, &m->state_index, &m->state_slots, 0, &ignored)))
        status = error_set(error, HYPURA_ERROR_MEMORY, "no memory for the states of the grammar");
    if (status == HYPURA_OK) {
        grammar_matcher_reset(m);
        if (m->failed)
            status = error_set(error, m->reason.status, "%s", m->reason.message);
    }
    if (status == HYPURA_OK)
        *out = m;
    else
        grammar_matcher_free(m);
    return status;
}

void grammar_matcher_free(struct grammar_matcher *m)
{
    if (!m)
        return;
    if (m->states)
        forget(m);
    memory_free(m->states);
    memory_free(m->frames);
    memory_free(m->frame_index);
    memory_free(m->state_index);
    memory_free(m->places);
    memory_free(m->work);
    memory_free(m->found);
    memory_free(m->trail);
    distinct_free(&m->distinct);
    memory_free(m);
}
