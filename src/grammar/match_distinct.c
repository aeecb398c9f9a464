/* Excludes tokens that would repeat an item or a name, or begin one that could only become a repetition. */
#include "grammar/match_private.h"

#include <string.h>

#define MAX_LOOK_AHEAD 5000 /* bytes tried in the search for a continuation that differs */

static bool passes(struct grammar_matcher *m, unsigned byte, uint32_t state)
{
    enum distinct_result result = distinct_step(&m->distinct, byte, m->states[state].marks);
    if (result == DISTINCT_FULL)
        matcher_fail(m, HYPURA_ERROR_UNSUPPORTED,
                     "the output has too many items that must differ, or nests them too deeply");
    return result == DISTINCT_FITS;
}

/* Whether the open items can still become different from all earlier ones. Assumes so after MAX_LOOK_AHEAD tries. */
static bool can_become_new(struct grammar_matcher *m, uint32_t state, int depth, uint32_t *tries)
{
    if (distinct_is_free(&m->distinct))
        return true;
    if (depth > 200)
        return false;
    struct distinct_mark here = distinct_here(&m->distinct);
    for (unsigned byte = 0x20; byte < 0x100 && !m->failed; byte++) {
        if (byte == ' ' && !m->distinct.now.in_string) /* white space changes nothing */
            continue;
        uint32_t next = matcher_step(m, state, byte);
        if (next == DEAD)
            continue;
        if (++*tries > MAX_LOOK_AHEAD)
            return true;
        bool fine = passes(m, byte, next) && can_become_new(m, next, depth + 1, tries);
        distinct_go_back(&m->distinct, &here);
        if (fine)
            return true;
    }
    return false;
}

bool matcher_is_distinct(struct grammar_matcher *m, uint32_t state, const char *bytes, size_t size, bool keep)
{
    struct distinct_mark here = distinct_here(&m->distinct);
    bool fine = true;
    uint32_t tries = 0;
    for (size_t i = 0; i < size && fine && !m->failed; i++) {
        state = matcher_step(m, state, (unsigned char)bytes[i]);
        fine = passes(m, (unsigned char)bytes[i], state);
    }
    fine = fine && !m->failed && can_become_new(m, state, 0, &tries);
    if (!fine || !keep)
        distinct_go_back(&m->distinct, &here);
    else if (m->distinct.now.count == 0)
        distinct_clear(&m->distinct);
    return fine;
}

/* Whether bytes cannot repeat an item: within a string that already differs, only a quotation mark could matter. */
static bool is_harmless(const struct distinct *d, const char *bytes, size_t size)
{
    return d->now.in_string && !d->now.escaped && distinct_is_free(d) && !memchr(bytes, '"', size);
}

void matcher_filter(struct grammar_matcher *m, uint32_t *mask)
{
    const struct grammar_vocabulary *v = m->vocabulary;
    for (size_t i = 0; i < v->ordered && !m->failed; i++) {
        uint32_t token = (uint32_t)v->order[i];
        const char *bytes = v->bytes + v->starts[i];
        size_t size = v->starts[i + 1] - v->starts[i];
        if (mask[token / 32] >> (token % 32) & 1 && !is_harmless(&m->distinct, bytes, size) &&
            !matcher_is_distinct(m, m->current, bytes, size, false))
            mask[token / 32] &= ~(1u << (token % 32));
    }
}
