/* compare: measures how far a model's predictions of a text are from another's, such as a quantisation's from those of
 * its original. The text is cut into windows as in perplexity.h. */
#ifndef HYPURA_COMPARE_H
#define HYPURA_COMPARE_H

#include "engine/engine.h"

struct compared_value {
    double value, uncertainty; /* one standard error */
};

struct comparison {
    struct compared_value perplexity[2];
    struct compared_value log_ratio;        /* mean per token of ln(probability in the first / in the second) */
    struct compared_value divergence;       /* mean Kullback-Leibler divergence of the second from the first, in nats */
    double median, percentile_99, greatest; /* of the divergence */
    struct compared_value agreement;        /* share of positions where both find the same token most likely */
    uint64_t counted, windows;
};

/* The models must have the same vocabulary. bos: replaces the first token of each window; negative: none. progress may
 * be NULL; if it returns false, the comparison stops with HYPURA_ERROR_CANCELLED. */
typedef bool (*compare_progress)(void *context, const struct comparison *so_far, uint64_t windows);
hypura_status compare_models(struct engine *const engines[2], const int32_t *tokens, size_t count, uint32_t window,
                             int32_t bos, compare_progress progress, void *context, struct comparison *out,
                             hypura_error *error);

#endif
