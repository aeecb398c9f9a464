/* compare: how far one model's predictions of a text are from another's, a quantisation's from what it was made of. Windows
 * as in perplexity.h. */
#ifndef HYPURA_COMPARE_H
#define HYPURA_COMPARE_H

#include "engine/engine.h"

struct compared_value {
    double value, uncertainty; /* one standard error */
};

struct comparison {
    struct compared_value perplexity[2];
    struct compared_value log_ratio; /* mean of ln(probability in the first / in the second), token by token */
    struct compared_value divergence; /* mean Kullback-Leibler, of the second from the first, in nats */
    double median, percentile_99, greatest; /* of it */
    struct compared_value agreement; /* share of tokens where both find the same one most likely */
    uint64_t counted, windows;
};

/* Both have one vocabulary. progress may be NULL; false stops with HYPURA_ERROR_CANCELLED. */
typedef bool (*compare_progress)(void *context, const struct comparison *so_far, uint64_t windows);
hypura_status compare_models(struct engine *const engines[2], const int32_t *tokens, size_t count, uint32_t window,
                             int32_t bos, compare_progress progress, void *context, struct comparison *out,
                             hypura_error *error);

#endif
