/* Penalties on repetition: plain ones, and DRY ("don't repeat yourself", from
 * github.com/oobabooga/text-generation-webui/pull/5677), which finds the longest repetition that a token would
 * extend. */
#include "sampling/sampler_private.h"

#include <math.h>
#include <string.h>

/* Returns how many tokens the last n of the history are; n < 0: all. */
static size_t last_tokens(const struct sampler *s, int32_t n)
{
    return n < 0 ? s->history_count : MIN((size_t)n, s->history_count);
}

void penalize_repeats(struct sampler *s, float *logits)
{
    const struct sampler_options *o = &s->options;
    if (o->repeat_penalty == 1 && o->frequency_penalty == 0 && o->presence_penalty == 0)
        return;
    size_t count = last_tokens(s, o->repeat_last_n);
    if (count == 0)
        return;
    const int32_t *tokens = s->history + s->history_count - count;
    for (size_t i = 0; i < count; i++)
        s->counts[tokens[i]]++;
    for (size_t i = 0; i < count; i++) {
        uint32_t times = s->counts[tokens[i]];
        if (times == 0)
            continue;
        float *logit = &logits[tokens[i]];
        *logit = *logit <= 0 ? *logit * o->repeat_penalty : *logit / o->repeat_penalty;
        *logit -= (float)times * o->frequency_penalty + o->presence_penalty;
        s->counts[tokens[i]] = 0;
    }
}

static bool is_breaker(const struct sampler *s, int32_t token)
{
    const struct token_piece *piece = &s->options.pieces[token];
    for (size_t i = 0; i < s->options.dry_breaker_count; i++)
        if (memmem(piece->bytes, piece->size, s->breakers[i], strlen(s->breakers[i])))
            return true;
    return false;
}

hypura_status penalize_dry(struct sampler *s, float *logits, hypura_error *error)
{
    const struct sampler_options *o = &s->options;
    size_t count = last_tokens(s, o->dry_last_n);
    if (o->dry_multiplier == 0 || o->dry_base < 1 || count <= o->dry_allowed_length)
        return HYPURA_OK;
    const int32_t *newest = s->history + s->history_count - 1; /* newest[-i]: i tokens ago */
    const bool *broken = s->broken + s->history_count - 1;
    size_t longest = 0; /* a repetition ends at a breaker */
    while (longest < count && !broken[-(ptrdiff_t)longest])
        longest++;
    if (longest < o->dry_allowed_length)
        return HYPURA_OK;
    if (count > s->match_capacity) {
        size_t room = MAX(count, s->match_capacity * 2);
        hypura_status status =
            memory_resize((void **)&s->matches, s->match_capacity, room, sizeof *s->matches, "repetitions", error);
        if (status != HYPURA_OK)
            return status;
        s->match_capacity = room;
    }
    /* z[i]: how many tokens, from i tokens ago backwards, equal those from the newest backwards. This is the Z function
     * of the reversed history, computed in linear time (Gusfield, 1997). */
    uint32_t *z = s->matches;
    size_t left = 0, right = 0;
    z[0] = (uint32_t)count;
    for (size_t i = 1; i < count; i++) {
        size_t length = i < right ? MIN(right - i, (size_t)z[i - left]) : 0;
        while (i + length < count && newest[-(ptrdiff_t)length] == newest[-(ptrdiff_t)(i + length)])
            length++;
        z[i] = (uint32_t)length;
        if (i + length > right) {
            left = i;
            right = i + length;
        }
    }
    /* The token after a match would extend the repetition. Its penalty is for the longest one. */
    for (size_t i = 1; i < count; i++) {
        size_t length = MIN((size_t)z[i], longest);
        int32_t next = newest[-(ptrdiff_t)(i - 1)];
        if (length >= o->dry_allowed_length)
            s->counts[next] = MAX(s->counts[next], (uint32_t)length);
    }
    for (size_t i = 1; i < count; i++) {
        int32_t next = newest[-(ptrdiff_t)(i - 1)];
        uint32_t length = s->counts[next];
        s->counts[next] = 0;
        if (length == 0 || (o->pieces && is_breaker(s, next)))
            continue;
        /* Larger exponents would overflow a float. */
        float exponent = (float)(length - o->dry_allowed_length), most = 88.0f / logf(MAX(o->dry_base, 1.000001f));
        logits[next] -= o->dry_multiplier * powf(o->dry_base, MIN(exponent, most));
    }
    return HYPURA_OK;
}
