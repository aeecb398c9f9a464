/* How the next token is chosen. The same settings, seed and prompt give the same text, whatever other sessions do.
 *
 *     hypura_sampling sampling = {.struct_size = sizeof sampling};
 *     hypura_default_sampling(&sampling);
 *     sampling.temperature = 0;
 */
#ifndef HYPURA_API_SAMPLING_H
#define HYPURA_API_SAMPLING_H

#include <hypura/export.h>

HYPURA_BEGIN

typedef struct hypura_logit_bias {
    int32_t token;
    float bias; /* added to its logit; -INFINITY bans it */
} hypura_logit_bias;

/* Each comment begins with the default. */
typedef struct hypura_sampling {
    size_t struct_size;
    uint64_t seed;          /* 0 */
    float temperature;      /* 0.8; 0: the likeliest token */
    float dynamic_range;    /* 0: off. The temperature moves by up to this much with the entropy */
    float dynamic_exponent; /* 1: how fast it moves */
    uint32_t top_k;         /* 40; 0: all. Only the k likeliest tokens */
    float top_p;            /* 0.95; 1: off. Only the likeliest that together reach this probability */
    float min_p;            /* 0.05; 0: off. Only tokens at least this many times as likely as the likeliest */
    float typical_p;        /* 1: off. Only tokens of typical surprise */
    float top_n_sigma;      /* 0: off. Only logits within this many standard deviations of the best */
    float xtc_probability;  /* 0: off. The chance of leaving out the likeliest choices */
    float xtc_threshold;    /* 0.1: how likely a token must be to count as such */

    float repeat_penalty;       /* 1: off. Makes tokens that have appeared less likely */
    float frequency_penalty;    /* 0: subtracted from a logit for each time its token appeared */
    float presence_penalty;     /* 0: subtracted once */
    int32_t repeat_last_tokens; /* 64: how far back these look; -1: to the beginning */

    float dry_multiplier;        /* 0: off. Penalizes tokens that would lengthen a repetition */
    float dry_base;              /* 1.75: how the penalty grows with its length */
    uint32_t dry_allowed_tokens; /* 2: repetitions up to this length are free */
    int32_t dry_last_tokens;     /* -1: how far back it looks, to the beginning */
    const char *const
        *dry_breakers; /* [dry_breaker_count]: texts at which repetitions end; NULL: line feed, :, ", * */
    size_t dry_breaker_count;

    uint32_t mirostat;  /* 0: off; 2: aim at a constant surprise instead of cutting off */
    float mirostat_tau; /* 5: that surprise, in bits */
    float mirostat_eta; /* 0.1: how fast it is corrected */

    const hypura_logit_bias *biases; /* [bias_count] */
    size_t bias_count;
    const char *steps; /* the steps in their order: "penalties;dry;top_n_sigma;top_k;typ_p;top_p;min_p;xtc;temperature";
                        * NULL: all, in this order */
} hypura_sampling;

/* Fills in the defaults. Set struct_size first. */
HYPURA_API void hypura_default_sampling(hypura_sampling *sampling);

HYPURA_END
#endif
