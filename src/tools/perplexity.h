/* perplexity: how well a model predicts a text. The text is cut into windows of equal length; of each the second half
 * counts, where the model has seen at least half a window (as llama-perplexity does it, so that figures compare). */
#ifndef HYPURA_PERPLEXITY_H
#define HYPURA_PERPLEXITY_H

#include "engine/engine.h"

struct perplexity {
    double perplexity;
    double uncertainty; /* one standard error of the mean, carried over to the perplexity */
    uint64_t counted;   /* tokens that counted */
    uint64_t windows;
};

/* tokens: the whole text. bos: replaces the first token of each window, or negative for a model without. progress (may
 * be NULL) is called after each window with the figure so far, and may return false to stop: then
 * HYPURA_ERROR_CANCELLED. */
typedef bool (*perplexity_progress)(void *context, const struct perplexity *so_far, uint64_t windows);
hypura_status perplexity_measure(struct engine *engine, const int32_t *tokens, size_t count, uint32_t window,
                                 int32_t bos, perplexity_progress progress, void *context, struct perplexity *out,
                                 hypura_error *error);

#endif
