/* stop strings: finds the first of some strings in text that arrives in pieces, and holds back only what could still
 * become one. Private to the engine. */
#ifndef HYPURA_STOP_STRINGS_H
#define HYPURA_STOP_STRINGS_H

#include "core/core.h"

struct stop_matcher {
    const char *const *stops; /* borrowed */
    size_t count;
    struct buffer held; /* text that was not given out */
    struct buffer out;
    bool failed; /* there was no memory for the text: what is given is not all of it */
};

/* An empty string never stops anything. */
void stop_matcher_start(struct stop_matcher *matcher, const char *const *stops, size_t count);
void stop_matcher_free(struct stop_matcher *matcher);

/* Takes text; gives what is safe to show (valid until the next call) and, once a stop string is complete, that string:
 * then the text ends before it and nothing may be pushed any more. */
void stop_matcher_push(struct stop_matcher *matcher, const char *text, size_t size, const char **safe,
                       size_t *safe_size, const char **stop);

/* What was held back, when the text ends without a stop string. */
void stop_matcher_finish(struct stop_matcher *matcher, const char **rest, size_t *rest_size);

#endif
