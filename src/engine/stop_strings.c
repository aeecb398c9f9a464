#include "engine/stop_strings.h"

#include <string.h>

void stop_matcher_start(struct stop_matcher *matcher, const char *const *stops, size_t count)
{
    *matcher = (struct stop_matcher){.stops = stops, .count = count};
}

void stop_matcher_free(struct stop_matcher *matcher)
{
    buffer_free(&matcher->held);
    buffer_free(&matcher->out);
}

/* Where the earliest stop string begins, or SIZE_MAX. Of two that begin together the longer text is cut the same. */
static size_t find_stop(const struct stop_matcher *matcher, const char **stop)
{
    size_t best = SIZE_MAX;
    for (size_t i = 0; i < matcher->count; i++) {
        size_t length = strlen(matcher->stops[i]);
        if (length == 0 || length > matcher->held.size)
            continue;
        const char *found = memmem(matcher->held.data, matcher->held.size, matcher->stops[i], length);
        if (found && (size_t)(found - matcher->held.data) < best) {
            best = (size_t)(found - matcher->held.data);
            *stop = matcher->stops[i];
        }
    }
    return best;
}

/* Bytes at the end that are the beginning of some stop string. */
static size_t partial_match(const struct stop_matcher *matcher)
{
    size_t longest = 0;
    for (size_t i = 0; i < matcher->count; i++) {
        size_t length = strlen(matcher->stops[i]);
        for (size_t n = MIN(length ? length - 1 : 0, matcher->held.size); n > longest; n--) {
            if (memcmp(matcher->held.data + matcher->held.size - n, matcher->stops[i], n) == 0)
                longest = n;
        }
    }
    return longest;
}

void stop_matcher_push(struct stop_matcher *matcher, const char *text, size_t size, const char **safe,
                       size_t *safe_size, const char **stop)
{
    *stop = NULL;
    buffer_append(&matcher->held, text, size);
    size_t end = find_stop(matcher, stop);
    if (end == SIZE_MAX)
        end = matcher->held.size - partial_match(matcher);
    buffer_clear(&matcher->out);
    buffer_append(&matcher->out, matcher->held.data, end);
    if (end) {
        matcher->held.size -= end;
        memmove(matcher->held.data, matcher->held.data + end, matcher->held.size);
    }
    *safe = matcher->out.data;
    *safe_size = matcher->out.size;
}

void stop_matcher_finish(struct stop_matcher *matcher, const char **rest, size_t *rest_size)
{
    *rest = matcher->held.data ? matcher->held.data : "";
    *rest_size = matcher->held.size;
}
