#include "sampling/stop_strings.h"

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

/* Finds the stop string that ends first; of two with the same end, the longer one. Returns where it begins, or
 * SIZE_MAX. The first end does not depend on how the text is cut into pieces; the first beginning would. */
static size_t find_stop(const struct stop_matcher *matcher, const char **stop)
{
    size_t begin = SIZE_MAX, end = SIZE_MAX;
    for (size_t i = 0; i < matcher->count; i++) {
        size_t length = strlen(matcher->stops[i]);
        if (length == 0 || length > matcher->held.size)
            continue;
        const char *found = memmem(matcher->held.data, matcher->held.size, matcher->stops[i], length);
        if (!found)
            continue;
        size_t at = (size_t)(found - matcher->held.data);
        if (at + length < end || (at + length == end && at < begin)) {
            begin = at;
            end = at + length;
            *stop = matcher->stops[i];
        }
    }
    return begin;
}

/* Returns how many bytes at the end of the text are the beginning of a stop string. */
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
    if (end && !matcher->out.failed) {
        matcher->held.size -= end;
        memmove(matcher->held.data, matcher->held.data + end, matcher->held.size);
    }
    matcher->failed |= matcher->held.failed || matcher->out.failed;
    *safe = matcher->out.data;
    *safe_size = matcher->out.size;
}

void stop_matcher_finish(struct stop_matcher *matcher, const char **rest, size_t *rest_size)
{
    *rest = matcher->held.data ? matcher->held.data : "";
    *rest_size = matcher->held.size;
}
