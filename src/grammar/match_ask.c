/* Queries of a matcher, and its progress past tokens and bytes. */
#include "grammar/match_private.h"

#include <string.h>

static uint32_t walk(struct grammar_matcher *m, uint32_t state, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size && state != DEAD; i++)
        state = matcher_step(m, state, (unsigned char)bytes[i]);
    return state;
}

static bool in_range(const struct grammar_matcher *m, int32_t token)
{
    return token >= 0 && (size_t)token < m->vocabulary->count;
}

bool grammar_matcher_allows(struct grammar_matcher *m, int32_t token)
{
    if (!in_range(m, token) || m->failed || m->ended)
        return false;
    if (m->vocabulary->ends[token])
        return m->states[m->current].complete;
    const struct token_piece *piece = &m->vocabulary->pieces[token];
    return piece->size && walk(m, m->current, piece->bytes, piece->size) != DEAD &&
           matcher_is_distinct(m, m->current, piece->bytes, piece->size, false);
}

bool grammar_matcher_is_complete(const struct grammar_matcher *m)
{
    return m->ended || m->states[m->current].complete;
}

/* Walks the sorted tokens. The prefix that a token shares with the previous one is not walked again, and a dead prefix
 * excludes all tokens that start with it. */
static void fill_mask(struct grammar_matcher *m, uint32_t *mask)
{
    const struct grammar_vocabulary *v = m->vocabulary;
    size_t alive = 0; /* leading bytes of the last walked token that are not dead: trail[0 .. alive] */
    m->trail[0] = m->current;
    for (size_t i = 0; i < v->ordered && !m->failed; i++) {
        size_t common = v->common[i];
        if (common > alive) /* the dead byte is shared */
            continue;
        const char *bytes = v->bytes + v->starts[i];
        size_t size = v->starts[i + 1] - v->starts[i];
        size_t at = common;
        bool marked = false;
        uint32_t state = m->trail[at];
        while (at < size) {
            unsigned byte = (unsigned char)bytes[at];
            const uint32_t *steps = m->states[state].steps;
            state = steps && steps[byte] != UNKNOWN ? steps[byte] : matcher_step(m, state, byte);
            if (state == DEAD)
                break;
            m->trail[++at] = state;
        }
        alive = at;
        for (size_t k = 1; at == size && k <= size && !marked; k++)
            marked = m->states[m->trail[k]].marks;
        if (at == size && (!marked || matcher_is_distinct(m, m->current, bytes, size, false)))
            mask[v->order[i] / 32] |= 1u << (v->order[i] % 32);
    }
    for (size_t i = 0; i < v->count && m->states[m->current].complete; i++)
        if (v->ends[i])
            mask[i / 32] |= 1u << (i % 32);
}

hypura_status grammar_matcher_mask(struct grammar_matcher *m, uint32_t *bits, hypura_error *error)
{
    size_t words = (m->vocabulary->count + 31) / 32;
    if (m->failed)
        return error_set(error, m->reason.status, "%s", m->reason.message);
    if (m->ended)
        return HYPURA_OK;
    matcher_keep_small(m);
    if (!m->states[m->current].mask) {
        uint32_t *mask;
        if (m->mask_count >= MAX_MASKS) {
            for (uint32_t i = 0; i < m->state_count; i++) {
                memory_free(m->states[i].mask);
                m->states[i].mask = NULL;
            }
            m->mask_count = 0;
        }
        hypura_status status = ALLOCATE(&mask, words, "grammar", error);
        if (status != HYPURA_OK)
            return status;
        struct distinct written = m->distinct; /* the cached mask must not depend on what was written */
        m->distinct = (struct distinct){0};
        fill_mask(m, mask);
        distinct_free(&m->distinct);
        m->distinct = written;
        if (m->failed) {
            memory_free(mask);
            return error_set(error, m->reason.status, "%s", m->reason.message);
        }
        m->states[m->current].mask = mask;
        m->mask_count++;
    }
    if (m->distinct.now.count == 0) {
        for (size_t i = 0; i < words; i++)
            bits[i] |= m->states[m->current].mask[i];
        return HYPURA_OK;
    }
    uint32_t *mask;
    hypura_status status = ALLOCATE(&mask, words, "grammar", error);
    if (status != HYPURA_OK)
        return status;
    memcpy(mask, m->states[m->current].mask, words * sizeof *mask);
    matcher_filter(m, mask);
    for (size_t i = 0; i < words; i++)
        bits[i] |= mask[i];
    memory_free(mask);
    return m->failed ? error_set(error, m->reason.status, "%s", m->reason.message) : HYPURA_OK;
}

hypura_status grammar_matcher_accept_bytes(struct grammar_matcher *m, const char *bytes, size_t size,
                                           hypura_error *error)
{
    uint32_t next = m->ended ? DEAD : walk(m, m->current, bytes, size);
    if (next != DEAD && !matcher_is_distinct(m, m->current, bytes, size, true))
        next = DEAD;
    if (m->failed)
        return error_set(error, m->reason.status, "%s", m->reason.message);
    if (next == DEAD)
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the text \"%.*s\" cannot come next in the grammar",
                         (int)MIN(size, (size_t)60), bytes);
    m->current = next;
    matcher_keep_small(m);
    return HYPURA_OK;
}

hypura_status grammar_matcher_accept(struct grammar_matcher *m, int32_t token, hypura_error *error)
{
    if (!in_range(m, token))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "there is no token %d", (int)token);
    if (!m->vocabulary->ends[token] && m->vocabulary->pieces[token].size)
        return grammar_matcher_accept_bytes(m, m->vocabulary->pieces[token].bytes, m->vocabulary->pieces[token].size,
                                            error);
    if (!grammar_matcher_allows(m, token))
        return error_set(error, HYPURA_ERROR_ARGUMENT, "the token %d cannot come next in the grammar", (int)token);
    m->ended = true;
    return HYPURA_OK;
}

static bool constraint_allows(void *context, int32_t token)
{
    return grammar_matcher_allows(context, token);
}

static hypura_status constraint_mask(void *context, uint32_t *bits, hypura_error *error)
{
    return grammar_matcher_mask(context, bits, error);
}

static hypura_status constraint_accept(void *context, int32_t token, hypura_error *error)
{
    return grammar_matcher_accept(context, token, error);
}

struct token_constraint grammar_matcher_constraint(struct grammar_matcher *m)
{
    return (struct token_constraint){constraint_allows, constraint_mask, constraint_accept, m};
}
