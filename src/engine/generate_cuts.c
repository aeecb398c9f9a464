/* Prompts that would continue a sequence, except for a few different tokens early in them. */
#include "engine/generate_private.h"

#include <string.h>

#define MOST_APART 48u /* tokens that differ, on either side */
#define SURE 16u       /* tokens after them that must be the same again */
#define MOST_CUTS 8u   /* such places, e.g. a date and a later id */

/* Finds the fewest tokens that differ from here on; false: too many do. */
static bool find_end(const int32_t *held, size_t held_count, const int32_t *asked, size_t asked_count,
                     uint32_t *held_apart, uint32_t *asked_apart)
{
    for (uint32_t sum = 1; sum <= 2 * MOST_APART; sum++) {
        for (uint32_t i = sum > MOST_APART ? sum - MOST_APART : 0; i <= MIN(sum, MOST_APART); i++) {
            uint32_t k = sum - i;
            if (i + SURE <= held_count && k + SURE <= asked_count &&
                memcmp(held + i, asked + k, SURE * sizeof *held) == 0) {
                *held_apart = i;
                *asked_apart = k;
                return true;
            }
        }
    }
    return false;
}

static uint32_t count_same(const int32_t *a, size_t a_count, const int32_t *b, size_t b_count)
{
    uint32_t same = 0;
    while (same < MIN(a_count, b_count) && a[same] == b[same])
        same++;
    return same;
}

static struct prompt_cut find_cut(const struct slot *slot, const int32_t *tokens, size_t count)
{
    uint32_t at = count_same(slot->history, slot->held, tokens, count), behind = at;
    struct prompt_cut cut = {.position = at, .held = slot->history + at};
    for (uint32_t cuts = 0; cuts < MOST_CUTS; cuts++) {
        uint32_t held_apart, asked_apart;
        if (!find_end(slot->history + at, slot->held - at, tokens + behind, count - behind, &held_apart, &asked_apart))
            break;
        if (cuts == 0) {
            cut.held_apart = held_apart;
            cut.asked_apart = asked_apart;
        }
        at += held_apart;
        behind += asked_apart;
        uint32_t same = count_same(slot->history + at, slot->held - at, tokens + behind, count - behind);
        cut.same += same;
        at += same;
        behind += same;
    }
    return cut;
}

bool generator_find_cut(const struct generator *generator, const int32_t *tokens, size_t count, struct prompt_cut *out)
{
    *out = (struct prompt_cut){0};
    for (uint32_t s = 0; s < generator->slot_count; s++) {
        struct prompt_cut cut = find_cut(&generator->slots[s], tokens, count);
        if (cut.same > out->same)
            *out = cut;
    }
    return out->same > 0;
}
