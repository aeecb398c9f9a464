/* sampler: which token comes next.
 *
 * A sampler holds the settings, the random numbers and the tokens seen so far of one answer. It first changes logits
 * (bias, penalties, DRY), then takes tokens away (top-k and its kin), applies the temperature and draws. The defaults
 * and the order of the steps are llama.cpp's; the options below explain each step.
 *
 * The same options, seed and logits give the same tokens. Ties in logits are broken by the lower id.
 *
 * Ownership: a sampler copies its options, but borrows `pieces` and the constraint. Threads: one sampler on one thread
 * at a time. Cost: a pass over the logits and a partial selection; no full sort unless a step needs more than the
 * likeliest 512 tokens. Memory: 4 bytes per token of the vocabulary with the default order of steps, 4 more with
 * penalties, 32 more if a step other than top-k comes first.
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

/* The bytes of a token as they appear in a text. */
struct token_piece {
    const char *bytes;
    size_t size;
};

struct sampler_options {
    uint64_t seed;

    float temperature;      /* 0.8. 0 or less: the likeliest token; only bias, penalties and DRY apply then */
    float dynamic_range;    /* 0: off. The temperature goes from temperature - range to + range with the entropy */
    float dynamic_exponent; /* 1 */
    uint32_t top_k;         /* 40. 0: off. The k likeliest */
    float top_p;            /* 0.95. 1: off. The likeliest that reach this probability together */
    float min_p;            /* 0.05. 0: off. Those at least min_p times as likely as the likeliest */
    float typical_p;        /* 1: off. Those whose surprise is nearest to the entropy (Meister et al., 2022) */
    float top_n_sigma;      /* 0: off. Logits within n standard deviations of the best (Tang et al., 2024) */
    float xtc_probability;  /* 0: off. Chance to drop all tokens above the threshold but the least likely of them */
    float xtc_threshold;    /* 0.1 */

    float repeat_penalty;    /* 1: off. Divides positive and multiplies negative logits of tokens seen */
    float frequency_penalty; /* 0: off. Subtracted from a logit for each time its token appeared */
    float presence_penalty;  /* 0: off. Subtracted once if it appeared at all */
    int32_t repeat_last_n;   /* 64. How many last tokens count; 0: none, -1: all */

    float dry_multiplier;            /* 0: off. A token that would lengthen a repetition of length n by one loses */
    float dry_base;                  /* 1.75   multiplier * base ^ (n - allowed length) */
    uint32_t dry_allowed_length;     /* 2 */
    int32_t dry_last_n;              /* -1: all */
    const char *const *dry_breakers; /* texts that a repetition does not cross; "\n", ":", "\"", "*" */
    size_t dry_breaker_count;

    uint32_t mirostat;  /* 0: off, 2: version 2 instead of all truncation (Basu et al., 2021) */
    float mirostat_tau; /* 5: the surprise aimed at, in bits */
    float mirostat_eta; /* 0.1: how fast it is corrected */

    const struct logit_bias *biases;
    size_t bias_count;

    enum sampler_step steps[SAMPLER_STEP_COUNT]; /* in this order; steps that are not listed are not done */
    size_t step_count;

    const struct token_piece *pieces; /* of every token, for dry_breakers; NULL: there are no breakers */
};

void sampler_default_options(struct sampler_options *options);

/* Sets the steps from names with ";" between: penalties, dry, top_n_sigma, top_k, typ_p, top_p, min_p, xtc,
 * temperature. */
hypura_status sampler_parse_steps(struct sampler_options *options, const char *names, hypura_error *error);

/* What may come next, besides the logits: a grammar. mask sets the bits (token % 32 of word token / 32) of the tokens
 * that are allowed; it is asked only when the token that was drawn is not. accept is told what was chosen. */
struct token_constraint {
    bool (*allows)(void *context, int32_t token);
    hypura_status (*mask)(void *context, uint32_t *bits, hypura_error *error);
    hypura_status (*accept)(void *context, int32_t token, hypura_error *error);
    void *context;
};

struct sampler;

/* vocabulary: how many logits there are. Settings that make no sense are refused by name. */
hypura_status sampler_create(struct sampler **out, const struct sampler_options *options, size_t vocabulary,
                             hypura_error *error);
void sampler_destroy(struct sampler *sampler);

/* Back to the state after sampler_create; the constraint is forgotten. */
void sampler_reset(struct sampler *sampler);

/* NULL removes it. */
void sampler_set_constraint(struct sampler *sampler, const struct token_constraint *constraint);

/* Chooses the next token and notes it, as sampler_accept does. logits: [vocabulary], not changed; NaN counts as
 * impossible. HYPURA_ERROR_ARGUMENT when no token is possible. */
hypura_status sampler_sample(struct sampler *sampler, const float *logits, int32_t *token, hypura_error *error);

/* Notes a token that was not drawn here, such as those of the prompt, for the penalties and DRY. */
void sampler_accept(struct sampler *sampler, int32_t token);

struct token_logprob {
    int32_t token;
    float logprob; /* natural logarithm */
};

/* The log-probabilities that a model's logits say, before any setting: of one token (the result), and the count
 * likeliest, best first, into top. */
float logits_logprobs(const float *logits, size_t vocabulary, int32_t token, struct token_logprob *top, size_t count);

#endif
