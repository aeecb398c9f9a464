/* stop strings: finds the first stop string in text that arrives in pieces. Holds back only text that could still
 * become one. Private to the engine. */
#ifndef HYPURA_STOP_STRINGS_H
#define HYPURA_STOP_STRINGS_H

#include "core/core.h"

struct stop_matcher {
    const char *const *stops; /* borrowed */
    size_t count;
    struct buffer held; /* text that is not released yet */
    struct buffer out;
    bool failed; /* memory ran out: the released text is incomplete */
};

/* Starts a new text. Empty stop strings are ignored. */
void stop_matcher_start(struct stop_matcher *matcher, const char *const *stops, size_t count);
void stop_matcher_free(struct stop_matcher *matcher);

/* Takes text. *safe is the text that can be shown now, valid until the next call. Once a stop string is complete, *stop
 * is that string: the text ends before it, and nothing more may be pushed. */
void stop_matcher_push(struct stop_matcher *matcher, const char *text, size_t size, const char **safe,
                       size_t *safe_size, const char **stop);

/* Ends a text without a stop string. *rest is the text that was held back. */
void stop_matcher_finish(struct stop_matcher *matcher, const char **rest, size_t *rest_size);

#endif
