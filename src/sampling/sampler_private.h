/* Private to sampler*.c. */
#ifndef HYPURA_SAMPLER_PRIVATE_H
#define HYPURA_SAMPLER_PRIVATE_H

#include "sampling/sampler.h"

#include <math.h>

struct candidate {
    int32_t token;
    float logit;
    float p;   /* valid after candidates_softmax */
    float key; /* the sort key */
};

/* The tokens that are left. As long as none is removed (all is true), they are in logits only: in the caller's if
 * nothing changes them, of which some may be no numbers, or else in changed. */
struct candidates {
    const float *logits; /* [vocabulary] */
    float *changed;      /* [vocabulary] */
    size_t vocabulary;
    bool all;
    struct candidate *items; /* [most_candidates()] */
    struct candidate *spare; /* the same size, for sorting */
    size_t count;
    bool sorted; /* by logit, likeliest first */
};

struct sampler {
    struct sampler_options options;
    struct logit_bias *biases;
    char **breakers;
    size_t breaker_longest; /* in bytes */
    struct random random;
    float mu; /* mirostat */
    struct token_constraint constraint;
    bool constrained;

    int32_t *history; /* the last tokens, oldest first */
    bool *broken;     /* [history_count] a breaker ends in this token */
    size_t history_count, history_capacity, history_most;
    bool forgot;        /* memory ran out for the history: penalties would be wrong */
    struct buffer tail; /* the last bytes of the text, for breakers that span tokens */

    struct candidates candidates;
    uint32_t *counts;  /* [vocabulary], all zero between calls; NULL without penalties */
    uint32_t *mask;    /* [(vocabulary + 31) / 32] */
    uint32_t *matches; /* [match_capacity] scratch memory of DRY, one per token of the history */
    size_t match_capacity;
};

/* -infinity for what is no number, or infinite. */
static inline float number_or_least(float logit)
{
    return logit < INFINITY ? logit : -INFINITY;
}

/* Fills items from logits, unless they are filled already. */
void candidates_list(struct candidates *c);
/* Sorts so that at least the first `count` items are the likeliest, in order. */
void candidates_sort(struct candidates *c, size_t count);
void candidates_softmax(struct candidates *c);

void candidates_top_k(struct candidates *c, size_t k);
void candidates_top_p(struct candidates *c, float p);
void candidates_min_p(struct candidates *c, float p);
void candidates_typical(struct candidates *c, float p);
void candidates_top_n_sigma(struct candidates *c, float n);
void candidates_xtc(struct candidates *c, float probability, float threshold, struct random *random);
void candidates_temperature(struct candidates *c, float temperature, float range, float exponent);
size_t candidates_draw(struct candidates *c, struct random *random); /* returns an index of items */

/* Both change logits in place. */
void penalize_repeats(struct sampler *s, float *logits);
hypura_status penalize_dry(struct sampler *s, float *logits, hypura_error *error);

#endif
