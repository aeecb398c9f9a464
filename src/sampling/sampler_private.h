/* Private to sampler*.c. */
#ifndef HYPURA_SAMPLER_PRIVATE_H
#define HYPURA_SAMPLER_PRIVATE_H

#include "sampling/sampler.h"

struct candidate {
    int32_t token;
    float logit;
    float p;   /* valid after candidates_softmax */
    float key; /* what a sort goes by */
};

/* The tokens that are left. As long as none was taken away (all is true) they are only in logits. */
struct candidates {
    float *logits; /* [vocabulary] */
    size_t vocabulary;
    bool all;
    struct candidate *items; /* room for as many as the steps can need */
    struct candidate *spare; /* as much again, for sorting */
    size_t count;
    bool sorted; /* by logit, the likeliest first */
};

struct sampler {
    struct sampler_options options;
    struct logit_bias *biases;
    char **breakers;
    size_t breaker_longest; /* bytes */
    struct random random;
    float mu; /* mirostat */
    struct token_constraint constraint;
    bool constrained;

    int32_t *history; /* the last tokens, oldest first */
    bool *broken;     /* whether a breaker ends in this token */
    size_t history_count, history_capacity, history_most;
    bool forgot; /* there was no memory for a token of the history: penalties would be others */
    struct buffer tail; /* the last bytes of the text, for breakers of several tokens */

    struct candidates candidates;
    uint32_t *counts;  /* [vocabulary], zero between calls; NULL without penalties */
    uint32_t *mask;    /* (vocabulary + 31) / 32 words */
    uint32_t *matches; /* of DRY: room for the history */
    size_t match_capacity;
};

/* Makes items from logits when they are not there yet. */
void candidates_list(struct candidates *c);
/* Makes at least the first `count` items be the likeliest in order; all of them when the count is larger. */
void candidates_sort(struct candidates *c, size_t count);
void candidates_softmax(struct candidates *c);

void candidates_top_k(struct candidates *c, size_t k);
void candidates_top_p(struct candidates *c, float p);
void candidates_min_p(struct candidates *c, float p);
void candidates_typical(struct candidates *c, float p);
void candidates_top_n_sigma(struct candidates *c, float n);
void candidates_xtc(struct candidates *c, float probability, float threshold, struct random *random);
void candidates_temperature(struct candidates *c, float temperature, float range, float exponent);
size_t candidates_draw(struct candidates *c, struct random *random); /* an index of items */

/* These change logits. */
void penalize_repeats(struct sampler *s, float *logits);
hypura_status penalize_dry(struct sampler *s, float *logits, hypura_error *error);

#endif
