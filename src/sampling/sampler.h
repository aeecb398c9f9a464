/* sampler: chooses the next token.
 *
 * A sampler holds the settings, the random state and the token history of one answer. It first changes logits (bias,
 * penalties, DRY), then removes tokens (top-k, top-p and so on), applies the temperature and draws. The defaults and
 * the order of the steps are llama.cpp's. The options below explain each step.
 *
 * The same options, seed and logits give the same tokens. Between equal logits, the lower id wins.
 *
 * Ownership: a sampler copies its options but borrows `pieces` and the constraint's context. Threads: one thread at a
 * time may use a sampler. Cost: a pass over the logits and a partial selection; a full sort only if a step needs more
 * than the likeliest 512 tokens. Memory: 4 bytes per token of the vocabulary with the default order of steps, 4 more
 * with penalties, 32 more if a step other than top-k comes first.
 */
#ifndef HYPURA_SAMPLER_H
#define HYPURA_SAMPLER_H

#include "core/core.h"

enum sampler_step {
    SAMPLER_PENALTIES,
    SAMPLER_DRY,
    SAMPLER_TOP_N_SIGMA,
    SAMPLER_TOP_K,
    SAMPLER_TYPICAL,
    SAMPLER_TOP_P,
    SAMPLER_MIN_P,
    SAMPLER_XTC,
    SAMPLER_TEMPERATURE,
    SAMPLER_STEP_COUNT
};

struct logit_bias {
    int32_t token;
    float bias; /* added to the logit; -INFINITY bans the token */
};

/* The bytes that a token contributes to a text. */
struct token_piece {
    const char *bytes;
    size_t size;
};

struct sampler_options {
    uint64_t seed;

    float temperature;      /* 0.8. 0 or less: the likeliest token; only bias, penalties and DRY apply then */
    float dynamic_range;    /* 0: off. The temperature rises with the entropy, from temperature - range to + range */
    float dynamic_exponent; /* 1 */
    uint32_t top_k;         /* 40. 0: off. Keeps the k likeliest */
    float top_p;            /* 0.95. 1: off. Keeps the likeliest whose probabilities add up to this */
    float min_p;            /* 0.05. 0: off. Keeps those at least min_p times as likely as the likeliest */
    float typical_p;        /* 1: off. Keeps those whose surprise is nearest to the entropy (Meister et al., 2022) */
    float top_n_sigma;      /* 0: off. Keeps logits within n standard deviations of the best (Tang et al., 2024) */
    float xtc_probability;  /* 0: off. Chance to drop all tokens above the threshold except the least likely of them */
    float xtc_threshold;    /* 0.1 */

    float repeat_penalty;    /* 1: off. Divides positive and multiplies negative logits of tokens seen */
    float frequency_penalty; /* 0: off. Subtracted from a logit for each occurrence of its token */
    float presence_penalty;  /* 0: off. Subtracted once if it appeared at all */
    int32_t repeat_last_n;   /* 64. How many of the last tokens count; 0: none, -1: all */

    float dry_multiplier;            /* 0: off. The logit of a token that would extend a repetition of length n is */
    float dry_base;                  /* 1.75   reduced by multiplier * base ^ (n - allowed length) */
    uint32_t dry_allowed_length;     /* 2 */
    int32_t dry_last_n;              /* -1: all */
    const char *const *dry_breakers; /* texts that end a repetition; "\n", ":", "\"", "*" */
    size_t dry_breaker_count;

    uint32_t mirostat;  /* 0: off; 2: version 2, which replaces all truncation (Basu et al., 2021) */
    float mirostat_tau; /* 5: the target surprise, in bits */
    float mirostat_eta; /* 0.1: the learning rate */

    const struct logit_bias *biases;
    size_t bias_count;

    enum sampler_step steps[SAMPLER_STEP_COUNT]; /* in this order; others are skipped */
    size_t step_count;

    const struct token_piece *pieces; /* [vocabulary], for dry_breakers; NULL: no breakers */
};

void sampler_default_options(struct sampler_options *options);

/* Sets the steps from names separated by ";": penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc,
 * temperature. */
hypura_status sampler_parse_steps(struct sampler_options *options, const char *names, hypura_error *error);

/* A restriction on the next token, such as a grammar. mask sets the bits (token % 32 of word token / 32) of the allowed
 * tokens; the sampler calls it only if the token that it drew is not allowed. It calls accept with the chosen token. */
struct token_constraint {
    bool (*allows)(void *context, int32_t token);
    hypura_status (*mask)(void *context, uint32_t *bits, hypura_error *error);
    hypura_status (*accept)(void *context, int32_t token, hypura_error *error);
    void *context;
};

struct sampler;

/* vocabulary: the number of logits. An option out of range is refused, and the error names it. */
hypura_status sampler_create(struct sampler **out, const struct sampler_options *options, size_t vocabulary,
                             hypura_error *error);
void sampler_destroy(struct sampler *sampler);

/* Restores the state after sampler_create and removes the constraint. */
void sampler_reset(struct sampler *sampler);

/* NULL removes the constraint. */
void sampler_set_constraint(struct sampler *sampler, const struct token_constraint *constraint);

/* Chooses the next token and adds it to the history, as sampler_accept does. logits: [vocabulary], not changed; NaN
 * excludes a token. Returns HYPURA_ERROR_ARGUMENT if no token is possible. */
hypura_status sampler_sample(struct sampler *sampler, const float *logits, int32_t *token, hypura_error *error);

/* Adds a token that the sampler did not choose, such as one of the prompt, to the history for penalties and DRY. */
void sampler_accept(struct sampler *sampler, int32_t token);

struct token_logprob {
    int32_t token;
    float logprob; /* natural logarithm */
};

/* Computes log-probabilities directly from logits, without any setting: returns that of one token, and writes the count
 * likeliest to top, the best first. */
float logits_logprobs(const float *logits, size_t vocabulary, int32_t token, struct token_logprob *top, size_t count);

#endif
